"""Checks the rules of style that no compiler checks, in the Rust sources and the Markdown documents of this repository.

  a) `if`/`else` instead of `match` on a bool
  b) no metaphors and riddles where the field has a term
  c) error texts say "is not a valid …", not "is no …"
  d) no underscore binding as a comment
  e) the modules at the top of `src/` (the rooms) do not import each other in circles

Prints each violation as `file:line: what` and exits with status 1 if there is one. `style.py FOLDER` checks another
checkout.
"""

import re
import subprocess
import sys
from pathlib import Path

RUST = ["src/*.rs", "tests/*.rs", "examples/*.rs", "benches/*.rs"]
MARKDOWN = ["README.md", "src/_docs/*.md"]

# Words that are refused everywhere: in comments, texts, names and Markdown.
WORDS = (
    "bury buries buried burying orphan orphans orphaned farewell farewells foreman foremen hire hires hired hiring "
    "doubted doubting heed heeds heeded heeding retire retires retired retiring news weather patience patient "
    "crew crews tend tends tended tending tender tenders shelf shelves lenient leniently leniency surrogate surrogates"
).split()

# Words that are good English ("how many", "draws a number", "hands it over") and poor names: refused as the whole name
# of an item, a variable or a file, and those of the second list as a part of it, too.
NAMES = "many draw watcher hand hands".split()
PARTS_OF_NAMES = "odd watch asking stranger strangers".split()

# "hands" as a noun stands for workers; as a verb it is used for handing over.
HANDS = re.compile(r"\b(?:the|its|all|more|no|new|spare|free|idle|busy|other|of|in|whose)\s+hands\b", re.I)

# (file, word): where a word is the right one.
ALLOWED = {
    ("src/http/redact/view.rs", "surrogate"): "Unicode's term: half of a surrogate pair",
    ("src/loss/linear.rs", "surrogate"): "`surrogate_loss:sum` is a public key of a metric",
    ("src/client/training/custom.rs", "surrogate"): "`surrogate_loss:sum` is a public key of a metric",
    ("src/_docs/protocol.md", "surrogate"): "`surrogate_loss:sum` is a public key of a metric",
    ("tests/it/custom_loss.rs", "surrogate"): "`surrogate_loss:sum` is a public key of a metric",
    ("tests/it/traced_loss.rs", "surrogate"): "`surrogate_loss:sum` is a public key of a metric",
    ("src/local/nn/choose.rs", "draw"): "the number that was drawn from the generator of random numbers",
    ("tests/it/soak.rs", "watch"): "the monitor of the soak",
}

# (file, room): imports that may close a circle of rooms, each with its reason.
ACCEPTED_IMPORTS = {
    ("src/types/mod.rs", "loss"): "re-exports: `types` is the public module of all plain data; its code uses no loss",
}

# Not rooms: `lib.rs` and `handles.rs` name all public types, and `testing` exists only under the feature of that name.
NOT_ROOMS = ("lib", "handles", "testing")

ITEM = re.compile(r"\b(?:fn|mod|struct|enum|union|trait|type|const|static|let(?:\s+mut)?)\s+(?:r#)?([A-Za-z_]\w*)")
BOOL_ARM = re.compile(r"(?<=[{},\]|])\s*((?:true|false)\s*(?:if\b[^{};]*?)?=>)")
IS_NO = re.compile(r"\b(?:is|are) (?:no|none)\b(?! (?:longer|more)\b)")
SENTENCE = re.compile(r"\blet\s+(?:mut\s+)?(_[a-z]+(?:_[a-z0-9]+){2,})\s*[=:]")
LITERAL = re.compile(
    r"""(?P<comment>//[^\n]*|/\*)"""
    r"""|(?P<raw>\b(?:b|c)?r(?P<hashes>\#*)"(?:.|\n)*?"(?P=hashes))"""
    r"""|(?P<string>\b[bc]?"(?:[^"\\]|\\(?:.|\n))*"|"(?:[^"\\]|\\(?:.|\n))*")"""
    r"""|(?P<char>b?'(?:[^'\\\n]|\\[^\n][^'\n]*)')""",
)


class Source:
    """A Rust file, split into code (`code`: everything else is blank), comments and string literals."""

    def __init__(self, text):
        self.text, self.comments, self.strings = text, [], []
        code, at = [], 0
        while found := LITERAL.search(text, at):
            start, end, kind = found.start(), found.end(), found.lastgroup
            if found["comment"] == "/*":
                end = end_of_block_comment(text, start)
            code += [text[at:start], blank(text[start:end])]
            if found["comment"]:
                self.comments.append((start, text[start:end]))
            elif found["raw"] or found["string"]:
                self.strings.append((start, text[start:end]))
            at = end
        self.code = "".join(code) + text[at:]

    def line(self, offset):
        """The line number of an offset."""
        return self.text.count("\n", 0, offset) + 1


def blank(text):
    """Replaces all characters by blanks, so that offsets and lines stay."""
    return re.sub(r"[^\n]", " ", text)


def end_of_block_comment(text, start):
    """The offset after a block comment, which may contain others."""
    depth = 0
    for mark in re.finditer(r"/\*|\*/", text[start:]):
        depth += 1 if mark[0] == "/*" else -1
        if depth == 0:
            return start + mark.end()
    return len(text)


def words(text):
    """The words of a text with their offsets; `snake_case` and `CamelCase` names are taken apart."""
    for found in re.finditer(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+", text):
        yield found.start(), found[0].lower()


def is_allowed(file, word):
    """Whether a word may stand in a file."""
    return any(file == place and word.startswith(stem) for place, stem in ALLOWED)


def matches_on_bools(source):
    """a) The arms `true =>` and `false =>`."""
    for found in BOOL_ARM.finditer(source.code):
        yield source.line(found.start(1)), "`match` on a bool; use `if`"


def refused_words(file, text):
    """b) Words that are refused everywhere."""
    for offset, word in words(text):
        if word in WORDS and not is_allowed(file, word):
            yield offset, f'the word "{word}"'
    for found in HANDS.finditer(text):
        yield found.start(), f'"{found[0]}": say what the workers are'


def refused_names(file, source):
    """b) Poor names of items, variables and files."""
    names = [(found.start(1), found[1]) for found in ITEM.finditer(source.code)]
    for offset, name in [(0, Path(file).stem), *names]:
        parts = [word for _, word in words(name)]
        poor = name.lower() in NAMES or any(part in PARTS_OF_NAMES for part in parts)
        is_test = len(parts) > 4  # the name of a test is a sentence
        if poor and not is_test and not any(is_allowed(file, part) for part in parts):
            yield source.line(offset), f"the name `{name}` does not say what it is"


def refused_error_texts(source):
    """c) "is no …" in texts."""
    for offset, text in source.strings:
        for found in IS_NO.finditer(re.sub(r"\\\n\s*", lambda it: " " * len(it[0]), text)):
            yield source.line(offset + found.start()), f'"{found[0]} …" in a text; say "is not a valid …"'


def sentences_as_names(source):
    """d) Underscore bindings as comments."""
    for found in SENTENCE.finditer(source.code):
        yield source.line(found.start()), f"`{found[1]}` is a comment; write one, and a short name"


def check_rust(file, text):
    """All violations of a Rust file, but circles."""
    source = Source(text)
    yield from matches_on_bools(source)
    yield from ((source.line(offset), what) for offset, what in refused_words(file, text))
    yield from refused_names(file, source)
    yield from refused_error_texts(source)
    yield from sentences_as_names(source)


def check_markdown(file, text):
    """All violations of a Markdown document."""
    for offset, what in refused_words(file, text):
        yield text.count("\n", 0, offset) + 1, what


def without_tests(code):
    """Blanks the items under `#[cfg(test)]` and the like, which are built for tests only."""
    test_only = re.compile(r"#\[cfg\((?:test|all\(test\b[^\]]*|any\(test\b[^\]]*)\)\]")
    while found := test_only.search(code):
        end = end_of_item(code, found.end())
        code = code[: found.start()] + blank(code[found.start() : end]) + code[end:]
    return code


def end_of_item(code, start):
    """The offset after an item: behind its block, or its semicolon or comma outside of brackets."""
    depth = 0
    for found in re.finditer(r"[][(){};,]", code[start:]):
        mark, end = found[0], start + found.end()
        if mark in "([{":
            depth += 1
        elif mark in ")]}":
            depth -= 1
            if depth < 0:
                return start + found.start()
            if depth == 0 and mark == "}":
                return end
        elif depth == 0:
            return end
    return len(code)


def room(file):
    """The room of a source file: `src/a.rs` and `src/a/…` belong to `a`."""
    return Path(file).parts[1].removesuffix(".rs")


def reexports(lib):
    """The room of each name that `lib.rs` re-exports."""
    rooms = {}
    for found in re.finditer(r"\bpub use ([a-z_]+)::([^;]*);", lib):
        for name in re.findall(r"\w+", found[2]):
            rooms[name] = found[1]
    return rooms


def first_names(tree):
    """The first names in the braces of `use crate::{a::b, c}`."""
    depth, names, start = 0, [], 0
    for at, mark in enumerate(tree + ","):
        depth += (mark == "{") - (mark == "}")
        if mark == "," and depth == 0:
            names += re.findall(r"^\s*(\w+)", tree[start:at])
            start = at + 1
    return names


def braces(code, start):
    """The text between the brace at `start` and its partner."""
    depth = 0
    for found in re.finditer(r"[{}]", code[start:]):
        depth += 1 if found[0] == "{" else -1
        if depth == 0:
            return code[start + 1 : start + found.start()]
    return ""


def references(file, code):
    """The names at the root of the crate that a file refers to, with the offsets; `super::super::…` is resolved."""
    for found in re.finditer(r"\bcrate::(\w+|\{)", code):
        names = [found[1]] if found[1] != "{" else first_names(braces(code, found.end() - 1))
        yield from ((found.start(), name) for name in names)
    path = Path(file).with_suffix("").parts[1:]
    depth = len(path) - (path[-1] == "mod")
    for found in re.finditer(r"\b((?:super::)+)(\w+|\{)", code):
        if found[1].count("super") == depth:
            names = [found[2]] if found[2] != "{" else first_names(braces(code, found.end() - 1))
            yield from ((found.start(), name) for name in names)


def test_only_files(files):
    """Files of modules that are declared under `#[cfg(test)]`, by their names."""
    declared = re.compile(r"#\[cfg\((?:all\()?test\b[^\]]*\]\s*(?:#\[path[^\]]*\]\s*)?(?:pub(?:\([^)]*\))? )?mod (\w+);")
    for file, text in files.items():
        folder = Path(file).parent
        if Path(file).stem not in ("mod", "lib"):
            folder = folder / Path(file).stem
        for found in declared.finditer(text):
            yield str(folder / found[1])


def imports_of_rooms(files):
    """Returns what imports what: for each pair of rooms, the files of the first that use the second, with a line."""
    skipped = tuple(test_only_files(files))
    rooms = {room(file) for file in files}.difference(NOT_ROOMS)
    exported = reexports(files.get("src/lib.rs", ""))
    imports = {}
    for file, text in files.items():
        module = file.removesuffix(".rs").removesuffix("/mod")
        is_test = any(module == it or module.startswith(it + "/") for it in skipped)
        if is_test or room(file) not in rooms:
            continue
        source = Source(text)
        for offset, name in references(file, without_tests(source.code)):
            target = name if name in rooms else exported.get(name)
            if target in rooms and target != room(file):
                imports.setdefault((room(file), target), {}).setdefault(file, source.line(offset))
    return imports


def way(below, start, end):
    """The shortest way from one room to another by imports, or None."""
    ways = [[start]]
    seen = {start}
    for steps in ways:
        if steps[-1] == end:
            return steps
        for room_below in sorted(below.get(steps[-1], set()) - seen):
            seen.add(room_below)
            ways.append([*steps, room_below])
    return None


def circles(edges):
    """For each import that is part of a circle the shortest one; each circle once."""
    below = {}
    for a, b in edges:
        below.setdefault(a, set()).add(b)
    found = {}
    for a, b in sorted(edges):
        if back := way(below, b, a):
            found.setdefault(frozenset(back), [a, *back])
    return list(found.values())


def unused_permissions(files):
    """Entries of the list of allowed words that nothing needs any more."""
    for file, stem in ALLOWED:
        if not any(word.startswith(stem) for _, word in words(files.get(file, ""))):
            yield f".ci/style.py:1: {file} does not use the word \"{stem}\" any more; take it off the list"


def check_rooms(files):
    """e) Circles of rooms, with the imports that make them."""
    imports = imports_of_rooms(files)
    for file, target in ACCEPTED_IMPORTS:
        if imports.get((room(file), target), {}).pop(file, None) is None:
            yield f".ci/style.py:1: {file} does not import `{target}` any more; take it off the list"
    imports = {edge: places for edge, places in imports.items() if places}
    for circle in circles(imports):
        places = [imports[edge] for edge in zip(circle, circle[1:])]
        lines = [f"{file}:{line}" for files_of_edge in places for file, line in files_of_edge.items()]
        yield f"{lines[0]}: a circle of rooms: {' -> '.join(circle)}; the imports: {' '.join(lines)}"


def tracked(root, patterns):
    """The tracked files that fit one of the patterns, with their texts."""
    command = ["git", "-C", root, "ls-files", "-z", "--", *patterns]
    names = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split("\0")
    return {name: (Path(root) / name).read_text(encoding="utf-8") for name in names if (Path(root) / name).is_file()}


def main():
    """Prints all violations; exits with status 1 if there is one."""
    root = sys.argv[1] if len(sys.argv) > 1 else "."
    rust, markdown = tracked(root, RUST), tracked(root, MARKDOWN)
    if not rust:
        sys.exit("no Rust source was found")
    found = set()
    for files, check in ((rust, check_rust), (markdown, check_markdown)):
        for file, text in files.items():
            found |= {(file, line, what) for line, what in check(file, text)}
    report = [f"{file}:{line}: {what}" for file, line, what in sorted(found)]
    report += unused_permissions(rust | markdown)
    report += check_rooms({file: text for file, text in rust.items() if file.startswith("src/")})
    print("\n".join(report) if report else f"{len(rust)} sources and {len(markdown)} documents follow the rules of style")
    sys.exit(1 if report else 0)


if __name__ == "__main__":
    main()
