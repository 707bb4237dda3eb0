"""The README: what it shows is what happens."""

import doctest
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def shown_commands():
    """Return each numgpt command of the sh blocks with the output shown under it."""
    commands = []
    for block in re.findall(r"```sh\n(.*?)```", README, re.DOTALL):
        for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
            command, _, output = part.partition("\n")
            if command.startswith(".venv/bin/numgpt "):
                commands.append(pytest.param(shlex.split(command)[1:], output, id=command))
    return commands


def without_timings(text):
    """The text with the numbers of its `numgpt:` lines replaced, since they are those of the machine."""
    return re.sub(r"^numgpt: .*", lambda line: re.sub(r"[\d.]+", "N", line.group()), text, flags=re.MULTILINE)


@pytest.mark.parametrize(("arguments", "output"), shown_commands())
def test_a_command_prints_what_the_readme_shows(arguments, output):
    command = [sys.executable, "-m", "numgpt", *arguments]
    result = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=60, check=True)
    assert without_timings(result.stdout.decode()) == without_timings(output)


def test_the_python_samples_print_what_the_readme_shows():
    blocks = "\n".join(re.findall(r"```python\n(.*?)```", README, re.DOTALL))
    samples = doctest.DocTestParser().get_doctest(blocks, {}, "README.md", None, 0)
    assert doctest.DocTestRunner().run(samples).failed == 0


def test_links_lead_to_files_and_to_the_line_they_name():
    for target in re.findall(r"\]\((?!https?:)([^)#]+)", README):
        assert (ROOT / target).exists(), target
    line = int(re.search(r"numgpt/model\.py#L(\d+)", README).group(1))
    assert (ROOT / "numgpt/model.py").read_text(encoding="utf-8").splitlines()[line - 1].startswith("def attend(")


def test_the_reading_order_is_complete():
    """Each module that a reader meets is in the table."""
    for path in (ROOT / "numgpt").glob("[a-z]*.py"):
        if path.stem not in ("errors",):
            assert f"(numgpt/{path.name})" in README, path.name
