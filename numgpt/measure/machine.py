"""Ask the machine what it is: its processor, its memory, its BLAS, and how busy it is. What it hides is None."""

import ctypes
import os
import platform
import re
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from numgpt.fast.blas import ask_openblas


def describe_machine() -> dict[str, Any]:
    """Tell the processor, Python, NumPy, the BLAS it was built with, and of OpenBLAS the kernel and threads it runs."""
    built: Any = np.show_config(mode="dicts")
    library = built.get("Build Dependencies", {}).get("blas", {})
    return {
        "cpu": find_in_file("/proc/cpuinfo", r"model name\s*:\s*(.+)") or platform.processor() or None,
        "cpus": os.cpu_count(),
        "python": platform.python_version(),
        "numpy": np.__version__,
        "blas": {
            "name": library.get("name"),
            "version": library.get("version"),
            "kernel": ask_openblas("corename", ctypes.c_char_p),
            "threads": ask_openblas("num_threads", ctypes.c_int),
            "config": ask_openblas("config", ctypes.c_char_p),
        },
    }


def load_average() -> float:
    """Return how many threads wanted a processor in the last minute; 0 where that can't be told."""
    with suppress(AttributeError, OSError):  # Windows has none
        return os.getloadavg()[0]
    return 0.0


def free_bytes() -> int | None:
    """Return how much memory is free; None where the system is not Linux."""
    free = find_in_file("/proc/meminfo", r"MemAvailable:\s*(\d+) kB")
    return 1024 * int(free) if free else None


def peak_bytes() -> int | None:
    """Return the most memory that this process has had so far; None on Windows.

    Notes: getrusage of Linux counts the program, too, that started this one.
    """
    if own := find_in_file("/proc/self/status", r"VmHWM:\s*(\d+) kB"):
        return 1024 * int(own)
    try:
        import resource
    except ImportError:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak  # others count in KiB


def find_in_file(file: str, pattern: str) -> str | None:
    """Return what a pattern finds in a file of /proc; None where it is not there."""
    with suppress(OSError):
        if found := re.search(pattern, Path(file).read_text(encoding="utf-8")):
            return found[1]
    return None
