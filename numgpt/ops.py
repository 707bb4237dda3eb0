"""The operations that GPT-2 is made of, on NumPy arrays of any leading shape.

dtype in = dtype out, for float32 and float64. Constants come from `math`, as Python floats: NumPy lets those
take the dtype of the array, where a NumPy scalar such as `np.sqrt(2)` would turn float32 into float64.
No argument is modified. None of these raises: shapes are checked once, when a checkpoint is loaded.
"""

import math
from collections.abc import Callable

import numpy as np


def gelu(x: np.ndarray) -> np.ndarray:
    """The Gaussian error linear unit in its tanh form, the one that GPT-2 was trained with.

        y = x/2 * (1 + tanh(sqrt(2/pi) * (x + 0.044715 x^3)))

    x [...] float32 or float64
    Returns [...], dtype of x.
    Source: Hendrycks and Gimpel 2016, arXiv:1606.08415, section 2. Configurations call it "gelu_new".

    >>> gelu(np.array([-1.0, 0.0, 1.0])).round(4)
    array([-0.1588,  0.    ,  0.8412])
    """
    return 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x * x * x)))


def erf(x: np.ndarray) -> np.ndarray:
    """The error function of each element, as exact as `math.erf`.

        erf(x) = 2/sqrt(pi) * integral of exp(-t^2) dt from 0 to x

    x [...] float32 or float64
    Returns [...], dtype of x.
    Notes: NumPy has no erf, so this calls math.erf an element at a time: exact and slow.

    >>> erf(np.array([0.0, 0.5, 4.0])).round(4)
    array([0.    , 0.5205, 1.    ])
    """
    return np.asarray(np.frompyfunc(math.erf, 1, 1)(x)).astype(x.dtype)


def gelu_erf(x: np.ndarray) -> np.ndarray:
    """The Gaussian error linear unit in its exact form: x times the probability that a normal variable is below x.

        y = x/2 * (1 + erf(x / sqrt(2)))

    x [...] float32 or float64
    Returns [...], dtype of x.
    Source: Hendrycks and Gimpel 2016, arXiv:1606.08415. Configurations call it "gelu"; Cerebras-GPT and nanoGPT use it.

    >>> gelu_erf(np.array([-1.0, 0.0, 1.0])).round(4)
    array([-0.1587,  0.    ,  0.8413])
    """
    return 0.5 * x * (1 + erf(x / math.sqrt(2)))


def relu(x: np.ndarray) -> np.ndarray:
    """The rectified linear unit.

        y = max(x, 0)

    x [...] float32 or float64
    Returns [...], dtype of x.
    Source: Nair and Hinton 2010, "Rectified linear units improve restricted Boltzmann machines".

    >>> relu(np.array([-1.0, 0.0, 1.0]))
    array([0., 0., 1.])
    """
    return np.maximum(x, 0)


def silu(x: np.ndarray) -> np.ndarray:
    """The sigmoid linear unit, also called swish.

        y = x / (1 + exp(-x))

    x [...] float32 or float64
    Returns [...], dtype of x.
    Notes: written with exp(-|x|), which can't overflow.
    Source: Hendrycks and Gimpel 2016, arXiv:1606.08415; Ramachandran et al. 2017, arXiv:1710.05941.

    >>> silu(np.array([-1.0, 0.0, 1.0])).round(4)
    array([-0.2689,  0.    ,  0.7311])
    """
    e = np.exp(-np.abs(x))
    return x * np.where(x < 0, e, 1) / (1 + e)


# Each name that `activation_function` may have in a configuration.
ACTIVATIONS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "gelu_new": gelu,
    "gelu_pytorch_tanh": gelu,
    "gelu": gelu_erf,
    "relu": relu,
    "silu": silu,
    "swish": silu,
    "tanh": np.tanh,
}


def softmax(x: np.ndarray) -> np.ndarray:
    """Turn scores into a probability distribution over the last axis.

        y_i = exp(x_i) / sum_j exp(x_j)

    x [..., N]  float32 or float64; -inf is a score that gets no probability, but one of each N must be finite
    Returns [..., N], dtype of x.
    Notes: the largest score is subtracted first, which changes nothing in the quotient and keeps exp from overflowing.
    Source: Bridle 1990, "Probabilistic interpretation of feedforward classification network outputs".

    >>> softmax(np.array([0.0, math.log(3), -math.inf]))
    array([0.25, 0.75, 0.  ])
    """
    e = np.exp(x - x.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def layer_norm(x: np.ndarray, g: np.ndarray, b: np.ndarray, eps: float = 1e-5) -> np.ndarray:
    """Normalise each vector to mean 0 and variance 1, then scale and shift it.

        y = g * (x - mean(x)) / sqrt(var(x) + eps) + b     over the last axis

    x     [..., C]  float32 or float64
    g, b  [C]       dtype of x
    Returns [..., C], dtype of x.
    Notes: var divides by C, and eps is inside the root.
    Source: Ba et al. 2016, arXiv:1607.06450.

    >>> layer_norm(np.array([1.0, 2.0, 3.0]), g=np.ones(3), b=np.zeros(3)).round(3)
    array([-1.225,  0.   ,  1.225])
    """
    centred = x - x.mean(axis=-1, keepdims=True)
    var = (centred * centred).mean(axis=-1, keepdims=True)
    return g * (centred / np.sqrt(var + eps)) + b


def linear(x: np.ndarray, w: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Map each vector by a matrix and shift it.

        y = x w + b

    x [..., A]  float32 or float64
    w [A, B]    dtype of x
    b [B]       dtype of x
    Returns [..., B], dtype of x.
    Notes: w is [in, out], as OpenAI and the Hub store GPT-2 ("Conv1D"). torch.nn.Linear holds it transposed.

    >>> linear(np.array([1.0, 2.0]), w=np.array([[1.0, 0.0, 1.0], [0.0, 1.0, 1.0]]), b=np.array([0.0, 0.0, 0.5]))
    array([1. , 2. , 3.5])
    """
    return x @ w + b


def causal_mask(T: int, S: int) -> np.ndarray:
    """Which of S positions each of the last T may attend to: itself and those before it.

        mask[t, s] = s <= t + (S - T)

    Returns [T, S] bool.
    Notes: counted from the lower right corner, so the same line serves a whole prompt (T = S), one new token
    (T = 1) and everything between.
    Source: Radford et al. 2019, the released code, `attention_mask`.

    >>> causal_mask(2, 4).astype(int)
    array([[1, 1, 1, 0],
           [1, 1, 1, 1]])
    """
    return np.tri(T, S, S - T, dtype=bool)
