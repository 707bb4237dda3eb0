"""What each test of a run is given."""

import os

import pytest
from support.runs import SORTED


@pytest.fixture(autouse=True)
def one_thread(monkeypatch):
    """What the command line sets does not stay."""
    monkeypatch.setenv("OPENBLAS_NUM_THREADS", os.environ.get("OPENBLAS_NUM_THREADS", "1"))


@pytest.fixture
def text(tmp_path):
    """A file of 60 lines, of 7 characters each."""
    path = tmp_path / "sort.txt"
    path.write_text(SORTED, encoding="utf-8")
    return path
