"""The table of ``klaviyo-audit scopes``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from klaviyo_audit.security.scope_report import InEnvironment, OfKey

_MOST_UNUSED = 8


def print_environment(found: InEnvironment) -> None:
    """Print what is known of one environment: a table for each key, and what none of them used."""
    _say(f"environment {found.name or 'not set'}, {_rules(found)}")
    for key in found.keys:
        usage = key.usage
        names = ", ".join(sorted(usage.labels)) or "no variable"
        _say(f"  {usage.fingerprint}  {names}  ({', '.join(sorted(usage.services))})")
        for calls, what, remark in _rows(key):
            _say(f"  {calls:>10}  {what:<22}  {remark}".rstrip())
        minimal = " ".join(sorted(usage.scopes)) or "nothing yet"
        _say(f"    a new key needs: {minimal}")
    if found.unused is not None:
        unused = [*_bounded(found.unused.scopes), *_bounded(found.unused.operations)]
        text = ", ".join(f"{what} ({rule})" for what, rule in unused) or "nothing"
        _say(f"  granted, and no key used it: {text}")


def _rules(found: InEnvironment) -> str:
    if found.rules is None:
        return "no rules in the settings say what is granted (those given in code are not seen)"
    return found.problem or f"granted by {found.rules}"


def _rows(key: OfKey) -> Iterator[tuple[str, str, str]]:
    """Calls, scope or operation, and what there is to say of it."""
    from klaviyo_audit.security.scopes import refused_only

    ungranted = key.scopes_ungranted()
    for scope, calls in sorted(key.usage.scopes.items()):
        by = ", ".join(
            f"{name} {count:,}" for name, count in sorted(ungranted.get(scope, {}).items())
        )
        yield f"{calls:,}", scope, f"! used, and not granted: {by}" if by else ""
    without_scope = {
        called.name: calls
        for called, (calls, _) in key.ungranted.items()
        if not key.usage.needed[called.name]
    }
    for name, calls in sorted(without_scope.items()):
        yield f"{calls:,}", name, "! used, and not granted (needs no scope)"
    for scope, calls in refused_only(key.usage).items():
        yield f"{calls:,}", scope, "refused by Klaviyo (403): the key lacks this, or should"
    for name, calls in sorted(key.usage.denied.items()):
        yield f"{calls:,}", name, "denied by the guard"
    if key.unused is not None:
        for granted in (key.unused.scopes, key.unused.operations):
            for what, rule in _bounded(granted):
                yield "-", what, f"granted and not used: {rule}"


def _bounded(granted: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """What each rule grants, of many the first."""
    by_rule: dict[str, list[str]] = {}
    for what, rule in granted.items():
        by_rule.setdefault(rule, []).append(what)
    for rule, whats in by_rule.items():
        for what in whats[:_MOST_UNUSED]:
            yield what, rule
        if len(whats) > _MOST_UNUSED:
            yield f"and {len(whats) - _MOST_UNUSED} more", f"{rule} (--format json has all)"


def _say(text: str) -> None:
    from klaviyo_audit.rendering import clean

    click.echo(clean(text, 2000))
