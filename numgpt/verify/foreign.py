"""The names that other programs give to GPT-2's intermediates, and how their axes lie: one table to ours.

A dump may mix them, with or without the prefixes that wrappers add (transformer. module. _orig_mod.), with a batch axis
of 1, and with `[3]`, `/3` or `_3` for the number of a layer. What stands for something that numgpt does not name, such
as the token embedding without positions, is not in the table: such a tensor is not compared, and said so.
"""

import re
from typing import NamedTuple

import numpy as np

from numgpt.config import Config
from numgpt.model import split_heads
from numgpt.ops import causal_mask
from numgpt.trace import TRACE_SHAPES

# Their name: our name, and their axes where they are not ours. N is a layer; L is an axis over all layers.
# stream.N is the residual stream before layer N. T3C are q, k and v side by side.
FOREIGN = {
    # Transformers: what the model returns
    "hidden_states.N": ("hidden.N", "TC"),
    "hidden_states": ("hidden.N", "LTC"),
    "attentions.N": ("h.N.attn.weights", "HTS"),
    "attentions": ("h.N.attn.weights", "LHTS"),
    "last_hidden_state": ("ln_f", "TC"),
    # Transformers and nanoGPT: outputs of modules, by the names of the modules
    "drop": ("embed", "TC"),
    "h.N": ("h.N.resid_post", "TC"),
    "h.N.attn": ("h.N.attn_out", "TC"),
    "h.N.attn.c_attn": ("qkv", "T3C"),
    "h.N.attn.attn_dropout": ("h.N.attn.weights", "HTS"),
    "h.N.attn.c_proj": ("h.N.attn_out", "TC"),
    "h.N.attn.resid_dropout": ("h.N.attn_out", "TC"),
    "h.N.mlp.c_fc": ("h.N.mlp.pre", "TF"),
    "h.N.mlp.act": ("h.N.mlp.post", "TF"),
    "h.N.mlp.gelu": ("h.N.mlp.post", "TF"),
    "h.N.mlp.c_proj": ("h.N.mlp_out", "TC"),
    "h.N.mlp.dropout": ("h.N.mlp_out", "TC"),
    "h.N.mlp": ("h.N.mlp_out", "TC"),
    "lm_head": ("logits", "TV"),
    # TransformerLens, of a model that was loaded without processing
    "blocks.N.hook_resid_pre": ("stream.N", "TC"),
    "blocks.N.hook_resid_mid": ("h.N.resid_mid", "TC"),
    "blocks.N.hook_resid_post": ("h.N.resid_post", "TC"),
    "blocks.N.ln1.hook_normalized": ("h.N.ln_1", "TC"),
    "blocks.N.ln2.hook_normalized": ("h.N.ln_2", "TC"),
    "blocks.N.attn.hook_q": ("h.N.attn.q", "THD"),
    "blocks.N.attn.hook_k": ("h.N.attn.k", "THD"),
    "blocks.N.attn.hook_v": ("h.N.attn.v", "THD"),
    "blocks.N.attn.hook_attn_scores": ("h.N.attn.scores", "HTS"),
    "blocks.N.attn.hook_pattern": ("h.N.attn.weights", "HTS"),
    "blocks.N.attn.hook_z": ("h.N.attn.z", "THD"),
    "blocks.N.hook_attn_out": ("h.N.attn_out", "TC"),
    "blocks.N.mlp.hook_pre": ("h.N.mlp.pre", "TF"),
    "blocks.N.mlp.hook_post": ("h.N.mlp.post", "TF"),
    "blocks.N.hook_mlp_out": ("h.N.mlp_out", "TC"),
    "ln_final.hook_normalized": ("ln_f", "TC"),
    # TransformerLens 3 and 4, TransformerBridge: what goes into a module and comes out of it
    "blocks.N.hook_in": ("stream.N", "TC"),
    "blocks.N.hook_out": ("h.N.resid_post", "TC"),
    "blocks.N.hook_mlp_in": ("h.N.resid_mid", "TC"),
    "blocks.N.ln1.hook_in": ("stream.N", "TC"),
    "blocks.N.ln1.hook_out": ("h.N.ln_1", "TC"),
    "blocks.N.ln2.hook_in": ("h.N.resid_mid", "TC"),
    "blocks.N.ln2.hook_out": ("h.N.ln_2", "TC"),
    "blocks.N.attn.hook_in": ("h.N.ln_1", "TC"),
    "blocks.N.attn.qkv.hook_in": ("h.N.ln_1", "TC"),
    "blocks.N.attn.qkv.hook_out": ("qkv", "T3C"),
    **{f"blocks.N.attn.{x}.hook_in": ("h.N.ln_1", "TC") for x in "qkv"},
    **{f"blocks.N.attn.{x}.hook_out": (f"h.N.attn.{x}", "THD") for x in "qkv"},
    "blocks.N.attn.o.hook_in": ("h.N.attn.z", "THD"),
    "blocks.N.attn.o.hook_out": ("h.N.attn_out", "TC"),
    "blocks.N.attn.hook_hidden_states": ("h.N.attn_out", "TC"),
    "blocks.N.attn.hook_out": ("h.N.attn_out", "TC"),
    "blocks.N.mlp.hook_in": ("h.N.ln_2", "TC"),
    "blocks.N.mlp.in.hook_in": ("h.N.ln_2", "TC"),
    "blocks.N.mlp.in.hook_out": ("h.N.mlp.pre", "TF"),
    "blocks.N.mlp.out.hook_in": ("h.N.mlp.post", "TF"),
    "blocks.N.mlp.out.hook_out": ("h.N.mlp_out", "TC"),
    "blocks.N.mlp.hook_out": ("h.N.mlp_out", "TC"),
    "ln_final.hook_out": ("ln_f", "TC"),
    "unembed.hook_in": ("ln_f", "TC"),
    "unembed.hook_out": ("logits", "TV"),
    # llm.c: the fields of ActivationTensors
    "encoded": ("embed", "TC"),
    "ln1": ("h.N.ln_1", "LTC"),
    "qkv": ("qkv", "LT3C"),
    "preatt": ("h.N.attn.scores", "LHTS"),
    "att": ("h.N.attn.weights", "LHTS"),
    "atty": ("h.N.attn.z", "LTC"),
    "attproj": ("h.N.attn_out", "LTC"),
    "residual2": ("h.N.resid_mid", "LTC"),
    "ln2": ("h.N.ln_2", "LTC"),
    "fch": ("h.N.mlp.pre", "LTF"),
    "fch_gelu": ("h.N.mlp.post", "LTF"),
    "fcproj": ("h.N.mlp_out", "LTC"),
    "residual3": ("h.N.resid_post", "LTC"),
    "lnf": ("ln_f", "TC"),
}
OURS = {name.replace("*", "N"): axes for name, axes in TRACE_SHAPES.items()}
RULES = {**{name: (name, axes) for name, axes in OURS.items()}, **FOREIGN}
PREFIX = re.compile(r"^((transformer|model|module|_orig_mod)\.)+")
# What else programs dump, by the end of its name, and why it is not compared.
OTHERS = {
    r"^(hook_embed|embed\.hook_(in|out)|(transformer\.)?wte)$": "tokens without positions: ours is in embed",
    r"^(hook_pos_embed|pos_embed\.hook_(in|out)|(transformer\.)?wpe)$": "positions without tokens: ours is in embed",
    r"hook_scale$": "the standard deviation in a layer norm, which has no name here",
    r"hook_(q_input|k_input|v_input|attn_in)$": "what each head reads, before the layer norm: the stream, once a head",
    r"hook_result$": "the output of each head alone; ours is their sum: h.N.attn_out",
    r"^ln_final\.hook_in$": "the same as resid_post of the last layer",
    r"\.(weight|bias)$": "a parameter: verify compares what a program computes",
}
UNKNOWN = "no name that we know"
BEFORE_GAIN = "is normalised, but before gain and bias; ours is after them"


class Found(NamedTuple):
    """One of our tensors in a dump."""

    source: str  # its name there
    x: np.ndarray  # in our layout; of logits perhaps the last positions alone
    veiled: bool  # it does not show all: q, k and v as we cut them out of what c_attn returns, scores as we mask them


class Misfit(Exception):
    """Why a tensor of a dump can't be compared; and which of ours it is, if the name says so but the shape does not."""

    def __init__(self, why: str, name: str | None = None) -> None:
        super().__init__(why)
        self.name = name


def rename(name: str) -> str | None:
    """Return the entry of RULES, with a number for N, that a name in a dump means; None where there is none.

    >>> [rename(name) for name in ("transformer.h.3.mlp.gelu", "hidden_states[2]", "wte", "h.0.attn.c_attn.weight")]
    ['h.3.mlp.gelu', 'hidden_states.2', None, None]
    """
    name = PREFIX.sub("", name.replace("/", ".")).removesuffix(".output")
    name = re.sub(r"\[(\d+)\]", r".\1", name)
    name = re.sub(r"^(hidden_states|attentions)_(\d+)$", r"\1.\2", name)
    return name if rule_of(name)[0] in RULES else None


def why_not(name: str) -> str:
    """Return why a tensor is not compared whose name is in no rule: what it is, where that is known.

    >>> why_not("blocks.0.ln1.hook_scale"), why_not("my_tensor")
    ('the standard deviation in a layer norm, which has no name here', 'no name that we know')
    """
    return next((why for end, why in OTHERS.items() if re.search(end, name)), UNKNOWN)


def rule_of(name: str) -> tuple[str, int]:
    """Return the key of RULES for a name with a number, and the number.

    >>> rule_of("h.12.attn.q")
    ('h.N.attn.q', 12)
    """
    number = re.search(r"\.(\d+)(?=\.|$)", name)
    return (name[: number.start()] + ".N" + name[number.end() :], int(number[1])) if number else (name, -1)


def is_veiled(name: str) -> bool:
    """Whether what a name, as `rename` returns it, stands for does not show how the program goes on from it."""
    key = rule_of(name)[0]
    return key == "preatt" or RULES[key][1].endswith("3C")


def place(name: str, x: np.ndarray, config: Config, T: int) -> dict[str, np.ndarray]:
    """Return what a tensor of a dump holds, under our names and in our layouts.

    name  as `rename` returns it
    T     how many ids there are
    Raises Misfit, with the reason, where it can't be compared.
    """
    key, number = rule_of(name)
    ours, axes = RULES[key]
    sizes = {"T": T, "S": T, "C": config.n_embd, "H": config.n_head, "D": config.head_size}
    sizes |= {"3C": 3 * config.n_embd, "F": config.mlp_width, "V": config.n_vocab}
    if axes[0] != "L":
        return _place(ours, number, axes, x, config, sizes)
    if x.shape[:1] not in ((config.n_layer,), (config.n_layer + 1,)):
        raise Misfit(f"shape {x.shape}, expected {config.n_layer} layers on the first axis")
    if key == "preatt" and x.ndim > 3:  # of what is masked llm.c computes nothing
        x = np.where(causal_mask(*x.shape[-2:]), x, -np.inf)
    parts = [_place(ours, i, axes[1:], x[i], config, sizes) for i in range(len(x))]
    return {name: x for part in parts for name, x in part.items()}


def _place(
    ours: str, layer: int, axes: str, x: np.ndarray, config: Config, sizes: dict[str, int]
) -> dict[str, np.ndarray]:
    """Return what a tensor of one layer, or of none (-1), holds, under our names and in our layouts."""
    if layer >= config.n_layer + (ours == "hidden.N"):
        raise Misfit(f"layer {layer}, but the model has layers 0 to {config.n_layer - 1}")
    if axes == "T3C":
        x, expected = _unbatched(x, 2), (sizes["T"], sizes["3C"])
        if x.shape != expected:
            raise Misfit(f"shape {x.shape}, expected {expected} [T, 3C]", f"h.{layer}.attn.q")
        parts = np.split(x, 3, axis=-1)
        return {f"h.{layer}.attn.{n}": split_heads(part, config.n_head) for n, part in zip("qkv", parts, strict=True)}
    if ours in ("hidden.N", "stream.N"):  # Transformers' last hidden state is behind the final layer norm
        last = ours == "hidden.N" and layer == config.n_layer
        ours, layer = ("embed", -1) if layer == 0 else ("ln_f", -1) if last else ("h.N.resid_post", layer - 1)
    name = ours.replace("N", str(layer), 1) if layer >= 0 else ours
    arranged = _arrange(x, axes, OURS[ours], sizes)
    if arranged is None:
        raise Misfit(_other_shape(_unbatched(x, len(axes)).shape, axes, sizes), name)
    return {name: arranged}


def _unbatched(x: np.ndarray, ndim: int) -> np.ndarray:
    """Drop leading axes of 1 that are too many."""
    while x.ndim > ndim and x.shape[0] == 1:
        x = x[0]
    return x


def _arrange(x: np.ndarray, axes: str, target: str, sizes: dict[str, int]) -> np.ndarray | None:
    """Bring an array with the given axes, or with heads where they are often left, into the order of ours."""
    x, merged = _unbatched(x, len(axes)), _unbatched(x, 2)
    if target == "HTD" and merged.shape == (sizes["T"], sizes["C"]):
        return split_heads(merged, sizes["H"])
    if x.shape == tuple(sizes[a] for a in axes):
        return x.transpose([axes.index(a) for a in target]) if axes != target else x
    if target == "HTD" and x.shape == tuple(sizes[a] for a in "THD"):
        return x.swapaxes(0, 1)
    if target == "TV" and x.ndim == 2 and x.shape[0] in (1, sizes["T"]) and x.shape[1] >= sizes["V"]:
        return x[:, : sizes["V"]]  # the last position alone, as nanoGPT; columns of padding, as llm.c
    if target == "TV" and x.shape == (sizes["V"],):
        return x[None]
    return None


def _other_shape(shape: tuple[int, ...], axes: str, sizes: dict[str, int]) -> str:
    """Say what is wrong with the shape of a tensor, and what makes it so where that is known."""
    words = f"shape {shape}, expected {tuple(sizes[a] for a in axes)} [{', '.join(axes)}]"
    swapped = {**sizes, "H": sizes["D"], "D": sizes["H"]}
    if "H" in axes and shape == tuple(swapped[a] for a in axes):
        words += ": heads split on the wrong axis: [T, C] is reshaped to [T, D, H], and taken as D heads of size H"
    return words
