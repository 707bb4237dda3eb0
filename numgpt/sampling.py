"""From logits to the next id: the controls of sampling, and the draw.

Each control is a pure function from logits [V] to logits [V]; what it bans becomes -inf. They are applied in the order
in which they stand here, which is that of Transformers.

The draw is bound to the position in the text, not to the call: the random numbers of a position depend on the seed,
the stream and the position alone. So a text comes out the same whether it is made in one go, resumed, in a batch or by
speculation.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from numgpt.errors import CheckpointError, OptionError
from numgpt.ops import softmax


def repetition_penalty(logits: np.ndarray, ids: Sequence[int] | np.ndarray, penalty: float) -> np.ndarray:
    """Make the tokens that the text already has less likely.

        logit_i / penalty where logit_i > 0, logit_i * penalty elsewhere, for each i in ids

    logits [V], ids [T] int, penalty > 0 (below 1 it rewards repetition)
    Returns [V].
    Source: Keskar et al. 2019, arXiv:1909.05858, section 4.1; the case of negative logits is from Transformers.

    >>> repetition_penalty(np.array([2.0, -2.0, 2.0]), [0, 1, 1], penalty=2.0)
    array([ 1., -4.,  2.])
    """
    seen = np.asarray(ids, dtype=np.intp)
    seen = seen[seen < len(logits)]  # a prompt may hold ids past those that can be sampled
    out = logits.copy()
    out[seen] = np.where(out[seen] > 0, out[seen] / penalty, out[seen] * penalty)
    return out


def temperature(logits: np.ndarray, T: float) -> np.ndarray:
    """Sharpen (T < 1) or flatten (T > 1) the distribution.

        logit_i / T, less the largest, which softmax does not notice

    logits [V], T > 0
    Returns [V]. The largest is 0, so that no T, however small, overflows.
    Source: Ackley et al. 1985.

    >>> temperature(np.array([1.0, 3.0]), T=0.5)
    array([-4.,  0.])
    """
    with np.errstate(over="ignore"):
        return (logits - logits.max()) / T


def top_k(logits: np.ndarray, k: int) -> np.ndarray:
    """Keep the k largest logits. Those that tie with the k-th stay too, as in Transformers.

    logits [V], k >= 1
    Returns [V].
    Source: Fan et al. 2018, arXiv:1805.04833.

    >>> top_k(np.array([1.0, 3.0, 2.0, 2.0]), k=2)
    array([-inf,   3.,   2.,   2.])
    """
    k = min(int(k), len(logits))
    kth = np.partition(logits, -k)[-k]
    return np.where(logits < kth, -math.inf, logits)


def top_p(logits: np.ndarray, p: float) -> np.ndarray:
    """Keep the nucleus: the fewest tokens, most likely first, whose probabilities sum to p or more.

    logits [V], 0 < p <= 1
    Returns [V]. Of tokens that tie, the lower ids come first.
    Source: Holtzman et al. 2019, arXiv:1904.09751. (OpenAI's released code stops one token early.)

    >>> top_p(np.log([0.3, 0.5, 0.05, 0.15]), p=0.9).round(2)
    array([-1.2 , -0.69,  -inf, -1.9 ])
    """
    probabilities = softmax(logits)
    descending = np.sort(probabilities)[::-1]
    count = 1 + int(np.searchsorted(np.cumsum(descending), p))  # the first sum that reaches p
    last = descending[min(count, len(descending)) - 1]  # rounding may keep even the sum of all below p
    keep = probabilities > last
    keep[np.flatnonzero(probabilities == last)[: count - np.count_nonzero(keep)]] = True
    return np.where(keep, logits, -math.inf)


def min_p(logits: np.ndarray, p: float) -> np.ndarray:
    """Keep the tokens at least p times as likely as the likeliest.

    logits [V], 0 <= p <= 1
    Returns [V].
    Source: Nguyen et al. 2024, arXiv:2407.01082.

    >>> min_p(np.log([0.3, 0.5, 0.05, 0.15]), p=0.3).round(2)
    array([-1.2 , -0.69,  -inf, -1.9 ])
    """
    probabilities = softmax(logits)
    return np.where(probabilities < p * probabilities.max(), -math.inf, logits)


def exponentials(seed: int, stream: int, position: int, n: int) -> np.ndarray:
    """Return n independent draws from the exponential distribution, the same for the same seed, stream and position.

        E_i = -log(u_i),   u_i uniform on (0, 1): the i-th output of Philox with key (seed, stream), counter (position)

    Returns [n] float64.
    Notes: raw output of the generator is used, which NumPy promises never to change.
    Source: Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3".

    >>> exponentials(seed=1, stream=0, position=7, n=3).round(3)
    array([0.208, 0.185, 0.57 ])
    """
    key = np.array([seed, stream], dtype=np.uint64)
    counter = np.array([0, position, 0, 0], dtype=np.uint64)  # the first word counts the outputs
    raw = np.random.Philox(key=key, counter=counter).random_raw(n)
    return -np.log(((raw >> 12) + 0.5) * 2.0**-52)  # with more bits, adding 0.5 could round up to u = 1


def draw(probabilities: np.ndarray, e: np.ndarray) -> int:
    """Draw i with probability p_i, as the first of V clocks to ring.

        argmin_i e_i / p_i,   e_i exponential

    probabilities [V] summing to 1, e [V]
    Returns an int.
    Source: the minimum of exponential clocks with rates p_i is the i-th with probability p_i; the same as the
    Gumbel-max trick (Gumbel 1954), less a logarithm.

    >>> draw(np.array([0.5, 0.0, 0.5]), e=np.array([3.0, 0.1, 2.0]))
    2
    """
    kept = np.flatnonzero(probabilities)
    with np.errstate(over="ignore"):  # a probability near 0 is a clock that rings at infinity
        return int(kept[np.argmin(e[kept] / probabilities[kept])])


class Sampling(NamedTuple):
    """How the next token is chosen. Names are those of Transformers; the defaults are the model's own distribution.

    temperature         0 or more; 0 is greedy: the most likely token, the lowest id where several tie
    top_k               1 or more; None or 0 for off
    top_p               above 0, up to 1; None or 1 for off
    min_p               0 to 1; None or 0 for off
    repetition_penalty  0.001 to 1000; 1 for off
    """

    temperature: float = 1.0
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    repetition_penalty: float = 1.0


def check_sampling(options: Sampling) -> Sampling:
    """Return options. Raises OptionError that names the first one that is out of its range, and the range.

    >>> check_sampling(Sampling(top_p=1.5))
    Traceback (most recent call last):
    numgpt.errors.OptionError: top_p is 1.5, expected a number above 0 and up to 1, or None for off
    """
    t, k, p, m, r = options
    check_option("temperature", t, is_number(t) and t >= 0, "a finite number, 0 (greedy) or more")
    check_option("top_k", k, k is None or (is_integer(k) and k >= 0), "an integer of 1 or more, or None or 0 for off")
    check_option(
        "top_p", p, p is None or (is_number(p) and 0 < p <= 1), "a number above 0 and up to 1, or None for off"
    )
    check_option("min_p", m, m is None or (is_number(m) and 0 <= m <= 1), "a number from 0 to 1, or None for off")
    check_option("repetition_penalty", r, is_number(r) and 0.001 <= r <= 1000, "a number from 0.001 to 1000; 1 for off")
    return options


def check_option(name: str, value: Any, fits: bool, expected: str) -> None:
    """Raise OptionError with the name of the option, what came and what was expected, unless the value fits."""
    if not fits:
        raise OptionError(f"{name} is {value!r:.80}, expected {expected}")


def is_integer(x: Any) -> bool:
    """Whether x counts as an integer: of Python or NumPy, but no bool."""
    return isinstance(x, (int, np.integer)) and not isinstance(x, bool)


def is_number(x: Any) -> bool:
    """Whether x counts as a number: an integer or a float, of Python or NumPy, finite, but no bool."""
    return abs(int(x)) < 10**300 if is_integer(x) else isinstance(x, (float, np.floating)) and math.isfinite(x)


def process(logits: np.ndarray, ids: Sequence[int] | np.ndarray, options: Sampling) -> np.ndarray:
    """Apply the controls to the logits of one position, in order. At temperature 0 only the penalty matters.

    logits [V], ids [T] the text so far
    Returns [V].
    """
    if options.repetition_penalty != 1:
        logits = repetition_penalty(logits, ids, options.repetition_penalty)
    if options.temperature == 0:
        return logits
    if options.temperature != 1:
        logits = temperature(logits, options.temperature)
    if options.top_k:
        logits = top_k(logits, options.top_k)
    if options.top_p is not None and options.top_p < 1:
        logits = top_p(logits, options.top_p)
    if options.min_p:
        logits = min_p(logits, options.min_p)
    return logits


def sample(
    logits: np.ndarray, ids: Sequence[int] | np.ndarray, options: Sampling, seed: int = 0, stream: int = 0
) -> int:
    """Choose the token that follows ids.

    logits  [V]  float32 or float64; -inf for what may not come
    ids     [T]  the text so far: for the penalty, and its length is the position that the draw is bound to
    Returns an id. Probabilities are computed in float64.
    Raises CheckpointError where the logits hold NaN or +inf, or nothing but -inf.

    >>> sample(np.array([0.0, 2.0, 1.0]), ids=[7, 8], options=Sampling(temperature=0))
    1
    """
    if not np.isfinite(logits.max()):  # NaN and +inf both come out on top
        raise CheckpointError(
            f"the logits of position {len(ids)} are not finite (largest: {logits.max()}): the weights are damaged or "
            f"overflow float32; `numgpt inspect` tells which tensor; against overflow, run in float64"
        )
    logits = process(logits.astype(np.float64), ids, options)
    if options.temperature == 0:
        return int(logits.argmax())
    return draw(softmax(logits), exponentials(seed, stream, position=len(ids), n=len(logits)))
