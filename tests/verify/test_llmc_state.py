"""llm.c's debug state as a file: where everything lies, what is refused, and damage of all kinds."""

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import llmcs
from support.checkpoints import hub_tensors
from support.llmcs import write
from support.readers import damaged, fault, fuzz

import numgpt
from numgpt.checkpoint.tensors import LazyTensor
from numgpt.config import Config
from numgpt.errors import CheckpointError
from numgpt.verify.llmc_state import is_llmc, read_state, write_state

CONFIG = Config(n_vocab=11, n_ctx=7, n_embd=6, n_head=2, n_layer=2, eos_token_id=None)
GRADS = hub_tensors(n_inner=24)
X, Y = np.random.default_rng(0).integers(11, size=(2, 3, 5))
LOGITS = np.random.default_rng(1).integers(-99, 99, (3, 5, 11)).astype(np.float32)
RAW = {version: llmcs.state(GRADS, X, Y, LOGITS, 2.5, version) for version in (1, 2)}
SIZE = 1024 + 4 * (15 + 15 + 15 * 11 + 1 + 11 * 6 + 7 * 6 + 2 * (12 * 36 + 13 * 6) + 2 * 6)  # of version 1


def read(path, config=CONFIG):
    return read_state(path, config)


@pytest.mark.parametrize("version", [1, 2])
def test_each_version_is_read(tmp_path, version):
    path = write(tmp_path / "state.bin", RAW[version])
    state = read(path)
    np.testing.assert_array_equal([state.x, state.y], [X, Y])
    np.testing.assert_array_equal(state.tensors["logits"].read(), LOGITS)
    assert state.tensors["loss"].read() == 2.5
    assert state.tensors.keys() == {"logits", "loss", *GRADS}
    for name, x in GRADS.items():
        found = state.tensors[name].read()
        if name == "wte.weight":
            assert len(found) == {1: 11, 2: 128}[version]
            assert not found[11:].any()
            found = found[:11]
        np.testing.assert_array_equal(found.T if name.startswith("h.") else found, x, err_msg=name)


def test_what_is_written_is_byte_for_byte_what_llm_c_writes(tmp_path):
    write_state(tmp_path / "state.bin", X, Y, LOGITS, 2.5, GRADS, CONFIG)
    assert (tmp_path / "state.bin").read_bytes() == RAW[2]


def test_numbers_are_rounded_to_float32(tmp_path):
    wide = {name: x + 1e-12 for name, x in GRADS.items()}
    write_state(tmp_path / "state.bin", X, Y, LOGITS.astype(float) + 1e-12, 2.5 + 1e-12, wide, CONFIG)
    raw = (tmp_path / "state.bin").read_bytes()
    np.testing.assert_allclose(
        np.frombuffer(raw[1144:], "<f4"), np.frombuffer(RAW[2][1144:], "<f4"), rtol=1e-6, atol=2e-12
    )


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"n_inner": 10}, "n_inner of this model is 10, expected 24"),
        ({"tie_word_embeddings": False}, "this model has an output head of its own"),
        ({"activation_function": "gelu"}, "activation_function of this model is 'gelu', expected 'gelu_new'"),
        ({"layer_norm_epsilon": 1e-6}, "layer_norm_epsilon of this model is 1e-06, expected 1e-05"),
        ({"scale_attn_weights": False}, "scale_attn_weights of this model is False, expected True"),
        ({"scale_attn_by_inverse_layer_idx": True}, "scale_attn_by_inverse_layer_idx of this model is True"),
    ],
)
def test_a_model_that_llm_c_does_not_have_is_refused(tmp_path, changes, said):
    config = CONFIG._replace(**changes)
    path = tmp_path / "state.bin"
    assert said in fault(path, lambda path: write_state(path, X, Y, LOGITS, 2.5, GRADS, config))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e39])
def test_numbers_that_float32_does_not_have_are_refused(tmp_path, value):
    broken = {**GRADS, "ln_f.bias": np.full(6, value)}
    path = tmp_path / "state.bin"
    said = fault(path, lambda path: write_state(path, X, Y, LOGITS, 2.5, broken, CONFIG))
    assert said.startswith("ln_f.bias has a number that is none in float32")
    assert not list(tmp_path.iterdir())


def test_a_full_disk_keeps_what_was_there(tmp_path, monkeypatch):
    def full(descriptor):
        raise OSError(28, "No space left on device")

    path = write(tmp_path / "state.bin", b"old")
    monkeypatch.setattr("os.fsync", full)
    said = fault(path, lambda path: write_state(path, X, Y, LOGITS, 2.5, GRADS, CONFIG))
    assert said.startswith("can't be written: No space left on device")
    assert [(file.name, file.read_bytes()) for file in tmp_path.iterdir()] == [("state.bin", b"old")]


# ---- what is refused


def changed(at, value):
    raw = bytearray(RAW[2])
    raw[at : at + 4] = value.to_bytes(4, "little", signed=True)
    return bytes(raw)


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        (RAW[2][:1000], "1,000 bytes, expected at least 1,024 of llm.c's debug state"),
        (RAW[2][:-1], f"{len(RAW[2]) - 1:,} bytes, expected {len(RAW[2]):,} for 3 x 5 ids and a model of 11 tokens"),
        (RAW[1] + b"\0", f"{SIZE + 1:,} bytes, expected {SIZE:,} for 3 x 5 ids"),
        (changed(4, 3), "llm.c's debug state of version 3, expected 1 or 2"),
        (changed(4, 1), f"expected {SIZE:,} for 3 x 5 ids"),
        (changed(8, 0), "0 texts of 5 tokens, expected 1 or more, of 1 to 7, the context of this model"),
        (changed(8, -3), "-3 texts of 5 tokens"),
        (changed(8, 2**31 - 1), "expected 558,345"),
        (changed(12, 0), "3 texts of 0 tokens"),
        (changed(12, 8), "3 texts of 8 tokens, expected 1 or more, of 1 to 7"),
        (changed(12, -(2**31)), "3 texts of -2,147,483,648 tokens"),
        (changed(1024, 11), "x[0, 0] is 11, expected 0 to 10, the vocabulary"),
        (changed(1024 + 4 * 29, -1), "y[2, 4] is -1, expected 0 to 10, the vocabulary"),
        (llmcs.model(GRADS), "it looks like llm.c's model, expected llm.c's debug state: give it as a model, by -m"),
        (llmcs.tokens([1, 2]), "it looks like llm.c's file of tokens, expected llm.c's debug state"),
        (b"PK\3\4" + bytes(2000), "it looks like a zip archive"),
        (b"", "begins with b'', expected llm.c's debug state"),
    ],
)
def test_what_is_no_sound_state_of_the_model_is_refused(tmp_path, raw, said):
    assert said in fault(write(tmp_path / "state.bin", raw), read)


@pytest.mark.parametrize(
    "changes", [{"n_vocab": 12}, {"n_ctx": 8}, {"n_layer": 3}, {"n_embd": 8}, {"n_vocab": 200}, {"n_layer": 0}]
)
def test_a_model_of_other_sizes_is_refused(tmp_path, changes):
    path = write(tmp_path / "state.bin", RAW[2])
    said = fault(path, lambda path: read(path, CONFIG._replace(**changes)))
    assert re.search(r"bytes, expected .* for 3 x 5 ids and a model of .* give the model that it was made of", said)


def test_a_model_with_other_parameters_is_refused(tmp_path):
    path = write(tmp_path / "state.bin", RAW[2])
    assert "n_inner" in fault(path, lambda path: read(path, CONFIG._replace(n_inner=5)))
    assert "output head of its own" in fault(path, lambda path: read(path, CONFIG._replace(tie_word_embeddings=False)))


def test_a_state_is_no_model_and_is_told_so(tmp_path):
    path = write(tmp_path / "gpt2_124M.bin", RAW[2])
    said = fault(path, numgpt.load)
    assert said.startswith("it looks like llm.c's debug state")
    assert "a state is for numgpt verify" in said


def test_a_file_that_has_changed_since_is_refused(tmp_path):
    path = write(tmp_path / "state.bin", RAW[2])
    tensor = read(path).tensors["wpe.weight"]
    with open(path, "ab") as file:
        file.write(b"x")
    assert "wpe.weight: the file has changed" in fault(path, lambda _: tensor.read())


def test_files_of_llm_c_are_told_by_their_content(tmp_path):
    assert is_llmc(write(tmp_path / "a.npz", RAW[1]))
    assert is_llmc(write(tmp_path / "a.npz", llmcs.model(GRADS)))
    assert not is_llmc(write(tmp_path / "a.bin", b"PK\3\4" + bytes(2000)))
    assert not is_llmc(tmp_path / "nothing.bin")


NUMBERS = [2**31 - 1, -(2**31), -1, 0, 1, 7, 255, 2**16, 20240326, 20240327, 20240520]


PLACES = st.integers(0, 4).map(lambda i: 4 * i) | st.integers(256, 290).map(lambda i: 4 * i)
DAMAGED = damaged(st.sampled_from([RAW[1], RAW[2]]), PLACES, [n.to_bytes(4, "little", signed=True) for n in NUMBERS])


def check_damaged(tmp_path, raw):
    path = write(tmp_path / "state.bin", raw)
    try:
        state = read(path)
    except CheckpointError as error:
        said = str(error)
        assert said.startswith(str(path))
        assert said.isprintable()
        assert "expected" in said
        assert len(said) < 1000
        return
    for ids in state.x, state.y:
        assert ids.shape == state.tensors["logits"].shape[:2]
        assert (ids >= 0).all()
        assert (ids < 11).all()
    for tensor in state.tensors.values():
        assert isinstance(tensor, LazyTensor)
        assert tensor.read().shape == tensor.shape


@given(raw=DAMAGED)
@fuzz()
def test_whatever_is_in_a_file_only_a_checkpoint_error_comes_out(tmp_path, raw):
    check_damaged(tmp_path, raw)


@pytest.mark.thorough
@given(raw=DAMAGED)
@fuzz(2000)
def test_whatever_is_in_2000_files_only_a_checkpoint_error_comes_out(tmp_path, raw):
    check_damaged(tmp_path, raw)
