"""Write tiny files of Flax, sound and damaged: msgpack by hand. Nothing here uses numgpt, and no test is in here."""

import math
import struct
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from support.checkpoints import write_json


class Array(NamedTuple):
    """What the body of an extension says of an array, true or not."""

    shape: Any
    dtype: Any
    data: Any


class Ext(NamedTuple):
    """An extension of any type."""

    kind: int
    body: bytes


def array(x: np.ndarray) -> Array:
    return Array(list(x.shape), x.dtype.name, np.ascontiguousarray(x, x.dtype.newbyteorder("<")).tobytes())


def f16(x: np.ndarray) -> Array:
    return array(x.astype(np.float16))


def bf16(x: np.ndarray) -> Array:
    """The upper half of each float32."""
    data = (np.ascontiguousarray(x, "<f4").view("<u4") >> 16).astype("<u2").tobytes()
    return Array(list(x.shape), "bfloat16", data)


def chunked(x: Array, count: int) -> dict[str, Any]:
    """An array in pieces of so many numbers, as Flax writes those of more than 2^30 bytes."""
    width = len(x.data) // math.prod(x.shape)
    pieces = [x.data[at : at + count * width] for at in range(0, len(x.data), count * width)]
    return {
        "__msgpack_chunked_array__": True,
        "shape": {str(i): n for i, n in enumerate(x.shape)},
        "chunks": {str(i): Array([len(raw) // width], x.dtype, raw) for i, raw in enumerate(pieces)},
    }


def packed(x: Any, wide: bool = False) -> bytes:
    """A value in msgpack: its lengths in as few bytes as can be, or in as many."""
    if x is None or isinstance(x, bool):
        return {None: b"\xc0", False: b"\xc2", True: b"\xc3"}[x]
    if isinstance(x, int):
        return struct.pack("b", x) if -32 <= x < 128 and not wide else b"\xd3" + struct.pack(">q", x)
    if isinstance(x, float):
        return b"\xcb" + struct.pack(">d", x)
    if isinstance(x, dict):
        items = b"".join(packed(key, wide) + packed(value, wide) for key, value in x.items())
        return _long(len(x), (0x80, 15), (None, 0xDE, 0xDF), wide) + items
    if isinstance(x, list):
        items = b"".join(packed(item, wide) for item in x)
        return _long(len(x), (0x90, 15), (None, 0xDC, 0xDD), wide) + items
    if isinstance(x, str):
        raw = x.encode()
        return _long(len(raw), (0xA0, 31), (0xD9, 0xDA, 0xDB), wide) + raw
    if isinstance(x, bytes):
        return _long(len(x), None, (0xC4, 0xC5, 0xC6), wide) + x
    if isinstance(x, Array):
        x = Ext(1, packed(list(x), wide))
    assert isinstance(x, Ext)
    if len(x.body) in (1, 2, 4, 8, 16) and not wide:
        return bytes([0xD4 + len(x.body).bit_length() - 1]) + struct.pack("b", x.kind) + x.body
    return _long(len(x.body), None, (0xC7, 0xC8, 0xC9), wide) + struct.pack("b", x.kind) + x.body


def _long(length: int, short: tuple[int, int] | None, codes: tuple[int | None, ...], wide: bool) -> bytes:
    if short and length <= short[1] and not wide:
        return bytes([short[0] | length])
    for code, form in zip(codes, "BHI", strict=True):
        if code is not None and (length < 256 ** struct.calcsize(form) if not wide else form == "I"):
            return bytes([code]) + struct.pack(">" + form, length)
    raise AssertionError


def tree(tensors: dict[str, np.ndarray], store: Any = array) -> dict[str, Any]:
    """The Hub's tensors as the tree of the base model: each kernel is turned."""
    root: dict[str, Any] = {}
    for name, x in tensors.items():
        *parents, last = name.split(".")
        if last == "weight":
            last = "scale" if x.ndim == 1 else "embedding" if parents[0] in ("wte", "wpe") else "kernel"
        here = root
        for parent in parents:
            here = here.setdefault(parent, {})
        here[last] = store(x.T if last == "kernel" else x)
    return root


def model(tensors: dict[str, np.ndarray], store: Any = array) -> dict[str, Any]:
    """The same as the tree of the language model."""
    root = tree(tensors, store)
    head = {"lm_head": root.pop("lm_head")} if "lm_head" in root else {}
    return {**head, "transformer": root}


def write(path: Path, tree: Any, wide: bool = False) -> Path:
    path.unlink(missing_ok=True)
    path.write_bytes(packed(tree, wide))
    return path


def write_shards(folder: Path, tensors: dict[str, np.ndarray], shards: int = 3) -> Path:
    """Write the language model in several files and their index. Returns the index."""
    names, weight_map = list(tensors), {}
    for k in range(shards):
        file = f"flax_model-{k + 1:05}-of-{shards:05}.msgpack"
        part = model({name: tensors[name] for name in names[k::shards]})
        write(folder / file, part)
        weight_map |= dict.fromkeys(paths(part), file)
    return write_json(folder / "flax_model.msgpack.index.json", {"metadata": {}, "weight_map": weight_map})


def paths(tree: dict[str, Any], above: str = "") -> list[str]:
    found = []
    for key, value in tree.items():
        found += paths(value, f"{above}{key}/") if isinstance(value, dict) else [above + key]
    return found
