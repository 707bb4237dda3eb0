"""The folder of a run: nothing undoes it, neither a kill nor a full disk, nor another run or process."""

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from support.runs import FILES, FLAGS, SORTED, TINY, call, command, files, posix

import numgpt
from numgpt.errors import CheckpointError, OptionError
from numgpt.training.run import train


@posix
@pytest.mark.thorough
def test_a_run_that_is_killed_again_and_again_goes_on_to_the_same_bits(text, tmp_path):
    train(text, tmp_path / "whole", **{**TINY, "steps": 60})
    for delay in 1, 12, 25:
        arguments = [
            text,
            tmp_path / "parts",
            *FLAGS,
            "--steps",
            60,
            "--warmup-steps",
            2,
            "--eval-interval",
            1,
            "--json",
        ]
        with subprocess.Popen(command(*arguments), stdout=subprocess.PIPE) as process:
            for _ in range(delay):
                line = process.stdout.readline()
            process.send_signal(signal.SIGKILL)
        assert process.returncode == -signal.SIGKILL
        assert json.loads(line)["val_loss"] > 0
        numgpt.load(tmp_path / "parts")
    train(text, tmp_path / "parts", **{**TINY, "steps": 60}, eval_interval=1)
    assert files(tmp_path / "parts") == files(tmp_path / "whole")


KILLED = 17
EVENTS = ("os.rename", "os.mkdir", "os.rmdir", "os.remove", "shutil.rmtree")


def killed_at(n, folder, run):
    """Run something in a process that ends, as by SIGKILL, just before its n-th change of the files of a folder."""
    child = os.fork()
    if not child:
        left = n

        def hook(event, arguments):
            nonlocal left
            writes = event in EVENTS or (event == "open" and arguments[2] & (os.O_WRONLY | os.O_RDWR))
            if writes and str(arguments[0]).startswith(str(folder)):
                left -= 1
                if left == 0:
                    os._exit(KILLED)

        sys.addaudithook(hook)
        try:
            run()
        finally:
            os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == KILLED


@posix
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@pytest.mark.thorough
def test_killed_before_any_change_of_a_file_it_leaves_a_checkpoint_that_loads_and_goes_on(text, tmp_path):
    options = {**TINY, "steps": 2, "warmup_steps": 1, "eval_interval": 1}
    train(text, tmp_path / "whole", **options)
    expected = files(tmp_path / "whole")

    def stop(progress):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(text, tmp_path / "first", **options, report=stop)
    n = 1
    while True:
        folder = tmp_path / f"run{n}"
        shutil.copytree(tmp_path / "first", folder)
        was_killed = killed_at(n, folder, lambda folder=folder: train(text, folder, **options))
        numgpt.load(folder)
        train(text, folder, **options)
        assert files(folder) == expected, n
        if not was_killed:
            break
        n += 1
    assert n > 8  # a folder, two files that are written, renamed and moved up, and the folder removed


@posix
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@pytest.mark.thorough
def test_killed_while_it_makes_its_folder_it_begins_anew(text, tmp_path):
    options = {**TINY, "steps": 1, "warmup_steps": 1}
    train(text, tmp_path / "whole", **options)
    n, folder = 1, tmp_path / "run"
    while killed_at(n, folder, lambda: train(text, folder, **options)) and not folder.exists():
        n += 1
    train(text, folder, **options)
    assert n > 5
    assert files(folder) == files(tmp_path / "whole")


@posix
def test_only_one_process_at_a_time_is_at_a_run(text, tmp_path, capsys):
    """Else each would take away what the other is writing."""

    def report(progress):
        if progress.step == 3:
            code, _, err = call(capsys, text, tmp_path / "out", *FLAGS, "--steps", 7, "--warmup-steps", 2)
            assert code == 1
            assert "out: another process is at this run: wait for it, or end it\n" in err

    train(text, tmp_path / "out", **TINY, report=report)
    train(text, tmp_path / "whole", **TINY)
    assert files(tmp_path / "out") == files(tmp_path / "whole")


@pytest.mark.parametrize("call", range(1, 5))
def test_a_full_disk_is_told_and_the_last_checkpoint_stays(text, tmp_path, monkeypatch, call):
    """Each of the files, at the start and at the end."""
    fsync, calls = os.fsync, 0

    def full(file):
        nonlocal calls
        calls += 1
        if calls == call:
            raise OSError(errno.ENOSPC, "No space left on device")
        fsync(file)

    options = {**TINY, "steps": 1, "warmup_steps": 1}
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(CheckpointError, match=r"can't be written: No space left on device: free some space"):
            train(text, tmp_path / "out", **options)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "sort.txt"][call < 3 :]
    if call > 2:
        numgpt.load(tmp_path / "out")
        assert not (tmp_path / "out" / "unfinished").exists()
    train(text, tmp_path / "out", **options)
    train(text, tmp_path / "whole", **options)
    assert files(tmp_path / "out") == files(tmp_path / "whole")


def test_a_folder_of_another_run_is_refused_with_what_differs(text, tmp_path):
    train(text, tmp_path / "out", **TINY)
    before = files(tmp_path / "out")
    with pytest.raises(OptionError) as caught:
        train(text, tmp_path / "out", **{**TINY, "steps": 9, "n_embd": 16, "seed": 5})
    assert "out: belongs to another run: n_embd was 8 and is 16; seed was 0 and is 5: give the same" in str(
        caught.value
    )
    text.write_text(SORTED + "9=9\n", encoding="utf-8")
    with pytest.raises(
        OptionError, match=r"another run: sha256 of the text was '[0-9a-f]{64}' and is '[0-9a-f]{64}': "
    ):
        train(text, tmp_path / "out", **TINY)
    assert files(tmp_path / "out") == before


def test_a_folder_of_something_else_is_refused_and_an_empty_one_taken(text, tmp_path):
    folder = tmp_path / "out"
    folder.mkdir()
    train(text, folder, **TINY)
    (folder / "training.safetensors").unlink()
    for taken in folder, text:
        with pytest.raises(
            OptionError, match="is there already, and no run of training: give the name of a new folder"
        ):
            train(text, taken, **TINY)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda raw: raw[:-8], "where the file ends: the file is damaged"),
        (lambda raw: raw.replace(b'"step":"7"', b'"step":"x"'), "no step in it: it is no state of this model"),
        (lambda raw: raw.replace(b'"m.wpe"', b'"m.wpx"'), "missing: m.wpe; left over: m.wpx"),
        (lambda raw: raw.replace(b'"settings"', b'"sittings"'), "no settings in it: it is no state of training"),
    ],
)
def test_a_damaged_state_is_refused(text, tmp_path, damage, message):
    train(text, tmp_path / "out", **TINY)
    state = tmp_path / "out" / "training.safetensors"
    damaged = damage(state.read_bytes())
    assert damaged != state.read_bytes()
    state.write_bytes(damaged)
    with pytest.raises(CheckpointError) as caught:
        train(text, tmp_path / "out", **TINY)
    assert message in str(caught.value)


def test_a_folder_may_be_given_by_a_link(text, tmp_path):
    (tmp_path / "far").mkdir()
    Path(tmp_path / "link").symlink_to(tmp_path / "far", target_is_directory=True)
    train(text, tmp_path / "link", **TINY)
    assert (tmp_path / "link").is_symlink()
    assert set(FILES) <= set(files(tmp_path / "far"))
