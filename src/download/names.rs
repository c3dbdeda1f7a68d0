//! The names of files that a server or an archive states: which of them may become files.

use std::collections::BTreeMap;

/// Longest path, in bytes.
const LONGEST_PATH: usize = 1024;
/// Longest part of a path, in bytes: that of usual file systems.
const LONGEST_PART: usize = 255;
/// Largest number of folders around a file.
const DEEPEST: usize = 32;

/// Checks a relative path with `/` between its parts, and returns it without `.` at its start and `/` at its end. `None`
/// stands for the folder itself.
///
/// # Errors
/// The problem, as a text that continues the words "the name".
pub(super) fn checked(name: &str) -> Result<Option<String>, String> {
    if LONGEST_PATH < name.len() {
        return Err(format!("is longer than {LONGEST_PATH} bytes"));
    }
    let trimmed = name.strip_suffix('/').unwrap_or(name);
    let relative = if trimmed == "." { "" } else { trimmed.strip_prefix("./").unwrap_or(trimmed) };
    if relative.is_empty() {
        return if name.starts_with('.') { Ok(None) } else { Err("is empty or absolute".into()) };
    }
    let parts: Vec<&str> = relative.split('/').collect();
    if DEEPEST < parts.len() {
        return Err(format!("has more than {DEEPEST} folders"));
    }
    parts.iter().try_for_each(|part| check_part(part))?;
    Ok(Some(relative.into()))
}

fn check_part(part: &str) -> Result<(), String> {
    let is_unfit = |c: &char| {
        c.is_control()
            || matches!(c, '\\' | ':' | '*' | '?' | '"' | '<' | '>' | '|')
            // Marks that change the direction of text, or that nobody sees.
            || matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
    };
    if part.is_empty() {
        return Err("is absolute or has an empty part".into());
    }
    if matches!(part, "." | "..") {
        return Err(format!("leads out of its folder or back to it with {part:?}"));
    }
    if LONGEST_PART < part.len() {
        return Err(format!("has a part that is longer than {LONGEST_PART} bytes"));
    }
    if let Some(c) = part.chars().find(is_unfit) {
        return Err(format!("has the character {c:?}"));
    }
    if part.ends_with(['.', ' ']) {
        return Err("has a part that ends with a dot or a space".into());
    }
    // Windows takes these names for devices, also with an extension.
    let stem = part.split('.').next().unwrap_or_default().trim_end().to_ascii_uppercase();
    let numbered = stem.strip_prefix("COM").or_else(|| stem.strip_prefix("LPT"));
    let is_port = numbered.is_some_and(|it| {
        let mut chars = it.chars();
        matches!((chars.next(), chars.next()), (Some('0'..='9' | '¹' | '²' | '³'), None))
    });
    if is_port || matches!(stem.as_str(), "CON" | "PRN" | "AUX" | "NUL" | "CONIN$" | "CONOUT$") {
        return Err("is that of a device on Windows".into());
    }
    Ok(())
}

/// The names of one folder so far. File systems that ignore case must not merge two of them.
#[derive(Debug, Default)]
pub(super) struct Names {
    /// By name in lower case: whether it is a folder, and whether it was stated itself or only as a part of another.
    known: BTreeMap<String, Known>,
}

#[derive(Debug)]
struct Known {
    name: String,
    is_folder: bool,
    is_stated: bool,
}

impl Names {
    /// Adds a name that [`checked`] returned.
    ///
    /// # Errors
    /// The problem, as a text that continues the words "the name".
    pub(super) fn add(&mut self, name: &str, is_folder: bool) -> Result<(), String> {
        for (end, _) in name.match_indices('/') {
            self.put(&name[..end], true, false)?;
        }
        self.put(name, is_folder, true)
    }

    fn put(&mut self, name: &str, is_folder: bool, is_stated: bool) -> Result<(), String> {
        let Some(known) = self.known.get_mut(&name.to_lowercase()) else {
            let known = Known { name: name.into(), is_folder, is_stated };
            self.known.insert(name.to_lowercase(), known);
            return Ok(());
        };
        if known.name != name {
            return Err(format!("differs from {:?} only in case", known.name));
        }
        if known.is_folder != is_folder {
            return Err("is both a file and a folder".into());
        }
        if known.is_stated && is_stated {
            return Err("occurs twice".into());
        }
        known.is_stated |= is_stated;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn usual_names_are_taken_as_they_are() {
        for (name, kept) in [
            ("adapter_config.json", Some("adapter_config.json")),
            ("./a/b.safetensors", Some("a/b.safetensors")),
            ("folder/", Some("folder")),
            ("console.txt", Some("console.txt")),
            ("com10", Some("com10")),
            (".hidden", Some(".hidden")),
            ("Größe 1", Some("Größe 1")),
            (".", None),
            ("./", None),
        ] {
            assert_eq!(checked(name).as_ref().map(Option::as_deref), Ok(kept), "{name}");
        }
    }

    #[test]
    fn names_that_lead_elsewhere_or_that_some_system_reads_otherwise_are_refused() {
        let long_part = "x".repeat(256);
        let long = "xx/".repeat(400);
        let deep = "x/".repeat(33);
        for name in [
            "",
            "/",
            "/etc/passwd",
            "..",
            "../x",
            "a/../b",
            "a/./b",
            "a//b",
            "a/..",
            "././x",
            "C:/x",
            "C:x",
            "a\\b",
            "\\\\host\\x",
            "a\nb",
            "a\u{0}b",
            "a\u{1b}[2J",
            "a\u{202e}b",
            "\u{feff}a",
            "nul",
            "NUL.txt",
            "con",
            "Com1",
            "lpt9.tar",
            "COM¹",
            "aux .x",
            "a.",
            "a ",
            "a./b",
            "a*",
            "a?",
            "a|b",
            "<a>",
            &long_part,
            &long,
            &deep,
        ] {
            assert!(checked(name).is_err(), "{name:?}");
        }
    }

    #[test]
    fn names_that_would_meet_on_some_file_system_are_refused() {
        let add = |names: &[(&str, bool)]| {
            let mut known = Names::default();
            names.iter().try_for_each(|(name, is_folder)| known.add(name, *is_folder))
        };
        assert_eq!(add(&[("a/b", false), ("a/c", false), ("a", true), ("b", false)]), Ok(()));
        assert!(add(&[("a", false), ("a", false)]).is_err());
        assert!(add(&[("a", true), ("a", true)]).is_err());
        assert!(add(&[("a", false), ("A", false)]).is_err());
        assert!(add(&[("a/b", false), ("A/c", false)]).is_err());
        assert!(add(&[("a", false), ("a/b", false)]).is_err());
        assert!(add(&[("a/b", false), ("a", false)]).is_err());
    }
}
