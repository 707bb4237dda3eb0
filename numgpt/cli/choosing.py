"""numgpt choose: how likely a text goes on in each of some ways."""

from __future__ import annotations

import argparse
import json
import time

from numgpt.cli.jobs import add_job_options, check_job, job
from numgpt.cli.terminal import Command, add_precision, load_model, note, require, reread_as_utf8

EXAMPLES = """examples:
  numgpt choose "The capital of France is" -- " Paris" " London" " Rome"
  numgpt choose "It was a dull film. I" --json -- " loved it" " hated it"
  numgpt choose --input reviews.jsonl --output labels.jsonl -- " good" " bad"    of each line's prompt: a job"""


def choose(args: argparse.Namespace) -> None:
    """numgpt choose: show each choice with its probability, the likeliest first."""
    from numgpt.checkpoint.disk import plain_text
    from numgpt.measure import choices

    prompt, *given = (plain_text(reread_as_utf8(text)) for text in (args.prompt, *args.choices))
    if args.input is not None:  # of which each line has the prompt
        prompt, given = "", [prompt, *given]
    check_job(args, given=False)
    choices.check_choices(given)
    model = load_model(args)
    require(model.tokenizer, args.model)
    if args.input is not None:
        job(args, model, {"choices": given})
        return
    start = time.perf_counter()
    found = choices.choose(model, prompt, given, allow_special=args.allow_special)
    if args.json:
        each = [{**choice._asdict(), "log_prob_per_byte": choice.log_prob_per_byte} for choice in found]
        print(json.dumps({"model": str(args.model), "prompt": prompt, "choices": each}))
        return
    print("  share    log prob   a byte   choice")
    for choice in sorted(found, key=lambda choice: -choice.probability):
        figures = f"{100 * choice.probability:5.1f} %  {choice.log_prob:9.3f}  {choice.log_prob_per_byte:7.3f}"
        print(f"{figures}   {choice.text!r}")
    note(args, f"{time.perf_counter() - start:.2f} s")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Say what `numgpt choose` takes."""
    parser.add_argument("prompt", help="the text before; with --input one more choice")
    parser.add_argument("choices", nargs="+", metavar="CHOICE", help="behind --, the texts that may follow")
    about_input = 'choose for each of many: lines of JSON, {"prompt": ...}, which may have "choices" of their own'
    parser.add_argument("--input", metavar="FILE", help=about_input)
    add_job_options(parser)
    add_precision(parser)
    parser.add_argument("--allow-special", action="store_true", help="read <|endoftext|> in the texts as the token")


COMMANDS = {
    "choose": Command(EXAMPLES, add_arguments, choose),
}
