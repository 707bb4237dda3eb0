"""A job on a Dask cluster: the lines go to the workers by the batch, and what they make comes back as it is done.

The scheduler and the workers need numgpt of the same version, the workers also the model under the same name or path as
here. While there is no worker, the job waits for one.
"""

import logging
import threading
from collections.abc import Iterable, Iterator
from concurrent.futures import CancelledError
from functools import lru_cache
from itertools import islice
from typing import Any

import numpy as np

from numgpt.apps.jobs import Job, Line, Outcome, fingerprint, work
from numgpt.errors import CheckpointError, NumgptError, OptionError
from numgpt.hub.loading import load
from numgpt.model import Model

GOES_ON = "what is done is kept, and the same command goes on"
SECONDS = 10  # to find the cluster and a worker
AHEAD = 2  # batches for each thread of a worker: one that it works at, one that waits

How = dict[str, Any]

_loading = threading.Lock()


def work_on_cluster(
    address: str, job: Job, name: str, how: How, expected: str, batch_size: int, lines: Iterable[Line]
) -> Iterator[Outcome]:
    """Yield the outcome of each line as its batch is done, on whichever worker.

    address   of the scheduler: "tcp://host:8786"
    name      of the model: what `load` takes on the workers
    how       what else it takes there: dtype, weights and the like
    expected  the fingerprint of the model, with which the workers compare theirs
    Raises OptionError where there is no Dask, no cluster, or workers that can't do it; and what `work` raises.
    Notes: a batch whose worker dies is done by another. One with which several workers died, as many as Dask's
    setting allowed-failures says, is given up, and its lines have no result.
    """
    try:
        from distributed import Client, as_completed
        from distributed import TimeoutError as NobodyCame
        from distributed.scheduler import KilledWorker
    except ImportError:
        raise OptionError('--dask needs Dask: pip install "numgpt[dask]"') from None
    for logger in "distributed", "distributed.client":
        logging.getLogger(logger).setLevel(logging.CRITICAL + 1)  # what goes wrong is said by us, once
    try:
        client = Client(address, timeout=SECONDS)
    except (OSError, ValueError, TypeError) as error:
        reason = str(error) or type(error).__name__
        raise OptionError(f"--dask {address}: no scheduler answers ({reason}): expected tcp://HOST:PORT") from None
    with client:
        try:
            client.wait_for_workers(1, timeout=SECONDS)
        except NobodyCame:
            raise OptionError(f"--dask {address}: has no workers: start some, by: dask worker {address}") from None
        gone = OptionError(f"--dask {address}: the scheduler is gone: {GOES_ON}")
        lines = iter(lines)
        batches: dict[Any, list[Line]] = {}  # of each future
        pending = as_completed()

        def send() -> None:
            try:
                threads = sum(client.nthreads().values())
            except OSError:
                raise gone from None
            while len(batches) < AHEAD * max(1, threads):
                batch = list(islice(lines, batch_size))
                if not batch:
                    return
                future = client.submit(work_on_worker, job, name, how, expected, batch_size, batch, pure=False)
                batches[future] = batch
                pending.add(future)

        send()
        for future in pending:
            batch = batches.pop(future)
            try:
                yield from future.result()
            except KilledWorker:
                yield from (
                    (line.number, "the workers that tried it died: the same command tries anew") for line in batch
                )
            except NumgptError as error:
                raise type(error)(f"on a worker of {address}: {error}") from None
            except CancelledError:
                raise gone from None
            except Exception as error:
                what = f"{type(error).__name__}: {error}".rstrip(": ")
                raise OptionError(
                    f"--dask {address}: {what}: scheduler and workers need numgpt of this version: {GOES_ON}"
                ) from None
            send()


def work_on_worker(job: Job, name: str, how: How, expected: str, batch_size: int, lines: list[Line]) -> list[Outcome]:
    """What a worker does with a batch."""
    with np.errstate(all="ignore"):
        return list(work(job, load_once(name, how, expected), lines, batch_size))


def load_once(name: str, how: How, expected: str) -> Model:
    """Load a model, or return it where this process has it. Its threads come one at a time."""
    with _loading:
        return _load(name, tuple(sorted(how.items())), expected)


@lru_cache(maxsize=1)
def _load(name: str, how: tuple[tuple[str, Any], ...], expected: str) -> Model:
    model = load(name, **dict(how))
    if fingerprint(model) != expected:
        raise CheckpointError(f"{name} is another model than on the machine that sends the job: copy it there")
    return model
