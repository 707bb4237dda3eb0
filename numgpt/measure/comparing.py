"""What it costs to keep the weights of a model in fewer bits, told by one's own text.

Both models read the same text. Where P is what the full model expects next and Q what the other does, the divergence

    KL(P, Q) = sum_i p_i log(p_i / q_i)

says how many nats are lost, at each token, by who takes Q for P.

Source: Kullback and Leibler 1951, "On Information and Sufficiency". llama.cpp's `perplexity` tells the same figures.
"""

import math
from typing import NamedTuple

import numpy as np

from numgpt import fast
from numgpt.checks import check_ids
from numgpt.errors import CheckpointError, TokenError
from numgpt.measure.scoring import check_largest, log_prob, perplexity, predict, windows
from numgpt.model import Ids, Model, tokenizer_of


class Comparison(NamedTuple):
    """How far one model is from another on a text."""

    tokens: int  # that were compared: all but the first
    perplexity: float  # of the full model
    perplexity_of_other: float
    kl_mean: float  # nats
    kl_99: float  # 99 of 100 positions are below
    same_first: float  # the part of the positions at which both hold the same token for the likeliest


def compare(model: Model, other: Model, text: str | Ids) -> Comparison:
    """Compare two models of one vocabulary on a text, in windows of the context that overlap by half.

    model  the one that counts as right
    other  the same one with other weights, such as `load(name, weights="int8")`
    text   str, in which "<|endoftext|>" is text; or its ids [T]
    Raises TokenError for a text of less than two tokens, and CheckpointError for models of different vocabularies, or
    logits that are not finite.

    >>> import numgpt
    >>> found = compare(numgpt.load("storyteller"), numgpt.load("storyteller", weights="int8"), "Once upon a time")
    >>> found.tokens, found.same_first, found.kl_mean < 0.01
    (4, 1.0, True)
    """
    config = model.config
    if other.config.n_vocab != config.n_vocab:
        raise CheckpointError(f"vocabularies of {config.n_vocab} and {other.config.n_vocab} tokens can't be compared")
    ids = check_ids(tokenizer_of(model).encode(text) if isinstance(text, str) else text, config.n_vocab).tolist()
    if len(ids) < 2:
        raise TokenError(f"too short to compare: tokens: {len(ids)}, expected 2 or more: give more text")
    nats, others_nats, same = 0.0, 0.0, 0
    divergences = []
    for begin, first, end in windows(len(ids), config.n_ctx, config.n_ctx // 2):
        rows = [predict(ids[begin:end], first - begin, each, fast.forward, None) for each in (model, other)]
        for i, row, others_row in zip(ids[first:end], *rows, strict=True):
            nats -= log_prob(row, i)
            others_nats -= log_prob(others_row, i)
            same += bool(row[: config.n_tokens].argmax() == others_row[: config.n_tokens].argmax())
            divergences.append(divergence(row, others_row))
    n = len(divergences)
    return Comparison(
        n,
        perplexity(nats, n),
        perplexity(others_nats, n),
        float(np.mean(divergences)),
        float(np.quantile(divergences, 0.99)),
        same / n,
    )


def divergence(logits: np.ndarray, others: np.ndarray) -> float:
    """Compute KL(P, Q) of the distributions that two rows of logits stand for, in float64.

    logits, others  [V]

    >>> found = divergence(np.log([0.5, 0.5]), np.log([0.75, 0.25]))
    >>> math.isclose(found, math.log(2 / 3) / 2 + math.log(2) / 2)
    True
    """
    check_largest(others.max())
    log_p, log_q = (x - x.max() for x in (logits.astype(np.float64), others.astype(np.float64)))
    p, q = np.exp(log_p), np.exp(log_q)
    return max(0.0, float(p @ (log_p - log_q) / p.sum() - math.log(p.sum()) + math.log(q.sum())))
