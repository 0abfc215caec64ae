"""Spans around calls: names, kinds, attributes and their types, exactly; and never a text."""

import asyncio

import pytest
from openapi_client.exceptions import ForbiddenException
from opentelemetry import baggage, context, trace
from opentelemetry.trace import SpanKind, StatusCode
from pydantic import ValidationError

from klaviyo_audit import Auditor, acting_as
from klaviyo_audit.otel.spans import server_of
from tests import planted

LIST = {"data": {"type": "list", "attributes": {"name": "Newsletter"}}}


@pytest.fixture
def urllib3_traced(traced):
    """The instrumentation of urllib3, on."""
    module = pytest.importorskip(
        "opentelemetry.instrumentation.urllib3", reason="missing: the instrumentation of urllib3"
    )
    module.URLLib3Instrumentor().instrument(tracer_provider=traced.provider)
    yield
    module.URLLib3Instrumentor().uninstrument()


def ids(span):
    return f"{span.context.trace_id:032x}", f"{span.context.span_id:016x}"


def test_a_call_is_a_client_span(observed, client, fake, traced, trail):
    observed.audit(client).Lists.get_list("L1", fields_list=["name"])
    span, entry = traced.span(), trail.outcome()
    host, _, port = fake.url.removeprefix("http://").partition(":")
    assert (span.name, span.kind) == ("GET /api/lists/{id}", SpanKind.CLIENT)
    assert dict(span.attributes) == {
        "http.request.method": "GET",
        "url.template": "/api/lists/{id}",
        "url.full": f"{fake.url}/api/lists/L1",
        "server.address": host,
        "server.port": int(port),
        "http.response.status_code": 200,
        "klaviyo.operation": "get_list",
        "klaviyo.resource_type": "lists",
        "klaviyo.revision": entry["call"]["revision"],
        "klaviyo.audit.id": entry["id"],
        "klaviyo.audit.risk": "low",
        "klaviyo.audit.result": "success",
    }
    assert span.status.status_code is StatusCode.UNSET
    assert entry["trace"] == dict(zip(("trace_id", "span_id"), ids(span), strict=True))
    assert span.instrumentation_scope.name == "klaviyo_audit"
    assert span.instrumentation_scope.schema_url == "https://opentelemetry.io/schemas/1.44.0"


def test_intent_and_outcome_name_the_span(observed, client, traced, trail):
    observed.audit(client).Lists.delete_list("L1")
    both = [line["trace"]["span_id"] for line in trail.lines() if line["phase"] != "journal"]
    assert both == [ids(traced.span())[1]] * 2


@pytest.mark.usefixtures("urllib3_traced")
def test_function_call_and_http_are_parent_and_child(observed, client, traced):
    klaviyo = observed.audit(client)

    @observed.audited(action="loyalty.redeem")
    def redeem():
        klaviyo.Lists.get_list("L1")

    redeem()
    http, call, function = traced.spans()
    assert (function.name, function.kind) == ("loyalty.redeem", SpanKind.INTERNAL)
    assert function.parent is None
    assert call.parent.span_id == function.context.span_id
    assert http.parent.span_id == call.context.span_id
    assert http.kind is SpanKind.CLIENT
    assert trace.get_current_span() is trace.INVALID_SPAN


@pytest.mark.usefixtures("urllib3_traced")
def test_http_spans_can_be_suppressed(trail, client, traced):
    with Auditor(journal=trail.folder, http_spans="suppressed") as auditor:
        auditor.observe(tracer_provider=traced.provider)
        auditor.audit(client).Lists.get_list("L1")
    assert traced.span().name == "GET /api/lists/{id}"


def test_requests_that_were_sent_again(observed, client, fake, traced):
    fake.fail(429, retry_after=0, times=2)
    observed.audit(client).Lists.get_list("L1")
    attributes = traced.span().attributes
    assert attributes["http.request.resend_count"] == 2
    assert attributes["http.response.status_code"] == 200


def test_an_error_has_a_type_and_no_text(observed, client, fake, traced):
    fake.fail(403, times=None)
    klaviyo = observed.audit(client)
    with pytest.raises(ForbiddenException):
        klaviyo.Lists.get_list("L1")
    klaviyo.Lists.get_list_without_preload_content("L1")
    with pytest.raises(ValidationError):
        klaviyo.Profiles.get_profile({"email": planted.EMAIL})
    raised, quiet, refused = traced.spans()
    for span in (raised, quiet):
        assert span.attributes["error.type"] == "403"
        assert span.attributes["klaviyo.audit.result"] == "failure"
    assert refused.attributes["error.type"].endswith(".ValidationError")
    assert "http.response.status_code" not in refused.attributes
    assert [event.name for event in quiet.events] == []
    for span in (raised, refused):
        (event,) = span.events
        assert (event.name, set(event.attributes)) == ("exception", {"exception.type"})
    for span in traced.spans():
        assert (span.status.status_code, span.status.description) == (StatusCode.ERROR, None)
        assert planted.found_in(span.to_json()) == []


def test_functions_of_all_kinds(observed, client, traced, trail):
    klaviyo = observed.audit(client)

    @observed.audited
    async def coroutine():
        await asyncio.sleep(0)
        klaviyo.Lists.get_lists()

    @observed.audited
    async def asynchronous():
        klaviyo.Lists.get_lists()
        yield 1

    @observed.audited
    def generator():
        yield 1
        klaviyo.Lists.get_lists()

    async def main():
        await asyncio.gather(coroutine(), coroutine())
        async for _ in asynchronous():
            assert not trace.get_current_span().get_span_context().is_valid

    asyncio.run(main())
    for _ in generator():
        # The consumer's own context is never changed.
        assert trace.get_current_span() is trace.INVALID_SPAN
    by_id = {span.context.span_id: span for span in traced.spans()}
    calls = [span for span in by_id.values() if span.kind is SpanKind.CLIENT]
    assert len(calls) == 4
    parents = [by_id[call.parent.span_id].name.rpartition(".")[2] for call in calls]
    assert sorted(parents) == ["asynchronous", "coroutine", "coroutine", "generator"]
    entries = {line["trace"]["span_id"]: line for line in trail.outcomes()}
    for span in by_id.values():
        entry = entries[f"{span.context.span_id:016x}"]
        assert entry["id"] == span.attributes["klaviyo.audit.id"]
        if span.parent is not None:
            assert entry["parent_id"] == by_id[span.parent.span_id].attributes["klaviyo.audit.id"]


def test_a_generator_that_is_abandoned_ends_its_span(observed, traced):
    @observed.audited
    def generator():
        yield 1
        yield 2

    one = generator()
    next(one)
    one.close()
    assert traced.span().status.status_code is StatusCode.UNSET
    with pytest.raises(ZeroDivisionError):
        observed.audited(lambda: 1 / 0)()
    assert traced.spans()[1].attributes["error.type"] == "ZeroDivisionError"


def test_who_acts_is_only_shown_when_allowed(trail, client, traced):
    for shown, key in (
        ("pseudonym", None),
        ("none", "k" * 20),
        ("plain", None),
        ("pseudonym", "k" * 20),
    ):
        settings = {"span_user_id": shown, "pseudonym_key": key, "user_id": "robot"}
        with Auditor(journal=trail.folder, **settings) as auditor:
            auditor.observe(tracer_provider=traced.provider)
            with acting_as("dana"):
                auditor.audit(client).Lists.get_lists()
            auditor.audit(client).Lists.get_lists()
    *users, dana, robot = [span.attributes.get("user.id") for span in traced.spans()]
    assert users == [None, None, None, None, "dana", "robot"]
    assert dana.startswith("user:k1:")
    assert robot.startswith("user:k1:")
    assert dana != robot


def test_baggage_names_the_actor_where_that_is_set(trail, client):
    token = context.attach(baggage.set_baggage("enduser.id", "erin"))
    try:
        for keys in (None, "user.id, enduser.id"):
            with Auditor(journal=trail.folder, actor_baggage=keys, user_id="robot") as auditor:
                auditor.audit(client).Lists.get_lists()
                with acting_as("dana"):
                    auditor.audit(client).Lists.get_lists()
    finally:
        context.detach(token)
    outcomes = trail.outcomes()
    assert [line["user_id"] for line in outcomes] == ["robot", "dana", "erin", "dana"]
    assert outcomes[2]["metadata"] == {"actor_source": "enduser.id"}


def test_hooks_are_told_and_can_break_nothing(auditor, client, traced, trail):
    seen = []

    def request_hook(span, facts):
        seen.append(("request", facts.action, facts.result))
        span.set_attribute("shop.order", 4711)
        raise ValueError

    def response_hook(span, facts):
        seen.append(("response", facts.id, facts.result, facts.status, facts.requests))
        raise ValueError

    auditor.observe(
        tracer_provider=traced.provider, request_hook=request_hook, response_hook=response_hook
    )
    auditor.audit(client).Lists.get_lists()
    assert seen == [
        ("request", "klaviyo.lists.get_lists", None),
        ("response", trail.outcome()["id"], "success", 200, 1),
    ]
    assert traced.span().attributes["shop.order"] == 4711


class Broken:
    """A tracer provider whose tracer raises."""

    def get_tracer(self, *_args, **_kwargs):
        return self

    def start_span(self, *_args, **_kwargs):
        raise RuntimeError(planted.API_KEY)


def test_a_broken_provider_breaks_no_call(auditor, client, trail, caplog):
    auditor.observe(tracer_provider=Broken())
    klaviyo = auditor.audit(client)
    for _ in range(3):
        assert klaviyo.Lists.get_lists() is not None
    assert len(trail.outcomes()) == 3
    (said,) = [record.message for record in caplog.records if "spans" in record.message]
    assert "RuntimeError" in said
    assert planted.found_in(said) == []


@pytest.mark.parametrize(
    ("settings", "environ"),
    [
        ({"telemetry": "off"}, {}),
        ({}, {"OTEL_PYTHON_DISABLED_INSTRUMENTATIONS": "redis, klaviyo"}),
    ],
)
def test_switched_off_the_trail_goes_on(trail, client, traced, monkeypatch, settings, environ):
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    with Auditor(journal=trail.folder, **settings) as auditor:
        auditor.observe(tracer_provider=traced.provider)
        auditor.audit(client).Lists.get_lists()
    assert traced.spans() == ()
    assert trail.outcome()["result"] == "success"


def test_spans_that_are_sampled_out_keep_parents_together(auditor, client, trail):
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.sampling import ALWAYS_OFF

    auditor.observe(tracer_provider=TracerProvider(sampler=ALWAYS_OFF))
    klaviyo = auditor.audit(client)
    auditor.audited(klaviyo.Lists.get_lists)()
    call, function = trail.outcomes()
    assert call["trace"]["trace_id"] == function["trace"]["trace_id"]


@pytest.mark.parametrize(
    ("url", "server"),
    [
        ("https://a.klaviyo.com/api/lists?filter=x", ("a.klaviyo.com", 443)),
        ("http://127.0.0.1:8080/api", ("127.0.0.1", 8080)),
        ("http://[::1]/x", ("::1", 80)),
        ("https://host:port/x", None),
        ("", None),
        ("/api", None),
    ],
)
def test_the_server_of_a_url(url, server):
    assert server_of(url) == server
