//! Command lines for remedies: that of this process with other options, to be pasted.

use super::ending::quoted;

/// An option of the command line.
#[derive(Clone, Copy, Debug)]
pub(super) struct Named {
    long: &'static str,
    short: Option<&'static str>,
    has_value: bool,
}

const fn with_value(long: &'static str) -> Named {
    Named { long, short: None, has_value: true }
}

pub(super) const CONFIG: Named = with_value("--config");
pub(super) const EPOCHS: Named = with_value("--epochs");
pub(super) const MAX_STEPS: Named = with_value("--max-steps");
pub(super) const FROM: Named = with_value("--from");
pub(super) const RESUME: Named = with_value("--resume");
pub(super) const MODEL: Named = Named { short: Some("-m"), ..with_value("--model") };
pub(super) const OUT: Named = Named { short: Some("-o"), ..with_value("--out") };
pub(super) const FORCE_RESUME: Named = Named { has_value: false, ..with_value("--force-resume") };
pub(super) const OVERWRITE: Named = Named { has_value: false, ..with_value("--overwrite") };

/// The command line of this process without some options and with further words.
pub(super) fn command(without: &[Named], with: &[&str]) -> String {
    let words: Vec<String> =
        std::env::args_os().skip(1).map(|it| it.to_string_lossy().into_owned()).collect();
    changed(&words, without, with)
}

fn changed(words: &[String], without: &[Named], with: &[&str]) -> String {
    let end = words.iter().position(|word| word == "--").unwrap_or(words.len());
    let (options, last) = words.split_at(end);
    let mut kept = vec!["tinkex".to_owned()];
    let mut options = options.iter();
    while let Some(word) = options.next() {
        match without.iter().find_map(|option| option.at(word)) {
            Some(Value::Next) => {
                options.next();
            }
            Some(Value::Here) => {}
            None => kept.push(quoted_option(word)),
        }
    }
    kept.extend(with.iter().map(|word| quoted_option(word)));
    kept.extend(last.iter().map(|word| quoted_option(word)));
    kept.join(" ")
}

/// The command line of this process in which `new` stands for `old` as an argument or as the value of an option, and with
/// further words.
pub(crate) fn with_word(old: &str, new: &str, further: &str) -> String {
    let words: Vec<String> =
        std::env::args_os().skip(1).map(|it| it.to_string_lossy().into_owned()).collect();
    exchanged(&words, old, new, further)
}

fn exchanged(words: &[String], old: &str, new: &str, further: &str) -> String {
    let end = words.iter().position(|word| word == "--").unwrap_or(words.len());
    let exchange = |word: &String| {
        // An option and its value may be one word.
        let head = word.strip_suffix(old).filter(|head| {
            head.is_empty() || *head == "-m" || { head.starts_with("--") && head.ends_with('=') }
        });
        let word = head.map_or_else(|| word.clone(), |head| format!("{head}{new}"));
        format!(" {}", quoted_option(&word))
    };
    let (options, last) = words.split_at(end);
    let text = |words: &[String]| words.iter().map(exchange).collect::<String>();
    format!("tinkex{}{further}{}", text(options), text(last))
}

/// Where the value of an option is.
enum Value {
    /// In the same word, or the option has none.
    Here,
    Next,
}

impl Named {
    /// Where the value is, if the word is this option.
    fn at(&self, word: &str) -> Option<Value> {
        if word == self.long || Some(word) == self.short {
            return Some(if self.has_value { Value::Next } else { Value::Here });
        }
        let long = word.strip_prefix(self.long).is_some_and(|rest| rest.starts_with('='));
        let short = || self.short.is_some_and(|short| !word.starts_with("--") && word.starts_with(short));
        (long || short()).then_some(Value::Here)
    }
}

/// A word of this command line, in which one that begins like an option is one.
fn quoted_option(word: &str) -> String {
    if word.starts_with('-') { crate::shell_word::quoted(word) } else { quoted(word) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_removed_in_each_form_and_others_are_added() {
        let of = |line: &[&str], without: &[Named], with: &[&str]| {
            let words: Vec<String> = line.iter().map(|it| (*it).to_owned()).collect();
            changed(&words, without, with)
        };
        for out in [&["-o", "a"][..], &["-oa"], &["--out", "a"], &["--out=a"]] {
            let line = [&["train", "my data.jsonl"], out, &["--overwrite", "--rank=2"]].concat();
            assert_eq!(
                of(&line, &[OUT, OVERWRITE], &["--out", "it's"]),
                r"tinkex train 'my data.jsonl' --rank=2 --out 'it'\''s'"
            );
        }
        assert_eq!(of(&["train", "--out-of", "-m", "x"], &[OUT, MODEL], &[]), "tinkex train --out-of");
        assert_eq!(of(&["train", "--", "-x"], &[], &["--yes"]), "tinkex train --yes -- -x");
    }

    #[test]
    fn a_word_is_exchanged_in_each_form_of_an_option() {
        let of = |line: &[&str]| {
            let words: Vec<String> = line.iter().map(|it| (*it).to_owned()).collect();
            exchanged(&words, "runs/a", "t://x", " --local=e")
        };
        for (form, expected) in [
            (&["-m", "runs/a"][..], "-m t://x"),
            (&["-mruns/a"], "-mt://x"),
            (&["--model=runs/a"], "--model=t://x"),
            (&["runs/a"], "t://x"),
            (&["old-runs/a"], "old-runs/a"),
        ] {
            assert_eq!(of(&[&["sample"], form].concat()), format!("tinkex sample {expected} --local=e"));
        }
        assert_eq!(of(&["sample", "-m", "runs/a", "--", "Hi"]), "tinkex sample -m t://x --local=e -- Hi");
    }
}
