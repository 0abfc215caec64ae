"""Persons and secrets are found however they are written, and in time linear in the text."""

import json
import random
import sys
import uuid
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from klaviyo_audit.privacy import detection, secrets
from klaviyo_audit.privacy.identifiers import Kind
from tests import planted

ADDRESS = "dana.miller+x@example.com"


def values(text, region=None):
    return [value for found in detection.find(text, region) for value in found.values]


@pytest.mark.parametrize(
    "text",
    [
        ADDRESS,
        ADDRESS.upper(),
        f"<{ADDRESS}>",
        f"hello {ADDRESS}.",
        f"'{ADDRESS}'",
        f"mailto:{ADDRESS}?subject=hi",
        f"email={ADDRESS}&x=1",
        f'equals(email,"{ADDRESS}")',
        quote(f'equals(email,"{ADDRESS}")'),
        quote(quote(ADDRESS, safe=""), safe=""),
        quote(quote(quote(ADDRESS, safe=""), safe=""), safe=""),
        json.dumps({"email": ADDRESS}),
        json.dumps(json.dumps({"email": ADDRESS})),
        json.dumps({"email": ADDRESS}).replace("@", "\\u0040"),
        json.dumps(f"a\n{ADDRESS}\tb"),
        ADDRESS.replace("@", "&#64;"),
        ADDRESS.replace("@", "&#x40;"),
        ADDRESS.replace("@", "&commat;"),
        ADDRESS.replace("@", "=40"),
        ADDRESS.replace("@", "\uff20"),
        ADDRESS.replace("@", "\ufe6b"),
        "".join(chr(ord(one) + 0xFEE0) for one in ADDRESS),
        ADDRESS.replace("example.", "example\u3002"),
        ADDRESS.replace("example.", "example\uff0e"),
        ADDRESS.replace("example.", "example\uff61"),
        f"{ADDRESS.replace('example.', 'example%E3%80%82')}\u3002",
        ADDRESS.replace("example.", "example\\u3002"),
        ADDRESS.replace("example.", "example&#12290;"),
        f"&lt;{ADDRESS.replace('example.', 'example&#x2e;').replace('a', '&#97;')}&gt;",
        f"&#34;{ADDRESS.replace('example', 'e&#120;ample')}&#34;",
        ADDRESS.replace("example", "exa\u200dmple"),
        ADDRESS.replace("dana", "\ufe0fda\u061c\u034f\u200cna"),
        f'"dana.miller+x"@{ADDRESS.partition("@")[2]}',
        f"1 validation error\nemail\n  Input [type=x, input_value='{ADDRESS}', input_type=str]",
    ],
)
def test_an_address_is_found_in_every_spelling(text):
    assert values(text) == [ADDRESS]


def test_the_hard_ones():
    assert values("jürgen@bücher.de") == ["jürgen@xn--bcher-kva.de"]
    assert values('"dana m"@example.com') == ['"dana m"@example.com']
    assert values("o'brien@example.com") == ["o'brien@example.com"]
    assert values("a@x.com,b@y.com;c@z.com") == ["a@x.com", "b@y.com", "c@z.com"]
    assert values("a%40x.com%2Cb%40y.com") == ["a@x.com", "b@y.com"]
    assert values("dana+1500555000666@example.com") == ["dana+1500555000666@example.com"]


def test_an_ideographic_stop_is_a_dot_or_the_end_of_a_sentence():
    assert values("dana@例え。テスト") == ["dana@xn--r8jz45g.xn--zckzah"]
    assert values("联系dana@mail。example。com。") == ["联系dana@mail.example.com"]
    # Nobody can tell, so a search for either person finds the entry.
    assert values("dana@example.com。谢谢") == ["dana@example.com", "dana@example.com.xn--lg3aa"]
    (found,) = detection.find("dana@mail.example。com")
    assert found.values == ("dana@mail.example", "dana@mail.example.com")


def test_what_is_no_address_is_masked_where_it_may_be_one():
    (found,) = detection.find("x" * 300 + "@example.com")
    assert (found.kind, found.values) == (Kind.EMAIL, ())
    assert list(detection.find("@dana, ratio 3@ and a @ b")) == []


@pytest.mark.parametrize(
    "text",
    [
        "+15005550006",
        "+1 (500) 555-0006",
        "+1-500-555-0006",
        "+1.500.555.0006",
        "call +1 500 555 0006 now",
        "tel:+15005550006",
        "x+15005550006",
        "%2B15005550006",
        "%252B15005550006",
        "%2B1%20500%20555%200006",
        "001 500 555 0006",
        "0015005550006",
        "\uff0b15005550006",
        '"\\u002b15005550006"',
        "٠٠١٥٠٠٥٥٥٠٠٠٦",
    ],
)
def test_a_number_is_found_in_every_spelling(text):
    assert values(text) == ["+15005550006"]


@pytest.mark.parametrize(
    "text",
    [
        "(500) 555-0006",
        "500-555-0006",
        "500.555.0006",
        "020 7946 0018",
        "2026-11-23 500-555-0006",
        "phone: 5005550006",
        "call 5005550006",
        "4111 1111 1111 1111",
    ],
)
def test_national_spellings_are_found_and_understood_with_a_region_only(text):
    assert [found.kind for found in detection.find(text)] == [Kind.PHONE]


def test_a_region_makes_national_spellings_e164():
    pytest.importorskip("phonenumbers")
    assert values("call (650) 253-0000", "US") == ["+16502530000"]
    assert values("Tel. 030 227 32152", "DE") == ["+493022732152"]


@pytest.mark.parametrize(
    "text",
    [
        "2026-11-23 19:00:00",
        "23.11.2026",
        "192.168.100.200",
        "order 1234567890",
        "1700000000.123",
        "01890a5d-ac96-774b-bcce-b302099a8057",
        "/api/images/185543241",
        "GDPR request 4711-2026",
    ],
)
def test_dates_hosts_and_ids_are_no_numbers(text):
    assert list(detection.find(text)) == []


@pytest.mark.parametrize(
    ("text", "hidden"),
    [
        (planted.API_KEY, planted.API_KEY),
        (f"x{planted.SITE_KEY}y", planted.SITE_KEY),
        (planted.SITE_KEY.upper(), planted.SITE_KEY.upper()),
        ("pk%5F" + planted.API_KEY[3:], "pk%5F" + planted.API_KEY[3:]),
        ("pk_" + "a1" * 500, "pk_" + "a1" * 500),
        ("Authorization: Bearer abc.def", "abc.def"),
        ("Klaviyo-API-Key%20abc123", "abc123"),
        ("basic dXNlcjpwYXNz", "dXNlcjpwYXNz"),
        ('{"secret_key": "two words"}', "two words"),
        ('{\\"client_secret\\": \\"abc\\"}', "abc"),
        ("refresh_token=abc&x=1", "abc"),
        ("api-key : zzz", "zzz"),
        ("password%3Dhunter2", "hunter2"),
        ("the token is q8Zr0sdf98sdf7sdf8", "q8Zr0sdf98sdf7sdf8"),
        ("x eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIx.abc", "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIx.abc"),
    ],
)
def test_secrets_are_found(text, hidden):
    assert hidden in [text[start:end] for start, end in secrets.find(text)]


@pytest.mark.parametrize(
    "text",
    ["password reset for the customer", "token expired today", "a public key rotation", "pk_short"],
)
def test_words_about_secrets_are_no_secrets(text):
    assert secrets.find(text) == []


@given(st.text(max_size=300))
def test_findings_are_in_order_and_inside(text):
    end = 0
    for found in detection.find(text):
        assert end <= found.start < found.end <= len(text)
        end = found.end


ADVERSARIAL = {
    "letters": "a",
    "at signs": "@",
    "lone at signs": " @",
    "addresses": "a@b.c ",
    "long tokens": "x" * 639 + "@ ",
    "percents": "%",
    "encoded percents": "%25252540",
    "backslashes": "\\",
    "ampersands": "&#0000",
    "quotes": '"',
    "digits": "1",
    "spaced digits": "1 ",
    "groups": "12-34-5 ",
    "plus": "+1",
    "almost numbers": "+1 2 3 4 5 6x",
    "numbers": "123456789a",
    "keys": "pk_",
    "one long key": "pk_" + "a" * 10_000,
    "telling": "token: x ",
    "telling words": "secret",
    "schemes": "bearer ",
    "web tokens": "eyJ",
}


def steps(text):
    """How many lines and calls of Python the search runs, which no other program changes."""
    count = 0

    def trace(frame, event, arg):
        nonlocal count
        count += 1
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        list(detection.find(text))
        secrets.find(text)
    finally:
        sys.settrace(before)
    return count


@pytest.mark.parametrize("unit", ADVERSARIAL.values(), ids=ADVERSARIAL)
def test_work_grows_no_faster_than_the_text(unit):
    """In Python's own steps here; the patterns' steps below."""
    small, large = (unit * (size // len(unit) + 1) for size in (4_000, 32_000))
    assert steps(large) <= 9 * steps(small) + 1_000


@pytest.mark.parametrize("unit", ADVERSARIAL.values(), ids=ADVERSARIAL)
def test_patterns_take_time_in_proportion(unit):
    """32 times the text takes about 32 times the time, where a quadratic search takes 1,000.

    The best of several runs, and a bound so far off that load on the machine cannot reach it.
    """
    from time import thread_time_ns

    def best(text):
        taken = []
        for _ in range(5):
            begun = thread_time_ns()
            list(detection.find(text))
            secrets.find(text)
            taken.append(thread_time_ns() - begun)
        return max(min(taken), 20_000)

    small, large = (unit * (size // len(unit) + 1) for size in (8_000, 256_000))
    assert best(large) <= 320 * best(small)


def test_random_ids_and_digests_are_no_numbers():
    chance = random.Random(5)
    for _ in range(3_000):
        one = str(uuid.UUID(int=chance.getrandbits(128)))
        digest = f"{chance.getrandbits(128):032x}"
        for text in (one, f"profile:{one}", f"of {one}, done", f"sum:{digest}", f"a{digest}"):
            assert list(detection.find(text)) == [], text


def test_a_number_beside_an_id_is_found():
    text = "01a20e1f-1234-7146-9123-456789012345 0301 2345678"
    assert [text[one.start : one.end][-12:] for one in detection.find(text)] == ["0301 2345678"]
    assert len(list(detection.find("tel 0301234567x"))) == 1


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("+15009000000 0@0", [" "]),
        ("call 500-900-0000 7@shop.example now", ["call ", " ", " now"]),
        ("tel. 5009000000 7@shop.example", ["tel. ", " "]),
        ("tel@500 900 0000 11 now", [" ", " now"]),
        ("7@500 900 0000 11 7@500 900 0000 11", [" ", " ", " "]),
        ("of 12 34567890@shop.example", ["of 12 "]),
    ],
)
def test_a_number_is_found_though_an_address_takes_some_of_its_digits(text, left):
    found, end = [], 0
    for one in detection.find(text):
        found.append(text[end : one.start])
        end = one.end
    assert [piece for piece in (*found, text[end:]) if piece] == left


def test_a_number_before_an_address_with_digits_keeps_its_value():
    phone, address = detection.find("+15009000000 0@shop.example")
    assert (phone.values, address.values) == (("+15009000000",), ("0@shop.example",))
