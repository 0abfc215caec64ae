"""The sink that records entries as events at Klaviyo, each exactly once.

New entries go in bulk jobs; what may have been sent before goes as single events, because a
repeated ``unique_id`` fails a whole bulk job and is harmless in a single one.
"""

from __future__ import annotations

import logging
import os
import threading
from datetime import UTC, datetime
from time import monotonic
from typing import TYPE_CHECKING, Any, Final

from klaviyo_audit.context import suppress_audit
from klaviyo_audit.entry import AuditEntry
from klaviyo_audit.errors import ConfigurationError
from klaviyo_audit.klaviyo.transport import (
    PROGRAM_KEY,
    NoReply,
    NotSent,
    Reply,
    Transport,
    client_with,
    program_key,
)
from klaviyo_audit.sinks.base import Rejected, Retry
from klaviyo_audit.sinks.klaviyo_budget import BULK, SINGLE, Budget
from klaviyo_audit.sinks.klaviyo_events import (
    REVISION,
    bulk,
    checkpoint_event,
    event_of,
    profile_of,
    single,
    unique_id,
)
from klaviyo_audit.sinks.klaviyo_limits import MAX_EVENTS, MAX_REQUEST, wire_size
from klaviyo_audit.sinks.klaviyo_readback import Confirmation, Readback
from klaviyo_audit.sinks.klaviyo_sent import SentNote

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from klaviyo_audit.settings import Settings

__all__ = ["CHECKPOINT_SERVICE", "Confirmation", "KlaviyoSink"]

CHECKPOINT_SERVICE: Final = "checkpoints"
"""Stands for the service in the external id of the profile that has the journal's checkpoints."""

_SINGLE_PATH: Final = "/api/events"
_BULK_PATH: Final = "/api/event-bulk-create-jobs"
_TIMEOUT: Final = (5.0, 15.0)
"""Seconds to connect, and seconds without a byte of the answer."""
_TURN_SECONDS: Final = 8.0
"""One `deliver` begins no further request after this time; the shipper has a deadline for it."""
_FEW: Final = 5
"""So few new entries go as single events, which leaves the jobs of the account to others."""
_ENVELOPE: Final = 1_000
"""Bytes of a bulk job around its events, and again of each profile in it, at most."""
_ACCEPTED: Final = 202
_UNAUTHORIZED: Final = 401
_FORBIDDEN: Final = 403
_GONE: Final = 410
_THROTTLED: Final = 429
_REFUSALS: Final = (400, 409, 413, 422)
"""Klaviyo has read the request and did nothing: something in it is not acceptable."""

_log = logging.getLogger("klaviyo_audit")

_Event = tuple[AuditEntry, dict[str, Any]]


class KlaviyoSink:
    """Delivers entries to Klaviyo's track API.

    Args:
        settings: ``klaviyo_key``, ``klaviyo_metric``, ``klaviyo_profile``, ``klaviyo_share``,
            ``klaviyo_host``, ``pseudonym_key`` and ``dir`` count; read from code, environment and
            file if not given.
        client: A ``KlaviyoAPI`` to send with, for one that has a proxy or TLS settings of its
            own; its key counts then.
        durable: Whether entries outlive this process, so that it has to be on disk which of them
            may have been sent. Without a journal there is nothing to note.

    Raises:
        ConfigurationError: There is no key.
    """

    name = "klaviyo"
    max_batch_entries = MAX_EVENTS
    max_batch_bytes = 3_000_000

    def __init__(
        self, settings: Settings | None = None, *, client: Any = None, durable: bool = True
    ) -> None:
        if settings is None:
            from klaviyo_audit.settings import load

            settings = load()
        self._settings = settings
        self._client = client
        self._own_client = client is None
        if self._own_client:
            self._key_of_sink()
        pseudonyms = settings.pseudonym_key
        self._pseudonym_key = None if pseudonyms is None else pseudonyms.get_secret_value()
        self._folder: Path | None = (
            settings.dir.absolute() / "sinks" / self.name if durable else None
        )
        self._note = SentNote(None if self._folder is None else self._folder / "sent.json")
        self._budgets = {
            _SINGLE_PATH: Budget(SINGLE, settings.klaviyo_share),
            _BULK_PATH: Budget(BULK, settings.klaviyo_share),
        }
        # What Klaviyo has taken (None) or refused (why) of a batch that has not been acknowledged
        # as a whole, by unique id.
        self._settled: dict[str, str | None] = {}
        self.acknowledgement: dict[str, object] = {}
        self._start()

    def _start(self) -> None:
        self._pid = os.getpid()
        self._transport: Transport | None = None
        self._turn = threading.Lock()
        self._closing = threading.Event()
        self._turn_ends = 0.0

    def deliver(self, entries: Sequence[AuditEntry]) -> None:
        """Record the entries as events; returning means that Klaviyo has accepted each (202).

        Raises:
            Retry: Not all of them yet; what was accepted is not sent again.
            Rejected: Klaviyo refuses these.
            ConfigurationError: The key, the metric or the profile is refused.
        """
        wanted: dict[str, AuditEntry] = {}
        for entry in entries:
            wanted.setdefault(unique_id(entry), entry)
        with suppress_audit(), _Turn(self):
            self._counted: dict[str, int] = {"events": 0, "bulk_jobs": 0, "single_events": 0}
            self._send(wanted)
            self.acknowledgement = {**self._counted, "request_id": self._request_id}
            refused = {
                unique: why for unique in wanted if (why := self._settled.get(unique)) is not None
            }
            self._settled.clear()
        if refused:
            whys = "; ".join(sorted(set(refused.values()))[:3])
            raise Rejected([wanted[unique] for unique in refused], f"Klaviyo refuses it: {whys}")

    def deliver_checkpoints(self, notes: Sequence[bytes]) -> None:
        """Record signed checkpoints as events of the same metric, each once.

        Raises:
            Retry: Not all of them yet.
            ConfigurationError: As for `deliver`.
        """
        profile = self._profile(CHECKPOINT_SERVICE)
        with suppress_audit(), _Turn(self):
            for note in notes:
                event = checkpoint_event(note, self._settings.klaviyo_metric)
                unique = event["attributes"]["unique_id"]
                if unique not in self._settled:
                    self._settled[unique] = self._send_single(event, profile)
            self._settled.clear()

    def track(self, event: str, entry: AuditEntry | Mapping[str, Any]) -> None:
        """Record one entry at once, without a journal.

        Args:
            event: ``audit`` for the sink's metric, or the name of another metric.
            entry: The entry, or its members as a line of the journal has them.

        Raises:
            Retry: Klaviyo did not take it now; it is safe to call again with the same entry.
            Rejected: Klaviyo refuses the entry.
            ConfigurationError: The key, the metric or the profile is refused.
        """
        if not isinstance(entry, AuditEntry):
            entry = AuditEntry.from_dict(dict(entry))
        metric = self._settings.klaviyo_metric if event == "audit" else event
        with suppress_audit(), _Turn(self):
            body = event_of(entry, metric, self._pseudonym_key, datetime.now(UTC))
            refused = self._send_single(body, self._profile_of(entry))
        if refused is not None:
            raise Rejected([entry], f"Klaviyo refuses it: {refused}")

    def confirm(self, entries: Sequence[AuditEntry]) -> Confirmation:
        """Read back which entries have arrived: 202 says accepted, not recorded.

        Klaviyo takes some seconds, at times minutes, before an event can be read. What is missing
        can be sent again with `track`; of two events with one ``unique_id`` the first stays.

        Raises:
            Retry: Klaviyo could not be asked.
            ConfigurationError: The key lacks ``events:read``, or ``profiles:read`` where
                ``klaviyo_profile`` does not name the profile by its id.
        """
        with suppress_audit():
            return self._readback().confirm(entries)

    def checkpoints(self) -> Iterator[bytes]:
        """The signed checkpoints that Klaviyo holds, by time of arrival.

        Raises:
            Retry: Klaviyo could not be asked.
            ConfigurationError: As for `confirm`.
        """
        with suppress_audit():
            yield from self._readback().checkpoints(self._profile(CHECKPOINT_SERVICE))

    def close(self) -> None:
        """Begin no further request."""
        self._closing.set()

    def _readback(self) -> Readback:
        return Readback(self._connection(), self._profile_of, self._whose_key())

    def _profile(self, service: str | None) -> dict[str, Any]:
        return profile_of(service, self._settings.klaviyo_profile)

    def _profile_of(self, entry: AuditEntry) -> dict[str, Any]:
        return self._profile(entry.origin.service if entry.origin is not None else None)

    # Sending

    def _send(self, wanted: dict[str, AuditEntry]) -> None:
        try:
            self._note.refresh()
        except OSError as error:
            raise Retry(why=f"the note of what was sent cannot be read: {error}") from error
        now = datetime.now(UTC)
        new: list[_Event] = []
        for unique, entry in wanted.items():
            if unique in self._settled:
                continue
            if self._note.has(entry):
                self._settle_single(unique, entry, self._event(entry, now))
            else:
                new.append((entry, self._event(entry, now)))
        if len(new) <= _FEW:
            self._remember(new)
            for entry, event in new:
                self._settle_single(unique_id(entry), entry, event)
            return
        for job in _jobs(new):
            self._send_bulk(job)

    def _event(self, entry: AuditEntry, now: datetime) -> dict[str, Any]:
        return event_of(entry, self._settings.klaviyo_metric, self._pseudonym_key, now)

    def _settle_single(self, unique: str, entry: AuditEntry, event: dict[str, Any]) -> None:
        self._settled[unique] = self._send_single(event, self._profile_of(entry))

    def _send_single(self, event: dict[str, Any], profile: dict[str, Any]) -> str | None:
        """Why Klaviyo refuses an event; None when it has accepted it."""
        self._await(_SINGLE_PATH)
        try:
            reply = self._post(_SINGLE_PATH, single(event, profile))
        except (NotSent, NoReply) as error:
            raise Retry(why=f"no answer from Klaviyo ({error})") from None
        if reply.status == _ACCEPTED:
            self._count("single_events", 1, reply)
            return None
        self._give_up(reply)
        if reply.status in _REFUSALS:
            return reply.why()
        raise Retry(reply.retry_after(), why=f"Klaviyo answered {reply.why()}")

    def _send_bulk(self, job: list[_Event]) -> None:
        self._await(_BULK_PATH)
        before = self._remember(job)
        by_profile: dict[str, tuple[dict[str, Any], list[dict[str, Any]]]] = {}
        for entry, event in job:
            service = entry.origin.service if entry.origin is not None else None
            key = service or ""
            if key not in by_profile:
                by_profile[key] = (self._profile(service), [])
            by_profile[key][1].append(event)
        try:
            reply = self._post(_BULK_PATH, bulk(by_profile.values()))
        except NotSent as error:
            self._note.withdraw(before)
            raise Retry(why=f"no connection to Klaviyo ({error})") from None
        except NoReply as error:
            # It may have been processed: from here on these are single events.
            raise Retry(why=f"no answer from Klaviyo ({error})") from None
        if reply.status == _ACCEPTED:
            self._settled |= dict.fromkeys(unique_id(entry) for entry, _ in job)
            self._count("bulk_jobs", len(job), reply)
            return
        if reply.status in (_UNAUTHORIZED, _FORBIDDEN, _THROTTLED) and reply.errors():
            self._note.withdraw(before)
        self._give_up(reply)
        if reply.status in _REFUSALS:
            # Something in it is refused, or was there before: one by one shows what.
            for entry, event in job:
                self._settle_single(unique_id(entry), entry, event)
            return
        raise Retry(reply.retry_after(), why=f"Klaviyo answered {reply.why()}")

    def _count(self, kind: str, events: int, reply: Reply) -> None:
        self._counted["events"] = self._counted.get("events", 0) + events
        self._counted[kind] = self._counted.get(kind, 0) + 1
        self._request_id = reply.headers.get("x-klaviyo-req-id")

    def _remember(self, events: list[_Event]) -> Any:
        try:
            return self._note.add(entry for entry, _ in events)
        except OSError as error:
            raise Retry(
                why=f"nothing is sent, because the note of what was sent cannot be written in "
                f"{self._folder}: {error.strerror}"
            ) from error

    def _give_up(self, reply: Reply) -> None:
        """Stop this sink where only a person can help."""
        if reply.status == _THROTTLED:
            return
        pointers = " ".join(pointer for pointer, _ in reply.errors())
        if reply.status == _UNAUTHORIZED or (reply.status == _FORBIDDEN and pointers):
            raise ConfigurationError(
                f"Klaviyo refuses the key of the sink klaviyo ({reply.why()}). It was given by "
                f"{self._whose_key()}; make a private key with the scope events:write and give it "
                "as klaviyo_key (KLAVIYO_AUDIT_KLAVIYO_KEY). Nothing is lost: delivery goes on "
                "from where it stopped."
            )
        if reply.status == _GONE:
            raise ConfigurationError(
                f"Klaviyo no longer serves the API revision that is asked for ({reply.why()}): "
                "update klaviyo-audit and klaviyo-api"
            )
        if reply.status in _REFUSALS:
            for part, setting in (("metric", "klaviyo_metric"), ("profile", "klaviyo_profile")):
                if f"/attributes/{part}" in pointers:
                    raise ConfigurationError(
                        f"Klaviyo refuses the {part} of the sink klaviyo ({reply.why()}); change "
                        f"the setting {setting}"
                    )

    def _post(self, path: str, body: dict[str, Any]) -> Reply:
        budget = self._budgets[path]
        budget.spend()
        reply = self._connection().send("POST", path, body=body, timeout=_TIMEOUT)
        budget.learn(reply.headers)
        if reply.status == _THROTTLED:
            budget.block(reply.retry_after() or 1.0)
        return reply

    def _await(self, path: str) -> None:
        """Wait for the budget, or have the shipper wait where that takes longer than this turn."""
        pause = self._budgets[path].wait()
        if monotonic() + pause > self._turn_ends:
            raise Retry(
                pause,
                why="the rest follows: the sink's share of the rate limit is used up"
                if pause
                else "the rest follows in the next turn",
            )
        if self._closing.is_set() or (pause and self._closing.wait(pause)):
            raise Retry(why="the sink is being closed")

    # The connection

    def _connection(self) -> Transport:
        if self._transport is None:
            if self._client is None:
                key = self._key_of_sink()
                if self._settings.klaviyo_key is None:
                    _log.warning(
                        "the sink klaviyo shares the program's key (%s): its calls count on that "
                        "key and stop when it is taken away. Give it one of its own, with the "
                        "scope events:write, as KLAVIYO_AUDIT_KLAVIYO_KEY.",
                        PROGRAM_KEY,
                    )
                self._client = client_with(key, self._settings.klaviyo_host)
            self._transport = Transport(self._client, least_revision=REVISION)
        return self._transport

    def _key_of_sink(self) -> str:
        own = self._settings.klaviyo_key
        key = program_key() if own is None else own.get_secret_value()
        if key is None:
            raise ConfigurationError(
                "the sink klaviyo has no key: set klaviyo_key (KLAVIYO_AUDIT_KLAVIYO_KEY) to a "
                "private key with the scope events:write"
            )
        return key

    def _whose_key(self) -> str:
        if not self._own_client:
            return "the client that the program made"
        if self._settings.klaviyo_key is None:
            return f"environment variable {PROGRAM_KEY}"
        return self._settings.sources["klaviyo_key"]

    _counted: dict[str, int]
    _request_id: str | None = None


class _Turn:
    """One delivery at a time; one that overran its deadline may still be at it."""

    def __init__(self, sink: KlaviyoSink) -> None:
        self._sink = sink

    def __enter__(self) -> None:
        sink = self._sink
        if os.getpid() != sink._pid:
            # A forked child has neither the thread that held the lock nor its own connections.
            if sink._own_client:
                sink._client = None
            elif sink._transport is not None:
                sink._transport.forget_connections()
            sink._start()
        if not sink._turn.acquire(timeout=1.0):
            raise Retry(why="an earlier delivery that overran its deadline is still under way")
        sink._counted = {}
        sink._turn_ends = monotonic() + _TURN_SECONDS

    def __exit__(self, *_: object) -> None:
        self._sink._turn.release()


def _jobs(events: list[_Event]) -> Iterator[list[_Event]]:
    """Events in portions that one bulk job may have."""
    job: list[_Event] = []
    size = _ENVELOPE
    services: set[str | None] = set()
    for entry, event in events:
        service = entry.origin.service if entry.origin is not None else None
        more = wire_size(event) + 2 + (_ENVELOPE if service not in services else 0)
        if job and (len(job) == MAX_EVENTS or size + more > MAX_REQUEST):
            yield job
            job, size, services = [], _ENVELOPE, set()
            more += _ENVELOPE
        job.append((entry, event))
        services.add(service)
        size += more
    if job:
        yield job
