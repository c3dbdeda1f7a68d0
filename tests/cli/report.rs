//! `tinkex report`: the page about a run.

use std::fmt::Write;
use std::path::Path;

use serde_json::{Value, json};

use crate::markup;
use crate::util::{Folder, run};

/// Writes the files of a run; the metrics are the lines of `metrics`.
pub(crate) fn write_run(folder: &Path, config: &Value, metrics: &str) {
    std::fs::create_dir_all(folder).unwrap();
    std::fs::write(folder.join("config.json"), config.to_string()).unwrap();
    std::fs::write(folder.join("metrics.jsonl"), metrics).unwrap();
}

/// Rows with a loss that falls.
fn falling(n: usize) -> String {
    (0..n).fold(String::new(), |mut text, step| {
        let nll =
            0.5 + 2.0 * (-(step as f64) / (0.2 * n as f64)).exp() + 0.05 * ((step * 7919) % 13) as f64 / 13.0;
        let (lr, tokens) = (1e-4 * (1.0 - step as f64 / n as f64), 1000 + step % 7);
        let mut row = json!({
            "step": step, "learning_rate": lr, "train_mean_nll": nll, "num_tokens": tokens, "time/step": 0.5,
            "tinkex/grad_norm": 1.0 + (step % 5) as f64, "cost/cumulative_usd": 0.001 * step as f64,
        });
        if step % 10 == 0 {
            row["test/nll"] = json!(nll + 0.1);
        }
        writeln!(text, "{row}").unwrap();
        text
    })
}

/// Makes the report; returns the page.
pub(crate) fn page(home: &Folder, folder: &str) -> String {
    let (page, stderr) = page_and_warnings(home, folder);
    assert_eq!(stderr, "");
    page
}

/// The same for a run of which not everything can be read; also returns stderr.
fn page_and_warnings(home: &Folder, folder: &str) -> (String, String) {
    let path = home.join(folder);
    let (status, stdout, stderr) = run(home, &["report", path.to_str().unwrap()]);
    assert_eq!(status, 0, "{stderr}");
    assert_eq!(stdout, format!("{}\n", path.join("report.html").display()));
    let page = std::fs::read_to_string(path.join("report.html")).unwrap();
    check(&page);
    (page, stderr)
}

/// What holds for every page: it is well-formed, small, and has nothing that loads or runs.
#[track_caller]
fn check(page: &str) {
    if let Err(problem) = markup::check(page) {
        panic!("{problem}");
    }
    assert!(page.len() < 1_000_000, "{} bytes", page.len());
    assert!(page.contains("content=\"default-src 'none'; style-src 'unsafe-inline'; img-src data:\""));
    let text = page.to_lowercase();
    for outside in
        ["src=", "href=", "url(", "@import", "http://", "https://", "<iframe", "<img", "<link", "<form"]
    {
        assert!(!text.contains(outside), "{outside}");
    }
    let scripts: Vec<&str> = text.match_indices("<script").map(|(i, _)| &text[i..i + 32]).collect();
    assert_eq!(scripts, ["<script type=\"application/json\" "]);
    assert_eq!(text.matches("</script>").count(), 1);
}

/// The data for programs.
fn data(page: &str) -> Value {
    let start = page.find("<script type=\"application/json\" id=\"tinkex-report\">").unwrap();
    let json = &page[start..];
    let json = &json[json.find('>').unwrap() + 1..json.find("</script>").unwrap()];
    serde_json::from_str(json).unwrap()
}

#[test]
fn a_page_shows_the_run_and_programs_read_its_metrics_back() {
    let home = Folder::new("report-whole");
    let own = json!({
        "version": "0.1.0", "command": "tinkex train chats.jsonl -m tinkex/nano",
        "data": {
            "files": [{ "path": "chats.jsonl", "sha256": "c0ffee", "n_lines": 40 }],
            "n_examples": 40, "n_tokens": 4000, "n_trained_tokens": 1000, "n_truncated": 3, "n_dropped": 0,
            "lengths": [[64, 10], [128, 25], [192, 5]], "example": "User: hi\n⟦Hello!⟧",
        },
    });
    let config = json!({ "model_name": "tinkex/nano", "lora_rank": 16, "tinkex": own });
    let folder = home.join("run");
    write_run(&folder, &config, &falling(100));
    let checkpoint = json!({
        "name": "final", "batch": 100, "final": true, "state_path": "tinker://r:train:0/weights/final",
        "sampler_path": "tinker://r:train:0/sampler_weights/final", "size_bytes": 1_500_000,
    });
    std::fs::write(folder.join("checkpoints.jsonl"), format!("{checkpoint}\n")).unwrap();
    let samples = [(0, "no idea"), (50, "between"), (100, "Paris")];
    let samples =
        samples.map(|(step, text)| json!({ "step": step, "prompt": "Capital?", "text": text }).to_string());
    std::fs::write(folder.join("samples.jsonl"), samples.join("\n")).unwrap();
    std::fs::write(folder.join("metrics.jsonl.pre_resume_000040"), "").unwrap();
    let page = page(&home, "run");
    for part in [
        "<h1>run</h1>",
        "tinkex/nano · LoRA of rank 16",
        "class=\"state finished\"",
        "In 100 steps the training loss fell from",
        "tinkex sample -m tinker://r:train:0/sampler_weights/final &#39;Hello&#39;",
        "1.5 MB",
        "no idea",
        "Paris",
        "c0ffee",
        "3 of the examples were cut",
        "<mark>Hello!</mark>",
        "resumed after 40 steps",
        "tinkex train chats.jsonl -m tinkex/nano",
        "Gradient norm",
        "Lengths of the examples",
    ] {
        assert!(page.contains(part), "{part}");
    }
    assert!(!page.contains("between</div>"), "only the first and the last sample are shown");
    let (figures, labels) =
        (page.matches("<figure").count(), page.matches("role=\"img\" aria-label=").count());
    assert_eq!((figures, labels), (6, 6));
    let data = data(&page);
    assert_eq!((data["n_rows"].as_u64(), data["state"].as_str()), (Some(100), Some("finished")));
    assert_eq!(data["metrics"]["step"].as_array().map(Vec::len), Some(100));
    assert_eq!(data["metrics"]["num_tokens"][3], 1003);
    assert_eq!(data["metrics"]["test/nll"][1], Value::Null);
}

#[test]
fn hostile_texts_stay_texts() {
    let home = Folder::new("report-hostile");
    let evil = "</script><script>alert(1)</script><!-- ]]> <svg onload=alert(1)> \u{202e}\u{0}\u{1b}[2J \u{fffe} & \" '";
    let config = json!({
        "model_name": evil, "wandb_name": evil, evil: evil,
        "tinkex": { "command": evil, "warnings": [evil], "data": {
            "files": [{ "path": evil, "sha256": evil, "n_lines": 1 }], "n_examples": 1, "example": format!("⟧{evil}⟦⟦{evil}"),
        } },
    });
    let folder = home.join("run");
    let mut row = json!({ "step": 0, "train_mean_nll": 1.0 });
    row[evil] = json!(2.0);
    write_run(&folder, &config, &format!("{row}\n"));
    let checkpoint = json!({ "name": evil, "state_path": evil, "sampler_path": evil, "expires_at": evil });
    std::fs::write(folder.join("checkpoints.jsonl"), format!("{checkpoint}\n")).unwrap();
    let long = "<b>x".repeat(300_000);
    let samples = [
        json!({ "step": 0, "prompt": evil, "text": evil }),
        json!({ "step": 1, "prompt": evil, "text": long }),
        json!({ "step": 1, "prompt": "مرحبا", "text": "\u{2067}שלום" }),
        json!({ "step": 1, "prompt": [{ "role": "user", "content": evil }], "sequences": [{ "text": evil }] }),
    ];
    std::fs::write(folder.join("samples.jsonl"), samples.map(|it| it.to_string()).join("\n")).unwrap();
    std::fs::write(folder.join("log.txt"), format!("WARNING {evil}\n")).unwrap();
    let page = page(&home, "run");
    assert!(
        page.contains("&lt;/script&gt;&lt;script&gt;alert(1)")
            && page.contains("⟨U+202E⟩")
            && page.contains("שלום")
    );
    assert!(!page.contains(['\u{202e}', '\u{2067}', '\u{0}', '\u{1b}', '\u{fffe}']));
    assert_eq!(data(&page)["metrics"][evil][0], 2);
}

#[test]
fn torn_and_broken_files_cost_what_they_would_have_told() {
    let home = Folder::new("report-torn");
    let folder = home.join("run");
    write_run(
        &folder,
        &json!({}),
        "{\"step\": 0, \"train_mean_nll\": 2}\nnonsense\n{\"step\": 1, \"train_mean_nll\": 1}\n{\"step\": 2, \"tr",
    );
    std::fs::write(folder.join("config.json"), "{\"model_name\": ").unwrap();
    std::fs::write(folder.join("checkpoints.jsonl"), b"\xff\xfe\n[1]\n\0\0\0").unwrap();
    std::fs::write(folder.join("samples.jsonl"), "{\"step\": \"x\"}\n{}").unwrap();
    let (page, stderr) = page_and_warnings(&home, "run");
    let warnings: Vec<&str> = stderr.lines().collect();
    let told = [
        "config.json cannot be read",
        "metrics.jsonl: 1 line could not be read: line 2",
        "checkpoints.jsonl: 2 lines could not be read: lines 1, 2",
    ];
    assert_eq!(warnings.len(), told.len(), "{stderr}");
    for (warning, told) in warnings.iter().zip(told) {
        assert!(warning.starts_with(&format!("warning: {}/{told}", folder.display())), "{stderr}");
        assert!(page.contains(told), "{page}");
    }
    assert_eq!(data(&page)["metrics"]["train_mean_nll"], json!([2, 1]));
}

#[test]
fn a_run_of_the_cookbook_is_read() {
    let home = Folder::new("report-cookbook");
    let folder = home.join("run");
    let metrics = "{\"step\": 0, \"epoch\": 0, \"progress\": 0.0, \"learning_rate\": 0.0001, \"num_sequences\": 8, \"num_tokens\": 900, \"num_loss_tokens\": 300, \"train_mean_nll\": 2.5, \"time/total\": 3.0}\n\
                   {\"step\": 0, \"test/nll\": 2.6}\n\
                   {\"step\": 1, \"epoch\": 0, \"progress\": 0.5, \"learning_rate\": 5e-05, \"num_sequences\": 8, \"num_tokens\": 900, \"num_loss_tokens\": 300, \"train_mean_nll\": NaN, \"time/total\": 2.0}\n";
    write_run(
        &folder,
        &json!({ "model_name": "m", "lora_rank": 32, "log_path": "runs/x", "eval_every": 10 }),
        metrics,
    );
    std::fs::write(
        folder.join("checkpoints.jsonl"),
        "{\"name\": \"000000\", \"batch\": 0, \"epoch\": 0, \"state_path\": \"tinker://r/weights/000000\"}\n",
    )
    .unwrap();
    let page = page(&home, "run");
    assert!(
        page.contains("class=\"state interrupted\"")
            && page.contains("tinkex train DATA --from tinker://r/weights/000000")
    );
    assert!(page.contains("The loss is not a finite number in 1 step, first in step 2"), "{page}");
    let data = data(&page);
    assert_eq!(data["metrics"]["test/nll"], json!([2.6, null]));
    assert_eq!(data["metrics"]["train_mean_nll"], json!([2.5, null]));
}

#[test]
fn runs_without_steps_with_one_step_and_with_nothing_finite_have_a_page() {
    let home = Folder::new("report-small");
    write_run(&home.join("empty"), &json!({ "model_name": "m" }), "");
    assert!(page(&home, "empty").contains("No step has been logged yet."));
    write_run(
        &home.join("one"),
        &json!({}),
        "{\"step\": 0, \"train_mean_nll\": 1.5, \"learning_rate\": 0}\n",
    );
    assert!(page(&home, "one").contains("In 1 step the training loss was 1.500."));
    let nan = (0..20)
        .fold(String::new(), |text, step| text + &format!("{{\"step\": {step}, \"train_mean_nll\": NaN}}\n"));
    write_run(&home.join("nan"), &json!({}), &nan);
    let page = page(&home, "nan");
    assert!(page.contains("was never a finite number") && !page.contains("<figure"), "{page}");
}

#[test]
fn a_hundred_thousand_steps_fit_into_a_page() {
    let home = Folder::new("report-long");
    write_run(&home.join("run"), &json!({ "model_name": "m" }), &falling(100_000));
    let page = page(&home, "run");
    let data = data(&page);
    let n = data["metrics"]["step"].as_array().map_or(0, Vec::len);
    assert!((500..=2500).contains(&n) && data["n_rows"] == 100_000, "{n}");
    assert_eq!((&data["metrics"]["step"][0], &data["metrics"]["step"][n - 1]), (&json!(0), &json!(99_999)));
}

#[test]
fn eight_runs_are_compared_by_what_differs_and_a_ninth_is_refused() {
    let home = Folder::new("report-compare");
    let mut args = vec!["report".to_owned()];
    for i in 0..8 {
        let config = json!({ "model_name": "m", "lora_rank": 8 << (i % 3), "seed": i, "batch_size": 16, "nested": { "a": i == 3 } });
        let folder = home.join(format!("run-{i}"));
        write_run(&folder, &config, &falling(2000 + i));
        args.push(folder.display().to_string());
    }
    let output = home.join("all.html").display().to_string();
    let call = |more: &[&str]| {
        let mut all: Vec<&str> = args.iter().map(String::as_str).collect();
        all.extend(more);
        run(&home, &all)
    };
    let (status, stdout, stderr) = call(&["-o", &output]);
    assert_eq!((status, stdout.trim(), stderr.as_str()), (0, output.as_str(), ""));
    let page = std::fs::read_to_string(&output).unwrap();
    check(&page);
    assert!(page.contains("8 runs compared") && page.contains("run-7"));
    for setting in ["lora_rank", "seed", "nested.a"] {
        assert!(page.contains(&format!("<code>{setting}</code>")), "{setting}");
    }
    assert!(!page.contains("<code>batch_size</code>") && !page.contains("<code>model_name</code>"));
    assert_eq!(data(&page)["runs"].as_array().map(Vec::len), Some(8));
    let (status, stdout, stderr) = call(&[&home.join("run-0").display().to_string()]);
    assert_eq!((status, stdout.as_str()), (2, ""));
    assert!(stderr.contains("9 runs are too many"), "{stderr}");
}

#[test]
fn a_page_goes_to_stdout_and_what_is_no_run_is_named() {
    let home = Folder::new("report-stdout");
    let folder = home.join("run");
    write_run(&folder, &json!({}), &falling(5));
    let (status, stdout, _) = run(&home, &["report", folder.to_str().unwrap(), "-o", "-"]);
    assert_eq!(status, 0);
    check(&stdout);
    assert!(!folder.join("report.html").exists());
    for missing in [home.join("nothing"), home.to_path_buf()] {
        let (status, stdout, stderr) = run(&home, &["report", missing.to_str().unwrap()]);
        assert_eq!((status, stdout.as_str()), (1, ""));
        assert!(stderr.contains(missing.to_str().unwrap()) && stderr.contains("  try: "), "{stderr}");
    }
    let (status, json, _) = run(&home, &["report", folder.to_str().unwrap(), "-f", "json"]);
    let json: Value = serde_json::from_str(&json).unwrap();
    assert_eq!((status, json["path"].as_str()), (0, folder.join("report.html").to_str()));
}

#[test]
fn a_page_that_cannot_be_written_leaves_the_old_one_and_no_draft() {
    let home = Folder::new("report-unwritable");
    let folder = home.join("run");
    write_run(&folder, &json!({}), &falling(5));
    let target = home.join("taken");
    std::fs::create_dir_all(target.join("inside")).unwrap();
    let (status, _, stderr) =
        run(&home, &["report", folder.to_str().unwrap(), "-o", target.to_str().unwrap()]);
    assert_eq!(status, 1);
    assert!(stderr.contains("cannot write"), "{stderr}");
    assert_eq!(std::fs::read_dir(&*home).unwrap().count(), 2);
}

#[test]
fn a_page_replaces_only_a_page_and_a_link_and_a_device_stay() {
    let home = Folder::new("report-replaced");
    let folder = home.join("run");
    write_run(&folder, &json!({}), &falling(5));
    let to = |name: &str| {
        run(&home, &["report", folder.to_str().unwrap(), "-o", home.join(name).to_str().unwrap()])
    };
    std::fs::write(home.join("notes.md"), "mine").unwrap();
    let (status, _, stderr) = to("notes.md");
    assert!(status == 2 && stderr.contains("notes.md exists, and is not a page of HTML"), "{stderr}");
    assert_eq!(std::fs::read_to_string(home.join("notes.md")).unwrap(), "mine");
    assert_eq!((to("page.html").0, to("page.html").0), (0, 0));
    #[cfg(unix)]
    {
        use std::os::unix::fs::{FileTypeExt, symlink};
        symlink(home.join("page.html"), home.join("link.html")).unwrap();
        symlink("/dev/null", home.join("null")).unwrap();
        assert_eq!((to("link.html").0, to("null").0), (0, 0));
        let is_link = |name: &str| std::fs::symlink_metadata(home.join(name)).unwrap().is_symlink();
        assert!(is_link("link.html") && is_link("null"));
        assert!(std::fs::metadata("/dev/null").unwrap().file_type().is_char_device());
        check(&std::fs::read_to_string(home.join("page.html")).unwrap());
    }
}

#[test]
fn what_the_training_command_writes_is_shown() {
    let home = Folder::new("report-train");
    let folder = home.join("run");
    let own = json!({
        "version": "0.1.0", "status": "interrupted", "example": "User: hi\n\nAssistant:[[ Hello.]]",
        "data": { "files": [{ "path": "chats.jsonl", "sha256": "c0ffee", "lines": 50 }], "lengths": [40, 45, 60, 79, 103] },
    });
    let config = json!({ "model": "tinkex/nano", "rank": 16, "local": "/engine", "ttl": "7d", "final-ttl": "never", "tinkex": own });
    let last = json!({ "step": 20, "train_mean_nll": 0.6, "test/nll": 0.7, "tinkex/final_test_loss": 0.65 });
    write_run(&folder, &config, &format!("{}{last}\n", falling(20)));
    let path = |name: &str| json!({ "name": name, "next_batch": 20, "sampler_path": format!("tinker://r/sampler_weights/{name}") });
    let mut end = path("final");
    end["final"] = true.into();
    std::fs::write(folder.join("checkpoints.jsonl"), format!("{}\n{end}\n", path("000020"))).unwrap();
    let log = "2026-11-28T08:29:35Z warning: slow\n2026-11-28T08:30:35Z warning: slow\n2026-11-28T08:30:36Z 20 steps\n";
    std::fs::write(folder.join("log.txt"), log).unwrap();
    let page = page(&home, "run");
    for part in [
        "class=\"state interrupted\"",
        "the best evaluation was 0.650 after 21 steps",
        "<td class=\"date\">after 7d</td>",
        "<td class=\"date\">never</td>",
        "sampler_weights/final --local=/engine &#39;Hello&#39;",
        "config.json --out NEW_FOLDER --local=/engine",
        "<dt>90%</dt><dd>79 tokens</dd>",
        "<td class=\"n\">50</td>",
        "<mark> Hello.</mark>",
        "<li>warning: slow (2 times)</li>",
    ] {
        assert!(page.contains(part), "{part}: {page}");
    }
}

#[test]
#[cfg(unix)]
fn the_page_is_opened_by_the_program_of_the_desktop_and_its_failure_is_told() {
    use std::os::unix::fs::PermissionsExt;

    let home = Folder::new("report-open");
    write_run(&home.join("run"), &json!({ "model": "m" }), &falling(3));
    let bin = home.join("bin");
    std::fs::create_dir(&bin).unwrap();
    let open = |script: Option<&str>| {
        let name = if cfg!(target_os = "macos") { "open" } else { "xdg-open" };
        let program = bin.join(name);
        if let Some(script) = script {
            std::fs::write(&program, format!("#!/bin/sh\n{script}\n")).unwrap();
            std::fs::set_permissions(&program, PermissionsExt::from_mode(0o700)).unwrap();
        }
        let mut command = crate::util::tinkex(&home);
        command.env("PATH", &bin).current_dir(&*home).args(["report", "run", "--open"]);
        let output = command.output().unwrap();
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    };
    let (status, stderr) = open(None);
    assert!(
        status == Some(1) && stderr.contains("cannot start") && stderr.contains("try: open /"),
        "{stderr}"
    );
    assert!(home.join("run/report.html").is_file());
    assert_eq!(open(Some("echo \"$@\" > opened")), (Some(0), String::new()));
    let opened = std::fs::read_to_string(home.join("opened")).unwrap();
    assert_eq!(opened, format!("{}\n", home.join("run/report.html").display()));
    let (status, stderr) = open(Some("exit 3"));
    assert!(
        status == Some(1) && stderr.contains("cannot open the page") && stderr.contains("try: open /"),
        "{stderr}"
    );
}
