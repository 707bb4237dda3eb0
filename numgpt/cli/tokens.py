"""numgpt tokenize: the ids of a text."""

from __future__ import annotations

import argparse
import json

from numgpt.cli.terminal import Command, given, require, text_of_argument

EXAMPLES = """examples:
  numgpt tokenize "Hello, world"
  numgpt tokenize -m gpt2 "Hello, world"                 GPT-2's vocabulary comes with numgpt
  numgpt tokenize --allow-special "<|endoftext|>"
  cat text.txt | numgpt tokenize - --json"""


def tokenize(args: argparse.Namespace) -> None:
    """numgpt tokenize: show the ids of a text, each with its piece."""
    from numgpt.hub.loading import load_tokenizer

    tokenizer = require(load_tokenizer(args.model, args.base, **given(args)), args.model)
    ids = tokenizer.encode(text_of_argument(args.text), allow_special=args.allow_special)
    pieces = tokenizer.pieces(ids)
    if args.json:
        print(json.dumps({"ids": ids, "pieces": [piece.decode("utf-8", "backslashreplace") for piece in pieces]}))
        return
    for i, piece in zip(ids, pieces, strict=True):
        try:
            print(f"{i:>7}  {piece.decode('utf-8')!r}")
        except UnicodeDecodeError:  # a part of a character
            print(f"{i:>7}  {piece!r}")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Say what `numgpt tokenize` takes."""
    parser.add_argument("text", help="the text; - reads standard input")
    parser.add_argument("--allow-special", action="store_true", help="read <|endoftext|> in the text as the token")


COMMANDS = {
    "tokenize": Command(EXAMPLES, add_arguments, tokenize),
}
