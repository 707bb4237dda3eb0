"""What lies beside the weights of a checkpoint and goes with them: to be copied byte for byte, whoever can use it."""

import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from numgpt import tokenizer as readable
from numgpt.checkpoint import ggml, llmc, pytorch, tensorflow
from numgpt.checkpoint.formats import TRAINING, look_at
from numgpt.checkpoint.pieces import read_json
from numgpt.checkpoint.unread import kind_of
from numgpt.checkpoint.vocabulary import write_vocabulary

VOCABULARIES = ("vocab.json", "tokenizer.json", "meta.pkl")  # of which a folder that is written has one
TOKENIZER = (
    *VOCABULARIES,
    "merges.txt",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
)
NAMED = (  # what belongs to a file of weights, among all that may lie in its folder
    *TOKENIZER,
    "generation_config.json",
    "vocab.txt",
    "spiece.model",
    "tokenizer.model",
    "sentencepiece.bpe.model",
    "README.md",
    "LICENSE",
)
WEIGHTS = re.compile(  # of GPT-2 in any format, and the adapters that are part of a model once it is loaded
    r".*\.(safetensors|h5|hdf5|msgpack|onnx|gguf|ggml|ot|tflite|ckpt|meta)|.*\.(bin|safetensors|h5|msgpack)\.index\.json"
    r"|adapter_(config\.json|model\..*)",
    re.DOTALL,
)
LFS = b"version https://"  # how a pointer of Git LFS begins, which stands for a file of weights


def companions(path: Path) -> list[Path]:
    """Return the files that go with a checkpoint: all of its folder, and of those below, that are no weights.

    path  the folder; or a file of weights, whose folder may hold anything, so that only what is known by name goes too
    Returns paths, without config.json. Folders that hold weights of their own are other checkpoints, and hidden ones
    are of Git and the like: they stay.
    """
    if not path.is_dir():
        return [path.parent / name for name in NAMED if (path.parent / name).is_file()]
    return sorted(file for file in _files_of(path) if file != path / "config.json")


def _files_of(folder: Path) -> Iterator[Path]:
    for parent, names, files in os.walk(folder):
        found = [Path(parent, name) for name in files if Path(parent, name).is_file()]
        weights = {file for file in found if is_weights(file)}
        if weights and Path(parent) != folder:
            names.clear()
            continue
        names[:] = [name for name in names if not name.startswith(".")]
        yield from (file for file in found if file not in weights)


def is_weights(path: Path) -> bool:
    """Tell whether a file holds the weights of a model, or a part of them, by its name and its first bytes."""
    name = path.name
    if WEIGHTS.fullmatch(name) or kind_of([name]):
        return True
    if path.suffix in (".bin", ".pt", ".pth"):
        glance = look_at(path)
        is_model = pytorch.is_mine(glance) or llmc.is_model(glance) or ggml.is_mine(glance)
        return (is_model or glance.start.startswith(LFS)) and not re.fullmatch(TRAINING, name, re.DOTALL)
    return tensorflow.is_mine(look_at(path))


def copy_companions(files: list[Path], source: Path, folder: Path) -> None:
    """Copy files of a folder to the same places in another. What the system refuses is an OSError."""
    for file in files:
        target = folder / file.relative_to(source)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, target)


def write_tokenizer(tokenizer: readable.Tokenizer, source: Path | None, folder: Path) -> dict[str, Any]:
    """Write the files of a tokenizer that is read from a folder; without it those of its vocabulary alone.

    Returns what config.json has to say of it, so that it is read there as it is here: the class, where it alone says.
    """
    files = [source / name for name in TOKENIZER if (source / name).is_file()] if source else []
    if source:
        copy_companions(files, source, folder)
    if not any((folder / name).exists() for name in VOCABULARIES):
        write_vocabulary(tokenizer, folder)
    config = source / "config.json" if source else None
    if config and config.is_file():
        kind = read_json(config).get("tokenizer_class")
        return {} if kind is None else {"tokenizer_class": kind}
    alone = (folder / "tokenizer.json").exists() and not (folder / "tokenizer_config.json").exists()
    return {"tokenizer_class": "PreTrainedTokenizerFast"} if alone else {}
