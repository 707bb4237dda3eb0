"""What the files beside a vocabulary say of its tokenizer: tokenizer_config.json and the older ones, in their order.

As Transformers 5 reads them:

    tokenizer_class     of tokenizer_config.json, else of config.json, else GPT-2's. GPT-2's class and RoBERTa's take
                        vocabulary and added tokens and make the rest themselves; for any other tokenizer.json decides
    special tokens      bos_token, eos_token and so on, and other keys that end in _token; those of
                        special_tokens_map.json count before those of tokenizer_config.json
    added tokens        added_tokens_decoder of tokenizer_config.json. Where there is one, special_tokens_map.json and
                        added_tokens.json are not read; where there is none, they are, and those of tokenizer.json
    add_bos_token       and add_eos_token count where there is no tokenizer.json, whose post_processor does the same

Source: tokenization_utils_base.py, tokenization_utils_tokenizers.py and tokenization_auto.py of Transformers 5.24.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from numgpt.checkpoint.pieces import END_OF_TEXT, added_token, expect, read_json, short
from numgpt.errors import CheckpointError
from numgpt.fast.tokenizer import AddedToken

GPT2 = ("GPT2Tokenizer", "GPT2TokenizerFast")
ROBERTA = tuple(
    f"{name}Tokenizer{fast}" for name in ("Roberta", "Bart", "Longformer", "LED", "Mvp") for fast in ("", "Fast")
)
ANY = ("PreTrainedTokenizer", "PreTrainedTokenizerFast", "TokenizersBackend")  # what tokenizer.json makes of them
NAMES = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
LISTS = ("extra_special_tokens", "additional_special_tokens")
Special = tuple[str | None, dict[str, Any]]  # the text of a special token, and its flags
DEFAULTS = {  # the special tokens of a class, where no file says another
    GPT2: {"bos_token": END_OF_TEXT, "eos_token": END_OF_TEXT, "unk_token": END_OF_TEXT},
    ROBERTA: dict(zip(NAMES, ("<s>", "</s>", "<unk>", "</s>", "<pad>", "<s>", "<mask>"), strict=True)),
}


class Settings(NamedTuple):
    """What the files beside a vocabulary say. `decides`: tokenizer.json says all that is not said here."""

    kind: str | None = None  # of the class
    decides: bool = True
    added: Sequence[AddedToken] = ()
    listed: bool = False  # all of them are in `added`
    special: Mapping[str, dict[str, Any]] = {}  # {text: flags}, in the order in which those without an id get one
    add_prefix_space: bool = False
    before: Sequence[str] = ()
    after: Sequence[str] = ()


def read_beside(folder: Path, names: set[str]) -> Settings:
    """Read the settings of a tokenizer. `names` are those of the files of the folder.

    Raises CheckpointError where a file is damaged.
    """
    files = [str(folder / name) for name in ("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json")]
    config, named, texts = (read_json(Path(file)) if Path(file).name in names else {} for file in files)
    kind = _kind(folder, names, config, files[0])
    decides = kind not in (None, *GPT2, *ROBERTA) or not names & {"tokenizer_config.json", "config.json"}
    for key in ("add_prefix_space", "add_bos_token", "add_eos_token"):
        if config.get(key) is not None:
            expect(config[key], bool, files[0], key)

    added: list[AddedToken] = []
    if listed := "added_tokens_decoder" in config:
        named, texts, added = {}, {}, _of_decoder(config["added_tokens_decoder"], files[0])
    tokens = _default_tokens(GPT2[0] if kind is None and not decides else kind)
    for file, fields in zip(files, (config, named), strict=False):
        tokens |= {key: _special(fields[key], file, key) for key in fields if _is_name(key, fields[key])}
    order = [*NAMES, *(key for key in tokens if key not in NAMES)]
    special: dict[str, dict[str, Any]] = {}
    plain: set[str] = set()  # without flags, of which only the first counts
    for text, flags in (*(tokens[key] for key in order if key in tokens), *_extra(config, named, files)):
        if text is not None and (flags or text not in plain):
            special[text] = flags
            plain |= set() if flags else {text}
    if texts:
        added = [
            added_token({"content": text, "id": i, "special": text in special}, files[2]) for text, i in texts.items()
        ]

    around = ["bos_token"] if config.get("add_bos_token") else [], ["eos_token"] if config.get("add_eos_token") else []
    if kind in ROBERTA:
        around = ["cls_token"], ["sep_token"]
    before, after = ([text for name in side if name in tokens and (text := tokens[name][0])] for side in around)
    prefix = bool(config.get("add_prefix_space"))
    return Settings(kind, decides, added, listed, special, prefix, before, after)


def _kind(folder: Path, names: set[str], config: dict[str, Any], name: str) -> str | None:
    kind = config.get("tokenizer_class")
    if kind is None and "config.json" in names:
        name = str(folder / "config.json")
        kind = read_json(folder / "config.json").get("tokenizer_class")
    if kind is not None:
        expect(kind, str, name, "tokenizer_class")
    return kind


def _default_tokens(kind: str | None) -> dict[str, Special]:
    found = next((tokens for kinds, tokens in DEFAULTS.items() if kind in kinds), {})
    return {key: (text, {}) for key, text in found.items()}


def _is_name(key: str, value: Any) -> bool:
    """Tell whether a key names a special token: one that Transformers knows, or another that ends so."""
    return key in NAMES or (key.endswith("_token") and isinstance(value, str | dict))


def _special(value: Any, file: str, key: str) -> Special:
    """Return the text of a special token, None for none, and its flags."""
    text = value.get("content") if isinstance(value, dict) else value
    if text is None:
        return None, {}
    return expect(text, str, file, key), value if isinstance(value, dict) else {}


def _extra(config: dict[str, Any], named: dict[str, Any], files: list[str]) -> list[Special]:
    """Return the special tokens that have no name of their own: extra_special_tokens, once additional_special_tokens.

    They may be named after all, in an object; these come first. The older key counts where there is no newer list.
    """
    _, older = LISTS
    found: list[Special] = []
    said = False  # a list of the newer key, beside which the older one does not count
    for file, fields in zip(files, (config, named), strict=False):
        for key in LISTS:
            values = fields.get(key)
            if isinstance(values, dict):
                found[:0] = [_special(value, file, key) for value in values.values()]
            elif values is not None and not (key == older and said):
                found += [_special(value, file, key) for value in expect(values, list, file, key)]
                said = said or bool(values)
        said = said or any(isinstance(fields.get(key), list) for key in LISTS)
    return found


def _of_decoder(tokens: Any, file: str) -> list[AddedToken]:
    added = []
    for i, fields in expect(tokens or {}, dict, file, "added_tokens_decoder").items():
        if not (i.isdecimal() and i.isascii() and len(i) < 12):
            raise CheckpointError(f"{file}: added_tokens_decoder has the id {short(i)}, expected a number")
        fields = expect(fields, dict, file, f"added_tokens_decoder[{i}]")
        added.append(added_token({**fields, "id": int(i)}, file))
    return added
