"""Asking Klaviyo whether a credential is live, and whose it is."""

from __future__ import annotations

import contextlib
import time
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

import orjson

KLAVIYO: Final = "https://a.klaviyo.com"
_REVISION: Final = "2026-10-15"
_TIMEOUT: Final = 15.0
_MOST_TRIES: Final = 4
_MOST_WAIT: Final = 60.0
"""Longest time that a ``Retry-After`` is obeyed, seconds. The limit is 1/s and 15/m."""
_MAX_BODY: Final = 1 << 20


class KeyState(StrEnum):
    """What Klaviyo says to a credential."""

    LIVE = "live"
    LIVE_WITHOUT_SCOPE = "live_without_scope"
    """It is good, but may not read the account (no ``accounts:read``)."""
    DEAD = "dead"
    UNKNOWN = "unknown"
    """No answer that tells."""


@dataclass(frozen=True, slots=True)
class KeyCheck:
    """The answer about one credential."""

    state: KeyState
    status: int | None = None
    """HTTP status; None when no answer came."""
    account: str | None = None
    """Site id of the account, with `LIVE`."""
    why: str | None = None
    """For `UNKNOWN`."""


def check_key(key: str, *, host: str = KLAVIYO, oauth: bool = False) -> KeyCheck:
    """Ask Klaviyo about a credential: one ``GET /api/accounts``, which changes nothing.

    200: live; 403: live, without ``accounts:read``; 401: dead (measured; the rate limit is 1/s and
    15/m, and a 429 is waited out).

    Args:
        key: A private key or an OAuth access token.
        host: Another host than Klaviyo's, for tests.
        oauth: Whether it is a token.
    """
    scheme = "Bearer" if oauth else "Klaviyo-API-Key"
    try:
        status, body = request("GET", "/api/accounts", f"{scheme} {key}", host=host)
    except OSError as error:
        return KeyCheck(KeyState.UNKNOWN, why=str(error))
    if status == 200:  # noqa: PLR2004
        account = None
        with contextlib.suppress(KeyError, IndexError, TypeError):
            account = body["data"][0]["id"]
        return KeyCheck(KeyState.LIVE, status, account if isinstance(account, str) else None)
    if status == 403:  # noqa: PLR2004
        return KeyCheck(KeyState.LIVE_WITHOUT_SCOPE, status)
    if status == 401:  # noqa: PLR2004
        return KeyCheck(KeyState.DEAD, status)
    return KeyCheck(KeyState.UNKNOWN, status, why=f"HTTP status {status}")


def request(
    method: str,
    path: str,
    authorization: str,
    *,
    host: str = KLAVIYO,
    revision: str = _REVISION,
    body: Any = None,
) -> tuple[int, Any]:
    """Send one request about keys; these are not calls of the audited program.

    Args:
        method: HTTP method.
        path: Path and query.
        authorization: The header of that name.
        host: Scheme, host and port.
        revision: API revision.
        body: Sent as JSON.

    Returns:
        Status, and the decoded body (None if it is no JSON).

    Raises:
        OSError: No answer came. The message holds no credential.
    """
    import urllib3

    headers = {
        "Authorization": authorization,
        "Accept": "application/vnd.api+json",
        "Content-Type": "application/vnd.api+json",
        "revision": revision,
    }
    data = None if body is None else orjson.dumps(body)
    deadline = time.monotonic() + _MOST_WAIT
    with urllib3.PoolManager(retries=False, timeout=_TIMEOUT) as pool:
        for remaining in reversed(range(_MOST_TRIES)):
            try:
                answer = pool.request(
                    method, host + path, headers=headers, body=data, preload_content=False,
                    redirect=False,
                )  # fmt: skip
                content = answer.read(_MAX_BODY)
            except (urllib3.exceptions.HTTPError, UnicodeError) as error:
                # Its text names host and path only, but an invalid header could be quoted.
                raise OSError(f"no answer from {host} ({type(error).__name__})") from None
            wait = _retry_after(answer)
            if answer.status != 429 or not remaining or time.monotonic() + wait > deadline:  # noqa: PLR2004
                break
            time.sleep(wait)
    try:
        return answer.status, orjson.loads(content)
    except orjson.JSONDecodeError:
        return answer.status, None


def _retry_after(answer: Any) -> float:
    given = answer.headers.get("Retry-After", "")
    return float(given) if given.isdecimal() else 1.0
