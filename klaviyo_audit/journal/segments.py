"""Which file of the journal holds which leaves of its tree.

The journal is one live file and the files it was rotated into. A file is known by the tree index
of its first line, which is the number in a rotated file's name. The file ``segments`` says in which
order they were sealed, one line for each stretch: ``<tree index> <file> <offset>``. From that tree
index on, leaves are read from that file at that byte offset. It needs no signature, since other
leaves, or leaves in another order, give another root than the signed one.
"""

from __future__ import annotations

import contextlib
import gzip
import re
import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, BinaryIO, Final, cast

from klaviyo_audit.errors import ConfigurationError, JournalCorrupt
from klaviyo_audit.journal.folder import JOURNAL_NAME
from klaviyo_audit.journal.lease import SEALER_NAME, SEGMENTS_NAME
from klaviyo_audit.journal.reader import open_journal

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path
    from types import ModuleType

COMPRESSED: Final = {"zstd": ".zst", "gzip": ".gz"}
"""What a compressed file's name ends in, by the setting ``compress``."""

_SEGMENT: Final = re.compile(rb"(\d{1,19}) (\d{1,19}) (\d{1,19})")
_ROTATED: Final = re.compile(r"audit-(\d{12,19})\.jsonl(\.zst|\.gz)?")
_TRIES: Final = 5


@dataclass(frozen=True, slots=True)
class Segment:
    """Where leaves are read from, beginning at one index of the tree."""

    index: int
    """First leaf of the segment."""
    file: int
    """Which file: the tree index of that file's first line."""
    offset: int
    """Byte of the file, uncompressed, at which that leaf starts."""

    def to_line(self) -> bytes:
        """The segment as a line of the file ``segments``."""
        return b"%d %d %d\n" % (self.index, self.file, self.offset)


@dataclass(frozen=True, slots=True)
class Span:
    """A stretch of leaves that stand one after the other in one file."""

    start: int
    """First leaf."""
    end: int
    """The leaf after the last one."""
    file: int
    offset: int


def read_segments(directory: Path) -> list[Segment]:
    """The segments in order; none before the first line was sealed.

    Raises:
        JournalCorrupt: The file does not hold what a sealer can have written.
        OSError: It cannot be read.
    """
    path = directory / SEGMENTS_NAME
    try:
        with open_journal(path) as file:
            *lines, _torn = file.read().split(b"\n")
    except FileNotFoundError:
        return []
    segments: list[Segment] = []
    started: set[int] = set()
    for number, line in enumerate(lines, 1):
        match = _SEGMENT.fullmatch(line)
        if not match:
            raise _bad(path, number, line, "it is not three numbers")
        segment = Segment(*map(int, match.groups()))
        new = segment.file not in started
        if new and (segment.file != segment.index or segment.offset):
            raise _bad(path, number, line, "a file begins at its own number and at byte 0")
        if segment.index < segments[-1].index if segments else segment.index:
            raise _bad(path, number, line, "the tree only grows, from 0")
        started.add(segment.file)
        segments.append(segment)
    return segments


def _bad(path: Path, number: int, line: bytes, why: str) -> JournalCorrupt:
    shown = line[:60].decode("ascii", "backslashreplace")
    return JournalCorrupt(
        f"{path}, line {number}: {shown!r} can't be right, since {why}; restore the file from a "
        "backup"
    )


def spans(segments: Sequence[Segment], start: int, end: int) -> Iterator[Span]:
    """The stretches of leaves from `start` (where a segment begins) to `end`, in tree order."""
    ends = [*(segment.index for segment in segments[1:]), end]
    for segment, limit in zip(segments, ends, strict=False):
        last = min(limit, end)
        if start <= segment.index < last:
            yield Span(segment.index, last, segment.file, segment.offset)


def file_name(file: int) -> str:
    """Name of a rotated file that is not compressed."""
    return f"audit-{file:012d}.jsonl"


def file_number(name: str) -> int | None:
    """The number in a rotated file's name; None if it is not one."""
    match = _ROTATED.fullmatch(name)
    # A number has one name, or two files could pass for the same one.
    return int(match[1]) if match and name.startswith(file_name(int(match[1]))) else None


def misnamed(directory: Path) -> list[str]:
    """Names like those of rotated files that no sealer gives: with zeros before the number."""
    names = (path.name for path in directory.iterdir())
    return sorted(one for one in names if _ROTATED.fullmatch(one) and file_number(one) is None)


def rotated_files(directory: Path) -> dict[int, Path]:
    """The rotated files by number; of one that is just being compressed the original."""
    found = {}
    for path in sorted(directory.iterdir(), reverse=True):
        # ".jsonl" is sorted before ".jsonl.zst", and so comes last.
        if (number := file_number(path.name)) is not None:
            found[number] = path
    return found


def being_rotated(directory: Path) -> dict[int, Path]:
    """The files that are just on their way to their new name, or were left there, by number."""
    for _ in range(_TRIES):
        # The folder around them is renamed whenever the sealing changes hands.
        with contextlib.suppress(FileNotFoundError):
            paths = [*(directory / SEALER_NAME).glob("*/audit-*.jsonl")]
            return {
                number: path for path in paths if (number := file_number(path.name)) is not None
            }
    return {}


def locate(directory: Path, file: int, *, live: int | None) -> Path | None:
    """Where a file of the journal is at the moment; None when there is none of that number.

    Args:
        directory: The journal's folder.
        file: Its number.
        live: The number that the live file has unless it was rotated meanwhile, which is that of
            the last file in ``segments``.
    """
    name = file_name(file)
    names = [directory / name, *(directory / f"{name}{end}" for end in COMPRESSED.values())]
    for path in names:
        if path.exists():
            return path
    # A rotation that is under way, or was interrupted.
    with contextlib.suppress(FileNotFoundError):
        for holder in (directory / SEALER_NAME).iterdir():
            if (holder / name).exists():
                return holder / name
    path = directory / JOURNAL_NAME
    return path if file == live and path.exists() else None


@contextlib.contextmanager
def open_file(directory: Path, file: int, *, live: int | None) -> Iterator[BinaryIO]:
    """Open a file of the journal for reading what it holds, uncompressed.

    Args:
        directory: As for `locate`.
        file: As for `locate`.
        live: As for `locate`.

    Raises:
        JournalCorrupt: There is no such file.
        OSError: It cannot be opened.
        ConfigurationError: It is compressed in a way this installation cannot read.
    """
    opened, path = open_raw(directory, file, live=live)
    with opened, decompressed(opened, path.suffix) as content:
        yield content


@contextlib.contextmanager
def reading(directory: Path, file: int) -> Iterator[None]:
    """Turn what a decompressor raises about a damaged file into `JournalCorrupt`."""
    try:
        yield
    except _damage() as error:
        raise JournalCorrupt(
            f"the compressed file {file_name(file)} in {directory} is damaged: {error}; restore it "
            "from a backup"
        ) from error


def _damage() -> tuple[type[Exception], ...]:
    errors: tuple[type[Exception], ...] = (EOFError, zlib.error, gzip.BadGzipFile)
    with contextlib.suppress(ConfigurationError):
        errors += (zstd_module().ZstdError,)
    return errors


@contextlib.contextmanager
def decompressed(file: BinaryIO, suffix: str) -> Iterator[BinaryIO]:
    """What a file holds, by what its name ends in; the file itself stays open.

    Raises:
        ConfigurationError: There is no library to read it with.
    """
    if suffix == COMPRESSED["zstd"]:
        with zstd_module().ZstdFile(file) as content:
            yield content
    elif suffix == COMPRESSED["gzip"]:
        with gzip.GzipFile(fileobj=file) as content:
            yield cast("BinaryIO", content)
    else:
        yield file


def open_raw(directory: Path, file: int, *, live: int | None) -> tuple[BinaryIO, Path]:
    """Open a file of the journal as it is, and say where it was found.

    Raises:
        As for `open_file`.
    """
    for _ in range(_TRIES):
        path = locate(directory, file, live=live)
        if path is None:
            continue
        try:
            opened = open_journal(path)
        except FileNotFoundError:
            continue  # renamed, or compressed and removed
        # What was the live file when it was looked for may have been a new one when it was opened.
        if path.name != JOURNAL_NAME or locate(directory, file, live=live) == path:
            return opened, path
        opened.close()
    raise JournalCorrupt(
        f"the journal's file {directory / file_name(file)} is missing (compressed or not, and as "
        f"{JOURNAL_NAME}); put it back, from a backup if need be, or start a new journal in "
        "another folder"
    )


def zstd_module() -> ModuleType:
    """The standard library's ``compression.zstd`` (Python 3.14), or its backport.

    Raises:
        ConfigurationError: There is neither.
    """
    import importlib

    for name in ("compression.zstd", "backports.zstd"):
        with contextlib.suppress(ModuleNotFoundError):
            return importlib.import_module(name)
    raise ConfigurationError(
        "compress: zstd needs the package backports.zstd before Python 3.14; install it, or set "
        "compress to gzip or none"
    )
