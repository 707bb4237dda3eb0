"""Summaries: the paper's prompt and numbers, and articles in parts."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.articles import ARTICLE, LONG
from support.babblers import babbler

import numgpt
from numgpt.apps.sentences import split_sentences
from numgpt.apps.summarize import halves, pack, split_article, summarize, summary_prompt
from numgpt.errors import ContextError, OptionError, TokenError

MODEL = numgpt.load("storyteller")  # a context of 512 tokens


def test_the_prompt_is_the_article_and_tldr():
    assert summary_prompt("The fox ran.\nIt hid.") == "The fox ran.\nIt hid.\nTL;DR:"


@pytest.mark.thorough
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
    one, other, again = (next(summarize(babbler(), ARTICLE, seed=seed)).text for seed in (1, 2, 1))
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
    found = list(summarize(babbler(), "\n\n".join(parts), seed=1))
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
