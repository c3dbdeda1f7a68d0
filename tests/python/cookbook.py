"""Runs recipes of the tinker-cookbook, unpatched, against a server: each by its own command line, some after others on
the checkpoints of these, and some killed and resumed.

    cookbook.py write FOLDER     writes the data sets and the folder of a model
    cookbook.py served FOLDER    prints the arguments of the server that serves the models
    cookbook.py run FOLDER       runs the recipes in FOLDER; TINKER_BASE_URL and TINKER_API_KEY name the server

The server needs its option for stable_reinforce, the default loss of the recipes of reinforcement learning. All
chains of recipes run, even if some fail; the exit status is 1 if one failed.
"""

import concurrent.futures
import json
import math
import os
import subprocess
import sys
import time
import traceback

import tiny_data
import tiny_model

# The models that the recipes use by default; the last two are teachers.
MODELS = ["Qwen/Qwen3.5-9B-Base", "Qwen/Qwen3.5-9B", "Qwen/Qwen3.5-4B", "Qwen/Qwen3.6-27B", "Qwen/Qwen3.5-397B-A17B"]
# One whose chats have special tokens: those of a base model end with a text, which only an engine with `text` can find.
CHAT_MODEL = MODELS[1]
# A model whose chats have no special tokens, and the repository in which the cookbook looks for its tokenizer.
ALIASES = ["meta-llama/Llama-3.2-1B", "thinkingmachineslabinc/meta-llama-3-instruct-tokenizer"]
# Long enough for a machine that is busy with other things.
SECONDS = 600


def start(recipe, log, arguments):
    """Starts a recipe; returns its process."""
    command = [sys.executable, "-m", f"tinker_cookbook.recipes.{recipe}", f"log_path=log/{log}"]
    command += [f"{name}={value}" for name, value in arguments.items()]
    print("$", " ".join(command[1:]), flush=True)
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def run(recipe, log, resumed_at=0, **arguments):
    """Runs a recipe to its end; returns the rows of metrics from its first step on, which is `resumed_at`."""
    begin = time.monotonic()
    with start(recipe, log, arguments) as process:
        try:
            output, _ = process.communicate(timeout=SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            output, _ = process.communicate()
    assert process.returncode == 0, f"{recipe}: status {process.returncode}\n{output[-4000:]}"
    assert not resumed_at or "Resum" in output, f"{recipe} did not resume:\n{output[-4000:]}"
    found = rows(log, "metrics")
    added = found[max(i for i, row in enumerate(found) if row["step"] == resumed_at):]
    print(f"  {recipe} {log}: {len(added)} rows, {time.monotonic() - begin:.0f} s", flush=True)
    return added


def run_until_saved(recipe, log, **arguments):
    """Runs a recipe and kills it when it has saved a checkpoint; returns the row of the last checkpoint."""
    output = []
    with start(recipe, log, arguments) as process:
        for line in process.stdout:
            output.append(line)
            if rows(log, "checkpoints"):
                process.kill()
    saved = rows(log, "checkpoints")
    assert saved and saved[-1]["name"] != "final", f"{recipe} was not interrupted:\n{''.join(output[-40:])}"
    return saved[-1]


def rows(log, kind):
    """Complete rows of a log of a recipe."""
    path = os.path.join("log", log, f"{kind}.jsonl")
    if not os.path.exists(path):
        return []
    with open(path, encoding="utf-8") as file:
        return [json.loads(line) for line in file if line.endswith("\n")]


def final(log):
    """The row of the checkpoint at the end of a run."""
    last = rows(log, "checkpoints")[-1]
    assert last["name"] == "final" and last["state_path"] and last["sampler_path"], last
    return last


def values(of, metric):
    """The values of a metric, all of which must be finite."""
    found = [row[metric] for row in of if metric in row]
    assert found and all(math.isfinite(it) for it in found), (metric, of)
    return found


def check_rl(of, steps, reward):
    """Checks the rows of a recipe of reinforcement learning."""
    trained = [row for row in of if reward in row]
    assert [row["step"] for row in trained] == list(steps), of
    values(trained, reward)
    return trained


def supervised_then_rl_loop():
    """sl_loop is killed and resumed; rl_loop goes on with what it learned, by the mechanism for resuming."""
    settings = {"model_name": CHAT_MODEL, "batch_size": 16, "learning_rate": 0.01, "save_every": 10}
    first = run_until_saved("sl_loop", "sl", **settings)
    untrained = rows("sl", "metrics")[0]["train_mean_nll"]
    added = run("sl_loop", "sl", first["batch"], **settings, max_steps=40)
    losses = values(added, "train_mean_nll")
    assert losses[0] < 0.6 * untrained, (untrained, added)
    assert losses[-1] < losses[0], losses
    print(f"  sl_loop: loss {untrained:.3f} -> {losses[-1]:.3f}", flush=True)

    os.makedirs("log/rl", exist_ok=True)
    with open("log/rl/checkpoints.jsonl", "w", encoding="utf-8") as file:
        file.write(json.dumps({"name": "start", "batch": 0, "state_path": final("sl")["state_path"]}) + "\n")
    settings = {"model_name": CHAT_MODEL, "batch_size": 8, "group_size": 8, "max_tokens": 16, "learning_rate": 0.001}
    added = check_rl(run("rl_loop", "rl", **settings, max_steps=4), range(4), "reward/total")
    assert any(values(added, "grad_norm")), added
    print("  rl_loop: rewards", values(added, "reward/total"), flush=True)
    final("rl")


def chat_then_math():
    """chat_sl is killed and resumed; math_rl starts from its checkpoint, ends early and is resumed."""
    settings = {"model_name": CHAT_MODEL, "dataset": "sums.jsonl", "batch_size": 16, "learning_rate": 0.01}
    settings |= {"eval_every": 0, "save_every": 10}
    first = run_until_saved("chat_sl.train", "chat", **settings)
    untrained = rows("chat", "metrics")[0]["train_mean_nll"]
    settings |= {"max_steps": 40, "behavior_if_log_dir_exists": "resume"}
    added = run("chat_sl.train", "chat", first["batch"], **settings)
    losses = values(added, "train_mean_nll")
    assert losses[0] < 0.6 * untrained, (untrained, added)
    assert losses[-1] < losses[0], losses
    print(f"  chat_sl: loss {untrained:.3f} -> {losses[-1]:.3f}")

    settings = {"groups_per_batch": 16, "group_size": 4, "max_tokens": 8, "learning_rate": 0.001}
    settings |= {"load_checkpoint_path": final("chat")["state_path"], "behavior_if_log_dir_exists": "resume"}
    reward = "env/all/reward/total"
    added = check_rl(run("math_rl.train", "math", **settings, max_steps=2), range(2), reward)
    added += check_rl(run("math_rl.train", "math", 2, **settings, max_steps=4), range(2, 4), reward)
    # The gradient is zero if no answer is right by chance.
    values(added, "grad_norm")
    print("  math_rl: rewards", values(added, reward), flush=True)
    # The log-probabilities of the sampler are those of the pass that trains.
    assert all(abs(it) < 1e-4 for it in values(added, "optim/kl_sample_train_v1")), added
    assert final("math")["batch"] == 4


def others():
    """A preference loss, an environment of many turns, and the byte tokens of tinkex/nano."""
    settings = {"batch_size": 8, "learning_rate": 0.01, "max_steps": 6}
    losses = values(run("preference.dpo.train", "dpo", **settings), "dpo_loss")
    assert math.isclose(losses[0], math.log(2), abs_tol=1e-3) and losses[-1] < 0.2 * losses[0], losses
    print(f"  dpo: loss {losses[0]:.3f} -> {losses[-1]:.3f}")
    final("dpo")

    settings = {"batch_size": 2, "group_size": 2, "max_tokens": 8, "eval_every": 0, "max_steps": 2}
    added = run("multiplayer_rl.guess_number.train", "guess", **settings)
    added = check_rl(added, range(2), "env/all/reward/total")
    assert values(added, "env/all/turns_per_episode") == [10, 10], added
    final("guess")

    settings = {"groups_per_batch": 8, "group_size": 4, "max_tokens": 16, "max_steps": 2, "loss_fn": "ppo"}
    added = run("math_rl.train", "bytes", model_name=ALIASES[0], **settings)
    check_rl(added, range(2), "env/all/reward/total")
    final("bytes")


def write(folder):
    """Writes the data sets and the model."""
    tiny_model.write(os.path.join(folder, "model"), tiny_data.write_all(folder))


def served(folder):
    """Arguments of the server: the names by which it serves the models."""
    names = [("--model", f"{MODELS[0]}={os.path.join(folder, 'model')}")]
    names += [("--alias", f"{name}={MODELS[0]}") for name in MODELS[1:]]
    names += [("--alias", f"{name}=tinkex/nano") for name in ALIASES]
    return [it for pair in names for it in pair]


def main():
    """Writes the folder or runs the recipes in it; exits with status 1 if one failed."""
    _, action, folder = sys.argv
    if action == "write":
        return write(folder)
    if action == "served":
        return print("\n".join(served(folder)))
    os.chdir(folder)
    failed = 0
    chains = [supervised_then_rl_loop, chat_then_math, others]
    with concurrent.futures.ThreadPoolExecutor(len(chains)) as pool:
        for chain, future in [(it, pool.submit(it)) for it in chains]:
            try:
                future.result()
                print("ok", chain.__name__, flush=True)
            except Exception:  # pylint: disable=broad-exception-caught
                failed += 1
                print("FAILED", chain.__name__, flush=True)
                traceback.print_exc()
    return sys.exit(1 if failed else 0)


main()
