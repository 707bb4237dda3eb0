"""The transfer of one file: whatever the server does, it ends in a whole checked file, or in an error that helps."""

import errno
import gzip
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from email.utils import formatdate
from pathlib import Path
from typing import Any

import pytest
import requests
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.hub import (
    Answer,
    Fault,
    Hub,
    chunked,
    claim,
    cut,
    drip,
    flip,
    ignore_range,
    page,
    redirect,
    replace,
    sha256,
    stall,
    status,
    zipped,
)

from numgpt.errors import DownloadError
from numgpt.hub import transfer
from numgpt.hub.transfer import fetch

ROOT = Path(__file__).parents[2]
NAME = "model.safetensors"
RAW = b"\x08\0\0\0\0\0\0\0{" + bytes(range(256)) * 800 + b"}"
SIZE = f"{len(RAW):,}"
SMALL = b'{"n_ctx": 1024}'
SETUP = "check HF_ENDPOINT and the proxy"


@pytest.fixture(scope="module")
def server() -> Iterator[Hub]:
    with Hub() as hub:
        yield hub


def clear(hub: Hub) -> None:
    for part in (hub.repos, hub.originals, hub.plans, hub.seen):
        part.clear()  # type: ignore[attr-defined]
    hub.add("owner/name", {NAME: RAW, "config.json": SMALL})
    hub.originals["124M/vocab.bpe"] = RAW


@pytest.fixture(autouse=True)
def environment(monkeypatch) -> None:
    for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1,localhost")
    monkeypatch.setattr(transfer, "TIMEOUT", (10, 10))


@pytest.fixture
def hub(server) -> Hub:
    clear(server)
    return server


@pytest.fixture
def impatient(monkeypatch) -> None:
    monkeypatch.setattr(transfer, "TIMEOUT", (10, 0.25))


@pytest.fixture
def waits(monkeypatch) -> list[float]:
    """The waits between tries, none of which is waited for."""
    found: list[float] = []
    monkeypatch.setattr(transfer, "sleep", found.append)
    return found


def url(hub: Hub, file: str = NAME) -> str:
    return f"{hub.url}/owner/name/resolve/main/{file}"


def original(hub: Hub) -> str:
    return f"{hub.openai_url}/124M/vocab.bpe"


def message(url: str, path: Path, *args: Any, **kwargs: Any) -> str:
    with pytest.raises(DownloadError) as caught:
        fetch(url, path, *args, **kwargs)
    return str(caught.value).removeprefix(f"{url}: ")


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def run(url: str, path: Path, *args: object) -> subprocess.Popen[str]:
    """Fetch in another process."""
    code = f"from numgpt.transfer import fetch; fetch({url!r}, {str(path)!r}, *{args!r})"
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


def test_the_progress_is_told_from_nothing_to_all(hub, tmp_path):
    told: list[tuple[str, int, int | None]] = []
    fetch(url(hub), tmp_path / NAME, progress=lambda *args: told.append(args))
    assert told[0] == (NAME, 0, len(RAW))
    assert told[-1] == (NAME, len(RAW), len(RAW))
    assert [done for _, done, _ in told] == sorted(done for _, done, _ in told)


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


@pytest.mark.parametrize("fault", [chunked, zipped, drip(2000, 0), drip(40_000, 0.05)])
def test_a_body_may_come_in_other_ways(hub, tmp_path, waits, fault):
    hub.plan(NAME, fault)
    hub.plan("vocab.bpe", fault)
    fetch(url(hub), tmp_path / NAME)
    fetch(original(hub), tmp_path / "vocab.bpe")
    assert (tmp_path / NAME).read_bytes() == (tmp_path / "vocab.bpe").read_bytes() == RAW
    assert not waits


def test_the_bytes_are_on_the_disk_before_the_file_gets_its_name(hub, tmp_path, monkeypatch):
    steps: list[str] = []
    for name in "fsync", "replace":
        real = getattr(os, name)
        monkeypatch.setattr(os, name, lambda *args, name=name, real=real: (steps.append(name), real(*args))[1])
    fetch(url(hub), tmp_path / NAME)
    assert steps == ["fsync", "replace"]


# --- cuts


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


def test_a_later_process_goes_on_where_the_first_stopped(hub, tmp_path, waits):
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
    finish(run(url(hub), tmp_path / NAME))
    assert (tmp_path / NAME).read_bytes() == RAW
    assert names(tmp_path) == [NAME]
    assert hub.sent == len(RAW) - kept


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
    finish(run(url(hub), tmp_path / NAME))
    assert (tmp_path / NAME).read_bytes() == RAW
    assert names(tmp_path) == [NAME]
    assert hub.sent == len(RAW) - kept


def test_three_processes_fetch_a_file_once(hub, tmp_path):
    hub.always(NAME, drip(50_000, 0.02))
    processes = [run(url(hub), tmp_path / NAME, len(RAW), sha256(RAW)) for _ in range(3)]
    for process in processes:
        finish(process)
    assert (tmp_path / NAME).read_bytes() == RAW
    assert names(tmp_path) == [NAME]
    assert hub.sent == len(RAW)


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


# --- what passes if one tries again


ONCE: dict[str, tuple[str, list[Fault]]] = {
    "cut": (NAME, [cut(1000)]),
    "cut in the first bytes": (NAME, [cut(4)]),
    "reset": (NAME, [cut(100_000, reset=True)]),
    "nothing": (NAME, [cut(0)]),
    "stall": (NAME, [stall(100_000)]),
    "stall before the first byte": (NAME, [stall(0)]),
    "too short a length": (NAME, [claim(content_length=1000)]),
    "too long a length": (NAME, [claim(content_length=len(RAW) + 9)]),
    "an empty body": (NAME, [replace(b"")]),
    "too many bytes": (NAME, [replace(RAW + RAW)]),
    "500": (NAME, [status(500)]),
    "502, 503, 504": (NAME, [status(502), status(503), status(504)]),
    "408": ("resolve/" + NAME, [status(408)]),
    "500 of the Hub": ("resolve/" + NAME, [status(500)]),
    "the signed address expired": (NAME, [status(403)]),
    "ignored range": (NAME, [cut(100_000), ignore_range]),
    "ignored range, cut": (NAME, [cut(100_000), ignore_range, ignore_range]),
    "416": (NAME, [cut(100_000), status(416)]),
    "416 without need": (NAME, [status(416)]),
    "another range": (NAME, [cut(100_000), claim(content_range="bytes 0-9/10")]),
    "no range": (NAME, [cut(100_000), claim(content_range=None)]),
    "a range without need": (NAME, [status(206, content_range="bytes 5-9/10")]),
    "a zip that is none": (NAME, [claim(content_encoding="gzip")]),
    "another compression": (NAME, [claim(content_encoding="zstd")]),
    "a chunk without end": (NAME, [lambda answer: (chunked(answer), cut(70_000)(answer))[0]]),
    "a small file cut": ("config.json", [cut(5)]),
    "a wrong byte after a cut": (NAME, [cut(100_000), flip(50_000)]),
}


@pytest.mark.parametrize("case", ONCE)
def test_what_may_pass_is_tried_again(hub, tmp_path, waits, impatient, case):
    file, faults = ONCE[case]
    hub.plan(file, *faults)
    name = file.rpartition("/")[2]
    fetch(url(hub, name), tmp_path / name)
    assert (tmp_path / name).read_bytes() == hub.repos["owner/name"].files[name]
    assert names(tmp_path) == [name]
    assert waits or case == "too long a length"


def test_the_waits_double_and_are_drawn_by_lot(hub, tmp_path, waits):
    hub.always("resolve/" + NAME, status(503))
    said = message(url(hub), tmp_path / NAME)
    assert said == "503 Service Unavailable, 6 times in a row: run this again later"
    for wait, most in zip(waits, [0.5, 1, 2, 4, 8], strict=True):
        assert most / 2 <= wait <= most
    assert len({wait / most for wait, most in zip(waits, [0.5, 1, 2, 4, 8], strict=True)}) == 5


def test_retry_after_is_obeyed(hub, tmp_path, waits):
    hub.plan("resolve/" + NAME, status(429, retry_after=7), status(503, retry_after=formatdate(time.time() + 60)))
    hub.plan(NAME, status(429, retry_after="soon"), status(429, retry_after=0))
    fetch(url(hub), tmp_path / NAME)
    assert waits[0] == 7
    assert 57 < waits[1] <= 60
    assert 1 <= waits[2] <= 2
    assert waits[3] == 0


def test_whoever_asks_to_wait_too_long_is_not_waited_for(hub, tmp_path, waits):
    hub.plan("resolve/" + NAME, status(429, retry_after=301))
    said = message(url(hub), tmp_path / NAME)
    assert said == "429 Too Many Requests: the server asks to wait 301 s: run this again then"
    assert not waits


# --- what does not pass


def login(of: str) -> str:
    return (
        f"begins with {of}, a web page or an error page: a proxy or a login page may be in between, look at the "
        "address in a browser"
    )


WRONG = sha256(RAW[:99] + b"\x5b" + RAW[100:])
NEVER: dict[str, tuple[str, Fault, str]] = {
    "a wrong byte": (
        NAME,
        flip(99),
        f"sha256 {WRONG}, expected {sha256(RAW)}: the bytes were removed; run this again, and if it is the same again, "
        "the server or a proxy changes the file",
    ),
    "a web page": (NAME, page(), login("b'<!DOCTYPE html><title>Log in</ti'")),
    "a web page for JSON": ("config.json", page(body=b"\n<html>"), login(r"b'\n<html>'")),
    "XML": ("config.json", page(body=b"\xef\xbb\xbf<?xml?>"), login(r"b'\xef\xbb\xbf<?xml?>'")),
    "a page of text": (
        "config.json",
        page(body=b"Please log in"),
        "begins with b'Please log in', no JSON object: a proxy or a login page may be in between, look at the address "
        "in a browser",
    ),
    "a Git LFS pointer": (
        NAME,
        replace(b"version https://git-lfs.github.com/spec/v1\noid sha256:0"),
        "begins with b'version https://git-lfs.github.c', a Git LFS pointer, not the file that it stands for: a proxy "
        "or a login page may be in between, look at the address in a browser",
    ),
    "no safetensors": (
        NAME,
        replace(b"PK\x03\x04" * 99),
        r"begins with b'PK\x03\x04PK\x03\x04PK\x03\x04PK\x03\x04PK\x03\x04PK\x03\x04PK\x03\x04PK\x03\x04', no "
        "safetensors file: a proxy or a login page may be in between, look at the address in a browser",
    ),
    "401": (
        "resolve/" + NAME,
        status(401),
        "401 Unauthorized: check the name; if the model is private or gated, set HF_TOKEN to a token that may read it, "
        "from huggingface.co/settings/tokens",
    ),
    "403": (
        "resolve/" + NAME,
        status(403),
        "403 Forbidden: accept the terms on the model's page, with the account that HF_TOKEN is of; the token must be "
        "one that may read it",
    ),
    "404": ("resolve/" + NAME, page(404), "404 Not Found: check the name and the revision"),
    "410": ("resolve/" + NAME, status(410), "410 Gone: check the name and the revision"),
    "418": ("resolve/" + NAME, status(418), f"418 I'm a Teapot: {SETUP}"),
    "204": ("resolve/" + NAME, status(204), f"204 No Content: {SETUP}"),
    "300": ("resolve/" + NAME, status(300), f"300 Multiple Choices: {SETUP}"),
    "404 of the other host": (NAME, status(404), "HOST: 404 Not Found: check the name and the revision"),
    "a redirect to a file": (
        "resolve/" + NAME,
        redirect("file:///etc/passwd"),
        f"redirects from http to file, which is not safe: {SETUP}",
    ),
    "a redirect to nowhere": (
        "resolve/" + NAME,
        redirect("http://[::1/"),
        f"no address of a server, or it redirects to none (ValueError): {SETUP}",
    ),
    "a redirect to a port": (
        "resolve/" + NAME,
        redirect("http://localhost:99999/"),
        f"no address of a server, or it redirects to none (ValueError): {SETUP}",
    ),
    "no words": ("resolve/" + NAME, status(401, x_error_message="\x07"), "401 Unauthorized: check the name;"),
}


@pytest.mark.parametrize("case", NEVER)
def test_what_does_not_pass_is_said_at_once(hub, tmp_path, waits, case):
    file, fault, expected = NEVER[case]
    name = file.rpartition("/")[2]
    hub.always(file, fault)
    (tmp_path / name).write_bytes(b"as it was")
    host = hub.other_url.removeprefix("http://")
    said = message(url(hub, name), tmp_path / name).removeprefix(hub.url.removeprefix("http://") + ": ")
    assert said.replace(host, "HOST").startswith(expected)
    assert said.replace(host, "HOST") == expected or expected.endswith(";")
    assert names(tmp_path) == [name]
    assert (tmp_path / name).read_bytes() == b"as it was"
    assert not waits


FOREVER: dict[str, tuple[Fault, str]] = {
    "cut": (cut(0, reset=True), "HOST: the connection was cut"),
    "stall": (stall(0), "HOST: no byte for 0.25 s"),
    "too short": (replace(RAW[:0]), f"the answer ended after 0 of {SIZE} bytes"),
    "too long": (replace(RAW + b"!" * 20_000), f"more bytes came than the {SIZE} of the file"),
    "500": (status(500), "HOST: 500 Internal Server Error"),
    "403 of the other host": (status(403), "HOST: 403 Forbidden, as if the signed address had expired"),
    "no zip": (claim(content_encoding="gzip"), "HOST: the answer can't be unpacked"),
    "zstd": (claim(content_encoding="zstd"), "the answer is compressed as zstd, unasked"),
    "416": (status(416), "asked for the bytes from 0 on, it answered 416 (no range)"),
    "206": (
        status(206, content_range="bytes 3-9/10"),
        "asked for the bytes from 0 on, it answered 206 (bytes 3-9/10)",
    ),
}


@pytest.mark.parametrize("case", FOREVER)
@pytest.mark.thorough
def test_what_never_passes_is_given_up(hub, tmp_path, waits, impatient, case):
    fault, expected = FOREVER[case]
    hub.always(NAME, fault)
    said = message(url(hub), tmp_path / NAME).replace(hub.other_url.removeprefix("http://"), "HOST")
    assert said == f"{expected}, 6 times in a row: run this again later"
    assert not names(tmp_path)
    assert len(waits) == 5


def test_a_server_that_is_not_there(tmp_path, waits):
    said = message("http://127.0.0.1:1/x", tmp_path / NAME)
    assert said == "127.0.0.1:1: Connection refused, 6 times in a row: run this again later"


def test_no_safe_connection_is_said_at_once(hub, tmp_path, waits):
    said = message(url(hub).replace("http:", "https:"), tmp_path / NAME)
    assert re.fullmatch(
        r"127\.0\.0\.1:\d+: no safe connection \(\w[\w ]+\): check the clock; behind the proxy of a company, set "
        "REQUESTS_CA_BUNDLE to its certificate",
        said,
    )
    assert not waits


@pytest.mark.parametrize(
    "address", ["huggingface.co/x", "ftp://127.0.0.1/x", "http://[::1", "http://", "http://a:99999/x", ""]
)
def test_an_address_that_is_none(tmp_path, waits, address):
    assert SETUP in message(address, tmp_path / NAME)
    assert not names(tmp_path)


def test_redirects_in_a_circle_end(hub, tmp_path):
    hub.always("resolve/" + NAME, redirect(f"/owner/name/resolve/main/{NAME}"))
    said = message(url(hub), tmp_path / NAME)
    assert said == f"redirected more than 10 times, last to {hub.url.removeprefix('http://')}: {SETUP}"
    assert len(hub.seen) == 11


def test_no_redirect_leads_from_https_to_http():
    with pytest.raises(DownloadError, match=r"^hub\.example: redirects from https to http, which is not safe: "):
        transfer._next_address("https://hub.example/x", "http://127.0.0.1/y")
    with pytest.raises(DownloadError, match="redirects from http to nowhere"):
        transfer._next_address("http://hub.example/x", "http://[::1/")
    assert transfer._next_address("http://hub.example/x", "https://b/y") == "https://b/y"
    assert transfer._next_address("https://hub.example:8/x", "//b/y") == "https://b/y"


def test_another_file_than_the_known_one_is_refused(hub, tmp_path):
    said = message(url(hub), tmp_path / NAME, len(RAW) + 1)
    same = "it is not the file that numgpt knows; if HF_ENDPOINT is set, try without"
    assert said == f"the server has size {len(RAW)}, expected {len(RAW) + 1}: {same}"
    said = message(url(hub), tmp_path / NAME, None, "0" * 64)
    assert said == f"the server has sha256 {sha256(RAW)}, expected {'0' * 64}: {same}"
    assert not names(tmp_path)


def test_a_weak_tag_of_the_hub_is_a_hash_too(hub, tmp_path):
    hub.plan("resolve/" + NAME, claim(x_linked_etag=f'W/"{sha256(RAW)}"'))
    hub.plan(NAME, flip(99))
    assert message(url(hub), tmp_path / NAME).startswith("sha256 ")


def test_the_hash_of_a_small_file_is_checked_too(hub, tmp_path):
    hub.always("config.json", flip(5))
    assert message(url(hub, "config.json"), tmp_path / "config.json").startswith("git ")
    hub.always("vocab.bpe", flip(5))
    assert message(original(hub), tmp_path / "vocab.bpe").startswith("md5 ")
    assert not names(tmp_path)


def test_without_length_and_hash_nothing_is_taken(hub, tmp_path):
    hub.always("vocab.bpe", claim(content_length=None, content_md5=None))
    said = message(original(hub), tmp_path / "vocab.bpe")
    assert said == f"the server tells neither length nor hash, so a cut would not be seen: {SETUP}"


# --- headers


def test_a_token_is_sent_to_its_host_only(hub, tmp_path, monkeypatch):
    (tmp_path / "netrc").write_text(
        "machine 127.0.0.1 login me password secret\nmachine localhost login me password x\n"
    )
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    for file in NAME, "config.json":
        fetch(url(hub, file), tmp_path / file, headers={"Authorization": "Bearer hf_good"})
    assert {request.headers.get("Authorization") for request in hub.requests("/signed/")} == {None}
    assert {request.headers["Authorization"] for request in hub.requests("/owner/")} == {"Bearer hf_good"}
    assert {request.headers["Authorization"] for request in hub.requests("/api/resolve-cache/")} == {"Bearer hf_good"}
    assert {request.headers["Accept-Encoding"] for request in hub.seen} == {"identity"}


def test_a_wrong_token_is_said(hub, tmp_path):
    said = message(url(hub), tmp_path / NAME, headers={"Authorization": "Bearer hf_bad"})
    assert said.startswith(
        "401 Unauthorized (Invalid credentials in Authorization header): the token that was sent may be wrong or have "
        "expired; check the name; "
    )
    assert "hf_bad" not in said


def test_no_message_shows_a_signed_address(hub, tmp_path, waits):
    hub.plan("resolve/" + NAME, *[redirect("http://127.0.0.1:1/x?Signature=secret")] * 6)
    assert "secret" not in message(url(hub), tmp_path / NAME)
    hub.plan("resolve/" + NAME, redirect("http://me:pass@127.0.0.1:1 /x?Signature=secret"))
    assert "secret" not in message(url(hub), tmp_path / NAME)


def test_a_given_session_stays_open(hub, tmp_path):
    with requests.Session() as session:
        fetch(url(hub), tmp_path / NAME, session=session)
        fetch(url(hub, "config.json"), tmp_path / "config.json", session=session)
        assert session.get(hub.url).status_code == 404


def test_offline_nothing_is_fetched(hub, tmp_path, monkeypatch):
    for name, value in (("HF_HUB_OFFLINE", "1"), ("TRANSFORMERS_OFFLINE", "yes")):
        with monkeypatch.context() as patch:
            patch.setenv(name, value)
            said = message(url(hub), tmp_path / NAME)
            assert said == "not fetched, as HF_HUB_OFFLINE is set: unset it, and run this again"
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    fetch(url(hub), tmp_path / NAME)


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
        monkeypatch.setattr(transfer, "check_space", lambda folder, needed: None)
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
    real, tried = transfer.try_lock, []

    def try_lock(file: Any) -> bool:
        tried.append(os.fstat(file.fileno()).st_ino)
        if len(tried) == 1:
            (tmp_path / "other").touch()
            os.replace(tmp_path / "other", tmp_path / (NAME + ".lock"))
        return real(file)

    monkeypatch.setattr(transfer, "try_lock", try_lock)
    fetch(url(hub), tmp_path / NAME)
    assert len(set(tried)) == 2
    assert names(tmp_path) == [NAME]


# --- all at once

FAULTS: list[Fault] = [fault for file, faults in ONCE.values() if file == NAME for fault in faults]
FAULTS += [fault for file, fault, _ in NEVER.values() if file == NAME]


@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(
    faults=st.lists(st.sampled_from([fault for fault in FAULTS if "stall" not in fault.__qualname__]), max_size=9),
    first=st.lists(st.sampled_from([status(500), status(429, retry_after=1), redirect("/x"), page()]), max_size=2),
    known=st.booleans(),
)
@pytest.mark.thorough
def test_any_faults_end_in_the_whole_file_or_an_error(hub, waits, impatient, tmp_path_factory, faults, first, known):
    clear(hub)
    hub.plan(NAME, *faults)
    hub.plan("resolve/" + NAME, *first)
    folder = tmp_path_factory.mktemp("any")
    with requests.Session() as session:
        for _ in range(20):
            try:
                fetch(url(hub), folder / NAME, *(len(RAW), sha256(RAW)) * known, session=session)
                break
            except DownloadError:
                assert not (folder / NAME).exists()
    assert (folder / NAME).read_bytes() == RAW
    assert names(folder) == [NAME]
    shutil.rmtree(folder)
