"""The lease that makes one process at a time the journal's sealer, whatever the others do.

The folder ``<journal>/sealer`` holds exactly one folder, whose name says who the sealer is: a
random token, which ends in ``.free`` when it was given back. Taking the lease is renaming that
folder, which only one process can do. Whatever the sealer changes by path it renames out of or into
that folder, so that after a takeover the former sealer's paths lead nowhere, at whatever point it
was stopped; what it had open for appending is replaced by copies (`APPENDED`), so that what it
still writes vanishes.

Locks are ``flock``s: unlike record locks they hold between threads of a process, and do not go
away when something else in the process reads the file. What a forked child inherits it drops.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import secrets
import weakref
from time import monotonic
from typing import TYPE_CHECKING, Final

from klaviyo_audit.errors import KlaviyoAuditError
from klaviyo_audit.journal.commit import sync_folder
from klaviyo_audit.journal.folder import FILE_MODE, FOLDER_MODE

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SEALER_NAME: Final = "sealer"
CHECKPOINTS_NAME: Final = "checkpoints"
SEGMENTS_NAME: Final = "segments"
REMOVED_NAME: Final = "removed"

APPENDED: Final = (CHECKPOINTS_NAME, SEGMENTS_NAME, REMOVED_NAME)
"""Files that only the sealer appends to, in the order they are copied at a takeover. Checkpoints
come first: the segments that a copied checkpoint depends on are older than it."""

LEASE_SECONDS: Final = 15.0
"""How long a sealer may show no life before another takes over."""

_FREE: Final = ".free"
"""Each time the lease is given back the folder gets another name: whoever has looked at it before
it was taken and given back again cannot take it in the belief that nothing has happened."""
_FENCING: Final = ".fencing"
_LOCK: Final = "lock-"
_COPY_BYTES: Final = 1 << 20
_SET_ASIDE: Final = re.compile(r"audit-\d{12,}\.jsonl")
_NAME: Final = re.compile(rf"[0-9a-f]{{16}}({re.escape(_FENCING)}|{re.escape(_FREE)})?")


class LeaseLost(KlaviyoAuditError):  # noqa: N818  (a fact, like its siblings in errors.py)
    """Another process has taken the sealing over. Nothing was changed after that."""


class Lease:
    """The right to seal one journal: taken with `acquire`, kept with `beat`.

    Args:
        directory: The journal's folder.
        seconds: How long another sealer may show no life before this one takes over from it. One
            that has died is replaced at once.
    """

    def __init__(self, directory: Path, *, seconds: float = LEASE_SECONDS) -> None:
        self._directory = directory
        self._base = directory / SEALER_NAME
        self._seconds = seconds
        self._watched: tuple[str, int, float] | None = None
        self._forget()
        _leases.add(self)

    def _forget(self) -> None:
        self._fd = -1
        self._pid = os.getpid()
        self._own: Path | None = None
        self._beat_at = 0.0

    @property
    def held(self) -> bool:
        """Whether this process has taken the lease, and has not yet learnt that it is lost."""
        return self._own is not None and self._pid == os.getpid()

    def path(self, name: str) -> Path:
        """A path in the lease's own folder, which leads nowhere once the lease is lost.

        Raises:
            LeaseLost: It is lost.
        """
        self.check()
        assert self._own is not None
        return self._own / name

    def check(self) -> None:
        """Raise `LeaseLost` if the lease is not held."""
        if self._own is None or self._pid != os.getpid() or not self._own.is_dir():
            self.drop()
            raise LeaseLost(f"the sealing of {self._directory} was taken over by another process")

    def beat(self) -> None:
        """Show life, if it is time to.

        Raises:
            LeaseLost: It is lost.
        """
        now = monotonic()
        if now < self._beat_at and self._pid == os.getpid():
            return
        self.check()
        os.utime(self._fd)
        self._beat_at = now + self._seconds / 5

    def acquire(self) -> bool:
        """Take the lease if it is free, or its holder dead or silent for too long.

        Returns:
            Whether it is held now.

        Raises:
            OSError: The journal's folder cannot be read or written.
        """
        if self.held:
            return True
        self.drop()
        try:
            name = self._holder()
            if name is None:
                return False
            fence = self._must_fence(name)
            if fence is None or not self._take(name, fenced=not fence):
                return False
            self._clear()
            if fence:
                self._fence()
        except (FileNotFoundError, LeaseLost):
            # Another was faster, or the folder is gone.
            self.drop()
            return False
        except OSError:
            self.drop()
            raise
        return True

    def release(self) -> None:
        """Give the lease back, if it is still held.

        Raises:
            OSError: It could not be given back, but was let go: who wants it finds nobody there.
        """
        try:
            if self.held:
                with contextlib.suppress(FileNotFoundError, LeaseLost):
                    self._clear()
                    own = self.path("")
                    (own / f"{_LOCK}{own.name}").unlink()
                    own.rename(self._base / f"{secrets.token_hex(8)}{_FREE}")
        finally:
            self.drop()

    def drop(self) -> None:
        """Let go of the lock without giving the lease back; in a forked child the parent's."""
        fd = self._fd
        self._forget()
        if fd >= 0:
            # The descriptor is gone whatever this says, and the lock with it.
            with contextlib.suppress(OSError):
                os.close(fd)

    def _holder(self) -> str | None:
        """The name of the one folder; None if it is just being renamed."""
        if not self._base.is_dir():
            self._create()
        names = [path.name for path in self._base.iterdir()]
        if not names:
            self._create()
        return next(filter(_NAME.fullmatch, names), None)

    def _create(self) -> None:
        # Made elsewhere and renamed, since a folder that is not empty is never replaced.
        new = self._directory / f".{SEALER_NAME}-{secrets.token_hex(8)}"
        new.mkdir(mode=FOLDER_MODE)
        free = new / f"{secrets.token_hex(8)}{_FREE}"
        free.mkdir(mode=FOLDER_MODE)
        try:
            new.rename(self._base)
        except OSError:
            free.rmdir()
            new.rmdir()
            if not self._base.is_dir():
                raise

    def _must_fence(self, name: str) -> bool | None:
        """Whether the holder may still be alive; None if it has to be left alone."""
        if name.endswith(_FREE):
            return False
        lock = self._base / name / f"{_LOCK}{name.removesuffix(_FENCING)}"
        try:
            beat = lock.stat().st_mtime_ns
        except FileNotFoundError:
            return True
        if not _is_locked(lock):
            return name.endswith(_FENCING)
        # Clocks can step, and differ between machines: only whether it changes counts.
        if self._watched is None or self._watched[:2] != (name, beat):
            self._watched = (name, beat, monotonic())
        return True if monotonic() - self._watched[2] >= self._seconds else None

    def _take(self, name: str, *, fenced: bool) -> bool:
        token = secrets.token_hex(8)
        # Locked before the rename, so that nobody ever finds the new name without its lock.
        fd = os.open(
            self._base / name / f"{_LOCK}{token}",
            os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW,
            FILE_MODE,
        )
        own = self._base / (token if fenced else f"{token}{_FENCING}")
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            (self._base / name).rename(own)
        except OSError:
            os.close(fd)
            raise
        self._fd, self._own, self._watched = fd, own, None
        self._beat_at = monotonic() + self._seconds / 5
        return True

    def _clear(self) -> None:
        """Remove what former holders left, but for journal files on their way (see rotation)."""
        own = self.path("")
        keep = f"{_LOCK}{own.name.removesuffix(_FENCING)}"
        for path in own.iterdir():
            if path.name != keep and not _SET_ASIDE.fullmatch(path.name):
                path.unlink(missing_ok=True)

    def _fence(self) -> None:
        """Replace what the former holder has open, then say that it is done."""
        for name in APPENDED:
            self._replace_by_copy(name)
        sync_folder(self._directory)
        unfenced = self.path("")
        own = unfenced.with_name(unfenced.name.removesuffix(_FENCING))
        unfenced.rename(own)
        self._own = own

    def _replace_by_copy(self, name: str) -> None:
        path, copy = self._directory / name, self.path(name)
        with contextlib.ExitStack() as stack:
            new = os.open(copy, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW, FILE_MODE)
            stack.callback(os.close, new)
            old: int | None = None
            with contextlib.suppress(FileNotFoundError):
                old = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
                stack.callback(os.close, old)
            self._copy(old, new)
            copy.rename(path)
            # What the former holder wrote between copy and rename could be read by anyone.
            self._copy(old, new)

    def _copy(self, old: int | None, new: int) -> None:
        for chunk in _chunks(old):
            view = memoryview(chunk)
            while view:
                view = view[os.write(new, view) :]
            self.beat()
        os.fsync(new)


def _chunks(fd: int | None) -> Iterator[bytes]:
    while fd is not None and (chunk := os.read(fd, _COPY_BYTES)):
        yield chunk


def _is_locked(path: Path) -> bool:
    try:
        fd = os.open(path, os.O_RDWR | os.O_NOFOLLOW)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # Said outright: a child forked just now has the descriptor too.
        fcntl.flock(fd, fcntl.LOCK_UN)
    except BlockingIOError:
        return True
    finally:
        os.close(fd)
    return False


_leases: weakref.WeakSet[Lease] = weakref.WeakSet()


def _after_fork_in_child() -> None:
    # A child that kept the descriptor would keep its dead parent's lease alive.
    for lease in list(_leases):
        lease.drop()


os.register_at_fork(after_in_child=_after_fork_in_child)
