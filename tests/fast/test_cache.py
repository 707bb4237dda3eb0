"""fast.cache: a cache of float16 is widened exactly, and a few heads at a time are all of them."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from numgpt.cache import KVCache
from numgpt.config import Config
from numgpt.fast import cache as twin
from numgpt.fast.cache import extend

CONFIG = Config(n_vocab=9, n_ctx=9, n_embd=15, n_head=5, n_layer=2)  # D 3


floats = st.sampled_from([np.float32, np.float64])


@given(st.lists(st.integers(1, 4), min_size=1, max_size=4), st.integers(1, 200), floats, st.booleans())
def test_together_the_heads_are_what_extend_returns(lengths, at_a_time, dtype, rounded):
    """Positions are appended in any pieces, to this cache by the twin and to that one by the original."""
    dice = np.random.default_rng(1)
    this, that = (KVCache(CONFIG, np.float16 if rounded else dtype) for _ in range(2))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(twin, "WIDENED", at_a_time)
        for T in lengths[: 2 if sum(lengths) > 9 else 4]:
            new = dice.normal(size=(2, 5, T, 3)).astype(dtype)
            expected = that.extend(1, *new)
            found = [(heads, k.copy(), v.copy()) for heads, k, v in extend(this, 1, *new)]
            for i in range(2):
                assert found[0][1 + i].dtype == dtype
                np.testing.assert_array_equal(np.concatenate([part[1 + i] for part in found]), expected[i])
            np.testing.assert_array_equal(np.concatenate([np.arange(5)[heads] for heads, *_ in found]), np.arange(5))
            if rounded and dtype == np.float32:
                assert all(k.size <= at_a_time or len(k) == 1 for _, k, _ in found)
            this.advance(T)
            that.advance(T)
    np.testing.assert_array_equal(this.k[1, :, : len(this)], that.k[1, :, : len(that)])
    np.testing.assert_array_equal(this.v[1, :, : len(this)], that.v[1, :, : len(that)])


def test_what_needs_no_widening_is_not_copied():
    cache = KVCache(CONFIG)
    k, v = np.ones((2, 5, 4, 3), np.float32)
    [(_, held, _)] = extend(cache, 0, k, v)
    assert np.shares_memory(held, cache.k)
    [(_, alone, _)] = extend(None, 0, k, v)
    assert np.shares_memory(alone, k)
