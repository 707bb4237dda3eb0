"""verify: what is right passes, each planted mistake is found where it is made, and called by its name.

The mistakes are made by tests/broken.py, a GPT-2 of its own that shares no code with numgpt. Of what takes long, some
cases are here and all of them in tests/conformance/test_verify_bugs.py; live programs are in its test_verify.py.
"""

import json
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.broken import BUGS, dump

import numgpt
from numgpt.cli import main as cli
from numgpt.config import Config
from numgpt.errors import CheckpointError, OptionError, TokenError
from numgpt.model import Model
from numgpt.params import leaves, map_leaves, param_shapes
from numgpt.trace import collect, trace_shapes
from numgpt.verify import causes, foreign
from numgpt.verify import report as verify
from numgpt.verify.dump import Dump, write_trace

WIDE = Config(n_vocab=31, n_ctx=20, n_embd=12, n_head=3, n_layer=3, eos_token_id=None)
IDS = [3, 1, 4, 15, 9, 26, 5, 3, 5]

# What a report must say of each bug.
WORDS = {
    "position offset 1": "position offset: positions count from 1",
    "position offset 2": "position offset: positions count from 2 instead of 0, as in OPT",
    "position offset -1": "position offset: positions count from -1",
    "no positions": "the positions are not added",
    "epsilon 1e-6": "wrong epsilon in the layer norm: 1e-06 instead of 1e-05",
    "epsilon 1e-12": "wrong epsilon in the layer norm: 1e-12 instead of 1e-05",
    "epsilon 1e-3": "wrong epsilon in the layer norm: 0.001 instead of 1e-05",
    "epsilon outside": "epsilon is outside the root",
    "unbiased variance": "unbiased variance",
    "unbiased deviation": "unbiased standard deviation",
    "no mean": "does not subtract the mean",
    "post-LN": "post-LN",
    "order q v k": "q/k/v order: the columns of c_attn are taken as q, v, k",
    "order k q v": "q/k/v order: the columns of c_attn are taken as k, q, v",
    "order k v q": "q/k/v order: the columns of c_attn are taken as k, v, q",
    "order v q k": "q/k/v order: the columns of c_attn are taken as v, q, k",
    "order v k q": "q/k/v order: the columns of c_attn are taken as v, k, q",
    "by head": "q/k/v order: q, k, v side by side within each head",
    "transposed c_attn": "transposed weight: attn.c_attn.w",
    "no c_attn bias": "missing bias: attn.c_attn.b",
    "heads [T, D, H]": "heads split on the wrong axis: [T, C] is reshaped to [T, D, H]",
    "heads without transpose": "heads split on the wrong axis: [T, C] is reshaped to [H, T, D]",
    "heads [D, T, H]": "[T, C] is reshaped to [T, D, H], and taken as D heads of size H",
    "no scale": "missing 1/sqrt(D)",
    "scale sqrt(C)": "scaled by 1/sqrt(C)",
    "no inverse layer": "the scale by the inverse number of the layer, 1/(layer + 1), is missing",
    "mask sees next": "mask off by one: each position sees the one after it",
    "mask hides self": "mask off by one: a position does not see itself",
    "no mask": "no mask",
    "softmax over queries": "softmax on the wrong axis: over the queries",
    "merge [T, D, H]": "heads merged on the wrong axis: [H, T, D] is merged as [T, D, H]",
    "merge without transpose": "heads merged on the wrong axis: [H, T, D] is merged without a transpose",
    "transposed attn.c_proj": "transposed weight: attn.c_proj.w",
    "no attn.c_proj bias": "missing bias: attn.c_proj.b",
    "no residual": "the residual is not added after attention",
    "parallel": "attention and MLP are parallel",
    "transposed c_fc": "transposed weight: mlp.c_fc.w",
    "no c_fc bias": "missing bias: mlp.c_fc.b",
    "erf": "wrong activation: erf GELU instead of tanh GELU",
    "tanh": "wrong activation: tanh GELU instead of erf GELU",
    "half table": "GELU by a half-precision table",
    "relu": "wrong activation: relu",
    "sigmoid": "wrong activation: the sigmoid approximation of GELU",
    "transposed mlp.c_proj": "transposed weight: mlp.c_proj.w",
    "no mlp.c_proj bias": "missing bias: mlp.c_proj.b",
    "no final norm": "no final layer norm",
    "float16 weights": "rounded to half precision (float16)",
    "bfloat16 weights": "rounded to half precision (bfloat16)",
}
NEEDS = {"tanh": {"activation_function": "gelu"}, "no inverse layer": {"scale_attn_by_inverse_layer_idx": True}}
ONCE = ("embed", "ln_f")  # not in a layer


def wide_params(config, seed=0):
    """Weights under which each part of a model does something: as in tests/reference."""
    draw = np.random.default_rng(seed)

    def leaf(path, shape):
        mean, deviation = (1, 0.3) if path.endswith(".g") else (0, 0.3)
        if not path.endswith((".g", ".b")):
            deviation = 1 if path in ("wte", "wpe") else 1.5 / np.sqrt(shape[path == "lm_head"])
        return (mean + deviation * draw.standard_normal(shape)).astype(np.float32)

    return map_leaves(leaf, param_shapes(config))


def wide(**changes):
    config = WIDE._replace(**changes)
    return Model(config, wide_params(config), None)


@pytest.fixture(scope="module")
def storyteller():
    model = numgpt.load("storyteller")
    return model, model.tokenizer.encode("Once upon a time there was a king")


def check(model, ids, tensors):
    return verify.compare(Dump(dict(tensors), {}), model, ids)


def first_tensor(bug, layer):
    base = BUGS[bug]
    return base if base in ONCE else f"h.{layer}.{base}"


# --- what is right


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_an_independent_implementation_passes(storyteller, dtype):
    for model, ids in ((wide(), IDS), storyteller):
        tensors = dump(ids, model.params, model.config, dtype=getattr(np, dtype))
        report = check(model, ids, tensors)
        assert report.passed
        assert [row.name for row in report.rows] == list(trace_shapes(model.config, len(ids)))
        assert report.precision == dtype
        assert (report.left, report.not_compared, report.causes, report.pattern) == (0, {}, [], [])


def test_the_reference_dumps_of_transformers_pass():
    """Each is held to the model that lies in the same file."""
    from test_reference import DUMPS, read

    from numgpt.checkpoint.memory import read_params
    from numgpt.checkpoint.names import match_params
    from numgpt.checkpoint.settings import config_from_json
    from numgpt.checkpoint.tensors import LazyTensor

    for name in DUMPS:
        arrays, config = read(name)
        stored = {key.removeprefix("params/"): x for key, x in arrays.items() if key.startswith("params/")}
        tensors = {key: LazyTensor("F32", x.shape, x.copy) for key, x in stored.items()}
        given, fitted = match_params(tensors, config_from_json(config), source="the dump")
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


# --- what is wrong


@pytest.mark.parametrize("bug", list(BUGS)[::3])
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


@pytest.mark.parametrize("bug", list(BUGS)[::12])
def test_a_bug_in_every_layer_is_named_by_the_logits_alone(bug):
    model = wide(**NEEDS.get(bug, {}))
    logits = dump(IDS, model.params, model.config, bug, dtype=np.float32)["logits"]
    report = check(model, IDS, {"logits": logits})
    assert report.rows[-1].name == "logits"
    assert WORDS[bug] in report.causes[0]


IN_A_LAYER = [bug for bug in BUGS if BUGS[bug] not in ONCE]


@pytest.mark.parametrize("bug", IN_A_LAYER[::12])
@pytest.mark.thorough
def test_a_bug_in_one_layer_is_found_there(bug):
    model = wide(**NEEDS.get(bug, {}))
    small = bug in ("epsilon 1e-6", "epsilon 1e-12")  # so near to the rounding of float32 there that it may pass for it
    tensors = dump(IDS, model.params, model.config, bug, layer=2, dtype=np.float64 if small else np.float32)
    report = check(model, IDS, tensors)
    assert report.rows[-1].name == first_tensor(bug, 2)
    assert WORDS[bug] in report.causes[0]
    assert re.search(r"layer 2 alone|h\.2\.\S+ alone", report.causes[0])


BY_LOGITS = ["erf", "no scale", "transposed attn.c_proj", "order k q v", "unbiased variance"]


@pytest.mark.parametrize("bug", BY_LOGITS[:1])
def test_a_bug_in_one_layer_is_named_by_the_logits_alone(bug):
    model = wide()
    logits = dump(IDS, model.params, model.config, bug, layer=1, dtype=np.float32)["logits"]
    [cause, *_] = check(model, IDS, {"logits": logits}).causes
    assert WORDS[bug] in cause
    assert "in layer 1 alone" in cause


TRAINED = ["position offset 1", "epsilon 1e-6", "unbiased variance", "order k q v", "heads [T, D, H]", "no scale"]
TRAINED += ["mask sees next", "transposed attn.c_proj", "erf", "half table", "bfloat16 weights"]


@pytest.mark.parametrize("bug", TRAINED[-2:-1])
def test_bugs_are_named_in_a_trained_model(storyteller, bug):
    model, ids = storyteller
    report = check(model, ids, dump(ids, model.params, model.config, bug, dtype=np.float32))
    assert report.rows[-1].name == first_tensor(bug, 0)
    assert WORDS[bug] in report.causes[0]


@pytest.mark.parametrize("bug", ["epsilon 1e-12", "erf", "half table", "mask hides self"])
def test_bugs_are_named_in_float64_where_they_are_far_above_the_noise(bug):
    model = wide()
    report = check(model, IDS, dump(IDS, model.params, model.config, bug))
    assert report.precision == "float64"
    assert report.rows[-1].name == first_tensor(bug, 0)
    assert WORDS[bug] in report.causes[0]
    assert report.rows[-1].times > 1e8


@pytest.mark.thorough
def test_an_odd_epsilon_is_solved_for():
    model = wide()
    other = model.config._replace(layer_norm_epsilon=0.0042)
    tensors = dump(IDS, model.params, other, dtype=np.float32)
    expected = "wrong epsilon in the layer norm: 0.0042 instead of 1e-05"
    assert expected in check(model, IDS, tensors).causes[0]
    assert expected in check(model, IDS, {"logits": tensors["logits"]}).causes[0]


def test_a_second_bug_behind_the_first_is_told_of():
    model = wide()
    tensors = dump(IDS, model.params, model.config, "no scale", layer=0, dtype=np.float32)
    tensors["h.1.mlp.post"] = tensors["h.1.mlp.post"] + np.float32(0.5)
    [cause, *_] = check(model, IDS, tensors).causes
    assert cause.startswith("missing 1/sqrt(D)")
    assert "behind it h.1.mlp.post differs first, by another" in cause


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


@pytest.mark.parametrize("lowest", [-1e4, -1e9, np.finfo(np.float32).min])
def test_masked_scores_may_be_any_huge_negative_number(lowest):
    model = wide()
    tensors = dump(IDS, model.params, model.config, dtype=np.float32)
    tensors = {name: np.maximum(x, lowest) if name.endswith("scores") else x for name, x in tensors.items()}
    assert check(model, IDS, tensors).passed


# --- what no cause explains is described


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
        (with_noise, "the correlation with ours is 0."),
        (lambda x: 3 * x, "every value is 3 times ours"),
        (lambda x: x / np.float32(2), "every value is 0.5 = 1/sqrt(D) times ours"),
        (with_dropout, "the others are 1.111 times ours: dropout is switched on"),
        (with_nan, "1 of 279 values are NaN"),
        (lambda x: x * np.nan, "279 of 279 values are NaN: from a softmax of masked scores alone"),
        (at_position_4, "of 9 along the axis of positions 1 differ: 4"),
        (
            lambda x: np.roll(x, 1, axis=1),
            "31 of 31 along the axis of features are moved: feature 0 is our 30,",
        ),
        (
            lambda x: x[[0, 0, 1, 2, 3, 4, 5, 6, 7]],
            "along the axis of positions are moved: position 1 is our 0,",
        ),
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


# --- precision


@pytest.mark.parametrize("name", ["float16", "bfloat16"])
def test_a_dump_in_half_precision_is_held_to_it(name):
    model = wide()
    halved = causes.half if name == "float16" else causes.to_bfloat16
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


# --- the names of other programs


def in_the_names_of(program, tensors, config):
    """The tensors of broken.py as other programs name and lay them out."""
    L, T = config.n_layer, len(IDS)

    def each(name):
        return np.stack([tensors[f"h.{i}.{name}"] for i in range(L)])[:, None]  # [L, B, ...]

    def flat(x):  # [..., H, T, D] -> [..., T, C]
        x = np.moveaxis(x, -3, -2)
        return x.reshape(*x.shape[:-2], -1)

    if program == "transformers":
        states = [tensors["embed"], *(tensors[f"h.{i}.resid_post"] for i in range(L - 1)), tensors["ln_f"]]
        return {f"hidden_states.{i}": x[None] for i, x in enumerate(states)} | {
            f"attentions.{i}": tensors[f"h.{i}.attn.weights"][None] for i in range(L)
        }
    if program == "TransformerLens":
        named = {"ln_final.hook_normalized": tensors["ln_f"]}
        for i in range(L):
            at, before = f"blocks.{i}.", tensors["embed"] if i == 0 else tensors[f"h.{i - 1}.resid_post"]
            named[f"{at}hook_resid_pre"] = before[None]
            for theirs, ours in {
                "ln1.hook_normalized": "ln_1",
                "attn.hook_q": "attn.q",
                "attn.hook_k": "attn.k",
                "attn.hook_v": "attn.v",
                "attn.hook_attn_scores": "attn.scores",
                "attn.hook_pattern": "attn.weights",
                "attn.hook_z": "attn.z",
                "hook_attn_out": "attn_out",
                "hook_resid_mid": "resid_mid",
                "ln2.hook_normalized": "ln_2",
                "mlp.hook_pre": "mlp.pre",
                "mlp.hook_post": "mlp.post",
                "hook_mlp_out": "mlp_out",
                "hook_resid_post": "resid_post",
            }.items():
                x = tensors[f"h.{i}.{ours}"]
                named[at + theirs] = (x.swapaxes(0, 1) if ours in ("attn.q", "attn.k", "attn.v", "attn.z") else x)[None]
        return named
    if program == "llm.c":
        q, k, v = (flat(each(f"attn.{name}")) for name in "qkv")
        scores = each("attn.scores")
        padded = np.concatenate([tensors["logits"], np.zeros((T, 5), np.float32)], axis=1)
        return {
            "encoded": tensors["embed"][None],
            "ln1": each("ln_1"),
            "ln1_mean": np.zeros((L, 1, T), np.float32),
            "qkv": np.concatenate([q, k, v], axis=-1),
            "atty": flat(each("attn.z")),
            "preatt": np.where(np.isfinite(scores), scores, 0),
            "att": each("attn.weights"),
            "attproj": each("attn_out"),
            "residual2": each("resid_mid"),
            "ln2": each("ln_2"),
            "fch": each("mlp.pre"),
            "fch_gelu": each("mlp.post"),
            "fcproj": each("mlp_out"),
            "residual3": each("resid_post"),
            "lnf": tensors["ln_f"][None],
            "logits": padded[None],
        }
    named = {"transformer.drop": tensors["embed"][None], "lm_head": tensors["logits"][None, -1:]}
    for i in range(L):
        at = f"transformer.h.{i}."
        qkv = np.concatenate([flat(tensors[f"h.{i}.attn.{name}"]) for name in "qkv"], axis=-1)
        named |= {f"{at}ln_1": tensors[f"h.{i}.ln_1"][None], f"{at}attn.c_attn": qkv[None]}
        for theirs, ours in {
            "attn.attn_dropout": "attn.weights",
            "attn.c_proj": "attn_out",
            "attn": "attn_out",
            "ln_2": "ln_2",
            "mlp.c_fc": "mlp.pre",
            "mlp.gelu": "mlp.post",
            "mlp.c_proj": "mlp_out",
        }.items():
            named[at + theirs] = tensors[f"h.{i}.{ours}"][None]
        named[f"transformer.h.{i}"] = tensors[f"h.{i}.resid_post"][None]
    return named


PROGRAMS = {"transformers": 7, "TransformerLens": 44, "llm.c": 45, "nanoGPT": 35}


@pytest.mark.parametrize(("program", "rows"), PROGRAMS.items())
def test_the_names_and_layouts_of_other_programs_are_known(program, rows):
    model = wide()
    tensors = dump(IDS, model.params, model.config, dtype=np.float32)
    report = check(model, IDS, in_the_names_of(program, tensors, model.config))
    assert report.passed
    assert len(report.rows) == rows
    twice = {f"transformer.h.{i}.attn" for i in range(3)}
    expected = {"llm.c": {"ln1_mean"}, "nanoGPT": twice}
    expected["TransformerLens"] = {"blocks.1.hook_resid_pre", "blocks.2.hook_resid_pre"}
    assert set(report.not_compared) == expected.get(program, set())


@pytest.mark.parametrize("bug", ["no scale"])
@pytest.mark.parametrize("program", PROGRAMS)
def test_bugs_are_named_in_the_dumps_of_other_programs(program, bug):
    model = wide()
    tensors = dump(IDS, model.params, model.config, bug, dtype=np.float32)
    report = check(model, IDS, in_the_names_of(program, tensors, model.config))
    assert WORDS[bug] in report.causes[0]


def test_a_mistake_behind_a_packed_qkv_is_named():
    """What c_attn returns is right, so that q, k and v, as we cut them out of it, are no evidence."""
    model = wide()
    right = dump(IDS, model.params, model.config, dtype=np.float32)
    packed = in_the_names_of("nanoGPT", right, model.config)["transformer.h.0.attn.c_attn"]
    for bug in "order k q v", "heads [T, D, H]", "heads without transpose":
        tensors = dump(IDS, model.params, model.config, bug, dtype=np.float32)
        named = {name: tensors[name] for name in ("h.0.attn.weights", "h.0.attn.z", "h.0.attn_out", "logits")}
        report = check(model, IDS, {"transformer.h.0.attn.c_attn": packed, **named})
        assert report.rows[-1].name == "h.0.attn.weights"
        assert WORDS[bug] in report.causes[0]


def test_a_layer_norm_before_gain_and_bias_is_not_compared():
    model = wide()
    x = dump(IDS, model.params, model.config, dtype=np.float32)["embed"]
    plain = (x - x.mean(axis=1, keepdims=True)) / x.std(axis=1, keepdims=True)
    report = check(model, IDS, {"blocks.0.ln1.hook_normalized": plain, "blocks.0.hook_resid_pre": x})
    assert report.passed
    assert [row.name for row in report.rows] == ["embed"]
    assert report.not_compared == {"blocks.0.ln1.hook_normalized": foreign.BEFORE_GAIN}


@pytest.mark.parametrize(
    ("name", "x", "why"),
    [
        ("h.0.attn.c_attn.weight", np.zeros((12, 36)), "no name that we know"),
        ("transformer.wte", np.zeros((9, 12)), "no name that we know"),
        ("h.3.ln_1", np.zeros((9, 12)), "layer 3, but the model has layers 0 to 2"),
        ("ln1", np.zeros((2, 1, 9, 12)), "shape (2, 1, 9, 12), expected 3 layers on the first axis"),
    ],
)
def test_what_is_not_compared_is_listed_with_the_reason(name, x, why):
    model = wide()
    embed = dump(IDS, model.params, model.config, dtype=np.float32)["embed"]
    report = check(model, IDS, {name: x, "transformer.drop": embed})
    assert report.passed
    assert report.not_compared == {name: why}


@pytest.mark.parametrize(
    ("name", "x", "at", "why"),
    [
        ("h.0.attn.q", np.zeros((5, 9, 3)), "h.0.attn.q", "shape (5, 9, 3), expected (3, 9, 4) [H, T, D]"),
        ("h.0.resid_mid", np.zeros((2, 9, 12)), "h.0.resid_mid", "shape (2, 9, 12), expected (9, 12) [T, C]"),
        ("qkv", np.zeros((3, 1, 9, 12)), "h.0.attn.q", "shape (9, 12), expected (9, 36) [T, 3C]"),
        ("logits", np.zeros((5, 31)), "logits", "shape (5, 31), expected (9, 31) [T, V]"),
    ],
)
def test_a_shape_that_can_not_be_right_is_a_difference(name, x, at, why):
    model = wide()
    embed = dump(IDS, model.params, model.config, dtype=np.float32)["embed"]
    report = check(model, IDS, {name: x, "transformer.drop": embed})
    assert not report.passed
    assert [(row.name, row.passed) for row in report.rows] == [("embed", True), (at, False)]
    assert report.causes == [why]


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


def test_another_text_is_suspected_where_the_embedding_differs():
    model = wide()
    report = check(model, IDS, {"embed": dump(IDS[::-1], model.params, model.config, dtype=np.float32)["embed"]})
    assert "is it the same checkpoint, and are these the ids?" in report.pattern


# --- ids, and what is refused


@pytest.mark.parametrize("ids", [np.array(IDS), np.array([IDS], np.int32)])
@pytest.mark.parametrize("name", ["ids", "input_ids", "idx"])
def test_the_ids_of_a_dump_are_found(name, ids):
    model = wide()
    tensors = dump(IDS, model.params, model.config, dtype=np.float32)
    assert verify.compare(Dump({name: ids, "logits": tensors["logits"]}, {}), model).passed


def test_the_ids_may_lie_in_the_metadata():
    model = wide()
    logits = dump(IDS, model.params, model.config, dtype=np.float32)["logits"]
    assert verify.compare(Dump({"logits": logits}, {"ids": json.dumps(IDS)}), model).passed


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
        verify.compare(dumped, wide())


def test_verify_changes_nothing_that_it_was_given():
    model = wide()
    tensors = dump(IDS, model.params, model.config, "erf", dtype=np.float32)
    before = {name: x.copy() for name, x in tensors.items()}
    params = {path: x.copy() for path, x in leaves(model.params)}
    check(model, IDS, tensors)
    assert all(np.array_equal(x, before[name]) for name, x in tensors.items())
    assert all(np.array_equal(x, params[path]) for path, x in leaves(model.params))


# --- the command line


def call(capsys, *arguments):
    code = cli.main(list(map(str, arguments)))
    out, err = capsys.readouterr()
    return code, out, err


@pytest.fixture(scope="module")
def files(tmp_path_factory, storyteller):
    """A dump of the storyteller that is right, and one with a bug in it."""
    model, ids = storyteller
    folder = tmp_path_factory.mktemp("dumps")
    for name, bug in ("right", None), ("wrong", "erf"):
        tensors = dump(ids, model.params, model.config, bug, dtype=np.float32)
        write_trace(folder / f"{name}.npz", {"h.0.mlp.post": tensors["h.0.mlp.post"], "logits": tensors["logits"]})
    return folder


def test_the_command_prints_a_table_and_exits_0_where_all_agrees(capsys, files):
    code, out, err = call(capsys, "verify", files / "right.npz", "--text", "Once upon a time there was a king")
    assert code == 0
    assert err == ""
    lines = out.splitlines()
    assert lines[0].split() == ["tensor", "max", "abs", "max", "rel", "noise", "times", "verdict"]
    assert [(line.split()[0], line.split()[-1]) for line in lines[1:3]] == [("h.0.mlp.post", "ok"), ("logits", "ok")]


def test_the_command_exits_1_and_names_tensor_and_cause(capsys, files, storyteller):
    ids = ",".join(map(str, storyteller[1]))
    code, out, err = call(capsys, "verify", files / "wrong.npz", "--ids", ids)
    assert code == 1
    assert out.splitlines()[1].split()[-1] == "DIFFERS"
    assert "1 tensors behind it are not compared any more" in out
    assert "likely cause: wrong activation: erf GELU instead of tanh GELU, in every layer" in out
    assert err.startswith("numgpt: error: ")
    assert "h.0.mlp.post differs" in err
    assert "erf GELU" in err
    assert err.count("\n") == 1


def test_the_command_prints_json_for_programs(capsys, files, storyteller):
    ids = ",".join(map(str, storyteller[1]))
    code, out, _ = call(capsys, "verify", files / "wrong.npz", "--ids", ids, "--json")
    report = json.loads(out)
    assert code == 1
    assert report["passed"] is False
    assert report["rows"][-1]["name"] == "h.0.mlp.post"
    assert report["rows"][-1]["passed"] is False
    assert report["causes"][0].startswith("wrong activation: erf GELU")


def test_a_trace_of_numgpt_itself_passes_with_its_own_ids(capsys, tmp_path):
    for dtype in "float32", "float64":
        path = tmp_path / f"{dtype}.safetensors"
        assert call(capsys, "trace", "The king", "-o", path, "--dtype", dtype)[0] == 0
        assert call(capsys, "verify", path)[0] == 0
    assert call(capsys, "trace", "The king", "-o", path, "--ablate", "h.1.attn.z:2")[0] == 0
    code, out, _ = call(capsys, "verify", path)
    assert code == 1
    assert "of 8 along the axis of heads 1 differ: 2" in out


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["dump.npz", "--published"],
        ["--published", "--ids", "1"],
        ["dump.npz", "--as", "gpt2"],
        ["dump.npz", "--ids", "1", "--text", "a"],
    ],
)
def test_wrong_usage_exits_2(capsys, arguments):
    with pytest.raises(SystemExit) as error:
        cli.main(["verify", *arguments])
    assert error.value.code == 2
    assert "numgpt verify: error: " in capsys.readouterr().err


def test_collect_and_verify_agree_on_every_name(storyteller):
    model, ids = storyteller
    report = check(model, ids, collect(ids, model))
    assert report.passed
    assert len(report.rows) == 87
