"""Beam search against `generate` of Transformers: the same ids and scores, on random models and on the storyteller.

Transformers adds up its scores in float32, so they are held to what that loses, and equal ids need races that are not
closer than that; seeds are fixed. Scores without controls are also held to sums of log_softmax in float64.
"""

import pathlib

import numpy as np
import pytest
import torch
import transformers
from transformers import GPT2Config, GPT2LMHeadModel

import numgpt
from numgpt.decoding.beam import beam_search

ROOT = pathlib.Path(__file__).parents[2]
V, N_CTX, T = 30, 24, 4
FLOAT32 = 24 * 2**-24  # the rounding of a sum of 24 log-probabilities, as Transformers adds them
NAMES = {"logit_bias": "sequence_bias", "bad_words": "bad_words_ids"}

transformers.logging.set_verbosity_error()
transformers.logging.disable_progress_bar()


@pytest.fixture(scope="module", params=range(4))
def models(request, tmp_path_factory):
    """A random model of Transformers in float64, and numgpt's of it, without an end-of-text id of its own."""
    torch.manual_seed(request.param)
    config = GPT2Config(
        vocab_size=V, n_positions=N_CTX, n_embd=16, n_head=2, n_layer=2, bos_token_id=None, eos_token_id=None,
        initializer_range=[0.2, 0.3, 0.4, 0.5][request.param],
    )  # fmt: skip
    model = GPT2LMHeadModel(config).to(torch.float64).eval()
    folder = tmp_path_factory.mktemp("model")
    model.save_pretrained(folder)
    ours = numgpt.load(folder, dtype="float64")
    return model, ours._replace(config=ours.config._replace(eos_token_id=None))


@pytest.fixture(scope="module")
def storyteller():
    theirs = GPT2LMHeadModel.from_pretrained(ROOT / "weights" / "storyteller", dtype=torch.float64).eval()
    return theirs, numgpt.load("storyteller", dtype="float64")


def theirs(model, ids, stop_ids, controls, **options):
    """Return what `generate` of Transformers finds: new ids without the one that ends them, and scores."""
    found = model.generate(
        torch.as_tensor(ids)[None],
        attention_mask=torch.ones(1, len(ids), dtype=torch.long),
        do_sample=False,
        eos_token_id=stop_ids or None,
        pad_token_id=0,
        output_scores=True,
        return_dict_in_generate=True,
        **{NAMES.get(name, name): value for name, value in controls.items()},
        **options,
    )
    texts = []
    for row, parents in zip(found.sequences[:, len(ids) :].tolist(), found.beam_indices, strict=True):
        row = row[: int((parents >= 0).sum())]  # what stands behind a text fills up the row
        texts.append(row[:-1] if row[-1] in stop_ids else row)
    return texts, found.sequences_scores.tolist()


def ours(m, ids, stop_ids, controls, **options):
    return beam_search(ids, m.params, m.config, stop_ids=stop_ids, **controls, **options)


def random_controls(draw):
    """Return controls of which each is on in half of all cases. Biases are multiples of 1/8: exact in float32."""

    def some_ids(longest):
        return tuple(draw.integers(V, size=int(draw.integers(1, longest + 1))).tolist())

    values = {
        "logit_bias": {some_ids(2): float(draw.integers(-20, 20)) / 8 for _ in range(12)},
        "repetition_penalty": float(draw.uniform(0.7, 1.6)),
        "no_repeat_ngram_size": int(draw.integers(2, 4)),
        "bad_words": [list(some_ids(2)) for _ in range(8)],
        "min_new_tokens": int(draw.integers(1, 6)),
    }
    return {name: value for name, value in values.items() if draw.random() < 0.5}


def check(model, m, ids, stop_ids, controls, **options):
    """Hold ours to theirs. Return ours."""
    texts, scores = theirs(model, ids, stop_ids, controls, **options)
    found = ours(m, ids, stop_ids, controls, **options)
    assert [h.ids for h in found] == texts
    for h, score in zip(found, scores, strict=True):
        n = len(h.ids) + (h.finish_reason == "stop")
        terms = n / n ** options.get("length_penalty", 1)  # of some 1 each; with biases they may cancel one another
        assert h.score == pytest.approx(score, rel=FLOAT32, abs=FLOAT32 * terms)
    return found


@pytest.mark.filterwarnings("ignore:Unfeasible length constraints")  # min_new_tokens above max_new_tokens
@pytest.mark.parametrize("with_controls", [False, True])
@pytest.mark.parametrize("early_stopping", [False, True, "never"])
@pytest.mark.parametrize("length_penalty", [0, 0.5, 1, 2, -1])
@pytest.mark.parametrize("num_beams", [2, 5])
def test_ids_and_scores_are_those_of_transformers(models, num_beams, length_penalty, early_stopping, with_controls):
    model, m = models
    draw = np.random.default_rng([num_beams, int(2 * length_penalty) + 2, len(str(early_stopping)), with_controls])
    for n_stops in 0, 1, 1, 3:
        ids = draw.integers(V, size=T).tolist()
        check(
            model, m, ids,
            stop_ids=draw.choice(V, size=n_stops, replace=False).tolist(),
            controls=random_controls(draw) if with_controls else {},
            max_new_tokens=int(draw.integers(1, N_CTX - T + 2)),  # the last one is one past the context
            num_beams=num_beams,
            length_penalty=length_penalty,
            early_stopping=early_stopping,
            num_return_sequences=int(draw.choice([1, num_beams])),
        )  # fmt: skip


def test_the_cases_end_in_all_ways_and_early_stopping_decides_in_some(models):
    _, m = models
    draw = np.random.default_rng(0)
    reasons, differ = set(), 0
    for _ in range(20):
        ids, stop_ids = draw.integers(V, size=T).tolist(), draw.choice(V, size=2, replace=False).tolist()
        options = {"max_new_tokens": 12, "num_beams": 4, "num_return_sequences": 4}
        found = [ours(m, ids, stop_ids, {}, early_stopping=e, **options) for e in (False, True, "never")]
        reasons |= {h.finish_reason for some in found for h in some}
        differ += found[0] != found[1] or found[1] != found[2]
    assert reasons == {"stop", "length"}
    assert differ


@pytest.mark.parametrize("length_penalty", [0, 1])
def test_scores_are_sums_of_log_softmax_in_float64(models, length_penalty):
    model, m = models
    ids = [3, 1, 4, 1]
    for h in ours(m, ids, [], {}, max_new_tokens=9, num_beams=5, num_return_sequences=5, length_penalty=length_penalty):
        with torch.inference_mode():
            log_probs = model(torch.tensor([ids + h.ids])).logits[0].log_softmax(-1)
        total = sum(log_probs[len(ids) - 1 + t, i].item() for t, i in enumerate(h.ids))
        assert h.score == pytest.approx(total / 9**length_penalty, rel=1e-11)


@pytest.mark.parametrize("num_beams", [2, 5])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"early_stopping": True, "stop": "."},
        {"early_stopping": "never", "stop": ".", "length_penalty": 2.0},
        {"length_penalty": 0.0, "stop": ","},
        {"stop": ".", "controls": {"no_repeat_ngram_size": 2, "repetition_penalty": 1.2, "min_new_tokens": 5}},
    ],
)
def test_the_storyteller(storyteller, num_beams, options):
    model, m = storyteller
    controls, stop = options.get("controls", {}), options.get("stop", "")
    rest = {name: value for name, value in options.items() if name not in ("controls", "stop")}
    stop_ids = [m.config.eos_token_id, *m.tokenizer.encode(stop)]
    for text in "Once upon a time there", "The king":
        found = check(
            model, m, m.tokenizer.encode(text), stop_ids, controls,
            max_new_tokens=24, num_beams=num_beams, num_return_sequences=num_beams, **rest,
        )  # fmt: skip
        assert all(h.finish_reason in ("stop", "length") for h in found)


@pytest.mark.parametrize("early_stopping", [False, True])
def test_stop_strings_end_a_beam(storyteller, early_stopping):
    model, m = storyteller
    tokenizer = transformers.AutoTokenizer.from_pretrained(ROOT / "weights" / "storyteller")
    ended = 0
    for text in "Once upon a time there", "The king", "He said":
        options = {"max_new_tokens": 20, "num_beams": 3, "num_return_sequences": 3, "early_stopping": early_stopping}
        options |= {"stop_strings": ["old woman", "e h", ", a"]}
        texts, scores = theirs(model, tokenizer(text)["input_ids"], [], {}, tokenizer=tokenizer, **options)
        found = ours(
            m._replace(config=m.config._replace(eos_token_id=None)), m.tokenizer.encode(text), [], {},
            tokenizer=m.tokenizer, **options,
        )  # fmt: skip
        assert [h.ids for h in found] == texts
        assert [h.score for h in found] == pytest.approx(scores, rel=FLOAT32)
        ended += sum(h.finish_reason == "stop" for h in found)
    assert ended >= 3
