"""Removing the oldest files of the journal, so that what is left can still be verified."""

from __future__ import annotations

import contextlib
import math
from dataclasses import dataclass, field
from datetime import datetime
from itertools import islice
from typing import TYPE_CHECKING, Any, Final

from klaviyo_audit import clock
from klaviyo_audit.errors import JournalCorrupt
from klaviyo_audit.journal.checkpoint import open_checkpoint
from klaviyo_audit.journal.checkpoints import checkpoint_of_size
from klaviyo_audit.journal.commit import sync_folder
from klaviyo_audit.journal.folder import JOURNAL_NAME
from klaviyo_audit.journal.leaves import leaf_hashes
from klaviyo_audit.journal.removals import read_removals, read_removed, signed_record
from klaviyo_audit.journal.segments import rotated_files, spans
from klaviyo_audit.journal.statements import RETENTION
from klaviyo_audit.journal.walltime import CautiousClock

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

    from klaviyo_audit.journal.checkpoint import Checkpoint
    from klaviyo_audit.journal.segments import Segment
    from klaviyo_audit.journal.treelog import TreeLog

    Announce = Callable[[str, Mapping[str, Any]], None]

_VERSION: Final = 1
_DAY: Final = 86400.0
_LINES: Final = 256


@dataclass(frozen=True, slots=True)
class Retention:
    """How much of the journal is kept.

    Args:
        days: Age at which a file is removed: that of the signed checkpoint at its end, and no line
            is taken to be older than those before it. None: never for its age.
        max_bytes: Size of all journal files together above which the oldest are removed; None:
            never for that.
        needed_from: Gives the first leaf, or the number of the first file, that somebody still
            needs, such as a sink that has not acknowledged it.
        announce: Called with `klaviyo_audit.journal.statements.RETENTION` and the facts before
            files are removed. When it raises, they are kept for the time being; after a crash it
            can be called again for the same files.
    """

    days: float | None = None
    max_bytes: int | None = None
    needed_from: Callable[[], int] | None = None
    announce: Announce | None = None
    clock: CautiousClock = field(default_factory=CautiousClock)

    @property
    def is_off(self) -> bool:
        """Whether everything is kept."""
        return self.days is None and self.max_bytes is None


@dataclass(frozen=True, slots=True)
class Group:
    """Files that can only be removed together: their leaves come next in the tree."""

    files: tuple[int, ...]
    start: int
    end: int
    """The leaf after the last one; where another file's segment begins."""


def groups(segments: Sequence[Segment], start: int) -> Iterator[Group]:
    """The smallest groups, oldest first, of files that hold all leaves from `start` to some place.

    After late lines the leaves of two files interleave; then the two are one group.
    """
    if not segments:
        return
    last_visit = {segment.file: segment.index for segment in segments}
    files: set[int] = set()
    until = begin = start
    for span in spans(segments, start, segments[-1].index):
        files.add(span.file)
        until = max(until, last_visit[span.file])
        if until < span.end:
            yield Group(tuple(sorted(files)), begin, span.end)
            files, begin = set(), span.end


def retain(log: TreeLog, policy: Retention) -> Iterator[None]:
    """Remove what is due, in small pieces of work.

    Args:
        log: The journal's history, caught up.
        policy: What is due.

    Yields:
        After each piece of work, for others to have a turn.

    Raises:
        JournalCorrupt: What is to be removed is not what was sealed: it is evidence, and kept.
        LeaseLost: Another process is the sealer now.
        OSError: A file cannot be read or removed.
    """
    paths = rotated_files(log.directory)
    _remove_announced(log, paths, policy.announce)
    sizes = {file: path.stat().st_size for file, path in paths.items() if path.exists()}
    total = sum(sizes.values()) + _live_size(log.directory)
    removed = read_removed(log.directory, log.signer.verifier).size
    now = policy.clock.now()
    newest = _sealed_at(log, removed) if removed and policy.days is not None else 0.0
    for group in groups(log.segments, removed):
        if group.end > log.sealed or not all(map(log.is_done, group.files)):
            return
        if policy.needed_from and group.end > policy.needed_from():
            return
        if policy.days is not None:
            newest = max(newest, _sealed_at(log, group.end))
        if policy.days is not None and now - newest > policy.days * _DAY:
            reason = "age"
        elif policy.max_bytes is not None and total > policy.max_bytes:
            reason = "size"
        else:
            return
        size = sum(sizes.get(file, 0) for file in group.files)
        yield from _record(log, group, {"reason": reason, "bytes": size})
        paths = rotated_files(log.directory)
        _remove_announced(log, paths, policy.announce)
        total -= size


def _signed(log: TreeLog, size: int) -> Checkpoint:
    """The checkpoint over that many lines, where a file ends."""
    note = checkpoint_of_size(log.directory, size)
    if note is None:
        raise JournalCorrupt(
            f"the first {size} lines in {log.directory}, at the end of a file, have no checkpoint; "
            "no further ones are removed (`klaviyo-audit verify` tells more)"
        )
    return open_checkpoint(note, log.signer.verifier)


def _sealed_at(log: TreeLog, size: int) -> float:
    """When that many lines were sealed, as the log has signed it: seconds since the epoch.

    Not what the file system says: a file's time is whatever `touch` or a restored backup made it.
    """
    sealed_at = _signed(log, size).sealed_at
    return datetime.fromisoformat(sealed_at).timestamp() if sealed_at else math.inf


def _record(log: TreeLog, group: Group, facts: Mapping[str, Any]) -> Iterator[None]:
    """Say durably what is removed, when it has been read again and is what was signed."""
    tree = read_removed(log.directory, log.signer.verifier)
    hashes = leaf_hashes(log.directory, end=group.end)
    while batch := list(islice(hashes, _LINES)):
        tree = tree.extended(batch)
        yield
    if _signed(log, group.end).root != tree.root():
        raise JournalCorrupt(
            f"the lines {group.start} to {group.end - 1} in {log.directory} differ from what was "
            "signed; they are not removed (`klaviyo-audit verify` tells more)"
        )
    paths = rotated_files(log.directory)
    record = {
        "v": _VERSION,
        "timestamp": clock.now(),
        **facts,
        "files": [paths[file].name for file in group.files],
        "from": group.start,
        "lines": group.end - group.start,
    }
    log.lease.check()
    log.removed.append(signed_record(record, tree, log.signer))


def _remove_announced(log: TreeLog, paths: Mapping[int, Path], announce: Announce | None) -> None:
    """Remove the files that are recorded to be removed, after saying so."""
    size = read_removed(log.directory, log.signer.verifier).size
    kept = {segment.file for segment in log.segments if segment.index >= size}
    # A file whose last segment begins before that place ends there at the latest.
    begun = {segment.file for segment in log.segments} - kept
    gone = [paths[file] for file in sorted(begun & paths.keys())]
    if not gone or not size:
        return
    if announce:
        announce(RETENTION, read_removals(log.directory)[-1].facts)
    # Lost before the record was written: then there is no such record.
    log.lease.check()
    for path in gone:
        path.unlink(missing_ok=True)
    sync_folder(log.directory)


def _live_size(directory: Path) -> int:
    with contextlib.suppress(FileNotFoundError):
        return (directory / JOURNAL_NAME).stat().st_size
    return 0
