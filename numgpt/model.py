"""GPT-2, from the embedding to the logits: the math, and the reference that all else is held to.

Read it from top to bottom; each function uses only what stands above it and `ops`. Shapes are in the key of
dimensions in `config`. Every named intermediate passes through `record(name, x) -> x`, one assignment a line: by
default the identity, in a trace the collector, in an experiment whatever puts another tensor in its place.

Source: Radford et al. 2019, "Language Models are Unsupervised Multitask Learners", and the code released with it;
Vaswani et al. 2017, "Attention Is All You Need", arXiv:1706.03762.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from numgpt.cache import KVCache
from numgpt.checks import check_ids, check_logits_to_keep, check_room
from numgpt.config import Config
from numgpt.errors import TokenError
from numgpt.ops import ACTIVATIONS, causal_mask, layer_norm, linear, softmax
from numgpt.params import count_params
from numgpt.tokenizer import Tokenizer

Ids = Sequence[int] | np.ndarray  # [T]
Params = dict[str, Any]  # the parameter tree: params["h"][3]["attn"]["c_attn"]["w"]
Record = Callable[[str, np.ndarray], np.ndarray]


def identity(name: str, x: np.ndarray) -> np.ndarray:
    """The default `record`: passes each intermediate on as it is."""
    return x


def record_in(layer: int, record: Record) -> Record:
    """`record` for one layer: the names that it sees begin with the layer's."""
    if record is identity:
        return identity
    return lambda name, x: record(f"h.{layer}.{name}", x)


def embed(ids: np.ndarray, wte: np.ndarray, wpe: np.ndarray, past: int = 0) -> np.ndarray:
    """Look up the vector of each token and add the vector of its position.

        x_t = wte[id_t] + wpe[past + t]

    ids  [..., T] int
    wte  [V, C]      one learned vector a token
    wpe  [n_ctx, C]  one learned vector a position
    past             how many positions came before
    Returns [..., T, C], dtype of wte.
    Notes: both tables are learned together with the rest of the model; there are no sinusoids and no Word2Vec.

    >>> embed(np.array([2, 0]), wte=np.eye(3), wpe=np.full((4, 3), 0.5))
    array([[0.5, 0.5, 1.5],
           [1.5, 0.5, 0.5]])
    """
    return wte[ids] + wpe[past : past + ids.shape[-1]]


def split_heads(x: np.ndarray, n_head: int) -> np.ndarray:
    """[..., T, C] -> [..., H, T, D]: head h gets the features from h D to (h + 1) D.

    >>> split_heads(np.arange(8).reshape(2, 4), n_head=2).tolist()
    [[[0, 1], [4, 5]], [[2, 3], [6, 7]]]
    """
    return x.reshape(*x.shape[:-1], n_head, -1).swapaxes(-2, -3)


def merge_heads(x: np.ndarray) -> np.ndarray:
    """[..., H, T, D] -> [..., T, C]: the inverse of split_heads.

    >>> merge_heads(split_heads(np.arange(8).reshape(2, 4), n_head=2)).tolist()
    [[0, 1, 2, 3], [4, 5, 6, 7]]
    """
    x = x.swapaxes(-2, -3)  # [..., T, H, D]
    return x.reshape(*x.shape[:-2], -1)


def attend(q: np.ndarray, k: np.ndarray, v: np.ndarray, scale: float, record: Record = identity) -> np.ndarray:
    """Average the values of the positions up to each query's own, weighted by how well their keys match the query.

        z = softmax(q k^T * scale + mask) v         scale = 1 / sqrt(D)

    q     [H, T, D]  the last T of the S positions
    k, v  [H, S, D]
    Returns z [H, T, D].
    Records attn.scores [H, T, S] (masked), attn.weights [H, T, S], attn.z [H, T, D].
    Source: Vaswani et al. 2017, equation 1.

    >>> q = k = v = np.array([[[1.0, 0.0], [0.0, 1.0]]])
    >>> attend(q, k, v, scale=math.log(3))
    array([[[1.  , 0.  ],
            [0.25, 0.75]]])
    """
    scores = q @ k.swapaxes(-1, -2) * scale  # [H, T, S]
    scores = record("attn.scores", np.where(causal_mask(*scores.shape[-2:]), scores, -math.inf))
    weights = record("attn.weights", softmax(scores))
    return record("attn.z", weights @ v)


def attention_scale(config: Config, layer: int) -> float:
    """What the scores of a layer, counted from 0, are multiplied by: 1 / sqrt(D), in most models.

    Source: Vaswani et al. 2017, equation 1. Dividing by layer + 1 as well is from Stanford's Mistral (2021).

    >>> attention_scale(Config(), layer=3), attention_scale(Config(scale_attn_by_inverse_layer_idx=True), layer=3)
    (0.125, 0.03125)
    """
    scale = 1 / math.sqrt(config.head_size) if config.scale_attn_weights else 1.0
    return scale / (layer + 1) if config.scale_attn_by_inverse_layer_idx else scale


def attention(
    x: np.ndarray,
    c_attn: dict[str, np.ndarray],
    c_proj: dict[str, np.ndarray],
    config: Config,
    layer: int = 0,
    cache: KVCache | None = None,
    record: Record = identity,
) -> np.ndarray:
    """Let each position gather what it needs from those before it, in H heads side by side.

        q, k, v = x w_attn + b_attn,  cut into heads
        y       = concat(z_1, ..., z_H) w_proj + b_proj,   z_h = attend(q_h, k_h, v_h)

    x       [T, C]
    c_attn  w [C, 3C], b [3C]: the projections to q, k and v, side by side
    c_proj  w [C, C], b [C]
    layer   the number of this layer, from 0: its place in the cache
    Returns [T, C].
    Records attn.q, attn.k, attn.v [H, T, D] (new positions), and what attend records.
    Source: Vaswani et al. 2017, section 3.2.2.
    """
    q, k, v = np.split(linear(x, **c_attn), 3, axis=-1)  # [T, C] each
    q = record("attn.q", split_heads(q, config.n_head))  # [H, T, D]
    k = record("attn.k", split_heads(k, config.n_head))  # [H, T, D]
    v = record("attn.v", split_heads(v, config.n_head))  # [H, T, D]
    if cache is not None:
        k, v = cache.extend(layer, k, v)  # [H, S, D]
    z = attend(q, k, v, attention_scale(config, layer), record)  # [H, T, D]
    return linear(merge_heads(z), **c_proj)  # [T, C]


def mlp(
    x: np.ndarray,
    c_fc: dict[str, np.ndarray],
    c_proj: dict[str, np.ndarray],
    config: Config,
    record: Record = identity,
) -> np.ndarray:
    """Transform each position by itself: widen, bend, narrow.

        y = gelu(x w_fc + b_fc) w_proj + b_proj

    x       [T, C]
    c_fc    w [C, F], b [F]
    c_proj  w [F, C], b [C]
    Returns [T, C].
    Records mlp.pre and mlp.post [T, F], before and after the activation.
    Source: Vaswani et al. 2017, section 3.3, with GELU for ReLU (Radford et al. 2018).
    """
    pre = record("mlp.pre", linear(x, **c_fc))  # [T, F]
    post = record("mlp.post", ACTIVATIONS[config.activation_function](pre))  # [T, F]
    return linear(post, **c_proj)  # [T, C]


def block(
    x: np.ndarray,
    p: Params,
    config: Config,
    layer: int = 0,
    cache: KVCache | None = None,
    record: Record = identity,
) -> np.ndarray:
    """One layer: attention, then the MLP, each on a normalised copy of the residual stream and added back to it.

        x = x + attention(layer_norm(x))
        x = x + mlp(layer_norm(x))

    x  [T, C]
    p  the parameters of the layer: ln_1, attn, ln_2, mlp
    Returns [T, C].
    Records ln_1, attn_out, resid_mid, ln_2, mlp_out, resid_post [T, C], and what attention and mlp record.
    Source: Radford et al. 2019, section 2.3: layer normalisation is moved to the input of each sub-block.
    """
    eps = config.layer_norm_epsilon
    normed = record("ln_1", layer_norm(x, **p["ln_1"], eps=eps))
    attn_out = record(
        "attn_out", attention(normed, **p["attn"], config=config, layer=layer, cache=cache, record=record)
    )
    x = record("resid_mid", x + attn_out)
    normed = record("ln_2", layer_norm(x, **p["ln_2"], eps=eps))
    mlp_out = record("mlp_out", mlp(normed, **p["mlp"], config=config, record=record))
    return record("resid_post", x + mlp_out)


def output_head(params: Params) -> np.ndarray:
    """The matrix [V, C] that scores each token: the token embedding, unless the tree has a leaf "lm_head"."""
    return params["lm_head"] if "lm_head" in params else params["wte"]


def compute_logits(
    ids: np.ndarray,
    params: Params,
    config: Config,
    past: int = 0,
    cache: KVCache | None = None,
    logits_to_keep: int = 0,
    record: Record = identity,
) -> np.ndarray:
    """All that `forward` computes, once its arguments are checked; and of many texts side by side, for training.

    ids   [..., T] int, an array; with a cache [T]
    past  how many positions came before
    Returns logits [..., T, V], or [..., logits_to_keep, V].
    """
    x = record("embed", embed(ids, params["wte"], params["wpe"], past))  # [..., T, C]
    for layer, p in enumerate(params["h"]):
        x = block(x, p, config, layer, cache, record_in(layer, record))
    x = record("ln_f", layer_norm(x, **params["ln_f"], eps=config.layer_norm_epsilon))
    return record("logits", x[..., -logits_to_keep:, :] @ output_head(params).T)  # [..., T or logits_to_keep, V]


def forward(
    ids: Ids,
    params: Params,
    config: Config,
    cache: KVCache | None = None,
    logits_to_keep: int = 0,
    record: Record = identity,
) -> np.ndarray:
    """The whole of GPT-2: from the ids of a text to the scores of what may follow each of them.

        logits = layer_norm(block_L(... block_1(embed(ids)))) wte^T

    ids             [T] int, a list or an array
    params          the parameter tree, float32 or float64
    cache           a KVCache that holds the positions before ids, and to which those of ids are appended; without one
                    ids are the whole text, and forward is a pure function
    logits_to_keep  logits of the last so many positions only; 0 for all
    record          sees (and may replace) every named intermediate; in layer 3 their names begin with "h.3."
    Returns logits [T, V], or [logits_to_keep, V], dtype of the parameters. Row t scores the token after ids[t].
    Raises TokenError for ids outside the vocabulary, ContextError for more than n_ctx positions, OptionError for a
    cache of other sizes or dtype.
    Records embed, ln_f [T, C] and logits, and what block records.
    Notes: the output head is the token embedding, unless the tree has a leaf of its own, "lm_head" [V, C].
    Source: Radford et al. 2019.

    >>> import numgpt
    >>> model = numgpt.load("storyteller")
    >>> logits = forward(model.tokenizer.encode("Once upon a"), model.params, model.config)
    >>> logits.shape, model.tokenizer.decode([logits[-1].argmax()])
    ((4, 4096), ' time')
    """
    ids = check_ids(ids, config.n_vocab)
    past = check_room(len(ids), cache, config, params["wte"].dtype)
    check_logits_to_keep(logits_to_keep)
    logits = compute_logits(ids, params, config, past, cache, logits_to_keep, record)
    if cache is not None:
        cache.advance(len(ids))
    return logits


class Model(NamedTuple):
    """A GPT-2 that is ready to run: what travels together."""

    config: Config
    params: dict[str, Any]
    tokenizer: Tokenizer | None  # None where the checkpoint has no tokenizer files; ids still work

    def __repr__(self) -> str:
        c, dtype = self.config, self.params["wte"].dtype
        sizes = f"{c.n_layer} layers, {c.n_head} heads, n_embd {c.n_embd}, n_ctx {c.n_ctx}, n_vocab {c.n_vocab}"
        return f"Model({count_params(c):,} parameters in {dtype}: {sizes}; {self.tokenizer or 'no tokenizer'})"


def tokenizer_of(model: Model) -> Tokenizer:
    """Return the tokenizer of a model. Raises TokenError where it has none."""
    if model.tokenizer is None:
        raise TokenError("this model has no tokenizer, which text needs: put its files beside the weights")
    return model.tokenizer
