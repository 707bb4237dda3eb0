"""The command line as a whole: help, usage, streams and signals."""

import io
import json
import os
import re
import shlex
import signal
import subprocess
import sys
from importlib import import_module

import pytest
from support.checkpoints import TOKENS, hub_tensors
from support.cli import call, fails, pipe_in, run, tiny

import numgpt
from numgpt.cli import main as cli


def test_every_example_of_the_help_runs(capsys):
    texts = [cli.EXAMPLES]
    for commands in cli.GROUPS.values():
        texts += [
            import_module(f"numgpt.cli.{module}").COMMANDS[name].examples for name, (module, _) in commands.items()
        ]
    for text in texts:
        for line in text.splitlines()[1:]:
            command = shlex.split(line.split("    ")[0])
            if command[1:2] in (["tokenize"], ["inspect"], ["models"]) and "path/to" not in line:
                assert call(capsys, *command[1:])[0] == 0


@pytest.mark.parametrize("command", [[], ["generate"], ["tokenize"], ["inspect"], ["models"]])
def test_help_shows_examples(capsys, command):
    with pytest.raises(SystemExit) as stop:
        cli.main([*command, "--help"])
    assert stop.value.code == 0
    assert "examples:\n  numgpt" in capsys.readouterr().out


PROMPT = '{"prompt": "The king", "text": "The king said"}'


@pytest.mark.parametrize(
    "command",
    [
        ["generate", "The king", "-n", "3"],
        ["generate", "The king", "-n", "3", "--json", "--logprobs", "1"],
        ["generate", "The king", "-n", "3", "--num-beams", "2"],
        ["generate", "The king", "-n", "3", "--num-return-sequences", "2"],
        ["generate", "--input", "FILE", "--output", "-", "-n", "3"],
        ["score", "The king said"],
        ["score", "--lambada", "FILE"],
        ["score", "--input", "FILE", "--output", "-"],
        ["chat", "-n", "3"],
        ["summarize", "FILE"],
        ["translate", "FILE"],
    ],
)
def test_every_command_that_keeps_keys_and_values_can_do_so_in_half_the_room(
    capsys, monkeypatch, tmp_path, babbler, command
):
    dtypes, make = set(), numgpt.KVCache.__init__

    def watched(cache, *arguments, **options):
        make(cache, *arguments, **options)
        dtypes.add(str(cache.k.dtype))

    monkeypatch.setattr(numgpt.KVCache, "__init__", watched)
    (tmp_path / "in").write_text(PROMPT, encoding="utf-8")
    command = [str(tmp_path / "in") if word == "FILE" else word for word in command]
    for option, dtype in ([], "float32"), (["--cache", "float16"], "float16"):
        pipe_in(monkeypatch, b"Hello!")
        dtypes.clear()
        assert call(capsys, *command, "-m", babbler, *option)[0] == 0
        assert dtypes == {dtype}


def test_an_error_about_the_cache_has_the_flag_in_it(capsys, tmp_path):
    tensors = hub_tensors(TOKENS)
    tensors["h.0.attn.c_attn.bias"][-1] = 7e4
    path = tiny(tmp_path, tensors=tensors)
    message = r"error: layer 0 has a key or value of 7e\+04, but float16 ends at 65504: give .* \(leave out --cache\)$"
    assert re.search(message, fails(capsys, "score", "abc", "-m", path, "--cache", "float16").strip())


@pytest.mark.parametrize("wrong", [[], ["sing"], ["generate", "--speed"], ["generate", "-n", "many"], ["tokenize"]])
def test_wrong_usage_exits_2(capsys, wrong):
    with pytest.raises(SystemExit) as stop:
        cli.main(wrong)
    assert stop.value.code == 2
    assert "usage: numgpt" in capsys.readouterr().err


def test_standard_input_that_is_not_utf_8_is_refused_with_the_place(capsys, monkeypatch):
    pipe_in(monkeypatch, b"ab\xffc")
    err = fails(capsys, "tokenize", "-")
    assert err == "numgpt: error: standard input: byte 0xff at 2 is not UTF-8: convert it\n"


@pytest.mark.thorough
def test_arguments_that_the_locale_can_not_decode_are_read_as_utf_8(capsys):
    ascii_only = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    result = run("tokenize", "w\u00f6rld \U0001f642", "--json", env=ascii_only)
    assert "".join(json.loads(result.stdout)["pieces"]) == r"w\xc3\xb6rld \xf0\x9f\x99\x82"
    assert json.loads(result.stdout) == json.loads(call(capsys, "tokenize", "w\u00f6rld \U0001f642", "--json")[1])


def test_bytes_that_are_no_utf_8_at_all_are_escaped(capsys):
    out = call(capsys, "tokenize", os.fsdecode(b"a\xffb"), "--json")[1]
    assert "".join(json.loads(out)["pieces"]) == r"a\xffb"


def test_characters_that_standard_output_can_not_show_are_escaped(monkeypatch, babbler):
    with io.TextIOWrapper(io.BytesIO(), "ascii") as output:
        monkeypatch.setattr(sys, "stdout", output)
        assert cli.main(["generate", "\u00e9t\u00e9", "-n", "0", "-m", babbler, "-q"]) == 0
        assert output.buffer.getvalue() == b"\\xe9t\\xe9\n"


def test_a_closed_pipe_ends_the_command_quietly():
    command = f"{shlex.quote(sys.executable)} -m numgpt generate Once --seed 1 -n 400 -q | head -c 20"
    result = subprocess.run(["bash", "-c", command], capture_output=True, timeout=60)
    assert len(result.stdout) == 20
    assert result.stderr == b""


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="only Linux has a device that is always full")
def test_a_full_disk_is_told_in_one_line():
    with open("/dev/full", "wb") as full:
        result = subprocess.run(
            [sys.executable, "-m", "numgpt", "tokenize", "Hello"], stdout=full, stderr=subprocess.PIPE, timeout=60
        )
    assert result.returncode == 1
    assert result.stderr == b"numgpt: error: standard output: No space left on device\n"


@pytest.mark.thorough
@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGINT to send to one process")
def test_ctrl_c_in_the_middle_exits_130_without_a_traceback():
    command = [sys.executable, "-m", "numgpt", "generate", "Once", "-n", "400", "--seed", "1"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout.read(10)  # it has begun
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert b"Traceback" not in err


def shell(command):
    """Run a line of shell in which NUMGPT stands for the command."""
    line = command.replace("NUMGPT", f"{shlex.quote(sys.executable)} -m numgpt")
    return subprocess.run(["bash", "-c", line], capture_output=True, timeout=60)


def test_with_standard_error_closed_the_output_stays_pure(capsys, monkeypatch, babbler):
    result = shell("NUMGPT generate Once --seed 1 -n 2 --json 2>&-")
    assert result.returncode == 0
    assert json.loads(result.stdout)["finish_reason"] == "length"
    monkeypatch.setattr(sys, "stderr", None)
    assert cli.main(["generate", "Once", "-n", "-1", "-m", babbler]) == 1
    assert capsys.readouterr().out == ""


@pytest.mark.thorough
@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="only Linux has a device that is always full")
def test_a_note_that_can_not_be_written_does_not_cost_the_text():
    result = shell("NUMGPT generate Once -n 2 2>/dev/full")
    assert result.returncode == 0
    assert result.stdout.startswith(b"Once")


def test_with_standard_input_closed_one_line_says_so(capsys, monkeypatch):
    monkeypatch.setattr(sys, "stdin", None)
    err = fails(capsys, "tokenize", "-")
    assert err.startswith("numgpt: error: standard input is closed: give the text itself")


def test_with_standard_output_closed_one_line_says_what_is_wrong_elsewhere():
    result = shell("NUMGPT score --file missing.txt >&-")
    assert result.returncode == 1
    assert result.stderr == b"numgpt: error: missing.txt: No such file or directory\n"


def test_running_out_of_memory_is_told_in_one_line(capsys, monkeypatch):
    def load(*args, **kwargs):
        raise MemoryError

    monkeypatch.setattr("numgpt.hub.loading.load", load)
    assert "out of memory: the checkpoint does not fit" in fails(capsys, "generate", "x")


def test_a_path_that_is_no_utf_8_is_found(capsys, tmp_path):
    folder = os.fsencode(tmp_path) + b"/d\xff"
    os.mkdir(folder)
    tiny(tmp_path / "d")
    for file in (tmp_path / "d").iterdir():
        os.rename(file, folder + b"/" + os.fsencode(file.name))
    assert call(capsys, "tokenize", "hi", "-m", os.fsdecode(folder))[0] == 0


def test_the_version_is_that_of_the_package(capsys):
    with pytest.raises(SystemExit):
        cli.main(["--version"])
    assert capsys.readouterr().out == f"numgpt {numgpt.__version__}\n"
