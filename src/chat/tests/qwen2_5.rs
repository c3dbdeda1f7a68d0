//! Qwen2.5, for which the cookbook has no renderer: against its template and the renderer of Qwen3 of July 2025.

use super::fixtures::{conversations, fixture};
use super::golden::{asked, renderer};

/// Conversations whose text differs from that of the template, and the cause.
const DIFFERENT: &[(&str, &str)] = &[("developer", "D15: the template leaves the role out")];

/// Texts are compared, because the golden file has the tokens of Qwen3, which has a token for `<tool_response>`.
#[test]
fn prompts_of_qwen2_5_are_those_of_its_template() {
    let fixture = fixture("qwen2_5");
    let renderer = renderer("qwen2_5", &fixture, false);
    let mut different = Vec::new();
    for conversation in conversations() {
        let Some(theirs) = fixture.entry(&conversation.name).template_prompt() else { continue };
        let ours = renderer.build_generation_prompt(asked(&conversation.messages));
        let decode = |ids: &[i32]| renderer.tokenizer().decode(ids);
        let (ours, theirs) = (ours.map(|prompt| decode(&prompt.to_ints().unwrap())).ok(), decode(&theirs));
        if ours.as_ref() != Some(&theirs) {
            different.push((conversation.name, ours, theirs));
        }
    }
    let unexpected: Vec<_> =
        different.iter().filter(|(name, ..)| !DIFFERENT.iter().any(|(known, _)| known == name)).collect();
    assert!(unexpected.is_empty(), "{unexpected:#?}");
    for (name, cause) in DIFFERENT {
        assert!(different.iter().any(|(it, ..)| it == name), "{name} no longer differs ({cause})");
    }
}
