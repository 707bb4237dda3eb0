"""What goes wrong when people port GPT-2: each likely mistake, as a small change of one forward pass.

A `Cause` puts other values in the place of some intermediates, through `record`: what the same step would give with the
mistake in it. So model.py stays the only forward pass, and each mistake is one function of what stands before it.
verify.py tries them all, and the one under which our numbers become those of the other program is what happened there.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from itertools import permutations
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

from numgpt.config import Config
from numgpt.model import attend, attention_scale, merge_heads, split_heads
from numgpt.ops import causal_mask, gelu, gelu_erf, layer_norm, linear, relu, silu, softmax
from numgpt.params import map_leaves


class Site(NamedTuple):
    """Where in a forward pass a value is to be put in place of another."""

    x: np.ndarray  # the input of the layer, or of ln_f; the ids, for embed
    seen: dict[str, np.ndarray]  # what the layer has computed so far, by its names without "h.N."
    value: np.ndarray  # what is right
    p: dict[str, Any]  # the parameters of the layer; outside of layers, all of them
    config: Config
    layer: int


Edit = Callable[[Site], np.ndarray]


class Cause(NamedTuple):
    """A mistake."""

    words: str
    edits: Mapping[str, Edit]  # name without "h.N." -> what comes out instead
    shown: Mapping[str, Edit] = MappingProxyType({})  # the same, where only what is dumped is wrong
    patch: Callable[[dict[str, Any]], dict[str, Any]] | None = None  # other parameters, in all layers
    apart: bool = False  # the edits may happen one without the other: a mistake of one layer norm, or of all
    behind: bool = False  # it comes behind the product that makes q, k and v, or the scores: those in a dump are right
    coarse: bool = False  # it rounds, so that values on the edge between two may go either way


def all_causes(config: Config, params: dict[str, Any], eps: float | None = None) -> Iterator[Cause]:
    """Yield each mistake that is possible in a model, the common ones first.

    eps  an epsilon that was solved for, to be tried too
    """
    yield from _of_embedding(config)
    yield from _of_layer_norm(config, eps)
    yield from _of_projection(config)
    yield from _of_scores(config)
    yield from _of_heads(config)
    yield from _of_activation(config)
    yield from _of_matrices()
    yield from _of_residual_stream()
    yield from _of_parameters(config, params)


# --- embedding


def _of_embedding(config: Config) -> Iterator[Cause]:
    def embedding(site: Site, offset: int = 0, scale: float = 1.0, wpe: float = 1.0, order: int = 1) -> np.ndarray:
        places = np.arange(len(site.x))[::order] + offset
        return site.p["wte"][site.x] * scale + wpe * site.p["wpe"][places % config.n_ctx]

    for offset in (1, 2, -1):
        words = f"position offset: positions count from {offset} instead of 0"
        yield Cause(words + (", as in OPT" if offset == 2 else ""), {"embed": partial(embedding, offset=offset)})
    yield Cause("the positions are not added", {"embed": partial(embedding, wpe=0.0)})
    yield Cause("the position of every token is 0", {"embed": lambda s: s.p["wte"][s.x] + s.p["wpe"][0]})
    yield Cause("positions count backwards", {"embed": partial(embedding, order=-1)})
    scale = math.sqrt(config.n_embd)
    yield Cause("the token embedding is multiplied by sqrt(C)", {"embed": partial(embedding, scale=scale)})
    yield Cause("the embedding is multiplied by sqrt(C)", {"embed": partial(embedding, scale=scale, wpe=scale)})


# --- layer norm

NORMS = ("ln_1", "ln_2", "ln_f")


def norm_input(name: str, site: Site) -> np.ndarray:
    """What a layer norm normalises."""
    return site.seen["resid_mid"] if name == "ln_2" else site.x


def _norm(
    site: Site,
    name: str,
    eps: float | None = None,
    ddof: int = 0,
    outside: bool = False,
    centre: bool = True,
    gain: bool = True,
    bias: bool = True,
    axis: int = -1,
    params: str | None = None,
) -> np.ndarray:
    """layer_norm with something else in it."""
    x, p = norm_input(name, site), site.p[params or name]
    eps = site.config.layer_norm_epsilon if eps is None else eps
    centred = x - x.mean(axis, keepdims=True) if centre else x
    var = (centred * centred).sum(axis, keepdims=True) / max(x.shape[axis] - ddof, 1)
    y = centred / (np.sqrt(var) + eps if outside else np.sqrt(var + eps))
    return y * (p["g"] if gain else 1) + (p["b"] if bias else 0)


def solve_eps(x: np.ndarray, y: np.ndarray, g: np.ndarray, b: np.ndarray) -> float | None:
    """Return the epsilon under which layer_norm(x) is y: from each row's 1 / sqrt(var + eps), the median of all.

    >>> x, g, b = np.array([[1.0, 2.0, 4.0]]), np.ones(3), np.zeros(3)
    >>> solve_eps(x, layer_norm(x, g, b, eps=0.01), g, b)
    0.01
    """
    centred = g * (x - x.mean(-1, keepdims=True))
    with np.errstate(all="ignore"):
        slope = ((y - b) * centred).sum(-1) / (centred * centred).sum(-1)
        eps = float(np.median(1 / slope**2 - x.var(-1)))
    return float(f"{eps:.2g}") if 0 <= eps <= 1 else None


def _each_norm(words: str, **how: Any) -> Cause:
    """A mistake that one layer norm may have, or all."""
    return Cause(words, {name: partial(_norm, name=name, **how) for name in NORMS}, apart=True)


def wrong_epsilon(config: Config, eps: float) -> Cause:
    """Layer norms with another epsilon."""
    words = f"wrong epsilon in the layer norm: {eps:g} instead of {config.layer_norm_epsilon:g}"
    return _each_norm(words, eps=eps)


def _of_layer_norm(config: Config, solved: float | None) -> Iterator[Cause]:
    guesses = (1e-5, 1e-6, 1e-12, 1e-8, 1e-7, 1e-4, 1e-3, 0.0, solved)
    for eps in dict.fromkeys(eps for eps in guesses if eps not in (None, config.layer_norm_epsilon)):
        yield wrong_epsilon(config, eps)
    yield _each_norm("epsilon is outside the root in the layer norm", outside=True)
    if config.n_embd > 1:
        yield _each_norm("unbiased variance in the layer norm: divided by C - 1 instead of C", ddof=1)
        words = "unbiased standard deviation in the layer norm, with epsilon outside the root"
        yield _each_norm(words, ddof=1, outside=True)
    yield _each_norm("the layer norm does not subtract the mean (RMS norm)", centre=False)
    yield _each_norm("the bias of the layer norm is missing", bias=False)
    yield _each_norm("the gain of the layer norm is missing", gain=False)
    yield _each_norm("gain and bias of the layer norm are missing", gain=False, bias=False)
    yield _each_norm("the layer norm goes over the positions instead of the features", axis=-2)
    swapped = {"ln_1": partial(_norm, name="ln_1", params="ln_2"), "ln_2": partial(_norm, name="ln_2", params="ln_1")}
    yield Cause("the parameters of ln_1 and ln_2 are exchanged", swapped)
    skipped: dict[str, Edit] = {name: partial(norm_input, name) for name in NORMS}
    yield Cause("no final layer norm", {"ln_f": skipped["ln_f"]})
    yield Cause("no layer norm", skipped, apart=True)
    twice = {name: partial(_twice, name=name) for name in NORMS}
    yield Cause("the layer norm is applied twice", twice, apart=True)
    yield Cause(
        "post-LN: each layer norm comes after the residual is added, as in Vaswani et al. 2017 and GPT-1",
        {
            "ln_1": lambda s: s.x,
            "resid_mid": lambda s: _normed(s, "ln_1", s.value),
            "ln_2": lambda s: s.seen["resid_mid"],
            "resid_post": lambda s: _normed(s, "ln_2", s.value),
        },
    )


def _normed(site: Site, name: str, x: np.ndarray) -> np.ndarray:
    return layer_norm(x, **site.p[name], eps=site.config.layer_norm_epsilon)


def _twice(site: Site, name: str) -> np.ndarray:
    return _normed(site, name, site.value)


# --- the projection to q, k and v

QKV = "attn.q", "attn.k", "attn.v"
Parts = Callable[[np.ndarray, Config], list[np.ndarray]]  # [T, 3C] -> q, k, v [H, T, D]


def thirds(x: np.ndarray, config: Config) -> list[np.ndarray]:
    """q, k, v side by side, each of H heads: as it is in GPT-2."""
    return [split_heads(part, config.n_head) for part in np.split(x, 3, axis=-1)]


def _projected(site: Site, which: int, parts: Parts = thirds, w: Any = None, b: Any = None) -> np.ndarray:
    c_attn = site.p["attn"]["c_attn"]
    w = c_attn["w"] if w is None else w(c_attn["w"])
    b = c_attn["b"] if b is None else b(c_attn["b"])
    return parts(linear(site.seen["ln_1"], w, b), site.config)[which]


def projection(words: str, **how: Any) -> Cause:
    """q, k and v computed in another way."""
    edits = {name: partial(_projected, which=i, **how) for i, name in enumerate(QKV)}
    return Cause(words, edits, behind="parts" in how)


def reinterpreted(w: np.ndarray) -> np.ndarray:
    """A matrix [A, B] whose memory was taken for [B, A] and then transposed; of a square one, its transpose.

    >>> reinterpreted(np.array([[1, 2, 3], [4, 5, 6]])).tolist()
    [[1, 3, 5], [2, 4, 6]]
    """
    return w.reshape(w.shape[::-1]).T


def _of_projection(config: Config) -> Iterator[Cause]:
    for order in permutations("qkv"):
        if order != tuple("qkv"):

            def parts(x: np.ndarray, config: Config, order: tuple[str, ...] = order) -> list[np.ndarray]:
                found = dict(zip(order, thirds(x, config), strict=True))
                return [found[name] for name in "qkv"]

            words = f"q/k/v order: the columns of c_attn are taken as {', '.join(order)} instead of q, k, v"
            yield projection(words, parts=parts)

    def by_head(x: np.ndarray, config: Config) -> list[np.ndarray]:
        return list(x.reshape(len(x), config.n_head, 3, -1).transpose(2, 1, 0, 3))

    def by_feature(x: np.ndarray, config: Config) -> list[np.ndarray]:
        return list(x.reshape(len(x), config.n_head, -1, 3).transpose(3, 1, 0, 2))

    yield projection("q/k/v order: q, k, v side by side within each head [T, H, 3, D], as in GPT-NeoX", parts=by_head)
    yield projection("q/k/v order: q, k, v in turns, feature by feature [T, H, D, 3]", parts=by_feature)
    yield projection("transposed weight: attn.c_attn.w [C, 3C] is taken as [3C, C]", w=reinterpreted)

    def blocks(w: np.ndarray) -> np.ndarray:
        return np.concatenate([part.T for part in np.split(w, 3, axis=1)], axis=1)

    yield projection("transposed weight: each of the three blocks of attn.c_attn.w is transposed", w=blocks)
    yield projection("missing bias: attn.c_attn.b", b=lambda b: 0 * b)
    for i, name in enumerate("qkv"):

        def without(b: np.ndarray, i: int = i) -> np.ndarray:
            parts = np.split(b.copy(), 3)
            parts[i] *= 0
            return np.concatenate(parts)

        yield Cause(f"missing bias: that of {name}", {QKV[i]: partial(_projected, which=i, b=without)})


# --- heads


def _of_heads(config: Config) -> Iterator[Cause]:
    H = config.n_head
    if H == 1:
        return

    def wrong_axis(part: np.ndarray) -> np.ndarray:
        return part.reshape(len(part), -1, H).transpose(2, 0, 1)

    def no_transpose(part: np.ndarray) -> np.ndarray:
        return part.reshape(H, len(part), -1)

    splits: dict[str, Callable[[np.ndarray], np.ndarray]] = {
        "[T, C] is reshaped to [T, D, H]": wrong_axis,
        "[T, C] is reshaped to [H, T, D] without a transpose": no_transpose,
    }
    merges: dict[str, Callable[[np.ndarray], np.ndarray]] = {
        "[H, T, D] is merged as [T, D, H]": lambda z: z.transpose(1, 2, 0).reshape(z.shape[1], -1),
        "[H, T, D] is merged without a transpose": lambda z: z.reshape(z.shape[1], -1),
    }

    def split(site: Site, how: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
        return how(merge_heads(site.value))

    def merged(site: Site, how: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
        return linear(how(site.seen["attn.z"]), **site.p["attn"]["c_proj"])

    def merged_z(site: Site, how: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
        return split_heads(how(site.value), H)

    wrong = "heads split on the wrong axis"
    for (words, way), (back, undo) in zip(splits.items(), merges.items(), strict=True):
        edits: dict[str, Edit] = {name: partial(split, how=way) for name in QKV}
        ends: tuple[dict[str, Edit], ...] = (
            {"attn_out": partial(merged, how=undo)},
            {"attn.z": partial(merged_z, how=undo)},
        )
        yield Cause(f"{wrong}: {words}", edits, behind=True)
        for end in ends:  # what is dumped as z may be what was before the merge, or behind it
            yield Cause(f"{wrong}: {words}, and merged back the same way", {**edits, **end}, behind=True)
        for name in QKV:
            yield Cause(f"{wrong}, those of {name[-1]} alone: {words}", {name: edits[name]}, behind=True)
        for end in ends:
            yield Cause(f"heads merged on the wrong axis: {back}", end)

    def other_heads(site: Site, size: int) -> np.ndarray:
        q, k, v = (split_heads(merge_heads(site.seen[name]), config.head_size) for name in QKV)
        factor = attention_scale(config, site.layer) / attention_scale(config, 0)
        return split_heads(merge_heads(attend(q, k, v, factor / math.sqrt(size))), H)

    for size in {H, config.head_size}:
        words = f"{wrong}: [T, C] is reshaped to [T, D, H], and taken as D heads of size H, scaled by 1/sqrt({size})"
        yield Cause(words, {"attn.z": partial(other_heads, size=size)})


# --- scores and weights


def _of_scores(config: Config) -> Iterator[Cause]:
    def scores(site: Site, scale: float | None = None, diagonal: int = 0, fill: float = -math.inf) -> np.ndarray:
        q, k = site.seen["attn.q"], site.seen["attn.k"]
        scale = attention_scale(config, site.layer) if scale is None else scale
        return _masked(q @ k.swapaxes(-1, -2) * scale, diagonal, fill)

    def unmasked(site: Site) -> np.ndarray:
        return scores(site, diagonal=site.value.shape[-1])

    by_layer = config.scale_attn_by_inverse_layer_idx
    other = config._replace(scale_attn_by_inverse_layer_idx=not by_layer)
    words = "the scale by the inverse number of the layer, 1/(layer + 1), "
    words += "is missing" if by_layer else "is not of this model, and applied"
    inverse = Cause(words, {"attn.scores": lambda s: scores(s, scale=attention_scale(other, s.layer))})
    if by_layer:
        yield inverse
    D, C, right = config.head_size, config.n_embd, attention_scale(config, 0)
    for scale, words in {
        1.0: "missing 1/sqrt(D): the scores are not scaled",
        1 / math.sqrt(C): "the scores are scaled by 1/sqrt(C), of the whole width, instead of 1/sqrt(D), of a head",
        1 / D: "the scores are divided by D instead of sqrt(D)",
        1 / math.sqrt(D): "the scores are divided by sqrt(D)",
        math.sqrt(D): "the scores are multiplied by sqrt(D) instead of divided",
        1 / math.sqrt(config.n_head): "the scores are divided by sqrt(H) instead of sqrt(D)",
    }.items():
        if scale != right:

            def scaled(site: Site, factor: float = scale / right) -> np.ndarray:
                return scores(site, scale=factor * attention_scale(config, site.layer))

            yield Cause(words, {"attn.scores": scaled})
        if by_layer:
            yield Cause(f"{words}, and not by the number of the layer", {"attn.scores": partial(scores, scale=scale)})
    if not by_layer:
        yield inverse
    strict = "mask off by one: a position does not see itself"
    masks: list[tuple[str, Edit]] = [
        ("mask off by one: each position sees the one after it", partial(scores, diagonal=1)),
        (strict, partial(scores, diagonal=-1, fill=-1e9)),
        (strict, partial(scores, diagonal=-1)),
        ("no mask: positions see the future", unmasked),
        ("the mask is reversed: positions see only the future", _reversed(scores)),
        ("masked scores are 0, or almost, instead of -inf", partial(scores, fill=0.0)),
        *(
            (f"masked scores are {fill:g} instead of -inf", partial(scores, fill=fill))
            for fill in (-1.0, -10.0, -100.0)
        ),
    ]
    for words, mask in masks:
        yield Cause(words, {"attn.scores": mask}, behind=True)
    no_nan: Edit = lambda s: np.nan_to_num(s.value)  # noqa: E731
    yield Cause(strict, {"attn.scores": partial(scores, diagonal=-1), "attn.weights": no_nan}, behind=True)
    yield Cause("the scores were dumped before the mask, which itself is right", {}, shown={"attn.scores": unmasked})

    def masked_late(site: Site) -> np.ndarray:
        return softmax(unmasked(site)) * causal_mask(*site.value.shape[-2:])

    def shares(x: np.ndarray, axis: int) -> np.ndarray:
        e = np.nan_to_num(np.exp(x - x.max(axis, keepdims=True)))
        return np.nan_to_num(e / e.sum(axis, keepdims=True))

    late = "the mask comes after the softmax: the weights of a position do not sum to 1"
    yield Cause(late, {"attn.weights": masked_late})
    yield Cause(late, {"attn.weights": masked_late}, shown={"attn.scores": unmasked})
    words = "softmax on the wrong axis: over the queries instead of the keys"
    yield Cause(words, {"attn.weights": lambda s: shares(s.seen["attn.scores"], -2)})
    words = "softmax on the wrong axis: over the heads"
    yield Cause(words, {"attn.weights": lambda s: shares(s.seen["attn.scores"], 0)})
    yield Cause("no softmax", {"attn.weights": lambda s: _unmasked_or_zero(s.seen["attn.scores"])})
    transposed = {"attn.z": lambda s: s.seen["attn.weights"].swapaxes(-1, -2) @ s.seen["attn.v"]}
    yield Cause("the weights of attention are transposed before they meet the values", transposed)


def _masked(scores: np.ndarray, diagonal: int, fill: float) -> np.ndarray:
    """Scores under a mask that is moved by so many places: 0 is right."""
    T, S = scores.shape[-2:]
    return np.where(np.tri(T, S, S - T + diagonal, dtype=bool), scores, fill)


def _unmasked_or_zero(scores: np.ndarray) -> np.ndarray:
    return np.where(np.isneginf(scores), 0, scores)


def _reversed(scores: Callable[..., np.ndarray]) -> Edit:
    def edit(site: Site) -> np.ndarray:
        T, S = site.value.shape[-2:]
        return np.where(np.tri(T, S, S - T - 1, dtype=bool), -math.inf, scores(site, diagonal=S))

    return edit


# --- activation


def half(x: np.ndarray) -> np.ndarray:
    """Round to float16."""
    with np.errstate(over="ignore"):
        return x.astype(np.float16).astype(x.dtype)


CACHED = ("attn.k", "attn.v")
PRODUCTS = ("attn.q", "attn.k", "attn.weights", "attn.v")  # what ggml rounds where the cache is in float16


def half_table_gelu(x: np.ndarray) -> np.ndarray:
    """GELU as llama.cpp has it on a CPU: looked up in a table of float16 -> float16, from -10 to 10.

    Source: ggml, ggml_vec_gelu_f32 with GGML_GELU_FP16.
    """
    table = half(gelu(half(x).astype(np.float32)))
    return np.where(x <= -10, 0, np.where(x >= 10, x, table)).astype(x.dtype)


def _of_activation(config: Config) -> Iterator[Cause]:
    names = {"gelu_new": "tanh GELU", "gelu_pytorch_tanh": "tanh GELU", "gelu": "erf GELU", "silu": "SiLU"}
    right = names.get(config.activation_function, config.activation_function)
    others: dict[str, Callable[[np.ndarray], np.ndarray]] = {
        "erf GELU": gelu_erf,
        "tanh GELU": gelu,
        "the sigmoid approximation of GELU, x sigmoid(1.702 x),": lambda x: silu(1.702 * x) / 1.702,
        "relu": relu,
        "SiLU": silu,
        "tanh": np.tanh,
        "no activation": lambda x: x,
    }

    def activated(site: Site, function: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
        return function(site.seen["mlp.pre"])

    for name, function in others.items():
        if name != right:
            words = f"wrong activation: {name} instead of {right}"
            yield Cause(words, {"mlp.post": partial(activated, function=function)})

    def rounded(site: Site) -> np.ndarray:
        return half(site.value)

    halves: list[dict[str, Edit]] = [dict.fromkeys(names, rounded) for names in ((), CACHED, PRODUCTS)]
    also = [
        "",
        ", and keys and values kept in float16",
        ", and q, k, v and the weights of attention rounded to it, too",
    ]
    if right == "tanh GELU":
        table: dict[str, Edit] = {"mlp.post": partial(activated, function=half_table_gelu)}
        gelu_words = "GELU by a half-precision table (input and output rounded to float16)"
        for more, halved in zip(also, halves, strict=True):
            yield Cause(f"{gelu_words}{more}, as llama.cpp has it", {**table, **halved}, behind=True, coarse=True)
    yield Cause("keys and values are kept in float16", halves[1], behind=True, coarse=True)
    yield Cause("q, k, v and the weights of attention are rounded to float16", halves[2], behind=True, coarse=True)
    yield Cause("the output of the activation is rounded to float16", {"mlp.post": rounded}, coarse=True)


# --- the other matrices: the projections into the residual stream, and the first of the MLP


def _of_matrices() -> Iterator[Cause]:
    inputs: dict[tuple[str, str], tuple[str, Callable[[Site], np.ndarray]]] = {
        ("attn", "c_proj"): ("attn_out", lambda s: merge_heads(s.seen["attn.z"])),
        ("mlp", "c_fc"): ("mlp.pre", lambda s: s.seen["ln_2"]),
        ("mlp", "c_proj"): ("mlp_out", lambda s: s.seen["mlp.post"]),
    }

    def product(
        site: Site, path: tuple[str, str], x: Callable[[Site], np.ndarray], bias: int, turn: bool
    ) -> np.ndarray:
        p = site.p[path[0]][path[1]]
        return linear(x(site), reinterpreted(p["w"]) if turn else p["w"], bias * p["b"])

    for path, (tensor, x) in inputs.items():
        name = ".".join(path)
        for words, bias, turn in (
            (f"transposed weight: {name}.w", 1, True),
            (f"missing bias: {name}.b", 0, False),
            (f"the bias {name}.b is added twice", 2, False),
            (f"transposed weight: {name}.w, and its bias is missing", 0, True),
        ):
            edit: Edit = partial(product, path=path, x=x, bias=bias, turn=turn)
            yield Cause(words, {tensor: edit})
    yield Cause("attn.c_proj is not applied", {"attn_out": lambda s: merge_heads(s.seen["attn.z"])})


# --- the residual stream


def _of_residual_stream() -> Iterator[Cause]:
    yield Cause("the residual is not added after attention", {"resid_mid": lambda s: s.seen["attn_out"]})
    yield Cause("the residual is not added after the MLP", {"resid_post": lambda s: s.seen["mlp_out"]})
    words = "the residual that is added after attention is the normalised one"
    yield Cause(words, {"resid_mid": lambda s: s.seen["ln_1"] + s.seen["attn_out"]})
    words = "the residual that is added after the MLP is the normalised one"
    yield Cause(words, {"resid_post": lambda s: s.seen["ln_2"] + s.seen["mlp_out"]})
    words = "the residual that is added after the MLP is the input of the layer: the output of attention is lost"
    yield Cause(words, {"resid_post": lambda s: s.x + s.seen["mlp_out"]})
    words = "attention and MLP are parallel, as in GPT-J: the MLP reads the input of the layer"
    yield Cause(f"{words}, through ln_2", {"ln_2": lambda s: _normed(s, "ln_2", s.x)})
    yield Cause(f"{words}, through ln_1", {"ln_2": lambda s: s.seen["ln_1"]})
    centred: dict[str, Edit] = dict.fromkeys(
        ("embed", "attn_out", "resid_mid", "mlp_out", "resid_post", "logits"),
        lambda s: s.value - s.value.mean(-1, keepdims=True),
    )
    words = "the residual stream is centred, as TransformerLens does to weights: load them without processing"
    yield Cause(words, centred)
    yield Cause("a layer is left out", {"resid_post": lambda s: s.x})


# --- parameters, in all layers at once; the output


def to_bfloat16(x: np.ndarray) -> np.ndarray:
    """Round to bfloat16, the upper half of a float32; ties go to even.

    >>> to_bfloat16(np.array([1 + 2**-8, 1 + 3 * 2**-8])).tolist()
    [1.0, 1.015625]
    """
    bits = x.astype(np.float32).view(np.uint32)
    return ((bits + 0x7FFF + (bits >> 16 & 1)) & 0xFFFF0000).astype(np.uint32).view(np.float32).astype(x.dtype)


def _of_parameters(config: Config, params: dict[str, Any]) -> Iterator[Cause]:
    roundings = {"float16": half, "bfloat16": to_bfloat16}
    for name, function in roundings.items():

        def rounded(params: dict[str, Any], function: Callable[[np.ndarray], np.ndarray] = function) -> dict[str, Any]:
            return map_leaves(lambda path, x: function(x), params)

        def some(params: dict[str, Any], function: Callable[[np.ndarray], np.ndarray] = function) -> dict[str, Any]:
            return map_leaves(lambda path, x: function(x) if x.ndim == 2 else x, params)

        yield Cause(f"the weights are rounded to half precision ({name})", {}, patch=rounded)
        yield Cause(f"the matrices are rounded to half precision ({name}), gains and biases are not", {}, patch=some)
    for words, norms in ("missing bias: all biases", True), ("missing bias: those of all matrices", False):

        def without_biases(params: dict[str, Any], norms: bool = norms) -> dict[str, Any]:
            return map_leaves(
                lambda path, x: 0 * x if path.endswith(".b") and (norms or "ln_" not in path) else x, params
            )

        yield Cause(words, {}, patch=without_biases)
    if config.n_layer > 1:
        words = "every layer has the parameters of layer 0"
        yield Cause(words, {}, patch=lambda params: {**params, "h": [params["h"][0]] * config.n_layer})
        words = "every layer has the parameters of the last one"
        yield Cause(words, {}, patch=lambda params: {**params, "h": [params["h"][-1]] * config.n_layer})
        yield Cause("the layers come in reverse order", {}, patch=lambda params: {**params, "h": params["h"][::-1]})
    if config.n_layer > 10:
        words = "the layers come in the order of their names as text: 0, 1, 10, 11, 2, ..."
        order = sorted(range(config.n_layer), key=str)
        yield Cause(words, {}, patch=lambda params: {**params, "h": [params["h"][i] for i in order]})
    if "lm_head" in params:
        words = "the output head is wte, but this model has one of its own, lm_head"
        yield Cause(words, {}, patch=lambda params: {name: x for name, x in params.items() if name != "lm_head"})

    def log_softmax(site: Site) -> np.ndarray:
        x = site.value - site.value.max(-1, keepdims=True)
        return x - np.log(np.exp(x).sum(-1, keepdims=True))

    yield Cause("the logits are log-probabilities: a log-softmax was applied", {"logits": log_softmax})
    yield Cause("the logits are probabilities: a softmax was applied", {"logits": lambda s: softmax(s.value)})
