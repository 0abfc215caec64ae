"""What the checks look at: a project's folder, its settings, and the trail it leaves here."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final

from klaviyo_audit.journal.folder import JOURNAL_NAME
from klaviyo_audit.journal.segments import rotated_files
from klaviyo_audit.security.baseline import default_baseline
from klaviyo_audit.security.keyuse import key_uses, when
from klaviyo_audit.security.scan import scan
from klaviyo_audit.security.trail import members_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from pathlib import Path

    from klaviyo_audit.journal.findings import Report
    from klaviyo_audit.security.keyuse import KeyUse
    from klaviyo_audit.security.scan import Scan
    from klaviyo_audit.settings import Settings

_RECENT: Final = timedelta(days=30)
_OWN_SERVICE: Final = "klaviyo-audit"


@dataclass(frozen=True, slots=True)
class Start:
    """The first line of a program's latest run: how it was configured."""

    service: str
    environment: str | None
    at: datetime
    facts: Mapping[str, Any]


@dataclass(slots=True)
class Trail:
    """What the entries say, read once."""

    uses: dict[str, KeyUse]
    environments: dict[str, dict[str, set[str]]]
    """Of each key, the environments it was used in, with the services that did."""
    entries: int
    last: datetime | None
    starts: list[Start]
    """The latest start of each service in each environment, as far as in the last 30 days."""


class Project:
    """One project on one machine. What is costly is read at first use and kept.

    Args:
        path: Its folder.
        settings: The settings in force there.
        history: Whether git's history is looked at, too.
        now: The present time.
    """

    def __init__(
        self, path: Path, settings: Settings, *, history: bool = False, now: datetime | None = None
    ) -> None:
        self.path = path
        self.settings = settings
        self.history = history
        self.now = now or datetime.now(UTC)
        self.journal = settings.dir if settings.dir.is_absolute() else path / settings.dir

    @property
    def has_journal(self) -> bool:
        """Whether anything was ever recorded."""
        folder = self.journal
        if not folder.is_dir():
            return False
        return (folder / JOURNAL_NAME).is_file() or bool(rotated_files(folder))

    @property
    def baseline(self) -> Path | None:
        """Its baseline of detect-secrets."""
        return default_baseline(self.path)

    @cached_property
    def scanned(self) -> Scan:
        """What a scan of the work tree finds."""
        return scan(self.path, baseline=self.baseline)

    @cached_property
    def report(self) -> Report:
        """The verdict of the journal's verification."""
        from klaviyo_audit.journal.note import Verifier
        from klaviyo_audit.journal.verify import verify

        pinned = self.settings.public_key
        return verify(self.journal, verifiers=(Verifier.from_text(pinned),) if pinned else ())

    @cached_property
    def trail(self) -> Trail:
        """What the entries say of keys and configurations.

        Raises:
            OSError: The journal cannot be read.
        """
        found = Trail({}, {}, 0, None, [])
        starts: dict[tuple[str, str | None], Start] = {}
        found.uses = key_uses(_noting(members_of(self.journal), found, starts))
        newest = max((start.at for start in starts.values()), default=None)
        if newest is not None:
            found.starts = [one for one in starts.values() if one.at >= newest - _RECENT]
        return found

    def entries_here(self) -> Iterator[dict[str, Any]]:
        """The entries of this environment; all, where the setting ``environment`` names none."""
        here = self.settings.environment
        for members in members_of(self.journal):
            if here is None or _origin(members)[1] == here:
                yield members


def _noting(
    entries: Iterable[dict[str, Any]], found: Trail, starts: dict[tuple[str, str | None], Start]
) -> Iterator[dict[str, Any]]:
    """Pass entries on, and keep what `key_uses` does not."""
    for members in entries:
        found.entries += 1
        at = when(str(members.get("timestamp")))
        service, environment = _origin(members)
        if at is not None:
            found.last = at if found.last is None else max(at, found.last)
            facts = members.get("metadata")
            is_start = members.get("action") == "journal.open" and service != _OWN_SERVICE
            if is_start and isinstance(facts, dict):
                known = starts.get((service, environment))
                if known is None or known.at <= at:
                    starts[service, environment] = Start(service, environment, at, facts)
        key = members.get("key")
        if environment and isinstance(key, dict) and key.get("kind") != "public":
            by_environment = found.environments.setdefault(str(key.get("fingerprint")), {})
            by_environment.setdefault(environment, set()).add(service)
        yield members


def _origin(members: Mapping[str, Any]) -> tuple[str, str | None]:
    origin = members.get("origin")
    if not isinstance(origin, dict):
        return "?", None
    environment = origin.get("environment")
    return str(origin.get("service") or "?"), str(environment) if environment else None
