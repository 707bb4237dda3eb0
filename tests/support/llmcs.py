"""Write tiny files of llm.c, after its Python scripts. Nothing here uses numgpt, and no test is in here."""

from pathlib import Path

import numpy as np

ORDER = (
    "ln_1.weight", "ln_1.bias", "attn.c_attn.weight", "attn.c_attn.bias", "attn.c_proj.weight", "attn.c_proj.bias",
    "ln_2.weight", "ln_2.bias", "mlp.c_fc.weight", "mlp.c_fc.bias", "mlp.c_proj.weight", "mlp.c_proj.bias",
)  # fmt: skip


def header(*values: int) -> bytes:
    return np.array([*values, *[0] * (256 - len(values))], dtype="<i4").tobytes()


def as_bf16(x: np.ndarray) -> bytes:
    """The upper half of each number: of those that bfloat16 holds."""
    return (np.ascontiguousarray(x, "<f4").view("<u4") >> 16).astype("<u2").tobytes()


def model(tensors: dict[str, np.ndarray], n_head: int = 2, version: int = 3, multiple: int = 128) -> bytes:
    """The Hub's tensors as a model file."""
    wte, wpe = tensors["wte.weight"], tensors["wpe.weight"]
    n_layer = sum(name.endswith("ln_1.weight") for name in tensors)
    rows = len(wte) if version == 1 else -(-len(wte) // multiple) * multiple
    padded = np.concatenate([wte, np.zeros((rows - len(wte), wte.shape[1]), np.float32)])
    parts = [padded, wpe]
    for name in ORDER:
        for i in range(n_layer):
            x = tensors[f"h.{i}.{name}"]
            parts.append(x.T if x.ndim == 2 else x)
    parts += [tensors["ln_f.weight"], tensors["ln_f.bias"]]
    sizes = [len(wpe), len(wte), n_layer, n_head, wte.shape[1]] + ([] if version == 1 else [rows])
    store = as_bf16 if version == 5 else lambda x: np.ascontiguousarray(x, "<f4").tobytes()
    return header(20240326, version, *sizes) + b"".join(map(store, parts))


def state(
    grads: dict[str, np.ndarray], x: np.ndarray, y: np.ndarray, logits: np.ndarray, loss: float, version: int = 2
) -> bytes:
    """A debug state, of the gradients under the Hub's names: version 1 has them without padding."""
    start = header(20240327, version, *x.shape) + x.astype("<i4").tobytes() + y.astype("<i4").tobytes()
    outputs = np.ascontiguousarray(logits, "<f4").tobytes() + np.float32(loss).astype("<f4").tobytes()
    return start + outputs + model(grads, version={1: 1, 2: 3}[version])[1024:]


def tokenizer(tokens: list[bytes], end: int, version: int = 2) -> bytes:
    body = b"".join(bytes([len(token)]) + token for token in tokens)
    return header(20240328, version, len(tokens), *([end] if version == 2 else [])) + body


def tokens(ids: list[int]) -> bytes:
    return header(20240520, 1, len(ids)) + np.array(ids, "<u2").tobytes()


def write(path: Path, raw: bytes) -> Path:
    path.unlink(missing_ok=True)  # some file systems are slow to write a file anew
    path.write_bytes(raw)
    return path
