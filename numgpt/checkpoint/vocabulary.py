"""Tokenizer files to a Tokenizer: encoder.json and vocab.bpe, vocab.json and merges.txt, tokenizer.json, merges alone.

Files may come from strangers: whatever is in them, nothing but `CheckpointError` is raised.

Sources: the files of the GPT-2 release, 2019; the tokenizer files of Transformers and tokenizers.
"""

import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path

from numgpt import tokenizer as readable
from numgpt.checkpoint.characters import NAME, Characters, read_characters, write_characters
from numgpt.checkpoint.files import read_small
from numgpt.checkpoint.pieces import (
    END_OF_TEXT,
    Beside,
    build,
    parse_merges,
    pieces_of,
    read_json,
    read_text,
    speller,
    spellings,
)
from numgpt.checkpoint.tokenizer_json import from_tokenizer_json
from numgpt.checkpoint.tokenizer_settings import ANY, GPT2, ROBERTA, Settings, read_beside
from numgpt.errors import CheckpointError
from numgpt.fast.tokenizer import AddedToken, Tokenizer
from numgpt.tokenizer import Pair

_GPT2_MERGES = Path(__file__).parents[1] / "data" / "vocab.bpe"
# sha256 of vocab.json, also called encoder.json; of merges.txt, also called vocab.bpe; of tokenizer.json
_GPT2_FILES = (
    "196139668be63f3b5d6574427317ae82f612a97c5d1cdaf36ed2256dbf636783",
    "1ce1664773c50f3e0cc8842619a93edc4624525b728b188a9e0be33b7726adc5",
    "8414cab924d8b9b33013f0d221c5862f365ee9be39c5c2bfae8a5a9e970478a6",
)


@cache
def _gpt2_tables() -> Tokenizer:
    return read_merges(_GPT2_MERGES)


def gpt2() -> Tokenizer:
    """The tokenizer of GPT-2, all sizes, from the merges that come with numgpt.

    >>> gpt2()
    Tokenizer(50257 ids, 50000 merges, special: {'<|endoftext|>': 50256})
    """
    return _GPT2()


class _GPT2(Tokenizer):
    """GPT-2's tokenizer, whose merges are read when a text or an id first needs them: that takes 70 ms, once a process.

    Loading a model asks for sizes and special tokens alone, which are known beforehand; all else asks `_whole`.
    """

    def __init__(self) -> None:
        self.special_tokens, self.n_ordinary = {END_OF_TEXT: 50256}, 50256
        self.before, self.after, self.ignore_merges, self.add_prefix_space = [], [], False, False

    def __len__(self) -> int:
        return 50257

    @property
    def _whole(self) -> Tokenizer:
        return _gpt2_tables()

    @property
    def vocabulary(self) -> Mapping[bytes, int]:  # type: ignore[override]
        return self._whole.vocabulary

    @property
    def added(self) -> dict[str, AddedToken]:  # type: ignore[override]
        return self._whole.added

    @property
    def ranks(self) -> dict[Pair, int]:  # type: ignore[override]
        return self._whole.ranks

    def encode(self, text: str, allow_special: bool = False) -> list[int]:
        return self._whole.encode(text, allow_special)

    def encode_part(self, text: str, allow_special: bool = False) -> list[int]:
        return self._whole.encode_part(text, allow_special)

    def encode_word(self, word: str) -> Sequence[int]:
        return self._whole.encode_word(word)

    def each_piece(self, ids: Iterable[int]) -> Iterator[bytes]:
        return self._whole.each_piece(ids)


def _is_gpt2s(file: Path) -> bool:
    from hashlib import sha256  # here, as it takes 4 ms, which a mere import should not

    return sha256(read_small(file)).hexdigest() in _GPT2_FILES


def read_merges(path: str | os.PathLike[str]) -> Tokenizer:
    """A tokenizer from its merges alone (vocab.bpe or merges.txt): the ids follow from them.

    First the 256 bytes in the order of `spellings`, then one id for each merge, then <|endoftext|>. This is how
    the ids of GPT-2 came about, and gives the same as encoder.json.

    path     the file
    Returns a Tokenizer. Raises CheckpointError if the file is missing or malformed.
    Source: the GPT-2 release, 2019.
    """
    path = Path(path)
    spelt = spellings()
    merges = parse_merges(read_text(path).split("\n"), spelt, str(path))
    vocabulary = dict(zip(spelt.values(), range(len(spelt)), strict=True))
    if len(vocabulary) != 256 + len(merges):
        raise CheckpointError(
            f"{path}: {len(merges)} merges give {len(vocabulary) - 256} pieces, expected one each: "
            "the ids do not follow from these merges, so give the vocab.json that belongs to them too"
        )
    return Tokenizer(merges, vocabulary, [AddedToken(END_OF_TEXT, len(vocabulary), special=True)])


def read_vocabulary(vocabulary: str | os.PathLike[str], merges: str | os.PathLike[str]) -> Tokenizer:
    """A tokenizer from its two files: encoder.json and vocab.bpe of OpenAI, or vocab.json and merges.txt.

    Returns a Tokenizer in which <|endoftext|>, if the vocabulary has it, is special.
    Raises CheckpointError if a file is missing or malformed, or the two do not belong together.
    Source: the GPT-2 release, 2019; Transformers writes the same two under other names.
    """
    return _from_vocabulary(Path(vocabulary), Path(merges), Settings())


def read_tokenizer_json(path: str | os.PathLike[str]) -> Tokenizer:
    """A tokenizer from the tokenizer.json of the `tokenizers` library, if it is of GPT-2's kind.

    Returns a Tokenizer.
    Raises CheckpointError if the file is missing or malformed, or asks for what numgpt does not do; it is named.
    Notes: `truncation` and `padding` are left aside, as they are about batches.
    """
    return from_tokenizer_json(Path(path), Settings())


def from_folder(path: str | os.PathLike[str]) -> Tokenizer | None:
    """The tokenizer of a folder, as Transformers would find it.

    It reads tokenizer.json; else vocab.json and merges.txt; else encoder.json and vocab.bpe; else the merges alone. To
    these it adds what the files beside them say, as `tokenizer_settings` has it. Else it reads nanoGPT's meta.pkl.

    path     a folder
    Returns a Tokenizer, or None if the folder has none of GPT-2's kind (no file, or those of BERT or SentencePiece).
    Raises CheckpointError if a file is malformed, or one of a pair is missing.
    """
    folder = Path(path)
    try:
        names = {file.name for file in folder.iterdir()}
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{folder}: {error}, expected the folder with the files of a tokenizer") from None
    files: tuple[Path, ...]
    if "tokenizer.json" in names:
        files = (folder / "tokenizer.json",)
    elif "vocab.json" in names:
        files = folder / "vocab.json", folder / "merges.txt"
    elif "encoder.json" in names:
        files = folder / "encoder.json", folder / "vocab.bpe"
    elif alone := names & {"merges.txt", "vocab.bpe"}:
        return read_merges(folder / min(alone))
    else:
        return read_characters(folder / NAME) if NAME in names else None
    settings = read_beside(folder, names)
    if _says_nothing_new(settings) and all(file.exists() and _is_gpt2s(file) for file in files):
        return gpt2()
    return from_tokenizer_json(*files, settings) if len(files) == 1 else _from_vocabulary(*files, settings)


def _says_nothing_new(settings: Settings) -> bool:
    """Whether GPT-2's tokenizer stays what it is with these settings."""
    added = list(settings.added) in ([], [AddedToken(END_OF_TEXT, 50256, special=True)])
    others = settings.before or settings.after or (settings.add_prefix_space and not settings.decides)
    return added and not others and settings.special.keys() <= {END_OF_TEXT} and settings.kind in (None, *GPT2, *ANY)


def write_vocabulary(tokenizer: readable.Tokenizer, folder: Path) -> None:
    """Write vocab.json and merges.txt of a tokenizer, as Transformers has them; of one for characters meta.pkl.

    Its special tokens go into vocab.json, where read_vocabulary finds <|endoftext|>. Where it has other added tokens,
    all go into added_tokens_decoder of tokenizer_config.json too, with their flags, unless there is one already.
    """
    if isinstance(tokenizer, Characters):
        write_characters(tokenizer, folder)
        return
    spell = speller()
    added = tokenizer.added if isinstance(tokenizer, Tokenizer) else {}
    ids = {spell(piece): i for i, piece in pieces_of(tokenizer).items()} | tokenizer.special_tokens
    lines = ["#version: 0.2", *(f"{spell(left)} {spell(right)}" for left, right in tokenizer.ranks), ""]
    (folder / "vocab.json").write_text(json.dumps(ids, ensure_ascii=False), encoding="utf-8")
    (folder / "merges.txt").write_text("\n".join(lines), encoding="utf-8", newline="\n")
    settings = folder / "tokenizer_config.json"
    if added.keys() - {END_OF_TEXT} and not settings.exists():
        flags = ("special", "lstrip", "rstrip", "normalized")
        decoder = {
            str(token.id): {"content": token.text, "single_word": False, **{f: getattr(token, f) for f in flags}}
            for token in added.values()
        }
        values = {"tokenizer_class": "GPT2Tokenizer", "added_tokens_decoder": decoder}
        settings.write_text(json.dumps(values, indent=2), encoding="utf-8")


def _from_vocabulary(vocabulary: Path, merges: Path, settings: Settings) -> Tokenizer:
    if not merges.exists():
        raise CheckpointError(f"{merges}: no such file, expected it to go with {vocabulary}: download the two together")
    if settings.kind not in (None, *GPT2, *ROBERTA, *ANY):
        raise CheckpointError(
            f"{vocabulary.parent / 'tokenizer_config.json'}: tokenizer_class is {settings.kind!r}, expected "
            f"'GPT2Tokenizer': numgpt would read {vocabulary.name} in another way than this class does"
        )
    beside = Beside(settings.added, *settings[4:], end_of_text=settings.kind not in ROBERTA)
    return build(read_json(vocabulary), str(vocabulary), read_text(merges).split("\n"), str(merges), beside)
