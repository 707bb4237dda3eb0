"""`sampling.sample` once more, made fast: tokens that are out of the race are left out early, which changes no id.

With GPT-2's vocabulary and top_k 40, that takes 0.4 ms instead of 1.4; with top_p alone, 1.2 instead of 2.3.
"""

import math
import threading
from collections.abc import Sequence

import numpy as np

from numgpt.checks import check_finite
from numgpt.ops import softmax
from numgpt.sampling import Control, OfLogits, Text, draw, exponentials_of, temperature, top_k

generators = threading.local()  # one for each thread: a new one takes ten times as long as to set one


def contenders(logits: np.ndarray, k: int) -> np.ndarray:
    """Return, in ascending order, the ids that top_k may keep: a few more where logits are almost equal to the k-th.

    The temperature comes before top_k, and its rounding can make equal what was not; hence the margin.

    logits [V], 1 <= k <= V
    """
    kth = np.partition(logits, -k)[-k]
    with np.errstate(over="ignore"):
        margin = 1e-6 + 1e-6 * (logits.max() - kth)
        return np.flatnonzero(logits >= kth - margin)


def random_words(seed: int, stream: int, position: int, n: int) -> np.ndarray:
    """`sampling.random_words`, by a generator that is there: 14 us instead of 22 for the 4,096 of the storyteller."""
    if not hasattr(generators, "philox"):
        generators.philox = np.random.Philox(key=[0, 0])
    generators.philox.state = {
        "bit_generator": "Philox",
        "state": {"counter": [0, position, 0, 0], "key": [seed, stream]},
        "buffer": [0, 0, 0, 0],
        "buffer_pos": 4,  # nothing is left in it
        "has_uint32": 0,
        "uinteger": 0,
    }
    return generators.philox.random_raw(n)


def most_kept(controls: Sequence[OfLogits]) -> int | None:
    """Return the k of top_k where no other control but a temperature precedes it; or None.

    >>> most_kept([OfLogits(temperature, 0.8), OfLogits(top_k, 40)])
    40
    """
    for control in controls:
        if control.function is top_k:
            return int(control.setting)
        if control.function is not temperature:
            return None
    return None


def sample(
    logits: np.ndarray,
    text: Text,
    controls: Sequence[Control] = (),
    seed: int = 0,
    stream: int = 0,
    position: int | None = None,
) -> int:
    """What `sampling.sample` returns, sooner. Arguments and errors are the same.

    Controls that look at the text have to stand before those that look at the logits alone.

    >>> sample(np.array([0.0, 2.0, 1.0]), text=[7, 8], controls=[OfLogits(top_k, 1)])
    1
    """
    ids, logits, clocks = narrowed(logits, text, controls, seed, stream, position)
    return int(ids[draw(softmax(logits), clocks)])


def sample_with_lead(
    logits: np.ndarray,
    text: Text,
    controls: Sequence[Control] = (),
    seed: int = 0,
    stream: int = 0,
    position: int | None = None,
) -> tuple[int, float]:
    """What `sample` returns, and by how much lower its logit may be so that it is returned still, or 0 if not known.

        min_j(e_j / p_j, j not i) > e_i / (p_i exp(-lead / T))

    With top_k the logit has to stay above the least that is kept, too. Other controls are not looked into.

    >>> sample_with_lead(np.array([0.0, 2.0, 1.25]), text=[7, 8], controls=[OfLogits(temperature, 0)])
    (1, 0.75)
    """
    ids, left, clocks = narrowed(logits, text, controls, seed, stream, position)
    probabilities = softmax(left)
    at = draw(probabilities, clocks)
    i, lead = int(ids[at]), math.inf
    functions = [control.function if isinstance(control, OfLogits) else None for control in controls]
    if functions not in ([], [temperature], [top_k], [temperature, top_k]):
        return i, 0.0
    T = next((control.setting for control in controls if isinstance(control, OfLogits)), 1.0)
    T = T if functions[:1] == [temperature] else 1.0
    if T == 0:
        others = np.delete(logits, i).max(initial=-math.inf)
        return i, float(logits[i]) - float(others)
    if len(left) > 1:
        with np.errstate(all="ignore"):
            times = clocks / probabilities
            fastest, times[at] = times[at], math.inf
            lead = math.log(times.min() / fastest)
    if functions[-1:] == [top_k]:
        lead = min(lead, float(left[at] - left.min()))
    return i, lead * T


def narrowed(
    logits: np.ndarray, text: Text, controls: Sequence[Control], seed: int, stream: int, position: int | None
) -> tuple[Sequence[int] | np.ndarray, np.ndarray, np.ndarray]:
    """Return the ids that are left after all controls, in ascending order, with their logits in float64 and clocks."""
    check_finite(logits, position=len(text))
    of_logits = [control for control in controls if isinstance(control, OfLogits)]
    if len(of_logits) < len(controls):
        logits = logits.astype(np.float64)
    for control in controls[: len(controls) - len(of_logits)]:  # those that look at the text need all logits
        logits = control(logits, text)
    if of_logits and of_logits[0].function is temperature and of_logits[0].setting == 0:
        return [int(logits.argmax())], np.zeros(1), np.ones(1)
    kept: np.ndarray | None = None  # the ids that are left, where not all of them are
    if len(of_logits) < len(controls) and logits.min() == -math.inf:
        kept = np.flatnonzero(logits > -math.inf)
        logits = logits[kept]
    k = most_kept(of_logits)
    if k is not None and k < len(logits):
        among = contenders(logits, k)
        kept, logits = among if kept is None else kept[among], logits[among]
    logits = logits.astype(np.float64)
    for control in of_logits:
        logits = control(logits, text)
    if logits.min() == -math.inf:
        left = np.flatnonzero(logits > -math.inf)
        kept, logits = left if kept is None else kept[left], logits[left]
    position = len(text) if position is None else position
    if kept is None:
        return range(len(logits)), logits, exponentials_of(random_words(seed, stream, position, len(logits)))
    return kept, logits, exponentials_of(random_words(seed, stream, position, int(kept[-1]) + 1)[kept])
