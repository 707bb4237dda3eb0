"""The reader of safetensors: exact arrays out of sound files, and one clear message for each unsound one."""

import errno
import json
import math
import os
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.readers import fuzz, read_or_refused, refusal, write

from numgpt.checkpoint import files
from numgpt.checkpoint.safetensors import read_header, read_index, read_safetensors
from numgpt.checkpoint.tensors import DTYPES, LazyTensor

ROOT = Path(__file__).parents[2]
DAMAGED = "the file is damaged, download it again"
UNKNOWN = f"it is no safetensors file, or {DAMAGED}"
USE = "use the model's .safetensors file"
DTYPE_NAMES = "F64, F32, F16, BF16, I64, I32, I16, I8, U64, U32, U16, U8, BOOL"


def pack(header: bytes, data: bytes = b"") -> bytes:
    return len(header).to_bytes(8, "little") + header + data


def entry(dtype: str, shape: object, begin: object, end: object) -> dict[str, object]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


def save(folder: Path, header: object, data: bytes = b"", name: str = "x.safetensors") -> Path:
    return write(folder / name, pack(json.dumps(header).encode(), data))


def message(path: Path, read=read_safetensors) -> str:
    return refusal(path, read)


# --- sound files


def test_a_literal_file_gives_its_tensor_and_its_metadata(tmp_path):
    path = write(
        tmp_path / "x.safetensors",
        b'\x68\0\0\0\0\0\0\0{"__metadata__":{"format":"pt"},"wte":{"dtype":"F32","shape":[1,2],"data_offsets":[0,8]}}'
        b"               \0\0\x80\x3f\0\0\0\xc0",
    )
    tensors, metadata = read_header(path)
    assert metadata == {"format": "pt"}
    assert list(tensors) == ["wte"]
    assert isinstance(tensors["wte"], LazyTensor)
    assert tensors["wte"].dtype == "F32"
    assert tensors["wte"].shape == (1, 2)
    np.testing.assert_array_equal(tensors["wte"].read(), np.array([[1, -2]], np.float32), strict=True)


@pytest.mark.parametrize(
    ("dtype", "data", "expected"),
    [
        ("F64", "000000000000f03f 182d4454fb2109c0", np.array([1, -math.pi], np.float64)),
        ("F32", "0000803f 01000000", np.array([1, 2**-149], np.float32)),
        ("I64", "ffffffffffffffff 0000000000000080", np.array([-1, -(2**63)], np.int64)),
        ("I32", "feffffff 00000080", np.array([-2, -(2**31)], np.int32)),
        ("I16", "fdff 0080", np.array([-3, -(2**15)], np.int16)),
        ("I8", "fc 80", np.array([-4, -128], np.int8)),
        ("U64", "ffffffffffffffff 0100000000000000", np.array([2**64 - 1, 1], np.uint64)),
        ("U32", "ffffffff 02000000", np.array([2**32 - 1, 2], np.uint32)),
        ("U16", "ffff 0300", np.array([2**16 - 1, 3], np.uint16)),
        ("U8", "ff 04", np.array([255, 4], np.uint8)),
        ("BOOL", "01 00", np.array([True, False])),
    ],
)
def test_each_dtype_is_read_as_it_is(tmp_path, dtype, data, expected):
    raw = bytes.fromhex(data)
    array = read_safetensors(save(tmp_path, {"a": entry(dtype, [2], 0, len(raw))}, raw))["a"].read()
    np.testing.assert_array_equal(array, expected, strict=True)


# Worked out by hand: F16 has 1 bit of sign, 5 of exponent (bias 15), 10 of fraction; BF16 has 1, 8 (bias 127), 7.
WIDENED = [
    ("F16", 0x0000, 0.0),
    ("F16", 0x8000, -0.0),
    ("F16", 0x0001, 2.0**-24),  # the least subnormal
    ("F16", 0x83FF, -1023 * 2.0**-24),  # the largest subnormal
    ("F16", 0x0400, 2.0**-14),  # the least normal
    ("F16", 0x3C01, 1 + 2.0**-10),
    ("F16", 0xC500, -5.0),
    ("F16", 0x7BFF, 65504.0),
    ("F16", 0x7C00, math.inf),
    ("F16", 0xFC00, -math.inf),
    ("F16", 0x7E00, math.nan),
    ("F16", 0x7C01, math.nan),  # signalling
    ("BF16", 0x0000, 0.0),
    ("BF16", 0x8000, -0.0),
    ("BF16", 0x0001, 2.0**-133),  # the least subnormal
    ("BF16", 0x807F, -127 * 2.0**-133),  # the largest subnormal
    ("BF16", 0x0080, 2.0**-126),  # the least normal
    ("BF16", 0x3F81, 1 + 2.0**-7),
    ("BF16", 0xC0A0, -5.0),
    ("BF16", 0x7F7F, (2 - 2.0**-7) * 2.0**127),
    ("BF16", 0x7F80, math.inf),
    ("BF16", 0xFF80, -math.inf),
    ("BF16", 0x7FC0, math.nan),
    ("BF16", 0x7F81, math.nan),  # signalling
]


@pytest.mark.parametrize(("dtype", "bits", "expected"), WIDENED)
def test_half_precision_is_widened_exactly(tmp_path, dtype, bits, expected):
    path = save(tmp_path, {"a": entry(dtype, [1], 0, 2)}, bits.to_bytes(2, "little"))
    array = read_safetensors(path)["a"].read()
    np.testing.assert_array_equal(array, np.array([expected], np.float32), strict=True)
    assert math.isnan(expected) or np.signbit(array[0]) == (math.copysign(1, expected) < 0)


@pytest.mark.parametrize("dtype", ["F16", "BF16"])
def test_every_half_is_widened_in_its_place_across_chunks(tmp_path, dtype):
    bits = np.resize(np.arange(1 << 16, dtype="<u2"), 2 * files.CHUNK + 77)
    array = read_safetensors(save(tmp_path, {"a": entry(dtype, [bits.size], 0, bits.nbytes)}, bits.tobytes()))[
        "a"
    ].read()
    if dtype == "F16":
        expected = bits.view("<f2").astype(np.float32)
        np.testing.assert_array_equal(array, expected, strict=True)
        np.testing.assert_array_equal(np.signbit(array), np.signbit(expected))
    else:
        np.testing.assert_array_equal(array.view(np.uint32), bits.astype(np.uint32) << 16, strict=True)


@pytest.mark.parametrize("dtype", ["F64", "F32", "F16", "BF16", "I64", "BOOL"])
@pytest.mark.parametrize("spaces", range(8))
def test_arrays_are_aligned_wherever_the_data_begins(tmp_path, dtype, spaces):
    width = DTYPES[dtype].itemsize
    header = json.dumps({"a": entry("U8", [1], 0, 1), "b": entry(dtype, [3, 1], 1, 1 + 3 * width)}).encode()
    path = write(tmp_path / "x.safetensors", pack(header + b" " * spaces, bytes(1 + 3 * width)))
    array = read_safetensors(path)["b"].read()
    flags = array.flags
    assert flags.aligned
    assert flags.c_contiguous
    assert flags.writeable
    assert array.dtype.isnative


def test_each_read_gives_an_array_of_its_own(tmp_path):
    tensor = read_safetensors(save(tmp_path, {"a": entry("U8", [2], 0, 2)}, b"\1\2"))["a"]
    first = tensor.read()
    first[:] = 9
    assert tensor.read().tolist() == [1, 2]


def test_entries_may_come_in_any_order_and_are_given_in_the_order_of_the_data(tmp_path):
    header = {"c": entry("U8", [2], 3, 5), "a": entry("I16", [], 1, 3), "__metadata__": {}, "b": entry("U8", [1], 0, 1)}
    tensors = read_safetensors(save(tmp_path, header, b"\1\2\3\4\5"))
    assert list(tensors) == ["b", "a", "c"]
    assert [tensor.read().tolist() for tensor in tensors.values()] == [[1], 0x0302, [4, 5]]


@pytest.mark.parametrize("dtype", DTYPES)
def test_scalars_and_empty_tensors_are_arrays(tmp_path, dtype):
    width = DTYPES[dtype].itemsize
    header = {
        "none": entry(dtype, [2, 0, 3], 0, 0),
        "one": entry(dtype, [], 0, width),
        "end": entry(dtype, [0], width, width),
    }
    tensors = read_safetensors(save(tmp_path, header, bytes(width)))
    assert {name: tensor.read().shape for name, tensor in tensors.items()} == {
        "none": (2, 0, 3),
        "one": (),
        "end": (0,),
    }
    assert type(tensors["one"].read()) is np.ndarray
    assert tensors["one"].read() == 0


def test_names_may_be_any_text(tmp_path):
    names = ["", " ", "é.ß", "重み", "🙂", 'a"b\\c\n\0', "h.0.attn.bias"]
    header = {name: entry("U8", [1], i, i + 1) for i, name in enumerate(names)}
    for ascii_only in (True, False):
        path = write(
            tmp_path / "x.safetensors",
            pack(json.dumps(header, ensure_ascii=ascii_only).encode(), bytes(range(len(names)))),
        )
        assert {name: int(tensor.read()[0]) for name, tensor in read_safetensors(path).items()} == {
            name: i for i, name in enumerate(names)
        }


@pytest.mark.parametrize("header", [b"{}", b"{}     ", b'{"__metadata__":null}', b'{"__metadata__":{}}'])
def test_a_file_without_tensors_is_sound(tmp_path, header):
    path = write(tmp_path / "x.safetensors", pack(header))
    assert read_header(str(path)) == ({}, {})


def test_nothing_but_the_header_is_read_before_read(tmp_path, monkeypatch):
    path = save(tmp_path, {"a": entry("U8", [1 << 26], 0, 1 << 26)})
    os.truncate(path, path.stat().st_size + (1 << 26))
    tracemalloc.start()
    tensor = read_safetensors(path)["a"]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1 << 20
    monkeypatch.setattr(files, "fill", lambda *_: pytest.fail("read"))
    read_safetensors(path)
    with pytest.raises(pytest.fail.Exception):
        tensor.read()


@pytest.mark.parametrize("dtype", ["F32", "F16", "BF16"])
def test_reading_needs_the_memory_of_the_result_and_little_more(tmp_path, dtype):
    count = 1 << 22
    size = count * DTYPES[dtype].itemsize
    path = save(tmp_path, {"a": entry(dtype, [count], 0, size)})
    os.truncate(path, path.stat().st_size + size)
    tensor = read_safetensors(path)["a"]
    tracemalloc.start()
    array = tensor.read()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert array.nbytes == 4 * count
    assert peak < array.nbytes + (1 << 19)


def test_a_big_endian_machine_swaps_the_bytes(tmp_path, monkeypatch):
    tensor = read_safetensors(save(tmp_path, {"a": entry("U16", [2], 0, 4)}, b"\1\2\3\4"))["a"]
    plain = tensor.read()
    monkeypatch.setattr(sys, "byteorder", "big" if sys.byteorder == "little" else "little")
    np.testing.assert_array_equal(tensor.read(), plain.byteswap(), strict=True)


def test_the_bundled_checkpoint_is_read(tmp_path):
    tensors, metadata = read_header(ROOT / "weights" / "storyteller" / "model.safetensors")
    assert metadata == {"format": "pt"}
    assert {tensor.dtype for tensor in tensors.values()} == {"F16"}
    array = tensors["transformer.h.0.attn.c_attn.weight"].read()
    assert array.shape == (256, 768)
    assert array.dtype == np.float32
    assert np.isfinite(array).all()


# --- unsound files: their bytes, and what is said of them after the path


def one(text: bytes, data: bytes = b"\0\0\0\0") -> bytes:
    """A file with the tensor `a`, of which the header says `text`."""
    return pack(b'{"a":' + text + b"}", data)


def looks_like(kind: str, remedy: str) -> str:
    return f"it looks like {kind}, expected a safetensors file: {remedy}"


HUGE = str(2**63).encode()
UNSOUND = {
    # the length and the beginning of the header
    "empty": (b"", f"0 bytes, expected at least 8: {UNKNOWN}"),
    "7 bytes": (b"\2\0\0\0\0\0\0", f"7 bytes, expected at least 8: {UNKNOWN}"),
    "no header": (b"\2\0\0\0\0\0\0\0", f"a header of 2 bytes, expected at most the 0 left: {UNKNOWN}"),
    "cut header": (b"\3\0\0\0\0\0\0\0{}", f"a header of 3 bytes, expected at most the 2 left: {UNKNOWN}"),
    "header of 100 GB": (
        b"\0\xe8\x76\x48\x17\0\0\0{}",
        f"a header of 100,000,000,000 bytes, expected at most 100,000,000: {UNKNOWN}",
    ),
    "header of 2^64 - 1": (
        b"\xff\xff\xff\xff\xff\xff\xff\xff{}",
        f"a header of 18,446,744,073,709,551,615 bytes, expected at most 100,000,000: {UNKNOWN}",
    ),
    "header of 0": (b"\0\0\0\0\0\0\0\0{}", f"a header that begins with b'', expected b'{{': {UNKNOWN}"),
    "space before {": (pack(b" {}"), f"a header that begins with b' ', expected b'{{': {UNKNOWN}"),
    "a list": (pack(b"[]"), f"a header that begins with b'[', expected b'{{': {UNKNOWN}"),
    "byte order mark": (pack(b"\xef\xbb\xbf{}"), f"a header that begins with b'\\xef', expected b'{{': {UNKNOWN}"),
    # other kinds of files
    "zip": (b"PK\x03\x04\0\0\x08\x08\0\0\0\0", looks_like("a zip archive, as torch.save writes it", USE)),
    "pickle": (b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19.", looks_like("a pickle, as torch.save writes it", USE)),
    "gguf": (b"GGUF\3\0\0\0\0\0\0\0", looks_like("a GGUF file", USE)),
    "hdf5": (b"\x89HDF\r\n\x1a\n", looks_like("an HDF5 file, as Keras writes it", USE)),
    "git lfs": (
        b"version https://git-lfs.github.com/spec/v1\noid sha256:248dfc\nsize 548105171\n",
        looks_like("a Git LFS pointer", "run 'git lfs pull', or download the file that it stands for"),
    ),
    "web page": (b"\n<!DOCTYPE html><html>", looks_like("a web page", "download the file itself")),
    "short web page": (b"<html>", looks_like("a web page", "download the file itself")),
    "json": (b'{\n  "metadata": {}}', looks_like("JSON", "give the file of the weights")),
    # JSON
    "not UTF-8": (
        pack(b'{"\xff":0}'),
        "'utf-8' codec can't decode byte 0xff in position 2: invalid start byte, "
        f"expected one JSON object in UTF-8: {DAMAGED}",
    ),
    "not closed": (
        pack(b"{"),
        "Expecting property name enclosed in double quotes: line 1 column 2 (char 1), "
        f"expected one JSON object in UTF-8: {DAMAGED}",
    ),
    "more after it": (
        pack(b"{}\0"),
        f"Extra data: line 1 column 3 (char 2), expected one JSON object in UTF-8: {DAMAGED}",
    ),
    "nested": (one(b"[" * 100_000), f"JSON that is nested too deep, expected a few levels: {DAMAGED}"),
    "endless integer": (
        one(b"1" * 5000),
        f"a number of 5,000 digits, expected one JSON object in UTF-8: {DAMAGED}",
    ),
    "endless float": (
        one(b"0." + b"1" * 5000),
        f"a number of 5,002 digits, expected one JSON object in UTF-8: {DAMAGED}",
    ),
    "NaN": (one(b"NaN"), f"NaN is no number, expected one JSON object in UTF-8: {DAMAGED}"),
    "lone surrogate": (
        pack(b'{"\\ud800":0}'),
        "'utf-8' codec can't encode character '\\ud800' in position 0: surrogates not allowed, "
        f"expected one JSON object in UTF-8: {DAMAGED}",
    ),
    "tensor twice": (
        pack(
            b'{"a":{"dtype":"U8","shape":[0],"data_offsets":[0,0]},"a":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}}'
        ),
        f"'a' comes 2 times, expected one JSON object in UTF-8: {DAMAGED}",
    ),
    "shape twice": (
        one(b'{"dtype":"U8","shape":[4],"shape":[2],"data_offsets":[0,4]}'),
        f"'shape' comes 2 times, expected one JSON object in UTF-8: {DAMAGED}",
    ),
    "metadata key twice": (
        pack(b'{"__metadata__":{"x":"1","x":"2"}}'),
        f"'x' comes 2 times, expected one JSON object in UTF-8: {DAMAGED}",
    ),
    # metadata
    "metadata list": (
        pack(b'{"__metadata__":[]}'),
        f"__metadata__ [], expected a map of strings to strings: {DAMAGED}",
    ),
    "metadata number": (
        pack(b'{"__metadata__":{"n":1}}'),
        f"__metadata__ {{'n': 1}}, expected a map of strings to strings: {DAMAGED}",
    ),
    # entries
    "entry number": (one(b"5"), f"a: 5, expected a map with dtype, shape and data_offsets: {DAMAGED}"),
    "entry list": (
        one(b'["U8",[4],[0,4]]'),
        f"a: ['U8', [4], [0, 4]], expected a map with dtype, shape and data_offsets: {DAMAGED}",
    ),
    "key missing": (
        one(b'{"dtype":"U8","shape":[4]}'),
        f"a: {{'dtype': 'U8', 'shape': [4]}}, expected a map with dtype, shape and data_offsets: {DAMAGED}",
    ),
    "key too many": (
        one(b'{"dtype":"U8","shape":[4],"data_offsets":[0,4],"x":1}'),
        "a: {'data_offsets': [0, 4], 'dtype': 'U8', 'shape': [4], 'x': 1}, "
        f"expected a map with dtype, shape and data_offsets: {DAMAGED}",
    ),
    # offsets
    "begin after end": (
        one(b'{"dtype":"U8","shape":[4],"data_offsets":[4,0]}'),
        f"a: data_offsets [4, 0], expected integers [begin, end], 0 <= begin <= end: {DAMAGED}",
    ),
    "past the end": (
        one(b'{"dtype":"U8","shape":[5],"data_offsets":[0,5]}'),
        f"a: ends at byte 5 of the data, expected at most 4, where the file ends: {DAMAGED}",
    ),
    "past 2^63": (
        one(b'{"dtype":"U8","shape":[' + HUGE + b'],"data_offsets":[0,' + HUGE + b"]}"),
        f"a: ends at byte 9,223,372,036,854,775,808 of the data, expected at most 4, where the file ends: {DAMAGED}",
    ),
    "overlap": (
        pack(
            b'{"b":{"dtype":"U8","shape":[3],"data_offsets":[1,4]},"a":{"dtype":"U8","shape":[2],"data_offsets":[0,2]}}',
            b"\0\0\0\0",
        ),
        f"b: begins at byte 1 and overlaps the tensor before it, expected 2: {DAMAGED}",
    ),
    "the same bytes": (
        pack(
            b'{"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]},"b":{"dtype":"I8","shape":[4],"data_offsets":[0,4]}}',
            b"\0\0\0\0",
        ),
        f"b: begins at byte 0 and overlaps the tensor before it, expected 4: {DAMAGED}",
    ),
    "hole at the beginning": (
        one(b'{"dtype":"U8","shape":[3],"data_offsets":[1,4]}'),
        f"a: begins at byte 1 and leaves a hole after the tensor before it, expected 0: {DAMAGED}",
    ),
    "empty inside another": (
        pack(
            b'{"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]},"b":{"dtype":"U8","shape":[0],"data_offsets":[2,2]}}',
            b"\0\0\0\0",
        ),
        f"b: begins at byte 2 and overlaps the tensor before it, expected 4: {DAMAGED}",
    ),
    "bytes left over": (
        one(b'{"dtype":"U8","shape":[3],"data_offsets":[0,3]}'),
        f"4 bytes of data, expected 3, where the last tensor ends: {DAMAGED}",
    ),
    # sizes
    "too few bytes": (
        one(b'{"dtype":"F32","shape":[2],"data_offsets":[0,4]}'),
        f"a: has 4 bytes, expected 8 for F32 of shape [2]: {DAMAGED}",
    ),
    "size of 2^64": (  # 2^62 numbers of 4 bytes: 0 in 64-bit arithmetic
        one(b'{"dtype":"F32","shape":[4611686018427387904],"data_offsets":[0,0]}'),
        f"a: has 0 bytes, expected 18,446,744,073,709,551,616 for F32 of shape [4611686018427387904]: {DAMAGED}",
    ),
    "empty, yet too large": (
        one(b'{"dtype":"U8","shape":[0,' + HUGE + b'],"data_offsets":[0,0]}', b""),
        f"a: shape [0, 9223372036854775808], expected one that fits into memory: {DAMAGED}",
    ),
    # names that would spoil a message
    "name with a line feed": (
        pack(b'{"a\\nb\\u001b[31m":0}'),
        f"'a\\nb\\x1b[31m': 0, expected a map with dtype, shape and data_offsets: {DAMAGED}",
    ),
    "long name": (
        pack(b'{"' + b"a" * 9999 + b'":0}'),
        f"'{'a' * 47}...{'a' * 48}': 0, expected a map with dtype, shape and data_offsets: {DAMAGED}",
    ),
    "no name": (pack(b'{"":0}'), f"'': 0, expected a map with dtype, shape and data_offsets: {DAMAGED}"),
}


@pytest.mark.parametrize(("raw", "said"), UNSOUND.values(), ids=UNSOUND)
def test_an_unsound_file_is_refused_with_one_message(tmp_path, raw, said):
    path = write(tmp_path / "x.safetensors", raw)
    assert message(path) == f"{path}: {said}"


@pytest.mark.parametrize(
    "dtype", ['"F8_E4M3"', '"F8_E5M2"', '"F4"', '"C64"', '"Q7"', '"f32"', '""', "1", "null", '["F32"]']
)
def test_other_dtypes_are_refused(tmp_path, dtype):
    path = write(tmp_path / "x.safetensors", one(b'{"dtype":' + dtype.encode() + b',"shape":[4],"data_offsets":[0,4]}'))
    said = repr(json.loads(dtype))
    assert message(path) == f"{path}: a: dtype {said}, expected one of {DTYPE_NAMES}: save it as F32, F16 or BF16"


@pytest.mark.parametrize("shape", ["4", "null", '"4"', "{}", "[-4]", "[4.0]", "[true,4]", '["4"]', "[[4]]", "[null]"])
def test_other_shapes_are_refused(tmp_path, shape):
    path = write(
        tmp_path / "x.safetensors", one(b'{"dtype":"U8","shape":' + shape.encode() + b',"data_offsets":[0,4]}')
    )
    said = json.loads(shape)
    assert message(path) == (
        f"{path}: a: shape {said!r}, expected a list of at most 64 integers, none below 0: {DAMAGED}"
    )


def test_64_axes_are_read_and_65_refused(tmp_path):
    path = save(tmp_path, {"a": entry("U8", [1] * 64, 0, 1)}, b"\7")
    assert read_safetensors(path)["a"].read().shape == (1,) * 64
    path = save(tmp_path, {"a": entry("U8", [1] * 65, 0, 1)}, b"\7")
    assert message(path) == (
        f"{path}: a: shape [1, 1, 1, 1, 1, 1, ...], expected a list of at most 64 integers, none below 0: {DAMAGED}"
    )


@pytest.mark.parametrize(
    "offsets", ["4", "null", "{}", "[]", "[4]", "[0,4,4]", "[-4,0]", "[0,4.0]", "[false,4]", '[0,"4"]']
)
def test_other_offsets_are_refused(tmp_path, offsets):
    path = write(
        tmp_path / "x.safetensors", one(b'{"dtype":"U8","shape":[4],"data_offsets":' + offsets.encode() + b"}")
    )
    said = json.loads(offsets)
    assert message(path) == (
        f"{path}: a: data_offsets {said!r}, expected integers [begin, end], 0 <= begin <= end: {DAMAGED}"
    )


# --- the file system


def test_a_missing_file_is_named(tmp_path):
    path = tmp_path / "x.safetensors"
    assert message(path) == f"{path}: no such file: check the path, or download it"
    assert message(path, read_index) == f"{path}: no such file: check the path, or download it"


@pytest.mark.parametrize("read", [read_safetensors, read_index])
def test_a_folder_is_refused(tmp_path, read):
    assert message(tmp_path, read) == f"{tmp_path}: a folder or a device, expected a file: give the path of the file"


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="the system has no named pipes")
@pytest.mark.parametrize("read", [read_safetensors, read_index])
def test_a_pipe_is_refused_and_does_not_hang(tmp_path, read):
    path = tmp_path / "pipe"
    os.mkfifo(path)
    assert message(path, read) == f"{path}: a folder or a device, expected a file: give the path of the file"


def test_what_the_system_refuses_is_told(tmp_path):
    path = tmp_path / ("x" * 5000)
    assert (
        message(path) == f"{path}: can't be read: {os.strerror(errno.ENAMETOOLONG)}: check the path and its permissions"
    )


@pytest.mark.parametrize("change", ["cut", "rewrite", "remove"])
def test_a_file_that_changed_since_is_refused(tmp_path, change):
    path = save(tmp_path, {"a": entry("U8", [4], 0, 4)}, b"\1\2\3\4")
    tensor = read_safetensors(path)["a"]
    said = f"{path}: a: the file has changed, expected it as its header was read: open it again"
    if change == "cut":
        os.truncate(path, path.stat().st_size - 1)
    elif change == "rewrite":
        os.utime(path, (1, 1))
    else:
        path.unlink()
        said = f"{path}: no such file: check the path, or download it"
    assert message(path, lambda _: tensor.read()) == said


@pytest.mark.parametrize("dtype", ["U8", "F16"])
def test_a_file_that_ends_while_it_is_read_is_refused(tmp_path, monkeypatch, dtype):
    size = 4 * DTYPES[dtype].itemsize
    path = save(tmp_path, {"a": entry(dtype, [4], 0, size)}, bytes(size))
    version = (path.stat().st_size, 0)
    for module in "files", "safetensors":
        monkeypatch.setattr(f"numgpt.checkpoint.{module}.version_of", lambda _: version)
    tensor = read_safetensors(path)["a"]
    os.truncate(path, path.stat().st_size - 1)
    assert message(path, lambda _: tensor.read()) == (
        f"{path}: a: the file ended after {size - 1} bytes, expected {size}: open it again"
    )


def test_too_little_memory_is_told(tmp_path, monkeypatch):
    path = save(tmp_path, {"a": entry("F32", [1], 0, 4)}, bytes(4))
    tensor = read_safetensors(path)["a"]

    def empty(*_):
        raise MemoryError

    monkeypatch.setattr(np, "empty", empty)
    assert message(path, lambda _: tensor.read()) == (
        f"{path}: a: F32 of shape (1,), expected one that fits into memory: use a smaller model"
    )


def test_a_bool_is_0_or_1(tmp_path):
    path = save(tmp_path, {"a": entry("BOOL", [3], 0, 3)}, b"\0\1\2")
    tensor = read_safetensors(path)["a"]
    assert message(path, lambda _: tensor.read()) == f"{path}: a: a BOOL with the byte 2, expected 0 or 1: {DAMAGED}"


# --- shards


def shards(folder: Path, weight_map: object, **files: dict[str, int]) -> Path:
    """Write `a.safetensors` for `a={"wte": 7}`, a tensor of one U8 each, and the index."""
    for name, values in files.items():
        header = {tensor: entry("U8", [1], i, i + 1) for i, tensor in enumerate(values)}
        save(folder, header, bytes(values.values()), f"{name}.safetensors")
    path = folder / "model.safetensors.index.json"
    path.write_text(json.dumps({"metadata": {"total_size": 2.5}, "weight_map": weight_map}))
    return path


def values(tensors: dict[str, LazyTensor]) -> dict[str, int]:
    return {name: int(tensor.read()[0]) for name, tensor in tensors.items()}


def test_an_index_opens_its_shards(tmp_path):
    path = shards(tmp_path, {"y": "b.safetensors", "x": "a.safetensors"}, a={"x": 1}, b={"y": 2})
    assert values(read_index(path)) == {"x": 1, "y": 2}
    assert values(read_index(str(path))) == {"x": 1, "y": 2}


def test_tensors_that_the_index_does_not_list_are_opened_too(tmp_path):
    path = shards(tmp_path, {"x": "a.safetensors"}, a={"x": 1, "more": 2}, unlisted={"z": 3})
    assert values(read_index(path)) == {"x": 1, "more": 2}


def test_an_index_of_nothing_is_empty(tmp_path):
    assert read_index(shards(tmp_path, {})) == {}


def test_shards_may_be_links(tmp_path):
    (tmp_path / "blobs").mkdir()
    path = shards(tmp_path, {"x": "a.safetensors"}, a={"x": 1})
    for name in ("a.safetensors", path.name):
        (tmp_path / name).rename(tmp_path / "blobs" / name[:2])
        (tmp_path / name).symlink_to(Path("blobs", name[:2]))
    assert values(read_index(path)) == {"x": 1}


def test_all_missing_shards_are_named(tmp_path):
    weight_map = {"x": "a.safetensors", "y": "b.safetensors", "z": "c.safetensors"}
    path = shards(tmp_path, weight_map, b={"y": 2})
    assert message(path, read_index) == (
        f"{path}: shards are missing, expected in the same folder: a.safetensors, c.safetensors: download them"
    )


def test_a_long_list_is_cut(tmp_path):
    path = shards(tmp_path, {str(i): f"{i:04}.safetensors" for i in range(1234)})
    said = message(path, read_index)
    assert said.endswith("0098.safetensors, 0099.safetensors and 1,134 more: download them")


def test_tensors_that_are_not_in_their_shard_are_named(tmp_path):
    weight_map = {"x": "a.safetensors", "y": "a.safetensors", "z\n": "b.safetensors"}
    path = shards(tmp_path, weight_map, a={"x": 1}, b={"y": 2})
    assert message(path, read_index) == (
        f"{path}: tensors are missing, expected: y in a.safetensors, 'z\\n' in b.safetensors: "
        "download the index and its shards again"
    )


def test_a_tensor_in_two_shards_is_refused(tmp_path):
    path = shards(tmp_path, {"x": "a.safetensors", "y": "b.safetensors"}, a={"x": 1}, b={"y": 2, "x": 1})
    assert message(path, read_index) == (
        f"{path}: x: is in a.safetensors and in b.safetensors, expected in one of them: "
        "download all shards again, into an empty folder"
    )


def test_a_shard_that_is_unsound_is_named(tmp_path):
    path = shards(tmp_path, {"x": "a.safetensors"})
    shard = write(tmp_path / "a.safetensors", b"")
    assert message(path, read_index) == f"{shard}: 0 bytes, expected at least 8: {UNKNOWN}"


@pytest.mark.parametrize(
    "shard",
    [
        "",
        ".",
        "..",
        "../a.safetensors",
        "/etc/a.safetensors",
        "b/a.safetensors",
        "b\\a.safetensors",
        "C:a.safetensors",
        "a.safetensors\0",
        "\0.safetensors",
        "\n.safetensors",
        "a.bin",
        "a.safetensors/",
    ],
)
def test_a_shard_is_a_plain_name(tmp_path, shard):
    (tmp_path / "b").mkdir()
    path = shards(tmp_path / "b", {"x": shard})
    save(tmp_path, {"x": entry("U8", [0], 0, 0)}, name="a.safetensors")
    assert message(path, read_index) == (
        f"{path}: shard {shard!r}, expected the plain name of a .safetensors file in the same folder: "
        "use a checkpoint that you can trust"
    )


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        (b"{}", "weight_map None, expected a map of tensor names to file names"),
        (b'{"weight_map":[]}', "weight_map [], expected a map of tensor names to file names"),
        (b'{"weight_map":{"x":1}}', "weight_map {'x': 1}, expected a map of tensor names to file names"),
        (b"[1]", "JSON [1], expected an object"),
        (b"", "Expecting value: line 1 column 1 (char 0), expected one JSON object in UTF-8"),
        (b'{"x":' * 100_000, "JSON that is nested too deep, expected a few levels"),
        (b'{"weight_map":{"x":"a","x":"b"}}', "'x' comes 2 times, expected one JSON object in UTF-8"),
    ],
)
def test_an_unsound_index_is_refused_with_one_message(tmp_path, raw, said):
    path = write(tmp_path / "model.safetensors.index.json", raw)
    assert message(path, read_index) == f"{path}: {said}: {DAMAGED}"


def test_a_large_file_is_no_index(tmp_path):
    path = tmp_path / "model.safetensors"
    path.touch()
    os.truncate(path, 100_000_001)
    assert message(path, read_index) == (
        f"{path}: 100,000,001 bytes, expected at most 100,000,000 of an index: give the .index.json"
    )


# --- any file at all


NAMES = st.text(max_size=3)


@st.composite
def sound_files(draw) -> bytes:
    """A sound file of up to four tensors, in any order of entries and with any padding."""
    entries, size = {}, 0
    for name in draw(st.lists(NAMES, max_size=4, unique=True)):
        dtype = draw(st.sampled_from(sorted(DTYPES)))
        shape = draw(st.lists(st.integers(0, 3), max_size=3))
        end = size + math.prod(shape) * DTYPES[dtype].itemsize
        entries[name], size = entry(dtype, shape, size, end), end
    header = dict(draw(st.permutations(list(entries.items()))))
    if draw(st.booleans()):
        header["__metadata__"] = draw(st.dictionaries(NAMES, NAMES, max_size=2))
    text = json.dumps(header, ensure_ascii=False).encode() + b" " * draw(st.integers(0, 8))
    return pack(text, bytes(i % 2 for i in range(size)))


@fuzz()
@given(raw=sound_files())
def test_any_sound_file_is_read(tmp_path, raw):
    path = write(tmp_path / "x.safetensors", raw)
    header = json.loads(raw[8 : 8 + int.from_bytes(raw[:8], "little")])
    assert read_header(path)[1] == header.pop("__metadata__", {})
    tensors = read_safetensors(path)
    assert tensors.keys() == header.keys()
    for name, tensor in tensors.items():
        assert tensor.read().shape == tuple(header[name]["shape"])


@fuzz(25)
@given(raw=sound_files(), bit=st.integers(0, 7))
@pytest.mark.thorough
def test_a_flipped_bit_in_any_byte(tmp_path, raw, bit):
    for at in range(len(raw)):
        path = write(tmp_path / "x.safetensors", raw[:at] + bytes([raw[at] ^ 1 << bit]) + raw[at + 1 :])
        read_or_refused(path, read_safetensors)


@fuzz(25)
@given(raw=sound_files())
@pytest.mark.thorough
def test_any_truncation_is_refused(tmp_path, raw):
    for size in range(len(raw)):
        path = write(tmp_path / "x.safetensors", raw[:size])
        message(path)


@fuzz(25)
@given(raw=sound_files(), out=st.integers(0, 9), put=st.binary(max_size=9))
@pytest.mark.thorough
def test_bytes_taken_out_and_put_in_anywhere(tmp_path, raw, out, put):
    for at in range(len(raw)):
        path = write(tmp_path / "x.safetensors", raw[:at] + put + raw[at + out :])
        read_or_refused(path, read_safetensors)


NUMBERS = st.sampled_from([-1, 0, 1, 2, 4, 8, 2**31, 2**62, 2**63, 2**64, 10**50, 0.5, 1e300, True, None])
VALUES = st.recursive(
    NUMBERS | NAMES | st.sampled_from(sorted(DTYPES)),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(NAMES, inner, max_size=3),
    max_leaves=8,
)
ENTRIES = st.fixed_dictionaries(
    {
        "dtype": st.sampled_from([*sorted(DTYPES), "F8_E4M3"]) | VALUES,
        "shape": st.lists(NUMBERS, max_size=4) | VALUES,
        "data_offsets": st.lists(NUMBERS, min_size=2, max_size=2) | VALUES,
    }
)
HEADERS = st.dictionaries(NAMES | st.just("__metadata__"), ENTRIES | VALUES, max_size=4)


@fuzz()
@given(header=HEADERS, data=st.binary(max_size=8))
def test_any_json_for_a_header(tmp_path, header, data):
    read_or_refused(save(tmp_path, header, data), read_safetensors)


@fuzz()
@given(
    index=VALUES | st.fixed_dictionaries({"weight_map": st.dictionaries(NAMES, NAMES | VALUES, max_size=3) | VALUES})
)
@pytest.mark.thorough
def test_any_json_for_an_index(tmp_path, index):
    path = write(tmp_path / "model.safetensors.index.json", json.dumps(index).encode())
    read_or_refused(path, read_index)


@fuzz()
@given(raw=st.binary(max_size=40))
def test_any_bytes_at_all(tmp_path, raw):
    for content in (raw, pack(raw), pack(b"{" + raw)):
        path = write(tmp_path / "x.safetensors", content)
        read_or_refused(path, read_safetensors)
        read_or_refused(path, read_index)
