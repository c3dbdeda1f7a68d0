//! The programs `examples/rl.rs` and `examples/dpo.rs`: each improves its model offline, and on a service that the
//! environment variables set.

use std::path::Path;
use std::process::{Command, Stdio};

use tinkex::local::Server;

/// Runs a built example, and returns the last line that it prints, without its first word. `cargo test` builds examples;
/// `cargo test --test it` does not.
fn last_line(name: &str, server: Option<&Server>) -> String {
    let test = std::env::current_exe().unwrap();
    let target = test.parent().and_then(Path::parent).expect("a folder");
    let program = target.join("examples").join(name).with_extension(std::env::consts::EXE_EXTENSION);
    assert!(program.exists(), "{name} is missing: run `cargo build --all-features --examples`");
    let mut command = Command::new(program);
    for variable in ["TINKER_BASE_URL", "TINKER_API_KEY", "TINKER_CREDENTIAL_CMD", "TINKEX_BASE_MODEL"] {
        command.env_remove(variable);
    }
    if let Some(server) = server {
        command.env("TINKER_BASE_URL", server.url()).env("TINKER_API_KEY", server.api_key());
    }
    let output = command.stdin(Stdio::null()).output().unwrap();
    let stdout = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{name}: {stdout}{}", String::from_utf8_lossy(&output.stderr));
    let line = stdout.lines().last().unwrap_or_default();
    line.strip_prefix(&format!("{name}: ")).expect("the name of the example").to_string()
}

/// The two numbers of `what 0.05 -> 0.90`.
fn change(line: &str, what: &str) -> (f64, f64) {
    let (_, rest) = line.split_once(&format!("{what} ")).expect(what);
    let (before, after) = rest.split_once(" -> ").expect("an arrow");
    let after = after.split(',').next().unwrap();
    (before.parse().unwrap(), after.parse().unwrap())
}

#[test]
fn reinforcement_learning_raises_the_reward() {
    let (before, after) = change(&last_line("rl", None), "mean reward");
    assert!(before < 0.3 && 0.6 < after, "{before} -> {after}");
}

#[test]
fn preferences_hold_for_unseen_questions_on_a_service_that_the_environment_names() {
    let server = Server::start(Default::default()).unwrap();
    let line = last_line("dpo", Some(&server));
    let (before, after) = change(&line, "accuracy");
    assert!(before == 0.0 && 0.75 <= after, "{line}");
    let (before, after) = change(&line, "loss");
    assert!(after < before, "{line}");
}
