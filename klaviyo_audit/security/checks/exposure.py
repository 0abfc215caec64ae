"""Whether keys stand where others read them: files, environment files, git's history."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from klaviyo_audit.security import repository
from klaviyo_audit.security.checks.outcome import (
    Outcome,
    Place,
    failed,
    listed,
    passed,
    unchecked,
    warned,
)
from klaviyo_audit.security.patterns import Rule
from klaviyo_audit.security.scan import scan_history
from klaviyo_audit.security.scan_report import sentence

if TYPE_CHECKING:
    from collections.abc import Sequence

    from klaviyo_audit.security.checks.project import Project
    from klaviyo_audit.security.scan import Find

_EXCHANGE: Final = (
    "klaviyo-audit keys rotate --old OLD_ENV --new NEW_ENV (others may have read it; taking it out "
    "of the files is not enough), then read it from an environment variable. If it is made up: "
    "# pragma: allowlist secret"
)
_EXCHANGE_OLD: Final = (
    "klaviyo-audit keys rotate --old OLD_ENV --new NEW_ENV (others may have read it; it stays in "
    "git's history). Those that are dead or made up: klaviyo-audit scan --history "
    "--update-baseline, which allows all that is found, so look at each"
)


def keys_in_environment(project: Project) -> Outcome:
    """No credential stands in the project's files; what git ignores does not count."""
    scanned = project.scanned
    finds = [find for find in scanned.finds if find.rule is not Rule.TRACKED_ENV]
    if finds:
        return failed(f"{len(finds)} in files: {_shown(finds)}", _EXCHANGE, _places(finds))
    if scanned.unread:
        names = listed([f"{name} ({why})" for name, why in scanned.unread])
        return unchecked(
            f"not read: {names}; nothing in the other {scanned.files:,} files",
            "klaviyo-audit scan, as a user who may read them",
        )
    allowed = f", {scanned.allowed} allowed by comment or baseline" if scanned.allowed else ""
    return passed(f"no credential in {scanned.files:,} files{allowed}")


def env_files(project: Project) -> Outcome:
    """Environment files are not under version control, and git would not take them."""
    top = repository.repository_of(project.path)
    if top is None:
        return unchecked(
            "the folder is in no git repository", "run it in the git work tree of the project"
        )
    if tracked := repository.tracked_env_files(top):
        return failed(
            f"under version control: {listed(tracked)}",
            f"git rm --cached {tracked[0]} && echo .env >> .gitignore; exchange what was in it",
            [Place(name) for name in tracked],
        )
    if loose := repository.addable_env_files(project.path):
        return failed(
            f"not ignored, so that git add takes it: {listed(loose)}",
            f"echo '{loose[0].rpartition('/')[2]}' >> .gitignore",
            [Place(name) for name in loose],
        )
    if not repository.is_ignored(project.path.absolute() / ".env"):
        return warned("there is none, and git would not ignore one", "echo .env >> .gitignore")
    return passed(".env is ignored by git, and no environment file is tracked")


def history(project: Project) -> Outcome:
    """No credential was ever committed."""
    if not project.history:
        return unchecked("git's history was not asked for", "klaviyo-audit check --history")
    past = scan_history(project.path, baseline=project.baseline)
    if past.finds:
        return failed(
            f"{len(past.finds)} in git's history: {_shown(past.finds)}",
            _EXCHANGE_OLD,
            [Place(find.path) for find in past.finds if not find.path.startswith("(")],
        )
    if past.unread:
        name, why = past.unread[0]
        return unchecked(
            f"no credential in {past.files:,} objects, but {name} is not all here ({why})",
            "git fetch --unshallow (actions/checkout: fetch-depth: 0), or a whole clone",
        )
    return passed(f"no credential in {past.files:,} objects of git's history")


def _shown(finds: Sequence[Find]) -> str:
    return listed(
        [
            f"{find.path}{'' if find.line is None or find.blob else f':{find.line}'} "
            f"({sentence(find)})"
            for find in finds
        ],
        3,
    )


def _places(finds: Sequence[Find]) -> list[Place]:
    return [Place(find.path, find.line) for find in finds]
