"""What may follow: the likeliest tokens, and what is kept of all others."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.pages import small

from numgpt.errors import CheckpointError
from numgpt.model import Model, output_head
from numgpt.pages.candidates import SHOWN, candidates, places_below

T = 7


def stream(model, seed=0):
    """Return vectors as they come out of ln_f."""
    return np.random.default_rng(seed).normal(size=(T, model.config.n_embd))


def with_head(head, **changes):
    """Return a model with this output head."""
    model = small(head.dtype, n_vocab=len(head), n_embd=head.shape[1], n_head=1, **changes)
    return Model(model.config, {**model.params, "lm_head": head}, None)


@pytest.mark.parametrize("model", [small(n_vocab=200), small(n_vocab=200, tie_word_embeddings=False)])
def test_the_candidates_are_the_likeliest_tokens_in_order_with_their_logits(model):
    x = stream(model)
    found = candidates(x, model, n=60, fine=10)
    logits = np.einsum("tc,vc->tv", x, output_head(model.params))
    order = np.argsort(-logits, axis=1)
    assert found.ids.tolist() == order[:, :60].tolist()
    np.testing.assert_allclose(found.logits, -np.sort(-logits)[:, :60], rtol=1e-12)
    np.testing.assert_allclose(found.tails, -np.sort(-logits)[:, found.places], rtol=1e-12)


def test_in_float32_the_logits_that_are_shown_are_those_of_float64():
    model = small(np.float32, n_vocab=200)
    x = stream(model)
    found = candidates(x, model, n=60, fine=10)
    logits = x @ model.params["wte"].astype(np.float64).T
    exact = np.take_along_axis(logits, found.ids, axis=1)
    np.testing.assert_allclose(found.logits[:, :SHOWN], exact[:, :SHOWN], rtol=0, atol=1e-12)
    np.testing.assert_allclose(found.logits, exact, rtol=0, atol=1e-5)
    assert (np.diff(found.logits) <= 0).all()


def test_a_small_vocabulary_is_kept_whole():
    model = small()
    found = candidates(stream(model), model, n=100, fine=500)
    assert [sorted(row) for row in found.ids.tolist()] == [list(range(90))] * T
    assert found.places.shape == (0,)
    assert found.tails.shape == (T, 0)


def test_ids_that_pad_the_vocabulary_are_left_out_even_if_they_are_the_likeliest():
    head = np.random.default_rng(0).normal(size=(50, 4))
    x = np.abs(stream(with_head(head)))
    head[40:] = 9
    found = candidates(x, with_head(head, n_tokens=40), n=20, fine=500)
    whole = candidates(x, with_head(head[:40]), n=20, fine=500)
    assert (x @ head.T).argmax(axis=1).min() >= 40
    for padded, unpadded in zip(found, whole, strict=True):
        assert np.array_equal(padded, unpadded)
    assert found.places[-1] == 39


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("n", [1, 30, 70])
def test_of_tokens_that_tie_the_lower_id_comes_first(dtype, n):
    rng = np.random.default_rng(0)
    head = rng.integers(-2, 3, size=(150, 3)).astype(dtype)  # so whole numbers are summed, which is exact
    x = rng.integers(-2, 3, size=(T, 3)).astype(np.float64)
    x[0] = 0  # all tie
    found = candidates(x, with_head(head), n, fine=500)
    for t, row in enumerate((x @ head.T.astype(np.float64)).tolist()):
        assert found.ids[t].tolist() == sorted(range(150), key=lambda i: (-row[i], i))[:n]


def test_more_positions_than_are_in_memory_at_a_time_are_each_themselves(monkeypatch):
    model = small()
    at_once = candidates(stream(model), model, n=20, fine=30)
    monkeypatch.setattr("numgpt.pages.candidates.ROWS", 3)
    for whole, in_parts in zip(at_once, candidates(stream(model), model, n=20, fine=30), strict=True):
        np.testing.assert_allclose(whole, in_parts, rtol=1e-12)


@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf])
def test_logits_that_are_not_finite_are_refused(wrong):
    head = np.ones((50, 4))
    head[17] = wrong
    model = with_head(head)
    with pytest.raises(CheckpointError, match="the logits of position 0 are not finite"):
        candidates(np.ones((T, 4)), model, n=20, fine=500)


@given(st.integers(1, 300), st.integers(0, 60000), st.integers(1, 1000))
def test_the_places_below_rise_to_the_last_as_their_rule_says(n, below, fine):
    n_tokens = n + below
    places = [n - 1, *places_below(n, n_tokens, fine).tolist()]
    assert places[-1] == n_tokens - 1
    for place, after in pairwise(places):
        apart = after - place
        assert apart >= 1
        assert apart <= 1 or (apart <= (place / fine) ** 2 and apart <= (n_tokens - place) / 8)
        assert apart == 1 or place >= fine
        assert apart > min((place / fine) ** 2, (n_tokens - place) / 8) - 1  # and no nearer than it may be


def test_a_vocabulary_as_large_as_that_of_gpt2_is_known_by_few_of_its_logits():
    assert len(places_below(100, 50257, fine=3000)) < 10000
