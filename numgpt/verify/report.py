"""verify: where another implementation first parts from this one, by how much, and why.

A dump holds any of the intermediates of a forward pass elsewhere, under the names of TRACE_SHAPES or of FOREIGN. Each
is compared, in the order of the model, with what ours in float64 makes of those before it in the dump, down to the
first that differs by more than rounding can do. So each step is judged by itself: errors of the steps before neither
hide its own nor pass for them. Then every mistake of causes.py is tried: the one under which our numbers become theirs
is what happened there.

How much rounding can do is measured, for each tensor and each text: our own pass in float32 against that in float64
gives its noise. Another program adds up in another order, so that its errors are others of the same kind. WIDEN allows
it so many times ours, in the largest difference and in the root mean square; before anything is said to differ, our
noise is measured again in passes that round at random, so that it is not a stroke of luck. Transformers on 600 random
models had at most 4.8 times ours, a sum of 3,072 products one by one 5 times; the least of the mistakes, an epsilon of
1e-6 for 1e-5, makes 5 to 50. A dump in float64 is held to the same noise times 2^-29, the ratio of the two precisions,
as rounding grows in proportion; those in float16 and bfloat16 to 2^13 and 2^16 times as much.
"""

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from numgpt.checks import check_ids
from numgpt.config import Config
from numgpt.errors import CheckpointError, OptionError
from numgpt.model import Ids, Model, forward
from numgpt.params import map_leaves
from numgpt.trace import trace_shapes
from numgpt.verify.causes import NORMS, QKV, Cause, Site, all_causes, half, norm_input, solve_eps, wrong_epsilon
from numgpt.verify.dump import Dump
from numgpt.verify.foreign import BEFORE_GAIN, Found, Misfit, is_veiled, place, rename

WIDEN = 8.0  # times our noise that another program may have
ROUNDINGS = 8  # passes with rounding at random, beside the one in float32, before anything is said to differ
EPS = float(np.finfo(np.float32).eps)
SLACK = 30.0  # times that, for a first look at a cause whose own noise is not measured yet
MASKED = -5e3  # scores from here down are masked: programs add -1e4, or put -1e9, the lowest float or -inf there
# How large rounding is, over that of float32.
PRECISION = {"float64": 2.0**-29, "float32": 1.0, "float16": 2.0**13, "bfloat16": 2.0**16}
IDS = ("ids", "input_ids", "tokens", "idx", "inputs")  # what the ids of a dump are called
LESS = 0.3  # of the difference that a cause may leave to be looked at closely
GOOD = 9.0  # squares, in those of the noise, that a cause may leave which needs no rival
AMONG_EQUALS = 4.0  # times the likeliest cause's squares that another may leave, and still be named
# A cause that rounds can't be met exactly: values on an edge between two numbers go either way.
COARSE = 0.02  # of the difference that it may leave where few do
ALIKE = 0.6  # correlation of the difference that it makes with that of the dump, where many do


class Gap(NamedTuple):
    """How far two tensors are apart."""

    largest: float
    rms: float

    def over(self, noise: "Gap") -> float:
        """How many times the noise this is."""
        with np.errstate(all="ignore"):
            return float(np.nanmax([0 if a == 0 else np.float64(a) / b for a, b in zip(self, noise, strict=True)]))


class Row(NamedTuple):
    """One tensor of the comparison."""

    name: str
    source: str  # its name in the dump
    shape: tuple[int, ...]
    max_abs: float
    max_rel: float  # max_abs over our largest value
    noise: float  # what rounding does, in the largest difference
    times: float  # the difference over the noise; passed up to WIDEN
    passed: bool


class Report(NamedTuple):
    """What became of a dump."""

    rows: list[Row]  # up to the first that differs
    left: int  # tensors behind that, not compared any more
    precision: str  # of the dump, as which it was held: "float32", ...
    not_compared: dict[str, str]  # name in the dump -> why
    causes: list[str]  # the likeliest first; each brings the difference down to the noise
    pattern: list[str]  # what the difference looks like, where no cause explains it

    @property
    def passed(self) -> bool:
        return self.rows[-1].passed


def compare(dump: Dump, model: Model, ids: Ids | None = None) -> Report:
    """Compare the intermediates of another implementation with ours.

    dump   of `read_dump`: any of the tensors, with the ids, for one text
    model  the same checkpoint
    ids    [T]; None for those in the dump
    Returns a Report, whose last row is the first that differs, if any does.
    Raises OptionError where there are no ids; CheckpointError where nothing can be compared; TokenError, ContextError.
    Notes: a search for the cause takes some hundred passes where the logits are all there is, so dump a short text.

    >>> import numgpt
    >>> from numgpt.trace import collect
    >>> model = numgpt.load("storyteller")
    >>> bias = model.params["h"][2]["attn"]["c_proj"]["b"]
    >>> theirs = collect([46, 1198], model, replace={"h.2.attn_out": lambda x: x - bias})
    >>> report = compare(Dump(theirs, {"ids": "[46, 1198]"}), model)
    >>> report.passed, report.rows[-1].name, report.causes[0].partition(" (")[0]
    (False, 'h.2.attn_out', 'missing bias: attn.c_proj.b, in layer 2 alone')
    """
    ids = check_ids(ids_of(dump) if ids is None else ids, model.config.n_vocab)
    found, misfits, not_compared = find_tensors(dump, model, len(ids))
    if not found and not misfits:
        listed = "; ".join(f"{name}: {why}" for name, why in list(not_compared.items())[:5])
        raise CheckpointError(f"the dump has no tensor to compare, expected names such as h.0.attn.q; {listed}")
    search = Search(ids, model, found)
    if not all(search.row(name).passed for name in found):
        search.measure_again()
    table = [misfits[name] if name in misfits else search.row(name) for name in in_order({**found, **misfits}, model)]
    end = next((i + 1 for i, row in enumerate(table) if not row.passed), len(table))
    rows = table[:end]
    explained: list[str] = []
    pattern: list[str] = []
    if differing := [row.name for row in table if row.name in found and not row.passed]:
        explained, pattern = search.explain(differing[0])
    if rows[-1].name in misfits:
        explained, pattern = explained or [not_compared[rows[-1].source]], []
    return Report(rows, len(table) - end, search.precision, not_compared, explained, pattern)


def in_order(names: Iterable[str], model: Model) -> list[str]:
    """Sort names as the model computes them."""
    return [name for name in trace_shapes(model.config, 1) if name in set(names)]


def ids_of(dump: Dump) -> Ids:
    """Return the ids of a dump: one of its arrays, or a list in JSON in its metadata.

    Raises OptionError where there are none, or those of several texts.
    """
    for name in IDS:
        if name in dump.tensors:
            ids = dump.tensors[name]
            if not ids.ndim or ids.size != ids.shape[-1]:
                raise OptionError(f"{name} has shape {ids.shape}, expected the ids of one text: dump one at a time")
            return ids.reshape(-1)
    try:
        ids = json.loads(dump.metadata["ids"])
    except (KeyError, ValueError, RecursionError):
        raise OptionError("the dump has no ids, expected an array 'ids': add it, or give them by --ids") from None
    return ids if isinstance(ids, list) else [ids]


def find_tensors(dump: Dump, model: Model, T: int) -> tuple[dict[str, Found], dict[str, Row], dict[str, str]]:
    """Find those tensors of a dump that we have too.

    Returns them by our names in model order; rows for those whose shape can't be right; and why others, by their
    names in the dump, are not compared.
    """
    found: dict[str, Found] = {}
    misfits: dict[str, Row] = {}
    not_compared: dict[str, str] = {}
    for source, tensor in dump.tensors.items():
        name = rename(source)
        if name is None:
            not_compared |= {} if source in IDS else {source: "no name that we know"}
            continue
        try:
            placed = place(name, tensor, model.config, T)
        except Misfit as misfit:
            not_compared[source] = str(misfit)
            if misfit.name:
                misfits[misfit.name] = Row(misfit.name, source, tensor.shape, np.inf, np.inf, 0.0, np.inf, False)
            continue
        for ours, x in placed.items():
            if source.endswith("hook_normalized") and is_before_gain(x, ours, model.params):
                not_compared[source] = BEFORE_GAIN
            elif ours not in found or (found[ours].veiled and not is_veiled(name)):
                found[ours] = Found(source, x.astype(np.float64), is_veiled(name))
            else:
                not_compared[source] = "the same as another tensor of the dump"
    misfits = {name: row for name, row in misfits.items() if name not in found}
    return {name: found[name] for name in in_order(found, model)}, misfits, not_compared


def is_before_gain(x: np.ndarray, name: str, params: dict[str, Any]) -> bool:
    """Whether x is a layer norm before gain and bias: in TransformerLens the two have one name."""
    layer, base = layer_and_base(name)
    p = (params if layer is None else params["h"][layer])[base]
    does_nothing = np.allclose(p["g"], 1) and np.allclose(p["b"], 0)
    return not does_nothing and bool((abs(x.mean(-1)) < 1e-3).all() and (abs(x.var(-1) - 1) < 1e-2).all())


# --- the distance between two tensors


def masked(name: str, x: np.ndarray) -> np.ndarray:
    """Return scores with -inf wherever they are masked; other tensors as they are."""
    return np.where(x <= MASKED, -np.inf, x) if name.endswith("attn.scores") else x


def gap(name: str, x: np.ndarray, y: np.ndarray) -> Gap:
    """Return how far two tensors are apart: infinitely where one is not finite and the other is, or is otherwise."""
    x, y = masked(name, x), masked(name, y)
    known = np.isfinite(x)
    if not np.array_equal(known, np.isfinite(y)) or not np.array_equal(x[~known], y[~known], equal_nan=True):
        return Gap(np.inf, np.inf)
    if np.isnan(x).all():  # equal, but no evidence of anything
        return Gap(np.inf, np.inf)
    difference = x[known] - y[known]
    return Gap(float(abs(difference).max(initial=0.0)), root_mean_square(difference))


def root_mean_square(x: np.ndarray) -> float:
    return float(np.sqrt(np.mean(x * x))) if x.size else 0.0


def noise_of(name: str, passes: list[np.ndarray], truth: np.ndarray) -> Gap:
    """Return the noise of a tensor in float32: the most that rounding did to it in some passes.

    It is at least one rounding of the values, for what a pass got right by luck.
    """
    values = truth[np.isfinite(truth)]
    least = Gap(EPS * float(abs(values).max(initial=0.0)), EPS / 2 * root_mean_square(values))
    gaps = [gap(name, x.astype(np.float64), truth) for x in passes]
    return Gap(*(max(size for size in sizes if np.isfinite(size)) for sizes in zip(least, *gaps, strict=True)))


def rounding(seed: int) -> "Rounded":
    """Return what puts an error of up to half an eps of float32, either way, into every number of a tensor.

    A layer norm also gets that of programs that compute x r - mean(x) r: as large as x r, however much of it cancels.
    Source: Parker 1997, "Monte Carlo arithmetic".
    """
    draw = np.random.default_rng(seed)

    def error(x: np.ndarray) -> np.ndarray:
        return EPS / 2 * draw.uniform(-1, 1, x.shape)

    def rounded(name: str, site: Site, value: np.ndarray) -> np.ndarray:
        value, base = value * (1 + error(value)), layer_and_base(name)[1]
        if base not in NORMS:
            return value
        x = norm_input(base, site)
        r = 1 / np.sqrt(x.var(-1, keepdims=True) + site.config.layer_norm_epsilon)
        return value + site.p[base]["g"] * x * r * error(x)

    return rounded


def precision_of(found: Mapping[str, Found]) -> str:
    """Return the coarsest precision that holds all values of a dump: that in which it was computed, or kept."""
    values = np.concatenate([np.zeros(0), *(tensor.x[np.isfinite(tensor.x)] for tensor in found.values())])
    if not values.any():
        return "float32"
    with np.errstate(over="ignore"):
        single = values.astype(np.float32)
    if not np.array_equal(single, values):
        return "float64"
    if not (single.view(np.uint32) & 0xFFFF).any():
        return "bfloat16"
    return "float16" if np.array_equal(half(values), values) else "float32"


# --- one pass, with a mistake in it

Rounded = Callable[[str, Site, np.ndarray], np.ndarray]  # name, site, value -> value with errors
Where = Callable[[str], bool]  # whether a mistake touches the tensor of a name


class _Enough(Exception):
    """Ends a pass that has shown what it should."""


def run(
    ids: np.ndarray,
    params: dict[str, Any],
    config: Config,
    dump: Mapping[str, Found],
    cause: Cause | None = None,
    where: Where | None = None,
    rounded: Rounded | None = None,
    stop: Callable[[str, np.ndarray], bool] | None = None,
) -> dict[str, np.ndarray]:
    """Run the model, with a mistake in it where asked, and return what it makes of the tensors that a dump has.

    Each is returned as it comes out here, and then replaced by that of the dump, from which the next are computed.
    where    the names of the tensors that the mistake touches; None for all
    rounded  puts rounding errors into every tensor
    stop     is asked about each tensor that the dump has, and ends the pass by True
    """
    if cause and cause.patch:
        params = cause.patch(params)
    made: dict[str, np.ndarray] = {}
    seen: dict[str, np.ndarray] = {}
    x: np.ndarray = ids

    def record(name: str, value: np.ndarray) -> np.ndarray:
        nonlocal x
        layer, base = layer_and_base(name)
        if base == "ln_1":
            seen.clear()
        p = params if layer is None else params["h"][layer]
        site = Site(x, seen, value, p, config, layer or 0)
        touched = cause is not None and (where is None or where(name))
        edit, show = (cause.edits.get(base), cause.shown.get(base)) if cause and touched else (None, None)
        out = edit(site).astype(value.dtype, copy=False) if edit else value
        theirs = dump.get(name)
        if theirs:
            hidden = bool(edit and cause and cause.behind and theirs.veiled)  # the dump has what was before the mistake
            made[name] = value if hidden else show(site) if show else out
            if rounded:
                made[name] = rounded(name, site, made[name])
            if stop and stop(name, made[name]):
                raise _Enough
            if name != "logits" and not hidden and not show:
                out = theirs.x.astype(value.dtype)
        if rounded:
            out = rounded(name, site, out)
        seen[base] = out
        if base in ("embed", "resid_post"):
            x = out
        return out

    with np.errstate(all="ignore"), suppress(_Enough):
        forward(ids, params, config, record=record)
    return made


def layer_and_base(name: str) -> tuple[int | None, str]:
    """Return the layer of a name, and the name without it.

    >>> layer_and_base("h.3.attn.q"), layer_and_base("embed")
    ((3, 'attn.q'), (None, 'embed'))
    """
    found = re.match(r"h\.(\d+)\.(.+)", name)
    return (int(found[1]), found[2]) if found else (None, name)


def is_in(name: str, layer: int | None = None, base: str | None = None) -> bool:
    """Whether a tensor is of a layer, and of a kind; None stands for any."""
    its_layer, its_base = layer_and_base(name)
    return layer in (None, its_layer) and base in (None, its_base)


def scopes(cause: Cause, config: Config) -> Iterator[tuple[Where, str]]:
    """Yield in which tensors a mistake may have been made, widest first, and a phrase that says so."""
    bases = {*cause.edits, *cause.shown}
    outside = bases & {"embed", "ln_f", "logits"}
    yield partial(is_in), "" if cause.patch or bases == outside or config.n_layer == 1 else ", in every layer"
    if cause.apart:
        for base in sorted(bases):
            yield partial(is_in, base=base), f": {base}{'' if base in outside else ' of every layer'}"


def narrow_scopes(cause: Cause, config: Config, layers: range) -> Iterator[tuple[Where, str]]:
    """Yield the same for one layer, or one layer norm, alone."""
    bases = sorted({*cause.edits, *cause.shown} - {"embed", "ln_f", "logits"})
    for layer in layers if bases and config.n_layer > 1 else ():
        yield partial(is_in, layer=layer), f", in layer {layer} alone"
        if cause.apart:
            for base in bases:
                yield partial(is_in, layer=layer, base=base), f": h.{layer}.{base} alone"


# --- the search for the cause


class Fit(NamedTuple):
    """How well a cause explains a dump."""

    words: str
    explained: int  # how many tensors, from the first, come out as in the dump
    times: float  # what is left of the first difference, over the noise
    spread: float  # what is left on the whole, in squares of the noise: 1 where nothing but rounding is left
    then: str | None  # the first tensor that it does not explain
    alike: float | None  # of a cause that rounds, the correlation of its difference with that of the dump


class Search:
    """One comparison: the dump, our two passes, and the noise between them."""

    def __init__(self, ids: np.ndarray, model: Model, found: dict[str, Found]) -> None:
        self.ids, self.config, self.found = ids, model.config, found
        self.params64 = converted(model.params, np.float64)
        self.params32 = converted(model.params, np.float32)
        self.precision = precision_of(found)
        self.scale = PRECISION[self.precision]
        self.truth = run(ids, self.params64, self.config, found)
        self.passes = [run(ids, self.params32, self.config, found)]
        self.measure_noise()

    def measure_noise(self) -> None:
        self.noise = {name: noise_of(name, [x[name] for x in self.passes], x64) for name, x64 in self.truth.items()}

    def measure_again(self) -> None:
        """Measure the noise in more passes, where one in float32 may have been lucky."""
        for seed in range(ROUNDINGS):
            self.passes.append(run(self.ids, self.params64, self.config, self.found, rounded=rounding(seed)))
        self.measure_noise()

    def gap(self, name: str, ours: np.ndarray) -> Gap:
        """How far the dump is from a tensor of ours."""
        theirs = self.found[name].x
        return gap(name, theirs, ours[-theirs.shape[0] :] if name == "logits" else ours)

    def times(self, found: Gap, noise: Gap) -> float:
        return found.over(Gap(noise.largest * self.scale, noise.rms * self.scale))

    def row(self, name: str) -> Row:
        ours, noise = self.truth[name], self.noise[name]
        found = self.gap(name, ours)
        times = self.times(found, noise)
        size = float(abs(ours[np.isfinite(ours)]).max(initial=0.0))
        relative = found.largest / size if size else found.largest and np.inf
        source, shape = self.found[name].source, self.found[name].x.shape
        return Row(name, source, shape, found.largest, relative, noise.largest * self.scale, times, times <= WIDEN)

    def explain(self, first: str) -> tuple[list[str], list[str]]:
        """Return the causes that explain the first difference, best first; or what it looks like.

        What touches a tensor behind the last that agrees is tried first, then the rest: few dumps need it.
        """
        listed = list(all_causes(self.config, self.params64, self.solved_eps(first)))
        window = self.window(first)
        near = [cause for cause in listed if cause.patch or window & {*cause.edits, *cause.shown}]
        rest = [cause for cause in listed if cause not in near]
        fits: list[Fit] = []
        for some in near, rest:
            fits += self.try_all(first, ((cause, *scope) for cause in some for scope in scopes(cause, self.config)))
            if any(map(self.is_whole, fits)):
                return likeliest(fits), []
            layers = self.layers_of(first)
            one = ((cause, *scope) for cause in some for scope in narrow_scopes(cause, self.config, layers))
            fits += self.try_all(first, one)
            if any(fit.times <= WIDEN for fit in fits):
                return likeliest(fits), []
        cause = wrong_epsilon(self.config, self.search_eps(first))
        fits += self.try_all(first, ((cause, *scope) for scope in scopes(cause, self.config)))
        if any(fit.times <= WIDEN for fit in fits):
            return likeliest(fits), []
        pattern = describe(first, self.found[first].x, self.truth[first], self.config)
        if fits:
            best = min(fits, key=lambda fit: fit.times)
            pattern.append(f"nearest: {best.words}; it leaves {best.times:.3g} times the noise")
        return [], pattern

    def is_whole(self, fit: Fit) -> bool:
        """Whether a cause explains the whole dump."""
        return fit.explained == len(self.found) and fit.spread <= GOOD

    def try_all(self, first: str, attempts: Iterable[tuple[Cause, Where, str]]) -> list[Fit]:
        fits = [self.try_cause(first, *attempt) for attempt in attempts]
        return [fit for fit in fits if fit]

    def last_agreed(self, first: str) -> str | None:
        """The tensor of the dump before the first that differs."""
        names = list(self.found)
        return names[names.index(first) - 1] if names[0] != first else None

    def window(self, first: str) -> set[str]:
        """What is computed after the last tensor that agrees, up to the first that differs; without the layers."""
        names, last = list(trace_shapes(self.config, 1)), self.last_agreed(first)
        start = names.index(last) + 1 if last else 0
        window = {layer_and_base(name)[1] for name in names[start : names.index(first) + 1]}
        return window | {*QKV, "attn.scores"} if last and self.found[last].veiled else window

    def layers_of(self, first: str) -> range:
        """The layers in which a mistake can be that shows in one tensor, but in none before it."""
        last = self.last_agreed(first)
        start = layer_and_base(last)[0] if last else 0
        end = layer_and_base(first)[0]
        if end is None:
            end = 0 if first == "embed" else self.config.n_layer - 1
        return range(start or 0, end + 1)

    def search_eps(self, first: str) -> float:
        """The epsilon of all layer norms that leaves least of a difference: golden sections of its logarithm."""

        def left(power: float) -> float:
            cause = wrong_epsilon(self.config, 10**power)
            return self.gap(first, run(self.ids, self.params64, self.config, self.found, cause)[first]).rms

        powers = np.arange(-12.0, 0.0)
        best = powers[np.argmin([left(power) for power in powers])]
        a, b, section = best - 1, best + 1, (5**0.5 - 1) / 2
        for _ in range(20):
            c, d = b - section * (b - a), a + section * (b - a)
            a, b = (a, d) if left(c) < left(d) else (c, b)
        return float(f"{10 ** ((a + b) / 2):.2g}")

    def solved_eps(self, first: str) -> float | None:
        """The epsilon that gives the first difference, if that is a layer norm."""
        layer, base = layer_and_base(first)
        if base not in ("ln_1", "ln_2", "ln_f"):
            return None
        inputs: list[np.ndarray] = []

        def look(site: Site) -> np.ndarray:
            inputs.append(norm_input(base, site))
            return site.value

        only = partial(is_in, layer=layer, base=base)
        run(self.ids, self.params64, self.config, self.found, Cause("", {base: look}), only)
        p = self.params64 if layer is None else self.params64["h"][layer]
        return solve_eps(inputs[0], self.found[first].x, **p[base])

    def try_cause(self, first: str, cause: Cause, where: Where, phrase: str) -> Fit | None:
        """Return how well a cause explains the dump, or None if it doesn't lessen the first difference by much."""
        base, lessened, alike = self.gap(first, self.truth[first]), False, None

        def stop(name: str, x: np.ndarray) -> bool:
            nonlocal lessened, alike
            found = self.gap(name, x)
            if name != first:
                return self.times(found, self.noise[name]) > SLACK * WIDEN and not cause.coarse
            if cause.coarse:
                alike = self.likeness(name, x)
                lessened = alike >= ALIKE
            else:
                lessened = found.rms <= LESS * base.rms if np.isfinite(base.rms) else np.isfinite(found.rms)
            return True

        params = self.params32 if self.scale >= 1 and not cause.coarse else self.params64
        run(self.ids, params, self.config, self.found, cause, where, stop=stop)
        if not lessened:
            return None
        theirs64 = run(self.ids, self.params64, self.config, self.found, cause, where)
        theirs32 = run(self.ids, self.params32, self.config, self.found, cause, where)
        then, left, squares = None, np.inf, []
        for name, x64 in theirs64.items():
            noise, found = noise_of(name, [theirs32[name]], x64), self.gap(name, x64)
            noise = Gap(*map(max, noise, self.noise[name]))
            if cause.coarse:
                right = self.gap(name, self.truth[name])
                noise = Gap(*(max(a, COARSE * b) for a, b in zip(noise, right, strict=True)))
            times = self.times(found, noise)
            if name == first:
                left = times
            if times > WIDEN:
                then = name
                break
            squares.append((found.rms / (noise.rms * self.scale)) ** 2 if found.rms else 0.0)
        names = list(self.found)
        if then and names.index(then) < names.index(first):
            return None
        return Fit(cause.words + phrase, len(squares), left, float(np.mean(squares or np.inf)), then, alike)

    def likeness(self, name: str, x: np.ndarray) -> float:
        """The correlation of two differences from what is right: that of a cause, and that of the dump."""
        theirs, right = self.found[name].x, self.truth[name]
        known = np.isfinite(right)
        made, found = ((y - right)[known] if y.shape == right.shape else np.zeros(0) for y in (x, theirs))
        if made.shape != found.shape or not made.any() or not np.isfinite(found).all():
            return 0.0
        return float((made * found).sum() / np.sqrt((made * made).sum() * (found * found).sum()))


def likeliest(fits: list[Fit]) -> list[str]:
    """Say which causes explain most, best first; of those that do so equally well, as they are listed."""
    good = [fit for fit in fits if fit.times <= WIDEN]
    good = [fit for fit in good if fit.alike is None] or good
    most = max(fit.explained for fit in good)
    good = [fit for fit in good if fit.explained == most]
    if good[0].alike is not None:
        good.sort(key=lambda fit: -(fit.alike or 0))
        return [told(good[0])]
    least = min(fit.spread for fit in good)
    good = [fit for fit in good if fit.spread <= AMONG_EQUALS * (1 + least)]
    equal = 1.1 * least + 0.1
    good.sort(key=lambda fit: max(fit.spread, equal))
    return list(dict.fromkeys(told(fit) for fit in good))


def told(fit: Fit) -> str:
    """Say how well a cause explains a dump."""
    left = f"with it the difference falls to {fit.times:.2g} times the noise"
    if fit.alike is not None and fit.alike < 0.99:
        left = f"the difference that it makes correlates with that of the dump by {fit.alike:.2f}"
    then = f"; behind it {fit.then} differs first, by another" if fit.then else ""
    return f"{fit.words} ({left}{then})"


def converted(params: dict[str, Any], dtype: Any) -> dict[str, Any]:
    return map_leaves(lambda path, x: x.astype(dtype, copy=False), params)


# --- what a difference looks like


def describe(name: str, theirs: np.ndarray, ours: np.ndarray, config: Config) -> list[str]:
    """Say what a difference looks like that no cause explains."""
    theirs = masked(name, theirs)
    if name == "logits":
        ours = ours[-len(theirs) :]
    told = []
    nan, future = int(np.isnan(theirs).sum()), np.isneginf(theirs) != np.isneginf(ours)
    if nan:
        told.append(f"{nan} of {theirs.size} values are NaN: from a softmax of masked scores alone, or overflow")
    if future.any():
        told.append(f"{int(future.sum())} of {theirs.size} places are masked in one and not in the other")
    known = np.isfinite(theirs) & np.isfinite(ours)
    a, b = theirs[known], ours[known]
    if not a.size:
        return told
    if name == "embed":
        told.append("is it the same checkpoint, and are these the ids?")
    told += _factor(a, b, config)
    told += _moved(np.where(known, theirs, 0), np.where(known, ours, 0))
    told += _grid(a)
    told += _places(theirs, ours, known)
    return told


def _factor(a: np.ndarray, b: np.ndarray, config: Config) -> list[str]:
    """Whether one is a multiple of the other, everywhere or but for zeros; and how alike they are."""
    told = []
    zero = (a == 0) & (b != 0)
    rest = ~zero & (abs(b) > 1e-3 * abs(b).max(initial=0.0))
    if rest.any():
        ratios = a[rest] / b[rest]
        factor = float(np.median(ratios))
        if abs(ratios - factor).max() < 1e-3 * abs(factor):
            known = {"sqrt(D)": config.head_size**0.5, "sqrt(C)": config.n_embd**0.5, "D": float(config.head_size)}
            known |= {f"1/{name}": 1 / x for name, x in known.items()}
            named = next((f" = {name}" for name, x in known.items() if abs(factor / x - 1) < 1e-3), "")
            if zero.mean() > 0.005:
                kept = abs(factor * (1 - zero.mean()) - 1) < 0.1
                told.append(
                    f"{100 * zero.mean():.0f} % of the values are 0, the others are {factor:.4g} times ours"
                    + (": dropout is switched on (put the model into evaluation mode)" if kept else "")
                )
            elif abs(factor - 1) > 1e-6:
                told.append(f"every value is {factor:.6g}{named} times ours")
    if a.size > 2 and a.std() and b.std():
        told.append(f"the correlation with ours is {np.corrcoef(a, b)[0, 1]:.4f}")
    return told


def _grid(a: np.ndarray) -> list[str]:
    """Whether all values are of a half precision."""
    with np.errstate(over="ignore"):
        single = a.astype(np.float32)
        if np.array_equal(single, a) and len(np.unique(a)) > 4:
            if np.array_equal(single.view(np.uint32) & 0xFFFF, np.zeros(a.shape, np.uint32)):
                return ["all its values are numbers of bfloat16: computed, or kept, in half precision"]
            if np.array_equal(a.astype(np.float16), a):
                return ["all its values are numbers of float16: computed, or kept, in half precision"]
    return []


AXES = {2: ("position", "feature"), 3: ("head", "position", "feature or key")}


def _moved(theirs: np.ndarray, ours: np.ndarray) -> list[str]:
    """Whether heads, positions or features are ours in another order."""
    told = []
    for axis, what in enumerate(AXES[theirs.ndim]):
        a, b = (np.moveaxis(x, axis, 0).reshape(x.shape[axis], -1) for x in (theirs, ours))
        if not 1 < len(a) <= 4096:
            continue
        near = ((b * b).sum(1) - 2 * a @ b.T).argmin(axis=1)  # which of ours is nearest to each
        size = np.sqrt((a * a).sum(1))
        same = np.sqrt(((a - b[near]) ** 2).sum(1)) <= 1e-3 * size
        moved = np.flatnonzero(same & (size > 0) & (near != np.arange(len(a))))
        if 2 * len(moved) > len(a):
            listed = ", ".join(f"{i} is our {near[i]}" for i in moved[:4])
            told.append(f"{len(moved)} of {len(a)} along the axis of {what}s are moved: {what} {listed}, ...")
    return told


def _places(theirs: np.ndarray, ours: np.ndarray, known: np.ndarray) -> list[str]:
    """Which positions, heads or features differ, if not all of them do."""
    difference = np.where(known, abs(np.where(known, theirs, 0) - np.where(known, ours, 0)), np.inf)
    difference[~known & (theirs == ours)] = 0
    wrong = difference > 1e-3 * np.max(difference[np.isfinite(difference)], initial=0.0)
    told = []
    for axis, what in enumerate(AXES[theirs.ndim]):
        others = tuple(i for i in range(theirs.ndim) if i != axis)
        hit = np.flatnonzero(wrong.any(axis=others))
        if 0 < len(hit) < theirs.shape[axis]:
            listed = ", ".join(map(str, hit[:8])) + (", ..." if len(hit) > 8 else "")
            told.append(f"of {theirs.shape[axis]} along the axis of {what}s {len(hit)} differ: {listed}")
    return told
