"""Where a head looks, on weights made by hand, and against what each kind of place is by its definition."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from numgpt.pages.heads import NAMED, cells, kind_of, length_of_first_value, places, shares

TWICE = np.array([7, 8, 9, 7, 8, 9])  # a text that repeats itself: from token 3 on each has a copy, 3 before it
NONE = {"previous": 0, "first": 0, "self": 0, "copy": 0, "induction": 0}


def looking_at(place):
    """Return the weights [1, 6, 6] of a head all of whose attention goes from each t to place(t)."""
    weights = np.zeros((1, 6, 6))
    for t in range(6):
        weights[0, t, place(t)] = 1
    return weights


@pytest.mark.parametrize(
    ("kind", "place", "others"),
    [
        ("previous", lambda t: max(t - 1, 0), {}),
        ("first", lambda t: 0, {"copy": 1 / 3}),  # the copy of token 3, of the three that have one, is the first
        ("self", lambda t: t, {}),
        ("copy", lambda t: t - 3 if t > 2 else t, {"self": 1 / 4, "first": 1 / 4}),  # of the tokens 2 to 5
        ("induction", lambda t: t - 2 if t > 2 else t, {"self": 1 / 4}),
    ],
)
def test_a_head_that_looks_at_one_kind_of_place_alone_has_a_share_of_1_and_its_name(kind, place, others):
    [share] = shares(looking_at(place), places(TWICE))
    assert share == pytest.approx({**NONE, **others, kind: 1, "even": (1 / 3 + 1 / 4 + 1 / 5 + 1 / 6) / 4})
    assert kind_of(share) == kind


def test_attention_that_is_shared_out_is_shared_between_the_kinds():
    weights = 0.7 * looking_at(lambda t: t - 2 if t > 2 else 0) + 0.3 * looking_at(lambda t: t)
    [share] = shares(weights, places(TWICE))
    assert share["induction"] == pytest.approx(0.7)
    assert share["self"] == pytest.approx(0.3)
    assert share["first"] == pytest.approx(0.7 / 4)  # from token 2 alone
    assert kind_of(share) == "induction"


def test_the_token_itself_is_no_place_of_induction():
    seen = places(np.array([5, 5, 5]))["induction"]
    assert [np.flatnonzero(row).tolist() for row in seen] == [[], [], [1]]  # after the copy at 1 comes token 2 itself


@given(st.lists(st.integers(0, 3), min_size=1, max_size=12))
def test_each_kind_of_place_is_what_it_is_called(ids):
    found = places(np.array(ids))
    for t in range(len(ids)):
        copies = {s for s in range(t) if ids[s] == ids[t]}
        expected = {
            "previous": {t - 1} - {-1},
            "first": {0} - {t},
            "self": {t},
            "copy": copies,
            "induction": {s + 1 for s in copies} - {t},
        }
        assert {kind: set(np.flatnonzero(mask[t])) for kind, mask in found.items()} == expected


@given(st.integers(3, 10), st.integers(1, 3), st.integers(0, 99))
def test_shares_of_places_on_a_diagonal_or_a_column_are_their_means(T, H, seed):
    weights = np.tril(np.random.default_rng(seed).uniform(size=(H, T, T)))
    weights /= weights.sum(axis=2, keepdims=True)
    for w, share in zip(weights, shares(weights, places(np.arange(T))), strict=True):
        assert share["previous"] == pytest.approx(np.diagonal(w, -1)[1:].mean())
        assert share["self"] == pytest.approx(np.diagonal(w)[2:].mean())
        assert share["first"] == pytest.approx(w[2:, 0].mean())
        assert (share["copy"], share["induction"]) == (None, None)  # no token comes twice


@pytest.mark.parametrize("T", [1, 2])
def test_a_text_too_short_to_tell_has_no_shares_and_no_name(T):
    [share] = shares(np.tri(T)[None], places(np.zeros(T, dtype=int)))
    assert set(share.values()) == {None}
    assert kind_of(share) == ""


@pytest.mark.parametrize(
    ("share", "kind"),
    [
        ({"self": NAMED, "first": NAMED / 2}, "self"),
        ({"self": NAMED - 1e-9}, ""),
        ({"copy": None, "first": NAMED + 0.1, "previous": NAMED}, "first"),
        ({"self": 0.1, "even": 1.0}, ""),
        ({}, ""),
    ],
)
def test_a_head_has_a_name_from_a_share_on(share, kind):
    assert kind_of(share) == kind


def test_the_value_of_the_first_token_is_measured_by_the_mean_length_of_the_others():
    v = np.array([[[3.0, 4.0], [0.0, 2.0], [8.0, 0.0]], [[0.0, 0.0], [1.0, 1.0], [1.0, 1.0]]])
    assert length_of_first_value(v) == [1.0, 0.0]  # 5 beside the mean of 2 and 8
    assert length_of_first_value(7 * v) == pytest.approx([1.0, 0.0])


def test_without_others_to_compare_with_the_first_value_has_no_length():
    assert length_of_first_value(np.ones((2, 1, 3))) == [None, None]
    assert length_of_first_value(np.array([[[1.0], [0.0]]])) == [None]


def test_a_text_that_fits_has_a_cell_for_each_weight():
    weights = np.random.default_rng(0).uniform(size=(2, 5, 5))
    assert np.array_equal(cells(weights, side=5), weights)
    assert np.array_equal(cells(weights, side=8), weights)


@given(st.integers(1, 20), st.integers(1, 8), st.integers(0, 99))
def test_a_cell_holds_the_largest_weight_of_its_tokens(T, side, seed):
    weights = np.random.default_rng(seed).uniform(size=(2, T, T))
    found = cells(weights, side)
    n = min(T, side)
    assert found.shape == (2, n, n)
    expected = np.zeros_like(found)
    cell_of = [max(i for i in range(n) if i * T // n <= t) for t in range(T)]
    for t in range(T):
        for s in range(T):
            at = (slice(None), cell_of[t], cell_of[s])
            expected[at] = np.maximum(expected[at], weights[:, t, s])
    assert np.array_equal(found, expected)
