"""The same person has the same pseudonym everywhere, and another with another key."""

import hashlib
import hmac
import re
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from klaviyo_audit.errors import ConfigurationError
from klaviyo_audit.privacy.identifiers import Kind, email, normalise, phone
from klaviyo_audit.privacy.keyring import KeyRing
from klaviyo_audit.privacy.pseudonyms import PATTERN, Mac, Pseudonyms, RingNaming
from tests.waiting import PATIENCE

PAGE = Path(__file__).parents[2] / "docs" / "privacy.md"
KEY = "0123456789abcdef0123456789abcdef"


def made(text=KEY):
    ring = KeyRing.from_text(text)
    return Pseudonyms((RingNaming(ring),), ring.newest)


@given(st.binary(max_size=200), st.binary(max_size=200))
def test_the_mac_is_hmac_sha256(key, message):
    assert Mac(key).hexdigest(message) == hmac.new(key, message, hashlib.sha256).hexdigest()


def vectors():
    rows = re.findall(
        r"^\| `(\w+)` \| `(.+?)` \| `(.+?)` \| `(\w+:k1:[0-9a-f]{32})` \|$",
        PAGE.read_text(encoding="utf-8"),
        re.MULTILINE,
    )
    assert len(rows) >= 8
    return rows


@pytest.mark.parametrize(("kind", "written", "normal", "pseudonym"), vectors())
def test_golden_vectors_of_the_page(kind, written, normal, pseudonym):
    written = written.encode("ascii", "backslashreplace").decode("unicode_escape")
    assert normalise(Kind(kind), written) == normal
    assert made().of(Kind(kind), written) == pseudonym
    # And by nothing but the standard library, as the page says.
    code = hmac.new(KEY.encode(), f"{kind}:{normal}".encode(), hashlib.sha256).hexdigest()[:32]
    assert pseudonym == f"{kind}:k1:{code}"


def test_the_same_in_another_process():
    program = (
        "import sys; from tests.privacy.test_pseudonyms import made, Kind;"
        "print(made().of(Kind.EMAIL, sys.argv[1]))"
    )
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", program, "DANA@Example.COM"],
        cwd=root,
        capture_output=True,
        text=True,
        check=True,
        timeout=PATIENCE,
        env={"PYTHONHASHSEED": "7", "PYTHONPATH": str(root)},
    )
    assert done.stdout.strip() == made().of(Kind.EMAIL, "dana@example.com")


def test_other_keys_and_kinds_are_unlinkable():
    people = [f"person{number}@example.com" for number in range(200)]
    one, other = made(), made(KEY[::-1])
    first = {one.of(Kind.EMAIL, person).split(":")[2] for person in people}
    second = {other.of(Kind.EMAIL, person).split(":")[2] for person in people}
    third = {one.of(Kind.EXTERNAL_ID, person).split(":")[2] for person in people}
    assert len(first) == len(second) == len(third) == 200
    assert not first & second
    assert not first & third


def test_rotation_writes_the_newest_and_finds_all():
    both = made(f"k2:{KEY[::-1]},k1:{KEY}")
    old, new = made(), made(f"k2:{KEY[::-1]}")
    assert both.of(Kind.EMAIL, "a@b.de") == new.of(Kind.EMAIL, "a@b.de")
    assert both.all_of(Kind.EMAIL, "A@b.de") == [
        new.of(Kind.EMAIL, "a@b.de"),
        old.of(Kind.EMAIL, "a@b.de"),
    ]


def test_a_pseudonym_is_found_in_text_and_says_nothing():
    name = made().of(Kind.EMAIL, "dana@example.com")
    assert PATTERN.fullmatch(name)
    assert PATTERN.findall(f"x {name}, {name}0 y") == [name]
    assert "dana" not in name


@given(st.emails())
def test_spellings_of_an_address_are_one(address):
    normal = email(address)
    assert normal is not None
    assert email(normal) == normal
    assert email(f" {address} ") == normal
    assert email(address.rpartition("@")[0] + "@" + address.rpartition("@")[2].upper()) == normal


@pytest.mark.parametrize(
    "value", ["", "dana", "@example.com", "dana@", "a b@example.com", "a@b@", "x" * 65 + "@a.de",
              "a@" + "b" * 64 + ".de", "a@-b.de", "a@b..de", "a@\ud800.de", "a" * 10_000 + "@b.de"]
)  # fmt: skip
def test_what_is_no_address_has_no_pseudonym(value):
    assert made().of(Kind.EMAIL, value) is None


@pytest.mark.parametrize(
    "spelling",
    [
        "dana@example\u3002com", "dana@example\uff0ecom", "dana@example\uff61com",
        "dana@example.com.", "dana@example\u3002com\u3002", "\uff24ana\uff20EXAMPLE\uff0eCOM",
        "da\u200bna@example.com", "dana@exa\u200dmple.com", "da\u200cna@example.com",
        "dana\ufe0f@example.com", "da\u061cna@ex\u034fample.com", "\ufeffdana@example.com\u200d",
        '"dana"@example.com', '"d\\ana"@example.com', "mailto:dana@example.com",
        "MAILTO:Dana%40Example.com?subject=dana+x@example.com", " dana@example.com\n",
    ],
)  # fmt: skip
def test_equal_spellings_of_an_address(spelling):
    assert email(spelling) == "dana@example.com"
    assert made().all_of(Kind.EMAIL, spelling) == [made().of(Kind.EMAIL, "dana@example.com")]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("dana@bücher.de", "dana@xn--bcher-kva.de"),
        ("dana@bu\u0308cher.de", "dana@XN--BCHER-KVA.DE."),
        ("dana@straße.de", "dana@xn--strae-oqa.de"),
        ("dana@例え。テスト", "dana@xn--r8jz45g.xn--zckzah"),
        ("dana@\u0645\u062b\u0627\u0644\u200c\u0647\u0627.com", "dana@xn--mgbak5hcp2927b.com"),
    ],
)
def test_a_domain_in_unicode_and_in_ascii(one, other):
    assert email(one) == email(other) is not None


@pytest.mark.parametrize(
    "other",
    [
        "dana+news@example.com", "d.ana@example.com", '"da na"@example.com', '".dana"@example.com',
        "dana@mail.example.com", "dana@ex\u0430mple.com", "dana@straße.de", "dana@strasse.de",
        "dàna@example.com", "dana-@example.com",
    ],
)  # fmt: skip
def test_other_persons(other):
    assert email(other) not in (None, "dana@example.com")
    assert (email(other) == email("dana@strasse.de")) is (other == "dana@strasse.de")


def test_numbers():
    assert phone("+44 (0)20 7946 0018") == "+442079460018"
    assert phone("0044 20 7946 0018") == "+442079460018"
    assert phone("020 7946 0018") is None
    assert phone("+0123456789") is None
    assert phone("+1") is None
    assert phone("+1234567890123456") is None


def test_keys_from_a_file_that_others_cannot_read(tmp_path):
    path = tmp_path / "keys"
    path.write_text(f"k2:{KEY[::-1]}\nk1:{KEY}\n")
    path.chmod(0o644)
    with pytest.raises(ConfigurationError, match="chmod 600"):
        KeyRing.from_file(path)
    path.chmod(0o600)
    assert [key.id for key in KeyRing.from_file(path).keys] == ["k2", "k1"]
    with pytest.raises(ConfigurationError, match="cannot be read"):
        KeyRing.from_file(tmp_path / "none")


def test_keys_from_a_command():
    ring = KeyRing.from_command(f"{sys.executable} -c \"print('k3:{KEY}')\"")
    assert ring.newest.id == "k3"
    assert KEY not in repr(ring)
    with pytest.raises(ConfigurationError, match="exit code 3"):
        KeyRing.from_command(f'{sys.executable} -c "raise SystemExit(3)"')
    with pytest.raises(ConfigurationError, match="cannot be run"):
        KeyRing.from_command("/no/such/program")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "there is no key"),
        ("k1:short", "shorter than 16"),
        (f"{KEY},{KEY[::-1]}", "key 1 of 2 has no id"),
        (f"k1:{KEY},k1:{KEY[::-1]}", "is taken"),
        (f"s1:{KEY}", "is taken"),
    ],
)
def test_bad_keys_are_refused_without_being_shown(text, told):
    with pytest.raises(ConfigurationError, match=told) as caught:
        KeyRing.from_text(text)
    assert KEY not in str(caught.value)
    assert KEY[::-1] not in str(caught.value)
