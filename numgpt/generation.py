"""The loop that turns a model of the next token into text."""

import os
import warnings
from collections.abc import Callable, Generator

import numpy as np

from numgpt import model
from numgpt.cache import KVCache
from numgpt.config import Config
from numgpt.errors import ContextError
from numgpt.model import Ids, Params
from numgpt.sampling import Sampling, check_option, check_sampling, is_integer, sample


def generate(
    ids: Ids,
    params: Params,
    config: Config,
    *,
    max_new_tokens: int,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    min_p: float | None = None,
    repetition_penalty: float = 1.0,
    seed: int | None = None,
    stream: int = 0,
    forward: Callable[..., np.ndarray] = model.forward,
) -> Generator[int, None, str]:
    """Continue a text: yield one new id after the other, each as soon as it is known.

        id_t ~ softmax(controls(forward(id_0 ... id_t-1)))

    ids             [T] int, T >= 1
    max_new_tokens  the most ids to yield
    seed            0 to 2^64 - 1; the same seed gives the same ids. None: another one each time
    stream          0 to 2^64 - 1; tells apart several texts of one seed
    forward         the function that computes the logits: model.forward or one of the same signature
    The other options are those of `sampling.Sampling`.
    Yields ids. It ends at the end-of-text id, which is not yielded ("stop"), after max_new_tokens ("length") or where
    the next token would need a position past the context ("context", with a warning). The word is the value that the
    generator returns. Ids past config.n_tokens, which pad the embedding, are never yielded.
    Raises, when called, TokenError for ids outside the vocabulary, ContextError for more than n_ctx of them and
    OptionError for an option out of its range; and CheckpointError at a token whose logits are not finite.

    >>> import numgpt
    >>> m = numgpt.load("storyteller")
    >>> ids = m.tokenizer.encode("Once upon a time there")
    >>> m.tokenizer.decode(generate(ids, m.params, m.config, max_new_tokens=6, temperature=0))
    ' was a great many years old'
    """
    options = check_sampling(Sampling(temperature, top_k, top_p, min_p, repetition_penalty))
    expected = "an integer of 0 or more"
    check_option("max_new_tokens", max_new_tokens, is_integer(max_new_tokens) and max_new_tokens >= 0, expected)
    seed = int.from_bytes(os.urandom(4), "little") if seed is None else seed
    for name, value in ("seed", seed), ("stream", stream):
        check_option(name, value, is_integer(value) and 0 <= value < 2**64, "an integer from 0 to 2^64 - 1")
    text: list[int] = model.check_ids(ids, config).tolist()
    prompt_length = len(text)
    if prompt_length > config.n_ctx:
        raise ContextError(
            f"the prompt has {prompt_length} tokens, but the context of this model is {config.n_ctx}: shorten it"
        )

    def steps() -> Generator[int, None, str]:
        cache = KVCache(config, dtype=params["wte"].dtype)
        new = text  # what the cache does not hold yet
        for _ in range(max_new_tokens):
            if len(cache) == config.n_ctx:
                made = len(text) - prompt_length
                limit = f"stopped at the context limit of {config.n_ctx} tokens"
                warnings.warn(f"{limit}: {made} of {max_new_tokens} new tokens are made", stacklevel=2)
                return "context"
            logits = forward(new, params, config, cache=cache, logits_to_keep=1)[-1, : config.n_tokens]  # [V]
            new = [sample(logits, text, options, seed, stream)]
            if new[0] == config.eos_token_id:
                return "stop"
            text.extend(new)
            yield new[0]
        return "length"

    return steps()
