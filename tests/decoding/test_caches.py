"""What a text keeps: keys and values of float16, with the same ids however it is made; and no more than it may need.

The truth is the plain loop over whole texts, without a cache, in which `record` rounds all keys and values. Parameters
are float64, so that no two ways of adding the same numbers round a key to different sides.
"""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.sampling import sample

import numgpt
from numgpt import fast, model
from numgpt.apps.chat import Chat, transcript
from numgpt.cache import KVCache
from numgpt.config import Config
from numgpt.decoding.batch import NEAR_ROUNDED, complete_batch, generate_batch
from numgpt.decoding.beam import beam_search
from numgpt.decoding.controls import Sampling
from numgpt.decoding.lookup import PromptLookup
from numgpt.decoding.loop import generate
from numgpt.measure.scoring import likeliest, log_prob, score
from numgpt.params import map_leaves, random_params

CONFIG = Config(n_vocab=11, n_ctx=24, n_embd=12, n_head=3, n_layer=2, eos_token_id=None)


def wide(config, seed=0, spread=0.4, sharp=1):
    """Parameters at which attention has favourites; the sharper, the more it makes of the last digits of a key."""
    dice = np.random.default_rng(seed)

    def leaf(path, x):
        return (x + dice.normal(scale=spread, size=x.shape)) * (sharp if ".c_attn." in path else 1)

    return map_leaves(leaf, random_params(config, dtype="float64"))


PARAMS = wide(CONFIG, sharp=8)
ROUNDED = {"cache_dtype": "float16"}
STORY = numgpt.load("storyteller")
TALE = STORY.tokenizer.encode(
    "Once upon a time there was a king who had three sons. The eldest said to his father: I will go out into the "
    "world and seek my fortune. So the king gave him a horse and a sword, and he rode away into the great forest."
)


def rounding(name, x):
    """Record that does to keys and values what a cache of float16 does."""
    return x.astype(np.float16).astype(x.dtype) if name.endswith((".k", ".v")) else x


def plain(prompt, n, seed, temperature, record=rounding):
    """The new ids of a text, each from a pass over all of it."""
    text = list(prompt)
    for _ in range(min(n, CONFIG.n_ctx - len(text) + 1)):
        logits = model.forward(text, PARAMS, CONFIG, record=record)[-1]
        text.append(sample(logits, text, Sampling(temperature=temperature), seed, 0))
    return text[len(prompt) :]


prompts = st.lists(st.integers(0, 10), min_size=1, max_size=24)


@pytest.mark.filterwarnings("ignore:stopped at the context limit")
@given(prompts, st.integers(0, 26), st.integers(0, 2**32), st.sampled_from([0, 1.0]), st.data())
def test_all_ways_to_make_a_text_give_the_same_ids(prompt, n, seed, temperature, data):
    options = {"seed": seed, "temperature": temperature, **ROUNDED}

    def made(ids=prompt, n=n, **how):
        return list(generate(ids, PARAMS, CONFIG, max_new_tokens=n, **options, **how))

    expected = plain(prompt, n, seed, temperature)
    assert made() == expected
    assert made(forward=fast.forward) == expected
    assert made(forward=fast.forward, guess=PromptLookup()) == expected
    guesses = data.draw(st.lists(st.integers(0, 10), min_size=30, max_size=30))
    assert made(guess=lambda text, most: guesses[:most]) == expected
    oracle = [*prompt, *expected]
    assert made(guess=lambda text, most: oracle[len(text) :][:most]) == expected
    done = data.draw(st.integers(0, len(expected)))
    if len(prompt) + done <= CONFIG.n_ctx:
        assert made(prompt + expected[:done], n - done) == expected[done:]
    others = data.draw(st.lists(prompts, max_size=3))
    assert generate_batch([prompt, *others], PARAMS, CONFIG, max_new_tokens=n, **options)[0] == expected
    cache = KVCache(CONFIG, np.float16)
    model.forward(prompt[:-1] or prompt, PARAMS, CONFIG, cache=cache)
    cache.truncate(len(prompt) - 1)
    assert list(generate(prompt, PARAMS, CONFIG, max_new_tokens=n, cache=cache, **options)) == expected


def test_rounding_is_seen_at_all():
    """Somewhere it decides: or the test above would hold without the option."""
    prompts = [[i, j] for i in range(11) for j in range(3)]
    assert any(plain(p, 23, 0, 1.0) != plain(p, 23, 0, 1.0, model.identity) for p in prompts)


@given(st.lists(st.integers(0, 10), min_size=1, max_size=40), st.integers(1, 40))
def test_a_context_that_slides_computes_its_half_anew(prompt, n):
    def made(**options):
        return list(
            generate(prompt, PARAMS, CONFIG, max_new_tokens=n, temperature=0, overflow="slide", **ROUNDED, **options)
        )

    expected = made()
    assert len(expected) == n
    assert made(forward=fast.forward, guess=PromptLookup()) == expected
    options = {"max_new_tokens": n, "temperature": 0, "overflow": "slide", **ROUNDED}
    assert generate_batch([prompt], PARAMS, CONFIG, **options) == [expected]


@given(st.lists(st.integers(0, 10), min_size=1, max_size=24), st.integers(1, 5))
def test_the_score_of_a_beam_is_that_of_its_text(prompt, n):
    for found in beam_search(prompt, PARAMS, CONFIG, max_new_tokens=n, num_beams=3, num_return_sequences=3, **ROUNDED):
        text = [*prompt, *found.ids]
        logits = model.forward(text[:-1], PARAMS, CONFIG, record=rounding)[-len(found.ids) :]
        total = sum(log_prob(row, i) for row, i in zip(logits, found.ids, strict=True))
        assert found.score == pytest.approx(total / len(found.ids), abs=1e-9)


def test_a_score_is_that_of_rounded_keys_and_values(monkeypatch):
    monkeypatch.setattr("numgpt.measure.scoring.ROWS", 5)
    tiny = numgpt.Model(CONFIG, PARAMS, None)
    ids = np.random.default_rng(2).integers(0, 11, 24).tolist()
    logits = model.forward(ids, PARAMS, CONFIG, record=rounding)
    expected = [log_prob(row, i) for row, i in zip(logits, ids[1:], strict=False)]
    np.testing.assert_allclose(score(tiny, ids, **ROUNDED).log_probs[1:], expected, rtol=0, atol=1e-10)
    assert [x for x, _ in likeliest(tiny, ids, 1, 2, **ROUNDED)] == pytest.approx(expected, abs=1e-10)
    assert abs(score(tiny, ids).log_probs[1:] - expected).max() > 1e-6


# --- what it costs


def test_the_logits_of_the_storyteller_move_by_a_hundredth_at_most():
    """They spread by 4, and rounding moves them by 0.0004, root mean square."""
    exact = fast.forward(TALE, STORY.params, STORY.config)
    moved = fast.forward(TALE, STORY.params, STORY.config, KVCache(STORY.config, np.float16)) - exact
    assert exact.std() > 3
    assert 1e-5 < np.sqrt((moved**2).mean()) < 1e-3
    assert abs(moved).max() < 1e-2


@given(st.integers(0, 2**32), st.integers(1, 3), st.sampled_from([1, 3]), st.floats(0.2, 1))
def test_the_logits_of_any_model_move_by_a_few_roundings_of_keys_and_values(seed, n_layer, n_head, spread):
    config = CONFIG._replace(n_layer=n_layer, n_head=n_head)
    params, ids = wide(config, seed, spread), np.random.default_rng(seed).integers(0, 11, 24)
    exact = model.forward(ids, params, config)
    moved = model.forward(ids, params, config, KVCache(config, np.float16)) - exact
    assert 0 < np.sqrt((moved**2).mean()) < 2**-11 * 8 * exact.std()


@given(st.lists(st.integers(1, 20), min_size=1, max_size=5))
def test_in_float32_no_cut_of_a_text_moves_the_logits_by_more_than_a_part_of_what_rounding_does(lengths):
    """A last digit of float32 may decide to which side a key is rounded, so that cuts are not equal to the last digit,
    as they are without float16. `decoding.batch.NEAR_ROUNDED` is far above that."""
    ids = TALE[: sum(lengths)]
    exact = fast.forward(ids, STORY.params, STORY.config)
    whole = fast.forward(ids, STORY.params, STORY.config, KVCache(STORY.config, np.float16))
    cache = KVCache(STORY.config, np.float16)
    parts = [
        fast.forward(part, STORY.params, STORY.config, cache) for part in np.split(ids, np.cumsum(lengths)) if len(part)
    ]
    moved = np.concatenate(parts) - whole
    assert abs(moved).max() < NEAR_ROUNDED / 3
    assert np.sqrt((moved**2).mean()) < 0.5 * np.sqrt(((whole - exact) ** 2).mean())


# --- no more room than a text may need


@pytest.fixture
def made(monkeypatch):
    """The shapes and dtypes of all caches that are made, and how much of each was filled at most."""
    seen = []

    class Watched(KVCache):
        def __init__(self, *arguments, **options):
            super().__init__(*arguments, **options)
            seen.append(self)
            self.most = 0

        def advance(self, n):
            super().advance(n)
            self.most = max(self.most, len(self))

    for home in "decoding.rules", "measure.scoring", "apps.chat", "decoding.batch":
        monkeypatch.setattr(f"numgpt.{home}.KVCache", Watched)
    return seen


@pytest.mark.filterwarnings("ignore:stopped at the context limit")
@pytest.mark.parametrize("dtype", [None, "float16"])
@pytest.mark.parametrize("how", ["loop", "guesses", "slide", "batch", "beams"])
@pytest.mark.parametrize(
    ("length", "n"), [(1, 1), (1, 5), (7, 1), (7, 17), (7, 18), (7, 19), (7, 40), (23, 1), (24, 3)]
)
def test_a_cache_has_room_for_the_text_and_what_may_come_and_no_more(made, how, length, n, dtype):
    prompt = [i % 11 for i in range(length)]
    options = {"max_new_tokens": n, "temperature": 0, "cache_dtype": dtype}
    if how == "batch":
        list(complete_batch([prompt, prompt[:1]], PARAMS, CONFIG, **options))
    elif how == "beams":
        beam_search(prompt, PARAMS, CONFIG, num_beams=3, **options)
    else:
        ways = {"guesses": {"guess": lambda text, most: [0] * most}, "slide": {"overflow": "slide"}}
        list(generate(prompt, PARAMS, CONFIG, **options, **ways.get(how, {})))
    needed = min(length + n - 1, 24)
    assert made[0].k.shape == made[0].v.shape == (2, 3, needed, 4)
    assert made[0].k.dtype == made[0].v.dtype == (dtype or np.float64)
    assert made[0].most == needed
    assert made[-1].most == made[-1].k.shape[2]


@pytest.mark.parametrize(("length", "options"), [(9, {}), (60, {"context": 8, "stride": 3}), (60, {})])
def test_a_score_keeps_a_window_less_its_last_token(made, length, options):
    ids = np.arange(length) % 11
    score(numgpt.Model(CONFIG, PARAMS, None), ids, **options, **ROUNDED)
    assert made[0].k.shape == (2, 3, min(length, options.get("context", 24)) - 1, 4)
    assert all(cache.most == cache.k.shape[2] or len(made) > 1 for cache in made)
    assert {cache.k.dtype for cache in made} == {np.dtype(np.float16)}


def test_nothing_is_kept_where_nothing_is_made(made):
    assert list(generate([1, 2], PARAMS, CONFIG, max_new_tokens=np.uint8(0))) == []
    assert len(list(generate([1] * 5, PARAMS, CONFIG, max_new_tokens=np.uint8(4)))) == 4
    assert made[-1].k.shape[2] == 8


def test_a_chat_keeps_the_dtype_of_its_cache(made):
    """It has room for the whole context, as nobody knows how much will be said."""
    chat = Chat(STORY, transcript(STORY), {"seed": 1, **ROUNDED}, max_new_tokens=5)
    assert "".join(chat.reply("Who are you?"))
    assert "".join(chat.reply("And who else?"))
    [cache] = made
    assert cache.k.dtype == np.float16
    assert cache.k.shape[2] == STORY.config.n_ctx
    assert len(cache) >= len(chat.ids()) - 3
