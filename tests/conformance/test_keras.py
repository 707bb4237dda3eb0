"""HDF5 against h5py, and Keras' layout against Transformers: files that h5py writes as Keras does.

What Transformers 4 and TensorFlow themselves saved is in tests/reference/keras.npz: they can't be installed beside 5.
"""

import h5py
import numpy as np
import pytest
import torch
from support import hdf5s
from support.checkpoints import hub_tensors
from support.readers import refusal
from transformers import GPT2Config, GPT2LMHeadModel

import numgpt
from numgpt.checkpoint.hdf5 import read_hdf5
from numgpt.checkpoint.reading import open_checkpoint

IDS = [7, 2, 30, 1, 4, 4, 19]
PREFIXES = {"tfgp_t2lm_head_model": "weight", "tfgpt2lm_head_model": "embeddings", "tfgpt2_model": "embeddings"}


def save(path, model, dtype, wte):
    """Write the weights of a model of Transformers as Keras' save_weights_to_hdf5_group does."""
    name = model.config.name_or_path
    state = {key.removeprefix("transformer."): x.numpy() for key, x in model.state_dict().items()}
    tensors = {key: np.ascontiguousarray(x, dtype) for key, x in state.items() if key != "lm_head.weight"}
    weights = hdf5s.renamed(tensors, f"{name}/transformer/", wte)
    with h5py.File(path, "w") as file:
        file.attrs["layer_names"] = [b"transformer"]
        file.attrs["backend"] = b"tensorflow"
        file.attrs["keras_version"] = b"2.4.0"
        group = file.create_group("transformer")
        group.attrs["weight_names"] = [key.encode() for key in weights]
        for key, x in weights.items():
            place = group.create_dataset(key, x.shape, dtype=x.dtype)
            if x.shape:
                place[:] = x
        top = file.create_group("top_level_model_weights")
        top.attrs["weight_names"] = []
    return path


@pytest.fixture(params=[torch.float64, torch.float32])
def model(request):
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=31, n_positions=9, n_embd=24, n_head=4, n_layer=12, n_inner=20)
    model = GPT2LMHeadModel(config).to(request.param).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.3)
    return model


@pytest.mark.parametrize("name", PREFIXES)
def test_what_h5py_writes_in_keras_layout_has_the_logits_of_transformers(tmp_path, model, name):
    model.config.name_or_path = name
    model.config.save_pretrained(tmp_path)
    exact = model.dtype == torch.float64
    path = save(tmp_path / "tf_model.h5", model, np.float64 if exact else np.float32, PREFIXES[name])
    ours = numgpt.load(tmp_path)
    assert ours.params["wte"].dtype == (np.float64 if exact else np.float32)
    with torch.no_grad():
        logits = model(torch.tensor([IDS])).logits[0].numpy()
    tolerance = (1e-11 if exact else 3e-5) * abs(logits).max()
    np.testing.assert_allclose(numgpt.forward(IDS, ours.params, ours.config), logits, rtol=0, atol=tolerance)
    opened = open_checkpoint(path)
    with h5py.File(path) as file:
        for key, tensor in opened.tensors.items():
            np.testing.assert_array_equal(tensor.read(), file[key][()], strict=True)
    assert len(opened.tensors) == 4 + 12 * 12


@pytest.mark.parametrize("dtype", ["f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8"])
def test_each_type_of_h5py(tmp_path, dtype):
    x = np.random.default_rng(0).integers(-100, 100, (3, 1, 5)).astype(dtype)
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file["a"], file["b/scalar"] = x, x[0, 0, 0]
    tensors = read_hdf5(tmp_path / "x.h5")
    np.testing.assert_array_equal(tensors["a"].read(), x)
    np.testing.assert_array_equal(tensors["b/scalar"].read(), x[0, 0, 0])
    assert tensors["a"].dtype == dtype[0].upper() + str(8 * int(dtype[1]))


@pytest.mark.parametrize("count", [0, 1, 8, 9, 500, 5000])
def test_a_group_of_many_arrays(tmp_path, count):
    """500 need a B-tree of several nodes, 5,000 one of several levels; names come in no order, and some go again."""
    generator = np.random.default_rng(count)
    arrays = {f"{i} {'x' * (i % 40)}": generator.standard_normal(i % 3 + 1) for i in generator.permutation(count)}
    with h5py.File(tmp_path / "x.h5", "w") as file:
        group = file.create_group("some/group")
        for name, x in arrays.items():
            group[name] = x
        for name in list(arrays)[::7]:
            del group[name], arrays[name]
    tensors = read_hdf5(tmp_path / "x.h5")
    assert list(tensors) == sorted((f"some/group/{name}" for name in arrays), key=str.encode)
    for name, x in arrays.items():
        np.testing.assert_array_equal(tensors[f"some/group/{name}"].read(), x)


def test_attributes_of_every_kind_are_passed_over(tmp_path):
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file["x"] = np.ones(3)
        for place in file, file["x"]:
            place.attrs["text"] = "t" * 60_000
            place.attrs["texts"] = ["a", "bc"]
            place.attrs["bytes"] = np.array([b"abc"] * 900)
            place.attrs["empty"] = h5py.Empty("f")
            place.attrs["record"] = np.zeros(2, [("a", "f4"), ("b", "i8")])
    assert list(read_hdf5(tmp_path / "x.h5")) == ["x"]


X = np.arange(600, dtype=np.float32)
OTHERS = {
    "chunks": (lambda file: file.create_dataset("g/x", data=X, chunks=(100,)), "g/x: its numbers are stored in chunks"),
    "gzip": (lambda file: file.create_dataset("g/x", data=X, compression="gzip"), "g/x: filters, such as compression"),
    "growing": (lambda file: file.create_dataset("x", data=X, maxshape=(None,)), "x: its numbers are stored in chunks"),
    "big-endian": (
        lambda file: file.create_dataset("x", data=X.astype(">f4")),
        "x: its type is a float of 4 bytes, b",
    ),
    "integers": (
        lambda file: file.create_dataset("x", data=X.astype(">i4")),
        "x: its type is an integer of 4 bytes,",
    ),
    "texts": (
        lambda file: file.create_dataset("x", data=["a", "b"]),
        "x: its type is of variable length, expected",
    ),
    "bytes": (
        lambda file: file.create_dataset("x", data=np.array([b"a", b"b"])),
        "x: its type is a string, expected one",
    ),
    "booleans": (lambda file: file.create_dataset("x", data=X > 3), "x: its type is an enumeration, expected one"),
    "complex": (lambda file: file.create_dataset("x", data=X * 1j), "x: its type is compound, expected one"),
    "nothing": (lambda file: file.create_dataset("x", data=h5py.Empty("f4")), "x: a dataspace without any number"),
    "no rows": (lambda file: file.create_dataset("x", (0, 3)), "x: shape (0, 3), expected no axis of 0"),
    "unwritten": (lambda file: file.create_dataset("x", (3,)), "x: its numbers are nowhere, as if never written"),
    "elsewhere": (
        lambda file: file.create_dataset("x", data=X, external=[("x.raw", 0, 2400)]),
        "x: numbers in anot",
    ),
    "soft link": (lambda file: file.update({"x": h5py.SoftLink("/y")}) or 0, "'x' is a soft link, expected"),
    "external link": (lambda file: file.__setitem__("x", h5py.ExternalLink("y.h5", "/y")), "a group in the newer fo"),
    "two names": (lambda file: (file.__setitem__("x", X), file.__setitem__("y", file["x"])), "y: an object header at"),
    "a type": (lambda file: file.__setitem__("x", np.dtype("f4")), "x: is neither a group nor an array"),
    "an order": (
        lambda file: file.create_group("g", track_order=True),
        "g: an object header of version 2, as libver",
    ),
}


@pytest.mark.parametrize("kind", OTHERS)
def test_what_else_h5py_writes_is_refused_by_what_it_is(tmp_path, monkeypatch, kind):
    make, said = OTHERS[kind]
    monkeypatch.chdir(tmp_path)
    with h5py.File(tmp_path / "x.h5", "w") as file:
        make(file)
    assert refusal(tmp_path / "x.h5", read_hdf5).startswith(f"{tmp_path / 'x.h5'}: {said}")


@pytest.mark.parametrize("libver", ["latest", "v108", "v110", "v114"])
def test_files_for_newer_readers_are_refused_by_their_version(tmp_path, libver):
    with h5py.File(tmp_path / "x.h5", "w", libver=(libver, "latest")) as file:
        file["x"] = X
    said = refusal(tmp_path / "x.h5", read_hdf5)
    assert "an HDF5 file whose superblock has version" in said
    assert said.endswith("write it again as h5py does by default, or with save_pretrained of Transformers 4")


def test_our_own_writer_is_read_by_h5py(tmp_path):
    """What the tests of the plain suite are made of is what it claims to be."""
    arrays = {f"a/b {i}/x": np.full((i + 1, 2), i, dtype) for i, dtype in enumerate(["f2", "f4", "f8", "i8", "u1"] * 9)}
    path = hdf5s.write(tmp_path / "x.h5", arrays, per_node=8, per_tree=3)
    with h5py.File(path) as file:
        for name, x in arrays.items():
            np.testing.assert_array_equal(file[name][()], x, strict=True)
        assert len(file["a"]) == len(arrays)
    hub = hub_tensors()
    with h5py.File(hdf5s.write(tmp_path / "y.h5", hdf5s.renamed(hub))) as file:
        name = "transformer/tfgpt2lm_head_model/transformer/h_._1/attn/c_attn/bias:0"
        np.testing.assert_array_equal(file[name][0], hub["h.1.attn.c_attn.bias"])
