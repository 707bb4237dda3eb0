"""What the module of a format takes and gives. Each has the same two functions:

    is_mine(glance: Glance) -> bool             is this file of my format?
    open_weights(glance: Glance) -> Opened      what is in it, before any tensor is read

`is_mine` judges by what `Glance` holds and reads nothing. `open_weights` checks all that the file says of itself, and
raises CheckpointError for what is damaged, missing or no GPT-2. A checkpoint that is a folder is known by one of its
files, such as an index or a configuration, from which `open_weights` finds the others.
"""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from numgpt.checkpoint.tensors import LazyTensor
from numgpt.config import Config
from numgpt.fast.tokenizer import Tokenizer


class Glance(NamedTuple):
    """A file, as far as one look at it tells. What is no regular file looks empty."""

    path: Path
    start: bytes  # its first 16 bytes
    end: bytes  # its last 8 bytes
    size: int
    given: Mapping[str, Any] = {}  # what the caller says of the model, as `settings.check_given` returns it


class Opened(NamedTuple):
    """A checkpoint on disk: what is known of it before its tensors are read."""

    weights: Path  # the file, or the index of several
    kind: str  # the name of the format, for messages
    tensors: dict[str, LazyTensor]  # by their names in the file, with its dtypes or the types of its blocks
    hub_tensors: dict[str, LazyTensor]  # the same in the naming and layout of the Hub
    config: Config
    settings: Mapping[str, Any]  # what its config.json says, also beside the sizes, such as dropout; {}: it has none
    folder: Path | None  # where the files of its tokenizer are, if there are any
    tokenizer: Callable[[], Tokenizer | None] = lambda: None  # makes the one that counts where `folder` has none
    left_out: Mapping[str, str] = {}  # what is in the file and no tensor of the model -> why it is left out
    merged: Mapping[str, str] = {}  # the tensors that an adapter changes, by the Hub's names -> how
    check: Callable[[], Iterator[tuple[str, bool]]] | None = None
    """Compares each tensor with its checksum in the file: yields its name, and whether it is sound. None: no sums."""
