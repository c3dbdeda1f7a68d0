use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::sync::Arc;

use super::fixtures::{Fixture, Rendered, conversations, fixture};
use crate::chat::{Example, Message, Renderer, RendererOptions, TrainOnWhat};

/// What is compared of a conversation: `prompt`, `plural MODE`, `single MODE`.
type Kinds = BTreeSet<String>;

fn renderer(name: &str, fixture: &Fixture, like_cookbook: bool) -> Renderer {
    let current_date = fixture.file["current_date"].as_str().map(str::to_owned);
    let name = name.strip_suffix("_llama3").or(name.strip_suffix("_qwen3")).unwrap_or(name);
    let options = RendererOptions { like_cookbook, current_date };
    Renderer::with_options(name, Arc::clone(&fixture.tokenizer), &options).unwrap()
}

fn of_example(example: &Example) -> (Vec<i32>, Vec<bool>) {
    (example.tokens().to_ints().unwrap(), example.weights().iter().map(|weight| *weight != 0.0).collect())
}

/// Examples that train something.
fn trained(examples: Rendered) -> Rendered {
    examples.map(|list| list.into_iter().filter(|(_, weights)| weights.contains(&true)).collect())
}

fn flagged(messages: &[Message], what: TrainOnWhat) -> Vec<Message> {
    let mut messages = messages.to_vec();
    if what == TrainOnWhat::Customized && messages.iter().all(|message| message.trainable.is_none()) {
        for (i, message) in messages.iter_mut().enumerate() {
            message.trainable = Some(i % 2 == 1);
        }
    }
    messages
}

/// Where a renderer differs from the cookbook.
fn differences(name: &str, like_cookbook: bool) -> BTreeMap<String, Kinds> {
    let fixture = fixture(name);
    let renderer = renderer(name, &fixture, like_cookbook);
    let mut all = BTreeMap::new();
    for conversation in conversations() {
        let entry = fixture.entry(&conversation.name);
        let mut kinds = Kinds::new();
        let messages = &conversation.messages;
        let answers = messages.iter().rev().take_while(|message| message.role == "assistant").count();
        let asked = &messages[..messages.len() - answers];
        let prompt = renderer.build_generation_prompt(asked).ok().map(|prompt| prompt.to_ints().unwrap());
        if entry.is_refused() {
            assert_eq!(prompt, None, "{name} {}", conversation.name);
            continue;
        }
        let mut compare = |kind: String, ours: &Rendered, theirs: &Rendered| {
            if ours != theirs {
                if let Ok(path) = std::env::var("TINKEX_SHOW") {
                    let mut text = format!("{name} {} {kind}\n", conversation.name);
                    for (who, list) in [("ours  ", ours), ("theirs", theirs)] {
                        match list {
                            None => writeln!(text, "  {who} refused").unwrap(),
                            Some(list) => {
                                for (ids, weights) in list {
                                    let mut shown = String::new();
                                    for run in ids
                                        .iter()
                                        .zip(weights)
                                        .collect::<Vec<_>>()
                                        .chunk_by(|a, b| a.1 == b.1)
                                    {
                                        let decoded: Vec<String> = run
                                            .iter()
                                            .map(|(id, _)| renderer.tokenizer().decode(&[**id]))
                                            .collect();
                                        let decoded = decoded.join("·");
                                        shown +=
                                            &if *run[0].1 { format!("⟦{decoded}⟧") } else { decoded };
                                    }
                                    writeln!(text, "  {who} {shown:?}").unwrap();
                                }
                            }
                        }
                    }
                    use std::io::Write as _;
                    let mut file = std::fs::OpenOptions::new().create(true).append(true).open(path).unwrap();
                    file.write_all(text.as_bytes()).unwrap();
                }
                kinds.insert(kind);
            }
        };
        let as_list = |ids: Option<Vec<i32>>| ids.map(|ids| vec![(ids.clone(), vec![false; ids.len()])]);
        compare("prompt".into(), &as_list(prompt), &as_list(entry.prompt()));
        for (i, what) in TrainOnWhat::ALL.into_iter().enumerate() {
            let messages = flagged(messages, what);
            let plural = renderer.build_supervised_examples(&messages, what).ok();
            let plural = plural.map(|list| list.iter().map(of_example).collect());
            compare(format!("plural {what}"), &plural, &trained(entry.plural(i)));
            let single = renderer.build_supervised_example(&messages, what).ok();
            compare(format!("single {what}"), &single.map(|it| vec![of_example(&it)]), &entry.single(i));
        }
        if !kinds.is_empty() {
            all.insert(conversation.name, kinds);
        }
    }
    all
}

#[test]
fn dump() {
    let Ok(names) = std::env::var("TINKEX_RENDERERS") else { return };
    for name in names.split(',') {
        for like in [true, false] {
            println!("== {name} like_cookbook={like}");
            for (conversation, kinds) in differences(name, like) {
                let short = |kind: &String| {
                    kind.replace("all_assistant_messages", "AA")
                        .replace("all_messages", "AM")
                        .replace("all_tokens", "AT")
                        .replace("all_user_and_system_messages", "US")
                        .replace("last_assistant_message", "LM")
                        .replace("last_assistant_turn", "LT")
                        .replace("customized", "C")
                        .replace("plural ", "P")
                        .replace("single ", "S")
                };
                println!("  {conversation}: {}", kinds.iter().map(short).collect::<Vec<_>>().join(" "));
            }
        }
    }
}
