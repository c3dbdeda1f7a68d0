//! Limits of the texts that requests make the engine keep: metadata, names, and reasons. The page
//! [`compat`](crate::docs::compat) lists these limits together with all others.

use std::collections::BTreeMap;

use serde::Serialize;

/// Limit of the bytes of the metadata of one session, model or checkpoint, names and values together. An engine keeps those of
/// thousands of sessions and runs.
const MAX_METADATA: usize = 16 << 10;

/// Limit of the bytes of a name: of a session, a project, a custom loss, and of an idempotency key. It is that of the names of
/// checkpoints.
pub(super) const MAX_NAME: usize = 255;

/// Bytes that are kept of the text with which a client explains the end of its session.
const MAX_DETAIL: usize = 4 << 10;

/// Refuses metadata that are too large.
pub(super) fn check_metadata<V: Serialize>(metadata: &BTreeMap<String, V>) -> Result<(), String> {
    let size = |value: &V| serde_json::to_vec(value).map_or(0, |it| it.len());
    let bytes: usize = metadata.iter().map(|(name, value)| name.len() + size(value)).sum();
    if MAX_METADATA < bytes {
        return Err(format!("user_metadata: has {bytes} bytes; at most {MAX_METADATA} are kept"));
    }
    Ok(())
}

/// Refuses a name that is too long. `path` names the field.
pub(super) fn check_name(path: &str, name: Option<&str>) -> Result<(), String> {
    match name {
        Some(it) if MAX_NAME < it.len() => {
            Err(format!("{path}: has {} bytes; the limit is {MAX_NAME}", it.len()))
        }
        _ => Ok(()),
    }
}

/// The beginning of a text that is too long. The end of a session is not refused for its text.
pub(super) fn cut_detail(mut text: String) -> String {
    let end = (0..=MAX_DETAIL.min(text.len())).rev().find(|it| text.is_char_boundary(*it));
    text.truncate(end.unwrap_or(0));
    text
}

#[cfg(test)]
#[allow(clippy::expect_used)]
mod tests {
    use super::*;

    #[test]
    fn names_and_values_of_metadata_count_together() {
        let of = |bytes: usize| BTreeMap::from([("name".to_string(), "x".repeat(bytes))]);
        // A text is written in quotes.
        assert_eq!(check_metadata(&of(MAX_METADATA - 6)), Ok(()));
        let error = check_metadata(&of(MAX_METADATA - 5)).expect_err("an error");
        assert_eq!(error, "user_metadata: has 16385 bytes; at most 16384 are kept");
    }

    #[test]
    fn a_long_name_is_refused_by_its_field() {
        assert_eq!(check_name("project_id", None), Ok(()));
        assert_eq!(check_name("project_id", Some(&"x".repeat(MAX_NAME))), Ok(()));
        let error = check_name("project_id", Some(&"é".repeat(128))).expect_err("an error");
        assert_eq!(error, "project_id: has 256 bytes; the limit is 255");
    }

    #[test]
    fn a_long_text_is_cut_between_two_characters() {
        assert_eq!(cut_detail("ok".into()), "ok");
        let text = cut_detail(format!("x{}", "é".repeat(MAX_DETAIL)));
        assert_eq!(text.len(), MAX_DETAIL - 1);
    }
}
