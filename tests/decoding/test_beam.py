"""Beam search: by hand on a table of probabilities, against all texts there are, and through `generate` and batches."""

import itertools
import math
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import numgpt
from numgpt import fast, model
from numgpt.cache import KVCache
from numgpt.config import Config
from numgpt.decoding import beam
from numgpt.decoding.batch import complete_batch, generate_batch
from numgpt.decoding.beam import Beam, Hypothesis, beam_search, hand_on
from numgpt.decoding.loop import generate
from numgpt.errors import CheckpointError, ContextError, OptionError, TokenError
from numgpt.params import map_leaves, random_params

CONFIG = Config(n_vocab=6, n_ctx=9, n_embd=8, n_head=2, n_layer=2, eos_token_id=0)


def wide(seed):
    draw = np.random.default_rng(seed)
    return map_leaves(lambda _, x: x + draw.normal(scale=0.5, size=x.shape), random_params(CONFIG, dtype="float64"))


PARAMS = wide(0)

# The probability of each token after each. 0 ends a text. After 1 the likeliest is 2, which leads nowhere.
AFTER = {
    1: [0.0, 0.0, 0.6, 0.4],
    2: [0.3, 0.25, 0.25, 0.2],
    3: [0.9, 0.1, 0.0, 0.0],
}
TABLE = Config(n_vocab=4, n_ctx=9, n_embd=2, n_head=1, n_layer=1, eos_token_id=0)


def look_up(new, params, config, caches, logits_to_keep):
    """Stands for a model: the logits of what follows the last id, by the table."""
    for ids, cache in zip(new, caches, strict=True):
        cache.advance(len(ids))
    with np.errstate(divide="ignore"):
        return [np.log([AFTER[ids[-1]]]) for ids in new]


def search_table(**options):
    return beam_search([1], random_params(TABLE), TABLE, forward_batch=look_up, **options)


def test_two_beams_see_past_the_likeliest_token():
    greedy = search_table(num_beams=1, max_new_tokens=2)
    assert greedy == [Hypothesis([2], pytest.approx(math.log(0.6 * 0.3) / 2), "stop")]
    best = search_table(num_beams=2, max_new_tokens=2)
    assert best == [Hypothesis([3], pytest.approx(math.log(0.4 * 0.9) / 2), "stop")]


def test_the_score_is_divided_by_a_power_of_the_number_of_new_tokens_and_the_last_one_counts():
    for penalty in (0.0, 1.0, 2.0, -1.0):
        (best,) = search_table(num_beams=2, max_new_tokens=2, length_penalty=penalty)
        assert best.score == pytest.approx(math.log(0.36) / 2**penalty)


def test_length_penalty_decides_between_a_short_text_and_a_long_one():
    # 1 2 1 ... has 0.6 * 0.25 * ..., which only an average over many tokens prefers to 0.36.
    short = search_table(num_beams=2, max_new_tokens=6, length_penalty=-1.0)
    long = search_table(num_beams=2, max_new_tokens=6, length_penalty=3.0, early_stopping="never")
    assert short[0].ids == [3]
    assert len(long[0].ids) > len(short[0].ids)


def test_early_stopping_ends_as_soon_as_there_are_enough_texts():
    found = search_table(num_beams=2, num_return_sequences=2, max_new_tokens=6, early_stopping=True)
    assert [h.ids for h in found] == [[3], [2]]


def test_the_best_are_returned_best_first():
    found = search_table(num_beams=3, num_return_sequences=3, max_new_tokens=3)
    scores = [h.score for h in found]
    assert len(found) == 3
    assert scores == sorted(scores, reverse=True)
    assert len({tuple(h.ids) for h in found}) == 3


def test_fewer_texts_than_asked_for_where_there_are_not_more():
    found = search_table(num_beams=4, num_return_sequences=4, max_new_tokens=1)
    assert [h.ids for h in found] == [[2], [3]]


@pytest.mark.parametrize("penalty", [0.0, 1.0])
@pytest.mark.parametrize("seed", range(5))
def test_enough_beams_find_the_best_of_all_texts(seed, penalty):
    params, n = wide(seed), 3

    def log_probs(text):
        logits = model.forward(text, params, CONFIG)
        return logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))

    scores = {}
    for new in itertools.product(range(1, 6), repeat=n):
        rows = log_probs([1, 2, *new])[1:]
        for length in range(n):  # it ends by the end-of-text id
            total = sum(rows[t][i] for t, i in enumerate((*new[:length], 0)))
            scores[new[:length]] = total / (length + 1) ** penalty
        scores[new] = sum(rows[t][i] for t, i in enumerate(new)) / n**penalty
    best = sorted(scores, key=lambda ids: -scores[ids])[:4]
    found = beam_search(
        [1, 2], params, CONFIG, max_new_tokens=n, num_beams=200, num_return_sequences=4, length_penalty=penalty
    )
    assert [tuple(h.ids) for h in found] == best
    assert [h.score for h in found] == pytest.approx([scores[ids] for ids in best])


@given(st.lists(st.integers(0, 5), min_size=1, max_size=9), st.integers(0, 10), st.booleans())
def test_one_beam_is_the_greedy_loop(prompt, n, ngram):
    controls = {"no_repeat_ngram_size": 2} if ngram else {}
    options = {"max_new_tokens": n, "temperature": 0, **controls}
    done = next(complete_batch([prompt], PARAMS, CONFIG, **options))
    (found,) = beam_search(prompt, PARAMS, CONFIG, num_beams=1, **options)
    assert (found.ids, found.finish_reason) == (done.ids, done.finish_reason)


@pytest.mark.filterwarnings("ignore:stopped at the context limit")
@given(st.lists(st.integers(0, 5), min_size=1, max_size=9), st.integers(0, 10), st.integers(2, 6))
def test_generate_batches_and_the_readable_forward_find_the_same(prompt, n, num_beams):
    options = {"max_new_tokens": n, "num_beams": num_beams, "no_repeat_ngram_size": 3, "length_penalty": 0.5}
    found = beam_search(prompt, PARAMS, CONFIG, num_return_sequences=num_beams, **options)
    assert list(generate(prompt, PARAMS, CONFIG, **options)) == found[0].ids  # model.forward, text by text
    assert list(generate(prompt, PARAMS, CONFIG, forward=fast.forward, **options)) == found[0].ids
    done = list(complete_batch([[1], prompt], PARAMS, CONFIG, num_return_sequences=2, **options))
    of_prompt = [(c.ids, c.finish_reason) for c in done if c.number >= 2]
    assert of_prompt == [(h.ids, h.finish_reason) for h in found[:2]]


@given(st.data())
def test_a_cache_handed_on_holds_what_a_fork_would(data):
    texts = data.draw(st.lists(st.lists(st.integers(0, 5), min_size=6, max_size=6), min_size=1, max_size=5))
    texts = [[1, *text] for text in {tuple(text): text for text in texts}.values()]
    beams = []
    for text in texts:
        cache = KVCache(CONFIG, dtype="float64")
        model.forward(text, PARAMS, CONFIG, cache=cache)
        beams.append(Beam(text, 0.0, cache))
    parents = data.draw(st.lists(st.integers(0, len(beams) - 1), min_size=1, max_size=len(beams)))
    before = {parent: beams[parent].cache.fork() for parent in parents}
    caches = hand_on(beams, parents)
    assert len({id(cache) for cache in caches}) == len(caches)
    for parent, cache in zip(parents, caches, strict=True):
        np.testing.assert_array_equal(cache.k[:, :, : len(cache)], before[parent].k[:, :, : len(cache)])
        np.testing.assert_array_equal(cache.v[:, :, : len(cache)], before[parent].v[:, :, : len(cache)])


def test_a_full_set_of_beams_needs_no_more_caches_than_beams(monkeypatch):
    made = []
    fork = KVCache.fork
    monkeypatch.setattr(KVCache, "fork", lambda cache: made.append(1) or fork(cache))
    beam_search([1], PARAMS, CONFIG._replace(eos_token_id=None), max_new_tokens=8, num_beams=4)
    assert len(made) == 3  # beside the first


def test_it_stops_at_the_context_limit_and_says_so():
    config = CONFIG._replace(eos_token_id=None)
    prompt = [1] * 7
    (found,) = beam_search(prompt, PARAMS, config, max_new_tokens=50, num_beams=3)
    assert len(found.ids) == 3
    assert found.finish_reason == "context"
    with pytest.warns(UserWarning, match="context limit of 9 tokens: 3 of 50 new tokens") as warned:
        assert list(generate(prompt, PARAMS, config, max_new_tokens=50, num_beams=3)) == found.ids
    assert warned[0].filename == __file__


def test_a_stop_string_ends_a_beam():
    m = numgpt.load("storyteller")
    ids = m.tokenizer.encode("Once upon a time there")
    options = {"max_new_tokens": 20, "num_beams": 4, "stop_strings": ["le old w"], "length_penalty": -1.0}
    (found,) = beam_search(ids, m.params, m.config, tokenizer=m.tokenizer, **options)
    assert found.finish_reason == "stop"
    assert m.tokenizer.decode(found.ids) == " was a little old woman"
    assert numgpt.complete(m, "Once upon a time there", **options) == " was a litt"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temperature": 0.7}, "temperature is 0.7, but beam search draws no token, it looks for the likeliest text"),
        ({"top_k": 40}, "top_k is 40, but beam search draws no token"),
        ({"top_p": 0.9}, "top_p is 0.9, but beam search"),
        ({"min_p": 0.1}, "min_p is 0.1, but beam search"),
        ({"overflow": "slide"}, "overflow is 'slide', but beam search compares whole texts"),
        ({"length_penalty": "long"}, "length_penalty is 'long', expected a number from -50 to 50"),
        ({"length_penalty": math.nan}, "length_penalty is nan, expected a number"),
        ({"early_stopping": "always"}, "early_stopping is 'always', expected False, True or 'never'"),
        ({"num_beams": 0}, "num_beams is 0, expected an integer of 1 or more"),
        ({"num_beams": 2.5}, "num_beams is 2.5, expected an integer"),
        ({"num_beams": 1, "length_penalty": 2.0}, "length_penalty is for beam search: give num_beams, 2 or more"),
        ({"num_beams": 1, "early_stopping": True}, "early_stopping is for beam search: give num_beams, 2 or more"),
    ],
)
def test_options_that_contradict_each_other_or_are_out_of_range(options, message):
    options = {"max_new_tokens": 3, "num_beams": 2, **options}
    with pytest.raises(OptionError, match=re.escape(message)):
        generate([1], PARAMS, CONFIG, **options)
    with pytest.raises(OptionError, match=re.escape(message)):
        complete_batch([[1]], PARAMS, CONFIG, **options)


def test_no_more_texts_than_beams():
    with pytest.raises(OptionError, match="num_return_sequences is 4, expected at most num_beams, which is 3"):
        beam_search([1], PARAMS, CONFIG, max_new_tokens=3, num_beams=3, num_return_sequences=4)
    with pytest.raises(OptionError, match="num_return_sequences is 4, expected at most num_beams, which is 3"):
        generate_batch([[1]], PARAMS, CONFIG, max_new_tokens=3, num_beams=3, num_return_sequences=4)


def test_a_bad_prompt_is_refused_at_the_call():
    with pytest.raises(TokenError, match=re.escape("ids[0] is 6, expected 0 to 5")):
        generate([6], PARAMS, CONFIG, max_new_tokens=3, num_beams=2)
    with pytest.raises(ContextError, match="prompt 1 has 10 tokens, but the context of this model is 9"):
        complete_batch([[1], [1] * 10], PARAMS, CONFIG, max_new_tokens=3, num_beams=2)


def test_a_beam_after_which_all_is_banned_ends_and_the_others_go_on():
    # 3 leads to 0 and 1 alone, which are banned here; so the text goes on by 2.
    (found,) = search_table(num_beams=2, max_new_tokens=2, bad_words=[[1]], min_new_tokens=2)
    assert found.ids in ([2, 2], [2, 3])


def test_all_tokens_banned_and_logits_that_are_not_finite():
    words = [[i] for i in range(1, 6)]
    with pytest.raises(OptionError, match="no token is left at position 1: all 6 are banned; loosen bad_words or min_"):
        list(generate([1], PARAMS, CONFIG, max_new_tokens=3, num_beams=2, bad_words=words, min_new_tokens=1))
    damaged = {**PARAMS, "wte": PARAMS["wte"] * np.nan}
    with pytest.raises(CheckpointError, match=r"^the logits of position \d+ are not finite"):
        list(generate([1], damaged, CONFIG, max_new_tokens=3, num_beams=2))


def test_padding_of_the_embedding_is_never_chosen():
    config = CONFIG._replace(n_tokens=4, eos_token_id=None)
    found = beam_search([1], PARAMS, config, max_new_tokens=5, num_beams=4, num_return_sequences=4)
    assert all(i < 4 for h in found for i in h.ids)
    # The other ids take no part of the probability either.
    logits = fast.forward([1], PARAMS, config)[-1][:4]
    (one,) = beam_search([1], PARAMS, config, max_new_tokens=1, num_beams=2)
    assert one.score == pytest.approx(beam.log_softmax(logits).max())
