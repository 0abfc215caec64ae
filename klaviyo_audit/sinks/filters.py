"""Which entries a sink wants."""

from __future__ import annotations

from dataclasses import dataclass, fields
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

from klaviyo_audit.entry import Phase

if TYPE_CHECKING:
    from klaviyo_audit.entry import AuditEntry

_ABOUT_THE_TRAIL = (Phase.GAP, Phase.JOURNAL)


@dataclass(frozen=True, slots=True, kw_only=True)
class Filter:
    """What is delivered to one sink: what fits all of these. None: anything fits.

    Lines about the trail itself (phases ``gap`` and ``journal``) have no result, no risk and no
    action of the program's; of the four only `phases` is asked about them, so that a filter for
    failures does not hide that entries were lost.
    """

    results: frozenset[str] | None = None
    risks: frozenset[str] | None = None
    actions: tuple[str, ...] | None = None
    """Patterns with ``*``, ``?`` and ``[...]``, for the whole action."""
    phases: frozenset[str] | None = None

    def parts(self) -> dict[str, frozenset[str] | tuple[str, ...]]:
        """What was given, by name."""
        found = {spec.name: getattr(self, spec.name) for spec in fields(self)}
        return {name: words for name, words in found.items() if words is not None}

    @property
    def is_open(self) -> bool:
        """Whether everything fits."""
        return self == Filter()

    def passes(self, entry: AuditEntry) -> bool:
        """Whether the sink wants the entry."""
        if self.phases is not None and entry.phase not in self.phases:
            return False
        if entry.phase in _ABOUT_THE_TRAIL:
            return True
        if self.results is not None and entry.result not in self.results:
            return False
        if self.risks is not None and (entry.call is None or entry.call.risk not in self.risks):
            return False
        return self.actions is None or any(
            fnmatchcase(entry.action, pattern) for pattern in self.actions
        )
