"""CRC-32C, the checksum of TensorFlow's checkpoints, at the speed of a XOR.

Take the bits of a message as the coefficients of a polynomial M over the numbers 0 and 1, where adding is XOR; the
first bit has the highest power of x. The CRC is the remainder of M after division by a polynomial P of degree 32:

    P = x^32 + x^28 + x^27 + x^26 + x^25 + x^23 + x^22 + x^20 + x^19 + x^18 + x^14 + x^13 + x^11 + x^10 + x^9 + x^8
        + x^6 + 1

To divide bit by bit, or byte by byte with a table, is slow in Python. But the remainder stays the same if we add a
multiple of P to the message, and P has multiples with few terms. We use

    Q = x^290 + x^136 + x^113 + x^107 + x^32 + 1

So a bit may be taken away and added 290 - 136, 290 - 113, 290 - 107, 290 - 32 and 290 places further down. Squaring
doubles each exponent, as 1 + 1 = 0: Q(x)^2 = Q(x^2). So Q(x^8), Q(x^16), Q(x^32), ... are multiples of P too. With
exponents that are multiples of 8, whole bytes move by whole bytes: the first 154 bytes of a message fold onto later
ones in 5 XORs, then the next 154, and so on, until the last 290 bytes are left. With exponents 256 times as large it is
39,424 bytes at a time, until 74,240 are left. We fold with large exponents first, then with smaller ones, and divide
the last 290 bytes with a table.

Sources: RFC 3720, section 12.1 and appendix B.4, for P, the order of bits and known answers; LevelDB's crc32c.h for
`mask`. Q was found by a search through sums of powers of x that are 0 modulo P; a test divides it by P.
"""

from typing import Any

import numpy as np

P = 0x82F63B78  # less x^32; as everywhere here, the lowest bit has the highest power of x
Q = (290, 136, 113, 107, 32)  # exponents; + 1
SCALES = (256, 16, 1)  # times 8 bits


def crc32c(data: Any, crc: int = 0) -> int:
    """Return the CRC-32C of some bytes, or go on with that of the bytes before them.

        crc32c(a + b) = crc32c(b, crc32c(a))

    data  bytes, or an array of uint8 [n] that is C-contiguous; it is not modified
    crc   the CRC of the bytes that come before
    Returns an integer below 2^32.
    Raises nothing. Notes: the first 32 bits of the message, and all bits of the remainder, are inverted.
    Source: RFC 3720, section 12.1.

    >>> hex(crc32c(b"123456789")), hex(crc32c(b"6789", crc32c(b"12345")))
    ('0xe3069283', '0xe3069283')
    """
    register = crc ^ 0xFFFFFFFF
    message = np.frombuffer(data, np.uint8)
    if message.size > max(Q):
        message = message.copy()
        message[:4] ^= np.frombuffer(register.to_bytes(4, "little"), np.uint8)
        register = 0
        for scale in SCALES:
            message = _fold(message, scale)
    for byte in message.tolist():
        register = TABLE[(register ^ byte) & 255] ^ register >> 8
    return register ^ 0xFFFFFFFF


def mask(crc: int) -> int:
    """Return a CRC as LevelDB and TensorFlow store it: turned by 15 bits, plus a constant, modulo 2^32.

    So bytes that hold their own CRC do not look like what a CRC of them would make special. Source: LevelDB, crc32c.h.

    >>> hex(mask(0xE3069283))
    '0xc78ab0e5'
    """
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def _fold(message: np.ndarray, scale: int) -> np.ndarray:
    """Fold a message, in place, onto its last `scale * 290` bytes, and return these."""
    top, *exponents = (scale * exponent for exponent in Q)
    step = top - exponents[0]  # the bytes that may move at once: none of them lands on another
    end = max(message.size - top, 0)
    for i in range(0, end, step):
        part = message[i : min(i + step, end)]
        for shift in (*(top - exponent for exponent in exponents), top):
            onto = message[i + shift : i + shift + part.size]
            np.bitwise_xor(onto, part, out=onto)
    return message[end:]


def _remainder(byte: int) -> int:
    """The remainder of one byte, times x^32."""
    for _ in range(8):
        byte = byte >> 1 ^ (P if byte & 1 else 0)
    return byte


TABLE = [_remainder(byte) for byte in range(256)]
