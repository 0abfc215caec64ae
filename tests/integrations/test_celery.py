"""A real Celery worker: what a task does is done by whoever has sent it."""

import os
import re
import signal
import subprocess
import sys
import time

import pytest

from klaviyo_audit import acting_as
from klaviyo_audit.integrations import celery as integration
from klaviyo_audit.integrations.actors import ActorRules, Request, RequestActor, RequestScope
from tests import planted
from tests.integrations.test_actor_servers import APPS
from tests.waiting import PATIENCE

TASKS = 6


@pytest.mark.parametrize("pool", ["prefork", "threads"])
def test_the_actor_arrives_in_the_worker(fake, tmp_path, trail, broker_url, pool):
    trail.path = tmp_path / "klaviyo-audit" / "audit.jsonl"
    environ = {**os.environ, "FAKE": fake.url, "KEY": planted.API_KEY, "PYTHONPATH": str(APPS)}
    environ |= {"KLAVIYO_AUDIT_USER_ID": "worker", "BROKER": broker_url}
    sent = subprocess.run(
        [sys.executable, APPS / "celery_app.py", str(TASKS)],
        env=environ,
        cwd=tmp_path,
        check=False,
    )
    assert sent.returncode == 0
    program = ["celery", "-A", "celery_app", "worker", "-P", pool, "-c", "2", "-l", "INFO"]
    program += ["--without-mingle", "--without-gossip", "--without-heartbeat"]
    log = tmp_path / "log"
    with log.open("wb") as sink:
        worker = subprocess.Popen(
            [sys.executable, "-m", *program], stdout=sink, stderr=sink, env=environ, cwd=tmp_path
        )
    wanted = 3 * TASKS + 1
    deadline = time.monotonic() + PATIENCE
    while len(trail.outcomes()) < wanted and time.monotonic() < deadline:
        assert worker.poll() is None, log.read_text()
        time.sleep(0.1)
    worker.send_signal(signal.SIGTERM)
    assert worker.wait(PATIENCE) == 0, log.read_text()
    outcomes = {line["resource"].removeprefix("/api/lists/L"): line for line in trail.outcomes()}
    assert len(outcomes) == wanted
    for number in range(TASKS):
        for name in (f"look{number}x0", f"look{number}x1", f"later{number}"):
            line = outcomes[name]
            assert line["user_id"] == f"u{number}"
            assert line["actor"] == {"reason": f"order {number}"}
            assert line["metadata"]["ticket"] == f"T{number}"
    assert outcomes["laternobody"]["user_id"] == "worker"
    assert re.search("Traceback", log.read_text()) is None, log.read_text()


def task_with(headers):
    request = type("Request", (), {"headers": headers, "is_eager": False})
    return type("Task", (), {"request": request})


def test_what_cannot_be_sent_as_json_is_sent_as_text():
    headers = {}
    with acting_as("dana", started=object(), count=3):
        integration._before_publish(headers=headers)
    facts = headers[integration.HEADER]
    assert facts["metadata"]["count"] == 3
    assert isinstance(facts["metadata"]["started"], str)
    headers = {}
    integration._before_publish(headers=headers)
    assert headers == {}


def test_who_is_nobody_for_the_sender_is_nobody_in_the_worker():
    from klaviyo_audit.context import ACTOR

    headers = {}
    asked = Request(user=lambda: None, header=lambda _: [])
    with RequestScope(RequestActor(ActorRules(), asked)):
        integration._before_publish(headers=headers)
    task = task_with(headers)
    integration._before_task(task=task)
    assert (ACTOR.get().user_id, ACTOR.get().named) == ("anonymous", False)
    integration._after_task(task=task)


@pytest.mark.parametrize(
    "carried",
    [None, {}, [], "dana", {"user_id": 7}, {"user_id": ""}, {"user_id": "x", "metadata": "y"}],
)
def test_garbage_from_the_broker_breaks_no_task(carried):
    from klaviyo_audit.context import ACTOR

    task = task_with({integration.HEADER: carried})
    with acting_as("worker"):
        integration._before_task(task=task)
        assert ACTOR.get().user_id in ("worker", "x")
        integration._after_task(task=task)
        assert ACTOR.get().user_id == "worker"


def test_the_trace_travels_too():
    from opentelemetry import context, trace

    span = trace.NonRecordingSpan(
        trace.SpanContext(0xABC, 0xDEF, is_remote=False, trace_flags=trace.TraceFlags(1))
    )
    headers = {}
    token = context.attach(trace.set_span_in_context(span))
    try:
        integration._before_publish(headers=headers)
    finally:
        context.detach(token)
    task = task_with(headers)
    integration._before_task(task=task)
    arrived = trace.get_current_span().get_span_context()
    assert (arrived.trace_id, arrived.span_id, arrived.is_remote) == (0xABC, 0xDEF, True)
    integration._after_task(task=task)
    assert trace.get_current_span() is trace.INVALID_SPAN
