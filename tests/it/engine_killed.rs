//! The engine is killed at random moments while a program trains, saves, copies, publishes and deletes. The next engine
//! on the data folder has everything that was acknowledged, and nothing that was half done.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde_json::{Value, json};
use tinkex::local::{Options, Server};

use crate::util::engine::{Client, pass, sample, step};

/// Environment variable with the number of kills. Default 20.
const KILLS: &str = "TINKEX_TEST_STORE_KILLS";
/// Environment variable with the seed, a number. Default: a random one, which is printed.
const SEED: &str = "TINKEX_TEST_STORE_SEED";
/// Environment variables of the child process that is killed: its data folder and its seed.
const CHILD_FOLDER: &str = "TINKEX_TEST_STORE_FOLDER";
const CHILD_SEED: &str = "TINKEX_TEST_STORE_CHILD_SEED";

/// Number of checkpoints above which the program deletes one.
const MAX_CHECKPOINTS: usize = 24;

fn options(folder: &Path) -> Options {
    Options { data_dir: Some(folder.into()), ..Options::default() }
}

/// Folder of a checkpoint in the data folder.
fn folder_of(data: &Path, path: &str) -> PathBuf {
    let path = path.strip_prefix("tinker://").expect("a path");
    let (run, rest) = path.split_once('/').expect("a path");
    data.join(run.replace(':', "_")).join(rest)
}

/// Hashes of the files of a checkpoint, without the description, which is in the list.
fn hashes(data: &Path, path: &str) -> Value {
    let mut files = BTreeMap::new();
    for entry in std::fs::read_dir(folder_of(data, path)).expect("the folder") {
        let entry = entry.expect("an entry");
        let name = entry.file_name().into_string().expect("a name");
        if name != "tinkex.json" {
            let mut hasher = DefaultHasher::new();
            std::fs::read(entry.path()).expect("the file").hash(&mut hasher);
            files.insert(name, hasher.finish().to_string());
        }
    }
    json!(files)
}

/// All checkpoints by path, as the engine lists them, each with the hashes of its files.
fn checkpoints(client: &Client, data: &Path) -> BTreeMap<String, Value> {
    let (status, listed) = client.get("checkpoints?limit=1000");
    assert_eq!(status, 200, "{listed}");
    let listed = listed["checkpoints"].as_array().expect("a list").clone();
    let entry = |mut it: Value| {
        let path = it["tinker_path"].as_str().expect("a path").to_string();
        it["files"] = hashes(data, &path);
        (path, it)
    };
    listed.into_iter().map(entry).collect()
}

/// URL path of a checkpoint.
fn url_of(path: &str) -> String {
    let (run, rest) = path.strip_prefix("tinker://").and_then(|it| it.split_once('/')).expect("a path");
    format!("training_runs/{run}/checkpoints/{rest}")
}

/// Sends a request without a body or with one, and requires success.
fn change(client: &Client, method: &str, path: &str, body: Value) {
    let (url, key) = (client.url(path), client.server.api_key());
    let done = match method {
        "DELETE" => client.agent.delete(url).header("X-API-Key", key).call(),
        _ => {
            let request = client.agent.put(url).header("X-API-Key", key);
            request.header("Content-Type", "application/json").send(body.to_string())
        }
    };
    let status = done.expect("an answer").status().as_u16();
    assert!(matches!(status, 200 | 204), "{method} {path}: {status}");
}

/// Writes a line for the parent process.
fn tell(event: &Value) {
    std::io::stderr().write_all(format!("event {event}\n").as_bytes()).expect("a pipe");
}

/// Trains and changes checkpoints until the process is killed. Tells the parent each change before it is requested and
/// after it is acknowledged.
fn work_until_killed(data: &Path, seed: u64) {
    let mut rng = fastrand::Rng::with_seed(seed);
    let client = Client::with(options(data));
    tell(&json!({"session": client.session}));
    let create = json!({"session_id": client.session, "model_seq_id": 0, "base_model": "tinkex/nano",
                        "lora_config": {"rank": 2, "seed": 1}, "user_metadata": {"seed": seed.to_string()}});
    let model = client.run("create_model", &create)["model_id"].as_str().expect("an id").to_string();
    tell(&json!({"run": model, "seed": seed.to_string()}));
    let mut seq = 0;
    let mut next = || {
        seq += 1;
        seq
    };
    for n in 0.. {
        client.run("forward_backward", &pass(&model, next(), "forward_backward_input"));
        client.run("optim_step", &step(&model, next()));
        let known: Vec<String> = checkpoints(&client, data).into_keys().collect();
        let target = rng.choice(&known).cloned();
        let action = if MAX_CHECKPOINTS < known.len() { 9 } else { rng.u32(0..10) };
        let ttl = rng.bool().then_some(3600 + rng.u64(0..1000));
        let path = match (action, target) {
            (0..3, _) => {
                let path = format!("tinker://{model}/weights/{}", ["a", "b", "c"][action as usize]);
                let loss = client.run("forward", &pass(&model, next(), "forward_input"));
                tell(&json!({"begin": "save", "path": path, "n": n.to_string()}));
                let name = path.rsplit('/').next().expect("a name");
                let metadata = json!({"n": n.to_string(), "loss": loss["metrics"]["loss:sum"].to_string()});
                let body = json!({"model_id": model, "path": name, "seq_id": next(), "overwrite": true,
                                  "ttl_seconds": ttl, "user_metadata": metadata});
                client.run("save_weights", &body);
                path
            }
            (3 | 4, _) => {
                let path = format!("tinker://{model}/sampler_weights/s{n}");
                tell(&json!({"begin": "save", "path": path, "n": n.to_string()}));
                let body = json!({"model_id": model, "path": format!("s{n}"), "seq_id": next(),
                                  "ttl_seconds": ttl, "user_metadata": {"n": n.to_string()}});
                client.run("save_weights_for_sampler", &body);
                path
            }
            (5, _) => {
                let path = format!("tinker://{model}/external_weights/e{n}");
                tell(&json!({"begin": "save", "path": path, "n": null}));
                let body =
                    json!({"model_id": model, "path": format!("e{n}"), "seq_id": next(), "ttl_seconds": ttl});
                client.run("save_weights_external", &body);
                path
            }
            (6, Some(path)) => {
                tell(&json!({"begin": "describe", "path": path}));
                change(&client, "PUT", &format!("{}/ttl", url_of(&path)), json!({"ttl_seconds": ttl}));
                path
            }
            (7, Some(path)) => {
                tell(&json!({"begin": "describe", "path": path}));
                // A refusal says that the checkpoint is public already.
                client.post(&format!("{}/publish", url_of(&path)), &json!({}));
                path
            }
            (8, Some(source)) => {
                tell(&json!({"begin": "copy", "source": source}));
                let body = json!({"source_path": source, "destination_project_id": "p", "ttl_seconds": ttl});
                let (status, made) = client.post("copy_weights", &body);
                assert_eq!(status, 200, "{made}");
                made["tinker_path"].as_str().expect("a path").to_string()
            }
            (9, Some(path)) => {
                tell(&json!({"begin": "delete", "path": path}));
                change(&client, "DELETE", &url_of(&path), Value::Null);
                path
            }
            _ => continue,
        };
        let state = checkpoints(&client, data).remove(&path).unwrap_or_default();
        tell(&json!({"done": path, "state": state}));
    }
}

/// All that was acknowledged.
#[derive(Default)]
struct Acknowledged {
    checkpoints: BTreeMap<String, Value>,
    sessions: BTreeSet<String>,
    /// Seeds of the runs, by run.
    runs: BTreeMap<String, String>,
    /// Change that was requested and not acknowledged.
    open: Option<Value>,
}

impl Acknowledged {
    fn note(&mut self, event: Value) {
        if let Some(id) = event["session"].as_str() {
            self.sessions.insert(id.into());
        } else if let Some(id) = event["run"].as_str() {
            self.runs.insert(id.into(), event["seed"].as_str().expect("a seed").into());
        } else if let Some(path) = event["done"].as_str() {
            self.open = None;
            match &event["state"] {
                Value::Null => drop(self.checkpoints.remove(path)),
                state => drop(self.checkpoints.insert(path.into(), state.clone())),
            }
        } else {
            self.open = Some(event);
        }
    }

    /// Checks the checkpoints that the next engine found. The change that was not acknowledged may have happened, but
    /// only as a whole.
    fn check(&mut self, mut found: BTreeMap<String, Value>) {
        let open = self.open.take().unwrap_or_default();
        let changed = match open["begin"].as_str() {
            Some("copy") => found.keys().find(|it| !self.checkpoints.contains_key(*it)).cloned(),
            _ => open["path"].as_str().map(str::to_owned),
        };
        if let Some(path) = changed {
            let (before, after) = (self.checkpoints.remove(&path), found.remove(&path));
            if after != before {
                let after = after.clone().unwrap_or_default();
                let before = before.clone().unwrap_or_default();
                match open["begin"].as_str() {
                    Some("save") => {
                        assert_eq!(
                            after["user_metadata"].get("n").unwrap_or(&Value::Null),
                            &open["n"],
                            "{after}"
                        );
                    }
                    Some("describe") => assert_eq!(after["files"], before["files"], "{path}"),
                    Some("copy") => {
                        let source = open["source"].as_str().expect("a path");
                        let source = self.checkpoints[source]["files"].clone();
                        // The name of the run is in no file but the description.
                        assert_eq!(after["files"], source, "{path}");
                    }
                    _ => assert_eq!(after, Value::Null, "{path}"),
                }
            }
            if let Some(it) = after {
                self.checkpoints.insert(path.clone(), it.clone());
                found.insert(path, it);
            }
        }
        assert_eq!(found, self.checkpoints);
    }
}

/// Loads every checkpoint of some runs, and compares the loss of those that were saved with it.
fn load_all(client: &Client, saved: &BTreeMap<String, Value>, run: &str) {
    let of_run = saved.iter().filter(|it| it.0.starts_with(&format!("tinker://{run}/")));
    for (i, (path, entry)) in of_run.enumerate() {
        let i = i as u64;
        if path.contains("/sampler_weights/") {
            let body =
                json!({"session_id": client.session, "sampling_session_seq_id": i, "model_path": path});
            let (status, made) = client.post("create_sampling_session", &body);
            assert_eq!(status, 200, "{made}");
            let sampler = made["sampling_session_id"].as_str().expect("an id");
            client.run("asample", &sample(sampler, 0, json!({"max_tokens": 1})));
        } else if path.contains("/weights/") {
            let body =
                json!({"session_id": client.session, "model_seq_id": i, "path": path, "optimizer": true});
            let model = client.run("load_weights", &body)["model_id"].as_str().expect("an id").to_string();
            let output = client.run("forward", &pass(&model, 1, "forward_input"));
            let loss = entry["user_metadata"]["loss"].as_str().expect("a loss");
            assert_eq!(output["metrics"]["loss:sum"].to_string(), loss, "{path}");
        }
    }
}

/// Names in a folder, sorted.
fn names(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).expect("a folder");
    let mut names: Vec<String> =
        entries.map(|it| it.expect("an entry").file_name().into_string().expect("a name")).collect();
    names.sort();
    names
}

/// Checks that the data folder of a running engine has the listed checkpoints and nothing else.
fn check_folder(data: &Path, saved: &BTreeMap<String, Value>) {
    let own = data.join(".tinkex");
    assert_eq!(names(&own), ["catalogue", "drafts", "engine.json", "lock"]);
    assert!(names(&own.join("drafts")).is_empty(), "{:?}", names(&own.join("drafts")));
    let listed: BTreeSet<PathBuf> = saved.keys().map(|it| folder_of(data, it)).collect();
    let mut found = BTreeSet::new();
    for run in names(data).iter().filter(|it| ![".tinkex", "hub", "tokenizer"].contains(&it.as_str())) {
        let kinds = names(&data.join(run));
        assert!(!kinds.is_empty(), "the folder of the run {run} is empty");
        for kind in kinds.iter().map(|it| data.join(run).join(it)) {
            assert!(!names(&kind).is_empty(), "{} is empty", kind.display());
            found.extend(names(&kind).iter().map(|it| kind.join(it)));
        }
    }
    assert_eq!(found, listed);
}

fn spawn(data: &Path, seed: u64) -> Child {
    const TEST: &str = "engine_killed::what_a_killed_engine_acknowledged_is_there_and_nothing_is_half_there";
    Command::new(std::env::current_exe().expect("a path"))
        .args(["--exact", TEST, "--test-threads=1", "--nocapture"])
        .env(CHILD_FOLDER, data)
        .env(CHILD_SEED, seed.to_string())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .expect("a process")
}

#[test]
#[expect(clippy::print_stderr, reason = "the seed repeats a run that failed")]
fn what_a_killed_engine_acknowledged_is_there_and_nothing_is_half_there() {
    if let (Some(data), Ok(seed)) = (std::env::var_os(CHILD_FOLDER), std::env::var(CHILD_SEED)) {
        return work_until_killed(Path::new(&data), seed.parse().expect("a number"));
    }
    let number = |name: &str| std::env::var(name).ok().map(|it| it.parse().expect("a number"));
    let (kills, seed) = (number(KILLS).unwrap_or(20), number(SEED).unwrap_or_else(|| fastrand::u64(..)));
    eprintln!("{SEED}={seed}, {kills} kills");
    let mut rng = fastrand::Rng::with_seed(seed);
    let data = std::env::temp_dir().join(format!("tinkex-store-{}", std::process::id()));
    let mut known = Acknowledged::default();
    for kill in 0..kills {
        let mut child = spawn(&data, seed.wrapping_add(kill + 1));
        let mut lines = BufReader::new(child.stderr.take().expect("a pipe")).lines();
        let mut next = || {
            let line = lines
                .by_ref()
                .map_while(Result::ok)
                .find_map(|it| it.strip_prefix("event ").map(str::to_owned));
            line.map(|it| serde_json::from_str::<Value>(&it).expect("JSON"))
        };
        // Every fourth engine is killed at any moment from its start on, the others while changes are made.
        let mut events = Vec::new();
        if !kill.is_multiple_of(4) {
            events.extend(next());
            events.extend(next());
        }
        std::thread::sleep(Duration::from_micros(rng.u64(0..500_000)));
        child.kill().expect("a kill");
        child.wait().expect("the end");
        events.extend(std::iter::from_fn(next));
        let run = events.iter().find_map(|it| it["run"].as_str().map(str::to_owned));
        events.into_iter().for_each(|it| known.note(it));

        let client = Client::with(options(&data));
        let found = checkpoints(&client, &data);
        check_folder(&data, &found);
        known.check(found);
        if let Some(run) = run {
            load_all(&client, &known.checkpoints, &run);
        }
        for (id, seed) in &known.runs {
            let (status, run) = client.get(&format!("training_runs/{id}"));
            assert_eq!((status, &run["lora_rank"]), (200, &json!(2)), "{run}");
            assert_eq!(run["user_metadata"], json!({"seed": seed}), "{run}");
        }
        let (_, listed) = client.get("sessions?limit=1000");
        let listed: BTreeSet<&str> =
            listed["sessions"].as_array().expect("a list").iter().filter_map(Value::as_str).collect();
        let missing: Vec<&String> =
            known.sessions.iter().filter(|it| !listed.contains(it.as_str())).collect();
        assert!(missing.is_empty(), "{missing:?} of {listed:?}");
        // One session of the killed engine and one of this client for each kill.
        assert!(listed.len() as u64 <= 2 * (kill + 1), "{listed:?}");
        let (_, active) = client.post("sessions/search", &json!({"statuses": [{"type": "active"}]}));
        assert_eq!(active["sessions"].as_array().map(Vec::len), Some(1), "{active}");
        client.server.stop();
    }
    assert!(known.sessions.len() as u64 >= kills / 2, "most engines lived long enough to work");
    let server = Server::start(options(&data)).expect("a server");
    server.stop();
    std::fs::remove_dir_all(&data).expect("cleaning up");
}
