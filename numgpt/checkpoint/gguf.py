"""Read GGUF, llama.cpp's format: weights, sizes and tokenizer in one file, or in the parts of a split one.

A file has four parts, little-endian throughout:

    4 bytes   "GGUF"
    u32       the version: 2 or 3, which are the same
    u64, u64  how many tensors, how many pairs
    pairs     each a key, a u32 type and a value: the sizes of the model, its tokenizer, what people note
    tensors   each a name, u32 n, n sizes of u64 with the innermost first, a u32 type, and a u64 offset into the data
    zeros     up to a multiple of the alignment: general.alignment, or 32
    data      the tensors, in the same order, each followed by zeros up to a multiple of the alignment

    string    u64 number of bytes, and UTF-8
    value     by its type, u8 i8 u16 i16 u32 i32 f32 bool string array u64 i64 f64, counted from 0
    array     the u32 type of its elements, the u64 number of them, and their values; no arrays in arrays

A tensor of type F32, F16 or BF16 is plain numbers; the other types are in quants.py. A matrix lies in the file as
[out, in], one row for each output: the Hub's [in, out] is its transpose. GPT-2 has these tensors and keys:

    token_embd.weight position_embd.weight output_norm.{weight,bias}; output.weight, unless it is token_embd's
    blk.N.{attn_norm,attn_qkv,attn_output,ffn_norm,ffn_up,ffn_down}.{weight,bias}
    gpt2.{context_length,embedding_length,block_count,feed_forward_length}
    gpt2.attention.{head_count,layer_norm_epsilon}
    tokenizer.ggml.{model,pre,tokens,token_type,merges,bos_token_id,eos_token_id,eot_token_id,eom_token_id}
    tokenizer.ggml.{add_bos_token,add_eos_token}

There is no key for the activation, which is gelu_new, or for another scale of the scores.

Two traps. Where the id of end-of-text is missing, llama.cpp takes 11, a comma; we take the token <|endoftext|>. Where
tokenizer.ggml.pre is missing, it splits text in a way that no GPT-2 does; we split as GPT-2.

Source: ggml-org/ggml, docs/gguf.md; ggml-org/llama.cpp, ggml/src/gguf.cpp and src/models/gpt2.cpp. Where we are
stricter: arrays in arrays, sizes of 0, more than MAX_ITEMS tensors or pairs, and more than MAX_HEAD bytes before the
data are refused.
"""

import math
import os
import re
from collections.abc import Iterator
from functools import partial
from io import BufferedReader
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from numgpt.checkpoint.aliases import join_qkv
from numgpt.checkpoint.contract import Glance, Opened
from numgpt.checkpoint.files import CHUNK, brief, check_kind, fill, listing, opened, place_of, version_of, wrong
from numgpt.checkpoint.gguf_tokens import NORMAL, from_lists
from numgpt.checkpoint.quants import BLOCKS, NOT_READ, Block, split_q8_0, unpack
from numgpt.checkpoint.settings import config_from_json
from numgpt.checkpoint.tensors import LazyTensor
from numgpt.config import Config
from numgpt.fast.tokenizer import Tokenizer

MAX_HEAD = 12_000_000  # bytes before the data; a GPT-2 has 2 million
MAX_ITEMS = 1 << 15  # tensors, and pairs; GPT-2 XL has 580 and some 20
SCALARS = {
    0: "u1", 1: "i1", 2: "<u2", 3: "<i2", 4: "<u4", 5: "<i4", 6: "<f4", 7: "?", 10: "<u8", 11: "<i8", 12: "<f8",
}  # fmt: skip
STRING, ARRAY = 8, 9
GPT2_SPLITTERS = (  # names of tokenizer.ggml.pre for which llama.cpp splits with GPT-2's regular expression
    "default", "gpt-2", "phi-2", "roberta-bpe", "jina-es", "jina-de", "jina-v1-en", "jina-v2-es", "jina-v2-de",
    "jina-v2-code", "gigachat", "a.x-4.0", "mellum", "exaone4", "modern-bert", "mpt", "olmo", "jais", "trillion",
)  # fmt: skip
NAMES = {  # of ours, in the Hub's spelling, without .weight and .bias
    "token_embd": "wte",
    "position_embd": "wpe",
    "blk.#.attn_norm": "h.#.ln_1",
    "blk.#.attn_qkv": "h.#.attn.c_attn",
    "blk.#.attn_q": "h.#.attn.query",  # some converters write the rows of c_attn apart
    "blk.#.attn_k": "h.#.attn.key",
    "blk.#.attn_v": "h.#.attn.value",
    "blk.#.attn_output": "h.#.attn.c_proj",
    "blk.#.ffn_norm": "h.#.ln_2",
    "blk.#.ffn_up": "h.#.mlp.c_fc",
    "blk.#.ffn_down": "h.#.mlp.c_proj",
    "output_norm": "ln_f",
    "output": "lm_head",
}
FURTHER_ENDS = ("tokenizer.ggml.eot_token_id", "tokenizer.ggml.eom_token_id")  # which end a text too
PART = re.compile(r"(.*)-(\d{5})-of-(\d{5})\.gguf", re.DOTALL)
CONVERT = "convert it with numgpt convert, or with llama.cpp's convert_hf_to_gguf.py"


class Numbers(NamedTuple):
    """An array of numbers among the pairs: kept apart, as a comparison with a NumPy array is no truth value."""

    array: np.ndarray


class Stored(NamedTuple):
    """Where a tensor lies in a file, and how."""

    path: Path
    version: tuple[int, int]
    name: str
    block: Block
    shape: tuple[int, ...]
    at: int

    def read(self, turned: bool = False) -> np.ndarray:
        """Read the tensor, or its transpose: a new float32 array."""
        try:
            out = np.empty(self.shape[::-1] if turned else self.shape, np.float32)
        except MemoryError:
            fault = f"{self.block.name} of shape {self.shape}, expected one that fits into memory"
            raise wrong(place_of(self.path, self.name), fault, "use a smaller model") from None
        return self.into(turned, out)

    def into(self, turned: bool, out: np.ndarray) -> np.ndarray:
        """Read the tensor, or its transpose, into an array: some rows at a time, so that little is held twice."""
        rows = out.T if turned else out if out.ndim == 2 else out.reshape(-1, self.shape[-1])
        for start, packed in self.packed_rows(len(rows)):
            part = rows[start : start + len(packed)]
            part[:] = unpack(self.block.name, packed).reshape(part.shape)
        return out

    def blocks(self) -> tuple[np.ndarray, np.ndarray]:
        """Read a matrix of Q8_0 as it is: q [rows, width] int8, and the scales of its blocks, [rows, width / 32]."""
        n, width = self.shape
        q, scales = np.empty((n, width), np.int8), np.empty((n, width // 32), np.float32)
        for start, packed in self.packed_rows(n):
            rows = slice(start, start + len(packed))
            scales[rows], q[rows] = split_q8_0(packed)
        return q, scales

    def packed_rows(self, n: int) -> Iterator[tuple[int, np.ndarray]]:
        """Yield the bytes of n rows, some rows at a time, in memory that is used again: where they begin, and they."""
        width, where = self.shape[-1], place_of(self.path, self.name)
        step = max(1, CHUNK // width)
        row_bytes = width // self.block.length * self.block.nbytes
        with opened(self.path) as file:
            if version_of(file) != self.version:
                raise wrong(where, "the file has changed, expected it as its header was read", "open it again")
            file.seek(self.at)
            buffer = np.empty((min(step, n), row_bytes), np.uint8)
            for start in range(0, n, step):
                packed = buffer[: n - start]
                fill(packed, file, where)
                yield start, packed


def is_mine(glance: Glance) -> bool:
    """Tell whether a file is one of GGUF."""
    return glance.start[:4] == b"GGUF"


def open_weights(glance: Glance) -> Opened:
    """Open a GGUF file, or the first part of a split one."""
    keys, stored = read_gguf(glance.path)
    kind, architecture = keys.get("general.type", "model"), keys.get("general.architecture")
    if kind != "model":
        what = f"general.type is {_told(kind)}, expected 'model': it is no model by itself"
        raise wrong(glance.path, what, "give the file of the whole model")
    if architecture != "gpt2":
        what = f"general.architecture is {_told(architecture)}, expected 'gpt2'"
        raise wrong(glance.path, what, "numgpt runs GPT-2 and no other model; run this one with llama.cpp")
    tensors = {name: LazyTensor(x.block.name, x.shape, x.read) for name, x in stored.items()}
    hub_tensors = {_hub_name(name): _hub_tensor(name, x) for name, x in stored.items()}
    if len(hub_tensors) < len(tensors):
        both = next(name for name in stored if _hub_name(name) != name and _hub_name(name) in stored)
        raise wrong(place_of(glance.path, both), "is there under the Hub's name too, expected it once", CONVERT)
    hub_tensors = join_qkv(hub_tensors, axis=1)
    config = _config(glance.path, keys, hub_tensors)
    tokenizer = partial(_tokenizer, glance.path, keys)
    return Opened(glance.path, "gguf", tensors, hub_tensors, config, {}, None, tokenizer)


def _hub_name(name: str) -> str:
    """Return the Hub's name of a tensor; its own, where it is none of GPT-2's.

    >>> _hub_name("blk.3.attn_norm.bias"), _hub_name("output.weight"), _hub_name("rope_freqs.weight")
    ('h.3.ln_1.bias', 'lm_head.weight', 'rope_freqs.weight')
    """
    layer = re.match(r"blk\.(\d+)\.", name)
    stem, _, last = re.sub(r"^blk\.\d+\.", "blk.#.", name).rpartition(".")
    return f"{NAMES[stem]}.{last}".replace("#", layer[1] if layer else "") if stem in NAMES else name


def _hub_tensor(name: str, x: Stored) -> LazyTensor:
    """Return a tensor in the Hub's layout: a matrix of a layer is the transpose of what the file has."""
    turned = name.startswith("blk.") and len(x.shape) == 2
    dtype = x.block.name if x.block.length == 1 else "F32"
    shape = x.shape[::-1] if turned else x.shape
    blocks = x.blocks if x.block.name == "Q8_0" and len(x.shape) == 2 else None
    return LazyTensor(dtype, shape, partial(x.read, turned), partial(x.into, turned), by_columns=True, blocks=blocks)


def _config(path: Path, keys: dict[str, Any], tensors: dict[str, LazyTensor]) -> Config:
    """Read the Config out of the pairs. A file without tensors, a vocabulary alone, may leave out sizes."""

    def number(key: str, default: Any = None) -> Any:
        value = keys.get(key, default)
        if type(value) is not int and (value is not None or tensors):
            raise wrong(path, f"{key} is {_told(value)}, expected an integer", CONVERT)
        return value

    head_count, eps = number("gpt2.attention.head_count"), keys.get("gpt2.attention.layer_norm_epsilon")
    if type(eps) is not float and (eps is not None or tensors):
        raise wrong(path, f"gpt2.attention.layer_norm_epsilon is {_told(eps)}, expected a number", CONVERT)
    if number("gpt2.attention.head_count_kv", head_count) != head_count:
        what = f"gpt2.attention.head_count_kv is {keys['gpt2.attention.head_count_kv']}, expected {head_count}"
        raise wrong(path, what, "GPT-2 has a key and a value for each head")
    texts = keys.get("tokenizer.ggml.tokens")
    texts = texts if isinstance(texts, list) else []
    ending = texts.index("<|endoftext|>") if "<|endoftext|>" in texts else None
    eos = keys.get("tokenizer.ggml.eos_token_id", ending)
    ends = [eos, *map(keys.get, FURTHER_ENDS)]
    embedding, width = tensors.get("wte.weight"), number("gpt2.embedding_length")
    inner = number("gpt2.feed_forward_length", width and 4 * width)
    values = {
        "n_vocab": embedding.shape[0] if embedding else len(texts) or None,
        "n_positions": number("gpt2.context_length"),
        "n_embd": width,
        "n_head": head_count,
        "n_layer": number("gpt2.block_count"),
        "n_inner": None if inner == (width and 4 * width) else inner,
        "layer_norm_epsilon": eps,
        "eos_token_id": [i for i in ends if i is not None],
        "bos_token_id": keys.get("tokenizer.ggml.bos_token_id", eos),
    }
    return config_from_json(values, source=str(path))


def _tokenizer(path: Path, keys: dict[str, Any]) -> Tokenizer | None:
    """Make the tokenizer out of the pairs. None where the file has none."""

    def strings(key: str) -> list[str]:
        value = keys.get(f"tokenizer.ggml.{key}")
        if not isinstance(value, list):
            raise wrong(path, f"tokenizer.ggml.{key} is {_told(value)}, expected an array of strings", CONVERT)
        return value

    model, splitter = keys.get("tokenizer.ggml.model"), keys.get("tokenizer.ggml.pre", "default")
    if model in (None, "none", "no_vocab"):
        return None
    for key, value, known in ("model", model, ("gpt2",)), ("pre", splitter, GPT2_SPLITTERS):
        if not isinstance(value, str) or value not in known:
            what = f"tokenizer.ggml.{key} is {_told(value)}, expected '{'gpt2' if key == 'model' else 'gpt-2'}'"
            raise wrong(path, what, "its text becomes ids in another way than GPT-2's; run it with llama.cpp")
    tokens = strings("tokens")
    around: list[list[Any]] = []
    for key in "bos", "eos":
        said, i = keys.get(f"tokenizer.ggml.add_{key}_token", False), keys.get(f"tokenizer.ggml.{key}_token_id")
        if type(said) is not bool or (said and (type(i) is not int or not 0 <= i < len(tokens))):
            what = f"tokenizer.ggml.add_{key}_token is {_told(said)}, with the id {_told(i)}, expected a token"
            raise wrong(path, what, CONVERT)
        around.append([i] if said else [])
    types = keys.get("tokenizer.ggml.token_type", Numbers(np.full(len(tokens), NORMAL)))
    if not isinstance(types, Numbers) or types.array.dtype.kind not in "iu" or len(types.array) != len(tokens):
        raise wrong(path, f"tokenizer.ggml.token_type: expected one integer for each of the {len(tokens):,} tokens")
    return from_lists(tokens, types.array.tolist(), strings("merges"), str(path), *around)


# ---- the container


def read_gguf(path: str | os.PathLike[str]) -> tuple[dict[str, Any], dict[str, Stored]]:
    """Open a GGUF file, or all parts of a split one: check all that it says of itself, and read no data.

    path  the file, or the first part, NAME-00001-of-00003.gguf
    Returns its pairs, and its tensors by name, as they lie in the file. A string is a str, an array of strings a list,
    another array Numbers, an f32 the shortest float that rounds to it.
    Raises CheckpointError if the file is missing or anything in it is wrong.
    Source: ggml-org/ggml, docs/gguf.md; ggml-org/llama.cpp, ggml/src/gguf.cpp.

    >>> import tempfile
    >>> def string(text): return len(text).to_bytes(8, "little") + text.encode()
    >>> pair = string("general.alignment") + bytes([4, 0, 0, 0]) + bytes([8, 0, 0, 0])
    >>> tensor = string("a") + bytes([1, 0, 0, 0]) + bytes([2] + 7 * [0]) + bytes(4) + bytes(8)
    >>> head = b"GGUF" + bytes([3, 0, 0, 0] + 2 * ([1] + 7 * [0])) + pair + tensor
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder, "tiny.gguf")
    ...     _ = path.write_bytes(head + bytes(-len(head) % 8) + np.array([1, -2], "<f4").tobytes())
    ...     keys, tensors = read_gguf(path)
    ...     keys, tensors["a"].read()
    ({'general.alignment': 8}, array([ 1., -2.], dtype=float32))
    """
    path = Path(path)
    keys, tensors = _read_part(path)
    count = keys.get("split.count", 1)
    if type(count) is not int or count <= 1:
        return keys, tensors
    match = PART.fullmatch(path.name)
    if not match or int(match[3]) != count or keys.get("split.no") != int(match[2]) - 1:
        what = f"part {_told(keys.get('split.no'))} of {count}, counted from 0, expected its name to say so"
        raise wrong(path, what, f"name the parts NAME-00001-of-{count:05}.gguf, and so on")
    parts = [path.with_name(f"{match[1]}-{k:05}-of-{count:05}.gguf") for k in range(1, count + 1)]
    if path != parts[0]:
        raise wrong(path, f"part {int(match[2])} of {count}, expected the first", f"give {parts[0].name}")
    if missing := [part.name for part in parts if not part.is_file()]:
        raise wrong(path, f"parts are missing, expected in the same folder: {listing(missing)}", "download them")
    for k, part in enumerate(parts[1:], 1):
        further, more = _read_part(part)
        if (further.get("split.no"), further.get("split.count")) != (k, count):
            raise wrong(part, f"is no part {k + 1} of {count}, expected the one that belongs to {path.name}")
        if both := tensors.keys() & more.keys():
            raise wrong(place_of(part, min(both)), "is in another part too, expected in one of them")
        tensors.update(more)
    if keys.get("split.tensors.count", len(tensors)) != len(tensors):
        raise wrong(path, f"{len(tensors):,} tensors in all parts, expected {_told(keys['split.tensors.count'])}")
    return keys, tensors


def _read_part(path: Path) -> tuple[dict[str, Any], dict[str, Stored]]:
    with opened(path) as file:
        head = _Head(path, file)
        start = head.take(4)
        if start != b"GGUF":
            check_kind(path, start, "a GGUF file")
            raise wrong(path, f"begins with {start!r}, expected b'GGUF'", "it is no GGUF file")
        version = head.number("<u4")
        if version not in (2, 3):
            what = f"GGUF of version {version}, expected 2 or 3"
            if version and version & 0xFFFF == 0:
                what = "a GGUF file for big-endian machines, expected a little-endian one"
            raise wrong(path, what, "make it anew from the model that it was made of, or download another file")
        n_tensors, n_pairs = head.number("<u8"), head.number("<u8")
        for count, least, what in (n_tensors, 32, "tensors"), (n_pairs, 13, "pairs"):
            head.expect(count * least, f"{count:,} {what}")
            if count > MAX_ITEMS:
                raise wrong(path, f"{count:,} {what}, expected at most {MAX_ITEMS:,}", "it is no file of a GPT-2")
        keys: dict[str, Any] = {}
        for _ in range(n_pairs):
            key = head.strings(1)[0]
            if key in keys:
                raise wrong(path, f"the key {brief(key)} comes twice, expected once")
            keys[key] = head.value(head.number("<u4"))
        infos = [head.info() for _ in range(n_tensors)]

    alignment = keys.get("general.alignment", 32)
    if type(alignment) is not int or alignment < 1 or alignment & (alignment - 1):
        raise wrong(path, f"general.alignment is {_told(alignment)}, expected a power of two")
    tensors: dict[str, Stored] = {}
    data, end = head.at + -head.at % alignment, 0
    for name, block, shape, offset in infos:
        where = place_of(path, name)
        if name in tensors:
            raise wrong(where, "comes twice, expected once")
        if offset != end:
            raise wrong(where, f"begins at byte {offset:,} of the data, expected {end:,}, where the one before it ends")
        size = math.prod(shape) // block.length * block.nbytes
        if data + end + size > head.size:
            left = max(0, head.size - data - end)
            raise wrong(
                where, f"{block.name} of shape {brief(shape)} has {size:,} bytes, expected at most the {left:,} left"
            )
        tensors[name] = Stored(path, head.version, name, block, shape, data + end)
        end += size + -size % alignment
    return keys, tensors


class _Head:
    """The part of a file before its data, from front to back. Nothing is made of a count that can't be right."""

    def __init__(self, path: Path, file: BufferedReader) -> None:
        self.path, self.at = path, 0
        self.version = version_of(file)
        self.size = self.version[0]
        self.raw = file.read(MAX_HEAD)

    def expect(self, count: int, what: str) -> None:
        """Refuse what needs more bytes than are left."""
        left = len(self.raw) - self.at
        if count > left:
            limit = "" if self.size <= MAX_HEAD else f" of the {MAX_HEAD:,} that a header may have"
            raise wrong(self.path, f"{what} at byte {self.at:,}, expected at most the {left:,} bytes left{limit}")

    def take(self, count: int) -> bytes:
        self.expect(count, f"{count:,} bytes")
        self.at += count
        return self.raw[self.at - count : self.at]

    def number(self, dtype: str) -> Any:
        x = np.frombuffer(self.take(np.dtype(dtype).itemsize), dtype)[0]
        return float(str(x)) if dtype == "<f4" else x.item()

    def strings(self, count: int) -> list[str]:
        self.expect(8 * count, f"{count:,} strings")
        raw, at, found = self.raw, self.at, []
        try:
            for _ in range(count):
                begin = at + 8
                end = begin + int.from_bytes(raw[at:begin], "little")
                found.append(raw[begin:end].decode())
                if end > len(raw):
                    self.at = begin
                    self.take(end - begin)
                at = end
        except UnicodeDecodeError as error:
            raise wrong(self.path, f"the string {brief(error.object)} at byte {at:,}, expected UTF-8") from None
        self.at = at
        return found

    def value(self, kind: int) -> Any:
        if kind == STRING:
            return self.strings(1)[0]
        if kind != ARRAY:
            return self.number(self.scalar(kind))
        kind, count = self.number("<u4"), self.number("<u8")
        if kind == STRING:
            return self.strings(count)
        dtype = self.scalar(kind)
        return Numbers(np.frombuffer(self.take(count * np.dtype(dtype).itemsize), dtype))

    def scalar(self, kind: int) -> str:
        if kind not in SCALARS:
            raise wrong(self.path, f"a value of type {kind} at byte {self.at:,}, expected a number or a string")
        return SCALARS[kind]

    def info(self) -> tuple[str, Block, tuple[int, ...], int]:
        """Read name, type, shape and offset of a tensor."""
        name, axes = self.strings(1)[0], self.number("<u4")
        where = place_of(self.path, name)
        if not 1 <= axes <= 4:
            raise wrong(where, f"{axes:,} axes, expected 1 to 4")
        shape = tuple(self.number("<u8") for _ in range(axes))[::-1]
        kind, offset = self.number("<u4"), self.number("<u8")
        if kind not in BLOCKS:
            named = f"type {NOT_READ.get(kind, 'unknown')} ({kind})"
            expected = ", ".join(block.name for block in BLOCKS.values())
            raise wrong(where, f"{named}, expected one of {expected}", "use a file of the model in one of these types")
        block = BLOCKS[kind]
        if min(shape) < 1 or shape[-1] % block.length:
            whole = f"rows of a multiple of {block.length} numbers" if min(shape) else "no axis of 0"
            raise wrong(where, f"{block.name} of shape {brief(shape)}, expected {whole}")
        return name, block, shape, offset


def _told(value: Any) -> str:
    """Write a value of a pair in a short line."""
    return "missing" if value is None else "an array" if isinstance(value, (list, Numbers)) else brief(value)
