"""numgpt bench: how fast a model is on this machine."""

from __future__ import annotations

import argparse
import json

from numgpt.cli.terminal import Command, add_weights, bar, given, note
from numgpt.cli.threads import cpu_quota

EXAMPLES = """examples:
  numgpt bench
  numgpt bench -m path/to/gpt2 --json
  numgpt bench -m gpt2-xl --weights int8     in 8 bits alone, where float32 has no room"""


def bench(args: argparse.Namespace) -> None:
    """numgpt bench: measure a model on this machine, beside what the machine could do at best."""
    from numgpt.cli.figures import notes, table
    from numgpt.fast import steer_blas
    from numgpt.hub.loading import locate
    from numgpt.measure.bench import measure
    from numgpt.measure.machine import load_average

    steer_blas()  # the process is ours, as in all commands that run a model
    with bar(args) as progress:
        path = locate(args.model, progress)
    note(args, "measuring: some 10 seconds for the storyteller, a minute for 124M parameters")
    busy = load_average()
    report = {"model": str(args.model), **measure(path, weights=args.weights, base=args.base, **given(args))}
    report["cpu_quota"] = cpu_quota()
    report["notes"] = notes(report["weight_bytes"], busy)
    print(json.dumps(report) if args.json else table(report))


COMMANDS = {
    "bench": Command(EXAMPLES, add_weights, bench),
}
