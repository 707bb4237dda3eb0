"""Read and write safetensors: one file, or the shards that an index lists.

A safetensors file has three parts:

    8 bytes   N, the length of the header: a little-endian unsigned 64-bit integer
    N bytes   the header: one JSON object in UTF-8, with spaces after it if the writer wants the data aligned
    the rest  the data: the bytes of the tensors, each little-endian and in C order

The header has one entry a tensor. Its offsets count from the first byte of the data, and `end` is not included:

    {"wte": {"dtype": "F32", "shape": [50257, 768], "data_offsets": [0, 154389504]}, ...}

The entry "__metadata__" is no tensor: it maps strings to strings, and may be missing. A file is valid if

- N is at most 100,000,000, the header begins with "{", and no key comes twice;
- each tensor has end - begin = (product of its shape) * (bytes of its dtype); shape [] is a scalar, axes may be 0;
- the tensors, in any order in the header, cover the data from its first byte to its last, without holes and overlaps.

So no byte of a file is read twice or left over, and a file that was cut is known by its header. Old files are not
padded: their data may begin at an odd address, where NumPy is slow. Each tensor is therefore read into memory of its
own.

Source: the section "Format" of the README of huggingface/safetensors. Files may come from strangers: whatever is in
them, nothing but `CheckpointError` is raised. Where we are stricter than the official reader: it takes spaces before
"{", a tensor that comes twice, unknown keys beside dtype, shape and data_offsets, entries written as lists, more than
64 axes, and bytes other than 0 and 1 in a BOOL. It also knows the dtypes of 8 bits and less (F8_E4M3, F4, ...) and
C64: no GPT-2 needs them, and we refuse them.
"""

import json
import math
import os
import sys
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from numgpt.checkpoint.aliases import find_own
from numgpt.checkpoint.contract import Glance, Opened
from numgpt.checkpoint.disk import written_whole
from numgpt.checkpoint.files import (
    DAMAGED,
    MAX_AXES,
    MAX_HEADER,
    brief,
    check_kind,
    is_str_map,
    opened,
    parse_json,
    place_of,
    read_array,
    read_shards,
    version_of,
    wrong,
)
from numgpt.checkpoint.settings import read_settings
from numgpt.checkpoint.tensors import DTYPES, LazyTensor


def is_mine(glance: Glance) -> bool:
    """Tell whether a file is one of safetensors, or the index of several."""
    return _begins_with_header(glance) or glance.path.name.endswith(".safetensors.index.json")


def open_weights(glance: Glance) -> Opened:
    """Open a file of safetensors, or the index of several, with config.json beside it."""
    path, is_json = glance.path, glance.start.lstrip()[:1] == b"{"
    tensors = read_index(path) if is_json and not _begins_with_header(glance) else read_safetensors(path)
    own = find_own(tensors, path)
    config, settings = read_settings(path.parent, own.tensors, glance.given, own.activation)
    return Opened(path, "safetensors", tensors, own.tensors, config, settings, path.parent, left_out=own.left_out)


def _begins_with_header(glance: Glance) -> bool:
    return glance.start[8:9] == b"{" and int.from_bytes(glance.start[:8], "little") <= glance.size - 8


def read_safetensors(path: str | os.PathLike[str]) -> dict[str, LazyTensor]:
    """Open the tensors of one safetensors file: check the whole header, and read no data.

    path  the file
    Returns a dict from name to LazyTensor, in the order of the data. `read()` of a tensor gives float64 for F64;
    float32 for F32, F16 and BF16, exactly; integers and booleans as they are.
    Raises CheckpointError if the file is missing or anything in it is wrong. `read()` also raises it: if the file was
    changed since, if a BOOL has a byte other than 0 and 1, or if the tensor does not fit into memory.
    Source: huggingface/safetensors, README, "Format".

    >>> import tempfile
    >>> header = b'{"ln_f.g": {"dtype": "BF16", "shape": [2], "data_offsets": [0, 4]}}'
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder, "tiny.safetensors")
    ...     _ = path.write_bytes(len(header).to_bytes(8, "little") + header + bytes.fromhex("803f 00c0"))
    ...     tensors = read_safetensors(path)
    ...     tensors["ln_f.g"].dtype, tensors["ln_f.g"].shape, tensors["ln_f.g"].read()
    ('BF16', (2,), array([ 1., -2.], dtype=float32))
    """
    return read_header(path)[0]


def read_header(path: str | os.PathLike[str]) -> tuple[dict[str, LazyTensor], dict[str, str]]:
    """Open the tensors of one safetensors file, and its metadata.

    path  the file
    Returns what read_safetensors returns, and the entry "__metadata__", which is {} if there is none.
    Raises CheckpointError as read_safetensors does.
    Source: huggingface/safetensors, README, "Format".

    >>> import tempfile
    >>> header = b'{"__metadata__": {"format": "pt"}}'
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder, "tiny.safetensors")
    ...     _ = path.write_bytes(len(header).to_bytes(8, "little") + header)
    ...     read_header(path)
    ({}, {'format': 'pt'})
    """
    path = Path(path)
    with opened(path) as file:
        version = version_of(file)
        size = version[0]
        start = file.read(64)
        length = int.from_bytes(start[:8], "little")
        first = start[8 : 8 + length][:1]
        fault = ""
        if size < 8:
            fault = f"{size} bytes, expected at least 8"
        elif length > MAX_HEADER:
            fault = f"a header of {length:,} bytes, expected at most {MAX_HEADER:,}"
        elif length > size - 8:
            fault = f"a header of {length:,} bytes, expected at most the {size - 8:,} left"
        elif first != b"{":
            fault = f"a header that begins with {first!r}, expected b'{{'"
        if fault:
            check_kind(path, start, "a safetensors file")
            raise wrong(path, fault, f"it is no safetensors file, or {DAMAGED}")
        file.seek(8)
        header = parse_json(path, file.read(length))

    metadata = header.pop("__metadata__", None)
    if metadata is None:  # missing, or null, which the official reader takes too
        metadata = {}
    if not is_str_map(metadata):
        raise wrong(path, f"__metadata__ {brief(metadata)}, expected a map of strings to strings")

    data_start, data_size = 8 + length, size - 8 - length
    entries = [(name, *_check_entry(place_of(path, name), entry, data_size)) for name, entry in header.items()]
    tensors: dict[str, LazyTensor] = {}
    covered = 0
    for name, dtype, shape, begin, end in sorted(entries, key=lambda entry: entry[3:]):
        where = place_of(path, name)
        if begin != covered:
            verb = "overlaps" if begin < covered else "leaves a hole after"
            raise wrong(where, f"begins at byte {begin:,} and {verb} the tensor before it, expected {covered:,}")
        read = partial(read_array, path, version, where, dtype, shape, data_start + begin)
        tensors[name] = LazyTensor(dtype, shape, read, read)
        covered = end
    if covered != data_size:
        raise wrong(path, f"{data_size:,} bytes of data, expected {covered:,}, where the last tensor ends")
    return tensors, metadata


def read_index(path: str | os.PathLike[str]) -> dict[str, LazyTensor]:
    """Open the tensors of a checkpoint that is split into shards, which `model.safetensors.index.json` lists.

    path  the index: a JSON object whose "weight_map" maps the name of each tensor to the name of its shard, a
          safetensors file in the same folder. Its other keys are ignored.
    Returns a dict from name to LazyTensor, as read_safetensors does, of all tensors of all shards: like Transformers,
    also of those that the map does not list.
    Raises CheckpointError if the index or a shard is missing or wrong, if a shard's name is more than a name, if a
    shard lacks a tensor of the map, or if two shards have the same tensor (Transformers takes the last one).
    Source: get_checkpoint_shard_files and PreTrainedModel._load_pretrained_model of huggingface/transformers.

    >>> import tempfile
    >>> header = b'{"wte": {"dtype": "U8", "shape": [2], "data_offsets": [0, 2]}}'
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     _ = Path(folder, "a.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + bytes([3, 7]))
    ...     _ = Path(folder, "model.safetensors.index.json").write_text('{"weight_map": {"wte": "a.safetensors"}}')
    ...     read_index(Path(folder, "model.safetensors.index.json"))["wte"].read()
    array([3, 7], dtype=uint8)
    """
    return read_shards(Path(path), read_safetensors, ".safetensors")


def write_safetensors(
    path: str | os.PathLike[str], tensors: Mapping[str, LazyTensor], metadata: Mapping[str, str] | None = None
) -> None:
    """Write tensors to a safetensors file, one at a time, each in the dtype that it says.

    path      the file, which takes its name when it is whole; what was there before stays until then
    tensors   name -> LazyTensor of any reader, or one that wraps an array. F16 and BF16 are narrowed again, exactly
    metadata  strings for "__metadata__"; Transformers wants {"format": "pt"} there, the default
    Raises CheckpointError if the file can't be written, and leaves none then.
    Source: huggingface/safetensors, README, "Format".

    >>> import tempfile
    >>> tensor = LazyTensor("BF16", (2,), lambda: np.array([1, -2], np.float32))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_safetensors(Path(folder, "tiny.safetensors"), {"ln_f.g": tensor})
    ...     read_safetensors(Path(folder, "tiny.safetensors"))["ln_f.g"].read()
    array([ 1., -2.], dtype=float32)
    """
    path, end = Path(path), 0
    header: dict[str, Any] = {"__metadata__": dict(metadata or {"format": "pt"})}
    for name, tensor in tensors.items():
        begin, end = end, end + math.prod(tensor.shape) * DTYPES[tensor.dtype].itemsize
        header[name] = {"dtype": tensor.dtype, "shape": tensor.shape, "data_offsets": [begin, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text = text.ljust(-(-len(text) // 8) * 8)  # so that the data is aligned

    with written_whole(path) as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for tensor in tensors.values():
            file.write(_narrow(tensor.read(), tensor.dtype).reshape(-1).view(np.uint8).data)


def _narrow(array: np.ndarray, dtype: str) -> np.ndarray:
    """Return an array as the file stores it. For F16 and BF16 it comes widened to float32."""
    if dtype == "BF16":
        return (array.view(np.uint32) >> 16).astype(DTYPES[dtype])
    return np.ascontiguousarray(array, DTYPES[dtype])


def _check_entry(where: str, entry: Any, data_size: int) -> tuple[str, tuple[int, ...], int, int]:
    """Check what the header says of one tensor. Return its dtype, shape, begin and end."""
    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        raise wrong(where, f"{brief(entry)}, expected a map with dtype, shape and data_offsets")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in DTYPES:
        raise wrong(where, f"dtype {brief(dtype)}, expected one of {', '.join(DTYPES)}", "save it as F32, F16 or BF16")
    if not _is_sizes(shape) or len(shape) > MAX_AXES:
        raise wrong(where, f"shape {brief(shape)}, expected a list of at most {MAX_AXES} integers, none below 0")
    if not _is_sizes(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:
        raise wrong(where, f"data_offsets {brief(offsets)}, expected integers [begin, end], 0 <= begin <= end")
    begin, end = offsets
    if end > data_size:
        raise wrong(where, f"ends at byte {end:,} of the data, expected at most {data_size:,}, where the file ends")
    size = math.prod(shape) * DTYPES[dtype].itemsize
    if end - begin != size:
        raise wrong(where, f"has {end - begin:,} bytes, expected {size:,} for {dtype} of shape {brief(shape)}")
    if math.prod(axis or 1 for axis in shape) * 8 > sys.maxsize:  # no bytes, as an axis is 0, but too large for NumPy
        raise wrong(where, f"shape {brief(shape)}, expected one that fits into memory")
    return dtype, tuple(shape), begin, end


def _is_sizes(value: Any) -> bool:
    return isinstance(value, list) and all(type(n) is int and n >= 0 for n in value)  # True is an int, but no size
