"""The exceptions this package raises, in a module of their own so that imports never loop."""

from __future__ import annotations


class KlaviyoAuditError(Exception):
    """Base class of every error this package raises itself.

    What the SDK or the audited function raises is never wrapped in one of these.
    """


class ConfigurationError(KlaviyoAuditError):
    """A setting is unknown, has a value that is not allowed, or does not fit the others."""


class AuditUnavailable(KlaviyoAuditError):  # noqa: N818  (the name is public contract)
    """The journal cannot take a record and the policy is ``on_failure="block"``.

    Raised before the call: nothing was sent to Klaviyo.
    """


class AccessDenied(KlaviyoAuditError):  # noqa: N818  (the name is public contract)
    """The guard does not allow this call. Nothing was sent to Klaviyo.

    Args:
        message: What was denied, by which rule, what it needs and how to allow it.
        action: The call, ``klaviyo.lists.delete_list``.
        rule: What denied it.
        scopes: OAuth scopes that the call needs.
    """

    def __init__(
        self,
        message: str = "",
        action: str | None = None,
        rule: str | None = None,
        scopes: tuple[str, ...] = (),
    ) -> None:
        super().__init__(message)
        self.action = action
        self.rule = rule
        self.scopes = scopes


class JournalCorrupt(KlaviyoAuditError):  # noqa: N818  (the name is public contract)
    """A journal, or a part of it that is needed to go on, does not hold what it should."""


class WebhookVerificationError(KlaviyoAuditError):
    """A webhook delivery is not what Klaviyo signed, is too old, or was delivered before.

    Args:
        message: What was wrong; holds nothing of the delivery.
        reason: The same as a code for logs and entries, a `klaviyo.webhook.Refusal`. Never tell
            either to the sender: an answer that says what was wrong helps to forge.
    """

    def __init__(self, message: str = "", reason: str = "unknown") -> None:
        super().__init__(message)
        self.reason = reason
