"""One running batch, which texts join and leave at any token.

    waiting --there is room--> its prompt, in parts --> a token in each pass --> done
                                                    \\--the client goes away--> gone

The engine has a thread of its own, in which all passes run.
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from numgpt import fast
from numgpt.decoding.batch import Running, append, begin, choose_exactly, choose_with_doubt
from numgpt.decoding.rules import Rules
from numgpt.measure.scoring import log_probs
from numgpt.model import Model

PART = 128  # tokens of prompts in one pass: longer ones are read in parts, between which the other texts go on
TOGETHER = 0.02  # seconds within which the news of several passes go out together
IS_FULL = "the server is busy: try again a little later"
IS_CLOSING = "the server is shutting down"


class Busy(Exception):
    """The queue is full, or the server is shutting down."""


class Token(NamedTuple):
    """A token, and how likely the model takes it to be before any control."""

    id: int
    log_prob: float | None = None  # natural logarithm; None where it was not asked for, or nothing stands before
    likeliest: Sequence[tuple[int, float]] = ()  # ids with theirs, the likeliest first


class News(NamedTuple):
    """What a pass brought for a text."""

    prompt: Sequence[Token] = ()  # the next tokens of the prompt, where it is scored
    token: Token | None = None  # the new one, also where it is an end-of-text
    finish_reason: str = ""  # "stop", "length" or "context"; "" while it goes on
    error: Exception | None = None  # what ended it instead

    @property
    def is_last(self) -> bool:
        """Whether no more will come."""
        return bool(self.finish_reason or self.error)


@dataclass(eq=False)
class Text:
    """A text that a client asked for.

    ids            the prompt, at least one
    number         which of several texts of one seed it is: the stream of its draws
    n_likeliest    how many of the likeliest ids to tell at each place; None for no log-probabilities at all
    scores_prompt  whether to tell the tokens of the prompt too
    listener       whoever hears of it: the engine carries it along
    """

    ids: list[int]
    rules: Rules
    number: int = 0
    n_likeliest: int | None = None
    scores_prompt: bool = False
    listener: Any = None

    is_gone: bool = False  # nobody waits for it any more
    running: Running | None = None
    in_doubt: tuple[np.ndarray, Future[int]] | None = None  # its last logits [V], and the choice that is made aside

    @property
    def is_beginning(self) -> bool:
        """Whether its prompt is not read yet."""
        return self.running is None or len(self.running.cache) < len(self.ids)


class Engine:
    """Runs texts in one batch, each by its own rules, and tells what comes of them.

    batch_size  how many texts run at once; each has a cache with room for its prompt and max_new_tokens
    queue       with so many waiting, no further ones are taken
    part        how many tokens of prompts go into one pass
    tell        is called with all the news of some passes, in the engine's thread
    Notes: a text is the one that `generate` makes by the same rules. Where rounding may decide between two ids, which
    hangs on what else is in the batch, the choice is made from logits in float64, and the other texts go on meanwhile.

    >>> import numgpt
    >>> from numgpt.decoding.rules import check_rules
    >>> model, ids, done = numgpt.load("storyteller"), [], threading.Event()
    >>> def tell(all_news):
    ...     for text, news in all_news:
    ...         ids.append(news.token.id)
    ...         if news.finish_reason:
    ...             done.set()
    >>> engine = Engine(model, tell)
    >>> prompt = model.tokenizer.encode("Once upon a time there")
    >>> engine.submit([Text(prompt, check_rules(model.config, max_new_tokens=6, temperature=0))])
    >>> done.wait(60) and model.tokenizer.decode(ids)
    ' was a great many years old'
    >>> engine.stop()
    """

    def __init__(
        self,
        model: Model,
        tell: Callable[[Sequence[tuple[Text, News]]], Any],
        *,
        batch_size: int = 8,
        queue: int = 64,
        part: int = PART,
    ) -> None:
        self.model, self.tell = model, tell
        self.batch_size, self.queue, self.part = batch_size, queue, part
        self.waiting: deque[Text] = deque()
        self.running: list[Text] = []
        self._is_closing = self._reads_alone = False
        self._changed = threading.Condition()
        self._aside = ThreadPoolExecutor(1, "numgpt-exact")
        self._thread = threading.Thread(target=self._run, name="numgpt-engine", daemon=True)
        self._thread.start()

    def submit(self, texts: Sequence[Text]) -> None:
        """Put texts into the queue, all or none. Raises Busy where it is full, or the engine is closing."""
        with self._changed:
            if self._is_closing or len(self.waiting) >= self.queue:
                raise Busy(IS_CLOSING if self._is_closing else IS_FULL)
            self.waiting.extend(texts)
            self._changed.notify()

    def forget(self, texts: Iterable[Text]) -> None:
        """Let texts leave before the next pass: nobody waits for them any more."""
        with self._changed:
            for text in texts:
                text.is_gone = True
            self._changed.notify()

    def drain(self) -> None:
        """Turn away the texts that wait and all further ones. Those that run go on."""
        with self._changed:
            self._is_closing = True
            texts = list(self.waiting)
            self._changed.notify()
        self._turn_away(texts)

    def stop(self) -> None:
        """Turn away all texts; the thread ends after its pass."""
        self.drain()
        self._turn_away(list(self.running))
        self._aside.shutdown(wait=False, cancel_futures=True)

    def _turn_away(self, texts: list[Text]) -> None:
        texts = [text for text in texts if not text.is_gone]
        self.forget(texts)
        self.tell([(text, News(error=Busy(IS_CLOSING))) for text in texts])

    def _run(self) -> None:
        held: list[tuple[Text, News]] = []
        told = 0.0
        while turn := self._wait_for_turn():
            news: dict[Text, News] = {}
            try:
                self._pass_through(turn, news)
            except Exception as error:  # no memory left, or a fault of ours: it must end these texts, not the server
                news = {text: News(error=error) for text in turn}
            self._release(text for text, found in news.items() if found.is_last)
            held += [(text, found) for text, found in news.items() if found.prompt or found.token or found.is_last]
            waited = time.monotonic() - told > TOGETHER or any(text.in_doubt for text in self.running)
            if waited or any(found.is_last or is_first(text, found) for text, found in held):
                self.tell(held)
                held, told = [], time.monotonic()

    def _wait_for_turn(self) -> list[Text]:
        """Wait until texts can go on, and return them; none where the engine is closing and has no more to do."""
        with self._changed:
            while True:
                self._release(text for text in self.running if text.is_gone)
                self.waiting = deque(text for text in self.waiting if not text.is_gone)
                while self.waiting and len(self.running) < self.batch_size:
                    self.running.append(self.waiting.popleft())
                turn = [text for text in self.running if text.in_doubt is None or text.in_doubt[1].done()]
                if turn or (self._is_closing and not self.running):
                    return turn
                self._changed.wait()

    def _release(self, texts: Iterable[Text]) -> None:
        """Take texts out of the batch, and let go of their caches at once: whoever asked may hold the texts longer."""
        leaving = set(texts)
        self.running = [text for text in self.running if text not in leaving]
        for text in leaving:
            text.running = text.in_doubt = None

    def _pass_through(self, texts: list[Text], news: dict[Text, News]) -> None:
        """Bring each text a token further, or its prompt by a part, and put down what there is to tell.

        Every second time new texts are read alone: their first tokens come sooner, and the others do not wait for long.
        """
        beginning = [text for text in texts if text.is_beginning]
        self._reads_alone = bool(beginning) and not self._reads_alone
        going: list[tuple[Text, Running]] = []
        for text in beginning if self._reads_alone else texts:
            try:
                if text.in_doubt is None:
                    going.append((text, self._running(text)))
                else:
                    row, choice = text.in_doubt
                    text.in_doubt = None
                    news[text] = self._take(text, self._running(text), choice.result(), row)
            except Exception as error:
                news[text] = News(error=error)
        if not going:
            return
        caches = [r.cache for _, r in going]
        parts = shared([r.text[len(r.cache) :] for _, r in going], self.part)
        scored = any(text.scores_prompt and len(r.cache) < len(text.ids) for text, r in going)
        keep = 0 if scored else 1
        logits = fast.forward_batch(parts, self.model.params, self.model.config, caches, logits_to_keep=keep)
        for (text, r), part, rows in zip(going, parts, logits, strict=True):
            try:
                news[text] = self._hear(text, r, len(part), rows)
            except Exception as error:  # its controls ban all tokens, or its logits are not finite
                news[text] = News(error=error)

    def _running(self, text: Text) -> Running:
        """Return how far a text is. One that is new begins."""
        if text.running is None:
            text.running = begin(text.number, text.ids.copy(), self.model.params, self.model.config, text.rules)
        return text.running

    def _hear(self, text: Text, r: Running, length: int, rows: np.ndarray) -> News:
        """Return what to tell of a text after a part of so many ids. It is nothing while a prompt goes on that is not
        scored, and while a choice is made aside.

        rows  [T, V]: the logits of the part, or those of its last position alone
        """
        prompt: list[Token] = []
        if text.scores_prompt and len(r.text) == len(text.ids):
            start = len(r.cache) - length
            prompt = [] if start else [Token(text.ids[0])]
            prompt += [self._token(text, i, row) for i, row in zip(text.ids[start + 1 :], rows, strict=False)]
        if len(r.cache) < len(r.text):
            return News(prompt)
        if not r.rules.max_new_tokens:
            return News(prompt, finish_reason="length")
        row = r.others.steer(rows[-1:], r.text, len(r.cache) - length)[0] if r.others else rows[-1]
        i, may_change = choose_with_doubt(row, r, self.model.config)
        if may_change:
            choice = self._aside.submit(choose_exactly, r, self.model.params, self.model.config)
            choice.add_done_callback(self._notify)
            text.in_doubt = rows[-1].copy(), choice
            return News(prompt)
        return self._take(text, r, i, rows[-1])._replace(prompt=prompt)

    def _take(self, text: Text, r: Running, i: int, row: np.ndarray) -> News:
        """Put a chosen id behind a text, and return what to tell of it."""
        reason = append(i, r, self.model.config)
        return News(token=self._token(text, i, row), finish_reason=reason)

    def _token(self, text: Text, i: int, row: np.ndarray) -> Token:
        """Return a token with what was asked for, from the logits [V] before it."""
        if text.n_likeliest is None:
            return Token(i)
        return Token(i, *log_probs(row, i, text.n_likeliest, self.model.config.n_tokens))

    def _notify(self, _: Any) -> None:
        with self._changed:
            self._changed.notify()


def is_first(text: Text, news: News) -> bool:
    """Whether what came of a text is its first new token, which is not kept waiting."""
    return news.token is not None and text.running is not None and len(text.running.text) <= len(text.ids) + 1


def shared(parts: list[list[int]], room: int) -> list[list[int]]:
    """Cut parts so that together they have about so many ids, the longer ones shorter; each keeps one or more.

    >>> shared([[1, 2, 3, 4, 5, 6], [7], [8, 9]], room=7)
    [[1, 2, 3, 4], [7], [8, 9]]
    """
    cut: list[list[int]] = [[]] * len(parts)
    for n, at in enumerate(sorted(range(len(parts)), key=lambda at: len(parts[at]))):
        cut[at] = parts[at][: max(1, room // (len(parts) - n))]
        room -= len(cut[at])
    return cut
