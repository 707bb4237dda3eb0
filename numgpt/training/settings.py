"""The settings of a run: names, defaults and ranges of all that its outcome depends on beside the text."""

from typing import NamedTuple

from numgpt.checks import check_count, check_option, check_seed, is_integer, is_number

NEW_SIZES = {"n_layer": 4, "n_head": 4, "n_embd": 128}  # of a new model, where the settings say nothing


class Settings(NamedTuple):
    """All that the outcome depends on beside the text. Names and defaults are nanoGPT's, for a laptop.

    block_size      tokens of an example, and the context of a new model; None: 64, and for lines their longest
    n_layer ...     the sizes of a new model; None: 4 layers, 4 heads, width 128
    min_lr          None: a tenth of learning_rate
    grad_clip       the largest length of the gradient; 0 for no limit
    dtype           "float32" or "float64"
    start           a checkpoint to start from, as for `numgpt.load`: its weights and vocabulary. None: random weights
    tokenizer       whose vocabulary a new model has, "gpt2" or another; None: a token for each byte, and end-of-text
    answers_after   each line of the text is a question that ends with this string, and its answer, which alone counts
    allow_special   read <|endoftext|> in the text as the token
    """

    steps: int = 2000
    batch_size: int = 12
    block_size: int | None = None
    n_layer: int | None = None
    n_head: int | None = None
    n_embd: int | None = None
    learning_rate: float = 1e-3
    min_lr: float | None = None
    warmup_steps: int = 100
    weight_decay: float = 0.1
    beta1: float = 0.9
    beta2: float = 0.99
    grad_clip: float = 1.0
    seed: int = 0
    dtype: str = "float32"
    start: str | None = None
    tokenizer: str | None = None
    answers_after: str | None = None
    allow_special: bool = False


def new_sizes(settings: Settings) -> dict[str, int]:
    """Return n_layer, n_head and n_embd of a new model.

    >>> new_sizes(Settings(n_layer=2))
    {'n_layer': 2, 'n_head': 4, 'n_embd': 128}
    """
    return {name: getattr(settings, name) or size for name, size in NEW_SIZES.items()}


def check_settings(settings: Settings) -> None:
    """Raise OptionError for the first setting that is out of its range."""
    s = settings
    for name in ("steps", "batch_size"):
        check_count(name, getattr(s, name), least=1)
    for name in ("block_size", *NEW_SIZES):
        value = getattr(s, name)
        check_option(name, value, value is None or (is_integer(value) and value >= 1), "an integer of 1 or more")
        if name in NEW_SIZES and s.start is not None:
            check_option(name, value, value is None, f"nothing: {s.start} has its own sizes")
    if s.start is not None:
        check_option("tokenizer", s.tokenizer, s.tokenizer is None, f"nothing: {s.start} has its own vocabulary")
    sizes = new_sizes(s)
    width, heads = sizes["n_embd"], sizes["n_head"]
    check_option("n_embd", width, width % heads == 0, f"a multiple of n_head, {heads}")
    lr, least = s.learning_rate, s.min_lr
    check_option("learning_rate", lr, is_number(lr) and lr > 0, "a number above 0")
    fits = least is None or (is_number(least) and 0 <= least <= lr)
    check_option("min_lr", least, fits, f"a number from 0 to learning_rate, {lr}")
    check_count("warmup_steps", s.warmup_steps)
    for name in ("weight_decay", "grad_clip"):
        value = getattr(s, name)
        check_option(name, value, is_number(value) and value >= 0, "a number, 0 or more")
    for name in ("beta1", "beta2"):
        value = getattr(s, name)
        check_option(name, value, is_number(value) and 0 <= value < 1, "a number from 0 to below 1")
    check_seed("seed", s.seed)
    check_option("dtype", s.dtype, s.dtype in ("float32", "float64"), "float32 or float64")
    check_option("answers_after", s.answers_after, s.answers_after != "", "one or more characters")
