"""The first rule that fits decides, and a policy that is not understood is refused."""

import os

import pytest

from klaviyo_audit.errors import ConfigurationError
from klaviyo_audit.privacy.gate import Gate
from klaviyo_audit.privacy.policy import Level, Policy, Subject

TEXT = """
version = 1

[privacy]
level = "metadata"

[[privacy.rules]]
name = "the importer says nothing"
users = ["import-*"]
level = "none"

[[privacy.rules]]
operations = ["profiles.*", "DELETE /api/*"]
environments = "production"
level = "request"

[[privacy.rules]]
scopes = ["campaigns:*"]
risk = ["high", "critical"]
level = "request_response"

[guard]
anything = "is the guard's"
"""
GET = Subject(
    ("profiles.get_profile", "GET /api/profiles/{id}"), frozenset({"profiles:read"}), "low"
)
DELETE = Subject(
    ("lists.delete_list", "DELETE /api/lists/{id}"), frozenset({"lists:write"}), "high"
)
SEND = Subject(("campaigns.send_campaign",), frozenset({"campaigns:write"}), "critical")


@pytest.fixture
def policy(tmp_path):
    path = tmp_path / "policy.toml"
    path.write_text(TEXT)
    return Policy.load(path, Level.NONE)


@pytest.mark.parametrize(
    ("call", "user", "environment", "level"),
    [
        (GET, "dana", "production", "request"),
        (GET, "dana", "staging", "metadata"),
        (GET, "dana", None, "metadata"),
        (GET, "import-7", "production", "none"),
        (DELETE, "dana", "production", "request"),
        (SEND, "dana", "production", "request_response"),
        (SEND, "IMPORT-7", "production", "none"),
        (Subject(("loyalty.redeem",)), "dana", "production", "metadata"),
    ],
)
def test_the_first_rule_that_fits_decides(policy, call, user, environment, level):
    gate = Gate(policy=policy, environment=environment)
    target = object()
    for _ in range(2):  # learnt, and remembered
        assert gate.level(target, call, user) == level
    assert policy.explain(gate.located(call), user).level == level


def test_a_verdict_says_why(policy):
    verdict = policy.explain(Gate(environment="staging").located(SEND), "dana")
    assert (verdict.number, verdict.level) == (3, "request_response")
    assert verdict.passed_over == ((1, "users"), (2, "operations"))
    verdict = policy.explain(Gate(environment="staging").located(GET), "dana")
    assert (verdict.number, verdict.rule) == (None, None)
    assert verdict.passed_over == ((1, "users"), (2, "environments"), (3, "scopes"))


def test_without_a_level_in_the_file_the_setting_counts(tmp_path):
    path = tmp_path / "policy.toml"
    path.write_text("[privacy]\n")
    assert Policy.load(path, Level.REQUEST).default == "request"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("nonsense", "no TOML"),
        ("version = 2", "reads version 1"),
        ("version = true", "reads version 1"),
        ("[privcy]", "did you mean privacy"),
        ("privacy = 1", "not a table"),
        ('[privacy]\nlevel = "all"', "no level; allowed: none, metadata"),
        ("[privacy]\nrules = 1", r"\[\[privacy.rules\]\]"),
        ("[[privacy.rules]]", "number 1 has no level"),
        ('[[privacy.rules]]\nlevel = "none"\noperation = ["x"]', "did you mean operations"),
        ('[[privacy.rules]]\nlevel = "none"\noperations = []', "not empty"),
        ('[[privacy.rules]]\nlevel = "none"\nusers = [1]', "list of texts"),
        ('[[privacy.rules]]\nlevel = "none"\nrisk = "huge"', "no risk; allowed: low"),
        ('[[privacy.rules]]\nlevel = "none"\nname = 1', "name is not a text"),
    ],
)
def test_what_is_not_understood_is_refused(tmp_path, text, told):
    path = tmp_path / "policy.toml"
    path.write_text(text)
    with pytest.raises(ConfigurationError, match=told) as caught:
        Policy.load(path)
    assert str(path) in str(caught.value)


def test_a_missing_file_is_an_error_and_not_no_policy(tmp_path):
    with pytest.raises(ConfigurationError, match="cannot be read"):
        Policy.load(tmp_path / "none.toml")


def test_a_fifo_is_not_waited_for_nor_a_device_read_to_its_end(tmp_path):
    os.mkfifo(tmp_path / "policy.toml")
    (tmp_path / "zero.toml").symlink_to("/dev/zero")
    for name in ("policy.toml", "zero.toml", "."):
        with pytest.raises(ConfigurationError, match="no regular file"):
            Policy.load(tmp_path / name)


def test_a_file_that_is_too_long_is_refused_and_not_cut(tmp_path):
    """Rules behind the cut would be missing, with no word about it."""
    path = tmp_path / "policy.toml"
    rule = '[[privacy.rules]]\noperations = ["lists.*"]\nlevel = "none"\n'
    path.write_text("#\n" * 499_000 + rule)
    assert len(Policy.load(path).rules) == 1
    path.write_text("#\n" * 500_000 + rule)
    with pytest.raises(ConfigurationError, match="longer than 1,000,000 bytes"):
        Policy.load(path)
