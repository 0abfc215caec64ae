"""The scopes that keys really need: what the trail says of it."""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from klaviyo_audit.security.keyuse import KeyUse


def minimal_scopes(uses: Iterable[KeyUse]) -> tuple[str, ...]:
    """The scopes that a new key needs to do what keys were used for.

    Args:
        uses: The keys. Calls that Klaviyo refused (401, 403) need nothing: what they tried was not
            done, and whether it should be is for people to say (`refused_scopes`).
    """
    return tuple(sorted({scope for use in uses for scope in use.scopes}))


def refused_scopes(uses: Iterable[KeyUse]) -> dict[str, int]:
    """Scopes that were needed and that a key lacked, with how many calls were refused."""
    found: dict[str, int] = {}
    for use in uses:
        for scope, calls in use.refused_scopes.items():
            # A call that needs several is refused for any of them; one that also worked is there.
            if scope not in use.scopes:
                found[scope] = found.get(scope, 0) + calls
    return dict(sorted(found.items()))


def unused_grants(granted: Iterable[str], used: Iterable[str]) -> tuple[str, ...]:
    """What is granted and was never used.

    Args:
        granted: Scopes or patterns, such as ``profiles:read``, ``*:read`` or ``*``.
        used: Scopes that were used.

    Returns:
        The grants that fit none of them, in the order given.
    """
    needed = tuple(used)
    return tuple(
        grant for grant in granted if not any(fnmatchcase(scope, grant) for scope in needed)
    )


def missing_grants(granted: Iterable[str], needed: Mapping[str, object]) -> tuple[str, ...]:
    """Scopes that are needed and that no grant covers."""
    grants = tuple(granted)
    return tuple(
        scope for scope in sorted(needed) if not any(fnmatchcase(scope, grant) for grant in grants)
    )
