"""Causes that are computed from the tensors, where a list of guesses would never end: an epsilon, so far."""

from collections.abc import Callable

import numpy as np


def solve_eps(x: np.ndarray, y: np.ndarray, g: np.ndarray, b: np.ndarray) -> float | None:
    """Return the epsilon under which layer_norm(x) is y: from each row's 1 / sqrt(var + eps), the median of all.

    It is rounded to two digits; None where it is not between 0 and 1.

    >>> x, g, b = np.array([[1.0, 2.0, 4.0]]), np.ones(3), np.zeros(3)
    >>> solve_eps(x, (x - x.mean()) / np.sqrt(x.var() + 0.01), g, b)
    0.01
    """
    centred = g * (x - x.mean(-1, keepdims=True))
    with np.errstate(all="ignore"):
        slope = ((y - b) * centred).sum(-1) / (centred * centred).sum(-1)
        eps = float(np.median(1 / slope**2 - x.var(-1)))
    return float(f"{eps:.2g}") if 0 <= eps <= 1 else None


def search_eps(remaining: Callable[[float], float]) -> float:
    """Return the epsilon, between 1e-13 and 1, that leaves least of a difference: golden sections of its logarithm.

    remaining  epsilon -> how large the difference is with it

    >>> search_eps(lambda eps: abs(eps - 0.0042))
    0.0042
    """

    def left(power: float) -> float:
        return remaining(10**power)

    powers = np.arange(-12.0, 0.0)
    best = powers[np.argmin([left(power) for power in powers])]
    a, b, section = best - 1, best + 1, (5**0.5 - 1) / 2
    for _ in range(20):
        c, d = b - section * (b - a), a + section * (b - a)
        a, b = (a, d) if left(c) < left(d) else (c, b)
    return float(f"{10 ** ((a + b) / 2):.2g}")
