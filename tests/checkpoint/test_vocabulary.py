"""Tokenizer files: every format, every quirk, and what is refused."""

import contextlib
import copy
import json
import os
import pickle
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from numgpt.checkpoint import vocabulary
from numgpt.checkpoint.vocabulary import from_folder, gpt2, read_merges, read_tokenizer_json, read_vocabulary
from numgpt.errors import CheckpointError
from numgpt.fast.tokenizer import Tokenizer

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
    assert list(tokenizer.ranks) == [(b"#", b"#"), (b"a", b"b"), (b" ", b"ab")]
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


@pytest.mark.parametrize("name", ["vocab.txt", "spiece.model", "tokenizer.model", "tokenizer_config.json"])
def test_a_folder_with_a_tokenizer_of_another_kind_gives_none(tmp_path: Path, name: str) -> None:
    assert from_folder(write(tmp_path, {name: b"x"})) is None


@pytest.mark.parametrize("name", ["vocab.bpe", "merges.txt"])
def test_a_folder_with_nothing_but_merges_gives_the_ids_that_follow_from_them(tmp_path: Path, name: str) -> None:
    tokenizer = from_folder(write(tmp_path, {name: "#version: 0.2\nh i\n"}))
    assert tokenizer is not None
    assert tokenizer.encode("hi<|endoftext|>", allow_special=True) == [256, 257]


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
        tokenizer_config={"eos_token": "<|endoftext|>", "model_max_length": 10**30},
    )
    tokenizer = read(tmp_path, files)
    assert tokenizer.special_tokens == {"<pad>": 9, "<|endoftext|>": 7, "ab": 4}
    assert tokenizer.encode("<a> b") == [8, 3, 1]
    assert tokenizer.encode("<pad>", allow_special=True) == [9]
    assert (len(tokenizer), tokenizer.n_ordinary) == (10, 7)


def test_a_list_of_added_tokens_is_all_of_them(tmp_path: Path) -> None:
    files = pair(
        added_tokens={"<a>": 8},
        special_tokens_map={"pad_token": "<pad>"},
        tokenizer_config={
            "added_tokens_decoder": {"8": {"content": "<c>", "rstrip": True, "special": False}},
            "extra_special_tokens": {"image_token": "<image>"},
        },
    )
    tokenizer = read(tmp_path, files)
    assert tokenizer.special_tokens == {"<|endoftext|>": 7, "<image>": 9}
    assert tokenizer.encode("<c> b") == [8, 1]


# As Transformers 5.24 numbers them, which tests/conformance/test_cases.py asks.
@pytest.mark.parametrize(
    ("config", "special", "ids"),
    [
        ({}, {"pad_token": "<pad>"}, {"<pad>": 8}),
        ({"pad_token": "<pad>"}, {}, {"<pad>": 8}),
        ({"pad_token": "<other>"}, {"pad_token": "<pad>"}, {"<pad>": 8}),
        ({"pad_token": "<pad>", "sep_token": "<sep>"}, {}, {"<sep>": 8, "<pad>": 9}),
        ({"additional_special_tokens": ["<b>", "<a>"], "pad_token": "<pad>"}, {}, {"<pad>": 8, "<b>": 9, "<a>": 10}),
        ({"additional_special_tokens": []}, {"additional_special_tokens": ["<a>"]}, {}),
        (
            {"extra_special_tokens": ["<b>"], "image_token": "<i>", "mask_token": "ab"},
            {},
            {"ab": 4, "<i>": 8, "<b>": 9},
        ),
        ({"add_bos_token": None, "cls_token": None, "chat_token": 7}, {}, {}),
    ],
)
def test_a_special_token_without_an_id_gets_the_next(tmp_path: Path, config: Any, special: Any, ids: Any) -> None:
    tokenizer = read(tmp_path, pair(tokenizer_config=config, special_tokens_map=special))
    assert tokenizer.special_tokens == {"<|endoftext|>": 7, **ids}


def test_gpt2s_class_has_end_of_text_though_its_vocabulary_has_none(tmp_path: Path) -> None:
    small = {text: i for text, i in VOCABULARY.items() if i < 7}
    assert read(tmp_path, pair(vocabulary=small)).special_tokens == {}  # of no class
    tokenizer = read(tmp_path, {"tokenizer_config.json": {"tokenizer_class": "GPT2Tokenizer"}})
    assert tokenizer.special_tokens == {"<|endoftext|>": 7}


@pytest.mark.parametrize("where", ["tokenizer_config.json", "config.json"])
def test_robertas_class_puts_its_tokens_around_a_text(tmp_path: Path, where: str) -> None:
    tokenizer = read(tmp_path, {**pair(), where: {"tokenizer_class": "RobertaTokenizer"}})
    assert tokenizer.special_tokens == {"<s>": 8, "</s>": 9, "<unk>": 10, "<pad>": 11, "<mask>": 12}
    assert tokenizer.encode("ab") == [8, 4, 9]
    assert tokenizer.encode("") == [8, 9]
    assert tokenizer.encode_part("ab") == [4]


def test_the_config_puts_tokens_around_a_text_where_there_is_no_tokenizer_json(tmp_path: Path) -> None:
    config = {"add_bos_token": True, "bos_token": "<s>", "add_eos_token": True, "tokenizer_class": "GPT2Tokenizer"}
    tokenizer = read(tmp_path, pair(tokenizer_config=config))
    assert tokenizer.encode("ab") == [8, 4, 7]
    tokenizer = read(tmp_path, {"tokenizer.json": tokenizer_json()})
    assert tokenizer.encode("ab") == [4]


def test_a_special_token_keeps_the_flags_that_the_map_gives_it(tmp_path: Path) -> None:
    files = pair(special_tokens_map={"mask_token": {"content": "ab", "lstrip": True}})
    assert read(tmp_path, files).encode("b  ab", allow_special=True) == [1, 4]


@pytest.mark.parametrize(
    ("config", "decides"),
    [
        ({}, False),
        ({"add_prefix_space": False}, False),
        ({"tokenizer_class": "GPT2TokenizerFast"}, False),
        ({"tokenizer_class": "PreTrainedTokenizerFast", "add_prefix_space": None}, True),
        ({"tokenizer_class": "TokenizersBackend", "add_prefix_space": True}, True),
        (None, True),  # no file that could name a class
    ],
)
@pytest.mark.parametrize("file", [True, False])
def test_the_class_says_which_file_has_the_say_on_the_prefix_space(
    tmp_path: Path, config: Any, decides: bool, file: bool
) -> None:
    files = {"tokenizer.json": tokenizer_json(pre_tokenizer__add_prefix_space=file)}
    tokenizer = read(tmp_path, files if config is None else {**files, "tokenizer_config.json": config})
    assert tokenizer.encode("ab") == ([6] if decides and file else [4])


def test_the_config_puts_a_space_before_a_text_whatever_the_file_says(tmp_path: Path) -> None:
    files = {"tokenizer.json": tokenizer_json(), "tokenizer_config.json": {"add_prefix_space": True}}
    assert read(tmp_path, files).encode("ab") == [6]


def test_end_of_text_is_what_the_file_says_it_is(tmp_path: Path) -> None:
    data = tokenizer_json(added_tokens=[{"id": 7, "content": "<|endoftext|>", "special": False}])
    tokenizer = read(tmp_path, {"tokenizer.json": data})
    assert tokenizer.special_tokens == {}
    assert tokenizer.encode("<|endoftext|>") == [7]


GPT2_PATTERN = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
SPLIT = {"type": "Split", "pattern": {"Regex": GPT2_PATTERN}, "behavior": "Isolated", "invert": False}
A, B = ({"Sequence": {"id": name, "type_id": 0}} for name in "AB")
END = {"SpecialToken": {"id": "<end>", "type_id": 0}}


def sequence(key: str, *steps: Any) -> dict[str, Any]:
    return {"type": "Sequence", key: list(steps)}


def template(*single: Any, ids: Any = (7,)) -> dict[str, Any]:
    known = {"<end>": {"id": "<end>", "ids": list(ids), "tokens": ["<end>"]}}
    return {"type": "TemplateProcessing", "single": list(single), "pair": [A, END, B], "special_tokens": known}


@pytest.mark.parametrize(
    "change",
    [
        {"post_processor": {"type": "TemplateProcessing", "single": [A], "pair": [A, B], "special_tokens": {}}},
        {"post_processor": template(A)},  # a token between two texts
        {"post_processor": sequence("processors", BYTE_LEVEL)},
        {"post_processor": None},
        {"pre_tokenizer": sequence("pretokenizers", BYTE_LEVEL)},
        {"pre_tokenizer": sequence("pretokenizers", sequence("pretokenizers", BYTE_LEVEL))},
        {"pre_tokenizer": sequence("pretokenizers", SPLIT, {**BYTE_LEVEL, "use_regex": False})},
        {"decoder": sequence("decoders", BYTE_LEVEL)},
        {"normalizer": sequence("normalizers")},
        {"model__ignore_merges": True},
        {"model__unk_token": "<|endoftext|>", "model__fuse_unk": True},
        {"truncation": {"max_length": 1}, "padding": {"strategy": {"Fixed": 99}}},
    ],
)
def test_what_changes_no_id_is_passed_over(tmp_path: Path, change: Any) -> None:
    assert read(tmp_path, {"tokenizer.json": tokenizer_json(**change)}).encode("ab ab") == [4, 6]


def test_words_that_are_pieces_are_not_merged_where_the_file_says_so(tmp_path: Path) -> None:
    """No merge makes the piece ba, and none Ġb."""
    vocabulary = {**VOCABULARY, "ba": 8, "Ġb": 9}
    for ignore, ids in (None, [1, 0, 3, 1]), (False, [1, 0, 3, 1]), (True, [8, 9]):
        data = tokenizer_json(model__vocab=vocabulary, model__ignore_merges=ignore)
        assert read(tmp_path, {"tokenizer.json": data}).encode("ba b") == ids


@pytest.mark.parametrize(
    ("processor", "ids"),
    [
        (template(END, A), [7, 4]),
        (template(A, END, END), [4, 7, 7]),
        (template(END, A, ids=[5, 2]), [5, 2, 4]),
        ({"type": "RobertaProcessing", "sep": ["b", 1], "cls": ["a", 0], "trim_offsets": True}, [0, 4, 1]),
        ({"type": "BertProcessing", "sep": ["b", 1], "cls": ["a", 0]}, [0, 4, 1]),
        (sequence("processors", template(A, END), BYTE_LEVEL, template(END, A, END, ids=[2])), [2, 4, 7, 2]),
    ],
)
def test_a_post_processor_puts_tokens_around_a_text(tmp_path: Path, processor: Any, ids: list[int]) -> None:
    tokenizer = read(tmp_path, {"tokenizer.json": tokenizer_json(post_processor=processor)})
    assert tokenizer.encode("ab") == ids
    assert tokenizer.encode_part("ab") == [4]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"normalizer": {"type": "NFC"}}, 'normalizer is "NFC", expected null'),
        ({"pre_tokenizer": {"type": "Whitespace"}}, 'pre_tokenizer.type is "Whitespace", expected "ByteLevel"'),
        ({"pre_tokenizer": None}, 'pre_tokenizer.type is null, expected "ByteLevel"'),
        ({"pre_tokenizer__use_regex": False}, "pre_tokenizer.use_regex is false, expected null or true"),
        ({"pre_tokenizer__add_prefix_space": 1}, "pre_tokenizer.add_prefix_space is 1, expected a bool"),
        ({"pre_tokenizer": {"type": "ByteLevel"}}, "pre_tokenizer.add_prefix_space is null, expected a bool"),
        ({"normalizer": sequence("normalizers", {"type": "NFKC"})}, 'normalizer is "NFKC", expected null'),
        (
            {"pre_tokenizer": sequence("pretokenizers", {"type": "Digits"}, BYTE_LEVEL)},
            'pre_tokenizer.type is "Digits", expected "ByteLevel"',
        ),
        (
            {"pre_tokenizer": sequence("pretokenizers", BYTE_LEVEL, BYTE_LEVEL)},
            'pre_tokenizer is "a Sequence", expected "ByteLevel"',
        ),
        (
            {"pre_tokenizer": sequence("pretokenizers", {**SPLIT, "pattern": {"Regex": "x"}}, BYTE_LEVEL)},
            'pre_tokenizer.pattern is an object, expected "that of GPT-2"',
        ),
        (
            {"pre_tokenizer": sequence("pretokenizers", {**SPLIT, "behavior": "Removed"}, BYTE_LEVEL)},
            'pre_tokenizer.behavior is "Removed", expected "Isolated"',
        ),
        (
            {"pre_tokenizer": sequence("pretokenizers", SPLIT, {**BYTE_LEVEL, "add_prefix_space": True})},
            "pre_tokenizer.add_prefix_space is true, expected false",
        ),
        ({"pre_tokenizer": {"type": "Sequence"}}, "pre_tokenizer.pretokenizers is null, expected a list"),
        ({"post_processor": {"type": "Other"}}, 'post_processor.type is "Other", expected null or "ByteLevel"'),
        ({"post_processor": template(A, A)}, "post_processor.single has the text 2 times, expected once"),
        ({"post_processor": template(7)}, "post_processor.single is 7, expected a dict"),
        (
            {"post_processor": template(A, END, ids=[-1])},
            "post_processor.special_tokens is a list, expected a text and",
        ),
        (
            {"post_processor": template(A, {"SpecialToken": {"id": "<other>"}})},
            "the SpecialToken '<other>' is null, expected a dict",
        ),
        (
            {"post_processor": {"type": "RobertaProcessing", "cls": ["a", True], "sep": ["b", 1]}},
            "post_processor.cls is a list, expected a text and its id",
        ),
        ({"decoder": {"type": "WordPiece"}}, 'decoder.type is "WordPiece", expected "ByteLevel"'),
        ({"model__type": "Unigram"}, 'model.type is "Unigram", expected null or "BPE"'),
        ({"model__dropout": 0.1}, "model.dropout is 0.1, expected null or 0"),
        ({"model__continuing_subword_prefix": "##"}, 'model.continuing_subword_prefix is "##", expected null or ""'),
        ({"model__end_of_word_suffix": "</w>"}, 'model.end_of_word_suffix is "</w>", expected null or ""'),
        ({"model__byte_fallback": True}, "model.byte_fallback is true, expected null or false"),
        ({"model__ignore_merges": 1}, "model.ignore_merges is 1, expected a bool"),
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
        ({"encoder.json": VOCABULARY}, "vocab.bpe: no such file, expected it to go with encoder.json"),
        (pair(vocabulary="{"), "vocab.json: not JSON (Expecting property name enclosed in double quotes"),
        (pair(vocabulary='{"a":' * 100_000), "vocab.json: not JSON ("),
        (pair(vocabulary='{"a": ' + "9" * 5000 + "}"), "vocab.json: not JSON (Exceeds the limit (4300"),
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
            pair(tokenizer_config={"added_tokens_decoder": [1]}),
            "tokenizer_config.json: added_tokens_decoder is a list, expected a dict",
        ),
        (
            pair(tokenizer_config={"add_bos_token": "yes"}),
            'tokenizer_config.json: add_bos_token is "yes", expected a bool',
        ),
        (
            pair(tokenizer_config={"add_prefix_space": "yes"}),
            'tokenizer_config.json: add_prefix_space is "yes", expected a bool',
        ),
        (
            pair(tokenizer_config={"tokenizer_class": "CLIPTokenizer"}),
            "tokenizer_config.json: tokenizer_class is 'CLIPTokenizer', expected 'GPT2Tokenizer': numgpt would read",
        ),
        (pair(tokenizer_config={"tokenizer_class": 1}), "tokenizer_config.json: tokenizer_class is 1, expected a str"),
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
    assert "a folder or a device, expected a file" in error_of(tmp_path, files)


def test_a_missing_folder_is_told(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="expected the folder with the files of a tokenizer"):
        from_folder(tmp_path / "nowhere")
    with pytest.raises(CheckpointError, match="expected the folder with the files of a tokenizer"):
        from_folder("a\0b")


def test_merges_alone_must_make_a_piece_each(tmp_path: Path) -> None:
    path = write(tmp_path, {"merges.txt": "a b\nb c\na bc\nab c"}) / "merges.txt"
    with pytest.raises(CheckpointError, match="4 merges give 3 pieces, expected one each: the ids do not follow"):
        read_merges(path)
    with pytest.raises(CheckpointError, match="nowhere: no such file: check the path"):
        read_merges(tmp_path / "nowhere")


json_values: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text("ab\u0120", max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["a", "content", "id"]), inner),
)


@given(st.data())
def test_no_value_in_any_place_makes_another_error(tmp_path_factory: pytest.TempPathFactory, data: Any) -> None:
    good = tokenizer_json()
    key = data.draw(st.sampled_from([*good, "model__vocab", "model__merges", "model__type", "decoder__type"]))
    keys = st.sampled_from(
        ["added_tokens_decoder", "eos_token", "tokenizer_class", "extra_special_tokens", "additional_special_tokens"]
    )
    config = data.draw(st.dictionaries(keys, json_values))
    files = {"tokenizer.json": tokenizer_json(**{key: data.draw(json_values)}), "tokenizer_config.json": config}
    with contextlib.suppress(CheckpointError):
        assert isinstance(from_folder(write(tmp_path_factory.mktemp("any"), files)), Tokenizer)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="Windows has no FIFO")
@pytest.mark.parametrize("name", ["vocab.json", "merges.txt"])
def test_a_pipe_in_place_of_a_file_is_refused_and_not_waited_for(tmp_path: Path, name: str) -> None:
    write(tmp_path, pair())
    (tmp_path / name).unlink()
    os.mkfifo(tmp_path / name)
    with pytest.raises(CheckpointError, match="a folder or a device, expected a file"):
        from_folder(tmp_path)


def test_a_huge_file_is_refused_before_it_is_read(tmp_path: Path) -> None:
    write(tmp_path, pair())
    os.truncate(tmp_path / "vocab.json", 1 << 40)
    with pytest.raises(CheckpointError, match="1,099,511,627,776 bytes, expected at most 50,000,000"):
        from_folder(tmp_path)


def test_an_empty_vocabulary_is_refused(tmp_path: Path) -> None:
    assert error_of(tmp_path, pair("", {})).startswith("vocab.json: no piece has an id, expected a vocabulary")


# ---- GPT-2's own


@pytest.fixture(scope="module")
def gpt2_files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """GPT-2's two files, to the byte."""
    folder = tmp_path_factory.mktemp("gpt2")
    vocabulary.write_vocabulary(gpt2(), folder)
    ids = json.loads((folder / "vocab.json").read_text(encoding="utf-8"))
    (folder / "vocab.json").write_text(json.dumps(ids), encoding="utf-8")
    merges = Path(vocabulary.__file__).parents[1] / "data" / "vocab.bpe"
    assert (folder / "merges.txt").read_bytes() == merges.read_bytes()
    return folder


def test_gpt2s_tokenizer_says_of_itself_what_its_tables_say() -> None:
    made = read_merges(Path(vocabulary.__file__).parents[1] / "data" / "vocab.bpe")
    vocabulary._gpt2_tables.cache_clear()
    told = gpt2()
    assert (len(told), told.n_ordinary, told.special_tokens) == (len(made), made.n_ordinary, made.special_tokens)
    assert vocabulary._gpt2_tables.cache_info().currsize == 0  # nothing of this needed the tables
    assert told.encode("Hello world<|endoftext|>") == made.encode("Hello world<|endoftext|>")
    assert told.encode("Hi<|endoftext|>", allow_special=True) == made.encode("Hi<|endoftext|>", allow_special=True)
    assert told.encode_word(" world") == made.encode_word(" world")
    assert (len(told), told.n_ordinary, told.special_tokens) == (len(made), made.n_ordinary, made.special_tokens)
    assert (told.vocabulary, told.ranks, repr(told)) == (made.vocabulary, made.ranks, repr(made))


@pytest.mark.parametrize("ask", ["encode", "encode_word", "decode", "decode_stream", "pieces"])
def test_gpt2s_tokenizer_is_made_by_whatever_asks_it_first(ask: str, tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "vocab.bpe").write_text("H i\n", encoding="utf-8")
    made = read_merges(tmp_path / "vocab.bpe")
    monkeypatch.setattr(vocabulary, "_GPT2_MERGES", tmp_path / "vocab.bpe")
    monkeypatch.setattr(vocabulary, "_gpt2_tables", cache(vocabulary._gpt2_tables.__wrapped__))
    told = gpt2()
    given: Any = "Hi" if ask.startswith("encode") else [256, 39]
    answers = [getattr(tokenizer, ask)(given) for tokenizer in (told, made)]
    assert list(answers[0]) == list(answers[1])


def test_gpt2s_tokenizer_can_be_copied_before_and_after_its_tables_are_made() -> None:
    vocabulary._gpt2_tables.cache_clear()
    tokenizer = gpt2()
    for _ in range(2):
        for copied in (copy.deepcopy(tokenizer), pickle.loads(pickle.dumps(tokenizer))):
            assert copied.encode("Hello world") == [15496, 995]
        tokenizer.encode("x")
    with pytest.raises(AttributeError):
        _ = tokenizer.wings


@pytest.mark.thorough
def test_gpt2s_own_files_are_told_by_their_bytes(gpt2_files: Path, tmp_path: Path) -> None:
    """vocab.json of the release is what json.dumps writes of its ids, so its hash can be met without a download."""
    found = from_folder(gpt2_files)
    assert type(found) is type(gpt2())
    for file in gpt2_files.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    with (tmp_path / "merges.txt").open("ab") as merges:
        merges.write(b"\n")
    other = from_folder(tmp_path)
    assert type(other) is Tokenizer
    assert other.encode("Hello world") == found.encode("Hello world")


@pytest.mark.thorough
def test_gpt2s_files_with_more_beside_them_are_read_with_it(gpt2_files: Path, tmp_path: Path) -> None:
    for file in gpt2_files.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / "added_tokens.json").write_text('{"<|pad|>": 50257}')
    tokenizer = from_folder(tmp_path)
    assert type(tokenizer) is Tokenizer
    assert len(tokenizer) == 50258
