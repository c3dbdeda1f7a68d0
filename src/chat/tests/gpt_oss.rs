//! gpt-oss: what the golden vectors do not show.

use std::sync::Arc;

use super::fixtures::fixture;
use crate::chat::{Message, Part, Renderer, RendererOptions, Termination, ToolSpec, TrainOnWhat};

fn renderer(like_cookbook: bool) -> Renderer {
    let options = RendererOptions { like_cookbook, ..RendererOptions::default() };
    let tokenizer = fixture("gpt_oss_no_sysprompt").tokenizer;
    Renderer::with_options("gpt_oss_no_sysprompt", tokenizer, &options).unwrap()
}

fn prompt(messages: &[Message]) -> String {
    let renderer = renderer(false);
    renderer.tokenizer().decode(&renderer.build_generation_prompt(messages).unwrap().to_ints().unwrap())
}

fn problem(messages: &[Message]) -> String {
    renderer(false).build_generation_prompt(messages).unwrap_err().to_string()
}

fn call() -> Message {
    Message { role: "assistant".into(), ..Message::default() }.with_tool_call("c", "f", "{}")
}

/// The tokens of the answer at the end of a conversation, without its header.
fn answer(renderer: &Renderer, messages: &[Message]) -> Vec<i32> {
    let what = TrainOnWhat::LastAssistantMessage;
    let examples = renderer.build_supervised_examples(messages, what).unwrap();
    let ids = examples[0].tokens().to_ints().unwrap();
    let trained = ids.into_iter().zip(examples[0].weights()).filter(|(_, weight)| **weight != 0.0);
    trained.map(|(id, _)| id).collect()
}

#[test]
fn an_answer_is_read_as_it_was_written() {
    let texts = |texts: &[&str]| Message {
        content: texts.iter().map(|text| Part::Text((*text).into())).collect(),
        ..Message::assistant("")
    };
    let without_id = |mut message: Message| {
        message.tool_calls[0].id = None;
        message
    };
    for message in [
        Message::assistant("\n Yes.  \n"),
        Message::assistant(" \n"),
        Message::assistant("<|channel|>final<|message|>to=functions.f<|return|>").with_thinking("<|end|>"),
        Message::assistant("Yes.").with_thinking("\nWell\n\n"),
        texts(&[]).with_thinking("only a thought"),
        texts(&[]),
        without_id(call()),
        without_id(call().with_thinking("I need f")),
        without_id(
            Message {
                content: vec![Part::Thinking("t".into()), Part::Text(" Let me see. ".into())],
                ..Message::assistant("")
            }
            .with_tool_call("c", "f", "{\"a\":  [1, \"é\"]}"),
        ),
    ] {
        for like_cookbook in [false, true] {
            let renderer = renderer(like_cookbook);
            let ids = answer(&renderer, &[Message::user("q"), message.clone()]);
            assert_eq!(
                renderer.parse_response(&ids).unwrap(),
                (message.clone(), Termination::StopSequence),
                "{}",
                renderer.tokenizer().decode(&ids)
            );
        }
    }
}

#[test]
fn thoughts_before_calls_stay_until_the_answer_is_there() {
    let asks = || vec![Message::user("q"), call().with_thinking("one"), Message::tool("f", "c", "1")];
    let started = "<|start|>user<|message|>q<|end|><|start|>assistant<|channel|>analysis<|message|>one<|end|>\
                   <|start|>assistant to=functions.f<|channel|>commentary json<|message|>{}<|call|>\
                   <|start|>functions.f to=assistant<|channel|>commentary<|message|>\"1\"<|end|><|start|>";
    let mut messages = asks();
    assert_eq!(prompt(&messages), format!("{started}assistant"));
    // Also if the user speaks before the answer.
    messages.push(Message::user("and?"));
    assert_eq!(prompt(&messages), format!("{started}user<|message|>and?<|end|><|start|>assistant"));

    // An example has the prompt that the answer was sampled from.
    let mut messages = asks();
    messages.push(Message::assistant("done").with_thinking("two"));
    let renderer = renderer(false);
    let examples = renderer.build_supervised_examples(&messages, TrainOnWhat::AllAssistantMessages).unwrap();
    assert_eq!(examples.len(), 2);
    assert_eq!(
        renderer.show(&examples[1]),
        format!(
            "{started}assistant⟦<|channel|>analysis<|message|>two<|end|><|start|>assistant<|channel|>final\
             <|message|>done<|return|>⟧"
        )
    );

    // With the answer in the history all of them are gone.
    messages.extend([Message::user("thanks"), call().with_thinking("three"), Message::tool("f", "c", "3")]);
    assert_eq!(
        prompt(&messages),
        started.replace("<|channel|>analysis<|message|>one<|end|><|start|>assistant", "")
            + "assistant<|channel|>final<|message|>done<|end|><|start|>user<|message|>thanks<|end|>\
               <|start|>assistant<|channel|>analysis<|message|>three<|end|><|start|>assistant to=functions.f\
               <|channel|>commentary json<|message|>{}<|call|><|start|>functions.f to=assistant<|channel|>\
               commentary<|message|>\"3\"<|end|><|start|>assistant"
    );
}

#[test]
fn a_result_without_a_name_has_that_of_its_call() {
    let result = |id: Option<&str>| Message {
        name: None,
        tool_call_id: id.map(str::to_owned),
        ..Message::tool("", "", "1")
    };
    let calls = || call().with_tool_call("d", "g", "{}");
    let of = |message: Message| prompt(&[Message::user("q"), calls(), message]);
    assert!(of(result(Some("d"))).contains("<|start|>functions.g to=assistant"));
    assert!(of(Message::tool("functions.h", "d", "1")).contains("<|start|>functions.h to=assistant"));
    for id in [None, Some("e")] {
        let problem = problem(&[Message::user("q"), calls(), result(id)]);
        assert!(problem.contains("messages[2].name"), "{problem}");
    }
}

#[test]
fn what_the_format_cannot_write_is_refused_with_its_place() {
    let tool = |parameters: &str| ToolSpec {
        name: "f".into(),
        description: "d".into(),
        parameters: parameters.into(),
    };
    let bad_call = |arguments: &str| Message::assistant("").with_tool_call("c", "f", arguments);
    for (message, path) in [
        (Message::new("critic", "x"), "messages[1].role"),
        (Message::user("x").with_thinking("t"), "messages[1].content[0]"),
        (Message::user("x").with_tool_call("c", "f", "{}"), "messages[1].tool_calls"),
        (bad_call("[1]"), "messages[1].tool_calls[0].arguments"),
        (bad_call("{"), "messages[1].tool_calls[0].arguments"),
        (Message::system("x").with_tools([tool("{}")]), "messages[1].tools"),
    ] {
        let problem = problem(&[Message::user("q"), message]);
        assert!(problem.contains(path), "{path}: {problem}");
    }
    for parameters in ["[]", ""] {
        let problem = problem(&[Message::system("x").with_tools([tool(parameters)])]);
        assert!(problem.contains("messages[0].tools[0].parameters"), "{problem}");
    }
}

#[test]
fn a_date_is_required_where_the_system_message_has_one() {
    let tokenizer = fixture("gpt_oss_no_sysprompt").tokenizer;
    let make = |date: Option<&str>| {
        let options = RendererOptions { current_date: date.map(str::to_owned), ..RendererOptions::default() };
        Renderer::with_options("gpt_oss_high_reasoning", Arc::clone(&tokenizer), &options)
    };
    for date in ["2026-11-27", "2024-02-29", "2000-02-29", "2026-12-31"] {
        assert!(make(Some(date)).is_ok(), "{date}");
    }
    let wrong =
        ["", "27.11.2026", "2026-11-2", "2026-13-01", "2026-04-31", "2100-02-29", "2026-00-10", "२०२६"];
    for date in wrong.map(Some).into_iter().chain([None]) {
        let problem = make(date).unwrap_err().to_string();
        assert!(problem.contains("current_date"), "{date:?}: {problem}");
    }
}
