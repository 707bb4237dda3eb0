"""numgpt verify DUMP: what it prints, and how it exits."""

import json

import numpy as np
import pytest
from support.babblers import babbler, write_babbler
from support.broken import dump

from numgpt.cli import main as cli
from numgpt.verify.dump import write_trace


def call(capsys, *arguments):
    code = cli.main(list(map(str, arguments)))
    out, err = capsys.readouterr()
    return code, out, err


TEXT = "Once upon a time there was a king"
IDS = babbler().tokenizer.encode(TEXT)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A model, a dump of it that is right, and one with a bug in it."""
    model, folder = babbler(), tmp_path_factory.mktemp("dumps")
    write_babbler(folder / "model")
    for name, bug in ("right", None), ("wrong", "erf"):
        tensors = dump(IDS, model.params, model.config, bug, dtype=np.float32)
        write_trace(folder / f"{name}.npz", {"h.0.mlp.post": tensors["h.0.mlp.post"], "logits": tensors["logits"]})
    return folder


def test_the_command_prints_a_table_and_exits_0_where_all_agrees(capsys, files):
    code, out, err = call(capsys, "verify", files / "right.npz", "-m", files / "model", "--text", TEXT)
    assert code == 0
    assert err == ""
    lines = out.splitlines()
    assert lines[0].split() == ["tensor", "max", "abs", "max", "rel", "noise", "times", "verdict"]
    assert [(line.split()[0], line.split()[-1]) for line in lines[1:3]] == [("h.0.mlp.post", "ok"), ("logits", "ok")]


def test_the_command_exits_1_and_names_tensor_and_cause(capsys, files):
    ids = ",".join(map(str, IDS))
    code, out, err = call(capsys, "verify", files / "wrong.npz", "-m", files / "model", "--ids", ids)
    assert code == 1
    assert out.splitlines()[1].split()[-1] == "DIFFERS"
    assert "1 tensors behind it are not compared any more" in out
    assert "likely cause: wrong activation: erf GELU instead of tanh GELU, in every layer" in out
    assert err.startswith("numgpt: error: ")
    assert "h.0.mlp.post differs" in err
    assert "erf GELU" in err
    assert err.count("\n") == 1


def test_the_command_prints_json_for_programs(capsys, files):
    ids = ",".join(map(str, IDS))
    code, out, _ = call(capsys, "verify", files / "wrong.npz", "-m", files / "model", "--ids", ids, "--json")
    report = json.loads(out)
    assert code == 1
    assert report["passed"] is False
    assert report["rows"][-1]["name"] == "h.0.mlp.post"
    assert report["rows"][-1]["passed"] is False
    assert report["causes"][0].startswith("wrong activation: erf GELU")


@pytest.mark.parametrize("name", ["babbler", pytest.param("storyteller", marks=pytest.mark.thorough)])
def test_a_trace_of_numgpt_itself_passes_with_its_own_ids(capsys, files, tmp_path, name):
    model = files / "model" if name == "babbler" else name
    for dtype in "float32", "float64":
        path = tmp_path / f"{dtype}.safetensors"
        assert call(capsys, "trace", "The king", "-m", model, "-o", path, "--dtype", dtype)[0] == 0
        assert call(capsys, "verify", path, "-m", model)[0] == 0
    assert call(capsys, "trace", "The king", "-m", model, "-o", path, "--ablate", "h.1.attn.z:2")[0] == 0
    code, out, _ = call(capsys, "verify", path, "-m", model)
    assert code == 1
    assert "h.1.attn.z: head 2 is 0 times ours" in out


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
