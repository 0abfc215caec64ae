"""The allow-list keeps nothing that Klaviyo's API lets callers write freely."""

import json
from pathlib import Path

import pytest

from klaviyo_audit.klaviyo import kept
from klaviyo_audit.klaviyo.capture import request_shape, response_shape
from klaviyo_audit.klaviyo.kept import Treatment
from klaviyo_audit.klaviyo.risks import table
from klaviyo_audit.klaviyo.subjects import PLACES
from klaviyo_audit.privacy import Gate

OPENAPI = Path(__file__).parents[3] / "shared" / "klaviyo-openapi" / "stable.json"
URL = "https://a.klaviyo.com/api/profiles"


def shaped(body, method="POST", path="/api/profiles"):
    return request_shape(URL, body, kept.kept_for(method, path), Gate())["body"]


def test_rows_are_about_members_that_the_api_has():
    for row in kept.table():
        assert row.member in kept.members()
        assert bool(row.values) == (row.keeps is Treatment.CHOICE)
    for method, path in PLACES:
        if path.startswith("/client/"):
            continue  # the SDK has no operation for these; a program can still call them
        assert any((one.method, one.path) == (method, path) for one in table().values()), path


@pytest.mark.parametrize(
    "value",
    [
        "Miller",
        "subscribed ",
        "SUBSCRIBED; Dana",
        "2026-11-23 Dana",
        "",
        "dana@example.com",
        15005550006,
        4e9,
        ["x"],
    ],
)
@pytest.mark.parametrize("row", kept.table(), ids=lambda row: row.member)
def test_no_free_value_stays_under_any_name(row, value):
    if row.keeps is Treatment.IDENTIFIER and value == "Miller":
        return  # ids are kept, whatever they look like
    found = json.dumps(shaped({"data": {row.member: value}}))
    for word in ("Miller", "Dana", "dana", "15005550006", "4000000000", ";"):
        assert word not in found


def test_a_body_keeps_what_is_listed_and_shapes():
    body = {
        "data": {
            "type": "profile",
            "id": "01HXYZ",
            "attributes": {
                "email": "dana@example.com",
                "title": "Dr Dana",
                "location": {"city": "Berlin", "latitude": 52.5},
                "properties": {"Dana Miller": "x", "y": 1},
                "Miller": "z",
                "_kx": "exchange-id",
                "created": "2026-11-23T19:00:00+00:00",
                "subscriptions": {"email": {"marketing": {"consent": "SUBSCRIBED"}}},
            },
        }
    }
    assert shaped(body)["data"] == {
        "type": "profile",
        "id": "01HXYZ",
        "attributes": {
            "email": "str(16)",
            "title": "str(7)",
            "location": {"city": "str(6)", "latitude": "float"},
            "properties": {"[members]": 2},
            "_kx": "[secret]",
            "created": "2026-11-23T19:00:00+00:00",
            "subscriptions": {"email": {"marketing": {"consent": "SUBSCRIBED"}}},
            "[left out]": 1,
        },
    }


def test_queries_keep_names_of_the_api_only():
    url = (
        URL + "?filter=any(email,%5B%22dana@example.com%22%5D),equals(Miller,%22x%22)"
        "&fields[profile]=email,first_name&fields[list]=Miller&page[size]=20&sort=-created"
        "&page[cursor]=abc&Miller=1&include=lists"
    )
    query = request_shape(url, None, kept.kept_for("GET", "/api/profiles"), Gate())["query"]
    assert query == {
        "filter": ["any(email)", "equals(?)"],
        "fields[profile]": "email,first_name",
        "fields[list]": "str(6)",
        "page[size]": "20",
        "sort": "-created",
        "page[cursor]": "str(3)",
        "include": "lists",
        "[left out]": 1,
    }


def test_responses_are_bounded():
    allowed = kept.kept_for("GET", "/api/profiles")
    assert response_shape(b"{}" + b" " * 1_048_576, allowed, Gate()) == {"bytes": 1_048_578}
    assert response_shape(b"no json", allowed, Gate()) == {"bytes": 7, "json": False}
    many = {"data": [{"type": "profile", "id": "01H"}] * 500, "links": {"next": "https://x"}}
    assert response_shape(json.dumps(many).encode(), allowed, Gate()) == {
        "data": {"count": 500, "first": {"type": "profile", "id": "01H"}},
        "links": {"next": "str(9)"},
    }
    nested = {"data": {}}
    for _ in range(200):
        nested = {"data": nested, "attributes": nested}
    assert len(json.dumps(shaped(nested))) < 100_000


def schemas(document):
    """Each named member with the schema of its values, wherever it is in the document."""

    def resolve(schema):
        while "$ref" in schema:
            schema = document["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
        return schema

    def walk(schema, name):
        for inner, one in schema.get("properties", {}).items():
            yield inner, resolve(one)
            yield from walk(one, inner)
        for key in ("oneOf", "anyOf", "allOf"):
            for one in schema.get(key, ()):
                if name is not None and "$ref" not in one:
                    yield name, one
                yield from walk(one, name)
        if "items" in schema:
            yield from walk(schema["items"], name)

    for schema in document["components"]["schemas"].values():
        yield from walk(schema, None)


def test_against_klaviyos_own_description():
    if not OPENAPI.exists():
        pytest.skip(f"Klaviyo's OpenAPI file is not at {OPENAPI}")
    document = json.loads(OPENAPI.read_text())
    rows = {row.member: row for row in kept.table()}
    described = {}
    for name, schema in schemas(document):
        described.setdefault(name, []).append(schema)
    assert set(described) <= kept.members(), "names that the API has since got"
    for name, row in rows.items():
        given = described.get(name, [])
        if row.keeps is Treatment.TIME:
            assert any("date" in str(one) for one in given), name
        if row.keeps is Treatment.COUNT:
            assert all("string" not in str(one.get("type")) for one in given), name
    # Members that identify persons are never on the list.
    assert not set(kept.PERSONAL) & set(rows)
