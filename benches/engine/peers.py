"""The same training steps and samples as the bench `engine`, on the CPU, with other programs.

Started by `cargo bench --bench engine --features local -- --python PATH --llama PATH`. Arguments: the program, `torch` or
`llama`, and the number of threads. `torch` needs the packages `torch`, `transformers` and `peft`, and `llama` needs
`xllamacpp` and `gguf`. Reads one job a line from standard input, as JSON, and answers each with one line:

  {"folder": "…", "batch": 8, "tokens": 128, "steps": 4}  ->  the milliseconds of each step
  {"folder": "…", "streams": 32, "tokens": 128}           ->  tokens per second

The folder has a model with random weights in bf16. A step of `torch` is a forward and a backward pass in f32 with the
cross entropy of every token, and a step of AdamW, on LoRA matrices of rank 32 on all projections and the head. Samples
of both programs use the weights in bf16.
"""

import functools
import json
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


def gguf_file(folder):
    """Writes the weights of a Llama's folder as GGUF, with the texts of a made-up vocabulary. Queries and keys keep the
    order that the folder has, which is another one than llama.cpp expects: random weights are as good either way."""
    import gguf
    import numpy as np

    config = json.load(open(f"{folder}/config.json"))
    data = np.fromfile(f"{folder}/model.safetensors", np.uint8)
    start = 8 + int(data[:8].view(np.uint64)[0])
    header = json.loads(data[8:start].tobytes())
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
    for name, tensor in header.items():
        first, end = tensor["data_offsets"]
        values = data[start + first : start + end]
        new = names.get_name(name, (".weight",))
        if len(tensor["shape"]) == 1:
            values = (values.view(np.uint16).astype(np.uint32) << 16).view(np.float32)
            writer.add_tensor(new, values)
        else:
            rows = values.reshape(tensor["shape"][0], -1)
            writer.add_tensor(new, rows, raw_dtype=gguf.GGMLQuantizationType.BF16)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


program = {"torch": Torch, "llama": Llama}[sys.argv[1]]()
for line in sys.stdin:
    job = json.loads(line)
    answer = program.sample(**job) if "streams" in job else program.train(**job)
    print(json.dumps(answer), flush=True)
