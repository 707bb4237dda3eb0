"""The gradient of each operation against differences of the operation itself."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.gradients import close, slope

from numgpt import model, ops
from numgpt.training import backward_ops
from numgpt.training.backward_ops import ACTIVATIONS_BACKWARD

draw = np.random.default_rng(0)


@pytest.mark.parametrize("name", ops.ACTIVATIONS)
def test_activations(name):
    x = np.concatenate([draw.normal(scale=2, size=40), [-30.0, 30.0, 0.5]])
    d_y = draw.normal(size=x.shape)
    close(ACTIVATIONS_BACKWARD[name](d_y, x), slope(ops.ACTIVATIONS[name], x, d_y))


@pytest.mark.parametrize("name", ops.ACTIVATIONS)
def test_activations_far_from_0_give_finite_gradients_without_a_warning(name):
    x = np.array([-1e4, 1e4], np.float32)
    found = ACTIVATIONS_BACKWARD[name](np.ones(2, np.float32), x)
    assert found.tolist() == [0, 0 if name == "tanh" else 1]


def test_there_is_a_way_back_through_each_activation():
    assert ACTIVATIONS_BACKWARD.keys() == ops.ACTIVATIONS.keys()


shapes = st.lists(st.integers(1, 3), max_size=2)  # of the leading axes


@given(shapes, st.integers(1, 5))
@settings(max_examples=15)
def test_softmax(shape, n):
    x, d_y = draw.normal(size=(*shape, n)), draw.normal(size=(*shape, n))
    close(backward_ops.softmax_backward(d_y, ops.softmax(x)), slope(ops.softmax, x, d_y))


@given(shapes, st.integers(2, 5))
@settings(max_examples=15)
def test_layer_norm(shape, n):
    x, d_y, g, b = (
        draw.normal(size=(*shape, n)),
        draw.normal(size=(*shape, n)),
        draw.normal(size=n),
        draw.normal(size=n),
    )
    d_x, grads = backward_ops.layer_norm_backward(d_y, x, g, eps=0.1)
    close(d_x, slope(lambda x: ops.layer_norm(x, g, b, eps=0.1), x, d_y))
    close(grads["g"], slope(lambda g: ops.layer_norm(x, g, b, eps=0.1), g, d_y))
    close(grads["b"], slope(lambda b: ops.layer_norm(x, g, b, eps=0.1), b, d_y))


@given(shapes, st.integers(1, 4), st.integers(1, 4))
@settings(max_examples=15)
def test_linear(shape, a, b):
    x, d_y, w, bias = (
        draw.normal(size=(*shape, a)),
        draw.normal(size=(*shape, b)),
        draw.normal(size=(a, b)),
        np.zeros(b),
    )
    d_x, grads = backward_ops.linear_backward(d_y, x, w)
    close(d_x, slope(lambda x: ops.linear(x, w, bias), x, d_y))
    close(grads["w"], slope(lambda w: ops.linear(x, w, bias), w, d_y))
    close(grads["b"], slope(lambda bias: ops.linear(x, w, bias), bias, d_y))


@pytest.mark.parametrize("shape", [(2, 4, 3), (2, 2, 3, 2), (1, 1, 1)])
def test_attend(shape):
    q, k, v, d_z = draw.normal(size=(4, *shape))
    seen = {}
    model.attend(q, k, v, 0.7, lambda name, x: seen.setdefault(name, x))
    found = backward_ops.attend_backward(d_z, q, k, v, seen["attn.weights"], 0.7)
    close(found[0], slope(lambda q: model.attend(q, k, v, 0.7), q, d_z))
    close(found[1], slope(lambda k: model.attend(q, k, v, 0.7), k, d_z))
    close(found[2], slope(lambda v: model.attend(q, k, v, 0.7), v, d_z))


@pytest.mark.parametrize("ids", [[4, 4, 4], [[1, 2], [2, 1]], [[3, 3], [3, 3]]])
def test_an_id_that_comes_several_times_gathers_all_its_gradients(ids):
    ids = np.array(ids)
    wte, wpe, d_x = draw.normal(size=(5, 2)), draw.normal(size=(4, 2)), draw.normal(size=(*ids.shape, 2))
    d_wte, d_wpe = backward_ops.embed_backward(d_x, ids, n_vocab=5, n_ctx=4)
    close(d_wte, slope(lambda wte: model.embed(ids, wte, wpe), wte, d_x))
    close(d_wpe, slope(lambda wpe: model.embed(ids, wte, wpe), wpe, d_x))
