"""The reader of torch.save's files: exact arrays out of sound files, and one clear message for each unsound one."""

import base64
import json
import math
import pickle
import struct
import sys
import tracemalloc
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from support import pickles
from support.pickles import Code, archive, call, dump, finish, legacy, name, storage, tensor
from support.readers import fault, fuzz, read_or_refused, write

from numgpt.checkpoint.pickles import MAX_PICKLE
from numgpt.checkpoint.pytorch import find_state_dict, read_object, read_pytorch, read_pytorch_index
from numgpt.checkpoint.tensors import DTYPES, LazyTensor
from numgpt.errors import CheckpointError

DAMAGED = "the file is damaged, download it again"
ALONE = "if you trust the file, load it in PyTorch and save its state_dict() alone"
AGAIN = "load it in PyTorch and save it again"

# PyTorch 2.13 wrote these two: torch.save(state, path, _use_new_zipfile_serialization=False), then True, where
#     w = torch.tensor([[1.0, -2.0, 3.0], [4.0, 5.0, 6.5]])
#     half = torch.tensor([1.5, -2]).bfloat16()
#     state = OrderedDict({"wte.weight": w, "head": w.t(), "n": torch.tensor(7), "half": half})
# They are compressed with zlib and written in base 85.
LEGACY = (
    "c-n1}%Wl&^6o$uRCn<)OQm*CN7AiTLC;`W)t40WQGhE$`H^?&f5WBMM9Q(KxNR_f_1Uv%^mOMruf!E*>kXUfW4wZ^B(%g>EeE&aZJmp`_^v"
    "}1w-x~)%-mLeg{N*p5#$#ZXx5^ls6glQ$p8AKfD3d$`jS{?N`jRGysq|$QB|!%Kvu9EeKTf1yCZA*p`Y{-m*P>t<=LJGba8IXQk|DH(;TejN"
    "XJhCHqpC<VB$-r(NGhfIx`<>UqvuJ8Ca|sxnpF!Nq3j*WWE>;#5c498dwzvUTAF?#-&aW*`6#n8FZ{#DCg_&sb(90j48{_S=7_nM<^k?EK@"
    "(cu3gztB_Mrb{_;g^~J5C?kwb^h|k-zpUgr&EF2`=;*ToAg@W?+7am9L8kmt0t`uM^84f|Zz5V<TQjy&N~RRYlVUpTQNODd<{5yNYnlh3lS"
    "1M>Dw5pysAuP_fQD-#ka}4~LFp!!4p~L|-R*x7!eJBiwP}ZsRXVKft|n&}Vfi2F@Ay{(oSHmhgbUoWL7(5l&!JXeY4M2s}i1<ifUk!FTGfS"
    ">Q`s#N><WqsyMUx@w*I%;)pzE<0_re{H&}LX3?@w5I-@`p?l{_ZhVW"
)
ZIP = (
    "c-o~^J8#oK96#HMlNv~0Kp#LUk0F&xYUk0UP)KDVGZ=|92o!a(+{BG7+&Jf48o^WvT8R%)#Kc!%?aIbWOl%#1iItH%J2keeB&9v+bXIb|$KC"
    "&NC7Fo;5RZc+V+4!=)voHsmbOq+k(z2gGbJ$r)&gUju2wD6)T+p^8ZGXTUDIr>cHgKX4uZKdq>>d5lXZ}m>S#t?N06=}3)7~QHZsf>r`Xzh+c"
    "0Yi(i$zxR<_a{WRl5B45M0jr&`xw#D#E@X{qS3`y&UV6$<a+AzNYaT5YyrOlA>`ugXBCWo8!+$&5_xLhiLroSZ@MY#E-b;Nt>aQ)@7xV;w!B"
    "M|D<rki!JY$n-88ktsqj>LSMw952K3j$8v?aA93b53NSsb9B+!BESjEM<F<g`R3+ajwuAE%kYw`u9_S0a)3s3jwUR6R976TG@QXyG=f*1L+!v"
    ">nc9KZT*~VR-YCPH?NmvQ#XrpMRbF8TnWdgFod9_+rl}3f-c*sYrP(bUJ4wuhLVK(s5b^iFzrQ4Q$?PpY?HBKcR#8o(-q_R{=!E)<Sz@5rfxl"
    "=hLH9K<3W}bA_2)>lNU}=eos;Mu4%0x$)QE?jy9ZM&R$=>kNPv5Rs#@SB@%AYU0I*%ewEF<8tl)1v-{Sdkg*e(<?);j>e@+f?G#_*%NMiEXj$"
    "&OFqSyTP!y*Fl0eZ_py|g42PJ9FVMX*n_W2<Wiq_!e`wTFEf;N|_P;-BG&`lmPbCxi2E2BiNLfOGVgW*fKyUZ|vdDn?BbQ~zm(FJzapg+d{lU"
    "s}xZ*+M>(<Aq#C5co`<&oA-mTsoc4=A1Gef7kqy#6FUaONyBFeER#x$Pwq^cOZ=RH-L!%@+$>;b(}DXzlf&;B&#&&(>cOC{z4oL@O<|1cnu&7"
    "_g76K0DsDWQ0<1X{t5_Ue}=I_80*jAAeKBD!HNlE{rNW>yni3I$G!X0VkQ7CN5O!EEy*l9f0*9PEe|;qS|8Bv`X_qWE?B2?6uTbWmm|u$m?3A"
    "syZ0~VOX&;"
)


def literal(text: str) -> bytes:
    return zlib.decompress(base64.b85decode(text))


def message(path: Path, read=read_object) -> str:
    return fault(path, read)


def both(value: object, storages: dict[str, tuple[int, bytes]]) -> list[bytes]:
    """The same object in a legacy file and in a zip archive."""
    return [legacy(value, storages), archive(value, {key: raw for key, (_, raw) in storages.items()})]


def floats(*numbers: float) -> tuple[int, bytes]:
    return len(numbers), np.array(numbers, "<f4").tobytes()


# --- sound files


@pytest.mark.parametrize("text", [LEGACY, ZIP], ids=["legacy", "zip"])
def test_a_literal_file_of_pytorch_is_read(tmp_path, text):
    found = read_pytorch(write(tmp_path / "x.bin", literal(text)))
    assert {key: (t.dtype, t.shape) for key, t in found.items()} == {
        "wte.weight": ("F32", (2, 3)),
        "head": ("F32", (3, 2)),
        "n": ("I64", ()),
        "half": ("BF16", (2,)),
    }
    w = np.array([[1, -2, 3], [4, 5, 6.5]], np.float32)
    np.testing.assert_array_equal(found["wte.weight"].read(), w, strict=True)
    np.testing.assert_array_equal(found["head"].read(), w.T, strict=True)
    np.testing.assert_array_equal(found["n"].read(), np.array(7), strict=True)
    np.testing.assert_array_equal(found["half"].read(), np.array([1.5, -2], np.float32), strict=True)


@pytest.mark.parametrize("container", [0, 1], ids=["legacy", "zip"])
@pytest.mark.parametrize("dtype", pickles.STORAGES)
def test_each_dtype_is_read_and_halves_are_widened(tmp_path, dtype, container):
    stored = DTYPES[dtype]
    bits = np.arange(1000 * stored.itemsize) % (2 if dtype == "BOOL" else 120)
    raw = bits.astype(np.uint8).tobytes()
    value = {"run": tensor(storage(dtype, "0", 1000), (40, 25), (25, 1)), "turned": None}
    value["turned"] = tensor(storage(dtype, "0", 1000), (25, 40), (1, 25))
    found = read_object(write(tmp_path / "x.bin", both(value, {"0": (1000, raw)})[container]))
    expected = np.frombuffer(raw, stored).reshape(40, 25)
    if dtype == "BF16":
        expected = (expected.astype(np.uint32) << 16).view(np.float32)
    if dtype == "F16":
        expected = expected.astype(np.float32)
    assert found["run"].dtype == found["turned"].dtype == dtype
    for array, right in [(found["run"].read(), expected), (found["turned"].read(), expected.T)]:
        np.testing.assert_array_equal(array, right, strict=True)
        assert array.dtype.isnative
        assert array.flags.c_contiguous
        assert array.flags.aligned
        assert array.flags.writeable
        assert array.flags.owndata or array.base.flags.owndata


VIEWS = {  # shape, stride, offset, of the numbers 0 to 23
    "all": ((24,), (1,), 0),
    "matrix": ((4, 6), (6, 1), 0),
    "transposed": ((6, 4), (1, 6), 0),
    "permuted": ((4, 2, 3), (1, 12, 4), 0),
    "rows": ((2, 6), (6, 1), 12),
    "columns": ((4, 2), (6, 1), 3),
    "steps": ((3,), (7,), 5),
    "scalar": ((), (), 23),
    "one, odd stride": ((1, 1), (2**40, 0), 23),
    "row, odd stride": ((1, 6), (2**62, 1), 18),
    "expanded": ((5, 3, 2), (0, 1, 0), 21),
    "larger than its storage": ((100, 24), (0, 1), 0),
    "windows": ((20, 5), (1, 1), 0),
    "empty": ((2, 0, 3), (2**62, 1, 1), 0),
    "empty beyond the end": ((0,), (1,), 2**62),
}


@pytest.mark.parametrize("container", [0, 1], ids=["legacy", "zip"])
@pytest.mark.parametrize("view", VIEWS)
def test_views_are_read_as_the_tensors_that_they_are(tmp_path, view, container):
    shape, stride, offset = VIEWS[view]
    numbers = np.arange(24, dtype="<i2")
    of = storage("I16", "0", 24)
    path = write(
        tmp_path / "x.bin", both({"a": tensor(of, shape, stride, offset)}, {"0": (24, numbers.tobytes())})[container]
    )
    array = read_object(path)["a"].read()
    assert array.shape == shape
    assert array.flags.c_contiguous
    assert array.flags.aligned
    for index in np.ndindex(shape):
        assert array[index] == offset + sum(i * s for i, s in zip(index, stride, strict=True))
    array[...] = -1  # each number has a place of its own
    assert read_object(path)["a"].read().tolist() != array.tolist() or not array.size


def test_tensors_that_share_a_storage_get_arrays_of_their_own(tmp_path):
    of = storage("F32", "0", 2)
    for raw in both({"a": tensor(of, (2,), (1,)), "b": tensor(of, (2,), (1,))}, {"0": floats(1, 2)}):
        found = read_object(write(tmp_path / "x.bin", raw))
        found["a"].read()[:] = 9
        assert found["a"].read().tolist() == found["b"].read().tolist() == [1, 2]


def test_a_part_of_a_legacy_storage_is_read_from_its_place(tmp_path):
    parts = [tensor(storage("F32", "root", 5, part), (2,), (1,), 0) for part in [None, ("a", 1, 2), ("b", 3, 2)]]
    found = read_object(write(tmp_path / "x.bin", legacy(parts, {"root": floats(0, 1, 2, 3, 4)})))
    assert [t.read().tolist() for t in found] == [[0, 1], [1, 2], [3, 4]]


def test_parameters_and_old_tensors_are_tensors(tmp_path):
    of = storage("F32", "0", 2)
    plain, hooks = tensor(of, (2,), (1,)), call("collections.OrderedDict")
    found = read_object(
        write(
            tmp_path / "x.bin",
            archive(
                [
                    call("torch._utils._rebuild_tensor", of, 1, (1,), (1,)),
                    call("torch._utils._rebuild_parameter", plain, True, hooks),
                    call("torch._utils._rebuild_parameter_with_state", plain, True, hooks, {"tag": 1}),
                    call("torch._utils._rebuild_tensor_v2", of, 0, (2,), (1,), True, hooks, {}),
                ],
                {"0": floats(1, 2)[1]},
            ),
        )
    )
    assert [t.read().tolist() for t in found] == [[2], [1, 2], [1, 2], [1, 2]]


def test_plain_values_are_built(tmp_path):
    value = {
        "numbers": [0, 255, -1, 2**31 - 1, 2**40, -(2**40), 0.1, math.inf, True, False, None],
        "text": ("", "é 重 🙂\0", b"\0\xff"),
        3: {2.5: 1, None: 2, b"k": 3},
    }
    assert read_object(write(tmp_path / "x.bin", archive(value, {}))) == value


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_what_pickle_writes_is_built(tmp_path, protocol):
    shared = {"betas": (0.9, 0.95)}
    value = [shared, shared, [], (), {}, "x" * 300, b"", b"\xff\0" * 200, [[i] for i in range(300)], -1, 256, 1 << 70]
    path = write(tmp_path / "x.bin", b"".join(pickle.dumps(v, protocol) for v in [pickles.MAGIC, 1001, {}, value, []]))
    found = read_object(path)
    assert found == value
    assert found[0] is not found[1]


def test_torch_values_become_plain_ones(tmp_path):
    ordered = Code(call("collections.OrderedDict") + b"(" + dump("a") + dump(1) + b"u}" + dump("m") + b"Nsb")
    value = [
        ordered,
        call("torch.Size", (2, 3)),
        call("torch.device", "cpu"),
        call("torch.device", "cuda", 1),
        name("torch.bfloat16"),
        call("_codecs.encode", "a\xff", "latin1"),
        call("__builtin__.bytes"),
    ]
    expected = [{"a": 1}, (2, 3), "cpu", "cuda:1", "torch.bfloat16", b"a\xff", b""]
    assert read_object(write(tmp_path / "x.bin", archive(value, {}))) == expected


def test_the_name_of_the_file_and_of_its_folder_do_not_matter(tmp_path):
    (tmp_path / "重 x").mkdir()
    path = write(tmp_path / "重 x" / "noending", literal(ZIP).replace(b"archive/", b"any nam/"))
    assert list(read_pytorch(str(path))) == ["wte.weight", "head", "n", "half"]


@pytest.mark.parametrize("size", [1 << 20, (1 << 32) + 1000], ids=["small", "over 4 GB"])
def test_zip64_is_read(tmp_path, size):
    if size > 1 << 30 and sys.platform != "linux":
        pytest.skip("a file of 4 GB is made of holes, which only Linux is sure to have")
    path = tmp_path / "x.pt"
    code = finish(
        {
            "first": tensor(storage("U8", "0", size), (2,), (1,), size - 2),
            "last": tensor(storage("U8", "1", 3), (3,), (1,)),
        }
    )
    entries = [("a/data.pkl", code, len(code)), ("a/data/0", b"", size), ("a/data/1", b"\1\2\3", 3)]
    directory = b""
    with open(path, "wb") as file:
        for entry, raw, length in entries:
            at, wide = file.tell(), struct.pack("<QQ", length, length)
            file.write(struct.pack("<4s5H3I2H", b"PK\3\4", 45, 8, 0, 0, 0, 0, 0, 0, len(entry), 5) + entry.encode())
            file.write(b"FB\1\0Z" + raw)
            file.seek(length - len(raw), 1)
            head = struct.pack(
                "<4s6H3I5H2I", b"PK\1\2", 45, 45, 8, 0, 0, 0, 0, *[2**32 - 1] * 2, len(entry), 33, 2, 0, 0, 0, 2**32 - 1
            )
            directory += (
                head + entry.encode() + b"ZZ\1\0Z" + struct.pack("<2H", 1, 24) + wide + struct.pack("<Q", at) + b"no"
            )
        begin = file.tell()
        file.write(directory)
        end = file.tell()
        file.write(struct.pack("<4sQ2H2I4Q", b"PK\6\6", 44, 45, 45, 0, 0, 3, 3, len(directory), begin))
        file.write(struct.pack("<4sIQI", b"PK\6\7", 0, end, 1))
        file.write(struct.pack("<4s4H2IH", b"PK\5\6", *[0xFFFF] * 4, *[2**32 - 1] * 2, 0))
    found = read_object(path)
    assert found["first"].read().tolist() == [0, 0]
    assert found["last"].read().tolist() == [1, 2, 3]


@pytest.mark.parametrize("container", [0, 1], ids=["legacy", "zip"])
def test_opening_reads_no_tensor_and_reading_needs_little_more_than_the_result(tmp_path, container):
    count = 1 << 22
    of = storage("F32", "0", count)
    value = {"run": tensor(of, (count,), (1,)), "turned": tensor(of, (2, count // 2), (1, 2))}
    path = write(tmp_path / "x.bin", both(value, {"0": (count, bytes(4 * count))})[container])
    tracemalloc.start()
    found = read_object(path)
    opened = tracemalloc.get_traced_memory()[1]
    found["run"].read()
    run = tracemalloc.get_traced_memory()[1]
    found["turned"].read()
    turned = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert opened < 1 << 20
    assert run < 4 * count + (1 << 20)
    assert turned < 8 * count + (1 << 20)


def test_a_view_reads_only_from_its_first_number_to_its_last(tmp_path):
    count = 1 << 22
    path = write(
        tmp_path / "x.bin",
        legacy([tensor(storage("F32", "0", count), (2,), (3,), 10)], {"0": (count, bytes(4 * count))}),
    )
    lazy = read_object(path)[0]
    tracemalloc.start()
    lazy.read()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1 << 20


# --- the state dict


W = tensor(storage("F32", "0", 2), (2,), (1,))


@pytest.mark.parametrize(
    ("saved", "model_args"),
    [
        ({"w": W}, None),
        ({"state_dict": {"w": W}, "epoch": 3, "hyper_parameters": {"lr": 0.1}}, None),
        ({"model_state_dict": {"w": W}, "loss": W}, None),
        (
            {"model": {"w": W}, "model_args": {"n_head": 2}, "optimizer": {"state": {0: {"step": W}}}, "iter_num": 9},
            {"n_head": 2},
        ),
        ({"model": {"w": W}, "model_args": None}, None),
        ({"model": W, "w": W}, None),  # a tensor of this name wraps nothing
        ({"net": {"w": W}, "epoch": 1}, None),  # under any key
        ({"a": {"b": {"w": W, "ln_f.g": W}, "model_args": {"n_head": 3}}, "c": {"d": W}}, {"n_head": 3}),
        ({"w": W, "epoch": 1}, None),
    ],
)
def test_the_state_dict_is_found(tmp_path, saved, model_args):
    path = write(tmp_path / "x.bin", archive(saved, {"0": floats(1, 2)[1]}))
    found, args = find_state_dict(read_object(path), path)
    assert "w" in found
    assert all(t.read().tolist() == [1, 2] for t in found.values())
    assert args == model_args
    assert read_pytorch(path).keys() == found.keys()


LOST = "expected a dict of tensors, or one in it: if a state dict is in it, save that alone"


@pytest.mark.parametrize(
    ("saved", "expected"),
    [
        (5, f"holds 5, {LOST}"),
        ([W], f"holds [LazyTensor(d..., (2,), 20))], {LOST}"),
        ({}, f"holds {{}}, {LOST}"),
        ({"optimizer": {"w": W}, "epoch": 1}, f"holds {{'epoch': 1, 'optimizer': {{...}}}}, {LOST}"),
        ({"w": W, 3: W}, None),
        (
            {"model": {"w": W}, "state_dict": {"w": W}},
            f"state dicts under model, state_dict, expected one of them: {ALONE}",
        ),
        (
            {"net": {"ln_f.g": W}, "ema": {"shadow": {"ln_f.g": W}}},
            f"state dicts under net, ema.shadow, expected one of them: {ALONE}",
        ),
    ],
)
def test_what_holds_no_state_dict_is_refused(tmp_path, saved, expected):
    text = message(
        write(tmp_path / "x.bin", archive(saved, {"0": floats(1, 2)[1]} if saved not in (5, {}) else {})), read_pytorch
    )
    if isinstance(saved, list):
        assert text.startswith("holds [LazyTensor(")
        assert text.endswith(LOST)
    elif expected:
        assert text == expected
    else:
        assert text.endswith("under 3, expected tensors under names: save the state dict without it")


# --- shards


def shard(folder: Path, name: str, *tensors: str) -> None:
    write(folder / name, archive(dict.fromkeys(tensors, W), {"0": floats(1, 2)[1]}))


def index(folder: Path, weight_map: object) -> Path:
    path = folder / "pytorch_model.bin.index.json"
    path.write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": weight_map}))
    return path


def test_shards_are_read_as_one(tmp_path):
    shard(tmp_path, "a-1.bin", "w", "v")
    shard(tmp_path, "a-2.bin", "u")
    found = read_pytorch_index(index(tmp_path, {"u": "a-2.bin", "w": "a-1.bin"}))
    assert sorted(found) == ["u", "v", "w"]
    assert found["u"].read().tolist() == [1, 2]


PLAIN = "expected the plain name of a .bin file in the same folder: use a checkpoint that you can trust"
TWICE = "expected in one of them: download all shards again, into an empty folder"


@pytest.mark.parametrize(
    ("weight_map", "expected"),
    [
        ([], "weight_map [], expected a map of tensor names to file names: " + DAMAGED),
        ({"w": "../a-1.bin"}, f"shard '../a-1.bin', {PLAIN}"),
        ({"w": "a.safetensors"}, f"shard 'a.safetensors', {PLAIN}"),
        ({"w": "b.bin"}, "shards are missing, expected in the same folder: b.bin: download them"),
        ({"x": "a-1.bin"}, "tensors are missing, expected: x in a-1.bin: download the index and its shards again"),
        ({"w": "a-1.bin", "v": "a-2.bin"}, f"w: is in a-1.bin and in a-2.bin, {TWICE}"),
    ],
)
def test_wrong_shards_are_refused(tmp_path, weight_map, expected):
    shard(tmp_path, "a-1.bin", "w")
    shard(tmp_path, "a-2.bin", "w", "v")
    assert message(index(tmp_path, weight_map), read_pytorch_index) == expected


# --- unsound files: their bytes, and what is said of them


def pickled(code: bytes, protocol: int = 2) -> bytes:
    """A file with this pickle, after its PROTO."""
    return legacy(Code(code), {}) if protocol == 2 else legacy(Code(b"\x80" + bytes([protocol]) + code), {})


def says(fault: str, remedy: str = DAMAGED) -> str:
    return f"the pickle {fault}: {remedy}"


def calls(function: str, args: str) -> str:
    return says(f"calls {function} with {args}, expected a function with what torch.save passes to it", ALONE)


def opcode(name: str) -> str:
    return says(f"has the opcode {name}, expected only those that a state dict needs", ALONE)


def sizes(what: str) -> str:
    return says(f"has a tensor with {what}, expected sizes, none below 0")


def zipped(changes: dict[int, bytes] | None = None, **options: object) -> bytes:
    """An archive with one tensor of two numbers, in which bytes were changed; negative places count from the end."""
    raw = bytearray(archive([W], {"0": floats(1, 2)[1]}, **options))
    for at, new in (changes or {}).items():
        at %= len(raw)
        raw[at : at + len(new)] = new
    return bytes(raw)


def at(pattern: bytes, which: int = 0) -> int:
    """Where a pattern begins in zipped()."""
    place = -1
    for _ in range(which + 1):
        place = zipped().index(pattern, place + 1)
    return place


ONE = {"0": floats(1, 2)}
F32 = storage("F32", "0", 2)
OD = call("collections.OrderedDict")
STACK = says("takes what is not on its stack or in its memo, expected a sound pickle")
NO_ZIP = f"a zip archive without its end, expected it in the last 22 bytes: {DAMAGED}"
END = len(zipped()) - 22
WHOLE = len(legacy([W], ONE))
DIRECTORY = at(b"PK\1\2")


def looks(kind: str, remedy: str) -> str:
    return f"it looks like {kind}, expected a file of torch.save: {remedy}"


UNSOUND = {
    # other kinds of files
    "empty": (b"", f"begins with b'', expected a file of torch.save: it is none, or {DAMAGED}"),
    "text": (b"hello", f"begins with b'hell', expected a file of torch.save: it is none, or {DAMAGED}"),
    "tar": (
        b"pickle" + bytes(251) + b"ustar\0",
        looks("a tar archive, as the first versions of PyTorch wrote it", AGAIN),
    ),
    "safetensors": (b"\2\0\0\0\0\0\0\0{}", looks("a safetensors file", "use read_safetensors")),
    "gguf": (b"GGUF\3\0\0\0", looks("a GGUF file", "use the model's .safetensors file")),
    "git lfs": (
        b"version https://git-lfs.github.com/spec/v1\n",
        looks("a Git LFS pointer", "run 'git lfs pull', or download the file that it stands for"),
    ),
    "web page": (b"<!DOCTYPE html>", looks("a web page", "download the file itself")),
    # legacy
    "plain pickle": (
        finish({"a": 1}),
        "begins with the pickle of {'a': 1}, expected the number that torch.save begins with: "
        f"it is a pickle of another kind, or {DAMAGED}",
    ),
    "version": (
        finish(pickles.MAGIC) + finish(1002),
        f"version 1002 of the format, expected 1001: {AGAIN}",
    ),
    "one pickle": (finish(pickles.MAGIC), says("is cut, expected all of it")),
    "no keys": (b"".join(map(finish, [pickles.MAGIC, 1001, {}, [W]])), says("is cut, expected all of it")),
    "keys no list": (
        legacy([W], ONE, keys={"0": 1}),
        f"storages {{'0': 1}}, expected the 1 of its tensors, once each: {DAMAGED}",
    ),
    "keys no text": (legacy([W], ONE, keys=[0]), f"storages [0], expected the 1 of its tensors, once each: {DAMAGED}"),
    "keys of two kinds": (
        legacy([W], ONE, keys=["0", 0]),
        f"storages ['0', 0], expected the 1 of its tensors, once each: {DAMAGED}",
    ),
    "key twice": (
        legacy([W], ONE, keys=["0", "0"]),
        f"storages ['0', '0'], expected the 1 of its tensors, once each: {DAMAGED}",
    ),
    "key of none": (
        legacy([W], ONE, keys=["0", "1"]),
        f"storages ['0', '1'], expected the 1 of its tensors, once each: {DAMAGED}",
    ),
    "key missing": (legacy([W], ONE, keys=[]), f"storages [], expected the 1 of its tensors, once each: {DAMAGED}"),
    "count": (legacy([W], {"0": (3, bytes(8))}), f"storage 0 has 3 numbers, expected 2: {DAMAGED}"),
    "storage cut": (
        legacy([W], {"0": (2, bytes(7))}),
        f"storage 0 ends at byte {WHOLE:,}, expected at most {WHOLE - 1:,}, the file's end: {DAMAGED}",
    ),
    "more": (
        legacy([W], ONE, more=b"?"),
        f"{WHOLE + 1:,} bytes, expected {WHOLE:,}, where the last storage ends: {DAMAGED}",
    ),
    # zip
    "zip cut": (zipped()[:-1], NO_ZIP),
    "zip begins": (b"PK\3\4", NO_ZIP),
    "zip with a comment": (zipped({-2: b"\1"}), NO_ZIP),
    "zip with more": (zipped() + bytes(22), NO_ZIP),
    "zip of nothing torch": (
        zipped({at(b"archive/data.pkl", 1): b"archive/data.pkm"}),
        "a zip archive with 0 pickles data.pkl, expected 1: it is another kind of archive, or was packed again",
    ),
    "zip with two": (
        zipped(more={"b/data.pkl": b""}),
        "a zip archive with 2 pickles data.pkl, expected 1: it is another kind of archive, or was packed again",
    ),
    "big-endian": (
        zipped(more={"archive/byteorder": b"big"}),
        "byteorder b'big', expected b'little': save it again on a little-endian machine",
    ),
    "byteorder without end": (
        zipped(more={"archive/byteorder": b"little" * 9}),
        "byteorder b'littlelittlelittleli', expected b'little': save it again on a little-endian machine",
    ),
    "compressed": (
        zipped(method=zipfile.ZIP_DEFLATED),
        f"archive/data.pkl is compressed, expected it as torch.save writes it, as it is: {AGAIN}",
    ),
    "encrypted": (
        zipped({DIRECTORY + 8: b"\1"}),
        f"archive/data.pkl is encrypted, expected it as torch.save writes it, as it is: {AGAIN}",
    ),
    "two sizes": (
        zipped({DIRECTORY + 20: b"\1"}),
        f"archive/data.pkl is compressed, expected it as torch.save writes it, as it is: {AGAIN}",
    ),
    "storage missing": (archive([W], {}), f"archive/data/0 is missing, expected it in the archive: {DAMAGED}"),
    "storage short": (
        archive([W], {"0": bytes(7)}),
        f"storage 0 has 7 bytes, expected 8 for 2 numbers of F32: {DAMAGED}",
    ),
    "no local header": (
        zipped({0: b"PK\3\4", at(b"PK\3\4", 1): b"PK\3\5"}),
        f"archive/data/0 is not at byte {at(b'PK', 1):,}, expected it where the archive's directory says: {DAMAGED}",
    ),
    "far local header": (
        zipped({DIRECTORY + 42: b"\xfe\xff\xff\xff"}),
        "archive/data.pkl is not at byte 4,294,967,294, expected it where the archive's directory says: " + DAMAGED,
    ),
    "data beyond": (
        zipped({DIRECTORY + 20: struct.pack("<II", 1 << 20, 1 << 20)}),
        f"archive/data.pkl ends at byte {(1 << 20) + 46:,}, expected at most {DIRECTORY:,}: {DAMAGED}",
    ),
    "directory beyond": (
        zipped({END + 16: struct.pack("<I", END)}),
        f"a directory of {END - DIRECTORY:,} bytes at byte {END:,}, "
        f"expected at most 4,194,304 that end at byte {END:,}: {DAMAGED}",
    ),
    "directory of 5 MB": (
        b"PK\3\4" + bytes(5_000_000) + struct.pack("<4s4H2IH", b"PK\5\6", 0, 0, 1, 1, 5_000_000, 4, 0),
        f"a directory of 5,000,000 bytes at byte 4, expected at most 4,194,304 that end at byte 5,000,004: {DAMAGED}",
    ),
    "directory cut": (
        b"PK\3\4PK\1\2" + bytes(41) + struct.pack("<4s4H2IH", b"PK\5\6", 0, 0, 1, 1, 45, 4, 0),
        f"no entry 0 in the archive's directory, expected 1: {DAMAGED}",
    ),
    "place of 2^64 - 1": (
        b"PK\3\4"
        + struct.pack("<4s6H3I5H2I", b"PK\1\2", *[0] * 9, 10, 12, 0, 0, 0, 0, 2**32 - 1)
        + struct.pack("<10s2HQ", b"a/data.pkl", 1, 8, 2**64 - 1)
        + struct.pack("<4s4H2IH", b"PK\5\6", 0, 0, 1, 1, 68, 4, 0),
        f"a/data.pkl is not at byte {2**64 - 1:,}, expected it where the archive's directory says: {DAMAGED}",
    ),
    "pickle of 17 MB": (
        archive("x" * 17_000_000, {}),
        f"a pickle of 17,000,008 bytes, expected at most 16,777,216: {ALONE}",
    ),
    "directory wrong": (
        zipped({DIRECTORY: b"XX"}),
        f"no entry 0 in the archive's directory, expected 2: {DAMAGED}",
    ),
    "directory count": (
        zipped({END + 10: b"\3"}),
        f"2 entries in the archive's directory, expected 3: {DAMAGED}",
    ),
    "zip64 far": (
        zipped()[:-22] + struct.pack("<4sIQI", b"PK\6\7", 0, 2**64 - 1, 1) + zipped()[-22:],
        f"no zip64 record at byte {2**64 - 1:,}, expected it where the end of the archive says: {DAMAGED}",
    ),
    "entry twice": (
        zipped(more={"archive/data/1": b""}).replace(b"archive/data/0", b"archive/data/1"),
        f"archive/data/1 is in the archive twice, expected it once: {DAMAGED}",
    ),
    # the pickle
    "protocol 1": (b"\x80\1N.", says("is of protocol 1, expected 2 to 5", AGAIN)),
    "protocol 6": (b"\x80\6N.", says("is of protocol 6, expected 2 to 5", AGAIN)),
    "nothing left": (pickled(b"0"), opcode("POP")),
    "empty stack": (b"\x80\2.", STACK),
    "below a mark": (pickled(b"N(\x85"), STACK),
    "no mark": (pickled(b"NNt"), STACK),
    "memo": (pickled(b"h\0"), STACK),
    "memo far": (
        pickled(b"Nr\xff\xff\xff\xff"),
        says("puts value 4,294,967,295 after 0 others, expected them in order"),
    ),
    "text not UTF-8": (
        pickled(b"X\1\0\0\0\xff"),
        says("has wrong text: 'utf-8' codec can't decode byte 0xff in position 0: invalid start byte, expected UTF-8"),
    ),
    "surrogate": (
        pickled(b"X\3\0\0\0\xed\xa0\x80"),
        says(
            "has wrong text: 'utf-8' codec can't decode byte 0xed in position 0: "
            "invalid continuation byte, expected UTF-8"
        ),
    ),
    "bytes of 4 GB": (
        pickled(b"B\xff\xff\xff\xff"),
        says(f"takes 4,294,967,295 more bytes, expected at most {MAX_PICKLE - 7:,}"),
    ),
    "name without end": (
        pickled(b"cos"),
        r"the pickle asks for b'os.\x80\x02](e.', expected a name that ends: " + DAMAGED,
    ),
    "list items in a tuple": (pickled(b")Na"), says("appends to (), expected a list", ALONE)),
    "odd items": (pickled(b"}(Nu"), says("sets 1 keys and values in {}, expected pairs in a dict")),
    "items in a list": (
        pickled(b"]NNs"),
        says("sets 2 keys and values in [], expected pairs in a dict"),
    ),
    "tuple as a key": (
        pickled(b"})Ns"),
        says("has the key (), expected text or, at most 10,000 times, a plain value", ALONE),
    ),
    "attributes of a tensor": (
        legacy([Code(W + b"}b")], ONE),
        says(
            "sets attributes of Tensor(storage=Storage(...shape=(2,), stride=(1,)), "
            "expected an OrderedDict, to drop them",
            ALONE,
        ),
    ),
    "a bare function": (
        pickled(name("torch.Size")),
        says("leaves torch.Size as '', expected a tensor", ALONE),
    ),
    "a bare storage": (
        legacy({"a": [F32]}, ONE),
        says("leaves Storage(key='0', dtype='F32', begin=0, length=2) as 'a', expected a tensor", ALONE),
    ),
    "call of text": (pickled(dump("os.system") + b")R"), calls("'os.system'", "()")),
    "call with a list": (pickled(name("collections.OrderedDict") + b"]R"), calls("collections.OrderedDict", "[]")),
    "size of a list": (pickled(call("torch.Size", [1])), calls("torch.Size", "([...],)")),
    "OrderedDict of pairs": (
        pickled(call("collections.OrderedDict", [])),
        calls("collections.OrderedDict", "([],)"),
    ),
    "encode in another code": (
        pickled(call("_codecs.encode", "a", "rot13")),
        calls("_codecs.encode", "('a', 'rot13')"),
    ),
    "encode what is not latin": (
        pickled(call("_codecs.encode", "\u0100", "latin1")),
        "the pickle has wrong text: 'latin-1' codec can't encode character '\\u0100' in position 0: "
        f"ordinal not in range(256), expected UTF-8: {DAMAGED}",
    ),
    "tensor of a number": (
        pickled(call("torch._utils._rebuild_tensor_v2", 1, 0, (), (), False, OD)),
        calls("torch._utils._rebuild_tensor_v2", "(1, 0, (), (), False, {})"),
    ),
    "conjugated": (
        legacy([call("torch._utils._rebuild_tensor_v2", F32, 0, (), (), False, OD, {"conj": True})], ONE),
        calls(
            "torch._utils._rebuild_tensor_v2",
            "(Storage(key='0', dtype='F32', begin=0, length=2), 0, (), (), False, {}, ...)",
        ),
    ),
    "negative offset": (legacy([tensor(F32, (2,), (1,), -1)], ONE), sizes("(-1,)")),
    "negative size": (legacy([tensor(F32, (-2,), (1,))], ONE), sizes("(-2,)")),
    "negative stride": (legacy([tensor(F32, (2,), (-1,), 1)], ONE), sizes("(-1,)")),
    "bool as a size": (legacy([tensor(F32, (True,), (1,))], ONE), sizes("(True,)")),
    "float as a stride": (legacy([tensor(F32, (2,), (1.0,))], ONE), sizes("(1.0,)")),
    "size of 2^63": (legacy([tensor(F32, (1 << 63,), (0,))], ONE), sizes("(9223372036854775808,)")),
    "size of a list of lists": (legacy([tensor(F32, [[2]], (1,))], ONE), sizes("[[...]]")),
    "strides": (
        legacy([tensor(F32, (2,), (1, 1))], ONE),
        says("has a tensor of 1 axes with 2 strides, expected one an axis, and at most 64"),
    ),
    "65 axes": (
        legacy([tensor(F32, (1,) * 65, (1,) * 65)], ONE),
        says("has a tensor of 65 axes with 65 strides, expected one an axis, and at most 64"),
    ),
    "beyond its storage": (
        legacy({"w": tensor(F32, (2,), (1,), 1)}, ONE),
        f"w: shape (2,) and stride (1,) from number 1 on need 3, expected at most the 2 of the storage: {DAMAGED}",
    ),
    "beyond its part": (
        legacy({"w": tensor(storage("F32", "0", 2, ("1", 1, 1)), (2,), (1,))}, ONE),
        f"w: shape (2,) and stride (1,) from number 0 on need 2, expected at most the 1 of the storage: {DAMAGED}",
    ),
    "expanded too far": (
        legacy({"w": tensor(F32, (1 << 30, 2), (0, 1))}, ONE),
        "w: shape (1073741824, 2) from 2 numbers, expected one that repeats them less: save it with .contiguous()",
    ),
    "empty but huge": (
        legacy({"w": tensor(F32, (1 << 62, 0), (0, 1))}, ONE),
        "w: shape (4611686018427387904, 0) from 2 numbers, "
        "expected one that repeats them less: save it with .contiguous()",
    ),
    "two lengths": (
        legacy([W, tensor(storage("F32", "0", 3), (2,), (1,))], ONE),
        says("has storage 0 as torch.FloatStorage of 3, expected one type and length"),
    ),
    "two types": (
        legacy([W, tensor(storage("I32", "0", 2), (2,), (1,))], ONE),
        says("has storage 0 as torch.IntStorage of 2, expected one type and length"),
    ),
    "storage of no type": (
        pickled(dump(("storage", name("torch.Size"), "0", "cpu", 2)) + b"Q"),
        says("has storage 0 as torch.Size of 2, expected one type and length"),
    ),
    "id that is text": (pickled(dump("0") + b"Q"), says("has the persistent id '0', expected that of a storage")),
    "id of a list": (
        pickled(dump(["storage", name("torch.FloatStorage"), "0", "cpu", 2]) + b"Q"),
        "the pickle has the persistent id ['storage', torch.FloatStorage, '0', 'cpu', 2], "
        f"expected that of a storage: {DAMAGED}",
    ),
    "id of a module": (
        pickled(dump(("module", None, None, None)) + b"Q"),
        says("has the persistent id ('module', None, None, None), expected that of a storage"),
    ),
    "storage of less than nothing": (
        pickled(storage("F32", "0", -1)),
        says("has the persistent id ('storage', torch.FloatStorage, '0', 'cpu', -1), expected that of a storage"),
    ),
    "storage of 2^63": (
        pickled(storage("F32", "0", 1 << 63)),
        says(
            "has the persistent id ('storage', torch.FloatStorage, '0', 'cpu', 9223372036854775808), "
            "expected that of a storage"
        ),
    ),
    "part beyond": (
        pickled(storage("F32", "0", 2, ("1", 1, 2))),
        "the pickle has the persistent id ('storage', torch.FloatStorage, '0', 'cpu', 2, (...)), "
        f"expected that of a storage: {DAMAGED}",
    ),
}


@pytest.mark.parametrize("case", UNSOUND)
def test_what_is_said_of_an_unsound_file(tmp_path, case):
    raw, expected = UNSOUND[case]
    assert message(write(tmp_path / "x.bin", raw)) == expected


def test_a_missing_file_and_a_folder_are_refused(tmp_path):
    assert message(tmp_path / "no") == "no such file: check the path, or download it"
    assert message(tmp_path) == "a folder or a device, expected a file: give the path of the file"


@pytest.mark.parametrize("stride", [1, 2])
def test_a_file_that_changes_after_it_was_opened_is_refused(tmp_path, stride):
    path = write(tmp_path / "x.bin", legacy({"w": tensor(F32, (1 if stride == 2 else 2,), (stride,))}, ONE))
    lazy = read_object(path)["w"]
    path.write_bytes(path.read_bytes()[:-1])
    fault = "the file has changed, expected it as its header was read: open it again"
    assert message(path, lambda _: lazy.read()) == f"w: {fault}"
    path.unlink()
    assert message(path, lambda _: lazy.read()) == "no such file: check the path, or download it"


@pytest.mark.parametrize("shape", [(2,), (2, 1, 1), (1,)])
def test_a_bool_is_0_or_1(tmp_path, shape):
    lazy = read_object(
        write(tmp_path / "x.bin", archive([tensor(storage("BOOL", "0", 2), (2, 2), (1, 0))], {"0": b"\1\2"}))
    )[0]
    with pytest.raises(CheckpointError, match="a BOOL with the byte 2, expected 0 or 1"):
        lazy.read()


# --- chance


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("chance")


def outcome(folder: Path, raw: bytes) -> object:
    """Open and read all of a file: how many tensors are in it, or None where a CheckpointError came."""

    def tensors(value: object, found: dict[str, LazyTensor]) -> dict[str, LazyTensor]:
        if isinstance(value, LazyTensor):
            found[str(len(found))] = value
        for item in value.values() if isinstance(value, dict) else value if type(value) in (list, tuple) else ():
            tensors(item, found)
        return found

    path = write(folder / "x.bin", raw)
    found = read_or_refused(path, lambda path: tensors(read_object(path), {}), longest=2000)
    return None if found is None else len(found)


SOUND = [literal(LEGACY), literal(ZIP), *both({"a": W, "b": [W, (1, None)], "c": {"d": 2.5, 3: b"x"}}, ONE)]
PIECES = [
    *b"NJKMGXB\x8c\x8aC}])te\x85\x86\x87aesu(qrhj\x94c\x93RQb.\x80\x95\x81\x82io0",
    b"cos\nsystem\n", F32, W, OD, name("torch.FloatStorage"), dump("storage"), dump(("storage",)), b"\xff\xff\xff\xff",
]  # fmt: skip
damage = st.tuples(
    st.sampled_from(SOUND),
    st.lists(
        st.tuples(
            st.floats(0, 1, exclude_max=True),
            st.sampled_from(["flip", "cut", "put", "end", "twice"]),
            st.one_of(st.integers(0, 255), st.sampled_from(PIECES)),
            st.integers(1, 40),
        ),
        min_size=1,
        max_size=4,
    ),
)


def damaged(raw: bytes, changes: list[tuple[float, str, int | bytes, int]]) -> bytes:
    for where, how, what, count in changes:
        at = int(where * len(raw))
        piece = bytes([what]) if isinstance(what, int) else what
        raw = {
            "flip": raw[:at] + bytes(b ^ piece[0] for b in raw[at : at + 1]) + raw[at + 1 :],
            "cut": raw[:at] + raw[at + count :],
            "put": raw[:at] + piece + raw[at:],
            "end": raw[:at] or b"\0",
            "twice": raw[: at + count] + raw[at:],
        }[how]
    return raw


@fuzz(600)
@given(damage)
@pytest.mark.thorough
def test_a_damaged_file_is_read_or_refused(folder, case):
    outcome(folder, damaged(*case))


@fuzz(300)
@given(st.lists(st.one_of(st.sampled_from(PIECES), st.integers(0, 255), st.binary(max_size=4)), max_size=40))
@example([b"N"])
@pytest.mark.thorough
def test_a_pickle_by_chance_is_read_or_refused(folder, pieces):
    code = b"".join(bytes([p]) if isinstance(p, int) else p for p in pieces)
    outcome(folder, archive(Code(code), {"0": floats(1, 2)[1]}))


@pytest.mark.parametrize("raw", SOUND, ids=["torch legacy", "torch zip", "legacy", "zip"])
@pytest.mark.thorough
def test_a_file_that_was_cut_anywhere_is_refused(folder, raw):
    assert outcome(folder, raw) is not None
    for end in range(len(raw)):
        assert outcome(folder, raw[:end]) is None
