"""Noting of a request and its response what rules let an entry keep."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from klaviyo_audit.klaviyo import capture
from klaviyo_audit.klaviyo.consent import CHANGES, consent_of
from klaviyo_audit.klaviyo.kept import Kept, kept_for
from klaviyo_audit.klaviyo.subjects import (
    DELETION,
    IDENTIFIERS,
    MAX_SUBJECTS,
    attributes,
    identifiers,
    in_filter,
    said_of,
)
from klaviyo_audit.privacy.identifiers import normalise
from klaviyo_audit.privacy.policy import Level

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from klaviyo_audit.calls import CallRecord
    from klaviyo_audit.privacy.identifiers import Kind
    from klaviyo_audit.privacy.pseudonyms import Pseudonyms
    from klaviyo_audit.recorder import Recorder

_NONE: Final = Level.NONE
_METADATA: Final = Level.METADATA


def note_request(recorder: Recorder, call: CallRecord, url: str, body: Any) -> None:
    """Note whom a request is about, what it changes in consent, and what is kept of it.

    Never raises: a body that is built otherwise is the program's affair.

    Args:
        recorder: Knows the rules.
        call: Takes what is noted.
        url: The URL as it is sent.
        body: The body as JSON types, or None. It is read, never changed.
    """
    try:
        level = recorder.level(call)
        target, pseudonyms = call.target, recorder.gate.pseudonyms
        if recorder.on_deletion is not None and target.identity == DELETION:
            # Whoever is to be forgotten is not named: the time of the call alone would tell.
            call.forgets = _to_forget(target.place, body, pseudonyms)
            about: CallRecord | None = call
            while about is not None:
                about.hides = True
                about = about.parent
        elif level is not _NONE and pseudonyms is not None:
            call.subjects = subjects_of(target.place, url, body, pseudonyms)
        if level is _NONE:
            return
        call.says = said
        call.body = body
        identity = target.identity
        if identity is not None and identity in CHANGES:
            call.consent = consent_of(identity, body, recorder.gate)
        if level is not _METADATA:
            call.request = capture.request_shape(url, body, _allowed(call), recorder.gate)
    except Exception as unforeseen:
        recorder.alarms.defect(unforeseen)


def note_response(recorder: Recorder, call: CallRecord) -> None:
    """Note what is kept of a response. Never raises."""
    try:
        if recorder.level(call) is Level.REQUEST_RESPONSE:
            data = getattr(call.response_data, "data", None)
            call.response = capture.response_shape(data, _allowed(call), recorder.gate)
    except Exception as unforeseen:
        recorder.alarms.defect(unforeseen)


def forget(recorder: Recorder, persons: Sequence[tuple[Kind, str]]) -> None:
    """Destroy the keys of persons whose deletion Klaviyo has accepted. Never raises."""
    if recorder.on_deletion is None:
        return
    try:
        recorder.on_deletion(persons)
    except Exception as error:
        recorder.alarms.trouble(
            "the keys of a person whose deletion was asked for could not be destroyed",
            error,
            "klaviyo-audit forget",
        )


def subjects_of(
    place: tuple[str, ...] | None, url: str, body: Any, pseudonyms: Pseudonyms
) -> list[str]:
    """The entry's ``subjects``: pseudonyms of the persons that a request names, each once.

    At most 1,000; a mark after them says how many more there were.
    """
    named: dict[Any, None] = {}
    if place is not None and body is not None:
        for found in attributes(place, body):
            for member, kind in IDENTIFIERS:
                if member in found:
                    value = found[member]
                    if type(value) is str and value:
                        named[pseudonyms.of(kind, value)] = None
    if "filter=" in url:
        for kind, value in in_filter(url):
            named[pseudonyms.of(kind, value)] = None
    named.pop(None, None)
    names: list[str] = list(named)
    if len(names) > MAX_SUBJECTS:
        return [*names[:MAX_SUBJECTS], f"[cut: {len(names)} subjects]"]
    return names


def said(call: CallRecord) -> Iterator[tuple[Kind | None, str]]:
    """What a call's request says of persons, so that no free text repeats it.

    With the kind of each identifier that may become a pseudonym; all else is masked.
    """
    place = call.target.place
    if place is not None and call.body is not None:
        for found in attributes(place, call.body):
            for kind, value in said_of(found):
                yield kind if call.forgets is None else None, value
    if call.url is not None:
        yield from in_filter(call.url)


def _to_forget(
    place: tuple[str, ...] | None, body: Any, pseudonyms: Pseudonyms | None
) -> list[tuple[Kind, str]]:
    region = None if pseudonyms is None else pseudonyms.region
    persons: list[tuple[Kind, str]] = []
    for found in attributes(place or (), body):
        for kind, value in identifiers(found):
            normal = normalise(kind, value, region)
            if normal is not None:
                persons.append((kind, normal))
    return persons


def _allowed(call: CallRecord) -> Kept:
    method, path = call.target.identity or ("", "")
    return kept_for(method, path)
