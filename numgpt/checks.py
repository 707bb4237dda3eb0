"""The guards of the entry points: ids, counts, options, a cache.

NumPy is silent where a reader would want to be told: a negative id counts from the end of a table, a slice past its end
is short, True is 1. Each of these functions closes one such silence, by an error that says what came and what was
expected. They stand where a call comes in (`model.forward`, `numgpt.generate`), so that the math is free of them.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from numgpt.errors import CheckpointError, ContextError, OptionError, TokenError


def is_integer(x: Any) -> bool:
    """Whether x counts as an integer: of Python or NumPy, but no bool."""
    return isinstance(x, (int, np.integer)) and not isinstance(x, bool)


def is_number(x: Any) -> bool:
    """Whether x counts as a number: an integer or a float, of Python or NumPy, finite, but no bool."""
    return abs(int(x)) < 10**300 if is_integer(x) else isinstance(x, (float, np.floating)) and math.isfinite(x)


def check_option(name: str, value: Any, fits: bool, expected: str) -> None:
    """Raise OptionError with the name of the option, what came and what was expected, unless the value fits."""
    if not fits:
        raise OptionError(f"{name} is {value!r:.80}, expected {expected}")


def check_known(what: str, given: Iterable[str], known: Sequence[str], elsewhere: Mapping[str, str]) -> None:
    """Raise OptionError for the first name that is no option, with the one that may have been meant.

    what       takes the options, for the message
    elsewhere  what other programs call them -> our name

    >>> check_known("generate", ["temprature"], ["temperature", "top_k"], {})
    Traceback (most recent call last):
    numgpt.errors.OptionError: temprature is no option of generate: did you mean temperature?
    """
    for name in given:
        if name not in known:
            from difflib import get_close_matches  # here, as a mere import should not wait for it

            near = [elsewhere[name]] if name in elsewhere else get_close_matches(name, known, n=1, cutoff=0.6)
            remedy = f"did you mean {near[0]}?" if near else f"expected one of {', '.join(known)}"
            raise OptionError(f"{name} is no option of {what}: {remedy}")


def check_count(name: str, value: int, least: int = 0) -> None:
    """Raise OptionError unless the value is an integer, `least` or more."""
    check_option(name, value, is_integer(value) and value >= least, f"an integer of {least} or more")


def check_seed(name: str, value: int) -> None:
    """Raise OptionError unless the value is from 0 to 2^64 - 1."""
    check_option(name, value, is_integer(value) and 0 <= value < 2**64, "an integer from 0 to 2^64 - 1")


def check_logits_to_keep(n: int) -> None:
    """Raise OptionError unless n is a count. NumPy itself would take a negative one from the other end."""
    check_option("logits_to_keep", n, isinstance(n, (int, np.integer)) and n >= 0, "0 (all) or more")


def check_ids(ids: Sequence[int] | np.ndarray, n_vocab: int) -> np.ndarray:
    """Return ids as an array [T], once it is sure that each is in the vocabulary.

    Raises TokenError that names the first that is not. NumPy itself would let a negative id count from the end.

    >>> check_ids([3, -1], n_vocab=10)
    Traceback (most recent call last):
    numgpt.errors.TokenError: ids[1] is -1, expected 0 to 9, the vocabulary of this model
    """
    if isinstance(ids, str):
        raise TokenError("ids: got text, expected ids: encode it first, with the model's tokenizer")
    if not hasattr(ids, "__len__"):
        raise TokenError(f"ids: got {type(ids).__name__}, expected a list or an array of ids")
    try:
        array = np.asarray(ids)
    except ValueError:  # lists of different lengths
        array = np.empty((0, 0))
    if array.ndim != 1:
        raise TokenError(f"ids: expected a flat list of ids, got {array.ndim} axes; run one sequence at a time")
    if not array.size:
        raise TokenError("ids: empty; expected one or more (to start from nothing, give the end-of-text id)")
    if array.dtype.kind not in "iu":
        if not all(type(i) is int for i in ids):
            raise TokenError(f"ids: expected integers, got {array.dtype}")
        array = np.asarray(ids, dtype=object)  # integers too large for any of NumPy's
    outside = np.flatnonzero((array < 0) | (array >= n_vocab))
    if outside.size:
        at = outside[0]
        raise TokenError(f"ids[{at}] is {array[at]}, expected 0 to {n_vocab - 1}, the vocabulary of this model")
    return array.astype(np.intp)


def check_positions(n: int, n_ctx: int) -> int:
    """Return for how many positions a KVCache is to have room. Raises OptionError unless the context has so many."""
    check_option("positions", n, is_integer(n) and 1 <= n <= n_ctx, f"an integer from 1 to {n_ctx}, the context")
    return int(n)


def check_cache(cache: Any, config: Any, dtype: np.dtype) -> None:
    """Raise OptionError unless a KVCache was made for a model of this Config and dtype; float16 goes with any."""
    L, H, positions, D = cache.k.shape
    needed = config.n_layer, config.n_head, config.n_ctx, config.head_size
    fits = (*needed[:2], needed[3]) == (L, H, D) and positions <= config.n_ctx
    if not fits or cache.k.dtype not in (dtype, np.float16):
        raise OptionError(
            f"cache: made for {cache.k.shape} {cache.k.dtype}, but this model needs {needed} {dtype} "
            f"(layers, heads, context, head size): KVCache(config, dtype=params['wte'].dtype), or np.float16"
        )


def check_room(T: int, cache: Any, config: Any, dtype: np.dtype) -> int:
    """Return how many positions came before, once it is sure that T more fit into the context and the cache.

    cache   a KVCache, or None: then none came before
    config  a Config
    Raises ContextError where they do not, OptionError for a cache of another model or dtype.
    """
    past = 0 if cache is None else len(cache)
    if past + T > config.n_ctx:
        raise ContextError(f"{past + T} tokens, but the context of this model is {config.n_ctx}: shorten the text")
    if cache is not None:
        check_cache(cache, config, dtype)
        room = cache.k.shape[2]
        if past + T > room:
            raise ContextError(f"{past + T} tokens, but the cache was made for {room}: KVCache(config, positions=...)")
    return past


def check_finite(logits: np.ndarray, position: int) -> None:
    """Raise CheckpointError where the logits [V] of a position hold NaN or +inf, or nothing but -inf."""
    largest = logits[logits.argmax()]  # NaN and +inf both come out on top
    if not math.isfinite(largest):
        raise CheckpointError(
            f"the logits of position {position} are not finite (largest: {largest}): the weights are damaged or "
            f"overflow float32; `numgpt inspect` tells which tensor; against overflow, run in float64"
        )


def finite(x: Any) -> Any:
    """Return a value for JSON, which knows neither NaN nor infinities: None stands for them.

    >>> finite(1.5), finite(math.inf), finite(None), finite("a")
    (1.5, None, None, 'a')
    """
    return None if isinstance(x, float) and not math.isfinite(x) else x
