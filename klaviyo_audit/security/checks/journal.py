"""Whether the trail is there, whole, sealed and kept where only its owner reads it."""

from __future__ import annotations

import grp
import os
import pwd
import stat
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final

from klaviyo_audit.errors import ConfigurationError
from klaviyo_audit.journal.findings import Kind, Severity
from klaviyo_audit.security.checks.outcome import Outcome, failed, listed, passed, unchecked, warned

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from klaviyo_audit.journal.findings import Report
    from klaviyo_audit.security.checks.project import Project

_LATE: Final = timedelta(minutes=10)
_BEHIND_SECONDS: Final = 600.0
_OTHERS: Final = 0o077
_NO_JOURNAL: Final = "there is no journal"


def audit_on(project: Project) -> Outcome:
    """There is a journal with entries."""
    where = f"{project.journal} (from {project.settings.sources['dir']})"
    if not project.has_journal:
        return failed(
            f"there is no journal in {where}",
            "audit(client), instrument() or klaviyo-audit run PROGRAM; set KLAVIYO_AUDIT_DIR if "
            "the journal is elsewhere",
        )
    trail = project.trail
    if trail.last is None:
        return failed(f"the journal in {where} has no entry", "klaviyo-audit verify")
    return passed(
        f"{trail.entries:,} entries in {project.journal}, the last at {trail.last:%F %T}Z"
    )


def intact(project: Project) -> Outcome:
    """Nothing in the journal was changed or taken away."""
    if not project.has_journal:
        return unchecked(_NO_JOURNAL)
    report = project.report
    if not report.intact:
        return failed(
            _told(report, Severity.ERROR),
            "klaviyo-audit verify, and compare with a copy: klaviyo-audit verify --against FILE",
        )
    if report.count(Severity.WARNING):
        return warned(
            f"intact, with {_told(report, Severity.WARNING)}",
            "klaviyo-audit verify, then klaviyo-audit resolve",
        )
    return passed(f"all {report.entries:,} entries are as they were written")


def _told(report: Report, severity: Severity) -> str:
    found = [one for one in report.findings if one.severity is severity]
    told = [
        one.kind.value
        + (f" in {one.file}" if one.file else "")
        + ("" if one.line is None else f" line {one.line}")
        for one in found
    ]
    return f"{len(found)} findings: {listed(list(dict.fromkeys(told)))}"


def sealed(project: Project) -> Outcome:
    """Checkpoints cover all lines but the newest."""
    from klaviyo_audit.journal.checkpoint import Checkpoint
    from klaviyo_audit.journal.checkpoints import last_checkpoint
    from klaviyo_audit.journal.note import parse_note
    from klaviyo_audit.security.keyuse import when

    if not project.has_journal:
        return unchecked(_NO_JOURNAL)
    report = project.report
    note = last_checkpoint(project.journal)
    remedy = "klaviyo-audit seal, and leave the setting seal at background (or seal --follow)"
    if note is None or not report.sealed:
        return failed("no checkpoint covers the journal", remedy)
    at = when(Checkpoint.from_text(parse_note(note).text).sealed_at or "")
    rest = next((one for one in report.findings if one.kind is Kind.UNSEALED), None)
    late = max(_LATE, timedelta(seconds=10 * project.settings.seal_interval))
    if rest is not None and (at is None or project.now - at > late):
        since = "unknown" if at is None else f"{at:%F %T}Z"
        return failed(f"{rest.message}; the last checkpoint is of {since}", remedy)
    if project.settings.seal == "off":
        return warned(f"{report.sealed:,} lines are sealed, and the setting seal is off", remedy)
    told = "" if at is None else f", the last time at {at:%F %T}Z"
    return passed(f"{report.sealed:,} lines are sealed{told}")


def signing_key(project: Project) -> Outcome:
    """Who can change the journal cannot seal it anew."""
    from klaviyo_audit.journal.signing import KEY_NAME

    if not project.has_journal:
        return unchecked(_NO_JOURNAL)
    pinned = project.settings.public_key is not None
    if not os.path.lexists(project.journal / KEY_NAME):
        if not project.report.sealed:
            return unchecked("nothing is sealed, so no key was used")
        return passed(
            f"not in the journal's folder; public_key is {'' if pinned else 'not '}pinned"
        )
    remedy = "klaviyo-audit keygen, KLAVIYO_AUDIT_SIGNING_KEY from a secret store, and public_key"
    if pinned:
        return warned(
            f"{KEY_NAME} is beside the journal: public_key shows that another key sealed it, not "
            "that this one was used by who can read the folder",
            remedy,
        )
    return warned(
        f"{KEY_NAME} is beside the journal and public_key is not set: who can write there can "
        "seal another history",
        remedy,
    )


def sinks(project: Project) -> Outcome:
    """Each sink gets what is written, and refuses none of it."""
    from klaviyo_audit.sinks.registry import EPHEMERAL, find_sink
    from klaviyo_audit.sinks.status import sinks_status

    names = project.settings.sinks
    try:
        for name in names:
            find_sink(name)
    except ConfigurationError as error:
        return failed(str(error), "correct the setting sinks, or install the sink's package")
    if not project.journal.is_dir():
        return unchecked(_NO_JOURNAL)
    found = [one for one in sinks_status(project.journal, names) if one["sink"] not in EPHEMERAL]
    if not found:
        return warned(
            "none: the trail is on this machine only, where who rules it can remove it",
            "KLAVIYO_AUDIT_SINKS=otlp (or klaviyo, kafka; docs/sinks.md)",
        )
    wrong = [trouble for one in found for trouble in _troubles(one)]
    if wrong:
        return failed(
            listed(wrong),
            "klaviyo-audit status; klaviyo-audit ship (--retry-dead sends dead letters again)",
        )
    return passed(
        listed([f"{one['sink']}: {one.get('delivered', 0):,} delivered" for one in found])
    )


def _troubles(sink: dict[str, Any]) -> Iterator[str]:
    name = sink["sink"]
    if sink["error"]:
        yield f"{name}: {sink['error']}"
    if sink["dead_letters"]:
        yield f"{name}: dead letters: {sink['dead_letters']:,}"
    if sink["dead_letters_unreadable"]:
        yield f"{name}: lines in dead.unreadable: {sink['dead_letters_unreadable']:,}"
    if sink["state"] in ("hung", "stopped"):
        yield f"{name} is {sink['state']}"
    if sink["lag_entries"] and sink["lag_seconds"] > _BEHIND_SECONDS:
        yield (
            f"{name}: {sink['lag_entries']:,} entries wait for {sink['lag_seconds']:,.0f} s"
            f"{'' if sink['shipping'] else ' and nobody ships'}"
        )


def permissions(project: Project) -> Outcome:
    """Only its owner reads and writes the journal, and nothing in it is a link."""
    folder = project.journal
    if not os.path.lexists(folder):
        return unchecked(_NO_JOURNAL)
    if folder.is_symlink():
        return failed(
            f"{folder} is a symbolic link, which may lead elsewhere tomorrow",
            f"KLAVIYO_AUDIT_DIR={folder.resolve()}",
        )
    wrong = list(_wrong_modes(folder))
    if wrong:
        return failed(
            listed(wrong),
            f"chmod -R go= '{folder}' and chown -R to the user the program runs as; links: rm them",
        )
    return passed(f"{folder} is its owner's only")


def _wrong_modes(folder: Path) -> Iterator[str]:
    facts = folder.stat()
    if facts.st_uid != os.geteuid() and os.geteuid():
        yield f"{folder} belongs to user {facts.st_uid}, not to {os.geteuid()}"
    parent = folder.absolute().parent
    if writers := _other_writers(parent.stat()):
        mode = stat.S_IMODE(parent.stat().st_mode)
        yield f"{parent} can be written by {writers} ({mode:04o}): chmod go-w '{parent}'"
    if facts.st_mode & _OTHERS:
        yield f"{folder} has mode {stat.S_IMODE(facts.st_mode):04o}, not 0700"
    for inner, folders, names in os.walk(folder, onerror=_raise):
        for name in sorted((*folders, *names)):
            if name == ".gitignore":
                continue  # it holds nothing, and git has to read it
            path = os.path.join(inner, name)  # noqa: PTH118  (names may not be UTF-8)
            try:
                one = os.lstat(path)
            except FileNotFoundError:
                continue  # the journal is in use
            shown = os.path.relpath(path, folder.parent)
            if stat.S_ISLNK(one.st_mode):
                yield f"{shown} is a symbolic link"
            elif one.st_mode & _OTHERS:
                wanted = "0700" if stat.S_ISDIR(one.st_mode) else "0600"
                yield f"{shown} has mode {stat.S_IMODE(one.st_mode):04o}, not {wanted}"
            elif one.st_uid != facts.st_uid:
                yield f"{shown} belongs to user {one.st_uid}, the folder to {facts.st_uid}"


def _other_writers(facts: os.stat_result) -> str | None:
    """Who but its owner can rename what is in a folder; None: nobody."""
    if facts.st_mode & stat.S_ISVTX:
        return None
    if facts.st_mode & stat.S_IWOTH:
        return "everybody"
    if facts.st_mode & stat.S_IWGRP and not _is_own_group(facts.st_uid, facts.st_gid):
        return f"group {facts.st_gid}"
    return None


def _is_own_group(uid: int, gid: int) -> bool:
    """Whether a group has no member but one user, as where each user has a group of that name.

    With the umask of 002 that is usual there, every folder can be written by its group.
    """
    try:
        user, group = pwd.getpwuid(uid), grp.getgrgid(gid)
    except KeyError:
        return False
    return user.pw_gid == gid and user.pw_name == group.gr_name and not group.gr_mem


def _raise(error: OSError) -> None:
    raise error
