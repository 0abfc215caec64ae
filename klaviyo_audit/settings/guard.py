"""The settings of the guard."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, Field


class GuardSettings(BaseModel):
    """Which calls may go out."""

    guard: Literal["off", "development", "staging", "production", "environment"] = Field(
        "off",
        description="Rules that calls have to pass (guard.md); `environment`: those that are "
        "called like the setting `environment`.",
    )
    guard_mode: Literal["enforce", "observe"] = Field(
        "enforce",
        description="Whether a call that the rules do not allow is denied, or only noted in its "
        "entry.",
    )
    require_actor: Literal["off", "low", "medium", "high", "critical"] = Field(
        "off", description="Risk from which a call needs somebody named who acts."
    )
    require_reason: Literal["off", "low", "medium", "high", "critical"] = Field(
        "off", description="Risk from which a call needs a reason (`acting_as(reason=)`)."
    )
