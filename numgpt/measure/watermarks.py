"""Was a text written with a key? The evidence for a watermark, as exact p-values.

    a score for each token and the h before it --sum--> how likely is that much for a text made without the key?

`decoding.watermark` puts the marks there. A token is marked by the h tokens before it alone, so text may be cut out,
put in and changed: what lies h tokens behind an edit bears witness again. Neither the model nor the prompt is needed.

Source: Fernandez et al. 2023, arXiv:2308.00113, for exact p-values and for what repeats.
"""

import math
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np

from numgpt.checks import check_option
from numgpt.decoding.watermark import (
    ABOUT_KEY,
    ABOUT_NUMBER_KEY,
    GREEN,
    WIDTH,
    green_ids,
    is_key,
    is_number_key,
    keyed_source,
)
from numgpt.fast.sampling import random_words
from numgpt.measure.scoring import windows
from numgpt.sampling import exponentials_of

PART, STEP = 64, 32  # tokens of a part, and from one part to the next

Tail = Callable[[int, float], float]  # (how many scores, their sum) -> log P(as much, or more)


class Part(NamedTuple):
    """A part of a text: the tokens from start up to end."""

    start: int
    end: int
    p_value: float


class Evidence(NamedTuple):
    """How a text looks to whoever has the key.

    p_value    how likely a text made without the key has such a score, or a higher one
    tokens     how many the text has
    scored     how many of them count: those with h others before them, and of those that stand there again the first
    score      the sum of their scores
    parts      the same for parts of the text, each by itself
    p_of_parts how likely a text made without the key has a part with a p-value as low as the lowest
    """

    p_value: float
    tokens: int
    scored: int
    score: float
    parts: list[Part]
    p_of_parts: float


def find_watermark(ids: list[int], key: str) -> Evidence:
    """Look for the marks that `generate` leaves with watermark=key.

        score = sum_t -log(1 - r_t)   ~   Gamma(n, 1) without the key,   r_t = the uniform number of token t

    ids  [T] int: those of the text, with or without its prompt
    Returns an Evidence. Its p-values are exact, for a key that was chosen at random.
    Raises OptionError for what is no key.
    Notes: a token counts once for the h before it: r is the same each time, so repetition is no evidence.
    Source: Aaronson 2022; the p-value is that of Fernandez et al. 2023, arXiv:2308.00113, section 3.

    >>> import numgpt
    >>> m = numgpt.load("storyteller")
    >>> start = m.tokenizer.encode("Once upon a time")
    >>> marked = numgpt.generate(start, m.params, m.config, max_new_tokens=100, seed=0, watermark="secret")
    >>> ids = list(marked)
    >>> find_watermark(ids, "secret").p_value < 1e-6, find_watermark(ids, "another").p_value < 1e-6
    (True, False)
    """
    check_option("key", key, is_key(key), ABOUT_KEY)
    scores = np.full(len(ids), math.nan)
    for t in first_times(ids, WIDTH):
        seed, stream, position = keyed_source(ids[t - WIDTH : t], key)
        e = exponentials_of(random_words(seed, stream, position, ids[t] + 1)[-1:])  # -log r
        scores[t] = -math.log(-math.expm1(-e[0]))
    return evidence(scores, gamma_tail)


def find_green_list(ids: list[int], key: int, n_vocab: int) -> Evidence:
    """Look for the marks that `generate` leaves with green_list=key, as does Transformers' watermarking_config.

        score = how many tokens are green   ~   Binomial(n, 1/4) without the key

    ids      [T] int
    n_vocab  how many ids the model has to choose from
    Returns an Evidence. The p-values are as exact as the lists of different tokens are independent.
    Raises OptionError for what is no key.
    Notes: a pair of tokens counts once, as with ignore_repeated_ngrams in Transformers.
    Source: Kirchenbauer et al. 2023, arXiv:2301.10226; the tail is the binomial one, in place of the normal one.

    >>> ids = [3, 2, 1, 3, 2, 0]
    >>> find_green_list(ids, 15485863, n_vocab=8)[1:4]
    (6, 4, 1.0)
    """
    check_option("key", key, is_number_key(key), ABOUT_NUMBER_KEY)
    scores = np.full(len(ids), math.nan)
    for t in first_times(ids, 1):
        scores[t] = ids[t] in green_ids(n_vocab, ids[t - 1], key)
    share = int(n_vocab * GREEN) / n_vocab
    return evidence(scores, lambda n, green: binomial_tail(n, green, share))


def first_times(ids: list[int], width: int) -> Iterator[int]:
    """Yield the places of the tokens that have so many before them, and have not stood behind the same ones before.

    >>> list(first_times([1, 2, 1, 2, 1, 3], width=1))
    [1, 2, 5]
    """
    seen = set()
    for t in range(width, len(ids)):
        words = tuple(ids[t - width : t + 1])
        if words not in seen:
            seen.add(words)
            yield t


def evidence(scores: np.ndarray, tail: Tail) -> Evidence:
    """Sum up the scores of a text, and of its parts.

    scores  [T]; nan where a token does not count
    Notes: the lowest of m p-values is below p / m with a probability of at most p, however they hang together
    (Bonferroni). So p_of_parts is m times the lowest.
    """

    def p_value(some: np.ndarray) -> float:
        counted = some[~np.isnan(some)]
        return math.exp(min(tail(len(counted), float(counted.sum())), 0.0))

    parts = [Part(start, end, p_value(scores[start:end])) for start, _, end in windows(len(scores), PART, STEP)]
    p_of_parts = min([1.0, *(len(parts) * part.p_value for part in parts)])
    scored, score = int(np.count_nonzero(~np.isnan(scores))), float(np.nansum(scores))
    return Evidence(p_value(scores), len(scores), scored, score, parts, p_of_parts)


def gamma_tail(n: int, score: float) -> float:
    """Compute how likely n draws from the exponential distribution sum to a score or more, as a logarithm.

        log P(Gamma(n, 1) >= s) = log sum_{k<n} exp(-s) s^k / k!

    n >= 0, score >= 0
    Source: the n-th event of a Poisson process comes after s where fewer than n come until then.

    >>> gamma_tail(1, 2.5), round(math.exp(gamma_tail(2, 1.0)), 6)  # (1 + 1) / e
    (-2.5, 0.735759)
    """
    if not n or not score:
        return 0.0
    k = np.arange(n)
    return log_sum_exp(k * math.log(score) - log_factorials(n - 1)) - score


def binomial_tail(n: int, count: float, p: float) -> float:
    """Compute how likely of n events, each of probability p, so many happen or more, as a logarithm.

        log P(Binomial(n, p) >= c) = log sum_{k>=c} n! / (k! (n-k)!) p^k (1-p)^(n-k)

    0 <= count <= n, 0 < p < 1

    >>> round(math.exp(binomial_tail(3, 2, 0.25)), 6)  # (3 * 3 + 1) / 64
    0.15625
    """
    logs = log_factorials(n)
    k = np.arange(int(count), n + 1)
    return log_sum_exp(logs[n] - logs[k] - logs[n - k] + k * math.log(p) + (n - k) * math.log1p(-p))


def log_factorials(n: int) -> np.ndarray:
    """Return log k! for k from 0 to n [n + 1]."""
    return np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, n + 1)))])


def log_sum_exp(x: np.ndarray) -> float:
    """Compute log sum_i exp(x_i), where no x_i is too large or too small for it."""
    return float(x.max() + math.log(np.exp(x - x.max()).sum()))
