"""From a text to a text: `generate` between the two ends of a tokenizer, and strings at which to stop."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from numgpt import fast
from numgpt.decoding.lookup import PromptLookup
from numgpt.decoding.loop import generate
from numgpt.errors import TokenError
from numgpt.model import Model


def complete(model: Model, prompt: str, **options: Any) -> str:
    """Return the text that follows a prompt.

    options  those of `stream`
    Raises what `stream` raises.

    >>> import numgpt
    >>> complete(numgpt.load("storyteller"), "Once upon a time there", max_new_tokens=6, temperature=0)
    ' was a great many years old'
    """
    return "".join(stream(model, prompt, **options))


def stream(
    model: Model, prompt: str, *, max_new_tokens: int = 200, stop_strings: Sequence[str] = (), **options: Any
) -> Iterator[str]:
    """Yield the text that follows a prompt, piece by piece, each character as soon as its last byte is there.

    prompt          a text; an empty one stands for the end-of-text token, after which a new text begins
    stop_strings    the text ends before the first of them. What may be the beginning of one is held back until it is
                    known whether it is, so no part of one is ever yielded
    options         those of `generate`. The forward pass is the fast one, and text that repeats is guessed
    Raises, when called, what `generate` raises; TokenError for a model without a tokenizer.

    >>> import numgpt
    >>> model = numgpt.load("storyteller")
    >>> list(stream(model, "Once upon a time there", max_new_tokens=6, temperature=0, stop_strings=["years"]))
    [' was', ' a', ' great', ' man', 'y ']
    """
    tokenizer = model.tokenizer
    if tokenizer is None:
        raise TokenError("this model has no tokenizer, which text needs: work with ids, by numgpt.generate")
    steps = generate(
        start_ids(model, tokenizer.encode(prompt)),
        model.params,
        model.config,
        **{"forward": fast.forward, "guess": PromptLookup(), **options},
        max_new_tokens=max_new_tokens,
        stop_strings=stop_strings,
        tokenizer=tokenizer,
    )
    return until(tokenizer.decode_stream(steps), stop_strings)


def start_ids(model: Model, ids: list[int]) -> list[int]:
    """Return ids, or for none the end-of-text id, after which a new text begins.

    Raises TokenError where the model has no such id.
    """
    if ids:
        return ids
    if model.config.eos_token_id is None:
        raise TokenError("the prompt is empty, and the model has no end-of-text to start from: give some text")
    return [model.config.eos_token_id]


def until(pieces: Iterable[str], stop_strings: Sequence[str]) -> Iterator[str]:
    """Pass a text on, piece by piece, up to the first of some strings, and never a part of one.

    >>> list(until(["He sa", "id: n", "o. T", "hen"], [". The"]))
    ['He sa', 'id: n', 'o']
    >>> list(until(["He sa", "id: n", "o. T", "oo"], [". The"]))
    ['He sa', 'id: n', 'o', '. Too']
    """
    held = ""
    for piece in pieces:
        held += piece
        found = [at for stop in stop_strings if (at := held.find(stop)) >= 0]
        if found:
            if min(found):
                yield held[: min(found)]
            return
        free = len(held) - longest_beginning(held, stop_strings)
        if free:
            yield held[:free]
        held = held[free:]
    if held:
        yield held


def longest_beginning(text: str, stop_strings: Sequence[str]) -> int:
    """Return the length of the longest end of a text with which one of the strings begins.

    >>> longest_beginning("no. T", [". The", "xyz"])
    3
    """
    most = min(len(text), max((len(stop) for stop in stop_strings), default=0))
    return next((n for n in range(most, 0, -1) if any(stop.startswith(text[-n:]) for stop in stop_strings)), 0)
