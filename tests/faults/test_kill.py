"""Programs that are killed at any moment: nothing they did is without a record."""

import contextlib
import os
import random
import select
import shutil
import time
from collections import Counter

import pytest

from klaviyo_audit.journal.line import claim
from tests.faults.aftermath import check_recovered, content
from tests.faults.ledger import LEFT_BY_CRASH, Ledger
from tests.waiting import PATIENCE

KILLS = int(os.environ.get("FAULTS_KILLS", "200"))
"""5,000 in the long run: ``FAULTS_KILLS=5000``."""
SEED = int(os.environ.get("FAULTS_SEED", "1"))
KILLS_A_JOURNAL = 10
SETTINGS = (
    {},
    # Rotated, compressed and sealed again and again, so that kills hit that too.
    {"rotate_bytes": 40_000, "seal_interval": 0.02, "compress": "gzip"},
)
"""Of the journals, in turn."""
PROCESSES = 4
THREADS = 5
"""Threads of a worker that write: four that call, one that recovers what others left."""


def kill_one_group(warm, calling, folder, url, number, chance, settings):
    """Start a group, and kill it at a random moment: before, at the start of or during its calls."""
    program = warm.start(
        "call_until_killed",
        folder,
        url=url,
        journal=str(folder / "trail"),
        tag=str(number),
        acknowledged=str(folder / "acknowledged"),
        calling=calling[1],
        prefork=chance.random() < 0.3,
        settings=settings,
    )
    program.go()
    began = 0
    if chance.random() < 0.8:
        while began < PROCESSES and select.select([calling[0]], [], [], PATIENCE)[0]:
            began += len(os.read(calling[0], PROCESSES))
    # A sealer needs its time to begin.
    time.sleep(chance.uniform(0, 0.3 if settings else 0.06))
    program.kill()
    if began < PROCESSES:
        os.set_blocking(calling[0], False)
        with contextlib.suppress(BlockingIOError):
            os.read(calling[0], PROCESSES)
        os.set_blocking(calling[0], True)


def check_what_was_left(folder, requests, figures):
    """Before anybody repairs anything."""
    ledger = Ledger.of_journal(folder / "trail")
    figures["entries"] += len(ledger.entries)
    recorded = ledger.resources("intent")
    writes = [request for request in requests if not request.startswith("GET ")]
    figures["writes the server received"] += len(writes)
    assert [request for request in writes if request not in recorded] == []

    outcomes = ledger.resources("outcome")
    acks = folder / "acknowledged"
    returned = acks.read_text().splitlines() if acks.exists() else []
    figures["calls that returned"] += len(returned)
    assert [call for call in returned if call not in outcomes] == []

    figures["torn lines"] += len(ledger.damaged)
    figures["intents left open"] += len(ledger.open_intents())
    figures["numbers in flight"] += sum(map(len, ledger.missing().values()))
    assert {line.problem for _, line in ledger.damaged} <= set(LEFT_BY_CRASH)
    assert ledger.repeated_numbers() == {}
    assert ledger.repeated_entries() == []
    # Only what the threads of a killed writer were about to write is torn or not there.
    for writer, absent in ledger.missing().items():
        assert len(absent) < THREADS, f"{writer} lacks {absent}"
    assert all(count <= THREADS for count in ledger.torn_of().values())
    for _, line in ledger.damaged:
        claimed = claim(line.raw)
        if claimed is not None:
            # A writer can be killed in its very first line; then it has no whole one.
            last = max(ledger.numbers.get(claimed[0], ()), default=0)
            assert claimed[1] > last - 2 * THREADS
    return content(folder / "trail")


@pytest.mark.timeout(600 + 3 * KILLS)
def test_nothing_a_killed_program_did_is_without_a_record(warm, calling, server, tmp_path, capsys):
    figures = Counter()
    chance = random.Random(SEED)
    began = time.perf_counter()
    for batch in range(0, KILLS, KILLS_A_JOURNAL):
        folder = tmp_path / f"batch{batch}"
        folder.mkdir()
        mark = server.mark()
        for number in range(batch, min(batch + KILLS_A_JOURNAL, KILLS)):
            settings = SETTINGS[batch // KILLS_A_JOURNAL % len(SETTINGS)]
            kill_one_group(warm, calling, folder, server.url, number, chance, settings)
            figures["kills"] += 1
        assert (folder / "stderr").read_text() == ""
        requests = server.requests(mark)
        before = check_what_was_left(folder, requests, figures)
        check_recovered(folder / "trail", before)
        figures["files rotated"] += len(list((folder / "trail").glob("audit-*")))
        figures["checkpoints"] += (folder / "trail" / "checkpoints").read_bytes().count(b"\n\xe2")
        shutil.rmtree(folder)
    assert figures["files rotated"] > figures["kills"] // 50
    assert figures["writes the server received"] > figures["kills"]
    assert figures["intents left open"] > 0, "no kill hit a call in flight"
    figures["seconds"] = round(time.perf_counter() - began)
    with capsys.disabled():
        print("\nkill:", ", ".join(f"{name} {count:,}" for name, count in figures.items()))
