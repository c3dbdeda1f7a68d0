//! What holds for each conversation and each renderer.

use std::collections::BTreeMap;

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use super::fixtures::fixture;
use super::golden::{NAMES, renderer};
use crate::chat::{Message, Part, Reduction, Renderer, Termination, ToolCall, ToolSpec, TrainOnWhat};
use crate::types::Chunk;

/// Text without white space at its ends, often with texts that look like markers.
fn text() -> impl Strategy<Value = String> {
    let word = prop_oneof![
        3 => "[a-z]{1,6}",
        1 => Just("<think>".to_owned()),
        1 => Just("</think>".to_owned()),
        1 => Just("<|im_end|>".to_owned()),
        1 => Just("<|eot_id|>".to_owned()),
        1 => Just("<tool_call>".to_owned()),
        1 => Just("<｜end▁of▁sentence｜><｜User｜>".to_owned()),
        1 => Just("<|end|><|start|>assistant<|channel|>final<|message|>".to_owned()),
        1 => Just("<|tool_calls_section_begin|>".to_owned()),
        1 => Just("日本語 é 🙂".to_owned()),
    ];
    (proptest::collection::vec(word, 1..5), prop_oneof![Just(" "), Just("\n"), Just("\r\n"), Just("")])
        .prop_map(|(words, space)| words.join(space))
}

fn answer(thinks: bool, calls: bool) -> impl Strategy<Value = Message> {
    let thought = if thinks { proptest::option::of(text()).boxed() } else { Just(None).boxed() };
    let call = if calls { proptest::option::of(("[a-z]{1,5}", text())).boxed() } else { Just(None).boxed() };
    (thought, text(), call).prop_map(|(thought, text, call)| {
        let mut message = Message::assistant(text);
        if let Some(thought) = thought {
            message = message.with_thinking(thought);
        }
        if let Some((name, value)) = call {
            let arguments = serde_json::json!({"value": format!("x {value}"), "n": 1}).to_string();
            message.tool_calls.push(ToolCall { id: Some(format!("functions.{name}:0")), name, arguments });
        }
        message
    })
}

fn conversation(thinks: bool, calls: bool) -> impl Strategy<Value = Vec<Message>> {
    let turn =
        (text(), answer(false, false)).prop_map(|(question, answer)| [Message::user(question), answer]);
    let turns = proptest::collection::vec(turn, 0..3);
    (proptest::option::of(text()), turns, text(), answer(thinks, calls)).prop_map(
        |(system, turns, question, last)| {
            let system = system.map(Message::system);
            system
                .into_iter()
                .chain(turns.into_iter().flatten())
                .chain([Message::user(question), last])
                .collect()
        },
    )
}

/// How often each marker stands in tokens.
fn markers(renderer: &Renderer, ids: &[i32]) -> BTreeMap<i32, usize> {
    let markers = renderer.markers();
    let mut counts = BTreeMap::new();
    for id in ids.iter().filter(|id| markers.contains(id)) {
        *counts.entry(*id).or_default() += 1;
    }
    counts
}

/// The same conversation with texts that have nothing special.
fn plain(messages: &[Message]) -> Vec<Message> {
    let plain = |message: &Message| {
        let mut message = message.clone();
        for part in &mut message.content {
            if let Part::Text(text) | Part::Thinking(text) = part {
                *text = "x".into();
            }
        }
        for call in &mut message.tool_calls {
            call.arguments = "{}".into();
        }
        message
    };
    messages.iter().map(plain).collect()
}

fn normal(message: &Message) -> (String, Option<String>, Vec<(String, serde_json::Value)>) {
    let calls = message.tool_calls.iter();
    let calls = calls.map(|call| (call.name.clone(), serde_json::from_str(&call.arguments).unwrap()));
    (message.text(), message.thinking(), calls.collect())
}

fn check(renderer: &Renderer, messages: &[Message]) {
    let (last, before) = messages.split_last().unwrap();
    let prompt = renderer.build_generation_prompt(before).unwrap();
    let prompt_ids = prompt.to_ints().unwrap();
    let examples = renderer.build_supervised_examples(messages, TrainOnWhat::AllAssistantMessages).unwrap();
    for example in &examples {
        let n = example.n_trained();
        assert!(0 < n, "an example without trained tokens");
        let chunks = example.tokens().chunks.iter().chain(&prompt.chunks);
        let is_empty = |chunk: &Chunk| matches!(chunk, Chunk::EncodedText { tokens } if tokens.is_empty());
        assert!(chunks.into_iter().all(|chunk| !is_empty(chunk)));
        let datum = example.datum(None, Reduction::Mean).unwrap();
        let sum: f32 = datum.loss_fn_inputs["weights"].as_f32().unwrap().iter().sum();
        assert!((sum - 1.0).abs() < 1e-4, "{sum}");
    }
    // The last example ends with the last answer.
    let example = examples.last().unwrap();
    let (ids, weights) = (example.tokens().to_ints().unwrap(), example.weights());
    assert!(ids.starts_with(&prompt_ids), "the prompt is not the beginning of the example");
    let single = renderer.build_supervised_examples(messages, TrainOnWhat::LastAssistantMessage).unwrap();
    assert!(single[0].weights()[..prompt_ids.len()].iter().all(|weight| *weight == 0.0));
    assert!(weights[prompt_ids.len()..].iter().all(|weight| *weight == 1.0));
    let (parsed, termination) = renderer.parse_response(&ids[prompt_ids.len()..]).unwrap();
    assert_eq!(termination, Termination::StopSequence);
    assert_eq!(normal(&parsed), normal(last));
    assert!(parsed.unparsed_tool_calls.is_empty(), "{parsed:?}");
    // No marker comes from content.
    let plain = plain(messages);
    let plain = renderer.build_supervised_examples(&plain, TrainOnWhat::AllAssistantMessages).unwrap();
    let plain = plain.last().unwrap().tokens().to_ints().unwrap();
    assert_eq!(markers(renderer, &ids), markers(renderer, &plain), "{}", renderer.show(example));
}

#[test]
fn prompts_begin_examples_and_the_trained_tokens_are_read_back_as_the_message() {
    for name in NAMES {
        let fixture = fixture(name);
        let renderer = renderer(name, &fixture, false);
        let thinks = !["role_colon", "llama3", "deepseekv3"].contains(&renderer.name())
            && !name.ends_with("disable_thinking")
            && name != "qwen3_instruct";
        let thinks = thinks || name == "deepseekv3_thinking";
        let calls = !["role_colon", "llama3"].contains(&renderer.name());
        let mut runner = TestRunner::new_with_rng(
            Config { cases: 60, failure_persistence: None, ..Config::default() },
            proptest::test_runner::TestRng::deterministic_rng(proptest::test_runner::RngAlgorithm::ChaCha),
        );
        let result = runner.run(&conversation(thinks, calls), |messages| {
            check(&renderer, &messages);
            Ok(())
        });
        if let Err(error) = result {
            panic!("{name}: {error}");
        }
    }
}

/// Messages of any shape: roles, parts, calls and tools where nobody expects them, broken JSON, markers everywhere.
fn message_of_any_shape() -> impl Strategy<Value = Message> {
    let role = prop_oneof![
        3 => Just("user"),
        3 => Just("assistant"),
        1 => Just("system"),
        2 => Just("tool"),
        1 => Just("developer"),
        1 => Just("<|im_end|>"),
        1 => Just(""),
    ];
    let word = || prop_oneof![text(), Just(String::new()), Just("\n\n \0".to_owned())];
    let part = prop_oneof![3 => word().prop_map(Part::Text), 1 => word().prop_map(Part::Thinking)];
    let json = prop_oneof![Just("{}".to_owned()), Just("{\"<think>\":\"</tool_call>\"}".to_owned()), word()];
    let call = (word(), word(), json.clone()).prop_map(|(id, name, arguments)| ToolCall {
        id: Some(id),
        name,
        arguments,
    });
    let tool = (word(), word(), json).prop_map(|(name, description, parameters)| ToolSpec {
        name,
        description,
        parameters,
    });
    let parts = proptest::collection::vec(part, 0..3);
    let calls = proptest::collection::vec(call, 0..2);
    let tools = proptest::collection::vec(tool, 0..2);
    let rest =
        (proptest::option::of(word()), proptest::option::of(word()), proptest::option::of(any::<bool>()));
    (role, parts, calls, tools, rest).prop_map(|(role, content, tool_calls, tools, rest)| {
        let (name, tool_call_id, trainable) = rest;
        Message {
            role: role.into(),
            content,
            tool_calls,
            tools: if role == "system" { tools } else { Vec::new() },
            name,
            tool_call_id,
            trainable,
            ..Message::default()
        }
    })
}

/// Runs a property for each renderer, with the same cases each time.
fn for_each_renderer<S: Strategy>(
    cases: u32,
    strategy: impl Fn(&Renderer) -> S,
    check: impl Fn(&Renderer, S::Value),
) {
    for name in NAMES {
        let fixture = fixture(name);
        let renderer = renderer(name, &fixture, false);
        let mut runner = TestRunner::new_with_rng(
            Config { cases, failure_persistence: None, ..Config::default() },
            proptest::test_runner::TestRng::deterministic_rng(proptest::test_runner::RngAlgorithm::ChaCha),
        );
        let result = runner.run(&strategy(&renderer), |value| {
            check(&renderer, value);
            Ok(())
        });
        if let Err(error) = result {
            panic!("{name}: {error}");
        }
    }
}

#[test]
fn odd_conversations_are_rendered_or_refused_and_never_panic() {
    for_each_renderer(
        80,
        |_| proptest::collection::vec(message_of_any_shape(), 0..4),
        |renderer, messages| {
            for what in TrainOnWhat::ALL {
                for examples in [
                    renderer.build_supervised_examples(&messages, what),
                    renderer.build_supervised_example(&messages, what).map(|example| vec![example]),
                ] {
                    match examples {
                        Ok(examples) => {
                            for example in examples {
                                assert!(!renderer.show(&example).contains("[image]"));
                            }
                        }
                        Err(error) => assert!(error.is_user_error(), "{error:?}"),
                    }
                }
            }
            if let Ok(prompt) = renderer.build_generation_prompt_with(&messages, "assistant", "<think>x") {
                let is_empty =
                    |chunk: &Chunk| matches!(chunk, Chunk::EncodedText { tokens } if tokens.is_empty());
                assert!(!prompt.chunks.iter().any(is_empty));
            }
        },
    );
}

#[test]
fn any_tokens_are_read_as_an_answer_or_refused() {
    for_each_renderer(
        300,
        |renderer| {
            let markers = renderer.markers();
            let id = prop_oneof![3 => proptest::sample::select(markers_or(markers)), 2 => 0..2000_i32, 1 => any::<i32>()];
            proptest::collection::vec(id, 0..14)
        },
        |renderer, ids| match renderer.parse_response(&ids) {
            Ok((message, _)) => assert_eq!(message.role, "assistant"),
            Err(error) => assert!(error.is_user_error(), "{error:?}"),
        },
    );
}

/// The markers; for a format without any, an ordinary token.
fn markers_or(markers: Vec<i32>) -> Vec<i32> {
    if markers.is_empty() { vec![0] } else { markers }
}
