"""A front for librdkafka's mock cluster that asks for SASL/PLAIN, which the cluster has not.

It speaks the four requests that a connection begins with (https://kafka.apache.org/protocol), and
passes on everything after them.
"""

import socket
import struct
import threading
from contextlib import suppress

from tests.sinks.tcp_proxy import reset

API_VERSIONS, HANDSHAKE, AUTHENTICATE = 18, 17, 36
UNSUPPORTED_VERSION, UNSUPPORTED_MECHANISM, AUTHENTICATION_FAILED = 35, 33, 58


class SaslFront:
    """Takes connections, has them say who they are, and joins them to a broker.

    Args:
        target: The broker's port.
        users: Passwords by name.
        tls: A server context, if connections are encrypted.
    """

    def __init__(self, target, users, tls):
        self._target, self._users, self._tls = target, users, tls
        self.authenticated = []
        self.refused = []
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=50)
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self):
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self):
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client):
        with suppress(OSError, EOFError):
            client = self._tls.wrap_socket(client, server_side=True)
            if self._admit(client):
                server = socket.create_connection(("127.0.0.1", self._target))
                threading.Thread(target=_pass_on, args=(server, client), daemon=True).start()
                _pass_on(client, server)
        reset(client)

    def _admit(self, client):
        while True:
            api, version, number, body = _request(client)
            if api == API_VERSIONS:
                _answer(client, number, self._versions(version))
            elif api == HANDSHAKE:
                error = 0 if _text(body) == b"PLAIN" else UNSUPPORTED_MECHANISM
                _answer(client, number, struct.pack(">hi", error, 1) + _string(b"PLAIN"))
            elif api == AUTHENTICATE:
                _, name, password = body[4:].split(b"\0")
                name, password = name.decode(), password.decode()
                good = self._users.get(name) == password
                (self.authenticated if good else self.refused).append(name)
                error = 0 if good else AUTHENTICATION_FAILED
                said = b"" if good else f"{name} may not come in with {password}".encode()
                life = struct.pack(">q", 0) if version else b""
                answer = struct.pack(">h", error) + _string(said) + struct.pack(">i", 0) + life
                _answer(client, number, answer)
                return good
            else:
                raise EOFError  # as brokers do: not before it is known who asks

    def _versions(self, version):
        """What the broker can do, and authentication."""
        with socket.create_connection(("127.0.0.1", self._target)) as server:
            request = struct.pack(">hhih", API_VERSIONS, 0, 1, -1)
            server.sendall(struct.pack(">i", len(request)) + request)
            said = _exactly(server, *struct.unpack(">i", _exactly(server, 4)))[4:]
        _, count = struct.unpack(">hi", said[:6])
        more = struct.pack(">hhhhhh", HANDSHAKE, 0, 1, AUTHENTICATE, 0, 1)
        error = UNSUPPORTED_VERSION if version else 0  # it asks for the oldest one then
        return struct.pack(">hi", error, count + 2) + said[6 : 6 + 6 * count] + more


def _request(client):
    data = _exactly(client, *struct.unpack(">i", _exactly(client, 4)))
    api, version, number, length = struct.unpack(">hhih", data[:10])
    return api, version, number, data[10 + max(length, 0) :]


def _answer(client, number, body):
    client.sendall(struct.pack(">ii", 4 + len(body), number) + body)


def _text(body):
    (length,) = struct.unpack(">h", body[:2])
    return body[2 : 2 + length]


def _string(text):
    return struct.pack(">h", len(text)) + text


def _exactly(connection, count):
    data = b""
    while len(data) < count:
        piece = connection.recv(count - len(data))
        if not piece:
            raise EOFError
        data += piece
    return data


def _pass_on(source, target):
    with suppress(OSError):
        while data := source.recv(1 << 16):
            target.sendall(data)
    reset(target)
