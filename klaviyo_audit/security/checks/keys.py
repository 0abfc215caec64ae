"""Whether keys are apart, young and no more powerful than needed, by what the trail says."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Final

from klaviyo_audit.security.checks.outcome import Outcome, failed, listed, passed, unchecked, warned
from klaviyo_audit.security.grants import EVERYTHING, grants_of
from klaviyo_audit.security.keyuse import Flag, flags, key_uses
from klaviyo_audit.security.scopes import needed_scopes
from klaviyo_audit.security.usage import usage_of

if TYPE_CHECKING:
    from klaviyo_audit.security.checks.project import Project
    from klaviyo_audit.security.keyuse import KeyUse

_NO_TRAIL: Final = "nothing was recorded yet"
_RECORD: Final = "set KLAVIYO_AUDIT_DIR to the journal's folder, or run the audited program first"
_ROTATE: Final = "klaviyo-audit keys rotate --old OLD_ENV --new NEW_ENV"
_GIVE_NEW: Final = "klaviyo-audit keys, and give the services it names the key that is live"
_MOST_GRANTS: Final = 8


def distinct_keys(project: Project) -> Outcome:
    """No key is used in two environments."""
    if not project.has_journal:
        return unchecked(_NO_TRAIL, _RECORD)
    used = project.trail.environments
    shared = {key: found for key, found in used.items() if len(found) > 1}
    if shared:
        told = []
        for key, found in shared.items():
            services = sorted({service for names in found.values() for service in names})
            told.append(f"{key} in {' and '.join(sorted(found))} ({', '.join(services)})")
        return failed(
            f"used in more than one environment: {listed(told)}",
            "make a key for each environment, then klaviyo-audit keys rotate --old OLD --new NEW",
        )
    environments = sorted({name for found in used.values() for name in found})
    if not environments:
        return unchecked(
            "no call with a key names its environment",
            "set KLAVIYO_AUDIT_ENVIRONMENT (production, staging, ...) where the program runs",
        )
    if len(environments) == 1:
        return unchecked(
            f"this journal only has keys of {environments[0]}: {listed(sorted(used))}",
            "compare with the fingerprints that klaviyo-audit keys prints in other environments",
        )
    return passed(f"{len(used)} keys in {', '.join(environments)}, each in one of them")


def key_age(project: Project) -> Outcome:
    """No key is too old, used on after another took its place, or tried though it is dead."""
    if not project.has_journal:
        return unchecked(_NO_TRAIL, _RECORD)
    uses = _secret(project.trail.uses)
    if not uses:
        return unchecked("no call with a private key was recorded", _RECORD)
    settings = project.settings
    wrong = flags(
        uses,
        now=project.now,
        max_age=timedelta(seconds=settings.key_max_age),
        max_overlap=timedelta(seconds=settings.key_max_overlap),
    )
    if wrong:
        told = [
            f"{_name(uses[key])} {flag.value.replace('_', ' ')}: {why}"
            for key, found in wrong.items()
            for flag, why in found.items()
        ]
        only_dead = all(set(found) == {Flag.REVOKED_IN_USE} for found in wrong.values())
        return failed(listed(told), _GIVE_NEW if only_dead else _ROTATE)
    ages = [age for use in uses.values() if (age := use.age(project.now)) is not None]
    return passed(
        f"{len(uses)} keys, the oldest first used {max(ages).days} days ago (of at most "
        f"{timedelta(seconds=settings.key_max_age).days})"
    )


def minimal(project: Project) -> Outcome:
    """The guard grants no scope and no operation that was never used."""
    from klaviyo_audit.guard.assembly import make_guard

    if not project.has_journal:
        return unchecked(_NO_TRAIL, _RECORD)
    uses = _secret(key_uses(project.entries_here()))
    if not uses:
        return unchecked("no call with a private key was recorded here", _RECORD)
    needed = needed_scopes(uses.values())
    shown = " ".join(needed) or "nothing yet"
    guard = make_guard(project.settings)
    if guard is None:
        return unchecked(
            f"no guard in the settings says what is granted; used were {shown}",
            "klaviyo-audit scopes, then make keys with these scopes and list them in the guard",
        )
    used = {
        called.name for usage in usage_of(project.entries_here()).values() for called in usage.calls
    }
    grants = grants_of(guard, project.settings.environment, presets=False)
    unused = grants.without(needed, used)
    wide = [*unused.scopes, *unused.operations]
    if EVERYTHING in unused.operations:
        wide = ["everything (default = allow)", *(one for one in wide if one != EVERYTHING)]
    if wide:
        listing = ", ".join(f'"{scope}"' for scope in needed)
        return warned(
            f"granted by {guard.source} and never used here: {listed(wide, _MOST_GRANTS)}",
            f"allow = [{listing}], and keys made with these scopes",
        )
    return passed(f"all that {guard.source} grants was used: {shown}")


def _secret(uses: dict[str, KeyUse]) -> dict[str, KeyUse]:
    return {key: use for key, use in uses.items() if use.kind != "public"}


def _name(use: KeyUse) -> str:
    labels = ", ".join(sorted(use.labels))
    return f"{use.fingerprint} ({labels})" if labels else use.fingerprint
