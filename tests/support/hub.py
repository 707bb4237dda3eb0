"""A server on this machine that behaves like the Hugging Face Hub, like OpenAI's server, or badly where told to.

    with Hub() as hub:
        hub.add("owner/name", {"config.json": b"{}", "model.safetensors": weights})
        hub.plan("model.safetensors", *[cut(1000)] * 20)

The Hub is at 127.0.0.1, and the host that large files lie on at localhost: to a client these are two hosts. What it
imitates is what was seen of the real one: the list of files, by revision; a 307 with a relative Location for small
files, and a 302 to a signed address for large ones; X-Linked-ETag and X-Linked-Size on the first answer only; an ETag
there that is no hash; ranges, 416 at the end of a file, no If-Range. A signed address holds once, and for one range.
OpenAI's server is below /gpt-2/models: Content-MD5, and XML for errors.

`plan` gives the faults of the next answers that carry a file of that name, one each; after them all is well.
`python tests/hub.py` downloads 500 MB over 20 cuts.
"""

import base64
import contextlib
import functools
import gzip
import hashlib
import itertools
import json
import re
import secrets
import socket
import struct
import sys
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote, urlsplit

LARGE = (".safetensors", ".bin", ".h5")  # what the Hub keeps outside git


@dataclass
class Repo:
    files: dict[str, bytes]
    commit: str
    gate: str = ""  # "": open to all; "token": to those with a token; "terms": to nobody, as long as they do not accept


@dataclass
class Answer:
    """An answer before it is sent; a fault changes it."""

    status: int
    headers: dict[str, str]
    body: bytes | memoryview = b""
    whole: bytes = b""  # the file that the body is of
    cut: int | None = None  # after so many bytes, with everything that comes after them never sent
    reset: bool = False  # cut by RST, which also takes away what is under way
    stall: bool = False  # at the cut, say no more, and keep the connection
    pause: float = 0  # seconds between pieces
    piece: int = 1 << 16


Fault = Callable[[Answer], None]


def cut(after: int, reset: bool = False) -> Fault:
    return lambda answer: answer.__dict__.update(cut=after, reset=reset)


def stall(after: int) -> Fault:
    return lambda answer: answer.__dict__.update(cut=after, stall=True)


def drip(piece: int, pause: float) -> Fault:
    return lambda answer: answer.__dict__.update(piece=piece, pause=pause)


def claim(**headers: object) -> Fault:
    """Say something else in the headers: claim(content_length=5). None takes one away."""

    def change(answer: Answer) -> None:
        for key, value in headers.items():
            name = key.replace("_", "-").title()
            answer.headers = {k: v for k, v in answer.headers.items() if k.title() != name}
            if value is not None:
                answer.headers[name] = str(value)

    return change


def replace(body: bytes, **headers: object) -> Fault:
    """Send other bytes, with the length that they have."""

    def change(answer: Answer) -> None:
        answer.body = body
        claim(content_length=len(body), **headers)(answer)

    return change


def flip(at: int) -> Fault:
    """Change one bit."""

    def change(answer: Answer) -> None:
        body = bytearray(answer.body)
        body[at] ^= 1
        answer.body = bytes(body)

    return change


def status(code: int, **headers: object) -> Fault:
    def change(answer: Answer) -> None:
        answer.status, answer.headers = code, {}
        replace(b"", **headers)(answer)

    return change


def page(code: int = 200, body: bytes = b"<!DOCTYPE html><title>Log in</title>" + b" " * 2000) -> Fault:
    def change(answer: Answer) -> None:
        answer.status = code
        replace(body, content_type="text/html")(answer)

    return change


def zipped(answer: Answer) -> None:
    replace(gzip.compress(bytes(answer.body)), content_encoding="gzip")(answer)


def chunked(answer: Answer) -> None:
    claim(content_length=None, transfer_encoding="chunked")(answer)


def ignore_range(answer: Answer) -> None:
    answer.status = 200
    replace(answer.whole, content_range=None)(answer)


def redirect(to: str) -> Fault:
    return status(302, location=to)


@functools.cache
def sha256(raw: bytes) -> str:
    return hashlib.sha256(raw).hexdigest()


@functools.cache
def git_hash(raw: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(raw) + raw).hexdigest()


@dataclass
class Seen:
    """A request, as the server saw it."""

    method: str
    host: str
    path: str
    headers: dict[str, str]
    status: int = 0
    sent: int = 0  # bytes of the body that were given to the network


@dataclass
class Hub:
    repos: dict[str, Repo] = field(default_factory=dict)
    originals: dict[str, bytes] = field(default_factory=dict)  # of OpenAI, by "124M/hparams.json"
    seen: list[Seen] = field(default_factory=list)
    plans: dict[str, Iterator[Fault]] = field(default_factory=lambda: defaultdict(lambda: iter(())))
    signed: dict[str, tuple[bytes, str | None, float]] = field(default_factory=dict)
    blobs: bool = True  # whether the list of files has sizes and hashes; that of some mirrors has not

    def __enter__(self) -> "Hub":
        self.stopped = threading.Event()
        self.servers = []
        for _ in range(2):
            server = Server(("127.0.0.1", 0), Handler)
            server.hub = self
            self.servers.append(server)
            threading.Thread(target=server.serve_forever, args=(0.002,), daemon=True).start()
        self.url = f"http://127.0.0.1:{self.servers[0].server_port}"
        self.other_url = f"http://localhost:{self.servers[1].server_port}"
        self.openai_url = f"{self.url}/gpt-2/models"
        return self

    def __exit__(self, *_: object) -> None:
        self.stopped.set()
        for server in self.servers:
            server.shutdown()
            server.socket.close()

    def add(self, name: str, files: dict[str, bytes], gate: str = "") -> Repo:
        commit = hashlib.sha1(json.dumps([name, *map(sha256, files.values())]).encode()).hexdigest()
        self.repos[name] = Repo(files, commit, gate)
        return self.repos[name]

    def plan(self, file: str, *faults: Fault) -> None:
        """Set the faults of the next answers with this file, or, as "resolve/FILE" or "list", of those before them."""
        self.plans[file] = iter(faults)

    def always(self, file: str, fault: Fault) -> None:
        self.plans[file] = itertools.repeat(fault)

    @property
    def sent(self) -> int:
        return sum(request.sent for request in self.seen)

    def requests(self, part: str) -> list[Seen]:
        return [request for request in self.seen if part in request.path]


class Server(ThreadingHTTPServer):
    daemon_threads = True
    hub: Hub

    def handle_error(self, *_: object) -> None:
        """Say nothing: clients go away, and connections are cut."""


class Handler(BaseHTTPRequestHandler):
    disable_nagle_algorithm = True
    protocol_version = "HTTP/1.1"
    hub: Hub

    def do_GET(self) -> None:
        assert isinstance(self.server, Server)
        self.hub = self.server.hub
        path = urlsplit(self.path).path
        seen = Seen(
            self.command, self.headers["Host"], self.path, {key.title(): value for key, value in self.headers.items()}
        )
        self.hub.seen.append(seen)
        answer = self.answer(path)
        seen.status = answer.status
        self.send(answer, seen)

    do_HEAD = do_GET

    # --- what to say

    def answer(self, path: str) -> Answer:
        if found := re.fullmatch(r"/api/models/([\w.-]+/[\w.-]+)(?:/(revision|tree)/([^/]+))?", path):
            answer = self.listing(found[1], found[2], unquote(found[3] or "main"))
            return self.planned("list", answer)
        if found := re.fullmatch(r"/([\w.-]+/[\w.-]+)/resolve/([^/]+)/(.+)", path):
            file = unquote(found[3])
            return self.planned(f"resolve/{file}", self.resolve(found[1], unquote(found[2]), file))
        if found := re.fullmatch(r"/api/resolve-cache/models/([\w.-]+/[\w.-]+)/(\w+)/(.+)", path):
            raw = self.hub.repos[found[1]].files[unquote(found[3])]
            return self.planned(found[3], self.file(raw, **{"ETag": f'"{git_hash(raw)}"', "X-Repo-Commit": found[2]}))
        if found := re.fullmatch(r"/signed/(\w+)/(.+)", path):
            return self.planned(found[2], self.signed(found[1]))
        if path.startswith("/gpt-2/models/"):
            return self.planned(path.rsplit("/", 1)[1], self.original(path.removeprefix("/gpt-2/models/")))
        return error(404, "Sorry, we can't find the page you are looking for.")

    def planned(self, file: str, answer: Answer) -> Answer:
        if fault := next(self.hub.plans[file], None):
            fault(answer)
        return answer

    def refuse(self, name: str, revision: str) -> Answer | None:
        """What the Hub says to those who may not see a repository, or ask for one that is not there."""
        token = self.headers.get("Authorization")
        if token not in (None, "Bearer hf_good"):
            return error(401, "Invalid credentials in Authorization header")
        repo = self.hub.repos.get(name)
        if repo is None:  # who has no token is not told whether it is private
            return error(404 if token else 401, "Repository not found", "RepoNotFound")
        if revision not in ("main", repo.commit, "refs/pr/1"):
            return error(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        return None

    def listing(self, name: str, kind: str | None, revision: str) -> Answer:
        if refused := self.refuse(name, revision):
            return refused
        repo = self.hub.repos[name]
        if kind == "tree":
            return reply([{"type": "file", "path": file, **entry(file, raw)} for file, raw in repo.files.items()])
        siblings: list[dict[str, Any]] = [{"rfilename": file} for file in repo.files]
        if "blobs=true" in self.path.lower() and self.hub.blobs:
            for sibling, (file, raw) in zip(siblings, repo.files.items(), strict=True):
                sibling.update(entry(file, raw))
                sibling["blobId"] = sibling.pop("oid")
                if "lfs" in sibling:
                    sibling["lfs"]["sha256"] = sibling["lfs"].pop("oid")
        return reply({"_id": "621ffdc0", "id": name, "modelId": name, "sha": repo.commit, "siblings": siblings})

    def resolve(self, name: str, revision: str, file: str) -> Answer:
        if refused := self.refuse(name, revision):
            return refused
        repo = self.hub.repos[name]
        if repo.gate == "token" and "Authorization" not in self.headers:
            return error(401, f"Access to model {name} is restricted. You must be logged in.", "GatedRepo")
        if repo.gate == "terms":
            return error(403, f"Access to model {name} is restricted: you are not in its list.", "GatedRepo")
        if file not in repo.files:
            return error(404, "Entry not found", "EntryNotFound")
        raw = repo.files[file]
        headers = {"X-Repo-Commit": repo.commit, "Accept-Ranges": "bytes", "Content-Length": "0"}
        if not file.endswith(LARGE):
            location = f"/api/resolve-cache/models/{name}/{repo.commit}/{quote(file)}"
            return Answer(307, {**headers, "Location": location, "X-Linked-ETag": f'"{git_hash(raw)}"'})
        key = secrets.token_hex(8)
        # HEAD is not bound to a range: a client may fetch from the address that it got so.
        bound = self.headers.get("Range") if self.command == "GET" else "any"
        self.hub.signed[key] = (raw, bound, time.monotonic() + 60)
        location = f"{self.hub.other_url}/signed/{key}/{quote(file)}?X-Amz-Expires=60&Signature={secrets.token_hex(8)}"
        linked = {"X-Linked-ETag": f'"{sha256(raw)}"', "X-Linked-Size": str(len(raw))}
        return Answer(302, {**headers, "Location": location, **linked})

    def signed(self, key: str) -> Answer:
        raw, bound, expires = self.hub.signed.get(key, (b"", None, 0.0))
        if time.monotonic() > expires or bound not in ("any", self.headers.get("Range")):
            return Answer(403, {"Content-Type": "application/xml"}, b"<?xml version='1.0'?><Error>AccessDenied</Error>")
        if bound != "any":
            del self.hub.signed[key]
        return self.file(raw, ETag=f'"xet-{git_hash(raw)}"')

    def original(self, name: str) -> Answer:
        if name not in self.hub.originals:
            xml = b'\xef\xbb\xbf<?xml version="1.0" encoding="utf-8"?><Error><Code>BlobNotFound</Code></Error>'
            return Answer(404, {"Content-Type": "application/xml", "Content-Length": str(len(xml))}, xml)
        raw = self.hub.originals[name]
        md5 = base64.b64encode(hashlib.md5(raw).digest()).decode()
        answer = self.file(raw, ETag=f'"0x8D{sha256(raw)[:12].upper()}"')
        answer.headers["Content-MD5" if answer.status == 200 else "X-Ms-Blob-Content-Md5"] = md5
        return answer

    def file(self, raw: bytes, **headers: str) -> Answer:
        """The whole file, or the range that is asked for. If-Range is not looked at."""
        found = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        start, end = (int(found[1]), int(found[2] or len(raw) - 1) + 1) if found else (0, len(raw))
        if found and start >= len(raw):
            return Answer(416, {"Content-Length": "0"}, whole=raw)
        body = memoryview(raw)[start:end]
        headers |= {"Content-Type": "application/octet-stream", "Content-Length": str(len(body))}
        if found:
            headers["Content-Range"] = f"bytes {start}-{start + len(body) - 1}/{len(raw)}"
        return Answer(206 if found else 200, headers, body, raw)

    # --- how to say it

    def send(self, answer: Answer, seen: Seen) -> None:
        self.send_response(answer.status)
        for key, value in answer.headers.items():
            self.send_header(key, value)
        if answer.headers.keys().isdisjoint(("Content-Length", "Transfer-Encoding")):
            self.send_header("Connection", "close")
            self.close_connection = True
        self.end_headers()
        if self.command == "HEAD":
            return
        body = memoryview(answer.body)
        if answer.cut is not None:
            body = body[: answer.cut]
        framed = "Transfer-Encoding" in answer.headers
        with contextlib.suppress(OSError):  # the client may have had enough
            for start in range(0, len(body), answer.piece):
                piece = body[start : start + answer.piece]
                self.wfile.write(b"%x\r\n%b\r\n" % (len(piece), bytes(piece)) if framed else piece)
                seen.sent += len(piece)
                if answer.pause and self.hub.stopped.wait(answer.pause):
                    break
            if framed and answer.cut is None:
                self.wfile.write(b"0\r\n\r\n")
            self.wfile.flush()
        if answer.stall:
            self.hub.stopped.wait(60)
        if answer.reset:
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.connection.close()
        if answer.cut is not None or len(body) != int(answer.headers.get("Content-Length", len(body))):
            self.close_connection = True

    def log_message(self, *_: object) -> None:
        pass


def entry(file: str, raw: bytes) -> dict[str, Any]:
    """What the list tells of a file."""
    lfs = {"oid": sha256(raw), "size": len(raw), "pointerSize": 134} if file.endswith(LARGE) else None
    return {"oid": git_hash(raw), "size": len(raw), **({"lfs": lfs} if lfs else {})}


def reply(value: object) -> Answer:
    raw = json.dumps(value).encode()
    return Answer(200, {"Content-Type": "application/json", "Content-Length": str(len(raw))}, raw)


def error(code: int, message: str, kind: str = "") -> Answer:
    answer = reply({"error": message})
    answer.status = code
    answer.headers["X-Error-Message"] = message
    if kind:
        answer.headers["X-Error-Code"] = kind
    return answer


def main() -> None:
    from numgpt.hub.download import fetch

    raw = secrets.token_bytes(1 << 20) * 500
    with Hub() as hub, tempfile.TemporaryDirectory() as folder:
        repo = hub.add("owner/name", {"model.safetensors": raw[:8] + b"{" + raw[9:]})
        hub.plan("model.safetensors", *[cut(len(raw) // 21)] * 20)
        start = time.perf_counter()
        fetch(
            f"{hub.url}/owner/name/resolve/{repo.commit}/model.safetensors", path := Path(folder, "model.safetensors")
        )
        seconds = time.perf_counter() - start
        same = path.read_bytes() == repo.files["model.safetensors"]
        tries = len(hub.requests("/signed/"))
    print(f"{len(raw):,} bytes, {tries} tries, {hub.sent / len(raw) - 1:.3%} sent again, {seconds:.1f} s, same: {same}")
    sys.exit(not same)


if __name__ == "__main__":
    main()
