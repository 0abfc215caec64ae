"""When a sealer reads and signs, and when it lets others have their turn."""

from __future__ import annotations

import time
from time import monotonic
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from klaviyo_audit.journal.treelog import TreeLog

LINES: Final = 256
"""Lines that are hashed at once (about 0.4 ms)."""

_BATCHES: Final = 16
_RUN_WHEN_BEHIND: Final = 4
_EARLY_WAIT: Final = 4
_LOOK_SECONDS: Final = 0.25
_LOOKS_AN_INTERVAL: Final = 4


class Pace:
    """How fast one journal is sealed.

    Args:
        pause: How long to let go of the interpreter after every few lines, in seconds.
        interval: Longest time between a line and the checkpoint that covers it, in seconds.
        lines: Number of lines after which a checkpoint is made earlier.
    """

    def __init__(self, *, pause: float, interval: float, lines: int) -> None:
        self._pause = pause
        self._interval = interval
        self._lines = lines
        self._look = min(_LOOK_SECONDS, interval / _LOOKS_AN_INTERVAL)
        self._since: float | None = None
        self._early_at = 0.0
        self._is_behind = False

    def consume(self, log: TreeLog) -> bool:
        """Read a few thousand lines; False when there were not so many."""
        # Who falls behind makes others wait a little longer, still less than a switch interval.
        run, self._is_behind = _RUN_WHEN_BEHIND if self._is_behind else 1, False
        for batch in range(1, _BATCHES + 1):
            if not log.consume(LINES):
                return False
            if self._pause and batch % run == 0:
                time.sleep(self._pause)
        self._is_behind = True
        return True

    def rest(self) -> float:
        """How long nothing has to be done, when there was nothing to read (seconds).

        Each look makes the program's threads give the interpreter away several times.
        """
        if self._since is None:
            return self._look
        due = self._since + self._interval - self._look
        return max(0.0, min(self._look, due - monotonic()))

    def sign_if_due(self, log: TreeLog) -> None:
        """Make a checkpoint when it is time for one.

        Raises:
            As for `klaviyo_audit.journal.treelog.TreeLog.checkpoint`.
        """
        now = monotonic()
        if not log.unsealed:
            self._since = None
            return
        if self._since is None:
            self._since = now
        # A line that was seen now can have come at any time since the last look.
        late = now - self._since >= self._interval - self._look
        if late or (log.unsealed >= self._lines and now >= self._early_at):
            log.checkpoint()
            self._since = None
            # On a slow disk, syncing for each few lines would leave no time to read them.
            self._early_at = monotonic() + _EARLY_WAIT * (monotonic() - now)
