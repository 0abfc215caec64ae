"""Saying once a process that there is no key for pseudonyms."""

from __future__ import annotations

import contextlib
import logging
from threading import Event
from typing import TYPE_CHECKING, Final

from klaviyo_audit.privacy.policy import Level

if TYPE_CHECKING:
    from klaviyo_audit.privacy.gate import Gate

NO_KEY: Final = (
    "there is no key for pseudonyms, so e-mail addresses, phone numbers and names are masked in "
    "the audit trail and nobody's entries can be found (query --subject, subject, consent). Set "
    "KLAVIYO_AUDIT_PSEUDONYM_KEY to what `openssl rand -hex 32` prints (or pseudonym_key_file, "
    "pseudonym_key_command), the same wherever one trail is written."
)
_log = logging.getLogger("klaviyo_audit")
_said: Final = Event()


def is_due(gate: Gate) -> bool:
    """Whether persons are masked for want of a key where rules would have them named."""
    return gate.pseudonyms is None and gate.policy.levels != {Level.NONE}


def tell(gate: Gate) -> None:
    """Warn, the first time in this process. Never raises, whatever the program does with logs."""
    if not _said.is_set() and is_due(gate):
        silence()
        with contextlib.suppress(Exception):
            _log.warning(NO_KEY)


def silence() -> None:
    """Say nothing in this process: it records no calls, or its calls are a test's."""
    _said.set()
