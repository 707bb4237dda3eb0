"""Read flax_model.msgpack, which Transformers 4 wrote for FlaxGPT2LMHeadModel and FlaxGPT2Model.

A file is one tree of maps in msgpack, and at each leaf an array. A value begins with a byte that says what it is;
lengths and numbers that follow are big-endian:

    00-7f e0-ff ca-d3    a number, in this byte or after it        80-8f de df    a map: keys and values in turn
    c0 c2 c3             nothing, false, true                      90-9f dc dd    an array
    a0-bf d9-db          a string                                  c4-c6          bytes
    d4-d8 c7-c9          an extension: its length, its type, its bytes

An array is an extension of type 1 (a single number one of type 3), and its bytes are msgpack again: an array of the
shape, the name of the dtype, and the numbers, little-endian and in C order. One of more than 2^30 bytes is in pieces:

    {"__msgpack_chunked_array__": true, "shape": {"0": 50257, "1": 768}, "chunks": {"0": piece, "1": piece}}

The paths of the tree, below `transformer` but in the base model, and all below `params` in files of other programs:

    wte.embedding [V, C]  wpe.embedding [T, C]  ln_f.{scale,bias}  lm_head.kernel [C, V] where it is not wte
    h.N.{ln_1,ln_2}.{scale,bias}  h.N.attn.{c_attn,c_proj}.{kernel,bias}  h.N.mlp.{c_fc,c_proj}.{kernel,bias}

The trap: what Flax calls a kernel is [in, out], but those of a layer are [out, in] here, the transpose of the Hub's:
Transformers turned them when it made its own Conv1D. That of attn.c_proj is square, so that no shape tells. lm_head's
is [in, out], and the Hub's [out, in]. So each kernel is turned.

In several files, each has its part of the tree, and flax_model.msgpack.index.json maps their paths, joined by "/".

Source: google/flax, flax/serialization.py (`_ndarray_to_bytes`, `_chunk`); huggingface/transformers 4,
modeling_flax_gpt2.py and modeling_flax_utils.py; msgpack/msgpack, spec.md. Where we are stricter: keys are strings and
come once, and there are at most MAX_VALUES values, MAX_DEPTH deep.
"""

import math
import os
import re
import struct
from collections.abc import Iterator
from functools import partial
from io import BufferedReader
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from numgpt.checkpoint.aliases import turned
from numgpt.checkpoint.contract import Glance, Opened
from numgpt.checkpoint.files import (
    brief,
    check_kind,
    opened,
    place_of,
    printable,
    read_array,
    read_shards,
    version_of,
    wrong,
)
from numgpt.checkpoint.settings import read_settings
from numgpt.checkpoint.tensors import DTYPES, LazyTensor

MAX_VALUES, MAX_DEPTH, MAX_AXES = 1 << 15, 20, 8  # GPT-2 XL has 6,000 values, 8 deep, three times that in training
MAX_STRING, MAX_NAME = 200, 400  # bytes of a string, and of all keys that lead to an array
CHUNKED = "__msgpack_chunked_array__"
NAMES = {dtype.name: code for code, dtype in DTYPES.items() if code != "BF16"} | {"bfloat16": "BF16"}
LAST = {"kernel": "weight", "embedding": "weight", "scale": "weight"}
START = re.compile(
    rb"(?s)([\x81-\x8f]|\xde..|\xdf....)([\xa1-\xbf]|\xd9.|\xda..|\xdb....)[!-~]"
)  # a map whose first key is a string
LENGTHS = {  # the first byte of a value -> its kind, and how many bytes say its length
    0xC4: ("bin", 1), 0xC5: ("bin", 2), 0xC6: ("bin", 4), 0xC7: ("ext", 1), 0xC8: ("ext", 2), 0xC9: ("ext", 4),
    0xD9: ("str", 1), 0xDA: ("str", 2), 0xDB: ("str", 4), 0xDC: ("array", 2), 0xDD: ("array", 4),
    0xDE: ("map", 2), 0xDF: ("map", 4),
}  # fmt: skip
CONSTANTS = {0xC0: None, 0xC2: False, 0xC3: True}


class _Bytes(NamedTuple):
    """Bytes that still lie in the file."""

    at: int
    length: int


class _Array(NamedTuple):
    """An array, as the file describes it: nothing of it is checked yet."""

    shape: Any
    dtype: Any
    data: Any


def is_mine(glance: Glance) -> bool:
    """Tell whether a file is one of Flax, or the index of several."""
    return bool(START.match(glance.start)) or glance.path.name.endswith((".msgpack", ".msgpack.index.json"))


def open_weights(glance: Glance) -> Opened:
    """Open a file of Flax, or the index of several, with config.json beside it."""
    path, left_out = glance.path, {}
    if path.name.endswith(".index.json"):
        tensors = read_shards(path, read_flax, ".msgpack")
    else:
        tree, version = _read_tree(path)
        if isinstance(tree.get("params"), dict):  # the state of a training
            left_out = {printable(key): "beside params" for key in tree if key != "params"}
            tree = {"params": tree["params"]}
        tensors = _tensors(path, version, tree)
    hub_tensors: dict[str, LazyTensor] = {}
    for name, tensor in tensors.items():
        own = _hub_name(name)
        if own in hub_tensors:
            raise wrong(place_of(path, name), f"is {printable(own)} of the Hub twice, expected it once")
        hub_tensors[own] = turned(tensor) if name.endswith("kernel") and len(tensor.shape) == 2 else tensor
    config, settings = read_settings(path.parent, hub_tensors, glance.given)
    return Opened(path, "flax", tensors, hub_tensors, config, settings, path.parent, left_out=left_out)


def _hub_name(name: str) -> str:
    """Return the Hub's name of a tensor, without prefix.

    >>> _hub_name("params/transformer/h/0/attn/c_attn/kernel"), _hub_name("wte/embedding")
    ('h.0.attn.c_attn.weight', 'wte.weight')
    """
    *parents, last = re.sub(r"^(params/)*(transformer/)?", "", name).split("/")
    return ".".join([*parents, LAST.get(last, last)])


def read_flax(path: str | os.PathLike[str]) -> dict[str, LazyTensor]:
    """Open the arrays of one file that `flax.serialization.to_bytes` wrote: check all of it, and read no numbers.

    path  the file, whose tree has arrays alone
    Returns the path of each array in the tree, joined by "/" -> LazyTensor. `read()` gives what that of
    read_safetensors gives.
    Raises CheckpointError if the file is missing or anything in it is wrong.
    Source: `msgpack_restore` of flax/serialization.py.

    >>> import tempfile
    >>> numbers = bytes.fromhex("c4 04 803f 00c0")
    >>> array = b"\\x93\\x91\\x02" + b"\\xa8bfloat16" + numbers
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder, "tiny.msgpack")
    ...     _ = path.write_bytes(b"\\x81\\xa4ln_f\\x81\\xa4bias\\xc7" + bytes([len(array), 1]) + array)
    ...     tensors = read_flax(path)
    ...     tensors["ln_f/bias"].dtype, tensors["ln_f/bias"].shape, tensors["ln_f/bias"].read()
    ('BF16', (2,), array([ 1., -2.], dtype=float32))
    """
    path = Path(path)
    tree, version = _read_tree(path)
    return _tensors(path, version, tree)


def _tensors(path: Path, version: tuple[int, int], tree: dict[str, Any]) -> dict[str, LazyTensor]:
    tensors: dict[str, LazyTensor] = {}
    for name, leaf in _leaves(path, tree):
        if name in tensors:
            raise wrong(place_of(path, name), "comes twice, expected once")
        tensors[name] = _tensor(path, version, name, leaf)
    return tensors


def _leaves(path: Path, tree: dict[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    """Yield what is at each leaf of a tree, with its path in it."""
    for key, value in tree.items():
        name = f"{above}{key}"
        if len(name) > MAX_NAME:
            raise wrong(path, f"a name of {len(name)} characters, {brief(name)}, expected at most {MAX_NAME}")
        if isinstance(value, dict) and CHUNKED not in value:
            yield from _leaves(path, value, f"{name}/")
        else:
            yield name, value


def _tensor(path: Path, version: tuple[int, int], name: str, leaf: Any) -> LazyTensor:
    """Check an array, which may be in pieces."""
    where = place_of(path, name)
    if isinstance(leaf, dict):
        shape, pieces = _in_order(where, leaf, "shape"), _in_order(where, leaf, "chunks")
        arrays = [(piece.dtype, *_check_array(where, piece)) for piece in pieces if isinstance(piece, _Array)]
        kinds = {(kind, len(axes)) for kind, axes, _ in arrays}
        if len(arrays) != len(pieces) or len(kinds) != 1 or kinds.pop()[1] != 1:
            raise wrong(where, "its chunks are not alike, expected flat arrays of one dtype")
        leaf = _Array(shape, arrays[0][0], _Bytes(0, sum(data.length for *_, data in arrays)))
        places = [data for *_, data in arrays]
    elif isinstance(leaf, _Array):
        places = [leaf.data]
    else:
        raise wrong(where, f"{_told(leaf)}, expected an array", "save the parameters alone")
    axes, _ = _check_array(where, leaf)
    read = partial(_read, path, version, where, NAMES[leaf.dtype], axes, places)
    return LazyTensor(NAMES[leaf.dtype], axes, read, read)


def _in_order(where: str, leaf: dict[str, Any], key: str) -> list[Any]:
    """Return the values of a map that stands for an array: its keys count from 0."""
    values = leaf.get(key)
    if not isinstance(values, dict) or values.keys() != {str(i) for i in range(len(values))}:
        raise wrong(where, f"{key} of an array in chunks is {_told(values)}, expected a map that counts from 0")
    return [values[str(i)] for i in range(len(values))]


def _check_array(where: str, array: _Array) -> tuple[tuple[int, ...], _Bytes]:
    """Return the shape and the place of an array that holds together."""
    shape, dtype, data = array
    if (
        not isinstance(shape, list)
        or not 1 <= len(shape) <= MAX_AXES
        or any(type(n) is not int or n < 1 for n in shape)
    ):
        raise wrong(where, f"shape {_told(shape)}, expected 1 to {MAX_AXES} integers of 1 or more")
    if not isinstance(dtype, str) or dtype not in NAMES:
        raise wrong(where, f"dtype {_told(dtype)}, expected one of {', '.join(NAMES)}", "save it as float32")
    size = math.prod(shape) * DTYPES[NAMES[dtype]].itemsize
    if not isinstance(data, _Bytes) or data.length != size:
        held = f"{data.length:,} bytes" if isinstance(data, _Bytes) else _told(data)
        raise wrong(where, f"{dtype} of shape {brief(tuple(shape))} in {held}, expected {size:,} bytes")
    return tuple(shape), data


def _told(value: Any) -> str:
    """Write a value in a short line."""
    kinds = {dict: "a map", _Array: "an array", _Bytes: "bytes"}
    return kinds.get(type(value)) or brief(value)


def _read(
    path: Path,
    version: tuple[int, int],
    where: str,
    dtype: str,
    shape: tuple[int, ...],
    places: list[_Bytes],
    out: np.ndarray | None = None,
) -> np.ndarray:
    """Read the pieces of an array one after another, into a new one or into `out`."""
    if len(places) == 1:
        return read_array(path, version, where, dtype, shape, places[0].at, out)
    if out is None:
        widened = np.float32 if dtype in ("F16", "BF16") else DTYPES[dtype].newbyteorder("=")
        try:
            out = np.empty(shape, widened)
        except MemoryError:
            fault = f"{dtype} of shape {shape}, expected one that fits into memory"
            raise wrong(where, fault, "use a smaller model") from None
    flat, end = out.reshape(-1), 0
    for at, length in places:
        begin, end = end, end + length // DTYPES[dtype].itemsize
        read_array(path, version, where, dtype, (end - begin,), at, flat[begin:end])
    return out


# ---- msgpack


def _read_tree(path: Path) -> tuple[dict[str, Any], tuple[int, int]]:
    """Read a file but for the numbers of its arrays. Returns the tree, and the version of the file."""
    with opened(path) as file:
        version = version_of(file)
        start = file.read(64)
        check_kind(path, start, "a file of Flax")
        if not START.match(start):
            what = f"begins with {start[:4]!r}, expected a map of names, as Flax writes it"
            raise wrong(path, what, "it is no file of Flax, or it is damaged: download it again")
        file.seek(0)
        walk = _Walk(path, file, version[0])
        tree = walk.value()
        if walk.at != walk.size:
            raise wrong(path, f"{walk.size - walk.at:,} bytes after its tree, expected none")
    return tree, version


class _Walk:
    """A way through a file from front to back, which passes over bytes. Nothing is made of a length that can't be."""

    def __init__(self, path: Path, file: BufferedReader, size: int) -> None:
        self.path, self.file, self.size = path, file, size
        self.at = self.values = 0

    def expect(self, count: int, what: str) -> None:
        """Refuse what needs more bytes than are left."""
        if count > self.size - self.at:
            raise wrong(
                self.path, f"{what} at byte {self.at:,}, expected at most the {self.size - self.at:,} bytes left"
            )

    def take(self, count: int) -> bytes:
        self.expect(count, f"{count:,} bytes")
        self.at += count
        return self.file.read(count)

    def value(self, depth: int = 0) -> Any:
        """Read the next value: bytes as their place, an extension that is an array as `_Array`."""
        self.values += 1
        if self.values > MAX_VALUES or depth > MAX_DEPTH:
            what = f"{self.values:,} values, {depth} deep, at byte {self.at:,}"
            raise wrong(self.path, f"{what}, expected at most {MAX_VALUES:,}, {MAX_DEPTH} deep", "it is no GPT-2")
        code = self.take(1)[0]
        if code < 0x80 or code >= 0xE0:
            return code if code < 0x80 else code - 0x100
        if code < 0xC0:
            kind, bits = ("map", 15) if code < 0x90 else ("array", 15) if code < 0xA0 else ("str", 31)
            length = code & bits
        elif code in CONSTANTS:
            return CONSTANTS[code]
        elif 0xCA <= code <= 0xD3:
            form = ">" + "fdBHIQbhiq"[code - 0xCA]
            return struct.unpack(form, self.take(struct.calcsize(form)))[0]
        elif 0xD4 <= code <= 0xD8:
            kind, length = "ext", 1 << (code - 0xD4)
        elif code in LENGTHS:
            kind, width = LENGTHS[code]
            length = int.from_bytes(self.take(width), "big")
        else:
            raise wrong(self.path, f"the byte {code:#x} at byte {self.at - 1:,}, expected the beginning of a value")
        match kind:
            case "str":
                return self.string(length)
            case "array":
                self.expect(length, f"an array of {length:,}")
                return [self.value(depth + 1) for _ in range(length)]
            case "map":
                return self.map(length, depth)
            case "bin":
                return self.skip(length)
        return self.extension(length, depth)

    def string(self, length: int) -> str:
        if length > MAX_STRING:
            raise wrong(self.path, f"a string of {length:,} bytes at byte {self.at:,}, expected at most {MAX_STRING}")
        try:
            return self.take(length).decode()
        except UnicodeDecodeError as error:
            raise wrong(self.path, f"the string {brief(error.object)} at byte {self.at:,}, expected UTF-8") from None

    def map(self, length: int, depth: int) -> dict[str, Any]:
        self.expect(2 * length, f"a map of {length:,}")
        found: dict[str, Any] = {}
        for _ in range(length):
            key = self.value(depth + 1)
            if not isinstance(key, str) or key in found:
                what = f"the key {_told(key)} before byte {self.at:,}, expected a string"
                raise wrong(self.path, f"{what}{' that comes once' if isinstance(key, str) else ''}")
            found[key] = self.value(depth + 1)
        return found

    def skip(self, length: int) -> _Bytes:
        self.expect(length, f"{length:,} bytes")
        place = _Bytes(self.at, length)
        self.at += length
        self.file.seek(self.at)
        return place

    def extension(self, length: int, depth: int) -> Any:
        kind = self.take(1)[0]
        if kind not in (1, 3):
            return self.skip(length)
        self.expect(length, f"an array of {length:,} bytes")
        end = self.at + length
        body = self.value(depth + 1)
        if self.at != end or not isinstance(body, list) or len(body) != 3:
            what = f"an array that ends at byte {self.at:,}, expected shape, dtype and numbers up to byte {end:,}"
            raise wrong(self.path, what)
        return _Array(*body)
