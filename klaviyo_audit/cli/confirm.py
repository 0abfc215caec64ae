"""``klaviyo-audit ship --confirm``: what was delivered is read back from where it went."""

from __future__ import annotations

from time import monotonic
from typing import TYPE_CHECKING, Any, Final, Protocol, runtime_checkable

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from klaviyo_audit.entry import AuditEntry
    from klaviyo_audit.settings import Settings
    from klaviyo_audit.sinks.base import Sink
    from klaviyo_audit.sinks.klaviyo.readback import Confirmation

_AGAIN_SECONDS: Final = 2.0


@runtime_checkable
class ReadableSink(Protocol):
    """A sink that can be asked what it holds."""

    name: str

    def confirm(self, entries: Sequence[AuditEntry]) -> Confirmation:
        """Read back which entries have arrived."""

    def was_sent(self, entry: AuditEntry) -> bool:
        """Whether the entry was delivered, or tried to be."""

    def track(self, event: str, entry: AuditEntry) -> None:
        """Deliver an entry once more; it is kept once."""


class Confirming:
    """A sink that takes what another one holds: its bookmark says up to where all has arrived.

    Its receipts are the receipts of arrival.
    """

    def __init__(self, asked: ReadableSink) -> None:
        self.name = f"{asked.name}-confirmed"
        self.missing: list[AuditEntry] = []
        self.unsent = False
        self.acknowledgement: dict[str, object] = {}
        self._asked = asked

    def deliver(self, entries: Sequence[AuditEntry]) -> None:
        """Ask for the entries.

        Raises:
            Retry: Not all of them can be read.
        """
        from klaviyo_audit.sinks.base import Retry

        self.unsent = any(not self._asked.was_sent(entry) for entry in entries)
        if self.unsent:
            raise Retry(_AGAIN_SECONDS, why="not all of it was delivered yet")
        found = self._asked.confirm(entries)
        lost = set(found.missing)
        self.missing = [entry for entry in entries if _unique(entry) in lost]
        if lost:
            raise Retry(_AGAIN_SECONDS, why=f"{len(lost)} of them cannot be read yet")
        self.acknowledgement = {
            "arrived": len(found.arrived),
            "unchecked": len(found.unchecked),
            "checked_at": found.checked_at,
        }

    def close(self) -> None:
        """The sink that is asked is not ours."""


def confirm(
    directory: Path,
    sinks: Sequence[Sink],
    settings: Settings,
    *,
    timeout: float,
    tell: Callable[[str], None],
) -> bool:
    """Read back what the sinks hold, from where the last time ended.

    What is not there when the time is up is sent once more.

    Args:
        directory: The journal's folder.
        sinks: Those that are asked.
        settings: Sizes of batches, and filters.
        timeout: Seconds for each sink.
        tell: Takes what is to be said.

    Returns:
        Whether everything has arrived.
    """
    arrived = [_confirm(directory, sink, settings, timeout, tell) for sink in sinks]
    return all(arrived)


def _confirm(
    directory: Path,
    sink: Sink,
    settings: Settings,
    timeout: float,
    tell: Callable[[str], None],
) -> bool:
    from klaviyo_audit.sinks.folder import sink_folder
    from klaviyo_audit.sinks.receipts import RECEIPTS_NAME
    from klaviyo_audit.sinks.shipper import Shipper
    from klaviyo_audit.sinks.shipping import pace_of

    if not isinstance(sink, ReadableSink):
        tell(
            f"{sink.name}: it cannot be asked what it holds, as the sink klaviyo can; its receipts "
            f"({sink_folder(directory, sink.name) / RECEIPTS_NAME}) say what it has acknowledged, "
            "and `klaviyo-audit verify --against FILE` compares with what was kept elsewhere"
        )
        return False
    asking = Confirming(sink)
    shipper = Shipper(
        directory,
        asking,
        pace=pace_of(settings),
        passes=settings.sink_filters.get(sink.name),
        tell=lambda _: None,
    )
    begun = monotonic()
    done = shipper.run_once(timeout)
    condition = shipper.condition
    text = f"{sink.name}: {condition.delivered:,} entries confirmed"
    if not done:
        text += f"; {condition.error or condition.state}"
    tell(f"{text} ({monotonic() - begun:.0f} s)")
    if not done and asking.missing and not asking.unsent:
        _send_again(sink, asking.missing, tell)
    shipper.close()
    return done


def _send_again(sink: ReadableSink, entries: list[AuditEntry], tell: Callable[[str], Any]) -> None:
    from klaviyo_audit.errors import KlaviyoAuditError

    for number, entry in enumerate(entries):
        try:
            sink.track("audit", entry)
        except KlaviyoAuditError as error:
            tell(f"{sink.name}: {number:,} of {len(entries):,} missing entries sent again; {error}")
            return
    tell(
        f"{sink.name}: {len(entries):,} missing entries were sent again, which is harmless where "
        "they were only late; ask again later"
    )


def _unique(entry: AuditEntry) -> str:
    from klaviyo_audit.sinks.klaviyo.events import unique_id

    return unique_id(entry)
