"""The calls that are measured: bare and audited, against a server or a canned answer."""

from __future__ import annotations

import contextlib
import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from klaviyo_api import KlaviyoAPI

from klaviyo_audit import Auditor

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

# Of the right form, and no key of anybody.
KEY = "pk_" + "0" * 34


def profile_ids() -> Callable[[], str]:
    """Ids of profiles, one after the other: with one id all caches of URLs would be warm."""
    ids = [f"01GDDKASAP8TKDDA2GRZDS{number:04d}" for number in range(1_000)]
    return itertools.cycle(ids).__next__


@dataclass(frozen=True, slots=True)
class Subject:
    """One client as it is, and one that is audited.

    Attributes:
        bare: A ``KlaviyoAPI``.
        audited: What ``audit()`` makes of another one.
        auditor: The auditor, with the default settings but that nobody seals: a sealer's thread
            would run beside bare and audited calls alike.
    """

    bare: Any
    audited: Any
    auditor: Auditor

    def idiom(self) -> dict[str, Callable[[], object]]:
        """The call as programs write it, the API group looked up each time.

        ``floor`` is the bare call without that look-up: what would be left if auditing cost
        nothing.
        """
        bare, audited, an_id = self.bare, self.audited, profile_ids()
        return {
            "bare": lambda: bare.Profiles.get_profile(an_id()),
            "audited": lambda: audited.Profiles.get_profile(an_id()),
            "floor": self.held()["bare"],
        }

    def held(self) -> dict[str, Callable[[], object]]:
        """The call by a method that is held in a variable."""
        bare, audited = self.bare.Profiles.get_profile, self.audited.Profiles.get_profile
        an_id = profile_ids()
        return {"bare": lambda: bare(an_id()), "audited": lambda: audited(an_id())}


@contextlib.contextmanager
def subject(journal: Path, url: str, **settings: Any) -> Iterator[Subject]:
    """Two clients of one server.

    Args:
        journal: Folder of the journal.
        url: The server's.
        settings: Further settings of the auditor.
    """
    with Auditor(
        journal=journal, service="benchmarks", environment="benchmarks", seal="off", **settings
    ) as auditor:
        audited = auditor.audit(KlaviyoAPI(KEY, test_host=url))
        yield Subject(KlaviyoAPI(KEY, test_host=url), audited, auditor)


@contextlib.contextmanager
def without_http(journal: Path, url: str, **settings: Any) -> Iterator[Subject]:
    """Two clients that get the same answer over and over without asking for it again.

    Args:
        journal: Folder of the journal.
        url: A server's; it is asked once.
        settings: Further settings of the auditor.
    """
    with subject(journal, url, **settings) as both:
        raw = both.bare.Profiles.get_profile_without_preload_content(profile_ids()())
        assert raw.data, "the answer is read here, once"

        from openapi_client.rest import RESTResponse

        def call_api(*_args: Any, **_kwargs: Any) -> Any:
            return RESTResponse(raw)

        both.bare.api_client.call_api = call_api
        both.audited.__wrapped__.api_client.call_api = call_api
        yield both
