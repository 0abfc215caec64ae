"""How sinks do, seen from outside of the process that ships."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from klaviyo_audit.errors import JournalCorrupt
from klaviyo_audit.sinks.bookmark import load_bookmark
from klaviyo_audit.sinks.deadletters import count_dead, count_unreadable
from klaviyo_audit.sinks.folder import SINKS_NAME, is_locked
from klaviyo_audit.sinks.lag import lag_of
from klaviyo_audit.sinks.receipts import last_acknowledgement, missing_bookmark
from klaviyo_audit.sinks.state import load_state

if TYPE_CHECKING:
    from pathlib import Path


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
    state = load_state(folder)
    problem: str | None
    try:
        bookmark = load_bookmark(folder)
    except JournalCorrupt as error:
        bookmark, problem = None, str(error)
    else:
        problem = missing_bookmark(folder) if bookmark is None else None
    lag = lag_of(folder, bookmark)
    shipping = folder.is_dir() and is_locked(folder)
    members = {
        "sink": folder.name,
        "in_settings": configured,
        "shipping": shipping,
        "state": state.get("state", "idle") if shipping else "not shipping",
        "lag_entries": lag.lines,
        "lag_seconds": _age(lag.since),
        # The state is of the process that shipped last, which may have had nothing to deliver.
        "acknowledged_at": state.get("acknowledged_at") or last_acknowledgement(folder),
        "error": problem or state.get("error"),
        "error_at": state.get("error_at"),
        "retry_at": state.get("retry_at"),
        "attempts_overdue": state.get("overdue", 0) if shipping else 0,
        "dead_letters": count_dead(folder) if folder.is_dir() else 0,
        "dead_letters_unreadable": count_unreadable(folder) if folder.is_dir() else 0,
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
