"""The configuration of librdkafka that the Kafka sink runs with.

https://github.com/confluentinc/librdkafka/blob/master/CONFIGURATION.md lists the properties.
"""

from __future__ import annotations

from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

import orjson

from klaviyo_audit._version import __version__
from klaviyo_audit.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Mapping

DEFAULTS: Mapping[str, Any] = MappingProxyType(
    {
        "client.id": "klaviyo-audit",
        "client.software.name": "klaviyo-audit",
        "client.software.version": __version__,
        "linger.ms": 20,
        "compression.type": "lz4",
        # librdkafka's log lines go to standard error, which is the program's, and what matters in
        # them comes as errors, too.
        "log_level": 0,
    }
)
"""What the user may change."""

REQUIRED: Mapping[str, Any] = MappingProxyType(
    {
        # Retries can neither repeat nor reorder, and every replica in sync has a message.
        "enable.idempotence": True,
        "acks": "all",
        # librdkafka goes on by itself for as long as it takes. If it gave up on a message that a
        # broker may have, sending it anew could repeat it.
        "message.timeout.ms": 0,
    }
)
"""What the promises of the sink rest on."""

_SAME: Mapping[str, str] = MappingProxyType(
    {
        "request.required.acks": "acks",
        "delivery.timeout.ms": "message.timeout.ms",
        "metadata.broker.list": "bootstrap.servers",
        "compression.codec": "compression.type",
        "queue.buffering.max.ms": "linger.ms",
    }
)
"""Other names of properties that are used here."""

_CALLBACKS: Final = ("_cb", "logger")


def read_config(given: str) -> dict[str, Any]:
    """The properties of the setting ``kafka_config``.

    Args:
        given: A JSON object, or the path of a file: a JSON object, or lines ``name=value`` with
            ``#`` for comments, as ``kcat`` and Kafka's own tools take.

    Raises:
        ConfigurationError: It is neither. No value is quoted.
    """
    text, source = given.strip(), "kafka_config"
    if not text.startswith("{"):
        path = Path(text).expanduser()
        if "\n" in text or (not path.exists() and "=" in text):
            raise ConfigurationError(
                "kafka_config (KLAVIYO_AUDIT_KAFKA_CONFIG) is neither a JSON object nor the path "
                "of a file (its text is not shown)"
            )
        try:
            text, source = path.read_text().strip(), str(path)
        except (OSError, ValueError) as error:
            why = getattr(error, "strerror", None) or "it is no text"
            raise ConfigurationError(f"kafka_config: cannot read {path}: {why}") from None
    return _object(text, source) if text.startswith("{") else _lines(text, source)


def _object(text: str, source: str) -> dict[str, Any]:
    try:
        config: dict[str, Any] = orjson.loads(text)
    except ValueError:
        raise ConfigurationError(f"{source} is no JSON object (its text is not shown)") from None
    bad = [name for name, value in config.items() if not isinstance(value, str | int | float)]
    if bad:
        raise ConfigurationError(f"{source}: {bad[0]} is neither text, a number nor true or false")
    return config


def _lines(text: str, source: str) -> dict[str, Any]:
    config = {}
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip() or line.lstrip().startswith(("#", "!")):
            continue
        name, sign, value = line.partition("=")
        if not sign:
            raise ConfigurationError(
                f"{source}, line {number} is not of the form name=value (its text is not shown)"
            )
        config[name.strip()] = value.strip()
    return config


def complete_config(given: Mapping[str, Any]) -> dict[str, Any]:
    """The given properties with our own.

    Raises:
        ConfigurationError: There are no brokers, or a property contradicts what the sink promises.
    """
    config = {_SAME.get(name, name): value for name, value in given.items()}
    for name in config:
        if name.endswith(_CALLBACKS):
            raise ConfigurationError(f"kafka_config: {name} is the Kafka sink's own")
    if not config.get("bootstrap.servers") and "test.mock.num.brokers" not in config:
        raise ConfigurationError(
            "the Kafka sink needs brokers: set bootstrap.servers in kafka_config "
            '(KLAVIYO_AUDIT_KAFKA_CONFIG), as in {"bootstrap.servers": "kafka-1:9092"}'
        )
    for name, value in REQUIRED.items():
        said = str(config.get(name, value)).lower()
        if said not in {str(value).lower(), *(("-1",) if name == "acks" else ())}:
            raise ConfigurationError(
                f"kafka_config: {name} is {said[:40]!r}; the Kafka sink promises that nothing is "
                f"lost, repeated or reordered, and needs {str(value).lower()}"
            )
    return {**DEFAULTS, **config, **REQUIRED}
