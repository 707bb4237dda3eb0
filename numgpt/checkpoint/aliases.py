"""Every naming to that of the Hub: which tensors of a file are those of the language model, and what the others are.

The same tensor has many names, and what holds a model puts its own before them:

    h.3.attn.c_attn.weight                       the Hub's, which are ours
    model/h3/attn/c_attn/w                       OpenAI's release
    blocks.3.attn.qkv.weight, trf_blocks.3.att.W_query.weight, tok_emb.weight        courses and posts
    transformer. module. _orig_mod. model.       a language model, DataParallel, torch.compile, Lightning

A name becomes the Hub's only where all of it is known. Before it may stand whatever holds the model, in any order and
number, if it is the same for all blocks; the tables, the last norm and the head may stand further out. Two names that
become one are an error. The rest is either known to be no part of the model, and left out, or stays and fits nothing:

    causal masks           h.N.attn.bias and .masked_bias of Transformers (the bias is c_attn.bias); mask, tril
    slots of an optimizer  NAME/Adam, where NAME is a tensor too
    counters               single numbers
    other heads            score, v_head, multiple_choice_head, classifier ...
    what lies elsewhere    where all of the model is in model., for instance, what is not

Matrices are [in, out] on the Hub, [out, in] where nn.Linear holds them. Query, key and value may be a matrix each.

Sources: modeling_gpt2.py of Transformers; model.py of OpenAI's release; minGPT and nanoGPT of karpathy; Raschka,
"Build a Large Language Model (From Scratch)"; dump_checkpoint of Lightning.
"""

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np

from numgpt.checkpoint.files import listing, printable
from numgpt.checkpoint.tensors import LazyTensor
from numgpt.errors import CheckpointError

# Our name for a module, and those that others have for it, in lower case.
BLOCKS = "h block blocks layer layers trf_blocks transformer_blocks transformer_layers decoder_blocks decoder_layers"
OUTSIDE = {
    "wte": "tok_emb tok_embd tok_embed tok_embedding tok_embeddings token_emb token_embed token_embedding "
    "token_embeddings token_embedding_table word_embedding word_embeddings",
    "wpe": "pos_emb pos_embd pos_embed pos_embedding pos_embeddings position_emb position_embed position_embedding "
    "position_embeddings position_embedding_table positional_embedding positional_embeddings",
    "ln_f": "lnf ln_final final_ln norm_f final_norm norm_final norm final_layer_norm final_layernorm",
    "lm_head": "lm_head.decoder head out_head output_head",
}
NORMS = {
    "ln_1": "ln1 norm1 norm_1 layer_norm_1 layer_norm1 layernorm_1 layernorm1 attn_norm ln_attn",
    "ln_2": "ln2 norm2 norm_2 layer_norm_2 layer_norm2 layernorm_2 layernorm2 mlp_norm ffn_norm ln_mlp",
}
ATTENTION = "attn att attention self_attn self_attention causal_attention causal_self_attention mha sa"
IN_ATTENTION = {
    "c_attn": "qkv qkv_proj w_qkv wqkv to_qkv in_proj",
    "query": "q q_proj w_query w_q wq to_q query_proj",
    "key": "k k_proj w_key w_k wk to_k key_proj",
    "value": "v v_proj w_value w_v wv to_v value_proj",
    "c_proj": "proj out_proj o_proj output_proj w_o wo to_out out projection",
}
MLP = "mlp ff ffn ffwd feed_forward feedforward"
IN_MLP = {
    "c_fc": "fc fc1 fc_1 fc_in linear1 linear_1 lin1 up_proj 0 net.0 layers.0",
    "c_proj": "proj fc2 fc_2 fc_out linear2 linear_2 lin2 down_proj 2 net.2 layers.2 3 net.3 layers.3",
}
LAST = {"weight": "weight", "w": "weight", "bias": "bias", "b": "bias"}
LAST_OF_NORMS = LAST | {"gamma": "weight", "scale": "weight", "g": "weight", "beta": "bias", "shift": "bias"}

WRAPPERS = {"transformer", "module", "_orig_mod"}  # passed over at the front, even if only some names have them
INNER_WRAPPERS = {"_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"}  # and these anywhere
MASKS = {"mask", "causal_mask", "attn_mask", "attention_mask", "tril"}
BIASES = ("bias", "masked_bias")  # those of Transformers
POSITIONS = {"position_ids", "pos_ids", "positions"}
HEADS = (
    r"(.*_)?heads?\d*(_.*)?|scores?|classifier|cls|qa_outputs|regressor|regression|pooler|value|critic|reward|summary"
)
OPTIMIZERS = {"Adam", "adam", "adamw", "adafactor", "momentum", "rmsprop", "optimizer", "exp_avg", "exp_avg_sq"}
CHANGES = "prompt|prefix|adapter|lora|embed|cross|ia3"  # what would change the text is never left out
TANH_GELU = "trf_blocks"  # the blocks of a book whose GELU is the approximation; other nn.Linear have the exact one


class Own(NamedTuple):
    """The tensors of the language model in a file, and what else is in it."""

    tensors: dict[str, LazyTensor]  # in the Hub's naming, without prefix, and in its layout
    left_out: dict[str, str]  # name in the file -> why it is no part of the model
    is_linear: bool  # the file has the matrices of nn.Linear, [out, in]
    activation: str  # that of the programs that have such names, for where no configuration says it


class _Name(NamedTuple):
    """A name of a file, taken apart."""

    prefix: tuple[str, ...]  # what holds the model, less WRAPPERS
    own: str | None  # the Hub's name, without prefix; None: it is none that we know
    is_block: bool  # what stands behind the prefix is a part of a block, known or not
    bare: str  # the name less WRAPPERS


def find_own(tensors: Mapping[str, LazyTensor], source: object) -> Own:
    """Find the tensors of the language model in a file, whatever their naming and layout. None is read.

    source  the name of the file, for messages
    Returns them in the Hub's names and layout; what fits nothing keeps its name among them.
    Raises CheckpointError where a tensor is there under two names, or two models are.

    >>> shapes = {"tok_emb.weight": (9, 4), "blocks.0.attn.qkv.weight": (12, 4), "blocks.0.attn.mask": (3, 3)}
    >>> zeros = {f"net.{name}": LazyTensor("F32", shape, lambda: np.zeros(shape)) for name, shape in shapes.items()}
    >>> own = find_own(zeros, "x.pt")
    >>> {name: tensor.shape for name, tensor in own.tensors.items()}
    {'wte.weight': (9, 4), 'h.0.attn.c_attn.weight': (4, 12), 'h.0.attn.c_attn.bias': (12,)}
    >>> own.left_out
    {'net.blocks.0.attn.mask': 'a causal mask'}
    """
    names = {name: _take_apart(name) for name in tensors}
    root = _root(names, source)
    found: dict[str, LazyTensor] = {}
    origin: dict[str, str] = {}
    left_out: dict[str, str] = {}
    for name, tensor in tensors.items():
        taken = names[name]
        if taken.own and taken.prefix == (root if taken.is_block else root[: len(taken.prefix)]):
            own = taken.own
        elif why := _why_left_out(name, tensor, taken, root, tensors):
            left_out[name] = why
            continue
        else:
            own = taken.bare
        if own in found:
            both = f"{printable(origin[own])} and {printable(name)} are both {printable(own)}"
            raise CheckpointError(f"{source}: {both}: which one counts? Save it without the other")
        found[own], origin[own] = tensor, name
    found = {name: _squeezed(name, tensor) for name, tensor in found.items()}
    linear = is_linear(found)
    found = join_qkv(found, axis=0 if linear else 1)
    exact = linear and not any(TANH_GELU in name for name in tensors)
    return Own(from_linear(found) if linear else found, left_out, linear, "gelu" if exact else "gelu_new")


def is_own_name(name: object) -> bool:
    """Tell whether a name in a file is one that a tensor of the model has.

    >>> is_own_name("net.blocks.0.ln1.beta"), is_own_name("exp_avg")
    (True, False)
    """
    return isinstance(name, str) and _take_apart(name).own is not None


def _paths(holders: str, modules: Mapping[str, str], ours: str) -> dict[str, str]:
    """Return every path to a module within a block -> the Hub's."""
    return {
        f"{holder}.{alias}": f"{ours}.{module}"
        for holder in holders.split()
        for module, aliases in modules.items()
        for alias in (module, *aliases.split())
    }


_BLOCKS = frozenset(BLOCKS.split())
_ATTENTION = frozenset(ATTENTION.split())
_OUTSIDE = {alias: module for module, aliases in OUTSIDE.items() for alias in (module, *aliases.split())}
_INSIDE = {alias: module for module, aliases in NORMS.items() for alias in (module, *aliases.split())}
_INSIDE |= _paths(ATTENTION, IN_ATTENTION, "attn") | _paths(MLP, IN_MLP, "mlp")


def _take_apart(name: str) -> _Name:
    if "/" in name:  # OpenAI's
        name = re.sub(r"(^|/)h(\d+)/", r"\1h/\2/", name).replace("/", ".")
    parts = name.split(".")
    while parts[0] in WRAPPERS and len(parts) > 1:
        parts = parts[1:]
    parts = [part for part in parts if part not in INNER_WRAPPERS] or parts
    bare = ".".join(parts)
    lower = [part.lower() for part in parts]
    for i, part in enumerate(lower[:-2]):
        if part in _BLOCKS and lower[i + 1].isdecimal() and lower[i + 1].isascii() and len(lower[i + 1]) < 7:
            inner = _translated(_INSIDE, lower[i + 2 :])
            own = inner and f"h.{int(lower[i + 1])}.{inner}"
            return _Name(_unwrapped(parts[:i]), own, True, bare)
    for width in (3, 2, 1):  # lm_head.decoder.weight, wte.weight, wte
        if len(lower) >= width and (own := _translated(_OUTSIDE, lower[-width:])):
            return _Name(_unwrapped(parts[:-width]), own, False, bare)
    return _Name(_unwrapped(parts[:-1]), None, False, bare)


def _unwrapped(parts: Sequence[str]) -> tuple[str, ...]:
    return tuple(part for part in parts if part not in WRAPPERS)


def _translated(table: Mapping[str, str], path: list[str]) -> str | None:
    """Return the Hub's name of a path whose last part is weight, bias or the like, where all of it is known."""
    if len(path) == 1:  # a parameter without a module, such as OpenAI's wte
        return f"{table[path[0]]}.weight" if table.get(path[0]) in ("wte", "wpe") else None
    module = table.get(".".join(path[:-1]))
    last = (LAST_OF_NORMS if module and module.startswith("ln_") else LAST).get(path[-1])
    return f"{module}.{last}" if module and last else None


def _root(names: Mapping[str, _Name], source: object) -> tuple[str, ...]:
    """Return the prefix that all blocks have, or where no block is known, the most frequent one of what is."""
    blocks = (taken.prefix for taken in names.values() if taken.own and taken.is_block)
    known = Counter(prefix for prefix in blocks if not OPTIMIZERS & set(prefix))
    if len(known) > 1:
        where = listing([printable(".".join(prefix) or "the top") for prefix in known])
        fault = f"{len(known)} models, under {where}, expected one"
        raise CheckpointError(f"{source}: {fault}: save the one that counts alone")
    likely = known or Counter(taken.prefix for taken in names.values() if taken.own or taken.is_block)
    return likely.most_common(1)[0][0] if likely else ()


def _why_left_out(
    name: str, tensor: LazyTensor, taken: _Name, root: tuple[str, ...], tensors: Mapping[str, LazyTensor]
) -> str | None:
    """Say why a tensor is no part of the model; None where it looks like one."""
    parts = _unwrapped(taken.bare.split("."))
    last = parts[-1].lower()
    if name.rpartition("/")[0] in tensors or OPTIMIZERS & set(taken.prefix):
        return "a slot of an optimizer"
    holders = [part.lower() for part in parts[:-1]]
    if taken.is_block and (
        (holders[-1] in _ATTENTION and last in BIASES) or (_ATTENTION & set(holders) and last in MASKS)
    ):
        return "a causal mask"
    if parts[:-1] == root and last in (*MASKS, *POSITIONS):
        return "a mask, or the numbers of the positions"
    if not tensor.shape and not taken.own:
        return "a single number, such as a counter"
    if taken.own or taken.is_block or re.search(CHANGES, name.lower()):
        return None
    if parts[: len(root)] != root:
        return f"beside the model, which is in {printable('.'.join(root))}"
    first = parts[len(root)].lower() if len(parts) > len(root) else ""
    return "a head that is not the language model's" if re.fullmatch(HEADS, first) and first not in _OUTSIDE else None


def _squeezed(name: str, tensor: LazyTensor) -> LazyTensor:
    """Take a leading axis of 1 off a matrix: of OpenAI's convolutions, and of positions shaped like a batch."""
    if len(tensor.shape) == 3 and tensor.shape[0] == 1 and name.endswith(("wpe.weight", *MATRICES, *APART)):
        return changed(tensor, tensor.shape[1:], lambda x: x[0])
    return tensor


# ---- the layout


MATRICES = (".c_attn.weight", ".attn.c_proj.weight", ".c_fc.weight", ".mlp.c_proj.weight")
APART = (".attn.query.weight", ".attn.key.weight", ".attn.value.weight")
GAINS = (".ln_1.weight", ".ln_2.weight", "ln_f.weight")


def is_linear(tensors: Mapping[str, LazyTensor]) -> bool:
    """Tell whether the matrices are those of nn.Linear, [out, in], by what is not square: c_attn, or the MLP's.

    Where all are square, a query of its own is one of nn.Linear.

    >>> is_linear({"h.0.attn.c_attn.weight": LazyTensor("F32", (12, 4), lambda: np.zeros((12, 4)))})
    True
    """
    shapes = {name: tensor.shape for name, tensor in tensors.items() if len(tensor.shape) == 2}
    for ending in (".c_attn.weight", ".c_fc.weight"):
        rows, columns = next((shape for name, shape in shapes.items() if name.endswith(ending)), (0, 0))
        if ending == ".c_attn.weight" and rows:
            return rows == 3 * columns
        if rows != columns:
            return columns == shapes.get("wte.weight", (0, min(rows, columns)))[1]
    return any(name.endswith(".attn.query.weight") for name in shapes)


def from_linear(tensors: Mapping[str, LazyTensor]) -> dict[str, LazyTensor]:
    """Return tensors in the Hub's names whose matrices are [in, out], of those of nn.Linear, which are [out, in].

    A bias that no layer has is 0: the model was trained with bias=False, or that layer was.
    Source: karpathy/nanoGPT, model.py.

    >>> tensor = LazyTensor("F32", (6, 2), lambda: np.zeros((6, 2), np.float32))
    >>> {name: t.shape for name, t in from_linear({"h.0.attn.c_attn.weight": tensor}).items()}
    {'h.0.attn.c_attn.weight': (2, 6), 'h.0.attn.c_attn.bias': (6,)}
    """
    found = {name: turned(t) if name.endswith(MATRICES) and len(t.shape) == 2 else t for name, t in tensors.items()}
    for endings in (*((ending,) for ending in MATRICES), GAINS):
        biases = tuple(ending.replace(".weight", ".bias") for ending in endings)
        if not any(name.endswith(biases) for name in tensors):
            for name in [name for name in found if name.endswith(endings)]:
                shape = found[name].shape[-1:]
                found[name.replace(".weight", ".bias")] = LazyTensor("F32", shape, partial(np.zeros, shape, np.float32))
    return found


def join_qkv(tensors: Mapping[str, LazyTensor], axis: int) -> dict[str, LazyTensor]:
    """Return tensors in which query, key and value of a layer are one c_attn, one after another along an axis."""
    found = dict(tensors)
    for name in tensors:
        stem, part, last = name.rpartition(".attn.query.")
        three = [found.get(f"{stem}.attn.{each}.{last}") for each in ("query", "key", "value")] if part else []
        parts = [each for each in three if each is not None]
        if len(parts) == 3 and len({each.shape for each in parts}) == 1 and len(parts[0].shape) in (1, 2):
            for each in ("query", "key", "value"):
                del found[f"{stem}.attn.{each}.{last}"]
            along = axis if len(parts[0].shape) == 2 else 0
            shape = tuple(3 * n if i == along else n for i, n in enumerate(parts[0].shape))
            dtypes = {each.dtype for each in parts}
            dtype = dtypes.pop() if len(dtypes) == 1 else "F64" if "F64" in dtypes else "F32"
            found[f"{stem}.attn.c_attn.{last}"] = LazyTensor(dtype, shape, partial(_joined, parts, along))
    return found


def _joined(parts: list[LazyTensor], axis: int) -> np.ndarray:
    return np.concatenate([part.read() for part in parts], axis)


def changed(tensor: LazyTensor, shape: tuple[int, ...], change: Callable[[np.ndarray], np.ndarray]) -> LazyTensor:
    """Return a tensor whose array is another when it is read."""
    return LazyTensor(tensor.dtype, shape, lambda: change(tensor.read()))


def turned(tensor: LazyTensor) -> LazyTensor:
    """Return the transpose of a matrix. Where it goes into memory by columns, nothing is copied."""

    def into(out: np.ndarray) -> np.ndarray:
        if tensor.into and out.T.flags.c_contiguous:
            return tensor.into(out.T).T
        out[...] = tensor.read().T
        return out

    def read() -> np.ndarray:
        return np.ascontiguousarray(tensor.read().T)

    return LazyTensor(tensor.dtype, tensor.shape[::-1], read, into, by_columns=True)
