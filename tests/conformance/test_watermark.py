"""The green list against Transformers' watermarking_config: the same lists, the same counts, found both ways."""

import numpy as np
import pytest
import torch
import transformers
from support.sampling import process
from transformers import GPT2Config, GPT2LMHeadModel, WatermarkDetector, WatermarkingConfig
from transformers.generation import WatermarkLogitsProcessor

import numgpt
from numgpt.decoding.controls import Sampling
from numgpt.decoding.watermark import GREEN, GREEN_BIAS, green_ids
from numgpt.measure.watermarks import find_green_list

transformers.logging.set_verbosity_error()

KEYS = [1, 7, 15485863, 2**32 + 1, 2**53]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A model of 97 tokens that says anything."""
    path = tmp_path_factory.mktemp("model")
    torch.manual_seed(0)
    GPT2LMHeadModel(GPT2Config(vocab_size=97, n_positions=256, n_embd=24, n_layer=2, n_head=2)).save_pretrained(path)
    return path


@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize("n", [4, 97, 50257])
def test_the_lists_are_the_same(key, n):
    theirs = WatermarkLogitsProcessor(n, "cpu", GREEN, GREEN_BIAS, key, "lefthash", 1)
    for last in {0, 1, 2, n // 2, n - 1}:
        assert green_ids(n, last, key) == theirs._get_greenlist_ids(torch.tensor([5, last])).tolist()


@pytest.mark.parametrize("key", KEYS)
def test_the_logits_are_the_same(key):
    logits = np.random.default_rng(key).normal(size=97).astype(np.float32)
    theirs = WatermarkLogitsProcessor(97, "cpu", hashing_key=key)
    expected = theirs(torch.tensor([[3, 1, 4]]), torch.tensor(logits[None])).numpy()[0]
    np.testing.assert_array_equal(process(logits, [3, 1, 4], Sampling(green_list=key)), expected)


@pytest.mark.parametrize("key", [15485863, 2**53])
def test_each_finds_what_the_other_wrote(folder, key):
    peer = GPT2LMHeadModel.from_pretrained(folder).eval()
    model, prompt = numgpt.load(folder), [5, 9, 11]
    wanted = WatermarkingConfig(hashing_key=key)
    detector = WatermarkDetector(peer.config, "cpu", wanted, ignore_repeated_ngrams=True)
    options = {"max_new_tokens": 100, "pad_token_id": 0, "eos_token_id": None}
    mask, ids = torch.ones(1, 3, dtype=torch.long), torch.tensor([prompt])
    torch.manual_seed(1)
    theirs = peer.generate(ids, attention_mask=mask, do_sample=True, watermarking_config=wanted, top_k=0, **options)
    ours = list(numgpt.generate(prompt, model.params, model.config, max_new_tokens=100, seed=1, green_list=key))
    for text in theirs[0].tolist(), [*prompt, *ours]:
        found, expected = find_green_list(text, key, 97), detector(torch.tensor([text]), return_dict=True)
        assert (found.scored, found.score) == (expected.num_tokens_scored[0], expected.num_green_tokens[0])
        assert found.p_value < 1e-6
        assert expected.prediction[0]
    greedy = peer.generate(ids, attention_mask=mask, do_sample=False, watermarking_config=wanted, **options)
    ours = numgpt.generate(prompt, model.params, model.config, max_new_tokens=100, temperature=0, green_list=key)
    assert [*prompt, *ours] == greedy[0].tolist()
