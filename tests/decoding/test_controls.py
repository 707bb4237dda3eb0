"""The controls: what each that looks at the text does, in which order all of them come, their ranges, and how often
each token comes under them.

The tests of frequencies use fixed seeds, so they pass or fail once and for all. Each asks that a deviation as large as
the one found have a chance of one in a million or more under the right distribution.
"""

import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.sampling import LOW, kept, logits_of, process, sample

from numgpt.checks import check_option
from numgpt.decoding.controls import (
    CONTROLS,
    Sampling,
    Start,
    bad_words,
    ban,
    check_sampling,
    controls_of,
    frequency_penalty,
    logit_bias,
    min_new_tokens,
    no_repeat_ngram_size,
    presence_penalty,
    repetition_penalty,
    text_controls,
)
from numgpt.errors import CheckpointError, NumgptError, OptionError
from numgpt.ops import softmax
from numgpt.sampling import exponentials

# --- repetition_penalty


def test_repetition_penalty_divides_the_positive_and_multiplies_the_negative():
    logits = np.array([3.0, -3.0, 0.0, 5.0, -5.0, LOW])
    assert repetition_penalty(logits, [0, 1, 2, 5], 1.5).tolist() == [2, -4.5, 0, 5, -5, LOW]
    assert repetition_penalty(logits, [3, 4], 0.5).tolist() == [3, -3, 0, 10, -2.5, LOW]  # below 1 it rewards
    assert logits.tolist() == [3, -3, 0, 5, -5, LOW]


def test_repetition_penalty_counts_a_token_once_however_often_it_came():
    logits = np.array([3.0, -3.0, 1.0])
    for ids in [1, 0], [0, 0, 1], [1, 1, 0, 1, 1], np.array([0, 1, 0]), (0, 1):
        assert repetition_penalty(logits, ids, 3).tolist() == [1, -9, 1]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_repetition_penalty_of_a_text_of_nothing_changes_nothing(dtype):
    logits = np.array([3, -3], dtype)
    logits.flags.writeable = False
    out = repetition_penalty(logits, [], 2)
    np.testing.assert_array_equal(out, logits)
    assert out.dtype == dtype
    assert repetition_penalty(logits, [0], 1.3).dtype == dtype


def test_repetition_penalty_passes_over_ids_that_have_no_logit():
    # A prompt may hold rows that pad the embedding; their logits are cut off.
    assert repetition_penalty(np.array([2.0, 2, 2]), [2, 3, 100], 2).tolist() == [2, 2, 1]


# --- presence_penalty and frequency_penalty


def test_penalties_of_what_was_written_are_those_of_openai():
    logits = np.array([3.0, 1.0, -1.0, 0.0, LOW])
    text = [3, 0, 1, 0, 4, 9]  # 9 has no logit; with a prompt of one, 0 came twice, 1 and 4 once
    assert presence_penalty(logits, text, 0.5, 1).tolist() == [2.5, 0.5, -1, 0, LOW]
    assert frequency_penalty(logits, text, 0.5, 1).tolist() == [2, 0.5, -1, 0, LOW]
    assert frequency_penalty(logits, text, -1, 3).tolist() == [4, 1, -1, 0, LOW]  # below 0 it rewards


@given(st.lists(st.integers(0, 6), max_size=12), st.integers(0, 12), st.floats(-2, 2), st.floats(-2, 2))
def test_both_count_the_new_tokens_alone(text, prompt_length, presence, frequency):
    count = Counter(text[prompt_length:])
    expected = [i - count[i] * frequency - (count[i] > 0) * presence for i in range(5)]
    options = Sampling(presence_penalty=presence, frequency_penalty=frequency)
    found = process(np.arange(5.0), text, options, prompt_length=prompt_length)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12)


# --- the other controls that look at the text


@pytest.mark.parametrize("kind", [list, tuple, np.array])
def test_logit_bias_is_added_to_an_id_always_and_to_the_last_of_several_where_the_text_ends_in_the_others(kind):
    logits = np.array([1.0, -1.0, 0.5, LOW])
    logits.flags.writeable = False
    text = kind([2, 1, 2, 0])
    assert logit_bias(logits, text, {0: 2.5, (1,): -1}).tolist() == [3.5, -2, 0.5, LOW]
    assert logit_bias(logits, text, {(0, 1): 4.0, (2, 0, 1): 8, (1, 1): 100}).tolist() == [1, 11, 0.5, LOW]
    assert logit_bias(logits, text, {(2, 1, 2, 0, 2): 1.0, (9, 2, 1, 2, 0, 2): 50}).tolist() == [1, -1, 1.5, LOW]
    assert logit_bias(logits, text, {3: 5.0}).tolist() == [1, -1, 0.5, LOW]  # what is banned stays so
    assert logit_bias(logits, text, [((0,), 1.0), ([0, 0], 2.0), ((0,), 4.0)]).tolist() == [8, -1, 0.5, LOW]
    assert logit_bias(logits, text, {4: 1.0, 100: 1.0}).tolist() == logits.tolist()


def test_logit_bias_at_the_start_of_a_text_takes_single_ids_alone():
    assert logit_bias(np.zeros(2), [], {0: 1.0, (0, 1): 1.0}).tolist() == [1, 0]


def test_no_repeat_ngram_size_by_hand():
    text = [1, 2, 3, 1, 2, 0, 1, 2]  # "1 2" was followed by 3 and by 0; "2" by 3 and 0; "0 1 2" by nothing
    banned = {n: np.flatnonzero(no_repeat_ngram_size(np.zeros(5), text, n) == LOW).tolist() for n in range(1, 10)}
    assert banned == {1: [0, 1, 2, 3], 2: [0, 3], 3: [0, 3], 4: [], 5: [], 6: [], 7: [], 8: [], 9: []}
    assert kept(no_repeat_ngram_size(np.zeros(3), [1, 1, 1], 2)) == [0, 2]  # the last 1 is both end and start
    assert kept(no_repeat_ngram_size(np.zeros(3), [1, 1, 1], 3)) == [0, 2]
    assert kept(no_repeat_ngram_size(np.zeros(3), [1, 1], 3)) == [0, 1, 2]
    assert kept(no_repeat_ngram_size(np.zeros(3), [], 1)) == [0, 1, 2]
    assert kept(no_repeat_ngram_size(np.zeros(3), [7, 2, 7], 2)) == [0, 1]
    assert kept(no_repeat_ngram_size(np.zeros(3), [2, 7, 2], 2)) == [0, 1, 2]  # 7 has no logit


@given(st.lists(st.integers(0, 3), max_size=14), st.integers(1, 6))
def test_no_repeat_ngram_size_bans_an_id_if_and_only_if_it_would_make_an_ngram_that_was_there(text, n):
    ngrams = {tuple(text[i : i + n]) for i in range(len(text) - n + 1)}
    expected = [i for i in range(4) if tuple([*text, i][-n:]) not in ngrams]
    for ids in text, np.array(text, np.uint16):
        assert kept(no_repeat_ngram_size(np.zeros(4), ids, n)) == expected


@pytest.mark.parametrize("kind", [list, tuple, np.array])
def test_bad_words_bans_the_last_id_where_the_text_ends_in_the_others(kind):
    text = kind([2, 1, 2, 0])
    assert kept(bad_words(np.zeros(4), text, [[1], [0, 2], [1, 3]])) == [0, 3]
    assert kept(bad_words(np.zeros(4), text, ((2, 0, 3), (2, 1, 2, 0, 1), (0, 2, 1, 2, 0, 2)))) == [0, 2]
    assert kept(bad_words(np.zeros(4), [], [[1], [0, 2]])) == [0, 2, 3]


def test_bad_words_passes_over_a_word_that_is_nothing_but_a_stop_id():
    assert kept(bad_words(np.zeros(4), [1], [[1], [2], [1, 3]], stop_ids=[1, 3])) == [0, 1]


def test_min_new_tokens_bans_the_stop_ids_until_enough_new_tokens_are_there():
    for length, expected in (3, [1, 2]), (4, [1, 2]), (5, [0, 1, 2, 3]), (9, [0, 1, 2, 3]):
        assert kept(min_new_tokens(np.zeros(4), [1] * length, 2, prompt_length=3, stop_ids=(0, 3, 9))) == expected


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_controls_that_look_at_the_text_keep_the_dtype_and_the_argument(dtype):
    logits = np.array([1, 3, 0.5], dtype)
    logits.flags.writeable = False
    for out in (
        logit_bias(logits, [0, 1], {0: 0.1}),
        no_repeat_ngram_size(logits, [0, 1], 1),
        bad_words(logits, [0, 1], [[0]]),
        min_new_tokens(logits, [0, 1], 9, 0, [2]),
        ban(logits, [1]),
    ):
        assert out.dtype == dtype
        assert (out != logits).any()


# --- all controls together


def test_each_control_that_is_on_is_applied():
    logits = np.array([2.0, -2.0, 1.0])
    assert process(logits, [0, 1], Sampling(repetition_penalty=2.0)).tolist() == [1, -4, 1]
    assert process(logits, [0, 1], Sampling(repetition_penalty=0.5)).tolist() == [4, -1, 1]
    assert process(logits, [], Sampling(temperature=0.5)).tolist() == [0, -8, -2]
    assert process(logits, [], Sampling(temperature=4)).tolist() == [0, -1, -0.25]
    for first_only in Sampling(top_k=1), Sampling(top_p=0.5), Sampling(min_p=0.5):  # shares of 0.72, 0.01 and 0.27
        assert process(logits, [], first_only).tolist() == [2, LOW, LOW]


def test_the_penalty_comes_before_top_k():
    logits = np.array([4.0, 3.0, 2.5])
    assert kept(process(logits, [0], Sampling(repetition_penalty=2.0, top_k=1))) == [1]


def test_the_penalty_comes_before_the_temperature():
    # It looks at the sign, which temperature takes away.
    logits = np.array([4.0, 3.0])
    assert process(logits, [0, 1], Sampling(repetition_penalty=2.0, temperature=0.5)).tolist() == [0, -1]


def test_the_controls_that_look_at_the_text_come_in_the_order_of_transformers():
    # A bias lifts -3 above 0, where the penalty divides instead of multiplying; and a bias lifts no ban.
    options = Sampling(logit_bias={0: 7.0, 1: 50.0, 2: 50.0, 3: 50.0}, repetition_penalty=2.0)
    assert process(np.array([-3.0, 0, 0, 0]), [0], options).tolist() == [2, 50, 50, 50]
    options = options._replace(no_repeat_ngram_size=1, bad_words=[[1]], min_new_tokens=1)
    assert process(np.array([-3.0, 0, 0, 0]), [0], options, prompt_length=1, stop_ids=[2]).tolist() == [LOW] * 3 + [50]


def test_bans_come_before_top_k():
    logits = np.array([3.0, 2.0, 1.0, 0.0])
    assert kept(process(logits, [0], Sampling(no_repeat_ngram_size=1, top_k=2))) == [1, 2]
    assert kept(process(logits, [0], Sampling(bad_words=[[0]], top_k=2))) == [1, 2]
    assert kept(process(logits, [0], Sampling(min_new_tokens=2, top_k=2), stop_ids=[0])) == [1, 2]


def test_sample_hands_the_prompt_length_and_the_stop_ids_on():
    logits = np.array([3.0, 2.0, 1.0])
    for T in 0, 1e-9:
        options = Sampling(temperature=T, min_new_tokens=2, bad_words=[[0], [1]])
        assert sample(logits, [2, 2], options, prompt_length=0, stop_ids=[0]) == 0
        assert sample(logits, [2, 2], options, prompt_length=1, stop_ids=[0]) == 2
        assert sample(logits, [2, 2], options, prompt_length=1) == 2


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("logit_bias", {1: 3.0}, 1),
        ("repetition_penalty", 4.0, 1),
        ("no_repeat_ngram_size", 1, 1),
        ("bad_words", [[0]], 1),
        ("min_new_tokens", 2, 2),
    ],
)
def test_sample_heeds_each_control_that_looks_at_the_text_where_it_is_the_only_one(name, value, expected):
    logits = np.array([3.0, 2.0, 2.5 if name == "min_new_tokens" else 1.0])
    options = Sampling(temperature=0, **{name: value})
    assert text_controls(options, Start())
    assert sample(logits, [0], options, stop_ids=[0] if name == "min_new_tokens" else []) == expected


def test_sample_penalises_in_float64():
    logits = np.array([1.5 + 2.0**-23, 1.5 + 2.0**-22], np.float32)  # divided by 1.5 in float32, they are equal
    assert repetition_penalty(logits, [0, 1], 1.5).argmax() == 0
    assert sample(logits, [0, 1], Sampling(temperature=0, repetition_penalty=1.5)) == 1


def test_where_the_logits_themselves_leave_no_token_no_control_is_blamed():
    options = Sampling(temperature=0, repetition_penalty=2.0, logit_bias={0: 1.0})
    assert process(np.full(3, LOW), [0], options).tolist() == [LOW] * 3


ALL_BANNED = {
    "no_repeat_ngram_size": Sampling(no_repeat_ngram_size=1),
    "bad_words": Sampling(bad_words=[[0], [1], [1, 2]]),
    "no_repeat_ngram_size or bad_words": Sampling(no_repeat_ngram_size=2, bad_words=[[0], [1], [1, 2]]),
    "bad_words or min_new_tokens": Sampling(bad_words=[[0], [1]], min_new_tokens=4),
}


@pytest.mark.parametrize("names", ALL_BANNED)
@pytest.mark.parametrize("T", [0, 0.7])
def test_where_the_controls_ban_every_token_the_error_names_them(names, T):
    options, message = ALL_BANNED[names]._replace(temperature=T), "no token is left at position 3: all 3 are banned"
    for function in sample, process:
        with pytest.raises(OptionError) as caught:
            function(np.zeros(3), [0, 2, 1], options, stop_ids=[2])
        assert str(caught.value) == f"{message}; loosen {names}"


def test_the_temperature_comes_before_top_p_and_min_p():
    logits = np.log([0.5, 0.3, 0.15, 0.05])  # squared: 0.685, 0.247, 0.062, 0.007
    assert kept(process(logits, [], Sampling(temperature=0.5, top_p=0.9))) == [0, 1]
    assert kept(process(logits, [], Sampling(temperature=0.5, min_p=0.25))) == [0, 1]
    for alone in Sampling(top_p=0.9), Sampling(min_p=0.25):
        assert kept(process(logits, [], alone)) == [0, 1, 2]


def test_top_k_comes_before_top_p():
    logits = np.log([0.5, 0.3, 0.15, 0.05])  # of two: 0.625 and 0.375
    assert kept(process(logits, [], Sampling(top_k=2, top_p=0.6))) == [0]
    assert kept(process(logits, [], Sampling(top_p=0.6))) == [0, 1]


def test_top_p_comes_before_min_p():
    logits = np.log([0.5, 0.3, 0.15, 0.05])  # of three: 0.526, 0.316 and 0.158
    assert kept(process(logits, [], Sampling(top_p=0.84, min_p=0.2))) == [0, 1, 2]


OFF = [
    Sampling(),
    Sampling(top_k=0, top_p=1, min_p=0, no_repeat_ngram_size=0, logit_bias={}, bad_words=[]),
    Sampling(top_p=1.0, min_p=0.0, logit_bias=(), bad_words=()),
]


@pytest.mark.parametrize("off", OFF)
def test_controls_that_are_off_change_no_bit(off):
    logits = np.array([0.1, 700.0, -800, LOW, 0.1])
    np.testing.assert_array_equal(process(logits, [0, 1, 2], off, stop_ids=[0]), logits)
    assert check_sampling(off) == off or off.logit_bias == {}
    assert not controls_of(off, Start())


def test_process_writes_to_no_argument():
    logits = np.array([0.5, -1, 2, 0.25])
    logits.flags.writeable = False
    options = Sampling(temperature=0.7, top_k=3, top_p=0.9, min_p=0.01, repetition_penalty=1.2)
    assert np.isfinite(process(logits, [1, 2], options)).any()


# --- frequencies


WEIGHTS = [12, 30, 5, 20, 8, 15, 10]  # of 100; in order of weight: 30, 20, 15, 12, 10, 8, 5
CASES = {
    "plain": (Sampling(), WEIGHTS),
    "temperature 1/2": (Sampling(temperature=0.5), [w**2 for w in WEIGHTS]),
    "temperature 2": (Sampling(temperature=2.0), [w**0.5 for w in WEIGHTS]),
    "top_k": (Sampling(top_k=5), [12, 30, 0, 20, 0, 15, 10]),
    "top_p": (Sampling(top_p=0.8), [12, 30, 0, 20, 0, 15, 10]),  # 30 + 20 + 15 + 12 is 77
    "min_p": (Sampling(min_p=0.45), [0, 30, 0, 20, 0, 15, 0]),  # 0.45 * 30 is 13.5
    "penalty": (Sampling(repetition_penalty=2.0), [w**0.5 if i in (1, 5) else w for i, w in enumerate(WEIGHTS)]),
}


TEXT_CASES = {
    "bias": (Sampling(logit_bias={0: math.log(2), (5, 3): math.log(3)}), [24, 30, 5, 60, 8, 15, 10]),
    "no repeated token": (Sampling(no_repeat_ngram_size=1), [12, 0, 5, 20, 8, 0, 10]),
    "bad words": (Sampling(bad_words=((5, 1), (0,), (1, 3))), [0, 0, 5, 20, 8, 15, 10]),
    "no stop yet": (Sampling(min_new_tokens=2), [12, 30, 0, 20, 8, 0, 10]),
}


def chance(statistic, df):
    """The probability that a chi-square variable of df degrees of freedom, an even number, is larger."""
    half = statistic / 2
    return math.exp(-half) * math.fsum(half**i / math.factorial(i) for i in range(df // 2))


def test_chance_has_the_values_of_the_table():
    # Any table of the upper critical values of chi-square.
    for df, value, expected in (2, 5.991, 0.05), (4, 9.488, 0.05), (6, 12.592, 0.05), (6, 16.812, 0.01):
        assert chance(value, df) == pytest.approx(expected, rel=1e-3)


def assert_frequencies_fit(ids, weights):
    counts = np.bincount(ids, minlength=len(weights))
    total = math.fsum(weights)
    assert all(count == 0 for count, w in zip(counts, weights, strict=True) if not w)
    expected = [(count, len(ids) * w / total) for count, w in zip(counts, weights, strict=True) if w]
    statistic = math.fsum((count - mean) ** 2 / mean for count, mean in expected)
    assert len(ids) >= 4_000
    assert len(expected) % 2 == 1  # so that the degrees of freedom are even
    # Too good a fit is as suspicious as a bad one: numbers that are spread evenly are not random.
    assert 1e-6 < chance(statistic, len(expected) - 1) < 1 - 1e-6


@pytest.mark.thorough
@pytest.mark.parametrize(
    "axis", ["positions", *(pytest.param(axis, marks=pytest.mark.thorough) for axis in ("seeds", "streams"))]
)
def test_tokens_come_as_often_as_their_probability_says_over(axis):
    logits = logits_of(WEIGHTS)
    ids = []
    for i in range(4_000):
        at = {"positions": (range(i), 1, 2), "seeds": (range(3), i, 2), "streams": (range(3), 1, i)}[axis]
        ids.append(sample(logits, at[0], Sampling(), *at[1:]))
    assert_frequencies_fit(ids, WEIGHTS)


@pytest.mark.parametrize("name", list(CASES)[1:])
@pytest.mark.thorough
def test_tokens_come_as_often_as_the_controls_say_over_positions_seeds_and_streams(name):
    options, weights = CASES[name]
    logits = logits_of(WEIGHTS)
    texts = [([1, 5] * 15)[:position] for position in range(2, 30)]
    ids = [sample(logits, text, options, seed, stream) for text in texts for seed in range(12) for stream in range(12)]
    assert_frequencies_fit(ids, weights)


@pytest.mark.parametrize("name", CASES | TEXT_CASES)
def test_a_hundred_thousand_draws_from_what_is_left_come_as_often_as_they_should(name):
    options, weights = (CASES | TEXT_CASES)[name]
    p = softmax(process(logits_of(WEIGHTS), [1, 5], options, prompt_length=1, stop_ids=[2, 5]))
    e = exponentials(11, 12, 13, 700_000).reshape(-1, 7)
    with np.errstate(divide="ignore"):
        ids = (e / p).argmin(axis=1)
    assert len(ids) == 100_000
    assert_frequencies_fit(ids, weights)


# --- greedy


def test_temperature_0_takes_the_likeliest_and_the_lowest_id_where_several_tie():
    greedy = Sampling(temperature=0)
    assert sample(np.array([0.0, 2.0, 1.0]), [7], greedy) == 1
    assert sample(np.array([0.0, 2.0, 1.0, 2.0]), [7], greedy) == 1
    assert sample(np.array([LOW, -5.0, LOW]), [7], greedy) == 1
    assert type(sample(np.zeros(3), [7], greedy)) is int


def test_temperature_0_heeds_the_penalty():
    logits = np.array([2.0, 3.0, -1.0])
    assert sample(logits, [0, 1], Sampling(temperature=0, repetition_penalty=2)) == 1
    assert sample(logits, [1], Sampling(temperature=0, repetition_penalty=2)) == 0


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("T", [1e-6, 1e-300, 5e-324])
def test_a_temperature_near_0_is_as_good_as_0(T, dtype):
    rng = np.random.default_rng(0)
    for seed in range(20):
        logits = rng.normal(0, 5, 50).astype(dtype)
        assert sample(logits, [1, 2], Sampling(temperature=T), seed) == logits.argmax()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_one_candidate_left_is_certain(dtype):
    logits = np.array([1.0, 5.0, 2.0], dtype)
    for seed in range(50):
        assert sample(logits, [0], Sampling(top_k=1), seed) == 1
        assert sample(logits, [0], Sampling(top_p=1e-9), seed) == 1
        assert sample(logits, [0], Sampling(min_p=1), seed) == 1


def test_sample_writes_to_no_argument():
    logits = np.array([0.5, -1, 2, 0.25])
    logits.flags.writeable = False
    sample(logits, (1, 2), Sampling(0.7, 3, 0.9, 0.01, 1.2), 1)
    sample(logits, (1, 2), Sampling(temperature=0, repetition_penalty=1.2), 1)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_logits_far_apart_neither_overflow_nor_warn(dtype):
    huge = float(np.finfo(dtype).max) / 4
    for logits in [0, -1e4, -100], [huge, -huge, 0], [-huge, -huge / 2, -huge]:
        for seed in range(5):
            assert sample(np.array(logits, dtype), [1], Sampling(), seed) == np.argmax(logits)


@pytest.mark.parametrize(("far", "T"), [(-730, 1.0), (-14.6, 0.02), (-74, 0.1)])
def test_logits_so_far_apart_that_a_probability_is_subnormal_do_not_warn(far, T):
    assert sample(np.array([0.0, far]), [1], Sampling(temperature=T), seed=1) == 0


@pytest.mark.parametrize(
    ("logits", "largest"),
    [([0.0, math.nan], "nan"), ([math.nan, 1e9], "nan"), ([0.0, math.inf], "inf"), ([LOW, LOW], "-inf")],
)
@pytest.mark.parametrize("T", [0, 1.0])
def test_logits_that_are_not_finite_are_refused_with_the_cause_and_the_remedy(logits, largest, T):
    message = (
        rf"^the logits of position 3 are not finite \(largest: {largest}\): the weights are damaged or overflow "
        r"float32; `numgpt inspect` tells which tensor; against overflow, run in float64$"
    )
    with pytest.raises(CheckpointError, match=message):
        sample(np.array(logits), [1, 2, 3], Sampling(temperature=T))


# --- options

NOT_NUMBERS = [True, False, np.True_, "1", [1], 1j, math.nan, math.inf, -math.inf, np.float32("nan"), -1, -0.001]
BIAS = "a mapping from an id or a tuple of ids to a number, or None for off"
RANGES = {
    "temperature": ([*NOT_NUMBERS, None], "a finite number, 0 (greedy) or more"),
    "top_k": ([*NOT_NUMBERS, 1.0, 2.5, np.float64(3), np.int64(-1)], "an integer of 1 or more, or None or 0 for off"),
    "top_p": ([*NOT_NUMBERS, 0, 0.0, np.float64(0), 1.0001, 2], "a number above 0 and up to 1, or None for off"),
    "min_p": ([*NOT_NUMBERS, 1.0001, 2], "a number from 0 to 1, or None for off"),
    "repetition_penalty": ([*NOT_NUMBERS, None, 0, 0.0], "a number from 0.001 to 1000; 1 for off"),
    "presence_penalty": ([*NOT_NUMBERS[:-2], None, -2.1, 3], "a number from -2 to 2; 0 for off"),
    "frequency_penalty": ([*NOT_NUMBERS[:-2], None, -2.1, 3], "a number from -2 to 2; 0 for off"),
    "no_repeat_ngram_size": ([*NOT_NUMBERS, 1.0, np.int64(-1)], "an integer of 1 or more, or None or 0 for off"),
    "min_new_tokens": ([*NOT_NUMBERS, None, 1.0, np.int64(-1)], "an integer of 0 or more; 0 for off"),
    "logit_bias": ([5, "ab", [1, 2], [()], {None: 1.0}], BIAS),
    "bad_words": ([5, "ab", {1: 2}, {(1, 2)}, True], "a list of lists of ids, or None for off"),
    "ban": ([5, "ab", [""], [5], {"a"}, True], "a list of texts, none of them empty, or None for off"),
    "regex": ([5, "", b"a", ["a"], True], "a pattern, or None for off"),
}
BAD = [(name, value, expected) for name, (values, expected) in RANGES.items() for value in values]
GOOD = {
    "temperature": [0, 0.0, 1, 0.7, 1e-300, 1e300, np.float32(0.5), np.float64(0.5), np.int64(2), np.float16(0.5)],
    "top_k": [None, 0, 1, 40, 10**9, np.int64(40), np.int32(1)],
    "top_p": [None, 1, 1.0, 0.9, 1e-300, np.float32(0.5), np.float64(1), np.int64(1)],
    "min_p": [None, 0, 1, 0.0, 1.0, 0.05, np.float32(0.5), np.int64(0)],
    "repetition_penalty": [1, 1.0, 0.5, 1.2, 1e-3, 1e3, np.float32(1.5), np.int64(2)],
    "presence_penalty": [0, 0.0, -2, 2, 0.5, np.float32(1.5)],
    "frequency_penalty": [0, 0.0, -2, 2, 0.5, np.float32(1.5)],
    "no_repeat_ngram_size": [None, 0, 1, 2, np.int64(1), np.uint8(1)],
    "min_new_tokens": [0, 1, 10**9, np.int64(3), np.uint8(3)],
}


@pytest.mark.parametrize(("name", "value", "expected"), BAD, ids=[f"{name} {value!r}" for name, value, _ in BAD])
def test_an_option_out_of_its_range_is_refused_with_its_name_what_came_and_the_range(name, value, expected):
    with pytest.raises(OptionError) as caught:
        check_sampling(Sampling(**{name: value}))
    assert str(caught.value) == f"{name} is {value!r}, expected {expected}"


@pytest.mark.parametrize("name", GOOD)
def test_options_in_range_are_returned_and_numbers_of_numpy_count_as_those_of_python(name):
    logits = np.array([0.5, -1, 2, 0.25])
    for value in GOOD[name]:
        options = Sampling(**{name: value})
        assert check_sampling(options) is options
        plain = value.item() if isinstance(value, np.generic) else value
        for seed in range(10):
            expected = sample(logits, [0, 1], Sampling(**{name: plain}), seed)
            assert sample(logits, [0, 1], options, seed) == expected


@pytest.mark.parametrize("kind", [np.uint8, np.uint64])
def test_top_k_may_be_an_unsigned_integer_of_numpy(kind):
    options = check_sampling(Sampling(top_k=kind(2)))
    assert kept(process(np.array([1.0, 3, 2]), [], options)) == [1, 2]


@pytest.mark.parametrize(
    "word", [(), [], None, 1.0, "a", (1, -1), (1, 2.0), (True,), [[1]], np.float64(1), -1], ids=repr
)
def test_a_word_that_is_no_list_of_ids_is_refused_with_its_place(word):
    with pytest.raises(OptionError) as caught:
        check_sampling(Sampling(bad_words=[[1], word]))
    assert str(caught.value) == f"bad_words[1] is {word!r}, expected one or more ids, 0 or more"


@pytest.mark.parametrize("key", [(), "a", (1, -1), (1, 2.0), True, -1], ids=repr)
def test_a_key_of_logit_bias_that_is_no_id_and_no_tuple_of_ids_is_refused(key):
    shown = key if isinstance(key, tuple) else (key,)
    with pytest.raises(OptionError) as caught:
        check_sampling(Sampling(logit_bias={0: 1.0, key: 1.0}))
    assert str(caught.value) == f"a key of logit_bias is {shown!r}, expected one or more ids, 0 or more"


@pytest.mark.parametrize("bias", [math.inf, -math.inf, math.nan, "1", None, True, 1.1e30, -1e31], ids=repr)
def test_a_bias_that_is_not_finite_is_refused_with_the_remedy(bias):
    expected = "expected a number from -1e+30 to 1e+30; to ban tokens, use bad_words"
    for key, name in (5, "5"), ((5, 6), "5, 6"):
        with pytest.raises(OptionError) as caught:
            check_sampling(Sampling(logit_bias={key: bias}))
        assert str(caught.value) == f"logit_bias of {name} is {bias!r}, {expected}"


def test_ids_outside_the_vocabulary_are_refused_where_its_size_is_given():
    for options, message in (
        (Sampling(bad_words=[[4, 10]]), "bad_words[0] is [4, 10], expected one or more ids, 0 to 9"),
        (Sampling(logit_bias={10: 1.0}), "a key of logit_bias is (10,), expected one or more ids, 0 to 9"),
        (Sampling(logit_bias={(10, 3): 1.0}), "a key of logit_bias is (10, 3), expected one or more ids, 0 to 9"),
    ):
        check_sampling(options)
        check_sampling(options, n_vocab=11)
        with pytest.raises(OptionError) as caught:
            check_sampling(options, n_vocab=10)
        assert str(caught.value) == message


def test_checked_options_can_be_changed_by_nobody_and_checked_again():
    bias, words = {3: 1, (1, 2): -2.5}, [[1], [2, 3]]
    options = check_sampling(Sampling(logit_bias=bias, bad_words=words))
    bias.clear()
    words[1][0] = 9
    assert options.logit_bias == (((3,), 1), ((1, 2), -2.5))
    assert options.bad_words == ((1,), (2, 3))
    assert check_sampling(options) == options
    assert hash(options)


def test_numbers_of_numpy_do_for_biases_and_words():
    options = Sampling(logit_bias={np.int64(1): np.float32(2.5)}, bad_words=[[np.int64(2)]])
    assert process(np.zeros(3), [0], check_sampling(options)).tolist() == [0, 2.5, LOW]


def test_the_first_wrong_option_is_the_one_that_is_named():
    with pytest.raises(OptionError, match=r"^top_k is -1"):
        check_sampling(Sampling(1, -1, 7, 7, -1))


def test_a_long_value_is_cut_in_the_message():
    with pytest.raises(OptionError) as caught:
        check_option("seed", "x" * 1000, False, "a number")
    assert str(caught.value) == f"seed is 'xxx{'x' * 76}, expected a number"
    check_option("seed", "x" * 1000, True, "a number")


def test_option_errors_are_errors_of_numgpt_and_of_values():
    assert issubclass(OptionError, NumgptError)
    assert issubclass(OptionError, ValueError)


def test_the_defaults_are_the_model_s_own_distribution():
    assert Sampling() == (1.0, None, None, None, 1.0, None, None, None, 0, 0.0, 0.0, None, None, None, None)
    assert Sampling._fields == (
        *("temperature", "top_k", "top_p", "min_p", "repetition_penalty"),
        *("logit_bias", "no_repeat_ngram_size", "bad_words", "min_new_tokens"),
        *("presence_penalty", "frequency_penalty", "ban", "regex", "green_list", "begins_with"),
    )


def test_each_field_has_its_row_in_the_table_and_each_row_is_off_by_default():
    assert sorted(row.name for row in CONTROLS) == sorted(Sampling._fields)
    assert all(getattr(Sampling(), row.name) in row.off for row in CONTROLS)
