"""Show what `numgpt bench` measured, and what to beware of in it."""

import os
from typing import Any

from numgpt.cli.progress import format_bytes

CACHE = 128_000_000  # bytes: few processors have a larger cache


def table(report: dict[str, Any]) -> str:
    """Lay out a report of `numgpt.measure.bench`, with the model's name and the notes, for people."""
    machine, blas = report["machine"], report["machine"]["blas"]
    library = " ".join(filter(None, (blas["name"], blas["version"]))) or "unknown"
    size = format_bytes(report["weight_bytes"])
    lines = [
        f"{report['model']}: {report['parameters']:,} parameters in {report['weights'] or report['dtype']}, {size}",
        f"{machine['cpu'] or 'unknown processor'}, CPUs: {machine['cpus']}",
        f"Python {machine['python']}, NumPy {machine['numpy']}, BLAS: {library}, "
        f"kernel: {blas['kernel'] or 'unknown'}, threads: {blas['threads'] or 'unknown'}",
        threads_line(blas["threads"], report.get("cpu_quota")),
        f"\n{'':<20}{'measured':>11} {'':<8} {'limit':>8} {'share':>6}",
    ]
    for name, row in report["figures"].items():
        value, limit = number(row["value"]) or "unknown", number(row["limit"])
        share = "" if row["share"] is None else f"{row['share']:.0%}"
        lines.append(f"{name:<20}{value:>11} {row['unit']:<8} {limit:>8} {share:>6}  {row['about']}")
    rounds = f"\nMedians of {report['rounds']} rounds."
    lines.append(f"{rounds} Memory bandwidth limits decode, the matrix product prefill, one of the two a batch.")
    return "\n".join(lines + [f"Note: {note}." for note in report["notes"]])


def threads_line(threads: int | None, quota: float | None) -> str:
    """Say how many threads multiply matrices, and how to change that.

    >>> threads_line(2, None), threads_line(1, 1.5)
    ('2 threads; OPENBLAS_NUM_THREADS sets them', '1 thread under a quota of 1.5 CPUs; OPENBLAS_NUM_THREADS sets them')
    """
    count = "an unknown number of threads" if threads is None else f"{threads} thread{'' if threads == 1 else 's'}"
    limit = "" if quota is None else f" under a quota of {quota:g} CPUs"
    return f"{count}{limit}; OPENBLAS_NUM_THREADS sets them"


def number(x: float | None) -> str:
    """Write a number in three digits, or whole where it has more.

    >>> number(0.012345), number(38.25), number(1234.5), number(None)
    ('0.0123', '38.2', '1,234', '')
    """
    return "" if x is None else f"{x:,.0f}" if x >= 100 else f"{x:.3g}"


def notes(weights: int, busy: float) -> list[str]:
    """List what to beware of in the figures.

    weights  bytes
    busy     the load average before the start
    """
    found = []
    if busy > (os.cpu_count() or 1):
        found.append(
            f"the load average was {busy:.1f} at the start: other work makes all of this slower, and shares lower"
        )
    if weights < CACHE:
        found.append(
            f"{format_bytes(weights)} of weights can stay in the processor's cache, which is faster than memory: "
            "decode and batch may exceed their limits"
        )
    if forced := os.environ.get("OPENBLAS_CORETYPE"):
        found.append(f"OPENBLAS_CORETYPE={forced} is set, which forces this kernel on OpenBLAS: unset it to compare")
    return found
