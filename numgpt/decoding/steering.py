"""A second opinion on the next token: the same text without what it is to be about, or other models.

    log p = w_0 log p_0 + w_1 log p_1 + ...        tokens that p_0 takes to be far from likely are left out

    classifier-free guidance   w = (s, 1 - s)      p_1: the same model, after a negative prompt or after nothing
    contrastive decoding       w = (1 + b, -b)     p_1: a smaller model, whose habits are not wanted
    DExperts                   w = (1, a, -a)      p_1, p_2: models of what is wanted, and of what is not

Each is one function of several rows of logits. The other rows are computed with caches of their own, a pass for each
token, so a text takes as much longer as the models are large.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from numgpt import fast
from numgpt.cache import KVCache
from numgpt.checks import check_ids, check_option, is_number
from numgpt.config import Config
from numgpt.errors import ContextError, OptionError
from numgpt.model import Ids, Model, Params

MOST_GUIDANCE = 100


class Opinion(NamedTuple):
    """One of the other rows."""

    params: Params
    config: Config
    weight: float
    prompt: tuple[int, ...] | None = None  # instead of the text's; () for its last id alone, None for the same


class Steering(NamedTuple):
    """What is added to the model's own logits."""

    weight: float  # of the model's own
    opinions: tuple[Opinion, ...]
    plausible: float = 0.0  # tokens less likely than this share of the likeliest are left out


def guidance(model: Model, scale: float, negative_prompt: Ids | None = None) -> Steering:
    """Classifier-free guidance: away from what the model says after another prompt.

        log p = s log p(. | prompt) + (1 - s) log p(. | negative prompt)

    model            the one that writes
    scale            s; 1 changes nothing, more follows the prompt more closely, below 1 less
    negative_prompt  ids [T]; None: the last id of the prompt, as if there were no other
    Raises OptionError, TokenError.
    Source: Ho and Salimans 2022, arXiv:2207.12598; for text Sanchez et al. 2023, arXiv:2306.17806. Transformers calls
    it guidance_scale.
    """
    check_option(
        "guidance_scale", scale, is_number(scale) and abs(scale) <= 100, "a number from -100 to 100; 1 for off"
    )
    ids = () if negative_prompt is None else tuple(check_ids(negative_prompt, model.config.n_vocab).tolist())
    return Steering(scale, (Opinion(model.params, model.config, 1 - scale, ids),))


def check_scale(scale: float) -> None:
    """Raise OptionError unless this is a scale of guidance."""
    fits = is_number(scale) and abs(scale) <= MOST_GUIDANCE
    check_option("guidance_scale", scale, fits, f"a number from -{MOST_GUIDANCE} to {MOST_GUIDANCE}; 1 for off")


def contrast(amateur: Model, strength: float = 0.5, plausible: float = 0.1) -> Steering:
    """Contrastive decoding: what a model knows and a smaller one does not.

        log p = (1 + b) log p_expert - b log p_amateur,   where p_expert >= a max(p_expert)

    amateur    of the same vocabulary
    strength   b
    plausible  a
    Source: Li et al. 2022, arXiv:2210.15097; the weights are those of O'Brien and Lewis 2023, arXiv:2309.09117.
    """
    check_option("strength", strength, is_number(strength) and 0 <= strength <= 100, "a number from 0 to 100")
    check_option("plausible", plausible, is_number(plausible) and 0 <= plausible <= 1, "a number from 0 to 1")
    return Steering(1 + strength, (Opinion(amateur.params, amateur.config, -strength),), plausible)


def experts(expert: Model | None = None, anti_expert: Model | None = None, strength: float = 2.0) -> Steering:
    """DExperts: towards a model of what is wanted, and away from one of what is not.

        log p = log p_0 + a log p_expert - a log p_anti

    expert, anti_expert  of the same vocabulary; one of them may be left out, and the model itself counts for it
    strength             a
    Source: Liu et al. 2021, arXiv:2105.03023.
    """
    check_option("strength", strength, is_number(strength) and 0 <= strength <= 100, "a number from 0 to 100")
    if expert is None and anti_expert is None:
        raise OptionError("experts need an expert, an anti-expert or both")
    sides = [(expert, strength), (anti_expert, -strength)]
    opinions = tuple(Opinion(model.params, model.config, weight) for model, weight in sides if model)
    return Steering(1 + sum(weight for model, weight in sides if model is None), opinions)


def combine(rows: Sequence[np.ndarray], weights: Sequence[float], plausible: float = 0.0) -> np.ndarray:
    """Return one row of several.

        sum_k w_k log softmax(row_k),   -inf where row_0 < max(row_0) + log(plausible)

    rows [K][V], weights [K]
    Returns [V] float64.

    >>> combine([np.log([0.5, 0.25, 0.25]), np.log([0.25, 0.25, 0.5])], [2, -1]).round(3)
    array([ 0.   , -1.386, -2.079])
    """
    total = np.zeros(len(rows[0]))
    for row, weight in zip(rows, weights, strict=True):
        x = row.astype(np.float64)
        largest = x.max()
        x -= largest + math.log(np.exp(x - largest).sum())
        total += weight * x
    if plausible:
        total[rows[0] < rows[0].max() + math.log(plausible)] = -math.inf
    return total


def check_steering(steering: Steering, config: Config) -> None:
    """Raise OptionError where one of the other models has another vocabulary."""
    for opinion in steering.opinions:
        if opinion.config.n_tokens != config.n_tokens:
            sizes = f"{opinion.config.n_tokens} tokens, and this one {config.n_tokens}"
            raise OptionError(f"steering: another model has {sizes}: their logits have to be of the same vocabulary")


def text_of_opinion(opinion: Opinion, text: list[int], prompt_length: int) -> list[int]:
    """Return what another row goes on from: its own prompt, and what is new in the text."""
    prompt = text[:prompt_length]
    own = prompt if opinion.prompt is None else list(opinion.prompt) or prompt[-1:]
    return own + text[prompt_length:]


class Others:
    """The other rows of one text, each with a cache of its own.

    text      the prompt
    most_new  how many ids it may come to be longer, at most
    Raises ContextError where one of the other models has no room for its prompt.
    """

    def __init__(self, steering: Steering, text: list[int], most_new: int, cache_dtype: str | None = None) -> None:
        self.steering, self.prompt_length = steering, len(text)
        self.weights = [steering.weight, *(opinion.weight for opinion in steering.opinions)]
        self.caches = []
        for opinion in steering.opinions:
            length, n_ctx = len(text_of_opinion(opinion, text, len(text))), opinion.config.n_ctx
            if length > n_ctx:
                raise ContextError(f"steering: a prompt of {length} tokens, but the context of that model is {n_ctx}")
            positions = min(length + max(most_new - 1, 0), n_ctx)
            self.caches.append(KVCache(opinion.config, cache_dtype or opinion.params["wte"].dtype, positions))

    def steer(self, rows: np.ndarray, text: list[int], held: int) -> np.ndarray:
        """Return logits [n, V] for the last n places of a text, from the model's own.

        rows  [n, V]
        text  all ids so far, also such that are guessed
        held  how many of them the model's own cache held before: what was computed behind them was wrong
        """
        all_rows = [[row] for row in rows]
        for opinion, cache in zip(self.steering.opinions, self.caches, strict=True):
            ids = text_of_opinion(opinion, text, self.prompt_length)
            behind = len(text) - max(held, self.prompt_length)  # ids that nobody has computed with yet, or wrongly
            cache.truncate(min(len(cache), len(ids) - behind) if held else 0)
            found = fast.forward(ids[len(cache) :], opinion.params, opinion.config, cache, logits_to_keep=len(rows))
            for together, row in zip(all_rows, found, strict=True):
                together.append(row)
        return np.stack([self.combine(together) for together in all_rows])

    def combine(self, rows: Sequence[np.ndarray]) -> np.ndarray:
        """Return the logits [V] of several rows, the model's own first, in the dtype of that."""
        n = min(map(len, rows))  # a model may have padded its vocabulary
        return combine([row[:n] for row in rows], self.weights, self.steering.plausible).astype(rows[0].dtype)
