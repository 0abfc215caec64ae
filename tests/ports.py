"""Ports of loopback on which nobody else comes to listen."""

import socket
import sys


def free_port() -> int:
    """A port that is refused until a server listens on it, and that the system gives to nobody else.

    It is bound here to the end of the process, without listening; a server that sets SO_REUSEADDR,
    as all do, can listen on it beside that, be away for a while, and come back. A port that was only
    found free can be somebody else's by the time it is used: of another worker's server, or of any
    connection. (Elsewhere than on Linux two sockets cannot be bound like this.)
    """
    holder = socket.socket()
    holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    holder.bind(("127.0.0.1", 0))
    port: int = holder.getsockname()[1]
    if sys.platform == "linux":
        holder.detach()  # it stays open
    else:
        holder.close()
    return port
