"""A run: from a text to a checkpoint.

    text -> examples -> batch -> loss_and_grads -> clip -> adamw -> the next step

A batch is a function of the seed and the number of the step, and a step one of the batch and the state before. So what
was killed goes on from its last checkpoint as if nothing had been, bit for bit. The bits are those of one machine: they
depend on how many threads multiply matrices, and the command line takes one (OPENBLAS_NUM_THREADS=2 takes two).

There is no dropout: a text of a size that this is meant for is learned in a few passes.
"""

import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from numgpt.checkpoint.settings import read_config
from numgpt.checkpoint.vocabulary import from_folder
from numgpt.checks import check_count
from numgpt.config import Config
from numgpt.errors import CheckpointError, OptionError
from numgpt.hub.loading import load, load_tokenizer
from numgpt.model import Model, tokenizer_of
from numgpt.params import random_params
from numgpt.tokenizer import Tokenizer
from numgpt.training.examples import (
    END_OF_TEXT,
    Examples,
    Text,
    Texts,
    batch,
    byte_tokenizer,
    read_examples,
    read_text,
    thin_out,
)
from numgpt.training.folder import alone, check_record, create, is_run, plain, remove_unfinished, resume, save
from numgpt.training.optimizer import State
from numgpt.training.settings import Settings, check_settings, new_sizes
from numgpt.training.steps import evaluate, learning_rate, train_step

EVALUATED = 1024  # the most held-out examples that an evaluation looks at


class Progress(NamedTuple):
    """How a step went. The last two are there at an evaluation, and the last of them for questions alone."""

    step: int
    loss: float  # of the batch, before the step
    learning_rate: float
    grad_norm: float  # before clipping
    tokens: int  # that the steps of this process have seen
    val_loss: float | None = None
    exact_match: float | None = None  # the share of held-out answers that greedy decoding makes


class Run(NamedTuple):
    """What stays the same from step to step."""

    folder: Path
    settings: Settings
    record: dict[str, Any]  # of settings and texts, by which a folder is known to be of this run
    config: Config
    training: Examples
    held_out: Examples


def open_run(
    text_file: str | os.PathLike[str], folder: Path, settings: Settings, val_file: str | os.PathLike[str] | None
) -> tuple[Run, State]:
    """Check and read everything, then begin a run in a folder, or go on with the one that it holds."""
    check_settings(settings)
    text, text_hash = read_text(Path(text_file))
    texts: list[tuple[Path, Text]] = [(Path(text_file), text)]
    val_hash = None
    if val_file is not None:
        text, val_hash = read_text(Path(val_file))
        texts.append((Path(val_file), text))
    record = plain({**settings._asdict(), "sha256 of the text": text_hash, "sha256 of val": val_hash})
    if is_run(folder):
        return go_on(texts, folder, settings, record)
    return begin(texts, folder, settings, record)


def begin(texts: Texts, folder: Path, settings: Settings, record: dict[str, Any]) -> tuple[Run, State]:
    """Make the folder of a run, with a new model or that of the checkpoint from which it starts."""
    if settings.start is not None:
        model = load(settings.start, dtype=settings.dtype)
        training, held_out = read_examples(texts, tokenizer_for(texts, model), model.config, settings)
    else:
        tokenizer = new_tokenizer(settings)
        training, held_out = read_examples(texts, tokenizer, None, settings)
        model = new_model(training.ids.shape[1], tokenizer, settings)
    state = create(folder, model, record, settings.start)
    return Run(folder, settings, record, model.config, training, thin_out(held_out, EVALUATED)), state


def go_on(texts: Texts, folder: Path, settings: Settings, record: dict[str, Any]) -> tuple[Run, State]:
    """Read the state of the run that a folder holds, once it is sure that it is this one."""
    check_record(folder, record)
    config = read_config(folder)
    state = resume(folder, config)
    tokenizer = tokenizer_for(texts, Model(config, state.params, from_folder(folder)))
    training, held_out = read_examples(texts, tokenizer, config, settings)
    return Run(folder, settings, record, config, training, thin_out(held_out, EVALUATED)), state


def tokenizer_for(texts: Texts, model: Model) -> Tokenizer | None:
    """Return the tokenizer of a model. Raises TokenError where it has none, unless all texts are ids already."""
    return tokenizer_of(model) if any(isinstance(text, str) for _, text in texts) else model.tokenizer


def new_tokenizer(settings: Settings) -> Tokenizer:
    """Return the vocabulary of a new model. Raises CheckpointError where the one that is named has none."""
    if settings.tokenizer is None:
        return byte_tokenizer()
    tokenizer = load_tokenizer(settings.tokenizer)
    if tokenizer is None:
        raise CheckpointError(f"{settings.tokenizer}: no tokenizer of GPT-2's kind, expected one: text needs its files")
    return tokenizer


def new_model(longest: int, tokenizer: Tokenizer, settings: Settings) -> Model:
    """Make a model with random weights, for examples of up to `longest` tokens."""
    sizes = new_sizes(settings)
    config = Config(
        n_vocab=len(tokenizer),
        n_ctx=settings.block_size or longest,
        n_embd=sizes["n_embd"],
        n_head=sizes["n_head"],
        n_layer=sizes["n_layer"],
        eos_token_id=tokenizer.special_tokens.get(END_OF_TEXT),
        n_tokens=len(tokenizer),
    )
    return Model(config, random_params(config, settings.seed, np.dtype(settings.dtype)), tokenizer)


def take_steps(run: Run, state: State, eval_interval: int, report: Callable[[Progress], None]) -> None:
    """Train from a state to the last step, and keep what was learned in the folder."""
    settings = run.settings
    saved, tokens = state.step, 0
    try:
        while state.step < settings.steps:
            examples = batch(run.training, settings.batch_size, seed=settings.seed, step=state.step + 1)
            after, loss, norm = train_step(state, examples, run.config, settings)
            val_loss = share = None
            if after.step % eval_interval == 0 or after.step == settings.steps:
                val_loss, share = evaluate(run.held_out, after.params, run.config, settings.batch_size)
            if not all(math.isfinite(x) for x in (loss, norm, val_loss or 0)):
                raise OptionError(
                    f"step {after.step}: the loss is {loss:.4g}, the length of the gradient {norm:.4g}: it diverged; "
                    f"{run.folder} keeps step {saved}: begin anew with a smaller learning_rate, here "
                    f"{settings.learning_rate:g}"
                )
            state = after
            tokens += examples.ids.size
            if val_loss is not None:
                save(run.folder, state, run.record)
                saved = state.step
            exact_match = None if settings.answers_after is None else share
            rate = learning_rate(state.step, settings)
            report(Progress(state.step, loss, rate, norm, tokens, val_loss, exact_match))
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

    text_file      UTF-8; or ids, as llm.c's data scripts write them, of the vocabulary of the model
    folder         where the checkpoint goes, a folder as Transformers has them: a new one, or that of the same run
    val_file       what to measure on; None: the last tenth of the text, or every tenth line, is not learned from
    eval_interval  every so many steps, and at the end, the held-out text is evaluated and the checkpoint replaced
    report         is told of each step
    settings       those of `Settings`, which change the outcome. With more `steps` than before a run goes on further
    Returns the Model.
    Raises, before any work, OptionError for a setting out of its range and for a folder that is taken, TokenError or
    ContextError for a text that does not fit, CheckpointError for a damaged file of ids, OSError where one can't be
    read. Later OptionError where the loss is not finite, CheckpointError where the folder can't be written; then, and
    after Ctrl-C, the last checkpoint stays.
    """
    check_count("eval_interval", eval_interval, least=1)
    run, state = open_run(text_file, Path(os.path.realpath(folder)), Settings(**settings), val_file)
    with alone(run.folder):
        remove_unfinished(run.folder)
        take_steps(run, state, eval_interval, report)
    return load(run.folder)
