//! Where renderers differ from the cookbook, and why. The causes D1 to D48 are described in `tests/golden/differences.md`.

/// How the renderer was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mode {
    Default,
    LikeCookbook,
}

/// What differs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shape {
    Tokens,
    /// The tokens are equal; others are trained.
    Weights,
    OursRefuses,
    TheirsRefuses,
}

/// Whose form the renderer has. The test compares with it where that oracle has a result of the same kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Follows {
    Template,
    Native,
    Own,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Exception {
    /// The cause in `differences.md`, or the reason in words.
    pub(super) cause: &'static str,
    /// Names of renderers; `*` at the end stands for any rest.
    pub(super) renderers: &'static [&'static str],
    /// `None` is both.
    pub(super) mode: Option<Mode>,
    pub(super) conversations: &'static [&'static str],
    pub(super) kinds: &'static [&'static str],
    pub(super) shapes: &'static [Shape],
    pub(super) follows: Follows,
    /// Whether the examples of the native renderer are equal too.
    pub(super) examples: bool,
}

impl Exception {
    pub(super) fn matches(
        &self,
        renderer: &str,
        mode: Mode,
        conversation: &str,
        kind: &str,
        shape: Shape,
    ) -> bool {
        let one = |patterns: &[&str], name: &str| {
            patterns.iter().any(|pattern| match pattern.strip_suffix('*') {
                Some(start) => name.starts_with(start),
                None => *pattern == name,
            })
        };
        one(self.renderers, renderer)
            && self.mode.is_none_or(|it| it == mode)
            && one(self.conversations, conversation)
            && one(self.kinds, kind)
            && self.shapes.contains(&shape)
    }
}

const ANY: &[&str] = &["*"];
/// The renderers of gpt-oss that write a system message.
const GPT_OSS: &[&str] = &["gpt_oss_low_reasoning", "gpt_oss_medium_reasoning", "gpt_oss_high_reasoning"];
const TOKENS: &[Shape] = &[Shape::Tokens];
const BASE: Exception = Exception {
    cause: "",
    renderers: ANY,
    mode: None,
    conversations: ANY,
    kinds: ANY,
    shapes: TOKENS,
    follows: Follows::Own,
    examples: false,
};

pub(super) const EXCEPTIONS: &[Exception] = &[
    // Text of a message is ordinary text.
    Exception {
        cause: "D2 D12",
        conversations: &["markers_*", "thinking_in_string"],
        shapes: &[Shape::Tokens, Shape::TheirsRefuses],
        ..BASE
    },
    // Refusals.
    Exception {
        cause: "the mode customized makes an example for each answer that is trained; the cookbook refuses",
        kinds: &["plural customized"],
        shapes: &[Shape::TheirsRefuses],
        ..BASE
    },
    Exception {
        cause: "D38: calls are refused; the cookbook leaves them out",
        renderers: &["role_colon*", "llama3"],
        conversations: &["call*", "result_with_newlines"],
        shapes: &[Shape::OursRefuses],
        ..BASE
    },
    Exception {
        cause: "a list of texts is a text; the cookbook refuses",
        renderers: &["role_colon*", "llama3"],
        conversations: &["text_parts"],
        shapes: &[Shape::TheirsRefuses],
        ..BASE
    },
    Exception {
        cause: "the cookbook ends a conversation whose last message is not an answer with the tokens of <UNUSED>",
        renderers: &["role_colon*"],
        conversations: &["user", "system_user", "two_turns_last_user"],
        ..BASE
    },
    Exception {
        cause: "D24: thoughts that would be trained are refused in all modes; in the cookbook only in those of the last answer",
        renderers: &["qwen3_disable_thinking", "qwen3_5_disable_thinking", "kimi_k25_disable_thinking"],
        conversations: &["call_reasoning*", "text_before_thinking", "thinking*"],
        kinds: &["single*"],
        shapes: &[Shape::OursRefuses],
        ..BASE
    },
    Exception {
        cause: "D24: a thought that would be trained and is left out is refused",
        renderers: &["deepseekv3", "qwen3_instruct"],
        mode: Some(Mode::Default),
        conversations: &["call_reasoning*", "text_before_thinking", "thinking*"],
        shapes: &[Shape::OursRefuses],
        ..BASE
    },
    Exception {
        cause: "D16 D25: the answer stands after the prompt as always, with the block that the prompt has",
        renderers: &["qwen3_disable_thinking"],
        conversations: &["assistant_first", "assistants_in_a_row", "no_user"],
        shapes: &[Shape::TheirsRefuses],
        ..BASE
    },
    Exception {
        cause: "an example of several answers has those before the last one as history; the cookbook refuses",
        renderers: &["qwen3_disable_thinking"],
        conversations: &["call*", "result_with_newlines", "tools_*"],
        kinds: &["single last_assistant_turn"],
        shapes: &[Shape::TheirsRefuses],
        ..BASE
    },
    // Weights.
    Exception {
        cause: "what the prompt gives of an answer is not trained in any mode; in the cookbook only in those of the last \
                answer",
        renderers: &["qwen3_disable_thinking", "qwen3_5", "deepseekv3_thinking"],
        mode: Some(Mode::Default),
        kinds: &["single all_assistant_messages", "single customized"],
        shapes: &[Shape::Weights],
        ..BASE
    },
    Exception {
        cause: "D16 D25: what the prompt gives is not trained, also if the cookbook finds no place where the prompt ends",
        renderers: &["deepseekv3_thinking"],
        conversations: &["assistants_in_a_row", "no_user"],
        shapes: &[Shape::Weights],
        ..BASE
    },
    // Tokens.
    Exception {
        cause: "D3: JSON is not escaped",
        renderers: &["qwen3", "qwen3_disable_thinking"],
        mode: Some(Mode::Default),
        conversations: &["call_arguments_nested", "tools_non_ascii"],
        follows: Follows::Template,
        ..BASE
    },
    Exception {
        cause: "D3 (the template has a default system message, D41)",
        renderers: &["qwen3_instruct"],
        mode: Some(Mode::Default),
        conversations: &["call_arguments_nested", "tools_non_ascii"],
        follows: Follows::Native,
        ..BASE
    },
    Exception {
        cause: "D4: results of parallel calls stand in one block",
        renderers: &["qwen3", "qwen3_disable_thinking"],
        mode: Some(Mode::Default),
        conversations: &["calls_parallel*"],
        follows: Follows::Template,
        ..BASE
    },
    Exception {
        cause: "D4 (the template has a default system message, D41)",
        renderers: &["qwen3_instruct"],
        mode: Some(Mode::Default),
        conversations: &["calls_parallel*"],
        follows: Follows::Native,
        ..BASE
    },
    Exception {
        cause: "D5 D14: reasoning stays within its turn, and no newline stands before a call without text",
        renderers: &["qwen3", "qwen3_disable_thinking", "qwen3_5", "qwen3_5_disable_thinking"],
        mode: Some(Mode::Default),
        conversations: &["call_reasoning*"],
        follows: Follows::Template,
        ..BASE
    },
    Exception {
        cause: "D21: newlines around reasoning are part of the format",
        renderers: &["qwen3_5*"],
        mode: Some(Mode::Default),
        conversations: &["thinking_lines"],
        ..BASE
    },
    Exception {
        cause: "D22 D3: tools are declared as functions",
        renderers: &["qwen3_5*"],
        mode: Some(Mode::Default),
        conversations: &["tools_*"],
        follows: Follows::Template,
        ..BASE
    },
    Exception {
        cause: "D6: each answer ends with the end of the sentence",
        renderers: &["deepseekv3"],
        mode: Some(Mode::Default),
        conversations: &[
            "call",
            "call_answer",
            "call_no_arguments",
            "call_then_turn",
            "call_two_steps",
            "call_without_id",
            "calls_parallel",
            "empty_assistant",
            "result_with_newlines",
        ],
        follows: Follows::Native,
        examples: true,
        ..BASE
    },
    Exception {
        cause: "D6 (the native renderer has no example of a turn without its last answer, D48)",
        renderers: &["deepseekv3"],
        mode: Some(Mode::Default),
        conversations: &["call_result"],
        follows: Follows::Native,
        ..BASE
    },
    Exception {
        cause: "D6 (the native renderer writes arguments anew, D31, and refuses reasoning and tools, D28)",
        renderers: &["deepseekv3"],
        mode: Some(Mode::Default),
        conversations: &["call_arguments*", "call_reasoning*", "thinking_only", "tools_*"],
        ..BASE
    },
    Exception {
        cause: "D6",
        renderers: &["deepseekv3_thinking"],
        mode: Some(Mode::Default),
        conversations: &[
            "call",
            "call_answer",
            "call_no_arguments",
            "call_result",
            "call_then_turn",
            "call_two_steps",
            "call_without_id",
            "calls_parallel",
            "empty_assistant",
            "result_with_newlines",
        ],
        follows: Follows::Native,
        ..BASE
    },
    Exception {
        cause: "D6 (the native renderer writes arguments anew, D31, ends text before a call, D27, and refuses tools, D28)",
        renderers: &["deepseekv3_thinking"],
        mode: Some(Mode::Default),
        conversations: &["call_arguments*", "call_reasoning*", "tools_*"],
        ..BASE
    },
    Exception {
        cause: "the cookbook refuses, because the system message that it inserts has no flag",
        renderers: GPT_OSS,
        kinds: &["single customized"],
        shapes: &[Shape::TheirsRefuses],
        ..BASE
    },
    Exception {
        cause: "a message with tools has one flag; the cookbook has two messages, so that the flags of the script move",
        renderers: &["gpt_oss_no_sysprompt"],
        mode: Some(Mode::LikeCookbook),
        conversations: &["tools_*"],
        kinds: &["single customized"],
        shapes: &[Shape::Weights],
        ..BASE
    },
    Exception {
        cause: "D7",
        renderers: GPT_OSS,
        mode: Some(Mode::Default),
        conversations: &["call", "thinking_history*", "tools_declared*", "tools_nested_schema"],
        follows: Follows::Native,
        examples: true,
        ..BASE
    },
    Exception {
        cause: "D7 D46 (the native renderer has one example for a turn with calls, D48)",
        renderers: GPT_OSS,
        mode: Some(Mode::Default),
        conversations: &[
            "call_answer",
            "call_no_arguments",
            "call_reasoning*",
            "call_result",
            "call_then_turn",
            "call_two_steps",
            "call_with_text",
            "call_without_id",
            "calls_parallel*",
            "result_with_newlines",
            "tools_non_ascii",
            "tools_one_call",
        ],
        follows: Follows::Native,
        ..BASE
    },
    Exception {
        cause: "D7 (template and native renderer write arguments anew, D31)",
        renderers: GPT_OSS,
        mode: Some(Mode::Default),
        conversations: &["call_arguments*"],
        ..BASE
    },
    Exception {
        cause: "D7 D46 (the oracles write a system message)",
        renderers: &["gpt_oss_no_sysprompt"],
        mode: Some(Mode::Default),
        conversations: &["call*", "result_with_newlines", "thinking_history*", "tools_*"],
        ..BASE
    },
    // Kimi.
    Exception {
        cause: "a format of several examples trains answers only; the cookbook trains other messages once for each user \
                message",
        renderers: &["kimi*"],
        kinds: &[
            "plural all_messages",
            "plural all_tokens",
            "plural all_user_and_system_messages",
            "plural customized",
        ],
        shapes: &[Shape::OursRefuses],
        ..BASE
    },
    Exception {
        cause: "the default system message is not trained in the mode customized; in the cookbook its flag is missing",
        renderers: &["kimi*"],
        kinds: &["single customized"],
        shapes: &[Shape::TheirsRefuses],
        ..BASE
    },
    Exception {
        cause: "the message that declares tools is one message; in the cookbook it is two of different roles",
        renderers: &["kimi*"],
        conversations: &["tools_*"],
        kinds: &["single all_user_and_system_messages", "single customized"],
        shapes: &[Shape::Weights],
        ..BASE
    },
    Exception {
        cause: "D19 D42: an example for each answer that calls no tool, also without a message of the user before it",
        renderers: &["kimi*"],
        conversations: &["assistant_first", "assistants_in_a_row", "system_later"],
        kinds: &["plural all_assistant_messages"],
        ..BASE
    },
    Exception {
        cause: "D48: an example ends with its last answer; in the cookbook with the results of the calls",
        renderers: &["kimi*"],
        conversations: &["call_result", "call_reasoning_last_result", "calls_parallel_last_result"],
        kinds: &["plural all_assistant_messages", "plural last_assistant_turn"],
        ..BASE
    },
    Exception {
        cause: "D34: the <think> of the prompt is not trained, also without a message of the user",
        renderers: &["kimi_k25*"],
        mode: Some(Mode::Default),
        conversations: &["no_user"],
        shapes: &[Shape::Weights],
        follows: Follows::Native,
        examples: true,
        ..BASE
    },
    Exception {
        cause: "D34 (the native renderer writes no default system message and declares tools in another way, D33)",
        renderers: &["kimi_k25*"],
        mode: Some(Mode::Default),
        kinds: &[
            "plural all_assistant_messages",
            "plural last_assistant_turn",
            "single all_assistant_messages",
            "single customized",
            "single last_assistant_turn",
        ],
        shapes: &[Shape::Weights],
        ..BASE
    },
    Exception {
        cause: "D3: declared tools are not escaped (the template writes them with spaces and does not sort keys, D8)",
        renderers: &["kimi_k2"],
        mode: Some(Mode::Default),
        conversations: &["tools_non_ascii"],
        follows: Follows::Native,
        ..BASE
    },
    Exception {
        cause: "D32: a result without an id gets that of its call",
        renderers: &["kimi_k2"],
        mode: Some(Mode::Default),
        conversations: &["call_without_id"],
        follows: Follows::Template,
        ..BASE
    },
    Exception {
        cause: "D32 (without a template; the native renderer refuses)",
        renderers: &["kimi_k25*"],
        mode: Some(Mode::Default),
        conversations: &["call_without_id"],
        shapes: &[Shape::Tokens, Shape::Weights],
        ..BASE
    },
];
