"""What the processes of one run of a program have recorded."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from klaviyo_audit.entry import Phase
from klaviyo_audit.journal.folder import JOURNAL_NAME
from klaviyo_audit.journal.reader import lines_of, open_journal, scan
from klaviyo_audit.journal.segments import decompressed, rotated_files
from klaviyo_audit.journal.statements import facts_of

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from klaviyo_audit.journal.line import Line


@dataclass(frozen=True, slots=True)
class Mark:
    """Where a journal ended before a run: what was in it then needs not be read again."""

    rotated: frozenset[str] = frozenset()
    """Names of the rotated files."""
    live: tuple[int, int] | None = None
    """Device and inode of the live file."""
    size: int = 0
    """Its length in bytes."""


@dataclass(slots=True)
class RunSummary:
    """Counts over the lines of one run."""

    writers: int = 0
    """Processes that opened the journal."""
    results: Counter[str] = field(default_factory=Counter)
    """Calls (outcomes) by their result."""
    events: int = 0
    """Entries that are about no call."""
    lost: int = 0
    """Entries that could not be written, as gap entries tell."""

    @property
    def calls(self) -> int:
        """Calls that have an outcome."""
        return self.results.total()


def mark(directory: Path) -> Mark:
    """Remember where a journal ends now; it need not be there."""
    try:
        facts = (directory / JOURNAL_NAME).stat(follow_symlinks=False)
    except OSError:
        return Mark()
    rotated = frozenset(path.name for path in rotated_files(directory).values())
    return Mark(rotated, (facts.st_dev, facts.st_ino), facts.st_size)


def summary(directory: Path, run: str, since: Mark) -> RunSummary:
    """Count what the writers of a run have written since a mark.

    Args:
        directory: The journal's folder.
        run: The run's id, which its writers name in their first line.
        since: Where the journal ended before.

    Raises:
        OSError: The journal cannot be read. That there is none is no error.
    """
    found = RunSummary()
    writers: set[str] = set()
    for line in _lines(directory, since):
        members = line.members
        if members is None:
            continue
        facts = facts_of(members)
        if members["action"] == "journal.open" and facts.get("run") == run:
            writers.add(members["writer"])
        if members["writer"] not in writers:
            continue
        phase = members["phase"]
        if phase == Phase.OUTCOME:
            found.results[str(members.get("result"))] += 1
        elif phase == Phase.EVENT:
            found.events += 1
        elif phase == Phase.GAP:
            count = facts.get("count")
            found.lost += count if isinstance(count, int) else 0
    found.writers = len(writers)
    return found


def _lines(directory: Path, since: Mark) -> Iterator[Line]:
    if not directory.exists():
        return
    paths = [path for _, path in sorted(rotated_files(directory).items())]
    live = directory / JOURNAL_NAME
    if live.exists():
        paths.append(live)
    for path in paths:
        if path.name in since.rotated:
            continue
        with open_journal(path) as opened, decompressed(opened, path.suffix) as content:
            facts = path.stat()
            known = path.suffix == ".jsonl" and (facts.st_dev, facts.st_ino) == since.live
            for item in scan(content, offset=since.size if known else 0, final=path != live):
                yield from lines_of(item)
