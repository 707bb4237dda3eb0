"""Translation: the paper's prompt, greedy decoding, and example pairs of one's own."""

import pytest

import numgpt
from numgpt.apps.translate import ENGLISH_FRENCH, fitting_prompt, known_pairs, read_pairs, translate, translation_prompt
from numgpt.errors import ContextError, OptionError, TokenError

MODEL = numgpt.load("storyteller")  # a context of 512 tokens
PAIRS = [("The fox.", "Der Fuchs."), ("The hen.", "Die Henne."), ("The dog.", "Der Hund.")]


def test_the_prompt_is_the_examples_and_a_sentence_to_complete():
    assert translation_prompt("The king.", PAIRS[:2]) == "The fox. = Der Fuchs.\nThe hen. = Die Henne.\nThe king. ="


def test_a_translation_is_the_first_sentence_of_the_likeliest_text():
    [found] = translate(MODEL, "The king was old.", PAIRS)
    assert found.prompt == translation_prompt("The king was old.", PAIRS)
    ids = MODEL.tokenizer.encode(found.prompt)
    while MODEL.tokenizer.decode(ids[-1:]) != ".":  # greedy, by hand
        ids.append(int(numgpt.forward(ids, MODEL.params, MODEL.config)[-1].argmax()))
    assert found.translation == MODEL.tokenizer.decode(ids).removeprefix(found.prompt).strip()
    assert "\n" not in found.translation


def scripted(monkeypatch, *pieces):
    """Let a model say these pieces, and return the list of options that it is asked with."""
    asked = []

    def stream(model, prompt, **options):
        asked.append(options)
        yield from pieces

    monkeypatch.setattr("numgpt.apps.translate.stream", stream)
    return asked


def test_it_stops_as_soon_as_the_sentence_is_at_its_end(monkeypatch):
    asked = scripted(monkeypatch, " Le", " roi", ".", " Il", " never", " asked")
    [found] = translate(MODEL, "The king.", PAIRS)
    assert (found.text, found.translation) == (" Le roi. Il", "Le roi.")
    most = 3 * len(MODEL.tokenizer.encode("The king.")) + 20
    assert asked == [{"max_new_tokens": most, "temperature": 0, "stop_strings": ["\n"], "cache_dtype": None}]


def test_lines_and_sentences_are_translated_one_by_one(monkeypatch):
    scripted(monkeypatch, " Oui.")
    found = list(translate(MODEL, " One. Two!\n\n  Three\r\nfour", PAIRS))
    assert [part.sentence for part in found] == ["One.", "Two!", "Three", "four"]
    assert list(translate(MODEL, " \n", PAIRS)) == []


def test_pairs_that_do_not_fit_are_left_out_the_first_ones_first():
    long = "king " * 50  # about 100 tokens, and room for 3 times as many and 20
    tokens = len(MODEL.tokenizer.encode(long.strip()))
    shown, prompt, most = fitting_prompt(MODEL, long.strip(), ENGLISH_FRENCH)
    assert 0 < shown < len(ENGLISH_FRENCH)
    assert most == 3 * tokens + 20
    assert prompt == translation_prompt(long.strip(), ENGLISH_FRENCH[-shown:])
    assert len(MODEL.tokenizer.encode(prompt)) + most <= 512
    more = translation_prompt(long.strip(), ENGLISH_FRENCH[-shown - 1 :])
    assert len(MODEL.tokenizer.encode(more)) + most > 512


def test_a_sentence_that_is_too_long_is_refused():
    with pytest.raises(ContextError, match=r"'king king .* has 399 tokens: .* context of 512: cut it into shorter"):
        list(translate(MODEL, "king " * 200, PAIRS))


def test_a_model_without_a_tokenizer_is_refused():
    with pytest.raises(TokenError, match="no tokenizer"):
        list(translate(MODEL._replace(tokenizer=None), "The king."))


def test_english_and_french_are_known_both_ways():
    assert known_pairs("en", "fr") == ENGLISH_FRENCH
    assert known_pairs("fr", "en") == [(french, english) for english, french in ENGLISH_FRENCH]
    with pytest.raises(OptionError, match=r"from 'en' to 'de', only from 'en' to 'fr' and back: .* --pairs FILE"):
        known_pairs("en", "de")


def test_pairs_are_read_line_by_line():
    assert read_pairs("The fox. = Der Fuchs.\n\n a =b\r\n", "p") == [("The fox.", "Der Fuchs."), ("a", "b")]


@pytest.mark.parametrize("line", ["The fox.", "= Der Fuchs.", "The fox. =", "1 + 1 = 2 = deux"])
def test_a_line_that_is_no_pair_is_named(line):
    with pytest.raises(OptionError, match=r"^p: line 2 is '.*', expected 'sentence = translation'$"):
        read_pairs(f"a = b\n{line}\n", "p")


def test_no_pairs_at_all_are_an_error():
    with pytest.raises(OptionError, match=r"^p: no pairs, expected a line 'sentence = translation' for each$"):
        read_pairs("\n", "p")
