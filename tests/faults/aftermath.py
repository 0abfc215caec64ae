"""Opening a journal after a fault, and what has to hold of it then, whatever the fault was."""

from __future__ import annotations

from pathlib import Path

from klaviyo_audit import Auditor
from klaviyo_audit.journal.findings import Severity
from klaviyo_audit.journal.recovery import recover
from tests.faults.ledger import Ledger, contents
from tests.journal.checking import verify

_OPENINGS = 3


def open_again(folder: Path) -> None:
    """Open a journal until nothing is left to recover. No process may be writing to it."""
    for _ in range(_OPENINGS):
        auditor = Auditor(journal=folder, service="afterwards")
        if auditor._recovery is not None:
            auditor._recovery.join()
        # As `klaviyo-audit resolve` does: also what was lost by writers that said goodbye.
        recover(auditor._writer, [auditor._writer.id], everything=True)
        auditor.close()
        # A name that begins with a dot is a lock whose maker was killed while making it.
        if not [path for path in (folder / "writers").iterdir() if path.name[0] != "."]:
            return
    raise AssertionError(f"writers are left: {list((folder / 'writers').iterdir())}")


def content(folder: Path) -> bytes:
    """All that is in the files of a journal, from its beginning."""
    return b"".join(data for _, data in contents(folder))


def check_recovered(folder: Path, before: bytes) -> Ledger:
    """Open a journal again, and check that it is whole.

    Args:
        folder: The journal's folder.
        before: Its `content` after the fault.

    Returns:
        What it holds now.
    """
    open_again(folder)
    assert content(folder).startswith(before), "recovery changed a line"
    ledger = Ledger.of_journal(folder)
    assert ledger.unexplained() == {}, "numbers that nothing explains"
    assert ledger.repeated_numbers() == {}
    assert ledger.repeated_entries() == []
    assert ledger.open_intents() == []
    told = ledger.told_torn()
    untold = [
        (line.problem, file, line.offset)
        for file, line in ledger.damaged
        if (line.offset, len(line.raw)) not in told
    ]
    assert untold == [], "torn pieces that nothing tells of"
    report = verify(folder)
    errors = [one for one in report.findings if one.severity is Severity.ERROR]
    assert errors == []
    assert report.entries == len(ledger.entries)
    return ledger
