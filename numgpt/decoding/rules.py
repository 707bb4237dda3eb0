"""How a text goes on and where it ends: the options of `generate`, checked."""

import inspect
import os
import warnings
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from numgpt.cache import KVCache
from numgpt.checks import (
    check_cache,
    check_count,
    check_ids,
    check_known,
    check_option,
    check_seed,
    is_integer,
    is_number,
)
from numgpt.config import Config
from numgpt.decoding.controls import Sampling, Start, check_sampling, controls_of
from numgpt.decoding.form import form_of
from numgpt.decoding.steering import Others, Steering, check_scale, check_steering, guidance
from numgpt.decoding.watermark import ABOUT_KEY, Source, is_key, marked_source
from numgpt.errors import ContextError, OptionError, TokenError
from numgpt.fast.sampling import sample
from numgpt.generation import Choose
from numgpt.model import Ids, Model, Params
from numgpt.tokenizer import Tokenizer

OF_THE_LOOP = ("stream", "forward", "guess", "cache")  # what `generate` takes beside the rules
IN_TRANSFORMERS = {  # and in OpenAI's API: their name -> what does that here
    "do_sample": "temperature (0 is greedy)",
    "max_length": "max_new_tokens",
    "max_tokens": "max_new_tokens",
    "min_length": "min_new_tokens",
    "eos_token_id": "stop_ids",
    "stop": "stop_strings",
    "bad_words_ids": "bad_words",
    "sequence_bias": "logit_bias",
    "past_key_values": "cache",
    "num_return_sequences": "generate_batch, which makes several texts of a prompt",
}
MOST_PENALTY = 50  # length ** length_penalty is finite up to here, for any context


def kept_at_overflow(config: Config) -> int:
    """How many tokens the model goes on with when the context is full."""
    return max(config.n_ctx // 2, 1)


class Completion(NamedTuple):
    """A text that is done."""

    number: int  # of the text: that of its prompt, where one is made of each
    ids: list[int]  # what follows the prompt
    finish_reason: str  # "stop", "length" or "context", as `generate` returns it
    score: float | None = None  # of a beam, as `beam_search` has it


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
    cache_dtype: str | None
    guidance_scale: float
    negative_prompt: tuple[int, ...] | None
    steering: Steering | None
    watermark: str | None


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
    cache_dtype: str | None = None,
    guidance_scale: float = 1,
    negative_prompt: str | Ids | None = None,
    steering: Steering | None = None,
    watermark: str | None = None,
    **controls: Any,
) -> Rules:
    """Return the options as rules. Raises OptionError for a name that is none, and for a value out of its range."""
    check_known("generate", controls, known_options(), IN_TRANSFORMERS)
    check_count("num_beams", num_beams, least=1)
    if num_beams > 1:
        controls = {"temperature": 0, **controls}
    sampling = check_sampling(Sampling(**controls), n_vocab=config.n_tokens or config.n_vocab)
    check_count("max_new_tokens", max_new_tokens)
    seed = random_seed() if seed is None else seed
    check_seed("seed", seed)
    stops = check_stop_ids(stop_ids, config)
    strings = check_stop_strings(stop_strings)
    check_tokenizer(tokenizer, {"stop_strings": strings, "ban": sampling.ban, "regex": sampling.regex})
    check_option("overflow", overflow, overflow in ("stop", "slide"), "'stop' or 'slide'")
    check_beams(num_beams, length_penalty, early_stopping, overflow, sampling)
    check_cache_dtype(cache_dtype)
    negative = check_guidance(guidance_scale, negative_prompt, tokenizer, config)
    if steering is not None:
        check_steering(steering, config)
    if steering is not None or guidance_scale != 1:
        check_alone(num_beams, overflow, both=steering is not None and guidance_scale != 1)
    check_watermark(watermark, sampling)
    of_beams, opinions = (num_beams, length_penalty, early_stopping), (guidance_scale, negative, steering)
    ends = max_new_tokens, seed, sampling, stops, strings, tokenizer, overflow
    return Rules(*ends, *of_beams, cache_dtype, *opinions, watermark)


def known_options() -> list[str]:
    """Return the names of all options of `generate`.

    >>> known_options()[:3]
    ['max_new_tokens', 'seed', 'stop_ids']
    """
    return [*list(inspect.signature(check_rules).parameters)[1:-1], *Sampling._fields, *OF_THE_LOOP]


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
        text: list[int] = check_ids(ids, config.n_vocab).tolist()
    except TokenError as error:
        raise TokenError(f"{name}: {error}") if name else error from None
    if len(text) > config.n_ctx and overflow == "stop":
        raise ContextError(
            f"{name or 'the prompt'} has {len(text)} tokens, but the context of this model is {config.n_ctx}: "
            f"shorten it, or let it slide (overflow='slide', --overflow slide)"
        )
    return text


def check_cache_dtype(dtype: str | None) -> None:
    """Raise OptionError unless keys and values can be kept in this dtype."""
    check_option("cache_dtype", dtype, dtype in (None, "float16"), "'float16', or None for that of the parameters")


def check_guidance(
    scale: float, negative_prompt: str | Ids | None, tokenizer: Tokenizer | None, config: Config
) -> tuple[int, ...] | None:
    """Return the ids of the negative prompt. Raises OptionError for a scale that is none, TokenError for ids."""
    check_scale(scale)
    if negative_prompt is None:
        return None
    if scale == 1:
        raise OptionError("negative_prompt is what guidance_scale leads away from: give that too, above 1")
    if isinstance(negative_prompt, str):
        if tokenizer is None:
            raise OptionError("negative_prompt as a text needs the model's tokenizer: tokenizer=model.tokenizer")
        negative_prompt = tokenizer.encode(negative_prompt)
    return tuple(check_prompt(negative_prompt, config, name="negative_prompt"))


def check_alone(num_beams: int, overflow: str, both: bool) -> None:
    """Raise OptionError where a second opinion meets what does not go with it."""
    for is_there, what in (num_beams > 1, "num_beams"), (overflow != "stop", "overflow='slide'"), (both, "steering"):
        if is_there:
            raise OptionError(f"guidance_scale and steering ask for a second opinion, which {what} does not go with")


def others_of(text: list[int], params: Params, config: Config, rules: Rules) -> Others | None:
    """Return the other rows that a text is to be made with, if any."""
    steering = rules.steering
    if rules.guidance_scale != 1:
        steering = guidance(Model(config, params, None), rules.guidance_scale, rules.negative_prompt)
    return None if steering is None else Others(steering, text, rules.max_new_tokens, rules.cache_dtype)


def check_watermark(key: str | None, controls: Sampling) -> None:
    """Raise OptionError unless this is a key, and tokens are drawn that can bear its mark."""
    check_option("watermark", key, key is None or is_key(key), f"{ABOUT_KEY}, or None for off")
    if key is not None and controls.temperature == 0:
        raise OptionError(
            "watermark marks what is drawn, and at temperature 0 and by beams nothing is: "
            "sample at a temperature above 0, or use the other scheme, the green list"
        )


def positions_of(length: int, config: Config, rules: Rules) -> int:
    """Return how many positions a text of so many ids may come to need: all but its last new one, and all guesses."""
    return min(length + max(int(rules.max_new_tokens) - 1, 0), config.n_ctx)


def new_cache(length: int, params: Params, config: Config, rules: Rules) -> KVCache:
    """Return an empty cache with room for what a text of so many ids may come to be."""
    return KVCache(config, rules.cache_dtype or params["wte"].dtype, positions_of(length, config, rules))


def check_held(cache: KVCache, length: int, config: Config, dtype: np.dtype, rules: Rules) -> None:
    """Raise OptionError unless a text of so many ids can go on from what the cache holds: fewer ids than that."""
    check_cache(cache, config, dtype)
    if rules.cache_dtype not in (None, cache.k.dtype):
        raise OptionError(f"cache_dtype is {rules.cache_dtype!r}, but the cache has {cache.k.dtype}: leave it out")
    room, needed = cache.k.shape[2], positions_of(length, config, rules)
    if room < needed:
        raise OptionError(
            f"cache has room for {room} positions, expected {needed} or more: the text and max_new_tokens - 1"
        )
    if rules.num_beams > 1 or rules.overflow != "stop":
        option = "num_beams" if rules.num_beams > 1 else "overflow='slide'"
        raise OptionError(f"cache holds the beginning of one text, which {option} does not keep: leave out one of them")
    if len(cache) >= length:
        raise OptionError(
            f"cache holds {len(cache)} ids, expected at most {length - 1}, fewer than the text has: "
            f"cache.truncate(n) keeps the first n"
        )


def check_stop_ids(stop_ids: Sequence[int], config: Config) -> tuple[int, ...]:
    """Return the ids that end a text: those of the model, and those asked for.

    >>> check_stop_ids([7], Config(eos_token_id=3, more_eos_ids=(5,)))
    (3, 5, 7)
    """
    fits = all(is_integer(i) and 0 <= i < config.n_vocab for i in stop_ids)
    check_option("stop_ids", stop_ids, fits, f"ids from 0 to {config.n_vocab - 1}")
    ends = () if config.eos_token_id is None else (config.eos_token_id, *config.more_eos_ids)
    return (*ends, *map(int, stop_ids))


def random_seed() -> int:
    """Return another seed each time, short enough to be typed again."""
    return int.from_bytes(os.urandom(4), "little")


def check_stop_strings(stop_strings: Sequence[str]) -> list[bytes]:
    """Return the strings in UTF-8. Raises OptionError for an empty one."""
    fits = not isinstance(stop_strings, str) and all(isinstance(stop, str) and stop for stop in stop_strings)
    check_option("stop_strings", stop_strings, fits, "a list of strings, none of them empty")
    return [stop.encode() for stop in stop_strings]


def check_tokenizer(tokenizer: Tokenizer | None, options: Mapping[str, Any]) -> None:
    """Raise OptionError for an option about the text that is on, without a tokenizer that tells the text."""
    for name, value in options.items():
        if value and tokenizer is None:
            raise OptionError(f"{name} needs the model's tokenizer: tokenizer=model.tokenizer")


def ends_at(new_ids: list[int], rules: Rules) -> bool:
    """Whether the last of the new ids completes one of the stop strings."""
    if not rules.stop_strings or rules.tokenizer is None:
        return False
    longest = max(map(len, rules.stop_strings))  # each id has a byte or more
    tail = b"".join(rules.tokenizer.pieces(new_ids[-longest:]))
    return any(stop in tail for stop in rules.stop_strings)


def form_is_full(new_ids: list[int], rules: Rules) -> bool:
    """Whether the new ids match the regular expression that is asked for, and nothing longer does."""
    pattern = rules.controls.regex
    return pattern is not None and rules.tokenizer is not None and form_of(pattern, rules.tokenizer).is_over(new_ids)


def start_of(prompt_length: int, rules: Rules) -> Start:
    """Return what controls know of a text that begins with a prompt of so many ids."""
    return Start(prompt_length, rules.stop_ids, rules.tokenizer)


def chooser(prompt_length: int, config: Config, rules: Rules, stream: int) -> Choose:
    """Return what chooses the id that follows a text, from the logits [V] of its last position and the text.

    Padding of the embedding is never chosen.
    """
    controls = controls_of(rules.controls, start_of(prompt_length, rules))

    def choose(logits: np.ndarray, text: list[int]) -> int:
        return sample(logits[: config.n_tokens], text, controls, *source_of(text, prompt_length, rules, stream))

    return choose


def source_of(text: list[int], prompt_length: int, rules: Rules, stream: int) -> Source:
    """Return where the random numbers of the next token come from: its place in the text, or a watermark."""
    marked = None if rules.watermark is None else marked_source(text, prompt_length, rules.watermark)
    return marked or (rules.seed, stream, len(text))


def end_of(text: list[int], prompt_length: int, config: Config, rules: Rules) -> str:
    """Return why a text ends where it is, "stop", "length" or "context"; "" if it goes on.

    The ids that end a text are not in it, so whoever chose the last id has looked at that before.
    """
    new_ids = text[prompt_length:]
    if ends_at(new_ids, rules) or form_is_full(new_ids, rules):
        return "stop"
    if len(new_ids) >= rules.max_new_tokens:
        return "length"
    return "context" if len(text) > config.n_ctx and rules.overflow == "stop" else ""


def warn_of_limit(config: Config, made: int, asked: int) -> None:
    """Tell whoever asks a generator for the next id that the text has come to the context limit."""
    limit = f"stopped at the context limit of {config.n_ctx} tokens"
    warnings.warn(f"{limit}: {made} of {asked} new tokens are made", stacklevel=3)
