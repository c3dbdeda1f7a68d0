//! Answers and prompts with a prefill, against the cookbook.

use super::fixtures::{conversations, fixture, ints, message};
use super::golden::{NAMES, renderer};
use crate::chat::{Message, Part, Termination};

/// Answers that are read in another way than by the cookbook.
const DIFFERENT: &[(&str, &str, &str)] = &[
    ("*", "markers_as_text", "D2: text that looks like a marker is text"),
    ("qwen3*", "call_with_text", "white space before a call is part of the format"),
    ("qwen3*", "two_calls", "the same"),
    ("qwen3*", "call_bad_and_good", "the same"),
    ("qwen3_instruct", "call_after_thinking", "the same"),
    ("qwen3_5*", "call_values", "True is written for true, and read so"),
    ("deepseekv3*", "call_with_text", "white space around calls is kept"),
    ("deepseekv3*", "call_and_text_after", "the same"),
    ("deepseekv3*", "call_name_with_dash", "the cookbook does not see the call"),
    ("gpt_oss*", "call", "D9: beside a call without text, the cookbook has the whole answer as text"),
    ("gpt_oss*", "call_recipient_after_channel", "D9"),
    ("gpt_oss*", "call_plain_json", "D9"),
    ("gpt_oss*", "call_spaced_arguments", "D9"),
    ("gpt_oss*", "call_bad_json", "D9"),
    ("gpt_oss*", "call_empty", "D9"),
    ("gpt_oss*", "call_no_message", "D9"),
    ("gpt_oss*", "call_and_return", "D9"),
    ("gpt_oss*", "call_ended_by_return", "D9"),
    ("gpt_oss*", "two_calls_one_stop", "D9"),
    ("gpt_oss*", "call_not_object", "D9; arguments are an object, or the call could not be read"),
    ("gpt_oss*", "final_empty", "an empty answer has no text; the cookbook has that of the markers"),
    ("gpt_oss*", "whitespace_final", "an answer of white space is that text"),
    ("gpt_oss*", "recipient_as_text", "the name of a tool in a text is not a call"),
    ("kimi*", "call_id_other", "a call whose id has no name is not dropped, but reported as not read"),
    ("kimi*", "call_and_text_after", "text after the calls is kept"),
    ("kimi*", "call_not_object", "arguments that are not an object cannot be rendered again"),
];

/// The id, the name and the arguments of a call.
type Call = (Option<String>, String, serde_json::Value);

/// The parts without empty ones and with neighbouring texts as one, the calls, and the number of those not read.
fn normal(message: &Message) -> (Vec<Part>, Vec<Call>, usize) {
    let mut parts: Vec<Part> = Vec::new();
    for part in &message.content {
        match (parts.last_mut(), part) {
            (_, Part::Text(text)) if text.is_empty() => {}
            (Some(Part::Text(last)), Part::Text(text)) => last.push_str(text),
            _ => parts.push(part.clone()),
        }
    }
    let calls = message
        .tool_calls
        .iter()
        .map(|call| (call.id.clone(), call.name.clone(), serde_json::from_str(&call.arguments).unwrap()));
    (parts, calls.collect(), message.unparsed_tool_calls.len())
}

#[test]
fn answers_are_read_as_the_cookbook_reads_them() {
    let mut wrong = Vec::new();
    let mut used = vec![false; DIFFERENT.len()];
    for name in NAMES {
        let fixture = fixture(name);
        let renderer = renderer(name, &fixture, false);
        for answer in fixture.file["answers"].as_array().into_iter().flatten() {
            let parsed = renderer.parse_response(&ints(&answer["ids"]));
            let same = match (&parsed, &answer["error"]) {
                (Err(_), error) => !error.is_null(),
                (Ok((parsed, termination)), error) => {
                    let termination = match termination {
                        Termination::StopSequence => "stop_sequence",
                        Termination::Eos => "eos",
                        Termination::Malformed => "malformed",
                    };
                    error.is_null()
                        && answer["termination"] == termination
                        && normal(parsed) == normal(&message(&answer["message"]))
                }
            };
            let case = answer["name"].as_str().unwrap();
            let row = DIFFERENT.iter().position(|(renderer, known, _)| {
                *known == case
                    && renderer.strip_suffix('*').map_or(*renderer == name, |start| name.starts_with(start))
            });
            match row {
                Some(row) => used[row] |= !same,
                None if !same => wrong.push(format!(
                    "{name} {case} {}\n  ours     {parsed:?}\n  cookbook {} {} {}",
                    answer["text"], answer["message"], answer["termination"], answer["error"]
                )),
                None => {}
            }
        }
    }
    assert!(wrong.is_empty(), "{} answers:\n{}", wrong.len(), wrong.join("\n"));
    for (used, row) in used.iter().zip(DIFFERENT) {
        assert!(used, "{row:?} is of no use any more");
    }
}

#[test]
fn a_prefill_is_encoded_on_its_own_after_the_prompt() {
    for name in NAMES {
        let fixture = fixture(name);
        let renderer = renderer(name, &fixture, true);
        for case in fixture.file["prefills"].as_array().into_iter().flatten() {
            let conversation = conversations().into_iter().find(|it| it.name == case["name"]).unwrap();
            let prefill = case["prefill"].as_str().unwrap();
            let prompt = renderer.build_generation_prompt_with(&conversation.messages, "assistant", prefill);
            match (&case["ids"], prompt) {
                (_, Err(_)) => assert!(conversation.messages.iter().any(|it| !it.tool_calls.is_empty())),
                (theirs, Ok(prompt)) => assert_eq!(prompt.to_ints().unwrap(), ints(theirs), "{name} {case}"),
            }
        }
    }
}
