"""Verifying that a webhook delivery is what Klaviyo signed."""

from __future__ import annotations

import hmac
import re
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from enum import StrEnum
from hashlib import sha256
from typing import Any, Final

import orjson

from klaviyo_audit.errors import ConfigurationError, WebhookVerificationError

__all__ = [
    "Headers",
    "Refusal",
    "Secrets",
    "WebhookDelivery",
    "secret_bytes",
    "signature",
    "verify_signature",
    "verify_webhook",
]

Headers = Mapping[Any, Any] | Iterable[tuple[Any, Any]]
"""A mapping or pairs; names and values as ``str`` or ``bytes``, names in any case."""

Secrets = str | bytes | Sequence[str | bytes]
"""One secret, or several while one takes the place of another."""

SIGNATURE_HEADER: Final = "klaviyo-signature"
TIMESTAMP_HEADER: Final = "klaviyo-timestamp"
WEBHOOK_ID_HEADER: Final = "klaviyo-webhook-id"
MIN_SECRET: Final = 16
"""Characters that Klaviyo asks of a webhook's secret at least."""

_NEEDED: Final = (SIGNATURE_HEADER, TIMESTAMP_HEADER, WEBHOOK_ID_HEADER)
_HEX: Final = re.compile(rb"[0-9a-f]{64}")


class Refusal(StrEnum):
    """Why a delivery was refused: for logs and entries, never for the answer to the sender."""

    MISSING_HEADER = "missing_header"
    REPEATED_HEADER = "repeated_header"
    """A header came twice, and two readers could take different ones."""
    MALFORMED_SIGNATURE = "malformed_signature"
    WRONG_SIGNATURE = "wrong_signature"
    """No secret gives it: another secret, or body or timestamp are not what was signed."""
    MALFORMED_TIMESTAMP = "malformed_timestamp"
    TOO_OLD = "too_old"
    FROM_THE_FUTURE = "from_the_future"
    MALFORMED_BODY = "malformed_body"
    """Signed, but no JSON object with ``meta.klaviyo_webhook_id``."""
    WRONG_WEBHOOK_ID = "wrong_webhook_id"
    """The header names another webhook than the signed body."""
    REPLAYED = "replayed"
    TOO_LARGE = "too_large"
    INCOMPLETE_BODY = "incomplete_body"
    REPLAYS_UNKNOWN = "replays_unknown"
    """The memory of deliveries could not be asked."""


@dataclass(frozen=True, slots=True)
class WebhookDelivery:
    """A delivery that Klaviyo signed."""

    webhook_id: str
    account_id: str | None
    """Site id of the Klaviyo account, where the body says it."""
    sent: datetime
    """``Klaviyo-Timestamp``, UTC."""
    data: list[dict[str, Any]] = field(repr=False)
    """The body's ``data``: one ``{external_id, payload, topic}`` for each event."""
    signature: str = field(repr=False)
    secret_index: int
    """Which of the secrets signed it, in the order given; 0 for a single one."""

    @property
    def topics(self) -> tuple[str, ...]:
        """The topic of each event, in the body's order."""
        return tuple(str(event.get("topic")) for event in self.data)

    @property
    def external_ids(self) -> tuple[str, ...]:
        """The id of each event, in the body's order."""
        return tuple(str(event.get("external_id")) for event in self.data)


def signature(body: bytes, timestamp: bytes, secret: bytes) -> str:
    """What Klaviyo sends as ``Klaviyo-Signature``.

    Args:
        body: The raw request body.
        timestamp: The value of ``Klaviyo-Timestamp``, verbatim.
        secret: The webhook's secret.
    """
    mac = hmac.new(secret, body, sha256)
    mac.update(timestamp)
    return mac.hexdigest()


def verify_signature(payload: bytes | str, signature: bytes | str, secret: bytes | str) -> bool:
    """Check the plain scheme: lowercase hexadecimal HMAC-SHA256 of the payload, in constant time.

    This is for webhooks that sign only the body. Klaviyo's system webhooks sign more: see
    `verify_webhook`.

    Args:
        payload: What was signed, as it was received.
        signature: The signature that came with it.
        secret: The shared secret.

    Returns:
        Whether the signature is the secret's.

    Raises:
        ConfigurationError: The secret is empty, so that anybody could sign.
    """
    key = _bytes(secret)
    if not key:
        raise ConfigurationError("the webhook's secret is empty: anybody could sign with it")
    given = signature.encode("utf-8", "replace") if isinstance(signature, str) else signature
    return hmac.compare_digest(hmac.digest(key, _bytes(payload), sha256).hex().encode(), given)


def verify_webhook(
    body: bytes | str, headers: Headers, secret: Secrets, *, tolerance: float | None = 300
) -> WebhookDelivery:
    """Check that a delivery of a system webhook is what Klaviyo signed.

    ``Klaviyo-Signature`` is the lowercase hexadecimal HMAC-SHA256 of the raw body followed by
    ``Klaviyo-Timestamp`` verbatim; ``Klaviyo-Webhook-Id`` has to be the signed body's
    ``meta.klaviyo_webhook_id`` (https://developers.klaviyo.com/en/docs/working_with_system_webhooks).
    Flow webhooks are not signed, and cannot be verified.

    Args:
        body: The raw body, as it was received: not decoded, not re-encoded.
        headers: The request's headers.
        secret: The webhook's secret, or several while it is being exchanged.
        tolerance: Seconds that the timestamp may be away from now, either way; ``None``: any age.
            Klaviyo prescribes none. Within it the same delivery verifies again: refusing
            replays takes a memory, which the receivers in `klaviyo_audit.integrations` have.

    Returns:
        The delivery.

    Raises:
        WebhookVerificationError: It is not to be trusted; ``reason`` is a `Refusal`.
        ConfigurationError: A secret has less than 16 characters, or there is none.
        TypeError: The body is neither bytes nor text, such as one that was parsed already.
    """
    keys = secret_bytes(secret)
    if not isinstance(body, bytes | bytearray | memoryview | str):
        raise TypeError(
            f"verify_webhook() was given a {type(body).__name__} for the body; give the bytes that "
            "came over the wire: a body that was parsed can not be verified any more"
        )
    content = _bytes(body)
    found = _signing_headers(headers)
    given, timestamp = found[SIGNATURE_HEADER], found[TIMESTAMP_HEADER]
    index = _signer(content, given, timestamp, keys)
    sent = _sent(timestamp)
    if tolerance is not None:
        _check_age(sent, tolerance)
    data, meta = _document(content)
    webhook_id = str(meta["klaviyo_webhook_id"])
    if not hmac.compare_digest(webhook_id.encode(), found[WEBHOOK_ID_HEADER]):
        raise _refused(
            Refusal.WRONG_WEBHOOK_ID, "Klaviyo-Webhook-Id is not the webhook of the signed body"
        )
    account = meta.get("klaviyo_account_id")
    return WebhookDelivery(
        webhook_id=webhook_id,
        account_id=account if isinstance(account, str) else None,
        sent=sent,
        data=data,
        signature=given.decode(),
        secret_index=index,
    )


def secret_bytes(secret: Secrets) -> tuple[bytes, ...]:
    """The secrets as bytes.

    Raises:
        ConfigurationError: One has less than 16 characters, or there is none.
    """
    if secret is None:
        raise ConfigurationError("the webhook secret is None: is its environment variable set?")
    given = (secret,) if isinstance(secret, str | bytes) else tuple(secret)
    if not given:
        raise ConfigurationError("no webhook secret was given: nothing could be verified")
    if not all(isinstance(one, str | bytes) for one in given):
        raise ConfigurationError("a webhook secret is neither str nor bytes (is it not set?)")
    if any(len(one) < MIN_SECRET for one in given):
        raise ConfigurationError(
            f"a webhook secret has fewer than {MIN_SECRET} characters, the least that Klaviyo "
            "takes; give the secret that the webhook was made with"
        )
    return tuple(_bytes(one) for one in given)


def _signing_headers(headers: Headers) -> dict[str, bytes]:
    # Multidicts give every value from items(), mappings that cannot repeat a name their only one.
    pairs = getattr(headers, "items", None)
    found: dict[str, bytes] = {}
    for name, value in headers if pairs is None else pairs():
        key = (name if isinstance(name, str) else bytes(name).decode("latin-1")).lower()
        if key not in _NEEDED:
            continue
        if key in found:
            raise _refused(Refusal.REPEATED_HEADER, f"the header {key} came more than once")
        # Frameworks decode headers as Latin-1, which gives the bytes that were received.
        found[key] = value.encode("latin-1", "replace") if isinstance(value, str) else bytes(value)
    missing = [name for name in _NEEDED if not found.get(name)]
    if missing:
        raise _refused(Refusal.MISSING_HEADER, f"missing: {', '.join(missing)}")
    return found


def _signer(body: bytes, given: bytes, timestamp: bytes, keys: Sequence[bytes]) -> int:
    """Which secret signed it. All are tried, so that the time taken tells nothing."""
    if not _HEX.fullmatch(given):
        raise _refused(
            Refusal.MALFORMED_SIGNATURE, "Klaviyo-Signature is not 64 lowercase hexadecimal digits"
        )
    signers = [
        index
        for index, key in enumerate(keys)
        if hmac.compare_digest(signature(body, timestamp, key).encode(), given)
    ]
    if not signers:
        raise _refused(
            Refusal.WRONG_SIGNATURE,
            "no secret gives this signature: another secret, or a changed body or timestamp",
        )
    return signers[0]


def _sent(timestamp: bytes) -> datetime:
    try:
        sent = parsedate_to_datetime(timestamp.decode("ascii"))
        # "-0000" means UTC too, and makes Python leave the zone out.
        return sent.replace(tzinfo=UTC) if sent.tzinfo is None else sent.astimezone(UTC)
    except (ValueError, TypeError, OverflowError, IndexError):
        pass
    raise _refused(Refusal.MALFORMED_TIMESTAMP, "Klaviyo-Timestamp is not a date as in RFC 1123")


def _check_age(sent: datetime, tolerance: float) -> None:
    age = time.time() - sent.timestamp()
    if age > tolerance:
        raise _refused(Refusal.TOO_OLD, f"sent {age:.0f} s ago; the tolerance is {tolerance:g} s")
    if age < -tolerance:
        raise _refused(Refusal.FROM_THE_FUTURE, f"sent {-age:.0f} s from now; is the clock right?")


def _document(body: bytes) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError:
        document = None
    meta = document.get("meta") if isinstance(document, dict) else None
    data = document.get("data", []) if isinstance(document, dict) else None
    if (
        not isinstance(meta, dict)
        or not isinstance(meta.get("klaviyo_webhook_id"), str)
        or not isinstance(data, list)
        or not all(isinstance(event, dict) for event in data)
    ):
        raise _refused(
            Refusal.MALFORMED_BODY, "the signed body has no data list and meta.klaviyo_webhook_id"
        )
    return data, meta


def _bytes(text: bytes | str) -> bytes:
    return text.encode("utf-8", "surrogatepass") if isinstance(text, str) else bytes(text)


def _refused(reason: Refusal, why: str) -> WebhookVerificationError:
    return WebhookVerificationError(f"the webhook delivery is refused: {why}", reason.value)
