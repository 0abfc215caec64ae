"""A proxy between a sink and the other end that cuts, holds up and garbles connections."""

import socket
import ssl
import struct
import threading
import time
from contextlib import suppress

from tests.ports import free_port

_CHUNK = 1 << 16


def reset(connection):
    """Close a connection with a reset (RST) instead of a goodbye."""
    with suppress(OSError):
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        connection.close()


class TcpProxy:
    """Passes bytes on between clients and a server on loopback.

    Args:
        target: The server's port.
        decide: Asked with each chunk of bytes from a client what becomes of it: ``reset``, ``hang``
            and ``garbage`` keep it from the server, ``... after`` passes it on and spoils the
            answer; anything else passes it on.
        tls: Take TLS connections, with this server context.
        hangs: Seconds of a ``hang``.
    """

    def __init__(self, target, decide=lambda data: "200", tls=None, hangs=0.8):
        self._target = target
        self._decide = decide
        self._tls = tls
        self._hangs = hangs
        self._lock = threading.Lock()
        self._open = set()
        self._down = threading.Event()
        self._closing = False
        self.handshakes_failed = 0
        self.port = free_port()
        self._listener = socket.create_server(("127.0.0.1", self.port), backlog=50)
        threading.Thread(target=self._accept, daemon=True).start()

    def go_down(self, seconds):
        """Be away for a while: all connections are reset, and none is taken."""
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.cut()
        time.sleep(seconds)
        self._listener = socket.create_server(("127.0.0.1", self.port), backlog=50)

    def cut(self):
        """Reset all connections."""
        with self._lock:
            sockets, self._open = self._open, set()
        for one in sockets:
            with suppress(OSError):
                one.shutdown(socket.SHUT_RD)  # wakes the thread that reads from it
            reset(one)

    def close(self):
        self._closing = True
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.cut()

    def _accept(self):
        while not self._closing:
            try:
                client, _ = self._listener.accept()
            except OSError:
                time.sleep(0.01)
                continue
            threading.Thread(target=self._join, args=(client,), daemon=True).start()

    def _join(self, client):
        if self._tls is not None:
            try:
                client = self._tls.wrap_socket(client, server_side=True)
            except (ssl.SSLError, OSError):
                self.handshakes_failed += 1
                return
        try:
            server = socket.create_connection(("127.0.0.1", self._target))
        except OSError:
            reset(client)
            return
        pair = _Pair(client, server)
        with self._lock:
            self._open |= {client, server}
        threading.Thread(target=self._answers, args=(pair,), daemon=True).start()
        self._requests(pair)

    def _requests(self, pair):
        with suppress(OSError):
            while data := pair.client.recv(_CHUNK):
                what = self._decide(data)
                if what == "reset":
                    break
                if what == "garbage":
                    pair.client.sendall(b"\x7f\xff\xff\xffgarbage" * 20)
                    break
                if what == "hang":
                    time.sleep(self._hangs)
                    break
                if what.endswith(" after"):
                    pair.spoil = what.removesuffix(" after")
                pair.server.sendall(data)
        self._end(pair)

    def _answers(self, pair):
        with suppress(OSError):
            while data := pair.server.recv(_CHUNK):
                if pair.spoil == "garbage":
                    pair.client.sendall(b"\x7f\xff\xff\xffgarbage" * 20)
                elif pair.spoil == "hang":
                    time.sleep(self._hangs)
                if pair.spoil:
                    break
                pair.client.sendall(data)
        self._end(pair)

    def _end(self, pair):
        with self._lock:
            self._open -= {pair.client, pair.server}
        for one in (pair.client, pair.server):
            with suppress(OSError):
                one.shutdown(socket.SHUT_RD)
            reset(one)


class _Pair:
    """A client's connection and that to the server, and what becomes of the next answer."""

    def __init__(self, client, server):
        self.client = client
        self.server = server
        self.spoil = ""
