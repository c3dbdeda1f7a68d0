//! Limits of what a request can make the engine keep or compute. The figures are read from the table in `docs::compat`, so
//! that what the table says is what is tested.

use std::collections::BTreeSet;

use serde_json::{Value, json};
use tinkex::local::Options;

use crate::util::engine::{Client, pass, sample, step};

const PAGE: &str = include_str!("../../src/_docs/compat.md");

const METADATA: &str = "bytes of the metadata of a session, a model, a checkpoint";
const NAME: &str = "bytes of the name of a session, a project, a custom loss, and of an idempotency key";
const DETAIL: &str = "bytes of the text with which a session ends";
const NESTING: &str = "nesting of a JSON body";
const STOP_TOKENS: &str = "tokens that stop a sample";
const STOP_STRINGS: &str = "strings that stop a sample";
const STOP_BYTES: &str = "bytes of a string that stops a sample";
const WAITING: &str = "requests that wait or run";
const SAMPLERS: &str = "samplers";
const CLIENTS: &str = "clients of a sampler";
const ADDRESSES: &str = "download addresses";
const TOKENS: &str = "tokens in exchange for the key";
const LOSSES: &str = "custom losses of a session";
const RANK: &str = "rank of an adapter";
const SEQUENCES: &str = "`num_samples` of a sample";
const ANSWERS: &str = "tokens of all answers of a sample";
const REPORTED: &str = "log-probabilities of other tokens that a sample returns";
const CONTEXT: &str = "tokens of a sequence";
const SMALL: &str = "any other body";
const MIDDLING: &str = "body of a sample, a custom loss, telemetry, a list of results";
const PASS: &str = "body of a pass, compressed and decompressed";
const CHECKPOINT: &str = "bytes of the name of a checkpoint";
const PAGE_SIZE: &str = "entries of a page of a list";
const RECIPIENTS: &str = "recipients of exported weights";

/// The limits that tests of this file reach.
const REACHED: [&str; 22] = [
    METADATA,
    NAME,
    DETAIL,
    NESTING,
    STOP_TOKENS,
    STOP_STRINGS,
    STOP_BYTES,
    CLIENTS,
    ADDRESSES,
    TOKENS,
    LOSSES,
    RANK,
    SEQUENCES,
    ANSWERS,
    REPORTED,
    CONTEXT,
    SMALL,
    MIDDLING,
    PASS,
    CHECKPOINT,
    PAGE_SIZE,
    RECIPIENTS,
];

/// The limits without a figure of the engine: of the machine, of the user, or a time.
const WITHOUT_A_FIGURE: [&str; 5] = [
    "samples that are computed at a time",
    "memory of base models, adapters and passes",
    "disk space of the data folder",
    "time that a result is kept",
    "requests of a session or a model that are recognised when they are repeated",
];

const BODIES: &str = include_str!("../../src/local/http/bodies.rs");
const CONNECTIONS: &str = include_str!("../../src/local/connections.rs");
const EXAMPLES: &str = include_str!("../../src/local/examples.rs");
const STATE: &str = include_str!("../../src/local/state/mod.rs");
const OF_SAMPLERS: &str = include_str!("../../src/local/state/samplers.rs");

/// The other limits, each with the source that has its constant.
const CONSTANTS: [(&str, &str, &str); 23] = [
    ("head of a request", CONNECTIONS, "MAX_HEAD"),
    ("values in a JSON body", BODIES, "MAX_VALUES"),
    ("large bodies (above 64 KiB) that are received or read, together", BODIES, "ALL_LARGE"),
    ("small bodies that are received, together", BODIES, "ALL_SMALL"),
    ("results that are converted to JSON at a time", BODIES, "ALL_ANSWERS"),
    ("downloads that are sent at a time", BODIES, "MAX_DOWNLOADS"),
    (
        "requests of a model that wait for a missing one",
        include_str!("../../src/local/request_order.rs"),
        "MAX_WAITING",
    ),
    ("bytes of passes that wait", STATE, "MAX_WAITING_BYTES"),
    ("bytes of samples that wait or run", OF_SAMPLERS, "MAX_SAMPLE_BYTES"),
    ("clients of all samplers", OF_SAMPLERS, "MAX_ALL_FEEDS"),
    ("tokens of a pass", EXAMPLES, "MAX_TOKENS"),
    ("numbers in the inputs of a pass", EXAMPLES, "MAX_NUMBERS"),
    (
        "bytes of the custom losses of all sessions",
        include_str!("../../src/local/state/custom_losses.rs"),
        "MAX_BYTES",
    ),
    ("operations of a custom loss", include_str!("../../src/loss/graph/plan.rs"), "MAX_NODES"),
    (
        "values that a custom loss computes for a datum",
        include_str!("../../src/local/nn/sequence_loss.rs"),
        "MAX_VALUES",
    ),
    (
        "results that are kept, each counted with 512 bytes more",
        include_str!("../../src/local/futures/mod.rs"),
        "MAX_BYTES",
    ),
    ("completions of a client that are kept", include_str!("../../src/local/feeds.rs"), "MAX_ENTRIES"),
    ("requests in the trace of a session", include_str!("../../src/local/trace.rs"), "MAX_SPANS"),
    ("ended sessions that are listed", STATE, "MAX_ENDED"),
    ("ended sessions whose trace is kept", STATE, "MAX_TRACES"),
    ("training runs without checkpoints that are listed", STATE, "MAX_RUNS"),
    (
        "copies whose idempotency key is remembered",
        include_str!("../../src/local/state/checkpoints.rs"),
        "MAX_COPIES",
    ),
    ("samples of a sampler that are recognised when they are repeated", STATE, "MAX_REMEMBERED"),
];

/// The value of a constant, which is a number, a product, or a shifted number.
fn constant(source: &str, name: &str) -> usize {
    let start = format!("const {name}: ");
    let line = source.lines().find_map(|it| it.split_once(&start)).unwrap_or_else(|| panic!("no {name}")).1;
    let value = line.split_once("= ").and_then(|it| it.1.split_once(';')).expect("a value").0;
    let one = |it: &str| {
        let it = it.trim().replace('_', "");
        it.parse().unwrap_or_else(|_| constant(source, value.split("* ").nth(1).expect("a name")))
    };
    match (value.split_once("<<"), value.split_once('*')) {
        (Some((number, bits)), _) => one(number) << one(bits),
        (None, Some((a, b))) => one(a) * one(b),
        (None, None) => one(value),
    }
}

/// The rows of the table: what is limited, the limit, what happens above it, the option.
fn rows() -> Vec<Vec<&'static str>> {
    let section = PAGE.split("### Limits of the engine").nth(1).expect("the section");
    let lines = section.lines().skip_while(|it| !it.starts_with("|---")).skip(1);
    let cells = |line: &'static str| line.trim_matches('|').split('|').map(str::trim).collect();
    lines.take_while(|it| it.starts_with('|')).map(cells).collect()
}

/// The first figure of a limit.
fn limit(what: &str) -> usize {
    let rows = rows();
    let text = rows.iter().find(|it| it[0] == what).unwrap_or_else(|| panic!("no limit of {what}"))[1];
    let mut words = text.split([' ', ',']);
    let number = words.next().expect("a number");
    let number = match number.split_once('^') {
        Some((base, exponent)) => base.parse::<usize>().unwrap().pow(exponent.parse().unwrap()),
        None => number.parse().unwrap(),
    };
    match words.next() {
        Some("KiB") => number << 10,
        Some("MiB") => number << 20,
        _ => number,
    }
}

#[test]
fn the_table_has_every_limit_with_its_figure() {
    let defaults = Options::default();
    let options = [
        ("connections", defaults.max_connections, "max_connections"),
        (WAITING, defaults.max_waiting_requests, "max_waiting_requests"),
        ("sessions", defaults.max_sessions, "max_sessions"),
        ("models", defaults.max_models, "max_models"),
        (SAMPLERS, defaults.max_samplers, "max_samplers"),
        ("samplers in memory", defaults.samplers_in_memory, "samplers_in_memory"),
        ("time without a byte of a body", defaults.stall_timeout.as_secs() as usize, "stall_timeout"),
        (
            "time that a client reads nothing of a response",
            defaults.stall_timeout.as_secs() as usize,
            "stall_timeout",
        ),
        ("time of a connection without a request", defaults.idle_timeout.as_secs() as usize, "idle_timeout"),
    ];
    let mut known: BTreeSet<&str> = REACHED.into_iter().chain(WITHOUT_A_FIGURE).collect();
    for (what, source, name) in CONSTANTS {
        assert_eq!(limit(what), constant(source, name), "{what}");
        known.insert(what);
    }
    for (what, default, option) in options {
        assert_eq!(limit(what), default, "{what}");
        let rows = rows();
        let row = rows.iter().find(|it| it[0] == what).expect("a row");
        assert!(row[3].starts_with(&format!("`{option}`")), "{row:?}");
        known.insert(what);
    }
    let rows = rows();
    assert!(rows.iter().all(|it| it.len() == 4), "{rows:?}");
    assert_eq!(rows.iter().map(|it| it[0]).collect::<BTreeSet<_>>(), known);
}

/// Text of a refusal with a status.
fn refused(answer: (u16, Value), status: u16) -> String {
    assert_eq!(answer.0, status, "{}", answer.1);
    match &answer.1["detail"] {
        Value::String(it) => it.clone(),
        other => other.to_string(),
    }
}

/// Names of JSON, each with a text, that have `bytes` bytes together.
fn metadata(bytes: usize) -> Value {
    // Two quotes, and the name.
    json!({ "k": "x".repeat(bytes - 3) })
}

fn sampler(client: &Client, session: &str, number: u64) -> (u16, Value) {
    let body = json!({"session_id": session, "sampling_session_seq_id": number, "base_model": "tinkex/nano"});
    client.post("create_sampling_session", &body)
}

fn new_sampler(client: &Client) -> String {
    let (status, made) = sampler(client, &client.session, 0);
    assert_eq!(status, 200, "{made}");
    made["sampling_session_id"].as_str().expect("an id").into()
}

#[test]
fn metadata_are_kept_up_to_their_limit() {
    let client = Client::new();
    let max = limit(METADATA);
    let session =
        |bytes| client.post("create_session", &json!({"tags": [], "user_metadata": metadata(bytes)}));
    assert_eq!(session(max).0, 200);
    let text = refused(session(max + 1), 400);
    assert_eq!(text, format!("user_metadata: has {} bytes; at most {max} are kept", max + 1));
    let model = |number: u64, bytes| {
        json!({"session_id": client.session, "model_seq_id": number, "base_model": "tinkex/nano",
               "lora_config": {"rank": 2}, "user_metadata": metadata(bytes)})
    };
    refused(client.post("create_model", &model(0, max + 1)), 400);
    let made = client.run("create_model", &model(1, max));
    let id = made["model_id"].as_str().expect("an id");
    let save = |seq: u64, bytes| json!({"model_id": id, "seq_id": seq, "path": "a", "user_metadata": metadata(bytes)});
    let error = client.fail("save_weights", &save(1, max + 1));
    assert!(error.contains("user_metadata: has"), "{error}");
    client.run("save_weights", &save(2, max));
    let path = format!("tinker://{id}/weights/a");
    let load = |number: u64, bytes| {
        json!({"session_id": client.session, "model_seq_id": number, "path": path, "optimizer": false,
               "user_metadata": metadata(bytes)})
    };
    refused(client.post("load_weights", &load(2, max + 1)), 400);
    client.run("load_weights", &load(3, max));
}

#[test]
fn names_are_kept_up_to_their_limit() {
    let client = Client::new();
    let long = "x".repeat(limit(NAME) + 1);
    let fits = &long[1..];
    for field in ["display_name", "project_id"] {
        let session = |name: &str| client.post("create_session", &json!({"tags": [], field: name}));
        assert_eq!(session(fits).0, 200);
        assert_eq!(refused(session(&long), 400), format!("{field}: has 256 bytes; the limit is 255"));
    }
    let with_key = |key: &str| {
        let request =
            client.agent.post(client.url("create_session")).header("X-API-Key", client.server.api_key());
        let request = request.header("X-Idempotency-Key", key).header("Content-Type", "application/json");
        request.send(json!({"tags": []}).to_string()).unwrap().status().as_u16()
    };
    assert_eq!([with_key(fits), with_key(&long)], [200, 400]);
    let assign = |name: &str| {
        let url = client.url(&format!("sessions/{}/project", client.session));
        let request = client.agent.put(url).header("X-API-Key", client.server.api_key());
        request.send(json!({"project_id": name}).to_string()).unwrap().status().as_u16()
    };
    assert_eq!([assign(fits), assign(&long)], [200, 400]);
    let copy = |name: &str| {
        let body = json!({"destination_project_id": name, "source_path": "tinker://x:train:0/weights/a"});
        client.post("copy_weights", &body).0
    };
    assert_eq!([copy(fits), copy(&long)], [404, 400]);
    let text = refused(client.post("create_custom_loss", &loss(&client, 0, &long, 1.0)), 422);
    assert!(text.contains("name: has 256 bytes"), "{text}");
    client.run("create_custom_loss", &loss(&client, 1, fits, 1.0));

    let model = client.model(0);
    let name = "n".repeat(limit(CHECKPOINT));
    client.run("save_weights", &json!({"model_id": model, "seq_id": 1, "path": name}));
    let error =
        client.fail("save_weights", &json!({"model_id": model, "seq_id": 2, "path": format!("{name}n")}));
    assert!(error.contains("is not a valid checkpoint name"), "{error}");
}

/// A custom loss: the sum of the log-probabilities times a factor.
fn loss(client: &Client, number: u64, name: &str, factor: f64) -> Value {
    json!({"session_id": client.session, "custom_loss_seq_id": number, "name": name,
    "inputs": [{"name": "logprobs", "rank": 1}],
    "graph": {"format": 1, "nodes": [
        {"op":"placeholder","name":"logprobs","target":"logprobs","args":[],"kwargs":{}},
        {"op":"call_function","name":"mul","target":"operator.mul","args":[{"ref":"logprobs"}, factor],"kwargs":{}},
        {"op":"call_method","name":"sum_1","target":"sum","args":[{"ref":"mul"}],"kwargs":{}},
        {"op":"output","name":"output","target":"output","args":[{"tuple":[{"ref":"sum_1"},{"dict":{}}]}],"kwargs":{}}]}})
}

#[test]
fn a_session_has_custom_losses_up_to_the_limit() {
    let client = Client::new();
    let max = limit(LOSSES) as u64;
    for i in 0..max {
        client.submit("create_custom_loss", &loss(&client, i, "l", 1.0 + i as f64));
    }
    let text = refused(client.post("create_custom_loss", &loss(&client, max, "l", 0.5)), 400);
    assert!(text.contains("at most 256 custom losses"), "{text}");
}

#[test]
fn the_end_of_a_session_is_taken_with_a_text_of_any_length() {
    let client = Client::new();
    let max = limit(DETAIL);
    let body = json!({"reason": {"type": "errored"}, "detail": "x".repeat(max + 1)});
    assert_eq!(client.post(&format!("sessions/{}/finish", client.session), &body).0, 200);
    let (_, found) = client.post("sessions/search", &json!({"session_id": client.session}));
    let kept = found["sessions"][0]["status"]["detail"].as_str().expect("a text");
    assert_eq!(kept.len(), max);
}

#[test]
fn json_is_read_up_to_its_nesting() {
    let client = Client::new();
    // The body and the metadata are two levels.
    let lists = |n: usize| {
        let text =
            format!("{{\"tags\":[],\"user_metadata\":{{\"k\":{}{}}}}}", "[".repeat(n - 2), "]".repeat(n - 2));
        let request =
            client.agent.post(client.url("create_session")).header("X-API-Key", client.server.api_key());
        request.header("Content-Type", "application/json").send(text).unwrap().status().as_u16()
    };
    let max = limit(NESTING);
    assert_eq!([lists(max), lists(max + 1), lists(100_000)], [200, 422, 422]);
}

#[test]
fn bodies_are_taken_up_to_their_size() {
    let client = Client::new();
    for (what, path) in [(SMALL, "get_info"), (MIDDLING, "telemetry"), (PASS, "forward_backward")] {
        let send = |bytes: usize| {
            let text = format!("{{}}{}", " ".repeat(bytes - 2));
            let request = client.agent.post(client.url(path)).header("X-API-Key", client.server.api_key());
            request.header("Content-Type", "application/json").send(text).unwrap().status().as_u16()
        };
        assert_eq!(send(limit(what) + 1), 413, "{path}");
        assert_ne!(send(limit(what)), 413, "{path}");
    }
}

#[test]
fn a_sample_above_a_limit_is_refused() {
    let client = Client::new();
    let id = new_sampler(&client);
    let params = |stop: Value| json!({"max_tokens": 1, "stop": stop});
    let (tokens, strings, bytes) = (limit(STOP_TOKENS), limit(STOP_STRINGS), limit(STOP_BYTES));
    for (i, stop) in
        [json!(vec![7; tokens]), json!(vec!["a"; strings]), json!(["a".repeat(bytes)])].iter().enumerate()
    {
        client.run("asample", &sample(&id, i as u64, params(stop.clone())));
    }
    for (stop, text) in [
        (json!(vec![7; tokens + 1]), "stop: has 4097 tokens; the limit is 4096"),
        (json!(vec!["a"; strings + 1]), "stop: has 65 strings; the limit is 64"),
        (json!(["a", "a".repeat(bytes + 1)]), "stop: [1] has 1025 bytes; the limit is 1024"),
    ] {
        assert_eq!(refused(client.post("asample", &sample(&id, 9, params(stop))), 400), text);
    }
    let with = |field: &str, value: Value| {
        let mut body = sample(&id, 9, json!({"max_tokens": 16_384}));
        body[field] = value;
        refused(client.post("asample", &body), 400)
    };
    let max = limit(SEQUENCES);
    assert!(with("num_samples", json!(max + 1)).contains(&format!("must be in 1..={max}")));
    let answers = limit(ANSWERS);
    assert!(with("num_samples", json!(answers / 16_384 + 1)).contains(&format!("may ask for {answers}")));
    let reported = limit(REPORTED);
    assert!(
        with("topk_sample_logprobs", json!(reported / 16_384 + 1))
            .contains(&format!("may ask for {reported}"))
    );
    let context = limit(CONTEXT);
    let error = refused(client.post("asample", &sample(&id, 9, json!({"max_tokens": context}))), 400);
    assert!(error.contains(&format!("context window of {context}")), "{error}");
    let model = client.model(0);
    let mut long = pass(&model, 1, "forward_backward_input");
    long["forward_backward_input"]["data"][0]["model_input"]["chunks"][0]["tokens"] =
        json!(vec![1; context + 1]);
    let error = client.fail("forward_backward", &long);
    assert!(error.contains(&format!("context window of {context}")), "{error}");
}

#[test]
fn an_adapter_has_a_rank_up_to_the_limit_and_an_export_its_recipients() {
    let client = Client::new();
    let model = |number: u64, rank: usize| {
        json!({"session_id": client.session, "model_seq_id": number, "base_model": "tinkex/nano",
               "lora_config": {"rank": rank}})
    };
    let max = limit(RANK);
    assert!(refused(client.post("create_model", &model(0, max + 1)), 400).contains(&format!("1..={max}")));
    let made = client.run("create_model", &model(1, max));
    let recipients = vec!["age1"; limit(RECIPIENTS) + 1];
    let body = json!({"model_id": made["model_id"], "seq_id": 1, "path": "x", "age_encryption_recipients": recipients});
    let error = client.fail("save_weights_external", &body);
    assert!(error.contains("has 11 recipients, the limit is 10"), "{error}");
}

#[test]
fn requests_wait_up_to_the_limit_and_one_that_others_wait_for_is_taken() {
    let client = Client::with(Options { max_waiting_requests: 3, ..Options::default() });
    let id = new_sampler(&client);
    let model = client.model(0);
    let waiting: Vec<String> = (2..5).map(|seq| client.submit("optim_step", &step(&model, seq))).collect();
    let limited = |answer| assert!(refused(answer, 429).contains("Options::max_waiting_requests"));
    limited(client.post("optim_step", &step(&model, 5)));
    limited(client.post("asample", &sample(&id, 0, json!({"max_tokens": 1}))));
    // Sent again, as after a lost response, it is the same request.
    assert_eq!(client.submit("optim_step", &step(&model, 4)), waiting[2]);
    let first = client.submit("optim_step", &step(&model, 1));
    for id in [&first].into_iter().chain(&waiting) {
        assert!(client.wait(id).get("error").is_none());
    }
    client.run("optim_step", &step(&model, 5));
    client.sample(&id, 0, json!({"max_tokens": 1}));
}

#[test]
fn samplers_exist_up_to_the_limit_and_end_with_their_session() {
    let client = Client::with(Options { max_samplers: 2, ..Options::default() });
    for number in 0..2 {
        assert_eq!(sampler(&client, &client.session, number).0, 200);
    }
    assert!(refused(sampler(&client, &client.session, 2), 429).contains("Options::max_samplers"));
    assert_eq!(sampler(&client, &client.session, 1).0, 200, "a repeated request");
    let model = client.model(0);
    let error = client.fail("save_weights_for_sampler", &json!({"model_id": model, "seq_id": 1}));
    assert!(error.contains("Options::max_samplers"), "{error}");
    let (_, made) = client.post("create_session", &json!({"tags": []}));
    let other = made["session_id"].as_str().expect("an id");
    assert_eq!(sampler(&client, other, 0).0, 429);
    assert_eq!(
        client
            .post(&format!("sessions/{}/finish", client.session), &json!({"reason": {"type": "success"}}))
            .0,
        200
    );
    assert_eq!(sampler(&client, other, 0).0, 200);
}

#[test]
fn a_sampler_has_clients_up_to_the_limit() {
    let client = Client::new();
    let id = new_sampler(&client);
    let poll = |number: usize| {
        let target =
            json!({"type": "sampling_session", "sampling_session_id": id, "cloned_sampler_id": number});
        client.post(
            "retrieve_futures",
            &json!({"target": target, "prev_cursor": 0, "retrieved_request_ids": [], "timeout": 0}),
        )
    };
    let max = limit(CLIENTS);
    (0..max).for_each(|it| assert_eq!(poll(it).0, 200));
    assert!(refused(poll(max), 429).contains("4096 clients share this sampler"));
    assert_eq!(poll(max - 1).0, 200);
}

#[test]
fn of_too_many_addresses_and_tokens_the_oldest_is_forgotten() {
    let client = Client::new();
    let address = || {
        let made = client.get(&format!("sessions/{}/trace_export", client.session)).1;
        made["url"].as_str().expect("an address").to_string()
    };
    let token = || client.post("auth/token", &json!({})).1["jwt"].as_str().expect("a token").to_string();
    let fetch = |url: &str| client.agent.get(url).call().unwrap().status().as_u16();
    let knows = |token: &str| {
        client.post_with_key("session_heartbeat", &json!({"session_id": client.session}), token).0
    };
    let (first, second) = (address(), address());
    assert_eq!([fetch(&first), fetch(&second)], [200, 200]);
    (2..limit(ADDRESSES) + 1).for_each(|_| drop(address()));
    assert_eq!([fetch(&first), fetch(&second)], [404, 200]);
    let (first, second) = (token(), token());
    assert_eq!([knows(&first), knows(&second)], [200, 200]);
    (2..limit(TOKENS) + 1).for_each(|_| drop(token()));
    assert_eq!([knows(&first), knows(&second)], [401, 200]);
}

#[test]
fn a_page_of_a_list_is_cut_at_the_limit() {
    let client = Client::new();
    let (_, page) = client.get("sessions?limit=1000000");
    assert_eq!(page["cursor"]["limit"], limit(PAGE_SIZE), "{page}");
    let (status, _) = client.post("sessions/search", &json!({"limit": 201}));
    assert_eq!(status, 422);
}
