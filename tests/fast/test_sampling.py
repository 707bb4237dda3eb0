"""The fast sample: it must give what the readable one gives."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.sampling import LOW, kept, narrow, process, sample

from numgpt import sampling
from numgpt.decoding.controls import Sampling, Start, controls_of
from numgpt.errors import OptionError
from numgpt.fast.sampling import contenders, random_words, sample_with_lead
from numgpt.fast.sampling import sample as fast_sample
from numgpt.ops import softmax
from numgpt.sampling import draw, exponentials

# --- sample takes short cuts: it must give what the plain definitions give


def by_the_definitions(logits, ids, options, seed, **kwargs):
    """What `sample` says that it is."""
    logits = process(logits.astype(np.float64), ids, options, **kwargs)
    return draw(softmax(logits), exponentials(seed, 0, len(ids), len(logits)))


EXTREME = [0.0, -0.0, 1e-17, 2e-17, -1e-17, 1e-300, 1.0, 1 + 2.0**-23, 1 + 2.0**-52, -1.0, 3e4, -3e4, 8e37, -8e37, LOW]
logit_lists = st.lists(
    st.sampled_from(EXTREME) | st.floats(-30, 30, width=32) | st.integers(-3, 3).map(float), min_size=1, max_size=60
).filter(lambda values: max(values) > LOW)
temperatures = st.sampled_from([1, 0.8, 1.3, 5e-324, 1e-9, 1e9, 1.7e308]) | st.floats(0.01, 100)
options_of = {
    "temperature": temperatures,
    "top_k": st.none() | st.integers(1, 70),
    "top_p": st.none() | st.floats(0.01, 1),
    "min_p": st.none() | st.floats(0, 1),
}
narrowings = st.fixed_dictionaries(options_of).map(lambda values: Sampling(**values))


@given(logit_lists, narrowings, st.sampled_from([np.float32, np.float64]))
def test_what_is_no_contender_is_banned_and_what_is_gets_the_same_bits_without_the_others(values, options, dtype):
    logits = np.array(values, dtype)
    k = min(options.top_k or len(logits), len(logits))
    ids = contenders(logits, k)
    expected = narrow(logits.astype(np.float64), options._replace(top_k=k))
    assert len(ids) >= k
    assert set(kept(expected)) <= set(ids.tolist())
    np.testing.assert_array_equal(narrow(logits[ids].astype(np.float64), options._replace(top_k=k)), expected[ids])


def test_tokens_that_only_the_rounding_of_the_temperature_makes_equal_are_contenders():
    logits = np.array([1.0, 1e-17, 2e-17])  # less 1, the last two are the same
    assert kept(narrow(logits, Sampling(temperature=0.8, top_k=2))) == contenders(logits, 2).tolist() == [0, 1, 2]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_contenders_at_the_ends_of_the_range_do_not_warn(dtype):
    largest = float(np.finfo(dtype).max)
    assert 1 in contenders(np.array([-largest, largest, -largest, LOW], dtype), 2)
    assert len(contenders(np.array([-largest, largest, -largest, LOW], dtype), 2)) >= 3


words = st.integers(0, 2**64 - 1)


@given(words, words, st.integers(0, 2**32), st.integers(0, 9))
def test_the_generator_that_is_there_gives_the_words_of_a_new_one(seed, stream, position, n):
    expected = sampling.random_words(seed, stream, position, n)
    np.testing.assert_array_equal(random_words(seed, stream, position, n), expected)
    with ThreadPoolExecutor(1) as pool:  # which has a generator of its own
        np.testing.assert_array_equal(pool.submit(random_words, seed, stream, position, n).result(), expected)


def test_contenders_are_few():
    logits = np.random.default_rng(0).normal(0, 3, 50_257).astype(np.float32)
    for k in 1, 40, 1000:
        assert k <= len(contenders(logits, k)) <= k + 2


biased = st.integers(0, 80) | st.tuples(st.just(1), st.integers(0, 80))
text_options = st.fixed_dictionaries(
    options_of
    | {
        "repetition_penalty": st.sampled_from([1, 1.3, 0.5]),
        "frequency_penalty": st.sampled_from([0, 0.4]),
        "logit_bias": st.none() | st.dictionaries(biased, st.sampled_from([2.5, -0.1])),
        "no_repeat_ngram_size": st.sampled_from([0, 0, 1, 2]),
        "bad_words": st.none() | st.lists(st.lists(st.integers(0, 5), min_size=1, max_size=2), max_size=3),
        "min_new_tokens": st.sampled_from([0, 2, 9]),
    }
).map(lambda values: Sampling(**values))


@given(logit_lists, narrowings | text_options, st.sampled_from([np.float32, np.float64]), st.integers(0, 2**64 - 1))
def test_sample_is_the_draw_from_the_softmax_of_what_process_leaves(values, options, dtype, seed):
    logits = np.array(values, dtype)
    more = {"prompt_length": 2, "stop_ids": (0, 3)}
    try:
        expected = by_the_definitions(logits, [3, 1, 4, 1], options, seed, **more)
    except OptionError:
        with pytest.raises(OptionError, match="no token is left"):
            sample(logits, [3, 1, 4, 1], options, seed, **more)
    else:
        assert sample(logits, [3, 1, 4, 1], options, seed, **more) == expected


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("spread", [0.01, 1, 4])
def test_sample_is_the_same_over_the_whole_vocabulary_of_gpt_2(spread, dtype):
    logits = np.random.default_rng(1).gumbel(-33, spread, 50_257).astype(dtype)
    logits[::7] = LOW
    for seed, options in enumerate(
        [
            Sampling(),
            Sampling(temperature=0.7),
            Sampling(top_k=1),
            Sampling(temperature=0.8, top_k=40),
            Sampling(top_k=900, top_p=0.9),
            Sampling(top_k=50_000),
            Sampling(top_p=0.95),
            Sampling(min_p=0.1),
            Sampling(1.5, 40, 0.9, 0.02, 1.2, {5: 30.0}, 2, [[7], [8]]),
        ]
    ):
        assert sample(logits, [5, 6, 5], options, seed) == by_the_definitions(logits, [5, 6, 5], options, seed)


# --- the lead tells when a second draw is needless


@given(
    st.lists(st.floats(-9, 9, width=32), min_size=1, max_size=40),
    st.fixed_dictionaries({"temperature": st.sampled_from([0, 0.5, 1, 1.7]), "top_k": st.none() | st.integers(1, 50)}),
    st.integers(0, 10**6),
    st.floats(0.001, 3),
)
def test_a_logit_that_is_lower_by_less_than_its_lead_is_chosen_still_and_by_more_not(values, options, seed, less):
    logits, controls = np.array(values), controls_of(Sampling(**options), Start())
    i, lead = sample_with_lead(logits, [1, 2], controls, seed)
    assert i == fast_sample(logits, [1, 2], controls, seed)
    lower = logits.copy()
    lower[i] -= less
    if less < lead - 1e-9:
        assert fast_sample(lower, [1, 2], controls, seed) == i
    if options["top_k"] is None and less > lead + 1e-9:  # with it, the least that is kept may be passed and stay
        assert fast_sample(lower, [1, 2], controls, seed) != i


def test_of_other_controls_no_lead_is_told():
    logits = np.array([0.0, 5.0])
    for options in (
        {"top_p": 0.9},
        {"min_p": 0.1},
        {"repetition_penalty": 1.2},
        {"temperature": 0, "logit_bias": {0: 1}},
    ):
        assert sample_with_lead(logits, [1], controls_of(Sampling(**options), Start()))[1] == 0
