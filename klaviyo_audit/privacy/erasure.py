"""Forgetting a person: their keys are destroyed, the trail stays as it was sealed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from klaviyo_audit.errors import ConfigurationError
from klaviyo_audit.privacy.subject_keys import StillInLog

if TYPE_CHECKING:
    from collections.abc import Sequence

    from klaviyo_audit.privacy.identifiers import Kind
    from klaviyo_audit.privacy.subject_keys import SubjectKeys

ACTION: Final = "klaviyo_audit.subject_forgotten"
"""The action of the entries that say that somebody was forgotten, and not who."""
BEGUN: Final = "klaviyo_audit.subject_forgetting"
"""The action of the entry before that: whoever is killed between them leaves no silent change."""


@dataclass(frozen=True, slots=True)
class Forgotten:
    """What was destroyed."""

    kinds: tuple[str, ...]
    """Kinds of the identifiers whose keys were destroyed."""
    unknown: int
    """Identifiers that had no key (any more)."""
    trouble: ConfigurationError | None = None
    """What was left undone."""

    def facts(self) -> dict[str, Any]:
        """What the entry about it says.

        Neither identifiers nor pseudonyms, nor how many entries there were: with a certificate
        beside the trail any of them would tie the two together again.
        """
        return {"keys_destroyed": len(self.kinds), "kinds": sorted(self.kinds)}


def forget(keys: SubjectKeys, identifiers: Sequence[tuple[Kind, str]]) -> Forgotten:
    """Destroy the keys of a person.

    Args:
        keys: The store.
        identifiers: The person's identifiers, each in its one spelling.

    Raises:
        ConfigurationError: The store cannot be used, and nothing was destroyed.
    """
    gone: list[str] = []
    unknown = 0
    trouble: ConfigurationError | None = None
    for kind, normal in identifiers:
        try:
            if keys.forget(kind, normal):
                gone.append(kind.value)
            else:
                unknown += 1
        except StillInLog as error:
            gone.append(kind.value)
            trouble = error
        except ConfigurationError as error:
            if not gone:
                raise
            trouble = error
            break
    return Forgotten(tuple(gone), unknown, trouble)


@dataclass(frozen=True, slots=True, kw_only=True)
class Certificate:
    """What is given to the person, or kept as evidence that they were forgotten."""

    persons: tuple[str, ...]
    """As they were named."""
    kinds: tuple[str, ...]
    when: str
    by: str
    entry_id: str | None
    journal: str
    """The journal's name: its origin in checkpoints, else its folder's name."""
    sealed_lines: int | None
    still_linked: int = 0
    """Entries that name the person by the key that all persons share: from before subject_keys."""
    """How many lines the journal's last checkpoint covers, which still verifies."""

    def to_text(self) -> str:
        """The certificate as plain text."""
        sealed = (
            f"The journal's last checkpoint covers {self.sealed_lines:,} lines. This has changed "
            "none of them, as\nklaviyo-audit verify shows.\n"
            if self.sealed_lines is not None
            else "The journal is not sealed.\n"
        )
        return (
            "CERTIFICATE OF ERASURE\n\n"
            f"For:        {', '.join(self.persons)}\n"
            f"When:       {self.when}\n"
            f"By:         {self.by}\n"
            f"Journal:    {self.journal}\n"
            f"Destroyed:  {len(self.kinds)} key(s), of: {', '.join(self.kinds) or 'nothing'}\n"
            f"Recorded:   entry {self.entry_id or 'none (the journal did not take it)'}\n\n"
            "The audit trail never held these identifiers, only values made from them with keys\n"
            "of this person's own. Those were destroyed and overwritten; entries made with them\n"
            "can no longer be linked to these identifiers. Other identifiers of the same person\n"
            "have other keys. Copies of the key store from before are not reached by this: they\n"
            "have to be destroyed, or made useless by exchanging the master key.\n"
            f"{self._left()}{sealed}"
        )

    def _left(self) -> str:
        if not self.still_linked:
            return ""
        return (
            f"\nNOT ERASED: {self.still_linked:,} entries from before subject_keys was on name the "
            "person by the\npseudonym key that all persons share. They can be linked as long as "
            "anybody has that key.\n\n"
        )

    def to_dict(self) -> dict[str, Any]:
        """The certificate as JSON types."""
        return {
            "persons": list(self.persons),
            "kinds": list(self.kinds),
            "when": self.when,
            "by": self.by,
            "entry_id": self.entry_id,
            "journal": self.journal,
            "sealed_lines": self.sealed_lines,
            "still_linked": self.still_linked,
        }
