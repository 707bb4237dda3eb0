"""The fast tokenizer: it gives the ids of the one to read, for any text; and tokens that are added to a vocabulary."""

import copy
import pickle
import re
import subprocess
import sys
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

import numgpt
from numgpt import tokenizer as plain
from numgpt.checkpoint.vocabulary import gpt2
from numgpt.errors import TokenError
from numgpt.fast import tokenizer as module
from numgpt.fast.tokenizer import AddedToken, Tokenizer
from numgpt.tokenizer import merge, split

GPT2 = gpt2()
PLAIN = plain.Tokenizer(list(GPT2.ranks), GPT2.vocabulary, GPT2.special_tokens)

any_text = st.text(st.characters(exclude_categories=["Cs"]))
western_text = st.text("aZé '’stredm1²\u00a0\u0085\n\t!…")
spaced_text = st.text("a1! \t\n\x1c\x85\u00a0\u2028\u3000")


def words_of(text: str) -> list[str]:
    """The words, as the fast tokenizer cuts them."""
    return list(chain.from_iterable(module._split_windows(text)))


# ---- the whole


@given(any_text | western_text | spaced_text)
@example("a" * 300 + " b")
@example("Hello<|endoftext|>!<|endoftext|>")
def test_the_ids_are_those_of_the_tokenizer_to_read(text: str) -> None:
    for allow_special in False, True:
        assert GPT2.encode(text, allow_special) == PLAIN.encode(text, allow_special)


# Of every script and sign a few, in runs of up to some thousands: a word may be longer than a window, and a window may
# end within any of them.
SCRIPTS = (
    "aZ é ß 'sre 12 ½ Ⅷ ٣ ж Ё ש م \u064f न \u093f ไ \u0e33"
    " 你 。 ひ ー 한 ᄀ 👩 \u200d \U0001f3fd \u0301 ’ … € \n \t \u0085 \u00a0 \u3000 \x1c ! \U00010348 𝟘"
)
runs_of_any_script = st.lists(
    st.tuples(st.sampled_from(SCRIPTS), st.sampled_from([1, 2, 3, 70, 1023, 2500])), max_size=12
).map(lambda runs: "".join(character * length for character, length in runs))


@given(runs_of_any_script)
@example("a" * 2047 + "'re" + " b")
@example(" " * 2048 + "ж" * 2048)
def test_long_runs_of_any_script_give_the_words_and_ids_of_the_tokenizer_to_read(text: str) -> None:
    assert words_of(text) == split(text)
    short = "".join(word[:200] for word in split(text))  # the one to read takes its time for a long word
    assert GPT2.encode(short) == PLAIN.encode(short)


@given(st.lists(st.integers(0, 50256)))
def test_the_text_is_that_of_the_tokenizer_to_read(ids: list[int]) -> None:
    assert GPT2.decode(ids) == PLAIN.decode(ids)
    assert GPT2.pieces(ids) == PLAIN.pieces(ids)
    assert list(GPT2.decode_stream(ids)) == list(PLAIN.decode_stream(ids))


def some_merges(alphabet: str) -> st.SearchStrategy[list[tuple[bytes, bytes]]]:
    piece = st.text(alphabet, min_size=1, max_size=3).map(str.encode)
    return st.lists(st.tuples(piece, piece), max_size=30)


@given(some_merges("ab") | some_merges("abcd"), st.text("abcde ", max_size=80), st.booleans())
def test_any_vocabulary_gives_the_ids_of_the_tokenizer_to_read(
    merges: list[tuple[bytes, bytes]], text: str, with_special: bool
) -> None:
    special = {"bc": 900, "b": 901} if with_special else {}
    pieces = dict.fromkeys([*(bytes([i]) for i in range(256)), *map(b"".join, merges)])
    vocabulary = {piece: i for i, piece in enumerate(pieces)}
    fast = Tokenizer(merges, vocabulary, [AddedToken(text, i, special=True) for text, i in special.items()])
    one_to_read = plain.Tokenizer(merges, vocabulary, special)
    for allow_special in False, True:
        assert fast.encode(text, allow_special) == one_to_read.encode(text, allow_special)
    assert len(fast) == len(one_to_read)


def test_errors_are_those_of_the_tokenizer_to_read() -> None:
    for text in ("ab", b"a", "a\ud800"):
        told = []
        for tokenizer in Tokenizer([], {b"a": 0}), plain.Tokenizer([], {b"a": 0}):
            with pytest.raises(TokenError) as caught:
                tokenizer.encode(text)
            told.append(str(caught.value))
        assert told[0] == told[1]


# ---- split


@given(st.text("ab1' !srev\n\u00e9\u2019\u3042"), st.integers(1, 9))
@example("a'res b", 3)
def test_windows_of_any_size_give_the_words_of_the_whole(text: str, size: int) -> None:
    whole, default = split(text), module._WINDOW
    module._WINDOW = size
    try:
        assert words_of(text) == whole
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


def test_a_word_longer_than_many_windows_is_split_in_few_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    text, seen = "a" * 100_000 + " b", []

    class Watched:
        def findall(self, window: str) -> list[str]:
            seen.append(len(window))
            return re.findall(" ?[a-z]+", window)

    monkeypatch.setattr(module, "_WESTERN_WORDS", Watched())
    assert words_of(text) == ["a" * 100_000, " b"]
    assert sum(seen) < 5 * len(text)


# ---- merge


@given(some_merges("ab") | some_merges("abcd"), st.text("abcd", max_size=80).map(str.encode))
@example([(b"ab", b"c"), (b"b", b"c"), (b"a", b"b")], b"abcabc")  # what is merged ranks before its parts
@example([(b"a", b"a"), (b"aa", b"a"), (b"a", b"aa")], b"aaaaaaa")
@example([(b"a", b"b"), (b"ab", b"a"), (b"b", b"a"), (b"a", b"b")], b"abababab")  # the same merge twice
def test_the_fast_merges_are_the_one_to_read(merges: list[tuple[bytes, bytes]], word: bytes) -> None:
    ranks = {pair: rank for rank, pair in enumerate(merges)}
    pieces = merge(word, ranks)
    assert b"".join(pieces) == word
    assert module.merge(word, ranks) == pieces
    assert module._merge_short(word, ranks) == pieces
    assert module._merge_long(word, ranks) == pieces


@given(st.text("estonia ", min_size=1, max_size=150).map(str.encode))
def test_the_fast_merges_are_the_one_to_read_on_the_merges_of_gpt2(word: bytes) -> None:
    pieces = merge(word, GPT2.ranks)
    assert module._merge_short(word, GPT2.ranks) == pieces
    assert module._merge_long(word, GPT2.ranks) == pieces


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
    assert b"".join(module._merge_long(word, ranks)) == word
    assert ranks.asked <= 3 * len(word)


@pytest.mark.parametrize("step", [10, pytest.param(1, marks=pytest.mark.thorough)])
def test_every_piece_of_gpt2_merges_to_itself(step: int) -> None:
    for piece, i in list(GPT2.vocabulary.items())[::step]:
        assert module._merge_short(piece, GPT2.ranks) == [piece], i


# ---- added tokens


def with_added(*added: AddedToken, **options: Any) -> Tokenizer:
    return Tokenizer([], added=added, **options)


def test_added_tokens_are_always_found_and_special_ones_when_allowed() -> None:
    tokenizer = with_added(AddedToken("<a>", 300), AddedToken("<s>", 301, special=True))
    assert tokenizer.encode("<a><s>") == [300, 60, 115, 62]
    assert tokenizer.encode("<a><s>", allow_special=True) == [300, 301]
    assert (len(tokenizer), tokenizer.n_ordinary) == (302, 256)


def test_tokens_go_around_each_text_and_not_around_a_part_of_it() -> None:
    tokenizer = with_added(AddedToken("<s>", 300, special=True), before=[300], after=[300, 301])
    assert tokenizer.encode("ab") == [300, 97, 98, 300, 301]
    assert tokenizer.encode("") == [300, 300, 301]
    assert tokenizer.encode("<s>", allow_special=True) == [300, 300, 300, 301]
    assert tokenizer.encode_part("ab") == [97, 98]
    assert tokenizer.encode_part("<s>", allow_special=True) == [300]


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


# ---- the start


def test_asking_for_the_tokenizer_waits_for_no_numpy_and_no_regex() -> None:
    code = "import sys, numgpt; numgpt.Tokenizer; print(*{'numpy', 'regex', 'numgpt.fast.model'} & set(sys.modules))"
    root = Path(module.__file__).parents[2]
    run = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, timeout=60, check=True)
    assert run.stdout.split() == []


def test_what_the_room_lacks_is_an_attribute_error() -> None:
    assert numgpt.fast.forward is numgpt.fast.model.forward
    with pytest.raises(AttributeError, match=r"^module 'numgpt\.fast' has no attribute 'foward'$"):
        _ = numgpt.fast.foward
