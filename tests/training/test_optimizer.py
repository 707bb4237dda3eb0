"""AdamW by hand, clipping, and the schedule."""

import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.runs import SMALL

from numgpt.params import leaves, map_leaves, random_params
from numgpt.training.optimizer import adamw, adamw_leaf, clip, schedule, start_state


def test_two_steps_of_adamw_worked_by_hand():
    """Both means forget half. The first step goes by 2/sqrt(4) and the decay of 10; the second by -2/sqrt(12)."""
    options = {"lr": 0.5, "beta1": 0.5, "beta2": 0.5, "weight_decay": 0.1, "eps": 0.0}
    p, m, v = adamw_leaf(np.array([10.0]), np.array([2.0]), np.zeros(1), np.zeros(1), t=1, **options)
    assert (p, m, v) == (10 - 0.5 * (1 + 1), 1, 2)
    p, m, v = adamw_leaf(p, np.array([-4.0]), m, v, t=2, **options)
    assert (m, v) == (-1.5, 9)
    assert p[0] == pytest.approx(9 - 0.5 * (-2 / math.sqrt(12) + 0.9), rel=1e-15)


def test_the_first_step_is_as_long_as_the_learning_rate_whatever_the_gradient():
    for g in 1e-4, 1.0, 1e4:
        p, _, _ = adamw_leaf(np.zeros(1), np.array([g]), np.zeros(1), np.zeros(1), 1, 0.01, 0.9, 0.99, 0.1)
        assert p[0] == pytest.approx(-0.01, rel=1e-3)


def test_eps_keeps_a_gradient_of_nothing_from_dividing_by_it():
    p, _, _ = adamw_leaf(np.ones(1), np.zeros(1), np.zeros(1), np.zeros(1), 1, 0.01, 0.9, 0.99, 0.0)
    assert p[0] == 1


def test_matrices_decay_embeddings_too_and_nothing_else():
    state = start_state(map_leaves(lambda path, p: np.ones_like(p, np.float64), random_params(SMALL)))
    zero = map_leaves(lambda path, p: np.zeros_like(p), state.params)
    after = adamw(state, zero, lr=0.5, weight_decay=0.25)
    for path, p in leaves(after.params):
        decayed = path in ("wte", "wpe") or path.endswith(".w")
        assert (p == (0.875 if decayed else 1.0)).all(), path


def test_a_gradient_is_clipped_as_one_vector_and_only_if_it_is_too_long():
    grads = {"a": np.array([[3.0, 0.0]]), "h": [{"b": np.array([4.0])}]}
    for limit in 5.1, 0:
        same, norm = clip(grads, limit)
        assert norm == 5
        assert same["h"][0]["b"] == 4
    short, norm = clip(grads, 2.5)
    assert norm == 5
    assert short["a"][0, 0] == pytest.approx(1.5, rel=1e-6)
    assert short["h"][0]["b"][0] == pytest.approx(2.0, rel=1e-6)


@given(st.integers(1, 400), st.data())
def test_the_schedule_goes_up_to_its_peak_and_down_to_its_end(steps, data):
    warmup = data.draw(st.integers(0, steps))
    rates = [
        schedule(step, learning_rate=1.0, min_lr=0.125, warmup_steps=warmup, steps=steps)
        for step in range(1, steps + 1)
    ]
    assert rates[:warmup] == [pytest.approx(step / warmup) for step in range(1, warmup + 1)]
    after = [1.0, *rates[warmup:]]
    assert all(a > b for a, b in pairwise(after))
    if warmup < steps:
        assert rates[-1] == 0.125
        assert rates[(steps + warmup) // 2 - 1] == pytest.approx(0.5625, abs=2 / (steps - warmup))  # half way


def test_the_values_of_the_schedule():
    options = {"learning_rate": 1.0, "min_lr": 0.0, "warmup_steps": 4, "steps": 10}
    assert schedule(1, **options) == 0.25
    assert schedule(6, **options) == pytest.approx((1 + math.cos(math.pi / 3)) / 2)  # a third of the way down
    assert schedule(10, **options) == 0
