"""Parts of a range, each in a thread of its own."""

import os
import signal
import threading
import time
import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from numgpt.fast import cores
from numgpt.fast.cores import in_parts


@given(st.integers(0, 40), st.integers(1, 6))
def test_the_parts_are_the_range_in_order(n, parts):
    found = in_parts(lambda start, stop: list(range(start, stop)), n, parts)
    assert [i for part in found for i in part] == list(range(n))
    assert len(found) == max(1, min(n, parts))
    assert max(map(len, found)) - min(map(len, found)) <= 1


def test_there_are_as_many_cores_as_openblas_was_told(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    monkeypatch.setenv("OPENBLAS_NUM_THREADS", "5")
    assert cores.count_cores() == 5
    monkeypatch.delenv("OPENBLAS_NUM_THREADS")
    assert cores.count_cores() == 3
    monkeypatch.setenv("OMP_NUM_THREADS", "3,2")
    assert 1 <= cores.count_cores() <= os.cpu_count()


def test_the_parts_run_at_the_same_time():
    both = threading.Barrier(2, timeout=10)
    assert in_parts(lambda start, stop: both.wait() >= 0, 2, parts=2) == [True, True]


def test_an_error_comes_when_all_parts_are_done():
    done = []

    def fail_at_once(start, stop):
        if start == 0:
            raise ValueError("the first part")
        time.sleep(0.05)
        done.append(start)

    with pytest.raises(ValueError, match="the first part"):
        in_parts(fail_at_once, 3, parts=3)
    assert sorted(done) == [1, 2]
    with pytest.raises(ZeroDivisionError):
        in_parts(lambda start, stop: 1 // (1 - start), 2, parts=2)
    assert in_parts(lambda start, stop: stop, 2, parts=2) == [1, 2]


def test_a_part_within_a_part_is_one_part():
    assert in_parts(lambda start, stop: in_parts(lambda a, b: b - a, 8, parts=2), 2, parts=2) == [[8], [8]]


def test_parts_take_the_errstate_of_the_caller():
    with warnings.catch_warnings(), np.errstate(over="ignore"):
        warnings.simplefilter("error")
        in_parts(lambda start, stop: np.exp(np.float32(1000)), 2, parts=2)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_forked_process_has_threads_of_its_own():
    in_parts(lambda start, stop: None, 2, parts=2)
    child = os.fork()
    if not child:
        os._exit(in_parts(lambda start, stop: start, 2, parts=2) != [0, 1])
    assert os.waitpid(child, 0)[1] == 0


def test_ctrl_c_waits_for_all_parts():
    done = []

    def press_and_write(start, stop):
        if start:
            signal.raise_signal(signal.SIGINT)  # Python hands it to the main thread
            time.sleep(0.05)
            done.append(start)

    with pytest.raises(KeyboardInterrupt):
        in_parts(press_and_write, 2, parts=2)
    assert done == [1]
    assert not cores.in_use.locked()
