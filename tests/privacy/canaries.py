"""Planted secrets and personal data in many spellings, each with a mark that no output may hold."""

from __future__ import annotations

import base64
import html
import json
import re
import unicodedata
from urllib.parse import quote, unquote

from hypothesis import strategies as st

# Every canary holds one of these, whatever is done to it.
MARK = re.compile(
    r"zq(?:mail|name|addr|tokn|secr|extn)[0-9a-f]{6}|5ec12e7f[0-9a-f]{6}|1?5009[0-9]{7}"
)

# Ids, digests and pseudonyms are random: of 20,000 calls' some hold what looks like a number.
_RANDOM = re.compile(
    r"[0-9a-f]{8}-(?:[0-9a-f]{4}-){3}[0-9a-f]{12}|(?<=:)[0-9a-f]{32}(?![0-9a-f])"
    r"|(?<=\")[0-9a-f]{16}(?=\")|(?<=:)[0-9a-f]{16}(?=\])"
    # In protobuf there are no quotes, and the next byte may be any: "2" begins an attribute.
    r"|(?<![0-9A-Za-z_])(?:[0-9a-f]{16}|[0-9a-f]{32})(?![0-9A-Za-z])"
    r"|(?<=\n\x10)[0-9a-f]{16}|(?<=:k1:)[0-9a-f]{32}|(?<=:s1:)[0-9a-f]{32}"
)

_hex = st.integers(0, 0xFFFFFF).map("{:06x}".format)


def _wide(text: str) -> str:
    return "".join(chr(ord(one) + 0xFEE0) if "!" <= one <= "~" else one for one in text)


emails = st.builds(
    lambda mark, form: form(f"zqmail{mark}@mail.example.com"),
    _hex,
    st.sampled_from(
        [
            str,
            str.upper,
            str.title,
            lambda text: f"Dana <{text}>",
            lambda text: quote(text, safe=""),
            lambda text: quote(quote(text, safe=""), safe=""),
            lambda text: text.replace("@", "+tag@"),
            lambda text: text.replace("@", "\\u0040"),
            lambda text: text.replace("@", "&#64;"),
            lambda text: text.replace("@", "=40"),
            lambda text: text.replace("mail.example", "bücher"),
            lambda text: text.replace(".", "。"),
            lambda text: text.replace(".com", "｡com."),
            lambda text: text.replace("mail.", "ma\u200dil."),
            lambda text: text.replace(".com", "&#46;com").replace("z", "&#122;"),
            lambda text: f"MAILTO:{quote(text)}?subject=x",
            lambda text: f'"{text.partition("@")[0]} x"@example.com',
            _wide,
            html.escape,
            lambda text: f'equals(email,"{text}")',
            lambda text: quote(f'any(email,["{text}","b@example.com"])'),
            lambda text: json.dumps({"email": text}),
            lambda text: json.dumps(json.dumps({"profile": {"email": text}})),
            lambda text: f"1 validation error for P\nemail\n  bad [input_value='{text}']",
            lambda text: f"https://shop.example/u?e={quote(text)}&x=1",
            lambda text: "x" * 980 + " " + text,
        ]
    ),
)
phones = st.builds(
    lambda number, form: form(f"5009{number:07d}"),
    st.integers(0, 9_999_999),
    st.sampled_from(
        [
            lambda digits: f"+1{digits}"[:12],
            lambda digits: f"%2B1{digits}",
            lambda digits: f"+1 ({digits[:3]}) {digits[3:]}",
            lambda digits: f"001{digits}",
            lambda digits: f"+1{digits} and more",
            lambda digits: json.dumps({"phone_number": f"+1{digits}"}),
            lambda digits: f"phone: {digits}",
            lambda digits: f'equals(phone_number,"+1{digits}")',
        ]
    ),
)
_keys = st.builds(lambda mark: "5ec12e7f" + mark + "0123456789abcdef0123", _hex)
secrets = st.one_of(
    st.builds(
        lambda key, form: form(key),
        _keys,
        st.sampled_from(
            [
                lambda key: f"pk_{key}",
                lambda key: f"pk_AbC123_{key}",
                lambda key: f"PK_{key.upper()}",
                lambda key: f"pk%5F{key}",
                lambda key: f"Klaviyo-API-Key pk_{key}",
                lambda key: f"(pk_{key})",
            ]
        ),
    ),
    st.builds(
        lambda mark, form: form(f"zqtokn{mark}0a1b2c3d4e"),
        _hex,
        st.sampled_from(
            [
                "Bearer {}".format,
                "authorization=Bearer%20{}".format,
                '{{"access_token": "{}"}}'.format,
                '{{\\"refresh_token\\": \\"{}\\"}}'.format,
                "api_key={}&x=1".format,
                "the token is {}".format,
                "eyJhbGciOiJIUzI1NiJ9.{}.sig".format,
            ]
        ),
    ),
    st.builds('"secret_key":"zqsecr{} two words"'.format, _hex),
)
names = st.builds("Zqname{} Müller".format, _hex)
addresses = st.builds("12 Zqaddr{} Street".format, _hex)
external_ids = st.builds("zqextn{}".format, _hex)

found_in_text = st.one_of(emails, phones, secrets)
"""What is recognised in any text."""
anything = st.one_of(found_in_text, names, addresses)
"""What may stand in bodies, answers and texts of exceptions, none of which is kept."""


def _encoded(word: str) -> set[bytes]:
    """How a mark's fixed beginning looks in base64 at each of three offsets, in hex and reversed."""
    plain = word.encode()
    found = {plain.hex().encode(), plain[::-1]}
    for offset in range(3):
        whole = base64.b64encode(b"\0" * offset + plain)
        # The first characters are of what stands before it, too, and the last of what follows.
        found.add(whole[-(-offset * 8 // 6) : (offset + len(plain)) * 8 // 6])
    return found


_WORDS = ("zqmail", "zqname", "zqaddr", "zqtokn", "zqsecr", "zqextn", "5ec12e7f")
# Seven of base64's characters: by chance they stand in one of 4,000,000,000,000 places.
_ENCODED = re.compile(b"|".join(sorted(
    {one for word in _WORDS for case in (word, word.title(), word.upper()) for one in _encoded(case)
     if len(one) >= 7 or one == word[::-1].encode()}
)))  # fmt: skip


def leaks(output: str | bytes) -> list[str]:
    """The canaries in an output.

    In any case, width, percent-encoding, JSON's escapes, UTF-16, base64, hexadecimal, reversed, or
    with separators in numbers.
    """
    raw = output.encode("utf-8", "surrogatepass") if isinstance(output, str) else output
    found = [one.decode() for one in _ENCODED.findall(raw)]
    texts = [raw.decode("utf-8", "replace")]
    if b"\0" in raw:
        texts.append(raw.replace(b"\0", b"").decode("utf-8", "replace"))
    for text in texts:
        found += _leaks(_RANDOM.sub("", text))
    return sorted(set(found))


def _leaks(text: str) -> list[str]:
    found = MARK.findall(text.lower())
    if "%" in text:
        found += MARK.findall(unquote(unquote(text)).lower())
    if not text.isascii() or "\\u" in text:
        plain = re.sub(r"\\+u([0-9a-fA-F]{4})", lambda match: chr(int(match[1], 16)), text)
        found += MARK.findall(unicodedata.normalize("NFKC", plain).lower())
    return found + re.findall(r"\(?500\)?[ -]?9\d{2}[ -]?\d{4}", text)
