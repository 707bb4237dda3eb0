"""Training: from a text to a checkpoint.

    text -> examples -> batch -> loss_and_grads -> clip -> adamw -> the next step

A batch is a function of the seed and the number of the step, and a step one of the batch and the state before. So what
was killed goes on from its last checkpoint as if nothing had been, bit for bit. The bits are those of one machine: they
depend on how many threads multiply matrices, and the command line takes one (OPENBLAS_NUM_THREADS=2 takes two).

There is no dropout: a text of a size that this is meant for is learned in a few passes.
"""

import math
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from numgpt.checkpoint.settings import read_config
from numgpt.checkpoint.vocabulary import from_folder
from numgpt.checks import check_count
from numgpt.config import Config
from numgpt.errors import CheckpointError, OptionError
from numgpt.hub.loading import load, load_tokenizer, locate
from numgpt.model import Model
from numgpt.params import random_params
from numgpt.tokenizer import Tokenizer
from numgpt.training.examples import END_OF_TEXT, Examples, batch, byte_tokenizer, few_of, read_examples, read_text
from numgpt.training.folder import UNFINISHED, alone, check_record, create, is_run, plain, resume, save
from numgpt.training.optimizer import State
from numgpt.training.settings import Settings, check_settings
from numgpt.training.steps import evaluate, learning_rate, train_step


class Progress(NamedTuple):
    """How a step went. The last two are there at an evaluation, and the last of them for questions alone."""

    step: int
    loss: float  # of the batch, before the step
    learning_rate: float
    grad_norm: float  # before clipping
    tokens: int  # that the steps of this process have seen
    val_loss: float | None = None
    exact_match: float | None = None  # the share of held-out answers that greedy decoding makes


def new_model(longest: int, tokenizer: Tokenizer, settings: Settings) -> Model:
    """A model with random weights, for examples of a length."""
    config = Config(
        n_vocab=len(tokenizer),
        n_ctx=settings.block_size or longest,
        n_embd=settings.n_embd or 128,
        n_head=settings.n_head or 4,
        n_layer=settings.n_layer or 4,
        eos_token_id=tokenizer.special_tokens.get(END_OF_TEXT),
        n_tokens=len(tokenizer),
    )
    return Model(config, random_params(config, settings.seed, np.dtype(settings.dtype)), tokenizer)


Text = tuple[Path, str]  # of a file


class Run(NamedTuple):
    """What stays the same from step to step."""

    folder: Path
    record: dict[str, Any]  # of settings and texts, by which a folder is known to be of this run
    config: Config
    training: Examples
    held_out: Examples


def begin(folder: Path, record: dict[str, Any], texts: list[Text], settings: Settings) -> tuple[Run, State]:
    """Begin a run: read the text with the vocabulary that the model will have, and make its folder."""
    start = None if settings.start is None else locate(settings.start)
    model = None if start is None else load(start, dtype=settings.dtype)
    if model is not None:
        config, tokenizer = model.config, model.tokenizer
    else:
        config, tokenizer = None, byte_tokenizer() if settings.tokenizer is None else load_tokenizer(settings.tokenizer)
    if tokenizer is None:
        raise no_tokenizer(settings.start or settings.tokenizer)
    training, held_out = read_examples(texts, tokenizer, config, settings)
    model = model or new_model(training.ids.shape[1], tokenizer, settings)
    return Run(folder, record, model.config, training, few_of(held_out)), create(folder, model, record, start)


def go_on(folder: Path, record: dict[str, Any], texts: list[Text], settings: Settings) -> tuple[Run, State]:
    """Go on with the run of a folder: read the same text again, and the state where it stopped."""
    check_record(folder, record)
    config, tokenizer = read_config(folder), from_folder(folder)
    if tokenizer is None:
        raise no_tokenizer(folder)
    training, held_out = read_examples(texts, tokenizer, config, settings)
    return Run(folder, record, config, training, few_of(held_out)), resume(folder, config)


def no_tokenizer(where: object) -> CheckpointError:
    return CheckpointError(f"{where}: no tokenizer of GPT-2's kind, expected one: text needs its files")


def open_run(
    text_file: str | os.PathLike[str], folder: Path, settings: Settings, val_file: str | os.PathLike[str] | None
) -> tuple[Run, State]:
    """Check and read everything, and then begin a run, or go on with the one that its folder holds."""
    check_settings(settings)
    texts, hashes = [], []
    for path in [text_file] if val_file is None else [text_file, val_file]:
        text, digest = read_text(Path(path))
        texts.append((Path(path), text))
        hashes.append(digest)
    of_val = None if val_file is None else hashes[1]
    record = plain({**settings._asdict(), "sha256 of the text": hashes[0], "sha256 of val": of_val})
    return (go_on if is_run(folder) else begin)(folder, record, texts, settings)


def take_steps(run: Run, state: State, s: Settings, eval_interval: int, report: Callable[[Progress], None]) -> None:
    """Train from a state to the last step, and keep what was learned in the folder."""
    saved, tokens = state.step, 0
    try:
        while state.step < s.steps:
            examples = batch(run.training, s.batch_size, seed=s.seed, step=state.step + 1)
            after, loss, norm = train_step(state, examples, run.config, s)
            val_loss = share = None
            if after.step % eval_interval == 0 or after.step == s.steps:
                val_loss, share = evaluate(run.held_out, after.params, run.config, s.batch_size)
            if not math.isfinite(loss + norm + (val_loss or 0)):
                raise OptionError(
                    f"step {after.step}: the loss is {loss:.4g}, the length of the gradient {norm:.4g}: it diverged; "
                    f"{run.folder} keeps step {saved}: begin anew with a smaller learning_rate, here "
                    f"{s.learning_rate:g}"
                )
            state, tokens = after, tokens + examples.ids.size
            if val_loss is not None:
                save(run.folder, state, run.record)
                saved = state.step
            exact = None if s.answers_after is None else share
            report(Progress(state.step, loss, learning_rate(state.step, s), norm, tokens, val_loss, exact))
    except KeyboardInterrupt:
        save(run.folder, state, run.record)
        raise


def train(
    text_file: str | os.PathLike[str],
    folder: str | os.PathLike[str],
    *,
    val_file: str | os.PathLike[str] | None = None,
    eval_interval: int = 250,
    report: Callable[[Progress], None] = lambda progress: None,
    **settings: Any,
) -> Model:
    """Train a model on a text, or go on with a run that was stopped.

    text_file      UTF-8
    folder         where the checkpoint goes, a folder as Transformers has them: a new one, or that of the same run
    val_file       what to measure on; None: the last tenth of the text, or every tenth line, is not learned from
    eval_interval  every so many steps, and at the end, the held-out text is evaluated and the checkpoint replaced
    report         is told of each step
    settings       those of `Settings`, which change the outcome
    Returns the Model.
    Raises, before any work, OptionError for a setting out of its range and for a folder that is taken, TokenError or
    ContextError for a text that does not fit, OSError where it can't be read. Later OptionError where the loss is not
    finite, CheckpointError where the folder can't be written; then, and after Ctrl-C, the last checkpoint stays.
    """
    check_count("eval_interval", eval_interval, least=1)
    s = Settings(**settings)
    folder = Path(os.path.realpath(folder))
    run, state = open_run(text_file, folder, s, val_file)
    with alone(folder):
        shutil.rmtree(folder / UNFINISHED, ignore_errors=True)  # of a process that was killed
        take_steps(run, state, s, eval_interval, report)
    return load(folder)
