"""Dialogue: both formats, a history that fits, and a cache that is kept."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import numgpt
from numgpt import fast
from numgpt.apps.chat import Chat, dialogue, knows_dialogue, transcript, turns_to_drop
from numgpt.errors import CheckpointError, ContextError, OptionError, TokenError
from numgpt.params import map_leaves, random_params

STORYTELLER = numgpt.load("storyteller")
CONFIG = STORYTELLER.config._replace(n_embd=16, n_head=2, n_layer=2)  # a context of 512 tokens
PARAMS = map_leaves(lambda _, x: x * 30, random_params(CONFIG, seed=1))  # under which no token is certain
MODEL = numgpt.Model(CONFIG, PARAMS, STORYTELLER.tokenizer)
FORMATS = [dialogue, transcript]


def say(chat, message):
    return "".join(chat.reply(message))


class Counted:
    """fast.forward that remembers how many tokens it was given."""

    def __init__(self):
        self.tokens = 0

    def __call__(self, ids, *arguments, **options):
        self.tokens += len(ids)
        return fast.forward(ids, *arguments, **options)


def scripted(model, *replies):
    """Return a forward under which the model says these ids, whatever it is asked."""
    script = iter([i for reply in replies for i in reply])

    def forward(ids, params, config, cache=None, logits_to_keep=0):
        logits = np.zeros_like(fast.forward(ids, params, config, cache=cache, logits_to_keep=logits_to_keep))
        logits[-1, next(script)] = 1e9
        return logits

    return forward


# --- the formats


def test_a_dialogue_is_joined_by_end_of_text():
    said = [[*MODEL.tokenizer.encode(text), 4095] for text in ("Hi, how are you?", "Good.")]
    chat = Chat(MODEL, dialogue(MODEL), {"temperature": 0}, forward=scripted(MODEL, *said))
    assert [say(chat, "Hello!"), say(chat, " Fine,\nthanks. ")] == ["Hi, how are you?", "Good."]
    text = "Hello!<|endoftext|>Hi, how are you?<|endoftext|>Fine, thanks.<|endoftext|>Good.<|endoftext|>"
    assert chat.ids() == MODEL.tokenizer.encode(text, allow_special=True)


def test_a_transcript_has_a_line_for_each_turn():
    said = [MODEL.tokenizer.encode(text) for text in (" Hi, how are you?\n", " Good.\n")]
    chat = Chat(MODEL, transcript(MODEL), {"temperature": 0}, forward=scripted(MODEL, *said))
    assert [say(chat, "Hello!"), say(chat, " Fine,\nthanks. ")] == ["Hi, how are you?", "Good."]
    text = """A conversation with a friend who knows a great deal and likes to talk about it.
User: Hello!
Friend: Hi, how are you?
User: Fine, thanks.
Friend: Good.
"""
    assert chat.ids() == MODEL.tokenizer.encode(text)


def test_what_somebody_types_is_never_a_special_token():
    chat = Chat(MODEL, dialogue(MODEL), {"seed": 1}, max_new_tokens=2)
    say(chat, "<|endoftext|>")
    assert chat.turns[0].message.count(4095) == 1


def test_a_reply_ends_where_its_line_or_its_text_does():
    encode = MODEL.tokenizer.encode
    for form, end in (transcript, encode("\n")), (transcript, encode("\n\n")), (dialogue, [4095]):
        chat = Chat(MODEL, form(MODEL), {"temperature": 0}, forward=scripted(MODEL, [*encode(" Yes."), *end]))
        assert say(chat, "Who?") == "Yes."
        assert chat.turns[0].reply == encode(" Yes.")
        assert chat.turns[0].finish_reason == "stop"
        assert chat.ids()[-1:] == chat.format.end


@pytest.mark.parametrize("form", FORMATS)
def test_a_reply_says_something(form):
    """Where its end is the likeliest token at once, another one comes first."""
    chat = Chat(MODEL, form(MODEL), {"temperature": 0}, forward=scripted(MODEL, form(MODEL).end * 2))
    say(chat, "Who?")
    assert len(chat.turns[0].reply) == 1


def test_a_dialogue_needs_end_of_text_and_text_a_tokenizer():
    with pytest.raises(CheckpointError, match="no end-of-text token to join turns with: use the transcript format"):
        dialogue(MODEL._replace(config=MODEL.config._replace(eos_token_id=None)))
    for form in FORMATS:
        with pytest.raises(TokenError, match="no tokenizer"):
            form(MODEL._replace(tokenizer=None))


def test_a_wrong_option_is_refused_before_anybody_speaks():
    with pytest.raises(OptionError, match="temperature is -1"):
        Chat(MODEL, transcript(MODEL), {"temperature": -1})


@pytest.mark.parametrize(
    ("name", "config", "known"),
    [
        ("microsoft/DialoGPT-small", None, True),
        ("dialogpt-medium", None, True),
        ("x", '{"task_specific_params": {"conversational": {"max_length": 1000}}}', True),
        ("x", '{"task_specific_params": {"text-generation": {"max_length": 50}}}', False),
        ("x", '{"task_specific_params": null}', False),
        ("x", "[", False),
        ("x", None, False),
        ("dialogpt-papers/gpt2", None, False),
    ],
)
def test_a_dialogpt_is_known_by_its_name_or_its_config(tmp_path, name, config, known):
    folder = tmp_path / "snapshot"  # the name of tmp_path is that of the test
    folder.mkdir()
    if config:
        (folder / "config.json").write_text(config, encoding="utf-8")
    assert knows_dialogue(name, folder) is known
    assert knows_dialogue("path/to/model.safetensors", Path("DialoGPT-large"))


# --- what is remembered


@pytest.mark.parametrize(
    ("lengths", "new", "dropped"),
    [
        ([], 100, 0),
        ([30, 30, 20], 20, 0),
        ([30, 30, 20], 21, 2),
        ([30, 30, 20], 30, 2),
        ([30, 30, 20], 31, 3),
        ([1], 100, 1),
    ],
)
def test_the_oldest_turns_are_dropped_until_half_of_the_context_is_free(lengths, new, dropped):
    assert turns_to_drop(lengths, new, n_ctx=100) == dropped


def test_a_turn_that_never_fits_is_refused_and_the_chat_goes_on():
    chat = Chat(MODEL, transcript(MODEL), {"seed": 1}, max_new_tokens=5)
    say(chat, "Hello!")
    before, held = chat.ids(), len(chat.cache)
    with pytest.raises(
        ContextError, match=r"this turn takes \d+ tokens, .* the context of this model is 512: say it in"
    ):
        chat.reply("king " * 500)
    assert (chat.ids(), len(chat.cache)) == (before, held)
    assert say(chat, "And you?")


@pytest.mark.thorough
@pytest.mark.parametrize("form", [transcript, pytest.param(dialogue, marks=pytest.mark.thorough)])
def test_fifty_turns_stay_inside_the_context_and_cost_their_new_tokens(form):
    """A turn computes what is new in it and what the one before left: its end, and the last token of a reply that was
    cut. Only where turns are dropped the rest of the history is computed too, and that is half of the context at most.
    The ids are those of `generate` on the same text without any cache.
    """
    counted, fresh = Counted(), Counted()
    chat = Chat(MODEL, form(MODEL), {"seed": 3, "top_k": 40}, max_new_tokens=20, forward=counted)
    words = "Tell me of the old king, his three sons and the fox."
    drops, text = 0, chat.format.opening
    for n in range(50):
        turns, held, counted.tokens = list(chat.turns), len(chat.cache), 0
        say(chat, words[: 4 * (n % 14) + 1])
        ids, turn = chat.ids(), chat.turns[-1]
        assert len(ids) <= 512
        computed = len(turn.message) + len(turn.reply) - (turn.finish_reason == "length")
        if chat.turns[:-1] == turns:
            assert counted.tokens == len(text) - held + computed
            assert len(text) - held <= len(chat.format.end) + 1 or n == 0
        else:
            drops += 1
            assert chat.turns[:-1] == turns[-len(chat.turns) + 1 :]
            assert counted.tokens <= 256
        text = ids
        prompt = ids[: len(ids) - len(turn.reply) - len(chat.format.end)]
        options = {**chat.options, "min_new_tokens": 1, "stop_ids": chat.format.stop_ids, "stream": n}
        if n % 7 == 0 or chat.turns[:-1] != turns:
            again = numgpt.generate(prompt, MODEL.params, MODEL.config, max_new_tokens=20, forward=fresh, **options)
            assert list(again) == turn.reply
    assert drops > 2
    assert chat.replies == 50


TINY = MODEL._replace(config=CONFIG._replace(n_ctx=64), params={**PARAMS, "wpe": PARAMS["wpe"][:64]})


@settings(max_examples=15)
@given(st.lists(st.integers(0, 30), max_size=12), st.sampled_from(FORMATS), st.integers(1, 20))
def test_no_chat_ever_leaves_the_context(lengths, form, most):
    counted = Counted()
    chat = Chat(TINY, form(TINY), {"seed": 1}, max_new_tokens=most, forward=counted)
    for length in lengths:
        before = chat.ids()
        try:
            pieces = chat.reply("king " * length)
        except ContextError:
            assert chat.ids() == before
            continue
        list(pieces)
        assert 1 <= len(chat.turns[-1].reply) <= most
        assert len(chat.ids()) <= 64
        assert len(chat.cache) < len(chat.ids())


def test_reset_forgets_all():
    chat = Chat(MODEL, transcript(MODEL), {"temperature": 0}, max_new_tokens=8)
    first = say(chat, "Hello!")
    assert say(chat, "Hello!") != first
    chat.reset()
    assert say(chat, "Hello!") == first
    assert len(chat.turns) == 1


def test_a_reply_that_is_stopped_is_remembered_as_far_as_it_went():
    chat = Chat(MODEL, transcript(MODEL), {"temperature": 0}, max_new_tokens=30)
    pieces = chat.reply("Tell me of the king.")
    begun = next(pieces) + next(pieces) + next(pieces)
    pieces.close()
    [turn] = chat.turns
    assert turn.finish_reason == "interrupted"
    assert MODEL.tokenizer.decode(turn.reply).strip() == begun.strip()
    say(chat, "Go on.")
    prompt = chat.ids()[: -len(chat.turns[1].reply) - 1]
    options = {"max_new_tokens": 30, "temperature": 0, "min_new_tokens": 1, "stop_ids": chat.format.stop_ids}
    assert (
        list(numgpt.generate(prompt, MODEL.params, MODEL.config, forward=fast.forward, **options))
        == chat.turns[1].reply
    )
