"""From logits to the next id: what may narrow the choice, and the draw.

    logits --controls--> logits --softmax--> probabilities --the race--> an id

A control is a function (logits, text) -> logits, and what it bans becomes -inf. Those here look at the logits alone;
they are applied in the order in which they stand, which is that of Transformers.

The draw is bound to the position in the text, not to the call: the random numbers of a position depend on the seed,
the stream and the position alone. So a text comes out the same whether it is made in one go, resumed, in a batch or by
speculation.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from numgpt.checks import check_finite
from numgpt.ops import softmax

Text = Sequence[int] | np.ndarray  # [T] the ids so far, those of the prompt too
Control = Callable[[np.ndarray, Text], np.ndarray]


def temperature(logits: np.ndarray, T: float) -> np.ndarray:
    """Sharpen (T < 1) or flatten (T > 1) the distribution.

        logit_i / T, less the largest, which softmax does not notice

    logits [V], T >= 0
    Returns [V]. The largest is 0, so that no T, however small, overflows.
    Notes: T = 0 is the limit, the greedy choice: the largest is kept, and of several that tie the first.
    Source: Ackley et al. 1985.

    >>> temperature(np.array([1.0, 3.0]), T=0.5)
    array([-4.,  0.])
    """
    if T == 0:
        return np.where(np.arange(len(logits)) == logits.argmax(), 0, -math.inf)
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
    weights = np.exp(logits - logits.max())  # as the probabilities, but for a factor
    descending = np.sort(weights)[::-1]
    sums = np.cumsum(descending)  # one after the other, so that banned tokens, at its end, change no bit
    count = 1 + int(np.searchsorted(sums, p * sums[-1]))  # the first sum that reaches p
    last = descending[count - 1]
    keep = weights > last
    keep[np.flatnonzero(weights == last)[: count - np.count_nonzero(keep)]] = True
    return np.where(keep, logits, -math.inf)


def min_p(logits: np.ndarray, p: float) -> np.ndarray:
    """Keep the tokens at least p times as likely as the likeliest.

        logit_i >= logit_max + log p

    logits [V], 0 <= p <= 1
    Returns [V].
    Source: Nguyen et al. 2024, arXiv:2407.01082.

    >>> min_p(np.log([0.3, 0.5, 0.05, 0.15]), p=0.3).round(2)
    array([-1.2 , -0.69,  -inf, -1.9 ])
    """
    return np.where(logits < logits.max() + math.log(p), -math.inf, logits) if p else logits


@dataclass(frozen=True)
class OfLogits:
    """A control that looks at the logits alone: one of the functions above, with its setting.

    >>> OfLogits(top_k, 1)(np.array([1.0, 3.0]), [7, 8])
    array([-inf,   3.])
    """

    function: Callable[..., np.ndarray]
    setting: Any

    def __call__(self, logits: np.ndarray, text: Text) -> np.ndarray:
        return self.function(logits, self.setting)


def random_words(seed: int, stream: int, position: int, n: int) -> np.ndarray:
    """Return n random words of 64 bits, the same for the same seed, stream and position.

    seed, stream  0 to 2^64 - 1: the key of the generator
    position      where its counter stands
    Returns [n] uint64.
    Notes: raw output of the generator is used, which NumPy promises never to change.
    Source: Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3": Philox4x64-10.
    """
    key = np.array([seed, stream], dtype=np.uint64)
    counter = np.array([0, position, 0, 0], dtype=np.uint64)  # the first word counts the outputs
    return np.random.Philox(key=key, counter=counter).random_raw(n)


def exponentials_of(words: np.ndarray) -> np.ndarray:
    """Turn random words into independent draws from the exponential distribution.

        E_i = -log(u_i),   u_i = (the upper 52 bits of word i + 1/2) / 2^52, which is uniform on (0, 1)

    words [n] uint64
    Returns [n] float64.
    Notes: with more bits than 52, adding 1/2 could round up to u = 1.
    """
    return -np.log(((words >> np.uint64(12)) + 0.5) * 2.0**-52)


def exponentials(seed: int, stream: int, position: int, n: int) -> np.ndarray:
    """Return n independent draws from the exponential distribution, the same for the same seed, stream and position.

    Returns [n] float64.

    >>> exponentials(seed=1, stream=0, position=7, n=3).round(3)
    array([0.208, 0.185, 0.57 ])
    """
    return exponentials_of(random_words(seed, stream, position, n))


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
    with np.errstate(over="ignore", divide="ignore"):  # at a probability of 0 or near, a clock rings at infinity
        return int(np.argmin(e / probabilities))


def sample(
    logits: np.ndarray,
    text: Text,
    controls: Sequence[Control] = (),
    seed: int = 0,
    stream: int = 0,
    position: int | None = None,
) -> int:
    """Choose the token that follows a text.

        p = softmax(controls(logits))           argmin_i E_i / p_i,   E = exponentials(seed, stream, position)

    logits    [V]  float32 or float64; -inf for what may not come
    text      [T]  the ids so far
    controls  functions (logits, text) -> logits, applied one after the other, such as OfLogits(top_k, 40)
    position  what the draw is bound to; None: T, the place of the token
    Returns an id. All is computed in float64.
    Raises CheckpointError where the logits hold NaN or +inf, or nothing but -inf.

    >>> sample(np.array([0.0, 2.0, 1.0]), text=[7, 8], controls=[OfLogits(temperature, 0.5)], seed=1)
    1
    """
    check_finite(logits, position=len(text))
    logits = logits.astype(np.float64)
    for control in controls:
        logits = control(logits, text)
    position = len(text) if position is None else position
    return draw(softmax(logits), exponentials(seed, stream, position, len(logits)))
