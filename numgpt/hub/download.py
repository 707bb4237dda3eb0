"""Fetch checkpoints by name: from the Hugging Face Hub, and OpenAI's originals.

A download ends in one of two ways: each file is whole, checked and under its name, or a DownloadError says what
happened and what to do, and the next call goes on from there. The same holds for one file, which `fetch` gets: web.py
asks for its bytes, parts.py keeps them.

Of a model on the Hub we ask first for the list of its files at a revision. The answer has the commit, which we keep to
from there on, and with `blobs=true` the sizes, and the sha256 of large files. Only files that we read are fetched.

Environment, as huggingface_hub reads it: HF_ENDPOINT, HF_TOKEN, HF_TOKEN_PATH. NUMGPT_OPENAI_URL names a mirror of
OpenAI's originals.

Sources: huggingface_hub, hf_api.py (the list), constants.py (the environment) and file_download.py (ranges).
"""

import json
import os
import re
from collections.abc import Callable, Mapping
from contextlib import closing, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from numgpt.errors import DownloadError
from numgpt.hub.folders import hf_home, read_shards
from numgpt.hub.parts import Facts, Part, bytes_left, check_space, disk_errors, is_whole, lock
from numgpt.hub.registry import OPENAI_FILES, File, Source, choose_files, parse_name
from numgpt.hub.web import (
    HEAD,
    SETUP,
    Again,
    Refused,
    is_number,
    is_offline,
    open_session,
    persist,
    read_chunks,
    request,
    wrong_start,
)

if TYPE_CHECKING:
    import requests

Progress = Callable[[str, int, int | None], object]  # of a file: its name, the bytes so far, and in all if known

HUB_URL = "https://huggingface.co"
OPENAI_URL = "https://openaipublic.blob.core.windows.net/gpt-2/models"

RECORD = "download.json"  # lies in a folder that is whole, and says whose files these are
MAX_LIST = 1 << 25  # bytes of a list of files


def download(name: str, folder: str | os.PathLike[str], *, progress: Progress | None = None) -> Path:
    """Fetch those files of a checkpoint that are not there yet.

    name      a known name, such as "gpt2" or "124M"; or "owner/name" or "owner/name@revision" on the Hub
    folder    where they go; it is made if need be
    progress  called now and then as progress(file, bytes so far, bytes in all or None)
    Returns the folder. One that is whole stays as it is, without a look at the network: to follow a branch that moved,
    delete the folder's download.json.
    Raises DownloadError. What was fetched is kept: the same call goes on from there.
    """
    folder, source = Path(folder), parse_name(name)
    missing = _find_missing(folder, source)
    if missing == []:
        return folder
    if is_offline():
        what = "has no " + ", ".join(missing) if missing else "is not known to hold all its files"
        raise DownloadError(f"{name}: {folder} {what}, and HF_HUB_OFFLINE is set: unset it, and run this again")

    with open_session() as session, disk_errors(folder):
        headers = _auth_header() if source.repo else {}
        base, commit, files = _list_files(session, source, headers)
        names = choose_files(files, name) if source.repo else list(OPENAI_FILES)
        check_space(folder, sum(bytes_left(folder / file, files[file].size) for file in names))
        for file in names:  # grows by the shards, when their index has come
            fetch(f"{base}/{file}", folder / file, *files[file], headers=headers, session=session, progress=progress)
            if file.endswith(".index.json"):
                shards = read_shards(folder / file, files)
                check_space(folder, sum(bytes_left(folder / shard, files[shard].size) for shard in shards))
                names += shards
        sizes = {file: (folder / file).stat().st_size for file in names}
        _write_record(folder, {"source": _label(source), "commit": commit, "files": sizes})
    return folder


# --- one file


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
    with open_session(session) as session, disk_errors(path), lock(path):
        if want.kind and is_whole(path, want):
            return
        with closing(Part(path, url)) as part:
            tell = progress or (lambda name, done, total: None)
            persist(url, lambda: _fetch_rest(session, url, headers or {}, part, want, tell), lambda: part.size)


def _fetch_rest(
    session: "requests.Session", url: str, headers: Mapping[str, str], part: Part, known: Facts, progress: Progress
) -> None:
    """Fetch the bytes that are missing, check the whole and give it its name. Raises Again if another try may help."""
    with request(session, url, headers, part.size) as (response, told):
        _compare(url, known, told)
        want = (known if known.kind else told)._replace(size=known.size or told.size, etag=told.etag)
        if want.kind and is_whole(part.target, want):
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


def _check_range(response: "requests.Response", part: Part, size: int | None) -> int | None:
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


def _read_body(response: "requests.Response", part: Part, want: Facts, url: str, progress: Progress) -> None:
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


def _check_whole(url: str, part: Part, want: Facts, resumed: bool) -> None:
    """Check the size and the hash of what was fetched. What is wrong is dropped."""
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


# --- the Hub's list of files


def _list_files(
    session: "requests.Session", source: Source, headers: Mapping[str, str]
) -> tuple[str, str, dict[str, File]]:
    """Return the address that the files are below, the commit, and what is known of each file."""
    if not source.repo:
        base = os.environ.get("NUMGPT_OPENAI_URL") or OPENAI_URL
        files = {name: source.files.get(name, File()) for name in OPENAI_FILES}
        return f"{base.rstrip('/')}/{source.revision}", source.revision, files
    base = f"{endpoint()}/api/models/{source.repo}/revision/{quote(source.revision, safe='')}"
    url = f"{base}?blobs=true"
    try:
        answer = persist(url, lambda: _fetch_list(session, url, headers))
    except Refused as refused:
        try:  # a mirror may know the address and no query; sizes and hashes are then missing
            answer = persist(base, lambda: _fetch_list(session, base, headers))
        except DownloadError:
            raise refused from None
    try:
        files = {entry["rfilename"]: _read_entry(entry) for entry in answer["siblings"]}
        commit = answer["sha"]
        sound = isinstance(commit, str) and re.fullmatch("[0-9a-f]{40}", commit)
    except (KeyError, TypeError, AttributeError):
        sound = None
    if not sound:
        raise DownloadError(f"{url}: no list of files with a commit, as the Hub sends it: {SETUP}")
    for name, (size, sha256) in source.files.items():
        if name in files:
            files[name] = File(size or files[name].size, sha256 or files[name].sha256)
    return f"{endpoint()}/{source.repo}/resolve/{commit}", commit, files


def _fetch_list(session: "requests.Session", url: str, headers: Mapping[str, str]) -> Any:
    """Ask once for the list of files. Raises Again if another try may help."""
    body = b""
    with request(session, url, headers) as (response, _):
        for chunk in read_chunks(response):
            body += chunk
            if len(body) > MAX_LIST:
                raise DownloadError(f"{url}: the list of files is longer than {MAX_LIST:,} bytes: {SETUP}")
    if wrong := wrong_start("list.json", body[:HEAD]):
        raise DownloadError(f"{url}: {wrong}")
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        raise Again("the list of files is no JSON, it may have been cut") from None


def _read_entry(entry: Mapping[str, Any]) -> File:
    """Read what the list tells of a file; what can't be a size or a sha256 is left out."""
    lfs = entry.get("lfs") or {}
    size, sha256 = lfs.get("size", entry.get("size")), lfs.get("sha256")
    sound = isinstance(sha256, str) and re.fullmatch("[0-9a-f]{64}", sha256)
    return File(size if type(size) is int and size > 0 else None, sha256 if sound else None)


def host_of(name: str) -> str:
    """Return who is asked for a model: the Hub, or where OpenAI's originals lie."""
    return endpoint() if parse_name(name).repo else os.environ.get("NUMGPT_OPENAI_URL") or OPENAI_URL


def _label(source: Source) -> str:
    """Name a source in the record of a folder."""
    return f"{source.repo or 'openai'}@{source.revision}"


def endpoint() -> str:
    """Return the address of the Hub, or of the mirror that stands for it."""
    return (os.environ.get("HF_ENDPOINT") or HUB_URL).rstrip("/")


def _auth_header() -> dict[str, str]:
    """Return the header with HF_TOKEN. The token that `hf auth login` saved was given for the Hub, not for a mirror."""
    token = os.environ.get("HF_TOKEN", "").strip()
    if not token and endpoint() == HUB_URL:
        with suppress(OSError, ValueError):
            token = Path(os.environ.get("HF_TOKEN_PATH") or hf_home() / "token").read_text(encoding="utf-8").strip()
    if not re.fullmatch("[!-~]*", token):
        raise DownloadError("HF_TOKEN: a space or another character that no token has is in it: copy it again")
    return {"Authorization": f"Bearer {token}"} if token else {}


# --- the record of a folder that is whole


def _find_missing(folder: Path, source: Source) -> list[str] | None:
    """Return which files of a folder are missing or of the wrong size. None if there is no record of them."""
    try:
        record = json.loads((folder / RECORD).read_bytes())
        files = record["files"].items() if record["source"] == _label(source) else None
        return None if files is None else [name for name, size in files if not _has_size(folder / name, size)]
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None


def _has_size(path: Path, size: int) -> bool:
    return path.is_file() and path.stat().st_size == size


def _write_record(folder: Path, record: dict[str, Any]) -> None:
    new = folder / f"{RECORD}.{os.getpid()}.part"
    new.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    os.replace(new, folder / RECORD)
