"""generate: the plain loop over whole texts, made lazy and cached, with an end that has a name.

Most tests run the real model. Where the logits themselves are the point, `scripted` stands in for it.
"""

import math
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.sampling import sample

import numgpt
from numgpt import model
from numgpt.cache import KVCache
from numgpt.config import Config
from numgpt.decoding.controls import Sampling
from numgpt.decoding.loop import generate
from numgpt.errors import CheckpointError, ContextError, OptionError, TokenError
from numgpt.fast.sampling import sample as sample_fast
from numgpt.params import map_leaves, random_params

CONFIG = Config(n_vocab=31, n_ctx=16, n_embd=8, n_head=2, n_layer=2, eos_token_id=None)
PROMPT = [3, 1, 4, 1, 5]


def params_of(config, dtype=np.float32):
    """Return parameters under which the next token depends on the text and no token is certain."""
    rng = np.random.default_rng(1)

    def leaf(path, x):
        x = x + rng.normal(0, 0.3, x.shape) if path.endswith((".g", ".b")) else x * 30
        return x.astype(dtype)

    return map_leaves(leaf, random_params(config, seed=1))


PARAMS = params_of(CONFIG)


def run(steps):
    """Return all that a generator yields, and the value that it returns."""
    ids = []
    while True:
        try:
            ids.append(next(steps))
        except StopIteration as stop:
            return ids, stop.value


def new_ids(ids=PROMPT, n=8, **options):
    return list(generate(ids, PARAMS, CONFIG, **{"max_new_tokens": n, "seed": 7} | options))


class Counted:
    """model.forward that remembers how it was called."""

    def __init__(self):
        self.calls = []

    def __call__(self, ids, params, config, cache=None, logits_to_keep=0):
        self.calls.append((list(ids), len(cache), logits_to_keep))
        return model.forward(ids, params, config, cache=cache, logits_to_keep=logits_to_keep)


def scripted(logits):
    """Return a forward that fills the cache as a model does, and whose logits are the same wherever it is asked."""

    def forward(ids, params, config, cache=None, logits_to_keep=0):
        model.forward(ids, params, config, cache=cache)
        return np.tile(np.asarray(logits, np.float32), (logits_to_keep or len(ids), 1))

    return forward


def likely(*ids):
    """Return the logits under which only these may come, the first most of all."""
    logits = np.full(CONFIG.n_vocab, -math.inf)
    logits[list(ids)] = -np.arange(len(ids))
    return logits


# --- the ids


OPTIONS = {
    "plain": {},
    "greedy": {"temperature": 0},
    "cold": {"temperature": 0.4},
    "top_k": {"top_k": 3},
    "top_p": {"top_p": 0.7},
    "min_p": {"min_p": 0.2},
    "penalty": {"repetition_penalty": 1.8},
    "penalties of what is new": {"presence_penalty": 0.7, "frequency_penalty": -0.4},
    "greedy with a penalty": {"temperature": 0, "repetition_penalty": 1.8},
    "all": {"temperature": 1.3, "top_k": 12, "top_p": 0.95, "min_p": 0.01, "repetition_penalty": 0.8},
}


@pytest.mark.parametrize("dtype", [np.float32, pytest.param(np.float64, marks=pytest.mark.thorough)])
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS.keys())
def test_generate_gives_the_ids_of_the_plain_loop_over_whole_texts_without_a_cache(options, dtype):
    params = params_of(CONFIG, dtype)
    for seed, stream in (0, 0), (1, 0), (0, 1), (2**32 + 5, 2**40):
        text = list(PROMPT)
        for _ in range(11):
            logits = model.forward(text, params, CONFIG)[-1]
            text.append(sample(logits, text, Sampling(**options), seed, stream, prompt_length=len(PROMPT)))
        found = generate(PROMPT, params, CONFIG, max_new_tokens=11, seed=seed, stream=stream, **options)
        assert list(found) == text[5:]


def test_each_control_is_handed_on():
    plain = new_ids(n=11)
    for name, options in OPTIONS.items():
        if name != "plain":
            assert new_ids(n=11, **options) != plain, name


def test_greedy_takes_the_largest_logit_each_time():
    text = list(PROMPT)
    for i in generate(PROMPT, PARAMS, CONFIG, max_new_tokens=11, temperature=0):
        assert i == model.forward(text, PARAMS, CONFIG)[-1].argmax()
        text.append(i)
    assert len(text) == 16


def test_the_penalty_sees_the_prompt_and_what_is_new():
    # Of three tokens, each is taken once before any comes again: the prompt holds the first.
    forward = scripted(likely(4, 6, 8) + 10)
    found = new_ids([4], 2, forward=forward, temperature=0, repetition_penalty=100.0)
    assert found == [6, 8]


few = st.integers(0, 8)


@given(st.lists(st.integers(0, 30), min_size=1, max_size=8), st.integers(0, 2**63 - 1), few, few)
@settings(max_examples=40)
def test_randomness_belongs_to_the_position_so_a_text_resumes_as_it_would_have_gone_on(prompt, seed, n, k):
    whole = new_ids(prompt, n, seed=seed)
    assert len(whole) == n
    k = min(k, n)
    first = new_ids(prompt, k, seed=seed)
    assert first == whole[:k]
    assert new_ids(prompt + first, n - k, seed=seed) == whole[k:]


def test_the_same_seed_gives_the_same_ids_and_another_seed_or_stream_others():
    assert new_ids(n=11) == new_ids(n=11) == new_ids(n=11, stream=0)
    runs = [new_ids(n=11, seed=seed, stream=stream) for seed in range(4) for stream in range(3)]
    assert len({tuple(ids) for ids in runs}) == 12


def test_without_a_seed_every_call_gives_other_ids():
    # The chance that two are equal by accident is less than one in 10^9: no token has a probability above 1/2.
    assert len({tuple(generate(PROMPT, PARAMS, CONFIG, max_new_tokens=11)) for _ in range(3)}) == 3


def test_without_a_seed_the_seed_is_fixed_for_the_whole_text(monkeypatch):
    seeds = []

    def spy(logits, text, controls, seed, stream, position):
        seeds.append(seed)
        return sample_fast(logits, text, controls, seed, stream, position)

    monkeypatch.setattr("numgpt.decoding.rules.sample", spy)
    found = new_ids(n=11, seed=None)
    assert len(seeds) == 11
    assert len(set(seeds)) == 1
    assert 0 <= seeds[0] < 2**64
    assert found == new_ids(n=11, seed=seeds[0])


def test_two_generators_do_not_disturb_each_other():
    a, b = (generate(PROMPT, PARAMS, CONFIG, max_new_tokens=8, seed=seed) for seed in (1, 2))
    mixed = [(next(a), next(b)) for _ in range(8)]
    assert [i for i, _ in mixed] == new_ids(seed=1)
    assert [i for _, i in mixed] == new_ids(seed=2)


def test_ids_are_ints_of_python():
    for options in OPTIONS.values():
        assert {type(i) for i in new_ids(np.array(PROMPT), **options)} == {int}


@pytest.mark.parametrize("given_ids", [list(PROMPT), tuple(PROMPT), np.array(PROMPT), np.array(PROMPT, np.uint8)])
def test_the_prompt_may_be_a_list_or_an_array_and_is_not_changed(given_ids):
    before = list(given_ids)
    assert new_ids(given_ids) == new_ids()
    assert list(given_ids) == before


def test_changing_the_prompt_after_the_call_changes_nothing():
    prompt = list(PROMPT)
    steps = generate(prompt, PARAMS, CONFIG, max_new_tokens=8, seed=7)
    prompt[:] = [0, 0]
    assert list(steps) == new_ids()


def test_float64_parameters_are_computed_in_float64():
    seen = []

    def forward(*args, cache, **kwargs):
        logits = model.forward(*args, cache=cache, **kwargs)
        seen.append((cache.k.dtype, logits.dtype))
        return logits

    params = params_of(CONFIG, np.float64)
    assert len(list(generate(PROMPT, params, CONFIG, max_new_tokens=3, seed=0, forward=forward))) == 3
    assert seen == [(np.float64, np.float64)] * 3


# --- one step at a time


def test_nothing_is_computed_before_it_is_asked_for_and_each_position_once():
    forward = Counted()
    steps = generate(PROMPT, PARAMS, CONFIG, max_new_tokens=5, seed=7, forward=forward)
    assert forward.calls == []
    ids = [next(steps)]
    assert forward.calls == [(PROMPT, 0, 1)]
    while len(ids) < 5:
        ids.append(next(steps))
        assert forward.calls[-1] == (ids[-2:-1], 3 + len(ids), 1)
        assert len(forward.calls) == len(ids)
    assert run(steps) == ([], "length")
    assert len(forward.calls) == 5


def test_max_new_tokens_0_computes_nothing():
    forward = Counted()
    steps = generate(PROMPT, PARAMS, CONFIG, max_new_tokens=0, forward=forward)
    assert run(steps) == ([], "length")
    assert forward.calls == []


def test_the_forward_of_numgpt_model_is_used_unless_told(monkeypatch):
    assert numgpt.generate is generate
    assert generate.__kwdefaults__["forward"] is model.forward
    assert new_ids(n=3, forward=scripted(likely(9))) == [9, 9, 9]


@pytest.mark.parametrize("n", [1, 3, np.int64(3), np.uint8(3)])
def test_max_new_tokens_is_how_many_come_and_the_end_is_called_length(n):
    ids, end = run(generate(PROMPT, PARAMS, CONFIG, max_new_tokens=n, seed=7))
    assert ids == new_ids()[:n]
    assert end == "length"


# --- the end of the text


def test_the_end_of_text_id_ends_it_and_is_not_yielded():
    plain = new_ids(n=11)
    for at in range(11):
        eos = plain[at]
        config = CONFIG._replace(eos_token_id=eos)
        found = run(generate(PROMPT, PARAMS, config, max_new_tokens=11, seed=7))
        assert found == (plain[: plain.index(eos)], "stop")


def test_nothing_is_computed_after_the_end_of_text():
    forward, plain = Counted(), new_ids(n=5)
    assert len(set(plain[:3])) == 3
    config = CONFIG._replace(eos_token_id=plain[2])
    assert run(generate(PROMPT, PARAMS, config, max_new_tokens=5, seed=7, forward=forward)) == (plain[:2], "stop")
    assert len(forward.calls) == 3


def test_an_end_of_text_id_in_the_prompt_ends_nothing():
    config = CONFIG._replace(eos_token_id=3)
    ids, end = run(generate([3], PARAMS, config, max_new_tokens=3, temperature=0, forward=scripted(likely(5, 3))))
    assert (ids, end) == ([5, 5, 5], "length")


def test_a_model_without_an_end_of_text_id_goes_on():
    ids, end = run(generate([0], PARAMS, CONFIG, max_new_tokens=4, temperature=0, forward=scripted(likely(0))))
    assert (ids, end) == ([0, 0, 0, 0], "length")


def test_the_end_of_text_on_the_last_step_counts_as_a_stop():
    config = CONFIG._replace(eos_token_id=5)
    assert run(generate([3], PARAMS, config, max_new_tokens=1, forward=scripted(likely(5)))) == ([], "stop")


# --- the end of the context


@pytest.mark.parametrize("length", [1, 5, 15, 16])
def test_at_the_limit_of_the_context_it_ends_with_a_warning_and_every_token_that_could_be_made(length):
    # Each new token but the last needs a position of its own: 16 - length + 1 are possible.
    prompt = (PROMPT * 4)[:length]
    possible = 17 - length
    steps = generate(prompt, PARAMS, CONFIG, max_new_tokens=50, seed=7)
    message = rf"^stopped at the context limit of 16 tokens: {possible} of 50 new tokens are made$"
    with pytest.warns(UserWarning, match=message) as caught:
        ids, end = run(steps)
    assert end == "context"
    assert len(ids) == possible
    assert [warning.filename for warning in caught] == [__file__]  # it points at whoever asked


def test_the_tokens_before_the_limit_are_those_of_a_shorter_run():
    with pytest.warns(UserWarning, match="context limit"):
        ids = new_ids(n=20)
    assert ids == new_ids(n=12)
    assert len(ids) == 12


def test_just_as_many_tokens_as_fit_are_made_without_a_warning():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert run(generate(PROMPT, PARAMS, CONFIG, max_new_tokens=12, seed=7))[1] == "length"
    with pytest.warns(UserWarning, match="12 of 13 new tokens are made$"):
        assert run(generate(PROMPT, PARAMS, CONFIG, max_new_tokens=13, seed=7))[1] == "context"


def test_the_end_of_text_at_the_limit_is_a_stop_without_a_warning():
    config = CONFIG._replace(eos_token_id=5)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = run(generate([3] * 16, PARAMS, config, max_new_tokens=9, forward=scripted(likely(5))))
    assert found == ([], "stop")


# --- rows that pad the embedding


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS.keys())
def test_padding_is_never_sampled_though_its_logits_are_the_largest(options):
    config = CONFIG._replace(n_tokens=20)
    logits = np.concatenate([np.linspace(0, 1, 20), np.full(11, 1e4)])
    ids = list(generate(PROMPT, PARAMS, config, max_new_tokens=12, seed=7, forward=scripted(logits), **options))
    assert len(ids) == 12
    assert max(ids) < 20
    if options == {"temperature": 0}:
        assert ids == [19] * 12


def test_padding_changes_nothing_for_the_other_tokens():
    # The first 31 random numbers are the same for 31 tokens and for 40, so the ids are as well.
    wider = CONFIG._replace(n_vocab=40, n_tokens=31)
    params = {**PARAMS, "wte": np.concatenate([PARAMS["wte"], np.full((9, 8), 7, np.float32)])}
    assert list(generate(PROMPT, params, wider, max_new_tokens=12, seed=7)) == new_ids(n=12)


def test_without_padding_the_last_token_can_come():
    assert new_ids(n=3, forward=scripted(likely(30))) == [30, 30, 30]


def test_padding_in_the_prompt_is_no_matter_for_the_penalty():
    config = CONFIG._replace(n_tokens=20)
    assert len(list(generate([3, 20, 30], PARAMS, config, max_new_tokens=3, seed=7, repetition_penalty=1.2))) == 3


# --- what is refused, and when


def refused(**changed):
    return {"ids": PROMPT, "params": PARAMS, "config": CONFIG, "max_new_tokens": 3} | changed


BAD_COUNTS = [-1, 1.0, 2.5, "3", None, True, math.inf, np.float64(2), [3]]
BAD_KEYS = [-1, 2**64, 1.0, "3", True, [1], np.int64(-1), math.nan]
COUNT, KEY = "an integer of 0 or more", "an integer from 0 to 2^64 - 1"
BAD_OPTIONS = [("max_new_tokens", value, COUNT) for value in BAD_COUNTS]
BAD_OPTIONS += [(name, value, KEY) for name in ("seed", "stream") for value in BAD_KEYS] + [("stream", None, KEY)]
BAD_OPTIONS += [
    ("temperature", -0.5, "a finite number, 0 (greedy) or more"),
    ("top_k", -1, "an integer of 1 or more, or None or 0 for off"),
    ("top_p", 1.5, "a number above 0 and up to 1, or None for off"),
    ("min_p", 1.5, "a number from 0 to 1, or None for off"),
    ("repetition_penalty", 0, "a number from 0.001 to 1000; 1 for off"),
    *(("cache_dtype", x, "'float16', or None for that of the parameters") for x in ("float32", "int8", 16, "")),
]


@pytest.mark.parametrize(("name", "value", "expected"), BAD_OPTIONS, ids=[f"{n} {v!r}" for n, v, _ in BAD_OPTIONS])
def test_an_option_out_of_its_range_is_refused_by_the_call_itself(name, value, expected):
    with pytest.raises(OptionError) as caught:
        generate(**refused(**{name: value}))
    assert str(caught.value) == f"{name} is {value!r}, expected {expected}"


@pytest.mark.parametrize("name", ["seed", "stream"])
@pytest.mark.parametrize("value", [0, 2**53, np.int64(3), np.uint8(3)])
def test_a_seed_and_a_stream_may_be_any_integer_in_range(name, value):
    assert new_ids(**{name: value}) == new_ids(**{name: int(value)})


@pytest.mark.parametrize("name", ["seed", "stream"])
def test_the_largest_seed_and_the_largest_stream_are_in_range(name):
    generate(**refused(**{name: 2**64 - 1}))


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        ([3, -1], r"^ids\[1\] is -1, expected 0 to 30, the vocabulary of this model$"),
        ([31], r"^ids\[0\] is 31, expected 0 to 30"),
        ([], r"^ids: empty; expected one or more"),
        ("text", r"^ids: got text, expected ids: encode it first"),
        ([[1, 2]], r"^ids: expected a flat list of ids, got 2 axes"),
        ([1.0], r"^ids: expected integers, got float64$"),
    ],
)
def test_a_prompt_that_is_none_is_refused_by_the_call_itself(ids, message):
    with pytest.raises(TokenError, match=message):
        generate(**refused(ids=ids))


@pytest.mark.parametrize("n", [0, 3])
def test_a_prompt_longer_than_the_context_is_refused_by_the_call_itself(n):
    message = r"^the prompt has 17 tokens, but the context of this model is 16: shorten it, or let it slide"
    with pytest.raises(ContextError, match=message):
        generate(**refused(ids=[1] * 17, max_new_tokens=n))


@pytest.mark.parametrize("temperature", [0, 1.0])
def test_damaged_weights_are_named_when_their_logits_come(temperature):
    params = {**PARAMS, "ln_f": {"g": PARAMS["ln_f"]["g"] * np.float32("nan"), "b": PARAMS["ln_f"]["b"]}}
    steps = generate(PROMPT, params, CONFIG, max_new_tokens=3, temperature=temperature)
    with pytest.raises(CheckpointError, match=r"^the logits of position 5 are not finite \(largest: nan\): the "):
        next(steps)


def test_options_have_to_be_named():
    with pytest.raises(TypeError):
        generate(PROMPT, PARAMS, CONFIG, 3)


def test_a_cache_is_made_for_each_call_and_none_is_kept():
    caches = []

    def forward(ids, params, config, cache=None, logits_to_keep=0):
        caches.append(cache)
        return model.forward(ids, params, config, cache=cache, logits_to_keep=logits_to_keep)

    for _ in range(2):
        new_ids(n=2, forward=forward)
    assert all(isinstance(cache, KVCache) for cache in caches)
    assert caches[0] is caches[1] is not caches[2]
    assert caches[2] is caches[3]


# --- a cache that is handed in


def filled(ids, dtype=np.float32):
    """Return the cache that a pass over these ids leaves behind."""
    cache = KVCache(CONFIG, dtype=dtype)
    if ids:
        model.forward(ids, params_of(CONFIG, dtype), CONFIG, cache=cache)
    return cache


def holds(cache, ids):
    """Whether a cache holds these ids and no others. In float64, where another id is more than a rounding."""
    whole, n = filled(ids, np.float64), len(ids)
    return len(cache) == n and np.allclose(cache.k[:, :, :n], whole.k[:, :, :n])


PARAMS64 = params_of(CONFIG, np.float64)


@pytest.mark.parametrize("n", range(5))
def test_only_what_the_cache_does_not_hold_is_computed(n):
    forward, cache = Counted(), filled(PROMPT[:n], np.float64)
    found = generate(PROMPT, PARAMS64, CONFIG, max_new_tokens=3, seed=7, forward=forward, cache=cache)
    ids = list(found)
    assert ids == list(generate(PROMPT, PARAMS64, CONFIG, max_new_tokens=3, seed=7))
    assert forward.calls == [(PROMPT[n:], n, 1), (ids[:1], 5, 1), (ids[1:2], 6, 1)]


@given(
    st.lists(st.lists(st.integers(0, 30), min_size=1, max_size=3), min_size=1, max_size=4),
    st.integers(0, 2),
    st.integers(0, 3),
    st.booleans(),
)
@settings(max_examples=40)
def test_turn_after_turn_a_cache_gives_the_ids_of_a_call_without_one(turns, n, taken, guesses_wrongly):
    """Each turn is closed after `taken` ids, in the midst of a guess or not; the next goes on from there."""
    text, cache = [], KVCache(CONFIG, dtype=np.float64)
    guess = (lambda text, most: [text[0]] * min(most, 2)) if guesses_wrongly else (lambda text, most: [])
    for turn in turns:
        if len(text) + len(turn) + n > CONFIG.n_ctx:
            break
        text += turn
        options = {"max_new_tokens": n, "seed": 7, "guess": guess}
        steps = generate(text, PARAMS64, CONFIG, cache=cache, **options)
        new = [i for i, _ in zip(steps, range(taken), strict=False)]
        steps.close()
        assert new == list(generate(text, PARAMS64, CONFIG, **options))[:taken]
        text += new
        assert holds(cache, text[: len(cache)])
        assert len(cache) >= len(text) - 1 or not min(n, taken)


@pytest.mark.parametrize("n_right", [0, 1, 4])
def test_at_the_end_the_cache_holds_the_text_but_for_the_last_id_and_no_guess(n_right):
    plain = list(generate(PROMPT, PARAMS64, CONFIG, max_new_tokens=6, seed=7))

    def guess(text, most):  # some right ones, and a wrong one behind them
        right = [*PROMPT, *plain][len(text) :][:n_right]
        return [*right, 30][:most]

    for stop_ids, made, held in ([], 6, 5), ([plain[4]], 4, 4):  # an id that ends the text needs the one before
        cache = KVCache(CONFIG, dtype=np.float64)
        options = {"stop_ids": stop_ids, "guess": guess, "cache": cache}
        assert list(generate(PROMPT, PARAMS64, CONFIG, max_new_tokens=6, seed=7, **options)) == plain[:made]
        assert holds(cache, PROMPT + plain[:held])


def test_an_interruption_leaves_the_cache_at_what_was_computed():
    def forward(ids, *args, cache, **kwargs):
        logits = model.forward(ids, *args, cache=cache, **kwargs)
        if len(cache) == 7:
            raise KeyboardInterrupt
        return logits

    cache = KVCache(CONFIG, dtype=np.float64)
    steps = generate(PROMPT, PARAMS64, CONFIG, max_new_tokens=6, seed=7, forward=forward, cache=cache)
    ids = [next(steps), next(steps)]
    with pytest.raises(KeyboardInterrupt):
        next(steps)
    assert holds(cache, [*PROMPT, *ids[:1]])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"cache": filled(PROMPT)}, r"^cache holds 5 ids, expected at most 4, fewer than the text has: cache.truncate"),
        ({"cache": filled([*PROMPT, 9])}, r"^cache holds 6 ids, expected at most 4"),
        (
            {"cache": filled([1], np.float64)},
            r"^cache: made for \(2, 2, 16, 4\) float64, but this model needs \(2, 2, 16, 4\) float32 \(",
        ),
        (
            {"cache": KVCache(CONFIG._replace(n_ctx=17))},
            r"^cache: made for \(2, 2, 17, 4\) float32, but this model needs \(2, 2, 16, 4\) float32 \(",
        ),
        (
            {"cache": filled([1]), "overflow": "slide"},
            r"^cache holds .* which overflow='slide' does not keep: leave out",
        ),
        (
            {"cache": filled([1]), "num_beams": 2},
            r"^cache holds .* which num_beams does not keep: leave out one of them$",
        ),
    ],
)
def test_a_cache_that_can_not_be_of_this_text_is_refused_by_the_call_itself(change, message):
    with pytest.raises(OptionError, match=message):
        generate(**refused(**change))


# --- a cache that is kept


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS.keys())
def test_a_text_goes_on_from_what_a_cache_holds(options):
    """One text in three calls: each computes only what is new, and the ids are those without a cache."""
    cache, counted, text = KVCache(CONFIG), Counted(), PROMPT
    for n in 3, 1, 4:
        expected = new_ids(text, n, **options)
        assert new_ids(text, n, cache=cache, forward=counted, **options) == expected
        text = text + expected
        assert len(cache) == len(text) - 1
        text = [*text, 9]  # what somebody else said
    assert sum(len(ids) for ids, *_ in counted.calls) == len(cache)
    logits = model.forward(text[len(cache) :], PARAMS, CONFIG, cache=cache)
    np.testing.assert_allclose(logits, model.forward(text, PARAMS, CONFIG)[-2:], rtol=1e-4, atol=1e-4)


def test_a_cache_holds_all_of_a_text_that_ended_by_a_stop_id():
    cache = KVCache(CONFIG)
    first, second = new_ids(n=2)
    assert new_ids(n=5, cache=cache, stop_ids=[second]) == [first]
    assert len(cache) == len(PROMPT) + 1
    assert new_ids([*PROMPT, first, second], cache=cache) == new_ids([*PROMPT, first, second])


@given(st.lists(st.integers(0, 30), max_size=6), st.integers(0, 8))
def test_no_wrong_guess_stays_in_a_cache_wherever_it_is_left(guesses, taken):
    cache = KVCache(CONFIG)
    steps = generate(
        PROMPT,
        PARAMS,
        CONFIG,
        max_new_tokens=8,
        seed=7,
        cache=cache,
        guess=lambda text, most: guesses[:most],
    )
    text = PROMPT + [next(steps) for _ in range(taken)]
    steps.close()
    assert len(cache) <= len(text)
    assert len(cache) >= (len(text) - 1 if taken else 0)
    fresh = KVCache(CONFIG)
    model.forward(text, PARAMS, CONFIG, cache=fresh)
    np.testing.assert_allclose(cache.k[:, :, : len(cache)], fresh.k[:, :, : len(cache)], rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(cache.v[:, :, : len(cache)], fresh.v[:, :, : len(cache)], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("cache", "options", "message"),
    [
        (
            KVCache(CONFIG._replace(n_layer=1)),
            {},
            r"^cache: made for \(1, 2, 16, 4\) float32, .* needs \(2, 2, 16, 4\) f",
        ),
        (
            KVCache(CONFIG, np.float64),
            {},
            r"^cache: made for .* float64, .* needs .* float32 .*: KVCache\(config, .*\), or np\.float16$",
        ),
        (KVCache(CONFIG), {"overflow": "slide"}, "^cache .* which overflow='slide' does not keep: leave out one"),
        (KVCache(CONFIG), {"num_beams": 2}, "^cache .* which num_beams does not keep: leave out one of them$"),
        (
            KVCache(CONFIG, positions=7),
            {},
            "^cache has room for 7 positions, expected 8 or more: the text and max_new_",
        ),
        (KVCache(CONFIG), {"cache_dtype": "float16"}, "^cache_dtype is 'float16', but the cache has float32: leave it"),
    ],
)
def test_a_cache_that_can_not_be_gone_on_from_is_refused(cache, options, message):
    with pytest.raises(OptionError, match=message):
        generate(PROMPT, PARAMS, CONFIG, max_new_tokens=4, cache=cache, **options)


def test_a_cache_that_holds_the_whole_text_is_refused():
    cache = KVCache(CONFIG)
    model.forward(PROMPT, PARAMS, CONFIG, cache=cache)
    with pytest.raises(
        OptionError, match=r"^cache holds 5 ids, expected at most 4, fewer .*: cache.truncate\(n\) keeps"
    ):
        generate(PROMPT, PARAMS, CONFIG, max_new_tokens=1, cache=cache)
    cache.truncate(4)
    assert new_ids(cache=cache) == new_ids()
