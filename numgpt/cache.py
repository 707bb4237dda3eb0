"""KVCache: the keys and values of the positions already seen, so that each is computed once.

A new token attends to all earlier ones, but their keys and values never change (nothing before a token sees it).
Keeping them turns the cost of a token from a pass over the whole text into a pass over one position.

They may be kept in half the room, as float16, which rounds each by up to 1 part in 2048. All queries see the rounded
ones, those of the same pass too, so that the logits don't depend on how a text is cut into passes.
"""

import numpy as np

from numgpt.checks import check_positions
from numgpt.config import Config
from numgpt.errors import ContextError, OptionError

FLOAT16 = np.finfo(np.float16)


class KVCache:
    """The keys and values of each layer for the positions seen so far: the one mutable thing in numgpt.

    dtype      that of the parameters, or float16
    positions  how many there is room for; None: n_ctx

    k, v  [L, H, n_ctx, D], or [L, H, positions, D]; of these, the first len(cache) positions are filled
    len(cache)  how many positions are held

    `forward(ids, params, config, cache=cache)` extends each layer by the positions of ids, and advances the cache when
    it is done. Where it is interrupted the cache is as before.
    Raises OptionError unless positions is from 1 to n_ctx.

    >>> from numgpt.config import Config
    >>> cache = KVCache(Config(n_ctx=4, n_embd=6, n_head=2, n_layer=1))
    >>> k, v = cache.extend(0, np.ones((2, 3, 3), np.float32), np.ones((2, 3, 3), np.float32))
    >>> k.shape
    (2, 3, 3)
    >>> cache.advance(3)
    >>> len(cache)
    3
    >>> cache.truncate(1)
    >>> len(cache)
    1
    """

    def __init__(self, config: Config, dtype: type | np.dtype | str = np.float32, positions: int | None = None) -> None:
        positions = config.n_ctx if positions is None else check_positions(positions, config.n_ctx)
        shape = (config.n_layer, config.n_head, positions, config.head_size)
        self.k = np.empty(shape, dtype)
        self.v = np.empty(shape, dtype)
        self._length = 0

    def __len__(self) -> int:
        return self._length

    def extend(self, layer: int, k: np.ndarray, v: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Write the keys and values of T new positions behind those of a layer, and return those of all S = past + T.

        k, v  [H, T, D]
        Returns k, v [H, S, D], dtype of k: views into the cache, or what it holds as float16, widened. The new ones
        count as held after `advance`.
        Raises ContextError where the positions don't fit, OptionError for a number that float16 can't hold.
        """
        end = self.write(layer, k, v)
        held = self.k[layer, :, :end], self.v[layer, :, :end]
        return held[0].astype(k.dtype, copy=False), held[1].astype(k.dtype, copy=False)

    def write(self, layer: int, k: np.ndarray, v: np.ndarray) -> int:
        """The first half of `extend`. Returns S."""
        past, room = len(self), self.k.shape[2]
        end = past + k.shape[1]
        if end > room:
            raise ContextError(
                f"{past} positions in the cache and {k.shape[1]} new ones are more than the {room} it has room for"
            )
        for held, new in (self.k, k), (self.v, v):
            if held.dtype == FLOAT16.dtype and not abs(new).max(initial=0) <= FLOAT16.max:  # nor is NaN
                raise OptionError(
                    f"layer {layer} has a key or value of {abs(new).max():.3g}, but float16 ends at {FLOAT16.max:.0f}: "
                    f"give the cache the dtype of the parameters (leave out cache_dtype)"
                )
            held[layer, :, past:end] = new
        return end

    def advance(self, n: int) -> None:
        """Count n more positions as held: all layers have been extended by them."""
        self._length += n

    def truncate(self, n: int) -> None:
        """Keep the first n positions and forget the rest, as if they had never been seen.

        Raises OptionError unless 0 <= n <= len(cache).
        """
        if not isinstance(n, (int, np.integer)) or not 0 <= n <= len(self):
            raise OptionError(f"truncate: {n!r} positions asked for, expected 0 to {len(self)}, which the cache holds")
        self._length = n

    def fork(self) -> "KVCache":
        """Return a copy that goes its own way."""
        other = object.__new__(KVCache)
        other.k, other.v, other._length = np.empty_like(self.k), np.empty_like(self.v), len(self)
        other.k[:, :, : len(self)] = self.k[:, :, : len(self)]
        other.v[:, :, : len(self)] = self.v[:, :, : len(self)]
        return other
