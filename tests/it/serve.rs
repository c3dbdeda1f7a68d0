//! The program `examples/serve.rs`: its arguments, its exit status, and the removal of its temporary folder.

use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use crate::util::eventually;

/// Returns the path of the built example. `cargo test` builds examples; `cargo test --test it` does not.
fn program() -> PathBuf {
    let test = std::env::current_exe().unwrap();
    let target = test.parent().and_then(Path::parent).expect("a folder");
    let program = target.join("examples").join("serve").with_extension(std::env::consts::EXE_EXTENSION);
    assert!(
        program.exists(),
        "{} is missing: run `cargo build --all-features --examples`",
        program.display()
    );
    program
}

fn run(program: &Path, arguments: &[&str]) -> Output {
    Command::new(program).args(arguments).stdin(Stdio::null()).output().unwrap()
}

#[test]
fn help_is_printed_and_a_wrong_argument_is_named_without_debug_text() {
    let program = program();
    for help in ["--help", "-h"] {
        let output = run(&program, &["8402", help]);
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(output.status.success() && text.contains("Usage: serve [PORT] [--data DIR]"), "{text}");
    }
    for (arguments, expected) in [
        (&["--date"][..], "serve: unknown argument \"--date\"; see --help\n"),
        (&["8402", "8403"], "serve: unknown argument \"8403\"; see --help\n"),
        (&["70000"], "serve: the port \"70000\" is not a number from 0 to 65535; see --help\n"),
        (&["--data"], "serve: --data needs a value; see --help\n"),
        (&["--alias", "x"], "serve: --alias needs NAME=MODEL, not \"x\"; see --help\n"),
    ] {
        let output = run(&program, arguments);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        assert_eq!(String::from_utf8(output.stderr).unwrap(), expected);
    }
}

#[test]
fn a_server_that_cannot_run_says_why_and_exits_with_1() {
    let program = program();
    let output = run(&program, &["--alias", "x=y"]);
    let text = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.starts_with("serve: ") && text.contains("only \"tinkex/nano\" is served here"), "{text}");
    assert!(!text.contains("Error {"), "{text}");
}

#[cfg(unix)]
#[test]
fn a_killed_server_without_a_data_folder_removes_its_temporary_folder() {
    let program = program();
    let temporary = std::env::temp_dir().join(format!("tinkex-serve-test-{}", std::process::id()));
    std::fs::create_dir_all(&temporary).unwrap();
    let mut server = Command::new(program)
        .env("TMPDIR", &temporary)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut output = BufReader::new(server.stdout.take().unwrap());
    let mut line = String::new();
    output.read_line(&mut line).unwrap();
    assert!(line.starts_with("TINKER_BASE_URL=http://127.0.0.1:"), "{line}");
    let folders = || std::fs::read_dir(&temporary).unwrap().count();
    assert_eq!(folders(), 1);
    server.kill().unwrap();
    server.wait().unwrap();
    eventually("the temporary folder is gone", || folders() == 0);
    // The killed program ran the server in a child process, which inherited the output. Wait until this process has
    // ended too, and so has closed the output.
    output.read_to_string(&mut line).unwrap();
    std::fs::remove_dir_all(&temporary).unwrap();
}
