"""A debug state of llm.c beside ours: what is right passes, what is wrong is found, named, and its cause told."""

import json
import re

import numpy as np
import pytest
from support import llmcs
from support.broken import dump
from support.dumps import wide, wide_params
from support.llmcs import write

from numgpt.checkpoint.names import hub_name
from numgpt.cli import main as cli
from numgpt.errors import ContextError, OptionError, TokenError
from numgpt.model import Model
from numgpt.params import leaves, map_leaves
from numgpt.training.backward import loss_and_grads
from numgpt.verify.gradients import compare_state, write_trace_of_gradients
from numgpt.verify.llmc_state import read_state
from numgpt.verify.noise import to_bfloat16

MODEL = wide()  # 31 tokens, a context of 20, 3 layers of 12
SMALL = wide(n_layer=1)  # for what is searched for in many passes
X, Y = np.random.default_rng(3).integers(31, size=(2, 2, 9))
GRADIENTS = ["d_ln_f.b", "d_ln_f.g", "d_h.2.mlp.c_proj.b", "d_h.2.mlp.c_proj.w"]  # the first of them


def made(model=MODEL, dtype=np.float64, x=X, y=Y):
    """The arguments of `llmcs.state`: what a model makes of a batch, all texts at once."""
    params, logits = map_leaves(lambda _, w: w.astype(dtype), model.params), {}
    loss, grads = loss_and_grads(x, y, params, model.config, lambda name, v: logits.setdefault(name, v))
    grads = {hub_name(path): np.array(d_p, np.float64) for path, d_p in leaves(grads)}
    return {"grads": grads, "x": x, "y": y, "logits": np.array(logits["logits"], np.float64), "loss": loss}


def compared(tmp_path, parts, model=MODEL, version=2, change=lambda raw: raw):
    path = write(tmp_path / "state.bin", change(llmcs.state(**parts, version=version)))
    return compare_state(read_state(path, model.config), model)


@pytest.fixture
def parts():
    return made()


def names(model=MODEL):
    return ["logits", "loss", *(f"d_{path}" for path in reversed(dict(leaves(model.params))))]


# ---- what is right


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("version", [1, 2])
def test_each_version_passes(tmp_path, version, dtype):
    report = compared(tmp_path, made(dtype=dtype), version=version)
    assert report.passed
    assert [row.name for row in report.rows] == names() + ["d_wte.padding"] * (version == 2)
    assert names()[2:6] == GRADIENTS
    assert names()[-2:] == ["d_wpe", "d_wte"]
    assert (report.precision, report.left, report.not_compared) == ("float32", 0, {})
    by_name = {row.name: row for row in report.rows}
    assert by_name["d_h.1.attn.c_attn.w"].source == "dqkvw[1]"
    assert by_name["d_h.1.attn.c_attn.w"].shape == (12, 36)
    assert by_name["d_wte"].shape == (31, 12)


def test_a_vocabulary_of_whole_rows_has_no_padding(tmp_path):
    config = MODEL.config._replace(n_vocab=128)
    model = Model(config, wide_params(config), None)
    report = compared(tmp_path, made(model), model)
    assert report.passed
    assert report.rows[-1].name == "d_wte"


def test_texts_that_are_computed_one_by_one_pass(tmp_path, parts, monkeypatch):
    monkeypatch.setattr("numgpt.verify.gradients.TOKENS", 1)
    assert compared(tmp_path, parts).passed
    parts["grads"]["wte.weight"] *= 2
    assert compared(tmp_path, parts).rows[-1].name == "d_wte"


def test_one_token_passes(tmp_path):
    assert compared(tmp_path, made(x=X[:1, :1], y=Y[:1, :1])).passed


def test_weights_of_bfloat16_beside_a_state_of_those_before_rounding(tmp_path):
    rounded = SMALL._replace(params=map_leaves(lambda _, w: to_bfloat16(w), SMALL.params))
    parts = made(SMALL)
    report = compared(tmp_path, parts, rounded)
    assert report.passed
    assert report.precision == "float32 and of the weights to bfloat16"
    parts["loss"] *= 1.5
    assert compared(tmp_path, parts, rounded).rows[-1].name == "loss"
    assert compared(tmp_path, made(rounded), rounded).precision == "float32"  # it was made of these


def test_weights_of_float32_are_not_taken_for_rounded_ones(tmp_path):
    nearly = SMALL._replace(params=map_leaves(lambda _, w: to_bfloat16(w) * np.float32(1 + 2**-20), SMALL.params))
    report = compared(tmp_path, made(SMALL, x=X[:1, :3], y=Y[:1, :3]), nearly)
    assert report.rows[-1].name == "logits"
    assert not report.passed


# ---- one number


@pytest.mark.parametrize(
    ("hub", "at", "name", "place"),
    [
        ("h.1.attn.c_attn.weight", (3, 20), "d_h.1.attn.c_attn.w", "[3, 20], in llm.c dqkvw[1, 20, 3],"),
        ("h.2.mlp.c_proj.bias", (7,), "d_h.2.mlp.c_proj.b", "[7], in llm.c dfcprojb[2, 7],"),
        ("h.0.ln_1.weight", (0,), "d_h.0.ln_1.g", "[0], in llm.c dln1w[0, 0],"),
        ("ln_f.bias", (11,), "d_ln_f.b", "[11], in llm.c dlnfb[11],"),
        ("wpe.weight", (8, 2), "d_wpe", "[8, 2], in llm.c dwpe[8, 2],"),
        ("wte.weight", (30, 1), "d_wte", "[30, 1], in llm.c dwte[30, 1],"),
    ],
)
def test_one_wrong_number_is_found_and_named(tmp_path, parts, hub, at, name, place):
    right = parts["grads"][hub][at]
    parts["grads"][hub][at] = right * 1.01
    report = compared(tmp_path, parts)
    assert not report.passed
    assert report.rows[-1].name == name
    assert report.left == len(names()) + 1 - len(report.rows)
    assert report.causes == []
    where, _, numbers = report.pattern[0].partition(" is ")
    assert where == f"1 of {parts['grads'][hub].size:,} numbers differs: {name}{place}"
    assert [float(x) for x in numbers.split(", expected ")] == pytest.approx([right * 1.01, right], rel=1e-5)
    assert re.fullmatch("the [0-9]+ tensors behind it are right: .*", report.pattern[1])


@pytest.mark.parametrize("value", [0, np.inf, np.nan, -1e30])
def test_a_number_of_any_kind_is_found(tmp_path, parts, value):
    parts["grads"]["h.1.mlp.c_fc.weight"][3, 5] = value
    report = compared(tmp_path, parts)
    assert report.rows[-1].name == "d_h.1.mlp.c_fc.w"
    assert f"d_h.1.mlp.c_fc.w[3, 5], in llm.c dfcw[1, 5, 3], is {value:.7g}, expected" in report.pattern[0]


def test_a_number_that_the_noise_of_other_tokens_would_hide_is_found(tmp_path, parts):
    rows = parts["grads"]["wte.weight"]
    at = int(abs(rows).max(axis=1).argmin())
    rows[at] *= 1.0003
    report = compared(tmp_path, parts)
    last = report.rows[-1]
    assert last.name == "d_wte"
    assert f"d_wte[{at}, " in report.pattern[0]
    assert last.max_abs < 8 * last.noise
    assert last.times > 8


def test_a_wrong_logit_is_found_in_its_text(tmp_path):
    parts = made(SMALL)
    parts["logits"][1, 4, 7] += 1
    report = compared(tmp_path, parts, SMALL)
    assert report.rows[-1].name == "logits"
    assert report.left == len(names(SMALL))
    assert "of 9 along the axis of positions 1 differ: 4" in report.pattern
    assert report.pattern[-1] == "this is text 1 of 2"


def test_a_wrong_loss_is_found(tmp_path, parts):
    parts["loss"] *= 1.0001
    report = compared(tmp_path, parts)
    assert [row.name for row in report.rows] == ["logits", "loss"]
    assert report.pattern[0].startswith("1 of 1 numbers differs: loss[0] is ")


@pytest.mark.parametrize("value", [1e-30, -1.0, np.nan])
def test_padding_that_is_not_0_is_a_fault(tmp_path, parts, value):
    before = 1024 + 4 * (X.size * 2 + X.size * 31 + 1 + 40 * 12 + 5)  # row 40 of wte

    def change(raw):
        return raw[:before] + np.float32(value).astype("<f4").tobytes() + raw[before + 4 :]

    report = compared(tmp_path, parts, change=change)
    assert report.rows[-1].name == "d_wte.padding"
    assert not report.passed
    assert report.causes == ["the gradient of wte is not 0 in its rows past the vocabulary, which stand for no token"]


# ---- mistakes


def test_a_mistake_of_the_forward_pass_is_called_by_its_name(tmp_path):
    parts = made(SMALL)
    parts["logits"] = np.stack([dump(ids, SMALL.params, SMALL.config, "erf", dtype=np.float32)["logits"] for ids in X])
    report = compared(tmp_path, parts, SMALL)
    assert report.rows[-1].name == "logits"
    assert report.causes[0].startswith("wrong activation: erf GELU instead of tanh GELU")


@pytest.mark.parametrize(("factor", "words"), [(18, "summed over all tokens"), (2, "summed over the texts")])
def test_a_loss_that_is_no_mean_is_told(tmp_path, parts, factor, words):
    parts["loss"] *= factor
    assert words in compared(tmp_path, parts).causes[0]
    parts["loss"] /= factor
    parts["grads"] = {name: factor * x for name, x in parts["grads"].items()}
    report = compared(tmp_path, parts)
    assert report.rows[-1].name == "d_ln_f.b"
    assert words in report.causes[0]


@pytest.mark.parametrize(
    "hub", ["h.0.attn.c_attn.weight", "h.1.attn.c_proj.weight", "h.2.mlp.c_fc.weight", "h.2.mlp.c_proj.weight"]
)
def test_a_matrix_that_is_written_as_it_lies_in_the_hubs_files_is_told(tmp_path, parts, hub):
    x = parts["grads"][hub]
    parts["grads"][hub] = x.reshape(x.shape[::-1]).T
    report = compared(tmp_path, parts)
    assert hub_name(report.rows[-1].name.removeprefix("d_")) == hub
    assert report.causes[0].startswith("it is written as [in, out], expected [out, in], as nn.Linear has it")


def test_a_part_of_the_tied_embedding_that_is_missing_is_told(tmp_path, parts):
    d_embed = {}
    loss_and_grads(X, Y, MODEL.params, MODEL.config, lambda name, v: d_embed.setdefault(name, v))
    at_input = np.zeros((31, 12))
    for i, d in zip(X.ravel(), d_embed["d_embed"].reshape(-1, 12), strict=True):
        at_input[i] += d
    whole = parts["grads"]["wte.weight"]
    parts["grads"]["wte.weight"] = at_input
    assert compared(tmp_path, parts).causes[0].startswith("the part of the output head is missing")
    parts["grads"]["wte.weight"] = whole - at_input
    assert compared(tmp_path, parts).causes[0].startswith("the part of the token embedding is missing")


def test_a_wrong_way_back_is_found_where_it_begins(tmp_path, parts):
    """The gradient of GELU's exact form in layer 1: all that lies behind it is wrong, and no more."""

    def record(name, x):
        return x * 1.01 if name == "d_h.1.mlp.pre" else x

    _, grads = loss_and_grads(X, Y, MODEL.params, MODEL.config, record)
    parts["grads"] = {hub_name(path): d_p for path, d_p in leaves(grads)}
    report = compared(tmp_path, parts)
    assert report.rows[-1].name == "d_h.1.mlp.c_fc.b"
    assert "every value is 1.01 times ours" in report.pattern
    assert "of the" in report.pattern[-1]
    assert "tensors behind it differ too, d_h.1.mlp.c_fc.w first" in report.pattern[-1]


def test_a_model_that_overflows_fails_and_does_not_break(tmp_path, parts):
    params = map_leaves(lambda path, w: w * np.float32(1e30) if path.endswith("c_fc.w") else w, MODEL.params)
    assert not compared(tmp_path, parts, MODEL._replace(params=params)).passed


# ---- writing


def test_the_state_of_a_text_is_what_the_model_makes_of_it(tmp_path):
    ids = [3, 1, 4, 15, 9, 26]
    loss = write_trace_of_gradients(tmp_path / "state.bin", ids, MODEL)
    expected = made(dtype=np.float64, x=np.array([ids[:-1]]), y=np.array([ids[1:]]))
    assert loss == pytest.approx(expected["loss"], rel=1e-12)
    raw = (tmp_path / "state.bin").read_bytes()
    np.testing.assert_array_equal(
        np.frombuffer(raw[:1064], "<i4"), np.frombuffer(llmcs.state(**expected)[:1064], "<i4")
    )
    numbers = np.frombuffer(raw[1064:], "<f4"), np.frombuffer(llmcs.state(**expected)[1064:], "<f4")
    np.testing.assert_allclose(*numbers, rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize(
    ("ids", "error", "said"),
    [
        ([], TokenError, "ids: empty"),
        ([1], OptionError, "a debug state of 1 id, expected 2 or more"),
        ([1, 31], TokenError, r"ids\[1\] is 31, expected 0 to 30"),
        ([1] * 22, ContextError, "21 tokens, but the context of this model is 20"),
    ],
)
def test_ids_that_make_no_state_are_refused(tmp_path, ids, error, said):
    with pytest.raises(error, match=said):
        write_trace_of_gradients(tmp_path / "state.bin", ids, MODEL)
    assert not list(tmp_path.iterdir())


# ---- the command line


def call(capsys, *arguments):
    code = cli.main(list(map(str, arguments)))
    return code, *capsys.readouterr()


def test_a_text_becomes_a_state_that_passes(capsys, tmp_path):
    path = tmp_path / "state.bin"
    code, out, err = call(capsys, "trace", "Once upon a time", "--to", "llm.c", "-o", path)
    assert (code, out) == (0, "")
    assert re.fullmatch(
        rf"numgpt: logits, loss 1\.42\d\d and gradients of 4 positions in {re.escape(str(path))}\n", err
    )
    code, out, err = call(capsys, "verify", path)
    assert (code, err) == (0, "")
    assert [out.splitlines()[i].split()[0] for i in (1, 2, 78)] == ["logits", "loss", "d_wte"]


@pytest.fixture
def files(tmp_path):
    """A model file of llm.c, and a debug state of it."""
    tensors = {hub_name(leaf): x for leaf, x in leaves(MODEL.params)}
    model = write(tmp_path / "gpt2_124M.bin", llmcs.model(tensors, n_head=3))
    return model, write(tmp_path / "state.bin", llmcs.state(**made()))


def test_the_commands_write_a_state_and_tell_what_is_wrong_in_it(capsys, files):
    model, path = files
    out = call(capsys, "trace", "--ids", "4,8,15,1", "-m", model, "--to", "llm.c", "-o", path, "--json")[1]
    assert json.loads(out)["ids"] == [4, 8, 15, 1]
    assert 0 < json.loads(out)["loss"] < 99
    raw = path.read_bytes()
    write(path, raw[:-4] + np.float32(7).astype("<f4").tobytes())
    code, out, err = call(capsys, "verify", path, "-m", model)
    assert code == 1
    assert "d_ln_f.b[11], in llm.c dlnfb[11], is 7, expected " in out
    assert f"numgpt: error: {path}: d_ln_f.b differs, " in err
    assert err.count("\n") == 1
    code, out, _ = call(capsys, "verify", path, "-m", model, "--json")
    report = json.loads(out)
    assert (code, report["passed"], report["rows"][-1]["name"], report["left"]) == (1, False, "d_ln_f.b", 40)


def test_files_that_are_taken_for_one_another_are_told_in_one_line(capsys, files, tmp_path):
    model, state = files
    assert call(capsys, "verify", state, "-m", model)[0] == 0
    for arguments, said in [
        (["verify", model, "-m", model], "it looks like llm.c's model, expected llm.c's debug state"),
        (["verify", state, "-m", state], "it looks like llm.c's debug state, expected llm.c's model"),
        (["verify", state], "and a model of 4,096 tokens"),
        (["trace", "a", "-m", state], "a state is for numgpt verify"),
        (["trace", "a", "-o", tmp_path / "state"], "or --to llm.c"),
    ]:
        code, _, err = call(capsys, *arguments)
        assert code == 1
        assert said in err
        assert err.count("\n") == 1


@pytest.mark.parametrize(
    "arguments",
    [
        ["trace", "a", "--to", "llm.c"],
        ["trace", "a", "--to", "llm.c", "-o", "a.bin", "--names", "logits"],
        ["trace", "a", "--to", "llm.c", "-o", "a.bin", "--ablate", "h.0.attn.z"],
        ["trace", "a", "--to", "llm.c", "-o", "a.bin", "--dtype", "float64"],
    ],
)
def test_wrong_usage_of_trace_exits_2(capsys, arguments):
    with pytest.raises(SystemExit) as error:
        cli.main(arguments)
    assert error.value.code == 2
    assert "--to llm.c" in capsys.readouterr().err


def test_a_state_has_its_own_ids(capsys, tmp_path):
    state = write(tmp_path / "state.bin", llmcs.state(**made()))
    with pytest.raises(SystemExit) as error:
        cli.main(["verify", str(state), "--ids", "1,2"])
    assert error.value.code == 2
    assert "a debug state has them" in capsys.readouterr().err
