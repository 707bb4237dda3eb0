"""What a tensor says about the step that made it: the rows, masks, biases and parameters that were put in are found."""

import numpy as np
import pytest
from support.broken import dump
from support.dumps import IDS, check, thorough, wide

DICE = np.random.default_rng(0)
T = len(IDS)


def told(name, change):
    """Return the likeliest cause where one tensor of a right dump is changed."""
    model = wide()
    tensors = dump(IDS, model.params, model.config, dtype=np.float32)
    tensors[name] = change(tensors, model.params).astype(np.float32)
    [cause, *_] = check(model, IDS, tensors).causes
    return cause


def softmax(x):
    e = np.exp(x - x.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def test_the_positions_that_were_looked_up():
    places = [0, 1, 2, 9, 9, 3, 17, 0, 4]
    cause = told("embed", lambda t, p: p["wte"][IDS] + p["wpe"][places])
    assert cause.startswith("embed: other positions: 0, 1, 2, 9, 9, 3, 17, 0, ... instead of 0, 1, 2, 3")


def test_the_ids_that_were_looked_up():
    ids = [3, 1, 4, 15, 9, 26, 30, 3, 5]
    cause = told("embed", lambda t, p: p["wte"][ids] + p["wpe"][:T])
    assert cause.startswith("embed: other ids: 3, 1, 4, 15, 9, 26, 30, 3, ... instead of 3, 1, 4, 15, 9, 26, 5, 3")


@pytest.mark.thorough
def test_biases_by_distance():
    biases = DICE.normal(size=(3, T))

    def change(tensors, params):
        scores = tensors["h.1.attn.scores"].copy()
        for head, row, key in np.argwhere(np.isfinite(scores)):
            scores[head, row, key] += biases[head, row - key]
        return scores

    cause = told("h.1.attn.scores", change)
    assert cause.startswith("h.1.attn.scores: relative biases: scores get something for each head and distance")


@pytest.mark.parametrize("factor", [0.7, *thorough(1.3, 2.0)])
@pytest.mark.thorough
def test_a_temperature(factor):
    cause = told("h.2.attn.weights", lambda t, p: softmax(factor * t["h.2.attn.scores"]))
    assert cause.startswith(f"h.2.attn.weights: a temperature: scores are multiplied by {factor:g} before the softmax")


@pytest.mark.thorough
def test_any_mask():
    sees = np.tri(T, dtype=bool)
    sees[5, 1] = sees[7, 3] = False

    def change(tensors, params):
        return softmax(np.where(sees, tensors["h.0.attn.scores"], -np.inf))

    cause = told("h.0.attn.weights", change)
    assert cause.startswith("h.0.attn.weights: another mask: position 5 sees 0, 2, 3, 4, 5")


@pytest.mark.parametrize(
    "part",
    ["attn.k", *thorough("ln_2", "attn_out", "mlp.pre", "mlp_out")],
)
def test_parameters_of_another_layer(part):
    """Computed from what the dump has in front of it."""

    def change(tensors, params):
        p, at = params["h"][2], "h.1."
        if part == "ln_2":
            x = tensors[at + "resid_mid"].astype(np.float64)
            x = (x - x.mean(axis=1, keepdims=True)) / np.sqrt(x.var(axis=1, keepdims=True) + 1e-5)
            return x * p["ln_2"]["g"] + p["ln_2"]["b"]
        x, linear = {
            "attn_out": (np.concatenate(list(tensors[at + "attn.z"]), axis=1), p["attn"]["c_proj"]),
            "mlp.pre": (tensors[at + "ln_2"], p["mlp"]["c_fc"]),
            "mlp_out": (tensors[at + "mlp.post"], p["mlp"]["c_proj"]),
            "attn.k": (tensors[at + "ln_1"], p["attn"]["c_attn"]),
        }[part]
        y = x @ linear["w"] + linear["b"]
        return np.stack([y[:, 12 + 4 * h : 16 + 4 * h] for h in range(3)]) if part == "attn.k" else y

    assert told(f"h.1.{part}", change).startswith(f"h.1.{part}: {part} has the parameters of layer 2")
