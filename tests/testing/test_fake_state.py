"""Profiles, lists and events that a FakeKlaviyo is sent are there afterwards."""

import json
import threading
import time

import pytest
import urllib3
from openapi_client.exceptions import ApiException, NotFoundException

from klaviyo_audit.testing import FakeKlaviyo, store
from klaviyo_audit.testing.exchange import Answer


@pytest.fixture
def fake():
    with FakeKlaviyo() as server:
        yield server


@pytest.fixture
def strict():
    with FakeKlaviyo(strict=True) as server:
        yield server


def profile_body(profile_id=None, **attributes):
    data = {"type": "profile", "attributes": attributes}
    return {"data": data if profile_id is None else {**data, "id": profile_id}}


def list_body(name, list_id=None):
    data = {"type": "list", "attributes": {"name": name}}
    return {"data": data if list_id is None else {**data, "id": list_id}}


def members_body(*profile_ids):
    return {"data": [{"type": "profile", "id": each} for each in profile_ids]}


def event_body(metric="Placed Order", properties=None, profile=None, **more):
    attributes = {
        "metric": {"data": {"type": "metric", "attributes": {"name": metric}}},
        "profile": {
            "data": {"type": "profile", **(profile or {"attributes": {"email": "a@b.co"}})}
        },
        "properties": properties or {},
        **more,
    }
    return {"data": {"type": "event", "attributes": attributes}}


def deletion_body(**who):
    profile = {"data": {"type": "profile", "attributes": {}, **who}}
    return {"data": {"type": "data-privacy-deletion-job", "attributes": {"profile": profile}}}


def errors_of(raised):
    (error,) = json.loads(raised.value.body)["errors"]
    return error


def test_profile_is_created_read_changed_and_deleted(fake):
    client = fake.client()
    profiles = client.Profiles
    body = profile_body(email="ada@shop.example", first_name="Ada", properties={"tier": "gold"})
    made = profiles.create_profile_with_http_info(body)
    assert made.status_code == 201
    profile_id = made.data.data.id
    assert len(profile_id) == 26

    read = profiles.get_profile(profile_id).data.attributes
    assert (read.email, read.first_name) == ("ada@shop.example", "Ada")
    assert read.created is not None

    change = profile_body(profile_id, last_name="L", properties={"points": 3})
    assert profiles.update_profile(profile_id, change).data.id == profile_id
    read = profiles.get_profile(profile_id).data.attributes
    assert (read.first_name, read.last_name) == ("Ada", "L")
    assert read.properties == {"tier": "gold", "points": 3}, "an update adds to the properties"
    assert [each.id for each in profiles.get_profiles().data] == [profile_id]

    asked = deletion_body(attributes={"email": "ada@shop.example"})
    deleted = client.Data_Privacy.request_profile_deletion_with_http_info(asked)
    assert deleted.status_code == 202
    with pytest.raises(NotFoundException) as raised:
        profiles.get_profile(profile_id)
    assert errors_of(raised)["code"] == "not_found"
    assert profile_id in errors_of(raised)["detail"]
    with pytest.raises(NotFoundException):
        profiles.update_profile(profile_id, change)
    assert profiles.get_profiles().data == []


def test_deletion_by_id_takes_the_events_along(fake):
    client = fake.client()
    client.Events.create_event(event_body())
    (event,) = client.Events.get_events().data
    profile_id = event.relationships.profile.data.id
    assert client.Profiles.get_profile(profile_id).data.attributes.email == "a@b.co"
    client.Data_Privacy.request_profile_deletion(deletion_body(id=profile_id))
    for read, gone in (
        (client.Profiles.get_profile, profile_id),
        (client.Events.get_event, event.id),
    ):
        with pytest.raises(NotFoundException):
            read(gone)


@pytest.mark.parametrize(
    "identifier", [{"email": "a@b.co"}, {"phone_number": "+15550100"}, {"external_id": "7"}]
)
def test_a_second_profile_with_an_identifier_is_a_conflict(fake, identifier):
    profiles = fake.client().Profiles
    first = profiles.create_profile(profile_body(**identifier)).data.id
    with pytest.raises(ApiException) as raised:
        profiles.create_profile(profile_body(first_name="B", **identifier))
    assert raised.value.status == 409
    assert errors_of(raised)["code"] == "duplicate_profile"
    assert errors_of(raised)["meta"] == {"duplicate_profile_id": first}

    second = profiles.create_profile(profile_body(first_name="C")).data.id
    with pytest.raises(ApiException) as raised:
        profiles.update_profile(second, profile_body(second, **identifier))
    assert raised.value.status == 409
    profiles.update_profile(first, profile_body(first, title="Dr", **identifier))


def test_an_identifier_is_free_again(fake):
    client = fake.client()
    profiles = client.Profiles
    first = profiles.create_profile(profile_body(email="a@b.co")).data.id
    profiles.update_profile(first, profile_body(first, email="new@b.co"))
    second = profiles.create_profile(profile_body(email="a@b.co")).data.id
    client.Data_Privacy.request_profile_deletion(deletion_body(id=second))
    assert profiles.create_profile(profile_body(email="a@b.co")).data.id not in (first, second)


def test_a_deleted_profile_hides_no_other(fake):
    client = fake.client()
    profiles = client.Profiles
    profiles.create_profile(profile_body(email="a@b.co"))
    kept = profiles.create_profile(profile_body(external_id="7")).data.id
    client.Data_Privacy.request_profile_deletion(deletion_body(attributes={"email": "a@b.co"}))
    body = profile_body(email="a@b.co", external_id="7")
    assert profiles.create_or_update_profile(body).data.id == kept


def test_import_creates_then_updates(fake):
    profiles = fake.client().Profiles
    made = profiles.create_or_update_profile_with_http_info(profile_body(email="a@b.co"))
    again = profiles.create_or_update_profile_with_http_info(
        profile_body(email="a@b.co", first_name="Ada")
    )
    assert (made.status_code, again.status_code) == (201, 200)
    assert made.data.data.id == again.data.data.id
    assert profiles.get_profile(made.data.data.id).data.attributes.first_name == "Ada"


def test_list_is_created_read_changed_and_deleted(fake):
    lists = fake.client().Lists
    made = lists.create_list_with_http_info(list_body("Newsletter"))
    assert made.status_code == 201
    list_id = made.data.data.id
    assert len(list_id) == 6
    assert lists.get_list(list_id).data.attributes.name == "Newsletter"
    lists.update_list(list_id, list_body("Weekly", list_id))
    assert lists.get_list(list_id).data.attributes.name == "Weekly"
    other = lists.create_list(list_body("Monthly")).data.id
    assert [each.id for each in lists.get_lists().data] == [list_id, other]

    assert lists.delete_list_with_http_info(list_id).status_code == 204
    for again in (lists.get_list, lists.delete_list, lists.get_profiles_for_list):
        with pytest.raises(NotFoundException):
            again(list_id)
    assert [each.id for each in lists.get_lists().data] == [other]


def test_members_of_a_list(fake):
    client = fake.client()
    lists, profiles = client.Lists, client.Profiles
    list_id = lists.create_list(list_body("Newsletter")).data.id
    ids = [profiles.create_profile(profile_body(email=f"{n}@b.co")).data.id for n in range(3)]
    lists.add_profiles_to_list(list_id, members_body(*ids))
    lists.add_profiles_to_list(list_id, members_body(ids[0]))
    lists.remove_profiles_from_list(list_id, members_body(ids[1]))
    kept = [ids[0], ids[2]]
    assert [each.id for each in lists.get_profiles_for_list(list_id).data] == kept
    assert [each.id for each in lists.get_profile_ids_for_list(list_id).data] == kept
    client.Data_Privacy.request_profile_deletion(deletion_body(id=ids[0]))
    assert [each.id for each in lists.get_profile_ids_for_list(list_id).data] == [ids[2]]


def test_event_is_kept_and_makes_its_profile(fake):
    client = fake.client()
    sent = event_body(
        properties={"sku": "A1"}, unique_id="order-1", value=9.5, time="2026-11-23T19:00:00.9+00:00"
    )
    assert client.Events.create_event_with_http_info(sent).status_code == 202
    (event,) = client.Events.get_events().data
    assert event.attributes.event_properties == {
        "sku": "A1",
        "$event_id": "order-1",
        "$value": 9.5,
    }
    assert event.attributes.timestamp == 1795460400, "time is cut to the second"
    (profile,) = client.Profiles.get_profiles().data
    assert profile.attributes.email == "a@b.co"
    assert event.relationships.profile.data.id == profile.id
    assert client.Events.get_event(event.id).data == event


def test_of_a_unique_id_the_first_event_stays(fake):
    events = fake.client().Events
    events.create_event(event_body(properties={"n": 1}, unique_id="x"))
    events.create_event(event_body(properties={"n": 2}, unique_id="x"))
    events.create_event(event_body(properties={"n": 3}, unique_id="y"))
    events.create_event(event_body("Refund", properties={"n": 4}, unique_id="x"))
    kept = [each.attributes.event_properties["n"] for each in events.get_events().data]
    assert kept == [1, 3, 4]


def test_without_a_unique_id_one_event_a_second_stays(fake):
    events = fake.client().Events
    sent = 8
    for _ in range(sent):
        events.create_event(event_body())
    seconds = {int(request.at) for request in fake.requests}
    assert 1 <= len(events.get_events().data) <= len(seconds) + 1 < sent


def test_pages(fake):
    profiles = fake.client().Profiles
    made = [profiles.create_profile(profile_body(email=f"{n}@b.co")).data.id for n in range(7)]
    seen, cursor = [], None
    while True:
        answer = profiles.get_profiles(page_size=3, **({"page_cursor": cursor} if cursor else {}))
        seen.append([each.id for each in answer.data])
        cursor = answer.links.next
        if not cursor:
            break
    assert seen == [made[:3], made[3:6], made[6:]]


def test_usual_page_size_is_that_of_klaviyo(fake):
    lists = fake.client().Lists
    for number in range(11):
        lists.create_list(list_body(f"L{number}"))
    assert len(lists.get_lists().data) == 10


def test_filters(fake):
    profiles = fake.client().Profiles
    made = {
        name: profiles.create_profile(profile_body(email=f"{name}@b.co", title=name)).data.id
        for name in ("a", "b", "c")
    }

    def ids(wanted):
        return [each.id for each in profiles.get_profiles(filter=wanted).data]

    assert ids('equals(email,"b@b.co")') == [made["b"]]
    assert ids('equals(email,"B@b.co")') == []
    assert ids('any(email,["a@b.co","c@b.co"])') == [made["a"], made["c"]]
    assert ids('any(email,["a@b.co","c@b.co"]),equals(title,"c")') == [made["c"]]
    assert ids(f'equals(id,"{made["a"]}")') == [made["a"]]
    assert len(ids("greater-than(created,2020-01-01)")) == 3


def test_events_of_a_profile(fake):
    client = fake.client()
    for name in ("a", "b"):
        client.Events.create_event(event_body(profile={"attributes": {"email": f"{name}@b.co"}}))
    (a, _) = client.Profiles.get_profiles().data
    (event,) = client.Events.get_events(filter=f'equals(profile_id,"{a.id}")').data
    assert event.relationships.profile.data.id == a.id


def test_unknown_ids_are_taken_as_any(fake):
    client = fake.client()
    assert client.Profiles.get_profile("unknown").data.id == "unknown"
    assert client.Events.get_event("unknown").data.id == "unknown"
    changed = client.Lists.update_list("unknown", list_body("New", "unknown"))
    assert changed.data.attributes.name == "New"
    for _ in range(2):
        client.Lists.delete_list("unknown")
        client.Data_Privacy.request_profile_deletion(deletion_body(id="unknown"))
    assert client.Lists.get_list("unknown").data.id == "unknown"
    assert client.Lists.get_lists().data == []


def test_strict_does_not_know_unknown_ids(strict):
    client = strict.client()
    for call in (
        lambda: client.Profiles.get_profile("unknown"),
        lambda: client.Events.get_event("unknown"),
        lambda: client.Lists.update_list("unknown", list_body("New", "unknown")),
        lambda: client.Lists.delete_list("unknown"),
        lambda: client.Lists.add_profiles_to_list("unknown", members_body("x")),
    ):
        with pytest.raises(NotFoundException):
            call()
    assert client.Templates.get_template("any").data.id == "any"


@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        (event_body(metric="m" * 128), "/data/attributes/metric"),
        (event_body(profile={"attributes": {"first_name": "A"}}), "/data/attributes/profile"),
    ],
)
def test_strict_refuses_incomplete_events(strict, fake, body, pointer):
    with pytest.raises(ApiException) as raised:
        strict.client().Events.create_event(body)
    assert raised.value.status == 400
    assert errors_of(raised)["source"] == {"pointer": pointer}
    events = fake.client().Events
    assert events.create_event_with_http_info(body).status_code == 202
    assert events.get_events().data == [], "taken, but nothing came of it"


@pytest.mark.parametrize("body", [b"", b"not json", b"[]", b'{"data":[]}', b'{"data":1}'])
def test_a_body_that_is_no_resource_is_refused(fake, body):
    with urllib3.PoolManager() as pool:
        answer = pool.request("POST", fake.url + "/api/profiles", body=body)
    assert answer.status == 400
    assert answer.json()["errors"][0]["code"] == "invalid"


def test_a_foreign_cursor_is_refused(fake):
    with pytest.raises(ApiException) as raised:
        fake.client().Profiles.get_profiles(page_cursor="abcdefg")
    assert raised.value.status == 400


def test_forget(fake):
    client = fake.client()
    list_id = client.Lists.create_list(list_body("L")).data.id
    client.Lists.delete_list(list_id)
    fake.forget()
    assert client.Lists.get_list(list_id).data.id == list_id


def test_the_oldest_go_when_there_are_too_many(fake, monkeypatch):
    monkeypatch.setattr(store, "_LIMIT", 2)
    profiles = fake.client().Profiles
    made = [profiles.create_profile(profile_body(email=f"{n}@b.co")).data.id for n in range(3)]
    assert [each.id for each in profiles.get_profiles().data] == made[1:]
    assert profiles.create_profile(profile_body(email="0@b.co")).data.id not in made


def test_ids_are_the_same_in_each_run():
    seen = []
    for _ in range(2):
        with FakeKlaviyo() as server:
            seen.append(server.client().Profiles.create_profile(profile_body(email="a@b.co")))
    assert seen[0].data.id == seen[1].data.id


def test_threads_lose_nothing(fake):
    def create(start):
        lists = fake.client().Lists
        for number in range(start, start + 10):
            lists.create_list(list_body(f"L{number}"))

    threads = [threading.Thread(target=create, args=(start,)) for start in range(0, 60, 10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    lists, names, cursor = fake.client().Lists, [], None
    while True:
        answer = lists.get_lists(**({"page_cursor": cursor} if cursor else {}))
        names += [each.attributes.name for each in answer.data]
        cursor = answer.links.next
        if not cursor:
            break
    assert sorted(names) == sorted(f"L{number}" for number in range(60))


def test_an_operation_of_ones_own(fake):
    seen = []

    def handler(exchange):
        seen.append((exchange.ids, exchange.query, exchange.data()["type"]))
        return Answer(202, b'{"data": null}')

    fake.on("patch", "/api/templates/{id}/", handler)
    with urllib3.PoolManager() as pool:
        url = fake.url + "/api/templates/T1?fields%5Btemplate%5D=name"
        answer = pool.request("PATCH", url, body=b'{"data":{"type":"template"}}')
    assert (answer.status, answer.data) == (202, b'{"data": null}')
    assert seen == [(("T1",), {"fields[template]": "name"}, "template")]


def test_operations_run_one_at_a_time(fake):
    running, most = [], []

    def handler(_exchange):
        running.append(1)
        time.sleep(0.005)
        most.append(len(running))
        running.pop()
        return Answer(204)

    fake.on("GET", "/api/templates/{id}", handler)

    def call():
        with urllib3.PoolManager() as pool:
            pool.request("GET", fake.url + "/api/templates/T1")

    threads = [threading.Thread(target=call) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1] * 8


def test_a_broken_operation_says_so(fake):
    def handler(_exchange):
        raise ZeroDivisionError("in the test")

    fake.on("GET", "/api/templates/{id}", handler)
    with pytest.raises(ApiException) as raised:
        fake.client(max_retries=1).Templates.get_template("T1")
    assert raised.value.status == 500
    assert "ZeroDivisionError: in the test" in errors_of(raised)["detail"]
