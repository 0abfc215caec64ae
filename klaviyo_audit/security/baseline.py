"""The baseline of a project: which credentials may stand where, as detect-secrets writes it."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from klaviyo_audit.security.patterns import TITLES, without_keys
from klaviyo_audit.security.sources import ScanFailed

if TYPE_CHECKING:
    from collections.abc import Iterable

    from klaviyo_audit.security.scan import Find

NAME: Final = ".secrets.baseline"
_VERSION: Final = "1.5.0"
"""That of detect-secrets whose format this is."""
_MODE: Final = 0o644


def default_baseline(path: Path) -> Path | None:
    """The baseline in a folder, if there is one."""
    baseline = path / NAME
    return baseline if baseline.is_file() else None


def hashed(secret: str) -> str:
    """What a baseline has in place of a secret: its SHA-1."""
    return hashlib.sha1(secret.encode("utf-8", "replace"), usedforsecurity=False).hexdigest()


def allowed_in(path: Path | None) -> dict[str, frozenset[str]]:
    """What a baseline allows: hashes by file.

    Raises:
        ScanFailed: It is no baseline.
    """
    if path is None:
        return {}
    try:
        results = _read(path)["results"]
        return {
            name: frozenset(one["hashed_secret"] for one in listed)
            for name, listed in results.items()
        }
    except (KeyError, TypeError, AttributeError) as error:
        raise _no_baseline(path, error) from error


def add(path: Path, finds: Iterable[Find]) -> int:
    """Allow finds in a baseline, which is made if it is not there; what it has stays.

    Args:
        path: The baseline.
        finds: What is to be allowed where it was found. An environment file under version control
            cannot be.

    Returns:
        How many entries were added.

    Raises:
        ScanFailed: It is no baseline.
        OSError: It cannot be written.
    """
    if path.exists():
        document = _read(path)
    else:
        document = {"version": _VERSION, "plugins_used": [], "filters_used": [], "results": {}}
    known = allowed_in(path) if path.exists() else {}
    added = 0
    for find in finds:
        if find.secret is None or find.path != without_keys(find.path):
            continue  # a name that is a key itself would stand in the baseline
        digest = hashed(find.secret)
        listed = document["results"].setdefault(find.path, [])
        if digest in known.get(find.path, ()) or any(o["hashed_secret"] == digest for o in listed):
            continue
        entry: dict[str, Any] = {
            "type": TITLES[find.rule],
            "filename": find.path,
            "hashed_secret": digest,
            "is_verified": False,
        }
        if find.commit is None and find.line is not None:
            entry["line_number"] = find.line
        listed.append(entry)
        added += 1
    if added:
        document["results"] = dict(sorted(document["results"].items()))
        document["generated_at"] = f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}"
        _replace(path, json.dumps(document, indent=2) + "\n")
    return added


def _read(path: Path) -> dict[str, Any]:
    try:
        document = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise _no_baseline(path, error) from error
    if not isinstance(document, dict):
        raise _no_baseline(path, TypeError())
    return document


def _no_baseline(path: Path, error: Exception) -> ScanFailed:
    return ScanFailed(
        f"{path} is no baseline of detect-secrets ({type(error).__name__}); make one with "
        "klaviyo-audit scan --update-baseline, or detect-secrets scan"
    )


def _replace(path: Path, text: str) -> None:
    """Write a file so that at any time the old or the new one is there."""
    descriptor, name = tempfile.mkstemp(dir=path.absolute().parent, prefix=f"{path.name}.")
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
            os.fchmod(file.fileno(), _MODE)
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
