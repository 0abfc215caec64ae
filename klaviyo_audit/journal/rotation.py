"""Rotating the journal: setting the live file aside, knowing when it is final, compressing it."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import gzip
import os
import re
import time
from datetime import UTC, datetime
from hashlib import sha256
from typing import TYPE_CHECKING, Final, cast

from klaviyo_audit.errors import JournalCorrupt
from klaviyo_audit.journal import refusals
from klaviyo_audit.journal.commit import sync_folder
from klaviyo_audit.journal.folder import FILE_MODE, JOURNAL_NAME
from klaviyo_audit.journal.reader import open_journal
from klaviyo_audit.journal.segments import COMPRESSED, decompressed, file_name, reading, zstd_module

if TYPE_CHECKING:
    from collections.abc import Iterator
    from contextlib import AbstractContextManager
    from pathlib import Path
    from typing import BinaryIO

    from klaviyo_audit.journal.lease import Lease

_TIMESTAMP: Final = re.compile(rb'"timestamp":"([0-9T:.Z-]{20,32})"')
_HEAD_BYTES: Final = 4096
_CHUNK_BYTES: Final = 1 << 20
_NO_LINKS: Final = (errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK)


def begun_at(fd: int) -> float:
    """When a journal file was begun, by its first line's timestamp: seconds since the epoch.

    Where that cannot be read it is now: the caller asks once a file.
    """
    match = _TIMESTAMP.search(os.pread(fd, _HEAD_BYTES, 0).partition(b"\n")[0])
    if match:
        with contextlib.suppress(ValueError):
            return datetime.fromisoformat(match[1].decode()).replace(tzinfo=UTC).timestamp()
    return time.time()


def set_aside(lease: Lease, directory: Path, file: int, identity: tuple[int, int]) -> None:
    """Give the live file the name of a rotated one. Writers notice, and begin a new live file.

    It goes through the lease's own folder, where no process but the sealer can take it from: one
    that was stopped before the first step and taken over moves nothing.

    Args:
        lease: The sealer's.
        directory: The journal's folder.
        file: The file's number.
        identity: Its device and inode.

    Raises:
        LeaseLost: Another process is the sealer now; nothing was moved.
        JournalCorrupt: The live file is not the one with that identity, or there already is a
            rotated file of that number.
        OSError: It cannot be renamed.
    """
    live = directory / JOURNAL_NAME
    if identity_of(live) != identity:
        raise refusals.replaced(directory, file)
    aside = lease.path(file_name(file))
    try:
        live.rename(aside)
    except FileNotFoundError:
        lease.check()
        raise
    if identity_of(aside) != identity:
        with contextlib.suppress(OSError):
            os.link(aside, live)
            aside.unlink()
        raise refusals.replaced(directory, file)
    _move_out(lease, aside, directory / file_name(file))


def finish_interrupted(lease: Lease, directory: Path) -> None:
    """Finish what `set_aside` has begun in a process that came to its end there.

    Raises:
        LeaseLost: Another process is the sealer now.
        JournalCorrupt: There already is another file of that name.
        OSError: A file cannot be renamed.
    """
    for aside in lease.path("").glob("audit-*.jsonl"):
        _move_out(lease, aside, directory / aside.name)


def _move_out(lease: Lease, aside: Path, path: Path) -> None:
    try:
        # Not rename, which would replace a file that is there.
        os.link(aside, path, follow_symlinks=False)
    except FileExistsError:
        if not aside.samefile(path):
            raise JournalCorrupt(
                f"{path} is there already, and the rotated file {aside} has to get its name; move "
                "what is not the journal's away"
            ) from None
    except FileNotFoundError:
        lease.check()
        raise
    except OSError as error:
        if error.errno not in _NO_LINKS or path.exists():
            raise
        aside.rename(path)
    aside.unlink(missing_ok=True)
    sync_folder(path.parent)


def identity_of(path: Path) -> tuple[int, int] | None:
    """Device and inode of a file; None where there is none."""
    try:
        facts = path.stat(follow_symlinks=False)
    except FileNotFoundError:
        return None
    return facts.st_dev, facts.st_ino


def is_final(path: Path) -> bool:
    """Whether a rotated file has no writer any more, nor ever gets one again.

    Writers hold a shared lock on the file they have open, and look at its name after locking it.

    Raises:
        OSError: The file cannot be opened, or the file system has no locks.
    """
    with open_journal(path) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Said outright: a child forked just now has the descriptor too.
            fcntl.flock(file, fcntl.LOCK_UN)
        except BlockingIOError:
            return False
    return True


def compress(lease: Lease, directory: Path, file: int, how: str) -> Iterator[None]:
    """Replace a final file by a compressed one, which is read back before the original goes.

    Args:
        lease: The sealer's.
        directory: The journal's folder.
        file: The file's number.
        how: ``zstd`` or ``gzip``.

    Yields:
        After each piece of work, for others to have a turn.

    Raises:
        LeaseLost: Another process is the sealer now.
        JournalCorrupt: What was compressed does not come out as it was.
        ConfigurationError: There is no library for it.
        OSError: It cannot be done (a full disk, for one); the original is still there.
    """
    plain = directory / file_name(file)
    packed = directory / f"{plain.name}{COMPRESSED[how]}"
    temporary = lease.path(packed.name)
    try:
        yield from _write_compressed(plain, temporary, file, how)
        temporary.rename(packed)
    except FileNotFoundError:
        lease.check()
        raise
    finally:
        temporary.unlink(missing_ok=True)
    sync_folder(directory)
    lease.check()
    plain.unlink(missing_ok=True)


def _write_compressed(plain: Path, packed: Path, file: int, how: str) -> Iterator[None]:
    flags = os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW
    fd = os.open(packed, flags, FILE_MODE)
    with os.fdopen(fd, "w+b") as sink, open_journal(plain) as source:
        facts = os.fstat(source.fileno())
        digest, check = sha256(), sha256()
        with _compressor(sink, how) as compressor:
            while chunk := source.read(_CHUNK_BYTES):
                digest.update(chunk)
                compressor.write(chunk)
                yield
        sink.flush()
        os.fsync(sink.fileno())
        sink.seek(0)
        with reading(plain.parent, file), decompressed(sink, packed.suffix) as content:
            while chunk := content.read(_CHUNK_BYTES):
                check.update(chunk)
                yield
        if check.digest() != digest.digest():
            raise JournalCorrupt(
                f"{plain} does not come out of its {how} compression as it went in; it stays "
                "uncompressed, and disk and memory of this machine need a look"
            )
        os.utime(sink.fileno(), ns=(facts.st_atime_ns, facts.st_mtime_ns))


def _compressor(sink: BinaryIO, how: str) -> AbstractContextManager[BinaryIO]:
    if how == "zstd":
        zstd = zstd_module()
        options = {zstd.CompressionParameter.checksum_flag: 1}
        return cast("AbstractContextManager[BinaryIO]", zstd.ZstdFile(sink, "w", options=options))
    # Neither name nor time of its own: the same lines give the same file.
    packer = gzip.GzipFile(filename="", mode="wb", compresslevel=6, fileobj=sink, mtime=0)
    return cast("AbstractContextManager[BinaryIO]", packer)
