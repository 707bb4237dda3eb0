"""numgpt generate and score with --input: usage, the options that a job is given, and what is told of it."""

import json
import sys
from pathlib import Path

import pytest
from support.checkpoints import TOKENS, hub_tensors
from support.cli import call, fails, tiny
from support.jobs import read_results, write_lines

from numgpt.cli import main as cli


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """The path of a model of 32 positions with a token for each byte."""
    folder, sizes = tmp_path_factory.mktemp("small"), {"n_positions": 32, "eos_token_id": TOKENS - 1}
    return tiny(folder, tensors=hub_tensors(TOKENS, 32), **sizes)


@pytest.fixture
def source(tmp_path):
    texts = ["hi", "the king", "", "hi hi hi", "once", "a long way from here", "x"]
    return write_lines(tmp_path / "in.jsonl", *({"prompt": text, "id": i} for i, text in enumerate(texts)))


@pytest.fixture
def output(tmp_path):
    return tmp_path / "out.jsonl"


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        (["generate", "--input", "in"], "--input needs --output"),
        (["generate", "--output", "out"], "--output is for jobs: give --input too"),
        (["generate", "--dask", "tcp://x"], "--dask is for jobs"),
        (["score", "hi", "--batch-size", "3"], "--batch-size is for jobs"),
        (["generate", "hi", "--input", "in", "--output", "out"], "give a text or --input, not both"),
        (["score", "hi", "--input", "in", "--output", "out"], "not allowed with"),
        (
            ["generate", "--input", "-", "--output", "out"],
            "--input - goes with --output -: a job that is started again reads",
        ),
        (
            ["generate", "--input", "in", "--output", "-", "--dask", "tcp://x"],
            "--dask writes a file",
        ),
        (["generate", "--input", "in", "--output", "out", "--num-return-sequences", "2"], "one text of each line"),
    ],
)
def test_wrong_usage_exits_2(capsys, arguments, match):
    with pytest.raises(SystemExit, match="2"):
        cli.main(arguments)
    assert match in capsys.readouterr().err


def test_the_command_line_gives_its_options_to_the_job(checkpoint, source, output, capsys):
    flags = ["-n", "5", "--top-p", "0.9", "--stop", "q", "--bad-words", "hi", "--logit-bias", "a=2", "--top-k", "0"]
    run = ["generate", "-m", checkpoint, "--input", str(source), "--output", str(output), "--json", *flags]
    code, out, err = call(capsys, *run)
    assert code == 0
    summary = {"lines": 7, "before": 0, "made": 7, "bad": 0}
    assert summary.items() <= json.loads(out).items()
    assert "numgpt: 7 of 7 lines in " in err
    record = json.loads(Path(f"{output}.job.json").read_text())
    options = {"max_new_tokens": 5, "top_p": 0.9, "stop_strings": ["q"], "bad_words": [[256]], "top_k": 0}
    options |= {"logit_bias": [[[64], 2.0]], "temperature": 0.8, "seed": 0}
    assert {name: record[name] for name in options} == options
    whole = output.read_bytes()
    output.unlink()
    code, _, err = call(capsys, *run, "--seed", "0", "--batch-size", "2", "-q")
    assert (code, err) == (0, "")
    assert output.read_bytes() == whole
    assert "seed was 0 and is 1" in fails(capsys, *run, "--seed", "1")


def test_score_takes_a_job_too(checkpoint, tmp_path, output, capsys):
    source = write_lines(tmp_path / "in.jsonl", {"text": "hi"}, {"text": ""})
    run = ["score", "-m", checkpoint, "--input", str(source), "--output", str(output), "--bos"]
    code, _, err = call(capsys, *run)
    assert code == 1
    assert "in.jsonl: line 2: too short to score" in err
    [result] = read_results(output)
    assert (result["line"], result["text"], result["tokens"]) == (1, "hi", 1)


def test_without_dask_the_error_says_how_to_install_it(checkpoint, source, output, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "distributed", None)
    run = ["generate", "-m", checkpoint, "--input", str(source), "--output", str(output), "--dask", "tcp://here:1"]
    assert '--dask needs Dask: pip install "numgpt[dask]"' in fails(capsys, *run)
