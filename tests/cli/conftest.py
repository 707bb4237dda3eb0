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

    def shared(name, dtype=None, progress=None, base=None, weights=None, lazily=False, **given):
        if name == "storyteller" and base is None and weights is None and not lazily and not given:
            return storyteller(dtype)
        return load(name, dtype, progress, base, weights, lazily, **given)

    monkeypatch.setattr(loading, "load", shared)
