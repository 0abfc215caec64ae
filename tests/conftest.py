"""Fixtures for all tests, and the check that no test's output holds a planted secret."""

import contextlib
import gc
import os
import threading
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from klaviyo_audit import Auditor
from klaviyo_audit.privacy import notice
from klaviyo_audit.testing import FakeKlaviyo
from tests import broker, planted
from tests.waiting import whole_lines

settings.register_profile(
    "project",
    deadline=None,
    # How long examples take to make says how busy the machine is.
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
settings.load_profile("project")

MAY_HOLD_SECRETS = "may_hold_planted_secrets"


# A forked child does not destroy what earlier tests left to the collector: of gRPC and Kafka objects it has
# not the threads, and a collection crashed it once (in a thread that OpenTelemetry's fork handler starts).
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=gc.freeze)


def pytest_configure(config):
    notice.silence()  # tests that have no key for pseudonyms look at other warnings
    config.addinivalue_line(
        "markers",
        f"{MAY_HOLD_SECRETS}: the test writes planted secrets to its folder itself, as input",
    )


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    """Fail a test whose captured output, log or files hold a planted secret."""
    report = yield
    if call.when != "teardown" or report.failed:
        return report
    leaks = []
    for when, name, content in item._report_sections:
        leaks += [f"{secret[:8]}... in {name} of {when}" for secret in planted.found_in(content)]
    folder = item.funcargs.get("tmp_path")
    if folder is not None and item.get_closest_marker(MAY_HOLD_SECRETS) is None:
        for name, text in _texts_in(folder):
            leaks += [f"{secret[:8]}... in {name}" for secret in planted.found_in(text)]
    if leaks:
        report.outcome = "failed"
        report.longrepr = "planted secrets leaked: " + "; ".join(leaks)
    return report


def _texts_in(folder):
    """Name and content of the files in a folder, of which some may still come and go."""
    for place, _, names in os.walk(folder):
        for path in (Path(place, name) for name in names):
            with contextlib.suppress(FileNotFoundError):
                if path.is_file() and path.stat().st_size < 50_000_000:
                    yield path.name, path.read_bytes().decode("utf-8", "replace")


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch, tmp_path):
    """No setting of the machine's reaches a test, and none writes beside it."""
    for name in list(os.environ):
        is_setting = name.startswith(("KLAVIYO_AUDIT_", "KLAVIYO_API_KEY", "OTEL_"))
        is_setting = is_setting or name.lower().endswith("_proxy")
        if is_setting and name != "KLAVIYO_AUDIT_REQUIRE_PEERS":
            monkeypatch.delenv(name)
    # The two seconds of the default are soon over on a busy machine.
    monkeypatch.setenv("KLAVIYO_AUDIT_SHIP_EXIT_WAIT", "60")
    monkeypatch.chdir(tmp_path)


class Trail:
    """What a test asks of the journal it made."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.path = folder / "audit.jsonl"

    def lines(self) -> list[dict]:
        if not self.path.exists():
            return []
        return whole_lines(self.path)

    def of(self, phase: str) -> list[dict]:
        return [line for line in self.lines() if line["phase"] == phase]

    def outcomes(self) -> list[dict]:
        return self.of("outcome")

    def outcome(self) -> dict:
        """The only outcome."""
        (only,) = self.outcomes()
        return only

    def last(self) -> dict:
        return self.outcomes()[-1]


@pytest.fixture
def trail(tmp_path):
    return Trail(tmp_path / "trail")


@pytest.fixture
def auditor(trail):
    with Auditor(journal=trail.folder, service="shop", user_id="dana") as auditor:
        yield auditor


@pytest.fixture
def fake():
    with FakeKlaviyo() as server:
        yield server


@pytest.fixture
def broker_url(tmp_path_factory):
    """URL of a broker for Celery."""
    with broker.running(tmp_path_factory.mktemp("b")) as url:
        yield url


@pytest.fixture
def said(caplog):
    """What this thread has logged; those that other tests have left running may log as well."""
    me = threading.get_ident()
    return lambda: [each.getMessage() for each in caplog.records if each.thread == me]


@pytest.fixture
def client(fake):
    return fake.client(api_key=planted.API_KEY, max_delay=0.1)


@pytest.fixture
def klaviyo(auditor, client):
    """An audited client of the fake server."""
    return auditor.audit(client)
