"""Files of JSON lines beside the journal: receipts and dead letters."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING, Any

import orjson

from klaviyo_audit.journal.folder import FILE_MODE
from klaviyo_audit.journal.reader import open_journal

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

_BLOCK_BYTES = 1 << 16


def append_lines(path: Path, lines: Iterable[dict[str, Any]], *, sync: bool) -> None:
    """Add JSON objects to a file (0600), one a line.

    Args:
        path: The file; made when it is missing.
        lines: The objects; values may be `orjson.Fragment`.
        sync: Return only when they are on the disk.

    Raises:
        OSError: They could not be written whole; what was written of them is taken back.
    """
    append_raw(path, [orjson.dumps(line) for line in lines], sync=sync)


def append_raw(path: Path, lines: Iterable[bytes], *, sync: bool) -> None:
    """Add lines (without their newlines) as they are; otherwise like `append_lines`."""
    data = b"".join([line + b"\n" for line in lines])
    if not data:
        return
    fd = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW, FILE_MODE)
    try:
        size = os.fstat(fd).st_size
        if size and os.pread(fd, 1, size - 1) != b"\n":
            data = b"\n" + data  # a crash has left a torn line
        try:
            written = os.write(fd, data)
            if sync:
                os.fsync(fd)
        except OSError:
            os.ftruncate(fd, size)
            raise
        if written != len(data):
            os.ftruncate(fd, size)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
    finally:
        os.close(fd)


def raw_lines(path: Path) -> Iterator[bytes]:
    """The lines of a file as they are, without newlines; those with nothing but blanks left out.

    Raises:
        OSError: It cannot be read. A missing file has no lines.
    """
    try:
        file = open_journal(path)
    except FileNotFoundError:
        return
    with file:
        for line in file:
            if line.strip():
                yield line.removesuffix(b"\n")


def last_lines(path: Path, count: int) -> list[dict[str, Any]]:
    """The last objects of a file, at most so many, oldest first.

    Raises:
        OSError: It cannot be read. A missing file has no lines.
    """
    try:
        file = open_journal(path)
    except FileNotFoundError:
        return []
    with file:
        start = file.seek(0, os.SEEK_END)
        data = b""
        while start and data.count(b"\n") <= count:
            step = min(start, _BLOCK_BYTES)
            start -= step
            file.seek(start)
            data = file.read(step) + data
    found = [decoded(line) for line in data.split(b"\n")]
    return [line for line in found if line is not None][-count:]


def decoded(line: bytes) -> dict[str, Any] | None:
    """The object in a line; None if there is none."""
    try:
        found = orjson.loads(line)
    except ValueError:
        return None
    return found if isinstance(found, dict) else None
