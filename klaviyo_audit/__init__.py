"""A truthful, tamper-evident audit trail of every call a Python program makes to Klaviyo."""

from klaviyo_audit._version import __version__
from klaviyo_audit.auditor import (
    Auditor,
    audit,
    audited,
    configure,
    instrument,
    uninstrument,
)
from klaviyo_audit.context import acting_as, suppress_audit
from klaviyo_audit.entry import AuditEntry, Phase, Result, Risk
from klaviyo_audit.errors import (
    AccessDenied,
    AuditUnavailable,
    ConfigurationError,
    JournalCorrupt,
    KlaviyoAuditError,
    WebhookVerificationError,
)

__all__ = [
    "AccessDenied",
    "AuditEntry",
    "AuditUnavailable",
    "Auditor",
    "ConfigurationError",
    "JournalCorrupt",
    "KlaviyoAuditError",
    "Phase",
    "Result",
    "Risk",
    "WebhookVerificationError",
    "__version__",
    "acting_as",
    "audit",
    "audited",
    "configure",
    "instrument",
    "suppress_audit",
    "uninstrument",
]
