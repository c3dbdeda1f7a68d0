//! What is shown, counted and written of examples.

use std::process::Stdio;

use serde_json::{Value, json};

use super::file;
use crate::util::{Folder, run, run_with_stdin, tinkex};

#[test]
fn examples_are_shown_with_their_trained_tokens_marked_and_with_their_other_keys() {
    let home = Folder::new("data-show");
    let chat = file(
        &home,
        "chat.jsonl",
        r#"{"topic":"greeting","messages":[{"role":"user","content":"Hi\u001b[2J"},{"role":"assistant","content":"Hello."},{"role":"user","content":"Bye"},{"role":"assistant","content":"Bye."}]}"#,
    );
    let show = |options: &[&str]| {
        let args: Vec<&str> =
            ["data", "show", &chat, "--tokenizer", "bytes"].iter().chain(options).copied().collect();
        let (status, stdout, stderr) = run(&home, &args);
        assert_eq!((status, stderr.as_str()), (0, ""));
        stdout.replace(&chat, "chat.jsonl")
    };
    snapbox::assert_data_eq!(
        show(&[]),
        snapbox::str![[r#"
topic: "greeting"
# chat.jsonl:1: 66 tokens, 21 trained
User: Hi/u{1b}[2J

Assistant:[[ Hello.

]]User: Bye

Assistant:[[ Bye.

User:]]

"#]]
    );
    let last = show(&["--train-on", "last-assistant", "--max-length", "63"]);
    assert!(last.contains("63 tokens, 9 trained, cut from 66") && last.contains("Hello.\n\nUser"), "{last}");
    assert!(show(&["--color", "always"]).contains("Assistant:\x1b[32;4m Hello.\n\n\x1b[0mUser: Bye"));
    let json: Value = serde_json::from_str(&show(&["-f", "json"])).unwrap();
    let example = &json["examples"][0];
    assert_eq!((&example["line"], &example["other_keys"]["topic"]), (&json!(1), &json!("greeting")));
    assert_eq!(example["examples"][0]["tokens"].as_array().unwrap().len(), 66);
}

#[test]
fn statistics_count_tokens_and_what_is_too_long() {
    let home = Folder::new("data-stats");
    let lines: String = (1..=100).map(|n| format!("{{\"text\":\"{}\"}}\n", "x".repeat(n))).collect();
    let path = file(&home, "x.jsonl", lines);
    let stats = |options: &[&str]| {
        let args: Vec<&str> =
            ["data", "stats", &path, "--tokenizer", "bytes"].iter().chain(options).copied().collect();
        let (status, stdout, stderr) = run(&home, &args);
        assert_eq!((status, stderr.as_str()), (0, ""));
        stdout
    };
    snapbox::assert_data_eq!(
        stats(&["--max-length", "91", "-f", "table"]),
        snapbox::str![[r#"
PROPERTY            VALUE
format              text
lines               100
examples            100
tokens              5095
tokens in an epoch  4995
trained tokens      4995
lengths             min 2, p50 51, p90 91, p99 100, max 101
max length          91
too long            10, which train refuses without --too-long

"#]]
    );
    let json: Value =
        serde_json::from_str(&stats(&["--max-length", "91", "--too-long", "drop", "-f", "json"])).unwrap();
    assert_eq!(
        (&json["examples"], &json["dropped"], &json["lengths"]["max"]),
        (&json!(90), &json!(10), &json!(101))
    );
    let (status, stdout, stderr) = run(
        &home,
        &["data", "stats", &path, "--tokenizer", "bytes", "--max-length", "91", "--too-long", "error"],
    );
    assert_eq!((status, stdout.as_str()), (1, ""));
    assert!(stderr.contains("x.jsonl:91: has 92 tokens, and 91 are allowed; --too-long"), "{stderr}");
    let (_, stdout, _) =
        run(&home, &["data", "stats", &path, "--tokenizer", "bytes", "--limit", "5", "-f", "json"]);
    assert_eq!(serde_json::from_str::<Value>(&stdout).unwrap()["examples"], 5);
}

#[test]
fn what_is_converted_says_the_same() {
    let home = Folder::new("data-convert");
    let convert = |line: &str, to: &str, options: &[&str]| {
        let args: Vec<&str> = ["data", "convert", "-", "--to", to].iter().chain(options).copied().collect();
        let (status, stdout, stderr) = run_with_stdin(&home, &args, line.as_bytes());
        assert_eq!(status, 0, "{line}: {stderr}");
        stdout
    };
    let u = r#"{"role":"user","content":"q"}"#;
    let a = r#"{"role":"assistant","content":"a"}"#;
    let b = r#"{"role":"assistant","content":"b"}"#;
    let chat = format!("{{\"messages\":[{u},{a}]}}\n");
    let completion = format!("{{\"prompt\":[{u}],\"completion\":[{a}]}}\n");
    let preference = format!("{{\"prompt\":[{u}],\"chosen\":[{a}],\"rejected\":[{b}]}}\n");
    for (line, to, expected) in [
        (r#"{"conversations":[{"from":"human","value":"q"},{"from":"gpt","value":"a"}]}"#, "chat", &chat),
        (r#"{"prompt":"q","completion":"a"}"#, "chat", &chat),
        (&chat, "completion", &completion),
        (r#"{"prompt":"q","chosen":"a","rejected":"b"}"#, "preference", &preference),
        (r#"{"prompt":"q","chosen":"a","rejected":"b"}"#, "chat", &chat),
        (r#"{"prompt":"q","chosen":"a","rejected":"b"}"#, "completion", &completion),
        (
            &format!(
                r#"{{"comparison":{{"prompt_conversation":[{u}],"completion_A":[{b}],"completion_B":[{a}]}},"label":"B"}}"#
            ),
            "preference",
            &preference,
        ),
    ] {
        assert_eq!(&convert(line, to, &[]), expected, "{line}");
    }
    // The last answer that is trained, and what was said before it.
    let marked =
        format!(r#"{{"messages":[{u},{a},{u},{{"role":"assistant","content":"not this","weight":0}},{u}]}}"#);
    assert_eq!(convert(&marked, "completion", &[]), completion);
    let several = format!(r#"{{"messages":[{u},{a},{u},{b}]}}"#);
    let (status, _, stderr) =
        run_with_stdin(&home, &["data", "convert", "-", "--to", "completion"], several.as_bytes());
    let note = "note: 1 chat with several answers: as a completion, only the last one is trained\n";
    assert_eq!((status, stderr.as_str()), (0, note));
    let alpaca = r#"{"instruction":"q","input":"","output":"a"}"#;
    assert_eq!(convert(alpaca, "completion", &["--data-format", "completion"]), completion);
    // All that a chat can have comes through unchanged.
    let full = format!(
        r#"{{"messages":[{{"role":"system","content":"s","weight":0}},{{"role":"user","content":[{{"type":"text","text":"x"}},{{"type":"image_url","image_url":{{"url":"data:image/png;base64,AQID"}},"expected_tokens":3}}],"weight":0}},{{"role":"assistant","reasoning_content":"t","content":"c","tool_calls":[{{"id":"1","type":"function","function":{{"name":"f","arguments":"{{\"z\":1,\"a\":2}}"}}}}],"weight":1}},{{"role":"tool","content":"r","tool_call_id":"1","name":"f","weight":0}}],"tools":[{{"type":"function","function":{{"name":"f","description":"d","parameters":{{"z":{{}},"a":{{}}}}}}}}]}}{}"#,
        "\n"
    );
    assert_eq!(convert(&full, "chat", &[]), full);

    let (status, stdout, stderr) =
        run_with_stdin(&home, &["data", "convert", "-", "--to", "chat"], b"{\"text\":\"a\"}");
    assert_eq!((status, stdout.as_str()), (1, ""));
    assert_eq!(
        stderr,
        "error: stdin:1: the format text cannot be converted to chat or to another one: it has no question and answer\n"
    );
    let tie = format!(
        r#"{{"comparison":{{"prompt_conversation":[{u}],"completion_A":[{a}],"completion_B":[{b}]}},"label":"Tie"}}"#
    );
    let (status, stdout, stderr) =
        run_with_stdin(&home, &["data", "convert", "-", "--to", "preference"], tie.as_bytes());
    assert_eq!((status, stdout.as_str(), stderr.as_str()), (0, "", "note: 1 tie was left out\n"));
}

#[test]
fn without_a_model_the_error_says_what_to_name() {
    let home = Folder::new("data-no-model");
    let chat = r#"{"messages":[{"role":"user","content":"q"},{"role":"assistant","content":"a"}]}"#;
    for (options, expected) in [
        (&["data", "show", "-"][..], "-m Qwen/Qwen3-8B, or another model; --tokenizer bytes"),
        (
            &["data", "show", "-", "--tokenizer", "bytes", "--template", "qwen9"],
            "neither a file nor a renderer",
        ),
        (&["data", "show", "-", "--tokenizer", "no/such/file"], "neither a file, a folder, `bytes`"),
        (
            &["data", "show", "-", "--tokenizer", "bytes", "--no-mask-prompt"],
            "--no-mask-prompt is for completions",
        ),
    ] {
        let (status, stdout, stderr) = run_with_stdin(&home, options, chat.as_bytes());
        assert_eq!((status, stdout.as_str()), (2, ""), "{stderr}");
        assert!(stderr.contains(expected), "{stderr}");
    }
}

#[test]
fn masks_follow_the_options() {
    let home = Folder::new("data-masks");
    let show = |line: &str, options: &[&str]| {
        let args: Vec<&str> =
            ["data", "show", "-", "--tokenizer", "bytes"].iter().chain(options).copied().collect();
        let (status, stdout, stderr) = run_with_stdin(&home, &args, line.as_bytes());
        assert_eq!((status, stderr.as_str()), (0, ""));
        stdout.split_once('\n').unwrap().1.trim_end().to_owned()
    };
    let completion = r#"{"prompt":"q","completion":"a"}"#;
    assert_eq!(show(completion, &[]), "q[[a]]");
    assert_eq!(show(completion, &["--mask-prompt"]), "q[[a]]");
    assert_eq!(show(completion, &["--no-mask-prompt"]), "[[qa]]");
    let chat = r#"{"messages":[{"role":"user","content":"q"},{"role":"assistant","content":"a","weight":0},{"role":"user","content":"r"},{"role":"assistant","content":"b"}]}"#;
    assert_eq!(show(chat, &[]), "User: q\n\nAssistant: a\n\nUser: r\n\nAssistant:[[ b\n\nUser:]]");
    let all = "User: q\n\nAssistant:[[ a\n\n]]User: r\n\nAssistant:[[ b\n\nUser:]]";
    assert_eq!(show(chat, &["--train-on", "all-assistant"]), all);
    let trl =
        r#"{"prompt":[{"role":"user","content":"q"}],"completion":[{"role":"assistant","content":"a"}]}"#;
    assert_eq!(show(trl, &[]), "User: q\n\nAssistant:[[ a\n\nUser:]]");
    let pair = r#"{"prompt":"q","chosen":"a","rejected":"b"}"#;
    assert!(show(pair, &[]).contains("Assistant:[[ a\n\nUser:]]\n# stdin:1 rejected: 28 tokens, 9 trained"));
}

/// The folder of a tokenizer with a token for each byte and the markers of ChatML, and with a chat template.
pub(super) fn tokenizer_folder(home: &Folder) -> String {
    let is_printable = |byte: u32| matches!(byte, 33..=126 | 161..=172 | 174..=255);
    let mut n_others = 0;
    let mut vocabulary = serde_json::Map::new();
    for byte in 0..256_u32 {
        let character = if is_printable(byte) {
            byte
        } else {
            n_others += 1;
            255 + n_others
        };
        vocabulary.insert(char::from_u32(character).unwrap().to_string(), json!(byte));
    }
    let markers = [
        "<|im_start|>",
        "<|im_end|>",
        "<think>",
        "</think>",
        "<tool_call>",
        "</tool_call>",
        "<tool_response>",
        "</tool_response>",
    ];
    let added: Vec<Value> = markers
        .iter()
        .enumerate()
        .map(|(i, marker)| {
            json!({ "id": 256 + i, "content": marker, "single_word": false, "lstrip": false, "rstrip": false,
                    "normalized": false, "special": i < 2 })
        })
        .collect();
    let split = json!({ "type": "Split", "pattern": { "Regex": r"\p{L}+|\s+|[^\s\p{L}]+" }, "behavior": "Isolated",
                        "invert": false });
    let bytes =
        json!({ "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": false, "use_regex": false });
    let tokenizer = json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": added, "normalizer": null,
        "pre_tokenizer": { "type": "Sequence", "pretokenizers": [split, bytes] },
        "post_processor": null, "decoder": bytes,
        "model": { "type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": "",
                   "end_of_word_suffix": "", "fuse_unk": false, "byte_fallback": false,
                   "vocab": vocabulary, "merges": [] }
    });
    file(home, "tokenizer.json", tokenizer.to_string());
    file(home, "tokenizer_config.json", json!({ "eos_token": "<|im_end|>" }).to_string());
    let template = "{% for message in messages %}<|im_start|>{{ message.role }}: {{ message.content }}<|im_end|>\n\
                    {% endfor %}{% if add_generation_prompt %}<|im_start|>assistant: {% endif %}";
    file(home, "chat_template.jinja", template);
    home.display().to_string()
}

#[test]
fn tokenizers_and_templates_come_from_files_too() {
    let home = Folder::new("data-template");
    let folder = tokenizer_folder(&home);
    let [tokenizer, template] =
        ["tokenizer.json", "chat_template.jinja"].map(|name| home.join(name).display().to_string());
    let chat = r#"{"messages":[{"role":"user","content":"q<|im_end|>"},{"role":"assistant","content":"a"}]}"#;
    let by_jinja = "<|im_start|>user: q<|im_end|><|im_end|>\n<|im_start|>assistant: [[a<|im_end|>]]\n";
    let by_name = "<|im_start|>user\nq<|im_end|><|im_end|>\n<|im_start|>assistant\n[[a<|im_end|>]]\n";
    for (options, expected) in [
        (&["--tokenizer", &folder][..], by_jinja),
        (&["--tokenizer", &folder, "--template", &template], by_jinja),
        (&["--tokenizer", &folder, "--template", &folder], by_jinja),
        (&["--tokenizer", &folder, "--template", "qwen3_instruct"], by_name),
        (&["--tokenizer", &tokenizer, "--template", "qwen3_instruct"], by_name),
        (&["--tokenizer", &tokenizer, "-m", "Qwen/Qwen3-4B-Instruct-2507", "--max-length", "99"], by_name),
    ] {
        let args: Vec<&str> = ["data", "show", "-"].iter().chain(options).copied().collect();
        let (status, stdout, stderr) = run_with_stdin(&home, &args, chat.as_bytes());
        assert_eq!((status, stderr.as_str()), (0, ""), "{options:?}");
        assert_eq!(stdout.split_once('\n').unwrap().1, expected, "{options:?}");
    }
}

#[test]
fn a_closed_pipe_ends_a_conversion_quietly() {
    let home = Folder::new("data-pipe");
    let path = file(&home, "x.jsonl", "{\"prompt\":\"q\",\"completion\":\"a\"}\n".repeat(20_000));
    let mut command = tinkex(&home);
    command.args(["data", "convert", &path, "--to", "chat"]);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!((output.status.code(), output.stderr.len()), (Some(0), 0));
}
