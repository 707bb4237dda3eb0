"""numgpt verify against live programs: transformers and a plain PyTorch GPT-2 pass; bugs planted in the latter are
found where they are made and called by their names. llama.cpp is in test_llama_cpp.py.
"""

import importlib.util
import math
import pathlib
import re
import sys

import numpy as np
import pytest
import torch
import transformers
from torch import nn
from torch.nn import functional as F

import numgpt
from numgpt.checkpoint.export import convert
from numgpt.hub.loading import locate
from numgpt.verify.dump import Dump, read_dump
from numgpt.verify.report import compare

ROOT = pathlib.Path(__file__).parents[2]
DTYPES = {"float32": torch.float32, "float64": torch.float64}
SIZES = {"vocab_size": 61, "n_positions": 32, "n_embd": 24, "n_head": 4, "n_layer": 3}


def script(name):
    """Import a script of the tests by its path."""
    spec = importlib.util.spec_from_file_location(pathlib.Path(name).stem, ROOT / "tests" / name)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


make_reference = script("reference/make_reference.py")
dump_transformers = script("reference/dump_transformers.py")
dump_nanogpt = script("reference/dump_nanogpt.py")
transformers.logging.set_verbosity_error()
transformers.logging.disable_progress_bar()


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A random model with wide weights, and a trained one, in the Hub's layout; ids for each."""
    place = tmp_path_factory.mktemp("models")
    model = transformers.GPT2LMHeadModel(transformers.GPT2Config(**SIZES, bos_token_id=60, eos_token_id=60)).eval()
    make_reference.spread(model, np.random.default_rng(0))
    model.save_pretrained(place / "wide")
    convert(locate("storyteller"), place / "trained")
    return {
        "wide": (place / "wide", [3, 1, 41, 59, 26, 5, 35]),
        "trained": (place / "trained", [46, 1198, 2402, 257, 640]),
    }


def verified(tensors, folder, ids):
    return compare(Dump(tensors, {}), numgpt.load(folder), ids)


def assert_passes(report, at_least):
    assert report.passed, report
    assert len(report.rows) >= at_least


# --- what is right passes


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("which", ["wide", "trained"])
def test_transformers_passes(folders, which, dtype):
    folder, ids = folders[which]
    model = transformers.GPT2LMHeadModel.from_pretrained(folder, attn_implementation="eager").eval().to(DTYPES[dtype])
    tensors = dump_transformers.collect(model, ids)
    assert len(tensors) == 3 + 14 * model.config.n_layer
    report = verified(tensors, folder, ids)
    assert_passes(report, len(tensors))
    assert report.precision == dtype
    assert not report.not_compared


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("seed", range(6))
def test_transformers_passes_on_random_models_of_many_kinds(tmp_path, seed, dtype):
    draw = np.random.default_rng(seed)
    settings = {
        "activation_function": ["gelu_new", "gelu", "relu", "silu", "tanh", "gelu_pytorch_tanh"][seed],
        "layer_norm_epsilon": float(draw.choice([1e-5, 1e-12, 0.1])),
        "scale_attn_weights": bool(draw.random() < 0.7),
        "scale_attn_by_inverse_layer_idx": bool(draw.random() < 0.5),
        "tie_word_embeddings": bool(draw.random() < 0.5),
        "n_inner": int(draw.integers(1, 99)),
        "n_layer": int(draw.integers(1, 5)),
    }
    config = transformers.GPT2Config(
        **{**SIZES, **settings}, bos_token_id=60, eos_token_id=60, attn_implementation="eager"
    )
    model = transformers.GPT2LMHeadModel(config).eval()
    make_reference.spread(model, draw)
    model.save_pretrained(tmp_path)
    ids = draw.integers(61, size=int(draw.integers(1, 20))).tolist()
    assert_passes(verified(dump_transformers.collect(model.to(DTYPES[dtype]), ids), tmp_path, ids), 17)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("which", ["wide", "trained"])
def test_what_transformers_returns_passes_under_its_own_names(folders, which, dtype):
    folder, ids = folders[which]
    model = transformers.GPT2LMHeadModel.from_pretrained(folder, attn_implementation="eager").eval().to(DTYPES[dtype])
    with torch.inference_mode():
        out = model(torch.tensor([ids]), output_hidden_states=True, output_attentions=True)
    tensors = {"logits": out.logits.numpy()}
    tensors |= {f"hidden_states.{i}": x.numpy() for i, x in enumerate(out.hidden_states)}
    tensors |= {f"attentions.{i}": x.numpy() for i, x in enumerate(out.attentions)}
    report = verified(tensors, folder, ids)
    assert_passes(report, len(tensors))
    assert not report.not_compared


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("which", ["wide", "trained"])
def test_a_plain_pytorch_model_passes_under_the_names_of_its_modules(folders, which, dtype):
    folder, ids = folders[which]
    tensors = dump_nanogpt.collect(dump_nanogpt.load(folder, DTYPES[dtype]), ids)
    report = verified(tensors, folder, ids)
    assert_passes(report, 3 + 11 * numgpt.load(folder).config.n_layer)
    assert {"transformer.wte", "transformer.wpe"} <= set(report.not_compared)


def test_a_dump_of_torch_save_passes(folders, tmp_path):
    folder, ids = folders["wide"]
    tensors = dump_nanogpt.collect(dump_nanogpt.load(folder), ids)
    torch.save({"ids": ids, **{name: torch.from_numpy(x) for name, x in tensors.items()}}, tmp_path / "dump.pt")
    assert_passes(compare(read_dump(tmp_path / "dump.pt"), numgpt.load(folder)), 36)


# --- bugs planted in PyTorch


class BrokenAttention(dump_nanogpt.SelfAttention):
    """Self-attention with the bug that the attribute `bug` names. What is right is as in dump_nanogpt.py."""

    def forward(self, x):
        B, T, C = x.shape
        H, D = self.n_head, C // self.n_head
        order = {"order k, q, v": (1, 0, 2), "order v, k, q": (2, 1, 0)}.get(self.bug, (0, 1, 2))
        parts = self.c_attn(x).split(C, dim=2)
        parts = [parts[i] for i in order]
        if self.bug == "heads [T, D, H]":
            q, k, v = (t.view(B, T, D, H).permute(0, 3, 1, 2) for t in parts)
        elif self.bug == "heads [D, T, H]":  # D heads of size H
            q, k, v = (t.view(B, T, D, H).transpose(1, 2) for t in parts)
        elif self.bug == "heads, no transpose":
            q, k, v = (t.reshape(B, H, T, D) for t in parts)
        else:
            q, k, v = (t.view(B, T, H, D).transpose(1, 2) for t in parts)
        att = q @ k.transpose(-2, -1)
        if self.bug != "no scale":
            att = att / math.sqrt(k.size(-1))
        if self.bug != "no mask":
            hidden = torch.ones(T, T, dtype=torch.bool).triu(2 if self.bug == "mask off by one" else 1)
            att = att.masked_fill(hidden, -math.inf)
        att = self.attn_dropout(F.softmax(att, dim=-1))
        y = att @ v
        if self.bug != "merge, no transpose":
            y = y.transpose(1, 2)
        return self.c_proj(y.reshape(B, T, C))


class UnbiasedNorm(nn.LayerNorm):
    def forward(self, x):
        return (x - x.mean(-1, keepdim=True)) / (x.var(-1, keepdim=True) + self.eps).sqrt() * self.weight + self.bias


class HalfTable(nn.Module):
    def forward(self, x):
        return F.gelu(x.half().float(), approximate="tanh").half().to(x.dtype)


def norms_of(block):
    return [block.ln_1, block.ln_2]


def attention_bug(bug):
    def plant(block):
        block.attn.__class__, block.attn.bug = BrokenAttention, bug

    return plant


def set_eps(eps):
    def plant(block):
        for norm in norms_of(block):
            norm.eps = eps

    return plant


def make_unbiased(block):
    for norm in norms_of(block):
        norm.__class__ = UnbiasedNorm


def transpose_projection(block):
    block.attn.c_proj.weight.data = block.attn.c_proj.weight.data.t().contiguous()


def reshape_c_fc(block):
    w = block.mlp.c_fc.weight.data  # [F, C]; the checkpoint's [C, F] read as if it were stored that way
    block.mlp.c_fc.weight.data = w.t().contiguous().view(w.shape)


def drop_bias(block):
    block.attn.c_proj.bias.data.zero_()


def set_gelu(kind):
    def plant(block):
        block.mlp.gelu = kind()

    return plant


def shift_positions(by):
    def plant(model):
        model.transformer["wpe"].register_forward_pre_hook(lambda module, inputs: (inputs[0] + by,))

    return plant


def skip_final_norm(model):
    model.transformer["ln_f"] = nn.Identity()


# name -> (what plants it in a layer, the tensor that it shows in first, words of the verdict)
LAYER_BUGS = {
    "epsilon": (set_eps(1e-3), "ln_1", "wrong epsilon in the layer norm: 0.001 instead of 1e-05"),
    "unbiased": (make_unbiased, "ln_1", "unbiased variance"),
    "order k, q, v": (None, "attn.weights", "q/k/v order: .* k, q, v instead of q, k, v"),
    "order v, k, q": (None, "attn.weights", "q/k/v order: .* v, k, q instead of q, k, v"),
    "heads [T, D, H]": (None, "attn.weights", "heads split on the wrong axis: .*\\[T, D, H\\]"),
    "heads [D, T, H]": (None, "attn.weights", "heads split on the wrong axis: .* D heads of size H"),
    "heads, no transpose": (None, "attn.weights", "heads split on the wrong axis: .* without a transpose"),
    "no scale": (None, "attn.weights", "missing 1/sqrt\\(D\\)"),
    "mask off by one": (None, "attn.weights", "mask off by one"),
    "no mask": (None, "attn.weights", "no mask"),
    "merge, no transpose": (None, "attn_out", "heads merged on the wrong axis"),
    "transposed": (transpose_projection, "attn_out", "transposed weight: attn.c_proj.w"),
    "no bias": (drop_bias, "attn_out", "missing bias: attn.c_proj.b"),
    "reshaped": (reshape_c_fc, "mlp.pre", "transposed weight: mlp.c_fc.w"),
    "erf": (set_gelu(nn.GELU), "mlp.post", "erf GELU instead of tanh GELU"),
    "half table": (set_gelu(HalfTable), "mlp.post", "half-precision table"),
}
MODEL_BUGS = {
    "offset 1": (shift_positions(1), "embed", "position offset: positions count from 1"),
    "offset 2": (shift_positions(2), "embed", "position offset: positions count from 2 instead of 0, as in OPT"),
    "no ln_f": (skip_final_norm, "ln_f", "no final layer norm"),
    "bfloat16": (lambda model: model.bfloat16().float(), "embed", "rounded to half precision \\(bfloat16\\)"),
}


def broken(folder, bug, layers=None, dtype=torch.float32):
    """Return the PyTorch model with a bug planted, in some layers or in all."""
    model = dump_nanogpt.load(folder)
    if bug in MODEL_BUGS:
        MODEL_BUGS[bug][0](model)
    else:
        plant = LAYER_BUGS[bug][0] or attention_bug(bug)
        for i, block in enumerate(model.transformer["h"]):
            if layers is None or i in layers:
                plant(block)
        if layers is None and bug == "epsilon":
            model.transformer["ln_f"].eps = 1e-3
        if layers is None and bug == "unbiased":
            model.transformer["ln_f"].__class__ = UnbiasedNorm
    return model.to(dtype)


def assert_told(report, first, words):
    assert not report.passed
    assert report.rows[-1].name == first, report
    assert report.causes, report.pattern
    assert re.search(words, report.causes[0]), report.causes


ALL = {**LAYER_BUGS, **MODEL_BUGS}


@pytest.mark.parametrize("bug", ALL)
@pytest.mark.parametrize("which", ["wide", "trained"])
def test_a_bug_is_found_where_it_is_made_and_named(folders, which, bug):
    folder, ids = folders[which]
    report = verified(dump_nanogpt.collect(broken(folder, bug), ids), folder, ids)
    _, first, words = ALL[bug]
    assert_told(report, first if bug in MODEL_BUGS else f"h.0.{first}", words)


@pytest.mark.parametrize(
    ("which", "bug"),
    [*(("wide", bug) for bug in ALL), *(("trained", bug) for bug in ("epsilon", "no scale", "erf", "offset 1"))],
)
def test_a_bug_is_named_from_the_logits_alone(folders, which, bug):
    folder, ids = folders[which]
    logits = dump_nanogpt.collect(broken(folder, bug), ids)["logits"]
    assert_told(verified({"logits": logits}, folder, ids), "logits", ALL[bug][2])


@pytest.mark.parametrize("bug", LAYER_BUGS)
def test_a_bug_of_one_layer_is_found_there(folders, bug):
    folder, ids = folders["wide"]
    report = verified(dump_nanogpt.collect(broken(folder, bug, layers=[1]), ids), folder, ids)
    assert_told(report, f"h.1.{LAYER_BUGS[bug][1]}", LAYER_BUGS[bug][2] + ".* layer 1")


@pytest.mark.parametrize("bug", LAYER_BUGS)
def test_a_bug_of_one_layer_is_named_from_the_logits_alone(folders, bug):
    folder, ids = folders["wide"]
    logits = dump_nanogpt.collect(broken(folder, bug, layers=[1]), ids)["logits"]
    assert_told(verified({"logits": logits}, folder, ids), "logits", LAYER_BUGS[bug][2] + ".* layer 1")
