"""The program's own log lines, with who acts and in which audited call."""

from __future__ import annotations

import logging

from klaviyo_audit.context import ACTOR, CURRENT


class AuditFilter(logging.Filter):
    """Adds ``audit_user`` and ``audit_id`` to every log record; it keeps all of them.

    ``audit_user`` is the ``user_id`` of `klaviyo_audit.acting_as`, as it was given there;
    ``audit_id`` is the ``id`` of the entries of the audited function or call in which the line was
    logged. Each is ``-`` where there is none.

    To be put on a handler: a filter on a logger does not see the records of its children.

    Example:
        >>> handler = logging.StreamHandler()
        >>> handler.addFilter(AuditFilter())
        >>> handler.setFormatter(logging.Formatter("%(audit_user)s %(audit_id)s %(message)s"))
    """

    def filter(self, record: logging.LogRecord) -> bool:
        """Add the attributes; always True."""
        actor = ACTOR.get()
        call = CURRENT.get()
        record.audit_user = "-" if actor is None else actor.user_id
        record.audit_id = "-" if call is None else call.id
        return True
