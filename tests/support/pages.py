"""Small models for tests of pages, their trace in float64, and how a page reads what is packed. No test is in here."""

import numpy as np

from numgpt.config import Config
from numgpt.model import Model
from numgpt.pages.packing import DIGITS, NUMBER, WEIGHT
from numgpt.params import map_leaves, random_params
from numgpt.trace import collect

SIZES = {"n_vocab": 90, "n_ctx": 32, "n_embd": 12, "n_head": 3, "n_layer": 2, "n_inner": 20, "eos_token_id": None}


def small(dtype=np.float64, seed=1, tokenizer=None, **changes):
    """Return a model whose every parameter matters: of random weights, gains and biases."""
    config = Config(**{**SIZES, **changes})
    rng = np.random.default_rng(seed)

    def leaf(path, x):
        x = x + rng.normal(0, 0.3, x.shape) if path.endswith((".g", ".b")) else x * 30
        return x.astype(dtype)

    return Model(config, map_leaves(leaf, random_params(config, seed)), tokenizer)


def exact(ids, model, names=None):
    """Return the trace of a model in float64, of all tensors or of those named."""
    params = map_leaves(lambda path, x: x.astype(np.float64), model.params)
    return collect(ids, Model(model.config, params, None), names)


# ---- what is packed, read as packing.py says


def integer(text):
    return int(sum(DIGITS.index(c.encode()) * 64**i for i, c in enumerate(reversed(text))))


def integers(text, width):
    return [integer(text[i : i + width]) for i in range(0, len(text), width)]


def decimal(code, low):
    k = max(0, (code - 100) // 900)
    return float(f"{code - 900 * k}e{k + low}")


def number(code):
    sign, code = divmod(code, 2 ** (6 * NUMBER[0] - 1))
    return (-1) ** sign * decimal(code, NUMBER[1])


def numbers(text, *shape):
    return np.array([number(code) for code in integers(text, NUMBER[0])]).reshape(shape or -1)


def weights(text, *shape):
    return np.array([decimal(code, WEIGHT[1]) for code in integers(text, WEIGHT[0])]).reshape(shape or -1)


def scaled(packed, width, *shape):
    return packed["low"] + packed["step"] * np.array(integers(packed["text"], width)).reshape(shape or -1)


def steps(text):
    found, digits = [], iter(text)
    for c in digits:
        first = integer(c)
        if first < 48:
            found.append(first)
        elif first < 63:
            found.append(48 + integer(DIGITS[first - 48 : first - 47].decode() + next(digits)))
        else:
            found.append(integer(next(digits) + next(digits) + next(digits)))
    return found
