"""Running git on a repository whose maker may mean harm: it runs and fetches nothing of theirs."""

from __future__ import annotations

import os
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Final

from klaviyo_audit.security.sources import ScanFailed

if TYPE_CHECKING:
    from collections.abc import Iterator

# A repository can bring settings that run programs; none of them is needed to read it.
COMMAND: Final = (
    "git", "-c", "core.fsmonitor=false", "-c", "core.hooksPath=/dev/null",
    "-c", "log.showSignature=false", "-c", "log.mailmap=false", "-c", "diff.orderFile=/dev/null",
    "--no-pager",
)  # fmt: skip
# Nor is anything fetched: what a partial clone lacks would be, by a program that it names. Nor does
# a ref in refs/replace put another object in the place of one that holds a key.
_ALONE: Final = {
    "GIT_ALLOW_PROTOCOL": "",
    "GIT_NO_LAZY_FETCH": "1",
    "GIT_NO_REPLACE_OBJECTS": "1",
    "GIT_OPTIONAL_LOCKS": "0",
    "GIT_TERMINAL_PROMPT": "0",
}
# What git tells its hooks (git rev-parse --local-env-vars); of another repository it is wrong.
_PATHS: Final = (
    "GIT_DIR",
    "GIT_WORK_TREE",
    "GIT_INDEX_FILE",
    "GIT_COMMON_DIR",
    "GIT_OBJECT_DIRECTORY",
)
_OF_ONE_REPOSITORY: Final = (
    *_PATHS, "GIT_ALTERNATE_OBJECT_DIRECTORIES", "GIT_IMPLICIT_WORK_TREE", "GIT_GRAFT_FILE",
    "GIT_PREFIX", "GIT_SHALLOW_FILE", "GIT_NAMESPACE",
)  # fmt: skip
_MOST_SECONDS: Final = 600.0
"""Time of one command. A FIFO in the place of a ``.gitignore`` has git wait for ever."""


def listed(folder: Path, *command: str) -> list[bytes]:
    """What a command prints, each piece up to a NUL.

    Raises:
        ScanFailed: It fails.
    """
    done = run(folder, *command)
    if done.returncode:
        raise ScanFailed(f"git {command[0]} fails in {folder}: {told(done.stderr)}")
    return [piece for piece in done.stdout.split(b"\0") if piece]


def streamed(folder: Path, *command: str) -> Iterator[bytes]:
    """As `listed`, for what may be too long to keep."""
    with tempfile.TemporaryFile() as said:
        with subprocess.Popen(  # noqa: S603  (a fixed command)
            [*COMMAND, "-C", str(folder), *command],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=said, env=environment(folder),
        ) as process:  # fmt: skip
            assert process.stdout is not None
            rest = b""
            while data := process.stdout.read(1 << 16):
                *whole, rest = (rest + data).split(b"\0")
                yield from filter(None, whole)
            if rest:
                yield rest
        if process.returncode:
            said.seek(0)
            raise ScanFailed(f"git {command[0]} fails in {folder}: {told(said.read())}")


def run(folder: Path, *command: str) -> subprocess.CompletedProcess[bytes]:
    """Run a command of git in a folder.

    Raises:
        FileNotFoundError: There is no git.
        ScanFailed: It does not end.
    """
    try:
        return subprocess.run(  # noqa: S603  (a fixed command)
            [*COMMAND, "-C", str(folder), *command],
            capture_output=True, check=False, stdin=subprocess.DEVNULL,
            env=environment(folder), timeout=_MOST_SECONDS,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        raise ScanFailed(
            f"git {command[0]} does not end in {folder}: it took {_MOST_SECONDS:.0f} s"
        ) from None


def environment(folder: Path) -> dict[str, str]:
    """The environment of a git that is sent to a folder."""
    found = {**os.environ, "LC_ALL": "C", **_ALONE}
    given: dict[str, str] = {name: found.pop(name) for name in _OF_ONE_REPOSITORY if name in found}
    if given and (top := _top_of(folder, {**found, **given})) is not None:
        # Relative ones are to where we run, and not to the folder that git is sent to.
        paths: dict[str, str] = {
            name: str(Path.cwd() / given[name]) for name in _PATHS if name in given
        }
        found |= given | paths
        if "GIT_DIR" in given:
            found.setdefault("GIT_WORK_TREE", str(top))
    return found


def _top_of(folder: Path, given: dict[str, str]) -> Path | None:
    """The work tree of the hook that we run in; None if the folder is in another repository."""
    done = subprocess.run(  # noqa: S603  (a fixed command)
        [*COMMAND, "rev-parse", "--show-toplevel"],
        capture_output=True, check=False, stdin=subprocess.DEVNULL, env=given,
    )  # fmt: skip
    if done.returncode:
        return None
    top = Path(os.fsdecode(done.stdout.rstrip(b"\n"))).resolve()
    real = folder.resolve()
    for one in (real, *real.parents):
        if one == top:
            return top
        if os.path.lexists(one / ".git"):
            return None
    return None


def told(stderr: bytes) -> str:
    """What git said, as far as a message may repeat it."""
    return stderr.decode(errors="replace").strip()[:500]
