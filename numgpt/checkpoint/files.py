"""What the readers of all formats share: opening a file, reading an array out of it, and saying what is wrong with it.

Files may come from strangers. So each reader looks at all that a file says before it believes any of it, and a fault
of whatever kind becomes a `CheckpointError`: where, what came, what was expected, what to do.
"""

import json
import os
import re
import reprlib
import stat
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import BufferedReader
from pathlib import Path
from typing import Any

import numpy as np

from numgpt.checkpoint.tensors import DTYPES, LazyTensor
from numgpt.errors import CheckpointError

MAX_HEADER = 100_000_000  # bytes; the official reader's limit too
MAX_SMALL = 50_000_000  # bytes of a config or a vocabulary; the largest of GPT-2's has 1.4 million
MAX_AXES = 64  # NumPy's limit
CHUNK = 1 << 16  # numbers that are widened at a time

DAMAGED = "the file is damaged, download it again"
USE_SAFETENSORS = "use the model's .safetensors file"
OTHER_KINDS = (  # how other files begin, what they are, and what to do
    (rb"PK\x03\x04", "a zip archive, as torch.save writes it", USE_SAFETENSORS),
    (rb"\x80[\x02-\x05][^\x00]", "a pickle, as torch.save writes it", USE_SAFETENSORS),
    (rb"GGUF", "a GGUF file", USE_SAFETENSORS),
    (
        rb"\x93NUMPY",
        "an .npy file, one array of NumPy",
        "give a checkpoint; verify takes .npz, of named arrays",
    ),
    (rb"\x89HDF", "an HDF5 file, as Keras writes it", USE_SAFETENSORS),
    (rb"version https://git-lfs", "a Git LFS pointer", "run 'git lfs pull', or download the file that it stands for"),
    (rb"(?i)\s*<(!doctype|html|\?xml)", "a web page", "download the file itself"),
    (rb'\{\s*"', "JSON", "give the file of the weights"),
)


# ---- what is wrong, in one line


def wrong(where: object, fault: str, remedy: str = DAMAGED) -> CheckpointError:
    """Return the error to raise. `fault` says what came and what was expected, `remedy` what to do."""
    return CheckpointError(f"{where}: {fault}: {remedy}")


def place_of(path: Path, name: str) -> str:
    """Return where a tensor is, for a message."""
    return f"{path}: {printable(name)}"


def printable(name: str) -> str:
    """Write a name out of a file as it is, or quoted where it could do something to a terminal."""
    shown = brief(name)
    return name if name and shown[1:-1] == name else shown


def brief(value: Any, depth: int = 2) -> str:
    """Write what a file says, whatever it is, in a short line: containers down to a depth."""
    short = reprlib.Repr()
    short.maxstring, short.maxother, short.maxlevel = 100, 50, depth
    return short.repr(value)


def listing(names: list[str]) -> str:
    """Write names with commas between, a hundred of them at most."""
    return ", ".join(names[:100]) + (f" and {len(names) - 100:,} more" if len(names) > 100 else "")


def check_kind(path: Path, start: bytes, expected: str, kinds: tuple[tuple[bytes, str, str], ...] = ()) -> None:
    """Raise CheckpointError that names what a file is, if that can be told from how it begins."""
    for pattern, kind, remedy in (*OTHER_KINDS, *kinds):
        if re.match(pattern, start):
            raise wrong(path, f"it looks like {kind}, expected {expected}", remedy)


# ---- files


@contextmanager
def opened(path: Path) -> Iterator[BufferedReader]:
    """Open a regular file: a pipe could wait for ever. What the system refuses is a CheckpointError."""
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):
            raise wrong(path, "a folder or a device, expected a file", "give the path of the file")
        with open(path, "rb") as file:
            yield file
    except FileNotFoundError:
        raise wrong(path, "no such file", "check the path, or download it") from None
    except OSError as error:
        raise wrong(path, f"can't be read: {error.strerror}", "check the path and its permissions") from error


def version_of(file: BufferedReader) -> tuple[int, int]:
    """The size of an open file, and when it was last written."""
    info = os.fstat(file.fileno())
    return info.st_size, info.st_mtime_ns


def fill(array: np.ndarray, file: BufferedReader, where: str) -> None:
    """Fill a flat array with the next bytes of the file."""
    if (read := file.readinto(array.view(np.uint8).data)) != array.nbytes:
        raise wrong(where, f"the file ended after {read:,} bytes, expected {array.nbytes:,}", "open it again")


def read_array(
    path: Path,
    version: tuple[int, int],
    where: str,
    dtype: str,
    shape: tuple[int, ...],
    at: int,
    out: np.ndarray | None = None,
) -> np.ndarray:
    """Read one tensor, whose first byte is the byte `at` of the file, into a new array or into `out`."""
    stored = DTYPES[dtype]
    widen = dtype in ("F16", "BF16")
    with opened(path) as file:
        if version_of(file) != version:
            raise wrong(where, "the file has changed, expected it as its header was read", "open it again")
        file.seek(at)
        try:
            out = out if out is not None else np.empty(shape, np.float32 if widen else stored.newbyteorder("="))
        except MemoryError:
            fault = f"{dtype} of shape {shape}, expected one that fits into memory"
            raise wrong(where, fault, "use a smaller model") from None
        flat = out.reshape(-1)
        if not widen:
            fill(flat, file, where)
            if sys.byteorder == "big":
                flat.byteswap(inplace=True)
            if dtype == "BOOL" and (largest := flat.view(np.uint8).max(initial=0)) > 1:
                raise wrong(where, f"a BOOL with the byte {largest}, expected 0 or 1")
            return out
        buffer = np.empty(min(CHUNK, flat.size), stored)
        for i in range(0, flat.size, CHUNK):
            part = flat[i : i + CHUNK]
            half = buffer[: part.size]
            fill(half, file, where)
            if dtype == "F16":
                part[:] = half
            else:
                np.left_shift(half, 16, out=part.view(np.uint32), dtype=np.uint32)
    return out


def read_small(path: Path) -> bytes:
    """Return the content of a file of settings: a regular one, of at most MAX_SMALL bytes."""
    with opened(path) as file:
        size = version_of(file)[0]
        if size > MAX_SMALL:
            raise wrong(path, f"{size:,} bytes, expected at most {MAX_SMALL:,}", "it is no file of a GPT-2")
        return file.read(size)


def parse_json(path: Path, raw: bytes) -> dict[str, Any]:
    """Parse a JSON object, strictly: no key twice, no NaN, no half of a surrogate pair, no endless number."""

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        for text in (text for pair in pairs for text in pair if isinstance(text, str)):
            text.encode()  # fails on half of a surrogate pair, which can't be printed
        key, times = Counter(key for key, _ in pairs).most_common(1)[0] if pairs else ("", 0)
        if times > 1:
            raise ValueError(f"{brief(key)} comes {times} times")
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
        raise wrong(path, "JSON that is nested too deep, expected a few levels") from None
    except ValueError as error:  # a UnicodeError and a JSONDecodeError are ones too
        raise wrong(path, f"{error}, expected one JSON object in UTF-8") from None
    if not isinstance(value, dict):
        raise wrong(path, f"JSON {brief(value)}, expected an object")
    return value


def is_str_map(value: Any) -> bool:
    return isinstance(value, dict) and all(isinstance(item, str) for item in value.values())


def read_shards(
    path: Path,
    read: Callable[[Path], dict[str, LazyTensor]],
    ending: str,
    in_shard: Callable[[str], str] = str,
) -> dict[str, LazyTensor]:
    """Open the tensors of all the shards that an index lists, whatever their format.

    path    the index: a JSON object whose "weight_map" maps the name of each tensor to the name of its shard
    read    opens one shard
    ending  of the names of shards, which lie in the same folder
    in_shard  of a name in the map makes the one in the shard, where they are not the same
    Returns name -> LazyTensor, also of tensors that the map does not list.
    Raises CheckpointError if the index or a shard is wrong, and for a tensor that is missing or in two shards.
    """
    with opened(path) as file:
        size = version_of(file)[0]
        if size > MAX_HEADER:
            raise wrong(path, f"{size:,} bytes, expected at most {MAX_HEADER:,} of an index", "give the .index.json")
        weight_map: Any = parse_json(path, file.read(size)).get("weight_map")
    if not is_str_map(weight_map):
        raise wrong(path, f"weight_map {brief(weight_map)}, expected a map of tensor names to file names")
    shards = sorted(set(weight_map.values()))
    for shard in shards:
        if re.search(r"[/\\:]", shard) or not shard.isprintable() or not shard.endswith(ending):
            expected = f"expected the plain name of a {ending} file in the same folder"
            raise wrong(path, f"shard {brief(shard)}, {expected}", "use a checkpoint that you can trust")
    if missing := [shard for shard in shards if not os.path.exists(path.parent / shard)]:
        raise wrong(path, f"shards are missing, expected in the same folder: {listing(missing)}", "download them")

    tensors: dict[str, LazyTensor] = {}
    shard_of: dict[str, str] = {}
    for shard in shards:
        for name, tensor in read(path.parent / shard).items():
            if name in tensors:
                fault = f"is in {shard_of[name]} and in {shard}, expected in one of them"
                raise wrong(place_of(path, name), fault, "download all shards again, into an empty folder")
            tensors[name], shard_of[name] = tensor, shard
    named = [(in_shard(name), shard) for name, shard in weight_map.items()]
    if absent := [f"{printable(name)} in {shard}" for name, shard in named if shard_of.get(name) != shard]:
        raise wrong(
            path, f"tensors are missing, expected: {listing(absent)}", "download the index and its shards again"
        )
    return tensors
