"""A second opinion: the same text as by whole passes over all rows, without any cache."""

import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.cli import call
from support.dumps import wide_params

import numgpt
from numgpt.config import Config
from numgpt.decoding.batch import complete_batch
from numgpt.decoding.lookup import PromptLookup
from numgpt.decoding.rules import check_rules
from numgpt.decoding.steering import Steering, combine, contrast, experts, guidance
from numgpt.errors import ContextError, OptionError, TokenError
from numgpt.model import Model
from numgpt.ops import softmax
from numgpt.sampling import OfLogits, sample, temperature

CONFIG = Config(n_vocab=31, n_ctx=32, n_embd=12, n_head=3, n_layer=2, eos_token_id=None)
OTHER = Config(n_vocab=31, n_ctx=40, n_embd=6, n_head=2, n_layer=1, eos_token_id=None)


def model_of(config, seed):
    params = wide_params(config, seed)
    params["wte"] *= np.float32(0.5)
    return Model(config, params, None)


MODEL, SMALL, THIRD = model_of(CONFIG, 0), model_of(OTHER, 1), model_of(OTHER, 2)
PROMPT, NEGATIVE = [3, 1, 4, 1, 5], [9, 2, 6, 5, 3, 5, 8, 9]


def log_p(model, ids):
    logits = numgpt.forward(ids, model.params, model.config)[-1].astype(np.float64)
    return np.log(softmax(logits))


def plainly(row_of, n, seed, prompt=PROMPT):
    """The text that is drawn from rows which a function makes of the prompt and what is new."""
    text = list(prompt)
    for _ in range(n):
        text.append(sample(row_of(text[len(prompt) :]), text, [OfLogits(temperature, 0.9)], seed, stream=2))
    return text[len(prompt) :]


def by_guidance(scale, negative):
    other = list(negative) if negative else PROMPT[-1:]
    return lambda new: scale * log_p(MODEL, PROMPT + new) + (1 - scale) * log_p(MODEL, other + new)


def by_contrast(new):
    expert, amateur = log_p(MODEL, PROMPT + new), log_p(SMALL, PROMPT + new)
    return np.where(expert < expert.max() + math.log(0.1), -math.inf, 1.5 * expert - 0.5 * amateur)


def by_experts(new):
    return log_p(MODEL, PROMPT + new) + 2 * (log_p(SMALL, PROMPT + new) - log_p(THIRD, PROMPT + new))


def by_anti_expert(new):
    return 3 * log_p(MODEL, PROMPT + new) - 2 * log_p(THIRD, PROMPT + new)


WAYS = {
    "guidance": (by_guidance(1.8, None), {"guidance_scale": 1.8}),
    "less": (by_guidance(0.4, None), {"guidance_scale": 0.4}),
    "negative": (by_guidance(2.5, NEGATIVE), {"guidance_scale": 2.5, "negative_prompt": NEGATIVE}),
    "contrast": (by_contrast, {"steering": contrast(SMALL)}),
    "experts": (by_experts, {"steering": experts(SMALL, THIRD)}),
    "anti-expert": (by_anti_expert, {"steering": experts(None, THIRD)}),
}  # fmt: skip


@pytest.mark.parametrize(("row_of", "options"), WAYS.values(), ids=WAYS.keys())
def test_the_text_is_that_of_whole_passes_whether_alone_guessed_or_in_a_batch(row_of, options):
    for seed in range(3):
        expected = plainly(row_of, 14, seed)
        asked = {"max_new_tokens": 14, "seed": seed, "temperature": 0.9, **options}
        for guess in PromptLookup(), lambda text, most: [7, 7, 7][:most]:
            found = numgpt.generate(PROMPT, MODEL.params, MODEL.config, stream=2, guess=guess, **asked)
            assert list(found) == expected
        others = [[1, 2], [8] * 9]
        done = {c.number: c.ids for c in complete_batch([*others, PROMPT], MODEL.params, MODEL.config, **asked)}
        assert done[2] == expected


@settings(max_examples=20)
@given(st.lists(st.lists(st.floats(-5, 5), min_size=4, max_size=4), min_size=2, max_size=3), st.data())
def test_rows_are_added_up_by_their_weights(rows, data):
    weights = [data.draw(st.floats(-3, 3)) for _ in rows]
    rows = [np.array(row) for row in rows]
    found = softmax(combine(rows, weights))
    product = np.prod([softmax(row) ** weight for row, weight in zip(rows, weights, strict=True)], axis=0)
    np.testing.assert_allclose(found, product / product.sum(), rtol=1e-9)


def test_what_is_far_from_likely_is_left_out():
    rows = [np.log([0.6, 0.3, 0.06, 0.04]), np.log([0.9, 0.05, 0.03, 0.02])]
    found = combine(rows, [1, -1], plausible=0.1)
    np.testing.assert_allclose(found, [math.log(0.6 / 0.9), math.log(6), math.log(2), -math.inf])


def test_a_scale_of_1_and_weights_of_nothing_change_nothing():
    plain = list(numgpt.generate(PROMPT, MODEL.params, MODEL.config, max_new_tokens=9, seed=1))
    for options in {"guidance_scale": 1}, {"steering": Steering(1.0, ())}, {"steering": contrast(SMALL, 0, 0)}:
        assert list(numgpt.generate(PROMPT, MODEL.params, MODEL.config, max_new_tokens=9, seed=1, **options)) == plain


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"guidance_scale": math.nan}, OptionError, "guidance_scale is nan, expected a number from -100 to 100"),
        ({"guidance_scale": "2"}, OptionError, "guidance_scale is '2'"),
        ({"negative_prompt": [1]}, OptionError, "give that too"),
        ({"guidance_scale": 2, "negative_prompt": "a"}, OptionError, "needs the model's tokenizer"),
        ({"guidance_scale": 2, "negative_prompt": [31]}, TokenError, "negative_prompt: ids.0. is 31"),
        ({"guidance_scale": 2, "negative_prompt": [1] * 33}, ContextError, "negative_prompt has 33 tokens"),
        ({"guidance_scale": 2, "num_beams": 2}, OptionError, "which num_beams does not go with"),
        ({"guidance_scale": 2, "overflow": "slide"}, OptionError, "which overflow='slide' does not go with"),
        ({"guidance_scale": 2, "steering": contrast(SMALL)}, OptionError, "which steering does not go with"),
        ({"steering": contrast(model_of(OTHER._replace(n_vocab=30, n_tokens=30), 3))}, OptionError, "30 tokens"),
    ],
)
def test_what_does_not_go_together_is_refused(options, error, words):
    with pytest.raises(error, match=words):
        check_rules(CONFIG, max_new_tokens=5, **options)


def test_a_model_that_can_t_see_the_whole_prompt_is_refused():
    short = model_of(OTHER._replace(n_ctx=4), 1)
    with pytest.raises(ContextError, match="a prompt of 5 tokens, but the context of that model is 4"):
        list(numgpt.generate(PROMPT, MODEL.params, MODEL.config, max_new_tokens=2, steering=contrast(short)))
    with pytest.raises(OptionError, match="an expert, an anti-expert or both"):
        experts()
    with pytest.raises(OptionError, match="strength is -1"):
        contrast(SMALL, -1)
    assert guidance(MODEL, 2).opinions[0].prompt == ()


def test_a_job_may_be_guided_and_a_line_otherwise(tmp_path, capsys):
    story = numgpt.load("storyteller")
    lines = [{"prompt": "The king"}, {"prompt": "The king", "guidance_scale": 3, "negative_prompt": "A fox"}]
    source, output = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_text("".join(json.dumps(line) + "\n" for line in lines))
    flags = ["-n", "8", "--seed", "2", "--guidance-scale", "1.5"]
    assert call(capsys, "generate", "--input", source, "--output", output, *flags)[0] == 0
    found = [json.loads(line)["text"] for line in output.read_text().splitlines()]
    options = {"max_new_tokens": 8, "seed": 2, "temperature": 0.8, "top_k": 40}
    assert found[0] == numgpt.complete(story, "The king", stream=1, guidance_scale=1.5, **options)
    other = {"guidance_scale": 3, "negative_prompt": "A fox"}
    assert found[1] == numgpt.complete(story, "The king", stream=2, **other, **options)
