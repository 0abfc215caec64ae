"""All entries of a journal, from its oldest file to the live one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from klaviyo_audit.journal.line import decoded
from klaviyo_audit.journal.reader import Damage, open_journal, scan
from klaviyo_audit.journal.segments import decompressed, reading
from klaviyo_audit.sinks.files import journal_files

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path


def entries(directory: Path, holding: Sequence[bytes] = ()) -> Iterator[dict[str, Any]]:
    """The members of each entry, in the order of the files and of their lines.

    Args:
        directory: The journal's folder.
        holding: Only entries whose line holds one of these; the others are not even decoded,
            which is ten times faster.

    Raises:
        JournalCorrupt: A compressed file is damaged.
        OSError: A file cannot be read.
        ConfigurationError: A file is compressed in a way this installation cannot read.
    """
    for file in journal_files(directory):
        live = file.number is None
        with (
            open_journal(file.path) as opened,
            reading(directory, file.number or 0),
            decompressed(opened, file.path.suffix) as content,
        ):
            for item in scan(content, final=not live):
                if isinstance(item, Damage):
                    pieces = (piece for piece in item.pieces if _holds(piece.raw, holding))
                    yield from (piece.members for piece in pieces if piece.members is not None)
                    continue
                for line in item.lines:
                    if _holds(line, holding):
                        members = decoded(0, 0, line[:-1]).members
                        if members is not None:
                            yield members


def _holds(line: bytes, wanted: Sequence[bytes]) -> bool:
    return not wanted or any(one in line for one in wanted)
