"""The README: what it shows is what happens."""

import doctest
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def shown_blocks():
    """Return the sh blocks that run numgpt, each a list of pairs: a command, and the output shown under it.

    Those that install something or train for a minute are not for each run of the tests.
    """
    blocks = []
    for block in re.findall(r"```sh\n(.*?)```", README, re.DOTALL):
        parts = re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]
        commands = [part.partition("\n")[::2] for part in parts if " install " not in part]
        if "numgpt train" not in block and any("numgpt" in command for command, _ in commands):
            blocks.append(pytest.param(commands, id=commands[0][0][:40]))
    return blocks


def without_timings(text):
    """The text with the numbers of its `numgpt:` lines replaced, since they are those of the machine."""
    return re.sub(r"^numgpt: .*", lambda line: re.sub(r"[\d.]+", "N", line.group()), text, flags=re.MULTILINE)


@pytest.mark.parametrize("commands", shown_blocks())
def test_commands_print_what_the_readme_shows(commands, tmp_path):
    for command, output in commands:
        line = command.replace(".venv/bin/numgpt", f"{shlex.quote(sys.executable)} -m numgpt")
        result = subprocess.run(
            line, shell=True, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=60, check=True,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )  # fmt: skip
        assert without_timings(result.stdout.decode()) == without_timings(output), command


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
