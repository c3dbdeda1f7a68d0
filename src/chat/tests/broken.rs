//! Chats and names that cannot be rendered, each with its error.

use std::sync::Arc;

use super::fixtures::fixture;
use super::golden::renderer;
use crate::chat::{Image, Message, Part, Renderer, RendererOptions, ToolSpec, TrainOnWhat};
use crate::error::Error;
use crate::tokenizer::ByteTokenizer;
use crate::types::ImageFormat;

fn image() -> Message {
    let image = Image { data: vec![1], format: ImageFormat::Png, expected_tokens: Some(4) };
    Message { role: "user".into(), content: vec![Part::Image(image)], ..Message::default() }
}

fn tool(parameters: &str) -> Vec<ToolSpec> {
    vec![ToolSpec { name: "f".into(), description: "d".into(), parameters: parameters.into() }]
}

fn error_of(name: &str, messages: &[Message], what: Option<TrainOnWhat>) -> Option<Error> {
    let fixture = fixture(name);
    let renderer = renderer(name, &fixture, false);
    match what {
        None => renderer.build_generation_prompt(messages).err(),
        Some(what) => renderer.build_supervised_examples(messages, what).err(),
    }
}

#[test]
fn each_chat_that_cannot_be_rendered_has_an_error_with_its_path() {
    let user = || Message::user("q");
    let answer = || Message::assistant("a");
    let calls = |arguments: &str| answer().with_tool_call("functions.f:0", "f", arguments);
    let think = || answer().with_thinking("why");
    let thinking_user = || user().with_thinking("why");
    let role = |role: &str| Message::new(role, "x");
    let all = Some(TrainOnWhat::AllAssistantMessages);
    let customized = Some(TrainOnWhat::Customized);
    let mut wrong = Vec::new();
    for (name, messages, what, expected) in [
        ("llama3", vec![image()], None, "messages[0].content[0]: is an image, which the format of llama3"),
        ("llama3", vec![user(), think()], all, "messages[1].content[0]: is a thought"),
        (
            "llama3",
            vec![user(), calls("{}")],
            all,
            "messages[1].tool_calls: the format of llama3 has no calls",
        ),
        (
            "llama3",
            vec![Message::system("s").with_tools(tool("{}"))],
            None,
            "messages[0].tools: the format of llama3 has no tools",
        ),
        ("role_colon_qwen3", vec![user(), think()], all, "messages[1].content[0]: is a thought"),
        ("deepseekv3", vec![user(), think()], all, "messages[1].content[0]: is a thought, but deepseekv3"),
        (
            "qwen3_instruct",
            vec![user(), think(), user(), answer()],
            all,
            "messages[1].content[0]: is a thought, but qwen3_instruct",
        ),
        ("role_colon_qwen3", vec![image()], None, "messages[0].content[0]: is an image"),
        ("qwen3", vec![thinking_user()], None, "messages[0].content[0]: is a thought, but only an assistant"),
        ("qwen3", vec![user(), calls("{\"a\":")], all, "messages[1].tool_calls[0].arguments: not valid JSON"),
        (
            "qwen3",
            vec![user().with_tools(tool("{}"))],
            None,
            "messages[0].tools: only a system message declares",
        ),
        (
            "qwen3_5",
            vec![user().with_tool_call("1", "f", "{}")],
            None,
            "messages[0].tool_calls: only an assistant",
        ),
        (
            "qwen3",
            vec![user(), calls("[1]")],
            all,
            "messages[1].tool_calls[0].arguments: must be a JSON object",
        ),
        (
            "qwen3",
            vec![Message::system("").with_tools(tool("{"))],
            None,
            "messages[0].tools[0].parameters: not valid",
        ),
        (
            "qwen3",
            vec![user().with_trainable(true), answer()],
            customized,
            "messages[1].trainable: must be true or",
        ),
        (
            "qwen3",
            vec![user().with_trainable(true), answer()],
            all,
            "messages[0].trainable: must not be set for the",
        ),
        (
            "qwen3",
            vec![user().with_trainable(true), answer().with_trainable(true)],
            customized,
            "messages[0].trainable: trains other messages than answers",
        ),
        (
            "qwen3",
            vec![user(), answer()],
            Some(TrainOnWhat::AllTokens),
            "train_on_what: trains other messages",
        ),
        (
            "qwen3_disable_thinking",
            vec![user(), think()],
            all,
            "messages[1].content[0]: is a thought, but qwen3_disable_thinking",
        ),
        (
            "qwen3_5_disable_thinking",
            vec![user(), think()],
            all,
            "messages[1].content[0]: is a thought, but ",
        ),
        (
            "qwen3_5",
            vec![user(), calls("1")],
            all,
            "messages[1].tool_calls[0].arguments: must be a JSON object",
        ),
        (
            "deepseekv3",
            vec![user(), Message::system("late")],
            None,
            "messages[1].role: a system message must be the",
        ),
        ("deepseekv3", vec![role("developer")], None, "messages[0].role: \"developer\" is not a role"),
        ("deepseekv3", vec![user(), calls("x")], all, "messages[1].tool_calls[0].arguments: not valid JSON"),
        ("deepseekv3", vec![image()], None, "messages[0].content[0]: is an image"),
        ("deepseekv3", vec![user().with_tools(tool("{}"))], None, "messages[0].tools: only a system message"),
        ("kimi_k2", vec![image()], None, "messages[0].content[0]"),
        ("kimi_k2", vec![user(), calls("x")], all, "messages[1].tool_calls[0].arguments: not valid JSON"),
        (
            "kimi_k25_disable_thinking",
            vec![user(), think()],
            all,
            "messages[1].content[0]: is a thought, but ",
        ),
        ("gpt_oss_no_sysprompt", vec![role("critic")], None, "messages[0].role"),
        (
            "llama3",
            vec![user(), role("Assistant")],
            all,
            "messages[1].role: \"Assistant\" is not a role; write",
        ),
        (
            "qwen3",
            vec![role("human"), role("gpt")],
            all,
            "messages[0].role: \"human\" is not a role; write \"user\"",
        ),
        (
            "kimi_k2",
            vec![role("model")],
            None,
            "messages[0].role: \"model\" is not a role; write \"assistant\"",
        ),
        (
            "qwen3_5",
            vec![role("user<|im_end|>")],
            None,
            "messages[0].role: is \"user<|im_end|>\"; a role has",
        ),
        ("role_colon_qwen3", vec![role("User")], None, "messages[0].role: \"User\" is not a role; write"),
        ("role_colon_qwen3", vec![role("a\n\nUser:")], None, "messages[0].role: is "),
        (
            "llama3",
            vec![Message { name: Some("Bob".into()), ..user() }],
            None,
            "messages[0].name: only the result of a tool has a name",
        ),
        ("gpt_oss_no_sysprompt", vec![image()], None, "messages[0].content[0]"),
        (
            "gpt_oss_no_sysprompt",
            vec![user(), calls("x")],
            all,
            "messages[1].tool_calls[0].arguments: not valid JSON",
        ),
    ] {
        let found = match error_of(name, &messages, what) {
            Some(error) if error.is_user_error() => error.to_string(),
            other => format!("{other:?}"),
        };
        if !found.contains(expected) {
            wrong.push(format!("{name} {messages:?}\nexpected {expected:?}\nfound    {found:?}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn a_renderer_that_cannot_be_made_says_what_is_missing() {
    let bytes = || Arc::new(ByteTokenizer);
    let made = |name: &str, date: Option<&str>| {
        let options = RendererOptions { current_date: date.map(str::to_owned), ..Default::default() };
        Renderer::with_options(name, fixture("gpt_oss_low_reasoning").tokenizer, &options)
    };
    for (result, expected) in [
        (
            Renderer::new("qwen4", bytes()),
            "renderer: \"qwen4\" is not the name of a renderer; known are deepseekv3,",
        ),
        (
            Renderer::new("qwen3", bytes()),
            "tokenizer: has no token <|im_start|>, which the renderer \"qwen3\" needs",
        ),
        (made("gpt_oss_low_reasoning", None), "current_date: "),
        (made("gpt_oss_low_reasoning", Some("tomorrow")), "current_date: "),
        (Renderer::recommended("no/such", bytes()), "model: no renderer is known for \"no/such\""),
    ] {
        let error = result.map(drop).unwrap_err();
        assert!(error.is_user_error() && error.to_string().contains(expected), "{expected:?}: {error}");
    }
    let error = "everything".parse::<TrainOnWhat>().unwrap_err().to_string();
    assert!(
        error.contains("train_on_what: \"everything\" is not a mode; they are last_assistant_message,"),
        "{error}"
    );
}

#[test]
fn role_colon_takes_any_name_as_a_role() {
    let fixture = fixture("role_colon_qwen3");
    let renderer = renderer("role_colon_qwen3", &fixture, false);
    let prompt = renderer.build_generation_prompt_with(&[Message::new("human", "q")], "critic", "").unwrap();
    assert_eq!(renderer.tokenizer().decode(&prompt.to_ints().unwrap()), "Human: q\n\nCritic:");
    let error = renderer.build_generation_prompt_with(&[Message::user("q")], "a b", "").unwrap_err();
    assert_eq!(error.violation().unwrap().path, "role");
}

#[test]
fn a_question_at_the_end_is_not_counted_in_the_last_turn_of_a_format_with_the_extension_property() {
    let messages = [Message::user("q"), Message::assistant("a"), Message::user("r")];
    for (name, n_examples) in [("llama3", 1), ("qwen3", 0), ("kimi_k2", 0)] {
        let fixture = fixture(name);
        let renderer = renderer(name, &fixture, false);
        let examples = renderer.build_supervised_examples(&messages, TrainOnWhat::LastAssistantTurn).unwrap();
        assert_eq!(examples.len(), n_examples, "{name}");
    }
}

#[test]
fn names_and_modes_are_found_by_their_names() {
    for what in TrainOnWhat::ALL {
        assert_eq!(what.to_string().parse::<TrainOnWhat>().unwrap(), what);
    }
    let names = Renderer::names();
    assert!(names.is_sorted() && names.contains(&"role_colon"), "{names:?}");
}

#[test]
fn show_marks_what_is_trained_and_has_a_word_for_images() {
    let fixture = fixture("qwen3_5");
    let renderer = renderer("qwen3_5", &fixture, false);
    let examples = renderer
        .build_supervised_examples(&[image(), Message::assistant("yes")], TrainOnWhat::AllAssistantMessages)
        .unwrap();
    assert_eq!(
        renderer.show(&examples[0]),
        "<|im_start|>user\n<|vision_start|>[image]<|vision_end|><|im_end|>\n<|im_start|>assistant\n<think>\n⟦\n</think>\n\nyes\
         <|im_end|>⟧"
    );
}
