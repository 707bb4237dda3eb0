"""Beam search: of all texts, look for the likeliest, where the plain loop takes the likeliest next token each time.

A few texts, the beams, grow side by side. Each step looks at all tokens that may follow any of them and goes on with
the likeliest of these longer texts, so a text may begin with a token that is not the best if what follows makes up
for it.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from numgpt import fast
from numgpt.cache import KVCache
from numgpt.checks import check_count, check_finite, check_option
from numgpt.config import Config
from numgpt.decoding.controls import check_some_left, text_controls
from numgpt.decoding.rules import Rules, check_prompt, check_rules, end_of, new_cache, start_of
from numgpt.model import Ids, Params
from numgpt.sampling import Control


class Hypothesis(NamedTuple):
    """A text that beam search has found."""

    ids: list[int]  # what follows the prompt
    score: float
    finish_reason: str  # "stop", "length" or "context", as `generate` returns it


class Beam(NamedTuple):
    """A text that grows."""

    text: list[int]  # prompt and all
    total: float  # the sum of the log-probabilities of what follows the prompt
    cache: KVCache


def log_softmax(x: np.ndarray) -> np.ndarray:
    """The logarithm of `ops.softmax`, also where a probability is too small for a number.

        y_i = x_i - log sum_j exp(x_j)

    x [..., N]
    Returns [..., N].

    >>> np.exp(log_softmax(np.array([0.0, math.log(3)])))
    array([0.25, 0.75])
    """
    shifted = x - x.max(axis=-1, keepdims=True)
    shifted -= np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    return shifted


def largest(x: np.ndarray, k: int) -> np.ndarray:
    """Return where the k largest of x [...] stand, counted through all axes, the largest first. -inf is left out.

    >>> largest(np.array([[1.0, 3.0, -math.inf], [-math.inf, 3.0, 2.0]]), k=3)  # of equals, the first
    array([1, 4, 5])
    """
    x, k = x.ravel(), min(k, x.size)
    places = np.flatnonzero((x >= np.partition(x, -k)[-k]) & (x > -math.inf))
    return places[np.argsort(-x[places], kind="stable")[:k]]


def next_totals(
    beams: list[Beam],
    params: Params,
    config: Config,
    controls: list[Control],
    forward_batch: Callable[..., list[np.ndarray]],
) -> np.ndarray:
    """Return the total that each beam would have with each token [beams, V], in float64. Its cache then holds its text.

    Raises CheckpointError where logits are not finite.
    """
    new = [text[len(cache) :] for text, _, cache in beams]
    rows = forward_batch(new, params, config, [beam.cache for beam in beams], logits_to_keep=1)
    logits = np.stack([row[-1, : config.n_tokens] for row in rows]).astype(np.float64)
    totals = []
    for (text, total, _), row, log_probs in zip(beams, logits, log_softmax(logits), strict=True):
        check_finite(row, position=len(text))
        for control in controls:
            log_probs = control(log_probs, text)
        totals.append(total + log_probs)
    return np.stack(totals)


def hand_on(beams: list[Beam], parents: list[int]) -> list[KVCache]:
    """Return a cache for each text that continues beams[parent], with what that beam's cache holds.

    The first to continue a beam takes its cache over as it is. Each other one gets that of a beam that nobody continues
    and copies only the positions from the first token on in which the two differ; where no such beam is left, it forks.
    """
    dropped = [beam for i, beam in enumerate(beams) if i not in parents]
    caches = []
    for n, parent in enumerate(parents):
        text, _, cache = beams[parent]
        if parent not in parents[:n]:
            caches.append(cache)
        elif dropped:
            other, _, to = dropped.pop()
            differ = next(t for t, (a, b) in enumerate(zip(text, other, strict=True)) if a != b)
            new = slice(differ, len(text))
            to.k[:, :, new], to.v[:, :, new] = cache.k[:, :, new], cache.v[:, :, new]
            caches.append(to)
        else:
            caches.append(cache.fork())
    return caches


def in_batches(forward: Callable[..., np.ndarray]) -> Callable[..., list[np.ndarray]]:
    """Return what computes many texts as `forward` computes one: the fast one in one pass, others one by one."""
    if forward is fast.forward:
        return fast.forward_batch
    return lambda new, params, config, caches, logits_to_keep: [
        forward(ids, params, config, cache, logits_to_keep) for ids, cache in zip(new, caches, strict=True)
    ]


def search(
    prompt: list[int],
    params: Params,
    config: Config,
    rules: Rules,
    forward_batch: Callable[..., list[np.ndarray]] = fast.forward_batch,
) -> list[Hypothesis]:
    """`beam_search` with options that are checked. Returns num_beams hypotheses, where there are so many."""
    limit = min(rules.max_new_tokens, config.n_ctx - len(prompt) + 1)  # the last token needs no position
    candidates = rules.num_beams * (1 + max(len(set(rules.stop_ids)), 1))  # enough that don't end with one of stop_ids
    at_once = rules.early_stopping is True or rules.num_beams == 1
    controls = text_controls(rules.controls, start_of(len(prompt), rules))
    beams = [Beam(prompt, 0.0, new_cache(len(prompt), params, config, rules))]
    ended = [] if limit else [Hypothesis([], 0.0, "length")]
    for n in range(1, limit + 1):
        totals = next_totals(beams, params, config, controls, forward_batch)  # [beams, V]
        growing: list[tuple[int, int]] = []  # beam and id
        for rank, place in enumerate(largest(totals, candidates)):
            parent, i = divmod(int(place), totals.shape[1])
            text, finish_reason = beams[parent].text, "stop"
            if i not in rules.stop_ids:
                text = [*text, i]
                finish_reason = end_of(text, len(prompt), config, rules)
            if not finish_reason:
                growing.append((parent, i))
            elif rank < rules.num_beams:
                score = float(totals[parent, i]) / n**rules.length_penalty
                ended.append(Hypothesis(text[len(prompt) :], score, finish_reason))
        ended = sorted(ended, key=lambda h: -h.score)[: rules.num_beams]
        if not growing:
            if not ended:
                check_some_left(totals[0], beams[0].text, rules.controls)
            break
        if len(ended) == rules.num_beams:
            length = limit if rules.early_stopping == "never" and rules.length_penalty > 0 else n
            if at_once or totals[growing[0]] / length**rules.length_penalty <= ended[-1].score:
                break
        growing = growing[: rules.num_beams]
        caches = hand_on(beams, [parent for parent, _ in growing])
        beams = [
            Beam([*beams[parent].text, i], float(totals[parent, i]), cache)
            for (parent, i), cache in zip(growing, caches, strict=True)
        ]
    return ended


def beam_search(
    ids: Ids,
    params: Params,
    config: Config,
    *,
    num_beams: int,
    num_return_sequences: int = 1,
    forward_batch: Callable[..., list[np.ndarray]] = fast.forward_batch,
    **options: Any,
) -> list[Hypothesis]:
    """Continue a text by the likeliest that num_beams texts at a time lead to.

        score = (log p_1 + ... + log p_n) / n ** length_penalty,   p_t = softmax(logits)_t of the t-th of n new tokens

    ids                   [T] int, T >= 1
    num_beams             how many texts grow, and how many of those that have ended are kept
    num_return_sequences  how many texts to return, up to num_beams
    options               those of `generate`, max_new_tokens first, and
      length_penalty      1.0: above 0 favours long texts, below 0 short ones, as log-probabilities are negative
      early_stopping      when to end, once num_beams texts have: True at once; False (the default) when the best that
                          grows would, if it ended now, score no better than the worst of them; "never" when it could
                          not even if it grew to the limit at no cost
    Returns hypotheses, best first; fewer where there are not as many texts. The id that ends a text is left out of ids,
    but counts in the score and in n. A text may end with it only while it is among the num_beams best at that step.
    At max_new_tokens ("length") and where the next token would need a position past the context ("context") all end.
    Raises what `generate` raises, and OptionError for options that only mean something where a token is drawn.
    Notes: controls edit log p, repetition_penalty too. Equal scores are ranked by beam, then by id. A single beam is
    the greedy loop, where there is no such penalty. Sums are float64. The ids and scores are those of Transformers 5.
    Source: Graves 2012, arXiv:1211.3711, for dividing by n; Wu et al. 2016, arXiv:1609.08144, equation 14, for the
    power of it. There it is ((5 + n) / 6) ** length_penalty; Transformers has n alone.

    >>> import numgpt
    >>> m = numgpt.load("storyteller")
    >>> ids = m.tokenizer.encode("Once upon a time there")
    >>> for found in beam_search(ids, m.params, m.config, max_new_tokens=6, num_beams=4, num_return_sequences=2):
    ...     print(f"{found.score:.2f}", m.tokenizer.decode(found.ids))
    -1.14  was a little old woman who
    -1.15  was a little old woman,
    """
    options = {"temperature": 0, **options}
    rules = check_rules(config, num_beams=num_beams, **options)
    check_sequences(num_return_sequences, num_beams)
    return search(check_prompt(ids, config), params, config, rules, forward_batch)[:num_return_sequences]


def check_sequences(num_return_sequences: int, num_beams: int) -> None:
    """Raise OptionError unless so many beams can return so many texts."""
    check_count("num_return_sequences", num_return_sequences, least=1)
    fits = num_return_sequences <= num_beams
    check_option("num_return_sequences", num_return_sequences, fits, f"at most num_beams, which is {num_beams}")
