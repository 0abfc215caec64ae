"""What a sealer does beside sealing, a little at a time: it compresses and removes files."""

from __future__ import annotations

from time import monotonic
from typing import TYPE_CHECKING, Final

from klaviyo_audit.journal.lease import LeaseLost
from klaviyo_audit.journal.retention import retain
from klaviyo_audit.journal.rotation import compress
from klaviyo_audit.journal.segments import rotated_files

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from klaviyo_audit.journal.retention import Retention
    from klaviyo_audit.journal.treelog import TreeLog

_SLICE_SECONDS: Final = 0.01
_IDLE_SECONDS: Final = 5.0
_RETAIN_SECONDS: Final = 60.0
_AFTER_ERROR_SECONDS: Final = 30.0


class Chores:
    """The work on files that are sealed to their end.

    Args:
        log: The journal's history, caught up.
        how: How files are compressed: ``zstd``, ``gzip`` or ``none``.
        retention: What is removed.
        on_error: Called with what prevents a chore, which is then tried again later. Sealing is
            not disturbed by that.
    """

    def __init__(
        self,
        log: TreeLog,
        *,
        how: str,
        retention: Retention,
        on_error: Callable[[Exception], None],
    ) -> None:
        self._log = log
        self._how = how
        self._retention = retention
        self._on_error = on_error
        self._chore: Iterator[None] | None = None
        self._finished = 0
        self._told = ""
        self._next_at = self._retain_at = 0.0

    def work(self) -> bool:
        """Work for some milliseconds.

        Returns:
            Whether there is more to do at once.

        Raises:
            LeaseLost: Another process is the sealer now.
        """
        now = monotonic()
        if self._chore is None:
            if now < self._next_at and self._log.finished == self._finished:
                return False
            self._finished = self._log.finished
            self._next_at = now + _IDLE_SECONDS
            self._chore = self._next_chore(now)
        try:
            while self._chore and monotonic() < now + _SLICE_SECONDS:
                next(self._chore)
        except StopIteration:
            self._chore = None
            self._next_at = 0.0
            self._told = ""
            return True
        except LeaseLost:
            raise
        except Exception as error:  # callbacks can raise anything; sealing is not disturbed
            self._chore = None
            self._next_at = now + _AFTER_ERROR_SECONDS
            self._log.lease.check()
            if str(error) != self._told:
                self._told = str(error)
                self._on_error(error)
        return self._chore is not None

    def _next_chore(self, now: float) -> Iterator[None] | None:
        log = self._log
        if self._how != "none":
            for file, path in sorted(rotated_files(log.directory).items()):
                if path.suffix == ".jsonl" and log.is_done(file):
                    return compress(log.lease, log.directory, file, self._how)
        if not self._retention.is_off and now >= self._retain_at:
            self._retain_at = now + _RETAIN_SECONDS
            return retain(log, self._retention)
        return None

    def stop(self) -> None:
        """Leave a chore that was begun for another time."""
        if self._chore is not None:
            self._chore.close()  # type: ignore[attr-defined]  # both are generators
        self._chore = None
