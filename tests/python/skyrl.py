"""Runs the doctor and the quickstart against the SkyRL servers of PyPI, which run on the CPU and without torch. The doctor must
find nothing broken, and the quickstart must train.

    python3.12 tests/python/skyrl.py 0.3            # SkyRL-tx 0.3.0, which reads only JSON
    python3.12 tests/python/skyrl.py 0.4            # SkyRL 0.4.0, which reads protobuf too
    python3.12 tests/python/skyrl.py 0.3 serve      # only starts the server, until it is interrupted
    python3.12 tests/python/skyrl.py 0.3 record     # writes its answers to each verb down, to tests/data/skyrl/0.3.jsonl
    python3.12 tests/python/skyrl.py 0.4 record-doctor  # writes a whole run of the doctor down, to .../0.4-doctor.jsonl

`record-doctor` runs the doctor through a proxy that keeps every exchange. A line of the file is one exchange, in the order in
which the requests arrived: `method` and `path`; where there is such a thing `asks`, what else tells the request from others to
the same path (the promise that is waited for, the model that is saved, the loss of a pass, what is wanted of a sample); then
the answer: `status`, `type`, `location` where it has one, and `body`, or `base64` where the body is no text. Two kinds of
exchanges are left out because they say nothing new: each further answer that a promise is not kept yet, and each further
heartbeat. What the doctor asks or not, depending on how fast the server is, stands at the end if it did not ask: results that
it did not wait for, and one `cancel_future`. The model is called `base/model`, the server's address `http://skyrl.test` and
its folder `/skyrl`. The file is written only if the doctor found nothing broken. `tests/it/doctor.rs` replays it.

Run it by hand from the root of the repository, with Python 3.12 or later. The first run needs PyPI. All output is in
`target/skyrl`. The base model is a Qwen3 with two layers and random weights, which the script makes; each token is a byte.
"""

import array
import base64
import http.client
import http.server
import json
import os
import random
import re
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
import venv

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
HOME = os.path.join(os.environ.get("CARGO_TARGET_DIR", os.path.join(ROOT, "target")), "skyrl")

# Packages that both generations need. SkyRL itself is installed without its dependencies, which include torch.
COMMON = ["fastapi", "uvicorn", "sqlmodel", "sqlalchemy[asyncio]", "aiosqlite", "jax>=0.8,<1", "optax>=0.2.5", "safetensors",
          "rich", "cloudpathlib", "pillow", "httpx", "aiohttp", "psutil"]
GENERATIONS = {
    "0.3": {
        "package": "skyrl-tx==0.3.0",
        "module": "tx.tinker.api",
        "needs": COMMON + ["flax>=0.12.2", "transformers>=4.56.1,<5"],
    },
    "0.4": {
        "package": "skyrl==0.4.0",
        "module": "skyrl.tinker.api",
        "needs": COMMON + ["flax>=0.12.10", "transformers>=5.6.1,<=5.16.1", "tinker>=0.25,<0.26", "zstandard", "xxhash"],
    },
}

# SkyRL uses `peft` only to write an adapter's config file, and `torch` only for the type of images.
STUBS = {
    "torch": "",
    "peft": """import json, os

class LoraConfig:
    def __init__(self, **fields):
        self.fields = fields

    def save_pretrained(self, folder):
        with open(os.path.join(folder, "adapter_config.json"), "w") as file:
            json.dump({"peft_type": "LORA", **self.fields}, file)
""",
}

# Replaces `uv`, with which the server starts its engine. SkyRL 0.4 also inspects how it was started itself, so the shell must
# remain the parent of the server.
UV = """#!/bin/sh
while [ "$1" != -m ]; do shift; done
case "$2" in
*.engine) exec "{python}" "$@" ;;
*) "{python}" "$@" ;;
esac
"""

HIDDEN, LAYERS, HEADS, KV_HEADS, HEAD_DIM, MLP, VOCABULARY = 64, 2, 4, 2, 16, 128, 258
END_OF_TEXT = 256


def install(generation):
    """Creates a virtual environment with the server; returns its interpreter."""
    home = os.path.join(HOME, "venv-" + generation)
    python = os.path.join(home, "bin", "python")
    done = os.path.join(home, "done")
    if not os.path.exists(done):
        venv.create(home, with_pip=True)
        pip = [python, "-m", "pip", "install", "--quiet"]
        spec = GENERATIONS[generation]
        subprocess.run(pip + spec["needs"], check=True)
        subprocess.run(pip + ["--no-deps", spec["package"]], check=True)
        open(done, "w").close()
    for name, text in STUBS.items():
        write(os.path.join(HOME, "stubs", name, "__init__.py"), text)
    uv = os.path.join(home, "bin", "uv")
    write(uv, UV.format(python=python))
    os.chmod(uv, 0o755)
    return python


def write(path, text):
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "w", encoding="utf-8") as file:
        file.write(text)


def make_model(folder):
    """Writes a Qwen3 model with random weights and a byte tokenizer."""
    config = {
        "architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3", "hidden_size": HIDDEN, "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS, "num_key_value_heads": KV_HEADS, "head_dim": HEAD_DIM, "intermediate_size": MLP,
        "vocab_size": VOCABULARY, "rms_norm_eps": 1e-6, "rope_theta": 10000.0, "max_position_embeddings": 2048,
        "tie_word_embeddings": False, "attention_bias": False, "hidden_act": "silu", "dtype": "float32",
        "torch_dtype": "float32", "bos_token_id": END_OF_TEXT, "eos_token_id": END_OF_TEXT,
    }
    write(os.path.join(folder, "config.json"), json.dumps(config, indent=1))
    shapes = {"model.embed_tokens.weight": [VOCABULARY, HIDDEN], "model.norm.weight": [HIDDEN],
              "lm_head.weight": [VOCABULARY, HIDDEN]}
    for i in range(LAYERS):
        layer = f"model.layers.{i}."
        for name, rows in [("q", HEADS), ("k", KV_HEADS), ("v", KV_HEADS)]:
            shapes[f"{layer}self_attn.{name}_proj.weight"] = [rows * HEAD_DIM, HIDDEN]
        shapes[layer + "self_attn.o_proj.weight"] = [HIDDEN, HEADS * HEAD_DIM]
        shapes[layer + "self_attn.q_norm.weight"] = shapes[layer + "self_attn.k_norm.weight"] = [HEAD_DIM]
        shapes[layer + "mlp.gate_proj.weight"] = shapes[layer + "mlp.up_proj.weight"] = [MLP, HIDDEN]
        shapes[layer + "mlp.down_proj.weight"] = [HIDDEN, MLP]
        shapes[layer + "input_layernorm.weight"] = shapes[layer + "post_attention_layernorm.weight"] = [HIDDEN]
    write_safetensors(os.path.join(folder, "model.safetensors"), shapes)
    write_tokenizer(folder)


def write_safetensors(path, shapes):
    """Writes random weights from a fixed seed; the weights of norms are 1."""
    draw = random.Random(0)
    head, data = {}, bytearray()
    for name, shape in shapes.items():
        n = shape[0] * (shape[1] if 1 < len(shape) else 1)
        scale = 1.0 / shape[1] ** 0.5 if 1 < len(shape) else 0.0
        values = array.array("f", (draw.gauss(0.0, scale) if scale else 1.0 for _ in range(n)))
        head[name] = {"dtype": "F32", "shape": shape, "data_offsets": [len(data), len(data) + 4 * n]}
        data += values.tobytes()
    text = json.dumps(head).encode()
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text + data)


def write_tokenizer(folder):
    """Writes a tokenizer in which the id of a byte is the byte. As usual for byte-level tokenizers, printable characters
    stand for the bytes that are not printable."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [it for it in range(256) if it not in plain]
    names = {it: chr(it) for it in plain} | {it: chr(256 + i) for i, it in enumerate(others)}
    special = [{"id": END_OF_TEXT + i, "content": text, "single_word": False, "lstrip": False, "rstrip": False,
                "normalized": False, "special": True} for i, text in enumerate(["<|endoftext|>", "<|im_end|>"])]
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    tokenizer = {
        "version": "1.0", "truncation": None, "padding": None, "added_tokens": special, "normalizer": None,
        "pre_tokenizer": byte_level, "post_processor": None, "decoder": byte_level,
        "model": {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None,
                  "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False,
                  "vocab": {name: byte for byte, name in names.items()}, "merges": []},
    }
    write(os.path.join(folder, "tokenizer.json"), json.dumps(tokenizer))
    write(os.path.join(folder, "tokenizer_config.json"), json.dumps({
        "tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<|endoftext|>", "pad_token": "<|endoftext|>"}))


class Server:
    """A running server with its engine, in a folder of its own."""

    def __init__(self, generation):
        python = install(generation)
        self.folder = os.path.join(HOME, f"run-{generation}-{os.getpid()}")
        self.model = os.path.join(self.folder, "model")
        make_model(self.model)
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        log = os.path.join(self.folder, "log.txt")
        bin = os.path.dirname(python)
        command = [
            os.path.join(bin, "uv"), "run", "-m", GENERATIONS[generation]["module"], "--host", "127.0.0.1",
            "--port", str(self.port), "--base-model", self.model, "--backend", "jax",
            "--checkpoints-base", os.path.join(self.folder, "checkpoints"),
            "--database-url", "sqlite:///" + os.path.join(self.folder, "server.db"),
        ]
        env = os.environ | {
            "PATH": bin + os.pathsep + os.environ["PATH"], "PYTHONPATH": os.path.join(HOME, "stubs"),
            "JAX_PLATFORMS": "cpu", "HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "TMPDIR": self.folder,
        }
        print(f"starting {GENERATIONS[generation]['package']} at {self.url}; its log is {log}", flush=True)
        with open(log, "wb") as out:
            self.process = subprocess.Popen(["nice", "-n", "5", *command], env=env, stdout=out, stderr=out,
                                            cwd=self.folder, start_new_session=True)
        self.await_answer()

    def await_answer(self):
        for _ in range(600):
            if self.process.poll() is not None:
                sys.exit("the server ended; see its log")
            try:
                return self.get("/api/v1/healthz")
            except OSError:
                time.sleep(0.5)
        sys.exit("the server does not answer; see its log")

    def get(self, path):
        with urllib.request.urlopen(self.url + path, timeout=60) as answer:
            return json.load(answer)

    def stop(self):
        try:
            os.killpg(self.process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        self.process.wait()


def free_port():
    with socket.socket() as it:
        it.bind(("127.0.0.1", 0))
        return it.getsockname()[1]


def run_example(name, env):
    """Runs an example of the crate; returns whether it ended well, and what it printed."""
    command = ["cargo", "run", "--quiet", "--all-features", "--example", name]
    output = ""
    with subprocess.Popen(command, cwd=ROOT, env=os.environ | env, stdout=subprocess.PIPE, text=True) as process:
        for line in process.stdout:
            print(line, end="", flush=True)
            output += line
    return process.returncode == 0, output


def attempt(server):
    """The doctor and the quickstart; returns whether both are content."""
    env = {"TINKER_BASE_URL": server.url, "TINKER_API_KEY": "tml-any", "TINKEX_BASE_MODEL": server.model,
           "TINKEX_DOCTOR_SECONDS": "120"}
    ok = True
    for example, last in [("doctor", NOTHING_BROKEN), ("quickstart", r"loss ([0-9.]+) -> ([0-9.]+)")]:
        fine, output = run_example(example, env)
        found = re.search(last, output)
        fine = fine and found is not None
        if fine and found.groups():
            # A model with random weights never reaches the exact answers; a falling loss shows that it trains.
            fine = float(found[2]) < 0.7 * float(found[1])
        print(f"{example}: {'passed' if fine else 'FAILED'}", flush=True)
        ok = ok and fine
    return ok


NOTHING_BROKEN = r"doctor: .* 0 broken"


class Recorder:
    """Sends requests to the server and writes its responses to a file."""

    def __init__(self, server, out):
        self.server, self.out = server, out

    def record(self, verb, method, path, body=None, promised=False):
        """Records the response to one verb and, if it is a promise (`promised`), the result too."""
        status, kind, answer = self.exchange(method, path, body)
        line = {"verb": verb, "method": method, "path": path, "status": status, "type": kind} | written(answer)
        reply = {}
        if kind.startswith("application/json"):
            reply = json.loads(answer or b"{}")
        if promised and status == 200:
            wanted = {"request_id": reply["request_id"]}
            status, kind, answer = self.exchange("POST", "/api/v1/retrieve_future", wanted, protobuf=True)
            line["result"] = {"status": status, "type": kind} | written(answer)
            if kind.startswith("application/json"):
                reply = json.loads(answer) | {"request_id": wanted["request_id"]}
        # Replace the local path of the model, which means nothing on other machines.
        text = json.dumps(line, ensure_ascii=False).replace(self.server.model, "base/model")
        self.out.write(text.replace(self.server.url, "http://skyrl.test") + "\n")
        return reply

    def exchange(self, method, path, body, protobuf=False):
        head = {"X-API-Key": "tml-any", "Accept": "application/x-protobuf, application/json" if protobuf else "application/json"}
        if isinstance(body, bytes):
            head["Content-Type"] = "application/x-protobuf"
        elif body is not None:
            head["Content-Type"], body = "application/json", json.dumps(body).encode()
        request = urllib.request.Request(self.server.url + path, body, head, method=method)
        try:
            with OPENER.open(request, timeout=300) as answer:
                return answer.status, answer.headers.get("Content-Type", ""), answer.read()
        except urllib.error.HTTPError as answer:
            return answer.code, answer.headers.get("Content-Type", ""), answer.read()


class NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *args):
        return None


OPENER = urllib.request.build_opener(NoRedirect)


def written(answer):
    try:
        return {"body": answer.decode()}
    except UnicodeDecodeError:
        return {"base64": base64.b64encode(answer).decode()}


TOKENS = [72, 105, 33, 32]


def pass_json(key, model_id, seq_id, loss="cross_entropy"):
    data = {"model_input": {"chunks": [{"type": "encoded_text", "tokens": TOKENS[:-1]}]}, "loss_fn_inputs": {
        "target_tokens": {"data": TOKENS[1:], "dtype": "int64", "shape": [3]},
        "weights": {"data": [0.0, 1.0, 1.0], "dtype": "float32", "shape": [3]}}}
    return {"model_id": model_id, "seq_id": seq_id, key: {"data": [data], "loss_fn": loss, "loss_fn_config": None}}


def pass_protobuf(model_id, seq_id, loss="cross_entropy", forward_only=False):
    def field(number, payload):
        return bytes([number << 3 | 2, len(payload)]) + payload

    def tensor(name, payload, dtype):
        value = field(1, payload) + bytes([3 << 3, dtype]) + field(4, bytes([3]))
        return field(2, field(1, name) + field(2, value))

    datum = field(1, field(1, field(1, struct.pack("<3i", *TOKENS[:-1])))) \
        + tensor(b"target_tokens", struct.pack("<3q", *TOKENS[1:]), 2) \
        + tensor(b"weights", struct.pack("<3f", 0.0, 1.0, 1.0), 1)
    call = field(1, model_id.encode()) + bytes([2 << 3, seq_id]) + field(3, datum) + field(4, loss.encode())
    return call + (bytes([6 << 3, 1]) if forward_only else b"")


def record_all(server, generation):
    """Records the response of the server to each verb."""
    path = os.path.join(ROOT, "tests", "data", "skyrl", generation + ".jsonl")
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "w", encoding="utf-8") as out:
        record = Recorder(server, out).record
        api = "/api/v1/"
        record("client/config", "POST", api + "client/config", {"sdk_version": "0.38.0"})
        record("client/dynamic_config", "POST", api + "client/dynamic_config", {"sdk_version": "0.38.0"})
        record("get_server_capabilities", "GET", api + "get_server_capabilities")
        session = record("create_session", "POST", api + "create_session", {
            "tags": [], "user_metadata": {}, "sdk_version": "0.38.0", "type": "create_session"})["session_id"]
        record("session_heartbeat", "POST", api + "session_heartbeat", {"session_id": session, "type": "session_heartbeat"})
        model = record("create_model", "POST", api + "create_model", {
            "session_id": session, "model_seq_id": 0, "base_model": server.model, "type": "create_model",
            "lora_config": {"rank": 8, "train_unembed": True, "train_mlp": True, "train_attn": True},
            "optimizer_config": {"type": "adamw"}}, promised=True)["model_id"]
        record("get_info", "POST", api + "get_info", {"model_id": model, "type": "get_info"})
        record("forward_backward", "POST", api + "forward_backward", pass_protobuf(model, 1), promised=True)
        record("forward, protobuf", "POST", api + "forward_backward", pass_protobuf(model, 2, forward_only=True), promised=True)
        record("forward_backward, loss dro", "POST", api + "forward_backward", pass_protobuf(model, 3, "dro"), promised=True)
        record("forward_backward, JSON", "POST", api + "forward_backward",
               pass_json("forward_backward_input", model, 4), promised=True)
        record("forward, JSON", "POST", api + "forward", pass_json("forward_input", model, 5), promised=True)
        record("forward_backward, JSON, loss dro", "POST", api + "forward_backward",
               pass_json("forward_backward_input", model, 6, "dro"), promised=True)
        record("optim_step", "POST", api + "optim_step", {
            "model_id": model, "seq_id": 7, "type": "optim_step", "adam_params": {
                "learning_rate": 1e-4, "beta1": 0.9, "beta2": 0.95, "eps": 1e-12, "weight_decay": 0.0,
                "grad_clip_norm": 0.0}}, promised=True)
        save = {"model_id": model, "path": "state", "seq_id": 8, "overwrite": True, "type": "save_weights"}
        saved = record("save_weights", "POST", api + "save_weights", save, promised=True)["path"]
        record("save_weights, again", "POST", api + "save_weights", save | {"seq_id": 9}, promised=True)
        save = {"model_id": model, "path": "weights", "seq_id": 10, "kind": "snapshot", "type": "save_weights_for_sampler"}
        weights = record("save_weights_for_sampler", "POST", api + "save_weights_for_sampler", save, promised=True)["path"]
        save = {"model_id": model, "sampling_session_seq_id": 0, "kind": "snapshot", "seq_id": 11,
                "type": "save_weights_for_sampler"}
        record("save_weights_for_sampler, unnamed", "POST", api + "save_weights_for_sampler", save, promised=True)
        record("load_weights, create", "POST", api + "load_weights", {
            "session_id": session, "model_seq_id": 1, "path": saved, "optimizer": False, "type": "load_weights"}, promised=True)
        record("weights_info", "POST", api + "weights_info", {"tinker_path": saved})
        second = record("create_model, second", "POST", api + "create_model", {
            "session_id": session, "model_seq_id": 2, "base_model": server.model, "type": "create_model",
            "lora_config": {"rank": 8}}, promised=True)["model_id"]
        record("load_weights", "POST", api + "load_weights", {
            "model_id": second, "seq_id": 1, "path": saved, "optimizer": True, "type": "load_weights"}, promised=True)
        sampler = record("create_sampling_session", "POST", api + "create_sampling_session", {
            "session_id": session, "sampling_session_seq_id": 1, "model_path": weights,
            "type": "create_sampling_session"})["sampling_session_id"]
        record("samplers/{id}", "GET", api + "samplers/" + sampler)
        record("asample", "POST", api + "asample", {
            "num_samples": 1, "prompt": {"chunks": [{"tokens": TOKENS[:3], "type": "encoded_text"}]},
            "sampling_params": {"max_tokens": 4, "temperature": 1.0, "top_k": -1, "top_p": 1.0, "seed": 1},
            "sampling_session_id": sampler, "seq_id": 0, "prompt_logprobs": True, "type": "sample"}, promised=True)
        record("training_runs", "GET", api + "training_runs?limit=20&offset=0")
        record("training_runs/{id}", "GET", api + "training_runs/" + model)
        record("training_runs/{id}/checkpoints", "GET", f"{api}training_runs/{model}/checkpoints")
        record("archive", "GET", f"{api}training_runs/{model}/checkpoints/weights/archive")
        record("delete", "DELETE", f"{api}training_runs/{model}/checkpoints/weights/state")
        record("unload_model", "POST", api + "unload_model", {"model_id": model, "type": "unload_model"}, promised=True)
        record("finish", "POST", f"{api}sessions/{session}/finish", {"reason": {"type": "success"}})
    print(f"wrote {path}")


class Proxy:
    """Carries requests to a server and keeps every exchange."""

    def __init__(self, server):
        self.kept, self.lock = [], threading.Lock()
        proxy = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def carry(self):
                if "chunked" in self.headers.get("Transfer-Encoding", ""):
                    raise ValueError("the length of a request is not known in advance, and this proxy needs it")
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                line = proxy.arrived(self.command, self.path, body)
                # An answer that is not compressed is what a replay can give. The address is this proxy's.
                head = {name: value for name, value in self.headers.items()
                        if name.lower() not in ("host", "connection", "accept-encoding")}
                upstream = http.client.HTTPConnection("127.0.0.1", server.port, timeout=600)
                try:
                    upstream.request(self.command, self.path, body, head)
                    answer = upstream.getresponse()
                    payload = answer.read()
                finally:
                    upstream.close()
                proxy.answered(line, answer, payload)
                self.send_response(answer.status)
                for name, value in answer.getheaders():
                    if name.lower() not in ("connection", "content-length", "transfer-encoding", "date", "server"):
                        self.send_header(name, value)
                self.send_header("Content-Length", str(len(payload)))
                self.end_headers()
                self.wfile.write(payload)

            do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = carry

            def log_message(self, *args):
                pass

        class Listener(http.server.ThreadingHTTPServer):
            daemon_threads = True
            request_queue_size = 128

            def handle_error(self, request, client):
                # A client that gave its request up is no error of the proxy.
                if not isinstance(sys.exception(), ConnectionError):
                    super().handle_error(request, client)

        self.listener = Listener(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.listener.server_port}"
        threading.Thread(target=self.listener.serve_forever, daemon=True).start()

    def arrived(self, method, path, body):
        # The hours in the query of a bill are those of the recording, and no replay asks for them again.
        line = {"method": method, "path": path.partition("?")[0] if "/billing/" in path else path}
        if asks := what_is_asked(path, body):
            line["asks"] = asks
        with self.lock:
            self.kept.append(line)
        return line

    def answered(self, line, answer, payload):
        if answer.getheader("Content-Encoding"):
            raise ValueError("an answer is compressed though nobody asked for that")
        kind = answer.getheader("Content-Type", "")
        found = {"status": answer.status, "type": kind}
        if location := answer.getheader("Location"):
            found["location"] = location
        # What is no text may still look like text.
        is_text = "protobuf" not in kind and "octet-stream" not in kind
        found |= written(payload) if is_text else {"base64": base64.b64encode(payload).decode()}
        with self.lock:
            line.update(found)

    def exchanges(self):
        """Those that were answered. The others were given up by the client."""
        with self.lock:
            return [dict(line) for line in self.kept if "status" in line]

    def complete(self):
        """Asks for what a run asks or not, as it happens: every result that nobody waited for, and the end of one."""
        lines = self.exchanges()
        done = {line["asks"]["request_id"] for line in lines if is_wait(line) and not is_not_yet(line)}
        promises = [promise for promise in map(promise_of, lines) if promise]
        for promise in promises:
            while promise not in done:
                self.ask("retrieve_future", promise)
                done |= {it["asks"]["request_id"] for it in self.exchanges() if is_wait(it) and not is_not_yet(it)}
        if promises and not any(line["path"] == "/api/v1/cancel_future" for line in lines):
            self.ask("cancel_future", promises[-1])

    def ask(self, verb, promise):
        head = {"X-API-Key": "tml-any", "Content-Type": "application/json",
                "Accept": "application/x-protobuf, application/json"}
        body = json.dumps({"request_id": promise}).encode()
        try:
            request = urllib.request.Request(self.url + "/api/v1/" + verb, body, head, method="POST")
            OPENER.open(request, timeout=600).close()
        except urllib.error.HTTPError as answer:
            answer.close()


def what_is_asked(path, body):
    """What tells a request from others to the same path."""
    verb = path.removeprefix("/api/v1/")
    if verb == "retrieve_future":
        return {"request_id": json.loads(body)["request_id"]}
    if verb == "save_weights":
        # How often a refused one is tried again depends on the time that it takes; the next one is another model's.
        return {"model_id": json.loads(body)["model_id"]}
    if verb in ("forward_backward", "forward"):
        loss = re.search(rb"cross_entropy|importance_sampling|cispo|ppo|dro|gspo", body)
        return {"loss_fn": loss[0].decode()} if loss else None
    if verb == "asample":
        ids = ("prompt", "sampling_session_id", "seq_id", "type")
        return {name: value for name, value in json.loads(body).items() if name not in ids}
    return None


def is_wait(line):
    return line["path"] == "/api/v1/retrieve_future"


def is_not_yet(line):
    return line["status"] == 408 or '"try_again"' in line.get("body", "")


def promise_of(line):
    """The number of the promise that an answer is."""
    if is_wait(line) or line["status"] != 200 or not line["type"].startswith("application/json"):
        return None
    reply = json.loads(line.get("body") or "null")
    return reply.get("request_id") if isinstance(reply, dict) else None


def record_doctor(server, generation):
    """Writes down a whole run of the doctor; returns whether it found nothing broken."""
    proxy = Proxy(server)
    fine, output = run_example("doctor", {
        "TINKER_BASE_URL": proxy.url, "TINKER_API_KEY": "tml-any", "TINKEX_BASE_MODEL": "", "TINKEX_DOCTOR_SECONDS": "300"})
    if not fine or not re.search(NOTHING_BROKEN, output):
        print("nothing is written: the doctor is not content")
        return False
    proxy.complete()
    path = os.path.join(ROOT, "tests", "data", "skyrl", generation + "-doctor.jsonl")
    said, texts = set(), []
    for line in proxy.exchanges():
        again = None
        if is_wait(line) and is_not_yet(line):
            again = line["asks"]["request_id"]
        elif line["path"] == "/api/v1/session_heartbeat":
            again = "heartbeat"
        if again not in said:
            text = json.dumps(line, ensure_ascii=False)
            for own, other in [(server.model, "base/model"), (server.folder, "/skyrl"), (server.url, "http://skyrl.test")]:
                text = text.replace(own, other)
            for own in [HOME, ROOT, "127.0.0.1", "localhost"]:
                if own in text or own.encode() in base64.b64decode(line.get("base64", "")):
                    sys.exit(f"the recording would name {own}: {text}")
            texts.append(text + "\n")
        if again:
            said.add(again)
    with open(path, "w", encoding="utf-8") as out:
        out.writelines(texts)
    print(f"wrote {path}: {len(texts)} exchanges")
    return True


def main():
    if len(sys.argv) < 2 or sys.argv[1] not in GENERATIONS:
        sys.exit(__doc__)
    generation, mode = sys.argv[1], (sys.argv[2:] or ["try"])[0]
    server, ok = Server(generation), True
    try:
        if mode == "serve":
            print(f"TINKER_BASE_URL={server.url} TINKER_API_KEY=tml-any TINKEX_BASE_MODEL={server.model}", flush=True)
            signal.pause()
        elif mode == "record":
            record_all(server, generation)
        elif mode == "record-doctor":
            ok = record_doctor(server, generation)
        else:
            ok = attempt(server)
    except KeyboardInterrupt:
        pass
    finally:
        server.stop()
    sys.exit(0 if ok else 1)


if __name__ == "__main__":
    main()
