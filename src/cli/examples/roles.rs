//! The roles of messages, and which one was probably meant.

use tinkex::chat::foreign_role;

use crate::similar::is_near;

/// The roles that conversations have everywhere. A format may have others.
const ROLES: [&str; 5] = ["system", "user", "assistant", "tool", "developer"];

/// Names that may be roles of a format, and otherwise mean these.
const AMBIGUOUS: [(&str, &str); 5] = [
    ("response", "assistant"),
    ("customer", "user"),
    ("prompter", "user"),
    ("question", "user"),
    ("function", "tool"),
];

/// The role that was certainly meant by one that messages must not have: the name of another program, or a slip. The
/// library refuses such names in nearly all formats, so that they are refused before the format is known.
pub(super) fn mistaken(role: &str) -> Option<&'static str> {
    if ROLES.contains(&role) {
        return None;
    }
    foreign_role(role).or_else(|| ROLES.into_iter().find(|meant| is_near(role, meant)))
}

/// Of a role that conversations do not have everywhere, the one that was probably meant, if that is known.
pub(super) fn role_meant(role: &str) -> Option<Option<&'static str>> {
    if ROLES.contains(&role) {
        return None;
    }
    let lower = role.to_lowercase();
    let ambiguous = || AMBIGUOUS.iter().find(|(name, _)| *name == lower).map(|(_, meant)| *meant);
    Some(mistaken(role).or_else(ambiguous))
}
