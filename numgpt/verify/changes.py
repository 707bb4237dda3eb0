"""The change of our code that makes a mistake: the line that records a tensor, and what stands in its place."""

import ast
import inspect
import re
import textwrap
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from numgpt import model
from numgpt.verify.passes import Cause


class Change(NamedTuple):
    """What a mistake changes about one tensor."""

    tensor: str  # without "h.N."; "" for a change of parameters or of the text
    ours: str  # the line of model.py that makes it
    theirs: str  # what would make the other's numbers
    code: str  # the functions that it calls; "" for none


def changes_of(cause: Cause) -> list[Change]:
    """Return what a mistake changes, tensor by tensor.

    >>> cause = Cause("", {"attn.weights": lambda s: s.value})
    >>> changes_of(cause)[0].ours
    'weights = record("attn.weights", softmax(scores))'
    """
    found = []
    if cause.before:
        found.append(
            Change("", "forward(ids, params, config)", f"forward([{repr(cause.before)[1:-1]}, *ids], ...)", "")
        )
    if cause.patch:
        call, code = call_of(cause.patch, "params")
        found.append(Change("", "forward(ids, params, config)", f"forward(ids, {call}, config)", code))
    for name, edit in {**cause.edits, **cause.shown}.items():
        target, _, expression = (ours := line_of(name)).partition(f'record("{name}", ')
        call, code = call_of(edit, "site")
        if not code:  # a lambda, in the words of model.py
            call = re.sub(r'\bs\.seen\["([\w.]+)"\]', lambda found: variable_of(found[1]), call)
            call = call.replace("s.value", expression[:-1]).replace("s.x", "x")
        found.append(Change(name, ours, f'{target}record("{name}", {call})', code))
    return found


def variable_of(name: str) -> str:
    """Return what model.py calls a tensor: the variable that it is assigned to.

    >>> variable_of("attn.q"), variable_of("ln_2")
    ('q', 'normed')
    """
    target, equals, _ = line_of(name).partition(" = ")
    return target if equals else name


def line_of(name: str) -> str:
    """Return the line of model.py that records a tensor, of whatever layer: "" where there is none.

    >>> line_of("resid_mid")
    'x = record("resid_mid", x + attn_out)'
    """
    source = inspect.getsource(model)
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, (ast.Assign, ast.Return)) and isinstance(node.value, ast.Call):
            call = node.value
            is_record = isinstance(call.func, ast.Name) and call.func.id == "record"
            if is_record and isinstance(call.args[0], ast.Constant) and call.args[0].value == name:
                return " ".join((ast.get_source_segment(source, node) or "").split())
    return ""


def call_of(function: Callable[..., Any], argument: str) -> tuple[str, str]:
    """Return how a function is called with one argument, and its source; of a lambda, what it computes.

    >>> call_of(partial(np.clip, a_min=0), "x")[0]
    'clip(x, a_min=0)'
    """
    if isinstance(function, partial):
        inner, code = function.func, ""
        given = "".join(f", {name}={shown(value)}" for name, value in function.keywords.items())
        while isinstance(inner, partial):
            given = "".join(f", {name}={shown(value)}" for name, value in inner.keywords.items()) + given
            inner = inner.func
        return f"{inner.__name__}({argument}{given})", source_of(inner) or code
    if function.__name__ == "<lambda>":
        return body_of(function), ""
    return f"{function.__name__}({argument})", source_of(function)


def shown(value: Any) -> str:
    """Return an argument in a few words: an array by its shape, a function by its name."""
    if isinstance(value, np.ndarray):
        return f"<array {value.shape}>" if value.size > 12 else str(value.tolist())
    if isinstance(value, partial):
        return "partial(" + call_of(value, value.func.__name__)[0].partition("(")[2]
    if callable(value):
        name = getattr(value, "__name__", "")
        return body_of(value) if name == "<lambda>" else name or "..."
    return f"{value:.6g}" if isinstance(value, float) else repr(value)


def source_of(function: Callable[..., Any]) -> str:
    """Return the source of a function; "" where there is none, as of what is compiled."""
    try:
        return textwrap.dedent(inspect.getsource(function)).rstrip()
    except (OSError, TypeError):
        return ""


def body_of(function: Callable[..., Any]) -> str:
    """Return what a lambda computes, as it stands in its file; "..." where that can't be told."""
    try:
        source = "".join(inspect.findsource(function)[0])
    except OSError:
        return "..."
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Lambda) and node.lineno == function.__code__.co_firstlineno:
            segment = ast.get_source_segment(source, node.body) or "..."
            lone = compile(ast.Expression(node), "", "eval").co_consts[0]
            if lone.co_code == function.__code__.co_code and lone.co_names == function.__code__.co_names:
                return " ".join(segment.split())
    return "..."
