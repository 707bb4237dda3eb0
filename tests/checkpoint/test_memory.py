"""How the parameters lie in memory."""

import math
import threading
from itertools import pairwise

import numpy as np
import pytest
from support.checkpoints import hub_tensors
from support.readers import Spy

from numgpt.checkpoint.memory import read_params
from numgpt.checkpoint.names import match_params
from numgpt.checkpoint.tensors import LazyTensor
from numgpt.config import Config
from numgpt.errors import CheckpointError
from numgpt.params import leaves, random_params

TINY = Config(n_vocab=11, n_ctx=7, n_embd=6, n_head=2, n_layer=2, n_inner=10)


class Idle:
    """A second thread that does nothing."""

    def __init__(self, target):
        pass

    def start(self):
        pass

    join = start


def test_the_largest_tensors_are_read_first(monkeypatch):
    monkeypatch.setattr("numgpt.checkpoint.memory.Thread", Idle)
    spy = Spy(hub_tensors())
    read_params(*match_params(spy.tensors, TINY, "x"))
    sizes = [spy.tensors[name].shape for name in spy.reads]
    assert sizes == sorted(sizes, key=lambda shape: -math.prod(shape))


@pytest.mark.parametrize("name", ["wte.weight", "ln_f.bias"])
@pytest.mark.parametrize("error", [CheckpointError("damaged"), KeyboardInterrupt()])
def test_what_can_not_be_read_is_told_and_no_thread_goes_on(name, error):
    tensors = Spy(hub_tensors()).tensors

    def fail():
        raise error

    given, config = match_params(tensors | {name: tensors[name]._replace(read=fail)}, TINY, "x")
    before = threading.active_count()
    with pytest.raises(type(error)):
        read_params(given, config)
    assert threading.active_count() == before


def test_the_tall_matrix_of_the_mlp_lies_in_memory_by_columns():
    config = Config(n_vocab=9, n_ctx=5, n_embd=4, n_head=2, n_layer=2, n_inner=130)
    params = random_params(config)
    given = {path: LazyTensor("F32", x.shape, x.copy) for path, x in leaves(params)}
    for (path, x), (_, y) in zip(leaves(read_params(given, config)), leaves(params), strict=True):
        np.testing.assert_array_equal(x, y, err_msg=path)
        assert x.flags.f_contiguous if path.endswith("mlp.c_proj.w") else x.flags.c_contiguous


def test_all_lie_in_one_block_and_each_begins_at_a_cache_line():
    params = read_params(*match_params(Spy(hub_tensors()).tensors, TINY, "x"))
    arrays = [x if x.flags.c_contiguous else x.T for _, x in leaves(params)]
    assert all(x.ctypes.data % 64 == 0 for x in arrays)
    places = sorted((x.ctypes.data, x.nbytes) for x in arrays)
    assert all(at + size <= after for (at, size), (after, _) in pairwise(places))
    assert places[-1][0] - places[0][0] < sum(size + 64 for _, size in places)
