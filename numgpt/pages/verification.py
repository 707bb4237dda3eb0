"""A page of what `verify` found: the way through the model with the place where another implementation parts from it.

It is still: no script. Its style is that of the page that explains a text, and its content security policy allows that.
"""

import html
import math
from collections.abc import Iterable

import numpy as np

from numgpt.config import Config
from numgpt.pages.explanation import file_of_the_page, hash_of
from numgpt.trace import layer_and_base, trace_shapes
from numgpt.verify.changes import Change
from numgpt.verify.noise import WIDEN
from numgpt.verify.report import Difference, Report, Row

SHOWN = 12  # of the largest differences
CELLS = 48  # of a picture, along each side, at most


def page_of(report: Report, config: Config, name: str, dump: str) -> str:
    """Return a page, HTML, that shows a report.

    report      of `numgpt.verify.report.compare`
    config      of the model
    name, dump  what the page calls the model, and the other implementation

    >>> import numgpt
    >>> from numgpt.trace import collect
    >>> from numgpt.verify.dump import Dump
    >>> from numgpt.verify.report import compare
    >>> model = numgpt.load("storyteller")
    >>> report = compare(Dump(collect([46, 1198], model, "logits"), {}), model, [46, 1198])
    >>> "No tensor differs" in page_of(report, model.config, "storyteller", "dump.npz")
    True
    """
    style = file_of_the_page("page.css")
    title = f"{dump} beside {name}"
    parts = [
        f"<h1>{escaped(title)}</h1>",
        f'<p id="verdict">{verdict(report)}</p>',
        section("The way through the model", way(report, config)),
    ]
    if report.difference:
        parts.append(section(f"Their numbers beside ours: {report.difference.name}", numbers(report.difference)))
    if report.causes or report.pattern:
        parts.append(section("The cause", cause_of(report)))
    if report.changes:
        parts.append(section("The change of our code", change_of(report.changes)))
    policy = f"default-src 'none'; style-src {hash_of(style)}; base-uri 'none'; form-action 'none'"
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{escaped(title)} · numgpt</title>
<style>{style}</style>
</head>
<body>
<main>
{"".join(parts)}
</main>
<footer><p>Made by numgpt verify. Noise: what rounding to {report.precision} does to a tensor; up to {WIDEN:g} times
that may be another order of sums.</p></footer>
</body>
</html>
"""


def escaped(text: str) -> str:
    return html.escape(text)


def section(title: str, content: str) -> str:
    return f"<section><h2>{escaped(title)}</h2>\n{content}</section>\n"


def verdict(report: Report) -> str:
    """Say in a sentence what came out."""
    last = report.rows[-1]
    if report.passed:
        return f"No tensor differs: {len(report.rows)} were compared, {last.name} being the last."
    said = f"<strong>{escaped(last.name)} differs</strong>, {last.times:.3g} times the noise"
    return f"{said}: {escaped(report.causes[0])}." if report.causes else f"{said}. No known cause fits."


# ---- the way


def way(report: Report, config: Config) -> str:
    """Show all tensors of the model in order: those that agree, the one that differs, those that were not compared."""
    rows = {row.name: row for row in report.rows}
    lines: dict[int | None, list[str]] = {}
    for name in trace_shapes(config, 1):
        lines.setdefault(layer_and_base(name)[0], []).append(name)
    ends = {"embed": ["embed"], **{f"layer {i}": names for i, names in lines.items() if i is not None}}
    ends["output"] = ["ln_f", "logits"]
    picture = "".join(
        f"<tr><th scope='row'>{label}</th><td>{' '.join(mark(name, rows) for name in names)}</td></tr>"
        for label, names in ends.items()
        if any(name in rows for name in names) or label in ("embed", "output")
    )
    key = "✓ agrees, ✗ differs, · is not in the dump, or comes behind the first that differs"
    table = "".join(map(row_of_table, report.rows))
    head = head_of("tensor", "largest difference", "noise", "times the noise")
    return f"""<p class="note">{key}{left(report)}</p>
{scrolled("The way through the model", f"<table><tbody>{picture}</tbody></table>")}
<h3>In numbers</h3>
{scrolled("The tensors that were compared", f"<table><thead>{head}</thead><tbody>{table}</tbody></table>")}
"""


def scrolled(label: str, content: str) -> str:
    """Put what may be large into a region that scrolls, also by the keyboard."""
    return f'<div class="scroll" tabindex="0" role="region" aria-label="{escaped(label)}">{content}</div>'


def head_of(*words: str) -> str:
    return "<tr>" + "".join(f'<th scope="col">{word}</th>' for word in words) + "</tr>"


def mark(name: str, rows: dict[str, Row]) -> str:
    """Return the short name of a tensor with its mark."""
    short = escaped(layer_and_base(name)[1])
    if name not in rows:
        return f'<span class="note">·&nbsp;{short}</span>'
    return f"✓&nbsp;{short}" if rows[name].passed else f"<strong>✗&nbsp;{short}</strong>"


def left(report: Report) -> str:
    return f"; {report.left} of the dump behind it are not compared any more" if report.left else ""


def row_of_table(row: Row) -> str:
    """Return a row of the table of tensors, with a bar for how many times the noise it is: of its logarithm."""
    share = 0.0 if not row.times > 0 else min(1.0, max(0.0, (math.log10(min(row.times, 1e8)) + 1) / 9))
    kind = "more" if row.passed else "less"
    rect = f'<rect class="{kind}" width="{90 * share:.1f}" height="8"/>'
    bar = f'<svg viewBox="0 0 90 8" width="90" height="8" aria-hidden="true">{rect}</svg>'
    figures = "".join(f'<td class="number">{x:.2g}</td>' for x in (row.max_abs, row.noise))
    return f'<tr><th scope="row">{escaped(row.name)}</th>{figures}<td>{row.times:.2g} {bar}</td></tr>'


# ---- the numbers


def numbers(difference: Difference) -> str:
    """Show the largest differences, number by number, and where they lie."""
    theirs, ours = difference.theirs, difference.ours
    with np.errstate(invalid="ignore"):
        apart = np.where(theirs == ours, 0.0, np.nan_to_num(abs(theirs - ours), nan=np.inf, posinf=np.inf))
    largest = np.argsort(-apart, axis=None, kind="stable")[:SHOWN]
    lines = []
    for at in zip(*np.unravel_index(largest, apart.shape), strict=True):
        place = ", ".join(str(int(i)) for i in at)
        cells = "".join(f'<td class="number">{x:.7g}</td>' for x in (theirs[at], ours[at], theirs[at] - ours[at]))
        lines.append(f'<tr><th scope="row">[{place}]</th>{cells}</tr>')
    head = head_of("place", "theirs", "ours", "difference")
    table = f"<table><thead>{head}</thead><tbody>{''.join(lines)}</tbody></table>"
    about = f"The {len(lines)} largest differences, of {apart.size:,} numbers of shape {list(apart.shape)}"
    return f"""<p class="note">{about}</p>
<div class="columns">{scrolled("The largest differences", table)}
{picture_of(apart)}</div>
"""


def picture_of(apart: np.ndarray) -> str:
    """Draw how far two tensors are apart: positions downwards, all else side by side; the darker, the more."""
    matrix = np.moveaxis(apart, 0, 1) if apart.ndim == 3 else apart  # [T, H, ..] or [T, C]
    matrix = matrix.reshape(len(matrix), -1)
    finite = np.where(np.isfinite(matrix), matrix, matrix[np.isfinite(matrix)].max(initial=1.0))
    cells = binned(binned(finite, 0), 1)
    cells = cells / (cells.max() or 1.0)
    rows, columns = cells.shape
    rects = "".join(
        f'<rect class="ink" x="{j}" y="{i}" width="1" height="1" fill-opacity="{cells[i, j]:.2f}"/>'
        for i in range(rows)
        for j in range(columns)
        if cells[i, j] >= 0.005
    )
    what = f"Where they lie: {len(matrix)} positions downwards, {matrix.shape[1]} numbers of each to the right"
    box = f'viewBox="0 0 {columns} {rows}" preserveAspectRatio="none" height="260"'
    return f"""<figure><svg {box} role="img" aria-label="{what}">{rects}</svg>
<figcaption>{what}; the darker, the larger.</figcaption></figure>"""


def binned(x: np.ndarray, axis: int) -> np.ndarray:
    """Bring an axis to CELLS places at most, each with the largest of what falls there.

    >>> binned(np.arange(100.0)[None], 1).shape
    (1, 48)
    """
    n = x.shape[axis]
    starts = np.unique(np.arange(min(n, CELLS)) * n // min(n, CELLS))
    return np.maximum.reduceat(x, starts, axis=axis)


# ---- the cause


def cause_of(report: Report) -> str:
    """Say what explains the difference, or what it looks like."""
    intro = "" if report.causes else "<p>No known cause fits. The difference looks like this:</p>"
    behind = [f"in {at}: {cause}" for at, cause in report.behind]
    more = f"<p>And behind it, with the first taken as given:</p><ol>{listed(behind)}</ol>" if behind else ""
    return f"{intro}<ol>{listed(report.causes or report.pattern)}</ol>{more}\n"


def listed(lines: Iterable[str]) -> str:
    return "".join(f"<li>{escaped(line)}</li>" for line in lines)


def change_of(changes: Iterable[Change]) -> str:
    """Show as a diff what makes our forward pass come to the same numbers."""
    lines, sources = [], dict.fromkeys(change.code for change in changes if change.code)
    for change in changes:
        lines += [f"- {change.ours}", f"+ {change.theirs}"]
    diff = "\n".join(dict.fromkeys(lines))
    functions = "".join(f"<pre>{escaped(source)}</pre>" for source in sources)
    where = (
        "<p>Where site is the place in the pass: its value, what was seen before it, its parameters.</p>"
        if functions
        else ""
    )
    return f"<p>With it our pass makes the other's numbers:</p><pre>{escaped(diff)}</pre>{where}{functions}\n"
