"""The threads that multiply matrices. OpenBLAS reads of them in the environment when NumPy is imported."""

import os
from contextlib import suppress
from pathlib import Path

CONTROL_GROUPS = Path("/sys/fs/cgroup")


def set_threads(command: str) -> None:
    """Set how many threads multiply matrices, before NumPy is imported, unless somebody has: OPENBLAS_NUM_THREADS.

    Training takes one, since its matrices are small and threads would wait longer than they work. Elsewhere BLAS takes
    one for each core; under a quota of CPU time, as containers have it, most of them would be stopped most of the time.

    And set how long they look for more to do before they sleep: OPENBLAS_THREAD_TIMEOUT, as a power of 2 in ticks of
    the processor. Its own 2^26, 25 ms, keep the cores from what stands between the products of a prompt. 2^20, 0.4 ms,
    are longer than any pause between those of a token, so that decoding wakes no thread.
    """
    os.environ.setdefault("OPENBLAS_THREAD_TIMEOUT", "20")
    if command == "train":
        os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    elif (quota := cpu_quota()) is not None and quota < (os.cpu_count() or 1):
        os.environ.setdefault("OPENBLAS_NUM_THREADS", str(max(1, round(quota))))


def cpu_quota() -> float | None:
    """Return how many cores' time a container may use, as Linux has it in its control groups; None for no limit."""
    for quota, period in (("cpu.max", None), ("cpu/cpu.cfs_quota_us", "cpu/cpu.cfs_period_us")):
        with suppress(OSError, ValueError):
            words = (CONTROL_GROUPS / quota).read_text(encoding="utf-8").split()
            if period is not None:
                words += (CONTROL_GROUPS / period).read_text(encoding="utf-8").split()
            return float(words[0]) / float(words[1]) if float(words[0]) > 0 else None
    return None
