"""numgpt's reader of TensorFlow's checkpoints, and the writer of our tests, against TensorFlow itself."""

import os
import random
from pathlib import Path

import numpy as np
import pytest

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"  # before the import: TensorFlow logs a lot
os.environ["CUDA_VISIBLE_DEVICES"] = "-1"

import tensorflow as tf
from support import bundles

from numgpt.checkpoint.crc32c import crc32c, mask
from numgpt.checkpoint.tensorflow import DATA_TYPES, check_tensors, index_named_by, read_tensorflow
from numgpt.errors import CheckpointError

TYPES = {name: tf.dtypes.as_dtype(number) for number, name in DATA_TYPES.items()}
DICE = np.random.default_rng(0)


def random_array(dtype: str, shape: tuple[int, ...]) -> np.ndarray:
    """Random bits: subnormals, infinities and NaNs too."""
    kind = np.dtype(TYPES[dtype].as_numpy_dtype)
    bits = DICE.integers(0, 2 if dtype == "BOOL" else 256, int(np.prod(shape)) * kind.itemsize, np.uint8)
    return np.frombuffer(bits.tobytes(), kind).reshape(shape)


def openai(C: int = 8, n_layer: int = 2) -> dict[str, np.ndarray]:
    """The variables of openai/gpt-2's src/model.py, in the order of their creation."""
    shapes: dict[str, tuple[int, ...]] = {"wpe": (16, C), "wte": (99, C)}
    for i in range(n_layer):
        for name, n, m in (
            ("attn/c_attn", C, 3 * C), ("attn/c_proj", C, C), ("mlp/c_fc", C, 4 * C), ("mlp/c_proj", 4 * C, C),
        ):  # fmt: skip
            shapes |= {f"h{i}/{name}/w": (1, n, m), f"h{i}/{name}/b": (m,)}
        shapes |= {f"h{i}/{name}": (C,) for name in ("ln_1/g", "ln_1/b", "ln_2/g", "ln_2/b")}
    shapes |= {"ln_f/g": (C,), "ln_f/b": (C,)}
    return {f"model/{name}": DICE.standard_normal(shape).astype("f4") for name, shape in shapes.items()}


def write(prefix: Path, arrays: dict[str, np.ndarray]) -> None:
    """Save with the kernel itself, in the order given."""
    tensors = [tf.constant(array) for array in arrays.values()]
    tf.raw_ops.SaveV2(
        prefix=str(prefix), tensor_names=list(arrays), shape_and_slices=[""] * len(arrays), tensors=tensors
    )


def as_tensors(arrays: dict[str, np.ndarray], shard: int = 0) -> dict[str, bundles.Tensor]:
    name_of = {kind.as_numpy_dtype: name for name, kind in TYPES.items()}
    return {
        name: bundles.Tensor(
            name_of[array.dtype.type if array.dtype.kind != "b" else np.bool_], array.shape, array.tobytes(), shard
        )
        for name, array in arrays.items()
    }


def assert_read(path: Path, arrays: dict[str, np.ndarray]) -> None:
    """Each array, to the bit, as TensorFlow has it; halves after TensorFlow's own widening, where a NaN stays a NaN."""
    found = read_tensorflow(path)
    assert list(found) == sorted(arrays, key=str.encode)
    reader = tf.train.load_checkpoint(str(path).removesuffix(".index").removesuffix(".data-00000-of-00001"))
    for name, array in arrays.items():
        assert reader.get_tensor(name).tobytes() == array.tobytes()
        ours = found[name].read()
        assert ours.shape == array.shape == found[name].shape
        if found[name].dtype in ("F16", "BF16"):
            wide = tf.cast(tf.constant(array), tf.float32).numpy()
            nan = np.isnan(wide)
            np.testing.assert_array_equal(np.isnan(ours), nan)
            assert ours[~nan].tobytes() == wide[~nan].tobytes()
        else:
            assert ours.dtype == array.dtype
            assert ours.tobytes() == array.tobytes()
    assert list(check_tensors(path)) == [(name, True) for name in found]


def assert_same_files(folder: Path, a: str, b: str) -> None:
    files = sorted(folder.glob(f"{a}.*"))
    assert len(files) >= 2
    for file in files:
        assert file.read_bytes() == (folder / file.name.replace(a, b, 1)).read_bytes(), file.name


# --- what TensorFlow writes


@pytest.mark.parametrize("dtype", TYPES)
def test_each_dtype_is_read_to_the_bit_and_written_to_the_byte(tmp_path, dtype):
    arrays = {
        "many": random_array(dtype, (30, 50)),
        "none": random_array(dtype, (2, 0)),
        "one": random_array(dtype, ()),
    }
    write(tmp_path / "theirs", arrays)
    assert_read(tmp_path / "theirs.index", arrays)
    bundles.save(tmp_path / "ours", as_tensors(arrays))
    assert_same_files(tmp_path, "theirs", "ours")


def test_openais_variables_are_read_and_written_to_the_byte(tmp_path):
    arrays = dict(sorted(openai(n_layer=12).items()))
    write(tmp_path / "theirs", arrays)
    assert_read(tmp_path / "theirs", arrays)
    bundles.save(tmp_path / "ours", as_tensors(arrays))
    assert_same_files(tmp_path, "theirs", "ours")


def test_the_data_may_lie_in_another_order_than_the_names(tmp_path):
    arrays = openai()
    write(tmp_path / "x", arrays)
    assert_read(tmp_path / "x.data-00000-of-00001", arrays)


def test_what_the_saver_of_openais_time_writes_is_found_and_read(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    arrays = openai()
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        for name, array in arrays.items():
            tf.compat.v1.get_variable(name, initializer=array)
        session.run(tf.compat.v1.global_variables_initializer())
        saver = tf.compat.v1.train.Saver()
        saver.save(session, "model.ckpt")
        assert Path("checkpoint").stat().st_size == 77  # as OpenAI's
        assert index_named_by(tmp_path / "checkpoint") == tmp_path / "model.ckpt.index"
        assert_read(tmp_path / "model.ckpt", arrays)
        saver.save(session, "model", global_step=7)
        assert index_named_by(tmp_path / "checkpoint") == tmp_path / "model-7.index"
        assert_read(tmp_path / "model-7.index", arrays)
        saver.save(session, str(tmp_path / "model.ckpt"))
        assert str(tmp_path) in Path("checkpoint").read_text()  # an absolute path, of which the last part counts
        assert index_named_by(tmp_path / "checkpoint") == tmp_path / "model.ckpt.index"
    bundles.save(tmp_path / "ours", as_tensors(arrays))
    for file in ("index", "data-00000-of-00001"):
        assert (tmp_path / f"model-7.{file}").read_bytes() == (tmp_path / f"ours.{file}").read_bytes()


def test_merged_shards_are_read_and_written_to_the_byte(tmp_path):
    arrays = dict(sorted(openai().items()))
    parts = [dict(list(arrays.items())[i::3]) for i in range(3)]
    for i, part in enumerate(parts):
        write(tmp_path / f"part{i}", part)
    prefixes = [str(tmp_path / f"part{i}") for i in range(3)]
    tf.raw_ops.MergeV2Checkpoints(checkpoint_prefixes=prefixes, destination_prefix=str(tmp_path / "theirs"))
    assert_read(tmp_path / "theirs", arrays)
    tensors = {}
    for i, part in enumerate(parts):
        tensors |= as_tensors(part, shard=i)
    bundles.save(tmp_path / "ours", tensors, 3)
    assert_same_files(tmp_path, "theirs", "ours")


def test_an_index_of_several_blocks_is_read_and_written_to_the_byte(tmp_path):
    arrays = {f"{i:04}{' long' * 100}": np.array([i], "i4") for i in range(1200)}
    write(tmp_path / "theirs", arrays)
    size = (tmp_path / "theirs.index").stat().st_size
    assert size > 2 * (1 << 18)  # TensorFlow begins a new block there
    found = read_tensorflow(tmp_path / "theirs")
    assert [int(tensor.read()[0]) for tensor in found.values()] == list(range(1200))
    bundles.save(tmp_path / "ours", as_tensors(arrays))
    assert_same_files(tmp_path, "theirs", "ours")


def test_names_of_any_letters(tmp_path):
    names = ["a", "a/b", "a0", "B", "é", "重み", "🙂", "~", " "]
    arrays = {name: np.array([i], "i8") for i, name in enumerate(sorted(names, key=str.encode))}
    write(tmp_path / "theirs", arrays)
    assert_read(tmp_path / "theirs", arrays)
    bundles.save(tmp_path / "ours", as_tensors(arrays))
    assert_same_files(tmp_path, "theirs", "ours")


# --- checksums


@pytest.mark.parametrize("size", [0, 1, 290, 291, 5000, 74_240, 74_241, 1_000_003, 5 << 20])
def test_the_checksums_are_tensorflows(tmp_path, size):
    """Of a record, TensorFlow writes 8 bytes of length, their CRC, the data, and the CRC of the data."""
    data = DICE.bytes(size)
    with tf.io.TFRecordWriter(str(tmp_path / "x")) as writer:
        writer.write(data)
    raw = (tmp_path / "x").read_bytes()
    assert raw[8:12] == mask(crc32c(raw[:8])).to_bytes(4, "little")
    assert raw[-4:] == mask(crc32c(data)).to_bytes(4, "little")


def test_a_changed_tensor_is_one_that_tensorflow_refuses_too(tmp_path):
    arrays = dict(sorted(openai().items()))
    write(tmp_path / "x", arrays)
    shard = tmp_path / "x.data-00000-of-00001"
    sound = shard.read_bytes()
    dice = random.Random(0)
    for _ in range(20):
        at = dice.randrange(len(sound))
        shard.unlink()
        shard.write_bytes(sound[:at] + bytes([sound[at] ^ 1 << dice.randrange(8)]) + sound[at + 1 :])
        reader = tf.train.load_checkpoint(str(tmp_path / "x"))
        refused = []
        for name in arrays:
            try:
                reader.get_tensor(name)
            except Exception:  # of several classes, by version
                refused.append(name)
        assert len(refused) == 1
        assert [name for name, sound in check_tensors(tmp_path / "x") if not sound] == refused


# --- what we refuse


def refusal(path: Path) -> str:
    with pytest.raises(CheckpointError) as caught:
        read_tensorflow(path)
    return str(caught.value)


def test_partitioned_variables_are_refused_by_name(tmp_path):
    parts = [tf.constant([[1.0, 2.0]]), tf.constant([[3.0, 4.0]])]
    slices = ["2 2 0,1:0,2", "2 2 1,1:0,2"]
    tf.raw_ops.SaveV2(prefix=str(tmp_path / "x"), tensor_names=["w", "w"], shape_and_slices=slices, tensors=parts)
    expected = (
        "w: partitioned into 2 slices, expected in one piece: save the model again, with tf.compat.v1.train.Saver"
    )
    assert refusal(tmp_path / "x") == f"{tmp_path / 'x.index'}: {expected}"


@pytest.mark.parametrize(("value", "name"), [(b"text", "STRING"), (1j, "COMPLEX128"), (np.complex64(1), "COMPLEX64")])
def test_other_dtypes_are_refused_by_name(tmp_path, value, name):
    tf.raw_ops.SaveV2(
        prefix=str(tmp_path / "x"), tensor_names=["a"], shape_and_slices=[""], tensors=[tf.constant(value)]
    )
    assert f"x.index: a: dtype {name}, expected one of F32, " in refusal(tmp_path / "x")


def test_a_checkpoint_of_objects_is_refused(tmp_path):
    path = tf.train.Checkpoint(w=tf.Variable([1.0])).save(str(tmp_path / "x"))
    assert "_CHECKPOINTABLE_OBJECT_GRAPH: dtype STRING, expected one of F32, " in refusal(Path(path))


def test_what_tensorflow_refuses_we_refuse(tmp_path):
    """Damaged copies of an index: a byte changed, taken out or put in, anywhere, and its checksums repaired."""
    arrays = {"a": random_array("F32", (2, 3)), "b": random_array("I16", ()), "c": random_array("U8", (0, 2))}
    write(tmp_path / "x", arrays)
    index = tmp_path / "x.index"
    raw = index.read_bytes()
    contents = raw[: raw.index(bundles.seal(bundles.pack([]))) - 5]
    assert raw == bundles.join([bundles.seal(contents)], [b"d"])
    dice = random.Random(0)
    both = 0
    for _ in range(1500):
        at = dice.randrange(len(contents))
        put = dice.choice([b"", dice.randbytes(1), b"\0", bytes([contents[at] ^ 1 << dice.randrange(8)])])
        index.unlink()
        index.write_bytes(bundles.join([bundles.seal(contents[:at] + put + contents[at + 1 :])], [b"\xff\xff"]))
        try:
            ours = {name: tensor.read() for name, tensor in read_tensorflow(index).items()}
            sums = dict(check_tensors(index))
        except CheckpointError:
            continue
        reader = tf.train.load_checkpoint(str(tmp_path / "x"))
        assert reader.get_variable_to_shape_map() == {name: list(array.shape) for name, array in ours.items()}
        for name, array in ours.items():
            try:
                theirs = reader.get_tensor(name)
            except Exception:
                assert not sums[name]
                continue
            assert sums[name]
            assert theirs.tobytes() == array.tobytes()
            both += 1
    assert both > 100
