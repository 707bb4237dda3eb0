"""What no cause explains is described."""

import numpy as np
import pytest
from support.broken import dump
from support.dumps import IDS, check, wide


def broken_logits(change):
    model = wide(n_layer=1)  # as each layer is searched
    logits = dump(IDS, model.params, model.config, dtype=np.float32)["logits"]
    return check(model, IDS, {"logits": change(logits.copy())})


def with_noise(x):
    return x + np.random.default_rng(0).standard_normal(x.shape).astype(x.dtype)


def with_dropout(x):
    kept = np.random.default_rng(0).random(x.shape) < 0.9
    return np.where(kept, x / np.float32(0.9), 0)


def with_nan(x):
    x[2, 3] = np.nan
    return x


def at_position_4(x):
    x[4] += 1
    return x


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (with_noise, "the correlation with ours is 0."),
        (lambda x: 3 * x, "every value is 3 times ours"),
        (lambda x: x / np.float32(2), "every value is 0.5 = 1/sqrt(D) times ours"),
        (with_dropout, "the others are 1.111 times ours: dropout is switched on"),
        (with_nan, "1 of 279 values are NaN"),
        (lambda x: x * np.nan, "279 of 279 values are NaN: from a softmax of masked scores alone"),
        (at_position_4, "of 9 along the axis of positions 1 differ: 4"),
        (
            lambda x: np.roll(x, 1, axis=1),
            "31 of 31 along the axis of features are moved: feature 0 is our 30,",
        ),
        (
            lambda x: x[[0, 0, 1, 2, 3, 4, 5, 6, 7]],
            "along the axis of positions are moved: position 1 is our 0,",
        ),
    ],
)
@pytest.mark.thorough
def test_a_difference_that_no_cause_explains_is_described(change, told):
    report = broken_logits(change)
    assert report.causes == []
    assert any(told in line for line in report.pattern), report.pattern


def test_logits_that_went_through_a_softmax_are_known():
    def log_softmax(x):
        return x - np.log(np.exp(x.astype(np.float64)).sum(axis=1, keepdims=True)).astype(np.float32)

    assert broken_logits(log_softmax).causes[0].startswith("the logits are log-probabilities")
    assert broken_logits(lambda x: np.exp(log_softmax(x))).causes[0].startswith("the logits are probabilities")


def test_another_text_is_told_and_another_checkpoint_suspected_where_the_embedding_differs():
    model = wide()
    embed = dump(IDS[::-1], model.params, model.config, dtype=np.float32)["embed"]
    report = check(model, IDS, {"embed": embed})
    assert report.causes[0].startswith("embed: other ids: 5, 3, 5, 26, 9, 15, 4, 1, ... instead of 3, 1, 4")
    report = check(model, IDS, {"embed": embed + np.random.default_rng(0).normal(size=embed.shape)})
    assert "is it the same checkpoint, and are these the ids?" in report.pattern
