"""Collecting what is no entry in a journal, and whether a later line explains it."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from hashlib import sha256
from typing import TYPE_CHECKING, Final

from klaviyo_audit.journal.findings import Finding, Kind, Severity
from klaviyo_audit.journal.line import Line, Problem, claim

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence

    from klaviyo_audit.journal.statements import ToldTorn

_KINDS: Final[dict[str, Kind]] = {
    Problem.TORN: Kind.TORN,
    Problem.NO_NEWLINE: Kind.TORN,
    Problem.NUL: Kind.TORN,
    Problem.CHECKSUM: Kind.CHECKSUM,
    Problem.CRLF: Kind.CHECKSUM,
}
"""The rest is foreign."""

_MEANINGS: Final[dict[str, str]] = {
    Problem.TORN: "the rest of this line is missing",
    Problem.NO_NEWLINE: "a whole entry without its newline",
    Problem.NUL: "NUL bytes, as a power loss leaves them",
    Problem.CHECKSUM: "the line was changed after it was written: its checksum does not hold",
    Problem.CRLF: "the line ends in CR LF: something has converted the file",
    Problem.FOREIGN: "this is no journal line",
    Problem.VERSION: "an entry of a version that this program does not know",
    Problem.EMPTY: "an empty line, which no writer makes",
    Problem.ENCODING: "this is no journal line, nor UTF-8",
    Problem.TOO_LONG: "far longer than any journal line",
}


@dataclass(frozen=True, slots=True)
class _Piece:
    file: str
    line: int
    offset: int
    length: int
    sha256: str
    problem: str
    writer: str | None
    n: int | None


class Damages:
    """Takes every piece of a journal that is no entry."""

    def __init__(self) -> None:
        self.findings: list[Finding] = []
        """Those that nothing can explain."""
        self.claims: list[tuple[str, int]] = []
        """Writer and number on lines that were changed: these are not missing."""
        self.whole: list[tuple[str, Line]] = []
        """Entries that only lack their newline, and their files."""
        self._torn: list[_Piece] = []

    def take(self, file: str, line: Line) -> None:
        """Take one piece."""
        problem = line.problem or Problem.FOREIGN
        kind = _KINDS.get(problem, Kind.FOREIGN)
        claimed = claim(line.raw)
        writer, number = claimed or (None, None)
        if kind is Kind.TORN:
            digest = sha256(line.raw).hexdigest()
            place = (file, line.number, line.offset)
            self._torn.append(_Piece(*place, len(line.raw), digest, problem, writer, number))
            if line.members is not None:
                self.whole.append((file, line))
            return
        if claimed and kind is Kind.CHECKSUM:
            self.claims.append(claimed)
        self.findings.append(
            Finding(
                kind=kind,
                severity=Severity.ERROR,
                file=file,
                line=line.number,
                offset=line.offset,
                writer=writer,
                n=number,
                message=describe(line),
            )
        )

    def torn(
        self,
        told: Sequence[ToldTorn],
        living: Collection[str],
        excused: Mapping[tuple[str, int], Severity],
    ) -> list[Finding]:
        """The findings about torn pieces.

        Args:
            told: What lines in the journal say about torn pieces.
            living: Writers that are alive, and may still say something about theirs.
            excused: Writer and number of whole entries that a kill explains, and how bad they are.
        """
        exact = {(one.offset, one.length, one.sha256) for one in told}
        stretches: defaultdict[str, list[tuple[int, int]]] = defaultdict(list)
        for one in sorted(told, key=lambda one: one.offset):
            if one.sha256 is None:
                stretches[one.file].append((one.offset, one.offset + one.length))
        findings = []
        for piece in self._torn:
            severity, why = Severity.ERROR, ""
            claimed = (piece.writer or "", -1 if piece.n is None else piece.n)
            if (piece.offset, piece.length, piece.sha256) in exact:
                severity, why = Severity.NOTE, "; its writer was found dead"
            elif (piece.offset, piece.length, None) in exact or _is_covered(
                piece, stretches[piece.file]
            ):
                severity, why = Severity.NOTE, "; a gap entry says it could not be written whole"
            elif piece.problem == Problem.NO_NEWLINE and claimed in excused:
                severity, why = excused[claimed], "; its writer was killed then, it seems"
            elif piece.writer in living:
                severity, why = Severity.WARNING, "; its writer is alive and may explain it yet"
            findings.append(_torn_finding(piece, severity, why))
        return findings


def describe(line: Line) -> str:
    """What it means that a piece of a journal is no entry."""
    return f"{_MEANINGS[line.problem or Problem.FOREIGN]} ({len(line.raw)} bytes)"


def _torn_finding(piece: _Piece, severity: Severity, why: str) -> Finding:
    return Finding(
        kind=Kind.TORN,
        severity=severity,
        file=piece.file,
        line=piece.line,
        offset=piece.offset,
        writer=piece.writer,
        n=piece.n,
        message=f"{_MEANINGS[piece.problem]} ({piece.length} bytes){why}",
    )


def _is_covered(piece: _Piece, stretches: Iterable[tuple[int, int]]) -> bool:
    at = piece.offset
    for start, end in stretches:
        if start <= at < end:
            at = end
    return at >= piece.offset + piece.length
