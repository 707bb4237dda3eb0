"""One file on the server of `support.hub`, and how the tests of its transfer ask for it."""

from pathlib import Path
from typing import Any

import pytest
from support.hub import Hub

from numgpt.errors import DownloadError
from numgpt.hub.download import fetch

NAME = "model.safetensors"
RAW = b"\x08\0\0\0\0\0\0\0{" + bytes(range(256)) * 800 + b"}"
SIZE = f"{len(RAW):,}"
SMALL = b'{"n_ctx": 1024}'


def clear(hub: Hub) -> None:
    for part in (hub.repos, hub.originals, hub.plans, hub.seen):
        part.clear()  # type: ignore[attr-defined]
    hub.add("owner/name", {NAME: RAW, "config.json": SMALL})
    hub.originals["124M/vocab.bpe"] = RAW


def url(hub: Hub, file: str = NAME) -> str:
    return f"{hub.url}/owner/name/resolve/main/{file}"


def original(hub: Hub) -> str:
    return f"{hub.openai_url}/124M/vocab.bpe"


def message(url: str, path: Path, *args: Any, **kwargs: Any) -> str:
    with pytest.raises(DownloadError) as caught:
        fetch(url, path, *args, **kwargs)
    return str(caught.value).removeprefix(f"{url}: ")


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())
