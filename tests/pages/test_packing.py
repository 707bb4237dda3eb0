"""Numbers that are packed for a page come out with the three digits that they had."""

from math import floor, log10

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from support.pages import decimal, integers, numbers, scaled, steps

from numgpt.pages.packing import (
    NUMBER,
    WEIGHT,
    decimal_codes,
    pack_integers,
    pack_numbers,
    pack_scaled,
    pack_steps,
)


@given(st.lists(st.integers(0, 64**3 - 1)))
def test_integers_are_written_in_base_64(found):
    assert integers(pack_integers(np.array(found, dtype=int), 3), 3) == found


@given(st.floats(-1e40, 1e40))
def test_a_number_keeps_three_digits(x):
    [found] = numbers(pack_numbers(np.array([x])))
    last_digit = 10.0 ** max(NUMBER[1], floor(log10(abs(x) or 1)) - 2) if x else 0
    assert abs(found - x) <= 0.5 * last_digit * (1 + 1e-9)


def test_a_weight_keeps_three_digits_or_six_places():
    for w in np.random.default_rng(0).uniform(0, 1, 1000) ** 8:
        found = decimal(int(decimal_codes(np.array([w]), WEIGHT[1])[0]), WEIGHT[1])
        assert found == (float(f"{w:.2e}") if w >= 1e-4 else round(w, 6))


EDGES = st.sampled_from([0, 47, 48, 111, 112, 1007, 1008, 4095, 4096, 2**18 - 1])


@given(st.lists(EDGES | st.integers(0, 60) | st.integers(0, 1200) | st.integers(0, 2**18 - 1)))
def test_steps_are_as_long_as_they_need_and_come_out_again(found):
    text = pack_steps(np.array(found, dtype=int))
    assert steps(text) == found
    assert len(text) == sum(1 if x < 48 else 2 if x < 1008 else 4 for x in found)


SIX_PLACES = st.floats(-1e6, 1e6).map(lambda x: round(x, 6))


@given(st.lists(SIX_PLACES, min_size=1, max_size=20), st.integers(1, 6))
def test_numbers_of_one_range_are_off_by_at_most_half_a_step(x, width):
    packed = pack_scaled(np.array(x), width)
    found = scaled(packed, width)
    assert np.abs(found - x).max() <= packed["step"] / 2 + 1e-15 * np.abs(x).max()
    assert packed["low"] == min(x)
    assert packed["step"] * (64**width - 1) <= (max(x) - min(x)) * (1 + 1e-9) or len(set(x)) == 1


def test_one_number_many_times_is_exact():
    assert scaled(pack_scaled(np.full(5, 0.1), 5), 5).tolist() == [0.1] * 5
    assert pack_scaled(np.zeros((0, 4)), 5)["text"] == ""
