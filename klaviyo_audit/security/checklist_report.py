"""A checklist's result for machines: JSON, JUnit's XML, and SARIF 2.1.0."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final
from xml.etree import ElementTree as ET

from klaviyo_audit.rendering import clean
from klaviyo_audit.security import scan_report
from klaviyo_audit.security.checklist import is_passed
from klaviyo_audit.security.checks.outcome import Place, Status
from klaviyo_audit.security.patterns import without_keys

if TYPE_CHECKING:
    from collections.abc import Sequence

    from klaviyo_audit.security.checklist import Result

_SUITE: Final = "klaviyo-audit check"
_LEVELS: Final = {Status.FAIL: "error", Status.WARN: "warning"}
_LONGEST: Final = 4000


def as_json(results: Sequence[Result], *, strict: bool) -> str:
    """The result as one JSON object; it holds no credential."""
    return json.dumps(
        {
            "passed": is_passed(results, strict=strict),
            "counts": {one.value: count(results, one) for one in Status},
            "checks": [_facts(result) for result in results],
        },
        indent=1,
    )


def as_junit(results: Sequence[Result], *, strict: bool) -> str:
    """The result as one ``testsuite``: what is not checked is skipped.

    A warning is a test that passed with something to say, or with `strict` a failure.
    """
    wrong = count(results, Status.FAIL) + (count(results, Status.WARN) if strict else 0)
    numbers = {
        "tests": str(len(results)),
        "failures": str(wrong),
        "errors": "0",
        "skipped": str(count(results, Status.NOT_CHECKED)),
    }
    root = ET.Element("testsuites", numbers)
    suite = ET.SubElement(root, "testsuite", {"name": _SUITE, **numbers})
    for result in results:
        names = {"classname": "klaviyo-audit.check", "name": result.check.id}
        case = ET.SubElement(suite, "testcase", names)
        status = result.outcome.status
        if status is Status.NOT_CHECKED:
            ET.SubElement(case, "skipped", {"message": _words(result)})
        elif status is Status.FAIL or (strict and status is Status.WARN):
            what = {"type": status.value, "message": _words(result)}
            ET.SubElement(case, "failure", what).text = _words(result)
        else:
            ET.SubElement(case, "system-out").text = f"{status.value}: {_words(result)}"
    ET.indent(root)
    text = ET.tostring(root, encoding="unicode")
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{text}\n'


def as_sarif(results: Sequence[Result], *, settings_file: str) -> str:
    """What failed and what is warned of, in SARIF 2.1.0.

    Args:
        results: What the checks found.
        settings_file: Where a finding stands that is about no line of the source: code scanning
            services want a file.
    """
    rules = [
        {
            "id": f"check/{result.check.id}",
            "shortDescription": {"text": result.check.title},
            "defaultConfiguration": {"level": "error"},
        }
        for result in results
    ]
    found = [
        _sarif_result(result, settings_file)
        for result in results
        if result.outcome.status in _LEVELS
    ]
    return scan_report.sarif(rules, found)


def count(results: Sequence[Result], status: Status) -> int:
    """How many checks ended so."""
    return sum(result.outcome.status is status for result in results)


def _sarif_result(result: Result, settings_file: str) -> dict[str, Any]:
    places = result.outcome.places or (Place(settings_file),)
    return {
        "ruleId": f"check/{result.check.id}",
        "level": _LEVELS[result.outcome.status],
        "message": {"text": _words(result)},
        "locations": [scan_report.sarif_place(without_keys(one.path), one.line) for one in places],
        "partialFingerprints": {"klaviyoAuditCheck/v1": result.check.id},
    }


def _facts(result: Result) -> dict[str, Any]:
    outcome = result.outcome
    facts: dict[str, Any] = {
        "id": result.check.id,
        "title": result.check.title,
        "status": outcome.status.value,
        "evidence": outcome.evidence,
    }
    if outcome.remedy:
        facts["remedy"] = outcome.remedy
    if outcome.places:
        places = [{"path": without_keys(one.path), "line": one.line} for one in outcome.places]
        facts["places"] = [
            {name: value for name, value in place.items() if value is not None} for place in places
        ]
    return facts


def _words(result: Result) -> str:
    """Title, evidence and remedy, without what XML cannot hold."""
    outcome = result.outcome
    text = f"{result.check.title}: {outcome.evidence}"
    if outcome.remedy:
        text += f". To do: {outcome.remedy}"
    return clean(text, _LONGEST)
