"""The trace: its table against real runs, interventions by hand, and the command that shows and writes it."""

import hashlib
import json
import pathlib
import re

import numpy as np
import pytest
from support.checkpoints import SIZES, hub_tensors, write_checkpoint, write_shards, write_tokenizer

import numgpt
from numgpt.cli import main as cli
from numgpt.config import Config
from numgpt.errors import OptionError, TokenError
from numgpt.trace import TRACE_SHAPES, ablations, collect, match_names, summarise, trace_shapes
from numgpt.verify.dump import read_dump

REFERENCE = pathlib.Path(__file__).parent / "reference"
IDS = [3, 1, 4, 1, 5]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A small model whose attention is not uniform: 2 layers, 2 heads, width 6, MLP 10, 258 tokens, 7 positions."""
    folder = write_checkpoint(tmp_path_factory.mktemp("small"), hub_tensors(258), {**SIZES, "vocab_size": 258})
    write_tokenizer(folder)
    return numgpt.load(folder, dtype="float64")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("model")
    write_tokenizer(write_checkpoint(path, hub_tensors(258), {**SIZES, "vocab_size": 258, "eos_token_id": 257}))
    return str(path)


def call(capsys, *arguments):
    code = cli.main(list(arguments))
    out, err = capsys.readouterr()
    return code, out, err


# --- names and shapes


def test_the_table_is_the_one_that_the_reference_files_tell_of():
    text = (REFERENCE / "README.md").read_text(encoding="utf-8")
    told = {}
    for names, dims in re.findall(r"^\| (`[a-z][^|]*`) \| \[([A-Z, ]+)\] \|", text, re.MULTILINE):
        told |= {name.replace("h.N.", "h.*."): dims.replace(", ", "") for name in re.findall("`([^`]+)`", names)}
    assert told.items() >= TRACE_SHAPES.items()


@pytest.mark.parametrize("past", [0, 2])
def test_a_run_records_the_names_and_shapes_of_the_table_in_its_order(model, past):
    cache = numgpt.KVCache(model.config, dtype=np.float64)
    if past:
        numgpt.forward(IDS[:past], model.params, model.config, cache=cache)
    seen = {}
    record = lambda name, x: seen.setdefault(name, x)  # noqa: E731
    numgpt.forward(IDS[past:], model.params, model.config, cache=cache, record=record)
    shapes = trace_shapes(model.config, len(IDS) - past, past)
    assert [(name, x.shape) for name, x in seen.items()] == list(shapes.items())


def test_patterns_stand_for_names():
    config = Config(n_layer=3)
    assert match_names("h.1.attn.z", config) == ["h.1.attn.z"]
    assert match_names("h.*.attn.z", config) == match_names("attn.z", config) == [f"h.{i}.attn.z" for i in range(3)]
    assert match_names("h.2.ln_*", config) == ["h.2.ln_1", "h.2.ln_2"]
    assert match_names("ln_?", config) == ["ln_f"]  # as it stands, before any layer is put in front
    assert match_names("ln_1", config) == ["h.0.ln_1", "h.1.ln_1", "h.2.ln_1"]
    assert match_names("*", config) == list(trace_shapes(config, 1))


@pytest.mark.parametrize(
    ("pattern", "near"),
    [("h.1.attn.scroes", "h.1.attn.scores"), ("attn.weight", "attn.weights"), ("h.3.ln_1", "h.2.ln_1"), ("", "embed")],
)
def test_an_unknown_name_is_told_with_those_near(pattern, near):
    with pytest.raises(OptionError, match=f"no tensor '{pattern}', expected one like .*{near}"):
        match_names(pattern, Config(n_layer=3))


# --- collect


def test_all_is_kept_in_the_order_of_the_model_and_is_what_forward_computes(model):
    traced = collect(IDS, model)
    assert {name: x.shape for name, x in traced.items()} == trace_shapes(model.config, len(IDS))
    assert list(traced) == list(trace_shapes(model.config, len(IDS)))
    np.testing.assert_array_equal(traced["logits"], numgpt.forward(IDS, model.params, model.config))


def test_only_what_is_asked_for_is_kept(model):
    assert list(collect(IDS, model, names=["logits", "attn.z"])) == ["h.0.attn.z", "h.1.attn.z", "logits"]
    assert list(collect(IDS, model, names="embed")) == ["embed"]
    assert collect(IDS, model, names=[]) == {}


def test_a_replaced_tensor_is_kept_and_what_follows_is_computed_from_it(model):
    before = collect(IDS, model)
    after = collect(IDS, model, replace={"h.1.attn_out": lambda x: 2 * x})
    names = list(before)
    at = names.index("h.1.attn_out")
    for name in names[:at]:
        np.testing.assert_array_equal(after[name], before[name])
    np.testing.assert_array_equal(after["h.1.attn_out"], 2 * before["h.1.attn_out"])
    np.testing.assert_array_equal(after["h.1.resid_mid"], before["h.0.resid_post"] + 2 * before["h.1.attn_out"])
    assert abs(after["logits"] - before["logits"]).max() > 1e-3


def test_activation_patching_carries_a_run_into_another(model):
    """With the residual stream of another text in its place, what follows is that of the other text."""
    other = [2, 7, 1, 8, 2]
    theirs = collect(other, model)
    patched = collect(IDS, model, replace={"h.0.resid_post": theirs["h.0.resid_post"]})
    np.testing.assert_array_equal(patched["h.1.attn.weights"], theirs["h.1.attn.weights"])
    np.testing.assert_array_equal(patched["logits"], theirs["logits"])


def test_a_pattern_replaces_all_that_it_matches(model):
    traced = collect(IDS, model, replace={"attn_out": lambda x: 0 * x, "h.*.mlp_out": np.zeros((5, 6))})
    np.testing.assert_array_equal(traced["h.1.resid_post"], traced["embed"])


def test_a_replacement_keeps_the_dtype_of_the_model(folder):
    model = numgpt.load(folder, dtype="float32")
    traced = collect(IDS, model, replace={"h.0.mlp_out": np.ones((5, 6), np.float64)})
    assert {x.dtype.name for x in traced.values()} == {"float32"}


def test_a_function_may_change_what_it_gets(model):
    """It gets a copy: the trace of the tensor before it is not spoiled."""

    def in_place(x):
        x[...] = 0
        return x

    traced = collect(IDS, model, replace={"h.0.resid_mid": in_place})
    assert not traced["h.0.resid_mid"].any()
    np.testing.assert_array_equal(traced["h.0.attn_out"], collect(IDS, model)["h.0.attn_out"])


@pytest.mark.parametrize(
    ("change", "got"),
    [
        (np.zeros((6, 5)), r"float64 of shape \(6, 5\)"),
        (lambda x: x[:1], r"float64 of shape \(1, 6\)"),
        (lambda x: None, "None"),
        (0.0, r"float64 of shape \(\)"),
        (lambda x: x > 0, r"bool of shape \(5, 6\)"),
    ],
)
def test_a_replacement_that_does_not_fit_is_refused(model, change, got):
    with pytest.raises(OptionError, match=rf"replace h.1.attn_out: got {got}, expected numbers of shape \(5, 6\)"):
        collect(IDS, model, replace={"h.1.attn_out": change})


def test_names_that_there_are_not_and_ids_that_do_not_fit_are_refused(model):
    with pytest.raises(OptionError, match=r"no tensor 'h\.7\.attn\.z'"):
        collect(IDS, model, names=["h.7.attn.z"])
    with pytest.raises(OptionError, match=r"no tensor 'attn\.y'"):
        collect(IDS, model, replace={"attn.y": np.zeros(1)})
    with pytest.raises(TokenError, match="258"):
        collect([258], model)


# --- ablation


def test_a_head_that_is_ablated_gives_nothing_to_the_projection(model):
    before = collect(IDS, model)
    after = collect(IDS, model, replace=ablations(["h.1.attn.z:1"], model.config))
    np.testing.assert_array_equal(after["h.1.attn.z"][0], before["h.1.attn.z"][0])
    assert not after["h.1.attn.z"][1].any()
    p = model.params["h"][1]["attn"]["c_proj"]
    lost = before["h.1.attn.z"][1] @ p["w"][3:]  # head 1 of 2 has features 3 to 5 of 6
    np.testing.assert_allclose(after["h.1.attn_out"], before["h.1.attn_out"] - lost, atol=1e-12)


def test_a_feature_and_a_whole_tensor_are_ablated(model):
    traced = collect(IDS, model, replace=ablations(["h.0.mlp.post:9", "h.1.mlp_out", "ln_f:0", "ln_f:5"], model.config))
    zero = {name: np.flatnonzero(~x.any(axis=0)).tolist() for name, x in traced.items() if x.ndim == 2}
    assert zero["h.0.mlp.post"] == [9]
    assert zero["h.1.mlp_out"] == [0, 1, 2, 3, 4, 5]
    assert zero["ln_f"] == [0, 5]
    assert zero["h.1.mlp.post"] == []


def test_ablated_scores_make_attention_uniform_and_still_causal(model):
    traced = collect(IDS, model, replace=ablations(["attn.scores:0"], model.config))
    uniform = np.tri(5) / np.arange(1, 6)[:, None]
    for layer in "01":
        np.testing.assert_allclose(traced[f"h.{layer}.attn.weights"][0], uniform, atol=1e-15)
        assert abs(traced[f"h.{layer}.attn.weights"][1] - uniform).max() > 1e-3


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("h.1.attn.z:2", "head '2' of h.1.attn.z, expected 0 to 1"),
        ("attn.scores:-1", "head '-1' of h.0.attn.scores, expected 0 to 1"),
        ("h.0.ln_1:6", "feature '6' of h.0.ln_1, expected 0 to 5"),
        ("mlp.pre:10", "feature '10' of h.0.mlp.pre, expected 0 to 9"),
        ("logits:258", "feature '258' of logits, expected 0 to 257"),
        ("embed:x", "feature 'x' of embed"),
        ("embed:", "feature '' of embed"),
        ("embed:1:2", "feature '1:2' of embed"),
        ("h.2.attn.z:0", "no tensor 'h.2.attn.z'"),
    ],
)
def test_what_can_not_be_ablated_is_refused(model, text, message):
    with pytest.raises(OptionError, match=re.escape(message)):
        ablations([text], model.config)


# --- the summary


def test_a_summary_leaves_out_what_is_not_finite():
    rows = summarise({"attn.scores": np.array([[1.0, -np.inf], [2.0, 6.0]]), "nan": np.array([np.nan])})
    assert rows[0]["non_finite"] == 1
    assert [rows[0][x] for x in ("min", "max", "mean")] == [1.0, 6.0, 3.0]
    assert rows[0]["std"] == pytest.approx((14 / 3) ** 0.5)
    assert [rows[1][x] for x in ("min", "std", "non_finite")] == [None, None, 1]


# --- the command line


def test_the_table_has_a_row_for_each_tensor(capsys, folder):
    code, out, err = call(capsys, "trace", "hi", "-m", folder)
    assert (code, err) == (0, "")
    rows = [line.split()[0] for line in out.splitlines()]
    assert rows == ["tensor", *trace_shapes(numgpt.load(folder).config, 1)]


@pytest.mark.parametrize("suffix", ["safetensors", "npz"])
def test_a_trace_says_of_what_it_is(capsys, tmp_path, folder, suffix):
    path = tmp_path / f"trace.{suffix}"
    options = ["--dtype", "float64", "--ablate", "attn.z:1", "--ablate", "h.0.ln_2:3"]
    code, out, _ = call(capsys, "trace", "abhi", "-m", folder, "-o", str(path), *options)
    assert (code, out) == (0, "")
    model = numgpt.load(folder, dtype="float64")
    ids = model.tokenizer.encode("abhi")
    tensors, metadata = read_dump(path)
    assert json.loads(metadata["ids"]) == ids
    assert metadata["text"] == "abhi"
    assert metadata["dtype"] == "float64"
    assert metadata["numgpt"] == numgpt.__version__
    assert json.loads(metadata["ablations"]) == ["attn.z:1", "h.0.ln_2:3"]
    assert json.loads(metadata["config"])["n_embd"] == 6
    weights = pathlib.Path(folder, "model.safetensors").read_bytes()
    assert json.loads(metadata["sha256"]) == {"model.safetensors": hashlib.sha256(weights).hexdigest()}
    expected = collect(ids, model, replace=ablations(["attn.z:1", "h.0.ln_2:3"], model.config))
    assert set(tensors) == set(expected)
    for name, x in expected.items():
        np.testing.assert_array_equal(tensors[name], x)


def test_each_shard_of_a_checkpoint_is_hashed(capsys, tmp_path):
    folder = write_shards(tmp_path / "shards", hub_tensors())
    path = tmp_path / "trace.npz"
    assert call(capsys, "trace", "--ids", "1,2", "-m", str(folder), "-o", str(path))[0] == 0
    hashes = json.loads(read_dump(path).metadata["sha256"])
    files = [file for file in folder.iterdir() if file.name != "config.json"]
    assert hashes == {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


def test_names_ids_and_json(capsys, folder):
    arguments = ["--ids", "3,1,4", "--names", "embed", "h.1.ln_?", "--json"]
    result = json.loads(call(capsys, "trace", "-m", folder, *arguments)[1])
    assert result["ids"] == [3, 1, 4]
    assert [(row["name"], row["shape"]) for row in result["tensors"]] == [
        ("embed", [3, 6]),
        ("h.1.ln_1", [3, 6]),
        ("h.1.ln_2", [3, 6]),
    ]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["hi", "--names", "attn.y"], "no tensor 'attn.y', expected one like"),
        (["hi", "--ablate", "h.0.attn.z:2"], "expected 0 to 1"),
        (["--ids", "1;2"], "--ids is '1;2', expected numbers with commas between"),
        (["--ids", "1,258"], "ids[1] is 258"),
        (["hi", "-o", "trace.txt"], "expected .safetensors or .npz"),
        (["hi", "-o", "no/such/folder/trace.npz"], "can't be written"),
        (["abcdefgh"], "the context of this model is 7"),
    ],
)
def test_a_fault_is_told_in_a_line(capsys, folder, arguments, message):
    code, out, err = call(capsys, "trace", "-m", folder, *arguments)
    assert (code, out) == (1, "")
    assert message in err
    assert err.count("\n") == 1


@pytest.mark.parametrize("arguments", [[], ["hi", "--ids", "1,2"]])
def test_a_text_or_ids_are_given(capsys, folder, arguments):
    with pytest.raises(SystemExit) as stop:
        cli.main(["trace", "-m", folder, *arguments])
    assert stop.value.code == 2
    assert "a text or --ids" in capsys.readouterr().err
