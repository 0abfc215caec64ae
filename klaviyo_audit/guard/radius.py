"""How far one call reaches: the people or objects it touches."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class BlastRadius:
    """What a call is about to touch, for ``confirm=`` and for the entry."""

    action: str
    """``klaviyo.campaigns.send_campaign``."""
    count: int | None
    """How many; None: it could not be known."""
    unit: str
    """``people`` or ``objects``."""
    source: str
    """``request`` (counted in it), ``klaviyo`` (asked there), or why it is not known."""
    limit: int | None
    """What may be touched without a word more."""

    @property
    def is_above(self) -> bool:
        """Whether it is above the limit; what is not known may be."""
        return self.limit is not None and (self.count is None or self.count > self.limit)

    def facts(self) -> dict[str, Any]:
        """The entry's ``metadata.blast_radius``."""
        facts: dict[str, Any] = {"count": self.count, "unit": self.unit, "source": self.source}
        if self.limit is not None:
            facts["limit"] = self.limit
        return facts

    def above(self) -> str:
        """That it is above the limit, in words."""
        if self.count is None:
            return (
                f"how many {self.unit} it touches is not known ({self.source}); "
                f"the limit is {self.limit}"
            )
        return f"it touches {self.count} {self.unit}; the limit is {self.limit}"
