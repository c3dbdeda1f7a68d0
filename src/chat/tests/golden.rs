use std::sync::Arc;

use super::exceptions::{EXCEPTIONS, Exception, Follows, Mode, Shape};
use super::fixtures::{Conversation, Entry, Fixture, Rendered, conversations, fixture};
use crate::chat::{Example, Message, Renderer, RendererOptions, TrainOnWhat};

pub(super) fn renderer(name: &str, fixture: &Fixture, like_cookbook: bool) -> Renderer {
    let current_date = fixture.file["current_date"].as_str().map(str::to_owned);
    let name = name.strip_suffix("_llama3").or(name.strip_suffix("_qwen3")).unwrap_or(name);
    let options = RendererOptions { like_cookbook, current_date };
    Renderer::with_options(name, Arc::clone(&fixture.tokenizer), &options).unwrap()
}

/// Two results for a conversation that are compared: `prompt`, `plural MODE` or `single MODE`.
#[derive(Debug)]
struct Pair {
    kind: String,
    ours: Rendered,
    theirs: Rendered,
    entry_kind: Kind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Prompt,
    AllAnswers,
    Other,
}

fn of_example(example: &Example) -> (Vec<i32>, Vec<bool>) {
    (example.tokens().to_ints().unwrap(), example.weights().iter().map(|weight| *weight != 0.0).collect())
}

/// Examples that train something.
fn trained(examples: Rendered) -> Rendered {
    examples.map(|list| list.into_iter().filter(|(_, weights)| weights.contains(&true)).collect())
}

/// The messages as the script gave them to the cookbook: for the mode `customized` with flags.
fn flagged(messages: &[Message], what: TrainOnWhat) -> Vec<Message> {
    let mut messages = messages.to_vec();
    if what == TrainOnWhat::Customized && messages.iter().all(|message| message.trainable.is_none()) {
        for (i, message) in messages.iter_mut().enumerate() {
            message.trainable = Some(i % 2 == 1);
        }
    }
    messages
}

fn as_prompt(ids: Option<Vec<i32>>) -> Rendered {
    ids.map(|ids| vec![(ids.clone(), vec![false; ids.len()])])
}

/// The messages that the prompt is made for: answers at the end are what it asks for.
pub(super) fn asked(messages: &[Message]) -> &[Message] {
    let answers = messages.iter().rev().take_while(|message| message.role == "assistant").count();
    &messages[..messages.len() - answers]
}

fn pairs(renderer: &Renderer, conversation: &Conversation, entry: &Entry<'_>) -> Vec<Pair> {
    let messages = &conversation.messages;
    let prompt = renderer.build_generation_prompt(asked(messages)).ok();
    let prompt = as_prompt(prompt.map(|prompt| prompt.to_ints().unwrap()));
    let theirs = as_prompt(entry.prompt());
    let mut pairs = vec![Pair { kind: "prompt".into(), ours: prompt, theirs, entry_kind: Kind::Prompt }];
    for (i, what) in TrainOnWhat::ALL.into_iter().enumerate() {
        let messages = flagged(messages, what);
        let plural = renderer.build_supervised_examples(&messages, what).ok();
        pairs.push(Pair {
            kind: format!("plural {what}"),
            ours: plural.map(|list| list.iter().map(of_example).collect()),
            theirs: trained(entry.plural(i)),
            entry_kind: if what == TrainOnWhat::AllAssistantMessages {
                Kind::AllAnswers
            } else {
                Kind::Other
            },
        });
        let single = renderer.build_supervised_example(&messages, what).ok();
        pairs.push(Pair {
            kind: format!("single {what}"),
            ours: single.map(|example| vec![of_example(&example)]),
            theirs: entry.single(i),
            entry_kind: Kind::Other,
        });
    }
    pairs
}

fn shape(ours: &Rendered, theirs: &Rendered) -> Option<Shape> {
    match (ours, theirs) {
        _ if ours == theirs => None,
        (None, Some(_)) => Some(Shape::OursRefuses),
        (Some(_), None) => Some(Shape::TheirsRefuses),
        _ => {
            let ids = |list: &Rendered| list.iter().flatten().map(|(ids, _)| ids.clone()).collect::<Vec<_>>();
            Some(if ids(ours) == ids(theirs) { Shape::Weights } else { Shape::Tokens })
        }
    }
}

/// What the oracle that an exception follows has instead, if it has this kind of result.
fn followed(exception: &Exception, pair: &Pair, entry: &Entry<'_>) -> Option<Rendered> {
    match (exception.follows, pair.entry_kind) {
        (Follows::Template, Kind::Prompt) => Some(as_prompt(entry.template_prompt())),
        (Follows::Native, Kind::Prompt) => Some(as_prompt(entry.native_prompt())),
        (Follows::Native, Kind::AllAnswers) if exception.examples => Some(entry.native_examples()),
        _ => None,
    }
}

fn show(renderer: &Renderer, list: &Rendered) -> String {
    let Some(list) = list else { return "refused".into() };
    let of = |(ids, weights): &(Vec<i32>, Vec<bool>)| {
        let mut text = String::new();
        for (id, trained) in ids.iter().zip(weights) {
            text += &renderer.tokenizer().decode(&[*id]);
            text += if *trained { "²" } else { "·" };
        }
        format!("{text:?}")
    };
    list.iter().map(of).collect::<Vec<_>>().join("\n           ")
}

/// Compares everything that a renderer makes of the conversations. Returns the exceptions that were of use.
fn compare(name: &str, mode: Mode) -> Vec<usize> {
    let fixture = fixture(name);
    let renderer = renderer(name, &fixture, mode == Mode::LikeCookbook);
    let mut used = Vec::new();
    let mut wrong = Vec::new();
    for conversation in conversations() {
        let entry = fixture.entry(&conversation.name);
        if entry.is_refused() {
            let refused = renderer.build_generation_prompt(&conversation.messages);
            assert!(refused.is_err(), "{name} {}", conversation.name);
            continue;
        }
        for pair in pairs(&renderer, &conversation, &entry) {
            let Some(shape) = shape(&pair.ours, &pair.theirs) else { continue };
            let found = EXCEPTIONS
                .iter()
                .position(|exception| exception.matches(name, mode, &conversation.name, &pair.kind, shape));
            let right = found.is_some_and(|i| match followed(&EXCEPTIONS[i], &pair, &entry) {
                Some(followed) => pair.ours == followed,
                None => true,
            });
            used.extend(found);
            if !right {
                let cause = found.map_or("no exception", |i| EXCEPTIONS[i].cause);
                wrong.push(format!(
                    "{name} {mode:?} {} {} {shape:?} ({cause})\n  ours     {}\n  cookbook {}\n  template {}\n  native   {}",
                    conversation.name,
                    pair.kind,
                    show(&renderer, &pair.ours),
                    show(&renderer, &pair.theirs),
                    match pair.entry_kind {
                        Kind::Prompt => show(&renderer, &as_prompt(entry.template_prompt())),
                        _ => show(&renderer, &as_prompt(entry.template_conversation())),
                    },
                    match pair.entry_kind {
                        Kind::Prompt => show(&renderer, &as_prompt(entry.native_prompt())),
                        _ => show(&renderer, &entry.native_examples()),
                    },
                ));
            }
        }
    }
    assert!(wrong.is_empty(), "{} differences without a reason:\n{}", wrong.len(), wrong.join("\n"));
    used
}

pub(super) const NAMES: [&str; 17] = [
    "role_colon_llama3",
    "role_colon_qwen3",
    "llama3",
    "qwen3",
    "qwen3_disable_thinking",
    "qwen3_instruct",
    "qwen3_5",
    "qwen3_5_disable_thinking",
    "deepseekv3",
    "deepseekv3_thinking",
    "gpt_oss_no_sysprompt",
    "gpt_oss_low_reasoning",
    "gpt_oss_medium_reasoning",
    "gpt_oss_high_reasoning",
    "kimi_k2",
    "kimi_k25",
    "kimi_k25_disable_thinking",
];

#[test]
fn renderers_write_what_their_oracles_write_and_each_exception_has_a_use() {
    let mut used = vec![false; EXCEPTIONS.len()];
    let mut wrong = Vec::new();
    for name in NAMES {
        for mode in [Mode::LikeCookbook, Mode::Default] {
            match std::panic::catch_unwind(|| compare(name, mode)) {
                Ok(found) => found.into_iter().for_each(|i| used[i] = true),
                Err(panic) => wrong.push(panic.downcast_ref::<String>().cloned().unwrap_or_default()),
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    for (used, exception) in used.iter().zip(EXCEPTIONS) {
        assert!(used, "an exception is of no use any more: {exception:?}");
    }
}
