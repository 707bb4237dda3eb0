"""A plain GPT-2 in PyTorch, in the manner of nanoGPT, and a dump of what its modules return, for `numgpt verify`.

    python dump_nanogpt.py path/to/folder 46,1198,2402 dump.npz
    numgpt verify dump.npz -m path/to/folder

The folder is one of the Hub's: config.json and model.safetensors (`numgpt convert storyteller folder` writes one).
Needs torch and safetensors; not numgpt. The names in the dump are those of the modules, which `numgpt verify` knows. To
dump from a model of your own with modules of the same names, paste `collect`.
"""

import argparse
import json
import math
import pathlib

import numpy as np
import safetensors.torch
import torch
from torch import nn
from torch.nn import functional as F


class SelfAttention(nn.Module):
    def __init__(self, config: dict) -> None:
        super().__init__()
        C = config["n_embd"]
        self.n_head = config["n_head"]
        self.c_attn = nn.Linear(C, 3 * C)
        self.c_proj = nn.Linear(C, C)
        self.attn_dropout = nn.Dropout(0.0)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        B, T, C = x.shape
        q, k, v = self.c_attn(x).split(C, dim=2)
        q, k, v = (t.view(B, T, self.n_head, C // self.n_head).transpose(1, 2) for t in (q, k, v))  # [B, H, T, D]
        att = (q @ k.transpose(-2, -1)) / math.sqrt(k.size(-1))
        att = att.masked_fill(~torch.ones(T, T, dtype=torch.bool).tril(), -math.inf)
        att = self.attn_dropout(F.softmax(att, dim=-1))
        y = (att @ v).transpose(1, 2).contiguous().view(B, T, C)
        return self.c_proj(y)


class MLP(nn.Module):
    def __init__(self, config: dict) -> None:
        super().__init__()
        C = config["n_embd"]
        F = config.get("n_inner") or 4 * C
        self.c_fc = nn.Linear(C, F)
        self.gelu = nn.GELU(approximate="tanh")
        self.c_proj = nn.Linear(F, C)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.c_proj(self.gelu(self.c_fc(x)))


class Block(nn.Module):
    def __init__(self, config: dict) -> None:
        super().__init__()
        self.ln_1 = nn.LayerNorm(config["n_embd"], eps=config["layer_norm_epsilon"])
        self.attn = SelfAttention(config)
        self.ln_2 = nn.LayerNorm(config["n_embd"], eps=config["layer_norm_epsilon"])
        self.mlp = MLP(config)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.attn(self.ln_1(x))
        return x + self.mlp(self.ln_2(x))


class GPT(nn.Module):
    def __init__(self, config: dict) -> None:
        super().__init__()
        C, V = config["n_embd"], config["vocab_size"]
        self.transformer = nn.ModuleDict(
            {
                "wte": nn.Embedding(V, C),
                "wpe": nn.Embedding(config["n_positions"], C),
                "drop": nn.Dropout(0.0),
                "h": nn.ModuleList([Block(config) for _ in range(config["n_layer"])]),
                "ln_f": nn.LayerNorm(C, eps=config["layer_norm_epsilon"]),
            }
        )
        self.lm_head = nn.Linear(C, V, bias=False)
        self.lm_head.weight = self.transformer["wte"].weight

    def forward(self, idx: torch.Tensor) -> torch.Tensor:
        t = self.transformer
        x = t["drop"](t["wte"](idx) + t["wpe"](torch.arange(idx.shape[1])))
        for block in t["h"]:
            x = block(x)
        return self.lm_head(t["ln_f"](x))


def load(folder: str, dtype: torch.dtype = torch.float32) -> GPT:
    """Read a folder of the Hub. Its matrices are [in, out] and those of nn.Linear [out, in]: they are transposed."""
    config = json.loads(pathlib.Path(folder, "config.json").read_text(encoding="utf-8"))
    model = GPT(config)
    state = {}
    for name, x in safetensors.torch.load_file(pathlib.Path(folder, "model.safetensors")).items():
        matrix = name.endswith((".c_attn.weight", ".c_fc.weight", ".c_proj.weight"))
        state["transformer." + name.removeprefix("transformer.")] = x.t() if matrix else x
    missing, unexpected = model.load_state_dict(state, strict=False)
    assert not unexpected, unexpected
    assert set(missing) <= {"lm_head.weight"}, missing  # which is wte
    return model.eval().to(dtype)


@torch.inference_mode()
def collect(model: nn.Module, ids: list[int]) -> dict[str, np.ndarray]:
    """Run a model on ids [T]; return what each of its modules returns, by the name of the module."""
    seen = {}

    def keep(name: str) -> object:
        def hook(module: nn.Module, inputs: tuple, output: object) -> None:
            x = output[0] if isinstance(output, tuple) else output
            seen[name] = x.numpy().copy()

        return hook

    hooks = [module.register_forward_hook(keep(name)) for name, module in model.named_modules() if name]
    seen["logits"] = model(torch.tensor([ids])).numpy().copy()
    for hook in hooks:
        hook.remove()
    return seen


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", help="config.json and model.safetensors in the Hub's layout")
    parser.add_argument("ids", help="ids with commas between")
    parser.add_argument("output", help="FILE.npz")
    parser.add_argument("--dtype", choices=["float32", "float64"], default="float32")
    options = parser.parse_args()

    ids = [int(i) for i in options.ids.split(",")]
    tensors = collect(load(options.folder, getattr(torch, options.dtype)), ids)
    np.savez(options.output, ids=np.array(ids), **tensors)
    print(f"{options.output}: {len(tensors)} tensors of {len(ids)} positions")


if __name__ == "__main__":
    main()
