"""Text to text: a text ends before a stop string, whatever tokens that is cut into, and no part of it is shown."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

import numgpt
from numgpt import model as plain
from numgpt.decoding.loop import generate
from numgpt.decoding.text import complete, stream, until
from numgpt.errors import OptionError, TokenError

STORY = numgpt.load("storyteller")
TOKENIZER = STORY.tokenizer
OPTIONS = {"max_new_tokens": 40, "temperature": 0}
WHOLE = complete(STORY, "Once upon a time there", **OPTIONS)


def cut(text, stops):
    """The text before the first stop string: the definition."""
    found = [text.index(stop) for stop in stops if stop in text]
    return text[: min(found)] if found else text


@given(
    st.lists(st.text("ab.", min_size=1, max_size=3), max_size=9),
    st.lists(st.text("ab.", min_size=1, max_size=4), max_size=3),
)
def test_pieces_end_before_the_first_stop_string_and_nothing_of_it_is_shown_too_early(pieces, stops):
    text, expected = "".join(pieces), cut("".join(pieces), stops)
    shown = ""
    for piece in until(pieces, stops):
        assert piece
        shown += piece
        assert expected.startswith(shown)
    assert shown == expected
    assert not any(stop in shown for stop in stops) or not any(stop in text for stop in stops)


@given(st.lists(st.text("ab.", min_size=1, max_size=3), max_size=9), st.text("ab.", min_size=1, max_size=4))
def test_nothing_is_held_back_but_what_may_begin_a_stop_string(pieces, stop):
    given_so_far = ""

    def watched():
        nonlocal given_so_far
        for piece in pieces:
            given_so_far += piece
            yield piece

    shown = ""
    for piece in until(watched(), [stop]):
        shown += piece
        if stop not in given_so_far and given_so_far != "".join(pieces):
            assert stop.startswith(given_so_far[len(shown) :])


def test_a_text_is_the_pieces_of_generate():
    ids = TOKENIZER.encode("Once upon a time there")
    assert TOKENIZER.decode(generate(ids, STORY.params, STORY.config, **OPTIONS)) == WHOLE
    assert "".join(stream(STORY, "Once upon a time there", **OPTIONS)) == WHOLE


@pytest.mark.parametrize(
    "start", [0, 21, 42, *(pytest.param(n, marks=pytest.mark.thorough) for n in (7, 14, 28, 35, 49, 56))]
)
@pytest.mark.parametrize("length", [1, 2, 5, 11])
def test_any_part_of_a_text_can_stop_it(start, length):
    """Whatever tokens the string is spread over; where it begins in the text is where the text ends."""
    stop = WHOLE[start : start + length]
    assert complete(STORY, "Once upon a time there", stop_strings=[stop], **OPTIONS) == WHOLE[: WHOLE.index(stop)]


def test_generate_ends_with_the_token_that_completes_a_stop_string():
    ids = TOKENIZER.encode("Once upon a time there")
    everything = list(generate(ids, STORY.params, STORY.config, **OPTIONS))
    for stop in "great many", "any y", "w":
        steps = generate(ids, STORY.params, STORY.config, stop_strings=[stop], tokenizer=TOKENIZER, **OPTIONS)
        new = list(steps)
        assert new == everything[: len(new)]
        assert stop in TOKENIZER.decode(new)
        assert stop not in TOKENIZER.decode(new[:-1])


def test_a_stop_string_in_the_prompt_stops_nothing():
    assert complete(STORY, "Once upon a time there", stop_strings=["time there was"], **OPTIONS) == WHOLE


def test_a_batch_stops_at_strings_as_generate_does():
    prompts = [TOKENIZER.encode(text) for text in ("Once upon a time there", "The king", "A wolf")]
    options = {**OPTIONS, "stop_strings": ["the", ". "], "tokenizer": TOKENIZER}
    alone = [list(generate(ids, STORY.params, STORY.config, **options)) for ids in prompts]
    assert numgpt.generate_batch(prompts, STORY.params, STORY.config, **options) == alone


def test_an_empty_prompt_begins_a_text():
    end = STORY.config.eos_token_id
    expected = TOKENIZER.decode(generate([end], STORY.params, STORY.config, **OPTIONS))
    assert complete(STORY, "", **OPTIONS) == expected


def test_any_option_of_generate_can_be_given():
    text = complete(STORY, "The king", max_new_tokens=9, seed=3, top_k=5, forward=plain.forward)
    assert text == complete(STORY, "The king", max_new_tokens=9, seed=3, top_k=5)
    assert text != complete(STORY, "The king", max_new_tokens=9, seed=4, top_k=5)


@pytest.mark.parametrize("stops", [[""], ["a", ""], "abc", [7]])
def test_wrong_stop_strings_are_refused_by_the_call_itself(stops):
    with pytest.raises(OptionError, match=r"stop_strings is .*, expected a list of strings, none of them empty"):
        stream(STORY, "The", stop_strings=stops)


def test_stop_strings_need_a_tokenizer_and_text_does():
    with pytest.raises(OptionError, match="stop_strings needs the model's tokenizer"):
        generate([1], STORY.params, STORY.config, max_new_tokens=1, stop_strings=["a"])
    with pytest.raises(TokenError, match="no tokenizer"):
        complete(STORY._replace(tokenizer=None), "The")
    with pytest.raises(TokenError, match="no end-of-text to start from"):
        complete(STORY._replace(config=STORY.config._replace(eos_token_id=None)), "")
