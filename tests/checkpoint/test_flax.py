"""Flax's msgpack, read: hand-made files in, arrays and sizes out, and a CheckpointError for all else."""

import re
import struct
import time
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_array_equal
from support.checkpoints import CONFIG, hub_tensors, write_json
from support.flaxes import Array, Ext, array, bf16, chunked, f16, model, packed, tree, write, write_shards
from support.readers import damaged, fault, fuzz, read_or_refused, refusal
from support.readers import write as write_bytes

import numgpt
from numgpt.checkpoint import flax
from numgpt.checkpoint.export import convert
from numgpt.checkpoint.flax import read_flax
from numgpt.checkpoint.formats import look_at
from numgpt.checkpoint.memory import read_params
from numgpt.checkpoint.names import hub_name, match_params
from numgpt.checkpoint.reading import open_checkpoint
from numgpt.cli import main as cli
from numgpt.params import leaves
from numgpt.trace import collect

REFERENCE = Path(__file__).parents[1] / "reference" / "flax.npz"
NAME = "flax_model.msgpack"


@pytest.fixture
def folder(tmp_path):
    """A folder with a config.json alone."""
    write_json(tmp_path / "config.json", CONFIG)
    return tmp_path


def assert_holds(path, expected):
    params = dict(leaves(numgpt.load(path).params))
    assert len(params) == len(expected)
    for leaf, x in params.items():
        assert_array_equal(x, expected[hub_name(leaf)], err_msg=leaf)
        assert x.dtype == np.float32


# ---- weights


@pytest.mark.parametrize("name", ["model", "base", "shards", "state"])
def test_what_flax_itself_wrote_is_the_model_that_it_ran(tmp_path, name):
    with np.load(REFERENCE) as saved:
        for key in saved.files:
            if key.startswith(f"{name}/") and "." in key:
                write_bytes(tmp_path / key.removeprefix(f"{name}/"), saved[key].tobytes())
        ids, last = saved["ids"].tolist(), "ln_f" if name == "base" else "logits"
        expected = saved[f"{name}/{last}"]
    loaded = numgpt.load(tmp_path, dtype="float64")
    assert abs(collect(ids, loaded, last)[last] - expected).max() < 2e-6 * abs(expected).max()
    assert loaded.config.tie_word_embeddings is (name != "shards")
    opened = open_checkpoint(tmp_path)
    assert opened.left_out.keys() == ({"step", "opt_state"} if name == "state" else set())
    assert {tensor.dtype for tensor in opened.tensors.values()} == {"BF16" if name == "shards" else "F32"}
    copy = numgpt.load(convert(tmp_path, tmp_path / "copy"), dtype="float64")
    assert_array_equal(collect(ids, copy, last)[last], collect(ids, loaded, last)[last])


@pytest.mark.parametrize(("store", "dtype"), [(array, "F32"), (f16, "F16"), (bf16, "BF16")])
def test_a_file_is_the_model(folder, store, dtype):
    write(folder / NAME, model(hub_tensors(), store))
    assert_holds(folder, hub_tensors())
    opened = open_checkpoint(folder)
    assert (opened.kind, opened.left_out, opened.check) == ("flax", {}, None)
    assert {tensor.dtype for tensor in opened.tensors.values()} == {dtype}
    assert opened.tensors["transformer/h/0/attn/c_attn/kernel"].shape == (18, 6)
    assert opened.hub_tensors["h.0.attn.c_attn.weight"].shape == (6, 18)
    for name, x in hub_tensors().items():
        assert_array_equal(opened.hub_tensors[name].read(), x, err_msg=name)


def test_a_square_matrix_is_turned_once(folder):
    """Its shape tells nothing: only its values do, also where all matrices are square."""
    square = hub_tensors(n_inner=6)
    write_json(folder / "config.json", {**CONFIG, "n_inner": 6})
    write(folder / NAME, model(square))
    params = numgpt.load(folder).params
    for i in range(2):
        for block, matrix in ("attn", "c_proj"), ("mlp", "c_fc"), ("mlp", "c_proj"):
            expected = square[f"h.{i}.{block}.{matrix}.weight"]
            assert_array_equal(params["h"][i][block][matrix]["w"], expected)
            assert not np.array_equal(expected, expected.T)


def test_square_embeddings_are_not_turned(folder):
    square = hub_tensors(vocab_size=6, n_positions=6)
    write(folder / NAME, model(square))
    assert_holds(folder, square)


@pytest.mark.parametrize("vocab_size", [11, 6])
def test_a_head_of_its_own_is_turned_too(folder, vocab_size):
    tensors = hub_tensors(vocab_size=vocab_size)
    head = tensors["wte.weight"] + np.float32(1 / 1024)
    write(folder / NAME, model({**tensors, "lm_head.weight": head}))
    found = numgpt.load(folder)
    assert not found.config.tie_word_embeddings
    assert_array_equal(found.params["lm_head"], head)
    assert open_checkpoint(folder).tensors["lm_head/kernel"].shape == (6, vocab_size)


def test_a_copy_of_the_embedding_is_no_head(folder):
    write(folder / NAME, model({**hub_tensors(), "lm_head.weight": hub_tensors()["wte.weight"]}))
    assert_holds(folder, hub_tensors())


@pytest.mark.parametrize("below", [[], ["params"], ["params", "params"], ["params", "transformer"]])
def test_the_base_model_and_what_lies_below_params_are_the_model_too(folder, below):
    root = tree(hub_tensors())
    for key in reversed(below):
        root = {key: root}
    write(folder / NAME, root)
    assert_holds(folder, hub_tensors())


def test_what_a_training_keeps_beside_the_parameters_is_left_out(folder):
    state = {"mu": model(hub_tensors(seed=1)), "count": Ext(3, packed([[], "int32", bytes(4)])), "none": None}
    root = {"step": 70000, "params": model(hub_tensors()), "opt_state": {"0": state, "1": {}}, "rate": 0.1, "on": False}
    root |= {"complex": Ext(2, packed([1.0, 2.0])), "\x1b[2J": -70000, "few": -7}
    write(folder / NAME, root)
    assert_holds(folder, hub_tensors())
    left_out = open_checkpoint(folder).left_out
    assert list(left_out) == ["step", "opt_state", "rate", "on", "complex", "'\\x1b[2J'", "few"]
    assert set(left_out.values()) == {"beside params"}


@pytest.mark.parametrize(("store", "count"), [(array, 5), (bf16, 7), (f16, 13), (bf16, 1000)])
def test_an_array_in_pieces_is_whole(folder, store, count):
    write(folder / NAME, model(hub_tensors(), lambda x: chunked(store(x), count)))
    assert_holds(folder, hub_tensors())
    whole = write(folder / "whole.msgpack", model(hub_tensors(), store))
    for name, tensor in open_checkpoint(whole).tensors.items():
        other = open_checkpoint(folder / NAME).tensors[name]
        assert other[:2] == tensor[:2]
        assert_array_equal(other.read(), tensor.read())


def test_pieces_are_joined_by_their_numbers(folder):
    root = model(hub_tensors())
    table = chunked(array(hub_tensors()["wte.weight"]), 5)  # 14 of them: "10" comes before "2" as a text
    table["chunks"] = dict(sorted(table["chunks"].items()))
    assert list(table["chunks"])[:3] == ["0", "1", "10"]
    root["transformer"]["wte"]["embedding"] = table
    write(folder / NAME, root)
    assert_holds(folder, hub_tensors())


def test_lengths_may_take_more_bytes_than_they_need(folder):
    write(folder / NAME, {"step": -1, "params": model(hub_tensors(), lambda x: chunked(array(x), 100))}, wide=True)
    assert_holds(folder, hub_tensors())


def test_a_map_of_more_than_15_keys_has_a_length_of_its_own(folder):
    sizes = {"n_layer": 20, "n_embd": 2, "n_inner": 2}
    write_json(folder / "config.json", {**CONFIG, **sizes})
    write(folder / NAME, {**{f"{i}": 0 for i in range(16)}, "params": model(hub_tensors(**sizes))})
    assert_holds(folder, hub_tensors(**sizes))


def test_float64_stays_and_another_dtype_is_told(folder):
    root = model(hub_tensors(), lambda x: array(x.astype(np.float64)))
    assert numgpt.load(write(folder / NAME, root)).params["wte"].dtype == np.float64
    root["transformer"]["ln_f"]["bias"] = array(np.zeros(6, np.int32))
    assert "ln_f.b: dtype I32, expected one of F16" in refusal(write(folder / NAME, root), numgpt.load)


def test_several_files_are_one_model(folder):
    index = write_shards(folder, hub_tensors())
    assert_holds(folder, hub_tensors())
    assert_holds(index, hub_tensors())
    assert open_checkpoint(folder).kind == "flax"
    part = folder / "flax_model-00002-of-00003.msgpack"
    root = part.read_bytes()
    part.unlink()
    assert fault(index, numgpt.load).startswith("shards are missing, expected in the same folder: flax_model-00002")
    part.with_name("flax_model-00001-of-00003.msgpack").replace(part)
    part.with_name("flax_model-00001-of-00003.msgpack").write_bytes(root)
    assert "tensors are missing, expected: transformer/" in fault(index, numgpt.load)


def test_no_number_is_read_before_it_is_asked_for(folder):
    path = write(folder / NAME, model(hub_tensors()))
    opened = open_checkpoint(path)
    with open(path, "ab") as file:
        file.write(b"x")
    for tensors in opened.tensors, opened.hub_tensors:
        for tensor in tensors.values():
            assert "the file has changed" in refusal(path, lambda _, tensor=tensor: tensor.read())


def test_memory_while_loading_is_the_parameters_and_two_tensors(folder):
    sizes = {"vocab_size": 1000, "n_positions": 8, "n_embd": 256, "n_layer": 4, "n_inner": 1024}
    write_json(folder / "config.json", {**CONFIG, **sizes})
    path = write(folder / NAME, model(hub_tensors(**sizes), f16))
    opened = open_checkpoint(path)
    found, config = match_params(opened.hub_tensors, opened.config, "x")
    tracemalloc.start()
    params = read_params(found, config)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    largest = max(x.nbytes for _, x in leaves(params))
    assert peak < sum(x.nbytes for _, x in leaves(params)) + 2.5 * largest  # two threads turn one matrix each


def test_without_a_config_the_heads_are_asked_for_alone(tmp_path):
    path = write(tmp_path / NAME, model(hub_tensors()))
    assert "nothing says n_head, the number of heads" in refusal(tmp_path, numgpt.load)
    assert numgpt.load(path, n_head=2).config.activation_function == "gelu_new"


def test_the_commands_show_and_convert_it(folder, capsys):
    write(folder / NAME, model(hub_tensors(), bf16))
    assert cli.main(["inspect", "-m", str(folder)]) == 0
    assert f"  {'transformer/h/1/mlp/c_fc/kernel':<40} BF16      120 B  10 x 6" in capsys.readouterr().out
    assert cli.main(["convert", str(folder), str(folder / "copy")]) == 0
    assert_holds(folder / "copy", hub_tensors())
    assert {tensor.dtype for tensor in open_checkpoint(folder / "copy").tensors.values()} == {"BF16"}
    assert not (folder / "copy" / NAME).exists()


# ---- what does not fit


def with_leaf(leaf, *at):
    root = model(hub_tensors())
    here = root["transformer"]
    for key in at[:-1]:
        here = here[key]
    here[at[-1]] = leaf
    return root


PIECES = chunked(array(np.zeros(6, np.float32)), 2)


@pytest.mark.parametrize(
    ("leaf", "said"),
    [
        (7, "transformer/ln_f/bias: 7, expected an array: save the parameters alone"),
        (None, "transformer/ln_f/bias: None, expected an array"),
        (b"123", "transformer/ln_f/bias: bytes, expected an array"),
        (Ext(2, b"\xc0"), "transformer/ln_f/bias: bytes, expected an array"),
        (Array([], "float32", bytes(4)), "shape [], expected 1 to 8 integers of 1 or more"),
        (Array([1] * 9, "float32", bytes(4)), "expected 1 to 8 integers of 1 or more"),
        (Array([0, 2], "float32", b""), "shape [0, 2], expected 1 to 8"),
        (Array([-6], "float32", bytes(24)), "shape [-6], expected 1 to 8"),
        (Array([True], "float32", bytes(4)), "shape [True], expected 1 to 8"),
        (Array([6.0], "float32", bytes(24)), "shape [6.0], expected 1 to 8"),
        (Array({"0": 6}, "float32", bytes(24)), "shape a map, expected 1 to 8"),
        (Array([6], "float8_e4m3fn", bytes(6)), "dtype 'float8_e4m3fn', expected one of float64, float32, float16"),
        (Array([6], 7, bytes(6)), "dtype 7, expected one of float64"),
        (Array([6], "float32", bytes(23)), "float32 of shape (6,) in 23 bytes, expected 24 bytes"),
        (Array([6], "float32", [1]), "float32 of shape (6,) in [1], expected 24 bytes"),
        (Array([2**62] * 8, "float32", bytes(24)), f"in 24 bytes, expected {2**498:,} bytes"),
        ({**PIECES, "shape": {"0": 7}}, "float32 of shape (7,) in 24 bytes, expected 28 bytes"),
        ({**PIECES, "shape": [6]}, "shape of an array in chunks is [6], expected a map that counts from 0"),
        ({**PIECES, "shape": {"1": 6}}, "shape of an array in chunks is a map, expected a map that counts from 0"),
        ({**PIECES, "chunks": {}}, "its chunks are not alike, expected flat arrays of one dtype"),
        ({**PIECES, "chunks": {"0": 7}}, "its chunks are not alike"),
        ({**PIECES, "chunks": {"0": PIECES["chunks"]["0"], "1": bf16(np.zeros(4))}}, "its chunks are not alike"),
        ({**PIECES, "chunks": {"0": array(np.zeros((2, 3), np.float32))}}, "its chunks are not alike"),
        ({"__msgpack_chunked_array__": True}, "shape of an array in chunks is None, expected a map"),
        ({"a" * 200: {"b" * 200: 7}}, "a name of 423 characters"),
    ],
)
def test_what_is_no_array_of_a_model_is_refused(folder, leaf, said):
    assert said in refusal(write(folder / NAME, with_leaf(leaf, "ln_f", "bias")), numgpt.load)


def test_one_tensor_under_two_names_is_refused(folder):
    root = with_leaf(array(np.zeros(6, np.float32)), "ln_f", "weight")
    said = refusal(write(folder / NAME, root), numgpt.load)
    assert said.endswith("is ln_f.weight of the Hub twice, expected it once: the file is damaged, download it again")
    root = {"a/b": array(np.zeros(6)), "a": {"b": array(np.zeros(6))}}
    assert fault(write(folder / NAME, root), read_flax).startswith("a/b: comes twice, expected once")


def test_what_is_missing_or_left_over_is_told(folder):
    root = model(hub_tensors())
    del root["transformer"]["h"]["1"]["ln_1"]["scale"]
    root["score"] = {"kernel": array(np.zeros((6, 2), np.float32))}
    said = refusal(write(folder / NAME, root), numgpt.load)
    assert said.endswith("missing: h.1.ln_1.g; left over: score.weight")


DEEP = b"\x81\xa1a" * 30 + b"\xc0"


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        (b"", "begins with b'', expected a map of names, as Flax writes it: it is no file of Flax"),
        (b"\x93\1\2\3", "expected a map of names"),
        (b"\x89HDF\r\n\x1a\n", "it looks like an HDF5 file, as Keras writes it, expected a file of Flax"),
        (b"version https://git-lfs.github.com/spec/v1\n", "it looks like a Git LFS pointer"),
        (b"\x81\xa1a", "1 bytes at byte 3, expected at most the 0 bytes left"),
        (b"\x81\xa1a\xc0\xc0", "1 bytes after its tree, expected none"),
        (b"\x82\xa1a\xc0\xa1a\xc0", "the key 'a' before byte 6, expected a string that comes once"),
        (b"\x82\xa1a\xc0\x07\xc0", "the key 7 before byte 5, expected a string"),
        (b"\x82\xa1a\xc0\x81\xa1a\xc0\xc0", "the key a map before byte 8, expected a string"),
        (b"\x81\xa1a\xc1", "the byte 0xc1 at byte 3, expected the beginning of a value"),
        (b"\x81\xa1a\xc6\xff\xff\xff\xff", "4,294,967,295 bytes at byte 8, expected at most the 0 bytes left"),
        (b"\x81\xa1a\xdb\xff\xff\xff\xff", "a string of 4,294,967,295 bytes at byte 8, expected at most 200"),
        (b"\x81\xa1a\xdd\xff\xff\xff\xff", "an array of 4,294,967,295 at byte 8, expected at most the 0 bytes left"),
        (b"\x81\xa1a\xdf\xff\xff\xff\xff", "a map of 4,294,967,295 at byte 8, expected at most the 0 bytes left"),
        (b"\x81\xa1a\xc9\xff\xff\xff\xff\1", "an array of 4,294,967,295 bytes at byte 9, expected at most the 0"),
        (b"\x81\xa1a\xc9\xff\xff\xff\xff\2", "4,294,967,295 bytes at byte 9, expected at most the 0 bytes left"),
        (b"\x81\xa2\xff\xffa\xc0", "expected a map of names"),
        (b"\x81\xa2a\xff\xc0", "the string b'a\\xff' at byte 4, expected UTF-8"),
        (b"\x81\xa1a\xc7\2\1\x92\1\2", "an array that ends at byte 9, expected shape, dtype and numbers up to byte 8"),
        (b"\x81\xa1a\xc7\4\1\x93\1\2\3", "shape 1, expected 1 to 8 integers"),
        (b"\x81\xa1a\xc7\1\1\x90", "an array that ends at byte 7, expected shape, dtype and numbers up to byte 7"),
        (DEEP, "42 values, 21 deep, at byte 61, expected at most 32,768, 20 deep: it is no GPT-2"),
    ],
)
def test_a_damaged_file_is_refused(folder, raw, said):
    assert said in refusal(write_bytes(folder / NAME, raw), read_flax)


def test_a_file_that_ends_within_its_numbers_is_refused(folder):
    raw = packed(model(hub_tensors()))
    said = refusal(write_bytes(folder / NAME, raw[:-1]), numgpt.load)
    assert "expected at most the" in said


def endless(folder, value):
    return write_bytes(folder / NAME, b"\x81\xa1a\xdd" + struct.pack(">I", 10**6) + value * 10**6)


ENDLESS = [b"\xc0", b"\xa0", b"\x80", b"\x90", b"\xc4\0", b"\xd4\2x", b"\xd6\1\x93\x90\xa0\x90"]


@pytest.mark.thorough
@pytest.mark.parametrize("value", ENDLESS)
def test_values_without_end_are_refused_in_bounded_time(folder, value):
    path = endless(folder, value)
    start = time.process_time()
    said = fault(path, read_flax)
    assert time.process_time() - start < 1
    assert re.match("32,769 values, [234] deep, at byte", said)


@pytest.mark.thorough
@pytest.mark.parametrize("value", ENDLESS)
def test_values_without_end_are_refused_in_bounded_memory(folder, value):
    path = endless(folder, value)
    tracemalloc.start()
    fault(path, read_flax)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 30_000_000


SAMPLE = packed(
    {"params": model(hub_tensors(3, 2, 2, 1, 3) | {"lm_head.weight": np.ones((3, 2), np.float32)}, bf16), "step": 300}
    | {"chunks": chunked(f16(np.ones((2, 3))), 4)}
)
HUGE = [2**32 - 1, 2**31, 2**31 - 1, 2**16, 0, 1, 255]


DEEP = st.builds(
    lambda code, n: code * n, st.sampled_from([b"\x91", b"\x81\xa1a", b"\xc7\x7f\1"]), st.integers(1, 3000)
)
DAMAGED = damaged(
    st.just(SAMPLE),
    st.integers(0, len(SAMPLE) - 1),
    [n.to_bytes(4, "big")[-width:] for n in HUGE for width in (1, 2, 4)] + [bytes([code]) for code in range(0x80, 256)],
    st.binary(min_size=1, max_size=40)
    | st.builds(
        lambda code, n: code * n, st.sampled_from([b"\x91", b"\x81\xa1a", b"\xc7\x7f\1"]), st.integers(1, 3000)
    ),
)


def check_damaged(folder, raw):
    path = write_bytes(folder / NAME, raw)
    read_or_refused(path, read_flax)
    read_or_refused(path, lambda path: flax.open_weights(look_at(path)).hub_tensors)


@given(raw=DAMAGED)
@fuzz()
def test_whatever_is_in_a_file_only_a_checkpoint_error_comes_out(tmp_path, raw):
    check_damaged(tmp_path, raw)


@pytest.mark.thorough
@given(raw=DAMAGED)
@fuzz(2000)
def test_whatever_is_in_2000_files_only_a_checkpoint_error_comes_out(tmp_path, raw):
    check_damaged(tmp_path, raw)


def test_the_sample_is_sound(tmp_path):
    path = write_bytes(tmp_path / NAME, SAMPLE)
    assert len(flax.open_weights(look_at(path)._replace(given={"n_head": 1})).hub_tensors) == 17
