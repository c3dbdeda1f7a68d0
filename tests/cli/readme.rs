//! The commands of the README, one after the other, as a newcomer runs them.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use crate::util::{Folder, tinkex};

/// The lines of the README's section about the command line that run the program.
fn commands() -> Vec<String> {
    let readme = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/README.md")).unwrap();
    let section = readme.split("## From the command line").nth(1).unwrap();
    let block = section.split("```sh\n").nth(1).unwrap().split("```").next().unwrap();
    let line = |line: &str| line.split('#').next().unwrap().trim().to_owned();
    block.lines().filter(|it| it.starts_with("tinkex ")).map(line).collect()
}

fn command(folder: &Folder, line: &str) -> Command {
    let mut command = tinkex(folder);
    command.current_dir(&**folder).args(line.split_whitespace().skip(1));
    command
}

fn run(folder: &Folder, line: &str) -> String {
    let output = command(folder, line).output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{line}: {stderr}");
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn the_walk_through_of_the_readme_trains_survives_a_kill_and_samples_what_was_learned() {
    let folder = Folder::new("readme");
    std::os::unix::fs::symlink(concat!(env!("CARGO_MANIFEST_DIR"), "/examples"), folder.join("examples"))
        .unwrap();
    let commands = commands();
    let [train, resume, list, sample] = &commands[..] else { panic!("{commands:?}") };

    // The process is killed in the middle of the training; it writes a row for each step.
    let metrics = folder.join("pig-latin/metrics.jsonl");
    let mut child =
        command(&folder, train).args(["--progress", "json"]).stdout(Stdio::piped()).spawn().unwrap();
    let rows = BufReader::new(child.stdout.take().unwrap()).lines();
    assert_eq!(rows.take(50).count(), 50);
    child.kill().unwrap();
    child.wait().unwrap();

    let stdout = run(&folder, resume);
    assert!(folder.join("pig-latin/report.html").is_file(), "{stdout}");
    let steps: Vec<u64> = std::fs::read_to_string(&metrics)
        .unwrap()
        .lines()
        .map(|row| serde_json::from_str::<serde_json::Value>(row).unwrap()["step"].as_u64().unwrap())
        .collect();
    assert_eq!(steps, (0..steps.len() as u64).collect::<Vec<_>>(), "no step is missing or doubled");
    assert!(run(&folder, list).contains("/sampler_weights/final"));
    assert_eq!(run(&folder, sample), "ananabay\n");
}

#[test]
fn the_layers_name_each_module_of_the_program_and_nothing_that_is_gone() {
    let root = std::path::Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/src"));
    let text = std::fs::read_to_string(root.join("_docs/architecture.md")).unwrap();
    // The first name of a row has its folder, and the others are beside it.
    let rows = text.lines().filter(|line| line.starts_with('|') && line.contains("`src/cli/"));
    let names = rows.flat_map(|row| row.split('|').nth(2).unwrap().split('`').skip(1).step_by(2));
    let named: Vec<&str> = names
        .map(|it| it.trim_start_matches("src/cli/").trim_end_matches('/'))
        .filter(|it| !it.is_empty())
        .collect();
    for name in &named {
        assert!(root.join("cli").join(name).exists(), "{name} is gone");
    }
    for entry in std::fs::read_dir(root.join("cli")).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        let is_told = ["main.rs", "args.rs"].contains(&name.as_str()) || named.contains(&name.as_str());
        assert!(is_told, "{name} is not among the layers");
    }
}
