"""AdamW, its schedule, and the length of a gradient."""

import math
from typing import NamedTuple

import numpy as np

from numgpt.model import Params
from numgpt.params import leaves, map_leaves
from numgpt.training.backward import Gradients


class State(NamedTuple):
    """Where training is: what a step takes and returns."""

    step: int  # how many are done
    params: Params
    m: Params  # the mean gradient of late, a tree like params
    v: Params  # the mean of its square


def start_state(params: Params) -> State:
    """Return the state before the first step: no gradient was seen yet."""

    def zeros() -> Params:
        return map_leaves(lambda path, p: np.zeros_like(p), params)

    return State(0, params, m=zeros(), v=zeros())


def adamw_leaf(
    p: np.ndarray,
    g: np.ndarray,
    m: np.ndarray,
    v: np.ndarray,
    t: int,
    lr: float,
    beta1: float,
    beta2: float,
    weight_decay: float,
    eps: float = 1e-8,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Take a step of AdamW with one tensor, at step t = 1, 2, ...

        m = beta1 m + (1 - beta1) g         v = beta2 v + (1 - beta2) g^2
        p = p - lr (m / (1 - beta1^t) / (sqrt(v / (1 - beta2^t)) + eps) + weight_decay p)

    p, g, m, v  of one shape: the parameter, its gradient, and the two means before
    Returns p, m and v, new arrays of their dtype.
    Notes: m and v begin at 0, and the two divisors make up for that. The decay is no part of the gradient: that is the
    W in the name.
    Source: Loshchilov & Hutter 2019, arXiv:1711.05101, algorithm 2, with lr for both alpha and eta, as in PyTorch.

    >>> one = np.ones(1)
    >>> adamw_leaf(4 * one, g=3 * one, m=0 * one, v=0 * one, t=1, lr=0.5, beta1=0.9, beta2=0.99, weight_decay=0.25)
    (array([3.]), array([0.3]), array([0.09]))
    """
    m = beta1 * m + (1 - beta1) * g
    v = beta2 * v + (1 - beta2) * (g * g)
    direction = m / (1 - beta1**t) / (np.sqrt(v / (1 - beta2**t)) + eps)
    return p - lr * (direction + weight_decay * p), m, v


def adamw(
    state: State, grads: Gradients, lr: float, *, beta1: float = 0.9, beta2: float = 0.99, weight_decay: float = 0.1
) -> State:
    """Take one step of AdamW: `adamw_leaf` for each parameter. Only matrices decay.

    grads  a tree like state.params
    Returns the next State. No argument is modified.
    Notes: the two embeddings are matrices and decay too, as in nanoGPT; gains and biases do not.
    """
    g, m, v = dict(leaves(grads)), dict(leaves(state.m)), dict(leaves(state.v))
    t = state.step + 1
    new = {}
    for path, p in leaves(state.params):
        decay = weight_decay if p.ndim == 2 else 0.0
        new[path] = adamw_leaf(p, g[path], m[path], v[path], t, lr, beta1, beta2, decay)

    def tree(part: int) -> Params:
        return map_leaves(lambda path, _: new[path][part], state.params)

    return State(t, params=tree(0), m=tree(1), v=tree(2))


def clip(grads: Gradients, max_norm: float) -> tuple[Gradients, float]:
    """Shorten the gradient, as one vector of all parameters, to a length of at most max_norm.

        g = g min(1, max_norm / (|g| + 1e-6)),   |g| = sqrt(sum of g_i^2)

    max_norm  0 for no limit
    Returns the gradients and the length that they had.
    Source: Pascanu et al. 2013, arXiv:1211.5063; the 1e-6 is PyTorch's.

    >>> grads, norm = clip({"a": np.array([3.0]), "b": np.array([4.0])}, max_norm=1.0)
    >>> norm, grads["b"].round(3)
    (5.0, array([0.8]))
    """
    norm = math.sqrt(sum(float(np.vdot(g, g)) for _, g in leaves(grads)))
    scale = max_norm / (norm + 1e-6)
    if max_norm and scale < 1:
        grads = map_leaves(lambda path, g: g * scale, grads)
    return grads, norm


def schedule(step: int, *, learning_rate: float, min_lr: float, warmup_steps: int, steps: int) -> float:
    """Return the learning rate of a step, 1 to steps: up in a straight line, then down along a cosine.

        learning_rate step / warmup_steps                                              up to warmup_steps
        min_lr + (learning_rate - min_lr) (1 + cos(pi x)) / 2,   x from 0 to 1         after it

    Source: Loshchilov & Hutter 2017, arXiv:1608.03983, without restarts. nanoGPT counts from 0, so is a step behind.

    >>> [schedule(s, learning_rate=8.0, min_lr=2.0, warmup_steps=2, steps=6) for s in (1, 2, 4, 6)]
    [4.0, 8.0, 5.0, 2.0]
    """
    if step <= warmup_steps:
        return learning_rate * step / warmup_steps
    x = (step - warmup_steps) / (steps - warmup_steps)
    return min_lr + (learning_rate - min_lr) * (1 + math.cos(math.pi * x)) / 2
