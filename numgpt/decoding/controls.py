"""What may be asked of the next token."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from numgpt.checks import check_option, is_integer, is_number
from numgpt.errors import OptionError
from numgpt.sampling import Text, min_p, temperature, top_k, top_p

Words = Sequence[Sequence[int]]


Bias = Mapping[Any, float] | Sequence[tuple[Sequence[int], float]]  # keys: an id, or a tuple of ids


LARGEST_BIAS = 1e30  # far past any logit, and float32 holds it


def ends_with(ids: Text, tail: Sequence[int]) -> bool:
    """Whether tail stands at the end of ids. An empty one does.

    >>> ends_with([1, 2, 3], [2, 3]), ends_with([3], [2, 3]), ends_with([3], [])
    (True, False, True)
    """
    return not len(tail) or list(ids[-len(tail) :]) == list(tail)


def ban(logits: np.ndarray, ids: Text) -> np.ndarray:
    """Make these ids impossible. Those past the logits are so already.

    >>> ban(np.array([1.0, 2.0, 3.0]), [0, 7])
    array([-inf,   2.,   3.])
    """
    banned = np.asarray(ids, dtype=np.intp)
    out = logits.copy()
    out[banned[banned < len(out)]] = -math.inf
    return out


def bias_pairs(bias: Bias) -> tuple[tuple[tuple[int, ...], float], ...]:
    """A bias in one form: pairs of ids and a number.

    >>> bias_pairs({7: 1.5, (3, 4): -2.0})
    (((7,), 1.5), ((3, 4), -2.0))
    """
    items = bias.items() if isinstance(bias, Mapping) else bias
    return tuple(((key,) if isinstance(key, (int, np.integer)) else tuple(key), value) for key, value in items)


def logit_bias(logits: np.ndarray, ids: Text, bias: Bias) -> np.ndarray:
    """Add a number to the logit of a token: always, or where the text ends in certain others.

        logit_n + bias of (id_1, ..., id_n), where id_1, ..., id_n-1 are the last of the text

    logits [V], ids [T] int
    bias  a mapping from an id, or a tuple of ids, to a number; or such pairs. All that fit a token are added
    Returns [V]. Ids past the logits are passed over.
    Source: Transformers, where it is called sequence_bias.

    >>> logit_bias(np.array([0.0, 0.0, 0.0]), [5, 1], {0: -1.5, (1, 2): 3.0, (5, 2): 9.0})
    array([-1.5,  0. ,  3. ])
    """
    out = logits.copy()
    for (*before, last), value in bias_pairs(bias):
        if last < len(out) and ends_with(ids, before):
            out[last] += value
    return out


def repetition_penalty(logits: np.ndarray, ids: Text, penalty: float) -> np.ndarray:
    """Make the tokens that the text already has less likely.

        logit_i / penalty where logit_i > 0, logit_i * penalty elsewhere, for each i in ids

    logits [V], ids [T] int, penalty > 0 (below 1 it rewards repetition)
    Returns [V].
    Source: Keskar et al. 2019, arXiv:1909.05858, section 4.1; the case of negative logits is from Transformers.

    >>> repetition_penalty(np.array([2.0, -2.0, 2.0]), [0, 1, 1], penalty=2.0)
    array([ 1., -4.,  2.])
    """
    seen = np.asarray(ids, dtype=np.intp)
    seen = seen[seen < len(logits)]  # a prompt may hold ids past those that can be sampled
    out = logits.copy()
    out[seen] = np.where(out[seen] > 0, out[seen] / penalty, out[seen] * penalty)
    return out


def no_repeat_ngram_size(logits: np.ndarray, ids: Text, n: int) -> np.ndarray:
    """Ban each token with which the text would repeat n ids in a row that it already has.

    logits [V], ids [T] int, n >= 1; 1 lets no token come twice
    Returns [V].
    Source: Paulus et al. 2017, arXiv:1705.04304, section 2.5, for n = 3; the name is that of Transformers.

    >>> no_repeat_ngram_size(np.array([0.0, 0.0, 0.0]), [1, 2, 0, 1], n=2)
    array([  0.,   0., -inf])
    """
    text = np.asarray(ids)
    if len(text) < n:
        return logits
    windows = np.lib.stride_tricks.sliding_window_view(text, n)  # [T - n + 1, n]
    start = text[len(text) - n + 1 :]  # the last n - 1 ids, which the next one makes n
    return ban(logits, windows[(windows[:, :-1] == start).all(axis=1), -1])


def bad_words(logits: np.ndarray, ids: Text, words: Words, stop_ids: Sequence[int] = ()) -> np.ndarray:
    """Ban the last id of each word where the text ends in the ids before it.

    logits [V], ids [T] int
    words     sequences of ids
    stop_ids  ids that end a text; a word that is nothing but one of them is passed over, as in Transformers
    Returns [V].
    Source: Transformers, where it is called bad_words_ids.

    >>> bad_words(np.array([0.0, 0.0, 0.0]), [5, 1], [[0], [1, 2], [5, 1]])
    array([-inf,   0., -inf])
    """
    last = [word[-1] for word in words if ends_with(ids, word[:-1]) and (len(word) > 1 or word[0] not in stop_ids)]
    return ban(logits, last)


def min_new_tokens(
    logits: np.ndarray, ids: Text, minimum: int, prompt_length: int, stop_ids: Sequence[int]
) -> np.ndarray:
    """Ban the ids that end a text until so many new ones stand after the prompt.

    logits [V], ids [T] int, of which the first prompt_length are the prompt
    Returns [V].

    >>> min_new_tokens(np.array([0.0, 0.0]), [1, 1, 0], minimum=2, prompt_length=2, stop_ids=[1])
    array([  0., -inf])
    """
    return ban(logits, stop_ids) if len(ids) - prompt_length < minimum else logits


class Sampling(NamedTuple):
    """How the next token is chosen. Names are those of Transformers; the defaults are the model's own distribution.

    temperature           0 or more; 0 is greedy: the most likely token, the lowest id where several tie
    top_k                 1 or more; None or 0 for off
    top_p                 above 0, up to 1; None or 1 for off
    min_p                 0 to 1; None or 0 for off
    repetition_penalty    0.001 to 1000; 1 for off
    logit_bias            numbers to add, by id or tuple of ids (sequence_bias in Transformers); None for off
    no_repeat_ngram_size  1 or more; None or 0 for off
    bad_words             a list of lists of ids (bad_words_ids in Transformers); None for off
    min_new_tokens        0 or more; 0 for off
    """

    temperature: float = 1.0
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    repetition_penalty: float = 1.0
    logit_bias: Bias | None = None
    no_repeat_ngram_size: int | None = None
    bad_words: Words | None = None
    min_new_tokens: int = 0

    @property
    def looks_back(self) -> bool:
        """Whether a control is on that looks at the text."""
        return self.repetition_penalty != 1 or any(self[5:])


def check_sampling(options: Sampling, n_vocab: int | None = None) -> Sampling:
    """Return options, with logit_bias and bad_words as tuples that nobody can change.

    n_vocab  how many tokens there are; without it, ids are not held against the vocabulary
    Raises OptionError that names the first one that is out of its range, and the range.

    >>> check_sampling(Sampling(top_p=1.5))
    Traceback (most recent call last):
    numgpt.errors.OptionError: top_p is 1.5, expected a number above 0 and up to 1, or None for off
    >>> check_sampling(Sampling(logit_bias={7: 1.5, (3, 4): -2.0})).logit_bias
    (((7,), 1.5), ((3, 4), -2.0))
    """
    t, k, p, m, r, bias, n, words, new = options
    count = "an integer of 1 or more, or None or 0 for off"
    check_option("temperature", t, is_number(t) and t >= 0, "a finite number, 0 (greedy) or more")
    check_option("top_k", k, k is None or (is_integer(k) and k >= 0), count)
    check_option(
        "top_p", p, p is None or (is_number(p) and 0 < p <= 1), "a number above 0 and up to 1, or None for off"
    )
    check_option("min_p", m, m is None or (is_number(m) and 0 <= m <= 1), "a number from 0 to 1, or None for off")
    check_option("repetition_penalty", r, is_number(r) and 0.001 <= r <= 1000, "a number from 0.001 to 1000; 1 for off")
    if bias is not None:
        options = options._replace(logit_bias=check_bias(bias, n_vocab))
    check_option("no_repeat_ngram_size", n, n is None or (is_integer(n) and n >= 0), count)
    if words is not None:
        check_option("bad_words", words, isinstance(words, (tuple, list)), "a list of lists of ids, or None for off")
        checked = [check_word(f"bad_words[{i}]", word, n_vocab) for i, word in enumerate(words)]
        options = options._replace(bad_words=tuple(checked))
    check_option("min_new_tokens", new, is_integer(new) and new >= 0, "an integer of 0 or more; 0 for off")
    return options


def check_bias(bias: Bias, n_vocab: int | None) -> tuple[tuple[tuple[int, ...], float], ...]:
    """Return the bias as pairs. Raises OptionError for what is no bias."""
    try:
        pairs = bias_pairs(bias)
    except (TypeError, ValueError):
        check_option("logit_bias", bias, False, "a mapping from an id or a tuple of ids to a number, or None for off")
    expected = f"a number from -{LARGEST_BIAS:g} to {LARGEST_BIAS:g}; to ban tokens, use bad_words"
    for word, value in pairs:
        check_word("a key of logit_bias", word, n_vocab)
        name = f"logit_bias of {', '.join(map(str, word))}"
        check_option(name, value, is_number(value) and abs(value) <= LARGEST_BIAS, expected)
    return pairs


def check_word(name: str, word: Any, n_vocab: int | None) -> tuple[int, ...]:
    """Return the ids of a word. Raises OptionError where there are none, or one is outside the vocabulary."""
    last = math.inf if n_vocab is None else n_vocab - 1
    fits = isinstance(word, (tuple, list)) and len(word) > 0 and all(is_integer(i) and 0 <= i <= last for i in word)
    check_option(name, word, fits, "one or more ids, " + ("0 or more" if n_vocab is None else f"0 to {last}"))
    return tuple(word)


def edit(
    logits: np.ndarray, ids: Text, options: Sampling, prompt_length: int = 0, stop_ids: Sequence[int] = ()
) -> np.ndarray:
    """Apply the controls that look at the text, in order. The arguments are those of `process`."""
    if options.logit_bias:
        logits = logit_bias(logits, ids, options.logit_bias)
    if options.repetition_penalty != 1:
        logits = repetition_penalty(logits, ids, options.repetition_penalty)
    if options.no_repeat_ngram_size:
        logits = no_repeat_ngram_size(logits, ids, options.no_repeat_ngram_size)
    if options.bad_words:
        logits = bad_words(logits, ids, options.bad_words, stop_ids)
    if options.min_new_tokens:
        logits = min_new_tokens(logits, ids, options.min_new_tokens, prompt_length, stop_ids)
    return logits


def check_not_all_banned(logits: np.ndarray, ids: Text, options: Sampling) -> None:
    """Raise OptionError where the controls have banned every token: all logits [V] are -inf."""
    bans = [name for name in ("no_repeat_ngram_size", "bad_words", "min_new_tokens") if getattr(options, name)]
    if bans and logits.max() == -math.inf:
        left = f"no token is left at position {len(ids)}: all {len(logits)} are banned"
        raise OptionError(f"{left}; loosen {' or '.join(bans)}")


def narrow(logits: np.ndarray, options: Sampling) -> np.ndarray:
    """Apply the controls that look at the logits alone, in order.

    logits [V]
    Returns [V].
    """
    if options.temperature != 1:
        logits = temperature(logits, options.temperature)
    if options.top_k:
        logits = top_k(logits, options.top_k)
    if options.top_p is not None and options.top_p < 1:
        logits = top_p(logits, options.top_p)
    if options.min_p:
        logits = min_p(logits, options.min_p)
    return logits


def process(
    logits: np.ndarray, ids: Text, options: Sampling, *, prompt_length: int = 0, stop_ids: Sequence[int] = ()
) -> np.ndarray:
    """Apply the controls to the logits of one position, in order. At temperature 0 only those that look at the text.

    logits         [V]
    ids            [T]  the text so far
    prompt_length  how many of ids are the prompt: for min_new_tokens
    stop_ids       the ids that end a text: for min_new_tokens and bad_words
    Returns [V].
    Raises OptionError where the controls ban every token.
    """
    logits = edit(logits, ids, options, prompt_length, stop_ids)
    check_not_all_banned(logits, ids, options)
    return logits if options.temperature == 0 else narrow(logits, options)
