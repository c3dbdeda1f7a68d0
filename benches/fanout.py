"""Baseline of benches/fanout.rs: sends the same samples with the official Python SDK to the same server.

    TINKEX_FANOUT_ROLE="server each" cargo bench --bench fanout &    # prints the address of the server
    pip install tinker==0.38.0 && TINKER_BASE_URL=http://127.0.0.1:… python benches/fanout.py
"""

import json
import os
import resource
import time

import tinker

N, TOKENS = 2000, 256


def main():
    """Prints one line of JSON with the figures of the Rust bench, under the same names."""
    os.environ.setdefault("TINKER_API_KEY", "tml-bench")
    os.environ.setdefault("TINKER_TELEMETRY", "0")
    service = tinker.ServiceClient()
    sampler = service.create_sampling_client(base_model="fake/model").result()
    prompt = tinker.ModelInput.from_ints(list(range(TOKENS)))
    params = tinker.SamplingParams(max_tokens=TOKENS)
    usage = resource.getrusage(resource.RUSAGE_SELF)
    began, before = time.monotonic(), usage.ru_utime + usage.ru_stime
    pending = [sampler.sample(prompt, 1, params) for _ in range(N)]
    for sample in pending:
        assert len(sample.result().sequences[0].tokens) == TOKENS
    wall = time.monotonic() - began
    usage = resource.getrusage(resource.RUSAGE_SELF)
    cpu = usage.ru_utime + usage.ru_stime - before
    figures = {"mode": "python", "n": N, "wall_s": wall, "cpu_s": cpu, "cpu_ms_per_sample": cpu * 1e3 / N}
    print(json.dumps(figures | {"samples_per_s": N / wall, "rss_mb": usage.ru_maxrss / 1024}))


if __name__ == "__main__":
    main()
