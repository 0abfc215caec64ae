"""Where a program's key comes from, so that an exchanged key is taken up without a restart."""

from __future__ import annotations

import contextlib
import logging
import os
import subprocess
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self, TypeVar

from klaviyo_audit import context
from klaviyo_audit.entry import Result
from klaviyo_audit.errors import ConfigurationError
from klaviyo_audit.klaviyo.keys import fingerprint, key_of
from klaviyo_audit.klaviyo.twins import original
from klaviyo_audit.privacy import CREDENTIALS
from klaviyo_audit.privacy.text import without_secrets

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from klaviyo_audit.auditor import Auditor

    T = TypeVar("T")

ACTION: Final = "klaviyo_audit.key_read_again"
"""``action`` of the entry that is left when a key was read again."""
_UNAUTHORIZED: Final = 401
_MAX_BYTES: Final = 10_000
_PAUSE: Final = 30.0
"""Seconds after a fruitless reading before the next: a dead key must not run a command per call."""
_PRIVATE: Final = "Klaviyo-API-Key"

_log = logging.getLogger("klaviyo_audit")


class KeySource:
    """Gives the key, and reads it again when Klaviyo does not take it any more (401).

    The request that got the 401 (which nothing was done for) is then sent once more with the new
    key, if there is one. The caller sees the second answer; the trail an event about the reading,
    and the key and the number of requests in the call's outcome.

    Args:
        read: Gives the key or OAuth access token as it is now.
        name: What the source is, for people and the trail; no secret.

    Example:
        >>> source = KeySource.file("/run/secrets/klaviyo")  # doctest: +SKIP
        >>> client = source.attach(KlaviyoAPI(source.key()))  # doctest: +SKIP
        >>> klaviyo = audit(client)  # doctest: +SKIP
    """

    def __init__(self, read: Callable[[], str], name: str) -> None:
        self._read = read
        self.name = without_secrets(name)  # somebody may give the key in place of its variable
        self._lock = threading.Lock()
        self._key: str | None = None
        self._given: set[str] = set()
        self._not_before = 0.0

    @classmethod
    def environment(cls, variable: str) -> Self:
        """The key in an environment variable of this process, which may change it itself."""
        return cls(lambda: os.environ.get(variable, ""), f"environment variable {variable}")

    @classmethod
    def file(cls, path: str | os.PathLike[str]) -> Self:
        """The key in a file, as secret stores mount them; line ends around it are left out."""
        where = Path(path)

        def read() -> str:
            with where.open("rb") as file:
                return file.read(_MAX_BYTES).decode()

        return cls(read, f"file {where}")

    @classmethod
    def command(cls, arguments: Sequence[str], *, timeout: float = 10.0) -> Self:
        """The key that a program prints. It is started without a shell.

        Args:
            arguments: The program and its arguments.
            timeout: Seconds it may take; the call that waits for it is held up as long.
        """
        words = [str(word) for word in arguments]
        if isinstance(arguments, str) or not words:
            raise ConfigurationError("KeySource.command takes a list: the program, its arguments")

        def read() -> str:
            done = subprocess.run(  # noqa: S603  (the program's own choice)
                words, capture_output=True, check=True, timeout=timeout, stdin=subprocess.DEVNULL
            )
            return done.stdout[:_MAX_BYTES].decode()

        return cls(read, f"command {words[0]}")

    def key(self) -> str:
        """The key; read at the first time, and kept until Klaviyo refuses it.

        Raises:
            ConfigurationError: It cannot be read, or is empty. The message does not hold it.
        """
        with self._lock:
            if self._key is None:
                try:
                    self._key = self._fresh()
                except Exception as error:
                    # What was raised may quote the key.
                    why = type(error).__name__
                    if type(error) is ValueError:
                        why = "it is not set, empty, or no key"
                    raise ConfigurationError(
                        f"no key could be read from the {self.name} ({why})"
                    ) from None
            return self._key

    def attach(self, client: T, *, auditor: Auditor | None = None) -> T:
        """Let a client take a new key from here when its key is refused.

        Args:
            client: A ``KlaviyoAPI``, audited or not, or an ``ApiClient``. A key given to one call
                (``_request_auth``) is left alone.
            auditor: Where the event goes; the process's default auditor if not given.

        Returns:
            The client itself.

        Raises:
            ConfigurationError: It has no HTTP client that could be watched.
        """
        api_client = original(getattr(client, "api_client", client))
        rest = getattr(api_client, "rest_client", None)
        if rest is None or not hasattr(api_client, "configuration"):
            raise ConfigurationError(
                f"a {type(client).__name__} has no key that could be exchanged; attach a KlaviyoAPI"
            )
        for key in _keys_of(api_client.configuration):
            self._given.add(fingerprint(key))
        # In the instance, where it goes with this client alone; a second attach takes its place.
        send = getattr(rest.request, "_audit_send", rest.request)
        rest.request = _watching(self, send, client, api_client.configuration, auditor)
        return client

    def gave(self, key: str) -> bool:
        """Whether a key came from here, or was in a client when that was attached."""
        return fingerprint(key) in self._given

    def other_than(self, refused: str, auditor: Auditor | None) -> str | None:
        """A key that is not the one Klaviyo has just refused, if there is one; recorded.

        Args:
            refused: The key that got a 401.
            auditor: Where the event goes.
        """
        with self._lock:
            if self._key is not None and self._key != refused:
                return self._key  # another thread has read it meanwhile
            if time.monotonic() < self._not_before:
                return None
            facts: dict[str, Any] = {"source": self.name, "refused": fingerprint(refused)}
            key: str | None = None
            try:
                key = self._fresh()
            except Exception as error:
                facts["error"] = type(error).__name__
            if key == refused:
                key = None
            if key is None:
                self._not_before = time.monotonic() + _PAUSE
            else:
                self._key = key
                facts["now"] = fingerprint(key)
        _record(auditor, facts, found=key is not None)
        return key

    def _fresh(self) -> str:
        key = self._read().strip()
        if not key or not key.isprintable() or not key.isascii():
            raise ValueError("no key")
        CREDENTIALS.add(key)
        self._given.add(fingerprint(key))
        return key

    def __repr__(self) -> str:
        return f"<KeySource {self.name}>"


def _watching(
    source: KeySource,
    send: Callable[..., Any],
    client: Any,
    configuration: Any,
    auditor: Auditor | None,
) -> Callable[..., Any]:
    """What stands in for ``RESTClientObject.request``, below everything that is audited."""

    def request(method: str, url: str, *args: Any, **kwargs: Any) -> Any:
        response = send(method, url, *args, **kwargs)
        if response.status != _UNAUTHORIZED:
            return response
        headers = kwargs.get("headers") or {}
        scheme, _, refused = str(headers.get("Authorization", "")).partition(" ")
        if not source.gave(refused):
            return response  # a key that was given to this call alone
        key = source.other_than(refused, auditor)
        if key is None:
            return response
        _put(client, configuration, scheme, key)
        _release(response)
        changed = {**headers, "Authorization": f"{scheme} {key}"}
        call = context.CURRENT.get()
        if call is not None and call.is_sdk and call.transport_url == url:
            call.key = key_of(changed, url)
            if call.requests is not None:
                call.requests += 1  # the one that was refused; the tap counts the one to come
        return send(method, url, *args, **{**kwargs, "headers": changed})

    request._audit_send = send  # type: ignore[attr-defined]  # noqa: SLF001
    return request


def _keys_of(configuration: Any) -> list[str]:
    """The credentials that a client's configuration holds."""
    private = (getattr(configuration, "api_key", None) or {}).get(_PRIVATE, "")
    token = getattr(configuration, "access_token", None)
    return [key for key in (str(private).removeprefix(f"{_PRIVATE} "), token) if key]


def _put(client: Any, configuration: Any, scheme: str, key: str) -> None:
    """Give a client its new key, for the calls to come."""
    if scheme == _PRIVATE:
        configuration.api_key[_PRIVATE] = f"{_PRIVATE} {key}"
        attribute = "api_key"
    else:
        configuration.access_token = key
        attribute = "access_token"
    if client is not None and hasattr(client, attribute):
        with contextlib.suppress(AttributeError, TypeError):
            setattr(client, attribute, key)


def _release(response: Any) -> None:
    """Give the connection of an answer that nobody reads back to the pool."""
    with contextlib.suppress(Exception):
        response.response.drain_conn()
        response.response.release_conn()


def _record(auditor: Auditor | None, facts: dict[str, Any], *, found: bool) -> None:
    """Leave the event. Whatever goes wrong here, the call goes on."""
    with contextlib.suppress(Exception):
        if auditor is None:
            from klaviyo_audit.default import default_auditor

            auditor = default_auditor()
        result = Result.SUCCESS if found else Result.FAILURE
        auditor.record(ACTION, resource=f"key:{facts['refused']}", result=result, metadata=facts)
    if not found:
        why = facts.get("error", "it still gives the same key")
        _log.warning(
            "Klaviyo refuses the key %s (401), and the %s has no other one (%s)",
            facts["refused"], facts["source"], why,
        )  # fmt: skip
