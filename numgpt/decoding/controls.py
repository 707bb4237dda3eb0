"""What may be asked of the next token: the options of sampling, each a function and a row in one table.

The functions here look at the text; those that look at the logits alone are in `sampling`. All are pure functions from
logits [V] to logits [V], and what they ban becomes -inf. CONTROLS lists them in the order in which they are applied,
which is that of Transformers: first those that look at the text, then the others.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from numgpt import sampling
from numgpt.checks import check_option, is_integer, is_number
from numgpt.decoding.banned import ban_texts, check_ban
from numgpt.decoding.form import check_regex, keep_form
from numgpt.decoding.watermark import ABOUT_NUMBER_KEY, green_list, is_number_key
from numgpt.errors import OptionError
from numgpt.sampling import OfLogits, Text

Words = Sequence[Sequence[int]]
Bias = Mapping[Any, float] | Sequence[tuple[Sequence[int], float]]  # keys: an id, or a tuple of ids
Check = Callable[[str, Any, int | None], Any]  # (name, value, n_vocab) -> the value as it is kept; or OptionError
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


def presence_penalty(logits: np.ndarray, ids: Text, penalty: float, prompt_length: int = 0) -> np.ndarray:
    """Make the tokens that were written already less likely, however often.

        logit_i - penalty where i is among the new ids

    logits [V], ids [T] int, of which the first prompt_length are the prompt; a penalty below 0 rewards
    Returns [V].
    Source: OpenAI's API, which counts what was sampled, and not the prompt.

    >>> presence_penalty(np.array([2.0, 2.0, 2.0]), [0, 1, 1], penalty=0.5, prompt_length=1)
    array([2. , 1.5, 2. ])
    """
    return logits - penalty * (counts_of(ids[prompt_length:], len(logits)) > 0)


def frequency_penalty(logits: np.ndarray, ids: Text, penalty: float, prompt_length: int = 0) -> np.ndarray:
    """Make a token less likely with each time that it was written.

        logit_i - penalty count_i,   count_i: how often i is among the new ids

    logits [V], ids [T] int, of which the first prompt_length are the prompt; a penalty below 0 rewards
    Returns [V].
    Source: OpenAI's API, as for `presence_penalty`.

    >>> frequency_penalty(np.array([2.0, 2.0, 2.0]), [0, 1, 1], penalty=0.5, prompt_length=1)
    array([2., 1., 2.])
    """
    return logits - penalty * counts_of(ids[prompt_length:], len(logits))


def counts_of(ids: Text, n: int) -> np.ndarray:
    """Return how often each of the ids 0 to n - 1 is there [n]. Others are passed over.

    >>> counts_of([1, 1, 7], 3)
    array([0, 2, 0])
    """
    return np.bincount(np.asarray(ids, dtype=np.intp), minlength=n)[:n]


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


# ---- options and their ranges


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
    presence_penalty      -2 to 2; 0 for off
    frequency_penalty     -2 to 2; 0 for off
    ban                   a list of texts that must not come, however they are cut into tokens; None for off
    regex                 a pattern that the new text has to match as a whole, see `decoding.form`; None for off
    green_list            a whole number, the key of a watermark (hashing_key in Transformers); None for off
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
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    ban: Sequence[str] | None = None
    regex: str | None = None
    green_list: int | None = None


def check_sampling(options: Sampling, n_vocab: int | None = None) -> Sampling:
    """Return options, with logit_bias, bad_words and ban as tuples that nobody can change.

    n_vocab  how many tokens there are; without it, ids are not held against the vocabulary
    Raises OptionError that names the first one that is out of its range, and the range.

    >>> check_sampling(Sampling(top_p=1.5))
    Traceback (most recent call last):
    numgpt.errors.OptionError: top_p is 1.5, expected a number above 0 and up to 1, or None for off
    >>> check_sampling(Sampling(logit_bias={7: 1.5, (3, 4): -2.0})).logit_bias
    (((7,), 1.5), ((3, 4), -2.0))
    """
    rows = {row.name: row for row in CONTROLS}
    checked = {name: rows[name].check(name, value, n_vocab) for name, value in options._asdict().items()}
    changed = {name: value for name, value in checked.items() if value is not getattr(options, name)}
    return options._replace(**changed) if changed else options


def in_range(expected: str, fits: Callable[[Any], bool]) -> Check:
    """Return the check of a plain option: whether the value fits, and the range in words."""

    def check(name: str, value: Any, n_vocab: int | None) -> Any:
        check_option(name, value, fits(value), expected)
        return value

    return check


def check_bias(name: str, bias: Bias | None, n_vocab: int | None) -> tuple[tuple[tuple[int, ...], float], ...] | None:
    """Return the bias as pairs. Raises OptionError for what is no bias."""
    if bias is None:
        return None
    try:
        pairs = bias_pairs(bias)
    except (TypeError, ValueError):
        check_option(name, bias, False, "a mapping from an id or a tuple of ids to a number, or None for off")
    expected = f"a number from -{LARGEST_BIAS:g} to {LARGEST_BIAS:g}; to ban tokens, use bad_words"
    for word, value in pairs:
        check_word(f"a key of {name}", word, n_vocab)
        entry = f"{name} of {', '.join(map(str, word))}"
        check_option(entry, value, is_number(value) and abs(value) <= LARGEST_BIAS, expected)
    return pairs


def check_words(name: str, words: Words | None, n_vocab: int | None) -> tuple[tuple[int, ...], ...] | None:
    """Return the words as tuples. Raises OptionError for what is no list of lists of ids."""
    if words is None:
        return None
    check_option(name, words, isinstance(words, (tuple, list)), "a list of lists of ids, or None for off")
    return tuple(check_word(f"{name}[{i}]", word, n_vocab) for i, word in enumerate(words))


def check_word(name: str, word: Any, n_vocab: int | None) -> tuple[int, ...]:
    """Return the ids of a word. Raises OptionError where there are none, or one is outside the vocabulary."""
    last = math.inf if n_vocab is None else n_vocab - 1
    fits = isinstance(word, (tuple, list)) and len(word) > 0 and all(is_integer(i) and 0 <= i <= last for i in word)
    check_option(name, word, fits, "one or more ids, " + ("0 or more" if n_vocab is None else f"0 to {last}"))
    return tuple(word)


# ---- the table


class Start(NamedTuple):
    """What some controls know of a text beside its ids."""

    prompt_length: int = 0  # how many of the ids are the prompt
    stop_ids: Sequence[int] = ()  # the ids that end it
    tokenizer: Any = None  # the Tokenizer, which those that read the ids as text need


class Option(NamedTuple):
    """One of the options: when it is off, which values it may have, and what it does."""

    name: str  # the field of Sampling
    off: tuple[Any, ...]  # the values with which it changes nothing
    check: Check
    bind: Callable[[Any, Start], sampling.Control]  # (value, start) -> the function (logits, text) -> logits
    bans: bool = False  # whether it may leave no token at all


def is_count_or_none(x: Any) -> bool:
    return x is None or (is_integer(x) and x >= 0)


COUNT = in_range("an integer of 1 or more, or None or 0 for off", is_count_or_none)
PENALTY = in_range("a number from -2 to 2; 0 for off", lambda x: is_number(x) and -2 <= x <= 2)
CONTROLS = (
    Option(
        name="logit_bias",
        off=(None, (), [], {}),
        check=check_bias,
        bind=lambda bias, start: partial(logit_bias, bias=bias),
    ),
    Option(
        name="repetition_penalty",
        off=(1,),
        check=in_range("a number from 0.001 to 1000; 1 for off", lambda x: is_number(x) and 0.001 <= x <= 1000),
        bind=lambda penalty, start: partial(repetition_penalty, penalty=penalty),
    ),
    Option(
        name="presence_penalty",
        off=(0,),
        check=PENALTY,
        bind=lambda penalty, start: partial(presence_penalty, penalty=penalty, prompt_length=start.prompt_length),
    ),
    Option(
        name="frequency_penalty",
        off=(0,),
        check=PENALTY,
        bind=lambda penalty, start: partial(frequency_penalty, penalty=penalty, prompt_length=start.prompt_length),
    ),
    Option(
        name="no_repeat_ngram_size",
        off=(None, 0),
        check=COUNT,
        bind=lambda n, start: partial(no_repeat_ngram_size, n=n),
        bans=True,
    ),
    Option(
        name="bad_words",
        off=(None, (), []),
        check=check_words,
        bind=lambda words, start: partial(bad_words, words=words, stop_ids=start.stop_ids),
        bans=True,
    ),
    Option(
        name="min_new_tokens",
        off=(0,),
        check=in_range("an integer of 0 or more; 0 for off", lambda x: is_integer(x) and x >= 0),
        bind=lambda minimum, start: partial(
            min_new_tokens, minimum=minimum, prompt_length=start.prompt_length, stop_ids=start.stop_ids
        ),
        bans=True,
    ),
    Option(
        name="ban",
        off=(None, (), []),
        check=check_ban,
        bind=lambda texts, start: partial(ban_texts, texts=texts, tokenizer=start.tokenizer),
        bans=True,
    ),
    Option(
        name="regex",
        off=(None,),
        check=check_regex,
        bind=lambda pattern, start: partial(keep_form, pattern=pattern, **start._asdict()),
        bans=True,
    ),
    Option(
        name="green_list",
        off=(None,),
        check=in_range(f"{ABOUT_NUMBER_KEY}, or None for off", lambda x: x is None or is_number_key(x)),
        bind=lambda key, start: partial(green_list, key=key),
    ),
    Option(
        name="temperature",
        off=(1,),
        check=in_range("a finite number, 0 (greedy) or more", lambda x: is_number(x) and x >= 0),
        bind=lambda T, start: OfLogits(sampling.temperature, T),
    ),
    Option(
        name="top_k",
        off=(None, 0),
        check=COUNT,
        bind=lambda k, start: OfLogits(sampling.top_k, k),
    ),
    Option(
        name="top_p",
        off=(None, 1),
        check=in_range(
            "a number above 0 and up to 1, or None for off", lambda x: x is None or (is_number(x) and 0 < x <= 1)
        ),
        bind=lambda p, start: OfLogits(sampling.top_p, p),
    ),
    Option(
        name="min_p",
        off=(None, 0),
        check=in_range("a number from 0 to 1, or None for off", lambda x: x is None or (is_number(x) and 0 <= x <= 1)),
        bind=lambda p, start: OfLogits(sampling.min_p, p),
    ),
)


def controls_that_are_on(options: Sampling) -> list[Option]:
    """Return the rows of the controls that change something, in the order in which they are applied."""
    return [row for row in CONTROLS if getattr(options, row.name) not in row.off]


def controls_of(options: Sampling, start: Start) -> list[sampling.Control]:
    """Return what `sampling.sample` takes as controls: those that are on, and a guard where they may ban every token.

    >>> controls_of(Sampling(temperature=0.8, top_k=40), Start())[1].setting
    40
    """
    on = [(getattr(options, row.name), row) for row in controls_that_are_on(options)]
    edits = text_controls(options, start)
    guard = [partial(check_some_left, options=options)] if any(row.bans for _, row in on) else []
    return [*edits, *guard, *(row.bind(value, start) for value, row in on[len(edits) :])]


def text_controls(options: Sampling, start: Start) -> list[sampling.Control]:
    """Return the controls that are on and look at the text, in order."""
    bound = (row.bind(getattr(options, row.name), start) for row in controls_that_are_on(options))
    return [control for control in bound if not isinstance(control, OfLogits)]


def check_some_left(logits: np.ndarray, text: Text, options: Sampling) -> np.ndarray:
    """Return logits [V] as they are. Raises OptionError where the controls have banned every token: all are -inf."""
    bans = [row.name for row in controls_that_are_on(options) if row.bans]
    if bans and logits.max() == -math.inf:
        left = f"no token is left at position {len(text)}: all {len(logits)} are banned"
        raise OptionError(f"{left}; loosen {' or '.join(bans)}")
    return logits
