"""The parameter tree: its shapes, its checks, and a random one.

The tree is plain nested dicts in OpenAI's names: params["h"][3]["attn"]["c_attn"]["w"]. `param_shapes` is the one
place that knows which leaves there are; checking, initialising and reading checkpoints all go by it.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np

from numgpt.config import Config
from numgpt.errors import CheckpointError


def param_shapes(config: Config) -> dict[str, Any]:
    """Return the parameter tree of a configuration with the shape of each leaf in its place.

    >>> shapes = param_shapes(Config())
    >>> shapes["wte"], shapes["h"][11]["attn"]["c_attn"]["w"]
    ((50257, 768), (768, 2304))
    """
    V, C, F = config.n_vocab, config.n_embd, config.mlp_width
    layer_norm = {"g": (C,), "b": (C,)}
    block = {
        "ln_1": layer_norm,
        "attn": {"c_attn": {"w": (C, 3 * C), "b": (3 * C,)}, "c_proj": {"w": (C, C), "b": (C,)}},
        "ln_2": layer_norm,
        "mlp": {"c_fc": {"w": (C, F), "b": (F,)}, "c_proj": {"w": (F, C), "b": (C,)}},
    }
    tree = {"wte": (V, C), "wpe": (config.n_ctx, C), "h": [block] * config.n_layer, "ln_f": layer_norm}
    return tree if config.tie_word_embeddings else {**tree, "lm_head": (V, C)}


def leaves(tree: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Yield each leaf of a tree of dicts and lists with its path, in the order of the model.

    >>> list(leaves({"h": [{"b": 1}, {"b": 2}], "wpe": 3}))
    [('h.0.b', 1), ('h.1.b', 2), ('wpe', 3)]
    """
    if isinstance(tree, (dict, list)):
        for key, value in tree.items() if isinstance(tree, dict) else enumerate(tree):
            yield from leaves(value, join(path, key))
    else:
        yield path, tree


def map_leaves(function: Any, tree: Any, path: str = "") -> Any:
    """Return a tree of the same form whose leaves are function(path, leaf).

    >>> map_leaves(lambda path, n: f"{path}={n}", {"h": [{"b": 1}], "wpe": 3})
    {'h': [{'b': 'h.0.b=1'}], 'wpe': 'wpe=3'}
    """
    if isinstance(tree, dict):
        return {key: map_leaves(function, value, join(path, key)) for key, value in tree.items()}
    if isinstance(tree, list):
        return [map_leaves(function, value, join(path, i)) for i, value in enumerate(tree)]
    return function(path, tree)


def join(path: str, key: object) -> str:
    """Return the path of what lies under a key: join("h.3", "attn") is "h.3.attn"."""
    return f"{path}.{key}" if path else str(key)


def count_params(config: Config) -> int:
    """Return how many numbers the model has learned.

    >>> count_params(Config())
    124439808
    """
    return sum(int(np.prod(shape, dtype=object)) for _, shape in leaves(param_shapes(config)))


def faults(given: dict[str, tuple[int, ...]], expected: dict[str, tuple[int, ...]]) -> dict[str, list[str]]:
    """Say in what a set of tensors, path -> shape, differs from the one expected: kind of fault -> a phrase a tensor.

    {} where it fits.

    >>> faults({"wpe": (4, 5), "score": (2,)}, {"wpe": (5, 4), "wte": (9, 4)})["left over"]
    ['score']
    >>> in_short(faults({"wpe": (4, 5)}, {"wpe": (5, 4), "wte": (9, 4)}))
    'missing: wte; wpe: shape (4, 5), expected (5, 4): looks transposed, as nn.Linear stores it'
    """
    found: dict[str, list[str]] = {
        "missing": [path for path in expected if path not in given],
        "left over": [path for path in given if path not in expected],
        "of another shape": [],
    }
    for path, shape in given.items():
        if path in expected and shape != expected[path]:
            transposed = ": looks transposed, as nn.Linear stores it" if shape[::-1] == expected[path] else ""
            found["of another shape"].append(f"{path}: shape {shape}, expected {expected[path]}{transposed}")
    return {kind: phrases for kind, phrases in found.items() if phrases}


def in_short(found: dict[str, list[str]]) -> str:
    """Say faults in a line: of each kind how many, if they are more than three, and three of them.

    >>> in_short({"missing": ["wte", "wpe", "ln_f.g", "ln_f.b"], "left over": ["score"]})
    'missing: 4 tensors, such as wte, wpe, ln_f.g; left over: score'
    """
    phrases = []
    for kind, each in found.items():
        names_alone = kind in ("missing", "left over")
        shown = (", " if names_alone else "; ").join(each[:3])
        if len(each) > 3:
            many = f"{len(each):,} tensors"
            phrases.append(f"{kind}: {many}, such as {shown}" if names_alone else f"{many} {kind}, such as {shown}")
        else:
            phrases.append(f"{kind}: {shown}" if names_alone else shown)
    return "; ".join(phrases)


def check_params(params: dict[str, Any], config: Config) -> None:
    """Check that a parameter tree is the one that a configuration asks for, in float32 or float64 throughout.

    Raises CheckpointError that says what is missing, left over or of another shape or dtype.

    >>> config = Config(n_vocab=9, n_ctx=5, n_embd=4, n_head=2, n_layer=1)
    >>> params = random_params(config)
    >>> check_params(params, config)
    >>> check_params({**params, "wpe": params["wpe"][:3]}, config)
    Traceback (most recent call last):
    numgpt.errors.CheckpointError: the parameters do not fit the configuration: wpe: shape (3, 4), expected (5, 4)
    """
    shapes = param_shapes(config)
    arrays = {path: np.asarray(leaf) for path, leaf in leaves(params)}
    found = faults({path: a.shape for path, a in arrays.items()}, dict(leaves(shapes)))
    if not found and map_leaves(_path_alone, params) != map_leaves(_path_alone, shapes):
        found["nesting"] = ["nested otherwise than param_shapes(config): dicts in dicts, and a list of layers under h"]
    dtypes = {str(a.dtype) for a in arrays.values()}
    if len(dtypes) > 1 or not dtypes <= {"float32", "float64"}:
        found["dtypes"] = [f"dtypes {', '.join(sorted(dtypes))}, expected float32 or float64 throughout"]
    if found:
        raise CheckpointError(f"the parameters do not fit the configuration: {in_short(found)}")


def _path_alone(path: str, leaf: Any) -> str:
    return path


def random_params(config: Config, seed: int = 0, dtype: type | np.dtype = np.float32) -> dict[str, Any]:
    """Return parameters as GPT-2 has them before training: matrices from a normal distribution, gains 1, biases 0.

        w ~ N(0, 0.02),  for the two projections into the residual stream of each layer N(0, 0.02 / sqrt(2 L))

    Source: Radford et al. 2019, section 2.3; Radford et al. 2018, section 4.1. OpenAI's released code differs in two
    things, 0.01 for wpe and no narrower projections; Transformers is as here.

    >>> random_params(Config(n_vocab=9, n_ctx=5, n_embd=4, n_head=2, n_layer=1))["ln_f"]["g"]
    array([1., 1., 1., 1.], dtype=float32)
    """
    generator = np.random.default_rng(seed)

    def leaf(path: str, shape: tuple[int, ...]) -> np.ndarray:
        if path.endswith((".g", ".b")):
            return np.full(shape, path.endswith(".g"), dtype)
        scale = 0.02 / (2 * config.n_layer) ** 0.5 if path.endswith("c_proj.w") else 0.02
        return generator.standard_normal(shape, np.float32).astype(dtype, copy=False) * scale

    return map_leaves(leaf, param_shapes(config))
