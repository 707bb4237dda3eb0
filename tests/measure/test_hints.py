"""Hints: the shares by rank, and how far sentences differ."""

import math

import numpy as np
import pytest
from support.babblers import babbler

import numgpt
from numgpt.errors import TokenError
from numgpt.measure.hints import burstiness, look
from numgpt.measure.scoring import score

TEXT = "Once there was a king. He said: was it 東京? The end"


def test_shares_are_those_of_the_ranks_of_all_tokens_but_the_first():
    model = babbler()
    ids = model.tokenizer.encode(TEXT)
    logits = numgpt.forward(ids, model.params, model.config)
    ranks = [np.argsort(-row).tolist().index(i) + 1 for row, i in zip(logits, ids[1:], strict=False)]
    found = look(model, ids)
    assert found.tokens == len(ranks)
    bins = [(0, 10), (10, 100), (100, 1000), (1000, 4096)]
    expected = [sum(low < rank <= high for rank in ranks) / len(ranks) for low, high in bins]
    assert [found.top_10, found.top_100, found.top_1000, found.rest] == pytest.approx(expected)
    assert found.perplexity == score(model, ids).perplexity


@pytest.mark.parametrize(("rank", "name"), [(10, "top_10"), (11, "top_100"), (100, "top_100"), (101, "top_1000")])
def test_a_bin_holds_its_last_rank(rank, name):
    model = babbler()
    row = numgpt.forward([7], model.params, model.config)[0]
    found = look(model, [7, int(np.argsort(-row)[rank - 1])])
    assert getattr(found, name) == 1
    assert found.burstiness is None


def test_sentences_that_surprise_alike_have_no_burstiness():
    pieces = [b"A", b" b", b".", b" C", b"?!", b" D"]
    bits = np.array([math.nan, 2, 4, 1, 5, 3]) * -math.log(2)
    assert burstiness(bits, pieces) == 0
    bits[-1] *= 3  # means of 3, 3 and 9
    assert burstiness(bits, pieces) == pytest.approx(math.sqrt(8))


def test_a_sentence_of_which_no_token_is_scored_does_not_count():
    assert burstiness(np.array([math.nan, -1.0]), [b".", b" no"]) is None


def test_one_token_is_too_short():
    with pytest.raises(TokenError, match="too short to score"):
        look(babbler(), [7])
