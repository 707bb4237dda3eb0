"""The watermark: what it draws is as likely as without, the same by every way of making a text, and found again."""

import hashlib
import math
from collections import Counter
from fractions import Fraction
from functools import cache, partial
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import numgpt
from numgpt import generation, sampling
from numgpt.config import Config
from numgpt.decoding.batch import choose_surely, complete_batch, run
from numgpt.decoding.lookup import PromptLookup
from numgpt.decoding.loop import generate
from numgpt.decoding.rules import check_rules
from numgpt.decoding.watermark import WIDTH, green_ids, green_list, keyed_source, marked_source
from numgpt.errors import OptionError
from numgpt.fast import sampling as fast
from numgpt.fast.sampling import sample_with_lead
from numgpt.measure.scoring import score
from numgpt.measure.watermarks import (
    PART,
    STEP,
    binomial_tail,
    evidence,
    find_green_list,
    find_watermark,
    gamma_tail,
)
from numgpt.ops import softmax
from numgpt.params import map_leaves, random_params
from numgpt.sampling import OfLogits, temperature, top_k

CONFIG = Config(n_vocab=23, n_ctx=60, n_embd=12, n_head=3, n_layer=2)
PARAMS = map_leaves(
    lambda _, x: x + np.random.default_rng(x.size).normal(scale=0.4, size=x.shape),
    random_params(CONFIG, dtype="float64"),
)
PROMPT = [3, 1, 4, 1, 5]
KEYS = [f"key {i}" for i in range(4000)]


def uniforms(context, key, n):
    """The uniform numbers of a context, by the definition: a hash, a generator, and 52 bits of each word."""
    raw = b"".join(i.to_bytes(8, "little") for i in context)
    digest = hashlib.blake2b(raw, digest_size=16, key=key.encode()).digest()
    words = np.random.Generator(np.random.Philox(key=int.from_bytes(digest, "little"))).bit_generator.random_raw(n)
    return [((int(word) >> 12) + 0.5) / 2**52 for word in words]


def chi_square_fits(counts, expected):
    """Whether counts are those of a distribution, but for chance: chi-square is below its mean and five deviations."""
    seen, expected = np.asarray(counts, float), np.asarray(expected, float)
    chi_square, freedom = float(((seen - expected) ** 2 / expected).sum()), len(seen) - 1
    return chi_square < freedom + 5 * math.sqrt(2 * freedom)


def is_uniform(p_values):
    """Whether numbers are uniform on (0, 1), by Kolmogorov and Smirnov: false for 1 of 1,000 sets that are."""
    p = np.sort(p_values)
    n = len(p)
    furthest = max((np.arange(1, n + 1) / n - p).max(), (p - np.arange(n) / n).max())
    return furthest < 1.95 / math.sqrt(n)


@cache
def storyteller():
    return numgpt.load("storyteller")


@cache
def story(tokens=1500):
    """Ids of a text that people wrote."""
    text = (Path(__file__).parents[2] / "weights/storyteller/val.txt").read_text(encoding="utf-8")
    return storyteller().tokenizer.encode(text[: 6 * tokens])[:tokens]


@cache
def marked(texts, tokens):
    """Texts that the storyteller made with the key "secret", of some tokens each."""
    m = storyteller()
    prompts = [story()[at : at + 16] for at in range(0, 16 * texts, 16)]
    options = {"max_new_tokens": tokens, "min_new_tokens": tokens, "seed": 1, "watermark": "secret"}
    return numgpt.generate_batch(prompts, m.params, m.config, **options)


# --- the draw


def test_a_token_is_drawn_as_aaronson_has_it():
    """argmax r_i^(1 / p_i), with the r of the last four tokens: by code of its own."""
    logits = np.random.default_rng(0).normal(size=9)
    p = softmax(logits)
    for key in KEYS[:50]:
        text = [7, 1, 2, 8, 2]
        r = uniforms(text[-4:], key, 9)
        expected = max(range(9), key=lambda i: math.log(r[i]) / p[i])
        source = marked_source(text, 1, key)
        assert sampling.sample(logits, text, (), *source) == expected
        assert fast.sample(logits, text, (), *source) == expected
        assert sample_with_lead(logits, text, (), *source)[0] == expected


@given(st.integers(0, 2**64 - 1), st.integers(0, 2**64 - 1), st.integers(0, 99), st.sampled_from([1, 0.7]))
def test_both_ways_to_sample_draw_at_the_position_that_is_given(seed, stream, position, T):
    logits, controls = np.random.default_rng(1).normal(size=50), [OfLogits(temperature, T), OfLogits(top_k, 7)]
    found = sampling.sample(logits, [1], controls, seed, stream, position)
    assert found == sampling.sample(logits, range(position), controls, seed, stream)
    assert found == fast.sample(logits, [1], controls, seed, stream, position)


def test_over_keys_each_token_is_as_likely_as_without():
    p = np.array([0.4, 0.3, 0.15, 0.1, 0.05])
    drawn = Counter(fast.sample(np.log(p), [], (), *keyed_source([5, 6, 7, 8], key)) for key in KEYS)
    assert chi_square_fits([drawn[i] for i in range(5)], len(KEYS) * p)


@pytest.mark.thorough
def test_over_keys_whole_texts_are_as_likely_as_without():
    """Five tokens in a row, some of them behind the same ones again: all 32 texts come as often as they should."""
    p = np.array([0.6, 0.4])

    # Where a token is not marked, the seed decides: each key has one of its own here.
    seeds = {key: int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "little") for key in KEYS}

    def text_of(key):
        text = [2, 3, 4, 5, 0, 0, 0, 0]
        for _ in range(5):
            source = marked_source(text, 4, key) or (seeds[key], 0, len(text))
            text.append(fast.sample(np.log(p), text, (), *source))
        return tuple(text[-5:])

    drawn = Counter(map(text_of, KEYS))
    all_texts = [tuple(n >> i & 1 for i in range(5)) for n in range(32)]
    shares = [math.prod(p[i] for i in text) for text in all_texts]
    assert chi_square_fits([drawn[text] for text in all_texts], len(KEYS) * np.array(shares))


@given(st.lists(st.integers(0, 1), min_size=1, max_size=40), st.integers(1, 40))
def test_no_clocks_are_used_twice_in_a_text(text, prompt_length):
    sources = [marked_source(text[:t], prompt_length, "secret") for t in range(1, len(text) + 1)]
    used = [source for source in sources if source is not None]
    assert len(set(used)) == len(used)
    assert not any(sources[: prompt_length + WIDTH - 1])
    first = {}
    for t in range(WIDTH, len(text) + 1):
        first.setdefault(tuple(text[t - WIDTH : t]), t)
    assert len(used) == sum(t >= prompt_length + WIDTH for t in first.values())


def test_another_seed_makes_another_text_of_the_same_prompt():
    texts = {tuple(new_ids(seed=seed)) for seed in range(10)}
    assert len(texts) == 10
    assert new_ids(seed=1) == new_ids(seed=1) != new_ids(seed=1, watermark="another")


# --- the same text by every way


def new_ids(seed=5, **options):
    options = {"max_new_tokens": 30, "watermark": "secret"} | options
    return list(generate(PROMPT, PARAMS, CONFIG, seed=seed, **options))


@pytest.mark.parametrize("options", [{"watermark": "secret"}, {"green_list": 15485863}, {"watermark": "é" * 32}])
def test_a_text_is_the_same_alone_with_guesses_and_in_a_batch(options):
    options = {"max_new_tokens": 30, "temperature": 0.9, "top_k": 12, "seed": 5, **options}
    prompts = [PROMPT, [7, 7, 7, 7, 7, 7], [1]]
    for number, prompt in enumerate(prompts):
        alone = list(generate(prompt, PARAMS, CONFIG, stream=number, **options))
        guess = PromptLookup()
        assert list(generate(prompt, PARAMS, CONFIG, stream=number, guess=guess, **options)) == alone
        assert next(c.ids for c in complete_batch(prompts, PARAMS, CONFIG, **options) if c.number == number) == alone
        rules = check_rules(CONFIG, **options)
        numbered = [(n, list(ids), rules) for n, ids in enumerate(prompts)]
        of_jobs = {done.number: done.ids for done in run(numbered, PARAMS, CONFIG, choose_next=choose_surely)}
        assert of_jobs[number] == alone


def test_a_text_is_that_of_the_plain_loop():
    def choose(logits, text):
        source = marked_source(text, len(PROMPT), "secret") or (5, 0, len(text))
        return sampling.sample(logits, text, [OfLogits(temperature, 0.9)], *source)

    plain = list(generation.generate(PROMPT, PARAMS, CONFIG, choose, max_new_tokens=30))
    assert new_ids(temperature=0.9) == plain


# --- the evidence


@given(st.integers(0, 40), st.integers(0, 80))
def test_the_tails_are_exact(n, tenths):
    s = Fraction(tenths, 5)
    terms = sum((s**k / math.factorial(k) for k in range(n)), Fraction(0))
    expected = float(terms) * math.exp(-s) if s and n else 1.0
    assert math.exp(gamma_tail(n, float(s))) == pytest.approx(expected, rel=1e-9)
    share, count = Fraction(1, 4), min(tenths, n)
    terms = (math.comb(n, k) * share**k * (1 - share) ** (n - k) for k in range(count, n + 1))
    assert math.exp(binomial_tail(n, count, 0.25)) == pytest.approx(float(sum(terms)), rel=1e-9)


def test_tails_far_out_are_no_error():
    assert gamma_tail(10_000, 40_000.0) == pytest.approx(-16_140, rel=1e-3)  # n - s + n log(s / n), and a little
    assert binomial_tail(10_000, 10_000, 0.25) == pytest.approx(10_000 * math.log(0.25))


def test_the_score_of_a_text_is_the_sum_of_its_surprises():
    ids = [4, 8, 1, 5, 2, 9, 3]
    r = [uniforms(ids[t - 4 : t], "secret", ids[t] + 1)[-1] for t in (4, 5, 6)]
    found = find_watermark(ids, "secret")
    assert found.score == pytest.approx(-sum(math.log(1 - x) for x in r), rel=1e-9)
    assert (found.tokens, found.scored) == (7, 3)


def test_a_text_without_the_mark_has_any_p_value_as_often_as_any_other():
    texts = [story()[at : at + 60] for at in range(0, 240, 60)]
    found = [find_watermark(texts[i % 4], key) for i, key in enumerate(KEYS[:400])]
    assert is_uniform([one.p_value for one in found])
    assert not is_uniform([one.p_value**1.5 for one in found])  # such a difference would be seen
    false = sum(one.p_of_parts < 0.1 for one in found)
    assert false < 400 * 0.1 + 4 * math.sqrt(400 * 0.1 * 0.9)


def test_without_the_green_list_p_values_are_uniform_too():
    """They are steps, so each is put somewhere on its own."""
    dice = np.random.default_rng(3)
    ids, p_values = dice.integers(64, size=80).tolist(), []
    for key in dice.integers(1, 2**53, size=200).tolist():
        found = find_green_list(ids, key, n_vocab=64)
        beyond = math.exp(binomial_tail(found.scored, found.score + 1, 0.25)) if found.score < found.scored else 0
        p_values.append(beyond + dice.random() * (found.p_value - beyond))
    assert is_uniform(p_values)


def test_a_sentence_that_comes_again_and_again_is_no_evidence():
    sentence = story()[100:130]
    once, often = (find_watermark(sentence * times, "secret") for times in (2, 50))
    assert often.scored == once.scored == len(sentence)
    assert often.score == pytest.approx(once.score)
    p_values = [find_watermark(sentence * 3, key).p_value for key in KEYS[:300]]
    assert is_uniform(p_values)


def test_a_marked_text_is_found_by_its_key_and_by_no_other():
    for ids in marked(4, 60):
        assert find_watermark(ids, "secret").p_value < 1e-6
        assert all(find_watermark(ids, key).p_value > 1e-4 for key in KEYS[:20])
    tokenizer = storyteller().tokenizer
    text = "".join(tokenizer.decode(ids) for ids in marked(4, 60))
    assert find_watermark(tokenizer.encode(text), "secret").p_value < 1e-30


@pytest.mark.parametrize("edit", ["cut out", "put in", "another word", "every sixth"])
def test_edits_leave_the_rest_of_the_mark(edit):
    for ids in marked(4, 60):
        whole = find_watermark(ids, "secret")
        changed = {
            "cut out": [*ids[:30], *ids[33:]],
            "put in": [*ids[:30], *story()[:3], *ids[30:]],
            "another word": [*ids[:30], 7, *ids[31:]],
            "every sixth": [7 if t % 6 == 0 else i for t, i in enumerate(ids)],
        }[edit]
        found = find_watermark(changed, "secret")
        if edit == "every sixth":  # one token of six is whole, with four before it that are
            assert found.p_value < 0.2
        else:
            assert found.scored >= whole.scored - 3
            assert found.p_value < 1e-9


def test_a_marked_part_of_a_long_text_is_told_by_its_place():
    ids = [*story()[:400], *marked(4, 60)[0], *story()[400:800]]
    found = find_watermark(ids, "secret")
    best = min(found.parts, key=lambda part: part.p_value)
    assert found.p_of_parts == pytest.approx(len(found.parts) * best.p_value)
    assert found.p_of_parts < 1e-6
    assert best.start < 460
    assert best.end > 400
    assert [part.start for part in found.parts] == list(range(0, len(found.parts) * STEP, STEP))
    assert found.parts[-1].end == len(ids)
    assert all(part.end - part.start == PART for part in found.parts[:-1])


def test_what_is_too_short_is_no_evidence():
    for ids in [], [1], [1, 2, 3, 4]:
        found = find_watermark(ids, "secret")
        assert (found.p_value, found.p_of_parts, found.scored, found.score) == (1, 1, 0, 0)
    assert evidence(np.array([]), gamma_tail).parts == []


# --- the green list


def test_the_green_list_favours_a_quarter_of_all_tokens():
    green = green_ids(100, 7, 15485863)
    assert len(set(green)) == 25
    assert set(green) != set(green_ids(100, 8, 15485863))
    changed = green_list(np.zeros(100), [1, 7], 15485863)
    assert sorted(np.flatnonzero(changed).tolist()) == sorted(green)


def test_over_keys_each_token_is_green_as_often_as_any_other():
    counts = Counter(i for key in range(1, 2001) for i in green_ids(20, 3, key))
    assert chi_square_fits([counts[i] for i in range(20)], [2000 / 4] * 20)


def test_the_green_list_is_found_also_where_nothing_is_drawn():
    m = storyteller()
    ids = list(numgpt.generate(story()[:16], m.params, m.config, max_new_tokens=80, temperature=0, green_list=77))
    assert find_green_list(ids, 77, len(m.tokenizer)).p_value < 1e-6
    assert find_green_list(ids, 78, len(m.tokenizer)).p_value > 1e-4


def test_a_green_text_makes_beams_too():
    m = storyteller()
    options = {"max_new_tokens": 20, "num_beams": 2, "green_list": 77}
    ids = list(numgpt.generate(story()[:16], m.params, m.config, **options))
    shares = [find_green_list(ids, key, len(m.tokenizer)) for key in (77, 78)]
    assert shares[0].score > shares[1].score


# --- what is refused


@pytest.mark.parametrize("key", ["", "k" * 65, "é" * 33, 7, b"secret"])
def test_a_key_is_a_text_of_some_length(key):
    with pytest.raises(OptionError, match=r"watermark is .*expected a text of 1 to 64 bytes, or None for off"):
        new_ids(watermark=key)
    with pytest.raises(OptionError, match=r"key is .*expected a text of 1 to 64 bytes"):
        find_watermark([1, 2], key)


@pytest.mark.parametrize("key", [0, -1, 2**53 + 1, "7", 7.0, True])
def test_a_key_of_the_green_list_is_a_number(key):
    with pytest.raises(OptionError, match=r"green_list is .*expected an integer from 1 to 9007199254740992, or None"):
        new_ids(watermark=None, green_list=key)
    with pytest.raises(OptionError, match=r"key is .*expected an integer from 1"):
        find_green_list([1, 2], key, 23)


@pytest.mark.parametrize("options", [{"temperature": 0}, {"num_beams": 2}])
def test_where_nothing_is_drawn_nothing_can_be_marked(options):
    with pytest.raises(
        OptionError, match="watermark marks what is drawn, and at temperature 0 and by beams nothing is"
    ):
        new_ids(**options)


# --- at length


@pytest.mark.thorough
def test_of_ten_texts_of_200_tokens_nine_are_found_and_the_model_likes_them_as_much():
    m, n = storyteller(), 60
    prompts = [story(16 * n)[at : at + 16] for at in range(0, 16 * n, 16)]
    options = {"max_new_tokens": 200, "min_new_tokens": 200, "seed": 1}
    make = partial(numgpt.generate_batch, prompts, m.params, m.config, **options)
    with_mark, without = make(watermark="secret"), make()
    p_values = [find_watermark(m.tokenizer.encode(m.tokenizer.decode(ids)), "secret").p_value for ids in with_mark]
    assert np.quantile(p_values, 0.9) < 1e-6
    nats = [
        np.array([score(m, ids, given=prompt).nats_per_token for prompt, ids in zip(prompts, texts, strict=True)])
        for texts in (with_mark, without)
    ]
    assert nats[1].mean() / math.log(2) > 3  # bits of entropy a token
    error = math.sqrt(sum(x.var() / n for x in nats))
    assert abs(nats[0].mean() - nats[1].mean()) < 3 * error
    assert error < 0.1


@pytest.mark.thorough
def test_p_values_of_thousands_of_texts_are_uniform():
    p_values = [find_watermark(story()[at % 1300 : at % 1300 + 200], KEYS[at]).p_value for at in range(3000)]
    assert is_uniform(p_values)
