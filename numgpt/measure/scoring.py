"""How well a model predicts a text that is given: log-probabilities, perplexity, and the last word of LAMBADA.

Sources: "Perplexity of fixed-length models" in the documentation of Transformers; Radford et al. 2019, section 3.
"""

import json
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from copy import copy
from typing import Any, NamedTuple

import numpy as np
from numpy.lib.stride_tricks import as_strided

from numgpt import fast
from numgpt.cache import KVCache
from numgpt.checkpoint.layers import Layers
from numgpt.checks import check_ids, check_option, is_integer
from numgpt.decoding.rules import check_cache_dtype
from numgpt.errors import CheckpointError, OptionError, TokenError
from numgpt.fast.model import Pass
from numgpt.model import Ids, Model, tokenizer_of
from numgpt.tokenizer import Tokenizer

Forward = Callable[..., np.ndarray]
ROWS = 64  # positions whose logits are in memory at a time: 13 MB for GPT-2's vocabulary


class Score(NamedTuple):
    """What a model makes of a text. Figures are of the tokens that were scored, and no others."""

    ids: list[int]  # [T]; without the end-of-text id that `bos` puts before
    log_probs: np.ndarray  # [T] float64, natural logarithms; nan where a token had nothing before it
    tokens: int  # how many were scored
    words: int | None  # of the text that these tokens make, parted by white space; None without a tokenizer
    bytes: int | None  # of the same, in UTF-8
    context: int
    stride: int
    bos: bool
    ranks: np.ndarray  # [T] int, 1 for the likeliest; 0 where a token had nothing before it

    @property
    def nats(self) -> float:
        """The surprisal of the whole text: minus the sum of the log-probabilities."""
        return float(np.nansum(-self.log_probs))

    @property
    def nats_per_token(self) -> float:
        """The mean cross-entropy, which training calls the loss."""
        return self.nats / self.tokens

    @property
    def bits_per_token(self) -> float:
        """The mean surprisal of a token, in bits."""
        return self.nats_per_token / math.log(2)

    @property
    def bits_per_byte(self) -> float | None:
        """The mean surprisal of a byte, in bits: comparable between models of different vocabularies."""
        return self.nats / math.log(2) / self.bytes if self.bytes else None

    @property
    def perplexity(self) -> float:
        """exp(nats / tokens): among how many equally likely tokens the model might as well have chosen."""
        return perplexity(self.nats, self.tokens)

    @property
    def perplexity_per_word(self) -> float | None:
        """exp(nats / words): the surprisal of all tokens, shared among the words that they make."""
        return perplexity(self.nats, self.words) if self.words else None

    @property
    def perplexity_by_recipe(self) -> float:
        """The number that the recipe in Transformers' documentation prints, for comparison.

        It weighs the mean of each window by one token less than the window has new. Where windows don't overlap that
        is how many it scores, and the number is `perplexity`. Where they do, it is one too few, so that the first
        window counts for too much: a difference in the sixth digit at large strides; at stride 1 nothing else counts.
        """
        log_probs = np.concatenate([[math.nan] * self.bos, self.log_probs])
        nats = weights = new = 0.0
        for _, first, end in windows(len(log_probs), self.context, self.stride):
            weight = end - new - 1
            if weight:
                nats -= weight * log_probs[first:end].mean()
            weights, new = weights + weight, end
        return perplexity(nats, weights)


def score(
    model: Model,
    text: str | Ids,
    *,
    context: int | None = None,
    stride: int | None = None,
    bos: bool = False,
    given: str | Ids = "",
    cache_dtype: str | None = None,
    forward: Forward = fast.forward,
) -> Score:
    """Compute how likely each token of a text is, given those before it in a sliding window.

        log p(id_t | id_begin ... id_t-1),   begin = 0, stride, 2 stride, ...

    model    as `numgpt.load` returns it; without a tokenizer it scores ids
    text     str, in which "<|endoftext|>" is text; or its ids [T]
    context  how many tokens a window has, 2 to n_ctx; None: n_ctx
    stride   how many tokens further the next one begins, 1 to context; None: half the context
    bos      put the end-of-text id before the text, so that its first token is scored too
    given    what stands before the text and is not scored: str, or ids; see `continuation_ids`
    forward  the function that computes the logits: fast.forward or one of the same signature
    cache_dtype  "float16" scores what `generate` computes with that option; None: as without
    Returns a Score. Log-probabilities are computed in float64 from the logits, over all V of them; ranks among the ids
    that may be sampled, of which those that pad a vocabulary are none.
    Raises TokenError for a text too short to score, ids outside the vocabulary, and text without a tokenizer;
    OptionError for an option out of its range and for `bos` with a model that has no end-of-text id; CheckpointError
    for logits that are not finite.
    Notes: each window scores what no earlier one has, so a token sees at least context - stride others (less at the
    beginning of the text). The first token of a window has nothing before it there and is not scored by it: that is the
    first of the text, and with stride = context the first of each window. Windows share no work: a token that moves to
    another position has other keys and values. So the cost is that of T / stride windows.
    Source: the recipe in "Perplexity of fixed-length models". It gives the same log-probabilities and windows, but
    weighs windows otherwise than by the tokens they score: see `Score.perplexity_by_recipe`.

    >>> import numgpt
    >>> found = score(numgpt.load("storyteller"), "Once upon a time")
    >>> found.log_probs.round(1)
    array([ nan, -4.1, -1.4, -0.1, -0. ])
    >>> found.ranks.tolist()
    [0, 5, 1, 1, 1]
    >>> found.tokens, round(found.perplexity, 1)
    (4, 4.1)
    """
    config = model.config
    context = config.n_ctx if context is None else context
    expected = f"an integer from 2 to {config.n_ctx}, the context of this model"
    check_option("context", context, is_integer(context) and 2 <= context <= config.n_ctx, expected)
    stride = context // 2 if stride is None else stride
    expected = f"an integer from 1 to {context}, the context: a larger one would leave tokens out"
    check_option("stride", stride, is_integer(stride) and 1 <= stride <= context, expected)
    check_cache_dtype(cache_dtype)
    if bos and config.start_id is None:
        raise OptionError("bos is True, but this model has no end-of-text id to put before the text: leave it out")

    before: Ids
    ids: Ids
    if isinstance(text, str) and isinstance(given, str):
        before, ids = continuation_ids(tokenizer_of(model), given, text)
    else:
        before = tokenizer_of(model).encode_part(given) if isinstance(given, str) and given else given or []
        ids = tokenizer_of(model).encode(text) if isinstance(text, str) else text
    if bos:
        before = [*([] if config.start_id is None else [config.start_id]), *before]
    if hasattr(ids, "__len__") and len(ids) < 2 - bool(len(before)):
        remedy = "give some text" if bos else "nothing comes before the first: give more text, or bos=True (--bos)"
        raise TokenError(f"too short to score: tokens: {len(ids)}, expected {2 - bos} or more: {remedy}")
    scored_ids: list[int] = check_ids(ids, config.n_vocab).tolist()
    before = check_ids(before, config.n_vocab).tolist() if len(before) else []
    pieces = model.tokenizer.pieces(scored_ids) if model.tokenizer else None

    sequence = [*before, *scored_ids]
    log_probs, ranks = np.full(len(sequence), math.nan), np.zeros(len(sequence), dtype=int)
    for begin, first, end in windows(len(sequence), context, stride):
        rows = predict(sequence[begin:end], first - begin, model, forward, cache_dtype)
        for t, row in zip(range(first, end), rows, strict=True):
            log_probs[t] = log_prob(row, sequence[t])
            ranks[t] = rank(row[: config.n_tokens], row[sequence[t]])

    log_probs, ranks = log_probs[len(before) :], ranks[len(before) :]
    scored = np.flatnonzero(~np.isnan(log_probs))
    words = length = None
    if pieces is not None:
        covered = b"".join(pieces[t] for t in scored)
        words, length = len(covered.decode("utf-8", "replace").split()), len(covered)
    return Score(scored_ids, log_probs, len(scored), words, length, int(context), int(stride), bool(bos), ranks)


def continuation_ids(tokenizer: Tokenizer, given: str, text: str) -> tuple[list[int], list[int]]:
    """Return the ids of what is given and of the text that goes on from there, as they would be cut in one piece.

    Notes: white space at the end of what is given counts for the text, since a word of GPT-2 begins with its space.
    Source: EleutherAI's lm-evaluation-harness, `_encode_pair`.

    >>> import numgpt
    >>> tokenizer = numgpt.load("storyteller").tokenizer
    >>> before, ids = continuation_ids(tokenizer, "Once upon ", "a time")
    >>> tokenizer.pieces(before), tokenizer.pieces(ids)
    ([b'O', b'nce', b' upon'], [b' a', b' time'])
    """
    if not given:
        return [], tokenizer.encode(text)
    kept = given.rstrip()
    before = tokenizer.encode_part(kept)
    return before, tokenizer.encode_part(given + text)[len(before) :]


def likeliest(
    model: Model,
    ids: list[int],
    first: int,
    n: int,
    forward: Forward = fast.forward,
    cache_dtype: str | None = None,
) -> list[tuple[float, list[tuple[int, float]]]]:
    """Return, for each of ids[first:], its log-probability after those before it, and the n likeliest ids with theirs.

    ids    [T] int, at most n_ctx of them
    first  1 or more: the first id has nothing before it
    cache_dtype  as `score` has it
    Raises CheckpointError where logits are not finite.

    >>> import numgpt
    >>> model = numgpt.load("storyteller")
    >>> ids = model.tokenizer.encode("Once upon a time")
    >>> log_p, [(best, log_p_best)] = likeliest(model, ids, first=4, n=1)[0]
    >>> best == ids[4], log_p == log_p_best
    (True, True)
    """
    found = []
    for row, i in zip(predict(ids, first, model, forward, cache_dtype), ids[first:], strict=True):
        log_p, best = log_probs(row, i, n, model.config.n_tokens)
        found.append((log_p, list(best)))
    return found


def windows(T: int, context: int, stride: int) -> Iterator[tuple[int, int, int]]:
    """Cut T tokens into windows, and yield of each where it begins, the first token that it scores and where it ends.

    >>> list(windows(7, context=4, stride=2))
    [(0, 1, 4), (2, 4, 6), (4, 6, 7)]
    """
    end = 0
    for begin in range(0, T, stride):
        first, end = max(begin + 1, end), min(begin + context, T)
        yield begin, first, end
        if end == T:
            return


def predict(
    ids: list[int], first: int, model: Model, forward: Forward, cache_dtype: str | None
) -> Iterator[np.ndarray]:
    """Yield, for each of ids[first:], the logits [V] that the model gives after the ids before it.

    A cache lets the model give logits of ROWS positions at a time, so that they never fill more memory than that.
    """
    positions = min(max(len(ids) - 1, 1), model.config.n_ctx)
    dtype = cache_dtype or model.params["wte"].dtype
    if isinstance(model.params["h"], Layers) and forward is fast.forward:
        yield from predict_by_layer(ids, first, model, dtype, positions)
        return
    cache = KVCache(model.config, dtype, positions)
    for at in range(first, len(ids), ROWS):
        stop = min(at + ROWS, len(ids))
        new = ids[len(cache) : stop - 1]
        yield from forward(new, model.params, model.config, cache=cache, logits_to_keep=stop - at)


def predict_by_layer(ids: list[int], first: int, model: Model, dtype: Any, positions: int) -> Iterator[np.ndarray]:
    """`predict` of a model whose layers stay in their file: each is read once, and all the text goes through it.

    The parts of the text and all products are those of `predict`, so the logits are the same to the bit. Keys and
    values are kept of one layer: the next one writes over them.
    """
    config = model.config
    held = KVCache(config._replace(n_layer=1), dtype, positions)
    for name in "k", "v":  # a cache of all layers in the memory of one
        x = getattr(held, name)
        setattr(held, name, as_strided(x, (config.n_layer, *x.shape[1:]), (0, *x.strides[1:])))
    parts: list[Pass] = []
    for at in range(first, len(ids), ROWS):
        stop = min(at + ROWS, len(ids))
        cache = copy(held)
        cache.advance(at - 1 if parts else 0)
        parts.append(Pass([ids[len(cache) : stop - 1]], model.params, config, [cache], logits_to_keep=stop - at))
    for layer in range(config.n_layer):
        p = model.params["h"][layer]
        for part in parts:
            part.go_through(layer, p)
        del p  # before the next one is read
    for part in parts:
        yield from part.logits()[0]


def log_prob(logits: np.ndarray, i: int) -> float:
    """Compute the log-probability of id i, in float64 whatever the dtype of the logits.

        logits_i - log(sum_j exp(logits_j))

    logits [V]
    Raises CheckpointError where they hold NaN or +inf, or nothing but -inf.

    >>> round(math.exp(log_prob(np.array([0.0, math.log(3)]), 1)), 9)
    0.75
    """
    largest = logits.max()
    check_largest(largest)
    x = logits.astype(np.float64) - float(largest)
    return float(x[i] - math.log(np.exp(x).sum()))


def log_probs(
    logits: np.ndarray, i: int, n: int, n_tokens: int | None = None
) -> tuple[float, Sequence[tuple[int, float]]]:
    """Return the `log_prob` of id i, and the n likeliest ids with theirs, the likeliest first; of equals the lowest id.

    logits    [V]
    n_tokens  how many of the ids are tokens: those behind them pad the vocabulary, and are none of the likeliest
    Raises CheckpointError where logits are not finite.

    >>> log_p, likeliest = log_probs(np.log([0.25, 0.5, 0.25]), 0, n=2)
    >>> round(math.exp(log_p), 9), [(i, round(math.exp(log_p), 9)) for i, log_p in likeliest]
    (0.25, [(1, 0.5), (0, 0.25)])
    """
    largest = logits.max()
    check_largest(largest)
    x = logits.astype(np.float64) - float(largest)
    x -= math.log(np.exp(x).sum())
    tokens = x[:n_tokens]
    n = min(n, len(tokens))
    best = np.flatnonzero(tokens >= np.partition(tokens, -n)[-n]) if n else np.empty(0, int)
    best = best[np.argsort(-tokens[best], kind="stable")][:n]
    return float(x[i]), tuple((int(j), float(x[j])) for j in best)


def rank(logits: np.ndarray, logit: float) -> int:
    """Among how many tokens this one has to share the first places: 1, and how many are likelier.

    >>> rank(np.array([0.5, 2.0, 1.0]), 1.0)
    2
    """
    return 1 + int(np.count_nonzero(logits > logit))


def check_largest(logit: float) -> None:
    """Raise CheckpointError where the largest of all logits is not finite: NaN and +inf both come out on top."""
    if not np.isfinite(logit):
        raise CheckpointError("the logits are not finite: the weights are damaged (`numgpt inspect`), or need float64")


def perplexity(nats: float, count: float) -> float:
    """Compute exp(nats / count); inf where that is more than a float holds.

    >>> round(perplexity(nats=6 * math.log(5), count=3), 9), perplexity(1e6, 1)
    (25.0, inf)
    """
    return math.exp(nats / count) if nats / count < 700 else math.inf


class LastWords(NamedTuple):
    """How well a model completes texts by their last word."""

    texts: int
    correct: int
    nats: float  # the surprisal of all last words together

    @property
    def accuracy(self) -> float:
        """The part of the words that are predicted."""
        return self.correct / self.texts

    @property
    def perplexity(self) -> float:
        """exp(nats / texts): a word is one event, however many tokens it has."""
        return perplexity(self.nats, self.texts)


def score_last_words(
    model: Model, lines: Iterable[str | bytes], *, cache_dtype: str | None = None, forward: Forward = fast.forward
) -> LastWords:
    """LAMBADA's task: predict the last word of each text from all that stands before it.

    lines  of JSON, {"text": ...}; the last word is what follows the last white space. Empty lines are passed over
    cache_dtype  as `score` has it
    Returns a LastWords. A word is correct where each of its tokens is the likeliest after those before it, so that
    greedy decoding would begin with them. Of a text longer than the context, the last n_ctx tokens count.
    Raises TokenError that names the line that is not such a text, and without a tokenizer.
    Notes: there is no stop-word filter. The GPT-2 paper, for the accuracies of its table 3, did not let the model
    answer with stop words, which seldom end these texts, and is said to have compared the last token alone, not the
    whole word. So expect lower figures here.
    Source: Paperno et al. 2016, arXiv:1606.06031; the counts are those of lambada_openai in lm-evaluation-harness.
    """
    check_cache_dtype(cache_dtype)
    texts = correct = 0
    nats = 0.0
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            ids, first = cut_last_word(model, line)
        except TokenError as error:
            raise TokenError(f"line {number}: {error}") from None
        rows = list(predict(ids, first, model, forward, cache_dtype))
        nats -= sum(log_prob(row, i) for row, i in zip(rows, ids[first:], strict=True))
        correct += all(row.argmax() == i for row, i in zip(rows, ids[first:], strict=True))
        texts += 1
    if not texts:
        raise TokenError('no lines, expected one or more of {"text": ...}')
    return LastWords(texts, correct, nats)


def cut_last_word(model: Model, line: str | bytes) -> tuple[list[int], int]:
    """Return the ids of a line of JSON, as many as fit, and where those of its last word begin."""
    try:
        text = json.loads(line)["text"].rstrip()
        before = text[: -len(text.split()[-1])].rstrip()
    except (ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError):
        raise TokenError(f'{line!r:.60} is not of the form {{"text": "two or more words"}}') from None
    encode = tokenizer_of(model).encode
    ids, start = encode(text), len(encode(before))
    kept = ids[-model.config.n_ctx :]
    first = start - (len(ids) - len(kept))
    if first < 1:
        raise TokenError(f"{text!r:.60} has no words before the last that fit into the context: expected two or more")
    return kept, first
