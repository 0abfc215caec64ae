"""An entry as the line of the journal it was read from."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from klaviyo_audit.journal.format import encode, json_text

if TYPE_CHECKING:
    from klaviyo_audit.entry import AuditEntry


def line_of(entry: AuditEntry, members: dict[str, Any] | None = None) -> bytes:
    """The entry's line, without its newline.

    For what a journal of this version holds these are the very bytes of its line, so that their
    checksum and their leaf in the Merkle tree can be computed by whoever receives them. Where
    that cannot be (a line with members this version does not know), the checksum still is that
    of the line in the journal, and does not hold for these bytes.

    Args:
        entry: The entry.
        members: Its `to_dict`, if the caller has that already.
    """
    members = entry.to_dict() if members is None else members
    if entry.sum is None:
        return encode(members)[:-1]
    return json_text(members).encode()
