"""Model: a checkpoint in memory. `load` finds one by name, folder or file and reads it."""

import json
import os
import sys
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from numgpt.checkpoint import LazyTensor
from numgpt.checkpoint.names import match_params, read_params
from numgpt.checkpoint.safetensors import read_index, read_safetensors
from numgpt.config import Config, config_from_json
from numgpt.errors import CheckpointError
from numgpt.sampling import check_option
from numgpt.tokenizer import Tokenizer
from numgpt.vocabulary import from_folder, gpt2


class Model(NamedTuple):
    """A GPT-2 that is ready to run: what travels together."""

    config: Config
    params: dict[str, Any]
    tokenizer: Tokenizer | None  # None where the checkpoint has no tokenizer files; ids still work


class Known(NamedTuple):
    """A checkpoint that people know by name."""

    params: int
    file_bytes: int  # of model.safetensors
    about: str


KNOWN = {
    "storyteller": Known(5_918_720, 11_844_840, "tells folk tales; comes with numgpt"),
    "gpt2": Known(124_439_808, 548_105_171, "OpenAI's GPT-2, small"),
    "gpt2-medium": Known(354_823_168, 1_519_984_962, "OpenAI's GPT-2, medium"),
    "gpt2-large": Known(774_030_080, 3_247_159_078, "OpenAI's GPT-2, large"),
    "gpt2-xl": Known(1_557_611_200, 6_431_829_962, "OpenAI's GPT-2, the largest"),
    "distilgpt2": Known(81_912_576, 352_824_413, "gpt2 distilled into 6 layers"),
}

HERE = Path(__file__).parent
CHECKOUT = HERE.parent if (HERE.parent / "pyproject.toml").is_file() else None


class Checkpoint(NamedTuple):
    """A checkpoint on disk: what is known of it before its tensors are read."""

    weights: Path  # the file, or the index of several
    tensors: dict[str, LazyTensor]  # by their names in the file
    config: Config


def load(name_or_path: str | os.PathLike[str], dtype: Any = None) -> Model:
    """Read a checkpoint.

    name_or_path  a folder; a .safetensors file, or the .index.json of several, with config.json beside it; or a name:
                  "storyteller", which comes with numgpt, or that of a folder in `weights_folder()`
    dtype         float32 or float64: convert to it. None: those two stay, F16 and BF16 are widened to float32
    Returns a Model. Its tokenizer is None where there are no tokenizer files.
    Raises CheckpointError where there is no such checkpoint, or it is damaged, incomplete or no GPT-2; OptionError for
    another dtype.

    >>> model = load("storyteller")
    >>> model.config.n_layer, model.params["wte"].shape, len(model.tokenizer)
    (6, (4096, 256), 4096)
    """
    target = None if dtype is None else _float_dtype(dtype)
    checkpoint = open_checkpoint(name_or_path)
    folder = checkpoint.weights.parent
    given, config = match_params(checkpoint.tensors, checkpoint.config, source=str(checkpoint.weights))
    tokenizer = from_folder(folder)
    config = _fit_tokenizer(config, tokenizer, folder)
    return Model(config, read_params(given, config, target), tokenizer)


def load_tokenizer(name_or_path: str | os.PathLike[str]) -> Tokenizer | None:
    """Read the tokenizer of a checkpoint, without its weights. That of OpenAI's models comes with numgpt.

    >>> load_tokenizer("gpt2").encode("Hello world")
    [15496, 995]
    """
    try:
        path = locate(name_or_path)
    except CheckpointError:
        if str(name_or_path).startswith(("gpt2", "distilgpt2")) and name_or_path in KNOWN:
            return gpt2()
        raise
    return from_folder(path if path.is_dir() else path.parent)


def open_checkpoint(name_or_path: str | os.PathLike[str]) -> Checkpoint:
    """Find a checkpoint, and read its config and the names, dtypes and shapes of its tensors.

    Raises CheckpointError as `load` does.
    """
    path = locate(name_or_path)
    weights = find_weights(path) if path.is_dir() else path
    config = read_config(weights.parent)
    read = read_index if weights.suffix == ".json" else read_safetensors
    return Checkpoint(weights, read(weights), config)


def locate(name_or_path: str | os.PathLike[str]) -> Path:
    """Return where a checkpoint lies: at a path, with numgpt or in the folder of checkpoints, looked up in this order.

    Raises CheckpointError where there is none, with the places that were searched.
    """
    if path := find(name_or_path):
        return path
    raise CheckpointError(
        f"no checkpoint {os.fspath(name_or_path)!r:.200}: no such file or folder, and not in {weights_folder()}; "
        f"give a path, or put its files there, in a folder of that name; `numgpt models` lists what is at hand"
    )


def find(name_or_path: str | os.PathLike[str]) -> Path | None:
    """Return where a checkpoint lies, as `locate` does, or None."""
    name = os.fspath(name_or_path)
    for place in (Path(name), *([bundled()] if name == "storyteller" else []), weights_folder() / name):
        try:
            if name and place.exists():
                return place
        except (OSError, ValueError):  # too long for a path, or a NUL in it
            continue
    return None


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
        cache = os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local"
    elif sys.platform == "darwin":
        cache = Path.home() / "Library" / "Caches"
    else:
        cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(cache) / "numgpt"


def find_weights(folder: Path) -> Path:
    """Return the file of a folder that holds the weights: the only .safetensors, or the index of several.

    Raises CheckpointError where there is none, or where it is not clear which.
    """
    for name in ("model.safetensors", "model.safetensors.index.json"):
        if (folder / name).is_file():
            return folder / name
    found = sorted(folder.glob("*.safetensors"))
    if len(found) == 1:
        return found[0]
    what = ", ".join(p.name for p in found) if found else "no .safetensors file"
    raise CheckpointError(f"{folder}: found {what}, expected model.safetensors or model.safetensors.index.json")


def read_config(folder: Path) -> Config:
    """Read the config.json of a folder. Raises CheckpointError where it is missing, damaged or not of a GPT-2."""
    path = folder / "config.json"
    try:
        values = json.loads(path.read_bytes())
    except OSError as error:
        raise CheckpointError(f"{path}: {error.strerror}; the sizes of the model are read from it") from None
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: not JSON ({error})") from None
    return config_from_json(values, source=str(path))


def _float_dtype(dtype: Any) -> str:
    try:
        name = np.dtype(dtype).name
    except Exception:  # np.dtype raises whatever it likes
        name = ""
    check_option("dtype", dtype, name in ("float32", "float64"), "float32 or float64, or None for that of the file")
    return name


def _fit_tokenizer(config: Config, tokenizer: Tokenizer | None, folder: Path) -> Config:
    """Note in the config how many rows of the embedding stand for a token. Refuse a tokenizer of another model."""
    if tokenizer is None:
        return config
    if tokenizer.n_ordinary > config.n_vocab:
        raise CheckpointError(
            f"{folder}: the tokenizer has {tokenizer.n_ordinary} tokens, but the embedding {config.n_vocab} rows: "
            f"the tokenizer files are of another model"
        )
    return config._replace(n_tokens=min(len(tokenizer), config.n_vocab))
