//! The table of findings is complete, and every test that it names exists.

use std::path::{Path, PathBuf};

/// Every finding of the audits of another client: those of five documents, then those found while reading its code.
const FINDINGS: &str = "\
    000-A 000-B 000-C 000-D 000-E 000-F 000-G \
    001-1 001-2 001-3 001-4 001-5 001-6 001-7 001-8 001-9 001-10 001-T \
    002-1 002-2 002-3 002-4 002-5 \
    003-V1 003-V2 003-V3 003-V4 003-D1 003-D2 003-D3 003-D4 003-D5 003-D6 003-D7 \
    003-M1 003-M2 003-M3 003-M4 003-M5 003-M6 003-F1 003-F2 003-F3 003-F4 003-F5 003-F6 003-F7 \
    004-1 004-2 004-3a 004-3b 004-4 004-5 004-6 004-7 004-8 004-9 \
    N-01 N-02 N-02b N-03 N-04 N-05 N-06 N-07 N-08 N-09 N-10 N-11 N-12 N-13 N-14 N-15 N-16 N-17 N-18 N-19 N-20 \
    N-21 N-22 N-23 N-24 N-25 N-26 N-27 N-28 N-29 N-30 N-31 N-32 N-33 N-34 N-35 N-36 N-37";

/// One row: the finding, the mechanism, the tests.
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
        // What stands between backquotes is the path of a test.
        let tests = tests.split('`').skip(1).step_by(2).map(str::to_string).collect();
        Row { finding, mechanism, tests }
    })
    .collect()
}

/// The files in which the module of a test may lie.
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
