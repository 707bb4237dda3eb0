"""What the tests of training share: a small text and settings with which a run takes a moment, and the command."""

import sys

import pytest

from numgpt.cli import main as cli
from numgpt.config import Config

SORTED = "".join(f"{n}={''.join(sorted(str(n)))}\n" for n in range(100, 160))
TINY = {"n_layer": 1, "n_head": 2, "n_embd": 8, "batch_size": 3, "steps": 7, "warmup_steps": 2, "answers_after": "="}
FLAGS = ["--n-layer", "1", "--n-head", "2", "--n-embd", "8", "--batch-size", "3", "--answers-after", "="]
SMALL = Config(n_vocab=9, n_ctx=4, n_embd=8, n_head=2, n_layer=2)
FILES = ("model.safetensors", "training.safetensors")
posix = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no fork and no SIGKILL")


def files(folder):
    """Return the bytes of each file in the folder of a run, by its name."""
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def call(capsys, *arguments):
    """Run the command in this process; return its exit code, standard output and standard error."""
    code = cli.main(["train", *map(str, arguments)])
    return code, *capsys.readouterr()


def command(*arguments):
    return [sys.executable, "-m", "numgpt", "train", *map(str, arguments)]
