"""Teaches a model pig latin and shows what it learned: train.c in Python, with cffi and without a compiled module.

    train.py [STEPS]

The declarations come from the header, preprocessed with -DTINKEX_CDEF. Log-probabilities are read as a numpy array over
the library's own memory if numpy is installed, else as an `array` with a copy. TINKEX_LIBRARY is the folder of the
library and TINKEX_HEADER the header, if they are not installed where the system looks.
"""

import array
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import cffi

try:
    import numpy
except ImportError:
    numpy = None

HERE = Path(__file__).resolve().parent
SETTINGS = (HERE / "pig_latin.h").read_text()
PAIRS = re.findall(r'\{"(\w+)", "(\w+)"\}', SETTINGS)
UNSEEN = re.findall(r'"(\w+)"', SETTINGS.split("UNSEEN[N_UNSEEN]")[1])
STEPS, MAX_TOKENS, N_TESTED = (int(re.search(rf"\b{name} = (\d+)", SETTINGS)[1]) for name in ("STEPS", "MAX_TOKENS", "N_TESTED"))
LEARNING_RATE = float(re.search(r"LEARNING_RATE = ([\d.e-]+)", SETTINGS)[1])


def load():
    """The library, and cffi's view of its header."""
    folder = os.environ.get("TINKEX_LIBRARY")
    name = {"darwin": "libtinkex.dylib", "win32": "tinkex.dll"}.get(sys.platform, "libtinkex.so")
    header = os.environ.get("TINKEX_HEADER", HERE.parent.parent / "src" / "ffi" / "tinkex.h")
    compiler = os.environ.get("CC", "cc")
    declarations = subprocess.run(
        [compiler, "-DTINKEX_CDEF", "-E", "-P", "-x", "c", str(header)], capture_output=True, text=True, check=True
    ).stdout
    ffi = cffi.FFI()
    ffi.cdef(declarations)
    return ffi, ffi.dlopen(os.path.join(folder, name) if folder else name)


ffi, lib = load()


class Error(Exception):
    """An error of the library. `code` is one of the header's TINKEX_ERROR_ constants."""

    def __init__(self, raw):
        super().__init__(text(lib.tinkex_error_message(raw)))
        self.code, self.path = lib.tinkex_error_code(raw), text(lib.tinkex_error_path(raw))


def text(pointer):
    """A borrowed text."""
    return ffi.string(pointer).decode() if pointer else None


def call(function, *arguments):
    """Calls a function with an error parameter, and raises its error. cffi releases the GIL during the call."""
    error = ffi.new("tinkex_error **")
    if function(*arguments, error) != lib.TINKEX_OK:
        try:
            raise Error(error[0])
        finally:
            lib.tinkex_error_free(error)


def owned(kind, function, *arguments):
    """What a function writes to its output, as an object that frees it in the end, or when it is released."""
    out = ffi.new(f"tinkex_{kind} **")
    call(function, *arguments, out)
    return freed(kind, out[0])


def freed(kind, raw):
    """Adds the free function of its kind to a pointer."""
    free = getattr(lib, f"tinkex_{kind}_free")
    return ffi.gc(raw, lambda raw: free(ffi.new(f"tinkex_{kind} **", raw)))


def wait(pending):
    """The result of an operation; valid as long as `pending` is."""
    result = ffi.new("const tinkex_result **")
    call(lib.tinkex_pending_wait, pending, -1, result)
    return result[0]


def encode(words):
    """Each byte is a token."""
    return ffi.new("int32_t[]", list(words.encode()))


def decode(tokens):
    """Without trailing white space; tokens that are not printable ASCII become dots."""
    plain = "".join(chr(token) if 32 <= token < 127 or token == 10 else "." for token in tokens)
    return plain.rstrip().replace(" ", ".").replace("\n", ".")


def floats(pointer, n):
    """Floats of the library: a view without a copy with numpy, else a copy."""
    memory = ffi.buffer(pointer, n * ffi.sizeof("float"))
    return numpy.frombuffer(memory, dtype=numpy.float32) if numpy else array.array("f", bytes(memory))


def ask(sampler, words):
    """Samples an answer to each word. All samples are in flight at the same time."""
    options = freed("sample_options", lib.tinkex_sample_options_new())
    lib.tinkex_sample_options_set_max_tokens(options, MAX_TOKENS)
    lib.tinkex_sample_options_set_temperature(options, 0)
    lib.tinkex_sample_options_set_stop_tokens(options, encode("\n"), 1)
    samples = []
    for word in words:
        prompt = encode(word + " -> ")
        samples.append(owned("pending", lib.tinkex_sampling_sample_tokens, sampler, prompt, len(prompt), 1, options))
    answers, n = [], ffi.new("size_t *")
    for sample in samples:
        tokens = lib.tinkex_result_tokens(wait(sample), 0, n)
        answers.append(decode(ffi.unpack(tokens, n[0]) if n[0] else []))
    return answers


def fill(batch):
    """Adds all pairs in one call: tokens, weights (0 in the prompt, 1 in the answer) and offsets. Returns the
    number of tokens."""
    tokens, weights, offsets = array.array("i"), array.array("f"), array.array("q", [0])
    for word, answer in PAIRS:
        prompt, answer = f"{word} -> ".encode(), f"{answer}\n".encode()
        tokens.extend(prompt + answer)
        weights.extend([0.0] * len(prompt) + [1.0] * len(answer))
        offsets.append(len(tokens))
    call(
        lib.tinkex_batch_add_weighted_many, batch, len(PAIRS), ffi.from_buffer("int64_t[]", offsets),
        ffi.from_buffer("int32_t[]", tokens), ffi.from_buffer("float[]", weights), ffi.NULL,
    )
    return len(tokens) - len(PAIRS)


def train(training, steps):
    """Trains, and returns the mean loss of the answers' tokens in the first and in the last step."""
    batch = freed("batch", lib.tinkex_batch_new())
    n_tokens = fill(batch)
    loss = owned("loss", lib.tinkex_loss_new, b"cross_entropy")
    adam = owned("optim", lib.tinkex_optim_new, b"adam")

    def submit(step):
        lib.tinkex_optim_set(adam, b"learning_rate", LEARNING_RATE * (1 - step / steps))
        step = owned("pending", lib.tinkex_training_forward_backward, training, batch, loss)
        return step, owned("pending", lib.tinkex_training_optim_step, training, adam)

    losses, started = [], time.monotonic()
    current = submit(0)
    for step in range(1, steps + 1):
        # The next step is submitted before waiting for this one, so that the server is not idle between them.
        following = submit(step) if step < steps else None
        result = wait(current[0])
        losses.append(lib.tinkex_result_metric(result, b"loss_per_token"))
        wait(current[1])
        if step % 25 == 0 or step == steps:
            speed = step * n_tokens / (time.monotonic() - started)
            print(f"  {step}/{steps} loss {losses[-1]:.3f} per token, {speed:.0f} tokens/s")
        if step == steps:
            offsets, values = ffi.new("const int64_t **"), ffi.new("const float **")
            call(lib.tinkex_result_outputs_f32, result, b"logprobs", offsets, values)
            logprobs = floats(values[0], offsets[0][len(PAIRS)])
            print(f"  {len(logprobs)} log-probabilities in {type(logprobs).__module__}, the lowest {min(logprobs):.2f}")
            del logprobs  # A view lives no longer than the pending.
        current = following
    return losses[0], losses[-1]


def run(steps):
    """The program, all of whose objects are freed when it returns: in the order in which Python drops them."""
    started = time.monotonic()
    options = ffi.NULL
    model = os.environ.get("TINKEX_BASE_MODEL", "tinkex/nano")
    server = None
    if "TINKER_API_KEY" not in os.environ:
        model = "tinkex/nano"
        server = owned("server", lib.tinkex_server_new, ffi.NULL)
        options = freed("service_options", lib.tinkex_service_options_new())
        lib.tinkex_service_options_set_base_url(options, lib.tinkex_server_url(server))
        lib.tinkex_service_options_set_api_key(options, lib.tinkex_server_api_key(server))
    service = owned("service", lib.tinkex_service_new, options)
    training = owned("training", lib.tinkex_training_new, service, model.encode(), ffi.NULL)

    words = [word for word, _ in PAIRS[:N_TESTED]]
    before = ask(owned("sampling", lib.tinkex_sampling_new, service, model.encode()), words)
    print(f"Answers of {model} before training:")
    for word, answer in zip(words, before):
        print(f"  {word:<10} {answer}")
    print(f"Training on {len(PAIRS)} words ...")
    first, last = train(training, steps)

    state = owned("pending", lib.tinkex_training_save_state, training, b"pig-latin", ffi.NULL)
    weights = owned("pending", lib.tinkex_training_save_for_sampler, training, b"pig-latin", ffi.NULL)
    sampler = owned("sampling", lib.tinkex_sampling_new, service, lib.tinkex_result_path(wait(weights)))
    after = ask(sampler, words)
    print(f"\n  {'word':<10} {'before':<14} {'after':<14} {'right answer':<14}")
    for (word, right), old, new in zip(PAIRS, before, after):
        print(f"  {word:<10} {old:<14} {new:<14} {right:<14} {'✓' if new == right else ' '}")
    print("\nWords that were not in the training data:")
    for word, answer in zip(UNSEEN, ask(sampler, UNSEEN)):
        print(f"  {word:<10} {answer}")
    print(f"\nSaved as {text(lib.tinkex_result_path(wait(state)))}")
    call(lib.tinkex_service_close, service, lib.TINKEX_CLOSE_SUCCESS, ffi.NULL)
    exact = sum(right == new for (_, right), new in zip(PAIRS, after))
    print(f"train: exact {exact}/{len(words)}, loss {first:.2f} -> {last:.2f}, {time.monotonic() - started:.1f} s")
    # The engine goes last.
    del state, weights, sampler, training, service
    del server


if __name__ == "__main__":
    try:
        run(int(sys.argv[1]) if len(sys.argv) > 1 else STEPS)
    except Error as error:
        sys.exit(f"train.py: {text(lib.tinkex_code_name(error.code))}: {error}")
    if lib.tinkex_live_objects() != 0:
        sys.exit(f"train.py: {lib.tinkex_live_objects()} objects were not freed")
