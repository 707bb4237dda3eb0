"""A step changes nothing that it is given, and an evaluation is that of greedy decoding."""

import numpy as np
import pytest
from support.runs import SMALL

import numgpt
from numgpt.params import leaves, map_leaves, random_params
from numgpt.training.examples import Examples, batch, windows_of
from numgpt.training.optimizer import start_state
from numgpt.training.settings import Settings
from numgpt.training.steps import evaluate, train_step


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_step_keeps_the_dtype_and_changes_no_argument(dtype):
    state = start_state(random_params(SMALL, dtype=dtype))
    before = map_leaves(lambda path, p: p.copy(), list(state[1:]))
    examples = batch(windows_of([1, 2, 3, 4, 5, 6], 4), 2, seed=0, step=1)
    after, _, _ = train_step(state, examples, SMALL, Settings())
    assert after.step == 1
    for tree in after[1:]:
        assert {x.dtype for _, x in leaves(tree)} == {np.dtype(dtype)}
    for (path, x), (_, y) in zip(leaves(before), leaves(list(state[1:])), strict=True):
        assert np.array_equal(x, y), path
    assert not np.array_equal(after.params["wte"], state.params["wte"])


def test_the_share_of_right_answers_is_that_of_greedy_decoding():
    """Answers that the model itself has made are right, to the end; with one id changed they are not."""
    params = map_leaves(lambda path, p: p * 12, random_params(SMALL, seed=2))
    questions = [[i, j] for i in range(4) for j in range(4)]
    made = numgpt.generate_batch(questions, params, SMALL._replace(eos_token_id=None), max_new_tokens=3, temperature=0)
    assert len({tuple(answer) for answer in made}) > 3
    ids = np.array([q + answer[:2] for q, answer in zip(questions, made, strict=True)])
    targets = np.array([[-1, *answer] for answer in made])
    for row, column in (3, 1), (8, 3), (9, 2):
        targets[row, column] = (targets[row, column] + 1) % 9
    for size in 1, 5, 16:
        assert evaluate(Examples(ids, targets), params, SMALL, size)[1] == 13 / 16


def test_the_loss_of_an_evaluation_weighs_each_target_alike():
    params = random_params(SMALL, dtype=np.float64)
    ids = np.array([[1, 2, 3], [4, 5, 6], [7, 8, 1]])
    targets = np.array([[2, 3, 4], [-1, -1, 7], [-1, 1, 2]])
    logits = np.array([numgpt.forward(row, params, SMALL) for row in ids])
    log_probs = logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))
    expected = np.mean([-log_probs[i, t, targets[i, t]] for i, t in np.argwhere(targets >= 0)])
    for size in 1, 2, 3:
        assert evaluate(Examples(ids, targets), params, SMALL, size)[0] == pytest.approx(expected, rel=1e-12)
