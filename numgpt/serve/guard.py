"""What stands before the routes: who may ask, what for, and how much.

A server on a loopback address is within reach of every page that its user opens. So a request has to name a host that
is ours (a page whose name was bound to 127.0.0.1 names its own), come from a page of ours or from none, and carry JSON,
which a browser sends elsewhere only after it has asked, and been refused.
"""

import asyncio
import hmac
import ipaddress
import logging
import socket
import time
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from contextlib import suppress
from typing import Any, NamedTuple

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from numgpt.errors import ContextError, NumgptError, OptionError
from numgpt.serve.engine import Busy
from numgpt.serve.fields import Refused

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

LARGEST_BODY = 1 << 20
SECONDS_FOR_A_BODY = 10.0
OPEN = ("/", "/health")  # need no key: they tell nothing of texts, and the page has to ask for the key
OUR_HEADERS = {
    "cache-control": "no-store",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
}
log = logging.getLogger("numgpt.serve")


class Access(NamedTuple):
    """Who may ask."""

    hosts: frozenset[str]  # the names in Host that are ours, without ports
    any_address: bool = False  # whether an address in Host is ours, whichever it is: no page can have it as its name
    origins: frozenset[str] = frozenset()  # of pages elsewhere that may ask
    api_key: str | None = None


def access_for(host: str, hosts: Iterable[str] = (), origins: Iterable[str] = (), api_key: str | None = None) -> Access:
    """Return who may ask a server that listens at a host.

    hosts, origins  what is allowed besides

    >>> sorted(access_for("127.0.0.1").hosts)
    ['127.0.0.1', '::1', 'localhost']
    """
    ours = {"localhost", "127.0.0.1", "::1", host, *hosts}
    if not is_loopback(host):
        ours.add(socket.gethostname())
    names = frozenset(name.lower().strip("[]") for name in ours)
    return Access(names, not is_loopback(host), frozenset(origin.lower() for origin in origins), api_key)


def is_loopback(host: str) -> bool:
    """Whether nobody on another machine reaches this address.

    >>> is_loopback("127.0.0.1"), is_loopback("localhost"), is_loopback("::1"), is_loopback("0.0.0.0")
    (True, True, True, False)
    """
    return host == "localhost" or (is_address(host) and ipaddress.ip_address(host).is_loopback)


def is_address(host: str) -> bool:
    """Whether a host is an address of IP and no name."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def host_of(header: str) -> str:
    """Return the host in the value of Host, without its port.

    >>> host_of("localhost:8000"), host_of("[::1]:8000"), host_of("evil.example")
    ('localhost', '::1', 'evil.example')
    """
    name, _, port = header.rpartition(":")
    bare = name if port.isdigit() and name and (name.endswith("]") or ":" not in name) else header
    return bare.removeprefix("[").removesuffix("]").lower()


class Guard:
    """An application around another: lets a request through, or answers it itself.

    paths  the addresses that there are: what else a client asks for is not written into the log
    """

    def __init__(self, app: App, access: Access, paths: frozenset[str]) -> None:
        self.app, self.access, self.paths = app, access, paths

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":  # the beginning and the end of the server
            await self.app(scope, receive, send)
            return
        start, request, status = time.perf_counter(), Request(scope), 0
        ours = dict(OUR_HEADERS)

        async def sent(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                added = [(name.encode(), value.encode()) for name, value in ours.items()]
                message["headers"] = [*message.get("headers", ()), *added]
            await send(message)

        try:
            self.check_host(request)
            ours |= self.check_origin(request)
            if request.method == "OPTIONS" and "origin" in request.headers:
                await Response(status_code=204)(scope, receive, sent)
                return
            self.check_key(request)
            if request.method == "POST":
                check_kind(request)
            await self.app(scope, receive, sent)
        except Gone:
            pass
        except Exception as error:
            refused = refused_for(error)
            if not status:
                await refusal(refused)(scope, receive, sent)
        finally:
            path = request.url.path if request.url.path in self.paths else "(elsewhere)"
            method = request.method if request.method in ("GET", "POST", "HEAD", "OPTIONS") else "(other)"
            told = scope.get("numgpt.log", "")
            log.info("%s %s %s %.3f s%s", method, path, status or "gone", time.perf_counter() - start, told)

    def check_host(self, request: Request) -> None:
        """Raise Refused unless the request names a host that is ours."""
        found = request.headers.getlist("host")
        if len(found) != 1:
            raise Refused(400, "the request has to have one Host")
        host = host_of(found[0])
        if host not in self.access.hosts and not (self.access.any_address and is_address(host)):
            raise Refused(403, "this host is not ours: --allow-host NAME takes it in")

    def check_origin(self, request: Request) -> dict[str, str]:
        """Return the headers that let a page elsewhere read the answer, where it may. Raises Refused where not."""
        origin = request.headers.get("origin")
        if origin is None or origin.lower() == f"http://{request.headers['host'].lower()}":
            return {}
        if origin.lower() not in self.access.origins:
            raise Refused(403, "pages of this origin may not ask: --allow-origin ORIGIN lets them")
        return {
            "access-control-allow-origin": origin,
            "access-control-allow-methods": "GET, POST",
            "access-control-allow-headers": "authorization, content-type",
            "cross-origin-resource-policy": "cross-origin",
            "vary": "origin",
        }

    def check_key(self, request: Request) -> None:
        """Raise Refused unless the request has the key, or needs none."""
        if self.access.api_key is None or request.url.path in OPEN:
            return
        kind, _, key = request.headers.get("authorization", "").partition(" ")
        same = hmac.compare_digest(key.strip().encode(), self.access.api_key.encode())
        if kind.lower() != "bearer" or not same:
            raise Refused(401, "the API key is missing or wrong: Authorization: Bearer KEY")


def check_kind(request: Request) -> None:
    """Raise Refused unless a request carries plain JSON of a size that we take, and asks for nothing in its query."""
    kind, _, charset = request.headers.get("content-type", "").partition(";")
    if kind.strip().lower() != "application/json" or charset.strip().lower() not in ("", "charset=utf-8"):
        raise Refused(415, "the body has to be JSON: Content-Type: application/json")
    if "content-encoding" in request.headers:
        raise Refused(415, "the body may not be compressed: leave out Content-Encoding")
    if request.url.query:
        raise Refused(400, "fields go into the body: there is something behind the ? of the address")
    with suppress(ValueError):
        if int(request.headers.get("content-length", "0")) > LARGEST_BODY:
            raise too_large()


def too_large() -> Refused:
    """Return what is said of a body that is too large."""
    return Refused(413, f"the body is larger than {LARGEST_BODY} bytes")


async def body_of(receive: Receive) -> bytes:
    """Return the body of a request. Raises Refused where it is too large or takes too long."""

    async def read() -> bytes:
        body = bytearray()
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise Gone
            body += message.get("body", b"")
            if len(body) > LARGEST_BODY:
                raise too_large()
            if not message.get("more_body"):
                return bytes(body)

    try:
        return await asyncio.wait_for(read(), SECONDS_FOR_A_BODY)
    except asyncio.TimeoutError:
        raise Refused(408, f"the body did not come within {SECONDS_FOR_A_BODY:.0f} s") from None


class Gone(Exception):
    """The client went away."""


def refused_for(error: Exception) -> Refused:
    """Return what a client is told of an error."""
    if isinstance(error, Refused):
        return error
    if isinstance(error, (Busy, MemoryError)):
        return Refused(503, str(error) or "there is no memory left for this: ask for less")
    if isinstance(error, (OptionError, ContextError)):  # which comes with a token: the controls ban all, for example
        return Refused(400, str(error))
    log.error("a fault", exc_info=error)
    return Refused(500, str(error) if isinstance(error, NumgptError) else "a fault of the server: its log has more")


def content_of(refused: Refused) -> dict[str, Any]:
    """Return an error as OpenAI's API has it."""
    kinds = {401: "authentication_error", 403: "permission_error", 404: "not_found_error", 503: "overloaded_error"}
    kind = kinds.get(refused.status, "invalid_request_error" if refused.status < 500 else "server_error")
    return {"error": {"message": refused.message, "type": kind, "param": refused.field, "code": None}}


def refusal(refused: Refused) -> Response:
    """Return the answer to a request that is refused."""
    headers = {503: {"retry-after": "1"}, 401: {"www-authenticate": "Bearer"}}.get(refused.status, {})
    if refused.status in (408, 413):
        headers = {"connection": "close"}  # what is left of the body is not read
    return JSONResponse(content_of(refused), refused.status, headers)
