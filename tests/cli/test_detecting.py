"""`numgpt detect`: a watermark by its key, and hints without one."""

import json

import pytest
from support.cli import call, fails, pipe_in, tiny

import numgpt
from numgpt.hub import loading
from numgpt.measure.hints import look
from numgpt.measure.watermarks import find_watermark

pytestmark = pytest.mark.usefixtures("storyteller_once")
START = "Once upon a time"


def written(capsys, *options, n=60):
    code, out, err = call(capsys, "generate", START, "-n", n, "--seed", 3, "--temperature", 1, "--top-k", 0, *options)
    assert code == 0, err
    return out


def detected(capsys, text, *options):
    code, out, err = call(capsys, "detect", text, "--json", *options)
    assert code == 0, err
    return json.loads(out)


def test_what_generate_marks_detect_finds_and_no_other_key_does(capsys):
    text = written(capsys, "--watermark", "secret")
    found = detected(capsys, text, "--key", "secret")
    assert found["p_value"] < 1e-9
    assert detected(capsys, text, "--key", "another")["p_value"] > 1e-4
    assert detected(capsys, written(capsys), "--key", "secret")["p_value"] > 1e-4
    expected = find_watermark(numgpt.load_tokenizer("storyteller").encode(text), "secret")
    assert found.pop("model") == "storyteller"
    assert found.pop("parts") == [part._asdict() for part in expected.parts]
    assert found == {name: value for name, value in expected._asdict().items() if name != "parts"}


def test_the_green_list_is_found_by_its_number(capsys):
    options = "--watermark-scheme", "green"
    text = written(capsys, "--watermark", 15485863, *options, "--temperature", 0)
    assert detected(capsys, text, "--key", 15485863, *options)["p_value"] < 1e-3
    assert detected(capsys, text, "--key", 15485864, *options)["p_value"] > 1e-3


def test_a_job_marks_each_of_its_texts(capsys, tmp_path):
    (tmp_path / "in.jsonl").write_text(f'{{"prompt": "{START}"}}\n{{"prompt": "The king"}}\n', encoding="utf-8")
    out = tmp_path / "out.jsonl"
    options = "-n", 60, "--temperature", 1, "--top-k", 0, "--watermark", "secret"
    assert call(capsys, "generate", "--input", tmp_path / "in.jsonl", "--output", out, *options)[0] == 0
    lines = [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]
    assert len(lines) == 2
    for line in lines:
        assert detected(capsys, line["text"], "--key", "secret")["p_value"] < 1e-6


def test_a_key_needs_the_tokenizer_and_no_weights(capsys, monkeypatch):
    def refuse(*args, **options):
        raise AssertionError("the weights are read")

    text = written(capsys, "--watermark", "secret", n=20)
    monkeypatch.setattr(loading, "load", refuse)
    assert detected(capsys, text, "--key", "secret")["scored"] > 10
    assert detected(capsys, text, "--key", "secret", "-m", "gpt2")["model"] == "gpt2"


def test_the_text_may_be_piped_in_and_the_figures_are_named(capsys, monkeypatch):
    text = written(capsys, "--watermark", "secret", n=100)
    pipe_in(monkeypatch, text.encode())
    code, out, _ = call(capsys, "detect", "-", "--key", "secret")
    rows = dict(row.strip().split("  ", 1) for row in out.splitlines())
    assert code == 0
    assert float(rows["p-value"]) < 1e-9
    assert rows["tokens scored"].endswith(f" of {len(numgpt.load_tokenizer('storyteller').encode(text))}")
    assert "times the lowest, that of" in rows["p-value of its parts"]
    assert "tokens 0 to 64" in rows or "tokens 32 to 96" in rows


def test_without_a_key_it_tells_hints_and_passes_no_sentence(capsys, babbler):
    text = "Once there was a king. He said that he was happy! 東京"
    found = detected(capsys, text)
    model = numgpt.load("storyteller")
    expected = look(model, model.tokenizer.encode(text))
    assert {**found, "model": None} == {"model": None, **expected._asdict()}
    out = call(capsys, "detect", text)[1]
    assert f"{100 * expected.top_10:.1f} %" in out
    assert "a hint, no proof" in out
    assert detected(capsys, "Yes", "-m", babbler)["burstiness"] is None
    assert "burstiness                 -" in call(capsys, "detect", "Yes", "-m", babbler)[1]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["detect", "a b", "--key", ""], "--key is '', expected a text of 1 to 64 bytes"),
        (["detect", "a b", "--key", "k", "--watermark-scheme", "green"], "--key is 'k', expected a whole number"),
        (["detect", "a b", "--key", "0", "--watermark-scheme", "green"], "--key is 0, expected an integer from 1"),
        (["detect", "a"], "too short to score"),
        (["generate", "a", "--watermark", ""], "--watermark is '', expected a text of 1 to 64 bytes; off without it"),
        (["generate", "a", "--watermark", "k", "--temperature", "0"], "sample at a temperature above 0, or use the"),
        (["generate", "a", "--watermark", "k", "--num-beams", "2"], "by beams nothing is"),
        (["generate", "a", "--watermark", "k", "--watermark-scheme", "green"], "--watermark is 'k', expected a whole"),
        (["generate", "a", "--watermark", "0", "--watermark-scheme", "green"], "--watermark is 0, expected an integer"),
    ],
)
def test_what_is_refused(capsys, options, message):
    assert message in fails(capsys, *options)


@pytest.mark.parametrize("command", [["detect", "a b"], ["generate", "a b"], ["serve", "--port", "0"]])
def test_a_scheme_without_a_key_is_wrong_usage(capsys, command):
    code, _, err = call(capsys, *command, "--watermark-scheme", "race")
    assert code == 2
    assert "--watermark-scheme goes with" in err


def test_a_model_without_a_tokenizer_is_told(capsys, tmp_path):
    path = tiny(tmp_path, tokenizer=False)
    for more in [], ["--key", "k"]:
        assert "has no tokenizer" in fails(capsys, "detect", "a b", "-m", path, *more)
