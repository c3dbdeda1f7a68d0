//! A data folder that is full: a save fails with an error, nothing that was saved before is lost, and the run goes on.
#![cfg(target_os = "linux")]

use std::path::Path;
use std::process::{Command, Output};

use serde_json::{Value, json};
use tinkex::ErrorKind;
use tinkex::local::{Options, Server};

use crate::util::engine::{Client, sample};
use crate::util::folder::Folder;

/// Environment variable of the child process: the folder that becomes full.
const FOLDER: &str = "TINKEX_TEST_FULL_FOLDER";

fn options(folder: &Path) -> Options {
    Options { data_dir: Some(folder.into()), ..Options::default() }
}

/// Runs one test of this program in a child process, which a command starts that gets the folder and the program.
fn in_child(test: &str, folder: &Path, starter: &str) -> Output {
    let mut command = Command::new("sh");
    command.args(["-c", starter, "sh"]).arg(folder).arg(std::env::current_exe().unwrap());
    command.args(["--exact", test, "--test-threads=1", "--nocapture"]).env(FOLDER, folder);
    command.output().unwrap()
}

fn assert_success(output: &Output) {
    let (out, error) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success() && out.contains("1 passed"), "{}: {out}{error}", output.status);
}

/// Requests whose sequence numbers count up.
struct Program {
    client: Client,
    model: String,
    seq: u64,
}

impl Program {
    fn new(client: Client) -> Program {
        let model = client.model(0);
        Program { client, model, seq: 0 }
    }

    fn train(&mut self) -> f64 {
        self.seq += 2;
        self.client.losses(&self.model, self.seq - 1, 1)[0]
    }

    /// The result of a save, which may be an error.
    fn save(&mut self, verb: &str, name: Option<&str>, overwrite: bool) -> Value {
        self.seq += 1;
        let body = json!({"model_id": self.model, "path": name, "seq_id": self.seq, "overwrite": overwrite,
                          "sampling_session_seq_id": self.seq});
        self.client.wait(&self.client.submit(verb, &body))
    }

    fn names(&self) -> Vec<String> {
        let (_, listed) = self.client.get("checkpoints");
        let listed = listed["checkpoints"].as_array().unwrap().iter();
        let mut names: Vec<String> =
            listed.map(|it| it["checkpoint_id"].as_str().unwrap().to_string()).collect();
        names.sort();
        names
    }
}

/// Contents of all files of a folder, by name.
fn contents(folder: &Path) -> Vec<(String, Vec<u8>)> {
    let entries = std::fs::read_dir(folder).unwrap().map(|it| it.unwrap());
    let mut files: Vec<_> = entries
        .map(|it| (it.file_name().into_string().unwrap(), std::fs::read(it.path()).unwrap()))
        .collect();
    files.sort();
    files
}

/// Saves while the disk is full and after it has room again. `fill` fills the disk or makes room, and `why` is part of
/// the system's error.
fn save_on_a_full_disk(data: &Path, fill: impl Fn(bool), why: &str) {
    let mut program = Program::new(Client::with(options(data)));
    let first = program.train();
    let saved = program.save("save_weights", Some("a"), false);
    let saved = saved["path"].as_str().unwrap_or_else(|| panic!("{saved}"));
    let folder = data.join(program.model.replace(':', "_")).join("weights/a");
    let before = contents(&folder);

    fill(true);
    for (verb, name, overwrite) in [
        ("save_weights", Some("b"), false),
        ("save_weights", Some("a"), true),
        ("save_weights_for_sampler", Some("s"), false),
        ("save_weights_for_sampler", None, false),
        ("save_weights_external", Some("e"), false),
    ] {
        let result = program.save(verb, name, overwrite);
        let error = result["error"].as_str().unwrap_or_else(|| panic!("{verb}: {result}"));
        assert!(result["category"] == "server" && error.contains(why), "{verb}: {result}");
        let place = if name.is_some() { "cannot write" } else { "scratch file" };
        assert!(error.contains(place), "{verb}: {error}");
    }
    let copy = json!({"source_path": saved, "destination_project_id": "p"});
    let (status, refused) = program.client.post("copy_weights", &copy);
    assert!(status == 500 && refused["detail"].as_str().unwrap().contains(why), "{status} {refused}");
    assert_eq!((contents(&folder), program.names()), (before, vec!["weights/a".to_string()]));
    let drafts = data.join(".tinkex/drafts");
    assert_eq!(std::fs::read_dir(&drafts).unwrap().count(), 0, "the failed saves leave no files");
    // Training goes on, also in a new session, and so does the work with the old checkpoint.
    assert!(program.train() < first);
    let (status, made) =
        program.client.post("create_session", &json!({"tags": [], "type": "create_session"}));
    assert_eq!(status, 200, "{made}");
    let other = made["session_id"].as_str().unwrap().to_string();
    let body = json!({"session_id": other, "model_seq_id": 0, "path": saved, "optimizer": true});
    program.client.run("load_weights", &body);

    fill(false);
    program.train();
    for name in ["b", "a"] {
        let saved = program.save("save_weights", Some(name), true);
        assert!(saved["path"].is_string(), "{saved}");
    }
    let sampler = program.save("save_weights_for_sampler", None, false);
    let sampler = sampler["sampling_session_id"].as_str().unwrap_or_else(|| panic!("{sampler}"));
    program.client.run("asample", &sample(sampler, 0, json!({"max_tokens": 1})));
    assert_eq!(program.names(), ["weights/a", "weights/b"]);
    program.client.server.stop();
    let client = Client::with(options(data));
    let (_, listed) = client.get("sessions");
    let listed = listed["sessions"].as_array().unwrap();
    assert!(listed.contains(&json!(other)), "a record that found no room is written later: {listed:?}");
    client.server.stop();
}

#[test]
fn a_save_on_a_full_disk_fails_and_loses_nothing() {
    if let Some(folder) = std::env::var_os(FOLDER) {
        let folder = Path::new(&folder);
        let (data, filler) = (folder.join("data"), folder.join("filler"));
        let fill = |full: bool| {
            if full {
                // Ends with the error of a full disk.
                let _ = std::fs::write(&filler, vec![1u8; 64 << 20]);
                let _ = std::fs::write(folder.join("last"), vec![1u8; 1 << 20]);
            } else {
                std::fs::remove_file(&filler).unwrap();
            }
        };
        save_on_a_full_disk(&data, fill, "No space left on device");
        fill(true);
        // An engine starts on a full disk if its folder exists, so that checkpoints can be deleted.
        let mut program = Program::new(Client::with(options(&data)));
        assert!(program.save("save_weights", Some("c"), false)["error"].is_string());
        assert_eq!(program.names(), ["weights/a", "weights/b"]);
        let (_, listed) = program.client.get("checkpoints");
        let path = listed["checkpoints"][0]["tinker_path"].as_str().unwrap();
        let path = path.strip_prefix("tinker://").unwrap().replacen('/', "/checkpoints/", 1);
        let url = program.client.url(&format!("training_runs/{path}"));
        let key = program.client.server.api_key();
        let deleted = program.client.agent.delete(url).header("X-API-Key", key).call().unwrap();
        assert_eq!(deleted.status(), 204);
        let saved = program.save("save_weights", Some("c"), false);
        assert!(saved["path"].is_string(), "the deletion made room: {saved}");
        fill(true);
        let error = Server::start(options(&folder.join("new"))).unwrap_err();
        let text = error.to_string();
        assert_eq!(error.kind(), &ErrorKind::System, "{text}");
        assert!(text.contains("/new") && text.contains("No space left on device"), "{text}");
        return;
    }
    // A file system of its own needs a user namespace, which some containers do not allow.
    const MOUNT: &str = "mount -t tmpfs -o size=8m tinkex \"$1\"";
    let folder = Folder::new("full-disk");
    let wrapped = |then: &str| {
        format!("exec unshare --user --map-root-user --mount sh -c '{MOUNT} && {then}' sh \"$@\"")
    };
    let allowed = Command::new("sh").args(["-c", &wrapped("true"), "sh"]).arg(&folder.0).output().unwrap();
    if !allowed.status.success() {
        #[expect(clippy::print_stderr, reason = "a test that does not run says so")]
        {
            eprintln!("not run: no mount in a user namespace: {}", String::from_utf8_lossy(&allowed.stderr));
        }
        return;
    }
    let test = "engine_disk::a_save_on_a_full_disk_fails_and_loses_nothing";
    assert_success(&in_child(test, &folder.0, &wrapped("shift && exec \"$@\"")));
}

#[test]
fn a_save_above_the_limit_of_file_sizes_fails_and_loses_nothing() {
    // Works without any privileges: the system refuses to let a file grow above the limit.
    if let Some(folder) = std::env::var_os(FOLDER) {
        let limit = |full: bool| {
            let size = if full { "16384:unlimited" } else { "unlimited:unlimited" };
            let pid = std::process::id().to_string();
            let done = Command::new("prlimit").args(["--pid", &pid, &format!("--fsize={size}")]).status();
            assert!(done.unwrap().success());
        };
        save_on_a_full_disk(&Path::new(&folder).join("data"), limit, "File too large");
        return;
    }
    let folder = Folder::new("full-size");
    let test = "engine_disk::a_save_above_the_limit_of_file_sizes_fails_and_loses_nothing";
    // Ignores the signal that ends a process at the limit by default.
    assert_success(&in_child(test, &folder.0, "trap '' XFSZ; shift && exec \"$@\""));
}

/// Bytes of the files of a folder.
fn size_of(folder: &Path) -> u64 {
    contents(folder).iter().map(|it| it.1.len() as u64).sum()
}

#[test]
fn a_save_above_the_limit_of_the_data_folder_is_refused_before_anything_is_written() {
    let folder = Folder::new("full-limit");
    // Find out how much the files of an engine and of one checkpoint need.
    let mut program = Program::new(Client::with(options(&folder.0.join("free"))));
    assert!(program.save("save_weights", Some("a"), false)["path"].is_string());
    let one = size_of(&folder.0.join("free").join(program.model.replace(':', "_")).join("weights/a"));
    program.client.server.stop();
    let all =
        Command::new("du").args(["-sb", "--apparent-size"]).arg(folder.0.join("free")).output().unwrap();
    let all: u64 = String::from_utf8_lossy(&all.stdout).split_whitespace().next().unwrap().parse().unwrap();

    let data = folder.0.join("limited");
    let max_disk_bytes = Some(all + one / 2);
    let mut program = Program::new(Client::with(Options { max_disk_bytes, ..options(&data) }));
    let saved = program.save("save_weights", Some("a"), false);
    let saved = saved["path"].as_str().unwrap_or_else(|| panic!("{saved}")).to_string();
    let before = contents(&data.join(program.model.replace(':', "_")).join("weights/a"));
    for (verb, name, overwrite) in [("save_weights", Some("b"), false), ("save_weights", Some("a"), true)] {
        let refused = program.save(verb, name, overwrite);
        let error = refused["error"].as_str().unwrap_or_else(|| panic!("{verb}: {refused}"));
        assert!(error.contains("Options::max_disk_bytes") && error.contains("cannot save"), "{error}");
        assert_eq!(refused["category"], "user");
    }
    let copy = json!({"source_path": saved, "destination_project_id": "p"});
    let (status, refused) = program.client.post("copy_weights", &copy);
    assert!(status == 400 && refused["detail"].as_str().unwrap().contains("max_disk_bytes"), "{refused}");
    assert_eq!(contents(&data.join(program.model.replace(':', "_")).join("weights/a")), before);
    assert_eq!(std::fs::read_dir(data.join(".tinkex/drafts")).unwrap().count(), 0);
    // Samplers take from the same space. A third of a checkpoint is weights, the rest the state of the optimizer.
    let mut samplers = 0;
    let refused = loop {
        program.train();
        let made = program.save("save_weights_for_sampler", None, false);
        if made.get("error").is_some() {
            break made;
        }
        samplers += 1;
        assert!(samplers < 4);
    };
    assert!(0 < samplers && refused["error"].as_str().unwrap().contains("max_disk_bytes"), "{refused}");
    assert_eq!(refused["category"], "user");
    program.client.server.stop();

    // The samplers are gone, and so is the checkpoint after its deletion.
    let mut program = Program::new(Client::with(Options { max_disk_bytes, ..options(&data) }));
    assert!(program.save("save_weights", Some("a"), false)["error"].is_string());
    let path = saved.strip_prefix("tinker://").unwrap().replacen('/', "/checkpoints/", 1);
    let url = program.client.url(&format!("training_runs/{path}"));
    let key = program.client.server.api_key();
    assert_eq!(program.client.agent.delete(url).header("X-API-Key", key).call().unwrap().status(), 204);
    assert!(program.save("save_weights", Some("a"), false)["path"].is_string());
    program.client.server.stop();
}
