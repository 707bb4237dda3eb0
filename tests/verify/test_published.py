"""The harness of published outputs, on a stand-in whose outputs the tests work out themselves."""

import json
import math

import numpy as np
import pytest
from support.checkpoints import CONFIG, hub_tensors, write_checkpoint

import numgpt
from numgpt.checkpoint.vocabulary import gpt2
from numgpt.cli import main as cli
from numgpt.verify import published
from numgpt.verify.published import check_published, published_name, read_published

IDS = [3, 1, 4, 1, 5]


@pytest.fixture
def model(tmp_path):
    tensors = {name: x / 4 for name, x in hub_tensors().items()}
    return numgpt.load(write_checkpoint(tmp_path / "stand-in", tensors), dtype="float64")


def log_softmax(row):
    largest = max(row)
    return [x - largest - math.log(sum(math.exp(y - largest) for y in row)) for x in row]


@pytest.fixture
def goldens(model):
    """One golden of each kind, from the logits of one position at a time."""

    def logits(ids):
        return numgpt.forward(ids, model.params, model.config)[-1].tolist()

    text = list(IDS[:2])
    while len(text) < 6:
        text.append(int(np.argmax(logits(text))))
    scores = [log_softmax(logits(IDS[:n]))[IDS[n]] for n in range(1, 5)]
    rows = [log_softmax(logits(row[:n]))[row[n]] for row in ([3, 1, 4], [4, 1, 5]) for n in (1, 2)]
    seen = {}
    numgpt.forward(IDS, model.params, model.config, record=lambda name, x: seen.setdefault(name, x))
    weights = seen["h.0.attn.weights"][0]
    made = [
        {"kind": "text", "ids": IDS[:2], "options": {}, "expected": text[2:]},
        {"kind": "top_logit", "ids": IDS, "expected": [int(np.argmax(logits(IDS))), max(logits(IDS))]},
        {"kind": "log_probabilities", "ids": IDS[:1], "continuation": IDS[1:], "expected": scores},
        {"kind": "loss", "ids": IDS, "expected": -sum(scores) / 4},
        {"kind": "loss", "ids": IDS, "rows": [2, 2], "expected": -sum(rows) / 4},
        {
            "kind": "attention",
            "ids": IDS,
            "rows": [1, 2],
            "expected": [weights[1, :2].tolist(), weights[2, :3].tolist()],
        },
    ]
    return [{"id": f"{i}", "source": "here", "tolerance": 1e-12, **golden} for i, golden in enumerate(made)]


def verdicts(model, goldens):
    return [result.passed for result in check_published(model.params, model.config, goldens)]


def test_the_model_that_an_output_is_of_passes(model, goldens):
    assert verdicts(model, goldens) == [True] * 6


def test_another_model_fails_every_output(model, goldens, tmp_path):
    other = numgpt.load(write_checkpoint(tmp_path / "other", hub_tensors(seed=1)), dtype="float64")
    assert verdicts(other, goldens) == [False] * 6


@pytest.mark.parametrize("which", range(1, 6))
def test_a_number_off_by_more_than_its_tolerance_fails(model, goldens, which):
    golden = goldens[which]
    expected = golden["expected"]
    while isinstance(expected, list) and isinstance(expected[-1], list):
        expected = expected[-1]
    if isinstance(expected, list):
        expected[-1] += 1e-9
    else:
        golden["expected"] += 1e-9
    assert verdicts(model, [golden]) == [False]
    golden["tolerance"] = 2e-9
    assert verdicts(model, [golden]) == [True]


@pytest.mark.parametrize("change", [lambda ids: [*ids[:-1], ids[-1] ^ 1], lambda ids: [ids[0] ^ 1, *ids[1:]]])
def test_one_other_id_fails(model, goldens, change):
    assert verdicts(model, [{**goldens[0], "expected": change(goldens[0]["expected"])}]) == [False]


def test_a_text_that_ends_early_fails(model, goldens):
    ended = model.config._replace(eos_token_id=goldens[0]["expected"][1])
    assert [r.passed for r in check_published(model.params, ended, goldens[:1])] == [False]


def test_the_activation_of_an_output_is_used(model, goldens):
    relu = {**goldens[1], "activation_function": "relu"}
    assert verdicts(model, [relu]) == [False]
    other = model.config._replace(activation_function="relu")
    assert [r.passed for r in check_published(model.params, other, [relu])] != [True]


def test_an_output_that_needs_what_is_not_there_is_not_run(model, goldens):
    (result,) = check_published(
        model.params, model.config, [{**goldens[0], "options": {"levitation": 2, "wings": True}}]
    )
    assert result.passed is None
    assert result.note == "needs levitation, wings"


# ---- what is published


def test_every_published_output_is_complete():
    for golden in read_published():
        assert golden["kind"] in published.KINDS
        assert golden["model"] in ("gpt2", "gpt2-medium", "distilgpt2", "stanford-crfm/alias-gpt2-small-x21")
        assert "/" in golden["source"]
        assert all(0 <= i < 50257 for i in golden["ids"])
    assert len({golden["id"] for golden in read_published()}) == len(read_published()) == 36


def test_published_texts_are_what_their_ids_say():
    texts = {golden["id"]: golden for golden in read_published()}
    turing = texts["pico"]
    assert gpt2().decode(turing["ids"]) == "Alan Turing theorized that computers would one day become"
    assert gpt2().decode(turing["expected"]).startswith(" the most powerful machines on the planet.\n\nThe computer")
    assert gpt2().decode(texts["hf-distil-1"]["ids"]) == "Today is a beautiful day and"
    assert gpt2().decode(texts["rb-logit"]["ids"] + texts["rb-logit"]["expected"][:1]) == "One two three four five"


@pytest.mark.parametrize(
    ("name", "config", "expected"),
    [
        ("gpt2", {}, "gpt2"),
        ("124M", {}, "gpt2"),
        ("a/folder", {}, "gpt2"),
        ("345M", {"n_embd": 1024, "n_head": 16, "n_layer": 24}, "gpt2-medium"),
        ("a/folder", {"n_embd": 1024, "n_head": 16, "n_layer": 24}, "gpt2-medium"),
        ("distil", {"n_layer": 6}, "distilgpt2"),
        ("stanford-crfm/alias-gpt2-small-x21", {}, "stanford-crfm/alias-gpt2-small-x21"),
    ],
)
def test_whose_outputs_are_meant_is_told_from_the_name_or_the_size(name, config, expected):
    assert published_name(name, numgpt.Config(**config)) == expected


def test_a_model_of_which_nothing_is_published_is_told_so(capsys):
    assert cli.main(["verify", "--published"]) == 1
    err = capsys.readouterr().err
    assert "no outputs are published of 'storyteller', expected one of distilgpt2, gpt2, gpt2-medium" in err


# ---- the command


def run(capsys, *arguments):
    code = cli.main(["verify", "--published", *arguments])
    out, err = capsys.readouterr()
    return code, out, err


@pytest.fixture
def stand_in(model, goldens, tmp_path, monkeypatch):
    """The published outputs of a model named "stand-in", in the place of the real ones."""
    goldens.append({**goldens[0], "id": "beam", "options": {"wings": 1}})
    path = tmp_path / "published.json"
    path.write_text(json.dumps([{**golden, "model": "stand-in"} for golden in goldens]))
    monkeypatch.setattr(published, "PUBLISHED", path)
    monkeypatch.setenv("NUMGPT_WEIGHTS", str(tmp_path))
    return path


def test_the_command_prints_a_table_and_counts(capsys, stand_in):
    code, out, _ = run(capsys, "-m", "stand-in", "--dtype", "float64")
    assert code == 0
    assert [line.split()[:2] for line in out.splitlines()[:6]] == [["pass", str(i)] for i in range(6)]
    assert "not run  beam" in out
    assert "needs wings" in out
    assert out.endswith("\nstand-in: 6 passed, 0 failed, 1 not run\n")


def test_the_command_shows_what_was_expected_and_fails(capsys, stand_in):
    goldens = json.loads(stand_in.read_text())
    got = goldens[3]["expected"]
    goldens[3]["expected"] = 7.5
    stand_in.write_text(json.dumps(goldens))
    code, out, err = run(capsys, "-m", "stand-in", "--dtype", "float64")
    assert code == 1
    assert "FAIL     3" in out
    assert "expected 7.5\n" in out
    assert f"got      {got:.6f}"[:15] in out
    assert err.endswith("1 of 7 published outputs of stand-in are not met\n")


def test_the_command_speaks_json(capsys, stand_in):
    code, out, _ = run(capsys, "-m", "stand-in", "--dtype", "float64", "--json")
    assert code == 0
    assert [result["passed"] for result in json.loads(out)["results"]] == [True] * 6 + [None]


def test_sizes_are_those_of_the_tests():
    assert CONFIG["vocab_size"] > max(IDS)
