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
        for option in ["--host ADDRESS", "--key-file FILE", "--allow-host NAME", "Nothing is encrypted"] {
            assert!(text.contains(option), "{text}");
        }
    }
    for (arguments, expected) in [
        (&["--date"][..], "serve: unknown argument \"--date\"; see --help\n"),
        (&["8402", "8403"], "serve: unknown argument \"8403\"; see --help\n"),
        (&["70000"], "serve: the port \"70000\" is not a number from 0 to 65535; see --help\n"),
        (&["--data"], "serve: --data needs a value; see --help\n"),
        (&["--host", "localhost"], "serve: --host needs an IP address, not \"localhost\"; see --help\n"),
        (
            &["--host", "0.0.0.0"],
            "serve: --host 0.0.0.0 needs --key-file FILE, because other machines can reach it; see --help\n",
        ),
        (&["--key-file"], "serve: --key-file needs a value; see --help\n"),
        (&["--api-key", "x"], "serve: unknown argument \"--api-key\"; see --help\n"),
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
    for (name, input) in [("nothing", Stdio::null()), ("pipe", Stdio::piped())] {
        kill_a_server(name, input);
    }
}

#[cfg(unix)]
fn kill_a_server(name: &str, input: Stdio) {
    let program = program();
    let temporary = std::env::temp_dir().join(format!("tinkex-serve-test-{name}-{}", std::process::id()));
    std::fs::create_dir_all(&temporary).unwrap();
    let mut server =
        Command::new(program).env("TMPDIR", &temporary).stdin(input).stdout(Stdio::piped()).spawn().unwrap();
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

#[cfg(unix)]
#[test]
fn a_reader_that_is_gone_ends_the_program_without_an_error() {
    for arguments in [&["--help"][..], &[]] {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let mut server = Command::new(program());
        server.args(arguments).stdin(Stdio::piped()).stdout(writer).stderr(Stdio::piped());
        let output = server.spawn().unwrap().wait_with_output().unwrap();
        assert_eq!((output.status.code(), output.stderr), (Some(0), Vec::new()), "{arguments:?}");
    }
}

/// A file with a key, which only its owner may read.
fn key_file(name: &str, key: &str) -> PathBuf {
    let path = std::env::temp_dir().join(format!("tinkex-serve-key-{}-{name}", std::process::id()));
    std::fs::write(&path, key).unwrap();
    #[cfg(unix)]
    set_mode(&path, 0o600);
    path
}

#[cfg(unix)]
fn set_mode(path: &Path, mode: u32) {
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
}

/// Starts the program with these arguments until its input is closed; returns its lines and its error output.
fn serve(arguments: &[&str]) -> (Vec<String>, String) {
    let mut server = Command::new(program());
    server.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let output = server.spawn().unwrap().wait_with_output().unwrap();
    let errors = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{errors}");
    let lines = String::from_utf8(output.stdout).unwrap();
    (lines.lines().map(String::from).collect(), errors)
}

#[test]
fn a_key_is_read_from_a_file_and_not_printed() {
    let key = key_file("good", "  tml-0123456789abcdef\n");
    let file = key.to_str().unwrap();
    let (lines, errors) = serve(&["--key-file", file]);
    assert!(lines.len() == 1 && lines[0].starts_with("TINKER_BASE_URL=http://127.0.0.1:"), "{lines:?}");
    assert_eq!(errors, "");
    let (lines, errors) = serve(&["--host", "0.0.0.0", "--key-file", file, "--allow-host", "engine.test"]);
    assert!(lines.len() == 1 && lines[0].starts_with("TINKER_BASE_URL=http://127.0.0.1:"), "{lines:?}");
    let warning =
        "serve: warning: other machines can reach 0.0.0.0; nothing is encrypted, not even the key\n";
    assert_eq!(errors, warning);
    let (lines, _) = serve(&[]);
    assert!(lines.len() == 2 && lines[1].starts_with("TINKER_API_KEY=tml-"), "{lines:?}");
    #[cfg(unix)]
    {
        set_mode(&key, 0o644);
        let (_, errors) = serve(&["--key-file", file]);
        let warning = format!(
            "serve: warning: other users may read the key file {file} (mode 644): chmod 600 {file}\n"
        );
        assert_eq!(errors, warning);
    }
    std::fs::remove_file(key).unwrap();
}

#[test]
fn a_key_file_that_cannot_be_used_is_named() {
    let program = program();
    let (empty, short) = (key_file("empty", " \n"), key_file("short", "tml-short"));
    let missing = std::env::temp_dir().join("tinkex-no-such-key");
    for (file, expected) in [
        (&empty, "is empty"),
        (&short, "must be given and have at least 20 characters"),
        (&missing, "cannot read the key file"),
    ] {
        let output = run(&program, &["--host", "0.0.0.0", "--key-file", file.to_str().unwrap()]);
        let text = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{text}");
        assert!(
            text.starts_with("serve: ") && text.contains(expected) && !text.contains("tml-short"),
            "{text}"
        );
    }
    let used = run(&program, &["--key-file", missing.to_str().unwrap()]);
    let text = String::from_utf8(used.stderr).unwrap();
    assert!(text.contains(missing.to_str().unwrap()), "{text}");
    [empty, short].iter().for_each(|it| std::fs::remove_file(it).unwrap());
}
