"""Rules that are for nothing: their operations, scopes, effects or environments do not exist."""

from __future__ import annotations

import logging
import re
from contextlib import suppress
from functools import cache
from typing import TYPE_CHECKING, Any, Final

from klaviyo_audit.guard.policy import rule_name
from klaviyo_audit.guard.presets import PRESETS
from klaviyo_audit.klaviyo.catalog import sdk_sources
from klaviyo_audit.klaviyo.risks import table
from klaviyo_audit.policyfile import any_fits, shown

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Sequence

    from klaviyo_audit.guard.policy import Guard
    from klaviyo_audit.privacy.policy import Policy

_log = logging.getLogger("klaviyo_audit")

_MEMBER: Final = re.compile(r"^    (?:async )?(?:def )?([a-z]\w*)(?:\(| = )", re.MULTILINE)
_SCOPE: Final = re.compile(r"`([a-z-]+:[a-z-]+)`")
_REQUEST: Final = re.compile(r"[A-Z*?]+ /")
_NEAR: Final = 0.75
_VERY_NEAR: Final = 0.85
_WILD: Final = re.compile(r"[*?\[]")


def misfits(
    guard: Guard | None, policy: Policy | None, environment: str | None = None
) -> list[str]:
    """What is misspelt in rules, or is for nothing that is known; one sentence each.

    Not operations in rules of the guard with ``unknown = true``: they may be newer than this
    version. In rules for privacy, operations may be actions of the program's own, so only what is
    near to a name of Klaviyo's is told; environments likewise, since they can have any name.

    Args:
        guard: Its own rules are looked at, not those of a preset.
        policy: The rules for privacy.
        environment: The setting.
    """
    told: list[str] = []
    environments: dict[str, None] = {}
    if guard is not None:
        for number, rule in enumerate(guard.rules, 1):
            where = f"guard (from {guard.source}), {rule_name(number, rule)}"
            if not rule.unknown:
                told += _operations(where, rule.operations, own=False)
            told += _scopes(where, rule.scopes)
            told += _effects(where, rule.effects)
            told += _environments(where, rule.environments, environment)
            environments |= dict.fromkeys(rule.environments)
    if policy is not None:
        for number, kept in enumerate(policy.rules, 1):
            name = f" '{kept.name}'" if kept.name else ""
            where = f"policy {policy.source!r}, [[privacy.rules]] number {number}{name}"
            told += _operations(where, kept.operations, own=True)
            told += _scopes(where, kept.scopes)
            told += _environments(where, kept.environments, environment)
            environments |= dict.fromkeys(kept.environments)
    told += _setting(environment, list(environments))
    return told


def warn_of_misfits(guard: Guard | None, policy: Policy | None, environment: str | None) -> None:
    """Log what `misfits` tells, as warnings; called at start, and never a reason not to start."""
    try:
        if (guard is not None and guard.rules) or (policy is not None and policy.rules):
            for sentence in misfits(guard, policy, environment):
                _log.warning("%s", sentence)
    except Exception:  # a logging filter of the program's own may raise, too
        with suppress(Exception):
            _log.debug("the rules could not be checked for misspellings", exc_info=True)


def _operations(where: str, globs: Sequence[str], *, own: bool) -> Iterator[str]:
    for glob in globs:
        if any_fits((glob,), _table_names()) or any_fits((glob,), _sdk_names()):
            continue
        near = _nearest(glob, _table_names(), _VERY_NEAR if own else _NEAR)
        if own and near is None and not _names_klaviyo(glob):
            continue  # an action of the program's own
        yield _sentence(f"{where}: operations", glob, "operation of Klaviyo's API", near)


def _scopes(where: str, globs: Sequence[str]) -> Iterator[str]:
    known = {scope for operation in table().values() for scope in operation.scopes}
    for glob in globs:
        if not any_fits((glob,), known) and not any_fits((glob,), _sdk_scopes()):
            near = _nearest(glob, known, _NEAR)
            yield _sentence(f"{where}: scopes", glob, "scope of Klaviyo's API", near)


def _effects(where: str, globs: Sequence[str]) -> Iterator[str]:
    known = {effect for operation in table().values() for effect in operation.effects}
    for glob in globs:
        if not any_fits((glob,), known):
            near = _nearest(glob, known, _NEAR)
            hint = near or f"one of {', '.join(sorted(known))}"
            yield _sentence(f"{where}: effects", glob, "effect", hint)


def _environments(where: str, globs: Sequence[str], environment: str | None) -> Iterator[str]:
    known = [*PRESETS, *([environment] if environment else ())]
    for glob in globs:
        if any_fits((glob,), known):
            continue
        near = _nearest(glob, known, _VERY_NEAR)
        if near is not None:
            yield f"{where}: environments has {shown(glob)}; did you mean {near}?"


def _setting(environment: str | None, globs: list[str]) -> Iterator[str]:
    """The environment itself, where rules are for environments and none is for this one."""
    if environment is None or environment in PRESETS or any_fits(globs, (environment,)):
        return
    plain = [glob for glob in globs if not _WILD.search(glob)]
    near = _nearest(environment, [*PRESETS, *plain], _VERY_NEAR) if globs else None
    if near is not None:
        yield f"the setting environment is {shown(environment)}; did you mean {near}?"


def _sentence(where: str, glob: str, what: str, near: str | None) -> str:
    hint = f"; did you mean {near}?" if near else ""
    return f"{where} has {shown(glob)}, which fits no {what} that this version knows{hint}"


def _nearest(glob: str, known: Collection[str], cutoff: float) -> str | None:
    import difflib

    found = difflib.get_close_matches(glob.lower(), {one.lower(): one for one in known}, 1, cutoff)
    return next((one for one in known if found and one.lower() == found[0]), None)


def _names_klaviyo(glob: str) -> bool:
    """Whether a glob can only be meant for an operation of the SDK."""
    groups = {operation.group.lower() for operation in table().values()}
    return (
        glob.lower().startswith("klaviyo.")
        or _REQUEST.match(glob) is not None
        or glob.lower().partition(".")[0] in groups
    )


@cache
def _table_names() -> tuple[str, ...]:
    found: dict[str, None] = {}
    for one in table().values():
        name = f"{one.group.lower()}.{one.name}"
        found |= dict.fromkeys((name, f"klaviyo.{name}", f"{one.method} {one.path}"))
    return tuple(found)


@cache
def _sdk_names() -> tuple[str, ...]:
    """Aliases, and operations newer than the table, read from the SDK's source."""
    found: dict[str, None] = {}
    for group, source in sdk_sources():
        for member in _MEMBER.findall(source):
            found |= dict.fromkeys((f"{group}.{member}", f"klaviyo.{group}.{member}"))
    return tuple(found)


@cache
def _sdk_scopes() -> tuple[str, ...]:
    scopes: Any = (_SCOPE.findall(source) for _, source in sdk_sources())
    return tuple({scope for found in scopes for scope in found})
