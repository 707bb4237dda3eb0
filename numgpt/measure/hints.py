"""Does a text look as if a model had written it? Figures that tell something of it, and prove nothing.

A model writes what it takes to be likely, the more so the lower the temperature; people surprise it now and then. So
likely tokens are a hint. They are no more than that: plain writing, and text that the model has learnt by heart, looks
the same, and so does not what another model wrote, or this one at temperature 1.
"""

import math
from typing import NamedTuple

import numpy as np

from numgpt.measure.scoring import score
from numgpt.model import Model, tokenizer_of

ENDS = b".!?"  # what ends a sentence
BOUNDS = (10, 100, 1000)  # the last ranks of the bins


class Hints(NamedTuple):
    """How a text looks to a model.

    tokens      how many were scored: all but the first
    top_10      the share of them that were among the model's first 10 choices
    top_100     among its next, up to 100
    top_1000    among its next, up to 1,000
    rest        beyond; the four sum to 1
    perplexity  as `Score` has it
    burstiness  how far the sentences differ in how surprising they are, in bits a token; None for fewer than two
    """

    tokens: int
    top_10: float
    top_100: float
    top_1000: float
    rest: float
    perplexity: float
    burstiness: float | None


def look(model: Model, ids: list[int]) -> Hints:
    """Compute the figures of a text.

    ids  [T] int, two or more
    Returns Hints.
    Raises TokenError for a text too short to score, and for a model without a tokenizer.
    Source: Gehrmann et al. 2019, arXiv:1906.04043 (GLTR), for the shares by rank.

    >>> import numgpt
    >>> model = numgpt.load("storyteller")
    >>> found = look(model, model.tokenizer.encode("Once upon a time there was a king. He was happy."))
    >>> found.tokens, round(found.top_10, 2), round(found.perplexity, 1)
    (14, 0.93, 9.9)
    """
    found = score(model, ids)
    bins = np.searchsorted(BOUNDS, found.ranks[found.ranks > 0])
    top_10, top_100, top_1000, rest = (np.bincount(bins, minlength=4) / len(bins)).tolist()
    pieces = tokenizer_of(model).pieces(found.ids)
    bursts = burstiness(found.log_probs, pieces)
    return Hints(found.tokens, top_10, top_100, top_1000, rest, found.perplexity, bursts)


def burstiness(log_probs: np.ndarray, pieces: list[bytes]) -> float | None:
    """Compute how far the sentences of a text differ in how surprising they are.

        the standard deviation, over the sentences, of the mean of -log2 p of their tokens

    log_probs  [T] natural logarithms; nan where a token was not scored
    pieces     [T] the tokens' bytes. A sentence ends with a token that has one of . ! ? in it
    Returns bits a token; None for fewer than two sentences.

    >>> log_probs = np.log([0.5, 0.5, 0.25, 0.0625])
    >>> burstiness(log_probs, [b"Yes", b".", b" No", b"!"])  # means of 1 and 3
    1.0
    """
    ends = [t + 1 for t, piece in enumerate(pieces) if any(mark in piece for mark in ENDS)]
    sentences = np.split(-log_probs / math.log(2), ends)
    means = [np.nanmean(bits) for bits in sentences if not np.isnan(bits).all()]
    return float(np.std(means)) if len(means) > 1 else None
