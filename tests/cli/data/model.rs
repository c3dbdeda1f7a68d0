//! The model whose tokenizer and template are used, and the roles of that template.

use std::fs;

use serde_json::json;
use tinkex::testing::FakeServer;

use super::file;
use super::shown::tokenizer_folder;
use crate::util::{Folder, output_with_stdin, run, tinkex};

const CHAT: &str = r#"{"messages":[{"role":"user","content":"q"},{"role":"assistant","content":"a"}]}"#;
const SHOWN: &str = "User: q\n\nAssistant:[[ a\n\nUser:]]\n";

#[test]
fn examples_are_shown_checked_and_counted_for_the_folder_of_a_run() {
    let home = Folder::new("data-run");
    let chats = file(&home, "chats.jsonl", [CHAT; 4].join("\n"));
    let path = |name: &str| home.join(name).display().to_string();
    let (out, local) = (path("run"), format!("--local={}", path("engine")));
    let (status, _, stderr) =
        run(&home, &["train", &chats, &local, "--out", &out, "--max-steps", "1", "--batch-size", "4"]);
    assert_eq!(status, 0, "{stderr}");
    let show = ["data", "show", &chats, "-n", "1", "-m", &out];
    let (status, stdout, stderr) = run(&home, &show);
    // The engine of the run tells how long an example may be.
    assert_eq!((status, stderr.as_str()), (0, ""));
    assert_eq!(stdout.split_once('\n').unwrap().1, SHOWN);
    for command in ["check", "stats"] {
        let (status, _, stderr) = run(&home, &["data", command, &chats, "-m", &out]);
        assert_eq!((status, stderr.as_str()), (0, ""), "{command}");
    }
    // Without the engine, the files of the run tell enough.
    fs::remove_dir_all(home.join("engine")).unwrap();
    let (status, stdout, stderr) = run(&home, &show);
    assert_eq!((status, stdout.split_once('\n').unwrap().1), (0, SHOWN), "{stderr}");
    assert!(stderr.is_empty() && !home.join("engine").exists(), "{stderr}");
}

#[test]
fn the_template_and_the_tokenizer_are_those_of_the_run_unless_the_command_line_has_others() {
    let home = Folder::new("data-run-template");
    let folder = tokenizer_folder(&home);
    let chats = file(&home, "chats.jsonl", CHAT);
    let dir = home.join("run");
    fs::create_dir(&dir).unwrap();
    let run_dir = dir.display().to_string();
    let jinja = home.join("chat_template.jinja").display().to_string();
    let by_jinja = "<|im_start|>user: q<|im_end|>\n<|im_start|>assistant: [[a<|im_end|>]]\n";
    let by_name = "<|im_start|>user\nq<|im_end|>\n<|im_start|>assistant\n[[a<|im_end|>]]\n";
    for (template, used, more, expected) in [
        (json!(jinja), "sha256:1", &[][..], by_jinja),
        (json!(null), "qwen3_instruct", &[], by_name),
        (json!(jinja), "sha256:1", &["--template", "qwen3_instruct"], by_name),
    ] {
        let config = json!({
            "model": "no/model", "tokenizer": folder, "template": template, "tinkex": { "template": used },
        });
        fs::write(dir.join("config.json"), config.to_string()).unwrap();
        let args = [&["data", "show", &chats, "-m", &run_dir, "--max-length", "99"][..], more].concat();
        let (status, stdout, stderr) = run(&home, &args);
        assert_eq!((status, stderr.as_str()), (0, ""), "{template} {more:?}");
        assert_eq!(stdout.split_once('\n').unwrap().1, expected, "{template} {more:?}");
    }
}

#[test]
fn a_number_of_examples_that_shows_none_is_refused() {
    let home = Folder::new("data-show-none");
    let chats = file(&home, "chats.jsonl", CHAT);
    let (status, stdout, stderr) = run(&home, &["data", "show", &chats, "--tokenizer", "bytes", "-n", "0"]);
    assert_eq!((status, stdout.as_str()), (2, ""));
    assert!(stderr.contains("'0' for -n") || stderr.contains("at least 1"), "{stderr}");
}

#[test]
fn roles_under_the_names_of_the_template_are_those_that_they_mean() {
    let home = Folder::new("data-template-roles");
    let folder = tokenizer_folder(&home);
    let gemma = "{% for m in messages %}{% if m['role'] == 'assistant' %}{% set role = 'model' %}{% else %}\
                 {% set role = m['role'] %}{% endif %}<|im_start|>{{ role }}: {{ m['content'] }}<|im_end|>\n{% endfor %}\
                 {% if add_generation_prompt %}<|im_start|>model: {% endif %}";
    // This one has no other name for an answer.
    let bot = "{% for m in messages %}{% if m.role == 'user' %}<|im_start|>u: {{ m.content }}<|im_end|>\n\
               {% elif m.role == 'bot' %}<|im_start|>b: {{ m.content }}<|im_end|>\n{% endif %}{% endfor %}\
               {% if add_generation_prompt %}<|im_start|>b: {% endif %}";
    let config = home.join("bot");
    fs::create_dir(&config).unwrap();
    fs::write(
        config.join("tokenizer_config.json"),
        json!({ "eos_token": "<|im_end|>", "chat_template": bot }).to_string(),
    )
    .unwrap();
    let gemma = file(&home, "gemma.jinja", gemma);
    let bot = file(&home, "bot.jinja", bot);
    let config = config.display().to_string();
    for (role, template, user, answer) in [
        ("model", &gemma, "user", "model"),
        ("assistant", &gemma, "user", "model"),
        ("bot", &bot, "u", "b"),
        ("assistant", &bot, "u", "b"),
        ("bot", &config, "u", "b"),
    ] {
        let chat = CHAT.replace("assistant", role);
        let chats = file(&home, "chats.jsonl", chat);
        let args = ["data", "show", &chats, "--tokenizer", &folder, "--template", template];
        let (status, stdout, stderr) = run(&home, &args);
        assert_eq!((status, stderr.as_str()), (0, ""), "{role} {template}");
        let expected = format!("<|im_start|>{user}: q<|im_end|>\n<|im_start|>{answer}: [[a<|im_end|>]]\n");
        assert_eq!(stdout.split_once('\n').unwrap().1, expected, "{role} {template}");
        let (status, stdout, _) =
            run(&home, &["data", "check", &chats, "--tokenizer", &folder, "--template", template]);
        let note = format!("note: the role {role:?} is read as \"assistant\"");
        assert_eq!((status, stdout.contains(&note)), (0, role != "assistant"), "{stdout}");
    }
    // A template that has no such name takes it for a mistake.
    let chats = file(&home, "chats.jsonl", CHAT.replace("assistant", "bot"));
    let args = ["data", "show", &chats, "--tokenizer", &folder, "--template", &gemma];
    let (status, _, stderr) = run(&home, &args);
    assert!(status == 1 && stderr.contains("unknown role \"bot\"; did you mean \"assistant\"?"), "{stderr}");
}

#[test]
fn prompts_may_have_the_roles_of_the_template_too() {
    let home = Folder::new("data-prompt-roles");
    let folder = tokenizer_folder(&home);
    let bot = "{% for m in messages %}<|im_start|>{{ 'user' if m.role == 'user' else 'bot' }}: {{ m.content }}\
               <|im_end|>{% endfor %}<|im_start|>bot: ";
    let bot = file(&home, "bot.jinja", bot);
    let line = r#"{"messages":[{"role":"user","content":"q"},{"role":"bot","content":"a"},{"role":"user","content":"r"}]}"#;
    let prompts = file(&home, "prompts.jsonl", line);
    let server = FakeServer::new();
    let listening = server.listen().unwrap();
    let mut command = tinkex(&home);
    command.args(["sample", "--base-url", &listening.url(), "-m", "tinkex/nano", "-i", &prompts]);
    command.args(["--tokenizer", &folder, "--template", &bot]).env("TINKER_API_KEY", "tml-key");
    let (status, stdout, stderr) = output_with_stdin(command, b"");
    assert_eq!(status, 0, "{stderr}");
    assert!(stdout.contains(r#""role":"bot""#), "the prompt stands there as it was given: {stdout}");
    let sent = server.requests_to("/api/v1/asample")[0].json().unwrap();
    let n_markers = |id: u64| {
        let tokens = sent["prompt"]["chunks"][0]["tokens"].as_array().unwrap();
        tokens.iter().filter(|it| it.as_u64() == Some(id)).count()
    };
    assert_eq!((n_markers(256), n_markers(257)), (4, 3));
}
