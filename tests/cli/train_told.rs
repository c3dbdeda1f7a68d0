//! `tinkex train`: what people are told about steps, evaluations, tokens and data.

use serde_json::Value;

use crate::train::{chats, rows, small, train};
use crate::util::{Folder, run};

#[test]
fn steps_are_counted_from_1_and_evaluations_by_the_steps_before_them() {
    let folder = Folder::new("train-told-steps");
    let data = chats(&folder, 12);
    let out = folder.join("run");
    let further = ["-o", out.to_str().unwrap(), "--eval-split", "0.3", "--eval-every", "2"];
    let (status, stdout, stderr) = train(&folder, &small(&folder, &data, 5), &further);
    assert_eq!(status, 0, "{stderr}");
    let rows = rows(&out);
    let shown = |value: &Value| format!("{:.3}", value.as_f64().unwrap());
    let line = |n: usize| stderr.lines().find(|it| it.starts_with(&format!("step {n}/5 "))).unwrap();
    assert!(line(1).contains(&format!(" eval {} after 0 steps ", shown(&rows[0]["test/nll"]))), "{stderr}");
    assert!(line(3).contains(&format!(" eval {} after 2 steps ", shown(&rows[2]["test/nll"]))), "{stderr}");
    let last = &rows[4]["tinkex/final_test_loss"];
    assert!(line(5).contains(&format!(" eval {} after 5 steps ", shown(last))), "{stderr}");
    assert!(stdout.contains(&format!("evaluation {:.4} at the end", last.as_f64().unwrap())), "{stdout}");
    // The last evaluation is that of the files.
    let losses: Vec<f64> = rows.iter().map(|row| row["train_mean_nll"].as_f64().unwrap()).collect();
    let best = (0..5).min_by(|a, b| losses[*a].total_cmp(&losses[*b])).unwrap();
    assert!(stdout.contains(&format!("best {:.4} at step {}", losses[best], best + 1)), "{stdout}");
    // The smoothed loss goes on where it was.
    let (status, _, stderr) = run(&folder, &["train", "--resume", out.to_str().unwrap(), "--max-steps", "6"]);
    assert_eq!(status, 0, "{stderr}");
    let smooth = losses.iter().skip(1).fold(losses[0], |smooth, loss| 0.9 * smooth + 0.1 * loss);
    let next = self::rows(&out)[5]["train_mean_nll"].as_f64().unwrap();
    let expected = format!("loss {next:.3} ({:.3})", 0.9 * smooth + 0.1 * next);
    assert!(stderr.contains(&expected), "{expected}: {stderr}");
}

#[test]
fn an_evaluation_that_got_worse_is_told_with_the_checkpoint_to_take() {
    let folder = Folder::new("train-told-worse");
    let data = chats(&folder, 8);
    let other = folder.join("other.jsonl");
    let line = |i: usize| {
        format!(
            "{{\"messages\": [{{\"role\": \"user\", \"content\": \"word {i}\"}}, {{\"role\": \"assistant\", \"content\": \"ZZZZ{i}QQQQ\"}}]}}\n"
        )
    };
    std::fs::write(&other, (0..4).map(line).collect::<String>()).unwrap();
    let out = folder.join("run");
    let further = ["-o", out.to_str().unwrap(), "--eval-data", other.to_str().unwrap(), "--eval-every", "2"];
    let (status, stdout, stderr) = train(&folder, &small(&folder, &data, 40), &further);
    assert_eq!(status, 0, "{stderr}");
    let rows = rows(&out);
    let evaluations = rows.iter().filter_map(|row| Some((row["step"].as_u64()?, row["test/nll"].as_f64()?)));
    let evaluations: Vec<(u64, f64)> = evaluations.collect();
    let least = |from: u64| {
        let later = evaluations.iter().filter(|it| from <= it.0);
        *later.min_by(|a, b| a.1.total_cmp(&b.1)).unwrap()
    };
    let (best, _) = least(0);
    // Nothing is saved before the first step.
    let (near, loss) = least(2);
    let expected = format!(
        "the evaluation got worse; the checkpoint with the best evaluation, {loss:.4} after {near} steps:"
    );
    let next = stdout
        .lines()
        .skip_while(|it| *it != expected)
        .nth(1)
        .unwrap_or_else(|| panic!("{expected}: {stdout}"));
    assert!(
        next.starts_with("tinker://") && next.ends_with(&format!("/sampler_weights/{near:06}")),
        "{next}"
    );
    let (_, json, _) = run(&folder, &["train", "--resume", out.to_str().unwrap(), "-f", "json"]);
    let json: Value = serde_json::from_str(&json).unwrap();
    assert_eq!(
        (json["best_eval_steps"].as_u64(), json["best_eval_checkpoint"].as_str()),
        (Some(best), Some(next))
    );
}

#[test]
fn the_tokens_of_a_plan_are_those_that_are_trained() {
    let folder = Folder::new("train-told-tokens");
    let data = folder.join("texts.jsonl");
    let line = |i: usize| format!("{{\"text\": \"{}\"}}\n", "ab ".repeat(i + 1));
    std::fs::write(&data, (0..7).map(line).collect::<String>()).unwrap();
    let data = data.display().to_string();
    for (steps, shuffle) in [(2, "--shuffle"), (5, "--no-shuffle"), (1, "--no-shuffle")] {
        let out = folder.join(format!("run-{steps}"));
        let options = small(&folder, &data, steps);
        let further = ["-o", out.to_str().unwrap(), "--eval-data", &data, "-f", "json", shuffle];
        let json = |more: &[&str]| -> Value {
            let (status, stdout, stderr) = train(&folder, &options, &[&further[..], more].concat());
            assert_eq!(status, 0, "{stderr}");
            serde_json::from_str(&stdout).unwrap()
        };
        let (plan, end) = (json(&["--dry-run"]), json(&[]));
        assert_eq!(plan["n_trained_tokens"], end["n_trained_tokens"], "{steps}");
        let last = &rows(&out)[usize::try_from(steps).unwrap() - 1];
        assert_eq!(plan["n_prefill_tokens"], last["tokens/cumulative/prefill_uncached"], "{steps}");
        if steps == 2 {
            let targets: u64 =
                rows(&out).iter().map(|row| row["tinkex/num_trained_tokens"].as_u64().unwrap()).sum();
            assert_eq!(plan["data"]["n_target_tokens"], targets);
        }
    }
    let (_, stdout, _) =
        train(&folder, &small(&folder, &data, 1), &["-o", folder.join("one").to_str().unwrap()]);
    assert!(stdout.starts_with("1 step in "), "{stdout}");
}

#[test]
fn the_lines_that_were_held_out_can_be_evaluated_with_the_command_that_is_told() {
    let folder = Folder::new("train-told-held-out");
    let data = folder.join("chats.jsonl");
    let line = |i: usize| {
        let answer = "yes ".repeat(i % 4 + 1);
        format!(
            "{{\"messages\": [{{\"role\": \"user\", \"content\": \"word {i}\"}}, {{\"role\": \"assistant\", \"content\": \"{answer}\"}}]}}\n"
        )
    };
    std::fs::write(&data, (0..24).map(line).collect::<String>()).unwrap();
    let data = data.display().to_string();
    let out = folder.join("run");
    let further = ["-o", out.to_str().unwrap(), "--eval-split", "0.3"];
    let (status, stdout, stderr) = train(&folder, &small(&folder, &data, 2), &further);
    assert_eq!(status, 0, "{stderr}");
    let commands = stdout.lines().find_map(|it| it.strip_prefix("evaluate on the held-out lines: ")).unwrap();
    let mut told = String::new();
    for command in commands.split(" && ") {
        let words: Vec<&str> = command.split(' ').skip(1).collect();
        let (status, stdout, stderr) = run(&folder, &words);
        assert_eq!(status, 0, "{command}: {stdout}{stderr}");
        told = stdout;
    }
    // Its figure is among those of the training.
    let last = &rows(&out)[1];
    let per_token = last["tinkex/final_test_nll_per_token"].as_f64().unwrap();
    assert!(last["tinkex/test_nll_per_token"].is_number());
    assert!(told.contains(&format!("{per_token:.4}")), "{per_token}: {told}");
    assert!(
        stdout.contains(&format!("{per_token:.4} if each token counts the same, as for `tinkex eval`")),
        "{stdout}"
    );
    assert!(out.join("split/eval.jsonl").is_file());
}

#[test]
fn roles_that_no_conversation_has_and_repeated_lines_are_told() {
    let folder = Folder::new("train-told-roles");
    let chat = |a: &str, b: &str, text: &str| {
        format!(
            "{{\"messages\": [{{\"role\": \"{a}\", \"content\": \"{text}\"}}, {{\"role\": \"{b}\", \"content\": \"{text}\"}}, {{\"role\": \"assistant\", \"content\": \"yes\"}}]}}\n"
        )
    };
    let lines = [
        chat("user", "response", "a"),
        chat("customer", "response", "b"),
        chat("user", "response", "a"),
        chat("user", "witch", "c"),
    ];
    let data = folder.join("x.jsonl");
    std::fs::write(&data, lines.concat()).unwrap();
    let data = data.to_str().unwrap();
    let place = |n: usize| format!("{data}:{n}");
    let expected = [
        format!(
            "warning: unknown role \"response\" in 3 messages, the first in {}: not trained; did you mean \"assistant\"?",
            place(1)
        ),
        format!(
            "warning: unknown role \"customer\" in 1 message, the first in {}: not trained; did you mean \"user\"?",
            place(2)
        ),
        format!("warning: unknown role \"witch\" in 1 message, the first in {}: not trained", place(4)),
        format!("note: 1 exact repeat of earlier ones: {} repeats {}", place(3), place(1)),
    ];
    let (status, stdout, _) = run(&folder, &["data", "check", data]);
    assert_eq!(status, 0);
    assert_eq!(stdout.lines().take(4).collect::<Vec<_>>(), expected);
    let (_, json, _) = run(&folder, &["data", "check", data, "-f", "json"]);
    let json: Value = serde_json::from_str(&json).unwrap();
    assert_eq!(
        (json["unknown_roles"][0]["messages"].as_u64(), json["repeats"]["count"].as_u64()),
        (Some(3), Some(1))
    );
    let options = small(&folder, data, 1);
    let (status, stdout, stderr) = train(&folder, &options, &["--dry-run", "--template", "role_colon"]);
    let told = format!("{stdout}{stderr}");
    assert!(status != 0 || expected.iter().all(|it| told.contains(it)), "{told}");
    let (status, stdout, stderr) = run(&folder, &["data", "check", data, "--train-on", "all"]);
    assert!(status == 0 && !stdout.contains("not trained"), "{stdout}{stderr}");
    // Without an answer, the line is refused, and the role is named.
    let only = "{\"messages\": [{\"role\": \"user\", \"content\": \"q\"}, {\"role\": \"response\", \"content\": \"a\"}]}\n";
    std::fs::write(data, only).unwrap();
    let (status, stdout, _) = run(&folder, &["data", "check", data]);
    assert_eq!(status, 1);
    assert!(
        stdout.contains("so that nothing is trained; unknown role \"response\"; did you mean \"assistant\"?"),
        "{stdout}"
    );
}

#[test]
fn lines_that_are_trained_and_evaluated_are_told() {
    let folder = Folder::new("train-told-both");
    let data = chats(&folder, 4);
    let (status, stdout, stderr) =
        train(&folder, &small(&folder, &data, 1), &["--dry-run", "--eval-data", &data]);
    assert_eq!(status, 0, "{stderr}");
    assert!(
        stdout.contains("warning: 4 lines of the evaluation are trained on, too, the first in "),
        "{stdout}"
    );
}

#[test]
fn a_table_is_refused_with_the_command_that_makes_lines_of_it() {
    let folder = Folder::new("train-told-table");
    let table = folder.join("my table.csv");
    std::fs::write(&table, "\u{feff}prompt,completion\r\n\"a, b\",\"c\nd\"\r\ne,f\r\n").unwrap();
    let table = table.to_str().unwrap();
    let (status, stdout, _) = run(&folder, &["data", "check", table]);
    assert_eq!(status, 1);
    assert!(stdout.starts_with(&format!("{table}: is CSV; ")) && stdout.lines().count() == 2, "{stdout}");
    let command = stdout.lines().next().unwrap();
    let command = &command[command.find("python3 -c").unwrap()..];
    let shell = std::process::Command::new("sh").arg("-c").arg(command).output();
    if shell.is_ok_and(|it| it.status.success()) {
        let (status, stdout, _) = run(&folder, &["data", "check", &table.replace(".csv", ".jsonl")]);
        assert_eq!((status, stdout.as_str()), (0, "no problems: 2 examples, format completion\n"));
    }
    let workbook = folder.join("x.xlsx");
    std::fs::write(&workbook, b"PK\x03\x04....").unwrap();
    let (status, stdout, _) = run(&folder, &["data", "stats", workbook.to_str().unwrap()]);
    assert_eq!((status, stdout.as_str()), (1, ""));
}
