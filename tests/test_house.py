"""The house: which file and room may import which, and what each may do. The order stands here, once."""

import ast
import io
import tokenize
from pathlib import Path

import pytest

import numgpt

ROOT = Path(numgpt.__file__).parent
# From the ground up. What stands in one line never imports one another; each imports only from the lines above it.
FLOORS = [
    ["errors"],
    ["checks"],
    ["config"],
    ["params"],
    ["ops"],
    ["tokenizer"],
    ["cache"],
    ["model"],
    ["sampling"],
    ["generation"],
    ["trace"],
    ["fast"],
    ["checkpoint"],
    ["hub"],
    ["decoding", "training"],
    ["measure", "verify"],
    ["pages"],
    ["serve"],
    ["apps"],
    ["cli"],
    ["__main__"],
]
FLOOR = {name: number for number, floor in enumerate(FLOORS) for name in floor}
ROOMS = sorted(path.parent.name for path in ROOT.glob("*/__init__.py"))
MODULES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts): ast.parse(path.read_text(encoding="utf-8"))
    for path in sorted(ROOT.rglob("*.py"))
    if path != ROOT / "__init__.py"
}
LEARNED = "config", "ops", "tokenizer", "cache", "model", "sampling", "generation"
TABLES = {"verify.causes"}  # may be as long as they need


def imports_of(module):
    """Return the modules of the package that a module imports, also inside its functions."""
    found = set()
    for node in ast.walk(MODULES[module]):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition("numgpt.")[2] for alias in node.names if alias.name.startswith("numgpt.")}
            found |= {"" for alias in node.names if alias.name == "numgpt"}
        elif isinstance(node, ast.ImportFrom) and node.module and node.module.partition(".")[0] == "numgpt":
            base = node.module.partition(".")[2]
            for alias in node.names:
                full = f"{base}.{alias.name}".strip(".")
                found.add(next(name for name in (full, f"{full}.__init__", base) if name in MODULES or name == base))
        assert not (isinstance(node, ast.ImportFrom) and node.level), f"{module}: a relative import"
    return {name.removesuffix(".__init__") for name in found}


IMPORTS = {module: imports_of(module) for module in MODULES}


def place(module):
    """Return the file of the path or the room that a module stands in."""
    return module.partition(".")[0]


def test_every_file_and_every_room_has_its_floor():
    assert {place(module) for module in MODULES} == set(FLOOR)


def test_imports_lead_downwards():
    wrong = {
        (module, imported)
        for module, found in IMPORTS.items()
        for imported in found - {""}
        if place(imported) != place(module) and FLOOR[place(imported)] >= FLOOR[place(module)]
    }
    assert not wrong


def test_only_the_command_line_asks_the_package_for_its_public_names():
    assert {place(module) for module, found in IMPORTS.items() if "" in found} <= {"cli", "__main__"}


def test_no_file_of_a_room_imports_itself_by_way_of_others():
    def reached(module, seen):
        for imported in IMPORTS.get(module, IMPORTS.get(f"{module}.__init__", ())):
            if imported not in seen:
                seen.add(imported)
                reached(imported, seen)
        return seen

    assert not [module for module in MODULES if module.removesuffix(".__init__") in reached(module, set())]


def called(node):
    """Return the name of what a node calls, as it is written, or nothing."""
    return ast.unparse(node.func) if isinstance(node, ast.Call) else ""


def test_only_the_command_line_prints_or_exits():
    forbidden = {"print", "input", "exit", "quit", "sys.exit", "os._exit", "os.abort", "SystemExit"}
    forbidden |= {"sys.stdout.write", "sys.stderr.write"}
    for module in MODULES:
        if place(module) not in ("cli", "__main__"):
            assert not forbidden & {called(node) for node in ast.walk(MODULES[module])}, module


def test_no_module_bears_the_name_of_a_public_function():
    public = {name for name in numgpt.__all__ if callable(getattr(numgpt, name))}
    assert not public & {part for module in MODULES for part in module.split(".")}


def test_no_file_is_longer_than_a_sitting():
    for module in MODULES:
        path = ROOT / (module.replace(".", "/") + ".py")
        assert len(path.read_text(encoding="utf-8").splitlines()) <= 480 or module in TABLES, module


def lines_of_code(path):
    """Return how many lines are neither blank nor comments nor docstrings."""
    source = path.read_text(encoding="utf-8")
    lines = set()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.string.strip() and token.type != tokenize.COMMENT:
            lines |= set(range(token.start[0], token.end[0] + 1))
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)) and ast.get_docstring(node) is not None:
            lines -= set(range(node.body[0].lineno, node.body[0].end_lineno + 1))
    return len(lines)


def test_what_a_learner_reads_is_short():
    assert sum(lines_of_code(ROOT / f"{name}.py") for name in LEARNED) <= 550


@pytest.mark.parametrize("room", ROOMS)
def test_each_room_says_what_it_is_for_and_names_its_files(room):
    text = (ROOT / room / "README.md").read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 60
    for path in (ROOT / room).glob("[a-z]*.py"):
        assert f"`{path.name}`" in text or f"({path.name})" in text, path.name


def test_the_front_page_is_short():
    assert len((ROOT.parent / "README.md").read_text(encoding="utf-8").splitlines()) <= 260
