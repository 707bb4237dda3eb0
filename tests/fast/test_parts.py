"""What stands between the products of a long prompt runs in parts, on all cores: the same bits as in one."""

import ctypes
from contextlib import nullcontext

import numpy as np
import pytest

from numgpt.cache import KVCache
from numgpt.config import Config
from numgpt.fast import blas, cores
from numgpt.fast import model as fast
from numgpt.params import map_leaves, random_params

CONFIG = Config(n_vocab=23, n_ctx=40, n_embd=20, n_head=5, n_layer=2, eos_token_id=None)
PARAMS = map_leaves(
    lambda _, x: x + np.random.default_rng(0).normal(scale=0.4, size=x.shape).astype(x.dtype), random_params(CONFIG)
)
DICE = np.random.default_rng(1)
TEXTS = [DICE.integers(0, 23, n) for n in (30, 1, 17, 25)]


@pytest.fixture
def set_cores(monkeypatch):
    """Return a function that sets the number of cores; each step is long enough for parts, and may multiply in them."""
    monkeypatch.setattr(cores, "MANY", 2)
    monkeypatch.setattr(fast, "CHUNK", 8)
    monkeypatch.setattr(fast, "SCORES", 600)  # those of one head or two
    monkeypatch.setattr(fast, "ROWS", 3)
    monkeypatch.setenv("OPENBLAS_THREAD_TIMEOUT", "20")
    monkeypatch.setattr(blas, "steered", blas.steered)
    if not blas.steer_blas():  # on another BLAS the parts are the same
        monkeypatch.setattr(blas, "steered", True)
        monkeypatch.setattr(blas, "one_thread", nullcontext)
    return lambda n: monkeypatch.setattr(cores, "CORES", n)


@pytest.mark.parametrize("number", [2, 3, 7])
@pytest.mark.parametrize("activation", ["gelu_new", "relu"])
@pytest.mark.parametrize("keep", [0, 1, 3])
def test_in_parts_all_is_the_same_to_the_bit(set_cores, monkeypatch, number, activation, keep):
    config = CONFIG._replace(activation_function=activation)
    ways, results = [], []
    run_parts = cores.run_parts
    monkeypatch.setattr(cores, "run_parts", lambda function, edges: ways.append(edges) or run_parts(function, edges))
    for n in 1, number:
        set_cores(n)
        caches = [KVCache(config), None, KVCache(config), None]
        fast.forward([3, 1, 4], PARAMS, config, caches[0])
        logits = fast.forward_batch(TEXTS, PARAMS, config, caches, keep)
        results.append([*logits, caches[0].k[:, :, :33], caches[2].v[:, :, :17]])
        assert bool(ways) == (n > 1)
    for one, other in zip(*results, strict=True):
        np.testing.assert_array_equal(one, other)


def test_ctrl_c_in_a_part_leaves_the_cache_as_before_and_blas_on_its_threads(set_cores, monkeypatch):
    set_cores(2)
    cache = KVCache(CONFIG)
    fast.forward(TEXTS[2], PARAMS, CONFIG, cache)
    threads = blas.ask_openblas("num_threads", ctypes.c_int)
    attend = fast.attend

    def press(*arguments):
        attend(*arguments)
        raise KeyboardInterrupt

    monkeypatch.setattr(fast, "attend", press)
    with pytest.raises(KeyboardInterrupt):
        fast.forward(TEXTS[2], PARAMS, CONFIG, cache)
    monkeypatch.setattr(fast, "attend", attend)
    assert len(cache) == 17
    assert blas.ask_openblas("num_threads", ctypes.c_int) == threads
    whole = fast.forward([*TEXTS[2], *TEXTS[0][:20]], PARAMS, CONFIG)
    again = fast.forward(TEXTS[0][:20], PARAMS, CONFIG, cache)
    np.testing.assert_allclose(again, whole[17:], rtol=0, atol=1e-4)
