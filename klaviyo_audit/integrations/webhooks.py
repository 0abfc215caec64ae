"""Receiving webhook deliveries, whatever the framework: verify, refuse replays, record."""

from __future__ import annotations

import hashlib
import math
import re
import threading
import time
from collections import Counter
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final

from klaviyo_audit.entry import Result
from klaviyo_audit.errors import AuditUnavailable, WebhookVerificationError
from klaviyo_audit.integrations.replays import ReplayMemory
from klaviyo_audit.klaviyo.webhook import (
    WEBHOOK_ID_HEADER,
    Refusal,
    secret_bytes,
    verify_webhook,
)
from klaviyo_audit.privacy import CREDENTIALS

if TYPE_CHECKING:
    from collections.abc import Iterable

    from klaviyo_audit.auditor import Auditor
    from klaviyo_audit.integrations.replays import Replays
    from klaviyo_audit.klaviyo.webhook import Headers, Secrets, WebhookDelivery

ACTION: Final = "klaviyo.webhook"
"""``action`` of the entries."""
REFUSED_STATUS: Final = 401
REFUSED_BODY: Final = b"refused\n"
"""One answer for every refusal, so that a sender cannot find out what to change."""
UNAVAILABLE_STATUS: Final = 503
"""The delivery may be good but cannot be recorded or remembered now: Klaviyo sends it again."""
UNAVAILABLE_BODY: Final = b"unavailable\n"
MAX_BODY: Final = 5 * 2**20
_FIRST_SERVER_ERROR: Final = 500

_MAX_LISTED: Final = 50
_REFUSALS_A_MINUTE: Final = 120
_WEBHOOK_ID: Final = re.compile(r"[0-9A-Za-z_-]{1,128}")


class WebhookReceiver:
    """Verifies deliveries, refuses replays, and leaves an entry for each.

    The adapters for ASGI, WSGI and Django are made of it; a framework they do not fit calls
    `receive` itself.

    Args:
        secret: The webhook's secret, or several while it is being exchanged.
        auditor: Where the entries go; the process's default auditor if not given.
        tolerance: Seconds that a delivery's timestamp may be away from now; ``None``: any age.
        max_body: Bytes that a body may have.
        replays: The memory of deliveries: `ReplayMemory` (of this process) if not given, a
            `SharedReplayMemory` for servers with several workers, or one of your own.

    Raises:
        ConfigurationError: A secret has less than 16 characters, or there is none.
    """

    def __init__(
        self,
        secret: Secrets,
        *,
        auditor: Auditor | None = None,
        tolerance: float | None = 300,
        max_body: int = MAX_BODY,
        replays: Replays | None = None,
    ) -> None:
        self._secrets = secret_bytes(secret)
        for one in self._secrets:
            CREDENTIALS.add(one.decode("utf-8", "replace"))
        self._given_auditor = auditor
        self._tolerance = tolerance
        self.max_body = max_body
        self._replays: Replays = ReplayMemory() if replays is None else replays
        self._flood = _Flood(_REFUSALS_A_MINUTE)

    def receive(self, body: bytes, headers: Headers) -> WebhookDelivery:
        """Decide about one delivery, and record what was decided.

        Args:
            body: The raw body.
            headers: The request's headers.

        Returns:
            The delivery. Call `failed` with it if it could not be worked on after all.

        Raises:
            WebhookVerificationError: It is refused. Answer as to every refusal.
            AuditUnavailable: It cannot be recorded while ``on_failure`` is ``"block"``, or the
                memory of deliveries cannot be asked. Answer with a 503.
        """
        try:
            delivery = self._verified(body, headers)
        except WebhookVerificationError as error:
            self._record_refusal(error.reason, headers, len(body))
            raise
        except OSError as error:
            self._record_refusal(Refusal.REPLAYS_UNKNOWN.value, headers, len(body))
            raise AuditUnavailable(f"the delivery is refused for now: {error}") from error
        self._record(delivery, len(body))
        return delivery

    def refuse(self, reason: Refusal, headers: Headers, size: int) -> None:
        """Record a delivery whose body was not read to its end.

        Args:
            reason: Why.
            headers: The request's headers.
            size: Bytes that were read, or that were announced.
        """
        self._record_refusal(reason.value, headers, size)

    def failed(self, delivery: WebhookDelivery) -> None:
        """Let a delivery come again: the program could not work on it, and Klaviyo will retry."""
        try:
            self._replays.release(_key(delivery))
        except OSError:
            # It stays refused; that the program failed is told by its own answer.
            return

    def _verified(self, body: bytes, headers: Headers) -> WebhookDelivery:
        if len(body) > self.max_body:
            raise WebhookVerificationError(
                f"the webhook delivery is refused: its body has more than {self.max_body} bytes",
                Refusal.TOO_LARGE.value,
            )
        delivery = verify_webhook(body, headers, self._secrets, tolerance=self._tolerance)
        sent = delivery.sent.timestamp()
        until = math.inf if self._tolerance is None else sent + self._tolerance
        if not self._replays.claim(_key(delivery), sent, until):
            raise WebhookVerificationError(
                "the webhook delivery is refused: it was delivered before, or is older than what "
                "is remembered",
                Refusal.REPLAYED.value,
            )
        return delivery

    def _record(self, delivery: WebhookDelivery, size: int) -> None:
        auditor = self._auditor()
        topics = Counter(delivery.topics)
        facts: dict[str, Any] = {
            "verdict": "accepted",
            "webhook_id": delivery.webhook_id,
            "sent": delivery.sent.isoformat(),
            "events": len(delivery.data),
            "topics": dict(topics.most_common(_MAX_LISTED)),
            "external_ids": list(delivery.external_ids[:_MAX_LISTED]),
            "signed_by": fingerprint(self._secrets[delivery.secret_index]),
            "bytes": size,
        }
        if delivery.account_id is not None:
            facts["account_id"] = delivery.account_id
        if missed := self._flood.missed():
            facts["refusals_not_recorded"] = missed
        entry = auditor.record(
            ACTION,
            resource=f"webhook:{delivery.webhook_id}",
            result=Result.SUCCESS,
            metadata=facts,
            user_id="klaviyo",
        )
        if entry is None and auditor.settings.on_failure == "block":
            self.failed(delivery)
            raise AuditUnavailable(
                f"the audit journal in {auditor.journal} cannot take a record, so the webhook "
                "delivery is refused for now: on_failure is 'block'"
            )

    def _record_refusal(self, reason: str, headers: Headers, size: int) -> None:
        # Anybody can send forged deliveries, and must not fill the disk with what we say of them.
        if not self._flood.lets_pass():
            return
        facts: dict[str, Any] = {"verdict": "refused", "reason": reason, "bytes": size}
        claimed = _claimed_id(headers)
        if claimed is not None:
            facts["claimed_webhook_id"] = claimed
        if missed := self._flood.missed():
            facts["refusals_not_recorded"] = missed
        self._auditor().record(ACTION, result=Result.DENIED, metadata=facts, user_id="unverified")

    def _auditor(self) -> Auditor:
        if self._given_auditor is not None:
            return self._given_auditor
        from klaviyo_audit.default import default_auditor

        return default_auditor()


class Work:
    """The program's work on one delivery: if it fails, the delivery is let come again, once.

    Told of the status before the answer is sent: a sender that sees it may try again at once, at
    another worker. And only once: by a second time, that try may have been accepted.

    Args:
        receiver: Where the delivery came from.
        delivery: The delivery.
    """

    __slots__ = ("_delivery", "_has_failed", "_receiver")

    def __init__(self, receiver: WebhookReceiver, delivery: WebhookDelivery) -> None:
        self._receiver = receiver
        self._delivery = delivery
        self._has_failed = False

    def answers(self, status: int) -> None:
        """The program is about to answer with this status."""
        if status >= _FIRST_SERVER_ERROR:
            self.fails()

    def fails(self) -> None:
        """The program failed."""
        if not self._has_failed:
            self._has_failed = True
            self._receiver.failed(self._delivery)


@lru_cache(maxsize=64)
def fingerprint(secret: bytes) -> str:
    """Twelve hexadecimal digits that name a webhook's secret.

    People choose these secrets, so a plain hash could be guessed from the trail: this is scrypt
    (16 MiB, about 40 ms), once a secret and process.
    """
    salt = b"klaviyo-audit webhook secret 1"
    return hashlib.scrypt(secret, salt=salt, n=2**14, r=8, p=1, maxmem=2**26, dklen=6).hex()


class _Flood:
    """Lets so many refusals a minute into the trail, and counts the others."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._lock = threading.Lock()
        self._left = float(limit)
        self._at = time.monotonic()
        self._missed = 0

    def lets_pass(self) -> bool:
        with self._lock:
            now = time.monotonic()
            self._left = min(self._limit, self._left + (now - self._at) * self._limit / 60)
            self._at = now
            if self._left < 1:
                self._missed += 1
                return False
            self._left -= 1
            return True

    def missed(self) -> int:
        """How many were not let pass since this was last asked."""
        with self._lock:
            missed, self._missed = self._missed, 0
            return missed


def _key(delivery: WebhookDelivery) -> bytes:
    """The signature stands for body, timestamp, secret and, by the body, webhook id."""
    return bytes.fromhex(delivery.signature)


def _claimed_id(headers: Headers) -> str | None:
    """The webhook id that a refused delivery says, if it looks like one: it may be anything."""
    for name, value in _pairs(headers):
        key = name if isinstance(name, str) else bytes(name).decode("latin-1")
        if key.lower() == WEBHOOK_ID_HEADER:
            text = value if isinstance(value, str) else bytes(value).decode("latin-1")
            return text if _WEBHOOK_ID.fullmatch(text) else None
    return None


def _pairs(headers: Headers) -> Iterable[tuple[Any, Any]]:
    pairs = getattr(headers, "items", None)
    return headers if pairs is None else pairs()


def matches(wanted: frozenset[str] | None, path: str) -> bool:
    """Whether a request is for a webhook's path.

    Routers take more than one spelling for the same route. What any of them may take for a
    webhook's path is verified: extra or trailing slashes and case do not get around it.

    Args:
        wanted: The paths as `normal` makes them; ``None``: every path.
        path: The decoded path of the request.
    """
    return wanted is None or normal(path) in wanted


def normal(path: str) -> str:
    """A path without empty segments and case."""
    return "/" + "/".join(segment for segment in path.casefold().split("/") if segment)


def normal_paths(path: str | Iterable[str] | None) -> frozenset[str] | None:
    """What the argument ``path`` of an adapter says, for `matches`."""
    if path is None:
        return None
    return frozenset(normal(one) for one in ([path] if isinstance(path, str) else path))
