"""A small model under which every mistake shows, dumps of it by broken.py, and the words of each verdict."""

from functools import cache

import numpy as np
import pytest
from support.broken import BUGS

import numgpt
from numgpt.config import Config
from numgpt.model import Model
from numgpt.params import map_leaves, param_shapes
from numgpt.verify.dump import Dump
from numgpt.verify.report import compare

WIDE = Config(n_vocab=31, n_ctx=20, n_embd=12, n_head=3, n_layer=3, eos_token_id=None)
IDS = [3, 1, 4, 15, 9, 26, 5, 3, 5]

# What a report must say of each bug.
WORDS = {
    "position offset 1": "position offset: positions count from 1",
    "position offset 2": "position offset: positions count from 2 instead of 0, as in OPT",
    "position offset -1": "position offset: positions count from -1",
    "no positions": "the positions are not added",
    "epsilon 1e-6": "wrong epsilon in the layer norm: 1e-06 instead of 1e-05",
    "epsilon 1e-12": "wrong epsilon in the layer norm: 1e-12 instead of 1e-05",
    "epsilon 1e-3": "wrong epsilon in the layer norm: 0.001 instead of 1e-05",
    "epsilon outside": "epsilon is outside the root",
    "unbiased variance": "unbiased variance",
    "unbiased deviation": "unbiased standard deviation",
    "no mean": "does not subtract the mean",
    "post-LN": "post-LN",
    "order q v k": "q/k/v order: the columns of c_attn are taken as q, v, k",
    "order k q v": "q/k/v order: the columns of c_attn are taken as k, q, v",
    "order k v q": "q/k/v order: the columns of c_attn are taken as k, v, q",
    "order v q k": "q/k/v order: the columns of c_attn are taken as v, q, k",
    "order v k q": "q/k/v order: the columns of c_attn are taken as v, k, q",
    "by head": "q/k/v order: q, k, v side by side within each head",
    "transposed c_attn": "transposed weight: attn.c_attn.w",
    "no c_attn bias": "missing bias: attn.c_attn.b",
    "heads [T, D, H]": "heads split on the wrong axis: [T, C] is reshaped to [T, D, H]",
    "heads without transpose": "heads split on the wrong axis: [T, C] is reshaped to [H, T, D]",
    "heads [D, T, H]": "[T, C] is reshaped to [T, D, H], and taken as D heads of size H",
    "no scale": "missing 1/sqrt(D)",
    "scale sqrt(C)": "scaled by 1/sqrt(C)",
    "no inverse layer": "the scale by the inverse number of the layer, 1/(layer + 1), is missing",
    "mask sees next": "mask off by one: each position sees the one after it",
    "mask hides self": "mask off by one: a position does not see itself",
    "no mask": "no mask",
    "softmax over queries": "softmax on the wrong axis: over the queries",
    "merge [T, D, H]": "heads merged on the wrong axis: [H, T, D] is merged as [T, D, H]",
    "merge without transpose": "heads merged on the wrong axis: [H, T, D] is merged without a transpose",
    "transposed attn.c_proj": "transposed weight: attn.c_proj.w",
    "no attn.c_proj bias": "missing bias: attn.c_proj.b",
    "no residual": "the residual is not added after attention",
    "parallel": "attention and MLP are parallel",
    "transposed c_fc": "transposed weight: mlp.c_fc.w",
    "no c_fc bias": "missing bias: mlp.c_fc.b",
    "erf": "wrong activation: erf GELU instead of tanh GELU",
    "tanh": "wrong activation: tanh GELU instead of erf GELU",
    "half table": "GELU by a half-precision table",
    "relu": "wrong activation: relu",
    "sigmoid": "wrong activation: the sigmoid approximation of GELU",
    "transposed mlp.c_proj": "transposed weight: mlp.c_proj.w",
    "no mlp.c_proj bias": "missing bias: mlp.c_proj.b",
    "no final norm": "no final layer norm",
    "position offset 5": "position offset: positions count from 5 instead of 0: 5 pads",
    "sinusoids in turns": "sinusoidal positions instead of the learned ones (sine and cosine in turns)",
    "sinusoids in halves": "sinusoidal positions instead of the learned ones (all sines, then all cosines)",
    "anew from 4": "tokens from 4 on begin anew at position 0",
    "place 0 from 4": "tokens from 4 on all have position 0",
    "no place from 4": "tokens from 4 on get no position",
    "one up from 4": "tokens from 4 on have positions that are one too high",
    "one down from 4": "tokens from 4 on have positions that are one too low",
    "rotary halves": "rotary positions beside the learned ones (base 10000, pairs of halves",
    "rotary pairs": "rotary positions beside the learned ones (base 10000, pairs of neighbours",
    "values are keys": "the keys are taken for the values",
    "ALiBi": "ALiBi: distances are subtracted from scores, beside the learned ones",
    "soft cap": "a soft cap",
    "window 6": "a window: a position sees the last 6, itself among them",
    "blocks 3": "blocks: a position sees its own block of 3",
    "forgets before 4": "positions from 4 on see none before 4: the cache is forgotten",
    "keeps none from 4": "positions from 4 on see the 4 before and themselves",
    "one row from 4": "the mask of positions from 4 on begins anew",
    "one more in the sum": "softmax with one more in its sum",
    "float16 stream": "the residual stream is kept in half precision (float16)",
    "int8 by output": "the matrices are rounded to int8, one scale an output",
    "logits / sqrt(C)": "= 1/sqrt(C) times ours",
    "logits moved": "all are moved along the axis of positions by 1",
    "float16 weights": "rounded to half precision (float16)",
    "bfloat16 weights": "rounded to half precision (bfloat16)",
}
NEEDS = {"tanh": {"activation_function": "gelu"}, "no inverse layer": {"scale_attn_by_inverse_layer_idx": True}}
ONCE = ("embed", "ln_f", "logits")  # not in a layer


def thorough(*values):
    """Return cases of a test that run only where the thorough ones do."""
    return [pytest.param(value, marks=pytest.mark.thorough) for value in values]


def wide_params(config, seed=0):
    """Weights under which each part of a model does something: as in tests/reference."""
    draw = np.random.default_rng(seed)

    def leaf(path, shape):
        mean, deviation = (1, 0.3) if path.endswith(".g") else (0, 0.3)
        if not path.endswith((".g", ".b")):
            deviation = 1 if path in ("wte", "wpe") else 1.5 / np.sqrt(shape[path == "lm_head"])
        return (mean + deviation * draw.standard_normal(shape)).astype(np.float32)

    return map_leaves(leaf, param_shapes(config))


def wide(**changes):
    config = WIDE._replace(**changes)
    return Model(config, wide_params(config), None)


@cache
def storyteller():
    """The bundled model, and ids."""
    model = numgpt.load("storyteller")
    return model, model.tokenizer.encode("Once upon a time there was a king")


def check(model, ids, tensors):
    return compare(Dump(dict(tensors), {}), model, ids)


def first_tensor(bug, layer):
    base = BUGS[bug]
    return base if base in ONCE else f"h.{layer}.{base}"
