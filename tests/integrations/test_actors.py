"""Who acts in a request: whom to believe, what to keep, and when to ask."""

import logging

import pytest
from hypothesis import given
from hypothesis import strategies as st

from klaviyo_audit import ConfigurationError, acting_as
from klaviyo_audit.integrations.actors import ActorRules, Request, RequestActor, RequestScope
from klaviyo_audit.integrations.logging import AuditFilter

PROXY = "10.1.2.3"
HEADERS = {
    "user_header": "X-Forwarded-User",
    "on_behalf_of_header": "X-On-Behalf-Of",
    "reason_header": "X-Reason",
    "ticket_header": "X-Ticket",
}


def request(peer="203.0.113.77", user=None, session=None, **headers):
    values = {name.replace("_", "-"): value for name, value in headers.items()}
    return Request(
        user=lambda: user,
        header=lambda name: (
            [values[name]] if isinstance(values.get(name), str) else list(values.get(name, ()))
        ),
        peer=peer,
        session=lambda: session,
    )


def behind_a_proxy(**more):
    return ActorRules(**HEADERS, trusted_proxies=["10.0.0.0/8", "fd00::/8"], **more)


def test_headers_of_a_trusted_proxy_are_believed():
    facts = behind_a_proxy().actor(
        request(
            PROXY,
            x_forwarded_user="dana",
            x_on_behalf_of="customer 4711",
            x_reason="refund, urgent",
            x_ticket="SUP-9",
            x_forwarded_for="198.51.100.200",
        )
    )
    assert facts == {
        "user_id": "dana",
        "on_behalf_of": "customer 4711",
        "reason": "refund, urgent",
        "ticket": "SUP-9",
        "ip": "198.51.100.0/24",
    }


@pytest.mark.parametrize("peer", ["203.0.113.77", "", "garbage", "11.0.0.1", "::1"])
def test_headers_of_anybody_else_are_not(peer):
    forged = dict.fromkeys(("x_forwarded_user", "x_on_behalf_of", "x_reason"), "admin")
    facts = behind_a_proxy().actor(request(peer, **forged, x_forwarded_for="192.0.2.1"))
    assert set(facts) <= {"ip"}
    assert "192.0.2" not in facts.get("ip", "")


def test_the_frameworks_user_comes_first():
    asked = request(PROXY, user="dana", x_forwarded_user="somebody")
    assert behind_a_proxy().actor(asked)["user_id"] == "dana"


@pytest.mark.parametrize("doubled", [["dana", "admin"], ["dana,admin"], ["dana, admin"], [""]])
def test_a_header_that_is_there_twice_names_nobody(doubled):
    asked = request(PROXY, x_forwarded_user=doubled)
    assert "user_id" not in behind_a_proxy().actor(asked)


@pytest.mark.parametrize(
    ("forwarded", "kept"),
    [
        ("198.51.100.7", "198.51.100.0/24"),
        # What the client sent itself stands to the left of what the proxies added.
        ("1.1.1.1, 198.51.100.7", "198.51.100.0/24"),
        ("1.1.1.1, 198.51.100.7, 10.9.9.9", "198.51.100.0/24"),
        ("198.51.100.7:4711", "198.51.100.0/24"),
        ("2001:db8:1:2::7", "2001:db8:1::/48"),
        ("[2001:db8:1:2::7]:443", "2001:db8:1::/48"),
        ("::ffff:198.51.100.7", "198.51.100.0/24"),
        ("1.1.1.1, garbage", "10.1.2.0/24"),
        ("", "10.1.2.0/24"),
        ("10.9.9.9, 10.8.8.8", "10.9.9.0/24"),
        ("1.1.1.1, unknown", "10.1.2.0/24"),
        ("unknown, 198.51.100.7", "198.51.100.0/24"),
        ("[::ffff:198.51.100.7]:443", "198.51.100.0/24"),
        (("1.1.1.1", "198.51.100.7"), "198.51.100.0/24"),  # the header twice: in their order
        ("198.51.100.7," + "10.9.9.9," * 40 + "10.8.8.8", "10.9.9.0/24"),  # beyond 32 hops
    ],
)
def test_the_clients_address(forwarded, kept):
    assert behind_a_proxy().actor(request(PROXY, x_forwarded_for=forwarded))["ip"] == kept


def test_how_much_of_an_address_is_kept():
    asked = request("198.51.100.7")
    assert ActorRules(ip="full").actor(asked)["ip"] == "198.51.100.7"
    assert "ip" not in ActorRules(ip="none").actor(asked)
    assert "ip" not in ActorRules().actor(request("not an address"))


def test_a_zone_is_no_place_for_text():
    """What follows a % in an address is any text, and would get around the truncation."""
    for spelt in ("2001:db8::7%dana.miller", "[2001:db8::7%dana.miller]:443"):
        asked = request(PROXY, x_forwarded_for=spelt)
        assert behind_a_proxy(ip="full").actor(asked)["ip"] == "2001:db8::7"
        assert behind_a_proxy().actor(asked)["ip"] == "2001:db8::/48"
    linked = ActorRules(**HEADERS, trusted_proxies=["fe80::/10"])
    assert linked.actor(request("fe80::1%eth0", x_forwarded_user="dana"))["user_id"] == "dana"


def test_proxies_in_their_ipv6_form():
    for network in ("::ffff:10.1.2.3", "::ffff:10.0.0.0/104"):
        rules = ActorRules(**HEADERS, trusted_proxies=[network])
        for peer in (PROXY, f"::ffff:{PROXY}"):
            assert rules.actor(request(peer, x_forwarded_user="dana"))["user_id"] == "dana"
        assert "user_id" not in rules.actor(request(x_forwarded_user="dana"))


def test_a_session_is_kept_as_a_fingerprint():
    facts = ActorRules().actor(request(session="s3ss10n"))
    assert len(facts["session"]) == 12
    assert "s3ss10n" not in str(facts)


@given(peer=st.text(), forwarded=st.text(), user=st.text())
def test_whatever_comes_in(peer, forwarded, user):
    facts = behind_a_proxy().actor(request(peer, x_forwarded_for=forwarded, x_forwarded_user=user))
    assert facts.get("user_id", "nobody")
    facts = behind_a_proxy().actor(request(PROXY, x_forwarded_for=forwarded))
    assert facts["ip"]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"user_header": "X-User"}, "trusted_proxies"),
        ({"reason_header": "X-Reason"}, "trusted_proxies"),
        ({"trusted_proxies": ["10.0.0.0/33"]}, "10.0.0.0/33"),
        ({"trusted_proxies": ["proxy.internal"]}, "proxy.internal"),
        ({"ip": "half"}, "half"),
        ({"anonymous": ""}, "anonymous"),
        ({"trusted_proxies": [5]}, "5 is no address.*type int"),
        ({"trusted_proxies": b"10.0.0.1"}, "bytes"),
        ({"trusted_proxies": None}, "NoneType"),
        ({"trusted_proxies": ["unix"], "user_header": 5}, "user_header: 5"),
    ],
)
def test_mistakes_are_told_when_the_program_starts(given, said):
    with pytest.raises(ConfigurationError, match=said):
        ActorRules(**given)


def test_a_unix_socket():
    rules = ActorRules(user_header="X-User", trusted_proxies=["unix"])
    assert rules.actor(request("", x_user="dana"))["user_id"] == "dana"
    assert "user_id" not in rules.actor(request("10.0.0.1", x_user="dana"))


class Counting:
    def __init__(self, answer):
        self.answer = answer
        self.count = 0

    def __call__(self):
        self.count += 1
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


def test_nobody_is_asked_before_a_call_is_recorded(klaviyo, trail):
    user = Counting("erin")
    scope = RequestScope(RequestActor(ActorRules(), Request(user=user, header=lambda _: [])))
    with scope:
        pass
    assert user.count == 0
    with scope:
        klaviyo.Lists.get_lists()
        klaviyo.Lists.get_lists()
    assert user.count == 1
    assert [line["user_id"] for line in trail.outcomes()] == ["erin", "erin"]


def test_a_framework_that_fails_breaks_no_call(klaviyo, trail):
    user = Counting(ValueError("dana@example.com"))
    actor = RequestActor(ActorRules(), Request(user=user, header=lambda _: []))
    with RequestScope(actor):
        assert klaviyo.Lists.get_lists() is not None
    assert trail.outcome()["user_id"] == "anonymous"
    assert trail.outcome()["metadata"] == {"actor_error": "ValueError"}


def fails():
    raise RuntimeError("dana@example.com")


def test_what_a_framework_fails_to_tell_takes_nothing_else_away(klaviyo, trail):
    asked = Request(user=fails, header=lambda _: [], peer="198.51.100.7", session=lambda: "s3ss10n")
    with RequestScope(RequestActor(ActorRules(), asked)):
        klaviyo.Lists.get_lists()
    asked = Request(user=lambda: "erin", header=lambda _: [], peer="198.51.100.7", session=fails)
    with RequestScope(RequestActor(ActorRules(), asked)):
        klaviyo.Lists.get_lists()
    no_user, no_session = trail.outcomes()
    assert no_user["user_id"] == "anonymous"
    assert no_user["metadata"].keys() == {"actor_error", "session"}
    assert no_session["user_id"] == "erin"
    assert no_session["metadata"] == {"actor_error": "RuntimeError"}
    for entry in (no_user, no_session):
        assert entry["actor"] == {"ip": "198.51.100.0/24"}


def test_acting_as_inside_of_a_request(klaviyo, trail):
    actor = RequestActor(ActorRules(), request("198.51.100.7", user="erin"))
    with RequestScope(actor):
        with acting_as("robot", reason="nightly"):
            klaviyo.Lists.get_lists()
        klaviyo.Lists.get_lists()
    klaviyo.Lists.get_lists()
    inner, outer, none = trail.outcomes()
    assert (inner["user_id"], inner["actor"]["ip"]) == ("robot", "198.51.100.0/24")
    assert (outer["user_id"], "reason" in outer["actor"]) == ("erin", False)
    assert none["user_id"] == "dana", "the default"


def test_log_lines_name_actor_and_entry(auditor, klaviyo, trail, caplog):
    handler = logging.Handler()
    records = []
    handler.emit = records.append
    handler.addFilter(AuditFilter())
    log = logging.getLogger("shop")
    log.addHandler(handler)

    @auditor.audited
    def redeem():
        log.warning("inside")
        klaviyo.Lists.get_lists()

    try:
        with acting_as("erin"):
            redeem()
        log.warning("outside")
    finally:
        log.removeHandler(handler)
    inside, outside = records
    assert (inside.audit_user, inside.audit_id) == ("erin", trail.last()["id"])
    assert (outside.audit_user, outside.audit_id) == ("-", "-")
