//! What no golden vector of Kimi shows.

use std::sync::Arc;

use super::fixtures::fixture;
use crate::chat::{Image, Message, Part, Reduction, Renderer, ToolSpec, TrainOnWhat};
use crate::tokenizer::Tokenizer;
use crate::types::{Chunk, ImageFormat};

const SYSTEM: &str =
    "<|im_system|>system<|im_middle|>You are Kimi, an AI assistant created by Moonshot AI.<|im_end|>";

fn renderer(name: &str) -> Renderer {
    Renderer::new(name, fixture(name).tokenizer).unwrap()
}

fn shown(renderer: &Renderer, messages: &[Message], what: TrainOnWhat) -> Vec<String> {
    let examples = renderer.build_supervised_examples(messages, what).unwrap();
    let text = |text: String| text.strip_prefix(SYSTEM).unwrap_or(&text).to_owned();
    examples.iter().map(|example| text(renderer.show(example))).collect()
}

fn picture() -> Message {
    let mut message = Message::user("What is this?");
    let image = Image { data: vec![1, 2, 3], format: ImageFormat::Png, expected_tokens: Some(5) };
    message.content.insert(0, Part::Image(image));
    message
}

/// The tokenizer of a model that knows no images.
#[derive(Debug)]
struct WithoutMedia(Arc<dyn Tokenizer>);

impl Tokenizer for WithoutMedia {
    fn encode(&self, text: &str) -> crate::Result<Vec<i32>> {
        self.0.encode(text)
    }

    fn encode_ordinary(&self, text: &str) -> crate::Result<Vec<i32>> {
        self.0.encode_ordinary(text)
    }

    fn token_bytes(&self, id: i32) -> Option<Vec<u8>> {
        self.0.token_bytes(id)
    }

    fn token_id(&self, token: &str) -> Option<i32> {
        self.0.token_id(token).filter(|_| !token.starts_with("<|media"))
    }

    fn bos_id(&self) -> Option<i32> {
        self.0.bos_id()
    }

    fn eos_id(&self) -> Option<i32> {
        self.0.eos_id()
    }

    fn is_special(&self, id: i32) -> bool {
        self.0.is_special(id)
    }
}

#[test]
fn an_image_of_k25_stands_between_its_markers_and_counts_its_tokens() {
    let renderer = renderer("kimi_k25");
    let messages = [picture(), Message::assistant("A cat.").with_thinking("fur")];
    let examples = renderer.build_supervised_examples(&messages, TrainOnWhat::default()).unwrap();
    assert_eq!(
        renderer.show(&examples[0]),
        format!(
            "{SYSTEM}<|im_user|>user<|im_middle|><|media_begin|>image<|media_content|>[image]<|media_end|>\nWhat is \
             this?<|im_end|><|im_assistant|>assistant<|im_middle|><think>⟦fur</think>A cat.<|im_end|>⟧"
        )
    );
    assert!(examples[0].datum(None, Reduction::Mean).is_ok());
    let prompt = renderer.build_generation_prompt(&messages[..1]).unwrap();
    assert!(matches!(prompt.chunks[1], Chunk::Image { expected_tokens: Some(5), .. }));
}

#[test]
fn an_image_is_refused_where_the_model_has_none() {
    let without = Arc::new(WithoutMedia(fixture("kimi_k25").tokenizer));
    let without = Renderer::new("kimi_k25", without).unwrap();
    assert!(without.build_generation_prompt(&[Message::user("u")]).is_ok());
    let error = without.build_generation_prompt(&[picture()]).unwrap_err().to_string();
    assert!(error.contains("tokenizer") && error.contains("<|media_begin|>"), "{error}");
    let error = renderer("kimi_k2").build_generation_prompt(&[picture()]).unwrap_err().to_string();
    assert!(error.contains("messages[0].content[0]"), "{error}");
}

#[test]
fn each_answer_is_trained_once_also_if_a_turn_of_the_format_goes_over_several_users() {
    let renderer = renderer("kimi_k25");
    let messages = [
        Message::user("a"),
        Message::assistant("").with_thinking("t").with_tool_call("functions.f:0", "f", "{}"),
        Message::tool("f", "functions.f:0", "r"),
        Message::user("b"),
        Message::assistant("c"),
    ];
    let start = "<|im_user|>user<|im_middle|>a<|im_end|><|im_assistant|>assistant<|im_middle|><think>";
    let call = "t</think><|tool_calls_section_begin|><|tool_call_begin|>functions.f:0<|tool_call_argument_begin|>{}\
                <|tool_call_end|><|tool_calls_section_end|><|im_end|>";
    let last = format!(
        "{start}{call}<|im_system|>f<|im_middle|>## Return of functions.f:0\nr<|im_end|><|im_user|>user<|im_middle|>b\
         <|im_end|><|im_assistant|>assistant<|im_middle|><think>⟦</think>c<|im_end|>⟧"
    );
    let single = renderer.build_supervised_example(&messages, TrainOnWhat::LastAssistantTurn).unwrap();
    assert_eq!(renderer.show(&single), format!("{SYSTEM}{last}"));
    let mut examples = vec![format!("{start}⟦{call}⟧"), last];
    assert_eq!(shown(&renderer, &messages, TrainOnWhat::AllAssistantMessages), examples);
    examples.remove(0);
    assert_eq!(shown(&renderer, &messages, TrainOnWhat::LastAssistantTurn), examples);
}

/// As the template numbers them.
#[test]
fn calls_and_results_without_ids_are_numbered_in_the_conversation() {
    let renderer = renderer("kimi_k2");
    let call = || Message::assistant("").with_tool_call("", "f", "{}").with_tool_call("", "g", "{}");
    let result = || Message::new("tool", "r");
    let messages = [Message::user("a"), call(), result(), result(), call(), result(), result(), result()];
    let prompt = renderer.build_generation_prompt(&messages).unwrap();
    let text = renderer.tokenizer().decode(&prompt.to_ints().unwrap());
    let ids: Vec<&str> = text.split("functions.").skip(1).map(|rest| &rest[..3]).collect();
    assert_eq!(ids, ["f:0", "g:1", "f:0", "g:1", "f:2", "g:3", "f:2", "g:3", "unk"]);
    assert!(text.contains("functions.unknown:4"), "{text}");
}

#[test]
fn what_the_format_cannot_write_is_refused_with_its_path() {
    let tool = |parameters: &str| ToolSpec {
        name: "f".into(),
        description: "d".into(),
        parameters: parameters.into(),
    };
    let declared = |parameters: &str| Message::system("s").with_tools([tool("{}"), tool(parameters)]);
    for (name, messages, path) in [
        ("kimi_k2", vec![declared("{")], "messages[0].tools[1].parameters"),
        ("kimi_k25", vec![declared("[]")], "messages[0].tools[1].parameters"),
        ("kimi_k25", vec![Message::user("u"), declared("{}")], "messages[1].tools"),
        ("kimi_k25", vec![Message::new("tool_declare", "x")], "messages[0].role"),
        ("kimi_k2", vec![Message::user("u").with_thinking("t")], "messages[0].content[0]"),
        ("kimi_k2", vec![Message::user("u").with_tool_call("i", "f", "{}")], "messages[0].tool_calls"),
        (
            "kimi_k2",
            vec![Message::assistant("u").with_tool_call("i", "f", "[]")],
            "messages[0].tool_calls[0].arguments",
        ),
    ] {
        let error = renderer(name).build_generation_prompt(&messages).unwrap_err().to_string();
        assert!(
            error.contains(&format!("{path}: ")) || error.contains(&format!("{path} ")),
            "{path}: {error}"
        );
    }
}

#[test]
fn an_answer_is_rendered_as_it_was_read() {
    let renderer = renderer("kimi_k25");
    let tokenizer: &Arc<dyn Tokenizer> = renderer.tokenizer();
    let user = Message::user("u");
    let message = Message::assistant(" a<think>\n").with_thinking("\nt ").with_tool_call(
        "functions.a.b:c:7",
        "a.b:c",
        "{ }",
    );
    let prompt = renderer.build_generation_prompt(std::slice::from_ref(&user)).unwrap().to_ints().unwrap();
    let example =
        renderer.build_supervised_example(&[user, message.clone()], TrainOnWhat::default()).unwrap();
    let answer = example.tokens().to_ints().unwrap()[prompt.len()..].to_vec();
    let (read, termination) = renderer.parse_response(&answer).unwrap();
    assert_eq!(read, message, "{}", tokenizer.decode(&answer));
    assert!(termination.is_clean());
}

#[test]
fn what_stands_after_the_calls_and_a_second_section_are_not_lost() {
    let renderer = renderer("kimi_k2");
    let tokenizer = renderer.tokenizer();
    let mut ids = Vec::new();
    let mut text = |text: &str| ids.extend(tokenizer.encode(text).unwrap());
    let section = |i: usize| {
        format!(
            "<|tool_calls_section_begin|><|tool_call_begin|>functions.f:{i}<|tool_call_argument_begin|>{{}}\
             <|tool_call_end|><|tool_calls_section_end|>"
        )
    };
    text(&format!("Before. {}Between. {}After.<|im_end|>", section(0), section(1)));
    let (message, termination) = renderer.parse_response(&ids).unwrap();
    assert!(termination.is_clean());
    assert_eq!(message.text(), "Before. Between. After.");
    assert_eq!(message.tool_calls.len(), 2, "{message:?}");
}
