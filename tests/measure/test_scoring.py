"""score: each token once, given what its window shows of the text before it, and figures that say what they count.

Where the numbers are the point, `bigram` stands in for the model: its next token depends on the last one, by a table.
"""

import json
import math
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import numgpt
from numgpt import model
from numgpt.config import Config
from numgpt.errors import CheckpointError, OptionError, TokenError
from numgpt.fast.tokenizer import Tokenizer
from numgpt.measure import scoring
from numgpt.measure.scoring import Score, log_prob, score, score_last_words
from numgpt.model import Model
from numgpt.params import map_leaves, random_params

CONFIG = Config(n_vocab=31, n_ctx=16, n_embd=8, n_head=2, n_layer=2, eos_token_id=30)


def model_of(dtype=np.float64):
    """Return a model without tokenizer, in which the next token depends on all of the text."""
    rng = np.random.default_rng(1)

    def leaf(path, x):
        x = x + rng.normal(0, 0.3, x.shape) if path.endswith((".g", ".b")) else x * 30
        return x.astype(dtype)

    return Model(CONFIG, map_leaves(leaf, random_params(CONFIG, seed=1)), None)


MODEL = model_of()
BYTES = MODEL._replace(config=CONFIG._replace(n_vocab=256, eos_token_id=None), tokenizer=Tokenizer([]))


def bigram(probabilities):
    """Return a forward in which each token comes with the probability that the row of the one before gives it."""

    def forward(ids, params, config, cache=None, logits_to_keep=0):
        return np.log(np.asarray(probabilities))[np.asarray(ids)[-logits_to_keep:]] + 1000

    return forward


TABLE = [[1 / 2, 1 / 4, 1 / 4], [1 / 8, 5 / 8, 1 / 4], [1 / 4, 1 / 2, 1 / 4]]
UNIFORM = np.full((256, 256), 1 / 256)


def texts(least=2, most=40):
    return st.lists(st.integers(0, 30), min_size=least, max_size=most)


# --- worked by hand


def test_four_tokens_worked_by_hand():
    # 0 0 1 0: given 0, 0 has 1/2; given 0, 1 has 1/4; given 1, 0 has 1/8. Together 1/64, that is 6 bits for 3 tokens.
    found = score(MODEL, [0, 0, 1, 0], forward=bigram(TABLE))
    assert math.isnan(found.log_probs[0])
    assert found.log_probs[1:] == pytest.approx(np.log([1 / 2, 1 / 4, 1 / 8]), abs=1e-12)
    assert found.tokens == 3
    assert found.nats == pytest.approx(6 * math.log(2))
    assert found.nats_per_token == pytest.approx(2 * math.log(2))
    assert found.bits_per_token == pytest.approx(2)
    assert found.perplexity == pytest.approx(4)
    assert found.ids == [0, 0, 1, 0]
    assert (found.words, found.bytes, found.bits_per_byte, found.perplexity_per_word) == (None, None, None, None)


def test_with_bos_the_first_token_is_scored_after_the_end_of_text():
    # The same after end-of-text, here 2: given 2, 0 has 1/4. Together 1/256, that is 8 bits for 4 tokens.
    two = MODEL._replace(config=CONFIG._replace(eos_token_id=2))
    found = score(two, [0, 0, 1, 0], bos=True, forward=bigram(TABLE))
    assert found.log_probs == pytest.approx(np.log([1 / 4, 1 / 2, 1 / 4, 1 / 8]), abs=1e-12)
    assert (found.tokens, found.ids, found.bos) == (4, [0, 0, 1, 0], True)
    assert found.perplexity == pytest.approx(4)
    assert score(two, [0], bos=True, forward=bigram(TABLE)).perplexity == pytest.approx(4)


def test_words_and_bytes_are_those_of_the_tokens_that_were_scored():
    # "é": two bytes. Of "é ab  c" the first byte is not scored; 8 bits each for the other 7, in three words.
    found = score(BYTES, "é ab  c", forward=bigram(UNIFORM))
    assert (found.tokens, found.bytes, found.words) == (7, 7, 3)
    assert found.bits_per_byte == pytest.approx(8)
    assert found.perplexity == pytest.approx(256)
    assert found.perplexity_per_word == pytest.approx(256 ** (7 / 3))
    # A first word of one byte is not among them.
    assert score(BYTES, "a bc", forward=bigram(UNIFORM)).words == 1
    # Without overlap the first of each window is missing: of "ab cd" b, space and d are left, "b d".
    found = score(BYTES, "ab cd", context=3, stride=3, forward=bigram(UNIFORM))
    assert (found.tokens, found.bytes, found.words) == (3, 3, 2)


def test_a_text_of_white_space_has_no_perplexity_per_word():
    found = score(BYTES, "   ", forward=bigram(UNIFORM))
    assert (found.words, found.perplexity_per_word) == (0, None)
    assert found.perplexity == pytest.approx(256)


def test_a_perplexity_past_all_floats_is_infinite():
    found = score(BYTES, "x" * 200, forward=bigram(UNIFORM))
    assert (found.words, found.perplexity_per_word) == (1, math.inf)


def test_the_recipe_weighs_each_window_by_one_token_less_than_it_has_new():
    # Windows of 4 every 2 over 7 tokens: tokens 1 to 3, 4 and 5, 6, where the recipe reckons with 4, 2 and 1 new ones.
    log_probs = -np.array([math.nan, 1, 1, 1, 3, 5, 9])
    found = Score(list(range(7)), log_probs, 6, None, None, context=4, stride=2, bos=False, ranks=np.ones(0, int))
    assert found.perplexity_by_recipe == pytest.approx(math.exp((3 * 1 + 1 * 4 + 0 * 9) / 4))
    assert found.perplexity == pytest.approx(math.exp(20 / 6))
    # The end-of-text before counts as one of the window's tokens: 1 to 3, 4 and 5.
    found = Score(list(range(5)), log_probs[1:6], 5, None, None, context=4, stride=2, bos=True, ranks=np.ones(0, int))
    assert found.perplexity_by_recipe == pytest.approx(math.exp((3 * 1 + 1 * 4) / 4))


@given(texts(), st.integers(2, 16))
@settings(max_examples=12)
def test_without_overlap_the_recipe_and_the_exact_count_agree(ids, context):
    found = score(MODEL, ids, context=context, stride=context)
    assert found.perplexity_by_recipe == pytest.approx(found.perplexity, rel=1e-12)


# --- log-probabilities


def test_log_prob_neither_overflows_nor_loses_digits():
    assert log_prob(np.array([3e38, -3e38], np.float32), 1) == pytest.approx(-6e38)
    assert log_prob(np.array([1e4, 1e4 + math.log(3)]), 0) == pytest.approx(-math.log(4), abs=1e-11)
    # The other token has e^-20: log(1 - p) is about -p, which float32 would round to 0.
    assert log_prob(np.array([0, -20], np.float32), 0) == pytest.approx(-math.exp(-20), rel=1e-6)
    assert log_prob(np.array([0, -math.inf]), 1) == -math.inf


@pytest.mark.parametrize("logits", [[0, math.nan], [0, math.inf], [-math.inf, -math.inf]])
def test_logits_that_are_not_finite_are_refused(logits):
    with pytest.raises(CheckpointError, match="not finite: the weights are damaged"):
        log_prob(np.array(logits), 0)


def brute_force(ids, begin, t):
    """The log-probability of a token by the reference, from a sum that rounds once."""
    logits = model.forward(ids[begin:t], MODEL.params, CONFIG)[-1].tolist()
    return logits[ids[t]] - max(logits) - math.log(math.fsum(math.exp(x - max(logits)) for x in logits))


@given(texts(1), st.integers(2, 16), st.data())
@settings(max_examples=25)
def test_each_token_is_scored_by_the_first_window_that_has_it(ids, context, data):
    stride = data.draw(st.integers(1, context))
    bos = len(ids) == 1 or data.draw(st.booleans())
    found = score(MODEL, ids, context=context, stride=stride, bos=bos)
    sequence = [30] * bos + ids
    for t, log_p in enumerate(found.log_probs, start=int(bos)):
        begin = next(b for b in range(0, t + 1, stride) if t < b + context)
        if begin == t:
            assert math.isnan(log_p)
        else:
            assert log_p == pytest.approx(brute_force(sequence, begin, t), abs=1e-10)
    assert found.tokens == np.count_nonzero(~np.isnan(found.log_probs))
    assert (found.context, found.stride) == (context, stride)


@given(texts(), st.integers(2, 16))
@settings(max_examples=12)
def test_a_stride_of_the_context_scores_independent_windows(ids, context):
    found = score(MODEL, ids, context=context, stride=context).log_probs
    parts = [ids[i : i + context] for i in range(0, len(ids), context)]
    alone = [score(MODEL, part).log_probs if len(part) > 1 else [math.nan] for part in parts]
    assert found == pytest.approx(np.concatenate(alone), abs=1e-10, nan_ok=True)


@given(texts(), st.integers(2, 16))
@settings(max_examples=12)
def test_a_stride_of_1_gives_each_token_the_fullest_context(ids, context):
    found = score(MODEL, ids, context=context, stride=1).log_probs
    for t in range(1, len(ids)):
        assert found[t] == pytest.approx(brute_force(ids, max(0, t - context + 1), t), abs=1e-10)


def test_by_default_a_window_is_all_that_the_model_sees_and_the_next_begins_in_its_middle():
    ids = list(range(30))
    found = score(MODEL, ids)
    assert (found.context, found.stride) == (16, 8)
    assert found.log_probs[16] == pytest.approx(brute_force(ids, 8, 16), abs=1e-10)


def test_a_float32_model_is_scored_in_float64():
    ids = [3, 1, 4, 1, 5, 9, 2, 6]
    found = score(model_of(np.float32), ids)
    assert found.log_probs.dtype == np.float64
    assert found.log_probs == pytest.approx(score(MODEL, ids).log_probs, abs=1e-4, nan_ok=True)
    assert not np.array_equal(found.log_probs.astype(np.float32), found.log_probs, equal_nan=True)


def test_few_logits_are_in_memory_at_a_time_and_no_position_is_computed_twice_in_a_window(monkeypatch):
    ids = [int(i) for i in np.random.default_rng(0).integers(0, 31, 40)]
    whole = score(MODEL, ids, stride=12).log_probs
    calls = []

    def forward(ids, params, config, cache=None, logits_to_keep=0):
        calls.append((len(cache), len(ids), logits_to_keep))
        return model.forward(ids, params, config, cache=cache, logits_to_keep=logits_to_keep)

    monkeypatch.setattr(scoring, "ROWS", 5)
    assert score(MODEL, ids, stride=12, forward=forward).log_probs == pytest.approx(whole, abs=1e-10, nan_ok=True)
    # (positions in the cache, new ones, logits kept) of windows of 16, 16 and 16 tokens, the last of which is no input
    later = [(0, 8, 5), (8, 5, 5), (13, 2, 2)]
    assert calls == [(0, 5, 5), (5, 5, 5), (10, 5, 5), *later, *later]


def test_text_is_scored_as_its_ids_are():
    storyteller = numgpt.load("storyteller")
    text = "Once upon a time there was a king of 東京."
    ids = storyteller.tokenizer.encode(text)
    assert score(storyteller, text).nats == score(storyteller, np.array(ids)).nats == score(storyteller, ids).nats
    assert score(storyteller, ids).bytes == len(text.encode()) - 1  # less the first token, "O"


# --- errors


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"context": 17}, "context is 17, expected an integer from 2 to 16, the context of this model"),
        ({"context": 1}, "context is 1, expected"),
        ({"context": 4.0}, r"context is 4\.0, expected"),
        ({"stride": 0}, "stride is 0, expected an integer from 1 to 16, the context: a larger one would leave"),
        ({"context": 8, "stride": 9}, "stride is 9, expected an integer from 1 to 8"),
    ],
)
def test_windows_that_do_not_fit_are_refused(options, message):
    with pytest.raises(OptionError, match=message):
        score(MODEL, [1, 2, 3], **options)


def test_the_smallest_and_the_largest_windows_are_allowed():
    assert score(MODEL, [1, 2, 3], context=2, stride=2).tokens == 1
    assert score(MODEL, [1, 2, 3], context=16, stride=16).tokens == 2


@pytest.mark.parametrize("ids", [[], [1], np.array([1])])
def test_a_text_too_short_is_refused(ids):
    with pytest.raises(TokenError, match=rf"tokens: {len(ids)}, expected 2 or more: .* give more text, or bos=True"):
        score(MODEL, ids)


def test_with_bos_one_token_is_enough_and_none_is_not():
    assert score(MODEL, [1], bos=True).tokens == 1
    with pytest.raises(TokenError, match="tokens: 0, expected 1 or more: give some text"):
        score(MODEL, [], bos=True)


def test_ids_and_models_that_can_not_be_scored_are_refused():
    with pytest.raises(TokenError, match=r"ids\[1\] is 31, expected 0 to 30"):
        score(MODEL, [1, 31])
    with pytest.raises(TokenError, match="no tokenizer, which text needs"):
        score(MODEL, "some text")
    with pytest.raises(OptionError, match="no end-of-text id to put before the text: leave it out"):
        score(BYTES, "ab", bos=True)


# --- last words


def line(text):
    return json.dumps({"text": text})


@pytest.fixture(scope="module")
def storyteller():
    return numgpt.load("storyteller")


def test_a_last_word_is_correct_where_greedy_decoding_would_write_it(storyteller):
    texts = [
        "Once upon a time",
        "Once upon a king",
        "The king said\n to his Cinderella",
        "he was very much astonished ",
    ]
    verdicts = []
    for text in texts:
        before, word = re.fullmatch(r"(.*\S)(\s+\S+?)\s*", text, re.DOTALL).groups()
        ids = storyteller.tokenizer.encode(before)
        expected = storyteller.tokenizer.encode(word)
        new = numgpt.generate(ids, storyteller.params, storyteller.config, max_new_tokens=len(expected), temperature=0)
        verdicts.append(list(new) == expected)
        found = score_last_words(storyteller, [line(text)])
        assert (found.texts, found.correct) == (1, verdicts[-1])
        whole = score(storyteller, before + word, stride=512)
        assert found.nats == pytest.approx(-whole.log_probs[len(ids) :].sum(), rel=1e-4)
    assert set(verdicts) == {True, False}
    found = score_last_words(storyteller, [*map(line, texts), "", "\n"])
    assert (found.texts, found.correct) == (4, sum(verdicts))
    assert found.accuracy == sum(verdicts) / 4


def test_all_tokens_of_the_word_must_be_the_likeliest_and_perplexity_is_per_word():
    # Of the bytes: after "x" a space, after the space "a", after "a" a "b", each with 1/2.
    table = np.full((256, 256), 1 / 2 / 255)
    for pair in "x ", " a", "ab":
        table[ord(pair[0]), ord(pair[1])] = 1 / 2
    found = score_last_words(BYTES, [line("x ab"), line("x ac"), line("x bb")], forward=bigram(table))
    assert (found.texts, found.correct) == (3, 1)
    first = score_last_words(BYTES, [line("x ab")], forward=bigram(table))
    assert first.perplexity == pytest.approx(8)  # three tokens, one word
    assert first.accuracy == 1


def test_of_a_text_longer_than_the_context_the_end_counts(storyteller):
    long = "word " * 600 + "Once upon a time"
    ids = storyteller.tokenizer.encode(long)[-512:]
    expected = -score(storyteller, ids).log_probs[-1]
    assert score_last_words(storyteller, [line(long)]).nats == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ("nonsense", "is not of the form"),
        (b'{"text": "\xff a"}', "is not of the form"),
        ('{"txt": "a b"}', "is not of the form"),
        ('{"text": 3}', "is not of the form"),
        ("[1]", "is not of the form"),
        ('{"text": " "}', "is not of the form"),
        ("[" * 100_000, "is not of the form"),
        (line("one"), "has no words before the last that fit into the context: expected two or more"),
        (line("x " + "y" * 16), "that fit into the context"),
        (line("a \ud800"), "lone surrogate"),
    ],
)
def test_a_line_that_is_no_text_is_named(bad, message):
    with pytest.raises(TokenError, match=rf"^line 3: .*{message}"):
        score_last_words(BYTES, [line("a b"), "", bad], forward=bigram(UNIFORM))


def test_a_file_without_lines_is_refused():
    with pytest.raises(TokenError, match="no lines, expected one or more"):
        score_last_words(BYTES, ["", "\n"])
