"""Persons and secrets that are written so that a search of the text as it is would pass them by."""

import html
import json
import quopri
import re
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from klaviyo_audit.privacy import Gate, secrets
from klaviyo_audit.privacy.identifiers import Kind
from klaviyo_audit.privacy.keyring import KeyRing
from klaviyo_audit.privacy.plain import plain
from klaviyo_audit.privacy.pseudonyms import Pseudonyms, RingNaming
from klaviyo_audit.privacy.secrets import Credentials

RING = KeyRing.from_text("0123456789abcdef0123456789abcdef")
CREDENTIALS = Credentials()
CREDENTIALS.add("swordfish-and-chips")
GATE = Gate(Pseudonyms((RingNaming(RING),), RING.newest), credentials=CREDENTIALS)
ADDRESS = "dana.miller@mail.example.com"
NUMBER = "+15005550006"
KEY = "pk_" + "0123456789abcdef" * 2 + "01"
PERSON = GATE.pseudonym(Kind.EMAIL, ADDRESS)
PHONE = GATE.pseudonym(Kind.PHONE, NUMBER)


def times(number, encode, text):
    for _ in range(number):
        text = encode(text)
    return text


def percent(text):
    return "".join(f"%{byte:02x}" for byte in text.encode())


def entities(text):
    return "".join(f"&#{ord(one)};" for one in text)


def escapes(text):
    return "".join(f"\\u{ord(one):04x}" for one in text)


def braces(text):
    return "".join(f"\\u{{{ord(one):x}}}" for one in text)


def wide(text):
    return "".join(chr(ord(one) + 0xFEE0) for one in text)


def zero_width(text):
    return "\u200b".join(text)


def printable(text):
    """Quoted-printable (RFC 2045), each character by its number."""
    return "".join(f"={ord(one):02X}" for one in text)


ENCODINGS = [
    percent, entities, escapes, braces, wide, zero_width,
    "\0".join, "\u00ad".join, "\u2060".join, "\u200e".join,
    lambda text: html.escape(entities(text)),
    lambda text: quote(entities(text), safe=""),
    lambda text: json.dumps(json.dumps(wide(text))),
    lambda text: times(5, lambda one: quote(one, safe=""), percent(text)),
]  # fmt: skip


@pytest.mark.parametrize("encode", ENCODINGS)
@pytest.mark.parametrize(
    ("value", "shown"),
    [(ADDRESS, PERSON), (NUMBER, PHONE), (KEY, "[secret]"), ("swordfish-and-chips", "[secret]")],
)
def test_what_is_encoded_is_decoded_to_be_masked(encode, value, shown):
    cleaned = GATE.text(f"note {encode(value)} end")
    assert shown in cleaned
    assert cleaned.startswith("note ")
    assert cleaned.endswith(" end")
    assert value not in plain(cleaned)
    assert value not in plain(GATE.path(f"/api/profiles/{quote(encode(value), safe='')}"))


@pytest.mark.parametrize(
    "text",
    [
        ADDRESS.replace("@", "\u200b@\u200b"),
        ADDRESS.replace("dana", "da\ufeffna"),
        ADDRESS.replace("@", " @ "),
        ADDRESS.replace("@", "@ "),
        ADDRESS.replace("@", "@\n"),
        ADDRESS.replace("@", "(at)"),
        ADDRESS.replace("@", " [AT] "),
        ADDRESS.replace("@", "&amp;#64;"),
        ADDRESS.replace("@", "%26%2364%3B"),
        ADDRESS.replace("@", "=3D40"),
        printable(ADDRESS),
        ADDRESS.replace("@", "=\n@"),
        ADDRESS.replace("mil", "mil=\r\n"),
        quopri.encodestring(f"ä {ADDRESS} ü".encode(), quotetabs=True).decode().replace("@", "=40"),
        ADDRESS.replace(".", "\u3002"),
        ADDRESS.replace(".", "\u2024"),
    ],
)  # fmt: skip
def test_an_address_that_is_not_written_as_one(text):
    cleaned = GATE.text(f"note {text} end")
    assert "dana" not in cleaned
    assert "example" not in cleaned
    assert "email:k1:" in cleaned or "[email]" in cleaned


@pytest.mark.parametrize("end", ["=\n", "= \t\r\n"])
@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("id={}0015005550006", "id={}[phone]"),  # not the id id0015005550006
        ("id={}(500) 555-0006", "id={}[phone]"),
        ("call 0015005={}550006", "call [phone]"),
        ("token={}q8Zr7tYp2Lm9", "token={}[secret]"),
        ("token={}q8Zr7={}tYp2Lm9", "token={}[secret]"),
        ("da={}na@mail.exam={}ple.com, id={}7", "[email], id={}7"),
        ("id={}x1 y={}", "id={}x1 y={}"),
    ],
)
def test_a_line_that_goes_on_is_read_with_and_without_its_end(text, shown, end):
    def written(form):
        return form.replace("={}", end)

    assert Gate().text(f"note {written(text)} end") == f"note {written(shown)} end"


@pytest.mark.parametrize(
    "address", ["dana@[127.0.0.1]", "dana@[IPv6:2001:db8::1]", '"d m"@[10.0.0.1]']
)
def test_an_address_at_a_number_of_a_host(address):
    assert "@" not in GATE.text(f"note {address} end")


@pytest.mark.parametrize(
    "between",
    ["\u2009", "\u202f", "\u3000", "\u2007", "\u200b", "\u200e", "\t", "\n", "_", "~", "*", "·", "•", "\u2212", "・", "\uff0d"],
)  # fmt: skip
def test_a_number_with_anything_between(between):
    assert GATE.text(f"call +1{between}500{between}555{between}0006 now") == f"call {PHONE} now"


def test_a_number_with_brackets():
    for text in ("+1 [500] 555 0006", "+1\uff08500\uff095550006", "&plus;15005550006"):
        assert GATE.text(text) == PHONE


def test_what_decoding_reveals_nothing_in_stays_as_it_is():
    for text in (
        "100 % of 50%20 and &amp; \\n C:\\new =40 x=41 Straße \uff12\uff10 a\u200bb",
        "SELECT * FROM t WHERE a=3 AND b='x%20y'",
        "limit=30&offset=50%2C",
        "meet me at (at) noon @ 5",
        "token=[secret] Bearer [secret] 50%25",
    ):
        assert GATE.text(text) == text


def test_too_many_layers_are_not_read():
    text = times(9, lambda one: quote(one, safe=""), percent(ADDRESS))
    assert GATE.text(text) == "[not read: encoded more than 6 times]"


def test_what_reaches_across_the_cut():
    for place in range(960, 1_001):
        text = "x " * (place // 2) + entities(ADDRESS)
        cleaned = GATE.text(text).partition("[cut")[0]
        assert "dana" not in plain(cleaned)
        assert not re.search(r" d(a|an|ana)?\Z", plain(cleaned)), place


@given(st.text(max_size=300))
def test_cleaning_what_is_clean_changes_nothing(text):
    cleaned = GATE.text(text)
    assert GATE.text(cleaned) == cleaned


@given(st.sampled_from(ENCODINGS), st.text(alphabet="ab %&\\=@;#x0\u200b", max_size=40))
def test_no_surrounding_hides_an_address(encode, around):
    cleaned = GATE.text(f"{around} {encode(ADDRESS)} {around}")
    assert "dana.miller" not in (plain(cleaned) or "")


@given(st.from_regex(secrets._TOLD) | st.from_regex(secrets._SCHEME) | st.from_regex(secrets._KEY)
       | st.from_regex(secrets._MENTIONED) | st.from_regex(secrets._WEB_TOKEN))  # fmt: skip
def test_a_hint_is_in_all_that_the_formats_match(text):
    """The search for formats is left out where no hint is."""
    assert any(hint in secrets._lower(text) for hint in secrets.HINTS)


def test_an_actor_may_be_an_address_and_no_key():
    assert GATE.identity(ADDRESS) == ADDRESS
    assert "0123456789abcdef" not in plain(GATE.identity(f"dana {percent(KEY)}"))


def test_types_have_no_say():
    bad = type(ADDRESS, (), {})()
    assert GATE.value({"a": bad}) == {"a": "[object]"}
