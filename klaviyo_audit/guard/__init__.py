"""Least privilege: which calls may go out."""

from __future__ import annotations

from klaviyo_audit.guard.policy import Guard
from klaviyo_audit.guard.radius import BlastRadius
from klaviyo_audit.guard.rules import Decision, Rule

__all__ = ["BlastRadius", "Decision", "Guard", "Rule"]
