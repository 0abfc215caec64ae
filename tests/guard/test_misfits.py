"""What is misspelt in rules is told, with what was meant, at start and by `config check`."""

import json
import logging

import pytest
from click.testing import CliRunner

from klaviyo_audit import Auditor, ConfigurationError, Guard, service_accounts
from klaviyo_audit.cli import main
from klaviyo_audit.guard.presets import PRESETS
from klaviyo_audit.klaviyo.misfits import misfits
from klaviyo_audit.klaviyo.names import names_of
from klaviyo_audit.klaviyo.risks import table
from klaviyo_audit.privacy.policy import Level, Policy, Rule

POLICY = """
version = 1
[guard]
allow = ["profiles:reed", "events.create_evnt"]
[[guard.rules]]
decision = "deny"
name = "no deleting"
operations = ["lists.delet_list"]
environments = ["prodution"]
[[privacy.rules]]
level = "none"
name = "keep less"
operations = ["profiles.get_profle"]
"""


@pytest.fixture
def policy(tmp_path, monkeypatch):
    path = tmp_path / "policy.toml"
    path.write_text(POLICY)
    monkeypatch.setenv("KLAVIYO_AUDIT_POLICY", str(path))
    return path


def told(**rule):
    return misfits(Guard(rules=[{"decision": "deny", **rule}]), None)


@pytest.mark.parametrize(
    ("condition", "item", "meant"),
    [
        ("operations", "lists.delet_list", "lists.delete_list"),
        ("operations", "Lists.Delet_List", "lists.delete_list"),
        ("operations", "klaviyo.lists.delet_list", "klaviyo.lists.delete_list"),
        ("operations", "list.*", None),
        ("operations", "DELETE /api/list/{id}", "DELETE /api/lists/{id}"),
        ("operations", "get_list", None),  # without its group it fits nothing
        ("scopes", "profile:read", "profiles:read"),
        ("scopes", "profiles:reed", "profiles:read"),
        ("scopes", "profiles", None),
        ("effects", "mesage-send", "message-send"),
        ("environments", "prodution", "production"),
    ],
)
def test_what_is_misspelt(condition, item, meant):
    (sentence,) = told(**{condition: [item]}, name="mine")
    assert f"rule 1 'mine': {condition} has {item!r}" in sentence
    assert sentence.endswith(f"did you mean {meant}?") is (meant is not None)


@pytest.mark.parametrize(
    "rule",
    [
        {"operations": ["*"]},
        {"operations": ["lists.*", "*.delete_*", "DELETE /api/*", "GET /api/profiles/{id}"]},
        {"operations": ["profiles.subscribe_profiles"]},  # an alias
        {"scopes": ["*:read", "profiles:*", "lists:write"]},
        {"effects": ["message-*", "irreversible"]},
        {"environments": ["qa", "eu-*", "prod*", "staging"]},
        {"users": ["dana"], "keys": ["*"]},
    ],
)
def test_what_is_not(rule):
    assert told(**rule) == []


def test_every_name_of_the_sdk_is_known():
    for operation in table().values():
        names = names_of(operation.group, operation.method, operation.path)
        assert told(operations=list(names)) == []
        assert not operation.scopes or told(scopes=list(operation.scopes)) == []
    for name, rules in PRESETS.items():
        assert misfits(Guard(rules=rules), None, name) == []


def test_what_is_newer_than_this_version_can_be_named():
    rule = {"decision": "allow", "unknown": True, "operations": ["robots.get_robots"]}
    assert misfits(Guard(rules=[rule]), None) == []


def test_privacy_rules_may_name_the_programs_own_actions():
    def of(*operations):
        rule = Rule(level=Level.NONE, operations=operations)
        return misfits(None, Policy(rules=(rule,), source="p.toml"))

    assert of("loyalty.award_points", "shop.*") == []
    (sentence,) = of("lists.delet_list")
    assert sentence.endswith("did you mean lists.delete_list?")
    assert "policy 'p.toml', [[privacy.rules]] number 1: operations" in sentence
    assert len(of("klaviyo.nosuch.*", "GET /api/nosuch")) == 2


def test_the_setting_environment_itself():
    rules = [{"decision": "deny", "environments": ["live"]}]
    (sentence,) = misfits(Guard(rules=rules), None, "prodution")
    assert sentence == "the setting environment is 'prodution'; did you mean production?"
    assert misfits(Guard(rules=rules), None, "live") == []
    assert misfits(Guard(rules=rules), None, "qa") == []


def test_at_start(policy, trail, caplog):
    with caplog.at_level(logging.WARNING, "klaviyo_audit"), Auditor(journal=trail.folder):
        pass
    warned = [r.getMessage() for r in caplog.records if "did you mean" in r.getMessage()]
    assert len(warned) == 5
    assert all(str(policy) in sentence for sentence in warned)
    for meant in ("profiles:read", "events.create_event", "lists.delete_list", "production",
                  "profiles.get_profile"):  # fmt: skip
        assert sum(sentence.endswith(f"did you mean {meant}?") for sentence in warned) == 1
    assert sum("'no deleting'" in sentence for sentence in warned) == 2
    assert sum("'keep less'" in sentence for sentence in warned) == 1


def test_service_accounts(trail, monkeypatch, caplog):
    monkeypatch.setenv("TRACK_KEY", "pk_" + "7a" * 17)
    with Auditor(journal=trail.folder) as auditor:
        service_accounts(auditor=auditor, tracker=("TRACK_KEY", ["events:wright"]))
    assert "did you mean events:write?" in caplog.text
    assert "service account tracker" in caplog.text


def test_config_check(policy, monkeypatch):
    def check(*arguments):
        return CliRunner().invoke(main, ["config", "check", *arguments])

    done = check()
    assert done.exit_code == 1
    assert done.output.count("did you mean") == 5
    assert f"guard (from policy {str(policy)!r}), rule 1 'no deleting'" in done.output
    assert len(json.loads(check("--json").output)["misspelt"]) == 5
    one = check("lists.delete_list")
    assert one.exit_code == 0
    assert one.stderr.count("warning: ") == 5
    assert "warning" not in one.stdout
    policy.write_text('[guard]\npreset = "development"\nallow = ["lists:write"]\n')
    done = check()
    assert (done.exit_code, "nothing is misspelt" in done.output) == (0, True)
    policy.write_text('[guard]\npreset = "develpment"\n')
    assert check().exit_code == 2


def test_words_of_a_fixed_list_are_refused_with_the_rules_name(trail):
    for wrong in ({"methods": ["DELTE"]}, {"risk": ["hihg"]}, {"operation": ["x"]}):
        rule = {"decision": "deny", "name": "mine", **wrong}
        with pytest.raises(ConfigurationError, match=r"guard \(from code\), rule 1 'mine'"):
            Auditor(journal=trail.folder, guard={"rules": [rule]})
