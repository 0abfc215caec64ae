"""Reading all entries of a journal, rotated files included."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from klaviyo_audit.journal.folder import JOURNAL_NAME
from klaviyo_audit.journal.reader import lines_of, open_journal, scan
from klaviyo_audit.journal.segments import decompressed, rotated_files

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


def members_of(path: Path) -> Iterator[dict[str, Any]]:
    """The members of each entry, oldest file first; what is damaged is passed over.

    Args:
        path: A journal's folder, or one file of it, compressed or not.

    Raises:
        OSError: A file cannot be read, or there is no journal.
    """
    for file in _files(path):
        try:
            opened = open_journal(file)
        except FileNotFoundError:
            if not path.is_dir():
                raise
            continue  # rotated or compressed meanwhile; what it held is read in the next round
        with opened, decompressed(opened, file.suffix) as content:
            for item in scan(content, final=file.name != JOURNAL_NAME):
                for line in lines_of(item):
                    if line.members is not None:
                        yield line.members


def _files(path: Path) -> list[Path]:
    if not path.is_dir():
        return [path]
    found = [file for _, file in sorted(rotated_files(path).items())]
    live = path / JOURNAL_NAME
    if live.exists() or live.is_symlink():
        found.append(live)
    if not found:
        raise FileNotFoundError(f"there is no journal in {path}: it has no {JOURNAL_NAME}")
    return found
