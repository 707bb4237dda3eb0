"""The pieces of a byte-level BPE, as files spell them, to a Tokenizer: ids and merges, checked against each other.

The quirks of the formats end here. The largest: files can't hold raw bytes, so each byte of a piece is spelt as a
visible character (`spellings`), and a merge is a line of two such pieces, "Ġt he". Past this module a piece is bytes.

Sources: `encoder.py` and the files of the GPT-2 release, 2019.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from numgpt import tokenizer as readable
from numgpt.checkpoint.files import read_small
from numgpt.errors import CheckpointError
from numgpt.fast.tokenizer import AddedToken, Tokenizer
from numgpt.tokenizer import BYTES, Pair

END_OF_TEXT = "<|endoftext|>"
_MOST_IDS = 1 << 31


class Beside(NamedTuple):
    """What is said beside the vocabulary.

    added             tokens with their ids
    special           {text: flags} of special tokens by name, in the order in which those without an id get one
    add_prefix_space  put a space before a text
    before, after     the texts of tokens, or their ids, that go before and after each text
    end_of_text       <|endoftext|> is special, if there is one, whether or not anything says so
    ignore_merges     a word that is a piece is not merged
    """

    added: Sequence[AddedToken] = ()
    special: Mapping[str, dict[str, Any]] = {}
    add_prefix_space: bool = False
    before: Sequence[str | int] = ()
    after: Sequence[str | int] = ()
    end_of_text: bool = True
    ignore_merges: bool = False


def spellings() -> dict[str, bytes]:
    """{character: byte}, as vocab.bpe and vocab.json spell bytes, in the order of the ids of GPT-2.

    The 188 bytes that are visible in Latin-1 stand for themselves. The other 68 (controls, spaces, the soft hyphen)
    take the characters from U+0100 on, so that a space is "Ġ" and a line end "Ċ", and no file has a blank in a piece.
    """
    visible = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    hidden = [byte for byte in range(256) if byte not in visible]
    return {chr(c): BYTES[c] for c in visible} | {chr(0x100 + i): BYTES[c] for i, c in enumerate(hidden)}


def speller() -> Callable[[bytes], str]:
    """Return the function that spells a piece as files do."""
    spelling = {byte: character for character, byte in spellings().items()}
    return lambda piece: "".join(spelling[piece[i : i + 1]] for i in range(len(piece)))


def pieces_of(tokenizer: readable.Tokenizer) -> dict[int, bytes]:
    """Return {id: piece} of the ids that stand for something, but for added tokens."""
    added = tokenizer.added if isinstance(tokenizer, Tokenizer) else {}
    others = {token.id for token in added.values()} | set(tokenizer.special_tokens.values())
    return {
        i: piece
        for i, piece in enumerate(tokenizer.pieces(range(len(tokenizer))))
        if i not in others and (piece != readable.UNKNOWN or tokenizer.vocabulary.get(piece) == i)
    }


def build(ids: dict[str, Any], ids_name: str, lines: list[Any], merges_name: str, beside: Beside) -> Tokenizer:
    """Make a tokenizer of {piece: id} and of the lines of its merges.

    A special token that has a name and no id is the vocabulary's piece of that text, else gets the next id after all
    others: as in Transformers.
    """
    alphabet = spellings()
    spelt = dict(alphabet)
    merges = parse_merges(lines, spelt, merges_name)
    seen = _check_ids(ids, ids_name)
    if missing := spelt.keys() - ids.keys():
        used = set(map(b"".join, merges)).union(*merges)
        for text in sorted(missing):
            if spelt[text] in used:
                raise CheckpointError(
                    f"{merges_name}: the merges use {text!r}, which has no id in {ids_name}: "
                    "expected files of the same tokenizer; download both again"
                )
    vocabulary: dict[Any, int] = dict(zip(map(spelt.get, ids), ids.values(), strict=True))
    vocabulary.pop(None, None)
    others = {
        ids[text]: b"".join(map(alphabet.__getitem__, text)) if set(text) <= alphabet.keys() else text.encode()
        for text in ids.keys() - spelt.keys()
    }
    if not vocabulary:
        raise CheckpointError(f"{ids_name}: no piece has an id, expected a vocabulary: download it again")
    added = {token.text: token for token in beside.added}
    next_id = max(len(ids), 1 + max((token.id for token in beside.added), default=-1))
    for text, flags in beside.special.items():
        if text in added:
            added[text] = added[text]._replace(special=True)
            continue
        if text not in ids:
            next_id = next_id if next_id not in seen else max(seen) + 1
        fields = {**flags, "content": text, "id": ids.get(text, next_id), "special": True}
        next_id += text not in ids
        added[text] = added_token(fields, ids_name)
    if beside.end_of_text and END_OF_TEXT in ids and END_OF_TEXT not in added:
        added[END_OF_TEXT] = AddedToken(END_OF_TEXT, ids[END_OF_TEXT], special=True)
    for token in (*beside.added, *added.values()):
        if ids.get(token.text, token.id) != token.id or added[token.text].id != token.id:
            other = ids.get(token.text, added[token.text].id)
            raise CheckpointError(f"{ids_name}: {token.text!r} has the ids {other} and {token.id}, expected one")
        if seen.setdefault(token.id, token.text) != token.text:
            raise CheckpointError(
                f"{ids_name}: {seen[token.id]!r} and {token.text!r} have the same id {token.id}, expected one each"
            )
    before, after = (
        [i if isinstance(i, int) else added[i].id if i in added else ids[i] for i in around]
        for around in (beside.before, beside.after)
    )
    return Tokenizer(
        merges, vocabulary, added.values(), others, beside.add_prefix_space, before, after, beside.ignore_merges
    )


def parse_merges(lines: list[Any], spelt: dict[str, bytes], name: str) -> list[Pair]:
    """Lines such as "Ġt he" to pairs of bytes. `spelt` grows by the pieces that the merges use and make."""
    alphabet = dict(spelt)
    merges = []
    first = bool(lines) and isinstance(lines[0], str) and lines[0].startswith("#version")  # a merge may begin with "#"
    while lines and lines[-1] == "":
        lines.pop()
    for number, line in enumerate(lines[first:], 1 + first):
        try:
            left, right = line.split(" ")
            try:
                pair = spelt[left], spelt[right]
            except KeyError:  # a piece that no merge before this one makes
                if not (left and right):
                    raise
                spelt |= {text: b"".join(map(alphabet.__getitem__, text)) for text in (left, right)}
                pair = spelt[left], spelt[right]
        except (AttributeError, ValueError, KeyError):
            raise CheckpointError(
                f"{name}: merge {number} is {short(line)}, expected two pieces in the spelling of GPT-2, "
                "such as 'Ġt he': the file is damaged or of another tokenizer"
            ) from None
        merges.append(pair)
        spelt[left + right] = pair[0] + pair[1]
    return merges


def added_token(fields: dict[str, Any], name: str) -> AddedToken:
    text = expect(fields.get("content"), str, name, "content of an added token")
    flags = {k: expect(fields[k], bool, name, k) for k in ("special", "lstrip", "rstrip", "normalized") if k in fields}
    flags.setdefault("normalized", not flags.get("special", False))
    if fields.get("single_word"):
        raise CheckpointError(f"{name}: added token {text!r} has single_word, expected false: numgpt does not do it")
    if not text:
        raise CheckpointError(f"{name}: an added token is empty, expected some text: remove it")
    return AddedToken(text, _check_id(fields.get("id"), text, name), **flags)


def _check_ids(ids: dict[str, Any], name: str) -> dict[int, str]:
    """Return {id: text} of {text: id}, once it is sure that each id is one and no two texts have the same."""
    values = ids.values()
    if set(map(type, values)) == {int} and min(values) >= 0 and max(values) < _MOST_IDS:
        seen = dict(zip(values, ids, strict=True))
        if len(seen) == len(ids) and _is_text("".join(ids)):
            return seen  # all at once, 20 ms sooner than one by one, which the message of an error needs
    seen = {}
    for text, i in ids.items():
        if seen.setdefault(_check_id(i, text, name), text) != text:
            raise CheckpointError(f"{name}: {seen[i]!r} and {text!r} have the same id {i}, expected one each")
    return seen


def _is_text(text: str) -> bool:
    try:
        return bool(text.encode()) or not text
    except UnicodeEncodeError:  # half of a surrogate pair
        return False


def _check_id(i: Any, text: str, name: str) -> int:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise CheckpointError(f"{name}: the token {text!r} has a lone surrogate, expected characters") from None
    if type(i) is not int or not 0 <= i < _MOST_IDS:
        raise CheckpointError(f"{name}: the id of {text!r} is {short(i)}, expected an integer below {_MOST_IDS}")
    return i


def expect(value: Any, kind: type, name: str, key: str) -> Any:
    if not isinstance(value, kind):
        raise CheckpointError(f"{name}: {key} is {short(value)}, expected a {kind.__name__}: the file is damaged")
    return value


def short(value: Any) -> str:
    """How a value out of a file looks in a message."""
    if isinstance(value, dict) and isinstance(value.get("type"), str):
        value = value["type"]
    if isinstance(value, dict | list):
        return "an object" if isinstance(value, dict) else "a list"
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else text[:57] + "..."


def read_text(path: Path) -> str:
    try:
        return read_small(path).decode("utf-8").replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        raise CheckpointError(f"{path}: byte {error.start} is not UTF-8, expected text: download it again") from None
    except ValueError as error:  # a NUL in the path
        raise CheckpointError(f"{path}: {error}, expected a file of a tokenizer") from None


def read_json(path: Path) -> dict[str, Any]:
    try:
        data = json.loads(read_text(path))
    except (ValueError, RecursionError) as error:
        reason = str(error) if isinstance(error, ValueError) else "nested too deeply"
        raise CheckpointError(f"{path}: not JSON ({reason}), expected an object: download it again") from None
    return expect(data, dict, str(path), "the file")
