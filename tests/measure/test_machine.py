"""The machine is asked in many ways, and what it does not tell is None."""

import os
import sys
from types import SimpleNamespace

import pytest

from numgpt.measure import machine


def test_memory_is_read_from_linux_itself_and_elsewhere_in_the_units_of_the_system(monkeypatch):
    usage = SimpleNamespace(RUSAGE_SELF=0, getrusage=lambda who: SimpleNamespace(ru_maxrss=3000))
    monkeypatch.setitem(sys.modules, "resource", usage)
    monkeypatch.setattr(machine, "find_in_file", lambda file, pattern: "7")
    assert machine.peak_bytes() == 7 * 1024
    monkeypatch.setattr(machine, "find_in_file", lambda file, pattern: None)
    for platform, expected in ("darwin", 3000), ("freebsd", 3000 * 1024):
        monkeypatch.setattr(sys, "platform", platform)
        assert machine.peak_bytes() == expected


def test_the_load_average_is_told_where_there_is_one(monkeypatch):
    monkeypatch.setattr(os, "getloadavg", lambda: (2.5, 1.0, 0.5), raising=False)
    assert machine.load_average() == 2.5
    monkeypatch.delattr(os, "getloadavg")
    assert machine.load_average() == 0.0


def test_a_file_without_a_pattern_or_none_at_all_finds_nothing(tmp_path):
    file = tmp_path / "cpuinfo"
    assert machine.find_in_file(str(file), r"model name\s*:\s*(.+)") is None
    file.write_text("processor\t: 0\n")
    assert machine.find_in_file(str(file), r"model name\s*:\s*(.+)") is None
    file.write_text("processor\t: 0\nmodel name\t: Abacus 9\nmodel name\t: Abacus 9\n")
    assert machine.find_in_file(str(file), r"model name\s*:\s*(.+)") == "Abacus 9"


def test_the_openblas_in_numpys_wheels_tells_its_kernel():
    blas = machine.describe_machine()["blas"]
    if blas["name"] != "scipy-openblas":
        pytest.skip(f"NumPy was built with {blas['name']}, not with the OpenBLAS of its wheels")
    assert blas["config"].startswith("OpenBLAS ")
    assert blas["kernel"] in blas["config"].split()
    assert blas["threads"] >= 1
