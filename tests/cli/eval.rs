//! Models are measured on files of examples.

use serde_json::{Value, json};
use tinkex::types::{AdamParams, Datum, LossFn, Ttl};

use crate::util::{Folder, engine, run, run_with_stdin};

const CHAT: &str = r#"{"messages":[{"role":"user","content":"Hi"},{"role":"assistant","content":"Hello."}]}"#;

/// The figures of the models.
fn eval(home: &Folder, data: &str, options: &[&str]) -> Value {
    let local = format!("--local={}", home.join("engine").display());
    let args: Vec<&str> =
        ["eval", "-", &local, "-m", "tinkex/nano", "-f", "json"].iter().chain(options).copied().collect();
    let (status, stdout, stderr) = run_with_stdin(home, &args, data.as_bytes());
    assert_eq!((status, stderr.as_str()), (0, ""));
    serde_json::from_str(&stdout).unwrap()
}

/// Saves two samplers of the engine in a folder: before and after training on a text.
fn checkpoints(home: &Folder, text: &str) -> [String; 2] {
    let (_server, service) = engine(home);
    let training = service.create_lora_training_client("tinkex/nano", Default::default()).unwrap();
    let save =
        |name: &str| training.save_weights_for_sampler(name, Ttl::Never).wait().unwrap().path.to_string();
    let before = save("before");
    let bytes: Vec<i32> = text.bytes().map(i32::from).collect();
    for _ in 0..5 {
        let data = vec![Datum::cross_entropy(&bytes[..1], &bytes[1..])];
        let pass = training.forward_backward(data, LossFn::CrossEntropy);
        let step = training.optim_step(AdamParams { learning_rate: 1e-2, ..Default::default() });
        pass.wait().unwrap();
        step.wait().unwrap();
    }
    [before, save("after")]
}

#[test]
fn the_likelihood_of_the_answers_is_measured() {
    let home = Folder::new("eval-nll");
    let result = eval(&home, CHAT, &[]);
    assert_eq!((&result["metric"], &result["format"]), (&json!("nll"), &json!("chat")));
    let figures = &result["results"][0];
    assert_eq!(
        (&figures["model"], &figures["examples"], &figures["tokens"]),
        (&json!("tinkex/nano"), &json!(1), &json!(14))
    );
    let [nll, bits] = ["nll", "bits_per_byte"].map(|key| figures[key].as_f64().unwrap());
    // Each token is a byte, and the model knows nothing yet.
    assert!((nll / std::f64::consts::LN_2 - bits).abs() < 1e-9 && 4.0 < nll && nll < 8.0, "{figures}");
    assert_eq!(eval(&home, CHAT, &[]), result, "a second measurement gives the same");
}

#[test]
fn checkpoints_are_compared_in_a_table() {
    let home = Folder::new("eval-compare");
    let [before, after] = checkpoints(&home, "User: Hi\n\nAssistant: Hello.\n\nUser:");
    let data = home.join("data.jsonl");
    std::fs::write(&data, CHAT).unwrap();
    let local = format!("--local={}", home.join("engine").display());
    let data = data.display().to_string();
    let args = ["eval", &data, &local, "-m", &before, "-m", &after, "-f", "tsv"];
    let (status, stdout, stderr) = run(&home, &args);
    assert_eq!((status, stderr.as_str()), (0, ""));
    let rows: Vec<Vec<&str>> = stdout.lines().map(|line| line.split('\t').collect()).collect();
    assert_eq!(rows[0], ["model", "nll", "bits_per_byte", "perplexity", "examples", "tokens"]);
    assert_eq!((rows[1][0], rows[2][0]), (before.as_str(), after.as_str()));
    let nll = |row: &Vec<&str>| row[1].parse::<f64>().unwrap();
    assert!(nll(&rows[2]) < nll(&rows[1]) - 0.5, "training helps: {stdout}");
}

#[test]
fn preferences_are_measured_by_choice_and_answers_by_exactness() {
    let home = Folder::new("eval-metrics");
    let pair = r#"{"prompt":"q","chosen":"aa","rejected":"bbbbbbbbbbbb"}"#;
    let result = eval(&home, pair, &[]);
    assert_eq!(result["metric"], "choice");
    // A short answer of a model that knows nothing is the more likely one.
    assert_eq!((&result["results"][0]["accuracy"], &result["results"][0]["pairs"]), (&json!(1.0), &json!(1)));
    let result = eval(&home, CHAT, &["--metric", "exact", "--max-tokens", "4"]);
    assert_eq!((&result["results"][0]["exact"], &result["results"][0]["examples"]), (&json!(0.0), &json!(1)));
}

#[test]
fn what_does_not_fit_together_is_a_usage_error() {
    let home = Folder::new("eval-usage");
    for (data, options, expected) in [
        (CHAT, &["--metric", "choice", "--local"][..], "--metric choice is for preferences"),
        (r#"{"text":"a"}"#, &["--metric", "exact", "--local"], "--metric exact is for chats and completions"),
        (CHAT, &[], "no model is named"),
    ] {
        let args: Vec<&str> = ["eval", "-"].iter().chain(options).copied().collect();
        let (status, stdout, stderr) = run_with_stdin(&home, &args, data.as_bytes());
        assert_eq!((status, stdout.as_str()), (2, ""), "{stderr}");
        assert!(stderr.contains(expected), "{stderr}");
    }
    let local = format!("--local={}", home.join("engine").display());
    let long = format!(r#"{{"text":"{}"}}"#, "x".repeat(40_000));
    let (status, _, stderr) = run_with_stdin(&home, &["eval", "-", &local], long.as_bytes());
    assert!(status == 1 && stderr.contains("stdin:1: has 40001 tokens, and 32768 are allowed"), "{stderr}");
    let gone = "tinkex://x";
    let (status, _, stderr) = run_with_stdin(&home, &["eval", "-", &local, "-m", gone], CHAT.as_bytes());
    assert!(status == 2 && stderr.starts_with("error: "), "{stderr}");
}
