"""What of an entry leaves for Klaviyo, and that it is within Klaviyo's limits."""

import dataclasses
import json
import math
from datetime import UTC, datetime

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from klaviyo_audit.entry import Actor, Http, Origin, Phase
from klaviyo_audit.errors import ConfigurationError
from klaviyo_audit.privacy.assembly import make_pseudonyms
from klaviyo_audit.privacy.identifiers import Kind
from klaviyo_audit.settings import load
from klaviyo_audit.sinks.klaviyo import limits
from klaviyo_audit.sinks.klaviyo.events import (
    bulk,
    checkpoint_event,
    event_of,
    permitted,
    profile_of,
    single,
    takes_time,
    unique_id,
)
from klaviyo_audit.testing import FakeKlaviyo
from tests import planted
from tests.sinks.klaviyo_case import (
    PSEUDONYM_KEY,
    entry,
    full_entry,
    personal_entry,
    posts,
    sink_on,
)

NOW = datetime(2026, 11, 24, tzinfo=UTC)


def properties(given, key=None):
    return permitted(given, key)


# Personal data


FORMLESS = (planted.OAUTH_TOKEN, planted.WEBHOOK_SECRET)
"""Nothing in them tells that they are secrets: only members that nobody writes freely are safe."""


@pytest.mark.parametrize("secret", planted.ALL)
@pytest.mark.parametrize("key", [None, PSEUDONYM_KEY])
@pytest.mark.parametrize("count", [1, 8])
def test_planted_secrets_and_persons_never_go(secret, key, count, tmp_path):
    with FakeKlaviyo(strict=True) as fake:
        sink_on(fake, tmp_path / secret[:4], pseudonym_key=key).deliver(
            [
                personal_entry(secret, number, coded=secret not in FORMLESS)
                for number in range(count)
            ]
        )
        (request,) = posts(fake)
        assert request.status == 202
        text = request.body.decode() + request.query + request.path
        assert planted.found_in(text) == []
        assert planted.found_in(json.dumps(json.loads(request.body), ensure_ascii=False)) == []


FREE = "Jane Doe, 12 Elm Street"


def test_what_people_write_freely_never_goes():
    """Names are not recognised by any pattern, so these members do not go at all."""
    given = dataclasses.replace(
        full_entry(),
        user_id=FREE,
        actor=Actor(reason=FREE, on_behalf_of=FREE, ip="10.1.2.3"),
        origin=Origin(service="shop", host="janes-laptop", thread=FREE, pid=1),
        request={"body": FREE},
        response=FREE,
        metadata={"note": FREE, FREE: 1},
    )
    found = properties(given)
    text = json.dumps(found)
    for part in ("Jane", "Elm", "10.1.2.3", "laptop"):
        assert part not in text
    assert found["withheld"] == [
        "ip", "metadata", "on_behalf_of", "reason", "request", "response", "user_id"
    ]  # fmt: skip


def test_names_of_servers_do_not_go():
    found = properties(entry(http=Http(attempts=1, server="http://proxy.shop.internal:3128")))
    assert "internal" not in json.dumps(found)
    assert found["withheld"] == ["server", "user_id"]


def test_every_member_that_goes_is_on_the_list():
    """A member that a later version adds to the entry does not go by itself."""
    gone = {
        "v", "user_id", "actor", "request", "response", "metadata", "call", "http", "key", "origin",
        "trace", "error", "subjects", "consent",
    }  # fmt: skip
    members = {spec.name for spec in dataclasses.fields(entry())} - gone
    assert members == {
        "id", "writer", "n", "timestamp", "phase", "action", "resource", "result", "duration_ms",
        "parent_id", "sum",
    }  # fmt: skip


def test_the_actor_is_a_pseudonym_that_only_the_key_can_link():
    one = properties(entry(user_id="dana"), PSEUDONYM_KEY)["user"]
    assert one == properties(entry(1, user_id="dana"), PSEUDONYM_KEY)["user"]
    assert one != properties(entry(user_id="eve"), PSEUDONYM_KEY)["user"]
    assert one != properties(entry(user_id="dana"), "another key of many letters")["user"]
    assert "user" not in properties(entry(user_id="dana"))
    assert properties(entry(user_id=one))["user"] == one, "it is one already"
    ours = make_pseudonyms(load(pseudonym_key=PSEUDONYM_KEY))
    assert one == ours.of(Kind.USER, "dana"), "the same as everywhere else"


def test_what_a_function_calls_its_resource_stays_here():
    found = properties(entry(resource="customer:Jane Doe", action="loyalty.redeem"))
    assert "resource" not in found
    assert "resource" in found["withheld"]
    assert properties(full_entry())["resource"] == "/api/profiles/01HPROFILE"


def test_a_gap_says_how_much_is_missing():
    facts = {
        "count": 3,
        "from": "2026-11-23T19:00:00.000000Z",
        "to": "2026-11-23T19:00:01.000000Z",
        "operations": {FREE: 3},
        "reasons": {FREE: 1},
    }
    found = properties(entry(phase="gap", metadata=facts))
    assert (found["gap_count"], found["gap_from"]) == (3, "2026-11-23T19:00:00.000000Z")
    assert "Jane" not in json.dumps(found)


# Unique ids, times, profiles


def test_unique_ids_tell_the_phases_of_one_call_apart():
    found = {unique_id(entry(5, phase)) for phase in Phase}
    assert len(found) == len(Phase)
    assert unique_id(entry(5)) == entry(5).id
    assert unique_id(entry(5, "intent")) == f"{entry(5).id}:intent"


@pytest.mark.parametrize(
    ("timestamp", "taken"),
    [
        ("2026-11-23T19:00:00.123456Z", True),
        ("2000-01-01T00:00:00.000000Z", True),
        ("1999-12-31T23:59:59.999999Z", False),
        ("2027-11-22T00:00:00.000000Z", True),
        ("2027-11-24T00:00:00.000000Z", False),
        ("2026-11-23T19:00:00", False),
        ("yesterday", False),
        ("", False),
    ],
)
def test_times_that_klaviyo_takes(timestamp, taken):
    assert takes_time(timestamp, NOW) is taken
    event = event_of(entry(timestamp=timestamp), "m", None, NOW)
    assert ("time" in event["attributes"]) is taken


def test_profiles():
    assert profile_of("shop", None)["attributes"] == {"external_id": "klaviyo-audit:shop"}
    assert profile_of("shop", "mine")["attributes"] == {"external_id": "mine"}
    assert profile_of("shop", "id:01H") == {"type": "profile", "id": "01H", "attributes": {}}
    long = [profile_of("s" * 400 + end, None)["attributes"]["external_id"] for end in "ab"]
    assert max(map(len, long)) <= 255
    assert len(set(long)) == 2


def test_a_checkpoint_goes_byte_for_byte():
    note = "log.example/trail\n42\nroot=\n\n\u2014 log.example/trail sig=\n".encode()
    event = checkpoint_event(note, "m")["attributes"]
    assert event["properties"]["checkpoint"].encode() == note
    assert (event["properties"]["log"], event["properties"]["log_size"]) == (
        "log.example/trail", "42"
    )  # fmt: skip
    assert event["unique_id"] == checkpoint_event(note, "m")["attributes"]["unique_id"]
    assert event["unique_id"] != checkpoint_event(note + b"x", "m")["attributes"]["unique_id"]


@pytest.mark.parametrize("name", ["m" * 128, "", "two\nlines"])
def test_a_bad_metric_name_is_refused_when_the_settings_are_read(name):
    with pytest.raises(ConfigurationError, match="klaviyo_metric.*shorter than 128 characters"):
        load(klaviyo_metric=name)
    assert load(klaviyo_metric="m" * 127).klaviyo_metric == "m" * 127


# Limits

json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"]), max_size=50),
    lambda inner: (
        st.lists(inner, max_size=5)
        | st.dictionaries(st.text(st.characters(exclude_categories=["Cs"]), max_size=9), inner)
    ),
    max_leaves=20,
)


def deep(levels, leaf="x"):
    for number in range(levels):
        leaf = [leaf] if number % 2 else {"in": leaf}
    return leaf


def beyond(value, levels=limits.MAX_LEVELS):
    """What is beyond a limit, by a walk of its own."""
    if isinstance(value, str):
        return ["string"] if len(value.encode()) > limits.MAX_STRING else []
    if isinstance(value, dict | list):
        wrong = ["levels"] if levels <= 0 else []
        if isinstance(value, list) and len(value) > limits.MAX_ITEMS:
            wrong.append("items")
        if isinstance(value, dict) and len(value) > limits.MAX_PROPERTIES:
            wrong.append("properties")
        inner = [*value, *value.values()] if isinstance(value, dict) else value
        return wrong + [found for each in inner for found in beyond(each, levels - 1)]
    return []


@settings(max_examples=40)
@given(st.dictionaries(st.text(st.characters(exclude_categories=["Cs"]), max_size=20), json_values))
def test_what_is_within_the_limits_is_kept_as_it_is(given_properties):
    kept = limits.bounded(given_properties)
    assert beyond(kept) == []
    plain = {k: v for k, v in given_properties.items() if not isinstance(v, int | list | dict)}
    assert {name: kept[name] for name in plain} == plain


@settings(max_examples=40)
@given(
    st.integers(0, 14),
    st.sampled_from([1, 99_999, 100_000, 100_001, 400_000]),
    st.sampled_from(["x", "\u4e16", "\U0001f600", '"', "\\", "\x00"]),
    st.sampled_from([1, 299, 300, 301, 1_000]),
    st.sampled_from([1, 3_999, 4_000, 4_001, 9_000]),
)
def test_whatever_is_beyond_a_limit_is_cut_and_marked(levels, length, letter, names, items):
    properties = {f"p{number}": number for number in range(names)}
    text = letter * (length // len(letter.encode()))
    properties |= {"text": text, "deep": deep(levels, text), "list": list(range(items))}
    properties = dict(reversed(properties.items()))
    kept = limits.bounded(properties)
    assert beyond(kept) == []
    assert limits.wire_size(kept) <= limits.MAX_EVENT
    if kept != properties:
        assert "[cut" in json.dumps(kept)


def test_a_cut_text_says_length_and_digest():
    from hashlib import sha256

    text = "\u00e9" * 60_000
    cut = limits.bounded({"a": text})["a"]
    digest = sha256(text.encode()).hexdigest()[:16]
    assert cut.endswith(f"[cut: 120000 bytes, sha256 {digest}]")
    assert len(cut.encode()) <= limits.MAX_STRING
    assert text.startswith(cut.partition("[cut")[0])
    many = limits.bounded({"a": list(range(5_000))})["a"]
    assert many[:3_999] == list(range(3_999))
    assert many[-1].startswith("[cut: 5000 items, sha256 ")


@settings(max_examples=40)
@given(json_values)
def test_wire_size_is_never_below_what_the_sdk_writes(value):
    assert limits.wire_size(value) >= len(json.dumps(value))


@pytest.mark.parametrize("text", ["x" * 2_000_000, "pk_" * 400_000, "\u4e16" * 1_000_000])
def test_an_entry_of_any_size_fits(text, tmp_path):
    huge = entry(
        action=text,
        parent_id=text,
        writer=text,
        sum=text,
        metadata={"a": text},
        request=text,
        origin=Origin(service=text, environment=text),
    )
    event = event_of(huge, "Klaviyo Audit", None, NOW)
    assert len(orjson.dumps(event)) < 20_000
    with FakeKlaviyo(strict=True) as fake:
        sink_on(fake, tmp_path).deliver([huge])
        assert [r.status for r in posts(fake)] == [202]
    assert "[cut: " in json.dumps(event)


def test_the_bodies_are_json_that_the_sdk_would_write():
    event = event_of(full_entry(), "m", None, NOW)
    for body in (single(event, profile_of("s", None)), bulk([(profile_of("s", None), [event])])):
        assert json.loads(json.dumps(body)) == body
        assert not any(
            isinstance(value, float) and not math.isfinite(value)
            for value in event["attributes"]["properties"].values()
        )
