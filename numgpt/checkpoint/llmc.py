"""llm.c's model files: gpt2_124M.bin, what it trains into, and what its debug state repeats in the same order.

Little-endian throughout. Every file of llm.c begins with 256 int32, the header, of which the first tells what it is and
those that are not named are 0. A model's are

    20240326, version, n_ctx, n_vocab, n_layer, n_head, C, n_rows

    version 3  float32
    version 5  bfloat16, the upper half of a float32, rounded half to even
    version 1  float32 of the first days, without padding: n_rows is not there, and is n_vocab

After it the tensors follow without gaps, each as the rows of nn.Linear, [out, in], for all layers before the next:

    wte          [n_rows, C]
    wpe          [n_ctx, C]
    ln_1         weight [L, C],     then bias [L, C]; and so on for each of these:
    attn.c_attn  weight [L, 3C, C], bias [L, 3C]
    attn.c_proj  weight [L, C, C],  bias [L, C]
    ln_2         weight [L, C],     bias [L, C]
    mlp.c_fc     weight [L, 4C, C], bias [L, 4C]
    mlp.c_proj   weight [L, C, 4C], bias [L, C]
    ln_f         weight [C],        bias [C]

n_rows is n_vocab rounded up to 128, 50304 of 50257; the rows past n_vocab are 0 and stand for nothing. All else is
GPT-2's and fixed: gelu_new, epsilon 1e-5, an MLP of width 4C, the output head is wte.

Source: karpathy/llm.c, train_gpt2.py (write_model) and train_gpt2.c (gpt2_build_from_checkpoint).
"""

from collections.abc import Iterator, Mapping
from typing import BinaryIO

import numpy as np

from numgpt.checkpoint.files import CHUNK
from numgpt.checkpoint.quants import pack
from numgpt.checkpoint.tensors import LazyTensor
from numgpt.config import Config

HEADER = 256  # int32
MODEL, DEBUG_STATE, TOKENIZER, TOKENS = 20240326, 20240327, 20240328, 20240520  # the first of a header
DTYPES = {1: "F32", 3: "F32", 5: "BF16"}  # of a model, by its version
PADDED = 128  # n_rows is a multiple of it


def header(*values: int) -> bytes:
    """Return a header that begins with these values.

    >>> len(header(MODEL, 3)), header(MODEL, 3)[:8].hex()
    (1024, 'c6d7340103000000')
    """
    return np.array([*values, *[0] * (HEADER - len(values))], "<i4").tobytes()


def padded_rows(n_vocab: int) -> int:
    """Return how many rows the embedding of so many tokens has in a file.

    >>> padded_rows(50257), padded_rows(128)
    (50304, 128)
    """
    return -(-n_vocab // PADDED) * PADDED


def layout(config: Config, n_rows: int) -> dict[str, tuple[int, ...]]:
    """Return the tensors of a model in their order in a file, by the Hub's names, with their shapes there.

    config  of which the sizes count
    n_rows  rows of the embedding in the file: `padded_rows`

    >>> config = Config(n_vocab=9, n_ctx=5, n_embd=4, n_head=2, n_layer=2)
    >>> list(layout(config, 128).items())[:5]
    [('wte.weight', (128, 4)), ('wpe.weight', (5, 4)), ('h.0.ln_1.weight', (4,)), ('h.1.ln_1.weight', (4,)), \
('h.0.ln_1.bias', (4,))]
    """
    C = config.n_embd
    layer: dict[str, tuple[int, ...]] = {
        "ln_1.weight": (C,),
        "ln_1.bias": (C,),
        "attn.c_attn.weight": (3 * C, C),
        "attn.c_attn.bias": (3 * C,),
        "attn.c_proj.weight": (C, C),
        "attn.c_proj.bias": (C,),
        "ln_2.weight": (C,),
        "ln_2.bias": (C,),
        "mlp.c_fc.weight": (4 * C, C),
        "mlp.c_fc.bias": (4 * C,),
        "mlp.c_proj.weight": (C, 4 * C),
        "mlp.c_proj.bias": (C,),
    }
    stacked = {f"h.{i}.{name}": shape for name, shape in layer.items() for i in range(config.n_layer)}
    return {
        "wte.weight": (n_rows, C),
        "wpe.weight": (config.n_ctx, C),
        **stacked,
        "ln_f.weight": (C,),
        "ln_f.bias": (C,),
    }


def is_turned(name: str) -> bool:
    """Tell whether a tensor, by the Hub's name, lies in a file as the transpose of what the Hub has."""
    return name.endswith((".c_attn.weight", ".c_fc.weight", ".c_proj.weight"))


def write_tensors(
    file: BinaryIO, tensors: Mapping[str, LazyTensor], config: Config, n_rows: int, dtype: str = "F32"
) -> None:
    """Write the tensors of a model, or others of the same shapes such as its gradients, in the order of `layout`.

    file     where they go, one after another
    tensors  by the Hub's names and in its layout: matrices [in, out], wte [n_vocab, C], padded with zeros to n_rows
    dtype    "F32" or "BF16"
    Raises FloatingPointError with the tensor's name where a number is too large for the dtype.

    >>> from io import BytesIO
    >>> from numgpt.checkpoint.tensors import tensor_of
    >>> config = Config(n_vocab=9, n_ctx=5, n_embd=4, n_head=2, n_layer=0)
    >>> tensors = {"wte.weight": (9, 4), "wpe.weight": (5, 4), "ln_f.weight": (4,), "ln_f.bias": (4,)}
    >>> file = BytesIO()
    >>> write_tensors(file, {name: tensor_of(np.ones(shape)) for name, shape in tensors.items()}, config, 128)
    >>> int(np.frombuffer(file.getvalue(), "<f4").sum())
    64
    """
    for name, shape in layout(config, n_rows).items():
        count = 0
        for packed in _strips(tensors[name].read(), name, dtype):
            count += file.write(packed)
        size = int(np.prod(shape, dtype=object)) * (4 if dtype == "F32" else 2)
        file.write(bytes(size - count))


def _strips(array: np.ndarray, name: str, dtype: str) -> Iterator[bytes]:
    """Yield the bytes of a tensor, some rows at a time, so that little is held twice."""
    rows = (array.T if is_turned(name) else array).reshape(-1, array.shape[0 if is_turned(name) else -1])
    step = max(1, CHUNK // rows.shape[1])
    for i in range(0, len(rows), step):
        try:
            with np.errstate(over="raise"):
                part = rows[i : i + step].astype("<f4")
                yield pack(dtype, round_to_bf16(part) if dtype == "BF16" else part).tobytes()
        except FloatingPointError:
            raise FloatingPointError(f"{name} has a number that is too large for {dtype}") from None


def round_to_bf16(x: np.ndarray) -> np.ndarray:
    """Return float32 numbers rounded to those that bfloat16 has, half to even. What is no number stays none.

    Raises FloatingPointError where a number becomes infinite.

    >>> round_to_bf16(np.array([1 + 1 / 256, 1 + 3 / 256], np.float32))
    array([1.      , 1.015625], dtype=float32)
    """
    bits = np.ascontiguousarray(x, np.float32).view(np.uint32)
    rounded = (bits + (0x7FFF + (bits >> 16 & 1)).astype(np.uint32)) & np.uint32(0xFFFF0000)
    rounded = np.where(np.isnan(x), bits & 0xFFFF0000 | 0x400000, rounded).astype(np.uint32).view(np.float32)
    if np.isinf(rounded[np.isfinite(x)]).any():
        raise FloatingPointError("a number is too large for bfloat16")
    return rounded
