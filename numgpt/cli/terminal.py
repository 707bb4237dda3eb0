"""What the commands share: how they speak, read, load a model, and end.

All notes go to standard error, so that standard output has nothing but what was asked for.
"""

from __future__ import annotations

import argparse
import math
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from numgpt.checkpoint.disk import decode_text, read_text
from numgpt.errors import CheckpointError, OptionError, TokenError

if TYPE_CHECKING:  # they bring NumPy, for which --help does not wait
    from numgpt.checkpoint.contract import Opened
    from numgpt.model import Model
    from numgpt.tokenizer import Tokenizer


TEMPERATURE, TOP_K = 0.8, 40  # of the command line, where nothing else is asked for
ABOUT_SEED = "the same seed makes the same text (default: another each time)"


class Command(NamedTuple):
    """A command, as its module has it. Its name, and a line about it, stand in main.py."""

    examples: str
    add_arguments: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace], None]
    has_model: bool = True  # whether -m says which


def no_arguments(parser: argparse.ArgumentParser) -> None:
    """Take no arguments but those of all commands."""


@contextmanager
def exit_at_ctrl_c() -> Iterator[None]:
    """Let Ctrl-C end the process while NumPy is imported, which swallows exceptions or makes ImportErrors of them."""
    interrupt = signal.getsignal(signal.SIGINT)
    if interrupt is signal.default_int_handler:  # or else Ctrl-C is ignored, as behind `nohup` or `&`
        signal.signal(signal.SIGINT, lambda *_: os._exit(130))
    yield
    signal.signal(signal.SIGINT, interrupt)


def text_of_argument(argument: str) -> str:
    """Return the text that an argument stands for: itself, or for "-" what standard input holds."""
    if argument != "-":
        return reread_as_utf8(argument)
    if sys.stdin is None:
        raise TokenError("standard input is closed: give the text itself, or a file by < FILE")
    return decode_text(sys.stdin.buffer.read(), "standard input")


def read_file(path: str) -> str:
    """Return the text of a file, or for "-" of standard input; the ends of its lines are those of Unix."""
    text = text_of_argument(path) if path == "-" else read_text(Path(path))
    return text.removeprefix("\ufeff").replace("\r\n", "\n")


def chosen_seed(args: argparse.Namespace) -> int:
    """Return the seed that was asked for, or draw one and tell which it is."""
    from numgpt.decoding.rules import random_seed

    if args.seed is not None:
        return int(args.seed)
    seed = random_seed()
    note(args, f"seed {seed}")
    return seed


def reread_as_utf8(argument: str) -> str:
    """Return an argument whose bytes the locale could not decode as the UTF-8 that it nearly always is."""
    try:
        argument.encode("utf-8")
        return argument
    except UnicodeEncodeError:  # it holds the surrogates that stand for undecodable bytes
        return os.fsencode(argument).decode("utf-8", "backslashreplace")


def note(args: argparse.Namespace, message: str) -> None:
    """Say something about the work on standard error, unless -q asks for silence."""
    if not args.quiet:
        say(f"numgpt: {message}")


def say(message: str) -> None:
    """Print a line on standard error, if there is one: what can't be said must not spoil the text."""
    if sys.stderr:
        with suppress(OSError):
            print(message, file=sys.stderr, flush=True)


def discard_output() -> None:
    """Send what is left of standard output nowhere, or Python would fail once more when it flushes at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def fail(error: object) -> int:
    """Say in one line what went wrong, and return the exit code for it."""
    say(f"numgpt: error: {error}".replace("\n", " "))
    return 1


def require(tokenizer: Tokenizer | None, model: str) -> Tokenizer:
    """Return the tokenizer, for a command that can't do without."""
    if tokenizer is None:
        raise CheckpointError(
            f"{model} has no tokenizer of GPT-2's kind (vocab.json and merges.txt, or tokenizer.json), "
            f"which text needs: put its files beside the weights, or work with ids from Python"
        )
    return tokenizer


def load_model(args: argparse.Namespace) -> Model:
    """Load the model that -m names; if it has to be fetched first, show how that gets on."""
    from numgpt.hub.loading import load

    with bar(args) as progress:
        return load(args.model, getattr(args, "dtype", None), progress, args.base, **given(args))


@contextmanager
def bar(args: argparse.Namespace) -> Iterator[Any]:
    """Give a progress bar on standard error to a download, or None with -q."""
    from numgpt.cli.progress import Bar

    progress = None if args.quiet or sys.stderr is None else Bar()
    try:
        yield progress
    finally:
        if progress:
            progress.close()


def open_model(args: argparse.Namespace) -> Opened:
    """Open the checkpoint that -m names, without reading its tensors; if it has to be fetched first, show how."""
    from numgpt.hub.loading import open_named

    with bar(args) as progress:
        return open_named(args.model, args.base, given(args), progress)


def given(args: argparse.Namespace) -> dict[str, Any]:
    """Return what --set says of the model."""
    from numgpt.checkpoint.settings import parse_given

    return parse_given(args.set)


def add_model_settings(parser: argparse.ArgumentParser) -> None:
    """Say what goes with a model, of whatever command."""
    about_set = "what the files of the model don't say, such as n_head=12; may be repeated"
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help=about_set)
    parser.add_argument("--base", metavar="MODEL", help="of an adapter: its base (default: the one that it names)")


def parse_ids(text: str) -> list[int]:
    """Return the ids of "1,2,3"."""
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise OptionError(f"--ids is {text!r:.80}, expected numbers with commas between, as in 46,1198,2402") from None


def encode(args: argparse.Namespace, model: Model, text: str) -> list[int]:
    """Return the ids of a text, for a command that has --allow-special."""
    return require(model.tokenizer, args.model).encode(text, allow_special=args.allow_special)


def finite(x: Any) -> Any:
    """Return a value of JSON, which has no infinities: None stands for them."""
    return None if isinstance(x, float) and not math.isfinite(x) else x
