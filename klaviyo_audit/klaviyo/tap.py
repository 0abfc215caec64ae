"""Watching what really goes over HTTP: every attempt passes `ApiClient.call_api`."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from klaviyo_audit.calls import JUDGING
from klaviyo_audit.journal.format import json_text
from klaviyo_audit.klaviyo import catalog, noting, targets
from klaviyo_audit.klaviyo.account import KLAVIYO
from klaviyo_audit.klaviyo.keys import key_of
from klaviyo_audit.klaviyo.outcome import http_text, requests_in_failure
from klaviyo_audit.klaviyo.readings import overriding

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from klaviyo_audit.calls import CallRecord
    from klaviyo_audit.privacy.gate import Gate
    from klaviyo_audit.recorder import Recorder

    _Found = Mapping[str, Sequence[str]]
    """Headers by lower-case name, each as its name and its values."""

_SDK_AGENT = "klaviyo-api-python/"
"""What the SDK says it is, unless the program has set ``ApiClient.user_agent``."""

_KLAVIYO = f"{KLAVIYO}/"

_INTEGER = re.compile(r"\s*(\d{1,9})")
_RETRY_AFTER = re.compile(
    r"(?:[0-9]{1,9}|[A-Z][a-z]{2}, [0-9]{2} [A-Z][a-z]{2} [0-9]{4} [0-9:]{8} GMT)\Z"
)


def watch_attempt(
    recorder: Recorder,
    call: CallRecord,
    send: Callable[..., Any],
    url: Any,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
) -> Any:
    """Send one attempt of a call and note what HTTP said.

    Args:
        recorder: Writes the intent before the first attempt.
        call: The call the attempt belongs to.
        send: The SDK's own ``call_api``, bound.
        url: The URL among its arguments.
        args: Its positional arguments: method, url, header_params, body, ...
        kwargs: Its keyword arguments.

    Raises:
        AccessDenied: The guard does not allow it. Nothing was sent.
        AuditUnavailable: See `Recorder.before_request`. Nothing was sent.
        Exception: Whatever ``send`` raises, itself.
    """
    guard = recorder.guard
    headers = args[2] if len(args) > 2 else kwargs.get("header_params")  # noqa: PLR2004
    text = str(url)
    overridden = overriding(args[0] if args else kwargs.get("method"), text, headers)
    if overridden != call.overridden:
        _note_override(call, overridden, text)
    if not call.attempts:
        _describe_request(call, text, headers, recorder.gate)
        if recorder.notes_requests or call.target.place is not None or "filter=" in text:
            body = args[3] if len(args) > 3 else kwargs.get("body")  # noqa: PLR2004
            noting.note_request(recorder, call, text, body)
    # Later attempts too: nothing says that they ask for the same.
    if guard is not None and call.guarded_url != url:
        call.transport_url = JUDGING
        try:
            guard.check(recorder, call, send, text, args, kwargs)
        finally:
            call.transport_url = None
    if not call.attempts:
        recorder.before_request(call)
    if not text.startswith(_KLAVIYO):
        begins, member = recorder.server
        call.server = member if text.startswith(begins) else _describe_server(recorder, text)
    call.attempts += 1
    call.status = call.http = None
    call.transport_url = url
    try:
        response = send(*args, **kwargs)
    except BaseException as error:
        call.transport_url = None
        sent = requests_in_failure(error)
        call.requests = None if sent is None or call.requests is None else call.requests + sent
        raise
    call.transport_url = None
    _note_response(call, response, recorder.gate)
    return response


def _note_override(call: CallRecord, method: str | None, url: str) -> None:
    """Record that another method is asked for, and have the guard judge the call anew."""
    call.overridden = method
    call.guarded_url = None
    if method is not None:
        asks_for = targets.target_for(catalog.by_url(method, url)).action
        facts = {"method": method, "asks_for": asks_for}
        call.guarded = {**(call.guarded or {}), "method_override": facts}


def _describe_request(
    call: CallRecord, url: str, headers: Mapping[str, Any] | None, gate: Gate
) -> None:
    path = url_path(url)
    if "/." in path:
        # urllib3 resolves these before it sends: get_lists_for_profile("..") asks /api/lists.
        from urllib3.util import parse_url

        path = urlsplit(parse_url(url).url).path
    call.url = url
    call.resource = gate.path(path)
    call.key = key_of(headers, url)
    if headers:
        revision = headers.get("revision")
        if revision is not None and revision != call.revision:
            call.revision = gate.text(str(revision), 40)
        agent = headers.get("User-Agent")
        if agent is not None and not agent.startswith(_SDK_AGENT):
            call.agent = gate.text(agent, 200)


def _describe_server(recorder: Recorder, text: str) -> str:
    """The entry's ``http.server``: what urllib3 takes for scheme, host and port of a URL."""
    from urllib3.exceptions import LocationParseError
    from urllib3.util import parse_url

    origin = "/".join(text.split("/", 3)[:3])
    try:
        url = parse_url(origin)
        server = f"{url.scheme or 'http'}://{url.host}" + (f":{url.port}" if url.port else "")
    except LocationParseError:
        server = "unreadable"
    member = f',"server":{json_text(recorder.gate.text(server, 200))}'
    recorder.server = (f"{origin}/", member)
    return member


def url_path(url: str) -> str:
    """The path of a URL: no host, no user, no query, no fragment."""
    scheme = url.find("://")
    start = url.find("/", scheme + 3)
    if scheme <= 0 or start < 0 or "#" in url:
        return urlsplit(url).path
    end = url.find("?", start)
    return url[start:] if end < 0 else url[start:end]


def _note_response(call: CallRecord, response: Any, gate: Gate) -> None:
    try:
        call.status = response.status
        raw = response.response
        retries = raw.retries
        if call.requests is not None:
            call.requests += 1 + (len(retries.history) if retries is not None else 0)
        call.http = http_text(call) + _header_facts(call, raw.headers, gate)
        call.response_data = response
    except Exception:
        # A transport of the user's own may answer with another type; the status is what counts.
        call.requests = None


_NO_HEADER = ("", "")


def _header_facts(call: CallRecord, headers: Mapping[str, str], gate: Gate) -> str:
    """Members of the entry's ``http`` that response headers tell, with a comma before each."""
    text = ""
    found = _by_name(headers)
    request_id = found.get("x-klaviyo-req-id")
    if request_id is None or not request_id[1]:
        request_id = found.get("cf-ray")
    if request_id is not None:
        text = f',"request_id":{json_text(gate.token(request_id[1]))}'
    revision = found.get("x-klaviyo-api-revision")
    if revision is not None and revision[1] != call.revision:
        text += f',"revision":{json_text(gate.token(revision[1]))}'
    limits = _rate_limit(found, gate)
    return f'{text},"rate_limit":{{{limits}}}' if limits else text


_WANTED = (
    "x-klaviyo-req-id",
    "cf-ray",
    "x-klaviyo-api-revision",
    "ratelimit-limit",
    "ratelimit-remaining",
    "ratelimit-reset",
    "retry-after",
)


def _by_name(headers: Mapping[str, str]) -> _Found:
    """The headers, at least those that matter.

    It is the dictionary inside urllib3's `HTTPHeaderDict` (the same in 1.26 and 2.x) where it is
    there: seven look-ups through its own methods take 5 us, these 0.3.
    """
    inside = getattr(headers, "_container", None)
    if type(inside) is dict:
        return inside
    return {name: (name, headers[name]) for name in _WANTED if name in headers}


def _rate_limit(found: _Found, gate: Gate) -> str:
    """The members of the entry's ``rate_limit``."""
    text = ""
    if "ratelimit-limit" in found:
        try:
            limit = int(found["ratelimit-limit"][1])
            remaining = int(found["ratelimit-remaining"][1])
            reset = int(found["ratelimit-reset"][1])
            exact = not (limit | remaining | reset) >> 53  # none negative or past what JSON keeps
        except (KeyError, ValueError):
            exact = False
        text = (
            f'"limit":{limit},"remaining":{remaining},"reset":{reset}'
            if exact
            else _lenient_rate_limit(found)
        )
    retry_after = found.get("retry-after")
    if retry_after is None:
        return text
    text = f"{text}," if text else ""
    return f'{text}"retry_after":{json_text(_told(retry_after[1], gate))}'


def _told(retry_after: str, gate: Gate) -> str:
    """``Retry-After`` as sent, if it is seconds or an HTTP date (RFC 9110, section 10.2.3)."""
    return retry_after if _RETRY_AFTER.match(retry_after) else gate.token(retry_after)


def _lenient_rate_limit(headers: _Found) -> str:
    # As in "750, 750;w=60", which the IETF draft also allows.
    found = {
        name: _INTEGER.match(headers.get(f"ratelimit-{name}", _NO_HEADER)[1])
        for name in ("limit", "remaining", "reset")
    }
    return ",".join(f'"{name}":{int(one[1])}' for name, one in found.items() if one is not None)
