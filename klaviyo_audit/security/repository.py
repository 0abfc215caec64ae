"""What a git repository holds: its work tree, its index, and everything that was ever committed."""

from __future__ import annotations

import contextlib
import os
import subprocess
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, TYPE_CHECKING, Final

from klaviyo_audit.security.sources import ScanFailed, Source, open_source

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

# A repository can bring settings that run programs; none of them is needed to read it.
_GIT: Final = (
    "git", "-c", "core.fsmonitor=false", "-c", "core.hooksPath=/dev/null",
    "-c", "log.showSignature=false", "--no-pager",
)  # fmt: skip
# Nor is anything fetched: what a partial clone lacks would be, by a program that it names.
_ALONE: Final = {"GIT_ALLOW_PROTOCOL": "", "GIT_NO_LAZY_FETCH": "1", "GIT_TERMINAL_PROMPT": "0"}
_TEXTS: Final = (b"blob", b"commit", b"tag")
_ENV_EXAMPLES: Final = ("example", "sample", "template", "dist", "default", "defaults")


def repository_of(path: Path) -> Path | None:
    """The top folder of the repository that a path is in; None when it is in none.

    Raises:
        ScanFailed: Git says that there is one, but does not read it.
    """
    folder = path if path.is_dir() else path.parent
    try:
        done = _run(folder, "rev-parse", "--show-toplevel")
    except FileNotFoundError:
        return None  # there is no git
    if done.returncode == 0:
        return Path(os.fsdecode(done.stdout.rstrip(b"\n")))
    told = done.stderr.decode(errors="replace").strip()
    if "not a git repository" in told or "must be run in a work tree" in told:
        return None
    raise ScanFailed(f"git cannot read the repository of {folder}: {told[:500]}")


def is_ignored(path: Path) -> bool:
    """Whether git ignores a path, so that naming it means every file in it."""
    return _run(path.parent, "check-ignore", "-q", str(path.absolute())).returncode == 0


def work_tree(path: Path, unread: Callable[[str, str], None]) -> Iterator[Source]:
    """The files of a repository below a path: tracked ones, and new ones that are not ignored.

    Those of repositories inside it, too.

    Args:
        path: A folder in the work tree.
        unread: As for `files`.

    Raises:
        ScanFailed: Git does not read the repository.
    """
    listed = _listed(path, "ls-files", "-z", "--cached", "--others", "--exclude-standard")
    for name in sorted(set(listed)):
        shown = os.fsdecode(name)
        inside = path / shown
        if not inside.is_symlink() and (name.endswith(b"/") or (inside / ".git").exists()):
            # A submodule, or a repository inside that nobody added. Not what a link leads to: that
            # may be this repository again, or any other.
            for inner in work_tree(inside, unread):
                yield replace(inner, path=f"{shown.rstrip('/')}/{inner.path}")
        else:
            yield from open_source(inside, shown, unread, may_be_gone=True)


def staged(top: Path) -> Iterator[Source]:
    """What the next commit would add or change, as it stands in the index.

    Raises:
        ScanFailed: Git does not read the repository.
    """
    changed = _listed(
        top, "diff", "--cached", "--raw", "-z", "--abbrev=64", "--no-renames", "--no-ext-diff"
    )
    wanted = []
    for facts, name in zip(changed[::2], changed[1::2], strict=True):
        _, mode, _, blob, status = facts.split()
        if status[:1] != b"D" and mode[:3] == b"100":
            wanted.append((blob.decode(), os.fsdecode(name)))
    names = dict(reversed(wanted))
    yield from _objects(top, [blob for blob, _ in wanted], lambda blob: names[blob])


def history(top: Path, ends: tuple[str, ...]) -> Iterator[Source]:
    """Everything that was ever added to a repository, once: file contents, messages, tags.

    Also what no branch reaches any more, as long as git keeps it. `Source.path` is the object id,
    or a path that the object was committed under.

    Args:
        top: The repository.
        ends: Ends of the paths that are worth knowing.

    Raises:
        ScanFailed: Git does not read the repository.
    """
    done = _run(top, "cat-file", "--batch-all-objects", "--batch-check=%(objecttype) %(objectname)")
    if done.returncode:
        raise ScanFailed(f"git cannot list the objects of {top}: {_told(done.stderr)}")
    kinds = [line.split() for line in done.stdout.splitlines()]
    names = [name.decode() for kind, name in kinds if kind in _TEXTS]
    known = _paths(top, ends)
    yield from _objects(top, names, lambda name: known.get(name, name))


def lacking(top: Path) -> str | None:
    """Why a repository does not have its whole history; None if it has."""
    if _run(top, "rev-parse", "--is-shallow-repository").stdout.strip() == b"true":
        return "a shallow clone has only the newest of it: git fetch --unshallow"
    partial = r"^(extensions\.partialclone|remote\..*\.promisor)$"
    if _run(top, "config", "--get-regexp", partial).returncode == 0:
        return "a partial clone has only what was needed so far: make a whole clone"
    return None


def _paths(top: Path, ends: tuple[str, ...]) -> dict[str, str]:
    """A path of each object that has one which ends so."""
    found = {}
    with subprocess.Popen(  # noqa: S603  (a fixed command)
        [*_GIT, "-C", str(top), "rev-list", "--objects", "--all", "--reflog"],
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        env=_environment(),
    ) as git:  # fmt: skip
        assert git.stdout is not None
        for line in git.stdout:
            name, _, path = os.fsdecode(line.rstrip(b"\n")).partition(" ")
            if path.lower().endswith(ends):
                found[name] = path
    return found


@dataclass(frozen=True, slots=True)
class Place:
    """Where in a repository's history an object came in."""

    path: str
    commit: str
    at: str
    """When it was committed, ISO 8601."""


def places(top: Path, blobs: Iterable[str]) -> dict[str, list[Place]]:
    """The paths under which objects were committed, each with its earliest commit.

    Args:
        top: The repository.
        blobs: Object ids. Those of commits are their own place.

    Raises:
        ScanFailed: Git does not read the repository.
    """
    wanted = set(blobs)
    found: dict[str, list[Place]] = {}
    command = (
        "log", "--all", "--reflog", "--reverse", "--topo-order", "-m", "--root", "--raw", "-z",
        "--no-abbrev", "--no-renames", "--no-ext-diff", "--format=%x01%H %cI",
    )  # fmt: skip
    commit = at = ""
    fields = _streamed(top, *command)
    for piece in fields:
        text = piece.lstrip(b"\n")
        if text.startswith(b"\x01"):
            commit, at = text[1:].split(b"\n")[0].decode().split(" ", 1)
            if commit in wanted:
                found.setdefault(commit, [Place("(commit message)", commit, at)])
            text = text.partition(b"\n")[2].lstrip(b"\n")
        if text.startswith(b":"):
            blob = text.split()[3].decode()
            name = os.fsdecode(next(fields))
            here = found.setdefault(blob, []) if blob in wanted else None
            if here is not None and all(place.path != name for place in here):
                here.append(Place(name, commit, at))
    return found


def tracked_env_files(top: Path) -> list[str]:
    """Files named ``.env`` or ``.env.<anything>`` that are tracked, but for examples.

    Raises:
        ScanFailed: Git does not read the repository.
    """
    names = (os.fsdecode(name) for name in _listed(top, "ls-files", "-z", "--cached"))
    return [name for name in names if _is_env_file(name.rpartition("/")[2])]


def addable_env_files(path: Path) -> list[str]:
    """Environment files below a folder that git neither tracks nor ignores: ``git add`` takes them.

    Raises:
        ScanFailed: Git does not read the repository.
    """
    listed = _listed(path, "ls-files", "-z", "--others", "--exclude-standard")
    names = (os.fsdecode(name) for name in listed)
    return sorted(name for name in names if _is_env_file(name.rpartition("/")[2]))


def _is_env_file(name: str) -> bool:
    parts = name.lower().split(".")
    is_env = name.lower() == ".env" or name.lower().startswith(".env.") or parts[-1] == "env"
    return is_env and not set(parts) & set(_ENV_EXAMPLES)


def _objects(top: Path, names: Sequence[str], path: Callable[[str], str]) -> Iterator[Source]:
    """Objects of a repository, from one process of git."""
    with tempfile.TemporaryFile() as asked:
        # From a file, so that git can be asked ahead without a thread that writes.
        asked.write("".join(f"{name}\n" for name in names).encode())
        asked.seek(0)
        with subprocess.Popen(  # noqa: S603  (a fixed command)
            [*_GIT, "-C", str(top), "cat-file", "--batch", "--buffer"],
            stdin=asked, stdout=subprocess.PIPE, bufsize=1 << 20, env=_environment(),
        ) as git:  # fmt: skip
            assert git.stdout is not None
            try:
                for name in names:
                    header = git.stdout.readline().split()
                    if len(header) != 3:  # noqa: PLR2004  (id, kind and size; else "missing")
                        raise ScanFailed(f"git does not give the object {name} of {top}")
                    body = _Bounded(git.stdout, int(header[2]))
                    yield Source(path(name), body.read, name)
                    body.finish()
            finally:
                with contextlib.suppress(OSError):
                    git.kill()


class _Bounded:
    """One object in the stream of many."""

    def __init__(self, stream: IO[bytes], size: int) -> None:
        self._stream = stream
        self._left = size

    def read(self, size: int) -> bytes:
        data = self._stream.read(min(size, self._left))
        self._left -= len(data)
        if not data and self._left:
            raise ScanFailed("git ended in the middle of an object")
        return data

    def finish(self) -> None:
        """Pass over what was not read, and the line end behind it."""
        while self._left:
            self.read(1 << 20)
        self._stream.read(1)


def _listed(folder: Path, *command: str) -> list[bytes]:
    done = _run(folder, *command)
    if done.returncode:
        raise ScanFailed(f"git {command[0]} fails in {folder}: {_told(done.stderr)}")
    return [piece for piece in done.stdout.split(b"\0") if piece]


def _streamed(folder: Path, *command: str) -> Iterator[bytes]:
    """As `_listed`, for what may be too long to keep."""
    with tempfile.TemporaryFile() as told:
        with subprocess.Popen(  # noqa: S603  (a fixed command)
            [*_GIT, "-C", str(folder), *command],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=told, env=_environment(),
        ) as git:  # fmt: skip
            assert git.stdout is not None
            rest = b""
            while data := git.stdout.read(1 << 16):
                *whole, rest = (rest + data).split(b"\0")
                yield from filter(None, whole)
            if rest:
                yield rest
        if git.returncode:
            told.seek(0)
            raise ScanFailed(f"git {command[0]} fails in {folder}: {_told(told.read())}")


def _run(folder: Path, *command: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(  # noqa: S603  (a fixed command)
        [*_GIT, "-C", str(folder), *command],
        capture_output=True, check=False, stdin=subprocess.DEVNULL,
        env=_environment(),
    )  # fmt: skip


def _environment() -> dict[str, str]:
    return {**os.environ, "LC_ALL": "C", **_ALONE}


def _told(stderr: bytes) -> str:
    return stderr.decode(errors="replace").strip()[:500]
