"""Sampled answers for parse_response, by family.

A text stands for the tokens of its markers and of the text between them; `plain` encodes markers as text.
"""

from dataclasses import dataclass


@dataclass
class Piece:
    text: str
    plain: bool = False


def answer(name, *pieces):
    return name, [piece if isinstance(piece, Piece) else Piece(piece) for piece in pieces]


def plain(text):
    return Piece(text, plain=True)


def role_colon(eos):
    return [
        answer("clean", " Hello there.\n\nUser:"),
        answer("eos", f" Hello there.{eos}"),
        answer("eos_after_blank_line", f" Hello there.\n\n{eos}"),
        answer("eos_only", eos),
        answer("empty"),
        answer("stop_only", "\n\nUser:"),
        answer("cut", " Hello there. And th"),
        answer("cut_after_blank_line", " Hello there.\n\n"),
        answer("cut_in_stop", " Hello\n\nUse"),
        answer("stop_and_eos", f" Hello\n\nUser:{eos}"),
        answer("stop_and_text", " Hello\n\nUser: next question"),
        answer("two_stops", " Hello\n\nUser: q\n\nUser:"),
        answer("other_role", " Hello\n\nAssistant: again\n\nUser:"),
        answer("no_leading_space", "Hello\n\nUser:"),
        answer("two_leading_spaces", "  Hello\n\nUser:"),
        answer("one_newline", " Hello\nUser: no stop\n\nUser:"),
        answer("paragraphs", " one\n\ntwo\n\nthree\n\nUser:"),
        answer("four_newlines", " Hello\n\n\n\nUser:"),
        answer("crlf", " a\r\n\r\nUser:\n\nUser:"),
        answer("eos_inside", f" a{eos}b\n\nUser:"),
        answer("eos_twice", f" a{eos}{eos}"),
        answer("thinking_tags", " <think>x</think>y\n\nUser:"),
        answer("emoji", " 🙂 日本語\n\nUser:"),
    ]


LLAMA3 = [
    answer("clean", "Hello there.<|eot_id|>"),
    answer("no_stop", "Hello there. And th"),
    answer("eos_only", "<|eot_id|>"),
    answer("empty"),
    answer("two_stops", "a<|eot_id|>b<|eot_id|>"),
    answer("two_stops_together", "a<|eot_id|><|eot_id|>"),
    answer("text_after_stop", "a<|eot_id|>b"),
    answer("end_of_text", "a<|end_of_text|>"),
    answer("end_of_message", "a<|eom_id|>"),
    answer("header_again", "a<|start_header_id|>user<|end_header_id|>\n\nb<|eot_id|>"),
    answer("python_tag", "<|python_tag|>print(1)<|eot_id|>"),
    answer("json_call", '{"name": "add", "parameters": {"a": 1}}<|eot_id|>'),
    answer("marker_as_text", "say ", plain("<|eot_id|>"), " now<|eot_id|>"),
    answer("thinking_tags", "<think>x</think>y<|eot_id|>"),
    answer("leading_newlines", "\n\nHello<|eot_id|>"),
    answer("trailing_newlines", "Hello\n\n<|eot_id|>"),
    answer("whitespace_only", " \n<|eot_id|>"),
    answer("emoji", "🙂👩‍👩‍👧 日本語<|eot_id|>"),
    answer("crlf", "a\r\nb<|eot_id|>"),
    answer("bos", "<|begin_of_text|>a<|eot_id|>"),
    answer("code", "```\nx = {}\n```<|eot_id|>"),
]

CALL = '<tool_call>\n{"name": "add", "arguments": {"a": 1, "b": "é"}}\n</tool_call>'
CALL_2 = '<tool_call>\n{"name": "now", "arguments": {}}\n</tool_call>'

QWEN3 = [
    answer("clean", "Hello there.<|im_end|>"),
    answer("thinking", "<think>\nwhy\n\nso\n</think>\n\nHello<|im_end|>"),
    answer("thinking_empty", "<think>\n\n</think>\n\nHello<|im_end|>"),
    answer("thinking_tight", "<think>why</think>Hello<|im_end|>"),
    answer("thinking_only", "<think>\nwhy\n</think><|im_end|>"),
    answer("thinking_twice", "<think>\na\n</think>\n\nx\n<think>\nb\n</think>\n\ny<|im_end|>"),
    answer("thinking_later", "Well. <think>a</think> y<|im_end|>"),
    answer("thinking_unclosed", "<think>\nwhy<|im_end|>"),
    answer("thinking_unclosed_no_stop", "<think>\nwhy and then"),
    answer("thinking_closed_only", "why</think>\n\nHello<|im_end|>"),
    answer("thinking_no_stop", "<think>\nwhy\n</think>\n\nHel"),
    answer("call", f"{CALL}<|im_end|>"),
    answer("call_with_text", f"Let me add.\n{CALL}<|im_end|>"),
    answer("call_after_thinking", f"<think>\nneed\n</think>\n\n{CALL}<|im_end|>"),
    answer("call_inside_thinking", f"<think>\n{CALL}\n</think>\n\nHello<|im_end|>"),
    answer("two_calls", f"{CALL}\n{CALL_2}<|im_end|>"),
    answer("call_and_text_after", f"{CALL}\nDone.<|im_end|>"),
    answer("call_bad_json", '<tool_call>\n{"name": "add", "arguments": {"a": }\n</tool_call><|im_end|>'),
    answer("call_bad_and_good", f"<tool_call>\nnot json\n</tool_call>\n{CALL}<|im_end|>"),
    answer("call_no_name", '<tool_call>\n{"arguments": {}}\n</tool_call><|im_end|>'),
    answer("call_no_arguments", '<tool_call>\n{"name": "now"}\n</tool_call><|im_end|>'),
    answer("call_arguments_string", '<tool_call>\n{"name": "f", "arguments": "{}"}\n</tool_call><|im_end|>'),
    answer("call_list", '<tool_call>\n[1]\n</tool_call><|im_end|>'),
    answer(
        "call_id",
        '<tool_call>\n{"name": "f", "arguments": {"x": [1, 2.0, null]}, "id": "c7"}\n</tool_call><|im_end|>',
    ),
    answer("call_unclosed", 'Text <tool_call>\n{"name": "add"<|im_end|>'),
    answer("call_unclosed_second", f"{CALL}\n<tool_call>\n{{<|im_end|>"),
    answer("call_no_stop", f"{CALL}"),
    answer("no_stop", "Hello there. And th"),
    answer("eos_only", "<|im_end|>"),
    answer("end_of_text", "Hello<|endoftext|>"),
    answer("empty"),
    answer("two_stops", "a<|im_end|>\n<|im_start|>user\nb<|im_end|>"),
    answer("text_after_stop", "a<|im_end|>\n"),
    answer("markers_as_text", plain("<think>a</think><tool_call>{}</tool_call><|im_end|>"), "b<|im_end|>"),
    answer("leading_newlines", "\n\nHello\n\n<|im_end|>"),
    answer("emoji", "🙂👩‍👩‍👧 日本語<|im_end|>"),
]

XML = (
    "<tool_call>\n<function=add>\n<parameter=a>\n1\n</parameter>\n<parameter=b>\né x\n</parameter>\n"
    "</function>\n</tool_call>"
)
XML_2 = "<tool_call>\n<function=now>\n</function>\n</tool_call>"

QWEN3_5 = [
    answer("clean", "Hello there.<|im_end|>"),
    answer("thinking", "why\n\nso\n</think>\n\nHello<|im_end|>"),
    answer("thinking_opened", "<think>\nwhy\n</think>\n\nHello<|im_end|>"),
    answer("thinking_empty", "\n</think>\n\nHello<|im_end|>"),
    answer("thinking_spaces", "  why  \n</think>\n\n\n\nHello <|im_end|>"),
    answer("thinking_tight", "why</think>Hello<|im_end|>"),
    answer("thinking_unclosed", "<think>\nwhy<|im_end|>"),
    answer("thinking_no_stop", "why\n</think>\n\nHel"),
    answer("call", f"need\n</think>\n\n{XML}<|im_end|>"),
    answer("call_without_thinking", f"{XML}<|im_end|>"),
    answer("call_with_text", f"need\n</think>\n\nLet me.\n\n{XML}<|im_end|>"),
    answer("two_calls", f"n\n</think>\n\n{XML}\n{XML_2}<|im_end|>"),
    answer("call_and_text_after", f"{XML}\nDone.<|im_end|>"),
    answer(
        "call_values",
        "<tool_call>\n<function=f>\n<parameter=x>\n[1, 2]\n</parameter>\n<parameter=y>\nTrue\n</parameter>\n"
        '<parameter=z>\ntrue\n</parameter>\n<parameter=s>\n"q"\n</parameter>\n<parameter=t>\na\n\nb\n</parameter>\n'
        "</function>\n</tool_call><|im_end|>",
    ),
    answer("call_one_line", "<tool_call><function=f><parameter=x>1</parameter></function></tool_call><|im_end|>"),
    answer("call_json", f"{CALL}<|im_end|>"),
    answer("call_no_function", "<tool_call>\nadd 1 2\n</tool_call><|im_end|>"),
    answer("call_function_unclosed", "<tool_call>\n<function=f>\n<parameter=x>\n1\n</tool_call><|im_end|>"),
    answer(
        "call_text_in_function",
        "<tool_call>\n<function=f>\nhm\n<parameter=x>\n1\n</parameter>\n</function>\n</tool_call><|im_end|>",
    ),
    answer(
        "call_text_after_parameter",
        "<tool_call>\n<function=f>\n<parameter=x>\n1\n</parameter>\nhm\n</function>\n</tool_call><|im_end|>",
    ),
    answer("call_bad_and_good", f"<tool_call>\n<function=>\n</function>\n</tool_call>\n{XML}<|im_end|>"),
    answer("call_unclosed", "<tool_call>\n<function=f>\n<|im_end|>"),
    answer("call_no_stop", f"{XML}"),
    answer("no_stop", "Hello there. And th"),
    answer("eos_only", "<|im_end|>"),
    answer("empty"),
    answer("two_stops", "a<|im_end|>b<|im_end|>"),
    answer("markers_as_text", plain("a</think><tool_call>{}</tool_call><|im_end|>"), "b<|im_end|>"),
    answer("emoji", "🙂 日本語<|im_end|>"),
]

DS_EOS = "<｜end▁of▁sentence｜>"


def ds_call(name, arguments):
    return f"<｜tool▁call▁begin｜>{name}<｜tool▁sep｜>{arguments}<｜tool▁call▁end｜>"


def ds_calls(*calls):
    return f"<｜tool▁calls▁begin｜>{''.join(calls)}<｜tool▁calls▁end｜>"


ADD = ds_call("add", '{"a": 1, "b": "é"}')

DEEPSEEK = [
    answer("clean", f"Hello there.{DS_EOS}"),
    answer("thinking", f"why\n\nso</think>Hello{DS_EOS}"),
    answer("thinking_opened", f"<think>why</think>Hello{DS_EOS}"),
    answer("thinking_empty", f"</think>Hello{DS_EOS}"),
    answer("thinking_lines", f"\nwhy\n</think>\n\nHello{DS_EOS}"),
    answer("thinking_only", f"why</think>{DS_EOS}"),
    answer("thinking_twice", f"<think>a</think>x<think>b</think>y{DS_EOS}"),
    answer("thinking_unclosed", f"<think>why and{DS_EOS}"),
    answer("thinking_unclosed_no_stop", "why and then"),
    answer("thinking_no_stop", "why</think>Hel"),
    answer("call", f"{ds_calls(ADD)}{DS_EOS}"),
    answer("call_with_text", f"Let me add. {ds_calls(ADD)}{DS_EOS}"),
    answer("call_after_thinking", f"need</think>{ds_calls(ADD)}{DS_EOS}"),
    answer("two_calls", f"{ds_calls(ADD, ds_call('now', '{}'))}{DS_EOS}"),
    answer("call_and_text_after", f"{ds_calls(ADD)} Done. {DS_EOS}"),
    answer("call_bad_json", f"{ds_calls(ds_call('add', '{a: 1}'))}{DS_EOS}"),
    answer("call_bad_and_good", f"{ds_calls(ds_call('f', '{'), ADD)}{DS_EOS}"),
    answer("call_not_object", f"{ds_calls(ds_call('f', '[1]'))}{DS_EOS}"),
    answer("call_spaced_arguments", f"{ds_calls(ds_call('f', '  {} '))}{DS_EOS}"),
    answer("call_name_with_dash", f"{ds_calls(ds_call('get-time', '{}'))}{DS_EOS}"),
    answer("call_code_block", f"{ds_calls(ds_call('f', chr(10) + '```json' + chr(10) + '{}```'))}{DS_EOS}"),
    answer("calls_unclosed", f"<｜tool▁calls▁begin｜>{ADD}{DS_EOS}"),
    answer("call_unclosed", f"{ds_calls('<｜tool▁call▁begin｜>add<｜tool▁sep｜>{}')}{DS_EOS}"),
    answer("call_no_stop", f"{ds_calls(ADD)}"),
    answer("no_stop", "Hello there. And th"),
    answer("eos_only", DS_EOS),
    answer("empty"),
    answer("two_stops", f"a{DS_EOS}b{DS_EOS}"),
    answer("text_after_stop", f"a{DS_EOS}b"),
    answer("user_marker", f"a<｜User｜>b{DS_EOS}"),
    answer("markers_as_text", plain(f"<think>a</think>{ds_calls(ADD)}{DS_EOS}"), f"b{DS_EOS}"),
    answer("emoji", f"🙂 日本語{DS_EOS}"),
]


def kimi_call(identifier, arguments):
    return f"<|tool_call_begin|>{identifier}<|tool_call_argument_begin|>{arguments}<|tool_call_end|>"


def kimi_calls(*calls):
    return f"<|tool_calls_section_begin|>{''.join(calls)}<|tool_calls_section_end|>"


KIMI_ADD = kimi_call("functions.add:0", '{"a": 1, "b": "é"}')

KIMI = [
    answer("clean", "Hello there.<|im_end|>"),
    answer("thinking", "<think>why\n\nso</think>Hello<|im_end|>"),
    answer("thinking_prefilled", "why</think>Hello<|im_end|>"),
    answer("thinking_empty", "<think></think>Hello<|im_end|>"),
    answer("thinking_only", "<think>why</think><|im_end|>"),
    answer("thinking_twice", "<think>a</think>x<think>b</think>y<|im_end|>"),
    answer("thinking_unclosed", "<think>why and<|im_end|>"),
    answer("thinking_unclosed_no_stop", "<think>why and then"),
    answer("thinking_no_stop", "<think>why</think>Hel"),
    answer("call", f"{kimi_calls(KIMI_ADD)}<|im_end|>"),
    answer("call_with_text", f"Let me add. {kimi_calls(KIMI_ADD)}<|im_end|>"),
    answer("call_after_thinking", f"<think>need</think>{kimi_calls(KIMI_ADD)}<|im_end|>"),
    answer("two_calls", f"{kimi_calls(KIMI_ADD, kimi_call('functions.now:1', '{}'))}<|im_end|>"),
    answer("call_and_text_after", f"{kimi_calls(KIMI_ADD)} Done.<|im_end|>"),
    answer("call_bad_json", f"{kimi_calls(kimi_call('functions.add:0', '{a: 1}'))}<|im_end|>"),
    answer("call_bad_and_good", f"{kimi_calls(kimi_call('functions.f:0', '{'), KIMI_ADD)}<|im_end|>"),
    answer("call_id_without_prefix", f"{kimi_calls(kimi_call('add:3', '{}'))}<|im_end|>"),
    answer("call_id_other", f"{kimi_calls(kimi_call('call_abc', '{}'))}<|im_end|>"),
    answer("call_id_dotted", f"{kimi_calls(kimi_call('a.b.c:1', '{}'))}<|im_end|>"),
    answer("call_spaces", f"{kimi_calls(kimi_call(' functions.f:0 ', ' {} '))}<|im_end|>"),
    answer("call_not_object", f"{kimi_calls(kimi_call('functions.f:0', '[1]'))}<|im_end|>"),
    answer("section_singular", f"<|tool_call_section_begin|>{KIMI_ADD}<|tool_call_section_end|><|im_end|>"),
    answer("section_empty", f"{kimi_calls()}<|im_end|>"),
    answer("section_unclosed", f"<|tool_calls_section_begin|>{KIMI_ADD}<|im_end|>"),
    answer(
        "call_unclosed",
        f"{kimi_calls('<|tool_call_begin|>functions.f:0<|tool_call_argument_begin|>{}')}<|im_end|>",
    ),
    answer("call_no_stop", kimi_calls(KIMI_ADD)),
    answer("no_stop", "Hello there. And th"),
    answer("eos_only", "<|im_end|>"),
    answer("real_eos", "Hello[EOS]"),
    answer("empty"),
    answer("two_stops", "a<|im_end|>b<|im_end|>"),
    answer("text_after_stop", "a<|im_end|>b"),
    answer("markers_as_text", plain(f"<think>a</think>{kimi_calls(KIMI_ADD)}<|im_end|>"), "b<|im_end|>"),
    answer("emoji", "🙂 日本語<|im_end|>"),
]

FINAL = "<|channel|>final<|message|>"
ANALYSIS = "<|channel|>analysis<|message|>"
NEXT = "<|end|><|start|>assistant"
TO_ADD = " to=functions.add<|channel|>commentary <|constrain|>json<|message|>"
AFTER = "<|channel|>commentary to=functions.add <|constrain|>json<|message|>"

HARMONY = [
    answer("clean", f"{FINAL}Hello there.<|return|>"),
    answer("thinking", f"{ANALYSIS}why\n\nso{NEXT}{FINAL}Hello<|return|>"),
    answer("thinking_only", f"{ANALYSIS}why<|return|>"),
    answer("thinking_no_stop", f"{ANALYSIS}why{NEXT}{FINAL}Hel"),
    answer("thinking_unclosed_no_stop", f"{ANALYSIS}why and then"),
    answer("thinking_twice", f"{ANALYSIS}a{NEXT}{ANALYSIS}b{NEXT}{FINAL}Hello<|return|>"),
    answer("final_empty", f"{FINAL}<|return|>"),
    answer("commentary", f"<|channel|>commentary<|message|>I will add.{NEXT}{TO_ADD}{{}}<|call|>"),
    answer("call", f'{TO_ADD}{{"a": 1, "b": "é"}}<|call|>'),
    answer("call_after_thinking", f'{ANALYSIS}need{NEXT}{TO_ADD}{{"a": 1}}<|call|>'),
    answer("call_recipient_after_channel", f'{AFTER}{{"a": 1}}<|call|>'),
    answer("call_recipient_after_channel_thinking", f'{ANALYSIS}need{NEXT}{AFTER}{{"a": 1}}<|call|>'),
    answer("call_plain_json", ' to=functions.add<|channel|>commentary json<|message|>{"a": 1}<|call|>'),
    answer("call_spaced_arguments", f"{TO_ADD} {{}} \n<|call|>"),
    answer("call_not_object", f"{TO_ADD}[1]<|call|>"),
    answer("call_bad_json", f"{TO_ADD}{{a: 1}}<|call|>"),
    answer("call_empty", f"{TO_ADD}<|call|>"),
    answer("call_no_message", " to=functions.add<|channel|>commentary<|call|>"),
    answer("call_and_return", f"{TO_ADD}{{}}<|call|>{FINAL}x<|return|>"),
    answer("call_other_recipient", " to=python<|channel|>analysis<|message|>print(1)<|call|>"),
    answer("call_ended_by_return", f"{TO_ADD}{{}}<|return|>"),
    answer("two_calls", f"{TO_ADD}{{}}<|call|><|start|>assistant{TO_ADD}{{}}<|call|>"),
    answer("two_calls_one_stop", f"{TO_ADD}{{}}{NEXT} to=functions.now<|channel|>commentary<|message|>{{}}<|call|>"),
    answer("call_no_stop", f"{TO_ADD}{{}}"),
    answer("no_stop", f"{FINAL}Hello there. And th"),
    answer("no_channel", "Hello<|return|>"),
    answer("unknown_channel", "<|channel|>other<|message|>x<|return|>"),
    answer("message_only", "<|message|>x<|return|>"),
    answer("eos_only", "<|return|>"),
    answer("end_of_text", f"{FINAL}Hello<|endoftext|>"),
    answer("ended_by_end", f"{FINAL}Hello<|end|>"),
    answer("empty"),
    answer("two_stops", f"{FINAL}a<|return|>{FINAL}b<|return|>"),
    answer("text_after_stop", f"{FINAL}a<|return|>b"),
    answer("markers_as_text", FINAL, plain("<|channel|>final<|message|>a<|return|>"), "b<|return|>"),
    answer("recipient_as_text", f"{FINAL}use to=functions.x here<|return|>"),
    answer("whitespace_final", f"{FINAL}  \n<|return|>"),
    answer("emoji", f"{FINAL}🙂 日本語<|return|>"),
]
