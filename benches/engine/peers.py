"""The same training steps and samples as the bench `engine`, on the CPU, with other programs.

Started by `cargo bench --bench engine --features local -- --python PATH --jax PATH --llama PATH`. Arguments: the program,
`torch`, `jax` or `llama`, and the number of threads. `torch` needs the packages `torch`, `transformers` and `peft`, `jax`
needs `jax`, and `llama` needs `xllamacpp` and `gguf`. Reads one job a line from standard input, as JSON, and answers each with one line:

  {"folder": "…", "batch": 8, "tokens": 128, "steps": 4}  ->  the milliseconds of each step
  {"folder": "…", "streams": 32, "tokens": 128}           ->  tokens per second

The folder has a model with random weights in bf16. A step of `torch` and `jax` is a forward and a backward pass in f32 with the
cross entropy of every token, and a step of AdamW, on LoRA matrices of rank 32 on all projections and the head. Samples
of both programs use the weights in bf16.
"""

import functools
import json
import os
import sys
import threading
import time
import warnings

warnings.filterwarnings("ignore")
THREADS = int(sys.argv[2])
PROJECTIONS = "q_proj k_proj v_proj o_proj gate_proj up_proj down_proj lm_head".split()


class Torch:
    def __init__(self):
        import torch
        from transformers.utils import logging

        logging.set_verbosity_error()
        logging.disable_progress_bar()
        torch.set_num_threads(THREADS)
        torch.manual_seed(0)
        self.torch = torch

    def load(self, folder, dtype):
        from transformers import AutoModelForCausalLM

        return AutoModelForCausalLM.from_pretrained(folder, dtype=dtype)

    @functools.lru_cache(maxsize=1)
    def trainer(self, folder):
        from peft import LoraConfig, get_peft_model

        model = self.load(folder, self.torch.float32)
        model = get_peft_model(model, LoraConfig(r=32, lora_alpha=32, target_modules=PROJECTIONS))
        trained = [it for it in model.parameters() if it.requires_grad]
        return model, self.torch.optim.AdamW(trained, lr=1e-4, betas=(0.9, 0.95), eps=1e-12, weight_decay=0.0)

    @functools.lru_cache(maxsize=1)
    def sampler(self, folder):
        return self.load(folder, self.torch.bfloat16).eval()

    def step(self, folder, tokens, targets):
        model, optimizer = self.trainer(folder)
        started = time.perf_counter()
        logits = model(input_ids=tokens, use_cache=False).logits
        flat = logits.view(-1, logits.shape[-1])
        loss = self.torch.nn.functional.cross_entropy(flat, targets.view(-1), reduction="sum")
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        return (time.perf_counter() - started) * 1e3

    def train(self, folder, batch, tokens, steps):
        inputs = self.torch.randint(0, 256, (batch, tokens))
        targets = self.torch.randint(0, 256, (batch, tokens))
        return [self.step(folder, inputs, targets) for _ in range(steps)]

    def sample(self, folder, streams, tokens):
        model = self.sampler(folder)
        prompt = self.torch.randint(0, 256, (streams, 8))
        mask = self.torch.ones_like(prompt)
        started = time.perf_counter()
        with self.torch.no_grad():
            made = model.generate(
                prompt, attention_mask=mask, do_sample=True, min_new_tokens=tokens, max_new_tokens=tokens
            )
        assert made.shape[1] == 8 + tokens
        return streams * tokens / (time.perf_counter() - started)


class Jax:
    """The model is written out here, and compiled as one function with the gradients and the optimizer."""

    def __init__(self):
        # XLA takes as many threads as the process may use processors.
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:THREADS])

    @functools.lru_cache(maxsize=1)
    def trainer(self, folder):
        import jax
        import jax.numpy as jnp

        config = json.load(open(f"{folder}/config.json"))
        heads, kv_heads = config["num_attention_heads"], config["num_key_value_heads"]
        width, eps, layers = config["head_dim"], config["rms_norm_eps"], config["num_hidden_layers"]
        weights = {name: jnp.asarray(value) for name, value in floats(folder).items()}
        weights.setdefault("lm_head.weight", weights["model.embed_tokens.weight"])
        layer_names = [it.split(".", 3)[3] for it in weights if it.startswith("model.layers.0.")]
        stacked = {
            name: jnp.stack([weights.pop(f"model.layers.{i}.{name}") for i in range(layers)]) for name in layer_names
        }

        def adapter(key, weight):
            *stack, outputs, inputs = weight.shape
            a = jax.random.normal(key, (*stack, 32, inputs)) / inputs**0.5
            return {"a": a, "b": jnp.zeros((*stack, outputs, 32))}

        keys = iter(jax.random.split(jax.random.key(0), 64))
        names = sorted(it for it in stacked if it.split(".")[1] in PROJECTIONS)
        lora = {
            "layers": {it: adapter(next(keys), stacked[it]) for it in names},
            "head": adapter(next(keys), weights["lm_head.weight"]),
        }

        def linear(x, weight, lora):
            return x @ weight.T + (x @ lora["a"].T) @ lora["b"].T

        def norm(x, weight):
            return x * jax.lax.rsqrt((x * x).mean(-1, keepdims=True) + eps) * weight

        def rotate(x, positions):
            rates = config["rope_theta"] ** (-jnp.arange(0, width, 2) / width)
            angles = positions[:, None, None] * rates
            first, second = jnp.split(x, 2, -1)
            sin, cos = jnp.sin(angles), jnp.cos(angles)
            return jnp.concatenate([first * cos - second * sin, second * cos + first * sin], -1)

        def layer(x, parts):
            weight, lora = parts
            batch, tokens, _ = x.shape
            project = lambda name, x: linear(x, weight[f"{name}.weight"], lora[f"{name}.weight"])
            split = lambda x, n: x.reshape(batch, tokens, n, width)
            h = norm(x, weight["input_layernorm.weight"])
            q = split(project("self_attn.q_proj", h), heads)
            k = split(project("self_attn.k_proj", h), kv_heads)
            v = split(project("self_attn.v_proj", h), kv_heads)
            if "self_attn.q_norm.weight" in weight:
                q, k = norm(q, weight["self_attn.q_norm.weight"]), norm(k, weight["self_attn.k_norm.weight"])
            positions = jnp.arange(tokens)
            q, k = rotate(q, positions), rotate(k, positions)
            mixed = jax.nn.dot_product_attention(q, k, v, is_causal=True)
            x = x + project("self_attn.o_proj", mixed.reshape(batch, tokens, -1))
            h = norm(x, weight["post_attention_layernorm.weight"])
            gate = jax.nn.silu(project("mlp.gate_proj", h))
            return x + project("mlp.down_proj", gate * project("mlp.up_proj", h)), None

        def loss(lora, weights, stacked, inputs, targets):
            x = weights["model.embed_tokens.weight"][inputs]
            x, _ = jax.lax.scan(layer, x, (stacked, lora["layers"]))
            logits = linear(norm(x, weights["model.norm.weight"]), weights["lm_head.weight"], lora["head"])
            picked = jnp.take_along_axis(logits, targets[..., None], -1)[..., 0]
            return (jax.nn.logsumexp(logits, -1) - picked).sum()

        @jax.jit
        def step(state, weights, stacked, inputs, targets):
            lora, first, second, n = state
            value, gradients = jax.value_and_grad(loss)(lora, weights, stacked, inputs, targets)
            n = n + 1
            first = jax.tree.map(lambda m, g: 0.9 * m + 0.1 * g, first, gradients)
            second = jax.tree.map(lambda v, g: 0.95 * v + 0.05 * g * g, second, gradients)
            update = lambda p, m, v: p - 1e-4 * (m / (1 - 0.9**n)) / (jnp.sqrt(v / (1 - 0.95**n)) + 1e-12)
            return (jax.tree.map(update, lora, first, second), first, second, n), value

        zeros = jax.tree.map(jnp.zeros_like, lora)
        state = (lora, zeros, zeros, jnp.zeros(()))
        return [state], lambda state, *data: step(state, weights, stacked, *data)

    def train(self, folder, batch, tokens, steps):
        import jax

        kept, step = self.trainer(folder)
        data = jax.random.randint(jax.random.key(1), (2, batch, tokens), 0, 256)
        jax.block_until_ready(step(kept[0], *data))  # Compiles it.
        times = []
        for _ in range(steps):
            started = time.perf_counter()
            kept[0], value = step(kept[0], *data)
            assert float(value) > 0
            jax.block_until_ready(kept[0])
            times.append((time.perf_counter() - started) * 1e3)
        return times


class Llama:
    @functools.lru_cache(maxsize=1)
    def server(self, folder):
        import xllamacpp

        params = xllamacpp.CommonParams()
        params.model.path = gguf_file(folder)
        params.n_ctx = 32 * 256
        params.n_parallel = 32
        params.verbosity = 0
        params.cpuparams.n_threads = params.cpuparams_batch.n_threads = THREADS
        return xllamacpp.Server(params)

    def sample(self, folder, streams, tokens):
        server = self.server(folder)
        job = {
            "prompt": list(range(1, 9)),
            "n_predict": tokens,
            "ignore_eos": True,
            "temperature": 1.0,
            "samplers": ["temperature"],
            "cache_prompt": False,
        }
        answers = []
        work = lambda: answers.append(server.handle_completions(job))
        threads = [threading.Thread(target=work) for _ in range(streams)]
        started = time.perf_counter()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        seconds = time.perf_counter() - started
        assert [it["usage"]["completion_tokens"] for it in answers] == [tokens] * streams, answers
        return streams * tokens / seconds


def tensors(folder):
    """The tensors of a folder, which are bf16: names, bytes and shapes."""
    import numpy as np

    data = np.fromfile(f"{folder}/model.safetensors", np.uint8)
    start = 8 + int(data[:8].view(np.uint64)[0])
    header = json.loads(data[8:start].tobytes())
    for name, tensor in header.items():
        first, end = tensor["data_offsets"]
        yield name, data[start + first : start + end], tensor["shape"]


def widened(values):
    """The bytes of bf16 numbers as 32-bit floats."""
    import numpy as np

    return (values.view(np.uint16).astype(np.uint32) << 16).view(np.float32)


def floats(folder):
    """The tensors of a folder as 32-bit floats."""
    return {name: widened(values).reshape(shape) for name, values, shape in tensors(folder)}


def gguf_file(folder):
    """Writes the weights of a Llama's folder as GGUF, with the texts of a made-up vocabulary. Queries and keys keep the
    order that the folder has, which is another one than llama.cpp expects: random weights are as good either way."""
    import gguf

    config = json.load(open(f"{folder}/config.json"))
    path = f"{folder}/model.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_key_length(config["head_dim"])
    writer.add_value_length(config["head_dim"])
    writer.add_rope_dimension_count(config["head_dim"])
    writer.add_rope_freq_base(config["rope_theta"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_vocab_size(config["vocab_size"])
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("default")
    writer.add_token_list([f"t{i:x}" for i in range(config["vocab_size"])])
    writer.add_token_types([1] * config["vocab_size"])
    writer.add_token_merges(["t 1"])
    writer.add_eos_token_id(0)
    writer.add_add_bos_token(False)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config["num_hidden_layers"])
    for name, values, shape in tensors(folder):
        new = names.get_name(name, (".weight",))
        if len(shape) == 1:
            writer.add_tensor(new, widened(values))
        else:
            rows = values.reshape(shape[0], -1)
            writer.add_tensor(new, rows, raw_dtype=gguf.GGMLQuantizationType.BF16)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


program = {"torch": Torch, "jax": Jax, "llama": Llama}[sys.argv[1]]()
for line in sys.stdin:
    job = json.loads(line)
    answer = program.sample(**job) if "streams" in job else program.train(**job)
    print(json.dumps(answer), flush=True)
