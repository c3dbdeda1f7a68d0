//! `tinkex train --local` on the engine of another process.

use std::io::{BufRead, BufReader};
use std::process::Stdio;

use tinkex::train::CheckpointLog;

use crate::train::{chats, rows, small, with};
use crate::train_resume::Running;
use crate::util::{Folder, run, tinkex};

#[test]
fn a_run_whose_engine_is_killed_says_so_and_is_resumed_with_an_engine_of_its_own() {
    let folder = Folder::new("train-engine-killed");
    let data = chats(&folder, 8);
    let (engine, out) = (folder.join("engine"), folder.join("run"));
    let mut serve = tinkex(&folder);
    serve.args(["serve", "--port", "0", "--data-dir", engine.to_str().unwrap()]);
    let mut serve = serve.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    // It is found from here on.
    let mut stdout = BufReader::new(serve.stdout.take().unwrap());
    stdout.read_line(&mut String::new()).unwrap();
    let mut command = tinkex(&folder);
    command.args(with(&small(&folder, &data, 0), "--max-steps", "1000000"));
    command.args(["-o", out.to_str().unwrap()]);
    let mut running = Running::start(command);
    for _ in 0..5 {
        assert!(running.next());
    }
    serve.kill().unwrap();
    serve.wait().unwrap();
    let (status, stderr) = running.end();
    assert_eq!(status, Some(1), "{stderr}");
    let why = format!("error: the engine has ended: it was that of process {}, at http://", serve.id());
    assert!(stderr.contains(&why), "{stderr}");
    let resume =
        format!("  try: `tinkex train --resume {}`, which starts an engine of its own", out.display());
    assert!(stderr.lines().any(|it| it == resume), "{stderr}");
    let saved = CheckpointLog::open(&out).unwrap().last_resumable().unwrap().next_batch.unwrap();
    let steps = saved + 3;
    let (status, _, stderr) =
        run(&folder, &["train", "--resume", out.to_str().unwrap(), "--max-steps", &steps.to_string()]);
    assert_eq!(status, 0, "{stderr}");
    assert!(stderr.contains(&format!("goes on after step {saved} of {steps}")), "{stderr}");
    assert_eq!(rows(&out).len() as u64, steps);
}
