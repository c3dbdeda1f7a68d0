//! Tests of the logs of a run.

#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::json;

use super::run_lock::RunLock;
use super::*;
use crate::error::Error;

/// An empty folder, removed on drop.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("tinkex-train-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        fs::create_dir_all(&path).unwrap();
        Folder(path)
    }

    fn write(&self, file: &str, text: &str) {
        fs::write(self.0.join(file), text).unwrap();
    }

    fn read(&self, file: &str) -> String {
        fs::read_to_string(self.0.join(file)).unwrap()
    }

    /// The names of the files, sorted.
    fn files(&self) -> Vec<String> {
        let entries = fs::read_dir(&self.0).unwrap();
        let mut files: Vec<String> =
            entries.map(|it| it.unwrap().file_name().into_string().unwrap()).collect();
        files.sort();
        files
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

impl AsRef<Path> for Folder {
    fn as_ref(&self) -> &Path {
        &self.0
    }
}

/// Name of the file and number of the line that an error names.
fn place(error: &Error) -> String {
    let path = &error.violation().unwrap().path;
    path.rsplit('/').next().unwrap().to_string()
}

#[test]
fn metrics_are_written_as_the_cookbook_writes_them() {
    let folder = Folder::new("metrics");
    let mut log = MetricsLog::open(&folder, 0).unwrap();
    log.log(0, &[("loss", 2.5.into()), ("n", 3_usize.into()), ("note", "a \"b\"\n".into())]).unwrap();
    log.log(
        1,
        &[("loss", f64::NAN.into()), ("high", f64::INFINITY.into()), ("low", f64::NEG_INFINITY.into())],
    )
    .unwrap();
    log.log(2, &[]).unwrap();
    log.write_config(&json!({"lr": 1e-4})).unwrap();
    let text = "{\"step\": 0, \"loss\": 2.5, \"n\": 3, \"note\": \"a \\\"b\\\"\\n\"}\n\
                {\"step\": 1, \"loss\": NaN, \"high\": Infinity, \"low\": -Infinity}\n{\"step\": 2}\n";
    assert_eq!(folder.read("metrics.jsonl"), text);
    assert_eq!(folder.read("config.json"), "{\n  \"lr\": 0.0001\n}");
    let rows = MetricsLog::read(&folder).unwrap();
    assert_eq!(rows.iter().map(|row| row.step).collect::<Vec<_>>(), [Some(0), Some(1), Some(2)]);
    assert_eq!(rows[0].values["note"], MetricValue::Text("a \"b\"\n".into()));
    assert_eq!(rows[1].values["low"].as_f64(), Some(f64::NEG_INFINITY));
    let error = log.log(3, &[("step", 1.0.into())]).unwrap_err();
    assert_eq!(error.violation().unwrap().path, "row[\"step\"]");
    assert_eq!(folder.read("metrics.jsonl"), text);
}

#[test]
fn a_resume_drops_the_rows_of_steps_that_run_again_and_keeps_the_old_file() {
    let folder = Folder::new("resume");
    let old =
        "{\"step\": 0, \"x\": NaN}\n{\"note\": 1}\n{\"step\":1}\n{\"step\": 2}\n{\"step\": 2, \"eval\": 1}\n";
    folder.write("metrics.jsonl", old);
    MetricsLog::open(&folder, 3).unwrap();
    assert_eq!(folder.files(), ["metrics.jsonl"]);
    let mut log = MetricsLog::open(&folder, 2).unwrap();
    log.log(2, &[("x", 1.0.into())]).unwrap();
    let kept = "{\"step\": 0, \"x\": NaN}\n{\"note\": 1}\n{\"step\":1}\n";
    assert_eq!(folder.read("metrics.jsonl"), format!("{kept}{{\"step\": 2, \"x\": 1.0}}\n"));
    assert_eq!(folder.read("metrics.jsonl.pre_resume_000002"), old);
    // A second resume at the same step overwrites no copy.
    MetricsLog::open(&folder, 2).unwrap();
    assert_eq!(folder.read("metrics.jsonl"), kept);
    assert_eq!(folder.read("metrics.jsonl.pre_resume_000002"), old);
    assert!(folder.read("metrics.jsonl.pre_resume_000002_2").ends_with("\"x\": 1.0}\n"));
}

#[test]
fn a_row_cut_at_any_byte_is_dropped_with_a_copy_and_the_log_goes_on() {
    let whole = "{\"step\": 0}\n{\"step\": 1, \"x\": \"é\"}\n";
    let first = whole.find('\n').unwrap() + 1;
    for n in first..whole.len() {
        let folder = Folder::new("cut");
        fs::write(folder.0.join("metrics.jsonl"), &whole.as_bytes()[..n]).unwrap();
        let mut log = MetricsLog::open(&folder, 2).unwrap();
        log.log(2, &[]).unwrap();
        // A row that lacks only its line break is whole.
        let kept = if n == whole.len() - 1 { whole } else { &whole[..first] };
        assert_eq!(folder.read("metrics.jsonl"), format!("{kept}{{\"step\": 2}}\n"), "{n}");
        let copy = fs::read(folder.0.join("metrics.jsonl.pre_resume_000002")).ok();
        let is_cut = n != first && n != whole.len() - 1;
        assert_eq!(copy, is_cut.then(|| whole.as_bytes()[..n].to_vec()), "{n}");
    }
}

#[test]
fn of_the_copies_that_resumes_leave_only_the_newest_are_kept() {
    let folder = Folder::new("copies");
    for step in 0..9 {
        folder.write("metrics.jsonl", &format!("{{\"step\": {step}}}\n"));
        MetricsLog::open(&folder, step).unwrap();
        let copy = format!("metrics.jsonl.pre_resume_{step:06}");
        // The clock of a file system may be too coarse to tell one from the next.
        let time = std::time::UNIX_EPOCH + std::time::Duration::from_secs(1_000_000 + step);
        fs::File::options().append(true).open(folder.0.join(copy)).unwrap().set_modified(time).unwrap();
    }
    let copies: Vec<String> = (4..9).map(|step| format!("metrics.jsonl.pre_resume_{step:06}")).collect();
    assert_eq!(folder.files()[1..], copies);
}

#[test]
fn a_row_with_two_values_of_one_name_is_refused() {
    let folder = Folder::new("twice");
    let mut log = MetricsLog::open(&folder, 0).unwrap();
    let error = log.log(0, &[("x", 1.0.into()), ("y", 1.0.into()), ("x", 2.0.into())]).unwrap_err();
    assert_eq!(error.violation().unwrap().path, "row[\"x\"]");
    assert_eq!(folder.read("metrics.jsonl"), "");
}

#[test]
fn a_broken_row_or_record_is_named_by_file_and_line_and_nothing_is_changed() {
    let folder = Folder::new("broken");
    let path = "\"tinker://r/weights/x\"";
    for (file, text, expected) in [
        ("metrics.jsonl", "{\"step\": 0}\n{\"step\n{}\n".to_string(), "metrics.jsonl:2"),
        ("metrics.jsonl", "{\"step\": 0.5}\n".into(), "metrics.jsonl:1"),
        ("metrics.jsonl", "\n{\"step\": -1}\n".into(), "metrics.jsonl:2"),
        ("checkpoints.jsonl", format!("{{\"state_path\": {path}}}\n"), "checkpoints.jsonl:1"),
        ("checkpoints.jsonl", "{\"name\": \"a\"}\n{\"name\": 1}\n".into(), "checkpoints.jsonl:2"),
        ("checkpoints.jsonl", "{\"name\": \"a\", \"batch\": \"1\"}\n".into(), "checkpoints.jsonl:1"),
        ("checkpoints.jsonl", "{\"name\": \"a\", \"state_path\": \"x\"}\n".into(), "checkpoints.jsonl:1"),
        ("checkpoints.jsonl", "{\"name\": \"a\", \"final\": 1}\n".into(), "checkpoints.jsonl:1"),
        ("checkpoints.jsonl", "[]\n".into(), "checkpoints.jsonl:1"),
    ] {
        let _ = fs::remove_file(folder.0.join("metrics.jsonl"));
        folder.write(file, &text);
        let error = if file == "metrics.jsonl" {
            MetricsLog::open(&folder, 0).unwrap_err()
        } else {
            CheckpointLog::open(&folder).unwrap_err()
        };
        assert_eq!((place(&error).as_str(), folder.read(file)), (expected, text), "{error}");
    }
    assert_eq!(folder.files(), ["checkpoints.jsonl"]);
}

#[test]
fn records_of_the_cookbook_are_read_with_their_further_keys_and_written_again_the_same() {
    let folder = Folder::new("records");
    let lines = "{\"name\": \"000020\", \"batch\": 20, \"epoch\": 1, \"state_path\": \"tinker://r/weights/000020\", \
                 \"sampler_path\": \"tinker://r/sampler_weights/000020\", \"elapsed_tokens\": 512, \"x\": {\"y\": \
                 [1]}}\n{\"name\": \"000021\", \"rolling\": true, \"state_path\": \"tinker://r/weights/000021\"}\n\
                 {\"name\": \"final\", \"final\": true, \"sampler_path\": \"tinker://r/sampler_weights/final\"}\n";
    folder.write("checkpoints.jsonl", lines);
    let log = CheckpointLog::open(&folder).unwrap();
    let records = log.records().to_vec();
    assert_eq!((records[0].batch, records[0].epoch, records[0].next_batch), (Some(20), Some(1), None));
    assert_eq!(records[0].more["elapsed_tokens"], 512);
    assert_eq!(log.last_resumable(), Some(&records[1]));
    assert!(records[1].is_rolling && records[2].is_final);
    let copy = Folder::new("records-copy");
    let mut log = CheckpointLog::open(&copy).unwrap();
    for record in records {
        log.append(record).unwrap();
    }
    assert_eq!(copy.read("checkpoints.jsonl"), lines);
    let mut record = CheckpointRecord { name: "x".into(), ..Default::default() };
    record.more.insert("batch".into(), 3.into());
    assert_eq!(log.append(record).unwrap_err().violation().unwrap().path, "more[\"batch\"]");
}

#[test]
fn an_incomplete_record_is_dropped_with_a_copy() {
    let folder = Folder::new("torn");
    folder.write("checkpoints.jsonl", "{\"name\": \"a\"}\n{\"name\": \"b\", \"st");
    let mut log = CheckpointLog::open(&folder).unwrap();
    log.append(CheckpointRecord { name: "c".into(), ..Default::default() }).unwrap();
    assert_eq!(folder.read("checkpoints.jsonl"), "{\"name\": \"a\"}\n{\"name\": \"c\"}\n");
    assert!(folder.read("checkpoints.jsonl.torn").ends_with("\"st"));
}

#[cfg(target_os = "linux")]
#[test]
fn a_log_on_a_full_disk_is_an_error_that_names_the_file() {
    let folder = Folder::new("full");
    std::os::unix::fs::symlink("/dev/full", folder.0.join("metrics.jsonl")).unwrap();
    // Reading `/dev/full` never ends, so the log is opened without reading it.
    let mut file = super::log_file::LogFile::open(&folder.0.join("metrics.jsonl")).unwrap();
    let error = file.append("{}").unwrap_err();
    assert_eq!(*error.kind(), crate::ErrorKind::System);
    assert!(error.to_string().contains("metrics.jsonl") && error.to_string().contains("space"), "{error}");
}

#[test]
fn a_run_folder_is_locked_while_a_run_is_open() {
    let folder = Folder::new("lock");
    let lock = RunLock::take(folder.as_ref()).unwrap();
    let error = RunLock::take(folder.as_ref()).unwrap_err();
    let process = format!("(process {})", std::process::id());
    assert!(*error.kind() == crate::ErrorKind::Config && error.to_string().contains(&process), "{error}");
    drop(lock);
    RunLock::take(folder.as_ref()).unwrap();
}
