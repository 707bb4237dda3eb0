"""Every named intermediate of a run: which there are, of what shape, and how to keep or change one.

`model.forward` passes each of them through `record`. Here that seam collects (`collect`), replaces (an ablation, or the
tensor of another run: activation patching), and, by `TRACE_SHAPES`, tells other programs what to compare with.

Does a head matter? Set its output to zero, and see what becomes of the word that was next. Of the eight heads of the
last layer of the storyteller one does:

>>> import numgpt
>>> from numgpt.ops import softmax
>>> model = numgpt.load("storyteller")
>>> ids, time = model.tokenizer.encode("Once upon a"), model.tokenizer.encode(" time")[0]
>>> def probability_of_time(replace=None):
...     return round(float(softmax(collect(ids, model, "logits", replace)["logits"][-1])[time]), 2)
>>> probability_of_time()
0.96
>>> [probability_of_time(ablations([f"h.5.attn.z:{head}"], model.config)) for head in range(8)]
[0.77, 0.96, 0.96, 0.96, 0.94, 0.95, 0.96, 0.95]

Where does the model keep that the story is about a woman? Run a text about a man, put the residual stream of the other
text in its place, at one position behind one layer, and see whether " he" is still likelier than " she":

>>> man, woman = (model.tokenizer.encode(f"The {who} was so poor that") for who in ("man", "woman"))
>>> he, she = (model.tokenizer.encode(word)[0] for word in (" he", " she"))
>>> stream = collect(woman, model, "resid_post")
>>> def he_over_she(layer, position):
...     def patch(x):
...         x[position] = stream[f"h.{layer}.resid_post"][position]
...         return x
...     logits = collect(man, model, "logits", {f"h.{layer}.resid_post": patch})["logits"]
...     return round(float(logits[-1, he] - logits[-1, she]), 1)
>>> [he_over_she(layer, position=1) for layer in range(6)]  # at the word "man"
[-1.4, -1.4, -1.3, -1.2, -0.1, 2.4]
>>> [he_over_she(layer, position=-1) for layer in range(6)]  # at the end, where the next word is made
[2.3, 2.1, 1.9, 1.8, 0.4, -1.5]

Up to layer 3 it is at the word itself; in layers 4 and 5 attention carries it to the end.
"""

import difflib
import re
from collections.abc import Callable, Iterable, Mapping
from fnmatch import fnmatchcase
from functools import partial
from typing import Any

import numpy as np

from numgpt.config import Config
from numgpt.errors import OptionError
from numgpt.model import Ids, Model, forward

# Each tensor that forward records, in the order in which it is computed, with the dimensions that `config` glosses.
# In the name of a layer's tensor the star stands for the number of the layer.
TRACE_SHAPES = {
    "embed": "TC",
    "h.*.ln_1": "TC",
    "h.*.attn.q": "HTD",
    "h.*.attn.k": "HTD",
    "h.*.attn.v": "HTD",
    "h.*.attn.scores": "HTS",  # scaled and masked, before softmax; -inf where masked
    "h.*.attn.weights": "HTS",
    "h.*.attn.z": "HTD",
    "h.*.attn_out": "TC",
    "h.*.resid_mid": "TC",
    "h.*.ln_2": "TC",
    "h.*.mlp.pre": "TF",
    "h.*.mlp.post": "TF",
    "h.*.mlp_out": "TC",
    "h.*.resid_post": "TC",
    "ln_f": "TC",
    "logits": "TV",
}
Change = np.ndarray | Callable[[np.ndarray], np.ndarray]  # what takes the place of a tensor, or makes it of the tensor


def trace_shapes(config: Config, T: int, past: int = 0) -> dict[str, tuple[int, ...]]:
    """Return name -> shape of all that a run of T positions records, in the order in which it is computed.

    past  how many positions a cache held before: S = past + T

    >>> shapes = trace_shapes(Config(n_layer=2), T=5)
    >>> list(shapes)[:3], shapes["h.1.attn.scores"], shapes["logits"]
    (['embed', 'h.0.ln_1', 'h.0.attn.q'], (12, 5, 5), (5, 50257))
    """
    dims = {"T": T, "S": past + T, "C": config.n_embd, "F": config.mlp_width, "V": config.n_vocab}
    dims |= {"H": config.n_head, "D": config.head_size}
    layer = [name for name in TRACE_SHAPES if "*" in name]
    names = [name.replace("*", str(i)) for i in range(config.n_layer) for name in layer]
    return {name: tuple(dims[x] for x in letters(name)) for name in ("embed", *names, "ln_f", "logits")}


def letters(name: str) -> str:
    """Return the dimensions of a tensor.

    >>> letters("h.3.attn.scores"), letters("logits")
    ('HTS', 'TV')
    """
    layer, base = layer_and_base(name)
    return TRACE_SHAPES[base if layer is None else f"h.*.{base}"]


def layer_and_base(name: str) -> tuple[int | None, str]:
    """Return the layer of a name, and the name without it.

    >>> layer_and_base("h.3.attn.q"), layer_and_base("embed")
    ((3, 'attn.q'), (None, 'embed'))
    """
    found = re.match(r"h\.(\d+)\.(.+)", name)
    return (int(found[1]), found[2]) if found else (None, name)


def match_names(pattern: str, config: Config) -> list[str]:
    """Return the names that a pattern stands for, in the order of the model.

    pattern  a name; one with stars, "h.*.attn.z"; or one without its layer, "attn.z", for all layers
    Raises OptionError where there is none, with those that are near.

    >>> match_names("attn.z", Config(n_layer=2)), match_names("h.1.ln_?", Config(n_layer=2))
    (['h.0.attn.z', 'h.1.attn.z'], ['h.1.ln_1', 'h.1.ln_2'])
    >>> match_names("h.1.attn.y", Config(n_layer=2))
    Traceback (most recent call last):
    numgpt.errors.OptionError: no tensor 'h.1.attn.y', expected one like h.1.attn.z, h.1.attn.v, h.1.attn.q
    """
    names = list(trace_shapes(config, T=1))
    for full in pattern, f"h.*.{pattern}":
        if found := [name for name in names if fnmatchcase(name, full)]:
            return found
    short = [name.removeprefix("h.*.") for name in TRACE_SHAPES]
    near = difflib.get_close_matches(pattern, [*names, *short], cutoff=0.4) or short
    raise OptionError(f"no tensor {pattern!r:.80}, expected one like {', '.join(near)}")


def names_a_tensor(pattern: str) -> bool:
    """Whether a pattern stands for a tensor of some model, however many layers that has.

    >>> names_a_tensor("attn.z"), names_a_tensor("h.40.ln_?"), names_a_tensor("Once upon a time")
    (True, True, False)
    """
    of_a_layer = re.sub(r"^h\.\d+\.", "h.*.", pattern)
    return any(fnmatchcase(name, full) for name in TRACE_SHAPES for full in (of_a_layer, f"h.[*].{pattern}"))


def collect(
    ids: Ids,
    model: Model,
    names: Iterable[str] | None = None,
    replace: Mapping[str, Change] | None = None,
) -> dict[str, np.ndarray]:
    """Run the readable forward once and keep what it computes on the way.

    ids      [T] int
    names    names or patterns, as `match_names` takes them: what to keep. None for all
    replace  name or pattern -> what takes the place of such a tensor: an array of its shape, or a function that makes
             one of it. What follows is computed from it
    Returns name -> tensor, in the order of the model; of those replaced, the new one.
    Raises OptionError for a name that there is not and a replacement of another shape, and what `forward` raises.
    Notes: a function gets a copy, which it may change. An array takes the dtype of the tensor that it replaces.

    >>> import numgpt
    >>> model = numgpt.load("storyteller")
    >>> ids = model.tokenizer.encode("Once upon a time")
    >>> traced = collect(ids, model, names=["embed", "attn.weights"])
    >>> len(traced), traced["h.5.attn.weights"].shape
    (7, (8, 5, 5))
    >>> changed = collect(ids, model, replace={"h.2.mlp_out": lambda x: 0 * x})
    >>> bool((changed["h.2.resid_post"] == changed["h.2.resid_mid"]).all())
    True
    """
    config = model.config
    patterns = ["*"] if names is None else [names] if isinstance(names, str) else names
    kept = {name for pattern in patterns for name in match_names(pattern, config)}
    changes = {name: x for pattern, x in (replace or {}).items() for name in match_names(pattern, config)}
    seen: dict[str, np.ndarray] = {}

    def record(name: str, x: np.ndarray) -> np.ndarray:
        if name in changes:
            x = _replaced(name, x, changes[name])
        if name in kept:
            seen[name] = x
        return x

    forward(ids, model.params, config, record=record)
    return seen


def _replaced(name: str, x: np.ndarray, change: Change) -> np.ndarray:
    """Return what a change makes of a tensor; raise OptionError where that does not fit in its place."""
    new = change(x.copy()) if callable(change) else change
    array = np.asarray(new) if new is not None else None
    if array is None or array.shape != x.shape or array.dtype.kind not in "fiu":
        got = "None" if array is None else f"{array.dtype} of shape {array.shape}"
        raise OptionError(f"replace {name}: got {got}, expected numbers of shape {x.shape}, as it has {letters(name)}")
    return array.astype(x.dtype)


def ablations(texts: Iterable[str], config: Config) -> dict[str, Change]:
    """Return the replacements that set tensors, or one head or feature of them, to zero.

    texts  each "NAME" or "NAME:N": N is a head where the tensor has heads, [H, ...], and else a feature, the last axis.
           NAME may be a pattern
    Returns what `collect` takes as replace.
    Raises OptionError for a name, a head or a feature that there is not.
    Notes: in attn.scores what is masked stays masked.

    >>> zero = ablations(["h.1.attn.z:2"], Config(n_head=3))["h.1.attn.z"]
    >>> zero(np.ones((3, 1, 2))).tolist()
    [[[1.0, 1.0]], [[1.0, 1.0]], [[0.0, 0.0]]]
    """
    shapes = trace_shapes(config, T=1)
    parts: dict[str, list[Any]] = {}
    for text in texts:
        pattern, colon, number = text.partition(":")
        for name in match_names(pattern, config):
            kind, axis = ("head", 0) if letters(name)[0] == "H" else ("feature", -1)
            size = shapes[name][axis]
            if colon and not (re.fullmatch("[0-9]{1,9}", number) and int(number) < size):
                raise OptionError(f"ablate {text!r:.80}: {kind} {number!r:.20} of {name}, expected 0 to {size - 1}")
            part = ... if not colon else int(number) if kind == "head" else (..., int(number))
            parts.setdefault(name, []).append(part)

    def zero(x: np.ndarray, parts: list[Any]) -> np.ndarray:
        for part in parts:
            x[part] = np.where(x[part] == -np.inf, -np.inf, 0)
        return x

    return {name: partial(zero, parts=found) for name, found in parts.items()}


def summarise(tensors: Mapping[str, np.ndarray]) -> list[dict[str, Any]]:
    """Return for each tensor its name, dtype, shape, and the range, mean and deviation of its finite values."""
    rows: list[dict[str, Any]] = []
    for name, x in tensors.items():
        row: dict[str, Any] = {"name": name, "dtype": str(x.dtype), "shape": list(x.shape)}
        known = x[np.isfinite(x)].astype(np.float64)
        for what in "min", "max", "mean", "std":
            row[what] = float(getattr(known, what)()) if known.size else None
        rows.append({**row, "non_finite": x.size - known.size})
    return rows
