"""Finding calls whose outcome nobody knows, and what Klaviyo shows of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from klaviyo_audit.entry import Phase, Result
from klaviyo_audit.journal.contents import read_file
from klaviyo_audit.journal.recovery import journal_files
from klaviyo_audit.journal.statements import facts_of
from klaviyo_audit.klaviyo import evidence

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from klaviyo_audit.auditor import Auditor

ACTION: Final = "klaviyo_audit.evidence"
"""The action of the entries that hold evidence."""


def unknown_outcomes(directory: Path) -> list[dict[str, Any]]:
    """Outcomes of calls that change data and may have happened, without evidence yet.

    Args:
        directory: The journal's folder.

    Returns:
        Their members, oldest first.
    """
    unknown: dict[str, dict[str, Any]] = {}
    for path in journal_files(directory):
        for line in read_file(path):
            members = line.members
            if members is None:
                continue
            if members["phase"] == Phase.OUTCOME and members.get("result") == Result.UNKNOWN:
                if facts_of(members, "call").get("method") not in (None, "GET"):
                    unknown[members["id"]] = members
            elif members["action"] == ACTION:
                unknown.pop(str(facts_of(members).get("of")), None)
    return list(unknown.values())


def look_for_evidence(
    auditor: Auditor, api_client: Any, unknown: list[dict[str, Any]]
) -> Iterator[tuple[dict[str, Any], dict[str, Any] | None]]:
    """Re-read each resource at Klaviyo, and record what that shows.

    Args:
        auditor: Records the evidence; the reads themselves are audited too.
        api_client: An `ApiClient` whose key may read.
        unknown: As from `unknown_outcomes`.

    Yields:
        Each outcome with its evidence; None where Klaviyo has no operation that would show it.
    """
    audited = auditor.audit(api_client)
    for members in unknown:
        if not evidence.has_reader(members):
            yield members, None
            continue
        since = facts_of(facts_of(members), "resolved").get("intent_at")
        asked = {**members, "timestamp": since or members["timestamp"]}
        found = evidence.look(audited, asked)
        auditor.record(
            ACTION, resource=members["resource"], metadata={"of": members["id"], **found}
        )
        yield members, found
