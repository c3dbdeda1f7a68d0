//! Compares the header with the code: from `tinkex.h` the test writes `agree.rs`, with which the library compiles only if
//! each function has the type of its prototype, each constant the value of the header, and the header is the one from
//! which `agree.rs` was written.

#![allow(clippy::unwrap_used)]

use std::fmt::Write;
use std::path::{Path, PathBuf};

const HEADER: &str = include_str!("tinkex.h");

/// A prototype: result, name, and the arguments' types.
struct Prototype {
    result: String,
    name: String,
    arguments: Vec<String>,
}

/// The header without comments and preprocessor lines.
fn declarations() -> String {
    let (mut text, mut rest) = (String::new(), HEADER);
    while let Some((before, comment)) = rest.split_once("/*") {
        text.push_str(before);
        rest = comment.split_once("*/").unwrap().1;
    }
    text.push_str(rest);
    text.lines()
        .filter(|line| !line.trim_start().starts_with('#'))
        .fold(String::new(), |text, line| text + line.trim() + " ")
}

fn prototypes() -> Vec<Prototype> {
    let text = declarations();
    let declared = text.split("TINKEX_API ").skip(1).map(|it| it.split_once(");").unwrap().0);
    declared
        .map(|declared| {
            let (head, arguments) = declared.split_once('(').unwrap();
            let at = head.rfind("tinkex_").unwrap();
            let arguments = arguments.split(',').map(str::trim).filter(|it| *it != "void");
            let arguments = arguments
                .map(|argument| {
                    let name = argument.rfind(|c: char| !c.is_alphanumeric() && c != '_').unwrap() + 1;
                    rust_type(&argument[..name])
                })
                .collect();
            Prototype { result: rust_type(&head[..at]), name: head[at..].to_string(), arguments }
        })
        .collect()
}

/// The Rust type of a C type such as `const tinkex_batch *`.
fn rust_type(c: &str) -> String {
    let spaced = c.replace('*', " * ");
    let mut words = spaced.split_whitespace().peekable();
    let mut is_const = words.next_if_eq(&"const").is_some();
    let base = words.next().unwrap();
    let mut rust = match base {
        "int32_t" | "tinkex_code" => "i32",
        "int64_t" => "i64",
        "uint32_t" => "u32",
        "uint64_t" => "u64",
        "size_t" => "usize",
        "double" => "f64",
        "float" => "f32",
        "bool" => "bool",
        "char" => "c_char",
        "void" => "c_void",
        name if name.starts_with("tinkex_") => name,
        other => panic!("unknown type {other} in {c:?}"),
    }
    .to_string();
    while let Some(word) = words.next() {
        assert_eq!(word, "*", "{c:?}");
        rust = format!("*{} {rust}", if is_const { "const" } else { "mut" });
        is_const = words.next_if_eq(&"const").is_some();
    }
    rust
}

/// The constants of the header's enums.
fn constants() -> Vec<(String, i64)> {
    let text = declarations();
    let bodies = text.split("enum {").skip(1).map(|it| it.split_once('}').unwrap().0);
    let entries = bodies.flat_map(|body| body.split(','));
    entries
        .map(|entry| {
            let (name, value) = entry.split_once('=').unwrap();
            (name.trim().to_string(), value.trim().parse().unwrap())
        })
        .collect()
}

/// The text of `agree.rs`.
fn agreement() -> String {
    let mut text = String::from(
        "//! Generated from `tinkex.h` by the test `ffi::header`: does not compile if the header and the code disagree.\n\n\
         use std::ffi::{c_char, c_void};\n\nuse super::*;\n\n",
    );
    // The test itself is built without this line, so that it can write the file anew.
    writeln!(
        text,
        "#[cfg(not(test))]\nconst _: () = assert!(\n    library::fingerprint(include_bytes!(\"tinkex.h\")) == {:#x},\n    \
         \"tinkex.h was changed: run `TINKEX_WRITE=1 cargo test --features ffi --lib ffi::header`\",\n);",
        super::library::fingerprint(HEADER.as_bytes())
    )
    .unwrap();
    for Prototype { result, name, arguments } in prototypes() {
        let arrow = if result == "c_void" { String::new() } else { format!(" -> {result}") };
        let arguments = arguments.join(", ");
        writeln!(text, "const _: unsafe extern \"C\" fn({arguments}){arrow} = {}::{name};", room(&name))
            .unwrap();
    }
    for (name, value) in constants() {
        match name.strip_prefix("TINKEX_ERROR_") {
            Some(name) => writeln!(text, "const _: () = assert!(code::{name}.number() == {value});"),
            None if name == "TINKEX_OK" => writeln!(text, "const _: () = assert!(code::OK == {value});"),
            None => {
                let name = name.strip_prefix("TINKEX_").unwrap();
                writeln!(text, "const _: () = assert!(constants::{name} == {value});")
            }
        }
        .unwrap();
    }
    text
}

/// The module in which a function is defined, as a path from `src/ffi`.
fn room(function: &str) -> String {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/ffi");
    let mut files = Vec::new();
    sources(&folder, &mut files);
    let defines = |path: &&PathBuf| {
        let text = std::fs::read_to_string(path).unwrap();
        text.contains(&format!("extern \"C\" fn {function}("))
    };
    let file = files.iter().find(defines);
    let file = file.unwrap_or_else(|| panic!("no file of src/ffi defines {function}"));
    let path = file.strip_prefix(&folder).unwrap().with_extension("");
    let parts: Vec<_> =
        path.iter().map(|part| part.to_str().unwrap()).filter(|part| *part != "mod").collect();
    parts.join("::")
}

/// Collects the source files that may define functions.
fn sources(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, files);
        } else if path.extension().is_some_and(|it| it == "rs")
            && !path.ends_with("agree.rs")
            && !path.ends_with("header.rs")
        {
            files.push(path);
        }
    }
}

/// Compares a file with its expected text, or writes it if `TINKEX_WRITE` is set.
fn compare(name: &str, expected: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/ffi").join(name);
    if std::env::var_os("TINKEX_WRITE").is_some() {
        std::fs::write(&path, expected).unwrap();
    }
    let found = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        found == expected,
        "{name} does not agree with tinkex.h: run `TINKEX_WRITE=1 cargo test --features ffi --lib ffi::header`"
    );
}

#[test]
fn the_compared_types_are_those_of_the_header() {
    compare("agree.rs", &agreement());
}

#[test]
fn the_list_of_symbols_is_that_of_the_header() {
    let names: Vec<_> = prototypes().into_iter().map(|it| it.name + "\n").collect();
    compare("symbols-0.1.txt", &names.concat());
}

#[test]
fn the_version_of_the_header_is_that_of_the_package() {
    for (part, value) in [
        ("MAJOR", env!("CARGO_PKG_VERSION_MAJOR")),
        ("MINOR", env!("CARGO_PKG_VERSION_MINOR")),
        ("PATCH", env!("CARGO_PKG_VERSION_PATCH")),
    ] {
        assert!(HEADER.contains(&format!("#define TINKEX_VERSION_{part} {value}\n")), "{part}");
    }
}
