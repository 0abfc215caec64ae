"""The sink that records entries as events at Klaviyo, each exactly once.

New entries go in bulk jobs; what may have been sent before goes as single events, because a
repeated ``unique_id`` fails a whole bulk job and is harmless in a single one.
"""

from __future__ import annotations

import contextlib
import os
import threading
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

from klaviyo_audit.context import suppress_audit
from klaviyo_audit.entry import AuditEntry
from klaviyo_audit.klaviyo.transport import NoReply, NotSent, Reply
from klaviyo_audit.privacy.assembly import make_ring
from klaviyo_audit.sinks.base import Rejected, Retry
from klaviyo_audit.sinks.folder import sink_folder
from klaviyo_audit.sinks.klaviyo.events import (
    bulk,
    checkpoint_event,
    event_of,
    profile_of,
    single,
    unique_id,
)
from klaviyo_audit.sinks.klaviyo.limits import MAX_EVENTS, MAX_REQUEST, wire_size
from klaviyo_audit.sinks.klaviyo.readback import Confirmation, Readback
from klaviyo_audit.sinks.klaviyo.sent import SentNote
from klaviyo_audit.sinks.klaviyo.track import (
    ACCEPTED,
    BULK_PATH,
    NOT_PROCESSED,
    REFUSED,
    SINGLE_PATH,
    TrackApi,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from klaviyo_audit.settings import Settings
    from klaviyo_audit.sinks.klaviyo.sent import Marks

__all__ = ["Confirmation", "KlaviyoSink"]

CHECKPOINT_SERVICE: Final = "checkpoints"
"""Stands for the service in the external id of the profile that has the journal's checkpoints."""

_FEW: Final = 5
"""So few new entries go as single events, which leaves the jobs of the account to others."""
_ENVELOPE: Final = 1_000
"""Bytes of a bulk job around its events, and again of each profile in it, at most."""
_MAX_WHYS: Final = 3


class KlaviyoSink:
    """Delivers entries to Klaviyo's track API.

    Args:
        settings: ``klaviyo_key``, ``klaviyo_metric``, ``klaviyo_profile``, ``klaviyo_share``,
            ``klaviyo_host``, ``pseudonym_key`` and ``dir`` count; read from code, environment and
            file if not given.
        client: A ``KlaviyoAPI`` to send with, for one that has a proxy or TLS settings of its
            own; its key counts then.

    Raises:
        ConfigurationError: There is no key.
    """

    name = "klaviyo"
    max_batch_entries = MAX_EVENTS
    max_batch_bytes = 3_000_000

    def __init__(self, settings: Settings | None = None, *, client: Any = None) -> None:
        if settings is None:
            from klaviyo_audit.settings import load

            settings = load()
        self._settings = settings
        self._api = TrackApi(settings, client)
        ring = make_ring(settings)
        self._pseudonym_key = (
            None if ring is None else f"{ring.newest.id}:{ring.newest.secret.decode()}"
        )
        self._folder = sink_folder(settings.dir.absolute(), self.name)
        self._note = SentNote(self._folder / "sent.json")
        # What Klaviyo has taken (None) or refused (why) of a batch that it has not taken whole,
        # by unique id.
        self._settled: dict[str, str | None] = {}
        self.acknowledgement: dict[str, object] = {}
        self._counts: dict[str, int] = {}
        self._request_id: str | None = None
        self._pid = os.getpid()
        self._lock = threading.Lock()

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
        with self._turn():
            self._send(wanted)
            self.acknowledgement = {**self._counts, "request_id": self._request_id}
            refused = {
                unique: why for unique in wanted if (why := self._settled.get(unique)) is not None
            }
            self._settled.clear()
            self._counts = {}
        if refused:
            whys = "; ".join(sorted(set(refused.values()))[:_MAX_WHYS])
            raise Rejected([wanted[unique] for unique in refused], f"Klaviyo refuses it: {whys}")

    def deliver_checkpoints(self, notes: Sequence[bytes]) -> None:
        """Record signed checkpoints as events of the same metric, each once.

        Raises:
            Retry: Not all of them yet.
            ConfigurationError: As for `deliver`.
        """
        profile = self._profile(CHECKPOINT_SERVICE)
        events = [checkpoint_event(note, self._settings.klaviyo_metric) for note in notes]
        settled = {event["attributes"]["unique_id"]: event for event in events}
        with self._turn(), self._apart():
            for unique, event in settled.items():
                self._settle(unique, event, profile)
            for unique in settled:  # what else is there is of a batch that was not taken whole
                del self._settled[unique]

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
        body = event_of(entry, metric, self._pseudonym_key, datetime.now(UTC))
        with self._turn(), self._apart():
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

    def was_sent(self, entry: AuditEntry) -> bool:
        """Whether the entry was sent, or tried to be, by whichever process."""
        with contextlib.suppress(OSError):
            self._note.refresh()
        return self._note.has(entry)

    def checkpoints(self) -> Iterator[bytes]:
        """The signed checkpoints that Klaviyo holds, by time of arrival.

        Raises:
            Retry: Klaviyo could not be asked.
            ConfigurationError: As for `confirm`.
        """
        with suppress_audit():
            found = list(self._readback().checkpoints(self._profile(CHECKPOINT_SERVICE)))
        yield from found

    def close(self) -> None:
        """Begin no further request."""
        self._renew_after_fork()
        self._api.close()

    @contextlib.contextmanager
    def _turn(self) -> Iterator[None]:
        """One delivery at a time: one that overran its deadline may still be at it."""
        self._renew_after_fork()
        if not self._lock.acquire(timeout=1.0):
            raise Retry(why="an earlier delivery that overran its deadline is still under way")
        try:
            self._api.begin_turn()
            with suppress_audit():
                yield
        finally:
            self._lock.release()

    @contextlib.contextmanager
    def _apart(self) -> Iterator[None]:
        """What is sent now is of no batch, and no receipt counts it."""
        counts = self._counts.copy()
        try:
            yield
        finally:
            self._counts = counts

    def _renew_after_fork(self) -> None:
        if os.getpid() != self._pid:
            # A forked child has neither the threads that held the locks nor its own connections.
            self._pid = os.getpid()
            self._lock = threading.Lock()
            self._api.renew()

    def _readback(self) -> Readback:
        self._renew_after_fork()
        return Readback(self._api.transport(), self._profile_of, self._api.whose_key())

    def _profile(self, service: str | None) -> dict[str, Any]:
        return profile_of(service, self._settings.klaviyo_profile)

    def _profile_of(self, entry: AuditEntry) -> dict[str, Any]:
        return self._profile(_service(entry))

    def _event(self, entry: AuditEntry, now: datetime) -> dict[str, Any]:
        return event_of(entry, self._settings.klaviyo_metric, self._pseudonym_key, now)

    def _send(self, wanted: dict[str, AuditEntry]) -> None:
        try:
            self._note.refresh()
        except OSError as error:
            raise Retry(why=f"the note of what was sent cannot be read: {error}") from error
        now = datetime.now(UTC)
        new: dict[str, _Event] = {}
        for unique, entry in wanted.items():
            if unique in self._settled:
                continue
            event = self._event(entry, now)
            if self._note.has(entry):
                self._settle(unique, event, self._profile_of(entry))
            else:
                new[unique] = (entry, event)
        if len(new) > _FEW:
            for job in _jobs(new):
                self._send_bulk(job)
        elif new:
            self._api.ready(SINGLE_PATH)
            self._remember(new)
            self._settle_all(new)

    def _settle_all(self, events: Mapping[str, _Event]) -> None:
        for unique, (entry, event) in events.items():
            self._settle(unique, event, self._profile_of(entry))

    def _settle(self, unique: str, event: dict[str, Any], profile: dict[str, Any]) -> None:
        if unique not in self._settled:
            self._settled[unique] = self._send_single(event, profile)

    def _send_single(self, event: dict[str, Any], profile: dict[str, Any]) -> str | None:
        """Why Klaviyo refuses an event; None when it has accepted it."""
        self._api.ready(SINGLE_PATH)
        try:
            reply = self._api.post(SINGLE_PATH, single(event, profile))
        except (NotSent, NoReply) as error:
            raise Retry(why=f"no answer from Klaviyo ({error})") from None
        if reply.status == ACCEPTED:
            self._count("single_events", 1, reply)
            return None
        self._api.stop_if_hopeless(reply)
        if reply.status in REFUSED:
            return reply.why()
        raise Retry(reply.retry_after(), why=f"Klaviyo answered {reply.why()}")

    def _send_bulk(self, job: dict[str, _Event]) -> None:
        self._api.ready(BULK_PATH)
        before = self._remember(job)
        groups: dict[str | None, list[dict[str, Any]]] = {}
        for entry, event in job.values():
            groups.setdefault(_service(entry), []).append(event)
        body = bulk((self._profile(service), events) for service, events in groups.items())
        try:
            reply = self._api.post(BULK_PATH, body)
        except NotSent as error:
            self._note.withdraw(before)
            raise Retry(why=f"no connection to Klaviyo ({error})") from None
        except NoReply as error:
            # It may have been processed: from here on these are single events.
            raise Retry(why=f"no answer from Klaviyo ({error})") from None
        if reply.status == ACCEPTED:
            self._settled |= dict.fromkeys(job)
            self._count("bulk_jobs", len(job), reply)
            return
        if reply.status in NOT_PROCESSED and reply.errors():
            self._note.withdraw(before)
        self._api.stop_if_hopeless(reply)
        if reply.status in REFUSED:
            # Something in it is refused, or was there before: one by one shows what.
            self._settle_all(job)
            return
        raise Retry(reply.retry_after(), why=f"Klaviyo answered {reply.why()}")

    def _count(self, kind: str, events: int, reply: Reply) -> None:
        self._counts["events"] = self._counts.get("events", 0) + events
        self._counts[kind] = self._counts.get(kind, 0) + 1
        self._request_id = reply.headers.get("x-klaviyo-req-id")

    def _remember(self, events: Mapping[str, _Event]) -> Marks:
        try:
            return self._note.add(entry for entry, _ in events.values())
        except OSError as error:
            raise Retry(
                why="nothing is sent, because the note of what was sent cannot be written in "
                f"{self._folder}: {error.strerror}"
            ) from error


_Event = tuple[AuditEntry, dict[str, Any]]


def _service(entry: AuditEntry) -> str | None:
    return entry.origin.service if entry.origin is not None else None


def _jobs(events: Mapping[str, _Event]) -> Iterator[dict[str, _Event]]:
    """Events in portions that one bulk job may have."""
    job: dict[str, _Event] = {}
    services: set[str | None] = set()
    size = _ENVELOPE
    for unique, (entry, event) in events.items():
        more = wire_size(event) + len(", ")
        if job and (len(job) == MAX_EVENTS or size + more + _ENVELOPE > MAX_REQUEST):
            yield job
            job, services, size = {}, set(), _ENVELOPE
        if _service(entry) not in services:
            services.add(_service(entry))
            more += _ENVELOPE
        job[unique] = (entry, event)
        size += more
    if job:
        yield job
