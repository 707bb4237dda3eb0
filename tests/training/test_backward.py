"""Gradients: by hand, against differences of the function itself, and properties that any gradient has.

That they are PyTorch's is in test_reference.py, from stored values, and in conformance/, live.
"""

import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from numgpt import model, ops
from numgpt.config import Config
from numgpt.errors import ContextError, OptionError, TokenError
from numgpt.params import leaves, map_leaves, random_params
from numgpt.training import backward
from numgpt.training.backward import ACTIVATIONS_BACKWARD, cross_entropy, loss_and_grads
from numgpt.training.gradient_check import check_gradient

CONFIG = Config(n_vocab=11, n_ctx=6, n_embd=8, n_head=2, n_layer=2)
draw = np.random.default_rng(0)


def wide(config, dtype="float64"):
    """Parameters at which every part of the model does something."""
    draw = np.random.default_rng(1)
    return map_leaves(
        lambda _, x: (x + draw.normal(scale=0.4, size=x.shape)).astype(dtype), random_params(config, dtype=dtype)
    )


PARAMS = wide(CONFIG)
IDS, TARGETS = draw.integers(11, size=(3, 6)), draw.integers(11, size=(3, 6))


def slope(function, x, d_y, step=1e-6):
    """The gradient of sum(d_y * function(x)), by a central difference for each element of x."""
    out = np.empty_like(x)
    for at in np.ndindex(*x.shape):
        ends = []
        for sign in (1, -1):
            moved = x.copy()
            moved[at] += sign * step
            ends.append(np.sum(d_y * function(moved)))
        out[at] = (ends[0] - ends[1]) / (2 * step)
    return out


def close(found, expected):
    """The error of a central difference: step^2 of it from the curve, 1e-16 / step of it from rounding."""
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-8 * max(1, np.abs(expected).max()))


# --- op by op


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
    close(backward.softmax_backward(d_y, ops.softmax(x)), slope(ops.softmax, x, d_y))


@given(shapes, st.integers(2, 5))
@settings(max_examples=15)
def test_layer_norm(shape, n):
    x, d_y, g, b = (
        draw.normal(size=(*shape, n)),
        draw.normal(size=(*shape, n)),
        draw.normal(size=n),
        draw.normal(size=n),
    )
    d_x, grads = backward.layer_norm_backward(d_y, x, g, eps=0.1)
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
    d_x, grads = backward.linear_backward(d_y, x, w)
    close(d_x, slope(lambda x: ops.linear(x, w, bias), x, d_y))
    close(grads["w"], slope(lambda w: ops.linear(x, w, bias), w, d_y))
    close(grads["b"], slope(lambda bias: ops.linear(x, w, bias), bias, d_y))


@pytest.mark.parametrize("shape", [(2, 4, 3), (2, 2, 3, 2), (1, 1, 1)])
def test_attend(shape):
    q, k, v, d_z = draw.normal(size=(4, *shape))
    seen = {}
    model.attend(q, k, v, 0.7, lambda name, x: seen.setdefault(name, x))
    found = backward.attend_backward(d_z, q, k, v, seen["attn.weights"], 0.7)
    close(found[0], slope(lambda q: model.attend(q, k, v, 0.7), q, d_z))
    close(found[1], slope(lambda k: model.attend(q, k, v, 0.7), k, d_z))
    close(found[2], slope(lambda v: model.attend(q, k, v, 0.7), v, d_z))


def test_the_gradient_of_masked_scores_is_0_though_that_of_their_weights_is_not():
    seen = {}
    loss_and_grads(IDS, TARGETS, PARAMS, CONFIG, lambda name, x: seen.setdefault(name, x))
    masked = np.isneginf(seen["h.0.attn.scores"])
    assert masked.sum() == 3 * 2 * 15
    assert (seen["d_h.0.attn.scores"][masked] == 0).all()
    assert (seen["d_h.0.attn.weights"][masked] != 0).all()


@pytest.mark.parametrize("ids", [[4, 4, 4], [[1, 2], [2, 1]], [[3, 3], [3, 3]]])
def test_an_id_that_comes_several_times_gathers_all_its_gradients(ids):
    ids = np.array(ids)
    wte, wpe, d_x = draw.normal(size=(5, 2)), draw.normal(size=(4, 2)), draw.normal(size=(*ids.shape, 2))
    d_wte, d_wpe = backward.embed_backward(d_x, ids, n_vocab=5, n_ctx=4)
    close(d_wte, slope(lambda wte: model.embed(ids, wte, wpe), wte, d_x))
    close(d_wpe, slope(lambda wpe: model.embed(ids, wte, wpe), wpe, d_x))


def test_cross_entropy_and_its_gradient():
    logits = draw.normal(scale=3, size=(2, 4, 5))
    targets = np.array([[0, -1, 4, 2], [1, 1, -1, 3]])
    probabilities = ops.softmax(logits)
    by_hand = -np.mean([np.log(probabilities[b, t, i]) for (b, t), i in np.ndenumerate(targets) if i >= 0])
    assert cross_entropy(logits, targets) == pytest.approx(by_hand, rel=1e-14)
    found = backward.cross_entropy_backward(logits, targets)
    close(found, slope(lambda x: cross_entropy(x, targets), logits, 1.0))
    assert (found[0, 1] == 0).all()


def test_cross_entropy_neither_overflows_nor_loses_what_float32_rounds():
    assert cross_entropy(np.array([[3e38, -3e38]], np.float32), np.array([1])) == pytest.approx(6e38)
    assert cross_entropy(np.array([[0.0, -20.0]]), np.array([0])) == pytest.approx(2.061e-9, rel=1e-3)


# --- the whole


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"activation_function": "gelu"},
        {"activation_function": "silu", "tie_word_embeddings": False, "n_inner": 5},
        {"scale_attn_by_inverse_layer_idx": True, "scale_attn_weights": False, "layer_norm_epsilon": 0.05},
        {"n_head": 8, "activation_function": "tanh"},
    ],
)
def test_every_gradient_is_the_slope_of_the_loss(changes):
    config = CONFIG._replace(**changes)
    params = wide(config)
    found = check_gradient(IDS, TARGETS, params, config)
    assert list(found) == [path for path, _ in leaves(params)]
    for along, difference in found.values():
        assert along == pytest.approx(difference, rel=1e-6, abs=1e-8)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("tied", [True, False])
def test_gradients_are_a_tree_like_the_parameters(dtype, tied):
    config = CONFIG._replace(tie_word_embeddings=tied)
    params = wide(config, dtype)
    loss, grads = loss_and_grads(IDS[0], TARGETS[0], params, config)
    assert type(loss) is float
    assert [(path, x.shape, x.dtype) for path, x in leaves(grads)] == [
        (path, x.shape, x.dtype) for path, x in leaves(params)
    ]


def test_of_the_positions_past_the_text_there_is_no_gradient():
    _, grads = loss_and_grads(IDS[:, :4], TARGETS[:, :4], PARAMS, CONFIG)
    assert (grads["wpe"][4:] == 0).all()
    assert (grads["wpe"][:4] != 0).all()


def test_a_batch_is_the_mean_of_its_rows():
    loss, grads = loss_and_grads(IDS, TARGETS, PARAMS, CONFIG)
    alone = [loss_and_grads(ids, targets, PARAMS, CONFIG) for ids, targets in zip(IDS, TARGETS, strict=True)]
    assert loss == pytest.approx(np.mean([one for one, _ in alone]), rel=1e-13)
    rows = [dict(leaves(one)) for _, one in alone]
    for path, x in leaves(grads):
        np.testing.assert_allclose(x, np.mean([row[path] for row in rows], axis=0), rtol=0, atol=1e-14)


def test_targets_that_do_not_count_are_as_if_they_were_not_there():
    targets = TARGETS[0].copy()
    targets[4:] = -1
    loss, grads = loss_and_grads(IDS[0], targets, PARAMS, CONFIG)
    short, expected = loss_and_grads(IDS[0, :4], targets[:4], PARAMS, CONFIG)  # nothing before sees what comes after
    assert loss == pytest.approx(short, rel=1e-14)
    for (path, x), (_, y) in zip(leaves(grads), leaves(expected), strict=True):
        np.testing.assert_allclose(x, y, rtol=0, atol=1e-14, err_msg=path)


def test_loss_is_that_of_loss_and_grads():
    assert backward.loss(IDS, TARGETS, PARAMS, CONFIG) == loss_and_grads(IDS, TARGETS, PARAMS, CONFIG)[0]


def test_a_gradient_that_is_replaced_goes_on_as_it_is():
    def cut(name, x):
        return np.zeros_like(x) if name == "d_h.1.resid_mid" else x

    _, grads = loss_and_grads(IDS, TARGETS, PARAMS, CONFIG, cut)
    assert all((x == 0).all() for _, x in leaves(grads["h"][0]))
    assert all((x == 0).all() for _, x in leaves(grads["h"][1]["attn"]))
    assert any((x != 0).any() for _, x in leaves(grads["h"][1]["mlp"]))


def test_an_activation_that_is_replaced_is_what_the_gradient_is_taken_at():
    def patch(name, x):
        return x + 1 if name == "h.0.attn.z" else x

    loss, _ = loss_and_grads(IDS, TARGETS, PARAMS, CONFIG, patch)
    seen = {}
    model.compute_logits(IDS, PARAMS, CONFIG, record=lambda name, x: seen.setdefault(name, patch(name, x)))
    assert loss == cross_entropy(seen["logits"], TARGETS)


# --- check_gradient


@pytest.mark.parametrize("path", ["wte", "wpe", "h.1.ln_2.b", "h.0.attn.c_attn.w", "ln_f.g"])
def test_a_wrong_gradient_is_named_with_both_numbers(path):
    def broken(*arguments):
        loss, grads = loss_and_grads(*arguments)
        return loss, map_leaves(lambda at, x: x * 1.001 if at == path else x, grads)

    with pytest.raises(AssertionError) as error:
        check_gradient(IDS, TARGETS, PARAMS, CONFIG, broken)
    found = re.match(
        r"(\S+): the gradient says (\S+) along a direction drawn at random, the loss itself changes by (\S+): ",
        str(error.value),
    )
    assert found[1] == path
    assert float(found[2]) == pytest.approx(1.001 * float(found[3]), rel=1e-6)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda loss, grads: (loss, {**grads, "wpe": grads["wpe"][:1]}), "wpe: shape (1, 8), expected (6, 8)"),
        (lambda loss, grads: (loss, {"wte": grads["wte"], "h": grads["h"], "ln_f": grads["ln_f"]}), "missing: wpe"),
        (lambda loss, grads: (loss, map_leaves(lambda _, x: x * np.nan, grads)), "wte: the gradient says nan"),
        (lambda loss, grads: (loss * 18, grads), "expected 2.8126635"),  # the sum, of 18 targets, for the mean
        (lambda loss, grads: (np.nan, grads), "the loss is nan"),
    ],
)
def test_another_loss_and_gradients_of_another_form_are_refused(change, message):
    with pytest.raises(AssertionError, match=re.escape(message)):
        check_gradient(IDS, TARGETS, PARAMS, CONFIG, lambda *arguments: change(*loss_and_grads(*arguments)))


@pytest.mark.parametrize(
    "changes",
    [
        {"activation_function": "relu"},  # corners
        {"n_embd": 2, "layer_norm_epsilon": 1e-12},  # a layer norm that is nearly a step
        {"n_embd": 2, "n_head": 1, "layer_norm_epsilon": 0.1},  # gradients of 1e-7
        {"n_embd": 1, "n_head": 1},  # a layer norm whose output is constant: most gradients are 0
    ],
)
def test_a_right_gradient_passes_where_differences_are_hard_to_take(changes):
    config = CONFIG._replace(**changes)
    for params in wide(config), random_params(config):
        for seed in range(3):
            check_gradient(IDS, TARGETS, params, config, seed=seed)


def test_the_seed_draws_the_directions():
    first, again, other = (check_gradient(IDS, TARGETS, PARAMS, CONFIG, seed=seed) for seed in (1, 1, 2))
    assert first == again
    assert all(first[path][0] != other[path][0] for path in first)


@pytest.mark.parametrize("activation", ["gelu_new", "relu"])
def test_one_wrong_element_of_a_gradient_is_found_in_any_parameter(activation):
    config = CONFIG._replace(activation_function=activation)
    loss, grads = loss_and_grads(IDS, TARGETS, PARAMS, config)
    for path, x in leaves(grads):
        wrong = x.copy()
        wrong.flat[x.size // 2] += 1e-3 * np.abs(x).max()
        given = loss, map_leaves(lambda at, x, path=path, wrong=wrong: wrong if at == path else x, grads)
        with pytest.raises(AssertionError, match=f"^{path}: "):
            check_gradient(IDS, TARGETS, PARAMS, config, lambda *arguments, given=given: given)


def test_a_rough_gradient_passes_with_a_tolerance_of_its_own():
    loss, grads = loss_and_grads(IDS, TARGETS, PARAMS, CONFIG)
    rough = loss, map_leaves(lambda _, x: x * (1 + 1e-4 * draw.normal(size=x.shape)), grads)
    check_gradient(IDS, TARGETS, PARAMS, CONFIG, lambda *arguments: rough, tolerance=1e-3)
    with pytest.raises(AssertionError):
        check_gradient(IDS, TARGETS, PARAMS, CONFIG, lambda *arguments: rough)


# --- wrong arguments


@pytest.mark.parametrize(
    ("ids", "targets", "error", "message"),
    [
        ([1, 2], [1], TokenError, "ids (2,) and targets (1,): expected the same shape, [T] or [B, T]"),
        (3, 4, TokenError, "ids () and targets (): expected the same shape"),
        ([[1], [2, 3]], [[1], [2, 3]], TokenError, "expected rows of one length each"),
        ([1.5], [1], TokenError, "expected integers, got float64 and int64"),
        ([1, 11], [1, 2], TokenError, "ids[1] is 11, expected 0 to 10"),
        (
            [1, 2],
            [1, -2],
            TokenError,
            "targets: ids[1] is -2, expected 0 to 10, the vocabulary of this model; -1 for one",
        ),
        ([1, 2], [11, 1], TokenError, "targets: ids[0] is 11, expected 0 to 10"),
        ([1] * 7, [1] * 7, ContextError, "7 tokens, but the context of this model is 6"),
        ([1, 2], [-1, -1], OptionError, "targets: all are -1, so none counts"),
        ([], [], TokenError, "ids (0,) and targets (0,): expected the same shape, [T] or [B, T], not empty"),
    ],
)
def test_wrong_ids_and_targets_are_named(ids, targets, error, message):
    with pytest.raises(error, match=re.escape(message)):
        loss_and_grads(ids, targets, PARAMS, CONFIG)
    with pytest.raises(error, match=re.escape(message)):
        backward.loss(ids, targets, PARAMS, CONFIG)
