"""`sampling.sample` once more, made fast."""

import math
from collections.abc import Sequence

import numpy as np

from numgpt.decoding.controls import Sampling, check_not_all_banned, edit, narrow
from numgpt.errors import CheckpointError
from numgpt.ops import softmax
from numgpt.sampling import Text, draw, exponentials


def contenders(logits: np.ndarray, k: int) -> np.ndarray:
    """Return, in ascending order, the ids that top_k may keep: a few more where logits are almost equal to the k-th.

    The temperature comes before top_k, and its rounding can make equal what was not; hence the margin.

    logits [V], 1 <= k <= V
    """
    kth = np.partition(logits, -k)[-k]
    with np.errstate(over="ignore"):
        margin = 1e-6 + 1e-6 * (logits.max() - kth)
        return np.flatnonzero(logits >= kth - margin)


def sample(
    logits: np.ndarray,
    ids: Text,
    options: Sampling,
    seed: int = 0,
    stream: int = 0,
    *,
    prompt_length: int = 0,
    stop_ids: Sequence[int] = (),
) -> int:
    """Choose the token that follows ids.

        draw(softmax(process(logits, ids, options)), exponentials(seed, stream, position=T, n=V))

    logits         [V]  float32 or float64; -inf for what may not come
    ids            [T]  the text so far; its length is the position that the draw is bound to
    prompt_length  how many of ids are the prompt: for min_new_tokens
    stop_ids       the ids that end a text: for min_new_tokens and bad_words
    Returns an id. Probabilities are computed in float64.
    Raises CheckpointError where the logits hold NaN or +inf, or nothing but -inf; OptionError where the controls ban
    every token.
    Notes: the line above is the definition. Tokens that are out of the race are left out early, which changes no id.
    With GPT-2's vocabulary and top_k 40, that takes 0.4 ms instead of 1.4; with top_p alone, 1.2 instead of 2.3.

    >>> sample(np.array([0.0, 2.0, 1.0]), ids=[7, 8], options=Sampling(temperature=0))
    1
    """
    largest = logits[logits.argmax()]  # NaN and +inf both come out on top
    if not math.isfinite(largest):
        raise CheckpointError(
            f"the logits of position {len(ids)} are not finite (largest: {largest}): the weights are damaged or "
            f"overflow float32; `numgpt inspect` tells which tensor; against overflow, run in float64"
        )
    if options.looks_back:
        logits = edit(logits.astype(np.float64), ids, options, prompt_length, stop_ids)
        check_not_all_banned(logits, ids, options)
    if options.temperature == 0:
        return int(logits.argmax())
    kept: np.ndarray | None = None  # the ids that are left, where not all of them are
    if options.top_k and options.top_k < len(logits):
        kept = contenders(logits, int(options.top_k))
        logits = logits[kept]
    logits = narrow(logits.astype(np.float64), options)
    if logits.min() == -math.inf:
        left = np.flatnonzero(logits > -math.inf)
        kept, logits = left if kept is None else kept[left], logits[left]
    probabilities = softmax(logits)
    if kept is None:
        return draw(probabilities, exponentials(seed, stream, len(ids), len(logits)))
    return int(kept[draw(probabilities, exponentials(seed, stream, len(ids), int(kept[-1]) + 1, kept))])
