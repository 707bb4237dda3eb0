"""Layers that stay in their file: one at a time, and the same to the bit."""

import tracemalloc
import weakref

import numpy as np
import pytest
from support.checkpoints import bf16, hub_tensors, write_checkpoint
from support.cli import call
from support.readers import Spy

import numgpt
from numgpt.checkpoint.export import convert
from numgpt.checkpoint.layers import Layers, read_by_layer
from numgpt.checkpoint.names import match_params
from numgpt.errors import CheckpointError
from numgpt.measure.scoring import score
from numgpt.params import leaves
from numgpt.trace import collect

SIZES = {"vocab_size": 60, "n_positions": 200, "n_embd": 16, "n_layer": 3, "n_inner": 20}
CONFIG = {"model_type": "gpt2", **SIZES, "n_head": 2, "eos_token_id": None}
STORES = {
    "F32": lambda x: x,
    "F64": lambda x: x.astype(np.float64),
    "F16": lambda x: x.astype(np.float16),
    "BF16": bf16,
}


def write(folder, store):
    """Write a checkpoint of three layers."""
    return write_checkpoint(folder, {name: STORES[store](x) for name, x in hub_tensors(**SIZES).items()}, CONFIG)


@pytest.fixture
def folder(tmp_path):
    """A checkpoint of three layers."""
    return write(tmp_path, "F16")


def both(path, **how):
    return numgpt.load(path, **how), numgpt.load(path, layer_at_a_time=True, **how)


IDS = np.random.default_rng(0).integers(60, size=450).tolist()


@pytest.mark.parametrize("weights", [None, "int8", "keep"])
@pytest.mark.parametrize("store", STORES)
def test_all_tensors_are_the_same_to_the_bit(tmp_path, store, weights):
    plain, lazy = both(write(tmp_path, store), weights=weights)
    assert isinstance(lazy.params["h"], Layers)
    for (path, x), (other, y) in zip(leaves(plain.params), leaves(lazy.params), strict=True):
        assert path == other
        assert type(x) is type(y)
        np.testing.assert_array_equal(np.asarray(x), np.asarray(y))
        if weights is None:
            assert x.flags.c_contiguous == y.flags.c_contiguous


@pytest.mark.parametrize("how", [{}, {"stride": 150}, {"context": 90, "stride": 70}, {"cache_dtype": "float16"}])
def test_a_score_is_the_same_to_the_bit(folder, how):
    plain, lazy = (score(model, IDS, **how) for model in both(folder))
    np.testing.assert_array_equal(plain.log_probs, lazy.log_probs)
    np.testing.assert_array_equal(plain.ranks, lazy.ranks)


def test_a_trace_is_the_same_to_the_bit(folder):
    plain, lazy = (collect(IDS[:40], model) for model in both(folder))
    assert list(plain) == list(lazy)
    for name, x in plain.items():
        np.testing.assert_array_equal(x, lazy[name], err_msg=name)


def test_a_score_reads_each_layer_once_a_window_and_holds_one(folder):
    _, lazy = both(folder)
    read, alive = [], []

    def spied(i):
        assert not any(one() is not None for one in alive)
        layer = lazy.params["h"].read(i)
        alive.append(weakref.ref(layer["attn"]["c_attn"]["w"]))
        read.append(i)
        return layer

    score(lazy._replace(params={**lazy.params, "h": Layers(3, spied)}), IDS, context=200, stride=125)
    assert read == 3 * [0, 1, 2]


def test_no_tensor_of_a_layer_is_read_before_it_is_needed():
    spy = Spy(hub_tensors())
    given, config = match_params(
        spy.tensors, numgpt.Config(n_vocab=11, n_ctx=7, n_embd=6, n_head=2, n_layer=2, n_inner=10), "x"
    )
    params = read_by_layer(given, config, None, None)
    assert [name for name in spy.reads if name.startswith("h.")] == []
    params["h"][1]
    assert {name[:4] for name in spy.reads if name.startswith("h.")} == {"h.1."}
    with pytest.raises(IndexError):
        params["h"][2]


def test_a_file_that_is_gone_is_told_in_a_line(folder):
    _, lazy = both(folder)
    (folder / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"model\.safetensors"):
        score(lazy, IDS)


def test_blocks_of_a_gguf_file_too(tmp_path):
    path = convert(numgpt.hub.loading.locate("storyteller"), tmp_path / "q.gguf", dtype="Q8_0")
    plain, lazy = (score(model, "Once upon a time there was a king.") for model in both(path, weights="int8"))
    np.testing.assert_array_equal(plain.log_probs, lazy.log_probs)


@pytest.mark.parametrize("command", [["score", "Once upon"], ["trace", "Once upon"]])
def test_the_commands_print_the_same(capsys, command):
    plain = call(capsys, *command, "--json")
    assert plain[0] == 0
    assert call(capsys, *command, "--layer-at-a-time", "--json")[:2] == plain[:2]


@pytest.mark.thorough
def test_verify_compares_with_a_layer_at_a_time(capsys, tmp_path):
    dump = str(tmp_path / "dump.npz")
    assert call(capsys, "trace", "Once upon a time", "-o", dump)[0] == 0
    code, out, _ = call(capsys, "verify", dump, "--layer-at-a-time")
    assert code == 0
    assert "DIFFERS" not in out


@pytest.mark.thorough
def test_what_is_converted_is_never_held_as_a_whole(capsys, tmp_path):
    source = numgpt.hub.loading.locate("storyteller")
    size = (source / "model.safetensors").stat().st_size
    for target in "folder", "m.gguf":
        call(capsys, "convert", source, tmp_path / f"first {target}", "-q")  # reads tables that stay
        tracemalloc.start()
        try:
            call(capsys, "convert", source, tmp_path / target, "--layer-at-a-time", "-q")
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert peak < 0.6 * size
