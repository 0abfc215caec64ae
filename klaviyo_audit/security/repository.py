"""What a git repository holds: its work tree, its index, and everything that was ever committed."""

from __future__ import annotations

import contextlib
import os
import subprocess
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, TYPE_CHECKING, Final

from klaviyo_audit.security import git
from klaviyo_audit.security.sources import ScanFailed, Source, open_source

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

_TEXTS: Final = (b"blob", b"commit", b"tag")
_ENV_EXAMPLES: Final = ("example", "sample", "template", "dist", "default", "defaults")


def repository_of(path: Path) -> Path | None:
    """The top folder of the repository that a path is in; None when it is in none.

    Raises:
        ScanFailed: Git says that there is one, but does not read it.
    """
    folder = path if path.is_dir() else path.parent
    try:
        done = git.run(folder, "rev-parse", "--show-toplevel")
    except FileNotFoundError:
        return None  # there is no git
    if done.returncode == 0:
        return Path(os.fsdecode(done.stdout.rstrip(b"\n")))
    told = done.stderr.decode(errors="replace").strip()
    if "not a git repository" in told or "must be run in a work tree" in told:
        return None
    raise ScanFailed(f"git cannot read the repository of {folder}: {told[:500]}")


def is_inside_git(path: Path) -> bool:
    """Whether a path is a bare repository, or in the folder of git's own files."""
    folder = path if path.is_dir() else path.parent
    try:
        return git.run(folder, "rev-parse", "--is-inside-git-dir").stdout.strip() == b"true"
    except FileNotFoundError:
        return False


def is_ignored(path: Path) -> bool:
    """Whether git ignores a path, so that naming it means every file in it."""
    return git.run(path.parent, "check-ignore", "-q", str(path.absolute())).returncode == 0


def work_tree(
    path: Path, unread: Callable[[str, str], None], seen: frozenset[str] = frozenset()
) -> Iterator[Source]:
    """The files of a repository below a path: tracked ones, and new ones that are not ignored.

    Those of repositories inside it, too.

    Args:
        path: A folder in the work tree.
        unread: As for `files`.
        seen: Real paths of the repositories that this one is in.

    Raises:
        ScanFailed: Git does not read the repository.
    """
    real = os.path.realpath(path)
    here = _Folders(real)
    elsewhere = 0
    names = set()
    for listed in git.listed(
        path, "ls-files", "-z", "-t", "--cached", "--others", "--exclude-standard"
    ):
        tag, _, name = listed.partition(b" ")
        elsewhere += tag == b"S"  # SKIP_WORKTREE
        names.add(name)
    for name in sorted(names):
        shown = os.fsdecode(name)
        inside = path / shown
        if not here.hold(shown):
            continue  # for git it is deleted: a link stands in the place of a folder
        if not inside.is_symlink() and (name.endswith(b"/") or (inside / ".git").exists()):
            # A submodule, or a repository inside that nobody added. Not what a link leads to: that
            # may be this repository again, or any other.
            if os.path.realpath(inside) in seen | {real}:
                continue
            for inner in work_tree(inside, unread, seen | {real}):
                yield replace(inner, path=f"{shown.rstrip('/')}/{inner.path}")
        else:
            yield from open_source(inside, shown, unread, may_be_gone=True)
    if elsewhere:
        unread(
            "git's sparse checkout",
            f"{elsewhere} tracked files are not in it: git sparse-checkout disable, or --history",
        )


class _Folders:
    """The folders in a work tree, which have no link on their way."""

    def __init__(self, real: str) -> None:
        self._real = real
        self._known: dict[str, bool] = {}

    def hold(self, name: str) -> bool:
        """Whether a file of that name is in the work tree itself; an index may say anything."""
        folder = os.path.dirname(name.rstrip("/"))  # noqa: PTH120  (200 times faster)
        known = self._known.get(folder)
        if known is None:
            whole = os.path.normpath(os.path.join(self._real, folder))  # noqa: PTH118
            inside = whole == self._real or whole.startswith(self._real.rstrip("/") + "/")
            known = self._known[folder] = inside and os.path.realpath(whole) == whole
        return known


def staged(top: Path) -> Iterator[Source]:
    """What the next commit would add or change, as it stands in the index.

    Raises:
        ScanFailed: Git does not read the repository.
    """
    changed = git.listed(
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
    done = git.run(
        top, "cat-file", "--batch-all-objects", "--batch-check=%(objecttype) %(objectname)"
    )
    if done.returncode:
        raise ScanFailed(f"git cannot list the objects of {top}: {git.told(done.stderr)}")
    kinds = [line.split() for line in done.stdout.splitlines()]
    names = [name.decode() for kind, name in kinds if kind in _TEXTS]
    known = _paths(top, ends)
    yield from _objects(top, names, lambda name: known.get(name, name))


def lacking(top: Path) -> str | None:
    """Why a repository does not have its whole history; None if it has."""
    if git.run(top, "rev-parse", "--is-shallow-repository").stdout.strip() == b"true":
        return "a shallow clone has only the newest of it: git fetch --unshallow"
    partial = r"^(extensions\.partialclone|remote\..*\.promisor)$"
    if git.run(top, "config", "--get-regexp", partial).returncode == 0:
        return "a partial clone has only what was needed so far: make a whole clone"
    return None


def _paths(top: Path, ends: tuple[str, ...]) -> dict[str, str]:
    """A path of each object that has one which ends so."""
    found = {}
    with subprocess.Popen(  # noqa: S603  (a fixed command)
        [*git.COMMAND, "-C", str(top), "rev-list", "--objects", "--all", "--reflog"],
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        env=git.environment(top),
    ) as process:  # fmt: skip
        assert process.stdout is not None
        for line in process.stdout:
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
    fields = git.streamed(top, *command)
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
    names = (os.fsdecode(name) for name in git.listed(top, "ls-files", "-z", "--cached"))
    return [name for name in names if _is_env_file(name.rpartition("/")[2])]


def addable_env_files(path: Path) -> list[str]:
    """Environment files below a folder that git neither tracks nor ignores: ``git add`` takes them.

    Raises:
        ScanFailed: Git does not read the repository.
    """
    listed = git.listed(path, "ls-files", "-z", "--others", "--exclude-standard")
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
            [*git.COMMAND, "-C", str(top), "cat-file", "--batch", "--buffer"],
            stdin=asked, stdout=subprocess.PIPE, bufsize=1 << 20, env=git.environment(top),
        ) as process:  # fmt: skip
            assert process.stdout is not None
            try:
                for name in names:
                    header = process.stdout.readline().split()
                    if len(header) != 3:  # noqa: PLR2004  (id, kind and size; else "missing")
                        raise ScanFailed(f"git does not give the object {name} of {top}")
                    body = _Bounded(process.stdout, int(header[2]))
                    yield Source(path(name), body.read, name)
                    body.finish()
            finally:
                with contextlib.suppress(OSError):
                    process.kill()


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
