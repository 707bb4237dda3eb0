"""A dump under names of its own: what is certainly ours is matched, and nothing else."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.babblers import babbler, write_babbler
from support.broken import dump
from support.dumps import IDS, check, wide

from numgpt.cli import main as cli
from numgpt.verify.dump import write_trace

OWN = {
    "ln_1": "norm1", "attn.q": "q", "attn.k": "k", "attn.v": "v", "attn.scores": "dots", "attn.weights": "probs",
    "attn.z": "mixed", "attn_out": "heads", "resid_mid": "mid", "ln_2": "norm2", "mlp.pre": "up", "mlp.post": "act",
    "mlp_out": "down", "resid_post": "out",
}  # fmt: skip
ENDS = {"embed": "start", "ln_f": "end", "logits": "scores_of_words"}


def in_own_names(tensors, numbered="blk{}_{}", first=0):
    """Tensors of broken.py under names that no program has: {} is the layer, and what it is."""
    named = {}
    for name, x in tensors.items():
        _, layer, base = name.split(".", 2) if name not in ENDS else ("", 0, "")
        named[ENDS.get(name) or numbered.format(int(layer) + first, OWN[base])] = x
    return named


def right(bug=None, layer=None, dtype=np.float32):
    model = wide()
    return model, dump(IDS, model.params, model.config, bug, layer, dtype)


def places(report):
    return {matched.source: (matched.name, matched.how) for matched in report.matched}


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_right_values_under_any_names_pass(dtype):
    model, tensors = right(dtype=dtype)
    order = np.random.default_rng(0).permutation(len(tensors))
    names = dict(zip(tensors, (f"x{i * 7919 % 1009:x}" for i in order), strict=True))
    report = check(model, IDS, {names[name]: x[None] for name, x in tensors.items()})
    assert report.passed
    assert [row.name for row in report.rows] == list(tensors)
    assert places(report) == {names[name]: (name, "value") for name in tensors}
    assert not report.not_compared


def test_layouts_of_their_own_are_matched_too():
    """Heads behind positions or merged, q, k and v side by side, all layers in one array."""
    model, tensors = right()
    flat = {name: tensors[f"h.1.attn.{name}"].swapaxes(0, 1).reshape(len(IDS), -1) for name in "qkvz"}
    theirs = {
        "heads": tensors["h.0.attn.q"].swapaxes(0, 1)[None],
        "merged": flat["z"],
        "packed": np.concatenate([flat[name] for name in "qkv"], axis=1),
        "stack": np.stack([tensors[f"h.{i}.resid_post"] for i in range(3)])[:, None],
        "last": tensors["logits"][-1],
    }
    report = check(model, IDS, theirs)
    assert report.passed
    assert {source: name for source, (name, _) in places(report).items()} == {
        "heads": "h.0.attn.q",
        "merged": "h.1.attn.z",
        "packed": "h.1.attn.q to h.1.attn.v",
        "stack": "h.0.resid_post to h.2.resid_post",
        "last": "logits",
    }


@pytest.mark.parametrize("numbered", ["blk{}_{}", "{1}_{0}", "net.layers[{}].{}"])
@pytest.mark.parametrize("first", [0, 1])
@pytest.mark.parametrize(("bug", "at"), [("no scale", "attn.scores"), ("merge [T, D, H]", "attn_out")])
def test_a_mistake_behind_the_first_layer_is_placed_by_the_numbers_of_names(bug, at, numbered, first):
    model, tensors = right(bug, layer=1)
    report = check(model, IDS, in_own_names(tensors, numbered, first))
    assert report.rows[-1].name == f"h.1.{at}"
    assert "in layer 1 alone" in report.causes[0]
    assert len(report.rows) + report.left == len(tensors) - 1  # ln_f has no number
    assert report.not_compared == {"end": "no name that we know, and its values are none of ours"}
    how = places(report)
    assert how[numbered.format(first, "out")] == ("h.0.resid_post", "value")
    assert how[numbered.format(first + 2, "out")] == ("h.2.resid_post", "number")
    assert how["scores_of_words"] == ("logits", "shape")


def test_a_list_of_states_begins_with_the_embedding():
    model, tensors = right()
    wrong = dump(IDS, model.params, model.config, "no residual", 2, np.float32)["h.2.resid_post"]
    states = [tensors["embed"], tensors["h.0.resid_post"], tensors["h.1.resid_post"], wrong]
    report = check(model, IDS, {f"state{i}": x for i, x in enumerate(states)})
    assert report.rows[-1].name == "h.2.resid_post"
    assert places(report)["state3"] == ("h.2.resid_post", "number")


def test_a_mistake_in_all_layers_shows_in_the_logits():
    model, tensors = right("no scale")
    report = check(model, IDS, in_own_names(tensors))
    assert report.rows[-1].name == "logits"
    assert "missing 1/sqrt(D)" in report.causes[0]
    assert "blk0_dots" in report.not_compared


def test_logits_with_columns_of_padding_are_known_by_their_shape():
    model, tensors = right("no scale")
    report = check(model, IDS, {"mine": np.pad(tensors["logits"], ((0, 0), (0, 9)))})
    assert report.rows[-1].name == "logits"
    assert places(report) == {"mine": ("logits", "shape")}


@given(st.data())
def test_what_is_not_ours_is_never_matched(data):
    """Of any shape that ours have: drawn at random, or ours but for a hundredth, or between two of ours."""
    model, tensors = right()
    names = data.draw(st.lists(st.sampled_from(list(tensors)[:-1]), min_size=1, max_size=6, unique=True))
    dice = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    theirs = {"start": tensors["embed"]}
    for i, name in enumerate(names):
        x, noise = tensors[name], dice.standard_normal(tensors[name].shape)
        kind = data.draw(st.sampled_from(["random", "a hundredth", "between", "zeros", "moved"]))
        others = [y for other, y in tensors.items() if other != name and y.shape == x.shape]
        size = np.std(x[np.isfinite(x)])
        theirs[f"x{i}"] = {
            "random": size * noise,
            "a hundredth": x + 0.01 * size * noise,
            "between": (x + others[0]) / 2,
            "zeros": 0 * noise,
            "moved": np.roll(x, 1, axis=-2),
        }[kind]
    report = check(model, IDS, theirs)
    assert list(places(report)) == ["start"]
    assert set(report.not_compared) == set(theirs) - {"start"}


def test_what_is_twice_there_is_compared_once_and_what_contradicts_itself_not_at_all():
    model, tensors = right()
    x = tensors["h.0.resid_post"]
    report = check(model, IDS, {"start": tensors["embed"], "a": x, "b": x[None]})
    assert report.not_compared == {"b": "the same as another tensor of the dump"}
    report = check(model, IDS, {"start": tensors["embed"], "a": x, "b": x * np.float32(1.0001)})
    assert set(report.not_compared) == {"a", "b"}
    assert "both a and b are near h.0.resid_post" in report.not_compared["a"]


def test_what_could_be_two_of_ours_is_not_matched():
    """Of one token the weights of attention are 1 in every layer."""
    model = wide()
    tensors = dump([3], model.params, model.config, dtype=np.float32)
    report = check(model, [3], {"start": tensors["embed"], "w": tensors["h.1.attn.weights"]})
    assert "its values are near both" in report.not_compared["w"]


def test_the_command_tells_what_was_matched(capsys, tmp_path):
    model = babbler()
    write_babbler(tmp_path / "model")
    ids = model.tokenizer.encode("Once upon a time")
    tensors = dump(ids, model.params, model.config, dtype=np.float32)
    theirs = {"blk0_out": tensors["h.0.resid_post"], "mine": np.ones_like(tensors["embed"])}
    write_trace(tmp_path / "dump.npz", theirs, {"ids": json.dumps(ids)})
    assert cli.main(["verify", str(tmp_path / "dump.npz"), "-m", str(tmp_path / "model")]) == 0
    out = capsys.readouterr().out
    assert "matched by value: blk0_out is h.0.resid_post" in out
    assert "not compared: mine: no name that we know, and its values are none of ours" in out
    assert cli.main(["verify", str(tmp_path / "dump.npz"), "-m", str(tmp_path / "model"), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["matched"] == [{"source": "blk0_out", "name": "h.0.resid_post", "how": "value"}]
