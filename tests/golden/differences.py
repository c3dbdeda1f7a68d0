"""Where the oracles differ, with the causes, for differences.md."""

import json

from causes import CAUSES, PAIRS, RULES, matches
from fixtures import FOLDER


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
    """The results of the cookbook and of the oracle for each pair; `other` is the entry with the template."""
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


def explained():
    """Causes by renderer, conversation and pair. A difference without cause and a rule without use are errors."""
    conversations = {entry["name"]: entry for entry in load("conversations")["conversations"]}
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

Cells: what differs from the cookbook, and causes. `t`: the prompt of the template; `T`: its conversation against
`build_supervised_example` of the last message (a newline at the end is left out); `n`: the prompt of tml-renderers
0.2.1; `N`: its examples against `build_supervised_examples` of all assistant messages; `R`: the cookbook cannot
declare tools. A refusal differs from a result. qwen3_instruct is compared with the template of Qwen2.5. role_colon
and gpt_oss_no_sysprompt have no other oracle, deepseek and kimi_k25 no template.

Only the cookbook shows: role_colon ends a conversation whose last message is not from the assistant with the tokens
of `<UNUSED>`; kimi without a system message refuses the mode `customized`, and so does `build_supervised_example` of
gpt_oss_*_reasoning, because the message that they insert has no flag.
"""
