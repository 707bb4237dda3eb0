"""How likely texts are to end in one way or another, with the beginnings that they share computed once.

    "The sky is" + " blue"                The sky is blue ──────► keys and values stay in the cache
    "The sky is" + " green, they say"     ········· is green, they say     goes on where the two part

Sorted by their ids, texts that begin alike stand side by side: the answers to a question, questions behind the same
examples. Each goes on from the cache of the one before it, which keeps what both have and forgets the rest.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import NamedTuple

import numpy as np

from numgpt import fast
from numgpt.cache import KVCache
from numgpt.checks import check_count, check_ids
from numgpt.config import Config
from numgpt.errors import ContextError, TokenError
from numgpt.measure.scoring import ROWS, log_prob
from numgpt.model import Model

BATCH_SIZE = 8


class Ending(NamedTuple):
    """How likely an ending is."""

    log_prob: float  # of all its ids together, after what stands before; natural logarithm
    greedy: bool  # whether each of its ids is the likeliest, so that greedy decoding would write it


@dataclass
class Asked:
    """An ending that is asked for, and what is known of it so far."""

    number: int
    first: int  # where in its text the ending begins
    last: int  # its last id, which is predicted and never read
    log_prob: float = 0.0
    greedy: bool = True

    def look_at(self, logits: np.ndarray, ids: tuple[int, ...], at: int) -> None:
        """Take in the logits [n, V] that predict the ids of the text from `at` on, behind which comes `last`."""
        for t, row in enumerate(logits, at):
            if t >= self.first:
                i = ids[t] if t < len(ids) else self.last
                self.log_prob += log_prob(row, i)
                self.greedy &= bool(row.argmax() == i)


class Step(NamedTuple):
    """A part of a text that goes through the model at once."""

    ids: tuple[int, ...]  # all that is read of the text
    past: int  # how many of them the cache is to hold when the step begins
    at: int  # the first position that is predicted
    stop: int  # one past the last: the step reads ids[past : stop - 1]
    asked: list[Asked]


def score_endings(
    model: Model, pairs: Sequence[tuple[list[int], list[int]]], batch_size: int = BATCH_SIZE
) -> Iterator[tuple[int, Ending]]:
    """Compute how likely each ending is after what stands before it.

        log p(ending | before) = sum_t log p(id_t | all ids before id_t)

    pairs       of each text the ids before, one or more, and those of its ending, 1 to n_ctx. Where both together are
                more than n_ctx + 1, the first are left out: the last id is predicted and takes no position
    batch_size  how many texts go through the model side by side, each lane of them with a cache of its own
    Yields pairs of a number, that of the ending among all, and its Ending, in the order in which they are done.
    Raises TokenError for ids that are none, or outside the vocabulary; ContextError for an ending of more than n_ctx
    ids; CheckpointError for logits that are not finite; OptionError for a batch_size below 1.
    Notes: texts that differ in their last id alone are one pass. What is shared is the beginning of two texts that are
    neighbours in a lane, and at most as much as stands before the ending, for of the ending all logits are needed.

    >>> import numgpt
    >>> model = numgpt.load("storyteller")
    >>> before = model.tokenizer.encode("Once upon a")
    >>> endings = [model.tokenizer.encode(text) for text in (" time", " king")]
    >>> for number, ending in sorted(score_endings(model, [(before, ids) for ids in endings])):
    ...     print(number, round(ending.log_prob, 1), ending.greedy)
    0 -0.0 True
    1 -10.2 False
    """
    check_count("batch_size", batch_size, least=1)
    texts = sorted(gather(pairs, model.config).items())
    size = -(-len(texts) // batch_size)
    parts = [texts[start : start + size] for start in range(0, len(texts), size or 1)]
    lanes = [steps(part) for part in parts]
    positions = [max(len(ids) for ids, _ in part) for part in parts]
    caches = [KVCache(model.config, model.params["wte"].dtype, n) for n in positions]
    for abreast in zip_longest(*lanes):
        going = [(step, cache) for step, cache in zip(abreast, caches, strict=True) if step]
        for step, cache in going:
            cache.truncate(step.past)
        logits = fast.forward_batch(
            [step.ids[step.past : step.stop - 1] for step, _ in going],
            model.params,
            model.config,
            [cache for _, cache in going],
            logits_to_keep=max(step.stop - step.at for step, _ in going),
        )
        for (step, _), rows in zip(going, logits, strict=True):
            for asked in step.asked:
                asked.look_at(rows[step.at - step.stop :], step.ids, step.at)
                if step.stop > len(step.ids):
                    yield asked.number, Ending(asked.log_prob, asked.greedy)


def gather(pairs: Sequence[tuple[list[int], list[int]]], config: Config) -> dict[tuple[int, ...], list[Asked]]:
    """Return the different texts to read, all but their last ids, and the endings that are asked for in each.

    >>> texts = gather([([5, 6], [7, 8]), ([5, 6], [7, 9])], Config())
    >>> list(texts), [asked.last for asked in texts[5, 6, 7]]
    ([(5, 6, 7)], [8, 9])
    """
    texts: dict[tuple[int, ...], list[Asked]] = {}
    for number, (before, ending) in enumerate(pairs):
        if not len(before) or not len(ending):
            raise TokenError(
                f"text {number}: {len(before)} ids before the ending and {len(ending)} in it, expected 1 or more each"
            )
        if len(ending) > config.n_ctx:
            limit = f"the context of this model is {config.n_ctx}"
            raise ContextError(f"text {number}: an ending of {len(ending)} ids, but {limit}: shorten it")
        ids = [*before, *ending][-config.n_ctx - 1 :]
        check_ids(ids, config.n_vocab)
        asked = Asked(number, len(ids) - len(ending), ids[-1])
        texts.setdefault(tuple(ids[:-1]), []).append(asked)
    return texts


def steps(texts: Sequence[tuple[tuple[int, ...], list[Asked]]]) -> Iterator[Step]:
    """Yield the steps of texts that come one after the other and share a cache; of each at most ROWS are predicted.

    >>> texts = gather([([5, 6], [7, 8]), ([5, 6], [9])], Config())
    >>> [(step.ids[step.past : step.stop - 1], step.past) for step in steps(sorted(texts.items()))]
    [((5, 6), 0), ((6, 7), 1)]
    """
    held: tuple[int, ...] = ()
    for ids, asked in texts:
        first = min(each.first for each in asked)
        past = min(shared(held, ids), first - 1)
        for at in range(first, len(ids) + 1, ROWS):
            stop = min(at + ROWS, len(ids) + 1)
            yield Step(ids, past, at, stop, asked)
            past = stop - 1
        held = ids


def shared(a: Sequence[int], b: Sequence[int]) -> int:
    """Return how many ids two texts begin with alike.

    >>> shared([1, 2, 3], [1, 2, 5, 6]), shared([1, 2], [1, 2, 3])
    (2, 2)
    """
    return next((n for n, (i, j) in enumerate(zip(a, b, strict=False)) if i != j), min(len(a), len(b)))
