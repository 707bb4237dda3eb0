"""Where a sentence ends: marks, quotes, empty lines, and what the splitter does not know."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from numgpt.apps.sentences import first_sentences, split_sentences


@pytest.mark.parametrize(
    ("text", "sentences"),
    [
        ("One. Two! Three? Four", ["One. ", "Two! ", "Three? ", "Four"]),
        ("Who?! Me...  You.\nAll.\n", ["Who?! ", "Me...  ", "You.\n", "All.\n"]),
        ('"Go!" he said. (So he did.) Then', ['"Go!" ', "he said. ", "(So he did.) ", "Then"]),
        ("« Va ! » dit-il. “Go!” Ça", ["« Va ! ", "» dit-il. ", "“Go!” ", "Ça"]),
        ("It is 3.5 feet, e.g., of wood.", ["It is 3.5 feet, e.g., of wood."]),
        ("Mr. Fox", ["Mr. ", "Fox"]),  # a known limit
        ("THE FOX\n\nHe ran", ["THE FOX\n\n", "He ran"]),
        ("THE FOX\n \nHe ran", ["THE FOX\n \n", "He ran"]),
        ("a line\nand the next", ["a line\nand the next"]),
        ("\n\n One.", ["\n\n One."]),
        ("   ", ["   "]),
        ("", []),
    ],
)
def test_a_text_is_cut_behind_each_sentence(text, sentences):
    assert split_sentences(text) == sentences


@given(st.text(alphabet="ab.!?\"' \n", max_size=40))
def test_the_sentences_are_the_text_and_none_of_them_is_empty(text):
    found = split_sentences(text)
    assert "".join(found) == text
    assert all(map(str.strip, found)) or found == [text]


@pytest.mark.parametrize(
    ("n", "first"), [(0, ""), (1, "One."), (2, "One. Two!"), (3, "One. Two! Three"), (9, "One. Two! Three")]
)
def test_the_first_sentences_stand_without_white_space_around_them(n, first):
    assert first_sentences("  One. Two! Three \n", n) == first
