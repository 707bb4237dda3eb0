"""A text that keeps to a regular expression: always, and with the model's own odds among what can still match."""

import math
from random import Random

import numpy as np
import pytest
import regex
from hypothesis import given
from hypothesis import strategies as st
from support.babblers import babbler
from support.patterns import random_pattern
from support.sampling import LOW, process

import numgpt
from numgpt.config import Config
from numgpt.decoding import automaton, form
from numgpt.decoding.batch import complete_batch, generate_batch
from numgpt.decoding.controls import Sampling, Start, controls_of
from numgpt.decoding.form import Form, form_of
from numgpt.decoding.loop import generate
from numgpt.decoding.text import stream
from numgpt.errors import OptionError
from numgpt.params import random_params
from numgpt.tokenizer import Tokenizer

# Tokens that hold parts of characters, whole ones, and both.
PIECES = [b"a", b"b", b"ab", b"ba", b"\xc3", b"\xa9", b"a\xc3", b"\xa9b", "é".encode(), b"aab"]
END = len(PIECES)
TOKENIZER = Tokenizer([], {piece: i for i, piece in enumerate(PIECES)}, {"<end>": END, "<other>": END + 1})
V = END + 2
GREEDY = {"temperature": 0}
PATTERNS = ["(ab|é)b?", "a{1,3}", "[ab]{2}é?", "(a|ab)(é|b)", "[^a]{1,2}", "(?i)É(ba)?", "aab|aabb|b"]


def logits_after(ids):
    """Logits of chance, the same each time after the same ids."""
    return np.random.default_rng([len(ids), *ids]).normal(0, 1.5, V)


def matching(pattern, longest=6):
    """Return all texts that match, as bytes: those of a finite pattern, by trying all texts of three characters."""
    texts, found = [""], set()
    for _ in range(longest):
        found |= {text.encode() for text in texts if regex.fullmatch(pattern, text)}
        texts = [text + c for text in texts for c in "abéÉ"]
    return found


def brute_force(pattern, ids, logits):
    """Return the probability of each token after ids, as the sum over those that lead to a text that matches."""
    whole = matching(pattern)
    begun = b"".join(PIECES[i] for i in ids)
    weights = np.zeros(V)
    for i, piece in enumerate(PIECES):
        if any(text.startswith(begun + piece) for text in whole):
            weights[i] = math.exp(logits[i])
    if begun in whole:
        weights[END] = math.exp(logits[END])
    return weights / weights.sum()


def odds_of(logits):
    weights = np.exp(logits)
    return weights / weights.sum()


def controlled(ids, pattern, **options):
    start = Start(0, (END,), TOKENIZER)
    logits = logits_after(ids)
    for control in controls_of(Sampling(regex=pattern, **options), start):
        logits = control(logits, ids)
    return logits


@pytest.mark.parametrize("pattern", PATTERNS)
def test_each_token_has_its_odds_among_those_that_can_still_lead_to_a_match(pattern):
    to_do = [[]]
    for ids in to_do:
        expected = brute_force(pattern, ids, logits_after(ids))
        np.testing.assert_allclose(odds_of(controlled(ids, pattern)), expected, atol=1e-12)
        to_do += [[*ids, int(i)] for i in np.flatnonzero(expected) if i != END and len(ids) < 4]
    assert len(to_do) > 2


@pytest.mark.parametrize("options", [{"top_k": 2}, {"top_p": 0.6}, {"min_p": 0.4}])
def test_what_narrows_the_choice_chooses_among_what_can_match(options):
    for pattern in PATTERNS:
        expected = np.where(brute_force(pattern, [], logits_after([])) > 0, logits_after([]), LOW)
        np.testing.assert_array_equal(controlled([], pattern, **options), process(expected, [], Sampling(**options)))


@pytest.mark.thorough
def test_texts_come_as_often_as_they_should():
    pattern, counts, probabilities = "(ab|é)b?", {}, {}

    def spread(ids, probability):
        for i, p in enumerate(brute_force(pattern, ids, logits_after(ids))):
            if p and i == END:
                probabilities[tuple(ids)] = probability * p
            elif p:
                spread([*ids, i], probability * p)

    spread([], 1.0)
    assert math.isclose(sum(probabilities.values()), 1)
    controls = controls_of(Sampling(regex=pattern), Start(0, (END,), TOKENIZER))
    n = 4000
    for seed in range(n):
        ids = []
        while (i := numgpt.sampling.sample(logits_after(ids), ids, controls, seed)) != END:
            ids.append(i)
        counts[tuple(ids)] = counts.get(tuple(ids), 0) + 1
    assert set(counts) <= set(probabilities)
    chi_square = sum((counts.get(ids, 0) - n * p) ** 2 / (n * p) for ids, p in probabilities.items())
    freedom = len(probabilities) - 1
    assert chi_square < freedom + 4 * math.sqrt(2 * freedom), (chi_square, freedom)


@given(st.integers(0, 2**32))
def test_the_tokens_that_can_follow_are_those_that_the_automaton_takes_one_by_one(seed):
    random = Random(seed)
    pattern = random_pattern(random)
    found, alone = Form(pattern, TOKENIZER), automaton.Automaton(pattern)
    ids = [random.randrange(END) for _ in range(random.randrange(4))]
    place = alone.after(1, b"".join(PIECES[i] for i in ids))
    expected = [alone.after(place, piece) != automaton.DEAD for piece in PIECES]
    assert found.can_follow(ids).tolist() == [*expected, False, False]
    assert found.matches(ids) == alone.matches(place)


def test_both_ways_of_sampling_give_the_same_id():
    for pattern in PATTERNS:
        for seed, options in enumerate(
            [{}, {"top_k": 2}, {"top_k": 9, "top_p": 0.8}, {"min_p": 0.3}, {"temperature": 0}]
        ):
            start = Start(0, (END,), TOKENIZER)
            controls = controls_of(Sampling(regex=pattern, **options), start)
            logits = logits_after([])
            for n in range(20):
                expected = numgpt.sampling.sample(logits, [], controls, seed, n)
                assert numgpt.fast.sampling.sample(logits, [], controls, seed, n) == expected


def test_special_tokens_and_ids_without_a_piece_are_no_text():
    logits = np.zeros(V + 3)
    out = process_with("(?s).*", logits, stop_ids=(END,))
    assert np.flatnonzero(out == 0).tolist() == [i for i in range(END) if i not in (5, 7)] + [END]


def process_with(pattern, logits, stop_ids, ids=(), prompt_length=0):
    start = Start(prompt_length, stop_ids, TOKENIZER)
    for control in controls_of(Sampling(regex=pattern), start):
        logits = control(logits, ids)
    return logits


def test_an_ordinary_id_that_ends_the_text_may_come_where_it_matches_and_nowhere_else():
    assert np.flatnonzero(process_with("ab", np.zeros(V), (0, END)) == 0).tolist() == [2]
    assert np.flatnonzero(process_with("ab", np.zeros(V), (0, END), [2]) == 0).tolist() == [0, END]


def test_the_prompt_is_not_looked_at():
    assert np.flatnonzero(process_with("ab", np.zeros(V), (END,), [1, 1, 11, 0], 3) == 0).tolist() == [1]


def test_where_no_token_can_go_on_an_error_says_so():
    with pytest.raises(OptionError, match="no token is left at position 0: all 12 are banned; loosen regex"):
        process_with("x", np.zeros(V), (END,))


def test_what_a_form_remembers_is_bounded_and_forgetting_changes_nothing(monkeypatch):
    pattern = "(a|b)*a(a|b){6}é"  # as many sets as there are ways to write seven letters
    texts = np.random.default_rng(0).integers(0, 2, (60, 9)).tolist()
    kept = Form(pattern, TOKENIZER)
    expected = [kept.can_follow(ids).tolist() for ids in texts]
    monkeypatch.setattr(form, "MOST_SETS", 5)
    monkeypatch.setattr(form, "MOST_MASKS", 2)
    forgetful = Form(pattern, TOKENIZER)
    assert [forgetful.can_follow(ids).tolist() for ids in texts] == expected
    assert len(forgetful._masks) <= 2
    assert len(kept._automaton.sets) > 2 * len(forgetful._automaton.sets)


# --- in all that makes texts

CONFIG = Config(n_vocab=V, n_ctx=40, n_embd=12, n_head=3, n_layer=2, eos_token_id=END)
PARAMS = random_params(CONFIG, dtype="float64")


def new_text(ids):
    return b"".join(TOKENIZER.pieces(ids)).decode()


@pytest.mark.parametrize("pattern", PATTERNS)
def test_batches_and_beams_keep_to_it(pattern):
    options = {"max_new_tokens": 20, "regex": pattern, "tokenizer": TOKENIZER}
    drawn = generate_batch([[0], [1, 2], [3]], PARAMS, CONFIG, seed=3, **options)
    alone = [
        list(generate(ids, PARAMS, CONFIG, seed=3, stream=i, **options)) for i, ids in enumerate([[0], [1, 2], [3]])
    ]
    beams = generate_batch([[0], [1]], PARAMS, CONFIG, num_beams=3, **options)
    assert drawn == alone
    assert all(regex.fullmatch(pattern, new_text(ids)) for ids in drawn + beams)


def test_a_text_ends_where_nothing_longer_matches_without_a_pass_for_the_end():
    passes = []

    def forward(*arguments, **options):
        passes.append(1)
        return numgpt.fast.forward(*arguments, **options)

    options = {"max_new_tokens": 9, "regex": "aab", "tokenizer": TOKENIZER, "min_new_tokens": 8}
    config = CONFIG._replace(eos_token_id=None)  # nor does it need an end-of-text
    ids = list(generate([0], PARAMS, config, forward=forward, **options))
    assert (new_text(ids), len(passes)) == ("aab", len(ids))
    (done,) = complete_batch([[0]], PARAMS, config, **options)
    assert done.finish_reason == "stop"


def test_it_needs_a_tokenizer():
    for options in {"regex": "a"}, {"ban": ["a"]}:
        with pytest.raises(
            OptionError, match=f"{next(iter(options))} needs the model's tokenizer: tokenizer=model.token"
        ):
            generate([0], PARAMS, CONFIG, max_new_tokens=1, **options)


def check_random_pairs(seeds):
    """Draw a text for each seed, by a pattern of the seed, which it matches. Return how many came to their end."""
    model, ended = babbler(), 0
    end = model.config.eos_token_id
    for seed in seeds:
        pattern = random_pattern(Random(seed))
        options = {"seed": seed, "logit_bias": {end: 6.0}, **[{}, {"top_k": 40}, {"top_p": 0.9}][seed % 3]}
        text = stream(model, "Once upon a time", regex=pattern, max_new_tokens=60, **options)
        said = "".join(text)
        if text.finish_reason == "stop":
            assert regex.fullmatch(pattern, said), (pattern, seed, said)
            ended += 1
        else:  # then the last character may not be whole
            assert regex.fullmatch(pattern, said.rstrip("\ufffd"), partial=True), (pattern, seed, said)
    return ended


def test_each_text_matches():
    assert check_random_pairs(range(40)) > 30


@pytest.mark.thorough
def test_each_of_a_thousand_texts_matches():
    assert check_random_pairs(range(1200)) >= 1000


def test_guesses_change_nothing():
    model = babbler()
    ids = model.tokenizer.encode("the king the king the")
    options = {"max_new_tokens": 30, "regex": "( the king){5,}", "seed": 1, "tokenizer": model.tokenizer}
    plain = list(generate(ids, model.params, model.config, **options))
    guessed = list(generate(ids, model.params, model.config, guess=numgpt.decoding.lookup.PromptLookup(), **options))
    assert guessed == plain


def test_a_pattern_is_compiled_once():
    assert form_of("a|b", TOKENIZER) is form_of("a|b", TOKENIZER)
