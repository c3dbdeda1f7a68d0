//! `tinkex train`: what a run makes, and what it refuses.

use std::path::Path;

use serde_json::Value;
use tinkex::local::{Options, Server};

use crate::util::{Folder, engine, run, run_with_stdin, tinkex};

/// Words with answers, one chat a line.
pub(crate) fn chats(folder: &Path, n: usize) -> String {
    let line = |i: usize| {
        format!(
            "{{\"messages\": [{{\"role\": \"user\", \"content\": \"word {i}\"}}, {{\"role\": \"assistant\", \
             \"content\": \"answer {}\"}}]}}\n",
            i % 3
        )
    };
    let text: String = (0..n).map(line).collect();
    let path = folder.join("chats.jsonl");
    std::fs::write(&path, text).unwrap();
    path.display().to_string()
}

/// The options of a small run on the engine of the folder.
pub(crate) fn small(folder: &Path, data: &str, steps: u64) -> Vec<String> {
    let engine = format!("--local={}", folder.join("engine").display());
    let steps = steps.to_string();
    let all = [
        "train",
        data,
        &engine,
        "--rank",
        "2",
        "--batch-size",
        "4",
        "--max-steps",
        &steps,
        "--save-every",
        "2",
        "--no-report",
    ];
    all.map(str::to_owned).to_vec()
}

/// The options with another value of one of them.
pub(crate) fn with(options: &[String], name: &str, value: &str) -> Vec<String> {
    let mut options = options.to_vec();
    let at = options.iter().position(|option| option == name).unwrap();
    options[at + 1] = value.into();
    options
}

/// Runs the program with these options and further ones.
pub(crate) fn train(folder: &Path, options: &[String], further: &[&str]) -> (i32, String, String) {
    let all: Vec<&str> = options.iter().map(String::as_str).chain(further.iter().copied()).collect();
    run(folder, &all)
}

pub(crate) fn rows(run: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(run.join("metrics.jsonl")).unwrap_or_default();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn a_dry_run_tells_what_would_happen_and_makes_no_session() {
    let folder = Folder::new("train-dry");
    let data = chats(&folder, 20);
    let server = Server::start(Options::default()).unwrap();
    let line =
        ["train", &data, "-m", "tinkex/nano", "--base-url", server.url(), "--dry-run", "--batch-size", "4"];
    let more = ["--epochs", "2", "--eval-split", "0.2", "--save-every", "5"];
    let start = |format: &str| {
        let mut command = tinkex(&folder);
        command.env("TINKER_API_KEY", server.api_key()).env("TINKEX_PRICES", "off").args(line).args(more);
        let output = command.args(["--format", format]).output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    let text = start("table");
    for fact in [
        "chats.jsonl (20 lines)",
        "for the evaluation",
        "of them trained; lengths",
        "2 epochs",
        "learning rate 6e-3",
        "one every 5 steps kept for 7d",
        "the price of tinkex/nano is unknown",
        "example, with its trained tokens marked:",
        "answer",
    ] {
        assert!(text.contains(fact), "{fact}: {text}");
    }
    let plan: Value = serde_json::from_str(&start("json")).unwrap();
    let (n, n_test) = (plan["n_examples"].as_u64().unwrap(), plan["n_eval_examples"].as_u64().unwrap());
    assert_eq!(n + n_test, 20);
    assert_eq!(plan["n_steps"].as_u64(), Some(2 * n.div_ceil(4)));
    assert_eq!(plan["usd"], Value::Null);
    let service = tinkex::ServiceClient::builder().without_environment().base_url(server.url());
    let rest = service.api_key(server.api_key()).build().unwrap().create_rest_client();
    assert_eq!(rest.list_sessions().count(), 0);
    // Nor an account.
    let mut command = tinkex(&folder);
    command.env("TINKEX_PRICES", "off").args(["train", &data, "-m", "tinkex/nano", "--dry-run"]);
    let output = command.output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(String::from_utf8_lossy(&output.stdout).contains("20 examples"));
    assert!(!folder.join("tinkex-runs").exists());
}

#[test]
fn a_run_makes_its_files_with_the_columns_of_the_cookbook() {
    let folder = Folder::new("train-files");
    let data = chats(&folder, 10);
    let prompts = folder.join("prompts.txt");
    std::fs::write(&prompts, "word 1\n{\"messages\": [{\"role\": \"user\", \"content\": \"word 2\"}]}\n")
        .unwrap();
    let out = folder.join("run");
    let further = [
        "-o",
        out.to_str().unwrap(),
        "--prompts",
        prompts.to_str().unwrap(),
        "--sample-every",
        "2",
        "--eval-data",
        &data,
        "--eval-every",
        "2",
        "--metadata",
        "team=blue",
    ];
    let (status, stdout, stderr) = train(&folder, &small(&folder, &data, 5), &further);
    assert_eq!(status, 0, "{stderr}");
    let rows = rows(&out);
    assert_eq!(rows.len(), 5);
    for (step, row) in rows.iter().enumerate() {
        assert_eq!(row["step"], step);
        for name in [
            "epoch",
            "progress",
            "learning_rate",
            "num_sequences",
            "num_tokens",
            "num_loss_tokens",
            "tinkex/num_trained_tokens",
            "train_mean_nll",
            "train_mean_bpb",
            "tokens/sampled",
            "tokens/prefill_cached",
            "tokens/prefill_uncached",
            "tokens/trained",
            "tokens/cumulative/trained",
            "cost/step_usd",
            "cost/cumulative_usd",
            "time/step",
            "time/total",
            "time/save_checkpoint",
            "tinkex/tokens_per_s",
            "tinkex/queue_s",
            "tinkex/retries",
            "tinkex/pause_s",
        ] {
            assert!(row[name].is_number(), "{name}: {row}");
        }
        assert_eq!(row["test/nll"].is_number(), step % 2 == 0, "{row}");
    }
    let config: Value =
        serde_json::from_str(&std::fs::read_to_string(out.join("config.json")).unwrap()).unwrap();
    assert_eq!(
        (&config["model"], &config["rank"], &config["batch-size"]),
        (&"tinkex/nano".into(), &2.into(), &4.into())
    );
    assert_eq!(config["tinkex"]["status"], "finished");
    assert_eq!(config["tinkex"]["data"]["files"][0]["lines"], 10);
    let bars = config["tinkex"]["data"]["length_histogram"].as_array().unwrap();
    assert_eq!(bars.iter().map(|bar| bar[1].as_u64().unwrap()).sum::<u64>(), 10, "{bars:?}");
    let own = |name: &str| config["tinkex"][name].as_str().unwrap();
    assert!(own("started") <= own("ended"));
    // Each word of an answer is trained, whatever its weight.
    assert!(rows[0]["num_loss_tokens"] == 4.0 && 20 < rows[0]["tinkex/num_trained_tokens"].as_u64().unwrap());
    let records = tinkex::train::CheckpointLog::open(&out).unwrap().records().to_vec();
    let names: Vec<&str> = records.iter().map(|record| record.name.as_str()).collect();
    assert_eq!(names, ["000002", "000004", "final"]);
    let samples = std::fs::read_to_string(out.join("samples.jsonl")).unwrap();
    let steps: Vec<u64> = samples
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap()["step"].as_u64().unwrap())
        .collect();
    assert_eq!(steps, [0, 0, 2, 2, 4, 4, 5, 5]);
    assert!(out.join("log.txt").exists());
    // The paths stand whole on lines of their own, to be copied.
    let sampler = records[2].sampler_path.as_ref().unwrap().to_string();
    assert!(0 < config["tinkex"]["checkpoint_bytes"][&sampler].as_u64().unwrap());
    assert!(stdout.lines().any(|line| line == sampler), "{stdout}");
    assert!(stdout.contains(&format!("tinkex sample -m {sampler} --local=")), "{stdout}");
    assert!(stderr.contains("step 1/5 loss"), "{stderr}");
    let (_server, service) = engine(&folder);
    let rest = service.create_rest_client();
    let metadata =
        rest.get_training_run(records[2].state_path.as_ref().unwrap().run_id()).unwrap().user_metadata;
    assert_eq!((metadata["team"].as_str(), metadata["renderer_name"].as_str()), ("blue", "role_colon"));
    // Lists name the run by its folder.
    assert_eq!(metadata["name"], out.file_name().unwrap().to_string_lossy());
    let session = rest.list_sessions().next().unwrap().unwrap();
    assert_eq!(rest.get_session(&session).unwrap().display_name.as_ref(), Some(&metadata["name"]));
}

#[test]
fn a_batch_larger_than_the_data_becomes_smaller_with_a_note() {
    let folder = Folder::new("train-small");
    let data = chats(&folder, 3);
    let options = small(&folder, &data, 1);
    let (status, _, stderr) =
        train(&folder, &options, &["-o", folder.join("run").to_str().unwrap(), "--batch-size", "64"]);
    // The same option twice is a mistake.
    assert_eq!(status, 2, "{stderr}");
    let options = with(&options, "--batch-size", "64");
    let (status, _, stderr) = train(&folder, &options, &["-o", folder.join("run").to_str().unwrap()]);
    assert_eq!(status, 0, "{stderr}");
    assert!(stderr.contains("note: a batch of 64 is more than all examples; it has 3 of them"), "{stderr}");
}

#[test]
fn settings_come_from_a_file_and_options_win() {
    let folder = Folder::new("train-config");
    chats(&folder, 8);
    let config = folder.join("run.toml");
    let text =
        "# comment\ndata = [\"chats.jsonl\"]\nrank = 2\nbatch-size = 4\nmax-steps = 2\nshuffle = false\n";
    std::fs::write(&config, text).unwrap();
    let engine = format!("--local={}", folder.join("engine").display());
    let config = config.to_str().unwrap();
    let (status, stdout, stderr) =
        run(&folder, &["train", "--config", config, &engine, "--rank", "3", "--print-config"]);
    assert_eq!(status, 0, "{stderr}");
    for line in ["rank = 3", "batch-size = 4", "max-steps = 2", "shuffle = false", "schedule = \"linear\""] {
        assert!(stdout.lines().any(|it| it == line), "{line}: {stdout}");
    }
    // What is printed is a file of settings again.
    let printed = folder.join("printed.toml");
    std::fs::write(&printed, &stdout).unwrap();
    let out = folder.join("run");
    let (status, _, stderr) =
        run(&folder, &["train", "--config", printed.to_str().unwrap(), &engine, "-o", out.to_str().unwrap()]);
    assert_eq!(status, 0, "{stderr}");
    assert_eq!(rows(&out).len(), 2);
    std::fs::write(&printed, "bach-size = 4\n").unwrap();
    let (status, _, stderr) = run(&folder, &["train", "--config", printed.to_str().unwrap(), &engine]);
    assert_eq!(status, 2);
    assert!(
        stderr.contains("\"bach-size\" is not a setting\n  try: did you mean \"batch-size\"?"),
        "{stderr}"
    );
    // All that is wrong is told at once.
    std::fs::write(&printed, "rank = \"big\"\nbach-size = 4\nschedule = \"cos\"\n").unwrap();
    let (status, _, stderr) = run(&folder, &["train", "--config", printed.to_str().unwrap(), &engine]);
    assert_eq!(status, 2);
    for problem in [
        "3 settings are wrong:\n",
        "\"bach-size\" is not a setting: did you mean \"batch-size\"?\n",
        "rank: the value \"big\" is not valid: not a whole number\n",
        "schedule: the value \"cos\" is not valid: give one of linear, cosine, constant\n",
    ] {
        assert!(stderr.contains(problem), "{problem}: {stderr}");
    }
}

#[test]
fn the_command_that_tries_the_model_says_what_the_examples_say_before_their_prompts() {
    let folder = Folder::new("train-system");
    let data = folder.join("chats.jsonl");
    let line = r#"{"messages":[{"role":"system","content":"Be brief."},{"role":"user","content":"who?"},{"role":"assistant","content":"me"}]}"#;
    std::fs::write(&data, format!("{line}\n")).unwrap();
    let options = small(&folder, data.to_str().unwrap(), 1);
    let (status, stdout, stderr) = train(&folder, &options, &["-o", folder.join("run").to_str().unwrap()]);
    assert_eq!(status, 0, "{stderr}");
    assert!(stdout.contains(" --system='Be brief.' 'who?'\n"), "{stdout}");
}

#[test]
fn a_program_reads_the_rows_and_then_the_result_as_lines_of_json() {
    let folder = Folder::new("train-rows");
    let data = chats(&folder, 4);
    let out = folder.join("run");
    let further = ["-o", out.to_str().unwrap(), "--progress", "json"];
    let (status, stdout, stderr) = train(&folder, &small(&folder, &data, 2), &further);
    assert_eq!(status, 0, "{stderr}");
    let lines: Vec<Value> = stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!((lines.len(), &lines[1]["step"], &lines[2]["n_steps"]), (3, &1.into(), &2.into()));
    assert!(lines[2]["state_path"].as_str().unwrap().starts_with("tinker://"), "{stdout}");
}

#[test]
fn a_run_whose_data_came_from_stdin_is_resumed_with_the_same_data_on_stdin() {
    let folder = Folder::new("train-stdin");
    let data = chats(&folder, 4);
    let out = folder.join("run");
    let mut options = small(&folder, "-", 2);
    options.extend(["-o".to_owned(), out.display().to_string()]);
    let options: Vec<&str> = options.iter().map(String::as_str).collect();
    let bytes = std::fs::read(&data).unwrap();
    let (status, _, stderr) = run_with_stdin(&folder, &options, &bytes);
    assert_eq!(status, 0, "{stderr}");
    let resume = ["train", "--resume", out.to_str().unwrap(), "--max-steps", "3"];
    let (status, _, stderr) = run_with_stdin(&folder, &resume, b"");
    let remedy = format!("`tinkex train --resume {} < FILE`, with the data that", out.display());
    assert!(status != 0 && stderr.contains(&remedy), "{stderr}");
    let (status, _, stderr) = run_with_stdin(&folder, &resume, &bytes);
    assert_eq!(status, 0, "{stderr}");
    assert_eq!(rows(&out).len(), 3);
}

#[test]
fn a_bad_line_stops_before_anything_is_sent() {
    let folder = Folder::new("train-bad");
    let data = chats(&folder, 3);
    std::fs::write(&data, std::fs::read_to_string(&data).unwrap() + "{\"messages\": 1}\n").unwrap();
    let (status, _, stderr) =
        train(&folder, &small(&folder, &data, 1), &["-o", folder.join("run").to_str().unwrap()]);
    assert_eq!(status, 1);
    assert!(stderr.contains("chats.jsonl:4"), "{stderr}");
    assert!(!folder.join("run").exists() && !folder.join("engine").exists());
}

#[test]
fn examples_that_are_too_long_are_named_unless_they_are_to_be_cut_or_left_out() {
    let folder = Folder::new("train-long");
    let data = chats(&folder, 30);
    let options = small(&folder, &data, 1);
    let out = folder.join("run");
    let (status, _, stderr) = train(&folder, &options, &["-o", out.to_str().unwrap(), "--max-length", "10"]);
    assert_eq!(status, 1);
    assert!(stderr.contains("chats.jsonl:1: has ") && stderr.contains("chats.jsonl:3: has "), "{stderr}");
    assert!(stderr.contains("and 27 more of this kind") && !stderr.contains("chats.jsonl:4:"), "{stderr}");
    assert!(!out.exists());
    let plan = |max: &str, what: &str| {
        let further = ["--dry-run", "--format", "json", "--max-length", max, "--too-long", what];
        let (status, stdout, stderr) = train(&folder, &options, &further);
        assert_eq!(status, 0, "{stderr}");
        let plan: Value = serde_json::from_str(&stdout).unwrap();
        ["n_truncated", "n_dropped"].map(|name| plan["data"][name].as_u64().unwrap())
    };
    assert_eq!(plan("34", "truncate"), [30, 0]);
    let (status, _, stderr) =
        train(&folder, &options, &["--dry-run", "--max-length", "10", "--too-long", "drop"]);
    assert_eq!(status, 1);
    assert!(stderr.contains("all examples are left out"), "{stderr}");
}

#[test]
fn the_budget_ends_a_run_with_status_4_and_a_saved_state() {
    let folder = Folder::new("train-budget");
    let data = chats(&folder, 8);
    let out = folder.join("run");
    let further = ["-o", out.to_str().unwrap(), "--max-tokens", "700"];
    let (status, _, stderr) = train(&folder, &small(&folder, &data, 50), &further);
    assert_eq!(status, 4, "{stderr}");
    assert!(
        stderr.contains("stopped: the next step would exceed --max-tokens 700; the state is saved"),
        "{stderr}"
    );
    let rows = self::rows(&out);
    let trained = rows[rows.len() - 1]["tokens/cumulative/trained"].as_u64().unwrap();
    assert!(0 < trained && trained <= 700, "{trained}");
    let log = tinkex::train::CheckpointLog::open(&out).unwrap();
    assert_eq!(log.last_resumable().unwrap().next_batch, Some(rows.len() as u64));
    let (status, _, stderr) = run(&folder, &["train", "--resume", out.to_str().unwrap(), "-f", "json"]);
    let error: Value = serde_json::from_str(stderr.lines().last().unwrap()).unwrap();
    let remedy = error["error"]["try"].as_str().unwrap();
    assert_eq!((status, error["error"]["kind"].as_str()), (4, Some("budget")));
    let enough: u64 =
        remedy.split("--max-tokens ").nth(1).unwrap().split('`').next().unwrap().parse().unwrap();
    assert!(
        remedy.starts_with(&format!("`tinkex train --resume {} ", out.display())) && 1400 < enough,
        "{remedy}"
    );
    // With a larger limit it goes on, and the tokens of both parts count.
    let n = rows.len();
    let (status, _, stderr) =
        run(&folder, &["train", "--resume", out.to_str().unwrap(), "--max-tokens", "1400"]);
    assert_eq!(status, 4, "{stderr}");
    let rows = self::rows(&out);
    let trained = rows[rows.len() - 1]["tokens/cumulative/trained"].as_u64().unwrap();
    assert!(n < rows.len() && 700 < trained && trained <= 1400, "{trained}");
}

/// A server with a price list.
struct Priced {
    server: Server,
    prices: std::path::PathBuf,
}

impl Priced {
    fn start(folder: &Path, usd: &str) -> Self {
        let prices = folder.join("prices.json");
        let of = |name: &str| format!("\"{name}\": \"${usd}\"");
        let all = ["prefill", "cached_prefill", "sample", "train"].map(of).join(", ");
        std::fs::write(&prices, format!("[{{\"tinker_id\": \"tinkex/nano\", {all}}}]")).unwrap();
        Priced { server: Server::start(Options::default()).unwrap(), prices }
    }

    fn train(&self, folder: &Path, data: &str, further: &[&str]) -> (Option<i32>, String) {
        let mut command = tinkex(folder);
        command.env("TINKER_API_KEY", self.server.api_key()).env("TINKEX_PRICES", &self.prices);
        command.args(["train", data, "-m", "tinkex/nano", "--rank", "2", "--batch-size", "4", "--no-report"]);
        let output = command.args(["--base-url", self.server.url()]).args(further).output().unwrap();
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    }
}

#[test]
fn a_limit_of_the_cost_ends_a_run_before_it_is_exceeded() {
    let folder = Folder::new("train-usd");
    let data = chats(&folder, 8);
    let server = Priced::start(&folder, "1000.00");
    let out = folder.join("run");
    let (status, stderr) =
        server.train(&folder, &data, &["-o", out.to_str().unwrap(), "--max-usd", "0.6", "--yes"]);
    assert_eq!(status, Some(4), "{stderr}");
    assert!(stderr.contains("stopped: the next step would exceed --max-usd 0.6"), "{stderr}");
    // The command that is named does all steps, of which the plan has the price.
    let resume = format!("  try: `tinkex train --resume {} --max-usd 28.08`", out.display());
    assert!(stderr.contains(&resume), "{stderr}");
    let rows = rows(&out);
    let cost = rows[rows.len() - 1]["cost/cumulative_usd"].as_f64().unwrap();
    assert!(0.3 < cost && cost <= 0.6, "{cost}");
    // A limit cannot be kept without a price.
    std::fs::write(&server.prices, "[]").unwrap();
    let (status, stderr) = server.train(&folder, &data, &["--max-usd", "1"]);
    assert_eq!(status, Some(2));
    assert!(
        stderr.contains("the price of tinkex/nano is unknown") && stderr.contains("try: --max-tokens"),
        "{stderr}"
    );
}

#[test]
fn an_expensive_run_is_asked_for() {
    let folder = Folder::new("train-ask");
    let data = chats(&folder, 8);
    let server = Priced::start(&folder, "1000.00");
    let (status, stderr) = server.train(&folder, &data, &[]);
    assert_eq!(status, Some(2));
    assert!(stderr.contains("cost    ") && stderr.contains("try: add --yes"), "{stderr}");
    assert!(!folder.join("tinkex-runs").exists());
}

#[test]
fn of_the_periodic_checkpoints_the_last_ones_are_kept() {
    // Whether a checkpoint is due after the last step makes no difference: the last step is saved once.
    for (steps, kept) in
        [(9, ["weights/000006", "weights/000008"]), (8, ["weights/000004", "weights/000006"])]
    {
        let folder = Folder::new(&format!("train-keep-{steps}"));
        let data = chats(&folder, 8);
        let out = folder.join("run");
        let options = small(&folder, &data, steps);
        let further = ["-o", out.to_str().unwrap(), "--keep-last", "2"];
        let (status, _, stderr) = train(&folder, &options, &further);
        assert_eq!(status, 0, "{stderr}");
        let (_server, service) = engine(&folder);
        let rest = service.create_rest_client();
        let mut left: Vec<String> =
            rest.list_user_checkpoints().map(|it| it.unwrap().checkpoint_id).collect();
        left.retain(|id| id.starts_with("weights/"));
        left.sort();
        assert_eq!(left, [&kept[..], &["weights/final"]].concat());
        // The state and its weights for sampling are one checkpoint to the reader.
        let log = std::fs::read_to_string(out.join("log.txt")).unwrap();
        let deleted = log.lines().filter(|line| line.ends_with("deleted the checkpoint 000002")).count();
        assert_eq!(deleted, 1, "{log}");
    }
}

#[test]
fn a_periodic_checkpoint_that_was_published_is_not_deleted() {
    let folder = Folder::new("train-keep-public");
    let data = chats(&folder, 8);
    let out = folder.join("run");
    let further = ["-o", out.to_str().unwrap(), "--keep-last", "2"];
    let (status, _, stderr) = train(&folder, &small(&folder, &data, 4), &further);
    assert_eq!(status, 0, "{stderr}");
    let states = || {
        let (_server, service) = engine(&folder);
        let rest = service.create_rest_client();
        let mut all: Vec<_> = rest.list_user_checkpoints().map(|it| it.unwrap()).collect();
        all.retain(|it| it.checkpoint_id.starts_with("weights/0"));
        all.sort_by(|a, b| a.checkpoint_id.cmp(&b.checkpoint_id));
        if let Some(first) = all.first().filter(|it| !it.public) {
            rest.publish_checkpoint_from_tinker_path(first.tinker_path.as_str()).unwrap();
        }
        all.into_iter().map(|it| it.checkpoint_id).collect::<Vec<_>>()
    };
    assert_eq!(states(), ["weights/000002"]);
    let (status, _, stderr) =
        run(&folder, &["train", "--resume", out.to_str().unwrap(), "--max-steps", "11"]);
    assert_eq!(status, 0, "{stderr}");
    assert!(stderr.contains("the checkpoint 000002 is public and stays"), "{stderr}");
    assert_eq!(states(), ["weights/000002", "weights/000008", "weights/000010"]);
}

#[test]
fn dpo_trains_on_preferences() {
    let folder = Folder::new("train-dpo");
    let data = folder.join("preferences.jsonl");
    let line = |i: usize| {
        format!(
            "{{\"prompt\": \"Some thing {i}?\", \"chosen\": \"yes please\", \"rejected\": \"no way man\"}}\n"
        )
    };
    std::fs::write(&data, (0..8).map(line).collect::<String>()).unwrap();
    let out = folder.join("run");
    let data = data.to_str().unwrap();
    let (status, _, stderr) =
        train(&folder, &small(&folder, data, 4), &["-o", out.to_str().unwrap(), "--eval-data", data]);
    assert_eq!(status, 0, "{stderr}");
    let rows = rows(&out);
    assert!((rows[0]["dpo_loss"].as_f64().unwrap() - std::f64::consts::LN_2).abs() < 1e-3, "{}", rows[0]);
    assert!(rows[3]["dpo_loss"].as_f64() < rows[0]["dpo_loss"].as_f64());
    for name in [
        "accuracy",
        "margin",
        "chosen_reward",
        "rejected_reward",
        "num_pairs",
        "test/dpo_loss",
        "test/accuracy",
    ] {
        assert!(rows[3][name].is_number(), "{name}: {}", rows[3]);
    }
}

#[test]
fn a_folder_that_is_not_empty_is_kept_unless_it_is_overwritten() {
    let folder = Folder::new("train-folder");
    let data = chats(&folder, 4);
    let out = folder.join("run");
    let further = ["-o", out.to_str().unwrap()];
    let options = small(&folder, &data, 1);
    assert_eq!(train(&folder, &options, &further).0, 0);
    std::fs::write(out.join("mine.txt"), "").unwrap();
    let (status, _, stderr) = train(&folder, &options, &further);
    assert_eq!(status, 2);
    assert!(stderr.contains("is not empty\n  try: `tinkex train --resume "), "{stderr}");
    let (status, _, stderr) = train(&folder, &options, &[further[0], further[1], "--overwrite"]);
    assert_eq!(status, 0, "{stderr}");
    assert!(out.join("mine.txt").exists());
    assert_eq!(rows(&out).len(), 1);
}

#[test]
fn a_run_that_did_not_begin_leaves_no_folder_that_blocks_the_next_attempt() {
    let home = Folder::new("train-not-begun");
    drop(engine(&home));
    let data = home.join("x.jsonl");
    std::fs::write(&data, "{\"prompt\":\"a\",\"completion\":\"b\"}\n".repeat(4)).unwrap();
    let (data, out) = (data.display().to_string(), home.join("run").display().to_string());
    let local = format!("--local={}", home.join("engine").display());
    let (status, _, stderr) =
        run(&home, &["train", &data, &local, "-o", &out, "--from", "tinker://none:train:0/weights/x"]);
    assert!(status == 1 && !home.join("run").exists(), "{stderr}");
    let (status, _, stderr) = run(&home, &["train", &data, &local, "-o", &out, "--max-steps", "1"]);
    assert_eq!(status, 0, "{stderr}");
}
