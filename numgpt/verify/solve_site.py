"""Causes that are computed from a tensor and from what it was made of: rows of tables, masks, parameters."""

import math
from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np

from numgpt.ops import linear, softmax
from numgpt.verify.causes import MATRICES, wrong_norm
from numgpt.verify.causes_attention import projected
from numgpt.verify.passes import NORMS, QKV, Cause, Edit, Site
from numgpt.verify.solve import SAME

LISTED = 8  # positions, ids or keys that are named


def causes_at(base: str, theirs: np.ndarray, site: Site, params: dict[str, Any]) -> Iterator[Cause]:
    """Yield what a tensor says about the step that made it.

    base    its name without "h.N."
    theirs  its values in the dump
    site    the place in our pass: what it is computed from
    params  of the whole model
    """
    if theirs.shape != site.value.shape:
        return
    if base == "embed":
        yield from rows_used(theirs, site)
    elif base == "attn.scores":
        yield from biases_by_distance(theirs, site)
    elif base == "attn.weights":
        yield from temperature(theirs, site)
        yield from mask_used(theirs, site)
    if base in (*NORMS, *QKV, *(tensor for tensor, _ in MATRICES.values())):
        yield from parameters_of_elsewhere(base, site, params)


def listed(numbers: Any) -> str:
    return ", ".join(str(int(n)) for n in numbers[:LISTED]) + (", ..." if len(numbers) > LISTED else "")


# ---- the rows of the two tables


def nearest_rows(x: np.ndarray, table: np.ndarray) -> np.ndarray | None:
    """Return which row of a table each vector is; None where some are none of them.

    >>> nearest_rows(np.eye(3)[[2, 0]], np.eye(3)).tolist()
    [2, 0]
    """
    near = ((table * table).sum(1) - 2 * x @ table.T).argmin(1)
    rest = np.sqrt(((x - table[near]) ** 2).sum(1))
    return near if (rest <= SAME * (np.sqrt((x * x).sum(1)) + 1e-30)).all() else None


def rows_used(theirs: np.ndarray, site: Site) -> Iterator[Cause]:
    """Yield which positions, or which ids, were really looked up."""
    wte, wpe, T = site.p["wte"], site.p["wpe"], len(theirs)
    places = nearest_rows(theirs - wte[site.x], wpe)
    if places is not None and (places != np.arange(T)).any():
        words = f"other positions: {listed(places)} instead of {listed(np.arange(T))}"
        yield Cause(words, {"embed": lambda s: s.p["wte"][s.x] + s.p["wpe"][places]})
    ids = nearest_rows(theirs - wpe[:T], wte)
    if ids is not None and (ids != site.x).any():
        words = f"other ids: {listed(ids)} instead of {listed(site.x)}: is it another tokenizer?"
        yield Cause(words, {"embed": lambda s: s.p["wte"][ids] + s.p["wpe"][: len(ids)]})
    if ids is None and nearest_rows(theirs, wpe) is not None:
        yield Cause("the token embedding is left out", {"embed": lambda s: s.p["wpe"][: len(s.x)]})


# ---- attention


def biases_by_distance(theirs: np.ndarray, site: Site) -> Iterator[Cause]:
    """Yield what is added to scores [H, T, S] if it hangs on the head and on the distance alone, as in T5."""
    difference = np.where(np.isfinite(site.value) & np.isfinite(theirs), theirs - np.nan_to_num(site.value), 0.0)
    H, T, S = theirs.shape
    distance = np.arange(S - T, S)[:, None] - np.arange(S)
    means = np.zeros((H, S))
    for d in range(S):
        means[:, d] = difference[:, distance == d].mean(-1)
    added = np.where(distance >= 0, means[:, np.clip(distance, 0, None)], 0.0)
    if abs(difference - added).max() < SAME * abs(added).max():
        values = ", ".join(f"{x:.3g}" for x in means[0, :4])
        words = f"relative biases: scores get something for each head and distance: {values}, ... in head 0"
        yield Cause(words, {"attn.scores": lambda s: s.value + added})


def temperature(theirs: np.ndarray, site: Site) -> Iterator[Cause]:
    """Yield the number that scores were multiplied by before the softmax, from the logarithms of its weights.

    log w_i - log w_j = factor (score_i - score_j)
    """
    scores = site.seen["attn.scores"]
    seen = np.isfinite(scores) & (theirs > 0)
    with np.errstate(all="ignore"):
        logs = np.where(seen, np.log(theirs), 0.0)
    count = np.maximum(seen.sum(-1, keepdims=True), 1)
    x = np.where(seen, scores - np.where(seen, scores, 0).sum(-1, keepdims=True) / count, 0.0)
    y = np.where(seen, logs - logs.sum(-1, keepdims=True) / count, 0.0)
    if not (x * x).sum():
        return
    factor = float((x * y).sum() / (x * x).sum())
    if abs(factor - 1) > SAME and abs(y - factor * x).max() < 0.01 * abs(y).max():
        words = f"a temperature: scores are multiplied by {factor:.6g} before the softmax"
        yield Cause(words, {"attn.weights": lambda s: softmax(factor * s.seen["attn.scores"])})


def mask_used(theirs: np.ndarray, site: Site) -> Iterator[Cause]:
    """Yield the mask that weights imply: what no head looks at, though it might, or looks at, though it must not."""
    looks: np.ndarray = np.any(theirs > 0, axis=0)
    T, S = looks.shape
    right = np.arange(S) <= np.arange(S - T, S)[:, None]
    wrong = np.flatnonzero((looks != right).any(1))
    if not len(wrong) or not looks.any(1).all():
        return
    t = int(wrong[0])
    words = f"another mask: position {t} sees {listed(np.flatnonzero(looks[t]))}"

    def masked(s: Site) -> np.ndarray:
        scores = s.seen["attn.q"] @ s.seen["attn.k"].swapaxes(-1, -2)
        known = s.seen["attn.scores"]
        scale = np.nanmedian(np.where(np.isfinite(known) & (scores != 0), known / scores, np.nan))
        return softmax(np.where(looks, scores * scale, -math.inf))

    yield Cause(words, {"attn.weights": masked})


# ---- parameters


def parameters_of_elsewhere(base: str, site: Site, params: dict[str, Any]) -> Iterator[Cause]:
    """Yield that the parameters of another layer were taken, or the other layer norm's of the same."""
    edit: Edit
    if base in QKV:
        edit = partial(projected, which=QKV.index(base))
    elif base in NORMS:
        edit = partial(wrong_norm, name=base)
    else:
        [path] = [path for path, (tensor, _) in MATRICES.items() if tensor == base]
        edit = partial(_product, path=path)
    for layer, p in enumerate(params["h"]):
        if layer != site.layer and base != "ln_f":
            yield Cause(f"{base} has the parameters of layer {layer}", {base: partial(_elsewhere, edit=edit, p=p)})


def _elsewhere(site: Site, edit: Edit, p: dict[str, Any]) -> np.ndarray:
    return edit(site._replace(p=p))


def _product(site: Site, path: tuple[str, str]) -> np.ndarray:
    matrix = site.p[path[0]][path[1]]
    return linear(MATRICES[path][1](site), matrix["w"], matrix["b"])
