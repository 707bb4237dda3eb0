"""Byte-level BPE: text to ids and back, exactly as GPT-2 does it.

    text --split--> words --merge--> pieces --vocabulary--> ids

In reading order:

    split      cuts text into words, numbers, punctuation and spaces, with one regular expression
    merge      glues the bytes of a word together, pair by pair: the whole of BPE
    Tokenizer  does the one after the other, and knows the ids

Sources: Sennrich et al. 2016, arXiv:1508.07909; Radford et al. 2019 (GPT-2) and the files OpenAI released with it.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache
from itertools import pairwise
from typing import Any

from numgpt.checks import check_text, each_id
from numgpt.errors import TokenError

Pair = tuple[bytes, bytes]
BYTES = [bytes([i]) for i in range(256)]
UNKNOWN = "\ufffd".encode()  # what an id within the range that has no piece decodes to


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


@cache
def pattern() -> Any:
    """Return GPT-2's regular expression, compiled when the first text asks for it: that takes 25 ms."""
    import regex

    later = later_than_unicode_16()
    return regex.compile(pattern_of(rf"[\p{{L}}--[{later}]]", rf"[\p{{N}}--[{later}]]"), regex.VERSION1)


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
    while True:
        known = [pair for pair in pairwise(pieces) if pair in ranks]
        if not known:
            return pieces
        best = min(known, key=ranks.__getitem__)
        i = list(pairwise(pieces)).index(best)  # the leftmost of equals
        pieces[i : i + 2] = [best[0] + best[1]]


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
            vocabulary = dict(zip([*BYTES, *map(b"".join, merges)], range(256 + len(merges)), strict=True))
        self.vocabulary = vocabulary
        self.ranks = dict(zip(merges, range(len(merges)), strict=True))
        self.special_tokens = dict(special_tokens or {})
        self._pieces = dict(zip(vocabulary.values(), vocabulary, strict=True))
        self._pieces.update((i, text.encode()) for text, i in self.special_tokens.items())

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


# Letters and numbers that Unicode added after version 16. The tokenizers to agree with (tiktoken 0.14, tokenizers 0.23)
# know Unicode 16, in which these are neither; `regex` moves on. Complete up to Unicode 18.
AFTER_UNICODE_16 = """
    558 58b-58c 88f c5c cdc 208f 209d-209f a7ce-a7cf a7d2 a7d4 a7dd a7e2 a7f1 ab6c-ab6d 107bb-107bf 10940-10959
    10ec5-10ec7 10ed9-10eee 11b0a 11db0-11ddb 11de0-11de9 11df1 1246f 12475-1247f 12550-12686 16ea0-16eb8 16ebb-16ed3
    16ff2-16ff6 187f8-187ff 18cd6-18cda 18d09-18d20 18d80-18df2 18e00-19191 191a0-191d2 1b123-1b128 1b168 1d6a6
    1df1f-1df24 1df2b-1df81 1df90-1df96 1dfcd-1dfff 1e6c0-1e6de 1e6e0-1e6e2 1e6e4-1e6e5 1e6e7-1e6ed 1e6f0-1e6f4
    1e6fe-1e6ff 2b73a-2b73f 2b81e 2cea2-2cead 323b0-33479 3d000-3fc3f
"""


def later_than_unicode_16() -> str:
    """Return AFTER_UNICODE_16 as a regular expression writes a set of characters."""
    return "".join("-".join(rf"\U{int(end, 16):08x}" for end in span.split("-")) for span in AFTER_UNICODE_16.split())
