"""Gradients of the whole: by hand, against differences of the loss, and properties that any gradient has.

That they are PyTorch's is in test_reference.py, from stored values, and in conformance/, live.
"""

import re

import numpy as np
import pytest
from support.gradients import CONFIG, IDS, PARAMS, TARGETS, close, slope, wide

from numgpt import model, ops
from numgpt.errors import ContextError, OptionError, TokenError
from numgpt.params import leaves
from numgpt.training import backward
from numgpt.training.backward import cross_entropy, loss_and_grads
from numgpt.training.gradient_check import check_gradient

draw = np.random.default_rng(0)


def test_the_gradient_of_masked_scores_is_0_though_that_of_their_weights_is_not():
    seen = {}
    loss_and_grads(IDS, TARGETS, PARAMS, CONFIG, lambda name, x: seen.setdefault(name, x))
    masked = np.isneginf(seen["h.0.attn.scores"])
    assert masked.sum() == 3 * 2 * 15
    assert (seen["d_h.0.attn.scores"][masked] == 0).all()
    assert (seen["d_h.0.attn.weights"][masked] != 0).all()


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
