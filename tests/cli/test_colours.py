"""A text in the colours of its surprisal."""

import math
import re

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from numgpt.cli.colours import paint


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
