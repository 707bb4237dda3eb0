"""The forward pass of `model` once more, made fast. The math is there; here is only what brings a measured gain.

`forward` has the signature of model.forward, less `record`, and is held equal to it by tests. `forward_batch` runs
several texts through one pass over the weights; `forward` is a batch of one.

Two things bound the speed. One token at a time, each weight is read from memory and used once: what counts is how fast
memory streams, and how little time passes between two matrices. Many tokens at once, each weight is used many times:
what counts is arithmetic, and how far arrays stay in the processor's cache between two steps.

Gains named below are in tokens/s of 124M parameters in float32, on 2 cores of an AMD EPYC with AVX2: medians of rounds
in turns, with the trick and without. Where a Xeon is named, it has AVX-512 and 2 MB of L2 cache for each of 2 cores.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from numgpt.cache import KVCache
from numgpt.checks import check_ids, check_logits_to_keep, check_room
from numgpt.config import Config
from numgpt.fast.cache import extend, widened, write
from numgpt.fast.cores import in_parts, parts_for
from numgpt.fast.matrices import Matrix, multiply, multiply_vector
from numgpt.model import Ids, Params, attention_scale, output_head
from numgpt.ops import ACTIVATIONS, causal_mask, gelu

CHUNK = 128  # queries whose scores are computed at a time
SCORES = 1 << 19  # how many scores are computed at a time, if those of a chunk in a single head are not more
ROWS = 32  # positions of an MLP that are activated at a time: two threads take 0.79 of the time of one, with 16 0.96
COLUMNS, TOKENS = 2048, 16384  # tokens that several positions are scored for at a time, and that one is


def by_rows(function: Callable[..., Any], arrays: Sequence[np.ndarray], *arguments: Any) -> None:
    """Call function(*arrays, *arguments), for large arrays on parts of their rows that run at the same time."""
    parts = parts_for(sum(x.size for x in arrays))
    in_parts(lambda a, b: function(*(x[a:b] for x in arrays), *arguments), len(arrays[0]), parts)


def at_once(function: Callable[..., Any], arrays: Sequence[np.ndarray], *arguments: Any) -> None:
    """`by_rows` of few rows."""
    function(*arrays, *arguments)


def layer_norm(x: np.ndarray, g: np.ndarray, b: np.ndarray, eps: float, out: np.ndarray | None = None) -> np.ndarray:
    """`ops.layer_norm` with one array of its own, and without `mean`, which is a slow Python function around `add`."""
    C = x.shape[-1]
    mean = np.add.reduce(x, axis=-1, keepdims=True)
    mean /= C
    y = np.subtract(x, mean, out=out)
    deviation = np.vecdot(y, y)[:, None]
    deviation /= C
    deviation += eps
    np.sqrt(deviation, out=deviation)
    y /= deviation
    y *= g
    y += b
    return y


def normalise(x: np.ndarray, y: np.ndarray, ln: Params, eps: float) -> None:
    """y = layer_norm(x)"""
    layer_norm(x, **ln, eps=eps, out=y)


def add(x: np.ndarray, y: np.ndarray, b: np.ndarray) -> None:
    """x += y + b"""
    y += b
    x += y


def add_and_normalise(x: np.ndarray, y: np.ndarray, b: np.ndarray, ln: Params, eps: float) -> None:
    """x += y + b; y = layer_norm(x)"""
    add(x, y, b)
    normalise(x, y, ln, eps)


def add_and_scale(qkv: np.ndarray, b: np.ndarray, scale: float) -> None:
    """Add the bias [3C] to q, k and v, side by side in rows, and scale q."""
    qkv += b
    qkv[:, : len(b) // 3] *= scale


def gelu_in_place(x: np.ndarray, space: np.ndarray | None = None) -> None:
    """`ops.gelu`, with (1 + tanh u) / 2 written as 1 / (1 + exp(-2u)): seven steps instead of nine.

    space  an array as x is, to compute in; None for a new one
    """
    u = np.multiply(x, x, space)
    u *= -2 * math.sqrt(2 / math.pi) * 0.044715
    u -= 2 * math.sqrt(2 / math.pi)
    u *= x  # -2u
    np.exp(u, out=u)  # inf for x below -10, where x / inf is right
    u += 1
    x /= u


def activate(hidden: np.ndarray, b: np.ndarray, activation: Callable[[np.ndarray], np.ndarray]) -> None:
    """Add the bias and apply the activation, in place, some rows at a time, which stay in the cache from step to step.

    With gelu_in_place: a prompt of 1,024 at 704 instead of 633.
    """
    with np.errstate(over="ignore"):  # of gelu_in_place
        for start in range(0, len(hidden), ROWS):
            rows = hidden[start : start + ROWS]
            rows += b
            if activation is gelu:
                gelu_in_place(rows)
            else:
                rows[:] = activation(rows)


def attend(q: np.ndarray, k: np.ndarray, v: np.ndarray, z: np.ndarray, space: np.ndarray) -> None:
    """`model.attend` of queries that are scaled already, a chunk of them at a time, in place.

    q     [H, T, D], k, v [H, S, D]
    z     [T, H, D]: where the result goes
    space where the scores of a chunk are computed
    A chunk leaves out the keys behind it, which together are the masked half of all scores: a prompt of 1,024 at 633
    instead of 399. That its scores have a place of their own, which is used again, brings 10 % more. In two threads
    three heads at a time take 17.6 ms on a Xeon, and six 25.6; all twelve at once, by BLAS on two threads, 28.4.
    """
    T, S = q.shape[1], k.shape[1]
    ones = np.ones((S, 1), q.dtype)
    step = max(1, SCORES // (min(T, CHUNK) * S))  # heads whose scores stay in the cache from step to step
    for a in range(0, len(q), step):
        for start in range(0, T, CHUNK):
            b, stop = min(a + step, len(q)), min(start + CHUNK, T)
            n, seen = stop - start, S - T + stop  # the keys up to the last query of the chunk
            scores = space[: (b - a) * n * seen].reshape(b - a, n, seen)
            np.matmul(q[a:b, start:stop], k[a:b, :seen].swapaxes(-1, -2), out=scores)
            np.copyto(scores[:, :, seen - n :], -math.inf, where=~causal_mask(n, n))
            scores -= np.maximum.reduce(scores, axis=-1, keepdims=True)
            np.exp(scores, out=scores)
            total = scores @ ones[:seen]  # BLAS adds up sooner than add.reduce
            part = scores @ v[a:b, :seen]
            part /= total  # D numbers a query, where the weights are S
            z[start:stop, a:b] = part.swapaxes(0, 1)


def attend_once(q: np.ndarray, k: np.ndarray, v: np.ndarray, z: np.ndarray, space: np.ndarray | None = None) -> None:
    """`attend` of a single query, which sees all keys, in the fewest steps.

    q     [H, 1, D] scaled, k, v [H, S, D]
    z     [H, 1, D]: where the result goes
    space [H, 1, S]: where the scores are computed; None for a new array
    """
    weights = np.matmul(q, k.swapaxes(-1, -2), space)
    weights -= np.maximum.reduce(weights, axis=-1, keepdims=True)
    np.exp(weights, weights)
    np.matmul(weights, v, z)
    z /= np.add.reduce(weights, axis=-1, keepdims=True)


def attend_by_heads(q: np.ndarray, k: np.ndarray, v: np.ndarray, z: np.ndarray, space: np.ndarray) -> None:
    """`attend` to keys and values that may be those of a cache of float16, on all cores where there are many scores.

    space [H, ...]
    """

    parts = parts_for(q.shape[0] * q.shape[1] * k.shape[1])
    if parts == 1 and k.dtype == q.dtype:
        if len(z) == 1:
            attend_once(q, k, v, z[0, :, None])
        else:
            attend(q, k, v, z, space.reshape(-1))
        return

    def part(a: int, b: int) -> None:
        for heads, wide_k, wide_v in widened(k, v, a, b):
            attend(q[heads], wide_k, wide_v, z[:, heads], space[heads].reshape(-1))

    in_parts(part, len(q), parts, multiplies=True)


def padded(n: int) -> int:
    """How many rows to compute for n: BLAS is quicker with 8 than with 4 to 7, and with 16 than with 12."""
    return -(-n // 8) * 8 if 3 < n < 16 else n


def score_tokens(x: np.ndarray, head: Matrix) -> np.ndarray:
    """x @ head.T, for several rows a part of the vocabulary at a time: 8 rows take 12 ms instead of 17."""
    if len(x) == 1 and isinstance(head, np.ndarray) and len(head) <= TOKENS:
        return head.dot(x[0])[None]
    logits = np.empty((len(x), len(head)), x.dtype)
    step = TOKENS if len(x) == 1 else COLUMNS
    for start in range(0, len(head), step):
        multiply(x, head[start : start + step].T, out=logits[:, start : start + step])
    return logits


def layer_norm_of_one(x: np.ndarray, ln: Params, eps: float, share: np.ndarray, out: np.ndarray) -> np.ndarray:
    """`ops.layer_norm` of a single vector [C], whose mean and variance are numbers of Python.

    share [C] is 1 / C throughout: x times share is the mean, which BLAS takes sooner than `add.reduce`.
    """
    y = np.subtract(x, x.dot(share), out)
    y *= 1 / math.sqrt(float(y.dot(y)) / len(x) + eps)
    y *= ln["g"]
    y += ln["b"]
    return y


def forward_one(i: int, params: Params, config: Config, cache: KVCache) -> np.ndarray:
    """`forward` of one token with a cache: the same steps on vectors [C], with as little as possible between matrices.

    For the storyteller, 33 % faster than `forward_batch` of one row, in one thread of a Xeon. There 970 us of a token
    are its products and 480 what stands between them, which would take a third of that if the matrices did not push it
    out of the processor's cache; so what counts is how much different code runs. The views of q, k and v for all layers
    save 45 us, means by BLAS 35, layer norms without keywords 25, the scales outside of the loop 20.

    Returns logits [1, V].
    """
    H, C, D, F, past = config.n_head, config.n_embd, config.head_size, config.mlp_width, len(cache)
    eps, activation = config.layer_norm_epsilon, ACTIVATIONS[config.activation_function]
    x = params["wte"][i] + params["wpe"][past]  # [C]
    y, z, qkv, hidden, u, scores = (np.empty(n, x.dtype) for n in (C, (H, 1, D), 3 * C, F, F, (H, 1, past + 1)))
    q, k, v = qkv.reshape(3, H, 1, D)
    joined, share = z.reshape(C), np.full(C, 1 / C, x.dtype)
    scales = [attention_scale(config, layer) for layer in range(config.n_layer)]
    with np.errstate(over="ignore"):  # of gelu_in_place
        for layer, p in enumerate(params["h"]):
            attn, mlp = p["attn"], p["mlp"]
            layer_norm_of_one(x, p["ln_1"], eps, share, y)
            multiply_vector(y, attn["c_attn"]["w"], qkv)
            qkv += attn["c_attn"]["b"]
            q *= scales[layer]
            if cache.k.dtype == x.dtype:
                attend_once(q, *cache.extend(layer, k, v), z, scores)
            else:
                for heads, wide_k, wide_v in extend(cache, layer, k, v):
                    attend_once(q[heads], wide_k, wide_v, z[heads])
            multiply_vector(joined, attn["c_proj"]["w"], y)
            y += attn["c_proj"]["b"]
            x += y
            layer_norm_of_one(x, p["ln_2"], eps, share, y)
            multiply_vector(y, mlp["c_fc"]["w"], hidden)
            hidden += mlp["c_fc"]["b"]
            if activation is gelu:
                gelu_in_place(hidden, u)
            else:
                hidden = activation(hidden)
            multiply_vector(hidden, mlp["c_proj"]["w"], y)
            y += mlp["c_proj"]["b"]
            x += y
    cache.advance(1)
    return score_tokens(layer_norm_of_one(x, params["ln_f"], eps, share, y)[None], output_head(params))


def forward(
    ids: Ids, params: Params, config: Config, cache: KVCache | None = None, logits_to_keep: int = 0
) -> np.ndarray:
    """What `model.forward` returns, sooner. Arguments, errors and what happens to the cache are the same.

    >>> import numgpt
    >>> m = numgpt.load("storyteller", dtype="float64")
    >>> ids = m.tokenizer.encode("Once upon a time")
    >>> np.abs(forward(ids, m.params, m.config) - numgpt.forward(ids, m.params, m.config)).max() < 1e-10
    np.True_
    """
    ids = check_ids(ids, config.n_vocab)
    check_room(len(ids), cache, config, params["wte"].dtype)
    check_logits_to_keep(logits_to_keep)
    if cache is not None and len(ids) == 1:
        return forward_one(int(ids[0]), params, config, cache)
    return forward_batch([ids], params, config, [cache], logits_to_keep)[0]


def forward_batch(
    texts: Sequence[Ids],
    params: Params,
    config: Config,
    caches: Sequence[KVCache | None] | None = None,
    logits_to_keep: int = 0,
) -> list[np.ndarray]:
    """The forward pass of several texts at once: each weight is read once for all of them.

    texts   B lists or arrays of ids, of any lengths
    caches  for each text its own, or None; None for no caches at all
    Returns for each text what `forward` returns for it alone. The other arguments and the errors are forward's.
    Notes: all that treats each position by itself runs on the rows of all texts, one below the other; attention runs
    text by text, so that nothing is padded and nothing masked. In the last layer, positions whose logits are not kept
    end with their keys and values: a prompt of 1,024 at 5 % more.

    >>> import numgpt
    >>> m = numgpt.load("storyteller")
    >>> [logits.shape for logits in forward_batch([[46, 1198], [464]], m.params, m.config)]
    [(2, 4096), (1, 4096)]
    """
    passing = Pass(texts, params, config, caches, logits_to_keep)
    for layer, p in enumerate(params["h"]):
        passing.go_through(layer, p)
    return passing.logits()


class Pass:
    """Several texts on their way through the model: `forward_batch`, a layer at a time.

    The arguments are those of forward_batch.
    """

    def __init__(
        self,
        texts: Sequence[Ids],
        params: Params,
        config: Config,
        caches: Sequence[KVCache | None] | None = None,
        logits_to_keep: int = 0,
    ) -> None:
        self.params, self.config = params, config
        self.caches = [None] * len(texts) if caches is None else list(caches)
        wte, wpe = params["wte"], params["wpe"]
        rows = [check_ids(ids, config.n_vocab) for ids in texts]
        pasts = [check_room(len(ids), cache, config, wte.dtype) for ids, cache in zip(rows, self.caches, strict=True)]
        check_logits_to_keep(logits_to_keep)

        # The rows of each text: where they begin and end, and how many of the last ones have logits to keep.
        self.spans: list[tuple[int, int, int]] = []
        self.N = 0
        for ids in rows:
            self.spans.append((self.N, self.N + len(ids), min(len(ids), logits_to_keep) or len(ids)))
            self.N += len(ids)
        H, C, D, F = config.n_head, config.n_embd, config.head_size, config.mlp_width
        M = padded(self.N)
        self.x, self.z = np.zeros((M, C), wte.dtype), np.zeros((M, H, D), wte.dtype)
        self.y, self.qkv, self.hidden = (np.empty((M, n), wte.dtype) for n in (C, 3 * C, F))
        self.each = at_once if parts_for(M * max(2 * C, F)) == 1 else by_rows
        sizes = (min(len(ids), CHUNK) * (past + len(ids)) for ids, past in zip(rows, pasts, strict=True))
        self.space = np.empty((H, max(sizes, default=0)), wte.dtype)  # for the scores of a chunk of queries
        for ids, past, (start, stop, _) in zip(rows, pasts, self.spans, strict=True):
            np.add(wte[ids], wpe[past : past + len(ids)], out=self.x[start:stop])

    def go_through(self, layer: int, p: Params) -> None:
        """One layer, with its parameters: they are not held beyond."""
        config, eps = self.config, self.config.layer_norm_epsilon
        H, C, D = config.n_head, config.n_embd, config.head_size
        x, y, z, hidden, M = self.x, self.y, self.z, self.hidden, len(self.x)
        attn, mlp, each = p["attn"], p["mlp"], self.each
        each(normalise, (x, y), p["ln_1"], eps)
        multiply(y, attn["c_attn"]["w"], out=self.qkv)
        each(add_and_scale, (self.qkv,), attn["c_attn"]["b"], attention_scale(config, layer))
        heads = self.qkv.reshape(M, 3, H, D).transpose(1, 2, 0, 3)  # [3, H, M, D]
        is_last = layer == config.n_layer - 1
        kept = 0
        for cache, (start, stop, keep) in zip(self.caches, self.spans, strict=True):
            q, *new = heads[:, :, start:stop]
            k, v = write(cache, layer, *new)
            if is_last:  # move up the rows to keep
                q = q[:, stop - start - keep :]
                x[kept : kept + keep] = x[stop - keep : stop]
                start, stop = kept, kept + keep
                kept = stop
            attend_by_heads(q, k, v, z[start:stop], self.space)
        if is_last and kept < self.N:
            M = padded(kept)
            x, z, y, hidden = self.x, self.z, self.y, self.hidden = x[:M], z[:M], y[:M], hidden[:M]
        multiply(z.reshape(M, C), attn["c_proj"]["w"], out=y)
        each(add_and_normalise, (x, y), attn["c_proj"]["b"], p["ln_2"], eps)
        multiply(y, mlp["c_fc"]["w"], out=hidden)
        each(activate, (hidden,), mlp["c_fc"]["b"], ACTIVATIONS[config.activation_function])
        multiply(hidden, mlp["c_proj"]["w"], out=y)
        each(add, (x, y), mlp["c_proj"]["b"])

    def logits(self) -> list[np.ndarray]:
        """Return the logits behind the last layer, and count the new positions of the caches."""
        x = layer_norm(self.x, **self.params["ln_f"], eps=self.config.layer_norm_epsilon)
        logits = score_tokens(x, output_head(self.params))
        results, end = [], 0
        for cache, (start, stop, keep) in zip(self.caches, self.spans, strict=True):
            if cache is not None:
                cache.advance(stop - start)
            results.append(logits[end : end + keep])
            end += keep
        return results
