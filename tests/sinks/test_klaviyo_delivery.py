"""Each entry arrives at Klaviyo exactly once, whatever the other end and this process do."""

import errno
import json
import logging
import os
import signal
import threading
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from time import monotonic
from types import SimpleNamespace

import pytest

from klaviyo_audit import Auditor
from klaviyo_audit.entry import Origin
from klaviyo_audit.errors import ConfigurationError
from klaviyo_audit.settings import load
from klaviyo_audit.sinks.base import Rejected, Retry
from klaviyo_audit.sinks.klaviyo import KlaviyoSink
from klaviyo_audit.sinks.klaviyo import sent as klaviyo_sent
from klaviyo_audit.sinks.klaviyo import sink as klaviyo_sink
from klaviyo_audit.sinks.klaviyo import track as klaviyo_track
from klaviyo_audit.sinks.registry import make_sink
from klaviyo_audit.testing import FakeKlaviyo
from klaviyo_audit.testing.exchange import Answer, error
from tests.ports import free_port
from tests.sinks.klaviyo_case import BULK, OWN_KEY, SINGLE, entry, ids, posts, recorded, sink_on
from tests.waiting import PATIENCE

ENTRIES = [entry(number) for number in range(30)]


@pytest.fixture
def fake():
    with FakeKlaviyo(strict=True) as server:
        yield server


@pytest.fixture
def sink(fake, tmp_path):
    return sink_on(fake, tmp_path)


def kinds(fake):
    return [(r.path, r.status) for r in posts(fake)]


def deliver(sink, entries, attempts=10):
    """Deliver as a shipper does, without its pauses."""
    for _ in range(attempts):
        try:
            return sink.deliver(entries)
        except Retry:
            continue
    raise AssertionError("it is never delivered")


# Bulk jobs and single events


def test_checkpoints_between_two_attempts_change_nothing(fake, sink, monkeypatch):
    """Of two jobs the second may have arrived: its events, and no others, are sent once more."""
    monkeypatch.setattr(klaviyo_sink, "MAX_EVENTS", 10)
    fake.fail(None, path=BULK)
    fake.fail(503, path=BULK, retry_after=0)
    with pytest.raises(Retry):
        sink.deliver(ENTRIES[:20])
    assert [status for _, status in kinds(fake)] == [202, 503]
    sink.deliver_checkpoints([b"log.example\n42\nroot\n\nsig\n"])
    sink.deliver(ENTRIES[:20])
    assert [path for path, _ in kinds(fake)] == [BULK, BULK, *[SINGLE] * 11]
    said = sink.acknowledgement
    assert (said["events"], said["bulk_jobs"], said["single_events"]) == (20, 1, 10)


def test_new_entries_go_in_jobs_and_few_as_single_events(fake, sink):
    sink.deliver(ENTRIES)
    assert sink.acknowledgement["events"] == 30
    assert sink.acknowledgement["bulk_jobs"] == 1
    assert sink.acknowledgement["request_id"] == posts(fake)[-1].request_id
    sink.deliver([entry(number) for number in range(30, 33)])
    assert [path for path, _ in kinds(fake)] == [BULK, SINGLE, SINGLE, SINGLE]
    assert recorded(fake) == ids(entry(number) for number in range(33))


def test_a_job_has_at_most_a_thousand_events(fake, sink):
    entries = [entry(number) for number in range(2_345)]
    sink.deliver(entries)
    jobs = [json.loads(r.body)["data"]["attributes"]["events-bulk-create"] for r in posts(fake)]
    sizes = [len(job["data"][0]["attributes"]["events"]["data"]) for job in jobs]
    assert sizes == [1000, 1000, 345]
    assert recorded(fake) == ids(entries)


@pytest.mark.parametrize("letter", ["x", "\u4e16"])
def test_a_job_stays_below_five_megabytes(fake, sink, letter):
    action = letter * 990
    wide = [entry(number, action=action, parent_id=action, writer=action) for number in range(990)]
    sink.deliver(wide)
    bodies = [len(r.body) for r in posts(fake)]
    assert max(bodies) <= 5_000_000
    assert len(recorded(fake)) == 990
    if letter != "x":
        assert len(bodies) > 1
        assert bodies[0] > 4_900_000, "jobs are filled"


def test_each_service_has_a_profile_of_its_own(fake, sink):
    services = ["shop", "loyalty", None]
    entries = [entry(number, origin=Origin(service=services[number % 3])) for number in range(12)]
    sink.deliver(entries)
    profiles = fake._service.store.all("profile")
    assert {p.attributes["external_id"] for p in profiles} == {
        "klaviyo-audit:shop", "klaviyo-audit:loyalty", "klaviyo-audit:unknown"
    }  # fmt: skip
    assert sorted(recorded(fake)) == sorted(ids(entries))


def test_a_repeated_line_in_a_batch_fails_nothing(fake, sink):
    sink.deliver([*ENTRIES, ENTRIES[3], ENTRIES[29]])
    assert recorded(fake) == ids(ENTRIES)


# A repeat never gets into a bulk job


@pytest.mark.parametrize(
    "trouble",
    [
        {"status": None, "reset": True},
        {"status": None, "truncate": True},
        {"status": None, "body": b"garbage"},
        {"status": 500},
        {"status": 502},
        {"status": 503, "retry_after": 0},
        {"status": 504},
        {"status": 200, "body": b"<html>welcome to our wireless network</html>"},
        {"status": 403, "body": b"<html>blocked</html>"},
    ],
    ids=str,
)
def test_after_a_doubtful_attempt_the_entries_go_one_by_one(fake, sink, tmp_path, trouble):
    fake.fail(path=BULK, **trouble)
    deliver(sink, ENTRIES)
    assert sorted(recorded(fake)) == sorted(ids(ENTRIES))
    more = [entry(number) for number in range(30, 60)]
    deliver(sink, more)
    assert sorted(recorded(fake)) == sorted(ids(ENTRIES + more))
    bulk_ids = [
        event["attributes"]["unique_id"]
        for request in posts(fake, BULK)
        for event in json.loads(request.body)["data"]["attributes"]["events-bulk-create"]["data"][
            0
        ]["attributes"]["events"]["data"]
    ]
    assert len(bulk_ids) == len(set(bulk_ids)), "no id is in two jobs"


@pytest.mark.parametrize("status", [400, 202], ids=["the job is refused", "the job is swallowed"])
def test_what_an_earlier_process_may_have_sent_goes_one_by_one(tmp_path, status):
    with FakeKlaviyo(strict=True, bulk_repeat_status=status) as fake:
        sink_on(fake, tmp_path).deliver(ENTRIES)
        # Killed before the bookmark moved: the same batch again, with more behind it.
        more = [*ENTRIES, *(entry(number) for number in range(30, 50))]
        deliver(sink_on(fake, tmp_path), more)
        assert [path for path, _ in kinds(fake)] == [BULK, *[SINGLE] * 30, BULK]
        assert sorted(recorded(fake)) == sorted(ids(more))


def test_without_the_note_a_refused_job_is_sent_one_by_one(fake, tmp_path):
    sink_on(fake, tmp_path / "one").deliver(ENTRIES)
    more = [entry(number) for number in range(20, 50)]
    sink_on(fake, tmp_path / "other").deliver(more)
    assert kinds(fake)[1] == (BULK, 400)
    assert sorted(recorded(fake)) == sorted(ids(ENTRIES + more[10:]))


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"floor":1}', b'{"floor":"","writers":3}'])
def test_an_unreadable_note_means_that_all_may_have_been_sent(fake, tmp_path, content):
    sink_on(fake, tmp_path).deliver(ENTRIES)
    (tmp_path / "sinks/klaviyo/sent.json").write_bytes(content)
    fake.clear()
    deliver(sink_on(fake, tmp_path), ENTRIES)
    assert {path for path, _ in kinds(fake)} == {SINGLE}
    assert recorded(fake) == ids(ENTRIES)


def test_lines_of_one_writer_may_come_out_of_order(fake, sink):
    order = [*range(0, 40, 2), *range(1, 40, 2)]
    entries = [entry(number) for number in order]
    sink.deliver(entries[:20])
    deliver(sink, entries[20:])
    assert sorted(recorded(fake)) == sorted(ids(entries))


def test_nothing_is_sent_that_cannot_be_noted(fake, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    sink = sink_on(fake, tmp_path)
    monkeypatch.setattr(klaviyo_sent, "write_new", full)
    for entries in (ENTRIES, ENTRIES[:2]):
        with pytest.raises(Retry, match=r"No space left.*|cannot be written"):
            sink.deliver(entries)
    assert posts(fake) == []
    monkeypatch.undo()
    sink.deliver(ENTRIES)
    assert recorded(fake) == ids(ENTRIES)


def test_the_note_is_on_disk_before_a_job_is_sent(fake, sink, tmp_path):
    seen = []

    def handler(_exchange):
        seen.append(json.loads((tmp_path / "sinks/klaviyo/sent.json").read_bytes()))
        return Answer(202)

    fake.on("POST", BULK, handler)
    sink.deliver(ENTRIES)
    assert seen[0]["writers"] == {ENTRIES[0].writer: [29, ENTRIES[0].timestamp]}


def test_the_note_stays_small_and_errs_to_the_safe_side(fake, tmp_path, monkeypatch):
    monkeypatch.setattr(klaviyo_sent, "_MAX_WRITERS", 5)
    at = datetime(2026, 11, 23, tzinfo=UTC)
    entries = [
        entry(
            number,
            writer=f"{number:016x}",
            timestamp=(at + timedelta(seconds=number)).isoformat(),
        )
        for number in range(40)
    ]
    for start in range(0, 40, 10):
        deliver(sink_on(fake, tmp_path), entries[start : start + 10])
    assert [path for path, _ in kinds(fake)] == [BULK] * 4
    note = json.loads((tmp_path / "sinks/klaviyo/sent.json").read_bytes())
    assert len(note["writers"]) == 5
    fake.clear()
    deliver(sink_on(fake, tmp_path), entries)
    assert {path for path, _ in kinds(fake)} == {SINGLE}
    assert sorted(recorded(fake)) == sorted(ids(entries))


# What certainly was not processed may go in a job again


@pytest.mark.parametrize("status", [429])
def test_after_a_429_the_job_goes_again(fake, sink, status):
    fake.fail(status, path=BULK, retry_after=0)
    with pytest.raises(Retry):
        sink.deliver(ENTRIES)
    deliver(sink, ENTRIES)
    assert [path for path, _ in kinds(fake)] == [BULK, BULK]
    assert recorded(fake) == ids(ENTRIES)


def stop_the_clock(sink):
    """That of its budgets, so that what they say does not depend on how long the test takes."""
    now = monotonic()
    for budget in sink._api._budgets.values():
        budget._clock = lambda: now


def test_retry_after_is_passed_on_and_kept_by_the_sink(fake, sink):
    stop_the_clock(sink)
    fake.fail(429, path=BULK, retry_after=7)
    with pytest.raises(Retry) as raised:
        sink.deliver(ENTRIES)
    assert raised.value.after == 7
    assert sink._api._budgets[BULK].wait() == pytest.approx(7), (
        "also where the shipper would not wait"
    )
    assert len(posts(fake)) == 1


@pytest.mark.parametrize(
    ("said", "seconds"),
    [
        ("9" * 400, 3600),
        ("Fri, 31 Dec 9999 23:59:59 GMT", 3600),
        ("Thu, 01 Jan 1970 00:00:00 GMT", 0),
        ("-5", 0),
        ("soon", 0),
        ("1e9", 0),
        ("nan", 0),
    ],
)
def test_a_retry_after_that_makes_no_sense_silences_nothing_for_ever(fake, sink, said, seconds):
    stop_the_clock(sink)
    fake.fail(429, path=BULK, retry_after=said)
    with pytest.raises(Retry):
        sink.deliver(ENTRIES)
    assert sink._api._budgets[BULK].wait() == pytest.approx(seconds, abs=1)


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@pytest.mark.parametrize("count", [1, 30])
def test_a_redirect_takes_neither_key_nor_entries_elsewhere(tmp_path, status, count):
    """Nor does the other host's 202 count."""
    seen = []

    class Elsewhere(BaseHTTPRequestHandler):
        def do_POST(self):
            seen.append(dict(self.headers))
            self.send_response(202)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def do_GET(self):
            self.do_POST()

        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Elsewhere) as other:
        place = f"http://localhost:{other.server_port}/api/events"

        class Redirecting(Elsewhere):
            def do_POST(self):
                self.rfile.read(int(self.headers["Content-Length"]))
                self.send_response(status)
                self.send_header("Location", place)
                self.send_header("Content-Length", "0")
                self.end_headers()

        with ThreadingHTTPServer(("127.0.0.1", 0), Redirecting) as first:
            for server in (first, other):
                threading.Thread(target=server.serve_forever, daemon=True).start()
            sink = sink_on(SimpleNamespace(url=f"http://127.0.0.1:{first.server_port}"), tmp_path)
            with pytest.raises(Retry, match=str(status)):
                sink.deliver(ENTRIES[:count])
            sink.close()
            for server in (first, other):
                server.shutdown()
    assert seen == []


def test_after_a_refused_connection_the_job_goes_again(tmp_path):
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    sink = KlaviyoSink(load(klaviyo_key=OWN_KEY, klaviyo_host=url, dir=tmp_path, klaviyo_share=100))
    with pytest.raises(Retry, match="no connection to Klaviyo"):
        sink.deliver(ENTRIES)
    with FakeKlaviyo(strict=True, port=port) as fake:
        sink.deliver(ENTRIES)
        assert [path for path, _ in kinds(fake)] == [BULK]


def test_what_was_accepted_of_a_batch_is_not_sent_again(fake, sink):
    entries = [entry(number) for number in range(1_500)]
    calls = []

    def second_fails(exchange):
        calls.append(1)
        if len(calls) == 2:
            return error(429)
        return sent(exchange)

    sent = fake._service.handlers["POST", BULK]
    fake.on("POST", BULK, second_fails)
    deliver(sink, entries)
    assert [(r.path, r.status) for r in posts(fake)] == [(BULK, 202), (BULK, 429), (BULK, 202)]
    assert recorded(fake) == ids(entries)


# What Klaviyo refuses


def refuse(fake, bad, pointer="/data/attributes/properties"):
    """Have a fake refuse the events of these ids, whether alone or in a job."""
    for path in (BULK, SINGLE):
        usual = fake._service.handlers["POST", path]

        def handler(exchange, usual=usual):
            if any(unique.encode() in exchange.body for unique in bad):
                return error(400, "It looks wrong", pointer)
            return usual(exchange)

        fake.on("POST", path, handler)


def test_of_a_refused_job_only_the_culprits_are_rejected(fake, sink):
    bad = ids(ENTRIES[3:5])
    refuse(fake, bad)
    with pytest.raises(Rejected) as raised:
        sink.deliver(ENTRIES)
    assert ids(raised.value.entries) == bad
    assert raised.value.why == (
        "Klaviyo refuses it: status 400; It looks wrong (/data/attributes/properties)"
    )
    good = [unique for unique in ids(ENTRIES) if unique not in bad]
    assert recorded(fake) == good


@pytest.mark.parametrize(
    ("pointer", "setting"),
    [
        ("/data/attributes/metric/data/attributes/name", "klaviyo_metric"),
        ("/data/attributes/events-bulk-create/data/0/attributes/profile", "klaviyo_profile"),
    ],
)
@pytest.mark.parametrize("count", [1, 30])
def test_a_refused_metric_or_profile_stops_the_sink(fake, sink, pointer, setting, count):
    refuse(fake, ids(ENTRIES), pointer)
    with pytest.raises(ConfigurationError, match=f"change the setting {setting}"):
        sink.deliver(ENTRIES[:count])
    assert len(posts(fake)) == 1


@pytest.mark.parametrize("count", [1, 30])
def test_a_wrong_key_stops_the_sink_and_names_the_setting(tmp_path, count, monkeypatch):
    with FakeKlaviyo(keys={OWN_KEY: ["profiles:read"]}) as fake:
        sink = sink_on(fake, tmp_path)
        with pytest.raises(ConfigurationError) as raised:
            sink.deliver(ENTRIES[:count])
        message = str(raised.value)
        assert "status 403" in message
        assert "events:write" in message
        assert "KLAVIYO_AUDIT_KLAVIYO_KEY" in message
        assert OWN_KEY not in message
        fake.disable_key(OWN_KEY)
        monkeypatch.setenv("KLAVIYO_AUDIT_KLAVIYO_KEY", OWN_KEY)
        settings = load(klaviyo_host=fake.url, dir=tmp_path / "other")
        with pytest.raises(ConfigurationError) as raised:
            KlaviyoSink(settings).deliver(ENTRIES[:count])
        assert "status 401" in str(raised.value)
        assert "environment variable KLAVIYO_AUDIT_KLAVIYO_KEY" in str(raised.value)


def test_a_key_that_was_put_right_goes_on_with_a_job(tmp_path):
    with FakeKlaviyo(strict=True, keys={OWN_KEY: None}) as fake:
        fake.disable_key(OWN_KEY)
        with pytest.raises(ConfigurationError):
            sink_on(fake, tmp_path).deliver(ENTRIES)
        fake.enable_key(OWN_KEY)
        sink_on(fake, tmp_path).deliver(ENTRIES)
        assert kinds(fake) == [(BULK, 401), (BULK, 202)]


def test_a_retired_revision_is_said(fake, sink):
    fake.fail(410)
    with pytest.raises(ConfigurationError, match="update klaviyo-audit and klaviyo-api"):
        sink.deliver(ENTRIES)


def test_no_key_is_said_before_anything_else(monkeypatch, tmp_path):
    monkeypatch.delenv("KLAVIYO_API_KEY", raising=False)
    with pytest.raises(ConfigurationError, match=r"KLAVIYO_AUDIT_KLAVIYO_KEY.*events:write"):
        make_sink("klaviyo", load(dir=tmp_path))


def test_sharing_the_programs_key_is_said_once(fake, tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("KLAVIYO_API_KEY", OWN_KEY)
    sink = KlaviyoSink(load(klaviyo_host=fake.url, dir=tmp_path))
    with caplog.at_level(logging.WARNING, "klaviyo_audit"):
        sink.deliver(ENTRIES[:1])
        sink.deliver(ENTRIES[1:2])
    (message,) = [r.getMessage() for r in caplog.records if "shares" in r.getMessage()]
    assert "KLAVIYO_AUDIT_KLAVIYO_KEY" in message
    assert OWN_KEY not in message


@pytest.mark.parametrize(
    "timestamp",
    ["1989-12-31T23:59:59.000000Z", "1999-01-01T00:00:00.000000Z", "2999-01-01T00:00:00Z", "x"],
)
def test_a_clock_that_klaviyo_refuses_loses_no_entry(fake, sink, timestamp):
    odd = [entry(number, timestamp=timestamp) for number in range(8)]
    sink.deliver(odd)
    sink.deliver([entry(99, timestamp=timestamp)])
    assert recorded(fake) == ids([*odd, entry(99)])
    event = fake._service.store.all("event")[0].attributes
    assert event["event_properties"]["timestamp"] == timestamp
    assert event["event_properties"]["time_refused_by_klaviyo"] is True
    assert abs(event["timestamp"] - datetime.now(UTC).timestamp()) < 60


# The direct form, threads and processes


def test_track(fake, sink):
    sink.track("audit", entry(1))
    sink.track("audit", entry(1).to_dict())
    sink.track("Another", entry(1))
    assert recorded(fake) == ids([entry(1), entry(1)])
    metrics = [e.sought_by["metric"] for e in fake._service.store.all("event")]
    assert metrics == ["Klaviyo Audit", "Another"]


def test_track_says_what_became_of_it(fake, sink):
    fake.fail(503)
    with pytest.raises(Retry):
        sink.track("audit", entry(1))
    refuse(fake, ids([entry(1)]))
    with pytest.raises(Rejected):
        sink.track("audit", entry(1))


@pytest.mark.parametrize("trouble", [None, errno.EROFS, errno.EACCES])
def test_without_a_journal_nothing_is_written(fake, tmp_path, monkeypatch, trouble):
    """Entries wait in memory then, and so does the note of what may have been sent."""
    folder = tmp_path / "trail"
    if trouble is not None:
        folder.mkdir()

        def refuse(*_):
            raise OSError(trouble, os.strerror(trouble))

        monkeypatch.setattr(klaviyo_sent, "write_new", refuse)
    sink = sink_on(fake, folder)
    fake.fail(500, path=BULK)
    deliver(sink, ENTRIES)
    deliver(sink, [entry(number) for number in range(25, 50)])
    assert sorted(recorded(fake)) == sorted(ids(entry(number) for number in range(50)))
    assert [path for path, _ in kinds(fake)] == [BULK, *[SINGLE] * 35, BULK]
    assert [p for p in tmp_path.rglob("*") if p.is_file()] == []


def test_a_delivery_that_overran_is_not_joined_by_another(fake, sink):
    held, go = threading.Event(), threading.Event()

    def slow(_exchange):
        held.set()
        go.wait(PATIENCE)
        return Answer(202)

    fake.on("POST", SINGLE, slow)
    thread = threading.Thread(target=sink.deliver, args=(ENTRIES[:1],))
    thread.start()
    held.wait(PATIENCE)
    with pytest.raises(Retry, match="still under way"):
        sink.deliver(ENTRIES[:1])
    go.set()
    thread.join()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_a_forked_child_has_connections_of_its_own(fake, sink):
    sink.deliver(ENTRIES[:1])
    sink._lock.acquire()  # as if a thread of the parent delivered at this moment
    child = os.fork()
    if not child:
        try:
            sink.deliver(ENTRIES[1:2])
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    sink._lock.release()
    sink.deliver(ENTRIES[2:3])
    assert recorded(fake) == ids(ENTRIES[:3])


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_a_forked_child_waits_for_no_lock_of_its_parents_when_it_closes(sink):
    with sink._api._closing._cond:  # as if a thread of the parent began to wait at this moment
        child = os.fork()
        if not child:
            signal.alarm(60)
            sink.close()
            os._exit(0)
        assert os.waitpid(child, 0)[1] == 0


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_a_forked_child_reads_back_on_a_connection_of_its_own(fake, sink):
    sink.deliver(ENTRIES[:1])
    parents = sink._api.transport()
    child = os.fork()
    if not child:
        code = 1
        try:
            done = sink.confirm(ENTRIES[:1])
            code = 0 if sink._api.transport() is not parents and done.arrived else 2
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_a_closed_sink_begins_nothing(fake, sink):
    sink.close()
    with pytest.raises(Retry, match="being closed"):
        sink.deliver(ENTRIES)
    assert posts(fake) == []


def test_a_turn_ends_before_the_shippers_deadline(fake, sink, monkeypatch):
    monkeypatch.setattr(klaviyo_track, "_TURN_SECONDS", 0.2)
    fake.fail(500, path=BULK)
    fake.fail(None, path=SINGLE, times=None, delay=0.02)
    turns = 0
    while True:
        turns += 1
        try:
            sink.deliver(ENTRIES)
        except Retry:
            continue
        break
    assert turns > 3
    assert sorted(recorded(fake)) == sorted(ids(ENTRIES))
    assert len(posts(fake, SINGLE)) == 30, "each once: what was accepted stays accepted"


def test_from_the_auditor_to_klaviyo(fake, tmp_path, monkeypatch):
    monkeypatch.setenv("KLAVIYO_AUDIT_KLAVIYO_KEY", OWN_KEY)
    monkeypatch.setenv("KLAVIYO_AUDIT_KLAVIYO_HOST", fake.url)
    with Auditor(journal=tmp_path / "trail", sinks=["klaviyo"], service="shop") as auditor:
        for number in range(20):
            auditor.record("export.downloaded", metadata={"number": number})
        assert auditor.flush(PATIENCE)
    lines = (tmp_path / "trail/audit.jsonl").read_bytes().splitlines()
    sent = set(recorded(fake))
    for line in map(json.loads, lines):
        if line["phase"] == "event":
            assert f"{line['id']}:event" in sent
