"""Format of the fixtures: JSON that is compact, has one entry a line, and shows invisible characters as escapes."""

import json
import unicodedata
from pathlib import Path

FOLDER = Path(__file__).resolve().parent / "text"

# Combining, format and control characters, separators and unassigned code points are written as escapes, and so are
# characters that a program could replace by their normal form.
ESCAPED = {"Cc", "Cf", "Cn", "Co", "Mc", "Me", "Mn", "Zl", "Zp", "Zs"}


def escape(character):
    """The character as it stands, or its JSON escape if an editor would not show it."""
    stable = unicodedata.is_normalized("NFC", character)
    if character == " " or (stable and unicodedata.category(character) not in ESCAPED):
        return character
    units = character.encode("utf-16-be")
    return "".join(f"\\u{units[i]:02x}{units[i + 1]:02x}" for i in range(0, len(units), 2))


def to_json(value):
    """One line of JSON without spaces."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    return text if text.isascii() and text.isprintable() else "".join(map(escape, text))


def to_lines(document):
    """JSON of an object: a line for each member, and a line for each entry of a list of objects or of long texts."""
    members = []
    for key, value in document.items():
        long = isinstance(value, list) and len(to_json(value)) > 300
        if long and isinstance(value[0], (dict, str)):
            entries = ",\n".join(map(to_json, value))
            members.append(f"{to_json(key)}:[\n{entries}\n]")
        else:
            members.append(f"{to_json(key)}:{to_json(value)}")
    return "{\n" + ",\n".join(members) + "\n}\n"


class Sequences:
    """The sequences of ids of one conversation, each once; one may be written as a change of an earlier one."""

    # A reference to an earlier sequence pays off from this number of common ids.
    WORTH = 12

    def __init__(self):
        self.all = []

    def add(self, ids):
        """The index of the sequence."""
        ids = [int(i) for i in ids]
        if ids not in self.all:
            self.all.append(ids)
        return self.all.index(ids)

    def written(self):
        """The sequences as they stand in the fixture."""
        out = []
        for index, ids in enumerate(self.all):
            common = [common_prefix(ids, earlier) for earlier in self.all[:index]]
            best = max(range(index), key=lambda i: common[i], default=None)
            if best is None or common[best] < self.WORTH:
                out.append(ids)
            else:
                out.append({"like": best, "take": common[best], "then": ids[common[best] :]})
        return out


def common_prefix(one, other):
    return next((i for i, (a, b) in enumerate(zip(one, other)) if a != b), min(len(one), len(other)))


def runs(weights):
    """Lengths of the runs of weights 0 and 1 in turn; the first run has weight 0 and may be empty."""
    lengths, current = [0], 0
    for weight in weights:
        if weight not in (0, 1):
            raise ValueError(f"weight {weight} is neither 0 nor 1")
        if weight != current:
            lengths.append(0)
            current = weight
        lengths[-1] += 1
    return lengths
