"""numgpt explain: a page that shows all that a model computes of a text."""

from __future__ import annotations

import argparse
import json
import sys

from numgpt.cli.terminal import Command, add_precision, encode, given_text, load_model, note, parse_ids

EXAMPLES = """examples:
  numgpt explain "Once upon a time there was a king"     writes explain.html: open it in a browser
  numgpt explain "The capital of France is" -m gpt2 -o france.html
  numgpt explain - < story.txt                           of a file; at most as many tokens as the model can see
  numgpt explain --ids 46,1198,2402 -o ids.html          ids, for a model that has no tokenizer"""


def explain(args: argparse.Namespace) -> None:
    """numgpt explain: write the page, or with -o - print it."""
    from numgpt.pages.explanation import explain

    if args.ids is not None and args.text is not None:
        args.error("give a text or --ids, not both")
    text = given_text(args, args.text) if args.ids is None else None
    if text is None and args.ids is None:
        args.error("give a text or --ids, or pipe a text in")
    if args.output == "-" and args.json:
        args.error("--json tells about the file: it goes with -o FILE")
    model = load_model(args)
    ids = parse_ids(args.ids) if text is None else encode(args, model, text)
    page = explain(model, ids, name=str(args.model))
    if args.output == "-":
        sys.stdout.buffer.write(page.html.encode())
        return
    page.save(args.output)
    size = len(page.html.encode())
    if args.json:
        print(json.dumps({"model": str(args.model), "output": args.output, "ids": ids, "bytes": size}))
    else:
        print(args.output)
        note(
            args,
            f"{len(ids)} token{'s' * (len(ids) > 1)}, {size / 1e6:.1f} MB: open it in a browser; it needs no network",
        )


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Say what `numgpt explain` takes."""
    parser.add_argument("text", nargs="?", help="the text (default: what is piped in, as with -)")
    add = parser.add_argument
    add("--ids", metavar="IDS", help="ids instead of a text: numbers with commas between")
    about_output = "the page that is written; - for standard output (default: explain.html)"
    add("-o", "--output", metavar="FILE", default="explain.html", help=about_output)
    add_precision(parser)
    add("--allow-special", action="store_true", help="read <|endoftext|> in the text as the token")


COMMANDS = {
    "explain": Command(EXAMPLES, add_arguments, explain),
}
