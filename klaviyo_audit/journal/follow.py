"""Reading the end of a journal, and on as it grows."""

from __future__ import annotations

import os
from collections import deque
from typing import TYPE_CHECKING, BinaryIO, Final

from klaviyo_audit.journal.reader import lines_of, open_journal, scan

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator
    from pathlib import Path

    from klaviyo_audit.journal.line import Line

_WINDOW_BYTES: Final = 1 << 16
_PORTION_BYTES: Final = 1 << 16
_LINGER: Final = 5
"""How many idle rounds to stay with a file that was replaced: writers notice it after 0.25 s."""


def last_lines(path: Path, count: int, wanted: Callable[[Line], bool]) -> tuple[list[Line], int]:
    """The last lines of a journal file, without reading more of it than it takes.

    Args:
        path: The file.
        count: How many lines at most.
        wanted: Which lines count.

    Returns:
        The lines, and the byte from which `follow` goes on. Their ``number`` means nothing.

    Raises:
        OSError: The file cannot be read, or is not a regular file.
    """
    with open_journal(path) as file:
        size = os.fstat(file.fileno()).st_size
        window = _WINDOW_BYTES
        while True:
            start = end = _line_start(file, max(0, size - window))
            lines: deque[Line] = deque(maxlen=count)
            for item in scan(file, offset=start):
                lines.extend(filter(wanted, lines_of(item)))
                end = item.end
            if start == 0 or len(lines) >= count:
                return list(lines), end
            window *= 4


def follow(path: Path, *, offset: int, idle: Callable[[], bool]) -> Iterator[Line | str]:
    """Read on as the file grows, across truncation and replacement.

    Args:
        path: The file; it need not be there yet.
        offset: Byte to start at: where a line starts.
        idle: Called when there is nothing new: it waits a moment and says whether to go on.

    Yields:
        The lines as they come; a sentence where the file was truncated or replaced.

    Raises:
        OSError: The file cannot be read, or is not a regular file.
    """
    while True:
        try:
            file = open_journal(path)
        except FileNotFoundError:
            if not idle():
                return
            continue
        with file:
            if not (yield from _follow_file(path, file, offset, idle)):
                return
        yield "the journal goes on in a new file"
        offset = 0


def _follow_file(
    path: Path, file: BinaryIO, offset: int, idle: Callable[[], bool]
) -> Generator[Line | str, None, bool]:
    """Read one file until there is another at its path (True) or nobody wants more (False)."""
    linger = _LINGER
    while linger:
        for item in scan(file, offset=offset):
            offset = item.end
            yield from lines_of(item)
        facts = os.fstat(file.fileno())
        if facts.st_size < offset:
            yield f"the file was cut from {offset} to {facts.st_size} bytes; reading it anew"
            offset = 0
            continue
        if _is_replaced(path, facts):
            linger -= 1
        if not idle():
            return False
    for item in scan(file, offset=offset, final=True):
        yield from lines_of(item)
    return True


def _is_replaced(path: Path, facts: os.stat_result) -> bool:
    try:
        now = path.stat(follow_symlinks=False)
    except FileNotFoundError:
        return False  # until there is another one, this one may still be written to
    return (now.st_dev, now.st_ino) != (facts.st_dev, facts.st_ino)


def _line_start(file: BinaryIO, offset: int) -> int:
    """The start of the first line that starts at this byte or after it."""
    if offset == 0:
        return 0
    file.seek(offset - 1)
    while portion := file.readline(_PORTION_BYTES):
        if portion.endswith(b"\n"):
            break
    return file.tell()
