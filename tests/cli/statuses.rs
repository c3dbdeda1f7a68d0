//! The exit status of each command that is called wrongly, or that cannot do what it was asked.

use crate::util::{Folder, engine, tinkex};

/// Called wrongly: the words themselves are the mistake, whatever is on the disk and on the server.
const WRONG: i32 = 2;
/// Called rightly, for something that is not there.
const CANNOT: i32 = 1;

const NO_CHECKPOINT: &str = "tinker://nope:train:0/weights/x";

fn cases() -> Vec<(i32, String)> {
    let wrong = [
        "auth login x",
        "auth status --nope",
        "auth logout x",
        "auth whoami x",
        "model list a b",
        "model list --timeout 0",
        "model list --base-url=http://x",
        "run list --limit x",
        "run info",
        "run info bad/id",
        "checkpoint list --limit -1",
        "checkpoint list --run-id bad/id",
        "checkpoint info",
        "checkpoint info nope",
        "checkpoint delete",
        "checkpoint delete nope --yes",
        "checkpoint delete NO_CHECKPOINT",
        "checkpoint download",
        "checkpoint download nope",
        "checkpoint publish nope",
        "checkpoint unpublish nope",
        "checkpoint set-ttl NO_CHECKPOINT",
        "checkpoint set-ttl NO_CHECKPOINT --ttl x",
        "checkpoint copy nope",
        "checkpoint copy NO_CHECKPOINT",
        "checkpoint push-hf nope",
        "session list --limit x",
        "session info",
        "session info bad/id",
        "session search --status",
        "session assign",
        "session export-trace",
        "billing usage nonsense",
        "billing usage",
        "billing checkpoint-storage x",
        "audit",
        "audit nonsense",
        "sample hi -n 0",
        "sample hi --temperature=-1",
        "sample hi --top-p x",
        "sample hi -m ./nope",
        "sample hi -m tinker://x",
        "chat --temperature x",
        "chat -m ./nope",
        "eval",
        "eval good.jsonl --limit x",
        "data check",
        "data check good.jsonl --data-format nope",
        "data stats",
        "data show",
        "data show -n x",
        "data convert good.jsonl",
        "data convert good.jsonl --to nope",
        "data split good.jsonl",
        "report",
        "report . -o - --open",
        "train good.jsonl --epochs x",
        "train",
        "serve --port 99999",
        "serve --host x",
        "serve --model a",
        "serve --flag x",
        "serve --threads 9999",
        "serve --alias a=b",
        "doctor x",
        "completions",
        "completions nope",
        "man nope",
        "version x",
        "nope",
    ];
    let cannot = [
        "run info nope",
        "checkpoint list --run-id nope",
        "checkpoint info NO_CHECKPOINT",
        "checkpoint delete NO_CHECKPOINT --yes",
        "checkpoint download NO_CHECKPOINT",
        "checkpoint publish NO_CHECKPOINT",
        "checkpoint unpublish NO_CHECKPOINT",
        "checkpoint set-ttl NO_CHECKPOINT --ttl 7d",
        "checkpoint copy NO_CHECKPOINT --project p --access-token-file nofile",
        "checkpoint push-hf NO_CHECKPOINT",
        "session info nope",
        "sample @nofile",
        "sample -i nofile.txt",
        "sample hi -m nope",
        "chat -m nope",
        "eval nofile.txt",
        "eval good.jsonl -m nope",
        "data check nofile.txt",
        "data stats nofile.txt",
        "data show nofile.txt",
        "data convert nofile.txt --to chat",
        "data split nofile.txt --eval-split 0.5 --out parts",
        "report nofile",
        "report good.jsonl",
        "report good.jsonl nofile",
        "train nofile.txt",
        "train --config nofile.toml",
        "train --resume nofile",
        "serve --models nofile",
        "serve --model a=nofile",
        "serve --api-key-file nofile",
        "serve --data-dir good.jsonl",
        "man good.jsonl/pages",
    ];
    let with = |status: i32| move |line: &str| (status, line.replace("NO_CHECKPOINT", NO_CHECKPOINT));
    wrong.into_iter().map(with(WRONG)).chain(cannot.into_iter().map(with(CANNOT))).collect()
}

/// Commands that use no server.
const ALONE: [&str; 8] = ["auth", "data", "report", "serve", "completions", "man", "version", "nope"];

#[test]
fn each_command_tells_a_wrong_call_from_something_that_is_not_there() {
    let home = Folder::new("statuses");
    std::fs::write(home.join("good.jsonl"), "{\"prompt\":\"a\",\"completion\":\"b\"}\n").unwrap();
    // The commands share one engine, which one of them would have to start.
    let (server, service) = engine(&home);
    let mut different = Vec::new();
    for (expected, line) in cases() {
        let mut command = tinkex(&home);
        command.current_dir(&*home).args(line.split(' '));
        if !ALONE.iter().any(|it| line.starts_with(it)) {
            command.arg("--local=engine");
        }
        let output = command.output().unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr);
        let says = if line.starts_with("data check nofile") {
            !output.stdout.is_empty()
        } else {
            stderr.contains("error: ")
        };
        if output.status.code() != Some(expected) || !says {
            different.push(format!("{line}: {:?}, not {expected}: {stderr}", output.status.code()));
        }
    }
    assert!(different.is_empty(), "{}", different.join("\n"));
    drop(service);
    server.stop();
}
