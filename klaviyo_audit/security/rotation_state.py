"""What of a rotation is done, kept in the journal's folder."""

from __future__ import annotations

import contextlib
import fcntl
import os
from typing import TYPE_CHECKING, Any, Final

import orjson

from klaviyo_audit.errors import KlaviyoAuditError
from klaviyo_audit.journal.sidefile import replace_file

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

_FOLDER: Final = "rotations"


class RotationStopped(KlaviyoAuditError):  # noqa: N818  (what happened, as in the other errors)
    """The rotation cannot go on. What is done stays done; the same command goes on from there."""


class RotationImpossible(RotationStopped):
    """It can never be done like this, however often the command is run: something has to change."""


class RotationState:
    """The steps of one rotation that are done, and when; fingerprints and times, no keys.

    Args:
        journal: The journal's folder.
        old: Fingerprint of the key that goes.
        new: Fingerprint of the one that comes.
    """

    def __init__(self, journal: Path, old: str, new: str) -> None:
        self._path = journal / _FOLDER / f"{old}-{new}.json"
        self._keys = {"old": old, "new": new}

    @contextlib.contextmanager
    def only_one(self) -> Iterator[None]:
        """Hold the rotation, so that no other process does it at the same time.

        Raises:
            RotationStopped: Another one does.
        """
        self._path.parent.mkdir(mode=0o700, exist_ok=True)
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        descriptor = os.open(self._path.with_suffix(".lock"), flags, 0o600)
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise RotationStopped("this rotation is running in another process") from None
            yield
        finally:
            os.close(descriptor)

    def read(self) -> dict[str, Any]:
        """The steps that are done.

        Raises:
            RotationImpossible: The file does not hold what was written.
        """
        try:
            state = orjson.loads(self._path.read_bytes())
        except FileNotFoundError:
            return {}
        except orjson.JSONDecodeError:
            state = None
        if not isinstance(state, dict) or not isinstance(state.get("done"), dict):
            raise RotationImpossible(f"{self._path} is damaged; remove it to begin anew")
        return dict(state["done"])

    def write(self, done: Mapping[str, Any]) -> None:
        """Keep the steps that are done; they are on the disk when this returns."""
        state = {**self._keys, "done": done}
        replace_file(self._path, orjson.dumps(state, option=orjson.OPT_INDENT_2), sync=True)
