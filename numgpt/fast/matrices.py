"""Matrices that are kept in fewer bytes than float32 takes, and the products with them.

`Int8` keeps a weight as a whole number of 8 bits, with one float32 scale for 32 of them:

    w_io = q_io s_bo        b = i // 32 the block of input i

A quarter of the memory and an eighth of that: 1.125 bytes a weight. `Half` keeps float16 or bfloat16 as the file has
it: half the memory, and the same float32 numbers as ever when they are widened, so all results are the same to the bit.

Both stand in the parameter tree where an array would. `x @ matrix`, `matrix[ids]`, `matrix.T` and `np.asarray(matrix)`
give what the widened array gives, so the learner's functions run on them, a matrix widened at a time. `multiply` is the
quick way.

Why a scale for 32 inputs of an output, as llama.cpp's Q8_0 has it, whose files are taken over as they are? Others take
a tenth less memory and are a tenth faster, but lose more. Measured: the divergence of what the storyteller expects
next, on 40,000 characters of stories; how far the logits of random models are off (of their spread), in which one
column and one row in 50 of each matrix are 20 times the others; and a product with one vector, in G weights/s, on
matrices of GPT-2 XL's sizes, 2 cores of an EPYC with AVX-512, where float32 has 11.0:

    a scale for                   KL, nats    with outliers    bytes a weight    speed
    32 inputs, as here             0.90e-4        0.128             1.125         12.5
    32 inputs, one level           1.00e-4        0.130             1.125         12.5
    32 inputs, max / 127 (Q8_0)    1.04e-4        0.130             1.125         12.5
    64 inputs                      1.20e-4        0.233             1.063         12.2
    each output                    2.07e-4        0.301             1.002         13.7
    each input                     2.97e-4        0.366             1.002
    each output and each input     2.07e-4        0.054             1.004         13.7

The speed hangs on how much is widened at a time. Where two threads come and go at each call they wait for Python's
lock: 64 thousand weights at a time have 8.4, a quarter of a million 9.4, half a million to a million 12.1 to 12.5.
np.einsum, which widens and multiplies in one call without BLAS, has 8.1.
"""

import threading
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from numgpt.fast.cores import in_parts, parts_for

BLOCK = 32  # inputs that share a scale
FEW = 32  # so many rows are multiplied by whole numbers, and more of them by the widened matrix
TILE = 3 << 18  # numbers that are widened at a time for a few rows: 3 MB in each thread
COLUMNS = 1 << 14  # outputs of a tile, at most
WIDENED = 10_500_000  # numbers that are widened at a time: 42 MB, a matrix of GPT-2 XL
LEVELS = 126, 127  # what the largest weight of a block may become
STRIP = 128  # outputs that are rounded at a time
CACHED = 1 << 18  # numbers that are widened from 16 bits at a time, so that they stay in the cache from step to step

spare = threading.local()  # memory that is used again and again: new memory takes longer to get than to fill


def scratch(size: int) -> np.ndarray:
    """Return memory for so many float32, which the next call in this thread returns again."""
    if getattr(spare, "array", None) is None or spare.array.size < size:
        spare.array = np.empty(size, np.float32)
    return spare.array[:size]


class Stored:
    """A matrix in fewer bytes. What is common to all kinds: each operation widens it first."""

    __array_ufunc__ = None  # NumPy leaves `array @ matrix` to __rmatmul__
    ndim = 2
    dtype = np.dtype(np.float32)  # that of its numbers, once they are widened
    shape: tuple[int, int]

    def widen(self) -> np.ndarray:
        """Return the matrix as an array of float32."""
        raise NotImplementedError

    def arrays(self) -> list[np.ndarray]:
        """Return what it is kept in."""
        raise NotImplementedError

    @property
    def nbytes(self) -> int:
        """How much memory it takes."""
        return sum(array.nbytes for array in self.arrays())

    def __len__(self) -> int:
        return self.shape[0]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return self.widen().astype(dtype or self.dtype, copy=False)

    def astype(self, dtype: Any, copy: bool = True) -> np.ndarray:
        """Return the widened matrix in another dtype."""
        return self.widen().astype(dtype, copy=False)

    def __matmul__(self, x: np.ndarray) -> np.ndarray:
        return self.widen() @ x

    def __rmatmul__(self, x: np.ndarray) -> np.ndarray:
        return x @ self.widen()


class Int8(Stored):
    """A matrix of whole numbers with a scale for each block of 32 inputs.

    q       [blocks, 32, out] int8; where the inputs are no multiple of 32, the last are 0
    scales  [blocks, out] float32
    inputs  how many there are
    turned  it stands for [out, in], as the embedding does

    >>> m = Int8.from_array(np.linspace(-1, 1, 96, dtype=np.float32).reshape(48, 2))
    >>> m.shape, m.q.shape, bool(abs(m.widen() - np.linspace(-1, 1, 96).reshape(48, 2)).max() < 0.005)
    ((48, 2), (2, 32, 2), True)
    """

    def __init__(self, q: np.ndarray, scales: np.ndarray, inputs: int, turned: bool = False) -> None:
        self.q, self.scales, self.inputs, self.turned = q, scales, inputs, turned
        self.shape = (q.shape[2], inputs) if turned else (inputs, q.shape[2])

    @property
    def T(self) -> "Int8":
        """The transpose, of the same memory."""
        return Int8(self.q, self.scales, self.inputs, not self.turned)

    def arrays(self) -> list[np.ndarray]:
        """Return what it is kept in."""
        return [self.q, self.scales]

    def columns(self, start: int, stop: int) -> np.ndarray:
        """Widen the outputs from start to stop: [in, n] float32, in memory that the next call takes again."""
        blocks, n = len(self.q), stop - start
        wide = scratch(blocks * BLOCK * n).reshape(blocks, BLOCK, n)

        def part(a: int, b: int) -> None:
            np.copyto(wide[a:b], self.q[a:b, :, start:stop])
            wide[a:b] *= self.scales[a:b, None, start:stop]

        in_parts(part, blocks)
        return wide.reshape(blocks * BLOCK, n)[: self.inputs]

    def widen(self) -> np.ndarray:
        """Return the matrix as an array of float32."""
        w = (self.q * self.scales[:, None]).reshape(len(self.q) * BLOCK, self.q.shape[2])[: self.inputs]
        return w.T if self.turned else w

    def __getitem__(self, ids: Any) -> "Int8 | np.ndarray":
        """The rows of some ids, of the embedding, widened: [..., C]; of a slice, as they are kept."""
        assert self.turned, "rows of a matrix whose blocks run across them"
        q, scales = self.q[..., ids], self.scales[..., ids]  # [blocks, 32, ...], [blocks, ...]
        if isinstance(ids, slice):
            return Int8(q, scales, self.inputs, turned=True)
        w = (q * scales[:, None]).reshape(len(q) * BLOCK, *q.shape[2:])[: self.inputs]
        return np.ascontiguousarray(np.moveaxis(w, 0, -1))

    def multiply(self, x: np.ndarray, out: np.ndarray) -> None:
        """Write x [N, in] times the matrix [in, out] to an array [N, out].

        Of a few rows, each block gives a sum of its own, so that scales are applied to sums and not to weights:

            y_no = sum_b s_bo (sum_i x_nbi q_bio)

        What is widened at a time stays in the processor's cache until BLAS has multiplied it.
        """
        assert not self.turned
        blocks, n_out = self.scales.shape
        if len(x) > FEW:
            n = max(1, WIDENED // self.inputs)
            for start in range(0, n_out, n):
                stop = min(start + n, n_out)
                np.matmul(x, self.columns(start, stop), out=out[:, start:stop])
            return
        if self.inputs < blocks * BLOCK:
            x = np.concatenate([x, np.zeros((len(x), blocks * BLOCK - self.inputs), x.dtype)], axis=1)
        x = np.ascontiguousarray(x.reshape(-1, blocks, BLOCK).swapaxes(0, 1))  # [blocks, N, 32]
        for start in range(0, n_out, COLUMNS):
            columns = slice(start, min(start + COLUMNS, n_out))
            first, *others = in_parts(partial(self.add_up, x, columns), blocks, parts_for(self.q.size), multiplies=True)
            out[:, columns] = sum(others, first)

    def add_up(self, x: np.ndarray, columns: slice, start: int, stop: int) -> np.ndarray:
        """Return what the blocks from start to stop add to some outputs: [N, n]. x is [blocks, N, 32]."""
        n = columns.stop - columns.start
        step = max(1, TILE // (BLOCK * n))
        wide = scratch(step * BLOCK * n).reshape(step, BLOCK, n)
        sums = np.empty((stop - start, x.shape[1], n), np.float32)
        for a in range(start, stop, step):
            b = min(a + step, stop)
            np.copyto(wide[: b - a], self.q[a:b, :, columns])
            np.matmul(x[a:b], wide[: b - a], out=sums[a - start : b - start])
        return np.einsum("bno,bo->no", sums, self.scales[start:stop, columns])

    @classmethod
    def from_array(cls, w: np.ndarray, turned: bool = False) -> "Int8":
        """Round a matrix [in, out], or for `turned` [out, in], to whole numbers of 8 bits.

            q_io = round(w_io level / max_i |w_io|),   s_bo = sum_i w_io q_io / sum_i q_io^2

        s is the scale with which s q is nearest to w. Of two levels each block takes the one that loses least, which
        is the one of the largest s sum_i w_io q_io: together they bring the error to 0.96 of that of 127 alone.
        """
        made = cls.empty(w.shape, turned)
        w = w.T if turned else w

        def part(start: int, stop: int) -> None:
            rows = np.zeros((len(made.q) * BLOCK, stop - start), np.float32)
            rows[: made.inputs] = w[:, start:stop]
            block = rows.reshape(len(made.q), BLOCK, -1)
            largest = np.maximum(block.max(axis=1), -block.min(axis=1))
            best = np.full_like(largest, -1)
            for level in LEVELS:
                up = np.divide(level, largest, out=np.zeros_like(largest), where=largest > 0)
                q = np.rint(block * up[:, None])
                products, squares = np.einsum("bio,bio->bo", block, q), np.einsum("bio,bio->bo", q, q)
                scales = np.divide(products, squares, out=largest * 0, where=squares > 0)
                better = ~(products * scales <= best)  # where a weight is NaN too
                best[better] = (products * scales)[better]
                with np.errstate(invalid="ignore"):  # of a NaN the scale is NaN too, and all that is computed with it
                    np.copyto(made.q[:, :, start:stop], q, where=better[:, None], casting="unsafe")
                np.copyto(made.scales[:, start:stop], scales, where=better)

        made.in_strips(part)
        return made

    @classmethod
    def from_rows(cls, q: np.ndarray, scales: np.ndarray, turned: bool = False) -> "Int8":
        """Take over the blocks of a file, in which an output is a row.

        q       [out, in] int8, in a multiple of 32;    scales  [out, blocks] float32
        turned  as in from_array
        """
        made = cls.empty(q.shape if turned else q.shape[::-1], turned)

        def part(start: int, stop: int) -> None:
            made.q[:, :, start:stop] = q[start:stop].T.reshape(len(made.q), BLOCK, -1)
            made.scales[:, start:stop] = scales[start:stop].T

        made.in_strips(part)
        return made

    @classmethod
    def empty(cls, shape: tuple[int, ...], turned: bool) -> "Int8":
        """Return a matrix of a shape, to be filled."""
        n_out, inputs = shape if turned else shape[::-1]
        blocks = -(-inputs // BLOCK)
        q, scales = np.empty((blocks, BLOCK, n_out), np.int8), np.empty((blocks, n_out), np.float32)
        return cls(q, scales, inputs, turned)

    def in_strips(self, part: Callable[[int, int], None]) -> None:
        """Call a function on the outputs, some of them at a time, in several threads."""
        n_out = self.q.shape[2]

        def strips(start: int, stop: int) -> None:
            for strip in range(start, stop):
                part(strip * STRIP, min((strip + 1) * STRIP, n_out))

        in_parts(strips, -(-n_out // STRIP))


class Half(Stored):
    """A matrix of float16 or bfloat16 numbers.

    bits    uint16, as its widened array lies in memory: [rows, columns] in C order, or for `turned` its transpose
    kind    "F16" or "BF16"

    >>> w = np.array([[1.5, -2.0], [0.1, 65504.0]], np.float16).astype(np.float32)
    >>> bool((Half.from_array(w, "F16").widen() == w).all()), Half.from_array(w, "F16").T.shape
    (True, (2, 2))
    """

    def __init__(self, bits: np.ndarray, kind: str, turned: bool = False) -> None:
        self.bits, self.kind, self.turned = bits, kind, turned
        self.shape = bits.shape[::-1] if turned else bits.shape

    @property
    def T(self) -> "Half":
        """The transpose, of the same memory."""
        return Half(self.bits, self.kind, not self.turned)

    def arrays(self) -> list[np.ndarray]:
        """Return what it is kept in."""
        return [self.bits]

    def widen(self) -> np.ndarray:
        """Return the matrix as an array of float32."""
        w = np.empty(self.bits.shape, np.float32)
        widen_half(self.bits, self.kind, w)
        return w.T if self.turned else w

    def for_a_while(self) -> np.ndarray:
        """Widen it into memory that the next call takes again."""
        w = scratch(self.bits.size).reshape(self.bits.shape)
        in_parts(lambda start, stop: widen_half(self.bits[start:stop], self.kind, w[start:stop]), len(w))
        return w.T if self.turned else w

    def __getitem__(self, rows: Any) -> "Half | np.ndarray":
        """A slice of the rows, as it is kept; or the rows of some ids, widened."""
        assert not self.turned
        if isinstance(rows, slice):
            return Half(self.bits[rows], self.kind)
        found = self.bits[rows]
        wide = np.empty((found.size // self.shape[1], self.shape[1]), np.float32)
        widen_half(found.reshape(wide.shape), self.kind, wide)
        return wide.reshape(found.shape)

    @classmethod
    def from_array(cls, w: np.ndarray, kind: str) -> "Half":
        """Narrow a float32 matrix of numbers that were of this kind: nothing is lost.

        It keeps the order of w in memory.
        """
        turned = not w.flags.c_contiguous
        w = w.T if turned else w
        bits = w.astype(np.float16).view(np.uint16) if kind == "F16" else (w.view(np.uint32) >> 16).astype(np.uint16)
        return cls(bits, kind, turned)


def widen_half(bits: np.ndarray, kind: str, out: np.ndarray) -> None:
    """Widen numbers of 16 bits, which must be finite, into an array of float32: exactly.

    A bfloat16 is the upper half of a float32. A float16 becomes one when its bits are moved, many at once:

        float16     s eeeee mmmmmmmmmm                      s: sign, e: exponent, counted from 15, m: mantissa
        as int32    ssssssssssssssss s eeeee mmmmmmmmmm
        << 13       ssss eeeee mmmmmmmmmm 0000000000000
        & 8fffffff  s 000eeeee mmmmmmmmmm 0000000000000     which is a float32, its exponent counted from 127

    and times 2^112 it is the number: exactly, also where e is 0, as 112 = 127 - 15. NumPy's cast goes one by one, and
    takes twice as long.

    >>> wide = np.empty((1, 3), np.float32)
    >>> widen_half(np.array([[1.5, -6e-8, 0]], np.float16).view(np.uint16), "F16", wide)
    >>> wide.tolist()
    [[1.5, -5.960464477539063e-08, 0.0]]
    """
    rows = max(1, CACHED // max(1, bits.shape[-1]))
    for start in range(0, len(bits), rows):
        part, wide = bits[start : start + rows], out[start : start + rows]
        if kind == "BF16":
            whole = wide.view(np.uint32)
            np.copyto(whole, part)
            whole <<= 16
        else:
            signed = wide.view(np.int32)
            np.copyto(signed, part.view(np.int16))  # the sign spreads over the upper half
            signed <<= 13
            signed &= -0x70000001  # 0x8fffffff: but one bit of the sign
            wide *= 2.0**112


Matrix = np.ndarray | Int8 | Half


def multiply(x: np.ndarray, w: Matrix, out: np.ndarray) -> np.ndarray:
    """Write x @ w to an array: x [N, in], a matrix of any kind [in, out], out [N, out].

    BLAS takes 2.6 times as long for two rows as for one, and two times one row are 1.4 times as long.
    """
    if isinstance(w, Int8):
        w.multiply(x, out)
        return out
    w = w.for_a_while() if isinstance(w, Half) else w
    if 2 <= len(x) <= 3:
        for row, result in zip(x, out, strict=True):
            np.matmul(row, w, out=result)
        return out
    return np.matmul(x, w, out=out)


def multiply_vector(x: np.ndarray, w: Matrix, out: np.ndarray) -> np.ndarray:
    """Write x @ w to an array: a vector x [in], a matrix of any kind [in, out], out [out]."""
    if isinstance(w, np.ndarray):
        return x.dot(w, out)
    multiply(x[None], w, out[None])
    return out
