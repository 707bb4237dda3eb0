"""`numgpt score`: its figures, and the text in the colours of its surprisal."""

import json
import math
import re
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import numgpt
from numgpt.cli import main as cli
from numgpt.cli.colours import paint
from numgpt.measure.scoring import score, score_last_words


def line(text):
    return json.dumps({"text": text})


@pytest.fixture(scope="module")
def storyteller():
    return numgpt.load("storyteller")


# --- colours


def unpainted(text):
    return re.sub(r"\x1b\[[\d;]*m", "", text)


@given(st.text(st.characters(exclude_characters="\x1b", codec="utf-8")), st.randoms(use_true_random=False))
def test_paint_shows_the_text_in_whole_characters(text, random):
    data, pieces = text.encode(), []
    while data:
        n = random.randint(1, 4)
        pieces, data = [*pieces, data[:n]], data[n:]
    painted = list(paint(pieces, -np.array([random.choice([math.nan, random.random() * 20]) for _ in pieces])))
    assert unpainted("".join(painted)) == text
    for part in painted:
        assert "\ufffd" not in part.replace("\ufffd" if "\ufffd" in text else "", "")
    # Each line is whole in itself: no colour is open at its end.
    for row in "".join(painted).split("\n"):
        assert re.fullmatch(r"(?:[^\x1b]|\x1b\[[\d;]+m[^\x1b]+\x1b\[0m)*", row)


def test_the_bytes_of_a_character_that_never_comes_are_shown_as_unknown():
    assert unpainted("".join(paint([b"a", b"\xe2", b"\x82"], np.zeros(3)))) == "a\ufffd"


def test_a_token_is_shaded_by_its_bits_and_a_character_by_those_of_all_its_tokens():
    def style(*bits, pieces=(b"x",)):
        (part,) = paint(pieces, -np.array(bits) * math.log(2))
        return part.partition("x")[0]

    styles = [style(bits) for bits in (0.1, 1.9, 2.1, 3.9, 4.1, 7.9, 8.1, 11.9, 12.1, 99)]
    assert styles[0] == ""
    assert styles[::2] == styles[1::2]
    assert len(set(styles)) == 5
    assert style(math.nan) not in styles
    euro = b"\xe2", b"\x82\xacx"
    assert style(3, 3, pieces=euro) == style(6) + "€"
    assert style(math.nan, 3, pieces=euro) == style(3) + "€"


# --- the command


def call(capsys, *arguments):
    code = cli.main(["score", *arguments])
    out, err = capsys.readouterr()
    return code, out, err


TEXT = "Once upon a time there was a king of 東京."


def figures(out):
    return dict(re.split(r"\s{2,}", row.strip()) for row in out.splitlines())


def test_the_command_prints_the_figures_and_what_they_count(capsys, storyteller):
    code, out, err = call(capsys, TEXT)
    found = score(storyteller, TEXT)
    assert code == 0
    shown = figures(out)
    assert float(shown["perplexity"]) == pytest.approx(found.perplexity, rel=1e-5)
    assert float(shown["bits per byte"]) == pytest.approx(found.bits_per_byte, rel=1e-5)
    assert float(shown["perplexity per word"]) == pytest.approx(found.perplexity_per_word, rel=1e-5)
    assert shown["tokens scored"] == "18 of 19, in windows of 512, one every 256"
    assert shown["their text"] == "43 bytes, 10 words (parted by white space)"
    assert shown["before the text"] == "nothing, so its first token is not scored"
    assert err.startswith("numgpt: ")
    assert call(capsys, TEXT, "-q")[2] == ""


def test_json_has_each_token_and_the_options_count(capsys, storyteller):
    options = ["--context", "8", "--stride", "3", "--bos", "--dtype", "float64"]
    result = json.loads(call(capsys, TEXT, *options, "--json")[1])
    found = score(numgpt.load("storyteller", dtype="float64"), TEXT, context=8, stride=3, bos=True)
    assert result["ids"] == found.ids
    assert result["log_probs"] == pytest.approx(found.log_probs.tolist(), abs=1e-10)
    assert result["pieces"][-2:] == ["\\xac", "."]
    for name in "nats", "nats_per_token", "bits_per_token", "perplexity", "perplexity_by_recipe", "bits_per_byte":
        assert result[name] == pytest.approx(getattr(found, name), rel=1e-9)
    assert (result["tokens"], result["context"], result["stride"], result["bos"]) == (19, 8, 3, True)


def test_what_json_has_no_number_for_is_null(capsys):
    def refuse(name):
        raise AssertionError(name)

    rare = "".join(chr(0x4E00 + 997 * i % 20000) for i in range(80))  # one word of more than 700 nats
    result = json.loads(call(capsys, rare, "--json")[1], parse_constant=refuse)
    assert result["log_probs"][0] is None
    assert result["perplexity_per_word"] is None


def test_the_text_may_come_from_a_file_or_from_standard_input(capsys, tmp_path, monkeypatch):
    class Stdin:
        buffer = (tmp_path / "text").open("w+b")

    (tmp_path / "text").write_bytes(TEXT.encode() + b"\r\n")
    monkeypatch.setattr("sys.stdin", Stdin)
    read = call(capsys, "-")[1]
    Stdin.buffer.close()
    assert call(capsys, "--file", str(tmp_path / "text"))[1] == read == call(capsys, TEXT + "\r\n")[1]


def test_special_tokens_count_only_where_they_are_allowed(capsys):
    plain = json.loads(call(capsys, "a<|endoftext|>", "--json")[1])["ids"]
    special = json.loads(call(capsys, "a<|endoftext|>", "--json", "--allow-special")[1])["ids"]
    assert special == [64, 4095]
    assert len(plain) > 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["x"], "too short to score: tokens: 1"),
        (["a b", "--stride", "0"], "stride is 0"),
        (["--file", "latin-1.txt"], "latin-1.txt: byte 0xe9 at 1 is not UTF-8: convert it"),
        (["--lambada", "latin-1.txt"], "line 1: "),
        (["--lambada", "latin-1.txt", "--bos"], "leave out --context, --stride, --bos, --allow-special"),
        (["--lambada", "latin-1.txt", "--stride", "0"], "leave out --context"),
    ],
)
def test_errors_are_told_in_one_line(capsys, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "latin-1.txt").write_bytes(b"a\xe9")
    code, out, err = call(capsys, *arguments)
    assert (code, out) == (1, "")
    assert err.startswith("numgpt: error: ")
    assert err.count("\n") == 1
    assert message in err


@pytest.mark.parametrize("flag", ["--file", "--lambada"])
def test_a_file_that_is_not_there_is_named(flag):
    command = [sys.executable, "-m", "numgpt", "score", flag, "missing.txt"]
    result = subprocess.run(command, capture_output=True, timeout=60)
    assert result.returncode == 1
    assert result.stderr.startswith(b"numgpt: error: missing.txt: No such file")


@pytest.mark.parametrize("arguments", [[], ["a", "--file", "b"], ["--lambada", "a", "--file", "b"], ["a", "--color"]])
def test_one_source_of_text_is_asked_for(arguments):
    with pytest.raises(SystemExit, match="2"):
        cli.main(["score", *arguments])


def test_the_text_is_coloured_on_a_terminal_unless_told_otherwise(capsys, monkeypatch):
    monkeypatch.delenv("NO_COLOR", raising=False)
    plain = call(capsys, TEXT)[1]
    assert "\x1b" not in plain
    always = call(capsys, TEXT, "--color", "always")[1]
    assert unpainted(always).startswith(TEXT + "\n\n")
    assert plain.splitlines() == [row for row in unpainted(always).splitlines()[2:] if "colours" not in row]

    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    assert call(capsys, TEXT)[1] == always
    assert call(capsys, TEXT, "--color", "never")[1] == plain
    assert "\x1b" not in call(capsys, TEXT, "--json")[1]
    monkeypatch.setenv("NO_COLOR", "1")
    assert call(capsys, TEXT)[1] == plain
    assert call(capsys, TEXT, "--color", "always")[1] == always


def test_last_words_of_a_file(capsys, tmp_path):
    file = tmp_path / "words.jsonl"
    file.write_text(line("Once upon a time") + "\n" + line("Once upon a king") + "\n")
    result = json.loads(call(capsys, "--lambada", str(file), "--json")[1])
    expected = score_last_words(numgpt.load("storyteller"), file.read_text().splitlines())
    assert (result["texts"], result["correct"], result["accuracy"]) == (2, 1, 0.5)
    assert result["perplexity_per_last_word"] == pytest.approx(expected.perplexity, rel=1e-6)
    shown = figures(call(capsys, "--lambada", str(file))[1])
    assert shown["correct"] == "1 of 2 last words: each token the likeliest; no stop-word filter"
    assert float(shown["accuracy"]) == 0.5
