//! `tinkex train`: what it refuses before anything is sent, and the commands that it names then, which work.

use std::path::Path;
use std::process::Command;

use serde_json::Value;

use crate::train::{chats, rows, small, train, with};
use crate::util::{Folder, run, tinkex};

/// The commands between backticks in the remedy.
pub(crate) fn remedies(stderr: &str) -> Vec<String> {
    let line = stderr.lines().find_map(|line| line.strip_prefix("  try: ")).unwrap_or_default();
    line.split('`').skip(1).step_by(2).map(str::to_owned).collect()
}

/// Pastes a command into a shell.
pub(crate) fn paste(folder: &Path, command: &str) -> (i32, String) {
    let (_, words) = command.split_once(' ').unwrap();
    let mut shell = Command::new("sh");
    let program = env!("CARGO_BIN_EXE_tinkex");
    shell.env_clear().env("HOME", folder).current_dir(folder).arg("-c").arg(format!("'{program}' {words}"));
    let output = shell.output().unwrap();
    (output.status.code().unwrap(), String::from_utf8(output.stderr).unwrap())
}

fn config(run: &Path) -> Value {
    serde_json::from_str(&std::fs::read_to_string(run.join("config.json")).unwrap()).unwrap()
}

#[test]
fn a_run_that_is_resumed_with_another_file_names_both_and_goes_on_with_its_own() {
    let folder = Folder::new("train-remedy-other");
    let data = chats(&folder, 8);
    let out = folder.join("run");
    assert_eq!(train(&folder, &small(&folder, &data, 2), &["-o", out.to_str().unwrap()]).0, 0);
    let other = folder.join("other.jsonl").display().to_string();
    let text = std::fs::read_to_string(&data).unwrap();
    std::fs::write(&other, text.replace("answer", "reply")).unwrap();
    let (status, _, stderr) = run(&folder, &["train", &other, "--resume", out.to_str().unwrap()]);
    assert_eq!(status, 2, "{stderr}");
    let expected = format!("data: was the file {data} (8 lines), is {other} (8 lines)");
    assert!(stderr.contains(&expected) && !stderr.contains("has changed"), "{stderr}");
    let commands = remedies(&stderr);
    assert_eq!(commands.len(), 3, "{stderr}");
    let (status, stderr) = paste(&folder, &commands[0]);
    assert_eq!(status, 0, "{}: {stderr}", commands[0]);
}

#[test]
fn after_a_change_of_the_data_both_commands_that_are_named_work() {
    let folder = Folder::new("train-remedy-data");
    let data = chats(&folder, 8);
    let out = folder.join("my run");
    assert_eq!(train(&folder, &small(&folder, &data, 2), &["-o", out.to_str().unwrap()]).0, 0);
    let text = std::fs::read_to_string(&data).unwrap();
    std::fs::write(&data, text.replace("answer", "reply")).unwrap();
    let line = ["train", "--resume", out.to_str().unwrap(), "--max-steps", "3"];
    for further in [&["--dry-run"][..], &[]] {
        let (status, _, stderr) = run(&folder, &[&line[..], further].concat());
        assert!(status == 2 && stderr.contains("chats.jsonl has changed"), "{stderr}");
        assert_eq!(remedies(&stderr).len(), 2, "{stderr}");
    }
    let (_, _, stderr) = run(&folder, &line);
    let commands = remedies(&stderr);
    // The new run is beside the old one.
    let (status, stderr) = paste(&folder, &commands[1]);
    assert_eq!(status, 0, "{}: {stderr}", commands[1]);
    assert_eq!((rows(&folder.join("my run-2")).len(), rows(&out).len()), (3, 2));
    let (status, stderr) = paste(&folder, &commands[0]);
    assert_eq!(status, 0, "{}: {stderr}", commands[0]);
    assert_eq!(rows(&out).len(), 3);
}

#[test]
fn a_file_of_the_run_that_is_gone_can_be_named_where_it_is() {
    let folder = Folder::new("train-remedy-gone");
    let data = chats(&folder, 8);
    let prompts = folder.join("prompts.txt");
    std::fs::write(&prompts, "word 1\n").unwrap();
    let out = folder.join("runs/a");
    let further = ["-o", out.to_str().unwrap(), "--prompts", prompts.to_str().unwrap()];
    assert_eq!(train(&folder, &small(&folder, &data, 2), &further).0, 0);
    std::fs::rename(&data, folder.join("elsewhere.jsonl")).unwrap();
    let line = ["train", "--resume", out.to_str().unwrap(), "--max-steps", "3"];
    let (status, _, stderr) = run(&folder, &line);
    assert_eq!(status, 1, "{stderr}");
    let gone = "chats.jsonl, a file of the run, is gone\n  try: `tinkex train --resume ";
    assert!(stderr.contains(gone) && stderr.contains(" FILE`, where FILE is its new place"), "{stderr}");
    // A file of its name beside the run is probably it.
    std::fs::rename(folder.join("elsewhere.jsonl"), folder.join("runs/chats.jsonl")).unwrap();
    std::fs::rename(&prompts, folder.join("runs/prompts.txt")).unwrap();
    let (_, _, stderr) = run(&folder, &line);
    let command = remedies(&stderr).remove(0);
    let (status, stderr) = paste(&folder, &command);
    assert_eq!(status, 0, "{command}: {stderr}");
    assert_eq!(rows(&out).len(), 3);
}

#[test]
fn fewer_steps_than_are_done_are_refused_and_change_nothing() {
    let folder = Folder::new("train-remedy-steps");
    let data = chats(&folder, 8);
    let out = folder.join("run");
    assert_eq!(train(&folder, &small(&folder, &data, 6), &["-o", out.to_str().unwrap()]).0, 0);
    let before = std::fs::read_to_string(out.join("config.json")).unwrap();
    for further in [&["--dry-run"][..], &[]] {
        let line = ["train", "--resume", out.to_str().unwrap(), "--max-steps", "3"];
        let (status, _, stderr) = run(&folder, &[&line[..], further].concat());
        assert_eq!(status, 2, "{stderr}");
        assert!(
            stderr.contains("the run would have 3 steps, and its last state is that after 6"),
            "{stderr}"
        );
        let (status, stderr) = paste(&folder, &remedies(&stderr)[0]);
        assert_eq!(status, 0, "{stderr}");
    }
    assert_eq!(std::fs::read_to_string(out.join("config.json")).unwrap(), before);
    assert_eq!(rows(&out).len(), 6);
}

#[test]
fn a_dry_run_refuses_what_a_start_refuses_and_neither_leaves_a_folder() {
    let folder = Folder::new("train-remedy-dry");
    let data = chats(&folder, 4);
    let options = small(&folder, &data, 1);
    let taken = folder.join("taken");
    std::fs::create_dir(&taken).unwrap();
    std::fs::write(taken.join("mine.txt"), "").unwrap();
    let file = folder.join("file");
    std::fs::write(&file, "").unwrap();
    let (below, missing) =
        (file.join("run").display().to_string(), folder.join("none.txt").display().to_string());
    let (taken, new) = (taken.display().to_string(), folder.join("a/b").display().to_string());
    for (further, expected) in [
        (["-o", &taken, "--name", "x"], "taken is not empty"),
        (["-o", &below, "--name", "x"], "file is a file"),
        (["-o", &new, "--prompts", &missing], "none.txt: cannot be opened"),
        (["-o", &new, "--prompts", file.to_str().unwrap()], "has 0 prompts"),
        (["-o", &new, "--from", "tinker://x:train:0/weights/x"], ""),
    ] {
        let mut found = Vec::new();
        for more in [&[][..], &["--dry-run"]] {
            let (status, _, stderr) = train(&folder, &options, &[&further[..], more].concat());
            assert!(stderr.contains(expected), "{further:?}: {stderr}");
            found.push(status);
            assert!(!folder.join("a").exists(), "{further:?}: {stderr}");
            for command in remedies(&stderr).into_iter().filter(|_| !expected.is_empty()) {
                let (status, stderr) = paste(&folder, &command);
                assert_eq!(status, 0, "{command}: {stderr}");
            }
        }
        assert!(expected.is_empty() || found[0] != 0 && found[0] == found[1], "{further:?}: {found:?}");
    }
}

#[test]
fn the_folder_of_a_run_is_refused_with_three_commands_that_work() {
    let folder = Folder::new("train-remedy-folder");
    let data = chats(&folder, 4);
    let out = folder.join("run");
    let options = small(&folder, &data, 1);
    let further = ["-o", out.to_str().unwrap()];
    assert_eq!(train(&folder, &options, &further).0, 0);
    let (status, _, stderr) = train(&folder, &options, &further);
    assert_eq!(status, 2);
    let commands = remedies(&stderr);
    assert_eq!(commands.len(), 3, "{stderr}");
    for command in &commands {
        let (status, stderr) = paste(&folder, command);
        assert_eq!(status, 0, "{command}: {stderr}");
    }
    assert_eq!(rows(&folder.join("run-2")).len(), 1);
}

#[test]
fn a_run_with_the_settings_of_another_is_on_its_server_unless_an_option_says_otherwise() {
    let folder = Folder::new("train-remedy-place");
    let data = chats(&folder, 4);
    let (first, second) = (folder.join("first"), folder.join("second"));
    assert_eq!(train(&folder, &small(&folder, &data, 1), &["-o", first.to_str().unwrap()]).0, 0);
    let settings = first.join("config.json").display().to_string();
    let line = ["train", "--config", &settings, "-o", second.to_str().unwrap()];
    let (status, _, stderr) = run(&folder, &line);
    assert_eq!(status, 0, "{stderr}");
    assert_eq!(config(&second)["local"], config(&first)["local"]);
    let print = |further: &[&str]| {
        run(&folder, &[&["train", "--config", &settings, "--print-config"], further].concat()).1
    };
    assert!(print(&[]).contains(&format!("local = \"{}\"", folder.join("engine").display())));
    assert!(print(&["--base-url", "http://h:1"]).contains("base-url = \"http://h:1\""));
    // What is printed is a file of settings with the same place, here relative to the file.
    let printed = print(&[]).replace(&*folder.join("engine").to_string_lossy(), "engine");
    std::fs::write(folder.join("printed.toml"), printed).unwrap();
    let line = ["train", "--config", "printed.toml", "--print-config"];
    let output = tinkex(&folder).current_dir(&*folder).args(line).output().unwrap();
    assert!(String::from_utf8(output.stdout).unwrap().contains("/engine\""));
}

#[test]
fn remedies_keep_the_options_of_the_command() {
    let folder = Folder::new("train-remedy-options");
    let data = chats(&folder, 4);
    let out = folder.join("run");
    let options = small(&folder, &data, 1);
    assert_eq!(train(&folder, &options, &["-o", out.to_str().unwrap()]).0, 0);
    let options = with(&options, "--max-steps", "2");
    let (_, _, stderr) = train(&folder, &options, &["-o", out.to_str().unwrap(), "--name", "two words"]);
    assert!(remedies(&stderr)[1].ends_with("--name 'two words' --overwrite"), "{stderr}");
}

#[test]
fn a_project_that_was_moved_goes_on_with_its_data_and_names_its_engine() {
    let folder = Folder::new("train-remedy-moved");
    let old = folder.join("old");
    std::fs::create_dir_all(old.join("data")).unwrap();
    let data = chats(&old.join("data"), 8);
    let out = old.join("runs/a");
    assert_eq!(train(&old, &small(&old, &data, 2), &["-o", out.to_str().unwrap()]).0, 0);
    let new = folder.join("new");
    std::fs::rename(&old, &new).unwrap();
    let out = new.join("runs/a").display().to_string();
    let gone = format!("{}, the folder of the engine of the run, is gone\n", old.join("engine").display());
    let local = format!("--local={}", new.join("engine").display());
    for line in [
        &["sample", "Hi", "-m", &out][..],
        &["run", "info", &out],
        &["checkpoint", "download", &out, "-o", "models"],
        &["train", "--resume", &out, "--max-steps", "3"],
    ] {
        let (status, _, stderr) = run(&folder, line);
        assert_ne!(status, 0);
        let command = remedies(&stderr).remove(0);
        assert!(stderr.contains(&gone) && command.contains(&local), "{stderr}");
        let (status, stderr) = paste(&folder, &command);
        assert_eq!(status, 0, "{command}: {stderr}");
        let note = "has the same contents, and is used\n";
        assert_eq!(stderr.contains(note), line[0] == "train", "{stderr}");
    }
    assert!(!old.exists());
    assert_eq!(rows(Path::new(&out)).len(), 3);
    // The run has recorded the new places.
    assert_eq!(run(&folder, &["train", "--resume", &out, "--max-steps", "4"]).0, 0);
    // What is nowhere near is told at once.
    std::fs::rename(new.join("engine"), folder.join("x")).unwrap();
    std::fs::remove_file(new.join("data/chats.jsonl")).unwrap();
    let (status, _, stderr) = run(&folder, &["train", "--resume", &out, "--max-steps", "5"]);
    assert_eq!(status, 1, "{stderr}");
    assert!(stderr.contains("the folder of its engine, are gone\n"), "{stderr}");
    assert!(stderr.contains(" FILE --local=DIR`, where FILE and DIR are their new places"), "{stderr}");
}
