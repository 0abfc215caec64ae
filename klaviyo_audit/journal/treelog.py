"""The journal's tree as its sealer grows it: lines in, signed checkpoints out."""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING, Final

from klaviyo_audit import clock
from klaviyo_audit.errors import JournalCorrupt
from klaviyo_audit.journal import refusals
from klaviyo_audit.journal.checkpoint import Checkpoint, framed, sign, torn_end
from klaviyo_audit.journal.checkpoints import last_checkpoint
from klaviyo_audit.journal.commit import sync_folder
from klaviyo_audit.journal.lease import CHECKPOINTS_NAME, REMOVED_NAME, SEGMENTS_NAME
from klaviyo_audit.journal.note import BLANK_LINE
from klaviyo_audit.journal.reader import open_journal
from klaviyo_audit.journal.removals import read_removed
from klaviyo_audit.journal.rotation import identity_of
from klaviyo_audit.journal.segments import Segment, read_segments
from klaviyo_audit.journal.sidefile import SideFile
from klaviyo_audit.journal.signing import signer_of
from klaviyo_audit.journal.treestate import TreeState, load_state, save_state
from klaviyo_audit.journal.walk import Walk

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from klaviyo_audit.journal.lease import Lease
    from klaviyo_audit.journal.leaves import LeafReader

# macOS has no fdatasync in Python.
_sync: Final = getattr(os, "fdatasync", os.fsync)


class TreeLog:
    """The sealed history of one journal, open for the process that has the lease.

    When it is opened it first has to be brought to where sealing stood, with `consume`, and comes
    past every witness on the way: the last checkpoint, and what else is known of the history.
    Until it has (`caught_up`) nothing can be signed.

    Args:
        directory: The journal's folder.
        lease: The lease, held.
        signing_key: As for `signer_of`.
        public_key: As for `signer_of`.
        origin: As for `signer_of`.
        known: Size and root of a tree that the journal is known to have had.
        on_checkpoint: Called with each signed checkpoint when it is on the disk.

    Raises:
        JournalCorrupt: What is beside the journal does not hold together.
        ConfigurationError: As for `signer_of`.
        LeaseLost: Another process is the sealer now.
        OSError: A file cannot be opened.
    """

    def __init__(
        self,
        directory: Path,
        lease: Lease,
        *,
        signing_key: str | None = None,
        public_key: str | None = None,
        origin: str | None = None,
        known: tuple[int, bytes] | None = None,
        on_checkpoint: Callable[[bytes], None] | None = None,
    ) -> None:
        self.directory = directory
        self.lease = lease
        self.finished = 0
        """How many files were finished since this was opened."""
        self.unsure = False
        """A read failed, perhaps in the middle: what was read is not where reading would go on."""
        self._on_checkpoint = on_checkpoint
        with contextlib.ExitStack() as undo:
            self._closing = undo
            self._checkpoints = self._side_file(CHECKPOINTS_NAME)
            self._segments = self._side_file(SEGMENTS_NAME)
            self.removed = self._side_file(REMOVED_NAME)
            # What was opened while the lease was held is replaced when it is taken over.
            lease.check()
            self._segments.cut_torn_line()
            self.removed.cut_torn_line()
            last = last_checkpoint(directory)
            if last is None and self._checkpoints.tail(1):
                raise JournalCorrupt(
                    f"{directory / CHECKPOINTS_NAME} holds no checkpoint, but other bytes; "
                    "restore it from a backup"
                )
            self.signer, checkpoint = signer_of(
                directory, last, signing_key=signing_key, public_key=public_key, origin=origin
            )
            # A record that somebody else wrote would have more files removed.
            read_removed(directory, self.signer.verifier)
            self._cut_torn_checkpoint()
            self.sealed = checkpoint.size if checkpoint else 0
            """How many lines the last checkpoint covers."""
            self.segments = read_segments(directory)
            """Where the leaves are, in tree order."""
            witnesses = [(checkpoint.size, checkpoint.root)] if checkpoint else []
            if known:
                witnesses.append(known)
            state = load_state(directory, self.signer.verifier, self.segments)
            if state and state.tree.size > self.sealed:
                # A checkpoint is gone. What it was about is still known.
                witnesses.append((state.tree.size, state.tree.root()))
                state = None
            self._all_witnesses = sorted(witnesses)
            self._begin(state)
            self._closing = undo.pop_all()

    def _side_file(self, name: str) -> SideFile:
        file = SideFile(self.directory / name)
        self._closing.callback(file.close)
        return file

    def _cut_torn_checkpoint(self) -> None:
        """Cut what a crash has left of the last one: nobody was given it."""
        with open_journal(self.directory / CHECKPOINTS_NAME) as file:
            begin = torn_end(file, self.signer.name)
        if begin is not None:
            self._checkpoints.cut(begin)

    def _begin(self, state: TreeState | None) -> None:
        """Begin where a state says, or at the first line that is still there."""
        self._from_state = state is not None
        self._witnesses = list(self._all_witnesses)
        if state:
            self.tree = state.tree
            files = {file: offset for file, (offset, _) in state.files.items()}
            try:
                self.walk = Walk(
                    self.directory, self.segments, followed=state.followed, files=files
                )
            except JournalCorrupt:
                self._begin(None)
        else:
            self.tree = read_removed(self.directory)
            skipped = sum(segment.index < self.tree.size for segment in self.segments)
            self.walk = Walk(self.directory, self.segments, followed=skipped)

    def close(self) -> None:
        """Close all files. Nothing is written."""
        self.walk.close()
        self._closing.close()

    @property
    def caught_up(self) -> bool:
        """All that was sealed before was read again, or is known, and is as it was."""
        return not self._witnesses and self.walk.next_segment() is None

    @property
    def unsealed(self) -> int:
        """Lines in the tree that no checkpoint covers."""
        return self.tree.size - self.sealed

    def is_done(self, file: int) -> bool:
        """Whether a file is sealed to its end and has no writer any more."""
        reader = self.walk.reader
        return (
            self.caught_up
            and file not in self.walk.waiting
            and not (reader and reader.file == file)
            and any(segment.file == file for segment in self.segments)
        )

    def consume(self, most: int) -> bool:
        """Add up to `most` lines of the present file to the tree.

        Returns:
            False when the file has no more for now.

        Raises:
            JournalCorrupt: The journal is not what was sealed.
            OSError: It cannot be read.
        """
        catching_up = not self.caught_up
        try:
            return self._consume(most)
        except OSError:
            self.unsure = True
            raise
        except JournalCorrupt:
            if not (self._from_state and catching_up):
                raise
        # The state may be at fault, being only a cache.
        self.walk.close()
        self._begin(None)
        return True

    def _consume(self, most: int) -> bool:
        while (room := self._room()) == 0:
            self._pass_mark()
        reader = self.walk.reader
        if reader is None:
            if room:
                raise refusals.cut(self.directory, self.tree.size, None)
            return False
        self._check_uncut(reader)
        hashes = reader.take(most if room is None else min(most, room))
        if room and not hashes and reader.at_end:
            # The last line of a file that nobody writes to needs no newline.
            hashes = [] if reader is self.walk.live else reader.take_tail()
            if not hashes:
                raise refusals.cut(self.directory, self.tree.size, reader.file)
        if hashes:
            self.tree = self.tree.extended(hashes)
        return not reader.at_end

    def _check_uncut(self, reader: LeafReader) -> None:
        if reader.was_cut():
            raise refusals.cut(self.directory, self.tree.size, reader.file)

    def _room(self) -> int | None:
        """Leaves until the next segment or witness; None when there is none to come."""
        marks = [size for size, _ in self._witnesses[:1]]
        if segment := self.walk.next_segment():
            marks.append(segment.index)
        if not marks:
            return None
        if min(marks) < self.tree.size:
            raise refusals.out_of_step(self.directory, self.tree.size, min(marks))
        return min(marks) - self.tree.size

    def _pass_mark(self) -> None:
        while self._witnesses and self._witnesses[0][0] == self.tree.size:
            if self._witnesses[0][1] != self.tree.root():
                raise refusals.changed(self.directory, self.tree.size)
            self._witnesses.pop(0)
        segment = self.walk.next_segment()
        if segment and segment.index == self.tree.size:
            self.walk.follow()

    def go_to(self, file: int | None) -> None:
        """Go on with another file, after a checkpoint at the end of what was read of this one.

        Args:
            file: One that is waiting, or None for a live file whose sealing now begins.

        Raises:
            JournalCorrupt: As for `checkpoint`, or there is no such file.
            LeaseLost: Another process is the sealer now.
            OSError: It cannot be recorded; then nothing has changed.
        """
        self.checkpoint()
        if file is None:
            # Its name has to be on the disk before a checkpoint covers what is in it.
            sync_folder(self.directory)
            segment = Segment(self.tree.size, self.tree.size, 0)
        else:
            segment = Segment(self.tree.size, file, self.walk.waiting[file])
        self.lease.check()
        self._segments.append(segment.to_line())
        self.segments.append(segment)
        self.walk.follow()

    def finish(self) -> None:
        """Be done with the present file, which has no writer any more and no further line.

        What follows its last newline becomes a line.

        Raises:
            As for `checkpoint`.
        """
        assert self.walk.reader
        self.tree = self.tree.extended(self.walk.reader.take_tail())
        self.checkpoint()
        self.walk.finish()
        self.finished += 1

    def checkpoint(self) -> None:
        """Sign the tree, if it has grown, when its lines are on the disk.

        Raises:
            JournalCorrupt: The journal is not what was sealed.
            LeaseLost: Another process is the sealer now; nothing that was signed counts.
            OSError: It cannot be written.
        """
        assert self.caught_up
        if not self.unsealed:
            return
        reader = self.walk.reader
        assert reader
        path = self.walk.path(reader.file)
        if path is None or (reader.is_plain and identity_of(path) != reader.identity):
            raise refusals.replaced(self.directory, reader.file)
        self._check_uncut(reader)
        _sync(reader.fileno())
        head = Checkpoint.of(self.tree, self.signer.name, sealed_at=clock.now())
        note = sign(head, self.signer)
        self.lease.check()
        self._checkpoints.append(framed(note, self._checkpoints.tail(len(BLANK_LINE))))
        self.sealed = head.size
        # Lost meanwhile: it may be in a file that nobody reads any more.
        self.lease.check()
        if self._on_checkpoint:
            self._on_checkpoint(note)

    def save(self) -> None:
        """Keep where sealing stands, if all of it is sealed, so that the next start is short.

        Raises:
            LeaseLost: Another process is the sealer now.
            OSError: It cannot be written; nothing depends on it.
        """
        if self.unsealed or not self.caught_up:
            return
        state = TreeState.of(self.tree, self.walk)
        save_state(self.lease, self.directory, self.signer, state)
