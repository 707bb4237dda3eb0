"""numgpt chat: talk with a model."""

from __future__ import annotations

import argparse
import io
import json
import sys
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

from numgpt.cli.terminal import (
    ABOUT_SEED,
    TEMPERATURE,
    TOP_K,
    Command,
    add_cache,
    add_weights,
    chosen_seed,
    fail,
    load_model,
    note,
    require,
)
from numgpt.errors import NumgptError, OptionError, TokenError

EXAMPLES = """examples:
  numgpt chat -m dialogpt-medium
  numgpt chat --seed 1 --temperature 0.6
  numgpt chat --json < turns.txt                         a line of JSON for each line of text

/reset forgets the conversation, /quit or Ctrl-D ends it, Ctrl-C stops a reply: what there is of it counts.
DialoGPT was trained on dialogues, and does it best; its turns are joined by end-of-text. Any other model goes on with a
transcript of User and Friend. None of them knows facts for sure, follows instructions or remembers what has left its
context. When that is full, the oldest turns are dropped until half of it is free."""


def chat(args: argparse.Namespace) -> None:
    """numgpt chat: answer line after line, until the end of standard input or /quit."""
    from numgpt.apps.chat import Chat, dialogue, knows_dialogue, transcript
    from numgpt.hub.loading import locate

    model = load_model(args)
    require(model.tokenizer, args.model)
    path = locate(args.model)
    is_dialogue = knows_dialogue(args.model, path if path.is_dir() else path.parent)
    kind = args.format or ("dialogue" if is_dialogue else "transcript")
    seed = chosen_seed(args)
    options = {"temperature": args.temperature, "top_k": args.top_k, "top_p": args.top_p, "seed": seed}
    options["cache_dtype"] = args.cache
    form = {"dialogue": dialogue, "transcript": transcript}[kind](model)
    conversation = Chat(model, form, options, args.max_new_tokens)
    on_terminal = sys.stdin is not None and sys.stdin.isatty()
    if on_terminal:
        note(args, f"a {kind}; /reset forgets it, /quit or Ctrl-D ends it, Ctrl-C stops a reply")
    for line in read_lines("" if args.json else "> "):
        try:
            if line == "/quit":
                return
            if line == "/reset":
                conversation.reset()
                note(args, "the conversation is forgotten")
            elif line.startswith("/"):
                raise OptionError(f"{line!r:.40} is none of the commands, /reset and /quit")
            elif line:
                answer(args, conversation, line, on_terminal)
        except NumgptError as error:  # which is no reason to end the chat
            fail(error)
            if args.json:
                print(json.dumps({"message": line, "error": str(error)}), flush=True)


def answer(args: argparse.Namespace, conversation: Any, message: str, on_terminal: bool) -> None:
    """Show the reply to a message, piece by piece. On a terminal Ctrl-C ends the reply, and not the chat."""
    try:
        message.encode()
    except UnicodeEncodeError:
        raise TokenError("that line is not UTF-8: convert it") from None
    before = len(conversation.turns)
    pieces = conversation.reply(message)
    dropped = before - len(conversation.turns)
    if dropped:
        turns = "turn is" if dropped == 1 else f"{dropped} turns are"
        note(args, f"the context is full: the oldest {turns} forgotten")
    reply = ""
    try:
        for piece in pieces:
            reply += piece
            if not args.json:
                print(piece, end="", flush=True)
    except KeyboardInterrupt:
        pieces.close()
        if not on_terminal:
            raise
    if not args.json:
        print(flush=True)
        return
    turn, ids = conversation.turns[-1], conversation.ids()
    prompt = conversation.model.tokenizer.decode(ids[: len(ids) - len(turn.reply) - len(conversation.format.end)])
    row = {"message": message, "reply": reply, "ids": turn.reply, "finish_reason": turn.finish_reason}
    print(json.dumps({**row, "dropped": dropped, "tokens": len(ids), "prompt": prompt}), flush=True)


def read_lines(prompt: str) -> Iterator[str]:
    """Yield the lines of standard input, without white space around them; on a terminal they can be edited."""
    if sys.stdin is None:
        raise TokenError("standard input is closed: the chat reads what to answer from it")
    on_terminal = sys.stdin.isatty()
    if isinstance(sys.stdin, io.TextIOWrapper):
        sys.stdin.reconfigure(encoding=None if on_terminal else "utf-8", errors="surrogateescape")
    if not on_terminal:
        yield from (line.removeprefix("\ufeff").strip() for line in sys.stdin)
        return
    with suppress(ImportError):  # Windows has none, and its console edits lines by itself
        import readline  # noqa: F401  (input uses it: arrows and history)
    while True:
        try:
            yield input(prompt).strip()
        except EOFError:
            print(flush=True)
            return


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Say what `numgpt chat` takes."""
    add = parser.add_argument
    add("--format", choices=["dialogue", "transcript"], help="how turns are joined (default: as the model knows them)")
    add("-n", "--max-new-tokens", type=int, default=100, metavar="N", help="the most tokens of a reply (default: 100)")
    add("--temperature", type=float, default=TEMPERATURE, metavar="T", help=f"0 is greedy (default: {TEMPERATURE})")
    add(
        "--top-k",
        type=int,
        default=TOP_K,
        metavar="K",
        help=f"keep the K likeliest tokens; 0 for all (default: {TOP_K})",
    )
    add("--top-p", type=float, metavar="P", help="keep the fewest tokens that reach this probability together")
    add("--seed", type=int, metavar="N", help=ABOUT_SEED)
    add_weights(parser)
    add_cache(parser)


COMMANDS = {
    "chat": Command(EXAMPLES, add_arguments, chat),
}
