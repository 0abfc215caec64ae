"""10,000 entries to a collector that goes wrong in every way: nothing lost, each told apart.

The journal is shipped by the real shipper over real connections. ``KLAVIYO_AUDIT_CHAOS=1`` lets
more go wrong, for longer.
"""

from __future__ import annotations

import os
import random
import threading
import time
from collections import Counter

import pytest

from klaviyo_audit import Auditor
from klaviyo_audit.settings import load
from klaviyo_audit.sinks.otlp import OtlpSink
from klaviyo_audit.sinks.shipping import Sinks
from tests.ports import free_port
from tests.sinks.collector import Collector, Reply, serving

COUNT = 10_000
LONG = os.environ.get("KLAVIYO_AUDIT_CHAOS") == "1"
TROUBLE = 200 if LONG else 25
"""Requests that go wrong before all is well."""


@pytest.mark.timeout(600)
def test_nothing_is_lost_whatever_the_collector_does(trail, capsys):
    with Auditor(journal=trail.folder, service="shop") as auditor:
        for number in range(COUNT):
            auditor.record("shop.opened", resource=f"shop:{number}")
    lines = trail.path.read_bytes().splitlines()
    chance = random.Random(4)
    left = TROUBLE
    happened: Counter[str] = Counter()
    lock = threading.Lock()

    troubles = {
        "429": lambda: Reply(429, headers={"Retry-After": "0"}),
        "500": lambda: Reply(500, body=b"oops", content_type="text/plain"),
        "503": lambda: Reply(503),
        "reset before taking": lambda: Reply(cut=True, take=False),
        "reset after taking": lambda: Reply(cut=True, take=True),
        "hang": lambda: Reply(hang=0.6, take=False),
        "garbage": lambda: Reply(body=b"<html>", content_type="text/html", take=False),
        "garbage after taking": lambda: Reply(body=b"\xff\xff", take=True),
        "413": lambda: Reply(413),
    }

    def behave(request):
        nonlocal left
        with lock:
            name = chance.choice(list(troubles)) if left > 0 else "well"
            left -= 1
            happened[name] += 1
        return troubles[name]() if name != "well" else Reply()

    collector = Collector(behave)
    settings = load(
        dir=trail.folder,
        ship="background",
        ship_batch_entries=500,
        ship_retry_most=0.05,
        ship_batch_age=0.01,
    )
    begun = time.monotonic()
    port = free_port()
    with serving(collector, port):
        sink = OtlpSink(endpoint=collector.endpoint, timeout=0.5)
        shipping = Sinks([sink], settings).ship(trail.folder)
        shipping.flush(1)
    # The collector is down for a while, then on the same port again.
    down = shipping.flush(1.0 if not LONG else 10)
    with serving(collector, port):
        done = shipping.flush(200 if not LONG else 300)
        conditions = [thread.condition for thread in shipping.threads]
        shipping.close(5)
    seconds = time.monotonic() - begun
    collector.taken = [r for r in collector.taken if r.event_name == "klaviyo.audit"]
    bodies = Counter(record.body.string_value.encode() for record in collector.taken)
    uids = collector.uids()
    with capsys.disabled():
        print(
            f"\n{len(lines):,} lines in {seconds:.1f} s; requests: {dict(happened)}; down for a "
            f"while (delivered before: {down}); {sum(bodies.values()) - len(bodies):,} came twice "
            f"or more, all with their own id"
        )
    assert done, conditions
    missing = [line for line in lines if line not in bodies]
    if conditions[0].rejected:  # alone and told "413": a dead letter, not a loss
        dead = b"".join(
            path.read_bytes() for path in trail.folder.rglob("*dead*") if path.is_file()
        )
        missing = [line for line in missing if line not in dead]
    assert missing == []
    assert set(bodies) <= set(lines)
    assert len(set(uids)) == len(bodies), "one id, one entry"
