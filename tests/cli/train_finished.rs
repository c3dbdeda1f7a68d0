//! `tinkex train --resume` of a run all of whose steps are done.

use std::path::PathBuf;
use std::time::Duration;

use serde_json::Value;
use tinkex::types::Ttl;

use crate::train::{chats, rows, small, train};
use crate::util::{Folder, engine, run};

/// A run of three steps, finished.
pub(crate) fn finished(folder: &Folder) -> PathBuf {
    let data = chats(folder, 8);
    let out = folder.join("run");
    let (status, _, stderr) = train(folder, &small(folder, &data, 3), &["-o", out.to_str().unwrap()]);
    assert_eq!(status, 0, "{stderr}");
    out
}

/// Paths of the state and of the weights for sampling of a checkpoint.
pub(crate) fn paths(run: &std::path::Path, name: &str) -> [String; 2] {
    let log = tinkex::train::CheckpointLog::open(run).unwrap();
    let record = log.records().iter().find(|it| it.name == name).unwrap();
    [record.state_path.as_ref().unwrap().to_string(), record.sampler_path.as_ref().unwrap().to_string()]
}

/// Deletes a checkpoint of the engine of a folder.
pub(crate) fn delete(folder: &Folder, path: &str) {
    let (_server, service) = engine(folder);
    service.create_rest_client().delete_checkpoint_from_tinker_path(path).unwrap();
}

#[test]
fn it_is_told_how_long_its_weights_are_kept_and_the_engine_gets_no_further_run() {
    let folder = Folder::new("train-finished-kept");
    let out = finished(&folder);
    let resume = |format: &str| run(&folder, &["train", "--resume", out.to_str().unwrap(), "-f", format]);
    let counts = || {
        let (_server, service) = engine(&folder);
        let rest = service.create_rest_client();
        (rest.list_training_runs().count(), rest.list_sessions().count())
    };
    let before = counts();
    let (status, stdout, stderr) = resume("table");
    assert_eq!(status, 0, "{stderr}");
    assert!(stdout.contains("kept until deleted; to change that: "), "{stdout}");
    assert!(stderr.contains("all steps are done: step 3 of 3"), "{stderr}");
    let [_, sampler] = paths(&out, "final");
    {
        let (_server, service) = engine(&folder);
        let ttl = Ttl::After(Duration::from_secs(7200));
        service.create_rest_client().set_checkpoint_ttl_from_tinker_path(sampler.as_str(), ttl).unwrap();
    }
    let (status, stdout, stderr) = resume("table");
    assert_eq!(status, 0, "{stderr}");
    assert!(stdout.contains("kept until 20") && !stdout.contains("until deleted"), "{stdout}");
    let json: Value = serde_json::from_str(&resume("json").1).unwrap();
    assert!(json["expires_at"].is_string(), "{json}");
    assert_eq!(counts(), before);
}

#[test]
fn weights_that_were_deleted_are_not_told_as_there_and_the_commands_that_are_named_work() {
    let folder = Folder::new("train-finished-gone");
    let out = finished(&folder);
    let resume =
        |more: &[&str]| run(&folder, &[&["train", "--resume", out.to_str().unwrap()], more].concat());
    let delete = |path: &str| delete(&folder, path);
    let [state, sampler] = paths(&out, "final");
    delete(&sampler);
    let (status, stdout, stderr) = resume(&[]);
    assert_eq!(status, 0, "{stderr}");
    assert!(stdout.contains(&format!("{sampler} is no longer there")), "{stdout}");
    assert!(!stdout.contains("tinkex sample"), "{stdout}");
    let more = format!("`tinkex train --resume {} --epochs 2 --max-steps 4`", out.display());
    assert!(stdout.contains(&more), "{stdout}");
    delete(&state);
    let (status, stdout, stderr) = resume(&[]);
    assert_eq!((status, stdout.as_str()), (1, ""), "{stderr}");
    assert!(
        stderr.contains("the final checkpoint was deleted or has expired: ")
            && stderr.contains("--force-resume` goes on after 2 steps"),
        "{stderr}"
    );
    // An earlier state is there: the last step is done again. Fewer steps may be enough, but not fewer than it has.
    let (status, _, stderr) = resume(&["--force-resume", "--max-steps", "1", "--dry-run"]);
    assert!(status == 2 && stderr.contains("its last state is that after 2"), "{stderr}");
    let (status, stdout, stderr) = resume(&["--force-resume", "--max-steps", "2", "--dry-run"]);
    assert!(status == 0 && stdout.contains("goes on after step 2 of 2"), "{stdout}{stderr}");
    let (status, _, stderr) = resume(&["--force-resume"]);
    assert_eq!(status, 0, "{stderr}");
    assert!(stderr.contains("goes on after step 2 of 3"), "{stderr}");
    assert_eq!((rows(&out).len(), resume(&[]).0), (3, 0));
}

#[test]
fn a_finished_run_whose_list_of_checkpoints_is_gone_is_not_trained_again_by_itself() {
    let folder = Folder::new("train-finished-log");
    let out = finished(&folder);
    std::fs::remove_file(out.join("checkpoints.jsonl")).unwrap();
    let before = std::fs::read_to_string(out.join("metrics.jsonl")).unwrap();
    let resume = ["train", "--resume", out.to_str().unwrap()];
    let (status, _, stderr) = run(&folder, &resume);
    assert_eq!(status, 1, "{stderr}");
    let log = out.join("checkpoints.jsonl");
    assert!(stderr.contains(&format!("is finished, but {} has no checkpoint", log.display())), "{stderr}");
    assert!(stderr.contains("--force-resume` trains from step 1 on"), "{stderr}");
    assert_eq!(std::fs::read_to_string(out.join("metrics.jsonl")).unwrap(), before);
    let (status, _, stderr) = run(&folder, &[&resume[..], &["--force-resume"]].concat());
    assert_eq!(status, 0, "{stderr}");
    assert_eq!(rows(&out).len(), 3);
}

#[test]
fn steps_whose_state_was_deleted_are_not_done_again_without_a_question() {
    let folder = Folder::new("train-finished-more");
    let out = finished(&folder);
    let resume = |more: &[&str]| {
        let line = ["train", "--resume", out.to_str().unwrap(), "--max-steps", "5"];
        run(&folder, &[&line[..], more].concat())
    };
    let [state, _] = paths(&out, "final");
    delete(&folder, &state);
    for more in [&[][..], &["--dry-run"]] {
        let (status, stdout, stderr) = resume(more);
        assert_eq!((status, stdout.as_str()), (1, ""), "{stderr}");
        let gone = format!("the state after 3 steps was deleted or has expired: {state} does not exist\n");
        assert!(stderr.contains(&gone), "{stderr}");
        assert!(stderr.contains("--force-resume` goes on after 2 steps"), "{stderr}");
        assert_eq!(rows(&out).len(), 3);
    }
    let (status, _, stderr) = resume(&["--force-resume"]);
    assert_eq!(status, 0, "{stderr}");
    let warning =
        format!("warning: the checkpoint {state} does not exist any more, trying the one before it\n");
    assert!(stderr.contains(&warning) && stderr.contains("goes on after step 2 of 5"), "{stderr}");
    assert_eq!(rows(&out).len(), 5);
    let log = tinkex::train::CheckpointLog::open(&out).unwrap();
    let states = log.records().iter().filter_map(|it| it.state_path.as_ref()).map(ToString::to_string);
    states.filter(|path| *path != state).for_each(|path| delete(&folder, &path));
    let (status, _, stderr) = run(&folder, &["train", "--resume", out.to_str().unwrap(), "--max-steps", "6"]);
    assert_eq!(status, 1, "{stderr}");
    assert!(
        stderr.contains("was deleted or has expired: ") && stderr.contains("` trains it once more"),
        "{stderr}"
    );
}
