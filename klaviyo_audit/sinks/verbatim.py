"""An entry as the line of the journal it was read from."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from klaviyo_audit.journal.format import SUM_MEMBER, encodable, encode

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
    members = dict(members) if members is not None else entry.to_dict()
    sum_ = members.pop("sum", None)
    try:
        line = encode(members)[:-1]
    except TypeError:  # a lone surrogate: not from a journal, which has none
        line = encode(encodable(members))[:-1]
    if sum_ is None:
        return line
    body, _, _ = line.rpartition(SUM_MEMBER)
    return b'%b%b%b"}' % (body, SUM_MEMBER, sum_.encode())
