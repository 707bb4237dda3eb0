"""Write any checkpoint that numgpt reads as a folder in the Hub's layout, which Transformers loads."""

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from numgpt.checkpoint.contract import Opened
from numgpt.checkpoint.disk import folder_written_whole
from numgpt.checkpoint.names import hub_name, match_params
from numgpt.checkpoint.reading import find_tokenizer, open_checkpoint
from numgpt.checkpoint.safetensors import write_safetensors
from numgpt.checkpoint.settings import ALIASES, NOTHING, config_to_json
from numgpt.checkpoint.vocabulary import write_vocabulary

COPIED = (  # as they are, where the source has them
    "generation_config.json",
    "vocab.json",
    "merges.txt",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
)


def convert(
    path: str | os.PathLike[str],
    folder: str | os.PathLike[str],
    base: Path | None = None,
    given: Mapping[str, Any] = NOTHING,
) -> Path:
    """Write a checkpoint as config.json, model.safetensors and tokenizer files.

    path    a folder, or a file of weights
    folder  where they go: a new folder, or an empty one. It takes its name when all is written
    base, given  as for `open_checkpoint`
    Returns the folder. Each tensor keeps the dtype that it has in the source; masks and a copied head are left out.
    Raises CheckpointError where the source is none, or the folder is taken or can't be written.

    >>> import tempfile
    >>> from numgpt.hub.loading import locate
    >>> with tempfile.TemporaryDirectory() as place:
    ...     sorted(path.name for path in convert(locate("storyteller"), Path(place, "copy")).iterdir())
    ['config.json', 'merges.txt', 'model.safetensors', 'vocab.json']
    """
    folder = Path(os.path.abspath(folder))
    checkpoint = open_checkpoint(Path(path), base, given)
    given, config = match_params(checkpoint.hub_tensors, checkpoint.config, source=str(checkpoint.weights))
    prefix = {"lm_head": ""}  # the others are those of the body
    tensors = {prefix.get(path, "transformer.") + hub_name(path): tensor for path, tensor in given.items()}
    with folder_written_whole(folder) as part:
        write_safetensors(part / "model.safetensors", tensors)
        _write_json(part / "config.json", {**_other_settings(checkpoint), **config_to_json(config)})
        _write_tokenizer(checkpoint, part)
    return folder


def _other_settings(checkpoint: Opened) -> dict[str, Any]:
    """Return what the source says beside the sizes, such as dropout, which training reads."""
    if not checkpoint.settings:
        return {"bos_token_id": checkpoint.config.eos_token_id}
    known = {"n_ctx", "torch_dtype", "dtype", *ALIASES}
    return {key: value for key, value in checkpoint.settings.items() if key not in known}


def _write_tokenizer(checkpoint: Opened, folder: Path) -> None:
    """Copy the Hub's tokenizer files, or write them where the source has others, or GPT-2's own."""
    for name in COPIED:
        if checkpoint.folder and (checkpoint.folder / name).is_file():
            shutil.copyfile(checkpoint.folder / name, folder / name)
    if not any((folder / name).exists() for name in ("vocab.json", "tokenizer.json")):
        tokenizer = find_tokenizer(checkpoint)
        if tokenizer is not None:
            write_vocabulary(tokenizer, folder)
            settings = {"tokenizer_class": "GPT2Tokenizer", "model_max_length": checkpoint.config.n_ctx}
            _write_json(folder / "tokenizer_config.json", settings)


def _write_json(path: Path, values: dict[str, Any]) -> None:
    path.write_text(json.dumps(values, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
