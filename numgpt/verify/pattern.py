"""What a difference looks like that no known mistake explains: a factor, moved heads, dropout, half precision."""

import numpy as np

from numgpt.config import Config
from numgpt.verify.noise import masked, precision_of
from numgpt.verify.solve import AXES, SAME, name_of_factor, solve_factor, solve_order


def describe(name: str, theirs: np.ndarray, ours: np.ndarray, config: Config) -> list[str]:
    """Say what the difference of a tensor looks like, in a line for each thing that is seen."""
    theirs = masked(name, theirs)
    if name == "logits":
        ours = ours[-len(theirs) :]
    lines = _not_finite(theirs, ours)
    known = np.isfinite(theirs) & np.isfinite(ours)
    if not known.any():
        return lines
    if name == "embed":
        lines.append("is it the same checkpoint, and are these the ids?")
    lines += factor_line(theirs[known], ours[known], config)
    lines += _correlation(theirs[known], ours[known])
    lines += _moved(np.where(known, theirs, 0), np.where(known, ours, 0))
    lines += _half_precision(theirs[known])
    lines += _places(theirs, ours, known)
    return lines


def _not_finite(theirs: np.ndarray, ours: np.ndarray) -> list[str]:
    """Say how many values are NaN, and how many are masked in one of the two alone."""
    lines = []
    if nan := int(np.isnan(theirs).sum()):
        lines.append(f"{nan} of {theirs.size} values are NaN: from a softmax of masked scores alone, or overflow")
    if other := int((np.isneginf(theirs) != np.isneginf(ours)).sum()):
        lines.append(f"{other} of {theirs.size} places are masked in one and not in the other")
    return lines


def factor_line(theirs: np.ndarray, ours: np.ndarray, config: Config) -> list[str]:
    """Say by which one factor all values differ, leaving aside those that are 0 in the dump alone."""
    found = solve_factor(theirs, ours)
    if found is None:
        return []
    factor, zero = found
    zeros = zero.mean()
    if zeros > 0.005:
        line = f"{100 * zeros:.0f} % of the values are 0, the others are {factor:.4g} times ours"
        keeps_the_mean = abs(factor * (1 - zeros) - 1) < 0.1
        return [line + (": dropout is switched on (put the model into evaluation mode)" if keeps_the_mean else "")]
    return [f"every value is {factor:.6g}{name_of_factor(factor, config)} times ours"] if abs(factor - 1) > 1e-6 else []


def _correlation(theirs: np.ndarray, ours: np.ndarray) -> list[str]:
    if theirs.size > 2 and theirs.std() and ours.std():
        return [f"the correlation with ours is {np.corrcoef(theirs, ours)[0, 1]:.4f}"]
    return []


def _half_precision(theirs: np.ndarray) -> list[str]:
    """Say so where all values are of a half precision; a few numbers may be so by chance."""
    precision = precision_of(theirs)
    if precision in ("float16", "bfloat16") and len(np.unique(theirs)) > 4:
        return [f"all its values are numbers of {precision}: computed, or kept, in half precision"]
    return []


def _moved(theirs: np.ndarray, ours: np.ndarray) -> list[str]:
    """Say which heads, positions or features are ours in another order."""
    lines = []
    for axis, what in enumerate(AXES[theirs.ndim]):
        near = solve_order(theirs, ours, axis)
        if near is not None:
            moved = np.flatnonzero(near != np.arange(len(near)))
            listed = ", ".join(f"{i} is our {near[i]}" for i in moved[:4])
            lines.append(f"{len(moved)} of {len(near)} along the axis of {what}s are moved: {what} {listed}, ...")
    return lines


def _places(theirs: np.ndarray, ours: np.ndarray, known: np.ndarray) -> list[str]:
    """Say which positions, heads or features differ, if not all of them do."""
    difference = np.where(known, abs(np.where(known, theirs, 0) - np.where(known, ours, 0)), np.inf)
    difference[~known & (theirs == ours)] = 0
    wrong = difference > SAME * np.max(difference[np.isfinite(difference)], initial=0.0)
    lines = []
    for axis, what in enumerate(AXES[theirs.ndim]):
        others = tuple(i for i in range(theirs.ndim) if i != axis)
        hit = np.flatnonzero(wrong.any(axis=others))
        if 0 < len(hit) < theirs.shape[axis]:
            listed = ", ".join(map(str, hit[:8])) + (", ..." if len(hit) > 8 else "")
            lines.append(f"of {theirs.shape[axis]} along the axis of {what}s {len(hit)} differ: {listed}")
    return lines
