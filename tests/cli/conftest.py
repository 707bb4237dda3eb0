"""What several tests of the command line are given."""

from functools import cache

import pytest
from support.babblers import write_babbler

from numgpt import load
from numgpt.hub import loading


@pytest.fixture(scope="session")
def babbler(tmp_path_factory):
    """The path of a checkpoint that says anything, and quickly."""
    return str(write_babbler(tmp_path_factory.mktemp("babbler")))


@cache
def storyteller(dtype):
    return load("storyteller", dtype)


@pytest.fixture
def storyteller_once(monkeypatch):
    """Commands in this process share one storyteller, which is read once and not by each of them."""

    def shared(name, dtype=None, **how):
        if name == "storyteller" and not any(value for key, value in how.items() if key != "progress"):
            return storyteller(dtype)
        return load(name, dtype, **how)

    monkeypatch.setattr(loading, "load", shared)
