"""What the commands share: how they speak, read, load a model, and end.

All notes go to standard error, so that standard output has nothing but what was asked for.
"""

from __future__ import annotations

import argparse
import os
import signal
import stat
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from numgpt.checkpoint.disk import decode_text, plain_text, read_text
from numgpt.errors import CheckpointError, OptionError, TokenError

if TYPE_CHECKING:  # they bring NumPy, for which --help does not wait
    from numgpt.checkpoint.contract import Opened
    from numgpt.model import Model
    from numgpt.tokenizer import Tokenizer


PATHS = (  # the options that name a file, a folder or a model
    *("model", "tokenizer", "base", "input", "output", "file", "folder", "target", "source"),
    *("val", "start", "pairs", "lambada", "dump", "include_path", "contrast", "expert", "anti_expert"),
)
TEMPERATURE, TOP_K = 0.8, 40  # of the command line, where nothing else is asked for
ABOUT_SEED = "the same seed makes the same text (default: another each time)"


class Command(NamedTuple):
    """A command, as its module has it. Its name, and a line about it, stand in main.py."""

    examples: str
    add_arguments: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace], None]
    has_model: bool = True  # whether -m says which
    has_text: bool = True  # whether it needs the model's tokenizer, so that --tokenizer may name another


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


def given_text(args: argparse.Namespace, argument: str | None) -> str | None:
    """Return the text that a command is given: an argument, or what is piped in where there is none, or for "-".

    Returns None where there is neither. A text that is the name of a file here gets a hint.
    """
    if argument == "-" or (argument is None and is_piped()):
        return piped_text()
    if argument is None:
        return None
    text = plain_text(reread_as_utf8(argument))
    with suppress(OSError, ValueError):  # too long for a name, or a NUL in it
        if Path(text).is_file():
            note(args, f"the text is {text!r}, which is a file here too: to read the file, add - and < {text}")
    return text


def needed_text(args: argparse.Namespace, argument: str | None) -> str:
    """Return the text that a command is given. Exit with a word on the usage where there is none."""
    text = given_text(args, argument)
    if text is None:
        args.error("give a text, or pipe one in")
    assert text is not None  # args.error exits
    return text


def is_piped() -> bool:
    """Whether standard input is a pipe or a file, which somebody meant to be read."""
    try:
        mode = os.fstat(sys.stdin.fileno()).st_mode
    except (AttributeError, OSError, ValueError):  # closed, or no file of the system
        return False
    return stat.S_ISFIFO(mode) or stat.S_ISREG(mode) or stat.S_ISSOCK(mode)


def piped_text() -> str:
    """Return what standard input holds."""
    if sys.stdin is None:
        raise TokenError("standard input is closed: give the text itself, or a file by < FILE")
    return decode_text(sys.stdin.buffer.read(), "standard input")


def read_file(path: str) -> str:
    """Return the text of a file, or for "-" of standard input."""
    return piped_text() if path == "-" else read_text(Path(path))


def expand_home(args: argparse.Namespace) -> None:
    """Put the home folder for ~ in all options that name a path: shells leave it in "~/x" and in --output=~/x."""
    for name in PATHS:
        value = getattr(args, name, None)
        if isinstance(value, str) and value.startswith("~"):
            setattr(args, name, os.path.expanduser(value))


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
    with suppress(AttributeError, OSError):  # it is closed, or no file of the system
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
            f"which text needs: name one (--tokenizer gpt2), put its files beside the weights, or work with ids"
        )
    return tokenizer


def load_model(args: argparse.Namespace) -> Model:
    """Load the model that -m names; if it has to be fetched first, show how that gets on."""
    from numgpt.checkpoint.reading import fit_tokenizer
    from numgpt.fast import steer_blas
    from numgpt.hub.loading import load, load_tokenizer
    from numgpt.model import Model

    steer_blas()  # the process is ours
    tell_of_download(args, args.model)
    with bar(args) as progress:
        lazily = getattr(args, "layer_at_a_time", False)
        model = load(args.model, progress=progress, layer_at_a_time=lazily, **how_to_load(args))
    if getattr(args, "tokenizer", None) is None:
        return model
    tokenizer = load_tokenizer(args.tokenizer)
    if tokenizer is None:
        raise CheckpointError(f"--tokenizer {args.tokenizer}: no tokenizer of GPT-2's kind there: gpt2 is one")
    return Model(fit_tokenizer(model.config, tokenizer, args.tokenizer), model.params, tokenizer)


def load_tokenizer_alone(args: argparse.Namespace) -> Tokenizer:
    """Load the tokenizer that --tokenizer names, or that of the model of -m, for a command that reads no weights."""
    from numgpt.hub.loading import load_tokenizer

    name = args.tokenizer or args.model
    tell_of_download(args, name)
    if args.tokenizer:
        return require(load_tokenizer(name), name)
    return require(load_tokenizer(name, args.base, **given(args)), name)


def how_to_load(args: argparse.Namespace) -> dict[str, Any]:
    """Return what the options say of the way in which a model is loaded, as `load` takes it."""
    return {
        "dtype": getattr(args, "dtype", None),
        "weights": getattr(args, "weights", None),
        "base": args.base,
        **given(args),
    }


def tell_of_download(args: argparse.Namespace, name: str) -> None:
    """Say at once that a model is not on this machine and who is asked for it: the network may take its time."""
    from numgpt.hub.folders import find
    from numgpt.hub.registry import is_name

    if find(name) is None and is_name(name):
        from numgpt.hub.download import host_of

        note(args, f"{name} is not on this machine: asking {host_of(name)} for it")


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

    tell_of_download(args, args.model)
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


def add_precision(parser: Any) -> None:
    """Say in which numbers a model may be computed and kept. The parser may be a group of one."""
    parser.add_argument("--dtype", choices=["float32", "float64"], help="precision (default: that of the checkpoint)")
    add_weights(parser)


def add_weights(parser: Any) -> None:
    """Say in what a model may be kept."""
    about = "keep the matrices in 8 bits, a quarter of the memory; or F16 and BF16 as the file has them, half of it"
    parser.add_argument("--weights", choices=["int8", "keep"], help=about)


def add_layers(parser: argparse.ArgumentParser) -> None:
    """Say what goes with a command that goes through a text in one pass."""
    about = "read each layer when it is needed, and keep none: for a model that does not fit into memory"
    parser.add_argument("--layer-at-a-time", action="store_true", help=about)


def add_cache(parser: argparse.ArgumentParser) -> None:
    """Say what goes with a command that keeps keys and values."""
    about = "keep keys and values in half the room, rounded to 11 bits (default: as they are computed)"
    parser.add_argument("--cache", choices=["float16"], help=about)


def add_watermark(parser: argparse.ArgumentParser, flag: str, about: str) -> None:
    """Say what a watermark needs: the flag that has the key, and the scheme."""
    parser.add_argument(flag, metavar="KEY", help=about)
    about_scheme = (
        "race: by how tokens are drawn, which changes no probability (default); green: by making some likelier, as "
        "Transformers does, for text that is searched for, too; its KEY is a number"
    )
    parser.add_argument("--watermark-scheme", choices=["race", "green"], help=about_scheme)


def watermark_options(args: argparse.Namespace) -> dict[str, Any]:
    """Return the options of `generate` that --watermark and --watermark-scheme stand for."""
    if args.watermark is None:
        if args.watermark_scheme:
            args.error("--watermark-scheme goes with --watermark KEY")
        return {}
    if args.watermark_scheme == "green":
        return {"green_list": parse_number_key(args.watermark, "--watermark")}
    return {"watermark": reread_as_utf8(args.watermark)}


def parse_number_key(text: str, flag: str) -> int:
    """Return the key of a green list, which is a number."""
    try:
        return int(text)
    except ValueError:
        raise OptionError(
            f"{flag} is {text!r:.80}, expected a whole number, as --watermark-scheme green has it"
        ) from None


def parse_ids(text: str, flag: str = "--ids") -> list[int]:
    """Return the ids of "1,2,3"."""
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise OptionError(f"{flag} is {text!r:.80}, expected numbers with commas between, as in 46,1198,2402") from None


def shown_piece(piece: bytes) -> str:
    """Return how a token looks: its text in quotes, or its bytes where it is a part of a character."""
    try:
        return repr(piece.decode("utf-8"))
    except UnicodeDecodeError:
        return repr(piece)


def encode(args: argparse.Namespace, model: Model, text: str) -> list[int]:
    """Return the ids of a text, for a command that has --allow-special."""
    return require(model.tokenizer, args.model).encode(text, allow_special=args.allow_special)
