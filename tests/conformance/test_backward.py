"""Loss and gradients against autograd, through the GPT-2 of Transformers: trained weights, and random ones."""

import pathlib

import numpy as np
import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

import numgpt
from numgpt.backward import loss_and_grads
from numgpt.checkpoint import LazyTensor
from numgpt.checkpoint.names import match_params, read_params
from numgpt.params import leaves

ROOT = pathlib.Path(__file__).parents[2]
# Two correct programs in float64 differ by rounding, here by some 10 to 50 eps of the largest value of a gradient.
FLOAT64 = 1e-12


def check(model, m, ids, targets):
    """Hold numgpt's loss and gradients of m against those of model, tensor by tensor."""
    logits = model(torch.as_tensor(ids)).logits
    loss = torch.nn.functional.cross_entropy(
        logits.reshape(-1, logits.shape[-1]), torch.as_tensor(targets).ravel(), ignore_index=-1
    )
    model.zero_grad()
    loss.backward()
    grads = {name: p.grad.numpy() for name, p in model.named_parameters()}
    tensors = {name: LazyTensor("F64", x.shape, x.copy) for name, x in grads.items()}
    given, config = match_params(tensors, m.config, source="the gradients")
    expected = dict(leaves(read_params(given, config, "float64")))
    found_loss, found = loss_and_grads(ids, targets, m.params, m.config)
    assert found_loss == pytest.approx(loss.item(), rel=FLOAT64)
    assert [path for path, _ in leaves(found)] == list(expected)
    for path, x in leaves(found):
        limit = FLOAT64 * np.abs(expected[path]).max()
        np.testing.assert_allclose(x, expected[path], rtol=0, atol=limit, err_msg=path)


def test_the_storyteller():
    model = GPT2LMHeadModel.from_pretrained(ROOT / "weights" / "storyteller", dtype=torch.float64)
    m = numgpt.load("storyteller", dtype="float64")
    text = "Once upon a time there was a king, who had a daughter, and she was so beautiful that the sun wondered."
    ids = m.tokenizer.encode(text)
    check(model.eval(), m, np.array([ids[:-1]]), np.array([ids[1:]]))


@pytest.mark.parametrize("seed", range(10))
def test_random_models(seed, tmp_path):
    draw = np.random.default_rng(seed)
    n_head = int(draw.integers(1, 5))
    config = GPT2Config(
        vocab_size=int(draw.integers(5, 60)),
        n_positions=int(draw.integers(4, 20)),
        n_embd=n_head * int(draw.integers(1, 8)),
        n_head=n_head,
        n_layer=int(draw.integers(1, 4)),
        n_inner=[None, 13][seed % 2],
        activation_function=["gelu_new", "gelu", "relu", "silu", "tanh", "gelu_pytorch_tanh"][seed % 6],
        scale_attn_weights=seed % 3 != 2,
        scale_attn_by_inverse_layer_idx=seed % 4 == 3,
        tie_word_embeddings=seed % 5 != 4,
        layer_norm_epsilon=[1e-5, 0.1][seed % 2],
        initializer_range=0.3,
        bos_token_id=None,
        eos_token_id=None,
        attn_implementation="eager",
    )
    torch.manual_seed(seed)
    model = GPT2LMHeadModel(config).double().eval()
    with torch.no_grad():
        for name, p in model.named_parameters():  # a fresh model has gains of 1 and biases of 0
            if name.endswith("bias") or ".ln_" in name:
                p += 0.3 * torch.randn(p.shape, dtype=p.dtype)
    model.save_pretrained(tmp_path)
    shape = (int(draw.integers(1, 4)), int(draw.integers(2, config.n_positions + 1)))
    targets = draw.integers(-1, config.vocab_size, size=shape)
    targets[0, 0] = 1
    check(model, numgpt.load(tmp_path, dtype="float64"), draw.integers(config.vocab_size, size=shape), targets)
