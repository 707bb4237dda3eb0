"""OpenBLAS, which multiplies NumPy's matrices: what it says of itself, and on how many threads it runs.

Where several threads of Python call it, each call waits until the one before has ended, as all share the threads of
OpenBLAS. So parts of a step that multiply need an OpenBLAS that stays on the thread of its caller. That is a setting of
the whole process: it is changed only by leave of `steer_blas`, for the length of a step, and set back.
"""

import ctypes
import importlib.util
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

OWN_THREADS = 1  # what openblas_get_parallel answers; 0: none, 2: those of OpenMP, which keep a number for each caller
LONGEST_WAIT = 22  # of idle threads, as a power of 2 in ticks of the processor

steered = False


def steer_blas(yes: bool = True) -> bool:
    """Allow the forward pass to set the threads of OpenBLAS while it runs; with False, forbid it again.

    Long prompts are read sooner then: what stands between the products runs on all cores, attention too, each thread of
    which multiplies by itself. Meanwhile what other threads of this process multiply runs on one thread, too. The
    command line allows it; a program that imports numgpt has to, and must have OPENBLAS_THREAD_TIMEOUT=20 in its
    environment before NumPy is imported: idle threads of OpenBLAS otherwise keep the cores for 25 ms.
    Returns whether it will be done: not without that timeout, and not where NumPy runs on another BLAS, or on an
    OpenBLAS without threads of its own. All results are the same either way, to rounding.

    >>> steer_blas(False)
    False
    """
    global steered
    own = ask_openblas("parallel", ctypes.c_int) == OWN_THREADS and thread_setter() is not None
    steered = yes and rests_soon() and own
    return steered


def stay_on_one_thread() -> bool:
    """Keep OpenBLAS on the thread of its caller from here on, for small matrices in a process that has more to do.

    Each of two threads waits for the other at the end of a product, also where something else has its core. A server
    of the storyteller makes 1,600 tokens a second for 8 clients on one thread, and 1,200 on two.
    Returns whether it could be done.
    """
    steer_blas(False)
    if set_threads := thread_setter():
        set_threads(1)
    return set_threads is not None


def rests_soon() -> bool:
    """Whether the environment says that idle threads of OpenBLAS leave the cores within 2 ms."""
    told = os.environ.get("OPENBLAS_THREAD_TIMEOUT", "")
    return told.isdecimal() and 4 <= int(told) <= LONGEST_WAIT


@contextmanager
def one_thread() -> Iterator[None]:
    """Keep OpenBLAS on the thread of its caller for a while. Only for one thread at a time, and if it is `steered`."""
    set_threads, before = thread_setter(), ask_openblas("num_threads", ctypes.c_int)
    set_threads(1)
    try:
        yield
    finally:
        set_threads(before)


def thread_setter() -> Any:
    """Return the function that sets how many threads OpenBLAS runs on; None where there is none."""
    return find_function("openblas_set_num_threads")


def ask_openblas(what: str, kind: Any) -> Any:
    """Call openblas_get_`what` of the OpenBLAS that NumPy runs on; None where that is not OpenBLAS, or not found."""
    if (function := find_function(f"openblas_get_{what}")) is None:
        return None
    function.restype = kind
    answer = function()
    return answer.decode() if isinstance(answer, bytes) else answer


@cache
def find_function(name: str) -> Any:
    """Return a function of the OpenBLAS that NumPy runs on; None where that is not OpenBLAS, or not found."""
    for file in blas_files():
        with suppress(OSError):
            library = ctypes.CDLL(file)
            for symbol in (f"{prefix}{name}{suffix}" for prefix in ("scipy_", "") for suffix in ("64_", "")):
                if hasattr(library, symbol):
                    return getattr(library, symbol)
    return None


def blas_files() -> list[str]:
    """List whom to ask for OpenBLAS: NumPy's own module, which answers for what it links; on Windows a library."""
    spec = importlib.util.find_spec("numpy._core._multiarray_umath")
    libraries = sorted(Path(np.__file__).parent.parent.glob("numpy.libs/*openblas*"))
    return [*([spec.origin] if spec and spec.origin else []), *map(str, libraries)]
