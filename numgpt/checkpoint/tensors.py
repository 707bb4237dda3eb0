"""LazyTensor: a tensor that still lies in its file."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from numgpt.errors import OptionError

# How a file stores each dtype. NumPy has no BF16, the upper half of a float32.
DTYPES: dict[str, np.dtype[Any]] = {
    "F64": np.dtype("<f8"), "F32": np.dtype("<f4"), "F16": np.dtype("<f2"), "BF16": np.dtype("<u2"),
    "I64": np.dtype("<i8"), "I32": np.dtype("<i4"), "I16": np.dtype("<i2"), "I8": np.dtype("i1"),
    "U64": np.dtype("<u8"), "U32": np.dtype("<u4"), "U16": np.dtype("<u2"), "U8": np.dtype("u1"),
    "BOOL": np.dtype("?"),
}  # fmt: skip


class LazyTensor(NamedTuple):
    """A tensor that still lies in its file."""

    dtype: str  # a key of DTYPES; where it is shown and not matched, also a type of quants.BLOCKS
    shape: tuple[int, ...]
    read: Callable[[], np.ndarray]
    """Reads it now: a new, aligned, C-contiguous, native-endian, writable array that nobody else holds."""
    into: Callable[[np.ndarray], np.ndarray] | None = None
    """Reads it into an array that `read` could have returned; None where the format can't without a copy."""
    by_columns: bool = False  # of a matrix: `into` also takes one that lies in memory by columns
    blocks: Callable[[], tuple[np.ndarray, np.ndarray]] | None = None
    """Reads a matrix of blocks of 8 bits, a row an output: q [out, in] int8, scales [out, in / 32] float32."""


def tensor_of(x: np.ndarray, name: str = "an array") -> LazyTensor:
    """Wrap an array as the writer of a file takes it. `read` gives the array itself.

    name  of the array, for the message
    Raises OptionError for a dtype that no file has.

    >>> tensor_of(np.zeros((2, 3), np.float32))[:2]
    ('F32', (2, 3))
    """
    code = next((code for code, dtype in DTYPES.items() if code != "BF16" and dtype == x.dtype), None)
    if code is None:
        raise OptionError(f"{name}: {x.dtype}, expected numbers, such as float32 or int64: convert it")
    return LazyTensor(code, x.shape, partial(np.asarray, x))
