"""Long jobs: every line of a file completed or scored, whatever happens to the machine meanwhile.

    prompts.jsonl  {"prompt": "The king", "id": 7}
    out.jsonl      {"line": 1, "id": 7, "prompt": "The king", "text": " said", "ids": [...], "finish_reason": "length"}

Each result is appended to the output as soon as it is there, as a whole line by one write. A job that is killed and
started again reads what is written, cuts off a line that was torn, and makes only what is missing. At the end the lines
are put into the order of the input. The text of line n is drawn from stream n, so neither the order of the work nor
what is made together changes anything. What the output belongs to, the input and all settings, stands in a record
beside it, out.jsonl.job.json.
"""

import hashlib
import json
import os
import re
import shutil
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from io import FileIO
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from numgpt.apps.lines import Line, Report, read_input, survey
from numgpt.checkpoint.disk import try_lock
from numgpt.checks import check_count, finite
from numgpt.decoding.batch import choose_surely, run
from numgpt.decoding.beam import search
from numgpt.decoding.rules import Rules, check_prompt, check_rules
from numgpt.decoding.text import start_ids, text_of
from numgpt.errors import ContextError, OptionError, TokenError
from numgpt.fast.matrices import Stored
from numgpt.measure.choices import check_choices, choose
from numgpt.measure.scoring import score
from numgpt.model import Model, tokenizer_of
from numgpt.params import map_leaves

DRAWING = ("temperature", "top_k", "top_p", "min_p")
RECORD = '{"numgpt job": '  # how a record begins
RESULT = re.compile(rb'\{"line": (\d+), .*\}\n')

Outcome = tuple[int, dict[str, Any] | str]  # the number of a line, and its result or the reason why it has none
Progress = Callable[[int, int, int], None]  # takes how many lines are done, how many there are, and tokens so far


class Job(NamedTuple):
    """What to do with each line."""

    kind: str  # "generate", "score" or "choose"
    settings: dict[str, Any]  # of JSON: the options of `generate` with a seed, or of the others; and allow_special


class Summary(NamedTuple):
    """How a job has ended."""

    lines: int  # of the input, without blank ones
    before: int  # results that were there
    made: int  # results that were not
    bad: int  # lines without a result
    tokens: int  # of the results that were made


def run_job(
    job: Job,
    model: Model,
    source: Path,
    output: Path,
    *,
    batch_size: int = 8,
    workers: Callable[[Iterable[Line]], Iterator[Outcome]] | None = None,
    report: Report = lambda number, reason: None,
    progress: Progress = lambda done, lines, tokens: None,
) -> Summary:
    """Do a job, or what is left of it.

    source      lines of JSON, {"prompt": ..., "id": ...} or {"text": ..., "id": ...}; id may be missing. A line may
                have options of its own, see `apps.lines`. Blank lines are passed over
    output      where the results go, one for each line that is not bad
    batch_size  how many texts are made at once, which changes none
    workers     where the work is done, if not here: see `apps.dask`
    report      is told of each bad line
    progress    is told how far the job is
    Raises OptionError, and leaves the output as it is, where it is not the output of this job or another process is
    at it; OSError where a file can't be read or written. What is written before an error or a kill is kept.
    """
    check_count("batch_size", batch_size, least=1)
    check_settings(job, model)
    if source.exists() and not source.is_file():
        raise OptionError(f"--input {source}: not a file: a job reads it anew when it is started again")
    digest, lines = survey(source)
    record = {"numgpt job": job.kind, "input sha256": digest, "model sha256": fingerprint(model), **job.settings}
    with ExitStack() as stack:
        results = stack.enter_context(Output(output, record))
        before, bad, tokens = len(results.places), 0, 0

        def fail(number: int, reason: str) -> None:
            nonlocal bad
            bad += 1
            report(number, reason)
            progress(len(results.places) + bad, lines, tokens)

        if before < lines:
            progress(before, lines, tokens)
        file = stack.enter_context(source.open("rb"))
        left = read_input(file, job.kind, results.places, fail)
        outcomes = workers(left) if workers else work(job, model, left, batch_size)
        for number, result in outcomes:
            if isinstance(result, str):
                fail(number, result)
            else:
                results.append(number, result)
                tokens += len(result["ids"])
                progress(len(results.places) + bad, lines, tokens)
        results.put_in_order()
        return Summary(lines, before, len(results.places) - before, bad, tokens)


def stream_job(
    job: Job,
    model: Model,
    source: BinaryIO,
    write: Callable[[dict[str, Any]], None],
    *,
    batch_size: int = 8,
    report: Report = lambda number, reason: None,
) -> Summary:
    """Do a job whose results go to a program, in the order of the input: nothing is kept, so it can't be gone on with.

    source  an open file of the lines of `run_job`
    write   is given each result
    """
    check_count("batch_size", batch_size, least=1)
    check_settings(job, model)
    lines = made = bad = tokens = 0
    waiting: dict[int, dict[str, Any] | None] = {}  # results that others have to come before; None for a bad line
    order: deque[int] = deque()

    def fail(number: int, reason: str) -> None:
        nonlocal bad
        bad += 1
        waiting[number] = None
        report(number, reason)

    def asked_for() -> Iterator[Line]:
        for line in read_input(source, job.kind, (), fail):
            order.append(line.number)
            yield line

    for number, result in work(job, model, asked_for(), batch_size):
        if isinstance(result, str):
            fail(number, result)
        else:
            waiting[number] = result
        while order and order[0] in waiting:
            first = waiting.pop(order.popleft())
            if first is not None:
                write(first)
                made, tokens = made + 1, tokens + len(first["ids"])
    lines = made + bad
    return Summary(lines, 0, made, bad, tokens)


# ---- the work


def check_settings(job: Job, model: Model) -> None:
    """Raise OptionError for a setting out of its range, before anything is read or written."""
    tokenizer_of(model)
    options = {name: value for name, value in job.settings.items() if name != "allow_special"}
    if job.kind == "generate":
        check_rules(model.config, tokenizer=model.tokenizer, **options)
    elif job.kind == "choose":
        check_choices(options["choices"])
    else:
        score(model, [0, 0], **options)


def work(job: Job, model: Model, lines: Iterable[Line], batch_size: int) -> Iterator[Outcome]:
    """Yield the outcome of each line as soon as it is known. Lines are asked for as there is room for them."""
    settings = dict(job.settings)
    special = settings.pop("allow_special", False)
    if job.kind == "generate":
        return complete_lines(model, lines, batch_size, special, settings)
    if job.kind == "choose":
        return choose_lines(model, lines, special, settings["choices"])
    return score_lines(model, lines, special, settings)


def complete_lines(
    model: Model, lines: Iterable[Line], batch_size: int, allow_special: bool, options: dict[str, Any]
) -> Iterator[Outcome]:
    """Continue the text of each line."""
    tokenizer, config = tokenizer_of(model), model.config
    started: dict[int, tuple[Line, Sequence[str]]] = {}  # a line, and the strings at which it stops
    ready: list[Outcome] = []  # of lines that are refused, or searched for and not drawn

    def prompts() -> Iterator[tuple[int, list[int], Rules]]:
        for line in lines:
            own = {**options, **line.options}
            if line.options.get("num_beams", 1) != 1:  # a search draws nothing, whatever the job does elsewhere
                own = {name: x for name, x in own.items() if name not in DRAWING or name in line.options}
            try:
                rules = check_rules(config, tokenizer=tokenizer, **own)
                ids = start_ids(model, tokenizer.encode(line.text, allow_special=allow_special))
                text = check_prompt(ids, config, rules.overflow)
            except (TokenError, ContextError, OptionError) as error:
                ready.append((line.number, str(error)))
                continue
            started[line.number] = line, own.get("stop_strings", ())
            if rules.num_beams > 1:
                best = search(text, model.params, config, rules)[0]
                ready.append(outcome(line.number, best.ids, best.finish_reason))
            else:
                yield line.number, text, rules

    def outcome(number: int, ids: list[int], finish_reason: str) -> Outcome:
        line, stops = started.pop(number)
        result = {"line": number, "id": line.id, **line.others, "prompt": line.text}
        return number, {**result, "text": text_of(ids, tokenizer, stops), "ids": ids, "finish_reason": finish_reason}

    for done in run(prompts(), model.params, config, batch_size, choose_next=choose_surely):
        yield outcome(done.number, done.ids, done.finish_reason)
        while ready:
            yield ready.pop(0)
    yield from ready


def score_lines(model: Model, lines: Iterable[Line], allow_special: bool, options: dict[str, Any]) -> Iterator[Outcome]:
    """Score the text of each line. What is not finite, as nothing came before it, is None."""
    tokenizer = tokenizer_of(model)
    for line in lines:
        own = {**options, **line.options}
        text: str | list[int] = line.text
        if "given" not in own or allow_special:
            text = tokenizer.encode(line.text, allow_special=allow_special)
        try:
            found = score(model, text, **own)
        except (TokenError, OptionError) as error:
            yield line.number, str(error)
            continue
        figures = {name: getattr(found, name) for name in ("nats", "bits_per_byte", "perplexity")}
        result = {"line": line.number, "id": line.id, **line.others, "text": line.text, "tokens": found.tokens}
        result |= {"context": own["given"]} if "given" in own else {}
        result |= {name: finite(x) for name, x in figures.items()}
        yield line.number, {**result, "ids": found.ids, "log_probs": [finite(x) for x in found.log_probs.tolist()]}


def choose_lines(model: Model, lines: Iterable[Line], allow_special: bool, choices: Sequence[str]) -> Iterator[Outcome]:
    """Choose among some continuations for the text of each line. A line may have choices of its own."""
    for line in lines:
        try:
            found = choose(model, line.text, line.options.get("choices", choices), allow_special=allow_special)
        except (TokenError, ContextError, OptionError) as error:
            yield line.number, str(error)
            continue
        best = max(found, key=lambda choice: choice.probability)
        result = {"line": line.number, "id": line.id, **line.others, "prompt": line.text, "text": best.text}
        each = [{name: x for name, x in choice._asdict().items() if name != "ids"} for choice in found]
        yield line.number, {**result, "choices": each, "ids": best.ids}


def fingerprint(model: Model) -> str:
    """Return a hash of all that a text depends on: config, parameters and tokenizer, in whatever files they were.

    >>> import numgpt
    >>> fingerprint(numgpt.load("storyteller")) == fingerprint(numgpt.load("storyteller", dtype="float64"))
    False
    """
    digest = hashlib.sha256(repr(model.config).encode())

    def add(path: str, x: np.ndarray | Stored) -> None:
        digest.update(f"{path} {x.dtype} {x.shape}".encode())
        for array in x.arrays() if isinstance(x, Stored) else [x]:
            digest.update(np.ascontiguousarray(array).data)

    map_leaves(add, model.params)
    if model.tokenizer:
        vocabulary, special = (sorted(d.items()) for d in (model.tokenizer.vocabulary, model.tokenizer.special_tokens))
        digest.update(repr((vocabulary, list(model.tokenizer.ranks), special)).encode())
    return digest.hexdigest()


# ---- the output


class Output:
    """The results of a job: a file that is appended to, with a record of the job beside it, which is locked."""

    def __init__(self, path: Path, record: dict[str, Any]) -> None:
        """Open the output of a job or begin it. Raises OptionError for one that is not of this job."""
        self.path = Path(os.path.realpath(path))
        self.record_path = Path(f"{self.path}.job.json")
        self.places: dict[int, int] = {}  # of each line of input that is done: where its result begins
        if not self.path.parent.is_dir():
            raise OptionError(f"--output {path}: there is no folder {self.path.parent}: make it, or give another name")
        if self.path.exists() and not self.path.is_file():
            raise OptionError(f"--output {path}: not a file: a job reads back what it has written")
        if self._has_results() and not self.record_path.exists():
            raise OptionError(
                f"--output {path}: there already, and no output of a job, as there is no {self.record_path.name} "
                f"beside it: move it away, or give another name"
            )
        with ExitStack() as files:
            self.record_file = files.enter_context(open_to_append(self.record_path))
            lock(self.record_file, path)
            self._check_record(record)
            self.file = files.enter_context(open_to_append(self.path))
            self._read()
            self.files = files.pop_all()  # which stay open

    def __enter__(self) -> "Output":
        return self

    def __exit__(self, *_: object) -> None:
        self.files.close()

    def append(self, number: int, result: dict[str, Any]) -> None:
        """Write a result, whole or, where the disk is full, not at all."""
        raw = json.dumps(result, allow_nan=False).encode() + b"\n"
        write(self.file, raw, self.path, self.size)
        self.places[number] = self.size
        self.size += len(raw)

    def put_in_order(self) -> None:
        """Replace the file by one with the lines in the order of the input, if they are in another."""
        os.fsync(self.file.fileno())
        order = sorted(self.places)
        if order == list(self.places):
            return
        new = Path(f"{self.path}.sorted")
        try:
            with self.path.open("rb") as file, new.open("wb") as sorted_file:
                for number in order:
                    file.seek(self.places[number])
                    sorted_file.write(file.readline())
                sorted_file.flush()
                os.fsync(sorted_file.fileno())
            shutil.copymode(self.path, new)
            self.file.close()
            os.replace(new, self.path)
        except OSError as error:
            new.unlink(missing_ok=True)
            raise kept(error, new) from None

    def _has_results(self) -> bool:
        return self.path.exists() and self.path.stat().st_size > 0

    def _check_record(self, record: dict[str, Any]) -> None:
        """Compare the record with that of the job before, or write it where nothing is done yet."""
        self.record_file.seek(0)
        text = self.record_file.read().decode("utf-8", "replace")
        if self._has_results():
            if not (text.startswith(RECORD) and text.endswith("}\n")):
                raise OptionError(f"{self.record_path}: damaged: move it and {self.path.name} away")
            old = json.loads(text)
            new = json.loads(json.dumps(record))
            changes = [
                f"{name} was {old.get(name)!r:.60} and is {new.get(name)!r:.60}"
                for name in {**old, **new}
                if old.get(name) != new.get(name)
            ]
            if changes:
                raise OptionError(
                    f"--output {self.path}: belongs to another job: {'; '.join(changes)}: give another name, or the "
                    f"same input, model and options as before"
                )
        elif text.startswith(RECORD) or RECORD.startswith(text):  # or torn, when it was written
            self.record_file.truncate(0)
            write(self.record_file, json.dumps(record).encode() + b"\n", self.record_path, 0)
            os.fsync(self.record_file.fileno())
        else:
            raise OptionError(f"{self.record_path}: there already, and no record of a job: move it away")

    def _read(self) -> None:
        """Find the lines that are done. Cut off the last one where it was torn."""
        self.size = 0
        with self.path.open("rb") as file:
            for n, raw in enumerate(file, 1):
                if not raw.endswith(b"\n"):
                    self.file.truncate(self.size)
                    break
                found = RESULT.fullmatch(raw)
                number = int(found[1]) if found else 0
                if not number or number in self.places:
                    what = "no result of this job" if not number else f"line {number} of the input a second time"
                    raise OptionError(f"{self.path}: line {n} is {what}: it was changed by others: move it away")
                self.places[number] = self.size
                self.size += len(raw)


def open_to_append(path: Path) -> FileIO:
    """Open a file without a buffer, so that what is written has left the process."""
    return open(path, "a+b", buffering=0)


def write(file: FileIO, raw: bytes, path: Path, size: int) -> None:
    """Append bytes to a file of this size. Where there is no room for all of them, none stay."""
    try:
        written = file.write(raw)
        while written < len(raw):  # the second attempt says why
            written += file.write(raw[written:])
    except OSError as error:
        file.truncate(size)
        raise kept(error, path) from None


def kept(error: OSError, path: Path) -> OSError:
    """Return the error with what it means for the job."""
    reason = f"{error.strerror}: what is done is kept, and the same command goes on once that is put right"
    return OSError(error.errno, reason, str(path))


def lock(file: FileIO, path: Path) -> None:
    """Keep other processes from this job, for as long as the file is open. Where there are no locks, trust."""
    if sys.platform != "win32" and not try_lock(file):  # there nobody could read a file that is locked
        raise OptionError(f"--output {path}: another process is at this job: wait for it, or end it")
