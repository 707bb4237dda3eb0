"""Checkpoints with other heads, and in the wrappers of other programs, against Transformers and PyTorch."""

import numpy as np
import pytest
import torch
import transformers

import numgpt
from numgpt.checkpoint.reading import open_checkpoint

SIZES = {"n_layer": 2, "n_head": 2, "n_embd": 32, "n_positions": 24, "vocab_size": 61}
IDS = [5, 9, 2, 31, 60]


def random_model(kind, **config):
    torch.manual_seed(3)
    model = kind(transformers.GPT2Config(**SIZES, bos_token_id=60, eos_token_id=60, pad_token_id=0, **config))
    with torch.no_grad():
        for p in model.parameters():
            p.normal_(0, 0.3)
    return model.eval()


def logits_of(model):
    with torch.no_grad():
        return model.double()(torch.tensor([IDS])).logits[0].numpy()


def same(path, expected):
    model = numgpt.load(path, dtype="float64")
    np.testing.assert_allclose(numgpt.forward(IDS, model.params, model.config), expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize("form", ["safetensors", "pytorch_model.bin"])
@pytest.mark.parametrize(
    ("kind", "head"),
    [
        ("GPT2DoubleHeadsModel", "multiple_choice_head.summary.weight"),
        ("GPT2ForSequenceClassification", "score.weight"),
        ("GPT2ForTokenClassification", "classifier.bias"),
        ("GPT2ForQuestionAnswering", "qa_outputs.weight"),
    ],
)
def test_a_model_with_another_head_is_the_language_model_that_transformers_makes_of_it(tmp_path, kind, head, form):
    model = random_model(getattr(transformers, kind))
    model.save_pretrained(tmp_path)
    if form != "safetensors":
        torch.save(model.state_dict(), tmp_path / form)
        (tmp_path / "model.safetensors").unlink()
    expected = logits_of(transformers.GPT2LMHeadModel.from_pretrained(tmp_path).eval())
    same(tmp_path, expected)
    assert head in open_checkpoint(tmp_path).left_out


@pytest.mark.parametrize("prefix", ["model.", "net.gpt.", "module.model._orig_mod.", "policy.actor."])
@pytest.mark.parametrize("key", ["state_dict", "model_state", "network", None])
def test_a_module_that_holds_the_model_is_no_part_of_it(tmp_path, prefix, key):
    model = random_model(transformers.GPT2LMHeadModel)
    state = {prefix + name: x for name, x in model.state_dict().items()}
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.tensor([IDS]), labels=torch.tensor([IDS])).loss.backward()
    optimizer.step()
    state = {name: x.clone() for name, x in state.items()}
    saved = {key: state, "optimizer_states": [optimizer.state_dict()], "optimizer": optimizer.state_dict(), "epoch": 3}
    torch.save(saved if key else state, tmp_path / "epoch=3-step=12.ckpt")
    model.config.save_pretrained(tmp_path)
    same(tmp_path, logits_of(model))


class Block(torch.nn.Module):
    """A block as courses write it: query, key and value apart, nn.Linear, and their own names."""

    def __init__(self, width, places):
        super().__init__()
        self.norm1, self.norm2 = torch.nn.LayerNorm(width), torch.nn.LayerNorm(width)
        self.attention = torch.nn.ModuleDict(
            {name: torch.nn.Linear(width, width) for name in ("query", "key", "value", "out_proj")}
        )
        self.attention.register_buffer("mask", torch.tril(torch.ones(places, places)).bool())
        self.ffn = torch.nn.Sequential(
            torch.nn.Linear(width, 4 * width), torch.nn.GELU(), torch.nn.Linear(4 * width, width)
        )

    def forward(self, x):
        y = self.norm1(x)
        q, k, v = (self.attention[name](y).unflatten(-1, (2, -1)).transpose(0, 1) for name in ("query", "key", "value"))
        scores = (q @ k.mT / k.shape[-1] ** 0.5).masked_fill(~self.attention.mask[: len(x), : len(x)], float("-inf"))
        z = (scores.softmax(-1) @ v).transpose(0, 1).flatten(1)
        x = x + self.attention["out_proj"](z)
        return x + self.ffn(self.norm2(x))


class Course(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.token_embedding = torch.nn.Embedding(61, 32)
        self.position_embedding = torch.nn.Embedding(24, 32)
        self.layers = torch.nn.ModuleList(Block(32, 24) for _ in range(2))
        self.final_norm = torch.nn.LayerNorm(32)
        self.head = torch.nn.Linear(32, 61, bias=False)

    def forward(self, ids):
        x = self.token_embedding(ids) + self.position_embedding(torch.arange(len(ids)))
        for layer in self.layers:
            x = layer(x)
        return self.head(self.final_norm(x))


def test_a_model_of_a_course_with_names_of_its_own(tmp_path):
    torch.manual_seed(1)
    model = Course().double()
    torch.save({"net": model.state_dict(), "config": {"num_heads": 2}, "losses": [3.2]}, tmp_path / "gpt.pth")
    with torch.no_grad():
        expected = model(torch.tensor(IDS)).numpy()
    same(tmp_path / "gpt.pth", expected)
    left_out = open_checkpoint(tmp_path / "gpt.pth").left_out
    assert left_out["layers.1.attention.mask"] == "a causal mask"
