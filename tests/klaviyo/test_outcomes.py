"""The outcome of a call is what HTTP said: every row of the table of retries, against a server."""

import json

import pytest
import urllib3
from openapi_client.exceptions import ApiException, ForbiddenException, ServiceException
from pydantic import ValidationError

from klaviyo_audit.privacy import Gate
from tests import planted
from tests.ports import free_port

LIST = {"data": {"type": "list", "attributes": {"name": "Newsletter"}}}


def http_of(entry):
    return {name: entry["http"].get(name) for name in ("status", "attempts", "requests")}


@pytest.fixture(autouse=True)
def _no_backoff(monkeypatch):
    """The SDK waits half a second and more between its attempts; nothing here tests the waiting."""
    monkeypatch.setattr(
        "klaviyo_api.custom_retry.RetryWithExponentialBackoff.exponential_backoff",
        lambda self, iteration: 0,
    )


def test_read_repeated_below_the_sdk(klaviyo, fake, trail):
    fake.fail(429, retry_after=0, times=1)
    klaviyo.Profiles.get_profile("01HPROFILE")
    entry = trail.outcome()
    assert entry["result"] == "success"
    assert http_of(entry) == {"status": 200, "attempts": 1, "requests": 2}
    assert fake.count == 2


def test_read_refused_for_ever(klaviyo, fake, trail):
    fake.fail(429, retry_after=0, times=None)
    with pytest.raises(ApiException) as caught:
        klaviyo.Profiles.get_profile("01HPROFILE")
    assert caught.value.status == 429
    entry = trail.outcome()
    assert entry["result"] == "failure"
    assert http_of(entry) == {"status": 429, "attempts": 3, "requests": 12}
    assert entry["http"]["rate_limit"] == {"retry_after": "0"}
    assert fake.count == 12


def test_read_repeated_by_the_sdk(klaviyo, fake, trail):
    fake.fail(429, times=1)
    klaviyo.Profiles.get_profile("01HPROFILE")
    assert http_of(trail.outcome()) == {"status": 200, "attempts": 2, "requests": 2}


def test_delete_sent_twice_below_the_sdk(klaviyo, fake, trail):
    fake.fail(503, retry_after=0, times=1)
    klaviyo.Templates.delete_template("TEMPL1")
    entry = trail.outcome()
    assert http_of(entry)["requests"] == 2
    assert http_of(entry)["attempts"] == 1
    assert [request.method for request in fake.requests] == ["DELETE", "DELETE"]


def test_write_repeated_by_the_sdk(klaviyo, fake, trail):
    fake.fail(429, retry_after=0, times=1)
    klaviyo.Lists.create_list(LIST)
    assert http_of(trail.outcome()) == {"status": 201, "attempts": 2, "requests": 2}
    assert len(trail.of("intent")) == 1, "one call has one intent, however often it is tried"


def test_write_that_is_not_repeated(klaviyo, fake, trail):
    fake.fail(502, times=1)
    with pytest.raises(ServiceException):
        klaviyo.Lists.create_list(LIST)
    entry = trail.outcome()
    assert entry["result"] == "failure"
    assert http_of(entry) == {"status": 502, "attempts": 1, "requests": 1}
    assert entry["error"]["stage"] == "http"


def test_refusal_without_an_exception(klaviyo, fake, trail):
    fake.fail(403, times=1)
    response = klaviyo.Profiles.get_profile_without_preload_content("01HPROFILE")
    assert response.status == 403
    entry = trail.outcome()
    assert entry["result"] == "failure"
    assert http_of(entry) == {"status": 403, "attempts": 1, "requests": 1}
    assert "error" not in entry


def test_connection_refused(auditor, trail):
    from klaviyo_api import KlaviyoAPI

    klaviyo = auditor.audit(KlaviyoAPI("k" * 12, test_host=f"http://127.0.0.1:{free_port()}"))
    with pytest.raises(urllib3.exceptions.MaxRetryError):
        klaviyo.Profiles.get_profile("01HPROFILE")
    entry = trail.outcome()
    assert entry["result"] == "failure"
    assert http_of(entry) == {"status": None, "attempts": 1, "requests": 0}
    assert entry["error"] == {
        "type": "MaxRetryError",
        "module": "urllib3.exceptions",
        "stage": "transport",
    }


def test_wrong_argument_sends_nothing(klaviyo, fake, trail):
    with pytest.raises(ValidationError):
        klaviyo.Profiles.get_profile(12345)
    entry = trail.outcome()
    assert entry["result"] == "failure"
    assert http_of(entry) == {"status": None, "attempts": 0, "requests": 0}
    assert entry["error"]["stage"] == "before_request"
    assert fake.count == 0


def test_work_done_but_the_answer_does_not_fit(klaviyo, fake, trail):
    fake.fail(201, body=b'{"data": 5}', times=1)
    with pytest.raises(ValidationError):
        klaviyo.Lists.create_list(LIST)
    entry = trail.outcome()
    assert entry["result"] == "success", "the server did the work"
    assert http_of(entry) == {"status": 201, "attempts": 1, "requests": 1}
    assert entry["error"]["stage"] == "after_response"


def test_retry_after_date_on_a_write(klaviyo, fake, trail):
    """The SDK cannot read an HTTP date; the trail still has what the server said."""
    fake.fail(429, retry_after="Fri, 31 Dec 2027 23:59:59 GMT", times=1)
    with pytest.raises(ValueError, match="invalid literal"):
        klaviyo.Lists.create_list(LIST)
    entry = trail.outcome()
    assert (entry["result"], entry["http"]["status"]) == ("failure", 429)
    assert entry["error"]["type"] == "ValueError"


def test_connection_broken_after_a_write_was_sent(klaviyo, fake, trail):
    fake.fail(reset=True, times=None)
    with pytest.raises(urllib3.exceptions.HTTPError):
        klaviyo.Lists.create_list(LIST)
    entry = trail.outcome()
    assert entry["result"] == "unknown", "the server may have made the list"
    assert entry["http"]["requests"] == fake.count == 1
    assert entry["error"]["stage"] == "transport"


def test_connection_broken_at_every_try_of_a_read(klaviyo, fake, trail):
    fake.fail(reset=True, times=None)
    with pytest.raises(urllib3.exceptions.MaxRetryError):
        klaviyo.Profiles.get_profile("01HPROFILE")
    entry = trail.outcome()
    assert entry["result"] == "unknown"
    assert entry["http"]["requests"] == fake.count == 4


def test_an_answer_before_a_broken_attempt_is_not_the_outcome(klaviyo, fake, trail):
    fake.fail(429, times=1)
    fake.fail(reset=True, times=None)
    with pytest.raises(urllib3.exceptions.HTTPError):
        klaviyo.Lists.create_list(LIST)
    entry = trail.outcome()
    assert entry["result"] == "unknown"
    assert http_of(entry) == {"status": None, "attempts": 2, "requests": 2}


def test_timeout(klaviyo, fake, trail):
    fake.fail(None, delay=3600.0, times=None)
    with pytest.raises(urllib3.exceptions.HTTPError):
        klaviyo.Lists.create_list(LIST, _request_timeout=(60, 0.2))
    entry = trail.outcome()
    assert entry["result"] == "unknown"
    assert entry["http"]["requests"] == 1


def test_body_cut_off_after_the_status(klaviyo, fake, trail):
    fake.fail(None, truncate=True, times=None)
    with pytest.raises(urllib3.exceptions.HTTPError):
        klaviyo.Lists.create_list(LIST)
    entry = trail.outcome()
    assert (entry["result"], entry["error"]["stage"]) == ("success", "after_response")


def test_the_exception_is_the_sdks_own(klaviyo, fake, trail):
    fake.fail(404, times=1)
    with pytest.raises(ApiException) as caught:
        klaviyo.Profiles.get_profile("01HPROFILE")
    frames = [entry.name for entry in caught.traceback]
    assert frames[-1] == "from_response", "raised where the SDK raises it"
    assert "get_profile" in frames
    assert caught.value.__context__ is None
    assert caught.value.__cause__ is None


def test_error_ids_and_codes_but_no_texts(klaviyo, fake, trail):
    fake.fail(
        400,
        times=1,
        body=b'{"errors":[{"id":"5b1a","status":400,"code":"invalid",'
        b'"title":"Bad","detail":"planted.person@example.com is not valid"}]}',
    )
    with pytest.raises(ApiException):
        klaviyo.Lists.create_list(LIST)
    http = trail.outcome()["http"]
    assert (http["error_ids"], http["error_codes"]) == (["5b1a"], ["invalid"])


def test_facts_of_a_response(klaviyo, trail):
    klaviyo.Profiles.get_profile("01HPROFILE")
    http = trail.outcome()["http"]
    assert http["request_id"]
    limits = http["rate_limit"]
    assert set(limits) == {"limit", "remaining", "reset"}
    assert all(isinstance(value, int) for value in limits.values())


@pytest.mark.parametrize("variant", ["", "_with_http_info"])
def test_forbidden_in_variants_that_raise(klaviyo, fake, trail, variant):
    fake.fail(403, times=1)
    with pytest.raises(ForbiddenException):
        getattr(klaviyo.Profiles, "get_profile" + variant)("01HPROFILE")
    assert trail.outcome()["http"]["status"] == 403


def test_interrupt_in_a_call_is_recorded_and_passed_on(klaviyo, trail, monkeypatch):
    monkeypatch.setattr(
        "urllib3.connectionpool.HTTPConnectionPool.urlopen",
        lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt),
    )
    with pytest.raises(KeyboardInterrupt):
        klaviyo.Lists.create_list(LIST)
    entry = trail.outcome()
    assert entry["result"] == "unknown"
    assert entry["error"]["type"] == "KeyboardInterrupt"


@pytest.mark.parametrize("plain", [False, True])
def test_headers_are_read_from_any_mapping(plain):
    """urllib3 keeps a dictionary inside its headers, which is only a short cut."""
    from urllib3 import HTTPHeaderDict

    from klaviyo_audit.klaviyo import tap

    given = {
        "x-klaviyo-req-id": "abc",
        "ratelimit-limit": "750, 750;w=60",
        "ratelimit-remaining": "7",
        "ratelimit-reset": "nonsense",
        "retry-after": "5",
    }
    found = tap._by_name(given if plain else HTTPHeaderDict(given))
    assert {name: found[name][1] for name in found} == given
    members = json.loads(f"{{{tap._rate_limit(found, Gate())}}}")
    assert members == {"limit": 750, "remaining": 7, "retry_after": "5"}


@pytest.mark.parametrize("secret", [planted.OAUTH_TOKEN, "eyJ" + "a1b2" * 8 + ".e30.c2ln"])
def test_a_secret_in_a_response_header_is_masked(secret):
    from klaviyo_audit import privacy

    privacy.CREDENTIALS.add(planted.OAUTH_TOKEN)
    assert secret not in Gate().token(secret)
    assert Gate().token("01HREQ-id.7:x") == "01HREQ-id.7:x"


def test_the_server_is_told_where_it_is_not_klaviyos(klaviyo, client, fake, trail):
    klaviyo.Profiles.get_profile("01HPROFILE")
    assert trail.outcome()["http"]["server"] == fake.url
    pool = client.api_client.rest_client.pool_manager
    send = pool.request
    pool.request = lambda method, url, **more: send(
        method, url.replace("https://a.klaviyo.com", fake.url), **more
    )
    client.configuration.host = "https://a.klaviyo.com"
    klaviyo.Profiles.get_profile("01HPROFILE")
    assert trail.last()["http"]["status"] == 200
    assert "server" not in trail.last()["http"]


@pytest.mark.parametrize(
    "looks_like",
    [
        "http://dana:pw-{0}@{1}",
        "https://a.klaviyo.com@{1}",
        "https://A.klaviyo.com@{1}",
        "http://{1}?dana@example.com",
    ],
)
def test_the_server_is_what_urllib3_makes_of_the_url(klaviyo, client, trail, looks_like):
    host = f"127.0.0.1:{free_port()}"
    client.configuration.host = looks_like.format(planted.SITE_KEY, host)
    with pytest.raises(urllib3.exceptions.MaxRetryError, match="127.0.0.1"):
        klaviyo.Profiles.get_profile("01HPROFILE")
    assert trail.outcome()["http"]["server"] == f"{looks_like.partition(':')[0]}://{host}"
