"""Disks that are full, read-only or broken: real ones, small, made for the test."""

import contextlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from klaviyo_audit import Auditor, AuditUnavailable
from klaviyo_audit.journal.findings import Severity
from klaviyo_audit.journal.recovery import recover
from klaviyo_audit.sinks.base import Rejected
from klaviyo_audit.sinks.bookmark import load_bookmark
from klaviyo_audit.sinks.folder import make_sink_folder
from klaviyo_audit.sinks.shipper import Pace, Shipper
from tests.conftest import Trail
from tests.faults.conftest import missing
from tests.journal.checking import verify
from tests.sinks.conftest import Recorded
from tests.waiting import PATIENCE

LIST = {"data": {"type": "list", "attributes": {"name": "Newsletter"}}}
PROFILES = {"data": [{"type": "profile", "id": "P1"}]}
RESERVE = 64 * 2**10


class Disk:
    """A small file system of its own."""

    def __init__(self, folder: Path, image: Path | None) -> None:
        self.folder = folder
        self.filler = folder / "filler"
        self._image = image
        folder.mkdir()
        self.mount()

    def mount(self, *options: str) -> None:
        if self._image is None:
            what = ["-t", "tmpfs", "-o", ",".join(["size=1m", *options]), "none"]
        else:
            what = ["-o", ",".join(["loop", *options]), str(self._image)]
        command = ["mount", *what, self.folder]
        done = subprocess.run(command, check=False, capture_output=True, text=True)
        if done.returncode != 0:
            missing(f"a file system cannot be mounted here ({done.stderr.strip()})")

    def remount(self, options: str) -> None:
        subprocess.run(["mount", "-o", f"remount,{options}", self.folder], check=True)

    def unmount(self, *options: str) -> None:
        subprocess.run(["umount", *options, self.folder], check=True)

    def fill(self) -> None:
        """Leave not a byte."""
        with self.filler.open("ab", buffering=0) as file:
            for size in (2**16, 2**10, 1):
                try:
                    while True:
                        file.write(bytes(size))
                except OSError:
                    pass

    def make_room(self) -> None:
        self.filler.unlink()


def make_disk(tmp_path, kind):
    if os.geteuid() != 0:
        missing("only root can mount a small disk")
    image = None
    if kind == "ext4":
        if shutil.which("mkfs.ext4") is None:
            missing("mkfs.ext4 is not installed (apt-get install e2fsprogs)")
        image = tmp_path / "image"
        image.write_bytes(bytes(4 * 2**20))
        subprocess.run(["mkfs.ext4", "-q", "-m", "0", image], check=True)
    return Disk(tmp_path / "disk", image)


@pytest.fixture(params=["tmpfs", "ext4"])
def disk(request, tmp_path):
    disk = make_disk(tmp_path, request.param)
    yield disk
    disk.unmount("--lazy")  # also where a test that failed has a file open


@pytest.fixture
def ext4(tmp_path):
    disk = make_disk(tmp_path, "ext4")
    yield disk
    disk.unmount("--lazy")  # also where a test that failed has a file open


@pytest.fixture
def make(disk):
    return maker(disk)


def maker(disk):
    def make(**settings):
        settings = {"low_space_warn": 0, "low_space_stop": 0, "seal": "off", **settings}
        return Auditor(journal=disk.folder / "trail", service="shop", **settings)

    return make


def write_until_full(klaviyo, disk):
    """Fill the disk, and what room the blocks of the journal still have."""
    disk.fill()
    for _ in range(20):
        klaviyo.Lists.add_profiles_to_list("L1", PROFILES)


def check(disk, *, lost):
    trail = Trail(disk.folder / "trail")
    # Torn pieces share a line of the file with what follows them.
    lines = [
        entry
        for entry in verify_and_read(trail)
        if entry["phase"] == "gap" and entry["metadata"]["count"]
    ]
    assert sum(entry["metadata"]["count"] for entry in lines) == lost
    for entry in lines:
        facts = entry["metadata"]
        assert facts["from"] <= facts["to"] <= entry["timestamp"]
        assert sum(facts["operations"].values()) == facts["count"]
        assert set(facts["reasons"]) <= {"ENOSPC", "EROFS", "EIO"}
    return lines


def verify_and_read(trail):
    from klaviyo_audit.journal.reader import read

    errors = [one for one in verify(trail.folder).findings if one.severity is Severity.ERROR]
    assert errors == []
    return [line.members for line in read(trail.path, final=True) if line.members is not None]


def tie(auditor):
    """What `klaviyo-audit resolve` does."""
    if auditor._recovery is not None:
        auditor._recovery.join()
    recover(auditor._writer, [auditor._writer.id], everything=True)


def test_calls_go_on_and_the_loss_is_told_when_there_is_room(make, disk, client, fake):
    with make(on_failure="continue") as auditor:
        klaviyo = auditor.audit(client)
        klaviyo.Lists.create_list(LIST)
        write_until_full(klaviyo, disk)
        before, sent = auditor.lost, fake.count
        klaviyo.Lists.delete_list("L1")
        assert fake.count == sent + 1, "the call went on"
        assert auditor.lost == before + 2
        disk.make_room()
        klaviyo.Lists.get_list("L2")
        lost = auditor.lost
        assert lost == before + 2
    (gap,) = check(disk, lost=lost)
    assert gap["metadata"]["operations"]["klaviyo.lists.delete_list"] == 2


def test_without_a_record_nothing_is_sent(make, disk, client, fake):
    with make(on_failure="block") as auditor:
        klaviyo = auditor.audit(client)
        disk.fill()
        # There may be room for some lines in the journal's last block.
        with contextlib.suppress(AuditUnavailable):
            for _ in range(20):
                klaviyo.Lists.delete_list("L1")
        for _ in range(5):
            sent = fake.count
            with pytest.raises(AuditUnavailable, match="No space left"):
                klaviyo.Lists.delete_list("L1")
            assert fake.count == sent
        disk.make_room()
        klaviyo.Lists.delete_list("L2")
        assert fake.count == sent + 1
        lost = auditor.lost
    check(disk, lost=lost)
    lines = verify_and_read(Trail(disk.folder / "trail"))
    intents = [entry["resource"] for entry in lines if entry["phase"] == "intent"]
    assert len(intents) >= fake.count


def test_the_last_lines_fit_on_a_full_disk(make, disk, client):
    auditor = make(on_failure="continue")
    klaviyo = auditor.audit(client)
    assert (disk.folder / "trail" / "reserve").stat().st_size == RESERVE
    write_until_full(klaviyo, disk)
    # However long it lasts: no entry takes the reserve.
    for _ in range(200):
        klaviyo.Lists.delete_list("L1")
    lost = auditor.lost
    assert lost > 400 - 2
    auditor.close()
    check(disk, lost=lost)
    last = verify_and_read(Trail(disk.folder / "trail"))[-1]
    assert last["action"] == "journal.close"
    assert list((disk.folder / "trail" / "writers").iterdir()) == []
    disk.make_room()
    with make():
        assert (disk.folder / "trail" / "reserve").stat().st_size == RESERVE


def test_watermarks_stop_before_the_disk_is_full(make, disk, client, fake, caplog):
    marks = {"low_space_warn": 2**19, "low_space_stop": 2**18}
    with make(on_failure="block", **marks) as auditor:
        klaviyo = auditor.audit(client)

        def look():
            auditor._writer._look_at = 0.0

        def leave(free):
            facts = os.statvfs(disk.folder)
            with disk.filler.open("ab") as file:
                file.write(bytes(facts.f_bavail * facts.f_frsize - free))
            look()

        klaviyo.Lists.delete_list("L1")
        leave(2**19 - 2**16)
        klaviyo.Lists.delete_list("L1")
        assert "are free on the disk" in caplog.text
        leave(2**18 - 2**16)
        sent = fake.count
        for call in (klaviyo.Lists.get_list, klaviyo.Lists.delete_list):
            with pytest.raises(AuditUnavailable, match="low_space_stop"):
                call("L1")
        assert fake.count == sent
        disk.make_room()
        look()
        klaviyo.Lists.get_list("L1")
        lost = auditor.lost
    check(disk, lost=lost)
    lines = verify_and_read(Trail(disk.folder / "trail"))
    levels = [entry["metadata"]["level"] for entry in lines if entry["action"] == "journal.space"]
    assert levels == ["low", "stop", "enough"]


@pytest.mark.parametrize("policy", ["continue", "block"])
def test_a_disk_that_becomes_read_only(ext4, client, fake, policy):
    auditor = maker(ext4)(on_failure=policy, durability="fsync")
    klaviyo = auditor.audit(client)
    klaviyo.Lists.delete_list("L1")
    sent = fake.count
    ext4.remount("abort")  # what ext4 does when the disk fails
    if policy == "block":
        with pytest.raises(AuditUnavailable, match="Read-only file system"):
            klaviyo.Lists.delete_list("L2")
        with pytest.raises(AuditUnavailable, match="Read-only file system"):
            klaviyo.Lists.get_list("L2")
        assert fake.count == sent
    else:
        klaviyo.Lists.delete_list("L2")
        assert fake.count == sent + 1
        assert auditor.lost == 2
    auditor.close()
    check_after_repair(ext4)


def check_after_repair(disk):
    """The writer that could not say goodbye is found; nothing it had written is damaged."""
    disk.unmount()
    if shutil.which("fsck.ext4") is not None:
        subprocess.run(["fsck.ext4", "-p", disk._image], check=False, stdout=subprocess.DEVNULL)
    disk.mount()
    with maker(disk)() as auditor:
        tie(auditor)
    lines = verify_and_read(Trail(disk.folder / "trail"))
    assert [entry["action"] for entry in lines].count("journal.recover") == 1
    assert [entry["resource"] for entry in lines if entry["phase"] == "outcome"] == [
        "/api/lists/L1"
    ]


def test_mounted_read_only_and_then_not(ext4, client, fake):
    with maker(ext4)():
        pass
    ext4.remount("ro")
    with pytest.raises(AuditUnavailable, match="Read-only file system"):
        maker(ext4)(on_failure="block")
    auditor = maker(ext4)(on_failure="continue")
    auditor.audit(client).Lists.delete_list("L1")
    assert fake.count == 1
    assert auditor.lost == 2
    ext4.remount("rw")
    auditor.close()
    check(ext4, lost=2)


def test_ending_while_the_disk_takes_nothing(ext4, caplog):
    """Then nothing can be told in the journal; it is said where the program says things."""
    maker(ext4)().close()
    ext4.remount("ro")
    auditor = maker(ext4)(on_failure="continue")
    for _ in range(3):
        auditor.record("shop.import")
    auditor.close()
    assert "3 entries were lost" in caplog.text


@pytest.mark.parametrize("device", [(1, 7), (1, 3)], ids=["full", "null"])
def test_a_device_is_no_journal(tmp_path, client, fake, device):
    if os.geteuid() != 0:
        missing("only root can make a device")
    (tmp_path / "trail").mkdir()
    os.mknod(tmp_path / "trail" / "audit.jsonl", 0o20600, os.makedev(*device))
    with pytest.raises(AuditUnavailable, match="not a regular file"):
        Auditor(journal=tmp_path / "trail", on_failure="block")
    auditor = Auditor(journal=tmp_path / "trail", on_failure="continue")
    auditor.audit(client).Lists.delete_list("L1")
    assert (fake.count, auditor.lost) == (1, 2)
    (tmp_path / "trail" / "audit.jsonl").unlink()
    auditor.close()
    lines = verify_and_read(Trail(tmp_path / "trail"))
    assert [entry["action"] for entry in lines] == [
        "journal.open",
        "journal.gap",
        "journal.close",
    ]


@pytest.mark.parametrize("policy", ["continue", "block"])
def test_a_folder_that_is_replaced_while_a_program_runs(tmp_path, client, fake, policy):
    auditor = Auditor(journal=tmp_path / "trail", on_failure=policy)
    klaviyo = auditor.audit(client)
    klaviyo.Lists.delete_list("L1")
    (tmp_path / "trail").rename(tmp_path / "old")
    (tmp_path / "trail").write_text("no folder")
    shutil.rmtree(tmp_path / "old")
    auditor._writer._look_at = 0.0
    sent = fake.count
    for call in (klaviyo.Lists.get_list, klaviyo.Lists.delete_list):
        if policy == "block":
            with pytest.raises(AuditUnavailable):
                call("L2")
        else:
            call("L2")
    assert fake.count == (sent if policy == "block" else sent + 2)
    (tmp_path / "trail").unlink()
    auditor._writer._look_at = 0.0
    klaviyo.Lists.delete_list("L3")
    lost = auditor.lost
    auditor.close()
    # What was taken away is gone, as verify says; what came after it is there.
    findings = {one.kind for one in verify(tmp_path / "trail").findings if one.severity == "error"}
    assert findings == {"no-first-line", "missing-number"}
    lines = Trail(tmp_path / "trail").lines()
    assert [entry["action"] for entry in lines][0] == "journal.reopen"
    assert [entry["phase"] for entry in lines if entry.get("resource") == "/api/lists/L3"] == [
        "intent",
        "outcome",
    ]
    assert sum(entry["metadata"]["count"] for entry in lines if entry["phase"] == "gap") == lost


def test_output_that_goes_nowhere_breaks_no_call(tmp_path, fake):
    """The warnings themselves may find a full disk."""
    program = f"""
import os
from klaviyo_api import KlaviyoAPI
from klaviyo_audit import Auditor
os.mkdir("trail", 0o700)
os.symlink("/nowhere", "trail/audit.jsonl")
auditor = Auditor(journal="trail", on_failure="continue")
klaviyo = auditor.audit(KlaviyoAPI("k" * 9, test_host={fake.url!r}))
klaviyo.Lists.delete_list("L1")
auditor.close()
os._exit(0 if auditor.lost == 2 else 1)
"""
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(
            [sys.executable, "-c", program],
            cwd=tmp_path,
            stderr=full,
            timeout=PATIENCE,
            check=False,
        )
    assert done.returncode == 0
    assert fake.count == 1


def test_a_sinks_own_files_on_a_full_disk(disk, make):
    """What a sink has got is not sent again by this process, nor lost; files are whole or not there."""
    with make() as auditor:
        for number in range(5):
            auditor.record(f"e{number}")
    sink, told = Recorded(), []
    make_sink_folder(disk.folder / "trail", sink.name)
    worker = Shipper(disk.folder / "trail", sink, pace=Pace(retry_most=0.02), tell=told.append)
    rejected = []

    def reject_one(entries):
        disk.fill()
        rejected.append(entries[1].id)
        return Rejected(entries[1:2], "too large")

    sink.raises = [reject_one]
    for _ in range(4):
        worker.step(urgent=True)
    assert any("dead letters cannot be written" in message for message in told), told
    assert load_bookmark(worker.folder) is None, "what cannot be written down is not done with"

    disk.make_room()
    assert worker.run_once(PATIENCE)
    assert len(sink.calls) == 1, "what was acknowledged is not sent again"
    letters = [
        json.loads(line) for line in (worker.folder / "dead.jsonl").read_bytes().splitlines()
    ]
    assert [letter["entry"]["id"] for letter in letters] == rejected

    with make() as auditor:
        auditor.record("later")
    before = load_bookmark(worker.folder)
    disk.fill()
    told.clear()
    for _ in range(4):
        worker.step(urgent=True)
    assert "later" in sink.actions, "a full disk keeps nothing from the sink"
    assert any("cannot be" in message for message in told), told
    assert load_bookmark(worker.folder) == before, "the old one, not a half of the new one"
    receipts = (worker.folder / "receipts.jsonl").read_bytes().splitlines()
    assert all(isinstance(json.loads(line), dict) for line in receipts)

    disk.make_room()
    worker.close()
    again = Recorded()
    with contextlib.closing(Shipper(disk.folder / "trail", again, pace=Pace())) as another:
        assert another.run_once(PATIENCE)
    assert set(again.actions) <= {"later"}, "only what no bookmark could be saved for"
