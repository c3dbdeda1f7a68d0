//! Files of prompts whose lines were added, removed or moved since the last start.

use std::fs;
use std::process::Stdio;

use serde_json::Value;

use super::{Fake, prompt_of};
use crate::util::output_with_stdin;

/// A file of prompts and one of answers.
struct Pair {
    fake: Fake,
    input: String,
    output: String,
}

impl Pair {
    fn new(name: &str) -> Self {
        let fake = Fake::new(name);
        let (input, output) = (fake.path("in.txt"), fake.path("out.jsonl"));
        Pair { fake, input, output }
    }

    /// Samples these prompts; returns what is said and the prompts that were sent.
    fn sample(&self, prompts: &[&str], more: &[&str]) -> (String, Vec<String>) {
        fs::write(&self.input, prompts.join("\n") + "\n").unwrap();
        let args = [&["-i", &self.input, "-o", &self.output][..], more].concat();
        let n_sent = self.fake.sent().len();
        let (status, stdout, stderr) = self.fake.run(&args);
        assert_eq!((status, stdout.as_str()), (0, ""), "{stderr}");
        (stderr, self.sent_after(n_sent))
    }

    fn sent_after(&self, n: usize) -> Vec<String> {
        let asked = |json: &Value| {
            let text = prompt_of(json);
            let text = text.trim_start_matches("User: ");
            text.split_once("\n\nAssistant:").map_or(text, |(text, _)| text).to_owned()
        };
        let mut sent: Vec<String> = self.fake.sent()[n..].iter().map(asked).collect();
        sent.sort();
        sent
    }

    /// The index and the prompt of each line, in the order of the file.
    fn lines(&self) -> Vec<(Option<u64>, String)> {
        let text = fs::read_to_string(&self.output).unwrap();
        let line = |line: &str| {
            let json: Value = serde_json::from_str(line).unwrap();
            assert!(json["sequences"].is_array(), "{line}");
            (json["index"].as_u64(), json["prompt"].as_str().unwrap().to_owned())
        };
        text.lines().map(line).collect()
    }
}

fn pairs(expected: &[(Option<u64>, &str)]) -> Vec<(Option<u64>, String)> {
    expected.iter().map(|(index, prompt)| (*index, (*prompt).to_owned())).collect()
}

#[test]
fn only_new_prompts_are_sampled_wherever_the_others_stand_and_as_often_as_they_are_there() {
    let pair = Pair::new("sample-moved");
    assert_eq!(pair.sample(&["one", "two", "two"], &[]).1, ["one", "two", "two"]);
    let answers = fs::read_to_string(&pair.output).unwrap();
    for (prompts, new) in [
        (&["zero", "one", "two", "two"][..], &["zero"][..]),
        (&["two", "one"], &[]),
        (&["two", "zero", "one", "two", "two", "three"], &["three", "two"]),
    ] {
        assert_eq!(pair.sample(prompts, &[]).1, new, "{prompts:?}");
        // Each prompt has the line with its index, and the others stay.
        let mut lines = pair.lines();
        lines.sort();
        let indexed: Vec<&str> = lines.iter().filter(|it| it.0.is_some()).map(|it| it.1.as_str()).collect();
        assert_eq!(indexed, prompts);
    }
    // But for the index, no byte of an answer has changed.
    let without_index = |text: &str| -> Vec<String> {
        let parts = text.lines().map(|line| line.split_once("\"index\":").unwrap());
        parts.map(|(start, rest)| start.to_owned() + rest.split_once(',').unwrap().1).collect()
    };
    let now = without_index(&fs::read_to_string(&pair.output).unwrap());
    assert!(now.starts_with(&without_index(&answers)), "{now:?}");
}

#[test]
fn the_line_of_a_prompt_that_is_gone_stays_without_an_index_and_is_found_when_it_returns() {
    let pair = Pair::new("sample-gone");
    pair.sample(&["one", "two"], &["--ordered"]);
    let (stderr, sent) = pair.sample(&["two"], &[]);
    let expected = format!(
        "0 answered, 0 failed, 1 were there\nnote: 1 earlier answer in {} is to a prompt that is not in the input now; it \
         stays there, with the index null\n",
        pair.output
    );
    assert_eq!((stderr, sent.len()), (expected, 0));
    assert_eq!(pair.lines(), pairs(&[(None, "one"), (Some(0), "two")]));
    let (stderr, sent) = pair.sample(&["two", "one"], &[]);
    assert_eq!((stderr.as_str(), sent.len()), ("0 answered, 0 failed, 2 were there\n", 0));
    assert_eq!(pair.lines(), pairs(&[(Some(1), "one"), (Some(0), "two")]));
}

#[test]
fn with_ordered_the_whole_file_has_the_order_of_the_prompts_also_after_lines_were_added() {
    let pair = Pair::new("sample-reordered");
    pair.sample(&["b", "d"], &["--ordered"]);
    pair.sample(&["a", "b", "c", "d"], &["--ordered"]);
    let expected = pairs(&[(Some(0), "a"), (Some(1), "b"), (Some(2), "c"), (Some(3), "d")]);
    assert_eq!(pair.lines(), expected);
    pair.sample(&["d", "a"], &["--ordered"]);
    assert_eq!(pair.lines(), pairs(&[(Some(0), "d"), (Some(1), "a"), (None, "b"), (None, "c")]));
}

#[test]
fn the_prompts_of_a_stream_get_their_places_when_it_ends() {
    let pair = Pair::new("sample-stream");
    pair.sample(&["one", "two"], &["--ordered"]);
    let args = ["-i", "-", "-o", &pair.output];
    let (status, _, stderr) = output_with_stdin(pair.fake.command(&args), b"{\"prompt\":\"new\"}\n\"two\"\n");
    assert_eq!(status, 0, "{stderr}");
    // A text in quotes is another line than the text by itself.
    let lines = pair.lines();
    assert_eq!(lines[..2], pairs(&[(None, "one"), (None, "two")]), "{stderr}");
    let is_there = |place, prompt: &str| lines[2..].contains(&(Some(place), prompt.to_owned()));
    assert!(lines.len() == 4 && is_there(0, "new") && is_there(1, "two"), "{lines:?}");
    let (status, _, stderr) = output_with_stdin(pair.fake.command(&args), b"two\none\n");
    assert!(status == 0 && stderr.starts_with("0 answered, 0 failed, 2 were there\n"), "{stderr}");
    let lines = pair.lines();
    assert_eq!(lines[..2], pairs(&[(Some(1), "one"), (Some(0), "two")]), "{stderr}");
    assert!(lines[2..].iter().all(|it| it.0.is_none()), "{lines:?}");
}

#[test]
fn a_start_that_is_killed_after_lines_were_added_has_lost_and_mixed_up_nothing() {
    let pair = Pair::new("sample-moved-killed");
    pair.sample(&["one", "two", "three"], &[]);
    let prompts = ["zero", "three", "one", "last", "two"];
    fs::write(&pair.input, prompts.join("\n")).unwrap();
    // The server never answers the new prompts, and says that one came.
    let (told, came) = crossbeam_channel::bounded(9);
    pair.fake.server.script(move |seen| {
        seen.path.ends_with("/asample").then(|| {
            let _ = told.send(());
            tinkex::testing::Act::Stall
        })
    });
    let args = ["-i", &pair.input, "-o", &pair.output];
    let mut child = pair.fake.command(&args).stderr(Stdio::null()).spawn().unwrap();
    came.recv_timeout(std::time::Duration::from_secs(120)).unwrap();
    child.kill().unwrap();
    child.wait().unwrap();
    let mut lines = pair.lines();
    lines.sort();
    assert_eq!(lines, pairs(&[(Some(1), "three"), (Some(2), "one"), (Some(4), "two")]));
    pair.fake.server.script(|_| None);
    assert_eq!(pair.sample(&prompts, &[]).1, ["last", "zero"]);
    assert_eq!(pair.lines().len(), 5);
}
