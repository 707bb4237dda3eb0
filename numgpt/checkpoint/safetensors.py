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
import re
import reprlib
import stat
import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from io import BufferedReader
from pathlib import Path
from typing import Any

import numpy as np

from numgpt.checkpoint import LazyTensor
from numgpt.errors import CheckpointError

# How the file stores each dtype. NumPy has no BF16, the upper half of a float32.
DTYPES: dict[str, np.dtype[Any]] = {
    "F64": np.dtype("<f8"), "F32": np.dtype("<f4"), "F16": np.dtype("<f2"), "BF16": np.dtype("<u2"),
    "I64": np.dtype("<i8"), "I32": np.dtype("<i4"), "I16": np.dtype("<i2"), "I8": np.dtype("i1"),
    "U64": np.dtype("<u8"), "U32": np.dtype("<u4"), "U16": np.dtype("<u2"), "U8": np.dtype("u1"),
    "BOOL": np.dtype("?"),
}  # fmt: skip
MAX_HEADER = 100_000_000  # bytes; the official reader's limit too
MAX_AXES = 64  # NumPy's limit
CHUNK = 1 << 16  # numbers that are widened at a time

DAMAGED = "the file is damaged, download it again"
USE_SAFETENSORS = "use the model's .safetensors file"
OTHER_KINDS = (  # how other files begin, what they are, and what to do
    (rb"PK\x03\x04", "a zip archive, as torch.save writes it", USE_SAFETENSORS),
    (rb"\x80[\x02-\x05][^\x00]", "a pickle, as torch.save writes it", USE_SAFETENSORS),
    (rb"GGUF", "a GGUF file", USE_SAFETENSORS),
    (rb"\x89HDF", "an HDF5 file, as Keras writes it", USE_SAFETENSORS),
    (rb"version https://git-lfs", "a Git LFS pointer", "run 'git lfs pull', or download the file that it stands for"),
    (rb"(?i)\s*<(!doctype|html|\?xml)", "a web page", "download the file itself"),
    (rb'\{\s*"', "JSON", "if it is an index of shards, use read_index"),
)


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
    with _opened(path) as file:
        version = _version(file)
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
            for pattern, kind, remedy in OTHER_KINDS:
                if re.match(pattern, start):
                    raise _error(path, f"it looks like {kind}, expected a safetensors file", remedy)
            raise _error(path, fault, f"it is no safetensors file, or {DAMAGED}")
        file.seek(8)
        header = _parse_json(path, file.read(length))

    metadata = header.pop("__metadata__", None)
    if metadata is None:  # missing, or null, which the official reader takes too
        metadata = {}
    if not _is_str_map(metadata):
        raise _error(path, f"__metadata__ {_show(metadata)}, expected a map of strings to strings")

    data_start, data_size = 8 + length, size - 8 - length
    entries = [(name, *_check_entry(_where(path, name), entry, data_size)) for name, entry in header.items()]
    tensors: dict[str, LazyTensor] = {}
    covered = 0
    for name, dtype, shape, begin, end in sorted(entries, key=lambda entry: entry[3:]):
        where = _where(path, name)
        if begin != covered:
            verb = "overlaps" if begin < covered else "leaves a hole after"
            raise _error(where, f"begins at byte {begin:,} and {verb} the tensor before it, expected {covered:,}")
        tensors[name] = LazyTensor(dtype, shape, partial(_read, path, version, where, dtype, shape, data_start + begin))
        covered = end
    if covered != data_size:
        raise _error(path, f"{data_size:,} bytes of data, expected {covered:,}, where the last tensor ends")
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
    path = Path(path)
    with _opened(path) as file:
        size = _version(file)[0]
        if size > MAX_HEADER:
            raise _error(path, f"{size:,} bytes, expected at most {MAX_HEADER:,} of an index", "give the .index.json")
        weight_map: Any = _parse_json(path, file.read(size)).get("weight_map")
    if not _is_str_map(weight_map):
        raise _error(path, f"weight_map {_show(weight_map)}, expected a map of tensor names to file names")
    shards = sorted(set(weight_map.values()))
    for shard in shards:
        if re.search(r"[/\\:]", shard) or not shard.isprintable() or not shard.endswith(".safetensors"):
            expected = "expected the plain name of a .safetensors file in the same folder"
            raise _error(path, f"shard {_show(shard)}, {expected}", "use a checkpoint that you can trust")
    if missing := [shard for shard in shards if not os.path.exists(path.parent / shard)]:
        raise _error(path, f"shards are missing, expected in the same folder: {_list(missing)}", "download them")

    tensors: dict[str, LazyTensor] = {}
    shard_of: dict[str, str] = {}
    for shard in shards:
        for name, tensor in read_safetensors(path.parent / shard).items():
            if name in tensors:
                fault = f"is in {shard_of[name]} and in {shard}, expected in one of them"
                raise _error(_where(path, name), fault, "download all shards again, into an empty folder")
            tensors[name], shard_of[name] = tensor, shard
    if absent := [f"{_name(name)} in {shard}" for name, shard in weight_map.items() if shard_of.get(name) != shard]:
        raise _error(path, f"tensors are missing, expected: {_list(absent)}", "download the index and its shards again")
    return tensors


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

    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        with open(part, "wb") as file:
            file.write(len(text).to_bytes(8, "little") + text)
            for tensor in tensors.values():
                file.write(_narrow(tensor.read(), tensor.dtype).reshape(-1).view(np.uint8).data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    except OSError as error:
        raise _error(path, f"can't be written: {error.strerror}", "free some space, or write elsewhere") from error
    finally:
        part.unlink(missing_ok=True)


def _narrow(array: np.ndarray, dtype: str) -> np.ndarray:
    """Return an array as the file stores it. For F16 and BF16 it comes widened to float32."""
    if dtype == "BF16":
        return (array.view(np.uint32) >> 16).astype(DTYPES[dtype])
    return np.ascontiguousarray(array, DTYPES[dtype])


def _check_entry(where: str, entry: Any, data_size: int) -> tuple[str, tuple[int, ...], int, int]:
    """Check what the header says of one tensor. Return its dtype, shape, begin and end."""
    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        raise _error(where, f"{_show(entry)}, expected a map with dtype, shape and data_offsets")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in DTYPES:
        raise _error(where, f"dtype {_show(dtype)}, expected one of {', '.join(DTYPES)}", "save it as F32, F16 or BF16")
    if not _is_sizes(shape) or len(shape) > MAX_AXES:
        raise _error(where, f"shape {_show(shape)}, expected a list of at most {MAX_AXES} integers, none below 0")
    if not _is_sizes(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:
        raise _error(where, f"data_offsets {_show(offsets)}, expected integers [begin, end], 0 <= begin <= end")
    begin, end = offsets
    if end > data_size:
        raise _error(where, f"ends at byte {end:,} of the data, expected at most {data_size:,}, where the file ends")
    size = math.prod(shape) * DTYPES[dtype].itemsize
    if end - begin != size:
        raise _error(where, f"has {end - begin:,} bytes, expected {size:,} for {dtype} of shape {_show(shape)}")
    if math.prod(axis or 1 for axis in shape) * 8 > sys.maxsize:  # no bytes, as an axis is 0, but too large for NumPy
        raise _error(where, f"shape {_show(shape)}, expected one that fits into memory")
    return dtype, tuple(shape), begin, end


def _read(path: Path, version: tuple[int, int], where: str, dtype: str, shape: tuple[int, ...], at: int) -> np.ndarray:
    """Read one tensor, whose first byte is the byte `at` of the file."""
    stored = DTYPES[dtype]
    widen = dtype in ("F16", "BF16")
    with _opened(path) as file:
        if _version(file) != version:
            raise _error(where, "the file has changed, expected it as its header was read", "open it again")
        file.seek(at)
        try:
            out = np.empty(shape, np.float32 if widen else stored.newbyteorder("="))
        except MemoryError:
            fault = f"{dtype} of shape {shape}, expected one that fits into memory"
            raise _error(where, fault, "use a smaller model") from None
        flat = out.reshape(-1)
        if not widen:
            _fill(flat, file, where)
            if sys.byteorder == "big":
                flat.byteswap(inplace=True)
            if dtype == "BOOL" and (largest := flat.view(np.uint8).max(initial=0)) > 1:
                raise _error(where, f"a BOOL with the byte {largest}, expected 0 or 1")
            return out
        buffer = np.empty(min(CHUNK, flat.size), stored)
        for i in range(0, flat.size, CHUNK):
            part = flat[i : i + CHUNK]
            half = buffer[: part.size]
            _fill(half, file, where)
            if dtype == "F16":
                part[:] = half
            else:
                np.left_shift(half, 16, out=part.view(np.uint32), dtype=np.uint32)
    return out


def _fill(array: np.ndarray, file: BufferedReader, where: str) -> None:
    """Fill a flat array with the next bytes of the file."""
    if (read := file.readinto(array.view(np.uint8).data)) != array.nbytes:
        raise _error(where, f"the file ended after {read:,} bytes, expected {array.nbytes:,}", "open it again")


def _parse_json(path: Path, raw: bytes) -> dict[str, Any]:
    """Parse a JSON object, strictly: no key twice, no NaN, no half of a surrogate pair, no endless number."""

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        for text in (text for pair in pairs for text in pair if isinstance(text, str)):
            text.encode()  # fails on half of a surrogate pair, which can't be printed
        key, times = Counter(key for key, _ in pairs).most_common(1)[0] if pairs else ("", 0)
        if times > 1:
            raise ValueError(f"{_show(key)} comes {times} times")
        return dict(pairs)

    def number(text: str) -> int | float:
        if len(text) > 40:  # Python needs time quadratic in the length
            raise ValueError(f"a number of {len(text):,} digits")
        return float(text) if re.search("[.eE]", text) else int(text)

    def constant(text: str) -> None:
        raise ValueError(f"{text} is no number")

    try:
        hooks: dict[str, Any] = {"parse_int": number, "parse_float": number, "parse_constant": constant}
        value = json.loads(raw.decode(), object_pairs_hook=unique, **hooks)
    except RecursionError:
        raise _error(path, "JSON that is nested too deep, expected a few levels") from None
    except ValueError as error:  # a UnicodeError and a JSONDecodeError are ones too
        raise _error(path, f"{error}, expected one JSON object in UTF-8") from None
    if not isinstance(value, dict):
        raise _error(path, f"JSON {_show(value)}, expected an object")
    return value


def _is_sizes(value: Any) -> bool:
    return isinstance(value, list) and all(type(n) is int and n >= 0 for n in value)  # True is an int, but no size


def _is_str_map(value: Any) -> bool:
    return isinstance(value, dict) and all(isinstance(item, str) for item in value.values())


@contextmanager
def _opened(path: Path) -> Iterator[BufferedReader]:
    """Open a regular file: a pipe could wait for ever. What the system refuses is a CheckpointError."""
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):
            raise _error(path, "a folder or a device, expected a file", "give the path of the file")
        with open(path, "rb") as file:
            yield file
    except FileNotFoundError:
        raise _error(path, "no such file", "check the path, or download it") from None
    except OSError as error:
        raise _error(path, f"can't be read: {error.strerror}", "check the path and its permissions") from error


def _version(file: BufferedReader) -> tuple[int, int]:
    """The size of an open file, and when it was last written."""
    info = os.fstat(file.fileno())
    return info.st_size, info.st_mtime_ns


def _error(where: object, fault: str, remedy: str = DAMAGED) -> CheckpointError:
    return CheckpointError(f"{where}: {fault}: {remedy}")


def _show(value: Any) -> str:
    """Write what a file says, whatever it is, in a short line."""
    short = reprlib.Repr()
    short.maxstring = 100
    return short.repr(value)


def _name(name: str) -> str:
    shown = _show(name)
    return name if name and shown[1:-1] == name else shown


def _where(path: Path, name: str) -> str:
    return f"{path}: {_name(name)}"


def _list(names: list[str]) -> str:
    return ", ".join(names[:100]) + (f" and {len(names) - 100:,} more" if len(names) > 100 else "")
