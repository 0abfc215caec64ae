"""One configuration of auditing, and the process's default one."""

from __future__ import annotations

import atexit
import copy
import threading
from functools import partial
from typing import TYPE_CHECKING, Any, ParamSpec, Self, TypeVar

from klaviyo_audit import threads
from klaviyo_audit.decorator import decorate
from klaviyo_audit.errors import AuditUnavailable, ConfigurationError
from klaviyo_audit.journal.behind import WriteBehind
from klaviyo_audit.journal.recovery import dead_writers, recover
from klaviyo_audit.journal.space import Level, Space
from klaviyo_audit.journal.writer import JournalWriter
from klaviyo_audit.klaviyo import proxy, twins
from klaviyo_audit.objects import AuditedObject, audit_object
from klaviyo_audit.opening import opening_facts, origin_facts, program_name, system_user
from klaviyo_audit.otel.telemetry import Telemetry, is_disabled
from klaviyo_audit.recorder import Recorder
from klaviyo_audit.sinks.attempts import is_delivering
from klaviyo_audit.sinks.queue import QueueBooks, QueueWriter
from klaviyo_audit.threads import can_run

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from klaviyo_audit.entry import Result
    from klaviyo_audit.guard import Guard
    from klaviyo_audit.journal.background import SealerThread
    from klaviyo_audit.klaviyo.guarding import Enforcer
    from klaviyo_audit.privacy.gate import Gate
    from klaviyo_audit.privacy.identifiers import Kind
    from klaviyo_audit.settings import Settings
    from klaviyo_audit.sinks.base import Sink
    from klaviyo_audit.sinks.condition import Condition
    from klaviyo_audit.sinks.shipping import Shipping, Sinks

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")

_EXIT_SECONDS = 2.0
"""How long the end of the program may wait for sinks that run in it."""


class Auditor:
    """Audits clients and functions into one journal.

    Each argument overrides the setting of its name (docs/settings.md); what is not given comes
    from the environment, the settings file, or the default.

    Args:
        journal: Folder of the journal (setting ``dir``).
        sinks: Where entries go beside the journal: names of sinks, or `Sink` objects.
        guard: Which calls may go out: name of a preset, a mapping of a `Guard`'s arguments, or a
            `Guard`.
        **settings: Any other setting by its name.

    Raises:
        ConfigurationError: A setting is unknown or has a value that is not allowed.
        AuditUnavailable: The journal cannot be opened and ``on_failure`` is ``"block"``.

    Example:
        >>> with Auditor(journal="trail", environment="staging") as auditor:
        ...     klaviyo = auditor.audit(KlaviyoAPI(key))  # doctest: +SKIP
    """

    def __init__(
        self,
        journal: str | Path | None = None,
        *,
        sinks: Sequence[str | Sink] | None = None,
        guard: str | Mapping[str, Any] | Guard | None = None,
        **settings: Any,
    ) -> None:
        from klaviyo_audit.guard.assembly import make_guard
        from klaviyo_audit.klaviyo.misfits import warn_of_misfits
        from klaviyo_audit.launch import run_id
        from klaviyo_audit.privacy import notice
        from klaviyo_audit.privacy.assembly import make_gate
        from klaviyo_audit.settings import load

        threads.prepare()
        if journal is not None:
            settings["dir"] = journal
        given = [sink for sink in sinks or () if not isinstance(sink, str)]
        if sinks is not None:
            settings["sinks"] = tuple(sink for sink in sinks if isinstance(sink, str))
        if isinstance(guard, str):
            settings["guard"] = guard
        self.settings: Settings = load(**settings)
        self._sinks = _sinks(given, self.settings)
        fallback = self.settings.user_id is None
        gate = make_gate(self.settings)
        service = gate.setting(self.settings.service or program_name())
        user = self.settings.user_id or f"{service}/{system_user()}"
        self.guard = make_guard(self.settings, None if isinstance(guard, str) else guard)
        warn_of_misfits(self.guard, gate.policy, self.settings.environment)
        named = user if fallback else gate.identity(user)
        self._writer: JournalWriter | WriteBehind | QueueWriter = JournalWriter(
            self.settings.dir.absolute(),
            user_id=named,
            origin=origin_facts(self.settings, gate),
            opening=opening_facts(self.settings, gate, self.guard),
            thread_name=gate.name,
            on_loss=self._lost,
            sync=self.settings.durability == "fsync",
            space=Space(
                self.settings.dir.absolute(),
                warn=self.settings.low_space_warn,
                stop=self.settings.low_space_stop,
                reserve=self.settings.reserve_bytes,
            ),
            on_low_space=self._low_space,
        )
        if self.settings.durability == "async":
            if self.settings.on_failure == "block":
                raise ConfigurationError(
                    "durability='async' and on_failure='block' exclude each other: a record that "
                    "waits in memory cannot be there before the call. Use durability='flush'."
                )
            self._writer = WriteBehind(self._writer)
        problem = self._writer.open()
        if problem is not None:
            if self.settings.on_failure == "block":
                raise AuditUnavailable(
                    f"the audit journal in {self._writer.directory} cannot be opened ({problem}), "
                    "and on_failure is 'block'. Make the folder writable, or set KLAVIYO_AUDIT_DIR."
                )
            if self._sinks is not None and self._sinks.names:
                self._writer = self._queue(self._sinks.names, named, problem, gate)
        self.recorder = Recorder(
            self._writer,
            default_user=user,
            default_is_fallback=fallback,
            intents=self.settings.intents,
            on_failure=self.settings.on_failure,
            gate=gate,
            on_deletion=self._forget if self.settings.forget_on_deletion else None,
            actor_baggage=(self.settings.actor_baggage or "").split(","),
            guard=self._enforcer(user, is_fallback=fallback),
        )
        self.observe()
        if run_id() is None:  # else it is said once for all processes of the run
            notice.tell(gate)
        if problem is not None and not isinstance(self._writer, QueueWriter):
            self.recorder.alarms.lost(problem)
        self._resolved: list[dict[str, Any]] = []
        self._is_closing = False
        self._recovery = self._recover_in_background() if problem is None else None
        self._sealer = self._seal_in_background() if problem is None else None
        self._shipping = self._ship() if self._sinks else None
        atexit.register(self._at_exit)

    def _enforcer(self, user: str, *, is_fallback: bool) -> Enforcer | None:
        if self.guard is None:
            return None
        from klaviyo_audit.klaviyo.guarding import Enforcer

        return Enforcer(
            self.guard,
            environment=self.settings.environment,
            default_user=user,
            is_fallback=is_fallback,
        )

    def recorder_held_to(self, guard: Guard) -> Recorder:
        """A recorder of this auditor whose calls have to pass another guard too."""
        from klaviyo_audit.klaviyo.guarding import Enforcer
        from klaviyo_audit.klaviyo.misfits import warn_of_misfits

        warn_of_misfits(guard, None, None)
        recorder = copy.copy(self.recorder)
        recorder.guard = Enforcer(
            guard,
            environment=self.settings.environment,
            default_user=self.settings.user_id or "",
            is_fallback=self.settings.user_id is None,
            outer=self.recorder.guard,
        )
        return recorder

    @classmethod
    def from_env(cls) -> Self:
        """An auditor with every setting from the environment and the settings file."""
        return cls()

    @property
    def journal(self) -> Path:
        """The journal's folder."""
        return self._writer.directory

    @property
    def lost(self) -> int:
        """Entries this process could not write to the journal so far."""
        return self._writer.lost

    @property
    def sink_conditions(self) -> dict[str, Condition]:
        """How each sink does that this process ships to, by name: plain counts, e.g. for metrics.

        See `klaviyo_audit.sinks.condition.Condition`.
        """
        threads = self._shipping.threads if self._shipping else ()
        return {thread.name: thread.condition for thread in threads}

    def audit(self, client: T) -> T:
        """A transparent proxy of a client; see `klaviyo_audit.audit`."""
        value: Any = client
        result: Any
        if isinstance(value, proxy.AuditedClient | AuditedObject) or twins.is_audited(value):
            return client
        if proxy.is_client(value):
            result = proxy.AuditedClient(value, self.recorder)
        elif proxy.is_group(value):
            result = proxy.audit_group(value, self.recorder)
        elif proxy.is_api_client(value):
            result = twins.audit_api_client(value, self.recorder)
        else:
            result = audit_object(value, lambda: self.recorder)
        return result  # type: ignore[no-any-return]

    def audited(self, function: Callable[..., Any] | None = None, **options: Any) -> Any:
        """The decorator `klaviyo_audit.audited`, bound to this auditor."""
        return decorate(function, lambda: self.recorder, options)

    def record(
        self,
        action: str,
        *,
        resource: str | None = None,
        result: Result | None = None,
        metadata: Mapping[str, Any] | None = None,
        user_id: str | None = None,
    ) -> str | None:
        """Write an entry (phase ``event``) about something that is not a call.

        Args:
            action: What happened, e.g. ``"export.downloaded"``.
            resource: To what.
            result: How it ended.
            metadata: Further facts; cleaned and bounded.
            user_id: Who did it, if not the actor of the context.

        Returns:
            The entry's id; None when the journal could not take it (the loss is counted), or
            when a sink asks while it delivers.
        """
        if is_delivering():
            return None  # a sink that records what it delivers would never come to an end
        return self.recorder.event(
            action, resource=resource, result=result, metadata=metadata, user_id=user_id
        )

    def observe(self, **given: Any) -> None:
        """Choose who is told of calls as spans and metrics, from the next call on.

        Args:
            **given: ``tracer_provider`` and ``meter_provider``, instead of those of the process;
                ``request_hook`` and ``response_hook``, as for `klaviyo_audit.otel.spans.Spans`.
        """
        off = self.settings.telemetry == "off" or is_disabled()
        self.recorder.observe(None if off else partial(self._telemetry, **given))

    def _telemetry(
        self,
        tracer_provider: Any = None,
        meter_provider: Any = None,
        request_hook: Any = None,
        response_hook: Any = None,
    ) -> Telemetry:
        from klaviyo_audit.otel.metrics import Metrics
        from klaviyo_audit.otel.spans import Spans

        spans = Spans(
            tracer_provider,
            request_hook=request_hook,
            response_hook=response_hook,
            suppress_http=self.settings.http_spans == "suppressed",
            user=self._user_shown,
            name=self.recorder.gate.name,
        )
        metrics = Metrics(meter_provider, lost=lambda: self.lost, sinks=self._sink_figures)
        return Telemetry(spans, metrics, self.recorder.alarms.telemetry_failed)

    def shown_user(self, user_id: str) -> str:
        """An actor's id as the entries have it."""
        return self.recorder.gate.identity(user_id)

    def _user_shown(self, user_id: str) -> str | None:
        """What spans say of an actor."""
        from klaviyo_audit.privacy.identifiers import Kind

        gate, shown = self.recorder.gate, self.settings.span_user_id
        if shown == "pseudonym":
            return gate.pseudonym(Kind.USER, user_id)
        return gate.identity(user_id) if shown == "plain" else None

    def _sink_figures(self) -> dict[str, tuple[float, int]]:
        """For each sink of this process how many seconds it is behind, and its failures."""
        threads = () if self._shipping is None else self._shipping.threads
        return {one.name: (one.condition.behind(), one.condition.failures) for one in threads}

    def flush(self, timeout: float = 5.0) -> bool:
        """Wait until sinks that run in this process have got what was recorded before now.

        Args:
            timeout: Seconds to wait at most.

        Returns:
            Whether everything was delivered. The journal itself needs no flush, but with
            ``durability="async"``: then its queue is written first.
        """
        if isinstance(self._writer, WriteBehind) and not self._writer.flush(timeout):
            return False
        return True if self._shipping is None else self._shipping.flush(timeout)

    def close(self) -> None:
        """Deliver what is left and write the journal's goodbye.

        Calls after this are still recorded, by a new writer.
        """
        atexit.unregister(self._at_exit)
        self._is_closing = True
        if self._recovery is not None:
            self._recovery.join(_EXIT_SECONDS)
        self._writer.close()
        if self._writer.untold:
            self.recorder.alarms.untold(self._writer.untold)
        if self._sealer is not None:
            self._sealer.stop(_EXIT_SECONDS)
        if self._shipping is not None:
            # After the last checkpoint, which goes to the sinks too.
            self._shipping.close(self.settings.ship_exit_wait)
            self._shipping = None
            if isinstance(self._writer, QueueWriter):
                self._writer.give_up()

    def _at_exit(self) -> None:
        self.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _recover_in_background(self) -> threading.Thread | None:
        """Tie the loose ends of writers that died, if there are any."""
        own = [self._writer.id]
        if not dead_writers(self._writer.directory, own):
            return None
        if not can_run():
            self._recover(own)
            return None
        thread = threading.Thread(
            target=self._recover, args=(own,), name="klaviyo-audit-recovery", daemon=True
        )
        thread.start()
        return thread

    def resolve(self) -> list[dict[str, Any]]:
        """Close every intent of other writers that has no outcome, as ``result: unknown``.

        Writers that died are looked after at each start anyway; this also finds intents of
        writers that ended well but whose outcome was lost, and reads the whole journal for it.

        Returns:
            The intents that were closed, by this or when this auditor was made.
        """
        if isinstance(self._writer, QueueWriter):
            return []  # there is no journal
        if self._recovery is not None:
            self._recovery.join()
        self._resolved += recover(self._writer, [self._writer.id], everything=True).resolved
        return self._resolved

    def _recover(self, own: list[str]) -> None:
        assert not isinstance(self._writer, QueueWriter)
        try:
            self._resolved += recover(self._writer, own).resolved
        except Exception as error:
            self.recorder.alarms.trouble(
                "the journal's loose ends could not be tied", error, "klaviyo-audit resolve"
            )

    def _seal_in_background(self) -> SealerThread | None:
        """Seal the journal in a thread of this process, or wait there until another one stops."""
        if self.settings.seal != "background":
            return None
        from klaviyo_audit.journal.background import background

        return background(
            self._writer.directory,
            **self.settings.sealing(),
            announce=self._announce,
            needed_from=self._needed_by_sinks,
        )

    def _needed_by_sinks(self) -> int:
        """The first file of the journal that a sink has not got whole; retention leaves it."""
        from klaviyo_audit.sinks.lag import needed_from

        return needed_from(self._writer.directory, self._sinks.kept if self._sinks else ())

    def _ship(self) -> Shipping:
        """Deliver in threads of this process, or wait there until another one stops."""
        assert self._sinks is not None
        writer = self._writer
        if isinstance(writer, QueueWriter):
            return self._sinks.ship(writer.directory, books=partial(QueueBooks, writer))
        return self._sinks.ship(writer.directory)

    def _queue(self, names: Sequence[str], user: str, problem: OSError, gate: Gate) -> QueueWriter:
        """What stands in for a journal that cannot be."""
        settings = self.settings
        return QueueWriter(
            settings.dir.absolute(),
            names,
            user_id=user,
            origin=origin_facts(settings, gate),
            opening=opening_facts(settings, gate, self.guard),
            thread_name=gate.name,
            capacity=settings.queue_entries,
            overflow=settings.queue_overflow,
            block=settings.queue_block,
            on_loss=self._lost,
            problem=problem,
        )

    def _announce(self, action: str, facts: Mapping[str, Any]) -> None:
        """Say what retention is about to remove; what cannot be said is not removed."""
        if self._is_closing:
            raise OSError("the program is ending; nothing more is removed")
        self.recorder.about_journal(action, facts)

    def _forget(self, persons: Sequence[tuple[Kind, str]]) -> None:
        """Destroy the keys of persons whose deletion Klaviyo has accepted, and record that."""
        from klaviyo_audit.entry import Result
        from klaviyo_audit.privacy import erasure
        from klaviyo_audit.privacy.assembly import make_subject_keys

        keys = make_subject_keys(self.settings)
        assert keys is not None, "make_gate refuses forget_on_deletion without subject_keys"
        try:
            done = erasure.forget(keys, persons)
        finally:
            keys.close()
        self.recorder.event(
            erasure.ACTION, result=Result.SUCCESS, metadata=done.facts(), hides=True
        )
        if done.trouble is not None:
            raise done.trouble

    def _low_space(self, level: Level, free: int) -> None:
        if level is not Level.ENOUGH:
            self.recorder.alarms.low_space(free, stopped=level is Level.STOP)

    def _lost(self, error: Exception) -> None:
        self.recorder.alarms.lost(error)

    def __repr__(self) -> str:
        return f"<Auditor journal={str(self._writer.directory)!r} writer={self._writer.id}>"


def _sinks(given: Sequence[Sink], settings: Settings) -> Sinks | None:
    if not given and not settings.sinks:
        return None
    from klaviyo_audit.sinks.shipping import Sinks

    return Sinks(given, settings)
