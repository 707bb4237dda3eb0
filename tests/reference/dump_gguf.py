"""Make gguf_blocks.npz: random blocks of each type of GGUF, and the numbers that they stand for.

    python tests/reference/dump_gguf.py

Peer: gguf 0.19.0, the Python package of llama.cpp, `gguf.quants.dequantize` and `gguf.quants.quantize`.
"""

from pathlib import Path

import gguf
import numpy as np

TYPES = [
    "F32",
    "F16",
    "BF16",
    "Q4_0",
    "Q4_1",
    "Q5_0",
    "Q5_1",
    "Q8_0",
    "Q2_K",
    "Q3_K",
    "Q4_K",
    "Q5_K",
    "Q6_K",
    "IQ4_NL",
    "IQ4_XS",
]

generator = np.random.default_rng(0)
found = {}
for name in TYPES:
    kind = gguf.GGMLQuantizationType[name]
    length, nbytes = gguf.GGML_QUANT_SIZES[kind]
    packed = generator.integers(0, 256, (4 if length == 256 else 32, nbytes), dtype=np.uint8)
    with np.errstate(all="ignore"):
        numbers = gguf.quants.dequantize(packed, kind)
    found[f"{name} packed"], found[f"{name} numbers"] = packed.reshape(-1), numbers.reshape(-1)
x = generator.standard_normal((8, 64)).astype(np.float32)
x[0] = 0
x[1] = generator.integers(-254, 255, 64) / 2  # half of them ties, where d is 1
x[1, 0] = x[1, 32] = 127
found["x"] = x
for name in "F16", "Q8_0":
    found[f"x {name}"] = gguf.quants.quantize(x, gguf.GGMLQuantizationType[name]).view(np.uint8).reshape(-1)
np.savez_compressed(Path(__file__).with_name("gguf_blocks.npz"), **found)
