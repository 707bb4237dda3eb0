"""The table of formats, and how the one of a file is found: from its content, not from its name.

Each format is a module of this room, with the two functions that contract.py describes. To add one, write the module
and its line in FORMATS.
"""

import re
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

from numgpt.checkpoint.contract import Glance, Opened
from numgpt.checkpoint.files import listing
from numgpt.checkpoint.settings import NOTHING, with_given
from numgpt.checkpoint.unread import kind_of, refuse_file, refuse_names
from numgpt.errors import CheckpointError


class Format(NamedTuple):
    """A line of the table."""

    module: str  # in this room; imported when a file is looked at, so that the rest starts faster
    names: tuple[str, ...]  # of files by which a folder of this format is known
    endings: tuple[str, ...]  # of files that may have any name, and count where there is one of them alone
    whole: bytes = b""  # how its files begin, if they hold config and tokenizer too: what lies beside does not count


PYTORCH = ("pytorch_model.bin", "pytorch_model.bin.index.json", "ckpt.pt")
FORMATS = (  # a file is of the first that takes it; so are those of a folder that has several
    Format("safetensors", ("model.safetensors", "model.safetensors.index.json"), (".safetensors",)),
    Format("pytorch", PYTORCH, (".bin", ".pt", ".pth", ".ckpt")),
    Format("tensorflow", ("checkpoint", "model.ckpt.index"), (".index",)),
    Format("gguf", (), (".gguf",), whole=b"GGUF"),
    Format("llmc", (), (".bin",)),
    Format("keras", ("tf_model.h5", "tf_model.h5.index.json"), (".h5",)),
    Format("flax", ("flax_model.msgpack", "flax_model.msgpack.index.json"), (".msgpack",)),
    Format("ggml", (), (".bin", ".ggml")),
)
LATER_PART = r"-(?!00001)\d{5}-of-\d{5}\.gguf$"  # of a split file, which its first part stands for
STEP = r"-([0-9]{1,12})\.index$"  # of OpenAI's checkpoints, which lie beside one another
TRAINING = r"training_args\.bin|(optimizer|scheduler|scaler|rng_state.*)\.(bin|pt|pth)"  # the state of one
NO_WEIGHTS = rf"adapter_model\.|{TRAINING}|meta\.pkl|.*\.(part|npy|npz|zip)"  # what has the form of a file of weights


def open_weights(path: Path, given: Mapping[str, Any] = NOTHING) -> Opened:
    """Open a file of weights of any format, or the index of several.

    given  what the caller says of the model, as `settings.check_given` returns it: it counts before what the file says
    Raises CheckpointError where it is damaged or of a format that numgpt does not read.
    """
    glance = look_at(path)._replace(given=given)
    opened: Opened = format_of(glance).open_weights(glance)
    return opened._replace(config=with_given(opened.config, given, path))


def format_of(glance: Glance) -> ModuleType:
    """Return the module of the format that a file has. For a file of none, the first one's, whose reader says so.

    Raises CheckpointError, by name, for a file that is known and not read.
    """
    for module in map(module_of, FORMATS):
        if module.is_mine(glance):
            return module
    refuse_file(glance)
    return module_of(FORMATS[0])


def is_whole(path: Path) -> bool:
    """Tell whether a file holds all of a model, its config and its tokenizer too."""
    glance = look_at(path)
    return any(format.whole and glance.start.startswith(format.whole) for format in FORMATS)


def module_of(format: Format) -> ModuleType:
    """Return the module of a line of the table."""
    return import_module(f"{__package__}.{format.module}")


def find_weights(folder: Path) -> Path:
    """Return the file of a folder that holds the weights, or the index of several: safetensors first.

    It is known by its name, else by its ending, else by what is in it.
    Raises CheckpointError where there is none, or where it is not clear which.
    """
    if named := named_weights(folder):
        return named
    files = sorted(path for path in folder.iterdir() if path.is_file() and not re.match(NO_WEIGHTS, path.name))
    files = [path for path in files if not _is_beside(path) and not kind_of([path.name])]
    for format in FORMATS:
        found = [path for path in files if path.name.endswith(format.endings) and not re.search(LATER_PART, path.name)]
        if found:
            return _one_of(folder, found)
    readers = [module_of(format) for format in FORMATS]
    if found := [path for path in files if any(module.is_mine(look_at(path)) for module in readers)]:
        return _one_of(folder, found)
    names = [name for format in FORMATS for name in format.names]
    expected = f"{', '.join(names[:-1])} or {names[-1]}"
    below = sorted({path.parent.name for name in names for path in folder.glob(f"*/{name}")})
    if below:
        more = f" and {len(below) - 5} more" if len(below) > 5 else ""
        raise CheckpointError(
            f"{folder}: no weights here, but in folders below: {', '.join(below[:5])}{more}: give the path of one"
        )
    refuse_names(folder, [folder.absolute().name, *(path.name for path in (*folder.glob("*"), *folder.glob("onnx/*")))])
    raise CheckpointError(f"{folder}: no weights, expected one of {expected}: is the checkpoint complete?")


def _one_of(folder: Path, found: list[Path]) -> Path:
    """Return the only one, or of several steps of a training the last. Raises CheckpointError for several others."""
    steps = {int(match[1]): path for path in found if (match := re.search(STEP, path.name))}
    if len(found) == 1 or (steps and len(steps) == len(found)):
        return steps[max(steps)] if steps else found[0]
    listed = listing([path.name for path in found])
    raise CheckpointError(f"{folder}: found {listed}, expected one file of weights: give the path of one")


def _is_beside(path: Path) -> bool:
    """Tell whether a file is one of those of llm.c that lie beside a model: its tokenizer, its debug state, tokens."""
    if path.suffix != ".bin":
        return False
    llmc, glance = import_module(f"{__package__}.llmc"), look_at(path)
    return bool(llmc.is_mine(glance) and not llmc.is_model(glance))


def named_weights(folder: Path) -> Path | None:
    """Return the file of weights of a folder that has one of the names in the table, or None."""
    names = (name for format in FORMATS for name in format.names)
    return next((folder / name for name in names if (folder / name).is_file()), None)


def look_at(path: Path) -> Glance:
    """Look at the first and the last bytes of a file."""
    try:
        if path.is_file():
            size = path.stat().st_size
            with open(path, "rb") as file:
                start = file.read(16)
                file.seek(max(0, size - 8))
                return Glance(path, start, file.read(8), size)
    except OSError:  # its reader will say why it can't be read
        pass
    return Glance(path, b"", b"", 0)
