//! Words of commands that a person can paste into a shell.

use super::printable;

/// A word as a shell reads it: as it is if it has nothing that a shell would change.
pub(crate) fn quoted(word: &str) -> String {
    let is_plain = |it: char| it.is_ascii_alphanumeric() || "-_./:=@%+,".contains(it);
    if !word.is_empty() && word.chars().all(is_plain) {
        word.to_owned()
    } else if word.contains(printable::is_control) {
        format!("$'{}'", word.chars().map(escaped).collect::<String>())
    } else {
        in_quotes(word)
    }
}

/// A character between `$'` and `'`.
fn escaped(it: char) -> String {
    match it {
        '\\' => r"\\".into(),
        '\'' => r"\'".into(),
        '\n' => r"\n".into(),
        it if it.is_ascii_control() => format!("\\x{:02x}", u32::from(it)),
        it if printable::is_control(it) => format!("\\u{:04x}", u32::from(it)),
        it => it.into(),
    }
}

/// A word in single quotes, whatever it has.
pub(crate) fn in_quotes(word: &str) -> String {
    format!("'{}'", word.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_quoted_only_if_a_shell_would_change_them() {
        for (word, text) in [
            ("tinker://s:train:0/weights/a", "tinker://s:train:0/weights/a"),
            ("-i", "-i"),
            ("my folder", "'my folder'"),
            ("it's", r"'it'\''s'"),
            ("", "''"),
            ("$HOME", "'$HOME'"),
            ("a\x1b[2Jb\u{9b}", r"$'a\x1b[2Jb\u009b'"),
            ("one\ntwo's", r"$'one\ntwo\'s'"),
        ] {
            assert_eq!(quoted(word), text);
        }
        assert_eq!(in_quotes("a"), "'a'");
    }
}
