"""`numgpt chat`, with and without a terminal."""

import io
import json
import os
import select
import signal
import sys

import pytest
from support.cli import call, fails, pipe_in

import numgpt
from numgpt.apps.chat import Chat, transcript
from numgpt.hub.folders import bundled

pytestmark = pytest.mark.usefixtures("storyteller_once")
STORYTELLER = numgpt.load("storyteller")


def say(chat, message):
    return "".join(chat.reply(message))


# --- the command, without a terminal


def talk(capsys, monkeypatch, stdin, *arguments):
    """Run `numgpt chat` on the lines of standard input."""
    pipe_in(monkeypatch, stdin)
    return call(capsys, "chat", "--seed", "1", "-n", "8", *arguments)


def test_each_line_has_a_reply(capsys, monkeypatch):
    chat = Chat(STORYTELLER, transcript(STORYTELLER), {"seed": 1, "temperature": 0.8, "top_k": 40}, max_new_tokens=8)
    replies = [say(chat, "Hello!"), say(chat, "Who are you?")]
    code, out, err = talk(capsys, monkeypatch, b"Hello!\n\n  Who are you?\r\n")
    assert (code, out, err) == (0, "".join(f"{reply}\n" for reply in replies), "")


def test_reset_and_quit(capsys, monkeypatch):
    code, out, err = talk(capsys, monkeypatch, b"Hello!\n/reset\nHello!\n/quit\nHello!\n", "--temperature", "0")
    assert code == 0
    first, again = out.splitlines()
    assert first == again
    assert err == "numgpt: the conversation is forgotten\n"


def test_what_is_wrong_with_a_line_is_said_and_the_chat_goes_on(capsys, monkeypatch):
    stdin = b"/help\n\xff\xfe\n" + b"king " * 500 + b"\nHello!"
    code, out, err = talk(capsys, monkeypatch, stdin, "--json")
    assert code == 0
    errors = [line.removeprefix("numgpt: error: ") for line in err.splitlines()]
    rows = [json.loads(line) for line in out.splitlines()]
    assert [row["error"] for row in rows[:3]] == errors
    assert errors[0] == "'/help' is none of the commands, /reset and /quit"
    assert errors[1] == "that line is not UTF-8: convert it"
    assert errors[2].startswith("this turn takes ")
    assert rows[3]["message"] == "Hello!"
    assert rows[3]["reply"]


def test_json_tells_what_the_model_saw(capsys, monkeypatch):
    _, out, _ = talk(capsys, monkeypatch, b"Hello!\nWho?\n", "--json", "--format", "dialogue")
    one, two = map(json.loads, out.splitlines())
    assert one["prompt"] == "Hello!<|endoftext|>"
    assert two["prompt"] == f"Hello!<|endoftext|>{one['reply']}<|endoftext|>Who?<|endoftext|>"
    assert STORYTELLER.tokenizer.decode(two["ids"]) == two["reply"]
    assert two["tokens"] == len(STORYTELLER.tokenizer.encode(two["prompt"], allow_special=True)) + len(two["ids"]) + 1
    assert (two["finish_reason"], two["dropped"]) == ("length", 0)


def test_it_is_said_that_turns_are_forgotten(capsys, monkeypatch):
    code, out, err = talk(capsys, monkeypatch, (b"king " * 80 + b"\n") * 4)
    assert code == 0
    assert len(out.splitlines()) >= 4
    assert "numgpt: the context is full: the oldest" in err


def test_a_dialogpt_is_talked_to_as_one(capsys, monkeypatch, tmp_path):
    folder = tmp_path / "DialoGPT-tiny"
    folder.symlink_to(bundled())
    _, out, _ = talk(capsys, monkeypatch, b"Hello!\n", "-m", folder, "--json", "-n", "3", "-q")
    assert json.loads(out)["prompt"] == "Hello!<|endoftext|>"


def test_a_closed_standard_input_is_an_error(capsys, monkeypatch):
    monkeypatch.setattr(sys, "stdin", None)
    assert "standard input is closed" in fails(capsys, "chat", "-q", "--seed", "1")


def interrupt(monkeypatch):
    """Let somebody press Ctrl-C after three tokens of the first reply."""
    once = iter([True])

    def interrupted(*arguments, **options):
        steps = numgpt.generate(*arguments, **options)
        if not next(once, False):
            return (yield from steps)
        for _ in range(3):
            yield next(steps)
        raise KeyboardInterrupt

    monkeypatch.setattr("numgpt.decoding.text.generate", interrupted)


def test_ctrl_c_ends_a_reply_on_a_terminal_and_what_there_is_of_it_counts(capsys, monkeypatch):
    interrupt(monkeypatch)
    lines = iter(["Hello!", "Who?", "/quit"])
    monkeypatch.setattr("builtins.input", lambda prompt: next(lines))
    monkeypatch.setattr(sys, "stdin", io.StringIO())
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True)
    code, out, _ = call(capsys, "chat", "--json", "--seed", "1", "-n", "8", "-q", "--format", "dialogue")
    assert code == 0
    one, two = map(json.loads, out.splitlines())
    assert (one["finish_reason"], len(one["ids"])) == ("interrupted", 3)
    assert two["prompt"] == f"Hello!<|endoftext|>{one['reply']}<|endoftext|>Who?<|endoftext|>"
    assert (two["finish_reason"], len(two["ids"])) == ("length", 8)


def test_ctrl_c_ends_a_script(capsys, monkeypatch):
    interrupt(monkeypatch)
    code, out, _ = talk(capsys, monkeypatch, b"Hello!\nWho?\n", "--format", "dialogue")
    assert code == 130
    assert out == "Once upon"


# --- the command, on a terminal

on_a_terminal = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no pseudo-terminals to run it on")


class Terminal:
    """The command on a terminal of its own: type something, and read on until something shows."""

    def __init__(self, *arguments):
        import pty

        self.pid, self.end = pty.fork()
        if self.pid == 0:
            os.environ["TERM"] = "dumb"
            os.execv(sys.executable, [sys.executable, "-m", "numgpt", "chat", *arguments])
        self.seen = ""

    def type(self, keys):
        os.write(self.end, keys.encode())

    def read(self):
        """Read what there is, or wait for it. Return whether there was anything: at the end there is nothing."""
        if not select.select([self.end], [], [], 60)[0]:
            os.kill(self.pid, signal.SIGKILL)
            pytest.fail(f"nothing more shows than {self.seen!r}")
        try:
            raw = os.read(self.end, 4096)
        except OSError:  # the other end is closed
            return False
        self.seen = (self.seen + raw.decode("utf-8", "replace")).replace("\r\n", "\n")
        return bool(raw)

    def read_until(self, text):
        """Return what shows up to a text."""
        while text not in self.seen:
            assert self.read(), self.seen
        before, _, self.seen = self.seen.partition(text)
        return before

    def exit_code(self):
        """Read what is left, and return the exit code."""
        while self.read():
            pass
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])


@on_a_terminal
def test_a_terminal_shows_a_prompt_edits_lines_and_recalls_them():
    terminal = Terminal("--temperature", "0", "-n", "8")
    assert "/reset forgets it, /quit or Ctrl-D ends it, Ctrl-C stops a reply" in terminal.read_until("> ")
    terminal.type("Helo!\x1b[D\x1b[Dl\r")  # left, left, and the missing letter
    first = terminal.read_until("\n> ").splitlines()[-1]
    terminal.type("/reset\r")
    terminal.read_until("forgotten\n> ")
    terminal.type("\x1b[A\x1b[A\r")  # the line before the last
    assert terminal.read_until("\n> ").splitlines()[-1] == first
    terminal.type("\r")  # an empty line
    terminal.read_until("> ")
    terminal.type("\x04")
    assert terminal.exit_code() == 0
    chat = Chat(STORYTELLER, transcript(STORYTELLER), {"temperature": 0, "top_k": 40}, max_new_tokens=8)
    assert first == say(chat, "Hello!").splitlines()[-1]


@pytest.mark.thorough
@on_a_terminal
def test_ctrl_c_at_the_prompt_ends_the_chat():
    terminal = Terminal()
    terminal.read_until("> ")
    terminal.type("\x03")
    while not select.select([terminal.end], [], [], 1)[0]:
        terminal.type("\x03")  # CPython misses one that comes just before it waits for a key
    assert terminal.exit_code() == 130
