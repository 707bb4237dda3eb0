"""Files and folders appear whole or not at all; a lock keeps others out; a text is UTF-8."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from numgpt.checkpoint.disk import decode_text, folder_written_whole, read_text, try_lock, written_whole
from numgpt.checkpoint.tensors import tensor_of
from numgpt.errors import CheckpointError, OptionError, TokenError


class Interrupted(BaseException):
    """As KeyboardInterrupt is: no Exception."""


def test_a_folder_takes_its_name_when_it_is_whole(tmp_path):
    with folder_written_whole(tmp_path / "a" / "b") as part:
        (part / "x").write_text("1")
        assert not (tmp_path / "a" / "b").exists()
    assert not part.exists()
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["b"]
    assert (tmp_path / "a" / "b" / "x").read_text() == "1"


@pytest.mark.parametrize("error", [Interrupted, ValueError, OSError])
@pytest.mark.parametrize("is_there", [False, True])
def test_of_a_folder_that_fails_no_part_is_left_and_an_empty_one_stays(tmp_path, error, is_there):
    if is_there:
        (tmp_path / "a").mkdir()

    def fail() -> None:
        with folder_written_whole(tmp_path / "a") as part:
            (part / "x").write_text("1")
            raise error

    with pytest.raises(CheckpointError if error is OSError else error):
        fail()
    assert list(tmp_path.rglob("*")) == [tmp_path / "a"] * is_there


def test_an_empty_folder_is_replaced_and_another_is_not_touched(tmp_path):
    (tmp_path / "a").mkdir()
    with folder_written_whole(tmp_path / "a") as part:
        (part / "x").write_text("1")
    with (
        pytest.raises(CheckpointError, match="a: is there already, expected a new folder: choose another name"),
        folder_written_whole(tmp_path / "a"),
    ):
        pytest.fail("its block is not run")
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["x"]


def test_what_the_system_refuses_is_told(tmp_path):
    (tmp_path / "file").write_text("1")
    for written in written_whole, folder_written_whole:
        with (
            pytest.raises(CheckpointError, match="can't be written: Not a directory: free some space, or write else"),
            written(tmp_path / "file" / "x"),
        ):
            pytest.fail("its block is not run")


@pytest.mark.parametrize("name", ["", ".", "..", "/", "a"])
def test_a_file_is_not_written_over_a_folder_whatever_its_name(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a").mkdir()
    with (
        pytest.raises(CheckpointError, match="can't be written: Is a directory: free some space, or write else"),
        written_whole(Path(name)),
    ):
        pytest.fail("its block is not run")
    assert list(tmp_path.rglob("*")) == [tmp_path / "a"]


def test_a_folder_without_a_name_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CheckpointError, match="can't be written: "), folder_written_whole(Path(".")) as part:
        (part / "x").write_text("1")
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_is_there_stays_until_the_new_one_is_whole(tmp_path):
    (tmp_path / "x").write_bytes(b"old")

    def fail() -> None:
        with written_whole(tmp_path / "x") as file:
            file.write(b"new")
            raise Interrupted

    with pytest.raises(Interrupted):
        fail()
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("x", b"old")]
    with written_whole(tmp_path / "x") as file:
        file.write(b"new")
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("x", b"new")]


def test_a_lock_is_held_against_another_process_until_the_file_is_closed(tmp_path):
    script = "import sys; from numgpt.checkpoint.disk import try_lock; print(try_lock(open(sys.argv[1], 'ab')))"

    def other() -> str:
        command = [sys.executable, "-c", script, str(tmp_path / "lock")]
        run = subprocess.run(command, capture_output=True, text=True, check=True, cwd=Path(__file__).parents[2])
        return run.stdout.strip()

    with open(tmp_path / "lock", "ab") as file:
        assert try_lock(file)
        assert other() == "False"
    assert other() == "True"


def test_a_text_is_read_without_its_mark_and_with_plain_line_ends(tmp_path):
    (tmp_path / "x").write_bytes("\ufeffé\r\n".encode())
    assert read_text(tmp_path / "x") == "é\n"


def test_what_is_not_utf_8_is_told_with_its_place(tmp_path):
    (tmp_path / "x").write_bytes(b"ab\xff")
    with pytest.raises(TokenError) as caught:
        read_text(tmp_path / "x")
    assert str(caught.value) == f"{tmp_path / 'x'}: byte 0xff at 2 is not UTF-8: convert it"
    with pytest.raises(TokenError, match=r"^standard input: byte 0xe9 at 0 is not UTF-8: convert it$"):
        decode_text(b"\xe9", "standard input")


@pytest.mark.parametrize("dtype", ["float64", "float32", "float16", "int64", "uint16", "bool"])
def test_an_array_is_wrapped_as_it_is(dtype):
    x = np.ones((2, 3), dtype)
    tensor = tensor_of(x)
    assert tensor.dtype == {"bool": "BOOL"}.get(dtype, f"{dtype[0].upper()}{dtype.lstrip('floatuin')}")
    assert tensor.shape == (2, 3)
    assert tensor.read() is x


def test_an_array_that_no_file_can_hold_is_refused():
    with pytest.raises(
        OptionError, match=r"^embed: complex64, expected numbers, such as float32 or int64: convert it$"
    ):
        tensor_of(np.zeros(1, np.complex64), "embed")
