"""numgpt choose: the same as the library, for one prompt and for the lines of a file."""

import json

import pytest
from support.cli import call, fails

import numgpt

CHOICES = [" king", " queen", " king who"]


def expected(prompt, choices=CHOICES):
    return numgpt.choose(numgpt.load("storyteller"), prompt, choices)


def test_it_shows_the_likeliest_first(capsys):
    code, out, _ = call(capsys, "choose", "Once there was a", "--", *CHOICES)
    assert code == 0
    lines = out.splitlines()[1:]
    best = sorted(expected("Once there was a"), key=lambda choice: -choice.probability)
    assert [line.split("   ")[-1] for line in lines] == [repr(choice.text) for choice in best]
    assert lines[0].split()[0] == f"{100 * best[0].probability:.1f}"


def test_json_has_them_in_the_order_that_they_are_given_in(capsys):
    code, out, _ = call(capsys, "choose", "Once there was a", "--json", "--", *CHOICES)
    assert code == 0
    found = json.loads(out)
    assert [choice["text"] for choice in found["choices"]] == CHOICES
    for choice, other in zip(found["choices"], expected("Once there was a"), strict=True):
        assert (choice["log_prob"], choice["probability"], choice["ids"]) == (
            other.log_prob,
            other.probability,
            other.ids,
        )
        assert choice["log_prob_per_byte"] == other.log_prob_per_byte


def test_a_job_chooses_for_each_line_and_a_line_may_have_choices_of_its_own(capsys, tmp_path):
    lines = [{"prompt": "Once there was a", "id": 1}, {"prompt": "The end", "choices": [".", "!"]}, {"prompt": "A"}]
    source, output = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert call(capsys, "choose", "--input", source, "--output", output, "--", *CHOICES)[0] == 0
    found = [json.loads(line) for line in output.read_text().splitlines()]
    for result, line in zip(found, lines, strict=True):
        choices = expected(line["prompt"], line.get("choices", CHOICES))
        assert [choice["probability"] for choice in result["choices"]] == [choice.probability for choice in choices]
        assert result["text"] == max(choices, key=lambda choice: choice.probability).text
    assert found[0]["id"] == 1
    before = output.read_bytes()
    assert call(capsys, "choose", "--input", source, "--output", output, "--", *CHOICES)[0] == 0
    assert output.read_bytes() == before


@pytest.mark.parametrize(
    ("arguments", "words"),
    [(["It is", "--", " a", " a"], "each text once"), (["It is", "--", ""], "empty, expected some text")],
)
def test_what_can_t_be_chosen_from_is_refused(capsys, arguments, words):
    assert words in fails(capsys, "choose", *arguments)


def test_without_choices_it_says_what_is_missing(capsys):
    code, _, err = call(capsys, "choose", "It is")
    assert code == 2
    assert "CHOICE" in err
