"""Files of tensors: ours against other readers, and theirs; damaged ones give one clear error."""

import json
import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.checkpoints import SIZES, hub_tensors, write_checkpoint, write_tokenizer
from support.pickles import archive, storage, tensor

import numgpt
from numgpt.errors import CheckpointError, OptionError
from numgpt.trace import collect
from numgpt.verify.dump import read_dump, write_trace

IDS = [3, 1, 4, 1, 5]
FLOATS = st.floats(width=32)  # NaN and the infinities too


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("model")
    write_tokenizer(write_checkpoint(path, hub_tensors(258), {**SIZES, "vocab_size": 258, "eos_token_id": 257}))
    return str(path)


def read_plainly(path):
    """Read a safetensors file by its specification, without NumPy and without numgpt."""
    raw = path.read_bytes()
    length = struct.unpack("<Q", raw[:8])[0]
    header = json.loads(raw[8 : 8 + length])
    metadata = header.pop("__metadata__")
    tensors = {}
    for name, entry in header.items():
        begin, end = (8 + length + offset for offset in entry["data_offsets"])
        code, width = {"F32": ("f", 4), "F64": ("d", 8), "I64": ("q", 8)}[entry["dtype"]]
        tensors[name] = entry["shape"], list(struct.unpack(f"<{(end - begin) // width}{code}", raw[begin:end]))
    return tensors, metadata


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_safetensors_file_reads_by_the_specification(tmp_path, folder, dtype):
    traced = collect(IDS, numgpt.load(folder, dtype=dtype))
    write_trace(tmp_path / "trace.safetensors", traced, {"ids": json.dumps(IDS)})
    tensors, metadata = read_plainly(tmp_path / "trace.safetensors")
    assert json.loads(metadata["ids"]) == IDS
    assert list(tensors) == list(traced)
    for name, x in traced.items():
        assert tensors[name] == (list(x.shape), x.reshape(-1).tolist())  # -inf in the scores too
    assert -np.inf in tensors["h.0.attn.scores"][1]


@pytest.mark.parametrize("suffix", ["safetensors", "npz"])
@given(st.dictionaries(st.text(min_size=1).filter(lambda s: "/" not in s and "\0" not in s), FLOATS, max_size=4))
def test_what_is_written_is_read_again(tmp_path_factory, suffix, values):
    tensors = {f"t.{i}": np.full((i, 2), x, [np.float32, np.float64][i % 2]) for i, x in enumerate(values.values())}
    metadata = {f"key {i}": key.encode("utf-8", "replace").decode() for i, key in enumerate(values)}
    path = tmp_path_factory.mktemp("dump") / f"trace.{suffix}"
    write_trace(path, tensors, metadata)
    dump = read_dump(path)
    assert set(dump.tensors) == set(tensors)
    for name, x in tensors.items():
        back = dump.tensors[name]
        assert (back.dtype, back.shape) == (x.dtype, x.shape)
        np.testing.assert_array_equal(back, x)
    assert dump.metadata.items() >= metadata.items()


def test_an_npz_file_is_one_of_numpy_without_pickles(tmp_path):
    x = np.arange(6.0).reshape(2, 3)
    write_trace(tmp_path / "trace.npz", {"embed": x}, {"text": "häuser"})
    with np.load(tmp_path / "trace.npz", allow_pickle=False) as file:
        np.testing.assert_array_equal(file["embed"], x)
        assert json.loads(str(file["__metadata__"])) == {"text": "häuser"}


def test_a_file_of_torch_save_is_read_however_it_is_nested(tmp_path):
    values = np.array([1, 2, 3, 4], "<f4").tobytes()
    first, second = (tensor(storage("F32", "0", 4), (2,), (1,), offset) for offset in (0, 2))
    saved = {"hidden_states": (first, second), "ids": [7, 8], "out": {"logits": second}, "by": "me", "n": 3}
    (tmp_path / "dump.pt").write_bytes(archive(saved, {"0": values}))
    tensors, metadata = read_dump(tmp_path / "dump.pt")
    assert {name: x.tolist() for name, x in tensors.items()} == {
        "hidden_states.0": [1, 2],
        "hidden_states.1": [3, 4],
        "ids": [7, 8],
        "out.logits": [3, 4],
    }
    assert metadata == {"by": "me"}


@pytest.mark.parametrize("name", ["trace.safetensors", "trace.npz"])
def test_a_full_disk_leaves_no_file_and_keeps_the_old_one(tmp_path, monkeypatch, name):
    path = tmp_path / name
    write_trace(path, {"embed": np.zeros((1, 2))})
    old = path.read_bytes()

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(CheckpointError, match="can't be written: No space left on device"):
        write_trace(path, {"embed": np.ones((1, 2))})
    assert path.read_bytes() == old
    assert [file.name for file in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize("name", ["trace", "trace.pt", "trace.npz.txt"])
def test_another_ending_is_refused_before_anything_is_written(tmp_path, name):
    with pytest.raises(OptionError, match=r"expected \.safetensors or \.npz"):
        write_trace(tmp_path / name, {"embed": np.zeros((1, 2))})
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("suffix", ["safetensors", "npz"])
def test_what_is_no_number_is_not_written(tmp_path, suffix):
    with pytest.raises(OptionError, match="embed: object, expected numbers"):
        write_trace(tmp_path / f"trace.{suffix}", {"embed": np.array([None])})
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("keep", [0, 3, 8, 100, -100, -1])
@pytest.mark.parametrize("name", ["trace.safetensors", "trace.npz"])
def test_a_cut_file_is_one_clear_error(tmp_path, name, keep):
    path = tmp_path / name
    write_trace(path, {"embed": np.zeros((30, 30))})
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(CheckpointError, match=name):
        read_dump(path)


def test_python_objects_in_an_npz_file_are_not_built(tmp_path):
    np.savez(tmp_path / "dump.npz", embed=np.array([{"a": 1}], dtype=object))
    with pytest.raises(CheckpointError, match="write plain arrays"):
        read_dump(tmp_path / "dump.npz")
    with pytest.raises(CheckpointError, match="no such file"):
        read_dump(tmp_path / "nothing.npz")
