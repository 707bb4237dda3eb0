"""`load` finds a checkpoint by path or name and gives its numbers exactly, or says in one message why it can't."""

import copy
import json
import os
import re
import subprocess
import sys
import tracemalloc
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
from support.checkpoints import (
    CONFIG,
    TOKENS,
    bf16,
    hub_tensors,
    layouts,
    masks,
    write_checkpoint,
    write_json,
    write_safetensors,
    write_shards,
    write_tokenizer,
)

import numgpt
from numgpt.checkpoint.reading import open_checkpoint
from numgpt.config import Config
from numgpt.errors import CheckpointError, DownloadError, OptionError, TokenError
from numgpt.fast.tokenizer import Tokenizer
from numgpt.hub.folders import bundled
from numgpt.hub.loading import load, load_tokenizer, locate
from numgpt.hub.registry import KNOWN
from numgpt.model import Model
from numgpt.params import check_params, count_params, leaves

ROOT = Path(__file__).parents[2]
TINY = Config(n_vocab=11, n_ctx=7, n_embd=6, n_head=2, n_layer=2, n_inner=10, eos_token_id=None)
LAYOUTS = layouts(hub_tensors())


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    """Each test runs in an empty folder, with an empty folder of checkpoints."""
    (tmp_path / "cwd").mkdir()
    (tmp_path / "weights").mkdir()
    monkeypatch.chdir(tmp_path / "cwd")
    monkeypatch.setenv("NUMGPT_WEIGHTS", str(tmp_path / "weights"))


def message(name_or_path, error=CheckpointError, **kwargs):
    with pytest.raises(error) as caught:
        load(name_or_path, **kwargs)
    return str(caught.value)


def hub_names(params):
    """The Hub's names of a tree: written anew, so that the table of names.py is not its own judge."""

    def rename(path):
        return re.sub(r"\.[wg]$", ".weight", re.sub(r"\.b$", ".bias", path if "." in path else f"{path}.weight"))

    return {rename(path): x for path, x in leaves(params)}


def expect(model, tensors=None, dtype=np.float32):
    tensors = hub_tensors() if tensors is None else tensors
    found = hub_names(model.params)
    assert sorted(found) == sorted(tensors)
    for name, x in tensors.items():
        np.testing.assert_array_equal(found[name], x.astype(dtype), strict=True, err_msg=name)


# --- by path


@pytest.mark.parametrize("old", [False, True])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_of_the_hub_loads_bit_for_bit(tmp_path, layout, old):
    model = load(write_checkpoint(tmp_path / "m", LAYOUTS[layout], old=old))
    expect(model)
    assert model.config == TINY
    assert model.tokenizer is None


def test_bits_are_kept_that_arithmetic_would_lose(tmp_path):
    tensors = hub_tensors()
    odd = np.array([-0.0, np.inf, np.nan, 1e-45, 3.4e38, 1 + 2**-23], np.float32)
    odd.view(np.uint32)[2] = 0x7FC12345  # a NaN with a payload
    tensors["ln_f.bias"] = odd
    model = load(write_checkpoint(tmp_path / "m", tensors))
    np.testing.assert_array_equal(model.params["ln_f"]["b"].view(np.uint32), odd.view(np.uint32))


@pytest.mark.parametrize("how", [str, Path, os.fspath])
def test_a_folder_and_its_file_load_the_same(tmp_path, how):
    folder = write_checkpoint(tmp_path / "m")
    for path in (folder, folder / "model.safetensors"):
        model = load(how(path))
        assert isinstance(model, Model)
        assert model._fields == ("config", "params", "tokenizer")
        expect(model)
        assert model.config == TINY


def test_a_relative_path_is_found(tmp_path):
    write_checkpoint(tmp_path / "cwd" / "m")
    expect(load("m"))
    expect(load("./m"))
    expect(load("m/model.safetensors"))
    expect(load(os.path.join("..", "cwd", "m")))


def test_a_file_of_another_name_loads_by_itself_and_as_the_only_one_of_its_folder(tmp_path):
    folder = write_checkpoint(tmp_path / "m", name="step-500.safetensors")
    expect(load(folder))
    expect(load(folder / "step-500.safetensors"))


def test_shards_load_by_folder_and_by_index(tmp_path):
    folder = write_shards(tmp_path / "m", LAYOUTS["gpt2"])
    expect(load(folder))
    expect(load(folder / "model.safetensors.index.json"))
    assert open_checkpoint(folder).weights.name == "model.safetensors.index.json"


def test_model_safetensors_counts_before_an_index_and_before_other_files(tmp_path):
    folder = write_shards(tmp_path / "m", hub_tensors(seed=1))
    write_safetensors(folder / "model.safetensors", hub_tensors(seed=2))
    expect(load(folder), hub_tensors(seed=2))


def test_a_shard_alone_is_not_the_model(tmp_path):
    folder = write_shards(tmp_path / "m", hub_tensors())
    assert "does not fit its configuration: missing: " in message(folder / "model-00001-of-00003.safetensors")


def test_several_files_without_an_index_are_not_guessed_from(tmp_path):
    folder = write_checkpoint(tmp_path / "m", name="b.safetensors")
    write_safetensors(folder / "a.safetensors", hub_tensors())
    assert message(folder) == (
        f"{folder}: found a.safetensors, b.safetensors, expected one file of weights: give the path of one"
    )
    expect(load(folder / "a.safetensors"))


def test_a_folder_without_weights_says_so(tmp_path):
    folder = tmp_path / "m"
    folder.mkdir()
    assert message(folder).startswith(f"{folder}: no weights, expected one of model.safetensors, ")
    write_json(folder / "config.json", CONFIG)
    assert message(folder).startswith(f"{folder}: no weights, expected one of model.safetensors, ")


def test_the_weights_of_another_model_are_named_with_their_file(tmp_path):
    folder = write_checkpoint(tmp_path / "m", {"bert.weight": np.zeros(2, np.float32)}, CONFIG | {"n_layer": 1})
    shown = "missing: 16 tensors, such as wte, wpe, h.0.ln_1.g; left over: bert.weight"
    expected = f"{folder / 'model.safetensors'} does not fit its configuration: {shown}"
    assert message(folder) == f"{expected}: `numgpt inspect --json` lists them all"


# --- the config beside the weights


def test_a_folder_without_config_is_asked_for_what_no_tensor_tells(tmp_path):
    folder = write_checkpoint(tmp_path / "m")
    (folder / "config.json").unlink()
    expected = (
        f"{folder / 'config.json'}: no such file: nothing says n_head, the number of heads, which no tensor tells: "
        f"add --set n_head=N to the command (in Python n_head=N), where N divides the width, 6"
    )
    assert message(folder) == expected
    assert message(folder / "model.safetensors") == expected
    model = load(folder, n_head=2)
    expect(model)
    assert model.config == TINY


def test_a_folder_of_another_model_without_config_says_what_that_is_for(tmp_path):
    folder = write_checkpoint(tmp_path / "m", {"bert.weight": np.zeros(2, np.float32)})
    (folder / "config.json").unlink()
    expected = f"{folder / 'config.json'}: no such file, expected it beside the weights, for the sizes of the model"
    assert message(folder) == expected
    assert message(folder / "model.safetensors") == expected


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "Expecting value"),
        (b"{", "Expecting property name"),
        (b"\xff\xfe\xfd", "codec can't decode"),
        (b'{"n_embd": ' + b"9" * 5000 + b"}", "Exceeds the limit"),
        (b"[" * 100_000, "while decoding a JSON array"),
    ],
)
def test_a_damaged_config_is_no_json(tmp_path, data, reason):
    folder = write_checkpoint(tmp_path / "m")
    (folder / "config.json").write_bytes(data)
    text = message(folder)
    assert text.startswith(f"{folder / 'config.json'}: not JSON (")
    assert reason in text


@pytest.mark.parametrize("values", [[], "gpt2", CONFIG | {"model_type": "imagegpt"}, CONFIG | {"n_embd": 7}])
def test_a_wrong_config_is_named_with_its_path(tmp_path, values):
    folder = write_checkpoint(tmp_path / "m", config=values)
    assert message(folder).startswith(f"{folder / 'config.json'}: ")


def test_a_config_with_a_byte_order_mark_is_read(tmp_path):
    folder = write_checkpoint(tmp_path / "m")
    (folder / "config.json").write_bytes(b"\xef\xbb\xbf" + json.dumps(CONFIG).encode())
    expect(load(folder))


def test_the_switches_of_the_config_reach_the_model(tmp_path):
    config = CONFIG | {"activation_function": "gelu", "scale_attn_by_inverse_layer_idx": True, "eos_token_id": 3}
    model = load(write_checkpoint(tmp_path / "m", config=config))
    assert model.config == TINY._replace(
        activation_function="gelu", scale_attn_by_inverse_layer_idx=True, eos_token_id=3
    )


def test_a_stored_head_that_differs_reaches_the_logits(tmp_path):
    tensors = hub_tensors()
    head = -tensors["wte.weight"]
    untied = load(write_checkpoint(tmp_path / "untied", tensors | {"lm_head.weight": head}))
    assert untied.config == TINY._replace(tie_word_embeddings=False)
    tied = load(write_checkpoint(tmp_path / "tied", tensors))
    one, other = (numgpt.forward([1, 2, 3], m.params, m.config) for m in (tied, untied))
    np.testing.assert_allclose(one, -other, rtol=1e-6)


# --- by name


def test_a_name_is_looked_up_in_the_folder_of_checkpoints(tmp_path):
    write_checkpoint(tmp_path / "weights" / "gpt2", hub_tensors(seed=1))
    write_checkpoint(tmp_path / "weights" / "owner" / "name", hub_tensors(seed=2))
    expect(load("gpt2"), hub_tensors(seed=1))
    expect(load("owner/name"), hub_tensors(seed=2))


def test_a_path_counts_before_the_folder_of_checkpoints(tmp_path):
    write_checkpoint(tmp_path / "weights" / "gpt2", hub_tensors(seed=1))
    write_checkpoint(tmp_path / "cwd" / "gpt2", hub_tensors(seed=2))
    expect(load("gpt2"), hub_tensors(seed=2))


def test_the_bundled_model_counts_before_the_folder_of_checkpoints(tmp_path):
    write_checkpoint(tmp_path / "weights" / "storyteller")
    assert locate("storyteller") == bundled()
    assert load("storyteller").config.n_vocab == 4096


def test_a_path_counts_before_the_bundled_model(tmp_path):
    write_checkpoint(tmp_path / "cwd" / "storyteller")
    expect(load("storyteller"))


@pytest.mark.parametrize("name", ["gpt5", "", "a\0b", "\ud800", "no/such/folder", "x/../y", "C:\\gpt2", "~nobody"])
def test_a_name_that_is_nowhere_says_where_it_was_looked_for_and_what_to_do(tmp_path, name):
    assert message(name) == (
        f"no checkpoint {name!r}: no such file or folder, not in {tmp_path / 'weights'}, and no name of one to "
        f"download; `numgpt models` lists what is known and at hand"
    )


@pytest.mark.parametrize("name", ["gpt2", "owner/name", "124M"])
def test_a_name_that_could_be_downloaded_is_refused_without_a_network(name):
    with pytest.raises(DownloadError, match="HF_HUB_OFFLINE is set") as caught:
        load(name)
    assert ("owner/name: no such file or folder here" in str(caught.value)) == (name == "owner/name")


@pytest.mark.parametrize("name", ["x" * 5000, "y/" * 5000, "é" * 300])
def test_a_name_too_long_for_a_path_is_nowhere_too(name):
    text = message(name)
    assert text.startswith(f"no checkpoint {repr(name)[:200]}: no such file or folder, not in ")
    assert len(text) < 1000


@pytest.mark.parametrize("name", [".", ".."])
def test_a_folder_that_is_no_checkpoint_is_not_looked_for_elsewhere(name):
    assert message(name).startswith(f"{name}: no weights, expected one of model.safetensors, ")


def test_the_folder_itself_is_no_name(tmp_path):
    write_checkpoint(tmp_path / "weights")
    write_checkpoint(tmp_path / "cwd")
    assert message("").startswith("no checkpoint ''")


# --- dtypes


def stored_as(dtype):
    tensors = hub_tensors()
    if dtype == "bfloat16":
        return {name: bf16(x) for name, x in tensors.items()}
    return {name: x.astype(dtype) for name, x in tensors.items()}


@pytest.mark.parametrize(
    ("stored", "asked", "expected"),
    [
        ("float32", None, "float32"),
        ("float16", None, "float32"),
        ("bfloat16", None, "float32"),
        ("float64", None, "float64"),
        ("float32", "float64", "float64"),
        ("bfloat16", np.float64, "float64"),
        ("float64", np.dtype("float32"), "float32"),
        ("float64", np.float32, "float32"),
        ("float16", float, "float64"),
        ("float32", ">f4", "float32"),
    ],
)
def test_floats_stay_halves_are_widened_and_another_dtype_converts(tmp_path, stored, asked, expected):
    folder = write_checkpoint(tmp_path / "m", stored_as(stored))
    model = load(folder) if asked is None else load(folder, dtype=asked)
    expect(model, dtype=np.dtype(expected))
    check_params(model.params, model.config)


def test_a_file_of_mixed_halves_becomes_float32(tmp_path):
    kinds = [stored_as(dtype) for dtype in ("float32", "float16", "bfloat16")]
    mixed = {name: kinds[i % 3][name] for i, name in enumerate(hub_tensors())}
    expect(load(write_checkpoint(tmp_path / "m", mixed)))


def test_a_file_with_a_float64_in_it_becomes_float64(tmp_path):
    mixed = stored_as("float16") | {"wpe.weight": hub_tensors()["wpe.weight"].astype(np.float64)}
    expect(load(write_checkpoint(tmp_path / "m", mixed)), dtype=np.float64)


@pytest.mark.parametrize("dtype", ["float16", "int32", np.int64, "bfloat16", "F32", bool, complex, object, 32, "", []])
def test_another_dtype_is_refused_before_anything_is_looked_for(dtype):
    expected = f"dtype is {dtype!r}, expected float32 or float64, or None for that of the file"
    assert message("no such model", OptionError, dtype=dtype) == expected


@pytest.mark.parametrize("dtype", ["float32,,float64", {"names": []}, "\ud800"])
def test_what_is_no_dtype_at_all_is_refused_too(dtype):
    with pytest.raises(OptionError):
        load("no such model", dtype=dtype)


def test_a_parameter_of_integers_is_refused_by_name(tmp_path):
    tensors = hub_tensors()
    tensors["wpe.weight"] = tensors["wpe.weight"].astype(np.int32)
    assert message(write_checkpoint(tmp_path / "m", tensors)).endswith(
        "does not fit its configuration: wpe: dtype I32, expected one of F16, BF16, F32, F64"
    )


# --- arrays and memory


@pytest.mark.parametrize("dtype", [None, "float64"])
@pytest.mark.parametrize("stored", ["float32", "float16", "float64"])
def test_parameters_are_ready_for_the_math_and_nobody_elses(tmp_path, stored, dtype):
    model = load(write_checkpoint(tmp_path / "m", stored_as(stored), old=True), dtype=dtype)
    arrays = [x for _, x in leaves(model.params)]
    for x in arrays:
        assert x.flags.forc
        assert x.flags.aligned
        assert x.flags.writeable
        assert x.dtype.isnative
    assert not any(np.shares_memory(a, b) for i, a in enumerate(arrays) for b in arrays[:i])
    arrays[0][:] = 7
    assert np.all(model.params["wte"] == 7)
    assert not np.any(load(tmp_path / "m").params["wte"] == 7)


def test_a_model_outlives_its_files(tmp_path):
    folder = write_checkpoint(tmp_path / "m")
    model = load(folder)
    (folder / "model.safetensors").write_bytes(b"")
    expect(model)


# The largest tensors are those that are read last, when all others are held.
BIG = {"vocab_size": 2000, "n_positions": 800, "n_embd": 128, "n_layer": 1, "n_inner": 6000}


@pytest.mark.parametrize("kind", ["F32 and masks", "F16", "BF16", "F32 and a copy of wte"])
def test_loading_takes_hardly_more_memory_than_the_parameters(tmp_path, kind):
    tensors = hub_tensors(**BIG)
    count = sum(x.size for x in tensors.values())
    if kind == "F32 and masks":
        tensors |= masks(1, 800)  # 2.6 MB
    elif kind == "F16":
        tensors = {name: x.astype(np.float16) for name, x in tensors.items()}
    elif kind == "BF16":
        tensors = {name: bf16(x) for name, x in tensors.items()}
    else:
        tensors |= {"lm_head.weight": tensors["wte.weight"]}
    folder = write_checkpoint(tmp_path / "m", tensors, CONFIG | BIG)
    del tensors
    load(folder)  # whatever is imported or cached the first time
    tracemalloc.start()
    model = load(folder)
    held, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert count_params(model.config) == count > 1_900_000
    assert held < 4 * count + 300_000
    turned = 4 * BIG["n_inner"] * BIG["n_embd"]  # read as it is stored, and then laid out by columns
    assert peak < 1.1 * 4 * count + turned + 1_000_000


def test_a_config_that_claims_to_be_huge_costs_nothing(tmp_path):
    for change in ({"n_layer": 10**9}, {"n_embd": 2 * 10**18}):
        folder = write_checkpoint(tmp_path / "m", config=CONFIG | change)
        tracemalloc.start()
        message(folder)
        assert tracemalloc.get_traced_memory()[1] < 1e6
        tracemalloc.stop()


@pytest.mark.parametrize("change", [{"vocab_size": 10**12}, {"n_positions": 10**18}, {"n_inner": 10**30}])
def test_the_rows_of_a_table_count_whatever_a_config_says(tmp_path, change):
    model = load(write_checkpoint(tmp_path / "m", config=CONFIG | change))
    expect(model)
    assert model.config == TINY


def test_no_data_is_read_of_a_file_that_does_not_fit(tmp_path, monkeypatch):
    folder = write_checkpoint(tmp_path / "m", hub_tensors() | {"extra.weight": np.zeros((2, 6), np.float32)})
    monkeypatch.setattr("numgpt.checkpoint.safetensors.read_array", lambda *args: pytest.fail("a tensor was read"))
    assert message(folder).endswith("left over: extra.weight")


# --- the tokenizer beside the weights


def with_tokenizer(folder, vocab_size, tensors=None, added=(), **config):
    tensors = hub_tensors(vocab_size=vocab_size) if tensors is None else tensors
    write_checkpoint(folder, tensors, CONFIG | {"vocab_size": vocab_size, **config})
    return write_tokenizer(folder, added)


def test_the_tokenizer_of_a_folder_comes_along(tmp_path):
    model = load(with_tokenizer(tmp_path / "m", TOKENS, eos_token_id=257))
    assert isinstance(model.tokenizer, Tokenizer)
    assert model.tokenizer.encode("hi!<|endoftext|>", allow_special=True) == [256, 0, 257]
    assert model.config.n_tokens == TOKENS
    assert model.config.eos_token_id == 257


def test_it_comes_along_with_a_file_too(tmp_path):
    model = load(with_tokenizer(tmp_path / "m", TOKENS) / "model.safetensors")
    assert len(model.tokenizer) == TOKENS


def test_without_tokenizer_files_ids_work(tmp_path):
    model = load(write_checkpoint(tmp_path / "m"))
    assert model.tokenizer is None
    assert model.config.n_tokens is None
    new = list(numgpt.generate([1, 2], model.params, model.config, max_new_tokens=3, seed=0))
    assert len(new) == 3


def error_of_text(model):
    """The logits are there; the message is that of whoever needs the tokenizer, whatever for."""
    assert numgpt.forward([1, 2], model.params, model.config).shape == (2, model.config.n_vocab)
    assert list(numgpt.generate([1, 2], model.params, model.config, max_new_tokens=1, seed=1))
    assert "no tokenizer" in repr(model)
    asked = [
        lambda tokenizer: tokenizer.encode("a"),
        lambda tokenizer: tokenizer.encode_part("a"),
        lambda tokenizer: tokenizer.decode([1]),
        lambda tokenizer: list(tokenizer.decode_stream([1])),
        lambda tokenizer: tokenizer.pieces([1]),
        lambda tokenizer: tokenizer.special_tokens,
        lambda tokenizer: numgpt.complete(model, "a"),
        lambda tokenizer: numgpt.score(model, "a b"),
    ]
    messages = set()
    for ask in asked:
        with pytest.raises(CheckpointError) as caught:
            ask(model.tokenizer)
        messages.add(str(caught.value))
    assert len(messages) == 1
    assert repr(copy.deepcopy(model)) == repr(model)
    return messages.pop()


def test_a_tokenizer_of_another_model_is_refused_where_text_is_needed(tmp_path):
    folder = with_tokenizer(tmp_path / "m", 250)
    assert error_of_text(load(folder)) == (
        f"{folder}: the tokenizer has 257 tokens, but the embedding 250 rows: the tokenizer files are of another model"
    )


@pytest.mark.parametrize(
    ("name", "raw", "kind"),
    [
        ("tokenizer.json", b'{"normalizer": {"type": "BertNormalizer"}, "model": {"type": "WordPiece"}}', "WordPiece"),
        ("tokenizer.json", b'{"model": {"type": "Unigram"}}', "Unigram"),
        ("tokenizer.json", b'{"model": {"type": "WordLevel"}}', "WordLevel"),
        ("tokenizer_config.json", b'{"tokenizer_class": "BertTokenizer"}', "BertTokenizer"),
        ("vocab.json", b"{", "vocab.json: not JSON"),
        ("merges.txt", b"\xff", "merges.txt: byte 0 is not UTF-8"),
    ],
)
def test_a_tokenizer_that_cannot_be_read_is_told_where_text_is_needed(tmp_path, name, raw, kind):
    folder = with_tokenizer(tmp_path / "m", TOKENS)
    (folder / name).write_bytes(raw)
    model = load(folder)
    assert kind in error_of_text(model)
    with pytest.raises(CheckpointError, match=kind):
        load_tokenizer(folder)
    assert load_tokenizer("storyteller").encode("a")  # a tokenizer from elsewhere does


@pytest.mark.parametrize(("name", "kind"), [("vocab.txt", "WordPiece"), ("spiece.model", "SentencePiece")])
def test_another_programs_tokenizer_is_named_where_text_is_needed(tmp_path, name, kind):
    folder = write_checkpoint(tmp_path / "m")
    (folder / name).write_bytes(b"x")
    message = error_of_text(load(folder))
    assert message.startswith(f"{folder}/{name}: is a tokenizer of another kind, {kind}")
    with pytest.raises(CheckpointError, match=kind):
        load_tokenizer(folder)


@pytest.mark.parametrize("special", [True, False])
@pytest.mark.parametrize("rows", [TOKENS, TOKENS + 3])
def test_a_token_without_a_row_keeps_nobody_from_the_others(tmp_path, special, rows):
    folder = with_tokenizer(tmp_path / "m", rows)
    extra = {"content": "<extra>", "special": special}
    tokens = {str(rows + i): {**extra, "content": f"<extra{i}>"} for i in range(40)}
    write_json(folder / "tokenizer_config.json", {"added_tokens_decoder": tokens})
    model = load(folder)
    assert model.config.n_tokens == rows
    assert model.tokenizer.encode("ab") == load(with_tokenizer(tmp_path / "n", rows)).tokenizer.encode("ab")
    ids = model.tokenizer.encode("a<extra7>", allow_special=True)
    assert ids[-1] == rows + 7
    with pytest.raises(TokenError, match=f"is {rows + 7}, expected 0 to {rows - 1}, the vocabulary"):
        numgpt.forward(ids, model.params, model.config)
    new = numgpt.generate([1], model.params, model.config, max_new_tokens=6, seed=1, temperature=9)
    assert max(new, default=0) < rows


@pytest.mark.parametrize(("vocab_size", "n_tokens"), [(257, 257), (258, 258), (259, 259), (260, 259), (320, 259)])
def test_special_tokens_past_the_embedding_are_no_reason_to_refuse(tmp_path, vocab_size, n_tokens):
    model = load(with_tokenizer(tmp_path / "m", vocab_size, added=("<|pad|>",)))
    assert len(model.tokenizer) == 259
    assert model.config.n_tokens == n_tokens


@pytest.mark.parametrize("options", [{"temperature": 0}, {}, {"temperature": 5, "top_k": 3}, {"top_p": 0.9}])
def test_padding_of_the_embedding_is_never_sampled_even_where_its_logits_are_the_largest(tmp_path, options):
    tensors = hub_tensors(vocab_size=TOKENS + 6)
    tensors["ln_f.bias"][:] = 5
    tensors["ln_f.weight"][:] = 0.1
    tensors["wte.weight"][TOKENS:] = 2  # the padding: each logit is about 60
    model = load(with_tokenizer(tmp_path / "m", TOKENS + 6, tensors, n_positions=7))
    logits = numgpt.forward([1, 2], model.params, model.config)
    assert logits.shape == (2, TOKENS + 6)
    assert np.all(logits.argmax(axis=-1) >= TOKENS)
    for seed in range(5):
        new = list(numgpt.generate([1, 2], model.params, model.config, max_new_tokens=5, seed=seed, **options))
        assert len(new) == 5
        assert max(new) < TOKENS
        model.tokenizer.decode(new)


def test_a_tokenizer_is_read_without_weights(tmp_path):
    folder = write_tokenizer(with_tokenizer(tmp_path / "weights" / "mine", TOKENS))
    (folder / "model.safetensors").unlink()
    (folder / "config.json").unlink()
    assert len(load_tokenizer("mine")) == len(load_tokenizer(folder)) == TOKENS
    assert len(load_tokenizer(folder / "vocab.json")) == TOKENS


@pytest.mark.parametrize("name", ["gpt2", "gpt2-xl", "distilgpt2"])
def test_the_tokenizer_of_openais_models_needs_no_file(name):
    assert load_tokenizer(name).encode("Hello world") == [15496, 995]


def test_files_of_a_known_name_count_before_the_tokenizer_that_comes_with_numgpt(tmp_path):
    with_tokenizer(tmp_path / "weights" / "gpt2", TOKENS)
    assert len(load_tokenizer("gpt2")) == TOKENS


def test_a_tokenizer_that_is_nowhere_and_of_no_known_model_is_an_error():
    with pytest.raises(CheckpointError, match=r"^no checkpoint 'gpt5': no such file or folder"):
        load_tokenizer("gpt5")


def test_a_folder_without_tokenizer_has_none(tmp_path):
    assert load_tokenizer(write_checkpoint(tmp_path / "m")) is None


# --- what comes with numgpt


def test_the_storyteller_is_what_its_card_says():
    card = (bundled() / "README.md").read_text(encoding="utf-8")
    weights = bundled() / "model.safetensors"
    data = weights.read_bytes()
    assert re.findall(r"[0-9a-f]{64}", card) == [sha256(data).hexdigest()]
    model = load("storyteller")
    assert model.config == Config(
        n_vocab=4096, n_ctx=512, n_embd=256, n_head=8, n_layer=6, eos_token_id=4095, n_tokens=4096
    )
    assert "6 layers, 8 heads, width 256, context 512" in card
    assert f"{count_params(model.config):,} parameters" in card
    known = KNOWN["storyteller"]
    assert (known.params, known.file_bytes) == (count_params(model.config), len(data))
    assert {tensor.dtype for tensor in open_checkpoint(bundled()).tensors.values()} == {"F16"}
    assert model.tokenizer.special_tokens == {"<|endoftext|>": 4095}
    assert model.tokenizer.pieces(range(4095)) == load_tokenizer("gpt2").pieces(range(4095))


def test_importing_numgpt_is_silent_and_loads_no_framework_and_no_network():
    code = "import sys, pathlib, numgpt.hub.download\nfrom numgpt import *\n"
    code += "pathlib.Path('loaded').write_text(' '.join(sys.modules))"
    environment = os.environ | {"PYTHONPATH": str(Path(numgpt.__file__).parent.parent)}
    run = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], env=environment, capture_output=True, text=True, check=False
    )
    assert (run.returncode, run.stdout, run.stderr) == (0, "", "")
    loaded = {name.partition(".")[0] for name in Path("loaded").read_text(encoding="utf-8").split()}
    assert {"numgpt", "numpy"} <= loaded
    unwanted = (
        "torch transformers tokenizers tiktoken safetensors tensorflow jax llama_cpp requests urllib3 http ssl scipy"
    )
    assert not loaded & set(unwanted.split())
