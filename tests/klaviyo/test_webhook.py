"""verify_webhook and verify_signature: the real scheme, and everything that is not it."""

import base64
import random
import time
from email.message import Message
from email.utils import formatdate
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from klaviyo_audit import (
    ConfigurationError,
    WebhookVerificationError,
    verify_signature,
    verify_webhook,
)
from klaviyo_audit.klaviyo import webhook
from klaviyo_audit.klaviyo.webhook import signature
from tests.deliveries import SECRET, WEBHOOK_ID, delivery

# Klaviyo's scheme, computed outside of this project.
VECTOR_SECRET = "klaviyo-test-secret"
VECTOR_TIMESTAMP = "Thu, 04 Jan 2024 18:05:25 GMT"
VECTOR_ID = "a8b890458b4bbfaa26d961471b83c101d6de23bd826e7e5173a15310985ec3cb"
VECTOR_BODY = (
    b'{"data":[{"external_id":"4L3cwQae2TX","topic":"event:klaviyo.sent_sms"}],'
    b'"meta":{"klaviyo_webhook_id":"' + VECTOR_ID.encode() + b'"}}'
)
VECTOR_SIGNATURE = "5aa0e720d80b3a04ca04baf3c65cdfe31da57504af69fee8da29c35d45f0596b"
EMPTY_SIGNATURE = "20207af32de1a92c348f827f1eace8aefdcc554c6fc41e1e5625d4480a1cf059"
VECTOR_HEADERS = {
    "Klaviyo-Signature": VECTOR_SIGNATURE,
    "Klaviyo-Timestamp": VECTOR_TIMESTAMP,
    "Klaviyo-Webhook-Id": VECTOR_ID,
}


def refusal(body, headers, secret=SECRET, **options):
    with pytest.raises(WebhookVerificationError) as refused:
        verify_webhook(body, headers, secret, **options)
    return refused.value.reason


def test_the_vector():
    found = verify_webhook(VECTOR_BODY, VECTOR_HEADERS, VECTOR_SECRET, tolerance=None)
    assert (found.webhook_id, found.topics, found.external_ids) == (
        VECTOR_ID,
        ("event:klaviyo.sent_sms",),
        ("4L3cwQae2TX",),
    )
    assert found.sent.isoformat() == "2024-01-04T18:05:25+00:00"


def test_the_vector_of_an_empty_body():
    timestamp = VECTOR_TIMESTAMP.encode()
    assert signature(b"", timestamp, VECTOR_SECRET.encode()) == EMPTY_SIGNATURE
    assert verify_signature(VECTOR_TIMESTAMP, EMPTY_SIGNATURE, VECTOR_SECRET)
    # Signed, but an empty body names no webhook, so the header's webhook id stays unproved.
    headers = {**VECTOR_HEADERS, "Klaviyo-Signature": EMPTY_SIGNATURE}
    assert refusal(b"", headers, VECTOR_SECRET, tolerance=None) == "malformed_body"


def test_the_vector_is_too_old_for_the_default():
    assert refusal(VECTOR_BODY, VECTOR_HEADERS, VECTOR_SECRET) == "too_old"


@pytest.mark.parametrize(
    "form",
    [
        dict,
        lambda h: {name.lower(): value for name, value in h.items()},
        lambda h: {name.upper(): value for name, value in h.items()},
        lambda h: list(h.items()),
        lambda h: reversed(list(h.items())),
        lambda h: [(n.lower().encode(), v.encode()) for n, v in h.items()],
        lambda h: {n.encode(): v.encode() for n, v in h.items()},
        lambda h: (pair for pair in h.items()),
    ],
)
def test_headers_in_any_form(form):
    body, headers = delivery()
    assert verify_webhook(body, form(headers), SECRET).webhook_id == WEBHOOK_ID


def test_headers_of_real_libraries():
    pytest.importorskip("starlette", reason="missing: starlette")
    pytest.importorskip("werkzeug", reason="missing: werkzeug")
    from starlette.datastructures import Headers as StarletteHeaders
    from urllib3 import HTTPHeaderDict
    from werkzeug.datastructures import Headers as WerkzeugHeaders

    body, headers = delivery()
    message = Message()
    for name, value in headers.items():
        message[name] = value
    for form in (
        StarletteHeaders(headers),
        WerkzeugHeaders(headers),
        HTTPHeaderDict(headers),
        message,
    ):
        assert verify_webhook(body, form, SECRET).webhook_id == WEBHOOK_ID


@pytest.mark.parametrize("name", ["Klaviyo-Signature", "Klaviyo-Timestamp", "Klaviyo-Webhook-Id"])
def test_a_header_is_missing_empty_or_there_twice(name):
    body, headers = delivery()
    assert refusal(body, {n: v for n, v in headers.items() if n != name}) == "missing_header"
    assert refusal(body, {**headers, name: ""}) == "missing_header"
    twice = [*headers.items(), (name.lower(), headers[name])]
    assert refusal(body, twice) == "repeated_header"
    joined = {**headers, name: f"{headers[name]}, {headers[name]}"}
    assert refusal(body, joined) in {"malformed_signature", "wrong_signature", "wrong_webhook_id"}


@pytest.fixture
def now(monkeypatch):
    """A whole second at which the clock stands: headers have no fractions, and tests take time."""
    moment = float(int(time.time()))
    monkeypatch.setattr(webhook, "time", SimpleNamespace(time=lambda: moment))
    return moment


@pytest.mark.parametrize("seconds", [300, 299, 0, -299, -300])
def test_within_the_tolerance(now, seconds):
    verify_webhook(*delivery(at=now - seconds), SECRET)


def test_beyond_the_tolerance(now):
    assert refusal(*delivery(at=now - 301)) == "too_old"
    assert refusal(*delivery(at=now + 301)) == "from_the_future"
    assert refusal(*delivery(at=now - 6), tolerance=5) == "too_old"
    verify_webhook(*delivery(at=now - 10**8), SECRET, tolerance=None)


@pytest.mark.parametrize(
    "timestamp",
    ["1704391525", "2024-01-04T18:05:25Z", "yesterday", "Thu, 04 Jan 99999 18:05:25 GMT", "\x00"],
)
def test_a_signed_timestamp_that_is_no_date(timestamp):
    body, headers = delivery()
    signed = signature(body, timestamp.encode(), SECRET.encode())
    headers |= {"Klaviyo-Signature": signed, "Klaviyo-Timestamp": timestamp}
    assert refusal(body, headers, tolerance=None) == "malformed_timestamp"


@pytest.mark.parametrize(
    "body",
    [b"", b"[]", b"null", b'{"data":[]}', b'{"data":[],"meta":{"klaviyo_webhook_id":7}}', b"{" * 9999,
     b'{"data":[1],"meta":{"klaviyo_webhook_id":"x"}}', b"\xff\xfe", b'{"data":{},"meta":{"klaviyo_webhook_id":"x"}}'],
)  # fmt: skip
def test_a_signed_body_that_is_no_delivery(body):
    assert refusal(*delivery(body=body)) == "malformed_body"


def test_secrets_are_exchanged_one_after_the_other():
    old, new = "the-old-secret-0123", "the-new-secret-0123"
    assert verify_webhook(*delivery(secret=old), [new, old]).secret_index == 1
    assert verify_webhook(*delivery(secret=new), [new, old]).secret_index == 0
    assert verify_webhook(*delivery(secret=new), (new.encode(),)).secret_index == 0
    assert refusal(*delivery(secret=old), [new]) == "wrong_signature"


@pytest.mark.parametrize(
    "secret", ["", "fifteen-chars-1", b"fifteen-chars-1", [], ["x" * 16, ""], [None]]
)
def test_a_secret_that_protects_nothing(secret):
    with pytest.raises(ConfigurationError) as refused:
        verify_webhook(*delivery(), secret)
    assert "fifteen" not in str(refused.value)


def test_refusals_say_nothing_of_secret_body_or_signature():
    body, headers = delivery()
    for changed in ({"Klaviyo-Signature": "0" * 64}, {"Klaviyo-Webhook-Id": "other"}):
        with pytest.raises(WebhookVerificationError) as refused:
            verify_webhook(body, {**headers, **changed}, SECRET)
        told = repr(refused.value) + str(refused.value)
        assert SECRET not in told
        assert headers["Klaviyo-Signature"] not in told
        assert "event-0" not in told


def test_a_delivery_shows_no_payload():
    assert "event-0" not in repr(verify_webhook(*delivery(), SECRET))


def _flip(text, rng):
    at = rng.randrange(len(text))
    return text[:at] + rng.choice("0123456789abcdef".replace(text[at], "")) + text[at + 1 :]


def _forgeries():
    """Ways to get a delivery wrong: each takes the body, headers and a random generator."""

    def changed_byte(body, headers, rng):
        at = rng.randrange(len(body))
        return body[:at] + bytes([body[at] ^ (1 << rng.randrange(8))]) + body[at + 1 :], headers

    def other_secret(body, headers, rng):
        signed = signature(body, headers["Klaviyo-Timestamp"].encode(), rng.randbytes(20))
        return body, {**headers, "Klaviyo-Signature": signed}

    def shifted_timestamp(body, headers, rng):
        at = time.time() + rng.choice([-1, 1]) * rng.randint(260, 290)
        return body, {**headers, "Klaviyo-Timestamp": formatdate(at, usegmt=True)}

    def respelt_timestamp(body, headers, rng):
        text = headers["Klaviyo-Timestamp"]
        spelt = rng.choice(
            [
                text.lower(),
                text.replace("GMT", "+0000"),
                text.replace("GMT", "UTC"),
                text[5:],
                text + ".",
            ]
        )
        return body, {**headers, "Klaviyo-Timestamp": spelt}

    def other_id(body, headers, rng):
        return body, {**headers, "Klaviyo-Webhook-Id": _flip(headers["Klaviyo-Webhook-Id"], rng)}

    def cut_body(body, headers, rng):
        return body[: rng.randrange(len(body))], headers

    def longer_body(body, headers, rng):
        return body + rng.choice([b" ", b"\n", b"\0", b"{}", rng.randbytes(5)]), headers

    def moved_boundary(body, headers, rng):
        # The concatenation has no separator: what is signed stays the same.
        count = rng.randint(1, 9)
        moved = body[-count:].decode() + headers["Klaviyo-Timestamp"]
        return body[:-count], {**headers, "Klaviyo-Timestamp": moved}

    def other_encoding(body, headers, rng):
        raw = bytes.fromhex(headers["Klaviyo-Signature"])
        encoded = rng.choice(
            [
                raw.hex().upper(),
                base64.b64encode(raw).decode(),
                raw.hex(":"),
                "sha256=" + raw.hex(),
                " " + raw.hex(),
                raw.hex() + "\n",
                raw.decode("latin-1"),
            ]
        )
        return body, {**headers, "Klaviyo-Signature": encoded}

    def other_body_encoding(body, headers, rng):
        return body.decode().encode(rng.choice(["utf-16", "utf-32", "utf-8-sig"])), headers

    def changed_signature(body, headers, rng):
        return body, {**headers, "Klaviyo-Signature": _flip(headers["Klaviyo-Signature"], rng)}

    def short_signature(body, headers, rng):
        cut = headers["Klaviyo-Signature"][: rng.randrange(64)]
        return body, {**headers, "Klaviyo-Signature": cut}

    def of_another_delivery(body, headers, rng):
        other_body, _ = delivery(rng.randint(10**6, 10**9))
        return other_body, headers

    def too_old(body, headers, rng):
        return delivery(at=time.time() - rng.randint(302, 10**6))

    def from_the_future(body, headers, rng):
        return delivery(at=time.time() + rng.randint(302, 10**6))

    def body_only(body, headers, rng):
        return body, {**headers, "Klaviyo-Signature": signature(body, b"", SECRET.encode())}

    def timestamp_first(body, headers, rng):
        swapped = signature(headers["Klaviyo-Timestamp"].encode(), body, SECRET.encode())
        return body, {**headers, "Klaviyo-Signature": swapped}

    def missing_header(body, headers, rng):
        gone = rng.choice(["Klaviyo-Signature", "Klaviyo-Timestamp", "Klaviyo-Webhook-Id"])
        return body, {name: value for name, value in headers.items() if name != gone}

    def second_header(body, headers, rng):
        name = rng.choice(["Klaviyo-Signature", "Klaviyo-Timestamp", "Klaviyo-Webhook-Id"])
        pairs = [*headers.items(), (name.upper(), rng.choice([headers[name], "x"]))]
        rng.shuffle(pairs)
        return body, pairs

    return [each for each in locals().values() if callable(each)]


def test_ten_thousand_forged_deliveries_are_refused_and_as_many_good_ones_accepted():
    rng = random.Random(7)
    ways = _forgeries()
    assert len(ways) == 19
    accepted = []
    for number in range(10_000):
        body, headers = delivery(number, at=time.time() - rng.randint(-250, 250))
        pairs = list(headers.items())
        rng.shuffle(pairs)  # the order of headers means nothing
        assert verify_webhook(body, pairs, SECRET).external_ids[0] == f"event-{number}-0"
        way = ways[number % len(ways)]
        forged = way(body, headers, rng)
        assert forged != (body, headers)
        try:
            verify_webhook(*forged, SECRET)
        except WebhookVerificationError as refused:
            assert refused.reason != "unknown"
        else:
            accepted.append((way.__name__, forged))
    assert accepted == []


@given(body=st.binary(max_size=200), values=st.tuples(*[st.binary(max_size=80)] * 3))
def test_anything_that_is_not_signed_is_refused_and_nothing_else_happens(body, values):
    names = ("Klaviyo-Signature", "Klaviyo-Timestamp", "Klaviyo-Webhook-Id")
    for headers in (zip(names, values), zip(names, [v.decode("latin-1") for v in values])):  # noqa: B905
        refusal(body, headers, tolerance=None)


@given(st.binary(max_size=200), st.text(st.characters(max_codepoint=127), min_size=16, max_size=40))
def test_what_is_signed_is_decided_by_body_and_timestamp_alone(payload, secret):
    assert verify_signature(payload, signature(payload, b"", secret.encode()), secret)
    assert not verify_signature(payload + b"x", signature(payload, b"", secret.encode()), secret)


def test_the_plain_scheme():
    signed = signature(b"payload", b"", b"key")
    assert verify_signature(b"payload", signed, "key")
    assert verify_signature("payload", signed.encode(), b"key")
    assert not verify_signature(b"payload", signed.upper(), "key")
    assert not verify_signature(b"payload", "", "key")
    assert not verify_signature(b"payload", "\u00e9" * 64, "key")
    with pytest.raises(ConfigurationError, match="empty"):
        verify_signature(b"payload", signed, "")


def test_what_is_no_body_or_no_secret_is_told():
    """A parsed body, and a variable that is not set, are the usual mistakes."""
    with pytest.raises(TypeError, match="given a dict for the body; give the bytes that came"):
        verify_webhook({"data": []}, {}, "s" * 16)
    with pytest.raises(ConfigurationError, match="is its environment variable set"):
        verify_webhook(b"{}", {}, None)
