"""A scan's result for machines: JSON, and SARIF 2.1.0 for code scanning services."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote

from klaviyo_audit._version import __version__
from klaviyo_audit.security.patterns import TITLES, Rule, without_keys

if TYPE_CHECKING:
    from klaviyo_audit.security.scan import Find, Scan

_SCHEMA: Final = (
    "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json"
)
_REMEDIES: Final = {
    Rule.TRACKED_ENV: "Remove the file from version control and ignore it: git rm --cached.",
}
_REMEDY: Final = (
    "Take it for known to others: make a new one, exchange it, disable and delete this one. "
    "Removing it from the files does not help, it stays in history and in clones."
)


def as_json(result: Scan) -> str:
    """The result as one JSON object."""
    return json.dumps(
        {
            "files": result.files,
            "bytes": result.bytes,
            "allowed": result.allowed,
            "unread": [{"path": without_keys(p), "why": why} for p, why in result.unread],
            "finds": [find.to_dict() for find in result.finds],
        },
        indent=1,
    )


def as_sarif(result: Scan) -> str:
    """The result in SARIF 2.1.0 (OASIS)."""
    rules = [
        {
            "id": rule.value,
            "shortDescription": {"text": title},
            "help": {"text": _REMEDIES.get(rule, _REMEDY)},
            "defaultConfiguration": {"level": _level(rule)},
            "properties": {"security-severity": "5.0" if rule is Rule.TRACKED_ENV else "9.0"},
        }
        for rule, title in TITLES.items()
    ]
    return sarif(rules, [_sarif_result(find) for find in result.finds])


def sarif(rules: list[dict[str, Any]], results: list[dict[str, Any]]) -> str:
    """One run of this program as a log in SARIF 2.1.0 (OASIS).

    Args:
        rules: Its ``reportingDescriptor`` objects.
        results: Its ``result`` objects.
    """
    driver = {"name": "klaviyo-audit", "version": __version__, "rules": rules}
    return json.dumps(
        {
            "$schema": _SCHEMA,
            "version": "2.1.0",
            "runs": [{"tool": {"driver": driver}, "results": results}],
        },
        indent=1,
    )


def sarif_place(path: str, line: int | None) -> dict[str, Any]:
    """A ``location`` object: a file of the project, and a line of it (from 1) if that is known."""
    place: dict[str, Any] = {"artifactLocation": {"uri": quote(os.fsencode(without_keys(path)))}}
    if line is not None:
        place["region"] = {"startLine": line}
    return {"physicalLocation": place}


def _level(rule: Rule) -> str:
    return "warning" if rule is Rule.TRACKED_ENV else "error"


def sentence(find: Find) -> str:
    """What a find is, in words, without its place."""
    text = TITLES[find.rule]
    if find.masked is not None:
        text += f" {find.masked} (fingerprint {find.fingerprint})"
    if find.commit is not None:
        text += f", since commit {find.commit[:12]} of {find.committed}"
    if find.state is not None:
        text += f": {find.state.replace('_', ' ')}"
    return text


def _sarif_result(find: Find) -> dict[str, Any]:
    result: dict[str, Any] = {
        "ruleId": find.rule.value,
        "level": _level(find.rule),
        "message": {"text": sentence(find)},
        "locations": [sarif_place(find.path, find.line)],
    }
    if find.fingerprint is not None:
        result["partialFingerprints"] = {
            "klaviyoAuditKey/v1": f"{find.fingerprint}:{without_keys(find.path)}"
        }
    properties = {"commit": find.commit, "state": find.state}
    known = {name: value for name, value in properties.items() if value is not None}
    if known:
        result["properties"] = known
    return result
