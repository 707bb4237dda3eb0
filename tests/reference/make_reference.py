"""Make the dumps of this folder: every named intermediate of GPT-2, and every gradient, as transformers computes them.

    python tests/reference/make_reference.py              # write model_<name>.npz for each model below
    python tests/reference/make_reference.py --check      # recompute, compare with the files, write nothing

Needs torch and transformers (the extra `peers`). README.md in this folder tables what a dump holds.

Nothing is computed twice, by formulas of our own: all values are what the modules of transformers see and return
(hooks), what its eager attention function hands to softmax, and the gradients that autograd computes. Only two things
are added by us. Masked scores are stored as -inf, where transformers adds the lowest finite number. Tensors lose their
batch axis of 1.

The weights are not those of a fresh model (normal, 0.02, biases 0): with these, attention is almost uniform, GELU
almost linear, gains and biases do nothing, and half of all bugs stay hidden. See `spread` and `check_not_degenerate`.
"""

import argparse
import contextlib
import json
import math
import pathlib
import sys
import zlib
from unittest import mock

import numpy as np
import torch
import transformers
from transformers.models.gpt2 import modeling_gpt2

HERE = pathlib.Path(__file__).parent
COMMAND = "python tests/reference/make_reference.py"

SMALL = {"vocab_size": 31, "n_positions": 8, "n_embd": 12, "n_layer": 2, "n_head": 3}

# name -> (what it is there for, settings of GPT2Config, number of ids)
MODELS = {
    "gelu_new": ("GPT-2 as published, made small", {}, 8),
    "gelu": (
        "exact GELU, MLP narrower than 4C",
        {"activation_function": "gelu", "n_inner": 14, "n_embd": 10, "n_head": 2, "n_positions": 7},
        7,
    ),
    "gelu_pytorch_tanh": (
        "GELU by tanh under its other name; a large layer_norm_epsilon; fewer ids than positions",
        {"activation_function": "gelu_pytorch_tanh", "layer_norm_epsilon": 0.05, "n_positions": 11},
        6,
    ),
    "relu": (
        "ReLU, an untied head",
        {"activation_function": "relu", "tie_word_embeddings": False},
        7,
    ),
    "silu": (
        "SiLU, scores not divided by sqrt(D)",
        {"activation_function": "silu", "scale_attn_weights": False},
        7,
    ),
    "tanh": (
        "tanh, scores also divided by layer + 1, MLP wider than 4C",
        {
            "activation_function": "tanh",
            "scale_attn_by_inverse_layer_idx": True,
            "n_layer": 3,
            "n_inner": 50,
            "n_head": 2,
        },
        7,
    ),
    "inverse_only": (
        "scores divided by layer + 1 and not by sqrt(D), an untied head",
        {
            "scale_attn_weights": False,
            "scale_attn_by_inverse_layer_idx": True,
            "tie_word_embeddings": False,
            "n_embd": 8,
            "n_head": 2,
            "n_layer": 3,
        },
        5,
    ),
    "one_head": ("one layer, one head, odd sizes", {"n_layer": 1, "n_head": 1, "n_embd": 5, "vocab_size": 13}, 7),
    "head_size_one": ("D = 1: as many heads as features", {"n_layer": 1, "n_head": 7, "n_embd": 7, "n_inner": 9}, 7),
    "one_token": ("T = 1: attention has no choice", {"n_embd": 6, "n_head": 2, "n_positions": 1}, 1),
    "long": (
        "a longer context, so that the sums of attention are longer",
        {"vocab_size": 67, "n_positions": 64, "n_embd": 16, "n_head": 2},
        40,
    ),
}


def spread(model: torch.nn.Module, draw: np.random.Generator) -> None:
    """Give all parameters values at which every part of the model does something.

    Weights have variance 1.5^2 / fan_in, so that scores, and inputs of the activation, have a deviation above 1,
    whatever the scale of attention is. Gains lie around 1, and all biases around 0, with deviations of 0.3:
    forgetting one of them shows. NumPy draws them, as the last bits of torch.randn depend on the CPU.
    """
    for name, p in model.named_parameters():
        if name.endswith((".ln_1.weight", ".ln_2.weight", ".ln_f.weight")):
            mean, deviation = 1.0, 0.3
        elif name.endswith(".bias"):
            mean, deviation = 0.0, 0.3
        elif name.endswith((".wte.weight", ".wpe.weight")):
            mean, deviation = 0.0, 1.0
        elif name == "lm_head.weight":  # nn.Linear: [out, in]
            mean, deviation = 0.0, 1.5 / math.sqrt(p.shape[1])
        else:  # Conv1D: [in, out]
            mean, deviation = 0.0, 1.5 / math.sqrt(p.shape[0])
        if name.endswith(".c_attn.weight"):
            attn = model.get_submodule(name.removesuffix(".c_attn.weight"))
            deviation /= math.sqrt(attn.scaling * math.sqrt(attn.head_dim))
        values = mean + deviation * draw.standard_normal(tuple(p.shape))
        p.data = torch.from_numpy(values.astype(np.float32))


def collect(
    model: torch.nn.Module, ids: torch.Tensor, targets: torch.Tensor
) -> tuple[dict[str, np.ndarray], float, dict[str, np.ndarray]]:
    """Run `model` on `ids` [T], forwards and backwards.

    Returns all named intermediates, in the order in which they come to be, the loss, and the gradients: of the
    intermediates (d_NAME), in the same order, and of the parameters (d_params/NAME, in the Hub's names).
    """
    seen: dict[str, torch.Tensor] = {}
    alive: dict[str, torch.Tensor] = {}  # the same in the graph of autograd

    def keep(name: str, x: torch.Tensor, in_graph: torch.Tensor | None = None) -> None:
        assert name not in seen, f"{name} was computed twice"
        assert x.shape[0] == 1, f"{name}: a batch of {x.shape[0]}"
        seen[name] = x.detach()[0].clone()
        alive[name] = x if in_graph is None else in_graph
        alive[name].retain_grad()

    def output(name: str):
        return lambda module, args, out: keep(name, out[0] if isinstance(out, tuple) else out)

    def only_input(name: str):
        return lambda module, args: keep(name, args[0])

    hooks = [model.transformer.drop.register_forward_hook(output("embed"))]
    for i, block in enumerate(model.transformer.h):
        at = f"h.{i}."
        hooks += [
            block.ln_1.register_forward_hook(output(at + "ln_1")),
            block.attn.register_forward_hook(output(at + "attn_out")),
            block.ln_2.register_forward_pre_hook(only_input(at + "resid_mid")),
            block.ln_2.register_forward_hook(output(at + "ln_2")),
            block.mlp.c_fc.register_forward_hook(output(at + "mlp.pre")),
            block.mlp.c_proj.register_forward_pre_hook(only_input(at + "mlp.post")),
            block.mlp.register_forward_hook(output(at + "mlp_out")),
            block.register_forward_hook(output(at + "resid_post")),
        ]
    hooks.append(model.transformer.ln_f.register_forward_hook(output("ln_f")))
    hooks.append(model.lm_head.register_forward_hook(output("logits")))

    eager, softmax = modeling_gpt2.eager_attention_forward, torch.nn.functional.softmax

    def attention(module, query, key, value, mask, **options):
        at = f"h.{module.layer_idx}.attn."
        keep(at + "q", query)
        keep(at + "k", key)
        keep(at + "v", value)

        def softmax_seen(scores, dim):
            T = query.shape[-2]
            banned = torch.ones(T, T, dtype=torch.bool).triu(1)
            added = torch.zeros(1, 1, T, T, dtype=scores.dtype) if mask is None else mask
            assert ((added != 0) == banned).all(), "transformers masks something else than the future"
            assert (added[..., banned] <= torch.finfo(scores.dtype).min).all()
            keep(at + "scores", scores.masked_fill(banned, -math.inf), in_graph=scores)
            return softmax(scores, dim=dim)

        with mock.patch.object(torch.nn.functional, "softmax", softmax_seen):
            z, weights = eager(module, query, key, value, mask, **options)
        assert torch.equal(weights, softmax(seen[at + "scores"][None], dim=-1)), "-inf changes the weights"
        keep(at + "weights", weights)
        z = z.transpose(1, 2)  # [1, H, T, D]
        keep(at + "z", z)
        return z.transpose(1, 2), weights

    with contextlib.ExitStack() as stack:
        stack.enter_context(mock.patch.object(modeling_gpt2, "eager_attention_forward", attention))
        for hook in hooks:
            stack.callback(hook.remove)
        logits = model(ids[None], use_cache=False).logits
    model.zero_grad()
    loss = torch.nn.functional.cross_entropy(logits[0], targets, ignore_index=-1)
    loss.backward()

    names = ["embed"]
    for i in range(model.config.n_layer):
        names += [
            f"h.{i}.{name}"
            for name in (
                *("ln_1", "attn.q", "attn.k", "attn.v", "attn.scores", "attn.weights", "attn.z"),
                *("attn_out", "resid_mid", "ln_2", "mlp.pre", "mlp.post", "mlp_out", "resid_post"),
            )
        ]
    names += ["ln_f", "logits"]
    assert sorted(names) == sorted(seen), f"not seen, or not asked for: {set(names) ^ set(seen)}"
    gradients = {f"d_{name}": alive[name].grad[0] for name in names}
    gradients |= {f"d_params/{name}": p.grad for name, p in model.named_parameters()}
    return (
        {name: seen[name].contiguous().numpy() for name in names},
        loss.item(),
        {name: x.clone().contiguous().numpy() for name, x in gradients.items()},
    )


def check_not_degenerate(name: str, settings: dict, tensors: dict[str, np.ndarray]) -> None:
    """Refuse a dump whose values could hide a bug: no choice in attention, an activation seen on one side only."""
    for key, x in tensors.items():
        assert np.isfinite(x[x != -np.inf]).all(), f"{name}: {key} is not finite"
        if key.endswith("attn.weights") and x.shape[-1] > 2:
            peaks = x[:, 2:].max(axis=-1)  # of rows that see three places or more
            assert peaks.max() > 0.5, f"{name}: {key}: no row puts half its weight on one place"
            assert peaks.min() < 0.9, f"{name}: {key}: every row attends to one place only"
        if key.endswith("mlp.pre") and x.size > 20:
            assert x.max() > 1, f"{name}: {key}: too close to 0"
            assert x.min() < -1, f"{name}: {key}: too close to 0"
        if key == "logits":
            assert x.std() > 1, f"{name}: logits are almost equal"


def make(name: str) -> dict[str, np.ndarray]:
    """Return the arrays of one dump."""
    purpose, settings, n_ids = MODELS[name]
    settings = {**SMALL, **settings}
    seed = zlib.crc32(name.encode())
    draw = np.random.default_rng(seed)
    last = settings["vocab_size"] - 1
    config = transformers.GPT2Config(**settings, bos_token_id=last, eos_token_id=last, attn_implementation="eager")
    model = transformers.GPT2LMHeadModel(config).eval()
    spread(model, draw)
    ids = torch.from_numpy(draw.integers(settings["vocab_size"], size=n_ids))

    # state_dict names the tied head too; a saved checkpoint does not.
    state = {k: v.numpy().copy() for k, v in model.state_dict().items()}
    if config.tie_word_embeddings:
        assert np.array_equal(state.pop("lm_head.weight"), state["transformer.wte.weight"])

    about = {
        "name": name,
        "purpose": purpose,
        "seed": seed,
        "command": COMMAND,
        "python": sys.version.split()[0],
        "numpy": np.__version__,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "cpu": torch.backends.cpu.get_cpu_capability(),
    }
    arrays = {
        "about": np.array(json.dumps(about)),
        "config": np.array(config.to_json_string()),
        "ids": ids.numpy(),
        **{f"params/{k}": v for k, v in state.items()},
    }
    targets = np.append(
        ids[1:], draw.integers(settings["vocab_size"])
    )  # what follows each id; after the last, anything
    if n_ids > 2:
        targets[1] = -1  # does not count
    for dtype in ("float32", "float64"):
        tensors, loss, gradients = collect(model.to(getattr(torch, dtype)), ids, torch.from_numpy(targets))
        assert all(x.dtype == dtype for x in (*tensors.values(), *gradients.values()))
        check_not_degenerate(name, settings, tensors)
        arrays |= {f"{dtype}/{k}": v for k, v in tensors.items()}
    arrays |= {"targets": targets, "loss": np.array(loss), **gradients}  # in float64
    return arrays


def compare(old: dict[str, np.ndarray], new: dict[str, np.ndarray]) -> tuple[str, bool]:
    """Return a verdict on two dumps, and whether they hold the same values but for rounding."""
    if list(old) != list(new):
        return f"other names: {sorted(set(old) ^ set(new))}", False
    worst, where = 0.0, None
    for key, b in new.items():
        a = old[key]
        if a.dtype.kind == "U":
            a, b = json.loads(str(a)), json.loads(str(b))
            parts = [f"{k} {a.get(k)} -> {b.get(k)}" for k in {**a, **b} if a.get(k) != b.get(k)]
            if parts:
                where = where or f"{key}: {', '.join(parts)}"
        elif a.dtype != b.dtype or a.shape != b.shape:
            return f"{key}: {a.dtype} {a.shape}, was {b.dtype} {b.shape}", False
        elif a.tobytes() != b.tobytes():
            known = np.isfinite(b)
            if key.startswith(("ids", "params")) or not np.array_equal(np.isfinite(a), known):
                return f"{key}: other values", False
            rounding = np.finfo(b.dtype).eps * np.abs(b[known]).max()
            gap = np.abs(a[known] - b[known]).max() / rounding
            if gap > worst:
                worst, where = gap, f"{key}: {gap:.1f} eps of its largest value"
    return ("identical" if where is None else f"differs, {where}"), worst < 100


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="compare with the files instead of writing them")
    options = parser.parse_args()
    transformers.logging.set_verbosity_error()
    torch.set_num_threads(1)  # the order of sums must not depend on the number of cores
    torch.use_deterministic_algorithms(True)
    good = True
    for name in MODELS:
        arrays = make(name)
        path = HERE / f"model_{name}.npz"
        if options.check:
            with np.load(path) as file:
                verdict, same = compare(dict(file), arrays)
            good &= same
            print(f"{name:20} {verdict}")
        else:
            np.savez(path, **arrays)  # not compressed: random digits don't shrink, and zlib versions differ
            print(f"{name:20} {path.stat().st_size:8,} bytes, {len(arrays)} arrays")
    sys.exit(not good)


if __name__ == "__main__":
    main()
