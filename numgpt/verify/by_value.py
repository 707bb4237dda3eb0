"""Tensors under names that no rule knows: matched with ours by value, or by the number in a name, where it is certain.

A tensor is matched by value where it is ours but for 0.1 %, and a hundred times further from any other of its shape.
Behind a mistake nothing is ours any more. There the names may tell: where `blk0_out` and `blk1_out` were matched by
value, for layers 0 and 1, `blk2_out` is the same tensor of layer 2, whatever its values are.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

import numpy as np

from numgpt.config import Config
from numgpt.model import Ids, Model
from numgpt.trace import collect, layer_and_base
from numgpt.verify.foreign import OURS, RULES, UNKNOWN, Misfit, place, rule_of

NEAR = 1e-3  # the relative error of a tensor that is ours, or would be but for a small mistake
FAR = 100.0  # so many times further is what it is not
PACKED = "h.N.attn.c_attn"  # q, k and v side by side
STACKS = tuple(name for name, (_, axes) in RULES.items() if axes[0] == "L")  # of all layers at once


class Matching(NamedTuple):
    """What tensors of a dump are, by the names that `place` takes."""

    by_value: dict[str, str]
    by_number: dict[str, str]
    by_shape: dict[str, str]  # logits, at most
    left: dict[str, str]  # why others are not compared


Placed = dict[str, np.ndarray]  # what a tensor holds, under our names


def match(tensors: Mapping[str, np.ndarray], model: Model, ids: Ids) -> Matching:
    """Match tensors of a dump, whose names say nothing to us, with ours.

    tensors  by their names in the dump, of any shape
    Returns which of ours each is, as far as that is certain. No two are the same of ours.
    Raises TokenError, ContextError.

    >>> from numgpt.params import random_params
    >>> config = Config(n_vocab=9, n_ctx=4, n_embd=6, n_head=2, n_layer=3)
    >>> model = Model(config, random_params(config, seed=0), None)
    >>> ours = collect([1, 2, 3], model)
    >>> theirs = {"out_0": ours["h.0.resid_post"], "out_1": ours["h.1.resid_post"], "out_2": np.ones((3, 6))}
    >>> found = match({**theirs, "other": np.zeros((3, 6))}, model, [1, 2, 3])
    >>> found.by_value
    {'out_0': 'h.0.resid_post', 'out_1': 'h.1.resid_post'}
    >>> found.by_number
    {'out_2': 'h.2.resid_post'}
    >>> found.left
    {'other': 'no name that we know, and its values are none of ours'}
    """
    candidates = {name: fits(x, model.config, len(ids)) for name, x in tensors.items()}
    needed = {name for some in candidates.values() for placed in some.values() for name in placed}
    ours = collect(ids, model, needed) if needed else {}
    entries, left = {}, {}
    for name, some in candidates.items():
        try:
            entries[name] = entry_by_value(some, ours)
        except Misfit as misfit:
            left[name] = str(misfit)
    by_value = {}
    for name, entry in entries.items():
        placed = candidates[name][entry]
        rivals = [other for other in entries if candidates[other][entries[other]].keys() & placed.keys()]
        if any(not np.array_equal(tensors[other].ravel(), tensors[name].ravel()) for other in rivals):
            left[name] = f"{UNKNOWN}, and both {rivals[0]} and {rivals[1]} are near {next(iter(placed))}"
        elif rivals[0] != name:
            left[name] = "the same as another tensor of the dump"
        else:
            by_value[name] = entry
    by_number = entries_by_number(left, by_value)
    by_number = {name: entry for name, entry in by_number.items() if entry in candidates[name]}
    shaped = [name for name in left if candidates[name].keys() == {"logits"}]
    is_certain = len(shaped) == 1 and "logits" not in by_value.values()
    by_shape = dict.fromkeys(shaped, "logits") if is_certain else {}
    left = {name: why for name, why in left.items() if name not in {**by_number, **by_shape}}
    return Matching(by_value, by_number, by_shape, left)


# --- by value


def fits(x: np.ndarray, config: Config, T: int) -> dict[str, Placed]:
    """Return what a tensor may be by its shape, and what of ours it would hold."""
    of_layers = [name.replace("N", str(i), 1) for name in (*OURS, PACKED) if "N" in name for i in range(config.n_layer)]
    found: dict[str, Placed] = {}
    for entry in ("embed", *of_layers, "ln_f", "logits", *STACKS) if x.dtype.kind == "f" else ():
        try:
            placed = place(entry, x, config, T)
        except Misfit:
            continue
        if not any(placed.keys() == other.keys() for other in found.values()):
            found[entry] = placed
    return found


def entry_by_value(candidates: dict[str, Placed], ours: Mapping[str, np.ndarray]) -> str:
    """Return which of some candidates a tensor is by its values. Raises Misfit where that is not certain."""
    if not candidates:
        raise Misfit(UNKNOWN)
    distances = {entry: distance(placed, ours) for entry, placed in candidates.items()}
    best, *rest = sorted(distances, key=distances.__getitem__)
    if not distances[best] <= NEAR:
        raise Misfit(f"{UNKNOWN}, and its values are none of ours")
    if rest and distances[rest[0]] <= FAR * distances[best]:
        raise Misfit(f"{UNKNOWN}, and its values are near both {best} and {rest[0]}")
    return best


def distance(placed: Placed, ours: Mapping[str, np.ndarray]) -> float:
    """Return how far a tensor is from ours, over the size of ours; of all layers at once the first two tell."""
    first = sorted({depth(name) for name in placed})[:2]
    return max(_distance(x, ours[name]) for name, x in placed.items() if depth(name) in first)


def depth(name: str) -> float:
    """Return the layer of one of our tensors, or where it stands before and behind them."""
    layer = layer_and_base(name)[0]
    return layer if layer is not None else -1 if name == "embed" else np.inf


def _distance(x: np.ndarray, ours: np.ndarray) -> float:
    ours = ours[-len(x) :].astype(np.float64)
    known = np.isfinite(ours)
    difference, size = x[known] - ours[known], np.sqrt(np.mean(ours[known] ** 2))
    if not np.isfinite(difference).all() or not size:
        return np.inf
    return float(np.sqrt(np.mean(difference * difference)) / size)


# --- by the number in a name


class Numbered(NamedTuple):
    """A name with a number in it."""

    head: str
    number: int
    tail: str


class Rule(NamedTuple):
    """What names with a number in one place are."""

    name: str  # of ours, with N for the layer
    offset: int  # the layer less the number


def numbers_of(name: str) -> Iterator[Numbered]:
    """Yield each way to take one number of a name for that of a layer.

    >>> list(numbers_of("blk2_ln1"))
    [Numbered(head='blk', number=2, tail='_ln1'), Numbered(head='blk2_ln', number=1, tail='')]
    """
    for found in re.finditer(r"\d+", name):
        yield Numbered(name[: found.start()], int(found[0]), name[found.end() :])


def entries_by_number(names: Iterable[str], by_value: dict[str, str]) -> dict[str, str]:
    """Return what of ours some names are by their number, from what others like them were matched with by value.

    Names that differ in their number alone are one tensor of several layers, where two of them were found to be; or
    one, if they bear the same numbers as others of which two were.
    """
    numbers: dict[tuple[str, str], set[int]] = {}
    found: dict[tuple[str, str], list[Rule]] = {}
    for name in (*by_value, *names):
        key, layer = rule_of(by_value.get(name, ""))
        if key == "embed":  # the first of the states of the stream
            key = "h.N.resid_post"
        for head, number, tail in numbers_of(name):
            numbers.setdefault((head, tail), set()).add(number)
            if key.startswith("h.N."):
                found.setdefault((head, tail), []).append(Rule(key, layer - number))
    rules = {like: some for like, some in found.items() if len(set(some)) == 1}
    sure = [(numbers[like], some[0].offset) for like, some in rules.items() if len(some) > 1]
    entries: dict[str, str] = {}
    for name in names:
        for head, number, tail in numbers_of(name):
            for key, offset in rules.get((head, tail), [])[:1]:
                if (numbers[head, tail], offset) in sure:
                    entries.setdefault(name, key.replace("N", str(number + offset), 1))
    taken = [*by_value.values(), *entries.values()]
    return {name: entry for name, entry in entries.items() if taken.count(entry) == 1}
