"""What rules fit, against a matcher written for the test."""

import fnmatch

import pytest
from hypothesis import given
from hypothesis import strategies as st

from klaviyo_audit import Guard
from klaviyo_audit.errors import ConfigurationError
from klaviyo_audit.guard.policy import Ruling
from klaviyo_audit.guard.rules import Decision, Facts, Rule, rule_of

SCOPES = ("lists:read", "lists:write", "profiles:read", "profiles:write", "events:write")
RISKS = ("low", "medium", "high", "critical")
METHODS = ("GET", "POST", "PATCH", "DELETE")
NAMES = ("lists.get_list", "lists.delete_list", "profiles.get_profile", "GET /api/lists/{id}")
EFFECTS = ("mass-data", "consent", "message-send")


def some(values, least=0):
    return st.lists(st.sampled_from(values), min_size=least, max_size=3, unique=True).map(tuple)


FACTS = st.builds(
    Facts,
    names=some(NAMES, 1),
    method=st.sampled_from(METHODS),
    scopes=some(SCOPES).map(frozenset),
    risk=st.sampled_from(RISKS),
    personal_data=st.booleans(),
    effects=some(EFFECTS).map(frozenset),
    known=st.booleans(),
)
RULES = st.builds(
    lambda **members: {
        name: value
        for name, value in members.items()
        if value not in ((), None) and (name != "unknown" or members["decision"] == "allow")
    },
    decision=st.sampled_from(("allow", "deny")),
    operations=some(("lists.*", "*.get_*", "LISTS.GET_LIST", "GET *", "profiles.get_profile")),
    scopes=some(("*:read", "lists:*", "*", "profiles:write")),
    risk=some(RISKS),
    methods=some(("get", "POST", "DELETE")),
    effects=some(("mass-*", "consent")),
    personal_data=st.none() | st.booleans(),
    environments=some(("prod*", "dev", "*")),
    users=some(("dana", "d*", "eve")),
    keys=some(("KLAVIYO_*", "abc*")),
    unknown=st.booleans(),
)


def fits(rule, facts, environment, user, keys):
    """A second opinion: a rule by the words of the documentation, slowly."""

    def glob(patterns, values):
        return any(
            fnmatch.fnmatchcase(value.lower(), pattern.lower())
            for pattern in patterns
            for value in values
        )

    if rule["decision"] == "allow" and not facts.known and not rule.get("unknown"):
        return False
    if "scopes" in rule:
        covered = [glob(rule["scopes"], [scope]) for scope in facts.scopes]
        if not covered or not (all if rule["decision"] == "allow" else any)(covered):
            return False
    return (
        ("operations" not in rule or glob(rule["operations"], facts.names))
        and ("risk" not in rule or facts.risk in rule["risk"])
        and ("methods" not in rule or facts.method in [m.upper() for m in rule["methods"]])
        and ("effects" not in rule or glob(rule["effects"], facts.effects))
        and ("personal_data" not in rule or facts.personal_data == rule["personal_data"])
        and ("environments" not in rule or glob(rule["environments"], [environment or ""]))
        and ("users" not in rule or glob(rule["users"], [user]))
        and ("keys" not in rule or glob(rule["keys"], keys))
    )


@given(
    rules=st.lists(RULES, max_size=6),
    facts=FACTS,
    default=st.sampled_from(("allow", "deny")),
    unknown=st.sampled_from(("allow", "deny")),
    environment=st.sampled_from((None, "production", "dev")),
    calls=st.lists(
        st.tuples(
            st.sampled_from(("dana", "eve", "job")),
            st.sampled_from((("",), ("KLAVIYO_READ_KEY", "abc123"), ("fff000",))),
        ),
        min_size=1,
        max_size=4,
    ),
)
def test_the_first_rule_that_fits_decides(rules, facts, default, unknown, environment, calls):
    guard = Guard(rules=rules, default=default, unknown=unknown)
    ruling = Ruling(guard, facts, environment)
    for user, keys in calls:
        expected = next(
            (rule["decision"] for rule in rules if fits(rule, facts, environment, user, keys)),
            default if facts.known else unknown,
        )
        verdict = ruling.verdict(user, keys)
        assert verdict.allows is (expected == "allow")
        assert ruling.fixed is None or ruling.fixed is verdict


@given(facts=FACTS, extra=RULES)
def test_a_rule_behind_one_that_fits_changes_nothing(facts, extra):
    first = {"decision": "deny"}
    assert not Ruling(Guard(rules=[first, extra]), facts, None).verdict("dana", ("",)).allows


@given(facts=FACTS)
def test_what_needs_two_scopes_needs_both(facts):
    guard = Guard(allow=["lists:write"])
    allowed = Ruling(guard, facts, None).verdict("", ("",)).allows
    assert allowed is (facts.known and facts.scopes == {"lists:write"})


def test_the_order_is_deny_rules_allow_preset():
    guard = Guard(
        "staging",
        allow=["profiles:write", "events.create_event"],
        deny=["lists.*"],
        rules=[Rule(decision=Decision.DENY, name="mine")],
    )
    names = [rule.name for rule in guard.rules_in(None)]
    assert names[:4] == ["deny operations", "mine", "allow operations", "allow scopes"]
    assert names[4] == "reading"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"preset": "prod"}, "'prod' is no preset; allowed: development, staging, production"),
        ({"default": "maybe"}, "default is 'maybe'; allowed: allow, deny"),
        ({"mode": "warn"}, "mode is 'warn'"),
        ({"require_reason": "severe"}, "require_reason is 'severe'"),
        ({"limit": -1}, "limit is -1"),
        ({"limit": True}, "limit is True"),
        ({"confirm": "yes"}, "confirm is 'yes'; give a function"),
        ({"estimate": 1}, "estimate is 1"),
        ({"estimate_timeout": 0}, "estimate_timeout is 0"),
        ({"estimate_timeout": float("nan")}, "estimate_timeout"),
        ({"alow": ["x"]}, "did you mean allow?"),
        ({"allow": [3]}, "allow is not a text"),
        ({"rules": {"decision": "deny"}}, "rules are a list"),
        ({"rules": ["deny"]}, "a rule is 'deny'; give a table"),
        ({"rules": [{}]}, "rule 1: decision is NoneType; allowed: allow, deny"),
        ({"rules": [{"decision": "deny", "scope": ["x"]}]}, "did you mean scopes?"),
        ({"rules": [{"decision": "deny", "scopes": []}]}, "scopes is not a text"),
        ({"rules": [{"decision": "deny", "risk": ["huge"]}]}, "'huge' is no risk"),
        ({"rules": [{"decision": "deny", "unknown": True}]}, "unknown is for rules that allow"),
        ({"rules": [{"decision": "deny", "personal_data": "yes"}]}, "personal_data is 'yes'"),
        ({"rules": [{"decision": "allow", "limit": 1.5}]}, "limit is 1.5"),
    ],
)
def test_what_is_not_understood_is_refused(arguments, words):
    with pytest.raises(ConfigurationError) as caught:
        Guard.from_mapping(arguments, "policy 'x.toml'")
    assert words in str(caught.value)
    assert "policy 'x.toml'" in str(caught.value)


def test_methods_are_in_any_case():
    assert rule_of({"decision": "deny", "methods": "get"}, "here").methods == ("GET",)
