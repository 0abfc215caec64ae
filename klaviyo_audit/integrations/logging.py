"""The program's own log lines, with who acts and in which audited call."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from klaviyo_audit.context import ACTOR, CURRENT
from klaviyo_audit.default import default_if_made
from klaviyo_audit.privacy import clean_identity

if TYPE_CHECKING:
    from klaviyo_audit.auditor import Auditor


class AuditFilter(logging.Filter):
    """Adds ``audit_user`` and ``audit_id`` to every log record; it keeps all of them.

    ``audit_user`` is the ``user_id`` of `klaviyo_audit.acting_as` as the entries have it: without
    secrets, a pseudonym where ``actor_ids`` asks for that;
    ``audit_id`` is the ``id`` of the entries of the audited function or call in which the line was
    logged. Each is ``-`` where there is none.

    To be put on a handler: a filter on a logger does not see the records of its children.

    Args:
        auditor: Whose entries; the process's default auditor, if not given.

    Example:
        >>> handler = logging.StreamHandler()
        >>> handler.addFilter(AuditFilter())
        >>> handler.setFormatter(logging.Formatter("%(audit_user)s %(audit_id)s %(message)s"))
    """

    def __init__(self, *, auditor: Auditor | None = None) -> None:
        super().__init__()
        self._auditor = auditor

    def filter(self, record: logging.LogRecord) -> bool:
        """Add the attributes; always True."""
        actor = ACTOR.get()
        call = CURRENT.get()
        record.audit_user = "-" if actor is None else self._shown(actor.user_id)
        record.audit_id = "-" if call is None else call.id
        return True

    def _shown(self, user_id: str) -> str:
        auditor = self._auditor or default_if_made()
        try:
            return clean_identity(user_id) if auditor is None else auditor.shown_user(user_id)
        except Exception:
            return "-"  # no line of the program's is lost for it
