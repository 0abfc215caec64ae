"""The consent ledger: who changed a person's consent, when, for which list, and the proof of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from klaviyo_audit.analysis.query import Question, find
from klaviyo_audit.entry import Phase
from klaviyo_audit.errors import KlaviyoAuditError

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator
    from pathlib import Path


@dataclass(frozen=True, slots=True, kw_only=True)
class ConsentChange:
    """One call that changed, or was to change, one person's consent."""

    when: str
    change: str
    """``subscribe``, ``unsubscribe``, ``suppress``, ``unsuppress``, ``subscribe_back_in_stock``."""
    channels: tuple[str, ...]
    """As ``email.marketing``; none: whatever Klaviyo does without being told."""
    list_id: str | None
    segment_id: str | None
    source: str | None
    """The custom source that the call gave."""
    historical: bool | None
    """The consent was given earlier and only imported."""
    user_id: str
    on_behalf_of: str | None
    reason: str | None
    service: str | None
    environment: str | None
    result: str
    """As in entries; ``unknown`` also where only the intent is there."""
    status: int | None
    request_id: str | None
    entry_id: str

    def to_dict(self) -> dict[str, Any]:
        """The facts there are, as JSON types."""
        found = {name: getattr(self, name) for name in self.__slots__}
        found["channels"] = list(self.channels)
        return {name: value for name, value in found.items() if value is not None}


@dataclass(frozen=True, slots=True)
class Proof:
    """What shows that a change is in the sealed journal, or why nothing does."""

    text: bytes | None
    """As `klaviyo-audit verify-proof` reads it."""
    why_not: str | None = None


def changes(
    directory: Path, names: Collection[str], *, list_id: str | None = None
) -> Iterator[ConsentChange]:
    """The changes of one person's consent, oldest first.

    Args:
        directory: The journal's folder.
        names: The person's pseudonyms.
        list_id: Only those for this list.

    Raises:
        JournalCorrupt: See `entries.entries`.
        OSError: A file cannot be read.
    """
    found: dict[str, dict[str, Any]] = {}
    for members in find(directory, Question(names=tuple(names))):
        consent = members.get("consent")
        if not isinstance(consent, dict):
            continue
        if members["phase"] == Phase.OUTCOME or members["id"] not in found:
            found[members["id"]] = members
    for members in sorted(found.values(), key=lambda one: str(one["timestamp"])):
        change = _change(members, names)
        if list_id is None or change.list_id == list_id:
            yield change


def prove(directory: Path, change: ConsentChange) -> Proof:
    """Prove that the entry of a change is in the journal as it was sealed.

    The proof is checked before it is given, but for the key of the signature: who checks it has to
    name the key they trust.

    Raises:
        OSError: A file cannot be read.
    """
    from klaviyo_audit.journal import proving

    try:
        return Proof(proving.prove(directory, change.entry_id))
    except LookupError as error:
        return Proof(None, str(error.args[0]))
    except KlaviyoAuditError as error:
        return Proof(None, str(error))


def _change(members: dict[str, Any], names: Collection[str]) -> ConsentChange:
    consent = members["consent"]
    actor = members.get("actor") or {}
    origin = members.get("origin") or {}
    http = members.get("http") or {}
    return ConsentChange(
        when=members["timestamp"],
        change=str(consent.get("change")),
        channels=_channels(consent, names),
        list_id=consent.get("list"),
        segment_id=consent.get("segment"),
        source=consent.get("source"),
        historical=consent.get("historical"),
        user_id=members["user_id"],
        on_behalf_of=actor.get("on_behalf_of"),
        reason=actor.get("reason"),
        service=origin.get("service"),
        environment=origin.get("environment"),
        result=members.get("result") or "unknown",
        status=http.get("status"),
        request_id=http.get("request_id"),
        entry_id=members["id"],
    )


def _channels(consent: dict[str, Any], names: Collection[str]) -> tuple[str, ...]:
    """The channels for this person: a bulk call may have different ones for each."""
    for group in consent.get("per_subject") or ():
        if not set(names).isdisjoint(group.get("subjects") or ()):
            return tuple(group.get("channels") or ())
    return tuple(consent.get("channels") or ())
