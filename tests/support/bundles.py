"""Write TensorFlow checkpoints without TensorFlow, to the byte as TensorFlow does, or broken where a test wants it."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from support.readers import write

from numgpt.checkpoint.crc32c import crc32c, mask

MAGIC = bytes.fromhex("57fb808b247547db")
NUMBERS = {  # of dtypes, in TensorFlow's types.proto
    "F32": 1, "F64": 2, "I32": 3, "U8": 4, "I16": 5, "I8": 6, "I64": 9, "BOOL": 10, "BF16": 14, "U16": 17, "F16": 19,
    "U32": 22, "U64": 23,
}  # fmt: skip


class Tensor(NamedTuple):
    dtype: str
    shape: tuple[int, ...]
    data: bytes
    shard: int = 0


def varint(n: int) -> bytes:
    n %= 1 << 64  # negative numbers
    groups = [n >> shift & 127 for shift in range(0, max(n.bit_length(), 1), 7)]
    return bytes([group | 128 for group in groups[:-1]] + groups[-1:])


def field(number: int, value: int | bytes, always: bool = False) -> bytes:
    """A field of a protocol buffer. One with the default value is left out, but messages are written `always`."""
    if isinstance(value, int):
        return varint(number << 3) + varint(value) if value or always else b""
    return varint(number << 3 | 2) + varint(len(value)) + value if value or always else b""


def fixed32(number: int, value: int) -> bytes:
    return varint(number << 3 | 5) + value.to_bytes(4, "little") if value else b""


def header(n_shards: int = 1, endianness: int = 0, version: bytes = field(1, 1)) -> bytes:
    return field(1, n_shards) + field(2, endianness) + field(3, version, always=True)


def entry(number: int, shape: Sequence[int], shard: int, offset: int, size: int, crc: int) -> bytes:
    axes = b"".join(field(2, field(1, axis), always=True) for axis in shape)
    place = field(3, shard) + field(4, offset) + field(5, size)
    return field(1, number) + field(2, axes, always=True) + place + fixed32(6, crc)


def common(a: bytes, b: bytes) -> int:
    """How many bytes two keys share at their beginning."""
    return next((n for n, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))


def pack(pairs: Iterable[tuple[bytes, bytes]], interval: int = 16) -> bytes:
    """The contents of a block: keys less what they share with the key before, but for each 16th, a restart point."""
    out, restarts, last = bytearray(), [], b""
    for i, (key, value) in enumerate(pairs):
        shared = 0
        if i % interval == 0:
            restarts.append(len(out))
        else:
            shared = common(last, key)
        out += varint(shared) + varint(len(key) - shared) + varint(len(value)) + key[shared:] + value
        last = key
    return bytes(out) + b"".join(n.to_bytes(4, "little") for n in [*(restarts or [0]), len(restarts or [0])])


def seal(contents: bytes, compression: int = 0) -> bytes:
    """A block: its contents, the compression, and the CRC of both."""
    checked = contents + bytes([compression])
    return checked + mask(crc32c(checked)).to_bytes(4, "little")


def between(last: bytes, following: bytes | None) -> bytes:
    """The key of a block in the index block: as short as LevelDB makes it, from `last` up, and below `following`."""
    if following is None:
        i = len(last) - len(last.lstrip(b"\xff"))
        return last[:i] + bytes([last[i] + 1]) if i < len(last) else last
    i = common(last, following)
    return last[:i] + bytes([last[i] + 1]) if i < len(last) and last[i] + 1 < following[i] else last


def footer(meta: tuple[int, int], index: tuple[int, int]) -> bytes:
    return b"".join(map(varint, (*meta, *index))).ljust(40, b"\0") + MAGIC


def join(blocks: Sequence[bytes], keys: Sequence[bytes]) -> bytes:
    """A table of sealed data blocks, each with its key in the index block."""
    ends = [sum(map(len, blocks[:i])) for i in range(len(blocks))]
    handles = [varint(end) + varint(len(block) - 5) for end, block in zip(ends, blocks, strict=True)]
    return with_index(blocks, pack(list(zip(keys, handles, strict=True)), interval=1))


def with_index(blocks: Sequence[bytes], contents: bytes) -> bytes:
    """A table of sealed data blocks, and the contents of its index block."""
    data, meta, index = b"".join(blocks), seal(pack([])), seal(contents)
    handles = (len(data), len(meta) - 5), (len(data) + len(meta), len(index) - 5)
    return data + meta + index + footer(*handles)


def table(pairs: Sequence[tuple[bytes, bytes]], block_size: int = 1 << 18) -> bytes:
    """A table of sorted pairs, in blocks that end when they reach a size."""
    groups: list[list[tuple[bytes, bytes]]] = [[]]
    room = block_size
    for key, value in pairs:
        if groups[-1] and room <= 0 and len(pack(groups[-1])) >= block_size:
            groups.append([])
            room = block_size
        groups[-1].append((key, value))
        room -= len(key) + len(value) + 20  # no less than it takes
    followers = [group[0][0] for group in groups[1:]] + [None]
    keys = [between(group[-1][0], follower) for group, follower in zip(groups, followers, strict=True)]
    return join([seal(pack(group)) for group in groups], keys)


def index(tensors: dict[str, Tensor], n_shards: int = 1, block_size: int = 1 << 18) -> bytes:
    """The .index file of some tensors, which lie in their shards sorted by name."""
    pairs, ends = [(b"", header(n_shards))], [0] * n_shards
    for name, (dtype, shape, data, shard) in sorted(tensors.items(), key=lambda item: item[0].encode()):
        number, crc = NUMBERS[dtype], mask(crc32c(data))
        pairs.append((name.encode(), entry(number, shape, shard, ends[shard], len(data), crc)))
        ends[shard] += len(data)
    return table(pairs, block_size)


def save(prefix: Path, tensors: dict[str, Tensor], n_shards: int = 1, block_size: int = 1 << 18) -> Path:
    """Write a checkpoint. Return the path of its index."""
    shards = [b""] * n_shards
    for _, tensor in sorted(tensors.items(), key=lambda item: item[0].encode()):
        shards[tensor.shard] += tensor.data
    for i, shard in enumerate(shards):
        write(Path(f"{prefix}.data-{i:05}-of-{n_shards:05}"), shard)
    return write(Path(f"{prefix}.index"), index(tensors, n_shards, block_size))
