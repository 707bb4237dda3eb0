"""numgpt tokenize: the ids of a text."""

from __future__ import annotations

import argparse
import json

from numgpt.cli.terminal import Command, load_tokenizer_alone, needed_text, parse_ids, shown_piece

EXAMPLES = """examples:
  numgpt tokenize "Hello, world"
  numgpt tokenize -m gpt2 "Hello, world"                 GPT-2's vocabulary comes with numgpt
  numgpt tokenize --allow-special "<|endoftext|>"
  numgpt tokenize --decode 46,1198,2402
  cat text.txt | numgpt tokenize --json"""


def tokenize(args: argparse.Namespace) -> None:
    """numgpt tokenize: show the ids of a text, each with its piece, or the text of some ids."""
    tokenizer = load_tokenizer_alone(args)
    if args.decode is not None:
        if args.text is not None:
            args.error("give a text or --decode, not both")
        ids = parse_ids(args.decode, "--decode")
        text = tokenizer.decode(ids)
        print(json.dumps({"ids": ids, "text": text}) if args.json else text)
        return
    ids = tokenizer.encode(needed_text(args, args.text), allow_special=args.allow_special)
    pieces = tokenizer.pieces(ids)
    if args.json:
        print(json.dumps({"ids": ids, "pieces": [piece.decode("utf-8", "backslashreplace") for piece in pieces]}))
        return
    for i, piece in zip(ids, pieces, strict=True):
        print(f"{i:>7}  {shown_piece(piece)}")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Say what `numgpt tokenize` takes."""
    parser.add_argument("text", nargs="?", help="the text (default: what is piped in, as with -)")
    parser.add_argument("--decode", metavar="IDS", help="the text of these ids instead: numbers with commas between")
    parser.add_argument("--allow-special", action="store_true", help="read <|endoftext|> in the text as the token")


COMMANDS = {
    "tokenize": Command(EXAMPLES, add_arguments, tokenize),
}
