"""Settings of the sink `kafka`."""

from __future__ import annotations

from pydantic import BaseModel, Field

# pydantic resolves the annotations when the class is made.
from klaviyo_audit.settings.values import Properties, Topic  # noqa: TC001


class KafkaSinkSettings(BaseModel):
    """Which brokers, and which topic."""

    kafka_config: Properties = Field(
        None,
        description="Properties of librdkafka for the sink `kafka`; `bootstrap.servers` is needed.",
    )
    kafka_topic: Topic = Field("klaviyo-audit", description="Topic of the sink `kafka`.")
