"""Ask a server over HTTP: requests and redirects, what the answers tell, and when to try again.

The Hugging Face Hub answers a request for a file with redirects. Only its first answer tells the hash (X-Linked-ETag:
the sha256 of a large file, the git hash of a small one) and the size (X-Linked-Size). A large file lies on another
host, at an address that is signed, expires soon, and holds for the very range that was asked for. So each try begins at
the Hub again, and what is meant for the Hub (a token) is sent to no other host. The Hub does not honour If-Range:
whether a part still fits, the first answer tells.

Sources: huggingface_hub, file_download.py; RFC 9110 for ranges, redirects and Retry-After.
"""

import base64
import os
import random
import re
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from email.utils import parsedate_to_datetime
from time import sleep
from typing import TYPE_CHECKING, TypeVar
from urllib.parse import urljoin, urlsplit

from numgpt.errors import DownloadError
from numgpt.hub.parts import Facts

if TYPE_CHECKING:
    import requests

T = TypeVar("T")

TIMEOUT = (10, 30)  # seconds to connect; seconds without a byte
TRIES = 6  # in a row that bring nothing new
UNRESOLVED_TRIES = 2  # of a name that has no address
MAX_WAIT = 300  # seconds between two tries
MAX_REDIRECTS = 10
CHUNK = 1 << 14  # bytes read at a time; a cut loses less than that
HEAD = 64  # bytes that tell a file from a web page

SETUP = "check HF_ENDPOINT and the proxy"
ADVICE = {
    401: "check the name; if the model is private or gated, set HF_TOKEN to a token that may read it, from "
    "huggingface.co/settings/tokens",
    403: "accept the terms on the model's page, with the account that HF_TOKEN is of; the token must be one that may "
    "read it",
    404: "check the name and the revision",
    410: "check the name and the revision",
}
WRONG_STARTS = (  # how files of some names can't begin, and what begins so
    ("", rb"(?i)(\xef\xbb\xbf)?\s*<(!doctype|html|head|\?xml|error|!--)", "a web page or an error page"),
    ("", rb"version https://git-lfs", "a Git LFS pointer, not the file that it stands for"),
    (".json", rb"\s*[^{\s]", "no JSON object"),
    (".safetensors", rb"(?s).{8}[^{]", "no safetensors file"),
    (".bin", rb"[^P\x80]", "no file of torch.save"),
    (".h5", rb"[^\x89]", "no HDF5 file"),
    (".msgpack", rb"[^\x81-\x8f\xde\xdf]", "no file of Flax"),
)


class Refused(DownloadError):
    """An answer that says no, so that the same question again would be of no use."""


class Again(Exception):
    """A try that failed, where the next may not. `wait`: as many seconds as the server asks for."""

    def __init__(self, reason: str, wait: float | None = None) -> None:
        super().__init__(reason)
        self.wait = wait


class Unresolved(Again):
    """A host whose name has no address: it is misspelt, or there is no network. Waiting for long helps neither."""


def persist(url: str, attempt: Callable[[], T], measure: Callable[[], int] = lambda: 0) -> T:
    """Try until it works, or until TRIES in a row brought not one byte more. Each wait is about twice the last."""
    most, tries = measure(), 0
    while True:
        try:
            return attempt()
        except Again as fault:
            if measure() > most:
                most, tries = measure(), 0
            tries += 1
            if isinstance(fault, Unresolved) and tries == UNRESOLVED_TRIES:
                raise DownloadError(
                    f"{fault}: there is no network, or no such host: give a folder with the model's files, or set "
                    f"HF_ENDPOINT to a mirror; what is in the Hugging Face cache needs no network"
                ) from None
            if tries == TRIES:
                kept = f"; {measure():,} bytes are kept, and it goes on from there" if measure() else ""
                raise DownloadError(f"{url}: {fault}, {TRIES} times in a row: run this again later{kept}") from None
            sleep(0.5 * 2 ** (tries - 1) * random.uniform(0.5, 1) if fault.wait is None else fault.wait)


@contextmanager
def request(
    session: "requests.Session", url: str, headers: Mapping[str, str], start: int = 0
) -> Iterator[tuple["requests.Response", Facts]]:
    """Ask for a file from byte `start` on. Give the answer behind all redirects, and what the first answer told.

    The answer's status is 200, 206 or 416. Raises DownloadError, or Again if another try may help.
    """
    told, here = Facts(), url
    for hop in range(MAX_REDIRECTS + 1):
        ours = _origin(here) == _origin(url)
        send = {"User-Agent": "numgpt", "Accept-Encoding": "identity", **(headers if ours else {})}
        if start:
            send["Range"] = f"bytes={start}-"
        with _get(session, here, send) as response:
            _check_status(url, response, ours, "Authorization" in send)
            if hop == 0:
                told = _read_headers(response)
            if not response.is_redirect:
                yield response, told
                return
            here = _next_address(here, response.headers["Location"])
    raise DownloadError(f"{url}: redirected more than {MAX_REDIRECTS} times, last to {_host(here)}: {SETUP}")


def _get(session: "requests.Session", url: str, headers: dict[str, str]) -> "requests.Response":
    # An `auth` that does nothing: else requests replaces our token by what ~/.netrc has for the host.
    with _network_errors(url):
        return session.get(url, headers=headers, auth=lambda r: r, allow_redirects=False, stream=True, timeout=TIMEOUT)


def read_chunks(response: "requests.Response") -> Iterator[bytes]:
    """Give the body as it comes, unpacked if it was compressed."""
    with _network_errors(response.url):
        yield from response.iter_content(CHUNK)


@contextmanager
def _network_errors(url: str) -> Iterator[None]:
    """Turn what requests raises into a DownloadError, or into Again if another try may help."""
    from requests import exceptions as e

    try:
        yield
    except e.SSLError as error:
        raise DownloadError(
            f"{_host(url)}: no safe connection ({_reason(error)}): check the clock; behind the proxy of a company, set "
            f"REQUESTS_CA_BUNDLE to its certificate"
        ) from None
    except (e.ConnectionError, e.Timeout, e.ChunkedEncodingError, e.ContentDecodingError) as error:
        kind = Unresolved if is_unresolved(error) else Again
        raise kind(f"{_host(url)}: {_reason(error)}") from None
    except (e.RequestException, ValueError) as error:  # an address that is none
        raise DownloadError(
            f"{_host(url)}: no address of a server, or it redirects to none ({type(error).__name__}): {SETUP}"
        ) from None


def is_unresolved(error: BaseException | None) -> bool:
    """Whether the cause of an error is that a name has no address, however it is wrapped."""
    seen = 0
    while error is not None and seen < 10:
        if isinstance(error, socket.gaierror):
            return True
        inner = [part for part in (*error.args, getattr(error, "reason", None)) if isinstance(part, BaseException)]
        error, seen = error.__cause__ or error.__context__ or (inner[0] if inner else None), seen + 1
    return False


def _reason(error: Exception) -> str:
    """Say in a few words what went wrong. The text of requests has the whole address in it, signature and all."""
    text, kind = str(error), type(error).__name__
    if found := re.search(r"\[(?:Errno|WinError|SSL)[^]]*\] ([^'\"()]+)", text):
        return ("the proxy: " if kind == "ProxyError" else "") + found[1].strip()
    if "timed out" in text.lower():
        return f"no connection within {TIMEOUT[0]} s" if kind == "ConnectTimeout" else f"no byte for {TIMEOUT[1]} s"
    return "the answer can't be unpacked" if kind == "ContentDecodingError" else "the connection was cut"


def _check_status(url: str, response: "requests.Response", ours: bool, with_token: bool) -> None:
    """Raise for a status that is no answer: Again if another try may help, else DownloadError with what to do."""
    status = response.status_code
    if status in (200, 206, 416) or response.is_redirect:
        return
    said = response.headers.get("X-Error-Message", "")
    what = f"{status} {response.reason}" + (f" ({said:.200})" if said and said.isprintable() else "")
    if not ours:
        what = f"{_host(response.url)}: {what}"
    if status == 403 and not ours:
        raise Again(f"{what}, as if the signed address had expired")
    if status in (408, 425, 429) or status >= 500:
        wait = _read_retry_after(response.headers.get("Retry-After", ""))
        if wait and wait > MAX_WAIT:
            raise DownloadError(f"{url}: {what}: the server asks to wait {wait:.0f} s: run this again then")
        raise Again(what, wait)
    advice = ADVICE.get(status, SETUP)
    if status == 401 and with_token:
        advice = f"the token that was sent may be wrong or have expired; {advice}"
    raise Refused(f"{url}: {what}: {advice}")


def _read_retry_after(value: str) -> float | None:
    """Read a Retry-After: seconds, or a date. None where it is neither.

    >>> _read_retry_after("7"), _read_retry_after("Wed, 21 Oct 2015 07:28:00 GMT"), _read_retry_after("soon")
    (7.0, 0.0, None)
    """
    if is_number(value):
        return float(value)
    try:
        return max(0.0, parsedate_to_datetime(value).timestamp() - time.time())
    except (ValueError, TypeError, OverflowError):
        return None


def _next_address(here: str, location: str) -> str:
    """Return where a redirect leads. Raises DownloadError for other schemes, and for http from https.

    >>> _next_address("https://hub.example/a/b", "/c?d")
    'https://hub.example/c?d'
    """
    try:
        there = urljoin(here, location)
    except ValueError:
        there = ""
    old, new = _origin(here)[0], _origin(there)[0]
    if new == "https" or old == new == "http":
        return there
    raise DownloadError(f"{_host(here)}: redirects from {old} to {new or 'nowhere'}, which is not safe: {SETUP}")


def _read_headers(response: "requests.Response") -> Facts:
    """Read what the first answer tells of the file, in the Hub's own headers or in those of OpenAI's server."""
    get = response.headers.get
    etag, size = get("X-Linked-ETag", "").removeprefix("W/").strip('"'), get("X-Linked-Size", "")
    digest = etag if re.fullmatch("[0-9a-f]*", etag) else ""
    kind = {40: "git", 64: "sha256"}.get(len(digest), "")
    if not kind:
        # Content-MD5 is that of the body. With a part of a file, Azure sends that of the whole by another name.
        md5 = get("Content-MD5" if response.status_code == 200 else "x-ms-blob-content-md5", "")
        with suppress(ValueError):
            digest = base64.b64decode(md5, validate=True).hex()
        kind, digest = ("md5", digest) if len(digest) == 32 else ("", "")
    return Facts(int(size) if is_number(size) else None, kind, digest, etag or get("ETag", ""))


def is_number(text: str) -> bool:
    """Tell whether a header is a number of bytes or seconds that a server can mean."""
    return text.isascii() and text.isdecimal() and len(text) < 20


def _origin(url: str) -> tuple[str, str | None, int | None]:
    """Return scheme, host and port: what the addresses of one server share."""
    try:
        parts = urlsplit(url)
        return parts.scheme, parts.hostname, parts.port or {"http": 80, "https": 443}.get(parts.scheme)
    except ValueError:
        return "", None, None


def _host(url: str) -> str:
    """Return the host of an address, for a message: neither a password nor a signature is in it."""
    return (urlsplit(url).netloc.rpartition("@")[2] if _origin(url)[0] else "") or f"{url!r:.80}"


@contextmanager
def open_session(given: "requests.Session | None" = None) -> Iterator["requests.Session"]:
    """Give a session of requests: the given one, or a new one that is closed afterwards."""
    if given is not None:
        yield given
        return
    import requests

    with requests.Session() as session:
        yield session


def is_offline() -> bool:
    """Tell whether the user forbids all network, as huggingface_hub reads it."""
    names = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")
    return any(os.environ.get(name, "").upper() in ("1", "ON", "YES", "TRUE") for name in names)


def wrong_start(name: str, head: bytes) -> str:
    """Say what is wrong with a file that begins so, or return "".

    >>> wrong_start("config.json", b'{"n_ctx": 1024}'), wrong_start("merges.txt", b"<html>")[:38]
    ('', "begins with b'<html>', a web page or a")
    """
    for suffix, pattern, what in WRONG_STARTS:
        if name.endswith(suffix) and re.match(pattern, head):
            return (
                f"begins with {head[:32]!r}, {what}: a proxy or a login page may be in between, look at the address in "
                f"a browser"
            )
    return ""
