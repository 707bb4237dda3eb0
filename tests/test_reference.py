"""forward and its gradient agree with Hugging Face transformers in every named tensor. No torch is needed: the values
are stored.

tests/reference/ holds the dumps, the script that made them and a README with the table of names and shapes.

Two kinds of tolerance, both per tensor:

- float64 against float64. Two correct programs differ by rounding alone, here by some 10 eps of the largest value of a
  tensor. FLOAT64 allows 1e-12 of it: fifty times what rounding does, and a ten-thousandth of what float32 would do.
- float32 against the float64 dump, which is the truth as far as float32 can tell. Our error may be FLOAT32 times
  PyTorch's own float32 error in that tensor, or that many roundings (eps) of its largest value where PyTorch was lucky.
"""

import json
import pathlib
from functools import cache

import numpy as np
import pytest

import numgpt
from numgpt.checkpoint.aliases import find_own
from numgpt.checkpoint.memory import read_params
from numgpt.checkpoint.names import match_params
from numgpt.checkpoint.settings import config_from_json
from numgpt.checkpoint.tensors import LazyTensor
from numgpt.params import leaves
from numgpt.trace import trace_shapes
from numgpt.training.backward import loss_and_grads

FOLDER = pathlib.Path(__file__).parent / "reference"
DUMPS = sorted(path.stem.removeprefix("model_") for path in FOLDER.glob("model_*.npz"))

FLOAT64 = 1e-12
FLOAT32 = 8.0


@cache
def read(name):
    """Return one dump as a dict of arrays, and its configuration as the dict that config.json would hold."""
    with np.load(FOLDER / f"model_{name}.npz", allow_pickle=False) as file:
        dump = dict(file)
    return dump, json.loads(str(dump["config"]))


def tree(dump, config, dtype, prefix="params/"):
    """Return the parameters of a dump, or what is stored like them, as a tree, and the configuration."""
    settings = config_from_json(config)
    stored = {key.removeprefix(prefix): x for key, x in dump.items() if key.startswith(prefix)}
    tensors = {key: LazyTensor("F32" if x.dtype == np.float32 else "F64", x.shape, x.copy) for key, x in stored.items()}
    given, settings = match_params(find_own(tensors, "the dump").tensors, settings, source="the dump")
    return read_params(given, settings, dtype), settings


def run(dump, config, dtype, change=lambda name, x: x):
    """Run numgpt on a dump's ids and parameters and return everything that forward records, in order."""
    params, settings = tree(dump, config, dtype)
    seen = {}

    def record(name, x):
        assert name not in seen, f"{name} was recorded twice"
        seen[name] = x = change(name, x)
        return x

    logits = numgpt.forward(dump["ids"], params, settings, record=record)
    assert logits is seen["logits"]
    return seen


def largest(x):
    """Return the largest finite absolute value."""
    return np.abs(x[np.isfinite(x)]).max(initial=0.0)


def difference(ours, ref):
    """Return the largest |ours - ref|; infinite where one is finite and the other is not."""
    if ours.shape != ref.shape or not np.array_equal(np.isfinite(ours), np.isfinite(ref)):
        return np.inf
    known = np.isfinite(ref)
    if not np.array_equal(ours[~known], ref[~known]):  # -inf, where scores are masked
        return np.inf
    return largest(ours[known].astype(np.float64) - ref[known].astype(np.float64))


def allowed(dump, name, dtype):
    """Return how far a tensor of ours may be from the float64 dump."""
    truth = dump[f"float64/{name}"]
    if dtype == "float64":
        return FLOAT64 * max(1.0, largest(truth))
    rounding = np.finfo(np.float32).eps * largest(truth)
    return FLOAT32 * max(difference(dump[f"float32/{name}"], truth), rounding)


def first_difference(dump, seen, dtype):
    """Return the first tensor, in model order, that is further from the dump than allowed, as a sentence; or None."""
    for name, x in seen.items():
        gap, limit = difference(x, dump[f"float64/{name}"]), allowed(dump, name, dtype)
        if not gap <= limit:
            return f"{name} {list(x.shape)} is the first to part: max |difference| {gap:.3g}, allowed {limit:.3g}"
    return None


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("name", DUMPS)
def test_every_intermediate_equals_that_of_transformers(name, dtype):
    dump, config = read(name)
    message = first_difference(dump, run(dump, config, dtype), dtype)
    if message:
        pytest.fail(f"{name} ({config['activation_function']}), {dtype}: {message}")


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("name", DUMPS)
def test_names_shapes_and_dtypes_are_those_of_the_table(name, dtype):
    dump, config = read(name)
    shapes = trace_shapes(config_from_json(config), len(dump["ids"]))
    assert [key.partition("/")[2] for key in dump if key.startswith(f"{dtype}/")] == list(shapes)
    seen = run(dump, config, dtype)
    assert list(seen) == list(shapes)
    assert {key: x.shape for key, x in seen.items()} == shapes
    assert {key: x.dtype.name for key, x in seen.items()} == dict.fromkeys(shapes, dtype)


@pytest.mark.parametrize(("dtype", "amount"), [("float64", 1e-9), ("float32", 1e-4)])
def test_a_small_error_is_found_where_it_is_made(dtype, amount):
    dump, config = read("gelu_new")
    for name in trace_shapes(config_from_json(config), len(dump["ids"])):

        def change(at, x, name=name):
            return x + x.dtype.type(amount) if at == name else x

        message = first_difference(dump, run(dump, config, dtype, change), dtype)
        assert message, f"an error of {amount} in {name} was not seen"
        assert message.startswith(f"{name} [")


@pytest.mark.parametrize("name", DUMPS)
def test_the_loss_and_every_gradient_equal_those_of_pytorch(name):
    dump, config = read(name)
    params, settings = tree(dump, config, "float64")
    seen = {}
    loss, grads = loss_and_grads(dump["ids"], dump["targets"], params, settings, lambda key, x: seen.setdefault(key, x))
    assert abs(loss - dump["loss"]) <= FLOAT64 * dump["loss"]
    ours = {key: x for key, x in seen.items() if key.startswith("d_")}
    assert sorted(ours) == sorted(f"d_{key}" for key in trace_shapes(config_from_json(config), len(dump["ids"])))
    expected, _ = tree(dump, config, "float64", "d_params/")
    ours |= {f"gradient of {path}": x for path, x in leaves(grads)}
    theirs = dump | {f"gradient of {path}": x for path, x in leaves(expected)}
    assert len(ours) == len(seen) // 2 + len(list(leaves(params)))
    for key, x in ours.items():
        gap, limit = difference(x, theirs[key]), FLOAT64 * max(1.0, largest(theirs[key]))
        assert gap <= limit, f"{key}: max |difference| {gap:.3g}, allowed {limit:.3g}"


def test_dumps_and_readme_list_the_same_models():
    text = (FOLDER / "README.md").read_text(encoding="utf-8")
    listed = sorted(line.split("`")[1] for line in text.splitlines() if line.startswith("| `model_"))
    assert listed == [f"model_{name}.npz" for name in DUMPS]


@pytest.mark.parametrize("name", DUMPS)
def test_a_dump_says_how_it_was_made(name):
    dump, config = read(name)
    about = json.loads(str(dump["about"]))
    assert about["name"] == name
    assert {"command", "seed", "torch", "transformers", "numpy", "python", "cpu"} <= set(about)
    assert config["transformers_version"] == about["transformers"]
