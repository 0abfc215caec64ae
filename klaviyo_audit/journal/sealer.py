"""The sealer: reads what was appended to the journal and commits to it with signed checkpoints."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
from functools import partial
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Final, Literal

from klaviyo_audit.errors import ConfigurationError, JournalCorrupt
from klaviyo_audit.journal.chores import Chores
from klaviyo_audit.journal.lease import LEASE_SECONDS, Lease, LeaseLost
from klaviyo_audit.journal.pace import LINES, Pace
from klaviyo_audit.journal.retention import Retention
from klaviyo_audit.journal.rotation import finish_interrupted
from klaviyo_audit.journal.segments import COMPRESSED
from klaviyo_audit.journal.succession import Succession
from klaviyo_audit.journal.treelog import TreeLog

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable

    from klaviyo_audit.journal.retention import Announce

_PAUSE_SECONDS: Final = 0.0005
_LOOK_SECONDS: Final = 0.2
_SAVE_SECONDS: Final = 10.0
_WAIT_FOR_LEASE_SECONDS: Final = 0.5
_LONGEST_WAIT_SECONDS: Final = 30.0
_CLOSE_SECONDS: Final = 5.0

# A full disk: what was begun to be written is taken back.
_UNDONE: Final = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)

_log = logging.getLogger("klaviyo_audit")


class Sealer:
    """Seals one journal, whenever this process has the lease to.

    Not for use by several threads at once; any number of sealers, here and in other processes,
    may be made for a journal, of which one works.

    Args:
        directory: The journal's folder. Nothing is done while there is none.
        seal_interval: Longest time between a line and the checkpoint that covers it, in seconds.
        seal_lines: Number of lines after which a checkpoint is made earlier.
        rotate_bytes: Size at which the live file is rotated.
        rotate_age: Age at which it is rotated, in seconds.
        compress: How rotated files are compressed.
        retain_days: Age (since they were sealed) at which rotated files are removed; None: never.
        retain_bytes: Size of all files together above which the oldest are removed; None: never.
        origin: What the log is called in its checkpoints; None: a name is made.
        signing_key: The private key, as `klaviyo_audit.journal.note.Signer.to_text` gives it;
            None: one is made and kept in the folder.
        public_key: The only key that may sign (`Verifier.to_text`); None: any.
        needed_from: As for `klaviyo_audit.journal.retention.Retention`.
        announce: Likewise.
        on_checkpoint: Called with each signed checkpoint when it is on the disk.
        on_error: Called with what prevents compression or removal, and by `run` with what
            prevents sealing; once each. Not given: it is logged.
        lease_seconds: How long another sealer may show no life before this one takes over.
        pause: How long to let go of the interpreter after every few lines, in seconds; 0 where
            nothing else runs in the process.

    Raises:
        ConfigurationError: `compress` is none of those that are known.
    """

    def __init__(
        self,
        directory: Path,
        *,
        seal_interval: float = 1.0,
        seal_lines: int = 10_000,
        rotate_bytes: int = 128 * 2**20,
        rotate_age: float = 86400.0,
        compress: Literal["zstd", "gzip", "none"] = "zstd",
        retain_days: float | None = None,
        retain_bytes: int | None = None,
        origin: str | None = None,
        signing_key: str | None = None,
        public_key: str | None = None,
        needed_from: Callable[[], int] | None = None,
        announce: Announce | None = None,
        on_checkpoint: Callable[[bytes], None] | None = None,
        on_error: Callable[[Exception], None] | None = None,
        lease_seconds: float = LEASE_SECONDS,
        pause: float = _PAUSE_SECONDS,
    ) -> None:
        if compress not in (*COMPRESSED, "none"):
            raise ConfigurationError(f"compress: {compress!r} is not zstd, gzip or none")
        self.directory = Path(directory)
        self._new_pace = partial(Pace, pause=pause, interval=seal_interval, lines=seal_lines)
        self._successor = partial(Succession, rotate_bytes=rotate_bytes, rotate_age=rotate_age)
        self._compress = compress
        self._retention = Retention(retain_days, retain_bytes, needed_from, announce)
        self._opener = partial(
            TreeLog, origin=origin, signing_key=signing_key, public_key=public_key
        )
        self._on_checkpoint = on_checkpoint
        self._on_error = on_error
        self._lease_seconds = lease_seconds
        self._log: TreeLog | None = None
        self._closing = False
        self._start()

    def _start(self) -> None:
        self._pid = os.getpid()
        self._lease = Lease(self.directory, seconds=self._lease_seconds)
        self._told = ""
        self._known: tuple[int, bytes] | None = None
        self._forget()

    def _forget(self) -> None:
        """Close what is open. What is on the disk is read again when sealing goes on."""
        log, self._log = self._log, None
        self._succession: Succession | None = None
        self._chores: Chores | None = None
        self._pace = self._new_pace()
        self._look_at = self._save_at = 0.0
        if log:
            # All that was written is on the disk, or its failure was told.
            with contextlib.suppress(OSError):
                log.close()

    @property
    def is_sealing(self) -> bool:
        """Whether this one is the journal's sealer at present."""
        return self._lease.held

    def step(self) -> bool:
        """Do a little: read some lines, sign, rotate, compress or remove what it is time for.

        Returns:
            Whether there is more to do at once. False also when another sealer has the lease.

        Raises:
            JournalCorrupt: The journal is not what was sealed. Nothing is signed, nor will it be
                before that has changed.
            ConfigurationError: The key is not the one that the settings or the journal ask for.
            OSError: The journal cannot be read, or nothing can be written beside it.
        """
        if self._pid != os.getpid():
            self._start()
        if not self._lease.acquire():
            return False
        try:
            self._lease.beat()
            return self._round(self._open())
        except Exception as error:
            if self._has_lost_lease():
                return False  # what looks like an error is the other's work
            if isinstance(error, JournalCorrupt) and self._log and self._log.caught_up:
                # Lines that were not signed yet are part of what is known.
                self._known = (self._log.tree.size, self._log.tree.root())
            if not self._is_undone(error):
                self._forget()
            raise

    def _is_undone(self, error: Exception) -> bool:
        """Whether all is as it was before, so that nothing has to be read again."""
        return (
            isinstance(error, OSError)
            and error.errno in _UNDONE
            and self._log is not None
            and self._log.caught_up
            and not self._log.unsure
        )

    def _has_lost_lease(self) -> bool:
        try:
            self._lease.check()
        except LeaseLost:
            self._forget()
            self._known = None
            return True
        return False

    def run(self, stop: threading.Event) -> None:
        """Seal until `stop` is set, through all errors; then `close`."""
        failures = 0
        while not stop.is_set():
            try:
                busy = self.step()
            except Exception as error:  # sealing has to go on when its cause is gone
                self._report(error)
                failures += 1
                self._wait(stop, min(2.0 ** (failures - 1), _LONGEST_WAIT_SECONDS))
                continue
            failures = 0
            if self.is_sealing:
                self._told = ""
            if not busy:
                stop.wait(self._pace.rest() if self.is_sealing else _WAIT_FOR_LEASE_SECONDS)
        self.close()

    def close(self, timeout: float = _CLOSE_SECONDS) -> None:
        """Seal what there is, and give the lease back. Errors are reported, not raised.

        Args:
            timeout: How long to go on reading, in seconds.
        """
        deadline = monotonic() + timeout
        self._closing = True
        try:
            while self.step() and monotonic() < deadline:
                pass
            self._finish(deadline)
        except LeaseLost:
            pass
        except (JournalCorrupt, ConfigurationError, OSError) as error:
            self._report(error)
        finally:
            self._closing = False
            self._forget()
            try:
                self._lease.release()
            except OSError as error:
                self._report(error)

    def _finish(self, deadline: float) -> None:
        log, succession = self._log, self._succession
        if log is None or succession is None or not log.caught_up:
            return
        while succession.look(patient=False) and monotonic() < deadline:
            while log.consume(LINES) and monotonic() < deadline:
                self._lease.beat()
        log.checkpoint()
        with contextlib.suppress(OSError):
            log.save()

    def _open(self) -> TreeLog:
        if self._log is None:
            finish_interrupted(self._lease, self.directory)
            self._log = self._opener(
                self.directory, self._lease, known=self._known, on_checkpoint=self._publish
            )
        return self._log

    def _round(self, log: TreeLog) -> bool:
        pace = self._pace
        moved = pace.consume(log)
        if not log.caught_up:
            return True
        now = monotonic()
        if self._succession is None or self._chores is None:
            self._succession = self._successor(log)
            self._chores = Chores(
                log, how=self._compress, retention=self._retention, on_error=self._tell
            )
        if now >= self._look_at:
            self._look_at = now + _LOOK_SECONDS
            moved = self._succession.look() or moved
        pace.sign_if_due(log)
        if now >= self._save_at and not log.unsealed:
            self._save_at = now + _SAVE_SECONDS
            with contextlib.suppress(OSError):
                log.save()
        return (not self._closing and self._chores.work()) or moved

    def _publish(self, note: bytes) -> None:
        self._known = None
        if self._on_checkpoint:
            try:
                self._on_checkpoint(note)
            except Exception as error:  # a callback's, which has nothing to do with sealing
                self._report(error)

    def _report(self, error: Exception) -> None:
        if str(error) == self._told:
            return
        self._told = str(error)
        self._tell(error)

    def _tell(self, error: Exception) -> None:
        if self._on_error:
            self._on_error(error)
        else:
            _log.error("trouble with the journal's sealing: %s", error)

    def _wait(self, stop: threading.Event, seconds: float) -> None:
        """Wait, and keep the lease meanwhile: others would only fail likewise."""
        deadline = monotonic() + seconds
        while (rest := deadline - monotonic()) > 0:
            if stop.wait(min(rest, self._lease_seconds / 5)):
                return
            try:
                if self.is_sealing:
                    self._lease.beat()
            except (LeaseLost, OSError):
                if self._has_lost_lease():
                    return
