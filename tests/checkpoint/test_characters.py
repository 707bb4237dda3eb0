"""meta.pkl of nanoGPT: text to ids and back character by character, and nothing but plain values out of it."""

import collections
import pickle

import numpy as np
import pytest
from support import pickles
from support.checkpoints import hub_tensors
from support.readers import fault

import numgpt
from numgpt.checkpoint.characters import read_characters
from numgpt.checkpoint.export import convert
from numgpt.errors import CheckpointError, TokenError
from numgpt.model import tokenizer_of

ALPHABET = sorted(set("\n !'abdehiknot\u00e9\u20ac\U0001f917"))
META = {
    "vocab_size": len(ALPHABET),
    "itos": dict(enumerate(ALPHABET)),
    "stoi": {character: i for i, character in enumerate(ALPHABET)},
}
TEXT = "no, the caf\u00e9's \u20ac \U0001f917!\n".translate({ord(c): None for c in ",cfs"})


def write_nanogpt(path, vocab_size):
    """A ckpt.pt, whose matrices are [out, in]."""
    matrices = ("c_attn.weight", "c_proj.weight", "c_fc.weight")
    tensors = hub_tensors(vocab_size=vocab_size, n_inner=24)
    code, storages = {}, {}
    for name, x in tensors.items():
        x = np.ascontiguousarray(x.T) if name.endswith(matrices) else x
        strides = tuple(step // x.itemsize for step in x.strides)
        code[f"transformer.{name}"] = pickles.tensor(pickles.storage("F32", name, x.size), x.shape, strides)
        storages[name] = x.tobytes()
    sizes = {"n_layer": 2, "n_head": 2, "n_embd": 6, "block_size": 7, "bias": True, "vocab_size": vocab_size}
    path.write_bytes(pickles.archive({"model": code, "model_args": sizes, "iter_num": 7}, storages))
    return path


def meta(folder, values, protocol=4):
    path = folder / "meta.pkl"
    path.write_bytes(values if isinstance(values, bytes) else pickle.dumps(values, protocol=protocol))
    return path


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("keys", [("stoi", "itos", "vocab_size"), ("stoi",), ("itos",)])
def test_each_character_has_its_id(tmp_path, protocol, keys):
    tokenizer = read_characters(meta(tmp_path, {key: META[key] for key in keys}, protocol))
    ids = [ALPHABET.index(character) for character in TEXT]
    assert tokenizer.encode(TEXT) == ids
    assert tokenizer.decode(ids) == TEXT
    assert "".join(tokenizer.decode_stream(ids)) == TEXT
    assert len(tokenizer) == tokenizer.n_ordinary == len(ALPHABET)
    assert tokenizer.encode("") == []


@pytest.mark.parametrize("itos", [["a", "b"], {"0": "a", "1": "b"}, collections.OrderedDict({0: "a", 1: "b"})])
def test_the_table_of_ids_may_be_a_list_or_have_its_ids_as_text(tmp_path, itos):
    assert read_characters(meta(tmp_path, {"itos": itos})).encode("ba") == [1, 0]


def test_texts_of_several_characters_are_found_the_longest_first(tmp_path):
    ids = {"a": 0, "ab": 1, "<|endoftext|>": 2, " ": 3}
    tokenizer = read_characters(meta(tmp_path, {"stoi": ids}))
    assert tokenizer.encode("aab a") == [0, 1, 3, 0]
    assert tokenizer.encode("a<|endoftext|>", allow_special=True) == [0, 2]
    with pytest.raises(TokenError, match="the text has 'b', expected one of the 4 characters"):
        tokenizer.encode("a b")


@pytest.mark.parametrize("text", ["The", "a\u20acT", "T"])
def test_a_character_that_the_model_lacks_is_named(tmp_path, text):
    with pytest.raises(TokenError, match="the text has 'T', expected one of the 17 characters of this model"):
        read_characters(meta(tmp_path, META)).encode(text.replace("e", "a"))
    with pytest.raises(TokenError, match="lone surrogate"):
        read_characters(meta(tmp_path, META)).encode("a\ud800")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (b"cposix\nsystem\n(S'touch pwned'\ntR.", "posix.system"),
        (pickle.dumps({"stoi": {"a": 0}, "x": np.float64}), "numpy"),
        ({"vocab_size": 3}, "expected a dict with stoi and itos"),
        ([1], "expected a dict with stoi and itos"),
        ({"stoi": {}}, "stoi is {}, expected a table"),
        ({"stoi": ["a"]}, "stoi is ['a'], expected a table"),
        ({"stoi": {"a": True}}, "stoi has the pair ('a', True), expected a text and its id"),
        ({"stoi": {"a": -1}}, "stoi has the pair ('a', -1)"),
        ({"stoi": {"a": 1 << 31}}, "stoi has the pair ('a', 2147483648)"),
        ({"stoi": {"": 0}}, "stoi has the pair ('', 0)"),
        ({"stoi": {0: "a"}}, "stoi has the pair (0, 'a')"),
        ({"stoi": {"a": 0, "b": 0}}, "stoi has 2 texts and 1 ids, expected one each"),
        ({"itos": {0: "a", 1: "a"}}, "itos has 'a' at 1, expected a text of its own for each id"),
        ({"itos": {0: 1}}, "itos has 1 at 0"),
        ({"itos": "ab"}, "itos is {}, expected a table"),
        ({"stoi": {"a": 0}, "itos": {1: "a"}}, "stoi and itos differ in"),
        (b"", "the pickle is cut"),
    ],
)
def test_what_is_no_alphabet_is_refused_by_name(tmp_path, monkeypatch, values, message):
    monkeypatch.chdir(tmp_path)
    assert message in fault(meta(tmp_path, values), read_characters)
    assert not (tmp_path / "pwned").exists()


def test_no_damage_makes_another_error(tmp_path):
    whole = pickle.dumps(META, protocol=2)
    generator = np.random.default_rng(0)
    for n in range(300):
        raw = bytearray(whole)
        if n % 2:
            del raw[generator.integers(len(raw)) :]
        else:
            raw[generator.integers(len(raw))] ^= 1 << generator.integers(8)
        said = None
        try:
            tokenizer = read_characters(meta(tmp_path, bytes(raw)))
        except CheckpointError as error:
            said = str(error)
        if said is None:
            assert isinstance(tokenizer.decode(range(len(tokenizer))), str)
        else:
            assert "\n" not in said
            assert len(said) < 1000


def test_it_is_the_tokenizer_of_the_checkpoint_beside_it_and_goes_along(tmp_path):
    path = write_nanogpt(tmp_path / "ckpt.pt", len(ALPHABET))
    meta(tmp_path, META)
    target = convert(path, tmp_path / "target")
    assert sorted(file.name for file in target.iterdir()) == ["config.json", "meta.pkl", "model.safetensors"]
    for place in path, tmp_path, target:
        model = numgpt.load(place)
        assert model.config.n_tokens == len(ALPHABET)
        assert model.tokenizer.encode("the") == [ALPHABET.index(character) for character in "the"]
        assert numgpt.complete(model, "the", max_new_tokens=3, seed=1)


def test_a_model_may_be_trained_with_the_characters_of_another(tmp_path):
    (tmp_path / "text.txt").write_text("the one and the other\n".replace("r", "d") * 30, encoding="utf-8")
    meta(tmp_path, META)
    sizes = {"n_layer": 1, "n_head": 1, "n_embd": 4, "block_size": 8, "steps": 2}
    model = numgpt.train(tmp_path / "text.txt", tmp_path / "out", tokenizer=str(tmp_path), **sizes)
    assert tokenizer_of(model).encode("the") == [ALPHABET.index(character) for character in "the"]
    numgpt.train(tmp_path / "text.txt", tmp_path / "out", tokenizer=str(tmp_path), **{**sizes, "steps": 4})


def test_a_bad_one_is_told_where_text_is_needed(tmp_path):
    path = write_nanogpt(tmp_path / "ckpt.pt", 7)
    meta(tmp_path, b"cposix\nsystem\n(S'true'\ntR.")
    model = numgpt.load(path)
    assert numgpt.forward([1], model.params, model.config).shape == (1, 7)
    with pytest.raises(CheckpointError, match="system"):
        numgpt.complete(model, "a")
