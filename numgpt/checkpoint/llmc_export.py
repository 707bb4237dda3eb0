"""Write any checkpoint that numgpt reads as a model file of llm.c and its gpt2_tokenizer.bin; llmc.py describes both.

The format has sizes and nothing else, so that all other settings have to be GPT-2's own: llm.c would run another model
without a fault and give other logits. Of a tokenizer it takes what each id stands for.
"""

from contextlib import ExitStack
from pathlib import Path

from numgpt.checkpoint.contract import Opened
from numgpt.checkpoint.disk import written_whole
from numgpt.checkpoint.files import read_small, wrong
from numgpt.checkpoint.llmc import (
    GPT2_END,
    MAX_TOKENS,
    MODEL,
    STORED,
    TOKENIZER,
    TOKENIZER_FILE,
    header,
    padded_rows,
    write_tensors,
)
from numgpt.checkpoint.names import hub_name
from numgpt.checkpoint.reading import Unreadable, find_tokenizer, fit_tokenizer
from numgpt.checkpoint.tensors import LazyTensor
from numgpt.checks import check_option
from numgpt.config import Config
from numgpt.fast.tokenizer import Tokenizer

VERSIONS = {dtype: version for version, dtype in STORED.items()}  # the newest of each dtype
FOLDER = "write a folder of the Hub's layout, which holds all of it (--to hub)"


def write_llmc(
    checkpoint: Opened, tensors: dict[str, LazyTensor], config: Config, path: Path, dtype: str | None = None
) -> None:
    """Write a checkpoint as a model file of llm.c, and its tokenizer as gpt2_tokenizer.bin beside it.

    checkpoint  as `open_checkpoint` returns it
    tensors, config  of it, as `match_params` returns them
    path        the file; the two take their names when they are whole
    dtype       "F32", version 3, or "BF16", version 5, rounded half to even; None: "F32"
    Raises CheckpointError for a model or a tokenizer that the format can't describe, with the reason, for another
    gpt2_tokenizer.bin that is there already, and where the source is damaged or the files can't be written; OptionError
    for another dtype.
    """
    dtype = dtype or "F32"
    check_option("dtype", dtype, dtype in VERSIONS, f"one of {', '.join(VERSIONS)} for a file of llm.c")
    source, beside = checkpoint.weights, path.with_name(TOKENIZER_FILE)
    tokenizer = find_tokenizer(checkpoint)
    if isinstance(tokenizer, Unreadable):
        raise tokenizer.error
    fit_tokenizer(config, tokenizer, source.parent)
    _check_config(source, config, tokenizer)
    tokens = None if tokenizer is None else _tokens(source, tokenizer, config)
    if path.name == TOKENIZER_FILE:
        raise wrong(path, "is the name of the tokenizer's file, expected one for the model", "choose another name")
    is_there = beside.exists()
    if is_there and read_small(beside) != tokens:
        raise wrong(beside, "is there already, expected none, or that of this model", "write into another folder")

    sizes = config.n_ctx, config.n_vocab, config.n_layer, config.n_head, config.n_embd
    n_rows = padded_rows(config.n_vocab)
    try:
        with ExitStack() as files:  # the last of them is finished first
            if tokens is not None and not is_there:
                files.enter_context(written_whole(beside)).write(tokens)
            file = files.enter_context(written_whole(path))
            file.write(header(MODEL, VERSIONS[dtype], *sizes, n_rows))
            write_tensors(file, {hub_name(leaf): x for leaf, x in tensors.items()}, config, n_rows, dtype)
    except FloatingPointError as error:
        raise wrong(source, f"{error}, expected those that it can hold", f"choose F32, or {FOLDER}") from None


def _check_config(source: Path, config: Config, tokenizer: Tokenizer | None) -> None:
    """Refuse what neither the header of the model says nor that of the tokenizer."""
    end = config.eos_token_id if tokenizer else GPT2_END if config.n_vocab > GPT2_END else None
    if tokenizer and (end is None or end >= len(tokenizer)):
        raise wrong(source, f"eos_token_id is {end}, expected a token, with which llm.c begins and ends a text", FOLDER)
    activation = config.activation_function
    said = config._replace(
        n_inner=config.mlp_width,
        activation_function="gelu_new" if activation == "gelu_pytorch_tanh" else activation,
    )
    read = Config(
        n_vocab=config.n_vocab,
        n_ctx=config.n_ctx,
        n_embd=config.n_embd,
        n_head=config.n_head,
        n_layer=config.n_layer,
        n_inner=4 * config.n_embd,
        eos_token_id=end,
        n_tokens=config.n_tokens,
    )
    for name, value, expected in zip(Config._fields, said, read, strict=True):
        if value != expected:
            what = f"{name} is {value!r}, expected {expected!r}: llm.c's files can't say so, and it computes the latter"
            raise wrong(source, what, FOLDER)


def _tokens(source: Path, tokenizer: Tokenizer, config: Config) -> bytes:
    """Return the file of a tokenizer: header, then the length and the bytes of each token."""
    pieces = tokenizer.pieces(range(min(len(tokenizer), config.n_vocab)))
    for i, piece in enumerate(pieces):
        if not 1 <= len(piece) <= 255:
            what = f"token {i:,} of its tokenizer has {len(piece):,} bytes, expected 1 to 255, as llm.c's file has them"
            raise wrong(source, what, FOLDER)
    if len(pieces) > MAX_TOKENS:
        raise wrong(source, f"{len(pieces):,} tokens, expected at most {MAX_TOKENS:,}", FOLDER)
    start = header(TOKENIZER, 2, len(pieces), config.eos_token_id or 0)
    return start + b"".join(bytes([len(piece)]) + piece for piece in pieces)
