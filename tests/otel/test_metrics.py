"""Metrics: names, units and attributes, exactly."""

import pytest
from openapi_client.exceptions import ForbiddenException

from klaviyo_audit import Auditor
from klaviyo_audit.sinks.base import Retry
from tests.waiting import wait_for


def values(points):
    return {
        tuple(sorted(point.attributes.items())): getattr(point, "value", None) or point.count
        for point in points
    }


def test_calls_are_measured_as_http_requests(observed, client, fake, measured):
    klaviyo = observed.audit(client)
    klaviyo.Lists.get_list("L1")
    klaviyo.Lists.get_list("L2")
    fake.fail(403, times=1)
    with pytest.raises(ForbiddenException):
        klaviyo.Lists.delete_list("L1")
    host, _, port = fake.url.removeprefix("http://").partition(":")
    unit, points = measured.points()["http.client.request.duration"]
    assert unit == "s"
    server = (("server.address", host), ("server.port", int(port)))
    assert {tuple(sorted(point.attributes.items())): point.count for point in points} == {
        (
            ("http.request.method", "GET"),
            ("http.response.status_code", 200),
            *server,
            ("url.template", "/api/lists/{id}"),
        ): 2,
        (
            ("error.type", "403"),
            ("http.request.method", "DELETE"),
            ("http.response.status_code", 403),
            *server,
            ("url.template", "/api/lists/{id}"),
        ): 1,
    }
    assert all(0 < point.sum < 60 for point in points)
    assert points[0].explicit_bounds[:3] == (0.005, 0.01, 0.025)


def test_entries_appends_and_limits(observed, client, measured):
    klaviyo = observed.audit(client)
    klaviyo.Lists.get_list("L1")
    klaviyo.Lists.delete_list("L1")
    found = measured.points()
    phase, result = "klaviyo.audit.phase", "klaviyo.audit.result"
    unit, points = found["klaviyo.audit.entries"]
    assert unit == "{entry}"
    assert values(points) == {
        ((phase, "outcome"), (result, "success")): 2,
        ((phase, "intent"),): 1,
    }
    unit, (append,) = found["klaviyo.audit.journal.append.duration"]
    assert (unit, append.count) == ("s", 3)
    unit, (remaining, *_) = found["klaviyo.rate_limit.remaining"]
    assert unit == "{request}"
    assert remaining.value > 0


def test_gaps(auditor, client, measured, monkeypatch):
    auditor.observe(meter_provider=measured.provider)
    klaviyo = auditor.audit(client)
    monkeypatch.setattr("klaviyo_audit.journal.writer.write", _refuse)
    klaviyo.Lists.get_list("L1")
    (point,) = measured.points()["klaviyo.audit.gaps"][1]
    assert point.value == auditor.lost == 1
    assert "klaviyo.audit.entries" not in measured.points()


def _refuse(*_):
    raise OSError(28, "No space left on device")


class Unwell:
    name = "unwell"

    def deliver(self, entries):
        raise Retry(after=60)

    def close(self):
        pass


def test_sinks(trail, client, measured):
    with Auditor(journal=trail.folder, sinks=[Unwell()], ship_exit_wait=0.1) as auditor:
        auditor.observe(meter_provider=measured.provider)
        auditor.audit(client).Lists.get_list("L1")
        wait_for(lambda: auditor.sink_conditions["unwell"].failures)
        found = measured.points()
    (failures,) = found["klaviyo.audit.sink.failures"][1]
    assert dict(failures.attributes) == {"klaviyo.audit.sink": "unwell"}
    assert failures.value >= 1
    (lag,) = found["klaviyo.audit.sink.lag"][1]
    assert found["klaviyo.audit.sink.lag"][0] == "s"
    assert lag.value >= 0


class Broken:
    """A meter whose instruments raise when they are used."""

    def get_meter(self, *_args, **_kwargs):
        return self

    def __getattr__(self, name):
        if name.startswith("create_"):
            return lambda *_args, **_kwargs: self
        raise RuntimeError(name)


def test_a_broken_meter_breaks_no_call(auditor, client, trail):
    auditor.observe(meter_provider=Broken())
    assert auditor.audit(client).Lists.delete_list("L1") is None
    assert len(trail.outcomes()) == 1
