"""Dump every intermediate of a GPT-2 in Hugging Face transformers, for `numgpt verify`.

    python dump_transformers.py gpt2 "Once upon a time" dump.npz
    python dump_transformers.py path/to/folder 46,1198,2402 dump.safetensors --dtype float64
    numgpt verify dump.npz -m gpt2

Needs torch, transformers and, for .safetensors, safetensors; not numgpt. Paste `collect` beside a model of your own.
"""

import argparse
import json
import re
from unittest import mock

import numpy as np
import torch
import transformers


@torch.inference_mode()
def collect(model: transformers.GPT2LMHeadModel, ids: list[int]) -> dict[str, np.ndarray]:
    """Run a model with eager attention on ids [T]; return name -> tensor, without the batch axis of 1."""
    seen: dict[str, torch.Tensor] = {}

    def keep(module: torch.nn.Module, name: str, what: str) -> None:
        """Keep the input or the output of a module under a name."""

        def hook(module: torch.nn.Module, inputs: tuple, output: object) -> None:
            x = inputs[0] if what == "input" else output[0] if isinstance(output, tuple) else output
            seen[name] = x.detach()[0].clone()  # [T, ...]

        hooks.append(module.register_forward_hook(hook))

    hooks: list = []
    keep(model.transformer.drop, "embed", "output")
    for i, block in enumerate(model.transformer.h):
        keep(block.ln_1, f"h.{i}.ln_1", "output")
        keep(block.attn.c_attn, f"h.{i}.qkv", "output")
        keep(block.attn.c_proj, f"h.{i}.attn.z", "input")
        keep(block.attn, f"h.{i}.attn_out", "output")
        keep(block.ln_2, f"h.{i}.resid_mid", "input")
        keep(block.ln_2, f"h.{i}.ln_2", "output")
        keep(block.mlp.c_fc, f"h.{i}.mlp.pre", "output")
        keep(block.mlp.c_proj, f"h.{i}.mlp.post", "input")
        keep(block.mlp, f"h.{i}.mlp_out", "output")
        keep(block, f"h.{i}.resid_post", "output")
    keep(model.transformer.ln_f, "ln_f", "output")
    keep(model.lm_head, "logits", "output")

    softmax, softmaxes = torch.nn.functional.softmax, []

    def watched(scores: torch.Tensor, *args: object, **options: object) -> torch.Tensor:
        weights = softmax(scores, *args, **options)
        softmaxes.append((scores[0].clone(), weights[0].clone()))  # [H, T, S]; masked scores are about -3.4e38
        return weights

    with mock.patch.object(torch.nn.functional, "softmax", watched):
        model(torch.tensor([ids]), use_cache=False)
    for hook in hooks:
        hook.remove()
    assert len(softmaxes) == len(model.transformer.h), "attention is not eager: load with attn_implementation='eager'"

    T, H = len(ids), model.config.n_head
    for i, (scores, weights) in enumerate(softmaxes):
        for name, x in zip("qkv", seen.pop(f"h.{i}.qkv").chunk(3, dim=-1), strict=True):  # [T, C] each
            seen[f"h.{i}.attn.{name}"] = x.reshape(T, H, -1).transpose(0, 1)  # [H, T, D]
        seen[f"h.{i}.attn.scores"] = scores
        seen[f"h.{i}.attn.weights"] = weights
        seen[f"h.{i}.attn.z"] = seen[f"h.{i}.attn.z"].reshape(T, H, -1).transpose(0, 1)
    return {name: x.contiguous().numpy() for name, x in seen.items()}


def write(path: str, tensors: dict[str, np.ndarray], ids: list[int]) -> None:
    """Write .npz, or else .safetensors."""
    if path.endswith(".npz"):
        np.savez(path, ids=np.array(ids), **tensors)
        return
    import safetensors.numpy

    safetensors.numpy.save_file(tensors, path, metadata={"ids": json.dumps(ids)})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", help="a name on the Hub, or a folder")
    parser.add_argument("text", help="a text, or ids with commas between")
    parser.add_argument("output", help="FILE.npz or FILE.safetensors")
    parser.add_argument("--dtype", choices=["float32", "float64"], default="float32")
    options = parser.parse_args()

    model = transformers.GPT2LMHeadModel.from_pretrained(options.model, attn_implementation="eager")
    if re.fullmatch(r"\d+(,\d+)*", options.text):
        ids = [int(i) for i in options.text.split(",")]
    else:
        ids = transformers.AutoTokenizer.from_pretrained(options.model)(options.text)["input_ids"]
    tensors = collect(model.eval().to(getattr(torch, options.dtype)), ids)
    write(options.output, tensors, ids)
    print(f"{options.output}: {len(tensors)} tensors of {len(ids)} positions")


if __name__ == "__main__":
    main()
