"""The distribution of the next token at each position, in so few numbers that a page can hold it, and sample from it.

The likeliest tokens are kept one by one. The many below are kept in bins of their logits: how many there are in each,
and their mean. From that the page computes for any temperature what they weigh together, which top-p, min-p and the
sum under a probability need.
"""

from typing import NamedTuple

import numpy as np

from numgpt.model import Model, output_head

BIN = 1 / 8  # the width of a bin, in logits
SHOWN = 40  # so many of the likeliest are shown with their logit, which is computed in float64
ROWS = 128  # positions whose logits are in memory at a time


class Candidates(NamedTuple):
    """What may follow each position."""

    ids: np.ndarray  # [T, N] int, the likeliest first; of those that tie the lower id
    logits: np.ndarray  # [T, N] float64
    tails: list[tuple[np.ndarray, np.ndarray]]  # for each position: of each bin how many [bins], and their mean [bins]


def candidates(x: np.ndarray, model: Model, n: int) -> Candidates:
    """Compute the logits, and keep of each position the n likeliest tokens and the bins of the others.

    x  [T, C] float64, behind ln_f
    n  how many are kept one by one; all, where there are fewer
    Notes: ids that pad the vocabulary are left out, as they are never sampled. Logits are computed in the dtype of the
    model, and those that are shown once more in float64.
    """
    head = output_head(model.params)[: model.config.n_tokens]
    n = min(n, len(head))
    ids, kept, tails = [], [], []
    for start in range(0, len(x), ROWS):
        part = x[start : start + ROWS]
        for exact, row in zip(part, (part.astype(head.dtype) @ head.T).astype(np.float64), strict=True):
            nth = np.partition(row, -n)[-n]
            some = np.flatnonzero(row >= nth)
            likeliest = some[np.argsort(-row[some], kind="stable")][:SHOWN]
            row[likeliest] = head[likeliest].astype(np.float64) @ exact
            order = some[np.argsort(-row[some], kind="stable")]
            ids.append(order[:n])
            kept.append(row[order[:n]])
            tails.append(binned(np.concatenate([row[row < nth], row[order[n:]]])))
    return Candidates(np.array(ids), np.array(kept), tails)


def binned(logits: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return how many logits are in each bin that has any, the highest bin first, and their mean there.

    >>> binned(np.array([1.01, 1.03, 0.5]))
    (array([2, 1]), array([1.02, 0.5 ]))
    """
    if not logits.size:
        return np.zeros(0, dtype=int), np.zeros(0)
    bins = np.floor((logits.max() - logits) / BIN).astype(int)
    counts = np.bincount(bins)
    sums = np.bincount(bins, weights=logits)
    return counts[counts > 0], sums[counts > 0] / counts[counts > 0]
