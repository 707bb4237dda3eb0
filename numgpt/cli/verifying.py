"""numgpt verify: where another implementation parts from this one, and whether a checkpoint answers as the real one."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from numgpt.cli.terminal import Command, add_layers, add_weights, encode, load_model, needed_text, parse_ids
from numgpt.errors import CheckpointError

if TYPE_CHECKING:
    from numgpt.model import Model
    from numgpt.verify.report import Report

EXAMPLES = """examples:
  numgpt verify dump.npz -m path/to/gpt2                 where another implementation parts from ours, and why
  numgpt verify logits.safetensors -m gpt2 --ids 15496,995
  numgpt verify dump.npz -m path/to/gpt2 -o report.html  a page to look at, too
  numgpt verify gpt2_124M_debug_state.bin -m gpt2_124M.bin     of llm.c: logits, loss and gradients
  numgpt verify --published -m gpt2
  numgpt verify --published -m 124M --json
  numgpt verify --published -m path/to/folder --as distilgpt2"""


def verify(args: argparse.Namespace) -> None:
    """numgpt verify: compare a dump of another implementation, or a checkpoint with what is published of it."""
    if (args.dump is None) != args.published:
        args.error("give a dump or --published, one of them")
    if args.published:
        if args.text is not None or args.ids is not None:
            args.error("--text and --ids are of a dump, and --published has its own")
        if args.output is not None:
            args.error("-o writes a page of a dump")
        verify_published(args)
        return
    if args.published_as is not None:
        args.error("--as goes with --published")
    if args.text is not None and args.ids is not None:
        args.error("give --text or --ids, not both")
    verify_dump(args)


def verify_dump(args: argparse.Namespace) -> None:
    """numgpt verify DUMP: show where another implementation first parts from this one, and why."""
    from numgpt.checks import finite
    from numgpt.verify.dump import read_dump
    from numgpt.verify.gradients import compare_state
    from numgpt.verify.llmc_state import is_llmc, read_state
    from numgpt.verify.report import compare

    if is_llmc(Path(args.dump)):
        if args.text is not None or args.ids is not None:
            args.error("--text and --ids are of a dump that lacks its ids, and a debug state has them")
        model = load_model(args)
        report = compare_state(read_state(Path(args.dump), model.config), model)
    else:
        dump = read_dump(args.dump)
        model = load_model(args)
        ids = None if args.ids is None else parse_ids(args.ids)
        if args.text is not None:
            ids = encode(args, model, needed_text(args, args.text))
        report = compare(dump, model, ids)
    last = report.rows[-1]
    if args.output is not None:
        from numgpt.checkpoint.disk import written_whole
        from numgpt.pages.verification import page_of

        with written_whole(Path(args.output)) as file:
            file.write(page_of(report, model.config, str(args.model), Path(args.dump).name).encode())
    if args.json:
        rows = [{key: finite(x) for key, x in row._asdict().items()} for row in report.rows]
        facts = {"model": str(args.model), "dump": args.dump, "passed": report.passed}
        told = {**report._asdict(), "rows": rows, "changes": [change._asdict() for change in report.changes]}
        told["matched"] = [matched._asdict() for matched in report.matched]
        del told["difference"]  # a tensor
        print(json.dumps({**facts, **told}))
    else:
        show_report(report)
    if not report.passed:
        cause = report.causes[0] if report.causes else "no known cause fits"
        raise CheckpointError(f"{args.dump}: {last.name} differs, {last.times:.3g} times the noise: {cause}")


def show_report(report: Report) -> None:
    """Print the tensors that were compared, and what was found."""
    from numgpt.verify.report import WIDEN

    width = max(18, *(len(row.name) for row in report.rows))
    print(f"  {'tensor':<{width}} {'max abs':>9} {'max rel':>9} {'noise':>9} {'times':>9}  verdict")
    for row in report.rows:
        figures = " ".join(f"{x:9.2g}" for x in (row.max_abs, row.max_rel, row.noise, row.times))
        print(f"  {row.name:<{width}} {figures}  {'ok' if row.passed else 'DIFFERS'}")
    print(f"\n  noise: what rounding to {report.precision} does; {WIDEN:g} times that may be another order of sums")
    if report.left:
        print(f"  {report.left} tensors behind it are not compared any more")
    for how in dict.fromkeys(matched.how for matched in report.matched):
        pairs = [f"{matched.source} is {matched.name}" for matched in report.matched if matched.how == how]
        more = f", and {len(pairs) - 8} more" if len(pairs) > 8 else ""
        print(f"  matched by {how}: {', '.join(pairs[:8])}{more}")
    for why in dict.fromkeys(report.not_compared.values()):
        names = [name for name, reason in report.not_compared.items() if reason == why]
        more = f" and {len(names) - 8} more" if len(names) > 8 else ""
        print(f"  not compared: {', '.join(names[:8])}{more}: {why}")
    for cause in report.causes:
        print(f"  likely cause: {cause}")
    for at, cause in report.behind:
        print(f"  and behind it, in {at}: {cause}")
    if report.pattern:
        print("  no known cause fits; the difference looks like this:")
    for line in report.pattern:
        print(f"    {line}")


def verify_published(args: argparse.Namespace) -> None:
    """numgpt verify --published: compare a checkpoint's answers with those published of the real models."""
    from numgpt.verify.published import check_published, published_name, read_published

    model = load_model(args)
    name = args.published_as or published_name(args.model, model.config)
    goldens = [golden for golden in read_published() if golden["model"] == name]
    results = []
    for result in check_published(model.params, model.config, goldens):
        results.append(result)
        if not args.json:
            verdict = {True: "pass", False: "FAIL", None: "not run"}[result.passed]
            print(f"{verdict:<8} {result.id:<20} {result.source}", flush=True)
            if result.note:
                print(f"{'':<8} {'':<20} {result.note}")
            if result.passed is False:
                print(f"{'':<8} expected {show(result.expected, model)}")
                print(f"{'':<8} got      {show(result.got, model)}")
    passed, failed = [sum(result.passed is verdict for result in results) for verdict in (True, False)]
    if args.json:
        print(json.dumps({"model": name, "results": [result._asdict() for result in results]}))
    else:
        print(f"\n{name}: {passed} passed, {failed} failed, {len(results) - passed - failed} not run")
    if failed:
        raise CheckpointError(f"{args.model}: {failed} of {len(results)} published outputs of {name} are not met")


def show(value: Any, model: Model) -> str:
    """Return a value of a published output as people read it: ids as their text."""
    if model.tokenizer and isinstance(value, list) and all(isinstance(i, int) for i in value):
        return repr(model.tokenizer.decode(value))
    return str(value)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Say what `numgpt verify` takes."""
    add = parser.add_argument
    add(
        "dump",
        nargs="?",
        help="its intermediates: .npz, .npy, .safetensors, a dict of tensors by torch.save; or a debug state of llm.c",
    )
    add("--ids", metavar="IDS", help="the ids of the dump, if it lacks them: numbers with commas between")
    add("--text", help="the same as a text; - reads standard input")
    add("--allow-special", action="store_true", help="read <|endoftext|> in the text as the token")
    add("-o", "--output", metavar="FILE.html", help="write a page too: the place, numbers side by side, the cause")
    add("--published", action="store_true", help="instead: compare the checkpoint's answers with those published of it")
    add("--as", dest="published_as", metavar="NAME", help="whose published answers (default: told from name or size)")
    add("--dtype", choices=["float32", "float64"], help="precision of --published (default: that of the checkpoint)")
    add_weights(parser)
    add_layers(parser)


COMMANDS = {
    "verify": Command(EXAMPLES, add_arguments, verify),
}
