"""KeySource: an exchanged key is taken up on the 401, once, and the trail says so."""

import logging
import random
import sys
import threading

import pytest

from klaviyo_audit import ConfigurationError, KeySource, instrument, uninstrument
from klaviyo_audit.klaviyo.keys import fingerprint
from klaviyo_audit.testing import FakeKlaviyo
from tests.security.planting import made_up_key

RNG = random.Random(51)
LIST = {"data": {"type": "list", "attributes": {"name": "one"}}}


@pytest.fixture
def old():
    return made_up_key(RNG, site=False)


@pytest.fixture
def new():
    return made_up_key(RNG, site=False)


@pytest.fixture
def fake(old, new):
    with FakeKlaviyo(keys={old: None, new: None}) as fake:
        yield fake


@pytest.fixture(params=["environment", "file", "command"])
def store(request, tmp_path, monkeypatch):
    """A place for a key: the source that reads it, and how to put one there."""
    path = tmp_path / "key"
    if request.param == "environment":
        return KeySource.environment("THE_KEY"), lambda key: monkeypatch.setenv("THE_KEY", key)
    if request.param == "file":
        return KeySource.file(path), lambda key: path.write_text(f"{key}\n")
    code = f"print(open({str(path)!r}).read())"
    return KeySource.command([sys.executable, "-c", code]), path.write_text


def test_a_key_that_was_exchanged_is_taken_up(store, fake, auditor, trail, old, new):
    source, put = store
    put(old)
    klaviyo = auditor.audit(source.attach(fake.client(api_key=source.key()), auditor=auditor))
    klaviyo.Lists.create_list(LIST)
    put(new)
    klaviyo.Lists.create_list(LIST)  # still the old one: nothing is read without a reason
    fake.disable_key(old)
    assert klaviyo.Lists.create_list(LIST).data.id
    klaviyo.Profiles.get_profiles()
    # The write was refused once and done once.
    assert [r.status for r in fake.requests if r.method == "POST"] == [201, 201, 401, 201]
    used = [outcome["key"]["fingerprint"] for outcome in trail.outcomes()]
    assert used == [fingerprint(key) for key in (old, old, new, new)]
    assert [outcome["http"]["requests"] for outcome in trail.outcomes()] == [1, 1, 2, 1]
    assert {outcome["result"] for outcome in trail.outcomes()} == {"success"}
    (event,) = trail.of("event")
    assert event["action"] == "klaviyo_audit.key_read_again"
    assert event["parent_id"] == trail.outcomes()[2]["id"]
    assert (event["metadata"]["refused"], event["metadata"]["now"]) == (
        fingerprint(old),
        fingerprint(new),
    )
    text = trail.path.read_text()
    assert old not in text
    assert new not in text


def test_without_another_key_the_401_is_the_callers_and_nothing_is_read_again_soon(
    fake, auditor, trail, old, tmp_path, caplog, said
):
    (tmp_path / "key").write_text(old)
    reads = tmp_path / "reads"
    code = f"open({str(reads)!r}, 'a').write('x'); print(open('key').read())"
    source = KeySource.command([sys.executable, "-c", code])
    klaviyo = auditor.audit(source.attach(fake.client(api_key=source.key()), auditor=auditor))
    fake.disable_key(old)
    with caplog.at_level(logging.WARNING, "klaviyo_audit"):
        for _ in range(3):
            with pytest.raises(Exception) as refused:
                klaviyo.Profiles.get_profiles()
            assert refused.value.status == 401
    assert reads.read_text() == "xx"  # at the start, and once
    assert fake.count == 3
    (event,) = trail.of("event")
    assert event["result"] == "failure"
    assert old not in caplog.text
    assert len(said()) == 1


@pytest.mark.parametrize("trouble", ["gone", "empty", "binary", "fails", "hangs"])
def test_a_source_that_fails_breaks_no_call(trouble, fake, auditor, trail, old, tmp_path):
    path = tmp_path / "key"
    path.write_text(old)
    source = {
        "fails": lambda: KeySource.command([sys.executable, "-c", "import sys; sys.exit('pk_x')"]),
        "hangs": lambda: KeySource.command(["sleep", "30"], timeout=0.2),
    }.get(trouble, lambda: KeySource.file(path))()
    klaviyo = auditor.audit(source.attach(fake.client(api_key=old), auditor=auditor))
    if trouble == "gone":
        path.unlink()
    else:
        path.write_bytes({"empty": b"\n", "binary": b"\xff\x00"}.get(trouble, b""))
    fake.disable_key(old)
    with pytest.raises(Exception) as refused:
        klaviyo.Profiles.get_profiles()
    assert refused.value.status == 401
    assert trail.of("event")[-1]["metadata"]["error"]
    with pytest.raises(ConfigurationError) as told:
        source.key()
    assert "pk_" not in str(told.value)


def test_many_threads_read_once(fake, auditor, trail, old, new, tmp_path):
    path = tmp_path / "key"
    path.write_text(old)
    source = KeySource.file(path)
    klaviyo = auditor.audit(source.attach(fake.client(api_key=source.key()), auditor=auditor))
    klaviyo.Profiles.get_profiles()
    path.write_text(new)
    fake.disable_key(old)
    failed = []
    start = threading.Barrier(8)

    def work():
        start.wait()
        for _ in range(5):
            try:
                klaviyo.Profiles.get_profiles()
            except Exception as error:
                failed.append(error)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []
    assert len(trail.of("event")) == 1
    assert len([r for r in fake.requests if r.status == 401]) <= 8


def test_a_key_of_one_call_is_left_alone(fake, auditor, trail, old, new, tmp_path):
    (tmp_path / "key").write_text(new)
    source = KeySource.file(tmp_path / "key")
    klaviyo = auditor.audit(source.attach(fake.client(api_key=old), auditor=auditor))
    with pytest.raises(Exception) as refused:
        klaviyo.Profiles.get_profiles_with_http_info(_request_auth=made_up_key(RNG))
    assert refused.value.status == 401
    assert trail.of("event") == []
    assert fake.count == 1


def test_an_oauth_token(fake, auditor, trail, tmp_path):
    old, new = "token-" + "a1" * 20, "token-" + "b2" * 20
    fake._access._keys |= {new: None}
    (tmp_path / "token").write_text(new)
    source = KeySource.file(tmp_path / "token")
    klaviyo = auditor.audit(
        source.attach(fake.client(api_key=None, access_token=old), auditor=auditor)
    )
    klaviyo.Profiles.get_profiles()
    assert fake.requests[-1].headers["authorization"] == f"Bearer {new}"


def test_under_instrument_and_with_nobody_auditing(fake, trail, old, new, tmp_path):
    from klaviyo_audit.default import configure, reset_default

    (tmp_path / "key").write_text(old)
    source = KeySource.file(tmp_path / "key")
    client = source.attach(source.attach(fake.client(api_key=source.key())))
    configure(journal=trail.folder)
    instrument()
    try:
        (tmp_path / "key").write_text(new)
        fake.disable_key(old)
        client.Profiles.get_profiles()
    finally:
        uninstrument()
        reset_default()
    (outcome,) = trail.outcomes()
    assert outcome["key"]["fingerprint"] == fingerprint(new)
    assert outcome["http"]["requests"] == 2
    assert client.api_key == new
    client.Profiles.get_profiles()
    assert fake.count == 3


def test_mistakes_are_told(tmp_path):
    with pytest.raises(ConfigurationError, match="attach a KlaviyoAPI"):
        KeySource.environment("X").attach(object())
    with pytest.raises(ConfigurationError, match="takes a list"):
        KeySource.command("cat /key")
    with pytest.raises(ConfigurationError, match="environment variable NOT_SET"):
        KeySource.environment("NOT_SET").key()
    assert "NOT_SET" in repr(KeySource.environment("NOT_SET"))


def test_a_key_in_place_of_its_variables_name_is_not_repeated(old):
    source = KeySource.environment(old)
    assert old not in repr(source)
    with pytest.raises(ConfigurationError, match="not set, empty, or no key") as caught:
        source.key()
    assert old not in str(caught.value)
