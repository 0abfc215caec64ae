"""A person's own account of what was done with their data (GDPR, Article 15)."""

from __future__ import annotations

from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING, Any, Final

from klaviyo_audit.analysis.consent import ConsentChange, changes
from klaviyo_audit.analysis.query import Question, find
from klaviyo_audit.entry import Phase
from klaviyo_audit.rendering import clean

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Sequence
    from pathlib import Path

_RESULTS: Final = {
    "success": "done",
    "failure": "refused or failed",
    "denied": "not allowed, nothing was sent",
    "unknown": "outcome not known",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Processing:
    """One thing that was done, or tried, with a person's data."""

    when: str
    what: str
    """In words: ``subscribe profiles``."""
    action: str
    recipient: str | None
    """Who received the data: Klaviyo, for its API's operations."""
    service: str | None
    environment: str | None
    reason: str | None
    result: str
    user_id: str | None
    """Who did it; None unless asked for: the employee is a person too (CJEU C-579/21)."""
    entry_id: str

    def to_dict(self) -> dict[str, Any]:
        """The facts there are, as JSON types."""
        found = {name: getattr(self, name) for name in self.__slots__}
        return {name: value for name, value in found.items() if value is not None}


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """All that a journal knows about one person."""

    person: str
    """As the person was named."""
    made_at: str
    processings: tuple[Processing, ...]
    consents: tuple[ConsentChange, ...]

    @property
    def services(self) -> tuple[str, ...]:
        """The programs that did it."""
        return tuple(sorted({one.service for one in self.processings if one.service}))

    @property
    def recipients(self) -> tuple[str, ...]:
        """Who received data."""
        return tuple(sorted({one.recipient for one in self.processings if one.recipient}))

    def to_dict(self) -> dict[str, Any]:
        """The account as JSON types."""
        shown = (one.to_dict() for one in self.consents)
        return {
            "person": self.person,
            "made_at": self.made_at,
            "services": list(self.services),
            "recipients": list(self.recipients),
            "processings": [one.to_dict() for one in self.processings],
            "consents": [
                {name: value for name, value in one.items() if name not in _OF_EMPLOYEES}
                for one in shown
            ],
        }


_OF_EMPLOYEES: Final = ("user_id", "on_behalf_of")


def account(
    directory: Path,
    person: str,
    names: Collection[str],
    *,
    made_at: str,
    with_actors: bool = False,
) -> Account:
    """Collect what a journal holds about a person.

    Args:
        directory: The journal's folder.
        person: How the person is named in the account.
        names: The person's pseudonyms.
        made_at: The time of the account.
        with_actors: Whether to say who acted.

    Raises:
        JournalCorrupt: See `entries.entries`.
        OSError: A file cannot be read.
    """
    found: dict[str, dict[str, Any]] = {}
    for members in find(directory, Question(names=tuple(names))):
        if members["phase"] != Phase.INTENT or members["id"] not in found:
            found[members["id"]] = members
    ordered = sorted(found.values(), key=lambda one: str(one["timestamp"]))
    return Account(
        person=person,
        made_at=made_at,
        processings=tuple(_processing(members, with_actors=with_actors) for members in ordered),
        consents=tuple(changes(directory, names)),
    )


def _processing(members: dict[str, Any], *, with_actors: bool) -> Processing:
    call = members.get("call") or {}
    origin = members.get("origin") or {}
    actor = members.get("actor") or {}
    is_klaviyo = "method" in call
    name = call.get("operation") or members["action"]
    site = (members.get("key") or {}).get("site")
    return Processing(
        when=members["timestamp"],
        what=str(name).replace("_", " "),
        action=members["action"],
        recipient=(f"Klaviyo (account {site})" if site else "Klaviyo") if is_klaviyo else None,
        service=origin.get("service"),
        environment=origin.get("environment"),
        reason=actor.get("reason"),
        result=_RESULTS.get(members.get("result") or "unknown", "outcome not known"),
        user_id=members["user_id"] if with_actors else None,
        entry_id=members["id"],
    )


def as_text(found: Account) -> str:
    """The account as lines that a terminal shows and does not obey."""
    lines = [
        f"Account of processing for {clean(found.person)}",
        f"made at {found.made_at}; {len(found.processings)} records",
        f"by: {clean(', '.join(found.services) or 'nobody')}",
        f"received by: {clean(', '.join(found.recipients) or 'nobody')}",
        "",
    ]
    for one in found.processings:
        where = f" ({clean(one.service or '?')}{_in(one.environment)})"
        why = f', because: "{clean(one.reason)}"' if one.reason else ""
        who = f", by {clean(one.user_id)}" if one.user_id else ""
        lines.append(f"{_time(one.when)}  {clean(one.what)}{where}: {one.result}{who}{why}")
    if found.consents:
        lines += ["", "Changes of consent"]
        lines += [f"{_time(one.when)}  {clean(describe(one), 400)}" for one in found.consents]
    return "\n".join(lines) + "\n"


def describe(change: ConsentChange) -> str:
    """A change of consent in words."""
    parts = [change.change.replace("_", " ")]
    if change.channels:
        parts.append(", ".join(change.channels))
    if change.list_id:
        parts.append(f"list {change.list_id}")
    if change.segment_id:
        parts.append(f"segment {change.segment_id}")
    text = " / ".join(parts)
    if change.source:
        text += f', source "{change.source}"'
    return f"{text}: {_RESULTS.get(change.result, change.result)}"


def as_html(found: Account) -> str:
    """The account as one HTML page that loads nothing, with every value escaped."""
    heads = ["When", "What", "Service", "Environment", "Received by", "Why", "Result"]
    if any(one.user_id for one in found.processings):
        heads.append("By")
    rows = [
        (
            *(_time(one.when), one.what, one.service, one.environment, one.recipient),
            *(one.reason, one.result, one.user_id),
        )
        for one in found.processings
    ]
    changed = [(_time(one.when), describe(one)) for one in found.consents]
    return _PAGE.format(
        person=escape(found.person),
        made_at=escape(found.made_at),
        count=len(found.processings),
        recipients=escape(", ".join(found.recipients) or "nobody"),
        processings=_table(heads, rows),
        consents=_CONSENTS.format(table=_table(heads[:2], changed)) if changed else "",
    )


def _table(heads: Sequence[str], rows: Iterable[Sequence[str | None]]) -> str:
    """A table; each cell has its head, too, for windows that are too narrow for columns."""
    shown = "".join(f"<th>{head}</th>" for head in heads)
    lines = [f"<table><thead><tr>{shown}</tr></thead><tbody>"]
    for row in rows:
        cells = zip(heads, row, strict=False)
        told = (f'<td data-head="{head}">{escape(cell or "")}</td>' for head, cell in cells)
        lines.append(f"<tr>{''.join(told)}</tr>")
    return "\n".join([*lines, "</tbody></table>"])


def _time(timestamp: str) -> str:
    return f"{timestamp[:10]} {timestamp[11:19]} UTC"


def _in(environment: str | None) -> str:
    return f", {clean(environment)}" if environment else ""


# Columns of fixed width, since one long word would leave the others a letter's; below 60 em each
# cell is a line of its own.
_PAGE: Final = """<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Account of processing</title>
<style>
body{{font:15px/1.5 system-ui,sans-serif;margin:2em auto;max-width:80em;padding:0 1em;
overflow-wrap:anywhere}}
table{{border-collapse:collapse;width:100%;table-layout:fixed}}
th,td{{text-align:left;padding:.3em .6em;border-bottom:1px solid #ccc;vertical-align:top}}
th{{width:8em}}th:nth-child(6),th:nth-child(8),th:last-child:nth-child(2){{width:auto}}
@media(max-width:60em){{
thead{{display:none}}table,tbody,tr,td{{display:block}}
tr{{padding:.5em 0;border-bottom:1px solid #ccc}}td{{border:0;padding:.1em 0}}
td:empty{{display:none}}
td::before{{content:attr(data-head) ": ";font-weight:bold}}
}}
</style></head><body>
<h1>Account of processing</h1>
<p>For <strong>{person}</strong>, made at {made_at}: {count} records. Received by: {recipients}.</p>
{processings}
{consents}</body></html>
"""
_CONSENTS: Final = """<h2>Changes of consent</h2>
{table}
"""
