//! The roles of messages, and which one was probably meant.

use std::borrow::Cow;

use tinkex::chat::foreign_role;

use super::pairs::{Pairs, items};
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

/// The names of other programs for roles that a chat template has, such as `model`: in data for this template they are
/// roles, and the library is given those that they mean.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct TemplateRoles(Vec<(String, &'static str)>);

impl TemplateRoles {
    /// The roles that a template in Jinja compares with or writes, as texts in quotes.
    pub(super) fn of(template: &str) -> Self {
        let mut roles: Vec<(String, &'static str)> = Vec::new();
        for word in texts(template) {
            if let Some(meant) = foreign_role(word)
                && roles.iter().all(|(known, _)| known != word)
            {
                roles.push((word.to_owned(), meant));
            }
        }
        TemplateRoles(roles)
    }

    /// A line of data with the roles that are meant, and the names that stood for them; `None` if it has no such name.
    pub(crate) fn translated(&self, line: &[u8]) -> Option<(String, Vec<(String, &'static str)>)> {
        if self.0.is_empty() {
            return None;
        }
        let fields = Pairs::of(std::str::from_utf8(line).ok()?).ok()?;
        let mut found = Vec::new();
        let changed: Vec<(&str, Cow<'_, str>)> = fields
            .0
            .iter()
            .map(|(key, raw)| {
                let raw = match Pairs::of(raw) {
                    // Some formats have their messages in an object.
                    Ok(inner) => {
                        let inner: Vec<(&str, Cow<'_, str>)> = inner
                            .0
                            .iter()
                            .map(|(key, raw)| (key.as_str(), self.messages(key, raw, &mut found)))
                            .collect();
                        Cow::Owned(Pairs::text(inner.iter().map(|(key, raw)| (*key, raw.as_ref()))))
                    }
                    Err(_) => self.messages(key, raw, &mut found),
                };
                (key.as_str(), raw)
            })
            .collect();
        let text = || Pairs::text(changed.iter().map(|(key, raw)| (*key, raw.as_ref())));
        (!found.is_empty()).then(|| (text(), found.clone()))
    }

    /// A list of messages with the roles that are meant. Anything else stays as it is.
    fn messages<'a>(&self, key: &str, raw: &'a str, found: &mut Vec<(String, &'static str)>) -> Cow<'a, str> {
        let Some(list) = items(raw).filter(|_| key != "tools") else { return Cow::Borrowed(raw) };
        let mut is_changed = false;
        let list: Vec<Cow<'_, str>> = list
            .into_iter()
            .map(|message| {
                let Ok(mut fields) = Pairs::of(message) else { return Cow::Borrowed(message) };
                let role = fields.get("role").and_then(|raw| serde_json::from_str::<String>(raw).ok());
                let known = role.and_then(|role| self.0.iter().find(|(name, _)| *name == role));
                let Some((name, meant)) = known else { return Cow::Borrowed(message) };
                if found.iter().all(|(it, _)| it != name) {
                    found.push((name.clone(), meant));
                }
                is_changed = true;
                let quoted = format!("\"{meant}\"");
                for (_, raw) in fields.0.iter_mut().filter(|(key, _)| key == "role") {
                    *raw = &quoted;
                }
                Cow::Owned(Pairs::text(fields.0.iter().map(|(key, raw)| (key.as_str(), *raw))))
            })
            .collect();
        if is_changed { Cow::Owned(format!("[{}]", list.join(","))) } else { Cow::Borrowed(raw) }
    }
}

/// A template that is given the roles of the library where it has only the names of other programs for them: it finds its
/// own names in the messages. `None` for a template that needs none of that.
pub(super) fn with_own_names(template: &str) -> Option<String> {
    let words: Vec<&str> = texts(template).collect();
    let mut name = "message.role".to_owned();
    let mut has_own = false;
    for (own, meant) in TemplateRoles::of(template).0 {
        if !words.contains(&meant) {
            name = format!("'{own}' if message.role == '{meant}' else {name}");
            has_own = true;
        }
    }
    has_own.then(|| {
        format!(
            "{{%- set own = namespace(messages=[]) -%}}{{%- for message in messages -%}}{{%- set own.messages = \
             own.messages + [dict(message, role=({name}))] -%}}{{%- endfor -%}}{{%- set messages = own.messages -%}}\
             {template}"
        )
    })
}

/// The texts in quotes that are single words.
fn texts(template: &str) -> impl Iterator<Item = &str> {
    ['\'', '"'].into_iter().flat_map(|quote| {
        let is_word = |text: &&str| !text.is_empty() && text.bytes().all(|it| it.is_ascii_alphanumeric());
        template.split(quote).filter(is_word)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const GEMMA: &str = "{% if message['role'] == 'assistant' %}{% set role = \"model\" %}{% endif %}";

    #[test]
    fn a_template_knows_the_roles_that_it_has_in_quotes() {
        assert_eq!(TemplateRoles::of(GEMMA).0, [("model".to_owned(), "assistant")]);
        assert!(TemplateRoles::of("{{ message.role }}: the model {{ 'a model' }}").0.is_empty());
        assert_eq!(with_own_names(GEMMA), None);
        let own = with_own_names("{% if message.role == 'bot' %}").unwrap_or_default();
        assert!(own.contains("'bot' if message.role == 'assistant' else message.role"), "{own}");
    }

    #[test]
    fn only_the_roles_of_messages_are_translated() {
        let roles = TemplateRoles::of(GEMMA);
        let text = |line: &str| roles.translated(line.as_bytes()).map(|(text, _)| text);
        for (line, expected) in [
            (r#"{"messages":[{"role":"user","content":"model"}]}"#, None),
            (r#"{"messages":[{"role":"bot","content":"x"}]}"#, None),
            (r#"{"messages":[{"content":{"role":"model"}}],"tools":[{"role":"model"}]}"#, None),
            (
                r#"{"n":1.50,"messages":[{"role":"user"},{"role":"model","content":"x"}]}"#,
                Some(r#"{"n":1.50,"messages":[{"role":"user"},{"role":"assistant","content":"x"}]}"#),
            ),
            (
                r#"{"input":{"messages":[{"role":"model"}]}}"#,
                Some(r#"{"input":{"messages":[{"role":"assistant"}]}}"#),
            ),
        ] {
            assert_eq!(text(line).as_deref(), expected, "{line}");
        }
    }
}
