"""The process that serves: its socket, its signals, and what becomes of clients that are too slow."""

import asyncio
import logging
import socket
from collections.abc import Callable
from types import FrameType
from typing import Any

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from numgpt.checks import check_option
from numgpt.errors import OptionError
from numgpt.serve.app import Server
from numgpt.serve.guard import Access

SECONDS_FOR_HEADERS = 10.0
SECONDS_TO_READ = 60.0
MOST_CONNECTIONS = 1000


class Connection(H11Protocol):
    """A connection that is cut where its client does not bring a request in time, or does not read the answer."""

    _late: asyncio.TimerHandle | None = None
    _stuck: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._late = self.loop.call_later(SECONDS_FOR_HEADERS, transport.abort)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        has_request = self.cycle is not None and not self.cycle.response_complete
        if has_request and self._late:
            self._late.cancel()
            self._late = None
        elif not has_request and self._late is None:
            self._late = self.loop.call_later(SECONDS_FOR_HEADERS, self.transport.abort)

    def pause_writing(self) -> None:
        super().pause_writing()
        self._stuck = self.loop.call_later(SECONDS_TO_READ, self.transport.abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._stuck:
            self._stuck.cancel()

    def connection_lost(self, exc: Exception | None) -> None:
        for timer in self._late, self._stuck:
            if timer:
                timer.cancel()
        super().connection_lost(exc)


class Process(uvicorn.Server):
    """Uvicorn's server, which at a signal lets the running texts end, within a time, and does not die of it."""

    def __init__(self, config: uvicorn.Config, server: Server, grace: float, listening: Callable[[], None]) -> None:
        super().__init__(config)
        self.server, self.grace, self.listening = server, grace, listening

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.listening()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        grace = 0 if self.should_exit else self.grace  # asked twice: nothing is waited for
        self.should_exit = True
        self.server.loop.call_soon_threadsafe(self.server.close, grace)


def bind(host: str, port: int) -> socket.socket:
    """Return a socket that listens. Raises OptionError where that can't be."""
    check_option("port", port, 0 <= port < 65536, "0 to 65535")
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family, backlog=128)
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise OptionError(f"{host}, port {port}: {reason}; choose another by --host and --port") from None


def process_of(server: Server, access: Access, grace: float, started: Callable[[], None]) -> Process:
    """Return what serves until a signal comes, by `run(sockets=[...])`; then it answers what is running, and ends.

    grace    for how many seconds, at most
    started  is called when the server listens
    """
    logging.getLogger("uvicorn").setLevel(logging.ERROR)
    config = uvicorn.Config(
        server.app(access),
        http=Connection,
        ws="none",
        loop="asyncio",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        limit_concurrency=MOST_CONNECTIONS,
        timeout_graceful_shutdown=int(grace) + 5,
    )
    return Process(config, server, grace, started)
