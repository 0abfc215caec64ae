"""What a sink is, and what it can say about entries it was offered."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, runtime_checkable

from klaviyo_audit.errors import ConfigurationError, KlaviyoAuditError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from klaviyo_audit.entry import AuditEntry

__all__ = ["CheckpointSink", "ConfigurationError", "Rejected", "Retry", "Sink"]


@runtime_checkable
class Sink(Protocol):
    """A place entries are delivered to.

    It is called from one thread at a time (unless a call has overrun its deadline and was given
    up), never from the audited program's own, and with auditing suppressed. The same entry can
    come twice, after a crash between delivery and bookmark: its `id` and `phase` tell.

    A sink may have further attributes:

    - ``max_batch_entries: int`` and ``max_batch_bytes: int``: how much it takes at once, where
      that is less than the settings say. A single entry can still be larger than the bytes.
    - ``ephemeral: bool``: true where what it was given does not outlive the process (a terminal,
      a list). It gets what its own process writes from when it was attached, keeps no bookmark,
      and what it does not take is offered again only as long as the process lives.
    - ``acknowledgement: Mapping[str, object]``: facts about the last delivery for its receipt,
      such as a partition and offset, or a job's id. Read right after `deliver` has returned.
    """

    name: str
    """Small letters, digits, ``-`` and ``_``: it names a folder beside the journal."""

    def deliver(self, entries: Sequence[AuditEntry]) -> None:
        """Take the entries, in the journal's order. Returning means: the other end has them.

        Raises:
            Retry: None of them counts as delivered; offer all of them again later. Any
                exception but the following means the same.
            Rejected: These will never be taken. All others of the batch are delivered.
            ConfigurationError: It makes no sense to go on before somebody has changed something
                (a wrong key). The sink is left alone until the program starts again.
        """

    def close(self) -> None:
        """Let go of what the sink holds. Nothing is delivered after that."""


@runtime_checkable
class CheckpointSink(Protocol):
    """A sink that also takes the journal's signed checkpoints, which show a cut tail elsewhere."""

    def deliver_checkpoints(self, notes: Sequence[bytes]) -> None:
        """Take checkpoints, oldest first; otherwise like `Sink.deliver`.

        Args:
            notes: Signed notes (C2SP signed-note), as they stand in the file ``checkpoints``.
        """


class Retry(KlaviyoAuditError):  # noqa: N818  (the name is public contract)
    """The sink did not take the entries now; all of them are to be offered again.

    Args:
        after: Seconds to wait at least, as a ``Retry-After`` said; None: the shipper's own pace.
        why: What happened, for status and log: no bodies, no secrets.
    """

    def __init__(self, after: float | None = None, why: str = "") -> None:
        self.why = _text(why)
        super().__init__(self.why or "the sink asked for the entries to be offered again")
        self.after = after if isinstance(after, int | float) and after > 0 else None


class Rejected(KlaviyoAuditError):  # noqa: N818  (the name is public contract)
    """These entries will never be taken; all others of the batch count as delivered.

    Args:
        entries: The entries that go to the dead letters.
        why: The reason that is kept with them: no bodies, no secrets.
    """

    def __init__(self, entries: Sequence[AuditEntry], why: str) -> None:
        self.why = _text(why)
        super().__init__(self.why)
        self.entries = tuple(entries)


def _text(why: object) -> str:
    """What a sink gave as its reason, as it can be written down."""
    return str(why).encode("utf-8", "replace").decode()
