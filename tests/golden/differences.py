"""Where the oracles differ, with the causes, for differences.md."""

import json
from fnmatch import fnmatch

from fixtures import FOLDER

# Oracles: the template's prompt and conversation, the native prompt and examples; and refusals of the cookbook alone.
PAIRS = ("template prompt", "template conversation", "native prompt", "native examples")


def expand(written):
    out = []
    for entry in written:
        out.append(entry if isinstance(entry, list) else out[entry["like"]][: entry["take"]] + entry["then"])
    return out


def load(name):
    return json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))


def refused(result):
    return isinstance(result, dict) and "error" in result


def template_ids(ids, result):
    return ids[result["ids"] if isinstance(result, dict) else result]


def last_message_example(entry):
    """Index of the sequence of the whole conversation, or a refusal."""
    single = entry["single"][0] if "single" in entry and entry["single"][0] is not None else entry["modes"][0]
    return single if refused(single) else entry["examples"][single[0]][0]


def pairs(entry, other):
    """The cookbook's result and the oracle's result by name of the pair; `other` is the entry that has the template."""
    ids, other_ids = expand(entry["ids"]), expand(other["ids"])
    if "template" in other:
        for name, mine, theirs in zip(PAIRS, (entry["prompt"], last_message_example(entry)), other["template"]):
            # The template ends with a newline that is no part of an example (D10).
            theirs = theirs if refused(theirs) else template_ids(other_ids, theirs)
            mine = mine if refused(mine) else ids[mine]
            if not refused(mine) and not refused(theirs) and len(theirs) == len(mine) + 1 and theirs[-1] == 198:
                theirs = theirs[:-1]
            yield name, mine, theirs
    if "native" in entry:
        yield PAIRS[2], entry["prompt"], entry["native"][0]
        yield PAIRS[3], entry["modes"][2], entry["native"][1]


def differences(name, template=None):
    """Conversations and pairs in which the oracles differ, and whether one refuses: that differs from a result."""
    entries, others = load(name)["conversations"], load(template or name)["conversations"]
    for entry, other in zip(entries, others):
        if "refused" in entry:
            yield entry["name"], "refused", True
            continue
        for pair, mine, theirs in pairs(entry, other):
            if refused(mine) != refused(theirs):
                yield entry["name"], pair, True
            elif not refused(mine) and mine != theirs:
                yield entry["name"], pair, False


# Causes, in the words of the table.
CAUSES = {
    "D1": "A newline at the start of a content meets the newline of the header: apart in the cookbook, one token in a "
    "template, which is encoded as a whole",
    "D2": "Markers in content: special tokens in the cookbook except for `<|…|>` in qwen3 text renderers; text in the "
    "native renderers (also `<think>` around reasoning in qwen3_instruct); special tokens in a template",
    "D3": "The cookbook escapes non-ASCII characters in JSON",
    "D4": "qwen3: the cookbook writes a user block for each tool result, the others one block for a run of them",
    "D5": "qwen3, qwen3_5: the cookbook drops reasoning before a call once a result follows",
    "D6": "deepseek: the cookbook ends a turn with calls or without text only if it has text",
    "D7": "gpt-oss: reasoning stays in history; results unquoted; `<|constrain|>json`; layout of declared tools",
    "D8": "kimi: declared tools are compact with sorted keys in the cookbook; the template empties reasoning of the last "
    "message",
    "D10": "The native renderer writes fewer examples: none without an answer, and one for a turn with calls",
    "D11": "The native renderer joins neighbouring messages of one role",
    "D12": "`<think>…</think>` in a text: the template removes it from history and reframes it; the cookbook reframes it "
    "in the last message only; text for the native renderer",
    "D13": "Text before reasoning: the cookbook keeps the order, the others write reasoning first",
    "D14": "qwen3: reasoning without text before a call: the cookbook writes one newline too many",
    "D15": "Role `developer`: written as it is by the cookbook (deepseek refuses), dropped by the template of qwen3, "
    "refused by that of qwen3_5, `# Instructions` in that of gpt-oss; the native renderers refuse",
    "D16": "Two assistant messages in a row: the cookbook takes the first for history (qwen3_disable_thinking refuses); "
    "the native renderer frames both",
    "D17": "The cookbook writes one example for the conversation, the native renderer one for each assistant message",
    "D18": "kimi_k2: the native renderer trains the last message only",
    "D19": "kimi: the cookbook writes an example for each user message, also for one without an answer",
    "D20": "qwen3_5: `<think>\\n` belongs to the prompt, so that the newline after it stays apart; one token in the "
    "template",
    "D21": "qwen3_5, qwen3_instruct: newlines around reasoning are kept by the cookbook and stripped by the others",
    "D22": 'qwen3_5: the cookbook declares tools without `{"type": "function", "function": …}`',
    "D23": "qwen3_5: the native renderer writes one newline before a call, compact JSON in arguments, and trims each part",
    "D24": "Thinking is off: the cookbook refuses a turn that reasons",
    "D25": "No user message: qwen3_disable_thinking refuses; the template of qwen3_5 too",
    "D26": "deepseekv3_thinking without reasoning: `<think></think>` in the cookbook, `<think>` in the native renderer",
    "D27": "deepseek: the native renderer ends text before a call, and each part, with the end-of-sentence marker; none "
    "after reasoning without text",
    "D28": "deepseek: the native renderer refuses declared tools, and reasoning with thinking off",
    "D29": "deepseek: the native renderer writes `<｜Assistant｜>` only after a user message",
    "D30": "deepseek: the cookbook refuses a system message that is not the first; the native renderer joins them",
    "D31": "Arguments of calls: the cookbook copies the JSON text, the others write it anew (qwen3: all write it anew)",
    "D32": "kimi: a call without an id: its result has no id in the cookbook; the template numbers it; the native "
    "renderer refuses",
    "D33": "kimi_k25: the native renderer writes no default system message, and declares tools as JSON",
    "D34": "kimi_k25: the cookbook trains the `<think>` of the prompt in later messages of a turn and without a user",
    "D35": "gpt-oss: an empty system message is left out by the others; the template leaves out later ones, the native "
    "renderer refuses them",
    "D36": "gpt-oss: the template writes only the first of parallel calls",
    "D37": "llama3: the template writes a system message with dates and trims texts",
    "D38": "llama3: the cookbook refuses parts and declared tools, and leaves out calls",
    "D39": "The cookbook refuses flags `trainable` in other modes; the others know none",
    "D40": "qwen3: the native renderer encodes the newline between text and call apart",
    "D41": "Qwen2.5: a default system message, and reasoning is left out",
    "D42": "kimi: the cookbook does not train an answer that a system message follows",
    "D43": "qwen3_5: the template refuses a system message that is not the first",
}

# Causes of refusals only, and causes of refusals among others.
REFUSALS = {"D24", "D25", "D28", "D39", "D43"}
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
    ("D10", "qwen3_instruct deepseek* kimi* gpt_oss*", "*", EXAMPLES, has_no_answer_at_the_end),
    ("D10", "gpt_oss* deepseekv3_thinking", CALLS, EXAMPLES, calls_and_goes_on),
    ("D11", "qwen3* kimi* gpt_oss*", "systems users_in_a_row", N),
    ("D12", QWEN3_THINKING + " qwen3_5*", "thinking_in_string markers_think", f"{T}|{N}"),
    ("D13", "qwen3 qwen3_5*", "text_before_thinking", f"{T}|{N}"),
    ("D13", "gpt_oss*", "text_before_thinking", N),
    ("D14", "qwen3", "call_reasoning_only call_reasoning_last_result", EXAMPLES),
    ("D15", "*", "developer", f"{T}|{N}"),
    ("D16", QWEN3_THINKING, "assistants_in_a_row", f"{T}|{N}"),
    ("D17", "qwen3_instruct", "*", EXAMPLES, has_two_answers),
    ("D18", "kimi_k2", "*", EXAMPLES, has_two_answers),
    ("D18", "kimi_k2", CALLS, EXAMPLES, has_no_answer_at_the_end),
    ("D19", "kimi*", "*", EXAMPLES, has_two_turns),
    ("D20", "qwen3_5", "*", CONVERSATION, ends_without_reasoning),
    ("D21", "qwen3_5* qwen3_instruct", "thinking_lines", f"{T}|{N}"),
    ("D22", "qwen3_5*", "tools_*", f"{T}|{N}"),
    ("D23", "qwen3_5*", "calls_parallel_last_result call_with_text call_reasoning call_arguments_nested", N),
    ("D23", "qwen3_5*", "text_parts text_before_thinking", N),
    ("D24", "qwen3_*disable_thinking", THINKING, CONVERSATION),
    ("D24", "qwen3_*disable_thinking", "thinking_in_string markers_think", f"{CONVERSATION}|{N}"),
    ("D25", "qwen3_disable_thinking", "no_user assistant_first", f"{T}|{N}"),
    ("D25", "qwen3_5*", "no_user", T),
    ("D26", "deepseekv3_thinking", "*", EXAMPLES, some_answer_does_not_reason),
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
    ("D34", "kimi_k25*", "no_user", EXAMPLES),
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
]

# Renderers, and the fixture with the template if it is another one; the efforts of gpt-oss differ alike.
TABLES = {
    "llama3": None,
    "qwen3": None,
    "qwen3_disable_thinking": None,
    "qwen3_instruct": "qwen2_5",
    "qwen3_5": None,
    "qwen3_5_disable_thinking": None,
    "deepseekv3": None,
    "deepseekv3_thinking": None,
    "kimi_k2": None,
    "kimi_k25": None,
    "kimi_k25_disable_thinking": None,
    "gpt_oss_low_reasoning": None,
    "gpt_oss_medium_reasoning": None,
    "gpt_oss_high_reasoning": None,
}


def matches(rule, renderer, conversation, pair, refusal):
    cause, renderers, names, in_pairs, *conditions = rule
    return (
        (cause in REFUSALS | ALSO_REFUSALS if refusal else cause not in REFUSALS)
        and any(fnmatch(renderer, pattern) for pattern in renderers.split())
        and any(fnmatch(conversation["name"], pattern) for pattern in names.split())
        and pair in in_pairs.split("|")
        and all(condition(conversation) for condition in conditions)
    )


def explained():
    """Causes by renderer, conversation and pair. Fails for a difference without a cause, and for a rule without use."""
    conversations = {conversation["name"]: conversation for conversation in load("conversations")["conversations"]}
    out, used, unknown = {}, set(), []
    for renderer, template in TABLES.items():
        for name, pair, refusal in differences(renderer, template):
            conversation = conversations[name]
            rules = [i for i, rule in enumerate(RULES) if matches(rule, renderer, conversation, pair, refusal)]
            used.update(rules)
            causes = sorted({RULES[i][0] for i in rules}, key=lambda cause: int(cause[1:]))
            out.setdefault(renderer, {}).setdefault(name, {})[pair] = causes
            if not causes:
                unknown.append(f"{renderer}: {name}: {pair}")
    unused = [str(rule[:4]) for i, rule in enumerate(RULES) if i not in used]
    if unknown or unused:
        raise ValueError("\n".join(["differences without a cause:", *unknown, "rules without use:", *unused]))
    return out


def document():
    """The causes for tests: a line for each renderer."""
    return {"causes": CAUSES, **explained()}


SHORT = dict(zip(PAIRS, "tTnN"), refused="R")


def cell(by_pair):
    """Causes of a table cell: pairs with the same causes together."""
    by_causes = {}
    for pair in (*PAIRS, "refused"):
        if pair in by_pair:
            by_causes.setdefault(" ".join(by_pair[pair]), []).append(SHORT[pair])
    return "; ".join(f"{''.join(pairs)}: {causes}" for causes, pairs in by_causes.items())


def markdown():
    """The table of conversations and renderers."""
    by_renderer = explained()
    names = [conversation["name"] for conversation in load("conversations")["conversations"]]
    efforts = [by_renderer.pop(f"gpt_oss_{effort}_reasoning") for effort in ("low", "medium", "high")]
    if efforts[0] != efforts[1] or efforts[1] != efforts[2]:
        raise ValueError("the efforts of gpt-oss differ otherwise")
    by_renderer["gpt_oss_*_reasoning"] = efforts[0]
    lines = [INTRODUCTION, "| cause | what differs |", "|---|---|"]
    lines += [f"| {cause} | {text} |" for cause, text in CAUSES.items()]
    for group in GROUPS:
        lines += ["", f"| conversation | {' | '.join(group)} |", "|---" * (len(group) + 1) + "|"]
        for name in names:
            cells = [cell(by_renderer[renderer].get(name, {})) for renderer in group]
            if any(cells):
                lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


GROUPS = [
    ["qwen3", "qwen3_disable_thinking", "qwen3_instruct"],
    ["qwen3_5", "qwen3_5_disable_thinking", "llama3"],
    ["deepseekv3", "deepseekv3_thinking", "gpt_oss_*_reasoning"],
    ["kimi_k2", "kimi_k25", "kimi_k25_disable_thinking"],
]

INTRODUCTION = """# Where the oracles differ

Made by `text.py` from the fixtures and the rules in `differences.py`; `text/differences.json` has the same for tests.

Cells: what differs from the cookbook, and causes. `t`: the template's prompt, `T`: the template's conversation against
`build_supervised_example` of the last message (a newline at the end is left out of the comparison), `n`: the prompt of
tml-renderers 0.2.1, `N`: its examples against `build_supervised_examples` of all assistant messages, `R`: the cookbook
cannot declare tools. A refusal differs from a result. qwen3_instruct is compared with the template of Qwen2.5. role_colon
and gpt_oss_no_sysprompt have no other oracle, deepseek and kimi_k25 no template.

Only the cookbook shows: role_colon ends a conversation whose last message is not from the assistant with the tokens of
`<UNUSED>`; gpt_oss_*_reasoning, and kimi without a system message, refuse the mode `customized`, because the message that
they insert has no flag.
"""
