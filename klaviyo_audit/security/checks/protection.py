"""Whether calls are held against rules, and persons have pseudonyms, in what really runs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from klaviyo_audit.errors import ConfigurationError
from klaviyo_audit.security.checks.outcome import Outcome, failed, listed, passed, warned

if TYPE_CHECKING:
    from klaviyo_audit.security.checks.project import Project, Start

_KEYS: Final = ("pseudonym_key", "pseudonym_key_file", "pseudonym_key_command")


def guard(project: Project) -> Outcome:
    """Programs run with a guard that denies; code may give it, so the trail counts."""
    from klaviyo_audit.guard.assembly import make_guard
    from klaviyo_audit.klaviyo.misfits import misfits

    remedy = (
        "KLAVIYO_AUDIT_GUARD=environment with KLAVIYO_AUDIT_ENVIRONMENT, or a [guard] table in "
        "the policy file (docs/guard.md)"
    )
    try:
        configured = make_guard(project.settings)
    except ConfigurationError as error:
        return failed(f"it cannot be used: {error}", remedy)
    if wrong := misfits(configured, None, project.settings.environment):
        return failed(
            f"rules that are for nothing: {listed(wrong, 2)}", "klaviyo-audit config check"
        )
    starts = _starts(project)
    without = [_name(start) for start in starts if not start.facts.get("guard")]
    if without:
        again = "; start it anew, the settings have one now" if configured is not None else ""
        return failed(f"started without a guard: {listed(without)}{again}", remedy)
    if not starts and configured is None:
        return failed("no guard is configured", remedy)
    modes = {_name(start): str(dict(start.facts["guard"]).get("mode")) for start in starts}
    if not starts and configured is not None:
        modes = {f"settings ({configured.source})": configured.mode}
    observing = [name for name, mode in modes.items() if mode != "enforce"]
    if observing:
        return warned(
            f"it only observes, and denies nothing: {listed(observing)}",
            "KLAVIYO_AUDIT_GUARD_MODE=enforce",
        )
    return passed(f"it is enforced: {listed(list(modes))}")


def pseudonym_key(project: Project) -> Outcome:
    """Persons have keyed pseudonyms, so that the trail can say whom a call was about."""
    settings = project.settings
    remedy = "KLAVIYO_AUDIT_PSEUDONYM_KEY from a secret store (docs/privacy.md)"
    starts = _starts(project)
    without = [_name(start) for start in starts if not _has_pseudonyms(start)]
    given = [name for name in _KEYS if getattr(settings, name) is not None]
    if len(given) > 1:
        return failed(f"{' and '.join(given)} exclude each other", f"keep one: {remedy}")
    if without:
        again = "; start it anew, the settings have one now" if given else ""
        return warned(
            f"started without one, so persons are masked and cannot be found: "
            f"{listed(without)}{again}",
            remedy,
        )
    if not starts and not given and settings.subject_keys == "off":
        return warned("none is set, so persons are masked and cannot be found", remedy)
    if given and settings.sources[given[0]].startswith(("environment", "code")):
        return passed(f"{given[0]} is set, from {settings.sources[given[0]]}")
    if given == ["pseudonym_key"]:
        return warned(f"it stands in {settings.sources['pseudonym_key']}", remedy)
    return passed("programs started with one" if not given else f"{given[0]} is set")


def _starts(project: Project) -> list[Start]:
    """Starts in this environment; all, where the setting ``environment`` names none."""
    here = project.settings.environment
    found = project.trail.starts if project.has_journal else []
    return [start for start in found if here is None or start.environment == here]


def _has_pseudonyms(start: Start) -> bool:
    privacy = start.facts.get("privacy")
    keys = str(privacy.get("pseudonyms") or "none") if isinstance(privacy, dict) else "none"
    return not keys.startswith("none")


def _name(start: Start) -> str:
    return f"{start.service} in {start.environment}" if start.environment else start.service
