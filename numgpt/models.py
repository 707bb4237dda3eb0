"""Model: a checkpoint in memory. `load` finds one by name, folder or file and reads it."""

import json
import os
import sys
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from numgpt.checkpoint import LazyTensor
from numgpt.checkpoint.files import read_small
from numgpt.checkpoint.formats import find_weights, open_tensors
from numgpt.checkpoint.names import from_nanogpt, from_openai, match_params, read_params
from numgpt.config import Config, config_from_json
from numgpt.errors import CheckpointError, DownloadError, TokenError
from numgpt.registry import KNOWN
from numgpt.sampling import check_option
from numgpt.tokenizer import Tokenizer
from numgpt.vocabulary import from_folder, gpt2


class Model(NamedTuple):
    """A GPT-2 that is ready to run: what travels together."""

    config: Config
    params: dict[str, Any]
    tokenizer: Tokenizer | None  # None where the checkpoint has no tokenizer files; ids still work


def tokenizer_of(model: Model) -> Tokenizer:
    """Return the tokenizer of a model. Raises TokenError where it has none."""
    if model.tokenizer is None:
        raise TokenError("this model has no tokenizer, which text needs: put its files beside the weights")
    return model.tokenizer


GPT2_VOCABULARY = ("gpt2", "gpt2-medium", "gpt2-large", "gpt2-xl", "distilgpt2", "124M", "355M", "774M", "1558M")
NANOGPT_VOCABULARIES = (50257, 50304)  # GPT-2's; and the same padded to a multiple of 64

HERE = Path(__file__).parent
CHECKOUT = HERE.parent if (HERE.parent / "pyproject.toml").is_file() else None


class Checkpoint(NamedTuple):
    """A checkpoint on disk: what is known of it before its tensors are read."""

    weights: Path  # the file, or the index of several
    kind: str  # the format of the file, as `open_tensors` tells it
    tensors: dict[str, LazyTensor]  # by their names in the file
    hub_tensors: dict[str, LazyTensor]  # the same in the naming and layout of the Hub
    config: Config


def load(name_or_path: str | os.PathLike[str], dtype: Any = None, progress: Any = None) -> Model:
    """Read a checkpoint.

    name_or_path  a folder; a file of weights, or the index of several, with config.json beside it; or a name:
                  "storyteller", which comes with numgpt, that of a folder in `weights_folder()`, or one to download
    dtype         float32 or float64: convert to it. None: those two stay, F16 and BF16 are widened to float32
    progress      shows how a download gets on; see `numgpt.download`
    Returns a Model. Its tokenizer is None where there are no tokenizer files.
    Raises CheckpointError where there is no such checkpoint, or it is damaged, incomplete or no GPT-2; DownloadError;
    OptionError for another dtype.

    >>> model = load("storyteller")
    >>> model.config.n_layer, model.params["wte"].shape, len(model.tokenizer)
    (6, (4096, 256), 4096)
    """
    target = None if dtype is None else _float_dtype(dtype)
    checkpoint = open_checkpoint(name_or_path, progress)
    given, config = match_params(checkpoint.hub_tensors, checkpoint.config, source=str(checkpoint.weights))
    tokenizer = find_tokenizer(checkpoint)
    config = _fit_tokenizer(config, tokenizer, checkpoint.weights.parent)
    return Model(config, read_params(given, config, target), tokenizer)


def load_tokenizer(name_or_path: str | os.PathLike[str]) -> Tokenizer | None:
    """Read the tokenizer of a checkpoint, without its weights. That of OpenAI's models comes with numgpt.

    >>> load_tokenizer("gpt2").encode("Hello world")
    [15496, 995]
    """
    path = find(name_or_path)
    if path is None and name_or_path in GPT2_VOCABULARY:
        return gpt2()
    path = path or locate(name_or_path)
    return from_folder(path if path.is_dir() else path.parent) or find_tokenizer(open_checkpoint(path))


def open_checkpoint(name_or_path: str | os.PathLike[str], progress: Any = None) -> Checkpoint:
    """Read the config of a checkpoint and the names, dtypes and shapes of its tensors.

    Arguments and errors are those of `load`.
    """
    path = locate(name_or_path, progress)
    try:
        weights = find_weights(path) if path.is_dir() else path
        kind, tensors, model_args = open_tensors(weights)
        config = read_config(weights.parent) if model_args is None else _nanogpt_config(model_args, weights)
    except OSError as error:  # a folder that may not be read
        raise CheckpointError(f"{error.filename}: {error.strerror}: check its permissions") from None
    hub_tensors = tensors
    if kind == "tensorflow":
        hub_tensors = from_openai(tensors)
    if kind == "nanogpt":
        hub_tensors = from_nanogpt(tensors, config)
    return Checkpoint(weights, kind, tensors, hub_tensors, config)


def find_tokenizer(checkpoint: Checkpoint) -> Tokenizer | None:
    """Return the tokenizer that lies beside the weights; for a nanoGPT, which has none there, GPT-2's if it fits."""
    tokenizer = from_folder(checkpoint.weights.parent)
    if tokenizer is None and checkpoint.kind == "nanogpt" and checkpoint.config.n_vocab in NANOGPT_VOCABULARIES:
        return gpt2()
    return tokenizer


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
    from numgpt.download import download, is_name

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
    from numgpt.download import hf_cache_folder, is_name

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


def read_config(folder: Path) -> Config:
    """Read the config.json of a folder, or OpenAI's hparams.json.

    Raises CheckpointError where they are missing, damaged or not of a GPT-2.
    """
    paths = [folder / name for name in ("config.json", "hparams.json")]
    path = next((path for path in paths if path.exists()), None)
    if path is None:
        raise CheckpointError(f"{paths[0]}: no such file, expected it beside the weights, for the sizes of the model")
    try:
        values = json.loads(read_small(path))
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: not JSON ({error})") from None
    return config_from_json(values, source=str(path))


def _nanogpt_config(model_args: dict[str, Any], weights: Path) -> Config:
    """The sizes that nanoGPT keeps beside the weights. Its activation is the exact GELU."""
    return config_from_json({**model_args, "activation_function": "gelu"}, source=f"{weights}: model_args")


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
