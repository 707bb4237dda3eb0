"""The blocks of GGUF: how numbers of few bits are packed, and what they stand for.

A row of a matrix is cut into blocks of 32 or of 256 numbers. Each block holds small whole numbers and what to multiply
them with, so that a weight is about

    w = d * q          or          w = d * q - m          d a half float, q of 2 to 8 bits

In the K types and IQ4_XS, d itself is a half float times a whole number of 4 to 8 bits for each 16 or 32 weights; in
the IQ4 types, q counts into a table of 16 values. Below, the fields of a block stand in their order, each with its
number of bytes, and the function after them says what is in which bits:

    Q8_0    32 in  34   d 2, q 32
    Q4_0    32 in  18   d 2, q 16
    Q4_1    32 in  20   d 2, m 2, q 16
    Q5_0    32 in  22   d 2, high 4, q 16
    Q5_1    32 in  24   d 2, m 2, high 4, q 16
    IQ4_NL  32 in  18   d 2, q 16
    Q2_K   256 in  84   s 16, q 64, d 2, dmin 2
    Q3_K   256 in 110   high 32, q 64, s 12, d 2
    Q4_K   256 in 144   d 2, dmin 2, s 12, q 128
    Q5_K   256 in 176   d 2, dmin 2, s 12, high 32, q 128
    Q6_K   256 in 210   q 128, high 64, s 16, d 2
    IQ4_XS 256 in 136   d 2, high 2, s 4, q 128

All is float32 arithmetic in the order that is written here, so that each weight is llama.cpp's and gguf-py's, bit for
bit.

Source: ggml-org/llama.cpp, ggml-common.h and ggml-quants.c (`dequantize_row_*`, `quantize_row_q8_0_ref`).
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from numgpt.checkpoint.tensors import DTYPES


def _bits(x: np.ndarray, bits: int, width: int) -> np.ndarray:
    """Cut bytes [n, k] into fields of so many bits [n, k * 8 / bits].

    Of `width` bytes first come the lowest fields of each, then the next higher ones, and so on; then of the next bytes.
    """
    shifts = np.arange(0, 8, bits, dtype=np.uint8)[:, None]
    return ((x.reshape(len(x), -1, 1, width) >> shifts) & ((1 << bits) - 1)).reshape(len(x), -1)


def _half(x: np.ndarray) -> np.ndarray:
    """Read a half float of each block: bytes [n, 2] to float32 [n, 1]."""
    return np.ascontiguousarray(x).view("<f2").astype(np.float32)


def _signed(x: np.ndarray) -> np.ndarray:
    return x.view(np.int8)


def _each(scales: np.ndarray, numbers: np.ndarray) -> np.ndarray:
    """Multiply numbers [n, 256] with scales [n, k], each of which counts for 256 / k of them."""
    return (scales[:, :, None] * numbers.reshape(*scales.shape, -1)).reshape(len(numbers), -1)


def _q8_0(x: np.ndarray) -> np.ndarray:
    return _half(x[:, :2]) * _signed(x[:, 2:])


def _q4_0(x: np.ndarray) -> np.ndarray:
    return _half(x[:, :2]) * (_signed(_bits(x[:, 2:], 4, 16)) - 8)


def _q4_1(x: np.ndarray) -> np.ndarray:
    return _half(x[:, :2]) * _bits(x[:, 4:], 4, 16) + _half(x[:, 2:4])


def _q5_0(x: np.ndarray) -> np.ndarray:
    q = _bits(x[:, 6:], 4, 16) | _bits(x[:, 2:6], 1, 1) << 4
    return _half(x[:, :2]) * (_signed(q) - 16)


def _q5_1(x: np.ndarray) -> np.ndarray:
    q = _bits(x[:, 8:], 4, 16) | _bits(x[:, 4:8], 1, 1) << 4
    return _half(x[:, :2]) * q + _half(x[:, 2:4])


# The values that the 16 numbers of an IQ4 type stand for.
_IQ4 = np.array([-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113], np.int8)


def _iq4_nl(x: np.ndarray) -> np.ndarray:
    return _half(x[:, :2]) * _IQ4[_bits(x[:, 2:], 4, 16)]


def _q2_k(x: np.ndarray) -> np.ndarray:
    s, q = x[:, :16], _bits(x[:, 16:80], 2, 32)
    return _each(_half(x[:, 80:82]) * (s & 15), q) - np.repeat(_half(x[:, 82:]) * (s >> 4), 16, axis=1)


def _q3_k(x: np.ndarray) -> np.ndarray:
    q = _bits(x[:, 32:96], 2, 32) | _bits(x[:, :32], 1, 32) << 2
    s = _bits(x[:, 96:104], 4, 8) | _bits(x[:, 104:108], 2, 4) << 4
    return _each(_half(x[:, 108:]) * (_signed(s) - 32), _signed(q) - 4)


def _q4_k(x: np.ndarray) -> np.ndarray:
    return _scaled(x, _bits(x[:, 16:], 4, 32))


def _q5_k(x: np.ndarray) -> np.ndarray:
    return _scaled(x, _bits(x[:, 48:], 4, 32) | _bits(x[:, 16:48], 1, 32) << 4)


def _scaled(x: np.ndarray, q: np.ndarray) -> np.ndarray:
    """Scale the numbers of Q4_K and Q5_K: 8 scales and 8 minima of 6 bits, the high bits of the last 4 apart."""
    a, b, c = x[:, 4:8], x[:, 8:12], x[:, 12:16]
    s = np.concatenate((a & 63, (c & 15) | (a >> 6) << 4), axis=1)
    m = np.concatenate((b & 63, (c >> 4) | (b >> 6) << 4), axis=1)
    return _each(_half(x[:, :2]) * s, q) - np.repeat(_half(x[:, 2:4]) * m, 32, axis=1)


def _q6_k(x: np.ndarray) -> np.ndarray:
    q = _bits(x[:, :128], 4, 64) | _bits(x[:, 128:192], 2, 32) << 4
    return _each(_half(x[:, 208:]) * _signed(x[:, 192:208]), _signed(q) - 32)


def _iq4_xs(x: np.ndarray) -> np.ndarray:
    s = _bits(x[:, 4:8], 4, 1) | _bits(x[:, 2:4], 2, 1) << 4
    return _each(_half(x[:, :2]) * (_signed(s) - 32), _IQ4[_bits(x[:, 8:], 4, 16)])


def _f32(x: np.ndarray) -> np.ndarray:
    return x.view("<f4")


def _bf16(x: np.ndarray) -> np.ndarray:
    return (x.view("<u2").astype(np.uint32) << 16).view(np.float32)


class Block(NamedTuple):
    """How a type packs its numbers."""

    name: str
    length: int  # numbers in a block
    nbytes: int  # bytes of a block
    numbers: Callable[[np.ndarray], np.ndarray]  # bytes uint8 [n, nbytes] to numbers float32 [n, length]


BLOCKS = {  # by the number of the type in a file
    0: Block("F32", 1, 4, _f32),
    1: Block("F16", 1, 2, _half),
    2: Block("Q4_0", 32, 18, _q4_0),
    3: Block("Q4_1", 32, 20, _q4_1),
    6: Block("Q5_0", 32, 22, _q5_0),
    7: Block("Q5_1", 32, 24, _q5_1),
    8: Block("Q8_0", 32, 34, _q8_0),
    10: Block("Q2_K", 256, 84, _q2_k),
    11: Block("Q3_K", 256, 110, _q3_k),
    12: Block("Q4_K", 256, 144, _q4_k),
    13: Block("Q5_K", 256, 176, _q5_k),
    14: Block("Q6_K", 256, 210, _q6_k),
    20: Block("IQ4_NL", 32, 18, _iq4_nl),
    23: Block("IQ4_XS", 256, 136, _iq4_xs),
    30: Block("BF16", 1, 2, _bf16),
}
TYPES = {block.name: number for number, block in BLOCKS.items()}

NOT_READ = {  # other types that there are
    9: "Q8_1", 15: "Q8_K", 16: "IQ2_XXS", 17: "IQ2_XS", 18: "IQ3_XXS", 19: "IQ1_S", 21: "IQ3_S", 22: "IQ2_S",
    24: "I8", 25: "I16", 26: "I32", 27: "I64", 28: "F64", 29: "IQ1_M", 34: "TQ1_0", 35: "TQ2_0", 39: "MXFP4",
}  # fmt: skip


def stored_bytes(dtype: str, count: int) -> int:
    """Return how many bytes a file needs for so many numbers of a dtype, or of a type of blocks.

    >>> stored_bytes("F32", 256), stored_bytes("Q4_K", 256)
    (1024, 144)
    """
    if dtype in DTYPES:
        return count * DTYPES[dtype].itemsize
    block = BLOCKS[TYPES[dtype]]
    return count // block.length * block.nbytes


def unpack(dtype: str, packed: np.ndarray) -> np.ndarray:
    """Return the numbers of some blocks.

    dtype   the name of a type in BLOCKS
    packed  the bytes of whole blocks, one after another: uint8 [n * nbytes]
    Returns float32 [n * length]. It is a new array, or for F32 the same memory. Raises nothing.
    Source: `dequantize_row_*` of ggml-quants.c.

    >>> unpack("Q8_0", np.array([0, 0x38] + 30 * [0] + [2, 254], np.uint8))[-2:]  # d = 0.5
    array([ 1., -1.], dtype=float32)
    """
    block = BLOCKS[TYPES[dtype]]
    with np.errstate(all="ignore"):  # a damaged scale may be infinite, and infinity times 0 is no number
        return block.numbers(packed.reshape(-1, block.nbytes)).reshape(-1)


def split_q8_0(packed: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the scales and the whole numbers of rows of Q8_0.

    packed  uint8 [n, bytes]
    Returns float32 [n, blocks] and int8 [n, 32 blocks].

    >>> split_q8_0(np.array([[0, 0x38] + 30 * [0] + [2, 254]], np.uint8))[0]
    array([[0.5]], dtype=float32)
    """
    n = len(packed)
    blocks = packed.reshape(-1, 34)
    return _half(blocks[:, :2]).reshape(n, -1), _signed(blocks[:, 2:]).reshape(n, -1)


def pack(dtype: str, x: np.ndarray) -> np.ndarray:
    """Return numbers as blocks, the inverse of `unpack`.

        Q8_0: d = max |x| / 127,  q = x / d rounded to the nearest, halves away from zero

    dtype  "F32", "F16", "BF16" or "Q8_0"
    x      float32, whole blocks of it
    Returns the bytes, uint8. BF16 drops the lower half of each number: it is for those that came from BF16.
    Raises FloatingPointError where a number is too large for the type, or for Q8_0 is none.
    Notes: q is found with d in float32, before d is stored as a half float, as ggml does it.
    Source: `quantize_row_q8_0_ref` of ggml-quants.c.

    >>> unpack("Q8_0", pack("Q8_0", np.linspace(-1, 1, 32, dtype=np.float32)))[:2]
    array([-0.99993896, -0.9369507 ], dtype=float32)
    """
    x = np.ascontiguousarray(x, "<f4").reshape(-1)
    with np.errstate(over="raise", invalid="raise", under="ignore"):
        if dtype == "F16":
            x = x.astype("<f2")
        elif dtype == "BF16":
            x = (x.view("<u4") >> 16).astype("<u2")
        elif dtype == "Q8_0":
            x = x.reshape(-1, 32)
            d = np.abs(x).max(axis=1, keepdims=True) / np.float32(127)
            if not np.isfinite(d).all():
                raise FloatingPointError("not a number, or infinite")
            v = x * np.divide(np.float32(1), d, out=np.zeros_like(d), where=d > 0)
            whole = np.floor(np.abs(v))
            q = np.copysign(whole + (np.abs(v) - whole >= 0.5), v).astype(np.int8)
            x = np.concatenate((d.astype("<f2").view(np.uint8), q.view(np.uint8)), axis=1)
    return x.reshape(-1).view(np.uint8)
