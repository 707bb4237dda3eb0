"""tokenizer.json of the `tokenizers` library to a Tokenizer, if it is of GPT-2's kind: a byte-level BPE.

    normalizer       changes the text: nothing here may
    pre_tokenizer    cuts it: ByteLevel, or a Split by GPT-2's pattern and then ByteLevel without its own
    model            BPE: vocab {piece: id} and merges, each "a b" or ["a", "b"]
    post_processor   puts tokens around the ids: TemplateProcessing, RobertaProcessing, BertProcessing; ByteLevel none
    decoder          ByteLevel
    added_tokens     [{id, content, special, lstrip, rstrip, normalized, single_word}]

In the place of each of the four there may be a Sequence of such. What a setting does to the ids decides, not how it is
written: what does nothing is passed over, and what numgpt does not do is refused by name. `truncation` and `padding`
are left aside, as they are about batches.

Source: the tokenizers library, 0.23.
"""

from pathlib import Path
from typing import Any

from numgpt.checkpoint.pieces import Beside, added_token, build, expect, read_json, short
from numgpt.checkpoint.tokenizer_settings import ROBERTA, Settings
from numgpt.errors import CheckpointError
from numgpt.fast.tokenizer import Tokenizer

PATTERNS = (  # of GPT-2, as OpenAI wrote it, and as tiktoken does
    r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",
    r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",
)
REMEDY = "numgpt reads byte-level BPE as GPT-2 has it; convert the text to ids with the tokenizers library"


def from_tokenizer_json(path: Path, settings: Settings) -> Tokenizer:
    """Read a tokenizer.json, and what is said beside it. Raises CheckpointError for what numgpt does not do."""
    name, data = str(path), read_json(path)
    model = expect(data.get("model") or {}, dict, name, "model")
    for key, supported in (
        ("type", (None, "BPE")),  # None: written before 2021
        ("dropout", (None, 0)),
        ("continuing_subword_prefix", (None, "")),
        ("end_of_word_suffix", (None, "")),
        ("byte_fallback", (None, False)),
    ):
        _check(name, f"model.{key}", model.get(key), supported)
    if normalizers := _members(data.get("normalizer"), "normalizers", name, "normalizer"):
        _check(name, "normalizer", normalizers[0], (None,))
    prefix = _read_splitter(_members(data.get("pre_tokenizer"), "pretokenizers", name, "pre_tokenizer"), name)
    decoders = _members(data.get("decoder"), "decoders", name, "decoder")
    for decoder in decoders or [{}]:
        _check(name, "decoder.type", decoder.get("type"), ("ByteLevel",))
    before, after = _read_around(data.get("post_processor"), name)
    ignore_merges = bool(expect(model.get("ignore_merges") or False, bool, name, "model.ignore_merges"))
    roberta = settings.kind in ROBERTA
    if roberta:
        before, after = list(settings.before), list(settings.after)

    fields = expect(data.get("added_tokens", []), list, name, "added_tokens")
    added = [added_token(expect(token, dict, name, "added_tokens"), name) for token in fields]
    if settings.listed and not settings.decides:
        added = list(settings.added)
    else:  # what tokenizer.json says counts; an id that a list gives to another text is a fault that `build` tells
        known = {token.text for token in added} | ({token.id for token in added} if not settings.listed else set())
        added += [token for token in settings.added if not known & {token.id, token.text}]
    prefix = prefix if settings.decides else settings.add_prefix_space
    lines = [
        " ".join(line) if isinstance(line, list) and all(isinstance(part, str) for part in line) else line
        for line in expect(model.get("merges"), list, name, "model.merges")
    ]
    vocabulary = expect(model.get("vocab"), dict, name, "model.vocab")
    beside = Beside(added, settings.special, prefix, before, after, not roberta, ignore_merges)
    return build(vocabulary, name, lines, name, beside)


def _check(name: str, key: str, value: Any, supported: tuple[Any, ...]) -> None:
    if value not in supported:
        expected = " or ".join(map(short, supported))
        raise CheckpointError(f"{name}: {key} is {short(value)}, expected {expected}: {REMEDY}")


def _members(value: Any, key: str, name: str, part: str) -> list[dict[str, Any]]:
    """Return what a part of the pipeline does, step by step: Sequences, also of Sequences, are opened."""
    steps, left = [], [] if value is None else [value]
    while left:
        step = expect(left.pop(), dict, name, part)
        if step.get("type") == "Sequence":
            left += reversed(expect(step.get(key), list, name, f"{part}.{key}"))
        else:
            steps.append(step)
    return steps


def _read_splitter(steps: list[dict[str, Any]], name: str) -> bool:
    """Return whether the pre_tokenizer puts a space before a text, once it is sure that it cuts as GPT-2 does."""
    own = True
    if len(steps) == 2 and steps[0].get("type") == "Split":
        pattern = steps[0].get("pattern")
        _check(name, "pre_tokenizer.behavior", steps[0].get("behavior"), ("Isolated",))
        _check(name, "pre_tokenizer.invert", steps[0].get("invert"), (None, False))
        if not (isinstance(pattern, dict) and pattern.get("Regex") in PATTERNS):
            _check(name, "pre_tokenizer.pattern", pattern, ("that of GPT-2",))
        steps, own = steps[1:], False
    for step in steps or [{}]:
        _check(name, "pre_tokenizer.type", step.get("type"), ("ByteLevel",))
    if len(steps) > 1:
        _check(name, "pre_tokenizer", "a Sequence", ("ByteLevel",))
    step = steps[0]
    _check(name, "pre_tokenizer.use_regex", step.get("use_regex"), (None, True) if own else (None, True, False))
    prefix: bool = expect(step.get("add_prefix_space"), bool, name, "pre_tokenizer.add_prefix_space")
    if not own:  # the space would go before each word
        _check(name, "pre_tokenizer.add_prefix_space", prefix, (False,))
    return prefix


def _read_around(value: Any, name: str) -> tuple[list[str | int], list[str | int]]:
    """Return the ids that a post_processor puts before and after a text."""
    before: list[str | int] = []
    after: list[str | int] = []
    for step in _members(value, "processors", name, "post_processor"):
        kind = step.get("type")
        if kind in ("RobertaProcessing", "BertProcessing"):
            first, last = ([_id_of(step.get(key), name, key)] for key in ("cls", "sep"))
        elif kind == "TemplateProcessing":
            first, last = _read_template(step, name)
        else:
            _check(name, "post_processor.type", kind, (None, "ByteLevel"))
            continue
        before, after = [*first, *before], [*after, *last]
    return before, after


def _id_of(pair: Any, name: str, key: str) -> int:
    """Return the id of [text, id]."""
    if not (isinstance(pair, list) and len(pair) == 2 and type(pair[1]) is int and 0 <= pair[1] < 1 << 31):
        raise CheckpointError(f"{name}: post_processor.{key} is {short(pair)}, expected a text and its id")
    return pair[1]


def _read_template(step: dict[str, Any], name: str) -> tuple[list[int], list[int]]:
    sides: tuple[list[int], list[int]] = ([], [])
    texts = 0
    known = expect(step.get("special_tokens"), dict, name, "post_processor.special_tokens")
    for item in expect(step.get("single"), list, name, "post_processor.single"):
        item = expect(item, dict, name, "post_processor.single")
        if "Sequence" in item:
            texts += 1
            continue
        text = expect(item.get("SpecialToken"), dict, name, "post_processor.single").get("id")
        token = expect(
            known.get(expect(text, str, name, "a SpecialToken")), dict, name, f"the SpecialToken {text!r:.60}"
        )
        ids = expect(token.get("ids"), list, name, f"the ids of {text!r:.60}")
        sides[bool(texts)].extend(_id_of([text, i], name, "special_tokens") for i in ids)
    if texts != 1:
        raise CheckpointError(f"{name}: post_processor.single has the text {texts} times, expected once: {REMEDY}")
    return sides
