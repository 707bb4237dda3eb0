"""Choices: each has the probability that adding up over all texts gives it."""

import math
from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.dumps import wide_params

import numgpt
from numgpt.config import Config
from numgpt.errors import ContextError, OptionError, TokenError
from numgpt.measure.choices import choose, cut
from numgpt.model import Model
from numgpt.tokenizer import Tokenizer

PIECES = [b"a", b"b", b"ab", b" ", b" a"]
CONFIG = Config(n_vocab=6, n_ctx=12, n_embd=12, n_head=3, n_layer=2, eos_token_id=5)
TOKENIZER = Tokenizer([(b"a", b"b"), (b" ", b"a")], {piece: i for i, piece in enumerate(PIECES)}, {"<|endoftext|>": 5})
MODEL = Model(CONFIG, wide_params(CONFIG), TOKENIZER)


def log_probs(ids):
    """log p of each next id after ids [T], in float64."""
    logits = numgpt.forward(ids, MODEL.params, MODEL.config)[-1].astype(np.float64)
    return logits - math.log(np.exp(logits).sum())


def all_texts(prompt, length):
    """Yield all texts of so many ids that may follow a prompt, each with its probability."""
    for ids in product(range(6), repeat=length):
        yield ids, math.exp(sum(log_probs([*prompt, *ids[:t]])[i] for t, i in enumerate(ids)))


@given(st.lists(st.text("ab ", min_size=1, max_size=3), min_size=1, max_size=5, unique=True))
def test_choices_are_as_likely_as_all_texts_that_begin_so(choices):
    prompt = TOKENIZER.encode("ba")
    found = choose(MODEL, prompt, choices)
    ids = [tuple(TOKENIZER.encode(text)) for text in choices]
    assert [choice.text for choice in found] == choices
    assert [tuple(choice.ids) for choice in found] == ids
    texts = list(all_texts(prompt, max(map(len, ids))))
    begins, is_it = np.zeros(len(choices)), np.zeros(len(choices))
    for text, p in texts:
        fitting = [n for n, one in enumerate(ids) if text[: len(one)] == one]
        begins[fitting] += p
        if fitting:  # it is the longest of those that fit
            is_it[max(fitting, key=lambda n: len(ids[n]))] += p
    np.testing.assert_allclose([choice.log_prob for choice in found], np.log(begins), rtol=0, atol=1e-5)
    np.testing.assert_allclose([choice.probability for choice in found], is_it / is_it.sum(), rtol=1e-4, atol=1e-6)
    assert sum(choice.probability for choice in found) == pytest.approx(1)
    for choice in found:
        assert choice.log_prob_per_byte == pytest.approx(choice.log_prob / len(choice.text))


def test_text_is_cut_as_the_whole_would_be_and_where_that_goes_across_the_border_by_itself():
    assert cut("b", " a", TOKENIZER) == ([1], [4])
    assert cut("b ", "a", TOKENIZER) == ([1], [4])  # the space goes with the word behind it
    assert cut("a", "b", TOKENIZER) == ([0], [1])  # "ab" would be one token
    assert cut([0], "b", TOKENIZER) == ([0], [1])
    assert cut("", "b", TOKENIZER) == ([], [1])


def test_with_nothing_before_it_a_text_follows_the_end_of_text():
    (found,) = choose(MODEL, "", ["b"])
    assert found.log_prob == pytest.approx(log_probs([5])[1], abs=1e-5)


def test_special_tokens_are_text_unless_they_are_allowed():
    model = numgpt.load("storyteller")
    assert len(choose(model, "a", ["<|endoftext|>"])[0].ids) > 1
    assert choose(model, "a", ["<|endoftext|>"], allow_special=True)[0].ids == [4095]


def test_a_prompt_that_is_too_long_loses_its_beginning():
    ids = [0, 1] * 10
    (found,) = choose(MODEL, ids, ["b"])
    assert found.log_prob == pytest.approx(log_probs(ids[-12:])[1], abs=1e-5)


@pytest.mark.parametrize(
    ("choices", "error", "words"),
    [
        ([], OptionError, "choices is .*, expected a list of one or more texts"),
        ("ab", OptionError, "choices is 'ab', expected a list"),
        ([1], OptionError, "expected a list of one or more texts"),
        (["a", "b", "a"], OptionError, "expected each text once"),
        (["a", ""], TokenError, "choice 1, '': empty"),
        (["a", "c"], TokenError, "choice 1, 'c': .* no id in this vocabulary"),
        (["a" * 13], ContextError, "an ending of 13 ids, but the context of this model is 12"),
    ],
)
def test_what_is_no_choice_is_refused(choices, error, words):
    with pytest.raises(error, match=words):
        choose(MODEL, [0], choices)
