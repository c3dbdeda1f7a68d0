//! A strict reader of the markup that pages are written in: every element is closed in order, attributes are quoted, and
//! texts have no bare characters of markup.

/// Elements without contents.
const VOID: [&str; 3] = ["meta", "br", "hr"];
/// Elements whose contents are no markup.
const RAW: [&str; 2] = ["style", "script"];

/// Says what is wrong with a document.
pub(crate) fn check(page: &str) -> Result<(), String> {
    let mut rest = page.strip_prefix("<!DOCTYPE html>").ok_or("no document type")?;
    let mut open: Vec<&str> = Vec::new();
    while !rest.is_empty() {
        let Some(start) = rest.find('<') else {
            check_text(rest)?;
            break;
        };
        check_text(&rest[..start])?;
        let tag_end =
            end_of_tag(&rest[start..]).ok_or_else(|| format!("no end of {:.60}", &rest[start..]))?;
        let tag = &rest[start + 1..start + tag_end];
        rest = &rest[start + tag_end + 1..];
        if let Some(name) = tag.strip_prefix('/') {
            let expected = open.pop();
            if expected != Some(name) {
                return Err(format!("</{name}> closes {expected:?}"));
            }
            continue;
        }
        let is_closed = tag.ends_with('/');
        let tag = tag.trim_end_matches('/');
        let name = tag.split([' ', '\n']).next().unwrap_or_default();
        if name.is_empty() || !name.chars().all(|it| it.is_ascii_alphanumeric()) {
            return Err(format!("<{tag:.60}> is no tag"));
        }
        check_attributes(&tag[name.len()..]).map_err(|problem| format!("<{tag:.200}>: {problem}"))?;
        if RAW.contains(&name) {
            let end = rest.find(&format!("</{name}")).ok_or("no end of a raw element")?;
            rest = &rest[end..];
        }
        if !is_closed && !VOID.contains(&name) {
            open.push(name);
        }
    }
    if open.is_empty() { Ok(()) } else { Err(format!("{open:?} are open at the end")) }
}

/// The place of the `>` outside of quotes.
fn end_of_tag(text: &str) -> Option<usize> {
    let mut in_quotes = false;
    text.char_indices().find_map(|(i, char)| {
        in_quotes ^= char == '"';
        (char == '>' && !in_quotes).then_some(i)
    })
}

fn check_text(text: &str) -> Result<(), String> {
    if text.contains('>') {
        return Err(format!("a bare > in {text:.80}"));
    }
    for (i, _) in text.match_indices('&') {
        let name = text[i + 1..].split(';').next().unwrap_or_default();
        if !["amp", "lt", "gt", "quot", "#39"].contains(&name) {
            return Err(format!("a bare & in {:.80}", &text[i..]));
        }
    }
    match text.chars().find(|it| it.is_control() && !['\n', '\t'].contains(it)) {
        Some(char) => Err(format!("the control character {char:?}")),
        None => Ok(()),
    }
}

/// Names with values in double quotes, or names alone; none twice.
fn check_attributes(mut text: &str) -> Result<(), String> {
    let mut names: Vec<&str> = Vec::new();
    loop {
        text = text.trim_start();
        if text.is_empty() {
            return Ok(());
        }
        let end = text.find([' ', '=']).unwrap_or(text.len());
        let name = &text[..end];
        if name.starts_with("on") || names.contains(&name) {
            return Err(format!("the attribute {name}"));
        }
        names.push(name);
        text = &text[end..];
        if let Some(value) = text.strip_prefix('=') {
            let value = value.strip_prefix('"').ok_or_else(|| format!("{name} has no quotes"))?;
            let end = value.find('"').ok_or_else(|| format!("the value of {name} has no end"))?;
            check_text(&value[..end])?;
            if value[..end].contains('<') {
                return Err(format!("a bare < in {name}"));
            }
            text = &value[end + 1..];
        }
    }
}
