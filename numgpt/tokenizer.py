"""Byte-level BPE: text to ids and back, exactly as GPT-2 does it.

    text --split--> words --merge--> pieces --vocabulary--> ids

In reading order:

    split      cuts text into words, numbers, punctuation and spaces, with one regular expression
    merge      glues the bytes of a word together, pair by pair: the whole of BPE
    Tokenizer  does the one after the other, and knows the ids

It is written to be read. `numgpt.Tokenizer` is its twin in `fast/`: the same ids, sooner, and tokens that are added to
a vocabulary. `checkpoint/vocabulary.py` builds that one from files.

Sources: Sennrich et al. 2016, arXiv:1508.07909; Radford et al. 2019 (GPT-2) and the files OpenAI released with it.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache
from itertools import pairwise
from operator import index
from typing import Any

from numgpt.errors import TokenError

Pair = tuple[bytes, bytes]
BYTES = [bytes([i]) for i in range(256)]
UNKNOWN = "\ufffd".encode()  # what an id within the range that has no piece decodes to


# ---- split: text to words


def pattern_of(letter: str, number: str) -> str:
    r"""GPT-2's regular expression. At each position the first of these branches that fits gives the next word:

        's|'t|'re|...           an English contraction: "it's" gives "it" and "'s"
         ?[letter]+             letters, with the space before them: " world"
         ?[number]+             numbers, with the space before them: " 2019"
         ?[^\sletternumber]+    what is neither, nor space, with the space before it: " :-)"
        \s+(?!\S)               a run of space, less its last character if something follows,
                                so that " world" gets the space that belongs to it
        \s+                     what space is left

    As OpenAI wrote it, `letter` is \p{L} and `number` is \p{N}: any letter and any number of Unicode.
    """
    return rf"'s|'t|'re|'ve|'m|'ll|'d| ?[{letter}]+| ?[{number}]+| ?[^\s{letter}{number}]+|\s+(?!\S)|\s+"


def unicode_pattern() -> str:
    """GPT-2's regular expression for any text, its letters and numbers those of Unicode 16 (see AFTER_UNICODE_16)."""
    return pattern_of(rf"[\p{{L}}--[{AFTER_UNICODE_16}]]", rf"[\p{{N}}--[{AFTER_UNICODE_16}]]")


@cache
def pattern() -> Any:
    """Compile GPT-2's regular expression. This waits for the first text, as it takes 25 ms."""
    import regex  # and not `re`, which has no \p{L}

    return regex.compile(unicode_pattern(), regex.VERSION1)


def split(text: str) -> list[str]:
    """Cut text into the words that BPE works on. Merges never cross from one word into the next.

    text     any str
    Returns a list of str whose concatenation is `text`.
    Raises nothing.
    Notes: letters and numbers are those of Unicode 16, see `AFTER_UNICODE_16`.
    Source: `encoder.py` of the GPT-2 release, 2019.

    >>> split("It's 2019,  world!")
    ['It', "'s", ' 2019', ',', ' ', ' world', '!']
    """
    words: list[str] = pattern().findall(text)
    return words


# ---- merge: a word to pieces


def next_pair(pieces: Sequence[bytes], ranks: Mapping[Pair, int]) -> int | None:
    """Which pair is merged next: the number of its left piece; None where no pair is known.

    >>> next_pair([b"l", b"ow", b"est"], {(b"o", b"w"): 66, (b"l", b"ow"): 9063})
    0
    """
    known = [i for i, pair in enumerate(pairwise(pieces)) if pair in ranks]
    return min(known, key=lambda i: ranks[pieces[i], pieces[i + 1]], default=None)  # of equals min gives the first


def merge(word: bytes, ranks: Mapping[Pair, int]) -> list[bytes]:
    """Byte-pair encoding of one word: glue the adjacent pair that was learnt first, until no pair is known.

    word     bytes
    ranks    {(left, right): rank}; the lowest rank is merged first, the leftmost pair first among equals
    Returns the pieces, whose concatenation is `word`.
    Raises nothing.
    Source: Sennrich et al. 2016, arXiv:1508.07909, on bytes instead of characters.

    How GPT-2 merges "lowest"; under each pair its rank, in brackets the lowest:

        l    o    w    e    s    t
         5183  66  476 [18]  45
        l    o    w    es   t
         5183 [66]  -   139
        l    ow   es   t
         9063  -  [139]
        l    ow   est
        [9063]  -
        low  est                    no pair is known: done. The merge of rank r made id 256 + r.

    >>> merge(b"lowest", {(b"e", b"s"): 18, (b"o", b"w"): 66, (b"es", b"t"): 139, (b"l", b"ow"): 9063})
    [b'low', b'est']
    >>> from numgpt.hub.loading import load_tokenizer
    >>> load_tokenizer("gpt2").encode("lowest") == [256 + 9063, 256 + 139]
    True
    """
    pieces = [word[i : i + 1] for i in range(len(word))]
    while (i := next_pair(pieces, ranks)) is not None:
        pieces[i : i + 2] = [pieces[i] + pieces[i + 1]]
    return pieces


# ---- the tokenizer


class Tokenizer:
    """Text to ids and back.

    merges          pairs of bytes, the first learnt first
    vocabulary      {piece: id} of the pieces that merging gives; by default the 256 bytes, then each merge in order
    special_tokens  {text: id} of tokens that stand for themselves, such as <|endoftext|>

    Attributes: `vocabulary`, `special_tokens`, `ranks` {pair: rank}. len(tokenizer) is one past the highest id.

    >>> tokenizer = Tokenizer([(b"h", b"i"), (b" ", b"hi")], special_tokens={"<end>": 300})
    >>> tokenizer.encode("hi hi!<end>", allow_special=True)
    [256, 257, 33, 300]
    """

    def __init__(
        self,
        merges: Sequence[Pair],
        vocabulary: Mapping[bytes, int] | None = None,
        special_tokens: Mapping[str, int] | None = None,
    ) -> None:
        if vocabulary is None:
            vocabulary = {piece: i for i, piece in enumerate([*BYTES, *(left + right for left, right in merges)])}
        self.vocabulary = vocabulary
        self.ranks = {pair: rank for rank, pair in enumerate(merges)}
        self.special_tokens = dict(special_tokens or {})
        self._pieces = {i: piece for piece, i in vocabulary.items()}
        self._pieces |= {i: text.encode() for text, i in self.special_tokens.items()}

    def __len__(self) -> int:
        return max(self._pieces, default=-1) + 1

    def encode(self, text: str, allow_special: bool = False) -> list[int]:
        """Text to ids.

        text           str
        allow_special  whether "<|endoftext|>" in the text is the special token, or the letters it is written with
        Returns a list of int. Nothing is put before or after.
        Raises TokenError if the text is not a str, has a lone surrogate, which is no character, or a byte that has no
        id in this vocabulary.

        >>> from numgpt.hub.loading import load_tokenizer
        >>> load_tokenizer("gpt2").encode("Hello world<|endoftext|>")
        [15496, 995, 27, 91, 437, 1659, 5239, 91, 29]
        >>> load_tokenizer("gpt2").encode("Hello world<|endoftext|>", allow_special=True)
        [15496, 995, 50256]
        """
        check_text(text)
        special = sorted(self.special_tokens, key=len, reverse=True) if allow_special else []  # the longest first
        parts = re.split(f"({'|'.join(map(re.escape, special))})", text) if special else [text]
        ids: list[int] = []
        for part in parts:
            if part in special:
                ids.append(self.special_tokens[part])
            else:
                for word in split(part):
                    ids += self.encode_word(word)
        return ids

    def encode_part(self, text: str, allow_special: bool = False) -> list[int]:
        """A part of a text to ids: what `encode` gives, also for a tokenizer that puts tokens around each text."""
        return self.encode(text, allow_special)

    def encode_word(self, word: str) -> Sequence[int]:
        """One word, as `split` cuts them, to ids."""
        return self.ids_of(merge(word.encode(), self.ranks), word)

    def ids_of(self, pieces: list[bytes], word: str) -> tuple[int, ...]:
        """The ids of the pieces of a word. Raises TokenError for a byte that has none."""
        try:
            return tuple(map(self.vocabulary.__getitem__, pieces))
        except KeyError as error:
            raise TokenError(
                f"the word {word[:40]!r} has the byte {error.args[0]!r}, which has no id in this vocabulary: "
                "expected text in the alphabet that the tokenizer was made for"
            ) from None

    def decode(self, ids: Iterable[int]) -> str:
        """Ids to text.

        ids      a list or array of int
        Returns str. Bytes that are no UTF-8, and ids within the range that have no piece, become U+FFFD.
        Raises TokenError for an id out of range, or if `ids` are no integers.

        >>> from numgpt.hub.loading import load_tokenizer
        >>> load_tokenizer("gpt2").decode([15496, 995])
        'Hello world'
        """
        return b"".join(self.each_piece(ids)).decode("utf-8", "replace")

    def decode_stream(self, ids: Iterable[int]) -> Iterator[str]:
        """Ids to text, each character as soon as its last byte is there.

        ids      an iterable of int, read one at a time
        Returns an iterator of non-empty str; together they are decode(ids).
        Raises TokenError as `decode` does, when it comes to the id.

        >>> from numgpt.hub.loading import load_tokenizer
        >>> list(load_tokenizer("gpt2").decode_stream([15496, 12520, 97, 245]))  # the last three ids are one emoji
        ['Hello', ' ', '\U0001f917']
        """
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        for piece in self.each_piece(ids):
            if text := decoder.decode(piece):
                yield text
        if text := decoder.decode(b"", final=True):
            yield text

    def pieces(self, ids: Iterable[int]) -> list[bytes]:
        """The bytes of each id, which need not be whole characters.

        >>> from numgpt.hub.loading import load_tokenizer
        >>> load_tokenizer("gpt2").pieces([15496, 12520, 97, 245])
        [b'Hello', b' \\xf0\\x9f', b'\\xa4', b'\\x97']
        """
        return list(self.each_piece(ids))

    def each_piece(self, ids: Iterable[int]) -> Iterator[bytes]:
        """The bytes of each id, one after the other as the ids come."""
        return (self._pieces.get(i, UNKNOWN) for i in each_id(ids, len(self)))


# ---- what is refused


def check_text(text: Any) -> None:
    """Raise TokenError unless the text is a str without lone surrogates, which are no characters."""
    if not isinstance(text, str):
        remedy = "decode it first: data.decode('utf-8')" if isinstance(text, bytes) else "pass one text"
        raise TokenError(f"the text is of type {type(text).__name__}, expected str: {remedy}")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise TokenError(
            f"the text has a lone surrogate, U+{ord(text[error.start]):04X}, at position {error.start}: expected "
            "characters only; to replace it: text.encode('utf-16', 'surrogatepass').decode('utf-16', 'replace')"
        ) from None


def each_id(ids: Iterable[Any], n: int) -> Iterator[int]:
    """Yield the ids one by one, as they come. Raises TokenError unless each is an integer from 0 to n - 1."""
    if isinstance(ids, str | bytes) or not hasattr(ids, "__iter__") or getattr(ids, "ndim", 1) != 1:
        raise TokenError(f"ids are of type {type(ids).__name__}, expected a flat list or array of integers")
    for position, i in enumerate(ids):
        try:
            i = index(i)
        except TypeError:
            raise TokenError(
                f"id {i!r} at position {position} is of type {type(i).__name__}, expected an integer: "
                "pass a flat list or array of integers"
            ) from None
        if not 0 <= i < n:
            raise TokenError(
                f"id {i} at position {position} is not in the vocabulary, expected 0 to {n - 1}: "
                "use the tokenizer that belongs to the model"
            )
        yield i


# ---- a table

# Letters and numbers that Unicode added after version 16. The tokenizers to agree with (tiktoken 0.14, tokenizers 0.23)
# know Unicode 16, in which these are neither; `regex` moves on. Complete up to Unicode 18.
AFTER_UNICODE_16 = (
    r"\u0558\u058b-\u058c\u088f\u0c5c\u0cdc\u208f\u209d-\u209f\ua7ce-\ua7cf\ua7d2\ua7d4\ua7dd\ua7e2\ua7f1"
    r"\uab6c-\uab6d\U000107bb-\U000107bf\U00010940-\U00010959\U00010ec5-\U00010ec7\U00010ed9-\U00010eee\U00011b0a"
    r"\U00011db0-\U00011ddb\U00011de0-\U00011de9\U00011df1\U0001246f\U00012475-\U0001247f\U00012550-\U00012686"
    r"\U00016ea0-\U00016eb8\U00016ebb-\U00016ed3\U00016ff2-\U00016ff6\U000187f8-\U000187ff\U00018cd6-\U00018cda"
    r"\U00018d09-\U00018d20\U00018d80-\U00018df2\U00018e00-\U00019191\U000191a0-\U000191d2\U0001b123-\U0001b128"
    r"\U0001b168\U0001d6a6\U0001df1f-\U0001df24\U0001df2b-\U0001df81\U0001df90-\U0001df96\U0001dfcd-\U0001dfff"
    r"\U0001e6c0-\U0001e6de\U0001e6e0-\U0001e6e2\U0001e6e4-\U0001e6e5\U0001e6e7-\U0001e6ed\U0001e6f0-\U0001e6f4"
    r"\U0001e6fe-\U0001e6ff\U0002b73a-\U0002b73f\U0002b81e\U0002cea2-\U0002cead\U000323b0-\U00033479"
    r"\U0003d000-\U0003fc3f"
)
