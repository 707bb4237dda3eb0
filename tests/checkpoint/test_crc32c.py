"""CRC-32C: the known answers, its definition bit by bit, and the polynomial that makes it fast."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from numgpt.checkpoint import crc32c as module
from numgpt.checkpoint.crc32c import crc32c, mask


@pytest.mark.parametrize(
    ("data", "expected"),
    [  # RFC 3720, appendix B.4, and the check value of the catalogues of CRCs
        (bytes(32), 0x8A9136AA),
        (b"\xff" * 32, 0x62A8AB43),
        (bytes(range(32)), 0x46DD794E),
        (bytes(range(31, -1, -1)), 0x113FDB5C),
        (b"123456789", 0xE3069283),
        (b"", 0),
    ],
)
def test_the_known_checksums(data, expected):
    assert crc32c(data) == expected


def test_a_checksum_is_masked_as_leveldb_does():
    assert mask(0) == 0xA282EAD8
    assert mask(0x8000) == 0xA282EAD9
    assert mask(0xFFFFFFFF) == 0xA282EAD7


def bitwise(data: bytes) -> int:
    """CRC-32C from its definition, a bit at a time."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


def random_bytes(size: int, seed: int = 0) -> bytes:
    return np.random.default_rng(seed).bytes(size)


@pytest.mark.parametrize("size", [0, 1, 3, 4, 5, 289, 290, 291, 294, 443, 444, 445, 598, 4639, 4640, 4641, 7104, 7105])
def test_the_checksum_is_the_one_of_its_definition_around_the_folds(size):
    data = random_bytes(size)
    assert crc32c(data) == bitwise(data)


def test_the_checksum_is_the_one_of_its_definition_at_the_largest_folds():
    for size in (74_239, 74_240, 74_241, 74_240 + 39_424, 74_240 + 39_425, 200_001):
        data = random_bytes(size)
        assert crc32c(data) == by_bytes(data)


def by_bytes(data: bytes) -> int:
    """As `bitwise`, with a table of it."""
    table = [bitwise(bytes([byte ^ 255])) ^ 0xFFFFFFFF ^ 0x00FFFFFF for byte in range(256)]
    crc = 0xFFFFFFFF
    for byte in data:
        crc = table[crc & 255 ^ byte] ^ crc >> 8
    return crc ^ 0xFFFFFFFF


@given(data=st.binary(max_size=2000))
def test_any_checksum_is_the_one_of_its_definition(data):
    assert crc32c(data) == bitwise(data) == by_bytes(data)


@given(size=st.integers(0, 300_000), cut=st.integers(0, 300_000), seed=st.integers(0, 99))
@settings(max_examples=30)
def test_a_checksum_may_be_taken_in_pieces(size, cut, seed):
    data = random_bytes(size, seed)
    assert crc32c(data[cut:], crc32c(data[:cut])) == crc32c(data)


@given(size=st.integers(1, 200_000), at=st.integers(0, 1 << 30), bit=st.integers(0, 7))
@settings(max_examples=30)
def test_a_checksum_sees_each_bit(size, at, bit):
    data = bytearray(random_bytes(size))
    sound = crc32c(data)
    data[at % size] ^= 1 << bit
    assert crc32c(data) != sound


def test_the_polynomial_divides_the_one_that_we_fold_with():
    divisor = 1 << 32 | int(f"{module.P:032b}"[::-1], 2)
    assert divisor == 0x11EDC6F41
    rest = sum(1 << exponent for exponent in (*module.Q, 0))
    while rest.bit_length() >= divisor.bit_length():
        rest ^= divisor << rest.bit_length() - divisor.bit_length()
    assert rest == 0


def test_a_checksum_leaves_its_data_alone():
    data = np.frombuffer(random_bytes(100_000), np.uint8).copy()
    before = data.tobytes()
    crc32c(data)
    assert data.tobytes() == before
