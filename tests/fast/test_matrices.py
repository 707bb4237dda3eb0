"""Matrices kept in 8 and in 16 bits: what they stand for, and the products with them, against float64."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import numgpt
from numgpt.checkpoint.quants import pack, unpack
from numgpt.fast import matrices
from numgpt.fast.matrices import Half, Int8, multiply, multiply_vector, widen_half
from numgpt.model import Model, forward
from numgpt.params import map_leaves, random_params

EMBEDDINGS = ("wte", "lm_head")
CONFIG = numgpt.Config(n_vocab=300, n_ctx=64, n_embd=80, n_head=5, n_layer=3)  # 80: half a block is left


def matrix(seed, shape, spread=1.0):
    rng = np.random.default_rng(seed)
    return (rng.standard_normal(shape) * np.exp(spread * rng.standard_normal((1, shape[1])))).astype(np.float32)


shapes = st.tuples(st.integers(1, 100), st.integers(1, 70))


@given(st.integers(0, 2**32), shapes)
def test_a_weight_is_off_by_half_a_step_of_its_block_at_most(seed, shape):
    w = matrix(seed, shape)
    kept = Int8.from_array(w)
    assert kept.shape == shape
    wide = kept.widen()
    for start in range(0, shape[0], 32):
        block = slice(start, start + 32)
        step = np.abs(w[block]).max(axis=0) / 127
        assert (np.abs(wide[block] - w[block]) <= 0.51 * step + 0.005 * np.abs(w[block])).all()


@given(st.integers(0, 2**32))
def test_a_matrix_loses_no_more_than_blocks_of_q8_0(seed):
    w = matrix(seed, (96, 64))
    theirs = unpack("Q8_0", pack("Q8_0", w.T.copy())).reshape(64, 96).T
    ours = Int8.from_array(w).widen()
    assert np.square(ours - w, dtype=float).sum() <= np.square(theirs - w, dtype=float).sum()


@given(st.integers(0, 2**32), st.integers(1, 9))
def test_blocks_of_a_file_are_taken_over_bit_for_bit(seed, n_out):
    rng = np.random.default_rng(seed)
    q, scales = rng.integers(-128, 128, (n_out, 64), np.int8), rng.standard_normal((n_out, 2)).astype(np.float32)
    expected = q * np.repeat(scales, 32, axis=1)
    np.testing.assert_array_equal(Int8.from_rows(q, scales).widen(), expected.T)
    np.testing.assert_array_equal(Int8.from_rows(q, scales, turned=True).widen(), expected)


def of_each_kind(w):
    """Return a matrix of each kind, and what it stands for."""
    rounded = w.astype(np.float16).astype(np.float32)
    cut = (w.view(np.uint32) & 0xFFFF0000).view(np.float32)
    kinds = [
        (w, w), (Int8.from_array(w), None), (Half.from_array(rounded, "F16"), rounded),
        (Half.from_array(cut, "BF16"), cut), (Half.from_array(np.asfortranarray(rounded), "F16"), rounded),
    ]  # fmt: skip
    return [(kept, kept.widen() if wide is None else wide) for kept, wide in kinds]


@given(st.integers(0, 2**32), shapes, st.integers(1, 20), st.integers(1, 100))
def test_a_product_with_each_kind_is_that_of_its_numbers(seed, shape, rows, columns_at_a_time):
    x = matrix(seed + 1, (rows, shape[0]))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(matrices, "WIDENED", columns_at_a_time * shape[0])
        patch.setattr(matrices, "COLUMNS", columns_at_a_time)
        for kept, wide in of_each_kind(matrix(seed, shape)):
            exact = x.astype(float) @ wide.astype(float)
            bound = 1e-6 * (np.abs(x).astype(float) @ np.abs(wide).astype(float))
            out = multiply(x, kept, out=np.full((rows, shape[1]), np.nan, np.float32))
            assert (np.abs(out - exact) <= bound).all(), type(kept)
            assert (np.abs(multiply_vector(x[0], kept, out[0]) - exact[0]) <= bound[0]).all(), type(kept)
            assert (np.abs(x @ kept - exact) <= bound).all(), type(kept)


@given(st.integers(0, 2**32), shapes)
def test_each_kind_stands_for_an_array(seed, shape):
    for kept, wide in of_each_kind(matrix(seed, shape))[1:]:
        np.testing.assert_array_equal(np.asarray(kept), wide)
        np.testing.assert_array_equal(np.asarray(kept.T), wide.T)
        np.testing.assert_array_equal(kept.T.T.widen(), wide)
        np.testing.assert_array_equal(kept.astype(np.float64), wide.astype(np.float64))
        assert kept.T.shape == wide.T.shape
        assert len(kept) == len(wide)
        assert kept.nbytes == sum(array.nbytes for array in kept.arrays())


@given(st.integers(0, 2**32), shapes, st.data())
def test_rows_of_an_embedding_are_those_of_its_numbers(seed, shape, data):
    w = matrix(seed, shape)
    ids = np.array(data.draw(st.lists(st.integers(0, shape[0] - 1), min_size=1, max_size=5)))
    start, stop = sorted(data.draw(st.tuples(st.integers(0, shape[0]), st.integers(0, shape[0]))))
    for kept in (Int8.from_array(w, turned=True), Half.from_array(w.astype(np.float16).astype(np.float32), "F16")):
        wide = kept.widen()
        np.testing.assert_array_equal(kept[int(ids[0])], wide[ids[0]])
        np.testing.assert_array_equal(kept[ids], wide[ids])
        np.testing.assert_array_equal(kept[ids[None]], wide[ids[None]])
        np.testing.assert_array_equal(np.asarray(kept[start:stop]), wide[start:stop])


def test_all_numbers_of_16_bits_are_widened_exactly():
    bits = np.arange(2**16, dtype=np.uint16)
    for kind, finite in ("F16", bits & 0x7C00 != 0x7C00), ("BF16", bits & 0x7F80 != 0x7F80):
        some = bits[finite].reshape(64, -1)
        out = np.empty(some.shape, np.float32)
        widen_half(some, kind, out)
        expected = some.view(np.float16).astype(np.float32) if kind == "F16" else (some.astype(np.uint32) << 16)
        np.testing.assert_array_equal(out.view(np.uint32), expected.view(np.uint32))


def kept_in(kind, params):
    """Return a tree whose matrices are kept in a kind."""

    def keep(path, x):
        if x.ndim < 2 or path == "wpe":
            return x
        return Int8.from_array(x, path in EMBEDDINGS) if kind == "int8" else Half.from_array(x, kind)

    return map_leaves(keep, params)


def a_model(kind, tied=True):
    """Return a random model kept in a kind, and the same one in float64."""
    config = CONFIG._replace(tie_word_embeddings=tied)
    params = map_leaves(lambda path, x: x * 5 if x.ndim == 2 else x, random_params(config))
    if kind == "F16":
        params = map_leaves(lambda path, x: x.astype(np.float16).astype(np.float32), params)
    if kind == "BF16":
        params = map_leaves(lambda path, x: (x.view(np.uint32) & 0xFFFF0000).view(np.float32), params)
    kept = kept_in(kind, params)
    return Model(config, kept, None), Model(config, map_leaves(lambda path, x: x.astype(np.float64), kept), None)


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("kind", ["int8", "F16", "BF16"])
def test_a_model_of_each_kind_computes_what_its_numbers_give(kind, tied):
    model, exact = a_model(kind, tied)
    ids = np.random.default_rng(1).integers(CONFIG.n_vocab, size=40)
    expected = forward(ids, exact.params, exact.config)
    atol = 1e-5 * np.abs(expected).max()
    np.testing.assert_allclose(forward(ids, model.params, model.config), expected, rtol=0, atol=atol)
    np.testing.assert_allclose(numgpt.fast.forward(ids, model.params, model.config), expected, rtol=0, atol=atol)
    cache = numgpt.KVCache(model.config)
    parts = [ids[:20], *ids[20:30, None], ids[30:33], ids[33:]]
    rows = [numgpt.fast.forward(part, model.params, model.config, cache=cache) for part in parts]
    np.testing.assert_allclose(np.concatenate(rows), expected, rtol=0, atol=atol)
    batch = numgpt.fast.forward_batch([ids, ids[:7], ids[:1]], model.params, model.config)
    for found, n in zip(batch, (40, 7, 1), strict=True):
        np.testing.assert_allclose(found, expected[:n], rtol=0, atol=atol)


@pytest.mark.parametrize("tokens_at_a_time", [64, 1000])
@pytest.mark.parametrize("kind", ["F16", "BF16"])
def test_logits_of_kept_halfs_are_those_of_float32_to_the_bit(kind, tokens_at_a_time, monkeypatch):
    monkeypatch.setattr("numgpt.fast.model.TOKENS", tokens_at_a_time)
    model, _ = a_model(kind)
    widened = map_leaves(lambda path, x: np.asarray(x), model.params)
    ids = np.random.default_rng(2).integers(CONFIG.n_vocab, size=30)
    for each in forward, numgpt.fast.forward:
        found, expected = (each(ids, params, model.config) for params in (model.params, widened))
        np.testing.assert_array_equal(found, expected)
    caches = [numgpt.KVCache(model.config) for _ in range(2)]
    for part in ids[:5], ids[5:6], ids[6:9], ids[9:10]:
        found, expected = (
            numgpt.fast.forward(part, params, model.config, cache=cache)
            for params, cache in zip((model.params, widened), caches, strict=True)
        )
        np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("kind", ["int8", "F16"])
def test_all_ways_of_decoding_make_the_same_text(kind):
    model, _ = a_model(kind)
    params, config = model.params, model.config
    options = {"max_new_tokens": 12, "seed": 3, "temperature": 0.8, "top_k": 20}
    prompts = [[5, 6, 7], [8], [9, 10, 11, 12, 13, 14]]
    plain = [list(numgpt.generate(p, params, config, stream=i, **options)) for i, p in enumerate(prompts)]
    quick = [
        list(numgpt.generate(p, params, config, stream=i, forward=numgpt.fast.forward, **options))
        for i, p in enumerate(prompts)
    ]
    assert quick == plain
    assert numgpt.generate_batch(prompts, params, config, **options) == plain
