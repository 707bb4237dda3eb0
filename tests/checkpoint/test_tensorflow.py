"""The reader of TensorFlow's checkpoints, without TensorFlow: exact arrays, and one clear message for each fault."""

import math
import os
import tracemalloc
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import bundles
from support.bundles import Tensor, entry, field, header, join, pack, save, seal, table, varint
from support.readers import fuzz, read_or_refused, refusal, write

from numgpt.checkpoint import tensorflow as module
from numgpt.checkpoint.crc32c import crc32c, mask
from numgpt.checkpoint.formats import find_weights, open_weights
from numgpt.checkpoint.tensorflow import check_tensors, index_named_by, read_tensorflow
from numgpt.checkpoint.tensors import DTYPES, LazyTensor
from numgpt.errors import CheckpointError

DAMAGED = "the file is damaged, download it again"
UNKNOWN = f"it is no index of a TensorFlow checkpoint, or {DAMAGED}"
RESAVE = "save the model again, with tf.compat.v1.train.Saver"
WITHOUT = "save the model again, without this variable"
INDEX = "x.ckpt.index"
SHARD = "x.ckpt.data-00000-of-00001"
ITEM = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U64": 8, "U32": 4, "U16": 2}
ITEM |= {"U8": 1, "BOOL": 1}


def message(path: Path, read=read_tensorflow) -> str:
    return refusal(path, read)


def floats(*shape: int) -> Tensor:
    return Tensor("F32", shape, np.arange(math.prod(shape), dtype="<f4").tobytes())


SOUND = {
    "model/h0/attn/c_attn/w": floats(1, 2, 6),
    "model/h0/ln_1/g": floats(2),
    "model/h1/ln_1/g": floats(2),
    "model/wte": Tensor("F16", (3, 2), np.arange(6, dtype="<f2").tobytes()),
}


DATA = b"1234"
CRC = mask(crc32c(DATA))
A = entry(4, [4], 0, 0, 4, CRC)  # a U8 of 4 bytes


# --- sound files


def test_a_literal_checkpoint_is_read(tmp_path):
    write(
        tmp_path / INDEX,
        bytes.fromhex(
            "000006 08011a020801"  # key "": 1 shard, version 1
            "000913 6d6f64656c2f777065 080112081202080112020802280835453f1688"  # "model/wpe": F32, [1, 2], 8 bytes
            "0000000001000000 0081a2ea75"  # restart at 0, 1 of them; not compressed, CRC
            "0000000001000000 00c0f2a1b0"  # metaindex block
            "0001026e0030 0000000001000000 00504f407d"  # "n": the block at 0, of 48 bytes
            f"3508420e {36 * '00'} 57fb808b247547db"
        ),
    )
    write(tmp_path / SHARD, b"\0\0\x80\x3f\0\0\0\xc0")
    tensors = read_tensorflow(tmp_path / INDEX)
    assert list(tensors) == ["model/wpe"]
    assert isinstance(tensors["model/wpe"], LazyTensor)
    assert tensors["model/wpe"].dtype == "F32"
    assert tensors["model/wpe"].shape == (1, 2)
    np.testing.assert_array_equal(tensors["model/wpe"].read(), np.array([[1, -2]], np.float32), strict=True)
    assert list(check_tensors(tmp_path / INDEX)) == [("model/wpe", True)]


# OpenAI's release: layers, width, variables, and the bytes of each model.ckpt.index and model.ckpt.data-00000-of-00001.
RELEASES = [
    (12, 768, 148, 5215, 497_759_232),
    (24, 1024, 292, 10_399, 1_419_292_672),
    (36, 1280, 436, 15_535, 3_096_120_320),
    (48, 1600, 580, 20_724, 6_230_444_800),
]


@pytest.mark.parametrize(("n_layer", "C", "count", "index_size", "data_size"), RELEASES)
def test_openais_releases_are_opened(tmp_path, n_layer, C, count, index_size, data_size):
    shapes: dict[str, tuple[int, ...]] = {"wte": (50257, C), "wpe": (1024, C), "ln_f/g": (C,), "ln_f/b": (C,)}
    for i in range(n_layer):
        for name, n, m in [("attn/c_attn", C, 3), ("attn/c_proj", C, 1), ("mlp/c_fc", C, 4), ("mlp/c_proj", 4 * C, 1)]:
            width = 4 * C if name == "mlp/c_fc" else m * C
            shapes |= {f"h{i}/{name}/w": (1, n, width), f"h{i}/{name}/b": (width,)}
        shapes |= {f"h{i}/{name}": (C,) for name in ("ln_1/g", "ln_1/b", "ln_2/g", "ln_2/b")}
    pairs, at = [(b"", header())], 0
    for name in sorted(shapes):
        size = 4 * math.prod(shapes[name])
        pairs.append((f"model/{name}".encode(), entry(1, shapes[name], 0, at, size, 1)))
        at += size
    raw = table(pairs)
    assert (len(shapes), len(raw), at) == (count, index_size, data_size)

    write(tmp_path / INDEX, raw)
    write(tmp_path / SHARD, b"")
    os.truncate(tmp_path / SHARD, data_size)  # a file with a hole takes no room
    tensors = read_tensorflow(tmp_path / INDEX)
    assert {name: tensor.shape for name, tensor in tensors.items()} == {f"model/{k}": v for k, v in shapes.items()}
    assert list(tensors)[:2] == ["model/h0/attn/c_attn/b", "model/h0/attn/c_attn/w"]
    assert list(tensors)[-4:] == ["model/ln_f/b", "model/ln_f/g", "model/wpe", "model/wte"]


@pytest.mark.parametrize("dtype", bundles.NUMBERS)
def test_each_dtype_is_read_and_checked(tmp_path, dtype):
    count = 5 * 3
    data = (
        np.random.default_rng(0).bytes(count * ITEM[dtype]) if dtype != "BOOL" else bytes(i % 2 for i in range(count))
    )
    save(tmp_path / "x.ckpt", {"0": Tensor("U8", (1,), b"\0"), "a": Tensor(dtype, (5, 3), data)})
    tensor = read_tensorflow(tmp_path / INDEX)["a"]
    array = tensor.read()
    assert (tensor.dtype, tensor.shape, array.shape) == (dtype, (5, 3), (5, 3))
    if dtype in ("F16", "BF16"):
        assert array.dtype == np.float32
        bits = np.frombuffer(data, "<u2")
        expected = bits.view("<f2").astype("f4") if dtype == "F16" else (bits.astype("u4") << 16).view("f4")
        np.testing.assert_array_equal(array.ravel(), expected)
    else:
        assert array.dtype.str[1:] == {"F": "f", "I": "i", "U": "u", "B": "b"}[dtype[0]] + str(ITEM[dtype])
        assert array.tobytes() == data
    flags = array.flags
    assert flags.aligned
    assert flags.c_contiguous
    assert flags.writeable
    assert array.dtype.isnative
    assert all(sound for _, sound in check_tensors(tmp_path / INDEX))


def test_the_dtypes_are_those_of_safetensors():
    assert {name: number for number, name in module.DATA_TYPES.items()} == bundles.NUMBERS
    assert set(module.DATA_TYPES.values()) == set(DTYPES)


def expect(path: Path, tensors: dict[str, Tensor]) -> None:
    found = read_tensorflow(path)
    assert list(found) == sorted(tensors, key=str.encode)
    for name, tensor in tensors.items():
        assert (found[name].dtype, found[name].shape) == tensor[:2]
        array = found[name].read()
        assert (array.astype("<f2") if tensor.dtype == "F16" else array).tobytes() == tensor.data
    assert list(check_tensors(path)) == [(name, True) for name in found]


@pytest.mark.parametrize("name", ["x.ckpt", INDEX, SHARD])
def test_the_prefix_the_index_and_a_shard_all_name_the_checkpoint(tmp_path, name):
    save(tmp_path / "x.ckpt", SOUND)
    expect(tmp_path / name, SOUND)
    expect(str(tmp_path / name), SOUND)


def test_a_prefix_may_look_like_a_shard(tmp_path):
    save(tmp_path / "x.index", SOUND)
    expect(tmp_path / "x.index.index", SOUND)


@pytest.mark.parametrize("size", [1, 40, 80, 120, 160])
def test_the_index_may_have_many_blocks(tmp_path, size):
    tensors = {f"{a}/{i}": floats(i) for a in ("a", "a\x7f", "aé", "b") for i in range(20)}
    path = save(tmp_path / "x.ckpt", tensors, block_size=size)
    assert path.read_bytes().count(bytes([1, 0, 0, 0])) > 10
    expect(path, tensors)


def test_there_may_be_many_shards(tmp_path):
    tensors = {f"{i}": floats(i, 2)._replace(shard=i % 3) for i in range(9)}
    save(tmp_path / "x.ckpt", tensors, 3)
    expect(tmp_path / "x.ckpt", tensors)
    expect(tmp_path / "x.ckpt.data-00001-of-00003", tensors)


def test_a_shard_without_tensors_is_not_needed(tmp_path):
    tensors = {name: tensor._replace(shard=4) for name, tensor in SOUND.items()}
    save(tmp_path / "x.ckpt", tensors, 6)
    for i in (0, 1, 2, 3, 5):
        (tmp_path / f"x.ckpt.data-{i:05}-of-00006").unlink()
    expect(tmp_path / "x.ckpt", tensors)


def test_a_checkpoint_may_have_no_tensors_and_no_shard(tmp_path):
    write(tmp_path / INDEX, bundles.index({}))
    expect(tmp_path / INDEX, {})


def test_scalars_empty_tensors_and_any_names(tmp_path):
    tensors = {name: floats() for name in ("é", "重み", "🙂", " ", "a\nb\0", "~", "\x01")}
    tensors |= {"none": floats(2, 0, 3), "none too": floats(0), "zz": Tensor("BOOL", (0,), b"")}
    expect(save(tmp_path / "x.ckpt", tensors), tensors)


def test_tensors_may_lie_in_another_order_than_their_names(tmp_path):
    pairs = [
        (b"", header()),
        (b"a", A),
        (b"b", entry(4, [0], 0, 0, 0, mask(0))),
        (b"c", entry(4, [0], 0, 4, 0, mask(0))),
    ]
    write(tmp_path / INDEX, table(pairs))
    write(tmp_path / SHARD, DATA)
    empty = Tensor("U8", (0,), b"")
    expect(tmp_path / INDEX, {"a": Tensor("U8", (4,), DATA), "b": empty, "c": empty})


def test_fields_may_come_in_any_order_unknown_ones_are_skipped_and_messages_are_merged(tmp_path):
    unknown = field(99, 7) + field(98, b"text") + varint(97 << 3 | 5) + b"1234" + varint(96 << 3 | 1) + b"12345678"
    crc = varint(6 << 3 | 5) + mask(crc32c(b"1234")).to_bytes(4, "little")
    axis, last = field(2, field(1, 9) + field(2, b"name") + field(1, 2)), field(2, field(1, 2))
    value = crc + field(5, 4) + unknown + field(2, axis) + field(1, 1) + field(2, unknown + last) + field(1, 4)
    first = field(3, unknown + field(1, 1, always=True) + field(2, 9)) + unknown + field(3, field(2, 1)) + field(1, 1)
    write(tmp_path / INDEX, table([(b"", first), (b"a", value)]))
    write(tmp_path / SHARD, b"1234")
    expect(tmp_path / INDEX, {"a": Tensor("U8", (2, 2), b"1234")})


def test_nothing_but_the_index_is_read_before_read(tmp_path, monkeypatch):
    save(tmp_path / "x.ckpt", SOUND)
    tensors = read_tensorflow(tmp_path / INDEX)
    (tmp_path / INDEX).unlink()
    assert tensors["model/h1/ln_1/g"].read().tolist() == [0, 1]
    (tmp_path / SHARD).unlink()
    assert message(tmp_path, lambda _: tensors["model/wte"].read()) == (
        f"{tmp_path / SHARD}: no such file: check the path, or download it"
    )


def test_a_file_that_changed_since_is_not_read(tmp_path):
    save(tmp_path / "x.ckpt", SOUND)
    tensor, steps = read_tensorflow(tmp_path / INDEX)["model/wte"], check_tensors(tmp_path / INDEX)
    assert next(steps) == ("model/h0/attn/c_attn/w", True)
    with open(tmp_path / SHARD, "ab") as file:
        file.write(b"\0")
    where = f"{tmp_path / SHARD}: model/"
    assert message(tmp_path, lambda _: tensor.read()) == (
        f"{where}wte: the file has changed, expected it as its header was read: open it again"
    )
    assert message(tmp_path, lambda _: next(steps)) == (
        f"{where}h0/ln_1/g: the file has changed, expected it as it was at the start: check it again"
    )


def test_a_bool_must_be_0_or_1(tmp_path):
    save(tmp_path / "x.ckpt", {"a": Tensor("BOOL", (2,), b"\0\2")})
    tensor = read_tensorflow(tmp_path / INDEX)["a"]
    expected = f"{tmp_path / SHARD}: a: a BOOL with the byte 2, expected 0 or 1: {DAMAGED}"
    assert message(tmp_path, lambda _: tensor.read()) == expected


# --- checksums of the tensors


@pytest.mark.parametrize("piece", [1, 7, 1 << 20])
def test_each_tensor_with_other_bytes_is_named(tmp_path, monkeypatch, piece):
    monkeypatch.setattr(module, "PIECE", piece)
    path = save(tmp_path / "x.ckpt", SOUND)
    sound = (tmp_path / SHARD).read_bytes()
    end = 0
    for name, tensor in sorted(SOUND.items()):
        for at in (end, end + len(tensor.data) - 1):
            write(tmp_path / SHARD, sound[:at] + bytes([sound[at] ^ 4]) + sound[at + 1 :])
            assert dict(check_tensors(path)) == {other: other != name for other in SOUND}
        end += len(tensor.data)
    read_tensorflow(path)  # which does not look


def test_checking_needs_little_memory(tmp_path):
    size = 1 << 24
    data = bytes(size)
    path = save(tmp_path / "x.ckpt", {"a": Tensor("U8", (size,), data)})
    tracemalloc.start()
    assert list(check_tensors(path)) == [("a", True)]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1 << 22


# --- the checkpoint of a folder

OPENAI = b'model_checkpoint_path: "model.ckpt"\nall_model_checkpoint_paths: "model.ckpt"\n'


def test_the_checkpoint_file_of_openai_is_understood(tmp_path):
    assert len(OPENAI) == 77
    write(tmp_path / "model.ckpt.index", b"")
    assert find_weights(tmp_path) == tmp_path / "model.ckpt.index"
    path = write(tmp_path / "checkpoint", OPENAI)
    assert find_weights(tmp_path) == path
    assert index_named_by(path) == tmp_path / "model.ckpt.index"
    (tmp_path / "model.ckpt.index").unlink()
    missing = f"{tmp_path / 'model.ckpt.index'}: no such file: check the path, or download it"
    assert message(path, open_weights) == message(index_named_by(path)) == missing


@pytest.mark.parametrize("end", ["\n", "\r\n", ""])
@pytest.mark.parametrize("name", ["model-1000", "model.ckpt", "модель 7", ".."])
def test_the_checkpoint_file_names_the_newest_checkpoint(tmp_path, name, end):
    write(tmp_path / "model.ckpt.index", b"")
    text = f'all_model_checkpoint_paths: "model-1"\nmodel_checkpoint_path: "{name}"{end}'
    write(tmp_path / "checkpoint", text.encode())
    assert index_named_by(tmp_path / "checkpoint") == tmp_path / f"{name}.index"


@pytest.mark.parametrize("name", ["/content/run1/model-7", "../model-7", "a/b/model-7", "model-7"])
def test_only_the_last_part_of_a_path_counts(tmp_path, name):
    write(tmp_path / "checkpoint", f'model_checkpoint_path: "{name}"\n'.encode())
    assert index_named_by(tmp_path / "checkpoint") == tmp_path / "model-7.index"


@pytest.mark.parametrize(
    "name", ["", "/", "a/..b:", "C:model", "a\\\\b", "a\\x", "a\0b", "a\\nb", "a\x1b[1m", 'a"b', "a\nb"]
)
def test_the_checkpoint_file_may_only_name_a_file_beside_it(tmp_path, name):
    text = f'model_checkpoint_path: "{name}"\n'
    path = write(tmp_path / "checkpoint", text.encode())
    said = message(tmp_path / "checkpoint", index_named_by)
    assert said.startswith(f"{path}: 'model_checkpoint_path: \"")
    assert said.endswith(
        ', expected model_checkpoint_path: "...", a name in the same folder: give the path of the .index file'
    )
    assert said.isprintable()


@pytest.mark.parametrize("raw", [b"", b"\xff\xfe", b"{}", b"x" * 2_000_000, b'# model_checkpoint_path: "a"'])
def test_a_checkpoint_file_that_names_nothing_is_refused(tmp_path, raw):
    write(tmp_path / "checkpoint", raw)
    said = message(tmp_path / "checkpoint", index_named_by)
    assert "a name in the same folder" in said
    assert len(said) < 400


def test_of_an_endless_checkpoint_file_only_the_beginning_is_read(tmp_path):
    path = write(tmp_path / "checkpoint", OPENAI)
    os.truncate(path, 1 << 26)
    tracemalloc.start()
    assert index_named_by(tmp_path / "checkpoint") == tmp_path / "model.ckpt.index"
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1 << 23


def test_a_folder_with_the_name_checkpoint_is_no_checkpoint_file(tmp_path):
    (tmp_path / "checkpoint").mkdir()
    write(tmp_path / "model.ckpt.index", b"")
    assert find_weights(tmp_path) == tmp_path / "model.ckpt.index"


# --- unsound files: their bytes, and what is said of them after the path of the index

PAIRS = [(b"", header()), (b"a", A)]
BLOCK = pack(PAIRS)
TYPES = "F32, F64, I32, U8, I16, I8, I64, BOOL, BF16, U16, F16, U32, U64"
HEAD = b"\0\0\6" + header()  # the header's entry in a block
ONE = b"\0\0\0\0\1\0\0\0"  # one restart point, at 0


def a(value: bytes) -> bytes:
    """An index whose only tensor, `a`, has this message."""
    return table([(b"", header()), (b"a", value)])


def block(contents: bytes) -> bytes:
    return join([seal(contents)], [b"\xff"])


def looks_like(kind: str, remedy: str) -> str:
    return f"it looks like {kind}, expected the index of a TensorFlow checkpoint: {remedy}"


UNSOUND: dict[str, tuple[bytes, str]] = {
    # the file
    "empty": (b"", f"0 bytes, expected at least 48: {UNKNOWN}"),
    "47 bytes": (bytes(47), f"47 bytes, expected at least 48: {UNKNOWN}"),
    "no magic": (bytes(48), f"ends with 0000000000000000, expected 57fb808b247547db: {UNKNOWN}"),
    "cut by a byte": (table(PAIRS)[:-1], f"ends with 0057fb808b247547, expected 57fb808b247547db: {UNKNOWN}"),
    "too large": (bytes(1_000_001), "1,000,001 bytes, expected at most 1,000,000: it is no index of a GPT-2"),
    "web page": (
        b"<?xml version='1.0'?><Error><Code>BlobNotFound</Code></Error>",
        looks_like("a web page", "download the file itself"),
    ),
    "git lfs": (
        b"version https://git-lfs.github.com/spec/v1\noid sha256:71916f\nsize 5215\n",
        looks_like("a Git LFS pointer", "run 'git lfs pull', or download the file that it stands for"),
    ),
    "hdf5": (
        b"\x89HDF\r\n\x1a\n" + bytes(99),
        looks_like("an HDF5 file, as Keras writes it", "use the model's .safetensors file"),
    ),
    # the footer
    "footer alone": (
        bundles.footer((0, 0), (0, 0)),
        "footer: blocks at bytes 0 to 5 and 0 to 5, "
        f"expected one after the other, the last one up to byte 0: {DAMAGED}",
    ),
    "a handle without end": (
        b"\xff" * 40 + bundles.MAGIC,
        "footer: the bytes ffffffffffffffffffff, "
        f"expected a varint of at most 64 bits, in its shortest form: {DAMAGED}",
    ),
    "a handle of 2^64": (
        bundles.footer((0, 0), (0, 0))[:2] + b"\xff" * 9 + b"\2" + bytes(28) + bundles.MAGIC,
        "footer: the bytes ffffffffffffffffff02, "
        f"expected a varint of at most 64 bits, in its shortest form: {DAMAGED}",
    ),
    "blocks out of the file": (
        bundles.footer((2**63, 2**64 - 1), (0, 8)),
        "footer: blocks at bytes 9,223,372,036,854,775,808 to 27,670,116,110,564,327,428 and 0 to 13, "
        f"expected one after the other, the last one up to byte 0: {DAMAGED}",
    ),
    "junk in the footer": (
        table(PAIRS)[:-9] + b"\1" + bundles.MAGIC,
        "footer: blocks at bytes 41 to 54 and 54 to 73, "
        f"expected one after the other, the last one up to byte 73: {DAMAGED}",
    ),
    "junk between the blocks": (
        (lambda raw: raw[:-48] + b"\0" + raw[-48:])(table(PAIRS)),
        "footer: blocks at bytes 41 to 54 and 54 to 73, "
        f"expected one after the other, the last one up to byte 74: {DAMAGED}",
    ),
    "junk behind the metaindex": (
        table(PAIRS)[:54] + b"\0" + table(PAIRS)[54:-48] + bundles.footer((41, 8), (55, 14)),
        "footer: blocks at bytes 41 to 54 and 55 to 74, "
        f"expected one after the other, the last one up to byte 74: {DAMAGED}",
    ),
    "junk in front": (
        b"\0" + table(PAIRS),
        "footer: blocks at bytes 41 to 54 and 54 to 73, "
        f"expected one after the other, the last one up to byte 74: {DAMAGED}",
    ),
    # blocks
    "wrong CRC of the data": (
        b"\0\1" + table(PAIRS)[2:],
        f"block at byte 0: the masked CRC-32C 0x1d674937, expected 0xb01f249e: {DAMAGED}",
    ),
    "wrong CRC of the metaindex": (
        (lambda raw, at: raw[:at] + b"\1" + raw[at + 1 :])(table(PAIRS), len(seal(BLOCK))),
        f"block at byte 41: the masked CRC-32C 0x4511da6d, expected 0xb0a1f2c0: {DAMAGED}",
    ),
    "wrong CRC of the index": (
        table(PAIRS)[:-49] + b"\0" + table(PAIRS)[-48:],
        f"block at byte 54: the masked CRC-32C 0x356b995a, expected 0x006b995a: {DAMAGED}",
    ),
    "snappy": (
        join([seal(BLOCK, 1)], [b"b"]),
        f"block at byte 0: compressed with Snappy, expected no compression: {RESAVE}",
    ),
    "unknown compression": (
        join([seal(BLOCK, 7)], [b"b"]),
        f"block at byte 0: of compression type 7, expected no compression: {RESAVE}",
    ),
    "a hole between blocks": (
        bundles.with_index([seal(BLOCK), b"\0"], pack([(b"b", varint(0) + varint(len(BLOCK)))])),
        f"index block: the data blocks end at byte 41, expected 42: {DAMAGED}",
    ),
    "block out of the data": (
        bundles.with_index([seal(BLOCK)], pack([(b"b", varint(0) + varint(2**62))])),
        "index block: a block at bytes 0 to 4,611,686,018,427,387,909, "
        f"expected one that begins at 0 and ends by 41: {DAMAGED}",
    ),
    "block of no size": (
        bundles.with_index([seal(BLOCK)], pack([(b"b", b"\0\0")])),
        f"block at byte 0: the masked CRC-32C 0x49258fd2, expected 0x01080600: {DAMAGED}",
    ),
    "block twice": (
        bundles.with_index([seal(BLOCK)], pack([(k, varint(0) + varint(len(BLOCK))) for k in (b"b", b"c")])),
        f"index block: a block at bytes 0 to 41, expected one that begins at 41 and ends by 41: {DAMAGED}",
    ),
    "handle cut": (
        bundles.with_index([seal(BLOCK)], pack([(b"b", b"\0")])),
        f"index block: the bytes (none), expected a varint of at most 64 bits, in its shortest form: {DAMAGED}",
    ),
    "handle with more": (
        bundles.with_index([seal(BLOCK)], pack([(b"b", varint(0) + varint(len(BLOCK)) + b"\0")])),
        f"index block: a block at bytes 0 to 41, expected one that begins at 0 and ends by 41: {DAMAGED}",
    ),
    "block left over": (
        bundles.with_index([seal(BLOCK), seal(BLOCK)], pack([(b"b", varint(0) + varint(len(BLOCK)))])),
        f"index block: the data blocks end at byte 41, expected 82: {DAMAGED}",
    ),
    "no blocks": (join([], []), f"no header, expected one, under the key b'': {DAMAGED}"),
    "block without entries": (
        block(pack([])),
        f"index block: a block at byte 0 without entries, expected at least one: {DAMAGED}",
    ),
    "key of the block too small": (
        join([seal(BLOCK)], [b"A"]),
        f"index block: the key b'A' of a block, expected b'a', its last key, or more: {DAMAGED}",
    ),
    "next block begins too early": (
        join([seal(BLOCK), seal(pack([(b"b", A)]))], [b"b", b"c"]),
        f"the key b'b' after b'b', expected a larger one: {DAMAGED}",
    ),
    # contents
    "no restart points": (
        block(b"\0\0\0\0"),
        f"block at byte 0: 4 bytes with 0 restart points, expected at least 1, that fit: {DAMAGED}",
    ),
    "contents of 3 bytes": (
        block(b"\1\0\0"),
        f"block at byte 0: 3 bytes with 1 restart points, expected at least 1, that fit: {DAMAGED}",
    ),
    "2^32 - 1 restart points": (
        block(b"\xff\xff\xff\xff"),
        f"block at byte 0: 4 bytes with 4,294,967,295 restart points, expected at least 1, that fit: {DAMAGED}",
    ),
    "restart points that do not begin at 0": (
        block(HEAD + b"\1\0\0\0\1\0\0\0"),
        f"block at byte 0: restart points [1], expected some of [0] in order, 0 first: {DAMAGED}",
    ),
    "restart points that begin at the second entry": (
        block(pack(PAIRS, 1)[:-12] + b"\x09\0\0\0\1\0\0\0"),
        f"block at byte 0: restart points [9], expected some of [0, 9] in order, 0 first: {DAMAGED}",
    ),
    "restart point within an entry": (
        block(HEAD + b"\0\0\0\0\1\0\0\0\2\0\0\0"),
        f"block at byte 0: restart points [0, 1], expected some of [0] in order, 0 first: {DAMAGED}",
    ),
    "restart point at a shared key": (
        block(
            BLOCK[:-8]
            + b"\1\1"
            + varint(len(A))
            + b"b"
            + A
            + b"\0\0\0\0"
            + (len(BLOCK) - 8).to_bytes(4, "little")
            + b"\2\0\0\0"
        ),
        f"block at byte 0: restart points [0, 28], expected some of [0, 9] in order, 0 first: {DAMAGED}",
    ),
    "restart points not in order": (
        block(pack(PAIRS, 1)[:-12] + b"\x09\0\0\0" + b"\0\0\0\0" + b"\2\0\0\0"),
        f"block at byte 0: restart points [9, 0], expected some of [0, 9] in order, 0 first: {DAMAGED}",
    ),
    "restart point twice": (
        block(HEAD + b"\0\0\0\0\0\0\0\0\2\0\0\0"),
        f"block at byte 0: restart points [0, 0], expected some of [0] in order, 0 first: {DAMAGED}",
    ),
    "restart point at the end": (
        block(HEAD + b"\0\0\0\0\x09\0\0\0\2\0\0\0"),
        f"block at byte 0: restart points [0, 9], expected some of [0] in order, 0 first: {DAMAGED}",
    ),
    "more shared than there is": (
        block(HEAD + b"\1\0\0" + ONE),
        "block at byte 0: at byte 9, 1 shared bytes of key, 0 more and 0 of value, "
        f"expected at most 0 shared, 1,024 of key, and all of it before byte 12: {DAMAGED}",
    ),
    "key past the end": (
        block(HEAD + b"\0\7\0a" + ONE),
        "block at byte 0: at byte 9, 0 shared bytes of key, 7 more and 0 of value, "
        f"expected at most 0 shared, 1,024 of key, and all of it before byte 13: {DAMAGED}",
    ),
    "value past the end": (
        block(HEAD + b"\0\1\7a" + ONE),
        "block at byte 0: at byte 9, 0 shared bytes of key, 1 more and 7 of value, "
        f"expected at most 0 shared, 1,024 of key, and all of it before byte 13: {DAMAGED}",
    ),
    "value of 2^63": (
        block(HEAD + b"\0\1" + varint(2**63) + b"a" + ONE),
        "block at byte 0: at byte 9, 0 shared bytes of key, 1 more and 9,223,372,036,854,775,808 of value, "
        f"expected at most 0 shared, 1,024 of key, and all of it before byte 22: {DAMAGED}",
    ),
    "entry cut": (
        block(HEAD + b"\x80" + ONE),
        "block at byte 0: the bytes 800000000001000000, "
        f"expected a varint of at most 64 bits, in its shortest form: {DAMAGED}",
    ),
    "key too long": (
        table([(b"", header()), (b"a" * 1025, A)]),
        "block at byte 0: at byte 9, 0 shared bytes of key, 1,025 more and 15 of value, "
        f"expected at most 0 shared, 1,024 of key, and all of it before byte 1,053: {DAMAGED}",
    ),
    "key too long by sharing": (
        block(HEAD + b"\0" + varint(1024) + b"\0" + bytes(1024) + varint(1024) + b"\1\0a" + ONE),
        "block at byte 0: at byte 1,037, 1,024 shared bytes of key, 1 more and 0 of value, "
        f"expected at most 1,024 shared, 1,024 of key, and all of it before byte 1,042: {DAMAGED}",
    ),
    "keys not sorted": (
        table([(b"", header()), (b"b", A), (b"a", A)]),
        f"the key b'a' after b'b', expected a larger one: {DAMAGED}",
    ),
    "key twice": (
        table([(b"", header()), (b"a", A), (b"a", A)]),
        f"the key b'a' after b'a', expected a larger one: {DAMAGED}",
    ),
    "key not UTF-8": (table([(b"", header()), (b"a\xff", A)]), f"the name b'a\\xff', expected UTF-8: {DAMAGED}"),
    "no header": (table([(b"a", A)]), f"no header, expected one, under the key b'': {DAMAGED}"),
    # the header
    "no shards": (table([(b"", header(0))]), f"header: 0 shards, expected 1 to 99,999: {DAMAGED}"),
    "-1 shards": (table([(b"", header(-1))]), f"header: -1 shards, expected 1 to 99,999: {DAMAGED}"),
    "2^31 shards": (table([(b"", header(2**31))]), f"header: 2,147,483,648 shards, expected 1 to 99,999: {DAMAGED}"),
    "big-endian": (
        table([(b"", header(endianness=1))]),
        f"header: endianness 1, expected 0, little-endian: {RESAVE}, on another machine",
    ),
    "a later version": (
        table([(b"", header(version=field(2, 2)))]),
        f"header: a format for readers of version 2, expected at most 1: {RESAVE}",
    ),
    "shards as text": (
        table([(b"", field(1, b"1"))]),
        f"header: a field of number 1 and kind 2, expected kind 0: {DAMAGED}",
    ),
    "an old checkpoint of version 1": (
        table([(b"", field(1, field(1, b"x")))]),
        f"header: a field of number 1 and kind 2, expected kind 0: {DAMAGED}",
    ),
    # protocol buffers
    "cut in a number": (
        a(A + b"\x80"),
        f"a: the bytes 80, expected a varint of at most 64 bits, in its shortest form: {DAMAGED}",
    ),
    "number of 11 bytes": (
        a(b"\x08" + b"\x80" * 10 + b"\0"),
        f"a: the bytes 80808080808080808080, expected a varint of at most 64 bits, in its shortest form: {DAMAGED}",
    ),
    "number of 2^64": (
        a(b"\x08" + b"\xff" * 9 + b"\2"),
        f"a: the bytes ffffffffffffffffff02, expected a varint of at most 64 bits, in its shortest form: {DAMAGED}",
    ),
    "number with a group too many": (
        a(A + b"\x08\x84\0"),
        f"a: the bytes 8400, expected a varint of at most 64 bits, in its shortest form: {DAMAGED}",
    ),
    "cut in a field": (
        a(varint(99 << 3 | 2) + b"\7abc"),
        f"a: field 99 of 7 bytes, expected at most the 3 left: {DAMAGED}",
    ),
    "field of 2^63 bytes": (
        a(b"\x12" + varint(2**63)),
        f"a: field 2 of 9,223,372,036,854,775,808 bytes, expected at most the 0 left: {DAMAGED}",
    ),
    "cut in 4 bytes": (
        a(varint(6 << 3 | 5) + b"123"),
        f"a: field 6 of 4 bytes, expected at most the 3 left: {DAMAGED}",
    ),
    "cut in 8 bytes": (
        a(varint(99 << 3 | 1) + b"1234567"),
        f"a: field 99 of 8 bytes, expected at most the 7 left: {DAMAGED}",
    ),
    "field 0": (
        a(b"\0\0"),
        f"a: a field of number 0 and kind 0, expected number 1 or more and kind 0, 1, 2 or 5: {DAMAGED}",
    ),
    "a group": (
        a(varint(99 << 3 | 3)),
        f"a: a field of number 99 and kind 3, expected number 1 or more and kind 0, 1, 2 or 5: {DAMAGED}",
    ),
    "dtype as text": (a(field(1, b"1")), f"a: a field of number 1 and kind 2, expected kind 0: {DAMAGED}"),
    "shape as a number": (
        a(field(1, 4) + field(2, 4)),
        f"a: a field of number 2 and kind 0, expected kind 2: {DAMAGED}",
    ),
    "CRC as a varint": (a(field(1, 4) + field(6, 4)), f"a: a field of number 6 and kind 0, expected kind 5: {DAMAGED}"),
    "axis as a number": (
        a(field(1, 4) + field(2, field(2, 4))),
        f"a: a field of number 2 and kind 0, expected kind 2: {DAMAGED}",
    ),
    # tensors
    "no dtype": (a(b""), f"a: dtype missing, expected one of {TYPES}: {WITHOUT}"),
    "strings": (a(entry(7, [4], 0, 0, 4, CRC)), f"a: dtype STRING, expected one of {TYPES}: {WITHOUT}"),
    "complex": (a(entry(18, [4], 0, 0, 64, CRC)), f"a: dtype COMPLEX128, expected one of {TYPES}: {WITHOUT}"),
    "a resource": (a(entry(20, [], 0, 0, 0, CRC)), f"a: dtype RESOURCE, expected one of {TYPES}: {WITHOUT}"),
    "unknown dtype": (a(entry(99, [4], 0, 0, 4, CRC)), f"a: dtype number 99, expected one of {TYPES}: {WITHOUT}"),
    "negative dtype": (a(entry(-1, [4], 0, 0, 4, CRC)), f"a: dtype number -1, expected one of {TYPES}: {WITHOUT}"),
    "slices": (
        table([(b"", header()), (b"\0a\xff", A), (b"a", A + field(7, b"x") + field(7, b"y"))]),
        f"a: partitioned into 2 slices, expected in one piece: {RESAVE}",
    ),
    "a slice of nothing": (
        table([(b"", header()), (b"\0a\xff", A)]),
        f"slices that belong to no tensor, expected whole tensors: {DAMAGED}",
    ),
    "unknown rank": (
        a(field(1, 4) + field(2, field(3, 1)) + field(5, 4)),
        f"a: shape of unknown rank, expected at most 64 integers, none below 0: {DAMAGED}",
    ),
    "unknown axis": (
        a(entry(4, [4, -1], 0, 0, 4, CRC)),
        f"a: shape (4, -1), expected at most 64 integers, none below 0: {DAMAGED}",
    ),
    "65 axes": (
        a(entry(4, [4] + [1] * 64, 0, 0, 4, CRC)),
        f"a: shape (4, 1, 1, 1, 1, 1, ...), expected at most 64 integers, none below 0: {DAMAGED}",
    ),
    "too large a tensor": (
        a(entry(4, [2**62, 2**62], 0, 0, 4, CRC)),
        f"a: shape (4611686018427387904, 4611686018427387904), expected one that fits into memory: {DAMAGED}",
    ),
    "too large, but empty": (
        a(entry(4, [2**62, 0], 0, 0, 0, CRC)),
        f"a: shape (4611686018427387904, 0), expected one that fits into memory: {DAMAGED}",
    ),
    "size of 2^64": (
        a(entry(4, [2**32, 2**32], 0, 0, 0, CRC)),
        f"a: shape (4294967296, 4294967296), expected one that fits into memory: {DAMAGED}",
    ),
    "too few bytes": (a(entry(4, [4], 0, 0, 3, CRC)), f"a: has 3 bytes, expected 4 for U8 of shape (4,): {DAMAGED}"),
    "too many bytes": (a(entry(4, [4], 0, 0, 5, CRC)), f"a: has 5 bytes, expected 4 for U8 of shape (4,): {DAMAGED}"),
    "-4 bytes": (a(entry(4, [4], 0, 0, -4, CRC)), f"a: has -4 bytes, expected 4 for U8 of shape (4,): {DAMAGED}"),
    "shard 1": (a(entry(4, [4], 1, 0, 4, CRC)), f"a: shard 1, expected 0 to 0: {DAMAGED}"),
    "shard -1": (a(entry(4, [4], -1, 0, 4, CRC)), f"a: shard -1, expected 0 to 0: {DAMAGED}"),
    "before the shard": (
        a(entry(4, [4], 0, -4, 4, CRC)),
        f"a: begins at byte -4, expected 0, where the tensors before it end: {DAMAGED}",
    ),
    "out of the shard": (
        a(entry(4, [4], 0, 2**63 - 1, 4, CRC)),
        f"a: begins at byte 9,223,372,036,854,775,807, expected 0, where the tensors before it end: {DAMAGED}",
    ),
    "a hole": (
        table([*PAIRS, (b"b", entry(4, [1], 0, 5, 1, 0))]),
        f"b: begins at byte 5, expected 4, where the tensors before it end: {DAMAGED}",
    ),
    "an overlap": (
        table([*PAIRS, (b"b", entry(4, [1], 0, 3, 1, 0))]),
        f"b: begins at byte 3, expected 4, where the tensors before it end: {DAMAGED}",
    ),
    "the same bytes": (
        table([*PAIRS, (b"b", A)]),
        f"b: begins at byte 0, expected 4, where the tensors before it end: {DAMAGED}",
    ),
    "empty inside another": (
        table([*PAIRS, (b"b", entry(4, [0], 0, 1, 0, 0))]),
        f"b: begins at byte 1, expected 4, where the tensors before it end: {DAMAGED}",
    ),
    "name with control characters": (
        table([(b"", header()), (b"a\x1b[1m\n", b"")]),
        f"'a\\x1b[1m\\n': dtype missing, expected one of {TYPES}: {WITHOUT}",
    ),
    "endless name": (
        table([(b"", header()), (b"a" * 1000, b"")]),
        "'aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa...aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa': "
        f"dtype missing, expected one of {TYPES}: {WITHOUT}",
    ),
}


@pytest.mark.parametrize(("raw", "expected"), [pytest.param(*case, id=name) for name, case in UNSOUND.items()])
def test_an_unsound_index_is_refused(tmp_path, raw, expected):
    path = write(tmp_path / INDEX, raw)
    write(tmp_path / SHARD, DATA)
    assert message(path) == f"{path}: {expected}"
    assert message(path, lambda path: list(check_tensors(path))) == f"{path}: {expected}"


@pytest.mark.parametrize("size", range(0, 220, 10))
def test_a_cut_index_is_refused(tmp_path, size):
    raw = bundles.index(SOUND)
    path = write(tmp_path / INDEX, raw[:size])
    write(tmp_path / SHARD, b"".join(SOUND[name].data for name in sorted(SOUND)))
    assert UNKNOWN in message(path)


def test_a_shard_of_another_size_is_refused(tmp_path):
    save(tmp_path / "x.ckpt", SOUND)
    shard = tmp_path / SHARD
    size = shard.stat().st_size
    for other in (0, size - 1, size + 1):
        write(shard, bytes(other))
        expected = f"{shard}: {other:,} bytes, expected {size}, where the last tensor ends: {DAMAGED}"
        assert message(tmp_path / INDEX) == expected


def test_all_missing_shards_are_named(tmp_path):
    tensors = {f"{i}": floats(2)._replace(shard=i) for i in range(4)}
    path = save(tmp_path / "x.ckpt", tensors, 4)
    for i in (1, 3):
        (tmp_path / f"x.ckpt.data-0000{i}-of-00004").unlink()
    assert message(path) == (
        f"{path}: shards are missing, expected in the same folder: "
        "x.ckpt.data-00001-of-00004, x.ckpt.data-00003-of-00004: download them"
    )


def test_thousands_of_missing_shards_make_a_short_message(tmp_path):
    pairs = [(b"", header(99_999)), *((f"{i:04}".encode(), entry(4, [0], i, 0, 0, 0)) for i in range(2000))]
    path = write(tmp_path / INDEX, table(pairs))
    assert message(path).endswith("x.ckpt.data-00099-of-99999 and 1,900 more: download them")


def test_a_shard_must_be_a_file(tmp_path):
    path = save(tmp_path / "x.ckpt", SOUND)
    (tmp_path / SHARD).unlink()
    (tmp_path / SHARD).mkdir()
    expected = f"{tmp_path / SHARD}: a folder or a device, expected a file: give the path of the file"
    assert message(path) == expected


def test_a_missing_index_is_named(tmp_path):
    expected = f"{tmp_path / INDEX}: no such file: check the path, or download it"
    assert [message(tmp_path / name) for name in ("x.ckpt", INDEX, SHARD)] == [expected] * 3


LIMIT = 50_000  # instead of MAX_INDEX, so that the test is fast: time and memory grow with the size alone
ROOM = LIMIT - 2000
EMPTY = field(1, 4) + field(2, field(2, b"", always=True))
HOSTILE = {  # one thing, as often as it fits
    "long keys that share all but 3 bytes": b"\0" + varint(1024) + b"\0" + bytes(1024)
    + b"".join(varint(1021) + b"\3\0" + i.to_bytes(3, "big") for i in range(1, ROOM // 7)),
    "empty tensors": b"".join(
        b"\0\5" + varint(len(EMPTY)) + f"{i:05}".encode() + EMPTY for i in range(ROOM // (8 + len(EMPTY)))
    ),
    "axes": b"\0\1" + varint(ROOM) + b"a" + field(1, 4) + field(2, b"\x12\0" * (ROOM // 2 - 3)),
    "fields": b"\0\1" + varint(ROOM) + b"a" + b"\x08\1" * (ROOM // 2),
    "slices": b"\0\1" + varint(ROOM) + b"a" + field(1, 4) + b"\x3a\0" * (ROOM // 2 - 1),
}  # fmt: skip


@pytest.mark.parametrize("contents", [pytest.param(case, id=name) for name, case in HOSTILE.items()])
@pytest.mark.thorough
def test_a_hostile_index_takes_little_memory(tmp_path, monkeypatch, contents):
    monkeypatch.setattr(module, "MAX_INDEX", LIMIT)
    path = write(tmp_path / INDEX, block(HEAD + contents + ONE))
    write(tmp_path / SHARD, b"")
    assert 0.9 * LIMIT < path.stat().st_size < LIMIT
    tracemalloc.start()
    is_taken(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 150 * LIMIT


# --- fuzzing: whatever is in a file, it is read or a CheckpointError says why not


def is_taken(path: Path) -> bool:
    """Whether the checkpoint is read whole, and its checksums too; else it was refused."""
    tensors = read_or_refused(path, read_tensorflow, longest=2000)
    assert tensors is None or [name for name, _ in check_tensors(path)] == list(tensors)
    return tensors is not None


@st.composite
def sound_tensors(draw) -> dict[str, Tensor]:
    names = draw(st.lists(st.text(min_size=1, max_size=6).filter(lambda s: s[0] != "\0"), unique=True, max_size=5))
    tensors = {}
    for name in names:
        dtype = draw(st.sampled_from(sorted(set(bundles.NUMBERS) - {"BOOL"})))
        shape = tuple(draw(st.lists(st.integers(0, 3), max_size=3)))
        size = math.prod(shape) * ITEM[dtype]
        tensors[name] = Tensor(dtype, shape, draw(st.binary(min_size=size, max_size=size)), draw(st.integers(0, 1)))
    return tensors


@fuzz()
@given(tensors=sound_tensors(), block_size=st.sampled_from([1, 50, 1 << 18]))
def test_any_sound_checkpoint_is_read(tmp_path, tensors, block_size):
    path = save(tmp_path / "x.ckpt", tensors, 2, block_size)
    found = read_tensorflow(path)
    assert list(found) == sorted(tensors, key=str.encode)
    for name, tensor in tensors.items():
        array = found[name].read()
        assert array.shape == tensor.shape
        if tensor.dtype not in ("F16", "BF16"):
            assert array.tobytes() == tensor.data
    assert list(check_tensors(path)) == [(name, True) for name in found]


SMALL = {"a/b": Tensor("U8", (4,), DATA), "a/c": floats(2, 1), "b": Tensor("F16", (), b"\0\x3c")}


@pytest.mark.parametrize("block_size", [1, 40, 1 << 18])
@pytest.mark.thorough
def test_each_flipped_bit_of_an_index_is_noticed(tmp_path, block_size):
    path = save(tmp_path / "x.ckpt", SMALL, block_size=block_size)
    raw = path.read_bytes()
    assert is_taken(path)
    for at in range(len(raw)):
        for bit in range(8):
            write(path, raw[:at] + bytes([raw[at] ^ 1 << bit]) + raw[at + 1 :])
            assert not is_taken(path), (at, bit)


@pytest.mark.parametrize("block_size", [pytest.param(1, marks=pytest.mark.thorough), 40, 1 << 18])
def test_each_truncation_of_an_index_is_noticed(tmp_path, block_size):
    path = save(tmp_path / "x.ckpt", SMALL, block_size=block_size)
    raw = path.read_bytes()
    for size in range(len(raw)):
        write(path, raw[:size])
        assert not is_taken(path)
        write(path, raw[size + 1 :])
        assert not is_taken(path)


SMALL_PAIRS = [
    (b"", header()),
    (b"a/b", entry(4, [4], 0, 0, 4, CRC)),
    (b"a/c", entry(1, [2, 1], 0, 4, 8, 1)),
    (b"b", entry(19, [], 0, 12, 2, 1)),
]
SMALL_DATA = bytes(14)


def put(tmp_path: Path, raw: bytes) -> Path:
    write(tmp_path / SHARD, SMALL_DATA)
    return write(tmp_path / INDEX, raw)


@pytest.mark.parametrize("bit", [0, 7, *(pytest.param(bit, marks=pytest.mark.thorough) for bit in range(1, 7))])
def test_each_flipped_bit_behind_a_repaired_checksum(tmp_path, bit):
    data, handles = pack(SMALL_PAIRS), pack([(b"c", varint(0) + varint(len(pack(SMALL_PAIRS))))])
    assert is_taken(put(tmp_path, bundles.with_index([seal(data)], handles)))
    for at in range(len(data)):
        changed = data[:at] + bytes([data[at] ^ 1 << bit]) + data[at + 1 :]
        is_taken(put(tmp_path, bundles.with_index([seal(changed)], handles)))
    for at in range(len(handles)):
        changed = handles[:at] + bytes([handles[at] ^ 1 << bit]) + handles[at + 1 :]
        is_taken(put(tmp_path, bundles.with_index([seal(data)], changed)))


@fuzz(20)
@given(out=st.integers(0, 9), insert=st.binary(max_size=11))
@pytest.mark.thorough
def test_bytes_taken_out_and_put_in_behind_a_repaired_checksum(tmp_path, out, insert):
    data = pack(SMALL_PAIRS)
    for at in range(len(data)):
        is_taken(put(tmp_path, block(data[:at] + insert + data[at + out :])))


NUMBERS = st.sampled_from([-(2**63), -1, 0, 1, 2, 4, 8, 64, 127, 128, 2**31, 2**32, 2**62, 2**63, 2**64 - 1])
TAGS = st.builds(lambda number, kind: varint(number << 3 | kind), st.integers(0, 9), st.integers(0, 7))
FIELDS = st.one_of(
    st.builds(field, st.integers(1, 8), NUMBERS | st.integers(0, 30), st.just(True)),
    st.builds(bundles.fixed32, st.integers(1, 8), st.integers(0, 2**32 - 1)),
    st.builds(lambda tag, rest: tag + rest, TAGS, st.binary(max_size=12)),
)
MESSAGES = st.recursive(
    st.lists(FIELDS, max_size=4).map(b"".join),
    lambda inner: st.lists(FIELDS | st.builds(field, st.integers(1, 8), inner), max_size=4).map(b"".join),
    max_leaves=6,
)
ENTRIES = st.builds(
    entry,
    st.sampled_from(sorted(module.DATA_TYPES)) | NUMBERS,
    st.lists(NUMBERS, max_size=4),
    st.sampled_from([0, 0, 0, 1, -1]),
    NUMBERS,
    NUMBERS,
    st.integers(0, 2**32 - 1),
)


@fuzz()
@given(
    head=st.just(header()) | st.builds(header, NUMBERS, NUMBERS, MESSAGES) | MESSAGES,
    values=st.dictionaries(st.binary(max_size=4), ENTRIES | MESSAGES, max_size=4),
    block_size=st.sampled_from([1, 1 << 18]),
)
@pytest.mark.thorough
def test_any_messages_for_header_and_tensors(tmp_path, head, values, block_size):
    pairs = sorted({**values, b"": head}.items())
    is_taken(put(tmp_path, table(pairs, block_size)))


@fuzz()
@given(handles=st.lists(st.tuples(st.binary(max_size=4), NUMBERS | st.just(len(pack(PAIRS))), NUMBERS), max_size=4))
def test_any_handles_for_blocks(tmp_path, handles):
    contents = pack([(key, varint(at) + varint(size)) for key, at, size in handles])
    is_taken(put(tmp_path, bundles.with_index([seal(BLOCK)], contents)))
    for _, at, size in handles:
        raw = table(PAIRS)
        is_taken(put(tmp_path, raw[:-48] + bundles.footer((at, size), (size, at))[:40] + raw[-8:]))


@fuzz()
@given(raw=st.binary(max_size=60), compression=st.sampled_from([0, 0, 0, 1, 255]))
def test_any_bytes_for_a_file_a_block_and_a_message(tmp_path, raw, compression):
    for content in (raw, raw + bundles.MAGIC, join([seal(raw, compression)], [b"z"]), a(raw), table([(b"", raw)])):
        is_taken(put(tmp_path, content))
    write(tmp_path / "checkpoint", raw)
    with suppress(CheckpointError):
        index_named_by(tmp_path / "checkpoint")
