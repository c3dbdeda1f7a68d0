//! A minimal HTTP client for tests of the embedded engine. It sends JSON directly, without the clients of this crate,
//! so that tests see the engine's answers as any other client sees them.
#![allow(clippy::expect_used)]

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tinkex::local::{Options, Server};
use tinkex::tokenizer::ByteTokenizer;

/// An HTTP client, its engine and its session.
pub(crate) struct Client {
    pub(crate) server: Server,
    pub(crate) agent: ureq::Agent,
    pub(crate) session: String,
}

/// Status and JSON body of an answer.
pub(crate) type Answer = (u16, Value);

impl Client {
    /// Starts an engine with default options and opens a session.
    pub(crate) fn new() -> Self {
        Client::with(Options::default())
    }

    pub(crate) fn with(options: Options) -> Self {
        // Only two threads for each engine, because the tests run several engines at the same time.
        Client::with_threads(2, options)
    }

    pub(crate) fn with_threads(threads: usize, options: Options) -> Self {
        let server = Server::start(Options { threads, ..options }).expect("a server");
        let agent = ureq::Agent::config_builder().http_status_as_error(false).build().new_agent();
        let mut client = Client { server, agent, session: String::new() };
        let (status, made) = client.post("create_session", &json!({"tags": [], "type": "create_session"}));
        assert_eq!(status, 200, "{made}");
        client.session = made["session_id"].as_str().expect("an id").into();
        client
    }

    /// Creates a client without a session for an engine that is already running.
    pub(crate) fn alongside(server: Server) -> Self {
        let agent = ureq::Agent::config_builder().http_status_as_error(false).build().new_agent();
        Client { server, agent, session: String::new() }
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("{}/api/v1/{path}", self.server.url())
    }

    pub(crate) fn post(&self, path: &str, body: &Value) -> Answer {
        self.post_with_key(path, body, self.server.api_key())
    }

    pub(crate) fn post_with_key(&self, path: &str, body: &Value, key: &str) -> Answer {
        let request = self.agent.post(self.url(path)).header("X-API-Key", key);
        let mut response =
            request.header("Content-Type", "application/json").send(body.to_string()).expect("an answer");
        let text = response.body_mut().read_to_string().expect("a text");
        (response.status().as_u16(), serde_json::from_str(&text).expect("JSON"))
    }

    pub(crate) fn get(&self, path: &str) -> Answer {
        let request = self.agent.get(self.url(path)).header("X-API-Key", self.server.api_key());
        let mut response = request.call().expect("an answer");
        let text = response.body_mut().read_to_string().expect("a text");
        (response.status().as_u16(), serde_json::from_str(&text).expect("JSON"))
    }

    /// Submits a request and returns the id with which [`wait`](Self::wait) fetches the result.
    pub(crate) fn submit(&self, path: &str, body: &Value) -> String {
        let (status, future) = self.post(path, body);
        assert_eq!(status, 200, "{path}: {future}");
        future["request_id"].as_str().expect("a request id").into()
    }

    /// Polls until the result of a submitted request is ready.
    pub(crate) fn wait(&self, request_id: &str) -> Value {
        let deadline = Instant::now() + Duration::from_secs(60);
        loop {
            let (status, result) = self.post("retrieve_future", &json!({"request_id": request_id}));
            assert_eq!(status, 200, "{result}");
            if result["type"] != "try_again" {
                return result;
            }
            assert!(Instant::now() < deadline, "no result: {result}");
        }
    }

    /// Submits a request, waits for its result and requires success.
    pub(crate) fn run(&self, path: &str, body: &Value) -> Value {
        let result = self.wait(&self.submit(path, body));
        assert!(result.get("error").is_none(), "{path}: {result}");
        result
    }

    /// Submits a request, waits for its result, requires a failure of category `user` and returns the error message.
    pub(crate) fn fail(&self, path: &str, body: &Value) -> String {
        let result = self.wait(&self.submit(path, body));
        assert_eq!(result["category"], "user", "{path}: {result}");
        result["error"].as_str().expect("a text").into()
    }

    /// Creates a model and returns its id. `number` counts the models of the session.
    pub(crate) fn model(&self, number: u64) -> String {
        let made = self.run(
            "create_model",
            &json!({"session_id": self.session, "model_seq_id": number, "base_model": "tinkex/nano",
                    "lora_config": {"rank": 8, "seed": 1}, "type": "create_model"}),
        );
        made["model_id"].as_str().expect("a model id").into()
    }

    /// Trains for `steps` steps with sequence ids from `first_seq`. Returns the loss before each step.
    pub(crate) fn losses(&self, model: &str, first_seq: u64, steps: u64) -> Vec<f64> {
        let mut losses = Vec::new();
        for i in 0..steps {
            let seq = first_seq + 2 * i;
            let output = self.run("forward_backward", &pass(model, seq, "forward_backward_input"));
            losses.push(output["metrics"]["loss:sum"].as_f64().expect("a loss"));
            self.run("optim_step", &step(model, seq + 1));
        }
        losses
    }

    pub(crate) fn sample(&self, sampler: &str, seq: u64, params: Value) -> Value {
        self.run("asample", &sample(sampler, seq, params))
    }
}

pub(crate) const TEXT: &str = "the quick brown fox";

pub(crate) fn pass(model: &str, seq: u64, key: &str) -> Value {
    let ids = ByteTokenizer.encode(TEXT);
    let n = ids.len() - 1;
    json!({"model_id": model, "seq_id": seq, key: {
        "data": [{"model_input": {"chunks": [{"type": "encoded_text", "tokens": ids[..n]}]},
                  "loss_fn_inputs": {"target_tokens": {"data": ids[1..], "dtype": "int64", "shape": [n]}}}],
        "loss_fn": "cross_entropy"}})
}

pub(crate) fn step(model: &str, seq: u64) -> Value {
    json!({"model_id": model, "seq_id": seq, "adam_params": {"learning_rate": 0.01}, "type": "optim_step"})
}

pub(crate) fn sample(sampler: &str, seq: u64, params: Value) -> Value {
    json!({"num_samples": 1, "prompt": {"chunks": [{"type": "encoded_text", "tokens": ByteTokenizer.encode("the ")}]},
           "sampling_params": params, "sampling_session_id": sampler, "seq_id": seq, "type": "sample"})
}
