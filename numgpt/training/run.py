"""Training: from a text to a checkpoint.

    text -> examples -> batch -> loss_and_grads -> clip -> adamw -> the next step

In reading order: the optimiser (State, adamw, clip, schedule), the text (Examples, batch), one step and how good it was
(train_step, evaluate), the files (save, resume), and `train`, which does it all.

A batch is a function of the seed and the number of the step, and a step one of the batch and the state before. So what
was killed goes on from its last checkpoint as if nothing had been, bit for bit. The bits are those of one machine: they
depend on how many threads multiply matrices, and the command line takes one (OPENBLAS_NUM_THREADS=2 takes two).

There is no dropout: a text of a size that this is meant for is learned in a few passes.
"""

import json
import math
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from numgpt.checkpoint.disk import try_lock
from numgpt.checkpoint.export import convert
from numgpt.checkpoint.files import parse_json, wrong
from numgpt.checkpoint.names import hub_name
from numgpt.checkpoint.reading import read_config
from numgpt.checkpoint.safetensors import read_header, write_safetensors
from numgpt.checkpoint.settings import config_to_json
from numgpt.checkpoint.tensors import LazyTensor
from numgpt.checkpoint.vocabulary import from_folder, write_vocabulary
from numgpt.checks import check_count
from numgpt.config import Config
from numgpt.errors import CheckpointError, OptionError
from numgpt.hub.loading import load, load_tokenizer
from numgpt.model import Model, Params, compute_logits
from numgpt.params import faults, leaves, map_leaves, param_shapes, random_params
from numgpt.tokenizer import Tokenizer
from numgpt.training.backward import UNCOUNTED, counted, cross_entropy, loss_and_grads
from numgpt.training.examples import END_OF_TEXT, EVALUATED, Examples, batch, byte_tokenizer, read_examples, read_text
from numgpt.training.optimizer import State, adamw, clip, schedule, start_state
from numgpt.training.settings import Settings, check_settings

STATE = "training.safetensors"  # beside the checkpoint: what a run goes on from
UNFINISHED = "unfinished"  # the folder in it where files are written


# ---- the optimiser


# ---- the text


# ---- a step


def train_step(state: State, examples: Examples, config: Config, settings: Settings) -> tuple[State, float, float]:
    """One step: the loss and its gradient, clipped, and what AdamW makes of it.

    examples  a batch
    Returns the next State, the loss before the step, and the length of the gradient before it was clipped.

    >>> config, settings = Config(n_vocab=9, n_ctx=4, n_embd=8, n_head=2, n_layer=1), Settings(learning_rate=0.2)
    >>> state, losses = start_state(random_params(config)), []
    >>> for step in range(1, 41):
    ...     examples = batch(windows_of([1, 2, 3, 4] * 5, 4), 8, seed=0, step=step)
    ...     state, loss, norm = train_step(state, examples, config, settings)
    ...     losses.append(loss)
    >>> losses[0] > 2, losses[-1] < 0.1
    (True, True)
    """
    lr = learning_rate(state.step + 1, settings)
    loss, grads = loss_and_grads(examples.ids, examples.targets, state.params, config)
    grads, norm = clip(grads, settings.grad_clip)
    beta1, beta2, weight_decay = settings.beta1, settings.beta2, settings.weight_decay
    return adamw(state, grads, lr, beta1=beta1, beta2=beta2, weight_decay=weight_decay), loss, norm


def learning_rate(step: int, settings: Settings) -> float:
    """`schedule`, as the settings have it."""
    peak = settings.learning_rate
    least = peak / 10 if settings.min_lr is None else settings.min_lr
    return schedule(step, learning_rate=peak, min_lr=least, warmup_steps=settings.warmup_steps, steps=settings.steps)


def evaluate(examples: Examples, params: Params, config: Config, batch_size: int) -> tuple[float, float]:
    """Return the mean loss of some examples, and the share of them that greedy decoding gets right throughout.

    Notes: nothing has to be generated for it. Greedy decoding makes an answer if and only if, with the answer so far in
    sight, each of its tokens has the highest logit.

    >>> config = Config(n_vocab=9, n_ctx=4, n_embd=8, n_head=2, n_layer=1)
    >>> loss, share = evaluate(windows_of(range(9), 4), random_params(config), config, batch_size=2)
    >>> round(loss, 1), share  # about log 9
    (2.2, 0.0)
    """
    nats, count, right = 0.0, 0, 0
    for i in range(0, len(examples.ids), batch_size):
        ids, targets = (x[i : i + batch_size] for x in examples)
        logits = compute_logits(ids, params, config)
        n = int(counted(targets).sum())
        nats, count = nats + n * cross_entropy(logits, targets), count + n
        right += int(((logits.argmax(axis=-1) == targets) | (targets == UNCOUNTED)).all(axis=-1).sum())
    return nats / count, right / len(examples.ids)


# ---- the files


def save(folder: Path, state: State, record: dict[str, Any]) -> None:
    """Replace the checkpoint of a folder, model.safetensors, and the state beside it, each at once when it is whole.

    Killed at any moment it leaves both loadable. A state that is older than the checkpoint makes it once more.
    Raises CheckpointError where they can't be written, and leaves what was there.
    """
    weights = {
        ("" if path == "lm_head" else "transformer.") + hub_name(path): tensor_of(x) for path, x in leaves(state.params)
    }
    trees = {"params": state.params, "m": state.m, "v": state.v}
    metadata = {"format": "np", "step": str(state.step), "settings": json.dumps(record)}
    part = folder / UNFINISHED
    try:
        part.mkdir(exist_ok=True)
        write_safetensors(part / "model.safetensors", weights)
        write_safetensors(part / STATE, {path: tensor_of(x) for path, x in leaves(trees)}, metadata)
        for file in ("model.safetensors", STATE):
            os.replace(part / file, folder / file)
    except OSError as error:
        raise wrong(folder, f"can't be written: {error.strerror}", "free some space, or write elsewhere") from error
    finally:
        shutil.rmtree(part, ignore_errors=True)


def tensor_of(x: np.ndarray) -> LazyTensor:
    """A parameter as the writer of files takes it."""
    return LazyTensor({"float32": "F32", "float64": "F64"}[x.dtype.name], x.shape, lambda: x)


def create(folder: Path, model: Model, record: dict[str, Any], start: str | None) -> State:
    """Make the folder of a run, with config, vocabulary and all, which takes its name when it is whole."""
    state = start_state(map_leaves(lambda path, p: np.ascontiguousarray(p), model.params))
    part = folder.with_name(f"{folder.name}.{os.getpid()}.part")
    try:
        if start is None:
            part.mkdir(parents=True)
            values = {**config_to_json(model.config), "bos_token_id": model.config.eos_token_id}
            (part / "config.json").write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
            assert model.tokenizer
            write_vocabulary(model.tokenizer, part)
        else:
            convert(start, part)
        save(part, state, record)
        if folder.exists():
            folder.rmdir()
        os.replace(part, folder)
    except OSError as error:
        raise wrong(folder, f"can't be written: {error.strerror}", "free some space, or write elsewhere") from error
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return state


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Keep other processes from the run in a folder for a while. Where there are no locks, trust."""
    if sys.platform == "win32":  # which opens no folders
        yield
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        if not try_lock(handle):
            raise OptionError(f"{folder}: another process is at this run: wait for it, or end it")
        yield
    finally:
        os.close(handle)


def is_run(folder: Path) -> bool:
    """Whether a folder holds a run. Raises OptionError for one that holds something else."""
    if (folder / STATE).is_file():
        return True
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise OptionError(f"{folder}: is there already, and no run of training: give the name of a new folder")
    return False


def plain(record: dict[str, Any]) -> dict[str, Any]:
    """The record as it comes back from JSON: numbers of Python for NumPy's, text for a path."""
    return json.loads(json.dumps(record, default=lambda x: x.item() if isinstance(x, np.generic) else os.fspath(x)))


def check_record(folder: Path, record: dict[str, Any]) -> None:
    """Raise OptionError where the run in a folder is not of these settings and texts, with what differs."""
    metadata = read_header(folder / STATE)[1]
    try:
        old = parse_json(folder / STATE, metadata["settings"].encode())
    except KeyError:
        raise wrong(folder / STATE, "no settings in it", "it is no state of training") from None
    changes = [
        f"{name} was {old.get(name)!r:.70} and is {record.get(name)!r:.70}"
        for name in {**old, **record}
        if old.get(name) != record.get(name)
    ]
    if changes:
        raise OptionError(
            f"{folder}: belongs to another run: {'; '.join(changes)}: give the same text and settings as before, "
            f"or the name of a new folder (which may start from this one)"
        )


def resume(folder: Path, config: Config) -> State:
    """Read the state that `save` has written. Raises CheckpointError where it is damaged."""
    tensors, metadata = read_header(folder / STATE)
    shapes = {"params": param_shapes(config)}
    shapes |= {"m": shapes["params"], "v": shapes["params"]}
    found = faults({path: tensor.shape for path, tensor in tensors.items()}, dict(leaves(shapes)))
    if found or not metadata.get("step", "").isdecimal():
        raise wrong(folder / STATE, "; ".join(found) or "no step in it", "it is no state of this model")
    trees = map_leaves(lambda path, _: tensors[path].read(), shapes)
    return State(int(metadata["step"]), trees["params"], trees["m"], trees["v"])


# ---- all of it


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


class Run(NamedTuple):
    """What stays the same from step to step."""

    folder: Path
    record: dict[str, Any]  # of settings and texts, by which a folder is known to be of this run
    config: Config
    training: Examples
    held_out: Examples


def open_run(
    text_file: str | os.PathLike[str], folder: Path, settings: Settings, val_file: str | os.PathLike[str] | None
) -> tuple[Run, State]:
    """Check and read everything, then make the folder of a run, or read the state of the one that it holds."""
    check_settings(settings)
    texts, hashes = [], []
    for path in (text_file,) if val_file is None else (text_file, val_file):
        text, digest = read_text(Path(path))
        texts.append((Path(path), text))
        hashes.append(digest)
    record = plain({**settings._asdict(), "sha256 of the text": hashes[0], "sha256 of val": (*hashes, None)[1]})

    goes_on = is_run(folder)
    config = tokenizer = None
    model: Model | None = None
    if goes_on:
        check_record(folder, record)
        config, tokenizer = read_config(folder), from_folder(folder)
    elif settings.start is not None:
        model = load(settings.start, dtype=settings.dtype)
        config, tokenizer = model.config, model.tokenizer
    else:
        tokenizer = byte_tokenizer() if settings.tokenizer is None else load_tokenizer(settings.tokenizer)
    if tokenizer is None:
        where = folder if goes_on else settings.start or settings.tokenizer
        raise CheckpointError(f"{where}: no tokenizer of GPT-2's kind, expected one: text needs its files")
    training, held_out = read_examples(texts, tokenizer, config, settings)
    held_out = Examples(*(x[:: -(-len(x) // EVALUATED)] for x in held_out))

    if config is not None and goes_on:
        state = resume(folder, config)
    else:
        model = model or new_model(training.ids.shape[1], tokenizer, settings)
        config = model.config
        state = create(folder, model, record, settings.start)
    return Run(folder, record, config, training, held_out), state


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
    run, state = open_run(text_file, Path(os.path.realpath(folder)), s, val_file)
    with alone(run.folder):
        shutil.rmtree(run.folder / UNFINISHED, ignore_errors=True)  # of a process that was killed
        take_steps(run, state, s, eval_interval, report)
    return load(run.folder)
