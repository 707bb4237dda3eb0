"""From a prompt to a streamed text, its ids, and the reason why it ended.

    prompt --encode--> ids --generate--> new ids --decode_stream--> pieces of text --until--> the text before a stop

There is one way between the two ends, `stream_ids`; the command line, chat and apps all take it.
"""

from collections.abc import Generator, Iterable, Iterator, Sequence
from typing import Any

from numgpt import fast
from numgpt.decoding.healing import take_back
from numgpt.decoding.lookup import PromptLookup
from numgpt.decoding.loop import generate
from numgpt.errors import TokenError
from numgpt.model import Ids, Model, tokenizer_of
from numgpt.tokenizer import Tokenizer


class Stream(Iterator[str]):
    """The text that follows a prompt: an iterator of its pieces, each character as soon as its last byte is there.

    ids            the new ids so far, also those of a stop string, of which no part is in the text
    finish_reason  why the text ended: "stop", "length" or "context", as `generate` returns it. "interrupted" until then
    close()        ends the text here, and leaves a cache that was given as `generate` says
    """

    def __init__(
        self,
        steps: Generator[int, None, str],
        tokenizer: Tokenizer,
        stop_strings: Sequence[str] = (),
        begins_with: str | None = None,
    ) -> None:
        self.ids: list[int] = []
        self.finish_reason = "interrupted"
        self._steps = steps
        self._pieces = until(behind(tokenizer.decode_stream(self._watched()), begins_with), stop_strings)

    def _watched(self) -> Iterator[int]:
        """Pass on the ids that come, and keep them, and the reason with which they end."""
        while True:
            try:
                i = next(self._steps)
            except StopIteration as end:
                self.finish_reason = end.value
                return
            self.ids.append(i)
            yield i

    def __next__(self) -> str:
        try:
            return next(self._pieces)
        except StopIteration:
            if self.finish_reason == "interrupted":  # before the last id was asked for: by a stop string
                self.finish_reason = "stop"
            self._steps.close()
            raise

    def close(self) -> None:
        self._pieces = iter(())
        self._steps.close()


def stream_ids(
    model: Model, ids: Ids, *, max_new_tokens: int = 200, stop_strings: Sequence[str] = (), **options: Any
) -> Stream:
    """Return the text that follows some ids as a Stream.

    ids           [T] int; none stand for the end-of-text token, after which a new text begins
    stop_strings  the text ends before the first of them. What may be the beginning of one is held back until it is
                  known whether it is, so no part of one is ever yielded
    options       those of `generate`. The forward pass is the fast one, and text that repeats is guessed
    Raises what `generate` raises when it is called; TokenError for a model without a tokenizer, and for no ids where
    the model has no end-of-text.
    """
    tokenizer = tokenizer_of(model)
    steps = generate(
        start_ids(model, ids),
        model.params,
        model.config,
        **{"forward": fast.forward, "guess": PromptLookup(), **options},
        max_new_tokens=max_new_tokens,
        stop_strings=stop_strings,
        tokenizer=tokenizer,
    )
    return Stream(steps, tokenizer, stop_strings, options.get("begins_with"))


def stream(model: Model, prompt: str, *, heal: bool = False, **options: Any) -> Stream:
    """Yield the text that follows a prompt, piece by piece, each character as soon as its last byte is there.

    prompt   a text; an empty one stands for the end-of-text token, after which a new text begins
    heal     let the last word of the prompt go on as if it had not been cut there: see `decoding.healing`. Its tokens
             are written anew, and count as new ones; its text is not told again
    options  those of `stream_ids`, max_new_tokens and stop_strings first
    Returns a Stream, which has the ids and the reason of the end besides.
    Raises, when called, what `stream_ids` raises.

    >>> import numgpt
    >>> model = numgpt.load("storyteller")
    >>> text = stream(model, "Once upon a time there", max_new_tokens=6, temperature=0, stop_strings=["years"])
    >>> list(text), text.finish_reason
    ([' was', ' a', ' great', ' man', 'y '], 'stop')
    """
    if not heal:
        return stream_ids(model, tokenizer_of(model).encode(prompt), **options)
    ids, last = take_back(prompt, tokenizer_of(model))
    return stream_ids(model, ids, begins_with=last or None, **options)


def complete(model: Model, prompt: str, **options: Any) -> str:
    """Return the text that follows a prompt.

    options  those of `stream_ids`, max_new_tokens and stop_strings first
    Raises what `stream` raises.

    >>> import numgpt
    >>> complete(numgpt.load("storyteller"), "Once upon a time there", max_new_tokens=6, temperature=0)
    ' was a great many years old'
    """
    return "".join(stream(model, prompt, **options))


def text_of(
    ids: Iterable[int], tokenizer: Tokenizer, stop_strings: Sequence[str] = (), begins_with: str | None = None
) -> str:
    """Return the text of new ids that are there already, up to the first of some strings: that of a batch, or of beams.

    >>> import numgpt
    >>> tokenizer = numgpt.load("storyteller").tokenizer
    >>> text_of(tokenizer.encode("a king. The end"), tokenizer, [". The"])
    'a king'
    """
    return "".join(until(behind(tokenizer.decode_stream(ids), begins_with), stop_strings))


def start_ids(model: Model, ids: Ids) -> Ids:
    """Return ids, or for none the id that a new text begins with: end-of-text, unless the model has another.

    Raises TokenError where the model has no such id.
    """
    if len(ids):
        return ids
    if model.config.start_id is None:
        raise TokenError("the prompt is empty, and the model has no end-of-text to start from: give some text")
    return [model.config.start_id]


def behind(pieces: Iterable[str], start: str | None) -> Iterator[str]:
    """Leave out the beginning of a text that comes piece by piece.

    >>> list(behind([" capi", "tal", " of"], " cap"))
    ['i', 'tal', ' of']
    """
    left = len(start or "")
    for piece in pieces:
        if piece[left:]:
            yield piece[left:]
        left = max(left - len(piece), 0)


def until(pieces: Iterable[str], stop_strings: Sequence[str]) -> Iterator[str]:
    """Pass a text on, piece by piece, up to the first of some strings, and never a part of one.

    >>> list(until(["He sa", "id: n", "o. T", "hen"], [". The"]))
    ['He sa', 'id: n', 'o']
    >>> list(until(["He sa", "id: n", "o. T", "oo"], [". The"]))
    ['He sa', 'id: n', 'o', '. Too']
    """
    held = ""
    for piece in pieces:
        free, held, ended = cut(held + piece, stop_strings)
        if free:
            yield free
        if ended:
            return
    if held:
        yield held


def cut(text: str, stop_strings: Sequence[str]) -> tuple[str, str, bool]:
    """Cut a text that goes on into what can be passed on and what may be the beginning of one of the strings.

    Returns the two, and whether a string stands there: then the first is what comes before it, and the second empty.

    >>> cut("He said: no. T", [". The"])
    ('He said: no', '. T', False)
    >>> cut("He said: no. Then", [". The"])
    ('He said: no', '', True)
    """
    found = [at for stop in stop_strings if (at := text.find(stop)) >= 0]
    if found:
        return text[: min(found)], "", True
    free = len(text) - longest_beginning(text, stop_strings)
    return text[:free], text[free:], False


def longest_beginning(text: str, stop_strings: Sequence[str]) -> int:
    """Return the length of the longest end of a text with which one of the strings begins.

    >>> longest_beginning("no. T", [". The", "xyz"])
    3
    """
    most = min(len(text), max((len(stop) for stop in stop_strings), default=0))
    return next((n for n in range(most, 0, -1) if any(stop.startswith(text[-n:]) for stop in stop_strings)), 0)
