"""Makes all fixtures, or compares them with the committed ones."""

import sys

import digests
import families
import vectors
from fixtures import FOLDER, to_lines


def documents():
    """Names and makers of all fixtures; conversations.json is only brought into its format."""
    yield "conversations", lambda: {"conversations": vectors.CONVERSATIONS}
    for family in families.FAMILIES:
        yield family.file, lambda family=family: vectors.document(family)
    yield "strings", digests.strings_document
    for name in digests.VOCABULARIES:
        yield f"tokenizer_{name}", lambda name=name: digests.document(name)


def run(check, only):
    """Writes the fixtures, or returns 1 if a committed one is not what would be written."""
    stale = []
    for name, make in documents():
        if only and name not in only:
            continue
        path = FOLDER / f"{name}.json"
        text = to_lines(make())
        if not check:
            path.write_text(text, encoding="utf-8")
            print(f"{path.name}: {len(text.encode()):,} bytes")
        elif not path.exists() or path.read_text(encoding="utf-8") != text:
            stale.append(path.name)
    if stale:
        print(f"not as generated: {', '.join(stale)}", file=sys.stderr)
    return int(bool(stale))
