"""Write tiny checkpoints in each of the layouts that real ones have. Nothing here uses numgpt, and no test is in here.

A checkpoint is a dict from the Hub's names to arrays. A `Raw` in it is stored in a dtype that NumPy does not have.
"""

import json
import math
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

# All sizes differ, and so do their multiples: a tensor that is taken for another one does not fit.
SIZES = {"vocab_size": 11, "n_positions": 7, "n_embd": 6, "n_head": 2, "n_layer": 2, "n_inner": 10}
CONFIG = {"model_type": "gpt2", "architectures": ["GPT2LMHeadModel"], **SIZES}

DTYPES = {
    "float64": "F64", "float32": "F32", "float16": "F16",
    "int64": "I64", "int32": "I32", "int8": "I8", "uint8": "U8", "bool": "BOOL",
}  # fmt: skip


class Raw(NamedTuple):
    """The bytes of a tensor, with the dtype that the file says."""

    dtype: str
    shape: tuple[int, ...]
    data: bytes


def hub_tensors(
    vocab_size: int = 11, n_positions: int = 7, n_embd: int = 6, n_layer: int = 2, n_inner: int = 10, seed: int = 0
) -> dict[str, np.ndarray]:
    """The parameters of a model, drawn at random, under the Hub's names without prefix.

    The values are multiples of 1/64 between -2 and 2: F16 and BF16 hold them exactly.
    """
    C, F = n_embd, n_inner
    shapes: dict[str, tuple[int, ...]] = {"wte.weight": (vocab_size, C), "wpe.weight": (n_positions, C)}
    for i in range(n_layer):
        shapes |= {
            f"h.{i}.ln_1.weight": (C,),
            f"h.{i}.ln_1.bias": (C,),
            f"h.{i}.attn.c_attn.weight": (C, 3 * C),
            f"h.{i}.attn.c_attn.bias": (3 * C,),
            f"h.{i}.attn.c_proj.weight": (C, C),
            f"h.{i}.attn.c_proj.bias": (C,),
            f"h.{i}.ln_2.weight": (C,),
            f"h.{i}.ln_2.bias": (C,),
            f"h.{i}.mlp.c_fc.weight": (C, F),
            f"h.{i}.mlp.c_fc.bias": (F,),
            f"h.{i}.mlp.c_proj.weight": (F, C),
            f"h.{i}.mlp.c_proj.bias": (C,),
        }
    shapes |= {"ln_f.weight": (C,), "ln_f.bias": (C,)}
    generator = np.random.default_rng(seed)
    return {name: generator.integers(-128, 128, shape).astype(np.float32) / 64 for name, shape in shapes.items()}


def prefixed(prefix: str, tensors: dict[str, Any]) -> dict[str, Any]:
    """The same with a prefix before each name."""
    return {prefix + name: x for name, x in tensors.items()}


def masks(n_layer: int = 2, n_positions: int = 7, dtype: Any = np.float32) -> dict[str, np.ndarray]:
    """The causal mask of each layer, under the name that looks like a bias."""
    mask = np.tri(n_positions).astype(dtype).reshape(1, 1, n_positions, n_positions)
    return {f"h.{i}.attn.bias": mask for i in range(n_layer)}


def masked_bias(n_layer: int = 2) -> dict[str, np.ndarray]:
    """The value that goes where the mask is 0, a scalar for each layer."""
    return {f"h.{i}.attn.masked_bias": np.array(-1e4, np.float32) for i in range(n_layer)}


def layouts(tensors: dict[str, np.ndarray], n_layer: int = 2, n_positions: int = 7) -> dict[str, dict[str, Any]]:
    """One set of parameters in each layout that checkpoints on the Hub have."""
    head = {"lm_head.weight": tensors["wte.weight"]}
    f32, u8, boolean = (masks(n_layer, n_positions, dtype) for dtype in (np.float32, np.uint8, np.bool_))
    halves = {name: x.astype(np.float16) for name, x in tensors.items()}
    dialogpt = {"lm_head.decoder.weight": halves["wte.weight"]}
    old = prefixed("transformer.", tensors | u8 | masked_bias(n_layer))
    return {
        "gpt2": tensors | f32,
        "distilgpt2": prefixed("transformer.", tensors | f32),
        "transformers 5": prefixed("transformer.", tensors),
        "DialoGPT": prefixed("transformer.", halves | f32) | dialogpt,
        "DialoGPT of Paddle": prefixed("transformer.", tensors) | head,
        "fine-tuned": old | head,
        "masks in BOOL": prefixed("transformer.", tensors | boolean | masked_bias(n_layer)) | head,
        "DataParallel": prefixed("module.", old | head),
        "torch.compile": prefixed("_orig_mod.", old | head),
        "DataParallel of torch.compile": prefixed("module._orig_mod.", old | head),
        "torch.compile of DataParallel": prefixed("_orig_mod.module.", tensors),
        "torch.compile of the body": prefixed("transformer._orig_mod.", tensors),
    }


def bf16(x: np.ndarray) -> Raw:
    """The upper half of each float32."""
    return Raw("BF16", x.shape, (np.ascontiguousarray(x).view(np.uint32) >> 16).astype("<u2").tobytes())


def raw(x: np.ndarray | Raw) -> Raw:
    """An array as safetensors holds it: little-endian, in C order."""
    if isinstance(x, Raw):
        return x
    return Raw(DTYPES[x.dtype.name], x.shape, x.astype(x.dtype.newbyteorder("<")).tobytes())


def write_safetensors(path: Path, tensors: dict[str, np.ndarray | Raw], old: bool = False) -> Path:
    """Write a safetensors file: as today's writer does, or as that of gpt2, medium, large, xl and distilgpt2 did.

    old: the data begins at an odd address, and its order is neither that of the header nor that of the names.
    """
    stored = {name: raw(x) for name, x in tensors.items()}
    order = sorted(stored, key=lambda name: name[::-1]) if old else list(stored)  # any other order would do
    offsets, data = {}, b""
    for name in order:
        offsets[name] = [len(data), len(data) + len(stored[name].data)]
        data += stored[name].data
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    for name, x in stored.items():
        header[name] = {"dtype": x.dtype, "shape": list(x.shape), "data_offsets": offsets[name]}
    text = json.dumps(header, separators=(",", ":")).encode()
    aligned = math.ceil(len(text) / 8) * 8
    text = text.ljust(aligned + 1 if old else aligned)
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)
    return path


def write_json(path: Path, value: Any) -> Path:
    path.write_text(json.dumps(value), encoding="utf-8")
    return path


def write_checkpoint(
    folder: Path,
    tensors: dict[str, Any] | None = None,
    config: Any = CONFIG,
    name: str = "model.safetensors",
    **how: Any,
) -> Path:
    """Write a folder with a config.json and a file of weights, by default a sound one. Returns the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "config.json", config)
    write_safetensors(folder / name, hub_tensors() if tensors is None else tensors, **how)
    return folder


def write_shards(folder: Path, tensors: dict[str, Any], config: Any = CONFIG, shards: int = 3) -> Path:
    """Write a checkpoint in several files and their index. Returns the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "config.json", config)
    names = list(tensors)
    weight_map = {}
    for k in range(shards):
        file = f"model-{k + 1:05}-of-{shards:05}.safetensors"
        write_safetensors(folder / file, {name: tensors[name] for name in names[k::shards]})
        weight_map |= dict.fromkeys(names[k::shards], file)
    index = {"metadata": {"total_size": 0}, "weight_map": weight_map}
    write_json(folder / "model.safetensors.index.json", index)
    return folder


TOKENS = 258  # of write_tokenizer: 256 bytes, one merge and <|endoftext|>


def write_tokenizer(folder: Path, added: tuple[str, ...] = ()) -> Path:
    """Write vocab.json and merges.txt of a vocabulary of 258, and special tokens after them. Returns the folder."""
    visible = [*range(33, 127), *range(161, 173), *range(174, 256)]
    letters = [chr(byte) for byte in visible] + [chr(256 + i) for i in range(256 - len(visible))]
    pieces = [*letters, "hi", "<|endoftext|>", *added]
    write_json(folder / "vocab.json", {piece: i for i, piece in enumerate(pieces)})
    (folder / "merges.txt").write_text("#version: 0.2\nh i\n", encoding="utf-8")
    if added:
        write_json(folder / "special_tokens_map.json", {"additional_special_tokens": list(added)})
    return folder
