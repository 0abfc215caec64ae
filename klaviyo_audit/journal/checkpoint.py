"""Signed heads of the journal's Merkle tree, in C2SP's tlog-checkpoint format.

Source: c2sp.org/tlog-checkpoint v1.0.0.
"""

from __future__ import annotations

import re
from base64 import b64encode
from collections import deque
from dataclasses import dataclass
from io import SEEK_END
from typing import TYPE_CHECKING, BinaryIO

from klaviyo_audit.errors import JournalCorrupt
from klaviyo_audit.journal.merkle import EMPTY_ROOT, HASH_BYTES, MAX_SIZE
from klaviyo_audit.journal.note import (
    BLANK_LINE,
    MAX_NOTE_BYTES,
    SIGNATURE_START,
    decode_base64,
    has_control_character,
    open_note,
    sign_note,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from klaviyo_audit.journal.merkle import CompactRange
    from klaviyo_audit.journal.note import Signer, Verifier

_DECIMAL = re.compile(r"0|[1-9][0-9]{0,18}")
_SEALED_LINE = re.compile(r"sealed (\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d{1,9})?Z)", re.ASCII)
_CHUNK = 65536
_SIGNATURE_DIGITS = len(b64encode(bytes(4 + 64)))
"""Characters of a key's id and an Ed25519 signature."""


def decode_decimal(text: str) -> int:
    """Decode a number of leaves: ASCII digits without leading zeros, at most `MAX_SIZE`.

    Raises:
        ValueError: It is something else.
    """
    if not _DECIMAL.fullmatch(text) or int(text) > MAX_SIZE:
        raise ValueError(f"{text[:40]!r} is not a decimal number from 0 to {MAX_SIZE}")
    return int(text)


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """What the journal's tree was at one moment; nothing in it is signed yet.

    Args:
        origin: Which log this is about; the name of the key that signs it.
        size: Number of leaves.
        root: Root of the tree.
        extensions: Further lines that are signed with the rest.

    Raises:
        ValueError: The checkpoint can't be written as C2SP asks.
    """

    origin: str
    size: int
    root: bytes
    extensions: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for line in (self.origin, *self.extensions):
            if not line or "\n" in line or has_control_character(line):
                raise ValueError(f"{line[:80]!r} is empty or has a control character")
        if not 0 <= self.size <= MAX_SIZE:
            raise ValueError(f"{self.size} is not a size from 0 to {MAX_SIZE}")
        if len(self.root) != HASH_BYTES:
            raise ValueError(f"a root of {len(self.root)} bytes, not {HASH_BYTES}")
        if self.size == 0 and self.root != EMPTY_ROOT:
            raise ValueError("a root that is not the empty tree's, at size 0")

    @classmethod
    def of(cls, tree: CompactRange, origin: str, *, sealed_at: str | None = None) -> Checkpoint:
        """The checkpoint of a tree.

        Args:
            tree: The tree to commit to.
            origin: Name of the signing key.
            sealed_at: Wall time of the sealing in the form of an entry's ``timestamp``. It becomes
                the extension line ``sealed <time>``, which says what the log itself claims.

        Raises:
            ValueError: `sealed_at` or `origin` is not what it should be.
        """
        extensions = () if sealed_at is None else (f"sealed {sealed_at}",)
        checkpoint = cls(origin, tree.size, tree.root(), extensions)
        if checkpoint.sealed_at != sealed_at:
            raise ValueError(f"{sealed_at!r} is not a time like 2026-11-23T19:00:00.123456Z")
        return checkpoint

    @property
    def sealed_at(self) -> str | None:
        """Wall time of the sealing (UTC, RFC 3339) as the log claims it, if it does."""
        found = (_SEALED_LINE.fullmatch(line) for line in self.extensions)
        return next((match[1] for match in found if match), None)

    def text(self) -> str:
        """The checkpoint as the text of a note: what is signed."""
        root = b64encode(self.root).decode()
        return "".join(f"{line}\n" for line in (self.origin, self.size, root, *self.extensions))

    @classmethod
    def from_text(cls, text: str) -> Checkpoint:
        """Read the text of a note.

        Raises:
            JournalCorrupt: It is not exactly what C2SP's tlog-checkpoint describes.
        """
        lines = text.split("\n")  # not splitlines(), which knows ten more line ends
        if len(lines) < len(("origin", "size", "root", "")) or lines.pop():
            raise JournalCorrupt("this is not a checkpoint: it has fewer than three lines")
        origin, size, root, *extensions = lines
        try:
            return cls(origin, decode_decimal(size), decode_base64(root), tuple(extensions))
        except ValueError as error:
            raise JournalCorrupt(f"this is not a checkpoint: {error}") from error


def sign(checkpoint: Checkpoint, signer: Signer) -> bytes:
    """Make the signed note of a checkpoint.

    Whether an earlier checkpoint is consistent with this one the caller has to have checked: a
    key that signs two histories is worth nothing.

    Raises:
        ValueError: The checkpoint's origin is not the key's name.
    """
    if checkpoint.origin != signer.name:
        raise ValueError(f"the key {signer.name!r} can't sign for {checkpoint.origin!r}")
    return sign_note(checkpoint.text(), signer)


def open_checkpoint(note: bytes, *verifiers: Verifier) -> Checkpoint:
    """Read a signed checkpoint that one of the given keys stands for.

    Raises:
        JournalCorrupt: As `klaviyo_audit.journal.note.open_note`, or the text is not a
            checkpoint, or one about another log than the key's.
    """
    text, signed_by = open_note(note, *verifiers)
    checkpoint = Checkpoint.from_text(text)
    if checkpoint.origin not in {verifier.name for verifier in signed_by}:
        raise JournalCorrupt(f"a checkpoint of {checkpoint.origin!r} was signed by another log")
    return checkpoint


@dataclass(frozen=True, slots=True)
class StoredNote:
    """A piece of a file of notes: a note, or damage."""

    offset: int
    """Its first byte."""
    end: int
    """The byte after it, the blank line that ends it included."""
    note: bytes | None
    """The note verbatim, not verified; absent where the bytes are none."""


def framed(note: bytes, tail: bytes) -> bytes:
    """What to append to a file of notes to add one: the note, then a blank line.

    Args:
        note: A signed note.
        tail: The last two bytes of the file (fewer if it has no more). If they are not a blank
            line, the last append was torn, and a blank line goes first to fence it off.
    """
    return (b"" if tail in (b"", BLANK_LINE) else BLANK_LINE) + note + b"\n"


def is_torn(end: bytes, name: str) -> bool:
    """Whether the end of a file of notes is the beginning of one whose rest was never written.

    Args:
        end: What follows the last whole note.
        name: Name of the log, which signs the notes.
    """
    text, _, signature = end.rstrip(b"\n").partition(BLANK_LINE)
    origin, begin = name.encode(), f"{SIGNATURE_START}{name} ".encode()
    return (
        (origin.startswith(text) or text.startswith(origin + b"\n"))
        # Where the blank line was changed, nothing was left unfinished.
        and SIGNATURE_START.encode() not in text
        and (begin.startswith(signature) or signature.startswith(begin))
        and len(signature) <= len(begin) + _SIGNATURE_DIGITS - end.endswith(BLANK_LINE)
    )


def torn_end(file: BinaryIO, name: str) -> int | None:
    """Where the note begins that a crash has left unfinished at the end of a file; None: nowhere.

    Args:
        file: A seekable file of notes.
        name: As for `is_torn`.
    """
    last = last_note(file)
    begin, end = last.end if last else 0, file.seek(0, SEEK_END)
    if not begin < end < begin + MAX_NOTE_BYTES:
        return None
    file.seek(begin)
    return begin if is_torn(file.read().lstrip(b"\n"), name) else None


def read_notes(file: BinaryIO, offset: int = 0) -> Iterator[StoredNote]:
    """Read a file of notes from a place on, damage included, with bounded memory.

    Damage that reaches to the end of the file may be a note that is being written: read again
    later from its offset.

    Args:
        file: A seekable file.
        offset: Where to begin, in bytes: 0, or a place that an earlier reading gave.
    """
    text: tuple[int, bytes, int] | None = None  # a paragraph that signatures may follow
    for start, paragraph, end in _paragraphs(file, offset):
        closed = end > start + len(paragraph)
        signatures = _is_signatures(paragraph)
        if text and text[2] == start and signatures and closed:
            yield StoredNote(text[0], end, text[1] + BLANK_LINE + paragraph + b"\n")
            text = None
            continue
        if text:
            yield StoredNote(text[0], text[2], None)
        text = (start, paragraph, end) if closed and not signatures else None
        if text is None:
            yield StoredNote(start, end, None)
    if text:
        yield StoredNote(text[0], text[2], None)


def _is_signatures(paragraph: bytes) -> bool:
    return all(line.startswith(SIGNATURE_START.encode()) for line in paragraph.split(b"\n"))


def _paragraphs(file: BinaryIO, offset: int) -> Iterator[tuple[int, bytes, int]]:
    """Where each paragraph begins, its bytes, and the place after the blank line that ends it."""
    file.seek(offset)
    rest = b""
    while chunk := file.read(_CHUNK):
        *paragraphs, rest = (rest + chunk).split(BLANK_LINE)
        for paragraph in paragraphs:
            end = offset + len(paragraph) + len(BLANK_LINE)
            if stripped := paragraph.lstrip(b"\n"):
                yield end - len(BLANK_LINE) - len(stripped), stripped, end
            offset = end
        if len(rest) > MAX_NOTE_BYTES:  # no note; its last byte may begin a blank line
            end = offset + len(rest) - 1
            yield offset, rest[:-1], end
            offset, rest = end, rest[-1:]
    if stripped := rest.lstrip(b"\n"):
        end = offset + len(rest)
        yield end - len(stripped), stripped, end


def last_note(file: BinaryIO) -> StoredNote | None:
    """The last note of a file of notes, found from its end."""
    size = file.seek(0, SEEK_END)
    window = 4096
    while True:
        start = max(0, size - window)
        pieces = (piece for piece in read_notes(file, start) if piece.note is not None)
        found = deque(pieces, maxlen=2)
        # A window can begin inside a note, whose rest then looks like a whole one.
        if found and (start == 0 or len(found) > 1):
            return found[-1]
        if start == 0:
            return None
        window *= 16
