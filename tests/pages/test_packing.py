"""Numbers that are packed for a page come out with the three digits that they had."""

from math import floor, log10

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from numgpt.pages.packing import DIGITS, NUMBER, WEIGHT, decimal_codes, pack_integers, pack_numbers


def integer(text):
    return int(sum(DIGITS.index(c.encode()) * 64**i for i, c in enumerate(reversed(text))))


def decimal(code, low):
    k = max(0, (code - 100) // 900)
    return float(f"{code - 900 * k}e{k + low}")


@given(st.lists(st.integers(0, 64**3 - 1)))
def test_integers_are_written_in_base_64(numbers):
    text = pack_integers(np.array(numbers, dtype=int), 3)
    assert [integer(text[i : i + 3]) for i in range(0, len(text), 3)] == numbers


@given(st.floats(-1e40, 1e40))
def test_a_number_keeps_three_digits(x):
    code = integer(pack_numbers(np.array([x])))
    sign, code = divmod(code, 2**17)
    found = (-1) ** sign * decimal(code, NUMBER[1])
    last_digit = 10.0 ** max(NUMBER[1], floor(log10(abs(x) or 1)) - 2) if x else 0
    assert abs(found - x) <= 0.5 * last_digit * (1 + 1e-9)


def test_a_weight_keeps_three_digits_or_six_places():
    for w in np.random.default_rng(0).uniform(0, 1, 1000) ** 8:
        found = decimal(int(decimal_codes(np.array([w]), WEIGHT[1])[0]), WEIGHT[1])
        assert found == (float(f"{w:.2e}") if w >= 1e-4 else round(w, 6))
