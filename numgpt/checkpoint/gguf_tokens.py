"""The tokenizer of a GGUF file: three lists, of tokens, of their types and of merges."""

from collections.abc import Sequence

from numgpt.checkpoint.files import brief, wrong
from numgpt.checkpoint.pieces import Beside, added_token, build, pieces_of, speller
from numgpt.fast.tokenizer import Tokenizer

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED = 1, 2, 3, 4, 5  # the types of tokens


def from_lists(
    tokens: list[str],
    types: list[int],
    merges: list[str],
    source: str,
    before: Sequence[int] = (),
    after: Sequence[int] = (),
) -> Tokenizer:
    """A tokenizer from the lists of a GGUF file.

    tokens  the spelling of each id: of CONTROL and USER_DEFINED tokens the text itself, else as in vocab.json
    types   of each id. CONTROL and UNKNOWN tokens become special; UNUSED ones are padding, and left out
    merges  lines as in merges.txt
    source  the name of the file, for messages
    before, after  ids that go before and after each text
    Returns a Tokenizer. Raises CheckpointError for lists that no tokenizer can have.
    """
    ids: dict[str, int] = {}
    for i, (text, kind) in enumerate(zip(tokens, types, strict=True)):
        if kind != UNUSED and ids.setdefault(text, i) != i:
            raise wrong(source, f"tokens {ids[text]} and {i} are both {brief(text)}, expected one each")
    added = [
        added_token({"content": text, "id": i, "special": kind != USER_DEFINED, "normalized": False}, source)
        for i, (text, kind) in enumerate(zip(tokens, types, strict=True))
        if kind in (UNKNOWN, CONTROL, USER_DEFINED)
    ]
    return build(ids, source, list(merges), source, Beside(added, before=before, after=after))


def to_lists(tokenizer: Tokenizer, length: int) -> tuple[list[str], list[int], list[str]]:
    """Return tokens, types and merges of a tokenizer as `from_lists` takes them, for so many ids.

    Ids that stand for nothing become "[PAD7]", as llama.cpp's converter calls them.
    """
    spell = speller()
    tokens, types = [f"[PAD{i}]" for i in range(length)], [UNUSED] * length
    for i, piece in pieces_of(tokenizer).items():
        if i < length:
            tokens[i], types[i] = spell(piece), NORMAL
    for token in tokenizer.added.values():
        if token.id < length:
            tokens[token.id], types[token.id] = token.text, CONTROL if token.special else USER_DEFINED
    return tokens, types, [f"{spell(left)} {spell(right)}" for left, right in tokenizer.ranks]
