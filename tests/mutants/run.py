"""Checks that the tests fail when a mechanism of `src/_docs/findings.md` is taken out.

Each patch in this folder takes out one mechanism, behind a switch: `crate::mutant("NAME")` is true if the variable
TINKEX_MUTANT is the name of the patch. The script applies all patches to one copy of the checkout, builds it once and runs
each test that a patch names with the switch of that patch. The test must fail within a minute, and pass without the switch.

    python3 tests/mutants/run.py                  runs all patches
    python3 tests/mutants/run.py --only N-02 g_cb runs the patches whose name, test or finding contains one of these words
    python3 tests/mutants/run.py --list           lists the patches

A patch begins with `Takes out: …` and lines of the form `Fails: FINDING …: TEST`. Its hunks are found by their text, which
must occur exactly once; line numbers are ignored. The copy is in the target folder; the checkout is not changed.
"""

import argparse
import concurrent.futures
import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import time

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent.parent
TARGET = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")).resolve()
TREE = TARGET / "mutants" / "tree"
CARGO = os.environ.get("CARGO", "cargo")
# A test must fail within this number of seconds.
BOUND = 60
# The tests' bound for their own waits, in seconds: well below BOUND.
HANG_TIMEOUT = 20
SWITCH = """
/// Tells if the mechanism with this name is taken out.
#[allow(dead_code)]
pub(crate) fn mutant(name: &str) -> bool {
    static CHOSEN: std::sync::OnceLock<Option<String>> = std::sync::OnceLock::new();
    CHOSEN.get_or_init(|| std::env::var("TINKEX_MUTANT").ok()).as_deref() == Some(name)
}
"""


class Patch:
    """One mechanism that can be taken out."""

    def __init__(self, path):
        self.name = path.stem
        self.what = ""
        # Pairs: findings, test.
        self.fails = []
        # Triples: file, old text, new text.
        self.hunks = []
        self.read(path.read_text(encoding="utf-8").splitlines())

    def read(self, lines):
        """Reads the header and the hunks. An empty line ends a hunk."""
        file, hunk = None, None
        for line in [*lines, ""]:
            if hunk is not None and line[:1] in (" ", "-", "+"):
                hunk.append(line)
                continue
            if hunk:
                old, new = ("".join(f"{it[1:]}\n" for it in hunk if it[0] in side) for side in (" -", " +"))
                self.hunks.append((file, old, new))
            hunk = None
            if line.startswith("Takes out: "):
                self.what = line.removeprefix("Takes out: ")
            elif line.startswith("Fails: "):
                findings, test = line.removeprefix("Fails: ").split(": ", 1)
                self.fails.append((findings, test))
            elif line.startswith("+++ b/"):
                file = line.removeprefix("+++ b/")
            elif line.startswith("@@ "):
                hunk = []
        if not (self.what and self.fails and self.hunks):
            sys.exit(f"{self.name}.patch is not complete")

    def applied(self, texts):
        """Returns the texts with this patch applied, or None if the old text of a hunk does not occur exactly once."""
        texts = dict(texts)
        for file, old, new in self.hunks:
            # Match only at the beginning of a line.
            text = "\n" + texts[file]
            if text.count("\n" + old) != 1:
                return None
            texts[file] = text.replace("\n" + old, "\n" + new)[1:]
        return texts

    def is_selected(self, words):
        """Tells if a name of the patch contains one of the words."""
        names = [self.name, *(text for row in self.fails for text in row)]
        return not words or any(word in name for word in words for name in names)


def sources(patches):
    """Reads the files that the patches change."""
    files = {file for patch in patches for file, _, _ in patch.hunks} | {"src/lib.rs"}
    return {it: (ROOT / it).read_text(encoding="utf-8") for it in files}


def batches(patches, alone):
    """Groups the patches that fit into one build; returns each group with the patched texts."""
    original = sources(patches)
    original["src/lib.rs"] += SWITCH
    groups = []
    for patch in patches:
        if patch.applied(original) is None:
            sys.exit(f"{patch.name}.patch does not fit: its old text must occur exactly once")
        for group in groups if not alone else []:
            texts = patch.applied(group[1])
            if texts is not None:
                group[0].append(patch)
                group[1] = texts
                break
        else:
            groups.append([[patch], patch.applied(original)])
    return groups


def renamed(file):
    """Returns a manifest or lock file with another crate version, so that cargo does not confuse the copy with the checkout."""
    return re.sub(r'(name = "tinkex"\nversion = "[^"]*)"', r'\1+mutants"', (ROOT / file).read_text(encoding="utf-8"))


def write(texts):
    """Makes the copy equal to the checkout with these texts. Unchanged files keep their modification time."""
    texts = {**texts, **{it: renamed(it) for it in ("Cargo.toml", "Cargo.lock")}}
    listed = subprocess.run(["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
                            cwd=ROOT, check=True, capture_output=True).stdout.decode().split("\0")
    wanted = {it for it in listed if it and (ROOT / it).is_file()}
    for it in wanted:
        content = texts[it].encode() if it in texts else (ROOT / it).read_bytes()
        place = TREE / it
        if not place.exists() or place.read_bytes() != content:
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(content)
    for place in [it for it in TREE.rglob("*") if it.is_file()]:
        if str(place.relative_to(TREE)) not in wanted:
            place.unlink()


def build():
    """Builds the tests of the copy; returns the program of each test."""
    command = [CARGO, "test", "--features", "testing", "--lib", "--test", "it", "--no-run", "--quiet",
               "--message-format", "json-render-diagnostics"]
    # Without debug info the build is faster.
    env = {**os.environ, "CARGO_TARGET_DIR": str(TARGET), "CARGO_PROFILE_DEV_DEBUG": "0"}
    done = subprocess.run(command, cwd=TREE, env=env, check=False, stdout=subprocess.PIPE, text=True)
    if done.returncode != 0:
        sys.exit("a patch does not compile")
    messages = [json.loads(it) for it in done.stdout.splitlines() if it.startswith("{")]
    programs = [it["executable"] for it in messages if it.get("executable") and it["profile"]["test"]]
    tests = {}
    for program in programs:
        listed = subprocess.run([program, "--list", "--format", "terse"], cwd=TREE, check=True,
                                capture_output=True, text=True).stdout
        tests.update({it.removesuffix(": test"): program for it in listed.splitlines() if it.endswith(": test")})
    return tests


def run(program, tests, mutant, limit):
    """Runs tests; returns the exit status, or None if they were killed at the limit, and the output."""
    env = {**os.environ, "TINKEX_HANG_TIMEOUT": str(HANG_TIMEOUT), "RUST_BACKTRACE": "0"}
    env.pop("TINKEX_MUTANT", None)
    if mutant:
        env["TINKEX_MUTANT"] = mutant
    with subprocess.Popen([program, "--exact", *tests], cwd=TREE, env=env, text=True, start_new_session=True,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as process:
        try:
            output, _ = process.communicate(timeout=limit)
            return process.returncode, output
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            return None, process.communicate()[0]


def judge(program, test, mutant):
    """Runs a test with its mechanism taken out; returns a verdict and the seconds it took."""
    begun = time.monotonic()
    status, output = run(program, [test], mutant, BOUND)
    took = time.monotonic() - begun
    if status is None:
        return "HANGS", took
    if status == 0:
        return "survives" if "1 passed" in output else "did not run", took
    # A stack overflow ends the process with a signal: a negative status.
    failed = f"test {test} ... FAILED" in output or status < 0 or "... FAILED" in output
    return ("dies" if failed else f"status {status}"), took


def table(rows):
    """Prints rows in columns."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    for row in rows:
        print("  ".join(text.ljust(width) for text, width in zip(row, widths)).rstrip())


def examine(group, jobs):
    """Builds the copy and runs the tests of these patches; returns the rows of the table, and True if each mutant dies."""
    tests = build()
    pairs = [(patch, findings, test) for patch in group for findings, test in patch.fails]
    missing = sorted({test for _, _, test in pairs} - set(tests))
    if missing:
        sys.exit(f"these tests do not exist: {missing}")
    healthy = set()
    for program in set(tests.values()):
        wanted = sorted({test for _, _, test in pairs if tests[test] == program})
        if wanted:
            _, output = run(program, wanted, None, 600)
            healthy |= {it for it in wanted if f"test {it} ... ok" in output}
    with concurrent.futures.ThreadPoolExecutor(jobs) as pool:
        verdicts = [pool.submit(judge, tests[test], test, patch.name) for patch, _, test in pairs]
        rows, good = [], True
        for (patch, findings, test), verdict in zip(pairs, verdicts):
            word, took = verdict.result()
            if test not in healthy:
                word = "fails anyway"
            good &= word == "dies"
            rows.append((patch.name, findings, word, f"{took:.1f}", test))
            print("  ".join(rows[-1]), flush=True)
    return rows, good


def main():
    """Exits with status 1 if a test does not fail in time without its mechanism."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", default=[], help="parts of the names of patches, findings or tests")
    parser.add_argument("--list", action="store_true", help="list the patches and exit")
    parser.add_argument("--alone", action="store_true", help="build each patch separately")
    parser.add_argument("--jobs", type=int, default=4, help="number of tests that run in parallel")
    options = parser.parse_args()
    patches = [Patch(it) for it in sorted(HERE.glob("*.patch"))]
    selected = [it for it in patches if it.is_selected(options.only)]
    if not selected:
        sys.exit("no patch matches --only")
    if options.list:
        return table([(it.name, it.what, test) for it in selected for _, test in it.fails])
    rows, good = [("patch", "findings", "verdict", "seconds", "test")], True
    # Build the other patches too, so that the next run with another selection needs no build.
    for group, texts in batches(selected if options.alone else patches, options.alone):
        group = [it for it in group if it in selected]
        if group:
            write(texts)
            more, all_die = examine(group, options.jobs)
            rows, good = rows + more, good and all_die
    print()
    table(rows)
    if not good:
        sys.exit("at least one mutant did not die")


if __name__ == "__main__":
    main()
