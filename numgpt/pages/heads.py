"""What a head of attention looks at, in figures: the share of its attention that goes to places that can be named.

Sources: Clark et al. 2019, arXiv:1906.04341 (the token before, the first token); Olsson et al. 2022, arXiv:2209.11895
(induction); Xiao et al. 2023, arXiv:2309.17453 (attention sinks).
"""

from collections.abc import Mapping

import numpy as np

NAMED = 0.4  # the share from which on a head is called by what it looks at


def places(ids: np.ndarray) -> dict[str, np.ndarray]:
    """Return for each kind of place which of the positions before (or at) a token are of that kind.

    previous   the token before
    first      the first token
    self       the token itself
    copy       an earlier copy of the token
    induction  the token that came after an earlier copy: what would follow if the text repeated itself

    ids  [T] int
    Returns name -> [T, T] bool, mask[t, s]: seen from t, s is such a place.

    >>> {name: np.flatnonzero(mask[3]).tolist() for name, mask in places(np.array([7, 8, 9, 7])).items()}
    {'previous': [2], 'first': [0], 'self': [3], 'copy': [0], 'induction': [1]}
    """
    T = len(ids)
    t, s = np.arange(T)[:, None], np.arange(T)
    copy = (ids[:, None] == ids) & (s < t)
    after = np.zeros((T, T), dtype=bool)
    after[:, 1:] = copy[:, :-1]
    return {
        "previous": s == t - 1,
        "first": np.broadcast_to(s == 0, (T, T)) & (t > 0),
        "self": s == t,
        "copy": copy,
        "induction": after & (s < t),
    }


def shares(weights: np.ndarray, kinds: Mapping[str, np.ndarray]) -> list[dict[str, float | None]]:
    """Return for each head which share of its attention goes to each kind of place.

        the mean of sum_s weights[t, s] mask[t, s]    over the t >= 2 that have such a place

    weights  [H, T, T]
    kinds    as `places` gives them
    Returns for each head name -> share, 0 to 1; None where no token has such a place. "even" is what a head that looks
    everywhere alike would give to one token, on the average.

    >>> kinds = places(np.array([7, 8, 9, 7]))
    >>> even = np.tril(np.ones((1, 4, 4))) / np.arange(1, 5)[:, None]
    >>> {name: share and round(share, 2) for name, share in shares(even, kinds)[0].items()}
    {'previous': 0.29, 'first': 0.29, 'self': 0.29, 'copy': 0.25, 'induction': 0.25, 'even': 0.29}
    """
    T = weights.shape[1]
    from_third = np.arange(T) >= 2  # the second token's only other is both the first and the one before
    found: dict[str, np.ndarray | None] = {}
    for name, mask in kinds.items():
        asked = mask.any(axis=1) & from_third
        found[name] = (weights[:, asked] * mask[asked]).sum(axis=2).mean(axis=1) if asked.any() else None
    even = float(np.mean(1 / np.arange(3, T + 1))) if T > 2 else None
    heads = range(len(weights))
    return [{**{k: None if x is None else float(x[h]) for k, x in found.items()}, "even": even} for h in heads]


def kind_of(share: Mapping[str, float | None]) -> str:
    """Return the name of what a head looks at: where most of its attention goes, if that is NAMED or more; else "".

    >>> kind_of({"previous": 0.7, "first": 0.2, "even": 0.9}), kind_of({"previous": 0.3, "self": 0.3})
    ('previous', '')
    """
    known = {name: x for name, x in share.items() if x is not None and name != "even"}
    best = max(known, key=lambda name: known[name], default="")
    return best if best and known[best] >= NAMED else ""


def length_of_first_value(v: np.ndarray) -> list[float | None]:
    """Return for each head how long the value of the first token is, beside those of the others.

        |v_0| / mean_t |v_t|,  t >= 1

    Where much attention goes to a token whose value is short, nearly nothing is fetched: an attention sink.

    v  [H, T, D]

    >>> length_of_first_value(np.array([[[0.0, 1.0], [3.0, 4.0]]]))
    [0.2]
    """
    lengths = np.sqrt((v * v).sum(axis=-1))
    if v.shape[1] < 2:
        return [None] * len(v)
    others = lengths[:, 1:].mean(axis=1)
    return [float(first / other) if other else None for first, other in zip(lengths[:, 0], others, strict=True)]


def cells(weights: np.ndarray, side: int) -> np.ndarray:
    """Return the pictures of heads in few cells: in each the largest weight of the tokens that it stands for.

    weights  [H, T, T]
    Returns [H, n, n], n = min(T, side).

    >>> cells(np.arange(16.0).reshape(1, 4, 4), side=2).tolist()
    [[[5.0, 7.0], [13.0, 15.0]]]
    """
    T = weights.shape[1]
    n = min(T, side)
    edges = np.arange(n) * T // n
    return np.maximum.reduceat(np.maximum.reduceat(weights, edges, axis=1), edges, axis=2)
