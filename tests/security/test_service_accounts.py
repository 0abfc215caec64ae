"""Named clients, each held to the scopes that its key is for."""

import pytest

from klaviyo_audit import (
    AccessDenied,
    Auditor,
    ConfigurationError,
    Guard,
    acting_as,
    service_accounts,
)
from klaviyo_audit.testing import FakeKlaviyo
from tests import planted

READ, WRITE, NEXT = ("pk_" + pair * 17 for pair in ("a5", "b5", "c5"))
PROFILE = {"data": {"type": "profile", "attributes": {"first_name": "X"}}}


@pytest.fixture(autouse=True)
def _keys(monkeypatch):
    monkeypatch.setenv("KLAVIYO_READ_KEY", READ)
    monkeypatch.setenv("KLAVIYO_WRITE_KEY", WRITE)


@pytest.fixture
def accounts(auditor, fake):
    return service_accounts(
        auditor=auditor,
        client_options={"test_host": fake.url},
        reader="KLAVIYO_READ_KEY",
        writer="KLAVIYO_WRITE_KEY",
    )


def test_each_is_held_to_its_scopes_and_named_in_the_entry(accounts, fake, trail):
    accounts.reader.Lists.get_list("L1")
    accounts["writer"].Profiles.create_profile(PROFILE)
    assert [r.headers["authorization"].split()[-1] for r in fake.requests] == [READ, WRITE]
    with pytest.raises(AccessDenied) as caught:
        accounts.reader.Profiles.create_profile(PROFILE)
    assert "service account reader, scopes *:read" in str(caught.value)
    assert "needs profiles:write" in str(caught.value)
    assert "an account that has what it needs, or give reader more" in str(caught.value)
    assert "allow =" not in str(caught.value), "there is no such list"
    assert fake.count == 2
    read, written, denied = trail.outcomes()
    assert read["key"]["label"] == denied["key"]["label"] == "reader"
    assert written["key"]["label"] == "writer"
    assert denied["result"] == "denied"


def test_wrong_use_is_caught_before_klaviyo_says_403(auditor, trail, monkeypatch):
    monkeypatch.setenv("KLAVIYO_TRACK_KEY", NEXT)
    with FakeKlaviyo(keys={NEXT: {"events:write"}}) as fake:
        tracker = service_accounts(
            auditor=auditor,
            client_options={"test_host": fake.url},
            tracker=("KLAVIYO_TRACK_KEY", ["events:write"]),
        ).tracker
        with pytest.raises(AccessDenied):
            tracker.Profiles.get_profile("P1")
        assert fake.count == 0
        from openapi_client.exceptions import ForbiddenException

        with pytest.raises(ForbiddenException):
            tracker.__wrapped__.Profiles.get_profile("P1")


def test_missing_variables_are_one_error(auditor, monkeypatch):
    monkeypatch.delenv("KLAVIYO_READ_KEY")
    with pytest.raises(ConfigurationError) as caught:
        service_accounts(
            auditor=auditor,
            reader="KLAVIYO_READ_KEY",
            writer="KLAVIYO_WRITE_KEY",
            tracker=("KLAVIYO_TRACK_KEY", ["events:write"]),
        )
    assert "KLAVIYO_READ_KEY (for reader), KLAVIYO_TRACK_KEY (for tracker)" in str(caught.value)
    assert "WRITE" not in str(caught.value)


def test_the_same_key_under_two_names_is_refused(auditor, monkeypatch):
    monkeypatch.setenv("KLAVIYO_WRITE_KEY", READ)
    with pytest.raises(ConfigurationError, match="the same key") as caught:
        service_accounts(auditor=auditor, reader="KLAVIYO_READ_KEY", writer="KLAVIYO_WRITE_KEY")
    assert READ not in str(caught.value)


@pytest.mark.parametrize(
    ("accounts", "words"),
    [
        ({}, "no account"),
        ({"tracker": "KLAVIYO_READ_KEY"}, "'tracker' is no preset"),
        ({"tracker": ("KLAVIYO_READ_KEY", "events")}, "'events' is no preset"),
        ({"tracker": ("KLAVIYO_READ_KEY", [])}, "scopes of the service account tracker"),
        ({"tracker": ("KLAVIYO_READ_KEY", ["events"])}, "scopes of the service account tracker"),
        ({"reader": 7}, "reader is a int"),
        ({"reader": "ODD"}, "holds characters"),
    ],
)
def test_what_makes_no_sense_is_refused(accounts, words, auditor, monkeypatch):
    monkeypatch.setenv("ODD", "pk two words")
    with pytest.raises(ConfigurationError, match=words):
        service_accounts(auditor=auditor, **accounts)


def test_no_key_is_shown(accounts):
    for text in (
        repr(accounts), str(accounts),
        repr(accounts.reader), str(accounts.reader), f"{accounts.reader}",
        repr(accounts.reader.__wrapped__), str(vars(type(accounts))),
    ):  # fmt: skip
        assert READ not in text
    assert "reader=*:read" in repr(accounts)
    assert list(accounts) == ["reader", "writer"]
    assert "reader" in dir(accounts)
    assert accounts.scopes("reader") == ("*:read",)
    with pytest.raises(AttributeError, match="there are reader, writer"):
        accounts.admin  # noqa: B018


def test_the_auditors_own_guard_counts_too(trail, fake):
    guard = Guard(rules=[{"decision": "deny", "keys": ["writer"], "methods": ["DELETE"]}],
                  default="allow")  # fmt: skip
    with Auditor(journal=trail.folder, guard=guard) as auditor:
        accounts = service_accounts(
            auditor=auditor,
            client_options={"test_host": fake.url},
            writer="KLAVIYO_WRITE_KEY",
        )
        accounts.writer.Lists.get_list("L1")
        with pytest.raises(AccessDenied, match="guard from code"):
            accounts.writer.Lists.delete_list("L1")
        with acting_as("dana", break_glass="now"):
            accounts.writer.Lists.delete_list("L1")
    assert [r.method for r in fake.requests] == ["GET", "DELETE"]


def test_an_exchanged_key_is_taken_up_with_its_name(auditor, trail, monkeypatch):
    with FakeKlaviyo(keys={READ: None, NEXT: None}) as fake:
        reader = service_accounts(
            auditor=auditor, client_options={"test_host": fake.url}, reader="KLAVIYO_READ_KEY"
        ).reader
        reader.Lists.get_list("L1")
        fake.disable_key(READ)
        monkeypatch.setenv("KLAVIYO_READ_KEY", NEXT)
        reader.Lists.get_list("L1")
        before, after = trail.outcomes()
        assert before["key"]["label"] == after["key"]["label"] == "reader"
        assert before["key"]["fingerprint"] != after["key"]["fingerprint"]
        assert after["result"] == "success"


def test_a_key_in_place_of_its_variable_is_not_repeated(auditor):
    for words in ({"reader": planted.API_KEY}, {"tracker": (planted.API_KEY, ["events:write"])}):
        with pytest.raises(ConfigurationError, match=r"\[secret\] \(for") as refused:
            service_accounts(auditor=auditor, **words)
        assert planted.API_KEY not in str(refused.value)


@pytest.mark.parametrize("words", [{"preset": planted.API_KEY}, {"mode": planted.API_KEY},
                                   {"limit": planted.API_KEY}])  # fmt: skip
def test_a_key_in_a_guards_arguments_is_not_repeated(words):
    with pytest.raises(ConfigurationError, match="secret") as refused:
        Guard(**words)
    assert planted.API_KEY not in str(refused.value)


def test_a_key_in_a_rules_name_is_not_in_the_log_of_a_broken_glass(trail, fake, caplog):
    rule = {
        "decision": "deny",
        "name": f"{planted.API_KEY} {planted.EMAIL}",
        "operations": ["lists.*"],
    }
    with (
        Auditor(journal=trail.folder, guard=Guard(rules=[rule]), seal="off") as auditor,
        acting_as("dana", break_glass="why"),
    ):
        auditor.audit(fake.client()).Lists.get_lists()
    assert "goes out although the guard denies it (rule 1 '[secret] [email]')" in caplog.text


def test_a_key_in_a_rules_name_is_not_in_what_is_denied(trail, fake):
    rule = {"decision": "deny", "name": planted.API_KEY, "operations": ["lists.*"]}
    with (
        Auditor(journal=trail.folder, guard=Guard(rules=[rule]), seal="off") as auditor,
        pytest.raises(AccessDenied, match=r"rule 1 '\[secret\]'") as denied,
    ):
        auditor.audit(fake.client()).Lists.get_lists()
    assert planted.API_KEY not in f"{denied.value} {denied.value.rule}"


def test_a_key_in_place_of_a_name_is_not_repeated(tmp_path):
    for settings in ({planted.API_KEY: "1"}, {"policy": tmp_path / f"{planted.API_KEY}.toml"}):
        with pytest.raises(
            ConfigurationError, match=r"\[secret\]|not shown: it has a credential in it"
        ) as refused:
            Auditor(journal=tmp_path / "trail", **settings)
        assert planted.API_KEY not in str(refused.value)
