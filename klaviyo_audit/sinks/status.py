"""How sinks do, seen from outside of the process that ships."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, TypeVar

from klaviyo_audit.errors import JournalCorrupt
from klaviyo_audit.sinks.attempts import file_trouble
from klaviyo_audit.sinks.bookmark import load_bookmark
from klaviyo_audit.sinks.deadletters import count_dead, count_unreadable
from klaviyo_audit.sinks.folder import SINKS_NAME, is_locked
from klaviyo_audit.sinks.lag import lag_of
from klaviyo_audit.sinks.receipts import last_acknowledgement, missing_bookmark
from klaviyo_audit.sinks.state import load_state

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

_T = TypeVar("_T")


def sinks_status(directory: Path, names: tuple[str, ...]) -> list[dict[str, Any]]:
    """How each sink does that is in the settings or has a folder beside the journal.

    Raises:
        OSError: The journal cannot be read.
        JournalCorrupt: A compressed file of it is damaged.
    """
    folder = directory / SINKS_NAME
    found = {path.name for path in folder.iterdir() if path.is_dir()} if folder.is_dir() else set()
    return [_sink_status(folder / name, name in names) for name in sorted({*found, *names})]


def _sink_status(folder: Path, configured: bool) -> dict[str, Any]:
    problems: list[str] = []

    def read(what: Callable[[Path], _T], otherwise: _T) -> _T:
        """One file that cannot be read must not hide what is known from the others."""
        try:
            return what(folder)
        except (OSError, JournalCorrupt) as error:
            problems.append(file_trouble(error))
            return otherwise

    state = load_state(folder)
    bookmark = read(load_bookmark, None)
    if bookmark is None and not problems and (why := read(missing_bookmark, None)):
        problems.append(why)
    acknowledged = state.get("acknowledged_at") or read(last_acknowledgement, None)
    shipping = read(is_locked, otherwise=False)
    dead = read(count_dead, 0)
    unreadable = read(count_unreadable, 0)
    lag = lag_of(folder, bookmark)
    members = {
        "sink": folder.name,
        "in_settings": configured,
        "shipping": shipping,
        "state": state.get("state", "idle") if shipping else "not shipping",
        "lag_entries": lag.lines,
        "lag_seconds": _age(lag.since),
        # The state is of the process that shipped last, which may have had nothing to deliver.
        "acknowledged_at": acknowledged,
        "error": "; ".join(problems) or state.get("error"),
        "error_at": state.get("error_at"),
        "retry_at": state.get("retry_at"),
        "attempts_overdue": state.get("overdue", 0) if shipping else 0,
        "dead_letters": dead,
        "dead_letters_unreadable": unreadable,
        "pid": state.get("pid") if shipping else None,
        "checkpoints_delivered": state.get("checkpoints", 0),
    }
    if bookmark is not None:
        members |= {
            "delivered": bookmark.delivered,
            "filtered": bookmark.filtered,
            "damaged": bookmark.damaged,
            "last_entry": bookmark.last.id if bookmark.last else None,
        }
        if bookmark.present is not None:
            place = bookmark.present
            members["bookmark"] = {
                "file": place.file,
                "offset": place.offset,
                "line": place.lines,
                "sum": place.sum,
            }
    return members


def _age(timestamp: str | None) -> float:
    if timestamp is None:
        return 0.0
    try:
        then = datetime.fromisoformat(timestamp)
    except ValueError:
        return 0.0
    return max(0.0, round((datetime.now(UTC) - then).total_seconds(), 3))
