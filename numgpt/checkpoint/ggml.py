"""Read ggml's first format, the .bin of its gpt-2 example: weights and a vocabulary, before there was GGUF.

A file is little-endian throughout, without padding:

    4 bytes   "lmgg", the number 0x67676d6c
    6 i32     n_vocab V, n_ctx T, n_embd C, n_head, n_layer, ftype
    i32       V again, and V times: u32 length, and the bytes of a token
    tensors   up to the end: i32 number of axes, length of the name, type; an i32 for each axis, the innermost first;
              the name; the numbers

A type is a number of quants.py, whose blocks are of version 2: ftype = 1000 * version + the type of most tensors, in
another count. Of the versions before, May 2023, only F32 and F16 are read. The tensors:

    model/wte [V, C]  model/wpe [T, C]  model/ln_f/{g,b}  model/lm_head [V, C] where it is not wte
    model/hN/{ln_1,ln_2}/{g,b}  model/hN/attn/{c_attn,c_proj}/{w,b}  model/hN/mlp/{c_fc,c_proj}/{w,b}

The trap: each matrix of a layer is [out, in], the transpose of the Hub's, since April 2023. Before, only mlp/c_proj
was, and the others [in, out]. c_attn tells which: [3C, C] or [C, 3C]. attn/c_proj, which is square, is as c_attn is.

Epsilon is 1e-5, and the activation gelu_new. There are no merges, and the tokens stand in the order of the JSON that
they came from, which need not be that of the ids: so the file has no tokenizer. What lies beside it counts.

Source: ggml-org/ggml, examples/gpt-2 (main.cpp, convert-ckpt-to-ggml.py, convert-h5-to-ggml.py, quantize.cpp) and
include/ggml.h, of 2023.
"""

import math
import os
import re
import struct
from functools import partial
from io import BufferedReader
from pathlib import Path
from typing import NamedTuple

from numgpt.checkpoint.contract import Glance, Opened
from numgpt.checkpoint.files import DAMAGED, brief, check_kind, opened, place_of, version_of, wrong
from numgpt.checkpoint.gguf import Stored
from numgpt.checkpoint.names import hub_name, sizes_of
from numgpt.checkpoint.quants import BLOCKS, NOT_READ
from numgpt.checkpoint.settings import read_settings
from numgpt.checkpoint.tensors import LazyTensor

MAGIC = b"lmgg"
MAX_TENSORS, MAX_VOCAB, MAX_NAME = 1 << 13, 1 << 19, 200  # GPT-2 XL has 580 tensors
FTYPES = {  # of most tensors, by the last three digits
    0: "F32", 1: "F16", 2: "Q4_0", 3: "Q4_1", 7: "Q8_0", 8: "Q5_0", 9: "Q5_1",
}  # fmt: skip
BLOCKS_VERSION = 2  # of ggml, since May 2023
MATRICES = ("attn/c_attn/w", "attn/c_proj/w", "mlp/c_fc/w", "mlp/c_proj/w")
FIXED = {"activation_function": "gelu_new", "layer_norm_epsilon": 1e-5}  # in ggml's program
OTHER_MODEL = f"it is of another model than GPT-2, or {DAMAGED}"
ANOTHER = "use a GGUF file of the model, or make one of the original with numgpt convert"


class Sizes(NamedTuple):
    """What the head of a file says."""

    n_vocab: int
    n_ctx: int
    n_embd: int
    n_head: int
    n_layer: int
    ftype: int


def is_mine(glance: Glance) -> bool:
    """Tell whether a file is one of ggml's first format."""
    return glance.start[:4] == MAGIC


def open_weights(glance: Glance) -> Opened:
    """Open a file of ggml, with config.json or nothing beside it: all but the ends of a text is in the file."""
    path = glance.path
    sizes, stored = read_ggml(path)
    linear = not any(name.endswith("attn/c_attn/w") and x.shape == _plain(sizes) for name, x in stored.items())
    tensors = {name: LazyTensor(x.block.name, x.shape, x.read) for name, x in stored.items()}
    hub_tensors = {_hub_name(name): _hub_tensor(name, x, linear) for name, x in stored.items()}
    if len(hub_tensors) < len(tensors):
        raise wrong(path, "a tensor is there under the Hub's name too, expected it once", ANOTHER)
    found = sizes_of(hub_tensors)
    if "n_embd" not in found:
        raise wrong(path, f"none of its {len(tensors):,} tensors is model/wte, expected it", OTHER_MODEL)
    for key, size in found.items():
        if size != getattr(sizes, key, size):
            raise wrong(path, f"{key} is {getattr(sizes, key)}, expected {size}, as the tensors say", OTHER_MODEL)
    given = {"n_head": sizes.n_head, **FIXED, **glance.given}
    config, settings = read_settings(path.parent, hub_tensors, given)
    return Opened(path, "ggml", tensors, hub_tensors, config, settings, path.parent)


def _plain(sizes: Sizes) -> tuple[int, int]:
    """Return the shape of c_attn in the Hub's layout, [in, out]."""
    return sizes.n_embd, 3 * sizes.n_embd


def _hub_name(name: str) -> str:
    """Return the Hub's name of a tensor; its own, where it is none of GPT-2's.

    >>> _hub_name("model/h0/attn/c_attn/w"), _hub_name("model/wte"), _hub_name("gpt_neox.embed_in.weight")
    ('h.0.attn.c_attn.weight', 'wte.weight', 'gpt_neox.embed_in.weight')
    """
    if not name.startswith("model/"):
        return name
    return hub_name(re.sub(r"^h(\d+)\.", r"h.\1.", name.removeprefix("model/").replace("/", ".")))


def _hub_tensor(name: str, x: Stored, linear: bool) -> LazyTensor:
    """Return a tensor in the Hub's layout. `linear`: all matrices are [out, in], not mlp/c_proj alone."""
    turned = len(x.shape) == 2 and name.endswith(MATRICES if linear else "mlp/c_proj/w")
    dtype = x.block.name if x.block.length == 1 else "F32"
    shape = x.shape[::-1] if turned else x.shape
    return LazyTensor(dtype, shape, partial(x.read, turned), partial(x.into, turned), by_columns=turned)


def read_ggml(path: str | os.PathLike[str]) -> tuple[Sizes, dict[str, Stored]]:
    """Open a file of ggml: check all that it says of itself, and read no numbers.

    path  the file
    Returns its sizes, and its tensors by name, as they lie in the file.
    Raises CheckpointError if the file is missing or anything in it is wrong.
    Source: `gpt2_model_load` of ggml-org/ggml, examples/gpt-2/main.cpp.

    >>> import tempfile
    >>> head = b"lmgg" + struct.pack("<7i", 2, 1, 2, 1, 1, 0, 2)
    >>> vocabulary = 2 * (bytes([1, 0, 0, 0]) + b"a")
    >>> tensor = struct.pack("<4i", 1, 12, 0, 2) + b"model/ln_f/g" + struct.pack("<2f", 1, -2)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder, "tiny.bin")
    ...     _ = path.write_bytes(head + vocabulary + tensor)
    ...     sizes, tensors = read_ggml(path)
    ...     sizes.n_embd, tensors["model/ln_f/g"].read()
    (2, array([ 1., -2.], dtype=float32))
    """
    path = Path(path)
    with opened(path) as file:
        version = version_of(file)
        sizes = _read_sizes(path, file)
        at = _pass_vocabulary(path, file, version[0], sizes.n_vocab)
        stored: dict[str, Stored] = {}
        while at < version[0]:
            file.seek(at)
            tensor = _read_info(path, file, version)
            where, block = place_of(path, tensor.name), tensor.block
            if tensor.name in stored:
                raise wrong(where, "comes twice, expected once")
            if len(stored) == MAX_TENSORS:
                raise wrong(path, f"more than {MAX_TENSORS:,} tensors, expected those of a GPT-2", OTHER_MODEL)
            if block.length > 1 and sizes.ftype // 1000 != BLOCKS_VERSION:
                what = f"{block.name} in blocks of version {sizes.ftype // 1000}, expected {BLOCKS_VERSION}"
                raise wrong(where, what, f"they are of before May 2023; {ANOTHER}")
            stored[tensor.name] = tensor
            count = math.prod(tensor.shape) // block.length * block.nbytes
            at = tensor.at + count
            if at > version[0]:
                left = version[0] - tensor.at
                what = f"{block.name} of shape {tensor.shape} has {count:,} bytes"
                raise wrong(where, f"{what}, expected at most the {left:,} left")
    return sizes, stored


def _read_sizes(path: Path, file: BufferedReader) -> Sizes:
    head = file.read(32)
    if head[:4] != MAGIC:
        check_kind(path, head, "a file of ggml")
        raise wrong(path, f"begins with {head[:4]!r}, expected {MAGIC!r}", "it is no file of ggml's first format")
    if len(head) < 32:
        raise wrong(path, f"{len(head)} bytes, expected at least the 32 of its head")
    *numbers, again = struct.unpack("<7i", head[4:])
    sizes = Sizes(*numbers)
    for name, number in zip(Sizes._fields, sizes, strict=True):
        if number < (name != "ftype"):
            raise wrong(path, f"{name} is {number}, expected {int(name != 'ftype')} or more", OTHER_MODEL)
    if again != sizes.n_vocab:
        raise wrong(path, f"n_vocab is {sizes.n_vocab} and then {again}, expected the same twice", OTHER_MODEL)
    kind = FTYPES.get(sizes.ftype % 1000)
    if kind is None or sizes.ftype // 1000 > BLOCKS_VERSION:
        raise wrong(path, f"ftype is {sizes.ftype}, expected 0, 1, 2002, 2003, 2007, 2008 or 2009", ANOTHER)
    if sizes.ftype > 1 and sizes.ftype // 1000 != BLOCKS_VERSION:
        what = f"{kind} in blocks of version {sizes.ftype // 1000} (ftype {sizes.ftype}), expected {BLOCKS_VERSION}"
        raise wrong(path, what, f"they are of before May 2023; {ANOTHER}")
    return sizes


def _pass_vocabulary(path: Path, file: BufferedReader, size: int, n_vocab: int) -> int:
    """Go past the tokens, and return the place of the first tensor."""
    at = file.tell()
    if n_vocab > min(MAX_VOCAB, (size - at) // 4):
        most = f"at most {MAX_VOCAB:,}, and what fits into the {size - at:,} bytes left"
        raise wrong(path, f"{n_vocab:,} tokens, expected {most}")
    for i in range(n_vocab):
        length = int.from_bytes(file.read(4), "little")
        at += 4 + length
        if at > size:
            raise wrong(path, f"token {i:,} of {length:,} bytes ends at byte {at:,}, expected at most {size:,}")
        file.seek(length, os.SEEK_CUR)
    return at


def _read_info(path: Path, file: BufferedReader, version: tuple[int, int]) -> Stored:
    """Read type, shape and name of a tensor."""
    begin = file.tell()
    n_axes, length, kind = _ints(path, file, 3)
    if not 1 <= n_axes <= 4 or not 1 <= length <= MAX_NAME:
        what = f"{n_axes} axes and a name of {length} bytes at byte {begin:,}"
        raise wrong(path, f"{what}, expected 1 to 4, and at most {MAX_NAME}")
    shape = _ints(path, file, n_axes)[::-1]
    raw = file.read(length)
    try:
        name = raw.decode()
    except UnicodeDecodeError:
        raise wrong(path, f"the name {brief(raw)} at byte {begin:,}, expected UTF-8") from None
    where = place_of(path, name)
    if kind not in BLOCKS:
        named = f"type {NOT_READ.get(kind, 'unknown')} ({kind})"
        raise wrong(where, f"{named}, expected one of {', '.join(block.name for block in BLOCKS.values())}", ANOTHER)
    block = BLOCKS[kind]
    if min(shape) < 1 or shape[-1] % block.length:
        whole = f"rows of a multiple of {block.length} numbers" if min(shape) > 0 else "axes of 1 or more"
        raise wrong(where, f"{block.name} of shape {shape}, expected {whole}")
    return Stored(path, version, name, block, shape, file.tell())


def _ints(path: Path, file: BufferedReader, count: int) -> tuple[int, ...]:
    at, raw = file.tell(), file.read(4 * count)
    if len(raw) < 4 * count:
        raise wrong(path, f"ends within a tensor's head at byte {at:,}, expected {4 * count - len(raw)} bytes more")
    return struct.unpack(f"<{count}i", raw)
