"""Mistakes of positions: other tables of them, and all that goes wrong from some position on, as with a KV cache."""

import math
from collections.abc import Iterable, Iterator
from functools import partial

import numpy as np

from numgpt.config import Config
from numgpt.model import attention_scale
from numgpt.verify.causes_attention import scale_in
from numgpt.verify.passes import Cause, Edit, Site

# --- where a token stands


def embedding(site: Site, places: np.ndarray | None = None, scale: float = 1.0, wpe: float = 1.0) -> np.ndarray:
    """Embed ids with the positions `places` [T], None for 0, 1, 2, ..., and either term multiplied."""
    places = np.arange(len(site.x)) if places is None else places
    return site.p["wte"][site.x] * scale + wpe * site.p["wpe"][places % site.config.n_ctx]


def moved(site: Site, offset: int) -> np.ndarray:
    return embedding(site, np.arange(len(site.x)) + offset)


def backwards(site: Site) -> np.ndarray:
    return embedding(site, np.arange(len(site.x))[::-1])


def sinusoids(T: int, C: int, in_turns: bool = True) -> np.ndarray:
    """Return the positions of Vaswani et al. 2017, section 3.5: [T, C].

        PE(t, 2i) = sin(t / 10000^(2i / C)),   PE(t, 2i + 1) = cos(t / 10000^(2i / C))

    in_turns  False: all sines come first, and then all cosines, as tensor2tensor has them

    >>> sinusoids(2, 4).round(3).tolist()
    [[0.0, 1.0, 0.0, 1.0], [0.841, 0.54, 0.01, 1.0]]
    """
    half = (C + 1) // 2
    angles = np.arange(T)[:, None] / 10000 ** (2 * np.arange(half) / C)
    parts = np.sin(angles), np.cos(angles)
    joined = np.stack(parts, axis=-1).reshape(T, -1) if in_turns else np.concatenate(parts, axis=-1)
    return joined[:, :C]


def with_sinusoids(site: Site, in_turns: bool, scale: float) -> np.ndarray:
    wte = site.p["wte"][site.x]
    T, C = wte.shape
    return wte * scale + sinusoids(T, C, in_turns)


def other_ids(site: Site, step: int) -> np.ndarray:
    return site.value - site.p["wte"][site.x] + site.p["wte"][(site.x + step) % site.config.n_vocab]


def normalised(site: Site) -> np.ndarray:
    centred = site.value - site.value.mean(-1, keepdims=True)
    return centred / np.sqrt(site.value.var(-1, keepdims=True) + site.config.layer_norm_epsilon)


def of_embedding(config: Config) -> Iterator[Cause]:
    """Yield what can be wrong with the embedding of all positions alike."""
    for offset in (1, 2, -1, 3, 4, 5, 6, 7, 8):
        words = f"position offset: positions count from {offset} instead of 0"
        why = ", as in OPT" if offset == 2 else f": {offset} pads on the left are counted" if offset > 2 else ""
        yield Cause(words + why, {"embed": partial(moved, offset=offset)})
    yield Cause("the positions are not added", {"embed": partial(embedding, wpe=0.0)})
    yield Cause("the positions are added twice", {"embed": partial(embedding, wpe=2.0)})
    yield Cause("the position of every token is 0", {"embed": lambda s: embedding(s, np.zeros(len(s.x), int))})
    yield Cause("positions count backwards", {"embed": backwards})
    root = math.sqrt(config.n_embd)
    for in_turns, order in ((True, "sine and cosine in turns"), (False, "all sines, then all cosines")):
        for scale, more in ((1.0, ""), (root, ", and the token embedding is multiplied by sqrt(C)")):
            words = f"sinusoidal positions instead of the learned ones ({order}){more}"
            yield Cause(words, {"embed": partial(with_sinusoids, in_turns=in_turns, scale=scale)})
    for step in (1, -1):
        yield Cause(
            f"ids are {'one too high' if step > 0 else 'one too low'}", {"embed": partial(other_ids, step=step)}
        )
    yield Cause("the token embedding is left out", {"embed": partial(embedding, scale=0.0)})
    yield Cause("a layer norm without gain and bias stands behind the embedding", {"embed": normalised})
    for factor, name in ((1 / root, "1/sqrt(C)"), (0.5, "1/2")):
        words = f"the embedding is multiplied by {name}"
        yield Cause(words, {"embed": partial(embedding, scale=factor, wpe=factor)})
    yield Cause("the token embedding is multiplied by sqrt(C)", {"embed": partial(embedding, scale=root)})
    yield Cause("the embedding is multiplied by sqrt(C)", {"embed": partial(embedding, scale=root, wpe=root)})
    for n in (1, 2, 3, 4, 5, 8):
        words = "a token stands before the text" if n == 1 else f"{n} tokens stand before the text"
        what = "beginning- or end-of-text" if n == 1 else "pads, which are attended to"
        if config.eos_token_id is not None:
            yield Cause(f"{words}: {what}", {}, before=(config.eos_token_id,) * n)


# --- positions that attention puts in

BASE = 10000.0  # of rotary positions: by how much the slowest pair turns slower than the quickest


def turned(x: np.ndarray, base: float, halves: bool) -> np.ndarray:
    """Rotate q or k [H, T, D] by rotary positions.

        pair i is turned by the angle t / base^(2i / D)

    halves  feature i is paired with i + D/2, as in GPT-NeoX and Llama; else 2i with 2i + 1, as in GPT-J
    Source: Su et al. 2021, equation 34.
    """
    T, D = x.shape[-2:]
    n = D // 2
    angles = np.arange(T)[:, None] / base ** (2 * np.arange(n) / D)
    first, second = (slice(n), slice(n, 2 * n)) if halves else (slice(0, 2 * n, 2), slice(1, 2 * n, 2))
    a, b, y = x[..., first], x[..., second], x.copy()
    y[..., first] = a * np.cos(angles) - b * np.sin(angles)
    y[..., second] = b * np.cos(angles) + a * np.sin(angles)
    return y


def rotated(site: Site, base: float, halves: bool) -> np.ndarray:
    return turned(site.value, base, halves)


def rotated_scores(site: Site, base: float, halves: bool) -> np.ndarray:
    q, k = (turned(site.seen[name], base, halves) for name in ("attn.q", "attn.k"))
    return with_mask(site, q @ k.swapaxes(-1, -2) * attention_scale(site.config, site.layer))


def with_mask(site: Site, scores: np.ndarray) -> np.ndarray:
    return np.where(np.isneginf(site.value), -math.inf, scores)


def alibi(site: Site) -> np.ndarray:
    """Subtract from scores [H, T, S] the distance times 2^(-8 (h + 1) / H). Source: Press et al. 2021, section 3."""
    H, T, S = site.value.shape
    distance = np.arange(S - T, S)[:, None] - np.arange(S)
    return site.value - distance * 2.0 ** (-8 * (np.arange(H) + 1) / H)[:, None, None]


def of_attention(config: Config) -> Iterator[Cause]:
    """Yield positions that attention puts in, beside the learned ones or instead of them."""
    without: dict[str, Edit] = {"embed": partial(embedding, wpe=0.0)}
    also: list[tuple[str, dict[str, Edit]]] = [
        ("beside the learned ones", {}),
        ("instead of the learned ones", without),
    ]
    for more, edits in also:
        for halves, pairs in ((True, "halves, as in GPT-NeoX"), (False, "neighbours, as in GPT-J")):
            words = f"rotary positions {more} (base 10000, pairs of {pairs})"
            if config.head_size > 1:
                turns: dict[str, Edit] = dict.fromkeys(("attn.q", "attn.k"), partial(rotated, base=BASE, halves=halves))
                yield Cause(words, {**edits, **turns})
                yield Cause(words, {**edits, "attn.scores": partial(rotated_scores, base=BASE, halves=halves)})
        yield Cause(f"ALiBi: distances are subtracted from scores, {more}", {**edits, "attn.scores": alibi})


# --- from some position on


def from_there(site: Site, start: int, places: np.ndarray | None) -> np.ndarray:
    """Embed with other positions from `start` on: their numbers; None for no positions at all."""
    x = site.value.copy()
    x[start:] = site.p["wte"][site.x[start:]]
    if places is not None:
        x[start:] += site.p["wpe"][places % site.config.n_ctx]
    return x


def hidden(site: Site, sees: np.ndarray) -> np.ndarray:
    """Mask scores where a matrix [T, S] says that a position does not see another."""
    q, k = site.seen["attn.q"], site.seen["attn.k"]
    return np.where(sees, q @ k.swapaxes(-1, -2) * scale_in(site), -math.inf)


def masks_from(start: int, T: int) -> Iterator[tuple[str, np.ndarray]]:
    """Yield what the positions from `start` on may see wrongly, in T positions: [T, T]."""
    i, j = np.arange(T)[:, None], np.arange(T)
    causal, late, early = j <= i, i >= start, j < start
    yield f"positions from {start} on see none before {start}: the cache is forgotten", causal & ~(late & early)
    yield (
        f"positions from {start} on see the {start} before and themselves: they are not kept in the cache",
        causal & (~late | early | (i == j)),
    )
    yield f"positions from {start} on see only themselves: nothing is kept in the cache", causal & (~late | (i == j))
    yield f"positions from {start} on do not see themselves", causal & ~(late & (i == j))
    yield (
        f"the mask of positions from {start} on begins anew: they see as many keys as their number from there",
        np.where(late, j <= i - start, causal),
    )
    yield f"positions from {start} on see all of each other: they have no mask", causal | (late & ~early)
    yield f"a window: a position sees the last {start}, itself among them", causal & (i - j < start)
    yield f"blocks: a position sees its own block of {start}", causal & (i // max(start, 1) == j // max(start, 1))


def of_steps(starts: Iterable[int], T: int) -> Iterator[Cause]:
    """Yield what goes wrong from one of some positions on, of T."""
    for start in starts:
        n = T - start
        for places, words in (
            (None, "get no position"),
            (np.zeros(n, int), "all have position 0"),
            (np.arange(n), "begin anew at position 0"),
            (np.arange(n) + 1, "begin anew at position 1"),
            (np.full(n, start - 1), f"all have position {start - 1}, of the last one before"),
            (np.full(n, start), f"all have position {start}"),
            (np.arange(n) + start + 1, "have positions that are one too high"),
            (np.arange(n) + start - 1, "have positions that are one too low"),
        ):
            edits: dict[str, Edit] = {"embed": partial(from_there, start=start, places=places)}
            yield Cause(f"tokens from {start} on {words}: a mistake of decoding with a cache, or of chunks", edits)
        for words, sees in masks_from(start, T):
            yield Cause(words, {"attn.scores": partial(hidden, sees=sees)}, behind=True)
