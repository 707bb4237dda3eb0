"""The distribution of the next token at each position, in so few numbers that a page can hold it, and sample from it.

The likeliest tokens are kept one by one, with their ids. Of those below, the logits alone are kept: of the first of
them each, and then, as the vocabulary goes down, of fewer and fewer. From that the page computes for any temperature
what they weigh together, and where top-p and min-p cut them.
"""

from typing import NamedTuple

import numpy as np

from numgpt.checks import check_finite
from numgpt.model import Model, output_head

SHOWN = 40  # so many of the likeliest are shown with their logit, which is computed in float64
ROWS = 128  # positions whose logits are in memory at a time


class Candidates(NamedTuple):
    """What may follow each position."""

    ids: np.ndarray  # [T, N] int, the likeliest first; of those that tie the lower id
    logits: np.ndarray  # [T, N] float64
    places: np.ndarray  # [M] int, rising: where in the order of likelihood the tokens stand of which more is known
    tails: np.ndarray  # [T, M] float64: the logits at those places


def candidates(x: np.ndarray, model: Model, n: int, fine: int) -> Candidates:
    """Compute the logits, and keep of each position the n likeliest tokens and some logits of the others.

    x     [T, C] float64, behind ln_f
    n     how many are kept one by one; all, where there are fewer
    fine  as in `places_below`
    Raises CheckpointError where a logit is not finite.
    Notes: ids that pad the vocabulary are left out, as they are never sampled. Logits are computed in the dtype of the
    model, and those that are shown once more in float64.
    """
    head = np.asarray(output_head(model.params))[: model.config.n_tokens]
    n = min(n, len(head))
    places = places_below(n, len(head), fine)
    ids, kept, tails = [], [], []
    for start in range(0, len(x), ROWS):
        part = x[start : start + ROWS]
        rows = zip(part, part.astype(head.dtype) @ head.T, strict=True)
        for t, (exact, computed) in enumerate(rows, start):
            descending = np.sort(computed)[::-1].astype(np.float64)
            check_finite(np.abs(descending[[0, -1]]), position=t)
            row = computed.astype(np.float64)
            some = np.flatnonzero(row >= descending[n - 1])
            likeliest = some[np.argsort(-row[some], kind="stable")][:SHOWN]
            row[likeliest] = head[likeliest].astype(np.float64) @ exact
            order = some[np.argsort(-row[some], kind="stable")][:n]
            ids.append(order)
            kept.append(row[order])
            tails.append(descending[places])
    return Candidates(np.array(ids), np.array(kept), places, np.array(tails))


def places_below(n: int, n_tokens: int, fine: int) -> np.ndarray:
    """Return the places, counted from 0, of the tokens below the n likeliest whose logits are kept.

    They are neighbours down to the place `fine`, and (place / fine)^2 apart from there on, but no more than an eighth
    of what is left: the last logits lie far apart. Where a cut falls between two, how many of the tokens between lie
    above it is not known, but they are few beside all that do. No token weighs more than the mean of those above it,
    so what is kept weighs is known as well.

    >>> places_below(2, n_tokens=20, fine=4)
    array([ 2,  3,  4,  5,  6,  7,  8,  9, 10, 11, 12, 13, 14, 15, 16, 17, 18,
           19])
    """
    places, place = [], n - 1
    while place < n_tokens - 1:
        place += max(1, min(place**2 // fine**2, (n_tokens - place) // 8))
        places.append(place)
    return np.array(places, dtype=int)
