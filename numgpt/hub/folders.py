"""Where checkpoints lie on this machine, by their names."""

import json
import os
import sys
from pathlib import Path
from typing import Any

from numgpt.checkpoint.formats import find_weights
from numgpt.errors import CheckpointError, DownloadError
from numgpt.hub.registry import KNOWN

HERE = Path(__file__).parent.parent  # the package
CHECKOUT = HERE.parent if (HERE.parent / "pyproject.toml").is_file() else None


def locate(name_or_path: str | os.PathLike[str], progress: Any = None) -> Path:
    """Return where a checkpoint lies; fetch it first where it has to be.

    Looked up in this order: a path, the bundled model, the folder of checkpoints, the Hugging Face cache, a download
    into the folder of checkpoints.
    progress  shows how the download gets on; see `numgpt.download`
    Raises CheckpointError where there is none, with the places that were searched; DownloadError.
    """
    if path := find(name_or_path):
        return path
    name = os.fspath(name_or_path)
    from numgpt.hub.download import download, is_name

    if is_name(name):
        try:
            return download(name, weights_folder() / name, progress=progress)
        except DownloadError as error:
            if name in KNOWN:
                raise
            raise DownloadError(f"{name}: no such file or folder here; and as a name on the Hub: {error}") from None
    raise CheckpointError(
        f"no checkpoint {name!r:.200}: no such file or folder, not in {weights_folder()}, and no name of one to "
        f"download; `numgpt models` lists what is known and at hand"
    )


def find(name_or_path: str | os.PathLike[str]) -> Path | None:
    """Return where a checkpoint lies on this machine, or None."""
    name = os.fspath(name_or_path)
    try:
        path = Path(name) if name else None
        if path and path.exists() and not (name in KNOWN and path.is_dir() and _is_unfinished(path)):
            return path
    except (OSError, ValueError):  # too long for a path, or a NUL in it
        return None
    return find_named(name)


def find_named(name: str) -> Path | None:
    """Return where a checkpoint lies that has this name, and not just a path: or None."""
    if name == "storyteller" and bundled().exists():
        return bundled()
    from numgpt.hub.download import hf_cache_folder, is_name

    ours = weights_folder() / name
    if name and ours.exists() and not (is_name(name) and _is_unfinished(ours)):
        return ours
    return hf_cache_folder(name)


def _is_unfinished(folder: Path) -> bool:
    """Whether a download into a folder was cut: a part of a file lies there, or not all weights do."""
    try:
        weights = find_weights(folder)
        if weights.name.endswith(".index.json"):
            shards = set(json.loads(weights.read_bytes())["weight_map"].values())
            return not all((folder / shard).exists() for shard in shards)
    except CheckpointError:
        return True
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return False  # damaged: its reader will say how
    return any(folder.glob("*.part"))


def list_names() -> list[str]:
    """Return the names that are known, and those of the other checkpoints in the folder of checkpoints.

    >>> list_names()[:2]
    ['storyteller', 'gpt2']
    """
    folder = weights_folder()
    found = [*folder.glob("*/config.json"), *folder.glob("*/*/config.json")]  # name, or owner/name
    others = sorted(f.parent.relative_to(folder).as_posix() for f in found)
    return [*KNOWN, *(name for name in others if name not in KNOWN)]


def bundled() -> Path:
    """Return the folder of the checkpoint that comes with numgpt, in the wheel or in the checkout."""
    return (CHECKOUT or HERE) / "weights" / "storyteller"


def weights_folder() -> Path:
    """Return the folder of checkpoints: $NUMGPT_WEIGHTS, else weights/ of a checkout, else the user's cache folder."""
    if chosen := os.environ.get("NUMGPT_WEIGHTS"):
        return Path(chosen)
    if CHECKOUT:
        return CHECKOUT / "weights"
    if sys.platform == "win32":
        cache = os.environ.get("LOCALAPPDATA") or _home() / "AppData" / "Local"
    elif sys.platform == "darwin":
        cache = _home() / "Library" / "Caches"
    else:
        cache = os.environ.get("XDG_CACHE_HOME") or _home() / ".cache"
    return Path(cache) / "numgpt"


def _home() -> Path:
    try:
        return Path.home()
    except RuntimeError:
        raise CheckpointError("you have no home folder here: set NUMGPT_WEIGHTS to a folder for checkpoints") from None
