"""A conformance test that is skipped has shown nothing: it counts as failed."""

import importlib.util
from collections.abc import Generator

import pytest

# llama.cpp is compiled when it is installed, which takes minutes: its tests are for those who have it.
collect_ignore = [] if importlib.util.find_spec("llama_cpp") else ["test_llama_cpp.py"]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.skipped:
        report.outcome = "failed"
    return report
