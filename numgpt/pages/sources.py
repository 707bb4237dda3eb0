"""The lines of numgpt that compute what a page shows, taken from the code that runs."""

import ast
import inspect
from importlib import import_module
from typing import Any


def source_of(name: str) -> dict[str, Any]:
    """Return the code of a function without its docstring, and where it stands.

    name  where it stands below numgpt: "ops.softmax", "cache.KVCache.extend"
    Returns file, line (of the def) and code; code is "" where Python has no source.

    >>> print(source_of("ops.softmax")["code"])
    def softmax(x: np.ndarray) -> np.ndarray:
        e = np.exp(x - x.max(axis=-1, keepdims=True))
        return e / e.sum(axis=-1, keepdims=True)
    """
    module, _, path = name.partition(".")
    found: Any = import_module(f"numgpt.{module}")
    for part in path.split("."):
        found = getattr(found, part)
    file = f"numgpt/{module}.py"
    try:
        lines, line = inspect.getsourcelines(found)
    except OSError:
        return {"file": file, "line": 0, "code": ""}
    lines = inspect.cleandoc("\n" + "".join(lines)).splitlines(keepends=True)  # a method stands indented
    body = ast.parse("".join(lines)).body[0]
    assert isinstance(body, ast.FunctionDef)
    docstring = body.body[0]
    if ast.get_docstring(body) is not None and docstring.end_lineno is not None:
        del lines[docstring.lineno - 1 : docstring.end_lineno]
    return {"file": file, "line": line, "code": "".join(lines).rstrip()}
