"""HDF5, read: hand-made files in, arrays out, and a CheckpointError for all else."""

import struct
import time
import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_array_equal
from support.hdf5s import (
    FLOATS,
    NONE,
    Raw,
    SoftLink,
    Writer,
    dataspace,
    datatype,
    hdf5,
    header,
    layout,
    message,
    q,
)
from support.hdf5s import write as write_hdf5
from support.readers import damaged, fault, fuzz, read_or_refused, refusal, write

from numgpt.checkpoint.hdf5 import MAX_STRUCTURE, read_hdf5
from numgpt.errors import CheckpointError

NUMBERS = np.arange(6, dtype=np.float32).reshape(2, 3) - 2
SOME = {"a/b/x:0": NUMBERS, "a/y": np.array([0.5]), "z": np.array(7, np.int64), "empty": None}


def assert_holds(path, expected):
    tensors = read_hdf5(path)
    assert tensors.keys() == {name for name, x in expected.items() if x is not None}
    for name, tensor in tensors.items():
        x = tensor.read()
        assert tensor.shape == x.shape == expected[name].shape
        assert x.dtype == (np.float32 if expected[name].dtype == np.float16 else expected[name].dtype)
        assert_array_equal(x, expected[name])
        assert_array_equal(tensor.into(np.empty_like(x)), x)


# ---- sound files


def test_arrays_are_named_by_their_paths(tmp_path):
    assert_holds(write_hdf5(tmp_path / "x.h5", SOME), SOME)
    assert list(read_hdf5(tmp_path / "x.h5")) == ["a/b/x:0", "a/y", "z"]
    assert read_hdf5(write_hdf5(tmp_path / "empty.h5", {})) == {}


@pytest.mark.parametrize("dtype", ["f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8"])
def test_each_type_of_numbers(tmp_path, dtype):
    x = np.array([[0, 1], [100, 2]], dtype)
    path = write_hdf5(tmp_path / "x.h5", {"x": x if dtype[0] == "u" else -x})
    assert_holds(path, {"x": x if dtype[0] == "u" else -x})
    assert read_hdf5(path)["x"].dtype == dtype[0].upper() + str(8 * int(dtype[1]))


@pytest.mark.parametrize(("per_node", "per_tree"), [(8, 32), (2, 2), (1, 3), (3, 1000)])
def test_a_tree_of_many_nodes(tmp_path, per_node, per_tree):
    many = {f"group/{i:03}": np.array([i], np.float32) for i in range(100)}
    path = write_hdf5(tmp_path / "x.h5", many, per_node=per_node, per_tree=per_tree)
    assert_holds(path, many)
    assert list(read_hdf5(path)) == list(many)


def one(*messages, more=b""):
    """A file with one dataset of these messages."""
    writer = Writer()
    writer.put(more)
    return writer.close(writer.group({"x": Raw(header(*messages))}))


FLOAT = FLOATS["f"]
SPACE, TYPE, PLACE = dataspace((2,)), datatype("f4"), layout(96, 8)
DATA = np.array([1, -2], "<f4").tobytes()


def test_messages_may_go_on_elsewhere_and_others_are_passed_over(tmp_path):
    writer = Writer()
    writer.put(DATA)
    last = writer.put(PLACE + message(0, b""))
    middle = writer.put(message(0x10, q(last, len(PLACE) + 8)) + message(0xC, b"an attribute" * 50) + TYPE)
    length = len(TYPE) + 24 + 8 + 600
    first = header(SPACE, message(0x10, q(middle, length)), message(0x12, b"\1\0\0\0\0\0\0\0"))
    path = write(tmp_path / "x.h5", writer.close(writer.group({"x": Raw(first)})))
    assert_holds(path, {"x": np.array([1, -2], np.float32)})


def test_other_versions_of_the_same_messages(tmp_path):
    newer = message(1, bytes([2, 1, 0, 1]) + q(2)), message(3, b"\x31" + FLOAT[1:]), PLACE
    assert_holds(write(tmp_path / "x.h5", one(*newer, more=DATA)), {"x": np.array([1, -2], np.float32)})
    scalar = message(1, bytes([2, 0, 0, 0])), TYPE, layout(96, 4)
    assert_holds(write(tmp_path / "x.h5", one(*scalar, more=DATA)), {"x": np.array(1, np.float32)})


def test_numbers_at_an_odd_place_and_bytes_after_the_end(tmp_path):
    raw = one(SPACE, TYPE, layout(97, 8), more=b"\7" + DATA) + b"more"
    assert_holds(write(tmp_path / "x.h5", raw), {"x": np.array([1, -2], np.float32)})


def test_no_number_is_read_before_it_is_asked_for(tmp_path):
    large = {"x": np.zeros(4_000_000, np.float32)}
    path = write_hdf5(tmp_path / "x.h5", large)
    tracemalloc.start()
    tensors = read_hdf5(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 200_000
    assert tensors["x"].read().shape == (4_000_000,)


def test_a_file_that_has_changed_since_is_refused(tmp_path):
    path = write_hdf5(tmp_path / "x.h5", SOME)
    tensor = read_hdf5(path)["z"]
    with open(path, "ab") as file:
        file.write(b"x")
    with pytest.raises(CheckpointError, match="z: the file has changed"):
        tensor.read()


# ---- more of HDF5 than is read


@pytest.mark.parametrize(
    ("messages", "said"),
    [
        ((SPACE, TYPE, message(8, bytes([3, 2, 3]) + q(96))), "x: its numbers are stored in chunks (layout of version"),
        (
            (SPACE, TYPE, message(8, bytes([3, 0]) + DATA)),
            "x: its numbers are stored compact, in the header (layout o",
        ),
        ((SPACE, TYPE, message(8, bytes([4, 3]) + q(96))), "x: its numbers are stored virtual, in other files (layout"),
        ((SPACE, TYPE, message(8, bytes([4, 1]) + q(96, 8))), "x: its numbers are stored in one piece (layout of vers"),
        ((SPACE, TYPE, message(8, bytes([3, 9]) + q(96, 8))), "x: its numbers are stored of the class 9 (layout of ve"),
        ((SPACE, TYPE, PLACE, message(0xB, bytes(8))), "x: filters, such as compression, expected groups and arrays"),
        ((SPACE, TYPE, PLACE, message(7, bytes(8))), "x: numbers in another file, expected groups and arrays"),
        ((message(2, bytes(18)),), "x: a group in the newer format, dense or with links in an order, expected"),
        ((message(6, bytes(18)),), "x: a group in the newer format, with links in its header, expected"),
        ((message(0x99, bytes(8)),), "x: a message of type 153, expected groups and arrays as h5py makes them by"),
        ((SPACE, message(3, FLOAT, 2), PLACE), "x: a message of type 3 that others share, expected its own"),
        ((TYPE,), "x: is neither a group nor an array, expected one of them"),
        ((message(1, bytes([2, 0, 0, 2])), TYPE, PLACE), "x: a dataspace without any number (version 2), expected at"),
        ((message(1, bytes([3, 0, 0, 0])), TYPE, PLACE), "x: a dataspace of 0 axes (version 3), expected at most 32 a"),
        ((message(1, bytes([1, 33] + [0] * 300)), TYPE, PLACE), "x: a dataspace of 33 axes (version 1), expected at m"),
        ((SPACE, message(3, b"\x11\x21" + FLOAT[2:]), PLACE), "x: its type is a float of 4 bytes, big-endian, expecte"),
        ((SPACE, message(3, b"\x11\x60" + FLOAT[2:]), PLACE), "x: its type is a float of 4 bytes, not one of IEEE, ex"),
        ((SPACE, message(3, b"\x10\x09\0\0\4\0\0\0\0\0\x20\0"), PLACE), "x: its type is an integer of 4 bytes, big-en"),
        ((SPACE, message(3, b"\x10\x08\0\0\3\0\0\0\0\0\x18\0"), PLACE), "x: its type is an integer of 3 bytes, not on"),
        ((SPACE, message(3, b""), PLACE), "x: a datatype of 0 bytes, expected 8 or more"),
        ((SPACE, message(3, b"\x13" + bytes(7)), PLACE), "x: its type is a string, expected one of F16, F32, F64, U8"),
        ((SPACE, message(3, b"\x39" + bytes(15)), PLACE), "x: its type is of variable length, expected one of F16, F3"),
        ((SPACE, message(3, b"\x18" + bytes(15)), PLACE), "x: its type is an enumeration, expected one of F16, F32"),
        ((SPACE, message(3, b"\x1f" + bytes(15)), PLACE), "x: its type is of the class 15, expected one of F16, F32"),
    ],
)
def test_what_is_not_read_is_refused_by_what_it_is(tmp_path, messages, said):
    told = refusal(write(tmp_path / "x.h5", one(*messages, more=DATA)), read_hdf5)
    assert told.startswith(f"{tmp_path / 'x.h5'}: {said}")
    assert "write it again as h5py does by default, or with save_pretrained" in told or "damaged" in told


def test_a_bfloat16_is_not_taken_for_a_float16(tmp_path):
    """A float of 2 bytes, as the types of HDF5 can say it: 8 bits of exponent, 7 of mantissa."""
    bf16 = bytes.fromhex("11200f00 02000000 00001000 07080007 7f000000 00000000")
    path = write(tmp_path / "x.h5", one(SPACE, message(3, bf16), layout(96, 4), more=DATA))
    assert fault(path, read_hdf5).startswith("x: its type is a float of 2 bytes, not one of IEEE")


def test_a_soft_link_and_a_second_name_are_refused(tmp_path):
    path = write_hdf5(tmp_path / "x.h5", {"g/x": NUMBERS, "g/soft": SoftLink("/g/x")})
    assert fault(path, read_hdf5).startswith("g: 'soft' is a soft link, expected an array or a group: write it again")


@pytest.mark.parametrize("version", [1, 2, 3])
def test_another_superblock_is_refused_by_its_version(tmp_path, version):
    raw = bytearray(hdf5(SOME))
    raw[8] = version
    said = f"an HDF5 file whose superblock has version {version}, as libver='latest' makes it, expected 0: write it"
    assert fault(write(tmp_path / "x.h5", raw), read_hdf5).startswith(said)


def test_a_file_of_another_kind_is_named(tmp_path):
    for raw, said in (
        (b"GGUF" + bytes(99), "it looks like a GGUF file, expected an HDF5 file"),
        (b"\x89HDX" + bytes(99), "begins with b'\\x89HDX\\x00\\x00\\x00\\x00', expected b'\\x89HDF"),
        (b"", "begins with b'', expected"),
    ):
        assert fault(write(tmp_path / "x.h5", raw), read_hdf5).startswith(said)
    assert fault(tmp_path / "y.h5", read_hdf5).startswith("no such file")


# ---- damaged files


def with_piece(start, at, value, arrays=None, **how):
    """A sound file, in whose piece that begins so some bytes are replaced."""
    raw = bytearray(hdf5(arrays or {"g/a": NUMBERS, "g/b": NUMBERS}, **how))
    place = raw.index(start) + at
    raw[place : place + len(value)] = value
    return bytes(raw)


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        (hdf5(SOME)[:95], "95 bytes, expected at least 96"),
        (hdf5(SOME)[:-1], f"{len(hdf5(SOME)) - 1:,} bytes, expected {len(hdf5(SOME)):,}: it was cut, or never closed"),
        (with_piece(b"\x89HDF", 13, b"\4"), "addresses of 4 bytes, lengths of 8, base address 0, expected 8, 8 and 0"),
        (with_piece(b"\x89HDF", 24, q(512)), "addresses of 8 bytes, lengths of 8, base address 512, expected"),
        (with_piece(b"\x89HDF", 64, q(NONE)), "an object header nowhere, expected at most"),
        (
            with_piece(b"\x89HDF", 64, q(2**63)),
            "an object header at bytes 9,223,372,036,854,775,808 to 9,223,372,036,8",
        ),
        (with_piece(b"\x89HDF", 64, q(0)), "an object header of version 137 at byte 0, expected 1"),
        (with_piece(b"TREE", 0, b"TREF"), "g: a tree at byte 776 begins with b'TREF\\x00', expected b'TREE\\x00'"),
        (with_piece(b"TREE", 4, b"\1"), "g: a tree at byte 776 begins with b'TREE\\x01', expected b'TREE\\x00'"),
        (with_piece(b"TREE", 5, b"\1"), "g: a tree at byte 448 begins with b'SNOD\\x01'"),
        (
            with_piece(b"TREE", 5, b"\2", dict.fromkeys("abc", NUMBERS), per_node=1, per_tree=2),
            "a tree of level 2 at byte 760, expected level 0",
        ),
        (with_piece(b"TREE", 6, b"\xff\xff"), "g: a tree at bytes 800 to 1,049,368, expected at most"),
        (with_piece(b"TREE", 32, q(776)), "g: a node at byte 776, which is part of something else too, expected one"),
        (with_piece(b"TREE", 32, q(NONE)), "g: a node nowhere, expected at most"),
        (with_piece(b"SNOD", 4, b"\2"), "g: a node at byte 448 begins with b'SNOD\\x02', expected b'SNOD\\x01'"),
        (with_piece(b"SNOD", 6, b"\xff\xff"), "g: a node at bytes 456 to 2,621,856, expected at most"),
        (with_piece(b"SNOD", 8, q(10)), "g: 'b' comes twice, expected once"),
        (with_piece(b"SNOD", 8, q(12)), "g: a name at byte 12 of a heap, expected one that ends within its 12"),
        (with_piece(b"SNOD", 8, q(NONE)), "g: a name at byte 18,446,744,073,709,551,615 of a heap, expected one that"),
        (with_piece(b"SNOD", 8, q(0)), "g: the name '', expected a letter or more, and no slash"),
        (with_piece(b"SNOD", 16, q(NONE)), "g/a: an object header nowhere, expected at most"),
        (with_piece(b"SNOD", 56, q(120)), "g/b: an object header at byte 120, which is part of something else too"),
        (with_piece(b"HEAP", 4, b"\1"), "g: a heap at byte 1,320 begins with b'HEAP\\x01', expected b'HEAP\\x00'"),
        (with_piece(b"HEAP", 8, q(2**62)), "g: names at bytes 432 to 4,611,686,018,427,388,336, expected at most"),
        (with_piece(b"HEAP", 8, q(11)), "g: a name at byte 10 of a heap, expected one that ends within its 11"),
        (with_piece(b"HEAP", 24, q(NONE)), "g: names nowhere, expected at most"),
        (with_piece(b"a\0b\0", 0, b"/"), "g: the name '/', expected a letter or more, and no slash"),
        (with_piece(b"a\0b\0", 0, b"\xff"), "g: the name b'\\xff', expected UTF-8"),
    ],
)
def test_a_damaged_tree_is_refused(tmp_path, raw, said):
    assert fault(write(tmp_path / "x.h5", raw), read_hdf5).startswith(said)


@pytest.mark.parametrize(
    ("messages", "said"),
    [
        ((SPACE, TYPE, PLACE, PLACE), "x: two messages of type 8, expected one"),
        ((SPACE, TYPE, layout(96, 9)), "x: has 9 bytes, expected 8 for F32 of shape (2,)"),
        ((SPACE, TYPE, layout(2**63, 8)), "x: its numbers are at bytes 9,223,372,036,854,775,808 to 9,223,372,036,854"),
        ((SPACE, TYPE, layout(NONE, 8)), "x: its numbers are nowhere, as if never written, expected at most"),
        ((SPACE, TYPE, message(8, b"\3\1" + q(96))), "x: a layout of 14 bytes, expected 16 or more"),
        ((dataspace((2**63, 2)), TYPE, PLACE), "x: has 8 bytes, expected 73,786,976,294,838,206,464 for F32 of shape"),
        ((dataspace((0, 2)), TYPE, layout(96, 0)), "x: shape (0, 2), expected no axis of 0"),
        ((message(1, bytes([1, 9] + [0] * 22)), TYPE, PLACE), "x: a dataspace of 16 bytes, expected 72 or more"),
        ((SPACE, TYPE, message(8, b"")), "x: a layout of 0 bytes, expected 2 or more"),
        ((message(1, b""), TYPE, PLACE), "x: a dataspace of 0 bytes, expected 4 or more"),
        ((message(0x11, q(1)),), "x: a symbol table of 8 bytes, expected 16 or more"),
        ((message(0x10, q(1)),), "x: a continuation of 8 bytes, expected 16 or more"),
        ((message(0x10, q(96, 2**62)),), "x: an object header at bytes 96 to 4,611,686,018,427,388,000, expected at"),
        ((message(0x10, q(120, 24)),), "x: an object header at byte 120, which is part of something else too"),
        ((b"\0\0\xff\xff\0\0\0\0",), "x: a message of 65,535 bytes, expected at most the 0 left in it"),
    ],
)
def test_a_damaged_array_is_refused(tmp_path, messages, said):
    path = write(tmp_path / "x.h5", one(*messages, more=DATA))
    assert fault(path, read_hdf5).startswith(said)


def test_arrays_that_overlap_are_refused(tmp_path):
    writer = Writer()
    writer.put(DATA)
    both = {name: Raw(header(SPACE, TYPE, layout(at, 8))) for name, at in (("a", 100), ("b", 96))}
    path = write(tmp_path / "x.h5", writer.close(writer.group(both)))
    assert fault(path, read_hdf5).startswith("a: begins at byte 100, expected 104 or more, where 'b' ends")


# ---- files that never end


def loop_of_groups():
    """A group that is in itself."""
    writer = Writer()
    root = writer.group({"g": {}})
    at = writer.raw.rindex(b"SNOD") + 16
    writer.raw[at : at + 8] = q(root)
    return writer.close(root)


def loop_of_trees():
    """A tree whose first child is the tree itself."""
    writer = Writer(per_node=1, per_tree=2)
    root = writer.group({"a": NUMBERS, "b": NUMBERS, "c": NUMBERS})
    at = writer.raw.rindex(b"TREE")
    writer.raw[at + 32 : at + 40] = q(at)
    return writer.close(root)


def loop_of_continuations():
    """Two blocks of messages, each of which goes on in the other."""
    writer = Writer()
    one = writer.put(bytes(24))
    other = writer.put(message(0x10, q(one, 24)))
    writer.raw[one : one + 24] = message(0x10, q(other, 24))
    return writer.close(writer.group({"x": Raw(header(message(0x10, q(one, 24))))}))


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        (loop_of_groups(), "g: an object header at byte"),
        (loop_of_trees(), "a tree at byte"),
        (loop_of_continuations(), "x: an object header at byte"),
    ],
)
def test_a_loop_is_refused(tmp_path, raw, said):
    assert said in refusal(write(tmp_path / "x.h5", raw), read_hdf5)


def bounded(tmp_path, raw):
    """Read a file in less than 1 s and 100 MB. Returns what is said of it, or how many arrays it has."""

    def outcome():
        try:
            return str(len(read_hdf5(path)))
        except CheckpointError as error:
            return str(error).removeprefix(f"{path}: ")

    path = write(tmp_path / "x.h5", raw)
    start = time.process_time()
    said = outcome()
    assert time.process_time() - start < 2  # less than 1 s where nothing else runs
    tracemalloc.start()
    outcome()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 100_000_000
    assert len(said) < 1000
    return said


def many_messages():
    """As many messages of nothing as a header can hold."""
    return one(SPACE, TYPE, PLACE, message(0, b"") * ((MAX_STRUCTURE - 2000) // 8), more=DATA)


def many_arrays(count, sound=True):
    """Small arrays, whose headers are as short as can be; or the links to them alone."""
    writer = Writer(per_node=count)
    data = writer.put(bytes(count))
    scalar, u1 = message(1, bytes([2, 0, 0, 0])), datatype("u1")
    headers = [Raw(header(scalar, u1, layout(data + i, 1)) if sound or i == 0 else b"") for i in range(count)]
    return writer.close(writer.group({f"{i:04x}": x for i, x in enumerate(headers)}))


def deep(count, name="g"):
    """Groups in groups."""
    writer = Writer(per_node=1)
    at = writer.group({})
    for _ in range(count):
        at = writer.group({name: at})
    return writer.close(at)


def heaps_that_overlap(count, length):
    """Groups whose heaps, one each, have the same long list of names."""
    writer = Writer()
    names = writer.put(bytes(length) + b"x\0")
    groups = {}
    for i in range(count):
        heap = writer.put(b"HEAP\0\0\0\0" + q(length + 2, 1, names))
        node = writer.put(b"SNOD\1\0\1\0" + q(length, writer.group({}), 0, 0, 0))
        groups[f"{i}"] = Raw(header(message(0x11, q(writer.put(writer.tree(0, [(0, node)])), heap))))
    return writer.close(writer.group(groups))


def long_names(count, length):
    """Names that begin at each byte of a long one."""
    writer = Writer()
    raw = b"x" * length + b"\0"
    heap = writer.put(b"HEAP\0\0\0\0" + q(len(raw), 1, writer.put(raw)))
    at = writer.put(header(SPACE))
    links = b"".join(q(i, at, 0, 0, 0) for i in range(count))
    node = writer.put(b"SNOD\1\0" + struct.pack("<H", count) + links)
    tree = writer.put(writer.tree(0, [(0, node)]))
    return writer.close(writer.put(header(message(0x11, q(tree, heap)))))


TOO_MUCH = f"more than {MAX_STRUCTURE:,} bytes beside its numbers, expected less: it is no file of a GPT-2"


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("raw", "said"),
    [
        (many_messages, "1"),
        (lambda: many_arrays(30_000), "30000"),
        (lambda: many_arrays(50_000), TOO_MUCH),
        (lambda: many_arrays(60_000, sound=False), "0001: an object header of version 0"),
        (lambda: deep(2000), "0"),
        (lambda: deep(4000), TOO_MUCH),
        (lambda: deep(100, "n" * 2000), TOO_MUCH),
        (lambda: heaps_that_overlap(10, 100_000), "0"),
        (lambda: heaps_that_overlap(1000, 100_000), TOO_MUCH),
        (lambda: long_names(60_000, 60_000), TOO_MUCH),
        (lambda: long_names(2, MAX_STRUCTURE // 3), TOO_MUCH),
    ],
)
def test_time_and_memory_are_bounded(tmp_path, raw, said):
    assert bounded(tmp_path, raw()).startswith(said)


# ---- fuzzing

SAMPLE = hdf5({**SOME, **{f"many/{i}": NUMBERS[0] for i in range(9)}}, per_node=2, per_tree=3)
STARTS = (b"TREE", b"SNOD", b"HEAP", b"\1\0\1\0", b"\1\0\4\0")  # the last two are headers
PIECES = [at for at in range(0, len(SAMPLE), 8) if SAMPLE[at : at + 4] in STARTS]
HUGE = [2**64 - 1, 2**63, 2**64 - 8, 2**62, 2**32, 2**31, 2**16 - 1, 255, 1, 0]


FIELDS = st.builds(int.__add__, st.sampled_from(PIECES), st.sampled_from([0, 4, 5, 6, 8, 16, 24, 32, 40, 48, 56, 64]))
ADDRESSES = [q(at + more) for at in PIECES for more in (0, 8, 1)]  # of another piece: of itself, of what it is in
DAMAGED = damaged(
    st.just(SAMPLE),
    FIELDS | st.integers(0, len(SAMPLE) - 9),
    [n.to_bytes(8, "little")[:width] for n in HUGE for width in (2, 4, 8)] + ADDRESSES,
)


def check_damaged(tmp_path, raw):
    raw = bytearray(raw)
    raw[40:48] = q(len(raw))  # or each file that was cut would be refused for that alone
    read_or_refused(write(tmp_path / "x.h5", raw), read_hdf5)


@given(raw=DAMAGED)
@fuzz()
def test_whatever_is_in_a_file_only_a_checkpoint_error_comes_out(tmp_path, raw):
    check_damaged(tmp_path, raw)


@pytest.mark.thorough
@given(raw=DAMAGED)
@fuzz(2000)
def test_whatever_is_in_2000_files_only_a_checkpoint_error_comes_out(tmp_path, raw):
    check_damaged(tmp_path, raw)


@pytest.mark.thorough
def test_each_byte_that_is_another_one(tmp_path):
    for at in range(len(SAMPLE)):
        for value in {0xFF, SAMPLE[at] ^ 1} - {SAMPLE[at]}:
            raw = SAMPLE[:at] + bytes([value]) + SAMPLE[at + 1 :]
            read_or_refused(write(tmp_path / "x.h5", raw), read_hdf5)


def test_the_sample_is_sound(tmp_path):
    assert len(read_hdf5(write(tmp_path / "x.h5", SAMPLE))) == 12
    assert len(PIECES) == 39
