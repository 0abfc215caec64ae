"""A FakeKlaviyo keeps the rules of Klaviyo's track API."""

import time
from types import SimpleNamespace

import pytest
import urllib3

from klaviyo_audit.testing import FakeKlaviyo, fake_klaviyo

BULK = "/api/event-bulk-create-jobs"
METRIC = {"data": {"type": "metric", "attributes": {"name": "M"}}}
PROFILE = {"data": {"type": "profile", "attributes": {"external_id": "p"}}}


def event(unique="1", properties=None, **more):
    attributes = {"properties": properties or {}, "metric": METRIC, "unique_id": unique, **more}
    return {"type": "event", "attributes": attributes}


def job(*events, profile=PROFILE):
    item = {"profile": profile, "events": {"data": list(events)}}
    items = [{"type": "event-bulk-create", "attributes": item}]
    attributes = {"events-bulk-create": {"data": items}}
    return {"data": {"type": "event-bulk-create-job", "attributes": attributes}}


def single(one):
    return {"data": {"type": "event", "attributes": {**one["attributes"], "profile": PROFILE}}}


@pytest.fixture
def post():
    with urllib3.PoolManager(retries=False) as pool:
        yield lambda fake, body, path=BULK: pool.request("POST", fake.url + path, json=body)


@pytest.fixture
def strict():
    with FakeKlaviyo(strict=True) as server:
        yield server


def read(fake, **query):
    """Ids of the events, read without the SDK: older ones know fewer parameters."""
    found = urllib3.request("GET", f"{fake.url}/api/events", fields={"page[size]": 1000, **query})
    return [one["attributes"]["event_properties"]["$event_id"] for one in found.json()["data"]]


def kept(fake):
    return read(fake)


def test_all_events_of_a_job_are_kept(strict, post):
    assert post(strict, job(event("1"), event("2"))).status == 202
    assert kept(strict) == ["1", "2"]


@pytest.mark.parametrize("status", [400, 409, 202])
def test_a_repeat_fails_the_whole_job(post, status):
    with FakeKlaviyo(bulk_repeat_status=status) as fake:
        post(fake, single(event("1")), "/api/events")
        assert post(fake, job(event("1"), event("2"))).status == status
        assert post(fake, job(event("3"), event("3"))).status == status
        assert kept(fake) == ["1"]
        assert post(fake, job(event("2"))).status == 202
        assert kept(fake) == ["1", "2"]


def test_the_same_id_of_another_profile_or_metric_is_no_repeat(strict, post):
    other = {"data": {"type": "profile", "attributes": {"external_id": "q"}}}
    metric = {"data": {"type": "metric", "attributes": {"name": "N"}}}
    assert post(strict, job(event("1"), event("1", metric=metric))).status == 202
    assert post(strict, job(event("1"), profile=other)).status == 202
    assert kept(strict) == ["1", "1", "1"]


def nested(levels):
    value = "x"
    for _ in range(levels):
        value = {"in": value}
    return value


@pytest.mark.parametrize(
    ("properties", "good"),
    [
        ({f"p{n}": n for n in range(400)}, True),
        ({f"p{n}": n for n in range(401)}, False),
        ({"a": "x" * 100_000}, True),
        ({"a": "x" * 100_001}, False),
        ({"a": list(range(4_000))}, True),
        ({"a": list(range(4_001))}, False),
        ({"a": nested(9)}, True),
        ({"a": nested(10)}, False),
    ],
    ids=range(8),
)
def test_limits_of_an_event(strict, post, properties, good):
    wanted = 202 if good else 400
    assert post(strict, job(event("1", properties), event("2"))).status == wanted
    assert kept(strict) == (["1", "2"] if good else [])
    assert post(strict, single(event("3", properties)), "/api/events").status == wanted


@pytest.mark.parametrize(
    ("when", "status"),
    [("1989-12-31T00:00:00Z", 400), ("1991-01-01T00:00:00Z", 202), ("2999-01-01T00:00:00Z", 400)],
)
def test_times(strict, post, when, status):
    assert post(strict, job(event("1", time=when))).status == status


def test_limits_of_a_job(strict, post):
    many = [event(str(number)) for number in range(1_001)]
    assert post(strict, job(*many)).status == 400
    assert post(strict, job()).status == 400
    assert post(strict, job(*many[:-1])).status == 202
    large = [event(f"l{number}", {"a": "x" * 99_000}) for number in range(51)]
    assert post(strict, job(*large)).status == 413
    assert post(strict, job(*large[:-1])).status == 202


def test_pointers_say_what_is_wrong(strict, post):
    wrong = post(strict, job(event("1"), profile={"data": {"type": "profile", "attributes": {}}}))
    (error,) = wrong.json()["errors"]
    pointer = "/data/attributes/events-bulk-create/data/0/attributes"
    assert error["source"]["pointer"] == f"{pointer}/profile"
    (error,) = post(strict, job(event("1", metric={}))).json()["errors"]
    assert error["source"]["pointer"] == f"{pointer}/events/data/0/attributes/metric"


def test_a_tolerant_fake_takes_a_wrong_job_and_keeps_nothing(post):
    with FakeKlaviyo() as fake:
        assert post(fake, job(event("1", time="1989-12-31T00:00:00Z"))).status == 202
        assert kept(fake) == []


def test_rate_limits_are_kept_where_asked_for(post, monkeypatch):
    # The clock stands: on a slow machine the requests would not be too many for a second.
    monkeypatch.setattr(fake_klaviyo, "time", SimpleNamespace(time=lambda: 1_790_000_000.5))
    with FakeKlaviyo(rate_limits=True) as fake:
        answers = [post(fake, job(event(str(number)))) for number in range(30)]
        refused = [a for a in answers if a.status == 429]
        assert refused
        assert {a.headers["Retry-After"] for a in refused} == {"1"}
        assert all("RateLimit-Remaining" not in a.headers for a in refused)
        taken = [a for a in answers if a.status == 202]
        assert len(kept(fake)) == len(taken)
        assert len(taken) == 10
        assert {a.headers["RateLimit-Limit"] for a in taken} == {"150"}
    with FakeKlaviyo() as fake:
        assert {post(fake, job(event(str(number)))).status for number in range(30)} == {202}


def test_an_event_can_be_read_after_the_lag(post):
    with FakeKlaviyo(lag=1000) as fake:
        post(fake, job(event("1")))
        assert kept(fake) == []
        fake._service._lag = 0.5
        time.sleep(0.5)
        assert kept(fake) == ["1"]


def test_events_are_found_and_sorted_by_time(strict, post):
    times = {"b": "2026-01-02T00:00:00Z", "a": "2026-01-01T00:00:00Z", "c": "2026-01-03T00:00:00Z"}
    post(strict, job(*(event(name, time=at) for name, at in times.items())))
    assert read(strict, sort="datetime") == ["a", "b", "c"]
    assert read(strict, sort="-timestamp") == ["c", "b", "a"]
    since = "greater-or-equal(datetime,2026-01-02T00:00:00Z)"
    assert read(strict, filter=since) == ["b", "c"]
    assert read(strict, filter=f"{since},less-than(datetime,2026-01-03T00:00:00Z)") == ["b"]
    assert read(strict, filter="greater-than(timestamp,1767225600)") == ["b", "c"]
