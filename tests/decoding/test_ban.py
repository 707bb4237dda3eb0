"""Texts that must not come do not, in whatever pieces; all else keeps its odds."""

from random import Random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.babblers import babbler

import numgpt
from numgpt.decoding.banned import ban_texts
from numgpt.decoding.batch import generate_batch
from numgpt.decoding.controls import Sampling, Start, check_sampling, controls_of
from numgpt.decoding.loop import generate
from numgpt.decoding.text import complete, stream
from numgpt.errors import OptionError
from numgpt.tokenizer import Tokenizer

PIECES = [b"a", b"b", b"c", b"ab", b"bc", b"cab", b"aa", b"\xc3", b"\xa9", b"\xa9a", b"a\xc3", b"abcab", b"<"]
V = len(PIECES) + 1
TOKENIZER = Tokenizer([], {piece: i for i, piece in enumerate(PIECES)}, {"<end>": V - 1})
ids_of_text = st.lists(st.integers(0, V - 1), max_size=8)
texts = st.lists(st.text("abcé<", min_size=1, max_size=4), max_size=3)


@given(ids_of_text, texts)
def test_a_token_is_banned_where_it_completes_a_text_and_nowhere_else(ids, banned):
    logits = np.random.default_rng(0).normal(size=V)
    out = ban_texts(logits, ids, banned, TOKENIZER)
    after = ids[len(ids) - ids[::-1].index(V - 1) :] if V - 1 in ids else ids  # a special token is no text
    before = b"".join(PIECES[i] for i in after)
    for i, piece in enumerate([*PIECES, b""]):
        ends = range(len(before) + 1, len(before) + len(piece) + 1)
        completes = any((before + piece)[:end].endswith(text.encode()) for text in banned for end in ends)
        assert out[i] == (-np.inf if completes else logits[i]), (i, piece)


def test_a_text_is_banned_with_the_case_that_it_has_and_also_within_words():
    tokenizer = numgpt.load_tokenizer("gpt2")
    out = ban_texts(np.zeros(len(tokenizer)), [], ["wolf"], tokenizer)
    banned = tokenizer.pieces(np.flatnonzero(np.isinf(out)))
    assert {b"wolf", b" wolf"} < set(banned)
    assert all(b"wolf" in piece for piece in banned)
    assert b" Wolf" not in banned


def test_what_begins_in_the_prompt_is_not_completed():
    out = ban_texts(np.zeros(V), [0], ["abc"], TOKENIZER)  # "a"
    assert np.flatnonzero(np.isinf(out)).tolist() == [4, 11]  # "bc", and "abcab", which has it whole


def test_ids_past_the_tokenizer_are_no_text_and_logits_may_be_fewer_than_it_has():
    assert np.isinf(ban_texts(np.zeros(V + 2), [0, V + 1], ["ab"], TOKENIZER)).sum() == 3
    assert np.flatnonzero(np.isinf(ban_texts(np.zeros(4), [], ["ab"], TOKENIZER))).tolist() == [3]


def test_where_all_is_banned_an_error_says_so():
    start = Start(0, (V - 1,), TOKENIZER)
    (control, guard) = controls_of(Sampling(ban=("a", "b")), start)
    logits = control(np.zeros(2), [])
    with pytest.raises(OptionError, match="no token is left at position 0: all 2 are banned; loosen ban"):
        guard(logits, [])


def test_the_texts_are_kept_as_nobody_can_change_them():
    assert check_sampling(Sampling(ban=["a", "é"])).ban == ("a", "é")
    with pytest.raises(OptionError, match=r"ban has a lone surrogate, U\+D800: expected characters only"):
        check_sampling(Sampling(ban=["a", "\ud800"]))


# --- in all that makes texts

COMMON = ["e", " t", "an", "é", "th", "."]


def check_many(seeds):
    """Make a text for each seed, with other banned texts each time."""
    model = babbler()
    prompt = "Once upon a time"
    for seed in seeds:
        random = Random(seed)
        free = complete(model, prompt, max_new_tokens=40, seed=seed)
        at = random.randrange(len(free) - 4)
        banned = [free[at : at + random.randint(1, 4)], random.choice(COMMON)]  # the first would come, else
        banned = [text for text in banned if "\ufffd" not in text]
        said = complete(model, prompt, max_new_tokens=40, seed=seed, ban=banned)
        assert not [text for text in banned if text in said], (seed, banned, said)


def test_they_do_not_come():
    check_many(range(15))


@pytest.mark.thorough
def test_they_do_not_come_in_a_thousand_texts():
    check_many(range(1000))


def test_they_do_not_come_in_batches_beams_and_guesses():
    model = babbler()
    tokenizer, params, config = model.tokenizer, model.params, model.config
    options = {"max_new_tokens": 20, "ban": COMMON, "tokenizer": tokenizer}
    prompts = [tokenizer.encode(text) for text in ("Once", "The king the king the")]
    drawn = generate_batch(prompts, params, config, seed=1, **options)
    assert drawn[1] == list(generate(prompts[1], params, config, seed=1, stream=1, **options))
    beams = generate_batch(prompts, params, config, num_beams=3, **options)
    for ids in drawn + beams:
        assert not [text for text in COMMON if text in tokenizer.decode(ids)]
    guessed = stream(model, "The king the king the", seed=1, stream=1, max_new_tokens=20, ban=COMMON)
    assert [*guessed, guessed.ids][-1] == drawn[1]
