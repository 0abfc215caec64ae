"""Being told to stop, for commands that go on until then."""

from __future__ import annotations

import signal
import threading
from queue import SimpleQueue


def stop_by_signal() -> threading.Event:
    """An event that SIGINT and SIGTERM set from now on.

    Their handler does not set it itself: it runs in the midst of what the main thread does, be that
    waiting for the event, and would wait for the lock that the main thread has then. To put into a
    `SimpleQueue` is allowed at any moment.
    """
    stop = threading.Event()
    asked: SimpleQueue[None] = SimpleQueue()

    def wait() -> None:
        asked.get()
        stop.set()

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: asked.put(None))
    threading.Thread(target=wait, name="klaviyo-audit-stop", daemon=True).start()
    return stop
