"""Looking for exposed credentials in files and in git history."""

from __future__ import annotations

import io
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final

import orjson

from klaviyo_audit.klaviyo.keys import fingerprint
from klaviyo_audit.security import patterns, repository, sources
from klaviyo_audit.security.baseline import allowed_in, hashed
from klaviyo_audit.security.matching import search
from klaviyo_audit.security.patterns import Rule
from klaviyo_audit.security.sources import ScanFailed

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from pathlib import Path

    from klaviyo_audit.security.matching import Match
    from klaviyo_audit.security.sources import Source

_NOTEBOOK: Final = ".ipynb"
_MAX_NOTEBOOK: Final = 64 * 2**20
"""Larger notebooks are scanned as plain files: a key split over lines is not found in them."""


@dataclass(frozen=True, slots=True)
class Find:
    """One exposed credential, or a file that should not be tracked."""

    rule: Rule
    path: str
    line: int | None = None
    """Line of the file, of the blob, or of a notebook's cells put together; from 1."""
    fingerprint: str | None = None
    """First 12 hexadecimal digits of the SHA-256 of the credential, as in the trail."""
    masked: str | None = None
    secret: str | None = field(default=None, repr=False)
    """For asking whether it is live. Never shown."""
    commit: str | None = None
    """The earliest commit that holds it, for finds in history."""
    committed: str | None = None
    blob: str | None = None
    state: str | None = None
    """What Klaviyo says: ``live``, ``live_without_scope``, ``dead``, ``unknown``."""

    def to_dict(self) -> dict[str, Any]:
        """The facts that may be shown."""
        names = ("path", "line", "fingerprint", "masked", "commit", "committed", "blob", "state")
        facts = {name: getattr(self, name) for name in names}
        facts["path"] = patterns.without_keys(self.path)
        return {"rule": self.rule.value} | {n: v for n, v in facts.items() if v is not None}


@dataclass(slots=True)
class Scan:
    """What a scan has looked at and found."""

    finds: list[Find] = field(default_factory=list)
    unread: list[tuple[str, str]] = field(default_factory=list)
    """Files that could not be read, and why."""
    allowed: int = 0
    """Credentials that a comment or the baseline allows."""
    files: int = 0
    bytes: int = 0


def scan(
    path: Path,
    *,
    history: bool = False,
    staged: bool = False,
    baseline: Path | None = None,
) -> Scan:
    """Look for credentials.

    In a git work tree tracked and new files are looked at, not ignored ones: an ignored ``.env`` is
    where a key belongs. Elsewhere, and below a path that git ignores, every file is.

    Args:
        path: A folder or a file.
        history: Also everything that was ever added to the repository.
        staged: Only what the next commit would add or change.
        baseline: A ``.secrets.baseline`` of detect-secrets: what it lists is allowed.

    Raises:
        ScanFailed: There is nothing there that could be read.
    """
    if not path.exists():
        raise ScanFailed(f"there is no {str(path)!r}")
    top = repository.repository_of(path)
    bare = top is None and repository.is_inside_git(path)
    if top is None and (staged or (history and not bare)):
        raise ScanFailed(f"{str(path)!r} is in no git repository, so it has no history or index")
    known = allowed_in(baseline)
    result = Scan()
    unread = _unread_in(result)
    if bare and not history:
        unread("git's objects", "a bare repository has its files in its history only: --history")
    if staged:
        assert top is not None
        _look(result, repository.staged(top), known)
    elif top is None or not path.is_dir() or repository.is_ignored(path):
        _look(result, sources.files(path, unread), known)
    else:
        _look(result, repository.work_tree(path, unread), known)
    if top is not None:
        result.finds += [Find(Rule.TRACKED_ENV, name) for name in repository.tracked_env_files(top)]
    if history:
        _add_past(result, _past(path if top is None else top, known))
    return result


def scan_history(path: Path, *, baseline: Path | None = None) -> Scan:
    """Look for credentials in everything that was ever added to a repository, and only there.

    Args:
        path: A folder in the repository's work tree.
        baseline: As for `scan`.

    Raises:
        ScanFailed: It is in no repository, or git does not read it.
    """
    top = repository.repository_of(path)
    if top is None and not repository.is_inside_git(path):
        raise ScanFailed(f"{str(path)!r} is in no git repository, so it has no history")
    result = Scan()
    _add_past(result, _past(path if top is None else top, allowed_in(baseline)))
    return result


def _past(top: Path, known: Mapping[str, frozenset[str]]) -> Scan:
    past = Scan()
    lacking = repository.lacking(top)
    if lacking is not None:
        past.unread.append(("git's history", lacking))
    _look(past, repository.history(top, (_NOTEBOOK, *patterns.BARE_SUFFIXES)), {})
    _place(past, top, known)
    return past


def _unread_in(result: Scan) -> Any:
    def unread(path: str, why: str) -> None:
        result.unread.append((path, why))

    return unread


def _look(result: Scan, found: Iterable[Source], known: Mapping[str, frozenset[str]]) -> None:
    for source in found:
        result.files += 1
        seen: set[tuple[str, int]] = set()
        for match in _matches(source, result):
            if (match.secret, match.line) in seen:
                continue
            seen.add((match.secret, match.line))
            if match.allowed or hashed(match.secret) in known.get(source.path, ()):
                result.allowed += 1
                continue
            result.finds.append(_find(match, source))


def _find(match: Match, source: Source) -> Find:
    return Find(
        match.rule,
        source.path,
        match.line,
        fingerprint(match.secret),
        patterns.masked(match.rule, match.secret),
        match.secret,
        blob=source.blob,
    )


def _matches(source: Source, result: Scan) -> Iterator[Match]:
    kept: list[bytes] = []
    keeping = source.path.endswith(_NOTEBOOK)
    size = 0

    def read(amount: int) -> bytes:
        nonlocal size, keeping
        data = source.read(amount)
        size += len(data)
        if keeping:
            kept.append(data)
            keeping = size <= _MAX_NOTEBOOK
        return data

    bare = source.path.lower().endswith(patterns.BARE_SUFFIXES) or "/.env" in f"/{source.path}"
    plain = list(search(read, bare=bare))
    result.bytes += size
    yield from plain
    if keeping:
        known = {match.secret for match in plain}
        text = io.BytesIO(_cells(b"".join(kept)))
        yield from (match for match in search(text.read) if match.secret not in known)


def _cells(notebook: bytes) -> bytes:
    """The sources and outputs of a notebook as one text; nothing if it is none."""
    try:
        document = orjson.loads(notebook)
    except orjson.JSONDecodeError:
        return b""
    lines: list[str] = []
    waiting = [document]
    while waiting:
        value = waiting.pop()
        if isinstance(value, dict):
            waiting.extend(reversed(value.values()))
        elif isinstance(value, list) and value and all(isinstance(one, str) for one in value):
            lines.append("".join(value))
        elif isinstance(value, list):
            waiting.extend(reversed(value))
        elif isinstance(value, str):
            lines.append(value)
    return "\n".join(lines).encode("utf-8", "replace")


def _place(past: Scan, top: Path, known: Mapping[str, frozenset[str]]) -> None:
    """Say of finds in history under which paths, and when, they came in."""
    placed: list[Find] = []
    by_blob = repository.places(top, {find.blob for find in past.finds if find.blob})
    anywhere = frozenset[str]().union(*known.values())
    for find in past.finds:
        places = by_blob.get(find.blob or "")
        if not places:
            # What was only staged, or is on no branch any more, has no path to be allowed under.
            if hashed(find.secret or "") in anywhere:
                past.allowed += 1
                continue
            placed.append(replace(find, path="(not reachable from any branch)"))
            continue
        for place in places:
            if hashed(find.secret or "") in known.get(place.path, ()):
                past.allowed += 1
                continue
            placed.append(replace(find, path=place.path, commit=place.commit, committed=place.at))
    past.finds = placed


def _add_past(result: Scan, past: Scan) -> None:
    """Add finds in history: each credential once a path, and not where it still stands."""
    seen = {(find.fingerprint, find.path) for find in result.finds}
    for find in sorted(past.finds, key=lambda find: find.committed or "9"):
        if (find.fingerprint, find.path) not in seen:
            seen.add((find.fingerprint, find.path))
            result.finds.append(find)
    result.unread += past.unread
    result.files += past.files
    result.bytes += past.bytes
    result.allowed += past.allowed
