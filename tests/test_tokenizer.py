"""The tokenizer, with no peer at hand: published ids, hand-worked examples, properties, every reader, every message."""

import copy
import pickle
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import regex
from hypothesis import example, given
from hypothesis import strategies as st

from numgpt import tokenizer as module
from numgpt.checkpoint.vocabulary import from_folder, gpt2, read_merges
from numgpt.errors import TokenError
from numgpt.tokenizer import AddedToken, Tokenizer, merge, split

GPT2 = gpt2()
STORYTELLER = Path(__file__).parents[1] / "weights" / "storyteller"

any_text = st.text(st.characters(exclude_categories=["Cs"]))
western_text = st.text("aZé '’stredm1²\u00a0\u0085\n\t!…")
spaced_text = st.text("a1! \t\n\x1c\x85\u00a0\u2028\u3000")


# ---- split


@given(any_text | western_text | spaced_text)
def test_the_words_of_a_text_put_together_are_the_text(text: str) -> None:
    assert "".join(split(text)) == text


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("It's we'll I'M", ["It", "'s", " we", "'ll", " I", "'", "M"]),
        ("x2y 12 3", ["x", "2", "y", " 12", " 3"]),
        ("a   b", ["a", "  ", " b"]),
        ("a \n", ["a", " \n"]),
        ("a\n\nb", ["a", "\n", "\n", "b"]),
        ("hi :-)", ["hi", " :-)"]),
        ("été ½ 二", ["été", " ½", " 二"]),
        ("", []),
    ],
)
def test_each_branch_of_the_pattern_gives_its_words(text: str, words: list[str]) -> None:
    assert split(text) == words


@given(st.text("ab1' !srev\n\u00e9\u2019\u3042"), st.integers(1, 9))
@example("a'res b", 3)
def test_windows_of_any_size_give_the_words_of_the_whole(text: str, size: int) -> None:
    whole, default = split(text), module._WINDOW
    module._WINDOW = size
    try:
        assert split(text) == whole
    finally:
        module._WINDOW = default


@given(western_text)
def test_the_shortcut_for_western_text_is_the_pattern_for_any_text(text: str) -> None:
    if module._WESTERN.fullmatch(text):
        assert module._WESTERN_WORDS.findall(text) == module._unicode_words().findall(text)


def test_the_shortcut_classes_every_western_character_as_unicode_does() -> None:
    characters = [chr(i) for i in range(0x3000) if module._WESTERN.fullmatch(chr(i))]
    assert len(characters) == 128 + 62 + 24 + 47
    for c in characters:
        for text in (f"a{c}", f"1{c}", f"!{c}", f" {c}", f"{c} ", f"'{c}"):
            assert module._WESTERN_WORDS.findall(text) == module._unicode_words().findall(text)


def test_letters_younger_than_unicode_16_are_no_letters() -> None:
    first, last = chr(0x323B0), chr(0x33479)  # CJK extension J, Unicode 17
    assert split(f"a{first}{last}") == ["a", first + last]
    assert split("a\U00010d4a") == ["a\U00010d4a"]  # Garay, Unicode 16


def test_the_pattern_with_unicode_classes_is_the_one_of_openai() -> None:
    openai = r"'s|'t|'re|'ve|'m|'ll|'d| ?[\p{L}]+| ?[\p{N}]+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
    assert module._pattern(r"\p{L}", r"\p{N}") == openai
    text = "Hello!! I'm Andrej. It's  2022.\n\n w00t :D ünï 二"
    assert split(text) == regex.findall(openai, text)


# ---- merge


def some_merges(alphabet: str) -> st.SearchStrategy[list[tuple[bytes, bytes]]]:
    piece = st.text(alphabet, min_size=1, max_size=3).map(str.encode)
    return st.lists(st.tuples(piece, piece), max_size=30)


@given(some_merges("ab") | some_merges("abcd"), st.text("abcd", max_size=80).map(str.encode))
@example([(b"ab", b"c"), (b"b", b"c"), (b"a", b"b")], b"abcabc")  # what is merged ranks before its parts
@example([(b"a", b"a"), (b"aa", b"a"), (b"a", b"aa")], b"aaaaaaa")
@example([(b"a", b"b"), (b"ab", b"a"), (b"b", b"a"), (b"a", b"b")], b"abababab")  # the same merge twice
def test_the_fast_merges_are_the_one_to_read(merges: list[tuple[bytes, bytes]], word: bytes) -> None:
    ranks = {pair: rank for rank, pair in enumerate(merges)}
    pieces = merge(word, ranks)
    assert b"".join(pieces) == word
    assert module._merge_short(word, ranks, len(merges)) == pieces
    assert module._merge_long(word, ranks, len(merges)) == pieces


@given(st.text("estonia ", min_size=1, max_size=150).map(str.encode))
def test_the_fast_merges_are_the_one_to_read_on_the_merges_of_gpt2(word: bytes) -> None:
    pieces = merge(word, GPT2.ranks)
    assert module._merge_short(word, GPT2.ranks, 50000) == pieces
    assert module._merge_long(word, GPT2.ranks, 50000) == pieces


def test_merge_takes_the_leftmost_of_equal_pairs() -> None:
    assert merge(b"aaa", {(b"a", b"a"): 0}) == [b"aa", b"a"]


def test_merge_goes_by_pairs_and_not_by_what_they_spell() -> None:
    ranks = {(b"b", b"c"): 0, (b"a", b"b"): 1, (b"ab", b"c"): 2}
    assert merge(b"abc", ranks) == [b"a", b"bc"]  # a + bc spells abc, but only ab + c was learnt


@pytest.mark.parametrize("word", [b"", b"x"])
def test_nothing_and_one_byte_are_left_alone(word: bytes) -> None:
    pieces = [word] if word else []
    assert merge(word, {}) == module._merge_short(word, {}, 0) == module._merge_long(word, {}, 0) == pieces


class Counting(dict[Any, Any]):
    """Ranks that count how often they are asked."""

    asked = 0

    def get(self, *args: Any) -> Any:
        self.asked += 1
        return super().get(*args)


@pytest.mark.parametrize("unit", [b"a", b"ab", b"the", b" ", b"!?"])
def test_a_long_word_asks_for_each_pair_a_few_times_only(unit: bytes) -> None:
    word = unit * (30000 // len(unit))
    ranks = Counting(GPT2.ranks)
    assert b"".join(module._merge_long(word, ranks, 50000)) == word
    assert ranks.asked <= 3 * len(word)


def test_a_word_longer_than_many_windows_is_split_in_few_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    text, seen = "a" * 100_000 + " b", []

    class Watched:
        def findall(self, window: str) -> list[str]:
            seen.append(len(window))
            return re.findall(" ?[a-z]+", window)

    monkeypatch.setattr(module, "_WESTERN_WORDS", Watched())
    assert split(text) == ["a" * 100_000, " b"]
    assert sum(seen) < 5 * len(text)


# ---- ids: goldens, round trips, special and added tokens


@pytest.mark.parametrize(
    ("text", "ids"),
    [
        # minGPT, bpe.py
        (
            "Hello!! I'm Andrej Karpathy. It's 2022. w00t :D \U0001f917",
            [
                *(15496, 3228, 314, 1101, 10948, 73, 509, 5117, 10036, 13, 632, 338),
                *(33160, 13, 266, 405, 83, 1058, 35, 12520, 97, 245),
            ],
        ),
        ("    hello world!!!", [220, 220, 220, 23748, 995, 10185]),
        ("The dog", [464, 3290]),  # Transformers, test_modeling_gpt2.py
        ("One two three four", [3198, 734, 1115, 1440]),  # rust-bert, tests/gpt2.rs
        ("Data visualization empowers users to", [6601, 32704, 795, 30132, 2985, 284]),  # transformer-explainer
        ("", []),
    ],
)
def test_published_ids_come_out(text: str, ids: list[int]) -> None:
    assert GPT2.encode(text) == ids
    assert GPT2.decode(ids) == text


@given(any_text | western_text | spaced_text)
def test_decode_gives_back_any_text(text: str) -> None:
    ids = GPT2.encode(text)
    assert GPT2.decode(ids) == text
    assert b"".join(GPT2.pieces(ids)) == text.encode()
    assert GPT2.encode(text) == ids  # from the memory


def test_every_piece_of_gpt2_merges_to_itself() -> None:
    for piece, i in GPT2.vocabulary.items():
        assert module._merge_short(piece, GPT2.ranks, 50000) == [piece], i


def test_the_ids_follow_from_the_merges() -> None:
    assert (len(GPT2), GPT2.n_ordinary, GPT2.special_tokens) == (50257, 50256, {"<|endoftext|>": 50256})
    assert GPT2.pieces([0, 93, 94, 187, 188, 220, 255, 256, 50255, 50256]) == [
        *(b"!", b"~", b"\xa1", b"\xff", b"\x00", b" ", b"\xad"),
        *(b" t", b" gazed", b"<|endoftext|>"),
    ]


def test_the_storyteller_reads_the_same_from_either_file() -> None:
    tokenizer, twin = from_folder(STORYTELLER), read_merges(STORYTELLER / "merges.txt")
    assert tokenizer is not None
    assert tokenizer.vocabulary == twin.vocabulary
    assert tokenizer.ranks == twin.ranks
    assert tokenizer.special_tokens == twin.special_tokens == {"<|endoftext|>": 4095}
    assert (len(tokenizer), tokenizer.n_ordinary) == (4096, 4095)
    text = "Once upon a time, a fox<|endoftext|>"
    assert tokenizer.encode(text, allow_special=True) == twin.encode(text, allow_special=True)
    assert tokenizer.encode(text, allow_special=True)[-1] == 4095


def test_end_of_text_in_a_text_is_text_unless_allowed() -> None:
    assert 50256 not in GPT2.encode("a<|endoftext|>b")
    assert GPT2.encode("a<|endoftext|>b", allow_special=True) == [64, 50256, 65]
    assert GPT2.decode(GPT2.encode("a<|endoftext|>b")) == "a<|endoftext|>b" == GPT2.decode([64, 50256, 65])


def with_added(*added: AddedToken, **options: Any) -> Tokenizer:
    return Tokenizer([], added=added, **options)


def test_added_tokens_are_always_found_and_special_ones_when_allowed() -> None:
    tokenizer = with_added(AddedToken("<a>", 300), AddedToken("<s>", 301, special=True))
    assert tokenizer.encode("<a><s>") == [300, 60, 115, 62]
    assert tokenizer.encode("<a><s>", allow_special=True) == [300, 301]
    assert (len(tokenizer), tokenizer.n_ordinary) == (302, 301)


def test_the_leftmost_added_token_wins_then_the_longest() -> None:
    tokenizer = with_added(AddedToken("ab", 300), AddedToken("abc", 301), AddedToken("bcd", 302))
    assert tokenizer.encode("abcd") == [301, 100]
    assert tokenizer.encode("bcd") == [302]


def test_tokens_that_are_not_normalized_are_cut_out_first() -> None:
    tokenizer = with_added(AddedToken("ab", 300, normalized=True), AddedToken("bc", 301))
    assert tokenizer.encode("abc") == [97, 301]


def test_added_tokens_take_along_the_space_they_ask_for() -> None:
    tokenizer = with_added(AddedToken("<l>", 300, lstrip=True), AddedToken("<r>", 301, rstrip=True))
    assert tokenizer.encode("a \t<l> b<r> \u3000\nc") == [97, 300, 32, 98, 301, 99]
    assert tokenizer.encode("<r> <l>") == [301, 300]
    assert tokenizer.encode("  <l>") == [300]
    assert tokenizer.encode("a\x1c<l>") == [97, 0x1C, 300]  # a control character that `re`, not Unicode, calls space


def test_a_prefix_space_goes_before_each_stretch_of_text() -> None:
    tokenizer = with_added(AddedToken("<a>", 300), add_prefix_space=True)
    assert tokenizer.encode("a<a>b") == [32, 97, 300, 32, 98]
    assert tokenizer.encode(" a") == [32, 97]
    assert tokenizer.encode("") == []


def test_the_memory_of_words_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module._Memory, "ENTRIES", 10)
    tokenizer = Tokenizer([])
    text = " ".join(str(i) for i in range(100))
    assert tokenizer.decode(tokenizer.encode(text)) == text
    assert len(tokenizer._memory) <= 10
    tokenizer.encode("x" * 65)
    assert "x" * 65 not in tokenizer._memory


def test_a_tokenizer_can_be_copied_and_sent_to_another_process() -> None:
    tokenizer = with_added(AddedToken("<a>", 300))
    for twin in (copy.deepcopy(tokenizer), pickle.loads(pickle.dumps(tokenizer))):
        assert twin.encode("hi <a>") == tokenizer.encode("hi <a>")


# ---- decode


@given(st.lists(st.integers(0, 50256)))
def test_decode_takes_any_ids_in_range(ids: list[int]) -> None:
    text = GPT2.decode(ids)
    assert GPT2.decode(np.array(ids, dtype=np.int64)) == text
    assert GPT2.decode(iter(ids)) == text
    assert "".join(GPT2.decode_stream(ids)) == text


byte_ids = st.lists(st.sampled_from([*b"a \xe2\x82\xac\xf0\x9f\xa4\x97\xc3\xed\xa0\x80\xff"]))


@given(byte_ids)
def test_a_stream_of_broken_bytes_gives_what_decode_gives(ids: list[int]) -> None:
    tokenizer = Tokenizer([])
    parts = list(tokenizer.decode_stream(ids))
    assert "".join(parts) == tokenizer.decode(ids) == bytes(ids).decode("utf-8", "replace")
    assert all(parts)


@given(any_text)
def test_a_stream_gives_each_character_with_its_last_byte(text: str) -> None:
    taken: list[int] = []

    def watched() -> Iterator[int]:
        for byte in text.encode():
            taken.append(byte)
            yield byte

    so_far = ""
    for part in Tokenizer([]).decode_stream(watched()):
        so_far += part
        assert bytes(taken).decode() == so_far
    assert so_far == text


def test_a_stream_gives_the_rest_at_the_end() -> None:
    assert list(GPT2.decode_stream([15496, 12520])) == ["Hello", " ", "\ufffd"]
    assert list(GPT2.decode_stream([])) == []


def test_ids_with_no_piece_are_replacement_characters() -> None:
    tokenizer = with_added(AddedToken("<a>", 300))
    assert tokenizer.decode([97, 299, 300]) == "a\ufffd<a>"
    assert list(tokenizer.decode_stream([97, 299])) == ["a", "\ufffd"]


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        ([0, 50257], "id 50257 at position 1 is not in the vocabulary, expected 0 to 50256: use the tokenizer that"),
        (np.array([-1]), "id -1 at position 0 is not in the vocabulary, expected 0 to 50256"),
        ([1.0], "id 1.0 at position 0 is of type float, expected an integer: pass a flat list or array of integers"),
        (["a"], "id 'a' at position 0 is of type str, expected an integer"),
        ([[1]], "id [1] at position 0 is of type list, expected an integer"),
        (np.array([[1]]), "ids are of type ndarray, expected a flat list or array of integers"),
        (np.array(1), "ids are of type ndarray, expected a flat list or array of integers"),
        ("ab", "ids are of type str, expected a flat list or array of integers"),
        (5, "ids are of type int, expected a flat list or array of integers"),
    ],
)
def test_ids_that_are_none_are_told_apart(ids: Any, message: str) -> None:
    for read in (GPT2.decode, GPT2.pieces, lambda ids: list(GPT2.decode_stream(ids))):
        with pytest.raises(TokenError, match=re.escape(message)):
            read(ids)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "Hello \ud83d!",
            "the text has a lone surrogate, U+D83D, at position 6: expected characters only; to replace it: "
            "text.encode('utf-16', 'surrogatepass').decode('utf-16', 'replace')",
        ),
        ("<|endoftext|>\udfff", "a lone surrogate, U+DFFF, at position 13"),
        (b"Hello", "the text is of type bytes, expected str: decode it first: data.decode('utf-8')"),
        (None, "the text is of type NoneType, expected str: pass one text"),
        (["a"], "the text is of type list, expected str: pass one text"),
    ],
)
def test_what_is_no_text_is_told_with_its_remedy(text: Any, message: str) -> None:
    with pytest.raises(TokenError, match=re.escape(message)):
        GPT2.encode(text, allow_special=True)


def test_the_remedy_for_surrogates_works() -> None:
    text = "\ud83d\ude00 \ud83d".encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    assert GPT2.decode(GPT2.encode(text)) == "\U0001f600 \ufffd"


def test_a_byte_without_an_id_is_told() -> None:
    tokenizer = Tokenizer([], {b"a": 0})
    assert tokenizer.encode("aa") == [0, 0]
    with pytest.raises(TokenError, match=re.escape("the word 'ab' has the byte b'b', which has no id in this vocab")):
        tokenizer.encode("ab")
