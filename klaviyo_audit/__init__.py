"""A truthful, tamper-evident audit trail of every call a Python program makes to Klaviyo."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

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

if TYPE_CHECKING:
    from klaviyo_audit.klaviyo.webhook import WebhookDelivery, verify_signature, verify_webhook

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
    "WebhookDelivery",
    "WebhookVerificationError",
    "__version__",
    "acting_as",
    "audit",
    "audited",
    "configure",
    "instrument",
    "suppress_audit",
    "uninstrument",
    "verify_signature",
    "verify_webhook",
]

_LAZY = {
    "WebhookDelivery": "klaviyo_audit.klaviyo.webhook",
    "verify_signature": "klaviyo_audit.klaviyo.webhook",
    "verify_webhook": "klaviyo_audit.klaviyo.webhook",
}
"""Names that most programs never use, by the module that is imported when one does."""


def __getattr__(name: str) -> Any:
    module = _LAZY.get(name)
    if module is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    value = globals()[name] = getattr(import_module(module), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
