"""The gate: secrets and persons do not get through, ids do, and it is never slow or broken."""

import contextlib
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from klaviyo_audit import Auditor, ConfigurationError, privacy
from tests import planted

WRAPPINGS = ("{}", "x {} y", '"{}"', "key={}&y=1", "({}),", "a\n{}\tb", "€{}€")


@pytest.mark.parametrize("wrapping", WRAPPINGS)
@pytest.mark.parametrize("value", [planted.API_KEY, planted.SITE_KEY, planted.EMAIL, planted.PHONE])
def test_known_formats_in_text(value, wrapping):
    cleaned = privacy.clean_text(wrapping.format(value))
    assert planted.found_in(cleaned) == []


@pytest.mark.parametrize(
    "text",
    [
        f"Klaviyo-API-Key {planted.OAUTH_TOKEN}",
        f"authorization: bearer  {planted.OAUTH_TOKEN}",
        f"Bearer%20{planted.OAUTH_TOKEN}",
        f'{{"secret_key": "{planted.WEBHOOK_SECRET}"}}',
        f"access_token={planted.OAUTH_TOKEN}",
    ],
)
def test_values_after_telling_words(text):
    assert planted.found_in(privacy.clean_text(text)) == []


def test_credentials_once_used_are_known_everywhere():
    credentials = privacy.Credentials()
    credentials.add("no-known-format-at-all")
    gate = privacy.Gate(credentials=credentials)
    assert gate.text("x no-known-format-at-all y") == "x [secret] y"
    credentials.add("short")
    assert gate.text("a short word") == "a short word"
    for number in range(1_000):
        credentials.add(f"credential-{number}")
    assert credentials.found_in("credential-999")
    assert len(credentials._values) == 256


@pytest.mark.parametrize(
    "path",
    [
        "/api/profiles/01HQXYZ/lists",
        "/api/catalog-items/$custom:::$default:::SHOE-42",
        "/api/catalog-items/%24custom%3A%3A%3A%24default%3A%3A%3ASHOE-42",
        "/api/images/185543241",
        "/api/coupon-codes/10OFF-ABC_1",
        "/",
        "",
    ],
)
def test_ids_stay_in_a_path(path):
    assert privacy.clean_path(path) == path


@pytest.mark.parametrize(
    "segment",
    [
        planted.EMAIL,
        quote(planted.EMAIL, safe=""),
        quote(quote(planted.EMAIL, safe=""), safe=""),
        quote(planted.PHONE, safe=""),
        planted.PHONE,
        planted.API_KEY,
        planted.SITE_KEY,
        "pk%5F" + planted.API_KEY[3:],
        quote("Jürgen Müller", safe=""),
        "a%00b",
        "x" * 5000,
    ],
)
def test_other_things_do_not(segment):
    cleaned = privacy.clean_path(f"/api/profiles/{segment}/lists")
    assert cleaned.startswith("/api/profiles/[masked:")
    assert cleaned.endswith("]/lists")


def test_a_path_is_cleaned_of_used_credentials():
    credentials = privacy.Credentials()
    credentials.add(planted.OAUTH_TOKEN)
    gate = privacy.Gate(credentials=credentials)
    assert planted.OAUTH_TOKEN not in gate.path(f"/api/profiles/{planted.OAUTH_TOKEN}")


def test_an_actor_may_be_an_address_but_no_key():
    assert privacy.clean_identity(planted.EMAIL) == planted.EMAIL
    assert privacy.clean_identity(planted.API_KEY) == "[secret]"


def test_long_text_is_marked_as_cut():
    cleaned = privacy.clean_text("a b " * 1_000)
    assert cleaned.endswith("[cut: 4000 characters]")
    assert len(cleaned) < 1_100
    # A secret across the cut is not half kept.
    assert "pk_" not in privacy.clean_text("z " * 495 + planted.API_KEY + " z" * 200)


def test_values_become_json():
    from datetime import UTC, datetime
    from decimal import Decimal
    from enum import Enum

    class Colour(Enum):
        RED = "red"

    value = {
        "when": datetime(2026, 1, 2, tzinfo=UTC),
        "colour": Colour.RED,
        "bytes": b"abc",
        "set": {1},
        "nan": float("nan"),
        "big": 10**5_000,
        "decimal": Decimal(1),
        3: "three",
        "Authorization": "x",
    }
    assert privacy.clean_value(value) == {
        "when": "2026-01-02T00:00:00+00:00",
        "colour": "red",
        "bytes": "[bytes: 3]",
        "set": [1],
        "nan": "nan",
        "big": f"[integer: {(10**5_000).bit_length()} bits]",
        "decimal": "[Decimal]",
        "3": "three",
        "Authorization": "[secret]",
    }


def test_values_are_bounded():
    endless = []
    endless.append(endless)
    assert "[cut: list]" in str(privacy.clean_value(endless))
    assert len(privacy.clean_value(dict.fromkeys(map(str, range(1_000))))) == privacy.MAX_ITEMS + 1
    assert privacy.clean_value(list(range(1_000)))[-1] == "[cut: 1000 members]"


leaves = st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary()
anything = st.recursive(
    leaves,
    lambda inner: st.lists(inner) | st.dictionaries(st.text() | st.integers(), inner),
    max_leaves=30,
)


@given(anything)
def test_any_value_ends_up_as_json(value):
    from klaviyo_audit.journal.format import checksum_holds, encodable, encode

    cleaned = privacy.clean_value({"value": value})
    line = encode(encodable({"v": 1, "metadata": cleaned}))
    assert checksum_holds(line[:-1])
    assert line.count(b"\n") == 1


@given(st.text(), st.sampled_from(planted.ALL), st.text())
def test_a_planted_value_never_survives(before, value, after):
    # Letters or digits right against a value make it another value; separators do not.
    credentials = privacy.CREDENTIALS
    credentials.add(planted.OAUTH_TOKEN)
    credentials.add(planted.WEBHOOK_SECRET)
    cleaned = privacy.clean_text(f"{before} {value} {after}", limit=100_000)
    assert planted.found_in(cleaned) == []


def test_a_key_as_the_services_name_is_in_no_line(trail, fake, monkeypatch):
    """Where nobody is named, the service acts: its name passes the gate there, too.

    As a setting such a name is refused; without one the service is called as its program.
    """
    monkeypatch.setattr("sys.argv", [f"shop {planted.API_KEY}"])
    with Auditor(journal=trail.folder, seal="off") as auditor:
        auditor.audit(fake.client()).Lists.get_lists()
    lines = trail.lines()
    assert {line["user_id"].split("/")[0] for line in lines} == {"shop [secret]"}
    assert planted.API_KEY not in trail.path.read_text()


@pytest.mark.parametrize("swapped", [*planted.ALL, f"https://a.klaviyo.com/?q={planted.EMAIL}"])
def test_what_is_given_for_the_http_method_is_in_no_line(trail, fake, swapped):
    """As where method and URL were swapped: the method names what this version does not know."""
    with Auditor(journal=trail.folder) as auditor:
        client = auditor.audit(fake.client()).api_client
        with contextlib.suppress(Exception):
            client.call_api(swapped, f"{fake.url}/api/lists", {})
    outcome = trail.outcome()
    assert outcome["call"]["method"] == "OTHER"
    assert outcome["action"] == "klaviyo.lists.other"
    assert trail.of("intent"), "who knows what it does"
    assert swapped not in trail.path.read_text()


@pytest.mark.parametrize(
    ("settings", "secret"),
    [
        ({"sinks": [planted.API_KEY]}, planted.API_KEY),
        ({"pseudonym_key_file": planted.API_KEY}, planted.API_KEY),
        ({"pseudonym_key_file": "0123456789abcdef" * 4}, "0123456789abcdef"),
        ({"pseudonym_key_file": f"k2:{'0123456789abcdef' * 2}"}, "0123456789abcdef"),
    ],
)
def test_a_secret_in_the_wrong_setting_is_not_repeated(tmp_path, settings, secret):
    with pytest.raises(ConfigurationError) as caught:
        Auditor(journal=tmp_path, **settings)
    assert secret not in str(caught.value)
