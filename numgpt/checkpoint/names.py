"""One table from every naming to the parameter tree, and the step from tensors in a file to the tree in memory.

The Hub's files hold OpenAI's tensors with other last names:

    h.3.attn.c_attn.w  is  h.3.attn.c_attn.weight       h.3.ln_1.g  is  h.3.ln_1.weight       wte  is  wte.weight

with or without a prefix, and with things beside them that are no parameters:

    transformer. module. _orig_mod.    from a language model, from DataParallel, from torch.compile; or several
    h.N.attn.bias, .masked_bias        the causal mask and the value that it puts in place (the bias is c_attn.bias)
    lm_head.weight                     the output head: absent from most files, in some a copy of wte, or in its place;
                                       where the two differ both are kept, whatever the config says of ties, as
                                       Transformers does since version 5
    lm_head.decoder.weight             the same in DialoGPT's first files
"""

import math
import re
from collections.abc import Callable
from functools import partial
from itertools import accumulate
from typing import Any

import numpy as np

from numgpt.checkpoint.files import printable
from numgpt.checkpoint.tensors import LazyTensor
from numgpt.config import Config
from numgpt.errors import CheckpointError
from numgpt.params import faults, leaves, map_leaves, param_shapes

PREFIXES = re.compile(r"^((transformer|module|_orig_mod)\.)+")
BUFFERS = re.compile(r"h\.\d+\.attn\.(bias|masked_bias)")
FLOATS = ("F16", "BF16", "F32", "F64")
READERS = 2  # threads
COLUMN_MAJOR = "mlp.c_proj.w"  # the leaves that are laid out in memory by columns
ALIGNMENT = 64  # bytes, a cache line: where each array begins


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


def read_params(given: dict[str, LazyTensor], config: Config, dtype: str | None = None) -> dict[str, Any]:
    """Read the parameter tree, two tensors at a time, the largest first. None is held twice.

    All lie in one block of memory. Linux backs a large block with large pages, which a file fills more than twice as
    fast as small ones: 124M parameters in 0.10 s against 0.26 s in a block each, in turns, on 2 cores of an EPYC.

    The tall matrix [F, C] of each MLP is laid out by columns, so that a vector times it is one long dot product a
    column: 34 GB/s instead of 26 there. The others gain nothing, and lose 10 % where several rows are multiplied.

    given  path in the tree -> LazyTensor, from match_params
    dtype  "float32" or "float64"; None for float64 where the file holds any F64, else float32
    Returns the tree.
    """
    from concurrent.futures import ThreadPoolExecutor  # here, as it takes 5 ms, which a mere import should not

    target = dtype or ("float64" if any(tensor.dtype == "F64" for tensor in given.values()) else "float32")
    width = np.dtype(target).itemsize

    def read(tensor: LazyTensor, array: np.ndarray) -> np.ndarray:
        if tensor.into and (tensor.dtype == "F64") == (target == "float64"):
            return tensor.into(array)
        array[...] = tensor.read()
        return array

    def read_by_columns(tensor: LazyTensor, array: np.ndarray) -> np.ndarray:
        matrix = tensor.read()
        for start in range(0, len(matrix), 64):  # a strip at a time stays in the cache: half the time
            array[:, start : start + 64] = matrix[start : start + 64].T
        return array.T

    largest_first = sorted(given.items(), key=lambda item: -math.prod(item[1].shape))
    sizes = [-(-math.prod(tensor.shape) * width // ALIGNMENT) * ALIGNMENT for _, tensor in largest_first]
    ends = list(accumulate(sizes, initial=0))
    block = np.empty(ends[-1] + ALIGNMENT, np.uint8)
    block = block[-block.ctypes.data % ALIGNMENT :]
    with ThreadPoolExecutor(READERS) as pool:  # a thread that reads lets go of Python's lock
        reading = {}
        for (path, tensor), at in zip(largest_first, ends, strict=False):
            by_columns = path.endswith(COLUMN_MAJOR)
            shape = tensor.shape[::-1] if by_columns else tensor.shape
            array = block[at : at + math.prod(shape) * width].view(target).reshape(shape)
            reading[path] = pool.submit(read_by_columns if by_columns else read, tensor, array)
    return map_leaves(lambda path, _: reading[path].result(), param_shapes(config))
