"""What a call's request says of a person is taken out of the free text of its entry."""

import contextlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from klaviyo_audit import Auditor, acting_as
from klaviyo_audit.privacy import Gate
from klaviyo_audit.privacy.carried import MAX_VALUES, folded

KEY = "0123456789abcdef0123456789abcdef"
PERSON = {
    "email": "dana.x@example.com",
    "external_id": "CUST-4711",
    "first_name": "Zoë",
    "last_name": "Müller-Brandt",
    "title": "Head of Sales",
    "organization": "Acme Rockets",
    "location": {
        "address1": "12 Rosewood Lane",
        "city": "Leeds",
        "zip": "LS1 4AP",
        "country": "UK",
    },
    "properties": {"birthday": "1980-02-03", "colour": "green", "Street Address": "Old Mill 3"},
}
WORDS = (
    "zoë",
    "müller",
    "rosewood",
    "leeds",
    "ls1",
    "acme",
    "head of",
    "1980-02-03",
    "old mill",
    "4711",
)
PROSE = (
    "zoë MÜLLER-BRANDT (Head of  Sales, Acme Rockets, 12 Rosewood\u00a0Lane, LEEDS ls1 4ap, "
    "born 1980-02-03, Old Mill 3, cust-4711) likes green and Leedsian Zoës"
)


def body(attributes=PERSON):
    return {"data": {"type": "profile", "attributes": attributes}}


@pytest.fixture(params=[KEY, None], ids=["keyed", "no key"])
def auditor(trail, request):
    with Auditor(journal=trail.folder, service="shop", pseudonym_key=request.param) as auditor:
        yield auditor


def left(text):
    return [word for word in WORDS if word in folded(text).replace("leedsian zoës", "")]


def test_a_reason_that_repeats_the_person(klaviyo, trail, auditor):
    with acting_as("lea", reason=PROSE, note=PROSE, deep={"a": [PROSE], "Zoë": 1}):
        klaviyo.Profiles.create_profile(body())
    intent, outcome = trail.of("intent")[0], trail.outcome()
    for entry in (intent, outcome):
        assert left(json.dumps(entry, ensure_ascii=False)) == []
        assert "likes green and Leedsian Zoës" in entry["actor"]["reason"]
        assert entry["metadata"]["deep"]["[personal]"] == 1
        assert ("external_id:k1:" in entry["actor"]["reason"]) == (
            auditor.recorder.gate.pseudonyms is not None
        )
        assert entry["actor"]["reason"].startswith("[personal] ([personal]")


def test_text_stays_where_the_call_names_somebody_else_or_nobody(klaviyo, trail):
    with acting_as("lea", reason="Zoë of Leeds asked"):
        klaviyo.Profiles.create_profile(body({"email": "b@example.com", "first_name": "Li"}))
        klaviyo.Profiles.get_profile("01H")
    assert [one["actor"]["reason"] for one in trail.outcomes()] == ["Zoë of Leeds asked"] * 2


def test_the_function_around_it_and_what_is_recorded_in_it(auditor, klaviyo, trail):
    @auditor.audited(action="shop.enrol", resource="person:{name}", capture=("name",),
                     metadata=lambda name: {"note": f"for {name}"})  # fmt: skip
    def enrol(name):
        klaviyo.Profiles.create_profile(body())
        auditor.record("shop.enrolled", resource=f"of {name}", metadata={"who": [name]})
        klaviyo.Profiles.get_profile("01H")
        raise ValueError(name)

    with acting_as("lea", reason="Zoë Müller-Brandt asked"), contextlib.suppress(ValueError):
        enrol("Zoë Müller-Brandt")
    entries = [one for one in trail.lines() if one["phase"] in ("outcome", "event")]
    assert [one["action"] for one in entries] == [
        "klaviyo.profiles.create_profile", "shop.enrolled", "klaviyo.profiles.get_profile", "shop.enrol",
    ]  # fmt: skip
    for one in entries:
        assert left(json.dumps(one, ensure_ascii=False)) == []
        assert one["actor"]["reason"] == "[personal] asked"


def test_the_source_of_a_consent(klaviyo, trail):
    profile = {
        "type": "profile",
        "attributes": {"email": "a@example.com", "external_id": "C-47 11"},
    }
    subscription = {"data": {
        "type": "back-in-stock-subscription",
        "attributes": {"custom_source": "card C-47 11", "channels": ["EMAIL"], "profile": {"data": profile}},
        "relationships": {"variant": {"data": {"type": "catalog-variant", "id": "$custom:::1"}}},
    }}  # fmt: skip
    with acting_as("lea", reason="card C-47 11"):
        klaviyo.Catalogs.create_back_in_stock_subscription(subscription)
    assert "47 11" not in json.dumps(trail.lines())
    assert trail.last()["consent"]["change"] == "subscribe_back_in_stock"


@pytest.mark.parametrize(
    ("carried", "text", "expected"),
    [
        ("müller", "M%C3%BCller", "[personal]"),
        ("müller", "M&uuml;ller came", "[personal] came"),
        ("müller", "Mu\u0308ller came", "[personal] came"),
        ("dana", "\uff24\uff41\uff4e\uff41 came", "[personal] came"),
        ("dana", "d\u200bana came", "[personal] came"),
        ("strasse", "Hohe Stra\u00dfe 1", "[personal]"),
        ("王芳", "客户王芳要求删除", "客户[personal]要求删除"),
        ("a.b(c", "x a.b(c y", "x [personal] y"),
        ("dana", "danaë dana_x Adana dana's", "danaë dana_x Adana [personal]'s"),
    ],
)
def test_spellings(carried, text, expected):
    assert Gate().without(text, {carried: "[personal]"}) == expected


def test_bounds():
    gate = Gate()
    assert gate.carried([(None, "Al"), (None, "x" * 201), (None, "123"), (None, " ")]) == {}
    assert len(gate.carried((None, f"name {n}") for n in range(10_000))) == MAX_VALUES


@given(st.lists(st.text(min_size=1, max_size=20), max_size=5), st.text(max_size=200))
def test_what_is_carried_is_never_left_as_a_word_of_its_own(values, around):
    gate = Gate()
    carried = gate.carried((None, one) for one in values)
    for one in values:
        cleaned = gate.without({"note": f"{around} {one} {around}"}, carried)["note"]
        if folded(one) in carried and "[" not in one and one.isalpha() and one.isascii():
            assert f" {folded(one)} " not in folded(cleaned).replace("personal", "")
