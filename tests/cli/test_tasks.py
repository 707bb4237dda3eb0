"""`numgpt summarize` and `numgpt translate`."""

import json

import pytest
from support.articles import ARTICLE, LONG
from support.cli import call, fails, pipe_in

import numgpt
from numgpt.apps.summarize import split_article, summarize
from numgpt.apps.translate import ENGLISH_FRENCH, translate, translation_prompt

MODEL = numgpt.load("storyteller")  # a context of 512 tokens


# ---- summarize


def test_summarize_prints_the_summary(capsys, tmp_path, babbler):
    path = tmp_path / "article.txt"
    path.write_bytes(b"\xef\xbb\xbf" + ARTICLE.replace(". ", ".\r\n").encode())
    [found] = summarize(numgpt.load(babbler), ARTICLE.replace(". ", ".\n"), seed=1)
    command = ["summarize", path, "--seed", 1, "-m", babbler]
    assert call(capsys, *command) == (0, found.summary + "\n", "")
    result = json.loads(call(capsys, *command, "--json")[1])
    assert result["parts"] == [found._asdict()]
    assert (result["summary"], result["seed"], result["model"]) == (found.summary, 1, babbler)


def test_summarize_tells_the_seed_that_it_drew(capsys, tmp_path, babbler):
    path = tmp_path / "article.txt"
    path.write_text(ARTICLE, encoding="utf-8")
    command = ["summarize", path, "-m", babbler]
    _, out, err = call(capsys, *command)
    assert call(capsys, *command, "--seed", err.split("seed ")[1].strip())[1] == out


@pytest.mark.thorough
def test_summarize_says_that_a_long_text_comes_in_parts(capsys, tmp_path):
    path = tmp_path / "article.txt"
    text = "\n\n".join(split_article(MODEL, LONG)[:2])
    path.write_text(text, encoding="utf-8")
    code, out, err = call(capsys, "summarize", path, "--seed", 1)
    assert code == 0
    assert out == "\n\n".join(part.summary for part in summarize(MODEL, text, seed=1)) + "\n"
    assert err == "numgpt: too long for the context of 512 tokens: 2 parts, each with its summary\n"


@pytest.mark.parametrize(("content", "message"), [(b"", "the article is empty"), (b"a\xff", "0xff at 1 is not UTF-8")])
def test_summarize_refuses_what_is_no_text(capsys, tmp_path, content, message):
    path = tmp_path / "article.txt"
    path.write_bytes(content)
    assert message in fails(capsys, "summarize", path)


# ---- translate


def test_translate_keeps_the_lines_of_a_file(capsys, tmp_path, babbler):
    path = tmp_path / "text.txt"
    path.write_text("The fox. The hen.\n\nThe dog.\n", encoding="utf-8")
    found = translate(numgpt.load(babbler), path.read_text(encoding="utf-8"))
    fox, hen, dog = (part.translation for part in found)
    command = ["translate", path, "-m", babbler]
    assert call(capsys, *command, "--from", "en", "--to", "fr") == (0, f"{fox} {hen}\n\n{dog}\n", "")
    result = json.loads(call(capsys, *command, "--json")[1])
    assert result["translation"] == f"{fox} {hen}\n\n{dog}"
    assert (result["from"], result["to"]) == ("en", "fr")
    assert [row["prompt"] for row in result["sentences"]] == [
        translation_prompt(sentence, ENGLISH_FRENCH) for sentence in ("The fox.", "The hen.", "The dog.")
    ]


def test_translate_reads_pairs_from_a_file_and_text_from_standard_input(capsys, monkeypatch, tmp_path):
    path = tmp_path / "pairs.txt"
    path.write_text("\ufeffThe fox. = Der Fuchs.\nThe hen. = Die Henne.\n", encoding="utf-8")
    pipe_in(monkeypatch, b"The dog.\n")
    code, out, _ = call(capsys, "translate", "--to", "de", "--pairs", path, "--json")
    assert code == 0
    [row] = json.loads(out)["sentences"]
    assert row["prompt"] == "The fox. = Der Fuchs.\nThe hen. = Die Henne.\nThe dog. ="
    assert row["pairs"] == 2


def test_translate_says_when_pairs_are_left_out(capsys, tmp_path):
    path = tmp_path / "text.txt"
    path.write_text("king " * 50, encoding="utf-8")
    code, _, err = call(capsys, "translate", path)
    assert code == 0
    assert "of 10 example pairs fit beside 'king king" in err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--to", "de"], "no example pairs from 'en' to 'de'"),
        (["no such file"], "no such file: No such file or directory"),
        (["--pairs", "no such file"], "no such file: No such file or directory"),
    ],
)
def test_translate_says_what_is_wrong(capsys, monkeypatch, arguments, message):
    pipe_in(monkeypatch, b"")
    assert message in fails(capsys, "translate", *arguments)
