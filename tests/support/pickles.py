"""Write files of torch.save without PyTorch, and pickles opcode by opcode. Nothing here uses numgpt.

A `Code` is a piece of a pickle that leaves one value on the stack. Everything else is written by `dump`.
"""

import io
import struct
import zipfile
from collections.abc import Mapping
from typing import Any

MAGIC, FORMAT = 0x1950A86A20F9469CFC6C, 1001
STORAGES = {
    "F64": "Double", "F32": "Float", "F16": "Half", "BF16": "BFloat16", "I64": "Long", "I32": "Int", "I16": "Short",
    "I8": "Char", "U8": "Byte", "BOOL": "Bool",
}  # fmt: skip


class Code(bytes):
    """Opcodes."""


def dump(value: Any) -> Code:
    if isinstance(value, Code):
        return value
    if value is None or isinstance(value, bool):
        return Code({None: b"N", True: b"\x88", False: b"\x89"}[value])
    if isinstance(value, int):
        if -(2**31) <= value < 2**31:
            return Code(b"J" + struct.pack("<i", value))
        raw = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
        return Code(b"\x8a" + bytes([len(raw)]) + raw)
    if isinstance(value, float):
        return Code(b"G" + struct.pack(">d", value))
    if isinstance(value, str):
        return Code(b"X" + struct.pack("<I", len(value.encode())) + value.encode())
    if isinstance(value, bytes):
        return Code(b"B" + struct.pack("<I", len(value)) + value)
    if isinstance(value, Mapping):
        return Code(b"}(" + b"".join(dump(k) + dump(v) for k, v in value.items()) + b"u")
    if isinstance(value, list):
        return Code(b"](" + b"".join(map(dump, value)) + b"e")
    return Code(b"(" + b"".join(map(dump, value)) + b"t")


def name(full: str) -> Code:
    module, _, last = full.rpartition(".")
    return Code(b"c" + module.encode() + b"\n" + last.encode() + b"\n")


def call(full: str, *args: Any) -> Code:
    return Code(name(full) + dump(args) + b"R")


def storage(dtype: str, key: str, length: int, *part: Any) -> Code:
    return Code(dump(("storage", name(f"torch.{STORAGES[dtype]}Storage"), key, "cpu", length, *part)) + b"Q")


def tensor(of: Code, shape: Any, stride: Any, offset: Any = 0) -> Code:
    return call("torch._utils._rebuild_tensor_v2", of, offset, shape, stride, False, call("collections.OrderedDict"))


def finish(value: Any, protocol: int = 2) -> bytes:
    return b"\x80" + bytes([protocol]) + dump(value) + b"."


def legacy(value: Any, storages: Mapping[str, tuple[int, bytes]], keys: Any = None, more: bytes = b"") -> bytes:
    """A file of the old format. `storages`: key -> (its length in numbers, its bytes)."""
    keys = sorted(storages) if keys is None else keys
    pickles = [MAGIC, FORMAT, {"little_endian": True}, value, keys]
    data = [struct.pack("<q", length) + raw for _, (length, raw) in sorted(storages.items())]
    return b"".join([*map(finish, pickles), *data, more])


def archive(
    value: Any, storages: Mapping[str, bytes], more: Mapping[str, bytes] | None = None, method: int = 0
) -> bytes:
    """A file of the new format. `storages`: key -> its bytes; `more`: other entries."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", method) as file:
        file.writestr("archive/data.pkl", finish(value))
        for key, raw in storages.items():
            file.writestr(f"archive/data/{key}", raw)
        for key, raw in (more or {}).items():
            file.writestr(key, raw)
    return out.getvalue()
