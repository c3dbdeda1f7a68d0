"""Takes out the mechanisms of `src/_docs/findings.md` one by one and sees whether the tests notice.

Each patch beside this file takes out one mechanism, behind a switch: `crate::mutant("NAME")` is true if the variable
TINKEX_MUTANT names the patch. So all of them are put into a copy of the checkout together, which is built once, and each
test that a patch names is run with that patch's switch. It must fail within a minute, and pass without the switch.

    python3 tests/mutants/run.py                  all of them
    python3 tests/mutants/run.py --only N-02 g_cb those whose name or test or finding contains one of these
    python3 tests/mutants/run.py --list           what there is

A patch begins with `Takes out: …` and lines of the form `Fails: FINDING …: TEST`. Its hunks are found by their text and not by their
line numbers, which may be stale; the text must occur once. The copy lies in the target folder; the checkout is not touched.
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
# A test must fail within so many seconds. The waits of tests that are bounded by their patience end well before that.
BOUND = 60
PATIENCE = 20
SWITCH = """
/// Whether the mechanism of this name is taken out.
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
        # Findings and test.
        self.fails = []
        # File, old text, new text.
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
        """The texts with this change in them, or None if a hunk does not occur exactly once."""
        texts = dict(texts)
        for file, old, new in self.hunks:
            # At the beginnings of lines only.
            text = "\n" + texts[file]
            if text.count("\n" + old) != 1:
                return None
            texts[file] = text.replace("\n" + old, "\n" + new)[1:]
        return texts

    def is_meant(self, words):
        """Whether one of the words names it."""
        names = [self.name, *(text for row in self.fails for text in row)]
        return not words or any(word in name for word in words for name in names)


def sources(patches):
    """The texts of all files that are changed."""
    files = {file for patch in patches for file, _, _ in patch.hunks} | {"src/lib.rs"}
    return {it: (ROOT / it).read_text(encoding="utf-8") for it in files}


def batches(patches, alone):
    """Groups of patches that can be in one build, with the texts of their files."""
    original = sources(patches)
    original["src/lib.rs"] += SWITCH
    groups = []
    for patch in patches:
        if patch.applied(original) is None:
            sys.exit(f"{patch.name}.patch does not fit any more: what it changes must occur once")
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
    """A manifest or lock file with another version of the crate, so that cargo never takes the copy for the checkout."""
    return re.sub(r'(name = "tinkex"\nversion = "[^"]*)"', r'\1+mutants"', (ROOT / file).read_text(encoding="utf-8"))


def write(texts):
    """Makes the copy equal to the checkout with these texts. Files that stay as they are keep their time."""
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
    """Builds the tests of the copy; each test with the program that has it."""
    command = [CARGO, "test", "--features", "testing", "--lib", "--test", "it", "--no-run", "--quiet",
               "--message-format", "json-render-diagnostics"]
    # Without what nobody debugs it is built sooner.
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
    """Runs tests; the exit status, None if they had to be killed, and the output."""
    env = {**os.environ, "TINKEX_TEST_PATIENCE": str(PATIENCE), "RUST_BACKTRACE": "0"}
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
    """What becomes of a test whose mechanism is taken out, and in how many seconds."""
    begun = time.monotonic()
    status, output = run(program, [test], mutant, BOUND)
    took = time.monotonic() - begun
    if status is None:
        return "HANGS", took
    if status == 0:
        return "survives" if "1 passed" in output else "did not run", took
    # A stack that overflows ends the process.
    failed = f"test {test} ... FAILED" in output or status < 0 or "... FAILED" in output
    return ("dies" if failed else f"status {status}"), took


def table(rows):
    """Prints rows in columns."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    for row in rows:
        print("  ".join(text.ljust(width) for text, width in zip(row, widths)).rstrip())


def examine(group, jobs):
    """Builds the copy and runs the tests of these patches; the rows of the table, and whether all is well."""
    tests = build()
    pairs = [(patch, findings, test) for patch in group for findings, test in patch.fails]
    missing = sorted({test for _, _, test in pairs} - set(tests))
    if missing:
        sys.exit(f"there are no such tests: {missing}")
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
    """Exit status 1 if a mechanism can be taken out without its test failing in time."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", default=[], help="parts of names of patches, findings or tests")
    parser.add_argument("--list", action="store_true", help="say what there is, and do nothing")
    parser.add_argument("--alone", action="store_true", help="a build for each patch")
    parser.add_argument("--jobs", type=int, default=4, help="tests that run side by side")
    options = parser.parse_args()
    patches = [Patch(it) for it in sorted(HERE.glob("*.patch"))]
    meant = [it for it in patches if it.is_meant(options.only)]
    if not meant:
        sys.exit("there is no such patch")
    if options.list:
        return table([(it.name, it.what, test) for it in meant for _, test in it.fails])
    rows, good = [("patch", "findings", "verdict", "seconds", "test")], True
    # Those that are not meant are in the build as well, so that the next run need not build it again.
    for group, texts in batches(meant if options.alone else patches, options.alone):
        group = [it for it in group if it in meant]
        if group:
            write(texts)
            more, well = examine(group, options.jobs)
            rows, good = rows + more, good and well
    print()
    table(rows)
    if not good:
        sys.exit("not every mutant dies")


if __name__ == "__main__":
    main()
