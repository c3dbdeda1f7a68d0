//! A template that writes what a renderer writes gives the same prompts and examples.

use std::sync::Arc;

use super::fixtures::{conversations, fixture};
use super::golden::{asked, renderer};
use crate::chat::{Message, Part, TemplateOptions, TemplateRenderer, TrainOnWhat};

const CHATML: &str = "
{%- for message in messages %}
    {{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
{%- endif %}";

/// A template does not tell where the text of a question begins, so that a newline there joins that of the header.
fn has_only_text(message: &Message) -> bool {
    (message.role == "assistant" || !message.text().starts_with('\n'))
        && message.tools.is_empty()
        && message.tool_calls.is_empty()
        && message.role != "tool"
        && message.content.iter().all(|part| matches!(part, Part::Text(_)))
}

#[test]
fn a_template_gives_the_tokens_and_weights_of_the_renderer_that_writes_the_same() {
    let fixture = fixture("qwen3_instruct");
    let renderer = renderer("qwen3_instruct", &fixture, false);
    let template =
        TemplateRenderer::new(CHATML, Arc::clone(&fixture.tokenizer), &TemplateOptions::default()).unwrap();
    let mut compared = 0;
    for conversation in conversations() {
        let name = &conversation.name;
        let mut messages = conversation.messages;
        messages.iter_mut().for_each(|message| message.trainable = None);
        if messages.is_empty() || !messages.iter().all(has_only_text) {
            continue;
        }
        let prompt = renderer.build_generation_prompt(asked(&messages)).unwrap();
        assert_eq!(template.build_generation_prompt(asked(&messages)).unwrap(), prompt, "{name}");
        for what in [TrainOnWhat::AllAssistantMessages, TrainOnWhat::LastAssistantTurn] {
            let theirs = renderer.build_supervised_examples(&messages, what).unwrap();
            let ours = template.build_supervised_examples(&messages, what).unwrap();
            assert_eq!(ours.len(), theirs.len(), "{name}");
            for (ours, theirs) in ours.iter().zip(&theirs) {
                // The renderer goes on to the end of the conversation, the template to the last answer.
                let (ids, weights) = (theirs.tokens().to_ints().unwrap(), theirs.weights());
                let n = ours.n_tokens();
                assert_eq!(ours.tokens().to_ints().unwrap(), ids[..n], "{name}");
                assert_eq!(ours.weights(), &weights[..n], "{name}");
                assert!(weights[n..].iter().all(|weight| *weight == 0.0), "{name}");
                compared += 1;
            }
        }
    }
    assert!(40 <= compared, "{compared}");
}
