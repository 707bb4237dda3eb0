"""Summaries, as the GPT-2 paper has them made: "TL;DR:" after the article, and what the model goes on to say.

Source: Radford et al. 2019, section 3.6: 100 tokens by top-k sampling with k = 2, of which the first 3 sentences count.
"""

import re
from collections.abc import Callable, Iterator
from typing import NamedTuple

from numgpt.apps.sentences import first_sentences, split_sentences
from numgpt.decoding.text import complete
from numgpt.errors import ContextError, TokenError
from numgpt.model import Model, tokenizer_of

TOKENS = 100
TOP_K = 2
SENTENCES = 3
MOST_TOKENS = 4  # of a single character: one for each byte


class Summary(NamedTuple):
    """The summary of an article, or of one of its parts."""

    prompt: str  # what the model was given
    text: str  # what it went on with
    summary: str  # the first sentences of that


def summary_prompt(article: str) -> str:
    """Return what makes GPT-2 summarize.

    Notes: the paper says "after the article" and no more; that it has a line of its own is our choice.

    >>> summary_prompt("The fox ran. The hen stayed.")
    'The fox ran. The hen stayed.\\nTL;DR:'
    """
    return f"{article}\nTL;DR:"


def summarize(model: Model, article: str, seed: int | None = None, cache_dtype: str | None = None) -> Iterator[Summary]:
    """Yield the summary of an article; of one that is too long for the context, a summary of each part, in order.

    model    one with a tokenizer. GPT-2's largest, gpt2-xl, does it best
    article  any text
    seed     0 to 2^64 - 1; the same seed makes the same summaries. None: others each time. Part n draws from stream n
    cache_dtype  as `generate` has it
    Raises, when called, TokenError for an article without a word or a model without a tokenizer, ContextError for a
    model whose context is too small for a summary; and when it is iterated what `generate` raises.

    >>> import numgpt
    >>> model = numgpt.load("storyteller")
    >>> [len(part.summary) > 0 for part in summarize(model, "A fox met a hen. She was wise, and flew away.", seed=1)]
    [True]
    """
    parts = enumerate(split_article(model, article))
    return (summarize_part(model, part, seed, number, cache_dtype) for number, part in parts)


def summarize_part(model: Model, part: str, seed: int | None, stream: int, cache_dtype: str | None = None) -> Summary:
    """Return the summary of a text that leaves room for it in the context."""
    prompt = summary_prompt(part)
    options = {"top_k": TOP_K, "seed": seed, "stream": stream, "cache_dtype": cache_dtype}
    text = complete(model, prompt, max_new_tokens=TOKENS, **options)
    return Summary(prompt, text, first_sentences(text, SENTENCES))


def split_article(model: Model, article: str) -> list[str]:
    """Cut an article into parts of which each leaves room in the context for "TL;DR:" and a summary.

    A part ends with a paragraph; where one is too long, with a line, a sentence, a word, or in the middle of a word.
    Raises what `summarize` raises.
    """
    tokenizer, n_ctx = tokenizer_of(model), model.config.n_ctx
    if not article.strip():
        raise TokenError("the article is empty: give some text to summarize")

    def needed(text: str) -> int:
        return len(tokenizer.encode(summary_prompt(text.strip()))) + TOKENS

    least = needed("") + MOST_TOKENS
    if least > n_ctx:
        raise ContextError(
            f"the context of this model is {n_ctx} tokens, expected {least} or more: a summary takes {TOKENS} of them"
        )

    def fits(text: str) -> bool:
        return needed(text) <= n_ctx

    return [part.strip() for part in pack(article, fits, BORDERS) if part.strip()]


Splitter = Callable[[str], list[str]]


def halves(text: str) -> list[str]:
    """Cut a text in the middle."""
    return [text[: len(text) // 2], text[len(text) // 2 :]]


BORDERS: list[Splitter] = [
    lambda text: re.split(r"(?<=\n)(?=[^\S\n]*\n)", text),  # paragraphs
    lambda text: text.splitlines(keepends=True),
    split_sentences,
    lambda text: re.split(r"(?<=\s)(?=\S)", text),  # words
    halves,
]


def pack(text: str, fits: Callable[[str], bool], borders: list[Splitter]) -> list[str]:
    """Cut a text at the first kind of border into as few parts that fit as can be had by filling one after the other.

    What does not fit by itself is cut at the next kind of border; the last kind serves as often as needed.

    >>> pack("one two three. four", lambda part: len(part) <= 8, [split_sentences, str.split, halves])
    ['onetwo', 'three.', 'four']
    """
    if fits(text):
        return [text]
    parts = [""]
    for piece in borders[0](text):
        if fits(parts[-1] + piece):  # as a paragraph does behind the rest of one that was cut
            parts[-1] += piece
        else:
            parts += pack(piece, fits, borders[1:] or borders)
    return [part for part in parts if part]
