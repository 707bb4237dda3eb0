"""Where another implementation first parts from this one, by how much, and why.

A dump holds any of the intermediates of a forward pass elsewhere, under the names of TRACE_SHAPES or of FOREIGN. Each
is compared, in the order of the model, with what ours in float64 makes of those before it in the dump, down to the
first that differs by more than rounding can do (noise.py). Then every mistake of causes.py is tried (search.py): the
one under which our numbers become theirs is what happened there.
"""

import json
from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np

from numgpt.checks import check_ids
from numgpt.errors import CheckpointError, OptionError
from numgpt.model import Ids, Model
from numgpt.trace import layer_and_base, trace_shapes
from numgpt.verify.by_value import match
from numgpt.verify.changes import Change, changes_of
from numgpt.verify.dump import Dump
from numgpt.verify.foreign import BEFORE_GAIN, UNKNOWN, Found, Misfit, is_veiled, place, rename, why_not
from numgpt.verify.noise import WIDEN, Comparison
from numgpt.verify.passes import NORMS
from numgpt.verify.pattern import describe
from numgpt.verify.search import Fit, Search, sentence


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


class Difference(NamedTuple):
    """The first tensor that differs."""

    name: str
    theirs: np.ndarray
    ours: np.ndarray  # of the same shape


class Matched(NamedTuple):
    """A tensor of a dump whose name no rule knows."""

    source: str  # its name in the dump
    name: str  # what of ours it is
    how: str  # that is told by its "value", by the "number" in its name, or by its "shape"


class Report(NamedTuple):
    """What became of a dump."""

    rows: list[Row]  # up to the first that differs
    left: int  # tensors behind that, not compared any more
    precision: str  # of the dump, as which it was held: "float32", ...
    not_compared: dict[str, str]  # name in the dump -> why
    causes: list[str]  # the likeliest first; each brings the difference down to the noise
    pattern: list[str]  # what the difference looks like, where no cause explains it
    changes: tuple[Change, ...] = ()  # of our code, which make the likeliest cause
    difference: Difference | None = None
    behind: tuple[tuple[str, str], ...] = ()  # where the next mistakes show, with the first taken as given, and which
    matched: tuple[Matched, ...] = ()

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
    found, misfits, not_compared, matched = find_tensors(dump, model, ids)
    if not found and not misfits:
        listed = "; ".join(f"{name}: {why}" for name, why in list(not_compared.items())[:5])
        raise CheckpointError(f"the dump has no tensor to compare, expected names such as h.0.attn.q; {listed}")
    comparison = Comparison(ids, model, found)
    if not all(row_of(name, comparison).passed for name in found):
        comparison.measure_again()
    rows = {**misfits, **{name: row_of(name, comparison) for name in found}}
    table = [rows[name] for name in in_order(rows, model)]
    end = next((i + 1 for i, row in enumerate(table) if not row.passed), len(table))
    differing = [row.name for row in table if row.name in found and not row.passed]
    why = explain(comparison, differing)
    last = table[end - 1]
    if last.name in misfits:
        why = why._replace(causes=why.causes or [not_compared[last.source]], pattern=[])
    difference = Difference(differing[0], *comparison.both(differing[0])) if differing else None
    return Report(
        table[:end],
        len(table) - end,
        comparison.precision,
        not_compared,
        why.causes,
        why.pattern,
        why.changes,
        difference,
        why.behind,
        tuple(matched),
    )


def row_of(name: str, comparison: Comparison) -> Row:
    """Return the row of a tensor that a dump has."""
    ours, (source, theirs, _) = comparison.truth[name], comparison.found[name]
    gap, noise = comparison.gap(name, ours), comparison.noise[name].times(comparison.scale)
    size = float(abs(ours[np.isfinite(ours)]).max(initial=0.0))
    relative = gap.largest / size if size else gap.largest and np.inf
    times = gap.over(noise)
    if layer_and_base(name)[1] in NORMS and times <= WIDEN:
        times = max(times, comparison.lean(name))
    return Row(name, source, theirs.shape, gap.largest, relative, noise.largest, times, times <= WIDEN)


MISTAKES = 3  # that are looked for, one behind the other


class Explanation(NamedTuple):
    """Why a dump differs."""

    causes: list[str]
    changes: tuple[Change, ...] = ()
    pattern: list[str] = []  # noqa: RUF012
    behind: tuple[tuple[str, str], ...] = ()


def explain(comparison: Comparison, differing: list[str]) -> Explanation:
    """Find the causes of the first difference, and with the likeliest taken as given those of what still differs."""
    if not differing:
        return Explanation([])
    first = differing[0]
    search = Search(comparison, first)
    if comparison.over_noise(first, comparison.truth[first]) <= WIDEN:
        return Explanation([search.leaning()])
    if fits := search.explain():
        return Explanation(
            [sentence(fit) for fit in fits], tuple(changes_of(fits[0].attempt.cause)), [], further(comparison, fits[0])
        )
    if two := search.explain_by_two():
        one, other = two
        changes = tuple(change for cause in (one.cause, other.attempt.cause) for change in changes_of(cause))
        return Explanation([f"two mistakes: {one.words}; and {sentence(other)}"], changes)
    pattern = describe(first, comparison.found[first].x, comparison.truth[first], comparison.config)
    if best := search.nearest():
        pattern.append(f"nearest: {best.words}; it leaves {best.over_noise:.3g} times the noise")
    return Explanation([], (), pattern)


def further(comparison: Comparison, fit: Fit) -> tuple[tuple[str, str], ...]:
    """Return the mistakes behind the first: where each shows, and the likeliest."""
    found: list[tuple[str, str]] = []
    while fit.then and len(found) < MISTAKES - 1:
        comparison, at = comparison.beyond(fit.attempt), fit.then
        if not (fits := Search(comparison, at).explain()):
            break
        fit = fits[0]
        found.append((at, sentence(fit)))
    return tuple(found)


# --- what a dump has


def in_order(names: Iterable[str], model: Model) -> list[str]:
    """Sort names as the model computes them."""
    return [name for name in trace_shapes(model.config, 1) if name in set(names)]


IDS = ("ids", "input_ids", "tokens", "idx", "inputs")  # what the ids of a dump are called


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


class Contents(NamedTuple):
    """What a dump has."""

    found: dict[str, Found]  # by our names, in the order of the model
    misfits: dict[str, Row]  # of those whose shape can't be right
    not_compared: dict[str, str]  # name in the dump -> why
    matched: list[Matched]


def find_tensors(dump: Dump, model: Model, ids: np.ndarray) -> Contents:
    """Find those tensors of a dump that we have too: by their names, and where no rule knows these, by their values."""
    named = {source: name for source in dump.tensors if (name := rename(source))}
    others = {source: why_not(source) for source in dump.tensors if source not in named and source not in IDS}
    unknown = {source: dump.tensors[source] for source, why in others.items() if why == UNKNOWN}
    matching = match(unknown, model, ids)
    kinds = {"value": matching.by_value, "number": matching.by_number, "shape": {} if named else matching.by_shape}
    entries = {**named, **{source: name for some in kinds.values() for source, name in some.items()}}
    not_compared = {source: matching.left.get(source, why) for source, why in others.items() if source not in entries}
    found: dict[str, Found] = {}
    misfits: dict[str, Row] = {}
    for source, name in entries.items():
        tensor = dump.tensors[source]
        try:
            placed = place(name, tensor, model.config, len(ids))
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
    found = {name: found[name] for name in in_order(found, model)}
    matched = [
        Matched(source, names[0] if len(names) == 1 else f"{names[0]} to {names[-1]}", how)
        for how, some in kinds.items()
        for source in some
        if (names := [name for name, tensor in found.items() if tensor.source == source])
    ]
    return Contents(found, misfits, not_compared, matched)


def is_before_gain(x: np.ndarray, name: str, params: dict[str, Any]) -> bool:
    """Whether x is a layer norm before gain and bias: in TransformerLens the two have one name."""
    layer, base = layer_and_base(name)
    p = (params if layer is None else params["h"][layer])[base]
    does_nothing = np.allclose(p["g"], 1) and np.allclose(p["b"], 0)
    return not does_nothing and bool((abs(x.mean(-1)) < 1e-3).all() and (abs(x.var(-1) - 1) < 1e-2).all())
