"""Write tiny files of ggml's first format, sound and damaged. Nothing here uses numgpt, and no test is in here."""

import struct
from pathlib import Path
from typing import Any

import numpy as np
from support.ggufs import Tensor, f32

SIZES = (11, 7, 6, 2, 2)  # of support.checkpoints.SIZES: n_vocab, n_ctx, n_embd, n_head, n_layer


def renamed(tensors: dict[str, np.ndarray], old: bool = False) -> dict[str, np.ndarray]:
    """The Hub's tensors under ggml's names, each matrix turned to [out, in]; of before April 2023 mlp.c_proj alone."""
    found = {}
    for name, x in tensors.items():
        stem, _, last = name.rpartition(".")
        if stem in ("wte", "wpe", "lm_head"):
            found[f"model/{stem}"] = x
            continue
        letter = "b" if last == "bias" else "g" if x.ndim == 1 else "w"
        turned = letter == "w" and (not old or stem.endswith("mlp.c_proj"))
        path = stem.replace("h.", "h", 1) if stem.startswith("h.") else stem
        found[f"model/{path.replace('.', '/')}/{letter}"] = x.T if turned else x
    return found


def head(sizes: tuple[int, ...] = SIZES, ftype: int = 0, again: int | None = None, tokens: Any = None) -> bytes:
    """The file up to its first tensor."""
    again = sizes[0] if again is None else again
    tokens = [f"<{i}>".encode() for i in range(again)] if tokens is None else tokens
    vocabulary = b"".join(struct.pack("<I", len(token)) + token for token in tokens)
    return b"lmgg" + struct.pack("<7i", *sizes, ftype, again) + vocabulary


def tensor(name: str, x: Tensor) -> bytes:
    raw = name.encode()
    return struct.pack(f"<3i{len(x.shape)}i", len(x.shape), len(raw), x.kind, *x.shape[::-1]) + raw + x.data


def ggml(tensors: dict[str, Tensor], sizes: tuple[int, ...] = SIZES, ftype: int = 0, **how: Any) -> bytes:
    """A file, whole."""
    return head(sizes, ftype, **how) + b"".join(tensor(name, x) for name, x in tensors.items())


def small(tensors: dict[str, np.ndarray], store: Any = f32, old: bool = False) -> dict[str, Tensor]:
    """The Hub's tensors as the program of ggml has them: of another type than F32 are the matrices alone."""
    return {
        name: store(x) if x.ndim == 2 and name != "model/wpe" else f32(x) for name, x in renamed(tensors, old).items()
    }


def write(path: Path, tensors: dict[str, Tensor], **how: Any) -> Path:
    path.unlink(missing_ok=True)
    path.write_bytes(ggml(tensors, **how))
    return path
