"""A debug state of llm.c beside ours: the logits, the loss, and the gradient of every parameter.

Ours are computed in float64, and compared in the order in which they come to be: logits, loss, and gradients from the
end of the model to its beginning, so that the first that differs is where to look. What rounding can do is measured as
in noise.py, but row by row: the gradient of a token that no text has is millions of times smaller than that of one
that they have, and each row of a matrix is held to its own noise, at least to the mean one of its matrix.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from numgpt.checkpoint.llmc import is_turned
from numgpt.checkpoint.names import hub_name
from numgpt.checks import check_ids
from numgpt.config import Config
from numgpt.errors import OptionError
from numgpt.model import Ids, Model, Record, identity
from numgpt.params import leaves, map_leaves, param_shapes
from numgpt.trace import layer_and_base
from numgpt.training.backward import loss_and_grads
from numgpt.training.backward_ops import embed_backward
from numgpt.verify.dump import Dump
from numgpt.verify.llmc_state import State, write_state
from numgpt.verify.noise import (
    EPS,
    PRECISION,
    ROUNDINGS,
    WIDEN,
    converted,
    precision_of,
    root_mean_square,
)
from numgpt.verify.pattern import factor_line
from numgpt.verify.report import Report, Row, compare

TINY = float(np.finfo(np.float32).tiny) / EPS  # what is smaller loses digits in float32 on its way
TOKENS = 1024  # of the texts that are computed at a time: more need more memory, fewer more time
LUCK = 10  # so many times under the noise no three passes are
PADDING = "d_wte.padding"  # the rows past the vocabulary, which have to be 0
LLMC = {  # what llm.c calls a parameter, less its w or b
    "wte": "wte",
    "wpe": "wpe",
    "ln_1": "ln1",
    "attn.c_attn": "qkv",
    "attn.c_proj": "attproj",
    "ln_2": "ln2",
    "mlp.c_fc": "fc",
    "mlp.c_proj": "fcproj",
    "ln_f": "lnf",
}


# --- ours

Outcome = dict[str, np.ndarray]  # "logits", "loss" and the gradients, "d_" and the path of the parameter


def outcome(x: np.ndarray, y: np.ndarray, params: dict[str, Any], config: Config, record: Record = identity) -> Outcome:
    """Return what the model makes of a batch, in the dtype of its parameters.

    x, y    [B, S] int: ids, and what follows each
    record  sees (and may replace) every intermediate of some of the texts, then the gradient of each
    Returns logits [B, S, V], loss [1], and the gradient of each parameter in the shape that this has, from the end of
    the model to its beginning. Beside them, "d_embed" [B, S, C] is the gradient of the embeddings.
    """
    kept: dict[str, list[np.ndarray]] = {"logits": [], "d_embed": []}

    def keep(name: str, value: np.ndarray) -> np.ndarray:
        value = record(name, value)
        if name in kept:
            kept[name].append(value)
        return value

    mean, sums = 0.0, dict[str, np.ndarray]()
    step = max(1, TOKENS // x.shape[1])
    for i in range(0, len(x), step):
        share = len(x[i : i + step]) / len(x)
        loss, grads = loss_and_grads(x[i : i + step], y[i : i + step], params, config, keep)
        mean += share * loss
        kept["d_embed"][-1] = share * kept["d_embed"][-1]
        for path, d_p in leaves(grads):
            d_p *= share
            sums[path] = sums[path] + d_p if path in sums else d_p
    outputs = {"logits": np.concatenate(kept["logits"]), "loss": np.array([mean])}
    gradients = {f"d_{path}": sums[path] for path in reversed(sums)}
    return {**outputs, **gradients, "d_embed": np.concatenate(kept["d_embed"])}


def write_trace_of_gradients(path: Path, ids: Ids, model: Model) -> float:
    """Write the debug state of one text: x is all of its ids but the last, y all but the first.

    Returns the loss. All is computed in float64.
    Raises OptionError for less than two ids; TokenError, ContextError, and what `write_state` raises.

    >>> import tempfile
    >>> import numgpt
    >>> from numgpt.verify.llmc_state import read_state
    >>> model = numgpt.load("storyteller")
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     loss = write_trace_of_gradients(Path(folder, "state.bin"), [46, 1198, 2402, 257, 640], model)
    ...     state = read_state(Path(folder, "state.bin"), model.config)
    ...     report = compare_state(state, model)
    >>> round(loss, 2), report.passed, len(report.rows)
    (1.42, True, 78)
    """
    array = check_ids(ids, model.config.n_vocab)
    if len(array) < 2:
        raise OptionError("a debug state of 1 id, expected 2 or more, of which each but the first is to be foretold")
    x, y = array[None, :-1], array[None, 1:]
    ours = outcome(x, y, converted(model.params, np.float64), model.config)
    grads = {hub_name(path): ours[f"d_{path}"] for path, _ in leaves(param_shapes(model.config))}
    write_state(path, x, y, ours["logits"], float(ours["loss"][0]), grads, model.config)
    return float(ours["loss"][0])


# --- what rounding does


class Sizes(NamedTuple):
    """How large the numbers of each row of a tensor are."""

    largest: np.ndarray  # [rows]
    rms: np.ndarray


def sizes_of(x: np.ndarray) -> Sizes:
    """Return the sizes of the rows of a tensor, those of its last axis."""
    rows = x.reshape(-1, x.shape[-1])
    return Sizes(abs(rows).max(axis=1), np.sqrt(np.mean(rows * rows, axis=1)))


Noise = dict[str, Sizes]


def measured(truth: Outcome, other: Outcome, before: Noise | None = None) -> Noise:
    """Return the noise of each tensor: the most that it was off in a pass, or in those that were measured before."""
    noise = {name: sizes_of(other[name].astype(np.float64) - x) for name, x in truth.items()}
    return {name: Sizes(*map(np.maximum, noise[name], before[name])) for name in noise} if before else noise


def at_least(noise: Sizes, truth: np.ndarray, scale: float) -> Sizes:
    """Return the noise of each row of a tensor in a precision: not less than its rows have, on average, for their size.

    scale  how large rounding is, over that of float32
    """

    def floor(found: np.ndarray, size: np.ndarray) -> np.ndarray:
        known = size > TINY
        part = float(np.mean(found[known] / size[known])) if known.any() else 0.0
        return scale * np.maximum(found, max(part, EPS) * size) + TINY

    return Sizes(*map(floor, noise, sizes_of(truth)))


def rounding(seed: int) -> Record:
    """Return what puts an error of up to half an eps of float32, either way, into every number of a tensor."""
    draw = np.random.default_rng(seed)
    return lambda name, x: x * (1 + EPS / 2 * draw.uniform(-1, 1, x.shape))


def as_before_bfloat16(params: dict[str, Any], seed: int) -> dict[str, Any]:
    """Return parameters, some that may have been rounded to those: each is moved by up to half a unit of bfloat16."""
    draw = np.random.default_rng(seed)

    def moved(path: str, w: np.ndarray) -> np.ndarray:
        half = np.where(w == 0, 0.0, np.ldexp(1.0, np.frexp(w)[1] - 9))
        return w + half * draw.uniform(-1, 1, w.shape)

    return map_leaves(moved, params)


# --- the comparison


def compare_state(state: State, model: Model) -> Report:
    """Compare a debug state of llm.c with ours.

    state  of `read_state`
    model  the same checkpoint
    Returns a Report, whose last row is the first that differs, if any does. Gradients are in our layout, and called
    "d_" and the path of the parameter.
    Notes: the state is held as of the precision of its logits. Where the weights of the model are numbers of bfloat16,
    and the logits differ, it may have been made before they were rounded: then what that does counts as noise too.
    """
    with np.errstate(all="ignore"):  # a file may hold anything, and is then told of
        return _compare(state, model)


def _compare(state: State, model: Model) -> Report:
    x, y, config = state.x, state.y, model.config
    params = converted(model.params, np.float64)
    precision = precision_of(state.tensors["logits"].read())
    truth = outcome(x, y, params, config)
    noise = measured(truth, outcome(x, y, converted(model.params, np.float32), config))
    held = StateComparison(state, truth, noise, PRECISION[precision])
    held = held.widened(lambda seed: outcome(x, y, params, config, rounding(seed)))
    if not held.rows[0].passed and all(precision_of(w) == "bfloat16" or not w.any() for _, w in leaves(params)):
        wider = held.widened(lambda seed: outcome(x, y, as_before_bfloat16(params, seed), config))
        if wider.rows[0].passed:
            held, precision = wider, f"{precision} and of the weights to bfloat16"
    end = next((i + 1 for i, row in enumerate(held.rows) if not row.passed), len(held.rows))
    causes, pattern = ([], []) if held.rows[end - 1].passed else held.explain(held.rows[end - 1], model)
    return Report(held.rows[:end], len(held.rows) - end, precision, {}, causes, pattern)


class StateComparison:
    """A debug state, what ours is, and the noise of each tensor."""

    def __init__(self, state: State, truth: Outcome, noise: Noise, scale: float) -> None:
        self.state, self.truth, self.noise, self.scale = state, truth, noise, scale
        self.rows = [self.row(name) for name in truth if name != "d_embed"]
        if (padding := self.padding()) is not None:
            self.rows.append(padding)

    def widened(self, make: Callable[[int], Outcome]) -> "StateComparison":
        """Return the comparison with the noise of more passes, by seed, as many as it takes to be sure."""
        held = self
        for seed in range(ROUNDINGS):
            over = [row.times for row in held.rows if not row.passed and row.name != PADDING]
            if not over or (seed > 1 and over[0] > LUCK * WIDEN):
                break
            held = StateComparison(self.state, self.truth, measured(self.truth, make(seed), held.noise), self.scale)
        return held

    def theirs(self, name: str) -> np.ndarray:
        """Return a tensor of the state under our name and in our layout, in float64."""
        hub = name if name in self.state.tensors else hub_name(name.removeprefix("d_"))
        x = self.state.tensors[hub].read().astype(np.float64)
        if name == "d_wte":
            return x[: len(self.truth[name])]
        return x.T if is_turned(hub) else x.reshape(self.truth[name].shape)

    def over_noise(self, name: str, difference: np.ndarray) -> tuple[np.ndarray, float]:
        """Return how many times the noise each number is apart; and the tensor, by its rows' mean square too."""
        noise = at_least(self.noise[name], self.truth[name], self.scale)
        each = difference / noise.largest.reshape(*difference.shape[:-1], 1)
        rows = sizes_of(difference).rms / noise.rms
        return each, float(max(each.max(), rows.max()))

    def row(self, name: str) -> Row:
        ours = self.truth[name]
        difference = distance(self.theirs(name), ours)
        largest, size = float(difference.max()), float(abs(ours).max())
        noise = float(at_least(self.noise[name], ours, self.scale).largest.max())
        times = self.over_noise(name, difference)[1]
        relative = largest / size if size else largest and np.inf
        return Row(name, llmc_name(name), ours.shape, largest, relative, noise, times, times <= WIDEN)

    def padding(self) -> Row | None:
        """Return the row of what lies past the vocabulary in the gradient of wte; None where nothing does."""
        rest = self.state.tensors["wte.weight"].read()[len(self.truth["d_wte"]) :]
        if not rest.size:
            return None
        largest = float(distance(rest, np.zeros_like(rest)).max())
        times = np.inf if largest else 0.0
        return Row(PADDING, "dwte", rest.shape, largest, times, 0.0, times, not largest)

    def explain(self, row: Row, model: Model) -> tuple[list[str], list[str]]:
        """Return the causes of a difference, the likeliest first; and what it looks like, where there are none."""
        if row.name == PADDING:
            return ["the gradient of wte is not 0 in its rows past the vocabulary, which stand for no token"], []
        theirs, ours = self.theirs(row.name), self.truth[row.name]
        if row.name == "logits":
            b = int(self.over_noise("logits", distance(theirs, ours))[0].max(axis=(1, 2)).argmax())
            found = compare(Dump({"logits": theirs[b]}, {}), model, self.state.x[b])
            if not found.passed:
                which = [f"this is text {b} of {len(theirs)}"] if len(theirs) > 1 else []
                return found.causes, [] if found.causes else [*found.pattern, *which]
        noise = relative(self.noise[row.name].rms * self.scale, ours)
        causes = []
        for words, candidate in mistakes(row.name, ours, self):
            times = relative(distance(theirs, candidate), candidate) / noise
            if times <= WIDEN:
                causes.append(f"{words} (with it the difference falls to {times:.2g} times the noise)")
        return causes, [] if causes else list(self.describe(row.name, theirs, ours, model.config))

    def describe(self, name: str, theirs: np.ndarray, ours: np.ndarray, config: Config) -> Iterator[str]:
        """Yield what the difference of a tensor looks like, in lines: where it is, and what is right behind it."""
        each = self.over_noise(name, distance(theirs, ours))[0]
        at = tuple(map(int, np.unravel_index(int(each.argmax()), each.shape)))
        count = max(1, int((each > WIDEN).sum()))
        place = f"{name}{list(at)}{llmc_place(name, at)}"
        found = f"{theirs[at]:.7g}, expected {ours[at]:.7g}"
        differ = "differ, most of all" if count > 1 else "differs"
        yield f"{count:,} of {ours.size:,} numbers {differ}: {place} is {found}"
        if np.isfinite(theirs).all() and count > 1:
            yield from factor_line(theirs, ours, config)
        names = [row.name for row in self.rows]
        behind = self.rows[names.index(name) + 1 :]
        if wrong := [row.name for row in behind if not row.passed]:
            yield f"{len(wrong)} of the {len(behind)} tensors behind it differ too, {wrong[0]} first"
        elif behind:
            yield f"the {len(behind)} tensors behind it are right: the way back through the model is, too"


def relative(difference: np.ndarray, x: np.ndarray) -> float:
    """Return how large a difference is, as a part of a tensor, in the root mean square."""
    return root_mean_square(difference) / max(root_mean_square(x), TINY)


def distance(theirs: np.ndarray, ours: np.ndarray) -> np.ndarray:
    """Return how far each number is from ours: infinitely where it is none."""
    difference = abs(theirs - ours)
    return np.where(np.isnan(difference), np.inf, difference)


# --- what may have happened


def mistakes(name: str, ours: np.ndarray, held: StateComparison) -> Iterator[tuple[str, np.ndarray]]:
    """Yield the usual mistakes with what each of them would make of ours."""
    B, S = held.state.x.shape
    if name != "logits":
        if B * S > 1:
            yield "the loss is summed over all tokens, and not their mean", ours * B * S
        if B > 1 and S > 1:
            yield "the loss is the mean over the tokens of a text, summed over the texts", ours * B
    if is_turned(hub_name(name)):
        stored = np.ascontiguousarray(ours).reshape(ours.shape[::-1]).T
        yield "it is written as [in, out], expected [out, in], as nn.Linear has it", stored
    if name == "d_wte":
        at_input = embed_backward(held.truth["d_embed"], held.state.x, len(ours), S)[0]
        yield "the part of the output head is missing, which is wte too", at_input
        yield "the part of the token embedding is missing: there is that of the output head alone", ours - at_input


# --- names


def llmc_name(name: str) -> str:
    """Return what llm.c calls a tensor, with the number of the layer.

    >>> [llmc_name(name) for name in ("loss", "d_wte", "d_h.3.attn.c_attn.w", "d_ln_f.g")]
    ['loss', 'dwte', 'dqkvw[3]', 'dlnfw']
    """
    if not name.startswith("d_"):
        return name
    layer, base = layer_and_base(name.removeprefix("d_"))
    if base in LLMC:
        return f"d{LLMC[base]}"
    stem, _, last = base.rpartition(".")
    return f"d{LLMC[stem]}{'b' if last == 'b' else 'w'}{'' if layer is None else f'[{layer}]'}"


def llmc_place(name: str, at: tuple[int, ...]) -> str:
    """Say which number of llm.c's tensor is ours at a place.

    >>> llmc_place("d_h.3.attn.c_attn.w", (17, 5)), llmc_place("logits", (0, 1, 2))
    (', in llm.c dqkvw[3, 5, 17],', '')
    """
    if not name.startswith("d_"):
        return ""
    theirs = llmc_name(name)
    at = at[::-1] if is_turned(hub_name(name)) else at
    stem, _, layer = theirs.rstrip("]").partition("[")
    return f", in llm.c {stem}[{', '.join([layer] * bool(layer) + list(map(str, at)))}],"
