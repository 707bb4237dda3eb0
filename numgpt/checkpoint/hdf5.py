"""Read the part of HDF5 that Keras' files need: groups of named arrays, each in one piece.

A file is a tree of groups, whose leaves are the datasets. Its pieces point at one another by addresses, which count
from its first byte; all ones is none. Everything is little-endian, addresses and lengths are u64. The pieces:

    superblock   at 0: 89 "HDF" 0d 0a 1a 0a; at 8, the version, 0; at 13 and 14, the bytes of an address and of a
                 length, 8; at 24, the base address, 0; at 40, where the file ends; at 64, the header of the root group
    header       of a group or a dataset: at 0, the version, 1; at 8, a u32: how many bytes of messages follow, from 16
    message      u16 type, u16 size, u8 flags, 3 bytes; then `size` bytes. These types count:
         1       dataspace: the version, the rank; u64 axes from 8 on in version 1, from 4 on in version 2
         3       datatype: see TYPES; the upper half of its first byte is a version, which changes nothing here
         8       layout: 3, the version; 1, in one piece; then the address of the numbers, and how many bytes they are
      0x10       continuation: the address and the length of more messages
      0x11       symbol table, which only a group has: the addresses of its tree and of its heap
    tree         "TREE", 0, u8 level, u16 n; from 32 on, every 16 bytes, the addresses of n trees of a level less. At
                 level 0 they are those of n nodes. (Around them are names to search by, and the neighbours)
    node         "SNOD", 1, 0, u16 n; from 8 on n links of 40 bytes: where in the heap a name begins, the address of the
                 header, and a u32, 2 where it is a soft link, a path in place of an address
    heap         "HEAP", 0; at 8, the length of the names; at 24, their address: UTF-8, each with a 0 after it

Other messages hold what changes no number: attributes, times, the value of numbers that were never written.

Source: HDF Group, "HDF5 File Format Specification Version 3.0", of which this is what h5py writes unless it is told
otherwise. All else is refused by what it is: newer superblocks and headers, chunks, filters, soft links, other types,
numbers in other files. Where we are stricter: an object has one name, and arrays don't overlap.
"""

import math
import os
import struct
from collections.abc import Iterator
from functools import partial
from io import BufferedReader
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from numgpt.checkpoint.files import brief, check_kind, opened, place_of, read_array, version_of, wrong
from numgpt.checkpoint.tensors import DTYPES, LazyTensor

SIGNATURE = b"\x89HDF\r\n\x1a\n"
MAX_STRUCTURE = 5_000_000  # bytes of all but the numbers, and of names; a GPT-2 XL with its optimizer has 1.1 million
MAX_RANK = 32  # HDF5's limit
NONE = 2**64 - 1  # the address of what is nowhere
DATASPACE, DATATYPE, LAYOUT, CONTINUATION, SYMBOL_TABLE = 1, 3, 8, 0x10, 0x11
PASSED = {0, 4, 5, 0xC, 0xD, 0xE, 0x12, 0x15, 0x16}  # nothing, fill values, attributes, comments, times, a count
REFUSED = {
    2: "a group in the newer format, dense or with links in an order",
    6: "a group in the newer format, with links in its header",
    7: "numbers in another file",
    0xA: "a group in the newer format",
    0xB: "filters, such as compression",
}
LAYOUTS = {0: "compact, in the header", 1: "in one piece", 2: "in chunks", 3: "virtual, in other files"}
CLASSES = ("an integer", "a float", "a time", "a string", "bits", "opaque", "compound", "a reference", "an enumeration",
           "of variable length", "an array")  # fmt: skip
TYPES = {  # class, bits such as the order of bytes and the sign, u32 size; place and number of the bits of each part
    bytes.fromhex("01200f00 02000000 00001000 0a05000a 0f000000"): "F16",
    bytes.fromhex("01201f00 04000000 00002000 17080017 7f000000"): "F32",
    bytes.fromhex("01203f00 08000000 00004000 340b0034 ff030000"): "F64",
} | {
    struct.pack("<4BI2H", 0, bits, 0, 0, size, 0, 8 * size): f"{letter}{8 * size}"
    for bits, letter in ((0, "U"), (8, "I"))
    for size in (1, 2, 4, 8)
}
RESAVE = "write it again as h5py does by default, or with save_pretrained of Transformers 4"


class Stored(NamedTuple):
    """Where an array lies in a file, and how."""

    dtype: str
    shape: tuple[int, ...]
    at: int
    size: int


def read_hdf5(path: str | os.PathLike[str]) -> dict[str, LazyTensor]:
    r"""Open all datasets of an HDF5 file: check all that it says of itself, and read no numbers.

    path  the file
    Returns a dict from name to LazyTensor, in the order of the names. A name is the path from the root: group/dataset.
    `read()` gives what the one of read_safetensors gives.
    Raises CheckpointError if the file is missing, anything in it is wrong, or it uses more of HDF5 than is read here.
    Source: HDF Group, "HDF5 File Format Specification Version 3.0".

    >>> import tempfile
    >>> def q(*numbers): return struct.pack(f"<{len(numbers)}Q", *numbers)
    >>> def message(kind, body): return struct.pack("<2H4x", kind, len(body)) + body
    >>> def header(*messages): return struct.pack("<Q2I", 1, len(b"".join(messages)), 0) + b"".join(messages)
    >>> f32 = bytes.fromhex("11201f00 04000000 00002000 17080017 7f000000 00000000")
    >>> pieces = [
    ...     SIGNATURE + b"\0\0\0\0\0\x08\x08\0" + q(0, 0, NONE, 384, NONE, 0, 96, 0, 0, 0),
    ...     header(message(0x11, q(136, 184))),  # at 96, the root group
    ...     b"TREE\0\0\1\0" + q(NONE, NONE, 0, 224, 0),  # at 136
    ...     b"HEAP\0\0\0\0" + q(8, 1, 216),  # at 184
    ...     b"wte:0\0\0\0",  # at 216
    ...     b"SNOD\1\0\1\0" + q(0, 272, 0, 0, 0),  # at 224
    ...     header(message(1, b"\1\1\0\0\0\0\0\0" + q(2)), message(3, f32), message(8, b"\3\1" + q(376, 8) + bytes(6))),
    ...     bytes.fromhex("0000803f 000000c0"),  # at 376
    ... ]
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     _ = Path(folder, "tiny.h5").write_bytes(b"".join(pieces))
    ...     tensors = read_hdf5(Path(folder, "tiny.h5"))
    ...     tensors["wte:0"].dtype, tensors["wte:0"].shape, tensors["wte:0"].read()
    ('F32', (2,), array([ 1., -2.], dtype=float32))
    """
    path = Path(path)
    with opened(path) as file:
        structure = _Structure(path, file)
        stored = dict(structure.datasets())
    end, before = 0, ""
    for name, x in sorted(stored.items(), key=lambda item: item[1].at):
        if x.at < end:
            fault = f"begins at byte {x.at:,}, expected {end:,} or more, where {brief(before)} ends"
            raise wrong(place_of(path, name), fault)
        end, before = x.at + x.size, name
    tensors = {}
    for name, x in stored.items():
        read = partial(read_array, path, structure.version, place_of(path, name), x.dtype, x.shape, x.at)
        tensors[name] = LazyTensor(x.dtype, x.shape, read, read)
    return tensors


class _Structure:
    """All of a file but its numbers. No piece of it is read twice, and not more than MAX_STRUCTURE in all."""

    def __init__(self, path: Path, file: BufferedReader) -> None:
        self.path, self.file = path, file
        self.version = version_of(file)
        self.size = self.version[0]
        self.left = MAX_STRUCTURE
        self.seen: set[int] = set()

    def spend(self, count: int) -> None:
        self.left -= count
        if self.left < 0:
            what = f"more than {MAX_STRUCTURE:,} bytes beside its numbers, expected less"
            raise wrong(self.path, what, "it is no file of a GPT-2")

    def take(self, where: str, what: str, at: int, count: int) -> bytes:
        """Read some bytes, in which `what` begins or goes on."""
        if at + count > self.size:
            place = "nowhere" if at == NONE else f"at bytes {at:,} to {at + count:,}"
            raise wrong(where, f"{what} {place}, expected at most {self.size:,}, where the file ends")
        self.spend(count)
        self.file.seek(at)
        raw = self.file.read(count)
        if len(raw) < count:
            raise wrong(where, f"the file ended within {what}, expected all of it", "open it again")
        return raw

    def begin(self, where: str, what: str, at: int, count: int, start: bytes = b"") -> bytes:
        """Read the beginning of a piece, which must be there once alone."""
        raw = self.take(where, what, at, count)
        if at in self.seen:
            raise wrong(where, f"{what} at byte {at:,}, which is part of something else too, expected one of its own")
        if not raw.startswith(start):
            raise wrong(where, f"{what} at byte {at:,} begins with {raw[: len(start)]!r}, expected {start!r}")
        self.seen.add(at)
        return raw

    def datasets(self) -> Iterator[tuple[str, Stored]]:
        """Yield the name of each dataset, and where it lies."""
        pending = [("", self.root())]
        while pending:
            name, at = pending.pop()
            where = place_of(self.path, name) if name else str(self.path)
            messages = self.messages(where, at)
            if SYMBOL_TABLE in messages:
                prefix = f"{name}/" if name else ""
                links = self.links(where, messages[SYMBOL_TABLE])
                self.spend(len(links) * len(prefix))  # so that deep groups of long names end
                pending += [(prefix + link, place) for link, place in reversed(links.items())]
            else:
                yield name, self.dataset(where, messages)

    def root(self) -> int:
        """Check the superblock. Return the address of the header of the root group."""
        self.file.seek(0)
        raw = self.file.read(96)
        if not raw.startswith(SIGNATURE):
            check_kind(self.path, raw, "an HDF5 file")
            raise wrong(self.path, f"begins with {raw[:8]!r}, expected {SIGNATURE!r}", "it is no HDF5 file")
        if len(raw) < 96:
            raise wrong(self.path, f"{len(raw)} bytes, expected at least 96")
        if raw[8]:
            what = f"an HDF5 file whose superblock has version {raw[8]}, as libver='latest' makes it, expected 0"
            raise wrong(self.path, what, RESAVE)
        base, end, root = (int.from_bytes(raw[at : at + 8], "little") for at in (24, 40, 64))
        if (raw[13], raw[14], base) != (8, 8, 0):
            what = f"addresses of {raw[13]} bytes, lengths of {raw[14]}, base address {base:,}, expected 8, 8 and 0"
            raise wrong(self.path, what, RESAVE)
        if end > self.size:
            raise wrong(self.path, f"{self.size:,} bytes, expected {end:,}: it was cut, or never closed")
        return root

    def messages(self, where: str, at: int) -> dict[int, bytes]:
        """Read the header of an object. Return its messages that count, by their types."""
        what = "an object header"
        head = self.begin(where, what, at, 16)
        if head.startswith(b"OHDR"):
            fault = f"{what} of version {head[4]}, as libver='latest' or track_order makes it, expected 1"
            raise wrong(where, fault, RESAVE)
        if head[0] != 1:
            raise wrong(where, f"{what} of version {head[0]} at byte {at:,}, expected 1")
        found: dict[int, bytes] = {}
        blocks = [(at + 16, int.from_bytes(head[8:12], "little"))]
        for begin, length in blocks:  # which grows on the way
            raw = self.begin(where, what, begin, length)
            i = 0
            while i + 8 <= length:
                kind, size, flags = struct.unpack_from("<HHB", raw, i)
                i += 8
                if i + size > length:
                    raise wrong(where, f"a message of {size:,} bytes, expected at most the {length - i:,} left in it")
                if kind in (DATASPACE, DATATYPE, LAYOUT, CONTINUATION, SYMBOL_TABLE):
                    if flags & 2:
                        raise wrong(where, f"a message of type {kind} that others share, expected its own", RESAVE)
                    body = raw[i : i + size]
                    if kind == CONTINUATION:
                        blocks.append(_fields(where, "a continuation", "<QQ", body))
                    elif kind in found:
                        raise wrong(where, f"two messages of type {kind}, expected one")
                    else:
                        found[kind] = body
                elif kind not in PASSED:
                    what = REFUSED.get(kind, f"a message of type {kind}")
                    raise wrong(where, f"{what}, expected groups and arrays as h5py makes them by default", RESAVE)
                i += size
        return found

    def links(self, where: str, body: bytes) -> dict[str, int]:
        """Read what is in a group: the address of the header of each, by its name."""
        tree, heap = _fields(where, "a symbol table", "<QQ", body)
        nodes: list[int] = []
        trees: list[tuple[int, int | None]] = [(tree, None)]
        for at, expected in trees:  # which grows on the way
            what = "a tree"
            head = self.begin(where, what, at, 24, b"TREE\0")
            level, count = head[5], int.from_bytes(head[6:8], "little")
            if expected not in (None, level):
                raise wrong(where, f"{what} of level {level} at byte {at:,}, expected level {expected}")
            inner = np.frombuffer(self.take(where, what, at + 24, 16 * count + 8), "<u8")[1::2].tolist()
            if level:
                trees += [(place, level - 1) for place in inner]
            else:
                nodes += inner
        names = b""
        if nodes:
            head = self.begin(where, "a heap", heap, 32, b"HEAP\0")
            size, _, place = struct.unpack("<QQQ", head[8:])
            names = self.take(where, "names", place, size)
        links: dict[str, int] = {}
        for at in nodes:
            what = "a node"
            count = int.from_bytes(self.begin(where, what, at, 8, b"SNOD\1")[6:], "little")
            for start, place, kind in struct.iter_unpack("<QQI20x", self.take(where, what, at + 8, 40 * count)):
                name = self.name(where, names, start)
                if kind == 2:
                    raise wrong(where, f"{brief(name)} is a soft link, expected an array or a group", RESAVE)
                if name in links:
                    raise wrong(where, f"{brief(name)} comes twice, expected once")
                links[name] = place
        return links

    def name(self, where: str, names: bytes, start: int) -> str:
        end = names.find(b"\0", start) if start < len(names) else -1
        if end < 0:
            raise wrong(where, f"a name at byte {start:,} of a heap, expected one that ends within its {len(names):,}")
        self.spend(end - start)
        try:
            name = names[start:end].decode()
        except UnicodeDecodeError as error:
            raise wrong(where, f"the name {brief(error.object)}, expected UTF-8") from None
        if not name or "/" in name:
            raise wrong(where, f"the name {brief(name)}, expected a letter or more, and no slash")
        return name

    def dataset(self, where: str, messages: dict[int, bytes]) -> Stored:
        """Read of a dataset what its numbers are and where they lie."""
        if not {DATASPACE, DATATYPE, LAYOUT} <= messages.keys():
            raise wrong(where, "is neither a group nor an array, expected one of them", RESAVE)
        dtype, shape = _dtype(where, messages[DATATYPE]), _shape(where, messages[DATASPACE])
        version, kind = _fields(where, "a layout", "<2B", messages[LAYOUT])
        if version != 3 or kind != 1:
            what = f"{LAYOUTS.get(kind, f'of the class {kind}')} (layout of version {version})"
            raise wrong(where, f"its numbers are stored {what}, expected in one piece (of version 3)", RESAVE)
        at, size = _fields(where, "a layout", "<QQ", messages[LAYOUT][2:])
        if size != (expected := math.prod(shape) * DTYPES[dtype].itemsize):
            raise wrong(where, f"has {size:,} bytes, expected {expected:,} for {dtype} of shape {brief(shape)}")
        if at + size > self.size:
            place = "nowhere, as if never written" if at == NONE else f"at bytes {at:,} to {at + size:,}"
            raise wrong(where, f"its numbers are {place}, expected at most {self.size:,}, where the file ends")
        return Stored(dtype, shape, at, size)


def _fields(where: str, what: str, layout: str, body: bytes) -> Any:
    """Unpack the numbers that a message begins with."""
    if len(body) < (size := struct.calcsize(layout)):
        raise wrong(where, f"{what} of {len(body)} bytes, expected {size} or more")
    return struct.unpack_from(layout, body)


def _shape(where: str, body: bytes) -> tuple[int, ...]:
    what = "a dataspace"
    version, rank, _, kind = _fields(where, what, "<4B", body)
    if version not in (1, 2) or (version == 2 and kind > 1) or rank > MAX_RANK:
        kind = "without any number" if version == 2 and kind == 2 else f"of {rank} axes"
        raise wrong(
            where, f"{what} {kind} (version {version}), expected at most {MAX_RANK} axes (version 1 or 2)", RESAVE
        )
    shape: tuple[int, ...] = _fields(where, what, f"<{rank}Q", body[8 if version == 1 else 4 :])
    if 0 in shape:
        raise wrong(where, f"shape {brief(shape)}, expected no axis of 0", RESAVE)
    return shape


def _dtype(where: str, body: bytes) -> str:
    head = _fields(where, "a datatype", "<8s", body)[0]
    raw = bytes([head[0] & 15]) + body[1 : 20 if head[0] & 15 == 1 else 12]
    if raw in TYPES:
        return TYPES[raw]
    kind = dict(enumerate(CLASSES)).get(raw[0], f"of the class {raw[0]}")
    if raw[0] < 2:
        swapped = bytes([raw[0], raw[1] & ~1]) + raw[2:]
        order = "big-endian" if raw[1] & 1 and swapped in TYPES else "not one of IEEE"
        kind = f"{kind} of {int.from_bytes(raw[4:8], 'little')} bytes, {order}"
    raise wrong(where, f"its type is {kind}, expected one of {', '.join(TYPES.values())}, little-endian", RESAVE)
