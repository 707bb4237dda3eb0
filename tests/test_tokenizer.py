"""The tokenizer, with no peer at hand: published ids, hand-worked examples, properties, every reader, every message."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import regex
from hypothesis import given
from hypothesis import strategies as st

from numgpt.checkpoint.vocabulary import from_folder, gpt2, read_merges
from numgpt.errors import TokenError
from numgpt.tokenizer import Tokenizer, merge, pattern_of, split

GPT2 = gpt2()
PLAIN = Tokenizer(list(GPT2.ranks), GPT2.vocabulary, GPT2.special_tokens)  # the one to read, with GPT-2's tables
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


def test_letters_younger_than_unicode_16_are_no_letters() -> None:
    first, last = chr(0x323B0), chr(0x33479)  # CJK extension J, Unicode 17
    assert split(f"a{first}{last}") == ["a", first + last]
    assert split("a\U00010d4a") == ["a\U00010d4a"]  # Garay, Unicode 16


def test_the_pattern_with_unicode_classes_is_the_one_of_openai() -> None:
    openai = r"'s|'t|'re|'ve|'m|'ll|'d| ?[\p{L}]+| ?[\p{N}]+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
    assert pattern_of(r"\p{L}", r"\p{N}") == openai
    text = "Hello!! I'm Andrej. It's  2022.\n\n w00t :D ünï 二"
    assert split(text) == regex.findall(openai, text)


# ---- merge


def test_merge_takes_the_leftmost_of_equal_pairs() -> None:
    assert merge(b"aaa", {(b"a", b"a"): 0}) == [b"aa", b"a"]


def test_merge_goes_by_pairs_and_not_by_what_they_spell() -> None:
    ranks = {(b"b", b"c"): 0, (b"a", b"b"): 1, (b"ab", b"c"): 2}
    assert merge(b"abc", ranks) == [b"a", b"bc"]  # a + bc spells abc, but only ab + c was learnt


@pytest.mark.parametrize("word", [b"", b"x"])
def test_nothing_and_one_byte_are_left_alone(word: bytes) -> None:
    pieces = [word] if word else []
    assert merge(word, {}) == pieces


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
    for tokenizer in PLAIN, GPT2:
        assert tokenizer.encode(text) == ids
        assert tokenizer.decode(ids) == text


@given(any_text | western_text | spaced_text)
def test_decode_gives_back_any_text(text: str) -> None:
    ids = PLAIN.encode(text)
    assert PLAIN.decode(ids) == text
    assert b"".join(GPT2.pieces(ids)) == text.encode()
    assert GPT2.encode(text) == ids  # from the memory


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
    for tokenizer in PLAIN, GPT2:
        assert 50256 not in tokenizer.encode("a<|endoftext|>b")
        assert tokenizer.encode("a<|endoftext|>b", allow_special=True) == [64, 50256, 65]
        assert tokenizer.decode(tokenizer.encode("a<|endoftext|>b")) == "a<|endoftext|>b"
        assert tokenizer.decode([64, 50256, 65]) == "a<|endoftext|>b"


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
    tokenizer = Tokenizer([], special_tokens={"<a>": 300})
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
    for read in (PLAIN.decode, GPT2.decode, GPT2.pieces, lambda ids: list(GPT2.decode_stream(ids))):
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
    for tokenizer in PLAIN, GPT2:
        with pytest.raises(TokenError, match=re.escape(message)):
            tokenizer.encode(text, allow_special=True)


def test_the_remedy_for_surrogates_works() -> None:
    text = "\ud83d\ude00 \ud83d".encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    assert GPT2.decode(GPT2.encode(text)) == "\U0001f600 \ufffd"


def test_a_byte_without_an_id_is_told() -> None:
    tokenizer = Tokenizer([], {b"a": 0})
    assert tokenizer.encode("aa") == [0, 0]
    with pytest.raises(TokenError, match=re.escape("the word 'ab' has the byte b'b', which has no id in this vocab")):
        tokenizer.encode("ab")
