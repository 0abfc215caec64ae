"""What is too long, too deep or too many is cut, marked with its size, and never blows up a line."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from klaviyo_audit import Auditor, acting_as
from klaviyo_audit.privacy import Gate
from klaviyo_audit.privacy.keyring import KeyRing
from klaviyo_audit.privacy.pseudonyms import Pseudonyms, RingNaming
from klaviyo_audit.privacy.values import MAX_CHARACTERS, MAX_NODES
from tests.privacy import canaries

RING = KeyRing.from_text("0123456789abcdef0123456789abcdef")
KEYED = Gate(Pseudonyms((RingNaming(RING),), RING.newest))


def test_a_cut_is_marked_with_length_and_keyed_digest():
    text = "a b " * 1_000
    plain, keyed = Gate().text(text), KEYED.text(text)
    assert plain.endswith("[cut: 4000 characters]")
    assert keyed.endswith("]")
    digest = keyed.rpartition(", ")[2].rstrip("]")
    assert digest == KEYED.pseudonyms.digest(text)
    assert digest != KEYED.pseudonyms.digest(text + ".")
    assert digest.startswith("k1:")


@pytest.mark.parametrize("at", [980, 990, 995, 999, 1_000])
def test_what_a_cut_goes_through_is_not_half_kept(at):
    for value in ("dana@example.com", "+1 (500) 555-0006", "pk_" + "5ec12e7f00" * 3 + "5ec1"):
        kept = Gate().text("z" * (at - 1) + " " + value + " z" * 300)
        before = kept[: kept.index("[")]
        assert before.strip("z ") == "", kept[-80:]


def deep(levels):
    value = "x"
    for _ in range(levels):
        value = {"a": [value]}
    return value


@pytest.mark.parametrize(
    "value",
    [
        {f"{a}{b}": {f"{c}": "x" * 900 for c in range(50)} for a in range(7) for b in range(7)},
        [[["y" * 2_000] * 60] * 60] * 60,
        {"a": {"b" * 5_000: "c" * 100_000}},
        deep(500),
        dict.fromkeys((f"dana{n}@example.com" for n in range(10_000)), "+15005550006"),
        {"email": [f"dana{n}@example.com" for n in range(10_000)]},
    ],
    ids=["wide", "many", "long", "deep", "persons", "listed"],
)
@pytest.mark.parametrize("gate", [Gate(), KEYED], ids=["plain", "keyed"])
def test_the_whole_is_bounded(value, gate):
    cleaned = gate.value(value)
    text = json.dumps(cleaned)
    assert "[cut" in text
    assert len(text) < MAX_CHARACTERS * 2 + MAX_NODES * 40


def test_an_entry_is_bounded_whatever_it_is_given(tmp_path):
    huge = {f"name{n}": ["w" * 3_000] * 100 for n in range(200)}
    with (
        Auditor(journal=tmp_path / "trail", seal="off") as auditor,
        acting_as("u" * 9_000, reason="r" * 90_000, on_behalf_of="o" * 9_000, ip="i" * 900, **huge),
    ):

        @auditor.audited(resource="{a}", capture=("a",), metadata={"m": huge})
        def function(a):
            return a

        function("p" * 100_000)
    longest = max(map(len, (tmp_path / "trail" / "audit.jsonl").read_bytes().splitlines()))
    assert longest < 150_000


def test_names_that_tell_of_a_person():
    value = {
        "email": "dana@example.com",
        "contactEmail": "dana@example.com",
        "mobile-number": "+15005550006",
        "first_name": "Dana",
        "customerName": "Dana Miller",
        "externalId": "4711",
        "shipping_address": {"street": "12 Elm Street"},
        "date_of_birth": "1990-01-01",
        "emails": 3,
        "filename": "report.csv",
    }
    cleaned = KEYED.value(value)
    assert cleaned["email"] == cleaned["contactEmail"]
    assert cleaned["email"].startswith("email:k1:")
    assert cleaned["mobile-number"].startswith("phone:k1:")
    assert cleaned["first_name"].startswith("name:k1:")
    assert cleaned["externalId"].startswith("external_id:k1:")
    assert cleaned["shipping_address"] == cleaned["date_of_birth"] == "[personal]"
    assert (cleaned["emails"], cleaned["filename"]) == (3, "report.csv")
    assert Gate().value(value)["customerName"] == "[personal]"


def test_two_names_that_become_one_are_both_kept():
    cleaned = Gate().value({"a@example.com": 1, "b@example.com": 2})
    assert sorted(cleaned.values()) == [1, 2]


@given(st.text(max_size=50), canaries.found_in_text, st.text(max_size=50))
def test_no_canary_passes_in_any_surrounding(before, canary, after):
    for gate in (Gate(), KEYED):
        assert canaries.leaks(gate.text(f"{before} {canary} {after}")) == []
        assert canaries.leaks(json.dumps(gate.value({"a": [canary], canary: 1}))) == []
