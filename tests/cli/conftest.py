"""The commands verify with both verifiers, where a test runs them in its own process."""

import pytest

from tests.journal.checking import verify


@pytest.fixture(autouse=True)
def both_verifiers(monkeypatch):
    monkeypatch.setattr("klaviyo_audit.journal.verify.verify", verify)
