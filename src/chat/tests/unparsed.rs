//! Calls that a model wrote and that could not be read: the next prompt shows them.

use super::fixtures::fixture;
use super::golden::{NAMES, renderer};
use crate::chat::{Message, TrainOnWhat, UnparsedToolCall};

#[test]
fn a_call_that_could_not_be_read_stands_in_the_next_prompt_as_the_model_wrote_it() {
    for name in NAMES {
        let renderer = renderer(name, &fixture(name), false);
        let mut answer = Message::assistant("Let me look.");
        let call =
            UnparsedToolCall { raw_text: "<call>{\"name\": </call>".into(), error: "Invalid JSON".into() };
        answer.unparsed_tool_calls.push(call);
        let messages = [Message::user("q"), answer, Message::user("That was no JSON.")];
        let prompt = renderer.build_generation_prompt(&messages).unwrap().to_ints().unwrap();
        let text = renderer.tokenizer().decode(&prompt);
        assert_eq!(text.matches("Let me look.<call>{\"name\": </call>").count(), 1, "{name} {text}");
        let what = TrainOnWhat::AllAssistantMessages;
        let examples = renderer.build_supervised_examples(&messages[..2], what).unwrap();
        assert!(renderer.show(&examples[0]).contains("<call>{\"name\": </call>"), "{name}");
    }
}

#[test]
fn a_call_without_an_end_is_text_and_not_written_twice() {
    let renderer = renderer("qwen3", &fixture("qwen3"), false);
    let start = renderer.tokenizer().token_id("<tool_call>").unwrap();
    let end = renderer.tokenizer().token_id("<|im_end|>").unwrap();
    let mut ids = vec![start];
    ids.extend(renderer.tokenizer().encode_ordinary("{\"name\": \"f\"").unwrap());
    ids.push(end);
    let (answer, _) = renderer.parse_response(&ids).unwrap();
    assert_eq!(answer.unparsed_tool_calls.len(), 1, "{answer:?}");
    let prompt = renderer.build_generation_prompt(&[Message::user("q"), answer, Message::user("?")]).unwrap();
    let text = renderer.tokenizer().decode(&prompt.to_ints().unwrap());
    assert_eq!(text.matches("{\"name\": \"f\"").count(), 1, "{text}");
}
