"""A setting out of its range is named before any work."""

import math

import pytest
from support.runs import TINY

from numgpt.errors import NumgptError
from numgpt.training.run import train


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("steps", 0, "steps is 0, expected an integer of 1 or more"),
        ("batch_size", -1, "batch_size is -1, expected an integer of 1 or more"),
        ("block_size", 0, "block_size is 0, expected an integer of 1 or more"),
        ("n_layer", 0, "n_layer is 0, expected an integer of 1 or more"),
        ("n_embd", 9, "n_embd is 9, expected a multiple of n_head, 2"),
        ("learning_rate", 0, "learning_rate is 0, expected a number above 0"),
        ("learning_rate", math.nan, "learning_rate is nan, expected a number above 0"),
        ("min_lr", 1.0, "min_lr is 1.0, expected a number from 0 to learning_rate, 0.001"),
        ("warmup_steps", -1, "warmup_steps is -1, expected an integer of 0 or more"),
        ("weight_decay", -0.1, "weight_decay is -0.1, expected a number, 0 or more"),
        ("grad_clip", math.inf, "grad_clip is inf, expected a number, 0 or more"),
        ("beta1", 1.0, "beta1 is 1.0, expected a number from 0 to below 1"),
        ("beta2", -0.5, "beta2 is -0.5, expected a number from 0 to below 1"),
        ("seed", -1, "seed is -1, expected an integer from 0 to 2^64 - 1"),
        ("dtype", "float16", "dtype is 'float16', expected float32 or float64"),
        ("answers_after", "", "answers_after is '', expected one or more characters"),
        ("start", "storyteller", "n_layer is 1, expected nothing: storyteller has its own sizes"),
        ("eval_interval", 0, "eval_interval is 0, expected an integer of 1 or more"),
        ("tokenizer", "nope", "no checkpoint 'nope'"),
    ],
)
def test_a_setting_out_of_its_range_is_named_before_any_work(text, tmp_path, name, value, message):
    with pytest.raises(NumgptError) as caught:
        train(text, tmp_path / "out", **{**TINY, name: value})
    assert message in str(caught.value)
    assert not (tmp_path / "out").exists()
