"""Which public keys a command trusts."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from klaviyo_audit.cli.location import fail

if TYPE_CHECKING:
    from klaviyo_audit.journal.note import Verifier

KEY_HELP = "Public key (<name>+<id>+<base64>) that checkpoints must be signed with, or its file."
_MAX_BYTES = 10_000


def verifiers(given: str | None) -> tuple[Verifier, ...]:
    """The key given as text or as a file's name, else the setting public_key, else none."""
    from klaviyo_audit.errors import ConfigurationError
    from klaviyo_audit.journal.note import Verifier
    from klaviyo_audit.settings import load

    try:
        if given is None:
            pinned = load().public_key
            return (Verifier.from_text(pinned),) if pinned else ()
        path = Path(given)
        if path.is_file():
            with path.open("rb") as file:
                given = file.read(_MAX_BYTES).decode("ascii", "replace")
        elif given.count("+") < len(("name+id", "id+base64")):
            fail(f"--key: {given[:200]!r} is neither a file nor a public key")
        return (Verifier.from_text(given),)
    except ConfigurationError as error:
        fail(f"the public key cannot be used: {error}")
    except OSError as error:
        fail(f"--key cannot be read: {error}")
