//! Checks the table in `src/_docs/findings.md`. A row names a finding (a fault that was found in another client), the
//! mechanism that prevents this fault here, and tests of the mechanism. Each finding has one row, and each named test
//! exists. For each of these tests, `tests/mutants` has a patch that removes the mechanism from the sources, so that
//! the test fails.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// Ids of the findings, which are faults of another client: `000` to `004` are from five audits of that client, `N`
/// from reading its code.
const FINDINGS: &str = "\
    000-A 000-B 000-C 000-D 000-E 000-F 000-G \
    001-1 001-2 001-3 001-4 001-5 001-6 001-7 001-8 001-9 001-10 001-T \
    002-1 002-2 002-3 002-4 002-5 \
    003-V1 003-V2 003-V3 003-V4 003-D1 003-D2 003-D3 003-D4 003-D5 003-D6 003-D7 \
    003-M1 003-M2 003-M3 003-M4 003-M5 003-M6 003-F1 003-F2 003-F3 003-F4 003-F5 003-F6 003-F7 \
    004-1 004-2 004-3a 004-3b 004-4 004-5 004-6 004-7 004-8 004-9 \
    N-01 N-02 N-02b N-03 N-04 N-05 N-06 N-07 N-08 N-09 N-10 N-11 N-12 N-13 N-14 N-15 N-16 N-17 N-18 N-19 N-20 \
    N-21 N-22 N-23 N-24 N-25 N-26 N-27 N-28 N-29 N-30 N-31 N-32 N-33 N-34 N-35 N-36 N-37";

/// A row of the table.
struct Row {
    finding: String,
    mechanism: String,
    tests: Vec<String>,
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn rows() -> Vec<Row> {
    let page = std::fs::read_to_string(root().join("src/_docs/findings.md")).unwrap();
    let cells = |line: &str| -> Vec<String> {
        line.trim_matches('|').split('|').map(|it| it.trim().to_string()).collect()
    };
    let rows = page.lines().filter(|it| it.starts_with("| 0") || it.starts_with("| N-")).map(cells);
    rows.map(|row| {
        let [finding, mechanism, tests] = row.try_into().expect("three columns");
        // Each text between backquotes is the path of a test.
        let tests = tests.split('`').skip(1).step_by(2).map(str::to_string).collect();
        Row { finding, mechanism, tests }
    })
    .collect()
}

/// Paths of the files that may contain the module with this path. Not all of these files exist.
fn files(modules: &[&str]) -> Vec<PathBuf> {
    let mut all = vec![root().join("tests/it").join(modules.join("/")).with_extension("rs")];
    let own = modules.strip_suffix(&["tests"]).unwrap_or(modules);
    let path = root().join("src").join(own.join("/"));
    let name = own.last().copied().unwrap_or_default();
    all.push(path.with_extension("rs"));
    all.push(path.join("mod.rs"));
    all.push(path.join("tests.rs"));
    all.push(path.with_file_name(format!("{name}_tests.rs")));
    all
}

fn exists(test: &str) -> bool {
    let mut modules: Vec<&str> = test.split("::").collect();
    let Some(name) = modules.pop() else { return false };
    let signature = format!("fn {name}(");
    let defines = |text: String| {
        let before = text.split_once(&signature).map(|it| it.0.trim_end());
        before.is_some_and(|it| it.ends_with("#[test]"))
    };
    files(&modules).iter().any(|it| std::fs::read_to_string(it).is_ok_and(defines))
}

#[test]
fn every_finding_stands_in_the_table_exactly_once() {
    let mut expected: Vec<&str> = FINDINGS.split_whitespace().collect();
    let rows = rows();
    let mut found: Vec<&str> = rows.iter().map(|it| it.finding.as_str()).collect();
    expected.sort();
    found.sort();
    assert_eq!(found, expected);
}

#[test]
fn every_row_names_a_test_that_exists_or_says_why_there_is_none() {
    for Row { finding, mechanism, tests } in rows() {
        let excused =
            ["Cannot arise", "Not there yet", "No claim"].iter().any(|it| mechanism.starts_with(it));
        assert!(!tests.is_empty() || excused, "{finding} has neither a test nor a reason");
        for test in tests {
            assert!(exists(&test), "{finding} names {test}, which does not exist");
        }
    }
}

/// A patch of `tests/mutants`. It removes one mechanism from the sources.
struct Patch {
    name: String,
    /// Pairs of a finding and a test that fails without the mechanism.
    fails: Vec<(String, String)>,
    /// Pairs of a file and a text in that file that the patch replaces.
    old: Vec<(String, String)>,
}

impl Patch {
    /// Parses a patch as `tests/mutants/run.py` does. An empty line ends a hunk.
    fn read(path: &Path) -> Self {
        let name = path.file_stem().unwrap().to_str().unwrap().to_string();
        let mut patch = Patch { name, fails: Vec::new(), old: Vec::new() };
        let (mut file, mut in_hunk) = (String::new(), false);
        for line in std::fs::read_to_string(path).unwrap().lines() {
            if let Some(row) = line.strip_prefix("Fails: ") {
                let (findings, test) = row.split_once(": ").expect("findings and a test");
                patch.fails.extend(findings.split(' ').map(|it| (it.into(), test.into())));
            } else if let Some(path) = line.strip_prefix("+++ b/") {
                file = path.into();
            } else if line.starts_with("@@ ") {
                patch.old.push((file.clone(), String::from("\n")));
                in_hunk = true;
            } else if let Some(old) = line.strip_prefix([' ', '-']).filter(|_| in_hunk) {
                patch.old.last_mut().unwrap().1.extend([old, "\n"]);
            } else {
                in_hunk &= line.starts_with('+');
            }
        }
        patch
    }

    fn all() -> Vec<Self> {
        let folder = std::fs::read_dir(root().join("tests/mutants")).unwrap();
        let paths = folder.map(|it| it.unwrap().path());
        paths
            .filter(|path| path.extension().is_some_and(|it| it == "patch"))
            .map(|it| Patch::read(&it))
            .collect()
    }
}

#[test]
fn every_test_of_a_row_has_a_patch_that_takes_its_mechanism_out() {
    let named = rows().into_iter().flat_map(|row| {
        let Row { finding, tests, .. } = row;
        tests.into_iter().map(move |it| (finding.clone(), it))
    });
    let named: BTreeSet<_> = named.collect();
    let patched: BTreeSet<_> = Patch::all().into_iter().flat_map(|it| it.fails).collect();
    let without: Vec<_> = named.difference(&patched).collect();
    assert!(without.is_empty(), "no patch in tests/mutants: {without:#?}");
    let unnamed: Vec<_> = patched.difference(&named).collect();
    assert!(unnamed.is_empty(), "a patch for what the table does not name: {unnamed:#?}");
}

#[test]
fn every_patch_still_fits_the_code() {
    for Patch { name, fails, old } in Patch::all() {
        assert!(!fails.is_empty() && !old.is_empty(), "{name}.patch has no hunk or no test");
        for (file, text) in old {
            let source = std::fs::read_to_string(root().join(&file)).unwrap_or_default();
            let n = format!("\n{source}").matches(&text).count();
            assert_eq!(
                n, 1,
                "{name}.patch: this text must occur once in {file}, not {n} times; see tests/mutants/run.py:{text}"
            );
        }
    }
}

/// Features of which a row may say that they are "not there yet". The second text is a part of a name: if the name of a
/// public item contains this part, the feature does exist, and the row is wrong.
const ABSENT: [(&str, &str); 2] = [("streaming", "stream"), ("uploads of files", "upload")];

/// Appends the names of all public items of the crate to `names`, without those of the engine (`src/local`).
fn public_names(folder: &Path, names: &mut String) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() && !path.ends_with("src/local") {
            public_names(&path, names);
        } else if path.extension().is_some_and(|it| it == "rs") {
            let text = std::fs::read_to_string(&path).unwrap();
            let public = text.lines().filter_map(|it| it.trim_start().strip_prefix("pub "));
            for line in public.filter(|it| !it.starts_with("use ")) {
                let end = line.find(['(', '{', ';', ':']).unwrap_or(line.len());
                *names += &line[..end].to_lowercase();
                names.push('\n');
            }
        }
    }
}

#[test]
fn nothing_that_exists_is_said_to_be_missing() {
    let mut names = String::new();
    public_names(&root().join("src"), &mut names);
    // `TokenStream` decodes tokens that are there already; the streaming of an answer is another thing.
    let names = names.replace("tokenstream", "");
    for Row { finding, mechanism, .. } in rows() {
        assert!(
            !mechanism.contains("not there yet"),
            "{finding}: write \"Not there yet: \" at the beginning of the text"
        );
        let Some(feature) = mechanism.strip_prefix("Not there yet: ").map(|it| it.trim_end_matches('.'))
        else {
            continue;
        };
        let exists = match ABSENT.iter().find(|it| it.0 == feature) {
            Some((_, part)) => names.lines().any(|it| it.contains(part)),
            None => panic!("{finding}: add {feature:?} to `ABSENT`"),
        };
        assert!(!exists, "{finding} says that {feature} is missing, but it exists");
    }
}
