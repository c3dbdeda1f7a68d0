//! `--local=DIR` while another program has an engine on DIR.

use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, Command, Stdio};

use serde_json::Value;
use tinkex::CloseStatus;
use tinkex::local::Server;
use tinkex::types::{LoraConfig, Ttl};

use crate::util::{self, Folder, run, tinkex};

/// The engine of another program, with a checkpoint of each kind.
fn engine(home: &Folder) -> (Server, Vec<String>) {
    let (server, service) = util::engine(home);
    let config = LoraConfig { rank: 4, ..Default::default() };
    let training = service.create_lora_training_client("tinkex/nano", config).unwrap();
    let state = training.save_state("a", Ttl::Never).wait().unwrap().path.to_string();
    let sampler = training.save_weights_for_sampler("s", Ttl::Never).wait().unwrap().path.to_string();
    service.close(CloseStatus::Success).unwrap();
    (server, vec![state, sampler])
}

#[test]
fn commands_use_the_engine_that_another_program_runs_on_the_folder() {
    let home = Folder::new("shared-engine");
    let (server, paths) = engine(&home);
    let local = format!("--local={}", home.join("engine").display());
    let json = |words: &[&str]| -> Value {
        let (status, stdout, stderr) = run(&home, &[words, &[&local, "-f", "json"]].concat());
        assert_eq!(status, 0, "{words:?} {stderr}");
        serde_json::from_str(&stdout).unwrap()
    };
    assert_eq!(json(&["checkpoint", "list"])["checkpoints"].as_array().unwrap().len(), 2);
    assert_eq!(json(&["run", "list"])["runs"].as_array().unwrap().len(), 1);
    let out = home.join("out").display().to_string();
    json(&["checkpoint", "download", &paths[0], "-o", &out]);
    let sampled = json(&["sample", "Hi", "-m", &paths[1], "--max-tokens", "2"]);
    assert!(sampled.to_string().contains("tokens"), "{sampled}");
    assert_eq!(json(&["checkpoint", "delete", &paths[1], "--yes"])["deleted_count"], 1);
    let (status, stdout, stderr) = run(&home, &["doctor", &local]);
    let credential = format!("ok\tcredential\tof the engine of process {}\t", std::process::id());
    assert!(status == 0 && stdout.contains(&credential), "{stdout}{stderr}");
    // The sampling command has ended its session: those of all commands and of the training are there and not active.
    let active = json(&["session", "search", "--status", "active"]);
    assert_eq!(active["sessions"].as_array().map(Vec::len), Some(0), "{active}");
    server.stop();
    assert_eq!(json(&["checkpoint", "list"])["checkpoints"].as_array().unwrap().len(), 1);
    let entries = std::fs::read_dir(home.join("engine/.tinkex")).unwrap();
    let names: Vec<_> = entries.map(|it| it.unwrap().file_name()).collect();
    assert!(!names.iter().any(|it| it == "engine.json"), "{names:?}");
}

#[test]
fn a_command_whose_engine_ends_says_so_and_what_to_do() {
    let home = Folder::new("shared-engine-ends");
    let (server, _) = engine(&home);
    let local = format!("--local={}", home.join("engine").display());
    let mut chat = tinkex(&home)
        .args(["chat", &local, "--max-tokens", "2"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = chat.stdin.take().unwrap();
    stdin.write_all(b"Hi\n").unwrap();
    let mut answer = String::new();
    BufReader::new(chat.stdout.take().unwrap()).read_line(&mut answer).unwrap();
    server.stop();
    stdin.write_all(b"Are you there?\n").unwrap();
    drop(stdin);
    let output = chat.wait_with_output().unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    let process =
        format!("error: the engine has ended: it was that of process {}, at http://", std::process::id());
    assert!(stderr.contains(&process), "{stderr}");
    assert!(stderr.contains("try: run the command again"), "{stderr}");
}

#[test]
fn commands_that_begin_at_the_same_moment_on_one_folder_all_do_their_work() {
    let home = Folder::new("shared-engine-at-once");
    let (server, paths) = engine(&home);
    server.stop();
    let local = format!("--local={}", home.join("engine").display());
    let begin = |n: usize| {
        let mut command = tinkex(&home);
        command.args(["checkpoint", "info", &paths[n % 2], &local, "-f", "json"]);
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    };
    let begun: Vec<_> = (0..12).map(begin).collect();
    for (n, command) in begun.into_iter().enumerate() {
        let output = command.wait_with_output().unwrap();
        let (stdout, stderr) = (String::from_utf8(output.stdout), String::from_utf8(output.stderr).unwrap());
        assert!(output.status.success() && stdout.unwrap().contains(&paths[n % 2]), "{n}: {stderr}");
    }
}

#[test]
fn a_command_whose_engine_others_use_ends_after_them() {
    let home = Folder::new("shared-engine-waits");
    drop(engine(&home));
    let local = format!("--local={}", home.join("engine").display());
    let chat = || {
        let mut command = tinkex(&home);
        command.args(["chat", &local, "--max-tokens", "2"]).stdin(Stdio::piped());
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    };
    let ask = |chat: &mut Child| {
        writeln!(chat.stdin.as_mut().unwrap(), "Hi").unwrap();
        let mut answer = [0];
        chat.stdout.as_mut().unwrap().read_exact(&mut answer).unwrap();
    };
    let mut first = chat();
    ask(&mut first);
    // Finds the engine of the first one, or waits until it can be found.
    let mut second = chat();
    ask(&mut second);
    drop(first.stdin.take());
    let mut said = BufReader::new(first.stderr.take().unwrap()).lines().map(Result::unwrap);
    let note = said.find(|it| it.contains("it ends after them")).unwrap();
    assert!(note.starts_with("note: other commands use the engine of"), "{note}");
    ask(&mut second);
    drop(second.stdin.take());
    let (second, first) = (second.wait_with_output().unwrap(), first.wait_with_output().unwrap());
    assert!(second.status.success(), "{}", String::from_utf8_lossy(&second.stderr));
    assert!(first.status.success(), "{}", String::from_utf8_lossy(&first.stdout));
}

#[test]
#[cfg(unix)]
fn ctrl_c_ends_a_training_and_not_the_commands_that_use_its_engine() {
    let home = Folder::new("shared-engine-interrupt");
    drop(engine(&home));
    let local = format!("--local={}", home.join("engine").display());
    let data = home.join("data.jsonl");
    std::fs::write(&data, "{\"prompt\":\"a\",\"completion\":\"b\"}\n".repeat(40)).unwrap();
    let mut host = tinkex(&home);
    host.args(["train", data.to_str().unwrap(), &local, "-o", home.join("run").to_str().unwrap()]);
    host.args(["--max-steps", "1000000", "--save-every", "0", "--progress", "json", "--no-report"]);
    let mut host = host.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut rows = BufReader::new(host.stdout.take().unwrap());
    rows.read_line(&mut String::new()).unwrap();
    let drain = std::thread::spawn(move || std::io::copy(&mut rows, &mut std::io::sink()).unwrap());
    let mut guest = tinkex(&home);
    guest.args(["chat", &local, "--max-tokens", "2"]).stdin(Stdio::piped());
    let mut guest = guest.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let ask = |chat: &mut Child| {
        writeln!(chat.stdin.as_mut().unwrap(), "Hi").unwrap();
        chat.stdout.as_mut().unwrap().read_exact(&mut [0]).unwrap();
    };
    ask(&mut guest);
    assert!(Command::new("kill").args(["-INT", &host.id().to_string()]).status().unwrap().success());
    let mut said = BufReader::new(host.stderr.take().unwrap()).lines().map(Result::unwrap);
    said.find(|it| it.contains("it ends after them")).unwrap();
    ask(&mut guest);
    drop(guest.stdin.take());
    let guest = guest.wait_with_output().unwrap();
    assert!(guest.status.success(), "{}", String::from_utf8_lossy(&guest.stderr));
    assert_eq!(host.wait().unwrap().code(), Some(130));
    drain.join().unwrap();
}

#[test]
fn a_mistyped_folder_is_refused_by_commands_that_look_for_something_and_nothing_is_written() {
    let home = Folder::new("shared-engine-mistyped");
    drop(engine(&home));
    let local = |name: &str| format!("--local={}", home.join(name).display());
    std::fs::create_dir(home.join("other")).unwrap();
    for (words, name, says) in [
        (&["checkpoint", "list"][..], "engin", "does not exist"),
        (&["checkpoint", "delete", "--older-than", "5d", "--yes"], "engin", "does not exist"),
        (&["run", "list"], "other", "is not the folder of an engine"),
        (&["session", "search", "--status", "active"], "other", "is not the folder of an engine"),
    ] {
        let (status, stdout, stderr) = run(&home, &[words, &[&local(name)]].concat());
        assert_eq!((status, stdout.as_str()), (2, ""), "{words:?} {stderr}");
        assert!(stderr.contains("error: --local: the folder") && stderr.contains(says), "{stderr}");
        assert_eq!(stderr.contains("did you mean --local="), name == "engin", "{stderr}");
    }
    assert!(!home.join("engin").exists());
    assert_eq!(std::fs::read_dir(home.join("other")).unwrap().count(), 0);
}

#[test]
#[cfg(unix)]
fn only_the_user_can_read_the_folder_that_a_command_creates_and_the_key_in_it() {
    use std::os::unix::fs::PermissionsExt;
    let home = Folder::new("shared-engine-mode");
    let mode = |path: &str| std::fs::metadata(home.join(path)).unwrap().permissions().mode() & 0o777;
    let local = format!("--local={}", home.join("new/engine").display());
    assert_eq!(run(&home, &["sample", "Hi", "--max-tokens", "1", &local]).0, 0);
    assert_eq!((mode("new"), mode("new/engine"), mode("new/engine/.tinkex")), (0o700, 0o700, 0o700));
    let _engine = engine(&home);
    assert_eq!(mode("engine/.tinkex/engine.json"), 0o600);
    let text = std::fs::read_to_string(home.join("engine/.tinkex/engine.json")).unwrap();
    let (status, _, stderr) =
        run(&home, &["serve", "--port", "0", "--data-dir", &home.join("engine").display().to_string()]);
    assert!(
        status == 1 && stderr.contains("in use by another engine") && stderr.contains("--local=/"),
        "{stderr}"
    );
    assert_eq!(std::fs::read_to_string(home.join("engine/.tinkex/engine.json")).unwrap(), text);
    // A file that others can read is not believed.
    std::fs::set_permissions(home.join("engine/.tinkex/engine.json"), PermissionsExt::from_mode(0o644))
        .unwrap();
    let (status, _, stderr) =
        run(&home, &["run", "list", &format!("--local={}", home.join("engine").display())]);
    assert!(status == 1 && stderr.contains("chmod 600"), "{stderr}");
}

#[test]
#[cfg(target_os = "linux")]
fn a_folder_that_cannot_be_written_is_to_be_copied() {
    let home = Folder::new("shared-engine-read-only");
    drop(engine(&home));
    let dir = home.join("engine");
    // A mount of its own needs a user namespace, which some containers do not allow.
    let mount = "mount --bind \"$1\" \"$1\" && mount -o remount,bind,ro \"$1\"";
    let wrapped = |then: &str| {
        let mut command = Command::new("unshare");
        let script = format!("{mount} && {then}");
        command.args(["--user", "--map-root-user", "--mount", "sh", "-c", &script, "sh"]).arg(&dir);
        command
    };
    if !wrapped("true").output().is_ok_and(|it| it.status.success()) {
        #[expect(clippy::print_stderr, reason = "a test that does not run says so")]
        {
            eprintln!("not run: no mount in a user namespace");
        }
        return;
    }
    let command = "exec \"$2\" run list \"--local=$1\"";
    let output = wrapped(command).arg(env!("CARGO_BIN_EXE_tinkex")).env("HOME", &*home).output().unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    assert!(stderr.starts_with("error: cannot") && stderr.contains("Read-only file system"), "{stderr}");
    let copy =
        format!("`cp -r {} engine-copy && chmod -R u+w engine-copy` and --local=engine-copy", dir.display());
    assert!(stderr.contains(&copy) && stderr.lines().count() == 2, "{stderr}");
}
