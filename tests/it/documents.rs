//! Checks that `src/_docs/protocol.md`, the description of the protocol, has each section that code, tests and
//! documents cite, and that the table of models in `src/_docs/threads.md` agrees with `tests/model`.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// Largest allowed number of lines of `protocol.md`, which is called the page below.
const MOST_LINES: usize = 700;
/// Smallest expected number of citations. If fewer are found, the search for citations is broken.
const FEWEST_CITATIONS: usize = 150;
/// Number of the last endpoint; the first is 1.
const LAST_ENDPOINT: u32 = 44;

/// A cited section, such as `3.3`, and the number of the endpoint if the citation names one, as `§3.3 #12` does.
#[derive(Debug, PartialEq)]
struct Citation {
    section: String,
    endpoint: Option<u32>,
}

/// Maps the number of each section of the page to its text.
struct Sections(BTreeMap<String, String>);

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &str) -> String {
    std::fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

fn page() -> String {
    read("src/_docs/protocol.md")
}

/// Maps the path of each file that may cite the protocol to its text. Leaves out the page itself and this file.
fn texts() -> BTreeMap<PathBuf, String> {
    let mut texts = BTreeMap::new();
    for part in ["src", "examples", "tests", "benches", "README.md", "CHANGELOG.md"] {
        collect(&root().join(part), &mut texts);
    }
    for path in ["src/_docs/protocol.md", "tests/it/documents.rs"] {
        assert!(texts.remove(&root().join(path)).is_some(), "{path} was not found");
    }
    // Test data, whose texts may contain any character.
    texts.retain(|path, _| !path.starts_with(root().join("tests/golden")));
    texts
}

fn collect(path: &Path, texts: &mut BTreeMap<PathBuf, String>) {
    if let Ok(entries) = std::fs::read_dir(path) {
        entries.flatten().for_each(|it| collect(&it.path(), texts));
    } else if path.extension().is_some_and(|it| it == "rs" || it == "md" || it == "py") {
        texts.insert(path.into(), std::fs::read_to_string(path).unwrap());
    }
}

/// Joins the lines without their comment markers, to find citations that span two lines.
fn joined(text: &str) -> String {
    let lines = text.lines().map(|it| it.trim().trim_start_matches(['/', '!']).trim_start());
    lines.collect::<Vec<_>>().join(" ")
}

/// Splits a text into the number at its start, such as `3.2`, and the rest.
fn number(text: &str) -> Option<(String, &str)> {
    let end = text.find(|it: char| !it.is_ascii_digit() && it != '.').unwrap_or(text.len());
    let number = text[..end].trim_end_matches('.');
    let is_number = number.starts_with(|it: char| it.is_ascii_digit());
    is_number.then(|| (number.to_string(), &text[number.len()..]))
}

/// The citations at the start of a text: `§3.2, §5`, `§1.10 and §1.11`, `§3.3 #12, #13`.
fn list(mut text: &str) -> Vec<Citation> {
    let mut all = Vec::new();
    while let Some((section, rest)) = text.strip_prefix('§').and_then(number) {
        text = rest;
        all.push(Citation { section: section.clone(), endpoint: None });
        let endpoint = |text: &'_ str| -> Option<(String, usize)> {
            let rest = text.strip_prefix(" #").or(text.strip_prefix(", #"))?;
            number(rest).map(|(n, rest)| (n, rest.len()))
        };
        while let Some((n, left)) = endpoint(text) {
            text = &text[text.len() - left..];
            all.push(Citation { section: section.clone(), endpoint: Some(n.parse().unwrap()) });
        }
        text = text.strip_prefix(", ").or(text.strip_prefix(" and ")).unwrap_or(text);
    }
    all
}

/// The citations of a text.
///
/// # Errors
/// A place in the text names the protocol without a section, or a section without the word `PROTOCOL` before it.
fn citations(text: &str) -> Result<Vec<Citation>, String> {
    let text = joined(text);
    let shown = |text: &str| text.chars().take(60).collect::<String>();
    let mut all = Vec::new();
    for (at, word) in text.match_indices("PROTOCOL") {
        let rest = &text[at + word.len()..];
        let found = list(rest.trim_start());
        if found.is_empty() {
            return Err(format!("names no section: PROTOCOL{}", shown(rest)));
        }
        all.extend(found);
    }
    // Sections of RFC 9110 are not sections of the protocol.
    let foreign =
        text.match_indices("RFC 9110 ").flat_map(|(at, name)| list(&text[at + name.len()..])).count();
    let cited = all.iter().filter(|it| it.endpoint.is_none()).count() + foreign;
    if cited == text.matches('§').count() {
        Ok(all)
    } else {
        let stray = text.match_indices('§').find(|(at, _)| {
            let before = &text[..*at];
            !["PROTOCOL ", "RFC 9110 ", ", ", " and "].iter().any(|it| before.ends_with(it))
        });
        let place = stray.map_or(String::new(), |(at, _)| shown(&text[at..]));
        Err(format!("write PROTOCOL before each section: {place}"))
    }
}

/// Number of the section that a heading begins: 3 for `## 3. Title`, 3.2 for `### 3.2 Title`. `None` if the line is not
/// such a heading: it has no number or no title, or it does not have two `#` for 3 and three `#` for 3.2.
fn heading(line: &str) -> Option<String> {
    let title = line.trim_start_matches('#').strip_prefix(' ')?;
    let marks = line.chars().take_while(|it| *it == '#').count();
    let (number, rest) = number(title)?;
    let is_titled = 2 < rest.trim_start_matches('.').len();
    (marks == 2 + number.matches('.').count() && is_titled).then_some(number)
}

impl Sections {
    fn of(page: &str) -> Self {
        let mut sections: BTreeMap<String, String> = BTreeMap::new();
        let mut current = None;
        for line in page.lines() {
            if let Some(number) = heading(line) {
                assert!(!sections.contains_key(&number), "protocol.md describes {number} twice");
                sections.insert(number.clone(), String::new());
                current = Some(number);
            } else if let Some(text) = current.as_ref().and_then(|it| sections.get_mut(it)) {
                *text += line;
                text.push('\n');
            }
        }
        Sections(sections)
    }

    /// Says which cited section or endpoint the page lacks. `None` if it has them.
    fn lacks(&self, citation: &Citation) -> Option<String> {
        let Citation { section, endpoint } = citation;
        let Some(text) = self.0.get(section) else { return Some(format!("has no section {section}")) };
        let n = (*endpoint)?;
        let row = format!("| #{n} |");
        let has_row = text.lines().any(|it| it.starts_with(&row));
        (!has_row).then(|| format!("has no endpoint #{n} in section {section}"))
    }
}

#[test]
fn every_section_of_the_protocol_that_is_cited_is_described() {
    let sections = Sections::of(&page());
    let (mut problems, mut n) = (BTreeSet::new(), 0);
    for (path, text) in texts() {
        let path = path.strip_prefix(root()).unwrap().display().to_string();
        match citations(&text) {
            Ok(all) => {
                n += all.len();
                let missing = all.iter().filter_map(|it| sections.lacks(it));
                problems.extend(missing.map(|it| format!("{path}: protocol.md {it}")));
            }
            Err(problem) => drop(problems.insert(format!("{path}: {problem}"))),
        }
    }
    assert!(problems.is_empty(), "{}", Vec::from_iter(problems).join("\n"));
    assert!(FEWEST_CITATIONS <= n, "only {n} citations were found");
}

#[test]
fn every_section_with_a_row_in_compat_is_described() {
    let sections = Sections::of(&page());
    let compat = read("src/_docs/compat.md");
    let behaviours = compat.split("\n## Behaviours").nth(1).expect("the part about behaviours");
    let behaviours = behaviours.split("\n#").next().unwrap_or_default();
    let rows = behaviours.lines().filter_map(|it| number(it.strip_prefix("| ")?));
    let numbers: Vec<String> = rows.map(|it| it.0).collect();
    assert!(50 < numbers.len(), "only {} rows were found", numbers.len());
    for section in numbers {
        assert!(sections.0.contains_key(&section), "protocol.md has no section {section}");
    }
}

#[test]
fn the_page_of_the_protocol_has_700_lines_at_most_and_each_endpoint_once() {
    let page = page();
    let n_lines = page.lines().count();
    assert!(n_lines <= MOST_LINES, "protocol.md has {n_lines} lines");
    let rows = page.lines().filter_map(|it| number(it.strip_prefix("| #")?));
    let mut endpoints: Vec<u32> = rows.map(|it| it.0.parse().unwrap()).collect();
    endpoints.sort();
    assert_eq!(endpoints, Vec::from_iter(1..=LAST_ENDPOINT));
    for outside in ["/work", "../", "shared/"] {
        assert!(!page.contains(outside), "protocol.md names {outside}, which is not in the repository");
    }
    let sections = Sections::of(&page);
    for section in page.match_indices('§').filter_map(|(at, mark)| number(&page[at + mark.len()..])) {
        assert!(sections.0.contains_key(&section.0), "protocol.md refers to {}, which it lacks", section.0);
    }
}

#[test]
fn citations_are_found_in_all_their_forms() {
    let of = |text: &str| -> Vec<(String, Option<u32>)> {
        citations(text).unwrap().into_iter().map(|it| (it.section, it.endpoint)).collect()
    };
    let plain = |all: &[&str]| all.iter().map(|it| (it.to_string(), None)).collect::<Vec<_>>();
    assert_eq!(of("(PROTOCOL §3.2 and §5)."), plain(&["3.2", "5"]));
    assert_eq!(of("PROTOCOL §1.10, §1.13, §4.3, with"), plain(&["1.10", "1.13", "4.3"]));
    assert_eq!(of("of PROTOCOL\n    /// §1.11 leaves; RFC 9110 §5.1, §5.5."), plain(&["1.11"]));
    assert_eq!(of("x PROTOCOL §5. Y"), plain(&["5"]));
    let endpoints = vec![("3.3".into(), None), ("3.3".into(), Some(12)), ("3.3".into(), Some(13))];
    assert_eq!(of("(PROTOCOL §3.3\n//! #12, #13)"), endpoints);
    for wrong in ["PROTOCOL 3.2", "see §3.2", "the PROTOCOL", "PROTOCOL §1 or §2", "PROTOCOL §1–§2"] {
        assert!(citations(wrong).is_err(), "{wrong}");
    }
}

/// Reads the text of a file of `tests/model`, whose models are functions that a model checker runs. Maps the name of
/// each model to the faults with which it must fail: those in calls such as `notices(Fault::Barges, model)`.
fn detected_faults(text: &str) -> BTreeMap<String, BTreeSet<String>> {
    let mut found: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for call in text.split("notice").skip(1) {
        let Some((arguments, _)) = call.split_once(");") else { continue };
        let Some((_, rest)) = arguments.split_once("Fault::") else { continue };
        let mut names = rest.split(',').map(str::trim);
        let fault = names.next().unwrap().to_string();
        for model in names {
            found.entry(model.into()).or_default().insert(fault.clone());
        }
    }
    found
}

#[test]
fn the_table_of_models_lists_each_fault_that_a_model_detects_and_no_other() {
    let table = read("src/_docs/threads.md");
    let rows = table.lines().filter(|line| line.starts_with("| `") && line.matches(" | ").count() == 2);
    let mut n_faults = 0;
    for row in rows.filter(|row| row.split('|').nth(1).is_some_and(|cell| cell.contains("::"))) {
        let cells: Vec<_> = row.split(" | ").map(|cell| cell.trim_matches(['|', ' '])).collect();
        let (file, model) = cells[0].trim_matches('`').split_once("::").unwrap();
        let path = root().join(format!("tests/model/{file}.rs"));
        let Ok(text) = std::fs::read_to_string(path) else { continue };
        assert!(text.contains(&format!("fn {model}()")), "{file}::{model} is not a model");
        let listed: BTreeSet<_> = cells[2].split('`').skip(1).step_by(2).map(str::to_string).collect();
        assert_eq!(listed, detected_faults(&text).remove(model).unwrap_or_default(), "{file}::{model}");
        n_faults += listed.len();
    }
    assert!(30 <= n_faults, "the table was not found: {n_faults} faults");
}
