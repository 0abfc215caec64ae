"""Settings of what OpenTelemetry is told about calls."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, Field

# pydantic resolves the annotations when the class is made.
from klaviyo_audit.settings.values import Text  # noqa: TC001


class TelemetrySettings(BaseModel):
    """Live spans and metrics, where the program has set OpenTelemetry up."""

    telemetry: Literal["auto", "off"] = Field(
        "auto",
        description="Whether calls are spans and metrics too: `auto` where the program has a "
        "tracer or meter provider. The sink `otlp` is another thing.",
    )
    span_user_id: Literal["pseudonym", "plain", "none"] = Field(
        "pseudonym",
        description="What spans say of the actor as `user.id`: a pseudonym (nothing without "
        "`pseudonym_key`), the entry's `user_id`, or nothing.",
    )
    http_spans: Literal["nested", "suppressed"] = Field(
        "nested",
        description="What becomes of the spans that an instrumentation of urllib3 makes for the "
        "requests of a call.",
    )
    actor_baggage: Text = Field(
        None,
        description="OpenTelemetry baggage keys, separated by commas, that name the actor where "
        "no `acting_as` does; whoever can send requests to the program can set baggage.",
    )
