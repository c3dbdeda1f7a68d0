//! Files of prompts.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use serde_json::{Value, json};
use tinkex::testing::{Act, Seen};

use super::{Fake, SAMPLE, as_refs, local, prompt_of};
use crate::util::{Folder, output_with_stdin, run};

/// Longer than anything here takes, also on a busy machine.
const LONG: Duration = Duration::from_secs(120);

/// True for the request of one of the prompts.
fn is_for(seen: &Seen, question: &str) -> bool {
    seen.path.ends_with("/asample") && prompt_of(&seen.json().unwrap()).contains(question)
}

fn lines(path: impl AsRef<Path>) -> Vec<Value> {
    let text = fs::read_to_string(path).unwrap();
    assert!(text.is_empty() || text.ends_with('\n'), "{text}");
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn a_file_of_prompts_has_a_line_for_each_and_is_not_asked_for_again() {
    let home = Folder::new("sample-batch");
    let input = home.join("in.jsonl");
    fs::write(
        &input,
        "{\"id\":\"a\",\"prompt\":\"x\"}\n\n{\"messages\":[{\"role\":\"user\",\"content\":\"x\"}]}\n\"bare\"\n",
    )
    .unwrap();
    let [input, output] = [&input, &home.join("out.jsonl")].map(|path| path.display().to_string());
    let local = local(&home);
    let args = [
        "sample",
        "-i",
        &input,
        "-o",
        &output,
        &local,
        "-m",
        "tinkex/nano",
        "--max-tokens",
        "3",
        "--seed",
        "1",
        "-n",
        "2",
    ];
    let (status, stdout, stderr) = run(&home, &args);
    assert_eq!((status, stdout.as_str(), stderr.as_str()), (0, "", "3 answered, 0 failed\n"));
    let first = lines(&output);
    let by_index: BTreeMap<u64, &Value> =
        first.iter().map(|it| (it["index"].as_u64().unwrap(), it)).collect();
    assert_eq!((by_index.len(), &by_index[&0]["id"], &by_index[&1]["id"]), (3, &json!("a"), &Value::Null));
    assert_eq!(by_index[&2]["prompt"], "bare");
    for line in &first {
        let sequences = line["sequences"].as_array().unwrap();
        assert_eq!(sequences.len(), 2);
        assert!(sequences[0]["text"].is_string() && sequences[0]["stop_reason"] == "length", "{line}");
    }
    let (status, _, stderr) = run(&home, &args);
    assert_eq!((status, stderr.as_str()), (0, "0 answered, 0 failed, 3 were there\n"));
    assert_eq!(lines(&output), first);
    // A changed prompt without an id is another one.
    fs::write(&input, "{\"id\":\"a\",\"prompt\":\"x\"}\n{\"prompt\":\"new\"}\n").unwrap();
    let (status, _, stderr) = run(&home, &args);
    let expected = format!(
        "1 answered, 0 failed, 1 were there\nnote: 2 earlier answers in {output} are to prompts that are not in the \
         input now; they stay there, with the index null\n"
    );
    assert_eq!((status, stderr), (0, expected));
    assert_eq!(lines(&output).len(), 4);
    // One with an id has an answer that is not its own: nothing is sampled or written.
    fs::write(&input, "{\"prompt\":\"newer\"}\n{\"id\":\"a\",\"prompt\":\"y\"}\n").unwrap();
    let before = fs::read_to_string(&output).unwrap();
    let (status, _, stderr) = run(&home, &args);
    assert_eq!(status, 1);
    let problem =
        format!("in.jsonl:2: the prompt with the id \"a\" is not the one that {output} has an answer to");
    assert!(stderr.contains(&problem) && stderr.contains("try: another file, such as -o "), "{stderr}");
    assert_eq!(fs::read_to_string(&output).unwrap(), before);
    // The prompts themselves are no answers.
    let own = ["sample", "-i", &input, "-o", &input, &local, "-m", "tinkex/nano"];
    let (status, _, stderr) = run(&home, &own);
    assert!(status == 1 && stderr.contains("in.jsonl:1: is not a line of answers"), "{stderr}");
    assert_eq!(lines(&input).len(), 2);
    // Another program may have written the last line without an end.
    let start = before.trim_end().rfind('\n').unwrap() + 1;
    let edited = format!("{}{{ {}", &before[..start], before[start..].trim_end().trim_start_matches('{'));
    fs::write(&output, edited).unwrap();
    fs::write(&input, "{\"id\":\"a\",\"prompt\":\"x\"}\n{\"prompt\":\"newest\"}\n").unwrap();
    let (status, _, stderr) = run(&home, &args);
    assert!(status == 0 && stderr.starts_with("1 answered, 0 failed, 1 were there\n"), "{stderr}");
    assert_eq!(lines(&output).len(), 5);
}

#[test]
fn a_killed_batch_goes_on_and_has_each_id_once() {
    let fake = Fake::new("sample-killed");
    let args = fake.prompts(200);
    let mut args = as_refs(&args);
    args.extend(["--in-flight", "8"]);
    // The server never answers the eightieth prompt, and says that it came.
    let (told, stalled) = crossbeam_channel::bounded(200);
    let n = AtomicUsize::new(0);
    fake.server.script(move |seen| {
        if !seen.path.ends_with("/asample") || n.fetch_add(1, Ordering::Relaxed) < 80 {
            return None;
        }
        let _ = told.send(());
        Some(Act::Stall)
    });
    let mut child = fake.command(&args).stderr(Stdio::null()).spawn().unwrap();
    stalled.recv_timeout(LONG).unwrap();
    child.kill().unwrap();
    child.wait().unwrap();
    let written = fs::read_to_string(fake.path("out.jsonl")).unwrap();
    let n_before = written.lines().count();
    assert!((40..=80).contains(&n_before), "{n_before}");
    // As if it had been killed within a line.
    fs::write(fake.path("out.jsonl"), written + "{\"id\":\"p199\",\"index\":199,\"sequ").unwrap();

    fake.server.script(|_| None);
    let n_asked = fake.sent().len();
    let (status, stdout, stderr) = fake.run(&args);
    assert_eq!((status, stdout.as_str()), (0, ""), "{stderr}");
    assert_eq!(stderr, format!("{} answered, 0 failed, {n_before} were there\n", 200 - n_before));
    // The server may read a few requests of the killed program only after they were counted.
    let n_asked = fake.sent().len() - n_asked;
    assert!((200 - n_before..=208 - n_before).contains(&n_asked), "{n_asked} {n_before}");
    let mut ids: Vec<String> =
        lines(fake.path("out.jsonl")).iter().map(|line| line["id"].as_str().unwrap().to_owned()).collect();
    ids.sort();
    let mut expected: Vec<String> = (0..200).map(|i| format!("p{i}")).collect();
    expected.sort();
    assert_eq!(ids, expected);
}

#[test]
fn a_signal_keeps_what_is_there_and_prints_the_command_to_go_on() {
    let fake = Fake::new("sample-signal");
    let args = fake.prompts(30);
    let mut args = as_refs(&args);
    args.extend(["--in-flight", "2", "--system", "It's a test."]);
    let (told, stalled) = crossbeam_channel::bounded(30);
    let n = AtomicUsize::new(0);
    fake.server.script(move |seen| {
        if !seen.path.ends_with("/asample") || n.fetch_add(1, Ordering::Relaxed) < 10 {
            return None;
        }
        let _ = told.send(());
        Some(Act::Stall)
    });
    let child = fake.command(&args).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    // Two are in flight, and the others have their lines.
    stalled.recv_timeout(LONG).unwrap();
    stalled.recv_timeout(LONG).unwrap();
    assert!(Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap().success());
    let output = child.wait_with_output().unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!((output.status.code(), output.stdout.len()), (Some(130), 0), "{stderr}");
    let command = format!(
        "go on with: tinkex sample --base-url {} -m tinkex/nano {} --in-flight 2 --system 'It'\\''s a test.'\n",
        fake.listening.url(),
        args[..4].join(" ")
    );
    assert_eq!(stderr, format!("10 answered, 0 failed\n{command}"));
    assert_eq!(lines(fake.path("out.jsonl")).len(), 10);
    fake.server.script(|_| None);
    assert_eq!(fake.run(&args).0, 0);
    assert_eq!(lines(fake.path("out.jsonl")).len(), 30);
}

#[test]
fn prompts_that_fail_have_an_error_and_are_tried_again() {
    let fake = Fake::new("sample-failing");
    let args = fake.prompts(5);
    let args = as_refs(&args);
    fake.server.script(|seen| {
        is_for(seen, "question 3.").then(|| Act::status(400, r#"{"detail":"the prompt is too long"}"#))
    });
    let (status, stdout, stderr) = fake.run(&args);
    assert_eq!((status, stdout.as_str()), (3, ""));
    let again = format!(
        "refused by the server: 1 prompt of {}; `error` says why; the same command would be refused again",
        args[1]
    );
    let reason = format!("{}:4: HTTP 400: the prompt is too long", args[1]);
    assert_eq!(stderr, format!("{reason}\n4 answered, 1 failed\n{again}\nerror: 1 of 5 failed\n"));
    let failed: Vec<Value> =
        lines(fake.path("out.jsonl")).into_iter().filter(|line| line.get("error").is_some()).collect();
    assert_eq!((failed.len(), &failed[0]["id"]), (1, &json!("p3")));
    let error = &failed[0]["error"];
    assert!(
        error["message"].as_str().unwrap().contains("too long") && error["retryable"] == false,
        "{error}"
    );
    assert_eq!(fake.run(&args).0, 3);
    assert_eq!(lines(fake.path("out.jsonl")).len(), 5);
    fake.server.script(|_| None);
    let (status, _, stderr) = fake.run(&args);
    assert_eq!((status, stderr.as_str()), (0, "1 answered, 0 failed, 4 were there\n"));
    let all = lines(fake.path("out.jsonl"));
    assert!(all.len() == 5 && all.iter().all(|line| line.get("error").is_none()), "{all:?}");
}

#[test]
fn hostile_lines_are_errors_of_their_own() {
    let fake = Fake::new("sample-hostile");
    let long = format!("{{\"id\":7,\"prompt\":\"{}\"}}", "é\u{202e}".repeat(100_000));
    let bad: Vec<&[u8]> = vec![
        b"nonsense",
        b"{\"prompt\":\"\xff\"}",
        b"{\"prompt\":3}",
        b"{\"prompt\":\"a\0b\"}",
        b"{\"messages\":[{\"role\":\"User\",\"content\":\"x\"}]}",
        b"{\"id\":7,\"prompt\":\"the id is taken\"}",
    ];
    let mut input = [long.as_bytes(), b"{\"prompt\":\"good \\u0000\"}"].join(&b'\n');
    for line in &bad {
        input.push(b'\n');
        input.extend_from_slice(line);
    }
    let (status, stdout, stderr) = output_with_stdin(fake.command(&["-i", "-"]), &input);
    assert!(status == 3 && stderr.ends_with("\n2 answered, 6 failed\nerror: 6 of 8 failed\n"), "{stderr}");
    assert!(
        stderr.starts_with("stdin:3: not valid JSON") && stderr.contains("\nstdin:8: the id 7 "),
        "each fault is told with its line: {stderr}"
    );
    let lines: Vec<Value> = stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.len(), 8);
    let by_index: BTreeMap<u64, &Value> =
        lines.iter().map(|it| (it["index"].as_u64().unwrap(), it)).collect();
    for (i, expected) in [
        (2, "not valid JSON"),
        (3, "not valid UTF-8"),
        (4, "must be a text or a list of messages"),
        (5, "not valid JSON"),
        (6, "User"),
        (7, "the id 7 is that of the prompt with index 0, too"),
    ] {
        let message = by_index[&i]["error"]["message"].as_str().unwrap();
        assert!(message.contains(expected), "{message}");
    }
    assert_eq!(fake.sent().len(), 2);
}

#[test]
fn lines_come_in_the_order_of_the_prompts_if_asked_for() {
    let fake = Fake::new("sample-ordered");
    let args = fake.prompts(20);
    // The first prompt has its answer only when the last one has been asked for.
    let n = Arc::new(AtomicUsize::new(0));
    let is_ready = n.clone();
    fake.server.script(move |seen| {
        if is_for(seen, "question 0.") && is_ready.load(Ordering::Relaxed) < 19 {
            return Some(Act::status(503, "busy").with_header("retry-after", "0"));
        }
        if seen.path.ends_with("/asample") {
            is_ready.fetch_add(1, Ordering::Relaxed);
        }
        None
    });
    let indices = |args: &[&str]| -> Vec<u64> {
        let (status, _, stderr) = fake.run(args);
        assert_eq!(status, 0, "{stderr}");
        lines(fake.path("out.jsonl")).iter().map(|line| line["index"].as_u64().unwrap()).collect()
    };
    let mut as_they_come = indices(&as_refs(&args));
    assert_eq!(as_they_come.last(), Some(&0));
    as_they_come.sort();
    fs::remove_file(fake.path("out.jsonl")).unwrap();
    n.store(0, Ordering::Relaxed);
    let mut ordered = as_refs(&args);
    ordered.push("--ordered");
    assert_eq!(indices(&ordered), as_they_come);
}

#[test]
fn what_would_fail_for_all_prompts_ends_the_batch_and_costs_no_line() {
    let fake = Fake::new("sample-fatal");
    let args = fake.prompts(50);
    let args = as_refs(&args);
    fake.server.always(SAMPLE, Act::status(403, r#"{"detail":"not for you"}"#));
    let (status, _, stderr) = fake.run(&args);
    assert_eq!(status, 1, "{stderr}");
    assert!(
        stderr.contains("not for you") && stderr.contains("try: when that is mended: tinkex sample"),
        "{stderr}"
    );
    assert_eq!(lines(fake.path("out.jsonl")).len(), 0);
    fake.server.behave(SAMPLE);
    assert_eq!(fake.run(&args).0, 0);
    assert_eq!(lines(fake.path("out.jsonl")).len(), 50);
}

#[test]
fn the_file_of_answers_is_not_destroyed() {
    let fake = Fake::new("sample-output");
    let args = fake.prompts(1);
    let args = as_refs(&args);
    // A text without a line end is not taken for an answer that was cut off.
    for notes in ["my notes\n", "my notes", "{\"id\":1,\"name\":\"x\"}"] {
        fs::write(fake.path("out.jsonl"), notes).unwrap();
        let (status, _, stderr) = fake.run(&args);
        assert!(status == 1 && stderr.contains("out.jsonl:1: is not a line of answers"), "{stderr}");
        assert_eq!(fs::read_to_string(fake.path("out.jsonl")).unwrap(), notes);
    }
    fs::write(fake.path("out.jsonl"), "").unwrap();
    let file = fs::File::open(fake.path("out.jsonl")).unwrap();
    file.lock().unwrap();
    let (status, _, stderr) = fake.run(&args);
    assert!(status == 1 && stderr.contains("out.jsonl is in use by another process"), "{stderr}");
    drop(file);
    assert_eq!(fake.run(&args).0, 0);
}

#[test]
fn answers_of_another_model_or_of_other_settings_are_not_mixed_in_silence() {
    let fake = Fake::new("sample-mixed");
    let args = fake.prompts(3);
    let args = as_refs(&args);
    fs::write(fake.path("in.jsonl"), "{\"id\":\"p0\",\"prompt\":\"question 0.\"}\n").unwrap();
    assert_eq!(fake.run(&args).0, 0);
    let (out, other) = (fake.path("out.jsonl"), fake.path("out-2.jsonl"));
    let line = &lines(&out)[0];
    assert_eq!((&line["model"], &line["sampling"]["temperature"]), (&json!("tinkex/nano"), &json!(1.0)));
    // An interrupted start has left a part of a line, which a refusal keeps, too.
    let before = fs::read_to_string(&out).unwrap() + "{\"id\":\"p1\",\"ind";
    fs::write(&out, &before).unwrap();
    fake.prompts(3);
    for (more, expected) in [
        (&["-t", "0.5"][..], "--temperature 1.0, not 0.5"),
        (&["--system", "Be kind."], "no system message"),
        (&["--raw", "-n", "2"], "-n 1, not 2; no --raw"),
        (&["--seed", "3", "--max-tokens", "9"], "--max-tokens 512, not 9; no --seed"),
    ] {
        let (status, stdout, stderr) = fake.run(&[&args[..], more].concat());
        assert_eq!((status, stdout.as_str()), (2, ""), "{stderr}");
        assert_eq!(
            stderr,
            format!(
                "error: {out} has answers that were made with {expected}\n  try: another file, such as -o {other}; \
                 --force-resume adds to this one all the same\n"
            )
        );
        assert_eq!(fs::read_to_string(&out).unwrap(), before);
    }
    let n_asked = fake.sent().len();
    let (status, _, stderr) = fake.run(&[&args[..], &["-t", "0.5", "--force-resume"][..]].concat());
    assert_eq!((status, fake.sent().len() - n_asked), (0, 2));
    assert!(
        stderr.starts_with("warning: ") && stderr.ends_with("2 answered, 0 failed, 1 were there\n"),
        "{stderr}"
    );
    // Options that change no answer go on, and so do lines of a version that wrote no settings.
    fs::remove_file(&out).unwrap();
    fs::write(&out, "{\"id\":\"p0\",\"index\":0,\"sequences\":[]}\n").unwrap();
    let (status, _, stderr) = fake.run(&[&args[..], &["-t", "0.5", "--in-flight", "2"][..]].concat());
    assert_eq!((status, stderr.as_str()), (0, "2 answered, 0 failed, 1 were there\n"));
    assert_eq!(fake.run(&[&args[..], &["-t", "0.5", "--ordered"][..]].concat()).0, 0);
    assert_eq!(fake.run(&args).0, 2);
}
