"""Byte-level BPE: text to ids and back, exactly as GPT-2 does it.

    text --split--> words --merge--> pieces --vocabulary--> ids

In reading order:

    split      cuts text into words, numbers, punctuation and spaces, with one regular expression
    merge      glues the bytes of a word together, pair by pair: the whole of BPE, written to be read
    Tokenizer  does the same fast, and knows the vocabulary and the special tokens

`numgpt.vocabulary` builds a Tokenizer from files; the quirks of their formats stay there.

Sources: Sennrich et al. 2016, arXiv:1508.07909; Radford et al. 2019 (GPT-2) and the files OpenAI released with it.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache, partial
from heapq import heapify, heappop, heappush
from itertools import chain, pairwise, repeat
from operator import index
from typing import Any, NamedTuple

from numgpt.errors import TokenError

Pair = tuple[bytes, bytes]

# ---- split: text to words


def _pattern(letter: str, number: str) -> str:
    r"""GPT-2's regular expression. At each position the first of these branches that fits gives the next word:

        's|'t|'re|...           an English contraction: "it's" gives "it" and "'s"
         ?[letter]+             letters, with the space before them: " world"
         ?[number]+             numbers, with the space before them: " 2019"
         ?[^\sletternumber]+    what is neither, nor space, with the space before it: " :-)"
        \s+(?!\S)               a run of space, less its last character if something follows,
                                so that " world" gets the space that belongs to it
        \s+                     what space is left

    As OpenAI wrote it, `letter` is \p{L} and `number` is \p{N}.
    """
    return rf"'s|'t|'re|'ve|'m|'ll|'d| ?[{letter}]+| ?[{number}]+| ?[^\s{letter}{number}]+|\s+(?!\S)|\s+"


# Letters and numbers that Unicode added after version 16. The tokenizers to agree with (tiktoken 0.14, tokenizers 0.23)
# know Unicode 16, in which these are neither; `regex` moves on. Complete up to Unicode 18.
_AFTER_UNICODE_16 = """
    558 58b-58c 88f c5c cdc 208f 209d-209f a7ce-a7cf a7d2 a7d4 a7dd a7e2 a7f1 ab6c-ab6d 107bb-107bf 10940-10959
    10ec5-10ec7 10ed9-10eee 11b0a 11db0-11ddb 11de0-11de9 11df1 1246f 12475-1247f 12550-12686 16ea0-16eb8 16ebb-16ed3
    16ff2-16ff6 187f8-187ff 18cd6-18cda 18d09-18d20 18d80-18df2 18e00-19191 191a0-191d2 1b123-1b128 1b168 1d6a6
    1df1f-1df24 1df2b-1df81 1df90-1df96 1dfcd-1dfff 1e6c0-1e6de 1e6e0-1e6e2 1e6e4-1e6e5 1e6e7-1e6ed 1e6f0-1e6f4
    1e6fe-1e6ff 2b73a-2b73f 2b81e 2cea2-2cead 323b0-33479 3d000-3fc3f
"""
# Western text: ASCII, the letters of Latin-1, the punctuation of typesetters. On it `re` does the same, twice as fast.
_WESTERN = re.compile(r"[\x00-\x7fÀ-ÖØ-öø-ÿ\u2010-\u2027\u2030-\u205e]*")
_WESTERN_WORDS = re.compile(_pattern("A-Za-zÀ-ÖØ-öø-ÿ", "0-9"), re.ASCII)
_WINDOW = 1 << 11


@cache
def _unicode_words() -> Any:
    """GPT-2's regular expression for any text, compiled when the first text asks for it: that takes 25 ms.

    The branch in front is a shortcut: a word of ASCII letters that ends there is the same word to the others.
    """
    import regex

    later = "".join("-".join(rf"\U{int(end, 16):08x}" for end in span.split("-")) for span in _AFTER_UNICODE_16.split())
    pattern = _pattern(rf"[\p{{L}}--[{later}]]", rf"[\p{{N}}--[{later}]]")
    return regex.compile(r" ?[A-Za-z]+(?![A-Za-z\x80-\U0010ffff])|" + pattern, regex.VERSION1)


def _split_windows(text: str) -> Iterator[list[str]]:
    """The words of `text`, a list at a time, so that a long text does not become millions of strings at once."""
    start, size = 0, _WINDOW
    while start < len(text):
        window = text[start : start + size]
        western = window.isascii() or _WESTERN.fullmatch(window)
        words = (_WESTERN_WORDS if western else _unicode_words()).findall(window)
        start += len(window)
        if start < len(text):
            # The last word may go on after the window, and so may the one before it: of "'re" we may have seen "'r".
            start -= sum(map(len, words[-2:]))
            del words[-2:]
        size = _WINDOW if words else 2 * size  # none is sure yet: a word longer than the window
        yield words


def split(text: str) -> list[str]:
    """Cut text into the words that BPE works on. Merges never cross from one word into the next.

    text     any str
    Returns a list of str whose concatenation is `text`.
    Raises nothing.
    Notes: letters and numbers are those of Unicode 16, see `_AFTER_UNICODE_16`.
    Source: `encoder.py` of the GPT-2 release, 2019.

    >>> split("It's 2019,  world!")
    ['It', "'s", ' 2019', ',', ' ', ' world', '!']
    """
    return list(chain.from_iterable(_split_windows(text)))


# ---- merge: a word to pieces


def merge(word: bytes, ranks: Mapping[Pair, int]) -> list[bytes]:
    """Byte-pair encoding of one word: glue the adjacent pair that was learnt first, until no pair is known.

    word     bytes
    ranks    {(left, right): rank}; the lowest rank is merged first, the leftmost pair first among equals
    Returns the pieces, whose concatenation is `word`.
    Raises nothing.
    Notes: this one is to be read. `Tokenizer` computes the same without looking at every pair in each round.
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
    >>> from numgpt.checkpoint.vocabulary import gpt2
    >>> gpt2().encode("lowest") == [256 + 9063, 256 + 139]
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


BYTES = [bytes([i]) for i in range(256)]
_LONG = 64  # bytes; from here on the heap is the faster of the two, measured


def _merge_short(word: bytes, ranks: dict[Pair, int], never: int) -> list[bytes]:
    """`merge`, keeping the rank of each pair from round to round: a round renews two ranks, not all of them."""
    pieces = list(map(BYTES.__getitem__, word))
    rank = list(map(ranks.get, pairwise(pieces), repeat(never)))  # rank[i] is that of pieces i and i + 1
    while rank:
        lowest = min(rank)
        if lowest == never:
            break
        i = rank.index(lowest)
        del rank[i]
        pieces[i] += pieces.pop(i + 1)
        if i < len(rank):
            rank[i] = ranks.get((pieces[i], pieces[i + 1]), never)
        if i > 0:
            rank[i - 1] = ranks.get((pieces[i - 1], pieces[i]), never)
    return pieces


def _merge_long(word: bytes, ranks: dict[Pair, int], never: int) -> list[bytes]:
    """`merge` in n log n: pairs wait in a heap by (rank, position), pieces are a linked list."""
    n = len(word)
    pieces = list(map(BYTES.__getitem__, word))
    rank = [*map(ranks.get, pairwise(pieces), repeat(never)), never]
    before, after = list(range(-1, n - 1)), list(range(1, n + 1))
    heap = [r * n + i for i, r in enumerate(rank) if r != never]
    heapify(heap)
    while heap:
        r, i = divmod(heappop(heap), n)
        if rank[i] != r:
            continue  # one of the two has been merged with another piece since
        gone = after[i]
        pieces[i] += pieces[gone]
        pieces[gone], rank[gone] = b"", never
        after[i] = after[gone]
        if after[i] < n:
            before[after[i]] = i
        for left, right in ((before[i], i), (i, after[i])):
            if left >= 0:
                rank[left] = ranks.get((pieces[left], pieces[right]), never) if right < n else never
                if rank[left] != never:
                    heappush(heap, rank[left] * n + left)
    return [piece for piece in pieces if piece]


# ---- the tokenizer


class AddedToken(NamedTuple):
    """A token that is looked for in the text as it stands, before it is split.

    text        what it looks like
    id          its id
    special     found only by encode(..., allow_special=True); the others always
    lstrip      takes the space before it along
    rstrip      takes the space after it along
    normalized  looked for only after those that are not `normalized`, in the text between them
    """

    text: str
    id: int
    special: bool = False
    lstrip: bool = False
    rstrip: bool = False
    normalized: bool = False


class _Memory(dict[str, tuple[int, ...]]):
    """Words seen before and their ids. A word not seen is merged; bounded, so that it can't eat the machine."""

    ENTRIES = 1 << 16
    LENGTH = 64

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._encode_word = tokenizer._encode_word

    def __missing__(self, word: str) -> tuple[int, ...]:
        ids = self._encode_word(word)
        if len(word) <= self.LENGTH:
            if len(self) >= self.ENTRIES:
                self.clear()
            self[word] = ids
        return ids


_SPACE = re.compile(r"[^\S\x1c-\x1f]")  # as Unicode has it; `re` counts four control characters as space too
_UNKNOWN = "\ufffd".encode()


class Tokenizer:
    """Text to ids and back.

    merges            pairs of bytes, the first learnt first
    vocabulary        {piece: id} of the pieces that merging gives; by default the 256 bytes, then each merge in order
    added             `AddedToken`s, special ones (<|endoftext|>) and others
    unreachable       {id: piece} of further ids, that decode and that no text gives
    add_prefix_space  put a space before a text that does not begin with one

    Attributes: `vocabulary` {piece: id}, `ranks` {pair: rank}, `special_tokens` {text: id}, `n_ordinary` one past the
    highest id that text gives without `allow_special`. len(tokenizer) is one past the highest id of all.
    Raises nothing: the readers in `numgpt.vocabulary` check what they read.

    >>> tokenizer = Tokenizer([(b"h", b"i"), (b" ", b"hi")], added=[AddedToken("<end>", 300, special=True)])
    >>> tokenizer.encode("hi hi!<end>", allow_special=True)
    [256, 257, 33, 300]
    """

    def __init__(
        self,
        merges: Sequence[Pair],
        vocabulary: Mapping[bytes, int] | None = None,
        added: Iterable[AddedToken] = (),
        unreachable: Mapping[int, bytes] | None = None,
        add_prefix_space: bool = False,
    ) -> None:
        if vocabulary is None:
            vocabulary = dict(zip([*BYTES, *map(b"".join, merges)], range(256 + len(merges)), strict=True))
        self.vocabulary = vocabulary
        self.ranks = dict(zip(merges, range(len(merges)), strict=True))
        self._never = len(merges)
        self._pieces = dict(unreachable or {})
        self._pieces.update(zip(vocabulary.values(), vocabulary, strict=True))
        self._added = {token.text: token for token in added}
        self._pieces.update((token.id, token.text.encode()) for token in self._added.values())
        self._length = max(self._pieces, default=-1) + 1
        self._add_prefix_space = add_prefix_space
        self.special_tokens = {token.text: token.id for token in self._added.values() if token.special}
        plain = (token.id for token in self._added.values() if not token.special)
        self.n_ordinary = max(chain(vocabulary.values(), plain), default=-1) + 1
        self._finders = []
        for normalized in (False, True):
            texts = sorted((t.text for t in self._added.values() if t.normalized == normalized), key=len, reverse=True)
            if texts:
                self._finders.append(re.compile("|".join(map(re.escape, texts))))
        self._memory = _Memory(self)

    def __len__(self) -> int:
        return self._length

    def __repr__(self) -> str:
        return f"Tokenizer({len(self)} ids, {self._never} merges, special: {self.special_tokens})"

    def encode(self, text: str, allow_special: bool = False) -> list[int]:
        """Text to ids.

        text           str
        allow_special  whether "<|endoftext|>" in the text is the special token, or the letters it is written with
        Returns a list of int. Nothing is put before or after.
        Raises TokenError if the text is not a str, or has a lone surrogate, which is no character.

        >>> from numgpt.checkpoint.vocabulary import gpt2
        >>> gpt2().encode("Hello world<|endoftext|>")
        [15496, 995, 27, 91, 437, 1659, 5239, 91, 29]
        >>> gpt2().encode("Hello world<|endoftext|>", allow_special=True)
        [15496, 995, 50256]
        """
        if not isinstance(text, str):
            remedy = "decode it first: data.decode('utf-8')" if isinstance(text, bytes) else "pass one text"
            raise TokenError(f"the text is of type {type(text).__name__}, expected str: {remedy}")
        ids: list[int] = []
        try:
            for part in self._cut(text, allow_special):
                if isinstance(part, AddedToken):
                    ids.append(part.id)
                    continue
                if self._add_prefix_space and not part.startswith(" "):
                    part = " " + part
                for words in _split_windows(part):
                    ids.extend(chain.from_iterable(map(self._memory.__getitem__, words)))
        except UnicodeEncodeError:
            at, found = next((i, c) for i, c in enumerate(text) if "\ud800" <= c <= "\udfff")
            raise TokenError(
                f"the text has a lone surrogate, U+{ord(found):04X}, at position {at}: expected characters only; "
                "to replace it: text.encode('utf-16', 'surrogatepass').decode('utf-16', 'replace')"
            ) from None
        return ids

    def decode(self, ids: Iterable[int]) -> str:
        """Ids to text.

        ids      a list or array of int
        Returns str. Bytes that are no UTF-8, and ids within the range that have no piece, become U+FFFD.
        Raises TokenError for an id out of range, or if `ids` are no integers.

        >>> from numgpt.checkpoint.vocabulary import gpt2
        >>> gpt2().decode([15496, 995])
        'Hello world'
        """
        return b"".join(self._iter_bytes(ids)).decode("utf-8", "replace")

    def decode_stream(self, ids: Iterable[int]) -> Iterator[str]:
        """Ids to text, each character as soon as its last byte is there.

        ids      an iterable of int, read one at a time
        Returns an iterator of non-empty str; together they are decode(ids).
        Raises TokenError as `decode` does, when it comes to the id.

        >>> from numgpt.checkpoint.vocabulary import gpt2
        >>> list(gpt2().decode_stream([15496, 12520, 97, 245]))  # the last three ids are one emoji
        ['Hello', ' ', '\U0001f917']
        """
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        for piece in self._iter_bytes(ids):
            if text := decoder.decode(piece):
                yield text
        if text := decoder.decode(b"", final=True):
            yield text

    def pieces(self, ids: Iterable[int]) -> list[bytes]:
        """The bytes of each id, which need not be whole characters.

        >>> from numgpt.checkpoint.vocabulary import gpt2
        >>> gpt2().pieces([15496, 12520, 97, 245])
        [b'Hello', b' \\xf0\\x9f', b'\\xa4', b'\\x97']
        """
        return list(self._iter_bytes(ids))

    def _iter_bytes(self, ids: Iterable[int]) -> Iterator[bytes]:
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
            if not 0 <= i < self._length:
                raise TokenError(
                    f"id {i} at position {position} is not in the vocabulary, expected 0 to {self._length - 1}: "
                    "use the tokenizer that belongs to the model"
                )
            yield self._pieces.get(i, _UNKNOWN)

    def _encode_word(self, word: str) -> tuple[int, ...]:
        data = word.encode()
        pieces = (_merge_short if len(data) < _LONG else _merge_long)(data, self.ranks, self._never)
        try:
            return tuple(map(self.vocabulary.__getitem__, pieces))
        except KeyError as error:
            raise TokenError(
                f"the word {word[:40]!r} has the byte {error.args[0]!r}, which has no id in this vocabulary: "
                "expected text in the alphabet that the tokenizer was made for"
            ) from None

    def _cut(self, text: str, allow_special: bool) -> Iterator[str | AddedToken]:
        """The text cut at its added tokens: the leftmost first, and the longest of those that begin together."""
        parts: Iterable[str | AddedToken] = [text]
        for finder in self._finders:
            parts = chain.from_iterable(map(partial(self._cut_at, finder, allow_special), parts))
        return filter(None, parts)

    def _cut_at(self, finder: re.Pattern[str], allow_special: bool, text: str | AddedToken) -> Iterator[Any]:
        if isinstance(text, AddedToken):
            yield text
            return
        at = 0
        for match in finder.finditer(text):
            token, (start, end) = self._added[match.group()], match.span()
            if token.special and not allow_special:
                continue
            while token.lstrip and start > at and _SPACE.match(text, start - 1):
                start -= 1
            while token.rstrip and _SPACE.match(text, end):
                end += 1
            yield text[at:start]
            yield token
            at = end
        yield text[at:]
