"""What the sink klaviyo sends and asks for, by Prism's verdict on Klaviyo's own description."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import orjson
import pytest
from klaviyo_api import KlaviyoAPI

from klaviyo_audit.klaviyo.transport import Reply, Transport
from klaviyo_audit.settings import load
from klaviyo_audit.sinks.base import Retry
from klaviyo_audit.sinks.klaviyo import KlaviyoSink
from klaviyo_audit.sinks.klaviyo.events import REVISION, bulk, event_of, profile_of, single
from tests import planted
from tests.peers.conftest import required
from tests.peers.prism import openapi_file, prism_command, serve, with_bodies
from tests.sinks import klaviyo_case as case

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.timeout(300)

EVENTS, JOBS = "/api/events", "/api/event-bulk-create-jobs"
NOW = datetime(2026, 11, 24, tzinfo=UTC)


@pytest.fixture(scope="module")
def prism(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address of a Prism that serves the operations of the sink, and checks bodies."""
    folder = tmp_path_factory.mktemp("prism")
    with required():
        command = prism_command()
        document = orjson.loads(openapi_file().read_bytes())
    served = folder / "openapi.json"
    served.write_bytes(orjson.dumps(with_bodies(document, EVENTS, JOBS, "/api/profiles")))
    with serve(command, served, folder / "output.txt") as host:
        yield host


def _sink(host: str, folder: Path, **settings: Any) -> KlaviyoSink:
    given = {"klaviyo_key": planted.API_KEY, "klaviyo_host": host, "dir": folder, **settings}
    return KlaviyoSink(load(klaviyo_share=100, pseudonym_key="a key for pseudonyms", **given))


def test_the_sinks_events_are_as_described(prism: str, tmp_path: Path) -> None:
    sink = _sink(prism, tmp_path)
    sink.deliver(
        [case.full_entry(0), case.entry(1, "intent"), case.entry(2, "gap", metadata={"count": 1})]
    )
    assert sink.acknowledgement["single_events"] == 3
    sink.deliver(
        [*(case.full_entry(n) for n in range(3, 40)), *(case.entry(n) for n in range(40, 60))]
    )
    assert sink.acknowledgement["bulk_jobs"] == 1
    sink.deliver([case.entry(60, timestamp="2999-01-01T00:00:00Z")])
    sink.deliver_checkpoints([b"log.example/trail\n42\nroot\n\n\xe2\x80\x94 log.example sig\n"])
    _sink(prism, tmp_path / "id", klaviyo_profile="id:01HAUDIT").deliver([case.full_entry(1)])


def test_what_the_sink_reads_back_is_asked_for_as_described(prism: str, tmp_path: Path) -> None:
    """Prism answers with examples, whose link to the next page leads nowhere."""
    sink = _sink(prism, tmp_path, klaviyo_profile="id:01HAUDIT")
    for read in (lambda: sink.confirm([case.entry(1)]), lambda: list(sink.checkpoints())):
        with pytest.raises(Retry, match="next page"):
            read()
    with pytest.raises(Retry, match="next page"):
        _sink(prism, tmp_path).confirm([case.entry(1)])


# That it takes ours says something only if it takes not just any.


def _send(host: str, method: str, path: str, **what: Any) -> Reply:
    client = KlaviyoAPI(planted.API_KEY, max_retries=0, test_host=host)
    return Transport(client, least_revision=REVISION).send(method, path, timeout=(5, 60), **what)


def test_prism_refuses_another_query(prism: str) -> None:
    assert _send(prism, "GET", EVENTS, query=[("sort", "size")]).status == 422


@pytest.mark.parametrize("member", [None, "metric", "properties", "backfill", "unique_id", "time"])
@pytest.mark.parametrize("path", [EVENTS, JOBS])
def test_prism_refuses_another_body(prism: str, path: str, member: str | None) -> None:
    event = event_of(case.full_entry(1), "Klaviyo Audit", case.PSEUDONYM_KEY, NOW)
    if member is not None:
        event["attributes"][member] = 7
    profile = profile_of("shop", None)
    body = single(event, profile) if path == EVENTS else bulk([(profile, [event])])
    reply = _send(prism, "POST", path, body=body)
    assert reply.status == (202 if member is None else 422)
