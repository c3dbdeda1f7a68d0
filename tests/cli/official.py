"""Compares the times of the official command `tinker` and of `tinkex`, on one scripted server in this process.

    cargo build --release --features cli --bin tinkex
    python3 tests/cli/official.py [--program target/release/tinkex] [--runs 7] [--delay-ms 0]

Measures the start (`--help`), a list of 1 000 checkpoints, and 200 deletions; prints the medians of several runs. The
official command is installed into the virtual environment of `.ci/python.py`.
"""

import argparse
import ast
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit

CI = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", ".ci")
sys.path.insert(0, CI)

from engine import environment, read  # noqa: E402  (the folder is known only now)

RUN = "0f0e0d0c-0000-4000-8000-000000000000:train:0"
N_LISTED, N_DELETED = 1000, 200


class Server(ThreadingHTTPServer):
    """The server. Its queue of new connections is as long as the clients have connections."""

    request_queue_size = 128
    daemon_threads = True


class Handler(BaseHTTPRequestHandler):
    """Answers as a server whose only run has `server.left` checkpoints."""

    protocol_version = "HTTP/1.1"
    # Otherwise the head and the body of an answer wait for each other's acknowledgement.
    wbufsize = -1
    disable_nagle_algorithm = True

    def do_GET(self):
        """Lists checkpoints, all of them or a page."""
        url = urlsplit(self.path)
        query = {name: int(values[0]) for name, values in parse_qs(url.query).items() if values[0].isdigit()}
        if not url.path.endswith("/checkpoints"):
            return self.answer(200, {})
        offset, limit = query.get("offset", 0), query.get("limit", N_LISTED)
        left = sorted(self.server.left)
        cursor = {"offset": offset, "limit": limit, "total_count": len(left)}
        page = [checkpoint(i) for i in left[offset : offset + limit]]
        return self.answer(200, {"checkpoints": page, "cursor": cursor})

    def do_POST(self):
        """Accepts everything else, such as a request for the flags."""
        self.answer(200, {})

    def do_DELETE(self):
        """Deletes a checkpoint."""
        found = re.search(r"/weights/step-(\d+)$", unquote(self.path))
        time.sleep(self.server.delay_s)
        with self.server.lock:
            known = found is not None and int(found[1]) in self.server.left
            if known:
                self.server.left.remove(int(found[1]))
        self.answer(204 if known else 404, None if known else {"detail": "not found"})

    def answer(self, status, body):
        """Reads the request to its end, then sends an answer."""
        self.rfile.read(int(self.headers.get("content-length", 0)))
        data = b"" if body is None else json.dumps(body).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        if status != 204:
            self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)
        self.wfile.flush()

    def log_message(self, *_):
        """Keeps quiet."""


def checkpoint(i):
    """The checkpoint of a number."""
    return {
        "checkpoint_id": f"weights/step-{i:04}",
        "checkpoint_type": "training",
        "time": f"2026-10-{1 + i % 28:02}T08:00:00+00:00",
        "tinker_path": f"tinker://{RUN}/weights/step-{i:04}",
        "size_bytes": 1_000_000_000,
        "public": False,
    }


def measure(command, env, runs, before=lambda: None, check=lambda text: True):
    """The median time of a command in seconds."""
    times = []
    for _ in range(runs):
        before()
        started = time.perf_counter()
        done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=120, check=False)
        times.append(time.perf_counter() - started)
        if done.returncode != 0 or not check(done.stdout):
            sys.exit(f"{' '.join(command)} ended with status {done.returncode}:\n{done.stdout[-500:]}{done.stderr[-2000:]}")
    return statistics.median(times)


def packages():
    """The packages of the virtual environment that `.ci/python.py` creates."""
    for node in ast.parse(read(os.path.join(CI, "python.py"))).body:
        if isinstance(node, ast.Assign) and node.targets[0].id == "PACKAGES":
            return ast.literal_eval(node.value)
    sys.exit(".ci/python.py has no PACKAGES")


def main():
    """Measures and prints a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--program", default="target/release/tinkex")
    parser.add_argument("--runs", type=int, default=7)
    parser.add_argument("--delay-ms", type=float, default=0.0, help="time that the server takes for a deletion")
    arguments = parser.parse_args()
    official = os.path.join(os.path.dirname(environment("python", packages())), "tinker")
    ours = os.path.abspath(arguments.program)

    server = Server(("127.0.0.1", 0), Handler)
    server.left, server.lock, server.delay_s = set(), threading.Lock(), arguments.delay_ms / 1000
    threading.Thread(target=server.serve_forever, daemon=True).start()

    def fill(n):
        server.left = set(range(n))

    def lists(n):
        return lambda text: len(json.loads(text)["checkpoints"]) == n

    def deletes(text):
        return json.loads(text)["deleted_count"] == N_DELETED and not server.left

    listing = ["-f", "json", "checkpoint", "list", "--limit", "0"]
    deleting = ["-f", "json", "checkpoint", "delete", "--run-id", RUN, "-y"]
    rows = []
    with tempfile.TemporaryDirectory(prefix="tinkex-official-") as home:
        env = {
            "HOME": home,
            "PATH": os.environ["PATH"],
            "TINKER_API_KEY": "tml-test",
            "TINKER_BASE_URL": f"http://127.0.0.1:{server.server_port}",
            "TINKER_TELEMETRY": "0",
        }

        def row(name, theirs, own, before=lambda: None, check=lambda text: True):
            times = [measure(it, env, arguments.runs, before, check) for it in ([official, *theirs], [ours, *own])]
            rows.append((name, *times))

        row("start (--help)", ["--help"], ["--help"])
        row(f"list {N_LISTED} checkpoints", listing, listing, lambda: fill(N_LISTED), lists(N_LISTED))
        for n in (4, 32):
            own = [*deleting, "--concurrency", str(n)]
            row(f"delete {N_DELETED}, ours {n} at once", deleting, own, lambda: fill(N_DELETED), deletes)
    server.shutdown()

    print(f"{'':32}{'tinker':>12}{'tinkex':>12}{'ratio':>9}")
    for name, theirs, own in rows:
        print(f"{name:32}{theirs * 1000:9.0f} ms{own * 1000:9.1f} ms{theirs / own:8.0f}x")


main()
