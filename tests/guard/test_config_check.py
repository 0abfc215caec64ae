"""`klaviyo-audit config check` tells what the guard decides."""

import json

from click.testing import CliRunner

from klaviyo_audit.cli import main


def check(*arguments):
    outcome = CliRunner().invoke(main, ["config", "check", *arguments])
    assert outcome.exit_code == 0, outcome.output
    return outcome.output


def test_the_rule_that_decides_is_named(tmp_path, monkeypatch):
    policy = tmp_path / "policy.toml"
    policy.write_text('[guard]\npreset = "environment"\nlimit = 7\ndeny = ["lists.get_list"]\n')
    monkeypatch.setenv("KLAVIYO_AUDIT_POLICY", str(policy))
    monkeypatch.setenv("KLAVIYO_AUDIT_ENVIRONMENT", "production")
    assert "guard: deny, rule 1 'deny operations'" in check("lists.get_list")
    assert "guard: deny, default of the guard (deny)" in check("get_lists")
    told = json.loads(check("get_lists", "--environment", "development", "--json"))["guard"]
    assert told == {
        "decision": "allow",
        "rule": "rule 2 'reading'",
        "mode": "enforce",
        "limit": 7,
        "source": f"policy {str(policy)!r}",
    }


def test_without_a_guard_nothing_is_said_of_one(monkeypatch):
    assert "guard" not in check("get_lists")
    assert json.loads(check("get_lists", "--json"))["guard"] is None
