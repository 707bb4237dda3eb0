"""What lies in the folder of a run: a checkpoint as any other, and beside it the state that the run goes on from.

Killed at any moment, a run leaves both whole.
"""

import json
import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from numgpt.checkpoint.companions import write_tokenizer
from numgpt.checkpoint.disk import folder_written_whole, try_lock
from numgpt.checkpoint.export import convert
from numgpt.checkpoint.files import parse_json, wrong
from numgpt.checkpoint.names import hub_name
from numgpt.checkpoint.safetensors import read_header, write_safetensors
from numgpt.checkpoint.settings import config_to_json
from numgpt.checkpoint.tensors import tensor_of
from numgpt.config import Config
from numgpt.errors import CheckpointError, OptionError
from numgpt.hub.folders import find
from numgpt.hub.loading import locate, locate_base
from numgpt.model import Model, tokenizer_of
from numgpt.params import faults, in_short, leaves, map_leaves, param_shapes
from numgpt.training.optimizer import State, start_state

WEIGHTS = "model.safetensors"
STATE = "training.safetensors"
UNFINISHED = "unfinished"  # the folder inside, where files are written before they move up


def save(folder: Path, state: State, record: dict[str, Any]) -> None:
    """Replace the checkpoint of a folder and the state beside it, each at once when it is whole.

    Killed at any moment it leaves both loadable. A state that is older than the checkpoint makes it once more.
    Raises CheckpointError where they can't be written, and leaves what was there.
    """
    weights = {}
    for path, x in leaves(state.params):
        name = hub_name(path) if path == "lm_head" else f"transformer.{hub_name(path)}"
        weights[name] = tensor_of(x)
    trees = {"params": state.params, "m": state.m, "v": state.v}
    metadata = {"format": "np", "step": str(state.step), "settings": json.dumps(record)}
    part = folder / UNFINISHED
    try:
        part.mkdir(exist_ok=True)
        write_safetensors(part / WEIGHTS, weights)
        write_safetensors(part / STATE, {path: tensor_of(x) for path, x in leaves(trees)}, metadata)
        for file in (WEIGHTS, STATE):
            os.replace(part / file, folder / file)
    except OSError as error:
        raise wrong(folder, f"can't be written: {error.strerror}", "free some space, or write elsewhere") from error
    finally:
        remove_unfinished(folder)


def remove_unfinished(folder: Path) -> None:
    """Remove what a process that was killed has left half-written in the folder of a run."""
    shutil.rmtree(folder / UNFINISHED, ignore_errors=True)


def create(folder: Path, model: Model, record: dict[str, Any], start: str | None) -> State:
    """Make the folder of a run, with config, vocabulary and all, which takes its name when it is whole.

    start  the checkpoint that the model is from, whose other files come along; None for a new model
    Returns the state before the first step.
    Raises CheckpointError where the folder is taken or can't be written, OptionError where another process has begun
    the run meanwhile.
    """
    state = start_state(map_leaves(lambda path, p: np.ascontiguousarray(p), model.params))
    try:
        with folder_written_whole(folder) as part:
            if start is None:
                kind = write_tokenizer(tokenizer_of(model), tokenizer_folder(record.get("tokenizer")), part)
                values = {**config_to_json(model.config), **kind}
                (part / "config.json").write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
            else:
                source = locate(start)
                convert(source, part, locate_base(source))
            save(part, state, record)
    except CheckpointError:
        if is_run(folder):  # which it was not when this process looked
            raise busy(folder) from None
        raise
    return state


def tokenizer_folder(name: str | None) -> Path | None:
    """Return where the files of a tokenizer lie that a new model is given; None where they need not be there."""
    path = None if name is None else find(name)
    return path if path is None or path.is_dir() else path.parent


def busy(folder: Path) -> OptionError:
    """Return the error to raise where another process has the lock of a run."""
    return OptionError(f"{folder}: another process is at this run: wait for it, or end it")


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Keep other processes from the run in a folder for a while. Where there are no locks, trust.

    Raises OptionError where another process is at it.
    """
    if sys.platform == "win32":  # which opens no folders
        yield
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        if not try_lock(handle):
            raise busy(folder)
        yield
    finally:
        os.close(handle)


def is_run(folder: Path) -> bool:
    """Tell whether a folder holds a run. Raises OptionError for one that holds something else."""
    if (folder / STATE).is_file():
        return True
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise OptionError(f"{folder}: is there already, and no run of training: give the name of a new folder")
    return False


def plain(record: dict[str, Any]) -> dict[str, Any]:
    """Return a record as it comes back from JSON: numbers of Python for NumPy's, text for a path.

    >>> plain({"steps": np.int64(7), "start": Path("gpt2")})
    {'steps': 7, 'start': 'gpt2'}
    """

    def replace(x: Any) -> Any:
        return x.item() if isinstance(x, np.generic) else os.fspath(x)

    return json.loads(json.dumps(record, default=replace))


def check_record(folder: Path, record: dict[str, Any]) -> None:
    """Raise OptionError where the run in a folder is not of these settings and texts, with what differs.

    The number of steps may: it only says how far a run goes.
    """
    metadata = read_header(folder / STATE)[1]
    if "settings" not in metadata:
        raise wrong(folder / STATE, "no settings in it", "it is no state of training")
    old = parse_json(folder / STATE, metadata["settings"].encode())
    changes = [
        f"{name} was {old.get(name)!r:.70} and is {record.get(name)!r:.70}"
        for name in {**old, **record}
        if old.get(name) != record.get(name) and name != "steps"
    ]
    if changes:
        raise OptionError(
            f"{folder}: belongs to another run: {'; '.join(changes)}: give the same text and settings as before, "
            f"or the name of a new folder (which may start from this one)"
        )


def resume(folder: Path, config: Config) -> State:
    """Read the state that `save` has written. Raises CheckpointError where it is damaged."""
    tensors, metadata = read_header(folder / STATE)
    params = param_shapes(config)
    shapes = {"params": params, "m": params, "v": params}
    found = faults({path: tensor.shape for path, tensor in tensors.items()}, dict(leaves(shapes)))
    if found or not metadata.get("step", "").isdecimal():
        raise wrong(folder / STATE, in_short(found) or "no step in it", "it is no state of this model")
    trees = map_leaves(lambda path, _: tensors[path].read(), shapes)
    return State(int(metadata["step"]), trees["params"], trees["m"], trees["v"])
