"""The bytes of each token: for controls that look at a text as text, however it is cut into tokens."""

from bisect import bisect_left, bisect_right
from functools import lru_cache

import numpy as np

from numgpt.sampling import Text
from numgpt.tokenizer import Tokenizer


class Pieces:
    """The bytes of each id of a tokenizer. Special tokens are no text: they have none, and neither have ids past it.

    all       of the ids of the tokenizer, in their order
    in_order  [V] these ids, in the alphabetic order of their pieces

    >>> pieces = Pieces(Tokenizer([(b"h", b"i")], special_tokens={"<end>": 257}))
    >>> pieces.of(256), pieces.of(257), pieces.of(258), pieces.beginning_with(b"h")
    (b'hi', b'', b'', array([104, 256]))
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.all = tokenizer.pieces(range(len(tokenizer)))
        for i in tokenizer.special_tokens.values():
            self.all[i] = b""
        in_order = sorted(range(len(self.all)), key=self.all.__getitem__)
        self.in_order = np.array(in_order, dtype=np.intp)
        self._sorted = [self.all[i] for i in in_order]

    def of(self, i: int) -> bytes:
        """Return the bytes of an id."""
        return self.all[i] if i < len(self.all) else b""

    def beginning_with(self, start: bytes) -> np.ndarray:
        """Return the ids of the pieces that begin with some bytes, one or more."""
        first = bisect_left(self._sorted, start)
        last = bisect_right(self._sorted, start, lo=first, key=lambda piece: piece[: len(start)])
        return self.in_order[first:last]

    def with_inside(self, part: bytes) -> np.ndarray:
        """Return the ids of the pieces that have some bytes, one or more, anywhere."""
        return np.array([i for i, piece in enumerate(self.all) if part in piece], dtype=np.intp)

    def tail(self, ids: Text, n: int) -> bytes:
        """Return the last n bytes of a text, or more; fewer where it is shorter, or has a special token before.

        >>> Pieces(Tokenizer([(b"h", b"i")])).tail([104, 105, 256], 1)
        b'hi'
        """
        parts: list[bytes] = []
        for i in reversed(ids):
            piece = self.of(i)
            if n <= 0 or not piece:
                break
            parts.append(piece)
            n -= len(piece)
        return b"".join(reversed(parts))


@lru_cache(maxsize=4)
def pieces_of(tokenizer: Tokenizer) -> Pieces:
    """Return the pieces of a tokenizer: the same ones each time."""
    return Pieces(tokenizer)
