"""The data of a page that explains a text: everything that it shows, from one pass through the model in float64.

What is large is packed (see packing.py). Of a long text less is kept, so that the page stays small enough to open: of
attention the largest weights of each row, of the next token fewer candidates, of what parts add fewer logits.
"""

import math
from typing import Any

import numpy as np

from numgpt.checks import check_finite
from numgpt.config import Config
from numgpt.measure.scoring import score
from numgpt.model import Model
from numgpt.pages import heads
from numgpt.pages.by_layer import trace_by_layer
from numgpt.pages.candidates import Candidates, candidates
from numgpt.pages.lens import Reading, names_of_parts, parts_of_logits, read_stream
from numgpt.pages.packing import NUMBER, WEIGHT, pack_integers, pack_numbers, pack_scaled, pack_steps, pack_weights
from numgpt.tokenizer import Tokenizer, next_pair
from numgpt.trace import letters

FEATURES, OF_A_HEAD = 6, 3  # how many numbers are shown of a vector [C] or [F], and of one [D]
WEIGHTS = 1_500_000  # so many attention weights a page holds, in all, before it keeps the largest of each row alone
PICTURED = 170_000  # cells of the small pictures of all heads, where those are all that is known of each weight
CANDIDATES = 16_384  # that are kept one by one, of all positions together; but 100 a position or more
BELOW = 300_000  # of the tokens below those each logit, of all positions together, before they are thinned out
PARTS = 250_000  # what parts add to logits, of all positions together
PLACES = 64  # at most so many positions are held against each other
INTEGER, LOGIT, PART = 3, 5, 6  # characters of an id, a rank or a count; of a logit; of what a part adds to one


def gather(ids: np.ndarray, model: Model) -> dict[str, Any]:
    """Run a model and return what a page shows of it, ready for JSON.

    ids  [T] int, checked
    Raises CheckpointError where what the model computes is not finite.
    """
    config, T = model.config, len(ids)
    numbers, lengths, rows_of_heads = {}, {}, []
    streams, z, mlp_out = [], [], []
    attention, kinds = Attention(config, T), heads.places(ids)
    for seen in trace_by_layer(ids, model):
        for name, x in seen.items():
            if name.endswith(("attn.scores", "attn.weights")):
                continue
            check_finite(x.reshape(-1), position=T - 1)
            if letters(name)[0] == "H":
                numbers[name] = pack_numbers(x[..., :OF_A_HEAD])
            else:
                numbers[name] = pack_numbers(x[..., :FEATURES])
                lengths[name] = pack_numbers(np.sqrt((x * x).sum(axis=-1)))
        base = {name.split(".", 2)[-1]: x for name, x in seen.items()}
        streams += [base[name] for name in ("embed", "resid_mid", "resid_post") if name in base]
        if "attn.weights" in base:
            attention.add(base["attn.weights"])
            rows_of_heads.append(look(base["attn.weights"], base["attn.v"], kinds))
            z.append(base["attn.z"])
            mlp_out.append(base["mlp_out"])
    for name, rows in ("wte", ids), ("wpe", np.arange(T)):
        numbers[name] = pack_numbers(model.params[name][rows][:, :FEATURES].astype(float))

    n_parts = len(names_of_parts(config))
    next_ids = np.append(ids[1:], ids[-1])  # after the last token nothing came; what is read of it there is not shown
    follow = candidates(base["ln_f"], model, max(100, CANDIDATES // T), fine=max(500, BELOW // T))
    targets = choose_targets(follow.ids, ids, 4 if 4 * T * n_parts <= PARTS else 2)
    parts = parts_of_logits(ids, targets, z, mlp_out, streams[-1], model)
    reading = read_stream(streams, next_ids, model)
    scored = score(model._replace(tokenizer=None), ids) if T > 1 else None  # ids may be beyond the tokenizer
    if scored is not None:  # the last reading is the answer of the model itself
        check_finite(np.abs(scored.log_probs[1:]), position=T - 1)
        reading.rank[-1, :-1], reading.p_next[-1, :-1] = scored.ranks[1:], np.exp(scored.log_probs[1:])
    shown = set(ids.tolist()) | set(follow.ids.ravel().tolist()) | set(reading.best.ravel().tolist())
    shown |= set(targets.ravel().tolist())
    return {
        "ids": ids.tolist(),
        "pieces": pieces_of(ids, model.tokenizer),
        "texts": texts_of(sorted(shown), model.tokenizer),
        "config": {**config._asdict(), "F": config.mlp_width, "D": config.head_size},
        "packing": {"number": NUMBER, "weight": WEIGHT, "integer": INTEGER, "logit": LOGIT, "part": PART},
        "positions": positions_data(model.params["wpe"]),
        "numbers": {"features": FEATURES, "of_a_head": OF_A_HEAD, "tensors": numbers, "lengths": lengths},
        "attention": {**attention.data(), "heads": rows_of_heads},
        "lens": lens_data(reading, config),
        "parts": {
            "names": names_of_parts(config),
            "targets": targets.tolist(),
            "added": pack_scaled(parts, PART),
            "logits": [[round(x, 7) for x in row] for row in parts.sum(axis=-1).tolist()],
        },
        "next": next_data(follow),
        "surprise": {
            "ranks": [None, *(scored.ranks[1:].tolist() if scored else [])],
            "log_probs": [None, *([round(x, 7) for x in scored.log_probs[1:].tolist()] if scored else [])],
            "perplexity": scored.perplexity if scored and math.isfinite(scored.perplexity) else None,
        },
    }


def positions_data(wpe: np.ndarray) -> dict[str, Any]:
    """Return how alike the learned positions are, some of them spread over the whole context.

        cos(i, j) = wpe_i . wpe_j / (|wpe_i| |wpe_j|),    j <= i; 0 where a vector is 0

    wpe  [n_ctx, C]

    Returns the places, and the lower triangle of the cosines, row by row, each in three digits with its sign.

    >>> found = positions_data(np.array([[3.0, 4.0], [0.0, -2.0]]))
    >>> found["places"], found["cosines"] == pack_numbers(np.array([1.0, -0.8, 1.0]))
    ([0, 1], True)
    """
    places = np.unique(np.linspace(0, len(wpe) - 1, min(PLACES, len(wpe))).round().astype(int))
    x = wpe[places].astype(np.float64)
    lengths = np.sqrt((x * x).sum(axis=-1, keepdims=True))
    x = x / np.where(lengths > 0, lengths, 1)
    return {"places": places.tolist(), "cosines": pack_numbers(lower_triangles((x @ x.T)[None]))}


class Attention:
    """The weights of all heads, a layer at a time: all of them, or of a long text the largest of each row."""

    def __init__(self, config: Config, T: int) -> None:
        n_heads = config.n_layer * config.n_head
        all_fit = n_heads * T * (T + 1) // 2 <= WEIGHTS
        self.kept = T if all_fit else max(4, WEIGHTS // (n_heads * T))  # of each row
        self.side = min(T, max(8, math.isqrt(2 * PICTURED // n_heads)), 28 if all_fit else 48)
        self.weights: list[str] = []
        self.places: list[str] = []
        self.cells: list[str] = []

    def add(self, weights: np.ndarray) -> None:
        """Take the weights of the next layer, [H, T, T]."""
        T = weights.shape[1]
        cells = heads.cells(weights, self.side)
        self.cells.append(pack_integers(np.rint(63 * lower_triangles(cells)), 1))
        if self.kept == T:
            self.weights.append(pack_weights(lower_triangles(weights)))
            return
        largest = np.sort(np.argpartition(weights, -self.kept, axis=-1)[..., -self.kept :], axis=-1)
        self.places.append(pack_integers(largest, INTEGER))
        self.weights.append(pack_weights(np.take_along_axis(weights, largest, axis=-1)))

    def data(self) -> dict[str, Any]:
        """Return what was taken of each layer: weights, the places of those in their rows, and small pictures."""
        return {
            "kept": self.kept,
            "weights": self.weights,
            "places": self.places,
            "side": self.side,
            "cells": self.cells,
        }


def lower_triangles(x: np.ndarray) -> np.ndarray:
    """[H, T, T] -> [H, T (T + 1) / 2]: the rows of each, up to the diagonal, one behind the other.

    >>> lower_triangles(np.array([[[1, 0], [2, 3]]])).tolist()
    [[1, 2, 3]]
    """
    rows, columns = np.tril_indices(x.shape[-1])
    return x[:, rows, columns]


def look(weights: np.ndarray, v: np.ndarray, kinds: dict[str, np.ndarray]) -> list[dict[str, Any]]:
    """Return for each head of a layer where it looks, in shares and as a name, and the value of the first token."""
    first_values = heads.length_of_first_value(v)
    return [
        {**share, "kind": heads.kind_of(share), "first_value": first_value}
        for share, first_value in zip(heads.shares(weights, kinds), first_values, strict=True)
    ]


def choose_targets(likeliest: np.ndarray, ids: np.ndarray, n: int) -> np.ndarray:
    """Return the tokens of each position whose logits are shown in parts: the one that came, and the likeliest.

    likeliest  [T, N] int

    >>> choose_targets(np.array([[7, 8, 9], [7, 8, 9]]), ids=np.array([7, 9]), n=2).tolist()
    [[9, 7], [7, 8]]
    """
    rows = []
    for best, came in zip(likeliest.tolist(), [*ids[1:].tolist(), None], strict=True):
        others = [i for i in best if i != came]
        rows.append([*([] if came is None else [came]), *others][: min(n, likeliest.shape[1])])
    return np.array(rows)


def lens_data(reading: Reading, config: Config) -> dict[str, Any]:
    """Return what the lens reads, and behind which steps."""
    return {
        "points": ["embed", *(f"h.{i}.{name}" for i in range(config.n_layer) for name in ("resid_mid", "resid_post"))],
        "best": pack_integers(reading.best, INTEGER),
        "p_best": pack_numbers(reading.p_best),
        "rank": pack_integers(reading.rank, INTEGER),
        "p_next": pack_numbers(reading.p_next),
    }


def next_data(follow: Candidates) -> dict[str, Any]:
    """Return the candidates of each position, and what is known of all others: the steps from one logit to the next."""
    counts = np.diff(follow.places, prepend=follow.ids.shape[1] - 1)
    step, steps = in_steps(follow.logits[:, -1], follow.tails, counts)
    return {
        "n": follow.ids.shape[1],
        "ids": pack_integers(follow.ids, INTEGER),
        "logits": pack_scaled(follow.logits, LOGIT),
        "counts": pack_steps(counts),
        "step": step.tolist(),
        "steps": [pack_steps(row) for row in steps],
    }


def in_steps(start: np.ndarray, tails: np.ndarray, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return rows of falling numbers in whole steps: from the start to the first, from there to the second, and so on.

    start, tails  [T], [T, M] float64
    counts        [M] int: a step is sqrt(count) times as long where there are so many tokens to the next number
    Returns       step [T] float64 and steps [T, M] int. Each number is off by at most half a step, its own or a longer
                  one before it, as each step begins where the ones before it have led to.

    >>> in_steps(np.array([8.0]), np.array([[7.0, 6.5, 4.0]]), np.array([1, 1, 4]))[1]
    array([[27, 13, 33]])
    """
    steps = np.zeros(tails.shape, dtype=int)
    if not tails.size:
        return np.zeros(len(start)), steps
    alone = max(1, int(np.count_nonzero(counts == 1)))
    step = np.maximum((start - tails[:, alone - 1]) / alone / 20, (start - tails[:, -1]) / 2**17)
    step = np.where(step > 0, step, 1.0)
    at = start.copy()
    for i, length in enumerate(np.sqrt(counts)):
        steps[:, i] = np.rint((at - tails[:, i]) / (length * step)).clip(0, 2**18 - 1)
        at -= length * step * steps[:, i]
    return step, steps


def shown_text(piece: bytes) -> str:
    """Return a piece as text; where it is no whole characters, its bytes as Python writes them."""
    return piece.decode("utf-8", "backslashreplace")


def texts_of(ids: list[int], tokenizer: Tokenizer | None) -> dict[int, str]:
    """Return the text of each id; without a tokenizer none."""
    if tokenizer is None:
        return {}
    known = [i for i in ids if i < len(tokenizer)]
    return dict(zip(known, map(shown_text, tokenizer.pieces(known)), strict=True))


def pieces_of(ids: np.ndarray, tokenizer: Tokenizer | None) -> dict[int, dict[str, Any]]:
    """Return for each id of a text its bytes, and how they are merged: all pieces at each step, and the ranks.

    >>> import numgpt
    >>> pieces_of(np.array([640]), numgpt.load_tokenizer("storyteller"))[640]["steps"][-1]
    {'pieces': [' t', 'ime'], 'at': 0, 'rank': 384}
    """
    if tokenizer is None:
        return {}
    special = set(tokenizer.special_tokens.values())
    found: dict[int, dict[str, Any]] = {}
    for i in sorted(set(ids.tolist())):
        if i >= len(tokenizer):
            continue
        (piece,) = tokenizer.pieces([i])
        steps = [] if i in special else merge_steps(piece, tokenizer)
        found[i] = {"bytes": piece.hex(" "), "special": i in special, "steps": steps}
    return found


def merge_steps(piece: bytes, tokenizer: Tokenizer) -> list[dict[str, Any]]:
    """Return the merges that make a piece, in order: the pieces before each, the left one of the pair, and its rank."""
    pieces = [piece[i : i + 1] for i in range(len(piece))]
    steps = []
    while (at := next_pair(pieces, tokenizer.ranks)) is not None:
        rank = tokenizer.ranks[pieces[at], pieces[at + 1]]
        steps.append({"pieces": [shown_text(x) for x in pieces], "at": at, "rank": rank})
        pieces[at : at + 2] = [pieces[at] + pieces[at + 1]]
    return steps
    return steps
