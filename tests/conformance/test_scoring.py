"""Scores against Transformers: the recipe of its documentation ("Perplexity of fixed-length models"), run live.

The recipe is written here from its description: windows of `context` tokens, one every `stride`; labels of tokens that
an earlier window had are -100; the loss of a window is multiplied by how many labels are left, less one.
Its loss is computed in float32 whatever the model's dtype, and so ends after seven digits; log_softmax is in float64.
"""

import math
import pathlib

import numpy as np
import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

import numgpt
from numgpt import fast
from numgpt.measure.scoring import score

ROOT = pathlib.Path(__file__).parents[2]
TEXT = (ROOT / "weights" / "storyteller" / "val.txt").read_text(encoding="utf-8")[:6000]


@torch.inference_mode()
def recipe(model, ids, context, stride):
    """Return two perplexities: as documented, and with each label that has a prediction counted."""
    documented, exact, seen = np.zeros(2), np.zeros(2), 0
    for begin in range(0, len(ids), stride):
        end = min(begin + context, len(ids))
        labels = torch.tensor([ids[begin:end]])
        inputs = labels.clone()
        labels[:, : -(end - seen)] = -100
        loss = model(inputs, labels=labels).loss.item()
        counts = (labels != -100).sum().item() - 1, (labels[:, 1:] != -100).sum().item()
        for total, count in zip((documented, exact), counts, strict=True):
            total += loss * count, count
        seen = end
        if end == len(ids):
            break
    return [math.exp(nats / count) for nats, count in (documented, exact)]


@pytest.fixture(scope="module", params=["float32", "float64"])
def both(request):
    """The storyteller here and there, and a text in its ids."""
    ours = numgpt.load("storyteller", dtype=request.param)
    theirs = GPT2LMHeadModel.from_pretrained(ROOT / "weights" / "storyteller", dtype=getattr(torch, request.param))
    ids = ours.tokenizer.encode(TEXT)[:1100]
    assert len(ids) == 1100
    return ours, theirs.eval(), ids


@pytest.mark.parametrize("stride", [64, 128, 256, 512])
def test_perplexity_equals_that_of_the_recipe_to_six_digits_and_more(both, stride):
    ours, theirs, ids = both
    documented, exact = recipe(theirs, ids, 512, stride)
    found = score(ours, ids, stride=stride)
    assert found.perplexity_by_recipe == pytest.approx(documented, rel=1e-6)
    assert found.perplexity == pytest.approx(exact, rel=1e-6)


@pytest.mark.parametrize("seed", range(8))
def test_random_models_texts_and_windows(seed, tmp_path):
    draw = np.random.default_rng(seed)
    n_ctx, n_vocab = int(draw.integers(4, 40)), int(draw.integers(5, 90))
    config = GPT2Config(
        vocab_size=n_vocab, n_positions=n_ctx, n_embd=12, n_head=3, n_layer=2, initializer_range=0.5,
        bos_token_id=n_vocab - 1, eos_token_id=n_vocab - 1, attn_implementation="eager",
    )  # fmt: skip
    theirs = GPT2LMHeadModel(config).eval()
    theirs.save_pretrained(tmp_path)
    ours, theirs = numgpt.load(tmp_path, dtype="float64"), theirs.double()
    context = int(draw.integers(2, n_ctx + 1))
    stride = int(draw.integers(1, context)) if context > 2 else 1
    ids = [int(i) for i in draw.integers(0, n_vocab, size=draw.integers(2, 150))]
    for bos in False, True:
        found = score(ours, ids, context=context, stride=stride, bos=bos)
        documented, exact = recipe(theirs, [n_vocab - 1] * bos + ids, context, stride)
        assert found.perplexity_by_recipe == pytest.approx(documented, rel=1e-6)
        assert found.perplexity == pytest.approx(exact, rel=1e-6)


def test_each_log_probability_is_that_of_log_softmax(both):
    ours, theirs, ids = both
    window = ids[:512]
    with torch.inference_mode():
        expected = theirs(torch.tensor([window])).logits[0].double().log_softmax(-1).numpy()
    found = score(ours, window, forward=fast.forward).log_probs
    tolerance = 1e-11 if ours.params["wte"].dtype == np.float64 else 1e-4
    assert np.isnan(found[0])
    np.testing.assert_allclose(found[1:], expected[np.arange(511), window[1:]], rtol=0, atol=tolerance)
