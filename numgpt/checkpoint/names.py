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
    ln_1.gamma, ln_1.beta              ln_1.weight and ln_1.bias, as many papers and courses write them
"""

import re
from collections.abc import Callable, Mapping
from functools import partial

import numpy as np

from numgpt.checkpoint.files import printable
from numgpt.checkpoint.tensors import LazyTensor
from numgpt.checkpoint.unread import refuse_tensors
from numgpt.config import Config
from numgpt.errors import CheckpointError
from numgpt.params import faults, in_short, leaves, param_shapes

PREFIXES = re.compile(r"^((transformer|module|_orig_mod)\.)+")
BUFFERS = re.compile(r"h\.\d+\.attn\.(bias|masked_bias)")
GREEK = re.compile(r"(ln_\w+\.)(gamma|beta)$")
MATRICES = (".c_attn.weight", ".c_fc.weight", ".c_proj.weight")
GAINS = (".ln_1.weight", ".ln_2.weight", "ln_f.weight")
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


def from_linear(tensors: dict[str, LazyTensor]) -> dict[str, LazyTensor]:
    """Return tensors in the Hub's layout, whose matrices are [in, out], also where the file has those of nn.Linear.

    Which of the two it is, c_attn tells: [C, 3C] or [3C, C]. In nanoGPT, whose matrices are those of nn.Linear, a model
    that was trained with bias=False has no biases: they are 0.
    Source: karpathy/nanoGPT, model.py.

    >>> tensor = LazyTensor("F32", (6, 2), lambda: np.zeros((6, 2), np.float32))
    >>> {name: t.shape for name, t in from_linear({"h.0.attn.c_attn.weight": tensor}).items()}
    {'h.0.attn.c_attn.weight': (2, 6), 'h.0.attn.c_attn.bias': (6,)}
    """
    if not is_linear(tensors):
        return tensors
    found = dict(tensors)
    for name, tensor in tensors.items():
        if name.endswith(MATRICES):
            found[name] = _changed(tensor, tensor.shape[::-1], lambda x: np.ascontiguousarray(x.T))
    bare = {name: bare_name(name) for name in tensors}
    if not any(short.endswith(".bias") and not BUFFERS.fullmatch(short) for short in bare.values()):
        for name, short in bare.items():
            if short.endswith((*MATRICES, *GAINS)):
                shape = found[name].shape[-1:]
                bias = LazyTensor("F32", shape, partial(np.zeros, shape, np.float32))
                found[f"{name.rpartition('.')[0]}.bias"] = bias
    return found


def is_linear(tensors: Mapping[str, LazyTensor]) -> bool:
    """Tell whether the matrices are those of nn.Linear, [out, in], as nanoGPT has them."""
    shape = next((tensor.shape for name, tensor in tensors.items() if name.endswith(".c_attn.weight")), ())
    return len(shape) == 2 and shape[0] == 3 * shape[1]


def sizes_of(tensors: Mapping[str, LazyTensor]) -> dict[str, int]:
    """Return the sizes of a Config that the shapes of tensors in the Hub's layout say, those of them that they do say.

    The number of heads is none of these: c_attn is [C, 3C] for any.

    >>> shapes = {"wte.weight": (9, 4), "wpe.weight": (5, 4), "h.1.mlp.c_fc.weight": (4, 16)}
    >>> sizes_of({name: LazyTensor("F32", shape, lambda: np.zeros(shape)) for name, shape in shapes.items()})
    {'n_vocab': 9, 'n_embd': 4, 'n_ctx': 5, 'n_layer': 2, 'n_inner': 16}
    """
    shapes = {bare_name(name): tensor.shape for name, tensor in tensors.items() if len(tensor.shape) == 2}
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


def bare_name(name: str) -> str:
    """Return a name in the Hub's layout less its prefix.

    >>> [bare_name(name) for name in ("module.transformer.wte.weight", "lm_head.decoder.weight", "h.0.ln_1.gamma")]
    ['wte.weight', 'lm_head.weight', 'h.0.ln_1.weight']
    """
    bare = PREFIXES.sub("", name).replace("lm_head.decoder.", "lm_head.")
    return GREEK.sub(lambda match: f"{match[1]}{'weight' if match[2] == 'gamma' else 'bias'}", bare)


def _changed(tensor: LazyTensor, shape: tuple[int, ...], change: Callable[[np.ndarray], np.ndarray]) -> LazyTensor:
    return LazyTensor(tensor.dtype, shape, lambda: change(tensor.read()))


def match_params(tensors: dict[str, LazyTensor], config: Config, source: str) -> tuple[dict[str, LazyTensor], Config]:
    """Find the leaves of the parameter tree among the tensors of a file in the Hub's naming.

    tensors  name -> LazyTensor, as the reader of any format returns them
    source   the name of the file, for messages
    Returns path in the tree -> LazyTensor, and the config, with tie_word_embeddings corrected where a head is stored
    that is not wte. No tensor is read, but for a stored head and wte, to compare them.
    Raises Misfit, a CheckpointError, that says what is missing, left over, or of another shape or dtype. Tensors that
    are quantised are refused by name.
    """
    refuse_tensors(source, tensors)
    if config.n_layer > len(tensors):  # before anything is built as large as a config can claim
        what = f"n_layer is {config.n_layer}, but the file has {len(tensors)} tensors in all"
        other = "" if tensors else "; it may be the file of a vocabulary alone"
        raise CheckpointError(f"{source}: {what}: if it is one shard of several, give their .index.json{other}")

    stored: dict[str, LazyTensor] = {}
    for name, tensor in tensors.items():
        bare = bare_name(name)
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
        found["left over"] = list(map(printable, stored))
    dtypes = {path: tensor.dtype for path, tensor in given.items() if tensor.dtype not in FLOATS}
    if dtypes:
        expectation = f"expected one of {', '.join(FLOATS)}"
        found["of another dtype"] = [f"{path}: dtype {dtype}, {expectation}" for path, dtype in dtypes.items()]
    if found:
        raise Misfit(source, found)

    return given, config
