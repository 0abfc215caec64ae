"""Settings of the sink `klaviyo`."""

from __future__ import annotations

from pydantic import BaseModel, Field

# pydantic resolves the annotations when the class is made.
from klaviyo_audit.settings.values import MetricName, Percent, Secret, Text, WebHost  # noqa: TC001


class KlaviyoSinkSettings(BaseModel):
    """With which key, on which metric and profile, and how fast."""

    klaviyo_key: Secret = Field(
        None,
        description="Private key of the sink `klaviyo`, of its own (scope `events:write`); not "
        "set: it shares the program's `KLAVIYO_API_KEY` and says so.",
    )
    klaviyo_metric: MetricName = Field(
        "Klaviyo Audit", description="Metric that the sink `klaviyo` records events of."
    )
    klaviyo_profile: Text = Field(
        None,
        description="Profile the events are recorded on: an external id, or `id:` with a profile's "
        "id at Klaviyo; not set: the external id `klaviyo-audit:<service>`. Never a customer's.",
    )
    klaviyo_share: Percent = Field(
        20,
        description="How much of the account's documented rate limits the sink `klaviyo` uses at "
        "most, in percent; the limits are shared by all that use the account.",
    )
    klaviyo_host: WebHost = Field(
        None, description="Another host than Klaviyo's for the sink `klaviyo`, for tests."
    )
