"""From a text to the examples of a batch: windows of it, or questions with their answers."""

import hashlib
import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from numgpt.checkpoint.llmc_tokens import text_or_ids
from numgpt.checks import check_option
from numgpt.config import Config
from numgpt.errors import ContextError, OptionError, TokenError
from numgpt.fast import tokenizer as fast
from numgpt.tokenizer import Tokenizer
from numgpt.training.backward import UNCOUNTED
from numgpt.training.settings import Settings

END_OF_TEXT = "<|endoftext|>"
BYTE_ORDER_MARK = "\ufeff"
LONGEST_LINE = 1024  # tokens of a line, unless block_size says otherwise

Text = str | np.ndarray  # as it stands; or its ids, of a file that has nothing else
Texts = Sequence[tuple[Path, Text]]
Question = tuple[tuple[int, ...], tuple[int, ...]]  # the ids of a line: of the question, and of its answer


class Examples(NamedTuple):
    """What to learn from: row by row, what is seen and what should follow each token of it."""

    ids: np.ndarray  # [N, T] int
    targets: np.ndarray  # [N, T] int; -1 where it does not count


def windows_of(ids: Sequence[int] | np.ndarray, block_size: int) -> Examples:
    """Return all windows of a text: N = len(ids) - block_size examples that overlap, in no more memory than the text.

    >>> windows_of([5, 6, 7, 8], 2).targets.tolist()
    [[6, 7], [7, 8]]
    """
    windows = np.lib.stride_tricks.sliding_window_view(np.array(ids, dtype=np.int32), block_size + 1)
    return Examples(windows[:, :-1], windows[:, 1:])


def questions_of(lines: Sequence[Question], end: int, block_size: int) -> Examples:
    """Return an example for each question and its answer. What counts is the answer, and the end-of-text id after it.

    >>> ids, targets = questions_of([((1, 2), (3,)), ((4,), (5,))], end=9, block_size=3)
    >>> ids.tolist(), targets.tolist()
    ([[1, 2, 3], [4, 5, 9]], [[-1, 3, 9], [5, 9, -1]])
    """
    ids = np.full((len(lines), block_size), end, dtype=np.int32)
    targets = np.full_like(ids, UNCOUNTED)
    for i, (question, answer) in enumerate(lines):
        length = len(question) + len(answer)
        ids[i, :length] = question + answer
        targets[i, len(question) - 1 : length] = [*answer, end]
    return Examples(ids, targets)


def batch(examples: Examples, size: int, *, seed: int, step: int) -> Examples:
    """Draw the examples of a step: a function of the seed and the step, so that nothing else has to be kept of it.

        row_i = (the i-th output of Philox with key (seed, 0), counter (step)) mod N

    Returns Examples of `size` rows, with repetition.
    Source: Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3". NumPy promises never to change the
    output of its generator. The remainder favours no row by more than N / 2^64.

    >>> batch(windows_of(range(100), 2), size=3, seed=1, step=7).ids.tolist()
    [[78, 79], [71, 72], [65, 66]]
    """
    generator = np.random.Philox(
        key=np.array([seed, 0], dtype=np.uint64), counter=np.array([0, step, 0, 0], dtype=np.uint64)
    )
    rows = (generator.random_raw(size) % np.uint64(len(examples.ids))).astype(np.intp)
    return Examples(examples.ids[rows], examples.targets[rows])


def thin_out(examples: Examples, most: int) -> Examples:
    """Keep at most so many examples, from all over.

    >>> thin_out(windows_of(range(6), 1), most=2).ids.tolist()
    [[0], [3]]
    """
    every = math.ceil(len(examples.ids) / most)
    return Examples(examples.ids[::every], examples.targets[::every])


def byte_tokenizer() -> Tokenizer:
    """Return a vocabulary with a token for each byte, and end-of-text: what suits a text too small for a vocabulary.

    >>> byte_tokenizer().encode("3=")
    [51, 61]
    """
    return fast.Tokenizer([], added=[fast.AddedToken(END_OF_TEXT, 256, special=True)])


def read_text(path: Path) -> tuple[Text, str]:
    """Return the text of a file, or the ids of one of llm.c's files of tokens, and the sha256 of its bytes.

    Raises TokenError where it is not UTF-8, or empty; CheckpointError for a damaged file of tokens.
    """
    raw = path.read_bytes()
    text = text_or_ids(raw, path)
    if isinstance(text, str):
        text = text.removeprefix(BYTE_ORDER_MARK)
        if not text.strip():
            raise TokenError(f"{path}: empty, expected a text to learn from")
    return text, hashlib.sha256(raw).hexdigest()


def read_examples(
    texts: Texts, tokenizer: Tokenizer | None, config: Config | None, settings: Settings
) -> tuple[Examples, Examples]:
    """Return what to learn from, and what is held out: the second text, or a tenth of the only one, its last.

    tokenizer  None only where all texts are ids
    config     that of the model, or None where it is still to be made, with a context that fits
    Raises TokenError for a text that is too short, or without the separator, or ids that the model does not have;
    ContextError for a line too long; OptionError for a block_size that the model has not.
    """
    limit = LONGEST_LINE if config is None else config.n_ctx
    if settings.block_size is not None:
        fits = config is None or settings.block_size <= config.n_ctx
        check_option("block_size", settings.block_size, fits, f"at most {limit}, the context of {settings.start}")
        limit = settings.block_size
    if settings.answers_after is not None:
        in_lines = [(path, text) for path, text in texts if isinstance(text, str)]
        fits = len(in_lines) == len(texts)
        check_option("answers_after", settings.answers_after, fits, "nothing with a file of ids, which has no lines")
        assert tokenizer is not None
        return read_questions(in_lines, tokenizer, limit, settings)

    for path, text in texts:
        if not isinstance(text, str):
            check_vocabulary(text, config.n_vocab if config else len(tokenizer or ()), path)
    block_size = settings.block_size or min(64, limit)
    parts: list[tuple[Path, str, Text]] = [(path, "", text) for path, text in texts]
    if len(texts) == 1:
        path, text = texts[0]
        cut = len(text) * 9 // 10
        parts = [(path, "all but its last tenth ", text[:cut]), (path, "its last tenth, held out, ", text[cut:])]
    found = []
    for path, part, text in parts:
        ids: Sequence[int] | np.ndarray
        if isinstance(text, str):
            assert tokenizer is not None
            ids = tokenizer.encode(text, allow_special=settings.allow_special)
        else:
            ids = text
        if len(ids) <= block_size:
            raise TokenError(
                f"{path}: {part}has {len(ids)} tokens, expected {block_size + 1} or more: give more text, or a smaller "
                f"block_size"
            )
        found.append(windows_of(ids, block_size))
    training, held_out = found
    side_by_side = Examples(held_out.ids[::block_size], held_out.targets[::block_size])
    return training, side_by_side


def check_vocabulary(ids: np.ndarray, n_vocab: int, path: Path) -> None:
    """Raise TokenError for ids of a file that a model of so many tokens does not have."""
    outside = np.flatnonzero(ids >= n_vocab)
    if outside.size:
        raise TokenError(
            f"{path}: id {ids[outside[0]]} at {outside[0]:,}, expected 0 to {n_vocab - 1}, the vocabulary of this "
            f"model: name the one that made the ids (--tokenizer gpt2; in Python tokenizer='gpt2')"
        )


def read_questions(
    texts: Sequence[tuple[Path, str]], tokenizer: Tokenizer, limit: int, settings: Settings
) -> tuple[Examples, Examples]:
    """Return what to learn from, and what is held out: the second text, or every tenth line of the only one.

    No question that is held out is learned from elsewhere.
    """
    end = tokenizer.special_tokens.get(END_OF_TEXT)
    if end is None:
        raise OptionError(f"answers_after needs a vocabulary with {END_OF_TEXT}, which ends an answer: choose another")
    lines, *others = (parse_lines(path, text, tokenizer, limit, settings) for path, text in texts)
    held_out = others[0] if others else lines[9::10] or lines[-1:]
    asked = {question for question, _ in held_out}
    lines = [line for line in lines if line[0] not in asked]
    if not lines or not held_out:
        raise TokenError(f"{texts[0][0]}: no lines are left to learn from: expected 2 or more that differ")
    longest = max(len(question) + len(answer) for question, answer in [*lines, *held_out])
    return questions_of(lines, end, longest), questions_of(held_out, end, longest)


def parse_lines(path: Path, text: str, tokenizer: Tokenizer, limit: int, settings: Settings) -> list[Question]:
    """Return the ids of each question, with its separator, and of its answer. Blank lines are passed over.

    Raises TokenError for a line without the separator, ContextError for one of more than `limit` tokens.
    """
    separator = settings.answers_after or ""
    lines: list[Question] = []
    for number, line in enumerate(text.replace("\r\n", "\n").split("\n"), 1):
        if not line.strip():
            continue
        question, found, answer = line.partition(separator)
        if not found:
            raise TokenError(
                f"{path}: line {number}: no {separator!r} in {line!r:.60}, expected a question, {separator!r} and the "
                f"answer"
            )
        parts = question + separator, answer  # apart, since the answer is not there yet when it is asked for
        ids = tuple(tokenizer.encode(parts[0], allow_special=settings.allow_special))
        answer_ids = tuple(tokenizer.encode_part(parts[1], allow_special=settings.allow_special))
        if len(ids) + len(answer_ids) > limit:
            raise ContextError(
                f"{path}: line {number}: {len(ids) + len(answer_ids)} tokens, expected at most {limit}: shorten it, or "
                f"give a larger block_size"
            )
        lines.append((ids, answer_ids))
    return lines
