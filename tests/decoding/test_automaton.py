"""The automaton of a regular expression says what `regex` says, byte by byte."""

from random import Random

import pytest
import regex
from hypothesis import example, given
from hypothesis import strategies as st
from support.dumps import thorough
from support.patterns import random_pattern, random_text

from numgpt.decoding.automaton import DEAD, Automaton, bytes_of, ranges_of
from numgpt.decoding.form import check_regex
from numgpt.errors import OptionError

BEGIN = 1
seeds = st.integers(0, 2**32)


def pattern_of(seed):
    random = Random(seed)
    return random.choice(["", "", "(?i)", "(?s)", "(?is)"]) + random_pattern(random), random


def shortest_rest(automaton, place):
    """Return the fewest bytes after which a text that has come to a place matches, or None."""
    seen, border = {place}, [(place, b"")]
    while border:
        following = []
        for here, rest in border:
            if automaton.matches(here):
                return rest
            for byte in range(256):
                there = automaton.after(here, bytes([byte]))
                if there != DEAD and there not in seen:
                    seen.add(there)
                    following.append((there, rest + bytes([byte])))
        border = following
    return None


@given(seeds)
def test_a_text_matches_where_regex_says_so(seed):
    pattern, random = pattern_of(seed)
    automaton = Automaton(pattern)
    for _ in range(20):
        text = random_text(random)
        place = automaton.after(BEGIN, text.encode())
        assert automaton.matches(place) == bool(regex.fullmatch(pattern, text)), (pattern, text)
        if not regex.fullmatch(pattern, text, partial=True):  # it may say yes where there is no way, but not no
            assert place == DEAD, (pattern, text)


@pytest.mark.thorough
@given(seeds)
def test_where_a_text_is_not_dead_something_completes_it_and_regex_says_so_too(seed):
    pattern, random = pattern_of(seed)
    automaton = Automaton(pattern)
    for _ in range(3):
        begun = random_text(random, 4).encode()
        begun = begun[: random.randint(0, len(begun))]  # also within a character
        place = automaton.after(BEGIN, begun)
        if place != DEAD:
            rest = shortest_rest(automaton, place)
            assert rest is not None, (pattern, begun)
            assert regex.fullmatch(pattern, (begun + rest).decode()), (pattern, begun, rest)


@given(seeds)
def test_a_text_is_over_where_it_matches_and_no_byte_leads_on(seed):
    pattern, random = pattern_of(seed)
    automaton = Automaton(pattern)
    place = automaton.after(BEGIN, random_text(random, 3).encode())
    leads_on = any(automaton.after(place, bytes([byte])) != DEAD for byte in range(256))
    assert automaton.is_over(place) == (automaton.matches(place) and not leads_on)


characters = st.integers(0, 0x10FFFF).filter(lambda c: not 0xD800 <= c <= 0xDFFF)


@given(characters, characters, st.lists(characters, max_size=30))
@example(0, 0xD7FF, [0x7F, 0x80, 0x7FF, 0x800])
@example(0xE000, 0x10FFFF, [0xFFFF, 0x10000, 0x10FFFF])
def test_ranges_of_bytes_are_the_characters_of_the_range(a, b, others):
    low, high = min(a, b), max(a, b)
    if low < 0xD800 <= high:
        high = 0xD7FF
    found = list(bytes_of(low, high))
    for c in (low, high, *others, *(edge for o in others for edge in (o - 1, o + 1) if 0 <= edge < 0xD800)):
        text = chr(c).encode()
        ways = [
            ranges
            for ranges in found
            if len(ranges) == len(text) and all(a <= byte <= b for byte, (a, b) in zip(text, ranges, strict=True))
        ]
        assert len(ways) == (low <= c <= high)


def test_ranges_do_not_reach_over_the_surrogates():
    assert list(ranges_of(".", "s")) == [(0, 0xD7FF), (0xE000, 0x10FFFF)]
    assert list(ranges_of("k", "i")) == [(ord(c), ord(c)) for c in "Kk\u212a"]


@pytest.mark.parametrize(
    ("pattern", "yes", "no"),
    [
        ("^ab$", ["ab"], ["ab\n", "xab", ""]),
        ("^a|b$", ["a", "b"], ["ab"]),
        (r"a\$", ["a$"], ["a"]),
        ("a|", ["a", ""], ["b"]),
        ("a{2,3}?", ["aa", "aaa"], ["a", "aaaa"]),
        ("(?P<word>a)(?<other>b)(?:c)", ["abc"], ["ab"]),
        ("(?i)straße", ["STRAßE", "straẞe"], ["STRASSE"]),
        (r"\{\"a\": \d+\}", ['{"a": 10}'], ['{"a": }']),
        ("(a*)*b", ["b", "aab"], ["a" * 200]),  # a backtracking matcher would never end
    ],
)
def test_what_patterns_mean(pattern, yes, no):
    automaton = Automaton(pattern)
    assert all(automaton.matches(automaton.after(BEGIN, text.encode())) for text in yes)
    assert not any(automaton.matches(automaton.after(BEGIN, text.encode())) for text in no)


@pytest.mark.parametrize(
    ("pattern", "found"),
    [
        *((rf"(a){reference}", reference) for reference in (r"\1", r"\g<1>")),
        *((f"a{group}b)", group) for group in ("(?=", "(?!", "(?<=", "(?<!", "(?>", "(?i:", "(?#", "(?|")),
        *(
            (rf"a{anchor}b", anchor)
            for anchor in ("^", "$", r"\b", r"\B", r"\A", r"\Z", r"\G", r"\m", r"\K", r"\X", r"\R")
        ),
        *(("(a(?R)?)", "(?R)"), ("(a(?1)?)", "(?1)"), ("(?i)a(?s)b", "(?s)"), ("(?x)a", "(?x)")),
        *(("a*+", "*+"), ("a++", "++"), ("a{2}+", "{2}+"), ("(?:ab){e<=1}", "{e<=1}"), ("a{", "{"), ("^*a", "*a")),
        *(
            ("a(", "("),
            ("a)", ")"),
            ("[a", "[a"),
            ("*", "*"),
            ("a**", "*"),
            ("a{3,2}", "{3,2}"),
            ("a\\", "\\"),
            ("(?P<a", "(?P<a"),
        ),
        *((r"[^\0-\U0010ffff]", r"[^\0-\U0010ffff]"), ("(*FAIL)", "(*FAIL)"), ("(" * 60 + ")" * 60, "(" * 9 + ")")),
    ],
)
def test_what_an_automaton_can_t_check_is_refused_by_name(pattern, found):
    with pytest.raises(OptionError) as caught:
        check_regex("regex", pattern, None)
    assert str(caught.value).startswith(f"regex has '{found[:10]}".replace("\\", "\\\\"))
    assert str(caught.value).endswith("expected characters, classes, groups, | and counts")


@pytest.mark.parametrize(
    "pattern", ["((){9999}){9999}", *thorough(r"((((\w{9}){9}){9}){9}){9}", "((a{0}){9999}){9999}")]
)
def test_a_pattern_that_is_too_large_is_refused(pattern):
    with pytest.raises(OptionError, match="regex needs more than 100000 states: repeat less"):
        check_regex("regex", pattern, None)


def test_a_lone_surrogate_is_refused():
    with pytest.raises(OptionError, match=r"regex has a lone surrogate, U\+D800: expected characters only"):
        check_regex("regex", "a\ud800", None)


def test_what_is_no_class_is_refused():
    with pytest.raises(OptionError, match=r"regex has '\[b-a\]', which is no class: bad character range"):
        check_regex("regex", "a[b-a]", None)
