"""Endings: each as likely as a pass over its whole text says, and what several share is read once."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from numgpt import fast, model
from numgpt.config import Config
from numgpt.errors import CheckpointError, ContextError, OptionError, TokenError
from numgpt.measure import endings
from numgpt.measure.endings import score_endings
from numgpt.model import Model
from numgpt.params import map_leaves, random_params

CONFIG = Config(n_vocab=7, n_ctx=9, n_embd=8, n_head=2, n_layer=2, eos_token_id=6)
MODEL = Model(CONFIG, map_leaves(lambda path, x: x * 30, random_params(CONFIG, seed=1, dtype=np.float64)), None)


def expected(before, ending):
    """What one pass of the readable model over the whole text says."""
    ids = [*before, *ending][-CONFIG.n_ctx - 1 :]
    logits = model.forward(ids[:-1], MODEL.params, CONFIG)[-len(ending) :]
    log_probs = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    greedy = logits.argmax(axis=1).tolist() == list(ending)
    return log_probs[range(len(ending)), ending].sum(), greedy


def found(pairs, batch_size=8):
    """The endings in the order of their texts; each must come once."""
    by_number = list(score_endings(MODEL, pairs, batch_size))
    assert sorted(number for number, _ in by_number) == list(range(len(pairs)))
    return [ending for _, ending in sorted(by_number)]


def assert_as_expected(pairs, batch_size):
    for pair, ending in zip(pairs, found(pairs, batch_size), strict=True):
        log_prob, greedy = expected(*pair)
        assert ending.log_prob == pytest.approx(log_prob, abs=1e-9)
        assert ending.greedy == greedy


# Few ids, so that texts often begin alike, are the same, or one the beginning of another.
IDS = st.integers(0, 2)
PAIRS = st.tuples(st.lists(IDS, min_size=1, max_size=14), st.lists(IDS, min_size=1, max_size=CONFIG.n_ctx))


@given(pairs=st.lists(PAIRS, max_size=12), batch_size=st.integers(1, 5), rows=st.integers(1, 4))
@settings(deadline=None)
def test_each_is_as_likely_as_its_text_alone_says(pairs, batch_size, rows):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(endings, "ROWS", rows)
        assert_as_expected(pairs, batch_size)


def test_the_greedy_ending_is_told_and_no_other():
    ids = [3, 1]
    for _ in range(4):
        ids.append(int(model.forward(ids, MODEL.params, CONFIG)[-1].argmax()))
    almost = [*ids[2:-1], (ids[-1] + 1) % CONFIG.n_vocab]
    assert [ending.greedy for ending in found([(ids[:2], ids[2:]), (ids[:2], almost)])] == [True, False]


def test_where_all_tokens_are_alike_each_takes_the_logarithm_of_their_number():
    params = map_leaves(lambda path, x: x * 0, MODEL.params)
    [(_, ending)] = score_endings(Model(CONFIG, params, None), [([1], [2, 3, 4])])
    assert ending.log_prob == pytest.approx(-3 * math.log(7))


def test_one_text_cut_at_several_places_is_read_once(monkeypatch):
    read = count_reads(monkeypatch)
    text = [1, 2, 3, 4, 5]
    pairs = [(text[:n], text[n:]) for n in (1, 2, 4)]
    assert_as_expected(pairs, batch_size=1)
    assert read == [[1, 2, 3, 4]]


def test_what_stands_before_several_endings_is_read_once(monkeypatch):
    read = count_reads(monkeypatch)
    before = [1, 2, 3, 4, 5]
    assert_as_expected([(before, [0, 1]), (before, [1, 0]), (before, [2]), (before, [3])], batch_size=1)
    assert read == [[1, 2, 3, 4, 5], [5, 0], [5, 1]]  # in the order of their ids


def test_questions_behind_the_same_examples_read_these_once_a_lane(monkeypatch):
    read = count_reads(monkeypatch)
    examples = [1, 2, 3, 4, 5]
    pairs = [([*examples, q], [a]) for q in (0, 1, 2, 3) for a in (4, 5)]
    assert_as_expected(pairs, batch_size=2)
    assert read == [[1, 2, 3, 4, 5, 0], [1, 2, 3, 4, 5, 2], [1], [3]]


def count_reads(monkeypatch):
    """Return a list to which the ids of all passes come."""
    read, forward_batch = [], fast.forward_batch

    def counting(texts, *args, **options):
        read.extend(list(ids) for ids in texts)
        return forward_batch(texts, *args, **options)

    monkeypatch.setattr(fast, "forward_batch", counting)
    return read


@pytest.mark.parametrize(
    ("pairs", "batch_size", "error", "message"),
    [
        (
            [([1], [2]), ([], [2])],
            8,
            TokenError,
            "text 1: 0 ids before the ending and 1 in it, expected 1 or more",
        ),
        ([([1], [])], 8, TokenError, "text 0: 1 ids before the ending and 0 in it"),
        ([([1], [2] * 10)], 8, ContextError, "text 0: an ending of 10 ids, but the context of this model is 9"),
        ([([1], [2, 7, 1])], 8, TokenError, "is 7, expected 0 to 6"),
        ([([1], [7])], 8, TokenError, "is 7, expected 0 to 6"),
        ([([1], [-1])], 8, TokenError, "is -1, expected 0 to 6"),
        ([([1], [2])], 0, OptionError, "batch_size is 0, expected an integer of 1 or more"),
    ],
)
def test_what_can_t_be_scored_is_an_error(pairs, batch_size, error, message):
    with pytest.raises(error, match=message):
        found(pairs, batch_size)


def test_logits_that_are_not_finite_are_an_error():
    params = map_leaves(lambda path, x: x * math.nan, MODEL.params)
    with pytest.raises(CheckpointError, match="the logits are not finite"):
        list(score_endings(Model(CONFIG, params, None), [([1], [2])]))
