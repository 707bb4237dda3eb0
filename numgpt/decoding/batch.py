"""Many texts at once: one pass over the weights makes a token of each.

Decoding one text, the time goes into reading the weights from memory. Eight texts read them once together.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from numgpt import fast
from numgpt.cache import KVCache
from numgpt.checks import check_count
from numgpt.config import Config
from numgpt.decoding.beam import check_sequences, search
from numgpt.decoding.controls import controls_of
from numgpt.decoding.rules import (
    Completion,
    Rules,
    check_prompt,
    check_rules,
    end_of,
    kept_at_overflow,
    new_cache,
    others_of,
    source_of,
    start_of,
)
from numgpt.decoding.steering import Others, text_of_opinion
from numgpt.fast.sampling import sample, sample_with_lead
from numgpt.model import Ids, Params
from numgpt.params import map_leaves
from numgpt.sampling import Control

NEAR = 1e-3  # a lead in the logits that is far more than the rounding of float32 makes: some 1e-4 in GPT-2
# And with a cache of float16, where a last digit of float32 may decide to which side a key or value is rounded: some
# 1e-3 in the storyteller.
NEAR_ROUNDED = 1e-2
PREFILL = 1024  # tokens of prompts in one pass: bounds its memory


@dataclass
class Running:
    """A text in the batch."""

    number: int  # of the text, and of its stream
    prompt_length: int
    text: list[int]
    cache: KVCache
    rules: Rules
    controls: list[Control]
    others: Others | None  # rows beside the model's own
    start: int = 0  # the model sees the text from here on


def generate_batch(prompts: Sequence[Ids], params: Params, config: Config, **options: Any) -> list[list[int]]:
    """Continue many texts: what `generate` yields for each prompt, sooner than one after the other.

    ids of prompt i = list(generate(prompts[i], ..., seed=seed, stream=i))

    prompts  any number of lists or arrays of ids, each of its own length
    options  those of `complete_batch`
    Returns a list of ids for each prompt, in their order; of several for each, those of a prompt side by side.
    Raises, before anything is computed, what `generate` raises, with the number of the prompt.

    >>> import numgpt
    >>> m = numgpt.load("storyteller")
    >>> prompts = [m.tokenizer.encode(text) for text in ("Once upon a time there", "The king")]
    >>> for ids in generate_batch(prompts, m.params, m.config, max_new_tokens=6, temperature=0):
    ...     print(m.tokenizer.decode(ids))
     was a great many years old
     was so much as he could
    """
    completions = sorted(complete_batch(prompts, params, config, **options))
    return [completion.ids for completion in completions]


def complete_batch(
    prompts: Sequence[Ids],
    params: Params,
    config: Config,
    *,
    num_return_sequences: int = 1,
    batch_size: int = 8,
    forward_batch: Callable[..., list[np.ndarray]] = fast.forward_batch,
    **options: Any,
) -> Iterator[Completion]:
    """`generate_batch`, one completion after the other, each as soon as it is done: the shortest first.

    num_return_sequences  how many texts to make of each prompt; those of prompt i are numbered, and have the streams,
                          i n, ..., i n + n - 1
    batch_size            how many texts run at once. Each has a cache of its own, with room for the prompt and
                          max_new_tokens. A text that is done makes room for the next
    options               those of `generate`, max_new_tokens first. With num_beams above 1, the texts of a prompt are
                          the best that beam search finds, the best first, and one prompt is done after the other
    """
    rules = check_rules(config, **options)
    check_count("num_return_sequences", num_return_sequences, least=1)
    check_count("batch_size", batch_size, least=1)
    texts = [check_prompt(ids, config, rules.overflow, name=f"prompt {i}") for i, ids in enumerate(prompts)]
    if rules.num_beams > 1:
        check_sequences(num_return_sequences, rules.num_beams)
        return (
            Completion(i * num_return_sequences + rank, found.ids, found.finish_reason, found.score)
            for i, text in enumerate(texts)
            for rank, found in enumerate(search(text, params, config, rules, forward_batch)[:num_return_sequences])
        )
    copies = (text.copy() for text in texts for _ in range(num_return_sequences))
    numbered = ((number, text, rules) for number, text in enumerate(copies))
    return run(numbered, params, config, batch_size, forward_batch)


def append(i: int, r: Running, config: Config) -> str:
    """Put a chosen id behind a text, unless it ends it. Return why the text ends there; "" if it goes on."""
    if i in r.rules.stop_ids:
        return "stop"
    r.text.append(i)
    return end_of(r.text, r.prompt_length, config, r.rules)


def begin(number: int, text: list[int], params: Params, config: Config, rules: Rules) -> Running:
    """Return a text that runs by these rules, with an empty cache. It is appended to."""
    controls = controls_of(rules.controls, start_of(len(text), rules))
    cache, others = new_cache(len(text), params, config, rules), others_of(text, params, config, rules)
    return Running(number, len(text), text, cache, rules, controls, others)


def choose_one(logits: np.ndarray, r: Running, params: Params, config: Config) -> int:
    """Choose the id that follows a text, from the logits [V] of its last position."""
    return sample(logits[: config.n_tokens], r.text, r.controls, *source_of(r.text, r.prompt_length, r.rules, r.number))


def choose_surely(logits: np.ndarray, r: Running, params: Params, config: Config) -> int:
    """`choose_one`, and where another id comes so close that rounding may decide, the choice from logits in float64.

    Rounding depends on the shapes of the matrices, so on what stands beside a text in its batch, and on the machine.
    This choice does not, so that a text that is made once more, anywhere, is the same. It takes, for one token in a
    thousand or so, a pass over its whole text; for one in a hundred with a cache of float16. With controls of which
    `sample_with_lead` tells no lead, it takes a second draw for each token.
    """
    i, may_change = choose_with_doubt(logits, r, config)
    return choose_exactly(r, params, config) if may_change else i


def choose_with_doubt(logits: np.ndarray, r: Running, config: Config) -> tuple[int, bool]:
    """Choose the id that follows a text, and tell whether rounding may decide which it is."""
    text, controls, logits = r.text, r.controls, logits[: config.n_tokens]
    source = source_of(text, r.prompt_length, r.rules, r.number)
    if logits.dtype == np.float64:
        return sample(logits, text, controls, *source), False
    near = NEAR_ROUNDED if r.rules.cache_dtype else NEAR
    near *= sum(map(abs, r.others.weights)) if r.others else 1
    i, lead = sample_with_lead(logits, text, controls, *source)
    if lead > near:
        return i, False
    handicapped = logits.copy()
    handicapped[i] -= near
    return i, sample(handicapped, text, controls, *source) != i


def choose_exactly(r: Running, params: Params, config: Config) -> int:
    """Choose the id that follows a text, from logits in float64."""
    logits = exact_logits(r.text[r.start :], params, config, r.rules.cache_dtype)
    if r.others:
        texts = [text_of_opinion(opinion, r.text, r.prompt_length) for opinion in r.others.steering.opinions]
        rows = [
            exact_logits(ids, opinion.params, opinion.config, r.rules.cache_dtype)
            for ids, opinion in zip(texts, r.others.steering.opinions, strict=True)
        ]
        logits = r.others.combine([logits, *rows])
    return choose_one(logits, r, params, config)


def exact_logits(ids: list[int], params: Params, config: Config, cache_dtype: str | None = None) -> np.ndarray:
    """Return the logits [V] that follow ids, in float64, from parameters that are widened one layer at a time.

    cache_dtype  "float16": keys and values are rounded as they are in a cache
    """

    def widen(tree: Any) -> Any:
        return map_leaves(lambda _, x: x.astype(np.float64), tree)

    others = {name: leaf for name, leaf in params.items() if name != "h"}
    cache = KVCache(config, cache_dtype, len(ids)) if cache_dtype else None
    return fast.forward(ids, {**widen(others), "h": map(widen, params["h"])}, config, cache, logits_to_keep=1)[0]


def run(
    texts: Iterable[tuple[int, list[int], Rules]],
    params: Params,
    config: Config,
    batch_size: int = 8,
    forward_batch: Callable[..., list[np.ndarray]] = fast.forward_batch,
    choose_next: Callable[..., int] = choose_one,
) -> Iterator[Completion]:
    """`complete_batch` with options and prompts that are checked, without beams.

    texts        of each a number, which is that of the stream too, a prompt, which is appended to, and its rules. The
                 next one is asked for when there is room for it
    choose_next  `choose_one`, or `choose_surely`
    """
    texts = iter(texts)
    waiting = next(texts, None)
    running: list[Running] = []
    while running or waiting:
        rows = len(running)
        while waiting and len(running) < batch_size and (rows + len(waiting[1]) <= PREFILL or not running):
            number, text, rules = waiting
            if rules.max_new_tokens:
                running.append(begin(number, text, params, config, rules))
                rows += len(text)
            else:
                yield Completion(number, [], "length")
            waiting = next(texts, None)
        if not running:
            continue

        for r in running:
            if len(r.text) - r.start > config.n_ctx:  # those that may not slide have ended before
                r.start = len(r.text) - kept_at_overflow(config)
                r.cache.truncate(0)
        new = [r.text[r.start + len(r.cache) :] for r in running]  # what its cache does not hold yet
        held = [len(r.cache) for r in running]
        logits = forward_batch(new, params, config, [r.cache for r in running], logits_to_keep=1)
        logits = [
            r.others.steer(rows, r.text, before) if r.others else rows
            for r, rows, before in zip(running, logits, held, strict=True)
        ]
        still_running = []
        for r, row in zip(running, logits, strict=True):
            finish_reason = append(choose_next(row[-1], r, params, config), r, config)
            if finish_reason:
                yield Completion(r.number, r.text[r.prompt_length :], finish_reason)
            else:
                still_running.append(r)
        running = still_running
        del r  # which would keep the cache of a text that is done
