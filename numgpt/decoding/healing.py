"""Token healing: a prompt that ends inside a word goes on as if it had not been cut there.

    "The capi"  ->  ids of "The", and a new text that has to begin with " capi": " capital" is one token, and likely

As a prompt, " cap" and "i" are two tokens, behind which the model has hardly ever seen "tal".
Source: Lundberg and Ribeiro, guidance (github.com/guidance-ai/guidance), who step back by one token; here it is a word.
"""

import math
from typing import Any

import numpy as np

from numgpt.checks import check_option
from numgpt.decoding.banned import check_characters
from numgpt.decoding.pieces import pieces_of
from numgpt.sampling import Text
from numgpt.tokenizer import Tokenizer, split


def take_back(text: str, tokenizer: Tokenizer, allow_special: bool = False) -> tuple[list[int], str]:
    """Return the ids of a prompt without its last word, and that word, with which the new text is to begin.

    Notes: tokens never span words, so no token of those before could go on differently. A prompt that ends with a
    special token is left as it is.

    >>> import numgpt
    >>> take_back("The capi", numgpt.load_tokenizer("gpt2"))
    ([464], ' capi')
    """
    special = [name for name in tokenizer.special_tokens if allow_special and text.endswith(name)]
    words = split(text)
    if special or not words:
        return tokenizer.encode(text, allow_special), ""
    last = words[-1]
    kept = text[: len(text) - len(last)]
    return (tokenizer.encode(kept, allow_special) if kept else []), last


def check_start(name: str, text: Any, n_vocab: int | None) -> str | None:
    """Return the text. Raises OptionError for what is none."""
    check_option(name, text, text is None or (isinstance(text, str) and bool(text)), "a text, or None for off")
    if text is not None:
        check_characters(name, text)
    return text


def begin_with(logits: np.ndarray, ids: Text, start: str, prompt_length: int, tokenizer: Tokenizer) -> np.ndarray:
    """Ban what does not lead on to a new text that begins with these characters, however they are cut into tokens.

    logits [V], ids [T] int, of which the first prompt_length are the prompt
    Returns [V].

    >>> tokenizer = Tokenizer([(b"a", b"b"), (b"ab", b"c")])
    >>> out = begin_with(np.zeros(258), [9], "ab", 1, tokenizer)  # "a", "ab" and "abc"
    >>> np.flatnonzero(np.isfinite(out)).tolist()
    [97, 256, 257]
    """
    pieces = pieces_of(tokenizer)
    rest = start.encode()[sum(len(pieces.of(i)) for i in ids[prompt_length:]) :]
    if not rest:
        return logits
    inside = [tokenizer.vocabulary.get(rest[:n]) for n in range(1, len(rest))]
    fitting = np.concatenate([pieces.beginning_with(rest), np.array([i for i in inside if i is not None], np.intp)])
    fitting = fitting[fitting < len(logits)]
    out = np.full_like(logits, -math.inf)
    out[fitting] = logits[fitting]
    return out
