"""KVCache holds what it was given, in order, whatever is appended, taken back or forked off."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from numgpt.cache import KVCache
from numgpt.config import Config
from numgpt.errors import ContextError, NumgptError, OptionError

CONFIG = Config(n_vocab=9, n_ctx=7, n_embd=6, n_head=2, n_layer=3)  # L 3, H 2, D 3


def rows(T, seed=0, dtype=np.float32):
    """Return k and v [L, H, T, D] of T positions."""
    rng = np.random.default_rng(seed)
    return tuple(rng.normal(size=(3, 2, T, 3)).astype(dtype) for _ in "kv")


def append(cache, k, v):
    """Extend all layers, as forward does, and return what they give back, [L, H, S, D] each."""
    pairs = [cache.extend(layer, k[layer], v[layer]) for layer in range(3)]
    cache.advance(k.shape[2])
    return tuple(np.stack(parts) for parts in zip(*pairs, strict=True))


def test_a_new_cache_is_empty_and_float32():
    cache = KVCache(CONFIG)
    assert len(cache) == 0
    for x in cache.k, cache.v:
        assert x.shape == (3, 2, 7, 3)
        assert x.dtype == np.float32


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_extend_returns_all_positions_so_far_in_order_and_in_the_cache_s_dtype(dtype):
    cache = KVCache(CONFIG, dtype)
    (k1, v1), (k2, v2) = rows(2, 1, dtype), rows(3, 2, dtype)
    append(cache, k1, v1)
    assert len(cache) == 2
    k, v = append(cache, k2, v2)
    assert len(cache) == 5
    np.testing.assert_array_equal(k, np.concatenate([k1, k2], axis=2))
    np.testing.assert_array_equal(v, np.concatenate([v1, v2], axis=2))
    assert k.dtype == v.dtype == dtype


@pytest.mark.parametrize("layers", [0, 1, 2, 3])
def test_a_pass_that_stopped_before_it_advanced_leaves_no_trace(layers):
    cache = KVCache(CONFIG)
    first, stopped, again = rows(2, 1), rows(4, 2), rows(3, 3)
    append(cache, *first)
    for layer in range(layers):
        cache.extend(layer, stopped[0][layer], stopped[1][layer])
    assert len(cache) == 2
    k, v = append(cache, *again)
    np.testing.assert_array_equal(k, np.concatenate([first[0], again[0]], axis=2))
    np.testing.assert_array_equal(v, np.concatenate([first[1], again[1]], axis=2))


def test_a_cache_can_be_filled_to_the_last_position_and_not_beyond():
    cache = KVCache(CONFIG)
    append(cache, *rows(5, 1))
    k, v = append(cache, *rows(2, 2))
    assert len(cache) == k.shape[2] == v.shape[2] == 7
    new = rows(1, 3)
    with pytest.raises(ContextError, match=r"^7 positions in the cache and 1 new ones are more than the 7 it has room"):
        cache.extend(0, new[0][0], new[1][0])
    assert len(cache) == 7
    np.testing.assert_array_equal(cache.k, k)


def test_too_many_positions_at_once_are_refused_before_anything_is_written():
    cache = KVCache(CONFIG)
    cache.k[:], cache.v[:] = 5, 6
    new = rows(8)
    with pytest.raises(ContextError, match=r"^0 positions in the cache and 8 new ones are more than the 7 it has room"):
        cache.extend(0, new[0][0], new[1][0])
    assert len(cache) == 0
    assert (cache.k == 5).all()
    assert (cache.v == 6).all()


def test_truncate_forgets_the_end_and_what_follows_takes_its_place():
    cache = KVCache(CONFIG)
    first, second = rows(5, 1), rows(3, 2)
    append(cache, *first)
    cache.truncate(2)
    assert len(cache) == 2
    k, v = append(cache, *second)
    assert len(cache) == 5
    np.testing.assert_array_equal(k, np.concatenate([first[0][:, :, :2], second[0]], axis=2))
    np.testing.assert_array_equal(v, np.concatenate([first[1][:, :, :2], second[1]], axis=2))


def test_truncate_to_nothing_and_to_all_are_both_allowed():
    cache = KVCache(CONFIG)
    append(cache, *rows(4))
    cache.truncate(4)
    assert len(cache) == 4
    cache.truncate(0)
    assert len(cache) == 0


@pytest.mark.parametrize("n", [-1, 5, 7, 100])
def test_truncate_takes_no_number_that_the_cache_does_not_hold(n):
    cache = KVCache(CONFIG)
    append(cache, *rows(4))
    with pytest.raises(OptionError, match=rf"^truncate: {n} positions asked for, expected 0 to 4, which"):
        cache.truncate(n)
    assert len(cache) == 4


def test_a_fork_holds_the_same_and_shares_nothing():
    cache = KVCache(CONFIG, np.float64)
    first = rows(3, 1, np.float64)
    append(cache, *first)
    fork = cache.fork()
    assert type(fork) is KVCache
    assert len(fork) == 3
    assert fork.k.dtype == fork.v.dtype == np.float64
    assert fork.k.shape == fork.v.shape == (3, 2, 7, 3)
    for a in cache.k, cache.v:
        for b in fork.k, fork.v:
            assert not np.shares_memory(a, b)

    left, right = rows(2, 2, np.float64), rows(4, 3, np.float64)
    in_fork, in_cache = append(fork, *left), append(cache, *right)  # one after the other, each on the same three
    assert (len(fork), len(cache)) == (5, 7)
    for i in range(2):
        np.testing.assert_array_equal(in_fork[i], np.concatenate([first[i], left[i]], axis=2))
        np.testing.assert_array_equal(in_cache[i], np.concatenate([first[i], right[i]], axis=2))
    cache.truncate(0)
    assert len(fork) == 5
    fork.truncate(1)
    assert len(cache) == 0


# --- room for fewer positions, and for half the bits of each


@pytest.mark.parametrize("n", [1, 4, np.int64(7)])
def test_a_cache_has_room_for_as_many_positions_as_it_was_made_for(n):
    cache = KVCache(CONFIG, positions=n)
    assert cache.k.shape == cache.v.shape == cache.fork().k.shape == (3, 2, n, 3)
    append(cache, *rows(n))
    with pytest.raises(ContextError, match=rf"^{n} positions in the cache and 1 new ones are more than the {n} it has"):
        append(cache, *rows(1))


@pytest.mark.parametrize("n", [0, -1, 8, 2.0, True, "3"])
def test_a_number_of_positions_that_no_text_has_is_refused(n):
    with pytest.raises(OptionError, match=r"^positions is .*, expected an integer from 1 to 7, the context$"):
        KVCache(CONFIG, positions=n)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_float16_takes_half_the_room_or_a_quarter_and_comes_back_in_the_dtype_of_what_is_new(dtype):
    cache, wide = KVCache(CONFIG, np.float16), KVCache(CONFIG, dtype)
    assert cache.k.nbytes * np.dtype(dtype).itemsize == wide.k.nbytes * 2
    first, second = rows(2, 1, dtype), rows(3, 2, dtype)
    append(cache, *first)
    for got, *parts in zip(append(cache, *second), first, second, strict=True):
        assert got.dtype == dtype
        whole = np.concatenate(parts, axis=2)
        np.testing.assert_array_equal(got, whole.astype(np.float16))
        np.testing.assert_allclose(got, whole, rtol=2**-11, atol=2**-25)
        assert (got != whole).any()
    fork = cache.fork()
    assert fork.k.dtype == fork.v.dtype == np.float16
    np.testing.assert_array_equal(fork.k[:, :, :5], cache.k[:, :, :5])


numbers = npst.arrays(
    np.float64, (2, 1, 3), elements=st.floats(-7e4, 7e4, width=32) | st.sampled_from([np.nan, np.inf])
)


@given(numbers, numbers)
def test_what_float16_can_not_hold_is_refused_and_leaves_the_cache_as_it_was(k, v):
    cache = KVCache(CONFIG, np.float16)
    append(cache, *rows(2))
    if np.abs([k, v]).max() <= 65504:
        cache.extend(1, k, v)
    else:
        with pytest.raises(OptionError, match=r"^layer 1 has a key or value of .*, but float16 ends at 65504: give "):
            cache.extend(1, k, v)
    assert np.isfinite(cache.k[:, :, :2]).all()
    assert len(cache) == 2


def test_the_largest_float16_can_be_held():
    cache = KVCache(CONFIG, np.float16)
    k = np.full((2, 1, 3), -65504.0)
    np.testing.assert_array_equal(cache.extend(0, k, k)[0], k)


def test_the_errors_of_a_cache_are_errors_of_numgpt_and_of_values():
    for kind in ContextError, OptionError:
        assert issubclass(kind, NumgptError)
        assert issubclass(kind, ValueError)


steps = st.tuples(st.sampled_from(["append", "truncate", "fork"]), st.integers(0, 5), st.integers(0, 7))


@given(st.lists(steps, max_size=25), st.sampled_from([np.float16, np.float64]))
def test_any_life_of_a_cache_and_its_forks_is_that_of_lists(life, dtype):
    branches = [(KVCache(CONFIG, dtype), [])]  # each cache with the numbers that its positions should hold
    made = 0
    for act, which, n in life:
        cache, held = branches[which % len(branches)]
        if act == "append" and len(held) + n <= 7:
            new = np.arange(made, made + n, dtype=float)
            made += n
            k = new[:, None] + np.zeros((3, 2, n, 3)) + np.arange(3)[:, None, None, None] * 512
            k, v = append(cache, k, -k)
            held.extend(new)
            assert k.shape == (3, 2, len(held), 3)
            np.testing.assert_array_equal(v, -k)
        elif act == "truncate" and n <= len(held):
            cache.truncate(n)
            del held[n:]
        elif act == "fork":
            branches.append((cache.fork(), held.copy()))
        for cache, held in branches:
            assert len(cache) == len(held)
            for layer in range(3):
                for feature in range(3):
                    for head in range(2):
                        assert cache.k[layer, head, : len(held), feature].tolist() == [x + layer * 512 for x in held]
                        assert cache.v[layer, head, : len(held), feature].tolist() == [-x - layer * 512 for x in held]
