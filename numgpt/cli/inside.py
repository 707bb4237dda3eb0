"""numgpt trace: every named intermediate of a run."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numgpt
from numgpt.cli.terminal import Command, encode, load_model, note, open_model, parse_ids, text_of_argument

EXAMPLES = """examples:
  numgpt trace "Once upon a time"                        names, shapes and ranges
  numgpt trace "Once upon a time" -o trace.safetensors --dtype float64
  numgpt trace --ids 46,1198,2402 -o trace.npz
  numgpt trace "Once upon a time" --names attn.weights "h.3.mlp.*" logits
  numgpt trace "Once upon a time" --names logits --ablate h.1.attn.z:2 --ablate h.4.mlp_out"""

FIGURES = ("min", "max", "mean", "std")  # of each tensor of `numgpt trace`


def trace(args: argparse.Namespace) -> None:
    """numgpt trace: show every named intermediate of a run, or write them to a file."""
    from numgpt.checkpoint.settings import config_to_json
    from numgpt.trace import ablations, collect, summarise
    from numgpt.verify.dump import check_suffix, hash_files, write_trace

    if (args.text is None) == (args.ids is None):
        args.error("give a text or --ids, one of them")
    if args.output is not None:
        check_suffix(Path(args.output))
    model = load_model(args)
    text = None if args.text is None else text_of_argument(args.text)
    ids = parse_ids(args.ids) if text is None else encode(args, model, text)
    tensors = collect(ids, model, names=args.names, replace=ablations(args.ablate, model.config))
    rows = summarise(tensors)
    if args.output is not None:
        checkpoint = open_model(args)
        metadata = {
            "numgpt": numgpt.__version__,
            "ids": json.dumps(ids),
            "text": text,
            "config": json.dumps(config_to_json(model.config)),
            "sha256": json.dumps(hash_files(checkpoint.weights)),
            "dtype": rows[0]["dtype"],
            "ablations": json.dumps(args.ablate),
        }
        write_trace(args.output, tensors, {key: value for key, value in metadata.items() if value is not None})
    if args.json:
        print(json.dumps({"model": str(args.model), "output": args.output, "ids": ids, "tensors": rows}))
    elif args.output is not None:
        note(args, f"{len(tensors)} tensors of {len(ids)} positions in {args.output}")
    else:
        print(f"  {'tensor':<18} {'shape':<16} {'min':>10} {'max':>10} {'mean':>10} {'std':>10}")
        for row in rows:
            figures = " ".join(f"{'-' if row[x] is None else format(row[x], '.4g'):>10}" for x in FIGURES)
            flaw = f"   {row['non_finite']} masked or not finite" if row["non_finite"] else ""
            print(f"  {row['name']:<18} {' x '.join(map(str, row['shape'])):<16} {figures}{flaw}")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Say what `numgpt trace` takes."""
    parser.add_argument("text", nargs="?", help="the text; - reads standard input")
    add = parser.add_argument
    add("--ids", metavar="IDS", help="ids instead of a text: numbers with commas between")
    add("-o", "--output", metavar="FILE", help="write the tensors to FILE.safetensors or FILE.npz")
    add("--names", nargs="+", metavar="NAME", help='which: h.3.attn.z, "h.*.attn.z", or attn.z for all layers')
    about_ablate = "set a tensor to zero, or one head or feature of it: h.1.attn.z:2; repeatable"
    add("--ablate", action="append", default=[], metavar="NAME[:N]", help=about_ablate)
    add("--dtype", choices=["float32", "float64"], help="precision (default: that of the checkpoint)")
    add("--allow-special", action="store_true", help="read <|endoftext|> in the text as the token")


COMMANDS = {
    "trace": Command(EXAMPLES, add_arguments, trace),
}
