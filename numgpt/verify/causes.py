"""What goes wrong when people port GPT-2: each likely mistake, as a small change of one forward pass.

`all_causes` lists them, the common ones first; search.py tries them all, and the one under which our numbers become
those of the other program is what happened there. Those of attention are in causes_attention.py, those of
positions, and of steps with a cache, in causes_positions.py.
"""

import math
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any

import numpy as np

from numgpt.config import Config
from numgpt.model import attention_scale, merge_heads, output_head, split_heads
from numgpt.ops import gelu, gelu_erf, layer_norm, linear, relu, silu, softmax
from numgpt.params import map_leaves
from numgpt.trace import TRACE_SHAPES
from numgpt.verify.causes_attention import capped, of_heads, of_projection, of_scores, reinterpreted
from numgpt.verify.causes_positions import of_attention, of_embedding, of_steps, with_mask
from numgpt.verify.noise import cut_to_tf32, to_bfloat16, to_float16, to_tf32
from numgpt.verify.passes import NORMS, QKV, Cause, Edit, Site, norm_input


def all_causes(
    config: Config, params: dict[str, Any], eps: float | None = None, starts: Iterable[int] = (), T: int = 0
) -> Iterator[Cause]:
    """Yield each mistake that is possible in a model, the common ones first.

    eps     an epsilon that was solved for, to be tried too
    starts  positions, of T, from which on it may be made
    """
    yield from of_embedding(config)
    yield from of_steps(starts, T)
    yield from _of_layer_norm(config, eps)
    yield from of_projection()
    yield from of_scores(config)
    yield from of_heads(config)
    yield from _of_activation(config)
    yield from _of_matrices()
    yield from STREAM
    yield from _of_branches(config)
    yield from _of_parameters(config, params)
    yield from of_attention(config)
    yield from OUTPUT
    yield from _of_rounding()


# --- layer norm


def wrong_norm(
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
    """Compute a layer norm by a formula that departs from the right one in what the options say.

    eps      None for that of the model; outside: it is added to the root instead of under it
    ddof     the variance is divided by C - ddof
    centre, gain, bias   False: the mean is not subtracted, g is left out, b is left out
    params   the layer norm whose g and b are taken
    """
    x, p = norm_input(name, site), site.p[params or name]
    eps = site.config.layer_norm_epsilon if eps is None else eps
    centred = x - x.mean(axis, keepdims=True) if centre else x
    var = (centred * centred).sum(axis, keepdims=True) / max(x.shape[axis] - ddof, 1)
    y = centred / (np.sqrt(var) + eps if outside else np.sqrt(var + eps))
    return y * (p["g"] if gain else 1) + (p["b"] if bias else 0)


def _each_norm(words: str, **how: Any) -> Cause:
    """Return a mistake that one layer norm may have, or all."""
    return Cause(words, {name: partial(wrong_norm, name=name, **how) for name in NORMS}, apart=True)


def wrong_epsilon(config: Config, eps: float) -> Cause:
    """Return the mistake of layer norms with another epsilon."""
    words = f"wrong epsilon in the layer norm: {eps:g} instead of {config.layer_norm_epsilon:g}"
    return _each_norm(words, eps=eps)


USUAL_EPS = (1e-5, 1e-6, 1e-12, 1e-8, 1e-7, 1e-4, 1e-3, 0.0)


def _of_layer_norm(config: Config, solved: float | None) -> Iterator[Cause]:
    for eps in dict.fromkeys(eps for eps in (*USUAL_EPS, solved) if eps not in (None, config.layer_norm_epsilon)):
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
    exchanged = {a: partial(wrong_norm, name=a, params=b) for a, b in (("ln_1", "ln_2"), ("ln_2", "ln_1"))}
    yield Cause("the parameters of ln_1 and ln_2 are exchanged", exchanged)
    skipped: dict[str, Edit] = {name: partial(norm_input, name) for name in NORMS}
    yield Cause("no final layer norm", {"ln_f": skipped["ln_f"]})
    yield Cause("no layer norm", skipped, apart=True)
    twice = {name: partial(_normed_again, name=name) for name in NORMS}
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


def _normed_again(site: Site, name: str) -> np.ndarray:
    return _normed(site, name, site.value)


# --- activation

Function = Callable[[np.ndarray], np.ndarray]

# The words for each activation function of a config.
NAMES = {"gelu_new": "tanh GELU", "gelu_pytorch_tanh": "tanh GELU", "gelu": "erf GELU", "silu": "SiLU"}
ACTIVATIONS: dict[str, Function] = {
    "erf GELU": gelu_erf,
    "tanh GELU": gelu,
    "the sigmoid approximation of GELU, x sigmoid(1.702 x),": lambda x: silu(1.702 * x) / 1.702,
    "relu": relu,
    "SiLU": silu,
    "tanh": np.tanh,
    "no activation": lambda x: x,
    "tanh GELU without its cubic term": lambda x: x / 2 * (1 + np.tanh(math.sqrt(2 / math.pi) * x)),
    "tanh GELU without sqrt(2/pi)": lambda x: x / 2 * (1 + np.tanh(x + 0.044715 * x**3)),
    "tanh GELU with 2/pi instead of its root": lambda x: x / 2 * (1 + np.tanh(2 / math.pi * (x + 0.044715 * x**3))),
    "tanh GELU with sqrt(pi/2)": lambda x: x / 2 * (1 + np.tanh(math.sqrt(math.pi / 2) * (x + 0.044715 * x**3))),
    "tanh GELU that is not halved": lambda x: 2 * gelu(x),
    "squared relu": lambda x: relu(x) ** 2,
    "leaky relu (0.01)": lambda x: np.where(x > 0, x, 0.01 * x),
    "ELU": lambda x: np.where(x > 0, x, np.expm1(np.minimum(x, 0))),
    "softplus": lambda x: np.logaddexp(x, 0),
}


def activated(site: Site, function: Function) -> np.ndarray:
    return function(site.seen["mlp.pre"])


def half_table_gelu(x: np.ndarray) -> np.ndarray:
    """GELU as llama.cpp has it on a CPU: looked up in a table of float16 -> float16, from -10 to 10.

    Source: ggml, ggml_vec_gelu_f32 with GGML_GELU_FP16.
    """
    table = to_float16(gelu(to_float16(x).astype(np.float32)))
    return np.where(x <= -10, 0, np.where(x >= 10, x, table)).astype(x.dtype)


def rounded_to_float16(site: Site) -> np.ndarray:
    return to_float16(site.value)


CACHED: dict[str, Edit] = dict.fromkeys(("attn.k", "attn.v"), rounded_to_float16)
# What ggml rounds where the cache is in float16.
PRODUCTS: dict[str, Edit] = dict.fromkeys(("attn.q", "attn.k", "attn.weights", "attn.v"), rounded_to_float16)


def flash_attention(site: Site) -> np.ndarray:
    """Compute attn.z as ggml's flash attention does on a CPU for less than 64 tokens: the sum is kept in float16.

        m' = max(m, s),   z' = z exp(m - m') + v exp(s - m'),   both terms rounded, and at the end z / sum of exp(s - m)

    Source: ggml, ggml_compute_forward_flash_attn_ext; Milakov and Gimelshein 2018, "Online normalizer calculation".
    """
    q, k, v = (to_float16(site.seen[name]) for name in ("attn.q", "attn.k", "attn.v"))
    scores = q @ k.swapaxes(-1, -2) * attention_scale(site.config, site.layer)  # [H, T, S]
    largest = np.full((*scores.shape[:2], 1), -np.inf)
    total, z = np.zeros_like(largest), np.zeros_like(site.value)
    for j in range(scores.shape[-1]):
        t = slice(max(0, j - scores.shape[-1] + scores.shape[1]), None)  # who sees key j
        s = scores[:, t, j : j + 1]
        new = np.maximum(largest[:, t], s)
        shrink, weight = np.exp(largest[:, t] - new), np.exp(s - new)
        z[:, t] = to_float16(to_float16(z[:, t] * shrink) + v[:, j : j + 1] * weight)
        total[:, t] = total[:, t] * shrink + weight
        largest[:, t] = new
    return z / total


def _of_activation(config: Config) -> Iterator[Cause]:
    right = NAMES.get(config.activation_function, config.activation_function)
    for name, function in ACTIVATIONS.items():
        if name != right:
            words = f"wrong activation: {name} instead of {right}"
            yield Cause(words, {"mlp.post": partial(activated, function=function)})
    if right == "tanh GELU":
        table: dict[str, Edit] = {"mlp.post": partial(activated, function=half_table_gelu)}
        also: list[tuple[str, dict[str, Edit]]] = [
            (", as llama.cpp has it", {}),
            (
                ", and keys and values in float16, as in llama.cpp's flash attention of 64 tokens or more",
                CACHED,
            ),
            (", and q, k, v and the weights of attention, as in llama.cpp without flash attention", PRODUCTS),
            (
                ", and values added up in float16, as in llama.cpp's flash attention of less than 64 tokens",
                {"attn.z": flash_attention},
            ),
        ]
        for more, edits in also:
            words = f"GELU by a half-precision table (input and output rounded to float16){more}"
            yield Cause(words, {**table, **edits}, behind=True, coarse=True)
    yield Cause("keys and values are kept in float16", CACHED, behind=True, coarse=True)
    yield Cause("q, k, v and the weights of attention are rounded to float16", PRODUCTS, behind=True, coarse=True)
    yield Cause("the output of the activation is rounded to float16", {"mlp.post": rounded_to_float16}, coarse=True)


# --- the other matrices: the projections into the residual stream, and the first of the MLP

# Each matrix by its path: the tensor that it makes, and what it is multiplied with.
MATRICES: dict[tuple[str, str], tuple[str, Edit]] = {
    ("attn", "c_proj"): ("attn_out", lambda s: merge_heads(s.seen["attn.z"])),
    ("mlp", "c_fc"): ("mlp.pre", lambda s: s.seen["ln_2"]),
    ("mlp", "c_proj"): ("mlp_out", lambda s: s.seen["mlp.post"]),
}


def product(site: Site, path: tuple[str, str], bias: int = 1, transposed: bool = False) -> np.ndarray:
    """Apply a matrix, its bias added so many times, or with its memory read in the other order."""
    p, x = site.p[path[0]][path[1]], MATRICES[path][1](site)
    return linear(x, reinterpreted(p["w"]) if transposed else p["w"], bias * p["b"])


def _of_matrices() -> Iterator[Cause]:
    for path, (tensor, _) in MATRICES.items():
        name = ".".join(path)
        mistaken = partial(product, path=path)
        yield Cause(f"transposed weight: {name}.w", {tensor: partial(mistaken, transposed=True)})
        yield Cause(f"missing bias: {name}.b", {tensor: partial(mistaken, bias=0)})
        yield Cause(f"the bias {name}.b is added twice", {tensor: partial(mistaken, bias=2)})
        words = f"transposed weight: {name}.w, and its bias is missing"
        yield Cause(words, {tensor: partial(mistaken, bias=0, transposed=True)})
    yield Cause("attn.c_proj is not applied", {"attn_out": lambda s: merge_heads(s.seen["attn.z"])})


# --- the residual stream


def centred(site: Site) -> np.ndarray:
    return site.value - site.value.mean(-1, keepdims=True)


STREAM = (
    Cause("the residual is not added after attention", {"resid_mid": lambda s: s.seen["attn_out"]}),
    Cause("the residual is not added after the MLP", {"resid_post": lambda s: s.seen["mlp_out"]}),
    Cause(
        "the residual that is added after attention is the normalised one",
        {"resid_mid": lambda s: s.seen["ln_1"] + s.seen["attn_out"]},
    ),
    Cause(
        "the residual that is added after the MLP is the normalised one",
        {"resid_post": lambda s: s.seen["ln_2"] + s.seen["mlp_out"]},
    ),
    Cause(
        "the residual that is added after the MLP is the input of the layer: the output of attention is lost",
        {"resid_post": lambda s: s.x + s.seen["mlp_out"]},
    ),
    Cause(
        "attention and MLP are parallel, as in GPT-J: the MLP reads the input of the layer, through ln_2",
        {"ln_2": lambda s: _normed(s, "ln_2", s.x)},
    ),
    Cause(
        "attention and MLP are parallel, as in GPT-J: the MLP reads the input of the layer, through ln_1",
        {"ln_2": lambda s: s.seen["ln_1"]},
    ),
    Cause(
        "the residual stream is centred, as TransformerLens does to weights: load them without processing",
        dict.fromkeys(("embed", "attn_out", "resid_mid", "mlp_out", "resid_post", "logits"), centred),
    ),
    Cause("a layer is left out", {"resid_post": lambda s: s.x}),
    Cause("the output of attention is added twice", {"resid_mid": lambda s: s.value + s.seen["attn_out"]}),
    Cause("the output of the MLP is added twice", {"resid_post": lambda s: s.value + s.seen["mlp_out"]}),
    Cause("the residual is added twice after attention", {"resid_mid": lambda s: s.value + s.x}),
    Cause("the residual is added twice after the MLP", {"resid_post": lambda s: s.value + s.seen["resid_mid"]}),
    Cause(
        "the residual that is added after the MLP is the output of attention alone",
        {"resid_post": lambda s: s.seen["attn_out"] + s.seen["mlp_out"]},
    ),
    Cause(
        "the MLP reads the output of attention alone, through ln_2",
        {"ln_2": lambda s: _normed(s, "ln_2", s.seen["attn_out"])},
    ),
    Cause("attention reads the residual stream without ln_1, which only the MLP has", {"ln_1": lambda s: s.x}),
)


def _of_branches(config: Config) -> Iterator[Cause]:
    """Yield what both branches of each layer may be multiplied by."""
    L = config.n_layer
    for factor, words in (
        (1 / math.sqrt(2 * L), "1/sqrt(2 L), as their weights are at first"),
        (1 / math.sqrt(L), "1/sqrt(L)"),
        (0.5, "1/2"),
    ):
        if factor < 1:
            edits: dict[str, Edit] = dict.fromkeys(("attn_out", "mlp_out"), partial(times, factor=factor))
            yield Cause(f"what attention and MLP add to the stream is multiplied by {words}", edits)


def times(site: Site, factor: float) -> np.ndarray:
    return site.value * factor


# --- parameters, in all layers at once

Params = dict[str, Any]


def rounded_params(params: Params, function: Function, matrices_alone: bool) -> Params:
    """Return parameters that were rounded: all, or the matrices alone."""
    return map_leaves(lambda path, x: function(x) if x.ndim == 2 or not matrices_alone else x, params)


def without_biases(params: Params, norms: bool) -> Params:
    """Return parameters without biases: all, or those of matrices alone."""
    return map_leaves(lambda path, x: 0 * x if path.endswith(".b") and (norms or "ln_" not in path) else x, params)


def with_biases(params: Params, factor: float) -> Params:
    """Return parameters whose biases, but those of layer norms, are multiplied by a factor."""
    return map_leaves(lambda path, x: factor * x if path.endswith(".b") and "ln_" not in path else x, params)


def with_gains_of_one_more(params: Params) -> Params:
    return map_leaves(lambda path, x: x + 1 if path.endswith(".g") else x, params)


def with_layers(params: Params, order: list[int]) -> Params:
    """Return parameters with those of other layers in each layer. What a mistake before left out is passed over."""
    return {**params, "h": [params["h"][i] for i in order if i < len(params["h"])]}


def with_rounded(params: Params, table: str, function: Function) -> Params:
    """Return parameters of which one table is rounded; of a tied one, as it embeds and as it gives logits."""
    return {**params, table: function(params[table])}


def with_int8(params: Params, axis: int | None) -> Params:
    """Return parameters whose matrices in the layers are rounded to int8: to the largest of each axis over 127."""

    def rounded(path: str, x: np.ndarray) -> np.ndarray:
        if not path.endswith(".w"):
            return x
        scale = abs(x).max(axis, keepdims=True) / 127
        return np.rint(x / np.where(scale > 0, scale, 1)) * scale

    return map_leaves(rounded, params)


def without_head(params: Params) -> Params:
    return {name: x for name, x in params.items() if name != "lm_head"}


def _of_parameters(config: Config, params: Params) -> Iterator[Cause]:
    functions: dict[str, Function] = {"float16": to_float16, "bfloat16": to_bfloat16}
    for name, function in functions.items():
        patch = partial(rounded_params, function=function, matrices_alone=False)
        yield Cause(f"the weights are rounded to half precision ({name})", {}, patch=patch, by_layer=True)
        words = f"the matrices are rounded to half precision ({name}), gains and biases are not"
        yield Cause(words, {}, patch=partial(patch, matrices_alone=True), by_layer=True)
        for table in ("wte", "wpe", "lm_head"):
            if table in params:
                yield Cause(
                    f"{table} alone is rounded to half precision ({name})",
                    {},
                    patch=partial(with_rounded, table=table, function=function),
                )
    for axis, scales in ((0, "one scale an output"), (1, "one scale an input"), (None, "one scale a matrix")):
        words = f"the matrices are rounded to int8, {scales}"
        yield Cause(words, {}, patch=partial(with_int8, axis=axis), by_layer=True)
    yield Cause("missing bias: all biases", {}, patch=partial(without_biases, norms=True), by_layer=True)
    yield Cause("missing bias: those of all matrices", {}, patch=partial(without_biases, norms=False), by_layer=True)
    L = config.n_layer
    if L > 1:
        orders = {
            "every layer has the parameters of layer 0": [0] * L,
            "every layer has the parameters of the last one": [L - 1] * L,
            "the layers come in reverse order": list(range(L))[::-1],
        }
        if L > 10:
            words = "the layers come in the order of their names as text: 0, 1, 10, 11, 2, ..."
            orders[words] = sorted(range(L), key=str)
        for n in range(1, min(L, 4)):
            orders[f"the last {'layer is' if n == 1 else f'{n} layers are'} left out"] = list(range(L - n))
            orders[f"the first {'layer is' if n == 1 else f'{n} layers are'} left out"] = list(range(n, L))
        for i in range(min(L - 1, 12)):
            orders[f"layers {i} and {i + 1} are exchanged"] = [*range(i), i + 1, i, *range(i + 2, L)]
        orders["each layer is applied twice"] = [i for i in range(L) for _ in range(2)]
        orders["each layer has the parameters of the next one"] = [*range(1, L), L - 1]
        for words, order in orders.items():
            yield Cause(words, {}, patch=partial(with_layers, order=order))
    yield Cause("the biases of matrices are subtracted", {}, patch=partial(with_biases, factor=-1), by_layer=True)
    yield Cause("the biases of matrices are added twice", {}, patch=partial(with_biases, factor=2), by_layer=True)
    yield Cause("1 is added to the gains of layer norms, as in Gemma", {}, patch=with_gains_of_one_more, by_layer=True)
    if "lm_head" in params:
        yield Cause("the output head is wte, but this model has one of its own, lm_head", {}, patch=without_head)


# --- what is rounded elsewhere


def rounded_to_bfloat16(site: Site) -> np.ndarray:
    return to_bfloat16(site.value)


def rounded_qkv(site: Site, which: int, function: Function) -> np.ndarray:
    """Compute q, k or v (0, 1, 2) from a rounded input and rounded weights."""
    w, b = (np.split(site.p["attn"]["c_attn"][name], 3, axis=-1)[which] for name in "wb")
    return split_heads(linear(function(site.seen["ln_1"]), function(w), b), site.config.n_head)


def rounded_scores(site: Site, function: Function) -> np.ndarray:
    q, k = (function(site.seen[name]) for name in ("attn.q", "attn.k"))
    return with_mask(site, q @ k.swapaxes(-1, -2) * attention_scale(site.config, site.layer))


def rounded_sum(site: Site, function: Function) -> np.ndarray:
    return function(site.seen["attn.weights"]) @ function(site.seen["attn.v"])


def rounded_product(site: Site, path: tuple[str, str], function: Function) -> np.ndarray:
    p = site.p[path[0]][path[1]]
    return linear(function(MATRICES[path][1](site)), function(p["w"]), p["b"])


def rounded_logits(site: Site, function: Function) -> np.ndarray:
    return function(site.seen["ln_f"]) @ function(output_head(site.p)).T


def rounded_products(function: Function) -> dict[str, Edit]:
    """Return all products of matrices, with what goes into them rounded and their sums as they are."""
    edits: dict[str, Edit] = {name: partial(rounded_qkv, which=i, function=function) for i, name in enumerate(QKV)}
    edits |= {"attn.scores": partial(rounded_scores, function=function)}
    edits |= {"attn.z": partial(rounded_sum, function=function)}
    edits |= {name: partial(rounded_product, path=path, function=function) for path, (name, _) in MATRICES.items()}
    return {**edits, "logits": partial(rounded_logits, function=function)}


STREAM_TENSORS = ("embed", "resid_mid", "resid_post")
EVERY_TENSOR = sorted({name.removeprefix("h.N.") for name in TRACE_SHAPES})


def _of_rounding() -> Iterator[Cause]:
    edits: dict[str, Edit] = {"float16": rounded_to_float16, "bfloat16": rounded_to_bfloat16}
    for name, edit in edits.items():
        words = f"the residual stream is kept in half precision ({name})"
        yield Cause(words, dict.fromkeys(STREAM_TENSORS, edit), coarse=True, throughout=True)
        words = f"every intermediate is rounded to half precision ({name})"
        yield Cause(words, dict.fromkeys(EVERY_TENSOR, edit), coarse=True, throughout=True)
    grids: dict[str, Function] = {
        "TF32: what goes into them is rounded to 10 bits of mantissa": to_tf32,
        "TF32: what goes into them is cut off behind 10 bits of mantissa": cut_to_tf32,
        "bfloat16: what goes into them is rounded, their sums are in float32": to_bfloat16,
    }
    for words, function in grids.items():
        made = rounded_products(function)
        yield Cause(f"the products are computed in {words}", made, coarse=True, throughout=True)


# --- the output


def log_softmax(site: Site) -> np.ndarray:
    x = site.value - site.value.max(-1, keepdims=True)
    return x - np.log(np.exp(x).sum(-1, keepdims=True))


OUTPUT = (
    Cause("the logits are log-probabilities: a log-softmax was applied", {"logits": log_softmax}),
    Cause("the logits are probabilities: a softmax was applied", {"logits": lambda s: softmax(s.value)}),
    Cause("the logits have a soft cap, 30 tanh(x / 30)", {"logits": partial(capped, cap=30.0)}),
)
