"""What is computed from the tensors, not guessed."""

import numpy as np
import pytest
from support.broken import dump
from support.dumps import IDS, check, wide


@pytest.mark.thorough
def test_an_odd_epsilon_is_solved_for():
    model = wide()
    other = model.config._replace(layer_norm_epsilon=0.0042)
    tensors = dump(IDS, model.params, other, dtype=np.float32)
    expected = "wrong epsilon in the layer norm: 0.0042 instead of 1e-05"
    assert expected in check(model, IDS, tensors).causes[0]
    assert expected in check(model, IDS, {"logits": tensors["logits"]}).causes[0]
