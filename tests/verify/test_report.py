"""What is right passes, the ids of a dump are found, and what can't be compared is refused."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.broken import dump
from support.dumps import IDS, check, storyteller, wide

from numgpt.errors import CheckpointError, OptionError, TokenError
from numgpt.model import Model
from numgpt.params import leaves
from numgpt.trace import collect, trace_shapes
from numgpt.verify.dump import Dump
from numgpt.verify.report import compare

# --- what is right


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_an_independent_implementation_passes(dtype):
    for model, ids in ((wide(), IDS), storyteller()):
        tensors = dump(ids, model.params, model.config, dtype=getattr(np, dtype))
        report = check(model, ids, tensors)
        assert report.passed
        assert [row.name for row in report.rows] == list(trace_shapes(model.config, len(ids)))
        assert report.precision == dtype
        assert (report.left, report.not_compared, report.causes, report.pattern) == (0, {}, [], [])


@pytest.mark.thorough
def test_the_reference_dumps_of_transformers_pass():
    """Each is held to the model that lies in the same file."""
    from test_reference import DUMPS, read

    from numgpt.checkpoint.aliases import find_own
    from numgpt.checkpoint.memory import read_params
    from numgpt.checkpoint.names import match_params
    from numgpt.checkpoint.settings import config_from_json
    from numgpt.checkpoint.tensors import LazyTensor

    for name in DUMPS:
        arrays, config = read(name)
        stored = {key.removeprefix("params/"): x for key, x in arrays.items() if key.startswith("params/")}
        tensors = {key: LazyTensor("F32", x.shape, x.copy) for key, x in stored.items()}
        given, fitted = match_params(find_own(tensors, "the dump").tensors, config_from_json(config), source="the dump")
        model = Model(fitted, read_params(given, fitted), None)
        for dtype in "float32", "float64":
            tensors = {key.removeprefix(f"{dtype}/"): x for key, x in arrays.items() if key.startswith(f"{dtype}/")}
            report = check(model, arrays["ids"], tensors)
            assert report.passed, (name, dtype, report.rows[-1])
            assert len(report.rows) == len(tensors)


@settings(max_examples=25)
@given(st.data())
@pytest.mark.thorough
def test_any_part_of_a_right_dump_passes(data):
    model = wide()
    tensors = dump(IDS, model.params, model.config, dtype=np.float32)
    names = data.draw(st.lists(st.sampled_from(list(tensors)), min_size=1, unique=True))
    report = check(model, IDS, {name: tensors[name] for name in names})
    assert report.passed
    assert [row.name for row in report.rows] == [name for name in tensors if name in names]


def test_collect_and_verify_agree_on_every_name():
    model, ids = storyteller()
    report = check(model, ids, collect(ids, model))
    assert report.passed
    assert len(report.rows) == 87


# --- ids, and what is refused


@pytest.mark.parametrize("ids", [np.array(IDS), np.array([IDS], np.int32)])
@pytest.mark.parametrize("name", ["ids", "input_ids", "idx"])
def test_the_ids_of_a_dump_are_found(name, ids):
    model = wide()
    tensors = dump(IDS, model.params, model.config, dtype=np.float32)
    assert compare(Dump({name: ids, "logits": tensors["logits"]}, {}), model).passed


def test_the_ids_may_lie_in_the_metadata():
    model = wide()
    logits = dump(IDS, model.params, model.config, dtype=np.float32)["logits"]
    assert compare(Dump({"logits": logits}, {"ids": json.dumps(IDS)}), model).passed


@pytest.mark.parametrize(
    ("dumped", "error", "message"),
    [
        (Dump({"logits": np.zeros((9, 31))}, {}), OptionError, "the dump has no ids, expected an array 'ids'"),
        (Dump({}, {"ids": "nonsense"}), OptionError, "the dump has no ids"),
        (Dump({"ids": np.ones((2, 3), int)}, {}), OptionError, r"ids has shape \(2, 3\), expected the ids of one text"),
        (Dump({"ids": np.array([1, 31])}, {}), TokenError, r"ids\[1\] is 31, expected 0 to 30"),
        (Dump({"ids": np.array([1, 2])}, {}), CheckpointError, "the dump has no tensor to compare"),
        (Dump({"ids": np.array([1]), "a": np.ones(3)}, {}), CheckpointError, "a: no name that we know"),
    ],
)
def test_a_dump_that_can_not_be_compared_is_refused(dumped, error, message):
    with pytest.raises(error, match=message):
        compare(dumped, wide())


def test_verify_changes_nothing_that_it_was_given():
    model = wide()
    tensors = dump(IDS, model.params, model.config, "erf", dtype=np.float32)
    before = {name: x.copy() for name, x in tensors.items()}
    params = {path: x.copy() for path, x in leaves(model.params)}
    check(model, IDS, tensors)
    assert all(np.array_equal(x, before[name]) for name, x in tensors.items())
    assert all(np.array_equal(x, params[path]) for path, x in leaves(model.params))
