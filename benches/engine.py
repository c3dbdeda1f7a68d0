"""The same training steps and samples as `engine.rs`, with PyTorch, transformers and PEFT, on the CPU in f32.

Started by `cargo bench --bench engine --features local -- --python PATH`, where PATH is a Python that has the packages
`torch`, `transformers` and `peft`. Argument: the number of threads. Reads one job a line from standard input, as JSON,
and answers each with one line:

  {"batch": 8, "tokens": 128, "steps": 4}  ->  the milliseconds of each step
  {"streams": 32, "tokens": 128}           ->  tokens per second

The model is a Llama with the shape of `tinkex/nano` and random weights. A step is a forward and a backward pass with
the cross entropy of every token, and a step of AdamW, on LoRA matrices of rank 32 on all projections and the head.
"""

import json
import sys
import time
import warnings

warnings.filterwarnings("ignore")

import torch
from peft import LoraConfig, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM
from transformers.utils import logging

logging.set_verbosity_error()
torch.set_num_threads(int(sys.argv[1]))
torch.manual_seed(0)

VOCAB = 512
PROJECTIONS = "q_proj k_proj v_proj o_proj gate_proj up_proj down_proj lm_head".split()

config = LlamaConfig(
    vocab_size=VOCAB,
    hidden_size=128,
    intermediate_size=384,
    num_hidden_layers=4,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=32,
    max_position_embeddings=2048,
    rope_theta=10_000.0,
    rms_norm_eps=1e-5,
    tie_word_embeddings=False,
    bos_token_id=None,
    eos_token_id=None,
    pad_token_id=0,
)
sampler = LlamaForCausalLM(config).eval()
model = LlamaForCausalLM(config)
model = get_peft_model(model, LoraConfig(r=32, lora_alpha=32, target_modules=PROJECTIONS))
trained = [it for it in model.parameters() if it.requires_grad]
optimizer = torch.optim.AdamW(trained, lr=1e-4, betas=(0.9, 0.95), eps=1e-12, weight_decay=0.0)


def step(tokens, targets):
    started = time.perf_counter()
    logits = model(input_ids=tokens, use_cache=False).logits
    loss = torch.nn.functional.cross_entropy(logits.view(-1, VOCAB), targets.view(-1), reduction="sum")
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    return (time.perf_counter() - started) * 1e3


def train(batch, tokens, steps):
    inputs = torch.randint(0, 256, (batch, tokens))
    targets = torch.randint(0, 256, (batch, tokens))
    return [step(inputs, targets) for _ in range(steps)]


@torch.no_grad()
def sample(streams, tokens):
    prompt = torch.randint(0, 256, (streams, 8))
    started = time.perf_counter()
    mask = torch.ones_like(prompt)
    made = sampler.generate(
        prompt, attention_mask=mask, do_sample=True, min_new_tokens=tokens, max_new_tokens=tokens
    )
    assert made.shape[1] == 8 + tokens
    return streams * tokens / (time.perf_counter() - started)


for line in sys.stdin:
    job = json.loads(line)
    answer = sample(**job) if "streams" in job else train(**job)
    print(json.dumps(answer), flush=True)
