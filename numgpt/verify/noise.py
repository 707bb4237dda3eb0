"""How far two tensors are apart, and how much of that rounding can do.

How much rounding can do is measured, for each tensor and each text: our own pass in float32 against that in float64
gives its noise. Another program adds up in another order, so that its errors are others of the same kind. `WIDEN`
allows it so many times ours, in the largest difference and in the root mean square; before anything is said to differ,
our noise is measured again in passes that round at random, so that it is not a stroke of luck. A dump in float64 is
held to the same noise times 2^-29, the ratio of the two precisions, as rounding grows in proportion; those in float16
and bfloat16 to 2^13 and 2^16 times as much.

A layer norm is held to more. Rounding makes some of its rows larger and others smaller; another epsilon makes all of
them larger. Their mean is so many times less noisy than a single number that an epsilon of 1e-6 for 1e-5 is seen where
it is lost in the noise of each. 160 random models in Transformers had at most 3.5 times the noise of that mean.
"""

import math
from copy import copy
from typing import Any, NamedTuple

import numpy as np

from numgpt.checkpoint.layers import Layers
from numgpt.model import Model
from numgpt.params import map_leaves
from numgpt.trace import layer_and_base
from numgpt.verify.foreign import Found
from numgpt.verify.passes import NORMS, Attempt, Rounded, Site, norm_input, run

# --- the distance between two tensors


class Gap(NamedTuple):
    """How far two tensors are apart."""

    largest: float
    rms: float

    def times(self, factor: float) -> "Gap":
        """Return a gap that is so many times as large."""
        return Gap(self.largest * factor, self.rms * factor)

    def over(self, noise: "Gap") -> float:
        """Return how many times the noise this is: by the largest, or by the root mean square if that is more."""
        with np.errstate(all="ignore"):
            return float(np.nanmax([0 if a == 0 else np.float64(a) / b for a, b in zip(self, noise, strict=True)]))


def widest(*gaps: Gap) -> Gap:
    """Return the largest of each of the two sizes, of those that are finite."""
    return Gap(*(max(size for size in sizes if np.isfinite(size)) for sizes in zip(*gaps, strict=True)))


def gap_between(name: str, x: np.ndarray, y: np.ndarray) -> Gap:
    """Return how far two tensors are apart: infinitely where one is not finite and the other is, or is otherwise."""
    x, y = masked(name, x), masked(name, y)
    known = np.isfinite(x)
    if not np.array_equal(known, np.isfinite(y)) or not np.array_equal(x[~known], y[~known], equal_nan=True):
        return Gap(np.inf, np.inf)
    if np.isnan(x).all():  # equal, but no evidence of anything
        return Gap(np.inf, np.inf)
    difference = x[known] - y[known]
    return Gap(float(abs(difference).max(initial=0.0)), root_mean_square(difference))


MASKED = -5e3  # scores from here down are masked: programs add -1e4, or put -1e9, the lowest float or -inf there


def masked(name: str, x: np.ndarray) -> np.ndarray:
    """Return scores with -inf wherever they are masked; other tensors as they are."""
    return np.where(x <= MASKED, -np.inf, x) if name.endswith("attn.scores") else x


def root_mean_square(x: np.ndarray) -> float:
    return float(np.sqrt(np.mean(x * x))) if x.size else 0.0


# --- what rounding does

EPS = float(np.finfo(np.float32).eps)


def noise_of(name: str, passes: list[np.ndarray], truth: np.ndarray) -> Gap:
    """Return the noise of a tensor in float32: the most that rounding did to it in some passes.

    It is at least one rounding of the values, for what a pass got right by luck.
    """
    values = truth[np.isfinite(truth)]
    least = Gap(EPS * float(abs(values).max(initial=0.0)), EPS / 2 * root_mean_square(values))
    return widest(least, *(gap_between(name, x.astype(np.float64), truth) for x in passes))


def rounding(seed: int) -> Rounded:
    """Return what puts an error of up to half an eps of float32, either way, into every number of a tensor.

    A layer norm also gets that of programs that compute x r - mean(x) r: as large as x r, however much of it cancels.
    Source: Parker 1997, "Monte Carlo arithmetic".
    """
    draw = np.random.default_rng(seed)

    def error(x: np.ndarray) -> np.ndarray:
        return EPS / 2 * draw.uniform(-1, 1, x.shape)

    def rounded(name: str, site: Site, value: np.ndarray) -> np.ndarray:
        value, base = value * (1 + error(value)), layer_and_base(name)[1]
        if base not in NORMS:
            return value
        x = norm_input(base, site)
        r = 1 / np.sqrt(x.var(-1, keepdims=True) + site.config.layer_norm_epsilon)
        return value + site.p[base]["g"] * x * r * error(x)

    return rounded


# --- precision

# How large rounding is, over that of float32.
PRECISION = {"float64": 2.0**-29, "float32": 1.0, "float16": 2.0**13, "bfloat16": 2.0**16}


def precision_of(values: np.ndarray) -> str:
    """Return the coarsest precision that holds all of some finite numbers: that in which they were computed, or kept.

    >>> [precision_of(np.array([x])) for x in (0.5, 1 + 2**-10, 1 + 2**-23, 1 + 2**-52)]
    ['bfloat16', 'float16', 'float32', 'float64']
    """
    if not values.any():
        return "float32"
    with np.errstate(over="ignore"):
        single = values.astype(np.float32)
    if not np.array_equal(single, values):
        return "float64"
    if np.array_equal(to_bfloat16(values), values):
        return "bfloat16"
    return "float16" if np.array_equal(to_float16(values), values) else "float32"


def to_float16(x: np.ndarray) -> np.ndarray:
    """Round to float16, and return the dtype of x."""
    with np.errstate(over="ignore"):
        return x.astype(np.float16).astype(x.dtype)


def to_bfloat16(x: np.ndarray) -> np.ndarray:
    """Round to bfloat16, the upper half of a float32, and return the dtype of x; ties go to even.

    >>> to_bfloat16(np.array([1 + 2**-8, 1 + 3 * 2**-8])).tolist()
    [1.0, 1.015625]
    """
    bits = x.astype(np.float32).view(np.uint32)
    return ((bits + 0x7FFF + (bits >> 16 & 1)) & 0xFFFF0000).astype(np.uint32).view(np.float32).astype(x.dtype)


def to_tf32(x: np.ndarray) -> np.ndarray:
    """Round to TF32, a float32 with 10 bits of mantissa, and return the dtype of x; ties go away from 0.

    >>> to_tf32(np.array([1 + 2**-11, 1 + 2**-12])).tolist()
    [1.0009765625, 1.0]
    """
    return _upper_bits(x, add=0x1000)


def cut_to_tf32(x: np.ndarray) -> np.ndarray:
    """Cut off what TF32 does not hold, as a tensor core does to a float32 that was not rounded; keep the dtype of x.

    >>> cut_to_tf32(np.array([1 + 2**-10, 1 + 2**-11])).tolist()
    [1.0009765625, 1.0]
    """
    return _upper_bits(x, add=0)


def _upper_bits(x: np.ndarray, add: int) -> np.ndarray:
    bits = x.astype(np.float32).view(np.uint32)
    return ((bits + add) & 0xFFFFE000).astype(np.uint32).view(np.float32).astype(x.dtype)


# --- a dump beside our own passes

# Transformers on 1,000 random models had at most 6.9 times our noise, a sum of 3,072 products one by one 5 times; the
# least of the mistakes, an epsilon of 1e-6 for 1e-5, makes 5 to 50.
WIDEN = 8.0  # times our noise that another program may have
ROUNDINGS = 8  # passes with rounding at random, beside the one in float32, before anything is said to differ


class Comparison:
    """A dump, what our own passes make of the same ids and of its tensors, and the noise of each tensor.

    given  mistakes that are known to be made in the other program: in `beyond`, our passes make them too
    """

    given: tuple[Attempt, ...] = ()

    def __init__(self, ids: np.ndarray, model: Model, found: dict[str, Found]) -> None:
        self.ids, self.config, self.found = ids, model.config, found
        self.params64 = converted(model.params, np.float64)
        self.params32 = converted(model.params, np.float32)
        finite = [tensor.x[np.isfinite(tensor.x)] for tensor in found.values()]
        self.precision = precision_of(np.concatenate([np.zeros(0), *finite]))
        self.scale = PRECISION[self.precision]
        self.run_both()

    def run_both(self) -> None:
        """Run the model in both precisions, and take their difference for the noise."""
        self.truth = self.run(self.params64)
        self.passes = [self.run(self.params32)]
        self.measure_noise()

    def run(self, params: dict[str, Any], rounded: Rounded | None = None) -> dict[str, np.ndarray]:
        """Run the model beside the dump, with the mistakes that are given."""
        return run(self.ids, params, self.config, self.found, rounded=rounded, given=self.given)

    def beyond(self, mistake: Attempt) -> "Comparison":
        """Return the comparison with a program that makes a mistake, too: what still differs is another."""
        other = copy(self)
        other.given = (*self.given, mistake)
        other.run_both()
        if len(self.passes) > 1:
            other.measure_again()
        return other

    def measure_noise(self) -> None:
        """Set the noise of each tensor, in float32, from the passes that there are."""
        self.noise = {name: noise_of(name, [x[name] for x in self.passes], x64) for name, x64 in self.truth.items()}

    def measure_again(self) -> None:
        """Measure the noise in more passes, where one in float32 may have been lucky."""
        for seed in range(ROUNDINGS):
            self.passes.append(self.run(self.params64, rounding(seed)))
        self.measure_noise()

    def gap(self, name: str, ours: np.ndarray) -> Gap:
        """Return how far the dump is from a tensor of ours."""
        theirs = self.found[name].x
        return gap_between(name, theirs, ours[-theirs.shape[0] :] if name == "logits" else ours)

    def both(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        """Return a tensor as the dump has it and as it is right, with what is masked as -inf in both."""
        theirs, ours = masked(name, self.found[name].x), self.truth[name]
        return theirs, ours[-len(theirs) :] if name == "logits" else ours

    def over_noise(self, name: str, ours: np.ndarray) -> float:
        """Return how far the dump is from a tensor of ours, over the noise in the precision of the dump."""
        return self.gap(name, ours).over(self.noise[name].times(self.scale))

    def lean(self, name: str) -> float:
        """Return by how much a layer norm's rows are larger than ours, on average, over what rounding does to that."""
        return abs(self.growth(name)) / (self.noise_of_growth(name) * self.scale)

    def growth(self, name: str) -> float:
        """Return by which part of themselves the rows of a layer norm are larger than ours, on average."""
        return self._growth(name, self.found[name].x)

    def noise_of_growth(self, name: str) -> float:
        """Return what rounding in float32 does to the growth: as our passes have it, or half an eps a row."""
        grown = [self._growth(name, x[name].astype(np.float64)) for x in self.passes]
        return max(float(np.sqrt(np.mean(np.square(grown)))), EPS / 2 / math.sqrt(len(self.truth[name])))

    def _growth(self, name: str, x: np.ndarray) -> float:
        layer, base = layer_and_base(name)
        p = (self.params64 if layer is None else self.params64["h"][layer])[base]
        ours = self.truth[name]
        direction = ours - p["b"]
        with np.errstate(all="ignore"):
            slopes = ((x - ours) * direction).sum(-1) / (direction * direction).sum(-1)
        return float(np.nan_to_num(slopes).mean())


def converted(params: dict[str, Any], dtype: Any) -> dict[str, Any]:
    """Return parameters in another dtype; layers that stay in their file are converted when they are read."""

    def convert(tree: Any) -> Any:
        return map_leaves(lambda path, x: x.astype(dtype, copy=False), tree)

    if isinstance(params.get("h"), Layers):
        return {**convert({name: x for name, x in params.items() if name != "h"}), "h": params["h"].map(convert)}
    return dict(convert(params))
