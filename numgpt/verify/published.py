"""Published outputs of the real GPT-2 models, and whether a checkpoint gives them.

`numgpt/data/published.json` has the ids that other projects print in their tests and documentation for greedy text, and
their numbers: logits, log-probabilities, losses, attention. A checkpoint that gives them was downloaded whole, read
right and computed right.
"""

import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from numgpt import model
from numgpt.config import Config
from numgpt.decoding import loop as generation
from numgpt.decoding.rules import known_options
from numgpt.errors import OptionError
from numgpt.model import Params
from numgpt.ops import softmax
from numgpt.params import count_params

PUBLISHED = Path(__file__).parents[1] / "data" / "published.json"
# Names of the same weights, and models that can be told by their size.
SAME = {"124M": "gpt2", "117M": "gpt2", "355M": "gpt2-medium", "345M": "gpt2-medium"}
BY_SIZE = {124_439_808: "gpt2", 354_823_168: "gpt2-medium", 81_912_576: "distilgpt2"}

Golden = dict[str, Any]  # a published output: id, model, kind, ids, expected, source, and what its kind needs
Forward = Callable[..., np.ndarray]


class Result(NamedTuple):
    """What became of one published output."""

    id: str
    source: str
    expected: Any
    got: Any
    passed: bool | None  # None: not run
    note: str = ""


def read_published() -> list[Golden]:
    """Return all published outputs that numgpt knows."""
    return json.loads(PUBLISHED.read_text(encoding="utf-8"))


def published_name(name: str, config: Config) -> str:
    """Return the name under which outputs of a checkpoint were published: its own, or that of the models of its size.

    >>> published_name("117M", Config()), published_name("my/folder", Config(n_layer=6))
    ('gpt2', 'distilgpt2')
    """
    known = {golden["model"] for golden in read_published()}
    name = SAME.get(name, name)
    if name in known:
        return name
    found = BY_SIZE.get(count_params(config._replace(tie_word_embeddings=True)))
    if found is None:
        raise OptionError(f"no outputs are published of {name!r:.200}, expected one of {', '.join(sorted(known))}")
    return found


def check_published(
    params: Params,
    config: Config,
    goldens: list[Golden],
    forward: Forward = model.forward,
) -> Iterator[Result]:
    """Run a model on published outputs, one after the other.

    goldens  of `read_published`, those of this model
    forward  what computes the logits; attention is always that of model.forward
    Yields a Result for each: text passes where all ids are equal, numbers where they are within their tolerance.
    """
    known = set(known_options())
    for golden in goldens:
        missing = sorted(set(golden.get("options", ())) - known)
        if missing:
            note = f"needs {', '.join(missing)}"
            yield Result(golden["id"], golden["source"], golden["expected"], None, None, note)
            continue
        got = KINDS[golden["kind"]](golden, params, _config_of(golden, config), forward)
        passed = _is_met(got, golden["expected"], golden.get("tolerance", 0))
        yield Result(golden["id"], golden["source"], golden["expected"], got, passed, golden.get("note", ""))


def _is_met(got: Any, expected: Any, tolerance: float) -> bool:
    """Whether as many numbers came as were expected, each within the tolerance."""
    a, b = _flat(got), _flat(expected)
    return len(a) == len(b) and all(abs(x - y) <= tolerance for x, y in zip(a, b, strict=True))


def text(golden: Golden, params: Params, config: Config, forward: Forward) -> list[int]:
    """Return the ids that follow a prompt, the most likely ones unless the options say otherwise."""
    options = {"temperature": 0, "max_new_tokens": len(golden["expected"]), **golden["options"]}
    return list(generation.generate(golden["ids"], params, config, forward=forward, **options))


def top_logit(golden: Golden, params: Params, config: Config, forward: Forward) -> list[Any]:
    """Return the likeliest next token, and its logit."""
    logits = forward(golden["ids"], params, config)[-1]
    return [int(logits.argmax()), float(logits.max())]


def log_probabilities(golden: Golden, params: Params, config: Config, forward: Forward) -> list[float]:
    """Return the log-probability of each token of a continuation."""
    ids, continuation = golden["ids"], golden["continuation"]
    return _log_probabilities([*ids, *continuation], params, config, forward)[-len(continuation) :]


def loss(golden: Golden, params: Params, config: Config, forward: Forward) -> float:
    """Return the mean cross-entropy of the next token. In `rows` [B, T] each row is a text of its own."""
    ids = golden["ids"]
    rows, length = golden.get("rows", [1, len(ids) - 1])
    texts = [ids[i * length : (i + 1) * length + 1] for i in range(rows)]
    return -float(np.mean([_log_probabilities(text, params, config, forward) for text in texts]))


def attention(golden: Golden, params: Params, config: Config, forward: Forward) -> list[list[float]]:
    """Return some rows of the attention of the first head."""
    seen: dict[str, np.ndarray] = {}
    model.forward(golden["ids"], params, config, record=lambda name, x: seen.setdefault(name, x))
    weights = seen["h.0.attn.weights"][0]
    return [weights[row, : row + 1].tolist() for row in golden["rows"]]


KINDS: dict[str, Callable[[Golden, Params, Config, Forward], Any]] = {
    "text": text,
    "top_logit": top_logit,
    "log_probabilities": log_probabilities,
    "loss": loss,
    "attention": attention,
}


def _log_probabilities(ids: list[int], params: Params, config: Config, forward: Forward) -> list[float]:
    """Return the log-probability of each id after the first."""
    probabilities = softmax(forward(ids[:-1], params, config).astype(np.float64))
    return [math.log(row[i]) for row, i in zip(probabilities, ids[1:], strict=True)]


def _config_of(golden: Golden, config: Config) -> Config:
    return config._replace(activation_function=golden.get("activation_function", config.activation_function))


def _flat(value: Any) -> list[float]:
    return [x for part in value for x in _flat(part)] if isinstance(value, list) else [value]
