"""The loop that turns a model of the next token into text."""

from collections.abc import Callable, Iterator, Sequence

import numpy as np

from numgpt.cache import KVCache
from numgpt.config import Config
from numgpt.model import Ids, Params, forward

Choose = Callable[[np.ndarray, list[int]], int]  # (logits [V] that follow a text, the text) -> the next id


def generate(
    ids: Ids, params: Params, config: Config, choose: Choose, max_new_tokens: int, stop_ids: Sequence[int] = ()
) -> Iterator[int]:
    """Continue a text: yield one new id after the other, each as soon as it is known.

        id_t = choose(forward(id_0 ... id_t-1)_t-1)

    ids             [T] int, T >= 1
    choose          from the logits of the last position and the text to the next id: `sampling.sample`, with its
                    controls and its seed
    max_new_tokens  the most ids to yield
    stop_ids        the ids that end a text; they are not yielded
    Yields ids. It ends with one of stop_ids, after max_new_tokens, or where the next token would need a position past
    the context.
    Raises what `forward` and `choose` raise, when it comes to that.
    Notes: the cache holds what was computed before, so that each pass computes only what it lacks: the whole prompt at
    first, and then one token.

    >>> from functools import partial
    >>> import numgpt
    >>> from numgpt.sampling import OfLogits, sample, temperature, top_k
    >>> m = numgpt.load("storyteller")
    >>> choose = partial(sample, controls=[OfLogits(temperature, 0.7), OfLogits(top_k, 40)], seed=5)
    >>> ids = m.tokenizer.encode("Once upon a time there")
    >>> m.tokenizer.decode(generate(ids, m.params, m.config, choose, max_new_tokens=12))
    ' lived a king who had a daughter, and'
    """
    text, cache = list(ids), KVCache(config, dtype=params["wte"].dtype)
    for _ in range(min(max_new_tokens, config.n_ctx - len(ids) + 1)):
        logits = forward(text[len(cache) :], params, config, cache=cache, logits_to_keep=1)
        i = choose(logits[-1], text)
        if i in stop_ids:
            return
        text.append(i)
        yield i
