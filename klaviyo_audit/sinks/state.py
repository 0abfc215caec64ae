"""What a shipper last said about how its sink does, for ``klaviyo-audit status``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import orjson

from klaviyo_audit.journal.reader import open_journal
from klaviyo_audit.journal.sidefile import replace_file

if TYPE_CHECKING:
    from pathlib import Path

STATE_NAME: Final = "state"


def save_state(folder: Path, members: dict[str, Any]) -> None:
    """Replace what is said about a sink. It is news, not evidence: nothing is forced to the disk.

    Raises:
        OSError: It cannot be written.
    """
    replace_file(folder / STATE_NAME, orjson.dumps(members) + b"\n", sync=False)


def load_state(folder: Path) -> dict[str, Any]:
    """What was said last; nothing if there is none, or it cannot be read."""
    try:
        with open_journal(folder / STATE_NAME) as file:
            members = orjson.loads(file.read())
    except (OSError, ValueError):
        return {}
    return members if isinstance(members, dict) else {}
