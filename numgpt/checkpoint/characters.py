"""The tokenizer of a model that knows characters, an id each, as nanoGPT's prepare.py leaves them in meta.pkl.

meta.pkl is a pickle of a dict:

    stoi        {character: id}
    itos        {id: character}, or a list of characters, the other way round
    vocab_size  how many there are

Of the two tables one is enough. A text in one of them may have several characters; the longest that fits counts.

Source: data/shakespeare_char/prepare.py and sample.py of karpathy/nanoGPT.
"""

import pickle
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from numgpt.checkpoint.files import brief, opened, printable, wrong
from numgpt.checkpoint.tensors import LazyTensor
from numgpt.errors import TokenError
from numgpt.fast.tokenizer import AddedToken, Tokenizer
from numgpt.tokenizer import check_text

NAME = "meta.pkl"
TABLES = ("stoi", "itos")
END_OF_TEXT = "<|endoftext|>"


class Characters(Tokenizer):
    """A tokenizer that knows characters, or longer texts, and no bytes.

    >>> Characters({"a": 0, "b": 1}).encode("abba")
    [0, 1, 1, 0]
    """

    def __init__(self, ids: Mapping[str, int]) -> None:
        super().__init__([], {}, [AddedToken(text, i, special=text == END_OF_TEXT) for text, i in ids.items()])
        self.ids = dict(ids)
        self.n_ordinary = len(self)

    def encode_part(self, text: str, allow_special: bool = False) -> list[int]:
        """A text to ids, one each. Raises TokenError for a character that is not in the alphabet."""
        check_text(text)
        if max(map(len, self.ids)) > 1:
            return super().encode_part(text, allow_special)
        try:
            return list(map(self.ids.__getitem__, text))
        except KeyError as error:
            raise self._unknown(error.args[0]) from None

    def encode_word(self, word: str) -> tuple[int, ...]:
        """Raise TokenError: what comes here is in no table."""
        raise self._unknown(word[0])

    def _unknown(self, character: str) -> TokenError:
        return TokenError(
            f"the text has {character!r}, expected one of the {len(self.ids)} characters of this model: leave it out"
        )


def read_characters(path: Path) -> Characters:
    """Read a meta.pkl. Raises CheckpointError where it is damaged, or asks for anything but plain values."""
    from numgpt.checkpoint.pickles import MAX_PICKLE, Unpickler, copy_plainly  # here, as few models have such a file

    with opened(path) as file:
        values = Unpickler(path, file, MAX_PICKLE).load()
    values = copy_plainly(path, values, partial(_no_tensor, path))
    if not isinstance(values, dict) or not values.keys() & TABLES:
        raise wrong(
            path, f"the pickle builds {brief(values, 1)}, expected a dict with stoi and itos, as nanoGPT has it"
        )
    return characters_of(values, path)


def _no_tensor(path: Path, name: str, tensor: Any) -> LazyTensor:
    raise wrong(path, f"a tensor at {printable(name)}, expected texts and ids")


def characters_of(values: Mapping[str, Any], path: Path) -> Characters:
    """Make the tokenizer of stoi and itos, or of one of them, from the file that is named.

    Raises CheckpointError where they contradict each other, or are no tables of texts and ids.

    >>> characters_of({"itos": ["a", "b"]}, Path("meta.pkl")).encode("ba")
    [1, 0]
    """
    tables = []
    if values.get("stoi") is not None:
        tables.append(_checked(values["stoi"], "stoi", path))
    if (itos := values.get("itos")) is not None:
        pairs = enumerate(itos) if isinstance(itos, list) else itos.items() if isinstance(itos, dict) else ()
        turned: dict[Any, Any] = {}
        for i, text in pairs:
            number = int(i) if isinstance(i, str) and i.isdecimal() and i.isascii() and len(i) < 12 else i
            if type(text) is not str or text in turned:
                raise wrong(path, f"itos has {brief(text)} at {brief(i)}, expected a text of its own for each id")
            turned[text] = number
        tables.append(_checked(turned, "itos", path))
    if len(tables) == 2 and tables[0] != tables[1]:
        odd = next(iter(tables[0].items() ^ tables[1].items()))
        raise wrong(path, f"stoi and itos differ in {brief(odd)}, expected the same pairs in both")
    return Characters(tables[0])


def _checked(table: Any, key: str, path: Path) -> dict[str, int]:
    """Return a table of {text: id}, once it is sure that it is one."""
    if not isinstance(table, dict) or not table:
        raise wrong(path, f"{key} is {brief(table, 1)}, expected a table of texts and ids")
    for text, i in table.items():
        if type(text) is not str or not text or type(i) is not int or not 0 <= i < 1 << 31:
            raise wrong(path, f"{key} has the pair {brief((text, i))}, expected a text and its id")
        if any("\ud800" <= character <= "\udfff" for character in text):
            raise wrong(path, f"{key} has {brief(text)}, half of a surrogate pair, expected characters")
    if len(set(table.values())) < len(table):
        raise wrong(path, f"{key} has {len(table)} texts and {len(set(table.values()))} ids, expected one each")
    return table


def write_characters(tokenizer: Characters, folder: Path) -> None:
    """Write the meta.pkl of a tokenizer."""
    itos = {i: text for text, i in tokenizer.ids.items()}
    values = {"vocab_size": len(tokenizer), "itos": itos, "stoi": tokenizer.ids}
    (folder / NAME).write_bytes(pickle.dumps(values, protocol=4))
