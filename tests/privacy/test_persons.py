"""From a call to a person's own account: query, subject, consent, forget, config."""

import contextlib
import json
import os
import re
import sqlite3
import subprocess
import sys

import pytest
from click.testing import CliRunner

from klaviyo_audit import Auditor, acting_as
from klaviyo_audit.cli import main
from klaviyo_audit.errors import ConfigurationError
from klaviyo_audit.journal import proof
from klaviyo_audit.journal.note import Verifier
from klaviyo_audit.testing import FakeKlaviyo

KEY = "0123456789abcdef0123456789abcdef"
MASTER = "a master key that is kept elsewhere"
DANA, EVE, PHONE = "Dana@Example.com", "eve@example.com", "+15005550006"
SUBSCRIPTIONS = {"email": {"marketing": {"consent": "SUBSCRIBED"}}}


def run(*arguments, **environment):
    given = {f"KLAVIYO_AUDIT_{name.upper()}": value for name, value in environment.items()}
    return CliRunner().invoke(main, [str(one) for one in arguments], env=given)


def profile(**attributes):
    return {"data": {"type": "profile", "attributes": attributes}}


def subscription(*persons, list_id="LIST01", **more):
    return {
        "data": {
            "type": "profile-subscription-bulk-create-job",
            "attributes": {"profiles": {"data": [
                {"type": "profile", "attributes": one} for one in persons
            ]}} | more,
            "relationships": {"list": {"data": {"type": "list", "id": list_id}}},
        }
    }  # fmt: skip


def suppression(*emails, kind="create"):
    people = [{"type": "profile", "attributes": {"email": one}} for one in emails]
    return {
        "data": {
            "type": f"profile-suppression-bulk-{kind}-job",
            "attributes": {"profiles": {"data": people}},
        }
    }


def work(auditor, fake):
    """A day with Dana: created, looked up, subscribed, suppressed; and Eve beside her."""
    client = auditor.audit(fake.client())
    with acting_as("sam", reason=f"asked by {DANA}", on_behalf_of="support"):
        client.Profiles.create_profile(profile(email=DANA, phone_number=PHONE, first_name="Dana"))
    client.Profiles.create_profile(profile(email=EVE))
    client.Profiles.get_profiles(filter=f'any(email,["{EVE}","{DANA.lower()}"])')
    both = {"email": DANA, "subscriptions": SUBSCRIPTIONS}
    sms = {"email": EVE, "phone_number": "+15005550007",
           "subscriptions": {"sms": {"marketing": {"consent": "SUBSCRIBED"}}}}  # fmt: skip
    with acting_as("sam", reason="signup form"):
        client.Profiles.bulk_subscribe_profiles(
            subscription(both, sms, custom_source="Autumn fair", historical_import=False)
        )
        client.Profiles.bulk_suppress_profiles(suppression(DANA))
    return client


@pytest.fixture
def fake():
    with FakeKlaviyo() as server:
        yield server


@pytest.fixture
def day(tmp_path, fake):
    """The journal of the day."""
    with Auditor(
        journal=tmp_path / "trail", service="shop", pseudonym_key=KEY, seal="off"
    ) as auditor:
        work(auditor, fake)
    return tmp_path / "trail"


def lines(folder):
    return [json.loads(line) for line in (folder / "audit.jsonl").read_bytes().splitlines()]


def outcomes(folder):
    return [line for line in lines(folder) if line["phase"] == "outcome"]


def test_entries_name_whom_a_request_is_about(day):
    created, eve, asked, subscribed, suppressed = outcomes(day)
    dana = re.escape(created["subjects"][0])
    assert [one.split(":")[:2] for one in created["subjects"]] == [["email", "k1"], ["phone", "k1"]]
    assert asked["subjects"] == [eve["subjects"][0], created["subjects"][0]]
    assert re.fullmatch(f"asked by {dana}", created["actor"]["reason"])
    assert subscribed["subjects"][0] == created["subjects"][0]
    assert len(subscribed["subjects"]) == 3
    assert suppressed["consent"] == {"change": "suppress", "profiles": 1}
    assert "request" not in created, "the level is metadata"
    for line in lines(day):
        assert DANA.lower() not in json.dumps(line).lower()


def test_query_finds_a_person_by_every_identifier_and_key(day):
    for person, count in ((DANA, 5), (DANA.upper(), 5), ("+1 (500) 555-0006", 1), (EVE, 3)):
        done = run("query", day, "--subject", person, "--json", pseudonym_key=KEY)
        found = [json.loads(line) for line in done.output.splitlines()]
        assert len([one for one in found if one["phase"] == "outcome"]) == (
            4 if count == 5 else count
        )
    rotated = f"k2:{KEY[::-1]},k1:{KEY}"
    assert run("query", day, "--subject", DANA, pseudonym_key=rotated).exit_code == 0
    assert run("query", day, "--subject", DANA, pseudonym_key=f"k2:{KEY[::-1]}").exit_code == 1
    unknown = run("query", day, "--subject", "what is this", pseudonym_key=KEY)
    assert unknown.exit_code == 1
    assert "--subject was read as an external id; KIND:VALUE says which it is" in unknown.stderr
    assert run("query", day, "--subject", "nobody@example.com", pseudonym_key=KEY).exit_code == 1
    assert "there is no key" in run("query", day, "--subject", DANA).output


def test_query_by_action_and_time(day):
    done = run("query", day, "--action", "klaviyo.profiles.*suppress*", "--json")
    assert {json.loads(line)["action"] for line in done.output.splitlines()} == {
        "klaviyo.profiles.bulk_suppress_profiles"
    }
    assert run("query", day, "--since", "1h", "--action", "klaviyo.*").exit_code == 0
    assert run("query", day, "--since", "2999-01-01").exit_code == 1
    assert "is no time" in run("query", day, "--since", "yesterday-ish").output


def test_query_reads_rotated_and_compressed_files(tmp_path, fake):
    from klaviyo_audit.analysis.entries import entries
    from klaviyo_audit.journal.segments import zstd_module

    folder = tmp_path / "trail"
    with Auditor(journal=folder, pseudonym_key=KEY) as auditor:
        work(auditor, fake)
    content = (folder / "audit.jsonl").read_bytes()
    (folder / "audit-000000000000.jsonl.zst").write_bytes(zstd_module().compress(content))
    (folder / "audit.jsonl").unlink()
    fake.forget()
    with Auditor(journal=folder, pseudonym_key=KEY) as auditor:
        auditor.audit(fake.client()).Profiles.create_profile(profile(email=DANA))
    done = run("query", folder, "--subject", DANA, "--json", pseudonym_key=KEY)
    found = [json.loads(line) for line in done.output.splitlines()]
    assert len([one for one in found if one["phase"] == "outcome"]) == 5
    assert len(list(entries(folder))) == content.count(b"\n") + len(lines(folder))


def test_a_person_gets_their_own_account(day):
    text = run("subject", DANA, day, pseudonym_key=KEY)
    assert text.exit_code == 0
    assert "4 records" in text.output
    assert "create profile (shop): done" in text.output
    assert 'because: "signup form"' in text.output
    assert "received by: Klaviyo" in text.output
    assert "subscribe / email.marketing / list LIST01" in text.output
    assert "sam" not in text.output, "the employee is a person too"
    assert "by sam" in run("subject", DANA, day, "--actors", pseudonym_key=KEY).output
    found = json.loads(run("subject", DANA, day, "--format", "json", pseudonym_key=KEY).output)
    assert len(found["processings"]) == 4
    assert [one["change"] for one in found["consents"]] == ["subscribe", "suppress"]
    assert "sam" not in json.dumps(found)
    empty = run("subject", "nobody@example.com", day, pseudonym_key=KEY)
    assert empty.exit_code == 1


def test_the_page_escapes_what_it_shows(tmp_path, fake):
    with (
        Auditor(journal=tmp_path / "trail", service="<script>alert(1)</script>", pseudonym_key=KEY)
        as auditor,
        acting_as("sam", reason='"><img src=x onerror=alert(1)>'),
    ):  # fmt: skip
        auditor.audit(fake.client()).Profiles.create_profile(profile(email=DANA))
    out = tmp_path / "account.html"
    done = run("subject", DANA, tmp_path / "trail", "--format", "html", "--out", out,
               pseudonym_key=KEY)  # fmt: skip
    page = out.read_text()
    assert done.exit_code == 0
    assert "<script>alert" not in page
    assert "<img" not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert "default-src 'none'" in page
    assert "is there already" in run("subject", DANA, tmp_path / "trail", "--out", out,
                                     pseudonym_key=KEY).output  # fmt: skip


def test_the_consent_ledger(day):
    found = json.loads(run("consent", DANA, day, "--json", pseudonym_key=KEY).output)["changes"]
    first, second = found
    assert first["change"] == "subscribe"
    assert first["channels"] == ["email.marketing"]
    assert (first["list_id"], first["source"], first["historical"]) == (
        "LIST01",
        "Autumn fair",
        False,
    )
    assert (first["user_id"], first["reason"], first["service"]) == ("sam", "signup form", "shop")
    assert first["result"] == "success"
    assert "is sealed" in first["not_proved"]
    assert second["change"] == "suppress"
    eve = json.loads(run("consent", EVE, day, "--json", pseudonym_key=KEY).output)["changes"]
    assert [one["channels"] for one in eve] == [["sms.marketing"]], "channels are each person's own"
    text = run("consent", DANA, day, pseudonym_key=KEY).output
    assert 'by sam (shop) because "signup form"' in text
    assert run("consent", DANA, day, "--list", "OTHER", pseudonym_key=KEY).exit_code == 1
    assert run("consent", DANA, day, "--list", "LIST01", pseudonym_key=KEY).exit_code == 0


def test_a_sealed_change_is_proved(day, tmp_path):
    assert run("seal", day).exit_code == 0
    key = Verifier.from_text((day / "sealing.pub").read_text().strip())
    done = run("consent", DANA, day, "--json", "--proofs", tmp_path / "proofs", pseudonym_key=KEY)
    found = json.loads(done.output)["changes"]
    for change in found:
        proved = proof.check(change["proof"].encode(), key)
        assert json.loads(proved.line)["id"] == change["entry_id"]
        assert json.loads(proved.line)["phase"] == "outcome"
        file = tmp_path / "proofs" / f"{change['entry_id']}.proof"
        assert run("verify-proof", file, "--key", day / "sealing.pub").exit_code == 0
    assert "sealed and proved" in run("consent", DANA, day, pseudonym_key=KEY).output


def test_bulk_calls_name_all_their_persons(tmp_path, fake):
    people = [{"email": f"p{number}@example.com", "subscriptions": SUBSCRIPTIONS}
              for number in range(1_000)]  # fmt: skip
    with Auditor(journal=tmp_path / "trail", pseudonym_key=KEY) as auditor:
        auditor.audit(fake.client()).Profiles.bulk_subscribe_profiles(subscription(*people))
    (entry,) = outcomes(tmp_path / "trail")
    assert len(set(entry["subjects"])) == 1_000
    assert entry["consent"]["profiles"] == 1_000
    for person in ("p0@example.com", "p999@example.com"):
        assert run("consent", person, tmp_path / "trail", pseudonym_key=KEY).exit_code == 0


# Forgetting


@pytest.fixture
def own_keys(tmp_path, fake):
    """A sealed journal of the day, made with a key for each subject."""
    given = {"subject_keys": "on", "subject_master_key": MASTER}
    with Auditor(journal=tmp_path / "trail", service="shop", **given) as auditor:
        work(auditor, fake)
    assert run("seal", tmp_path / "trail").exit_code == 0
    return tmp_path / "trail", given


def test_forgetting_leaves_checkpoints_and_proofs_valid(own_keys, tmp_path):
    folder, given = own_keys
    before = (folder / "audit.jsonl").read_bytes()
    done = run("consent", DANA, folder, "--proofs", tmp_path / "proofs", **given)
    assert done.exit_code == 0
    proofs = sorted((tmp_path / "proofs").iterdir())
    assert len(proofs) == 2

    done = run("forget", DANA, folder, "--also", PHONE, "--reason", "request 4711", **given)
    assert done.exit_code == 0, done.output
    assert "CERTIFICATE OF ERASURE" in done.output
    assert "2 key(s), of: email, phone" in done.output

    # Nobody can link the entries to her any more, while those of others are found as before.
    assert run("query", folder, "--subject", DANA, **given).exit_code == 1
    assert run("subject", DANA, folder, **given).exit_code == 1
    assert run("query", folder, "--subject", EVE, **given).exit_code == 0
    # What was sealed stands as it was.
    assert (folder / "audit.jsonl").read_bytes().startswith(before)
    for file in proofs:
        assert run("verify-proof", file, "--key", folder / "sealing.pub").exit_code == 0
    assert run("seal", folder).exit_code == 0
    verified = run("verify", folder)
    assert verified.exit_code == 0, verified.output
    # The trail says that it happened; neither certificate nor entry lead back to the entries.
    told = [one for one in lines(folder) if one["action"] == "klaviyo_audit.subject_forgotten"]
    assert told[0]["metadata"] == {"keys_destroyed": 2, "kinds": ["email", "phone"]}
    assert told[0]["actor"]["reason"] == "request 4711"
    assert told[0]["id"] in done.output
    assert not re.search(r"email:s1:", done.output + json.dumps(told))

    assert run("forget", DANA, folder, **given).exit_code == 1, "there is no key any more"


def test_what_was_destroyed_is_recorded_also_where_a_copy_is_still_in_the_log(own_keys, fake):
    """Since somebody reads the store all the time. Forgetting again, later, empties the log."""
    folder, given = own_keys
    look_up(folder, fake, given)
    log = folder / "subjects.sqlite-wal"
    with contextlib.closing(sqlite3.connect(folder / "subjects.sqlite")) as reader:
        reader.execute("begin")
        reader.execute("select * from subject").fetchall()
        done = run("forget", DANA, folder, **given)
        assert log.stat().st_size > 0
    assert done.exit_code == 2
    assert "last copy is still in" in done.output
    assert "CERTIFICATE OF ERASURE" in done.output
    begun, told = [one for one in lines(folder) if "subject_forg" in one["action"]]
    assert begun["action"] == "klaviyo_audit.subject_forgetting"
    assert told["metadata"] == {"keys_destroyed": 1, "kinds": ["email"]}
    assert run("forget", DANA, folder, **given).exit_code == 1
    assert not log.exists() or log.stat().st_size == 0
    assert len([one for one in lines(folder) if "subject_forg" in one["action"]]) == 2


def look_up(folder, fake, given):
    with Auditor(journal=folder, **given) as auditor:
        auditor.audit(fake.client()).Profiles.get_profiles(filter=f'equals(email,"{DANA}")')


def test_the_certificate_tells_what_the_shared_key_still_links(tmp_path, fake):
    """Entries from before ``subject_keys`` was on name the person by a key that stays."""
    folder = tmp_path / "trail"
    with Auditor(journal=folder, pseudonym_key=KEY) as auditor:
        work(auditor, fake)
    given = {"pseudonym_key": KEY, "subject_keys": "on", "subject_master_key": MASTER}
    before = len(run("query", folder, "--subject", DANA, "--json", **given).output.splitlines())
    assert before
    look_up(folder, fake, given)
    done = run("forget", DANA, folder, "--json", **given)
    assert json.loads(done.stdout)["still_linked"] == before
    left = run("query", folder, "--subject", DANA, "--json", **given).output.splitlines()
    assert len(left) == before
    look_up(folder, fake, given)
    told = run("forget", DANA, folder, **given).output
    assert f"NOT ERASED: {before} entries from before subject_keys was on" in told


def test_a_reader_that_has_seen_enough_is_no_error(own_keys, tmp_path):
    folder, given = own_keys
    environ = {f"KLAVIYO_AUDIT_{name.upper()}": value for name, value in given.items()}
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write, "wb") as gone:
        done = subprocess.run(
            [sys.executable, "-m", "klaviyo_audit", "query", folder, "--subject", DANA],
            stdout=gone, stderr=subprocess.PIPE, env={**os.environ, **environ}, check=False,
        )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, b"")


def test_a_running_program_notices_at_once(own_keys, fake):
    folder, given = own_keys
    with Auditor(journal=folder, service="shop", **given) as auditor:
        client = auditor.audit(fake.client())
        fake.forget()
        client.Profiles.create_profile(profile(email=DANA))
        known = outcomes(folder)[-1]["subjects"]
        assert known == outcomes(folder)[0]["subjects"][:1]
        assert run("forget", DANA, folder, **given).exit_code == 0
        fake.forget()
        client.Profiles.create_profile(profile(email=DANA))
        assert outcomes(folder)[-1]["subjects"] != known


def deletion(**attributes):
    person = {"data": {"type": "profile", "attributes": attributes}}
    return {"data": {"type": "data-privacy-deletion-job", "attributes": {"profile": person}}}


@pytest.mark.parametrize(("status", "gone"), [(None, True), (400, False)])
def test_a_successful_deletion_request_forgets(own_keys, fake, status, gone):
    folder, given = own_keys
    with Auditor(journal=folder, forget_on_deletion=True, **given) as auditor:
        if status:
            fake.fail(status)
        try:
            auditor.audit(fake.client()).Data_Privacy.request_profile_deletion(deletion(email=DANA))
        except Exception as error:
            assert status == error.status
    told = [one for one in lines(folder) if one["action"] == "klaviyo_audit.subject_forgotten"]
    assert len(told) == (1 if gone else 0)
    assert "subjects" not in outcomes(folder)[-1], "its time alone would name the pseudonym"
    assert run("query", folder, "--subject", DANA, **given).exit_code == (1 if gone else 0)


def test_no_free_text_names_who_was_forgotten(own_keys, fake):
    folder, given = own_keys
    with Auditor(journal=folder, forget_on_deletion=True, **given) as auditor:
        klaviyo = auditor.audit(fake.client())

        @auditor.audited(
            action="shop.erase", capture=("whom",), metadata=lambda whom: {"for": whom}
        )
        def erase(whom):
            klaviyo.Data_Privacy.request_profile_deletion(deletion(email=whom))

        with acting_as("lea", reason=f"{DANA} asked", note=[DANA]):
            erase(DANA)
    written = [one for one in lines(folder) if "[personal] asked" in json.dumps(one)]
    assert [one["action"].rpartition(".")[2] for one in written] == [
        "request_profile_deletion", "request_profile_deletion", "subject_forgotten", "erase",
    ]  # fmt: skip
    for one in written:
        assert "email:" not in json.dumps(one)
        assert one["metadata"]["note"] == ["[personal]"]


def test_the_reason_to_forget_makes_nobody_a_new_key(own_keys):
    folder, given = own_keys
    assert run("forget", DANA, folder, "--reason", f"{DANA} asked", **given).exit_code == 0
    assert lines(folder)[-2]["actor"]["reason"] == "[email] asked"
    assert run("forget", DANA, folder, **given).exit_code == 1
    assert run("query", folder, "--subject", DANA, **given).exit_code == 1


def test_without_keys_of_their_own_nobody_can_be_forgotten_alone(day):
    done = run("forget", DANA, day, pseudonym_key=KEY)
    assert done.exit_code == 2
    assert "subject_keys is off" in done.output


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"subject_keys": "on"}, "subject_master_key is not set"),
        ({"forget_on_deletion": True}, "set subject_keys to 'on'"),
        ({"actor_ids": "pseudonym"}, "there is no key"),
        ({"pseudonym_key": KEY, "pseudonym_key_command": "x"}, "exclude each other"),
        ({"policy": "none.toml"}, "cannot be read"),
        ({"pseudonym_key": "k1:short,k2:too short"}, "shorter than 16"),
    ],
)
def test_settings_that_cannot_work_are_refused_at_start(tmp_path, given, told):
    with pytest.raises(ConfigurationError, match=told):
        Auditor(journal=tmp_path / "trail", **given)


def test_another_master_key_is_refused_at_start(own_keys):
    folder, given = own_keys
    with pytest.raises(ConfigurationError, match="subject_master_key"):
        Auditor(journal=folder, **(given | {"subject_master_key": MASTER[::-1]}))
    # And the store holds nobody's address.
    with sqlite3.connect(folder / "subjects.sqlite") as connection:
        rows = connection.execute("select * from subject").fetchall()
    assert rows
    assert b"dana" not in b"".join(one for row in rows for one in row if isinstance(one, bytes))


def test_the_first_line_says_how_persons_are_treated(tmp_path):
    Auditor(journal=tmp_path / "a").close()
    Auditor(journal=tmp_path / "b", pseudonym_key=f"k2:{KEY[::-1]},k1:{KEY}").close()
    assert (
        lines(tmp_path / "a")[0]["metadata"]["privacy"]["pseudonyms"] == "none: persons are masked"
    )
    assert lines(tmp_path / "b")[0]["metadata"]["privacy"]["pseudonyms"] == "k2,k1"


# Levels


def test_levels_decide_what_an_entry_holds(tmp_path, fake):
    policy = tmp_path / "policy.toml"
    policy.write_text(
        '[privacy]\nlevel = "request_response"\n[[privacy.rules]]\nusers = "quiet"\nlevel = "none"\n'
        '[[privacy.rules]]\noperations = "profiles.create_profile"\nlevel = "request"\n'
    )
    folder = tmp_path / "trail"
    with Auditor(journal=folder, policy=policy, pseudonym_key=KEY) as auditor:
        client = auditor.audit(fake.client())
        with acting_as("quiet", reason="a reason", on_behalf_of="x", note="a note"):
            client.Profiles.create_profile(profile(email=DANA))
        fake.forget()
        with acting_as("sam", reason="a reason", note="a note"):
            client.Profiles.create_profile(
                profile(email=DANA, first_name="Dana", title="Dr", properties={"secret": 1})
            )
            client.Profiles.get_profiles()
    bare, request, both = outcomes(folder)
    assert bare["actor"] == {"on_behalf_of": "x"}
    assert not {"metadata", "subjects", "consent", "request", "response"} & set(bare)
    attributes = request["request"]["body"]["data"]["attributes"]
    assert attributes["email"] == request["subjects"][0]
    assert attributes["first_name"].startswith("name:k1:")
    assert attributes["title"] == "str(2)"
    assert attributes["properties"] == {"[members]": 1}
    assert request["request"]["body"]["data"]["type"] == "profile"
    assert "response" not in request
    assert request["metadata"] == {"note": "a note"}
    assert both["response"]["data"]["count"] >= 1


def test_config_explains_and_shows(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "policy.toml").write_text(
        '[[privacy.rules]]\nname = "deletes"\noperations = "DELETE *"\nenvironments = "production"\n'
        'level = "request"\n'
    )
    (tmp_path / "klaviyo-audit.toml").write_text('policy = "policy.toml"\n')
    done = run("config", "check", "delete_list", "--environment", "production")
    assert 'rule 1 "deletes" fits' in done.output
    assert "level request" in done.output
    done = run("config", "check", "delete_list")
    assert 'rule 1 "deletes" does not fit: environments' in done.output
    assert "level metadata" in done.output
    found = json.loads(run("config", "check", "DELETE /api/lists/{id}", "--json").output)
    assert (found["operation"], found["level"], found["rule"]) == (
        "lists.delete_list",
        "metadata",
        None,
    )
    own = run("config", "check", "loyalty.redeem").output
    assert "an action of the program's own\n" in own
    own = run("config", "check", "lists.delet_list").output
    assert "an action of the program's own; did you mean lists.delete_list" in own
    assert "did you mean delete_list" in run("config", "check", "delete_lst").output
    shown = run("config", "show", pseudonym_key=KEY).output
    assert KEY not in shown
    assert re.search(
        r"pseudonym_key +\*+ +\(environment variable KLAVIYO_AUDIT_PSEUDONYM_KEY\)", shown
    )
    assert re.search(r"policy .*policy.toml +\(.*klaviyo-audit.toml, key policy\)", shown)
    assert json.loads(run("config", "show", "--json").output)["seal"]["source"] == "default"
