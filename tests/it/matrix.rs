//! Servers that lack an endpoint, or whose endpoint fails. Each row of a table names an endpoint and a verb (a method
//! of a client) that uses the endpoint. The test gives the endpoint every [`Behaviour`] and checks that the verb ends
//! in time, with the outcome that the row expects.

use std::sync::mpsc;
use std::time::Duration;

use serde_json::json;
use tinkex::testing::{Act, FakeServer, VirtualClock};
use tinkex::types::{AuditEventType, CopyOptions, LossFn, ModelInput, SamplingParams, Ttl};
use tinkex::{AdminClient, CloseStatus, Error, ErrorKind, RestClient, ServiceClient, ServiceClientBuilder};

use crate::util::{TEST_TIMEOUT, datum, eventually};

/// Behaviour of the server at one endpoint.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Behaviour {
    Present,
    NotFound,
    NotAllowed,
    Fails,
    /// The server never answers.
    Silent,
}

use Behaviour::*;

const BEHAVIOURS: [Behaviour; 5] = [Present, NotFound, NotAllowed, Fails, Silent];

impl Behaviour {
    fn act(self) -> Option<Act> {
        let status = |code, detail: &str| Some(Act::status(code, json!({"detail": detail}).to_string()));
        match self {
            Present => None,
            NotFound => status(404, "Not Found"),
            NotAllowed => status(405, "Method Not Allowed"),
            Fails => status(500, "oops"),
            Silent => Some(Act::Stall),
        }
    }
}

/// Outcome of a verb.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Outcome {
    Works,
    /// [`ErrorKind::Incompatible`].
    Incompatible,
    /// A 404 that may be about the endpoint or about the object that the request names, such as a run. The error text
    /// mentions both.
    Unclear,
    /// An error with this HTTP status.
    Status(u16),
    TimedOut,
    Other,
}

impl Outcome {
    fn of(result: &Result<(), Error>) -> Self {
        let Err(error) = result else { return Outcome::Works };
        match error.kind() {
            ErrorKind::Incompatible => Outcome::Incompatible,
            ErrorKind::NotFound if error.to_string().contains("does not offer this call") => Outcome::Unclear,
            ErrorKind::NotFound => Outcome::Status(404),
            ErrorKind::Status { code } => Outcome::Status(*code),
            _ if error.is_timeout() => Outcome::TimedOut,
            _ => Outcome::Other,
        }
    }
}

/// Reaction of a verb to an endpoint that is missing or fails.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Degrades {
    /// The verb works, whatever the endpoint does.
    NotNeeded,
    /// The verb works if the endpoint is missing, and fails if the endpoint fails.
    WorksWithout,
    /// The request names no object. So a 404 means that the endpoint is missing: [`Outcome::Incompatible`].
    Incompatible,
    /// The request names an object, such as a run. So a 404 may be about the endpoint or about the object:
    /// [`Outcome::Unclear`].
    Named,
}

impl Degrades {
    fn expected(self, behaviour: Behaviour) -> Outcome {
        match (self, behaviour) {
            (_, Present) | (Degrades::NotNeeded, _) => Outcome::Works,
            (Degrades::WorksWithout, NotFound | NotAllowed) => Outcome::Works,
            (Degrades::Incompatible, NotFound | NotAllowed) | (Degrades::Named, NotAllowed) => {
                Outcome::Incompatible
            }
            (Degrades::Named, NotFound) => Outcome::Unclear,
            (_, Fails) => Outcome::Status(500),
            (_, Silent) => Outcome::TimedOut,
        }
    }
}

/// A server with one model, one saved training state and one set of saved sampler weights; and clients of this server
/// that have sent no request yet.
pub(crate) struct Scene {
    pub(crate) service: ServiceClient,
    pub(crate) rest: RestClient,
    pub(crate) admin: AdminClient,
    pub(crate) server: FakeServer,
    pub(crate) clock: VirtualClock,
}

/// A row of the table: a verb and one endpoint that the verb uses.
#[derive(Clone)]
pub(crate) struct Row {
    pub(crate) client: &'static str,
    pub(crate) verb: &'static str,
    /// Method and path; `*` stands for any segment.
    endpoint: (&'static str, &'static str),
    degrades: Degrades,
    pub(crate) run: fn(&Scene) -> Result<(), Error>,
}

const STATE: &str = "tinker://model-1/weights/x";
const WEIGHTS: &str = "tinker://model-1/sampler_weights/x";

pub(crate) fn rows() -> Vec<Row> {
    use Degrades::*;
    let mut rows = Vec::new();
    let mut row = |client, verb, method, path, degrades, run| {
        rows.push(Row { client, verb, endpoint: (method, path), degrades, run });
    };
    fn sample(scene: &Scene) -> Result<(), Error> {
        let sampler = scene.service.create_sampling_client("fake/model")?;
        let params = SamplingParams { max_tokens: Some(1), ..Default::default() };
        sampler.sample(&ModelInput::from_ints([1]), 1, &params).wait().map(drop)
    }
    fn train(scene: &Scene) -> Result<(), Error> {
        let training = scene.service.create_lora_training_client("fake/model", Default::default())?;
        training.forward_backward(vec![datum()], LossFn::CrossEntropy).wait().map(drop)
    }
    fn close(scene: &Scene) -> Result<(), Error> {
        train(scene)?;
        scene.service.close(CloseStatus::Success)
    }
    const CHECKPOINT: &str = "training_runs/*/checkpoints/*/*";

    // Runs a verb and closes the session: the close sends all telemetry.
    fn report(scene: &Scene, run: fn(&Scene) -> Result<(), Error>) -> Result<(), Error> {
        run(scene)?;
        scene.service.close(CloseStatus::Success)
    }
    // Drops an unfinished sample, so that the client sends `cancel_future`. Then waits for another sample.
    fn give_up(scene: &Scene) -> Result<(), Error> {
        let flags = json!({"sample_cancel_enabled": true, "sample_cancel_max_batch_size": 1});
        scene.server.always("/api/v1/client/dynamic_config", Act::json(flags));
        scene.server.always("/api/v1/retrieve_futures", Act::json(json!({"completions": [], "cursor": 0})));
        // Keep the first sample unfinished: the client may ask either endpoint for its result.
        scene.server.always("/api/v1/retrieve_future", Act::json(json!({"type": "try_again"})));
        let sampler = scene.service.create_sampling_client("fake/model")?;
        let given_up = sampler.sample(&ModelInput::from_ints([1]), 1, &SamplingParams::default());
        eventually("the sample has a promise", || given_up.status().request_id.is_some());
        drop(given_up);
        let cancelled = || !scene.server.requests_to("/api/v1/cancel_future").is_empty();
        eventually("the cancellation is sent", cancelled);
        scene.server.behave("/api/v1/retrieve_futures");
        scene.server.behave("/api/v1/retrieve_future");
        sample(scene)
    }
    // Makes a client from a sampler handle. This client requests a clone number with `join_sampling_session`.
    fn share(scene: &Scene) -> Result<(), Error> {
        let flags = json!({"pjwt_auth_enabled": false, "sample_join_sampling_session": true});
        scene.server.always("/api/v1/client/config", Act::json(flags));
        let handle = scene.service.create_sampling_client("fake/model")?.get_sampler_handle();
        let builder = settings(scene.server.in_memory_at(scene.clock.clone()), false);
        let sampler = builder.from_sampler_handle(&handle)?;
        let params = SamplingParams { max_tokens: Some(1), ..Default::default() };
        sampler.sample(&ModelInput::from_ints([1]), 1, &params).wait().map(drop)
    }

    for (client, run) in [("service", close as fn(&Scene) -> _), ("training", train), ("sampling", sample)] {
        row(client, "any", "POST", "client/config", NotNeeded, run);
        row(client, "any", "POST", "client/dynamic_config", NotNeeded, run);
    }
    row("service", "close", "POST", "telemetry", NotNeeded, close);
    row("training", "any", "POST", "telemetry", NotNeeded, |it| report(it, train));
    row("sampling", "any", "POST", "telemetry", NotNeeded, |it| report(it, sample));
    row("sampling", "any", "POST", "retrieve_futures", NotNeeded, sample);
    row("sampling", "a sample given up", "POST", "cancel_future", NotNeeded, give_up);
    row("sampling", "from_sampler_handle", "POST", "join_sampling_session", WorksWithout, share);
    row("service", "close", "POST", "sessions/*/finish", WorksWithout, close);
    row("service", "get_server_capabilities", "GET", "get_server_capabilities", Incompatible, |scene| {
        scene.service.get_server_capabilities().map(drop)
    });
    row("service", "create_sampling_client of weights", "GET", "samplers/*", WorksWithout, |scene| {
        scene.service.create_sampling_client(WEIGHTS).map(drop)
    });
    row("service", "create_sampling_client", "POST", "create_sampling_session", Incompatible, |scene| {
        scene.service.create_sampling_client("fake/model").map(drop)
    });
    row("service", "create_lora_training_client", "POST", "create_model", Incompatible, |scene| {
        scene.service.create_lora_training_client("fake/model", Default::default()).map(drop)
    });
    // A timer sends heartbeats. A failed heartbeat does not end the session, so that training still works.
    row("training", "after a heartbeat", "POST", "session_heartbeat", NotNeeded, |scene| {
        train(scene)?;
        let beats = || scene.server.requests_to("/api/v1/session_heartbeat").len();
        eventually("a heartbeat", || {
            scene.clock.advance(Duration::from_secs(11));
            0 < beats()
        });
        train(scene)
    });
    // There are two kinds of `load_weights` requests. Without a `model_id` the request creates a model from the
    // checkpoint; `play` applies the behaviour only to this kind, which some servers lack. With a `model_id` it loads
    // the checkpoint into an existing model. The client falls back to this kind, which every server has: it first
    // creates a model.
    row("training", "create_training_client_from_state", "POST", "load_weights", WorksWithout, |scene| {
        scene.service.create_training_client_from_state(STATE).map(drop)
    });
    row(
        "training",
        "create_training_client_from_state_with_optimizer",
        "POST",
        "load_weights",
        WorksWithout,
        |it| it.service.create_training_client_from_state_with_optimizer(STATE).map(drop),
    );

    row("REST", "healthz", "GET", "healthz", Incompatible, |it| it.rest.healthz().map(drop));
    row("REST", "get_server_capabilities", "GET", "get_server_capabilities", Incompatible, |scene| {
        scene.rest.get_server_capabilities().map(drop)
    });
    row("REST", "list_training_runs", "GET", "training_runs", Incompatible, |scene| {
        scene.rest.list_training_runs().collect::<Result<Vec<_>, _>>().map(drop)
    });
    row("REST", "get_training_run", "GET", "training_runs/*", Named, |scene| {
        scene.rest.get_training_run("model-1").map(drop)
    });
    row("REST", "get_training_run_by_tinker_path", "GET", "training_runs/*", Named, |scene| {
        scene.rest.get_training_run_by_tinker_path(STATE).map(drop)
    });
    row("REST", "list_checkpoints", "GET", "training_runs/*/checkpoints", Named, |scene| {
        scene.rest.list_checkpoints("model-1").map(drop)
    });
    row("REST", "keep_last", "GET", "training_runs/*/checkpoints", Named, |scene| {
        scene.rest.keep_last("model-1", 1).map(drop)
    });
    row("REST", "list_user_checkpoints", "GET", "checkpoints", Incompatible, |scene| {
        scene.rest.list_user_checkpoints().collect::<Result<Vec<_>, _>>().map(drop)
    });
    row("REST", "delete_checkpoint", "DELETE", CHECKPOINT, Named, |scene| {
        scene.rest.delete_checkpoint("model-1", "weights/x")
    });
    row("REST", "delete_checkpoint_from_tinker_path", "DELETE", CHECKPOINT, Named, |scene| {
        scene.rest.delete_checkpoint_from_tinker_path(STATE)
    });
    row("REST", "delete_checkpoints", "DELETE", CHECKPOINT, Named, |scene| {
        let paths = [STATE, WEIGHTS].map(|it| it.parse().unwrap());
        scene.rest.delete_checkpoints(paths).into_iter().try_for_each(|it| it.1)
    });
    row(
        "REST",
        "publish_checkpoint_from_tinker_path",
        "POST",
        "training_runs/*/checkpoints/*/*/publish",
        Named,
        |it| it.rest.publish_checkpoint_from_tinker_path(STATE),
    );
    row(
        "REST",
        "unpublish_checkpoint_from_tinker_path",
        "DELETE",
        "training_runs/*/checkpoints/*/*/publish",
        Named,
        |scene| {
            scene.rest.publish_checkpoint_from_tinker_path(STATE)?;
            scene.rest.unpublish_checkpoint_from_tinker_path(STATE)
        },
    );
    row(
        "REST",
        "set_checkpoint_ttl_from_tinker_path",
        "PUT",
        "training_runs/*/checkpoints/*/*/ttl",
        Named,
        |it| it.rest.set_checkpoint_ttl_from_tinker_path(STATE, Ttl::Never),
    );
    row(
        "REST",
        "get_external_weights_urls",
        "GET",
        "training_runs/*/checkpoints/*/*/external_weights_urls",
        Named,
        |it| it.rest.get_external_weights_urls("tinker://model-1/external_weights/x").map(drop),
    );
    row(
        "REST",
        "get_checkpoint_archive_url",
        "GET",
        "training_runs/*/checkpoints/*/*/archive",
        Named,
        |it| it.rest.get_checkpoint_archive_url(STATE).map(drop),
    );
    row("REST", "get_weights_info_by_tinker_path", "POST", "weights_info", Named, |scene| {
        scene.rest.get_weights_info_by_tinker_path(STATE).map(drop)
    });
    row("REST", "copy_weights", "POST", "copy_weights", Named, |scene| {
        let options = CopyOptions { destination_project_id: Some("p".into()), ..Default::default() };
        scene.rest.copy_weights(STATE, &options).map(drop)
    });
    row("REST", "get_sampler", "GET", "samplers/*", Named, |it| it.rest.get_sampler("sampler-1").map(drop));
    row("REST", "list_sessions", "GET", "sessions", Incompatible, |scene| {
        scene.rest.list_sessions().collect::<Result<Vec<_>, _>>().map(drop)
    });
    row("REST", "get_session", "GET", "sessions/*", Named, |it| it.rest.get_session("session-1").map(drop));
    row("REST", "assign_session_project", "PUT", "sessions/*/project", Named, |scene| {
        scene.rest.assign_session_project("session-1", "p")
    });
    row("REST", "export_session_trace", "GET", "sessions/*/trace_export", Named, |scene| {
        scene.rest.export_session_trace("session-1").map(drop)
    });
    row("REST", "search_sessions", "POST", "sessions/search", Incompatible, |scene| {
        scene.rest.search_sessions(Default::default()).collect::<Result<Vec<_>, _>>().map(drop)
    });
    row("REST", "get_api_key_info", "GET", "auth/apikey/me", Incompatible, |scene| {
        scene.rest.get_api_key_info().map(drop)
    });

    row("admin", "get_audit_log", "GET", "audit", Incompatible, |scene| {
        scene.admin.get_audit_log(AuditEventType::All, None).map(drop)
    });
    row("admin", "get_billing_usage", "GET", "billing/usage/events", Incompatible, |scene| {
        scene.admin.get_billing_usage("2026-11-20T00:00:00Z", "2026-11-20T01:00:00Z").map(drop)
    });
    row(
        "admin",
        "get_current_checkpoint_storage_usage",
        "GET",
        "billing/usage/checkpoints/current",
        Incompatible,
        |it| it.admin.get_current_checkpoint_storage_usage(None).map(drop),
    );
    row(
        "admin",
        "get_current_checkpoint_storage_usage of a project",
        "GET",
        "billing/usage/checkpoints/current",
        Named,
        |it| it.admin.get_current_checkpoint_storage_usage(Some("p")).map(drop),
    );
    row("admin", "get_audit_log", "POST", "client/dynamic_config", NotNeeded, |scene| {
        scene.admin.get_audit_log(AuditEventType::All, None).map(drop)
    });
    rows
}

/// True if a request goes to `endpoint`.
fn goes_to(endpoint: (&str, &str), method: &str, path: &str) -> bool {
    let path = path.strip_prefix("/api/v1/").unwrap_or(path);
    let path = path.split('?').next().unwrap_or_default();
    let (pattern, segments) = (endpoint.1.split('/'), path.split('/'));
    method == endpoint.0
        && pattern.clone().count() == segments.clone().count()
        && pattern.zip(segments).all(|(pattern, segment)| pattern == "*" || pattern == segment)
}

/// Creates a server with the checkpoints that the rows use.
fn server_with_checkpoints() -> FakeServer {
    let server = FakeServer::new();
    server.polls_together();
    let service = server.in_memory().build().unwrap();
    let training = service.create_lora_training_client("fake/model", Default::default()).unwrap();
    training.save_state("x", Ttl::Never).wait().unwrap();
    training.save_weights_for_sampler("x", Ttl::Never).wait().unwrap();
    service.close(CloseStatus::Success).unwrap();
    server
}

/// Time limit of an operation, on the virtual clock.
const OPERATION: Duration = Duration::from_secs(120);
const FOR_EVER: Duration = Duration::from_secs(30 * 24 * 3600);

/// True if not only the thread of the verb, but also other threads advance the virtual clock. The clock then does not
/// measure the time of the verb.
fn races(row: &Row) -> bool {
    matches!(row.endpoint.1, "retrieve_futures" | "session_heartbeat" | "cancel_future" | "telemetry")
}

/// Settings of every client of the matrix.
fn settings(builder: ServiceClientBuilder, races: bool) -> ServiceClientBuilder {
    // If other threads, such as the poller, advance the clock too, the time on the clock may pass very fast. Such rows
    // need timeouts that never pass.
    let (silence, operation) =
        if races { (FOR_EVER, FOR_EVER) } else { (Duration::from_secs(60), OPERATION) };
    builder.telemetry(true).timeouts(|timeouts| {
        timeouts.submit = Duration::from_secs(30);
        timeouts.exchange = Duration::from_secs(10);
        timeouts.poll = Duration::from_secs(10);
        timeouts.silence = silence;
        timeouts.operation = operation;
    })
}

/// Makes the clients for a row.
fn scene(server: FakeServer, row: &Row) -> Scene {
    let clock = VirtualClock::new();
    let service = settings(server.in_memory_at(clock.clone()), races(row)).build().unwrap();
    let (rest, admin) = (service.create_rest_client(), service.create_admin_client());
    Scene { service, rest, admin, server, clock }
}

/// Runs the verb of a row. Returns the result, and the time that the verb took on the virtual clock.
fn play(row: &Row, behaviour: Behaviour) -> (Result<(), Error>, Duration) {
    let server = server_with_checkpoints();
    let endpoint = row.endpoint;
    server.script(move |seen| {
        let names_a_model = || seen.json().is_some_and(|it| it["model_id"].is_string());
        if goes_to(endpoint, &seen.method, &seen.path)
            && !(endpoint.1 == "load_weights" && names_a_model())
            && let Some(act) = behaviour.act()
        {
            return Some(act);
        }
        let urls = json!({"urls": {"adapter.safetensors": "https://storage.invalid/x"}, "expires": "2026-11-20T13:00:00Z"});
        seen.path.ends_with("/external_weights_urls").then(|| Act::json(urls))
    });
    let scene = scene(server, row);
    let clock = scene.clock.clone();
    let before = clock.clock().now();
    let result = (row.run)(&scene);
    (result, clock.clock().now() - before)
}

#[test]
fn every_verb_has_the_expected_outcome_for_every_behaviour_of_its_endpoint() {
    let mut wrong = Vec::new();
    for row in rows() {
        for behaviour in BEHAVIOURS {
            let name = format!("{} client, {}: {:?} is {behaviour:?}", row.client, row.verb, row.endpoint);
            let expected = row.degrades.expected(behaviour);
            let (done, result) = mpsc::channel();
            let played = row.clone();
            // Do not join the thread: if the verb hangs, the test must still end.
            std::thread::spawn(move || done.send(play(&played, behaviour)));
            match result.recv_timeout(TEST_TIMEOUT) {
                Ok((result, took)) => {
                    let outcome = Outcome::of(&result);
                    if outcome != expected {
                        wrong.push(format!("{name}: expected {expected:?}, got {outcome:?}: {result:?}"));
                    }
                    if !races(&row) && OPERATION * 3 < took {
                        wrong.push(format!("{name}: took {took:?} on the virtual clock"));
                    }
                }
                Err(_) => wrong.push(format!("{name}: hangs, or panicked")),
            }
        }
    }
    assert!(wrong.is_empty(), "{} cells are wrong:\n{}", wrong.len(), wrong.join("\n"));
}

#[test]
fn every_verb_of_the_table_sends_a_request_to_its_endpoint() {
    // The test above does not show this: a row with `NotNeeded` passes with every behaviour if its verb does not use
    // the endpoint at all.
    for row in rows() {
        let server = server_with_checkpoints();
        let n_before = server.requests().len();
        // Ignore the result: some verbs name objects that this server does not have.
        drop((row.run)(&scene(server.clone(), &row)));
        let sent = || {
            let requests = server.requests();
            requests.iter().skip(n_before).any(|seen| goes_to(row.endpoint, &seen.method, &seen.path))
        };
        eventually(&format!("{} sends a request to {:?}", row.verb, row.endpoint), sent);
    }
}
