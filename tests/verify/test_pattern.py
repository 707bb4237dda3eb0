"""What the logits say by themselves is a cause; what no cause explains is described."""

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
        (lambda x: 3 * x, "every value is 3 times ours"),
        (lambda x: x / np.float32(2), "every value is 0.5 = 1/sqrt(D) times ours"),
        (lambda x: x + np.float32(2), "every value is 2 more than ours"),
        (with_dropout, "dropout is switched on: 14 % of the values are 0, the others 1.111 times ours"),
        (at_position_4, "position 4 is 1 more than ours"),
        (lambda x: np.roll(x, 1, axis=1), "all are moved along the axis of features by 1: feature 1 is our 0"),
        (
            lambda x: x[[0, 0, 1, 2, 3, 4, 5, 6, 7]],
            "all are moved along the axis of positions by 1: position 1 is our 0",
        ),
    ],
)
def test_what_the_logits_say_by_themselves_is_a_cause(change, told):
    assert broken_logits(change).causes[0].startswith(f"logits: {told}")


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (with_noise, "the correlation with ours is 0."),
        (with_nan, "1 of 279 values are NaN"),
        (lambda x: x * np.nan, "279 of 279 values are NaN: from a softmax of masked scores alone"),
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
