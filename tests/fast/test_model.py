"""fast.forward is model.forward: the same logits, the same cache, the same errors, whatever the ids are cut into.

In float64 the two may differ by 1e-12 times the largest logit: they add the same numbers in another order. In float32
the truth is model.forward in float64, and fast may be off by four times what model.forward in float32 is, or by that
many roundings of the largest logit, where that one was lucky.
"""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import numgpt
from numgpt import model, ops
from numgpt.cache import KVCache
from numgpt.config import Config
from numgpt.decoding.loop import generate
from numgpt.errors import ContextError, OptionError, TokenError
from numgpt.fast import cache
from numgpt.fast import model as fast
from numgpt.ops import ACTIVATIONS
from numgpt.params import leaves, map_leaves, random_params

CONFIG = Config(n_vocab=23, n_ctx=17, n_embd=12, n_head=3, n_layer=2, eos_token_id=None)


def wide(config, seed=0):
    """Parameters at which attention has favourites and activations bend."""
    generator = np.random.default_rng(seed)
    return map_leaves(
        lambda _, x: x + generator.normal(scale=0.4, size=x.shape), random_params(config, dtype="float64")
    )


PARAMS = wide(CONFIG)
SINGLE = map_leaves(lambda _, x: x.astype(np.float32), PARAMS)


@pytest.fixture(autouse=True, params=[1, 3, 128])
def pieces(request, monkeypatch):
    """All of it with chunks, blocks and strips that are smaller than a prompt and the vocabulary, too."""
    monkeypatch.setattr(fast, "CHUNK", request.param)
    monkeypatch.setattr(fast, "ROWS", request.param)
    monkeypatch.setattr(fast, "COLUMNS", 7 * request.param)
    monkeypatch.setattr(cache, "WIDENED", 7 * request.param)


def assert_equal(got, expected):
    assert got.dtype == expected.dtype
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-12 * max(1, abs(expected).max()))


@pytest.mark.parametrize(
    "changes",
    [
        *({"activation_function": name} for name in ACTIVATIONS),
        {"scale_attn_weights": False},
        {"scale_attn_by_inverse_layer_idx": True},
        {"tie_word_embeddings": False},
        {"layer_norm_epsilon": 0.1, "n_inner": 5},
        {"n_embd": 3, "n_layer": 1},
        {"n_head": 1, "n_ctx": 300},
    ],
)
def test_every_configuration_has_the_same_logits(changes):
    config = CONFIG._replace(**changes)
    params = wide(config)
    ids = np.random.default_rng(1).integers(0, 23, config.n_ctx)
    assert_equal(fast.forward(ids, params, config), model.forward(ids, params, config))


@pytest.mark.parametrize("keep", [0, 1, 2, 5, 20])
def test_any_number_of_rows_has_the_same_logits(keep):
    """A few rows are multiplied one by one, more are padded, and the last layer leaves out what is not kept."""
    for T in range(1, 18):
        ids = np.random.default_rng(T).integers(0, 23, T)
        expected = model.forward(ids, PARAMS, CONFIG, logits_to_keep=keep)
        assert_equal(fast.forward(ids, PARAMS, CONFIG, logits_to_keep=keep), expected)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_activation_is_gelu_for_any_input_and_warns_of_nothing(dtype):
    x = np.concatenate([np.linspace(-12, 12, 2001), [-1e30, -60, 60, 1e30]]).astype(dtype)
    with np.errstate(all="ignore"):
        expected = ops.gelu(x.astype(np.float64))
    got = x[:, None].copy()
    fast.activate(got, np.zeros(1, dtype), ops.gelu)
    np.testing.assert_allclose(
        got[:, 0], expected, rtol=0, atol=4 * np.finfo(dtype).eps * np.maximum(1, abs(expected)).max()
    )
    np.testing.assert_allclose(got[:-4, 0], expected[:-4], rtol=0, atol=16 * np.finfo(dtype).eps)


def test_float32_is_as_exact_as_the_readable_one():
    ids = np.random.default_rng(2).integers(0, 23, 17)
    truth, plain = model.forward(ids, PARAMS, CONFIG), model.forward(ids, SINGLE, CONFIG)
    got = fast.forward(ids, SINGLE, CONFIG)
    assert got.dtype == np.float32
    own = max(abs(plain - truth).max(), np.finfo(np.float32).eps * abs(truth).max())
    assert abs(got - truth).max() <= 4 * own


@given(st.lists(st.integers(1, 6), min_size=1, max_size=6))
def test_with_a_cache_of_float16_it_is_the_readable_one_too(lengths):
    """In float64 exactly. In float32 a last digit may decide to which side a key is rounded: that far it may be off."""

    def run(forward, params, dtype):
        held = KVCache(CONFIG, dtype)
        parts = [part for part in np.split(ids, np.cumsum(lengths)) if len(part)]
        return np.concatenate([forward(part, params, CONFIG, cache=held) for part in parts])

    ids = np.random.default_rng(4).integers(0, 23, min(sum(lengths), 17))
    expected = run(model.forward, PARAMS, np.float16)
    assert_equal(run(fast.forward, PARAMS, np.float16), expected)
    got = run(fast.forward, SINGLE, np.float16)
    assert got.dtype == np.float32
    assert abs(got - expected).max() <= abs(expected - run(model.forward, PARAMS, np.float64)).max() / 2


acts = st.tuples(
    st.sampled_from(["feed", "truncate", "fork"]), st.integers(0, 5), st.integers(1, 17), st.integers(0, 3)
)


@given(st.lists(acts, min_size=1, max_size=12))
def test_any_life_of_caches_is_the_same(life):
    """The ids are fed in any pieces, taken back and forked; each time the logits are those of the whole text."""
    dice = np.random.default_rng(3)
    branches = [(KVCache(CONFIG, np.float64), [])]
    for act, which, n, keep in life:
        cache, text = branches[which % len(branches)]
        if act == "feed" and len(text) + n <= CONFIG.n_ctx:
            new = dice.integers(0, 23, n).tolist()
            text.extend(new)
            got = fast.forward(new, PARAMS, CONFIG, cache=cache, logits_to_keep=keep)
            assert_equal(got, model.forward(text, PARAMS, CONFIG)[-n:][-keep:])
        elif act == "truncate" and n <= len(text):
            cache.truncate(n)
            del text[n:]
        elif act == "fork":
            branches.append((cache.fork(), text.copy()))
        assert all(len(cache) == len(text) for cache, text in branches)


def test_the_two_can_share_a_cache():
    ids = list(range(12))
    cache = KVCache(CONFIG, np.float64)
    for forward, part in (model.forward, ids[:5]), (fast.forward, ids[5:9]), (model.forward, ids[9:]):
        logits = forward(part, PARAMS, CONFIG, cache=cache)
    assert_equal(logits, model.forward(ids, PARAMS, CONFIG)[9:])


def test_no_argument_is_changed():
    ids = np.arange(9)
    before = map_leaves(lambda _, x: x.copy(), PARAMS)
    fast.forward(ids, PARAMS, CONFIG)
    assert ids.tolist() == list(range(9))
    for (path, x), (_, y) in zip(leaves(PARAMS), leaves(before), strict=True):
        np.testing.assert_array_equal(x, y, err_msg=path)


def test_a_changed_future_never_changes_the_past():
    first = fast.forward([1, 2, 3, 4, 5, 6, 7], PARAMS, CONFIG)
    second = fast.forward([1, 2, 3, 4, 9, 9, 9], PARAMS, CONFIG)
    np.testing.assert_array_equal(first[:4], second[:4])
    assert (first[4:] != second[4:]).any(axis=-1).all()


def test_generate_gives_the_same_ids_with_either():
    for options in {"temperature": 0}, {"temperature": 0.9, "top_k": 7, "seed": 5}:
        made = [
            list(generate([3, 1, 4], PARAMS, CONFIG, max_new_tokens=14, forward=forward, **options))
            for forward in (model.forward, fast.forward)
        ]
        assert made[0] == made[1]


@pytest.mark.parametrize(
    ("ids", "options", "error"),
    [
        ([], {}, TokenError),
        ([23], {}, TokenError),
        ([0] * 18, {}, ContextError),
        ([0], {"logits_to_keep": -1}, OptionError),
        ([0], {"cache": KVCache(CONFIG)}, OptionError),
    ],
)
def test_bad_input_has_the_same_errors(ids, options, error):
    with pytest.raises(error) as ours:
        fast.forward(ids, PARAMS, CONFIG, **options)
    with pytest.raises(error) as theirs:
        model.forward(ids, PARAMS, CONFIG, **options)
    assert str(ours.value) == str(theirs.value)


def test_it_is_there_where_users_look():
    assert numgpt.fast.forward is fast.forward
