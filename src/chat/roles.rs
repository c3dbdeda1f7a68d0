//! Which roles a message may have.

use crate::error::{Error, Result};

/// The roles that messages of most formats have.
const KNOWN: [&str; 5] = ["system", "developer", "user", "assistant", "tool"];

/// Names that other programs have for a role. A format would write them as a role of their own, which the model does not
/// know, and nothing of them would be trained as an answer.
const FOREIGN: [(&str, &str); 8] = [
    ("ai", "assistant"),
    ("bot", "assistant"),
    ("chatbot", "assistant"),
    ("chatgpt", "assistant"),
    ("gpt", "assistant"),
    ("human", "user"),
    ("llm", "assistant"),
    ("model", "assistant"),
];

/// The role that another program's name for one means: `human` is `user`, `gpt` is `assistant`. Capital letters do not
/// matter. `None` for any other name, also for that of a role. A renderer refuses these names, unless its format takes any
/// role.
///
/// # Example: correct a role before rendering
/// ```
/// use tinkex::chat::foreign_role;
///
/// assert_eq!(foreign_role("Human"), Some("user"));
/// assert_eq!(foreign_role("user"), None);
/// ```
pub fn foreign_role(name: &str) -> Option<&'static str> {
    let lowercase = name.to_ascii_lowercase();
    FOREIGN.iter().find(|(foreign, _)| *foreign == lowercase).map(|(_, known)| *known)
}

/// Refuses a role that no format has: one with other characters than ASCII letters, digits, `_`, `.` and `-`, one that
/// differs from a known role only by capital letters, and, unless `takes_any`, the name of another program for one.
pub(super) fn check_role(path: &str, role: &str, takes_any: bool) -> Result<()> {
    let is_name = |letter: char| letter.is_ascii_alphanumeric() || "_.-".contains(letter);
    if role.is_empty() || !role.chars().all(is_name) {
        let problem = format!("is {role:?}; a role has ASCII letters, digits, `_`, `.` and `-` only");
        return Err(Error::invalid(path, problem));
    }
    let lowercase = role.to_ascii_lowercase();
    let foreign = foreign_role(role).filter(|_| !takes_any);
    let differs = KNOWN.into_iter().find(|known| *known == lowercase && *known != role);
    match foreign.or(differs) {
        Some(known) => Err(Error::invalid(path, format!("{role:?} is not a role; write {known:?}"))),
        None => Ok(()),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn roles_that_look_like_others_are_refused_with_the_right_one() {
        for (role, takes_any, expected) in [
            ("user", false, None),
            ("assistant", false, None),
            ("ipython", false, None),
            ("tool_2.b-c", false, None),
            ("Assistant", false, Some("write \"assistant\"")),
            ("USER", true, Some("write \"user\"")),
            ("human", false, Some("write \"user\"")),
            ("Human", true, None),
            ("gpt", false, Some("write \"assistant\"")),
            ("Model", false, Some("write \"assistant\"")),
            ("", true, Some("ASCII letters")),
            ("two words", true, Some("ASCII letters")),
            ("user<|im_end|>", true, Some("is \"user<|im_end|>\"; a role has ASCII letters")),
            ("Ärztin", true, Some("ASCII letters")),
        ] {
            let found = check_role("messages[0].role", role, takes_any).err().map(|error| error.to_string());
            let found = found.as_deref();
            assert!(
                found.is_some() == expected.is_some()
                    && expected.is_none_or(|part| found.is_some_and(|text| text.contains(part))),
                "{role:?}: {found:?}"
            );
        }
    }
}
