"""The operations of numgpt.ops: values by hand, from tables and in more digits, and the laws that they obey.

Tolerances are counted in roundings. eps is the distance from 1 to the next float of a dtype; a sum, product, quotient
or root is off by eps/2 at most, and NumPy's exp, log and tanh by a few eps. Where a value is exact, equality is asked.
"""

import math
from decimal import MAX_EMAX, MIN_EMIN, Context, Decimal, localcontext

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from numgpt import ops

DTYPES = [np.float32, np.float64]
PI = Decimal("3.14159265358979323846264338327950288419716939937511")
GRID = [0.0, 1e-300, 1e-8, 0.1, 0.3, 0.5, 1.0, 1.5, 2.0, 2.718281828, 3.0, 4.0, 5.5, 8.0, 20.0, 100.0, 1e3]
POINTS = [-x for x in GRID] + GRID

# Each operation as a function of x [..., 3] alone.
G, B = [0.5, -2.0, 3.0], [0.25, 1.0, -1.0]
W = [[1.0, 0.5], [-2.0, 3.0], [0.25, -1.0]]
OPS = {
    "gelu": ops.gelu,
    "erf": ops.erf,
    "gelu_erf": ops.gelu_erf,
    "relu": ops.relu,
    "silu": ops.silu,
    "tanh": ops.ACTIVATIONS["tanh"],
    "softmax": ops.softmax,
    "layer_norm": lambda x: ops.layer_norm(x, np.array(G, x.dtype), np.array(B, x.dtype)),
    "linear": lambda x: ops.linear(x, np.array(W, x.dtype), np.array([0.5, -1.0], x.dtype)),
}


def precise(formula):
    """Return a function of floats that works formula out in 400 digits, enough to add 1e-300 to 1."""

    def value(x):
        with localcontext(Context(prec=400, Emin=MIN_EMIN, Emax=MAX_EMAX)):
            return float(formula(Decimal(x)))

    return value


def sigmoid(x):
    return 1 / (1 + (-x).exp())


# The same functions in other words: 1/2 (1 + tanh u) is the sigmoid of 2u, and tanh u = 2 sigmoid(2u) - 1.
gelu_in_digits = precise(lambda x: x * sigmoid(2 * (2 / PI).sqrt() * (x + Decimal("0.044715") * x**3)))
silu_in_digits = precise(lambda x: x * sigmoid(x))
tanh_in_digits = precise(lambda x: 2 * sigmoid(2 * x) - 1)


# --- what all of them keep to


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(3,), (2, 3), (1, 1, 3), (2, 4, 5, 3), (0, 3)])
@pytest.mark.parametrize("name", OPS)
def test_dtype_out_is_dtype_in_and_leading_axes_are_kept(name, shape, dtype):
    x = np.random.default_rng(1).normal(0, 3, shape).astype(dtype)
    y = OPS[name](x)
    assert y.dtype == dtype
    assert y.shape == (*shape[:-1], 2 if name == "linear" else 3)
    for at in np.ndindex(shape[:-1]):
        # One vector at a time gives the same, but for the order in which sums are made: a few roundings of values
        # that are no larger than 30.
        np.testing.assert_allclose(y[at], OPS[name](x[at]), rtol=0, atol=200 * np.finfo(dtype).eps)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ["gelu", "erf", "gelu_erf", "relu", "silu", "tanh"])
def test_an_activation_takes_a_single_number(name, dtype):
    x = np.asarray(0.75, dtype)
    y = OPS[name](x)
    assert y.dtype == dtype
    assert y.shape == ()
    assert y == OPS[name](x[None])[0]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", OPS)
def test_no_operation_writes_to_its_arguments(name, dtype):
    x = np.linspace(-3, 3, 6, dtype=dtype).reshape(2, 3)
    before = x.copy()
    y = OPS[name](x)
    y += 1  # nor does what comes back share their memory
    np.testing.assert_array_equal(x, before)
    x.flags.writeable = False
    OPS[name](x)


def test_layer_norm_and_linear_write_to_no_parameter():
    def frozen(x):
        x = np.array(x)
        x.flags.writeable = False
        return x

    x = np.arange(6.0).reshape(2, 3)
    ops.layer_norm(x, g=frozen(G), b=frozen(B))
    ops.linear(x, w=frozen(W), b=frozen([0.5, -1.0]))


def test_each_name_of_an_activation_gives_that_function():
    x = np.array([-1.0, 2.0])
    # Values as above: tanh form and exact form part in the fourth digit.
    known = {
        "gelu_new": [-0.158808, 1.954598],
        "gelu_pytorch_tanh": [-0.158808, 1.954598],
        "gelu": [-0.158655, 1.954500],
        "relu": [0, 2],
        "silu": [-0.268941, 1.761594],
        "swish": [-0.268941, 1.761594],
        "tanh": [-0.761594, 0.964028],
    }
    assert list(ops.ACTIVATIONS) == list(known)
    for name, values in known.items():
        np.testing.assert_array_equal(ops.ACTIVATIONS[name](x).round(6), values)


# --- activations


def test_gelu_has_the_published_values_of_its_tanh_form():
    # The documentation of tf.keras.activations.gelu, approximate=True.
    y = ops.gelu(np.array([-3.0, -1.0, 0.0, 1.0, 3.0]))
    np.testing.assert_array_equal(y.round(7), [-0.0036374, -0.1588080, 0, 0.8411920, 2.9963626])


def test_gelu_erf_has_the_published_values_of_the_exact_form():
    # The documentation of tf.keras.activations.gelu, approximate=False.
    y = ops.gelu_erf(np.array([-3.0, -1.0, 0.0, 1.0, 3.0]))
    np.testing.assert_array_equal(y.round(7), [-0.0040497, -0.1586553, 0, 0.8413447, 2.9959503])


@pytest.mark.parametrize("dtype", DTYPES)
def test_gelu_agrees_with_its_equation_in_many_digits(dtype):
    x = np.array(POINTS, dtype)
    expected = [gelu_in_digits(float(value)) for value in x]
    # 1 + tanh is about 0 on the left, so it is the absolute error that is small: some 8 roundings of x.
    assert (np.abs(ops.gelu(x) - expected) <= 8 * np.finfo(dtype).eps * np.abs(x)).all()


@pytest.mark.parametrize("dtype", DTYPES)
def test_gelu_erf_is_x_times_the_normal_probability_below_x(dtype):
    x = np.array(POINTS, dtype)
    expected = [float(value) * math.erfc(-float(value) / math.sqrt(2)) / 2 for value in x]  # math.erfc loses no digits
    assert (np.abs(ops.gelu_erf(x) - expected) <= 4 * np.finfo(dtype).eps * np.abs(x)).all()


def test_the_normal_probability_inside_gelu_erf_is_the_one_of_tables():
    # Phi(1), Phi(2), Phi(3), as any table of the normal distribution gives them.
    x = np.array([1.0, 2.0, 3.0])
    np.testing.assert_array_equal((ops.gelu_erf(x) / x).round(10), [0.8413447461, 0.9772498681, 0.9986501020])


def test_erf_is_math_erf_for_every_float64():
    x = np.array([*POINTS, math.inf, -math.inf])
    assert ops.erf(x).tolist() == [math.erf(value) for value in x]
    assert np.isnan(ops.erf(np.array([math.nan])))[0]


def test_erf_of_float32_is_the_nearest_float32():
    x = np.array(POINTS, np.float32)
    np.testing.assert_array_equal(ops.erf(x), np.array([math.erf(value) for value in x.tolist()]).astype(np.float32))


def test_erf_has_the_values_of_the_handbook():
    # Abramowitz and Stegun, table 7.1.
    y = ops.erf(np.array([0.5, 1.0, 1.5, 2.0]))
    np.testing.assert_array_equal(y.round(10), [0.5204998778, 0.8427007929, 0.9661051465, 0.9953222650])


@pytest.mark.parametrize("dtype", DTYPES)
def test_silu_and_tanh_agree_with_their_equations_in_many_digits(dtype):
    x = np.array(POINTS, dtype)
    tiny = 2 * np.finfo(dtype).tiny  # below that floats have fewer digits
    for name, expected in ("silu", silu_in_digits), ("tanh", tanh_in_digits):
        values = [expected(float(value)) for value in x]
        # Nothing cancels, so each digit counts: a handful of roundings of the value itself.
        np.testing.assert_allclose(OPS[name](x), values, rtol=8 * np.finfo(dtype).eps, atol=tiny)


@pytest.mark.parametrize("dtype", DTYPES)
def test_relu_keeps_what_is_above_zero(dtype):
    x = np.array([-np.inf, -1.5, -1e-30, -0.0, 0.0, 1e-30, 2.5, np.inf], dtype)
    np.testing.assert_array_equal(ops.relu(x), np.array([0, 0, 0, 0, 0, 1e-30, 2.5, np.inf], dtype))


@pytest.mark.parametrize(("dtype", "large"), [(np.float32, 1e12), (np.float64, 1e100)])
@pytest.mark.parametrize("name", ["gelu", "gelu_erf", "relu", "silu"])
def test_far_out_an_activation_is_x_or_nothing_and_warns_of_nothing(name, large, dtype):
    y = OPS[name](np.array([large, -large], dtype))
    assert y.tolist() == [dtype(large), 0]


@pytest.mark.parametrize(("dtype", "largest"), [(np.float32, 3.4e38), (np.float64, 1.7e308)])
@pytest.mark.parametrize("name", ["gelu_erf", "relu", "silu", "tanh"])
def test_the_largest_floats_overflow_nothing(name, largest, dtype):
    y = OPS[name](np.array([largest, -largest], dtype))
    assert y.tolist() == ([1, -1] if name == "tanh" else [dtype(largest), 0])


# --- softmax

finite = st.floats(-700, 700)
rows = st.lists(finite, min_size=1, max_size=40)


def test_softmax_of_logarithms_gives_back_the_shares():
    y = ops.softmax(np.log([[1.0, 2, 5], [4, 4, 0.5]]))
    # One rounding each for log, exp, sum and quotient.
    np.testing.assert_allclose(y, [[1 / 8, 1 / 4, 5 / 8], [8 / 17, 8 / 17, 1 / 17]], rtol=2e-15)


@given(rows, st.sampled_from(DTYPES))
def test_softmax_sums_to_one(row, dtype):
    y = ops.softmax(np.array(row, dtype))
    assert (y >= 0).all()
    # Each quotient and each step of the sum inside may be off by half a rounding.
    assert abs(math.fsum(y.tolist()) - 1) <= (len(row) + 2) * np.finfo(dtype).eps


@given(rows)
def test_softmax_is_the_equation_of_its_docstring(row):
    shares = [math.exp(value) for value in row]
    expected = [share / math.fsum(shares) for share in shares]
    # The difference to the largest is rounded once, by up to 1400 * eps/2, and exp passes that on.
    np.testing.assert_allclose(ops.softmax(np.array(row)), expected, rtol=2e-13, atol=1e-300)


@given(st.lists(st.integers(-500, 500), min_size=1, max_size=40), st.integers(-(10**9), 10**9))
def test_softmax_does_not_see_a_shift_of_all_scores(row, shift):
    x = np.array(row, float)
    np.testing.assert_array_equal(ops.softmax(x + shift), ops.softmax(x))  # x + shift is exact, so all is equal


@given(rows, st.randoms(use_true_random=False))
def test_softmax_keeps_the_order_and_follows_a_permutation(row, random):
    x = np.array(row)
    y = ops.softmax(x)
    order = np.argsort(x)
    assert (np.diff(y[order]) >= 0).all()
    shuffled = random.sample(range(len(row)), len(row))
    np.testing.assert_allclose(ops.softmax(x[shuffled]), y[shuffled], rtol=1e-14)  # 40 terms in another order


@pytest.mark.parametrize(("dtype", "huge"), [(np.float32, 1e38), (np.float64, 1e300)])
def test_softmax_of_huge_scores_neither_overflows_nor_warns(huge, dtype):
    x = np.array([[huge, -huge, 0], [huge, huge, -huge], [-huge, -huge, -huge], [-huge, 0, -huge]], dtype)
    y = ops.softmax(x)
    third = dtype(1) / dtype(3)
    assert y.tolist() == [[1, 0, 0], [0.5, 0.5, 0], [third, third, third], [0, 1, 0]]


@pytest.mark.parametrize("dtype", DTYPES)
def test_softmax_of_tiny_scores_is_even(dtype):
    x = np.array([np.finfo(dtype).tiny, 0, -np.finfo(dtype).tiny, np.finfo(dtype).smallest_subnormal], dtype)
    assert ops.softmax(x).tolist() == [0.25] * 4


@pytest.mark.parametrize("dtype", DTYPES)
def test_softmax_of_a_row_with_one_score_left_is_exactly_that_one(dtype):
    x = np.full((5, 5), -np.inf, dtype)
    x[np.arange(5), np.arange(5)] = [0, -3e4, 1e30, 0.1, -1e-30]
    np.testing.assert_array_equal(ops.softmax(x), np.eye(5, dtype=dtype))


@pytest.mark.parametrize("dtype", DTYPES)
def test_softmax_gives_masked_scores_nothing_and_the_others_what_they_have_alone(dtype):
    x = np.array([1.5, -np.inf, 0.25, -np.inf, -2], dtype)
    y = ops.softmax(x)
    assert y[[1, 3]].tolist() == [0, 0]
    np.testing.assert_array_equal(y[[0, 2, 4]], ops.softmax(x[[0, 2, 4]]))


# --- layer_norm


@pytest.mark.parametrize("dtype", DTYPES)
def test_layer_norm_by_hand(dtype):
    def norm(x, g, b, eps):
        return ops.layer_norm(*(np.array(value, dtype) for value in (x, g, b)), eps=eps)

    # Mean 2, variance ((-1)^2 + 1^2) / 2 = 1. The unbiased one would be 2.
    assert norm([1, 3], g=[1, 1], b=[0, 0], eps=0).tolist() == [-1, 1]
    # sqrt(1 + 3) = 2. Outside the root, eps would give 1 / (1 + 3).
    assert norm([1, 3], g=[1, 1], b=[0, 0], eps=3).tolist() == [-0.5, 0.5]
    # The gain comes before the shift, and each feature has its own.
    assert norm([1, 3], g=[2, 10], b=[0.25, -1], eps=3).tolist() == [-0.75, 4]
    # Mean 0, variance (49 + 1 + 1 + 25 + 4 + 0 + 4 + 16 + 25 + 25 + 4 + 36 + 25 + 1 + 36 + 4) / 16 = 16.
    x = [7, -1, 1, -5, -2, 0, -2, 4, 5, -5, 2, -6, 5, 1, -6, 2]
    assert norm([x, x[::-1]], g=[1] * 16, b=[0] * 16, eps=0).tolist() == [[v / 4 for v in x], [v / 4 for v in x[::-1]]]


def test_layer_norm_has_eps_1e_5_unless_told():
    x, g, b = np.array([1e-3, 3e-3]), np.ones(2), np.zeros(2)
    # Variance 1e-6, so y = 1e-3 / sqrt(1.1e-5); a few roundings.
    np.testing.assert_allclose(ops.layer_norm(x, g, b), np.array([-1, 1]) * 1e-3 / math.sqrt(1.1e-5), rtol=2e-15)


@given(arrays(np.float64, st.integers(2, 30), elements=st.floats(-1e3, 1e3)), st.floats(1e-6, 10))
def test_layer_norm_gives_mean_0_and_variance_1_less_the_share_of_eps(x, eps):
    n = len(x)
    y = ops.layer_norm(x, np.ones(n), np.zeros(n), eps)
    mean = math.fsum(x) / n
    var = math.fsum((value - mean) ** 2 for value in x) / n
    # The mean of x is off by up to n roundings of the largest |x|, and that is divided by sqrt(var + eps) as all else.
    slack = 4 * n * np.finfo(float).eps * (1 + np.abs(x).max() / math.sqrt(var + eps))
    assert abs(math.fsum(y) / n) <= slack
    assert abs(math.fsum(y * y) / n - var / (var + eps)) <= 4 * slack


shifts = st.sampled_from([1, -7, 1000, 2**20 + 1, 2**30 + 3, -(2**40)])


@given(st.lists(st.integers(-1000, 1000), min_size=8, max_size=8), shifts, st.integers(-20, 20))
def test_layer_norm_sees_neither_shift_nor_scale_of_its_input(row, shift, power):
    x = np.array(row, float)
    g, b = np.linspace(-2, 2, 8), np.linspace(1, 3, 8)
    # 8 integers: sum, mean and deviations are exact, so a shift changes no bit, however large beside the variance.
    np.testing.assert_array_equal(ops.layer_norm(x + shift, g, b), ops.layer_norm(x, g, b))
    if len(set(row)) > 1:
        # Without eps, nor does a power of two.
        np.testing.assert_array_equal(ops.layer_norm(x * 2.0**power, g, b, eps=0), ops.layer_norm(x, g, b, eps=0))


@pytest.mark.parametrize("dtype", DTYPES)
def test_layer_norm_of_a_constant_vector_is_the_shift(dtype):
    b = np.array([0.5, -1, 7, 0], dtype)
    y = ops.layer_norm(np.full((2, 4), 3, dtype), np.full(4, 5, dtype), b)
    np.testing.assert_array_equal(y, np.stack([b, b]))


# --- linear


@pytest.mark.parametrize("dtype", DTYPES)
def test_linear_by_hand(dtype):
    x, w = np.array([[1, 2], [0, -1]], dtype), np.array([[1, 0, 3], [2, 5, -1]], dtype)
    assert ops.linear(x, w, b=np.array([10, 20, 30], dtype)).tolist() == [[15, 30, 31], [8, 15, 31]]


small = st.integers(-99, 99)


@given(arrays(np.int64, (2, 3, 4), elements=small), arrays(np.int64, (4, 5), elements=small))
def test_linear_is_exact_for_integers(x, w):
    b = np.arange(5) - 2
    expected = [
        [[sum(int(x[i, j, a]) * int(w[a, c]) for a in range(4)) + c - 2 for c in range(5)] for j in range(3)]
        for i in range(2)
    ]
    assert ops.linear(x.astype(np.float32), w.astype(np.float32), b.astype(np.float32)).tolist() == expected


# --- causal_mask


def test_causal_mask_is_its_definition_for_all_small_sizes():
    for S in range(1, 9):
        for T in range(1, S + 1):
            mask = ops.causal_mask(T, S)
            assert mask.dtype == bool
            assert mask.tolist() == [[s <= t + (S - T) for s in range(S)] for t in range(T)]


def test_causal_mask_of_the_last_rows_is_the_bottom_of_the_whole():
    whole = ops.causal_mask(7, 7)
    for T in range(1, 8):
        np.testing.assert_array_equal(ops.causal_mask(T, 7), whole[-T:])
    assert whole.sum() == 7 * 8 // 2
