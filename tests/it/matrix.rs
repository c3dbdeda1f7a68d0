//! Every endpoint that a server may lack, as servers may answer there, with every client that uses it: nobody hangs, and
//! each verb does what its row says.

use std::sync::mpsc;
use std::time::Duration;

use serde_json::json;
use tinkex::testing::{Act, FakeServer, VirtualClock};
use tinkex::types::{AuditEventType, CopyOptions, LossFn, ModelInput, SamplingParams, Ttl};
use tinkex::{
    AdminClient, CloseStatus, Error, ErrorKind, Phase, RestClient, ServiceClient, ServiceClientBuilder,
};

use crate::util::{PATIENCE, datum, eventually};

/// How the server treats one endpoint.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Behaviour {
    Present,
    NotFound,
    NotAllowed,
    Fails,
    /// It never answers.
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

/// What becomes of a verb.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Outcome {
    Works,
    /// The server does not offer what the call needs.
    Incompatible,
    /// A 404 that may mean the endpoint or the thing that was named; the text says both.
    Unclear,
    /// The server's own error.
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
            ErrorKind::Timeout(Phase::Wait) => Outcome::Other,
            _ if error.is_timeout() => Outcome::TimedOut,
            _ => Outcome::Other,
        }
    }
}

/// What a verb does about an endpoint that is not as it should be.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Degrades {
    /// It works without, whatever the server does there.
    NeedsItNot,
    /// It works where the endpoint is missing; where it fails, so does the verb.
    WorksWithout,
    /// The request names nothing that could be missing: the endpoint is.
    Incompatible,
    /// The request names a thing: a 404 may be about either.
    Named,
}

impl Degrades {
    fn expected(self, behaviour: Behaviour) -> Outcome {
        match (self, behaviour) {
            (_, Present) | (Degrades::NeedsItNot, _) => Outcome::Works,
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

/// A server with one model, one state, one sampler's weights, and clients of it that have not asked anything yet.
pub(crate) struct Scene {
    pub(crate) service: ServiceClient,
    pub(crate) rest: RestClient,
    pub(crate) admin: AdminClient,
    pub(crate) server: FakeServer,
    pub(crate) clock: VirtualClock,
}

#[derive(Clone)]
pub(crate) struct Row {
    pub(crate) client: &'static str,
    pub(crate) verb: &'static str,
    /// Method and path; a star is any segment.
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
    fn sample(it: &Scene) -> Result<(), Error> {
        let sampler = it.service.create_sampling_client("fake/model")?;
        let params = SamplingParams { max_tokens: Some(1), ..Default::default() };
        sampler.sample(&ModelInput::from_ints([1]), 1, &params).wait().map(drop)
    }
    fn train(it: &Scene) -> Result<(), Error> {
        let training = it.service.create_lora_training_client("fake/model", Default::default())?;
        training.forward_backward(vec![datum()], LossFn::CrossEntropy).wait().map(drop)
    }
    fn close(it: &Scene) -> Result<(), Error> {
        train(it)?;
        it.service.close(CloseStatus::Success)
    }
    const CHECKPOINT: &str = "training_runs/*/checkpoints/*/*";

    // What is reported goes at the end of the session at the latest.
    fn report(it: &Scene, run: fn(&Scene) -> Result<(), Error>) -> Result<(), Error> {
        run(it)?;
        it.service.close(CloseStatus::Success)
    }
    // A sample that nobody waits for any more, and one that somebody does.
    fn give_up(it: &Scene) -> Result<(), Error> {
        let wish = json!({"sample_cancel_enabled": true, "sample_cancel_max_batch_size": 1});
        it.server.always("/api/v1/client/dynamic_config", Act::json(wish));
        it.server.always("/api/v1/retrieve_futures", Act::json(json!({"completions": [], "cursor": 0})));
        // Not by itself either.
        it.server.always("/api/v1/retrieve_future", Act::json(json!({"type": "try_again"})));
        let sampler = it.service.create_sampling_client("fake/model")?;
        let given_up = sampler.sample(&ModelInput::from_ints([1]), 1, &SamplingParams::default());
        eventually("a promise", || given_up.status().request_id.is_some());
        drop(given_up);
        let told = || !it.server.requests_to("/api/v1/cancel_future").is_empty();
        eventually("the server is told", told);
        it.server.behave("/api/v1/retrieve_futures");
        it.server.behave("/api/v1/retrieve_future");
        sample(it)
    }
    // A client in another process, of which the sampling session is asked for a number.
    fn share(it: &Scene) -> Result<(), Error> {
        let flags = json!({"pjwt_auth_enabled": false, "sample_join_sampling_session": true});
        it.server.always("/api/v1/client/config", Act::json(flags));
        let handle = it.service.create_sampling_client("fake/model")?.get_sampler_handle();
        let builder = settings(it.server.in_memory_at(it.clock.clone()), false);
        let sampler = builder.from_sampler_handle(&handle)?;
        let params = SamplingParams { max_tokens: Some(1), ..Default::default() };
        sampler.sample(&ModelInput::from_ints([1]), 1, &params).wait().map(drop)
    }

    for (client, run) in [("service", close as fn(&Scene) -> _), ("training", train), ("sampling", sample)] {
        row(client, "any", "POST", "client/config", NeedsItNot, run);
        row(client, "any", "POST", "client/dynamic_config", NeedsItNot, run);
    }
    row("service", "close", "POST", "telemetry", NeedsItNot, close);
    row("training", "any", "POST", "telemetry", NeedsItNot, |it| report(it, train));
    row("sampling", "any", "POST", "telemetry", NeedsItNot, |it| report(it, sample));
    row("sampling", "any", "POST", "retrieve_futures", NeedsItNot, sample);
    row("sampling", "a sample given up", "POST", "cancel_future", NeedsItNot, give_up);
    row("sampling", "from_sampler_handle", "POST", "join_sampling_session", WorksWithout, share);
    row("service", "close", "POST", "sessions/*/finish", WorksWithout, close);
    row("service", "get_server_capabilities", "GET", "get_server_capabilities", Incompatible, |it| {
        it.service.get_server_capabilities().map(drop)
    });
    row("service", "create_sampling_client of weights", "GET", "samplers/*", WorksWithout, |it| {
        it.service.create_sampling_client(WEIGHTS).map(drop)
    });
    row("service", "create_sampling_client", "POST", "create_sampling_session", Incompatible, |it| {
        it.service.create_sampling_client("fake/model").map(drop)
    });
    row("service", "create_lora_training_client", "POST", "create_model", Incompatible, |it| {
        it.service.create_lora_training_client("fake/model", Default::default()).map(drop)
    });
    // The heartbeat is no verb, and the session's life does not depend on one of them.
    row("training", "after a heartbeat", "POST", "session_heartbeat", NeedsItNot, |it| {
        train(it)?;
        let beats = || it.server.requests_to("/api/v1/session_heartbeat").len();
        eventually("a heartbeat", || {
            it.clock.advance(Duration::from_secs(11));
            0 < beats()
        });
        train(it)
    });
    // Loads that make a model bear no model's id. A load into a model is not optional.
    row("training", "create_training_client_from_state", "POST", "load_weights", WorksWithout, |it| {
        it.service.create_training_client_from_state(STATE).map(drop)
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
    row("REST", "get_server_capabilities", "GET", "get_server_capabilities", Incompatible, |it| {
        it.rest.get_server_capabilities().map(drop)
    });
    row("REST", "list_training_runs", "GET", "training_runs", Incompatible, |it| {
        it.rest.list_training_runs().collect::<Result<Vec<_>, _>>().map(drop)
    });
    row("REST", "get_training_run", "GET", "training_runs/*", Named, |it| {
        it.rest.get_training_run("model-1").map(drop)
    });
    row("REST", "get_training_run_by_tinker_path", "GET", "training_runs/*", Named, |it| {
        it.rest.get_training_run_by_tinker_path(STATE).map(drop)
    });
    row("REST", "list_checkpoints", "GET", "training_runs/*/checkpoints", Named, |it| {
        it.rest.list_checkpoints("model-1").map(drop)
    });
    row("REST", "keep_last", "GET", "training_runs/*/checkpoints", Named, |it| {
        it.rest.keep_last("model-1", 1).map(drop)
    });
    row("REST", "list_user_checkpoints", "GET", "checkpoints", Incompatible, |it| {
        it.rest.list_user_checkpoints().collect::<Result<Vec<_>, _>>().map(drop)
    });
    row("REST", "delete_checkpoint", "DELETE", CHECKPOINT, Named, |it| {
        it.rest.delete_checkpoint("model-1", "weights/x")
    });
    row("REST", "delete_checkpoint_from_tinker_path", "DELETE", CHECKPOINT, Named, |it| {
        it.rest.delete_checkpoint_from_tinker_path(STATE)
    });
    row("REST", "delete_checkpoints", "DELETE", CHECKPOINT, Named, |it| {
        let paths = [STATE, WEIGHTS].map(|it| it.parse().unwrap());
        it.rest.delete_checkpoints(paths).into_iter().try_for_each(|it| it.1)
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
        |it| {
            it.rest.publish_checkpoint_from_tinker_path(STATE)?;
            it.rest.unpublish_checkpoint_from_tinker_path(STATE)
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
    row("REST", "get_weights_info_by_tinker_path", "POST", "weights_info", Named, |it| {
        it.rest.get_weights_info_by_tinker_path(STATE).map(drop)
    });
    row("REST", "copy_weights", "POST", "copy_weights", Named, |it| {
        let options = CopyOptions { destination_project_id: Some("p".into()), ..Default::default() };
        it.rest.copy_weights(STATE, &options).map(drop)
    });
    row("REST", "get_sampler", "GET", "samplers/*", Named, |it| it.rest.get_sampler("sampler-1").map(drop));
    row("REST", "list_sessions", "GET", "sessions", Incompatible, |it| {
        it.rest.list_sessions().collect::<Result<Vec<_>, _>>().map(drop)
    });
    row("REST", "get_session", "GET", "sessions/*", Named, |it| it.rest.get_session("session-1").map(drop));
    row("REST", "assign_session_project", "PUT", "sessions/*/project", Named, |it| {
        it.rest.assign_session_project("session-1", "p")
    });
    row("REST", "export_session_trace", "GET", "sessions/*/trace_export", Named, |it| {
        it.rest.export_session_trace("session-1").map(drop)
    });
    row("REST", "search_sessions", "POST", "sessions/search", Incompatible, |it| {
        it.rest.search_sessions(Default::default()).collect::<Result<Vec<_>, _>>().map(drop)
    });
    row("REST", "get_api_key_info", "GET", "auth/apikey/me", Incompatible, |it| {
        it.rest.get_api_key_info().map(drop)
    });

    row("admin", "get_audit_log", "GET", "audit", Incompatible, |it| {
        it.admin.get_audit_log(AuditEventType::All, None).map(drop)
    });
    row("admin", "get_billing_usage", "GET", "billing/usage/events", Incompatible, |it| {
        it.admin.get_billing_usage("2026-11-20T00:00:00Z", "2026-11-20T01:00:00Z").map(drop)
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
    row("admin", "get_audit_log", "POST", "client/dynamic_config", NeedsItNot, |it| {
        it.admin.get_audit_log(AuditEventType::All, None).map(drop)
    });
    rows
}

/// Whether a request goes to an endpoint.
fn goes_to(endpoint: (&str, &str), method: &str, path: &str) -> bool {
    let path = path.strip_prefix("/api/v1/").unwrap_or(path);
    let path = path.split('?').next().unwrap_or_default();
    let (wanted, asked) = (endpoint.1.split('/'), path.split('/'));
    method == endpoint.0
        && wanted.clone().count() == asked.clone().count()
        && wanted.zip(asked).all(|(wanted, asked)| wanted == "*" || wanted == asked)
}

/// The server, with what the rows ask for.
fn furnished() -> FakeServer {
    let server = FakeServer::new();
    server.polls_together();
    let service = server.in_memory().build().unwrap();
    let training = service.create_lora_training_client("fake/model", Default::default()).unwrap();
    training.save_state("x", Ttl::Never).wait().unwrap();
    training.save_weights_for_sampler("x", Ttl::Never).wait().unwrap();
    service.close(CloseStatus::Success).unwrap();
    server
}

/// The longest that an operation may take, on the virtual clock.
const OPERATION: Duration = Duration::from_secs(120);
const FOR_EVER: Duration = Duration::from_secs(30 * 24 * 3600);

/// Whether another thread than the verb's moves the virtual clock.
fn races(row: &Row) -> bool {
    matches!(row.endpoint.1, "retrieve_futures" | "session_heartbeat" | "cancel_future" | "telemetry")
}

/// What all clients of the matrix have in common.
fn settings(builder: ServiceClientBuilder, races: bool) -> ServiceClientBuilder {
    // Other threads, such as the one that waits for many samples at once, may be far ahead on this clock.
    let (silence, operation) = match races {
        true => (FOR_EVER, FOR_EVER),
        false => (Duration::from_secs(60), OPERATION),
    };
    builder.telemetry(true).timeouts(|it| {
        it.submit = Duration::from_secs(30);
        it.exchange = Duration::from_secs(10);
        it.poll = Duration::from_secs(10);
        it.silence = silence;
        it.operation = operation;
    })
}

/// A server and clients of it, for a row.
fn scene(server: FakeServer, row: &Row) -> Scene {
    let clock = VirtualClock::new();
    let service = settings(server.in_memory_at(clock.clone()), races(row)).build().unwrap();
    let (rest, admin) = (service.create_rest_client(), service.create_admin_client());
    Scene { service, rest, admin, server, clock }
}

/// What becomes of a row's verb, and how long it took on the virtual clock.
fn play(row: &Row, behaviour: Behaviour) -> (Result<(), Error>, Duration) {
    let server = furnished();
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
fn every_verb_meets_its_row_for_every_behaviour_of_its_endpoint() {
    let mut wrong = Vec::new();
    for row in rows() {
        for behaviour in BEHAVIOURS {
            let name = format!("{} client, {}: {:?} is {behaviour:?}", row.client, row.verb, row.endpoint);
            let expected = row.degrades.expected(behaviour);
            let (done, result) = mpsc::channel();
            let played = row.clone();
            // Not joined: who hangs would take the test along.
            std::thread::spawn(move || done.send(play(&played, behaviour)));
            match result.recv_timeout(PATIENCE) {
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
    // A row whose verb never asks its endpoint would pass whatever the server does there.
    for row in rows() {
        let server = furnished();
        let n_before = server.requests().len();
        // Some ask for what this server does not have, which is an answer as well.
        drop((row.run)(&scene(server.clone(), &row)));
        let asked =
            || server.requests().iter().skip(n_before).any(|it| goes_to(row.endpoint, &it.method, &it.path));
        eventually(&format!("{} asks {:?}", row.verb, row.endpoint), asked);
    }
}
