"""The page of a verification: place, numbers and change of code are those of the report; names stay text."""

import re
from functools import cache

import numpy as np
import pytest
from support.broken import dump
from support.cli import call
from support.dumps import IDS, check, storyteller, wide

from numgpt.pages.verification import page_of
from numgpt.trace import layer_and_base, trace_shapes
from numgpt.verify.changes import changes_of, line_of, variable_of
from numgpt.verify.passes import Cause


@cache
def report_of(bug, full=True):
    model = wide()
    tensors = dump(IDS, model.params, model.config, bug, dtype=np.float32)
    return check(model, IDS, tensors if full else {"logits": tensors["logits"]}), model


@pytest.mark.parametrize(
    ("bug", "ours", "theirs"),
    [
        (
            "erf",
            '- post = record("mlp.post", ACTIVATIONS[config.activation_function](pre))',
            '+ post = record("mlp.post", activated(site, function=gelu_erf))',
        ),
        ("no residual", '- x = record("resid_mid", x + attn_out)', '+ x = record("resid_mid", attn_out)'),
        ("no positions", "params[", '+ x = record("embed", embedding(site, wpe=0))'),
        (
            "float16 weights",
            "- forward(ids, params, config)",
            "+ forward(ids, rounded_params(params, function=to_float16",
        ),
    ],
)
def test_it_shows_place_numbers_cause_and_change(bug, ours, theirs):
    report, model = report_of(bug)
    page = page_of(report, model.config, "a model", "a.npz").replace("&quot;", '"')
    assert ours in page
    assert theirs in page
    assert report.causes[0].replace("<", "&lt;") in page
    assert f"<strong>{report.rows[-1].name} differs</strong>" in page
    difference = report.difference
    at = np.unravel_index(abs(difference.theirs - difference.ours).argmax(), difference.ours.shape)
    assert f">{difference.theirs[at]:.7g}</td>" in page
    assert f">{difference.ours[at]:.7g}</td>" in page
    assert "<script" not in page


def test_where_all_agree_it_says_so():
    report, model = report_of(None)
    page = page_of(report, model.config, "a model", "a.npz")
    assert f"No tensor differs: {len(report.rows)} were compared" in page
    assert "✗</" not in page
    assert "The cause" not in page


def test_names_are_text_and_what_is_masked_is_no_error():
    report, model = report_of("window 6")
    page = page_of(report, model.config, "<script>alert(1)</script>", "</title><img src=x>")
    assert "<script" not in page
    assert "<img" not in page
    assert page.count("</title>") == 1
    assert "-inf" in page


def test_the_command_writes_it(capsys, tmp_path):
    model, ids = storyteller()
    tensors = dump(ids, model.params, model.config, "no scale", dtype=np.float32)
    np.savez(tmp_path / "d.npz", ids=np.array(ids), **tensors)
    code, *_ = call(capsys, "verify", tmp_path / "d.npz", "-o", tmp_path / "r.html")
    assert code == 1
    assert "d.npz beside storyteller" in (tmp_path / "r.html").read_text(encoding="utf-8")


def test_each_tensor_has_its_line():
    for name in trace_shapes(wide().config, 1):
        base = layer_and_base(name)[1]
        assert re.search(rf'record\( ?"{re.escape(base)}"', line_of(base)), base
    assert variable_of("embed") == "x"


def test_tokens_before_the_text_are_a_change_of_it():
    [change] = changes_of(Cause("", {}, before=(7, 8)))
    assert change.theirs == "forward([7, 8, *ids], ...)"
