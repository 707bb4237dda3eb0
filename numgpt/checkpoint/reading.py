"""From the path of a checkpoint to what it holds: its config, its tensors, its tokenizer."""

import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from numgpt.checkpoint.files import read_small
from numgpt.checkpoint.formats import find_weights, open_tensors
from numgpt.checkpoint.names import from_nanogpt, from_openai, match_params, read_params
from numgpt.checkpoint.settings import config_from_json
from numgpt.checkpoint.tensors import LazyTensor
from numgpt.checkpoint.vocabulary import from_folder, gpt2
from numgpt.checks import check_option
from numgpt.config import Config
from numgpt.errors import CheckpointError
from numgpt.model import Model
from numgpt.tokenizer import Tokenizer

NANOGPT_VOCABULARIES = (50257, 50304)  # GPT-2's; and the same padded to a multiple of 64


class Checkpoint(NamedTuple):
    """A checkpoint on disk: what is known of it before its tensors are read."""

    weights: Path  # the file, or the index of several
    kind: str  # the format of the file, as `open_tensors` tells it
    tensors: dict[str, LazyTensor]  # by their names in the file
    hub_tensors: dict[str, LazyTensor]  # the same in the naming and layout of the Hub
    config: Config


def open_checkpoint(path: Path) -> Checkpoint:
    """Read the config of a checkpoint and the names, dtypes and shapes of its tensors.

    path  a folder; a file of weights, or the index of several, with config.json beside it
    Raises CheckpointError where there is no such checkpoint, or it is damaged or no GPT-2.
    """
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


def float_dtype(dtype: Any) -> str:
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


def read_model(path: Path, dtype: str | None = None) -> Model:
    """Read a checkpoint whole.

    path   as for `open_checkpoint`
    dtype  as `float_dtype` returns it: "float32" or "float64"; None: those two stay, F16 and BF16 are widened
    Returns a Model. Its tokenizer is None where there are no tokenizer files.
    Raises CheckpointError where there is no such checkpoint, or it is damaged, incomplete or no GPT-2.
    """
    checkpoint = open_checkpoint(path)
    given, config = match_params(checkpoint.hub_tensors, checkpoint.config, source=str(checkpoint.weights))
    tokenizer = find_tokenizer(checkpoint)
    config = _fit_tokenizer(config, tokenizer, checkpoint.weights.parent)
    return Model(config, read_params(given, config, dtype), tokenizer)
