"""What the tests of gradients share: a model in which every part does something, and slopes by differences."""

import numpy as np

from numgpt.config import Config
from numgpt.params import map_leaves, random_params

CONFIG = Config(n_vocab=11, n_ctx=6, n_embd=8, n_head=2, n_layer=2)


def wide(config, dtype="float64"):
    """Parameters at which every part of the model does something."""
    draw = np.random.default_rng(1)
    return map_leaves(
        lambda _, x: (x + draw.normal(scale=0.4, size=x.shape)).astype(dtype), random_params(config, dtype=dtype)
    )


PARAMS = wide(CONFIG)
IDS, TARGETS = np.random.default_rng(0).integers(11, size=(2, 3, 6))


def slope(function, x, d_y, step=1e-6):
    """The gradient of sum(d_y * function(x)), by a central difference for each element of x."""
    out = np.empty_like(x)
    for at in np.ndindex(*x.shape):
        ends = []
        for sign in (1, -1):
            moved = x.copy()
            moved[at] += sign * step
            ends.append(np.sum(d_y * function(moved)))
        out[at] = (ends[0] - ends[1]) / (2 * step)
    return out


def close(found, expected):
    """The error of a central difference: step^2 of it from the curve, 1e-16 / step of it from rounding."""
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-8 * max(1, np.abs(expected).max()))
