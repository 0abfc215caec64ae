"""Beside what keys were used for, what a rule set grants them, by environment and key."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from klaviyo_audit.errors import ConfigurationError
from klaviyo_audit.security.grants import Grants, grants_of, ungranted
from klaviyo_audit.security.scopes import needed_scopes, refused_only

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from klaviyo_audit.guard.policy import Guard
    from klaviyo_audit.security.usage import Called, Usage


@dataclass(frozen=True, slots=True)
class OfKey:
    """One key in one environment."""

    usage: Usage
    unused: Grants | None = None
    """What is granted to it and it did not use; None: there are no rules."""
    ungranted: Mapping[Called, tuple[int, str]] = field(default_factory=dict)
    """What it was used for and is not granted: how many calls, and the rule that denies."""

    def scopes_ungranted(self) -> dict[str, dict[str, int]]:
        """The scopes that such calls needed, with the operations and how many calls of each."""
        found: dict[str, dict[str, int]] = {}
        for called, (calls, _) in self.ungranted.items():
            for scope in self.usage.needed[called.name]:
                operations = found.setdefault(scope, {})
                operations[called.name] = operations.get(called.name, 0) + calls
        return dict(sorted(found.items()))

    def to_dict(self) -> dict[str, Any]:
        """All facts, ready for JSON."""
        usage = self.usage
        operations: dict[str, int] = {}
        for called, calls in usage.calls.items():
            operations[called.name] = operations.get(called.name, 0) + calls
        denied: dict[str, dict[str, Any]] = {}
        for called, (calls, rule) in self.ungranted.items():
            told = denied.setdefault(called.name, {"calls": 0, "rule": rule})
            told["calls"] += calls
        return {
            "fingerprint": usage.fingerprint,
            "labels": sorted(usage.labels),
            "services": sorted(usage.services),
            "used": dict(sorted(usage.scopes.items())),
            "operations": dict(sorted(operations.items())),
            "refused": refused_only(usage),
            "denied": dict(sorted(usage.denied.items())),
            "granted_unused": _facts(self.unused),
            "used_ungranted": {
                "scopes": self.scopes_ungranted(),
                "operations": dict(sorted(denied.items())),
            },
            "minimal": list(needed_scopes([usage])),
        }


@dataclass(frozen=True, slots=True)
class InEnvironment:
    """All keys that were used in one environment."""

    name: str | None
    keys: tuple[OfKey, ...]
    rules: str | None
    """Where the rules are from; None: there are none."""
    unused: Grants | None = None
    """What is granted and no key used."""
    problem: str | None = None
    """Why the rules say nothing about this environment."""

    def to_dict(self) -> dict[str, Any]:
        """All facts, ready for JSON."""
        facts: dict[str, Any] = {
            "environment": self.name,
            "guard": self.rules,
            "granted_unused": _facts(self.unused),
            "keys": [key.to_dict() for key in self.keys],
        }
        return facts if self.problem is None else {**facts, "problem": self.problem}


def report(usages: Iterable[Usage], guard: Guard | None, *, only: str = "") -> list[InEnvironment]:
    """Compare what keys were used for with what a guard grants.

    Args:
        usages: What they were used for.
        guard: The rules; None: there are none.
        only: Beginning of the fingerprints of keys to tell of. Others still count as users.
    """
    by_environment: dict[str | None, list[Usage]] = {}
    for usage in usages:
        by_environment.setdefault(usage.environment, []).append(usage)
    found = []
    for name, inside in sorted(by_environment.items(), key=lambda item: item[0] or ""):
        told = [usage for usage in inside if usage.fingerprint.startswith(only)]
        if told:
            found.append(_in_environment(name, inside, told, guard))
    return found


def _in_environment(
    name: str | None, inside: list[Usage], told: list[Usage], guard: Guard | None
) -> InEnvironment:
    if guard is None:
        return InEnvironment(name, tuple(OfKey(usage) for usage in told), None)
    try:
        unused = _unused(grants_of(guard, name), inside)
    except ConfigurationError as error:
        keys = tuple(OfKey(usage) for usage in told)
        return InEnvironment(name, keys, guard.source, problem=str(error))
    keys = tuple(
        OfKey(
            usage,
            _unused(grants_of(guard, name, (*sorted(usage.labels), usage.fingerprint)), [usage]),
            ungranted(guard, name, usage),
        )
        for usage in told
    )
    return InEnvironment(name, keys, guard.source, unused)


def _unused(grants: Grants, usages: list[Usage]) -> Grants:
    scopes = {scope for usage in usages for scope in usage.scopes}
    return grants.without(scopes, {called.name for usage in usages for called in usage.calls})


def _facts(grants: Grants | None) -> dict[str, Any] | None:
    if grants is None:
        return None
    return {
        "scopes": dict(sorted(grants.scopes.items())),
        "operations": dict(sorted(grants.operations.items())),
    }
