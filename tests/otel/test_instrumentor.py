"""KlaviyoInstrumentor, by hand and by OpenTelemetry's launcher."""

import contextlib
import os
import random
import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path

import pytest
import wrapt
from opentelemetry.instrumentation.instrumentor import BaseInstrumentor
from opentelemetry.sdk._logs import LoggerProvider
from opentelemetry.sdk._logs.export import InMemoryLogRecordExporter, SimpleLogRecordProcessor

from klaviyo_audit import acting_as
from klaviyo_audit.otel import KlaviyoInstrumentor
from tests import planted


@pytest.fixture
def instrumentor():
    one = KlaviyoInstrumentor()
    yield one
    if one.is_instrumented_by_opentelemetry:
        one.uninstrument()


def test_it_is_found_by_its_entry_point():
    (found,) = [
        point
        for point in entry_points(group="opentelemetry_instrumentor")
        if point.name == "klaviyo"
    ]
    assert found.load() is KlaviyoInstrumentor
    assert issubclass(KlaviyoInstrumentor, BaseInstrumentor)
    assert KlaviyoInstrumentor().instrumentation_dependencies() == ("klaviyo-api >= 17",)


def test_every_signal(instrumentor, auditor, client, trail, traced, measured):
    exporter = InMemoryLogRecordExporter()
    logs = LoggerProvider()
    logs.add_log_record_processor(SimpleLogRecordProcessor(exporter))
    told = []
    instrumentor.instrument(
        tracer_provider=traced.provider,
        meter_provider=measured.provider,
        logger_provider=logs,
        auditor=auditor,
        request_hook=lambda span, facts: told.append(facts.action),
        response_hook=lambda span, facts: told.append(facts.result),
    )
    with acting_as("erin"):
        client.Lists.delete_list("L1")
    instrumentor.uninstrument()
    client.Lists.delete_list("L2")
    entry = trail.outcome()
    span = traced.span()
    assert span.attributes["klaviyo.audit.id"] == entry["id"]
    assert told == ["klaviyo.lists.delete_list", "success"]
    assert "http.client.request.duration" in measured.points()
    records = [one.log_record for one in exporter.get_finished_logs()]
    called = [one for one in records if one.attributes["klaviyo.audit.action"] == entry["action"]]
    assert [one.attributes["klaviyo.audit.phase"] for one in called] == ["intent", "outcome"]
    assert {one.event_name for one in records} == {"klaviyo.audit"}
    assert {one.span_id for one in called} == {span.context.span_id}
    assert {one.trace_id for one in called} == {span.context.trace_id}
    assert called[1].body.encode() == next(
        line for line in trail.path.read_bytes().splitlines() if b'"phase":"outcome"' in line
    )


def attributes_of(*owners):
    # By identity: a wrapper is equal to what it wraps.
    return [{name: id(value) for name, value in vars(owner).items()} for owner in owners]


def test_undo_leaves_everything_as_it_was(instrumentor, auditor):
    from klaviyo_api.custom_retry import RetryWithExponentialBackoff
    from openapi_client.api_client import ApiClient

    owners = (ApiClient, RetryWithExponentialBackoff)
    before = attributes_of(*owners)
    for _ in range(100):
        instrumentor.instrument(auditor=auditor)
        assert attributes_of(*owners) != before
        instrumentor.uninstrument()
        assert attributes_of(*owners) == before


def test_undo_below_another_wrapper(instrumentor, auditor, client, fake, trail):
    from openapi_client.api_client import ApiClient

    seen = []

    def other(wrapped, instance, args, kwargs):
        seen.append(args)
        return wrapped(*args, **kwargs)

    original = ApiClient.__dict__["call_api"]
    for number in range(100):
        instrumentor.instrument(auditor=auditor)
        wrapt.wrap_function_wrapper("openapi_client.api_client", "ApiClient.call_api", other)
        instrumentor.uninstrument()
        outer = ApiClient.__dict__["call_api"]
        assert outer.__wrapped__ is original, number
        ApiClient.call_api = original
    client.Lists.get_lists()
    assert trail.outcomes() == []


APP = """
import os
from klaviyo_api import KlaviyoAPI
KlaviyoAPI(os.environ["KEY"], test_host=os.environ["FAKE"]).Lists.get_list("L1")
"""


@pytest.mark.parametrize("urllib3", ["disabled", "nested"])
def test_the_launcher_of_opentelemetry(fake, tmp_path, trail, urllib3):
    (tmp_path / "app.py").write_text(APP)
    launcher = Path(sys.executable).with_name("opentelemetry-instrument")
    disabled = "urllib3,requests,grpc,grpc_client,system_metrics"
    environ = {
        **os.environ,
        "KEY": planted.API_KEY,
        "FAKE": fake.url,
        "OTEL_TRACES_EXPORTER": "console",
        "OTEL_METRICS_EXPORTER": "none",
        "OTEL_LOGS_EXPORTER": "none",
        "OTEL_PYTHON_DISABLED_INSTRUMENTATIONS": disabled if urllib3 == "disabled" else "requests",
    }
    done = subprocess.run(
        [launcher, sys.executable, "app.py"],
        env=environ,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=250,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count('"name": "GET /api/lists/{id}"') == 1
    assert done.stdout.count('"name": "GET"') == (1 if urllib3 == "nested" else 0)
    assert '"klaviyo.audit.result": "success"' in done.stdout
    trail.path = tmp_path / "klaviyo-audit" / "audit.jsonl"
    assert trail.outcome()["trace"]["span_id"] in done.stdout


@pytest.mark.parametrize(
    "environ", [{"OTEL_SDK_DISABLED": "true"}, {"OTEL_PYTHON_DISABLED_INSTRUMENTATIONS": "klaviyo"}]
)
def test_the_trail_goes_on_where_opentelemetry_is_off(fake, tmp_path, trail, environ):
    (tmp_path / "app.py").write_text(f"import klaviyo_audit; klaviyo_audit.instrument(){APP}")
    launcher = Path(sys.executable).with_name("opentelemetry-instrument")
    done = subprocess.run(
        [
            launcher,
            "--traces_exporter=console",
            "--metrics_exporter=none",
            sys.executable,
            "app.py",
        ],
        env={**os.environ, "KEY": planted.API_KEY, "FAKE": fake.url, **environ},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=250,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "GET /api/lists/{id}" not in done.stdout
    trail.path = tmp_path / "klaviyo-audit" / "audit.jsonl"
    assert trail.outcome()["result"] == "success"


CALLS = int(os.environ.get("OTEL_LEAK_CALLS", "400"))


def test_nothing_planted_leaves_by_spans_logs_or_metrics(
    instrumentor, auditor, client, fake, traced, measured, capsys
):
    exporter = InMemoryLogRecordExporter()
    logs = LoggerProvider()
    logs.add_log_record_processor(SimpleLogRecordProcessor(exporter))
    instrumentor.instrument(
        tracer_provider=traced.provider,
        meter_provider=measured.provider,
        logger_provider=logs,
        auditor=auditor,
    )
    chance = random.Random(7)
    client.api_client.default_headers["X-Planted"] = planted.OAUTH_TOKEN
    body = {
        "data": {
            "type": "profile",
            "attributes": {"email": planted.EMAIL, "phone_number": planted.PHONE},
        }
    }
    calls = [
        lambda: client.Profiles.get_profiles(filter=f'equals(email,"{planted.EMAIL}")'),
        lambda: client.Profiles.create_profile(body),
        lambda: client.Profiles.get_profile(planted.EMAIL),
        lambda: client.Profiles.get_profile({"email": planted.EMAIL}),
        lambda: client.Profiles.get_profile("P1", _request_auth={"value": planted.OTHER_KEY}),
        lambda: client.Lists.get_list(planted.PHONE),
        lambda: client.Lists.get_list_without_preload_content(planted.SITE_KEY),
    ]
    for _ in range(CALLS):
        if chance.random() < 0.3:
            fake.fail(chance.choice([400, 403, 404, 500]), times=1)
        actor = acting_as("erin", reason=f"asked by {planted.EMAIL}", note=planted.PHONE)
        with actor, contextlib.suppress(Exception):
            chance.choice(calls)()
    instrumentor.uninstrument()
    spans = [span.to_json() for span in traced.spans()]
    records = [record.to_json() for record in exporter.get_finished_logs()]
    assert len(spans) >= CALLS
    assert len(records) >= CALLS
    for text in (*spans, *records, measured.text()):
        assert planted.found_in(text) == []
    with capsys.disabled():
        print(f"\nleak: {CALLS:,} calls, {len(spans):,} spans, {len(records):,} log records: none")
