"""The READMEs, that of the front and those of the rooms: what they show is what happens."""

import doctest
import os
import re
import shlex
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FILES = [ROOT / "README.md", *sorted(ROOT.glob("numgpt/**/*.md")), ROOT / "tests/reference/README.md"]
PAGES = {str(path.relative_to(ROOT)): path for path in FILES}
FRONT = (ROOT / "README.md").read_text(encoding="utf-8")
LESSON = (ROOT / "numgpt/README.md").read_text(encoding="utf-8")


def shown_blocks():
    """Return the sh blocks that run numgpt, each a list of pairs: a command, and the output shown under it.

    Those that install something or train for a minute are not for each run of the tests.
    """
    blocks = []
    for page, path in PAGES.items():
        for block in re.findall(r"```sh\n(.*?)```", path.read_text(encoding="utf-8"), re.DOTALL):
            parts = re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]
            commands = [part.partition("\n")[::2] for part in parts if " install " not in part]
            if "numgpt train" not in block and any("numgpt" in command for command, _ in commands):
                marks = [] if page == "README.md" else [pytest.mark.thorough]
                blocks.append(pytest.param(commands, id=f"{page}: {commands[0][0][:40]}", marks=marks))
    return blocks


def without_timings(text):
    """The text with the numbers of its `numgpt:` lines replaced, since they are those of the machine."""
    return re.sub(r"^numgpt: .*", lambda line: re.sub(r"[\d.]+", "N", line.group()), text, flags=re.MULTILINE)


@pytest.mark.parametrize("commands", shown_blocks())
def test_commands_print_what_is_shown(commands, tmp_path):
    for command, output in commands:
        line = command.replace(".venv/bin/numgpt", f"{shlex.quote(sys.executable)} -m numgpt")
        result = subprocess.run(
            line, shell=True, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=60, check=True,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )  # fmt: skip
        assert without_timings(result.stdout.decode()) == without_timings(output), command


@pytest.mark.parametrize("page", PAGES)
def test_python_samples_print_what_is_shown(page, monkeypatch):
    monkeypatch.chdir(ROOT)
    blocks = "\n".join(re.findall(r"```python\n(.*?)```", PAGES[page].read_text(encoding="utf-8"), re.DOTALL))
    samples = doctest.DocTestParser().get_doctest(blocks, {}, page, None, 0)
    assert doctest.DocTestRunner().run(samples).failed == 0


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_to_files_and_to_headings(page):
    text = PAGES[page].read_text(encoding="utf-8")
    for target in re.findall(r'\]\(([^)\s]+)\)|href="([^"]+)"', text):
        path, _, part = "".join(target).partition("#")
        if path.startswith(("http:", "https:")):
            continue
        there = (PAGES[page].parent / path).resolve() if path else PAGES[page]
        assert there.exists(), target
        if part and there.suffix == ".md":
            headings = re.findall(r"^#+ (.*)", there.read_text(encoding="utf-8"), re.MULTILINE)
            anchors = {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
            assert part in anchors, target


LINKS = r'(?:\[`?(?P<name>\w+)`?\]\(|<a href=")(?P<path>[\w/.]+\.py)#L(?P<line>\d+)(?:\)|">(?P<text>\w+)</a>)'


@pytest.mark.parametrize("page", ["README.md", "numgpt/README.md"])
def test_links_to_a_line_lead_to_the_definition_of_what_they_are_called(page):
    text = PAGES[page].read_text(encoding="utf-8")
    links = list(re.finditer(LINKS, text))
    assert len(links) == len(re.findall(r"\.py#L", text)) >= 10
    for link in links:
        line = (PAGES[page].parent / link["path"]).read_text(encoding="utf-8").splitlines()[int(link["line"]) - 1]
        name = link["name"] or link["text"]
        assert re.match(rf"\s*(def|class) {name}\b", line), (link.group(), line)


def test_each_fraction_in_the_prose_of_the_lesson_is_one_that_its_samples_print():
    blocks = re.findall(r"```python\n(.*?)```", LESSON, re.DOTALL)
    wanted = [example.want for block in blocks for example in doctest.DocTestParser().get_examples(block)]
    printed = set(re.findall(r"\d+\.\d+", "".join(wanted)))
    prose = re.sub(r"```.*?```|<!--.*?-->|`[^`]*`|\]\([^)]*\)", " ", LESSON, flags=re.DOTALL)
    told = re.findall(r"\d+\.\d+", prose)
    assert len(told) >= 5
    assert not [number for number in told if number not in printed]


def test_each_step_of_the_lesson_ends_with_a_short_thing_to_try():
    steps = re.split(r"^## (?=\d+\. )", LESSON.partition("\n## Where to go on")[0], flags=re.MULTILINE)[1:]
    assert len(steps) == 12
    for step in steps:
        ending = re.search(r"\n\n\*\*Try:\*\* ((?:.+\n)+)\n```python\n((?:.+\n)+)```\s*$", step)
        assert ending, step.partition("\n")[0]
        assert len(re.findall(r"[.?](?=\s)", ending[1])) <= 3, ending[1]
        assert len(re.findall(r"^(?:>>>|\.\.\.) ", ending[2], re.MULTILINE)) <= 5, ending[2]
        assert doctest.DocTestParser().get_examples(ending[2])[-1].want, ending[2]


def test_each_file_of_the_way_and_each_room_is_on_the_front_page():
    for path in (ROOT / "numgpt").glob("[a-z]*.py"):
        assert f"(numgpt/{path.name})" in FRONT, path.name
    for path in (ROOT / "numgpt").glob("*/README.md"):
        assert f"(numgpt/{path.parent.name}/README.md)" in FRONT, path.parent.name


def test_each_command_is_on_the_front_page():
    shown = subprocess.run(
        [sys.executable, "-m", "numgpt", "--help"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    commands = re.findall(r"^ {4}(\w+) {2,}", shown, re.MULTILINE)
    assert len(commands) >= 14
    for command in commands:
        assert re.search(rf"^\|.*`numgpt {command}\b", FRONT, re.MULTILINE), command


SVG = "{http://www.w3.org/2000/svg}"


def test_each_step_of_the_lesson_has_a_picture_that_is_told_in_words():
    for step in re.split(r"(?m)^## (?=\d)", LESSON)[1:]:
        step = step.split("\n## ")[0]
        pictures = re.findall(r"^!\[([^\]]*)\]\((pages/pictures/\w+\.svg)\)\n\n\*[^*]+\*$", step, re.MULTILINE)
        assert len(pictures) == 1, step.splitlines()[0]
        assert len(pictures[0][0]) > 80


def test_the_pictures_are_drawings_alone_and_each_is_shown():
    files = sorted((ROOT / "numgpt/pages/pictures").iterdir())
    drawings = [path for path in files if path.suffix == ".svg"]
    assert all(path.stat().st_size < 30_000 for path in drawings)
    assert sum(path.stat().st_size for path in drawings) < 200_000
    for path in files:
        assert path.name in LESSON + FRONT
        if path in drawings:
            tree = ElementTree.parse(path)
            kinds = {element.tag.removeprefix(SVG) for element in tree.iter()}
            assert kinds <= {"svg", "g", "path", "rect", "text", "tspan"}, path.name
            values = [value for element in tree.iter() for value in element.attrib.values()]
            assert not [value for value in values if "url(" in value or "://" in value]
            assert not [name for element in tree.iter() for name in element.attrib if re.search("href$|^on", name)]
