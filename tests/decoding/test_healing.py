"""Token healing: a prompt goes on as if it had not been cut inside a word."""

import json
import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.cli import call
from support.dumps import wide_params

import numgpt
from numgpt.config import Config
from numgpt.decoding.healing import take_back
from numgpt.decoding.rules import check_rules
from numgpt.errors import OptionError
from numgpt.model import Model
from numgpt.tokenizer import Tokenizer

PIECES = [b"a", b"b", b"ab", b"aba", b" ", b" a"]
TOKENIZER = Tokenizer(
    [(b"a", b"b"), (b"ab", b"a"), (b" ", b"a")],
    {piece: i for i, piece in enumerate(PIECES)},
    {"<|endoftext|>": 6},
)
CONFIG = Config(n_vocab=7, n_ctx=16, n_embd=12, n_head=3, n_layer=2, eos_token_id=6)
MODEL = Model(CONFIG, wide_params(CONFIG), TOKENIZER)
STORY = numgpt.load("storyteller")


@given(st.text("ab <|endoftext|>é\n", max_size=12))
def test_the_prompt_less_its_last_word_and_that_word_are_the_prompt(text):
    ids, last = take_back(text, STORY.tokenizer)
    assert STORY.tokenizer.decode(ids) + last == text
    assert bool(last) == bool(text)
    assert STORY.tokenizer.encode(text)[: len(ids)] == ids


def test_a_special_token_at_the_end_stays():
    assert take_back("a<|endoftext|>", STORY.tokenizer, allow_special=True) == (
        STORY.tokenizer.encode("a<|endoftext|>", allow_special=True),
        "",
    )


def next_probabilities(ids):
    logits = numgpt.forward(ids, MODEL.params, MODEL.config)[-1].astype(np.float64)
    p = np.exp(logits - logits.max())
    return p / p.sum()


def leads_on(text, start):
    """Whether a text begins so, or may come to."""
    return text.startswith(start) or start.startswith(text)


def all_texts(before, ids, text, left):
    """Yield all that may be written in so many tokens, each with its probability."""
    if not left:
        yield tuple(ids), 1.0
        return
    p = next_probabilities([*before, *ids])
    fits = [i for i in range(6) if leads_on(text + PIECES[i], b"ab")] + [6] * text.startswith(b"ab")
    for i in fits:
        rest = [(tuple(ids), 1.0)] if i == 6 else all_texts(before, [*ids, i], text + PIECES[i], left - 1)
        yield from ((after, q * p[i] / p[fits].sum()) for after, q in rest)


def test_texts_are_drawn_as_likely_as_they_are_among_all_that_begin_so():
    before, n = TOKENIZER.encode("b "), 1200
    expected = dict(all_texts(before, [], b"", 3))
    assert sum(expected.values()) == pytest.approx(1)
    options = {"max_new_tokens": 3, "seed": 1, "tokenizer": TOKENIZER, "begins_with": "ab"}
    found = Counter(map(tuple, numgpt.generate_batch([before] * n, MODEL.params, CONFIG, batch_size=500, **options)))
    assert set(found) <= set(expected)
    often = {ids: p for ids, p in expected.items() if n * p >= 5}
    chi_square = sum((found[ids] - n * p) ** 2 / (n * p) for ids, p in often.items())
    assert chi_square < len(often) + 5 * math.sqrt(2 * len(often))


def test_a_prompt_cut_inside_a_word_comes_to_the_word_that_was_meant():
    for cut in "Once upon a ti", "Once upon a t", "Once upo":
        found = cut + numgpt.complete(STORY, cut, heal=True, max_new_tokens=6, temperature=0)
        assert found.startswith("Once upon a time"), found


def test_all_ways_write_the_same_and_tell_the_last_word_once(capsys, tmp_path):
    prompt, options = "Once upon a ti", {"max_new_tokens": 12, "seed": 5, "temperature": 0.8, "top_k": 40}
    text = numgpt.complete(STORY, prompt, heal=True, **options)
    flags = ["-n", "12", "--seed", "5", "--heal"]
    assert call(capsys, "generate", prompt, *flags)[1] == f"{prompt}{text}\n"
    assert json.loads(call(capsys, "generate", prompt, *flags, "--json")[1])["text"] == text
    out = call(capsys, "generate", prompt, *flags, "--num-return-sequences", "2", "--json")[1]
    assert json.loads(out.splitlines()[0])["text"] == text
    source, output = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_text(json.dumps({"prompt": prompt}) + "\n" + json.dumps({"prompt": "A", "heal": False}) + "\n")
    assert call(capsys, "generate", "--input", source, "--output", output, *flags)[0] == 0
    lines = [json.loads(line) for line in output.read_text().splitlines()]
    assert (prompt + lines[0]["text"]).startswith("Once upon a time")
    stream = numgpt.stream(STORY, prompt, heal=True, **options)
    assert "".join(stream) == text


def test_a_stop_string_in_the_last_word_is_no_end():
    text = numgpt.complete(STORY, "Once upon a ti", heal=True, max_new_tokens=9, temperature=0, stop_strings=["ti"])
    assert text.startswith("me")


def test_it_does_not_go_with_a_form():
    with pytest.raises(OptionError, match="writes a part of the prompt anew"):
        check_rules(CONFIG, max_new_tokens=3, tokenizer=TOKENIZER, regex="a+", begins_with="a")
    with pytest.raises(OptionError, match="needs the model's tokenizer"):
        check_rules(CONFIG, max_new_tokens=3, begins_with="a")
