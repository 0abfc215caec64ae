"""What a journal holds after a fault: its entries, its damaged pieces, and every writer's numbers."""

from __future__ import annotations

import tempfile
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from klaviyo_audit.journal.line import Line, Problem, claim
from klaviyo_audit.journal.reader import read
from klaviyo_audit.journal.segments import decompressed

LEFT_BY_CRASH = (Problem.TORN, Problem.NO_NEWLINE)
"""The only damage that a kill or a short write may leave."""


@dataclass(slots=True)
class Ledger:
    """An account of a journal that is independent of the package's own verification."""

    entries: list[dict] = field(default_factory=list)
    damaged: list[tuple[str, Line]] = field(default_factory=list)
    numbers: dict[str, list[int]] = field(default_factory=dict)
    """Each writer's numbers, in the order of the files."""

    @classmethod
    def of(cls, *files: Path) -> Ledger:
        """Read files to which nobody writes any more."""
        ledger = cls()
        for file in files:
            for line in read(file, final=True):
                ledger.take(file.name, line)
        return ledger

    @classmethod
    def of_journal(cls, folder: Path) -> Ledger:
        """Read all files of a journal to which nobody writes any more."""
        ledger = cls()
        with tempfile.TemporaryDirectory() as plain:
            for name, content in contents(folder):
                (Path(plain) / name).write_bytes(content)
                for line in read(Path(plain) / name, final=True):
                    ledger.take(name, line)
        return ledger

    def take(self, file: str, line: Line) -> None:
        if line.problem is not None:
            self.damaged.append((file, line))
        if line.members is None or line.problem not in (None, Problem.NO_NEWLINE):
            return
        entry = line.members
        numbers = self.numbers.setdefault(entry["writer"], [])
        if line.problem is None or entry["n"] not in numbers:
            numbers.append(entry["n"])
            self.entries.append(entry)

    def of_phase(self, phase: str) -> list[dict]:
        return [entry for entry in self.entries if entry["phase"] == phase]

    def resources(self, *phases: str) -> set[str]:
        """``METHOD path`` of every call that has an entry of one of the phases."""
        return {
            f"{entry['call']['method']} {entry['resource']}"
            for entry in self.entries
            if entry["phase"] in phases and "call" in entry and "resource" in entry
        }

    def told_missing(self) -> dict[str, set[int]]:
        """Numbers that a gap or a recovery explains, by writer."""
        told: dict[str, set[int]] = {}
        for entry in self.entries:
            facts = entry.get("metadata", {})
            if entry["phase"] == "gap":
                mine = told.setdefault(facts.get("writer", entry["writer"]), set())
                for first, last in facts.get("numbers", ()):
                    mine.update(range(first, last + 1))
            elif entry["action"] == "journal.recover":
                told.setdefault(facts["writer"], set()).update(facts["missing"])
        return told

    def missing(self) -> dict[str, list[int]]:
        """Numbers below a writer's last that are not in the files."""
        found = {}
        for writer, numbers in self.numbers.items():
            absent = sorted(set(range(max(numbers))) - set(numbers))
            if absent:
                found[writer] = absent
        return found

    def unexplained(self) -> dict[str, list[int]]:
        """Missing numbers that nothing in the journal explains."""
        told = self.told_missing()
        found = {
            writer: [n for n in absent if n not in told.get(writer, ())]
            for writer, absent in self.missing().items()
        }
        return {writer: absent for writer, absent in found.items() if absent}

    def repeated_numbers(self) -> dict[str, list[int]]:
        found = {
            writer: [n for n, times in Counter(numbers).items() if times > 1]
            for writer, numbers in self.numbers.items()
        }
        return {writer: numbers for writer, numbers in found.items() if numbers}

    def repeated_entries(self) -> list[tuple[str, str]]:
        """Id and phase of what stands in the journal more than once."""
        seen = Counter(
            (entry["id"], entry["phase"])
            for entry in self.entries
            if entry["phase"] in ("intent", "outcome")
        )
        return [one for one, times in seen.items() if times > 1]

    def open_intents(self) -> list[dict]:
        done = {entry["id"] for entry in self.of_phase("outcome")}
        return [entry for entry in self.of_phase("intent") if entry["id"] not in done]

    def torn_of(self) -> Counter:
        """How many torn pieces name each writer; None: too short to name one."""
        claims = (claim(line.raw) for _, line in self.damaged)
        return Counter(one and one[0] for one in claims)

    def told_torn(self) -> set[tuple[int, int]]:
        """Offset and length of the torn pieces that a line tells of; files are renamed."""
        return {
            (piece["offset"], piece["length"])
            for entry in self.entries
            for piece in entry.get("metadata", {}).get("torn", ())
        }

    def lost(self) -> int:
        """Entries that gap entries count as lost."""
        return sum(entry["metadata"]["count"] for entry in self.of_phase("gap"))


def contents(folder: Path) -> list[tuple[str, bytes]]:
    """Name (without that of the compression) and content of a journal's files, oldest first."""
    found: dict[str, bytes] = {}
    paths = (*folder.glob("audit-*.jsonl*"), *folder.glob("sealer/*/audit-*.jsonl"))
    for path in sorted(paths, key=lambda path: path.name):
        with path.open("rb") as file, decompressed(file, path.suffix) as plain:
            data = plain.read()
        name = path.name.partition(".jsonl")[0] + ".jsonl"
        # While a file is being compressed or renamed there can be two of it, alike.
        assert found.setdefault(name, data) == data
    live = folder / "audit.jsonl"
    return [*found.items(), *([(live.name, live.read_bytes())] if live.exists() else [])]
