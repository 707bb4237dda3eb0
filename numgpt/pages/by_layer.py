"""The trace in float64, a layer at a time: what a page shows is exact, and never more than one layer is in memory."""

from collections.abc import Iterator

import numpy as np

from numgpt.model import Model, Params, block, embed, record_in
from numgpt.ops import layer_norm
from numgpt.params import map_leaves


def widened(params: Params) -> Params:
    """Return a tree of parameters in float64."""
    return dict(map_leaves(lambda path, leaf: leaf.astype(np.float64), params))


def trace_by_layer(ids: np.ndarray, model: Model) -> Iterator[dict[str, np.ndarray]]:
    """Yield what `trace.collect` gives for a model in float64, in parts: embed, each layer, ln_f.

    ids  [T] int, checked
    Yields dicts, name -> tensor. The logits are left out: for a long text they are larger than all else.

    >>> import numgpt
    >>> model = numgpt.load("storyteller")
    >>> parts = list(trace_by_layer(np.array(model.tokenizer.encode("Once upon a time")), model))
    >>> len(parts), parts[6]["h.5.attn.weights"].shape, parts[7]["ln_f"].dtype
    (8, (8, 5, 5), dtype('float64'))
    """
    params, config = model.params, model.config
    seen: dict[str, np.ndarray] = {}

    def record(name: str, x: np.ndarray) -> np.ndarray:
        seen[name] = x
        return x

    rows, T = params["wte"][ids].astype(np.float64), len(ids)
    x = record("embed", embed(np.arange(T), rows, params["wpe"][:T].astype(np.float64)))
    yield seen
    for layer, p in enumerate(params["h"]):
        seen = {}
        x = block(x, widened(p), config, layer, record=record_in(layer, record))
        yield seen
    yield {"ln_f": layer_norm(x, **widened(params["ln_f"]), eps=config.layer_norm_epsilon)}
