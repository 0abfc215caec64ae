"""Lines put together from encoded texts are, byte for byte, what the general encoding gives."""

import itertools
import time

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from klaviyo_audit import Result, acting_as, clock
from klaviyo_audit.calls import CallRecord, Target
from klaviyo_audit.journal.format import checksum_holds, encode
from klaviyo_audit.journal.writer import JournalWriter
from klaviyo_audit.klaviyo import tap
from klaviyo_audit.privacy import Gate
from klaviyo_audit.recorder import Recorder

TEXT = st.text(st.characters(exclude_categories=[]), max_size=40)  # lone surrogates too
NASTY = st.sampled_from(
    ['"', "\\", '","sum":"', '{"v":1,"id":"', "\u2028\u2029", "\x00\x7f\x1f", "\ud800"]
)
STRINGS = TEXT | NASTY
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | STRINGS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(STRINGS, inner, max_size=3),
    max_leaves=6,
)
HEADERS = st.fixed_dictionaries(
    {}, optional={name: STRINGS | st.integers().map(str) for name in sorted(tap._WANTED)}
)


def as_written(text):
    """A string as a reader gets it back: a lone surrogate, which UTF-8 has not, is spelt out."""
    return text.encode("utf-8", "backslashreplace").decode()


@pytest.fixture(scope="module")
def pen(tmp_path_factory):
    writer = JournalWriter(
        tmp_path_factory.mktemp("trail"),
        user_id='the "service"',
        origin={"service": "shop \u2028", "environment": None, "host": "web-1"},
        opening={},
        on_loss=lambda error: pytest.fail(repr(error)),
    )
    recorder = Recorder(writer, default_user='nobody\\"', default_is_fallback=True)
    yield writer, recorder
    writer.close()


def last_line(writer):
    return writer.path.read_bytes().splitlines(keepends=True)[-1]


@settings(max_examples=200)
@given(
    action=STRINGS,
    resource=st.none() | STRINGS,
    revision=st.none() | STRINGS,
    user=st.none() | STRINGS.filter(bool),
    reason=st.none() | STRINGS,
    headers=HEADERS,
    status=st.none() | st.integers(100, 599),
    request=st.none() | JSON,
    metadata=st.dictionaries(STRINGS, JSON, max_size=3),
    error=st.none() | st.fixed_dictionaries({"type": STRINGS, "stage": STRINGS}),
    result=st.none() | st.sampled_from(Result),
)
def test_a_line_is_what_the_general_encoding_gives(
    pen, action, resource, revision, user, reason, headers, status, request, metadata, error, result
):
    writer, recorder = pen
    parent = CallRecord(Target("parent", {}, writes=False), None, is_sdk=False)
    target = Target(action, {"group": "G", "operation": "o"}, writes=True)
    call = CallRecord(target, parent if user else None, is_sdk=True)
    call.resource, call.revision, call.request = resource, revision, request
    call.metadata = metadata
    call.status, call.attempts, call.requests = status, 1, 2
    call.http = tap.http_text(call) + tap._header_facts(call, headers, Gate())
    with acting_as(user or "dana", reason=reason):
        if result is None:
            recorder.before_request(call)
        else:
            recorder.outcome(call, result, error)
    line = last_line(writer)
    members = orjson.loads(line)
    assert checksum_holds(line[:-1])
    del members["sum"]
    assert encode(members) == line
    assert members["action"] == as_written(action)
    assert members.get("resource") == (None if resource is None else as_written(resource))
    assert members["phase"] == ("intent" if result is None else "outcome")
    assert members.get("result") == result
    assert list(members)[:4] == ["v", "id", "writer", "n"]
    if result is not None:
        assert members["http"].get("status") == status
        assert members.get("error") == (
            error and {name: as_written(text) for name, text in error.items()}
        )


@pytest.mark.parametrize("value", ["²", "٣", "9" * 30, "-1", "007", "1e3", ""])
def test_rate_limits_that_are_no_plain_numbers_stay_json(value):
    headers = dict.fromkeys(("ratelimit-limit", "ratelimit-remaining", "ratelimit-reset"), value)
    limits = orjson.loads(f"{{{tap._rate_limit(tap._by_name(headers), Gate())}}}")
    assert all(type(limit) is int and 0 <= limit < 2**53 for limit in limits.values())


@pytest.mark.parametrize("offset", [0.0, 0.0000001, 0.5, 0.999999, 0.9999995])
def test_the_clock_is_right_to_a_microsecond(monkeypatch, offset):
    for second in itertools.chain(range(1_790_000_000, 1_790_000_003), [2**31 + 7]):
        moment = second * 1_000_000_000 + round(offset * 1e9)
        monkeypatch.setattr(time, "time_ns", lambda moment=moment: moment)
        for _ in range(2):  # the first time of a second is not cached
            shown = clock.now()
            whole = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second))
            assert shown.startswith(f"{whole}.")
            assert shown.endswith("Z")
            assert int(shown[20:26]) == round(offset * 1e9) // 1000
