"""Fetch one file over HTTP: whole and checked, or not at all.

Until it is whole, the bytes of FILE lie beside it in FILE.KEY.part. KEY stands for the address and the version, so a
part is only ever continued with bytes of the same file: after a cut, and in a later process too.

The Hugging Face Hub answers a request for a file with redirects. Only its first answer tells the hash (X-Linked-ETag:
the sha256 of a large file, the git hash of a small one) and the size (X-Linked-Size). A large file lies on another
host, at an address that is signed, expires soon, and holds for the very range that was asked for. So each try begins at
the Hub again, and what is meant for the Hub (a token) is sent to no other host. The Hub does not honour If-Range:
whether a part still fits, the first answer tells.

Sources: huggingface_hub, file_download.py; RFC 9110 for ranges, redirects and Retry-After.
"""

import base64
import errno
import glob
import hashlib
import os
import random
import re
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from email.utils import parsedate_to_datetime
from pathlib import Path
from time import sleep
from typing import IO, TYPE_CHECKING, NamedTuple, TypeVar
from urllib.parse import urljoin, urlsplit

from numgpt.checkpoint.disk import try_lock
from numgpt.errors import DownloadError

if TYPE_CHECKING:
    import requests

Progress = Callable[[str, int, int | None], object]  # of a file: its name, the bytes so far, and in all if known
T = TypeVar("T")

TIMEOUT = (10, 30)  # seconds to connect; seconds without a byte
TRIES = 6  # in a row that bring nothing new
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
)


def fetch(
    url: str,
    path: str | os.PathLike[str],
    size: int | None = None,
    sha256: str | None = None,
    *,
    headers: Mapping[str, str] | None = None,
    session: "requests.Session | None" = None,
    progress: Progress | None = None,
) -> None:
    """Fetch one file, whole and checked, or raise.

    url       http or https
    path      where it goes
    size      if known, in bytes
    sha256    if known, in hex; else the hash that the server tells is checked
    headers   sent to the host of `url`, and to no host that it redirects to
    session   if there is one already
    progress  called now and then as progress(name, bytes so far, bytes in all or None)
    Returns nothing. A file that is already at `path` and has the hash is not fetched again; any other is replaced. If
    another process is fetching the same file, this one waits for it.
    Raises DownloadError. `path` is then as it was before, and the same call goes on where this one stopped.
    """
    path = Path(path)
    want = Facts(size, "sha256" if sha256 else "", sha256 or "")
    if is_offline():
        raise DownloadError(f"{url}: not fetched, as HF_HUB_OFFLINE is set: unset it, and run this again")
    with open_session(session) as session, disk_errors(path), _lock(path):
        if want.kind and _is_whole(path, want):
            return
        with closing(_Part(path, url)) as part:
            tell = progress or (lambda name, done, total: None)
            persist(url, lambda: _fetch_rest(session, url, headers or {}, part, want, tell), lambda: part.size)


class Facts(NamedTuple):
    """What is known of a file. `digest` is of this `kind`: sha256, md5, git (the name of a blob), or "" for unknown."""

    size: int | None = None
    kind: str = ""
    digest: str = ""
    etag: str = ""  # the server's name for this version


class Again(Exception):
    """A try that failed, where the next may not. `wait`: as many seconds as the server asks for."""

    def __init__(self, reason: str, wait: float | None = None) -> None:
        super().__init__(reason)
        self.wait = wait


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
            if tries == TRIES:
                kept = f"; {measure():,} bytes are kept, and it goes on from there" if measure() else ""
                raise DownloadError(f"{url}: {fault}, {TRIES} times in a row: run this again later{kept}") from None
            sleep(0.5 * 2 ** (tries - 1) * random.uniform(0.5, 1) if fault.wait is None else fault.wait)


def _fetch_rest(
    session: "requests.Session", url: str, headers: Mapping[str, str], part: "_Part", known: Facts, progress: Progress
) -> None:
    """Fetch the bytes that are missing, check the whole and give it its name. Raises Again if another try may help."""
    with request(session, url, headers, part.size) as (response, told):
        _compare(url, known, told)
        want = (known if known.kind else told)._replace(size=known.size or told.size, etag=told.etag)
        if want.kind and _is_whole(part.target, want):
            return
        if part.size and not (part.is_of(want.etag) and (want.etag or want.kind)):
            part.clear()
            if response.status_code != 200:
                raise Again("what was fetched before may be of another version of the file")
        want = want._replace(size=_check_range(response, part, want.size))
        part.begin(want)
        resumed = part.size > 0
        check_space(part.target.parent, (want.size or 0) - part.size)
        if response.status_code != 416:
            _read_body(response, part, want, url, progress)
    _check_whole(url, part, want, resumed)
    part.replace()


def _compare(url: str, known: Facts, told: Facts) -> None:
    """Refuse at once a file that can't be the one that is expected."""
    theirs = told.digest if told.kind == "sha256" else ""
    for what, a, b in (("size", told.size, known.size), ("sha256", theirs, known.digest)):
        if a and b and a != b:
            raise DownloadError(
                f"{url}: the server has {what} {a}, expected {b}: it is not the file that numgpt knows; if HF_ENDPOINT "
                f"is set, try without"
            )


def _check_range(response: "requests.Response", part: "_Part", size: int | None) -> int | None:
    """Check that the answer goes on where the part ends. Where it is the whole file, the part is dropped.

    Returns the size of the file, if it is known now.
    """
    encoding = response.headers.get("Content-Encoding", "identity")
    if encoding not in ("identity", "gzip", "x-gzip", "deflate"):
        raise Again(f"the answer is compressed as {encoding:.20}, unasked")
    if response.status_code == 200:
        part.clear()
        length = response.headers.get("Content-Length", "")
        return size or (int(length) if is_number(length) and encoding == "identity" else None)
    says = response.headers.get("Content-Range", "")
    if part.size and response.status_code == 416 and part.size == size:
        return size  # nothing was left to fetch
    found = re.fullmatch(rf"bytes {part.size}-\d+/(\d+|\*)", says, re.ASCII)
    if part.size and response.status_code == 206 and encoding == "identity" and found:
        return size or (int(found[1]) if is_number(found[1]) else None)
    at = part.size
    part.clear()
    raise Again(f"asked for the bytes from {at:,} on, it answered {response.status_code} ({says[:80] or 'no range'})")


def _read_body(response: "requests.Response", part: "_Part", want: Facts, url: str, progress: Progress) -> None:
    """Append the body of an answer. Raises DownloadError if it can't be of the file, whatever the status."""
    name, fresh, head = part.target.name, not part.size, b""
    if not (want.size or want.kind or "chunked" in response.headers.get("Transfer-Encoding", "")):
        raise DownloadError(f"{url}: the server tells neither length nor hash, so a cut would not be seen: {SETUP}")
    progress(name, part.size, want.size)
    for chunk in read_chunks(response):
        if fresh and len(head) < HEAD:
            head = (head + chunk)[:HEAD]
            if wrong := wrong_start(name, head):
                part.clear()
                raise DownloadError(f"{url}: {wrong}")
        if want.size and part.size + len(chunk) > want.size:
            part.clear()
            raise Again(f"more bytes came than the {want.size:,} of the file")
        part.write(chunk)
        progress(name, part.size, want.size)


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


def _check_whole(url: str, part: "_Part", want: Facts, resumed: bool) -> None:
    if part.size < (want.size or 1):
        size = f"{want.size:,}" if want.size else "an unknown number of"
        raise Again(f"the answer ended after {part.size:,} of {size} bytes")
    got = part.digest(want.kind) if want.kind else ""
    if got == want.digest:
        return
    part.clear()
    if resumed:  # what was there before may be to blame
        raise Again(f"{want.kind} {got}, expected {want.digest}")
    raise DownloadError(
        f"{url}: {want.kind} {got}, expected {want.digest}: the bytes were removed; run this again, and if it is the "
        f"same again, the server or a proxy changes the file"
    )


class _Part:
    """The bytes of a file that are here, in FILE.KEY.part beside it, and their hash."""

    def __init__(self, target: Path, url: str) -> None:
        self.target = target
        self.stem = f"{target.name}.{_key(url)}-"
        found = list(target.parent.glob(glob.escape(self.stem) + "*.part"))
        self.path = found[0] if found else self._path_of("")
        self.size = self.path.stat().st_size if found else 0
        self.file: IO[bytes] | None = None
        self.hash = new_hash("sha256")

    def _path_of(self, etag: str) -> Path:
        return self.target.with_name(f"{self.stem}{_key(etag)}.part")

    def is_of(self, etag: str) -> bool:
        return self.path == self._path_of(etag)

    def begin(self, want: Facts) -> None:
        """Make ready for more bytes: open the file, and hash what it holds."""
        kind = want.kind if want.kind in ("sha256", "md5") else "sha256"
        if not self.size:
            self.clear()
            self.path = self._path_of(want.etag)
        if self.file is None:
            # Not for appending: where locks do not work, two processes write the same bytes to the same places.
            handle = os.open(self.path, os.O_RDWR | os.O_CREAT | getattr(os, "O_BINARY", 0), 0o666)
            self.file = os.fdopen(handle, "r+b", buffering=0)
        elif self.hash.name == kind:
            return
        self.hash = new_hash(kind)
        self.size = _hash_into(self.hash, self.file)

    def write(self, chunk: bytes) -> None:
        assert self.file is not None
        rest = memoryview(chunk)
        while rest:
            written = self.file.write(rest) or 0
            self.hash.update(rest[:written])
            self.size += written
            rest = rest[written:]

    def digest(self, kind: str) -> str:
        """Return the hash of all bytes. That of git begins with their number, so it can't be made as they come."""
        return _hash_path(self.path, "git") if kind == "git" else self.hash.hexdigest()

    def clear(self) -> None:
        """Forget all bytes."""
        self.size = 0
        self.close()
        self.path.unlink(missing_ok=True)

    def close(self) -> None:
        """Close the file, and remove it if it is empty."""
        if self.file is not None:
            self.file.close()
            self.file = None
            if not self.size:
                self.path.unlink(missing_ok=True)

    def replace(self) -> None:
        """Give the file its name, and remove the parts of its other versions."""
        assert self.file is not None
        os.fsync(self.file.fileno())
        self.close()
        os.replace(self.path, self.target)
        for old in find_parts(self.target):
            old.unlink(missing_ok=True)


# --- HTTP


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
    from requests import exceptions as e

    try:
        yield
    except e.SSLError as error:
        raise DownloadError(
            f"{_host(url)}: no safe connection ({_reason(error)}): check the clock; behind the proxy of a company, set "
            f"REQUESTS_CA_BUNDLE to its certificate"
        ) from None
    except (e.ConnectionError, e.Timeout, e.ChunkedEncodingError, e.ContentDecodingError) as error:
        raise Again(f"{_host(url)}: {_reason(error)}") from None
    except (e.RequestException, ValueError) as error:  # an address that is none
        raise DownloadError(
            f"{_host(url)}: no address of a server, or it redirects to none ({type(error).__name__}): {SETUP}"
        ) from None


def _reason(error: Exception) -> str:
    """Say in a few words what went wrong. The text of requests has the whole address in it, signature and all."""
    text, kind = str(error), type(error).__name__
    if found := re.search(r"\[(?:Errno|WinError|SSL)[^]]*\] ([^'\"()]+)", text):
        return ("the proxy: " if kind == "ProxyError" else "") + found[1].strip()
    if "timed out" in text.lower():
        return f"no connection within {TIMEOUT[0]} s" if kind == "ConnectTimeout" else f"no byte for {TIMEOUT[1]} s"
    return "the answer can't be unpacked" if kind == "ContentDecodingError" else "the connection was cut"


def _check_status(url: str, response: "requests.Response", ours: bool, with_token: bool) -> None:
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
    raise DownloadError(f"{url}: {what}: {advice}")


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


# --- the disk


@contextmanager
def _lock(path: Path) -> Iterator[None]:
    """Let one process at a time fetch a file. The system drops the lock of a process that is killed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = path.with_name(path.name + ".lock")
    while True:
        file = open(lock, "ab")  # noqa: SIM115, it stays open
        # The one before us removes the file, and then our lock may be on a file without a name.
        with suppress(FileNotFoundError):
            if try_lock(file) and os.path.samestat(os.fstat(file.fileno()), lock.stat()):
                break
        file.close()
        sleep(0.1)
    try:
        yield
    finally:
        if sys.platform == "win32":  # there an open file can't be removed; nor this one, if somebody waits
            file.close()
        with suppress(OSError):
            lock.unlink()
        file.close()


@contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Turn what the system says of a file into a DownloadError."""
    try:
        yield
    except DownloadError:
        raise
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise DownloadError(
                f"{path}: the disk is full: make room, or choose another place with NUMGPT_WEIGHTS, and run this "
                f"again; what was fetched is kept"
            ) from None
        raise DownloadError(f"{error.filename or path}: {error.strerror}: check the folder") from None


def check_space(folder: Path, needed: int) -> None:
    """Raise DownloadError if a folder, which may not exist yet, has no room for as many bytes."""
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise DownloadError(
            f"{folder}: {needed:,} more bytes are needed, {free:,} are free: make room, or choose another place with "
            f"NUMGPT_WEIGHTS, and run this again"
        )


def find_parts(path: Path) -> list[Path]:
    """Return the parts of a file, of any version."""
    return list(path.parent.glob(glob.escape(path.name) + ".*-*.part"))


def _key(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def new_hash(kind: str, start: bytes = b"") -> "hashlib._Hash":
    """Begin a hash. MD5 and SHA-1 are no protection, but all that some servers tell."""
    return hashlib.new(kind, start, usedforsecurity=False)


def _hash_into(hash: "hashlib._Hash", file: IO[bytes]) -> int:
    """Hash a file from its first byte, and return its size."""
    file.seek(0)
    while chunk := file.read(1 << 20):
        hash.update(chunk)
    return file.tell()


def _hash_path(path: Path, kind: str) -> str:
    # git hashes a file behind its size: b"blob 665\0{..."
    hash = new_hash("sha1", b"blob %d\0" % path.stat().st_size) if kind == "git" else new_hash(kind)
    with open(path, "rb", buffering=0) as file:
        _hash_into(hash, file)
    return hash.hexdigest()


def _is_whole(path: Path, want: Facts) -> bool:
    if not path.is_file() or (want.size and path.stat().st_size != want.size):
        return False
    return _hash_path(path, want.kind) == want.digest
