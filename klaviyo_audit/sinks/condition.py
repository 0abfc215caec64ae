"""How patiently a sink is served, and how it does."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """How much is delivered at once, and how patiently."""

    batch_entries: int = 500
    """Entries that are delivered together at most."""
    batch_bytes: int = 1 << 20
    """Bytes of them at most, as they stand in the journal; a larger entry goes alone."""
    batch_age: float = 1.0
    """How long an entry waits for others to be delivered with, in seconds."""
    deadline: float = 30.0
    """Seconds an attempt may take."""
    retry_most: float = 300.0
    """The longest pause before an attempt is repeated, in seconds, unless the sink asks for a
    longer one."""


@dataclass(slots=True)
class Condition:
    """How one sink does: plain values that any thread may read, e.g. for metrics.

    The counts are of this process, since its shipper was made; those in the bookmark are of all
    times.
    """

    state: str = "idle"
    """``idle``, ``delivering``, ``retrying``, ``waiting`` (another process ships), ``hung`` (two
    attempts have not come back), ``stopped`` (until a setting was changed)."""
    delivered: int = 0
    """Entries that were acknowledged."""
    batches: int = 0
    """Acknowledgements."""
    failures: int = 0
    """Attempts that failed, and other trouble."""
    rejected: int = 0
    """Entries that went to the dead letters."""
    filtered: int = 0
    """Entries that the sink's filter left out."""
    damaged: int = 0
    """Pieces of the journal that are no entries."""
    checkpoints: int = 0
    """Checkpoints that were acknowledged."""
    overdue: int = 0
    """Attempts that were given up and have not come back."""
    error: str | None = None
    """What went wrong last; None again after a success."""
    error_at: str | None = None
    retry_at: str | None = None
    """When it is tried again."""
    acknowledged_at: str | None = None
    """When the sink acknowledged something last."""
    acknowledged_up_to: str | None = None
    """Timestamp of the last entry it acknowledged: what is older was delivered."""
    waiting_since: str | None = None
    """Timestamp of the oldest entry that was read and not acknowledged; None when there is none.
    Now less this is the lag."""
    caught_up_at: str | None = None
    """When everything there was had been delivered the last time."""

    def behind(self) -> float:
        """How long ago all there was had been delivered, in seconds; 0 while nothing waits.

        Of a sink that another process serves, 0.
        """
        if self.state in ("idle", "waiting"):
            return 0.0
        since = self.caught_up_at or self.acknowledged_up_to
        if since is None:
            return 0.0
        return max(0.0, time.time() - datetime.fromisoformat(since).timestamp())

    def to_dict(self) -> dict[str, Any]:
        """What is known, as JSON has it."""
        return {name: value for name, value in asdict(self).items() if value is not None}
