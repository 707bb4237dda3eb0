"""Tokenizer files to a Tokenizer: encoder.json and vocab.bpe, vocab.json and merges.txt, tokenizer.json, merges alone.

The quirks of the formats end here. The largest: files can't hold raw bytes, so each byte of a piece is spelt as a
visible character (`_spellings`), and a merge is a line of two such pieces, "Ġt he". Past this module a piece is bytes.

Files may come from strangers: whatever is in them, nothing but `CheckpointError` is raised.

Sources: `encoder.py` and the files of the GPT-2 release, 2019; the tokenizer files of Transformers and tokenizers.
"""

import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from numgpt import tokenizer as readable
from numgpt.checkpoint.files import read_small
from numgpt.errors import CheckpointError
from numgpt.fast.tokenizer import AddedToken, Tokenizer
from numgpt.tokenizer import BYTES, Pair


def _spellings() -> dict[str, bytes]:
    """{character: byte}, as vocab.bpe and vocab.json spell bytes, in the order of the ids of GPT-2.

    The 188 bytes that are visible in Latin-1 stand for themselves. The other 68 (controls, spaces, the soft hyphen)
    take the characters from U+0100 on, so that a space is "Ġ" and a line end "Ċ", and no file has a blank in a piece.
    """
    visible = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    hidden = [byte for byte in range(256) if byte not in visible]
    return {chr(c): BYTES[c] for c in visible} | {chr(0x100 + i): BYTES[c] for i, c in enumerate(hidden)}


_END_OF_TEXT = "<|endoftext|>"
_MOST_IDS = 1 << 31

_GPT2_MERGES = Path(__file__).parents[1] / "data" / "vocab.bpe"
# sha256 of vocab.json, also called encoder.json; of merges.txt, also called vocab.bpe; of tokenizer.json
_GPT2_FILES = (
    "196139668be63f3b5d6574427317ae82f612a97c5d1cdaf36ed2256dbf636783",
    "1ce1664773c50f3e0cc8842619a93edc4624525b728b188a9e0be33b7726adc5",
    "8414cab924d8b9b33013f0d221c5862f365ee9be39c5c2bfae8a5a9e970478a6",
)


def gpt2() -> Tokenizer:
    """The tokenizer of GPT-2, all sizes, from the merges that come with numgpt.

    >>> gpt2()
    Tokenizer(50257 ids, 50000 merges, special: {'<|endoftext|>': 50256})
    """
    return _GPT2()


class _GPT2(Tokenizer):
    """GPT-2's tokenizer, which reads its merges when a text or an id first needs them: that takes 70 ms.

    Loading a model asks for sizes and special tokens alone, which are known beforehand; all else asks `_whole`.
    """

    def __init__(self) -> None:
        self.special_tokens, self.n_ordinary = {_END_OF_TEXT: 50256}, 50256

    def __len__(self) -> int:
        return 50257

    @cached_property
    def _whole(self) -> Tokenizer:
        return read_merges(_GPT2_MERGES)

    @property
    def vocabulary(self) -> Mapping[bytes, int]:  # type: ignore[override]
        return self._whole.vocabulary

    @property
    def ranks(self) -> dict[Pair, int]:  # type: ignore[override]
        return self._whole.ranks

    def encode(self, text: str, allow_special: bool = False) -> list[int]:
        return self._whole.encode(text, allow_special)

    def encode_word(self, word: str) -> Sequence[int]:
        return self._whole.encode_word(word)

    def each_piece(self, ids: Iterable[int]) -> Iterator[bytes]:
        return self._whole.each_piece(ids)


def _is_gpt2s(file: Path) -> bool:
    from hashlib import sha256  # here, as it takes 4 ms, which a mere import should not

    return sha256(read_small(file)).hexdigest() in _GPT2_FILES


def read_merges(path: str | os.PathLike[str]) -> Tokenizer:
    """A tokenizer from its merges alone (vocab.bpe or merges.txt): the ids follow from them.

    First the 256 bytes in the order of `_spellings`, then one id for each merge, then <|endoftext|>. This is how
    the ids of GPT-2 came about, and gives the same as encoder.json.

    path     the file
    Returns a Tokenizer. Raises CheckpointError if the file is missing or malformed.
    Source: the GPT-2 release, 2019.
    """
    path = Path(path)
    spelt = _spellings()
    merges = _parse_merges(_read_text(path).split("\n"), spelt, str(path))
    vocabulary = dict(zip(spelt.values(), range(len(spelt)), strict=True))
    if len(vocabulary) != 256 + len(merges):
        raise CheckpointError(
            f"{path}: {len(merges)} merges give {len(vocabulary) - 256} pieces, expected one each: "
            "the ids do not follow from these merges, so give the vocab.json that belongs to them too"
        )
    return Tokenizer(merges, vocabulary, [AddedToken(_END_OF_TEXT, len(vocabulary), special=True)])


def read_vocabulary(vocabulary: str | os.PathLike[str], merges: str | os.PathLike[str]) -> Tokenizer:
    """A tokenizer from its two files: encoder.json and vocab.bpe of OpenAI, or vocab.json and merges.txt.

    Returns a Tokenizer in which <|endoftext|>, if the vocabulary has it, is special.
    Raises CheckpointError if a file is missing or malformed, or the two do not belong together.
    Source: the GPT-2 release, 2019; Transformers writes the same two under other names.
    """
    return _from_vocabulary(Path(vocabulary), Path(merges), _Settings())


def read_tokenizer_json(path: str | os.PathLike[str]) -> Tokenizer:
    """A tokenizer from the tokenizer.json of the `tokenizers` library, if it is of GPT-2's kind.

    Returns a Tokenizer.
    Raises CheckpointError if the file is missing or malformed, or asks for what numgpt does not do; it is named.
    Notes: `truncation` and `padding` are left aside, as they are about batches.
    """
    return _from_tokenizer_json(Path(path), _Settings())


def from_folder(path: str | os.PathLike[str]) -> Tokenizer | None:
    """The tokenizer of a folder, as Transformers would find it.

    It reads tokenizer.json; else vocab.json and merges.txt; else encoder.json and vocab.bpe; else the merges alone. To
    these it adds what tokenizer_config.json, special_tokens_map.json and added_tokens.json say of added and special
    tokens. Where both say it, `add_prefix_space` of tokenizer_config.json counts, not that of tokenizer.json.

    path     a folder
    Returns a Tokenizer, or None if the folder has none of GPT-2's kind (no file, or those of BERT or SentencePiece).
    Raises CheckpointError if a file is malformed, or one of a pair is missing.
    Notes: a special token that has a name but no id in any of the files is left out.
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
        return None
    settings = _read_settings(folder, names)
    plain = not any(settings._replace(kind=None)) and settings.kind in (None, *_CLASSES)
    if plain and all(file.exists() and _is_gpt2s(file) for file in files):
        return gpt2()
    return _from_tokenizer_json(*files, settings) if len(files) == 1 else _from_vocabulary(*files, settings)


_CLASSES = ("GPT2Tokenizer", "GPT2TokenizerFast", "PreTrainedTokenizer", "PreTrainedTokenizerFast", "TokenizersBackend")
_NAMES = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
_LISTS = ("additional_special_tokens", "extra_special_tokens")


class _Settings(NamedTuple):
    """What the files beside the vocabulary say: added tokens; special ones by name, with their flags; and so on."""

    added: Sequence[AddedToken] = ()
    special: Mapping[str, dict[str, Any]] = {}
    kind: str | None = None
    add_prefix_space: bool | None = None


def _read_settings(folder: Path, names: set[str]) -> _Settings:
    files = [str(folder / name) for name in ("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json")]
    config, named, texts = (_read_json(Path(file)) if Path(file).name in names else {} for file in files)
    special: dict[str, dict[str, Any]] = {}
    for file, fields in zip(files, (config, named), strict=False):
        for key in (*_NAMES, *_LISTS):
            values = fields.get(key)
            if key in _LISTS and isinstance(values, dict):
                values = list(values.values())
            for value in values if isinstance(values, list) else [values]:
                text = value.get("content") if isinstance(value, dict) else value
                if text is not None:
                    special[_expect(text, str, file, key)] = value if isinstance(value, dict) else {}
    added = []
    for text, i in texts.items():
        added.append(_added_token({"content": text, "id": i, "special": text in special}, files[2]))
    for i, fields in _expect(config.get("added_tokens_decoder", {}), dict, files[0], "added_tokens_decoder").items():
        if not (i.isdecimal() and i.isascii() and len(i) < 12):
            raise CheckpointError(f"{files[0]}: added_tokens_decoder has the id {_short(i)}, expected a number")
        fields = _expect(fields, dict, files[0], f"added_tokens_decoder[{i}]")
        added.append(_added_token({**fields, "id": int(i)}, files[0]))
    for key in ("add_bos_token", "add_eos_token"):
        if config.get(key):
            raise CheckpointError(
                f"{files[0]}: {key} is {_short(config[key])}, expected false: numgpt puts no tokens around a text; "
                "set it to false, and put the token into your prompts"
            )
    prefix, kind = config.get("add_prefix_space"), config.get("tokenizer_class")
    if prefix is not None:
        _expect(prefix, bool, files[0], "add_prefix_space")
    if kind is not None:
        _expect(kind, str, files[0], "tokenizer_class")
    return _Settings(added, special, kind, prefix)


def write_vocabulary(tokenizer: readable.Tokenizer, folder: Path) -> None:
    """Write vocab.json and merges.txt of a tokenizer, as Transformers has them.

    Its added tokens go into vocab.json, where read_vocabulary finds <|endoftext|>; their flags are not kept.
    """
    spelling = {byte: character for character, byte in _spellings().items()}

    def spell(piece: bytes) -> str:
        return "".join(spelling[piece[i : i + 1]] for i in range(len(piece)))

    ids = {spell(piece): i for piece, i in tokenizer.vocabulary.items()} | tokenizer.special_tokens
    lines = ["#version: 0.2", *(f"{spell(left)} {spell(right)}" for left, right in tokenizer.ranks), ""]
    (folder / "vocab.json").write_text(json.dumps(ids, ensure_ascii=False), encoding="utf-8")
    (folder / "merges.txt").write_text("\n".join(lines), encoding="utf-8", newline="\n")


def _from_vocabulary(vocabulary: Path, merges: Path, settings: _Settings) -> Tokenizer:
    if not merges.exists():
        raise CheckpointError(f"{merges}: no such file, expected it to go with {vocabulary}: download the two together")
    if settings.kind not in (None, *_CLASSES):
        raise CheckpointError(
            f"{vocabulary.parent / 'tokenizer_config.json'}: tokenizer_class is {settings.kind!r}, expected "
            f"'GPT2Tokenizer': numgpt would read {vocabulary.name} in another way than this class does"
        )
    return _build(_read_json(vocabulary), str(vocabulary), _read_text(merges).split("\n"), str(merges), settings)


def _from_tokenizer_json(path: Path, settings: _Settings) -> Tokenizer:
    name, data = str(path), _read_json(path)
    model, splitter, around, decoder = (
        _expect(data.get(key) or {}, dict, name, key) for key in ("model", "pre_tokenizer", "post_processor", "decoder")
    )
    if around.get("type") == "TemplateProcessing" and not around.get("special_tokens"):
        around = {}  # a template that puts nothing around the text
    for key, value, supported in (
        ("normalizer", data.get("normalizer"), (None,)),
        ("pre_tokenizer.type", splitter.get("type"), ("ByteLevel",)),
        ("pre_tokenizer.use_regex", splitter.get("use_regex"), (None, True)),
        ("post_processor.type", around.get("type"), (None, "ByteLevel")),
        ("decoder.type", decoder.get("type"), ("ByteLevel",)),
        ("model.type", model.get("type"), (None, "BPE")),  # None: written before 2021
        ("model.dropout", model.get("dropout"), (None, 0)),
        ("model.continuing_subword_prefix", model.get("continuing_subword_prefix"), (None, "")),
        ("model.end_of_word_suffix", model.get("end_of_word_suffix"), (None, "")),
        ("model.byte_fallback", model.get("byte_fallback"), (None, False)),
        ("model.ignore_merges", model.get("ignore_merges"), (None, False)),
    ):
        if value not in supported:
            raise CheckpointError(
                f"{name}: {key} is {_short(value)}, expected {' or '.join(map(_short, supported))}: "
                "numgpt reads byte-level BPE as GPT-2 has it; convert the text to ids with the tokenizers library"
            )
    fields = _expect(data.get("added_tokens", []), list, name, "added_tokens")
    added = [_added_token(_expect(token, dict, name, "added_tokens"), name) for token in fields]
    prefix = settings.add_prefix_space
    if prefix is None:
        prefix = _expect(splitter.get("add_prefix_space"), bool, name, "pre_tokenizer.add_prefix_space")
    settings = settings._replace(added=[*added, *settings.added], add_prefix_space=prefix)
    lines = [
        " ".join(line) if isinstance(line, list) and all(isinstance(part, str) for part in line) else line
        for line in _expect(model.get("merges"), list, name, "model.merges")
    ]
    return _build(_expect(model.get("vocab"), dict, name, "model.vocab"), name, lines, name, settings)


def _build(ids: dict[str, Any], ids_name: str, lines: list[Any], merges_name: str, settings: _Settings) -> Tokenizer:
    alphabet = _spellings()
    spelt = dict(alphabet)
    merges = _parse_merges(lines, spelt, merges_name)
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
    added = {token.text: token for token in settings.added}
    for text, flags in settings.special.items():
        if text in added:
            added[text] = added[text]._replace(special=True)
        elif text in ids:
            added[text] = _added_token({**flags, "content": text, "id": ids[text], "special": True}, ids_name)
    if _END_OF_TEXT in ids and _END_OF_TEXT not in added:  # special to GPT-2 though no file may say so
        added[_END_OF_TEXT] = AddedToken(_END_OF_TEXT, ids[_END_OF_TEXT], special=True)
    for token in (*settings.added, *added.values()):
        if ids.get(token.text, token.id) != token.id or added[token.text].id != token.id:
            other = ids.get(token.text, added[token.text].id)
            raise CheckpointError(f"{ids_name}: {token.text!r} has the ids {other} and {token.id}, expected one")
        if seen.setdefault(token.id, token.text) != token.text:
            raise CheckpointError(
                f"{ids_name}: {seen[token.id]!r} and {token.text!r} have the same id {token.id}, expected one each"
            )
    return Tokenizer(merges, vocabulary, added.values(), others, bool(settings.add_prefix_space))


def _parse_merges(lines: list[Any], spelt: dict[str, bytes], name: str) -> list[Pair]:
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
                f"{name}: merge {number} is {_short(line)}, expected two pieces in the spelling of GPT-2, "
                "such as 'Ġt he': the file is damaged or of another tokenizer"
            ) from None
        merges.append(pair)
        spelt[left + right] = pair[0] + pair[1]
    return merges


def _added_token(fields: dict[str, Any], name: str) -> AddedToken:
    text = _expect(fields.get("content"), str, name, "content of an added token")
    flags = {k: _expect(fields[k], bool, name, k) for k in ("special", "lstrip", "rstrip", "normalized") if k in fields}
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
        raise CheckpointError(f"{name}: the id of {text!r} is {_short(i)}, expected an integer below {_MOST_IDS}")
    return i


def _expect(value: Any, kind: type, name: str, key: str) -> Any:
    if not isinstance(value, kind):
        raise CheckpointError(f"{name}: {key} is {_short(value)}, expected a {kind.__name__}: the file is damaged")
    return value


def _short(value: Any) -> str:
    """How a value out of a file looks in a message."""
    if isinstance(value, dict) and isinstance(value.get("type"), str):
        value = value["type"]
    if isinstance(value, dict | list):
        return "an object" if isinstance(value, dict) else "a list"
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else text[:57] + "..."


def _read_text(path: Path) -> str:
    try:
        return read_small(path).decode("utf-8").replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        raise CheckpointError(f"{path}: byte {error.start} is not UTF-8, expected text: download it again") from None
    except ValueError as error:  # a NUL in the path
        raise CheckpointError(f"{path}: {error}, expected a file of a tokenizer") from None


def _read_json(path: Path) -> dict[str, Any]:
    try:
        data = json.loads(_read_text(path))
    except (ValueError, RecursionError) as error:
        reason = str(error) if isinstance(error, ValueError) else "nested too deeply"
        raise CheckpointError(f"{path}: not JSON ({reason}), expected an object: download it again") from None
    return _expect(data, dict, str(path), "the file")
