"""Checkpoints that a collector wrote to a file show a tail that was cut off."""

from __future__ import annotations

import json
import shutil

import pytest
from click.testing import CliRunner
from google.protobuf.json_format import MessageToJson

from klaviyo_audit import Auditor
from klaviyo_audit.cli import main
from klaviyo_audit.errors import ConfigurationError
from klaviyo_audit.journal.checkpoint import read_notes
from klaviyo_audit.sinks.otlp import OtlpSink
from klaviyo_audit.sinks.otlp.export import exported_checkpoints
from tests.sinks import entries
from tests.sinks.collector import Collector, serving


@pytest.fixture
def collector():
    with serving(Collector()) as collector:
        yield collector


def invoke(*arguments):
    return CliRunner().invoke(main, [str(one) for one in arguments])


def notes_in(folder):
    with (folder / "checkpoints").open("rb") as file:
        return [stored.note for stored in read_notes(file)]


def sealed(folder, lines, collector):
    """Add lines, seal them, and send the journal's checkpoints out."""
    with Auditor(journal=folder) as auditor:
        for number in range(lines):
            auditor.record(f"shop.opened.{number}")
    done = invoke("seal", folder)
    assert done.exit_code == 0, done.output
    sink = OtlpSink(endpoint=collector.endpoint)
    sink.deliver_checkpoints(notes_in(folder))
    sink.close()


def export(collector, path):
    """What the collector's file exporter writes: each request as OTLP/JSON on a line."""
    lines = [MessageToJson(request, indent=None) for request in collector.requests]
    path.write_text("".join(f"{line}\n" for line in lines))
    return path


def test_a_cut_tail_shows_against_the_export(collector, tmp_path):
    folder, backup = tmp_path / "trail", tmp_path / "backup"
    sealed(folder, 5, collector)
    shutil.copytree(folder, backup)
    sealed(folder, 5, collector)
    file = export(collector, tmp_path / "otel.jsonl")
    whole = invoke("verify", folder, "--against", f"otlp-export:{file}")
    assert whole.exit_code == 0, whole.output
    # All traces of the second half are gone, checkpoints included.
    cut = invoke("verify", backup)
    assert cut.exit_code == 0, cut.output
    cut = invoke("verify", backup, "--against", f"otlp-export:{file}")
    assert cut.exit_code == 1
    assert f"otlp-export:{file}" in cut.output


def test_other_journals_in_the_same_export_do_not_matter(collector, tmp_path):
    sealed(tmp_path / "one", 3, collector)
    sealed(tmp_path / "two", 4, collector)
    OtlpSink(endpoint=collector.endpoint).deliver(entries.many(3))
    file = export(collector, tmp_path / "otel.jsonl")
    for name in ("one", "two"):
        done = invoke("verify", tmp_path / name, "--against", f"otlp-export:{file}")
        assert done.exit_code == 0, done.output


def test_an_export_without_ours_is_no_check(collector, tmp_path):
    sealed(tmp_path / "one", 3, collector)
    file = export(collector, tmp_path / "otel.jsonl")
    collector.requests.clear()
    sealed(tmp_path / "two", 3, collector)
    done = invoke("verify", tmp_path / "two", "--against", f"otlp-export:{file}")
    assert done.exit_code == 2, done.output
    assert "holds no checkpoint that can be used" in done.output


def test_what_the_exporter_is_writing_now_is_left(collector, tmp_path):
    sealed(tmp_path / "one", 3, collector)
    file = export(collector, tmp_path / "otel.jsonl")
    whole = list(exported_checkpoints(file))
    assert whole == notes_in(tmp_path / "one")
    text = file.read_text()
    file.write_text(text + text[:-20])
    assert list(exported_checkpoints(file)) == whole


def test_a_collector_that_knows_no_event_names(collector, tmp_path):
    sealed(tmp_path / "one", 3, collector)
    file = export(collector, tmp_path / "otel.jsonl")
    exported = json.loads(file.read_text())
    del exported["resourceLogs"][0]["scopeLogs"][0]["logRecords"][0]["eventName"]
    file.write_text(json.dumps(exported) + "\n")
    assert list(exported_checkpoints(file)) == notes_in(tmp_path / "one")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("\x28\xb5\x2f\xfd zstd", "no export of OTLP logs in JSON"),
        ('{}\n{"resourceLogs": [klaviyo.audit.checkpoint\n', "line 2: it mentions"),
        ('{"resourceLogs": "klaviyo.audit.checkpoint"}\n', "line 1: it mentions"),
    ],
)
def test_a_file_that_is_no_export(tmp_path, text, words):
    file = tmp_path / "otel.jsonl"
    file.write_text(text)
    with pytest.raises(ConfigurationError, match=words):
        list(exported_checkpoints(file))
    done = invoke("verify", tmp_path, "--against", "otlp-export")
    assert done.exit_code == 2
    assert "otlp-export:FILE" in done.stderr
    done = invoke("verify", tmp_path, "--against", f"otlp-export:{tmp_path}/none")
    assert done.exit_code == 2
