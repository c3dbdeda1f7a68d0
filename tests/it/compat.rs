//! Checks `src/_docs/compat.md`, the list of the parts of the protocol that this crate supports: it must be complete,
//! and the files and methods that it names must exist.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn page() -> String {
    std::fs::read_to_string(root().join("src/_docs/compat.md")).unwrap()
}

fn source(path: &str) -> String {
    std::fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// All files below a folder, or only `path` itself if it is not a folder.
fn files(path: PathBuf) -> Vec<PathBuf> {
    match std::fs::read_dir(&path) {
        Ok(entries) => entries.flatten().flat_map(|entry| files(entry.path())).collect(),
        Err(_) => vec![path],
    }
}

/// The texts between backquotes.
fn quoted(text: &str) -> impl Iterator<Item = &str> {
    text.split('`').skip(1).step_by(2)
}

/// The files and folders that define the methods of a public type. `None` if the methods of the type are not checked.
fn sources(owner: &str) -> Option<&'static [&'static str]> {
    Some(match owner {
        "ServiceClient" => &["src/client/service.rs"],
        "ServiceClientBuilder" => &["src/client/builder.rs"],
        "TrainingClient" => &["src/client/training/mod.rs", "src/client/training"],
        "SamplingClient" => &["src/client/sampling/mod.rs", "src/client/sampling"],
        "RestClient" => &["src/client/rest/mod.rs", "src/client/rest", "src/download/mod.rs"],
        "AdminClient" => &["src/client/admin.rs"],
        "Pending" => &["src/pending/mod.rs", "src/pending"],
        _ => return None,
    })
}

#[test]
fn every_endpoint_of_the_protocol_has_exactly_one_row() {
    let page = page();
    let rows = page.lines().filter_map(|it| it.strip_prefix("- [x] ").or(it.strip_prefix("- [ ] ")));
    let numbers: Vec<u32> = rows.filter_map(|it| it.split(' ').next()?.parse().ok()).collect();
    assert_eq!(numbers, (1..=44).collect::<Vec<_>>());
}

#[test]
fn every_method_that_is_named_exists() {
    let page = page();
    let mut n = 0;
    for name in quoted(&page) {
        let Some((owner, method)) = name.split_once("::") else { continue };
        let Some(sources) = sources(owner) else { continue };
        let paths = sources.iter().flat_map(|source| files(root().join(source)));
        let text: String = paths.filter_map(|it| std::fs::read_to_string(it).ok()).collect();
        let exists = ["(", "<"].iter().any(|next| text.contains(&format!("pub fn {method}{next}")));
        assert!(exists, "compat.md names `{name}`, which {sources:?} do not define");
        n += 1;
    }
    assert!(30 < n, "only {n} methods are named");
}

#[test]
fn every_file_that_is_named_exists() {
    let page = page();
    for name in quoted(&page).filter(|it| it.starts_with("src/")) {
        assert!(root().join(name).exists(), "compat.md names `{name}`, which does not exist");
    }
}

/// Maps the name of each type in a source file to the names of its fields. An enum has the fields of all its variants.
fn types(path: &str) -> BTreeMap<String, Vec<String>> {
    let mut all = BTreeMap::new();
    let mut current: Option<(String, Vec<String>)> = None;
    for line in source(path).lines() {
        let item = line.strip_prefix("pub(crate) ").or(line.strip_prefix("pub ")).unwrap_or_default();
        if let Some(rest) = item.strip_prefix("struct ").or(item.strip_prefix("enum ")) {
            let name = rest.split([' ', '<', '(', ';']).next().unwrap_or_default().to_string();
            if line.ends_with('{') {
                current = Some((name, Vec::new()));
            } else {
                all.insert(name, Vec::new());
            }
        } else if line == "}" {
            all.extend(current.take());
        } else if let Some((_, fields)) = &mut current {
            let field = line.trim_start();
            let field = field.strip_prefix("pub(crate) ").or(field.strip_prefix("pub ")).unwrap_or(field);
            let name = field.split_once(": ").map_or("", |it| it.0);
            let is_field = !name.is_empty()
                && name.chars().all(|it| it.is_ascii_lowercase() || it == '_' || it.is_ascii_digit());
            if is_field && field.ends_with(',') {
                fields.push(name.to_string());
            } else if let Some((_, rest)) = field.split_once(" { ") {
                // A variant with its fields on one line.
                let names = rest.trim_end_matches([',', ' ', '}']).split(", ");
                fields.extend(names.filter_map(|it| Some(it.split_once(": ")?.0.to_string())));
            }
        }
    }
    all
}

/// Maps the name of each message that the page must list to the names of its fields.
fn messages() -> BTreeMap<String, Vec<String>> {
    let mut all = BTreeMap::new();
    for file in files(root().join("src/wire/json")) {
        let path = file.strip_prefix(root()).unwrap().to_str().unwrap().to_string();
        let parts = ["Json", "Config", "Target", "Future", "Completion"];
        let is_message = |name: &str| {
            let is_whole = name.ends_with("Request") || name.ends_with("Response");
            is_whole || parts.iter().any(|part| name.ends_with(part))
        };
        all.extend(types(&path).into_iter().filter(|it| is_message(&it.0)));
    }
    all.extend(types("src/wire/tensor.rs").into_iter().filter(|it| it.0 == "TensorJson"));
    for (path, name) in [
        ("src/types/model.rs", "LoraConfig"),
        ("src/types/optim.rs", "AdamParams"),
        ("src/types/session_search.rs", "SessionSearch"),
        ("src/types/session_search.rs", "SessionCursor"),
    ] {
        all.extend(types(path).into_iter().filter(|it| it.0 == name));
    }
    let proto = types("src/wire/proto.rs").into_iter().filter(|it| !it.1.is_empty());
    all.extend(proto.map(|(name, fields)| (format!("proto::{name}"), fields)));
    // Leave out types without fields: the page has nothing to list for them.
    all.retain(|_, fields| !fields.is_empty());
    all
}

/// Parses the page's table of messages. Maps the message name of each row to the fields that the row lists.
fn rows() -> BTreeMap<String, Vec<String>> {
    let page = page();
    let table = page.split("## Messages").nth(1).expect("the section about messages");
    let table = table.split("\n## ").next().unwrap_or_default();
    let mut rows = BTreeMap::new();
    for line in table.lines().filter(|it| it.starts_with("| `")) {
        let mut cells = line.trim_matches('|').split('|');
        let [name, fields] = [cells.next(), cells.next()].map(|it| it.unwrap_or_default());
        let name = quoted(name).next().unwrap_or_default().to_string();
        let earlier = rows.insert(name.clone(), quoted(fields).map(str::to_string).collect());
        assert!(earlier.is_none(), "compat.md has two rows for `{name}`");
    }
    rows
}

#[test]
fn every_field_of_every_message_is_listed_and_no_other() {
    let (messages, rows) = (messages(), rows());
    let list = |fields: &[String]| fields.iter().map(|it| format!("`{it}`")).collect::<Vec<_>>().join(", ");
    let mut problems = Vec::new();
    for (name, fields) in &messages {
        match rows.get(name) {
            None => problems.push(format!("add the row: | `{name}` | {} | |", list(fields))),
            Some(listed) => {
                for field in fields.iter().filter(|it| !listed.contains(it)) {
                    problems.push(format!("the row of `{name}` lacks `{field}`"));
                }
                for field in listed.iter().filter(|it| !fields.contains(it)) {
                    problems.push(format!(
                        "the row of `{name}` lists `{field}`, which the message does not have"
                    ));
                }
            }
        }
    }
    for name in rows.keys().filter(|it| !messages.contains_key(*it)) {
        problems.push(format!("the row of `{name}` does not belong to a message of src/wire"));
    }
    assert!(
        problems.is_empty(),
        "the section \"Messages\" of src/_docs/compat.md:\
{}",
        problems.join(
            "\
"
        )
    );
    assert!(60 < messages.len(), "only {} messages were found", messages.len());
}

#[test]
fn every_flag_that_is_read_has_a_row() {
    let page = page();
    let flags = page.split("## Flags of the server").nth(1).expect("the section about flags");
    let flags: Vec<&str> = quoted(flags.split("\n## ").next().unwrap_or_default()).collect();
    let types = types("src/wire/json/session.rs");
    for flag in types["ClientConfig"].iter().chain(&types["DynamicConfig"]) {
        assert!(flags.contains(&flag.as_str()), "\"Flags of the server\" in compat.md lacks `{flag}`");
    }
}

#[test]
fn every_behaviour_of_the_protocol_has_a_row() {
    let page = page();
    // Two sections need no row here: another test checks section 3 (the endpoints), and section 14 lists open
    // questions.
    let numbered = |section: u32, last: u32| (1..=last).map(move |part| format!("{section}.{part}"));
    let parts = [(1, 13), (2, 3), (4, 6), (5, 2), (6, 8), (8, 4), (9, 12), (15, 2)];
    let whole = [7, 10, 11, 12, 13].map(|it| it.to_string());
    for section in parts.into_iter().flat_map(|it| numbered(it.0, it.1)).chain(whole) {
        let row = page.lines().find_map(|it| it.strip_prefix(&format!("| {section} ")));
        let row = row.unwrap_or_else(|| panic!("\"Behaviours\" in compat.md lacks {section}"));
        let (behaviour, text) = row.split_once(" | ").unwrap_or_default();
        assert!(
            2 < behaviour.len() && 3 < text.trim_end_matches(" |").len(),
            "{section} has an empty row: {row}"
        );
    }
}
