"""`numgpt.generate`: the loop of `generation`, with all that people ask of it.

Beside forward, choose, append and stop there are here: guesses that are checked in one pass, a cache from before, a
context that slides, strings at which to stop, and beams. For the same controls the ids are those of the plain loop.
"""

from collections.abc import Callable, Generator
from typing import Any

import numpy as np

from numgpt import model
from numgpt.cache import KVCache
from numgpt.checks import check_seed
from numgpt.config import Config
from numgpt.decoding.rules import (
    check_held,
    check_prompt,
    check_rules,
    chooser,
    end_of,
    kept_at_overflow,
    new_cache,
    others_of,
    warn_of_limit,
)
from numgpt.model import Ids, Params


def no_guess(text: list[int], most: int) -> list[int]:
    """The default `guess`: none, so that each pass through the model makes one token."""
    return []


def generate(
    ids: Ids,
    params: Params,
    config: Config,
    *,
    stream: int = 0,
    forward: Callable[..., np.ndarray] = model.forward,
    guess: Callable[[list[int], int], list[int]] = no_guess,
    cache: KVCache | None = None,
    **options: Any,
) -> Generator[int, None, str]:
    """Continue a text: yield one new id after the other, each as soon as it is known.

        id_t ~ softmax(controls(forward(id_0 ... id_t-1)))

    ids             [T] int, T >= 1
    max_new_tokens  the most ids to yield
    seed            0 to 2^64 - 1; the same seed gives the same ids. None: another one each time
    stream          0 to 2^64 - 1; tells apart several texts of one seed
    forward         the function that computes the logits: model.forward or one of the same signature
    guess           from the text so far to at most so many ids that may follow: they are computed in the same pass, and
                    those that turn out right cost no pass of their own. The ids are the same with any guess;
                    `decoding.lookup` has one that gains where text repeats
    cache           what an earlier call computed of this text: it holds the first len(cache) of the ids, less than all
                    (nobody can check which they are), and only the rest is computed. At the end, also where the
                    generator is closed, it holds the text and what was yielded, the last id maybe not. Beams and a
                    context that slides do not go with it. None: a new one, with room for the text and max_new_tokens
    cache_dtype     "float16" keeps keys and values in half the room, rounded to 11 bits; None: as they are computed
    stop_ids        ids that end the text, beside the end-of-text id
    stop_strings    strings that end the new text, also where one spans several tokens; the token that completes one is
                    the last to be yielded. `numgpt.stream` yields text that ends before it
    tokenizer       the model's, which stop_strings, ban and regex need
    overflow        what to do when the context is full: "stop", or "slide", which goes on with the last half of it as
                    if that were the whole text. The half is computed anew, one prefill for every n_ctx / 2 tokens;
                    what stood before is forgotten. A prompt may then be longer than the context
    num_beams       above 1, search for the likeliest text with so many beams and draw nothing: `decoding.beam`, where
                    length_penalty and early_stopping are explained too. The ids come when the search is done
    guidance_scale  other than 1, lead away from what follows another prompt: `decoding.steering.guidance`
    negative_prompt that prompt, as text or ids; None: the last id of this one alone
    steering        what other models say of the next token: `decoding.steering.contrast` and `experts`
    watermark       a key, a text of 1 to 64 bytes: the random numbers come from it and the four tokens before, not from
                    the seed, so that `measure.watermarks` knows the text again: see `decoding.watermark`
    controls        temperature, top_k and so on: the fields of `decoding.controls.Sampling`
    Yields ids. It ends at the end-of-text id or one of stop_ids, which is not yielded, or with a stop string ("stop"),
    after max_new_tokens ("length") or where the next token would need a position past the context ("context", with a
    warning). The word is the value that the generator returns. Ids past config.n_tokens, which pad the embedding, are
    never yielded.
    Raises, when called, TokenError for ids outside the vocabulary, ContextError for more than n_ctx of them and
    OptionError for an option out of its range; and CheckpointError at a token whose logits are not finite.

    >>> import numgpt
    >>> m = numgpt.load("storyteller")
    >>> ids = m.tokenizer.encode("Once upon a time there")
    >>> m.tokenizer.decode(generate(ids, m.params, m.config, max_new_tokens=6, temperature=0))
    ' was a great many years old'
    """
    rules = check_rules(config, **options)
    check_seed("stream", stream)
    text = check_prompt(ids, config, rules.overflow)
    prompt_length = len(text)
    if cache is not None:
        check_held(cache, prompt_length, config, params["wte"].dtype, rules)

    choose = chooser(prompt_length, config, rules, stream)

    def steps() -> Generator[int, None, str]:
        held = new_cache(prompt_length, params, config, rules) if cache is None else cache
        start = 0  # the model sees the text from here on
        others = others_of(text, params, config, rules)
        right = len(held)  # how many positions of the cache are those of the text, not of a guess
        most_new, finish_reason = rules.max_new_tokens, "" if rules.max_new_tokens else "length"
        try:
            while not finish_reason:
                if len(text) - start > config.n_ctx:
                    start, right = len(text) - kept_at_overflow(config), 0
                    held.truncate(0)
                most = min(most_new - (len(text) - prompt_length) - 1, start + config.n_ctx - len(text))
                guesses = guess(text, most)
                new = text[start + len(held) :] + guesses  # what the cache does not hold yet
                before = len(held)
                logits = forward(new, params, config, cache=held, logits_to_keep=1 + len(guesses))  # [T, V]
                if others:
                    logits = others.steer(logits, text + guesses, before)
                right = len(text) - start
                for row, guessed in zip(logits, [*guesses, None], strict=True):
                    i = choose(row, text)
                    if i in rules.stop_ids:
                        return "stop"
                    text.append(i)
                    right += i == guessed
                    yield i
                    finish_reason = end_of(text, prompt_length, config, rules)
                    if finish_reason or i != guessed:
                        break
                held.truncate(right)
            if finish_reason == "context":
                warn_of_limit(config, len(text) - prompt_length, most_new)
            return finish_reason
        finally:
            held.truncate(right)

    def best_of_beams() -> Generator[int, None, str]:
        from numgpt.decoding.beam import in_batches, search  # here, as most texts are drawn

        found = search(text, params, config, rules, in_batches(forward))[0]
        if found.finish_reason == "context":
            warn_of_limit(config, len(found.ids), rules.max_new_tokens)
        yield from found.ids
        return found.finish_reason

    return steps() if rules.num_beams == 1 else best_of_beams()
