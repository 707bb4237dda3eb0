"""`numgpt inspect` and `numgpt models`, and where checkpoints are looked for."""

import json

import numpy as np
import pytest
from support.checkpoints import TOKENS, hub_tensors, masks
from support.cli import call, fails, tiny

from numgpt.hub import folders

STORY = ["generate", "Once upon a time", "--seed", "1", "-n", "2"]


def test_inspect_shows_config_tensors_and_memory(capsys):
    out = call(capsys, "inspect")[1]
    assert "5,918,720 parameters: 23.7 MB in memory as float32" in out
    assert "6.29 MB more for the keys and values of a full context" in out
    assert "0 values that are not finite" in out
    row = ["transformer.wte.weight", "F16", "2.10", "MB", "4096", "x", "256"]
    assert any(line.split() == row for line in out.splitlines())
    assert any(line.split() == ["n_ctx", "512"] for line in out.splitlines())
    facts = json.loads(call(capsys, "inspect", "--json")[1])
    assert facts["cache_bytes"] == 2 * 6 * 512 * 256 * 4
    assert facts["parameters"] == sum(np.prod(row["shape"], dtype=int) for row in facts["tensors"])


def test_inspect_shows_the_tensors_of_a_checkpoint_that_does_not_fit_and_then_says_so(capsys, tmp_path):
    code, out, err = call(capsys, "inspect", "-m", tiny(tmp_path, n_layer=3))
    assert code == 1
    assert "wpe.weight" in out
    assert "missing: 12 tensors, such as h.2.ln_1.g, h.2.ln_1.b, h.2.attn.c_attn.w" in err
    code, out, err = call(capsys, "inspect", "-m", str(tmp_path), "--json")
    assert code == 1
    assert len(json.loads(out)["faults"]["missing"]) == 12


def test_set_says_what_no_tensor_tells(capsys, tmp_path):
    path = tiny(tmp_path / "m")
    (tmp_path / "m" / "config.json").unlink()
    assert "--set n_head=N" in fails(capsys, "generate", "h", "-m", path)
    told = ["--set", "n_head=3", "--set", "activation_function=gelu", "--set", "layer_norm_epsilon=1e-6"]
    code, out, _ = call(capsys, "inspect", "-m", path, *told, "--json")
    config = json.loads(out)["config"]
    assert code == 0
    assert (config["n_head"], config["activation_function"], config["layer_norm_epsilon"]) == (3, "gelu", 1e-6)
    for command in (["generate", "h", "-n", "1"], ["score", "hi hi"], ["tokenize", "h"], ["trace", "h"]):
        assert call(capsys, *command, "-m", path, *told)[0] == 0
    assert call(capsys, "convert", path, str(tmp_path / "copy"), *told)[0] == 0
    assert json.loads((tmp_path / "copy" / "config.json").read_text(encoding="utf-8"))["n_head"] == 3


@pytest.mark.parametrize("said", ["n_head", "n_head=", "n_head=x", "n_head=0", "n_layer=2", "=3", "eos_token_id=true"])
def test_what_set_can_not_say_is_refused(capsys, tmp_path, said):
    said = fails(capsys, "inspect", "-m", tiny(tmp_path), "--set", said)
    assert "expected" in said


def test_a_number_of_heads_that_does_not_divide_the_width_is_refused(capsys, tmp_path):
    said = fails(capsys, "inspect", "-m", tiny(tmp_path), "--set", "n_head=4")
    assert "n_head" in said
    assert "6" in said


def test_models_lists_known_names_and_what_lies_in_the_folder(capsys, tmp_path, monkeypatch):
    monkeypatch.setenv("NUMGPT_WEIGHTS", str(tmp_path))
    tiny(tmp_path / "someone" / "tuned")
    out = call(capsys, "models")[1]
    rows = {line.split()[0]: line for line in out.splitlines() if line.startswith("  ")}
    assert "548 MB" in rows["gpt2"]
    assert "not here" in rows["gpt2"]
    assert str(folders.bundled()) in rows["storyteller"]
    assert str(tmp_path / "someone" / "tuned") in rows["someone/tuned"]
    listed = json.loads(call(capsys, "models", "--json")[1])
    assert {row["name"]: row["path"] for row in listed["models"]}["gpt2"] is None


def test_an_unknown_model_says_where_it_was_looked_for(capsys):
    err = fails(capsys, "generate", "x", "-m", "nope")
    assert "no checkpoint 'nope'" in err
    assert str(folders.weights_folder()) in err


@pytest.mark.parametrize("make", [lambda path: path.touch(), lambda path: path.mkdir()])
def test_what_lies_in_the_working_folder_does_not_hide_known_names(capsys, tmp_path, monkeypatch, make):
    monkeypatch.chdir(tmp_path)
    make(tmp_path / "gpt2")
    (tmp_path / "storyteller").mkdir()
    rows = {row["name"]: row for row in json.loads(call(capsys, "models", "--json")[1])["models"]}
    assert rows["gpt2"]["path"] is None
    assert rows["storyteller"]["path"] == str(folders.bundled())
    assert call(capsys, *STORY)[0] == 0


def test_without_a_home_folder_the_bundled_model_runs_and_the_rest_says_what_to_set(capsys, monkeypatch):
    def home():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(folders, "CHECKOUT", None)
    monkeypatch.setattr(folders, "bundled", lambda: folders.HERE.parent / "weights" / "storyteller")
    monkeypatch.setattr("pathlib.Path.home", home)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert call(capsys, *STORY)[0] == 0
    assert "you have no home folder here: set NUMGPT_WEIGHTS" in fails(capsys, "models")


def test_inspect_names_what_was_left_out_and_why(capsys, tmp_path):
    heads = {f"{name}.weight": np.zeros((2, 6), np.float32) for name in ("score", "v_head.0", "value_head", "a_head")}
    path = tiny(tmp_path / "m", tensors=hub_tensors(TOKENS) | masks() | heads)
    code, out, err = call(capsys, "inspect", "-m", path)
    assert (code, err) == (0, "")
    assert "model.safetensors (safetensors)" in out
    assert "left out:\n  h.0.attn.bias, h.1.attn.bias: a causal mask" in out
    assert "and 1 more: a head that is not the language model's" in out
    told = json.loads(call(capsys, "inspect", "-m", path, "--json")[1])
    assert told["format"] == "safetensors"
    assert told["left_out"].keys() == heads.keys() | masks().keys()
