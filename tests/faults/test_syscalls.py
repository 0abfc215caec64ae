"""A fault in every single system call on the journal: the promises of the policy in force hold."""

import itertools
import os
import random
import shutil
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.faults import strace
from tests.faults.aftermath import check_recovered
from tests.faults.ledger import LEFT_BY_CRASH, Ledger

ALL = os.environ.get("FAULTS_ALL") == "1"
"""Every fault at every occurrence of every system call, not a sample: ``FAULTS_ALL=1``."""
RUNS_A_TEST = 45
NETWORK = ("connect", "sendto", "recvfrom")
FAULTS = ("error=EIO", "error=ENOSPC", "signal=SIGKILL")
RESERVE = 64 * 2**10

POLICIES = ("continue", "block")
DURABILITIES = ("flush", "fsync")
STARTS = ("new", "old")


@dataclass(frozen=True)
class Fault:
    """What goes wrong at which occurrence of a system call, and for how long."""

    call: str
    what: str
    occurrence: int
    for_good: bool
    paths: tuple[str, ...]

    @property
    def kills(self) -> bool:
        return "SIGKILL" in self.what

    def options(self) -> list[str]:
        when = f"{self.occurrence}{'+' if self.for_good else ''}"
        filters = [option for path in self.paths for option in ("-P", path)]
        inject = f"inject={self.call}:{self.what}:when={when}"
        return [*filters, "-e", f"trace={self.call}", "-e", inject]

    def __str__(self) -> str:
        lasting = " and all later ones" if self.for_good else ""
        return f"{self.what} at {self.call} {self.occurrence}{lasting}"


@pytest.fixture(scope="session")
def left_behind(warm, server, tmp_path_factory):
    """A journal in which a killed writer left an intent, a torn line and its lock's file."""
    folder = tmp_path_factory.mktemp("left-behind")
    program = warm.start(
        "scripted",
        folder,
        url=server.url,
        journal=str(folder / "trail"),
        tag="dead",
        durability="flush",
        on_failure="continue",
        limit=(3, 1000, "killed"),
        tokens=0xDEAD,
    )
    program.go()
    assert program.wait() == -9
    ledger = Ledger.of(folder / "trail" / "audit.jsonl")
    assert len(ledger.open_intents()) == 1
    assert len(ledger.damaged) == 1
    return folder / "trail"


class Scripted:
    """Runs the scripted program in one configuration, again and again in the same folder."""

    def __init__(self, warm, server, tmp_path, left_behind, durability, policy, start):
        self._warm = warm
        self._server = server
        self._settings = {"durability": durability, "on_failure": policy}
        self.policy = policy
        self.run = tmp_path / "run"
        self.home = self.run / "home"
        self.journal = self.home / "trail"
        self.path = self.journal / "audit.jsonl"
        self._template = left_behind if start == "old" else None
        self.before = b"" if start == "new" else (left_behind / "audit.jsonl").read_bytes()
        self._tags = itertools.count()

    def prepare(self, limit=None):
        """A program in a fresh folder, that waits to be told to go."""
        shutil.rmtree(self.run, ignore_errors=True)
        self.home.mkdir(parents=True)
        if self._template is not None:
            shutil.copytree(self._template, self.journal)
        self.tag = f"{self.run.parent.name}r{next(self._tags)}"
        self.mark = self._server.mark()
        return self._warm.start(
            "scripted",
            self.run,
            url=self._server.url,
            journal=str(self.journal),
            tag=self.tag,
            limit=limit,
            **self._settings,
        )

    @property
    def said(self) -> list[str]:
        """What the program said, the same in each run where nothing goes wrong."""
        text = (self.run / "stdout").read_text() if (self.run / "stdout").exists() else ""
        return text.replace(self.tag, "TAG").splitlines()

    @property
    def done(self) -> list[str]:
        """``METHOD path`` of the calls that returned."""
        return [
            line.removeprefix("done ").replace("TAG", self.tag)
            for line in self.said
            if line.startswith("done ")
        ]

    def requests(self) -> list[str]:
        return self._server.requests(self.mark)

    def stderr(self) -> str:
        return (self.run / "stderr").read_text()

    def check(
        self,
        status: int,
        usual: list[str],
        *,
        kills: bool = False,
        fails: bool = False,
        for_good: bool = False,
    ) -> None:
        """Check all that was promised.

        Args:
            status: The program's exit status.
            usual: What it says when nothing goes wrong.
            kills: It was killed.
            fails: The journal did not take something.
            for_good: Nor did it later.
        """
        self._check_program(status, usual, kills=kills)
        data = self.path.read_bytes() if self.path.exists() else b""
        ledger = self._check_records(data, fails=fails)
        # One that is killed while something is lost cannot tell how much.
        lost = [] if kills else self._without_record(ledger)
        after = check_recovered(self.journal, data)
        self._check_loss_is_told(after, lost, for_good=for_good)
        ignore = self.journal / ".gitignore"
        assert ignore.exists(), "no .gitignore"
        assert ignore.read_text().endswith("\n*\n")
        reserve = self.journal / "reserve"
        assert reserve.stat().st_size == RESERVE, "the reserve is held again"

    def _check_program(self, status: int, usual: list[str], *, kills: bool) -> None:
        errors = self.stderr()
        assert "Traceback" not in errors, errors
        assert "Exception ignored" not in errors, errors
        if kills:
            assert status == -9
            return
        assert status == 0, errors
        if self.policy == "continue":
            assert self.said == usual, "the audited program's results are unchanged"
        else:
            allowed = {*usual, "refused", "opening 0 refused", "opening 1 refused"}
            assert set(self.said) <= allowed

    def _check_records(self, data: bytes, *, fails: bool) -> Ledger:
        assert data.startswith(self.before), "a line that was there has changed"
        ledger = Ledger.of(self.path) if self.path.exists() else Ledger()
        assert {line.problem for _, line in ledger.damaged} <= set(LEFT_BY_CRASH)
        requests = self.requests()
        if self.policy == "continue":
            requests = [request for request in requests if not request.startswith("GET ")]
        if self.policy == "block" or not fails:
            unrecorded = set(requests) - ledger.resources("intent")
            assert unrecorded == set(), "requests that were sent without an intent"
        if not fails:
            assert set(self.done) - ledger.resources("outcome") == set()
        return ledger

    def _without_record(self, ledger: Ledger) -> list[str]:
        """Entries that should be in the journal and are not."""
        done = self.done
        intents = done if self.policy == "block" else [c for c in done if not c.startswith("GET ")]
        written_intents, outcomes = ledger.resources("intent"), ledger.resources("outcome")
        return [
            *(f"intent of {call}" for call in intents if call not in written_intents),
            *(f"outcome of {call}" for call in done if call not in outcomes),
        ]

    def _check_loss_is_told(self, ledger: Ledger, lost: list[str], *, for_good: bool) -> None:
        if len(lost) <= ledger.lost():
            return
        assert for_good, f"{len(lost)} entries were lost, gap entries tell of {ledger.lost()}"
        # It ended before the journal worked again: then those who come later find it without a
        # goodbye. One that could never open the journal leaves no trace.
        own = {entry["writer"] for entry in ledger.entries if len(entry["writer"].lstrip("0")) < 4}
        found_dead = {
            entry["metadata"]["writer"]
            for entry in ledger.entries
            if entry["action"] == "journal.recover"
        }
        by_opening = [sum(f"x{number}x" in call for call in lost) for number in (0, 1)]
        traceable = {0: 0, 1: min(by_opening), 2: sum(by_opening)}[len(own)]
        assert own & found_dead or ledger.lost() >= traceable, "nothing tells of a loss"


def every_fault(log: Path, home: Path) -> list[Fault]:
    """All faults for one run of the program that strace has watched."""
    counts, paths = strace.calls_on(log, home)
    faults = []
    for call, count in counts.items():
        for what, occurrence in itertools.product(FAULTS, range(1, count + 1)):
            faults.append(Fault(call, what, occurrence, for_good=False, paths=tuple(paths)))
            if "error" in what:
                faults.append(Fault(call, what, occurrence, for_good=True, paths=tuple(paths)))
    for call, count in strace.calls_of(log, *NETWORK).items():
        kills = range(1, count + 1)
        faults += [Fault(call, "signal=SIGKILL", at, for_good=False, paths=()) for at in kills]
    return faults


def sample(faults: list[Fault], seed: str) -> list[Fault]:
    """As many as there is time for: of each system call and kind of fault some, the same each time."""
    chance = random.Random(seed)
    groups: dict[tuple, list[Fault]] = {}
    for fault in faults:
        groups.setdefault((fault.call, fault.what, fault.for_good), []).append(fault)
    for group in groups.values():
        chance.shuffle(group)
    order = list(groups.values())
    chance.shuffle(order)
    turns = itertools.zip_longest(*order)
    return [fault for turn in turns for fault in turn if fault is not None][:RUNS_A_TEST]


@pytest.fixture
def scripted(request, warm, server, tmp_path, left_behind):
    return Scripted(warm, server, tmp_path, left_behind, *request.param)


CONFIGURATIONS = pytest.mark.parametrize(
    "scripted",
    list(itertools.product(DURABILITIES, POLICIES, STARTS)),
    ids="-".join,
    indirect=True,
)


@CONFIGURATIONS
@pytest.mark.timeout(3600 if ALL else 600)
def test_a_fault_in_each_system_call(scripted, needed, tmp_path, capsys, request):
    tracer = needed("strace", "apt-get install strace")
    log = tmp_path / "strace"
    status = strace.run(tracer, scripted.prepare(), log, [])
    usual = scripted.said
    scripted.check(status, usual)
    faults = every_fault(log, scripted.home)
    chosen = faults if ALL else sample(faults, request.node.callspec.id)
    began = time.perf_counter()
    failures, figures = [], Counter()
    for fault in chosen:
        try:
            status = strace.run(tracer, scripted.prepare(), log, fault.options())
            seen = log.read_text()
            if (fault.kills and status == 0) or not (fault.kills or strace.INJECTED in seen):
                figures["not reached"] += 1
                continue
            scripted.check(
                status,
                usual,
                kills=fault.kills,
                fails=not fault.kills,
                for_good=fault.for_good,
            )
        except (AssertionError, TimeoutError) as error:
            failures.append(f"{fault}: {str(error).splitlines()[0]}")
        figures[fault.call] += 1
    with capsys.disabled():
        kinds = ", ".join(f"{call} {count}" for call, count in sorted(figures.items()))
        print(
            f"\n{request.node.callspec.id}: {len(chosen)} of {len(faults)} faults in "
            f"{time.perf_counter() - began:.0f} s ({kinds})"
        )
    assert not failures, "\n".join(failures)
    assert figures["not reached"] <= len(chosen) // 20


SHORT_WRITES = list(itertools.product(range(12), (0, 1, 700, 1700), ("lifted", "kept", "killed")))
"""Steps of the scripted program, bytes that still fit, and how it goes on."""


@CONFIGURATIONS
@pytest.mark.timeout(1200 if ALL else 600)
def test_a_line_of_which_only_a_part_fits(scripted, request):
    program = scripted.prepare()
    program.go()
    assert program.wait() == 0
    usual = scripted.said
    cases = (
        SHORT_WRITES if ALL else random.Random(request.node.callspec.id).sample(SHORT_WRITES, 18)
    )
    failures = []
    for limit in cases:
        program = scripted.prepare(limit)
        program.go()
        try:
            status = program.wait()
            scripted.check(
                status,
                usual,
                kills=limit[2] == "killed",
                fails=True,
                for_good=limit[2] == "kept",
            )
        except AssertionError as error:
            failures.append(f"{limit}: {str(error).splitlines()[0]}")
    assert not failures, "\n".join(failures)
