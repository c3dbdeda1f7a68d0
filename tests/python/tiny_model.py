"""Writes the folder of a small Qwen3 model with random weights and a tokenizer that has the special tokens of Qwen.

Needs numpy, safetensors and tokenizers.
"""

import json
import os

import numpy
import safetensors.numpy
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

# The end-of-sequence tokens come first; the others are those that chats of Qwen3 and Qwen3.5 contain.
SPECIAL = ["<|endoftext|>", "<|im_end|>", "<|im_start|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>"]
NOT_SPECIAL = ["<think>", "</think>", "<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>"]
# How Qwen splits a text into words before it looks for tokens.
WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
VOCAB, HIDDEN, HEADS, KV_HEADS, HEAD_DIM, MLP, LAYERS = 512, 64, 4, 2, 16, 128, 2


def tokenizer_of(texts):
    """A tokenizer whose words come from the texts."""
    tokenizer = Tokenizer(models.BPE())
    split = pre_tokenizers.Split(Regex(WORDS), behavior="isolated")
    level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, level])
    tokenizer.decoder = decoders.ByteLevel()
    count = VOCAB - len(SPECIAL) - len(NOT_SPECIAL)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=count, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.add_special_tokens([AddedToken(it, special=True) for it in SPECIAL])
    tokenizer.add_tokens([AddedToken(it, normalized=False) for it in NOT_SPECIAL])
    return tokenizer


def weights():
    """Random weights by the names of a Qwen3 file, always the same."""
    random = numpy.random.default_rng(1)

    def matrix(rows, columns):
        return (random.standard_normal((rows, columns)) / columns**0.5).astype(numpy.float32)

    def ones(size):
        return numpy.ones(size, numpy.float32)

    tensors = {"model.embed_tokens.weight": matrix(VOCAB, HIDDEN), "model.norm.weight": ones(HIDDEN)}
    for layer in range(LAYERS):
        tensors |= {
            f"model.layers.{layer}.{name}.weight": it for name, it in {
                "input_layernorm": ones(HIDDEN),
                "self_attn.q_proj": matrix(HEADS * HEAD_DIM, HIDDEN),
                "self_attn.k_proj": matrix(KV_HEADS * HEAD_DIM, HIDDEN),
                "self_attn.v_proj": matrix(KV_HEADS * HEAD_DIM, HIDDEN),
                "self_attn.o_proj": matrix(HIDDEN, HEADS * HEAD_DIM),
                "self_attn.q_norm": ones(HEAD_DIM),
                "self_attn.k_norm": ones(HEAD_DIM),
                "post_attention_layernorm": ones(HIDDEN),
                "mlp.gate_proj": matrix(MLP, HIDDEN),
                "mlp.up_proj": matrix(MLP, HIDDEN),
                "mlp.down_proj": matrix(HIDDEN, MLP),
            }.items()
        }
    return tensors


def write(folder, texts):
    """Writes the model; its tokenizer knows the words of the texts."""
    os.makedirs(folder, exist_ok=True)
    tokenizer = tokenizer_of(texts)
    ends = [tokenizer.token_to_id(it) for it in SPECIAL[:2]]

    def write_json(name, value):
        with open(os.path.join(folder, name), "w", encoding="utf-8") as file:
            json.dump(value, file, indent=1)

    tokenizer.save(os.path.join(folder, "tokenizer.json"))
    write_json("tokenizer_config.json", {
        "tokenizer_class": "PreTrainedTokenizerFast", "eos_token": SPECIAL[1], "pad_token": SPECIAL[0],
        "chat_template": TEMPLATE, "clean_up_tokenization_spaces": False,
    })
    write_json("generation_config.json", {"eos_token_id": ends})
    write_json("config.json", {
        "architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3", "vocab_size": VOCAB, "hidden_size": HIDDEN,
        "intermediate_size": MLP, "num_hidden_layers": LAYERS, "num_attention_heads": HEADS,
        "num_key_value_heads": KV_HEADS, "head_dim": HEAD_DIM, "hidden_act": "silu", "rms_norm_eps": 1e-6,
        "rope_theta": 1000000.0, "max_position_embeddings": 32768, "tie_word_embeddings": True,
        "attention_bias": False, "eos_token_id": ends[0], "torch_dtype": "float32",
    })
    safetensors.numpy.save_file(weights(), os.path.join(folder, "model.safetensors"), metadata={"format": "pt"})
