"""OpenBLAS is asked and steered where it is NumPy's, and left alone elsewhere."""

import ctypes
import importlib.util
from types import SimpleNamespace

import pytest

from numgpt.fast import blas
from numgpt.fast.cores import in_parts


@pytest.fixture(autouse=True)
def anew(monkeypatch):
    """Nothing is known of OpenBLAS from before, and nothing is left to those that come after."""
    monkeypatch.setattr(blas, "steered", False)
    monkeypatch.setenv("OPENBLAS_THREAD_TIMEOUT", "20")
    blas.find_function.cache_clear()
    yield
    blas.find_function.cache_clear()


def put(monkeypatch, **functions):
    """Put a library with some functions in the place of NumPy's."""
    libraries = {"other": SimpleNamespace(), "it": SimpleNamespace(**functions)}

    def open_library(file):
        if file == "gone":
            raise OSError(file)
        return libraries[file]

    monkeypatch.setattr(blas, "blas_files", lambda: ["gone", "other", "it"])
    monkeypatch.setattr(ctypes, "CDLL", open_library)


def openblas(threads=2, parallel=1):
    """Return functions of an OpenBLAS, and the list of what it was set to."""
    numbers = [threads]
    functions = {
        "openblas_get_num_threads": lambda: numbers[-1],
        "openblas_set_num_threads": numbers.append,
        "openblas_get_parallel": lambda: parallel,
    }
    return functions, numbers


@pytest.mark.parametrize(
    "symbol",
    [
        "scipy_openblas_get_corename64_",
        "scipy_openblas_get_corename",
        "openblas_get_corename64_",
        "openblas_get_corename",
    ],
)
def test_openblas_is_asked_by_any_of_its_names(monkeypatch, symbol):
    def answer():
        return b"Zen"

    put(monkeypatch, **{symbol: answer})
    assert blas.ask_openblas("corename", ctypes.c_char_p) == "Zen"
    assert answer.restype is ctypes.c_char_p
    assert blas.ask_openblas("num_threads", ctypes.c_int) is None


def test_what_is_no_openblas_answers_none(monkeypatch, tmp_path):
    (tmp_path / "text").write_text("no library")
    module = importlib.util.find_spec("numpy.random._common").origin
    monkeypatch.setattr(blas, "blas_files", lambda: [str(tmp_path / "text"), module])
    assert blas.ask_openblas("corename", ctypes.c_char_p) is None
    assert not blas.steer_blas()


def test_it_is_on_one_thread_while_parts_multiply_and_then_as_before(monkeypatch):
    functions, numbers = openblas()
    put(monkeypatch, **functions)
    assert blas.steer_blas()
    assert in_parts(lambda start, stop: (start, numbers[-1]), 4, 2, multiplies=True) == [(0, 1), (2, 1)]
    assert numbers == [2, 1, 2]
    with pytest.raises(ZeroDivisionError):
        in_parts(lambda start, stop: 1 // 0, 4, 2, multiplies=True)
    assert numbers == [2, 1, 2, 1, 2]


def test_parts_that_do_not_multiply_leave_it_alone(monkeypatch):
    functions, numbers = openblas()
    put(monkeypatch, **functions)
    blas.steer_blas()
    in_parts(lambda start, stop: None, 4, 2)
    in_parts(lambda start, stop: in_parts(lambda a, b: None, 4, 2, multiplies=True), 4, 2)
    assert numbers == [2]


def test_unless_it_is_asked_for_it_is_left_alone_and_what_multiplies_is_one_part(monkeypatch):
    functions, numbers = openblas()
    put(monkeypatch, **functions)
    assert in_parts(lambda start, stop: (start, stop), 4, 2, multiplies=True) == [(0, 4)]
    assert blas.steer_blas()
    assert not blas.steer_blas(False)
    assert in_parts(lambda start, stop: (start, stop), 4, 2, multiplies=True) == [(0, 4)]
    assert numbers == [2]


@pytest.mark.parametrize("parallel", [0, 2])
def test_an_openblas_without_threads_of_its_own_is_left_alone(monkeypatch, parallel):
    functions, numbers = openblas(parallel=parallel)
    put(monkeypatch, **functions)
    assert not blas.steer_blas()
    assert in_parts(lambda start, stop: (start, stop), 4, 2, multiplies=True) == [(0, 4)]
    assert numbers == [2]


@pytest.mark.parametrize("told", [None, "", "26", "2", "soon"])
def test_it_is_left_alone_where_its_idle_threads_keep_the_cores(monkeypatch, told):
    functions, _ = openblas()
    put(monkeypatch, **functions)
    assert blas.steer_blas()
    monkeypatch.delenv("OPENBLAS_THREAD_TIMEOUT")
    if told is not None:
        monkeypatch.setenv("OPENBLAS_THREAD_TIMEOUT", told)
    assert not blas.steer_blas()


def test_the_openblas_in_numpys_wheels_is_set_and_set_back():
    if not blas.steer_blas():
        pytest.skip("NumPy does not run on an OpenBLAS with threads of its own")
    before = blas.ask_openblas("num_threads", ctypes.c_int)
    found = in_parts(lambda start, stop: blas.ask_openblas("num_threads", ctypes.c_int), 4, 2, multiplies=True)
    assert (found, blas.ask_openblas("num_threads", ctypes.c_int)) == ([1, 1], before)


def test_it_can_be_kept_on_one_thread(monkeypatch):
    functions, numbers = openblas()
    put(monkeypatch, **functions)
    assert blas.stay_on_one_thread()
    assert numbers[-1] == 1
    assert not blas.steered
