"""The plain loop: what it does by hand, and that `numgpt.generate`, which does far more, gives the same ids."""

from functools import partial

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import numgpt
from numgpt.config import Config
from numgpt.decoding.controls import Sampling, Start, controls_of
from numgpt.decoding.lookup import PromptLookup
from numgpt.generation import generate
from numgpt.params import map_leaves, random_params
from numgpt.sampling import sample

CONFIG = Config(n_vocab=12, n_ctx=14, n_embd=8, n_head=2, n_layer=2, eos_token_id=3)
# Ten times the spread that a model has before training: the next token is neither certain nor a throw of dice.
PARAMS = map_leaves(lambda path, x: x * 10 if path.endswith((".w", "wte", "wpe")) else x, random_params(CONFIG))


def test_each_step_is_forward_choose_append():
    seen = []

    def choose(logits, text):
        seen.append((logits.copy(), list(text)))
        return [7, 2, 9, 5][len(seen) - 1]

    assert list(generate([1, 4], PARAMS, CONFIG, choose, max_new_tokens=4)) == [7, 2, 9, 5]
    assert [text for _, text in seen] == [[1, 4], [1, 4, 7], [1, 4, 7, 2], [1, 4, 7, 2, 9]]
    for logits, text in seen:  # those of the whole text, computed at once
        np.testing.assert_allclose(logits, numgpt.forward(text, PARAMS, CONFIG)[-1], rtol=1e-4, atol=1e-4)


def test_it_stops_before_a_stop_id_at_its_limit_and_at_that_of_the_context():
    def always(i):
        return lambda logits, text: i

    assert list(generate([1], PARAMS, CONFIG, always(3), max_new_tokens=4, stop_ids=[3])) == []
    assert list(generate([1], PARAMS, CONFIG, always(5), max_new_tokens=0)) == []
    assert list(generate([1], PARAMS, CONFIG, always(5), max_new_tokens=4)) == [5] * 4
    # The last id of a full context has no position, and needs none.
    assert list(generate([1] * 12, PARAMS, CONFIG, always(5), max_new_tokens=9)) == [5] * 3


def test_the_prompt_is_left_as_it_is():
    ids = [1, 4]
    list(generate(ids, PARAMS, CONFIG, lambda logits, text: 5, max_new_tokens=3))
    assert ids == [1, 4]


ids_lists = st.lists(st.integers(0, CONFIG.n_vocab - 1), min_size=1, max_size=CONFIG.n_ctx)
options_of = st.fixed_dictionaries(
    {},
    optional={
        "temperature": st.sampled_from([0, 0.5, 1.0, 1.7]),
        "top_k": st.integers(1, 14),
        "top_p": st.floats(0.1, 1),
        "min_p": st.floats(0, 0.5),
        "repetition_penalty": st.sampled_from([0.8, 1.3]),
        "presence_penalty": st.sampled_from([-0.5, 1.5]),
        "frequency_penalty": st.sampled_from([-0.5, 1.5]),
        "logit_bias": st.just({4: 2.0, (4, 5): -3.0}),
        "no_repeat_ngram_size": st.integers(2, 3),
        "bad_words": st.just([[6], [7, 8]]),
        "min_new_tokens": st.integers(1, 6),
    },
)


@pytest.mark.filterwarnings("ignore:stopped at the context limit")
@given(ids_lists, options_of, st.integers(0, 2**64 - 1), st.sampled_from([0, 7]), st.sampled_from([None, 10]))
def test_generate_gives_the_ids_of_the_plain_loop(ids, options, seed, stream, n_tokens):
    config = CONFIG._replace(n_tokens=n_tokens)
    controls = controls_of(Sampling(**options), Start(len(ids), [3]))

    def without_padding(logits, text):
        return np.where(np.arange(len(logits)) < (n_tokens or len(logits)), logits, -np.inf)

    choose = partial(sample, controls=[without_padding, *controls], seed=seed, stream=stream)
    expected = list(generate(ids, PARAMS, config, choose, max_new_tokens=9, stop_ids=[3]))
    options |= {"max_new_tokens": 9, "seed": seed, "stream": stream}
    assert list(numgpt.generate(ids, PARAMS, config, **options)) == expected
    fast = {"forward": numgpt.fast.forward, "guess": PromptLookup()}
    assert list(numgpt.generate(ids, PARAMS, config, **options, **fast)) == expected
