"""What the program's log is told when the trail is in trouble: logger ``klaviyo_audit``."""

from __future__ import annotations

import contextlib
import logging
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

_log = logging.getLogger("klaviyo_audit")


class Alarms:
    """Says in a sentence what went wrong and what to do. Never raises.

    Args:
        path: The journal's live file.
        block: Calls that need a record are stopped (``on_failure = "block"``).
    """

    def __init__(self, path: Path, *, block: bool) -> None:
        self._path = path
        self._block = block
        self._warned = False

    def lost(self, error: Exception) -> None:
        """Say once that the journal does not take entries (the writer counts them)."""
        if self._warned:
            return
        self._warned = True
        what = (
            "Calls that need a record are stopped."
            if self._block
            else "Calls go on unrecorded; set on_failure='block' to stop them instead."
        )
        _say(
            f"the audit journal {self._path} cannot be written ({explain(error)}). {what} "
            "What is lost is counted, and a gap entry will tell as soon as the journal works again."
        )

    def untold(self, count: int) -> None:
        """Say that the journal's end has come, and it did not take what was lost."""
        _say(
            f"{count} entries were lost, and the audit journal {self._path} did not even "
            "take the gap entry that would tell of them."
        )

    def trouble(self, what: str, error: Exception, remedy: str) -> None:
        """Say that something behind the program's back went wrong, and what to try."""
        _say(f"{what} ({type(error).__name__}); the program is not affected. Try: {remedy}")

    def telemetry_failed(self, error: Exception) -> None:
        """Say that OpenTelemetry, or what the program has plugged into it, does not work."""
        self.trouble(
            "spans or metrics of calls could not be made",
            error,
            "OTEL_PYTHON_DISABLED_INSTRUMENTATIONS=klaviyo switches them off; the trail goes on",
        )

    def low_space(self, free: int, *, stopped: bool) -> None:
        """Say that the disk is getting full."""
        amount = f"{free // 2**20} MiB are free on the disk of {self._path.parent}"
        if stopped:
            then = (
                "calls that need a record are stopped" if self._block else "calls go on unrecorded"
            )
            _say(f"{amount}: less than low_space_stop, so {then} until there is room.")
        else:
            _say(f"{amount}; low_space_warn and low_space_stop say when that is told.")

    def defect(self, error: Exception) -> None:
        """Tell of an error of our own making: it must not reach the audited program, nor hide."""
        _say(
            f"an entry could not be made ({type(error).__name__}): this is a defect of "
            "klaviyo-audit, please report it."
        )


def _say(message: str) -> None:
    # A logging filter of the program's own may raise; not even that may break the call.
    with contextlib.suppress(Exception):
        _log.warning(message)


def explain(error: Exception) -> str:
    """Why something failed: the operating system's words, if it has any."""
    return getattr(error, "strerror", None) or str(error) or type(error).__name__
