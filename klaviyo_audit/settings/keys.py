"""Settings of looking after API keys."""

from __future__ import annotations

from pydantic import BaseModel, Field

# pydantic resolves the annotations when the class is made.
from klaviyo_audit.settings.values import Duration  # noqa: TC001


class KeySettings(BaseModel):
    """When `klaviyo-audit keys` complains."""

    key_max_age: Duration = Field(
        7776000.0, description="Age above which `klaviyo-audit keys` flags a key."
    )
    key_max_overlap: Duration = Field(
        604800.0,
        description="How long a key may be used after another took its place, before "
        "`klaviyo-audit keys` flags it.",
    )
