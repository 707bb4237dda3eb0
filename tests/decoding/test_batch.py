"""A batch gives each prompt what `generate` gives it alone, whatever stands beside it."""

import weakref

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import numgpt
from numgpt import fast
from numgpt.cache import KVCache
from numgpt.config import Config
from numgpt.decoding import batch
from numgpt.decoding.batch import complete_batch, generate_batch
from numgpt.decoding.loop import generate
from numgpt.decoding.rules import Completion
from numgpt.errors import CheckpointError, ContextError, OptionError, TokenError
from numgpt.params import map_leaves, random_params

CONFIG = Config(n_vocab=23, n_ctx=17, n_embd=12, n_head=3, n_layer=2, eos_token_id=0)


def wide(config):
    generator = np.random.default_rng(0)
    return map_leaves(
        lambda _, x: x + generator.normal(scale=0.4, size=x.shape), random_params(config, dtype="float64")
    )


PARAMS = wide(CONFIG)
texts = st.lists(st.lists(st.integers(0, 22), min_size=1, max_size=17), max_size=7)


def alone(prompts, **options):
    """Each prompt by itself: its ids, and why it ended."""
    done = []
    for stream, prompt in enumerate(prompts):
        steps, ids = generate(prompt, PARAMS, CONFIG, stream=stream, **options), []
        while True:
            try:
                ids.append(next(steps))
            except StopIteration as end:
                done.append(Completion(stream, ids, end.value))
                break
    return done


@pytest.mark.filterwarnings("ignore:stopped at the context limit")
@given(texts, st.integers(0, 20), st.integers(1, 8), st.sampled_from([0, 0.9]), st.sampled_from([1024, 20]))
def test_each_text_is_that_of_generate(prompts, n, size, temperature, room):
    options = {"max_new_tokens": n, "temperature": temperature, "seed": 5}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(batch, "PREFILL", room)
        done = list(complete_batch(prompts, PARAMS, CONFIG, batch_size=size, **options))
        assert sorted(done) == alone(prompts, **options)
        assert generate_batch(prompts, PARAMS, CONFIG, batch_size=size, **options) == [c.ids for c in sorted(done)]


def test_the_controls_reach_each_text():
    prompts = [[1, 2], [3], [4, 5, 6]]
    options = {"max_new_tokens": 10, "seed": 1, "top_k": 3, "repetition_penalty": 1.5, "frequency_penalty": 0.3}
    assert generate_batch(prompts, PARAMS, CONFIG, **options) == [c.ids for c in alone(prompts, **options)]


@pytest.mark.parametrize("size", [1, 3])
def test_no_more_run_at_once_than_asked_for_and_no_more_caches_are_held(monkeypatch, size):
    seen, held, new_cache = [], weakref.WeakSet(), batch.new_cache

    def spy(texts, params, config, own, **options):
        seen.append(len(texts))
        return fast.forward_batch(texts, params, config, own, **options)

    def watched(*arguments):
        assert len(held) < size  # before there is one more
        cache = new_cache(*arguments)
        held.add(cache)
        return cache

    monkeypatch.setattr(batch, "new_cache", watched)

    for config in CONFIG, CONFIG._replace(eos_token_id=None):  # without, all are done in the same round
        options = {"max_new_tokens": 4, "seed": 0, "batch_size": size, "forward_batch": spy}
        generate_batch([[i] for i in range(1, 12)], PARAMS, config, **options)
    assert max(seen) == size


def test_a_text_that_is_done_is_handed_out_before_the_others():
    prompts = [[1], [2] * 16, [3]]
    done = [c.number for c in complete_batch(prompts, PARAMS, CONFIG, max_new_tokens=9, temperature=0)]
    assert sorted(done) == [0, 1, 2]
    assert done[0] == 1  # its context is full after two tokens


def test_each_time_another_text_without_a_seed():
    made = {str(generate_batch([[1]], PARAMS, CONFIG, max_new_tokens=12)) for _ in range(5)}
    assert len(made) > 1


def test_prompts_are_not_changed():
    prompts = [[1, 2], np.array([3])]
    generate_batch(prompts, PARAMS, CONFIG, max_new_tokens=3, seed=0)
    assert prompts[0] == [1, 2]
    assert prompts[1].tolist() == [3]


@pytest.mark.parametrize(
    ("prompts", "options", "error", "message"),
    [
        ([[1], []], {}, TokenError, r"prompt 1: ids: empty"),
        ([[1], [2, 23]], {}, TokenError, r"prompt 1: ids\[1\] is 23, expected 0 to 22"),
        ([[1] * 18], {}, ContextError, r"prompt 0 has 18 tokens, but the context of this model is 17"),
        ([[1]], {"batch_size": 0}, OptionError, "batch_size is 0, expected an integer of 1 or more"),
        ([[1]], {"max_new_tokens": -1}, OptionError, "max_new_tokens is -1, expected an integer of 0 or more"),
        ([[1]], {"seed": -1}, OptionError, "seed is -1"),
        ([[1]], {"top_p": 2}, OptionError, "top_p is 2"),
    ],
)
def test_wrong_input_is_refused_before_anything_runs(prompts, options, error, message):
    with pytest.raises(error, match=message):
        complete_batch(prompts, PARAMS, CONFIG, **{"max_new_tokens": 3, **options})


def test_damaged_weights_are_an_error_here_too():
    broken = {**PARAMS, "wte": np.full_like(PARAMS["wte"], np.nan)}
    with pytest.raises(CheckpointError, match="not finite"):
        generate_batch([[1], [2]], broken, CONFIG, max_new_tokens=3)


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(1, 8)), min_size=1, max_size=6), st.integers(0, 3))
def test_one_pass_over_many_texts_is_a_pass_over_each(lengths, keep):
    """Texts with pasts of any lengths, through one call: the logits and the caches are those of a call each."""
    dice = np.random.default_rng(1)
    together = [KVCache(CONFIG, np.float64) for _ in lengths]
    separate = [KVCache(CONFIG, np.float64) for _ in lengths]
    for one, other, (past, _) in zip(together, separate, lengths, strict=True):
        if past:
            ids = dice.integers(0, 23, past)
            fast.forward(ids, PARAMS, CONFIG, cache=one)
            fast.forward(ids, PARAMS, CONFIG, cache=other)
    new = [dice.integers(0, 23, n) for _, n in lengths]
    got = fast.forward_batch(new, PARAMS, CONFIG, together, keep)
    for ids, logits, one, other in zip(new, got, together, separate, strict=True):
        expected = numgpt.forward(ids, PARAMS, CONFIG, cache=other, logits_to_keep=keep)
        assert logits.shape == expected.shape
        np.testing.assert_allclose(logits, expected, rtol=0, atol=1e-12 * max(1, abs(expected).max()))
        assert len(one) == len(other)
        n = len(one)
        np.testing.assert_allclose(one.k[:, :, :n], other.k[:, :, :n], rtol=0, atol=1e-12)
        np.testing.assert_allclose(one.v[:, :, :n], other.v[:, :, :n], rtol=0, atol=1e-12)


def test_no_texts_are_no_logits():
    assert fast.forward_batch([], PARAMS, CONFIG) == []
    assert generate_batch([], PARAMS, CONFIG, max_new_tokens=3) == []


def test_a_mistake_in_one_text_leaves_all_caches_as_they_were():
    caches = [KVCache(CONFIG, np.float64) for _ in range(2)]
    with pytest.raises(TokenError):
        fast.forward_batch([[1], [99]], PARAMS, CONFIG, caches)
    assert [len(cache) for cache in caches] == [0, 0]
