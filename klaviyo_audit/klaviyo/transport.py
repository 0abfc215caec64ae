"""Sending a request of our own through the SDK's HTTP layer, so that its proxy, host and TLS count.

Bodies go out as they are: the SDK's typed models before 24.0.0 drop members they do not know.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from klaviyo_audit.privacy import CREDENTIALS, clean_text
from klaviyo_audit.retryafter import seconds_to_wait

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

PROGRAM_KEY = "KLAVIYO_API_KEY"
"""Environment variable that Klaviyo's own examples keep the program's private key in."""

_MEDIA_TYPE = "application/vnd.api+json"
_AUTH = ["Klaviyo-API-Key", "OAuth"]
_MAX_ERRORS = 3


@dataclass(frozen=True, slots=True)
class Reply:
    """What came back."""

    status: int
    headers: Mapping[str, str] = field(repr=False)
    body: bytes = field(repr=False)

    def retry_after(self) -> float | None:
        """``Retry-After`` in seconds from now, at most an hour; None if absent or unreadable."""
        return seconds_to_wait(self.headers)

    def errors(self) -> list[tuple[str, str]]:
        """Pointer and words of each error in Klaviyo's form; empty for any other body."""
        import orjson

        try:
            found = orjson.loads(self.body)["errors"]
            return [
                (str((one.get("source") or {}).get("pointer", "")), str(one.get("detail", "")))
                for one in found
            ]
        except (ValueError, KeyError, TypeError, AttributeError):
            return []

    def why(self) -> str:
        """Status and the first errors, cleaned, for a message."""
        told = [f"{clean_text(words, 200)} ({pointer})" for pointer, words in self.errors()]
        return f"status {self.status}" + "".join(f"; {one}" for one in told[:_MAX_ERRORS])


class NotSent(Exception):  # noqa: N818  (a fact about the request)
    """The request did not leave this machine: nothing can have come of it."""


class NoReply(Exception):  # noqa: N818  (a fact about the request)
    """The request may have arrived; what became of it is not known."""


class Transport:
    """Sends requests with the ``ApiClient`` of a ``KlaviyoAPI``.

    Args:
        client: The ``KlaviyoAPI``.
        least_revision: API revision that is asked for where the SDK would ask for an older one.
    """

    def __init__(self, client: Any, *, least_revision: str) -> None:
        self._api_client = client.api_client
        self._revision = least_revision

    def send(
        self,
        method: str,
        path: str,
        *,
        query: Sequence[tuple[str, str]] = (),
        body: Any = None,
        timeout: tuple[float, float],
    ) -> Reply:
        """Send one request; it is not repeated here.

        Args:
            method: HTTP method.
            path: Path of the operation.
            query: Parameters of the query.
            body: What is sent as JSON.
            timeout: Seconds to connect, and seconds without a byte of the answer.

        Raises:
            NotSent: There was no connection.
            NoReply: The connection broke, or what came is no HTTP.
        """
        headers = {"Accept": _MEDIA_TYPE}
        if body is not None:
            headers["Content-Type"] = _MEDIA_TYPE
        verb, url, headers, _, _ = self._api_client.param_serialize(
            method, path, query_params=list(query), header_params=headers, auth_settings=_AUTH
        )
        # ISO dates: the later one is the greater text.
        headers["revision"] = max(str(headers.get("revision", "")), self._revision)
        try:
            response = self._api_client.call_api(
                verb, url, headers, body, None, _request_timeout=timeout
            )
        except Exception as error:
            raise (NotSent if _never_left(error) else NoReply)(_name(error)) from None
        status = int(response.status)
        try:
            content = response.read() or b""
        except Exception:
            content = b""  # the status has arrived, which is what counts
        return Reply(status, response.getheaders(), content)

    def forget_connections(self) -> None:
        """Leave the open connections to another process, after a fork."""
        self._api_client.rest_client.pool_manager.clear()


def client_with(key: str, host: str | None) -> Any:
    """A ``KlaviyoAPI`` that repeats nothing, with a key that is masked from now on in all texts."""
    from klaviyo_api import KlaviyoAPI

    CREDENTIALS.add(key)
    from urllib3.util import Retry

    client = KlaviyoAPI(key, max_retries=0, test_host=host or "")
    # urllib3 would follow a redirect with the body, to whatever host, and take that one's answer.
    retries = Retry(0, redirect=0, raise_on_redirect=False)
    client.api_client.rest_client.pool_manager.connection_pool_kw["retries"] = retries
    return client


def program_key() -> str | None:
    """The private key of the audited program, from its environment."""
    return os.environ.get(PROGRAM_KEY, "").strip() or None


def _never_left(error: BaseException) -> bool:
    from openapi_client.exceptions import ApiException
    from urllib3 import exceptions

    if isinstance(error, ApiException):
        return bool(error.status == 0)  # what the SDK makes of a failed TLS handshake
    reason = getattr(error, "reason", None)
    cause = reason if isinstance(error, exceptions.MaxRetryError) else error
    if isinstance(cause, exceptions.ProxyError):
        cause = cause.original_error
    return isinstance(
        cause,
        exceptions.NewConnectionError | exceptions.ConnectTimeoutError | exceptions.SSLError,
    )


def _name(error: BaseException) -> str:
    cause = getattr(error, "reason", None)
    return type(cause if isinstance(cause, BaseException) else error).__name__
