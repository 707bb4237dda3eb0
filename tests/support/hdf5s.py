"""Write tiny HDF5 files, sound and damaged. Nothing here uses numgpt, and no test is in here."""

import struct
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

SIGNATURE = b"\x89HDF\r\n\x1a\n"
NONE = 2**64 - 1
FLOATS = {
    "e": bytes.fromhex("11200f00 02000000 00001000 0a05000a 0f000000 00000000"),
    "f": bytes.fromhex("11201f00 04000000 00002000 17080017 7f000000 00000000"),
    "d": bytes.fromhex("11203f00 08000000 00004000 340b0034 ff030000 00000000"),
}


class Raw(NamedTuple):
    """The header of an object as it is, where others are made from an array."""

    header: bytes


class SoftLink(NamedTuple):
    target: str


def q(*numbers: int) -> bytes:
    return struct.pack(f"<{len(numbers)}Q", *numbers)


def message(kind: int, body: bytes, flags: int = 0) -> bytes:
    body += bytes(-len(body) % 8)
    return struct.pack("<2HB3x", kind, len(body), flags) + body


def header(*messages: bytes) -> bytes:
    raw = b"".join(messages)
    return struct.pack("<BxHIIxxxx", 1, len(messages), 1, len(raw)) + raw


def dataspace(shape: tuple[int, ...]) -> bytes:
    """Version 1, as h5py writes it: its axes may not grow."""
    return message(1, bytes([1, len(shape), 1, 0, 0, 0, 0, 0]) + 2 * q(*shape))


def datatype(dtype: Any) -> bytes:
    dtype = np.dtype(dtype)
    if dtype.kind == "f":
        return message(3, FLOATS[dtype.char], 1)
    sign = 8 * (dtype.kind == "i")
    return message(3, struct.pack("<4BI2H", 0x10, sign, 0, 0, dtype.itemsize, 0, 8 * dtype.itemsize), 1)


def layout(at: int, size: int) -> bytes:
    return message(8, bytes([3, 1]) + q(at, size))


class Writer:
    """A file in the making. Pieces come one after another, each on a multiple of 8 bytes."""

    def __init__(self, per_node: int = 8, per_tree: int = 32) -> None:
        self.raw = bytearray(96)
        self.per_node, self.per_tree = per_node, per_tree

    def put(self, piece: bytes) -> int:
        """Append a piece. Returns its address."""
        self.raw += bytes(-len(self.raw) % 8)
        self.raw += piece
        return len(self.raw) - len(piece)

    def array(self, x: np.ndarray) -> int:
        at = self.put(np.ascontiguousarray(x).astype(x.dtype.newbyteorder("<")).tobytes())
        return self.put(header(dataspace(x.shape), datatype(x.dtype), message(5, b"\2\2\2\0"), layout(at, x.nbytes)))

    def group(self, children: dict[str, Any]) -> int:
        """Write a group of arrays, groups, Raws, SoftLinks and addresses of what is there, by their names."""
        heap, entries = b"\0" * 8, []
        for name, child in sorted(children.items(), key=lambda item: item[0].encode()):
            place, kind, target = NONE, 2, 0
            start, heap = len(heap), heap + name.encode() + b"\0"
            if isinstance(child, SoftLink):
                target, heap = len(heap), heap + child.target.encode() + b"\0"
            else:
                place, kind = self.object(child), 0
            entries.append((start, struct.pack("<QQIIIxxxxxxxxxxxx", start, place, kind, 0, target)))
        data = self.put(heap)
        level, nodes = 0, []
        for i in range(0, len(entries), self.per_node):
            some = entries[i : i + self.per_node]
            node = b"SNOD\1\0" + struct.pack("<H", len(some)) + b"".join(entry for _, entry in some)
            nodes.append((some[-1][0], self.put(node.ljust(8 + 40 * self.per_node, b"\0"))))
        while len(nodes) > self.per_tree:
            chunks = [nodes[i : i + self.per_tree] for i in range(0, len(nodes), self.per_tree)]
            nodes = [(chunk[-1][0], self.put(self.tree(level, chunk))) for chunk in chunks]
            level += 1
        tree = self.put(self.tree(level, nodes))
        heap_at = self.put(b"HEAP\0\0\0\0" + q(len(heap), 1, data))
        return self.put(header(message(0x11, q(tree, heap_at))))

    def tree(self, level: int, nodes: list[tuple[int, int]]) -> bytes:
        pairs = b"".join(q(at, key) for key, at in nodes)
        node = b"TREE" + struct.pack("<BBH", 0, level, len(nodes)) + q(NONE, NONE, 0) + pairs
        return node.ljust(32 + 16 * 32, b"\0")  # of a length that the superblock says

    def object(self, child: Any) -> int:
        if isinstance(child, int):
            return child
        if isinstance(child, Raw):
            return self.put(child.header)
        return self.group(child) if isinstance(child, dict) else self.array(child)

    def close(self, root: int) -> bytes:
        """The file whose root group has its header at an address."""
        self.put(b"")
        sizes = struct.pack("<8BHHI", 0, 0, 0, 0, 0, 8, 8, 0, 4, 16, 0)
        self.raw[:96] = SIGNATURE + sizes + q(0, NONE, len(self.raw), NONE, 0, root, 0, 0, 0)
        return bytes(self.raw)


def tree(arrays: dict[str, Any]) -> dict[str, Any]:
    """What is named by paths, as groups in groups. None is a group without content."""
    root: dict[str, Any] = {}
    for path, x in arrays.items():
        *groups, last = path.split("/")
        inner = root
        for group in groups:
            inner = inner.setdefault(group, {})
        inner[last] = {} if x is None else x
    return root


def hdf5(arrays: dict[str, Any], **how: Any) -> bytes:
    """A file of arrays by their paths, whole."""
    writer = Writer(**how)
    return writer.close(writer.group(tree(arrays)))


def write(path: Path, arrays: dict[str, Any], **how: Any) -> Path:
    path.unlink(missing_ok=True)
    path.write_bytes(hdf5(arrays, **how))
    return path


# ---- Keras

NEW = "transformer/tfgpt2lm_head_model/transformer/"
OLD = "transformer/tfgp_t2lm_head_model/transformer/"


def renamed(tensors: dict[str, np.ndarray], prefix: str = NEW, wte: str = "embeddings") -> dict[str, np.ndarray]:
    """The Hub's tensors under the names of Keras."""
    found = {}
    for name, x in tensors.items():
        stem, _, last = name.rpartition(".")
        if stem in ("wte", "wpe"):
            last = wte if stem == "wte" else "embeddings"
        elif "ln_" in stem:
            last = {"weight": "gamma", "bias": "beta"}[last]
        elif last == "bias":
            x = x[None]
        stem = stem.replace("h.", "h_._", 1) if stem.startswith("h.") else stem
        layers, dot, inner = stem.partition("._")
        found[f"{prefix}{layers}{dot}{inner.replace('.', '/')}/{last}:0"] = x
    return found
