"""KVCache.extend once more, for a cache of float16: a few heads at a time, widened in a fifth of the time.

How the bits are moved is told by `matrices.widen_half`. A KVCache takes no inf and no NaN, which would come out wrong.
Widened heads are used while they are in the processor's cache.

A token of GPT-2 XL's size (48 layers, 25 heads of 64) takes so much longer than with a cache of float32, on 2 cores of
a Xeon with 2 MB of L2 cache each, as medians of rounds in turns:

                     300 positions   1,024 positions
    astype               108 ms          237 ms
    all heads widened     26 ms           88 ms
    a few at a time       15 ms           58 ms
"""

from collections.abc import Iterator
from copy import copy

import numpy as np

from numgpt.cache import KVCache
from numgpt.fast.cores import in_parts, parts_for
from numgpt.fast.matrices import widen_half

WIDENED = 1 << 16  # numbers that are widened at a time, of keys and of values: 256 KB each


def extend(
    cache: KVCache | None, layer: int, k: np.ndarray, v: np.ndarray
) -> Iterator[tuple[slice, np.ndarray, np.ndarray]]:
    """Write new keys and values as `KVCache.extend` does, and yield some heads after others, with all their keys and
    values. Without a cache the new ones are all.

    k, v  [H, T, D]
    Yields heads, a slice of H, and k[heads], v[heads] [.., S, D], dtype of k; they hold until the next ones are asked
    for. A cache that is not narrower yields all heads at once, as views.
    """
    k, v = write(cache, layer, k, v)
    yield from widened(k, v, 0, len(k))


def write(cache: KVCache | None, layer: int, k: np.ndarray, v: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Write new keys and values [H, T, D], and return all of them [H, S, D]: of a cache of float16 as it keeps them.

    Those of a prompt of 1,024 are written on both cores, in 12 ms instead of 26, most of which go to new memory.
    """
    if cache is None:
        return k, v
    if len(k) == 1 or parts_for(k.size) == 1:
        S = cache.write(layer, k, v)
    else:

        def part(a: int, b: int) -> int:
            heads = copy(cache)
            heads.k, heads.v = cache.k[:, a:b], cache.v[:, a:b]
            return heads.write(layer, k[a:b], v[a:b])

        S, *_ = in_parts(part, len(k))
    held = cache.k[layer, :, :S], cache.v[layer, :, :S]
    return held if k.dtype == np.float32 else (held[0].astype(k.dtype, copy=False), held[1].astype(k.dtype, copy=False))


def widened(k: np.ndarray, v: np.ndarray, a: int, b: int) -> Iterator[tuple[slice, np.ndarray, np.ndarray]]:
    """Yield the keys and values of the heads from a to b: all at once, or of float16 some after others.

    k, v  [H, S, D], as `write` returns them
    Yields as extend does.
    """
    if k.dtype != np.float16:
        yield slice(a, b), k[a:b], v[a:b]
        return
    _, S, D = k.shape
    n = min(max(WIDENED // (S * D), 1), b - a)
    space = np.empty((2, n, S, D), np.float32)
    for start in range(a, b, n):
        stop = min(start + n, b)
        wide_k, wide_v = space[:, : stop - start]
        widen_half(k[start:stop].view(np.uint16), "F16", wide_k)
        widen_half(v[start:stop].view(np.uint16), "F16", wide_v)
        yield slice(start, stop), wide_k, wide_v
