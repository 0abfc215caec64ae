"""How far a call reaches: counted in its body or asked of Klaviyo, recorded, and held to a limit."""

import time

import orjson
import pytest

from klaviyo_audit import AccessDenied, Auditor, Guard, acting_as, instrument, uninstrument
from klaviyo_audit.klaviyo.blast import COUNTS, count_of, in_body
from klaviyo_audit.klaviyo.risks import key, table
from klaviyo_audit.testing.exchange import Answer
from tests.waiting import PATIENCE, wait_for


def members(count):
    return {"data": [{"type": "profile", "id": f"P{n}"} for n in range(count)]}


def suppression(**relationships):
    related = {
        name: {"data": {"type": name, "id": identifier}}
        for name, identifier in relationships.items()
    }
    return {
        "data": {
            "type": "profile-suppression-bulk-create-job",
            "attributes": {},
            "relationships": related,
        }
    }


def send_job(campaign="C1"):
    return {"data": {"type": "campaign-send-job", "id": campaign}}


def answers(**attributes):
    document = {"data": {"type": "x", "id": "1", "attributes": attributes}}
    return lambda _: Answer(200, orjson.dumps(document))


@pytest.fixture
def guarded(trail, client):
    made = []

    def make(**options):
        guard = Guard(default="allow", **options)
        auditor = Auditor(journal=trail.folder, service="shop", guard=guard)
        made.append(auditor)
        return auditor.audit(client)

    yield make
    for auditor in made:
        auditor.close()


def test_counted_in_the_body_and_recorded_before_and_after(guarded, trail, fake):
    guarded().Lists.add_profiles_to_list("L1", members(7))
    expected = {"count": 7, "unit": "people", "source": "request"}
    (intent,) = trail.of("intent")
    assert intent["metadata"]["blast_radius"] == expected
    assert trail.outcome()["metadata"]["blast_radius"] == expected
    assert fake.count == 1


def test_above_the_limit_it_needs_a_reason(guarded, trail, fake):
    klaviyo = guarded(limit=5)
    klaviyo.Lists.add_profiles_to_list("L1", members(5))
    with acting_as("dana"), pytest.raises(AccessDenied) as caught:
        klaviyo.Lists.add_profiles_to_list("L1", members(6))
    assert "it touches 6 people; the limit is 5" in str(caught.value)
    assert fake.count == 1
    assert trail.last()["metadata"]["blast_radius"]["count"] == 6
    with acting_as("dana", reason="spring list"):
        klaviyo.Lists.add_profiles_to_list("L1", members(6))
    assert fake.count == 2
    assert trail.last()["metadata"]["blast_radius"] == {
        "count": 6, "unit": "people", "source": "request", "limit": 5, "confirmed_by": "reason"
    }  # fmt: skip


def test_confirm_decides(guarded, trail, fake):
    asked = []
    klaviyo = guarded(limit=0, confirm=lambda radius: asked.append(radius) or radius.count < 3)
    klaviyo.Lists.add_profiles_to_list("L1", members(2))
    with acting_as("dana", reason="does not help"), pytest.raises(AccessDenied, match="not agree"):
        klaviyo.Lists.add_profiles_to_list("L1", members(3))
    assert [(radius.action, radius.count, radius.unit, radius.limit) for radius in asked] == [
        ("klaviyo.lists.add_profiles_to_list", 2, "people", 0),
        ("klaviyo.lists.add_profiles_to_list", 3, "people", 0),
    ]
    assert fake.count == 1
    assert trail.outcomes()[0]["metadata"]["blast_radius"]["confirmed_by"] == "confirm"


def test_a_confirm_that_fails_denies(guarded, fake):
    klaviyo = guarded(limit=0, confirm=lambda _: 1 / 0)
    with pytest.raises(AccessDenied, match="confirm failed"):
        klaviyo.Lists.delete_list("L1")
    assert fake.count == 0


def test_a_rule_has_a_limit_of_its_own(guarded, fake):
    rule = {"decision": "allow", "operations": ["lists.add_*"], "limit": 10}
    klaviyo = guarded(rules=[rule], limit=0)
    klaviyo.Lists.add_profiles_to_list("L1", members(10))
    with pytest.raises(AccessDenied):
        klaviyo.Lists.add_profiles_to_list("L1", members(11))
    with pytest.raises(AccessDenied, match="it touches 1 objects"):
        klaviyo.Templates.delete_template("T1")
    assert fake.count == 1


def test_what_cannot_be_known_is_above_any_limit(guarded, fake, trail):
    klaviyo = guarded(limit=1_000_000)
    with pytest.raises(AccessDenied, match="not known .*Klaviyo is not asked"):
        klaviyo.Campaigns.send_campaign(send_job())
    assert trail.outcome()["metadata"]["blast_radius"]["count"] is None
    assert fake.count == 0


def test_without_a_limit_it_is_only_recorded(guarded, trail):
    guarded().Campaigns.send_campaign(send_job())
    assert trail.outcome()["metadata"]["blast_radius"]["count"] is None


@pytest.mark.parametrize("instrumented", [False, True])
def test_klaviyo_is_asked_with_the_calls_own_key_and_not_audited(
    instrumented, guarded, fake, trail, client
):
    fake.on(
        "GET", "/api/campaign-recipient-estimations/{id}", answers(estimated_recipient_count=1200)
    )
    klaviyo = guarded(limit=1000, estimate=True)
    with Auditor(journal=trail.folder, guard={"default": "allow"}) as other:
        if instrumented:
            instrument(other)
        try:
            with pytest.raises(AccessDenied, match="it touches 1200 people"):
                klaviyo.Campaigns.send_campaign(send_job("C 1"))
            with acting_as("dana", reason="launch"):
                klaviyo.Campaigns.send_campaign(send_job("C1"))
        finally:
            uninstrument()
    asked, again, sent = fake.requests
    assert (asked.method, asked.path) == ("GET", "/api/campaign-recipient-estimations/C%201")
    assert asked.headers["authorization"] == sent.headers["authorization"]
    assert asked.headers["revision"] == sent.headers["revision"]
    assert (sent.method, sent.path) == ("POST", "/api/campaign-send-jobs")
    assert again.method == "GET"
    assert {line["action"] for line in trail.outcomes()} == {"klaviyo.campaigns.send_campaign"}
    assert trail.last()["metadata"]["blast_radius"]["source"] == "klaviyo"
    assert trail.last()["http"]["requests"] == 1


def test_whole_lists_and_segments(guarded, fake, trail):
    fake.on("GET", "/api/lists/{id}", answers(profile_count=40))
    fake.on("GET", "/api/segments/{id}", answers(profile_count=2))
    klaviyo = guarded(estimate=True)
    klaviyo.Profiles.bulk_suppress_profiles(suppression(list="L1"))
    klaviyo.Profiles.bulk_suppress_profiles(suppression(segment="S1"))
    klaviyo.Lists.delete_list("L1")
    counts = [entry["metadata"]["blast_radius"]["count"] for entry in trail.outcomes()]
    assert counts == [40, 2, 40]
    assert "additional-fields[list]=profile_count" in fake.requests[0].query.replace(
        "%5B", "["
    ).replace("%5D", "]")


def test_an_answer_that_does_not_come_holds_nobody_up(guarded, fake, trail):
    fake.fail(None, times=None, method="GET", delay=3600.0)
    klaviyo = guarded(limit=10, estimate=True, estimate_timeout=0.3)
    began = time.monotonic()
    with pytest.raises(AccessDenied, match="no answer in time"):
        klaviyo.Lists.delete_list("L1")
    assert time.monotonic() - began < PATIENCE
    wait_for(lambda: fake.requests)
    assert {request.method for request in fake.requests} == {"GET"}  # urllib3 repeats it


@pytest.mark.parametrize(
    ("status", "body", "why"),
    [(403, None, "status 403"), (200, b"{}", "no number"), (200, b"nonsense", "JSONDecodeError")],
)
def test_an_answer_that_says_nothing(status, body, why, guarded, fake, trail):
    fake.fail(status, times=None, method="GET", body=body)
    with pytest.raises(AccessDenied, match=why):
        guarded(limit=10, estimate=True).Lists.delete_list("L1")


def test_observing_asks_nobody_to_confirm(guarded, fake, trail):
    klaviyo = guarded(limit=0, mode="observe", confirm=lambda _: pytest.fail("asked"))
    klaviyo.Lists.delete_list("L1")
    assert fake.count == 1
    assert trail.outcome()["metadata"]["guard"]["would"] == "deny"


def test_breaking_the_glass_passes_a_limit(guarded, fake, trail):
    klaviyo = guarded(limit=0)
    with acting_as("dana", break_glass="leak"):
        klaviyo.Lists.add_profiles_to_list("L1", members(3))
    assert fake.count == 1
    outcome = trail.outcome()
    assert outcome["metadata"]["blast_radius"]["count"] == 3
    assert "limit is 0" in outcome["metadata"]["break_glass"]["rule"]


def test_the_table_is_of_operations_that_are_there():
    for method, path in COUNTS:
        if not path.startswith("/client/"):
            assert key(method, path) in table(), (method, path)


def test_every_mass_operation_and_every_delete_is_counted():
    for operation in table().values():
        deletes = "unlink" not in operation.effects
        counted = count_of(operation.method, operation.path, deletes=deletes)
        if "mass-data" in operation.effects or (operation.method == "DELETE" and deletes):
            assert counted is not None, (operation.method, operation.path)


@pytest.mark.parametrize("body", [None, [], {}, {"data": None}, {"data": {"attributes": 3}}, "x"])
def test_bodies_that_are_built_otherwise_are_not_known(body):
    for count in COUNTS.values():
        if count.fixed is None and count.members not in (("data",), None):
            assert in_body(count, body) is None
