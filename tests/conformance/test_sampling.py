"""The controls of sampling against those of Transformers: alone, together and inside its `generate`."""

import pathlib

import numpy as np
import pytest
import torch
import transformers
from support.sampling import process, sample
from transformers import GPT2Config, GPT2LMHeadModel
from transformers.generation import (
    LogitsProcessorList,
    MinNewTokensLengthLogitsProcessor,
    MinPLogitsWarper,
    NoBadWordsLogitsProcessor,
    NoRepeatNGramLogitsProcessor,
    RepetitionPenaltyLogitsProcessor,
    SequenceBiasLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

import numgpt
from numgpt.decoding.controls import Sampling, check_sampling
from numgpt.errors import OptionError
from numgpt.ops import softmax

transformers.logging.set_verbosity_error()
transformers.logging.disable_progress_bar()

COMBINATIONS = range(80)
PROMPT_LENGTH = 4
STOP_IDS = [0, 3]
LOW = -np.inf


def random_options(seed, n_vocab, greedy=False):
    """Return options of which each is on in about half of all cases. Biases are multiples of 1/8: exact in float32."""
    draw = np.random.default_rng(seed)

    def some_ids(longest):
        # Mostly low ids, of which the texts are made, so that sequences are often met.
        return tuple(draw.integers(min(n_vocab, 8), size=int(draw.integers(1, longest + 1))).tolist())

    values = {
        "logit_bias": {some_ids(3): float(draw.integers(-40, 40)) / 8 for _ in range(12)},
        "repetition_penalty": float(draw.uniform(0.6, 1.8)),
        "no_repeat_ngram_size": int(draw.integers(2 if greedy else 1, 5)),  # 1 would soon run out of tokens
        "bad_words": [list(some_ids(3)) for _ in range(8)],
        "min_new_tokens": int(draw.integers(1, 20)),
    }
    if not greedy:
        values |= {
            "temperature": float(draw.uniform(0.3, 2)),
            "top_k": int(draw.integers(1, 30)),
            "top_p": float(draw.uniform(0.3, 1)),
            "min_p": float(draw.uniform(0, 0.3)),
        }
    return {name: value for name, value in values.items() if draw.random() < 0.5}


def random_case(seed, dtype):
    """Return logits, a text of few different ids, and options."""
    draw = np.random.default_rng(1000 + seed)
    n_vocab = int(draw.integers(6, 120))
    logits = (draw.standard_normal(n_vocab) * draw.choice([0.5, 2, 8])).astype(dtype)
    ids = draw.integers(min(n_vocab, 5), size=int(draw.integers(PROMPT_LENGTH, 25))).tolist()
    return logits, ids, random_options(seed, n_vocab)


def theirs(logits, ids, options):
    """Process the logits with the processors of Transformers, in the order in which its `generate` has them."""
    makers = {
        "logit_bias": SequenceBiasLogitsProcessor,
        "repetition_penalty": RepetitionPenaltyLogitsProcessor,
        "no_repeat_ngram_size": NoRepeatNGramLogitsProcessor,
        "bad_words": lambda words: NoBadWordsLogitsProcessor(words, STOP_IDS),
        "min_new_tokens": lambda n: MinNewTokensLengthLogitsProcessor(PROMPT_LENGTH, n, STOP_IDS),
        "temperature": TemperatureLogitsWarper,
        "top_k": TopKLogitsWarper,
        "top_p": TopPLogitsWarper,
        "min_p": MinPLogitsWarper,
    }
    processors = LogitsProcessorList(make(options[name]) for name, make in makers.items() if name in options)
    return processors(torch.as_tensor(ids)[None], torch.as_tensor(logits)[None])[0].numpy()


def ours(logits, ids, options):
    options = check_sampling(Sampling(**options), n_vocab=len(logits))
    return process(logits, ids, options, prompt_length=PROMPT_LENGTH, stop_ids=STOP_IDS)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("seed", COMBINATIONS)
def test_processed_logits_of_random_combinations_are_those_of_transformers(seed, dtype):
    logits, ids, options = random_case(seed, dtype)
    before = logits.copy()
    expected = theirs(logits, ids, options)
    found = ours(logits, ids, options)
    assert found.dtype == expected.dtype == dtype
    assert np.array_equal(np.isfinite(found), np.isfinite(expected))
    kept = np.isfinite(found)
    if "temperature" in options:  # ours is shifted to have its largest logit at 0, which changes no probability
        expected = expected - expected.max()
    limit = 8 * np.finfo(dtype).eps * np.abs(expected[kept]).max() + 8 * np.finfo(dtype).eps * np.abs(logits).max()
    np.testing.assert_allclose(found[kept], expected[kept], rtol=0, atol=limit / min(options.get("temperature", 1), 1))
    assert np.array_equal(logits, before), "an argument was modified"


def test_each_control_decides_something_in_some_of_the_combinations():
    elsewhere = {"presence_penalty", "frequency_penalty", "green_list", "ban", "regex", "begins_with"}  # not in there
    effects = dict.fromkeys(set(Sampling._fields) - elsewhere, 0)
    for seed in COMBINATIONS:
        logits, ids, options = random_case(seed, np.float64)
        result = ours(logits, ids, options)
        for name in options:
            without = ours(logits, ids, {other: value for other, value in options.items() if other != name})
            effects[name] += not np.array_equal(result, without)
    assert min(effects.values()) >= 5, effects


@pytest.mark.parametrize("options", [{"no_repeat_ngram_size": 1}, {"bad_words": [[i] for i in range(5)] + [[3, 0]]}])
def test_where_transformers_leaves_no_token_an_error_says_so(options):
    logits, ids = np.zeros(5), [0, 1, 2, 3, 4, 3]
    options = options | {"min_new_tokens": 9}
    assert (theirs(logits, ids, options) == LOW).all()
    with pytest.raises(OptionError, match="no token is left"):
        ours(logits, ids, options)


# Inside generate


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """A small model of Transformers in float64, and numgpt's of it."""
    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=30, n_positions=48, n_embd=16, n_head=2, n_layer=2, eos_token_id=3, bos_token_id=3,
        initializer_range=0.5,
    )  # fmt: skip
    model = GPT2LMHeadModel(config).to(torch.float64).eval()
    folder = tmp_path_factory.mktemp("model")
    model.save_pretrained(folder)
    return model, numgpt.load(folder, dtype="float64")


def generate(model, ids, options, **more):
    """Run Transformers' generate with our options under its names."""
    names = {"logit_bias": "sequence_bias", "bad_words": "bad_words_ids"}
    return model.generate(
        torch.as_tensor(ids)[None],
        attention_mask=torch.ones(1, len(ids), dtype=torch.long),
        pad_token_id=3,
        **{names.get(name, name): value for name, value in options.items()},
        **more,
    )


@pytest.mark.parametrize("seed", range(30))
def test_greedy_ids_under_random_controls_are_those_of_generate(seed, models):
    model, m = models
    draw = np.random.default_rng(seed)
    prompt = draw.integers(30, size=PROMPT_LENGTH).tolist()
    options = random_options(seed, 30, greedy=True)
    expected = generate(model, prompt, options, max_new_tokens=40, do_sample=False)[0].tolist()
    checked = check_sampling(Sampling(temperature=0, **options), n_vocab=30)
    where = {"prompt_length": len(prompt), "stop_ids": [3]}
    text = list(prompt)
    while len(text) < 44 and (len(text) == 4 or text[-1] != 3):
        logits = numgpt.forward(text, m.params, m.config, logits_to_keep=1)[-1]
        first, second = np.sort(process(logits, text, checked, **where))[:-3:-1]
        assert first - second > 1e-4, "too close a race to be decided by float32, in which generate processes"
        text.append(sample(logits, text, checked, **where))
    assert text == expected


@pytest.mark.parametrize("seed", range(30))
def test_what_is_left_under_random_controls_is_what_generate_draws_from(seed, models):
    """Transformers itself puts its processors in order here. Only the first token is looked at."""
    model, _ = models
    draw = np.random.default_rng(seed)
    ids = draw.integers(8, size=12).tolist()
    options = {"top_k": 0} | random_options(500 + seed, 30)  # its default is 50, which is off here too
    out = generate(
        model, ids, options, max_new_tokens=20, do_sample=True,
        output_scores=True, output_logits=True, return_dict_in_generate=True,
    )  # fmt: skip
    logits = out.logits[0][0].numpy()
    checked = check_sampling(Sampling(**options), n_vocab=30)
    found = softmax(process(logits.astype(np.float64), ids, checked, prompt_length=12, stop_ids=[3]))
    expected = softmax(out.scores[0][0].double().numpy())
    assert np.array_equal(found > 0, expected > 0)
    np.testing.assert_allclose(found, expected, rtol=1e-4)


@pytest.fixture(scope="module")
def storyteller():
    folder = pathlib.Path(__file__).parents[2] / "weights" / "storyteller"
    return GPT2LMHeadModel.from_pretrained(folder, dtype=torch.float64).eval(), numgpt.load(folder, dtype="float64")


@pytest.mark.parametrize("seed", range(50))
def test_trained_weights_give_the_greedy_ids_of_generate_under_random_controls(seed, storyteller):
    model, m = storyteller
    draw = np.random.default_rng(seed)
    text = ["Once upon a time", "The king said to his", "There was", "She went into the forest"][seed % 4]
    prompt = m.tokenizer.encode(text)
    common = m.tokenizer.encode(" the a and was to , . he she it of in his her little old man said had")

    def some_ids(longest):
        return tuple(draw.choice(common, size=int(draw.integers(1, longest + 1))).tolist())

    values = {
        "logit_bias": {some_ids(2): float(draw.integers(-40, 40)) / 8 for _ in range(12)},
        "repetition_penalty": float(draw.uniform(0.8, 1.8)),
        "no_repeat_ngram_size": int(draw.integers(1, 5)),
        "bad_words": [list(some_ids(2)) for _ in range(8)],
        "min_new_tokens": int(draw.integers(1, 30)),
    }
    options = {name: value for name, value in values.items() if draw.random() < 0.6}
    names = {"logit_bias": "sequence_bias", "bad_words": "bad_words_ids"}
    expected = model.generate(
        torch.tensor([prompt]),
        attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
        pad_token_id=m.config.eos_token_id,
        do_sample=False,
        max_new_tokens=30,
        **{names.get(name, name): value for name, value in options.items()},
    )[0, len(prompt) :].tolist()
    found = list(numgpt.generate(prompt, m.params, m.config, temperature=0, max_new_tokens=30, **options))
    assert found == [i for i in expected if i != m.config.eos_token_id]
