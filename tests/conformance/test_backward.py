"""The gradient of numgpt against autograd, through the GPT-2 of Transformers, live and in float64.

Two correct programs differ by rounding alone. FLOAT64 is a part of the largest value of each gradient: rounding makes
some 1e-14 of it, a step in float32 would make 1e-7.
"""

import importlib.util
import pathlib

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy
from transformers import GPT2Config, GPT2LMHeadModel

import numgpt
from numgpt import ops
from numgpt.checkpoint.names import hub_name
from numgpt.params import leaves
from numgpt.training.backward import loss_and_grads

ROOT = pathlib.Path(__file__).parents[2]
FLOAT64 = 1e-12

# Weights at which every part of a model does something, and gradients of intermediates, as in the dumps.
spec = importlib.util.spec_from_file_location("make_reference", ROOT / "tests" / "reference" / "make_reference.py")
make_reference = importlib.util.module_from_spec(spec)
spec.loader.exec_module(make_reference)

SIZES = {"vocab_size": 29, "n_positions": 11, "n_embd": 12, "n_head": 3, "n_layer": 2}
MODELS = [
    {"activation_function": "gelu_new"},
    {"activation_function": "gelu", "n_inner": 7},
    {"activation_function": "gelu_pytorch_tanh", "layer_norm_epsilon": 0.1, "n_layer": 3},
    {"activation_function": "relu", "tie_word_embeddings": False},
    {"activation_function": "silu", "scale_attn_weights": False},
    {"activation_function": "swish", "n_head": 1, "n_embd": 5},
    {"activation_function": "tanh", "scale_attn_by_inverse_layer_idx": True, "n_layer": 4, "n_inner": 50},
    {"scale_attn_by_inverse_layer_idx": True, "scale_attn_weights": False, "n_layer": 3},
    {"activation_function": "gelu", "n_head": 7, "n_embd": 7, "n_layer": 1},
    {"vocab_size": 3, "n_embd": 6, "n_head": 2, "tie_word_embeddings": False},
]
every_model = pytest.mark.parametrize("seed", range(len(MODELS)))


def random_model(seed, folder):
    """Return one of MODELS in float64 twice, as a model of Transformers and as one of numgpt."""
    settings = {**SIZES, **MODELS[seed]}
    last = settings["vocab_size"] - 1
    config = GPT2Config(**settings, bos_token_id=last, eos_token_id=last, attn_implementation="eager")
    model = GPT2LMHeadModel(config).eval()
    make_reference.spread(model, np.random.default_rng(seed))
    model.to(torch.float64).save_pretrained(folder)
    return model, numgpt.load(folder)


def random_batch(seed, shape):
    """Return ids and targets; about every fifth target does not count, but the first does."""
    draw = np.random.default_rng(seed)
    n_vocab = {**SIZES, **MODELS[seed]}["vocab_size"]
    ids, targets = draw.integers(n_vocab, size=(2, *shape))
    targets.flat[1:][draw.random(targets.size - 1) < 0.2] = -1
    return ids, targets


def autograd(model, ids, targets):
    """Return the loss of a batch [B, T] and the gradient of each parameter, by the Hub's names without prefix."""
    model.zero_grad()
    logits = model(torch.as_tensor(ids), use_cache=False).logits
    loss = cross_entropy(logits.flatten(0, 1), torch.as_tensor(targets).flatten(), ignore_index=-1)
    loss.backward()
    return loss.item(), {name.removeprefix("transformer."): p.grad.numpy() for name, p in model.named_parameters()}


def assert_close(ours, theirs, name):
    assert ours.shape == theirs.shape, name
    assert ours.dtype == theirs.dtype == np.float64, name
    gap, size = np.abs(ours - theirs).max(), np.abs(theirs).max()
    assert gap <= FLOAT64 * size, f"{name}: max |difference| {gap:.3g}, largest value {size:.3g}"


def assert_same_gradients(model, m, ids, targets):
    """Hold numgpt's loss and gradients of m to those that autograd finds for model."""
    loss, grads = loss_and_grads(ids, targets, m.params, m.config)
    expected_loss, expected = autograd(model, ids, targets)
    assert loss == pytest.approx(expected_loss, rel=FLOAT64)
    found = {hub_name(path): x for path, x in leaves(grads)}
    assert set(found) == set(expected)
    for name, x in found.items():
        assert_close(x, expected[name], name)


def test_the_models_cover_all_activations_and_switches():
    """A guard for the tests below."""
    assert {settings.get("activation_function", "gelu_new") for settings in MODELS} == set(ops.ACTIVATIONS)
    switches = {"scale_attn_weights", "scale_attn_by_inverse_layer_idx", "tie_word_embeddings", "n_inner"}
    assert switches <= {key for settings in MODELS for key in settings}


@pytest.mark.parametrize("shape", [(1, 11), (4, 7), (3, 1)])
@every_model
def test_loss_and_gradients_of_random_models(seed, shape, tmp_path):
    assert_same_gradients(*random_model(seed, tmp_path), *random_batch(seed, shape))


@every_model
def test_gradients_of_every_intermediate_of_random_models(seed, tmp_path):
    model, m = random_model(seed, tmp_path)
    ids, targets = random_batch(seed, (9,))
    tensors, _, expected = make_reference.collect(model, torch.as_tensor(ids), torch.as_tensor(targets))
    seen = {}
    loss_and_grads(ids, targets, m.params, m.config, record=lambda name, x: seen.setdefault(name, x))
    assert set(seen) == {*tensors, *(f"d_{name}" for name in tensors)}
    for name in tensors:
        assert_close(seen[f"d_{name}"], expected[f"d_{name}"], f"d_{name}")


@pytest.mark.parametrize("shape", [(1, 64), (4, 20)])
def test_loss_and_gradients_of_trained_weights(shape):
    folder = ROOT / "weights" / "storyteller"
    model = GPT2LMHeadModel.from_pretrained(folder, dtype=torch.float64, attn_implementation="eager").eval()
    m = numgpt.load(folder, dtype="float64")
    ids = m.tokenizer.encode("There was once a king who had three sons, and the youngest was thought a fool. " * 6)
    ids = np.array(ids[: np.prod(shape) + 1])
    ids, targets = ids[:-1].reshape(shape), ids[1:].reshape(shape).copy()
    targets[0, ::7] = -1
    assert_same_gradients(model, m, ids, targets)
