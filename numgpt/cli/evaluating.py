"""numgpt eval: the tasks of EleutherAI's lm-evaluation-harness."""

from __future__ import annotations

import argparse
import json
import os
import sys
from contextlib import ExitStack, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

from numgpt.cli.terminal import Command, add_precision, how_to_load, load_model, note
from numgpt.errors import NumgptError, OptionError

EXAMPLES = """examples:
  numgpt eval --tasks lambada_openai -m gpt2                  fetches the task's texts from the Hugging Face Hub
  numgpt eval --tasks hellaswag,arc_easy -m gpt2 --limit 100  the first 100 questions of each
  numgpt eval --tasks mine --include-path my_tasks            tasks of your own, in the harness's YAML
  numgpt eval --tasks wikitext -m gpt2 --output results.json"""


def evaluate(args: argparse.Namespace) -> None:
    """numgpt eval: run tasks of lm-evaluation-harness with a model, and show what they measure."""
    with ExitStack() as stack:
        stack.enter_context(redirect_stdout(sys.stderr))  # what the harness prints is no result
        if args.quiet:
            stack.enter_context(redirect_stderr(stack.enter_context(Path(os.devnull).open("w", encoding="utf-8"))))
        results = run(args)
    from lm_eval.utils import handle_non_serializable, make_table

    written = json.dumps(results, default=handle_non_serializable, ensure_ascii=False, indent=2)
    if args.output is not None:
        Path(args.output).write_text(f"{written}\n", encoding="utf-8")
        note(args, f"wrote {args.output}")
    if args.json:
        print(written)
        return
    print(make_table(results))
    if "groups" in results:
        print(make_table(results, "groups"))


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Return what the harness finds. Raises OptionError where it is not installed, and for tasks that fail."""
    from numgpt.measure.harness import Harness

    manager, tasks = find_tasks(args)
    from lm_eval import simple_evaluate

    model = Harness(load_model(args), args.batch_size)
    try:
        return simple_evaluate(
            model,
            model_args={"model": str(args.model), **how_to_load(args)},
            tasks=tasks,
            num_fewshot=args.num_fewshot,
            batch_size=args.batch_size,
            limit=args.limit,
            log_samples=False,
            task_manager=manager,
        )
    except NumgptError:
        raise
    except Exception as error:  # of a task: its texts, its code
        raise OptionError(f"lm-evaluation-harness: {type(error).__name__}: {error}") from None


def find_tasks(args: argparse.Namespace) -> tuple[Any, list[str]]:
    """Return what loads tasks, and the names of those asked for. Raises OptionError for one that there is not."""
    from lm_eval.tasks import TaskManager

    manager = TaskManager(include_path=args.include_path)
    asked = args.tasks.split(",")
    unknown = [name for name in asked if not manager.match_tasks([name])]
    if unknown:
        raise OptionError(f"--tasks: there is no {', '.join(unknown)}: `lm_eval ls tasks` lists what there is")
    return manager, manager.match_tasks(asked)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Say what `numgpt eval` takes."""
    add = parser.add_argument
    add("--tasks", required=True, metavar="NAMES", help="tasks of lm-evaluation-harness, with commas between")
    add("--include-path", metavar="FOLDER", help="where tasks of your own lie")
    add("--limit", type=float, metavar="N", help="so many questions of each task, or below 1 such a part of them")
    add("--num-fewshot", type=int, metavar="N", help="so many examples before each question (default: the task's own)")
    add("--batch-size", default="auto", metavar="N", help="texts that are computed side by side (default: 8)")
    add("--output", metavar="FILE", help="write the results, as JSON")
    add_precision(parser)


COMMANDS = {
    "eval": Command(EXAMPLES, add_arguments, evaluate),
}
