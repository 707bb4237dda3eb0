"""Past the context limit: what `overflow="slide"` makes is what a model makes that computes each token from scratch."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.sampling import sample

from numgpt import fast, model
from numgpt.config import Config
from numgpt.decoding.batch import generate_batch
from numgpt.decoding.controls import Sampling
from numgpt.decoding.lookup import PromptLookup
from numgpt.decoding.loop import generate
from numgpt.errors import ContextError, OptionError
from numgpt.params import map_leaves, random_params

CONFIG = Config(n_vocab=23, n_ctx=8, n_embd=12, n_head=3, n_layer=2, eos_token_id=None)
PARAMS = map_leaves(
    lambda _, x: x + np.random.default_rng(x.size).normal(scale=0.4, size=x.shape),
    random_params(CONFIG, dtype="float64"),
)


def from_scratch(prompt, n, options=None, seed=0):
    """Each token from the whole window, without a cache. The window is all of the text until it has more than 8
    tokens; then it begins anew at the last 4, and grows again."""
    text, start = list(prompt), 0
    for _ in range(n):
        if len(text) - start > 8:
            start = len(text) - 4
        logits = model.forward(text[start:], PARAMS, CONFIG)[-1]
        text.append(sample(logits, text, options or Sampling(temperature=0), seed))
    return text[len(prompt) :]


@given(st.lists(st.integers(0, 22), min_size=1, max_size=20), st.integers(0, 40))
def test_sliding_is_computing_from_scratch(prompt, n):
    expected = from_scratch(prompt, n)
    options = {"max_new_tokens": n, "temperature": 0, "overflow": "slide"}
    for forward in model.forward, fast.forward:
        assert list(generate(prompt, PARAMS, CONFIG, forward=forward, **options)) == expected
    assert list(generate(prompt, PARAMS, CONFIG, guess=PromptLookup(), **options)) == expected
    assert generate_batch([prompt, [1], prompt], PARAMS, CONFIG, **options)[::2] == [expected, expected]


def test_a_draw_is_bound_to_the_place_in_the_whole_text_and_controls_see_all_of_it():
    options = Sampling(temperature=1.0, top_k=9, repetition_penalty=1.2)
    expected = from_scratch([1, 2, 3], 50, options, seed=4)
    controls = {"temperature": 1.0, "top_k": 9, "repetition_penalty": 1.2}
    steps = generate([1, 2, 3], PARAMS, CONFIG, max_new_tokens=50, seed=4, overflow="slide", **controls)
    assert list(steps) == expected


def test_the_cost_is_one_prefill_of_half_a_context_for_each_half_context():
    rows = []

    def spy(ids, *arguments, **options):
        rows.append(len(ids))
        return fast.forward(ids, *arguments, **options)

    list(generate([1], PARAMS, CONFIG, max_new_tokens=100, temperature=0, overflow="slide", forward=spy))
    assert set(rows) == {1, 4}
    assert rows.count(4) == (100 - 4) // 5  # 4 kept, and 5 tokens until there are 9 again


def test_without_it_a_long_prompt_is_refused_and_a_full_context_ends_the_text():
    with pytest.raises(ContextError, match="shorten it, or let it slide"):
        generate([1] * 9, PARAMS, CONFIG, max_new_tokens=1)
    with pytest.warns(UserWarning, match="context limit of 8"):
        assert len(list(generate([1], PARAMS, CONFIG, max_new_tokens=99, temperature=0))) == 8


def test_a_context_of_one_can_slide_too():
    config = CONFIG._replace(n_ctx=1)
    params = {**PARAMS, "wpe": PARAMS["wpe"][:1]}
    assert len(list(generate([1], params, config, max_new_tokens=5, temperature=0, overflow="slide"))) == 5


def test_another_word_is_refused():
    with pytest.raises(OptionError, match="overflow is 'wrap', expected 'stop' or 'slide'"):
        generate([1], PARAMS, CONFIG, max_new_tokens=1, overflow="wrap")
