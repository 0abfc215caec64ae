"""``ship --confirm`` and ``verify --against klaviyo``: what Klaviyo holds, from the command line."""

import json
import shutil

import pytest
from click.testing import CliRunner

from klaviyo_audit import Auditor
from klaviyo_audit.cli import main
from klaviyo_audit.journal.sealer import Sealer
from klaviyo_audit.testing import FakeKlaviyo
from klaviyo_audit.testing.exchange import Answer
from tests.sinks.klaviyo_case import BULK, OWN_KEY, expected_ids, recorded


@pytest.fixture
def trail(tmp_path):
    folder = tmp_path / "trail"
    with Auditor(journal=folder, sinks=[], seal="off", service="shop") as auditor:
        for number in range(20):
            auditor.record("export", metadata={"number": number})
    return folder


@pytest.fixture
def use(monkeypatch):
    """Settings of a sink on a fake."""

    def use(fake):
        monkeypatch.setenv("KLAVIYO_AUDIT_KLAVIYO_KEY", OWN_KEY)
        monkeypatch.setenv("KLAVIYO_AUDIT_KLAVIYO_HOST", fake.url)
        monkeypatch.setenv("KLAVIYO_AUDIT_KLAVIYO_SHARE", "100")

    return use


def run(*arguments):
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def confirm(trail, timeout=0.0):
    return run("ship", trail, "--sink", "klaviyo", "--confirm", "--timeout", timeout)


def receipts(trail):
    path = trail / "sinks/klaviyo-confirmed/receipts.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_what_arrived_is_written_down(trail, use):
    with FakeKlaviyo(strict=True) as fake:
        use(fake)
        assert run("ship", trail, "--sink", "klaviyo").exit_code == 0
        done = confirm(trail, timeout=100)
        assert done.exit_code == 0, done.output
        assert "klaviyo: 22 entries confirmed" in done.stderr
    (receipt,) = receipts(trail)
    assert (receipt["count"], receipt["acknowledgement"]["arrived"]) == (22, 22)


def test_nothing_is_confirmed_that_was_not_delivered(trail, use):
    with FakeKlaviyo(strict=True) as fake:
        use(fake)
        done = confirm(trail)
        assert done.exit_code == 1
        assert "0 entries confirmed; not all of it was delivered yet" in done.stderr
        assert recorded(fake) == []


def test_what_was_accepted_and_is_not_there_is_sent_again(trail, use):
    with FakeKlaviyo(strict=True) as fake:
        use(fake)
        usual = fake._service.handlers["POST", BULK]
        fake.on("POST", BULK, _swallow)
        assert run("ship", trail, "--sink", "klaviyo").exit_code == 0
        fake.on("POST", BULK, usual)
        assert recorded(fake) == []
        done = confirm(trail)
        assert done.exit_code == 1
        assert "22 of them cannot be read yet" in done.stderr
        assert "22 missing entries were sent again" in done.stderr
        assert sorted(recorded(fake)) == sorted(expected_ids(trail))
        assert confirm(trail, timeout=100).exit_code == 0
        assert len(receipts(trail)) == 1


def _swallow(_exchange):
    return Answer(202)


def test_late_events_are_waited_for(trail, use):
    with FakeKlaviyo(strict=True, lag=3.0) as fake:
        use(fake)
        assert run("ship", trail, "--sink", "klaviyo").exit_code == 0
        done = confirm(trail, timeout=100)
        assert done.exit_code == 0, done.output
        assert sorted(recorded(fake)) == sorted(expected_ids(trail))


def test_a_cut_tail_shows_against_klaviyo(trail, use, tmp_path):
    early = tmp_path / "early"
    with FakeKlaviyo(strict=True) as fake:
        use(fake)
        seal(trail)
        shutil.copytree(trail, early)
        with Auditor(journal=trail, sinks=[], seal="off", service="shop") as auditor:
            auditor.record("what somebody wants gone")
        seal(trail)
        assert run("ship", trail, "--sink", "klaviyo").exit_code == 0
        assert run("verify", trail, "--against", "klaviyo").exit_code == 0
        assert run("verify", early).exit_code == 0, "by itself the cut journal is intact"
        found = run("verify", early, "--against", "klaviyo")
        assert found.exit_code == 1, found.output
        assert "checkpoint" in found.output


def test_without_checkpoints_at_klaviyo_it_is_said(trail, use):
    with FakeKlaviyo(strict=True) as fake:
        use(fake)
        seal(trail)
        found = run("verify", trail, "--against", "klaviyo")
        assert found.exit_code == 2
        assert "Klaviyo holds no checkpoint of this journal" in found.stderr


def test_a_key_that_may_not_read_is_said(trail, use):
    with FakeKlaviyo(keys={OWN_KEY: ["events:write"]}) as fake:
        use(fake)
        found = run("verify", trail, "--against", "klaviyo")
        assert found.exit_code == 2
        assert "profiles:read" in found.stderr


def seal(trail):
    sealer = Sealer(trail)
    while sealer.step():
        pass
    sealer.close()
