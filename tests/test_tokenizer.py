"""The tokenizer, with no peer at hand: published ids, hand-worked examples, properties, every reader, every message."""

import contextlib
import copy
import json
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
from numgpt.errors import CheckpointError, TokenError
from numgpt.tokenizer import (
    AddedToken,
    Tokenizer,
    from_folder,
    gpt2,
    merge,
    read_merges,
    read_tokenizer_json,
    read_vocabulary,
    split,
)

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
    pieces = merge(word, GPT2._ranks)
    assert module._merge_short(word, GPT2._ranks, 50000) == pieces
    assert module._merge_long(word, GPT2._ranks, 50000) == pieces


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
    ranks = Counting(GPT2._ranks)
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
    for piece, i in GPT2._vocabulary.items():
        assert module._merge_short(piece, GPT2._ranks, 50000) == [piece], i


def test_the_ids_follow_from_the_merges() -> None:
    assert (len(GPT2), GPT2.n_ordinary, GPT2.special_tokens) == (50257, 50256, {"<|endoftext|>": 50256})
    assert GPT2.pieces([0, 93, 94, 187, 188, 220, 255, 256, 50255, 50256]) == [
        *(b"!", b"~", b"\xa1", b"\xff", b"\x00", b" ", b"\xad"),
        *(b" t", b" gazed", b"<|endoftext|>"),
    ]


def test_the_storyteller_reads_the_same_from_either_file() -> None:
    tokenizer, twin = from_folder(STORYTELLER), read_merges(STORYTELLER / "merges.txt")
    assert tokenizer is not None
    assert tokenizer._vocabulary == twin._vocabulary
    assert tokenizer._ranks == twin._ranks
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


# ---- readers

VOCABULARY = {"a": 0, "b": 1, "#": 2, "Ġ": 3, "ab": 4, "##": 5, "Ġab": 6, "<|endoftext|>": 7}
MERGES = ["# #", "a b", "Ġ ab"]
BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True}


def tokenizer_json(**changes: Any) -> dict[str, Any]:
    data = {
        "version": "1.0",
        "truncation": None,
        "added_tokens": [{"id": 7, "content": "<|endoftext|>", "special": True, "normalized": False}],
        "normalizer": None,
        "pre_tokenizer": BYTE_LEVEL,
        "post_processor": BYTE_LEVEL,
        "decoder": BYTE_LEVEL,
        "model": {"type": "BPE", "vocab": VOCABULARY, "merges": MERGES},
    }
    for key, value in changes.items():
        where, _, last = key.rpartition("__")
        inner = data[where] = dict(data[where]) if where else {}
        (inner if where else data)[last] = value
    return data


def write(folder: Path, files: dict[str, Any]) -> Path:
    for name, content in files.items():
        data = content if isinstance(content, str | bytes) else json.dumps(content)
        (folder / name).write_bytes(data if isinstance(data, bytes) else data.encode())
    return folder


def pair(merges: str = "\n".join(MERGES), vocabulary: Any = VOCABULARY, **more: Any) -> dict[str, Any]:
    return {"vocab.json": vocabulary, "merges.txt": merges, **{f"{name}.json": x for name, x in more.items()}}


def read(folder: Path, files: dict[str, Any]) -> Tokenizer:
    tokenizer = from_folder(write(folder, files))
    assert tokenizer is not None
    return tokenizer


def error_of(folder: Path, files: dict[str, Any]) -> str:
    with pytest.raises(CheckpointError) as caught:
        from_folder(write(folder, files))
    return str(caught.value).replace(f"{folder}/", "")


@pytest.mark.parametrize(
    "merges",
    [
        "#version: 0.2\n# #\na b\nĠ ab\n",
        "#version: 0.2\r\n# #\r\na b\r\nĠ ab\r\n",
        "# #\na b\nĠ ab",  # the first merge begins as a comment would
        "# #\na b\nĠ ab\n\n\n",
    ],
)
def test_merges_are_read_with_any_line_ends(tmp_path: Path, merges: str) -> None:
    tokenizer = read(tmp_path, pair(merges))
    assert list(tokenizer._ranks) == [(b"#", b"#"), (b"a", b"b"), (b" ", b"ab")]
    assert tokenizer.encode("ab ab##") == [4, 6, 5]
    assert tokenizer.special_tokens == {"<|endoftext|>": 7}


def test_all_readers_give_the_same_tokenizer(tmp_path: Path) -> None:
    lists = [line.split(" ") for line in MERGES]
    write(
        tmp_path,
        {
            **pair(),
            "strings.json": tokenizer_json(),
            "lists.json": tokenizer_json(model__merges=lists),
        },
    )
    for tokenizer in (
        read_vocabulary(tmp_path / "vocab.json", str(tmp_path / "merges.txt")),
        read_tokenizer_json(tmp_path / "strings.json"),
        read_tokenizer_json(str(tmp_path / "lists.json")),
    ):
        assert tokenizer.encode("ab ab##<|endoftext|>", allow_special=True) == [4, 6, 5, 7]
        assert tokenizer.decode([4, 6, 5, 7]) == "ab ab##<|endoftext|>"
        assert tokenizer.special_tokens == {"<|endoftext|>": 7}


def test_the_pair_of_openai_is_found_too(tmp_path: Path) -> None:
    files = {"encoder.json": VOCABULARY, "vocab.bpe": "#version: 0.2\n" + "\n".join(MERGES) + "\n"}
    assert read(tmp_path, files).encode("ab") == [4]


def test_tokenizer_json_comes_before_the_pair(tmp_path: Path) -> None:
    other = {**VOCABULARY, "ab": 6, "Ġab": 4}
    assert read(tmp_path, {**pair(vocabulary=other), "tokenizer.json": tokenizer_json()}).encode("ab") == [4]


def test_a_folder_without_a_tokenizer_gives_none(tmp_path: Path) -> None:
    assert from_folder(write(tmp_path, {"config.json": {}, "model.safetensors": b""})) is None


def test_further_entries_of_the_vocabulary_decode(tmp_path: Path) -> None:
    tokenizer = read(tmp_path, pair(vocabulary={**VOCABULARY, "Ġb": 8, "日本": 9, "": 10}))
    assert tokenizer.pieces([8, 9, 10]) == [b" b", "日本".encode(), b""]
    assert tokenizer.encode(" b") == [3, 1]


def test_a_merge_may_come_before_the_merge_that_makes_its_part(tmp_path: Path) -> None:
    assert read(tmp_path, pair("Ġ ab\na b\n# #")).encode(" ab") == [6]


def test_added_tokens_come_from_every_file(tmp_path: Path) -> None:
    files = pair(
        added_tokens={"<a>": 8, "<pad>": 9},
        special_tokens_map={"pad_token": {"content": "<pad>", "lstrip": False}, "additional_special_tokens": ["ab"]},
        tokenizer_config={
            "added_tokens_decoder": {"10": {"content": "<c>", "rstrip": True, "special": False}},
            "eos_token": "<|endoftext|>",
            "extra_special_tokens": {"image_token": "<nowhere>"},
            "model_max_length": 10**30,
        },
    )
    tokenizer = read(tmp_path, files)
    assert tokenizer.special_tokens == {"<pad>": 9, "<|endoftext|>": 7, "ab": 4}
    assert tokenizer.encode("<a><c> b") == [8, 10, 1]
    assert tokenizer.encode("<pad>", allow_special=True) == [9]
    assert (len(tokenizer), tokenizer.n_ordinary) == (11, 11)


def test_a_special_token_keeps_the_flags_that_the_map_gives_it(tmp_path: Path) -> None:
    files = pair(special_tokens_map={"mask_token": {"content": "ab", "lstrip": True}})
    assert read(tmp_path, files).encode("b  ab", allow_special=True) == [1, 4]


@pytest.mark.parametrize(
    ("file", "config", "ids"),
    [
        (False, {}, [4]),
        (True, {}, [6]),
        (True, {"add_prefix_space": False}, [4]),
        (False, {"add_prefix_space": True}, [6]),
    ],
)
def test_the_config_has_the_say_on_the_prefix_space(tmp_path: Path, file: bool, config: Any, ids: list[int]) -> None:
    data = tokenizer_json(pre_tokenizer__add_prefix_space=file)
    assert read(tmp_path, {"tokenizer.json": data, "tokenizer_config.json": config}).encode("ab") == ids


def test_a_template_that_adds_nothing_is_no_matter(tmp_path: Path) -> None:
    template = {"type": "TemplateProcessing", "single": [{"Sequence": {"id": "A"}}], "special_tokens": {}}
    data = tokenizer_json(post_processor=template)
    assert read(tmp_path, {"tokenizer.json": data}).encode("ab") == [4]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"normalizer": {"type": "NFC"}}, 'normalizer is "NFC", expected null'),
        ({"pre_tokenizer": {"type": "Whitespace"}}, 'pre_tokenizer.type is "Whitespace", expected "ByteLevel"'),
        ({"pre_tokenizer": None}, 'pre_tokenizer.type is null, expected "ByteLevel"'),
        ({"pre_tokenizer__use_regex": False}, "pre_tokenizer.use_regex is false, expected null or true"),
        ({"pre_tokenizer__add_prefix_space": 1}, "pre_tokenizer.add_prefix_space is 1, expected a bool"),
        ({"pre_tokenizer": {"type": "ByteLevel"}}, "pre_tokenizer.add_prefix_space is null, expected a bool"),
        (
            {"post_processor": {"type": "TemplateProcessing", "special_tokens": {"<s>": {}}}},
            'post_processor.type is "TemplateProcessing", expected null or "ByteLevel"',
        ),
        ({"decoder": {"type": "WordPiece"}}, 'decoder.type is "WordPiece", expected "ByteLevel"'),
        ({"model__type": "Unigram"}, 'model.type is "Unigram", expected null or "BPE"'),
        ({"model__dropout": 0.1}, "model.dropout is 0.1, expected null or 0"),
        ({"model__continuing_subword_prefix": "##"}, 'model.continuing_subword_prefix is "##", expected null or ""'),
        ({"model__end_of_word_suffix": "</w>"}, 'model.end_of_word_suffix is "</w>", expected null or ""'),
        ({"model__byte_fallback": True}, "model.byte_fallback is true, expected null or false"),
        ({"model__ignore_merges": True}, "model.ignore_merges is true, expected null or false"),
        ({"model": {}}, "model.merges is null, expected a list: the file is damaged"),
        ({"model": "x"}, 'model is "x", expected a dict: the file is damaged'),
        ({"model__vocab": []}, "model.vocab is a list, expected a dict: the file is damaged"),
        ({"model__merges": None}, "model.merges is null, expected a list: the file is damaged"),
        ({"model__merges": [["a", 1]]}, "merge 1 is a list, expected two pieces in the spelling of GPT-2"),
        ({"model__merges": [["a", "b", "c"]]}, 'merge 1 is "a b c", expected two pieces'),
        ({"model__merges": [7]}, "merge 1 is 7, expected two pieces"),
        ({"added_tokens": {}}, "added_tokens is an object, expected a list: the file is damaged"),
        ({"added_tokens": ["x"]}, 'added_tokens is "x", expected a dict: the file is damaged'),
        ({"added_tokens": [{"id": 8}]}, "content of an added token is null, expected a str: the file is damaged"),
        ({"added_tokens": [{"content": "x"}]}, "the id of 'x' is null, expected an integer below 2147483648"),
        ({"added_tokens": [{"content": "", "id": 8}]}, "an added token is empty, expected some text: remove it"),
        ({"added_tokens": [{"content": "x", "id": 8, "lstrip": 1}]}, "lstrip is 1, expected a bool"),
        (
            {"added_tokens": [{"content": "x", "id": 8, "single_word": True}]},
            "added token 'x' has single_word, expected false: numgpt does not do it",
        ),
        ({"added_tokens": [{"content": "x", "id": 3}]}, "'Ġ' and 'x' have the same id 3, expected one each"),
        ({"added_tokens": [{"content": "ab", "id": 9}]}, "'ab' has the ids 4 and 9, expected one"),
        (
            {"added_tokens": [{"content": "x", "id": 8}, {"content": "x", "id": 9}]},
            "'x' has the ids 9 and 8, expected one",
        ),
    ],
)
def test_a_tokenizer_json_of_another_kind_is_refused_by_name(tmp_path: Path, change: Any, message: str) -> None:
    assert error_of(tmp_path, {"tokenizer.json": tokenizer_json(**change)}).startswith(f"tokenizer.json: {message}")


LONE = "\ud800"


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"vocab.json": VOCABULARY}, "merges.txt: no such file, expected it to go with vocab.json: download the two"),
        ({"merges.txt": "a b"}, "vocab.json: no such file, expected it to go with merges.txt: download the two"),
        ({"encoder.json": VOCABULARY}, "vocab.bpe: no such file, expected it to go with encoder.json"),
        (pair(vocabulary="{"), "vocab.json: not JSON (Expecting property name enclosed in double quotes"),
        (pair(vocabulary='{"a":' * 100_000), "vocab.json: not JSON ("),
        (pair(vocabulary='{"a": ' + "9" * 5000 + "}"), "vocab.json: not JSON (Exceeds the limit (4300 digits)"),
        (pair(vocabulary=b"\xff"), "vocab.json: byte 0 is not UTF-8, expected text: download it again"),
        (pair(vocabulary=b"\xef\xbb\xbf{}"), "vocab.json: not JSON (Unexpected UTF-8 BOM"),
        (pair(vocabulary=[]), "vocab.json: the file is a list, expected a dict: the file is damaged"),
        (pair(vocabulary={**VOCABULARY, "x": 1.5}), "vocab.json: the id of 'x' is 1.5, expected an integer below"),
        (pair(vocabulary={**VOCABULARY, "x": True}), "vocab.json: the id of 'x' is true, expected an integer below"),
        (pair(vocabulary={**VOCABULARY, "x": -1}), "vocab.json: the id of 'x' is -1, expected an integer below"),
        (pair(vocabulary={**VOCABULARY, "x": 2**31}), "vocab.json: the id of 'x' is 2147483648, expected an integer"),
        (pair(vocabulary={**VOCABULARY, LONE: 8}), "vocab.json: the token '\\ud800' has a lone surrogate, expected"),
        (pair(vocabulary={**VOCABULARY, "x": 6}), "vocab.json: 'Ġab' and 'x' have the same id 6, expected one each"),
        (pair("a b\nab ab"), "merges.txt: the merges use 'abab', which has no id in vocab.json: expected files of the"),
        (pair("a b\na c"), "merges.txt: the merges use 'ac', which has no id in vocab.json"),
        (pair(vocabulary={"ab": 0, "a": 1}, merges="a b"), "merges.txt: the merges use 'b', which has no id in"),
        (pair("a b\n\n# #"), 'merges.txt: merge 2 is "", expected two pieces in the spelling of GPT-2, such as'),
        (pair("a b\nab"), 'merges.txt: merge 2 is "ab", expected two pieces'),
        (pair("a  b"), 'merges.txt: merge 1 is "a  b", expected two pieces'),
        (pair(" b"), 'merges.txt: merge 1 is " b", expected two pieces'),
        (pair("#version: 0.2\n日 b"), 'merges.txt: merge 2 is "日 b", expected two pieces'),
        (pair(b"\xff"), "merges.txt: byte 0 is not UTF-8, expected text: download it again"),
        (pair("a b " * 99), 'merges.txt: merge 1 is "a b a b a'),
        (pair(added_tokens={"x": "8"}), "added_tokens.json: the id of 'x' is \"8\", expected an integer below"),
        (
            pair(added_tokens={"x": 7}),
            "vocab.json: '<|endoftext|>' and 'x' have the same id 7, expected one each",
        ),
        (pair(special_tokens_map={"eos_token": 5}), "special_tokens_map.json: eos_token is 5, expected a str"),
        (
            pair(tokenizer_config={"added_tokens_decoder": {"x": {}}}),
            'tokenizer_config.json: added_tokens_decoder has the id "x", expected a number',
        ),
        (
            pair(tokenizer_config={"added_tokens_decoder": {"8": "x"}}),
            'tokenizer_config.json: added_tokens_decoder[8] is "x", expected a dict',
        ),
        (
            pair(tokenizer_config={"added_tokens_decoder": []}),
            "tokenizer_config.json: added_tokens_decoder is a list, expected a dict",
        ),
        (
            pair(tokenizer_config={"add_bos_token": True}),
            "tokenizer_config.json: add_bos_token is true, expected false: numgpt puts no tokens around a text; set it",
        ),
        (
            pair(tokenizer_config={"add_prefix_space": "yes"}),
            'tokenizer_config.json: add_prefix_space is "yes", expected a bool',
        ),
        (
            pair(tokenizer_config={"tokenizer_class": "CLIPTokenizer"}),
            "tokenizer_config.json: tokenizer_class is 'CLIPTokenizer', expected 'GPT2Tokenizer': numgpt would read voc",
        ),
        (pair(tokenizer_config={"tokenizer_class": 1}), "tokenizer_config.json: tokenizer_class is 1, expected a str"),
        *(
            ({name: b"x"}, f"{name}: not a byte-level BPE tokenizer, expected tokenizer.json, or vocab.json and merges")
            for name in ("vocab.txt", "spiece.model", "tokenizer.model", "tokenizer_config.json")
        ),
    ],
)
def test_damaged_and_foreign_files_are_refused_by_name(tmp_path: Path, files: Any, message: str) -> None:
    assert error_of(tmp_path, files).startswith(message)


@pytest.mark.parametrize("name", ["vocab.json", "merges.txt", "tokenizer.json", "tokenizer_config.json"])
def test_a_folder_in_place_of_a_file_is_refused_by_name(tmp_path: Path, name: str) -> None:
    files = pair()
    files.pop(name, None)
    (tmp_path / name).mkdir()
    assert error_of(tmp_path, files).startswith(f"{name}: ")
    assert "expected a file of a tokenizer" in error_of(tmp_path, files)


def test_a_missing_folder_is_told(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="expected the folder with the files of a tokenizer"):
        from_folder(tmp_path / "nowhere")
    with pytest.raises(CheckpointError, match="expected the folder with the files of a tokenizer"):
        from_folder("a\0b")


def test_merges_alone_must_make_a_piece_each(tmp_path: Path) -> None:
    path = write(tmp_path, {"merges.txt": "a b\nb c\na bc\nab c"}) / "merges.txt"
    with pytest.raises(CheckpointError, match="4 merges give 3 pieces, expected one each: the ids do not follow"):
        read_merges(path)
    with pytest.raises(CheckpointError, match="No such file or directory, expected a file of a tokenizer"):
        read_merges(tmp_path / "nowhere")


json_values: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text("ab\u0120", max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["a", "content", "id"]), inner),
)


@given(st.data())
def test_no_value_in_any_place_makes_another_error(tmp_path_factory: pytest.TempPathFactory, data: Any) -> None:
    good = tokenizer_json()
    key = data.draw(st.sampled_from([*good, "model__vocab", "model__merges", "model__type", "decoder__type"]))
    keys = st.sampled_from(["added_tokens_decoder", "eos_token", "tokenizer_class"])
    config = data.draw(st.dictionaries(keys, json_values))
    files = {"tokenizer.json": tokenizer_json(**{key: data.draw(json_values)}), "tokenizer_config.json": config}
    with contextlib.suppress(CheckpointError):
        assert isinstance(from_folder(write(tmp_path_factory.mktemp("any"), files)), Tokenizer)
