//! Names of checkpoints.

use crate::error::{Error, Result};

/// Length limit in bytes: the limit of file systems and servers for one segment of a path.
const LONGEST: usize = 255;

/// Refuses a name that cannot be the last segment of a path. A server may allow fewer characters (PROTOCOL §6.8).
pub(crate) fn check_name(name: &str) -> Result<()> {
    match problem(name) {
        None => Ok(()),
        Some(problem) => Err(Error::invalid("name", problem)),
    }
}

/// Returns the reason why a text cannot be a segment of a path, if there is one.
pub(super) fn problem(name: &str) -> Option<String> {
    const ADVICE: &str = "use a name such as step-100";
    let is_hidden = |char: &char| char.is_control() || is_invisible(*char);
    let problem = if name.is_empty() {
        "is empty".to_string()
    } else if LONGEST < name.len() {
        return Some(format!("has {} bytes, the limit is {LONGEST}", name.len()));
    } else if name.contains('/') {
        format!("{name:?} contains a slash and is a path, not a name")
    } else if matches!(name, "." | "..") {
        format!("{name:?} is a reference to a folder")
    } else if let Some(hidden) = name.chars().find(is_hidden) {
        format!("{name:?} contains the invisible character {}", hidden.escape_unicode())
    } else if name.trim() != name {
        format!("{name:?} begins or ends with a space")
    } else {
        return None;
    };
    Some(format!("{problem}; {ADVICE}"))
}

/// Line separators, direction marks and zero-width characters: with them, two different names can look the same.
fn is_invisible(char: char) -> bool {
    matches!(char,
        '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}'
        | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_cannot_be_a_path_segment_is_refused_with_the_reason() {
        for name in
            ["x", "step-100", "step_1.5", "a b", "größe", "名前", "...", "100%", "a:b", &"x".repeat(255)]
        {
            check_name(name).expect(name);
        }
        for (name, reason) in [
            ("", "empty"),
            (".", "folder"),
            ("..", "folder"),
            ("a/b", "slash"),
            ("/a", "slash"),
            ("tinker://r/weights/x", "slash"),
            ("a\nb", "\\u{a}"),
            ("a\0", "\\u{0}"),
            ("a\u{1b}[2J", "\\u{1b}"),
            ("a\u{85}", "\\u{85}"),
            ("a\u{202e}b", "\\u{202e}"),
            ("a\u{200b}", "\\u{200b}"),
            (" a", "space"),
            ("a\u{a0}", "space"),
            (&"x".repeat(256), "256 bytes"),
            // The limit counts bytes.
            (&"ü".repeat(128), "256 bytes"),
        ] {
            let error = check_name(name).expect_err(name);
            let violation = error.violation().expect("a path");
            assert!(violation.path == "name" && violation.problem.contains(reason), "{name:?}: {error}");
        }
    }
}
