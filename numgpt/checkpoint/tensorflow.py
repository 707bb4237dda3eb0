"""Read TensorFlow's checkpoints, as OpenAI published GPT-2, without TensorFlow.

A checkpoint with the prefix "model.ckpt" (TensorFlow calls it a tensor bundle, or version 2 of its checkpoints) is

    model.ckpt.index                 what there is: names, dtypes, shapes, places and checksums
    model.ckpt.data-00000-of-00001   the numbers: each tensor little-endian and in C order, one after the other; there
                                     may be several such files, the shards
    checkpoint                       text: model_checkpoint_path: "model.ckpt", the prefix of the newest checkpoint

and "model.ckpt.meta", the graph, which nobody needs. The index is a sorted table of keys and values, as in LevelDB:

    data blocks, one after the other; a metaindex block, without entries; an index block; the footer, 48 bytes

    footer    2 handles, of the metaindex block and of the index block; zeros up to 40 bytes; 8 bytes, MAGIC
    handle    2 varints: where a block begins in the file, and the size of its contents
    varint    a number in groups of 7 bits, the lowest first, one a byte; the top bit says that another one follows.
              There are no more groups than needed
    block     the contents; 1 byte, 0 if they are not compressed; 4 bytes, the masked CRC-32C of all that
    contents  entries; restart points; 4 bytes, how many restart points there are, at least 1
    entry     3 varints s, n, m; n bytes; m bytes of value. The key is the first s bytes of the key before it, and the
              n bytes. Keys increase, compared byte by byte.
    restart   4 bytes: where in the contents an entry with s = 0 begins; the first one is 0

The index block has an entry for each data block: its value is the handle; its key is no less than the last key of the
block, and less than the first key of the next. In the data blocks, the key "" has the header, and each other key is the
name of a tensor. Their values are protocol buffers: fields in any order, each a varint, number * 8 + kind, and then

    kind 0    a varint; a negative number is stored plus 2^64
    kind 2    a varint n, and n bytes: a message or text
    kind 5    4 bytes, little-endian (kind 1: 8 bytes)

A field that is 0 is left out, and a reader skips the numbers that it does not know. The messages, by number:

    header    1: number of shards, 2: 0 for little-endian, 3: version (1: of the format, 2: that readers need at least)
    tensor    1: dtype, see DATA_TYPES, 2: shape, 3: shard, 4: first byte in the shard, 5: bytes,
              6: (kind 5) masked CRC-32C of the bytes, 7: slices, if the tensor is stored in parts
    shape     2: an axis (1: its length), once for each axis, 3: 1 if the number of axes is unknown

Sources: tensor_bundle.proto, tensor_bundle.cc and table_format.txt of tensorflow/tensorflow, doc/table_format.md of
google/leveldb. Files may come from strangers: whatever is in them, nothing but `CheckpointError` is raised. Each byte
of an index is checked whenever it is read; the CRCs of the tensors by `check_tensors` alone, which reads everything.

Where we are stricter than TensorFlow: blocks must follow one another from the first byte on, and so must the tensors of
a shard, as TensorFlow's savers write them (its C++ writer can be told to align tensors); and varints must be as short
as they can be, as all its writers make them. We refuse tensors in slices, strings and other dtypes that safetensors has
not, Snappy, which TensorFlow does not write, big-endian files, and an index of more than 1 MB: that of the largest
GPT-2 has 20,724 bytes.
"""

import math
import os
import re
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from numgpt.checkpoint.aliases import find_own
from numgpt.checkpoint.contract import Glance, Opened
from numgpt.checkpoint.crc32c import crc32c, mask
from numgpt.checkpoint.files import (
    DAMAGED,
    MAX_AXES,
    brief,
    check_kind,
    fill,
    listing,
    opened,
    place_of,
    read_array,
    version_of,
    wrong,
)
from numgpt.checkpoint.settings import read_settings
from numgpt.checkpoint.tensors import DTYPES, LazyTensor

DATA_TYPES = {  # TensorFlow's numbers, and how safetensors names the same dtypes
    1: "F32", 2: "F64", 3: "I32", 4: "U8", 5: "I16", 6: "I8", 9: "I64", 10: "BOOL", 14: "BF16", 17: "U16", 19: "F16",
    22: "U32", 23: "U64",
}  # fmt: skip
REFUSED_TYPES = {0: "missing", 7: "STRING", 8: "COMPLEX64", 18: "COMPLEX128", 20: "RESOURCE", 21: "VARIANT"}
MAGIC = bytes.fromhex("57fb808b247547db")
SUFFIX = r"(\.(index|data-\d{5}-of-\d{5}))?\Z"  # of the files that share a prefix
FOOTER = 48  # bytes
TRAILER = 5  # bytes after the contents of a block
VERSION = 1  # of the format, as we know it
MAX_INDEX = 1_000_000  # bytes
MAX_KEY = 1024  # bytes
MAX_SHARDS = 99_999  # what 5 digits can number
PIECE = 1 << 20  # bytes that are read at a time to be checked

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5  # kinds of fields
FIXED = {FIXED64: 8, FIXED32: 4}
RESAVE = "save the model again, with tf.compat.v1.train.Saver"


class _Entry(NamedTuple):
    """What the index says of a tensor."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    shard: int
    begin: int  # in the shard
    size: int
    crc: int


def is_mine(glance: Glance) -> bool:
    """Tell whether a file is an index, a shard, or the text that names the newest checkpoint."""
    name = glance.path.name
    return glance.end == MAGIC or name == "checkpoint" or name.endswith(".index") or ".data-" in name


def open_weights(glance: Glance) -> Opened:
    """Open a checkpoint of OpenAI's release, with hparams.json beside it. Other steps in the folder are left out."""
    path = index_named_by(glance.path) if glance.path.name == "checkpoint" else glance.path
    tensors = read_tensorflow(path)
    own = find_own(tensors, path)
    config, settings = read_settings(path.parent, own.tensors, glance.given)
    index = path.with_name(re.sub(SUFFIX, ".index", path.name, count=1))
    others = sorted(each.name for each in path.parent.glob("*.index") if each.name != index.name)
    left_out = {**own.left_out, **dict.fromkeys(others, "another checkpoint in the folder")}
    check = partial(check_tensors, path)
    return Opened(
        path, "tensorflow", tensors, own.tensors, config, settings, path.parent, left_out=left_out, check=check
    )


def read_tensorflow(path: str | os.PathLike[str]) -> dict[str, LazyTensor]:
    """Open the tensors of one TensorFlow checkpoint: check the whole index, and read no data.

    path  the .index file, one of the data files, or the prefix that they share
    Returns a dict from name to LazyTensor, sorted by the bytes of the names, as the index is. Dtypes are spelled as in
    safetensors, and `read()` gives the same arrays as there.
    Raises CheckpointError if a file is missing or anything in the index is wrong. `read()` also raises it: if the file
    was changed since, if a BOOL has a byte other than 0 and 1, or if the tensor does not fit into memory.
    Source: tensorflow/core/protobuf/tensor_bundle.proto.

    >>> import tempfile
    >>> index = (
    ...     "000006 08011a020801 "  # the header
    ...     "000913 6d6f64656c2f777065 080112081202080112020802280835453f1688 "  # the tensor
    ...     "0000000001000000 0081a2ea75 "  # restart points, trailer
    ...     "0000000001000000 00c0f2a1b0 "  # metaindex block
    ...     "0001026e0030 0000000001000000 00504f407d "  # index block
    ...     "3508420e " + 36 * "00" + "57fb808b247547db"  # footer
    ... )
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     _ = Path(folder, "model.ckpt.index").write_bytes(bytes.fromhex(index))
    ...     _ = Path(folder, "model.ckpt.data-00000-of-00001").write_bytes(bytes.fromhex("0000803f 000000c0"))
    ...     read_tensorflow(Path(folder, "model.ckpt"))["model/wpe"].read()
    array([[ 1., -2.]], dtype=float32)
    """
    tensors = {}
    for entry, shard, version in _open(path):
        where = place_of(shard, entry.name)
        read = partial(read_array, shard, version, where, entry.dtype, entry.shape, entry.begin)
        tensors[entry.name] = LazyTensor(entry.dtype, entry.shape, read, read)
    return tensors


def check_tensors(path: str | os.PathLike[str]) -> Iterator[tuple[str, bool]]:
    """Read each tensor of a TensorFlow checkpoint, and compare the CRC-32C of its bytes with that in the index.

    path  as for read_tensorflow
    Returns an iterator of pairs: a tensor's name, and whether its bytes are those that were written.
    Raises CheckpointError as read_tensorflow does, on the first step or, if a file was changed since, on a later one.
    """
    for entry, shard, version in _open(path):
        where = place_of(shard, entry.name)
        crc = 0
        with opened(shard) as file:
            if version_of(file) != version:
                raise wrong(where, "the file has changed, expected it as it was at the start", "check it again")
            file.seek(entry.begin)
            for at in range(0, entry.size, PIECE):
                piece = np.empty(min(PIECE, entry.size - at), np.uint8)
                fill(piece, file, where)
                crc = crc32c(piece, crc)
        yield entry.name, mask(crc) == entry.crc


def index_named_by(path: Path) -> Path:
    """Return the .index file that the file "checkpoint" of a folder names.

    Of a path only the last part counts: a checkpoint that was moved still names the folder that it was saved in.
    Raises CheckpointError if it names nothing. It may name a file that does not exist; then read_tensorflow says so.
    """
    with opened(path) as file:
        text = file.read(MAX_INDEX).decode(errors="replace")
    found = re.search(r'^model_checkpoint_path: "(?:[^"\\\n]*/)?([^"/\\:\n]+)"\r?$', text, re.MULTILINE)
    if not found or not found[1].isprintable():
        fault = f'{brief(text)}, expected model_checkpoint_path: "...", a name in the same folder'
        raise wrong(path, fault, "give the path of the .index file")
    return path.with_name(f"{found[1]}.index")


def _open(path: str | os.PathLike[str]) -> list[tuple[_Entry, Path, tuple[int, int]]]:
    """Read and check the index, and look at the shards: a list of each tensor, its shard and its shard's version."""
    prefix = re.sub(SUFFIX, "", str(Path(path)), count=1)
    index = Path(f"{prefix}.index")
    with opened(index) as file:
        size = version_of(file)[0]
        if size > MAX_INDEX:
            raise wrong(index, f"{size:,} bytes, expected at most {MAX_INDEX:,}", "it is no index of a GPT-2")
        table = _table(index, file.read(size))

    key, header = next(table, (None, b""))
    if key != b"":
        raise wrong(index, "no header, expected one, under the key b''")
    n_shards = _check_header(f"{index}: header", header)
    entries: list[_Entry] = []
    parts = False
    for key, value in table:
        if key[0] == 0:  # a slice of a tensor; the tensor's own entry comes later and is refused by its name
            parts = True
            continue
        try:
            name = key.decode()
        except UnicodeDecodeError:
            raise wrong(index, f"the name {brief(key)}, expected UTF-8") from None
        entries.append(_check_entry(index, name, value, n_shards))
    if parts:
        raise wrong(index, "slices that belong to no tensor, expected whole tensors")

    shards = {i: Path(f"{prefix}.data-{i:05}-of-{n_shards:05}") for i in sorted({entry.shard for entry in entries})}
    if missing := [shard.name for shard in shards.values() if not os.path.exists(shard)]:
        raise wrong(index, f"shards are missing, expected in the same folder: {listing(missing)}", "download them")
    end = dict.fromkeys(shards, 0)
    for entry in sorted(entries, key=lambda entry: (entry.begin, entry.size)):
        if entry.begin != (expected := end[entry.shard]):
            fault = f"begins at byte {entry.begin:,}, expected {expected:,}, where the tensors before it end"
            raise wrong(place_of(index, entry.name), fault)
        end[entry.shard] += entry.size
    versions = {}
    for i, shard in shards.items():
        with opened(shard) as file:
            versions[i] = version_of(file)
        if (size := versions[i][0]) != end[i]:
            raise wrong(shard, f"{size:,} bytes, expected {end[i]:,}, where the last tensor ends")
    return [(entry, shards[entry.shard], versions[entry.shard]) for entry in entries]


def _check_header(where: str, raw: bytes) -> int:
    """Check the header. Return the number of shards."""
    header = _message(where, raw, {1: VARINT, 2: VARINT, 3: BYTES})
    n_shards, endianness = header[1][-1], header[2][-1]
    least = _message(where, b"".join(header[3]), {2: VARINT})[2][-1]
    if not 1 <= n_shards <= MAX_SHARDS:
        raise wrong(where, f"{n_shards:,} shards, expected 1 to {MAX_SHARDS:,}")
    if endianness != 0:
        raise wrong(where, f"endianness {endianness}, expected 0, little-endian", f"{RESAVE}, on another machine")
    if least > VERSION:
        raise wrong(where, f"a format for readers of version {least}, expected at most {VERSION}", RESAVE)
    return n_shards


def _check_entry(index: Path, name: str, raw: bytes, n_shards: int) -> _Entry:
    """Check what the index says of one tensor."""
    where = place_of(index, name)
    entry = _message(where, raw, {1: VARINT, 2: BYTES, 3: VARINT, 4: VARINT, 5: VARINT, 6: FIXED32, 7: BYTES})
    number, shard, begin, size, crc = (entry[i][-1] for i in (1, 3, 4, 5, 6))
    fields = _message(where, b"".join(entry[2]), {2: BYTES, 3: VARINT})
    shape = tuple(_message(where, axis, {1: VARINT})[1][-1] for axis in fields[2])
    if number not in DATA_TYPES:
        shown = REFUSED_TYPES.get(number, f"number {number}")
        remedy = "save the model again, without this variable"
        raise wrong(where, f"dtype {shown}, expected one of {', '.join(DATA_TYPES.values())}", remedy)
    dtype = DATA_TYPES[number]
    if entry[7]:
        raise wrong(where, f"partitioned into {len(entry[7])} slices, expected in one piece", RESAVE)
    if (unknown := fields[3][-1]) or len(shape) > MAX_AXES or min(shape, default=0) < 0:
        shown = "of unknown rank" if unknown else brief(shape)
        raise wrong(where, f"shape {shown}, expected at most {MAX_AXES} integers, none below 0")
    if math.prod(axis or 1 for axis in shape) * 8 > sys.maxsize:  # too large for NumPy, even if an axis is 0
        raise wrong(where, f"shape {brief(shape)}, expected one that fits into memory")
    if not 0 <= shard < n_shards:
        raise wrong(where, f"shard {shard}, expected 0 to {n_shards - 1}")
    if size != (expected := math.prod(shape) * DTYPES[dtype].itemsize):
        raise wrong(where, f"has {size:,} bytes, expected {expected:,} for {dtype} of shape {brief(shape)}")
    return _Entry(name, dtype, shape, shard, begin, size, crc)


def _table(path: Path, raw: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield the keys and values of a table, and check each byte of the file on the way."""
    if len(raw) < FOOTER or raw[-len(MAGIC) :] != MAGIC:
        check_kind(path, raw, "the index of a TensorFlow checkpoint")
        fault = f"{len(raw)} bytes, expected at least {FOOTER}"
        if len(raw) >= FOOTER:
            fault = f"ends with {raw[-len(MAGIC) :].hex()}, expected {MAGIC.hex()}"
        raise wrong(path, fault, f"it is no index of a TensorFlow checkpoint, or {DAMAGED}")
    body, footer = raw[:-FOOTER], raw[-FOOTER : -len(MAGIC)]
    where = f"{path}: footer"
    meta, meta_end, at = _handle(where, footer, 0)
    top, top_end, at = _handle(where, footer, at)
    if any(footer[at:]) or meta_end != top or top_end != len(body):
        fault = f"blocks at bytes {meta:,} to {meta_end:,} and {top:,} to {top_end:,}"
        raise wrong(where, f"{fault}, expected one after the other, the last one up to byte {len(body):,}")
    _block(path, body, meta, meta_end)
    where = f"{path}: index block"
    begin, bound = 0, None
    for separator, value in _pairs(where, _block(path, body, top, top_end)):
        at, end, used = _handle(where, value, 0)
        if at != begin or end > meta or used != len(value):
            fault = f"a block at bytes {at:,} to {end:,}, expected one that begins at {begin:,} and ends by {meta:,}"
            raise wrong(where, fault)
        key = None
        for key, entry in _pairs(f"{path}: block at byte {at:,}", _block(path, body, at, end)):
            if bound is not None and key <= bound:
                raise wrong(path, f"the key {brief(key)} after {brief(bound)}, expected a larger one")
            yield key, entry
            bound = key
        if key is None:
            raise wrong(where, f"a block at byte {at:,} without entries, expected at least one")
        if separator < key:
            raise wrong(where, f"the key {brief(separator)} of a block, expected {brief(key)}, its last key, or more")
        begin, bound = end, separator
    if begin != meta:
        raise wrong(where, f"the data blocks end at byte {begin:,}, expected {meta:,}")


def _handle(where: str, raw: bytes, at: int) -> tuple[int, int, int]:
    """Parse the handle of a block. Return where the block begins and ends, and where the handle ends."""
    begin, at = _varint(where, raw, at)
    size, at = _varint(where, raw, at)
    return begin, begin + size + TRAILER, at


def _block(path: Path, body: bytes, begin: int, end: int) -> bytes:
    """Check a block, of which `end` is known to be in the file. Return its contents."""
    where = f"{path}: block at byte {begin:,}"
    checked, stored = body[begin : end - 4], int.from_bytes(body[end - 4 : end], "little")
    if (crc := mask(crc32c(checked))) != stored:
        raise wrong(where, f"the masked CRC-32C {crc:#010x}, expected {stored:#010x}")
    if (compression := checked[-1]) != 0:
        shown = "compressed with Snappy" if compression == 1 else f"of compression type {compression}"
        raise wrong(where, f"{shown}, expected no compression", RESAVE)
    return checked[:-1]


def _pairs(where: str, contents: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield the keys and values of a block."""
    count = int.from_bytes(contents[-4:], "little")
    end = len(contents) - 4 - 4 * count
    if count < 1 or end < 0:
        raise wrong(where, f"{len(contents):,} bytes with {count:,} restart points, expected at least 1, that fit")
    restarts = np.frombuffer(contents, "<u4", count, end).tolist()
    key, at = b"", 0
    whole = [0]
    while at < end:
        start = at
        shared, at = _varint(where, contents, at)
        length, at = _varint(where, contents, at)
        size, at = _varint(where, contents, at)
        if shared > len(key) or shared + length > MAX_KEY or at + length + size > end:
            fault = f"at byte {start:,}, {shared:,} shared bytes of key, {length:,} more and {size:,} of value"
            expected = f"expected at most {len(key):,} shared, {MAX_KEY:,} of key, and all of it before byte {end:,}"
            raise wrong(where, f"{fault}, {expected}")
        key, at = key[:shared] + contents[at : at + length], at + length
        if shared == 0 and start > 0:
            whole.append(start)
        yield key, contents[at : at + size]
        at += size
    if restarts[0] != 0 or sorted(set(restarts) & set(whole)) != restarts:
        raise wrong(where, f"restart points {brief(restarts)}, expected some of {brief(whole)} in order, 0 first")


def _message(where: str, raw: bytes, kinds: dict[int, int]) -> dict[int, list[Any]]:
    """Parse a protocol buffer. Return all values of the fields in `kinds`, after 0 where they are numbers."""
    fields: dict[int, list[Any]] = {number: [] if kind == BYTES else [0] for number, kind in kinds.items()}
    at = 0
    while at < len(raw):
        value: int | bytes
        tag, at = _varint(where, raw, at)
        number, kind = divmod(tag, 8)
        if number == 0 or kind not in (VARINT, BYTES, *FIXED) or kind != kinds.get(number, kind):
            expected = f"kind {kinds[number]}" if number in kinds else "number 1 or more and kind 0, 1, 2 or 5"
            raise wrong(where, f"a field of number {number} and kind {kind}, expected {expected}")
        if kind == VARINT:
            value, at = _varint(where, raw, at)
            value -= 1 << 64 if value >> 63 else 0
        else:
            size, at = (FIXED[kind], at) if kind in FIXED else _varint(where, raw, at)
            if size > len(raw) - at:
                raise wrong(where, f"field {number} of {size:,} bytes, expected at most the {len(raw) - at:,} left")
            value, at = raw[at : at + size], at + size
            if kind == FIXED32:
                value = int.from_bytes(value, "little")
        if number in fields:
            fields[number].append(value)
    return fields


def _varint(where: str, raw: bytes, at: int) -> tuple[int, int]:
    """Parse a varint at a place. Return it and the place after it."""
    value = 0
    for i, byte in enumerate(raw[at : at + 10]):
        value |= (byte & 127) << 7 * i
        if byte < 128:
            if value >> 64 or (byte == 0 and i > 0):
                break
            return value, at + i + 1
    raise wrong(
        where,
        f"the bytes {raw[at : at + 10].hex() or '(none)'}, expected a varint of at most 64 bits, in its shortest form",
    )
