"""Sampling: what each control keeps, how often each token comes, and the random numbers themselves, bit for bit.

What must be kept is worked out in fractions, with thresholds that no rounding can reach; ties are tested on powers of
two, which floats hold exactly. The tests of frequencies use fixed seeds, so they pass or fail once and for all. Each
asks that a deviation as large as the one found have a chance of one in a million or more under the right distribution.
"""

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.sampling import LOW, kept, logits_of, sample

from numgpt.decoding.controls import Sampling
from numgpt.ops import softmax
from numgpt.sampling import draw, exponentials, min_p, temperature, top_k, top_p

weights_lists = st.lists(st.integers(0, 12), min_size=1, max_size=12).filter(any)


# --- top_k


def test_top_k_by_hand():
    logits = np.array([1.0, 3.0, 2.0, 0.0])
    assert [kept(top_k(logits, k)) for k in (1, 2, 3)] == [[1], [1, 2], [0, 1, 2]]
    for k in 4, 5, 10**9:
        assert kept(top_k(logits, k)) == [0, 1, 2, 3]


def test_top_k_keeps_all_that_tie_with_the_last_one_kept():
    logits = np.array([2.0, 1.0, 2.0, 3.0, 2.0])
    assert kept(top_k(logits, 1)) == [3]
    assert kept(top_k(logits, 2)) == kept(top_k(logits, 3)) == kept(top_k(logits, 4)) == [0, 2, 3, 4]


@given(weights_lists, st.integers(1, 14))
def test_top_k_keeps_a_token_if_and_only_if_fewer_than_k_are_likelier(weights, k):
    expected = [i for i, w in enumerate(weights) if w and sum(other > w for other in weights) < k]
    assert kept(top_k(logits_of(weights), k)) == expected


# --- top_p


def test_top_p_of_the_example_in_the_paper_s_figure_keeps_three():
    logits = np.log([0.5, 0.3, 0.15, 0.05])  # 0.8 is not enough for 0.9, so the third is in
    assert kept(top_p(logits, 0.9)) == [0, 1, 2]
    assert kept(top_p(logits, 0.96)) == [0, 1, 2, 3]
    assert kept(top_p(logits, 0.79)) == [0, 1]
    assert kept(top_p(logits, 0.51)) == [0, 1]
    assert kept(top_p(logits, 0.49)) == kept(top_p(logits, 1e-300)) == [0]


@given(weights_lists, st.data())
def test_top_p_keeps_the_smallest_set_that_reaches_p(weights, data):
    total = sum(weights)
    # Sums of weights are whole numbers, so that p * total, halfway between two of them, is never close to one.
    p = Fraction(2 * data.draw(st.integers(0, total - 1)) + 1, 2 * total)
    found = kept(top_p(logits_of(weights), float(p)))
    assert sum(Fraction(weights[i], total) for i in found) >= p
    largest_first = sorted(weights, reverse=True)
    assert sum(Fraction(w, total) for w in largest_first[: len(found) - 1]) < p  # no smaller set would do
    assert sorted((weights[i] for i in found), reverse=True) == largest_first[: len(found)]
    for i in found:  # of equals, the first
        assert all(j in found for j in range(i) if weights[j] == weights[i])


@pytest.mark.parametrize("n", [1, 2, 4, 8, 32])
def test_top_p_stops_at_a_sum_that_is_exactly_p(n):
    for count in range(1, n + 1):
        assert kept(top_p(np.zeros(n), count / n)) == list(range(count))


@pytest.mark.parametrize("p", [1, 1 - 2.0**-53])
def test_top_p_keeps_all_where_rounding_leaves_the_sum_of_all_below_p(p):
    for n in range(1, 60):  # 10 times 0.1, for one, is 0.9999999999999999
        assert kept(top_p(np.zeros(n), p)) == list(range(n))


def test_top_p_of_1_keeps_all_that_floats_can_tell_from_nothing():
    assert kept(top_p(np.log([0.5, 0.25, 0.25]), 1)) == [0, 1, 2]
    assert kept(top_p(np.array([0.0, LOW, -1]), 1)) == [0, 2]


# --- min_p


def test_min_p_by_hand():
    logits = np.log([0.3, 0.5, 0.05, 0.15])
    assert kept(min_p(logits, 0.09)) == [0, 1, 2, 3]
    assert kept(min_p(logits, 0.11)) == kept(min_p(logits, 0.29)) == [0, 1, 3]
    assert kept(min_p(logits, 0.31)) == kept(min_p(logits, 0.59)) == [0, 1]
    assert kept(min_p(logits, 0.61)) == kept(min_p(logits, 1)) == [1]


@given(weights_lists, st.data())
def test_min_p_keeps_what_is_at_least_p_times_as_likely_as_the_likeliest(weights, data):
    largest = max(weights)
    p = Fraction(2 * data.draw(st.integers(0, largest - 1)) + 1, 2 * largest)  # p * largest lies between whole numbers
    expected = [i for i, w in enumerate(weights) if w >= p * largest]
    assert kept(min_p(logits_of(weights), float(p))) == expected


def test_min_p_keeps_what_is_exactly_p_times_as_likely():
    logits = np.array([-math.log(2), 0, -math.log(4)])  # exp gives 1/2, 1 and 1/4 to the bit
    assert kept(min_p(logits, 0.5)) == [0, 1]
    assert kept(min_p(logits, 0.25)) == [0, 1, 2]
    assert kept(min_p(np.zeros(3), 1)) == [0, 1, 2]


def test_min_p_of_0_keeps_all():
    logits = np.array([0.0, -800, LOW])  # the second is so unlikely that its probability is 0
    np.testing.assert_array_equal(min_p(logits, 0), logits)


# --- what all three of them keep to

CONTROLS = {
    "top_k": (top_k, [1, 2, 3, 7, 12]),
    "top_p": (top_p, [0.05, 0.3, 0.7, 0.95, 1]),
    "min_p": (min_p, [0, 0.1, 0.4, 0.9, 1]),
}


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", CONTROLS)
@given(weights=weights_lists, which=st.integers(0, 4))
def test_a_control_bans_or_leaves_as_it_is_and_never_bans_the_likeliest(name, dtype, weights, which):
    control, values = CONTROLS[name]
    logits = logits_of(weights, dtype)
    logits.flags.writeable = False
    out = control(logits, values[which])
    assert out.dtype == dtype
    # The logits of what is kept are the same bits, so its order and its odds are too.
    assert ((out == logits) | (out == LOW)).all()
    assert out[logits.argmax()] == logits.max()
    banned = logits[out == LOW]
    assert banned.size == 0 or banned.max() <= out[out > LOW].min()
    if name != "top_p":  # which takes the first of equals
        for w in set(weights) - {0}:
            assert len({out[i] for i in range(len(weights)) if weights[i] == w}) == 1


@pytest.mark.parametrize("name", CONTROLS)
def test_banned_tokens_stay_banned_and_do_not_count(name):
    control, values = CONTROLS[name]
    without = np.array([0.5, -1, 2, 0.25])
    banned = np.array([LOW, 0.5, LOW, -1, 2, 0.25, LOW])
    for value in values:
        expected = control(without, value)
        np.testing.assert_array_equal(control(banned, value)[[1, 3, 4, 5]], expected)
        assert set(control(banned, value)[[0, 2, 6]]) == {LOW}


# --- temperature


def test_temperature_by_hand():
    logits = np.array([1.0, 3.0, LOW])
    assert temperature(logits, 0.5).tolist() == [-4, 0, LOW]
    assert temperature(logits, 4).tolist() == [-0.5, 0, LOW]


@given(weights_lists, st.sampled_from([Fraction(1, 3), Fraction(1, 2), Fraction(1), Fraction(2), Fraction(4)]))
def test_temperature_raises_probabilities_to_the_power_of_one_over_t(weights, T):
    powers = [w ** (1 / T) if w else 0 for w in weights]
    y = softmax(temperature(logits_of(weights), float(T)))
    # Logits up to log(12) / T = 8 are rounded a few times before exp.
    np.testing.assert_allclose(y, [float(p / sum(powers)) for p in powers], rtol=1e-14)


@pytest.mark.parametrize("T", [1e-12, 1e-300, 5e-324])
def test_a_tiny_temperature_leaves_only_the_likeliest(T):
    assert temperature(np.array([0.25, 1e300, LOW, -1e300, 1e300]), T).tolist() == [LOW, 0, LOW, LOW, 0]


def test_a_huge_temperature_makes_all_that_is_not_banned_even():
    np.testing.assert_array_equal(temperature(np.array([5.0, -5, LOW]), 1e308), [0, -10 / 1e308, LOW])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_temperature_writes_to_no_argument_and_keeps_the_dtype(dtype):
    logits = np.array([1, 3], dtype)
    logits.flags.writeable = False
    assert temperature(logits, 0.7).dtype == dtype


# --- the random numbers, by their definition


MASK = 2**64 - 1


def philox(counter, key):
    """Philox4x64-10, as Salmon et al. 2011 define it, on whole numbers: four words of counter, two of key."""
    c, k = list(counter), list(key)
    for _ in range(10):
        high_0, low_0 = divmod(0xD2E7470EE14C6C93 * c[0], 2**64)
        high_2, low_2 = divmod(0xCA5A826395121157 * c[2], 2**64)
        c = [high_2 ^ c[1] ^ k[0], low_2, high_0 ^ c[3] ^ k[1], low_0]
        k = [(k[0] + 0x9E3779B97F4A7C15) & MASK, (k[1] + 0xBB67AE8584CAA73B) & MASK]
    return c


def words(seed, stream, position, n):
    """Return n outputs for (seed, stream, position). NumPy counts one up before each block, so the first block is 1."""
    return [philox([i // 4 + 1, position, 0, 0], [seed, stream])[i % 4] for i in range(n)]


def test_the_philox_of_these_tests_has_the_known_answers_of_random123():
    # kat_vectors of the Random123 library, philox4x64 10: counter and key of zeros, of ones, of the digits of pi.
    answers = "16554d9eca36314c db20fe9d672d0fdc d7e772cee186176b 7e68b68aec7ba23b"
    assert philox([0] * 4, [0] * 2) == [int(word, 16) for word in answers.split()]
    answers = "87b092c3013fe90b 438c3c67be8d0224 9cc7d7c69cd777b6 a09caebf594f0ba0"
    assert philox([MASK] * 4, [MASK] * 2) == [int(word, 16) for word in answers.split()]
    pi = "243f6a8885a308d3 13198a2e03707344 a4093822299f31d0 082efa98ec4e6c89 452821e638d01377 be5466cf34e90c6c"
    answers = "a528f45403e61d95 38c72dbd566e9788 a5a1610e72fd18b5 57bd43b5e52b7fe6"
    digits = [int(word, 16) for word in pi.split()]
    assert philox(digits[:4], digits[4:]) == [int(word, 16) for word in answers.split()]


def assert_exponentials_are_those_of_philox(seed, stream, position):
    for n in 1, 3, 4, 9:
        e = exponentials(seed, stream, position, n)
        assert e.shape == (n,)
        assert e.dtype == np.float64
        # u keeps the top 52 bits or more of a word; exp and log of a number in (0, 1) add some 2^-52.
        u = [word / 2**64 for word in words(int(seed), int(stream), position, n)]
        np.testing.assert_allclose(np.exp(-e), u, rtol=0, atol=4 * 2.0**-52)


KEYS = [(0, 0, 0), (1, 0, 7), (0, 1, 7), (12345, 678, 1023), (2**62 + 1, 3, 1), (2**64 - 1, 2**64 - 1, 0)]
# In a list, a number of 2^63 or more that stands beside a smaller one makes float64 of both in NumPy.
MIXED_KEYS = [(2**64 - 1, 0, 5), (0, 2**63 + 1, 5), (2**53 + 1, 2**64 - 2, 7), (2**63 + 1, 1, 1023)]


@pytest.mark.parametrize(("seed", "stream", "position"), KEYS)
def test_the_random_numbers_are_those_of_philox_with_key_seed_stream_and_the_position_in_the_counter(
    seed, stream, position
):
    assert_exponentials_are_those_of_philox(seed, stream, position)


@pytest.mark.parametrize(("seed", "stream", "position"), MIXED_KEYS)
def test_large_seeds_and_streams_are_taken_in_all_their_bits(seed, stream, position):
    assert_exponentials_are_those_of_philox(seed, stream, position)


@pytest.mark.parametrize("kind", [np.uint8, np.int32, np.int64, np.uint64])
def test_seed_and_stream_may_be_integers_of_numpy(kind):
    assert_exponentials_are_those_of_philox(kind(101), kind(3), 2)
    assert_exponentials_are_those_of_philox(101, kind(3), 2)
    assert_exponentials_are_those_of_philox(kind(101), 3, 2)


def test_the_first_numbers_are_frozen():
    # -log of the first words of philox([1, position, 0, 0], [seed, stream]); six digits, to be read by people.
    assert exponentials(seed=1, stream=0, position=7, n=3).round(6).tolist() == [0.208274, 0.18541, 0.570381]
    assert exponentials(seed=0, stream=0, position=0, n=2).round(6).tolist() == [4.461351, 1.420682]


def test_fewer_numbers_are_the_first_of_more():
    for n in range(1, 20):
        np.testing.assert_array_equal(exponentials(3, 4, 5, n), exponentials(3, 4, 5, 50)[:n])


class Extremes:
    """A generator whose words are the least, the largest and their neighbours."""

    def __init__(self, key, counter):
        pass

    def random_raw(self, n):
        return np.array([0, 1, 2**11, 2**63, 2**64 - 2**11, 2**64 - 1][:n], np.uint64)


def test_the_rarest_words_give_numbers_above_0_and_below_infinity(monkeypatch):
    monkeypatch.setattr(np.random, "Philox", Extremes)
    e = exponentials(0, 0, 0, 6)
    assert (np.diff(e) <= 0).all()
    assert 36 < e[0] < 38.2  # u from 2^-52 to 2^-55
    assert e[3] == pytest.approx(math.log(2), rel=1e-15)
    assert 2.0**-55 < e[5] < 2.0**-51  # u was never rounded up to 1


# --- the random numbers, by their statistics. A deviation of 5 sigma has a chance of one in 1.7 million.

N = 100_000


def over(axis, count=N // 10, n=10):
    """Return E [count, n], where one of seed, stream and position counts up and the others stand still."""
    return np.array([exponentials(**{"seed": 5, "stream": 6, "position": 7} | {axis: i}, n=n) for i in range(count)])


@pytest.mark.parametrize(
    "axis", ["seed", *(pytest.param(axis, marks=pytest.mark.thorough) for axis in ("stream", "position"))]
)
def test_neighbouring_seeds_streams_and_positions_give_independent_exponentials(axis):
    e = over(axis)
    assert abs(e.mean() - 1) < 5 / N**0.5
    assert abs(e.var() - 1) < 5 * (8 / N) ** 0.5  # the variance of a sample variance is (mu_4 - 1) / N, and mu_4 is 9
    # Ten bins of equal probability: the bin edges of the exponential are at -log(1 - i/10).
    bins = np.floor(-np.expm1(-e) * 10).astype(int)
    counts = np.bincount(bins.ravel(), minlength=11)[:11]
    assert counts[10] == 0
    assert abs(counts[:10] - N / 10).max() < 5 * (N * 0.1 * 0.9) ** 0.5
    assert len(np.unique(e)) == e.size
    # No number goes with the one beside it, along the axis, along the words or across both.
    centred = e - 1
    for a, b in (centred[1:], centred[:-1]), (centred[:, 1:], centred[:, :-1]), (centred[1:, 1:], centred[:-1, :-1]):
        assert abs((a * b).mean()) < 5 / a.size**0.5


# --- draw


def test_draw_by_hand():
    p = np.array([0.5, 0.25, 0.125, 0.125])
    assert draw(p, np.array([4.0, 3, 2, 2])) == 0  # 8, 12, 16, 16
    assert draw(p, np.array([4.0, 1, 2, 2])) == 1  # 8, 4, 16, 16
    assert draw(p, np.array([4.0, 3, 0.5, 2])) == 2  # 8, 12, 4, 16
    assert draw(p, np.array([4.0, 3, 2, 0.5])) == 3  # 8, 12, 16, 4
    assert draw(np.array([1.0]), np.array([0.3])) == 0
    assert type(draw(p, np.ones(4))) is int


def test_draw_never_takes_what_has_no_probability():
    assert draw(np.array([0.0, 1e-300, 0.0]), np.array([1e-17, 30.0, 1e-9])) == 1


# --- sample


def winner(probabilities, seed, stream, position):
    """The first clock to ring, by the definitions: -log(u_i) / p_i, with u_i from Philox."""
    u = words(seed, stream, position, len(probabilities))
    times = [-math.log((word + 1) / 2**64) / p if p else math.inf for word, p in zip(u, probabilities, strict=True)]
    return times.index(min(times))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_every_id_is_settled_by_seed_stream_and_position(dtype):
    weights = [12, 30, 5, 0, 20, 8, 15, 10]
    logits = logits_of(weights, dtype)
    shares = [w / 100 for w in weights]
    for i in range(200):
        seed, stream, position = i % 5, i // 5 % 4, i
        assert sample(logits, range(position), Sampling(), seed, stream) == winner(shares, seed, stream, position)


def test_seed_and_stream_are_0_unless_told():
    logits = logits_of([1] * 20)
    for position in range(20):
        assert sample(logits, range(position), Sampling()) == sample(logits, range(position), Sampling(), 0, 0)
    assert any(sample(logits, range(i), Sampling()) != sample(logits, range(i), Sampling(), 0, 1) for i in range(20))


def test_the_position_is_the_length_of_the_text_and_its_ids_do_not_count():
    logits = logits_of([3, 1, 4, 1, 5])
    for seed in range(20):
        assert len({sample(logits, ids, Sampling(), seed) for ids in ([1, 2, 3], [4, 4, 4], np.array([0, 3, 1]))}) == 1
