"""Makes the fixtures of the embedded engine in tests/golden/engine: tiny model folders of Hugging Face, and what
transformers, PEFT and PyTorch compute with them.

    python tests/golden/engine.py             writes the fixtures
    python tests/golden/engine.py --check     compares the committed ones with what would be written
    python tests/golden/engine.py --peft-logits MODEL_DIR ADAPTER_DIR TOKENS_JSON
                                              loads an adapter into PEFT and prints its logits as JSON
    python tests/golden/engine.py --exported FOLDER
                                              does so with the adapters that the engine exported, writes engine_exported

Needs the packages of engine-requirements.txt; everything runs on the CPU, offline. README.md describes the fixtures.
"""

import argparse
import importlib.metadata
import json
import os
import shutil
import sys
import tempfile
import warnings
from pathlib import Path

HERE = Path(__file__).resolve().parent
FOLDER = HERE / "engine"
EXPORTED = HERE / "engine_exported"
REQUIREMENTS = HERE / "engine-requirements.txt"


def check_versions():
    """Exits if an installed package is not of the pinned version."""
    wrong = []
    for line in REQUIREMENTS.read_text(encoding="utf-8").splitlines():
        if not line or line.startswith("#"):
            continue
        name, pinned = line.split("==")
        try:
            found = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found = "not installed"
        # The CPU build of torch is version 2.9.1+cpu.
        if found.split("+")[0] != pinned:
            wrong.append(f"{name} is {found}, must be {pinned}")
    if wrong:
        sys.exit(f"{'; '.join(wrong)}: pip install -r {REQUIREMENTS.name}")


check_versions()
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["CUDA_VISIBLE_DEVICES"] = ""

import numpy
import peft
import torch
import transformers
from safetensors.torch import load_file, save_file
from torch.nn.functional import log_softmax

VOCAB, HIDDEN, LAYERS, HEADS, KV_HEADS, MLP, CONTEXT = 96, 32, 2, 4, 2, 48, 256
LENGTHS = (23, 40)
RANK, ALPHA = 4, 32
K = 3
PROJECTIONS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]

# Largest difference that --check allows in computed values, relative to the largest value of a tensor. Other
# processors sum in another order.
TOLERANCE = 2e-5
MAX_BYTES = 1_000_000

COMMON = dict(
    vocab_size=VOCAB,
    hidden_size=HIDDEN,
    num_hidden_layers=LAYERS,
    num_attention_heads=HEADS,
    num_key_value_heads=KV_HEADS,
    intermediate_size=MLP,
    max_position_embeddings=CONTEXT,
    bos_token_id=1,
    eos_token_id=2,
    pad_token_id=None,
)


class Model:
    """A model of the fixtures: its configuration, the type of its file, and how its adapter is saved."""

    def __init__(self, name, seed, dtype, config, save_head, shard="1GB"):
        self.name, self.seed, self.dtype, self.shard = name, seed, dtype, shard
        self.config, self.save_head = config, save_head
        self.tied = config.tie_word_embeddings


def models():
    # In `original_max_position_embeddings` of 128, the four frequencies are one that is kept (wavelength 6.3), one
    # between the bounds 32 and 128 (63), and two that are divided by the factor (628 and 6283).
    llama3 = dict(
        rope_type="llama3",
        factor=8.0,
        low_freq_factor=1.0,
        high_freq_factor=4.0,
        original_max_position_embeddings=128,
        rope_theta=10000.0,
    )
    llama = transformers.LlamaConfig(**COMMON, tie_word_embeddings=False, rms_norm_eps=1e-5, rope_parameters=llama3)
    plain = dict(rope_type="default", rope_theta=1000000.0)
    qwen2 = transformers.Qwen2Config(**COMMON, tie_word_embeddings=True, rms_norm_eps=1e-6, rope_parameters=plain)
    qwen3 = transformers.Qwen3Config(
        **COMMON, tie_word_embeddings=False, rms_norm_eps=1e-6, rope_parameters=plain, head_dim=16
    )
    return [
        Model("llama", 1, torch.float32, llama, save_head=True, shard="45KB"),
        Model("qwen2", 2, torch.bfloat16, qwen2, save_head=False),
        Model("qwen3", 3, torch.float16, qwen3, save_head=False),
    ]


class Random:
    """Random tensors of a seed. Only uniform numbers are drawn: they have the same bits on every machine."""

    def __init__(self, *seed):
        self.generator = numpy.random.Generator(numpy.random.PCG64(list(seed)))

    def uniform(self, shape, low, high):
        return torch.from_numpy(self.generator.uniform(low, high, tuple(shape)).astype(numpy.float32))

    def spread(self, shape, deviation):
        """Numbers around 0 with this standard deviation."""
        return self.uniform(shape, -deviation * 3**0.5, deviation * 3**0.5)

    def tokens(self, *shape):
        return torch.from_numpy(self.generator.integers(0, VOCAB, shape, dtype=numpy.int64))


# Model folders.


def write_json(path, value):
    path.write_text(json.dumps(value, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def older_config(config):
    """config.json as transformers 4 writes it: `torch_dtype`, and the rotary settings at the top level."""
    old = dict(config)
    old["torch_dtype"] = old.pop("dtype")
    rope = dict(old.pop("rope_parameters"))
    old["rope_theta"] = rope.pop("rope_theta")
    old["rope_scaling"] = None if rope["rope_type"] == "default" else rope
    old.pop("layer_types", None)
    old["transformers_version"] = "4.51.0"
    return old


def write_base(model, folder):
    """Writes config.json, config.old.json and the weights."""
    random = Random(model.seed, 0)
    network = transformers.AutoModelForCausalLM.from_config(model.config, attn_implementation="eager")
    with torch.no_grad():
        for name, weight in sorted(network.named_parameters()):
            if "norm" in name:
                weight.copy_(random.uniform(weight.shape, 0.5, 1.5))
            elif name.endswith(".bias"):
                weight.copy_(random.spread(weight.shape, 0.5))
            elif "embed_tokens" in name and not model.tied:
                weight.copy_(random.spread(weight.shape, 1.0))
            else:
                weight.copy_(random.spread(weight.shape, 0.25))
    network.to(model.dtype).save_pretrained(folder, max_shard_size=model.shard)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    write_json(folder / "config.old.json", older_config(config))


def load(folder):
    """The stored weights, computed with in f32."""
    network = transformers.AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager", local_files_only=True
    )
    for name, weight in network.named_parameters():
        assert weight.dtype == torch.float32, f"{name} is {weight.dtype}"
    return network.eval()


def logits_of(network, tokens):
    return network(input_ids=tokens[None], use_cache=False).logits[0]


def attach(model, network, folder):
    """Gives the network a random adapter and saves it."""
    targets = PROJECTIONS + ([] if model.tied else ["lm_head"])
    config = peft.LoraConfig(
        r=RANK, lora_alpha=ALPHA, lora_dropout=0.0, target_modules=targets, bias="none", task_type="CAUSAL_LM"
    )
    adapted = peft.get_peft_model(network, config).eval()
    random = Random(model.seed, 1)
    with torch.no_grad():
        for name, weight in sorted(parameters(adapted).items()):
            weight.copy_(random.spread(weight.shape, 0.2 if "lora_A" in name else 0.03))
    # By default, PEFT adds the adapted head's own weights to the file, as `base_layer.weight`.
    adapted.save_pretrained(folder, save_embedding_layers="auto" if model.save_head else False)
    (folder / "README.md").unlink()
    # PEFT writes sets, in any order, and the path of the model.
    path = folder / "adapter_config.json"
    saved = json.loads(path.read_text(encoding="utf-8"))
    saved["target_modules"] = sorted(saved["target_modules"])
    saved["base_model_name_or_path"] = f"tiny/{model.name}"
    write_json(path, saved)

    stored = load_file(folder / "adapter_model.safetensors")
    names = {name for name in stored if ".lora_" in name}
    assert names == set(parameters(adapted)), "the names in the file are not those of the parameters"
    assert (names != set(stored)) == model.save_head, "weights of the head in the adapter's file"
    return adapted


def parameters(adapted):
    """Parameters of the adapter by their names in adapter_model.safetensors."""
    return {n.replace(".default.", "."): p for n, p in adapted.named_parameters() if p.requires_grad}


# Loss functions, each for one sequence. `lp` are the log-probabilities of the targets.


def ratio(lp, given):
    return torch.exp(lp - given["logprobs"])


def clipped(r, given, low, high):
    advantages = given["advantages"]
    return -torch.minimum(r * advantages, r.clamp(low, high) * advantages).sum()


def cross_entropy(lp, given):
    return -(given["weights"] * lp).sum()


def importance_sampling(lp, given):
    return -(ratio(lp, given) * given["advantages"]).sum()


def ppo(lp, given):
    return clipped(ratio(lp, given), given, 0.8, 1.2)


def cispo(lp, given):
    return -(ratio(lp, given).clamp(0.0, 4.0).detach() * lp * given["advantages"]).sum()


def dro(lp, given):
    return -(lp * given["advantages"] - 0.5 * 0.1 * (lp - given["logprobs"]) ** 2).sum()


def gspo_ratio(lp, given):
    counted = given["sequence_ratio_mask"] != 0
    mean = (lp.detach() - given["logprobs"])[counted].mean()
    return torch.exp(mean + lp - lp.detach())


def gspo(lp, given):
    return clipped(gspo_ratio(lp, given), given, 0.8, 1.2)


LOSSES = [
    ("cross_entropy", cross_entropy),
    ("cross_entropy_k", cross_entropy),
    ("importance_sampling", importance_sampling),
    ("ppo", ppo),
    ("cispo", cispo),
    ("dro", dro),
    ("gspo", gspo),
]
BOUNDS = {"ppo": (0.8, 1.2), "cispo": (0.0, 4.0), "gspo": (0.8, 1.2)}


def target_logprobs(logits, targets):
    """Log-probabilities of targets `[N]` or `[N, K]`."""
    return log_softmax(logits, -1).gather(-1, targets.reshape(len(targets), -1)).reshape(targets.shape)


def inputs_of(loss, tokens, logits, random):
    """The inputs of a loss for every sequence, as dicts with the keys of `loss_fn_inputs`."""
    inputs = []
    for i, sequence in enumerate(tokens):
        n = len(sequence)
        following = torch.cat([sequence[1:], random.tokens(1)])
        if loss == "cross_entropy_k":
            following = torch.cat([following[:, None], random.tokens(n, K - 1)], 1)
        given = {"targets": following}
        if loss.startswith("cross_entropy"):
            given["weights"] = random.uniform(following.shape, 0.0, 1.5)
            given["weights"][:4] = 0.0
        else:
            lp = target_logprobs(logits[i], following).detach()
            # `gap` is lp − q, the logarithm of the ratio, not close to a bound, where derivatives jump.
            gap = random.uniform([n], -0.5, 0.5)
            gap[5::9] += 1.5
            if loss == "gspo":
                # The ratio of the first sequence is within the bounds, that of the second above.
                gap = random.uniform([n], -0.5, 0.5) + (0.05, 0.35)[i]
            for bound in filter(None, BOUNDS.get(loss, ())):
                near = (gap.exp() - bound).abs() < 0.03
                gap[near] += 0.1
            given["logprobs"] = lp - gap
            given["advantages"] = random.uniform([n], -2.0, 2.0)
            given["advantages"][:4] = 0.0
            if loss == "gspo":
                given["sequence_ratio_mask"] = torch.ones(n)
                given["sequence_ratio_mask"][:4] = 0.0
        inputs.append(given)
    return inputs


def check_clipping(loss, lps, inputs):
    """Fails if no ratio is clipped, all are, or one is so close to a bound that rounding could decide."""
    low, high = BOUNDS[loss]
    ratios = torch.cat([(gspo_ratio if loss == "gspo" else ratio)(lp, it) for lp, it in zip(lps, inputs)])
    assert min((ratios - low).abs().min(), (ratios - high).abs().min()) > 0.01, f"{loss}: a ratio is close to a bound"
    outside = ((ratios < low) | (ratios > high)).sum()
    assert 0 < outside < len(ratios), f"{loss}: {outside} of {len(ratios)} ratios are out of bounds"


def total_loss(loss, compute, adapted, tokens, inputs):
    """The sum of a loss over both sequences."""
    lps = [target_logprobs(logits_of(adapted, t), it["targets"]) for t, it in zip(tokens, inputs)]
    if loss in BOUNDS:
        check_clipping(loss, lps, inputs)
    return sum(compute(lp, it) for lp, it in zip(lps, inputs))


def gradients(total, adapted):
    named = parameters(adapted)
    return dict(zip(named, torch.autograd.grad(total, list(named.values()))))


def is_kept(loss, name):
    """True if the fixture has this gradient. All gradients of all losses would be too large."""
    parts = (".layers.0.self_attn.q_proj.", ".layers.0.mlp.down_proj.", ".layers.1.mlp.gate_proj.", ".lm_head.")
    return loss == "cross_entropy" or any(part in name for part in parts)


def is_stepped(name):
    return name.endswith(("layers.0.self_attn.q_proj.lora_A.weight", "layers.1.mlp.down_proj.lora_B.weight"))


def steps(adapted, tokens, inputs):
    """Two tensors after one and after two steps of AdamW with the gradients of cross entropy."""
    named = parameters(adapted)
    optimizer = torch.optim.AdamW(named.values(), lr=1e-2, betas=(0.9, 0.95), eps=1e-12, weight_decay=0.0)
    found = {}
    for prefix in ("adamw", "adamw2"):
        grads = gradients(total_loss("cross_entropy", cross_entropy, adapted, tokens, inputs), adapted)
        for name, weight in named.items():
            weight.grad = grads[name]
            # The first step is the sign of the gradient, which rounding must not decide.
            if is_stepped(name):
                least = weight.grad.abs().min() / weight.grad.abs().max()
                assert least > 5e-5, f"a gradient of {name} is almost 0: {least}"
        optimizer.step()
        found |= {f"{prefix}.{n}": p.detach().clone() for n, p in named.items() if is_stepped(n)}
    return found


def expected(model, folder):
    """All tensors of expected.safetensors. Writes the adapter on the way."""
    random = Random(model.seed, 2)
    tokens = [random.tokens(n) for n in LENGTHS]
    found = {f"tokens.{i}": it for i, it in enumerate(tokens)}
    network = load(folder)
    with torch.no_grad():
        plain = [logits_of(network, it) for it in tokens]
    found |= {f"logits.{i}": it for i, it in enumerate(plain)}

    adapted = attach(model, network, folder / "adapter")
    with torch.no_grad():
        logits = [logits_of(adapted, it) for it in tokens]
    found |= {f"adapted.{i}": it for i, it in enumerate(logits)}
    assert min((a - b).abs().max() for a, b in zip(plain, logits)) > 0.1, "the adapter has almost no effect"

    for number, (loss, compute) in enumerate(LOSSES):
        inputs = inputs_of(loss, tokens, logits, Random(model.seed, 3, number))
        for i, given in enumerate(inputs):
            found |= {f"{loss}.{key}.{i}": it for key, it in given.items()}
        total = total_loss(loss, compute, adapted, tokens, inputs)
        found[f"{loss}.loss"] = total.detach().reshape(1)
        for name, gradient in gradients(total, adapted).items():
            assert gradient.abs().max() > 1e-3, f"{loss}: no gradient of {name}"
            if is_kept(loss, name):
                found[f"{loss}.grad.{name}"] = gradient
        if loss == "cross_entropy":
            targets = inputs
    # Last, because it changes the adapter.
    return found | steps(adapted, tokens, targets)


def check_sensitivity(model, folder, found):
    """Fails if a part of the model could be left out unnoticed, or if config.old.json means something else."""
    tokens = found["tokens.1"]
    with tempfile.TemporaryDirectory() as other:
        shutil.copytree(folder, other, dirs_exist_ok=True)
        shutil.copy(folder / "config.old.json", Path(other) / "config.json")
        with torch.no_grad():
            logits = logits_of(load(other), tokens)
    assert torch.equal(logits, found["logits.1"]), "config.old.json gives other logits"

    neutral = {"norm": 1.0, ".bias": 0.0}
    for name, _ in load(folder).named_parameters():
        value = next((v for part, v in neutral.items() if part in name), None)
        if value is None:
            continue
        changed = load(folder)
        with torch.no_grad():
            changed.get_parameter(name).fill_(value)
            difference = (logits_of(changed, tokens) - found["logits.1"]).abs().max()
        assert difference > 0.01, f"{name} hardly matters: {difference}"
        print(f"  {name} = {value:.0f} changes a logit by {difference:.3f}")
    if model.name == "llama":
        changed = load(folder)
        inverse = changed.model.rotary_emb.inv_freq
        unscaled = 10000.0 ** (-torch.arange(len(inverse)) / len(inverse))
        assert inverse[0] == unscaled[0] and inverse[2] == unscaled[2] / 8, "bands of the frequencies"
        assert unscaled[1] / 8 < inverse[1] < unscaled[1], "the second frequency is not between the bounds"
        with torch.no_grad():
            for i in (1, 2):
                kept = inverse[i].item()
                inverse[i] = unscaled[i]
                difference = (logits_of(changed, tokens) - found["logits.1"]).abs().max()
                assert difference > 0.01, f"rotary frequency {i} hardly matters: {difference}"
                print(f"  rotary frequency {i} without scaling changes a logit by {difference:.3f}")
                inverse[i] = kept


def make(root):
    for model in models():
        folder = root / model.name
        folder.mkdir(parents=True)
        print(model.name)
        write_base(model, folder)
        files = len(list(folder.glob("*.safetensors")))
        assert files == (2 if model.name == "llama" else 1), f"{files} files of weights"
        found = expected(model, folder)
        check_sensitivity(model, folder, found)
        assert all(it.isfinite().all() for it in found.values()), "a value is not finite"
        save_file({name: it.contiguous() for name, it in found.items()}, folder / "expected.safetensors")
    sizes = {it.relative_to(root): it.stat().st_size for it in sorted(root.rglob("*")) if it.is_file()}
    for path, size in sizes.items():
        print(f"{size:>9,}  {path}")
    print(f"{sum(sizes.values()):>9,}  in all")
    assert sum(sizes.values()) < MAX_BYTES, f"more than {MAX_BYTES:,} bytes"


def differences(made, kept):
    """Differences of two folders of fixtures: weights and texts must be equal, computed values close."""
    files = sorted({it.relative_to(root) for root in (made, kept) for it in root.rglob("*") if it.is_file()})
    for path in files:
        a, b = made / path, kept / path
        if not (a.exists() and b.exists()):
            yield f"{path} is only in one of them"
        elif path.name != "expected.safetensors":
            if a.read_bytes() != b.read_bytes():
                yield f"{path} differs"
        else:
            new, old = load_file(a), load_file(b)
            if new.keys() != old.keys():
                yield f"{path}: other names of tensors"
                continue
            for name in sorted(new):
                error = (new[name] - old[name]).abs().max() / old[name].abs().max()
                if error > TOLERANCE:
                    yield f"{path}: {name} differs by {error:.1e} of its largest value"


def peft_logits(model_dir, adapter_dir, tokens_json):
    """The logits of every sequence of TOKENS_JSON, a list of lists of token ids."""
    sequences = json.loads(Path(tokens_json).read_text(encoding="utf-8"))
    with warnings.catch_warnings():
        # PEFT warns of weights that are missing or unknown.
        warnings.simplefilter("error", UserWarning)
        # An adapter of a tied head leaves the embeddings as they are, in the engine and in PEFT.
        warnings.filterwarnings("ignore", "Model has `tie_word_embeddings=True`")
        adapted = peft.PeftModel.from_pretrained(load(model_dir), adapter_dir).eval()
    with torch.no_grad():
        return [logits_of(adapted, torch.tensor(it, dtype=torch.int64)).tolist() for it in sequences]


def record_exported(folder):
    """Writes the adapters in FOLDER/MODEL with PEFT's logits for FOLDER/MODEL/tokens.json."""
    for model in ("llama", "qwen2", "qwen3"):
        (logits,) = peft_logits(FOLDER / model, folder / model, folder / model / "tokens.json")
        made = EXPORTED / model
        made.mkdir(parents=True, exist_ok=True)
        for name in ("adapter_config.json", "adapter_model.safetensors"):
            shutil.copy(folder / model / name, made / name)
        rows = [json.dumps([round(it, 5) for it in row]) for row in logits]
        (made / "logits.json").write_text("[\n" + ",\n".join(rows) + "\n]\n", encoding="utf-8")


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--check", action="store_true", help="compare with the committed fixtures, write nothing")
    parser.add_argument("--exported", type=Path, metavar="FOLDER")
    parser.add_argument("--peft-logits", nargs=3, metavar=("MODEL_DIR", "ADAPTER_DIR", "TOKENS_JSON"))
    arguments = parser.parse_args()
    # One thread, so that sums have the same order in every run.
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    transformers.utils.logging.disable_progress_bar()
    if arguments.peft_logits:
        json.dump(peft_logits(*arguments.peft_logits), sys.stdout)
        print()
        return
    if arguments.exported:
        record_exported(arguments.exported)
        return
    with tempfile.TemporaryDirectory() as work:
        made = Path(work) / "engine"
        make(made)
        if not arguments.check:
            shutil.rmtree(FOLDER, ignore_errors=True)
            shutil.copytree(made, FOLDER)
        elif found := list(differences(made, FOLDER)):
            sys.exit("\n".join(found))


if __name__ == "__main__":
    main()
