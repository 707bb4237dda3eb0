"""numgpt train: train a small model on a text."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from numgpt.cli.progress import LineBar
from numgpt.cli.terminal import Command, bar, note

EXAMPLES = """examples:
  numgpt train story.txt out                             a small model of the text, byte by byte
  numgpt train sums.txt adder --answers-after "="        lines like 3+4=7: what counts is the answer
  numgpt train story.txt out --tokenizer gpt2 --n-layer 6 --n-head 6 --n-embd 384
  numgpt train story.txt tuned --from storyteller --learning-rate 1e-4
  numgpt train train.bin out --tokenizer gpt2            ids, as llm.c's data scripts write them
  numgpt train story.txt out                             the same again: goes on where it was stopped
  numgpt generate "Once" -m out
  OPENBLAS_NUM_THREADS=2 numgpt train story.txt out      pays from a width of some 256 on, if both are idle"""


class StepBar(LineBar):
    """Shows how many steps of training are done, and the losses: set `figures` and `tokens` before each call."""

    figures = ""

    def _amount(self, count: int) -> str:
        return f"{count:,} steps"

    def _speed(self, rate: float, seconds: float) -> str:
        return f"{self.figures}, {rate:.1f} steps/s, {self.tokens / seconds:.0f} tokens/s"


def train(args: argparse.Namespace) -> None:
    """numgpt train: train a model on a text, or go on with a run that was stopped."""
    from numgpt.hub.loading import locate
    from numgpt.training import run as training

    given = {name: getattr(args, name) for name in training.Settings._fields}
    settings = {name: value for name, value in given.items() if value is not None}
    steps = settings.get("steps", training.Settings().steps)
    if args.start and not Path(args.folder).exists():
        with bar(args) as progress:
            locate(args.start, progress)
    shown = None if args.quiet or sys.stderr is None else StepBar()
    done: training.Progress | None = None
    val = ""

    def report(progress: training.Progress) -> None:
        nonlocal done, val
        done = progress
        if args.json:
            print(json.dumps(progress._asdict()), flush=True)
        if progress.val_loss is not None:
            val = f", val loss {progress.val_loss:.4f}"
            if progress.exact_match is not None:
                val += f", {progress.exact_match:.2%} of held-out answers right"
        if shown:
            shown.figures, shown.tokens = f"loss {progress.loss:.4f}{val}", progress.tokens
            if progress.val_loss is not None:
                shown.say(f"numgpt: step {progress.step}: {shown.figures}")
            shown(args.folder, progress.step, steps)

    try:
        training.train(
            args.file, args.folder, val_file=args.val, eval_interval=args.eval_interval, report=report, **settings
        )
    except KeyboardInterrupt:
        note(args, f"stopped{f' after step {done.step}, which is kept' if done else ''}: the same command goes on")
        raise
    finally:
        if shown:
            shown.close()
    if done is None:
        note(args, f"all {steps} steps were done before")
    if not args.json:
        print(args.folder)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Say what `numgpt train` takes."""
    parser.add_argument("file", help="the text, in UTF-8; or its ids, in llm.c's format")
    parser.add_argument(
        "folder",
        help="where the checkpoint goes: a new folder, or that of the same run, which goes on",
    )
    add = parser.add_argument_group("the text").add_argument
    add(
        "--val",
        metavar="FILE",
        help="measure on this text (default: on a tenth of the other, held out)",
    )
    about_answers = "lines, each a question that ends with TEXT, and its answer, which alone counts"
    add("--answers-after", metavar="TEXT", help=about_answers)
    add("--allow-special", action="store_true", help="read <|endoftext|> in the text as the token")
    add = parser.add_argument_group("the model").add_argument
    add(
        "--from",
        dest="start",
        metavar="MODEL",
        help="start from a checkpoint: a name, a folder or a file",
    )
    add(
        "--tokenizer",
        metavar="MODEL",
        help="the vocabulary of a new model: gpt2 or another (default: bytes)",
    )
    add("--n-layer", type=int, metavar="N", help="layers of a new model (default: 4)")
    add("--n-head", type=int, metavar="N", help="heads of a layer (default: 4)")
    add("--n-embd", type=int, metavar="N", help="width (default: 128)")
    about_block = "tokens of an example, and the context of a new model (default: 64, or the longest line)"
    add("--block-size", "--n-ctx", type=int, metavar="N", help=about_block)
    add("--dtype", choices=["float32", "float64"], help="precision (default: float32)")
    add = parser.add_argument_group("the steps").add_argument
    add("--steps", "--max-iters", type=int, metavar="N", help="how many (default: 2000)")
    add("--batch-size", type=int, metavar="N", help="examples of a step (default: 12)")
    add("--learning-rate", type=float, metavar="X", help="at its highest (default: 0.001)")
    add("--min-lr", type=float, metavar="X", help="at the last step (default: a tenth of --learning-rate)")
    add("--warmup-steps", "--warmup-iters", type=int, metavar="N", help="up to the highest (default: 100)")
    add("--weight-decay", type=float, metavar="X", help="of matrices (default: 0.1)")
    add("--beta1", type=float, metavar="X", help="of AdamW: how long it remembers gradients (default: 0.9)")
    add("--beta2", type=float, metavar="X", help="and their squares (default: 0.99)")
    add("--grad-clip", type=float, metavar="X", help="the longest gradient; 0 for no limit (default: 1)")
    add("--seed", type=int, metavar="N", help="of the first weights and the batches (default: 0)")
    about_interval = "evaluate, and replace the checkpoint, every N steps (default: 250)"
    add("--eval-interval", type=int, default=250, metavar="N", help=about_interval)


COMMANDS = {
    "train": Command(EXAMPLES, add_arguments, train, has_model=False),
}
