"""Mistakes of attention: in the projection to q, k and v, in how heads are split and merged, in scores and weights."""

import math
from collections.abc import Callable, Iterator
from functools import partial
from itertools import permutations
from typing import Any, NamedTuple

import numpy as np

from numgpt.config import Config
from numgpt.model import attend, attention_scale, merge_heads, split_heads
from numgpt.ops import causal_mask, linear, softmax
from numgpt.verify.passes import QKV, Cause, Edit, Site

# --- the projection to q, k and v

Parts = Callable[[np.ndarray, Config], list[np.ndarray]]  # [T, 3C] -> q, k, v [H, T, D]
Matrix = Callable[[np.ndarray], np.ndarray]


def side_by_side(x: np.ndarray, config: Config, order: str = "qkv") -> list[np.ndarray]:
    """Take the columns as three blocks of H heads each, in some order; that of GPT-2 is q, k, v."""
    blocks = [split_heads(part, config.n_head) for part in np.split(x, 3, axis=-1)]
    return [blocks[order.index(name)] for name in "qkv"]


def by_head(x: np.ndarray, config: Config) -> list[np.ndarray]:
    """Take the columns as [H, 3, D]."""
    return list(x.reshape(len(x), config.n_head, 3, -1).transpose(2, 1, 0, 3))


def by_feature(x: np.ndarray, config: Config) -> list[np.ndarray]:
    """Take the columns as [H, D, 3]."""
    return list(x.reshape(len(x), config.n_head, -1, 3).transpose(3, 1, 0, 2))


def reinterpreted(w: np.ndarray) -> np.ndarray:
    """Return a matrix [A, B] whose memory was taken for [B, A] and then transposed; of a square one, its transpose.

    >>> reinterpreted(np.array([[1, 2, 3], [4, 5, 6]])).tolist()
    [[1, 3, 5], [2, 4, 6]]
    """
    return w.reshape(w.shape[::-1]).T


def blocks_transposed(w: np.ndarray) -> np.ndarray:
    return np.concatenate([block.T for block in np.split(w, 3, axis=1)], axis=1)


def block_missing(b: np.ndarray, which: int) -> np.ndarray:
    """Return a bias [3C] with one of its thirds set to zero."""
    blocks = np.split(b.copy(), 3)
    blocks[which] *= 0
    return np.concatenate(blocks)


def projected(
    site: Site, which: int, parts: Parts = side_by_side, w: Matrix | None = None, b: Matrix | None = None
) -> np.ndarray:
    """Compute q, k or v (0, 1, 2), with the columns taken as `parts` does, from another matrix or another bias."""
    c_attn = site.p["attn"]["c_attn"]
    matrix = c_attn["w"] if w is None else w(c_attn["w"])
    bias = c_attn["b"] if b is None else b(c_attn["b"])
    return parts(linear(site.seen["ln_1"], matrix, bias), site.config)[which]


def projection(words: str, **how: Any) -> Cause:
    """Return the mistake of q, k and v that are computed in another way."""
    edits = {name: partial(projected, which=i, **how) for i, name in enumerate(QKV)}
    return Cause(words, edits, behind="parts" in how)


def of_projection() -> Iterator[Cause]:
    for letters in permutations("qkv"):
        if letters != tuple("qkv"):
            words = f"q/k/v order: the columns of c_attn are taken as {', '.join(letters)} instead of q, k, v"
            yield projection(words, parts=partial(side_by_side, order="".join(letters)))
    yield projection("q/k/v order: q, k, v side by side within each head [T, H, 3, D], as in GPT-NeoX", parts=by_head)
    yield projection("q/k/v order: q, k, v in turns, feature by feature [T, H, D, 3]", parts=by_feature)
    yield projection("transposed weight: attn.c_attn.w [C, 3C] is taken as [3C, C]", w=reinterpreted)
    words = "transposed weight: each of the three blocks of attn.c_attn.w is transposed"
    yield projection(words, w=blocks_transposed)
    yield Cause("the keys are taken for the values", {"attn.v": lambda s: s.seen["attn.k"]})
    yield Cause("the queries are taken for the keys", {"attn.k": lambda s: s.seen["attn.q"]})
    yield projection("missing bias: attn.c_attn.b", b=lambda b: 0 * b)
    for i, name in enumerate(QKV):
        edit = partial(projected, which=i, b=partial(block_missing, which=i))
        yield Cause(f"missing bias: that of {name[-1]}", {name: edit})


# --- scores and weights


def scores(site: Site, scale: float | None = None, diagonal: int = 0, fill: float = -math.inf) -> np.ndarray:
    """Compute scores with another scale, with the mask moved by some places, or with another value where it masks."""
    q, k = site.seen["attn.q"], site.seen["attn.k"]
    scale = scale_in(site) if scale is None else scale
    return np.where(visible(site, diagonal), q @ k.swapaxes(-1, -2) * scale, fill)


def scale_in(site: Site) -> float:
    """Return what q k is multiplied by in scores: the right scale, or that of a mistake which is given."""
    scale = attention_scale(site.config, site.layer)
    right = site.seen["attn.q"] @ site.seen["attn.k"].swapaxes(-1, -2) * scale
    known = np.isfinite(site.value) & (right != 0)
    ratio = float(np.median(site.value[known] / right[known])) if known.any() else 1.0
    return scale * ratio if abs(ratio - 1) > 1e-3 else scale


def visible(site: Site, diagonal: int = 0) -> np.ndarray:
    """Return a causal mask [T, S] for scores or weights that is moved by so many places: 0 is right."""
    T, S = site.value.shape[-2:]
    return np.tri(T, S, S - T + diagonal, dtype=bool)


def scaled(site: Site, factor: float) -> np.ndarray:
    """Multiply scores by a factor."""
    return site.value * factor


def inverse_layer_toggled(site: Site) -> np.ndarray:
    """Compute scores divided by layer + 1 where the model does not ask for it, or not divided where it does."""
    by_layer = site.config.scale_attn_by_inverse_layer_idx
    other = site.config._replace(scale_attn_by_inverse_layer_idx=not by_layer)
    return scores(site, scale=attention_scale(other, site.layer))


def unmasked(site: Site) -> np.ndarray:
    return scores(site, diagonal=site.value.shape[-1])


def reversed_mask(site: Site) -> np.ndarray:
    return np.where(visible(site, diagonal=-1), -math.inf, unmasked(site))


def masked_late(site: Site) -> np.ndarray:
    return softmax(unmasked(site)) * causal_mask(*site.value.shape[-2:])


def softmax_over(site: Site, axis: int) -> np.ndarray:
    """Compute weights by a softmax over another axis; where all that is summed is masked they are 0."""
    x = site.seen["attn.scores"]
    e = np.nan_to_num(np.exp(x - x.max(axis, keepdims=True)))
    return np.nan_to_num(e / e.sum(axis, keepdims=True))


def softmax_with_one_more(site: Site) -> np.ndarray:
    """Compute a softmax whose sum has one more, exp(0): that of a key that is 0 and has no value."""
    x = site.seen["attn.scores"]
    largest = np.maximum(x.max(-1, keepdims=True), 0)
    e = np.exp(x - largest)
    return e / (e.sum(-1, keepdims=True) + np.exp(-largest))


def capped(site: Site, cap: float) -> np.ndarray:
    """Compute cap tanh(x / cap): a soft cap, as in Gemma 2."""
    return cap * np.tanh(site.value / cap)


def capped_scores(site: Site, cap: float) -> np.ndarray:
    return np.where(np.isneginf(site.value), -math.inf, capped(site, cap))


def no_softmax(site: Site) -> np.ndarray:
    x = site.seen["attn.scores"]
    return np.where(np.isneginf(x), 0, x)


HIDES_SELF = "mask off by one: a position does not see itself"
MASKS: list[tuple[str, Edit]] = [
    ("mask off by one: each position sees the one after it", partial(scores, diagonal=1)),
    (HIDES_SELF, partial(scores, diagonal=-1, fill=-1e9)),
    (HIDES_SELF, partial(scores, diagonal=-1)),
    ("no mask: positions see the future", unmasked),
    ("the mask is reversed: positions see only the future", reversed_mask),
    ("masked scores are 0, or almost, instead of -inf", partial(scores, fill=0.0)),
    ("masked scores are -1 instead of -inf", partial(scores, fill=-1.0)),
    ("masked scores are -10 instead of -inf", partial(scores, fill=-10.0)),
    ("masked scores are -100 instead of -inf", partial(scores, fill=-100.0)),
]

LATE = "the mask comes after the softmax: the weights of a position do not sum to 1"
WEIGHTS = (
    Cause(
        HIDES_SELF,
        {"attn.scores": partial(scores, diagonal=-1), "attn.weights": lambda s: np.nan_to_num(s.value)},
        behind=True,
    ),
    Cause("the scores were dumped before the mask, which itself is right", {}, shown={"attn.scores": unmasked}),
    Cause(LATE, {"attn.weights": masked_late}),
    Cause(LATE, {"attn.weights": masked_late}, shown={"attn.scores": unmasked}),
    Cause(
        "softmax on the wrong axis: over the queries instead of the keys",
        {"attn.weights": partial(softmax_over, axis=-2)},
    ),
    Cause("softmax on the wrong axis: over the heads", {"attn.weights": partial(softmax_over, axis=0)}),
    Cause("no softmax", {"attn.weights": no_softmax}),
    Cause("softmax with one more in its sum: an attention sink", {"attn.weights": softmax_with_one_more}),
    Cause("the scores have a soft cap, 50 tanh(x / 50)", {"attn.scores": partial(capped_scores, cap=50.0)}),
    Cause("the scores have a soft cap, 30 tanh(x / 30)", {"attn.scores": partial(capped_scores, cap=30.0)}),
    Cause(
        "the weights of attention are transposed before they meet the values",
        {"attn.z": lambda s: s.seen["attn.weights"].swapaxes(-1, -2) @ s.seen["attn.v"]},
    ),
)


def scales(config: Config) -> dict[float, str]:
    """Return what scores may be multiplied by, and how that comes about; of equal numbers the last is told."""
    D, C, H = config.head_size, config.n_embd, config.n_head
    return {
        1.0: "missing 1/sqrt(D): the scores are not scaled",
        1 / math.sqrt(C): "the scores are scaled by 1/sqrt(C), of the whole width, instead of 1/sqrt(D), of a head",
        1 / D: "the scores are divided by D instead of sqrt(D)",
        1 / math.sqrt(D): "the scores are divided by sqrt(D)",
        math.sqrt(D): "the scores are multiplied by sqrt(D) instead of divided",
        1 / math.sqrt(H): "the scores are divided by sqrt(H) instead of sqrt(D)",
    }


def of_scores(config: Config) -> Iterator[Cause]:
    by_layer = config.scale_attn_by_inverse_layer_idx
    words = "the scale by the inverse number of the layer, 1/(layer + 1), "
    words += "is missing" if by_layer else "is not of this model, and applied"
    toggled = Cause(words, {"attn.scores": inverse_layer_toggled})
    if by_layer:
        yield toggled
    right = attention_scale(config, 0)
    for scale, words in scales(config).items():
        if scale != right:
            yield Cause(words, {"attn.scores": partial(scaled, factor=scale / right)})
        if by_layer:
            yield Cause(f"{words}, and not by the number of the layer", {"attn.scores": partial(scores, scale=scale)})
    if not by_layer:
        yield toggled
    for words, edit in MASKS:
        yield Cause(words, {"attn.scores": edit}, behind=True)
    yield from WEIGHTS


# --- heads


class HeadOrder(NamedTuple):
    """A wrong way to split [T, C] into heads, and the wrong way to merge them that undoes it."""

    split_words: str
    split: Callable[[np.ndarray, int], np.ndarray]  # [T, C], H -> [H, T, D]
    merge_words: str
    merge: Callable[[np.ndarray], np.ndarray]  # [H, T, D] -> [T, C]


HEAD_ORDERS = (
    HeadOrder(
        "[T, C] is reshaped to [T, D, H]",
        lambda x, H: x.reshape(len(x), -1, H).transpose(2, 0, 1),
        "[H, T, D] is merged as [T, D, H]",
        lambda z: z.transpose(1, 2, 0).reshape(z.shape[1], -1),
    ),
    HeadOrder(
        "[T, C] is reshaped to [H, T, D] without a transpose",
        lambda x, H: x.reshape(H, len(x), -1),
        "[H, T, D] is merged without a transpose",
        lambda z: z.reshape(z.shape[1], -1),
    ),
)


def split(site: Site, order: HeadOrder) -> np.ndarray:
    return order.split(merge_heads(site.value), site.config.n_head)


def merged_out(site: Site, order: HeadOrder) -> np.ndarray:
    """Compute attn_out from heads that are merged in another order."""
    return linear(order.merge(site.seen["attn.z"]), **site.p["attn"]["c_proj"])


def merged_z(site: Site, order: HeadOrder) -> np.ndarray:
    """Return attn.z such that merging it rightly gives what merging it in another order gives."""
    return split_heads(order.merge(site.value), site.config.n_head)


def heads_of(site: Site, number: int) -> np.ndarray:
    """Compute attn.z with another number of heads, each scaled by the root of its own size."""
    config = site.config
    q, k, v = (split_heads(merge_heads(site.seen[name]), number) for name in QKV)
    other = config._replace(n_head=number)
    return split_heads(merge_heads(attend(q, k, v, attention_scale(other, site.layer))), config.n_head)


def other_heads(site: Site, size: int) -> np.ndarray:
    """Compute attn.z with D heads of size H, and scores divided by the root of some size."""
    config = site.config
    q, k, v = (split_heads(merge_heads(site.seen[name]), config.head_size) for name in QKV)
    factor = attention_scale(config, site.layer) / attention_scale(config, 0)
    return split_heads(merge_heads(attend(q, k, v, factor / math.sqrt(size))), config.n_head)


def of_one_head(site: Site) -> np.ndarray:
    """Return keys or values of which all heads have those of the first."""
    return np.repeat(site.value[:1], len(site.value), axis=0)


def unit(site: Site) -> np.ndarray:
    """Return q or k with each vector divided by its length: QK-norm."""
    return site.value / np.sqrt((site.value**2).sum(-1, keepdims=True))


def rms(site: Site) -> np.ndarray:
    return site.value / np.sqrt((site.value**2).mean(-1, keepdims=True))


def of_heads(config: Config) -> Iterator[Cause]:
    norms: dict[str, Edit] = {"divided by their length": unit, "divided by their root mean square": rms}
    for words, edit in norms.items():
        yield Cause(f"queries and keys are {words} (QK-norm)", dict.fromkeys(("attn.q", "attn.k"), edit), behind=True)
    C, H = config.n_embd, config.n_head
    for number in (n for n in (1, 2, 4, 8, 12, 16, 20, 25, 32, 64) if C % n == 0 and n not in (H, config.head_size)):
        words = f"attention has {number} head{'s' if number > 1 else ''} instead of {H}"
        yield Cause(words, {"attn.z": partial(heads_of, number=number)})
    if config.n_head == 1:
        return
    for names, words in ((("attn.k", "attn.v"), "keys and values"), (("attn.k",), "keys"), (("attn.v",), "values")):
        edits: dict[str, Edit] = dict.fromkeys(names, of_one_head)
        yield Cause(f"all heads have the {words} of the first (multi-query attention)", edits, behind=True)
    wrong = "heads split on the wrong axis"
    for order in HEAD_ORDERS:
        splits: dict[str, Edit] = {name: partial(split, order=order) for name in QKV}
        # What is dumped as z may be what was before the merge, or behind it.
        merges: list[dict[str, Edit]] = [
            {"attn_out": partial(merged_out, order=order)},
            {"attn.z": partial(merged_z, order=order)},
        ]
        words = f"{wrong}: {order.split_words}"
        yield Cause(words, splits, behind=True)
        for merge in merges:
            yield Cause(f"{words}, and merged back the same way", {**splits, **merge}, behind=True)
        for name, edit in splits.items():
            yield Cause(f"{wrong}, those of {name[-1]} alone: {order.split_words}", {name: edit}, behind=True)
        for merge in merges:
            yield Cause(f"heads merged on the wrong axis: {order.merge_words}", merge)
    for size in {config.n_head, config.head_size}:
        words = f"{wrong}: [T, C] is reshaped to [T, D, H], and taken as D heads of size H, scaled by 1/sqrt({size})"
        yield Cause(words, {"attn.z": partial(other_heads, size=size)})
