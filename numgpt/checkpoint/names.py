"""One table from every naming to the parameter tree.

The Hub's files hold OpenAI's tensors with other last names:

    h.3.attn.c_attn.w  is  h.3.attn.c_attn.weight       h.3.ln_1.g  is  h.3.ln_1.weight       wte  is  wte.weight

with or without a prefix, and with things beside them that are no parameters:

    transformer. module. _orig_mod.    from a language model, from DataParallel, from torch.compile; or several
    h.N.attn.bias, .masked_bias        the causal mask and the value that it puts in place (the bias is c_attn.bias)
    lm_head.weight                     the output head: absent from most files, in some a copy of wte, or in its place;
                                       where the two differ both are kept, whatever the config says of ties, as
                                       Transformers does since version 5
    lm_head.decoder.weight             the output head in DialoGPT's first files
"""

import re
from collections.abc import Callable
from functools import partial

import numpy as np

from numgpt.checkpoint.files import printable
from numgpt.checkpoint.tensors import LazyTensor
from numgpt.config import Config
from numgpt.errors import CheckpointError
from numgpt.params import faults, leaves, param_shapes

PREFIXES = re.compile(r"^((transformer|module|_orig_mod)\.)+")
BUFFERS = re.compile(r"h\.\d+\.attn\.(bias|masked_bias)")
FLOATS = ("F16", "BF16", "F32", "F64")


def hub_name(path: str) -> str:
    """Return the name, less any prefix, under which the Hub's files hold a leaf of the parameter tree.

    >>> [hub_name(path) for path in ("h.3.attn.c_attn.w", "h.3.ln_1.g", "wte", "lm_head")]
    ['h.3.attn.c_attn.weight', 'h.3.ln_1.weight', 'wte.weight', 'lm_head.weight']
    """
    stem, dot, last = path.rpartition(".")
    return f"{stem}.{'bias' if last == 'b' else 'weight'}" if dot else f"{path}.weight"


def from_openai(tensors: dict[str, LazyTensor]) -> dict[str, LazyTensor]:
    """Return the tensors of OpenAI's TensorFlow checkpoint in the Hub's naming and layout.

    model/h3/attn/c_attn/w is h.3.attn.c_attn.weight, and each w, a convolution of width 1, has a leading axis of 1.
    Source: Radford et al. 2019, the released code, `conv1d`.

    >>> tensor = LazyTensor("F32", (1, 2, 6), lambda: np.zeros((1, 2, 6), np.float32))
    >>> renamed = from_openai({"model/h3/attn/c_attn/w": tensor})
    >>> {name: t.shape for name, t in renamed.items()}
    {'h.3.attn.c_attn.weight': (2, 6)}
    """
    renamed = {}
    for name, tensor in tensors.items():
        path = re.sub(r"^h(\d+)\.", r"h.\1.", name.removeprefix("model/").replace("/", "."))
        if path.endswith(".w") and tensor.shape[:1] == (1,) and len(tensor.shape) == 3:
            tensor = _changed(tensor, tensor.shape[1:], lambda x: x[0])
        renamed[hub_name(path)] = tensor
    return renamed


def from_nanogpt(tensors: dict[str, LazyTensor], config: Config) -> dict[str, LazyTensor]:
    """Return the tensors of nanoGPT in the Hub's naming and layout.

    Its matrices are those of nn.Linear, [out, in]. Trained with bias=False it has no biases: they are 0.
    Source: karpathy/nanoGPT, model.py.
    """
    found = {}
    for name, tensor in tensors.items():
        if name.endswith((".c_attn.weight", ".c_fc.weight", ".c_proj.weight")):
            tensor = _changed(tensor, tensor.shape[::-1], lambda x: np.ascontiguousarray(x.T))
        found[PREFIXES.sub("", name)] = tensor
    biases = [name for name in found if name.endswith(".bias") and not BUFFERS.fullmatch(name)]
    if not biases and config.n_layer <= len(found):
        for path, shape in leaves(param_shapes(config)):
            if path.endswith(".b"):
                found[hub_name(path)] = LazyTensor("F32", shape, partial(np.zeros, shape, np.float32))
    return found


def _changed(tensor: LazyTensor, shape: tuple[int, ...], change: Callable[[np.ndarray], np.ndarray]) -> LazyTensor:
    return LazyTensor(tensor.dtype, shape, lambda: change(tensor.read()))


def match_params(tensors: dict[str, LazyTensor], config: Config, source: str) -> tuple[dict[str, LazyTensor], Config]:
    """Find the leaves of the parameter tree among the tensors of a file in the Hub's naming.

    tensors  name -> LazyTensor, as the reader of any format returns them
    source   the name of the file, for messages
    Returns path in the tree -> LazyTensor, and the config, with tie_word_embeddings corrected where a head is stored
    that is not wte. No tensor is read, but for a stored head and wte, to compare them.
    Raises CheckpointError that says all that is missing, left over, or of another shape or dtype.
    """
    if config.n_layer > len(tensors):  # before anything is built as large as a config can claim
        what = f"n_layer is {config.n_layer}, but the file has {len(tensors)} tensors in all"
        raise CheckpointError(f"{source}: {what}: if it is one shard of several, give their .index.json")

    stored: dict[str, LazyTensor] = {}
    for name, tensor in tensors.items():
        bare = PREFIXES.sub("", name).replace("lm_head.decoder.", "lm_head.")
        if bare in stored:
            raise CheckpointError(
                f"{source}: {printable(bare)} is there twice, under different prefixes: which one counts?"
            )
        if not BUFFERS.fullmatch(bare):
            stored[bare] = tensor

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
        found.append(f"left over: {', '.join(map(printable, stored))}")
    for path, tensor in given.items():
        if tensor.dtype not in FLOATS:
            found.append(f"{path}: dtype {tensor.dtype}, expected one of {', '.join(FLOATS)}")
    if found:
        raise CheckpointError(f"{source} does not fit its configuration: {'; '.join(found)}")

    return given, config
