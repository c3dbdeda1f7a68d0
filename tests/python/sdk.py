"""Runs the official Python SDK against a server: trains, saves, loads, samples and lists.

TINKER_BASE_URL and TINKER_API_KEY name the server. The arguments are an alias of its model, the name of the model that
`tiny_model.py` writes, and the flags that it has enabled. All steps run, even if some fail; the exit status is 1 if one
failed. Steps that need torch run only where it is installed.
"""

import importlib.util
import math
import sys
import traceback
import urllib.request

import pyrage
import tinker
from tinker import types

BASE_MODEL = "tinkex/nano"
ALIAS, CHAT_MODEL = sys.argv[1:3]
PROMPT = [72, 105, 33, 32]
COMPLETION = [72, 105, 10]
STEPS = []


def step(function):
    """Registers a step; steps run in the order of the file."""
    STEPS.append(function)
    return function


def needs_torch(function):
    """Registers a step if torch is installed."""
    return step(function) if importlib.util.find_spec("torch") else function


class Shared:
    """Results of earlier steps that later ones use."""

    service = training = rest = None
    state = weights = None
    trained_logprobs = None


def datum(prompt=tuple(PROMPT), completion=tuple(COMPLETION)):
    """A datum that trains the model to continue the prompt with the completion."""
    tokens = [*prompt, *completion]
    weights = [0.0] * (len(prompt) - 1) + [1.0] * len(completion)
    inputs = {
        "target_tokens": types.TensorData(data=tokens[1:], dtype="int64", shape=[len(tokens) - 1]),
        "weights": types.TensorData(data=weights, dtype="float32", shape=[len(weights)]),
    }
    return types.Datum(model_input=types.ModelInput.from_ints(tokens[:-1]), loss_fn_inputs=inputs)


def sampled_datum():
    """A datum for reinforcement learning: with sampling log-probabilities and advantages."""
    n = len(PROMPT) - 1
    inputs = {
        "target_tokens": types.TensorData(data=PROMPT[1:], dtype="int64", shape=[n]),
        "logprobs": types.TensorData(data=[-1.0] * n, dtype="float32", shape=[n]),
        "advantages": types.TensorData(data=[1.0] * n, dtype="float32", shape=[n]),
    }
    return types.Datum(model_input=types.ModelInput.from_ints(PROMPT[:-1]), loss_fn_inputs=inputs)


def completion_logprobs(client):
    """Log-probabilities of the completion after the prompt."""
    return client.compute_logprobs(types.ModelInput.from_ints(PROMPT + COMPLETION)).result()[len(PROMPT):]


@step
def capabilities():
    Shared.service = tinker.ServiceClient(user_metadata={"made_by": "test"})
    Shared.rest = tinker.RestClient()
    models = Shared.rest.get_server_capabilities().result().supported_models
    assert [it.model_name for it in models] == [BASE_MODEL, ALIAS, CHAT_MODEL], models


@step
def create():
    Shared.training = Shared.service.create_lora_training_client(base_model=BASE_MODEL, rank=8, seed=1).result()
    info = Shared.training.get_info()
    assert info.model_data.model_name == BASE_MODEL, info


@step
def tokenizer():
    found = Shared.training.get_tokenizer()
    text = "Hi! \u00e9\u4f60 \U0001f600 a  b\n\t\r\x00\x7f n't  <br> 1 .\u00a0"
    ids = list(text.encode())
    assert found.encode(text) == ids, found.encode(text)
    assert found.decode(ids) == text and found.decode(ids + [256, 511], skip_special_tokens=True) == text
    assert (found.eos_token_id, found.encode("a<|endoftext|>")) == (256, [97, 256]), found
    every = [found.convert_ids_to_tokens(it) for it in range(257)]
    assert found.convert_tokens_to_ids(every) == list(range(257)), every


@step
def program_for_another_model():
    """Runs a program that was written for a model of the service: it names only the alias."""
    training = Shared.service.create_lora_training_client(base_model=ALIAS, rank=4).result()
    assert training.get_info().model_data.model_name == ALIAS, training.get_info()
    reader = training.get_tokenizer()
    prompt = types.ModelInput.from_ints(reader.encode("Hello"))
    sampler = training.save_weights_and_get_sampling_client().result()
    for client in [sampler, Shared.service.create_sampling_client(base_model=ALIAS).result()]:
        assert client.get_base_model() == ALIAS
        # The SDK finds the tokenizer by the name of the model.
        assert client.get_tokenizer().encode("Hello") == list(b"Hello")
        answer = client.sample(prompt, 1, types.SamplingParams(max_tokens=4)).result().sequences[0]
        assert reader.decode(answer.tokens) is not None
    state = training.save_state("alias").result().path
    assert Shared.rest.get_weights_info_by_tinker_path(state).result().base_model == ALIAS
    again = Shared.service.create_training_client_from_state(state).result()
    assert again.get_info().model_data.model_name == ALIAS
    Shared.rest.delete_checkpoint_from_tinker_path(state).result()


@step
def train():
    losses = []
    for _ in range(20):
        step_ = Shared.training.forward_backward([datum(), datum()], "cross_entropy")
        update = Shared.training.optim_step(types.AdamParams(learning_rate=1e-2))
        losses.append(step_.result().metrics["loss:sum"])
        update.result()
    print("  loss", losses[0], "->", losses[-1])
    assert losses[-1] < 0.2 * losses[0], losses


@step
def forward_only():
    output = Shared.training.forward([datum()], "cross_entropy").result()
    logprobs = output.loss_fn_outputs[0]["logprobs"].data
    assert len(logprobs) == len(PROMPT) + len(COMPLETION) - 1 and all(math.isfinite(it) for it in logprobs), output


@step
def policy_losses():
    for loss in ["importance_sampling", "ppo", "cispo", "dro"]:
        output = Shared.training.forward([sampled_datum()], loss).result()
        assert len(output.loss_fn_outputs) == 1, (loss, output)
    datum_ = sampled_datum()
    n = len(PROMPT) - 1
    datum_.loss_fn_inputs["sequence_ratio_mask"] = types.TensorData(data=[1.0] * n, dtype="float32", shape=[n])
    assert len(Shared.training.forward([datum_], "gspo").result().loss_fn_outputs) == 1
    options = {"clip_low_threshold": 0.8, "clip_high_threshold": 1.2}
    Shared.training.forward([sampled_datum()], "ppo", options).result()


@step
def chat():
    """Trains an answer in a chat; the end of the turn ends the answer, without a stop in the request."""
    training = Shared.service.create_lora_training_client(base_model=CHAT_MODEL, rank=8, seed=1).result()
    reader = training.get_tokenizer()
    messages = [{"role": "user", "content": "Say hello."}]
    text = reader.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    prompt, answer = (reader.encode(it, add_special_tokens=False) for it in [text, "Hello, you!<|im_end|>"])
    assert reader.decode(prompt) == text and "<|im_start|>assistant" in text, text
    for _ in range(30):
        training.forward_backward([datum(prompt, answer)], "cross_entropy")
        training.optim_step(types.AdamParams(learning_rate=1e-2)).result()
    sampler = training.save_weights_and_get_sampling_client().result()
    params = types.SamplingParams(max_tokens=40, temperature=0.0)
    sequence = sampler.sample(types.ModelInput.from_ints(prompt), 1, params).result().sequences[0]
    said = reader.decode(sequence.tokens, skip_special_tokens=True)
    assert said == "Hello, you!" and sequence.stop_reason == "stop", (said, sequence)


@step
def reinforcement():
    """Rewards small tokens: samples, trains on what was sampled, and samples from the new weights."""
    for loss in ["importance_sampling", "ppo", "cispo"]:
        training = Shared.service.create_lora_training_client(base_model=BASE_MODEL, rank=8, seed=1).result()
        rewards = []
        for _ in range(10):
            sampler = training.save_weights_and_get_sampling_client().result()
            prompt = types.ModelInput.from_ints(PROMPT)
            sequences = sampler.sample(prompt, 16, types.SamplingParams(max_tokens=8, seed=1)).result().sequences
            earned = [sum(token < 128 for token in it.tokens) / len(it.tokens) for it in sequences]
            rewards.append(sum(earned) / len(earned))
            data = [reward_datum(it, reward - rewards[-1]) for it, reward in zip(sequences, earned)]
            output = training.forward_backward(data, loss)
            training.optim_step(types.AdamParams(learning_rate=1e-2)).result()
            for sequence, found in zip(sequences, output.result().loss_fn_outputs):
                close = zip(sequence.logprobs, found["logprobs"].data[len(PROMPT) - 1:])
                assert all(math.isclose(a, b, abs_tol=1e-3) for a, b in close), (sequence, found)
        print("  reward", loss, rewards[0], "->", rewards[-1])
        assert rewards[-1] > rewards[0] + 0.2, (loss, rewards)


def reward_datum(sequence, advantage):
    """A datum that trains on a sampled sequence."""
    skipped = len(PROMPT) - 1
    tokens = [*PROMPT, *sequence.tokens]
    columns = {"logprobs": sequence.logprobs, "advantages": [advantage] * len(sequence.tokens)}
    n = len(tokens) - 1
    inputs = {"target_tokens": types.TensorData(data=tokens[1:], dtype="int64", shape=[n])}
    for name, column in columns.items():
        inputs[name] = types.TensorData(data=[0.0] * skipped + list(column), dtype="float32", shape=[n])
    return types.Datum(model_input=types.ModelInput.from_ints(tokens[:-1]), loss_fn_inputs=inputs)


@needs_torch
def dpo():
    """Direct preference optimisation, whose loss this program computes."""
    import torch  # pylint: disable=import-outside-toplevel

    training = Shared.service.create_lora_training_client(base_model=BASE_MODEL, rank=8, seed=1).result()
    reference = training.save_weights_and_get_sampling_client().result()
    pair = [COMPLETION, [78, 111, 10]]
    data = [datum(PROMPT, it) for it in pair]
    prompts = [types.ModelInput.from_ints(PROMPT + it) for it in pair]
    before = [sum(reference.compute_logprobs(it).result()[len(PROMPT):]) for it in prompts]

    def preference(_, logprobs):
        chosen, rejected = (it[len(PROMPT) - 1:].sum() - old for it, old in zip(logprobs, before))
        margin = chosen - rejected
        return -torch.nn.functional.logsigmoid(0.5 * margin), {"margin": margin.item()}

    losses = []
    for _ in range(8):
        output = training.forward_backward_custom(data, preference).result()
        losses.append(-math.log(1 / (1 + math.exp(-0.5 * output.metrics["margin"]))))
        training.optim_step(types.AdamParams(learning_rate=1e-2)).result()
    print("  loss", losses[0], "->", losses[-1])
    assert math.isclose(losses[0], math.log(2), abs_tol=1e-3) and losses[-1] < 0.1, losses


@step
def save():
    Shared.state = Shared.training.save_state("python", ttl_seconds=3600).result().path
    Shared.weights = Shared.training.save_weights_for_sampler("python").result().path
    assert Shared.state.endswith("/weights/python"), Shared.state
    assert Shared.weights.endswith("/sampler_weights/python"), Shared.weights


@step
def sample_current_weights():
    sampler = Shared.training.save_weights_and_get_sampling_client().result()
    Shared.trained_logprobs = completion_logprobs(sampler)
    assert sum(Shared.trained_logprobs) > -2.0, Shared.trained_logprobs


@step
def sample_saved_weights():
    sampler = Shared.service.create_sampling_client(model_path=Shared.weights).result()
    assert sampler.get_base_model() == BASE_MODEL
    params = types.SamplingParams(max_tokens=8, temperature=0.0, stop=[10])
    answer = sampler.sample(types.ModelInput.from_ints(PROMPT), 2, params).result()
    for sequence in answer.sequences:
        assert list(sequence.tokens) == COMPLETION, sequence
        assert sequence.stop_reason == "stop" and len(sequence.logprobs) == len(COMPLETION), sequence
    close = zip(completion_logprobs(sampler), Shared.trained_logprobs)
    assert all(math.isclose(a, b, abs_tol=1e-3) for a, b in close)


@step
def sample_base_model():
    sampler = Shared.service.create_sampling_client(base_model=BASE_MODEL).result()
    params = types.SamplingParams(max_tokens=4, seed=3, top_k=5, top_p=0.9)
    futures = [sampler.sample(types.ModelInput.from_ints(PROMPT), 1, params) for _ in range(8)]
    answers = [list(it.result().sequences[0].tokens) for it in futures]
    assert all(1 <= len(it) <= 4 for it in answers), answers
    prompt = types.ModelInput.from_ints(PROMPT)
    reported = sampler.sample(prompt, 1, params, include_prompt_logprobs=True, topk_prompt_logprobs=2).result()
    assert len(reported.prompt_logprobs) == len(reported.topk_prompt_logprobs) == len(PROMPT), reported


@step
def many_samples():
    sampler = Shared.service.create_sampling_client(base_model=BASE_MODEL).result()
    params = types.SamplingParams(max_tokens=2, seed=5)
    prompt = types.ModelInput.from_ints(PROMPT)
    answers = [it.result() for it in [sampler.sample(prompt, 1, params) for _ in range(100)]]
    first = list(answers[0].sequences[0].tokens)
    assert all(list(it.sequences[0].tokens) == first for it in answers), answers
    clone = tinker.SamplingClient.from_sampler_handle(sampler.get_sampler_handle())
    assert list(clone.sample(prompt, 1, params).result().sequences[0].tokens) == first


@step
def external_weights():
    path = Shared.training.save_weights_external("python").result().path
    urls = Shared.rest.get_external_weights_urls(path).result().urls
    assert sorted(urls) == ["adapter_config.json", "adapter_model.safetensors"], urls
    for url in urls.values():
        with urllib.request.urlopen(url, timeout=60) as file:
            assert file.read()
    Shared.rest.delete_checkpoint_from_tinker_path(path).result()


@step
def encrypted_weights():
    identities = [pyrage.x25519.Identity.generate() for _ in range(2)]
    recipients = [str(it.to_public()) for it in identities]
    save = Shared.training.save_weights_external
    path = save("sealed", age_encryption_recipients=recipients).result().path
    urls = Shared.rest.get_external_weights_urls(path).result().urls
    assert sorted(urls) == ["adapter_config.json.age", "adapter_model.safetensors.age"], urls
    for name, url in urls.items():
        with urllib.request.urlopen(url, timeout=60) as file:
            sealed = file.read()
        plain = {pyrage.decrypt(sealed, [it]) for it in identities}
        assert len(plain) == 1, name
        assert b"lora" in plain.pop(), name
        try:
            pyrage.decrypt(sealed, [pyrage.x25519.Identity.generate()])
        except pyrage.DecryptError:
            pass
        else:
            raise AssertionError(f"another key decrypts {name}")
    Shared.rest.delete_checkpoint_from_tinker_path(path).result()


@step
def load():
    for create_ in [
        Shared.service.create_training_client_from_state,
        Shared.service.create_training_client_from_state_with_optimizer,
    ]:
        client = create_(Shared.state).result()
        logprobs = client.forward([datum()], "cross_entropy").result().loss_fn_outputs[0]["logprobs"].data
        close = zip(logprobs[len(PROMPT) - 1:], Shared.trained_logprobs)
        assert all(math.isclose(a, b, abs_tol=1e-3) for a, b in close), logprobs
        client.forward_backward([datum()], "cross_entropy").result()
        client.optim_step(types.AdamParams(learning_rate=1e-4)).result()


@step
def bad_input():
    try:
        Shared.training.forward([datum()], "no_such_loss").result()
    except Exception as error:  # pylint: disable=broad-exception-caught
        assert "no_such_loss" in str(error), error
    else:
        raise AssertionError("a loss that does not exist was accepted")
    Shared.training.forward([datum()], "cross_entropy").result()


@step
def runs():
    run = Shared.state.split("/")[2]
    listed = Shared.rest.list_training_runs().result()
    assert run in [it.training_run_id for it in listed.training_runs], listed
    assert Shared.rest.get_training_run(run).result().base_model == BASE_MODEL
    assert Shared.rest.get_training_run_by_tinker_path(Shared.state).result().training_run_id == run
    info = Shared.rest.get_weights_info_by_tinker_path(Shared.state).result()
    assert info.base_model == BASE_MODEL and info.lora_rank == 8, info


@step
def checkpoints():
    run = Shared.state.split("/")[2]
    paths = [it.tinker_path for it in Shared.rest.list_checkpoints(run).result().checkpoints]
    assert Shared.state in paths and Shared.weights in paths, paths
    paths = [it.tinker_path for it in Shared.rest.list_user_checkpoints().result().checkpoints]
    assert Shared.state in paths, paths
    Shared.rest.set_checkpoint_ttl_from_tinker_path(Shared.state, 7200).result()
    Shared.rest.publish_checkpoint_from_tinker_path(Shared.state).result()
    public = [it.tinker_path for it in Shared.rest.list_checkpoints(run).result().checkpoints if it.public]
    assert public == [Shared.state], public
    Shared.rest.unpublish_checkpoint_from_tinker_path(Shared.state).result()
    copy = Shared.rest.copy_weights(Shared.weights, destination_project_id="elsewhere").result()
    assert copy.endswith("/sampler_weights/python") and copy != Shared.weights, copy
    Shared.rest.delete_checkpoint_from_tinker_path(copy).result()


@step
def account():
    assert tinker.AdminClient().get_current_checkpoint_storage_usage().result().data
    if "pjwt_auth_enabled" in sys.argv:
        assert Shared.rest.whoami().result().user_urn


@step
def sessions():
    listed = Shared.rest.list_sessions().result().sessions
    assert listed
    found = [Shared.rest.get_session(it).result() for it in listed]
    run = Shared.state.split("/")[2]
    assert any(run in it.training_run_ids for it in found), found
    session = run.split(":")[0]
    Shared.rest.assign_session_project(session, "python").result()
    page = Shared.rest.search_sessions(types.SessionSearchRequest(project_ids=["python"])).result()
    assert [it.session_id for it in page.sessions] == [session], page
    with urllib.request.urlopen(Shared.rest.export_session_trace(session).result(), timeout=60) as file:
        assert b"forward_backward" in file.read()


@step
def delete():
    Shared.rest.delete_checkpoint_from_tinker_path(Shared.state).result()
    run, name = Shared.weights.split("/")[2], "sampler_weights/python"
    Shared.rest.delete_checkpoint(run, name).result()
    paths = [it.tinker_path for it in Shared.rest.list_checkpoints(run).result().checkpoints]
    assert Shared.state not in paths and Shared.weights not in paths, paths


@step
def close():
    Shared.service.close("success").result()


def main():
    """Exits with status 1 if a step failed."""
    failed = []
    for function in STEPS:
        try:
            function()
            print("ok", function.__name__, flush=True)
        except Exception:  # pylint: disable=broad-exception-caught
            failed.append(function.__name__)
            print("FAILED", function.__name__, flush=True)
            traceback.print_exc()
    print(f"tinker {tinker.__version__}: {len(STEPS) - len(failed)} of {len(STEPS)} steps", flush=True)
    sys.exit(1 if failed else 0)


main()
