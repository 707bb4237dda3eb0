"""The gradient of the loss, written out: for each function of `model` one that goes backwards through it.

The order is that of the forward pass; read it upwards to follow a gradient. The names, and the ways back through single
operations, are those of `backward_ops`. The intermediates come from a trace: the tensors that `record` saw in
`model.forward`, by name. On the way back the gradient of each of them passes through a `record` too.
"""

from typing import Any

import numpy as np

from numgpt.checks import check_ids
from numgpt.config import Config
from numgpt.errors import ContextError, OptionError, TokenError
from numgpt.model import (
    Params,
    Record,
    attention_scale,
    compute_logits,
    identity,
    merge_heads,
    output_head,
    record_in,
    split_heads,
)
from numgpt.ops import softmax
from numgpt.training.backward_ops import (
    ACTIVATIONS_BACKWARD,
    attend_backward,
    embed_backward,
    layer_norm_backward,
    linear_backward,
    rows,
)

Trace = dict[str, np.ndarray]  # name -> tensor, as `record` saw them
Gradients = Params  # a tree like the parameters
UNCOUNTED = -1  # the target of a position that does not count


def attention_backward(
    d_y: np.ndarray,
    x: np.ndarray,
    trace: Trace,
    p: Params,
    config: Config,
    layer: int = 0,
    record: Record = identity,
) -> tuple[np.ndarray, Gradients]:
    """Go back through `model.attention`: the output projection, the heads, the projection to q, k and v.

    d_y, x  [..., T, C]
    trace   of this layer, names without the layer's
    p       c_attn and c_proj
    Returns d_x [..., T, C] and the gradients of p.
    Records the gradients of attn.z, attn.v, attn.k and attn.q, and what attend_backward records.
    """
    q, k, v, weights, z = (trace[f"attn.{name}"] for name in ("q", "k", "v", "weights", "z"))
    d_merged, d_c_proj = linear_backward(d_y, merge_heads(z), p["c_proj"]["w"])
    d_z = record("attn.z", split_heads(d_merged, config.n_head))
    d_q, d_k, d_v = attend_backward(d_z, q, k, v, weights, attention_scale(config, layer), record)
    d_v = record("attn.v", d_v)
    d_k = record("attn.k", d_k)
    d_q = record("attn.q", d_q)
    d_qkv = np.concatenate([merge_heads(d) for d in (d_q, d_k, d_v)], axis=-1)  # [..., T, 3C]
    d_x, d_c_attn = linear_backward(d_qkv, x, p["c_attn"]["w"])
    return d_x, {"c_attn": d_c_attn, "c_proj": d_c_proj}


def mlp_backward(
    d_y: np.ndarray, x: np.ndarray, trace: Trace, p: Params, config: Config, record: Record = identity
) -> tuple[np.ndarray, Gradients]:
    """Go back through `model.mlp`: narrow, bend, widen.

    d_y, x  [..., T, C]
    trace   of this layer, names without the layer's
    p       c_fc and c_proj
    Returns d_x [..., T, C] and the gradients of p.
    Records the gradients of mlp.post and mlp.pre.
    """
    d_post, d_c_proj = linear_backward(d_y, trace["mlp.post"], p["c_proj"]["w"])
    d_post = record("mlp.post", d_post)
    d_pre = record("mlp.pre", ACTIVATIONS_BACKWARD[config.activation_function](d_post, trace["mlp.pre"]))
    d_x, d_c_fc = linear_backward(d_pre, x, p["c_fc"]["w"])
    return d_x, {"c_fc": d_c_fc, "c_proj": d_c_proj}


def block_backward(
    d_y: np.ndarray,
    x: np.ndarray,
    trace: Trace,
    p: Params,
    config: Config,
    layer: int = 0,
    record: Record = identity,
) -> tuple[np.ndarray, Gradients]:
    """Go back through `model.block`. The residual stream hands a gradient on as it is; each sub-block adds its own.

        d_mid = d_y   + layer_norm_backward(mlp_backward(d_y))
        d_x   = d_mid + layer_norm_backward(attention_backward(d_mid))

    d_y, x  [..., T, C]  x is what came into the layer
    trace   of this layer, names without the layer's
    p       ln_1, attn, ln_2 and mlp
    Returns d_x [..., T, C] and the gradients of p.
    Records the gradients of all that block records, the last first.
    """
    eps = config.layer_norm_epsilon
    d_y = record("resid_post", d_y)
    d_mlp_out = record("mlp_out", d_y)
    d_normed, d_mlp = mlp_backward(d_mlp_out, trace["ln_2"], trace, p["mlp"], config, record)
    d_normed = record("ln_2", d_normed)
    d_branch, d_ln_2 = layer_norm_backward(d_normed, trace["resid_mid"], p["ln_2"]["g"], eps)
    d_mid = record("resid_mid", d_y + d_branch)
    d_attn_out = record("attn_out", d_mid)
    d_normed, d_attn = attention_backward(d_attn_out, trace["ln_1"], trace, p["attn"], config, layer, record)
    d_normed = record("ln_1", d_normed)
    d_branch, d_ln_1 = layer_norm_backward(d_normed, x, p["ln_1"]["g"], eps)
    return d_mid + d_branch, {"ln_1": d_ln_1, "attn": d_attn, "ln_2": d_ln_2, "mlp": d_mlp}


def cross_entropy(logits: np.ndarray, targets: np.ndarray) -> float:
    """Return the mean of how much each target surprises the model, in nats.

        loss = mean of log(sum_j exp(logits_j)) - logits_target   over the targets that are not -1

    logits [..., T, V],  targets [..., T] int
    Returns a float, computed in float64.
    Source: Radford et al. 2018, equation 1, with the mean for the sum.

    >>> round(cross_entropy(np.log([[0.25, 0.75], [0.5, 0.5]]), np.array([0, -1])), 6)  # log 4
    1.386294
    """
    x = rows(logits)[counted(targets)].astype(np.float64)
    x -= x.max(axis=-1, keepdims=True)
    at_target = x[np.arange(len(x)), targets[targets != UNCOUNTED]]
    return float((np.log(np.exp(x).sum(axis=-1)) - at_target).mean())


def counted(targets: np.ndarray) -> np.ndarray:
    """Tell which of the targets, one after the other, count: [..., T] -> [N] bool."""
    return targets.ravel() != UNCOUNTED


def cross_entropy_backward(logits: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Return the gradient of `cross_entropy`: where the way back begins.

        d_logits = (softmax(logits) - 1 at the target) / number of targets,   0 where a target is -1

    logits [..., T, V],  targets [..., T] int
    Returns d_logits [..., T, V].

    >>> cross_entropy_backward(np.log([[0.25, 0.75], [0.5, 0.5]]), np.array([0, -1]))
    array([[-0.75,  0.75],
           [ 0.  ,  0.  ]])
    """
    d_logits = rows(softmax(logits))
    where = np.flatnonzero(counted(targets))
    d_logits[where, targets.ravel()[where]] -= 1
    d_logits[~counted(targets)] = 0
    return (d_logits / len(where)).reshape(logits.shape)


def layer_trace(trace: Trace, layer: int) -> Trace:
    """Return what was recorded in one layer, names without the layer's.

    >>> list(layer_trace({"embed": 0, "h.1.ln_1": 0, "h.11.ln_1": 0, "h.1.attn.q": 0}, layer=1))
    ['ln_1', 'attn.q']
    """
    start = f"h.{layer}."
    return {name.removeprefix(start): x for name, x in trace.items() if name.startswith(start)}


def compute_logits_backward(
    ids: np.ndarray, d_logits: np.ndarray, trace: Trace, params: Params, config: Config, record: Record = identity
) -> Gradients:
    """Go back through `model.compute_logits`, from the gradient of the logits to that of every parameter.

    ids       [..., T] int
    d_logits  [..., T, V]
    trace     all that the forward pass of ids recorded
    record    sees (and may replace) the gradient of every intermediate: its name is d_ and that of the intermediate
    Returns a tree like params. The token embedding, used at both ends, gets the sum of two gradients, unless the
    model has an output head of its own.
    """

    def record_gradient(name: str, x: np.ndarray) -> np.ndarray:
        return record(f"d_{name}", x)

    inputs = [trace["embed"], *(trace[f"h.{layer}.resid_post"] for layer in range(config.n_layer))]  # of each layer
    d_logits = record_gradient("logits", d_logits)
    d_head = rows(d_logits).T @ rows(trace["ln_f"])
    d_normed = record_gradient("ln_f", d_logits @ output_head(params))
    d_x, d_ln_f = layer_norm_backward(d_normed, inputs[-1], params["ln_f"]["g"], config.layer_norm_epsilon)
    d_h: list[Gradients] = []
    for layer in reversed(range(config.n_layer)):
        d_x, d_p = block_backward(
            d_x,
            inputs[layer],
            layer_trace(trace, layer),
            params["h"][layer],
            config,
            layer,
            record_in(layer, record_gradient),
        )
        d_h.insert(0, d_p)
    d_x = record_gradient("embed", d_x)
    d_wte, d_wpe = embed_backward(d_x, ids, config.n_vocab, config.n_ctx)
    grads = {"wte": d_wte, "wpe": d_wpe, "h": d_h, "ln_f": d_ln_f}
    if "lm_head" in params:
        return {**grads, "lm_head": d_head}
    return {**grads, "wte": d_wte + d_head}


def check_batch(ids: Any, targets: Any, config: Config) -> tuple[np.ndarray, np.ndarray]:
    """Return ids and targets as arrays [..., T], once it is sure that they fit each other and the model.

    Raises TokenError for ids or targets outside the vocabulary or of different shapes, ContextError for T > n_ctx,
    OptionError where no target counts.
    """
    try:
        ids, targets = np.asarray(ids), np.asarray(targets)
    except ValueError:  # lists of different lengths
        raise TokenError("ids and targets: expected rows of one length each") from None
    if ids.ndim < 1 or ids.shape != targets.shape or not ids.size:
        raise TokenError(
            f"ids {ids.shape} and targets {targets.shape}: expected the same shape, [T] or [B, T], not empty"
        )
    if ids.dtype.kind not in "iu" or targets.dtype.kind not in "iu":
        raise TokenError(f"ids and targets: expected integers, got {ids.dtype} and {targets.dtype}")
    if ids.shape[-1] > config.n_ctx:
        raise ContextError(f"{ids.shape[-1]} tokens, but the context of this model is {config.n_ctx}: shorten the text")
    if (targets == UNCOUNTED).all():
        raise OptionError("targets: all are -1, so none counts; expected one or more of the ids that follow")
    check_ids(ids.ravel(), config.n_vocab)
    try:
        check_ids(np.where(targets == UNCOUNTED, 0, targets).ravel(), config.n_vocab)
    except TokenError as error:
        raise TokenError(f"targets: {error}; -1 for one that does not count") from None
    return ids, targets


def loss(ids: Any, targets: Any, params: Params, config: Config) -> float:
    """Return the mean cross-entropy of the targets: `loss_and_grads` without gradients.

    >>> from numgpt.params import random_params
    >>> config = Config(n_vocab=7, n_ctx=4, n_embd=8, n_head=2, n_layer=1)
    >>> round(loss([1, 2, 3], [2, 3, 4], random_params(config), config), 1)  # before training, about log 7
    2.0
    """
    ids, targets = check_batch(ids, targets, config)
    return cross_entropy(compute_logits(ids, params, config), targets)


def loss_and_grads(
    ids: Any, targets: Any, params: Params, config: Config, record: Record = identity
) -> tuple[float, Gradients]:
    """Return the mean cross-entropy of the targets and its gradient with respect to every parameter.

        loss = mean of -log softmax(forward(ids))_target,   grads = d loss / d params

    ids      [..., T] int: one text, or several of one length side by side
    targets  [..., T] int: what follows each id; -1 for a position that does not count
    params   the parameter tree, float32 or float64
    record   sees (and may replace) every intermediate, then the gradient of each, "d_logits" first
    Returns the loss and a tree like params, of their dtype.
    Raises TokenError for ids or targets outside the vocabulary, ContextError for more than n_ctx positions,
    OptionError where no target counts.
    Notes: there is no dropout.

    >>> import numgpt
    >>> model = numgpt.load("storyteller")
    >>> ids = model.tokenizer.encode("Once upon a time there was a king")
    >>> loss, grads = loss_and_grads(ids[:-1], ids[1:], model.params, model.config)
    >>> round(loss, 2), grads["h"][1]["attn"]["c_attn"]["w"].shape
    (1.29, (256, 768))
    """
    ids, targets = check_batch(ids, targets, config)
    trace: Trace = {}
    logits = compute_logits(ids, params, config, record=lambda name, x: trace.setdefault(name, record(name, x)))
    d_logits = cross_entropy_backward(logits, targets)
    grads = compute_logits_backward(ids, d_logits, trace, params, config, record)
    return cross_entropy(logits, targets), grads
