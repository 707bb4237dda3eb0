"""The lines of a job: what each asks for, and what it brings along.

    {"prompt": "The king", "id": 7, "temperature": 0, "source": "tales"}

A line may have options of its own, by the names that they have in Python; they go before those of the job. What is no
option is kept, and stands in the result.
"""

import hashlib
import json
from collections.abc import Callable, Container, Iterator, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from numgpt.checkpoint.disk import plain_text
from numgpt.decoding.rules import IN_TRANSFORMERS, OF_THE_LOOP, known_options
from numgpt.errors import TokenError

KEYS = {"generate": "prompt", "score": "text", "choose": "prompt"}  # of the text of a line, by the kind of the job
OPTIONS_OF_SCORE = ("context", "stride", "bos")
NOT_OF_A_LINE = (*OF_THE_LOOP, "tokenizer")  # what a line can't say
LONGEST = 1 << 24  # bytes of a line of input

Report = Callable[[int, str], None]  # takes the number of a bad line and the reason


class Line(NamedTuple):
    """A line of the input."""

    number: int  # from 1
    id: Any
    text: str
    options: Mapping[str, Any] = {}  # of its own
    others: Mapping[str, Any] = {}  # what it has besides, which stands in the result


def read_lines(file: BinaryIO, see: Callable[[bytes], Any] = lambda raw: None) -> Iterator[tuple[int, bytes]]:
    """Yield the lines of a file that are not blank, with their numbers; of one that is too long its first part.

    see  is given all bytes
    """
    number = 0
    while raw := file.readline(LONGEST):
        number += 1
        see(raw)
        if raw.strip():
            yield number, raw
        while len(raw) == LONGEST and not raw.endswith(b"\n"):
            raw = file.readline(LONGEST)
            see(raw)


def survey(path: Path) -> tuple[str, int]:
    """Return the sha256 of a file, and how many lines are not blank."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        lines = sum(1 for _ in read_lines(file, digest.update))
    return digest.hexdigest(), lines


def read_input(file: BinaryIO, kind: str, done: Container[int], report: Report) -> Iterator[Line]:
    """Yield the lines of the input that are not done and not bad."""
    for number, raw in read_lines(file):
        if number in done:
            continue
        try:
            line = parse(raw, KEYS[kind])
            text = plain_text(line.pop(KEYS[kind]))
            yield Line(number, line.pop("id", None), text, *own_options(line, kind))
        except TokenError as error:
            report(number, str(error))


def parse(raw: bytes, key: str) -> dict[str, Any]:
    r"""Return what a line of input says. Raises TokenError that tells what is wrong with it.

    >>> parse(b'{"prompt": "The king", "id": 7}\n', "prompt")
    {'prompt': 'The king', 'id': 7}
    """
    expected = f'expected {{"{key}": "..."}}'
    if len(raw) == LONGEST and not raw.endswith(b"\n"):
        raise TokenError(f"longer than {LONGEST >> 20} MB, {expected}")
    try:
        line = json.loads(raw.decode("utf-8-sig"))
        json.dumps(line, allow_nan=False)  # or it can't be passed on
    except UnicodeDecodeError as error:
        raise TokenError(f"byte {raw[error.start]:#04x} at {error.start} is not UTF-8: convert the file") from None
    except (ValueError, RecursionError) as error:
        raise TokenError(f"not JSON ({error}), {expected}") from None
    if not isinstance(line, dict):
        raise TokenError(f"{line!r:.60} is not an object, {expected}")
    if key not in line:
        raise TokenError(f'no "{key}", {expected}')
    if not isinstance(line[key], str):
        raise TokenError(f'"{key}" is {line[key]!r:.60}, not a string, {expected}')
    return line


def own_options(line: dict[str, Any], kind: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Part what a line has beside its text into options and what is kept.

    Raises TokenError for what is nearly an option, or what another program calls one: it would be passed over.

    >>> own_options({"temperature": 0, "source": "tales"}, "generate")
    ({'temperature': 0}, {'source': 'tales'})
    >>> own_options({"temprature": 0}, "generate")
    Traceback (most recent call last):
    numgpt.errors.TokenError: "temprature" is no option of a line: did you mean temperature?
    """
    known = {"score": [*OPTIONS_OF_SCORE], "choose": ["choices"]}.get(kind)
    elsewhere = {} if known else IN_TRANSFORMERS
    known = known or [name for name in known_options() if name not in NOT_OF_A_LINE]
    options, others = {}, {}
    for name, value in line.items():
        if name in known:
            options[name] = value
        elif near := [elsewhere[name]] if name in elsewhere else get_close_matches(name, known, n=1, cutoff=0.85):
            raise TokenError(f'"{name}" is no option of a line: did you mean {near[0]}?')
        else:
            others[name] = value
    if isinstance(options.get("logit_bias"), dict):  # JSON has no numbers for keys
        options["logit_bias"] = {int(i) if i.isdecimal() else i: x for i, x in options["logit_bias"].items()}
    if isinstance(options.get("context"), str):  # a text before the one that is scored, and not a size
        options["given"] = plain_text(options.pop("context"))
    return options, others
