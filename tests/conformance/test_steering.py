"""Guidance beside Transformers: the same logits, and the same ids of greedy decoding."""

import numpy as np
import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel
from transformers.generation.logits_process import UnbatchedClassifierFreeGuidanceLogitsProcessor

import numgpt
from numgpt.decoding.steering import combine

PROMPTS = [[3, 1, 4, 1, 5, 9], [2], [6, 5, 3, 5]]
NEGATIVES = [None, [9, 9, 8], [7]]


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """The same model of chance here and there."""
    torch.manual_seed(4)
    config = GPT2Config(vocab_size=61, n_positions=48, n_embd=16, n_head=4, n_layer=2, initializer_range=0.4)
    config.bos_token_id = config.eos_token_id = 60
    theirs = GPT2LMHeadModel(config).eval()
    folder = tmp_path_factory.mktemp("model")
    theirs.save_pretrained(folder)
    ours = numgpt.load(folder)
    return ours._replace(config=ours.config._replace(eos_token_id=None)), theirs


@pytest.mark.parametrize("scale", [0.3, 1.5, 4.0])
@pytest.mark.parametrize("negative", NEGATIVES)
def test_greedy_decoding_writes_the_same(pair, scale, negative):
    ours, theirs = pair
    for prompt in PROMPTS:
        options = {} if negative is None else {"negative_prompt_ids": torch.tensor([negative])}
        ids = torch.tensor([prompt])
        with torch.no_grad():
            found = theirs.generate(
                ids,
                max_new_tokens=20,
                do_sample=False,
                guidance_scale=scale,
                pad_token_id=0,
                eos_token_id=None,
                **options,
            )[0, len(prompt) :].tolist()
        options = {} if negative is None else {"negative_prompt": negative}
        new = numgpt.generate(
            prompt, ours.params, ours.config, max_new_tokens=20, temperature=0, guidance_scale=scale, **options
        )
        assert list(new) == found


def test_rows_are_combined_to_the_rounding_of_float32(pair):
    _, theirs = pair
    draw = np.random.default_rng(0)
    for scale in 0.5, 1.5, 7.5:
        row, other = (3 * draw.standard_normal(61).astype(np.float32) for _ in range(2))
        process = UnbatchedClassifierFreeGuidanceLogitsProcessor(scale, theirs)
        process.get_unconditional_logits = lambda ids, other=other: torch.tensor(other)[None, None]
        expected = process(torch.tensor([[1]]), torch.tensor(row)[None])[0].numpy()
        found = combine([row, other], [scale, 1 - scale])
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 * scale)  # float32, of numbers up to 20
