"""LazyTensor: a tensor that still lies in its file."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np


class LazyTensor(NamedTuple):
    """A tensor that still lies in its file."""

    dtype: str  # as the format names it: "F32", "F16", "BF16", "F64", ...
    shape: tuple[int, ...]
    read: Callable[[], np.ndarray]
    """Reads it now: a new, aligned, C-contiguous, native-endian, writable array that nobody else holds."""
    into: Callable[[np.ndarray], np.ndarray] | None = None
    """Reads it into an array that `read` could have returned; None where the format can't without a copy."""
