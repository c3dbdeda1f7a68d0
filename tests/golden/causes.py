"""Causes of the differences between the oracles, and the rules by which a difference gets its causes."""

from fnmatch import fnmatch

# Pairs of the cookbook's result and an oracle's: the template's prompt and conversation, the native prompt and
# examples. A fifth one, `refused`, stands for a cookbook that cannot declare tools.
PAIRS = ("template prompt", "template conversation", "native prompt", "native examples")

# Causes, in the words of the table. D9 and D10 are about parsed answers and the newline after a conversation.
CAUSES = {
    "D1": "A newline at the start of a content meets the newline of the header: apart in the cookbook, one "
    "token in a template, which is encoded as a whole",
    "D2": "Markers in content: special tokens in the cookbook except for `<|…|>` in qwen3 text renderers; text "
    "in the native renderers (also `<think>` around reasoning in qwen3_instruct); special tokens in a "
    "template",
    "D3": "The cookbook escapes non-ASCII characters in JSON",
    "D4": "qwen3: the cookbook writes a user block for each tool result, the others one block for a run of them",
    "D5": "qwen3, qwen3_5: the cookbook drops reasoning before a call once a result follows",
    "D6": "deepseek: the cookbook ends a turn with calls or without text only if it has text",
    "D7": "gpt-oss: reasoning stays in history; results unquoted; `<|constrain|>json`; layout of declared tools",
    "D8": "kimi: declared tools are compact with sorted keys in the cookbook; the template empties reasoning of "
    "the last message",
    "D11": "The native renderer joins neighbouring messages of one role",
    "D12": "`<think>…</think>` in a text: the template removes it from history and reframes it; the cookbook "
    "reframes it in the last message only, and deepseekv3 removes it everywhere; text for the native "
    "renderer",
    "D13": "Text before reasoning: the cookbook keeps the order, the others write reasoning first",
    "D14": "qwen3: reasoning without text before a call: the cookbook writes one newline too many",
    "D15": "Role `developer`: written as it is by the cookbook (deepseek refuses), dropped by the template of "
    "qwen3, refused by that of qwen3_5, `# Instructions` in that of gpt-oss; the native renderers refuse",
    "D16": "Two assistant messages in a row: the cookbook takes the first for history (qwen3_disable_thinking "
    "refuses); the native renderer frames both",
    "D17": "The cookbook writes one example for the conversation, the native renderer one for each assistant "
    "message",
    "D18": "kimi_k2: the native renderer trains the last message only",
    "D19": "kimi: the cookbook writes an example for each user message, also for one without an answer",
    "D20": "qwen3_5: `<think>\\n` belongs to the prompt, so that the newline after it stays apart; one token in "
    "the template",
    "D21": "qwen3_5, qwen3_instruct: newlines around reasoning are kept by the cookbook and stripped by the "
    "others",
    "D22": 'qwen3_5: the cookbook declares tools without `{"type": "function", "function": …}`',
    "D23": "qwen3_5: the native renderer writes one newline before a call, compact JSON in arguments, and trims "
    "each part",
    "D24": "Thinking is off: the cookbook refuses a turn that reasons",
    "D25": "No user message: qwen3_disable_thinking refuses; the template of qwen3_5 too",
    "D26": "deepseekv3_thinking without reasoning, or with text before it: `<think></think>` in the cookbook, "
    "but nothing if the text is empty or has reasoning; `<think>` in the native renderer",
    "D27": "deepseek: the native renderer ends text before a call, and each part, with the end-of-sentence "
    "marker; none after reasoning without text",
    "D28": "deepseek: the native renderer refuses declared tools, and reasoning with thinking off",
    "D29": "deepseek: the native renderer writes `<｜Assistant｜>` only after a user message",
    "D30": "deepseek: the cookbook refuses a system message that is not the first; the native renderer joins "
    "them",
    "D31": "Arguments of calls: the cookbook copies the JSON text, the others write it anew (qwen3: all write it "
    "anew)",
    "D32": "kimi: a call without an id: its result has no id in the cookbook; the template numbers it; the "
    "native renderer refuses",
    "D33": "kimi_k25: the native renderer writes no default system message, and declares tools as JSON",
    "D34": "kimi_k25: the cookbook trains the `<think>` of the prompt in later messages of a turn and without a "
    "user",
    "D35": "gpt-oss: an empty system message is left out by the others; the template leaves out later ones, the "
    "native renderer refuses them",
    "D36": "gpt-oss: the template writes only the first of parallel calls",
    "D37": "llama3: the template writes a system message with dates and trims texts",
    "D38": "llama3: the cookbook refuses parts and declared tools, and leaves out calls",
    "D39": "The cookbook refuses flags `trainable` in other modes; the others know none",
    "D40": "qwen3: the native renderer encodes the newline between text and call apart",
    "D41": "Qwen2.5: a default system message, and reasoning is left out",
    "D42": "kimi: the cookbook does not train an answer that a system message follows",
    "D43": "qwen3_5: the template refuses a system message that is not the first",
    "D44": "gpt-oss: the template refuses reasoning and text before a call",
    "D45": "kimi_k25_disable_thinking: the cookbook keeps reasoning before a call in the prompt, the native "
    "renderer drops it",
    "D46": "gpt-oss: a result without a name: `functions.unknown` in the cookbook, the name of the call in the "
    "others",
    "D47": "gpt-oss: text before a call: in `commentary` by the cookbook and the native renderer, in `analysis` "
    "by the template, which drops it before a final answer",
    "D48": "The native renderer writes no example without an answer, nothing after the last answer, and one "
    "example for a turn with calls",
}

# Causes of refusals only, and causes of refusals among others.
REFUSALS = {"D24", "D25", "D28", "D39", "D43", "D44"}
ALSO_REFUSALS = {"D15", "D16", "D30", "D32", "D35", "D38"}

THINKING = "thinking thinking_history* thinking_lines thinking_only text_before_thinking call_reasoning*"
CALLS = "call call_* calls_* tools_one_call tools_nested_schema tools_non_ascii result_with_newlines"
QWEN3 = "qwen3 qwen3_disable_thinking qwen3_instruct"
QWEN3_THINKING = "qwen3 qwen3_disable_thinking"
T = "template prompt|template conversation"
N = "native prompt|native examples"
PROMPT, CONVERSATION, NATIVE_PROMPT, EXAMPLES = PAIRS


def assistants(messages):
    return [message for message in messages if message["role"] == "assistant"]


def reasons(message):
    return isinstance(message["content"], list) and any(part["type"] == "thinking" for part in message["content"])


def has_no_system(conversation):
    return conversation["messages"][0]["role"] != "system" and "tools" not in conversation


def declares_tools(conversation):
    return "tools" in conversation


def ends_without_reasoning(conversation):
    last = conversation["messages"][-1]
    return last["role"] == "assistant" and not reasons(last)


def some_answer_does_not_reason(conversation):
    return any(not reasons(message) for message in assistants(conversation["messages"]))


def reasoning_is_in_the_text(conversation):
    return any(reasons(message) for message in assistants(conversation["messages"]))


def has_two_answers(conversation):
    return len(assistants(conversation["messages"])) > 1


def has_two_turns(conversation):
    return sum(message["role"] == "user" for message in conversation["messages"]) > 1


def has_no_answer_at_the_end(conversation):
    return conversation["messages"][-1]["role"] != "assistant"


def calls_and_goes_on(conversation):
    roles = [message["role"] for message in conversation["messages"]]
    return "tool" in roles and roles[-1] == "assistant"


# Cause, renderers, conversations (patterns), pairs, and a condition on the conversation.
RULES = [
    ("D1", QWEN3, "leading_newline", T),
    ("D1", "kimi*", "result_with_newlines", f"{T}|{N}"),
    ("D2", QWEN3, "markers_chatml", T),
    ("D2", "qwen3*", "markers_think markers_tool_call thinking_in_string", N),
    ("D2", "qwen3_5*", "markers_chatml", N),
    ("D2", "qwen3_instruct", "*", EXAMPLES, reasoning_is_in_the_text),
    ("D2", "deepseek*", "markers_think markers_deepseek thinking_in_string", N),
    ("D2", "kimi*", "markers_chatml markers_think markers_llama markers_kimi thinking_in_string", N),
    ("D2", "gpt_oss*", "markers_harmony markers_chatml", N),
    ("D3", "qwen3*", "tools_non_ascii", f"{T}|{N}"),
    ("D3", "kimi_k2", "tools_non_ascii", f"{T}|{N}"),
    ("D3", QWEN3, "call_arguments_nested", f"{T}|{N}"),
    ("D4", QWEN3, "calls_parallel", f"{T}|{N}"),
    ("D4", QWEN3, "calls_parallel_last_result", f"{T}|{NATIVE_PROMPT}"),
    ("D5", QWEN3_THINKING, "call_reasoning*", T),
    ("D5", "qwen3_5*", "call_reasoning*", f"{T}|{N}"),
    ("D6", "deepseek*", "empty_assistant " + CALLS, N),
    ("D7", "gpt_oss*", "thinking_history* tools_* " + CALLS, f"{T}|{N}"),
    ("D8", "kimi_k2", "tools_*", T),
    ("D8", "kimi_k2", "thinking thinking_lines thinking_only text_before_thinking call_reasoning*", T),
    ("D48", "qwen3_instruct deepseek* kimi* gpt_oss*", "*", EXAMPLES, has_no_answer_at_the_end),
    ("D48", "gpt_oss* deepseekv3_thinking", CALLS, EXAMPLES, calls_and_goes_on),
    ("D11", "qwen3* kimi* gpt_oss*", "systems users_in_a_row", N),
    ("D12", QWEN3_THINKING + " qwen3_5*", "thinking_in_string markers_think", f"{T}|{N}"),
    ("D12", "deepseek*", "thinking_in_string", N),
    ("D12", "deepseekv3_thinking", "markers_think", EXAMPLES),
    ("D13", "qwen3 qwen3_5*", "text_before_thinking", f"{T}|{N}"),
    ("D13", "gpt_oss*", "text_before_thinking", N),
    ("D14", "qwen3", "call_reasoning_only call_reasoning_last_result", EXAMPLES),
    ("D15", "*", "developer", f"{T}|{N}"),
    ("D16", QWEN3_THINKING, "assistants_in_a_row", f"{T}|{N}"),
    ("D17", "qwen3_instruct", "*", EXAMPLES, has_two_answers),
    ("D18", "kimi_k2", "*", EXAMPLES, has_two_answers),
    ("D18", "kimi_k2", CALLS, EXAMPLES, has_no_answer_at_the_end),
    ("D19", "kimi_k2", "*", EXAMPLES, has_two_turns),
    ("D19", "kimi_k25*", "two_turns* many_turns thinking_history_last_user thinking_in_string", EXAMPLES),
    ("D19", "kimi_k25*", "users_in_a_row system_later call_then_turn", EXAMPLES),
    ("D20", "qwen3_5", "*", CONVERSATION, ends_without_reasoning),
    ("D21", "qwen3_5* qwen3_instruct", "thinking_lines", f"{T}|{N}"),
    ("D22", "qwen3_5*", "tools_*", f"{T}|{N}"),
    ("D23", "qwen3_5*", "calls_parallel_last_result call_with_text call_reasoning call_arguments_nested", N),
    ("D23", "qwen3_5*", "text_parts text_before_thinking", N),
    ("D23", "qwen3_5*", "tools_nested_schema", EXAMPLES),
    ("D24", "qwen3_*disable_thinking", THINKING, CONVERSATION),
    ("D24", "qwen3_*disable_thinking", "thinking_in_string markers_think", f"{CONVERSATION}|{N}"),
    ("D24", "kimi_k25_disable_thinking", THINKING, EXAMPLES),
    ("D25", "qwen3_disable_thinking", "no_user assistant_first", f"{T}|{N}"),
    ("D25", "qwen3_5*", "no_user", T),
    ("D26", "deepseekv3_thinking", "*", EXAMPLES, some_answer_does_not_reason),
    ("D26", "deepseekv3_thinking", "text_before_thinking", EXAMPLES),
    ("D27", "deepseek*", "text_parts text_before_thinking thinking_only", N),
    ("D27", "deepseek*", "call_with_text call_reasoning calls_parallel_last_result", N),
    ("D28", "deepseek*", "tools_*", N),
    ("D28", "deepseekv3", THINKING, EXAMPLES),
    ("D29", "deepseek*", "assistant_first assistants_in_a_row no_user", N),
    ("D30", "deepseek*", "systems system_later", N),
    ("D31", "deepseek* kimi* gpt_oss*", "call_arguments call_arguments_nested", f"{T}|{N}"),
    ("D32", "kimi*", "call_without_id", f"{T}|{N}"),
    ("D33", "kimi_k25*", "*", N, has_no_system),
    ("D33", "kimi_k25*", "*", N, declares_tools),
    ("D34", "kimi_k25*", "no_user assistant_first assistants_in_a_row", EXAMPLES),
    ("D34", "kimi_k25*", CALLS, EXAMPLES, calls_and_goes_on),
    ("D35", "gpt_oss*", "empty_system systems system_later", f"{T}|{N}"),
    ("D36", "gpt_oss*", "calls_parallel*", T),
    ("D37", "llama3", "*", T),
    ("D38", "llama3", "text_parts thinking* text_before_thinking " + CALLS, T),
    ("D38", "llama3", "*", "refused"),
    ("D39", "*", "trainable trainable_on_some", f"{CONVERSATION}|{EXAMPLES}"),
    ("D40", QWEN3_THINKING, "call_with_text call_reasoning calls_parallel_last_result", EXAMPLES),
    ("D41", "qwen3_instruct", "*", T, has_no_system),
    ("D41", "qwen3_instruct", "tools_*", T),
    ("D41", "qwen3_instruct", "*", T, reasoning_is_in_the_text),
    ("D42", "kimi*", "system_later", EXAMPLES),
    ("D43", "qwen3_5*", "systems system_later", T),
    ("D44", "gpt_oss*", "call_reasoning", T),
    ("D45", "kimi_k25_disable_thinking", "call_reasoning*", NATIVE_PROMPT),
    ("D46", "gpt_oss*", "call_without_id", f"{T}|{N}"),
    ("D47", "gpt_oss*", "call_with_text calls_parallel_last_result", T),
]


def matches(rule, renderer, conversation, pair, refusal):
    cause, renderers, names, in_pairs, *conditions = rule
    return (
        (cause in REFUSALS | ALSO_REFUSALS if refusal else cause not in REFUSALS)
        and any(fnmatch(renderer, pattern) for pattern in renderers.split())
        and any(fnmatch(conversation["name"], pattern) for pattern in names.split())
        and pair in in_pairs.split("|")
        and all(condition(conversation) for condition in conditions)
    )
