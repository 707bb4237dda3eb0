"""numgpt trace: every named intermediate of a run."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numgpt
from numgpt.cli.terminal import (
    Command,
    add_layers,
    add_precision,
    encode,
    given_text,
    load_model,
    note,
    open_model,
    parse_ids,
    shown_piece,
)
from numgpt.errors import OptionError

if TYPE_CHECKING:
    import numpy as np

    from numgpt.model import Model

EXAMPLES = """examples:
  numgpt trace "Once upon a time"                        names, shapes and ranges
  numgpt trace "Once upon a" --names logits              the likeliest next tokens
  numgpt trace "Once upon a" --names logits --ablate h.5.attn.z:0     before, and with a head silenced
  numgpt trace "Once upon a" --names h.5.attn.weights    who looks at whom
  numgpt trace "Once upon a time" --names attn.weights "h.3.mlp.*" logits --at -1
  numgpt trace "Once upon a time" -o trace.safetensors --dtype float64
  numgpt trace --ids 46,1198,2402 -o trace.npz
  numgpt trace "Once upon a time" -m gpt2 --to llm.c -o gpt2_124M_debug_state.bin    with the gradients"""

FIGURES = ("min", "max", "mean", "std")  # of each tensor
SHORT = 16  # tokens of a text whose weights are shown as rows


def trace(args: argparse.Namespace) -> None:
    """numgpt trace: show every named intermediate of a run, or write them to a file."""
    from numgpt.checkpoint.settings import config_to_json
    from numgpt.trace import ablations, collect, summarise
    from numgpt.verify.dump import check_suffix, hash_files, write_trace

    take_text_out_of_names(args)
    if args.ids is not None and args.text is not None:
        args.error("give a text or --ids, not both")
    if args.to is not None:
        if args.output is None:
            args.error("--to llm.c goes with -o FILE")
        if args.names is not None or args.ablate or args.dtype is not None:
            args.error("--to llm.c writes its own tensors: it goes without --names, --ablate and --dtype")
    elif args.output is not None:
        check_suffix(Path(args.output))
    text = given_text(args, args.text) if args.ids is None else None
    if text is None and args.ids is None:
        args.error("give a text or --ids, or pipe a text in")
    model = load_model(args)
    ids = parse_ids(args.ids) if text is None else encode(args, model, text)
    if args.to is not None:
        write_debug_state(args, model, ids)
        return
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
        if args.names is not None:
            show_what_was_asked(args, model, ids, tensors)


def write_debug_state(args: argparse.Namespace, model: Model, ids: list[int]) -> None:
    """Write what llm.c compares itself with: logits, loss and gradients."""
    from numgpt.verify.gradients import write_trace_of_gradients

    loss = write_trace_of_gradients(Path(args.output), ids, model)
    if args.json:
        print(json.dumps({"model": str(args.model), "output": args.output, "ids": ids, "loss": loss}))
    else:
        note(args, f"logits, loss {loss:.4f} and gradients of {len(ids) - 1} positions in {args.output}")


def take_text_out_of_names(args: argparse.Namespace) -> None:
    """Take the last of --names for the text, where it names no tensor and no text is given: both stand in a row."""
    from numgpt.trace import names_a_tensor

    if args.text is None and args.ids is None and args.names and not names_a_tensor(args.names[-1]):
        args.text = args.names.pop()
        if not args.names:
            args.error("--names is followed by a text alone: give names of tensors, such as logits")


def show_what_was_asked(args: argparse.Namespace, model: Model, ids: list[int], tensors: dict[str, np.ndarray]) -> None:
    """Show the tensors that are asked for by name in words: weights with their tokens, logits as probabilities."""
    pieces = [shown_piece(piece) for piece in model.tokenizer.pieces(ids)] if model.tokenizer else [str(i) for i in ids]
    if args.at is not None and not -len(ids) <= args.at < len(ids):
        raise OptionError(f"--at is {args.at}, expected a position, 0 to {len(ids) - 1}, or -1 for the last")
    for name, x in tensors.items():
        if name == "logits":
            show_next(args, model, ids, x)
        elif name.endswith(".attn.weights") and (args.at is not None or len(ids) <= SHORT):
            show_weights(name, x, pieces, range(len(ids)) if args.at is None else [args.at % len(ids)])


def show_next(args: argparse.Namespace, model: Model, ids: list[int], logits: np.ndarray) -> None:
    """Show the likeliest next tokens at a position; with --ablate, beside what they were before."""
    import numpy as np

    from numgpt.ops import softmax
    from numgpt.trace import collect

    at = len(ids) - 1 if args.at is None else args.at % len(ids)
    p = softmax(logits[at].astype(np.float64))
    before = softmax(collect(ids, model, "logits")["logits"][at].astype(np.float64)) if args.ablate else p
    tokenizer = model.tokenizer

    def name(i: int) -> str:
        return str(i) if not tokenizer else shown_piece(tokenizer.pieces([i])[0])

    print(f"\n  after position {at}, {name(ids[at])}:")
    order: list[Any] = np.argsort(-before, kind="stable")[: args.top].tolist()
    order += [i for i in np.argsort(-p, kind="stable")[: args.top].tolist() if i not in order]
    for i in order:
        print(f"  {before[i]:>9.4f}" + (f"  -> {p[i]:.4f}" if args.ablate else "") + f"  {name(i)}")


def show_weights(name: str, weights: np.ndarray, pieces: list[str], positions: list[int] | range) -> None:
    """Show the rows of attention of each head: from the token in front to those that it looks at, in percent."""
    width = max(4, *(len(piece) for piece in pieces))
    for head, rows in enumerate(weights):
        print(f"\n  {name}, head {head}, in percent")
        print(f"  {'':<{width}} " + " ".join(f"{piece:>{width}}" for piece in pieces))
        for t in positions:
            row = " ".join(f"{100 * w:>{width}.0f}" for w in rows[t, : t + 1])
            print(f"  {pieces[t]:<{width}} {row}")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Say what `numgpt trace` takes."""
    parser.add_argument("text", nargs="?", help="the text (default: what is piped in, as with -)")
    add = parser.add_argument
    add("--ids", metavar="IDS", help="ids instead of a text: numbers with commas between")
    add("-o", "--output", metavar="FILE", help="write the tensors to FILE.safetensors or FILE.npz")
    about_to = "write llm.c's debug state instead: logits, loss and gradients, each id foretold from those before it"
    add("--to", choices=["llm.c"], help=about_to)
    add("--names", nargs="+", metavar="NAME", help='which: h.3.attn.z, "h.*.attn.z", or attn.z for all layers')
    add("--at", type=int, metavar="POSITION", help="of logits and attn.weights show this one, -1 for the last")
    add("--top", type=int, default=5, metavar="N", help="of logits show the N likeliest tokens (default: 5)")
    about_ablate = "set a tensor to zero, or one head or feature of it: h.1.attn.z:2; repeatable"
    add("--ablate", action="append", default=[], metavar="NAME[:N]", help=about_ablate)
    add_precision(parser)
    add_layers(parser)
    add("--allow-special", action="store_true", help="read <|endoftext|> in the text as the token")


COMMANDS = {
    "trace": Command(EXAMPLES, add_arguments, trace),
}
