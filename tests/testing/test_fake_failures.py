"""What a FakeKlaviyo is told to do wrong, and what the SDK makes of it."""

import contextlib
import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import urllib3
from openapi_client.exceptions import ApiException, NotFoundException, ServiceException
from pydantic import ValidationError

from klaviyo_audit.testing import FakeKlaviyo
from tests.ports import free_port
from tests.waiting import wait_for

LIST = {"data": {"type": "list", "attributes": {"name": "Newsletter"}}}


@pytest.fixture
def fake():
    with FakeKlaviyo() as server:
        yield server


@pytest.fixture
def client(fake):
    # The SDK waits half a second and more between its attempts otherwise.
    return fake.client(max_delay=0.05)


def statuses(fake):
    return [request.status for request in fake.requests]


def names(fake):
    return [each.attributes.name for each in fake.client().Lists.get_lists().data]


def test_get_429_with_retry_after_is_repeated_below_the_sdk(fake, client):
    fake.fail(retry_after=0)
    answer = client.Profiles.get_profile_without_preload_content("01H")
    assert answer.status == 200
    answer.read()
    assert statuses(fake) == [429, 200]


def test_get_429_for_ever(fake, client):
    fake.fail(retry_after=0, times=None)
    with pytest.raises(ApiException) as raised:
        client.Profiles.get_profile("01H")
    assert raised.value.status == 429
    assert raised.value.headers["Retry-After"] == "0"
    assert not [name for name in raised.value.headers if name.startswith("RateLimit")]
    assert fake.count == 12


def test_get_429_without_retry_after(fake, client):
    fake.fail()
    client.Profiles.get_profile("01H")
    assert statuses(fake) == [429, 200]


def test_delete_503_is_sent_twice(fake, client):
    fake.fail(503, retry_after=0)
    client.Lists.delete_list("L")
    assert [(each.method, each.status) for each in fake.requests] == [
        ("DELETE", 503),
        ("DELETE", 204),
    ]


def test_post_429_is_not_carried_out_the_first_time(fake, client):
    fake.fail(retry_after=0)
    client.Lists.create_list(LIST)
    assert statuses(fake) == [429, 201]
    assert names(fake) == ["Newsletter"]


def test_post_502_is_sent_once(fake, client):
    fake.fail(502)
    with pytest.raises(ServiceException) as raised:
        client.Lists.create_list(LIST)
    (error,) = json.loads(raised.value.body)["errors"]
    assert error["id"] == raised.value.headers["x-klaviyo-req-id"]
    assert statuses(fake) == [502]
    assert names(fake) == []


def test_403_without_preload_content_is_not_raised(fake, client):
    fake.fail(403)
    answer = client.Profiles.get_profile_without_preload_content("01H")
    assert answer.status == 403
    assert json.loads(answer.read())["errors"][0]["code"] == "permission_denied"
    assert "RateLimit-Limit" in answer.headers


def test_retry_after_as_a_date_on_a_post(fake, client):
    fake.fail(retry_after="Fri, 31 Dec 2027 23:59:59 GMT")
    with pytest.raises(ValueError, match="invalid literal"):
        client.Lists.create_list(LIST)


def test_201_that_does_not_fit_the_model_was_carried_out(fake, client):
    fake.fail(201, body=b'{"data": 5}')
    with pytest.raises(ValidationError):
        client.Lists.create_list(LIST)
    assert statuses(fake) == [201]
    assert names(fake) == ["Newsletter"]


def test_garbage(fake, client):
    fake.fail(None, body=b"\x00\xff<html>")
    with pytest.raises(Exception, match=r"decode|validation"):
        client.Profiles.get_profile("01H")
    assert statuses(fake) == [200]


def test_headers(fake, client):
    fake.fail(418, headers={"X-Reason": "tea"})
    with pytest.raises(ApiException) as raised:
        client.Profiles.get_profile("01H")
    assert raised.value.status == 418
    assert raised.value.headers["X-Reason"] == "tea"


@pytest.mark.parametrize(("status", "done"), [(429, []), (None, ["Newsletter"])])
def test_reset_before_or_after_the_work(fake, client, status, done):
    fake.fail(status, reset=True)
    with pytest.raises(urllib3.exceptions.ProtocolError, match="reset"):
        client.Lists.create_list(LIST)
    assert statuses(fake) == [None]
    assert names(fake) == done


def test_reset_get_is_repeated_below_the_sdk(fake, client):
    fake.fail(reset=True)
    client.Profiles.get_profile("01H")
    assert statuses(fake) == [None, 200]


def test_truncated_body(fake, client):
    fake.fail(None, truncate=True)
    with pytest.raises(urllib3.exceptions.ProtocolError, match="IncompleteRead"):
        client.Lists.create_list(LIST)
    assert names(fake) == ["Newsletter"]


def test_truncated_empty_body(fake, client):
    fake.fail(200, truncate=True)
    with pytest.raises(urllib3.exceptions.ProtocolError, match="IncompleteRead"):
        client.Lists.delete_list("L")


def test_delay_is_a_slow_success(fake, client):
    fake.fail(None, delay=0.05)
    assert client.Profiles.get_profile("01H").data.id == "01H"


def test_delay_beyond_the_clients_patience(fake, client):
    fake.fail(None, delay=3600.0)
    with pytest.raises(urllib3.exceptions.ReadTimeoutError):
        client.Lists.create_list(LIST, _request_timeout=(60, 0.2))
    wait_for(lambda: fake.requests)
    assert statuses(fake) == [201], "the request is seen before its answer is sent"
    assert names(fake) == ["Newsletter"]


@pytest.mark.parametrize(
    ("told", "meant"),
    [
        ({"path": "/api/profiles/{id}"}, ["/api/profiles/1", "/api/profiles/2"]),
        ({"path": "/api/profiles/2/"}, ["/api/profiles/2"]),
        ({"path": "/api/*/1"}, ["/api/profiles/1", "/api/lists/1"]),
        ({"path": "/api/profiles*", "method": "get"}, ["/api/profiles/1", "/api/profiles/2"]),
        ({"method": "POST"}, ["/api/lists"]),
        ({"path": "/nowhere"}, []),
    ],
)
def test_only_some_requests_fail(fake, client, told, meant):
    fake.fail(400, times=None, **told)
    for call in (
        lambda: client.Profiles.get_profile("1"),
        lambda: client.Profiles.get_profile("2"),
        lambda: client.Lists.get_list("1"),
        lambda: client.Lists.create_list(LIST),
    ):
        with contextlib.suppress(ApiException):
            call()
    assert [each.path for each in fake.requests if each.status == 400] == meant


def test_failures_happen_in_the_order_they_were_told(fake, client):
    fake.fail(404, times=2)
    fake.fail(403, path="/api/lists/*")
    fake.fail(400)
    expected = [404, 404, 400, 403, 200]
    paths = ["Profiles", "Profiles", "Profiles", "Lists", "Profiles"]
    for group in paths:
        api = getattr(client, group)
        with contextlib.suppress(ApiException):
            api.get_list("1") if group == "Lists" else api.get_profile("1")
    assert statuses(fake) == expected


def test_heal(fake, client):
    fake.fail(404, times=None)
    with pytest.raises(NotFoundException):
        client.Profiles.get_profile("01H")
    fake.heal()
    client.Profiles.get_profile("01H")


def test_times_counts_across_threads(fake):
    fake.fail(400, times=20)

    def call(_):
        with urllib3.PoolManager() as pool:
            return pool.request("GET", fake.url + "/api/accounts").status

    with ThreadPoolExecutor(8) as pool:
        seen = list(pool.map(call, range(40)))
    assert sorted(seen) == [200] * 20 + [400] * 20


@pytest.mark.parametrize(
    ("told", "named"),
    [
        ({"status": 42}, "status is 42"),
        ({"status": 101}, "status is 101"),
        ({"times": 0}, "times is 0"),
        ({"delay": -1.0}, "delay is -1.0"),
    ],
)
def test_nonsense_is_refused(fake, told, named):
    with pytest.raises(ValueError, match=named):
        fake.fail(**told)


def test_refused_connection_after_the_end():
    fake = FakeKlaviyo(port=free_port()).start()
    client = fake.client()
    fake.close()
    with pytest.raises(urllib3.exceptions.MaxRetryError, match="refused"):
        client.Lists.create_list(LIST)


def test_close_does_not_wait_for_a_delay(fake, client):
    fake.fail(None, delay=3600.0)
    failed = []

    def call():
        try:
            client.Lists.create_list(LIST)
        except urllib3.exceptions.HTTPError as error:
            failed.append(error)

    caller = threading.Thread(target=call)
    caller.start()
    while not fake.count:
        time.sleep(0.001)
    port = fake.url.rsplit(":", 1)[1]
    fake.close()
    caller.join()
    assert len(failed) == 1
    assert not [each for each in threading.enumerate() if port in each.name]
