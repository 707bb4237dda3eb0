"""A form to keep: the new text matches a regular expression.

    p_i = softmax(logits)_i / sum_j softmax(logits)_j   over the tokens j after which the text can still match

Each token has the probability that the model gives it among those that can still lead to a match, and top-k, top-p and
min-p choose among these. All is done on bytes, so a token that holds a part of a character counts as what it is.

The text ends at an end-of-text, which may come where it matches, and where nothing longer does; max_new_tokens and the
end of the context may cut it before. A model looks at the next token and not ahead, so a form may lead it to where it
has little to say.

The syntax is that of `regex`: characters, classes, groups, |, counts, and (?i) or (?s) in front of all. What looks
ahead, behind or elsewhere is refused by name, and so are anchors within. The partial matching of `regex` is not used,
as it may say that a text can still match where it can't.

Which tokens can follow is found for the whole vocabulary at once: the pieces are a tree, whose levels are walked one
after the other, each from the places in the automaton to which the level before has led. With GPT-2's vocabulary that
takes up to a millisecond, and where a text has come to the same place before, it is known. Where each place is new, as
a count such as .{1,500} goes on, finding out where the bytes lead comes on top: one to three milliseconds a token.
"""

import math
import threading
from functools import lru_cache
from itertools import takewhile
from typing import Any, NamedTuple

import numpy as np

from numgpt.checks import check_option
from numgpt.decoding.automaton import DEAD, MOST_SETS, Automaton, states_of
from numgpt.decoding.banned import check_characters
from numgpt.decoding.pieces import Pieces, pieces_of
from numgpt.sampling import Text
from numgpt.tokenizer import Tokenizer

BEGIN = 1  # the place in the automaton where each text begins
MOST_MASKS = 64  # that a form remembers, a byte for each token


class Level(NamedTuple):
    """One level of the tree of all pieces: their beginnings of a certain length, each once."""

    parents: np.ndarray  # [N] of each, which of the level before it goes on from
    last: np.ndarray  # [N] its last byte
    ids: np.ndarray  # [M] the tokens that end here
    ends: np.ndarray  # [M] and at which of the N


def levels_of(pieces: Pieces) -> list[Level]:
    """Return the tree of all pieces, level by level.

    >>> [level.last.tolist() for level in levels_of(Pieces(Tokenizer([], {b"ab": 0, b"ac": 1, b"b": 2})))]
    [[97, 98], [98, 99]]
    """
    longest = max(map(len, pieces.all), default=0)
    levels: list[tuple[list[int], ...]] = [([], [], [], []) for _ in range(longest)]
    path = [0] * (longest + 1)  # of the beginnings of the last piece, which number each has in its level
    before = b""
    for i in pieces.in_order.tolist():
        piece = pieces.all[i]
        for n in range(beginning_alike(before, piece), len(piece)):
            parents, last, _, _ = levels[n]
            path[n + 1] = len(parents)
            parents.append(path[n])
            last.append(piece[n])
        if piece:
            levels[len(piece) - 1][2].append(i)
            levels[len(piece) - 1][3].append(path[len(piece)])
        before = piece
    return [Level(*(np.array(column, dtype=np.intp) for column in level)) for level in levels]


def beginning_alike(a: bytes, b: bytes) -> int:
    """Return with how many equal bytes two begin.

    >>> beginning_alike(b"there", b"then")
    3
    """
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(a, b, strict=False)))


@lru_cache(maxsize=4)
def tree_of_pieces(tokenizer: Tokenizer) -> list[Level]:
    """Return the tree of a tokenizer's pieces: the same one each time."""
    return levels_of(pieces_of(tokenizer))


class Form:
    """A pattern, and the tokens of a vocabulary that may follow a text. Several threads may ask at once.

    >>> form = Form("(ab)+", Tokenizer([(b"a", b"b")]))
    >>> np.flatnonzero(form.can_follow([])).tolist(), np.flatnonzero(form.can_follow([97])).tolist()
    ([97, 256], [98])
    >>> form.matches([97]), form.matches([97, 98, 256])
    (False, True)
    """

    def __init__(self, pattern: str, tokenizer: Tokenizer) -> None:
        self._automaton = Automaton(pattern)
        self._pieces, self._levels = pieces_of(tokenizer), tree_of_pieces(tokenizer)
        self._lock = threading.Lock()
        self._forget()

    def _forget(self) -> None:
        self._automaton.forget()
        self._after: dict[tuple[int, int], int] = {}  # (place in the automaton, token) -> the next place
        self._masks: dict[int, np.ndarray] = {}

    def _place(self, ids: Text) -> int:
        """Return where some ids have come to in the automaton. A special token is no text, and leads nowhere."""
        if len(self._automaton.sets) > MOST_SETS:
            self._forget()
        place = BEGIN
        for i in ids:
            if (place, i) not in self._after:
                piece = self._pieces.of(i)
                self._after[place, i] = self._automaton.after(place, piece) if piece else DEAD
            place = self._after[place, i]
        return place

    def matches(self, ids: Text) -> bool:
        """Whether the text of some ids matches."""
        with self._lock:
            return self._automaton.matches(self._place(ids))

    def is_over(self, ids: Text) -> bool:
        """Whether the text of some ids matches, and nothing longer that begins with it."""
        with self._lock:
            return self._automaton.is_over(self._place(ids))

    def can_follow(self, ids: Text) -> np.ndarray:
        """Return of each token whether the text can still match after it [the tokenizer's length] bool."""
        with self._lock:
            place = self._place(ids)
            if place not in self._masks:
                if len(self._masks) >= MOST_MASKS:
                    self._masks.clear()
                self._masks[place] = self._find(place)
            return self._masks[place]

    def _find(self, place: int) -> np.ndarray:
        """Walk down the tree of all pieces from a place in the automaton."""
        mask = np.zeros(len(self._pieces.all), dtype=bool)
        places = np.array([place])
        for level in self._levels:
            places = self._automaton.follow(places.take(level.parents), level.last)
            if not places.any():
                break
            mask[level.ids] = places.take(level.ends) != DEAD
        return mask


@lru_cache(maxsize=8)
def form_of(pattern: str, tokenizer: Tokenizer) -> Form:
    """Return the form that a pattern is, with what it has found out before."""
    return Form(pattern, tokenizer)


def check_regex(name: str, pattern: Any, n_vocab: int | None) -> str | None:
    """Return the pattern. Raises OptionError for what is none, or has what can't be checked."""
    if pattern is None:
        return None
    check_option(name, pattern, isinstance(pattern, str) and pattern != "", "a pattern, or None for off")
    check_characters(name, pattern)
    states_of(pattern)
    return str(pattern)


def keep_form(
    logits: np.ndarray, ids: Text, pattern: str, tokenizer: Tokenizer, prompt_length: int, stop_ids: Text
) -> np.ndarray:
    """Ban each token after which the new text can't match a regular expression, and the end until it does.

    logits [V], ids [T] int, of which the first prompt_length are the prompt, which is not looked at
    stop_ids  the ids that end a text. Other special tokens are banned
    Returns [V].
    Source: Willard and Louf 2023, arXiv:2307.09702.

    >>> out = keep_form(np.zeros(257), [104], "hi|ho", Tokenizer([(b"h", b"i")]), prompt_length=0, stop_ids=[0])
    >>> np.flatnonzero(out == 0).tolist() == [*b"io"]
    True
    """
    form, new = form_of(pattern, tokenizer), ids[prompt_length:]
    may = np.zeros(len(logits), dtype=bool)
    found = form.can_follow(new)[: len(logits)]
    may[: len(found)] = found
    may[[i for i in stop_ids if i < len(may)]] = form.matches(new)
    return np.where(may, logits, -math.inf)
