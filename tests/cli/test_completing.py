"""`numgpt generate`: what it shows, how it is steered, and where a text ends."""

import json
import re

import numpy as np
import pytest
from support.checkpoints import TOKENS, hub_tensors
from support.cli import call, fails, pipe_in, tiny

import numgpt
from numgpt.cli import main as cli
from numgpt.decoding.beam import beam_search
from numgpt.decoding.steering import contrast, experts

pytestmark = pytest.mark.usefixtures("storyteller_once")
STORY = ["generate", "Once upon a time", "--seed", "1", "-n", "20"]


def test_generate_shows_the_prompt_and_the_same_story_each_time(capsys):
    code, out, _ = call(capsys, *STORY)
    assert code == 0
    assert out.startswith("Once upon a time")
    assert out.endswith("\n")
    assert call(capsys, *STORY)[1] == out
    assert call(capsys, *STORY[:-3], "2", *STORY[-2:])[1] != out


def test_generate_ends_with_a_line_on_the_speed_which_q_silences(capsys):
    err = call(capsys, *STORY)[2]
    tokens, seconds, rate = [float(word) for word in err.replace("numgpt: ", "").split() if word[0].isdigit()][:3]
    assert tokens == 20
    assert rate == pytest.approx(tokens / seconds, rel=0.2)
    assert call(capsys, *STORY, "-q")[2] == ""


def test_a_seed_that_was_drawn_is_told_and_makes_the_same_text(capsys):
    _, out, err = call(capsys, "generate", "The king", "-n", "20")
    seed = err.split("seed ")[1].split()[0]
    assert call(capsys, "generate", "The king", "-n", "20", "--seed", seed)[1] == out


def test_generate_equals_the_library(capsys):
    model = numgpt.load("storyteller")
    ids = model.tokenizer.encode("The king")
    options = {"temperature": 0.7, "top_k": 30, "top_p": 0.9, "min_p": 0.01, "repetition_penalty": 1.1, "seed": 3}
    options |= {"presence_penalty": 0.3, "frequency_penalty": 0.2}
    new = list(numgpt.generate(ids, model.params, model.config, max_new_tokens=15, **options))
    flags = [part for name, value in options.items() for part in (f"--{name.replace('_', '-')}", str(value))]
    result = json.loads(call(capsys, "generate", "The king", "-n", "15", *flags, "--json")[1])
    assert result["ids"] == new
    assert result["text"] == model.tokenizer.decode(new)
    assert result["prompt"] == "The king"
    assert result["finish_reason"] == "length"
    assert result["seed"] == 3


def test_text_appears_piece_by_piece(monkeypatch):
    flushed = []
    monkeypatch.setattr("builtins.print", lambda *a, **k: flushed.append((a, k.get("flush"))))
    assert cli.main([*STORY, "-q"]) == 0
    assert len(flushed) > 15
    assert all(flush for _, flush in flushed)


def test_the_prompt_may_come_from_standard_input_less_its_last_line_end(capsys, monkeypatch):
    pipe_in(monkeypatch, b"Once upon a time\n")
    assert call(capsys, "generate", "-", *STORY[2:])[1] == call(capsys, *STORY)[1]
    assert call(capsys, "generate", "a\n\n", "-n", "0")[1] == "a\n\n"


def test_an_empty_prompt_starts_from_end_of_text(capsys):
    model = numgpt.load("storyteller")
    new = list(numgpt.generate([4095], model.params, model.config, max_new_tokens=9, temperature=0))
    for prompt in [], [""]:
        result = json.loads(call(capsys, "generate", *prompt, "-n", "9", "--temperature", "0", "--json")[1])
        assert result["ids"] == new


def test_an_empty_prompt_without_an_end_of_text_is_refused(capsys, tmp_path):
    assert "no end-of-text to start from: give some text" in fails(capsys, "generate", "-m", tiny(tmp_path))


def test_generation_stops_at_the_context_limit_and_says_so(capsys, tmp_path):
    code, out, err = call(capsys, "generate", "abc", "-m", tiny(tmp_path), "-n", "100", "--json")
    assert code == 0
    assert json.loads(out)["finish_reason"] == "context"
    assert len(json.loads(out)["ids"]) == 7 - 3 + 1  # the last one needs no position, as nothing follows it
    assert "numgpt: stopped at the context limit of 7 tokens (--overflow slide goes on)\n" in err


def test_a_prompt_longer_than_the_context_is_refused_with_both_numbers(capsys, tmp_path):
    folder = tiny(tmp_path)
    assert call(capsys, "generate", "abcdefg", "-m", folder)[0] == 0
    message = "the prompt has 8 tokens, but the context of this model is 7"
    assert message in fails(capsys, "generate", "abcdefgh", "-m", folder)


@pytest.mark.parametrize(
    ("flag", "value", "message"),
    [
        ("--temperature", "-1", "temperature is -1.0, expected a finite number, 0 (greedy) or more"),
        ("--temperature", "nan", "temperature is nan"),
        ("--top-k", "-1", "--top-k is -1, expected an integer of 1 or more"),
        ("--top-p", "0", "--top-p is 0.0, expected a number above 0 and up to 1"),
        ("--min-p", "1.1", "--min-p is 1.1, expected a number from 0 to 1"),
        ("--repetition-penalty", "0", "--repetition-penalty is 0.0, expected a number from 0.001 to 1000"),
        ("--seed", "-5", "seed is -5, expected an integer from 0 to 2^64 - 1"),
        ("-n", "-1", "--max-new-tokens is -1, expected an integer of 0 or more"),
    ],
)
def test_an_option_out_of_range_is_named_with_its_range(capsys, babbler, flag, value, message):
    assert message in fails(capsys, "generate", "x", "-m", babbler, flag, value)


def test_damaged_weights_are_told_instead_of_printing_noise(capsys, tmp_path):
    tensors = hub_tensors(TOKENS)
    tensors["h.0.mlp.c_fc.weight"][1, 2] = np.nan
    folder = tiny(tmp_path, tensors=tensors)
    code, _, err = call(capsys, "generate", "a", "-m", folder, "-q")
    assert code == 1
    assert err.startswith("numgpt: error: the logits of position 1 are not finite (largest: nan)")
    row = next(line for line in call(capsys, "inspect", "-m", folder)[1].splitlines() if "h.0.mlp.c_fc.weight" in line)
    assert row.endswith("6 x 10   1 NOT FINITE")


def test_a_checkpoint_without_a_tokenizer_says_what_is_missing(capsys, tmp_path):
    folder = tiny(tmp_path, tokenizer=False)
    for command in "generate", "tokenize":
        assert "no tokenizer of GPT-2's kind (vocab.json and merges.txt" in fails(capsys, command, "x", "-m", folder)


def test_a_text_ends_before_a_stop_string(capsys):
    _, whole, _ = call(capsys, "generate", "Once upon a time there", "--temperature", "0", "-n", "12", "-q")
    assert " many years old" in whole
    _, out, _ = call(
        capsys,
        "generate",
        "Once upon a time there",
        "--temperature",
        "0",
        "-n",
        "12",
        "-q",
        "--stop",
        "ny ye",
        "--json",
    )
    assert json.loads(out)["text"] == " was a great ma"
    assert json.loads(out)["finish_reason"] == "stop"


def test_several_texts_are_those_of_their_streams(capsys):
    options = ("generate", "The king", "--seed", "2", "-n", "8", "-q", "--num-return-sequences", "3")
    _, out, _ = call(capsys, *options, "--json")
    made = [json.loads(line)["ids"] for line in out.splitlines()]
    m = numgpt.load("storyteller")
    prompt, controls = m.tokenizer.encode("The king"), {"temperature": 0.8, "top_k": 40}
    for stream, ids in enumerate(made):
        steps = numgpt.generate(prompt, m.params, m.config, max_new_tokens=8, seed=2, stream=stream, **controls)
        assert ids == list(steps)
    _, out, _ = call(capsys, *options)
    assert out == "\n".join("The king" + m.tokenizer.decode(ids) + "\n" for ids in made)


def test_the_controls_are_those_of_python(capsys):
    options = ("--bad-words", " was", "--logit-bias", " princess=4", "--no-repeat-ngram-size", "2")
    _, out, _ = call(capsys, "generate", "The king", "--seed", "2", "-n", "9", "-q", "--json", *options)
    m = numgpt.load("storyteller")
    encode = m.tokenizer.encode
    controls = {"bad_words": [encode(" was")], "logit_bias": {tuple(encode(" princess")): 4.0}}
    controls |= {"no_repeat_ngram_size": 2, "temperature": 0.8, "top_k": 40, "seed": 2}
    steps = numgpt.generate(encode("The king"), m.params, m.config, max_new_tokens=9, **controls)
    assert json.loads(out)["ids"] == list(steps)


def test_a_text_keeps_to_a_form_and_leaves_out_what_is_banned(capsys):
    options = ("--regex", " [a-z ]{10,60}[.]", "--ban", "the", "--ban", "and", "--seed", "2", "-q", "--json")
    _, out, _ = call(capsys, "generate", "The king", *options)
    found = json.loads(out)
    assert re.fullmatch(" [a-z ]{10,60}[.]", found["text"])
    assert "the" not in found["text"]
    assert found["finish_reason"] == "stop"
    m = numgpt.load("storyteller")
    controls = {"regex": " [a-z ]{10,60}[.]", "ban": ["the", "and"], "tokenizer": m.tokenizer}
    controls |= {"temperature": 0.8, "top_k": 40, "seed": 2}
    ids = m.tokenizer.encode("The king")
    assert found["ids"] == list(numgpt.generate(ids, m.params, m.config, max_new_tokens=200, **controls))


def test_beams_make_the_likeliest_texts_and_draw_nothing(capsys):
    options = ("--num-beams", "3", "--length-penalty", "2", "--early-stopping", "true", "--stop", " man")
    _, out, err = call(capsys, "generate", "The king", "-n", "9", "--json", "--num-return-sequences", "2", *options)
    assert "seed" not in err
    m = numgpt.load("storyteller")
    found = beam_search(
        m.tokenizer.encode("The king"), m.params, m.config, max_new_tokens=9, num_beams=3, length_penalty=2.0,
        early_stopping=True, num_return_sequences=2, stop_strings=[" man"], tokenizer=m.tokenizer,
    )  # fmt: skip
    assert [json.loads(line)["ids"] for line in out.splitlines()] == [h.ids for h in found]
    _, out, _ = call(capsys, "generate", "The king", "-n", "9", *options)
    assert out == "The king" + m.tokenizer.decode(found[0].ids) + "\n"


def test_past_the_context_limit_a_text_can_slide_and_its_cost_is_said(capsys, tmp_path):
    code, out, err = call(
        capsys, "generate", "abc", "-m", tiny(tmp_path), "-n", "30", "--json", "--seed", "1", "--overflow", "slide"
    )
    assert code == 0
    assert len(json.loads(out)["ids"]) == 30
    assert "went on past the 7 tokens of the context: each time the last 3 of them, computed anew" in err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--stop", ""), "--stop is [''], expected a list of strings, none of them empty"),
        (("--logit-bias", "king"), "--logit-bias is 'king', expected TEXT=NUMBER, as in ' king=2.5'"),
        (("--logit-bias", "=1"), "a key of --logit-bias is (), expected one or more ids"),
        (("--ban", ""), "--ban is [''], expected a list of texts, none of them empty; off without it"),
        (("--regex", "a(?=b)"), "regex has '(?=b)', which is neither a group (...) or (?:...), nor (?i) or (?s)"),
        (("--bad-words", ""), "--bad-words[0] is [], expected one or more ids"),
        (("--num-return-sequences", "0"), "--num-return-sequences is 0, expected an integer of 1 or more"),
        (("--num-beams", "2", "--temperature", "0.7"), "temperature is 0.7, but beam search draws no token"),
        (("--num-beams", "2", "--top-k", "40"), "--top-k is 40, but beam search draws no token"),
        (("--num-beams", "2", "--early-stopping", "maybe"), "--early-stopping is 'maybe', expected False, True or"),
        (("--num-beams", "2", "--num-return-sequences", "3"), "--num-return-sequences is 3, expected at most"),
        (("--length-penalty", "2"), "--length-penalty is for beam search: give --num-beams, 2 or more, too"),
        (("--min-new-tokens", "-1"), "--min-new-tokens is -1, expected an integer of 0 or more"),
    ],
)
def test_a_wrong_end_or_control_is_named(capsys, babbler, arguments, message):
    assert message in fails(capsys, "generate", "The", "-m", babbler, *arguments)


def test_an_error_after_the_prompt_has_a_line_of_its_own(capsys, tmp_path):
    tensors = hub_tensors(TOKENS)
    tensors["ln_f.bias"][:] = np.inf
    assert call(capsys, "generate", "abc", "-m", tiny(tmp_path, tensors=tensors))[1] == "abc\n"


def test_a_second_opinion_is_that_of_the_library(capsys):
    model = numgpt.load("storyteller")
    ids = model.tokenizer.encode("The king")
    options = {"max_new_tokens": 8, "seed": 3, "temperature": 0.8, "top_k": 40, "tokenizer": model.tokenizer}
    ways = {
        ("--guidance-scale", "2", "--negative-prompt", "The queen"): {
            "guidance_scale": 2,
            "negative_prompt": "The queen",
        },
        ("--contrast", "storyteller", "--strength", "0.3"): {"steering": contrast(model, 0.3)},
        ("--expert", "storyteller"): {"steering": experts(model)},
    }
    for flags, asked in ways.items():
        found = json.loads(call(capsys, "generate", "The king", "-n", "8", "--seed", "3", *flags, "--json")[1])
        assert found["ids"] == list(numgpt.generate(ids, model.params, model.config, **options, **asked))


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--strength", "2"], "--strength is that of"),
        (["--contrast", "storyteller", "--expert", "storyteller"], "--contrast goes without"),
    ],
)
def test_opinions_that_do_not_go_together_are_refused(capsys, flags, words):
    code, _, err = call(capsys, "generate", "The king", *flags)
    assert code == 2
    assert words in err


def test_a_negative_prompt_alone_is_refused(capsys):
    assert "--negative-prompt is what --guidance-scale leads away from" in fails(
        capsys, "generate", "The king", "--negative-prompt", "a"
    )
