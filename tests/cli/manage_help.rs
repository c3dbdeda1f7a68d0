//! The help of the commands that manage things on a server.

use snapbox::{assert_data_eq, file};

use crate::util::{Folder, run};

const COMMANDS: [&str; 28] = [
    "auth",
    "auth login",
    "auth logout",
    "auth status",
    "auth whoami",
    "model",
    "model list",
    "run",
    "run list",
    "run info",
    "checkpoint",
    "checkpoint list",
    "checkpoint info",
    "checkpoint publish",
    "checkpoint unpublish",
    "checkpoint set-ttl",
    "checkpoint delete",
    "checkpoint copy",
    "checkpoint push-hf",
    "session",
    "session list",
    "session info",
    "session search",
    "session assign",
    "session export-trace",
    "billing usage",
    "billing checkpoint-storage",
    "audit",
];

#[test]
fn each_command_explains_itself() {
    let home = Folder::new("manage-help");
    let mut text = String::new();
    for command in COMMANDS {
        let words: Vec<&str> = command.split(' ').chain(["--help"]).collect();
        let (status, stdout, stderr) = run(&home, &words);
        assert_eq!((status, stderr.as_str()), (0, ""), "{command}");
        // The global options are the same everywhere.
        let own = stdout.split("Global options:").next().unwrap();
        let examples =
            stdout.split("\nExamples:").nth(1).map(|it| format!("Examples:{it}")).unwrap_or_default();
        text += &format!("# tinkex {command}\n{own}{examples}");
    }
    assert_data_eq!(text, file!["snapshots/manage-help.txt"].raw());
}
