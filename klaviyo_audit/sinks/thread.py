"""A thread of the program that ships to one sink, in whichever process it is in after a fork."""

from __future__ import annotations

import logging
import os
import threading
import weakref
from time import monotonic
from typing import TYPE_CHECKING, Final

from klaviyo_audit.sinks.attempts import reason_of
from klaviyo_audit.sinks.condition import Condition
from klaviyo_audit.sinks.lag import is_delivered_up_to, journal_end
from klaviyo_audit.threads import can_run

if TYPE_CHECKING:
    from collections.abc import Callable

    from klaviyo_audit.sinks.shipper import Shipper

_IDLE_SECONDS: Final = 0.1
_POLL_SECONDS: Final = 0.05

_log = logging.getLogger("klaviyo_audit")


class ShipperThread:
    """Keeps one shipper going.

    Args:
        make: Makes the shipper, with a sink of its own; called again in a forked child, where the
            parent's connections are of no use.
    """

    def __init__(self, make: Callable[[], Shipper]) -> None:
        self._make = make
        self.shipper = make()
        self._begin()
        _threads.add(self)

    def _begin(self) -> None:
        self._pid = os.getpid()
        self._changed = threading.Condition()
        self._wanted = self._served = 0
        self._stopping = False
        self._thread: threading.Thread | None = None
        self._is_stale = False

    @property
    def name(self) -> str:
        """The sink's name."""
        return self.shipper.name

    @property
    def condition(self) -> Condition:
        """How the sink does in this process."""
        return self.shipper.condition

    @property
    def is_running(self) -> bool:
        """Whether the thread runs in this process."""
        thread = self._thread
        return self._pid == os.getpid() and thread is not None and thread.is_alive()

    def start(self) -> bool:
        """Start the thread unless it runs.

        Returns:
            Whether it runs now: at the interpreter's shutdown no thread can be started.
        """
        if self._pid != os.getpid():
            self.restart_in_child()
        if self.is_running:
            return True
        if not can_run(self.start):
            return False
        name = f"klaviyo-audit-ship-{self.name}"
        thread = threading.Thread(target=self._run, name=name, daemon=True)
        try:
            thread.start()
        except RuntimeError:
            return False
        self._thread = thread
        return True

    def restart_in_child(self) -> None:
        """Begin anew in a forked child: there is no thread in it, and its locks may be held."""
        was_running = self._thread is not None and not self._stopping
        self.shipper.forget()
        self._begin()
        self._is_stale = True
        self.shipper.condition = Condition()
        if self.shipper.is_ephemeral:
            self.renew()  # it begins with what is recorded from now on
        if was_running:
            self.start()

    def request(self) -> int:
        """Ask for everything that is in the journal now to be delivered without waiting.

        Returns:
            What `wait_for` has to be given.
        """
        with self._changed:
            self._wanted += 1
            self._changed.notify_all()
            return self._wanted

    def wait_for(self, request: int, until: float, since: str) -> bool:
        """Wait for a request to be fulfilled.

        Args:
            request: As `request` gave it.
            until: When to stop waiting (monotonic seconds).
            since: When it was asked for, as entries have it.

        Returns:
            Whether everything was delivered.
        """
        end = journal_end(self.shipper.directory)
        while True:
            with self._changed:
                if self._served >= request:
                    return True
                state = self.condition.state
                if not self.is_running or state == "stopped" or monotonic() >= until:
                    return False
                self._changed.wait(min(_POLL_SECONDS, max(0.0, until - monotonic())))
            if state == "waiting" and is_delivered_up_to(self.shipper.folder, since, end):
                return True  # by another process

    def stop(self) -> None:
        """Have the thread end as soon as it can."""
        with self._changed:
            self._stopping = True
            self._changed.notify_all()

    def join(self, until: float) -> bool:
        """Wait for the thread to end; whether it has."""
        if self._thread is not None and self.is_running:
            self._thread.join(max(0.0, until - monotonic()))
        return not self.is_running

    def renew(self) -> bool:
        """Have a shipper of this process's own, if the one at hand is the parent's.

        Returns:
            Whether there is one.
        """
        if self._is_stale:
            try:
                self.shipper = self._make()
            except Exception as error:  # it was made once, so this is something passing
                _log.warning("sink %s: %s; not made anew", self.name, reason_of(error))
                return False
            self._is_stale = False
        return True

    def _run(self) -> None:
        if not self.renew():
            return
        shipper, changed = self.shipper, self._changed
        while not self._stopping:
            with changed:
                wanted = self._wanted
            try:
                wait = shipper.step(urgent=wanted > self._served)
            except Exception as error:  # a defect of ours must not end the delivery
                _log.warning("sink %s: %s; trying again", self.name, type(error).__name__)
                wait = 1.0
            with changed:
                if wait is None and shipper.condition.state != "stopped":
                    self._served = wanted
                    changed.notify_all()
                pause = _IDLE_SECONDS if wait is None else wait
                if pause > 0 and not self._stopping and self._wanted == wanted:
                    changed.wait(min(pause, 60.0))
        shipper.close()


_threads: weakref.WeakSet[ShipperThread] = weakref.WeakSet()


def _after_fork_in_child() -> None:
    for thread in list(_threads):
        thread.restart_in_child()


os.register_at_fork(after_in_child=_after_fork_in_child)
