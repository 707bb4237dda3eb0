"""The progress of a download or of a job: a bar on a terminal, plain lines elsewhere."""

import io

import pytest

from numgpt.cli import progress
from numgpt.cli.progress import Bar, LineBar


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def clock(monkeypatch) -> list[float]:
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    monkeypatch.setenv("COLUMNS", "80")
    return now


def test_a_terminal_gets_a_bar_ten_times_a_second(clock):
    stream = Terminal()
    bar = Bar(stream)
    for done in range(0, 1_000_001, 1000):
        bar("x", done, 1_000_000)
        clock[0] += 0.01
    lines = stream.getvalue().split("\r")
    assert 95 < len(lines) <= 102
    assert lines[0] == ""
    assert next(
        line for line in lines if "49%" in line
    ) == "x: [#########...........] 49% of 1.00 MB, 100 kB/s, 0:05 left".ljust(79)
    assert lines[-1] == "x: 1.00 MB, 100 kB/s".ljust(79) + "\n"


def test_elsewhere_a_line_comes_every_ten_seconds_and_at_the_end(clock):
    stream = io.StringIO()
    bar = Bar(stream)
    for done in range(0, 1_000_001, 1000):
        bar("x", done, 1_000_000)
        clock[0] += 0.0205
    assert stream.getvalue() == (
        "x: 49% of 1.00 MB, 48.8 kB/s, 0:10 left\nx: 98% of 1.00 MB, 48.8 kB/s, 0:00 left\nx: 1.00 MB, 48.8 kB/s\n"
    )


def test_the_rate_is_of_what_came_now(clock):
    stream = io.StringIO()
    bar = Bar(stream)
    bar("x", 900, 1000)
    clock[0] += 10
    bar("x", 950, 1000)
    bar("x", 0, 1000)  # begun anew: no rate, rather than a wrong one
    clock[0] += 10
    bar("x", 5, 1000)
    bar("x", 1000, 1000)
    assert stream.getvalue() == "x: 95% of 1.00 kB, 5 B/s, 0:10 left\nx: 0% of 1.00 kB\nx: 1.00 kB, 5 B/s\n"


def test_a_size_that_is_not_known_is_not_shown(clock):
    stream = Terminal()
    bar = Bar(stream)
    bar("x", 0, None)
    clock[0] += 10
    bar("x", 1000, None)
    assert stream.getvalue() == "\r" + "x: 1.00 kB, 100 B/s".ljust(79)


def test_a_bar_that_is_left_ends_its_line(clock):
    for stream, expected in (Terminal(), "\n"), (io.StringIO(), ""):
        bar = Bar(stream)
        bar("x", 0, 10)
        bar.close()
        assert stream.getvalue() == expected
        bar.close()
        assert stream.getvalue() == expected


def test_a_line_fits_the_terminal(clock, monkeypatch):
    monkeypatch.setenv("COLUMNS", "20")
    stream = Terminal()
    bar = Bar(stream)
    bar("model.safetensors", 0, 10)
    clock[0] += 1
    bar("model.safetensors", 5, 10)
    assert stream.getvalue() == "\rmodel.safetensors: "


def test_standard_error_is_where_it_is_shown(capsys):
    bar = Bar()
    bar("x", 0, 10)
    bar("x", 10, 10)
    assert capsys.readouterr() == ("", "x: 10 B\n")


def test_the_bar_of_a_job_shows_lines_and_tokens_and_lets_messages_by(clock, monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    bar = LineBar(Terminal())
    bar("out.jsonl", 500, 1500)
    clock[0] += 10
    bar.tokens = 4000
    bar("out.jsonl", 750, 1500)
    bar.say("line 3 is bad")
    lines = bar.stream.getvalue().split("\r")
    figures = "25.0 lines/s, 400 tokens/s, 0:30 left"
    assert lines[1].rstrip() == f"out.jsonl: [##########..........] 50% of 1,500 lines, {figures}"
    assert lines[2] == "line 3 is bad".ljust(99) + "\n"
