"""Vectors of one renderer: prompts, supervised examples and parsed answers of the cookbook, and the other oracles."""

import copy
import json
import logging
import re
import warnings
from itertools import groupby, repeat

import vocabularies
from families import DATE
from fixtures import FOLDER, Sequences, runs
from jinja2.sandbox import SandboxedEnvironment
from tinker_cookbook.renderers.base import ToolCall, TrainOnWhat, message_to_jsonable
from tinker_cookbook.third_party.tml_renderers_compat import tinker_messages_to_message_list
from transformers.utils import chat_template_utils

logging.disable(logging.CRITICAL)
warnings.filterwarnings("ignore")

# Kimi's template appends to lists, which the sandbox of transformers forbids.
chat_template_utils.ImmutableSandboxedEnvironment = SandboxedEnvironment

# Put before a template: today's date would make it differ from day to day.
FIXED_DATE = "{%- macro strftime_now(format) -%}" + DATE + "{%- endmacro -%}"

# Prefills of generation prompts, with the conversation that each is tried on.
PREFILLS = [
    ("user", "Sure, "),
    ("two_turns_last_user", "\nWell"),
    ("call_result", "So <think>"),
]

MODES = list(TrainOnWhat)
CONVERSATIONS = json.loads((FOLDER / "conversations.json").read_text(encoding="utf-8"))["conversations"]


class Errors:
    """Refusals, each once: class and beginning of the text."""

    LENGTH = 60

    def __init__(self):
        self.all = []

    def add(self, error):
        # A panic of a native renderer is a BaseException with the place in the source.
        text = re.sub(r"\s+", " ", str(error)).strip()[: self.LENGTH]
        entry = f"{type(error).__name__}: {text}"
        if entry not in self.all:
            self.all.append(entry)
        return {"error": self.all.index(entry)}


def cookbook_messages(messages):
    """Messages in the types of the cookbook."""
    messages = copy.deepcopy(messages)
    for message in messages:
        if "tool_calls" in message:
            message["tool_calls"] = [ToolCall.model_validate(call) for call in message["tool_calls"]]
    return messages


def split_system(messages):
    """The text of a system message at the start, and the other messages."""
    if messages[0]["role"] == "system":
        return messages[0]["content"], messages[1:]
    return "", messages


def with_tools(renderer, conversation):
    """The messages as the renderer gets them: a declaration of the tools takes the place of the system message."""
    messages = cookbook_messages(conversation["messages"])
    if "tools" not in conversation:
        return messages
    system, rest = split_system(messages)
    return renderer.create_conversation_prefix_with_tools(conversation["tools"], system) + rest


def flagged(messages):
    """Messages for CUSTOMIZED: without flags of their own, those at odd indices are trainable."""
    if any("trainable" in message for message in messages):
        return messages
    return [{**message, "trainable": index % 2 == 1} for index, message in enumerate(messages)]


def before_answer(messages):
    """The messages without assistant messages at the end: those that a generation prompt is made of."""
    count = len(messages)
    while count and messages[count - 1]["role"] == "assistant":
        count -= 1
    return messages[:count]


class Entry:
    """One conversation of the fixture."""

    def __init__(self, errors):
        self.errors = errors
        self.sequences = Sequences()
        self.examples = []

    def example(self, tokens, weights):
        pair = [self.sequences.add(tokens), runs(weights)]
        if sum(pair[1]) != len(tokens):
            raise ValueError("weights and tokens differ in length")
        if pair not in self.examples:
            self.examples.append(pair)
        return self.examples.index(pair)

    def attempt(self, function):
        """The result of the function, or its refusal."""
        try:
            return function()
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:
            return self.errors.add(error)


def supervised(entry, renderer, messages):
    """Results of build_supervised_examples by mode, and those of build_supervised_example that differ."""

    def of(example):
        return entry.example(example[0].to_ints(), example[1].tolist())

    plural, single = [], []
    for mode in MODES:
        given = flagged(messages) if mode is TrainOnWhat.CUSTOMIZED else messages
        many = entry.attempt(lambda: [of(e) for e in renderer.build_supervised_examples(given, train_on_what=mode)])
        one = entry.attempt(lambda: [of(renderer.build_supervised_example(given, train_on_what=mode))])
        plural.append(many)
        single.append(None if one == many else one)
    return plural, single


def openai_messages(family, messages):
    """Messages as a template gets them from a server with the OpenAI interface."""
    out = []
    for message in messages:
        message = {key: value for key, value in copy.deepcopy(message).items() if key != "trainable"}
        if isinstance(message["content"], list):
            parts = message["content"]
            message["content"] = "".join(part["text"] for part in parts if part["type"] == "text")
            thinking = "".join(part["thinking"] for part in parts if part["type"] == "thinking")
            if thinking:
                message["reasoning_content"] = thinking
        for call in message.get("tool_calls", []):
            if family.arguments == "object":
                call["function"]["arguments"] = json.loads(call["function"]["arguments"])
        out.append(message)
    return out


def templated(entry, family, conversation, prompt):
    """Index of the ids of the template's text, with the text itself if the ids do not decode to it."""
    tools = [{"type": "function", "function": tool} for tool in conversation.get("tools", [])] or None
    messages = before_answer(conversation["messages"]) if prompt else conversation["messages"]
    tokenizer = family.tokenizer()
    rendered, _ = chat_template_utils.render_jinja_template(
        [openai_messages(family, messages)],
        tools=tools,
        chat_template=FIXED_DATE + vocabularies.template(family.template),
        add_generation_prompt=prompt,
        bos_token=tokenizer.bos_token,
        eos_token=getattr(tokenizer, "eos_token", None),
        **family.variables,
    )
    ids = tokenizer.encode(rendered[0], add_special_tokens=False)
    index = entry.sequences.add(ids)
    return index if tokenizer.decode(ids) == rendered[0] else {"ids": index, "text": rendered[0]}


def native_input(conversation, prompt):
    """Messages for tml-renderers; it declares tools itself, before the system message."""
    messages = cookbook_messages(conversation["messages"])
    messages = before_answer(messages) if prompt else messages
    if "tools" in conversation:
        declared = json.dumps([{"type": "function", "function": tool} for tool in conversation["tools"]])
        messages.insert(0, {"role": "tool_declare", "content": declared})
    return tinker_messages_to_message_list(messages)


def convert(tokens, native, tokenizer):
    """Ids in the vocabulary of the fixture: markers by name, text between them by its decoding."""
    ids, text = [], []

    def flush():
        if text:
            ids.extend(tokenizer.encode_plain(native.decode(text)))
            text.clear()

    for token in tokens:
        name = native.decode_special(token)
        if name is not None:
            flush()
            ids.append(tokenizer.special_id(name if name.startswith("<") else f"<|{name}|>"))
            continue
        # Newlines in two tokens were encoded apart; together they would become one token.
        if text and native.decode(text).endswith("\n") and native.decode([token]).startswith("\n"):
            flush()
        text.append(token)
    flush()
    return ids


def native_tokens(family, renderer, spans, weights):
    """Ids and weights of the spans of a native renderer."""
    weights = iter(weights)
    ids, kept = [], []
    for span in spans:
        tokens = list(span.span.tokens)
        for weight, pairs in groupby(zip(tokens, weights), key=lambda pair: pair[1]):
            run = [token for token, _ in pairs]
            if family.other_vocabulary:
                run = convert(run, renderer.tokenizer, family.tokenizer())
            ids += run
            kept += [weight] * len(run)
    return ids, kept


def native_prompt(entry, family, renderer, conversation):
    spans, _ = renderer.render_for_completion(native_input(conversation, prompt=True))
    return entry.sequences.add(native_tokens(family, renderer, spans, repeat(0))[0])


def native_sft(entry, family, renderer, conversation):
    """Examples of tml-renderers, which trains every assistant message."""
    return [
        entry.example(
            *native_tokens(
                family, renderer, example.input_token_spans, example.per_token_loss_weight_unshifted
            )
        )
        for example in renderer.render_for_sft(native_input(conversation, prompt=False))
    ]


def conversation_entry(family, renderer, native, conversation, errors):
    entry = Entry(errors)
    out = {"name": conversation["name"], "ids": None}
    if renderer:
        messages = entry.attempt(lambda: with_tools(renderer, conversation))
        if isinstance(messages, dict):
            out["refused"] = messages
        else:
            out["prompt"] = entry.attempt(
                lambda: entry.sequences.add(renderer.build_generation_prompt(before_answer(messages)).to_ints())
            )
            plural, single = supervised(entry, renderer, messages)
            out["examples"] = entry.examples
            out["modes"] = plural
            if any(result is not None for result in single):
                out["single"] = single
    if family.template:
        out["template"] = [
            entry.attempt(lambda: templated(entry, family, conversation, True)),
            entry.attempt(lambda: templated(entry, family, conversation, False)),
        ]
    if native:
        out["native"] = [
            entry.attempt(lambda: native_prompt(entry, family, native, conversation)),
            entry.attempt(lambda: native_sft(entry, family, native, conversation)),
        ]
    out["ids"] = entry.sequences.written()
    return out


def answer_ids(tokenizer, pieces):
    """Ids of an answer: text with markers, or text whose markers are encoded as text."""
    ids = []
    for piece in pieces:
        text = piece.text
        ids += tokenizer.encode_plain(text) if piece.plain else tokenizer.encode(text, add_special_tokens=False)
    return ids


def answer_entry(renderer, tokenizer, name, pieces, errors):
    ids = answer_ids(tokenizer, pieces)
    out = {"name": name, "text": "".join(piece.text for piece in pieces), "ids": ids}
    try:
        message, termination = renderer.parse_response(list(ids))
    except Exception as error:
        return {**out, **errors.add(error)}
    return {**out, "message": message_to_jsonable(message), "termination": str(termination)}


def prefill_entry(renderer, name, prefill):
    messages = next(c for c in CONVERSATIONS if c["name"] == name)["messages"]
    prompt = renderer.build_generation_prompt(cookbook_messages(messages), prefill=prefill)
    return {"name": name, "prefill": prefill, "ids": prompt.to_ints()}


def document(family):
    """The fixture of a renderer."""
    tokenizer = family.tokenizer()
    renderer = family.make() if family.renderer else None
    native = family.make_native()
    errors = Errors()
    head = {"renderer": family.renderer, "vocabulary": family.vocabulary}
    if renderer:
        head["stop"] = renderer.get_stop_sequences()
        head["has_extension_property"] = renderer.has_extension_property
        head["eos_id"] = tokenizer.eos_token_id
        head["modes"] = [mode.value for mode in MODES]
        head["customized"] = "trainable is true at odd indices of the messages that the renderer gets"
    if "gpt_oss" in family.file and "no_sysprompt" not in family.file:
        head["current_date"] = DATE
    if family.template:
        head["template"] = {"file": family.template, "variables": family.variables, "arguments": family.arguments}
    if native:
        head["native"] = {"renderer": family.native, "stop": native.stop()}
    conversations = [conversation_entry(family, renderer, native, c, errors) for c in CONVERSATIONS]
    out = {**head, "conversations": conversations}
    if renderer:
        out["prefills"] = [prefill_entry(renderer, name, prefill) for name, prefill in PREFILLS]
    if family.answers:
        out["answers"] = [answer_entry(renderer, tokenizer, name, pieces, errors) for name, pieces in family.answers]
    return {**out, "errors": errors.all}
