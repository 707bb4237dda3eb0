"""Write any checkpoint that numgpt reads: a folder in the Hub's layout, which Transformers loads; a GGUF file; llm.c's.

To add what can be written, write its function and its line in WRITERS.
"""

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from numgpt.checkpoint.companions import VOCABULARIES, companions, copy_companions
from numgpt.checkpoint.contract import Opened
from numgpt.checkpoint.disk import folder_written_whole
from numgpt.checkpoint.files import wrong
from numgpt.checkpoint.gguf_export import write_gguf
from numgpt.checkpoint.llmc import Decoder
from numgpt.checkpoint.llmc_export import write_llmc
from numgpt.checkpoint.names import hub_name, match_params
from numgpt.checkpoint.reading import find_tokenizer, open_checkpoint
from numgpt.checkpoint.safetensors import write_safetensors
from numgpt.checkpoint.settings import ALIASES, NOTHING, config_to_json
from numgpt.checkpoint.tensors import LazyTensor
from numgpt.checkpoint.vocabulary import write_vocabulary
from numgpt.checks import check_option
from numgpt.config import Config


class Source(NamedTuple):
    """What is to be written."""

    path: Path
    checkpoint: Opened
    tensors: dict[str, LazyTensor]  # by their paths in the parameter tree
    config: Config


def convert(
    path: str | os.PathLike[str],
    target: str | os.PathLike[str],
    base: Path | None = None,
    given: Mapping[str, Any] = NOTHING,
    to: str | None = None,
    dtype: str | None = None,
) -> Path:
    """Write a checkpoint in another format.

    path    a folder, or a file of weights, beside which only what is known by name is taken along
    target  where it goes: a name that is not taken, which what is written gets when it is whole
    base, given  as for `open_checkpoint`
    to      "hub": a folder with config.json, model.safetensors, tokenizer files and all that lies beside the weights;
            it may be there if it is empty
            "gguf": a GGUF file with the tokenizer in it
            "llm.c": a model file of llm.c, and gpt2_tokenizer.bin beside it
            None: "gguf" for a target that ends so, else "hub"
    dtype   of the matrices in a GGUF file, as for `write_gguf`: "F32", "F16" or "Q8_0"; of all tensors in a file of
            llm.c: "F32", the default there, or "BF16"
    Returns the target. Without dtype, each tensor keeps the one that it has in the source, but for llm.c, and what lies
    in blocks of few bits becomes float32; masks and a copied head are left out.
    Raises CheckpointError where the source is none, the format can't have such a model, or the target is taken or can't
    be written; OptionError for another format or dtype.

    >>> import tempfile
    >>> from numgpt.hub.loading import locate
    >>> with tempfile.TemporaryDirectory() as place:
    ...     sorted(path.name for path in convert(locate("storyteller"), Path(place, "copy")).iterdir())
    ['README.md', 'config.json', 'merges.txt', 'model.safetensors', 'val.txt', 'vocab.json']
    """
    target = Path(os.path.abspath(target))
    to = to or ("gguf" if target.suffix == ".gguf" else "hub")
    check_option("to", to, to in WRITERS, f"one of {', '.join(WRITERS)}")
    fits = dtype is None or to != "hub"
    check_option("dtype", dtype, fits, "none but for a GGUF file: name the target FILE.gguf; or for llm.c (--to llm.c)")
    if to != "hub" and target.exists():
        raise wrong(target, "is there already, expected a new file", "choose another name")
    checkpoint = open_checkpoint(Path(path), base, given)
    tensors, config = match_params(checkpoint.hub_tensors, checkpoint.config, source=str(checkpoint.weights))
    WRITERS[to](Source(Path(path), checkpoint, tensors, config), target, dtype)
    return target


def _write_hub(source: Source, folder: Path, dtype: str | None) -> None:
    files = [file for file in companions(source.path) if file != source.checkpoint.weights]
    prefix = {"lm_head": ""}  # the others are those of the body
    tensors = {prefix.get(at, "transformer.") + hub_name(at): tensor for at, tensor in source.tensors.items()}
    with folder_written_whole(folder) as part:
        write_safetensors(part / "model.safetensors", tensors)
        _write_json(part / "config.json", _all_settings(source))
        copy_companions(files, source.path if source.path.is_dir() else source.path.parent, part)
        _write_vocabulary(source.checkpoint, part)


def _write_gguf(source: Source, path: Path, dtype: str | None) -> None:
    write_gguf(source.checkpoint, source.tensors, source.config, path, dtype)


def _write_llmc(source: Source, path: Path, dtype: str | None) -> None:
    write_llmc(source.checkpoint, source.tensors, source.config, path, dtype)


WRITERS: dict[str, Callable[[Source, Path, str | None], None]] = {
    "hub": _write_hub,
    "gguf": _write_gguf,
    "llm.c": _write_llmc,
}


def _all_settings(source: Source) -> dict[str, Any]:
    """Return what config.json is to say: also what the source says beside the sizes, such as dropout.

    The ids that begin and end a text stay as they are in its config.json: generation_config.json, which may say
    something else, is copied too.
    """
    known = {"n_ctx", "torch_dtype", "dtype", *ALIASES}
    others = {key: value for key, value in source.checkpoint.settings.items() if key not in known}
    ends = {key: value for key, value in others.items() if key in ("bos_token_id", "eos_token_id")}
    return {**others, **config_to_json(source.config), **ends, "dtype": _dtype_of(source.tensors)}


NAMES = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}  # of PyTorch


def _dtype_of(tensors: Mapping[str, LazyTensor]) -> str:
    """Return the dtype that holds all tensors exactly: Transformers casts them all to the one in config.json."""
    kinds = {tensor.dtype for tensor in tensors.values()}
    return NAMES[kinds.pop() if len(kinds) == 1 else "F64" if "F64" in kinds else "F32"]


def _write_vocabulary(checkpoint: Opened, folder: Path) -> None:
    """Write the vocabulary as the Hub has it, where the source has it otherwise, or is GPT-2's own."""
    if any((folder / name).exists() for name in VOCABULARIES):
        return
    settings = folder / "tokenizer_config.json"
    copied = settings.exists()
    tokenizer = find_tokenizer(checkpoint)
    if tokenizer and not isinstance(tokenizer, Decoder):  # which has no merges to write
        write_vocabulary(tokenizer, folder)
        if (folder / "vocab.json").exists() and not copied:
            values = json.loads(settings.read_text(encoding="utf-8")) if settings.exists() else {}
            values |= {"tokenizer_class": "GPT2Tokenizer", "model_max_length": checkpoint.config.n_ctx}
            _write_json(settings, values)


def _write_json(path: Path, values: dict[str, Any]) -> None:
    path.write_text(json.dumps(values, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
