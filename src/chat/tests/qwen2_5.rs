//! Qwen2.5, for which the cookbook has no renderer: against its template and the renderer of Qwen3 of July 2025.

use super::fixtures::{conversations, fixture};
use super::golden::{asked, renderer};

/// Conversations whose text differs from that of the template, and the cause.
const DIFFERENT: &[(&str, &str)] = &[
    ("call_reasoning", "D41: reasoning is left out by the template"),
    ("call_reasoning_last_result", "D41"),
    ("call_reasoning_only", "D41"),
    ("leading_newline", "D1"),
    ("markers_chatml", "D2"),
    ("markers_think", "D2"),
    ("markers_tool_call", "D2"),
    ("thinking_in_string", "D2"),
];

#[test]
fn prompts_of_qwen2_5_are_those_of_its_template() {
    let fixture = fixture("qwen2_5");
    let renderer = renderer("qwen2_5", &fixture, false);
    let mut different = Vec::new();
    for conversation in conversations() {
        let Some(theirs) = fixture.entry(&conversation.name).template_prompt() else { continue };
        let ours = renderer
            .build_generation_prompt(asked(&conversation.messages))
            .map(|prompt| prompt.to_ints().unwrap());
        if ours.as_ref().ok() != Some(&theirs) {
            let decode = |ids: &[i32]| renderer.tokenizer().decode(ids);
            different.push((
                conversation.name,
                format!("{:?}\\n{:?}", ours.map(|ids| decode(&ids)), decode(&theirs)),
            ));
        }
    }
    let unexpected: Vec<_> =
        different.iter().filter(|(name, _)| !DIFFERENT.iter().any(|(known, _)| known == name)).collect();
    assert!(unexpected.is_empty(), "{unexpected:#?}");
    for (name, cause) in DIFFERENT {
        assert!(different.iter().any(|(it, _)| it == name), "{name} no longer differs ({cause})");
    }
}
