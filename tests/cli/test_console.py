"""Entries as people read them, and what a terminal must never be told."""

import io
import unicodedata

import click
import pytest
from hypothesis import given
from hypothesis import strategies as st

from klaviyo_audit.entry import Actor, AuditEntry, Call, Error, Http, Phase, Result, Risk
from klaviyo_audit.rendering import clean, is_shown, printer, render


def entry(**members):
    return AuditEntry(
        **{
            "id": "0192c0a0-0000-7000-8000-aaaaaaaaaaaa",
            "writer": "a" * 16,
            "n": 1,
            "timestamp": "2026-11-23T19:00:00.123456Z",
            "phase": Phase.OUTCOME,
            "action": "klaviyo.profiles.get_profile",
            "user_id": "dana",
            **members,
        }
    )


def plain(one):
    return click.unstyle(render(one))


def test_when_who_what_on_what_result_how_long_why():
    line = plain(
        entry(
            resource="/api/profiles/01HX",
            result=Result.FAILURE,
            http=Http(attempts=3, requests=12, status=429),
            error=Error(type="ApiException"),
            duration_ms=1234.5,
            actor=Actor(on_behalf_of="sam", reason="ticket 4711"),
        )
    )
    assert line.split("  ", 2)[0] == "2026-11-23 19:00:00.123Z"
    facts = [
        "dana for sam",
        "klaviyo.profiles.get_profile",
        "/api/profiles/01HX",
        "failure 429 after 12 requests",
        "ApiException",
        "1.23 s",
        '"ticket 4711"',
    ]
    places = [line.index(fact) for fact in facts]
    assert places == sorted(places)


def test_a_plain_success_says_no_more_than_needed():
    line = plain(entry(result=Result.SUCCESS, duration_ms=3.21, http=Http(attempts=1, status=200)))
    assert line.endswith("success 200  3.2 ms")


def test_a_gap_says_what_was_lost():
    line = plain(
        entry(
            phase=Phase.GAP,
            action="journal.gap",
            metadata={"count": 3, "operations": {"a.b": 3}, "reasons": {"ENOSPC": 3}},
        )
    )
    assert "3 entries" in line
    assert "ENOSPC" in line


def test_colours_follow_result_and_risk():
    lines = {render(entry(result=result)) for result in Result}
    lines |= {
        render(entry(call=Call(group="Profiles", operation="get_profile", risk=risk)))
        for risk in Risk
    }
    assert len(lines) == len(Result) + len(Risk)


@pytest.mark.parametrize(
    ("members", "shown"),
    [
        ({"phase": Phase.OUTCOME}, True),
        ({"phase": Phase.EVENT}, True),
        ({"phase": Phase.GAP}, True),
        ({"phase": Phase.INTENT}, False),
        ({"phase": Phase.JOURNAL}, False),
        ({"phase": Phase.INTENT, "result": Result.DENIED}, True),
    ],
)
def test_what_is_shown(members, shown):
    assert is_shown(entry(**members)) is shown


HOSTILE = "\x1b]0;owned\x07\x1b[2J\r\n\x9b31m\u202egnp.exe\u2066\u200b\u2028\ufeff\U000e0041"


def test_no_member_reaches_the_terminal_as_it_is():
    names = ("timestamp", "action", "user_id", "resource", "id", "parent_id")
    texts = dict.fromkeys(names, HOSTILE)
    one = entry(
        **texts,
        result=Result.DENIED,
        actor=Actor(on_behalf_of=HOSTILE, reason=HOSTILE, ip=HOSTILE),
        error=Error(type=HOSTILE),
        metadata={"count": 1, "operations": {HOSTILE: 1}, "from": HOSTILE, HOSTILE: HOSTILE},
    )
    for phase in Phase:
        stream = io.StringIO()
        one = entry(**texts, phase=phase, actor=one.actor, error=one.error, metadata=one.metadata)
        printer(stream)(one)
        text = stream.getvalue()
        assert text.endswith("\n")
        assert text[:-1].isprintable(), text
        assert "\\x1b" in text  # it is shown, not dropped


@given(st.text())
def test_clean_text_has_no_character_that_acts(text):
    shown = clean(text)
    acting = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}
    assert not any(unicodedata.category(one) in acting for one in shown)


@given(st.text(alphabet=st.characters(categories=["L", "N", "P", "S"]), max_size=200))
def test_ordinary_text_stays_as_it_is(text):
    assert clean(text) == text


def test_long_text_is_cut():
    assert len(clean("x" * 10_000)) == 201


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_colour_only_where_it_is_wanted(monkeypatch):
    def shown(stream):
        printer(stream)(entry(result=Result.SUCCESS))
        return stream.getvalue()

    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    assert "\x1b[32m" in shown(Terminal())
    assert "\x1b" not in shown(io.StringIO())
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b" not in shown(Terminal())
    monkeypatch.delenv("NO_COLOR")
    monkeypatch.setenv("TERM", "dumb")
    assert "\x1b" not in shown(Terminal())
