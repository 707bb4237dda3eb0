"""Whatever a server does, a transfer ends in the whole checked file, or in an error that helps."""

import re
import shutil
import time
from email.utils import formatdate

import pytest
import requests
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.hub import (
    Fault,
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
from support.transfers import NAME, RAW, SIZE, clear, message, names, original, url

from numgpt.errors import DownloadError
from numgpt.hub import web
from numgpt.hub.download import fetch

SETUP = "check HF_ENDPOINT and the proxy"


def test_the_progress_is_told_from_nothing_to_all(hub, tmp_path):
    told: list[tuple[str, int, int | None]] = []
    fetch(url(hub), tmp_path / NAME, progress=lambda *args: told.append(args))
    assert told[0] == (NAME, 0, len(RAW))
    assert told[-1] == (NAME, len(RAW), len(RAW))
    assert [done for _, done, _ in told] == sorted(done for _, done, _ in told)


@pytest.mark.parametrize("fault", [chunked, zipped, drip(2000, 0), drip(40_000, 0.01)])
def test_a_body_may_come_in_other_ways(hub, tmp_path, waits, fault):
    hub.plan(NAME, fault)
    hub.plan("vocab.bpe", fault)
    fetch(url(hub), tmp_path / NAME)
    fetch(original(hub), tmp_path / "vocab.bpe")
    assert (tmp_path / NAME).read_bytes() == (tmp_path / "vocab.bpe").read_bytes() == RAW
    assert not waits


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
        web._next_address("https://hub.example/x", "http://127.0.0.1/y")
    with pytest.raises(DownloadError, match="redirects from http to nowhere"):
        web._next_address("http://hub.example/x", "http://[::1/")
    assert web._next_address("http://hub.example/x", "https://b/y") == "https://b/y"
    assert web._next_address("https://hub.example:8/x", "//b/y") == "https://b/y"


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
