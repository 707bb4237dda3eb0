"""The pictures of the lesson are what the page's code makes today, to the letter: numbers have three decimal digits."""

import re

import pytest
from support.browser import Browser
from support.pictures import FOLDER, LESSON, make_pictures, picture_of_the_page, wanted_pictures


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    browser = Browser(tmp_path_factory.mktemp("pictures"))
    yield browser
    browser.close()


def test_each_picture_is_what_the_page_draws(browser):
    made = make_pictures(browser)
    stored = {path.name: path.read_text(encoding="utf-8") for path in FOLDER.glob("*.svg")}
    assert set(stored) == set(made)
    assert [name for name in made if made[name] != stored[name]] == []


def test_the_picture_of_the_page_is_of_its_size(browser):
    stored, made = (FOLDER / "page.png").read_bytes(), picture_of_the_page(browser)
    assert stored[16:24] == made[16:24]  # width and height: letters are drawn otherwise by each version of a browser
    assert len(stored) < 150_000


def test_each_comment_stands_above_its_picture():
    text = LESSON.read_text(encoding="utf-8")
    shown = re.findall(r"<!-- picture: (\w+).*? -->\n!\[[^\]]+\]\(pages/pictures/(\w+)\.svg\)", text)
    assert [name for name, _ in shown] == [file for _, file in shown] == list(wanted_pictures())
