"""Jobs: `numgpt generate` and `numgpt score` over the lines of a file."""

from __future__ import annotations

import argparse
import json
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from numgpt.cli.progress import LineBar
from numgpt.cli.terminal import how_to_load, note, say
from numgpt.errors import TokenError

if TYPE_CHECKING:
    from numgpt.apps.jobs import Job, Summary
    from numgpt.model import Model


def add_job_options(parser: argparse.ArgumentParser) -> None:
    """Say what a job takes beside --input."""
    add = parser.add_argument_group("jobs, which go on where they were when they are started again").add_argument
    add("--output", metavar="FILE", help="the results of --input: a line of JSON for each; - prints them")
    add("--batch-size", type=int, metavar="N", help="texts at once, or in a task of Dask (default: 8)")
    add("--dask", metavar="ADDRESS", help="work on a Dask cluster: the address of its scheduler, tcp://HOST:PORT")


def check_job(args: argparse.Namespace, given: bool) -> None:
    """Exit with a word on the usage where the options of a job don't go together."""
    if args.input is None:
        for name in ("output", "batch_size", "dask"):
            if getattr(args, name) is not None:
                args.error(f"--{name.replace('_', '-')} is for jobs: give --input too")
        return
    if given:
        args.error("give a text or --input, not both")
    if args.output is None:
        args.error("--input needs --output")
    if args.input == "-" and args.output != "-":
        args.error("--input - goes with --output -: a job that is started again reads its input anew")
    if args.output == "-" and args.dask is not None:
        args.error("--dask writes a file: give --output FILE")
    if getattr(args, "num_return_sequences", 1) != 1:
        args.error("--input makes one text of each line: for more, give the line several times; each has its own draw")


def job(args: argparse.Namespace, model: Model, options: dict[str, Any]) -> None:
    """numgpt generate or score with --input: do what is left of a job, and say how that gets on."""
    from numgpt.apps.jobs import Job, fingerprint, run_job

    if args.kind == "generate":
        options = {**options, "seed": args.seed or 0}  # one that is drawn would be lost when the job is killed
    work = Job(args.kind, {**options, "allow_special": args.allow_special})
    size = 8 if args.batch_size is None else args.batch_size
    if args.output == "-":
        print_results(args, model, work, size)
        return
    workers = None
    if args.dask is not None:
        from numgpt.apps.dask import work_on_cluster

        name, how, expected = from_anywhere(args.model), how_to_load(args), fingerprint(model)
        if how["base"]:
            how["base"] = from_anywhere(how["base"])

        def workers(lines: Any) -> Any:
            return work_on_cluster(args.dask, work, name, how, expected, size, lines)

    bar = None if args.quiet or sys.stderr is None else LineBar()

    def report(number: int, reason: str) -> None:
        message = f"numgpt: {args.input}: line {number}: {reason}".replace("\n", " ")
        (bar.say if bar else say)(message)

    def progress(done: int, lines: int, tokens: int) -> None:
        if bar:
            bar.tokens = tokens
            bar(args.output, done, lines)

    start = time.perf_counter()
    try:
        summary = run_job(
            work,
            model,
            Path(args.input),
            Path(args.output),
            batch_size=size,
            workers=workers,
            report=report,
            progress=progress,
        )
    except KeyboardInterrupt:
        note(args, "stopped: what is done is kept, and the same command goes on")
        raise
    finally:
        if bar:
            bar.close()
    if args.json:
        print(json.dumps({"model": str(args.model), "output": args.output, **summary._asdict()}))
    end(args, summary, time.perf_counter() - start)


def from_anywhere(model: str) -> str:
    """Return a model's name or path as a process finds it that runs in another folder."""
    return str(Path(model).resolve()) if Path(model).exists() else model


def print_results(args: argparse.Namespace, model: Model, work: Job, size: int) -> None:
    """Print the results of a job, each as soon as those before it are there."""
    from numgpt.apps.jobs import stream_job

    def report(number: int, reason: str) -> None:
        say(f"numgpt: {args.input}: line {number}: {reason}".replace("\n", " "))

    def write(result: dict[str, Any]) -> None:
        print(json.dumps(result), flush=True)

    start = time.perf_counter()
    with ExitStack() as stack:
        source = sys.stdin.buffer if args.input == "-" else stack.enter_context(open(args.input, "rb"))
        summary = stream_job(work, model, source, write, batch_size=size, report=report)
    end(args, summary, time.perf_counter() - start)


def end(args: argparse.Namespace, summary: Summary, seconds: float) -> None:
    """Say how a job has ended. Raises TokenError where lines have no result."""
    lines, before, made, bad, tokens = summary
    rate = f"{made / seconds:.1f} lines/s, {tokens / seconds:.1f} tokens/s"
    note(args, f"{made} of {lines} lines in {seconds:.2f} s, {rate}; {before} were done before")
    if bad:
        raise TokenError(f"{args.input}: {bad} of {lines} lines have no result; see above")
