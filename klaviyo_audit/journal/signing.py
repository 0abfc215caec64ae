"""The key that seals a journal: from the settings, or made for the journal and kept beside it."""

from __future__ import annotations

import os
import re
import secrets
import socket
from typing import TYPE_CHECKING, Final

from klaviyo_audit.errors import ConfigurationError, JournalCorrupt
from klaviyo_audit.journal.checkpoint import Checkpoint, open_checkpoint
from klaviyo_audit.journal.commit import sync_folder
from klaviyo_audit.journal.note import Signer, Verifier, generate_key, parse_note
from klaviyo_audit.journal.reader import open_journal
from klaviyo_audit.journal.sidefile import write_new

if TYPE_CHECKING:
    from pathlib import Path

KEY_NAME: Final = "sealing.key"
PUBLIC_NAME: Final = "sealing.pub"


def signer_of(
    directory: Path,
    last: bytes | None,
    *,
    signing_key: str | None = None,
    public_key: str | None = None,
    origin: str | None = None,
) -> tuple[Signer, Checkpoint | None]:
    """Find the key to seal a journal with; make one if it has neither key nor checkpoint.

    Args:
        directory: The journal's folder. A key is made by the process that has the lease.
        last: The journal's last signed checkpoint.
        signing_key: The key as `Signer.to_text` gives it; not given: what is in ``sealing.key``.
        public_key: The only key that may sign, as `Verifier.to_text` gives it.
        origin: What the log must be called.

    Returns:
        The key, with the last checkpoint, which this key has signed.

    Raises:
        ConfigurationError: The key is not the one that the settings or the journal ask for.
        JournalCorrupt: The last checkpoint was changed after it was signed.
        OSError: A file cannot be read or written.
    """
    pinned = Verifier.from_text(public_key) if public_key else None
    if signing_key:
        signer = Signer.from_text(signing_key)
    else:
        text = _read(directory / KEY_NAME)
        if text is None:
            _may_generate(directory, last, pinned)
            text = _generate(directory, origin)
        signer = Signer.from_text(text)
    verifier = signer.verifier
    if pinned and pinned != verifier:
        raise ConfigurationError(
            f"public_key: the key that would seal {directory} is {verifier.to_text()}, and the "
            f"settings allow {pinned.to_text()} only; set signing_key to the private half of that"
        )
    if origin and origin != signer.name:
        raise ConfigurationError(
            f"origin: {origin!r} is not the name of the key that seals {directory}, "
            f"{signer.name!r}; a log keeps its name, so leave origin unset or start a new journal"
        )
    if not (directory / PUBLIC_NAME).exists():
        _put(directory / PUBLIC_NAME, verifier.to_text())
    return signer, _opened(directory, last, verifier) if last is not None else None


def _opened(directory: Path, last: bytes, verifier: Verifier) -> Checkpoint:
    signers = {(line.name, line.key_id) for line in parse_note(last).signatures}
    if (verifier.name, verifier.key_id) not in signers:
        names = ", ".join(sorted(f"{name} ({key_id.hex()})" for name, key_id in signers))
        raise ConfigurationError(
            f"the checkpoints of {directory} are signed by {names}, and the key at hand is "
            f"{verifier.name} ({verifier.key_id.hex()}); give that key in signing_key, or start a "
            "new journal in another folder"
        )
    try:
        return open_checkpoint(last, verifier)
    except JournalCorrupt as error:
        raise JournalCorrupt(f"the last checkpoint of {directory}: {error}") from error


def _may_generate(directory: Path, last: bytes | None, pinned: Verifier | None) -> None:
    if last is not None:
        raise ConfigurationError(
            f"{directory / KEY_NAME} is missing, and the journal's checkpoints are signed by "
            f"{Checkpoint.from_text(parse_note(last).text).origin!r}; put the file back or give "
            "the key in signing_key, or start a new journal in another folder"
        )
    if pinned:
        raise ConfigurationError(
            f"public_key pins {pinned.to_text()}, but there is neither signing_key nor "
            f"{directory / KEY_NAME}; give the private half of that key"
        )


def _generate(directory: Path, origin: str | None) -> str:
    host = re.sub(r"[^A-Za-z0-9._-]+", "-", socket.gethostname())[:80] or "host"
    name = origin or f"klaviyo-audit/{host}/{secrets.token_hex(4)}"
    # `keygen` may have been faster: the key that is in the file counts.
    _put(directory / KEY_NAME, generate_key(name).to_text())
    text = _read(directory / KEY_NAME)
    if text is None:
        raise OSError(f"{directory / KEY_NAME} was removed while it was made; try again")
    return text


def _read(path: Path) -> str | None:
    try:
        with open_journal(path) as file:
            return file.read().decode("ascii", "replace")
    except FileNotFoundError:
        return None


def _put(path: Path, text: str) -> None:
    """Make a file (0600) whole, unless there is one already."""
    new = path.with_name(f".{path.name}-{secrets.token_hex(8)}")
    write_new(new, f"{text}\n".encode())
    try:
        os.link(new, path)
    except FileExistsError:
        pass
    finally:
        new.unlink()
    sync_folder(path.parent)
