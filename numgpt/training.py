"""Training: from a text to a checkpoint.

    text -> examples -> batch -> loss_and_grads -> clip -> adamw -> the next step

In reading order: the optimiser (State, adamw, clip, schedule), the text (Examples, batch), one step and how good it was
(train_step, evaluate), the files (save, resume), and `train`, which does it all.

A batch is a function of the seed and the number of the step, and a step one of the batch and the state before. So what
was killed goes on from its last checkpoint as if nothing had been, bit for bit. The bits are those of one machine: they
depend on how many threads multiply matrices, and the command line takes one (OPENBLAS_NUM_THREADS=2 takes two).

There is no dropout: a text of a size that this is meant for is learned in a few passes.
"""

import hashlib
import json
import math
import os
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from numgpt.backward import UNCOUNTED, Gradients, counted, cross_entropy, loss_and_grads
from numgpt.checkpoint import LazyTensor
from numgpt.checkpoint.files import parse_json, wrong
from numgpt.checkpoint.names import hub_name
from numgpt.checkpoint.safetensors import read_header, write_safetensors
from numgpt.config import Config, config_to_json
from numgpt.convert import convert
from numgpt.errors import CheckpointError, ContextError, OptionError, TokenError
from numgpt.generation import check_count, check_seed
from numgpt.model import Params, compute_logits
from numgpt.models import Model, load, load_tokenizer, read_config
from numgpt.params import faults, leaves, map_leaves, param_shapes, random_params
from numgpt.sampling import check_option, is_integer, is_number
from numgpt.tokenizer import AddedToken, Tokenizer
from numgpt.transfer import try_lock
from numgpt.vocabulary import from_folder, write_vocabulary

END_OF_TEXT = "<|endoftext|>"
EVALUATED = 1024  # the most held-out examples that an evaluation looks at
LONGEST_LINE = 1024  # tokens of a line, unless block_size says otherwise
Question = tuple[tuple[int, ...], tuple[int, ...]]  # the ids of a line: of the question, and of its answer
STATE = "training.safetensors"  # beside the checkpoint: what a run goes on from
UNFINISHED = "unfinished"  # the folder in it where files are written


class Settings(NamedTuple):
    """All that the outcome depends on beside the text. Names and defaults are nanoGPT's, for a laptop.

    block_size      tokens of an example, and the context of a new model; None: 64, and for lines their longest
    n_layer ...     the sizes of a new model; None: 4 layers, 4 heads, width 128
    min_lr          None: a tenth of learning_rate
    grad_clip       the largest length of the gradient; 0 for no limit
    dtype           "float32" or "float64"
    start           a checkpoint to start from, as for `numgpt.load`: its weights and vocabulary. None: random weights
    tokenizer       whose vocabulary a new model has, "gpt2" or another; None: a token for each byte, and end-of-text
    answers_after   each line of the text is a question that ends with this string, and its answer, which alone counts
    allow_special   read <|endoftext|> in the text as the token
    """

    steps: int = 2000
    batch_size: int = 12
    block_size: int | None = None
    n_layer: int | None = None
    n_head: int | None = None
    n_embd: int | None = None
    learning_rate: float = 1e-3
    min_lr: float | None = None
    warmup_steps: int = 100
    weight_decay: float = 0.1
    beta1: float = 0.9
    beta2: float = 0.99
    grad_clip: float = 1.0
    seed: int = 0
    dtype: str = "float32"
    start: str | None = None
    tokenizer: str | None = None
    answers_after: str | None = None
    allow_special: bool = False


# ---- the optimiser


class State(NamedTuple):
    """Where training is: what a step takes and returns."""

    step: int  # how many are done
    params: Params
    m: Params  # the mean gradient of late, a tree like params
    v: Params  # the mean of its square


def start_state(params: Params) -> State:
    """The state before the first step: no gradient was seen yet."""
    return State(0, params, *(map_leaves(lambda path, p: np.zeros_like(p), params) for _ in range(2)))


def adamw_leaf(
    p: np.ndarray,
    g: np.ndarray,
    m: np.ndarray,
    v: np.ndarray,
    t: int,
    lr: float,
    beta1: float,
    beta2: float,
    weight_decay: float,
    eps: float = 1e-8,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """AdamW for one tensor, at step t = 1, 2, ...

        m = beta1 m + (1 - beta1) g         v = beta2 v + (1 - beta2) g^2
        p = p - lr (m / (1 - beta1^t) / (sqrt(v / (1 - beta2^t)) + eps) + weight_decay p)

    p, g, m, v  of one shape: the parameter, its gradient, and the two means before
    Returns p, m and v, new arrays of their dtype.
    Notes: m and v begin at 0, and the two divisors make up for that. The decay is no part of the gradient: that is the
    W in the name.
    Source: Loshchilov & Hutter 2019, arXiv:1711.05101, algorithm 2, with lr for both alpha and eta, as in PyTorch.

    >>> one = np.ones(1)
    >>> adamw_leaf(4 * one, g=3 * one, m=0 * one, v=0 * one, t=1, lr=0.5, beta1=0.9, beta2=0.99, weight_decay=0.25)
    (array([3.]), array([0.3]), array([0.09]))
    """
    m = beta1 * m + (1 - beta1) * g
    v = beta2 * v + (1 - beta2) * (g * g)
    direction = m / (1 - beta1**t) / (np.sqrt(v / (1 - beta2**t)) + eps)
    return p - lr * (direction + weight_decay * p), m, v


def adamw(
    state: State, grads: Gradients, lr: float, *, beta1: float = 0.9, beta2: float = 0.99, weight_decay: float = 0.1
) -> State:
    """One step of AdamW: `adamw_leaf` for each parameter. Only matrices decay.

    grads  a tree like state.params
    Returns the next State. No argument is modified.
    Notes: the two embeddings are matrices and decay too, as in nanoGPT; gains and biases do not.
    """
    g, m, v = (dict(leaves(tree)) for tree in (grads, state.m, state.v))
    new = {
        path: adamw_leaf(
            p, g[path], m[path], v[path], state.step + 1, lr, beta1, beta2, weight_decay if p.ndim == 2 else 0.0
        )
        for path, p in leaves(state.params)
    }
    return State(state.step + 1, *(map_leaves(lambda path, _: new[path][i], state.params) for i in range(3)))  # noqa: B023


def clip(grads: Gradients, max_norm: float) -> tuple[Gradients, float]:
    """Shorten the gradient, as one vector of all parameters, to a length of at most max_norm.

        g = g min(1, max_norm / (|g| + 1e-6)),   |g| = sqrt(sum of g_i^2)

    max_norm  0 for no limit
    Returns the gradients and the length that they had.
    Source: Pascanu et al. 2013, arXiv:1211.5063; the 1e-6 is PyTorch's.

    >>> grads, norm = clip({"a": np.array([3.0]), "b": np.array([4.0])}, max_norm=1.0)
    >>> norm, grads["b"].round(3)
    (5.0, array([0.8]))
    """
    norm = math.sqrt(sum(float(np.vdot(g, g)) for _, g in leaves(grads)))
    scale = max_norm / (norm + 1e-6)
    if max_norm and scale < 1:
        grads = map_leaves(lambda path, g: g * scale, grads)
    return grads, norm


def schedule(step: int, *, learning_rate: float, min_lr: float, warmup_steps: int, steps: int) -> float:
    """The learning rate of a step, 1 to steps: up in a straight line, then down along a cosine.

        learning_rate step / warmup_steps                                              up to warmup_steps
        min_lr + (learning_rate - min_lr) (1 + cos(pi x)) / 2,   x from 0 to 1         after it

    Source: Loshchilov & Hutter 2017, arXiv:1608.03983, without restarts. nanoGPT counts from 0, so is a step behind.

    >>> [schedule(s, learning_rate=8.0, min_lr=2.0, warmup_steps=2, steps=6) for s in (1, 2, 4, 6)]
    [4.0, 8.0, 5.0, 2.0]
    """
    if step <= warmup_steps:
        return learning_rate * step / warmup_steps
    x = (step - warmup_steps) / (steps - warmup_steps)
    return min_lr + (learning_rate - min_lr) * (1 + math.cos(math.pi * x)) / 2


# ---- the text


class Examples(NamedTuple):
    """What to learn from: row by row, what is seen and what should follow each token of it."""

    ids: np.ndarray  # [N, T] int
    targets: np.ndarray  # [N, T] int; -1 where it does not count


def windows_of(ids: Sequence[int], block_size: int) -> Examples:
    """All windows of a text: N = len(ids) - block_size examples that overlap, in no more memory than the text.

    >>> windows_of([5, 6, 7, 8], 2).targets.tolist()
    [[6, 7], [7, 8]]
    """
    windows = np.lib.stride_tricks.sliding_window_view(np.array(ids, dtype=np.int32), block_size + 1)
    return Examples(windows[:, :-1], windows[:, 1:])


def questions_of(lines: Sequence[Question], end: int, block_size: int) -> Examples:
    """An example for each question and its answer. What counts is the answer, and the end-of-text id after it.

    >>> ids, targets = questions_of([((1, 2), (3,)), ((4,), (5,))], end=9, block_size=3)
    >>> ids.tolist(), targets.tolist()
    ([[1, 2, 3], [4, 5, 9]], [[-1, 3, 9], [5, 9, -1]])
    """
    ids = np.full((len(lines), block_size), end, dtype=np.int32)
    targets = np.full_like(ids, UNCOUNTED)
    for i, (question, answer) in enumerate(lines):
        length = len(question) + len(answer)
        ids[i, :length] = question + answer
        targets[i, len(question) - 1 : length] = [*answer, end]
    return Examples(ids, targets)


def batch(examples: Examples, size: int, *, seed: int, step: int) -> Examples:
    """Draw the examples of a step: a function of the seed and the step, so that nothing else has to be kept of it.

        row_i = (the i-th output of Philox with key (seed, 0), counter (step)) mod N

    Returns Examples of `size` rows, with repetition.
    Source: Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3". NumPy promises never to change the
    output of its generator. The remainder favours no row by more than N / 2^64.

    >>> batch(windows_of(range(100), 2), size=3, seed=1, step=7).ids.tolist()
    [[78, 79], [71, 72], [65, 66]]
    """
    generator = np.random.Philox(
        key=np.array([seed, 0], dtype=np.uint64), counter=np.array([0, step, 0, 0], dtype=np.uint64)
    )
    rows = (generator.random_raw(size) % np.uint64(len(examples.ids))).astype(np.intp)
    return Examples(examples.ids[rows], examples.targets[rows])


def byte_tokenizer() -> Tokenizer:
    """A token for each byte, and end-of-text: what suits a text too small for a vocabulary.

    >>> byte_tokenizer().encode("3=")
    [51, 61]
    """
    return Tokenizer([], added=[AddedToken(END_OF_TEXT, 256, special=True)])


def read_text(path: Path) -> tuple[str, str]:
    """Return the text of a file, and the sha256 of its bytes. Raises TokenError where it is not UTF-8, or empty."""
    raw = path.read_bytes()
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise TokenError(f"{path}: byte {raw[error.start]:#04x} at {error.start} is not UTF-8: convert it") from None
    if not text.strip():
        raise TokenError(f"{path}: empty, expected a text to learn from")
    return text, hashlib.sha256(raw).hexdigest()


def read_examples(
    texts: Sequence[tuple[Path, str]], tokenizer: Tokenizer, config: Config | None, settings: Settings
) -> tuple[Examples, Examples]:
    """Return what to learn from, and what is held out: the second text, or a tenth of the only one, its last.

    config  that of the model, or None where it is still to be made, with a context that fits
    Raises TokenError for a text that is too short, or without the separator; ContextError for a line too long;
    OptionError for a block_size that the model has not.
    """
    limit = LONGEST_LINE if config is None else config.n_ctx
    if settings.block_size is not None:
        fits = config is None or settings.block_size <= config.n_ctx
        check_option("block_size", settings.block_size, fits, f"at most {limit}, the context of {settings.start}")
        limit = settings.block_size
    if settings.answers_after is not None:
        return read_questions(texts, tokenizer, limit, settings)

    block_size = settings.block_size or min(64, limit)
    parts = [(path, "", text) for path, text in texts]
    if len(texts) == 1:
        path, text = texts[0]
        cut = len(text) * 9 // 10
        parts = [(path, "all but its last tenth ", text[:cut]), (path, "its last tenth, held out, ", text[cut:])]
    found = []
    for path, part, text in parts:
        ids = tokenizer.encode(text, allow_special=settings.allow_special)
        if len(ids) <= block_size:
            raise TokenError(
                f"{path}: {part}has {len(ids)} tokens, expected {block_size + 1} or more: give more text, or a smaller "
                f"block_size"
            )
        found.append(windows_of(ids, block_size))
    training, held_out = found
    return training, Examples(*(x[::block_size] for x in held_out))  # side by side


def read_questions(
    texts: Sequence[tuple[Path, str]], tokenizer: Tokenizer, limit: int, settings: Settings
) -> tuple[Examples, Examples]:
    """`read_examples` of lines: every tenth is held out. No question that is held out is learned from elsewhere."""
    end = tokenizer.special_tokens.get(END_OF_TEXT)
    if end is None:
        raise OptionError(f"answers_after needs a vocabulary with {END_OF_TEXT}, which ends an answer: choose another")
    lines, *others = (parse_lines(path, text, tokenizer, limit, settings) for path, text in texts)
    held_out = others[0] if others else lines[9::10] or lines[-1:]
    asked = {question for question, _ in held_out}
    lines = [line for line in lines if line[0] not in asked]
    if not lines or not held_out:
        raise TokenError(f"{texts[0][0]}: no lines are left to learn from: expected 2 or more that differ")
    longest = max(len(question) + len(answer) for question, answer in [*lines, *held_out])
    return questions_of(lines, end, longest), questions_of(held_out, end, longest)


def parse_lines(path: Path, text: str, tokenizer: Tokenizer, limit: int, settings: Settings) -> list[Question]:
    """Return the ids of each question, with its separator, and of its answer. Blank lines are passed over.

    Raises TokenError for a line without the separator, ContextError for one of more than `limit` tokens.
    """
    separator = settings.answers_after or ""
    lines: list[Question] = []
    for number, line in enumerate(text.replace("\r\n", "\n").split("\n"), 1):
        if not line.strip():
            continue
        question, found, answer = line.partition(separator)
        if not found:
            raise TokenError(
                f"{path}: line {number}: no {separator!r} in {line!r:.60}, expected a question, {separator!r} and the "
                f"answer"
            )
        parts = question + separator, answer  # apart, since the answer is not there yet when it is asked for
        ids, answer_ids = (tuple(tokenizer.encode(x, allow_special=settings.allow_special)) for x in parts)
        if len(ids) + len(answer_ids) > limit:
            raise ContextError(
                f"{path}: line {number}: {len(ids) + len(answer_ids)} tokens, expected at most {limit}: shorten it, or "
                f"give a larger block_size"
            )
        lines.append((ids, answer_ids))
    return lines


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


def check_settings(settings: Settings) -> None:
    """Raise OptionError for the first setting that is out of its range."""
    s = settings
    for name in ("steps", "batch_size"):
        check_count(name, getattr(s, name), least=1)
    for name in ("block_size", "n_layer", "n_head", "n_embd"):
        value = getattr(s, name)
        check_option(name, value, value is None or (is_integer(value) and value >= 1), "an integer of 1 or more")
        if name[0] == "n" and s.start is not None:
            check_option(name, value, value is None, f"nothing: {s.start} has its own sizes")
    if s.start is not None:
        check_option("tokenizer", s.tokenizer, s.tokenizer is None, f"nothing: {s.start} has its own vocabulary")
    width, heads = s.n_embd or 128, s.n_head or 4
    check_option("n_embd", width, width % heads == 0, f"a multiple of n_head, {heads}")
    lr, least = s.learning_rate, s.min_lr
    check_option("learning_rate", lr, is_number(lr) and lr > 0, "a number above 0")
    fits = least is None or (is_number(least) and 0 <= least <= lr)
    check_option("min_lr", least, fits, f"a number from 0 to learning_rate, {lr}")
    check_count("warmup_steps", s.warmup_steps)
    for name in ("weight_decay", "grad_clip"):
        value = getattr(s, name)
        check_option(name, value, is_number(value) and value >= 0, "a number, 0 or more")
    for name in ("beta1", "beta2"):
        value = getattr(s, name)
        check_option(name, value, is_number(value) and 0 <= value < 1, "a number from 0 to below 1")
    check_seed("seed", s.seed)
    check_option("dtype", s.dtype, s.dtype in ("float32", "float64"), "float32 or float64")
    check_option("answers_after", s.answers_after, s.answers_after != "", "one or more characters")


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
