"""The gradient of each function of `ops`, of the embedding and of the heads, one by one.

    d_x = d loss / d x,  of the shape of x

NAME_backward takes d_y, the gradient of what NAME returned, and what it needs of NAME's arguments and intermediates. It
returns the gradients of the arguments. `backward` puts them together.

Source: Rumelhart et al. 1986, "Learning representations by back-propagating errors". The equations are derived by hand.
"""

import math
from collections.abc import Callable

import numpy as np

from numgpt.model import Record, identity
from numgpt.ops import erf, silu


def gelu_backward(d_y: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Go back through `ops.gelu`, the tanh form.

        d_x = d_y * (1/2 (1 + t) + x/2 (1 - t^2) sqrt(2/pi) (1 + 3 * 0.044715 x^2)),
        t   = tanh(sqrt(2/pi) (x + 0.044715 x^3))

    d_y, x [...]
    Returns d_x [...].

    >>> gelu_backward(np.ones(3), np.array([-10.0, 0.0, 10.0]))
    array([0. , 0.5, 1. ])
    """
    squared = x * x
    t = np.tanh(math.sqrt(2 / math.pi) * x * (1 + 0.044715 * squared))
    return d_y * (0.5 * (1 + t) + 0.5 * x * (1 - t * t) * (math.sqrt(2 / math.pi) * (1 + 3 * 0.044715 * squared)))


def gelu_erf_backward(d_y: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Go back through `ops.gelu_erf`, the exact form.

        d_x = d_y * (1/2 (1 + erf(x / sqrt(2))) + x exp(-x^2 / 2) / sqrt(2 pi))

    d_y, x [...]
    Returns d_x [...].

    >>> gelu_erf_backward(np.ones(2), np.array([0.0, 10.0]))
    array([0.5, 1. ])
    """
    density = np.exp(-0.5 * x * x) / math.sqrt(2 * math.pi)
    return d_y * (0.5 * (1 + erf(x / math.sqrt(2))) + x * density)


def relu_backward(d_y: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Go back through `ops.relu`.

        d_x = d_y where x > 0, 0 elsewhere

    d_y, x [...]
    Returns d_x [...]. At 0, where there is no derivative, it is 0, as in PyTorch.

    >>> relu_backward(np.array([5.0, 5.0, 5.0]), np.array([-1.0, 0.0, 1.0]))
    array([0., 0., 5.])
    """
    return d_y * (x > 0)


def silu_backward(d_y: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Go back through `ops.silu`.

        d_x = d_y * (s + silu(x) (1 - s)),   s = 1 / (1 + exp(-x))

    d_y, x [...]
    Returns d_x [...].

    >>> silu_backward(np.ones(2), np.array([0.0, 100.0]))
    array([0.5, 1. ])
    """
    e = np.exp(-np.abs(x))  # can't overflow
    s = np.where(x < 0, e, 1) / (1 + e)
    return d_y * (s + silu(x) * (1 - s))


def tanh_backward(d_y: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Go back through tanh.

        d_x = d_y * (1 - tanh(x)^2)

    d_y, x [...]
    Returns d_x [...].

    >>> tanh_backward(np.array([3.0]), np.array([0.0]))
    array([3.])
    """
    return d_y * (1 - np.tanh(x) ** 2)


# The keys are those of ops.ACTIVATIONS.
ACTIVATIONS_BACKWARD: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
    "gelu_new": gelu_backward,
    "gelu_pytorch_tanh": gelu_backward,
    "gelu": gelu_erf_backward,
    "relu": relu_backward,
    "silu": silu_backward,
    "swish": silu_backward,
    "tanh": tanh_backward,
}


def softmax_backward(d_y: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Go back through `ops.softmax`.

        d_x_i = y_i (d_y_i - sum_j d_y_j y_j)

    d_y, y [..., N]  y is what softmax returned
    Returns d_x [..., N]: 0 where a score of -inf has no probability, so a mask needs no step of its own.

    >>> softmax_backward(np.array([1.0, 0.0, 7.0]), y=np.array([0.25, 0.75, 0.0]))
    array([ 0.1875, -0.1875,  0.    ])
    """
    return y * (d_y - (d_y * y).sum(axis=-1, keepdims=True))


def layer_norm_backward(
    d_y: np.ndarray, x: np.ndarray, g: np.ndarray, eps: float = 1e-5
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Go back through `ops.layer_norm`.

        n   = (x - mean(x)) / s,   s = sqrt(var(x) + eps)
        d_x = (d_n - mean(d_n) - n mean(d_n n)) / s,   d_n = g d_y
        d_g = sum of d_y n,   d_b = sum of d_y   over all but the last axis

    d_y, x [..., C],  g [C]
    Returns d_x [..., C] and {"g": d_g, "b": d_b} [C].
    Notes: mean and variance depend on x too: these are the two terms that are taken away.

    >>> d_x, grads = layer_norm_backward(np.array([1.0, 0.0, 0.0]), np.array([1.0, 2.0, 3.0]), g=np.ones(3))
    >>> d_x.round(3), grads["g"].round(3), grads["b"]
    (array([ 0.204, -0.408,  0.204]), array([-1.225,  0.   ,  0.   ]), array([1., 0., 0.]))
    """
    centred = x - x.mean(axis=-1, keepdims=True)
    s = np.sqrt((centred * centred).mean(axis=-1, keepdims=True) + eps)
    n = centred / s
    d_n = g * d_y
    d_x = (d_n - d_n.mean(axis=-1, keepdims=True) - n * (d_n * n).mean(axis=-1, keepdims=True)) / s
    return d_x, {"g": rows(d_y * n).sum(axis=0), "b": rows(d_y).sum(axis=0)}


def linear_backward(d_y: np.ndarray, x: np.ndarray, w: np.ndarray) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Go back through `ops.linear`.

        d_x = d_y w^T,   d_w = x^T d_y,   d_b = sum of d_y   over all vectors

    d_y [..., B],  x [..., A],  w [A, B]
    Returns d_x [..., A] and {"w": d_w [A, B], "b": d_b [B]}.

    >>> w = np.array([[1.0, 1.0], [0.0, 2.0]])
    >>> d_x, grads = linear_backward(np.array([[1.0, 2.0]]), x=np.array([[3.0, 5.0]]), w=w)
    >>> d_x, grads["w"].tolist(), grads["b"]
    (array([[3., 4.]]), [[3.0, 6.0], [5.0, 10.0]], array([1., 2.]))
    """
    return d_y @ w.T, {"w": rows(x).T @ rows(d_y), "b": rows(d_y).sum(axis=0)}


def rows(x: np.ndarray) -> np.ndarray:
    """Lay all vectors below one another: [..., C] -> [N, C]."""
    return x.reshape(-1, x.shape[-1])


def embed_backward(d_x: np.ndarray, ids: np.ndarray, n_vocab: int, n_ctx: int) -> tuple[np.ndarray, np.ndarray]:
    """Go back through `model.embed`.

        d_wte[i] = sum of d_x_t over all t with id_t = i,   d_wpe[t] = sum of d_x_t over the batch

    d_x [..., T, C],  ids [..., T] int
    Returns d_wte [V, C] and d_wpe [n_ctx, C].

    >>> d_wte, d_wpe = embed_backward(np.array([[1.0], [2.0], [4.0]]), np.array([1, 0, 1]), n_vocab=2, n_ctx=4)
    >>> d_wte.tolist(), d_wpe.tolist()
    ([[2.0], [5.0]], [[1.0], [2.0], [4.0], [0.0]])
    """
    T, C = d_x.shape[-2:]
    d_wte = np.zeros((n_vocab, C), d_x.dtype)
    np.add.at(d_wte, ids.ravel(), rows(d_x))  # an id may come several times, and += would count it once
    d_wpe = np.zeros((n_ctx, C), d_x.dtype)
    d_wpe[:T] = d_x.reshape(-1, T, C).sum(axis=0)
    return d_wte, d_wpe


def attend_backward(
    d_z: np.ndarray,
    q: np.ndarray,
    k: np.ndarray,
    v: np.ndarray,
    weights: np.ndarray,
    scale: float,
    record: Record = identity,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Go back through `model.attend`.

        d_weights = d_z v^T,              d_v = weights^T d_z
        d_scores  = softmax_backward(d_weights, weights)
        d_q       = d_scores k * scale,   d_k = d_scores^T q * scale

    d_z, q, k, v [..., H, T, D],  weights [..., H, T, T]: what it recorded as attn.weights
    Returns d_q, d_k, d_v [..., H, T, D].
    Records the gradients of attn.weights and attn.scores.

    >>> q = k = v = np.array([[[1.0, 0.0], [0.0, 1.0]]])
    >>> weights = np.array([[[1.0, 0.0], [0.25, 0.75]]])
    >>> d_q, d_k, d_v = attend_backward(np.array([[[0.0, 0.0], [0.0, 1.0]]]), q, k, v, weights, scale=1.0)
    >>> d_v
    array([[[0.  , 0.25],
            [0.  , 0.75]]])
    >>> d_q[0, 1], d_k[0, :, 1]
    (array([-0.1875,  0.1875]), array([-0.1875,  0.1875]))
    """
    d_v = weights.swapaxes(-1, -2) @ d_z
    d_weights = record("attn.weights", d_z @ v.swapaxes(-1, -2))
    d_scores = record("attn.scores", softmax_backward(d_weights, weights))
    return d_scores @ k * scale, d_scores.swapaxes(-1, -2) @ q * scale, d_v
