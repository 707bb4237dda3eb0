"""The command line, called in this process or run in one of its own, and a checkpoint for it."""

import io
import os
import subprocess
import sys

from support.checkpoints import SIZES, TOKENS, hub_tensors, write_checkpoint, write_tokenizer

from numgpt.cli import main as cli


def call(capsys, *arguments):
    """Run the command in this process; return its exit code, standard output and standard error."""
    try:
        code = cli.main([str(argument) for argument in arguments])
    except SystemExit as stop:  # of wrong usage, and of --help
        code = stop.code
    return (code, *capsys.readouterr())


def fails(capsys, *arguments):
    """Run a command that must fail as promised, and return its one line."""
    code, out, err = call(capsys, *arguments)
    assert (code, out) == (1, "")
    assert err.startswith("numgpt: error: ")
    assert err.count("\n") == 1
    return err


def pipe_in(monkeypatch, raw):
    """Let standard input hold some bytes, for commands in this process."""
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(raw)))


def run(*arguments, stdin=b"", env=()):
    """Run the command in a process of its own, as a shell would."""
    return subprocess.run(
        [sys.executable, "-m", "numgpt", *arguments],
        input=stdin,
        capture_output=True,
        env={**os.environ, **dict(env)},
        timeout=60,
        check=False,
    )


def tiny(folder, *, tokenizer=True, tensors=None, **changes):
    """Write a checkpoint of 7 positions and 258 tokens, one for each byte and two more. Return its path as text."""
    sizes = {**SIZES, "vocab_size": TOKENS, **changes}
    tensors = hub_tensors(sizes["vocab_size"]) if tensors is None else tensors
    write_checkpoint(folder, tensors, {"model_type": "gpt2", "eos_token_id": None, **sizes})
    if tokenizer:
        write_tokenizer(folder)
    return str(folder)
