"""`numgpt eval` where lm-evaluation-harness is not installed. tests/conformance has it at work."""

from support.cli import call, fails
from support.extras import without_the_harness


def test_without_the_extra_the_error_says_how_to_install_it(capsys, monkeypatch):
    without_the_harness(monkeypatch)
    for options in [], ["-q"], ["--json"]:
        assert 'pip install "numgpt[eval]"' in fails(capsys, "eval", "--tasks", "lambada_openai", *options)


def test_help_needs_no_harness_and_tasks_are_needed(capsys, monkeypatch):
    without_the_harness(monkeypatch)
    code, out, _ = call(capsys, "eval", "--help")
    assert code == 0
    assert "numgpt eval --tasks mine --include-path my_tasks" in out
    code, _, err = call(capsys, "eval")
    assert code == 2
    assert "--tasks" in err
