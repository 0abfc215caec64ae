"""A small threaded HTTP/1.1 server on loopback that can also misbehave on purpose.

`http.server` was measured first: with a constant answer it takes 117 microseconds of processor time
a request, most of it to parse the headers as e-mail. This one takes 66 with all of `FakeKlaviyo`
behind it, and benchmarks run their server beside what they measure.
"""

from __future__ import annotations

import contextlib
import os
import socket
import struct
import threading
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

_HOST = "127.0.0.1"
_CHUNK = 65536
_MAX_HEAD = 65536
_JOIN_SECONDS = 5.0
_HEAD_END = b"\r\n\r\n"
_REASONS = {status.value: status.phrase for status in HTTPStatus}
_NO_BODY = (204, 304)
_RESET = struct.pack("ii", 1, 0)
"""Linger on, for 0 seconds: closing sends RST."""
_TRUNCATED_EMPTY = 64
"""Length that is promised when an empty body is cut short."""


@dataclass(frozen=True, slots=True)
class Request:
    """One HTTP request as it came."""

    method: str
    path: str
    """Still quoted."""
    query: str
    """Without the question mark; still quoted."""
    headers: dict[str, str] = field(repr=False)
    """Names in lower case; a repeated header's values joined by a comma."""
    body: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Reply:
    """What goes back, and how."""

    status: int
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    delay: float = 0.0
    """Seconds to wait first."""
    reset: bool = False
    """Send nothing; end the connection with RST."""
    truncate: bool = False
    """Send half of the promised body, then close."""


class _BadRequest(Exception):  # noqa: N818  (never leaves this module)
    """Not HTTP, or not a kind of it that is spoken here."""

    def __init__(self, status: int) -> None:
        super().__init__(status)
        self.status = status


class HttpServer:
    """Answers each connection on a thread of its own.

    Args:
        respond: Makes the reply to one request; called on the connection's thread.
        port: Port on 127.0.0.1; 0 takes a free one.

    Raises:
        OSError: The port cannot be had.
    """

    def __init__(self, respond: Callable[[Request], Reply], *, port: int = 0) -> None:
        self._respond = respond
        self._closing = threading.Event()
        self._lock = threading.Lock()
        self._connections: dict[socket.socket, threading.Thread] = {}
        self._pid = os.getpid()
        self._listener = socket.create_server((_HOST, port), backlog=128)
        self.port: int = self._listener.getsockname()[1]
        self._acceptor = threading.Thread(
            target=self._accept, name=f"fake-klaviyo:{self.port}", daemon=True
        )
        self._acceptor.start()

    def close(self) -> None:
        """End all connections and wait for their threads. A second call does nothing."""
        if self._closing.is_set():
            return
        self._closing.set()
        if os.getpid() != self._pid:
            # In a forked child: a shutdown would end the parent's connections too.
            self._listener.close()
            return
        # A connection wakes the accepting thread on every system; closing the listener does not.
        with contextlib.suppress(OSError):
            socket.create_connection((_HOST, self.port), timeout=_JOIN_SECONDS).close()
        self._acceptor.join(_JOIN_SECONDS)
        self._listener.close()
        with self._lock:
            connections = dict(self._connections)
        for connection in connections:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        for thread in connections.values():
            if thread is not threading.current_thread():
                thread.join(_JOIN_SECONDS)

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                if self._closing.is_set() or self._listener.fileno() < 0:
                    return
                # No descriptor is left, or the client has gone already.
                self._closing.wait(0.01)
                continue
            if self._closing.is_set():
                connection.close()
                return
            thread = threading.Thread(
                target=self._serve,
                args=(connection,),
                name=f"fake-klaviyo:{self.port}:connection",
                daemon=True,
            )
            with self._lock:
                self._connections[connection] = thread
            try:
                thread.start()
            except RuntimeError:
                # There are too many threads, or the interpreter is ending.
                self._forget(connection)

    def _serve(self, connection: socket.socket) -> None:
        try:
            # Without it the kernel may hold an answer back for 40 ms.
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            incoming = bytearray()
            while not self._closing.is_set() and self._exchange(connection, incoming):
                pass
        except OSError:
            # The client has gone, which is its right.
            pass
        finally:
            self._forget(connection)

    def _forget(self, connection: socket.socket) -> None:
        # A forked child may hold a copy of the descriptor, and then closing alone ends nothing.
        with contextlib.suppress(OSError):
            connection.shutdown(socket.SHUT_RDWR)
        connection.close()
        with self._lock:
            self._connections.pop(connection, None)

    def _exchange(self, connection: socket.socket, incoming: bytearray) -> bool:
        """Read one request and answer it; whether the connection stays open."""
        try:
            received = _read(connection, incoming)
        except _BadRequest as refused:
            connection.sendall(_encode(Reply(refused.status), keep_alive=False))
            return False
        if received is None:
            return False
        request, keep_alive = received
        reply = self._respond(request)
        if reply.delay and self._closing.wait(reply.delay):
            return False
        if reply.reset:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            connection.close()
            return False
        if reply.truncate:
            connection.sendall(_encode_half(reply))
            return False
        connection.sendall(
            _encode(reply, keep_alive=keep_alive, with_body=request.method != "HEAD")
        )
        return keep_alive


def _read(connection: socket.socket, incoming: bytearray) -> tuple[Request, bool] | None:
    """The next request, and whether the client keeps the connection; ``None`` at its end."""
    while (end := incoming.find(_HEAD_END)) < 0:
        if len(incoming) > _MAX_HEAD:
            raise _BadRequest(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE)
        chunk = connection.recv(_CHUNK)
        if not chunk:
            return None
        incoming += chunk
    head, *lines = incoming[:end].decode("latin-1").split("\r\n")
    del incoming[: end + len(_HEAD_END)]
    try:
        method, target, version = head.split(" ")
    except ValueError:
        raise _BadRequest(HTTPStatus.BAD_REQUEST) from None
    headers = _headers(lines)
    length = _body_length(headers)
    while len(incoming) < length:
        chunk = connection.recv(_CHUNK)
        if not chunk:
            return None
        incoming += chunk
    body = bytes(incoming[:length])
    del incoming[:length]
    path, _, query = target.partition("?")
    keep_alive = version == "HTTP/1.1" and headers.get("connection", "").lower() != "close"
    return Request(method, path, query, headers, body), keep_alive


def _headers(lines: list[str]) -> dict[str, str]:
    headers: dict[str, str] = {}
    for line in lines:
        name, colon, value = line.partition(":")
        if not colon:
            raise _BadRequest(HTTPStatus.BAD_REQUEST)
        name, value = name.lower(), value.strip()
        headers[name] = f"{headers[name]}, {value}" if name in headers else value
    return headers


def _body_length(headers: dict[str, str]) -> int:
    if "transfer-encoding" in headers:
        # The SDK always says how long a body is.
        raise _BadRequest(HTTPStatus.LENGTH_REQUIRED)
    length = headers.get("content-length", "0")
    if not length.isdecimal():
        raise _BadRequest(HTTPStatus.BAD_REQUEST)
    return int(length)


def _head(reply: Reply, length: int | None, *, keep_alive: bool) -> bytes:
    lines = [f"HTTP/1.1 {reply.status} {_REASONS.get(reply.status, '')}"]
    lines += [f"{name}: {value}" for name, value in reply.headers.items()]
    if length is not None:
        lines.append(f"Content-Length: {length}")
    if not keep_alive:
        lines.append("Connection: close")
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1", "replace")


def _encode(reply: Reply, *, keep_alive: bool, with_body: bool = True) -> bytes:
    if reply.status in _NO_BODY:
        return _head(reply, None, keep_alive=keep_alive)
    head = _head(reply, len(reply.body), keep_alive=keep_alive)
    return head + reply.body if with_body else head


def _encode_half(reply: Reply) -> bytes:
    head = _head(reply, len(reply.body) or _TRUNCATED_EMPTY, keep_alive=False)
    return head + reply.body[: len(reply.body) // 2]
