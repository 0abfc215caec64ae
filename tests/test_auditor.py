"""Bad input and trouble: one clear error or warning, nothing lost or falsified, no changed result."""

import logging
import os
import shutil
import subprocess
import sys
import textwrap
import threading

import pytest
from klaviyo_api import KlaviyoAPI

import klaviyo_audit
from klaviyo_audit import (
    Auditor,
    AuditUnavailable,
    ConfigurationError,
    Result,
    acting_as,
    audit,
    audited,
    configure,
)
from klaviyo_audit.default import default_auditor, reset_default
from klaviyo_audit.privacy.notice import NO_KEY
from klaviyo_audit.testing import InMemorySink
from tests import planted
from tests.waiting import PATIENCE, wait_for

LIST = {"data": {"type": "list", "attributes": {"name": "Newsletter"}}}


@pytest.fixture
def _default():
    yield
    reset_default()


def test_exported_names_are_those_of_the_contract():
    assert set(klaviyo_audit.__all__) >= {
        "audit",
        "audited",
        "instrument",
        "uninstrument",
        "acting_as",
        "suppress_audit",
        "Auditor",
        "configure",
        "AuditEntry",
        "Result",
        "Risk",
        "AuditUnavailable",
        "AccessDenied",
        "JournalCorrupt",
        "ConfigurationError",
        "WebhookVerificationError",
        "KlaviyoAuditError",
    }
    assert all(getattr(klaviyo_audit, name) is not None for name in klaviyo_audit.__all__)


@pytest.mark.usefixtures("_default")
def test_the_default_auditor_comes_from_the_environment(client, monkeypatch, tmp_path):
    monkeypatch.setenv("KLAVIYO_AUDIT_DIR", str(tmp_path / "from-env"))
    monkeypatch.setenv("KLAVIYO_AUDIT_SERVICE", "loyalty")
    audit(client).Profiles.get_profile("01H")

    @audited
    def job():
        pass

    job()
    text = (tmp_path / "from-env" / "audit.jsonl").read_text()
    assert text.count('"service":"loyalty"') >= 3
    assert default_auditor() is default_auditor()


@pytest.mark.usefixtures("_default")
def test_without_any_setting_the_journal_is_in_the_current_folder(client, tmp_path):
    audit(client).Profiles.get_profile("01H")
    assert (tmp_path / "klaviyo-audit" / "audit.jsonl").exists()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"durabilty": "fsync"}, "durability"),
        ({"durability": "maybe"}, "flush"),
        ({"on_failure": "explode"}, "block"),
        ({"sinks": ["klavyio"]}, "there is no sink 'klavyio'"),
        ({"durability": "async", "on_failure": "block"}, "exclude each other"),
    ],
)
def test_a_bad_setting_is_one_clear_error(settings, message, tmp_path):
    with pytest.raises(ConfigurationError, match=message):
        Auditor(journal=tmp_path / "t", **settings)


@pytest.fixture
def unwritable(tmp_path):
    """A file where the journal's folder should be: root could write to any folder."""
    (tmp_path / "trail").write_text("in the way")
    return tmp_path / "trail"


def test_continue_goes_on_and_says_so_once(unwritable, client, caplog, said):
    with caplog.at_level(logging.WARNING, "klaviyo_audit"):
        auditor = Auditor(journal=unwritable)
        klaviyo = auditor.audit(client)
        for _ in range(3):
            assert klaviyo.Profiles.get_profile("01H").data.id == "01H"
        klaviyo.Lists.create_list(LIST)
    (message,) = said()
    assert "cannot be written" in message
    assert "on_failure='block'" in message
    assert auditor.lost == 5, "three reads; an intent and an outcome"
    auditor.close()


def test_what_was_lost_is_told_when_the_journal_works_again(unwritable, client, trail):
    auditor = Auditor(journal=unwritable)
    klaviyo = auditor.audit(client)
    klaviyo.Lists.create_list(LIST)
    unwritable.unlink()
    auditor._writer.open()
    klaviyo.Profiles.get_profile("01H")
    auditor.close()
    (gap,) = trail.of("gap")
    assert gap["metadata"]["count"] == 2
    assert gap["metadata"]["operations"] == {"klaviyo.lists.create_list": 2}
    assert len(trail.outcomes()) == 1


def test_block_refuses_to_start(unwritable):
    with pytest.raises(AuditUnavailable, match=r"cannot be opened .* on_failure is 'block'"):
        Auditor(journal=unwritable, on_failure="block")


def test_block_sends_nothing_without_a_record(client, fake, trail):
    auditor = Auditor(journal=trail.folder, on_failure="block", seal="off")
    klaviyo = auditor.audit(client)
    klaviyo.Lists.create_list(LIST)
    shutil.rmtree(trail.folder)
    trail.folder.write_text("in the way")
    before = fake.count
    for _ in range(2):
        with pytest.raises(AuditUnavailable, match="was not sent"):
            klaviyo.Lists.create_list(LIST)
        with pytest.raises(AuditUnavailable, match="was not sent"):
            klaviyo.Lists.create_list_with_http_info(LIST)
    assert fake.count == before
    # Now reads are stopped too: no record, no call.
    with pytest.raises(AuditUnavailable):
        klaviyo.Profiles.get_profile("01H")
    assert fake.count == before
    trail.folder.unlink()
    auditor._writer.open()
    klaviyo.Lists.create_list(LIST)
    assert fake.count == before + 1
    auditor.close()


def test_block_makes_a_deleted_folder_again(client, fake, trail):
    with Auditor(journal=trail.folder, on_failure="block", seal="off") as auditor:
        klaviyo = auditor.audit(client)
        klaviyo.Profiles.get_profile("01H")
        shutil.rmtree(trail.folder)
        klaviyo.Lists.create_list(LIST)
    assert [line["phase"] for line in trail.lines()][:3] == ["journal", "intent", "outcome"]


def test_failing_outcome_changes_no_result(client, fake, trail, monkeypatch, caplog):
    auditor = Auditor(journal=trail.folder)
    klaviyo = auditor.audit(client)
    monkeypatch.setattr(
        "klaviyo_audit.recorder.Recorder._write",
        lambda *_: (_ for _ in ()).throw(RuntimeError(planted.API_KEY)),
    )
    assert klaviyo.Profiles.get_profile("01H").data.id == "01H"
    assert "defect of klaviyo-audit" in caplog.text
    auditor.close()


@pytest.mark.parametrize("level", ["none", "all"])
def test_intents_setting(client, trail, level):
    with Auditor(journal=trail.folder, intents=level) as auditor:
        klaviyo = auditor.audit(client)
        klaviyo.Profiles.get_profile("01H")
        klaviyo.Lists.create_list(LIST)
    assert len(trail.of("intent")) == {"none": 0, "all": 2}[level]


def test_intent_says_all_that_is_known_before_the_call(klaviyo, trail):
    with acting_as("dana", reason="spring cleaning"):
        klaviyo.Lists.delete_list("LISTID")
    (intent,) = trail.of("intent")
    outcome = trail.outcome()
    assert intent["id"] == outcome["id"]
    assert intent["n"] < outcome["n"]
    assert intent["resource"] == "/api/lists/LISTID"
    assert intent["actor"] == {"reason": "spring cleaning"}
    assert intent["key"] == outcome["key"]
    assert "result" not in intent
    assert "http" not in intent


def test_a_corrupt_journal_at_start_is_kept_and_written_on(client, trail):
    trail.folder.mkdir()
    garbage = b'\x00\xff{"v":1,"half a line'
    trail.path.write_bytes(garbage)
    with Auditor(journal=trail.folder) as auditor:
        auditor.audit(client).Profiles.get_profile("01H")
    data = trail.path.read_bytes()
    assert data.startswith(garbage)
    assert data.count(b'"phase":"outcome"') == 1


def test_record(auditor, trail):
    @auditor.audited
    def job():
        return auditor.record(
            "export.downloaded",
            resource="report:q3",
            result=Result.SUCCESS,
            metadata={"rows": 7, "to": planted.EMAIL, "api_key": "x"},
        )

    entry_id = job()
    (event,) = trail.of("event")
    assert event["id"] == entry_id
    assert event["parent_id"] == trail.outcome()["id"]
    assert event["metadata"] == {"rows": 7, "to": "[email]", "api_key": "[secret]"}
    assert event["result"] == "success"


def test_sinks_get_this_programs_entries_in_order(client, trail):
    trail.folder.mkdir()
    old = Auditor(journal=trail.folder, service="old")
    old.record("before")
    sink = InMemorySink()
    with Auditor(journal=trail.folder, sinks=[sink]) as auditor:
        auditor.audit(client).Profiles.get_profile("01H")
        for number in range(100):
            auditor.record(f"event-{number}")
        assert auditor.flush(PATIENCE)
        actions = [entry.action for entry in sink.entries if entry.phase != "journal"]
    assert actions == ["klaviyo.profiles.get_profile", *(f"event-{n}" for n in range(100))]
    assert sink.entries[-1].action == "journal.close"
    old.close()


class Hangs:
    name = "hangs"

    def __init__(self):
        self.over = threading.Event()

    def deliver(self, entries):
        self.over.wait(1000)

    def close(self):
        pass


class Raises:
    name = "raises"

    def deliver(self, entries):
        raise RuntimeError(planted.API_KEY)

    def close(self):
        raise RuntimeError(planted.API_KEY)


def test_a_bad_sink_stops_nobody(client, trail, caplog):
    with Auditor(journal=trail.folder, sinks=[Raises()], ship_exit_wait=0.1) as auditor:
        for _ in range(3):
            auditor.audit(client).Profiles.get_profile("01H")
            wait_for(lambda: "sink raises" in caplog.text)
            assert auditor.flush(0.2) is False
    assert caplog.text.count("sink raises: RuntimeError; what it has not got is kept") == 1
    assert len(trail.outcomes()) == 3


def test_a_hanging_sink_is_waited_for_no_longer_than_said(client, trail):
    hangs = Hangs()
    auditor = Auditor(journal=trail.folder, sinks=[hangs])
    auditor.audit(client).Profiles.get_profile("01H")
    assert auditor.flush(0.2) is False
    assert len(trail.outcomes()) == 1
    hangs.over.set()
    auditor.close()


def test_request_capture_keeps_shape_and_harmless_values(client, trail):
    with Auditor(journal=trail.folder, capture="request_response") as auditor:
        klaviyo = auditor.audit(client)
        klaviyo.Profiles.create_profile(
            {
                "data": {
                    "type": "profile",
                    "attributes": {
                        "email": planted.EMAIL,
                        "phone_number": planted.PHONE,
                        "properties": {planted.EMAIL: 1},
                    },
                }
            }
        )
        klaviyo.Profiles.get_profiles(
            filter=f'equals(email,"{planted.EMAIL}")', page_size=5, fields_profile=["email"]
        )
    intent, created = trail.of("intent")[0], trail.outcomes()[0]
    assert intent["request"] == created["request"]
    assert created["request"]["body"] == {
        "data": {
            "type": "profile",
            "attributes": {
                "email": f"str({len(planted.EMAIL)})",
                "phone_number": f"str({len(planted.PHONE)})",
                "properties": {"[members]": 1},
            },
        }
    }
    assert created["response"]["data"]["type"] == "profile"
    assert created["response"]["data"]["id"]
    assert trail.last()["request"]["query"] == {
        "filter": ["equals(email)"],
        "page[size]": "5",
        "fields[profile]": "email",
    }


def test_metadata_capture_keeps_nothing_of_bodies(klaviyo, trail):
    klaviyo.Lists.create_list(LIST)
    assert "request" not in trail.outcome()
    assert "response" not in trail.outcome()


def test_secret_key_of_a_webhook(client, trail):
    with Auditor(journal=trail.folder, capture="request_response") as auditor:
        body = {
            "data": {
                "type": "webhook",
                "attributes": {
                    "name": "n",
                    "endpoint_url": "https://shop.example/hook",
                    "secret_key": planted.WEBHOOK_SECRET,
                },
                "relationships": {
                    "webhook-topics": {
                        "data": [{"type": "webhook-topic", "id": "event:klaviyo.sent_sms"}]
                    }
                },
            }
        }
        auditor.audit(client).Webhooks.create_webhook(body)
    assert trail.outcome()["request"]["body"]["data"]["attributes"]["secret_key"] == "[secret]"


@pytest.mark.parametrize("durability", ["fsync", "async"])
def test_durability(client, trail, durability):
    with Auditor(journal=trail.folder, durability=durability) as auditor:
        klaviyo = auditor.audit(client)
        for _ in range(20):
            klaviyo.Profiles.get_profile("01H")
        klaviyo.Lists.create_list(LIST)
        assert auditor.flush(PATIENCE)
        assert len(trail.outcomes()) == 21
    lines = trail.lines()
    assert [line["n"] for line in lines] == list(range(len(lines)))
    assert lines[-1]["action"] == "journal.close"


def test_async_names_the_callers_thread(client, trail):
    with Auditor(journal=trail.folder, durability="async") as auditor:
        thread = threading.Thread(
            target=auditor.audit(client).Profiles.get_profile, args=("01H",), name="worker-7"
        )
        thread.start()
        thread.join()
    assert trail.outcome()["origin"]["thread"] == "worker-7"


def test_low_space_warns_and_stops(client, trail, caplog):
    free = os.statvfs(trail.folder.parent)
    free = free.f_bavail * free.f_frsize
    with Auditor(
        journal=trail.folder, low_space_warn=free * 2, low_space_stop=free // 2
    ) as auditor:
        auditor.audit(client).Profiles.get_profile("01H")
        auditor._writer._look_at = 0
        auditor.audit(client).Profiles.get_profile("01H")
    assert len(trail.outcomes()) == 2
    blocked = Auditor(
        journal=trail.folder,
        low_space_warn=free * 2,
        low_space_stop=free * 2,
        on_failure="block",
    )
    with pytest.raises(AuditUnavailable, match="less than low_space_stop"):
        blocked.audit(client).Lists.create_list(LIST)
    blocked.close()


def run(code, folder, **env):
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
        cwd=folder,
        env={**os.environ, **env},
    )


@pytest.mark.parametrize("durability", ["flush", "async"])
def test_a_program_that_just_ends_says_goodbye(fake, tmp_path, trail, durability):
    done = run(
        f"""
        from klaviyo_api import KlaviyoAPI
        from klaviyo_audit import audit
        klaviyo = audit(KlaviyoAPI("k" * 9, test_host={fake.url!r}))
        klaviyo.Profiles.get_profile("01H")
        """,
        tmp_path,
        KLAVIYO_AUDIT_DIR="trail",
        KLAVIYO_AUDIT_DURABILITY=durability,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", f"{NO_KEY}\n")
    assert [line["action"] for line in trail.lines()] == [
        "journal.open",
        "klaviyo.profiles.get_profile",
        "journal.close",
    ]
    assert trail.outcome()["origin"]["service"] == "-c"


def test_warnings_as_errors_break_no_call(fake, tmp_path):
    (tmp_path / "trail").write_text("in the way")
    done = run(
        f"""
        import warnings, logging
        from klaviyo_api import KlaviyoAPI
        from klaviyo_audit import audit
        warnings.simplefilter("error")
        class Filter(logging.Filter):
            def filter(self, record):
                raise RuntimeError
        logging.getLogger("klaviyo_audit").addFilter(Filter())
        print(audit(KlaviyoAPI("k" * 9, test_host={fake.url!r})).Profiles.get_profile("01H").data.id)
        """,
        tmp_path,
        KLAVIYO_AUDIT_DIR="trail",
    )
    assert done.stdout.strip() == "01H", done.stderr


def test_import_brings_in_no_api_module(tmp_path):
    done = run(
        """
        import sys
        import klaviyo_audit
        heavy = ("openapi_client.api.", "opentelemetry.sdk", "pydantic_settings", "rich", "click")
        print([name for name in sys.modules if name.startswith(heavy)])
        """,
        tmp_path,
    )
    assert done.stdout.strip() == "[]", done.stderr


def test_configure_replaces_the_default_and_old_proxies_go_on(client, tmp_path):
    first = configure(journal=tmp_path / "first")
    try:
        klaviyo = audit(client)
        configure(journal=tmp_path / "second")
        klaviyo.Profiles.get_profile("01H")
        assert (tmp_path / "first" / "audit.jsonl").read_text().count('"outcome"') == 1
    finally:
        reset_default()
        first.close()


def test_client_with_a_test_host_that_has_a_path(fake, auditor, trail):
    klaviyo = auditor.audit(KlaviyoAPI(planted.API_KEY, test_host=fake.url + "/prefix"))
    with pytest.raises(Exception, match="404"):
        klaviyo.Profiles.get_profile("01H")
    assert trail.outcome()["resource"] == "/prefix/api/profiles/01H"


def test_forked_processes_make_ids_of_their_own(auditor, trail):
    """Made from one state they would be the same, and the second be taken for a repetition."""
    auditor.record("parent")
    for _ in range(3):
        pid = os.fork()
        if pid == 0:
            auditor.record("child")
            os._exit(0)
        assert os.waitpid(pid, 0)[1] == 0
    ids = [line["id"] for line in trail.lines() if line["action"] == "child"]
    # The last 16 digits are random; the rest is the time.
    assert len({one[19:] for one in ids}) == len(ids) == 3
