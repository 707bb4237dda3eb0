"""A server that behaves, and misbehaves, like the Hub; and tests that wait for nothing."""

from collections.abc import Iterator

import pytest
from support.hub import Hub
from support.transfers import clear

from numgpt.hub import web


@pytest.fixture(scope="module")
def server() -> Iterator[Hub]:
    with Hub() as hub:
        yield hub


@pytest.fixture
def environment(monkeypatch) -> None:
    for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1,localhost")
    monkeypatch.setattr(web, "TIMEOUT", (10, 10))


@pytest.fixture
def hub(server, environment) -> Hub:
    clear(server)
    return server


@pytest.fixture
def impatient(monkeypatch, environment) -> None:
    monkeypatch.setattr(web, "TIMEOUT", (10, 0.25))


@pytest.fixture
def waits(monkeypatch, environment) -> list[float]:
    """The waits between tries, none of which is waited for."""
    found: list[float] = []
    monkeypatch.setattr(web, "sleep", found.append)
    return found
