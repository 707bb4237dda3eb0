"""Each row of the tables of mistakes: it names tensors of the model, and makes something come out otherwise."""

import numpy as np
import pytest
from support.dumps import IDS, wide

from numgpt.params import map_leaves
from numgpt.trace import collect, layer_and_base
from numgpt.verify.causes import all_causes, with_layers
from numgpt.verify.foreign import Found
from numgpt.verify.noise import gap_between
from numgpt.verify.passes import run

KINDS = [{}, {"scale_attn_by_inverse_layer_idx": True, "activation_function": "gelu", "tie_word_embeddings": False}]


@pytest.mark.parametrize("changes", [KINDS[0], pytest.param(KINDS[1], marks=pytest.mark.thorough)])
def test_every_mistake_changes_what_it_names_and_nothing_else(changes):
    model = wide(**changes)
    params = map_leaves(lambda path, x: x.astype(np.float64), model.params)
    right = collect(IDS, model._replace(params=params))
    dump = {name: Found(name, x, veiled=False) for name, x in right.items()}
    listed = list(all_causes(model.config, params, eps=0.0042))
    assert len(listed) > 120
    for cause in listed:
        made = run(np.array(IDS), params, model.config, dump, cause)
        touched = {layer_and_base(name)[1] for name in made if gap_between(name, made[name], right[name]).rms > 0}
        assert touched, cause.words
        assert cause.patch or cause.before or touched <= {*cause.edits, *cause.shown}, cause.words


@pytest.mark.parametrize("changes", [{"n_head": 1, "n_layer": 1}, {"n_embd": 1, "n_head": 1}, {"n_head": 12}])
def test_what_a_model_can_not_get_wrong_is_not_tried(changes):
    words = [cause.words for cause in all_causes(wide(**changes).config, {})]
    assert any("split on the wrong axis" in line for line in words) == (changes["n_head"] > 1)
    assert any("unbiased" in line for line in words) == (changes.get("n_embd") != 1)
    assert any("every layer has the parameters" in line for line in words) == ("n_layer" not in changes)
    assert not any("lm_head" in line for line in words)


def test_layers_that_a_mistake_before_left_out_are_passed_over():
    assert with_layers({"h": ["first", "second"]}, [2, 1, 0]) == {"h": ["second", "first"]}
