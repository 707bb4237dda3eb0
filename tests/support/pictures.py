"""Make the pictures of the lesson, numgpt/README.md: those of the page about its text, saved as the page saves them.

    python tests/support/pictures.py

writes them anew. What each shows stands in a comment above it in the lesson:

    <!-- picture: learned of=head token=13 layer=5 head=2 -->

is the picture `head` of the page, once token 13, layer 5 and head 2 are chosen, as learned.svg. Beside them goes a
picture of the page itself, for the README at the front.
"""

import base64
import re
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from support.browser import Browser  # noqa: E402

import numgpt  # noqa: E402

LESSON = ROOT / "numgpt" / "README.md"
FOLDER = ROOT / "numgpt" / "pages" / "pictures"
TEXT = "Once a frog met a princess. Then the f"

CHOOSE = """
const wanted = arguments[0], numbers = {};
for (const key of ["token", "layer", "head"]) if (key in wanted) numbers[key] = Number(wanted[key]);
if ("station" in wanted) numbers.station = wanted.station;
if ("seed" in wanted) {
  document.getElementById("seed").value = wanted.seed;
  document.getElementById("seed").dispatchEvent(new Event("input", { bubbles: true }));
}
choose(numbers);
return pictureAsSvg(wanted.of);
"""


def wanted_pictures():
    """Return what the lesson wants: the name of each picture -> what is to be chosen on the page."""
    found = {}
    for words in re.findall(r"<!-- picture: (.*?) -->", LESSON.read_text(encoding="utf-8")):
        name, *settings = words.split()
        found[name] = {"of": name, **dict(setting.split("=") for setting in settings)}
    return found


def make_pictures(browser):
    """Return the text of each SVG by the name of its file."""
    browser.open(numgpt.explain(numgpt.load("storyteller"), TEXT, "storyteller").html)
    return {f"{name}.svg": browser.run(CHOOSE, wanted) + "\n" for name, wanted in wanted_pictures().items()}


def picture_of_the_page(browser):
    """Return a PNG of the part of the page that shows attention."""
    browser.open(numgpt.explain(numgpt.load("storyteller"), TEXT, "storyteller").html, width=1100)
    top, bottom = browser.run(
        """const [first, last] = ["attention", "lens"].map((id) => document.getElementById(id).getBoundingClientRect());
        return [first.top + scrollY, last.top + scrollY];"""
    )
    clip = {"x": 0, "y": top, "width": 1100, "height": bottom - top, "scale": 0.6}
    shot = browser.cdp("Page.captureScreenshot", format="png", captureBeyondViewport=True, clip=clip)
    return base64.b64decode(shot["data"])


if __name__ == "__main__":
    with TemporaryDirectory() as folder:
        browser = Browser(Path(folder))
        FOLDER.mkdir(exist_ok=True)
        for old in FOLDER.iterdir():
            old.unlink()
        for name, text in make_pictures(browser).items():
            (FOLDER / name).write_text(text, encoding="utf-8")
        (FOLDER / "page.png").write_bytes(picture_of_the_page(browser))
        browser.close()
