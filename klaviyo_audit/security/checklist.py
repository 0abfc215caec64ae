"""The security checklist of a project: which checks there are, and running them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from klaviyo_audit.errors import KlaviyoAuditError
from klaviyo_audit.security.checks import exposure, journal, keys, protection, webhooks
from klaviyo_audit.security.checks.outcome import Outcome, Status, unchecked
from klaviyo_audit.security.patterns import without_keys

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from klaviyo_audit.security.checks.project import Project


@dataclass(frozen=True, slots=True)
class Check:
    """One line of the checklist."""

    id: str
    title: str
    run: Callable[[Project], Outcome]
    of_source: bool = False
    """Whether it looks at the project's files only, and not at the trail of what ran."""


@dataclass(frozen=True, slots=True)
class Result:
    """What one check has found."""

    check: Check
    outcome: Outcome


CHECKS: Final = (
    Check(
        "keys-in-environment",
        "Keys are only in the environment",
        exposure.keys_in_environment,
        of_source=True,
    ),
    Check("env-files", ".env is ignored and untracked", exposure.env_files, of_source=True),
    Check("history", "No key is in git's history", exposure.history, of_source=True),
    Check("distinct-keys", "Each environment has keys of its own", keys.distinct_keys),
    Check("minimal-scopes", "Nothing unused is granted", keys.minimal),
    Check("key-age", "Keys are exchanged in time", keys.key_age),
    Check("webhooks", "Webhooks are verified", webhooks.webhooks, of_source=True),
    Check("audit-on", "Calls are recorded", journal.audit_on),
    Check("intact", "The journal is intact", journal.intact),
    Check("sealed", "The journal is sealed", journal.sealed),
    Check("signing-key", "The signing key is elsewhere", journal.signing_key),
    Check("sinks", "Sinks are healthy", journal.sinks),
    Check("permissions", "The journal is its owner's only", journal.permissions),
    Check("guard", "A guard holds calls against rules", protection.guard),
    Check("pseudonym-key", "Persons have pseudonyms", protection.pseudonym_key),
)
"""All checks in the order they are shown in. Their ids are stable."""


def run_checks(project: Project, checks: Iterable[Check] = CHECKS) -> list[Result]:
    """Run checks. One that raises is not checked, and says why; it never passes."""
    return [Result(check, _masked(_run(check, project))) for check in checks]


def is_passed(results: Iterable[Result], *, strict: bool = False) -> bool:
    """Whether nothing failed; with `strict`, whether nothing is to be warned of either."""
    wrong = {Status.FAIL, Status.WARN} if strict else {Status.FAIL}
    return not any(result.outcome.status in wrong for result in results)


def _run(check: Check, project: Project) -> Outcome:
    try:
        return check.run(project)
    except (KlaviyoAuditError, OSError, LookupError) as error:
        return unchecked(f"it could not be looked at: {type(error).__name__}: {error}")
    except Exception as error:  # its message may quote anything
        return unchecked(
            f"the check itself failed ({type(error).__name__})",
            "report this with the command and the version: klaviyo-audit --version",
        )


def _masked(outcome: Outcome) -> Outcome:
    return Outcome(
        outcome.status,
        without_keys(outcome.evidence),
        without_keys(outcome.remedy),
        outcome.places,
    )
