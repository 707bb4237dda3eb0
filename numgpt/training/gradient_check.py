"""A gradient held against differences of the loss."""

from collections.abc import Callable
from typing import Any

import numpy as np

from numgpt.config import Config
from numgpt.model import Params
from numgpt.params import faults, in_short, leaves, map_leaves
from numgpt.training.backward import Gradients, loss, loss_and_grads

STEP = 1e-7  # of check_gradient: small enough for a curved loss, and for most of relu's corners


def check_gradient(
    ids: Any,
    targets: Any,
    params: Params,
    config: Config,
    loss_and_grads: Callable[..., tuple[float, Gradients]] = loss_and_grads,
    *,
    seed: int = 0,
    tolerance: float = 1e-6,
) -> dict[str, tuple[float, float]]:
    """Hold a gradient against differences of the loss, parameter by parameter, each along a direction drawn at random.

        sum of d_p u  ~  (loss(p + STEP u) - loss(p - STEP u)) / (2 STEP),   u normal, of the shape of p

    loss_and_grads  the function to be checked, of the same signature as ours
    tolerance       by how much the two may differ, as a part of the length of d_p; rounding comes on top
    Returns path -> (along the gradient, by the difference), in the order of the tree. All is computed in float64.
    Raises AssertionError, as numpy.testing does, for another loss than ours, for a tree unlike params, and for the
    first parameter where the two differ, with both numbers.
    Notes: rounding is some 1e-8 of the loss, and a fault smaller than that is not seen: use weights that are wide, as a
    fresh model has small gradients. With thousands of relus a step may cross a corner: another seed tells that from a
    fault.

    >>> from numgpt.params import random_params
    >>> config = Config(n_vocab=7, n_ctx=4, n_embd=8, n_head=2, n_layer=1)
    >>> found = check_gradient([1, 2, 3], [2, 3, 4], random_params(config), config)
    >>> list(found)[:3]
    ['wte', 'wpe', 'h.0.ln_1.g']
    """
    params = map_leaves(lambda path, x: x.astype(np.float64), params)

    def loss_at(path: str, change: np.ndarray) -> float:
        return loss(ids, targets, map_leaves(lambda at, x: x + change if at == path else x, params), config)

    given_loss, grads = loss_and_grads(ids, targets, params, config)
    size = loss(ids, targets, params, config)
    if not abs(given_loss - size) <= tolerance * max(size, 1):
        raise AssertionError(f"the loss is {given_loss:.9g}, expected {size:.9g}, the mean cross-entropy")
    by_path = {path: np.asarray(d_p) for path, d_p in leaves(grads)}
    if wrong := faults(*({path: x.shape for path, x in tree} for tree in (by_path.items(), leaves(params)))):
        raise AssertionError(f"the gradients do not fit the parameters: {in_short(wrong)}")
    rounding = 4 * np.finfo(np.float64).eps * max(size, 1) / STEP
    draw = np.random.default_rng(seed)
    found = {}
    for path, p in leaves(params):
        d_p, u = by_path[path], draw.standard_normal(p.shape)
        along = float((d_p * u).sum())
        difference = (loss_at(path, STEP * u) - loss_at(path, -STEP * u)) / (2 * STEP)
        if not abs(along - difference) <= tolerance * float(np.linalg.norm(d_p)) + rounding:
            raise AssertionError(
                f"{path}: the gradient says {along:.9g} along a direction drawn at random, the loss itself changes by "
                f"{difference:.9g}: the gradient of this parameter, or of what comes after it, is wrong"
            )
        found[path] = along, difference
    return found
