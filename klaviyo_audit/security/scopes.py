"""The scopes that keys need to do what they were used for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections import Counter
    from collections.abc import Iterable


class Used(Protocol):
    """What a key was used for: `KeyUse`, or `Usage` in one environment."""

    scopes: Counter[str]
    refused_scopes: Counter[str]


def needed_scopes(uses: Iterable[Used]) -> tuple[str, ...]:
    """The scopes that a new key needs to do what keys were used for.

    Args:
        uses: The keys. Calls that Klaviyo refused (401, 403) need nothing: what they tried was not
            done, and whether it should be is for people to say (`refused_only`).
    """
    return tuple(sorted({scope for use in uses for scope in use.scopes}))


def refused_only(use: Used) -> dict[str, int]:
    """Scopes that were needed and that a key lacked, with how many calls were refused."""
    return {
        scope: calls
        for scope, calls in sorted(use.refused_scopes.items())
        # A call that needs several is refused for any of them; one that also worked is there.
        if scope not in use.scopes
    }
