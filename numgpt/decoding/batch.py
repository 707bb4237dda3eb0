"""Many texts at once: one pass over the weights makes a token of each.

Decoding one text, the time goes into reading the weights from memory. Eight texts read them once together.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from numgpt import fast
from numgpt.cache import KVCache
from numgpt.config import Config
from numgpt.generation import check_count, check_prompt, check_seed, check_stop_ids, random_seed
from numgpt.model import Ids, Params
from numgpt.sampling import Sampling, check_sampling, sample

PREFILL = 1024  # tokens of prompts in one pass: bounds its memory


class Completion(NamedTuple):
    """A text that is done."""

    number: int  # of its prompt
    ids: list[int]  # what follows the prompt
    finish_reason: str  # "stop", "length" or "context", as `generate` returns it


class Running(NamedTuple):
    """A text in the batch."""

    number: int  # of its prompt
    prompt_length: int
    text: list[int]
    cache: KVCache


def generate_batch(prompts: Sequence[Ids], params: Params, config: Config, **options: Any) -> list[list[int]]:
    """Continue many texts: what `generate` yields for each prompt, sooner than one after the other.

    ids of prompt i = list(generate(prompts[i], ..., seed=seed, stream=i))

    prompts  any number of lists or arrays of ids, each of its own length
    options  those of `complete_batch`
    Returns a list of ids for each prompt, in their order.
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
    max_new_tokens: int,
    seed: int | None = None,
    stop_ids: Sequence[int] = (),
    batch_size: int = 8,
    forward_batch: Callable[..., list[np.ndarray]] = fast.forward_batch,
    **controls: Any,
) -> Iterator[Completion]:
    """`generate_batch`, one completion after the other, each as soon as it is done: the shortest first.

    batch_size  how many texts run at once. Each has a cache of its own, as large as the context. A text that is done
                makes room for the next prompt
    controls    those of `sampling.Sampling`
    The other options are those of `generate`.
    """
    options = check_sampling(Sampling(**controls), n_vocab=config.n_tokens or config.n_vocab)
    stops = check_stop_ids(stop_ids, config)
    check_count("max_new_tokens", max_new_tokens)
    check_count("batch_size", batch_size, least=1)
    seed = random_seed() if seed is None else seed
    check_seed("seed", seed)
    texts = [check_prompt(ids, config, name=f"prompt {number}") for number, ids in enumerate(prompts)]
    return _run(texts, params, config, max_new_tokens, seed, batch_size, forward_batch, options, stops)


def _run(
    texts: list[list[int]],
    params: Params,
    config: Config,
    max_new_tokens: int,
    seed: int,
    batch_size: int,
    forward_batch: Callable[..., list[np.ndarray]],
    options: Sampling,
    stops: tuple[int, ...],
) -> Iterator[Completion]:
    waiting = list(enumerate(texts))[::-1] if max_new_tokens else []
    if not max_new_tokens:
        yield from (Completion(number, [], "length") for number in range(len(texts)))
    running: list[Running] = []
    caches: list[KVCache] = []  # that no text uses
    while running or waiting:
        rows = len(running)
        while waiting and len(running) < batch_size and (rows + len(waiting[-1][1]) <= PREFILL or not running):
            number, text = waiting.pop()
            cache = caches.pop() if caches else KVCache(config, dtype=params["wte"].dtype)
            running.append(Running(number, len(text), text, cache))
            rows += len(text)

        new = [r.text[len(r.cache) :] for r in running]  # what its cache does not hold yet
        logits = forward_batch(new, params, config, [r.cache for r in running], logits_to_keep=1)
        still_running = []
        for r, row in zip(running, logits, strict=True):
            i = sample(
                row[-1, : config.n_tokens],
                r.text,
                options,
                seed,
                r.number,
                prompt_length=r.prompt_length,
                stop_ids=stops,
            )
            if i in stops:
                finish_reason = "stop"
            else:
                r.text.append(i)
                finish_reason = reached(len(r.text), r.prompt_length + max_new_tokens, config.n_ctx)
            if finish_reason:
                r.cache.truncate(0)
                caches.append(r.cache)
                yield Completion(r.number, r.text[r.prompt_length :], finish_reason)
            else:
                still_running.append(r)
        running = still_running


def reached(length: int, wanted: int, n_ctx: int) -> str:
    """Return the limit that a text has come to: "length", "context", or "" for none.

    >>> reached(9, wanted=9, n_ctx=8), reached(9, wanted=20, n_ctx=8), reached(8, wanted=20, n_ctx=8)
    ('length', 'context', '')
    """
    return "length" if length >= wanted else "context" if length > n_ctx else ""
