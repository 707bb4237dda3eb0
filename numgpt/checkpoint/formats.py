"""One opener for all formats: the kind of a file is told from its content, not from its name.

safetensors   8 bytes of length, then "{"                          one file, or the JSON index of several
pytorch       a zip archive, or a pickle                           one file, or the JSON index of several
nanogpt       the same, with the sizes under "model_args"
tensorflow    an index that ends in the magic number of a table    beside it, files of data
"""

from pathlib import Path
from typing import Any, NamedTuple

from numgpt.checkpoint.safetensors import read_index, read_safetensors
from numgpt.checkpoint.tensors import LazyTensor
from numgpt.errors import CheckpointError

TABLE_MAGIC = 0xDB4775248B80FB57.to_bytes(8, "little")
NAMES = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
    "ckpt.pt",
)
ENDINGS = ("*.safetensors", "*.bin", "*.pt", "*.pth")


class Opened(NamedTuple):
    """The tensors of a checkpoint, by their names in the file, before any is read."""

    kind: str
    tensors: dict[str, LazyTensor]
    model_args: dict[str, Any] | None = None  # the sizes, in the files of nanoGPT


def open_tensors(path: Path) -> Opened:
    """Open a file of weights of any kind.

    Raises CheckpointError where it is damaged or of a kind that numgpt does not read.
    """
    start, end, size = _look(path)
    # The readers are imported when they are needed, so that the rest starts faster.
    if start[8:9] == b"{" and int.from_bytes(start[:8], "little") <= size - 8:
        return Opened("safetensors", read_safetensors(path))
    if start[:4] == b"PK\x03\x04" or start[:1] == b"\x80":
        from numgpt.checkpoint.pytorch import find_state_dict, read_object

        tensors, model_args = find_state_dict(read_object(path), path)
        return Opened("nanogpt" if model_args else "pytorch", tensors, model_args)
    if start.lstrip()[:1] == b"{":
        if path.name.endswith(".bin.index.json"):
            from numgpt.checkpoint.pytorch import read_pytorch_index

            return Opened("pytorch", read_pytorch_index(path))
        return Opened("safetensors", read_index(path))
    if end == TABLE_MAGIC or path.suffix == ".index" or ".data-" in path.name:
        from numgpt.checkpoint.tensorflow import read_tensorflow

        return Opened("tensorflow", read_tensorflow(path))
    return Opened("safetensors", read_safetensors(path))  # which says what it is instead


def find_weights(folder: Path) -> Path:
    """Return the file of a folder that holds the weights, or the index of several: safetensors first.

    Raises CheckpointError where there is none, or where it is not clear which.
    """
    from numgpt.checkpoint.tensorflow import find_tensorflow

    for name in NAMES:
        if (folder / name).is_file():
            return folder / name
    if index := find_tensorflow(folder):
        return index
    for ending in ENDINGS:
        found = sorted(folder.glob(ending))
        if len(found) == 1:
            return found[0]
        if found:
            names = ", ".join(path.name for path in found)
            raise CheckpointError(f"{folder}: found {names}, expected one file of weights: give the path of one")
    raise CheckpointError(
        f"{folder}: no weights, expected one of {', '.join(NAMES)} or model.ckpt.index: is the checkpoint complete?"
    )


def _look(path: Path) -> tuple[bytes, bytes, int]:
    """The first 16 bytes of a file, the last 8, and its size; nothing of what is no regular file."""
    try:
        if not path.is_file():
            return b"", b"", 0
        size = path.stat().st_size
        with open(path, "rb") as file:
            start = file.read(16)
            file.seek(max(0, size - 8))
            return start, file.read(8), size
    except OSError:
        return b"", b"", 0
