"""numgpt models, download, inspect and convert: the checkpoints that there are."""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path
from typing import Any

from numgpt.cli.progress import format_bytes
from numgpt.cli.terminal import Command, add_model_settings, bar, given, no_arguments, open_model, say
from numgpt.errors import CheckpointError

MODELS_EXAMPLES = """examples:
  numgpt models
  NUMGPT_WEIGHTS=/data/gpt2 numgpt models --json"""
DOWNLOAD_EXAMPLES = """examples:
  numgpt download gpt2
  numgpt download distilbert/distilgpt2
  numgpt download owner/name@revision
  numgpt download 124M                                   OpenAI's original
  HF_ENDPOINT=https://mirror.example numgpt download gpt2-xl"""
INSPECT_EXAMPLES = """examples:
  numgpt inspect
  numgpt inspect -m path/to/model.safetensors --json"""
CONVERT_EXAMPLES = """examples:
  numgpt convert path/to/ckpt.pt my-gpt2
  numgpt convert 124M gpt2-for-transformers
  numgpt convert storyteller copy
  numgpt convert storyteller storyteller.gguf --dtype Q8_0
  numgpt convert path/to/model.Q4_K_M.gguf folder
  numgpt convert gpt2 gpt2_124M.bin --to llm.c           with gpt2_tokenizer.bin beside it
  numgpt convert path/to/model_00019560.bin folder       what llm.c has trained"""


def inspect(args: argparse.Namespace) -> None:
    """numgpt inspect: show what a checkpoint holds, and whether it is sound."""
    import numpy as np

    from numgpt.checkpoint.files import printable
    from numgpt.checkpoint.names import Misfit, match_params
    from numgpt.checkpoint.quants import stored_bytes
    from numgpt.params import count_params

    checkpoint = open_model(args)
    config, misfit = checkpoint.config, None
    try:
        match_params(checkpoint.hub_tensors, config, source=str(checkpoint.weights))
    except CheckpointError as error:
        misfit = error
    tensors: list[dict[str, Any]] = []
    for name, tensor in checkpoint.tensors.items():
        array = tensor.read()
        bad = array.size - int(np.isfinite(array).sum())
        size = stored_bytes(tensor.dtype, array.size)
        shape = list(tensor.shape)
        tensors.append({"name": name, "dtype": tensor.dtype, "shape": shape, "bytes": size, "non_finite": bad})
    parameters = sum(math.prod(row["shape"]) for row in tensors) if misfit else count_params(config)
    cache = 2 * config.n_layer * config.n_ctx * config.n_embd
    summary: dict[str, Any] = {
        "weights": str(checkpoint.weights),
        "format": checkpoint.kind,
        "config": {key: value for key, value in config._asdict().items() if key != "n_tokens"},
        "parameters": parameters,
        "float32_bytes": 4 * parameters,
        "cache_bytes": 4 * cache,
        "merged": dict(checkpoint.merged),
        "left_out": dict(checkpoint.left_out),
        "tensors": tensors,
        "non_finite": sum(row["non_finite"] for row in tensors),
        "faults": misfit.faults if isinstance(misfit, Misfit) else {},
    }
    if args.json:
        print(json.dumps(summary))
    else:
        print(f"{checkpoint.weights} ({checkpoint.kind})", end="\n\n")
        for key, value in summary["config"].items():
            print(f"  {key:<32} {value}")
        print(f"\n  {'tensor':<40} {'dtype':<6} {'size':>8}  shape")
        for row in tensors:
            flaw = f"   {row['non_finite']} NOT FINITE" if row["non_finite"] else ""
            axes = " x ".join(map(str, row["shape"])) or "scalar"
            print(f"  {row['name']:<40} {row['dtype']:<6} {format_bytes(row['bytes']):>8}  {axes}{flaw}")
        if checkpoint.merged:
            print(f"\n  {checkpoint.kind}, merged:")
            for name, how in checkpoint.merged.items():
                print(f"  {name:<40} {how}")
        if checkpoint.left_out:
            print("\n  left out:")
        for why in dict.fromkeys(checkpoint.left_out.values()):
            names = [printable(name) for name, each in checkpoint.left_out.items() if each == why]
            more = f" and {len(names) - 3} more" if len(names) > 3 else ""
            print(f"  {', '.join(names[:3])}{more}: {why}")
        print(f"\n  {parameters:,} parameters: {format_bytes(4 * parameters)} in memory as float32")
        print(f"  {format_bytes(4 * cache)} more for the keys and values of a full context")
        print(f"  {summary['non_finite']} values that are not finite")
    if args.check:
        check(checkpoint)
    if misfit:
        raise misfit


def check(checkpoint: Any) -> None:
    """Compare the bytes of each tensor with the checksum that its file has of them."""
    if checkpoint.check is None:
        raise CheckpointError(
            f"{checkpoint.weights}: a {checkpoint.kind} file has no checksums, so --check is for others"
        )
    damaged = [name for name, sound in checkpoint.check() if not sound]
    if damaged:
        raise CheckpointError(f"{checkpoint.weights}: damaged: {', '.join(damaged)}: download it again")
    say(f"numgpt: the checksums of all {len(checkpoint.tensors)} tensors are right")


def download(args: argparse.Namespace) -> None:
    """numgpt download: fetch a checkpoint that is known by name or lies on the Hugging Face Hub."""
    from numgpt.hub.download import download as fetch_checkpoint
    from numgpt.hub.folders import weights_folder

    folder = weights_folder() / args.name
    with bar(args) as progress:
        fetch_checkpoint(args.name, folder, progress=progress)
    print(json.dumps({"name": args.name, "path": str(folder)}) if args.json else folder)


def convert(args: argparse.Namespace) -> None:
    """numgpt convert: write any checkpoint as a folder that Transformers loads, or a file for llama.cpp or llm.c."""
    from numgpt.checkpoint.export import convert as convert_checkpoint
    from numgpt.hub.loading import locate, locate_base

    settings = given(args)
    with bar(args) as progress:
        source = locate(args.source, progress)
        base = locate_base(source, args.base, progress)
    target = convert_checkpoint(source, args.target, base, settings, to=args.to, dtype=args.dtype)
    print(json.dumps({"path": str(target)}) if args.json else target)


def list_models(args: argparse.Namespace) -> None:
    """numgpt models: show the checkpoints that are known by name or lie in the folder of checkpoints."""
    from numgpt.hub.folders import find_named, list_names, weights_folder
    from numgpt.hub.registry import KNOWN

    rows: list[dict[str, Any]] = []
    for name in list_names():
        known = KNOWN.get(name)
        path = find_named(name)
        size = folder_bytes(path) if path else known and known.file_bytes
        rows.append({"name": name, "path": path and str(path), "bytes": size, "about": known.about if known else ""})
    if args.json:
        print(json.dumps({"folder": str(weights_folder()), "models": rows}))
        return
    for row in rows:
        where = row["path"] or "not here"
        print(f"  {row['name']:<16} {format_bytes(row['bytes']):>8}  {row['about']:<43}  {where}")
    print(f"\nfolder of checkpoints: {weights_folder()}")
    print("numgpt download NAME fetches one that is not here")


def folder_bytes(path: Path) -> int:
    """Return how many bytes a checkpoint, a folder or a file, weighs."""
    return sum(f.stat().st_size for f in path.iterdir() if f.is_file()) if path.is_dir() else path.stat().st_size


def add_download_arguments(parser: argparse.ArgumentParser) -> None:
    """Say what `numgpt download` takes."""
    parser.add_argument("name", help="a known name, an id of the Hugging Face Hub, or OpenAI's 124M, 355M, 774M, 1558M")


def add_inspect_arguments(parser: argparse.ArgumentParser) -> None:
    """Say what `numgpt inspect` takes."""
    parser.add_argument(
        "--check", action="store_true", help="compare each tensor with its checksum (TensorFlow's files)"
    )


def add_convert_arguments(parser: argparse.ArgumentParser) -> None:
    """Say what `numgpt convert` takes."""
    parser.add_argument("source", help="a name, a folder or a file")
    parser.add_argument("target", help="the folder or file to write; it must not be there yet")
    about_to = "what to write: a folder, or a file (default: gguf for FILE.gguf, else hub)"
    parser.add_argument("--to", choices=("hub", "gguf", "llm.c"), help=about_to)
    about_dtype = "of the numbers in a file: F32, F16, Q8_0 of gguf (default: that of the source), F32, BF16 of llm.c"
    parser.add_argument("--dtype", choices=("F32", "F16", "BF16", "Q8_0"), help=about_dtype)
    parser.add_argument("--layer-at-a-time", action="store_true", help="changes nothing: no more is held at any time")
    add_model_settings(parser)


COMMANDS = {
    "models": Command(MODELS_EXAMPLES, no_arguments, list_models, has_model=False),
    "download": Command(DOWNLOAD_EXAMPLES, add_download_arguments, download, has_model=False),
    "inspect": Command(INSPECT_EXAMPLES, add_inspect_arguments, inspect),
    "convert": Command(CONVERT_EXAMPLES, add_convert_arguments, convert, has_model=False),
}
