"""Printing entries for people, on a terminal that must not obey what stands in them."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, Final, TextIO

import click

from klaviyo_audit.entry import Phase, Result, Risk
from klaviyo_audit.journal.statements import describe_gap

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from klaviyo_audit.entry import AuditEntry

_TEXT_LENGTH: Final = 200
_TIME_WIDTH: Final = len("2026-11-23T19:00:00.123")
_WHO_WIDTH: Final = 12
_WHAT_WIDTH: Final = 36
_SECOND_MS: Final = 1000

_RESULT_STYLES: Final[dict[str, dict[str, Any]]] = {
    Result.SUCCESS: {"fg": "green"},
    Result.FAILURE: {"fg": "red"},
    Result.DENIED: {"fg": "magenta", "bold": True},
    Result.UNKNOWN: {"fg": "yellow", "bold": True},
}
_RISK_STYLES: Final[dict[str, dict[str, Any]]] = {
    Risk.LOW: {},
    Risk.MEDIUM: {"fg": "cyan"},
    Risk.HIGH: {"fg": "yellow"},
    Risk.CRITICAL: {"fg": "red", "bold": True},
}
_SHOWN: Final = frozenset({Phase.OUTCOME, Phase.EVENT, Phase.GAP})


def is_shown(entry: AuditEntry) -> bool:
    """Whether an entry says what happened, and not only what was about to happen."""
    return entry.phase in _SHOWN or entry.result is Result.DENIED


def printer(stream: TextIO) -> Callable[[AuditEntry], None]:
    """What prints entries to a stream, one line each, in colour on a terminal."""
    colour = wants_colour(stream)

    def show(entry: AuditEntry) -> None:
        line = render(entry)
        stream.write(f"{line if colour else click.unstyle(line)}\n")

    return show


def wants_colour(stream: TextIO) -> bool:
    """Whether it is a terminal whose user has not asked for plain text (no-color.org)."""
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def clean(text: str, length: int = _TEXT_LENGTH) -> str:
    r"""Text that a terminal shows and does not obey.

    Control characters and so escape sequences, line ends, and bidirectional and invisible
    characters are shown as ``\x1b``, ``\u202e`` and the like.

    Args:
        text: Any text.
        length: How many characters of it to show at most.
    """
    if len(text) > length:
        text = f"{text[:length]}\N{HORIZONTAL ELLIPSIS}"
    if text.isprintable():
        return text
    return "".join(
        one if one.isprintable() else one.encode("unicode_escape").decode() for one in text
    )


def render(entry: AuditEntry) -> str:
    """An entry as one line: when, who, what, on what, result, how long, why. With colours."""
    time = clean(f"{entry.timestamp[:_TIME_WIDTH].replace('T', ' ')}Z")
    what = clean(entry.action).ljust(_WHAT_WIDTH)
    risk = entry.call.risk if entry.call is not None else None
    parts = [
        click.style(time, dim=True),
        _who(entry).ljust(_WHO_WIDTH),
        click.style(what, **_RISK_STYLES[risk or Risk.LOW]),
        *_facts(entry),
    ]
    return "  ".join(parts)


def _who(entry: AuditEntry) -> str:
    actor = entry.actor
    if actor is not None and actor.on_behalf_of is not None:
        return f"{clean(entry.user_id)} for {clean(actor.on_behalf_of)}"
    return clean(entry.user_id)


def _facts(entry: AuditEntry) -> Iterator[str]:
    if entry.resource is not None:
        yield clean(entry.resource)
    if entry.phase in {Phase.INTENT, Phase.JOURNAL}:
        yield click.style(entry.phase.value, dim=True)
    if entry.phase is Phase.GAP:
        yield click.style(describe_gap(entry.metadata) or "nothing was lost", fg="red", bold=True)
    if entry.result is not None:
        yield _result(entry, entry.result)
    if entry.error is not None:
        yield click.style(clean(entry.error.type), fg="red")
    if entry.duration_ms is not None:
        yield click.style(_duration(entry.duration_ms), dim=True)
    if entry.actor is not None and entry.actor.reason is not None:
        yield f'"{clean(entry.actor.reason)}"'


def _result(entry: AuditEntry, result: Result) -> str:
    text = result.value
    if entry.http is not None and entry.http.status is not None:
        text += f" {entry.http.status}"
    text = click.style(text, **_RESULT_STYLES[result])
    tries = 0 if entry.http is None else max(entry.http.attempts, entry.http.requests or 0)
    return f"{text} after {tries} requests" if tries > 1 else text


def _duration(milliseconds: float) -> str:
    if milliseconds < _SECOND_MS:
        return f"{milliseconds:.1f} ms"
    return f"{milliseconds / _SECOND_MS:.2f} s"
