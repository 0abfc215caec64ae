"""What a rule set grants to keys, and how that compares with what they were used for."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING, Final

from klaviyo_audit.guard.policy import Ruling, rule_name
from klaviyo_audit.guard.rules import Decision, Facts
from klaviyo_audit.klaviyo import catalog
from klaviyo_audit.klaviyo.guardplan import facts_of
from klaviyo_audit.klaviyo.risks import table
from klaviyo_audit.klaviyo.targets import target_for
from klaviyo_audit.policyfile import any_fits

if TYPE_CHECKING:
    from collections.abc import Container, Mapping

    from klaviyo_audit.guard.policy import Guard
    from klaviyo_audit.guard.rules import Rule
    from klaviyo_audit.security.usage import Called, Usage

EVERYTHING: Final = "everything"
"""Stands for all operations, where the guard's default is to allow."""


@dataclass(frozen=True, slots=True)
class Grants:
    """What is granted, each with the rule that grants it."""

    scopes: Mapping[str, str] = field(default_factory=dict)
    """By rules that name scopes: these, patterns as the scopes they stand for."""
    operations: Mapping[str, str] = field(default_factory=dict)
    """By other rules: the operations they are for (``lists.delete_list``)."""

    def without(self, scopes: Container[str], operations: Container[str]) -> Grants:
        """What of it is in neither, such as what was used."""
        return Grants(
            {scope: rule for scope, rule in self.scopes.items() if scope not in scopes},
            {name: rule for name, rule in self.operations.items() if name not in operations},
        )


def grants_of(
    guard: Guard,
    environment: str | None,
    keys: tuple[str, ...] | None = None,
    *,
    presets: bool = True,
) -> Grants:
    """What a guard lets out.

    What it grants to some users only counts as granted; what it denies to some only is not denied.

    Args:
        guard: The rules.
        environment: Where.
        keys: Names of the key that calls are made with (label, fingerprint); None: any key.
        presets: Whether the rules of a preset count, or only one's own.

    Raises:
        ConfigurationError: The guard has no preset for this environment.
    """
    rules = guard.rules_in(environment)
    told = [rule_name(number, rule) for number, rule in enumerate(rules, 1)]
    counting = len(rules) if presets else len(guard.rules)
    known = _catalog(with_aliases=any(rule.operations for rule in rules))
    operations: dict[str, str] = {}
    denied: Counter[str] = Counter()
    needing: Counter[str] = Counter()
    for name, facts in known.items():
        needing.update(facts.scopes)
        index = _deciding(rules, facts, environment, keys)
        if index is None:
            if guard.default is Decision.ALLOW:
                operations = {EVERYTHING: "default = allow", **operations}
        elif rules[index].decision is Decision.DENY:
            denied.update(facts.scopes)
        elif index < counting and not rules[index].scopes:
            operations[name] = told[index]
    open_scopes = [scope for scope in sorted(needing) if denied[scope] < needing[scope]]
    scopes: dict[str, str] = {}
    for rule, name in zip(rules[:counting], told, strict=False):
        if rule.decision is Decision.ALLOW and _applies(rule, environment, keys):
            # What fits nothing that is known is granted all the same, as it is written.
            for glob in rule.scopes:
                is_known = any_fits((glob,), needing)
                fitting = [scope for scope in open_scopes if any_fits((glob,), (scope,))]
                for scope in fitting if is_known else [glob]:
                    scopes.setdefault(scope, name)
            for glob in rule.operations:
                if not any(any_fits((glob,), facts.names) for facts in known.values()):
                    operations.setdefault(glob, name)
    return Grants(scopes, operations)


def ungranted(guard: Guard, environment: str | None, usage: Usage) -> dict[Called, tuple[int, str]]:
    """Calls that went out and that a guard would not let out, with how many and the rule.

    Raises:
        ConfigurationError: The guard has no preset for this environment.
    """
    keys = (*sorted(usage.labels), usage.fingerprint)
    rulings: dict[tuple[str, str], Ruling] = {}
    found = {}
    for called, calls in usage.calls.items():
        identity = (called.method, called.path)
        if identity not in rulings:
            target = target_for(catalog.by_url(*identity))
            rulings[identity] = Ruling(guard, facts_of(target), environment)
        verdict = rulings[identity].verdict(called.user, keys)
        if not verdict.allows:
            found[called] = (calls, verdict.told)
    return found


def _deciding(
    rules: tuple[Rule, ...], facts: Facts, environment: str | None, keys: tuple[str, ...] | None
) -> int | None:
    """The place of the first rule that is for an operation; None if none is."""
    for index, rule in enumerate(rules):
        if rule.unmet(facts, environment) is None and _applies(rule, environment, keys):
            return index
    return None


def _applies(rule: Rule, environment: str | None, keys: tuple[str, ...] | None) -> bool:
    """Whether a rule may be for calls in an environment with a key."""
    if rule.environments and not any_fits(rule.environments, (environment or "",)):
        return False
    if rule.decision is Decision.DENY and (rule.users or (rule.keys and keys is None)):
        return False
    return not rule.keys or keys is None or any_fits(rule.keys, keys)


@cache
def _catalog(*, with_aliases: bool) -> Mapping[str, Facts]:
    """Every operation of the table as rules see it.

    Args:
        with_aliases: Whether by all names of the SDK, which takes seconds: every API module is
            imported. Scopes need none.
    """
    found = {}
    for one in table().values():
        name = f"{one.group.lower()}.{one.name}"
        found[name] = (
            facts_of(target_for(one))
            if with_aliases
            else Facts(
                (name,), one.method, frozenset(one.scopes), one.risk.value, one.personal_data,
                frozenset(one.effects),
            )
        )  # fmt: skip
    return found
