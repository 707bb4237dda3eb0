"""Summaries: the paper's prompt and numbers, articles in parts, and the command."""

import itertools
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

import numgpt
from numgpt.apps.sentences import split_sentences
from numgpt.apps.summarize import halves, pack, split_article, summarize, summary_prompt
from numgpt.cli import main as cli
from numgpt.errors import ContextError, OptionError, TokenError

MODEL = numgpt.load("storyteller")  # a context of 512 tokens
ARTICLE = "A fox met a hen by the river. The hen was old and wise. The fox ran away and never came back."
LONG = "\n\n".join(f"Tale {n}. {ARTICLE} {ARTICLE}" for n in range(30)) + "\n"


def test_the_prompt_is_the_article_and_tldr():
    assert summary_prompt("The fox ran.\nIt hid.") == "The fox ran.\nIt hid.\nTL;DR:"


def test_a_summary_is_three_sentences_of_100_tokens_drawn_from_the_two_likeliest():
    """By hand: at each step one of the two largest logits, by the draw that `generate` makes with the same seed."""
    [found] = summarize(MODEL, f"\n{ARTICLE}\n", seed=1)
    assert found.prompt == f"{ARTICLE}\nTL;DR:"
    ids = MODEL.tokenizer.encode(found.prompt)
    new = list(numgpt.generate(ids, MODEL.params, MODEL.config, max_new_tokens=100, temperature=1, top_k=2, seed=1))
    assert MODEL.tokenizer.decode(new) == found.text
    assert found.summary == "".join(split_sentences(found.text)[:3]).strip()
    logits = numgpt.forward([*ids, *new], MODEL.params, MODEL.config)[len(ids) - 1 : -1]
    ranks = [int((row > row[i]).sum()) for row, i in zip(logits, new, strict=True)]
    assert set(ranks) == {0, 1}  # no greedy text, and no token but of the two


def test_the_seed_decides():
    one, other, again = (next(summarize(MODEL, ARTICLE, seed=seed)).text for seed in (1, 2, 1))
    assert one == again
    assert one != other


def test_a_long_article_comes_in_parts_that_fit_and_end_with_a_paragraph():
    parts = split_article(MODEL, LONG)
    assert len(parts) > 3
    assert "\n\n".join(parts) == LONG.strip()  # so each border is one between paragraphs
    for part in parts:
        assert len(MODEL.tokenizer.encode(summary_prompt(part))) <= 412
    for part, after in itertools.pairwise(parts):  # and none could take one more paragraph
        longer = part + "\n\n" + after.split("\n\n")[0]
        assert len(MODEL.tokenizer.encode(summary_prompt(longer))) > 412


def test_each_part_has_its_summary_in_order():
    parts = split_article(MODEL, LONG)[:2]
    found = list(summarize(MODEL, "\n\n".join(parts), seed=1))
    assert [summary.prompt for summary in found] == [summary_prompt(part) for part in parts]
    assert found[0].text != found[1].text


@pytest.mark.parametrize("word", ["x", "word ", "One line\n", "A sentence. ", "\U0001f98a", "x\u0301", "a\r\n\r\n"])
@pytest.mark.thorough
def test_text_of_any_kind_is_cut_and_nothing_of_it_is_lost(word):
    text = word * 3000
    parts = split_article(MODEL, text)
    assert len(parts) > 1
    assert "".join("".join(parts).split()) == "".join(text.split())
    assert all(len(MODEL.tokenizer.encode(summary_prompt(part))) <= 412 for part in parts)


@given(st.text(alphabet="ab. \n", max_size=80), st.integers(1, 9))
def test_parts_fit_and_together_are_the_text(text, most):
    borders = [split_sentences, lambda part: part.splitlines(keepends=True), halves]
    parts = pack(text, lambda part: len(part) <= most, borders)
    assert "".join(parts) == text
    assert all(len(part) <= most for part in parts)


def test_an_article_of_nothing_is_refused():
    with pytest.raises(TokenError, match="the article is empty: give some text to summarize"):
        summarize(MODEL, " \n")


def test_a_context_without_room_for_a_summary_is_refused():
    small = MODEL._replace(config=MODEL.config._replace(n_ctx=105))
    with pytest.raises(ContextError, match=r"is 105 tokens, expected \d+ or more: a summary takes 100 of them"):
        summarize(small, ARTICLE)


def test_a_model_without_a_tokenizer_and_a_wrong_seed_are_refused():
    with pytest.raises(TokenError, match="no tokenizer"):
        summarize(MODEL._replace(tokenizer=None), ARTICLE)
    with pytest.raises(OptionError, match="seed is -1"):
        list(summarize(MODEL, ARTICLE, seed=-1))


# --- the command


def call(capsys, *arguments):
    code = cli.main(["summarize", *map(str, arguments)])
    return (code, *capsys.readouterr())


def test_the_command_prints_the_summary(capsys, tmp_path):
    path = tmp_path / "article.txt"
    path.write_bytes(b"\xef\xbb\xbf" + ARTICLE.replace(". ", ".\r\n").encode())
    [found] = summarize(MODEL, ARTICLE.replace(". ", ".\n"), seed=1)
    assert call(capsys, path, "--seed", 1) == (0, found.summary + "\n", "")
    result = json.loads(call(capsys, path, "--seed", 1, "--json")[1])
    assert result["parts"] == [found._asdict()]
    assert (result["summary"], result["seed"], result["model"]) == (found.summary, 1, "storyteller")


def test_the_command_tells_the_seed_that_it_drew(capsys, tmp_path):
    path = tmp_path / "article.txt"
    path.write_text(ARTICLE, encoding="utf-8")
    _, out, err = call(capsys, path)
    assert call(capsys, path, "--seed", err.split("seed ")[1].strip())[1] == out


@pytest.mark.thorough
def test_the_command_says_that_a_long_text_comes_in_parts(capsys, tmp_path):
    path = tmp_path / "article.txt"
    text = "\n\n".join(split_article(MODEL, LONG)[:2])
    path.write_text(text, encoding="utf-8")
    code, out, err = call(capsys, path, "--seed", 1)
    assert code == 0
    assert out == "\n\n".join(part.summary for part in summarize(MODEL, text, seed=1)) + "\n"
    assert err == "numgpt: too long for the context of 512 tokens: 2 parts, each with its summary\n"


@pytest.mark.parametrize(("content", "message"), [(b"", "the article is empty"), (b"a\xff", "0xff at 1 is not UTF-8")])
def test_the_command_refuses_what_is_no_text(capsys, tmp_path, content, message):
    path = tmp_path / "article.txt"
    path.write_bytes(content)
    code, out, err = call(capsys, path)
    assert (code, out) == (1, "")
    assert message in err
