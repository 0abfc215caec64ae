"""Reading back what has arrived: 202 is no proof."""

import pytest

from klaviyo_audit.errors import ConfigurationError
from klaviyo_audit.sinks.base import Retry
from klaviyo_audit.testing import FakeKlaviyo
from tests.sinks.klaviyo_case import OWN_KEY, entry, ids, recorded, sink_on

ENTRIES = [
    entry(number, timestamp=f"2026-11-23T{number % 24:02d}:00:{number % 60:02d}.5Z")
    for number in range(30)
]
NOTES = [
    f"log.example/trail\n{size}\nroot\n\n\u2014 log.example/trail c2ln\n".encode()
    for size in (10, 20, 30)
]


@pytest.fixture
def fake():
    with FakeKlaviyo(strict=True) as server:
        yield server


def test_it_tells_what_arrived_from_what_was_only_accepted(tmp_path):
    with FakeKlaviyo(strict=True, bulk_repeat_status=202) as fake:
        sink = sink_on(fake, tmp_path)
        sink.deliver(ENTRIES[:10])
        # A job that Klaviyo accepts and of which nothing comes: another host sent one of them.
        sink_on(fake, tmp_path / "other host").track("audit", ENTRIES[12])
        sink.deliver(ENTRIES[10:20])
        found = sink.confirm(ENTRIES[:20])
        missing = [ids([e])[0] for e in ENTRIES[10:20] if e is not ENTRIES[12]]
        assert list(found.missing) == missing
        for each in ENTRIES[:20]:
            if ids([each])[0] in found.missing:
                sink.track("audit", each)
        assert sink.confirm(ENTRIES[:20]).missing == ()
        assert sorted(recorded(fake)) == sorted(ids(ENTRIES[:20]))


def test_an_event_can_be_read_after_a_while_only(tmp_path):
    with FakeKlaviyo(strict=True, lag=1000.0) as fake:
        sink = sink_on(fake, tmp_path)
        sink.deliver(ENTRIES)
        assert sink.confirm(ENTRIES).arrived == ()
        fake._service._lag = 0.0
        assert list(sink.confirm(ENTRIES).arrived) == ids(ENTRIES)


def test_pages_and_pauses(fake, tmp_path):
    many = [entry(number) for number in range(450)]
    later = entry(999, timestamp="2026-11-20T00:00:00Z")
    sink = sink_on(fake, tmp_path)
    sink.deliver([*many, later])
    fake.clear()
    assert len(sink.confirm([*many, later]).arrived) == 451
    assert len([r for r in fake.requests if r.path == "/api/events"]) == 3 + 1


def test_only_the_audit_profiles_events_are_read(fake, tmp_path):
    sink = sink_on(fake, tmp_path)
    sink.deliver(ENTRIES)
    fake.clear()
    sink.confirm(ENTRIES)
    reads = [r.query for r in fake.requests if r.path == "/api/events"]
    assert reads
    assert all("equals%28profile_id" in query for query in reads)


def test_before_the_first_event_there_is_no_profile(fake, tmp_path):
    assert list(sink_on(fake, tmp_path).confirm(ENTRIES).missing) == ids(ENTRIES)
    assert list(sink_on(fake, tmp_path).checkpoints()) == []


def test_entries_with_a_time_that_klaviyo_refuses_are_told_apart(fake, tmp_path):
    odd = entry(1, timestamp="1970-01-01T00:00:00Z")
    sink = sink_on(fake, tmp_path)
    sink.deliver([odd, entry(2)])
    found = sink.confirm([odd, entry(2)])
    assert (found.arrived, found.missing) == ((entry(2).id,), ())
    assert found.unchecked == (odd.id,)


def test_checkpoints_come_back_byte_for_byte(fake, tmp_path):
    sink = sink_on(fake, tmp_path)
    sink.deliver_checkpoints(NOTES[:2])
    sink.deliver_checkpoints(NOTES)
    assert list(sink_on(fake, tmp_path / "elsewhere").checkpoints()) == NOTES


def test_a_failed_checkpoint_is_sent_again_and_is_there_once(fake, tmp_path):
    sink = sink_on(fake, tmp_path)
    fake.fail(None, times=1, reset=True)
    with pytest.raises(Retry):
        sink.deliver_checkpoints(NOTES)
    sink.deliver_checkpoints(NOTES)
    assert list(sink.checkpoints()) == NOTES


def test_the_scopes_that_are_missing_are_named(tmp_path):
    with FakeKlaviyo(strict=True, keys={OWN_KEY: ["events:write"]}) as fake:
        sink = sink_on(fake, tmp_path)
        sink.deliver(ENTRIES)
        with pytest.raises(ConfigurationError, match="profiles:read.*klaviyo_profile = id:"):
            sink.confirm(ENTRIES)
    scopes = ["events:write", "events:read"]
    with FakeKlaviyo(keys={OWN_KEY: scopes}) as fake:
        sink = sink_on(fake, tmp_path / "id", klaviyo_profile="id:01HAUDIT")
        sink.deliver(ENTRIES)
        assert list(sink.confirm(ENTRIES).arrived) == ids(ENTRIES), "events:read is enough then"
    with FakeKlaviyo(keys={OWN_KEY: ["events:write"]}) as fake:
        sink = sink_on(fake, tmp_path / "no", klaviyo_profile="id:01HAUDIT")
        with pytest.raises(ConfigurationError, match="needs the scope events:read"):
            sink.confirm(ENTRIES)


@pytest.mark.parametrize("trouble", [{"status": 500}, {"status": 200, "body": b"<html>"}])
def test_trouble_while_reading_is_said(fake, tmp_path, trouble):
    sink = sink_on(fake, tmp_path)
    sink.deliver(ENTRIES)
    fake.fail(method="GET", **trouble)
    with pytest.raises(Retry, match="Klaviyo could not be asked"):
        sink.confirm(ENTRIES)
