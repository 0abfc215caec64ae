"""Time on the caller's thread to record one call, against other ways to write it down.

Each peer writes the same facts, those of one entry, as JSON to a file of its own, the way its
documentation shows for a file. Two of them keep a hash chain; none of them numbers its lines, says
what became of a killed writer, or knows what a call of the SDK is. The audited side is the whole
of `Auditor.record`, and of the entry of an SDK call from the end of the call to the written line.
"""

from __future__ import annotations

import contextlib
import logging
from importlib import import_module
from typing import TYPE_CHECKING, Any

import orjson

from benchmarks.append import last_line
from benchmarks.harness import Effort, Reading, interleave, medians, ratio, timed
from benchmarks.server import running
from benchmarks.subject import without_http
from klaviyo_audit import Result
from klaviyo_audit.calls import CallRecord
from klaviyo_audit.klaviyo.outcome import http_text, settle
from klaviyo_audit.klaviyo.targets import target_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from benchmarks.subject import Subject

    Facts = dict[str, Any]
    Peer = Callable[[Path, Facts], contextlib.AbstractContextManager[Callable[[], object]]]

ROW = "peers"
_CALLS = 50
_WRITTEN_HERE = ("v", "id", "writer", "n", "timestamp", "sum")
"""Members that a peer makes in its own way, or not at all."""


def run(effort: Effort) -> list[Reading]:
    """The ratio of an SDK call's entry to each peer's line."""
    readings: list[Reading] = []
    with (
        running() as url,
        without_http(effort.folder / "trail", url) as both,
        contextlib.ExitStack() as open_peers,
    ):
        both.held()["audited"]()
        entry = orjson.loads(last_line(both.auditor.journal / "audit.jsonl"))
        facts = {name: value for name, value in entry.items() if name not in _WRITTEN_HERE}
        blocks = {"call's entry": _entry_of_a_call(both), "record": _record(both, facts)}
        for name, peer in PEERS.items():
            path = effort.folder / name.replace(" ", "-")
            try:
                blocks[name] = open_peers.enter_context(peer(path, facts))
            except ImportError as error:
                missing = f"not installed ({error.name}): pip install 'klaviyo-audit[bench]'"
                readings.append(Reading(ROW, f"{name}: {missing}", 0, "x", None))
        taken = interleave(
            {name: timed(call, _CALLS) for name, call in blocks.items()}, effort.rounds(200, 30)
        )
    for name in list(blocks)[2:]:
        what = f"the entry of an SDK call / {name} with the same facts"
        pair = {"klaviyo-audit": taken["call's entry"], name: taken[name]}
        readings.append(
            Reading(
                ROW, what, ratio(taken["call's entry"], taken[name]), "x", 1.0, medians(pair, "us")
            )
        )
    told = "Auditor.record with the same facts as metadata, cleaned, / the entry of an SDK call"
    readings.append(Reading(ROW, told, ratio(taken["record"], taken["call's entry"]), "x", None))
    return readings


def _entry_of_a_call(both: Subject) -> Callable[[], object]:
    """All that is done for the outcome of a call: made, numbered, summed and written."""
    recorder = both.auditor.recorder
    target = target_of(both.bare.Profiles.get_profile_without_preload_content, "get_profile")

    def entry() -> None:
        call = CallRecord(target, None, is_sdk=True)
        call.resource = "/api/profiles/01GDDKASAP8TKDDA2GRZDS0001"
        call.status, call.attempts, call.requests = 200, 1, 1
        call.http = http_text(call) + ',"request_id":"01HREQ"'
        call.key = '{"fingerprint":"1c8ae584cc97","kind":"private"}'
        settle(recorder, call, None)

    return entry


def _record(both: Subject, facts: Facts) -> Callable[[], object]:
    return lambda: both.auditor.record("call", result=Result.SUCCESS, metadata=facts)


@contextlib.contextmanager
def _logging(path: Path, facts: Facts) -> Iterator[Callable[[], object]]:
    formatter = import_module("pythonjsonlogger.orjson").OrjsonFormatter("%(asctime)s %(message)s")
    with _handled(logging, path, formatter) as log:
        yield lambda: log.info("call", extra={"entry": facts})


@contextlib.contextmanager
def _handled(library: Any, path: Path, formatter: Any) -> Iterator[Any]:
    handler = library.FileHandler(str(path))
    handler.setFormatter(formatter)
    log = library.getLogger("benchmarks.peers")
    log.setLevel(logging.INFO)
    log.propagate = False
    log.addHandler(handler)
    yield log
    log.removeHandler(handler)
    handler.close()


@contextlib.contextmanager
def _picologging(path: Path, facts: Facts) -> Iterator[Callable[[], object]]:
    library = import_module("picologging")
    # It has no JSON formatter: the text is made by orjson, which is its fastest way there.
    formatter = library.Formatter("%(asctime)s %(message)s")
    with _handled(library, path, formatter) as log:
        yield lambda: log.info(orjson.dumps(facts).decode())


@contextlib.contextmanager
def _structlog(path: Path, facts: Facts) -> Iterator[Callable[[], object]]:
    library = import_module("structlog")
    with path.open("wb") as file:  # as its page on performance recommends
        log = library.wrap_logger(
            library.BytesLogger(file),
            processors=[
                library.processors.add_log_level,
                library.processors.TimeStamper(fmt="iso", utc=True),
                library.processors.JSONRenderer(serializer=orjson.dumps),
            ],
            wrapper_class=library.make_filtering_bound_logger(logging.INFO),
            cache_logger_on_first_use=True,
        ).bind()
        yield lambda: log.info("call", **facts)


@contextlib.contextmanager
def _loguru(path: Path, facts: Facts) -> Iterator[Callable[[], object]]:
    log = import_module("loguru").logger
    log.remove()
    sink = log.add(path, serialize=True)
    yield lambda: log.info("call", entry=facts)
    log.remove(sink)


@contextlib.contextmanager
def _eliot(path: Path, facts: Facts) -> Iterator[Callable[[], object]]:
    library = import_module("eliot")
    with path.open("ab", buffering=0) as file:
        destination = library.FileDestination(file=file)
        library.add_destinations(destination)
        yield lambda: library.log_message("call", entry=facts)
        library.remove_destination(destination)


@contextlib.contextmanager
def _opentelemetry(path: Path, facts: Facts) -> Iterator[Callable[[], object]]:
    logs = import_module("opentelemetry._logs")
    sdk = import_module("opentelemetry.sdk._logs")
    export = import_module("opentelemetry.sdk._logs.export")
    exporter = getattr(export, "ConsoleLogRecordExporter", None) or export.ConsoleLogExporter
    with path.open("w") as file:
        provider = sdk.LoggerProvider()
        # One at a time, as a record that survives a kill has to be.
        provider.add_log_record_processor(export.SimpleLogRecordProcessor(exporter(out=file)))
        log = provider.get_logger("benchmarks")
        yield lambda: log.emit(logs.LogRecord(body="call", attributes={"entry": facts}))
        provider.shutdown()


@contextlib.contextmanager
def _rust_py_audit(path: Path, facts: Facts) -> Iterator[Callable[[], object]]:
    log = import_module("rust_py_audit").AuditLogger(app_name="benchmarks", file_path=str(path))
    who = {"actor_id": "dana", "action": facts["action"], "resource": "profile"}
    yield lambda: log.log(**who, resource_id=facts["resource"], metadata=facts)


@contextlib.contextmanager
def _auditchain(path: Path, facts: Facts) -> Iterator[Callable[[], object]]:
    backend = import_module("auditchain.backends.jsonl").JsonlBackend(path)
    log = import_module("auditchain.sync").SyncAuditLog(backend)
    yield lambda: log.append("dana", facts["action"], facts["resource"], metadata=facts)
    log.close()


PEERS: dict[str, Peer] = {
    "logging + python-json-logger": _logging,
    "structlog": _structlog,
    "loguru": _loguru,
    "eliot": _eliot,
    "OpenTelemetry logs": _opentelemetry,
    "rust-py-audit": _rust_py_audit,
    "auditchain": _auditchain,
    "picologging": _picologging,
}
"""What else one could write a trail with."""
