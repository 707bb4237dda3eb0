"""Each planted mistake is found in the tensor where it is made, and called by its name.

The mistakes are made by tests/support/broken.py, a GPT-2 of its own that shares no code with numgpt. Of what takes
long, some cases are here and all of them in tests/conformance/test_verify_bugs.py; live programs are in test_verify.py
there.
"""

import re

import numpy as np
import pytest
from support.broken import BUGS, dump
from support.dumps import IDS, NEEDS, ONCE, WORDS, check, first_tensor, storyteller, thorough, wide


@pytest.mark.parametrize("bug", list(BUGS)[::6])
def test_a_bug_in_every_layer_is_found_in_the_right_tensor_and_named(bug):
    model = wide(**NEEDS.get(bug, {}))
    tensors = dump(IDS, model.params, model.config, bug, dtype=np.float32)
    report = check(model, IDS, tensors)
    assert not report.passed
    assert report.rows[-1].name == first_tensor(bug, 1 if bug == "no inverse layer" else 0)
    assert all(row.passed for row in report.rows[:-1])
    assert report.left == len(tensors) - len(report.rows)
    assert WORDS[bug] in report.causes[0]
    assert "in layer" not in report.causes[0]
    assert "differs first" not in report.causes[0]  # it explains all that follows, too


@pytest.mark.parametrize("bug", list(BUGS)[::24])
def test_a_bug_in_every_layer_is_named_by_the_logits_alone(bug):
    model = wide(**NEEDS.get(bug, {}))
    logits = dump(IDS, model.params, model.config, bug, dtype=np.float32)["logits"]
    report = check(model, IDS, {"logits": logits})
    assert report.rows[-1].name == "logits"
    assert WORDS[bug] in report.causes[0]


IN_A_LAYER = [bug for bug in BUGS if BUGS[bug] not in ONCE and bug != "int8 by output"]  # which is of all


@pytest.mark.parametrize("bug", IN_A_LAYER[::12])
@pytest.mark.thorough
def test_a_bug_in_one_layer_is_found_there(bug):
    model = wide(**NEEDS.get(bug, {}))
    tensors = dump(IDS, model.params, model.config, bug, layer=2, dtype=np.float32)
    report = check(model, IDS, tensors)
    assert report.rows[-1].name == first_tensor(bug, 2)
    assert WORDS[bug] in report.causes[0]
    assert re.search(r"layer 2 alone|h\.2\.\S+ (alone|\(its rows)", report.causes[0])


BY_LOGITS = ["erf", "no scale", "transposed attn.c_proj", "order k q v", "unbiased variance"]


@pytest.mark.parametrize("bug", BY_LOGITS[:1])
@pytest.mark.thorough
def test_a_bug_in_one_layer_is_named_by_the_logits_alone(bug):
    model = wide()
    logits = dump(IDS, model.params, model.config, bug, layer=1, dtype=np.float32)["logits"]
    [cause, *_] = check(model, IDS, {"logits": logits}).causes
    assert WORDS[bug] in cause
    assert "in layer 1 alone" in cause


TRAINED = ["position offset 1", "epsilon 1e-6", "unbiased variance", "order k q v", "heads [T, D, H]", "no scale"]
TRAINED += ["mask sees next", "transposed attn.c_proj", "erf", "half table", "bfloat16 weights"]


@pytest.mark.thorough
@pytest.mark.parametrize("bug", TRAINED[-2:-1])
def test_bugs_are_named_in_a_trained_model(bug):
    model, ids = storyteller()
    report = check(model, ids, dump(ids, model.params, model.config, bug, dtype=np.float32))
    assert report.rows[-1].name == first_tensor(bug, 0)
    assert WORDS[bug] in report.causes[0]


@pytest.mark.thorough
@pytest.mark.parametrize("bug", ["epsilon 1e-12", "erf", "half table", "mask hides self"])
def test_bugs_are_named_in_float64_where_they_are_far_above_the_noise(bug):
    model = wide()
    report = check(model, IDS, dump(IDS, model.params, model.config, bug))
    assert report.precision == "float64"
    assert report.rows[-1].name == first_tensor(bug, 0)
    assert WORDS[bug] in report.causes[0]
    assert report.rows[-1].times > 1e8


def test_a_second_bug_behind_the_first_is_told_of():
    model = wide()
    tensors = dump(IDS, model.params, model.config, "no scale", layer=0, dtype=np.float32)
    tensors["h.1.mlp.post"] = tensors["h.1.mlp.post"] + np.float32(0.5)
    [cause, *_] = check(model, IDS, tensors).causes
    assert cause.startswith("missing 1/sqrt(D)")
    assert "behind it h.1.mlp.post differs first, by another" in cause


@pytest.mark.parametrize("name", thorough("h.1.attn.weights", "embed", "h.0.mlp_out"))
def test_dropout_is_a_cause(name):
    model = wide()
    tensors = dump(IDS, model.params, model.config, dtype=np.float32)
    kept = np.random.default_rng(0).random(tensors[name].shape) >= 0.1
    tensors[name] = tensors[name] * kept / np.float32(0.9)
    [cause, *_] = check(model, IDS, tensors).causes
    assert cause.startswith(f"{name}: dropout is switched on")


@pytest.mark.parametrize("n", [3, *thorough(1, 5)])
@pytest.mark.parametrize("full", [True, False])
def test_tokens_that_stand_before_the_text_are_told(n, full):
    """They are seen by all that follows; what a dump has of them is cut off."""
    model = wide(eos_token_id=30)
    tensors = dump([30] * n + IDS, model.params, model.config, dtype=np.float32)
    if not full:
        tensors = {"logits": tensors["logits"]}
    for name, x in tensors.items():
        for axis in range(x.ndim):
            if x.shape[axis] == n + len(IDS):
                x = x.swapaxes(0, axis)[n:].swapaxes(0, axis)
        tensors[name] = x
    [cause, *_] = check(model, IDS, tensors).causes
    assert cause.startswith(("a token stands" if n == 1 else f"{n} tokens stand") + " before the text")


TWO = [("erf", "position offset 1"), ("no scale", "no residual"), ("epsilon 1e-3", "mask sees next")]


@pytest.mark.parametrize("two", [TWO[0], *thorough(*TWO[1:])])
@pytest.mark.parametrize("full", [True, *thorough(False)])
def test_two_mistakes_are_both_named(two, full):
    model = wide()
    tensors = dump(IDS, model.params, model.config, two, dtype=np.float32)
    report = check(model, IDS, tensors if full else {"logits": tensors["logits"]})
    told = " ".join([report.causes[0], *(cause for _, cause in report.behind)])
    assert all(WORDS[bug] in told for bug in two)


def test_three_mistakes_behind_one_another_are_named():
    model = wide()
    report = check(
        model, IDS, dump(IDS, model.params, model.config, ("no positions", "no scale", "erf"), dtype=np.float32)
    )
    assert WORDS["no positions"] in report.causes[0]
    assert [at for at, _ in report.behind] == ["h.0.attn.scores", "h.0.mlp.post"]
    assert WORDS["no scale"] in report.behind[0][1]
    assert WORDS["erf"] in report.behind[1][1]


def test_scores_dumped_before_the_mask_are_told_from_a_missing_mask():
    model = wide()
    tensors = dump(IDS, model.params, model.config, dtype=np.float32)
    for layer in range(3):
        tensors[f"h.{layer}.attn.scores"] = dump(IDS, model.params, model.config, "no mask", layer, np.float32)[
            f"h.{layer}.attn.scores"
        ]
    tensors = {name: x for name, x in tensors.items() if "h.1" not in name and "h.2" not in name}
    [cause, *_] = check(model, IDS, tensors).causes
    assert cause.startswith("the scores were dumped before the mask, which itself is right")


@pytest.mark.thorough
def test_as_many_heads_as_a_head_has_features_are_known_by_their_shape_and_from_the_logits():
    """q.view(T, D, H).transpose(0, 1): D heads of size H, on the way, and something of the right shape at the end."""
    model = wide()
    other = model.config._replace(n_head=model.config.head_size)
    tensors = dump(IDS, model.params, other, dtype=np.float32)
    words = "heads split on the wrong axis: [T, C] is reshaped to [T, D, H], and taken as D heads of size H"
    report = check(model, IDS, tensors)
    assert report.rows[-1].name == "h.0.attn.q"
    assert words in report.causes[0]
    assert words in check(model, IDS, {"h.0.attn.q": tensors["h.0.attn.q"]}).causes[0]
    assert words in check(model, IDS, {"logits": tensors["logits"]}).causes[0]
    modules = {"transformer.h.0.attn.attn_dropout": tensors["h.0.attn.weights"], "lm_head": tensors["logits"]}
    report = check(model, IDS, modules)
    assert report.rows[-1].name == "h.0.attn.weights"
    assert words in report.causes[0]
