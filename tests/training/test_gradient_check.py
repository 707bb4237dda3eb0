"""check_gradient: it names what is wrong, with both numbers, and lets pass what is right."""

import re

import numpy as np
import pytest
from support.gradients import CONFIG, IDS, PARAMS, TARGETS, wide

from numgpt.params import leaves, map_leaves, random_params
from numgpt.training.backward import loss_and_grads
from numgpt.training.gradient_check import check_gradient

draw = np.random.default_rng(0)


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


@pytest.mark.thorough
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


@pytest.mark.parametrize("activation", ["gelu_new", pytest.param("relu", marks=pytest.mark.thorough)])
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
