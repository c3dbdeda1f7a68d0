//! Files of examples: what is read, what is refused, and what is said about it.

mod columns;
mod converted;
mod model;
mod shown;
mod split;

use std::io::Write;

use serde_json::{Value, json};

use crate::util::{Folder, run, run_with_stdin};

/// A file in a folder of its own, and the name of the file.
fn file(home: &Folder, name: &str, bytes: impl AsRef<[u8]>) -> String {
    let path = home.join(name);
    std::fs::write(&path, bytes).unwrap();
    path.display().to_string()
}

/// The line that `check` says about one line of a file.
fn check(home: &Folder, line: &[u8], options: &[&str]) -> (i32, String) {
    let args: Vec<&str> = ["data", "check", "-"].iter().chain(options).copied().collect();
    let (status, stdout, stderr) = run_with_stdin(home, &args, line);
    assert_eq!(stderr, "", "{args:?}");
    (status, stdout)
}

#[test]
fn every_format_and_each_of_its_forms_is_read() {
    let home = Folder::new("data-forms");
    let u = r#"{"role":"user","content":"q"}"#;
    let a = r#"{"role":"assistant","content":"a"}"#;
    for (format, line) in [
        ("chat", format!(r#"{{"messages":[{u},{a}]}}"#)),
        (
            "chat",
            format!(r#"{{"messages":[{u},{{"role":"assistant","content":"a","tool_call":null}}],"tool":null}}"#),
        ),
        ("chat", format!(r#"{{"id":null,"messages":[{u},{a}],"text":null,"other":null}}"#)),
        ("chat", format!(r#"{{"messages":[{u},{{"role":"assistant","content":[{{"type":"text","text":"a"}}]}}]}}"#)),
        ("chat", format!(r#"{{"messages":[{u},{{"role":"assistant","content":"a","weight":1}}]}}"#)),
        ("chat", format!(r#"{{"messages":[{u},{{"role":"assistant","content":"a","train":false}},{u},{a}]}}"#)),
        ("chat", format!(r#"{{"messages":[{u},{{"role":"assistant","content":"a","trainable":true}}]}}"#)),
        (
            "chat",
            format!(
                r#"{{"messages":[{u},{{"role":"assistant","content":null,"tool_calls":[{{"id":"1","type":"function","function":{{"name":"f","arguments":"{{}}"}}}}]}},{{"role":"tool","tool_call_id":"1","name":"f","content":""}},{a}],"tools":[{{"type":"function","function":{{"name":"f","parameters":{{"type":"object"}}}}}}]}}"#
            ),
        ),
        ("chat", r#"{"conversations":[{"from":"human","value":"q"},{"from":"gpt","value":"a"}]}"#.into()),
        (
            "chat",
            r#"{"system":"s","tools":"","conversations":[{"from":"human","value":"q"},{"from":"gpt","value":"a"}]}"#
                .into(),
        ),
        ("chat", format!(r#"{{"conversations":[{u},{a}]}}"#)),
        ("completion", r#"{"prompt":"q","completion":"a"}"#.into()),
        ("completion", format!(r#"{{"prompt":[{u}],"completion":[{a}]}}"#)),
        ("text", r#"{"text":"once"}"#.into()),
        ("tokens", r#"{"tokens":[1,2],"weights":[0,1]}"#.into()),
        ("tokens", r#"{"input_ids":[1,2],"labels":[-100,2],"attention_mask":[1,1]}"#.into()),
        ("preference", r#"{"prompt":"q","chosen":"a","rejected":"b"}"#.into()),
        ("preference", format!(r#"{{"prompt":[{u}],"chosen":[{a}],"rejected":[{{"role":"assistant","content":"b"}}]}}"#)),
        (
            "preference",
            format!(r#"{{"chosen":[{u},{a}],"rejected":[{u},{{"role":"assistant","content":"b"}}]}}"#),
        ),
        (
            "preference",
            format!(
                r#"{{"input":{{"messages":[{u}],"tools":[],"parallel_tool_calls":true}},"preferred_output":[{a}],"non_preferred_output":[{{"role":"assistant","content":"b"}}]}}"#
            ),
        ),
        (
            "preference",
            format!(
                r#"{{"comparison":{{"prompt_conversation":[{u}],"completion_A":[{a}],"completion_B":[{{"role":"assistant","content":"b"}}]}},"label":"B"}}"#
            ),
        ),
    ] {
        let expected = format!("no problems: 1 example, format {format}\n");
        assert_eq!(check(&home, line.as_bytes(), &[]), (0, expected), "{line}");
    }
    let alpaca = br#"{"instruction":"i","input":"","output":"o"}"#;
    let expected = "no problems: 1 example, format completion\n";
    assert_eq!(check(&home, alpaca, &["--data-format", "completion"]), (0, expected.into()));
    let both = br#"{"messages":1,"text":"t"}"#;
    let expected = "note: 1 column is not used: messages\nno problems: 1 example, format text\n";
    assert_eq!(check(&home, both, &["--data-format", "text"]), (0, expected.into()));
}

#[test]
fn a_line_that_cannot_be_used_has_an_error_with_its_path() {
    let home = Folder::new("data-errors");
    for (line, expected) in [
        ("nonsense", "not valid JSON: expected ident at column 2"),
        (
            r#"{"messages":"#,
            "not valid JSON: EOF while parsing a value at column 12; each object must be on one line",
        ),
        ("7", "must be a JSON object"),
        ("{}", "has no keys"),
        (r#"{"message":[]}"#, r#"unknown key "message"; did you mean "messages"?"#),
        (r#"{"Messages":[]}"#, r#"unknown key "Messages"; did you mean "messages"?"#),
        (r#"{"prompt":"q","completions":"a"}"#, r#"unknown key "completions"; did you mean "completion"?"#),
        (r#"{"prompt":"q"}"#, r#"the key "completion" is missing (the keys found: prompt)"#),
        (
            r#"{"prompt":"q","chosen":"a","rejectd":"b"}"#,
            r#"unknown key "rejectd"; did you mean "rejected"?"#,
        ),
        (
            r#"{"instruction":"i","output":"o"}"#,
            "has the keys instruction and output; if it is to be read as Alpaca, add --data-format completion",
        ),
        (
            r#"{"question":"q"}"#,
            "the keys found: question; accepted: chosen and rejected; or input and preferred_output and \
             non_preferred_output; or comparison and label; or messages; or conversations; or prompt and completion; or \
             tokens and weights; or input_ids and labels; or text",
        ),
        (r#"{"messages":[]}"#, "messages: has no messages"),
        (r#"{"messages":{}}"#, "messages: must be a list, not an object"),
        (r#"{"messages":[],"messages":[]}"#, r#"has the key "messages" twice"#),
        (
            r#"{"messages":[{"role":"user","content":"q"}]}"#,
            "messages: has no message of the assistant, so that nothing is trained",
        ),
        (
            r#"{"messages":[{"role":"user","content":"q"},{"role":"assistant","content":""}]}"#,
            "messages[1].content: is empty",
        ),
        (
            r#"{"messages":[{"role":"user","contents":"q"}]}"#,
            r#"messages[0]: unknown key "contents"; did you mean "content"?"#,
        ),
        (
            r#"{"messages":[{"role":"assistant","content":"","tool_call":[]}]}"#,
            r#"messages[0]: unknown key "tool_call"; did you mean "tool_calls"?"#,
        ),
        (
            r#"{"messages":[{"role":"user","content":"q"},{"role":"assitant","content":"a"}]}"#,
            r#"messages[1].role: unknown role "assitant"; did you mean "assistant"?"#,
        ),
        (
            r#"{"messages":[{"role":"human","content":"q"},{"role":"assistant","content":"a"}]}"#,
            r#"messages[0].role: unknown role "human"; did you mean "user"?"#,
        ),
        (
            r#"{"prompt":"q","chosen":[{"role":"Assistant","content":"a"}],"rejected":"b"}"#,
            r#"chosen[0].role: unknown role "Assistant"; did you mean "assistant"?"#,
        ),
        (
            r#"{"conversations":[{"from":"human","values":"q"}]}"#,
            r#"conversations[0]: unknown key "values"; did you mean "value"?"#,
        ),
        (
            r#"{"messages":[{"role":"user","content":"q","weight":2}]}"#,
            "messages[0].weight: must be 0 or 1, not 2",
        ),
        (
            r#"{"conversations":[{"from":"cat","value":"q"}]}"#,
            "conversations[0].from: unknown speaker \"cat\"; accepted: human, user, gpt, assistant, system, tool, observation",
        ),
        (r#"{"prompt":"q","completion":""}"#, "completion: must not be empty"),
        (
            r#"{"prompt":[{"role":"user","content":"q"}],"completion":[{"role":"assistant","content":""}]}"#,
            "completion[0].content: is empty",
        ),
        (r#"{"text":""}"#, "text: must not be empty"),
        (r#"{"tokens":[1,2],"weights":[0]}"#, "weights: has 1 values for 2 tokens"),
        (r#"{"tokens":[1,2],"weights":[0,0]}"#, "all weights are 0, so that nothing is trained"),
        (r#"{"prompt":"q","chosen":"a","rejected":"a"}"#, "both answers are the same"),
        (r#"{"prompt":"q","chosen":"a","rejected":""}"#, "rejected[0].content: is empty"),
        (
            r#"{"input":{"messages":[{"role":"user","content":"q"}]},"preferred_output":[{"role":"assistant","content":3}],"non_preferred_output":[]}"#,
            "preferred_output[0].content: must be a text, a list of parts or null, not a number",
        ),
        (
            r#"{"input":{"messages":[{"content":"q"}]},"preferred_output":[],"non_preferred_output":[]}"#,
            r#"input.messages[0]: the key "role" is missing"#,
        ),
        (
            r#"{"input":{},"preferred_output":[],"non_preferred_output":[]}"#,
            r#"input: the key "messages" is missing"#,
        ),
        (
            r#"{"comparison":{"prompt_conversation":[],"completion_a":[],"completion_B":[]},"label":"A"}"#,
            r#"comparison: unknown key "completion_a"; did you mean "completion_A"?"#,
        ),
        (r#"{"comparison":{},"label":"C"}"#, r#"label: must be "A", "B" or "Tie", not "C""#),
    ] {
        let (status, stdout) = check(&home, line.as_bytes(), &[]);
        let first = stdout.lines().next().unwrap();
        assert_eq!((status, first), (1, format!("stdin:1: {expected}").as_str()), "{line}");
    }
    let (_, stdout) = check(&home, br#"{"instruction":"i","output":""}"#, &["--data-format", "completion"]);
    assert!(stdout.starts_with("stdin:1: output: is empty\n"), "{stdout}");
}

#[test]
fn compressed_files_stdin_and_files_of_windows_are_read() {
    let home = Folder::new("data-compressed");
    let text = "\u{feff}{\"text\":\"a\"}\r\n\r\n{\"text\":\"b\"}".as_bytes();
    let mut gz = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gz.write_all(text).unwrap();
    let gz = file(&home, "a.jsonl.gz", gz.finish().unwrap());
    let zst = file(&home, "a.jsonl.zst", zstd::encode_all(text, 1).unwrap());
    let plain = file(&home, "a.jsonl", text);
    for name in [&gz, &zst, &plain] {
        let expected = "no problems: 2 examples, format text\n";
        assert_eq!(run(&home, &["data", "check", name]), (0, expected.into(), String::new()), "{name}");
    }
    assert_eq!(check(&home, text, &[]).0, 0);
    let (_, stdout, _) = run(&home, &["data", "check", &gz, &plain, "-f", "json"]);
    let json: Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!((&json["examples"], &json["files"][1]["lines"]), (&json!(4), &json!(2)));
    assert_ne!(json["files"][0]["sha256"], json["files"][1]["sha256"]);

    let cut = std::fs::read(&gz).unwrap();
    let cut = file(&home, "cut.jsonl.gz", &cut[..cut.len() - 9]);
    let (status, stdout, _) = run(&home, &["data", "check", &cut]);
    assert!(status == 1 && stdout.contains("cut.jsonl.gz:") && stdout.contains("cannot be read"), "{stdout}");
}

#[test]
fn hostile_files_are_told_in_a_line() {
    let home = Folder::new("data-hostile");
    let folder = home.display().to_string();
    let missing = format!("{folder}/missing.jsonl");
    let empty = file(&home, "empty.jsonl", "\n \n");
    let not_there =
        format!("cannot be opened: No such file or directory (os error 2); in {folder} is {empty}");
    for (path, expected) in [
        (folder.as_str(), "is a folder; name the files in it"),
        (missing.as_str(), not_there.as_str()),
        (empty.as_str(), "has no examples"),
    ] {
        let (status, stdout, stderr) = run(&home, &["data", "check", path]);
        assert_eq!(
            (status, stdout.as_str(), stderr.as_str()),
            (1, format!("{path}: {expected}\n1 problem: 0 examples, format unknown\n").as_str(), ""),
        );
        let (status, stdout, stderr) = run(&home, &["data", "stats", path, "--tokenizer", "bytes"]);
        assert_eq!((status, stdout.as_str(), stderr), (1, "", format!("error: {path}: {expected}\n")));
    }
    let long = format!(r#"{{"text":"{}"}}"#, "é\u{202e}".repeat(200_000));
    for (line, is_good) in [
        (long.as_bytes(), true),
        (r#"{"text":"שלום \u0000 \u202e"}"#.as_bytes(), true),
        (b"{\"text\":\"a\0b\"}", false),
        (b"{\"text\":\"\xff\xfe\"}", false),
        (br#"{"text":"\ud800"}"#, false),
        (b"\xff", false),
        (&b"[".repeat(100_000), false),
    ] {
        let (status, stdout) = check(&home, line, &[]);
        assert_eq!(status == 0, is_good, "{stdout}");
        assert!(stdout.len() < 300, "{stdout}");
    }
    let (_, stdout) = check(&home, b"{\"text\":\"a\"}\n{\"text\":\"\xff\"}", &[]);
    assert!(stdout.starts_with("stdin:2: not valid UTF-8 after 9 bytes\n"), "{stdout}");
}

#[test]
fn a_fault_of_a_thousand_lines_is_told_once_with_its_number_and_hides_no_other() {
    let home = Folder::new("data-problems");
    let path =
        file(&home, "x.jsonl", "{\"text\":\"\"}\n".repeat(1000) + "{\"text\":\"good\"}\n{\"txt\":\"a\"}\n");
    let (status, stdout, _) = run(&home, &["data", "check", &path]);
    assert_eq!(status, 1);
    let stdout = stdout.replace(&path, "x.jsonl");
    let expected = "x.jsonl:1: text: must not be empty\nx.jsonl:2: text: must not be empty\n\
                    x.jsonl:3: text: must not be empty\n… and 997 more of this kind, the last one in x.jsonl:1000\n\
                    x.jsonl:1002: unknown key \"txt\"; did you mean \"text\"?\n1,001 problems: 1 example, format text\n";
    assert_eq!(stdout, expected);
    let (_, stdout, _) = run(&home, &["data", "check", &path, "-f", "json"]);
    let json: Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!((&json["num_problems"], json["problems"].as_array().unwrap().len()), (&json!(1001), 20));
    assert_eq!(
        (&json["faults"][0]["count"], &json["faults"][0]["problem"], &json["faults"][1]["count"]),
        (&json!(1000), &json!("text: must not be empty"), &json!(1))
    );
    // The other commands begin with the same check.
    let (status, stdout, stderr) = run(&home, &["data", "stats", &path, "--tokenizer", "bytes"]);
    assert_eq!((status, stdout.as_str(), stderr.lines().count()), (1, "", 5));
}

#[test]
fn a_file_that_is_one_array_is_read_item_by_item() {
    let home = Folder::new("data-array");
    let chat = |answer: &str| {
        format!(
            r#"{{"messages": [{{"role": "user", "content": "[\"q\""}}, {{"role": "assistant", "content": "{answer}"}}]}}"#
        )
    };
    let text = format!("\u{feff}\n [\n  {},\n  {}\n]\n", chat("a"), chat("b").replace(", ", ",\n    "));
    let expected = "no problems: 2 examples, format chat\n";
    assert_eq!(check(&home, text.as_bytes(), &[]), (0, expected.into()));
    let gz = {
        let mut gz = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gz.write_all(text.as_bytes()).unwrap();
        file(&home, "x.json.gz", gz.finish().unwrap())
    };
    assert_eq!(run(&home, &["data", "check", &gz]).1, expected);
    let (status, stdout, stderr) = run(&home, &["data", "convert", &gz, "--to", "completion"]);
    assert_eq!((status, stdout.lines().count(), stderr.as_str()), (0, 2, ""), "{stdout}");
    assert!(stdout.lines().all(|line| line.starts_with("{\"prompt\":")), "{stdout}");
    for (text, expected) in [
        (format!("[{},{}]", chat("a"), chat("")), "stdin, item 2: messages[1].content: is empty"),
        (format!("[{},", chat("a")), "stdin, item 2: the JSON array has no end: the file may have been cut"),
        ("[1]".into(), "stdin, item 1: must be a JSON object"),
        (
            format!("[{0}]\n[{0}]\n", chat("a")),
            "stdin, item 2: something follows the JSON array; give one array, or one object a line",
        ),
        ("PAR1\u{15}".into(), "stdin: is a Parquet file; write it as JSON Lines, one object a line"),
        ("[]".into(), "stdin: has no examples"),
    ] {
        let (status, stdout) = check(&home, text.as_bytes(), &[]);
        assert_eq!((status, stdout.lines().next()), (1, Some(expected)), "{stdout}");
        assert_eq!(stdout.lines().count(), 2, "{stdout}");
    }
}

#[test]
fn all_lines_must_have_one_format() {
    let home = Folder::new("data-agree");
    let text = file(
        &home,
        "a.jsonl",
        "{\"text\":\"a\"}\n{\"prompt\":\"a\",\"completion\":\"b\"}\n{\"txt\":\"a\"}\n",
    );
    let (_, stdout, _) = run(&home, &["data", "check", &text]);
    let problems: Vec<&str> = stdout.lines().map(|line| line.split_once(": ").unwrap().1).collect();
    assert_eq!(
        problems[..2],
        [
            "has the keys prompt, completion, but line 1 has text; all lines must have the same format",
            "unknown key \"txt\"; did you mean \"text\"?"
        ]
    );
    let first = file(&home, "b.jsonl", "{\"text\":\"a\"}");
    let second = file(&home, "c.jsonl", "{\"prompt\":\"a\",\"completion\":\"b\"}");
    let (status, stdout, _) = run(&home, &["data", "check", &first, &second]);
    assert!(
        status == 1
            && stdout
                .contains("c.jsonl:1: has the format completion, but the lines before have the format text"),
        "{stdout}"
    );
}

#[test]
fn with_a_tokenizer_the_check_finds_examples_that_are_too_long() {
    let home = Folder::new("data-check-long");
    let path = file(&home, "x.jsonl", "{\"text\":\"ab\"}\n{\"text\":\"abcdef\"}\n");
    let local = format!("--local={}", home.join("engine").display());
    let (status, stdout, stderr) = run(&home, &["data", "check", &path, &local, "--max-length", "5"]);
    assert_eq!((status, stderr.as_str()), (1, ""));
    assert!(stdout.contains("x.jsonl:2: has 7 tokens, and 5 are allowed"), "{stdout}");
    assert_eq!(run(&home, &["data", "check", &path, &local]).0, 0);
}

#[test]
fn damaged_lines_are_problems_and_never_more_than_that() {
    let home = Folder::new("data-damaged");
    let good = [
        r#"{"messages":[{"role":"user","content":"q"},{"role":"assistant","reasoning_content":"t","content":[{"type":"text","text":"é"}],"tool_calls":[{"id":"1","type":"function","function":{"name":"f","arguments":"{\"a\":1}"}}],"weight":1}],"tools":[{"type":"function","function":{"name":"f","description":"d","parameters":{"type":"object"}}}]}"#,
        r#"{"conversations":[{"from":"human","value":"q"},{"from":"gpt","value":"a"}],"system":"s","tools":"[]"}"#,
        r#"{"prompt":[{"role":"user","content":"q"}],"completion":[{"role":"assistant","content":"a"}]}"#,
        r#"{"tokens":[1,2,3],"weights":[0,1,0.5]}"#,
        r#"{"input":{"messages":[{"role":"user","content":"q"}],"tools":[]},"preferred_output":[{"role":"assistant","content":"a"}],"non_preferred_output":[{"role":"assistant","content":"b"}]}"#,
        r#"{"comparison":{"prompt_conversation":[{"role":"user","content":"q"}],"completion_A":[{"role":"assistant","content":"a"}],"completion_B":[{"role":"assistant","content":"b"}]},"label":"A"}"#,
    ];
    let mut state = 7_u64;
    let mut random = |n: usize| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(state >> 33).unwrap() % n
    };
    for line in good {
        let mut lines = vec![line.as_bytes().to_vec()];
        for _ in 0..3000 {
            let mut damaged = line.as_bytes().to_vec();
            for _ in 0..=random(3) {
                if damaged.len() < 2 {
                    break;
                }
                let at = random(damaged.len());
                match random(5) {
                    0 => damaged[at] = u8::try_from(random(256)).unwrap(),
                    1 => damaged[at] = b"{}[]\",:0n\\"[random(10)],
                    2 => drop(damaged.remove(at)),
                    3 => damaged.truncate(at.max(1)),
                    _ => {
                        let piece = damaged[at..damaged.len().min(at + random(30))].to_vec();
                        damaged.splice(at..at, piece);
                    }
                }
            }
            lines.push(damaged);
        }
        let path = file(&home, "x.jsonl", lines.join(&b'\n'));
        let args = ["data", "check", &path, "--tokenizer", "bytes", "-f", "json"];
        let (status, stdout, stderr) = run(&home, &args);
        assert_eq!((status, stderr.as_str()), (1, ""), "{line}");
        let json: Value = serde_json::from_str(&stdout).unwrap();
        assert!(
            0 < json["examples"].as_u64().unwrap() && 100 < json["num_problems"].as_u64().unwrap(),
            "{json}"
        );
    }
}
