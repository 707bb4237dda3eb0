"""The command line: which commands there are, and what becomes of an error.

The module of a command is imported when it is called, and NumPy and the model when it runs, so that --help and
--version wait for none of them.
"""

from __future__ import annotations

import argparse
import io
import re
import sys
import warnings
from importlib import import_module
from typing import NoReturn

import numgpt
from numgpt.cli.terminal import add_model_settings, discard_output, exit_at_ctrl_c, expand_home, fail, say
from numgpt.cli.threads import set_threads
from numgpt.errors import NumgptError, OptionError

GROUPS = {  # name -> the module of this room that has it, and a line about it
    "text": {
        "generate": ("completing", "continue a text"),
        "chat": ("dialogue", "talk with a model"),
        "summarize": ("tasks", "summarize a text, as the GPT-2 paper does: TL;DR"),
        "translate": ("tasks", "translate a text, as the GPT-2 paper does: by examples"),
        "serve": ("serving", "answer programs that speak OpenAI's API, and browsers, over HTTP"),
    },
    "checkpoints": {
        "models": ("checkpoints", "list the checkpoints that are known by name, and where they are"),
        "download": ("checkpoints", "fetch a checkpoint and verify it"),
        "inspect": ("checkpoints", "show the config, tensors and health of a checkpoint"),
        "convert": ("checkpoints", "write any checkpoint for Transformers, llama.cpp or llm.c"),
    },
    "looking inside": {
        "tokenize": ("tokens", "show the ids and pieces of a text"),
        "score": ("scores", "show how well the model predicts a text: log-probabilities and perplexity"),
        "choose": ("choosing", "show how likely a text goes on in each of some ways: answers, labels"),
        "eval": ("evaluating", "run tasks of lm-evaluation-harness: accuracy, perplexity of a word"),
        "detect": ("detecting", "look for a watermark in a text, or for hints that a model wrote it"),
        "explain": ("explaining", "make a page that shows all that a model computes of a text"),
        "trace": ("inside", "show every named intermediate of a run, or write them to a file"),
        "verify": ("verifying", "find where another implementation parts from this one, and why"),
    },
    "training and speed": {
        "train": ("learning", "train a small model on a text, or go on with a run that was stopped"),
        "bench": ("benching", "measure the speed of a model, beside what this machine could do at best"),
    },
}
EXAMPLES = """examples:
  numgpt generate "Once upon a time"
  echo "The king said" | numgpt generate - --seed 1 -n 100
  numgpt generate "Once" -m path/to/gpt2 --temperature 0 --json
  numgpt summarize article.txt -m gpt2-xl
  numgpt chat -m dialogpt-medium
  numgpt tokenize "Hello, world"
  numgpt inspect -m storyteller
  numgpt models"""


def main(argv: list[str] | None = None) -> int:
    """Run the command line and return its exit code: 0, 1 for an error, 2 for wrong usage, 130 for Ctrl-C."""
    for stream in sys.stdout, sys.stderr:
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        argv = sys.argv[1:] if argv is None else argv
        args = parser(next((word for word in argv if not word.startswith("-")), "")).parse_args(argv)
        expand_home(args)
        set_threads(args.kind)
        with exit_at_ctrl_c():
            import numpy as np
        # What Python and NumPy would warn of is said once, and in our words: the context limit, logits that overflow.
        with np.errstate(all="ignore"), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            args.run(args)
        print(end="", flush=True)
    except OptionError as error:
        return fail(in_words_of_the_command_line(str(error), args))
    except NumgptError as error:
        return fail(error)
    except KeyboardInterrupt:
        say("")
        return 130
    except BrokenPipeError:  # whoever read our output has seen enough: `| head`
        discard_output()
        return 141
    except OSError as error:
        discard_output()
        return fail(f"{error.filename or 'standard output'}: {error.strerror}")
    except MemoryError:
        return fail("out of memory: the checkpoint does not fit; numgpt inspect shows what it needs")
    return 0


def in_words_of_the_command_line(message: str, args: argparse.Namespace) -> str:
    """Return a message with the flags in it instead of the names that options have in Python.

    A name is told by its underscore, or by its place at the beginning, so that no other word is taken for one.
    """
    for name in sorted(vars(args), key=len, reverse=True):
        flag = f"--{name.replace('_', '-')}"
        message = re.sub(rf"(?<![\w/.-]){name}\b" if "_" in name else rf"^{name}\b(?= is | goes )", flag, message)
    for name, flag in ("stop_strings", "--stop"), ("cache_dtype", "--cache"), ("green_list", "--watermark"):
        message = re.sub(rf"(?<![\w/.-]){name}\b", flag, message)
    return message.replace(", or None or 0 for off", ", or 0 for off").replace(", or None for off", "; off without it")


def parser(asked: str | None = None) -> argparse.ArgumentParser:
    """Return the parser of the command line.

    asked  the command that is called, whose module alone is imported; None for all
    """
    top = Parser(
        prog="numgpt",
        usage="%(prog)s [-h] [--version] COMMAND ...",
        allow_abbrev=False,
        description="GPT-2 in NumPy: text from a checkpoint on a CPU.",
        epilog=f"{overview()}\n\n{EXAMPLES}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    top.add_argument("--version", action="version", version=f"numgpt {numgpt.__version__}")
    commands = top.add_subparsers(prog="numgpt", required=True, metavar="COMMAND", help=argparse.SUPPRESS)
    for name, (module, about) in ((name, line) for group in GROUPS.values() for name, line in group.items()):
        sub = commands.add_parser(
            name,
            allow_abbrev=False,
            description=f"{about[0].upper()}{about[1:]}.",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        if asked in (None, name):
            add_command(sub, name, module)
    return top


class Parser(argparse.ArgumentParser):
    """A parser that knows what people mean who type a text without quotes."""

    def error(self, message: str) -> NoReturn:
        words = message.removeprefix("unrecognized arguments: ")
        if words != message and not any(word.startswith("-") for word in words.split()):
            message += ': a text of several words goes into quotes, as in numgpt generate "Once there was"'
        super().error(message)


def add_command(sub: argparse.ArgumentParser, name: str, module: str) -> None:
    """Fill the parser of a command with what its module says."""
    command = import_module(f"numgpt.cli.{module}").COMMANDS[name]
    sub.epilog = command.examples
    sub.set_defaults(run=command.run, kind=name, error=sub.error)
    sub.add_argument("--json", action="store_true", help="print JSON, for programs")
    sub.add_argument("-q", "--quiet", action="store_true", help="print nothing on standard error but errors")
    if command.has_model:
        about_model = "a name, a folder or a file (default: storyteller)"
        sub.add_argument("-m", "--model", default="storyteller", help=about_model)
        if command.has_text:
            about_tokenizer = "the tokenizer of another model, for one that has none: gpt2 or another"
            sub.add_argument("--tokenizer", metavar="NAME", help=about_tokenizer)
        add_model_settings(sub)
    command.add_arguments(sub)


def overview() -> str:
    """Return the commands, a line each, in their groups."""
    lines = []
    for group, commands in GROUPS.items():
        lines += [f"{group}:", *(f"    {name:<12}  {about}" for name, (_, about) in commands.items()), ""]
    return "\n".join(lines[:-1])
