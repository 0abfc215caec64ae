"""Reading back what a collector's file exporter wrote: the checkpoints in it.

The OpenTelemetry Collector's ``file`` exporter writes one JSON object (OTLP/JSON) a line.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import orjson

from klaviyo_audit.errors import ConfigurationError
from klaviyo_audit.sinks.otlp.attributes import CHECKPOINT_EVENT_NAME

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_MARK: Final = CHECKPOINT_EVENT_NAME.encode()


def exported_checkpoints(path: Path) -> Iterator[bytes]:
    """The signed notes in an export, oldest first as the collector wrote them.

    Lines about anything else are passed over without being decoded. Nothing is verified here.

    Args:
        path: The file; its last line may be in the act of being written.

    Raises:
        ConfigurationError: A line that is about checkpoints is not OTLP in JSON.
        OSError: The file cannot be read.
    """
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            if number == 1 and not line.lstrip()[:1] == b"{":
                raise ConfigurationError(
                    f"{path} is no export of OTLP logs in JSON, one object a line (the "
                    "collector's file exporter with format: json and without compression)"
                )
            if _MARK not in line:
                continue
            try:
                yield from _notes(orjson.loads(line))
            except (ValueError, KeyError, TypeError, AttributeError):
                if not line.endswith(b"\n"):
                    return
                raise ConfigurationError(
                    f"{path}, line {number}: it mentions {CHECKPOINT_EVENT_NAME} and is not OTLP "
                    "logs in JSON; was the file changed?"
                ) from None


def _notes(exported: dict[str, Any]) -> Iterator[bytes]:
    for resource in _list(exported, "resourceLogs"):
        for scope in _list(resource, "scopeLogs"):
            for record in _list(scope, "logRecords"):
                if _is_checkpoint(record):
                    yield record["body"]["stringValue"].encode()


def _list(holder: dict[str, Any], name: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = holder.get(name, [])
    return found


def _is_checkpoint(record: dict[str, Any]) -> bool:
    # Collectors older than the event name (added in OTLP 1.5) drop it, and keep the attributes.
    names = (attribute["key"] for attribute in record.get("attributes", []))
    return record.get("eventName") == CHECKPOINT_EVENT_NAME or any(
        name.startswith(f"{CHECKPOINT_EVENT_NAME}.") for name in names
    )
