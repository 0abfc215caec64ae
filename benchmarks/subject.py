"""The calls that are measured: bare and audited, against a server or a canned answer."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from klaviyo_api import KlaviyoAPI
from klaviyo_audit import Auditor

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

PROFILE_ID = "01GDDKASAP8TKDDA2GRZDSVP4H"

# Of the right form, and no key of anybody.
_KEY = "pk_" + "0" * 34


@dataclass(frozen=True, slots=True)
class Subject:
    """One client as it is, and one that is audited.

    Attributes:
        bare: A ``KlaviyoAPI``.
        audited: What ``audit()`` makes of another one.
        auditor: The auditor, with the default settings.
    """

    bare: Any
    audited: Any
    auditor: Auditor

    def idiom(self) -> dict[str, Callable[[], object]]:
        """The call as programs write it, the API group looked up each time."""
        bare, audited = self.bare, self.audited
        return {
            "bare": lambda: bare.Profiles.get_profile(PROFILE_ID),
            "audited": lambda: audited.Profiles.get_profile(PROFILE_ID),
        }

    def held(self) -> dict[str, Callable[[], object]]:
        """The call by a method that is held in a variable."""
        bare, audited = self.bare.Profiles.get_profile, self.audited.Profiles.get_profile
        return {"bare": lambda: bare(PROFILE_ID), "audited": lambda: audited(PROFILE_ID)}


@contextlib.contextmanager
def subject(journal: Path, url: str) -> Iterator[Subject]:
    """Two clients of one server.

    Args:
        journal: Folder of the journal.
        url: The server's.
    """
    with Auditor(journal=journal, service="benchmarks", environment="benchmarks") as auditor:
        audited = auditor.audit(KlaviyoAPI(_KEY, test_host=url))
        yield Subject(KlaviyoAPI(_KEY, test_host=url), audited, auditor)


@contextlib.contextmanager
def without_http(journal: Path, url: str) -> Iterator[Subject]:
    """Two clients that get the same answer over and over without asking for it again.

    Args:
        journal: Folder of the journal.
        url: A server's; it is asked once.
    """
    with subject(journal, url) as both:
        get_profile = both.bare.Profiles.get_profile_without_preload_content
        raw = get_profile(PROFILE_ID)
        assert raw.data, "the answer is read here, once"

        from openapi_client.rest import RESTResponse

        def call_api(*_args: Any, **_kwargs: Any) -> Any:
            return RESTResponse(raw)

        both.bare.api_client.call_api = call_api
        both.audited.__wrapped__.api_client.call_api = call_api
        yield both
