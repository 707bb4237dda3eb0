"""Guesses change how soon a text is made, and nothing of it."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from numgpt import fast, model
from numgpt.config import Config
from numgpt.decoding import lookup
from numgpt.decoding.lookup import COSTS, GUESSES, PromptLookup
from numgpt.decoding.loop import generate
from numgpt.params import map_leaves, random_params

CONFIG = Config(n_vocab=23, n_ctx=40, n_embd=12, n_head=3, n_layer=2, eos_token_id=0)
PARAMS = map_leaves(
    lambda _, x: x + np.random.default_rng(x.size).normal(scale=0.4, size=x.shape),
    random_params(CONFIG, dtype="float64"),
)


def run(steps):
    """All ids of a generator, and the value that it returns."""
    ids = []
    while True:
        try:
            ids.append(next(steps))
        except StopIteration as end:
            return ids, end.value


class Passes:
    """A forward that counts how often it is called, and with how many ids."""

    def __init__(self, forward=fast.forward):
        self.forward, self.rows = forward, []

    def __call__(self, ids, *args, **options):
        self.rows.append(len(ids))
        return self.forward(ids, *args, **options)


def reciting(period):
    """A forward whose greedy text counts 0, 1, ..., period - 1, 0, ... whatever stood before; nothing is computed."""

    def forward(ids, params, config, cache, logits_to_keep):
        cache.advance(len(ids))
        logits = np.zeros((len(ids), config.n_vocab))
        logits[np.arange(len(ids)), (np.asarray(ids) + 1) % period] = 1
        return logits[-logits_to_keep:]

    return forward


@pytest.mark.filterwarnings("ignore:stopped at the context limit")
@given(
    st.lists(st.integers(1, 4), min_size=1, max_size=40),
    st.integers(0, 45),
    st.sampled_from(
        [{"temperature": 0}, {"temperature": 0.7, "seed": 3}, {"temperature": 0, "repetition_penalty": 1.3}]
    ),
    st.randoms(use_true_random=False),
)
def test_any_guess_at_all_leaves_the_text_as_it_is(prompt, n, options, dice):
    """Guesses from a few tokens, so that some are right, of any length that is allowed."""

    def guess(text, most):
        assert 0 <= most <= n - 1
        assert len(text) + most <= CONFIG.n_ctx
        return [dice.choice([*text, 0]) for _ in range(dice.randint(0, most))]

    plain = run(generate(prompt, PARAMS, CONFIG, max_new_tokens=n, **options))
    for forward in model.forward, fast.forward:
        for made in guess, PromptLookup():
            assert (
                run(generate(prompt, PARAMS, CONFIG, max_new_tokens=n, forward=forward, guess=made, **options)) == plain
            )


def test_a_right_guess_saves_its_pass():
    expected = list(generate([1, 2], PARAMS, CONFIG, max_new_tokens=9, temperature=0))
    passes = Passes()

    def know(text, most):
        return expected[len(text) - 2 :][: min(3, most)]

    assert (
        list(generate([1, 2], PARAMS, CONFIG, max_new_tokens=9, temperature=0, forward=passes, guess=know)) == expected
    )
    assert passes.rows == [2 + 3, 1 + 3, 1]


def test_text_that_repeats_takes_few_passes():
    config = Config(n_vocab=50, n_ctx=1024, n_embd=2, n_head=1, n_layer=1, eos_token_id=None)
    params = random_params(config)
    passes = Passes(reciting(period=7))
    steps = generate([0], params, config, max_new_tokens=200, temperature=0, forward=passes, guess=PromptLookup())
    assert list(steps) == [i % 7 for i in range(1, 201)]
    assert len(passes.rows) < 25  # 10 until the pattern is seen, then up to 32 tokens a pass


def test_a_list_that_the_prompt_continues_is_guessed_from_the_start():
    config = Config(n_vocab=50, n_ctx=1024, n_embd=2, n_head=1, n_layer=1, eos_token_id=None)
    passes = Passes(reciting(period=40))
    prompt = [i % 40 for i in range(90)]
    options = {"max_new_tokens": 100, "temperature": 0, "forward": passes, "guess": PromptLookup()}
    assert list(generate(prompt, random_params(config), config, **options)) == [i % 40 for i in range(90, 190)]
    assert len(passes.rows) < 10


def cost(rows):
    """What a pass costs, in passes over one position."""
    return dict(zip((1, *(1 + n for n in GUESSES)), (1, *COSTS), strict=True)).get(rows, max(COSTS))


def play(text, start):
    """Feed a text as it is, guess after guess; return what it costs to make it from start on."""
    guess, at, spent = PromptLookup(), start, 0.0
    while at < len(text):
        guesses = guess(text[:at], len(text) - at - 1)
        spent += cost(min(n for n in (1, *(1 + n for n in GUESSES)) if n >= 1 + len(guesses)))
        right = 0
        while right < len(guesses) and guesses[right] == text[at + right]:
            right += 1
        at += right + 1
    return spent


@pytest.mark.thorough
@given(st.lists(st.integers(0, 3), min_size=200, max_size=400))
def test_no_text_costs_much_more_than_without(text):
    """Four different tokens in any order: three of them stand in the text before at nearly every place."""
    assert play(text, 10) <= 1.04 * (len(text) - 10) + 2


def test_a_text_made_to_deceive_costs_little_more():
    """Each match of three tokens is followed by another one than before."""
    dice = np.random.default_rng(0)
    text = [1, 2, 3, 99]
    for _ in range(300):
        text += [1, 2, 3, int(dice.integers(100, 10**6))]
    assert play(text, 4) <= 1.05 * (len(text) - 4)


def test_it_learns_of_each_token_once():
    guess, text = PromptLookup(), [1, 2, 3, 4]
    for i in range(500):
        guess(text, 5)
        text.append(i + 10)
    assert len(guess._after) == len(text) - lookup.BOLD_MATCH - 1
