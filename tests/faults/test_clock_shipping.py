"""The wall clock is set while sinks are shipped to: nothing waits for it, and no lag is negative."""

import contextlib
import json
import re
import signal
import subprocess
import sys
import time
from email.utils import formatdate

import pytest

from klaviyo_audit import Auditor
from klaviyo_audit.sinks.condition import Condition
from klaviyo_audit.sinks.status import sinks_status
from klaviyo_audit.testing import FakeKlaviyo
from tests import planted
from tests.faults.faketime import environment
from tests.peers.kafka_mock import MockCluster
from tests.sinks.collector import Collector, Reply, records, serving
from tests.sinks.klaviyo_case import recorded
from tests.sinks.test_otlp_grpc import Service, start
from tests.waiting import PATIENCE

PROGRAM = """
import json, select, sys
from pathlib import Path
from time import monotonic
from klaviyo_audit import Auditor
from klaviyo_audit.sinks.status import sinks_status
faketime, sink = sys.argv[1:3]
def status():
    (shown,) = sinks_status(Path("trail"), (sink,))
    return shown
with Auditor(journal="trail", sinks=[sink], seal="off", ship_batch_age=0.2) as auditor:
    for offset in sys.argv[3:]:
        Path(faketime + ".new").write_text(offset)
        Path(faketime + ".new").rename(faketime)  # librdkafka's threads read it all the time
        for number in range(3):
            auditor.record(f"at{offset}", metadata={"number": number})
        begun, lags = monotonic(), []
        while status()["lag_entries"] and monotonic() - begun < 60:
            select.select((), (), (), 0.05)  # faketime breaks what time.sleep calls
            lags += [condition.behind() for condition in auditor.sink_conditions.values()]
        took = monotonic() - begun
        lags.append(status()["lag_seconds"])
        auditor.record(f"flushed{offset}")
        print(json.dumps({"took": took, "flushed": auditor.flush(60), "lags": lags}), flush=True)
"""
STEPS = ["-3600s", "+86400s"]


def end(follower):
    """Have it end as it is asked to; one that does not says where it stands."""
    follower.send_signal(signal.SIGTERM)
    try:
        follower.wait(PATIENCE)
    except subprocess.TimeoutExpired:
        follower.send_signal(signal.SIGABRT)
        follower.wait(PATIENCE)
        raise


@pytest.fixture
def run(needed, tmp_path):
    """Run the program, and where it is told to beside it the command, with a clock that it sets."""
    faketime = needed("faketime", "apt-get install faketime, or make peers")
    file = tmp_path / "faketime"

    def run(sink, variables, *offsets, beside=False):
        file.write_text("+0")
        where = {
            "cwd": tmp_path,
            "env": {
                **environment(faketime, file),
                "KLAVIYO_AUDIT_PSEUDONYM_KEY": "00" * 32,
                "PYTHONFAULTHANDLER": "1",
                "KLAVIYO_AUDIT_SHIP": "off" if beside else "background",
                "KLAVIYO_AUDIT_SHIP_BATCH_AGE": "0.2",
                **variables,
            },
        }
        with contextlib.ExitStack() as stack:
            if beside:
                (tmp_path / "trail").mkdir()
                ship = [sys.executable, "-m", "klaviyo_audit", "ship", "trail", "--sink", sink]
                follower = subprocess.Popen([*ship, "--follow"], **where)
                stack.enter_context(follower)
                stack.callback(end, follower)
            done = subprocess.run(
                [sys.executable, "-c", PROGRAM, file, sink, *offsets],
                **where,
                capture_output=True,
                text=True,
                timeout=250,
                check=False,
            )
        assert done.returncode == 0, done.stderr
        told = [json.loads(line) for line in done.stdout.splitlines()]
        assert len(told) == len(offsets)
        assert max(one["took"] for one in told[1:]) < 60, "it waits for no clock"
        for one in told:
            assert one["flushed"]
            assert min(one["lags"]) >= 0
        lines = (tmp_path / "trail" / "audit.jsonl").read_bytes().splitlines()
        assert sum(json.loads(line)["action"] == "journal.clock" for line in lines) == 2
        return lines

    return run


@pytest.mark.parametrize("step", STEPS)
def test_delivery_goes_on_when_the_clock_is_set(run, step):
    """The collector has each batch repeated once, after a date a second ahead of its own clock."""
    seen = set()

    def behave(request):
        first = records(request)[0].body.string_value
        if first in seen:
            return Reply()
        seen.add(first)
        return Reply(503, headers={"Retry-After": formatdate(time.time() + 1, usegmt=True)})

    with serving(Collector(behave)) as collector:
        endpoint = {"OTEL_EXPORTER_OTLP_LOGS_ENDPOINT": collector.endpoint}
        lines = run("otlp", endpoint, "+0", step, "+0")
    bodies = [record.body.string_value.encode() for record in collector.taken]
    assert bodies == lines, "all of it, once, in order"


@contextlib.contextmanager
def otlp():
    with serving(Collector()) as collector:
        yield {"OTEL_EXPORTER_OTLP_LOGS_ENDPOINT": collector.endpoint}, collector.uids


@contextlib.contextmanager
def otlp_over_grpc():
    service = Service()
    server, port = start(service)
    endpoint = f"http://127.0.0.1:{port}"
    protocol = {"OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}
    yield {"OTEL_EXPORTER_OTLP_ENDPOINT": endpoint, **protocol}, service.uids
    server.stop(0).wait()


@contextlib.contextmanager
def kafka():
    with MockCluster(1) as cluster:
        cluster.create_topic("audit")
        config = {"KLAVIYO_AUDIT_KAFKA_CONFIG": f'{{"bootstrap.servers":"{cluster.bootstrap}"}}'}

        def uids():
            headers = [dict(message.headers()) for message in cluster.read("audit", len, 4)]
            return [one["klaviyo-audit-id"].decode() for one in headers]

        yield {**config, "KLAVIYO_AUDIT_KAFKA_TOPIC": "audit"}, uids


@contextlib.contextmanager
def klaviyo():
    with FakeKlaviyo() as fake:
        key = {"KLAVIYO_AUDIT_KLAVIYO_KEY": planted.API_KEY}
        yield {"KLAVIYO_AUDIT_KLAVIYO_HOST": fake.url, **key}, lambda: recorded(fake)


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("beside", [False, True], ids=["program", "beside"])
@pytest.mark.parametrize("place", [otlp, otlp_over_grpc, kafka, klaviyo])
def test_every_sink_gets_everything_once(run, place, beside, step):
    with place() as (variables, uids):
        lines = run(place.__name__.split("_")[0], variables, "+0", step, "+0", beside=beside)
        arrived = uids()
    # The id is a UUID; some say the phase behind it.
    assert sorted(uid[:36] for uid in arrived) == sorted(json.loads(line)["id"] for line in lines)


def test_what_is_stamped_ahead_of_the_clock_is_not_behind(trail):
    with Auditor(journal=trail.folder) as auditor:
        auditor.record("a")
    content = trail.path.read_bytes()
    trail.path.write_bytes(re.sub(rb'"timestamp":"\d{4}', b'"timestamp":"2999', content))
    (shown,) = sinks_status(trail.folder, ("otlp",))
    assert shown["lag_entries"] == 3
    assert shown["lag_seconds"] == 0.0
    ahead = Condition(state="retrying", caught_up_at="2999-01-01T00:00:00.000000Z")
    assert ahead.behind() == 0.0
