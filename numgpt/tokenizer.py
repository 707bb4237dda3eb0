"""Byte-level BPE: text to ids and back, exactly as GPT-2 does it.

    text --split--> words --merge--> pieces --vocabulary--> ids

In reading order:

    split      cuts text into words, numbers, punctuation and spaces, with one regular expression
    merge      glues the bytes of a word together, pair by pair: the whole of BPE, written to be read
    Tokenizer  does the same fast, and knows the vocabulary and the special tokens
    gpt2, read_vocabulary, read_tokenizer_json, from_folder
               build a Tokenizer from files; the quirks of the formats stay there

Sources: Sennrich et al. 2016, arXiv:1508.07909; Radford et al. 2019 (GPT-2) and the files OpenAI released with it.
"""

from __future__ import annotations

import codecs
import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache, partial
from heapq import heapify, heappop, heappush
from itertools import chain, pairwise, repeat
from operator import index
from pathlib import Path
from typing import Any, NamedTuple

from numgpt.errors import CheckpointError, TokenError

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
    import regex  # type: ignore[import-untyped]

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


_BYTES = [bytes([i]) for i in range(256)]
_LONG = 64  # bytes; from here on the heap is the faster of the two, measured


def _merge_short(word: bytes, ranks: dict[Pair, int], never: int) -> list[bytes]:
    """`merge`, keeping the rank of each pair from round to round: a round renews two ranks, not all of them."""
    pieces = list(map(_BYTES.__getitem__, word))
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
    pieces = list(map(_BYTES.__getitem__, word))
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

    Attributes: `special_tokens` {text: id}, `n_ordinary` one past the highest id that text gives without
    `allow_special`. len(tokenizer) is one past the highest id of all.
    Raises nothing: the readers below check what they read.

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
            vocabulary = dict(zip([*_BYTES, *map(b"".join, merges)], range(256 + len(merges)), strict=True))
        self._vocabulary = vocabulary
        self._ranks = dict(zip(merges, range(len(merges)), strict=True))
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

        >>> gpt2().decode([15496, 995])
        'Hello world'
        """
        return b"".join(self._iter_bytes(ids)).decode("utf-8", "replace")

    def decode_stream(self, ids: Iterable[int]) -> Iterator[str]:
        """Ids to text, each character as soon as its last byte is there.

        ids      an iterable of int, read one at a time
        Returns an iterator of non-empty str; together they are decode(ids).
        Raises TokenError as `decode` does, when it comes to the id.

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
        pieces = (_merge_short if len(data) < _LONG else _merge_long)(data, self._ranks, self._never)
        try:
            return tuple(map(self._vocabulary.__getitem__, pieces))
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


# ---- readers: files to a Tokenizer. Nothing above knows how they spell bytes.


def _spellings() -> dict[str, bytes]:
    """{character: byte}, as vocab.bpe and vocab.json spell bytes, in the order of the ids of GPT-2.

    The 188 bytes that are visible in Latin-1 stand for themselves. The other 68 (controls, spaces, the soft hyphen)
    take the characters from U+0100 on, so that a space is "Ġ" and a line end "Ċ", and no file has a blank in a piece.
    """
    visible = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    hidden = [byte for byte in range(256) if byte not in visible]
    return {chr(c): _BYTES[c] for c in visible} | {chr(0x100 + i): _BYTES[c] for i, c in enumerate(hidden)}


_END_OF_TEXT = "<|endoftext|>"
_MOST_IDS = 1 << 31


def gpt2() -> Tokenizer:
    """The tokenizer of GPT-2, all sizes, from the merges that come with numgpt.

    >>> gpt2()
    Tokenizer(50257 ids, 50000 merges, special: {'<|endoftext|>': 50256})
    """
    return read_merges(Path(__file__).parent / "data" / "vocab.bpe")


def read_merges(path: str | os.PathLike[str]) -> Tokenizer:
    """A tokenizer from its merges alone (vocab.bpe or merges.txt): the ids follow from them.

    First the 256 bytes in the order of `_spellings`, then one id for each merge, then <|endoftext|>. This is how
    the ids of GPT-2 came about, and gives the same as encoder.json.

    path     the file
    Returns a Tokenizer. Raises CheckpointError if the file is missing or malformed.
    Source: the GPT-2 release, 2019.
    """
    path = Path(path)
    spelt = _spellings()
    merges = _parse_merges(_read_text(path).split("\n"), spelt, str(path))
    vocabulary = dict(zip(spelt.values(), range(len(spelt)), strict=True))
    if len(vocabulary) != 256 + len(merges):
        raise CheckpointError(
            f"{path}: {len(merges)} merges give {len(vocabulary) - 256} pieces, expected one each: "
            "the ids do not follow from these merges, so give the vocab.json that belongs to them too"
        )
    return Tokenizer(merges, vocabulary, [AddedToken(_END_OF_TEXT, len(vocabulary), special=True)])


def read_vocabulary(vocabulary: str | os.PathLike[str], merges: str | os.PathLike[str]) -> Tokenizer:
    """A tokenizer from its two files: encoder.json and vocab.bpe of OpenAI, or vocab.json and merges.txt.

    Returns a Tokenizer in which <|endoftext|>, if the vocabulary has it, is special.
    Raises CheckpointError if a file is missing or malformed, or the two do not belong together.
    Source: the GPT-2 release, 2019; Transformers writes the same two under other names.
    """
    return _from_vocabulary(Path(vocabulary), Path(merges), _Settings())


def read_tokenizer_json(path: str | os.PathLike[str]) -> Tokenizer:
    """A tokenizer from the tokenizer.json of the `tokenizers` library, if it is of GPT-2's kind.

    Returns a Tokenizer.
    Raises CheckpointError if the file is missing or malformed, or asks for what numgpt does not do; it is named.
    Notes: `truncation` and `padding` are left aside, as they are about batches.
    """
    return _from_tokenizer_json(Path(path), _Settings())


def from_folder(path: str | os.PathLike[str]) -> Tokenizer | None:
    """The tokenizer of a folder, as Transformers would find it.

    It reads tokenizer.json; else vocab.json and merges.txt; else encoder.json and vocab.bpe. To these it adds what
    tokenizer_config.json, special_tokens_map.json and added_tokens.json say of added and special tokens. Where both
    say it, `add_prefix_space` of tokenizer_config.json counts, not that of tokenizer.json.

    path     a folder
    Returns a Tokenizer, or None if the folder has no file of a tokenizer.
    Raises CheckpointError if a file is malformed or missing, or of another kind of tokenizer.
    Notes: a special token that has a name but no id in any of the files is left out.
    """
    folder = Path(path)
    try:
        names = {file.name for file in folder.iterdir()}
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{folder}: {error}, expected the folder with the files of a tokenizer") from None
    if "tokenizer.json" in names:
        return _from_tokenizer_json(folder / "tokenizer.json", _read_settings(folder, names))
    for vocabulary, merges in (("vocab.json", "merges.txt"), ("encoder.json", "vocab.bpe")):
        if vocabulary in names or merges in names:
            return _from_vocabulary(folder / vocabulary, folder / merges, _read_settings(folder, names))
    for name in sorted(names):
        if name in _OTHER_FILES or name.endswith(_OTHER_ENDINGS):
            raise CheckpointError(
                f"{folder / name}: not a byte-level BPE tokenizer, expected tokenizer.json, or vocab.json and "
                "merges.txt, in the folder: add those, or remove this file to go on with ids alone"
            )
    return None


_OTHER_FILES = {"vocab.txt", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"}
_OTHER_ENDINGS = (".model", ".spm", ".tiktoken")
_CLASSES = ("GPT2Tokenizer", "GPT2TokenizerFast", "PreTrainedTokenizer", "PreTrainedTokenizerFast", "TokenizersBackend")
_NAMES = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
_LISTS = ("additional_special_tokens", "extra_special_tokens")


class _Settings(NamedTuple):
    """What the files beside the vocabulary say: added tokens; special ones by name, with their flags; and so on."""

    added: Sequence[AddedToken] = ()
    special: Mapping[str, dict[str, Any]] = {}
    kind: str | None = None
    add_prefix_space: bool | None = None


def _read_settings(folder: Path, names: set[str]) -> _Settings:
    files = [str(folder / name) for name in ("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json")]
    config, named, texts = (_read_json(Path(file)) if Path(file).name in names else {} for file in files)
    special: dict[str, dict[str, Any]] = {}
    for file, fields in zip(files, (config, named), strict=False):
        for key in (*_NAMES, *_LISTS):
            values = fields.get(key)
            if key in _LISTS and isinstance(values, dict):
                values = list(values.values())
            for value in values if isinstance(values, list) else [values]:
                text = value.get("content") if isinstance(value, dict) else value
                if text is not None:
                    special[_expect(text, str, file, key)] = value if isinstance(value, dict) else {}
    added = []
    for text, i in texts.items():
        added.append(_added_token({"content": text, "id": i, "special": text in special}, files[2]))
    for i, fields in _expect(config.get("added_tokens_decoder", {}), dict, files[0], "added_tokens_decoder").items():
        if not (i.isdecimal() and i.isascii() and len(i) < 12):
            raise CheckpointError(f"{files[0]}: added_tokens_decoder has the id {_short(i)}, expected a number")
        fields = _expect(fields, dict, files[0], f"added_tokens_decoder[{i}]")
        added.append(_added_token({**fields, "id": int(i)}, files[0]))
    for key in ("add_bos_token", "add_eos_token"):
        if config.get(key):
            raise CheckpointError(
                f"{files[0]}: {key} is {_short(config[key])}, expected false: numgpt puts no tokens around a text; "
                "set it to false, and put the token into your prompts"
            )
    prefix, kind = config.get("add_prefix_space"), config.get("tokenizer_class")
    if prefix is not None:
        _expect(prefix, bool, files[0], "add_prefix_space")
    if kind is not None:
        _expect(kind, str, files[0], "tokenizer_class")
    return _Settings(added, special, kind, prefix)


def _from_vocabulary(vocabulary: Path, merges: Path, settings: _Settings) -> Tokenizer:
    for path, other in ((vocabulary, merges), (merges, vocabulary)):
        if not path.exists():
            raise CheckpointError(f"{path}: no such file, expected it to go with {other}: download the two together")
    if settings.kind not in (None, *_CLASSES):
        raise CheckpointError(
            f"{vocabulary.parent / 'tokenizer_config.json'}: tokenizer_class is {settings.kind!r}, expected "
            f"'GPT2Tokenizer': numgpt would read {vocabulary.name} in another way than this class does"
        )
    return _build(_read_json(vocabulary), str(vocabulary), _read_text(merges).split("\n"), str(merges), settings)


def _from_tokenizer_json(path: Path, settings: _Settings) -> Tokenizer:
    name, data = str(path), _read_json(path)
    model, splitter, around, decoder = (
        _expect(data.get(key) or {}, dict, name, key) for key in ("model", "pre_tokenizer", "post_processor", "decoder")
    )
    if around.get("type") == "TemplateProcessing" and not around.get("special_tokens"):
        around = {}  # a template that puts nothing around the text
    for key, value, supported in (
        ("normalizer", data.get("normalizer"), (None,)),
        ("pre_tokenizer.type", splitter.get("type"), ("ByteLevel",)),
        ("pre_tokenizer.use_regex", splitter.get("use_regex"), (None, True)),
        ("post_processor.type", around.get("type"), (None, "ByteLevel")),
        ("decoder.type", decoder.get("type"), ("ByteLevel",)),
        ("model.type", model.get("type"), (None, "BPE")),  # None: written before 2021
        ("model.dropout", model.get("dropout"), (None, 0)),
        ("model.continuing_subword_prefix", model.get("continuing_subword_prefix"), (None, "")),
        ("model.end_of_word_suffix", model.get("end_of_word_suffix"), (None, "")),
        ("model.byte_fallback", model.get("byte_fallback"), (None, False)),
        ("model.ignore_merges", model.get("ignore_merges"), (None, False)),
    ):
        if value not in supported:
            raise CheckpointError(
                f"{name}: {key} is {_short(value)}, expected {' or '.join(map(_short, supported))}: "
                "numgpt reads byte-level BPE as GPT-2 has it; convert the text to ids with the tokenizers library"
            )
    fields = _expect(data.get("added_tokens", []), list, name, "added_tokens")
    added = [_added_token(_expect(token, dict, name, "added_tokens"), name) for token in fields]
    prefix = settings.add_prefix_space
    if prefix is None:
        prefix = _expect(splitter.get("add_prefix_space"), bool, name, "pre_tokenizer.add_prefix_space")
    settings = settings._replace(added=[*added, *settings.added], add_prefix_space=prefix)
    lines = [
        " ".join(line) if isinstance(line, list) and all(isinstance(part, str) for part in line) else line
        for line in _expect(model.get("merges"), list, name, "model.merges")
    ]
    return _build(_expect(model.get("vocab"), dict, name, "model.vocab"), name, lines, name, settings)


def _build(ids: dict[str, Any], ids_name: str, lines: list[Any], merges_name: str, settings: _Settings) -> Tokenizer:
    alphabet = _spellings()
    spelt = dict(alphabet)
    merges = _parse_merges(lines, spelt, merges_name)
    seen: dict[int, str] = {}
    for text, i in ids.items():
        if seen.setdefault(_check_id(i, text, ids_name), text) != text:
            raise CheckpointError(f"{ids_name}: {seen[i]!r} and {text!r} have the same id {i}, expected one each")
    if missing := spelt.keys() - ids.keys():
        used = set(map(b"".join, merges)).union(*merges)
        for text in sorted(missing):
            if spelt[text] in used:
                raise CheckpointError(
                    f"{merges_name}: the merges use {text!r}, which has no id in {ids_name}: "
                    "expected files of the same tokenizer; download both again"
                )
    vocabulary = {spelt[text]: i for text, i in ids.items() if text in spelt}
    others = {
        i: b"".join(map(alphabet.__getitem__, text)) if set(text) <= alphabet.keys() else text.encode()
        for text, i in ids.items()
        if text not in spelt
    }
    added = {token.text: token for token in settings.added}
    for text, flags in settings.special.items():
        if text in added:
            added[text] = added[text]._replace(special=True)
        elif text in ids:
            added[text] = _added_token({**flags, "content": text, "id": ids[text], "special": True}, ids_name)
    if _END_OF_TEXT in ids and _END_OF_TEXT not in added:  # special to GPT-2 though no file may say so
        added[_END_OF_TEXT] = AddedToken(_END_OF_TEXT, ids[_END_OF_TEXT], special=True)
    for token in (*settings.added, *added.values()):
        if ids.get(token.text, token.id) != token.id or added[token.text].id != token.id:
            other = ids.get(token.text, added[token.text].id)
            raise CheckpointError(f"{ids_name}: {token.text!r} has the ids {other} and {token.id}, expected one")
        if seen.setdefault(token.id, token.text) != token.text:
            raise CheckpointError(
                f"{ids_name}: {seen[token.id]!r} and {token.text!r} have the same id {token.id}, expected one each"
            )
    return Tokenizer(merges, vocabulary, added.values(), others, bool(settings.add_prefix_space))


def _parse_merges(lines: list[Any], spelt: dict[str, bytes], name: str) -> list[Pair]:
    """Lines such as "Ġt he" to pairs of bytes. `spelt` grows by the pieces that the merges use and make."""
    alphabet = dict(spelt)
    merges = []
    first = bool(lines) and isinstance(lines[0], str) and lines[0].startswith("#version")  # a merge may begin with "#"
    while lines and lines[-1] == "":
        lines.pop()
    for number, line in enumerate(lines[first:], 1 + first):
        try:
            left, right = line.split(" ")
            try:
                pair = spelt[left], spelt[right]
            except KeyError:  # a piece that no merge before this one makes
                if not (left and right):
                    raise
                spelt |= {text: b"".join(map(alphabet.__getitem__, text)) for text in (left, right)}
                pair = spelt[left], spelt[right]
        except (AttributeError, ValueError, KeyError):
            raise CheckpointError(
                f"{name}: merge {number} is {_short(line)}, expected two pieces in the spelling of GPT-2, "
                "such as 'Ġt he': the file is damaged or of another tokenizer"
            ) from None
        merges.append(pair)
        spelt[left + right] = pair[0] + pair[1]
    return merges


def _added_token(fields: dict[str, Any], name: str) -> AddedToken:
    text = _expect(fields.get("content"), str, name, "content of an added token")
    flags = {k: _expect(fields[k], bool, name, k) for k in ("special", "lstrip", "rstrip", "normalized") if k in fields}
    flags.setdefault("normalized", not flags.get("special", False))
    if fields.get("single_word"):
        raise CheckpointError(f"{name}: added token {text!r} has single_word, expected false: numgpt does not do it")
    if not text:
        raise CheckpointError(f"{name}: an added token is empty, expected some text: remove it")
    return AddedToken(text, _check_id(fields.get("id"), text, name), **flags)


def _check_id(i: Any, text: str, name: str) -> int:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise CheckpointError(f"{name}: the token {text!r} has a lone surrogate, expected characters") from None
    if type(i) is not int or not 0 <= i < _MOST_IDS:
        raise CheckpointError(f"{name}: the id of {text!r} is {_short(i)}, expected an integer below {_MOST_IDS}")
    return i


def _expect(value: Any, kind: type, name: str, key: str) -> Any:
    if not isinstance(value, kind):
        raise CheckpointError(f"{name}: {key} is {_short(value)}, expected a {kind.__name__}: the file is damaged")
    return value


def _short(value: Any) -> str:
    """How a value out of a file looks in a message."""
    if isinstance(value, dict) and isinstance(value.get("type"), str):
        value = value["type"]
    if isinstance(value, dict | list):
        return "an object" if isinstance(value, dict) else "a list"
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else text[:57] + "..."


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise CheckpointError(f"{path}: byte {error.start} is not UTF-8, expected text: download it again") from None
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise CheckpointError(f"{path}: {reason}, expected a file of a tokenizer") from None


def _read_json(path: Path) -> dict[str, Any]:
    try:
        data = json.loads(_read_text(path))
    except (ValueError, RecursionError) as error:
        reason = str(error) if isinstance(error, ValueError) else "nested too deeply"
        raise CheckpointError(f"{path}: not JSON ({reason}), expected an object: download it again") from None
    return _expect(data, dict, str(path), "the file")
