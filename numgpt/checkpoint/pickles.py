"""Run the pickles of torch.save, opcode by opcode, without PyTorch, and trusting nothing in them.

A pickle is a program that builds an object on a stack. A tensor is in it as a call, and its storage, the memory that it
is a view of, as a "persistent id", a tuple:

    torch._utils._rebuild_tensor_v2(storage, offset, size, stride, requires_grad, hooks[, metadata])
    storage = ("storage", torch.FloatStorage, key, location, count)

`count` is the length of the storage, and offset and stride count as it does: in numbers, not in bytes. Several tensors
may share a storage. In legacy files a storage has a sixth item: None, or (key, offset, count) of the part that is
meant.

A pickle can call any function of any module, so loading one is running a program of a stranger. This module does not
use Python's unpickler, not even with its two hooks replaced: those are a gate for names and storages, but the C code
behind it still lets 5 bytes ask for 32 GB (LONG_BINPUT), calls what it is given with any arguments, and hashes nested
tuples until the process dies. Here is an interpreter of the opcodes that PyTorch's files have, in protocols 2 to 5. The
table ACTIONS is all that it can do. A name in a file is looked up in the tables below, and never imported. What is
built are dicts, lists, tuples and plain values, in bounded time and memory; a copy without cycles and shared parts is
returned. We build less than torch.load(weights_only=True) does: no sets, and no sparse, quantized or complex tensors,
which no GPT-2 needs. An OrderedDict becomes a dict, an nn.Parameter a tensor, torch.float16 the text "torch.float16",
torch.device("cpu") the text "cpu".

Source: torch/serialization.py and torch/_utils.py of PyTorch 2.13; the opcodes: Lib/pickletools.py of CPython.
"""

import pickle  # for the names of the opcodes
import re
import struct
from collections.abc import Callable
from io import BufferedReader
from pathlib import Path
from typing import Any, NamedTuple

from numgpt.checkpoint.files import DAMAGED, MAX_AXES, brief, printable, wrong
from numgpt.checkpoint.tensors import LazyTensor
from numgpt.errors import CheckpointError

# All that a pickle may ask for: types of storage, functions, and dtypes.
STORAGES = {
    "torch.DoubleStorage": "F64", "torch.FloatStorage": "F32", "torch.HalfStorage": "F16",
    "torch.BFloat16Storage": "BF16", "torch.LongStorage": "I64", "torch.IntStorage": "I32",
    "torch.ShortStorage": "I16", "torch.CharStorage": "I8", "torch.ByteStorage": "U8", "torch.BoolStorage": "BOOL",
}  # fmt: skip
FUNCTIONS = (  # see Unpickler.call
    "torch._utils._rebuild_tensor", "torch._utils._rebuild_tensor_v2", "torch._utils._rebuild_parameter",
    "torch._utils._rebuild_parameter_with_state", "collections.OrderedDict", "torch.Size", "torch.device",
    "_codecs.encode", "__builtin__.bytes",  # bytes, in protocol 2
)  # fmt: skip
TORCH_DTYPES = re.compile(r"torch\.(float(16|32|64)|bfloat16|u?int(8|16|32|64)|bool)")

MAX_PICKLE = 1 << 24  # bytes; that of gpt2-xl has 100 KB
MAX_STEPS = 1_000_000  # opcodes of a pickle, and values in what is returned
MAX_OTHER_KEYS = 10_000  # keys that are not strings: a file can choose numbers that a dict is slow with
MAX_DEPTH = 64

STATE_ALONE = "if you trust the file, load it in PyTorch and save its state_dict() alone"
SAVE_AGAIN = "load it in PyTorch and save it again"


def shown(value: Any) -> str:
    """Write what a pickle builds, which may be endless when it is written out, in a short line."""
    return brief(value, depth=1)


class Global(NamedTuple):
    """A name of STORAGES or FUNCTIONS on the stack: it stands for nothing but itself."""

    name: str

    def __repr__(self) -> str:
        return self.name


class Storage(NamedTuple):
    key: str
    dtype: str
    begin: int  # in numbers; not 0 only in a part of a storage
    length: int


class Tensor(NamedTuple):
    storage: Storage
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]


class Unpickler:
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
            raise self.error(f"asks for {shown(raw)}, expected a name that ends")
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
            raise self.error(f"appends to {shown(target)}, expected a list", STATE_ALONE)
        target.extend(values)

    def set_items(self, pairs: list[Any]) -> None:
        if type(target := self.stack[-1]) is not dict or len(pairs) % 2:
            raise self.error(f"sets {len(pairs)} keys and values in {shown(target)}, expected pairs in a dict")
        for key, value in zip(pairs[::2], pairs[1::2], strict=True):
            if type(key) is not str:
                self.other_keys += 1
                if type(key) not in (int, float, bool, bytes, type(None)) or self.other_keys > MAX_OTHER_KEYS:
                    expected = f"expected text or, at most {MAX_OTHER_KEYS:,} times, a plain value"
                    raise self.error(f"has the key {shown(key)}, {expected}", STATE_ALONE)
            target[key] = value

    def build(self, state: Any) -> None:
        if type(target := self.stack[-1]) is not dict:
            raise self.error(f"sets attributes of {shown(target)}, expected an OrderedDict, to drop them", STATE_ALONE)

    def find(self, module: Any, name: Any) -> None:
        full = f"{module}.{name}" if type(module) is type(name) is str else shown((module, name))
        if TORCH_DTYPES.fullmatch(full):
            self.push(full)
        elif full in STORAGES or full in FUNCTIONS:
            self.push(Global(full))
        else:
            fault = f"asks for {printable(full)}, expected only tensors and plain values; nothing was run"
            raise self.error(fault, STATE_ALONE)

    def call(self, function: Any, args: Any) -> None:
        match function.name if type(function) is Global else "", *(args if type(args) is tuple else [None]):
            case "torch._utils._rebuild_tensor", Storage() as storage, offset, size, stride:
                return self.push(self.tensor(storage, offset, size, stride))
            case "torch._utils._rebuild_tensor_v2", Storage() as storage, offset, size, stride, _, _, *metadata:
                if not any(metadata):
                    return self.push(self.tensor(storage, offset, size, stride))
            case "torch._utils._rebuild_parameter", Tensor() as tensor, _, _:
                return self.push(tensor)
            case "torch._utils._rebuild_parameter_with_state", Tensor() as tensor, _, _, _:
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
        fault = f"calls {shown(function)} with {shown(args)}, expected a function with what torch.save passes to it"
        raise self.error(fault, STATE_ALONE)

    def tensor(self, storage: Storage, offset: Any, size: Any, stride: Any) -> Tensor:
        for numbers in ((offset,), size, stride):
            if type(numbers) is not tuple or any(type(n) is not int or not 0 <= n < 1 << 63 for n in numbers):
                raise self.error(f"has a tensor with {shown(numbers)}, expected sizes, none below 0")
        if len(size) != len(stride) or len(size) > MAX_AXES:
            fault = f"has a tensor of {len(size)} axes with {len(stride)} strides"
            raise self.error(f"{fault}, expected one an axis, and at most {MAX_AXES}")
        return Tensor(storage, offset, size, stride)

    def persistent(self, pid: Any) -> None:
        match pid if type(pid) is tuple else ():
            case "storage", Global(name), str() as key, str(), int() as length, *part if 0 <= length < 1 << 63:
                stored = STORAGES.get(name, ""), length
                if not stored[0] or self.storages.setdefault(key, stored) != stored:
                    raise self.error(
                        f"has storage {printable(key)} as {name} of {length}, expected one type and length"
                    )
                match part:
                    case [] | [None]:
                        return self.push(Storage(key, stored[0], 0, length))
                    case [(str(), int() as begin, int() as count)] if 0 <= begin <= begin + count <= length:
                        return self.push(Storage(key, stored[0], begin, count))
        raise self.error(f"has the persistent id {shown(pid)}, expected that of a storage")


# What each opcode does. `u` is the Unpickler.
ACTIONS: dict[bytes, Callable[[Unpickler], object]] = {
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


def copy_plainly(path: Path, value: Any, place: Callable[[str, Tensor], LazyTensor]) -> Any:
    """Copy what a pickle built, each tensor as a LazyTensor. A part that is there twice is copied twice."""
    left = MAX_STEPS

    def copy(value: Any, name: str, depth: int) -> Any:
        nonlocal left
        kind = type(value)
        left -= 20 if kind is Tensor else 1
        if left < 0 or depth > MAX_DEPTH:
            fault = f"more than {MAX_STEPS:,} values, or more than {MAX_DEPTH} levels of them"
            raise wrong(path, f"the pickle builds {fault}, expected fewer", STATE_ALONE)
        if kind is dict:
            return {k: copy(v, k if type(k) is str else name, depth + 1) for k, v in value.items()}
        if kind is list or kind is tuple:
            return kind([copy(v, name, depth + 1) for v in value])
        if kind is Tensor:
            return place(name, value)
        if kind is Global or kind is Storage:
            raise wrong(path, f"the pickle leaves {shown(value)} as {shown(name)}, expected a tensor", STATE_ALONE)
        return value

    return copy(value, "", 0)
