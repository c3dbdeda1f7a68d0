//! Samples of one prompt, and of files of prompts.

mod batch;
mod forms;
mod moved;
mod trouble;

use std::fs;
use std::process::{Child, Command, Stdio};

use serde_json::{Value, json};
use tinkex::ServiceClient;
use tinkex::local::{Options, Server};
use tinkex::testing::{FakeServer, Listening};
use tinkex::types::{ModelOptions, Ttl};

use crate::util::{Folder, output_with_stdin, run, run_with_stdin, tinkex};

const SAMPLE: &str = "/api/v1/asample";

fn local(home: &Folder) -> String {
    format!("--local={}", home.join("engine").display())
}

/// A scripted server with a model whose tokens are bytes.
struct Fake {
    server: FakeServer,
    listening: Listening,
    home: Folder,
}

impl Fake {
    fn new(name: &str) -> Self {
        let server = FakeServer::new();
        Fake { listening: server.listen().unwrap(), server, home: Folder::new(name) }
    }

    /// `tinkex sample` with these arguments.
    fn command(&self, args: &[&str]) -> Command {
        let mut command = tinkex(&self.home);
        command.args(["sample", "--base-url", &self.listening.url(), "-m", "tinkex/nano"]).args(args);
        command.env("TINKER_API_KEY", "tml-key");
        command
    }

    fn run(&self, args: &[&str]) -> (i32, String, String) {
        output_with_stdin(self.command(args), b"")
    }

    /// What was sent for the prompts.
    fn sent(&self) -> Vec<Value> {
        self.server.requests_to(SAMPLE).iter().map(|seen| seen.json().unwrap()).collect()
    }

    /// A path in the home, as text.
    fn path(&self, name: &str) -> String {
        self.home.join(name).display().to_string()
    }

    /// A file of `n` prompts with ids, and the arguments that read it and write `out.jsonl`.
    fn prompts(&self, n: usize) -> [String; 4] {
        let lines: String =
            (0..n).map(|i| format!("{{\"id\":\"p{i}\",\"prompt\":\"question {i}.\"}}\n")).collect();
        fs::write(self.home.join("in.jsonl"), lines).unwrap();
        ["-i".into(), self.path("in.jsonl"), "-o".into(), self.path("out.jsonl")]
    }
}

/// The text of the prompt of a request.
fn prompt_of(json: &Value) -> String {
    let tokens = json["prompt"]["chunks"][0]["tokens"].as_array().unwrap();
    let bytes: Vec<u8> = tokens.iter().map(|id| u8::try_from(id.as_u64().unwrap()).unwrap()).collect();
    String::from_utf8(bytes).unwrap()
}

fn as_refs(args: &[String]) -> Vec<&str> {
    args.iter().map(String::as_str).collect()
}

/// Waits until a process ends, and says its status.
fn status_of(mut child: Child) -> i32 {
    child.wait().unwrap().code().unwrap()
}

#[test]
fn samples_offline_are_repeated_by_their_seed() {
    let home = Folder::new("sample-seed");
    let sample = |seed: &str| {
        let args = [
            "sample",
            "Hi",
            &local(&home),
            "-m",
            "tinkex/nano",
            "--max-tokens",
            "12",
            "--seed",
            seed,
            "-f",
            "json",
            "--logprobs",
        ];
        let (status, stdout, stderr) = run(&home, &args);
        assert_eq!((status, stderr.as_str()), (0, ""));
        let json: Value = serde_json::from_str(&stdout).unwrap();
        let sequence = &json["sequences"][0];
        assert_eq!(
            sequence["tokens"].as_array().unwrap().len(),
            sequence["logprobs"].as_array().unwrap().len()
        );
        (json["prompt"].clone(), sequence["tokens"].clone())
    };
    assert_eq!(sample("1"), sample("1"));
    assert_ne!(sample("1"), sample("2"));
    assert_eq!(sample("1").0, "Hi");
}

#[test]
fn only_the_text_is_on_stdout_and_each_answer_has_its_lines() {
    let fake = Fake::new("sample-text");
    let (status, one, stderr) = fake.run(&["Hi"]);
    assert_eq!((status, stderr.as_str()), (0, ""));
    assert!(one.ends_with('\n'), "{one:?}");
    let (_, three, _) = fake.run(&["Hi", "-n", "3"]);
    assert_eq!(three, [one.as_str(); 3].join("\n"));
    assert_eq!(fake.sent()[1]["num_samples"], 3);
}

#[test]
fn the_options_of_sampling_are_sent() {
    let fake = Fake::new("sample-options");
    let args = [
        "Hi",
        "--system",
        "Be brief.",
        "-t",
        "0.5",
        "--top-p",
        "0.9",
        "--top-k",
        "5",
        "--seed",
        "3",
        "--max-tokens",
        "7",
        "--stop",
        "END",
        "--stop",
        "FIN",
    ];
    assert_eq!(fake.run(&args).0, 0);
    let sent = &fake.sent()[0];
    assert_eq!(prompt_of(sent), "System: Be brief.\n\nUser: Hi\n\nAssistant:");
    let params = &sent["sampling_params"];
    assert_eq!(
        (&params["temperature"], &params["top_k"], &params["seed"]),
        (&json!(0.5), &json!(5), &json!(3))
    );
    assert_eq!((&params["max_tokens"], &params["stop"]), (&json!(7), &json!(["\n\nUser:", "END", "FIN"])));
    assert_eq!(fake.run(&["Hi", "--raw"]).0, 0);
    let sent = &fake.sent()[1];
    assert_eq!((prompt_of(sent), &sent["sampling_params"]["stop"]), ("Hi".into(), &Value::Null));
}

#[test]
fn a_prompt_comes_from_the_argument_a_file_or_stdin() {
    let fake = Fake::new("sample-prompt");
    fs::write(fake.home.join("p.txt"), "from a file\n").unwrap();
    let file = format!("@{}", fake.path("p.txt"));
    for (args, stdin, expected) in [
        (&["text"][..], "", "User: text\n\n"),
        (&["@@x"], "", "User: @x\n\n"),
        (&[&file], "", "User: from a file\n\n"),
        (&[], "from stdin\r\n", "User: from stdin\n\n"),
        (&["-"], "a\nb", "User: a\nb\n\n"),
        (&["--raw", "-"], "as it is\n", "as it is\n"),
    ] {
        let (status, _, stderr) = output_with_stdin(fake.command(args), stdin.as_bytes());
        assert_eq!((status, stderr.as_str()), (0, ""), "{args:?}");
        let sent = prompt_of(fake.sent().last().unwrap());
        assert!(sent.starts_with(expected), "{sent}");
    }
    let missing = format!("@{}", fake.path("none"));
    for (args, stdin, status, expected) in [
        (&[missing.as_str()][..], &b""[..], 1, "cannot read the prompt"),
        (&[], b"", 2, "the prompt is empty"),
        (&[], b"\xff", 1, "stdin: the prompt is not valid UTF-8 after 0 bytes"),
        (&["x", "--logprobs"], b"", 2, "--logprobs are not text"),
        (&["x", "--raw", "--system", "s"], b"", 2, "--system has no place"),
        (&["x", "-t", "-1"], b"", 2, "temperature"),
        (&["x", "--top-p", "2"], b"", 2, "--top-p: must be from 0 to 1"),
        (&["x", "--stop", ""], b"", 2, "--stop: the text is empty"),
        (&["x", "-i", "y"], b"", 2, "cannot be used with"),
        (&["x", "-o", "y"], b"", 2, "-o and --ordered are for a file of prompts"),
    ] {
        let found = output_with_stdin(fake.command(args), stdin);
        assert_eq!((found.0, found.1.as_str()), (status, ""), "{args:?}: {}", found.2);
        assert!(found.2.contains(expected), "{args:?}: {}", found.2);
    }
}

#[test]
fn a_closed_pipe_ends_the_samples_quietly() {
    let fake = Fake::new("sample-pipe");
    let args = fake.prompts(50);
    for args in [&["Hi"][..], &as_refs(&args[..2])] {
        let mut child = fake.command(args).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        drop(child.stdout.take());
        let mut stderr = child.stderr.take().unwrap();
        assert_eq!(status_of(child), 0);
        assert_eq!(std::io::read_to_string(&mut stderr).unwrap(), "");
    }
}

#[test]
fn without_a_model_or_with_a_wrong_one_the_error_says_so() {
    let home = Folder::new("sample-model");
    let (status, stdout, stderr) = run(&home, &["sample", "Hi"]);
    assert_eq!((status, stdout.as_str()), (2, ""));
    assert!(stderr.contains("no model is named") && stderr.contains("tinkex model list"), "{stderr}");
    for (model, expected) in [("tinker://nonsense", 2), ("no/model", 1)] {
        let (status, stdout, stderr) = run_with_stdin(
            &home,
            &["sample", "Hi", &local(&home), "-m", model, "--tokenizer", "bytes", "--template", "role_colon"],
            b"",
        );
        assert_eq!((status, stdout.as_str()), (expected, ""), "{stderr}");
        assert!(stderr.starts_with("error: "), "{stderr}");
    }
}

#[test]
fn saved_weights_are_prompted_in_the_format_that_their_run_names() {
    let home = Folder::new("sample-renderer");
    let path = {
        let options = Options { data_dir: Some(home.join("engine")), ..Default::default() };
        let server = Server::start(options).unwrap();
        let service = ServiceClient::builder()
            .base_url(server.url())
            .api_key(server.api_key())
            .no_proxy()
            .build()
            .unwrap();
        let options = ModelOptions {
            user_metadata: Some([("renderer_name".to_owned(), "qwen3".to_owned())].into()),
            ..Default::default()
        };
        let training =
            service.create_lora_training_client_with("tinkex/nano", Default::default(), &options).unwrap();
        training.save_weights_for_sampler("w", Ttl::Never).wait().unwrap().path.to_string()
    };
    let sample = |options: &[&str]| {
        let local = local(&home);
        let args: Vec<&str> = ["sample", "Hi", &local, "-m", &path, "--max-tokens", "2"]
            .iter()
            .chain(options)
            .copied()
            .collect();
        run(&home, &args)
    };
    // The tokenizer of bytes has no markers, which the error names.
    let (status, _, stderr) = sample(&[]);
    assert!(status == 2 && stderr.contains("the renderer \"qwen3\" needs"), "{stderr}");
    for options in [&["--template", "role_colon"][..], &["--raw"]] {
        let (status, _, stderr) = sample(options);
        assert_eq!((status, stderr.as_str()), (0, ""), "{options:?}");
    }
}
