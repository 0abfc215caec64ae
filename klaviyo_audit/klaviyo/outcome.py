"""Telling what became of a call: what HTTP said, not only what was raised."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import orjson

from klaviyo_audit.entry import Result
from klaviyo_audit.errors import AccessDenied
from klaviyo_audit.journal.format import json_text
from klaviyo_audit.klaviyo import noting
from klaviyo_audit.recorder import describe_error

if TYPE_CHECKING:
    from klaviyo_audit.calls import CallRecord
    from klaviyo_audit.privacy.gate import Gate
    from klaviyo_audit.recorder import Recorder

_MAX_ERROR_BODY = 262_144
_MAX_ERRORS = 10
_OK = range(200, 400)
# A look-up in an enumeration is 100 ns in Python 3.11.
_SUCCESS: Final = Result.SUCCESS
_FAILURE: Final = Result.FAILURE


def settle(recorder: Recorder, call: CallRecord, error: BaseException | None) -> None:
    """Write the outcome of an SDK call.

    Args:
        recorder: Where the outcome goes.
        call: The call, with what the tap noted.
        error: What the caller gets raised, if anything.
    """
    status = call.status
    if call.http is None:
        call.http = http_text(call)
    if recorder.notes_responses and call.response_data is not None:
        noting.note_response(recorder, call)
    if error is None:
        recorder.outcome(call, _SUCCESS if status is None or status in _OK else _FAILURE)
    else:
        gate = recorder.gate
        call.http += _klaviyo_errors(error, gate)
        described = describe_error(error, _stage(call, status), gate)
        recorder.outcome(call, _result(call, status, error), described)
    if call.forgets is not None and status in _OK:
        noting.forget(recorder, call.forgets)


def _result(call: CallRecord, status: int | None, error: BaseException) -> Result:
    if isinstance(error, AccessDenied):
        return Result.DENIED
    if status is not None:
        return Result.SUCCESS if status in _OK else Result.FAILURE
    # No answer. If a request may have left, nobody here knows what it did.
    sent = call.requests is None or call.requests > 0
    return Result.UNKNOWN if sent else Result.FAILURE


def _stage(call: CallRecord, status: int | None) -> str:
    if not call.attempts:
        return "before_request"
    if status is None:
        return "transport"
    return "after_response" if status in _OK else "http"


def http_text(call: CallRecord) -> str:
    """The first members of the entry's ``http``: what is known of every call."""
    status = call.status
    if type(status) is int and call.requests is not None:
        return (
            f'"status":{status},"attempts":{call.attempts},"requests":{call.requests}{call.server}'
        )
    text = "" if status is None else f'"status":{json_text(status)},'
    text += f'"attempts":{call.attempts}'
    if call.requests is not None:
        text += f',"requests":{call.requests}'
    return text + call.server


def _klaviyo_errors(error: BaseException, gate: Gate) -> str:
    """``errors[].id`` and ``errors[].code``; titles and details quote what was sent."""
    body = getattr(error, "body", None)
    if not isinstance(body, str | bytes) or not 0 < len(body) <= _MAX_ERROR_BODY:
        return ""
    try:
        errors = orjson.loads(body)["errors"]
        ids = [gate.token(str(one["id"])) for one in errors[:_MAX_ERRORS] if "id" in one]
        codes = [gate.token(str(one["code"])) for one in errors[:_MAX_ERRORS] if "code" in one]
    except (ValueError, TypeError, KeyError, AttributeError):
        return ""
    text = f',"error_ids":{json_text(ids)}' if ids else ""
    return text + f',"error_codes":{json_text(codes)}' if codes else text


def requests_in_failure(error: BaseException) -> int | None:
    """How many HTTP requests were really sent in an attempt that ended in an exception.

    urllib3 keeps count in a ``Retry`` object that it hands from one try to the next; when it
    gives up, the newest of them is only left in the frames of the traceback.

    Args:
        error: What ``call_api`` raised.

    Returns:
        The number, or None when it cannot be known. A request that broke off counts: it may
        have reached the server.
    """
    if isinstance(error, AccessDenied):
        return 0
    history: tuple[Any, ...] = ()
    in_urllib3 = False
    trace = error.__traceback__
    while trace is not None:
        frame = trace.tb_frame
        if frame.f_code.co_name == "urlopen":
            in_urllib3 = True
            retries = frame.f_locals.get("retries")
            newer = getattr(retries, "history", ())
            if isinstance(newer, tuple) and len(newer) > len(history):
                history = newer
        trace = trace.tb_next
    if not in_urllib3:
        # Raised before the transport (0 sent), unless the transport is the user's own.
        return 0 if isinstance(error, TypeError | ValueError) else None
    sent = sum(1 for one in history if not _not_sent(one.error))
    last = getattr(error, "reason", None) or error
    from urllib3.exceptions import ResponseError

    if isinstance(last, ResponseError):
        return sent + 1  # too many redirects or error statuses: the last one was answered too
    return sent if _not_sent(last) else sent + 1


def _not_sent(error: object) -> bool:
    from urllib3 import exceptions

    # Raised while connecting: no byte of the request was sent.
    while_connecting = (
        exceptions.NewConnectionError,
        exceptions.ConnectTimeoutError,
        exceptions.NameResolutionError,
        exceptions.ProxyError,
        exceptions.SSLError,
        exceptions.LocationValueError,
    )
    if isinstance(error, while_connecting):
        return True
    # The SDK turns a failed TLS handshake into ApiException(status=0).
    return getattr(error, "status", None) == 0
