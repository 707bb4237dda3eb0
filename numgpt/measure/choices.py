"""Which of some continuations: each with its probability, for a question with given answers or a text to classify."""

import math
from collections.abc import Sequence
from typing import NamedTuple

from numgpt.checks import check_option
from numgpt.decoding.text import start_ids
from numgpt.errors import NumgptError, TokenError
from numgpt.measure.endings import score_endings
from numgpt.model import Ids, Model, tokenizer_of
from numgpt.tokenizer import Tokenizer


class Choice(NamedTuple):
    """One of the continuations."""

    text: str
    ids: list[int]
    log_prob: float  # that the prompt goes on with these ids; natural logarithm
    probability: float  # that it is this one, if it is one of them

    @property
    def log_prob_per_byte(self) -> float:
        """The log-probability, shared among the bytes of the text: it favours neither short nor long ones."""
        return self.log_prob / len(self.text.encode())


def choose(model: Model, prompt: str | Ids, choices: Sequence[str], *, allow_special: bool = False) -> list[Choice]:
    """Compute how likely a prompt goes on with each of some texts.

        log p(choice | prompt) = sum_t log p(id_t | prompt, id_0 ... id_t-1)
        probability = w / sum of all w,   w = p(choice | prompt) - p(of the choices that go on from this one)

    prompt         str, or its ids; an empty one stands for the end-of-text, after which a text begins
    choices        different texts, one or more. As a word of GPT-2 begins with its space, so do most of them
    allow_special  whether "<|endoftext|>" in the prompt and the choices is the special token
    Returns a Choice for each, in their order. Where one is the beginning of another, the probability of the first is
    that of a text that goes on with it and not with the other.
    Raises TokenError for a choice that is empty, or ids outside the vocabulary; OptionError for no choices or the same
    twice; ContextError for a choice longer than the context. A prompt that is too long loses its beginning.
    Notes: the prompt is computed once. Text is cut into tokens as the whole would be; where a token of the whole goes
    across the border, prompt and choice are cut by themselves. A log-probability favours short texts: compare
    `log_prob_per_byte` where lengths differ much.

    >>> import numgpt
    >>> model = numgpt.load("storyteller")
    >>> for choice in choose(model, "Once there was a", [" king", " king who", " queen"]):
    ...     print(choice.text, round(choice.probability, 2))
     king 0.59
     king who 0.38
     queen 0.04
    """
    check_choices(choices)
    tokenizer = tokenizer_of(model)
    pairs = []
    for number, text in enumerate(choices):
        try:
            before, ids = cut(prompt, text, tokenizer, allow_special)
            pairs.append((list(start_ids(model, before)), ids))
        except NumgptError as error:
            raise type(error)(f"choice {number}, {text!r:.40}: {error}") from None
    found = dict(score_endings(model, pairs, batch_size=1))
    log_probs = [found[number].log_prob for number in range(len(pairs))]
    shares = exclusive([[*before, *ids] for before, ids in pairs], log_probs)
    return [
        Choice(text, ids, log_prob, share)
        for text, (_, ids), log_prob, share in zip(choices, pairs, log_probs, shares, strict=True)
    ]


def check_choices(choices: Sequence[str]) -> None:
    """Raise OptionError unless these are different texts, one or more."""
    fits = not isinstance(choices, str) and bool(choices) and all(isinstance(text, str) for text in choices)
    check_option("choices", choices, fits, "a list of one or more texts")
    check_option("choices", list(choices), len(set(choices)) == len(choices), "each text once")


def cut(prompt: str | Ids, text: str, tokenizer: Tokenizer, allow_special: bool = False) -> tuple[list[int], list[int]]:
    """Return the ids of a prompt, and those of a text behind it. White space at the end of the prompt goes to the text.

    >>> import numgpt
    >>> before, ids = cut("Once upon ", "a time", numgpt.load("storyteller").tokenizer)
    >>> len(before), numgpt.load("storyteller").tokenizer.decode(ids)
    (3, ' a time')
    """
    if not text:
        raise TokenError("empty, expected some text")
    if not isinstance(prompt, str):
        return list(prompt), tokenizer.encode_part(text, allow_special)
    kept = prompt.rstrip()
    before = tokenizer.encode_part(kept, allow_special)
    whole = tokenizer.encode_part(prompt + text, allow_special)
    if whole[: len(before)] == before and len(whole) > len(before):
        return before, whole[len(before) :]
    return before, tokenizer.encode_part(prompt[len(kept) :] + text, allow_special)


def exclusive(texts: Sequence[Sequence[int]], log_probs: Sequence[float]) -> list[float]:
    """Return, of texts that begin with the same prompt, with which probability it is each, if it is one of them.

    texts      ids
    log_probs  that a text begins with these ids

    >>> shares = exclusive([[5, 1], [5, 2], [5, 1, 7]], [math.log(0.5), math.log(0.25), math.log(0.125)])
    >>> [round(share, 9) for share in shares]
    [0.5, 0.333333333, 0.166666667]
    """
    largest = max(log_probs)
    p = [math.exp(log_prob - largest) for log_prob in log_probs]
    left = p.copy()
    for i, longer in enumerate(texts):
        beginnings = [j for j, text in enumerate(texts) if len(text) < len(longer) and longer[: len(text)] == text]
        if beginnings:  # the longest of them has what is left of the others already
            left[max(beginnings, key=lambda j: len(texts[j]))] -= p[i]
    left = [max(x, 0.0) for x in left]  # a rounding may bring it below
    return [x / sum(left) for x in left]
