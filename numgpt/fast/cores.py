"""Both cores: a function on parts of its work, each part in a thread of its own.

NumPy lets go of Python's lock inside a call on large arrays, so threads run side by side there, and nowhere else. Each
part should be one or a few large calls: where a thread has to wait for Python's lock it loses 50 us and more.

The threads wait on locks. A ThreadPoolExecutor does the same with ten times the delay: 12 us instead of 117 for two
parts that do nothing.
"""

import os
from collections.abc import Callable
from contextlib import nullcontext
from contextvars import copy_context
from functools import partial
from threading import Lock, Thread
from typing import Any, TypeVar

from numgpt.fast import blas

Result = TypeVar("Result")


class Worker(Thread):
    """A thread that runs one job after another."""

    def __init__(self) -> None:
        super().__init__(daemon=True, name="numgpt")
        self.given, self.done = Lock(), Lock()  # released when there is a job, and when it is done
        self.given.acquire()
        self.done.acquire()
        self.job: Callable[[], Any] | None = None
        self.result: Any = None
        self.error: BaseException | None = None
        self.start()

    def run(self) -> None:
        """Wait for a job, do it, and say so."""
        while True:
            self.given.acquire()
            try:
                self.result = self.job() if self.job else None
            except BaseException as error:
                self.error = error
            self.job = None
            if self.done.locked():
                self.done.release()

    def begin(self, job: Callable[[], Any]) -> None:
        """Begin with a job."""
        self.job = job
        self.given.release()

    def finish(self) -> Any:
        """Wait for the job, and return its result or raise its error. Ctrl-C waits too: the job writes somewhere."""
        interrupt: BaseException | None = None
        while self.job is not None:
            try:
                self.done.acquire()
            except KeyboardInterrupt as pressed:
                interrupt = pressed
        result, failed = self.result, interrupt or self.error
        self.result = self.error = None  # what they hold may be large
        if failed is not None:
            raise failed
        return result


workers: list[Worker] = []
in_use = Lock()


def forget_workers() -> None:
    """Begin anew: a process that was forked off has none of the threads, and maybe a lock that nobody will release."""
    global in_use
    workers.clear()
    in_use = Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=forget_workers)


def count_cores() -> int:
    """Return how many threads may compute: the cores that the process may use, or as many as OpenBLAS was told.

    >>> count_cores() >= 1
    True
    """
    told = os.environ.get("OPENBLAS_NUM_THREADS") or os.environ.get("OMP_NUM_THREADS", "")
    if told.isdecimal() and int(told) > 0:
        return int(told)
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


CORES = count_cores()
MANY = 1 << 19  # numbers from which on a step between the products runs in parts: to wake a thread takes some 50 us


def parts_for(n: int) -> int | None:
    """In how many parts a step on n numbers runs: None for all cores, where it pays and BLAS leaves them."""
    return None if n >= MANY and blas.steered else 1


def in_parts(
    function: Callable[[int, int], Result], n: int, parts: int | None = None, multiplies: bool = False
) -> list[Result]:
    """Call function(start, stop) on equal parts of range(n) at the same time, and return the results in order.

    parts       at most so many; None: one for each of the CORES
    multiplies  the function multiplies matrices, so that BLAS has to stay on the thread of its caller meanwhile
    Where another thread is just doing so, or BLAS would have to be steered and may not be, the whole range is one part.

    >>> in_parts(lambda start, stop: list(range(start, stop)), 5, parts=2)
    [[0, 1], [2, 3, 4]]
    """
    parts = min(CORES if parts is None else parts, n)
    if parts < 2 or (multiplies and not blas.steered) or not in_use.acquire(blocking=False):
        return [function(0, n)]
    try:
        with blas.one_thread() if multiplies else nullcontext():
            return run_parts(function, [n * i // parts for i in range(parts + 1)])
    finally:
        in_use.release()


def run_parts(function: Callable[[int, int], Result], edges: list[int]) -> list[Result]:
    """Call a function on the parts of a range between some edges, the first of them in this thread."""
    while len(workers) < len(edges) - 2:
        workers.append(Worker())
    for worker, start, stop in zip(workers, edges[1:-1], edges[2:], strict=False):
        worker.begin(partial(copy_context().run, function, start, stop))  # with the caller's np.errstate
    results: list[Result] = []
    errors: list[BaseException] = []
    jobs: list[Callable[[], Result]] = [partial(function, 0, edges[1])]
    for job in jobs + [worker.finish for worker in workers[: len(edges) - 2]]:
        try:
            results.append(job())
        except BaseException as error:  # the others are not done yet, and write where the caller would read
            errors.append(error)
    if errors:
        raise errors[0]
    return results
