"""The blocks of GGUF: against gguf-py, and against blocks that were worked out by hand."""

from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from numgpt.checkpoint.quants import BLOCKS, NOT_READ, TYPES, pack, stored_bytes, unpack

DUMP = Path(__file__).parents[1] / "reference" / "gguf_blocks.npz"
HALF = np.array([0.5], "<f2").tobytes()
ONE = np.array([1], "<f2").tobytes()


@pytest.fixture(scope="module")
def dump():
    with np.load(DUMP) as arrays:
        return dict(arrays)


def same_bits(x, y):
    """Every bit, but for those of what is no number."""
    return x.dtype == y.dtype and ((x.view(np.uint32) == y.view(np.uint32)) | (np.isnan(x) & np.isnan(y))).all()


@pytest.mark.parametrize("name", TYPES)
def test_blocks_are_the_numbers_of_gguf_py_to_the_bit(dump, name):
    numbers = unpack(name, dump[f"{name} packed"])
    assert numbers.size >= 32
    assert len(np.unique(numbers)) > 16
    assert same_bits(numbers, dump[f"{name} numbers"])


@pytest.mark.parametrize("name", ["F16", "Q8_0"])
def test_packed_numbers_are_the_bytes_of_gguf_py(dump, name):
    assert_array_equal(pack(name, dump["x"]), dump[f"x {name}"])


def block(*parts):
    return np.frombuffer(b"".join(parts), np.uint8)


def test_the_low_halves_of_the_bytes_come_before_the_high_ones():
    numbers = unpack("Q4_0", block(HALF, bytes([0x1F] + 15 * [0x88])))
    assert (numbers[0], numbers[16]) == (0.5 * (15 - 8), 0.5 * (1 - 8))
    assert not numbers[1:16].any()
    assert not numbers[17:].any()


def test_the_fifth_bit_of_number_i_is_bit_i():
    high = (1 << 0 | 1 << 9 | 1 << 31).to_bytes(4, "little")
    numbers = unpack("Q5_0", block(ONE, high, bytes(16)))
    assert_array_equal(np.flatnonzero(numbers != -16), [0, 9, 31])
    assert not numbers[[0, 9, 31]].any()


def test_the_third_bit_of_q3_k_says_that_nothing_is_taken_away():
    scales = bytes([0x11] * 8 + [0xAA] * 4)  # each 1 + 32, less 32
    numbers = unpack("Q3_K", block(bytes([0b10] + 31 * [0]), bytes(64), scales, ONE))
    assert_array_equal(np.flatnonzero(numbers != -4), [32])
    assert numbers[32] == 0


def test_scales_of_6_bits_lie_in_12_bytes():
    """The fifth scale and minimum have their high bits in the first of each."""
    scales = bytearray(12)
    scales[0], scales[4], scales[8] = 3 | 0b10 << 6, 5 | 0b01 << 6, 7 | 9 << 4
    numbers = unpack("Q4_K", block(ONE, ONE, scales, bytes([0x11] * 128))).reshape(8, 32)
    expected = np.zeros(8)
    expected[0], expected[4] = 3 - 5, (7 + 0b10 * 16) - (9 + 0b01 * 16)
    assert_array_equal(numbers, np.repeat(expected[:, None], 32, axis=1))


def test_ties_are_rounded_away_from_zero():
    x = np.zeros(32, np.float32)
    x[:6] = 127, 0.5, 1.5, 2.5, -0.5, -2.5
    assert_array_equal(pack("Q8_0", x).view(np.int8)[2:8], [127, 1, 2, 3, -1, -3])


def test_a_half_below_a_tie_is_rounded_down():
    """0.49999997 + 0.5 is 1 in float32: to add a half and cut would be wrong."""
    x = np.zeros(32, np.float32)
    x[:2] = 127, np.nextafter(np.float32(0.5), np.float32(0))
    assert pack("Q8_0", x).view(np.int8)[3] == 0


@pytest.mark.parametrize("name", ["F32", "F16", "BF16"])
def test_plain_numbers_come_back(name):
    x = np.array([0, 1, -2, 0.375, 1000], np.float32)
    assert same_bits(unpack(name, pack(name, x)), x)
    assert len(pack(name, x)) == stored_bytes(name, 5)


@pytest.mark.parametrize(("name", "number"), [("F16", 70_000), ("Q8_0", 1e7), ("Q8_0", np.inf), ("Q8_0", np.nan)])
def test_what_a_type_can_t_hold_is_refused(name, number):
    x = np.ones(32, np.float32)
    x[3] = number
    with pytest.raises(FloatingPointError):
        pack(name, x)


def test_damaged_scales_warn_of_nothing():
    with np.errstate(all="raise"):
        assert np.isnan(unpack("Q8_0", block(np.array([np.inf], "<f2").tobytes(), bytes(32)))).all()


def test_the_table_names_each_type_once():
    assert len(TYPES) == len(BLOCKS) == 15
    assert not BLOCKS.keys() & NOT_READ.keys()
