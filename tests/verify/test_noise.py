"""What rounding may do: precisions, the noise, and what stands for a masked score."""

import numpy as np
import pytest
from support.broken import dump
from support.dumps import IDS, check, wide

from numgpt.verify.noise import to_bfloat16, to_float16


@pytest.mark.parametrize("name", ["float16", "bfloat16"])
def test_a_dump_in_half_precision_is_held_to_it(name):
    model = wide()
    halved = to_float16 if name == "float16" else to_bfloat16
    tensors = {key: halved(x) for key, x in dump(IDS, model.params, model.config, dtype=np.float32).items()}
    report = check(model, IDS, tensors)
    assert report.passed
    assert report.precision == name
    wrong = {key: halved(x) for key, x in dump(IDS, model.params, model.config, "no scale", None, np.float32).items()}
    assert check(model, IDS, wrong).causes[0].startswith("missing 1/sqrt(D)")


def test_float32_numbers_in_a_file_of_float64_are_held_to_float32():
    model = wide()
    tensors = dump(IDS, model.params, model.config, dtype=np.float32)
    report = check(model, IDS, {name: x.astype(np.float64) for name, x in tensors.items()})
    assert report.passed
    assert report.precision == "float32"


def test_the_noise_is_that_of_float32_against_float64():
    model = wide()
    tensors = dump(IDS, model.params, model.config, dtype=np.float32)
    exact = {name: x.astype(np.float64) for name, x in tensors.items()}
    for row in check(model, IDS, tensors).rows:
        largest = np.abs(exact[row.name][np.isfinite(exact[row.name])]).max()
        assert 2.0**-23 * largest * 0.99 <= row.noise <= 2.0**-23 * largest * 50


@pytest.mark.parametrize("lowest", [-1e4, -1e9, np.finfo(np.float32).min])
def test_masked_scores_may_be_any_huge_negative_number(lowest):
    model = wide()
    tensors = dump(IDS, model.params, model.config, dtype=np.float32)
    tensors = {name: np.maximum(x, lowest) if name.endswith("scores") else x for name, x in tensors.items()}
    assert check(model, IDS, tensors).passed
