"""When does the model know what comes next, and which of its parts said it.

The logit lens reads the residual stream, behind each step that adds to it, as if it were the last: through the final
layer norm and the output head. The logit that comes out at the end is the sum of what each part added to the stream.

Sources: nostalgebraist 2020, "interpreting GPT: the logit lens"; Elhage et al. 2021, "A Mathematical Framework for
Transformer Circuits".
"""

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from numgpt.config import Config
from numgpt.measure.scoring import check_largest, rank
from numgpt.model import Model, output_head
from numgpt.ops import layer_norm

ROWS = 512  # positions whose logits are in memory at a time, 100 MB for GPT-2: 1.1 times as fast as half as many


class Reading(NamedTuple):
    """What the lens reads at some positions of the stream."""

    best: np.ndarray  # [...] int: the likeliest id
    p_best: np.ndarray  # [...] its probability
    rank: np.ndarray  # [...] int: that of the id that came, 1 for the likeliest
    p_next: np.ndarray  # [...] its probability


def read_stream(streams: Sequence[np.ndarray], next_ids: np.ndarray, model: Model) -> Reading:
    """Read the residual stream at several depths: the likeliest token there, and how likely the one that came is.

        softmax(layer_norm(x) wte^T)        with ln_f's g and b, and the mean and variance of x itself

    streams   P tensors [T, C]: the stream behind P steps
    next_ids  [T] int: what came after each position
    Returns a Reading of arrays [P, T].
    Raises CheckpointError where logits are not finite.
    Notes: each depth is normalised by its own statistics. Those of the last layer, which are often taken for all, are
    many times too large for the first layers, and make them look undecided. Computed in the dtype of the output head.
    """
    head, config = np.asarray(output_head(model.params)), model.config
    n, dtype = config.n_tokens, head.dtype
    g, b = (model.params["ln_f"][name].astype(np.float64) for name in "gb")
    rows = np.concatenate([layer_norm(x, g, b, config.layer_norm_epsilon).astype(dtype) for x in streams])
    ids = np.tile(next_ids, len(streams)).tolist()
    space = np.empty((min(ROWS, len(rows)), len(head)), dtype=dtype)
    found: list[tuple[int, float, int, float]] = []
    for start in range(0, len(rows), ROWS):
        part = rows[start : start + ROWS]
        for logits in np.matmul(part, head.T, out=space[: len(part)]):  # a row at a time, which the cache holds
            came = logits[ids[len(found)]]
            best = int(logits[:n].argmax())
            came_rank = rank(logits[:n], came)
            e_came = math.exp(came - logits[best])
            logits -= logits[best]
            total = float(np.exp(logits, out=logits).sum())
            check_largest(1 / total)  # NaN, where a logit is NaN or the likeliest +inf
            found.append((best, 1 / total, came_rank, e_came / total))
    return Reading(*(np.array(column).reshape(len(streams), -1) for column in zip(*found, strict=True)))


def names_of_parts(config: Config) -> list[str]:
    """Return the parts that add to the stream, in the order of the model, and the bias behind the last layer norm.

    >>> names_of_parts(Config(n_layer=1, n_head=2))
    ['wte', 'wpe', 'h.0.attn.z:0', 'h.0.attn.z:1', 'h.0.attn.c_proj.b', 'h.0.mlp_out', 'ln_f.b']
    """
    names = ["wte", "wpe"]
    for layer in range(config.n_layer):
        names += [f"h.{layer}.attn.z:{head}" for head in range(config.n_head)]
        names += [f"h.{layer}.attn.c_proj.b", f"h.{layer}.mlp_out"]
    return [*names, "ln_f.b"]


def parts_of_logits(
    ids: np.ndarray,
    targets: np.ndarray,
    z: Sequence[np.ndarray],
    mlp_out: Sequence[np.ndarray],
    x: np.ndarray,
    model: Model,
) -> np.ndarray:
    """Return what each part of the model added to logits: they sum to the logit.

        logit_j = sum_i (x_i - mean(x_i)) . u_j / sqrt(var(x) + eps) + b . wte_j,    u_j = g wte_j,   x = sum_i x_i

    A layer norm is linear but for its division by the deviation, and that is the same for all parts: the deviation of
    the whole stream.

    ids      [T] int
    targets  [T, K] int: which logits of each position
    z        L tensors [H, T, D], what the heads gathered;    mlp_out  L tensors [T, C]
    x        [T, C], the stream behind the last layer
    Returns [T, K, parts] float64, in the order of `names_of_parts`.
    """
    params, config = model.params, model.config
    T = len(targets)
    g, b = (params["ln_f"][name].astype(np.float64) for name in "gb")
    rows = output_head(params)[targets].astype(np.float64)  # [T, K, C]
    u = g * rows
    u = (u - u.mean(axis=-1, keepdims=True)) / np.sqrt(x.var(axis=-1) + config.layer_norm_epsilon)[:, None, None]

    def parts() -> Iterator[np.ndarray]:  # each [T, K, some]
        def added_by(x: np.ndarray) -> np.ndarray:  # [T, some, C]
            return u @ x.swapaxes(1, 2)

        yield added_by(params["wte"][ids].astype(np.float64)[:, None])
        yield added_by(params["wpe"][:T].astype(np.float64)[:, None])
        for layer, p in enumerate(params["h"]):
            w, bias = (p["attn"]["c_proj"][name].astype(np.float64) for name in "wb")
            by_head = z[layer] @ w.reshape(config.n_head, config.head_size, -1)  # [H, T, C]
            yield added_by(by_head.swapaxes(0, 1))
            yield added_by(np.broadcast_to(bias, (T, 1, config.n_embd)))
            yield added_by(mlp_out[layer][:, None])
        yield (rows @ b)[:, :, None]

    return np.concatenate(list(parts()), axis=-1)
