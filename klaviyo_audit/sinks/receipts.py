"""Receipts: what reached which sink when, for whoever has to show it later."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import orjson

from klaviyo_audit import clock
from klaviyo_audit.sinks.bookmark import BOOKMARK_NAME
from klaviyo_audit.sinks.lines import append_lines, last_lines

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from klaviyo_audit.sinks.batch import Batch
    from klaviyo_audit.sinks.bookmark import Place

RECEIPTS_NAME: Final = "receipts.jsonl"

_VERSION: Final = 1
_MARKS: Final = 10_000
_LONGEST_FACT: Final = 500


def write_receipt(
    folder: Path,
    sink: str,
    batch: Batch,
    *,
    rejected: int,
    attempts: int,
    facts: Mapping[str, Any],
    tree: tuple[int | None, int | None],
) -> None:
    """Add a receipt for a batch that was acknowledged.

    Args:
        folder: The sink's folder.
        sink: The sink's name.
        batch: What was delivered.
        rejected: How many of its entries went to the dead letters instead.
        attempts: How many attempts it took.
        facts: What the sink says about the acknowledgement, from `facts_of`.
        tree: Indexes of the first line and after the last one in the journal's tree, where known.

    Raises:
        OSError: It cannot be written.
    """
    first, last = batch.entries[0], batch.entries[-1]
    receipt: dict[str, Any] = {
        "v": _VERSION,
        "sink": sink,
        "acknowledged_at": clock.now(),
        "count": len(batch.entries) - rejected,
        "rejected": rejected,
        "filtered": batch.filtered,
        "damaged": batch.damaged,
        "attempts": attempts,
        "first": {"id": first.id, "phase": first.phase, "timestamp": first.timestamp},
        "last": {
            "id": last.id,
            "phase": last.phase,
            "timestamp": last.timestamp,
            "sum": last.sum,
        },
    }
    for name, place, index in (("from", batch.begin, tree[0]), ("to", batch.end.present, tree[1])):
        if place is not None:
            receipt[name] = _position(place, index)
    if facts:
        receipt["acknowledgement"] = dict(facts)
    append_lines(folder / RECEIPTS_NAME, [receipt], sync=False)


def facts_of(sink: object) -> dict[str, Any]:
    """What a sink says about its last delivery; nothing if that cannot be written down."""
    try:
        facts = getattr(sink, "acknowledgement", None) or {}
        found = {str(name)[:_LONGEST_FACT]: _plain(value) for name, value in facts.items()}
        orjson.dumps(found)
    except Exception:  # a sink may have anything there, and what it got still needs a receipt
        return {}
    return found


def delivered_marks(folder: Path) -> list[str]:
    """The `sum` of the last entry of each delivery, the latest last; of the latest 10,000.

    Raises:
        OSError: The receipts cannot be read.
    """
    receipts = last_lines(folder / RECEIPTS_NAME, _MARKS)
    ends = [receipt.get("last") for receipt in receipts]
    marks = [end.get("sum") for end in ends if isinstance(end, dict)]
    return [mark for mark in marks if isinstance(mark, str)]


def last_acknowledgement(folder: Path) -> str | None:
    """When a batch was acknowledged last.

    Raises:
        OSError: The receipts cannot be read.
    """
    last = last_lines(folder / RECEIPTS_NAME, 1)
    return last[-1].get("acknowledged_at") if last else None


def missing_bookmark(folder: Path) -> str | None:
    """What to tell of a sink without a bookmark that has got something before.

    Returns:
        None if there is no trace of an earlier delivery.

    Raises:
        OSError: The receipts cannot be read.
    """
    last = last_lines(folder / RECEIPTS_NAME, 1)
    if not last and not (folder / RECEIPTS_NAME).exists():
        return None
    when = last[-1].get("acknowledged_at") if last else None
    told = f"the last acknowledgement was at {when}" if when else "none of them can be read"
    return (
        f"the bookmark {folder / BOOKMARK_NAME} is missing, though there are receipts of what was "
        f"delivered ({told}); the place is looked for by them. To have everything delivered again "
        f"instead, remove the folder {folder}"
    )


def _position(place: Place, index: int | None) -> dict[str, int]:
    position = {"offset": place.offset, "line": place.lines}
    if place.file is not None:
        position["file"] = place.file
    if index is not None:
        position["tree"] = index
    return position


def _plain(value: Any) -> Any:
    if isinstance(value, bool | int | float) or value is None:
        return value
    return str(value)[:_LONGEST_FACT]
