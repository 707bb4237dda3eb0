"""Where checkpoints lie on this machine, by their names.

Environment: NUMGPT_WEIGHTS, the folder of checkpoints; HF_HOME and HF_HUB_CACHE, as huggingface_hub reads them.
"""

import json
import os
import re
import sys
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from numgpt.checkpoint.adapters import adapter_weights
from numgpt.checkpoint.formats import LATER_PART, find_weights
from numgpt.errors import CheckpointError, DownloadError
from numgpt.hub.registry import KNOWN, choose_files, is_name, parse_name

HERE = Path(__file__).parent.parent  # the package
CHECKOUT = HERE.parent if (HERE.parent / "pyproject.toml").is_file() else None
SHARD = re.compile(
    r"(model-N\.safetensors|pytorch_model-N\.bin|tf_model-N\.h5|flax_model-N\.msgpack)".replace("N", r"\d{5}-of-\d{5}"),
    re.ASCII,
)
MAX_INDEX = 1 << 25  # bytes


def find(name_or_path: str | os.PathLike[str]) -> Path | None:
    """Return where a checkpoint lies on this machine, or None."""
    name = os.path.expanduser(os.fspath(name_or_path))
    try:
        path = Path(name) if name else None
        if path and path.exists() and not (name in KNOWN and path.is_dir() and _is_unfinished(path)):
            return path
    except (OSError, ValueError):  # too long for a path, or a NUL in it
        return None
    return find_named(name)


def find_named(name: str) -> Path | None:
    """Return where the checkpoint of this name lies, or None. A path is no name."""
    if name == "storyteller" and bundled().exists():
        return bundled()
    ours = weights_folder() / name
    if name and ours.exists() and not (is_name(name) and _is_unfinished(ours)):
        return ours
    return hf_cache_folder(name)


def _is_unfinished(folder: Path) -> bool:
    """Tell whether a download into a folder was cut: a part of a file lies there, or not all weights do."""
    try:
        weights = adapter_weights(folder) or find_weights(folder)
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
    found = [path.parent for path in (*folder.glob("*/config.json"), *folder.glob("*/*/config.json"))]  # owner/name
    alone = [path for path in (*folder.glob("*.gguf"), *folder.glob("*/*.gguf")) if path.parent not in found]
    alone = [path for path in alone if not re.search(LATER_PART, path.name)]  # files that need nothing beside them
    others = sorted(path.relative_to(folder).as_posix() for path in (*found, *alone))
    return [*KNOWN, *(name for name in others if name not in KNOWN)]


def bundled() -> Path:
    """Return the folder of the checkpoint that comes with numgpt, in the wheel or in the checkout."""
    return (CHECKOUT or HERE) / "weights" / "storyteller"


def weights_folder() -> Path:
    """Return the folder of checkpoints: $NUMGPT_WEIGHTS, else weights/ of a checkout, else the user's cache folder."""
    if chosen := os.environ.get("NUMGPT_WEIGHTS"):
        return Path(os.path.expanduser(chosen))
    if CHECKOUT:
        return CHECKOUT / "weights"
    if sys.platform == "win32":
        cache = os.environ.get("LOCALAPPDATA") or _home() / "AppData" / "Local"
    elif sys.platform == "darwin":
        cache = _home() / "Library" / "Caches"
    else:
        cache = os.environ.get("XDG_CACHE_HOME") or _home() / ".cache"
    return Path(os.path.expanduser(cache)) / "numgpt"


def _home() -> Path:
    """Return the user's home folder. Raises CheckpointError where there is none."""
    try:
        return Path.home()
    except RuntimeError:
        raise CheckpointError("you have no home folder here: set NUMGPT_WEIGHTS to a folder for checkpoints") from None


# --- the Hugging Face cache


def hf_cache_folder(name: str) -> Path | None:
    """Return the folder of a model in the Hugging Face cache, or None where it is not there with config and weights.

    name  as for `download`. Of a name with a pinned revision, another revision is taken too, if the cache has only that
    Source: huggingface_hub, file_download.py: models--owner--name/snapshots/<commit>, and refs/<branch or tag>, which
    holds a commit. Files there are links into blobs/.
    """
    if not is_name(name) or not (source := parse_name(name)).repo:
        return None
    # Before they had an owner, the models of OpenAI lay under their bare names.
    for repo in [source.repo] + [name] * (name in KNOWN):
        root = _hf_cache() / ("models--" + repo.replace("/", "--"))
        for revision in [source.revision] + ["main"] * (name in KNOWN):
            commit = revision
            with suppress(OSError, ValueError):
                commit = (root / "refs" / revision).read_text(encoding="ascii").strip()
            folder = root / "snapshots" / commit
            if re.fullmatch("[0-9a-f]{40}", commit) and _has_model(folder):
                return folder
    return None


def _has_model(folder: Path) -> bool:
    """Tell whether a folder has a config and all weights."""
    try:
        names = {path.name for path in folder.iterdir() if path.is_file()}
        weights = choose_files(names, "")[-1]
        return not weights.endswith(".index.json") or bool(read_shards(folder / weights, names))
    except OSError:  # a DownloadError too
        return False


def read_shards(index: Path, names: Iterable[str]) -> list[str]:
    """Return the names of the shards that an index lists, in order.

    Raises DownloadError for an index that is none, a name that can't be that of a shard, or one not among `names`.
    """
    try:
        if index.stat().st_size > MAX_INDEX:
            raise ValueError("an index of millions of tensors")
        shards = sorted(set(json.loads(index.read_bytes())["weight_map"].values()))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise DownloadError(f"{index}: no index of shards: delete it, and run this again") from None
    for shard in shards:
        if not isinstance(shard, str) or not SHARD.fullmatch(shard):
            raise DownloadError(f"{index}: {shard!r:.200} is no name of a shard: don't trust this model")
        if shard not in names:
            raise DownloadError(f"{index}: lists {shard}, which the repository does not have: tell its owner")
    return shards


def _hf_cache() -> Path:
    """Return the folder of huggingface_hub's cache."""
    chosen = os.environ.get("HF_HUB_CACHE") or os.environ.get("HUGGINGFACE_HUB_CACHE")
    return _expand(chosen) if chosen else hf_home() / "hub"


def hf_home() -> Path:
    """Return the folder of huggingface_hub, which holds its cache and the token that `hf auth login` saved."""
    cache = os.environ.get("XDG_CACHE_HOME") or os.path.join("~", ".cache")
    return _expand(os.environ.get("HF_HOME") or os.path.join(cache, "huggingface"))


def _expand(path: str) -> Path:
    return Path(os.path.expandvars(os.path.expanduser(path)))
