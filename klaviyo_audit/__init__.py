"""A truthful, tamper-evident audit trail of every call a Python program makes to Klaviyo."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from klaviyo_audit._version import __version__

if TYPE_CHECKING:
    from klaviyo_audit.auditor import Auditor
    from klaviyo_audit.context import acting_as, suppress_audit
    from klaviyo_audit.default import audit, audited, configure, instrument, uninstrument
    from klaviyo_audit.entry import AuditEntry, Phase, Result, Risk
    from klaviyo_audit.errors import (
        AccessDenied,
        AuditUnavailable,
        ConfigurationError,
        JournalCorrupt,
        KlaviyoAuditError,
        WebhookVerificationError,
    )
    from klaviyo_audit.guard.policy import Guard
    from klaviyo_audit.klaviyo.keysource import KeySource
    from klaviyo_audit.klaviyo.webhook import WebhookDelivery, verify_signature, verify_webhook
    from klaviyo_audit.security.service_accounts import service_accounts

__all__ = [
    "AccessDenied",
    "AuditEntry",
    "AuditUnavailable",
    "Auditor",
    "ConfigurationError",
    "Guard",
    "JournalCorrupt",
    "KeySource",
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
    "service_accounts",
    "suppress_audit",
    "uninstrument",
    "verify_signature",
    "verify_webhook",
]

_LAZY = {
    "AccessDenied": "klaviyo_audit.errors",
    "AuditEntry": "klaviyo_audit.entry",
    "AuditUnavailable": "klaviyo_audit.errors",
    "Auditor": "klaviyo_audit.auditor",
    "ConfigurationError": "klaviyo_audit.errors",
    "Guard": "klaviyo_audit.guard.policy",
    "JournalCorrupt": "klaviyo_audit.errors",
    "KeySource": "klaviyo_audit.klaviyo.keysource",
    "KlaviyoAuditError": "klaviyo_audit.errors",
    "Phase": "klaviyo_audit.entry",
    "Result": "klaviyo_audit.entry",
    "Risk": "klaviyo_audit.entry",
    "WebhookDelivery": "klaviyo_audit.klaviyo.webhook",
    "WebhookVerificationError": "klaviyo_audit.errors",
    "acting_as": "klaviyo_audit.context",
    "audit": "klaviyo_audit.default",
    "audited": "klaviyo_audit.default",
    "configure": "klaviyo_audit.default",
    "instrument": "klaviyo_audit.default",
    "service_accounts": "klaviyo_audit.security.service_accounts",
    "suppress_audit": "klaviyo_audit.context",
    "uninstrument": "klaviyo_audit.default",
    "verify_signature": "klaviyo_audit.klaviyo.webhook",
    "verify_webhook": "klaviyo_audit.klaviyo.webhook",
}
"""Every name by its module, which is imported when a program first uses one of its names."""


def __getattr__(name: str) -> Any:
    module = _LAZY.get(name)
    if module is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    value = globals()[name] = getattr(import_module(module), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
