//! Words that were probably meant.

/// True if the texts are not the same, but differ only by capitals or by one letter: one more, one less, another one, or one
/// exchanged with its neighbour.
pub(crate) fn is_near(text: &str, wanted: &str) -> bool {
    let (a, b) = (text.to_lowercase(), wanted.to_lowercase());
    text != wanted && (a == b || (4 <= wanted.len() && is_one_edit(&a, &b)))
}

fn is_one_edit(a: &str, b: &str) -> bool {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let start = a.iter().zip(&b).take_while(|(x, y)| x == y).count();
    let most = a.len().min(b.len()) - start;
    let end = a.iter().rev().zip(b.iter().rev()).take(most).take_while(|(x, y)| x == y).count();
    let (a, b) = (&a[start..a.len() - end], &b[start..b.len() - end]);
    match (a, b) {
        ([x, y], [p, q]) => x == q && y == p,
        _ => a.len() <= 1 && b.len() <= 1 && a.len() + b.len() != 0,
    }
}

/// The names that were probably meant: at most three, the best first. A name is `organisation/name`, of which the second part
/// may stand alone.
pub(crate) fn names<'a>(wanted: &str, known: &[&'a str]) -> Vec<&'a str> {
    let tail = |name: &str| name.rsplit('/').next().unwrap_or_default().to_lowercase();
    let own = tail(wanted);
    let rank = |name: &str| {
        let other = tail(name);
        if is_near(wanted, name) || own == other {
            Some(0)
        } else if is_near(&own, &other) {
            Some(1)
        } else if 4 <= own.len() && (other.contains(&own) || 3 <= other.len() && own.contains(&other)) {
            Some(2)
        } else {
            None
        }
    };
    let mut found: Vec<(i32, &str)> = known.iter().filter_map(|name| Some((rank(name)?, *name))).collect();
    found.sort();
    found.into_iter().map(|(_, name)| name).take(3).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_edit_apart() {
        for (a, b, expected) in [
            ("message", "messages", true),
            ("mesasge", "message", true),
            ("Text", "text", true),
            ("text", "test", true),
            ("text", "text", false),
            ("prompt", "completion", false),
            ("ab", "", false),
            ("abcd", "badc", false),
        ] {
            assert_eq!(is_near(a, b), expected, "{a} {b}");
        }
    }

    #[test]
    fn names_that_were_probably_meant_are_found_without_their_organisation_and_with_an_error() {
        let known = ["Qwen/Qwen3-8B", "Qwen/Qwen3-8B-Base", "meta-llama/Llama-3.2-1B", "tinkex/nano"];
        for (wanted, expected) in [
            ("Qwen3-8B", &["Qwen/Qwen3-8B", "Qwen/Qwen3-8B-Base"][..]),
            ("qwen/qwen3-8b", &["Qwen/Qwen3-8B", "Qwen/Qwen3-8B-Base"]),
            ("Qwen/Qwen3-8", &["Qwen/Qwen3-8B", "Qwen/Qwen3-8B-Base"]),
            ("tinkex/nanoo", &["tinkex/nano"]),
            ("Llama-3.2-1B", &["meta-llama/Llama-3.2-1B"]),
            ("gpt", &[]),
        ] {
            assert_eq!(names(wanted, &known), expected, "{wanted}");
        }
    }
}
