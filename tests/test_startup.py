"""What `import numgpt` and the start of the command line load, and what Ctrl-C does meanwhile."""

import ast
import pickle
import pydoc
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

import numgpt

ROOT = Path(numgpt.__file__).parent.parent


def python(code: str, *arguments: str) -> "subprocess.CompletedProcess[str]":
    """Run some code in a fresh Python that can import numgpt."""
    command = [sys.executable, "-W", "error", "-c", code, *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)


def loaded_by(code: str, *arguments: str) -> set[str]:
    """Return the modules that some code loads in a fresh Python, beyond those that Python itself does."""
    run = python(f"import sys; before = set(sys.modules)\n{code}\nprint(*set(sys.modules) - before)", *arguments)
    assert (run.returncode, run.stderr) == (0, "")
    return set(run.stdout.splitlines()[-1].split())


# --- the package


def test_a_bare_import_loads_nothing_else():
    assert loaded_by("import numgpt") == {"numgpt"}


def test_a_name_loads_its_module_when_it_is_asked_for():
    loaded = loaded_by("import numgpt; numgpt.TokenError")
    assert {name for name in loaded if name.startswith(("numgpt", "numpy"))} == {"numgpt", "numgpt.errors"}


def test_type_checkers_read_the_same_names_as_python():
    tree = ast.parse(Path(numgpt.__file__).with_suffix(".pyi").read_text(encoding="utf-8"))
    lines = [node for node in tree.body if isinstance(node, ast.ImportFrom)]
    read = {alias.asname: (line.module, alias.name) for line in lines for alias in line.names}
    assert {*read, "__version__"} == set(numgpt.__all__)
    for name, (module, original) in read.items():
        assert original == name  # as type checkers want it, or the name is private
        assert getattr(numgpt, name) is getattr(import_module(module), name)


def test_the_public_names_are_listed_once_and_sorted():
    assert numgpt.__all__ == sorted(set(numgpt.__all__))
    assert set(numgpt.__all__) <= set(dir(numgpt))


def test_a_star_import_brings_all_public_names():
    names = {}
    exec("from numgpt import *", names)
    assert set(numgpt.__all__) <= set(names)
    assert (names["load"].__module__, names["forward"].__module__) == ("numgpt.hub.loading", "numgpt.model")
    assert (names["fast"].__name__, names["__version__"]) == ("numgpt.fast", numgpt.__version__)


def test_help_shows_what_is_public():
    text = pydoc.plain(pydoc.render_doc(numgpt))
    for line in ("class KVCache(", "class Model(", "forward(ids:", "generate(ids:", "load(name_or_path:"):
        assert line in text


@pytest.mark.parametrize(
    "statement",
    [
        "from numgpt import fast, ops, trace",
        pytest.param("import numgpt", marks=pytest.mark.thorough),
        pytest.param("import numgpt.fast", marks=pytest.mark.thorough),
    ],
)
def test_the_modules_of_the_package_are_its_attributes(statement):
    code = "print(numgpt.fast.__name__, numgpt.ops.__name__, numgpt.trace.__name__)"
    run = python(f"{statement}\nimport numgpt\n{code}")
    assert run.stdout.split() == ["numgpt.fast", "numgpt.ops", "numgpt.trace"]


@pytest.mark.thorough
def test_each_module_can_be_imported_first():
    for path in sorted({*(ROOT / "numgpt").rglob("[a-z]*.py")} - {ROOT / "numgpt/measure/harness.py"}):  # an extra's
        run = python(f"import {'.'.join(path.relative_to(ROOT).with_suffix('').parts)}")
        assert (run.returncode, run.stderr) == (0, ""), path


@pytest.mark.parametrize("name", ["foward", "np", "__wrapped__", "_private"])
def test_what_is_not_there_is_an_attribute_error(name):
    with pytest.raises(AttributeError, match=f"^module 'numgpt' has no attribute '{name}'$"):
        getattr(numgpt, name)


def test_what_was_pickled_is_read_by_a_python_that_has_not_imported_numgpt():
    raw = pickle.dumps([numgpt.Config(n_vocab=7, n_ctx=6, n_embd=4, n_head=2, n_layer=1), numgpt.generate])
    run = python("import pickle, sys; print(pickle.loads(bytes.fromhex(sys.argv[1])))", raw.hex())
    assert run.stdout.startswith("[Config(n_vocab=7, n_ctx=6, n_embd=4, n_head=2, n_layer=1")
    assert "<function generate" in run.stdout


# --- the command line

RUN = """
from numgpt.__main__ import main
try:
    main()
except SystemExit:
    pass
"""


def test_tokenize_loads_no_network_no_threads_and_no_other_command():
    loaded = loaded_by(RUN, "tokenize", "Hello")
    assert not loaded & {"requests", "urllib3", "http.client", "ssl", "concurrent.futures", "numgpt.hub.download"}
    assert not loaded & {"numgpt.cli.benching", "numgpt.measure.bench"}


@pytest.mark.parametrize("argument", ["--version", "--help"])
def test_version_and_help_wait_for_no_numpy(argument):
    assert not loaded_by(RUN, argument) & {"numpy", "numgpt.hub", "numgpt.fast", "regex", "requests"}


INTERRUPTED = """
import signal, sys
from numgpt.__main__ import main

left = int(sys.argv.pop(1))

def interrupt(event, _):
    global left
    if event == "import":
        left -= 1
        if left == 0:
            signal.raise_signal(signal.SIGINT)

sys.addaudithook(interrupt)
sys.exit(main())
"""


@pytest.mark.parametrize(
    "imports", [1, 5, 21, 89, *(pytest.param(n, marks=pytest.mark.thorough) for n in (2, 3, 8, 13, 34, 55, 144))]
)
def test_ctrl_c_at_an_import_exits_130_without_a_word(imports):
    run = python(INTERRUPTED, str(imports), "tokenize", "Hello")
    assert (run.returncode, run.stdout, run.stderr.strip()) == (130, "", "")


def test_ctrl_c_stays_ignored_where_it_was():
    run = python(f"import signal; signal.signal(signal.SIGINT, signal.SIG_IGN)\n{INTERRUPTED}", "21", "tokenize", "Hi")
    assert (run.returncode, run.stderr) == (0, "")
    assert run.stdout.split() == ["39", "'H'", "72", "'i'"]
