"""What a test of a program that calls Klaviyo needs: a Klaviyo on loopback."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from klaviyo_audit.sinks.memory import InMemorySink
    from klaviyo_audit.testing.fake_klaviyo import FakeKlaviyo, ReceivedRequest

__all__ = ["FakeKlaviyo", "InMemorySink", "ReceivedRequest"]

_MODULES = {
    "InMemorySink": "klaviyo_audit.sinks.memory",
    "FakeKlaviyo": "klaviyo_audit.testing.fake_klaviyo",
    "ReceivedRequest": "klaviyo_audit.testing.fake_klaviyo",
}


def __getattr__(name: str) -> Any:
    # The pytest plugin is loaded in every run of everyone who installed the package, so nothing
    # is imported before it is used.
    from importlib import import_module

    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
