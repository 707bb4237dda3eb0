"""Texts that must not come, however they are cut into tokens.

    logit_i = -inf   where text + piece_i has a banned text that ends in piece_i

A token is banned in the place where it would complete one of the texts, and nowhere else. So all that may be written
otherwise keeps its odds; and of a text that begins in the prompt, the rest is not written either.
"""

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np

from numgpt.checks import check_option
from numgpt.decoding.pieces import Pieces, pieces_of
from numgpt.errors import OptionError
from numgpt.sampling import Text
from numgpt.tokenizer import Tokenizer


def check_ban(name: str, texts: Sequence[str] | None, n_vocab: int | None) -> tuple[str, ...] | None:
    """Return the texts as a tuple. Raises OptionError for what is no list of texts that are there and have characters.

    >>> check_ban("ban", ["Wolf"], None)
    ('Wolf',)
    """
    if texts is None:
        return None
    fits = isinstance(texts, (tuple, list)) and all(isinstance(text, str) and text for text in texts)
    check_option(name, texts, fits, "a list of texts, none of them empty, or None for off")
    for text in texts:
        check_characters(name, text)
    return tuple(texts)


def check_characters(name: str, text: Any) -> None:
    """Raise OptionError for a lone surrogate, which is no character."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        surrogate = f"U+{ord(text[error.start]):04X}"
        raise OptionError(f"{name} has a lone surrogate, {surrogate}: expected characters only") from None


def ban_texts(logits: np.ndarray, ids: Text, texts: Sequence[str], tokenizer: Tokenizer) -> np.ndarray:
    """Ban each token that would complete one of the texts.

    logits [V], ids [T] int
    texts  with the case as it is: to ban "wolf" leaves "Wolf", and bans "wolfish"
    Returns [V].
    Notes: a text is its bytes in UTF-8, in which no character has another one inside. Special tokens are no text.

    >>> tokenizer = Tokenizer([(b"a", b"b"), (b"b", b"c")])
    >>> out = ban_texts(np.zeros(258), [97], ["abc"], tokenizer)  # "a"
    >>> np.flatnonzero(np.isinf(out)).tolist()  # "bc"
    [257]
    """
    pieces, out = pieces_of(tokenizer), logits.copy()
    for text in texts:
        found = completing(text.encode(), ids, pieces)
        out[found[found < len(out)]] = -math.inf
    return out


def completing(text: bytes, ids: Text, pieces: Pieces) -> np.ndarray:
    """Return the ids that complete a text: those that have it whole, and the rest of it where the text ends so."""
    tail = pieces.tail(ids, len(text) - 1)
    begun = [n for n in range(1, len(text)) if tail.endswith(text[:n])]  # with so many bytes of it the text ends
    return np.concatenate([having(text, pieces), *(pieces.beginning_with(text[n:]) for n in begun)])


@lru_cache(maxsize=1024)
def having(text: bytes, pieces: Pieces) -> np.ndarray:
    """Return the ids that have a text whole: the same array each time."""
    return pieces.with_inside(text)
