"""A watermark: text that can be recognised, by whoever has the key, as the one that this program wrote.

Two ways. The race: the clocks of a token are set by a keyed hash of the h tokens before it, instead of by the seed.

    id_t = argmin_i E_i / p_i,   E_i = -log r_i,   r = uniform numbers of hash(key; id_t-h ... id_t-1)

The hash stands for chance, so each text has the probability that it has without; but to whoever has the key, tokens
that were drawn have an r near 1, the nearer the more else the model might have said. The other way, the green list,
makes a quarter of all tokens likelier, another quarter after each token. That changes what is written, and marks what
is searched for, too. `measure.watermarks` finds both.

Sources: Aaronson 2022, "My AI safety lecture for UT Effective Altruism"; Christ et al. 2023, arXiv:2306.09194, for the
first tokens, which the seed draws; Kirchenbauer et al. 2023, arXiv:2301.10226, for the green list. Kuditipudi et al.
2023, arXiv:2307.15593, set the clocks by the place in a long secret row instead, which takes a search to find again.
"""

import hashlib
import threading

import numpy as np

from numgpt.checks import is_integer
from numgpt.sampling import Text

WIDTH = 4  # h: how many tokens before set the clocks of the next one
LONGEST_KEY = 64  # bytes, which is what the hash takes
GREEN = 0.25  # the part of all tokens that is green
GREEN_BIAS = 2.0  # what is added to their logits
MOST_NUMBER_KEY = 2**53  # which JSON holds everywhere
ABOUT_KEY = f"a text of 1 to {LONGEST_KEY} bytes"
ABOUT_NUMBER_KEY = f"an integer from 1 to {MOST_NUMBER_KEY}"

generators = threading.local()  # one for each thread: a new one takes many times as long as to seed one
Source = tuple[int, int, int]  # seed, stream and position of `sampling.random_words`


def is_key(key: str) -> bool:
    """Whether this is a key of the race."""
    return isinstance(key, str) and 0 < len(bytes_of(key)) <= LONGEST_KEY


def is_number_key(key: int) -> bool:
    """Whether this is a key of the green list."""
    return is_integer(key) and 1 <= key <= MOST_NUMBER_KEY


def bytes_of(key: str) -> bytes:
    return key.encode("utf-8", "surrogatepass")


def keyed_source(context: Text, key: str) -> Source:
    """Hash the tokens before one to where its random numbers come from.

        seed, stream = the halves of BLAKE2b-128(key; context)

    context  [h] int
    Returns seed, stream and position as `sampling.random_words` takes them; the position is always 0.
    Source: RFC 7693, in which the hash has a key.

    >>> keyed_source([1, 2, 3, 4], "secret") == keyed_source([1, 2, 3, 4], "secrets")
    False
    """
    ids = np.asarray(context, dtype="<u8").tobytes()
    digest = hashlib.blake2b(ids, key=bytes_of(key), digest_size=16).digest()
    return int.from_bytes(digest[:8], "little"), int.from_bytes(digest[8:], "little"), 0


def marked_source(text: list[int], prompt_length: int, key: str) -> Source | None:
    """Return where the random numbers of the token that follows a text come from; None where it is not marked.

    text  [T] the ids so far, of which the first prompt_length are the prompt
    Notes: two tokens stay unmarked. One with fewer than h new tokens before it: these are drawn by the seed, so that
    another seed makes another text of the same prompt, and all that is marked can be found without the prompt. And one
    before which stand h tokens that stood there before, also in the prompt: the same clocks twice would draw the same
    token twice, and lead a text that repeats itself to do so for ever. So no clock is used twice in a text.

    >>> marked_source([9, 1, 2, 3, 4], 1, "secret") == keyed_source([1, 2, 3, 4], "secret")
    True
    >>> marked_source([9, 1, 2, 3, 4], 2, "secret"), marked_source([1, 2, 3, 4, 1, 2, 3, 4], 1, "secret")
    (None, None)
    """
    if len(text) - prompt_length < WIDTH:
        return None
    windows = np.lib.stride_tricks.sliding_window_view(np.asarray(text), WIDTH)  # [T - h + 1, h]
    if (windows[:-1] == windows[-1]).all(axis=1).any():
        return None
    return keyed_source(text[-WIDTH:], key)


def green_ids(n: int, last: int, key: int) -> list[int]:
    """Return the ids that are green after an id: a quarter of n, the first of a permutation of all that it seeds.

    n     how many ids there are
    Source: Kirchenbauer et al. 2023, algorithm 2, as Transformers has it ("lefthash" on a CPU): the ids are the same,
    as PyTorch's randperm is this shuffle, with remainders of the words of the same generator, MT19937.

    >>> green_ids(8, last=3, key=15485863)
    [2, 3]
    """
    count = int(n * GREEN)
    if not hasattr(generators, "mt19937"):
        generators.mt19937 = np.random.RandomState()
    generators.mt19937.seed(key * last % (2**64 - 1) % 2**32)
    words = generators.mt19937.randint(2**32, size=count, dtype=np.uint32)
    ids = list(range(n))
    for i, step in enumerate((words % (n - np.arange(count))).tolist()):
        ids[i], ids[i + step] = ids[i + step], ids[i]
    return ids[:count]


def green_list(logits: np.ndarray, ids: Text, key: int) -> np.ndarray:
    """Make the tokens likelier that are green after the last one.

        logit_i + 2 for each i in green_ids

    logits [V], ids [T] int, key: the hashing_key of Transformers
    Returns [V].
    Source: Kirchenbauer et al. 2023, arXiv:2301.10226. Here it comes before the temperature, in Transformers after.

    >>> green_list(np.zeros(8), [5, 3], key=15485863)
    array([0., 0., 2., 2., 0., 0., 0., 0.])
    """
    out = logits.copy()
    out[green_ids(len(logits), int(ids[-1]), key)] += GREEN_BIAS
    return out
