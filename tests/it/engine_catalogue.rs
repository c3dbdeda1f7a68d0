//! Training runs and sessions after the engine was stopped: the next engine on the data folder lists them.

use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};
use tinkex::local::Options;

use crate::util::engine::Client;
use crate::util::folder::Folder;

fn options(folder: &Path) -> Options {
    let aliases = [("Qwen/Qwen3-8B".to_string(), "tinkex/nano".to_string())].into();
    Options { data_dir: Some(folder.into()), aliases, ..Options::default() }
}

fn create(client: &Client, number: u64, metadata: Value) -> String {
    let body = json!({"session_id": client.session, "model_seq_id": number, "base_model": "Qwen/Qwen3-8B",
                      "lora_config": {"rank": 4}, "user_metadata": metadata});
    client.run("create_model", &body)["model_id"].as_str().unwrap().into()
}

/// Ids of the listed sessions with their state.
fn sessions(client: &Client) -> Vec<(String, Value)> {
    let (status, found) = client.post("sessions/search", &json!({}));
    assert_eq!(status, 200, "{found}");
    let found = found["sessions"].as_array().unwrap().iter();
    found.map(|it| (it["session_id"].as_str().unwrap().into(), it["status"]["type"].clone())).collect()
}

fn put(client: &Client, path: &str, body: &Value) -> u16 {
    let request = client.agent.put(client.url(path)).header("X-API-Key", client.server.api_key());
    let sent = request.header("Content-Type", "application/json").send(body.to_string());
    sent.unwrap().status().as_u16()
}

#[test]
fn runs_without_checkpoints_and_ended_sessions_are_listed_by_the_next_engine() {
    let folder = Folder::new("catalogue-next");
    let client = Client::with(options(&folder.0));
    let named = json!({"tags": [], "type": "create_session", "display_name": "night", "user_metadata": {"team": "a"}});
    let finished = client.post("create_session", &named).1["session_id"].as_str().unwrap().to_string();
    let body = json!({"reason": {"type": "errored"}, "detail": "no more data"});
    assert_eq!(client.post(&format!("sessions/{finished}/finish"), &body).0, 200);
    let plain = create(&client, 0, json!({"purpose": "a test", "n": 3}));
    let saved = create(&client, 1, json!({}));
    let path = json!({"model_id": saved, "path": "a", "seq_id": 1, "user_metadata": {"k": "v"}});
    client.run("save_weights", &path);
    let checkpoint = format!("training_runs/{saved}/checkpoints/weights/a");
    assert_eq!(put(&client, &format!("{checkpoint}/ttl"), &json!({"ttl_seconds": 7200})), 200);
    assert_eq!(client.post(&format!("{checkpoint}/publish"), &json!({})).0, 200);
    client.run("unload_model", &json!({"model_id": plain}));
    assert_eq!(
        put(&client, &format!("sessions/{}/project", client.session), &json!({"project_id": "p"})),
        200
    );
    let lists = ["training_runs", "training_runs?project_id=p", "checkpoints", "sessions"];
    let lists = |client: &Client| lists.map(|it| client.get(it).1);
    let before = lists(&client);
    assert_eq!(before[0]["training_runs"].as_array().unwrap().len(), 2);
    let session = client.session.clone();
    let info = client.get(&format!("sessions/{session}")).1;
    client.server.stop();

    let server = tinkex::local::Server::start(options(&folder.0)).unwrap();
    let next = Client::alongside(server);
    assert_eq!(lists(&next), before);
    let run = next.get(&format!("training_runs/{plain}")).1;
    assert_eq!((&run["base_model"], &run["lora_rank"]), (&json!("Qwen/Qwen3-8B"), &json!(4)));
    assert_eq!(run["user_metadata"], json!({"purpose": "a test", "n": "3"}));
    assert_eq!(next.get(&format!("training_runs/{plain}/checkpoints")).1["checkpoints"], json!([]));
    let again = next.get(&format!("sessions/{session}")).1;
    assert_eq!(again["training_run_ids"], info["training_run_ids"]);
    assert_eq!((&again["training_run_ids"][0], &again["sampler_ids"]), (&json!(plain), &json!([])));
    let stopped = (session.clone(), json!("cancelled"));
    assert_eq!(sessions(&next), [(finished.clone(), json!("client_finished")), stopped.clone()]);
    let errored =
        json!({"statuses": [{"type": "client_finished", "reasons": ["errored"]}], "display_name": "nigh"});
    let found = next.post("sessions/search", &errored).1;
    assert_eq!(found["sessions"][0]["status"]["detail"], "no more data");
    assert_eq!(found["sessions"][0]["user_metadata"], json!({"team": "a"}));
    // A program of the earlier engine cannot go on.
    let (status, gone) = next.post("session_heartbeat", &json!({"session_id": session}));
    assert_eq!((status, &gone["detail"]), (410, &json!(format!("session {session} is finished"))));
    assert_eq!(next.post("get_info", &json!({"model_id": saved})).0, 404);
    next.server.stop();
}

#[test]
fn records_that_cannot_be_read_do_not_keep_an_engine_from_starting() {
    let folder = Folder::new("catalogue-broken");
    let client = Client::with(options(&folder.0));
    let kept = create(&client, 0, json!({}));
    let lost = create(&client, 1, json!({}));
    client.server.stop();
    let catalogue = folder.0.join(".tinkex/catalogue");
    let file = catalogue.join(format!("runs/{}.json", lost.replace(':', "_")));
    let whole = std::fs::read(&file).unwrap();
    std::fs::write(&file, &whole[..whole.len() - 9]).unwrap();
    for entry in std::fs::read_dir(catalogue.join("sessions")).unwrap() {
        std::fs::write(entry.unwrap().path(), b"\0\0\0").unwrap();
    }
    let client = Client::with(options(&folder.0));
    let runs = client.get("training_runs").1;
    let ids: Vec<&str> = runs["training_runs"]
        .as_array()
        .unwrap()
        .iter()
        .filter_map(|it| it["training_run_id"].as_str())
        .collect();
    assert_eq!(ids, [kept.as_str()]);
    assert_eq!(sessions(&client), [(client.session.clone(), json!("active"))]);
    client.server.stop();
}

#[test]
fn sessions_and_models_above_their_limits_are_refused_with_status_429() {
    let client = Client::with(Options { max_sessions: 2, max_models: 1, ..Options::default() });
    let open = || client.post("create_session", &json!({"tags": [], "type": "create_session"}));
    let (status, second) = open();
    assert_eq!(status, 200);
    let (status, refused) = open();
    assert!(status == 429 && refused["detail"].as_str().unwrap().contains("max_sessions"), "{refused}");
    let finish = json!({"reason": {"type": "success"}, "detail": null});
    client.post(&format!("sessions/{}/finish", second["session_id"].as_str().unwrap()), &finish);
    assert_eq!(open().0, 200);
    let model = client.model(0);
    let body = json!({"session_id": client.session, "model_seq_id": 1, "base_model": "tinkex/nano"});
    let (status, refused) = client.post("create_model", &body);
    assert!(status == 429 && refused["detail"].as_str().unwrap().contains("max_models"), "{refused}");
    client.run("unload_model", &json!({"model_id": model}));
    client.run("create_model", &body);
}

#[test]
fn a_paused_session_makes_room_for_another() {
    let pause_after = Duration::from_millis(50);
    let client = Client::with(Options { max_sessions: 1, pause_after, ..Options::default() });
    let open = || client.post("create_session", &json!({"tags": [], "type": "create_session"})).0;
    crate::util::eventually("the first session is paused and ended", || open() == 200);
    assert_eq!(client.post("session_heartbeat", &json!({"session_id": client.session})).0, 410);
}
