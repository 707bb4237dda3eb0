"""Write tiny GGUF files, sound and damaged. Nothing here uses numgpt, and no test is in here."""

import struct
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

TYPES = {"u8": 0, "i8": 1, "u16": 2, "i16": 3, "u32": 4, "i32": 5, "f32": 6, "bool": 7, "u64": 10, "i64": 11, "f64": 12}
CODES = {"u8": "B", "i8": "b", "u16": "H", "i16": "h", "u32": "I", "i32": "i", "f32": "f", "bool": "?"}
CODES |= {"u64": "Q", "i64": "q", "f64": "d"}


class Value(NamedTuple):
    """A value of a type that is not the one that its Python type stands for."""

    kind: str
    value: Any


class Tensor(NamedTuple):
    """The bytes of a tensor, with its shape in memory and its type's number."""

    shape: tuple[int, ...]
    kind: int
    data: bytes


def string(text: str | bytes) -> bytes:
    raw = text.encode() if isinstance(text, str) else text
    return struct.pack("<Q", len(raw)) + raw


def value(x: Any) -> bytes:
    """A type and a value: int is u32, float f32; a list of str an array of strings; a list of int one of i32."""
    if isinstance(x, bytes):
        return x  # as it is
    if isinstance(x, str):
        return struct.pack("<I", 8) + string(x)
    if isinstance(x, list):
        if all(isinstance(item, str) for item in x):
            return struct.pack("<IIQ", 9, 8, len(x)) + b"".join(map(string, x))
        return struct.pack(f"<IIQ{len(x)}i", 9, 5, len(x), *x)
    kind, x = x if isinstance(x, Value) else ({bool: "bool", int: "u32", float: "f32"}[type(x)], x)
    return struct.pack("<I" + CODES[kind], TYPES[kind], x)


def f32(x: np.ndarray) -> Tensor:
    return Tensor(x.shape, 0, np.ascontiguousarray(x, "<f4").tobytes())


def f16(x: np.ndarray) -> Tensor:
    return Tensor(x.shape, 1, np.ascontiguousarray(x, "<f2").tobytes())


def bf16(x: np.ndarray) -> Tensor:
    return Tensor(x.shape, 30, (np.ascontiguousarray(x, "<f4").view("<u4") >> 16).astype("<u2").tobytes())


def gguf(keys: dict[str, Any], tensors: dict[str, Tensor], version: int = 3, alignment: int = 32) -> bytes:
    """A file, whole."""
    head = b"GGUF" + struct.pack("<IQQ", version, len(tensors), len(keys))
    for key, x in keys.items():
        head += string(key) + value(x)
    data = b""
    for name, tensor in tensors.items():
        sizes = tensor.shape[::-1]
        head += string(name) + struct.pack(f"<I{len(sizes)}QIQ", len(sizes), *sizes, tensor.kind, len(data))
        data += tensor.data + bytes(-len(tensor.data) % alignment)
    return head + bytes(-len(head) % alignment) + data


KEYS: dict[str, Any] = {  # of support.checkpoints.SIZES
    "general.architecture": "gpt2",
    "gpt2.context_length": 7,
    "gpt2.embedding_length": 6,
    "gpt2.block_count": 2,
    "gpt2.feed_forward_length": 10,
    "gpt2.attention.head_count": 2,
    "gpt2.attention.layer_norm_epsilon": 1e-5,
}
NAMES = {
    "ln_1": "attn_norm", "attn.c_attn": "attn_qkv", "attn.c_proj": "attn_output",
    "ln_2": "ffn_norm", "mlp.c_fc": "ffn_up", "mlp.c_proj": "ffn_down",
}  # fmt: skip
TOP = {"wte": "token_embd", "wpe": "position_embd", "ln_f": "output_norm", "lm_head": "output"}


def renamed(tensors: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The Hub's tensors under GGUF's names, each matrix of a layer turned to [out, in]."""
    found = {}
    for name, x in tensors.items():
        stem, _, last = name.rpartition(".")
        if stem in TOP:
            found[f"{TOP[stem]}.{last}"] = x
        else:
            _, layer, inner = stem.split(".", 2)
            found[f"blk.{layer}.{NAMES[inner]}.{last}"] = x.T if x.ndim == 2 else x
    return found


def tokenizer(length: int, added: dict[str, int] | None = None) -> dict[str, Any]:
    """The keys of a vocabulary: 256 bytes, "hi", <|endoftext|>, tokens of some types, padding up to the length."""
    visible = [*range(33, 127), *range(161, 173), *range(174, 256)]
    letters = [chr(byte) for byte in visible] + [chr(256 + i) for i in range(256 - len(visible))]
    tokens = [*letters, "hi", "<|endoftext|>", *(added or {})]
    types = [1] * 257 + [3, *(added or {}).values()]
    padding = range(len(tokens), length)
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "gpt-2",
        "tokenizer.ggml.tokens": tokens + [f"[PAD{i}]" for i in padding],
        "tokenizer.ggml.token_type": types + [5] * len(padding),
        "tokenizer.ggml.merges": ["h i"],
        "tokenizer.ggml.bos_token_id": 257,
        "tokenizer.ggml.eos_token_id": 257,
    }


def write(path: Path, keys: dict[str, Any], tensors: dict[str, Tensor], **how: Any) -> Path:
    path.unlink(missing_ok=True)
    path.write_bytes(gguf(keys, tensors, **how))
    return path
