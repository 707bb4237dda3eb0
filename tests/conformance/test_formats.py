"""Whole checkpoints that the peers wrote, in every format: logits equal to the model that they hold, there and back.

Truth is the peer in float64; numgpt in float64 may differ from it by 1e-12 times the largest logit, as in
test_model.py, which says more. At 124M, in float32, by eight times what PyTorch's own float32 does.
"""

import json
import math
import os
import shutil

import numpy as np
import pytest
import torch
import transformers
from torch import nn
from transformers import GPT2Config, GPT2LMHeadModel, GPT2TokenizerFast

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"  # before the import: TensorFlow logs a lot
os.environ["CUDA_VISIBLE_DEVICES"] = "-1"

import tensorflow as tf

import numgpt
from numgpt.checkpoint.export import convert
from numgpt.checkpoint.reading import open_checkpoint
from numgpt.errors import CheckpointError

transformers.logging.set_verbosity_error()
transformers.logging.disable_progress_bar()

IDS = [3, 14, 15, 9, 26, 5, 35]
SMALL = {"vocab_size": 64, "n_positions": 12, "n_embd": 20, "n_head": 4, "n_layer": 3}


def spread(model):
    """Give a model weights at which every part of it does something."""
    torch.manual_seed(7)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.3)
    return model.eval()


def small(**settings):
    return spread(GPT2LMHeadModel(GPT2Config(**SMALL, bos_token_id=63, eos_token_id=63, **settings)))


def logits_of(model, ids=IDS):
    with torch.no_grad():
        return model.double()(torch.tensor([ids])).logits[0].numpy()


def assert_equal_logits(folder, truth, ids=IDS):
    model = numgpt.load(folder, dtype="float64")
    difference = abs(numgpt.forward(ids, model.params, model.config) - truth).max()
    assert difference <= 1e-12 * max(1, abs(truth).max())


def save_openai(model, folder):
    """Write OpenAI's variables with TensorFlow's own op, and the files that lie beside them."""
    folder.mkdir(exist_ok=True)
    arrays = {}
    for name, x in model.transformer.state_dict().items():
        stem, _, last = name.rpartition(".")
        letter = {"bias": "/b", "weight": "/g" if "ln_" in stem else "/w"}[last] if "." in stem or "ln_" in stem else ""
        array = x.float().numpy()
        variable = f"model/{stem.replace('h.', 'h', 1).replace('.', '/')}{letter}"
        arrays[variable] = array[None] if letter == "/w" else array
    arrays = dict(sorted(arrays.items()))
    tf.raw_ops.SaveV2(
        prefix=str(folder / "model.ckpt"),
        tensor_names=list(arrays),
        shape_and_slices=[""] * len(arrays),
        tensors=[tf.constant(array) for array in arrays.values()],
    )
    config = model.config
    sizes = {"n_vocab": config.vocab_size, "n_ctx": config.n_positions, "n_embd": config.n_embd}
    sizes |= {"n_head": config.n_head, "n_layer": config.n_layer}
    (folder / "hparams.json").write_text(json.dumps(sizes))
    (folder / "checkpoint").write_text(
        'model_checkpoint_path: "model.ckpt"\nall_model_checkpoint_paths: "model.ckpt"\n'
    )
    return folder


def save_torch(model, folder, legacy):
    folder.mkdir(exist_ok=True)
    model.config.save_pretrained(folder)
    torch.save(model.state_dict(), folder / "pytorch_model.bin", _use_new_zipfile_serialization=not legacy)
    return folder


class NanoGPT(nn.Module):
    """A GPT as karpathy/nanoGPT names and computes it: nn.Linear, the exact GELU, biases or none."""

    def __init__(self, vocab_size, block_size, n_embd, n_head, n_layer, bias, dropout=0.0):
        super().__init__()
        self.n_head = n_head

        def layer_norm():
            return nn.LayerNorm(n_embd, bias=bias)

        def layer():
            attn = {"c_attn": nn.Linear(n_embd, 3 * n_embd, bias=bias), "c_proj": nn.Linear(n_embd, n_embd, bias=bias)}
            mlp = {"c_fc": nn.Linear(n_embd, 4 * n_embd, bias=bias), "c_proj": nn.Linear(4 * n_embd, n_embd, bias=bias)}
            return nn.ModuleDict(
                {"ln_1": layer_norm(), "attn": nn.ModuleDict(attn), "ln_2": layer_norm(), "mlp": nn.ModuleDict(mlp)}
            )

        self.transformer = nn.ModuleDict(
            {
                "wte": nn.Embedding(vocab_size, n_embd),
                "wpe": nn.Embedding(block_size, n_embd),
                "h": nn.ModuleList([layer() for _ in range(n_layer)]),
                "ln_f": layer_norm(),
            }
        )
        self.lm_head = nn.Linear(n_embd, vocab_size, bias=False)
        self.transformer.wte.weight = self.lm_head.weight

    def forward(self, ids):
        x = self.transformer.wte(ids) + self.transformer.wpe(torch.arange(len(ids)))
        for block in self.transformer.h:
            heads = block.attn.c_attn(block.ln_1(x)).view(len(ids), 3, self.n_head, -1).permute(1, 2, 0, 3)
            z = nn.functional.scaled_dot_product_attention(*heads, is_causal=True)
            x = x + block.attn.c_proj(z.transpose(0, 1).reshape(x.shape))
            x = x + block.mlp.c_proj(nn.functional.gelu(block.mlp.c_fc(block.ln_2(x))))
        return self.lm_head(self.transformer.ln_f(x))


def save_nanogpt(path, prefix, legacy, **model_args):
    model = spread(NanoGPT(**model_args))
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.tensor(IDS)).sum().backward()
    optimizer.step()
    checkpoint = {
        "model": {prefix + name: x for name, x in model.state_dict().items()},
        "optimizer": optimizer.state_dict(),
        "model_args": model_args,
        "iter_num": 600,
        "best_val_loss": torch.tensor(1.25),
        "config": {"out_dir": "out", "learning_rate": 6e-4, "compile": True, "device": "cpu", "decay_lr": True},
    }
    torch.save(checkpoint, path, _use_new_zipfile_serialization=not legacy)
    with torch.no_grad():
        return model.double()(torch.tensor(IDS)).numpy()


# ---- read what the peers write


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
def test_files_of_torch_give_the_logits_of_the_model(tmp_path, legacy, dtype):
    model = small().to(dtype)
    folder = save_torch(model, tmp_path / "model", legacy)
    assert_equal_logits(folder, logits_of(model))


def test_openais_checkpoint_gives_the_logits_of_the_model(tmp_path):
    model = small()
    assert_equal_logits(save_openai(model, tmp_path / "model"), logits_of(model))


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("prefix", ["", "_orig_mod."])
def test_nanogpts_checkpoint_gives_the_logits_of_the_model(tmp_path, prefix, bias, legacy):
    sizes = {"vocab_size": 64, "block_size": 12, "n_embd": 20, "n_head": 4, "n_layer": 3}
    truth = save_nanogpt(tmp_path / "ckpt.pt", prefix, legacy, **sizes, bias=bias, dropout=0.1)
    assert_equal_logits(tmp_path / "ckpt.pt", truth)
    copy = GPT2LMHeadModel.from_pretrained(convert(tmp_path / "ckpt.pt", tmp_path / "copy"))
    np.testing.assert_allclose(logits_of(copy), truth, rtol=0, atol=1e-12 * abs(truth).max())


# ---- write what the peers read


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("tied", [True, False])
def test_a_converted_checkpoint_is_the_same_model_to_transformers(tmp_path, tied, dtype):
    settings = {"activation_function": "gelu", "n_inner": 33, "scale_attn_by_inverse_layer_idx": True}
    model = small(tie_word_embeddings=tied, **settings).to(dtype)
    model.save_pretrained(tmp_path / "model")
    copy, report = GPT2LMHeadModel.from_pretrained(
        convert(tmp_path / "model", tmp_path / "copy"), output_loading_info=True
    )
    assert not any(report.values())
    assert copy.dtype == dtype
    for (name, x), (other, y) in zip(model.state_dict().items(), copy.state_dict().items(), strict=True):
        assert name == other
        assert torch.equal(x, y), name
    np.testing.assert_array_equal(logits_of(copy), logits_of(model))


def test_a_converted_tokenizer_is_the_same_to_transformers(tmp_path):
    sizes = {"vocab_size": 50257, "block_size": 12, "n_embd": 8, "n_head": 2, "n_layer": 1}
    save_nanogpt(tmp_path / "ckpt.pt", "", False, **sizes, bias=True)
    tokenizer = GPT2TokenizerFast.from_pretrained(convert(tmp_path / "ckpt.pt", tmp_path / "copy"))
    text = "Hello, w\u00f6rld! \U0001f642<|endoftext|>"
    assert tokenizer(text)["input_ids"] == numgpt.load(tmp_path / "copy").tokenizer.encode(text, allow_special=True)


# ---- at full size


@pytest.mark.parametrize("kind", ["legacy", "tensorflow"])
def test_a_124m_checkpoint_gives_the_logits_of_the_model(tmp_path, kind):
    torch.manual_seed(1)
    model = GPT2LMHeadModel(GPT2Config()).eval()
    folder = tmp_path / "model"
    if kind == "legacy":
        save_torch(model, folder, legacy=True)
    else:
        save_openai(model, folder)
        assert (folder / "model.ckpt.data-00000-of-00001").stat().st_size == 497_759_232
        assert (folder / "model.ckpt.index").stat().st_size == 5215
    assert open_checkpoint(folder).kind == {"legacy": "pytorch"}.get(kind, kind)
    loaded = numgpt.load(folder)
    shutil.rmtree(folder)
    ids = [464, 3290, 373, 1043, 287, 257, 2214]
    logits = numgpt.forward(ids, loaded.params, loaded.config)
    with torch.no_grad():
        single = model(torch.tensor([ids])).logits[0].numpy()
    truth = logits_of(model, ids)
    own_error = max(abs(single - truth).max(), math.ldexp(abs(truth).max(), -23))
    assert abs(logits - truth).max() <= 8 * own_error


@pytest.mark.parametrize(
    ("kinds", "widest"),
    [
        ([torch.float16], torch.float16),
        ([torch.bfloat16], torch.bfloat16),
        ([torch.float16, torch.float32], torch.float32),
        ([torch.bfloat16, torch.float16], torch.float32),
        ([torch.float32, torch.bfloat16, torch.float64], torch.float64),
    ],
)
def test_tensors_of_several_dtypes_lose_nothing_when_transformers_loads_what_we_wrote(tmp_path, kinds, widest):
    """It casts all to the dtype in config.json, which says "float16" here, or to the first one's where it says none."""
    model = small(dtype="float16")
    state = {name: x.to(kinds[i % len(kinds)]) for i, (name, x) in enumerate(model.transformer.state_dict().items())}
    model.config.save_pretrained(tmp_path / "m")
    torch.save(state, tmp_path / "m" / "pytorch_model.bin")
    loaded = GPT2LMHeadModel.from_pretrained(convert(tmp_path / "m", tmp_path / "copy"))
    for name, x in loaded.transformer.state_dict().items():
        assert x.dtype == widest
        assert torch.equal(x.double(), state[name].double()), name


def test_an_archive_of_torchscript_is_refused_by_name(tmp_path):
    torch.jit.script(nn.Linear(2, 3)).save(tmp_path / "model.pt")
    with pytest.raises(CheckpointError, match="a TorchScript archive, a program with its weights, expected what torch"):
        numgpt.load(tmp_path / "model.pt")
