"""From the Hub's names, which aliases.py finds, to the parameter tree.

The Hub's files hold OpenAI's tensors with other last names:

    h.3.attn.c_attn.w  is  h.3.attn.c_attn.weight       h.3.ln_1.g  is  h.3.ln_1.weight       wte  is  wte.weight

The output head, lm_head.weight, is absent from most files, in some a copy of wte, or in its place; where the two differ
both are kept, whatever the config says of ties, as Transformers does since version 5.
"""

import re
from collections.abc import Mapping

import numpy as np

from numgpt.checkpoint.files import printable
from numgpt.checkpoint.tensors import LazyTensor
from numgpt.config import Config
from numgpt.errors import CheckpointError
from numgpt.params import faults, in_short, leaves, param_shapes

FLOATS = ("F16", "BF16", "F32", "F64")


class Misfit(CheckpointError):
    """The tensors of a file are not those of its configuration. The message shows a few; `faults` has them all."""

    def __init__(self, source: str, faults: dict[str, list[str]]) -> None:
        more = ": `numgpt inspect --json` lists them all" if any(len(each) > 3 for each in faults.values()) else ""
        super().__init__(f"{source} does not fit its configuration: {in_short(faults)}{more}")
        self.faults = faults


def hub_name(path: str) -> str:
    """Return the name, less any prefix, under which the Hub's files hold a leaf of the parameter tree.

    >>> [hub_name(path) for path in ("h.3.attn.c_attn.w", "h.3.ln_1.g", "wte", "lm_head")]
    ['h.3.attn.c_attn.weight', 'h.3.ln_1.weight', 'wte.weight', 'lm_head.weight']
    """
    stem, dot, last = path.rpartition(".")
    return f"{stem}.{'bias' if last == 'b' else 'weight'}" if dot else f"{path}.weight"


def sizes_of(tensors: Mapping[str, LazyTensor]) -> dict[str, int]:
    """Return the sizes of a Config that the shapes of tensors in the Hub's layout say, those of them that they do say.

    The number of heads is none of these: c_attn is [C, 3C] for any.

    >>> shapes = {"wte.weight": (9, 4), "wpe.weight": (5, 4), "h.1.mlp.c_fc.weight": (4, 16)}
    >>> sizes_of({name: LazyTensor("F32", shape, lambda: np.zeros(shape)) for name, shape in shapes.items()})
    {'n_vocab': 9, 'n_embd': 4, 'n_ctx': 5, 'n_layer': 2, 'n_inner': 16}
    """
    shapes = {name: tensor.shape for name, tensor in tensors.items() if len(tensor.shape) == 2}
    sizes = {}
    if table := shapes.get("wte.weight") or shapes.get("lm_head.weight"):
        sizes["n_vocab"], sizes["n_embd"] = table
    if positions := shapes.get("wpe.weight"):
        sizes["n_ctx"] = positions[0]
    layers = {int(match[1]): name for name in shapes if (match := re.match(r"h\.(\d{1,6})\.", name, re.ASCII))}
    if layers:
        sizes["n_layer"] = max(layers) + 1
    if widths := [shape[1] for name, shape in shapes.items() if name.endswith(".mlp.c_fc.weight")]:
        sizes["n_inner"] = widths[0]
    return sizes


def match_params(tensors: dict[str, LazyTensor], config: Config, source: str) -> tuple[dict[str, LazyTensor], Config]:
    """Find the leaves of the parameter tree among the tensors of a checkpoint.

    tensors  in the Hub's naming, without prefix, and its layout
    source   the name of the file, for messages
    Returns path in the tree -> LazyTensor, and the config, with tie_word_embeddings corrected where a head is stored
    that is not wte. No tensor is read, but for a stored head and wte, to compare them.
    Raises Misfit, a CheckpointError, that says what is missing, left over, or of another shape or dtype.
    """
    if config.n_layer > len(tensors):  # before anything is built as large as a config can claim
        what = f"n_layer is {config.n_layer}, but the file has {len(tensors)} tensors in all"
        other = "" if tensors else "; it may be the file of a vocabulary alone"
        raise CheckpointError(f"{source}: {what}: if it is one shard of several, give their .index.json{other}")

    stored = dict(tensors)
    head, embedding = stored.get("lm_head.weight"), stored.get("wte.weight")
    if config.tie_word_embeddings and head:
        if embedding is None:
            stored["wte.weight"] = stored.pop("lm_head.weight")
        elif head.shape == embedding.shape and np.array_equal(head.read(), embedding.read(), equal_nan=True):
            del stored["lm_head.weight"]
        else:
            config = config._replace(tie_word_embeddings=False)

    expected = dict(leaves(param_shapes(config)))
    given = {path: stored.pop(hub_name(path)) for path in expected if hub_name(path) in stored}
    found = faults({path: tensor.shape for path, tensor in given.items()}, expected)
    if stored:
        found["left over"] = list(map(printable, stored))
    dtypes = {path: tensor.dtype for path, tensor in given.items() if tensor.dtype not in FLOATS}
    if dtypes:
        expectation = f"expected one of {', '.join(FLOATS)}"
        found["of another dtype"] = [f"{path}: dtype {dtype}, {expectation}" for path, dtype in dtypes.items()]
    if found:
        raise Misfit(source, found)

    return given, config
