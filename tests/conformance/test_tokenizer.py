"""The tokenizer beside tiktoken, tokenizers and Transformers: the same ids, on anything."""

import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import tiktoken
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers.models import BPE
from transformers import GPT2TokenizerFast

from numgpt.checkpoint.pieces import spellings
from numgpt.checkpoint.vocabulary import from_folder, gpt2, read_tokenizer_json, read_vocabulary
from numgpt.fast.tokenizer import Tokenizer

GPT2 = gpt2()
PATTERN = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
TIKTOKEN = tiktoken.Encoding("gpt2", pat_str=PATTERN, mergeable_ranks=dict(GPT2.vocabulary), special_tokens={})
SPELT = {byte: char for char, byte in spellings().items()}
ALL = [chr(i) for i in range(0x110000) if not 0xD800 <= i <= 0xDFFF]


def spell(piece: bytes) -> str:
    return "".join(SPELT[bytes([byte])] for byte in piece)


def spelt(tokenizer: Tokenizer) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """The vocabulary and the merges as the files of Transformers have them."""
    vocabulary = {spell(piece): i for piece, i in tokenizer.vocabulary.items()} | tokenizer.special_tokens
    return vocabulary, [(spell(left), spell(right)) for left, right in tokenizer.ranks]


def peer_of(tokenizer: Tokenizer, add_prefix_space: bool = False) -> Any:
    vocabulary, merges = spelt(tokenizer)
    peer = tokenizers.Tokenizer(BPE(vocabulary, merges))
    peer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=add_prefix_space)
    peer.decoder = tokenizers.decoders.ByteLevel()
    return peer


PEER = peer_of(GPT2)

POOLS = [
    "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ    ",
    "'s't're've'm'll'd'S'T'RE srevmltd’s’re  ",
    " \t\n\r\x0b\x0c\x1c\x1d\x1e\x1f\x85\u00a0\u1680\u180e\u2000\u200a\u200b\u2028\u2029\u202f\u205f\u3000\ufeff  a!",
    "0123456789 ٠١٢٣٤٥٦٧٨٩ ०१२३४५६७८९ ０１２ ²³¼½Ⅷ①㊿ 〇一二 𝟘𝟙𝟚 𐄇 ",
    "!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~ «»‘’“”…—–‰€™  ",
    "àéîõüçñßæøåÀÉÎÕÜÇÑœŒ ÿª º µ aeiou  'st",
    "привет как дела ЁЖЩ їєґ  ",
    "שלום עולם אבגד ְִֶ  ",
    "مرحبا بالعالم ء ّ ً  ",
    "नमस्ते दुनिया कि की  ",
    "สวัสดีชาวโลก ำ ้  ",
    "你好世界，今天天气。ひらがなカタカナ漢字ー々  ",
    "안녕하세요 세계 ᄀ각  ",
    "👨‍👩‍👧‍👦👩🏽‍🚀🏳️‍🌈🇩🇪🤗😀❤️☺︎#️⃣  a1",
    "e\u0301a\u0308n\u0303 \u200d\u200c\u200e\u202e\u2066\u00ad\ufe0f\U000e0041\U000e007f x",
    "\x00\x01\x07\x08\x1b\x7f\x80\x9f a1",
    "𐍈𐌰 𝔘𝔫𝔦𝔠𝔬𝔡𝔢 𓀀𓁐 𞤀𞤁 𠀀𪚥 \U00010d4a\U000323b0\U0003d000 ",
]


def some_texts(count: int, seed: int) -> Iterator[str]:
    """Texts of one script, of several, and of any code points at all, with runs of one character among them."""
    rng = random.Random(seed)
    for _ in range(count):
        kind = rng.random()
        pool: Any = ALL if kind < 0.15 else ALL[:0x3000] if kind < 0.3 else rng.choice(POOLS)
        if kind > 0.8:
            pool = "".join(rng.sample(POOLS, 3))
        characters = rng.choices(pool, k=rng.choice([1, 2, 3, 5, 10, 20, 50, 100]))
        if rng.random() < 0.3:
            at = rng.randrange(len(characters))
            characters[at] *= rng.choice([2, 3, 10, 70, 300])
        yield "".join(characters)


def assert_same(text: str, ids: list[int], others: list[int]) -> None:
    if ids != others:
        pytest.fail(f"{text!r}\nours   {GPT2.pieces(ids)}\ntheirs {GPT2.pieces(others)}")


def test_a_hundred_thousand_texts_give_the_ids_of_tiktoken() -> None:
    for text in some_texts(100_000, seed=1):
        assert_same(text, GPT2.encode(text), TIKTOKEN.encode_ordinary(text))


def test_texts_give_the_ids_of_tokenizers() -> None:
    texts = list(some_texts(20_000, seed=2))
    for text, other in zip(texts, PEER.encode_batch_fast(texts), strict=True):
        assert_same(text, GPT2.encode(text), other.ids)
        assert GPT2.decode(other.ids) == text


def test_every_code_point_is_classed_as_both_peers_class_it() -> None:
    """Merges of a letter, a digit, a sign and a line end with each byte show which of them a character goes with."""
    shown = Tokenizer([(left, bytes([i])) for left in (b"a", b"1", b"!", b"\n") for i in range(256)])
    peer = peer_of(shown)
    other = tiktoken.Encoding("shown", pat_str=PATTERN, mergeable_ranks=dict(shown.vocabulary), special_tokens={})
    for start in range(0, len(ALL), 512):
        texts = [f"a{c}1{c}!{c}\n{c}\n" for c in ALL[start : start + 512]]
        peers = [other.encode_ordinary]
        if start % 8192 == 0 or start < 0x40000:  # above there is no letter; this peer is slow, a sample must do
            peers.append(lambda text: peer.encode(text).ids)
        for encode in peers:
            if shown.encode("".join(texts)) != encode("".join(texts)):
                for text in texts:
                    assert shown.encode(text) == encode(text), repr(text)
                pytest.fail(f"{texts[0]!r} and those after it differ when put together only")


def test_code_points_alone_give_the_ids_of_both_peers() -> None:
    characters = ALL[:0x3000] + ALL[0x3000::16]
    for c, other in zip(characters, PEER.encode_batch_fast(characters), strict=True):
        ids = GPT2.encode(c)
        assert_same(c, ids, other.ids)
        assert_same(c, ids, TIKTOKEN.encode_ordinary(c))


def test_long_texts_give_the_ids_of_both_peers() -> None:
    rng = random.Random(3)
    for text in (
        "a" * 50_000,
        " " * 50_000 + "b",
        "\n" * 9_999,
        "'" * 9_999 + "re",
        "".join(rng.choices("abcdefgh", k=50_000)),
        "".join(rng.choices("!?.,;", k=50_000)),
        "".join(rng.choices(ALL, k=50_000)),
        "".join(some_texts(2_000, seed=4)),
    ):
        ids = GPT2.encode(text)
        assert ids == TIKTOKEN.encode_ordinary(text)
        assert ids == PEER.encode(text).ids


def test_any_ids_decode_as_tiktoken_decodes_them() -> None:
    rng = random.Random(5)
    for _ in range(5_000):
        ids = rng.choices(range(rng.choice([256, 50256])), k=rng.randrange(12))
        assert GPT2.decode(ids) == TIKTOKEN.decode(ids) == "".join(GPT2.decode_stream(ids))


bytes_of_ab = st.binary(min_size=1, max_size=3).map(lambda b: bytes(b"ab c"[x % 4] for x in b))


@settings(max_examples=1000)
@given(st.lists(st.tuples(bytes_of_ab, bytes_of_ab), max_size=25), st.lists(st.text("ab c", max_size=30), max_size=5))
def test_handmade_merges_give_the_ids_of_tokenizers(merges: list[tuple[bytes, bytes]], texts: list[str]) -> None:
    pieces = dict.fromkeys([*(bytes([i]) for i in range(256)), *(x for p in merges for x in (*p, b"".join(p)))])
    tokenizer = Tokenizer(merges, {piece: i for i, piece in enumerate(pieces)})
    vocabulary = {spell(piece): i for i, piece in enumerate(pieces)}
    peer = tokenizers.Tokenizer(BPE(vocabulary, [(spell(left), spell(right)) for left, right in merges]))
    peer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    for text in (*texts, "abcab" * 20 + " " + "aab" * 30):
        assert tokenizer.encode(text) == peer.encode(text).ids


# ---- files, added and special tokens

flags = st.booleans()
added_token = st.builds(
    tokenizers.AddedToken,
    st.sampled_from(["<a>", "<ab>", "a", "ab", "b c", "<|endoftext|>", " x", "x ", "\n", "é", "!", "hello", "[PAD]"]),
    lstrip=flags,
    rstrip=flags,
    normalized=flags,
    special=flags,
)
text_with_added = st.lists(
    st.sampled_from(
        ["<a>", "<ab>", "a", "ab", "b c", "<|endoftext|>", " ", "\n", "é", "!", "hello", "[PAD]", "\u3000", "x"]
    )
).map("".join)
SMALL = Tokenizer([(b"a", b"b"), (b" ", b"a"), (b"l", b"l"), (b"he", b"ll"), (b"h", b"e"), (b" ", b" ")])


@settings(max_examples=500)
@given(
    st.lists(added_token, max_size=5, unique_by=lambda token: token.content),
    flags,
    st.lists(text_with_added, min_size=1, max_size=8),
)
def test_added_tokens_are_found_as_tokenizers_finds_them(
    tmp_path_factory: pytest.TempPathFactory, added: list[Any], prefix: bool, texts: list[str]
) -> None:
    peer = peer_of(SMALL, add_prefix_space=prefix)
    peer.add_tokens(added)
    path = tmp_path_factory.mktemp("added") / "tokenizer.json"
    peer.save(str(path))
    tokenizer = read_tokenizer_json(path)
    for text in texts:
        peer.encode_special_tokens = False
        ids = tokenizer.encode(text, allow_special=True)
        assert ids == peer.encode(text).ids
        peer.encode_special_tokens = True
        assert tokenizer.encode(text) == peer.encode(text).ids


def save_pair(folder: Path, **more: Any) -> Path:
    vocabulary, merges = spelt(GPT2)
    (folder / "vocab.json").write_text(json.dumps(vocabulary, ensure_ascii=False), encoding="utf-8")
    lines = ["#version: 0.2", *map(" ".join, merges), ""]
    (folder / "merges.txt").write_text("\n".join(lines), encoding="utf-8")
    for name, content in more.items():
        (folder / f"{name}.json").write_text(json.dumps(content), encoding="utf-8")
    return folder


def assert_same_as_transformers(folder: Path, peer: Any, texts: list[str]) -> None:
    tokenizer = from_folder(folder)
    assert tokenizer is not None
    assert len(tokenizer) == len(peer)
    for text in texts:
        ids = tokenizer.encode(text, allow_special=True)
        assert ids == peer(text, add_special_tokens=False)["input_ids"]
        assert tokenizer.decode(ids) == peer.decode(ids, clean_up_tokenization_spaces=False)
        assert tokenizer.encode(text) == peer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]


TEXTS = [
    "Hello world",
    " Hello world",
    "Hello<|endoftext|>world <|endoftext|> x",
    "foo<x> <x>  bar [PAD] 日本<mask> <mask>",
    "\n foo",
    "[PAD][PAD]<|endoftext|><|endoftext|> foofoo",
    "",
]


@pytest.mark.parametrize("prefix", [False, True])
@pytest.mark.parametrize("own", [True, False])
def test_what_transformers_saves_reads_as_transformers_reads_it(tmp_path: Path, prefix: bool, own: bool) -> None:
    first = GPT2TokenizerFast.from_pretrained(save_pair(tmp_path), add_prefix_space=prefix)
    if own:
        first.add_tokens(["foo", tokenizers.AddedToken("<x>", lstrip=True, rstrip=True)])
        first.add_special_tokens({"pad_token": "[PAD]", "mask_token": tokenizers.AddedToken("<mask>", lstrip=True)})
    saved = tmp_path / "saved"
    first.save_pretrained(saved)
    assert (saved / "tokenizer.json").exists()
    assert_same_as_transformers(saved, GPT2TokenizerFast.from_pretrained(saved), TEXTS)


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"tokenizer_config": {"add_prefix_space": True}},
        {
            "added_tokens": {"<x>": 50257, "[PAD]": 50258},
            "special_tokens_map": {"pad_token": "[PAD]", "eos_token": "<|endoftext|>"},
        },
        {
            "tokenizer_config": {
                "added_tokens_decoder": {
                    "50256": {"content": "<|endoftext|>", "normalized": True, "special": True},
                    "50257": {"content": "<x>", "lstrip": True, "special": False},
                    "50258": {"content": "[PAD]", "rstrip": True, "special": True},
                },
                "pad_token": "[PAD]",
                "tokenizer_class": "GPT2Tokenizer",
            }
        },
    ],
    ids=["plain", "prefix", "legacy", "decoder"],
)
def test_the_pair_with_its_configs_reads_as_transformers_reads_it(tmp_path: Path, more: Any) -> None:
    folder = save_pair(tmp_path, **more)
    assert_same_as_transformers(folder, GPT2TokenizerFast.from_pretrained(folder), TEXTS)


def test_the_vocabulary_that_follows_from_the_merges_is_the_one_of_the_files(tmp_path: Path) -> None:
    folder = save_pair(tmp_path)
    tokenizer = read_vocabulary(folder / "vocab.json", folder / "merges.txt")
    assert tokenizer.vocabulary == GPT2.vocabulary
    peer = GPT2TokenizerFast.from_pretrained(folder)
    assert len(peer) == 50257
    assert peer.eos_token_id == GPT2.special_tokens["<|endoftext|>"] == 50256
