"""One forward pass beside a dump, with a mistake in it where asked.

A `Cause` puts other values in the place of some intermediates, through `record`: what the same step would give with the
mistake in it. So model.py stays the only forward pass, and a mistake is one function of what stands before it. Each
step starts from the dump's tensors, where the dump has them: errors of the steps before neither hide its own nor pass
for them.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import partial
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

from numgpt.config import Config
from numgpt.model import block, forward, output_head, record_in
from numgpt.ops import layer_norm
from numgpt.trace import layer_and_base
from numgpt.verify.foreign import Found

NORMS = ("ln_1", "ln_2", "ln_f")
QKV = ("attn.q", "attn.k", "attn.v")
OUTSIDE = {"embed", "ln_f", "logits"}  # what is in no layer


class Site(NamedTuple):
    """Where in a forward pass a value is to be put in place of another."""

    x: np.ndarray  # the input of the layer, or of ln_f; the ids, for embed
    seen: dict[str, np.ndarray]  # what the layer has computed so far, by its names without "h.N."
    value: np.ndarray  # what is right
    p: dict[str, Any]  # the parameters of the layer; outside of layers, all of them
    config: Config
    layer: int


Edit = Callable[[Site], np.ndarray]
Patch = Callable[[dict[str, Any]], dict[str, Any]]


class Cause(NamedTuple):
    """A mistake."""

    words: str
    edits: Mapping[str, Edit]  # name without "h.N." -> what comes out instead
    shown: Mapping[str, Edit] = MappingProxyType({})  # name -> what a dump has, where the run itself goes on rightly
    patch: Patch | None = None  # other parameters
    apart: bool = False  # the edits may happen one without the other: a mistake of one layer norm, or of all
    behind: bool = False  # it comes behind the product that makes q, k and v, or the scores: those in a dump are right
    coarse: bool = False  # it rounds, so that values on the edge between two may go either way
    throughout: bool = False  # it is made in all layers: in one alone it is not tried
    by_layer: bool = False  # the patch is one of each layer by itself, which may be made in one alone
    before: tuple[int, ...] = ()  # ids that stand before the text, and are seen


NO_MISTAKE = Cause("", {})


def norm_input(name: str, site: Site) -> np.ndarray:
    """Return what a layer norm normalises."""
    return site.seen["resid_mid"] if name == "ln_2" else site.x


# --- where a mistake is made

Where = Callable[[str], bool]  # whether a mistake touches the tensor of a name


def is_in(name: str, layer: int | None = None, base: str | None = None) -> bool:
    """Whether a tensor is of a layer, and of a kind; None stands for any."""
    its_layer, its_base = layer_and_base(name)
    return layer in (None, its_layer) and base in (None, its_base)


class Attempt(NamedTuple):
    """A mistake, taken to have been made in some tensors."""

    cause: Cause
    where: Where
    words: str  # the mistake, and where it was made


def words_in_all(cause: Cause, config: Config) -> str:
    """Return the words of a mistake that is made wherever it can be."""
    in_layers = not cause.patch and {*cause.edits, *cause.shown} - OUTSIDE and config.n_layer > 1
    return cause.words + (", in every layer" if in_layers else "")


def attempts(cause: Cause, config: Config) -> Iterator[Attempt]:
    """Yield a mistake as made in every layer; and one of layer norms as made in those of each name alone."""
    bases = {*cause.edits, *cause.shown}
    yield Attempt(cause, is_in, words_in_all(cause, config))
    if cause.apart:
        for base in sorted(bases):
            phrase = f": {base}{'' if base in OUTSIDE else ' of every layer'}"
            yield Attempt(cause, partial(is_in, base=base), cause.words + phrase)


def attempts_in_one(cause: Cause, config: Config, layers: range) -> Iterator[Attempt]:
    """Yield a mistake as made in one layer alone; and one of layer norms as made in a single one of them."""
    bases = sorted({*cause.edits, *cause.shown} - OUTSIDE)
    possible = (bases or cause.by_layer) and config.n_layer > 1 and not cause.throughout
    for layer in layers if possible else ():
        there = cause._replace(patch=partial(patched_in_one, patch=cause.patch, layer=layer)) if cause.patch else cause
        yield Attempt(there, partial(is_in, layer=layer), f"{cause.words}, in layer {layer} alone")
        if cause.apart:
            for base in bases:
                where = partial(is_in, layer=layer, base=base)
                yield Attempt(cause, where, f"{cause.words}: h.{layer}.{base} alone")


def patched_in_one(params: dict[str, Any], patch: Patch, layer: int) -> dict[str, Any]:
    """Return parameters of which those of one layer are patched."""
    layers = list(params["h"])
    [layers[layer]] = patch({"h": [layers[layer]]})["h"]
    return {**params, "h": layers}


# --- the pass


def of_text(base: str, ahead: int) -> tuple[slice, ...]:
    """Return which part of a tensor is of the text, behind so many other tokens."""
    there, all_heads = slice(ahead, None), slice(None)
    if base in ("attn.scores", "attn.weights"):
        return all_heads, there, there
    return (all_heads, there) if base in (*QKV, "attn.z") else (there,)


Rounded = Callable[[str, Site, np.ndarray], np.ndarray]  # name, site, value -> value with errors
Stop = Callable[[str, np.ndarray], bool]


class _Enough(Exception):
    """Ends a pass that has shown what it should."""


def run(
    ids: np.ndarray,
    params: dict[str, Any],
    config: Config,
    dump: Mapping[str, Found],
    cause: Cause = NO_MISTAKE,
    where: Where = is_in,
    rounded: Rounded | None = None,
    stop: Stop | None = None,
    given: Sequence[Attempt] = (),
    resume: tuple[int, np.ndarray] | None = None,
) -> dict[str, np.ndarray]:
    """Run the model, with a mistake in it where asked, and return what it makes of the tensors that a dump has.

    Each is returned as it comes out here, and then replaced by that of the dump, from which the next are computed.
    where    tells by its name whether the mistake touches a tensor; by default each
    rounded  puts rounding errors into every tensor
    stop     is asked about each tensor that the dump has, and ends the pass by True
    given    mistakes that are known to be made, before this one
    resume   a layer to begin with, and what it reads [T, C]; the tensors before it are not returned
    """
    mistakes = [*((attempt.cause, attempt.where) for attempt in given), (cause, where)]
    for mistake, _ in mistakes:
        params = mistake.patch(params) if mistake.patch else params
    before = [i for mistake, _ in mistakes for i in mistake.before]
    ahead = len(before)
    if ahead:
        ids = np.concatenate([np.array(before, ids.dtype), ids])
        if len(ids) > config.n_ctx:
            return {}
    made: dict[str, np.ndarray] = {}
    seen: dict[str, np.ndarray] = {}
    x: np.ndarray = ids

    def record(name: str, value: np.ndarray) -> np.ndarray:
        nonlocal x
        layer, base = layer_and_base(name)
        if base == "ln_1":
            seen.clear()
        site = Site(x, seen, value, params if layer is None else params["h"][layer], config, layer or 0)
        out, show, hidden = value, None, False
        for mistake, touches in mistakes:
            if not touches(name):
                continue
            site = site._replace(value=out)
            if edit := mistake.edits.get(base):
                out = edit(site).astype(value.dtype, copy=False)
                hidden |= mistake.behind and name in dump and dump[name].veiled  # it has what was before the mistake
            show = mistake.shown.get(base, show)
        if name in dump:
            text = of_text(base, ahead)
            made[name] = (value if hidden else show(site) if show else out)[text]
            if rounded:
                made[name] = rounded(name, site, made[name])
            if stop and stop(name, made[name]):
                raise _Enough
            if name != "logits" and not hidden and not show:
                theirs = dump[name].x.astype(value.dtype)
                if ahead:
                    out = out.copy()
                    out[text] = theirs
                else:
                    out = theirs
        if rounded:
            out = rounded(name, site, out)
        seen[base] = out
        if base in ("embed", "resid_post"):
            x = out
        return out

    with np.errstate(all="ignore"), suppress(_Enough):
        if resume is None:
            forward(ids, params, config, record=record)
        else:
            start, x = resume
            for layer in range(start, len(params["h"])):
                block(x, params["h"][layer], config, layer, record=record_in(layer, record))
            x = record("ln_f", layer_norm(x, **params["ln_f"], eps=config.layer_norm_epsilon))
            record("logits", x @ output_head(params).T)
    return made
