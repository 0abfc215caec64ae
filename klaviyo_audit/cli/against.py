"""Where ``klaviyo-audit verify --against`` takes checkpoints from."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

from klaviyo_audit.errors import ConfigurationError

if TYPE_CHECKING:
    from klaviyo_audit.journal.witnesses import Kept

KLAVIYO: Final = "klaviyo"
"""Instead of a file's name: the checkpoints that the sink klaviyo has recorded."""
_OTLP_EXPORT: Final = "otlp-export"


def kept_checkpoints(against: str | None, journal: Path) -> Path | Kept | None:
    """What --against names: a file (one called ``klaviyo`` is ``./klaviyo``) or checkpoints.

    Args:
        against: What was given.
        journal: The journal's folder.

    Raises:
        ConfigurationError: The sink klaviyo has no key, or one that may not read; or the export's
            file is not named.
        LookupError: Klaviyo holds no checkpoint of this journal, or could not be asked.
    """
    from klaviyo_audit.journal.witnesses import Kept

    if against is None:
        return None
    if against == KLAVIYO:
        notes = _at_klaviyo(journal)
        if not notes:
            raise LookupError(
                "Klaviyo holds no checkpoint of this journal; the sink klaviyo records them where "
                "the journal is sealed"
            )
        return Kept(against, notes)
    scheme, colon, file = against.partition(":")
    if against == _OTLP_EXPORT and not Path(against).exists():
        raise ConfigurationError(
            "--against otlp-export needs the file that a collector's file exporter has written: "
            "--against otlp-export:FILE"
        )
    if scheme != _OTLP_EXPORT or not colon:
        return Path(against)
    from klaviyo_audit.sinks.otlp.export import exported_checkpoints

    return Kept(against, tuple(exported_checkpoints(Path(file))))


def _at_klaviyo(journal: Path) -> tuple[bytes, ...]:
    from klaviyo_audit.settings import load
    from klaviyo_audit.sinks.base import Retry
    from klaviyo_audit.sinks.klaviyo import KlaviyoSink

    try:
        return tuple(KlaviyoSink(load(dir=journal)).checkpoints())
    except Retry as error:
        raise LookupError(str(error)) from None
