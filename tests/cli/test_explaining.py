"""`numgpt explain`: the page that it writes, what it tells, and that nothing is lost where it fails."""

import json
import os
import sys
from functools import cache

import pytest
from support.checkpoints import TOKENS, hub_tensors
from support.cli import call, fails, pipe_in, tiny

import numgpt
from numgpt.cli import main as cli

TEXT = "Once upon a time"


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    """Commands run in a folder of their own."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def page_of(babbler):
    """What makes the page of a text by the babbler, once."""

    @cache
    def html(text=TEXT, model=babbler, dtype=None):
        return numgpt.explain(numgpt.load(model, dtype), text, model).html

    return html


@pytest.fixture
def explain(capsys, babbler):
    """Run the command with the babbler."""
    return lambda *arguments: call(capsys, "explain", *arguments, "-m", babbler)


def test_without_a_name_the_page_is_explain_html(explain, here, page_of):
    code, out, err = explain(TEXT)
    assert (code, out) == (0, "explain.html\n")
    assert [path.name for path in here.iterdir()] == ["explain.html"]
    html = (here / "explain.html").read_bytes()
    assert html == page_of().encode()
    assert err == f"numgpt: 5 tokens, {len(html) / 1e6:.1f} MB: open it in a browser; it needs no network\n"
    assert explain("a")[2].startswith("numgpt: 1 token, ")
    assert explain(TEXT, "-q") == (0, "explain.html\n", "")


def test_the_page_may_have_a_name_and_takes_the_place_of_an_old_one(explain, here, page_of):
    (here / "a").mkdir()
    (here / "a" / "page.html").write_text("old")
    assert explain(TEXT, "-o", "a/page.html")[:2] == (0, "a/page.html\n")
    assert (here / "a" / "page.html").read_bytes() == page_of().encode()
    assert [path.name for path in (here / "a").iterdir()] == ["page.html"]


def test_a_home_folder_is_found_in_the_name(explain, here, monkeypatch):
    monkeypatch.setenv("HOME", str(here))
    monkeypatch.setenv("USERPROFILE", str(here))
    assert explain(TEXT, "--output=~/x.html")[0] == 0
    assert (here / "x.html").exists()


def test_with_a_dash_the_page_is_all_that_is_printed(explain, here, page_of):
    assert explain(TEXT, "-o", "-") == (0, page_of(), "")
    assert list(here.iterdir()) == []


def test_json_tells_about_the_file(explain, here, babbler):
    code, out, err = explain(TEXT, "-o", "x.html", "--json")
    ids = numgpt.load_tokenizer("storyteller").encode(TEXT)
    size = (here / "x.html").stat().st_size
    assert (code, err) == (0, "")
    assert json.loads(out) == {"model": babbler, "output": "x.html", "ids": ids, "bytes": size}
    assert out.count("\n") == 1


def test_ids_stand_for_a_text_and_need_no_tokenizer(explain, capsys, here, page_of):
    ids = numgpt.load_tokenizer("storyteller").encode(TEXT)
    assert explain("--ids", ",".join(map(str, ids)), "-o", "-")[1] == page_of()
    model = tiny(here / "m", tokenizer=False, tensors=hub_tensors(TOKENS))
    assert call(capsys, "explain", "--ids", "3,1,257", "-m", model, "-o", "-")[1] == page_of((3, 1, 257), model)
    assert f"{model} has no tokenizer" in fails(capsys, "explain", "hi", "-m", model)


def test_a_text_may_be_piped_in(explain, here, page_of, monkeypatch):
    pipe_in(monkeypatch, b"\xef\xbb\xbfOnce upon\r\na time")
    assert explain("-", "-o", "-")[1] == page_of("Once upon\na time")
    (here / "story.txt").write_text(TEXT)
    with open(here / "story.txt") as story:
        monkeypatch.setattr(sys, "stdin", story)
        assert explain("-o", "-")[1] == page_of()


def test_options_of_the_model_and_of_the_text_count(explain, page_of):
    assert explain(TEXT, "--dtype", "float64", "-o", "-")[1] == page_of(dtype="float64")
    assert json.loads(explain("a<|endoftext|>", "--allow-special", "--json")[1])["ids"] == [64, 4095]
    assert len(json.loads(explain("a<|endoftext|>", "--json")[1])["ids"]) > 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([""], "ids: empty"),
        (["king " * 513], "1026 tokens, but the context of this model is 512: shorten the text"),
        (["--ids", "64,4096"], "ids[1] is 4096, expected 0 to 4095"),
        (["--ids", "-1"], "ids[0] is -1, expected 0 to 4095"),
        (["--ids", "1,two"], "--ids is '1,two', expected numbers with commas between"),
        (["--ids", ""], "--ids is '', expected numbers with commas between"),
        (["a", "--set", "n_head=3"], "n_head"),
        (["a", "--tokenizer", "./nowhere"], "nowhere"),
        (["a", "-o", "nowhere/x.html"], "nowhere/x.html: can't be written: No such file or directory"),
        (["a", "-o", "explain.html/x.html"], "explain.html/x.html: can't be written: Not a directory"),
        (["a", "-o", "folder"], "folder: can't be written: Is a directory"),
        (["a", "-o", "."], ".: can't be written: Is a directory"),
        (["a", "-o", "/"], "/: can't be written: Is a directory"),
        (["a", "-o", ""], ".: can't be written: Is a directory"),
        (["a", "-o", "x" * 300], "can't be written: File name too long"),
    ],
)
def test_what_is_wrong_is_told_in_one_line_and_a_page_that_is_there_stays(capsys, here, babbler, arguments, message):
    (here / "explain.html").write_text("old")
    (here / "folder").mkdir()
    assert message in fails(capsys, "explain", "-m", babbler, *arguments)
    assert (here / "explain.html").read_text() == "old"
    assert sorted(path.name for path in here.rglob("*")) == ["explain.html", "folder"]


def test_a_model_that_is_not_there_fails_as_elsewhere(capsys):
    assert fails(capsys, "explain", "a", "-m", "./nowhere").startswith("numgpt: error: no checkpoint './nowhere'")


def test_standard_input_that_is_no_text_is_refused(capsys, monkeypatch, babbler):
    for raw, message in [(b"", "ids: empty"), (b"a\xff", "standard input: byte 0xff at 1 is not UTF-8")]:
        pipe_in(monkeypatch, raw)
        assert message in fails(capsys, "explain", "-", "-m", babbler)


def test_weights_that_are_damaged_leave_no_page(capsys, here):
    tensors = hub_tensors(TOKENS)
    tensors["h.1.mlp.c_fc.weight"][0, 0] = float("nan")
    model = tiny(here / "m", tensors=tensors)
    assert "not finite" in fails(capsys, "explain", "hi", "-m", model)
    assert not (here / "explain.html").exists()


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="only Linux has a device that is always full")
def test_a_full_disk_is_told_in_one_line(capsys, babbler):
    err = fails(capsys, "explain", TEXT, "-m", babbler, "-o", "/dev/full")
    assert err.startswith("numgpt: error: /dev/full: can't be written: No space left on device")


def test_an_old_page_stays_where_the_disk_is_full_or_somebody_interrupts(capsys, here, babbler, monkeypatch):
    (here / "explain.html").write_text("old")

    def refuse(error):
        def fsync(number):
            raise error

        monkeypatch.setattr(os, "fsync", fsync)

    refuse(OSError(28, "No space left on device"))
    assert "explain.html: can't be written: No space left on device" in fails(capsys, "explain", TEXT, "-m", babbler)
    refuse(KeyboardInterrupt())
    assert call(capsys, "explain", TEXT, "-m", babbler)[0] == 130
    assert [(path.name, path.read_text()) for path in here.iterdir()] == [("explain.html", "old")]


@pytest.mark.parametrize(
    "arguments",
    [["a", "--ids", "1"], ["a", "--json", "-o", "-"], ["a", "b"], ["a", "--dtype", "int8"], ["a", "-o"], []],
)
def test_wrong_usage_exits_2_and_writes_nothing(capsys, here, monkeypatch, arguments):
    monkeypatch.setattr("numgpt.cli.terminal.is_piped", lambda: False)
    with pytest.raises(SystemExit, match="2"):
        cli.main(["explain", *arguments])
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("usage: numgpt ")
    assert ": error: " in err.splitlines()[-1]
    assert list(here.iterdir()) == []
