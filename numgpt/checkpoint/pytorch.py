"""Read what torch.save writes (pytorch_model.bin, *.pt, *.pth, *.ckpt), without PyTorch, and trusting nothing in it.

Such a file is a pickle, a program that builds the saved object on a stack, and the bytes of its tensors beside it. A
tensor is in the pickle as a call, and its storage, the memory that it is a view of, as a "persistent id", a tuple:

    torch._utils._rebuild_tensor_v2(storage, offset, size, stride, requires_grad, hooks[, metadata])
    storage = ("storage", torch.FloatStorage, key, location, count)

`count` is the length of the storage, and offset and stride count as it does: in numbers, not in bytes. Several tensors
may share a storage. Two containers hold these:

Zip, since PyTorch 1.6. All names are in one folder, whatever it is called; the entries are not compressed; sizes are
64-bit (zip64). Little-endian, unless "byteorder" says "big":

    archive/data.pkl      the pickle
    archive/data/KEY      the bytes of the storage KEY, as they lie in memory
    archive/byteorder     "little" or "big"; absent from old files

Legacy, before it; gpt2's own pytorch_model.bin is one. Five pickles, one after another, then the storages:

    the number 0x1950a86a20f9469cfc6c
    the number 1001, the version of the format
    a dict about the machine that wrote it; the storages are little-endian whatever it says
    the object; here a storage has a sixth item: None, or (key, offset, count) of the part of the storage that is meant
    the list of all KEYs
    for each KEY, in the order of this list: the count, as a 64-bit integer, then the bytes

Older than both is a tar archive, which we refuse. The sum of a zip entry (CRC-32) is not checked: PyTorch can be told
to write none.

A pickle can call any function of any module, so loading one is running a program of a stranger. This module does not
use Python's unpickler, not even with its two hooks replaced: those are a gate for names and storages, but the C code
behind it still lets 5 bytes ask for 32 GB (LONG_BINPUT), calls what it is given with any arguments, and hashes nested
tuples until the process dies. Here is an interpreter of the opcodes that PyTorch's files have, in protocols 2 to 5. The
table ACTIONS is all that it can do. A name in a file is looked up in the tables below, and never imported. What is
built are dicts, lists, tuples and plain values, in bounded time and memory; a copy without cycles and shared parts is
returned. We build less than torch.load(weights_only=True) does: no sets, and no sparse, quantized or complex tensors,
which no GPT-2 needs. An OrderedDict becomes a dict, an nn.Parameter a tensor, torch.float16 the text "torch.float16",
torch.device("cpu") the text "cpu".

Source: torch/serialization.py (_save, _legacy_save, _load, _legacy_load) and torch/_utils.py of PyTorch 2.13; the
zip format: PKWARE's APPNOTE.TXT 6.3.3; the opcodes: Lib/pickletools.py of CPython.
"""

import math
import os
import pickle  # for the names of the opcodes
import re
import struct
import sys
from collections.abc import Callable
from functools import partial
from io import BufferedReader
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from numgpt.checkpoint.files import (
    DAMAGED,
    DTYPES,
    MAX_AXES,
    brief,
    check_kind,
    listing,
    opened,
    place_of,
    printable,
    read_array,
    read_shards,
    version_of,
    wrong,
)
from numgpt.checkpoint.tensors import LazyTensor
from numgpt.errors import CheckpointError

# All that a pickle may ask for: types of storage, functions, and dtypes.
STORAGES = {
    "torch.DoubleStorage": "F64", "torch.FloatStorage": "F32", "torch.HalfStorage": "F16",
    "torch.BFloat16Storage": "BF16", "torch.LongStorage": "I64", "torch.IntStorage": "I32",
    "torch.ShortStorage": "I16", "torch.CharStorage": "I8", "torch.ByteStorage": "U8", "torch.BoolStorage": "BOOL",
}  # fmt: skip
FUNCTIONS = (  # see _call
    "torch._utils._rebuild_tensor", "torch._utils._rebuild_tensor_v2", "torch._utils._rebuild_parameter",
    "torch._utils._rebuild_parameter_with_state", "collections.OrderedDict", "torch.Size", "torch.device",
    "_codecs.encode", "__builtin__.bytes",  # bytes, in protocol 2
)  # fmt: skip
TORCH_DTYPES = re.compile(r"torch\.(float(16|32|64)|bfloat16|u?int(8|16|32|64)|bool)")

MAGIC, FORMAT = 0x1950A86A20F9469CFC6C, 1001
MAX_PICKLE = 1 << 24  # bytes; that of gpt2-xl has 100 KB
MAX_DIRECTORY = 1 << 22  # bytes of the list of what is in a zip archive: 50,000 entries
MAX_STEPS = 1_000_000  # opcodes of a pickle, and values in what is returned
MAX_OTHER_KEYS = 10_000  # keys that are not strings: a file can choose numbers that a dict is slow with
MAX_DEPTH = 64
MAX_EXPANDED = 1 << 24  # numbers in a tensor that repeats those of a smaller storage
WRAPPERS = ("state_dict", "model_state_dict", "model")  # Lightning, many scripts, nanoGPT

_brief = partial(brief, depth=1)  # what a pickle builds may be endless when it is written out

STATE_ALONE = "if you trust the file, load it in PyTorch and save its state_dict() alone"
SAVE_AGAIN = "load it in PyTorch and save it again"
MORE_KINDS = (
    (rb"(?s).{257}ustar", "a tar archive, as the first versions of PyTorch wrote it", SAVE_AGAIN),
    (rb"(?s).{8}\{", "a safetensors file", "use read_safetensors"),
)


def read_pytorch(path: str | os.PathLike[str]) -> dict[str, LazyTensor]:
    """Open the tensors of one file that torch.save wrote: check all of it but the tensors, of which none is read.

    path  the file, of either format, whatever its name
    Returns a dict from name to LazyTensor, in the order of the state dict. `read()` gives what the one of
    read_safetensors gives.
    Raises CheckpointError if the file is missing, damaged or holds no state dict, and if its pickle asks for anything
    but tensors and plain values, which is then named and not touched. `read()` also raises it: if the file was changed
    since, if a BOOL has a byte other than 0 and 1, or if the tensor does not fit into memory.
    Source: torch.load of PyTorch.

    >>> import tempfile, zipfile
    >>> storage = b"(X\\7\\0\\0\\0storagectorch\\nFloatStorage\\nX\\1\\0\\0\\x000X\\3\\0\\0\\0cpuK\\2tQ"
    >>> tensor = b"ctorch._utils\\n_rebuild_tensor_v2\\n(" + storage + b"K\\0K\\2\\x85K\\1\\x85\\x89NtR"
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder, "tiny.pt")
    ...     with zipfile.ZipFile(path, "w") as file:
    ...         file.writestr("tiny/data.pkl", b"\\x80\\2}X\\6\\0\\0\\0ln_f.g" + tensor + b"s.")
    ...         file.writestr("tiny/data/0", bytes.fromhex("0000803f 000000c0"))
    ...     tensors = read_pytorch(path)
    ...     tensors["ln_f.g"].dtype, tensors["ln_f.g"].shape, tensors["ln_f.g"].read()
    ('F32', (2,), array([ 1., -2.], dtype=float32))
    """
    return find_state_dict(read_object(path), path)[0]


def find_state_dict(saved: Any, source: str | os.PathLike[str]) -> tuple[dict[str, LazyTensor], dict[str, Any] | None]:
    """Find the state dict in a saved object: the object itself, or what it has under one of WRAPPERS.

    saved   what read_object returns
    source  the name of the file, for messages
    Returns the state dict, and what lies beside it under "model_args": the sizes of a nanoGPT, else None.
    Raises CheckpointError if there is none or more than one, or if anything in it is not a tensor.
    Source: train.py of karpathy/nanoGPT; dump_checkpoint of Lightning.

    >>> wte = LazyTensor("F32", (99, 4), lambda: np.zeros((99, 4), np.float32))
    >>> tensors, model_args = find_state_dict({"model": {"wte.weight": wte}, "model_args": {"n_head": 2}}, "ckpt.pt")
    >>> list(tensors), model_args
    (['wte.weight'], {'n_head': 2})
    """
    source = Path(source)
    state, model_args = saved, None
    if isinstance(saved, dict):
        inner = [key for key in WRAPPERS if isinstance(saved.get(key), dict)]
        if len(inner) > 1:
            raise wrong(source, f"state dicts under {listing(inner)}, expected one of them", STATE_ALONE)
        if inner:
            state, model_args = saved[inner[0]], saved.get("model_args")
    if not isinstance(state, dict) or not any(isinstance(value, LazyTensor) for value in state.values()):
        expected = f"expected a dict of tensors, or one under {', '.join(WRAPPERS)}"
        raise wrong(source, f"holds {_brief(saved)}, {expected}", "if a state dict is in it, save that alone")
    for name, value in state.items():
        if not isinstance(name, str) or not isinstance(value, LazyTensor):
            fault = f"the state dict has {_brief(value)} under {_brief(name)}, expected tensors under names"
            raise wrong(source, fault, "save the state dict without it")
    return state, model_args if isinstance(model_args, dict) else None


def read_pytorch_index(path: str | os.PathLike[str]) -> dict[str, LazyTensor]:
    """Open the tensors of a checkpoint that is split into shards, which `pytorch_model.bin.index.json` lists.

    path  the index, as read_index takes it; its shards are .bin files
    Returns a dict from name to LazyTensor, of all tensors of all shards.
    Raises CheckpointError as read_index and read_pytorch do.
    Source: get_checkpoint_shard_files of huggingface/transformers.
    """
    return read_shards(Path(path), read_pytorch, ".bin")


def read_object(path: str | os.PathLike[str]) -> Any:
    """Read the object that torch.save wrote, without the data of its tensors.

    path  the file, of either format, whatever its name
    Returns dicts, lists, tuples, str, int, float, bool, None, bytes and, for each tensor, a LazyTensor. No container
    is in it twice, and none is deeper than MAX_DEPTH, so it may be walked, printed and compared.
    Raises CheckpointError as read_pytorch does.
    Source: torch.load of PyTorch.
    """
    path = Path(path)
    with opened(path) as file:
        version = version_of(file)
        start = file.read(512)
        if start.startswith(b"PK\3\4"):
            value, places = _open_zip(path, file, version[0])
        elif start.startswith(b"\x80"):
            value, places = _open_legacy(path, file, version[0])
        else:
            check_kind(path, start, "a file of torch.save", MORE_KINDS)
            raise wrong(path, f"begins with {start[:4]!r}, expected a file of torch.save", f"it is none, or {DAMAGED}")
    return _finish(path, value, partial(_place, path, version, places))


# --- the two containers: each gives the object, and the place in the file of each storage that it asked for


def _open_legacy(path: Path, file: BufferedReader, size: int) -> tuple[Any, dict[str, int]]:
    file.seek(0)
    if (magic := _Unpickler(path, file).load()) != MAGIC:
        fault = f"begins with the pickle of {_brief(magic)}, expected the number that torch.save begins with"
        raise wrong(path, fault, f"it is a pickle of another kind, or {DAMAGED}")
    if (number := _Unpickler(path, file).load()) != FORMAT:
        raise wrong(path, f"version {_brief(number)} of the format, expected {FORMAT}", SAVE_AGAIN)
    _Unpickler(path, file).load()  # about the machine that wrote it
    unpickler = _Unpickler(path, file)
    value, storages = unpickler.load(), unpickler.storages
    keys = _Unpickler(path, file).load()
    if type(keys) is not list or any(type(k) is not str for k in keys) or sorted(keys) != sorted(storages):
        raise wrong(path, f"storages {_brief(keys)}, expected the {len(storages):,} of its tensors, once each")
    places = {}
    end = file.tell()
    for key in keys:
        dtype, length = storages[key]
        file.seek(end)
        stored = int.from_bytes(file.read(8), "little")
        places[key] = end + 8
        end += 8 + length * DTYPES[dtype].itemsize
        if end > size:
            raise wrong(
                path, f"storage {printable(key)} ends at byte {end:,}, expected at most {size:,}, the file's end"
            )
        if stored != length:
            raise wrong(path, f"storage {printable(key)} has {stored:,} numbers, expected {length:,}")
    if end != size:
        raise wrong(path, f"{size:,} bytes, expected {end:,}, where the last storage ends")
    return value, places


def _open_zip(path: Path, file: BufferedReader, size: int) -> tuple[Any, dict[str, int]]:
    entries, end = _read_directory(path, file, size)

    def find(name: str) -> int:
        """Go to the data of an entry, and return its size."""
        if name not in entries:
            raise wrong(path, f"{printable(name)} is missing, expected it in the archive")
        flags, method, length, packed, at = entries[name]
        if flags & 1 or method or packed != length:
            how = "encrypted" if flags & 1 else "compressed"
            raise wrong(path, f"{printable(name)} is {how}, expected it as torch.save writes it, as it is", SAVE_AGAIN)
        file.seek(min(at, end))
        local = file.read(30)
        if len(local) < 30 or local[:4] != b"PK\3\4":
            raise wrong(
                path, f"{printable(name)} is not at byte {at:,}, expected it where the archive's directory says"
            )
        at += 30 + sum(struct.unpack("<2H", local[26:]))  # its name and extra fields, again
        if at + length > end:
            raise wrong(path, f"{printable(name)} ends at byte {at + length:,}, expected at most {end:,}")
        file.seek(at)
        return length

    pickles = [name for name in entries if re.fullmatch(r"[^/]*/data\.pkl", name)]
    if len(pickles) != 1:
        fault = f"a zip archive with {len(pickles)} pickles data.pkl, expected 1"
        raise wrong(path, fault, "it is another kind of archive, or was packed again")
    folder = pickles[0].removesuffix("data.pkl")
    if folder + "byteorder" in entries:
        length = find(folder + "byteorder")
        if (order := file.read(min(length, 20))) != b"little":
            raise wrong(path, f"byteorder {order!r}, expected b'little'", "save it again on a little-endian machine")
    if (length := find(pickles[0])) > MAX_PICKLE:
        raise wrong(path, f"a pickle of {length:,} bytes, expected at most {MAX_PICKLE:,}", STATE_ALONE)
    unpickler = _Unpickler(path, file, length)
    value = unpickler.load()
    places = {}
    for key, (dtype, length) in unpickler.storages.items():
        expected = length * DTYPES[dtype].itemsize
        if (found := find(f"{folder}data/{key}")) != expected:
            fault = f"{found:,} bytes, expected {expected:,} for {length:,} numbers of {dtype}"
            raise wrong(path, f"storage {printable(key)} has {fault}")
        places[key] = file.tell()
    return value, places


def _read_directory(path: Path, file: BufferedReader, size: int) -> tuple[dict[str, tuple[int, ...]], int]:
    """Return name -> (flags, method, size, packed size, place of its local header), and where the directory begins."""
    file.seek(max(size - 42, 0))
    tail = file.read(42)
    end = size - 22
    if tail[-22:-18] != b"PK\5\6" or tail[-2:] != b"\0\0":
        raise wrong(path, "a zip archive without its end, expected it in the last 22 bytes")
    count, length, begin = struct.unpack("<H2I", tail[-12:-2])
    if tail[:4] == b"PK\6\7":  # zip64: these numbers again, with more bits
        end = int.from_bytes(tail[8:16], "little")
        file.seek(min(end, size))
        if len(record := file.read(56)) < 56 or record[:4] != b"PK\6\6":
            raise wrong(path, f"no zip64 record at byte {end:,}, expected it where the end of the archive says")
        count, length, begin = struct.unpack("<3Q", record[32:])
    if length > MAX_DIRECTORY or begin + length != end:
        expected = f"expected at most {MAX_DIRECTORY:,} that end at byte {end:,}"
        raise wrong(path, f"a directory of {length:,} bytes at byte {begin:,}, {expected}")
    file.seek(begin)
    raw = memoryview(file.read(length))
    entries: dict[str, tuple[int, ...]] = {}
    while raw:
        if len(raw) < 46 or raw[:4] != b"PK\1\2":
            raise wrong(path, f"no entry {len(entries):,} in the archive's directory, expected {count:,}")
        flags, method, packed, full, names, extras, notes, at = struct.unpack("<8x2H8x2I3H8xI", raw[:46])
        name, extra, raw = bytes(raw[46:][:names]).decode(errors="replace"), raw[46 + names :][:extras], raw[46:]
        raw = raw[names + extras + notes :]
        wide = raw[:0]
        while len(extra) >= 4:  # fields: what they are, their length, their bytes
            kind, width = struct.unpack("<2H", extra[:4])
            wide = extra[4 : 4 + width] if kind == 1 else wide
            extra = extra[4 + width :]
        numbers = [full, packed, at]
        for i, number in enumerate(numbers):  # zip64: those that need more bits, in this order
            if number == 0xFFFFFFFF:
                numbers[i], wide = int.from_bytes(wide[:8], "little"), wide[8:]
        if name in entries:
            raise wrong(path, f"{printable(name)} is in the archive twice, expected it once")
        entries[name] = (flags, method, *numbers)
    if len(entries) != count:
        raise wrong(path, f"{len(entries):,} entries in the archive's directory, expected {count:,}")
    return entries, begin


# --- the pickle


class _Global(NamedTuple):
    """A name of STORAGES or FUNCTIONS on the stack: it stands for nothing but itself."""

    name: str

    def __repr__(self) -> str:
        return self.name


class _Storage(NamedTuple):
    key: str
    dtype: str
    begin: int  # in numbers; not 0 only in a part of a storage
    length: int


class _Tensor(NamedTuple):
    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]


class _Unpickler:
    """Runs one pickle from where the file stands. `storages`, key -> (dtype, length), is what it asked for."""

    def __init__(self, path: Path, file: BufferedReader, size: int = MAX_PICKLE):
        self.path, self.file, self.left, self.encoded, self.other_keys = path, file, size, 0, 0
        self.stack: list[Any] = []
        self.marks: list[list[Any]] = []  # the stacks below the marks
        self.memo: list[Any] = []
        self.storages: dict[str, tuple[str, int]] = {}

    def load(self) -> Any:
        try:
            for _ in range(MAX_STEPS):
                code = self.take(1)
                if code == pickle.STOP:
                    return self.stack.pop()
                if code not in ACTIONS:
                    fault = f"has the opcode {OPCODES.get(code, code)}, expected only those that a state dict needs"
                    raise self.error(fault, STATE_ALONE)
                ACTIONS[code](self)
        except IndexError:
            raise self.error("takes what is not on its stack or in its memo, expected a sound pickle") from None
        except UnicodeError as error:
            raise self.error(f"has wrong text: {error}, expected UTF-8") from None
        raise self.error(f"has more than {MAX_STEPS:,} steps, expected fewer", STATE_ALONE)

    def error(self, fault: str, remedy: str = DAMAGED) -> CheckpointError:
        return wrong(self.path, f"the pickle {fault}", remedy)

    def take(self, count: int) -> bytes:
        if count > self.left:
            raise self.error(f"takes {count:,} more bytes, expected at most {self.left:,}")
        self.left -= count
        if len(raw := self.file.read(count)) < count:
            raise self.error("is cut, expected all of it")
        return raw

    def number(self, width: int, signed: bool = False) -> int:
        return int.from_bytes(self.take(width), "little", signed=signed)

    def text(self, width: int) -> str:
        return self.take(self.number(width)).decode()

    def line(self) -> str:
        raw = self.file.readline(min(self.left, 1000))
        self.left -= len(raw)
        if not raw.endswith(b"\n"):
            raise self.error(f"asks for {_brief(raw)}, expected a name that ends")
        return raw[:-1].decode()

    def protocol(self) -> None:
        if (number := self.number(1)) not in range(2, 6):
            raise self.error(f"is of protocol {number}, expected 2 to 5", SAVE_AGAIN)

    def push(self, value: Any) -> None:
        self.stack.append(value)

    def pop(self, count: int) -> list[Any]:
        return [self.stack.pop() for _ in range(count)][::-1]

    def mark(self) -> None:
        self.marks.append(self.stack)
        self.stack = []

    def pop_mark(self) -> list[Any]:
        values, self.stack = self.stack, self.marks.pop()
        return values

    def put(self, index: int) -> None:
        if index > len(self.memo):
            raise self.error(f"puts value {index:,} after {len(self.memo):,} others, expected them in order")
        self.memo[index : index + 1] = [self.stack[-1]]

    def append(self, values: list[Any]) -> None:
        if type(target := self.stack[-1]) is not list:
            raise self.error(f"appends to {_brief(target)}, expected a list", STATE_ALONE)
        target.extend(values)

    def set_items(self, pairs: list[Any]) -> None:
        if type(target := self.stack[-1]) is not dict or len(pairs) % 2:
            raise self.error(f"sets {len(pairs)} keys and values in {_brief(target)}, expected pairs in a dict")
        for key, value in zip(pairs[::2], pairs[1::2], strict=True):
            if type(key) is not str:
                self.other_keys += 1
                if type(key) not in (int, float, bool, bytes, type(None)) or self.other_keys > MAX_OTHER_KEYS:
                    expected = f"expected text or, at most {MAX_OTHER_KEYS:,} times, a plain value"
                    raise self.error(f"has the key {_brief(key)}, {expected}", STATE_ALONE)
            target[key] = value

    def build(self, state: Any) -> None:
        if type(target := self.stack[-1]) is not dict:
            raise self.error(f"sets attributes of {_brief(target)}, expected an OrderedDict, to drop them", STATE_ALONE)

    def find(self, module: Any, name: Any) -> None:
        full = f"{module}.{name}" if type(module) is type(name) is str else _brief((module, name))
        if TORCH_DTYPES.fullmatch(full):
            self.push(full)
        elif full in STORAGES or full in FUNCTIONS:
            self.push(_Global(full))
        else:
            fault = f"asks for {printable(full)}, expected only tensors and plain values; nothing was run"
            raise self.error(fault, STATE_ALONE)

    def call(self, function: Any, args: Any) -> None:
        match function.name if type(function) is _Global else "", *(args if type(args) is tuple else [None]):
            case "torch._utils._rebuild_tensor", _Storage() as storage, offset, size, stride:
                return self.push(self.tensor(storage, offset, size, stride))
            case "torch._utils._rebuild_tensor_v2", _Storage() as storage, offset, size, stride, _, _, *metadata:
                if not any(metadata):
                    return self.push(self.tensor(storage, offset, size, stride))
            case "torch._utils._rebuild_parameter", _Tensor() as tensor, _, _:
                return self.push(tensor)
            case "torch._utils._rebuild_parameter_with_state", _Tensor() as tensor, _, _, _:
                return self.push(tensor)
            case ["collections.OrderedDict"]:
                return self.push({})
            case "torch.Size", sizes if type(sizes) is tuple:
                return self.push(sizes)
            case "torch.device", str() as kind, *index if [type(i) for i in index] in ([], [int]):
                return self.push(":".join([kind, *map(str, index)]))
            case ["__builtin__.bytes"]:
                return self.push(b"")
            case "_codecs.encode", str() as text, "latin1":
                self.encoded += len(text)
                if self.encoded <= MAX_PICKLE:  # the same text may be encoded many times
                    return self.push(text.encode("latin1"))
        fault = f"calls {_brief(function)} with {_brief(args)}, expected a function with what torch.save passes to it"
        raise self.error(fault, STATE_ALONE)

    def tensor(self, storage: _Storage, offset: Any, size: Any, stride: Any) -> _Tensor:
        for numbers in ((offset,), size, stride):
            if type(numbers) is not tuple or any(type(n) is not int or not 0 <= n < 1 << 63 for n in numbers):
                raise self.error(f"has a tensor with {_brief(numbers)}, expected sizes, none below 0")
        if len(size) != len(stride) or len(size) > MAX_AXES:
            fault = f"has a tensor of {len(size)} axes with {len(stride)} strides"
            raise self.error(f"{fault}, expected one an axis, and at most {MAX_AXES}")
        return _Tensor(storage, offset, size, stride)

    def persistent(self, pid: Any) -> None:
        match pid if type(pid) is tuple else ():
            case "storage", _Global(name), str() as key, str(), int() as length, *part if 0 <= length < 1 << 63:
                stored = STORAGES.get(name, ""), length
                if not stored[0] or self.storages.setdefault(key, stored) != stored:
                    raise self.error(
                        f"has storage {printable(key)} as {name} of {length}, expected one type and length"
                    )
                match part:
                    case [] | [None]:
                        return self.push(_Storage(key, stored[0], 0, length))
                    case [(str(), int() as begin, int() as count)] if 0 <= begin <= begin + count <= length:
                        return self.push(_Storage(key, stored[0], begin, count))
        raise self.error(f"has the persistent id {_brief(pid)}, expected that of a storage")


# What each opcode does. `u` is the _Unpickler.
ACTIONS: dict[bytes, Callable[[_Unpickler], object]] = {
    pickle.PROTO: lambda u: u.protocol(),
    pickle.FRAME: lambda u: u.take(8),
    pickle.NONE: lambda u: u.push(None),
    pickle.NEWTRUE: lambda u: u.push(True),
    pickle.NEWFALSE: lambda u: u.push(False),
    pickle.BININT: lambda u: u.push(u.number(4, signed=True)),
    pickle.BININT1: lambda u: u.push(u.number(1)),
    pickle.BININT2: lambda u: u.push(u.number(2)),
    pickle.LONG1: lambda u: u.push(u.number(u.number(1), signed=True)),
    pickle.BINFLOAT: lambda u: u.push(struct.unpack(">d", u.take(8))[0]),
    pickle.BINUNICODE: lambda u: u.push(u.text(4)),
    pickle.SHORT_BINUNICODE: lambda u: u.push(u.text(1)),
    pickle.BINBYTES: lambda u: u.push(u.take(u.number(4))),
    pickle.SHORT_BINBYTES: lambda u: u.push(u.take(u.number(1))),
    pickle.EMPTY_DICT: lambda u: u.push({}),
    pickle.EMPTY_LIST: lambda u: u.push([]),
    pickle.EMPTY_TUPLE: lambda u: u.push(()),
    pickle.TUPLE1: lambda u: u.push(tuple(u.pop(1))),
    pickle.TUPLE2: lambda u: u.push(tuple(u.pop(2))),
    pickle.TUPLE3: lambda u: u.push(tuple(u.pop(3))),
    pickle.MARK: lambda u: u.mark(),
    pickle.TUPLE: lambda u: u.push(tuple(u.pop_mark())),
    pickle.APPEND: lambda u: u.append(u.pop(1)),
    pickle.APPENDS: lambda u: u.append(u.pop_mark()),
    pickle.SETITEM: lambda u: u.set_items(u.pop(2)),
    pickle.SETITEMS: lambda u: u.set_items(u.pop_mark()),
    pickle.BINPUT: lambda u: u.put(u.number(1)),
    pickle.LONG_BINPUT: lambda u: u.put(u.number(4)),
    pickle.MEMOIZE: lambda u: u.put(len(u.memo)),
    pickle.BINGET: lambda u: u.push(u.memo[u.number(1)]),
    pickle.LONG_BINGET: lambda u: u.push(u.memo[u.number(4)]),
    pickle.GLOBAL: lambda u: u.find(u.line(), u.line()),
    pickle.STACK_GLOBAL: lambda u: u.find(*u.pop(2)),
    pickle.REDUCE: lambda u: u.call(*u.pop(2)),
    pickle.BINPERSID: lambda u: u.persistent(*u.pop(1)),
    pickle.BUILD: lambda u: u.build(*u.pop(1)),
}
OPCODES = {code: name for name, code in vars(pickle).items() if type(code) is bytes}


# --- the result


def _finish(path: Path, value: Any, place: Callable[[str, _Tensor], LazyTensor]) -> Any:
    """Copy what a pickle built, each tensor as a LazyTensor. A part that is there twice is copied twice."""
    left = MAX_STEPS

    def copy(value: Any, name: str, depth: int) -> Any:
        nonlocal left
        kind = type(value)
        left -= 20 if kind is _Tensor else 1
        if left < 0 or depth > MAX_DEPTH:
            fault = f"more than {MAX_STEPS:,} values, or more than {MAX_DEPTH} levels of them"
            raise wrong(path, f"the pickle builds {fault}, expected fewer", STATE_ALONE)
        if kind is dict:
            return {k: copy(v, k if type(k) is str else name, depth + 1) for k, v in value.items()}
        if kind is list or kind is tuple:
            return kind([copy(v, name, depth + 1) for v in value])
        if kind is _Tensor:
            return place(name, value)
        if kind is _Global or kind is _Storage:
            raise wrong(path, f"the pickle leaves {_brief(value)} as {_brief(name)}, expected a tensor", STATE_ALONE)
        return value

    return copy(value, "", 0)


def _place(path: Path, version: tuple[int, int], places: dict[str, int], name: str, tensor: _Tensor) -> LazyTensor:
    """Hold a tensor against its storage."""
    where = place_of(path, name)
    (key, dtype, begin, length), offset, shape, stride = tensor
    size = math.prod(shape)
    span = 1 + sum((n - 1) * step for n, step in zip(shape, stride, strict=True)) if size else 0
    if size and offset + span > length:
        fault = f"shape {shape} and stride {stride} from number {offset:,} on need {offset + span:,}"
        raise wrong(where, f"{fault}, expected at most the {length:,} of the storage")
    if size > max(length, MAX_EXPANDED) or math.prod(n or 1 for n in shape) * 8 > sys.maxsize:
        fault = f"shape {shape} from {length:,} numbers, expected one that repeats them less"
        raise wrong(where, fault, "save it with .contiguous()")
    stride = tuple(0 if n == 1 else step for n, step in zip(shape, stride, strict=True))
    packed = tuple(0 if n == 1 else math.prod(shape[i + 1 :]) for i, n in enumerate(shape))
    at = places[key] + (begin + offset if size else 0) * DTYPES[dtype].itemsize
    if not size or stride == packed:
        return LazyTensor(dtype, shape, partial(read_array, path, version, where, dtype, shape, at))
    run = partial(read_array, path, version, where, dtype, (span,), at)
    return LazyTensor(dtype, shape, partial(_read_view, where, run, shape, stride))


def _read_view(
    where: str, read_run: Callable[[], np.ndarray], shape: tuple[int, ...], stride: tuple[int, ...]
) -> np.ndarray:
    """Read all from a tensor's first number to its last, then take those that it has."""
    run = read_run()
    try:
        return np.lib.stride_tricks.as_strided(run, shape, [step * run.itemsize for step in stride]).copy()
    except MemoryError:
        raise wrong(where, f"a view of shape {shape}, expected one that fits into memory", "free some") from None
