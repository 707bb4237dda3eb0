"""The loop that turns a model of the next token into text."""

import os
import warnings
from collections.abc import Callable, Generator, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from numgpt import model
from numgpt.cache import KVCache
from numgpt.config import Config
from numgpt.errors import ContextError, OptionError, TokenError
from numgpt.model import Ids, Params
from numgpt.sampling import Sampling, check_option, check_sampling, is_integer, is_number, sample
from numgpt.tokenizer import Tokenizer

MOST_PENALTY = 50  # length ** length_penalty is finite up to here, for any context


def no_guess(text: list[int], most: int) -> list[int]:
    """The default `guess`: none, so that each pass through the model makes one token."""
    return []


def kept_at_overflow(config: Config) -> int:
    """How many tokens the model goes on with when the context is full."""
    return max(config.n_ctx // 2, 1)


class Rules(NamedTuple):
    """How a text goes on and where it ends: the options of `generate`, checked."""

    max_new_tokens: int
    seed: int
    controls: Sampling
    stop_ids: tuple[int, ...]
    stop_strings: list[bytes]
    tokenizer: Tokenizer | None
    overflow: str
    num_beams: int
    length_penalty: float
    early_stopping: bool | str


def check_rules(
    config: Config,
    *,
    max_new_tokens: int,
    seed: int | None = None,
    stop_ids: Sequence[int] = (),
    stop_strings: Sequence[str] = (),
    tokenizer: Tokenizer | None = None,
    overflow: str = "stop",
    num_beams: int = 1,
    length_penalty: float = 1.0,
    early_stopping: bool | str = False,
    **controls: Any,
) -> Rules:
    """Return the options as rules. Raises OptionError that names the first one that is out of its range."""
    check_count("num_beams", num_beams, least=1)
    if num_beams > 1:
        controls = {"temperature": 0, **controls}
    sampling = check_sampling(Sampling(**controls), n_vocab=config.n_tokens or config.n_vocab)
    check_count("max_new_tokens", max_new_tokens)
    seed = random_seed() if seed is None else seed
    check_seed("seed", seed)
    stops = check_stop_ids(stop_ids, config)
    strings = check_stop_strings(stop_strings, tokenizer)
    check_option("overflow", overflow, overflow in ("stop", "slide"), "'stop' or 'slide'")
    check_beams(num_beams, length_penalty, early_stopping, overflow, sampling)
    return Rules(
        max_new_tokens, seed, sampling, stops, strings, tokenizer, overflow, num_beams, length_penalty, early_stopping
    )


def check_beams(
    num_beams: int, length_penalty: float, early_stopping: bool | str, overflow: str, controls: Sampling
) -> None:
    """Raise OptionError for an option of beam search that is out of its range or has no beams, and for one that means
    nothing where texts are compared whole and no token is drawn.
    """
    fits = is_number(length_penalty) and abs(length_penalty) <= MOST_PENALTY
    check_option("length_penalty", length_penalty, fits, f"a number from -{MOST_PENALTY} to {MOST_PENALTY}")
    fits = isinstance(early_stopping, bool) or early_stopping == "never"
    check_option("early_stopping", early_stopping, fits, "False, True or 'never'")
    if num_beams == 1:
        if length_penalty != 1 or early_stopping is not False:
            name = "early_stopping" if length_penalty == 1 else "length_penalty"
            raise OptionError(f"{name} is for beam search: give num_beams, 2 or more, too")
        return
    drawing = {"temperature": controls.temperature, "top_k": controls.top_k, "min_p": controls.min_p}
    drawing["top_p"] = controls.top_p if controls.top_p != 1 else None
    for name, value in drawing.items():
        if value:
            raise OptionError(
                f"{name} is {value!r}, but beam search draws no token, it looks for the likeliest text: "
                f"leave {name} out, or sample without num_beams"
            )
    if overflow != "stop":
        raise OptionError("overflow is 'slide', but beam search compares whole texts: leave out overflow or num_beams")


def check_prompt(ids: Ids, config: Config, overflow: str = "stop", name: str = "") -> list[int]:
    """Return the ids of a prompt as a list of its own, once it is sure that the model can take them.

    Raises TokenError for ids outside the vocabulary, ContextError for more than n_ctx of them, unless they may slide.
    """
    try:
        text: list[int] = model.check_ids(ids, config).tolist()
    except TokenError as error:
        raise TokenError(f"{name}: {error}") if name else error from None
    if len(text) > config.n_ctx and overflow == "stop":
        raise ContextError(
            f"{name or 'the prompt'} has {len(text)} tokens, but the context of this model is {config.n_ctx}: "
            f"shorten it, or let it slide (overflow='slide', --overflow slide)"
        )
    return text


def check_cache(cache: KVCache, length: int, params: Params, config: Config, rules: Rules) -> None:
    """Raise OptionError unless a text of so many ids can go on from what the cache holds: fewer ids than that."""
    shape, dtype = (config.n_layer, config.n_head, config.n_ctx, config.head_size), params["wte"].dtype
    if (cache.k.shape, cache.k.dtype) != (shape, dtype):
        found = f"{cache.k.dtype} {list(cache.k.shape)}"
        raise OptionError(f"cache is of {found}, expected {dtype} {list(shape)}: give one that was made for this model")
    if rules.num_beams > 1 or rules.overflow != "stop":
        option = "num_beams" if rules.num_beams > 1 else "overflow='slide'"
        raise OptionError(f"cache holds the beginning of one text, which {option} does not keep: leave out one of them")
    if len(cache) >= length:
        raise OptionError(
            f"cache holds {len(cache)} ids, expected at most {length - 1}, fewer than the text has: "
            f"cache.truncate(n) keeps the first n"
        )


def check_stop_ids(stop_ids: Sequence[int], config: Config) -> tuple[int, ...]:
    """Return the ids that end a text: end-of-text, if the model has it, and those asked for.

    >>> check_stop_ids([7], Config(eos_token_id=3))
    (3, 7)
    """
    fits = all(is_integer(i) and 0 <= i < config.n_vocab for i in stop_ids)
    check_option("stop_ids", stop_ids, fits, f"ids from 0 to {config.n_vocab - 1}")
    return (*(() if config.eos_token_id is None else (config.eos_token_id,)), *map(int, stop_ids))


def check_count(name: str, value: int, least: int = 0) -> None:
    """Raise OptionError unless the value is an integer, `least` or more."""
    check_option(name, value, is_integer(value) and value >= least, f"an integer of {least} or more")


def check_seed(name: str, value: int) -> None:
    """Raise OptionError unless the value is from 0 to 2^64 - 1."""
    check_option(name, value, is_integer(value) and 0 <= value < 2**64, "an integer from 0 to 2^64 - 1")


def random_seed() -> int:
    """Return another seed each time, short enough to be typed again."""
    return int.from_bytes(os.urandom(4), "little")


def check_stop_strings(stop_strings: Sequence[str], tokenizer: Tokenizer | None) -> list[bytes]:
    """Return the strings in UTF-8. Raises OptionError for an empty one, or without a tokenizer to find them with."""
    fits = not isinstance(stop_strings, str) and all(isinstance(stop, str) and stop for stop in stop_strings)
    check_option("stop_strings", stop_strings, fits, "a list of strings, none of them empty")
    if stop_strings and tokenizer is None:
        raise OptionError("stop_strings need the model's tokenizer: tokenizer=model.tokenizer")
    return [stop.encode() for stop in stop_strings]


def ends_at(new_ids: list[int], rules: Rules) -> bool:
    """Whether the last of the new ids completes one of the stop strings."""
    if not rules.stop_strings or rules.tokenizer is None:
        return False
    longest = max(map(len, rules.stop_strings))  # each id has a byte or more
    tail = b"".join(rules.tokenizer.pieces(new_ids[-longest:]))
    return any(stop in tail for stop in rules.stop_strings)


def choose(logits: np.ndarray, text: list[int], prompt_length: int, config: Config, rules: Rules, stream: int) -> int:
    """Choose the id that follows a text, from the logits [V] of its last position. Padding is never chosen."""
    return sample(
        logits[: config.n_tokens],
        text,
        rules.controls,
        rules.seed,
        stream,
        prompt_length=prompt_length,
        stop_ids=rules.stop_ids,
    )


def warn_of_limit(config: Config, made: int, asked: int) -> None:
    """Tell whoever asks a generator for the next id that the text has come to the context limit."""
    limit = f"stopped at the context limit of {config.n_ctx} tokens"
    warnings.warn(f"{limit}: {made} of {asked} new tokens are made", stacklevel=3)


class Watched:
    """What `generate` yields, passed on; afterwards its ids, and why they end.

    >>> steps = Watched(iter([7, 8]))
    >>> next(iter(steps)), steps.ids, steps.finish_reason
    (7, [7], 'interrupted')
    """

    def __init__(self, steps: Generator[int, None, str]) -> None:
        self.steps = steps
        self.ids: list[int] = []
        self.finish_reason = "interrupted"  # unless the generator comes to its end, and says why

    def __iter__(self) -> Iterator[int]:
        while True:
            try:
                i = next(self.steps)
            except StopIteration as end:
                self.finish_reason = end.value
                return
            self.ids.append(i)
            yield i


def generate(
    ids: Ids,
    params: Params,
    config: Config,
    *,
    max_new_tokens: int,
    seed: int | None = None,
    stream: int = 0,
    forward: Callable[..., np.ndarray] = model.forward,
    guess: Callable[[list[int], int], list[int]] = no_guess,
    cache: KVCache | None = None,
    stop_ids: Sequence[int] = (),
    stop_strings: Sequence[str] = (),
    tokenizer: Tokenizer | None = None,
    overflow: str = "stop",
    num_beams: int = 1,
    length_penalty: float = 1.0,
    early_stopping: bool | str = False,
    **controls: Any,
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
                    context that slides do not go with it. None: a new one
    stop_ids        ids that end the text, beside the end-of-text id
    stop_strings    strings that end the new text, also where one spans several tokens; the token that completes one is
                    the last to be yielded. `completion.stream` yields text that ends before it
    tokenizer       the model's, which stop_strings need
    overflow        what to do when the context is full: "stop", or "slide", which goes on with the last half of it as
                    if that were the whole text. The half is computed anew, one prefill for every n_ctx / 2 tokens;
                    what stood before is forgotten. A prompt may then be longer than the context
    num_beams       above 1, search for the likeliest text with so many beams and draw nothing: `decoding.beam`, where
                    length_penalty and early_stopping are explained too. The ids come when the search is done
    controls        temperature, top_k and so on: the fields of `sampling.Sampling`
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
    rules = check_rules(
        config,
        max_new_tokens=max_new_tokens,
        seed=seed,
        stop_ids=stop_ids,
        stop_strings=stop_strings,
        tokenizer=tokenizer,
        overflow=overflow,
        num_beams=num_beams,
        length_penalty=length_penalty,
        early_stopping=early_stopping,
        **controls,
    )
    check_seed("stream", stream)
    text = check_prompt(ids, config, overflow)
    prompt_length = len(text)
    if cache is not None:
        check_cache(cache, prompt_length, params, config, rules)

    def steps() -> Generator[int, None, str]:
        held = KVCache(config, dtype=params["wte"].dtype) if cache is None else cache
        start = 0  # the model sees the text from here on
        right = len(held)  # how many positions of the cache are those of the text, not of a guess
        try:
            while (made := len(text) - prompt_length) < max_new_tokens:
                if len(text) - start > config.n_ctx:
                    if overflow == "stop":
                        warn_of_limit(config, made, max_new_tokens)
                        return "context"
                    start, right = len(text) - kept_at_overflow(config), 0
                    held.truncate(0)
                guesses = guess(text, min(max_new_tokens - made - 1, start + config.n_ctx - len(text)))
                new = text[start + len(held) :] + guesses  # what the cache does not hold yet
                logits = forward(new, params, config, cache=held, logits_to_keep=1 + len(guesses))  # [T, V]
                right = len(text) - start
                for row, guessed in zip(logits, [*guesses, None], strict=True):
                    i = choose(row, text, prompt_length, config, rules, stream)
                    if i in rules.stop_ids:
                        return "stop"
                    text.append(i)
                    right += i == guessed
                    yield i
                    if ends_at(text[prompt_length:], rules):
                        return "stop"
                    if i != guessed:
                        break
                held.truncate(right)
            return "length"
        finally:
            held.truncate(right)

    def best_of_beams() -> Generator[int, None, str]:
        from numgpt.decoding.beam import in_batches, search  # which import this module

        found = search(text, params, config, rules, in_batches(forward))[0]
        if found.finish_reason == "context":
            warn_of_limit(config, len(found.ids), max_new_tokens)
        yield from found.ids
        return found.finish_reason

    return steps() if num_beams == 1 else best_of_beams()
