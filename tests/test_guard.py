"""The guard on real calls: what is denied is not sent, and is on record."""

import concurrent.futures
import contextlib
import logging

import pytest

from klaviyo_audit import AccessDenied, Auditor, Guard, acting_as, suppress_audit
from klaviyo_audit.errors import ConfigurationError
from klaviyo_audit.integrations.actors import ActorRules, Request, RequestActor, RequestScope
from tests import planted

PROFILE = {"data": {"type": "profile", "attributes": {"first_name": "X"}}}


@pytest.fixture
def guarded(trail, client):
    """Makes an audited client with a guard; closed at the end."""
    made = []

    def make(guard, **settings):
        auditor = Auditor(journal=trail.folder, service="shop", guard=guard, **settings)
        made.append(auditor)
        return auditor.audit(client)

    yield make
    for auditor in made:
        auditor.close()


def test_a_denied_call_sends_nothing_and_is_one_entry(guarded, fake, trail):
    klaviyo = guarded("development")
    with pytest.raises(AccessDenied) as caught:
        klaviyo.Lists.delete_list("L1")
    assert fake.count == 0
    outcome = trail.outcome()
    assert outcome["result"] == "denied"
    assert outcome["action"] == "klaviyo.lists.delete_list"
    assert outcome["resource"] == "/api/lists/L1"
    assert outcome["http"] == {"attempts": 0, "requests": 0}
    assert outcome["error"]["type"] == "AccessDenied"
    assert outcome["metadata"]["guard"] == {"decision": "deny", "rule": caught.value.rule}
    assert trail.of("intent") == []
    klaviyo.Lists.get_list("L1")
    assert [(r.method, r.path) for r in fake.requests] == [("GET", "/api/lists/L1")]
    assert "guard" not in trail.last().get("metadata", {})


def test_the_error_says_rule_scope_source_and_how_to_allow(guarded):
    klaviyo = guarded("production", environment="prod-eu")
    with pytest.raises(AccessDenied) as caught:
        klaviyo.Lists.add_profiles_to_list("L1", {"data": [{"type": "profile", "id": "P1"}]})
    error = caught.value
    assert error.action == "klaviyo.lists.add_profiles_to_list"
    assert error.scopes == ("lists:write", "profiles:write")
    for words in (
        "default of the guard (deny)",
        "guard from code",
        "prod-eu",
        "needs lists:write, profiles:write",
        'allow = ["lists.add_profiles_to_list"]',
        'allow = ["lists:write", "profiles:write"]',
        "break_glass",
    ):
        assert words in str(error)
    # What it tells to add is enough.
    guarded({"preset": "production", "allow": list(error.scopes)})
    allowed = guarded({"preset": "production", "allow": ["lists.add_profiles_to_list"]})
    allowed.Lists.add_profiles_to_list("L1", {"data": [{"type": "profile", "id": "P1"}]})


@pytest.mark.parametrize(
    "call",
    [
        lambda k: k.Profiles.create_profile(PROFILE),
        lambda k: k.Profiles.create_profile_with_http_info(PROFILE),
        lambda k: k.Profiles.create_profile_without_preload_content(PROFILE),
        lambda k: k.Profiles.api_client.call_api(
            "POST", k.api_client.configuration.host + "/api/profiles", {}, PROFILE, []
        ),
    ],
    ids=["plain", "with_http_info", "without_preload_content", "call_api"],
)
@pytest.mark.parametrize("way", ["audit", "group", "instrument", "openapi_client"])
def test_whichever_way_it_is_called(call, way, trail, client, fake):
    with Auditor(journal=trail.folder, guard="development") as auditor:
        from klaviyo_audit import instrument, uninstrument

        if way == "audit":
            run = auditor.audit(client)
        else:
            instrument(auditor)
            run = client
            if way == "openapi_client":
                import types

                from openapi_client.api.profiles_api import ProfilesApi

                run = types.SimpleNamespace(
                    Profiles=ProfilesApi(client.api_client), api_client=client.api_client
                )
        if way == "group":
            uninstrument()
            import types

            run = types.SimpleNamespace(
                Profiles=auditor.audit(client.Profiles), api_client=client.api_client
            )
        try:
            with pytest.raises(AccessDenied):
                call(run)
        finally:
            uninstrument()
    assert fake.count == 0
    assert trail.outcome()["result"] == "denied"


def test_aliases_are_the_operation(guarded, fake):
    body = {
        "data": {
            "type": "profile-subscription-bulk-create-job",
            "attributes": {
                "profiles": {
                    "data": [
                        {
                            "type": "profile",
                            "attributes": {
                                "email": "a@example.com",
                                "subscriptions": {"email": {"marketing": {"consent": "SUBSCRIBED"}}},
                            },
                        }
                    ]
                }
            },
        }
    }  # fmt: skip
    by_canonical = guarded({"allow": ["profiles.bulk_subscribe_profiles"]})
    by_canonical.Profiles.subscribe_profiles(body)
    by_alias = guarded({"allow": ["profiles.subscribe_profiles"]})
    by_alias.Profiles.bulk_subscribe_profiles(body)
    assert fake.count == 2
    denied = guarded({"default": "allow", "deny": ["profiles.subscribe_profiles"]})
    with pytest.raises(AccessDenied):
        denied.Profiles.bulk_subscribe_profiles(body)
    with pytest.raises(AccessDenied):
        # By its URL alone, with no operation of the SDK in sight.
        denied.api_client.call_api(
            "POST",
            denied.api_client.configuration.host + "/api/profile-subscription-bulk-create-jobs/",
            {},
            body,
            [],
        )
    assert fake.count == 2


@pytest.mark.parametrize(
    ("identifier", "asks_for"),
    [
        ("..", "klaviyo.lists.get_lists"),
        (".", None),
        ("X/../../profiles", "klaviyo.profiles.get_profiles"),
        ("X/profiles", "klaviyo.lists.get_profiles_for_list"),
        ("X%2Fprofiles", "klaviyo.lists.get_profiles_for_list"),
        ("X%252Fprofiles", "klaviyo.lists.get_profiles_for_list"),
        ("X\\profiles", "klaviyo.lists.get_profiles_for_list"),
        ("..%2fprofiles", "klaviyo.profiles.get_profiles"),
        # Decoded once it is known, decoded to the end it is not.
        ("a%252Fb/profiles", "klaviyo.lists.get_profiles_for_list"),
        ("a%5Cb/profiles", "klaviyo.lists.get_profiles_for_list"),
        ("a\\b%252Fprofiles", "klaviyo.lists.get_profiles_for_list"),
        ("..;/profiles", "klaviyo.lists.get_profiles_for_list"),
        ("X/profiles;a=b", "klaviyo.lists.get_profiles_for_list"),
    ],
)
def test_an_id_that_makes_another_call_of_it_is_judged_as_that(
    identifier, asks_for, guarded, fake, trail
):
    only = guarded({"allow": ["lists.get_list", "lists.get_tags_for_list"]})
    call = only.Lists.get_list if asks_for != "klaviyo.lists.get_lists" else None
    if call is None:
        call = only.Lists.get_tags_for_list  # /api/lists/../tags
        asks_for = "klaviyo.tags.get_tags"
    with pytest.raises(AccessDenied) as caught:
        call(identifier)
    assert fake.count == 0
    if asks_for is not None:
        assert asks_for in str(caught.value)
        assert trail.outcome()["metadata"]["guard"]["sent"] == asks_for


def _by_default_header(klaviyo, name, value):
    klaviyo.api_client.set_default_header(name, value)
    return klaviyo.Lists.get_list("L1")


OVERRIDING = {
    "_headers": lambda k, name, value: k.Lists.get_list("L1", _headers={name: value}),
    "default_headers": _by_default_header,
    "call_api": lambda k, name, value: k.api_client.call_api(
        "GET", f"{k.api_client.configuration.host}/api/lists/L1", {name: value}, None, []
    ),
}


@pytest.mark.parametrize("way", OVERRIDING)
@pytest.mark.parametrize(
    "name",
    ["X-HTTP-Method-Override", "x-http-method", "X-METHOD-OVERRIDE", "X_HTTP_Method_Override"],
)
def test_a_method_that_a_header_asks_for_is_judged_too(way, name, guarded, fake, trail, client):
    """The SDK sends such a header on; who reads it, nobody here knows."""
    call = OVERRIDING[way]
    klaviyo = guarded("development")
    with pytest.raises(AccessDenied, match="its URL asks for klaviyo.lists.delete_list"):
        call(klaviyo, name, " delete")
    assert fake.count == 0
    told = trail.outcome()["metadata"]
    assert told["guard"]["sent"] == "klaviyo.lists.delete_list"
    assert told["method_override"] == {"method": "DELETE", "asks_for": "klaviyo.lists.delete_list"}
    both = guarded({"allow": ["lists.get_list", "lists.delete_list"]})
    call(both, name, "DELETE")
    assert {one.lower() for one in fake.requests[-1].headers} >= {name.lower()}
    # It may change data, so it does not go out unrecorded.
    assert trail.of("intent")[-1]["metadata"]["method_override"]["method"] == "DELETE"


def test_a_method_that_a_parameter_asks_for_is_judged_too(guarded, fake):
    klaviyo = guarded("development")
    host = klaviyo.api_client.configuration.host
    for query in ("_method=DELETE", "a=1&_method=delete&b=2"):
        with pytest.raises(AccessDenied, match="delete_list"):
            klaviyo.api_client.call_api("GET", f"{host}/api/lists/L1?{query}", {}, None, [])
    assert fake.count == 0
    klaviyo.Lists.get_lists(filter='equals(name,"_method=DELETE")')
    assert fake.count == 1


def test_an_override_in_bytes(guarded, fake, trail):
    klaviyo = guarded("development")
    host = klaviyo.api_client.configuration.host
    headers = {b"X-HTTP-Method-Override": b"DELETE"}
    with pytest.raises(AccessDenied, match="delete_list"):
        klaviyo.api_client.call_api("GET", f"{host}/api/lists/L1", headers, None, [])
    assert fake.count == 0
    assert trail.outcome()["metadata"]["method_override"]["method"] == "DELETE"


@pytest.mark.parametrize("value", ["GET", "get", None])
def test_an_override_that_overrides_nothing_is_none(value, guarded, fake, trail):
    klaviyo = guarded("development")
    klaviyo.Lists.get_list("L1", _headers={"X-HTTP-Method-Override": value} if value else {})
    assert "method_override" not in trail.outcome().get("metadata", {})


def test_an_override_that_is_no_method_is_denied_and_not_repeated(guarded, fake, trail):
    klaviyo = guarded("development")
    for values in (
        {"X-HTTP-Method": planted.API_KEY},
        {"X-HTTP-Method": "PUT", "X-Method-Override": "PATCH"},
    ):
        with pytest.raises(AccessDenied):
            klaviyo.Lists.get_list("L1", _headers=values)
        assert trail.last()["metadata"]["method_override"]["method"] == "OTHER"
    assert fake.count == 0


def test_an_estimate_is_asked_without_the_override(guarded, fake):
    klaviyo = guarded({"default": "allow", "limit": 0, "estimate": True, "confirm": lambda r: True})
    with contextlib.suppress(Exception):
        klaviyo.Lists.get_list("L1", _headers={"X-HTTP-Method-Override": "DELETE"})
    asked = [one for one in fake.requests if "profile_count" in one.query]
    assert asked
    assert not any("x-http-method-override" in map(str.lower, one.headers) for one in asked)


def test_an_empty_id_is_judged_as_the_collection(guarded, fake):
    only = guarded({"allow": ["lists.get_list"]})
    with pytest.raises(AccessDenied, match="get_lists"):
        only.Lists.get_list("")
    assert fake.count == 0


@pytest.mark.parametrize("identifier", ["$custom:::$default:::SKU-1", "a b", "ä", "x?y=1", "x#y"])
def test_odd_ids_are_no_hindrance(identifier, guarded, fake):
    only = guarded({"allow": ["catalogs.get_catalog_item"]})
    only.Catalogs.get_catalog_item(identifier)
    assert fake.count == 1


def test_a_call_of_an_operation_nobody_knows(guarded, fake, trail):
    def ask(klaviyo, method, path):
        url = klaviyo.api_client.configuration.host + path
        klaviyo.api_client.call_api(method, url, {}, None, []).read()

    reader = guarded({"allow": ["*:read"], "default": "allow"})
    with pytest.raises(AccessDenied, match="does not know"):
        ask(reader, "GET", "/api/crystal-balls/7")
    with pytest.raises(AccessDenied, match="unknown = true"):
        ask(reader, "POST", "/api/crystal-balls")
    assert fake.count == 0
    rule = {"decision": "allow", "operations": ["GET /api/crystal-balls/*"], "unknown": True}
    some = guarded({"rules": [rule]})
    ask(some, "GET", "/api/crystal-balls/7")
    with pytest.raises(AccessDenied):
        ask(some, "DELETE", "/api/crystal-balls/7")
    assert fake.count == 1
    open_to_all = guarded({"default": "allow", "unknown": "allow", "rules": [
        {"decision": "deny", "methods": ["DELETE"]}]})  # fmt: skip
    ask(open_to_all, "GET", "/api/crystal-balls/7")
    with pytest.raises(AccessDenied):
        ask(open_to_all, "DELETE", "/api/crystal-balls/7")
    assert fake.count == 2


def test_observing_lets_calls_go_and_says_what_would_be(guarded, fake, trail):
    klaviyo = guarded({"preset": "development", "mode": "observe"})
    klaviyo.Lists.delete_list("L1")
    klaviyo.Lists.get_list("L1")
    assert fake.count == 2
    first, second = trail.outcomes()
    assert first["result"] == "success"
    assert first["metadata"]["guard"] == {"would": "deny", "rule": "default of the guard (deny)"}
    assert "guard" not in second.get("metadata", {})


def test_breaking_the_glass_is_loud(guarded, fake, trail, caplog):
    klaviyo = guarded("development")
    with acting_as("dana"), acting_as("dana", break_glass="list L1 leaks"), acting_as("eve"):
        klaviyo.Lists.delete_list("L1")
    assert fake.count == 1
    outcome = trail.outcome()
    assert outcome["result"] == "success"
    assert outcome["user_id"] == "eve"
    expected = {
        "why": "list L1 leaks",
        "rule": "default of the guard (deny)",
        "source": "code",
    }
    assert outcome["metadata"]["break_glass"] == expected
    (event,) = trail.of("event")
    assert event["action"] == "klaviyo_audit.break_glass"
    assert event["parent_id"] == outcome["id"]
    assert event["metadata"] == {"action": "klaviyo.lists.delete_list", **expected}
    assert event["n"] < outcome["n"]
    (warning,) = [r for r in caplog.records if "break-glass" in r.message]
    assert warning.levelno == logging.WARNING
    assert "klaviyo.lists.delete_list" in warning.message
    with acting_as("dana"), pytest.raises(AccessDenied):  # the scope has ended
        klaviyo.Lists.delete_list("L1")
    with acting_as("dana", break_glass="x"):
        klaviyo.Lists.get_list("L1")  # nothing to break
    assert len(trail.of("event")) == 1
    assert "break_glass" not in trail.last().get("metadata", {})


def test_glass_that_cannot_be_broken(guarded, fake):
    klaviyo = guarded({"preset": "development", "break_glass": False})
    with acting_as("dana", break_glass="now"), pytest.raises(AccessDenied) as caught:
        klaviyo.Lists.delete_list("L1")
    assert "break_glass" not in str(caught.value)
    assert fake.count == 0
    with pytest.raises(TypeError, match="says why"):
        acting_as("dana", break_glass=" ")


def test_the_guards_words_are_kept_at_every_level(guarded, trail):
    klaviyo = guarded("development", capture="none")
    with acting_as("dana", break_glass="why not"):
        klaviyo.Lists.delete_list("L1")
    with pytest.raises(AccessDenied):
        klaviyo.Lists.delete_list("L1")
    broken, denied = trail.outcomes()
    assert broken["metadata"]["break_glass"]["why"] == "why not"
    assert denied["metadata"]["guard"]["decision"] == "deny"


def test_secrets_and_persons_in_a_reason_for_breaking_glass_are_masked(guarded, trail):
    klaviyo = guarded("development")
    with acting_as("dana", break_glass=f"key {planted.API_KEY} of bob@example.com"):
        klaviyo.Lists.delete_list("L1")
    for line in (trail.outcome(), *trail.of("event")):
        assert planted.API_KEY not in str(line)
        assert "bob@example.com" not in str(line)


def test_somebody_has_to_be_named_and_to_say_why(guarded, fake, trail):
    klaviyo = guarded(None, require_actor="high", require_reason="critical")
    klaviyo.Lists.get_list("L1")
    with pytest.raises(AccessDenied, match="nobody is named who acts"):
        klaviyo.Profiles.create_profile(PROFILE)  # high
    with acting_as("dana"):
        klaviyo.Profiles.create_profile(PROFILE)
        with pytest.raises(AccessDenied, match="no reason is given"):
            klaviyo.Lists.delete_list("L1")  # critical
    with acting_as("dana", reason="asked for by its owner"):
        klaviyo.Lists.delete_list("L1")
    assert [r.method for r in fake.requests] == ["GET", "POST", "DELETE"]
    assert [e["result"] for e in trail.outcomes()].count("denied") == 2


@pytest.mark.parametrize("user_id", [None, "nightly-job"])
def test_a_request_of_whom_nobody_knows_names_nobody(guarded, fake, trail, user_id):
    """Whoever comes from the street is recorded as anonymous, which is no name."""
    klaviyo = guarded(None, require_actor="low", user_id=user_id)

    def fails():
        raise RuntimeError

    for user in (lambda: None, lambda: "", fails):
        scope = RequestScope(RequestActor(ActorRules(), Request(user=user, header=lambda _: [])))
        with scope, pytest.raises(AccessDenied, match="nobody is named who acts"):
            klaviyo.Lists.get_list("L1")
        with scope, acting_as("dana"):
            klaviyo.Lists.get_list("L1")
    known = Request(user=lambda: "anonymous", header=lambda _: [])  # somebody is called so
    with RequestScope(RequestActor(ActorRules(), known)):
        klaviyo.Lists.get_list("L1")
    assert fake.count == 4
    assert [e["user_id"] for e in trail.outcomes() if e["result"] == "denied"] == ["anonymous"] * 3


def test_a_user_in_the_settings_is_named(guarded, fake):
    klaviyo = guarded(None, require_actor="low", user_id="nightly-job")
    klaviyo.Lists.get_list("L1")
    assert fake.count == 1


def test_rules_about_keys_and_users(guarded, fake, monkeypatch):
    monkeypatch.setenv("KLAVIYO_READ_KEY", "pk_" + "e" * 34)
    rules = [
        {"decision": "deny", "keys": ["KLAVIYO_READ_*"], "methods": ["DELETE"], "name": "reader"},
        {"decision": "allow", "users": ["dana"], "operations": ["lists.*"]},
    ]
    klaviyo = guarded({"rules": rules})
    with acting_as("dana"):
        klaviyo.Lists.delete_list("L1")
        with pytest.raises(AccessDenied, match="rule 1 'reader'"):
            klaviyo.Lists.delete_list(
                "L2", _request_auth="pk_" + "e" * 34
            )  # a key for this call alone
    for user in ("eve", None):
        with acting_as(user) if user else contextlib.nullcontext(), pytest.raises(AccessDenied):
            klaviyo.Lists.get_list("L1")
    assert fake.count == 1


def test_threads_at_once(guarded, fake, trail):
    """Sixteen threads, some of them first to call an operation, none let through or held back."""
    klaviyo = guarded({"rules": [{"decision": "allow", "users": ["good-*"], "scopes": ["*:read"]}]})

    def work(number):
        user = f"{'good' if number % 2 else 'bad'}-{number}"
        denied = 0
        with acting_as(user):
            for turn in range(6):
                try:
                    (klaviyo.Lists.get_list, klaviyo.Segments.get_segment)[turn % 2](f"{user}")
                except AccessDenied:
                    denied += 1
        return user, denied

    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        results = dict(pool.map(work, range(16)))
    assert {user: denied for user, denied in results.items() if denied} == {
        f"bad-{number}": 6 for number in range(0, 16, 2)
    }
    assert all("good-" in request.path for request in fake.requests)
    assert fake.count == 8 * 6
    for outcome in trail.outcomes():
        expected = "success" if outcome["user_id"].startswith("good") else "denied"
        assert outcome["result"] == expected


def test_the_policy_file_and_settings(trail, client, fake, tmp_path, monkeypatch):
    policy = tmp_path / "policy.toml"
    policy.write_text(
        'version = 1\n[guard]\npreset = "production"\nallow = ["lists:read"]\n'
        '[[guard.rules]]\ndecision = "deny"\nname = "frozen"\nenvironments = ["prod*"]\n'
        'methods = ["PATCH"]\n'
    )
    with Auditor(journal=trail.folder, policy=policy, environment="production") as auditor:
        klaviyo = auditor.audit(client)
        klaviyo.Lists.get_list("L1")
        with pytest.raises(AccessDenied, match=r"policy '.*policy.toml'"):
            klaviyo.Profiles.get_profile("P1")
        with pytest.raises(AccessDenied, match="rule 1 'frozen'"):
            klaviyo.Lists.update_list(
                "L1", {"data": {"type": "list", "id": "L1", "attributes": {"name": "x"}}}
            )
    monkeypatch.setenv("KLAVIYO_AUDIT_GUARD", "development")
    monkeypatch.setenv("KLAVIYO_AUDIT_GUARD_MODE", "observe")
    with Auditor(journal=trail.folder, policy=policy) as auditor:
        assert auditor.guard.preset == "development"
        assert auditor.guard.mode == "observe"
        auditor.audit(client).Profiles.get_profile("P1")
    monkeypatch.setenv("KLAVIYO_AUDIT_GUARD", "off")
    with Auditor(journal=trail.folder, policy=policy) as auditor:
        assert auditor.guard is None
    assert trail.of("journal")[0]["metadata"]["guard"]["preset"] == "production"


def test_the_preset_of_the_environment(trail):
    with Auditor(journal=trail.folder, guard="environment", environment="staging") as auditor:
        assert [rule.name for rule in auditor.guard.rules_in("staging")][0] == "reading"
    with pytest.raises(ConfigurationError, match="'qa'"):
        Auditor(journal=trail.folder, guard="environment", environment="qa")
    with pytest.raises(ConfigurationError, match="not set"):
        Auditor(journal=trail.folder, guard=Guard("environment"))
    with pytest.raises(ConfigurationError, match="guard"):
        Auditor(journal=trail.folder, guard="develpment")


def test_what_is_suppressed_is_not_guarded(guarded, fake):
    """As docs/guarantees.md says."""
    klaviyo = guarded("production")
    with suppress_audit():
        klaviyo.Lists.get_list("L1")
    assert fake.count == 1


def test_a_defect_of_the_guard_lets_nothing_out(guarded, fake, monkeypatch, trail):
    from klaviyo_audit.klaviyo import guarding

    klaviyo = guarded({"default": "allow"})
    monkeypatch.setattr(guarding, "measure", lambda *_, **__: 1 / 0)
    with pytest.raises(AccessDenied, match="failed"):
        klaviyo.Lists.delete_list("L1")
    assert fake.count == 0
    assert trail.outcome()["result"] == "denied"


def test_a_retry_that_asks_for_something_else_is_judged_too(guarded, fake, client, trail):
    """A retry layer of the program's own, in one call."""
    klaviyo = guarded({"allow": ["lists.get_list"]})
    send = klaviyo.api_client
    host = send.configuration.host
    from klaviyo_audit.klaviyo import targets
    from klaviyo_audit.klaviyo.operation import run_audited

    def run():
        send.call_api("GET", f"{host}/api/lists/L1", {}, None, []).read()
        send.call_api("GET", f"{host}/api/lists/L1", {}, None, []).read()
        send.call_api("GET", f"{host}/api/profiles/P1", {}, None, [])

    target = targets.target_of(_plain(client), "get_list")
    with pytest.raises(AccessDenied, match="klaviyo.profiles.get_profile"):
        run_audited(send._audit_recorder, target, run, (), {})
    assert fake.count == 2


def _plain(client):
    from openapi_client.api.lists_api import ListsApi

    return ListsApi(client.api_client).get_list


def test_confirm_and_break_glass_come_once_a_call(guarded, fake, trail):
    fake.fail(503, times=2, method="DELETE")
    asked = []
    klaviyo = guarded(
        {"default": "allow", "limit": 0, "confirm": lambda r: asked.append(r) or True}
    )
    klaviyo.Lists.delete_list("L1")
    assert len(asked) == 1
    fake.fail(503, times=2, method="DELETE")
    klaviyo = guarded("production")
    with acting_as("dana", break_glass="now"):
        klaviyo.Lists.delete_list("L1")
    assert fake.count == 6
    assert len(trail.of("event")) == 1


@pytest.mark.parametrize("whole", [True, False], ids=["client", "group"])
def test_an_http_client_that_is_put_into_a_group_is_guarded(trail, client, fake, whole):
    with Auditor(journal=trail.folder, guard="development") as auditor:
        lists = auditor.audit(client).Lists if whole else auditor.audit(client.Lists)
        lists.api_client = other = fake.client().api_client
        with pytest.raises(AccessDenied):
            lists.delete_list("L1")
        lists.get_list("L1")
    assert [(r.method, r.path) for r in fake.requests] == [("GET", "/api/lists/L1")]
    assert vars(lists.api_client) is vars(other), "it is the one that was given"
