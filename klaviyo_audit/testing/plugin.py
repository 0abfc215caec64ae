"""The pytest fixtures this package ships (entry point group ``pytest11``)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, overload

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from klaviyo_audit.auditor import Auditor
    from klaviyo_audit.entry import AuditEntry
    from klaviyo_audit.testing.fake_klaviyo import FakeKlaviyo


class Entries(Sequence["AuditEntry"]):
    """The entries of a journal as they stand in it now: outcomes and events, oldest first."""

    def __init__(self, auditor: Auditor) -> None:
        self.auditor = auditor
        """The auditor that writes them; the process's default one during the test."""

    @property
    def all_phases(self) -> list[AuditEntry]:
        """Every line, intents and lines about the journal itself included."""
        from klaviyo_audit.entry import AuditEntry
        from klaviyo_audit.journal.folder import JOURNAL_NAME

        lines = (self.auditor.journal / JOURNAL_NAME).read_bytes().splitlines()
        return [AuditEntry.from_json(line) for line in lines]

    def _shown(self) -> list[AuditEntry]:
        return [entry for entry in self.all_phases if entry.phase in ("outcome", "event")]

    @overload
    def __getitem__(self, index: int) -> AuditEntry: ...
    @overload
    def __getitem__(self, index: slice) -> list[AuditEntry]: ...
    def __getitem__(self, index: int | slice) -> AuditEntry | list[AuditEntry]:
        return self._shown()[index]

    def __len__(self) -> int:
        return len(self._shown())

    def __repr__(self) -> str:
        return f"<{len(self)} audit entries in {str(self.auditor.journal)!r}>"


@pytest.fixture
def fake_klaviyo() -> Iterator[FakeKlaviyo]:
    """A `FakeKlaviyo` server for one test."""
    from klaviyo_audit.testing.fake_klaviyo import FakeKlaviyo

    with FakeKlaviyo() as server:
        yield server


@pytest.fixture
def audit_entries(tmp_path: Path) -> Iterator[Entries]:
    """Audits into a folder of the test's own, by the process's default auditor."""
    from klaviyo_audit.default import configure, reset_default
    from klaviyo_audit.privacy import notice

    notice.silence()
    auditor = configure(journal=tmp_path / "klaviyo-audit")
    try:
        yield Entries(auditor)
    finally:
        reset_default()
