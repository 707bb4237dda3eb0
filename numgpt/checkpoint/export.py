"""Write any checkpoint that numgpt reads as a folder in the Hub's layout, which Transformers loads."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from numgpt.checkpoint.companions import VOCABULARIES, companions, copy_companions
from numgpt.checkpoint.contract import Opened
from numgpt.checkpoint.disk import folder_written_whole
from numgpt.checkpoint.names import hub_name, match_params
from numgpt.checkpoint.reading import find_tokenizer, open_checkpoint
from numgpt.checkpoint.safetensors import write_safetensors
from numgpt.checkpoint.settings import ALIASES, NOTHING, config_to_json
from numgpt.checkpoint.vocabulary import write_vocabulary
from numgpt.config import Config


def convert(
    path: str | os.PathLike[str],
    folder: str | os.PathLike[str],
    base: Path | None = None,
    given: Mapping[str, Any] = NOTHING,
) -> Path:
    """Write a checkpoint as config.json, model.safetensors and tokenizer files, and all that lies beside the weights.

    path    a folder, or a file of weights, beside which only what is known by name is taken along
    folder  where they go: a new folder, or an empty one. It takes its name when all is written
    base, given  as for `open_checkpoint`
    Returns the folder. Each tensor keeps the dtype that it has in the source; masks and a copied head are left out.
    Raises CheckpointError where the source is none, or the folder is taken or can't be written.

    >>> import tempfile
    >>> from numgpt.hub.loading import locate
    >>> with tempfile.TemporaryDirectory() as place:
    ...     sorted(path.name for path in convert(locate("storyteller"), Path(place, "copy")).iterdir())
    ['README.md', 'config.json', 'merges.txt', 'model.safetensors', 'val.txt', 'vocab.json']
    """
    folder = Path(os.path.abspath(folder))
    path = Path(path)
    checkpoint = open_checkpoint(path, base, given)
    files = companions(path)
    given, config = match_params(checkpoint.hub_tensors, checkpoint.config, source=str(checkpoint.weights))
    prefix = {"lm_head": ""}  # the others are those of the body
    tensors = {prefix.get(at, "transformer.") + hub_name(at): tensor for at, tensor in given.items()}
    with folder_written_whole(folder) as part:
        write_safetensors(part / "model.safetensors", tensors)
        _write_json(part / "config.json", _all_settings(checkpoint, config))
        copy_companions(files, path if path.is_dir() else path.parent, part)
        _write_vocabulary(checkpoint, part)
    return folder


def _all_settings(checkpoint: Opened, config: Config) -> dict[str, Any]:
    """Return what config.json is to say: also what the source says beside the sizes, such as dropout.

    The ids that begin and end a text stay as they are in its config.json: generation_config.json, which may say
    something else, is copied too.
    """
    known = {"n_ctx", "torch_dtype", "dtype", *ALIASES}
    others = {key: value for key, value in checkpoint.settings.items() if key not in known}
    ends = {key: value for key, value in others.items() if key in ("bos_token_id", "eos_token_id")}
    return {**others, **config_to_json(config), **ends}


def _write_vocabulary(checkpoint: Opened, folder: Path) -> None:
    """Write the vocabulary as the Hub has it, where the source has it otherwise, or is GPT-2's own."""
    if any((folder / name).exists() for name in VOCABULARIES):
        return
    tokenizer = find_tokenizer(checkpoint)
    if tokenizer:
        write_vocabulary(tokenizer, folder)
        if (folder / "vocab.json").exists() and not (folder / "tokenizer_config.json").exists():
            settings = {"tokenizer_class": "GPT2Tokenizer", "model_max_length": checkpoint.config.n_ctx}
            _write_json(folder / "tokenizer_config.json", settings)


def _write_json(path: Path, values: dict[str, Any]) -> None:
    path.write_text(json.dumps(values, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
