"""A file on the disk is whole, or not there; what was fetched of it before is used, whoever stopped, and how."""

import errno
import gzip
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from support.hub import Answer, Fault, claim, cut, drip, replace, sha256
from support.transfers import NAME, RAW, SIZE, message, names, original, url

from numgpt.errors import DownloadError
from numgpt.hub import download, parts
from numgpt.hub.download import fetch

ROOT = Path(__file__).parents[2]


def run(url: str, path: Path, *args: object) -> subprocess.Popen[str]:
    """Fetch in another process."""
    code = f"from numgpt.hub.download import fetch; fetch({url!r}, {str(path)!r}, *{args!r})"
    return subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stderr=subprocess.PIPE, text=True)


def finish(process: subprocess.Popen[str]) -> None:
    errors = process.communicate(timeout=30)[1]
    assert process.returncode == 0, errors


# --- all is well


@pytest.mark.parametrize("file", [NAME, "config.json"])
def test_a_file_is_fetched_whole_and_nothing_is_left_beside_it(hub, tmp_path, file):
    folder = tmp_path / "new" / "folder"
    fetch(url(hub, file), folder / file)
    assert (folder / file).read_bytes() == hub.repos["owner/name"].files[file]
    assert names(folder) == [file]


def test_a_file_that_is_there_is_not_fetched_again(hub, tmp_path):
    (tmp_path / NAME).write_bytes(RAW)
    fetch(url(hub), tmp_path / NAME, len(RAW), sha256(RAW))
    assert not hub.seen  # the caller knew the hash
    told: list[object] = []
    fetch(url(hub), tmp_path / NAME, progress=lambda *args: told.append(args))  # the server tells it
    assert not told
    assert names(tmp_path) == [NAME]


@pytest.mark.parametrize("old", [b"", b"other", RAW[:-1] + b"!"])
def test_another_file_of_this_name_is_replaced(hub, tmp_path, old):
    (tmp_path / NAME).write_bytes(old)
    fetch(url(hub), tmp_path / NAME, len(RAW), sha256(RAW))
    assert (tmp_path / NAME).read_bytes() == RAW


def test_the_bytes_are_on_the_disk_before_the_file_gets_its_name(hub, tmp_path, monkeypatch):
    steps: list[str] = []
    for name in "fsync", "replace":
        real = getattr(os, name)
        monkeypatch.setattr(os, name, lambda *args, name=name, real=real: (steps.append(name), real(*args))[1])
    fetch(url(hub), tmp_path / NAME)
    assert steps == ["fsync", "replace"]


# --- cuts


@pytest.mark.thorough
@pytest.mark.parametrize("reset", [False, True])
def test_twenty_cuts_cost_at_most_a_twentieth(hub, tmp_path, waits, reset):
    raw = RAW[:9] + random.Random(0).randbytes(8 << 20)
    hub.add("owner/name", {NAME: raw})
    hub.plan(NAME, *[cut(len(raw) // 21, reset)] * 20)
    fetch(url(hub), tmp_path / NAME)
    assert (tmp_path / NAME).read_bytes() == raw
    assert len(waits) == 20
    assert max(waits) <= 0.5  # each try brought something, so no wait is longer than the first
    if not reset:  # what is reset was counted as sent, but never came
        assert hub.sent < 1.05 * len(raw)


def test_a_later_call_goes_on_where_the_first_stopped(hub, tmp_path, waits):
    hub.plan(NAME, cut(100_000), *[cut(0)] * 10)
    said = message(url(hub), tmp_path / NAME)
    kept = next(path for path in tmp_path.iterdir()).stat().st_size
    assert 80_000 < kept <= 100_000
    assert said.endswith(
        f", 6 times in a row: run this again later; {kept:,} bytes are kept, and it goes on from there"
    )
    assert len(waits) == 5
    hub.plans.clear()
    hub.seen.clear()
    fetch(url(hub), tmp_path / NAME)
    assert (tmp_path / NAME).read_bytes() == RAW
    assert names(tmp_path) == [NAME]
    assert hub.sent == len(RAW) - kept


@pytest.mark.thorough
@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGKILL to send")
def test_a_process_that_is_killed_leaves_what_it_has_and_no_lock(hub, tmp_path):
    hub.plan(NAME, drip(50_000, 0.1))
    process = run(url(hub), tmp_path / NAME)
    while not sum(path.stat().st_size for path in tmp_path.glob("*.part")):
        time.sleep(0.01)
        assert process.poll() is None
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert not (tmp_path / NAME).exists()
    kept = sum(path.stat().st_size for path in tmp_path.glob("*.part"))
    hub.seen.clear()
    fetch(url(hub), tmp_path / NAME)
    assert (tmp_path / NAME).read_bytes() == RAW
    assert names(tmp_path) == [NAME]
    assert hub.sent == len(RAW) - kept


@pytest.mark.thorough
def test_three_processes_fetch_a_file_once(hub, tmp_path):
    hub.always(NAME, drip(50_000, 0.02))
    processes = [run(url(hub), tmp_path / NAME, len(RAW), sha256(RAW)) for _ in range(3)]
    for process in processes:
        finish(process)
    assert (tmp_path / NAME).read_bytes() == RAW
    assert names(tmp_path) == [NAME]
    assert hub.sent == len(RAW)


@pytest.mark.thorough
def test_many_threads_fetch_a_file_once(hub, tmp_path):
    args = (url(hub), tmp_path / NAME, len(RAW), sha256(RAW))
    threads = [threading.Thread(target=fetch, args=args) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (tmp_path / NAME).read_bytes() == RAW
    assert names(tmp_path) == [NAME]
    assert hub.sent == len(RAW)


@pytest.mark.thorough
@pytest.mark.skipif(sys.platform == "win32", reason="Windows locks by msvcrt, and this takes flock away")
def test_two_at_once_do_no_harm_where_the_file_system_has_no_locks(hub, tmp_path, monkeypatch):
    import fcntl

    def flock(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", flock)
    hub.always(NAME, drip(10_000, 0.001))
    found: list[str] = []

    def attempt() -> None:
        try:
            fetch(url(hub), tmp_path / NAME)
        except DownloadError as error:
            found.append(str(error))

    threads = [threading.Thread(target=attempt) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) < 4
    assert (tmp_path / NAME).read_bytes() == RAW


def test_ctrl_c_keeps_what_is_there(hub, tmp_path):
    def stop(name: str, done: int, total: int | None) -> None:
        if done > 100_000:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fetch(url(hub), tmp_path / NAME, progress=stop)
    (part,) = tmp_path.iterdir()
    kept = part.stat().st_size
    assert kept > 100_000
    hub.seen.clear()
    fetch(url(hub), tmp_path / NAME)
    assert (tmp_path / NAME).read_bytes() == RAW
    assert hub.sent == len(RAW) - kept


def test_a_part_of_another_version_is_not_continued(hub, tmp_path, waits):
    newer = RAW[:50_000] + RAW[60_000:] + RAW
    for address, file in (url(hub), NAME), (original(hub), "vocab.bpe"):
        hub.plan(file, cut(100_000), *[cut(0)] * 5)
        message(address, tmp_path / file)
    assert len(names(tmp_path)) == 2
    hub.plans.clear()
    hub.add("owner/name", {NAME: newer})
    hub.originals["124M/vocab.bpe"] = newer
    for address, file in (url(hub), NAME), (original(hub), "vocab.bpe"):
        fetch(address, tmp_path / file)
        assert (tmp_path / file).read_bytes() == newer
    assert names(tmp_path) == [NAME, "vocab.bpe"]


def test_a_part_from_another_address_is_not_continued_and_goes_when_the_file_is_whole(hub, tmp_path, waits):
    hub.plan(NAME, cut(100_000), *[cut(0)] * 5)
    message(url(hub), tmp_path / NAME)
    hub.plans.clear()
    hub.add("other/name", {NAME: RAW + RAW})
    fetch(f"{hub.url}/other/name/resolve/main/{NAME}", tmp_path / NAME)
    assert (tmp_path / NAME).read_bytes() == RAW + RAW
    assert names(tmp_path) == [NAME]


def test_a_part_is_only_continued_if_its_version_can_be_told(hub, tmp_path, waits):
    mute = claim(etag=None, content_md5=None, x_ms_blob_content_md5=None)

    def cut_mute(answer: Any) -> None:
        mute(answer)
        cut(100_000)(answer)

    hub.plan("vocab.bpe", cut_mute, *[mute] * 5)
    fetch(original(hub), tmp_path / "vocab.bpe")
    assert (tmp_path / "vocab.bpe").read_bytes() == RAW
    assert hub.seen[-1].headers.get("Range") is None
    hub.plan("vocab.bpe", cut_mute, *[mute] * 5)
    fetch(original(hub), tmp_path / "again", sha256=sha256(RAW))  # the caller can tell
    assert hub.seen[-1].headers.get("Range", "").startswith("bytes=")


def test_a_damaged_part_costs_a_second_transfer_but_not_the_file(hub, tmp_path, waits):
    hub.plan(NAME, cut(100_000), *[cut(0)] * 5)
    message(url(hub), tmp_path / NAME)
    (part,) = tmp_path.iterdir()
    part.write_bytes(b"\xff" + part.read_bytes()[1:])
    hub.plans.clear()
    fetch(url(hub), tmp_path / NAME)
    assert (tmp_path / NAME).read_bytes() == RAW


@pytest.mark.parametrize("held", [RAW, RAW[:-1] + b"!", RAW + b"!"])
def test_a_part_with_all_bytes_or_more_is_checked_all_the_same(hub, tmp_path, waits, held):
    hub.plan(NAME, cut(100_000), *[cut(0)] * 5)
    message(url(hub), tmp_path / NAME)
    (part,) = tmp_path.iterdir()
    part.write_bytes(held)
    hub.plans.clear()
    hub.seen.clear()
    fetch(url(hub), tmp_path / NAME)
    assert (tmp_path / NAME).read_bytes() == RAW
    assert hub.sent == (0 if held == RAW else len(RAW))


def test_a_range_that_does_not_fit_does_no_harm_where_no_hash_would_tell(hub, tmp_path, waits):
    def mute(fault: Fault) -> Fault:
        return lambda answer: (claim(content_md5=None, x_ms_blob_content_md5=None)(answer), fault(answer))[0]

    for change in (
        claim(content_range="bytes 0-9/10"),
        claim(content_range=None),
        replace(b"", content_range="bytes 5-"),
    ):
        hub.plan("vocab.bpe", mute(cut(100_000)), mute(change))
        fetch(original(hub), tmp_path / "vocab.bpe")
        assert (tmp_path / "vocab.bpe").read_bytes() == RAW


def test_a_server_that_packs_all_it_sends_is_only_asked_for_the_whole(hub, tmp_path, waits):
    raw = RAW[:9] + random.Random(0).randbytes(200_000)
    hub.add("owner/name", {NAME: raw})

    def pack(answer: Answer) -> None:
        """A range is then one of the packed bytes."""
        packed, start = gzip.compress(raw), len(raw) - len(answer.body)
        replace(packed[start:], content_encoding="gzip")(answer)

    hub.plan(NAME, lambda answer: (pack(answer), cut(100_000)(answer))[0], *[pack] * 9)
    fetch(url(hub), tmp_path / NAME)
    assert (tmp_path / NAME).read_bytes() == raw
    assert len(waits) == 2


# --- the disk


def test_too_little_space_is_said_before_anything_is_fetched(hub, tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: shutil._ntuple_diskusage(10, 5, 5))
    said = message(url(hub), tmp_path / "new" / NAME)
    assert said == (
        f"{tmp_path / 'new'}: {SIZE} more bytes are needed, 5 are free: make room, or choose another place with "
        f"NUMGPT_WEIGHTS, and run this again"
    )
    assert not names(tmp_path / "new")


class Full:
    """A file on a disk that gets full."""

    def __init__(self, file: Any, room: int) -> None:
        self.file, self.room = file, room

    def __getattr__(self, name: str) -> Any:
        return getattr(self.file, name)

    def write(self, data: Any) -> int:
        if not self.room:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        written = self.file.write(data[: self.room])
        self.room -= written
        return written


FULL = (
    "the disk is full: make room, or choose another place with NUMGPT_WEIGHTS, and run this again; what was fetched is "
    "kept"
)


def test_a_disk_that_gets_full_keeps_what_is_there(hub, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        real = os.fdopen
        patch.setattr(os, "fdopen", lambda *args, **kwargs: Full(real(*args, **kwargs), 100_001))
        assert message(url(hub), tmp_path / NAME) == f"{tmp_path / NAME}: {FULL}"
    (part,) = tmp_path.iterdir()
    assert part.stat().st_size == 100_001
    hub.seen.clear()
    fetch(url(hub), tmp_path / NAME)
    assert (tmp_path / NAME).read_bytes() == RAW
    assert hub.sent == len(RAW) - 100_001


@pytest.mark.skipif(
    not sys.platform.startswith("linux") or os.geteuid() != 0,
    reason="only root on Linux can mount the small disk that this fills",
)
def test_a_small_disk_gets_full(hub, tmp_path, monkeypatch):
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=128k", "none", disk], capture_output=True).returncode:
        pytest.skip("this container does not let root mount a disk")
    try:
        assert "more bytes are needed" in message(url(hub), disk / NAME)
        monkeypatch.setattr(download, "check_space", lambda folder, needed: None)
        assert message(url(hub), disk / NAME) == f"{disk / NAME}: {FULL}"
        assert [path.stat().st_size for path in disk.iterdir()] == [128 << 10]
    finally:
        subprocess.run(["umount", disk], check=True)


def test_a_folder_that_is_none_is_said(hub, tmp_path):
    (tmp_path / "file").touch()
    for path in tmp_path / "file" / NAME, tmp_path / "file" / "folder" / NAME:
        assert message(url(hub), path).endswith(": check the folder")


def test_a_folder_in_the_place_of_the_file_is_said(hub, tmp_path):
    (tmp_path / NAME / "x").mkdir(parents=True)
    assert message(url(hub), tmp_path / NAME).endswith(": check the folder")


@pytest.mark.skipif(sys.platform == "win32", reason="Windows does not remove a file that is open")
def test_a_lock_that_was_left_over_stops_nobody(hub, tmp_path):
    (tmp_path / (NAME + ".lock")).touch()
    fetch(url(hub), tmp_path / NAME)
    assert names(tmp_path) == [NAME]


def test_a_lock_whose_file_was_removed_is_none(hub, tmp_path, monkeypatch):
    """Between our opening and our lock, the process before us removes the file, and a third one makes it anew."""
    real, tried = parts.try_lock, []

    def try_lock(file: Any) -> bool:
        tried.append(os.fstat(file.fileno()).st_ino)
        if len(tried) == 1:
            (tmp_path / "other").touch()
            os.replace(tmp_path / "other", tmp_path / (NAME + ".lock"))
        return real(file)

    monkeypatch.setattr(parts, "try_lock", try_lock)
    fetch(url(hub), tmp_path / NAME)
    assert len(set(tried)) == 2
    assert names(tmp_path) == [NAME]
