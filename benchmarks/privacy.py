"""What redaction, pseudonyms and the search for persons and secrets cost."""

from __future__ import annotations

import statistics
from typing import TYPE_CHECKING, Any

from benchmarks.harness import Effort, Reading, difference, interleave, timed
from klaviyo_audit import Auditor
from klaviyo_audit.calls import CallRecord
from klaviyo_audit.klaviyo import capture, noting, targets
from klaviyo_audit.klaviyo.catalog import by_template
from klaviyo_audit.klaviyo.kept import kept_for
from klaviyo_audit.privacy import detection, secrets

if TYPE_CHECKING:
    from collections.abc import Callable

ROW = "privacy"
_KEY = "0123456789abcdef0123456789abcdef"
_URL = "https://a.klaviyo.com/api/profiles"
_MEGABYTE = 1_000_000


def body() -> dict[str, Any]:
    """A body of 2 KB, as of a profile that a shop creates."""
    location = {
        "address1": "89 E 42nd St", "address2": "1st floor", "city": "New York", "country":
        "United States", "latitude": 40.75, "longitude": -73.98, "region": "NY", "zip": "10017",
        "timezone": "America/New_York",
    }  # fmt: skip
    attributes = {
        "email": "sarah.mason@example.com", "phone_number": "+15005550006",
        "external_id": "63f64a2b-c6bf-40c7-b81f-bed08162edbe", "first_name": "Sarah",
        "last_name": "Mason", "organization": "Example", "locale": "en-US",
        "title": "Regional Manager", "image": "https://images.example.com/" + "i" * 60,
        "location": location, "properties": {f"property_{n}": "value " * 4 for n in range(30)},
    }  # fmt: skip
    return {"data": {"type": "profile", "attributes": attributes}}


ADVERSARIAL = {
    "at signs": " @", "addresses": "a@b.c ", "percent signs": "%", "backslashes": "\\",
    "digits": "12-34-5 ", "plus signs": "+1", "numbers": "123456789a", "keys": "pk_",
    "telling words": "token: x ", "one letter": "a",
}  # fmt: skip


def run(effort: Effort) -> list[Reading]:
    """Microseconds a body, microseconds a call, milliseconds a megabyte."""
    import orjson

    size = len(orjson.dumps(body()))
    with Auditor(journal=effort.folder / "keyed", pseudonym_key=_KEY) as auditor:
        gate = auditor.recorder.gate
        whole = body()
        allowed = kept_for("POST", "/api/profiles")
        rounds = effort.rounds(600, 100)
        taken = interleave(
            {
                "redaction": timed(lambda: capture.request_shape(_URL, whole, allowed, gate), 20),
                "orjson.dumps": timed(lambda: orjson.dumps(whole), 20),
            },
            rounds,
        )
        redaction = statistics.median(taken["redaction"])
        readings = [
            Reading(
                ROW, f"redaction of a body of {size:,} bytes, level request", redaction, "us", 60,
                f"orjson.dumps of it {statistics.median(taken['orjson.dumps']):.1f} us",
            )
        ]  # fmt: skip
        readings += _metadata(auditor, rounds)
        readings += _adversarial(gate.text, effort)
    return readings


def _metadata(auditor: Auditor, rounds: int) -> list[Reading]:
    """What naming the subject adds to a call that names one."""
    operation = by_template("POST", "/api/profiles")
    assert operation is not None
    target = targets._target(operation, "plain", None)
    small = {"data": {"type": "profile", "attributes": {"email": "sarah.mason@example.com"}}}

    def note() -> None:
        noting.note_request(auditor.recorder, CallRecord(target, None, is_sdk=True), _URL, small)

    taken = interleave(
        {
            "named": timed(note, 50),
            "not": timed(lambda: CallRecord(target, None, is_sdk=True), 50),
        },
        rounds,
    )
    added = difference(taken["named"], taken["not"])
    what = "level metadata: added to a call whose request names one person"
    return [Reading(ROW, what, added, "us", 2, "a pseudonym by HMAC-SHA256 included")]


def _adversarial(gate: Callable[[str], str], effort: Effort) -> list[Reading]:
    """The worst of several texts of a megabyte."""

    def found(text: str) -> None:
        list(detection.find(text))
        secrets.find(text)

    readings = []
    for what, search in (("by the gate", gate), ("searched as a whole", found)):
        worst = 0.0
        name = ""
        for kind, unit in ADVERSARIAL.items():
            text = unit * (_MEGABYTE // len(unit))
            block = timed(lambda text=text, search=search: search(text), 1)  # type: ignore[misc]
            taken = statistics.median(block() for _ in range(effort.rounds(9, 3))) / 1_000
            if taken > worst:
                worst, name = taken, kind
        readings.append(
            Reading(ROW, f"1 MB of adversarial text {what}, the worst kind", worst, "ms", 50, name)
        )
    return readings
