"""The interpreter of pickles: nothing is run, imported or blown up by a hostile one."""

import json
import os
import pickle
import struct
import subprocess
import sys
from pathlib import Path

import pytest
from support import pickles
from support.pickles import Code, archive, call, dump, finish, name, storage, tensor
from support.readers import fault, write

from numgpt.checkpoint.pytorch import read_object

ROOT = Path(__file__).parents[2]
ALONE = "if you trust the file, load it in PyTorch and save its state_dict() alone"
F32 = storage("F32", "0", 2)
W = tensor(F32, (2,), (1,))


def message(path: Path) -> str:
    return fault(path, read_object)


def says(what: str) -> str:
    return f"the pickle {what}: {ALONE}"


def calls(function: str, args: str) -> str:
    return says(f"calls {function} with {args}, expected a function with what torch.save passes to it")


def opcode(name: str) -> str:
    return says(f"has the opcode {name}, expected only those that a state dict needs")


def test_a_pickle_may_have_10000_keys_that_are_not_text(tmp_path):
    """A file can choose numbers that a dict needs long for, but not text."""
    value = [dict.fromkeys(range(5000)), dict.fromkeys(range(5000)), dict.fromkeys(map(str, range(20_000)))]
    assert read_object(write(tmp_path / "x.bin", archive(value, {}))) == value
    expected = says("has the key 0, expected text or, at most 10,000 times, a plain value")
    assert message(write(tmp_path / "x.bin", archive([*value, {0: 1}], {}))) == expected


class Evil:
    """What pickle calls while it loads this."""

    def __init__(self, *reduced: object):
        self.reduced = reduced

    def __reduce__(self) -> object:
        return self.reduced


def asks(what: str) -> str:
    return says(f"asks for {what}, expected only tensors and plain values; nothing was run")


MARKER = "was-here"
TOUCH = f"open({MARKER!r}, 'w')"
EVIL = {
    **{
        f"{label}, protocol {protocol}": (
            pickle.dumps(Evil(function, args), protocol),
            asks(what if protocol > 2 else old),
        )
        for protocol in (2, 3, 4, 5)
        for label, function, args, what, old in [
            ("os.system", os.system, (f"touch {MARKER}",), f"{os.name}.system", f"{os.name}.system"),
            ("eval", eval, (TOUCH,), "builtins.eval", "__builtin__.eval"),
            ("exec", exec, (TOUCH,), "builtins.exec", "__builtin__.exec"),
            ("getattr", getattr, ("", "upper"), "builtins.getattr", "__builtin__.getattr"),
            ("import", __import__, ("this",), "builtins.__import__", "__builtin__.__import__"),
            # pickle knows the modules of Python 2 by their names there
            ("subprocess", subprocess.Popen, (["touch", MARKER],), "subprocess.Popen", "commands.Popen"),
        ]
    },
    "torch.load": (finish(call("torch.load", "x")), asks("torch.load")),
    "numpy.load": (finish(call("numpy.load", "x")), asks("numpy.load")),
    "a class of ours": (
        finish(call("numgpt.checkpoint.pytorch._Unpickler")),
        asks("numgpt.checkpoint.pytorch._Unpickler"),
    ),
    "argparse.Namespace": (finish(Code(name("argparse.Namespace") + b")\x81")), asks("argparse.Namespace")),
    "lookalike, NUL": (
        finish(Code(b"ctorch._utils\0\n_rebuild_tensor_v2\n")),
        asks(r"'torch._utils\x00._rebuild_tensor_v2'"),
    ),
    "lookalike, space": (
        finish(Code(b"ctorch._utils \n_rebuild_tensor_v2\n")),
        asks("torch._utils ._rebuild_tensor_v2"),
    ),
    "lookalike, Cyrillic": (finish(Code("ctorch\nSizе\n".encode())), asks("torch.Sizе")),
    "lookalike, dtype": (finish(Code(b"ctorch\nfloat32.\xc3\xa9\n")), asks("torch.float32.é")),
    "lookalike, line": (finish(Code(dump("torch.float32\n") + dump("x") + b"\x93")), asks(r"'torch.float32\n.x'")),
    "dotted": (
        finish(Code(dump("torch._utils") + dump("_rebuild_tensor_v2.__globals__") + b"\x93")),
        asks("torch._utils._rebuild_tensor_v2.__globals__"),
    ),
    "dotted, other way": (
        finish(Code(dump("torch") + dump("_utils._rebuild_tensor_v2.__globals__") + b"\x93")),
        asks("torch._utils._rebuild_tensor_v2.__globals__"),
    ),
    "no module": (finish(Code(b"c\nSize\n")), asks(".Size")),
    "name that is no text": (finish(Code(dump(b"os") + dump("system") + b"\x93")), asks(r"""(b'os', 'system')""")),
    "INST": (finish(Code(b"(X\1\0\0\0xios\nsystem\n")), opcode("INST")),
    "OBJ": (finish(Code(b"(" + name("torch.Size") + b"o")), opcode("OBJ")),
    "NEWOBJ": (finish(Code(name("torch.Size") + b")\x81")), opcode("NEWOBJ")),
    "NEWOBJ_EX": (finish(Code(name("torch.Size") + b")}\x92")), opcode("NEWOBJ_EX")),
    "EXT1": (finish(Code(b"\x82\1")), opcode("EXT1")),
    "EXT2": (finish(Code(b"\x83\1\0")), opcode("EXT2")),
    "EXT4": (finish(Code(b"\x84\1\0\0\0")), opcode("EXT4")),
    "PERSID": (finish(Code(b"P0\n")), opcode("PERSID")),
    "NEXT_BUFFER": (finish(Code(b"\x97")), opcode("NEXT_BUFFER")),
    "LONG4": (finish(Code(b"\x8b\xff\xff\xff\x7f")), opcode("LONG4")),
    "LONG": (finish(Code(b"L" + b"9" * 5000 + b"L\n")), opcode("LONG")),
    "no opcode": (finish(Code(b"\xff")), opcode("b'\\xff'")),
    "BUILD of a function": (
        finish(Code(name("torch.Size") + b"}" + dump("__call__") + b"Nsb")),
        says("sets attributes of torch.Size, expected an OrderedDict, to drop them"),
    ),
    "call of a call": (
        finish(Code(call("torch.device", "cpu") + b")R")),
        calls("'cpu'", "()"),
    ),
}


@pytest.mark.parametrize("case", EVIL)
def test_nothing_that_a_pickle_asks_for_is_run_or_imported(tmp_path, monkeypatch, case):
    raw, expected = EVIL[case]
    monkeypatch.chdir(tmp_path)
    loaded = set(sys.modules)
    for file in (
        raw,  # in the place of the magic number
        b"".join([*map(finish, [pickles.MAGIC, 1001]), raw]),  # in that of the system's
        b"".join([*map(finish, [pickles.MAGIC, 1001, {}]), raw]),  # in that of the object
        b"".join([*map(finish, [pickles.MAGIC, 1001, {}, []]), raw]),  # in that of the keys
        archive(Code(raw[:-1]), {}),
    ):
        assert message(write(tmp_path / "x.bin", file)) == expected
    assert set(sys.modules) == loaded
    assert os.listdir(tmp_path) == ["x.bin"]


def test_python_tells_of_no_import_and_no_open_but_of_the_file(tmp_path):
    """In a process of its own, as nothing takes a hook of sys.addaudithook away again."""
    for i, (raw, _) in enumerate(EVIL.values()):
        write(tmp_path / f"{i}.bin", raw)
        write(tmp_path / f"{i}.zip", archive(Code(raw[:-1]), {}))
    script = """
import sys
from pathlib import Path
from numgpt.checkpoint.pytorch import read_pytorch
from numgpt.errors import CheckpointError
paths = sorted(Path(sys.argv[1]).iterdir())
seen = []
sys.addaudithook(lambda event, args: seen.append((event, str(args[0]) if args else "")))
refused = 0
for path in paths:
    try:
        read_pytorch(path)
    except CheckpointError:
        refused += 1
seen = sorted(set(seen))
others = [event for event in seen if event[0] not in ("open", "object.__getattr__") or event[1] not in map(str, paths)]
print(refused, others)
"""
    run = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path)], capture_output=True, text=True, cwd=ROOT, check=True, timeout=60
    )
    assert run.stdout == f"{2 * len(EVIL)} []\n"


def laughs(depth: int) -> bytes:
    """[[...] * 10] * 10 ..., by the memo."""
    code = b"]q\0"
    for i in range(depth):
        code += b"](" + b"h" + bytes([i]) + (b"h" + bytes([i])) * 9 + b"eq" + bytes([i + 1])
    return code


BOMBS = {
    "nested tuples": b")" + b"\x85" * 100_000,
    "nested tuple as a key": b"})" + b"\x85" * 100_000 + b"Ns",
    "nested lists": b"]" * 80_000 + b"a" * 79_999,
    "list in itself": b"]q\0h\0a",
    "dict in itself": b"}q\0" + dump("a") + b"h\0s",
    "billion laughs": laughs(60),
    "laughs in a call": name("torch.Size") + laughs(60) + b"R",
    "laughs as a key": b"}" + laughs(60) + b"Ns",
    "laughs as sizes": call("torch._utils._rebuild_tensor", F32, 0, Code(laughs(60)), ()),
    "laughs as an id": laughs(60) + b"Q",
    "marks": b"(" * 2_000_000,
    "dicts in a list": b"](" + b"}" * 100_000 + b"e",
    "lists": b"](" + b"]" * 300_000 + b"e",
    "shared dict": b"}q\0" + dump("a") + b"}s](" + b"h\0" * 100_000 + b"e",
    "memo": b"N" + b"\x94" * 100_000,
    "encode": dump("x" * 8_000_000) + b"q\0]" + (name("_codecs.encode") + b"h\0" + dump("latin1") + b"\x86Ra") * 200,
    "wide text": dump("🙂" + "x" * 16_000_000),
    "bytes in a message": dump(b"\xff" * 15_000_000) + b"q\0(" + b"h\0" * 1000 + b"tQ",
    "numbers as keys": b"}(" + b"".join(dump(i << 40) + b"N" for i in range(80_000)) + b"u",
    "tensors": b"](" + W + b"q\0" + b"h\0" * 100_000 + b"e",
    "huge numbers": b"](" + (b"\x8a\xff" + b"\x7f" * 255) * 60_000 + b"e",
    "large dicts in a message": b"}(" + b"".join(dump(f"{i}") + b"N" for i in range(100_000)) + b"uq\0("
        + b"h\0" * 100 + b"t" + b"q\1" + (b"(" + b"h\1" * 10 + b"t") * 10 + b"Q",
    "expanded": dump([tensor(F32, (1 << 40,), (0,))]),
    "large frame": b"\x95" + b"\xff" * 8 + b"N",
    "large text": b"X\xff\xff\xff\xff",
    "large bytes": b"B\xff\xff\xff\xff",
    "large memo": b"Nr\xff\xff\xff\xff",
}  # fmt: skip


def directories() -> dict[str, bytes]:
    """Zip archives with much in their directories."""

    def pack(directory: bytes, count: int) -> bytes:
        return (
            b"PK\3\4"
            + directory
            + struct.pack("<4s4H2IH", b"PK\5\6", 0, 0, count & 0xFFFF, count & 0xFFFF, len(directory), 4, 0)
        )

    def entry(name: bytes, extra: bytes) -> bytes:
        return (
            struct.pack("<4s6H3I5H2I", b"PK\1\2", *[0] * 9, len(name), len(extra), 0, 0, 0, 0, 2**32 - 1) + name + extra
        )

    return {
        "entries": pack(b"".join(entry(b"%d" % i, b"") for i in range(40_000)), 40_000),
        "fields": pack(b"".join(entry(b"%d" % i, b"\0\0\0\0" * 16_000) for i in range(64)), 64),
        "wide fields": pack(b"".join(entry(b"%d" % i, b"\1\0\0\0" * 16_000) for i in range(64)), 64),
        "too large": pack(bytes(5 << 20), 1),
    }


@pytest.mark.thorough
def test_no_file_needs_much_time_or_memory(tmp_path):
    """In a process of its own, whose memory tells what was needed at most."""
    for case, code in BOMBS.items():
        write(tmp_path / f"{case}.zip", archive(Code(code), {"0": bytes(8)}))
    for case, raw in directories().items():
        write(tmp_path / f"{case}.zip", raw)
    script = """
import json, re, sys, time
from pathlib import Path
from numgpt.checkpoint.pytorch import read_pytorch
from numgpt.errors import CheckpointError
def peak():  # in MB. Not ru_maxrss, which begins at that of the process before exec, pytest's
    status = Path("/proc/self/status")
    return int(re.search(r"VmHWM:\\s*(\\d+)", status.read_text())[1]) >> 10 if status.exists() else 0
result = {}
for path in sorted(Path(sys.argv[1]).iterdir()):
    start, text = time.process_time(), ""
    try:
        read_pytorch(path)
    except CheckpointError as error:
        text = str(error)
    result[path.name] = time.process_time() - start, peak(), len(text)
print(json.dumps(result))
"""
    run = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path)], capture_output=True, text=True, cwd=ROOT, check=True, timeout=300
    )
    result = json.loads(run.stdout)
    assert len(result) == len(BOMBS) + 4
    for case, (seconds, megabytes, length) in result.items():
        assert length, case  # none is a state dict
        assert length < 2000, case
        assert seconds < 5, case
        assert megabytes < 500, case
