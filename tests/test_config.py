"""The sizes of a GPT-2, and what follows from them."""

import pytest

from numgpt.config import Config
from numgpt.ops import ACTIVATIONS


def test_the_defaults_are_the_124m_model():
    assert Config()._asdict() == {
        "n_vocab": 50257,
        "n_ctx": 1024,
        "n_embd": 768,
        "n_head": 12,
        "n_layer": 12,
        "n_inner": None,
        "layer_norm_epsilon": 1e-5,
        "activation_function": "gelu_new",
        "scale_attn_weights": True,
        "scale_attn_by_inverse_layer_idx": False,
        "tie_word_embeddings": True,
        "eos_token_id": 50256,
        "n_tokens": None,
        "bos_token_id": None,
        "more_eos_ids": (),
    }
    assert Config().activation_function in ACTIVATIONS


@pytest.mark.parametrize(("n_inner", "width"), [(None, 24), (24, 24), (10, 10)])
def test_the_mlp_is_four_times_as_wide_unless_said_otherwise(n_inner, width):
    assert Config(n_embd=6, n_head=2, n_inner=n_inner).mlp_width == width


def test_heads_share_the_width():
    assert Config(n_embd=6, n_head=3).head_size == 2


def test_a_text_begins_with_its_own_token_or_the_one_that_ends_it():
    assert (Config().start_id, Config(bos_token_id=7).start_id) == (50256, 7)
    assert (Config(eos_token_id=None).start_id, Config(eos_token_id=None, bos_token_id=7).start_id) == (None, 7)
