//! The runs, checkpoints and sessions of the fake server, and their lists.

use std::time::{Duration, UNIX_EPOCH};

use serde_json::{Value, json};

use super::fake::Seen;
use crate::clock_text::rfc3339;

/// A status and a body.
pub(super) type Reply = (u16, Value);

/// All sessions, runs and checkpoints, in order of creation.
#[derive(Default)]
pub(super) struct Records {
    sessions: Vec<String>,
    runs: Vec<Value>,
    checkpoints: Vec<Value>,
    created: u64,
}

impl Records {
    pub(super) fn add_session(&mut self, id: &str) {
        if !self.sessions.iter().any(|known| known == id) {
            self.sessions.push(id.into());
        }
    }

    pub(super) fn add_run(&mut self, id: &str) {
        let time = self.time();
        self.runs.push(json!({
            "training_run_id": id, "base_model": "fake/model", "model_owner": "owner-1", "is_lora": true,
            "corrupted": false, "lora_rank": 32, "last_request_time": time, "user_metadata": null,
        }));
    }

    /// Adds a checkpoint. `segment` is the middle part of its path.
    pub(super) fn add_checkpoint(&mut self, run: &str, segment: &str, name: &str) {
        let kind = if segment == "weights" { "training" } else { "sampler" };
        let time = self.time();
        self.checkpoints.push(json!({
            "checkpoint_id": format!("{segment}/{name}"), "checkpoint_type": kind, "time": time,
            "tinker_path": format!("tinker://{run}/{segment}/{name}"), "size_bytes": 1024, "public": false,
        }));
    }

    /// The time of the next creation: one second after the last one.
    fn time(&mut self) -> String {
        self.created += 1;
        rfc3339(UNIX_EPOCH + Duration::from_secs(1_795_176_000 + self.created))
    }

    /// Answers a request of `RestClient` or `AdminClient`, which open no session. `None` for other requests.
    pub(super) fn answer(&mut self, seen: &Seen) -> Option<Reply> {
        let path = seen.path.strip_prefix("/api/v1/")?;
        let (path, query) = path.split_once('?').unwrap_or((path, ""));
        let parts: Vec<&str> = path.split('/').collect();
        let body = seen.json().unwrap_or_default();
        Some(match (seen.method.as_str(), &parts[..]) {
            ("GET", ["healthz"]) => ok(json!({"status": "ok"})),
            ("GET", ["training_runs"]) => {
                let newest: Vec<Value> = self.runs.iter().rev().cloned().collect();
                ok(page("training_runs", newest, query))
            }
            ("GET", ["checkpoints"]) => {
                let newest: Vec<Value> = self.checkpoints.iter().rev().cloned().collect();
                ok(page("checkpoints", newest, query))
            }
            ("GET", ["sessions"]) => {
                let newest: Vec<Value> = self.sessions.iter().rev().map(|it| json!(it)).collect();
                let mut page = page("sessions", newest, query);
                page["cursor"].take();
                ok(page)
            }
            ("POST", ["sessions", "search"]) => {
                let found = self.sessions.iter().rev().map(|id| {
                    json!({"session_id": id, "created_at": "2026-11-20T13:00:00Z", "owner": "owner-1",
                           "project_id": "project-1", "status": {"type": "active"}, "checkpoints_count": 0})
                });
                ok(json!({"sessions": found.collect::<Vec<_>>()}))
            }
            ("GET", ["sessions", id]) => self.of_session(id, |records| {
                let ids = |name: &str| records.runs.iter().map(|run| run[name].clone()).collect::<Vec<_>>();
                ok(json!({"training_run_ids": ids("training_run_id"), "sampler_ids": []}))
            }),
            ("PUT", ["sessions", id, "project"]) => self.of_session(id, |_| ok(json!({}))),
            ("GET", ["sessions", id, "trace_export"]) => {
                let url = format!("https://storage.invalid/{id}.pftrace?signature=secret");
                self.of_session(id, |_| ok(json!({"status": "ready", "url": url})))
            }
            ("GET", ["training_runs", run]) => match self.run(run) {
                Some(it) => ok(it.clone()),
                None => missing("training run"),
            },
            ("GET", ["training_runs", run, "checkpoints"]) => match self.run(run) {
                Some(_) => {
                    let prefix = format!("tinker://{run}/");
                    let of_run =
                        |it: &&Value| it["tinker_path"].as_str().is_some_and(|it| it.starts_with(&prefix));
                    let all: Vec<&Value> = self.checkpoints.iter().filter(of_run).collect();
                    ok(json!({"checkpoints": all}))
                }
                None => missing("training run"),
            },
            (method, ["training_runs", run, "checkpoints", segment, name, action @ ..]) => {
                let path = format!("tinker://{run}/{segment}/{name}");
                match self.checkpoints.iter().position(|it| it["tinker_path"] == path) {
                    Some(i) => self.on_checkpoint(i, method, action, &body),
                    None => missing("checkpoint"),
                }
            }
            ("POST", ["copy_weights"]) => {
                let source = body["source_path"].as_str().unwrap_or_default();
                match source.strip_prefix("tinker://").and_then(|it| it.split_once('/')) {
                    Some((_, rest)) => ok(json!({"tinker_path": format!("tinker://copy-1/{rest}")})),
                    None => (400, json!({"detail": "source_path is not a tinker:// path"})),
                }
            }
            ("GET", ["audit"]) => ok(json!({"entries": []})),
            ("GET", ["billing", "usage", "events"]) => ok(json!({"data": [], "sessions": {}})),
            ("GET", ["billing", "usage", "checkpoints", "current"]) => ok(json!({"data": []})),
            ("GET", ["auth", "apikey", "me"]) => ok(json!({
                "key_id": 1, "name": "key-1", "note": "",
                "details": {"org_details": {"name": "org-1"}, "user_details": {"email": "a@example.com"}},
            })),
            ("DELETE", ["auth", "apikey", "me"]) => (204, Value::Null),
            _ => return None,
        })
    }

    fn on_checkpoint(&mut self, i: usize, method: &str, action: &[&str], body: &Value) -> Reply {
        let checkpoint = &mut self.checkpoints[i];
        match (method, action) {
            ("DELETE", []) => {
                self.checkpoints.remove(i);
                (204, Value::Null)
            }
            ("POST" | "DELETE", ["publish"]) => {
                let public = json!(method == "POST");
                if checkpoint["public"] == public {
                    return (409, json!({"detail": format!("public is {public} already")}));
                }
                checkpoint["public"] = public;
                ok(json!({}))
            }
            ("PUT", ["ttl"]) => {
                let end = body["ttl_seconds"]
                    .as_u64()
                    .map(|it| UNIX_EPOCH + Duration::from_secs(1_795_176_000 + it));
                checkpoint["expires_at"] = json!(end.map(rfc3339));
                ok(json!({}))
            }
            ("GET", ["archive"]) => {
                let expires = "2026-11-20T15:00:00Z";
                ok(json!({"url": "https://storage.invalid/archive.tar?signature=secret", "expires": expires}))
            }
            ("GET", ["external_weights_urls"]) => (400, json!({"detail": "the checkpoint is not external"})),
            _ => (405, json!({"detail": "Method Not Allowed"})),
        }
    }

    fn run(&self, id: &str) -> Option<&Value> {
        self.runs.iter().find(|it| it["training_run_id"] == id)
    }

    fn of_session(&self, id: &str, answer: impl FnOnce(&Self) -> Reply) -> Reply {
        if self.sessions.iter().any(|known| known == id) { answer(self) } else { missing("session") }
    }
}

fn ok(body: Value) -> Reply {
    (200, body)
}

fn missing(kind: &str) -> Reply {
    (404, json!({"detail": format!("this {kind} does not exist")}))
}

fn page(name: &str, all: Vec<Value>, query: &str) -> Value {
    let number = |name: &str, default: usize| {
        let value = query.split('&').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='));
        value.and_then(|it| it.parse().ok()).unwrap_or(default)
    };
    let (limit, offset) = (number("limit", 20), number("offset", 0));
    let total = all.len();
    let items: Vec<Value> = all.into_iter().skip(offset).take(limit).collect();
    json!({name: items, "cursor": {"offset": offset, "limit": limit, "total_count": total}})
}
