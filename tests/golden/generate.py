"""Makes all fixtures, or compares them with the committed ones."""

import sys

import differences
import digests
import families
import vectors
from fixtures import FOLDER, to_lines


def documents():
    """Paths and makers of all files; conversations.json is only brought into its format."""
    yield FOLDER / "conversations.json", lambda: to_lines({"conversations": vectors.CONVERSATIONS})
    for family in families.FAMILIES:
        yield FOLDER / f"{family.file}.json", lambda family=family: to_lines(vectors.document(family))
    yield FOLDER / "strings.json", lambda: to_lines(digests.strings_document())
    for name in digests.VOCABULARIES:
        yield FOLDER / f"tokenizer_{name}.json", lambda name=name: to_lines(digests.document(name))
    # Made from the files above, as they stand.
    yield FOLDER / "differences.json", lambda: to_lines(differences.document())
    yield FOLDER.parent / "differences.md", differences.markdown


def run(check, only):
    """Writes the files, or returns 1 if a committed one is not what would be written."""
    stale = []
    for path, make in documents():
        if only and path.stem not in only:
            continue
        text = make()
        if not check:
            path.write_text(text, encoding="utf-8")
            print(f"{path.name}: {len(text.encode()):,} bytes")
        elif not path.exists() or path.read_text(encoding="utf-8") != text:
            stale.append(path.name)
    if stale:
        print(f"not as generated: {', '.join(stale)}", file=sys.stderr)
    return int(bool(stale))
