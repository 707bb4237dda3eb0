"""Causes that are computed from the tensors, where a list of guesses would never end: epsilon, factors, orders."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np

from numgpt.config import Config
from numgpt.verify.passes import Cause, Site

SAME = 1e-3  # of their size, by which numbers may differ that are taken for equal
AXES = {2: ("position", "feature"), 3: ("head", "position", "feature or key")}


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
    c, d = b - section * (b - a), a + section * (b - a)
    at_c, at_d = left(c), left(d)
    for _ in range(16):
        if at_c < at_d:
            b, d, at_d = d, c, at_c
            c = b - section * (b - a)
            at_c = left(c)
        else:
            a, c, at_c = c, d, at_d
            d = a + section * (b - a)
            at_d = left(d)
    return float(f"{10 ** ((a + b) / 2):.2g}")


def solve_factor(theirs: np.ndarray, ours: np.ndarray) -> tuple[float, np.ndarray] | None:
    """Return the one factor by which all values differ, and which are left aside: those that are 0 in the dump alone.

    None where it is not the same everywhere.

    >>> factor, dropped = solve_factor(np.array([2.0, 0.0, 6.0]), np.array([1.0, 2.0, 3.0]))
    >>> factor, dropped.tolist()
    (2.0, [False, True, False])
    """
    zero = (theirs == 0) & (ours != 0)
    compared = ~zero & (abs(ours) > SAME * abs(ours).max(initial=0.0))
    if not compared.any():
        return None
    ratios = theirs[compared] / ours[compared]
    factor = float(np.median(ratios))
    return (factor, zero) if abs(ratios - factor).max() < SAME * abs(factor) else None


def name_of_factor(factor: float, config: Config) -> str:
    """Return " = 1/sqrt(D)" and the like for a factor that is of the model's sizes, else nothing."""
    known = {"sqrt(D)": config.head_size**0.5, "sqrt(C)": config.n_embd**0.5, "D": float(config.head_size)}
    known |= {f"1/{name}": 1 / x for name, x in known.items()}
    return next((f" = {name}" for name, x in known.items() if abs(factor / x - 1) < SAME), "")


def solve_order(theirs: np.ndarray, ours: np.ndarray, axis: int) -> np.ndarray | None:
    """Return which of ours along an axis is nearest to each of theirs; None unless most are elsewhere, and equal.

    >>> ours = np.array([[1.0, 5.0], [2.0, 4.0], [3.0, 7.0]])
    >>> solve_order(ours[[1, 2, 0]], ours, axis=0).tolist()
    [1, 2, 0]
    """
    a, b = (np.moveaxis(x, axis, 0).reshape(x.shape[axis], -1) for x in (theirs, ours))
    if not 1 < len(a) <= 4096:
        return None
    near = ((b * b).sum(1) - 2 * a @ b.T).argmin(axis=1)
    size = np.sqrt((a * a).sum(1))
    same = np.sqrt(((a - b[near]) ** 2).sum(1)) <= SAME * size
    moved = same & (size > 0) & (near != np.arange(len(a)))
    return near if 2 * moved.sum() > len(a) else None


def solve_cap(theirs: np.ndarray, ours: np.ndarray) -> float | None:
    """Return the number c for which theirs is c tanh(ours / c), from the largest value; None where there is none.

    >>> round(solve_cap(7 * np.tanh(np.array([1.0, 5.0]) / 7), np.array([1.0, 5.0])), 9)
    7.0
    """
    at = abs(ours).argmax()
    x, y = abs(ours.flat[at]), abs(theirs.flat[at])
    if not 0 < y < x:
        return None
    low, high = y, 1e4 * x
    for _ in range(200):
        middle = (low * high) ** 0.5
        low, high = (middle, high) if middle * np.tanh(x / middle) < y else (low, middle)
    return float(low) if np.allclose(low * np.tanh(ours / low), theirs, rtol=SAME, atol=SAME * y) else None


def solved_causes(name: str, theirs: np.ndarray, ours: np.ndarray, config: Config) -> Iterator[Cause]:
    """Yield what the two tensors say by themselves about the difference, as causes.

    name         of the tensor without "h.N."
    theirs, ours its values, of one shape; masked scores are -inf
    """
    known = np.isfinite(theirs) & np.isfinite(ours)
    if theirs.shape != ours.shape or theirs.ndim not in AXES or not known.any():
        return

    def cause(words: str, edit: Callable[[Site], np.ndarray], **how: Any) -> Cause:
        return Cause(words, {name: edit}, **how)

    if found := solve_factor(np.where(known, theirs, 0), np.where(known, ours, 0)):
        factor, zero = found
        share = zero.mean()
        if share == 0 and abs(factor - 1) > 1e-6:
            words = f"every value is {factor:.6g}{name_of_factor(factor, config)} times ours"
            yield cause(words, lambda s: s.value * factor)
        elif share > 0.005 and abs(factor * (1 - share) - 1) < 0.1:
            words = (
                f"dropout is switched on: {100 * share:.0f} % of the values are 0, the others {factor:.4g} times ours"
            )
            yield cause(words + " (put the model into evaluation mode)", lambda s: np.where(zero, 0, s.value * factor))
    offsets = (theirs - ours)[known]
    offset = float(np.median(offsets))
    if offset and abs(offsets - offset).max() < SAME * abs(offset):
        yield cause(f"every value is {offset:.6g} more than ours", lambda s: s.value + offset)
    if cap := solve_cap(theirs[known], ours[known]):
        yield cause(f"a soft cap: every value x of ours is {cap:.4g} tanh(x / {cap:.4g})", partial(_capped, cap=cap))
    for axis, what in enumerate(AXES[theirs.ndim]):
        yield from _by_axis(cause, np.where(known, theirs, 0), np.where(known, ours, 0), axis, what)


def _capped(site: Site, cap: float) -> np.ndarray:
    return np.where(np.isfinite(site.value), cap * np.tanh(site.value / cap), site.value)


def _by_axis(
    cause: Callable[..., Cause], theirs: np.ndarray, ours: np.ndarray, axis: int, what: str
) -> Iterator[Cause]:
    """Yield what is solved along one axis: another order, a shift, a factor or an offset for each of it."""
    n = theirs.shape[axis]
    order = solve_order(theirs, ours, axis)
    if order is not None:
        steps = (order - np.arange(n)) % n
        step = int(np.median(steps))
        if np.count_nonzero(steps == step) >= n - min(step, n - step):
            shift = step if step <= n // 2 else step - n
            words = (
                f"all are moved along the axis of {what}s by {-shift}: {what} {max(0, -shift)} is our {max(0, shift)}"
            )
        else:
            listed = ", ".join(f"{i} is our {order[i]}" for i in range(min(4, n)))
            words = f"the {what}s are in another order: {listed}"
        yield cause(words, lambda s: np.take(s.value, order, axis))
    others = tuple(i for i in range(theirs.ndim) if i != axis)
    if n > 1 and theirs.size > 2 * n:
        offsets = (theirs - ours).mean(others, keepdims=True)
        size = abs(theirs).max()
        if (
            abs(theirs - ours - offsets).max() < SAME * abs(offsets).max()
            and np.ptp(offsets) > SAME * abs(offsets).max()
        ):
            by = offsets.reshape(-1)
            other = np.flatnonzero(abs(by) > SAME * abs(by).max())
            listed = ", ".join(f"{what} {i} is {by[i]:.4g} more than ours" for i in other[:4])
            if len(other) == n:
                listed = f"each {what} has an offset of its own: {', '.join(f'{x:.4g}' for x in by[:4])}"
            yield cause(f"{listed}{', ...' if len(other) > 4 else ''}", lambda s: s.value + offsets)
        squares = (ours * ours).sum(others, keepdims=True)
        factors = (theirs * ours).sum(others, keepdims=True) / np.where(squares > 0, squares, 1)
        rest = abs(theirs - factors * ours).max()
        if rest < SAME * size and np.ptp(factors) > SAME * abs(factors).max():
            by = factors.reshape(-1)
            other = np.flatnonzero(abs(by - 1) > SAME)
            listed = ", ".join(f"{what} {i} is {by[i]:.4g} times ours" for i in other[:4])
            yield cause(f"{listed}{', ...' if len(other) > 4 else ''}", lambda s: s.value * factors)
