"""From the path of a checkpoint to the model that it holds."""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from numgpt.checkpoint.adapters import base_beside, base_name, find_adapter, merge
from numgpt.checkpoint.contract import Opened
from numgpt.checkpoint.formats import find_weights, is_whole, open_weights
from numgpt.checkpoint.layers import read_by_layer
from numgpt.checkpoint.memory import read_params, read_stored
from numgpt.checkpoint.names import match_params
from numgpt.checkpoint.settings import NOTHING
from numgpt.checkpoint.vocabulary import from_folder
from numgpt.checks import check_option
from numgpt.config import Config
from numgpt.errors import CheckpointError
from numgpt.fast.tokenizer import Tokenizer
from numgpt.model import Model

WEIGHTS = ("int8", "keep")  # in what else than float32 and float64 the matrices may be kept


def read_model(
    checkpoint: Opened, dtype: str | None = None, weights: str | None = None, layer_at_a_time: bool = False
) -> Model:
    """Read a checkpoint whole.

    dtype    as `float_dtype` returns it: "float32" or "float64"; None: those two stay, F16 and BF16 are widened
    weights  None, or one of WEIGHTS, as `memory.read_stored` takes it
    layer_at_a_time  leave the layers in the file: each access to one reads it
    Returns a Model. Its tokenizer is None where there are no tokenizer files, and Unreadable where they are damaged, of
    another kind or of another model.
    Raises CheckpointError where there is no such checkpoint, or its weights are damaged, incomplete or of no GPT-2.
    """
    given, config = match_params(checkpoint.hub_tensors, checkpoint.config, source=str(checkpoint.weights))
    tokenizer = find_tokenizer(checkpoint)
    try:
        config = fit_tokenizer(config, tokenizer, checkpoint.weights.parent)
    except CheckpointError as error:
        tokenizer = Unreadable(error)
    if layer_at_a_time:
        params = read_by_layer(given, config, dtype, weights)
    else:
        params = read_stored(given, config, weights) if weights else read_params(given, config, dtype)
    return Model(config, params, tokenizer)


def open_checkpoint(path: Path, base: Path | None = None, given: Mapping[str, Any] = NOTHING) -> Opened:
    """Read the config of a checkpoint and the names, dtypes and shapes of its tensors.

    path   a folder; a file of weights, or the index of several, with beside it what its format does not hold; or the
           folder of an adapter, which is merged
    base   the checkpoint that an adapter changes; None: it lies in the folder of the adapter
    given  what the caller says of the model, as `settings.check_given` returns it
    Raises CheckpointError where there is no such checkpoint, or it is damaged or no GPT-2.
    """
    try:
        if (adapter := find_adapter(path)) is not None:
            return _open_adapter(adapter, base, given)
        if base is not None:
            raise CheckpointError(f"{path}: no adapter, so the base {base} is of no use: leave it out")
        return open_weights(find_weights(path) if path.is_dir() else path, given)
    except OSError as error:  # a folder that may not be read
        raise CheckpointError(f"{error.filename}: {error.strerror}: check its permissions") from None


class Unreadable(Tokenizer):
    """A tokenizer that can't be read: an error, which whoever asks it for anything gets, and nobody else.

    Ids need no tokenizer. To `if`, it is none.
    """

    def __init__(self, error: CheckpointError) -> None:
        self.error = error

    def __len__(self) -> int:
        return 0

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name == "error":  # of a copy in the making
            raise AttributeError(name)
        raise CheckpointError(str(self.error))

    def each_piece(self, ids: Iterable[int]) -> Iterator[bytes]:
        """Raise the error, before any id is out of a range that nobody knows."""
        raise CheckpointError(str(self.error))


OTHER_KINDS = {  # files of tokenizers that numgpt does not have
    "vocab.txt": "WordPiece, as BERT has it",
    "spiece.model": "SentencePiece",
    "tokenizer.model": "SentencePiece",
    "sentencepiece.bpe.model": "SentencePiece",
}


def _open_adapter(adapter: Path, base: Path | None, given: Mapping[str, Any]) -> Opened:
    """Open an adapter and its base. Its own tokenizer counts, where it has one."""
    if base is None or find_adapter(base) == adapter:
        base = base_beside(adapter)
    if base is None:
        raise CheckpointError(
            f"{adapter}: an adapter, whose base is {base_name(adapter) or 'not named'}, and not beside it: "
            f"give the base, a name or a path, by --base (in Python base=...)"
        )
    opened = merge(adapter, open_checkpoint(base, given=given))
    return opened._replace(folder=adapter) if from_folder(adapter) else opened


def find_tokenizer(checkpoint: Opened) -> Tokenizer | None:
    """Return the tokenizer whose files lie beside the weights, else the one that goes with the weights themselves.

    None: there is none. One that can't be read is Unreadable.
    """
    folder = checkpoint.folder
    try:
        tokenizer = from_folder(folder) if folder else None
        tokenizer = checkpoint.tokenizer() if tokenizer is None else tokenizer
    except CheckpointError as error:
        return Unreadable(error)
    others = [name for name in OTHER_KINDS if folder and (folder / name).is_file()] if tokenizer is None else []
    for name in others:
        fault = f"is a tokenizer of another kind, {OTHER_KINDS[name]}, expected byte-level BPE as GPT-2 has it"
        return Unreadable(CheckpointError(f"{folder}/{name}: {fault}: make the ids with its own program"))
    return tokenizer


def tokenizer_beside(path: Path) -> Tokenizer | None:
    """Read the tokenizer whose files lie beside the weights; None where there are none, or the weights hold it.

    path  as for `open_checkpoint`; a folder may have the files of a tokenizer alone
    Raises CheckpointError where its files are damaged.
    """
    try:
        weights = find_weights(path) if path.is_dir() else path
    except CheckpointError:  # no weights, or it is not clear which
        weights = path
    return None if is_whole(weights) else from_folder(path if path.is_dir() else path.parent)


def float_dtype(dtype: Any) -> str:
    """Return the name of a dtype that the parameters can have. Raises OptionError for any other."""
    try:
        name = np.dtype(dtype).name
    except Exception:  # np.dtype raises whatever it likes
        name = ""
    check_option("dtype", dtype, name in ("float32", "float64"), "float32 or float64, or None for that of the file")
    return name


def fit_tokenizer(config: Config, tokenizer: Tokenizer | None, source: object) -> Config:
    """Note in the config how many rows of the embedding stand for a token. Refuse a tokenizer of another model."""
    if not tokenizer:
        return config
    if tokenizer.n_ordinary > config.n_vocab:
        raise CheckpointError(
            f"{source}: the tokenizer has {tokenizer.n_ordinary} tokens, but the embedding {config.n_vocab} rows: "
            f"the tokenizer files are of another model"
        )
    return config._replace(n_tokens=min(len(tokenizer), config.n_vocab))
